"""Rows of unit norm: each divided by its norm after its features are scaled, read in blocks, of many or of few rows."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from conftest import entrywise_error, relative_error

from w2s_jax import InputError, rank_supervisors
from w2s_jax.ranking import cells, unit_rows
from w2s_jax.ranking.unit_rows import UnitRows

N = 60
RNG = np.random.default_rng(0)
LATENT = RNG.standard_normal((N, 5))


def seen(d: int) -> np.ndarray:
    """Rows of very different norms, about a mean, with a massive and a dead feature."""
    h = LATENT @ RNG.standard_normal((5, d)) + RNG.standard_normal((N, d))
    h = h * RNG.lognormal(0, 1, (N, 1)) + 3
    h[:, 0], h[:, 1] = 500 * h[:, 0], 7
    return h


MODELS = {d: seen(d) for d in (9, 14, 80)}


@pytest.mark.parametrize("normalize", ["none", "scale", "features"])
def test_rows_are_the_references(monkeypatch, normalize):
    """Whatever is asked for first, block by block."""
    monkeypatch.setattr(unit_rows, "_BLOCK_ENTRIES", 90)
    want = reference.unit_rows(MODELS[9], normalize)
    for dtype, bound in ((np.float64, 1e-12), (np.float32, 1e-6)):
        rows = UnitRows(MODELS[9], "h", dtype, normalize)
        assert (rows.shape, rows.dtype, rows[0:1].dtype) == ((N, 9), dtype, dtype)
        assert entrywise_error(np.concatenate([rows[0:17], rows[17:N]]), want) < bound
    assert not UnitRows(np.ones((4, 3)), "h", np.float32, "scale")[0:4].any()


@pytest.mark.everything
@pytest.mark.parametrize("normalize", ["scale", "features"])
def test_a_ranking_is_that_of_unit_rows(x64, monkeypatch, normalize):
    """Every score and its standard error, also of more features than rows, in several blocks."""
    monkeypatch.setattr(cells, "BLOCK_ROWS", 25)
    y, ridges = LATENT[:, 0], {"weak_ridge": 0.1, "strong_ridge": 0.01}
    models = {str(d): MODELS[d] for d in (9, 80)}
    found = rank_supervisors(models, MODELS[14], y, normalize=normalize, rows="unit", **ridges)
    unit = {name: reference.unit_rows(h, normalize) for name, h in models.items()}
    want = rank_supervisors(unit, reference.unit_rows(MODELS[14], normalize), y, normalize="scale", **ridges)
    assert (found.names, found.columns) == (want.names, want.columns)
    assert (found.settings["normalize"], found.settings["row_norm"]) == (normalize, "unit")
    for column in want.columns:
        assert relative_error(found[column], want[column]) < 1e-8, column
        assert relative_error(found.errors[column], want.errors[column]) < 1e-6, column


@pytest.mark.everything
def test_without_scaling_rows_alone_are_divided(x64):
    """Neither centred nor scaled, and heads have no bias."""
    found = rank_supervisors({"a": MODELS[9]}, MODELS[14], normalize="none", rows="unit")
    want = rank_supervisors(
        {"a": reference.unit_rows(MODELS[9], "none")}, reference.unit_rows(MODELS[14], "none"), normalize="none"
    )
    for column in want.columns:
        assert relative_error(found[column], want[column]) < 1e-8, column


@pytest.mark.everything
@pytest.mark.usefixtures("unchecked")
def test_bad_rows_are_named():
    """With their place among all."""
    bad = MODELS[9].copy()
    bad[41, 2] = np.nan
    for normalize in ("none", "features"):
        with pytest.raises(InputError, match=r"the values of weak representation 'a' contain 1 NaN .* in row 41"):
            rank_supervisors({"a": bad}, MODELS[14], normalize=normalize, rows="unit")
    with pytest.raises(InputError, match="rows must be 'given' or 'unit', got 'l2'"):
        rank_supervisors({"a": MODELS[9]}, MODELS[14], rows="l2")
    with pytest.raises(InputError, match="weak representation 'a' is constant"):
        rank_supervisors({"a": np.ones((N, 4))}, MODELS[14], rows="unit")
