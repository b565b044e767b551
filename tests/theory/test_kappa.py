"""The strength at which a ridge head acts: the root of its equation for a population, and what a sample says of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import derivative_error, entrywise_error, relative_error
from jax import export

from w2s_jax._core.checks import InputError
from w2s_jax.theory.kappa import effective_ridge, effective_ridge_from_spectrum


def test_kappa_is_the_root(dtype):
    """kappa solves kappa = ridge + (kappa/n) sum l/(l + kappa), whatever the ratio of rows to rank, to rounding."""
    values = (np.arange(1, 41.0) ** -1.5).astype(np.float32).astype(dtype)
    n = np.array([1, 5, 39, 40, 41, 400, 1e6], dtype)
    ridge = np.array([0.0, 1e-12, 1e-6, 1e-2, 1.0, 1e3], dtype)
    found = effective_ridge(np.append(values, dtype.type(0)), n[:, None], ridge)
    assert found.dtype == dtype
    expected = [[reference.effective_ridge(values, float(rows), float(b)) for b in ridge] for rows in n]
    assert relative_error(found, np.array(expected)) <= (1e-12 if dtype == np.float64 else 2e-6)


def test_a_multiplicity_repeats_an_eigenvalue(dtype):
    """An eigenvalue of multiplicity m counts m times; a tail of width 1e7 is one of them."""
    values, times = np.array([2.0, 0.5, 0.1], dtype), np.array([1, 3, 20], dtype)
    repeated = reference.effective_ridge(np.repeat(values, times.astype(int)), 15, 0.01)
    assert relative_error(effective_ridge(values, 15, 0.01, times), repeated) <= 1e-6
    wide = effective_ridge(np.array([2e-5], dtype), 100, 0.1, np.array([1e7], dtype))
    assert relative_error(wide, 0.1 + 2.0 * float(wide) / (2e-5 + float(wide))) <= 1e-6


@pytest.mark.parametrize("exponent", [-100, -50, 50, 100])
def test_kappa_scales_with_the_spectrum(exponent):
    """In float32, eigenvalues and ridge times 2^e give kappa times 2^e exactly, representations from 1e-15 to 1e15."""
    values, scale = np.arange(1, 41, dtype=np.float32) ** -1, np.float32(2.0**exponent)
    ridge = np.array([0.0, 1e-3], np.float32)
    assert np.array_equal(
        effective_ridge(values * scale, 20, ridge * scale), effective_ridge(values, 20, ridge) * scale
    )


def test_arguments_of_the_fixed_point_broadcast(x64):
    """Rows and ridges of any shape give an array of fixed points."""
    values, n, ridge = np.array([3.0, 1.0, 0.2]), np.array([[2.0], [10.0]]), np.array([0.0, 0.1, 1.0])
    expected = [[reference.effective_ridge(values, rows, b) for b in ridge] for rows in n[:, 0]]
    assert relative_error(effective_ridge(values, n, ridge), expected) <= 1e-12


@pytest.mark.parametrize(("n", "ridge"), [(3.0, 0.2), (3.0, 1e-4), (20.0, 0.2), (6.0, 1e-3)])
def test_kappa_is_differentiable(n, ridge, x64):
    """First and second derivatives in eigenvalues, multiplicities, rows and ridge are finite differences."""
    x = (np.array([3.0, 1.0, 1.0, 0.2]), np.array([1.0, 1.0, 2.0, 3.0]), n, ridge)
    kappa = lambda x: jnp.atleast_1d(effective_ridge(x[0], x[2], x[3], x[1]))
    # The step is relative to the whole vector, so a tiny ridge is stated by its logarithm.
    logarithmic = lambda x: kappa((x[0], x[1], x[2], jnp.exp(x[3])))
    at = (*x[:3], np.log(ridge))
    assert derivative_error(logarithmic, at) <= 1e-6
    assert derivative_error(lambda x: jax.grad(lambda x: logarithmic(x)[0])(x)[0], at) <= 1e-5


def test_the_ridgeless_limit_is_differentiable_from_above(x64):
    """With n > rank, kappa is 0 at ridge 0 and grows from there at rate n / (n - rank)."""
    values = np.array([3.0, 1.0, 0.0])
    assert jax.grad(lambda b: effective_ridge(values, 10, b))(0.0) == pytest.approx(10 / 8, rel=1e-12)
    assert np.all(jax.grad(lambda v: effective_ridge(v, 10, 0.0))(values) == 0)


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.5])
@pytest.mark.parametrize("shape", [(20, 50), (30, 30), (50, 20)])
def test_kappa_of_a_sample(shape, ridge, x64):
    """kappa is 1 / ((1/n) tr (K/n + ridge)^{-1}), the same from either side, and 0 in the ridgeless limit n > d."""
    n, d = shape
    h = np.random.default_rng(0).standard_normal(shape)
    lam, _ = reference.kernel_spectrum(h)
    expected = 0.0 if ridge == 0 and n > d else 1 / np.mean(1 / (lam + ridge))
    assert relative_error(effective_ridge_from_spectrum(lam, n, ridge), expected) <= 1e-10
    small = np.linalg.eigvalsh(h.T @ h / n)[::-1]
    assert relative_error(effective_ridge_from_spectrum(small, n, ridge), expected) <= 1e-10
    h = h - h.mean(0)
    lam = reference.kernel_spectrum(h)[0][:-1]  # without the constant direction
    expected = 0.0 if ridge == 0 and n - 1 > d else n / np.sum(1 / (lam + ridge))
    assert relative_error(effective_ridge_from_spectrum(lam, n, ridge, bias=True), expected) <= 1e-10


def test_kappa_of_a_sample_is_the_populations():
    """The sample's kappa agrees with the fixed point of the population to a few parts in a thousand at n = 400."""
    root = np.arange(1, 801.0) ** -0.4
    h = np.random.default_rng(0).standard_normal((400, 800)) * root
    found = effective_ridge_from_spectrum(reference.kernel_spectrum(h)[0].astype(np.float32), 400, 0.05)
    assert relative_error(found, effective_ridge(root**2, 400, 0.05)) <= 5e-3


@pytest.mark.parametrize(
    "function", [lambda v: effective_ridge(v, 3, 0.1), lambda v: effective_ridge_from_spectrum(v, 30, 0.1)]
)
def test_they_export_for_every_platform(function):
    """Each function lowers for CPU, CUDA and TPU from any of them, and compiled equals eager."""
    values = np.linspace(3, 0, 8, dtype=np.float32)
    exported = export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(values)
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    assert entrywise_error(jax.jit(function)(values), function(values)) <= 2e-5


def test_bad_input_is_named(unchecked):
    """A negative ridge, and a multiplicity that does not fit."""
    with pytest.raises(InputError, match="ridge must be at least 0"):
        effective_ridge(np.ones(3), 3, -1.0)
    with pytest.raises(InputError, match="multiplicity must match values"):
        effective_ridge(np.ones(3), 3, 1.0, np.ones(2))
