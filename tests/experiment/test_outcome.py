"""What an outcome says of itself: intervals, means over splits, its dictionary and its report."""

from __future__ import annotations

import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import relative_error
from scipy import stats

from w2s_jax import InputError, WeakToStrong, moments, weak_to_strong_splits
from w2s_jax.experiment.from_moments import weak_to_strong_from_moments
from w2s_jax.experiment.outcome import t_quantile


@cache
def outcome() -> WeakToStrong:
    rng = np.random.default_rng(0)
    h_s = rng.standard_normal((120, 12), np.float32)
    h_w = h_s[:, :5] + 0.6 * rng.standard_normal((120, 5), np.float32)
    y = np.sign(h_s @ rng.standard_normal(12, np.float32))
    return weak_to_strong_splits(
        h_w, h_s, y, n_labelled=30, n_student=44, n_test=46, repeats=4, weak_ridge=0.02, strong_ridge=0.05
    )


@pytest.mark.parametrize("freedom", [1, 2, 9, 99, 9999])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
def test_t_quantile_is_scipys(level, freedom):
    """The point that a share `level` of Student's t lies within."""
    assert relative_error(t_quantile(level, freedom), stats.t.ppf((1 + level) / 2, freedom)) <= 1e-12


def test_interval_is_students():
    """Mean and standard error over splits times the quantile of t with one degree of freedom less; NaN for one split."""
    found = outcome()
    values = np.asarray(found.student_error, np.float64)
    expected = stats.t.interval(0.9, 3, values.mean(), stats.sem(values))
    assert relative_error(np.array(found.interval("student_error", 0.9)), np.array(expected)) <= 1e-5
    assert np.isfinite(found.interval("pgr")).all()
    assert np.isnan(jax.tree.map(lambda x: x[:1], found).interval("gap")).all()


@pytest.mark.everything
@pytest.mark.parametrize("label", [1.0, 3.3])
def test_no_share_is_recovered_of_constant_labels(label):
    """Errors that are rounding of the labels are none, from rows and from moments; a head without intercept has errors."""
    rng = np.random.default_rng(0)
    h_s = rng.standard_normal((120, 6), np.float32)
    y = np.full(120, label, np.float32)
    of_rows = {
        bias: weak_to_strong_splits(h_s[:, :3], h_s, y, n_labelled=30, n_test=40, repeats=2, bias=bias)
        for bias in (True, False)
    }
    splits = [moments(*(x[i::3] for x in (h_s[:, :3], h_s, y)), bias=True) for i in range(3)]
    for found in (of_rows[True], weak_to_strong_from_moments(*splits)):
        assert not np.any(found.weak_error)
        assert np.isnan(found.pgr).all()
    assert np.isfinite(of_rows[False].pgr).all()


def test_mean_is_over_splits():
    """Every field becomes its mean; PGR is then that of the mean errors; a single outcome stays as it is."""
    found = outcome()
    mean = found.mean()
    for name in ("student_error", "gap", "misfit", "agreement", "theorem_gap", "converged"):
        np.testing.assert_allclose(getattr(mean, name), np.mean(np.asarray(getattr(found, name))), rtol=1e-6)
    np.testing.assert_allclose(mean.predicted.gap, np.mean(np.asarray(found.predicted.gap)), rtol=1e-6)
    lost = np.mean(found.weak_error) - np.mean(found.ceiling_error)
    np.testing.assert_allclose(mean.pgr, (np.mean(found.weak_error) - np.mean(found.student_error)) / lost, rtol=1e-4)
    assert mean.mean() is mean


def test_dictionary_is_json():
    """`to_dict` holds what was measured and predicted, as JSON takes it, and leaves out what was not."""
    found = outcome()
    back = json.loads(json.dumps(found.to_dict()))
    np.testing.assert_array_equal(np.float32(back["student_error"]), found.student_error)
    np.testing.assert_array_equal(np.float32(back["predicted"]["gap"]), found.predicted.gap)
    np.testing.assert_array_equal(np.float32(back["pgr"]), found.pgr)
    assert back["converged"] == [True] * 4
    assert "weak_cross_entropy" not in back
    assert isinstance(json.loads(json.dumps(found.mean().to_dict()))["gap"], float)


@pytest.mark.usefixtures("unchecked")
def test_report_shows_measured_and_predicted():
    """One line per quantity: mean, interval over splits, and the prediction where there is one."""
    found = outcome()
    lines = {line[:24].strip(): line[24:].split() for line in repr(found).splitlines()}
    low, high = found.interval("gap")
    mean = lambda x: f"{float(jnp.mean(x)):.4g}"
    assert lines["gap"] == [mean(found.gap), f"[{low:.4g},", f"{high:.4g}]", mean(found.predicted.gap)]
    assert lines["student error"][-1] == mean(found.predicted.student_error)
    assert lines["weak error"][-1] == mean(found.predicted.weak_error)
    assert lines["misfit"][-1].endswith("]")
    assert lines["theorem gap"] == [mean(found.theorem_gap)]
    assert "student cross entropy" not in lines
    single = jax.device_get(found.mean())
    line = ["weak", "error", mean(found.weak_error), mean(found.predicted.weak_error)]
    assert repr(single).splitlines()[1].split() == line
    assert repr(jax.tree.map(lambda _: None, found)) == "WeakToStrong(...)"


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named():
    """A quantity that was not measured, and a level that is no probability, are one sentence each."""
    with pytest.raises(InputError, match="name must be that of a measured quantity, got 'weak_cross"):
        outcome().interval("weak_cross_entropy")
    with pytest.raises(InputError, match="level must be between 0 and 1, got 95"):
        outcome().interval("gap", 95)
