"""The demo on a small budget: its experiment against dense NumPy, its tables, report and figure."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import pair
from reference import ridge_head

from w2s_jax._core.checks import InputError
from w2s_jax.studies.demo import DemoConfig, DemoResult, Measured, measure_students, run_demo

SMALL = DemoConfig(
    encoder_images=200,
    test_images=1197,
    teaching_images=160,
    splits=2,
    widths=(4, 12),
    steps=30,
    strong_width=32,
    strong_hidden=64,
)
ROWS = np.arange(0, 60), np.arange(60, 160), np.arange(160, 240)


@pytest.fixture(scope="module")
def result() -> DemoResult:
    return run_demo(seed=1, progress=False, config=SMALL)


def dense_experiment(h_w: np.ndarray, h_s: np.ndarray, y: np.ndarray, beta: float) -> Measured:
    """Heads with intercepts on representations of unit variance over D~ and D^, measured on the test rows."""
    teach, learn, test = ROWS
    h_w, h_s = (h / np.sqrt(h[:160].var(axis=0).sum()) for h in (h_w, h_s))

    def fitted(h: np.ndarray, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        centred, mean = h - h[rows].mean(axis=0), labels.mean()
        return centred @ ridge_head(centred[rows], labels - mean, beta) + mean

    weak = fitted(h_w, teach, y[teach])
    student, ceiling = fitted(h_s, learn, weak[learn]), fitted(h_s, learn, y[learn])
    errors = [np.mean((f[test] - y[test]) ** 2) for f in (weak, student, ceiling)]
    accuracies = [np.mean(np.sign(f[test]) == y[test]) for f in (weak, student, ceiling)]
    return Measured(*(*errors, np.mean((student[test] - ceiling[test]) ** 2), *accuracies))


@pytest.mark.everything
@pytest.mark.parametrize("beta", [1e-3, 1e-1])
def test_the_experiments_are_the_dense_ones(beta: float) -> None:
    h_w, h_s, y = pair("generic", n=240, d_w=9, d_s=20)
    h_w, h_s, y = h_w + 3, 5 * h_s, np.where(y[:, 0] > 0.4, 1.0, -1.0)
    weak = {"narrow": h_w[:, :6].astype(np.float32), "wide": h_w.astype(np.float32)}
    got = measure_students(weak, h_s.astype(np.float32), y, [ROWS], beta)
    for i, h in enumerate(weak.values()):
        for name, value in dense_experiment(h.astype(float), h_s, y, beta)._asdict().items():
            np.testing.assert_allclose(getattr(got, name)[i, 0], value, rtol=2e-4, err_msg=name)


@pytest.mark.everything
def test_result_has_every_model_and_finite_numbers(result: DemoResult) -> None:
    kinds = ("full", "coarse", "half", "few", "brief")
    assert result.names == tuple(f"mlp{width}/{kind}" for width in SMALL.widths for kind in kinds)
    assert set(result.label_free.names) == set(result.labelled.names) == set(result.names)
    assert result.label_free.columns == ["expected_error", "expected_gap", "gap_op", "gap_fro", "cka"]
    assert {"trial_error", "predicted_gap"} < set(result.labelled.columns)
    assert result.label_free.settings["rows"] == 400
    assert result.labelled.settings["n_labelled"] == SMALL.teaching_images
    for values in result.measured:
        assert values.shape == (len(result.names), SMALL.splits)
        assert np.isfinite(values).all()
    assert (result.measured.ceiling_error == result.measured.ceiling_error[0]).all()  # it has no weak model
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.everything
def test_scores_follow_the_names_and_not_the_tables_order(result: DemoResult) -> None:
    for table, column in ((result.label_free, "expected_error"), (result.labelled, "predicted_error")):
        scores = dict(zip(result.names, result.score(column)[0], strict=True))
        assert scores == dict(zip(table.names, table[column], strict=True))
        assert list(table.names) != list(result.names)


def test_correlations_are_spearmans_with_the_measured(result: DemoResult) -> None:
    free, labelled = result.correlations()
    assert [row.score for row in labelled] == ["predicted_error", "trial_error", "posterior_error", "predicted_gap"]
    for row in free + labelled:
        score = result.score(row.score)[0]
        for got, measured in ((row.with_error, result.mean.student_error), (row.with_gap, result.mean.gap)):
            ranks = [values.argsort().argsort() for values in (score, measured)]  # there are no ties
            np.testing.assert_allclose(got, np.corrcoef(ranks[0], ranks[1])[0, 1], atol=1e-12)


def test_report_fits_and_names_every_model_and_score(result: DemoResult) -> None:
    report = str(result)
    assert max(map(len, report.splitlines())) <= 100
    for word in (*result.names, *result.labelled.columns, f"{result.mean.student_error.min():.4f}"):
        assert word in report


@pytest.mark.everything
@pytest.mark.parametrize("ending", ["png", "pdf"])
def test_figure_is_written(result: DemoResult, tmp_path: Path, ending: str) -> None:
    result.figure(tmp_path / f"demo.{ending}")
    assert (tmp_path / f"demo.{ending}").stat().st_size > 10_000


@pytest.mark.parametrize("missing", ["sklearn.datasets", "matplotlib.figure"])
def test_missing_extra_is_one_sentence(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=r"w2s demo needs scikit-learn and matplotlib: pip install 'w2s_jax\[demo\]'"):
        run_demo(config=dataclasses.replace(SMALL, splits=2))


@pytest.mark.everything
def test_importing_the_demo_loads_no_extra() -> None:
    code = "import sys, w2s_jax.studies.demo; sys.exit(any(m in sys.modules for m in ('sklearn', 'matplotlib')))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
