"""Spectra at any scale, the rules for the principal subspace, and derivatives that never divide by an eigengap."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import KINDS, SHAPES, derivative_error, entrywise_error, pair, relative_error

from w2s_jax import (
    InputError,
    Spectrum,
    gradient_flow,
    iterated_tikhonov,
    principal_rank,
    projection,
    ridge,
    spectrum,
    tail_gamma,
)
from w2s_jax._core.response import apply_response

eigenpairs = jax.jit(spectrum)


def second_moment(h: np.ndarray, dtype: np.dtype) -> np.ndarray:
    h = h.astype(np.float64)
    return (h.T @ h / len(h)).astype(dtype)


def rounding(matrix: np.ndarray) -> float:
    """The share of the largest eigenvalue below which others are 0."""
    return 4 * float(np.finfo(matrix.dtype).eps) * len(matrix) ** 0.5


@pytest.mark.parametrize("shape", SHAPES[:3])
@pytest.mark.parametrize("kind", KINDS)
def test_eigenvalues_are_those_of_the_reference(kind, shape, dtype):
    """Both forms, H^T H / n and K / n, have the reference's eigenvalues, to rounding of the largest; what is rounding is 0."""
    h = pair(kind, *shape, dtype=dtype).h_w
    expected, _ = reference.kernel_spectrum(h)
    for matrix in (second_moment(h, dtype), second_moment(h.T, dtype) * h.shape[1] / h.shape[0]):
        values = eigenpairs(matrix.astype(dtype), len(h)).values
        k, eps = min(len(values), len(expected)), np.finfo(dtype).eps
        kept = np.asarray(values[:k]) > 0
        assert entrywise_error(values[:k][kept], expected[:k][kept]) <= 20 * eps
        assert np.all(expected[:k][~kept] <= (rounding(matrix) + 20 * eps) * expected[0])
        assert np.all(values[k:] <= 20 * eps * values[0])


@pytest.mark.parametrize("kind", KINDS)
def test_eigenpairs_rebuild_the_matrix(kind, dtype):
    """`V diag(values) V^T` is the matrix, V has orthonormal columns, values descend from none below zero."""
    matrix = second_moment(pair(kind, *SHAPES[0]).h_w, dtype)
    found = eigenpairs(matrix, 24)
    values, vectors = (np.asarray(x, np.float64) for x in (found.values, found.vectors))
    left = np.abs(vectors * values @ vectors.T - matrix).max()
    assert left <= 50 * np.finfo(dtype).eps * np.abs(matrix).max() + rounding(matrix) * values[0]
    assert entrywise_error(vectors.T @ vectors, np.eye(len(matrix))) <= 50 * np.finfo(dtype).eps
    assert np.all(np.diff(values) <= 0) and values[-1] >= 0


@pytest.mark.parametrize("scale", [1e-15, 1e-7, 1e7, 1e15])
def test_eigenvalues_keep_their_digits_at_any_scale(scale, dtype):
    """Scaling a representation by 1e-15 to 1e15 scales the eigenvalues by its square and loses no digit."""
    h = pair("generic", *SHAPES[2]).h_w * scale
    expected, _ = np.linalg.eigh(second_moment(h, np.float64))
    assert entrywise_error(eigenpairs(second_moment(h, dtype), 64).values, expected[::-1]) <= 20 * np.finfo(dtype).eps


def test_a_matrix_of_zeros_has_eigenvalues_of_zero():
    """Nothing is divided by the largest eigenvalue where it is zero."""
    assert np.array_equal(eigenpairs(np.zeros((5, 5), np.float32), 9).values, np.zeros(5))


# The principal subspace

VALUES = np.sort(np.random.default_rng(0).pareto(1.0, 12))[::-1].copy()
LEVELS = np.array([[0.0, 1e-3, 0.01], [0.1, 0.5, 1.0]])
RULES = {"threshold": reference.threshold_rank, "explained_variance": reference.explained_variance_rank}


@pytest.mark.parametrize("values", [VALUES, np.pad(VALUES, (0, 3))], ids=["full", "padded"])
@pytest.mark.parametrize("rule", RULES)
def test_rank_rules_are_those_of_the_reference(rule, values, x64):
    """Thresholds and explained variance give the reference's rank at every level of an array of levels."""
    expected = [[RULES[rule](values, level) for level in row] for row in LEVELS]
    assert principal_rank(values, rule, LEVELS).tolist() == expected


def test_a_rank_is_bounded_by_the_numerical_rank():
    """The rule "rank" takes as many eigenvalues as asked for, of those that are not zero."""
    values = np.pad(VALUES, (0, 3)).astype(np.float32)
    assert principal_rank(values, "rank", np.array([0, 5, 12, 14])).tolist() == [0, 5, 12, 12]


