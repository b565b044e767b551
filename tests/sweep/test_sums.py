"""Sums of a sweep's rows: they are the spine's moments, however the rows are read."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from sweeping import LABELS, ROWS, N, Y

from w2s_jax import moments
from w2s_jax.ranking.cells import ModelRows
from w2s_jax.sweep.label_sets import sweep_rows
from w2s_jax.sweep.sums import cross_sums, model_sums

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.parametrize("folds", [0, 3])
def test_sums_over_ranges_of_rows_merge(x64, folds):
    """Two processes with half of the rows each, merged by addition, have the sums over all."""
    rows = sweep_rows(N, LABELS, None, folds, 0, "scale")
    strong, weak = (
        [ModelRows(name, ROWS[name], ROWS[name][:1]) for name in names] for names in (("s1", "s2"), ("a", "b"))
    )
    whole = model_sums(strong[0], rows), cross_sums(strong, weak, rows)
    first = model_sums(strong[0], rows, span=(0, 40)), cross_sums(strong, weak, rows, span=(0, 40))
    second = model_sums(strong[0], rows, span=(40, N)), cross_sums(strong, weak, rows, span=(40, N))
    own, cross = jax.tree.map(np.add, first, second)
    merged = own.of(own.sums, whole[0].shift), cross
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-11), merged, whole)


def test_sums_are_the_moments(x64):
    """Cells add up to the spine's moments of the pair."""
    rows = sweep_rows(N, {"y": Y}, None, 3, 0, "none")
    s, w = (ModelRows(name, ROWS[name], ROWS[name][:1]) for name in ("s1", "a"))
    m = moments(ROWS["a"] - ROWS["a"][0], ROWS["s1"] - ROWS["s1"][0], Y)
    found = model_sums(s, rows)
    np.testing.assert_allclose(found.sums.hh.sum(0)[:24, :24], m.ss * N, rtol=1e-10)
    np.testing.assert_allclose(found.sums.hy.sum(0)[:24], m.sy * N, rtol=1e-10)
    np.testing.assert_allclose(cross_sums([s], [w], rows).sum(0), m.sw * N, rtol=1e-10)


def test_many_blocks_are_one(x64, monkeypatch):
    """Rows read in small blocks give the sums of one block."""
    rows = sweep_rows(N, LABELS, None, 3, 0, "scale")
    models = [ModelRows(name, ROWS[name], ROWS[name][:1]) for name in ("s1", "a")]
    once = model_sums(models[0], rows), cross_sums(models[:1], models[1:], rows)
    monkeypatch.setattr("w2s_jax.sweep.sums.BLOCK_ROWS", 16)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-11),
        (model_sums(models[0], rows), cross_sums(models[:1], models[1:], rows)),
        once,
    )
