"""Figures: what is drawn are the results' own numbers; read without colour, in light and dark; faults in one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import w2s_jax as w2s
from w2s_jax import InputError, SupervisorTable, WeakToStrong
from w2s_jax._core.figures import COLOURS, MARKERS, style
from w2s_jax.experiment import Predicted, plot_against_ranking, plot_predicted
from w2s_jax.ranking import plot_layers, plot_ranking
from w2s_jax.ranking.figures import draw_table
from w2s_jax.studies import Cell, Verification, plot_verification
from w2s_jax.theory import decomposability, plot_spectrum

plt = pytest.importorskip("matplotlib.pyplot")

NAMES = ("net:layer10", "net:layer2", "other:layer0", "words")
SCORES = {"gap_op": np.array([0.4, 0.1, 0.3, 0.2]), "cka": np.array([0.2, 0.9, 0.8, 0.7])}
ERRORS = {"gap_op": np.array([0.01, 0.02, np.nan, 0.03]), "cka": np.full(4, 0.1)}
VALUES = np.array([4.0, 2.0, 0.5, 0.5, 0.0])


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


def table(strong: tuple[str, ...] = ("s",) * 4) -> SupervisorTable:
    return SupervisorTable(NAMES, strong, (8,) * 4, SCORES, ERRORS, "gap_op", {}).sort_by("gap_op")


def experiment(error: float) -> WeakToStrong:
    both = np.array([error - 0.01, error + 0.01])
    return WeakToStrong(
        both, both, both, *(np.zeros(2) for _ in range(5)), predicted=Predicted(both, 2 * both, both, both)
    )


OUTCOMES = {name: experiment(x) for name, x in zip(NAMES, (0.4, 0.2, 0.3, 0.1), strict=True)}


def verification() -> Verification:
    one = dict.fromkeys(("weak_error", "student_error", "ceiling_error", "gap"), 1.0)
    cells = [Cell("low", n, 100, one, one, one, (0.1, 0.09, 0.11), (0.2, 0.09, 0.11)) for n in (250, 500)]
    return Verification(tuple(cells), {"low": (-0.5, 0.1)}, {"low": ()})


PLOTS: dict[str, Callable[..., Any]] = {
    "ranking": lambda ax=None: plot_ranking(table(), ax=ax),
    "layers": lambda ax=None: plot_layers(table(), ax=ax),
    "predicted": lambda ax=None: plot_predicted(OUTCOMES, ax=ax),
    "against ranking": lambda ax=None: plot_against_ranking(OUTCOMES, table(), ax=ax),
    "spectrum": lambda ax=None: plot_spectrum(VALUES, n=10, rank=2, ridge=0.01, ax=ax),
    "verification": lambda ax=None: plot_verification(verification(), "low", ax=ax),
}


def points(container: Any) -> tuple[np.ndarray, np.ndarray]:
    line = container[0] if hasattr(container, "lines") else container
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_axes_are_the_given_ones_or_new(plot: Callable[..., Any]):
    """A new figure is one that notebooks show; axes of the user's stay in their figure."""
    plt.close("all")  # of tests before this one
    ax = plot()
    assert plt.get_fignums() == [ax.figure.number]
    _, given = plt.subplots()
    assert plot(ax=given) is given
    assert len(plt.get_fignums()) == 2


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_dark_mode(plot: Callable[..., Any]):
    """Text, ticks and legends take the style's colours, and nothing black is drawn on black."""
    with plt.style.context("dark_background"):
        ax = plot()
    legend = ax.get_legend()
    texts = [ax.xaxis.label, ax.yaxis.label, *ax.get_xticklabels(), *(legend.get_texts() if legend else ())]
    assert {text.get_color() for text in texts} == {"white"}
    assert ax.get_facecolor() == ax.figure.get_facecolor() == (0, 0, 0, 1)
    drawn = [line.get_color() for line in ax.get_lines()]
    assert not {"black", "k", "#000000", "0"} & {str(colour) for colour in drawn}


def test_series_differ_without_colour():
    """Markers and dashes tell series apart in grey, as many as there are colours."""
    looks = [style(i) for i in range(len(COLOURS))]
    assert len({look["marker"] for look in looks}) == len({str(look["linestyle"]) for look in looks}) == len(looks)
    assert len(set(MARKERS)) == len(MARKERS)


def test_ranking_has_the_tables_order_and_errors():
    """The best on top; scores with one standard error on either side, none where it is not known."""
    ax = plot_ranking(table())
    assert [label.get_text() for label in ax.get_yticklabels()] == list(table().names)
    assert ax.yaxis_inverted()
    x, y = points(ax.containers[0])
    np.testing.assert_allclose(x, table()["gap_op"])
    np.testing.assert_allclose(y, range(4))
    (bars,) = ax.containers[0].lines[2]
    spans = [np.ptp(segment[:, 0]) for segment in bars.get_segments()]
    np.testing.assert_allclose(spans, 2 * np.nan_to_num(table().se("gap_op")))
    assert ax.get_xlabel() == "gap norm op (± standard error)"


def test_ranking_names_several_strong_models():
    ax = plot_ranking(table(("s", "t", "s", "t")))
    assert "words → t" in [label.get_text() for label in ax.get_yticklabels()]


def test_layers_are_lines_by_network():
    """A line per network by the number of the layer, not by its text; a model without layers is a level line."""
    ax = plot_layers(table(), "cka")
    lines = dict(zip(ax.get_legend_handles_labels()[1], ax.get_legend_handles_labels()[0], strict=True))
    assert sorted(lines) == ["net", "other", "words"]
    x, y = points(lines["net"])
    assert (x.tolist(), y.tolist()) == ([2, 10], [0.9, 0.2])
    assert set(lines["words"].get_ydata()) == {0.7}


