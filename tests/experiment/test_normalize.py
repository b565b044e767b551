"""Features on one scale: factors from the rows that a head is trained on, the same on rows and on moments."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from conftest import relative_error

from w2s_jax import InputError, moments, weak_to_strong, weak_to_strong_from_moments, weak_to_strong_splits

RNG = np.random.default_rng(0)
RIDGES = {"weak_ridge": 1e-2, "strong_ridge": 1e-3}
MEASURED = ("weak_error", "student_error", "ceiling_error", "gap", "misfit", "misfit_in_sample", "theorem_gap")


def splits(massive: float = 300.0) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Three splits of 80 rows; a strong channel is `massive` times the others about a mean of as much, and one is dead."""
    z = RNG.standard_normal((240, 4))
    see = lambda d: z @ RNG.standard_normal((4, d)) / 2 + 0.3 * RNG.standard_normal((240, d)) + 1
    h_w, h_s = see(9), see(14)
    h_s[:, 3] = massive * (RNG.standard_normal(240) + 2)
    h_s[:, 5] = 7.0
    rows = h_w, h_s, z[:, :2] + 0.1 * RNG.standard_normal((240, 2))
    return [tuple(x[i : i + 80] for x in rows) for i in (0, 80, 160)]


def factors(h: np.ndarray, normalize: str) -> np.ndarray:
    """By the definition: what `reference.normalized` multiplies a centred feature by."""
    seen, centred = reference.normalized(h, normalize == "features"), h - h.mean(0)
    return np.linalg.norm(seen, axis=0) / np.where(centred.any(0), np.linalg.norm(centred, axis=0), 1)


@pytest.mark.everything
@pytest.mark.parametrize("normalize", ["scale", "features"])
def test_an_experiment_is_that_of_scaled_rows(x64, normalize):
    """Weak features are scaled by D~, strong ones by D^; from rows, from moments, and over random splits."""
    a, b, c = splits()
    f_w, f_s = factors(a[0], normalize), factors(b[1], normalize)
    want = weak_to_strong(*((h_w * f_w, h_s * f_s, y) for h_w, h_s, y in (a, b, c)), **RIDGES, normalize="none")
    of_rows = weak_to_strong(a, b, c, **RIDGES, normalize=normalize)
    of_moments = weak_to_strong_from_moments(
        *(moments(*s, bias=True) for s in (a, b, c)), **RIDGES, normalize=normalize
    )
    for found in (of_rows, of_moments):
        for name in MEASURED:
            assert relative_error(getattr(found, name), getattr(want, name)) < 1e-8, name
        for name in found.predicted._fields:
            assert relative_error(getattr(found.predicted, name), getattr(want.predicted, name)) < 1e-8, name
    h_w, h_s, y = (np.concatenate(parts) for parts in zip(a, b, c, strict=True))
    over = weak_to_strong_splits(h_w, h_s, y, n_labelled=80, n_test=80, repeats=2, **RIDGES, normalize=normalize)
    assert ((over.ceiling_error < 0.2) == (normalize == "features")).all()


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("normalize", ["none", "scale", "features"])
def test_rows_of_unit_norm_are_divided_after_scaling(x64, normalize):
    """About the means and by the scales of D~ and D^; then all are of one scale again."""
    a, b, c = splits()
    seen = [
        (reference.unit_rows(h_w, normalize, a[0]), reference.unit_rows(h_s, normalize, b[1]), y)
        for h_w, h_s, y in (a, b, c)
    ]
    common = "none" if normalize == "none" else "scale"
    want = weak_to_strong(*seen, **RIDGES, normalize=common)
    found = weak_to_strong(a, b, c, **RIDGES, normalize=normalize, rows="unit")
    for name in MEASURED:
        assert relative_error(getattr(found, name), getattr(want, name)) < 1e-8, name


@pytest.mark.parametrize("rows", ["given", "unit"])
def test_no_row_of_the_test_split_is_seen(x64, rows):
    """Whatever the test rows are, heads and all that is said of the other two splits stay."""
    a, b, c = splits()
    other = tuple(x * 50 + 9 for x in c)
    first, second = (weak_to_strong(a, b, test, **RIDGES, normalize="features", rows=rows) for test in (c, other))
    assert first.student_error != second.student_error
    for name in ("misfit_in_sample", "theorem_gap"):
        assert getattr(first, name) == getattr(second, name)
    assert first.predicted == second.predicted


def test_a_massive_channel_no_longer_hides_the_others():
    """In single precision, with one scale for all the ceiling is as good as blind, and with features on one scale it is not."""
    a, b, c = splits(massive=1e4)
    single = [tuple(np.float32(x) for x in s) for s in (a, b, c)]
    common, each = (weak_to_strong(*single, **RIDGES, normalize=kind) for kind in ("scale", "features"))
    assert float(common.ceiling_error) > 5 * float(each.ceiling_error)


def test_a_column_of_rounding_is_dead(x64):
    """A large constant and the last bits of it in single precision change nothing."""
    a, b, c = splits()
    noisy = lambda s: (s[0], np.float32(s[1]), s[2])
    plain, dirty = [noisy(s) for s in (a, b, c)], [noisy(s) for s in (a, b, c)]
    for s in dirty:
        s[1][:, 5] = np.float32(7) + np.float32(4e-7) * RNG.integers(0, 2, 80)
    want, found = (weak_to_strong(*rows, **RIDGES, normalize="features") for rows in (plain, dirty))
    assert relative_error(found.student_error, want.student_error) < 1e-6


def test_a_unit_that_is_what_sums_leave_is_dead(x64):
    """One row that wakes it is seen as the others are."""
    plain, woken = ([(h_w, np.float32(h_s), y) for h_w, h_s, y in rows] for rows in [splits()] * 2)
    for _, h_s, _ in woken:
        h_s[:, 5] = 1e-9 * RNG.standard_normal(80)
    woken[2][1][0, 5] = 1e-3
    want, found = (weak_to_strong(*rows, **RIDGES, normalize="features") for rows in (plain, woken))
    assert relative_error(found.student_error, want.student_error) < 1e-6


def test_the_choice_is_named(unchecked):
    """Anything else gets one sentence."""
    a, b, c = splits()
    with pytest.raises(InputError, match="normalize must be 'features', 'scale' or 'none', got 'each'"):
        weak_to_strong(a, b, c, normalize="each")
    with pytest.raises(InputError, match="rows must be 'given' or 'unit', got 'norm'"):
        weak_to_strong(a, b, c, rows="norm")