@pytest.mark.parametrize(("n", "d"), [(100, 100), (100, 30), (100, 29), (30, 100), (29, 100)])
@pytest.mark.parametrize("spikes", [0, 3])
def test_hard_threshold_is_that_of_the_reference(n, d, spikes, x64):
    """Spikes in noise are counted as by the reference, from min(n, d) or more eigenvalues."""
    rng = np.random.default_rng(0)
    h = rng.standard_normal((n, d)) + 10 * rng.standard_normal((n, spikes)) @ rng.standard_normal((spikes, d))
    values, _ = reference.kernel_spectrum(h)
    expected = reference.hard_threshold_rank(values, n, d)
    for found in (values, values[: min(n, d)]):
        assert principal_rank(found, "hard_threshold", n=n, d=d) == expected == spikes
    assert principal_rank(eigenpairs(second_moment(h, np.float64), n), "hard_threshold") == expected


@pytest.mark.parametrize("n", [10, 11, 20, 100, 1000])
def test_hard_threshold_stands_at_omega_medians(n, x64):
    """A singular value is principal from omega(d / n) medians on, to three digits."""
    omega = reference.hard_threshold_coefficient(10 / n)
    for factor, rank in ((1 - 1e-3, 0), (1 + 1e-3, 1)):
        values = np.concatenate([[(factor * omega) ** 2], np.ones(9)])
        assert principal_rank(values, "hard_threshold", n=n, d=10) == rank


def test_omega_of_a_square_is_the_published_one():
    """For a square matrix the hard threshold is 2.858 medians (Gavish & Donoho 2014)."""
    for omega, rank in ((2.857, 0), (2.859, 1)):
        values = jnp.asarray([omega**2] + 9 * [1.0])
        assert principal_rank(values, "hard_threshold", n=10) == rank


def test_tail_gamma_is_that_of_the_reference(x64):
    """gamma is the tail's trace over n, for an array of ranks at once."""
    h = pair("generic", *SHAPES[2]).h_w
    ranks = np.array([[0, 1], [5, 12]])
    expected = [[reference.gamma(h, k) for k in row] for row in ranks]
    found = tail_gamma(eigenpairs(second_moment(h, np.float64), len(h)).values, rank=ranks, n=len(h))
    assert entrywise_error(found, expected) <= 1e-13


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(rule="elbow", level=1), "rule must be 'threshold', 'rank', .* got 'elbow'"),
        (dict(rule="threshold"), "rule 'threshold' needs a level, got None"),
        (dict(rule="threshold", level=1.5), "level must be between 0 and 1, got 1.5"),
        (dict(rule="explained_variance", level=np.array([0.5, -0.5])), "level must be between 0 and 1, got -0.5"),
        (dict(rule="rank", level=-1), "level must be at least 0, got -1"),
        (dict(rule="threshold", level=float("nan")), "level must be between 0 and 1, got nan"),
        (dict(rule="hard_threshold"), "'hard_threshold' needs n"),
    ],
)
def test_bad_rules_are_named(arguments, message):
    """A rule that does not exist, or whose number is missing or out of range, is one sentence."""
    with pytest.raises(InputError, match=message):
        principal_rank(VALUES, **arguments)


def test_the_hard_threshold_needs_the_median():
    """Leading eigenvalues alone do not have it."""
    leading = spectrum(np.diag(VALUES), 20, rank=3)
    with pytest.raises(InputError, match="needs a whole spectrum, got the 3 leading eigenvalues of 12"):
        principal_rank(leading, "hard_threshold")
    every, whole = (spectrum(np.diag(VALUES), 20, rank=rank) for rank in (12, None))
    assert principal_rank(every, "hard_threshold") == principal_rank(whole, "hard_threshold")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((3, 4)), r"matrix must be square, got shape \(3, 4\)"),
        (np.ones(3), r"matrix must be 2-D .*\(3,\)"),
        (np.diag([1.0, np.nan]), "matrix contain 1 NaN .* row 1"),
    ],
)
def test_bad_matrices_are_named(matrix, message):
    """A spectrum is of a finite square matrix."""
    with pytest.raises(InputError, match=message):
        spectrum(matrix, 3)


# Derivatives

D = 12
REPEATED = np.repeat([4.0, 1.0, 0.25], [2, 4, 6])
SPREAD = np.linspace(4, 0.25, D)
SPECTRA = {"repeated": REPEATED, "distinct": SPREAD, "zeros": np.concatenate([SPREAD[:6], np.zeros(6)])}
RESPONSES = {
    "ridge": ridge(0.3),
    "ridge cut": ridge(0.3, threshold=0.1),
    "from_head cut": ridge.from_head(0.3, 20.0, threshold=0.1),
    "projection cut": projection(threshold=0.1),
    "gradient_flow": gradient_flow(2.0),
    "iterated_tikhonov": iterated_tikhonov(0.3, 3.0),
    "grid": ridge(np.array([[0.1], [0.3]]), threshold=np.array([0.0, 0.1, 0.5])),
}
WITH_INTEGERS = {
    "n_fit": ridge.from_head(0.3, 20, threshold=0.1),
    "iterations": iterated_tikhonov(0.3, 3),
    "rank": projection(rank=6),
    "ranks": ridge(np.array([[0.1], [0.3]]), rank=np.array([2, 6])),
}


