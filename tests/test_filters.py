"""Spectral filters: each is its printed formula within the principal subspace, zero outside it, and a grid if asked."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import entrywise_error

from w2s_jax import InputError, gradient_flow, iterated_tikhonov, projection, ridge, tail_gamma

N = 30
VALUES = np.sort(np.random.default_rng(0).pareto(1.0, 12))[::-1].copy()
FILTERS = {
    "ridge": ((0.4,), ridge, reference.ridge),
    "ridgeless": ((0.0,), ridge, reference.ridge),
    "from_head": ((0.4, 20), ridge.from_head, reference.ridge_from_head),
    "projection": ((), projection, reference.projection),
    "gradient_flow": ((2.5,), gradient_flow, reference.gradient_flow),
    "iterated_tikhonov": ((0.4, 3), iterated_tikhonov, reference.iterated_tikhonov),
}
CUTS = {"none": {}, "threshold": dict(threshold=0.05), "rank": dict(rank=4), "both": dict(threshold=0.05, rank=2)}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", FILTERS)
def test_filters_are_those_of_the_reference(name, cut, dtype):
    """Every filter is its formula on the principal subspace and zero outside."""
    parameters, filter, expected = FILTERS[name]
    found = filter(*parameters, **CUTS[cut])(jnp.asarray(VALUES, dtype), N)
    assert found.dtype == dtype
    assert (
        entrywise_error(found, expected(*parameters, **CUTS[cut])(VALUES.astype(dtype), N)) <= 8 * np.finfo(dtype).eps
    )


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_filters_lie_between_zero_and_one_and_grow_with_the_eigenvalue(name, scale):
    """Whatever the eigenvalues' size, 0 <= f <= 1, and a stronger direction is kept at least as much."""
    parameters, filter, _ = FILTERS[name]
    f = np.asarray(filter(*parameters)(jnp.asarray(VALUES * scale, jnp.float32), N))
    assert np.all((f >= 0) & (f <= 1)) and np.all(np.diff(f) <= 0)


@pytest.mark.parametrize("name", FILTERS)
def test_eigenvalues_of_zero_are_left_out(name):
    """Zeros that pad a spectrum have filter value 0 and change no other value."""
    parameters, filter, _ = FILTERS[name]
    padded = filter(*parameters)(jnp.pad(jnp.asarray(VALUES, jnp.float32), (0, 3)), N)
    assert np.array_equal(padded[12:], np.zeros(3))
    assert entrywise_error(padded[:12], filter(*parameters)(jnp.asarray(VALUES, jnp.float32), N)) <= 1e-6


@pytest.mark.parametrize("name", FILTERS)
def test_a_spectrum_of_zeros_is_left_out(name):
    """Where every eigenvalue is zero every filter value is zero, not NaN."""
    parameters, filter, _ = FILTERS[name]
    assert np.array_equal(filter(*parameters)(jnp.zeros(4), N), np.zeros(4))


