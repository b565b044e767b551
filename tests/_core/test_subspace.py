"""Leading eigenpairs of large matrices: those of the full solver, whatever the spectrum, with residuals that are true."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import derivative_error, entrywise_error, relative_error

from w2s_jax import InputError, gradient_flow, principal_rank, projection, ridge, spectrum, tail_gamma
from w2s_jax._core.response import apply_response
from w2s_jax._core.subspace import (
    ROUNDING,
    Dense,
    SecondMoment,
    _converged,
    _filtered_block,
    _pairs,
    is_cheaper,
    leading_pairs,
)
from w2s_jax.spectrum import spectrum_of_rows

D, K = 512, 16
I = np.arange(1, D + 1)
SPECTRA = {
    "decaying": 1 / I,
    "slow": I**-0.5,
    "exponential": np.exp(-I / 10),
    "spikes": np.where(I <= 8, 10 / I + 1, 0.2),
    "bulk": 1 - (I / D) ** (2 / 3) / 2,
    "repeated": np.repeat([4.0, 2.0, 1.0, 0.1], [3, 10, 20, D - 33]),
    "cluster at the cut": np.where(I <= 3, 2.0, np.where(I <= 24, 1.0 - 1e-5 * I, 0.3)),
    "dominant": np.where(I == 1, 1.0, 1e-6 / I),
    "deficient": np.where(I <= 5, 1 / I, 0),
    "as many as asked for": np.where(I <= K, 1.0, 0),
    "identity": np.ones(D),
    "zeros": np.zeros(D),
}
top = jax.jit(spectrum, static_argnames="rank")
whole = jax.jit(spectrum)


@lru_cache
def rotated(name: str) -> np.ndarray:
    """A symmetric float64 matrix with these eigenvalues."""
    basis, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((D, D)))
    matrix = basis * SPECTRA[name] @ basis.T
    return (matrix + matrix.T) / 2


def matrix_function(response, matrix: jax.Array, rank: int | None = None) -> jax.Array:
    """`f(S)` from the spectrum."""
    eigen = spectrum(matrix, 20, rank=rank)
    return eigen.vectors @ apply_response(response, eigen, eigen.vectors.T)


def test_a_block_is_used_for_large_matrices_only():
    """Where dimensions are few, or few per wanted vector, an eigensolve is cheaper."""
    assert is_cheaper(D, K) and is_cheaper(16384, 1024)
    assert not is_cheaper(D - 1, 1) and not is_cheaper(1024, 65)


@pytest.mark.parametrize("name", SPECTRA)
def test_leading_eigenvalues_are_those_of_the_full_solver(name, dtype):
    """Whatever the spectrum they agree within rounding of the largest, and reported residuals are true and small."""
    eps, matrix = np.finfo(dtype).eps, rotated(name).astype(dtype)
    found = top(matrix, 20, rank=K)
    values, vectors = (np.asarray(x, np.float64) for x in (found.values, found.vectors))
    assert np.max(np.abs(values - np.linalg.eigvalsh(matrix.astype(np.float64))[::-1][:K])) <= 20 * eps * values[0]
    residuals = np.linalg.norm(matrix @ vectors - vectors * values, axis=0)
    assert np.max(np.abs(residuals - found.residuals)) <= 4 * eps * values[0]
    assert np.max(found.residuals) <= ROUNDING * eps * values[0]
    assert entrywise_error(vectors.T @ vectors, np.eye(K)) <= 50 * eps


@pytest.mark.parametrize(
    ("name", "cut"), [("decaying", 10), ("spikes", 8), ("repeated", 13), ("cluster at the cut", 3)]
)
def test_leading_subspaces_are_those_of_the_full_solver(name, cut, dtype):
    """Where there is a gap the two projections differ by no more than residuals over the gap."""
    matrix, values = rotated(name).astype(dtype), np.sort(SPECTRA[name])[::-1]
    ours, all_of_them = (
        np.asarray(s.vectors, np.float64)[:, :cut] for s in (top(matrix, 20, rank=K), whole(matrix, 20))
    )
    gap = (values[cut - 1] - values[cut]) / values[0]
    difference = np.linalg.norm(ours @ ours.T - all_of_them @ all_of_them.T, 2)
    assert difference <= 2 * ROUNDING * np.finfo(dtype).eps / gap


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e15, 1e30])
def test_leading_eigenpairs_keep_their_digits_at_any_scale(scale):
    """In float32, a matrix 1e30 times larger or smaller has eigenvalues, stand-ins and residuals of that scale."""
    plain, scaled = (
        top(rotated("slow").astype(np.float32), 20, rank=K),
        top((rotated("slow") * scale).astype(np.float32), 20, rank=K),
    )
    assert entrywise_error(scaled.values / np.float32(scale), plain.values) <= 2e-6
    assert entrywise_error(scaled.rest / np.float32(scale), plain.rest) <= 2e-6
    assert np.all(scaled.residuals <= ROUNDING * np.finfo(np.float32).eps * scaled.values[0])


def unresolved(dtype: np.dtype) -> np.ndarray:
    """Eigenvalues so close that no block of this size tells them apart."""
    basis, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((D, D)))
    return (basis * (1 + 1e-4 * np.linspace(1, 0, D)) @ basis.T).astype(dtype)


def test_what_does_not_converge_is_solved_in_full(x64):
    """A spectrum without gaps ends in the eigensolver: the same pairs, to the last digit."""
    operator = Dense(jnp.asarray(unresolved(np.float64)))
    assert not _converged(_pairs(_filtered_block(operator, K), K))
    found, expected = leading_pairs(operator, K), whole(operator.entries, 20)
    assert entrywise_error(found.values, expected.values[:K]) <= 1e-14
    assert entrywise_error(np.abs(np.sum(found.vectors * expected.vectors[:, :K], 0)), np.ones(K)) <= 1e-8


@pytest.mark.everything(but=1)
def test_rows_need_no_matrix(dtype):
    """`H^T H / n` applied to vectors has the leading eigenpairs of the matrix, and so have rows of any scale."""
    h = (np.random.default_rng(0).standard_normal((600, D)) / np.sqrt(I)).astype(dtype)
    matrix = h.T.astype(np.float64) @ h / len(h)
    expected = np.linalg.eigvalsh(matrix)[::-1]
    found = leading_pairs(SecondMoment(jnp.asarray(h)), K)
    assert entrywise_error(found.values, expected[:K]) <= 10 * np.finfo(dtype).eps
    for rank in (2, K):  # without the matrix, and with it
        eigen = spectrum_of_rows(jnp.asarray(h * dtype.type(1e-15)), rank)
        assert (
            entrywise_error(eigen.values * dtype.type(1e15) * dtype.type(1e15), expected[:rank])
            <= 10 * np.finfo(dtype).eps
        )
        assert relative_error(np.sum(eigen.all_values) / np.trace(matrix) * 1e30, 1.0) <= 1e-4


def test_batches_equal_a_loop():
    """Under vmap each matrix has the pairs that it has alone, converged or not."""
    matrices = np.stack([rotated("slow"), rotated("spikes"), unresolved(np.float64)]).astype(np.float32)
    found = jax.jit(jax.vmap(partial(spectrum, n=20, rank=K)))(matrices)
    for i, matrix in enumerate(matrices):
        alone = top(matrix, 20, rank=K)
        assert entrywise_error(found.values[i], alone.values) <= 2e-6
        assert entrywise_error(np.abs(np.sum(found.vectors[i, :, 0] * alone.vectors[:, 0])), 1.0) <= (
            1e-4 if i < 2 else 1
        )


def test_nan_stays_nan():
    """A matrix with NaN, which nothing can raise under jit, has no finite eigenvalue."""
    assert np.all(np.isnan(top(jnp.full((D, D), jnp.nan), 20, rank=K).values))


# The eigenvalues that are left out


@pytest.mark.parametrize("name", ["decaying", "spikes", "repeated", "deficient"])
def test_sums_over_a_tail_are_exact(name, x64):
    """Ranks by explained variance and gamma beyond a cut are those of the whole spectrum."""
    found, expected = top(rotated(name), 20, rank=K), whole(rotated(name), 20)
    assert found.all_values.shape == (D,) and relative_error(np.sum(found.all_values), np.sum(SPECTRA[name])) <= 1e-12
    for share in (0.05, 0.15, 0.2):
        rank = principal_rank(expected.values, "explained_variance", share)
        assert principal_rank(found, "explained_variance", share) == rank <= K
        gammas = (tail_gamma(v, rank=rank, n=20) for v in (found.all_values, expected.values))
        assert entrywise_error(*gammas) <= 1e-11


@pytest.mark.parametrize(("rule", "level"), [("threshold", 1e-3), ("rank", 30), ("explained_variance", 0.9)])
def test_a_rank_beyond_the_leading_ones_is_seen(rule, level):
    """A rule that is not decided by the leading k gives a rank above k."""
    assert principal_rank(top(rotated("decaying").astype(np.float32), 20, rank=K), rule, level) > K


@pytest.mark.parametrize("rank", [3, 11, 12, 99])
def test_small_matrices_are_cut(rank, x64):
    """The leading part of a full spectrum: the same values, the rest of the trace beyond, all of them if fewer."""
    h = np.random.default_rng(0).standard_normal((30, 12))
    found, expected = spectrum(h.T @ h, 30, rank=rank), spectrum(h.T @ h, 30)
    k = min(rank, 12)
    assert entrywise_error(found.values, expected.values[:k]) <= 1e-14 and found.rest.shape == (12 - k,)
    assert entrywise_error(np.sum(found.rest), np.sum(expected.values[k:])) <= 1e-12 or k == 12
    assert np.all(np.diff(found.all_values) <= 1e-12)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("rank", [0, -1, 2.5, True, "3"])
def test_bad_ranks_are_named(rank):
    """A rank is a positive integer."""
    with pytest.raises(InputError, match="rank must be a positive integer, got"):
        spectrum(np.eye(3), 3, rank=rank)


# Derivatives

RESPONSES = {
    "ridge": ridge(0.3, threshold=0.55),
    "from_head": ridge.from_head(1e-3, 2000.0, threshold=0.55),
    "projection": projection(threshold=0.55),
    "gradient_flow": gradient_flow(2.0, threshold=0.55),
    "rank": ridge(0.3, rank=3),
}
SMALL = {
    "distinct": np.array([4.0, 3.5, 2.5, 1.2, 0.9, 0.8, 0.5, 0.3, 0.2, 0.1]),
    "repeated": np.array([4.0, 4.0, 2.0, 1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.1]),
}


@pytest.mark.parametrize("name", RESPONSES)
@pytest.mark.parametrize("values", SMALL)
def test_matrix_functions_of_leading_pairs_differentiate(name, values, x64):
    """Their derivatives are finite differences of f(S), also where the k-th eigenvalue is one of many equal ones."""
    basis, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((10, 10)))
    assert derivative_error(of_five(name), basis * SMALL[values] @ basis.T) <= 1e-8


@lru_cache
def of_five(name: str) -> Callable:
    """f(S) from the leading five eigenpairs."""
    return lambda m: matrix_function(RESPONSES[name], (m + m.T) / 2, 5)


@lru_cache
def derivatives(name: str, rank: int | None) -> tuple[Callable, Callable]:
    """Forwards along a direction, backwards from weights, of f(S) from the leading eigenpairs."""
    f = partial(matrix_function, RESPONSES[name], rank=rank)
    forwards = jax.jit(lambda m, direction: jax.jvp(f, (m,), (direction,))[1])
    return forwards, jax.jit(jax.grad(lambda m, weights: jnp.sum(weights * f(m))))


@pytest.mark.parametrize("name", ["from_head", "projection"])
@pytest.mark.parametrize("values", ["spikes", "repeated", "cluster at the cut"])
def test_derivatives_of_leading_pairs_are_those_of_all(name, values, x64):
    """Forwards and backwards, large matrices too, where filters cut within the k."""
    weights, change = np.random.default_rng(1).standard_normal((2, D, D))
    both_ways = zip(derivatives(name, K), derivatives(name, None), (change + change.T, weights), strict=True)
    for part, full, direction in both_ways:
        assert entrywise_error(part(rotated(values), direction), full(rotated(values), direction)) <= 1e-9


def test_second_derivatives_are_refused(x64):
    """Asking for a second derivative in the matrix is an error, not a silent zero."""
    with pytest.raises(NotImplementedError, match="second derivatives of a spectrum"):
        jax.hessian(lambda m: jnp.sum(matrix_function(ridge(0.3, rank=3), m, 5) ** 2))(np.diag(SMALL["distinct"]))