def rotated(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """A symmetric matrix with these eigenvalues."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))
    return basis * values @ basis.T


@lru_cache
def function_of(name: str) -> Callable:
    """`f(S)` of the symmetric part of its argument, by the name of f."""
    response = (RESPONSES | WITH_INTEGERS)[name]
    return lambda m: matrix_function(response, (m + m.T) / 2)


def matrix_function(response, matrix: jax.Array) -> jax.Array:
    """`f(S)` from its spectrum, grid + (d, d)."""
    eigen = spectrum(matrix, 20)
    return eigen.vectors @ apply_response(response, eigen, eigen.vectors.T)


def test_the_sum_of_eigenvalues_has_the_identity_as_gradient(x64):
    """d tr S / dS = I, also where eigenvalues repeat."""
    gradient = jax.grad(lambda m: jnp.sum(spectrum(m, 20).values))(jnp.asarray(rotated(REPEATED)))
    assert entrywise_error(gradient, np.eye(D)) <= 1e-12


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("values", SPECTRA.values(), ids=SPECTRA)
@pytest.mark.parametrize("name", RESPONSES)
def test_matrix_functions_differentiate(name, values, x64):
    """Derivatives of f(S) are finite differences, at repeated, distinct and zero eigenvalues."""
    if values[-1] == 0 and name not in ("ridge cut", "projection cut"):
        values = np.maximum(values, 0.01)  # else a finite step leaves the positive semidefinite cone
    assert derivative_error(function_of(name), rotated(values)) <= 1e-8


@pytest.mark.parametrize("name", WITH_INTEGERS)
def test_integer_parameters_do_not_stop_differentiation(name, x64):
    """Ranks, rows and iterations given as integers are constants of differentiation."""
    assert derivative_error(function_of(name), rotated(REPEATED)) <= 1e-8


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("name", RESPONSES)
def test_first_derivatives_at_repeated_eigenvalues_are_smooth(name, x64):
    """Splitting repeated eigenvalues by 1e-9 changes the derivative of f(S) by no more than 1e-7."""
    direction, split = rotated(SPREAD, 1), rotated(REPEATED * (1 + 1e-9 * np.arange(D)))
    exact, near = (
        jax.jvp(lambda m: matrix_function(RESPONSES[name], m), (m,), (direction,))[1]
        for m in (rotated(REPEATED), split)
    )
    assert entrywise_error(near, exact) <= 1e-7


def test_second_derivatives_in_the_matrix_are_refused(x64):
    """Asking for a second derivative in the matrix is an error, not a silent zero."""

    def total(matrix):
        return jnp.sum(matrix_function(ridge(0.3), matrix) ** 2)

    with pytest.raises(NotImplementedError, match="second derivatives of a spectrum"):
        jax.hessian(total)(rotated(SPREAD))


@pytest.mark.everything
def test_second_derivatives_in_a_parameter_work(x64):
    """The ridge strength has first, second and mixed-with-the-matrix derivatives."""
    matrix = jnp.asarray(rotated(SPREAD))

    def total(b, m):
        return jnp.trace(matrix_function(ridge(b), m))

    exact = np.sum(2 * SPREAD / (SPREAD + 0.3) ** 3)
    assert relative_error(jax.grad(jax.grad(total))(0.3, matrix), exact) <= 1e-12
    mixed = jax.grad(lambda b: jnp.trace(jax.grad(total, 1)(b, matrix)))(0.3)
    assert relative_error(mixed, np.sum((SPREAD - 0.3) / (SPREAD + 0.3) ** 3)) <= 1e-12


def test_a_spectrum_is_a_pytree():
    """Spectra cross transformations: flattening keeps values, vectors, coupling and n."""
    eigen = eigenpairs(rotated(SPREAD).astype(np.float32), 20)
    assert isinstance(eigen, Spectrum) and len(jax.tree.leaves(eigen)) == 4


@pytest.mark.everything
@pytest.mark.usefixtures("unchecked")
def test_eigenvalues_come_in_descending_order():
    """NumPy's ascending ones are refused, integers and lists taken, a spectrum of 16-bit numbers computed in float32."""
    values = [4, 2, 1]
    assert int(principal_rank(values, "threshold", 0.3)) == 2
    assert float(tail_gamma(values, rank=1, n=10)) == pytest.approx(0.3)
    for call in (lambda v: principal_rank(v, "threshold", 0.3), lambda v: tail_gamma(v, rank=1, n=10)):
        with pytest.raises(InputError, match="eigenvalues must be in descending order"):
            call(values[::-1])
        with pytest.raises(InputError, match=r"eigenvalues must have shape \(k,\), got \(3, 3\)"):
            call(np.eye(3))
    with pytest.raises(InputError, match=r"level of the rule 'rank' must be whole numbers, got 1\.5"):
        principal_rank(values, "rank", 1.5)
    with pytest.raises(InputError, match="n must be at least 1, got 0"):
        tail_gamma(values, rank=1, n=0)
    matrix = np.diag([4.0, 2, 1])
    assert spectrum(jnp.asarray(matrix, jnp.bfloat16), 5).values.tolist() == values
