"""`w2s select`: files in, the chosen rows' numbers out, and what was chosen printed; whatever is wrong is one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from w2s_jax import select
from w2s_jax.cli import main

N = 40
RNG = np.random.default_rng(0)
STRONG = RNG.standard_normal((N, 6)).astype(np.float32)
WEAK = (STRONG[:, :3] + RNG.standard_normal((N, 3))).astype(np.float32)
P = np.round(1 / (1 + np.exp(-2 * WEAK[:, 0])), 3)
HARD = np.where(P > 0.5, 1.0, 0.0)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchecked: None) -> Path:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    monkeypatch.chdir(tmp_path)
    np.save("strong.npy", STRONG)
    np.save("weak.npy", WEAK)
    np.save("p.npy", P)
    return tmp_path


FILES = ["--strong", "strong.npy", "--weak", "weak.npy", "--weak-labels", "p.npy"]


def choose(*extra: str, out: str = "rows.npy") -> int:
    return main(["select", *FILES, "--score", "rads", "--out", out, "--quiet", *extra])


SCORES = {
    "rads": lambda: select.rads_scores(WEAK, STRONG, HARD),
    "confidence": lambda: select.weak_confidence(P),
    "overlap": lambda: select.overlap_density(STRONG, select.weak_confidence(P)).scores,
    "agreement": lambda: select.neighbour_agreement(STRONG, HARD, 7),
}


@pytest.mark.everything
@pytest.mark.parametrize("score", SCORES)
def test_the_file_has_the_rows_of_the_score(capsys, score):
    assert choose("--score", score, "--neighbours", "7", "--keep", "15") == 0
    wanted = select.select_rows(np.asarray(SCORES[score]()), 15, classes=HARD.astype(int))
    np.testing.assert_array_equal(np.load("rows.npy"), wanted.rows)
    assert capsys.readouterr() == (f"{score}: {wanted}\n", "")


def test_scores_that_tie_are_said(capsys):
    """Of constant weak labels, say: the order of the file then chooses."""
    np.save("ones.npy", np.ones(N))
    assert choose("--weak-labels", "ones.npy") == 0
    said = "w2s select: 40 rows have the same score where the choice ends: their order, not their score, has chosen 20 of them\n"
    assert capsys.readouterr().err == said


def test_a_mark_of_no_label_is_no_class(capsys):
    """As in a ranking; with `--unlabelled` its rows are left out, and one row is one row."""
    np.save("marked.npy", np.where(np.arange(N) % 5, HARD, -1))
    assert choose("--weak-labels", "marked.npy") == 2
    said = "w2s select: weak labels are -1 in 8 rows and classes from 0 to 1 in the others: where -1 means unlabelled make it NaN"
    assert capsys.readouterr().err.startswith(said)
    assert choose("--weak-labels", "marked.npy", "--unlabelled", "-1", "--keep", "1") == 0
    assert "rads: 1 of 32 rows" in capsys.readouterr().out


@pytest.mark.everything
def test_text_classes_rows_without_a_label_and_other_formats(capsys):
    """What is left out is never chosen; numbers are those of the files' rows; classes go by their names."""
    names = np.where(HARD > 0, "right", "wrong").astype(object)
    names[::4] = "?"
    Path("y.csv").write_text("label\n" + "\n".join(names) + "\n")
    labels = ["--weak-labels", "y.csv:label", "--unlabelled", "?", "--score", "rads", "--balanced"]
    for out in ("rows.txt", "rows.csv"):
        assert choose(*labels, out=out) == 0
    there = np.nonzero(names != "?")[0]
    scores = np.full(N, np.nan)
    scores[there] = select.rads_scores(WEAK[there], STRONG[there], 1 - HARD[there])  # "right" comes first
    wanted = select.select_rows(scores, classes=names.astype(str), balanced=True)
    assert np.loadtxt("rows.txt", dtype=int).tolist() == wanted.rows.tolist()
    table = np.genfromtxt("rows.csv", delimiter=",", names=True)
    np.testing.assert_allclose(table["score"], scores[wanted.rows], rtol=1e-4)
    said = capsys.readouterr().out
    assert "classes of the weak labels: 0 = right, 1 = wrong" in said
    assert f"rads: {wanted}" in said


@pytest.mark.everything
def test_networks_take_the_weak_side(capsys):
    assert choose("--score", "rads-mlp", "--seed", "3") == 0
    said = select.mlp_predictions(WEAK, HARD, seed=3)
    wanted = select.select_rows(np.asarray(select.rads_scores(None, STRONG, HARD, weak_part=said)))
    np.testing.assert_array_equal(np.load("rows.npy"), wanted.rows)


FAULTS = {
    "suffix": (["--out", "rows.json"], "--out"),
    "no folder": (["--out", "none/rows.npy"], "none"),
    "missing file": (["--strong", "none.npy"], "none.npy"),
    "rows": (["--weak", "short.npy"], "short.npy"),
    "ids": (["--strong", "b.safetensors:h", "--weak", "a.safetensors:h"], "row 0 is"),
    "real labels": (["--weak-labels", "real.npy"], "probabilities"),
    "keep": (["--keep", "41"], "keep"),
    "half a row": (["--keep", "1.5"], "keep"),
    "all of one": (["--keep", "1.0"], "keep must be a share between 0 and 1 or an integer from 1 to 40, got 1.0"),
    "k": (["--score", "agreement", "--neighbours", "40"], "k must"),
    "confidence of classes": (["--score", "confidence", "--weak-labels", "signs.npy"], "probabilities"),
    "confidence of hard classes": (
        ["--score", "confidence", "--weak-labels", "hard.npy"],
        "probabilities, got classes",
    ),
    "overlap of hard classes": (["--score", "overlap", "--weak-labels", "one_hot.npy"], "probabilities, got classes"),
    "nan": (["--strong", "nan.npy"], "nan.npy"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_one_line(capsys, fault):
    """And nothing is written."""
    np.save("short.npy", WEAK[:30])
    np.save("real.npy", 3 * STRONG[:, 0])
    np.save("signs.npy", 2 * HARD - 1)
    np.save("hard.npy", HARD)
    np.save("one_hot.npy", np.eye(2)[HARD.astype(int)])
    np.save("nan.npy", np.where(STRONG > 2, np.nan, STRONG))
    for name, first in (("a", 0), ("b", 1)):
        save_file({"h": STRONG, "ids": np.arange(first, N + first)}, f"{name}.safetensors")
    before = set(Path().rglob("*"))
    extra, named = FAULTS[fault]
    assert choose(*extra) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("w2s select: ") and named in err
    assert set(Path().rglob("*")) == before


def test_a_share_is_a_number(capsys):
    with pytest.raises(SystemExit):
        choose("--keep", "half")
    assert "argument --keep: must be a share below 1 or a number of rows, got 'half'" in capsys.readouterr().err


@pytest.mark.everything
def test_a_score_says_which_file_it_needs(capsys):
    assert main(["select", "--weak-labels", "p.npy", "--score", "rads", "--out", "rows.npy"]) == 2
    assert capsys.readouterr().err == "w2s select: --score rads needs --weak and --strong\n"
    assert main(["select", "--weak-labels", "p.npy", "--score", "confidence", "--out", "rows.npy"]) == 0