EXTREMES = {
    "no ridge": (ridge(0.0), 1.0),
    "endless ridge": (ridge(1e38), 0.0),
    "no time": (gradient_flow(0.0), 0.0),
    "endless time": (gradient_flow(1e38), 1.0),
    "no iterations": (iterated_tikhonov(0.4, 0), 0.0),
    "many iterations": (iterated_tikhonov(0.4, 1e30), 1.0),
    "no iterated ridge": (iterated_tikhonov(0.0, 3), 1.0),
    "endless iterated ridge": (iterated_tikhonov(1e38, 3), 0.0),
    "no rank": (projection(rank=0), 0.0),
    "huge rank": (projection(rank=10**6), 1.0),
    "head on one row, no tail": (ridge.from_head(0.0, 1), 1.0),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_extreme_parameters_reach_the_limit(name):
    """A parameter at the end of its range keeps everything or nothing, without NaN."""
    filter, limit = EXTREMES[name]
    assert np.allclose(filter(jnp.asarray(VALUES, jnp.float32), N), limit, rtol=0, atol=1e-30)


@pytest.mark.parametrize("name", ["ridge", "gradient_flow", "iterated_tikhonov"])
def test_small_filter_values_keep_their_digits(name, dtype):
    """Where f is of the order of 1e-20 it is known to rounding: nothing is subtracted from one."""
    filter = {
        "ridge": ridge(1e20),
        "gradient_flow": gradient_flow(1e-20),
        "iterated_tikhonov": iterated_tikhonov(1e20, 1),
    }
    f = filter[name](jnp.asarray(VALUES, dtype), N)
    assert entrywise_error(f / jnp.asarray(VALUES * 1e-20, dtype), np.ones(12)) <= 8 * np.finfo(dtype).eps


def test_from_head_estimates_gamma_from_the_tail(x64):
    """`f = lambda / (lambda + beta + gamma n / n_fit)` with `lambda = mu - gamma`, gamma the tail's trace over n."""
    beta, n_fit, k = 0.1, 50, 3
    gamma = VALUES[k:].sum() / N
    lam = VALUES[:k] - gamma
    f = ridge.from_head(beta, n_fit, rank=k)(jnp.asarray(VALUES), N)
    assert entrywise_error(f, np.pad(lam / (lam + beta + gamma * N / n_fit), (0, 12 - k))) <= 1e-14
    assert entrywise_error(tail_gamma(jnp.asarray(VALUES), rank=k, n=N), gamma) <= 1e-14


GRIDS = {
    "ridge": lambda b, t, r: ridge(b, t, rank=r),
    "from_head": lambda b, t, r: ridge.from_head(b, np.array([[10, 20, 30]]), t, rank=r),
    "projection": lambda b, t, r: projection(t, rank=r),
    "gradient_flow": lambda b, t, r: gradient_flow(b, t, rank=r),
    "iterated_tikhonov": lambda b, t, r: iterated_tikhonov(b, np.array([[1, 2, 5]]), t, rank=r),
}


@pytest.mark.parametrize("name", GRIDS)
def test_array_parameters_make_a_grid(name):
    """The parameters' broadcast shape leads the result, and each of its points is the filter of those parameters."""
    strengths, thresholds, ranks = np.array([[0.1], [1.0]]), np.array([0.0, 0.01, 0.3]), np.array(5)
    grid = GRIDS[name](strengths, thresholds, ranks)
    values = jnp.asarray(VALUES, jnp.float32)
    f = grid(values, N)
    assert f.shape == (*grid.shape, 12)
    for i, j in np.ndindex(2, 3):
        point = jax.tree.map(lambda p: np.broadcast_to(p, (2, 3))[i, j], grid)
        assert entrywise_error(jnp.broadcast_to(f, (2, 3, 12))[i, j], point(values, N)) <= 1e-6


@pytest.mark.parametrize("name", FILTERS)
def test_filters_are_pytrees(name):
    """A filter passes through jit as an argument and through vmap as a stack of filters."""
    parameters, filter, _ = FILTERS[name]
    values = jnp.asarray(VALUES, jnp.float32)
    points = [filter(*parameters, threshold=t) for t in (0.0, 0.1)]
    expected = np.stack([point(values, N) for point in points])
    apply = jax.jit(lambda f: f(values, N))
    assert entrywise_error(np.stack([apply(point) for point in points]), expected) <= 1e-6
    assert (
        entrywise_error(jax.vmap(apply)(jax.tree.map(lambda *p: jnp.stack(jnp.asarray(p)), *points)), expected) <= 1e-6
    )


@pytest.mark.parametrize("name", FILTERS)
def test_a_change_of_parameters_does_not_recompile(name):
    """Parameters are traced: one compilation serves all their values."""
    parameters, filter, _ = FILTERS[name]
    traces = []

    @jax.jit
    def apply(f, values):
        traces.append(f)
        return f(values, N)

    for threshold in (0.0, 0.1, 0.2):
        apply(filter(*parameters, threshold=threshold), jnp.asarray(VALUES, jnp.float32))
    assert len(traces) == 1


BAD = {
    "strength": (lambda: ridge(-1.0), "ridge's strength must be at least 0, got -1"),
    "one of many": (lambda: ridge(np.array([0.1, -0.2])), "ridge's strength must be at least 0, got -0.2"),
    "NaN": (lambda: ridge(float("nan")), "ridge's strength must be at least 0, got nan"),
    "threshold": (lambda: projection(1.5), "projection's threshold must be between 0 and 1, got 1.5"),
    "low threshold": (lambda: gradient_flow(1.0, -0.1), "gradient_flow's threshold must be between 0 and 1, got -0.1"),
    "time": (lambda: gradient_flow(-3.0), "gradient_flow's time must be at least 0, got -3"),
    "iterations": (lambda: iterated_tikhonov(0.1, -1), "iterated_tikhonov's iterations must be at least 0, got -1"),
    "rank": (lambda: projection(rank=-2), "projection's rank must be at least 0, got -2"),
    "n_fit": (lambda: ridge.from_head(0.1, -5), "ridge's n_fit must be at least 0, got -5"),
    "no number": (lambda: ridge("strong"), "ridge's strength must be a number or an array of numbers, got 'strong'"),
    "on device": (lambda: ridge(jnp.asarray([0.1, -0.5])), "ridge's strength must be at least 0, got -0.5"),
    "shapes": (lambda: ridge(np.ones(2), np.full(3, 0.1)), r"ridge's parameters must broadcast, got .*\(2,\), \(3,\)"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("fault", BAD)
def test_bad_parameters_are_named(fault):
    """A parameter out of range, or of a shape that does not broadcast, is one sentence with the filter's name."""
    make, message = BAD[fault]
    with pytest.raises(InputError, match=message):
        make()
