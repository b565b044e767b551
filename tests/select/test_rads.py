"""RADS-Lin: the printed formula on n x n matrices, whichever side of either representation is larger."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import derivative_error, entrywise_error, pair

from w2s_jax import InputError, example_scores, ridge
from w2s_jax.experiment import cross_fit_pseudo_labels
from w2s_jax.select import rads_scores

SHAPES = ((60, 8, 12), (24, 40, 32), (40, 60, 16))  # (n, d_w, d_s): n > d, n < d, mixed


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("shape", SHAPES)
def test_scores_are_the_formula(shape, dtype):
    """Of two outputs, and far from the origin."""
    h_w, h_s, y = pair("generic", *shape, dtype=dtype)
    found = rads_scores(h_w + 1, h_s - 2, y)
    assert found.dtype == dtype
    exact = dtype == np.float64
    assert entrywise_error(found, reference.rads_scores(h_w, h_s, y, 0.1)) <= (1e-8 if exact else 2e-3)


@pytest.mark.everything
def test_scores_are_example_scores_of_that_ridge(x64):
    """The spine says the same with the filter's strength spelled out."""
    h_w, h_s, y = pair("generic", 60, 8, 12)
    strength = lambda h: ridge(0.1 * np.mean(np.sum((h - h.mean(0)) ** 2, 1)) / 60)
    wanted = example_scores(h_w, h_s, y[:, 0], strength(h_w), strength(h_s), bias=True)
    assert entrywise_error(rads_scores(h_w, h_s, y[:, 0]), np.abs(wanted)) <= 1e-8


def test_predictions_take_the_place_of_the_weak_side(x64):
    """Whatever constant they are off by: heads have an intercept."""
    h_w, h_s, y = pair("generic", 60, 8, 12)
    said = np.asarray(cross_fit_pseudo_labels(h_w, y, 0.1, folds=3))
    found = rads_scores(None, h_s, y, weak_part=said + 5)
    assert entrywise_error(found, reference.rads_scores(h_w, h_s, y, 0.1, said)) <= 1e-8


@pytest.mark.everything
def test_rotations_factors_and_dead_columns_change_nothing(x64):
    h_w, h_s, y = pair("generic", 60, 8, 12)
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((12, 12)))[0]
    wanted = rads_scores(h_w, h_s, y)
    changed = np.pad(h_w, ((0, 0), (0, 4))), 30 * h_s @ rotation
    assert entrywise_error(rads_scores(*changed, y), wanted) <= 1e-8
    alike = lambda factors: rads_scores(h_w, h_s * factors, y, normalize="features")
    assert entrywise_error(alike(np.geomspace(1, 1e3, 12)), alike(np.ones(12))) <= 1e-8


@pytest.mark.everything
def test_transforms(x64):
    """vmap over labels, gradients through both sides."""
    h_w, h_s, y = pair("generic", 60, 8, 12)
    several = jax.vmap(lambda labels: rads_scores(h_w, h_s, labels))(y.T)
    assert entrywise_error(several, np.stack([rads_scores(h_w, h_s, labels) for labels in y.T])) <= 1e-10
    assert derivative_error(lambda h: jnp.square(rads_scores(h[0], h[1], y)), (h_w, h_s)) <= 1e-6


@pytest.mark.everything
def test_what_the_weak_side_says_alone_scores_nothing(dtype):
    """Labels that are linear in the weak representation, and without a ridge; no NaN in their derivative."""
    h_w, h_s, _ = pair("generic", 60, 8, 12, dtype=dtype)
    y = h_w @ np.ones((8, 2), dtype)
    assert np.max(rads_scores(h_w, h_s, y, ridge=0.0)) <= 1e-3 * np.abs(y).max()
    gradient = jax.grad(lambda h: jnp.sum(rads_scores(h_w, h, jnp.zeros((60, 2), dtype))))(h_s)
    assert not np.isnan(gradient).any()


@pytest.mark.everything(but=1)
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (dict(weak=None), "neither"),
        (dict(weak_part=np.zeros(6)), "both"),
        (dict(weak=np.ones((5, 2))), "6 and 5|5 and 6"),
        (dict(weak_labels=np.zeros(5)), "weak labels"),
        (dict(weak=None, weak_part=np.zeros((6, 2))), "weak_part"),
        (dict(ridge=-1.0), "ridge"),
        (dict(normalize="unit"), "normalize"),
        (dict(strong=np.full((6, 2), np.nan)), "strong representations"),
    ],
)
def test_bad_input(change, named):
    rows = np.arange(12.0).reshape(6, 2)
    with pytest.raises(InputError, match=named):
        rads_scores(**({"weak": rows, "strong": rows**2, "weak_labels": np.arange(6.0)} | change))