def test_predictions_are_drawn_over_measurements():
    """Means over splits, four quantities, and the diagonal."""
    ax = plot_predicted(OUTCOMES)
    assert ax.get_legend_handles_labels()[1] == ["as predicted", "weak error", "student error", "ceiling error", "gap"]
    x, y = points(ax.containers[1])
    np.testing.assert_allclose((x, y), ((0.8, 0.4, 0.6, 0.2), (0.4, 0.2, 0.3, 0.1)))
    (bars,) = ax.containers[1].lines[2]
    low, high = OUTCOMES["words"].interval("student_error")
    np.testing.assert_allclose(sorted(bars.get_segments()[3][:, 1]), (low, high))


def test_measurements_are_drawn_over_scores():
    """By teacher's name, whatever the order of either; a teacher without an experiment is left out."""
    ax = plot_against_ranking(OUTCOMES, table())
    assert ax.get_title() == "Spearman 0.80 over 4 teachers"
    x, y = points(ax.containers[0])
    assert (x.tolist(), np.round(y, 6).tolist()) == ([0.1, 0.4], [0.2, 0.4])  # net's layers 2 and 10
    fewer = {name: OUTCOMES[name] for name in NAMES[:3]}
    assert "over 3 teachers" in plot_against_ranking(fewer, table()).get_title()


@pytest.mark.parametrize("cut", [{"rank": 2}, {"threshold": 0.2}])
def test_spectra_have_cut_and_gamma(cut: dict[str, Any]):
    """V and tail, the cut between them, gamma as `tail_gamma` has it; eigenvalues of 0 have no place."""
    ax = plot_spectrum(w2s.spectrum(np.diag(VALUES), n=10), **cut)
    handles, labels = ax.get_legend_handles_labels()
    assert labels == ["V: 2 directions", "tail: 2 directions", "cut", "gamma = 0.1"]
    principal, tail, line, gamma = (points(handle) for handle in handles)
    assert (principal[0].tolist(), tail[0].tolist()) == ([1, 2], [3, 4])
    np.testing.assert_allclose((*principal[1], *tail[1]), VALUES[:4], rtol=1e-6)
    assert set(line[0]) == {2.5}
    np.testing.assert_allclose(gamma[1], 0.1, rtol=1e-6)


def test_stand_ins_of_leading_spectra_are_not_drawn():
    """They count for gamma, but have no place of their own."""
    h = np.random.default_rng(0).standard_normal((50, 40))
    spectrum = w2s.spectrum(h.T @ h / 50, n=50, rank=4)
    handles, labels = plot_spectrum(spectrum, rank=3).get_legend_handles_labels()
    assert labels[:2] == ["V: 3 directions", "tail: 37 directions"]
    assert [len(points(handle)[0]) for handle in handles[:2]] == [3, 1]


@pytest.mark.everything
def test_spectra_take_a_report():
    """The rank that `decomposability` chose is the cut."""
    h = np.random.default_rng(0).standard_normal((400, 6)) * np.array([3, 2, 1, 0.1, 0.1, 0.1])
    report = decomposability(h[:200], h[200:])
    ax = plot_spectrum(w2s.spectrum(h.T @ h / 400, n=400), rank=report)
    assert f"V: {report.rank} direction" in ax.get_legend_handles_labels()[1][0]


def test_a_table_is_drawn_whole(tmp_path):
    """One panel per score, the one that sorts first."""
    draw_table(table(), tmp_path / "t.svg")
    text = (tmp_path / "t.svg").read_text()
    assert "gap norm op (sorted)" in text and "linear CKA" in text


FAULTS = {
    "column": (lambda: plot_ranking(table(), "nothing"), "column must be one of gap_op, cka, got 'nothing'"),
    "no layers": (
        lambda: plot_layers(SupervisorTable(("a",), ("s",), (8,), {"cka": np.ones(1)}, {"cka": np.ones(1)}, "cka", {})),
        "names must say layers, as in minilm:layer4, got a",
    ),
    "no predictions": (
        lambda: plot_predicted(WeakToStrong(*(np.zeros(2) for _ in range(8)))),
        "outcomes must have predictions",
    ),
    "no outcomes": (lambda: plot_predicted({}), "outcomes must be experiments by name, at least one, got none"),
    "other names": (lambda: plot_against_ranking({"x": OUTCOMES["words"]}, table()), "named as the table's teachers"),
    "several strong": (
        lambda: plot_against_ranking(OUTCOMES, table(("s", "t", "s", "t"))),
        "table must be of one strong model, got s, t",
    ),
    "quantity": (lambda: plot_against_ranking(OUTCOMES, table(), quantity="x"), "name must be that of a measured"),
    "two cuts": (lambda: plot_spectrum(VALUES, n=10, rank=1, threshold=0.1), "a threshold or a rank, got both"),
    "no n": (lambda: plot_spectrum(VALUES, rank=1), "n, the number of rows, must be given"),
    "a number": (lambda: plot_spectrum(3, n=10), r"eigenvalues of shape \(k,\), got shape \(\)"),
    "scenario": (lambda: plot_verification(verification(), "spiked"), "name must be one of low, got 'spiked'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_one_sentence(fault: str):
    plot, message = FAULTS[fault]
    with pytest.raises(InputError, match=message):
        plot()


@pytest.mark.everything
def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(InputError, match=r"a figure needs the matplotlib package.*: pip install 'w2s_jax\[plot\]'"):
        plot_ranking(table())
