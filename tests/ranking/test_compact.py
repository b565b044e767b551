"""Representations of fewer rows than features rank as they are, from as many features as rows."""

from __future__ import annotations

import numpy as np
import pytest

from w2s_jax import InputError, rank_supervisors
from w2s_jax.ranking import rank
from w2s_jax.ranking.compact import CompactRows, about_origin

N = 40
RNG = np.random.default_rng(0)
LATENT = RNG.standard_normal((N, 5))
WIDE = {d: LATENT @ RNG.standard_normal((5, d)) / 2 + RNG.standard_normal((N, d)) + 3 for d in (70, 100)}


@pytest.mark.everything
@pytest.mark.parametrize(
    ("normalize", "threshold", "labels"), [("scale", 0.0, "some"), ("none", 0.02, "none"), ("features", 0.02, "some")]
)
def test_a_ranking_is_that_of_all_features(x64, monkeypatch, normalize, threshold, labels):
    """Every score and its standard error; the table has the width that was given."""
    y = {"some": np.where(np.arange(N) % 3 > 0, LATENT[:, 0], np.nan), "none": None}[labels]
    settings = {"normalize": normalize, "threshold": threshold, "weak_ridge": 0.1, "strong_ridge": 0.01}
    found = rank_supervisors({"wide": WIDE[70]}, WIDE[100], y, **settings)
    monkeypatch.setattr(rank, "has_few_rows", lambda rows: False)
    want = rank_supervisors({"wide": WIDE[70]}, WIDE[100], y, **settings)
    assert (found.widths, found.columns) == ((70,), want.columns)
    for column in want.columns:
        np.testing.assert_allclose(found[column], want[column], rtol=1e-8, err_msg=column)
        np.testing.assert_allclose(found.errors[column], want.errors[column], rtol=1e-8, err_msg=column)


def test_products_of_rows_stay(x64):
    """They are those of the features, about the mean if centred: in single precision neither a large one nor a first row that is
    far from it costs digits then."""
    h = WIDE[70]
    plain = CompactRows(h, "h", np.float64, "none", keep=True)
    assert plain.shape == (N, N)
    np.testing.assert_allclose(plain[0:N] @ plain[0:N].T, h @ h.T, rtol=1e-12)
    np.testing.assert_array_equal(np.concatenate([plain[0:17], plain[17:N]]), plain[0:N])
    assert about_origin("h", plain, "none").shift.tolist() == plain[0:1].tolist()
    h = h * np.r_[100, np.ones(N - 1)][:, None]
    about = (h - h.mean(0)) @ (h - h.mean(0)).T
    compact = CompactRows(h + 1e6, "h", np.float32, "scale", keep=True)
    moved = compact[0:N]
    assert moved.dtype == np.float32 and not about_origin("h", compact, "scale").shift.any()
    np.testing.assert_allclose(moved @ moved.T, about, atol=1e-6 * np.max(about))
    assert np.abs(moved.mean(0)).max() < 1e-6 * np.abs(moved).max()


@pytest.mark.parametrize(("keep", "reads"), [(True, 1), (False, 2)])
def test_rows_are_kept_for_more_than_one_pass(keep, reads):
    """Otherwise they are let go with the last one, and read again when they are asked for again."""
    calls = []

    class Counted:
        shape, dtype = WIDE[70].shape, WIDE[70].dtype

        def __getitem__(self, wanted: slice) -> np.ndarray:
            calls.append(wanted)
            return WIDE[70][wanted]

    rows = CompactRows(Counted(), "h", np.float64, "scale", keep=keep)
    for _ in range(2):
        for start in (0, 25):
            assert len(rows[start : start + 25]) == min(25, N - start)
    assert calls == [slice(0, N)] * reads


@pytest.mark.everything
def test_bad_rows_are_named():
    """As they are where a model has more rows than features."""
    bad = WIDE[70].copy()
    bad[17, 3] = np.nan
    with pytest.raises(InputError, match=r"values of weak representation 'bad' .*row 17"):
        rank_supervisors({"bad": bad}, WIDE[100])
    with pytest.raises(InputError, match="strong representation 'strong' is constant"):
        rank_supervisors({"a": WIDE[70]}, np.ones((N, 60)))
    for size in (1e30, 1e200, 1e305):
        with pytest.raises(InputError, match="weak representation 'huge' is too large: its squares overflow float32"):
            rank_supervisors({"huge": size * WIDE[70]}, WIDE[100], normalize="scale")
    usual, huge = (rank_supervisors({"a": size * WIDE[70]}, WIDE[100]) for size in (1.0, 1e305))
    assert huge["gap_fro"] == pytest.approx(usual["gap_fro"], rel=1e-5)  # every feature has a scale of its own


@pytest.mark.parametrize("normalize", ["features", "none"])
def test_predictors_do_not_depend_on_the_order_of_rows(normalize):
    """Labelled rows first of a weak model with more features than rows: what is rounding on those is no direction of theirs."""
    rng = np.random.default_rng(1)
    n, labelled, d = 120, 50, 200
    z = rng.standard_normal((n, 5))
    weak = np.float32(z @ rng.standard_normal((5, d)) + rng.standard_normal((n, d)))
    strong = np.float32(z @ rng.standard_normal((5, 14)) + 0.2 * rng.standard_normal((n, 14)))
    y = np.where(np.arange(n) < labelled, z[:, 0], np.nan).astype(np.float32)
    names = ["weak_error", "logme", "misfit_bound", "gulp"]
    mixed = rng.permutation(n)
    tables = [
        rank_supervisors({"w": weak[rows]}, strong[rows], y[rows], predictors=names, normalize=normalize)
        for rows in (np.arange(n), mixed)
    ]
    for name in names:
        assert tables[0][name][0] == pytest.approx(tables[1][name][0], rel=1e-3)
