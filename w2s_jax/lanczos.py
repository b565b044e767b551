"""The largest eigenvalue of many symmetric matrices at once, by Lanczos with a residual-based stop.

All matrices of a batch advance together, so the caller's product can be one matrix product for the whole batch. For
eigenvalues the recurrence keeps two vectors: without reorthogonalisation the leading Ritz value and its residual stay
accurate (Paige 1971). Eigenvectors need the whole basis, kept orthogonal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from w2s_jax._arrays import matmul
from w2s_jax._factor import eigh, eigvalsh

MAX_STEPS = 96
STEPS_PER_CHECK = 8
SECTIONS = 32


class Tridiagonal(NamedTuple):
    """Lanczos' projections of a batch: diagonal and next off-diagonal (steps, batch), and how many steps count."""

    diagonal: Array
    off: Array
    steps: Array


class State(NamedTuple):
    """The recurrence: the projections, the current and the previous vectors (k, batch), the basis (batch, steps, k)."""

    projection: Tridiagonal
    vector: Array
    previous: Array
    basis: Any


class Top(NamedTuple):
    """Leading Ritz values (batch,), bounds of their error (batch,), and the ratios s_i / s_{i+1} of their vectors' coordinates
    (steps, batch)."""

    value: Array
    residual: Array
    ratios: Array


class Problem(NamedTuple):
    """A batch of positive semidefinite matrices (k, k), none of them formed.

    `product` maps vectors (k, batch) to the matrices times them, `start` (k, batch) are unit vectors to start from,
    `matrix(*point)` is one of the matrices, dense, given its slice of `points` (a tuple of arrays, batch axis first).
    """

    product: Callable[[Array], Array]
    start: Array
    points: tuple[Array, ...]
    matrix: Callable[..., Array]


def leading_values(problem: Problem) -> Array:
    """Largest eigenvalues (batch,), to 1e-5 of their size in float32 and 1e-10 in float64."""
    top, _ = _lanczos(problem, with_basis=False)
    return _resolve(problem, top, top.value, lambda *point: eigvalsh(problem.matrix(*point))[-1])


def leading_vectors(problem: Problem) -> Array:
    """Unit eigenvectors (batch, k) of the largest eigenvalues."""
    top, state = _lanczos(problem, with_basis=True)
    return _resolve(
        problem, top, _ritz_vectors(top.ratios, state.basis), lambda *point: eigh(problem.matrix(*point))[1][:, -1]
    )


def random_start(shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """The same unit vector (k, batch) for every matrix of a batch: random, so that no eigenvector is orthogonal to it."""
    # Made here and not by the program, where random numbers take as long to compile as a tenth of a ranking.
    start = np.random.default_rng(0).standard_normal((shape[0], 1))
    return jnp.broadcast_to(jnp.asarray(start / np.linalg.norm(start), dtype), shape)


def _resolve(problem: Problem, top: Top, results: Array, dense: Callable[..., Array]) -> Array:
    """Replaces the results of matrices where Lanczos has not converged by `dense` ones, one after another."""

    def solve(state):
        results, todo = state
        # The barrier ties the solve to the loop: the compiler would otherwise do it ahead, whether needed or not.
        i = jnp.argmax(todo)
        here, results = jax.lax.optimization_barrier((jax.tree.map(lambda p: p[i], problem.points), results))
        return results.at[i].set(dense(*here)), todo.at[i].set(False)

    # A loop, not a branch: under vmap too it costs nothing where Lanczos has converged everywhere.
    return jax.lax.while_loop(lambda state: jnp.any(state[1]), solve, (results, ~_converged(top)))[0]


def _converged(top: Top) -> Array:
    tolerance = 1e-5 if top.value.dtype == jnp.float32 else 1e-10
    return top.residual <= tolerance * top.value


def _lanczos(problem: Problem, with_basis: bool) -> tuple[Top, State]:
    """Runs until every residual is below the tolerance, or MAX_STEPS; a result is kept from where it converged."""
    start = problem.start
    k, batch = start.shape
    limit = min(MAX_STEPS, k)
    empty, nothing = jnp.zeros((limit, batch), start.dtype), jnp.zeros((batch,), start.dtype)
    basis = jnp.zeros((batch, limit, k), start.dtype) if with_basis else None
    state = State(Tridiagonal(empty, empty, jnp.asarray(0)), start, jnp.zeros_like(start), basis)

    def advance(carry: tuple[Top, State]) -> tuple[Top, State]:
        top, state = carry
        more = jnp.minimum(STEPS_PER_CHECK, limit - state.projection.steps)
        state = jax.lax.fori_loop(0, more, lambda _, s: _step(problem.product, s), state)
        # Past convergence the recurrence finds the same eigenvalue again and its residuals mean nothing.
        done = _converged(top)
        return Top(*(jnp.where(done, old, new) for old, new in zip(top, _ritz(state.projection), strict=True))), state

    def unfinished(carry: tuple[Top, State]) -> Array:
        return ~jnp.all(_converged(carry[0])) & (carry[1].projection.steps < limit)

    first = Top(nothing, nothing + jnp.inf, empty)
    return jax.lax.while_loop(unfinished, advance, (first, state))


def _ritz_vectors(ratios: Array, basis: Array) -> Array:
    """Unit eigenvectors (batch, k) from their coordinates' ratios."""
    weights = jnp.concatenate([jnp.ones_like(ratios[:1]), jnp.cumprod(1 / ratios[:-1], 0)])
    vectors = matmul(weights.T[:, None], basis)[:, 0]
    return vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)


def _step(product: Callable[[Array], Array], state: State) -> State:
    (diagonal, off, j), vector, previous, basis = state
    image = product(vector)
    size = jnp.linalg.norm(image, axis=0)
    alpha = jnp.sum(vector * image, 0)
    before = jnp.where(j > 0, off[jnp.maximum(j - 1, 0)], 0)
    image = image - alpha * vector - before * previous
    # Where little is left much of it is rounding, which along the vector would push Ritz values beyond the spectrum.
    along = jnp.sum(vector * image, 0) * vector
    if basis is not None:
        # The vector joins the basis last: a loop copies an array that it reads after it has written to it.
        components = matmul(basis, image.T[..., None])
        along += matmul(jnp.swapaxes(components, 1, 2), basis)[:, 0].T
        basis = basis.at[:, j].set(vector.T)
    image = image - along
    beta = jnp.linalg.norm(image, axis=0)
    # Near rounding the space is exhausted: a zero vector ends the recurrence, the rest of T is zero.
    alive = beta > 4 * jnp.finfo(image.dtype).eps * size
    beta = jnp.where(alive, beta, 0)
    image = jnp.where(alive, image / jnp.where(alive, beta, 1), 0)
    return State(Tridiagonal(diagonal.at[j].set(alpha), off.at[j].set(beta), j + 1), image, vector, basis)


def _ritz(projection: Tridiagonal) -> Top:
    value = _top_of_tridiagonal(projection)
    ratios, last_weight = _ratios(projection, value)
    return Top(value, projection.off[projection.steps - 1] * last_weight, ratios)


def _top_of_tridiagonal(projection: Tridiagonal) -> Array:
    """Largest eigenvalue (batch,) by multisection: theta lies above it iff all pivots of theta - T are positive."""
    diagonal, off, steps = projection
    used = (jnp.arange(diagonal.shape[0]) < steps)[:, None]
    before = jnp.concatenate([jnp.zeros_like(off[:1]), off[:-1]])
    low = jnp.max(jnp.where(used, diagonal, 0), 0)
    high = jnp.max(jnp.where(used, diagonal + before + off, 0), 0)
    fractions = jnp.arange(1, SECTIONS + 1, dtype=diagonal.dtype)[:, None] / (SECTIONS + 1)

    def above(theta):
        def pivot(i, carry):
            q, positive = carry
            q = theta - diagonal[i] - before[i] ** 2 / q
            positive &= q > 0
            return jnp.where(q > 0, q, 1), positive

        start = (jnp.ones_like(theta), jnp.ones(theta.shape, bool))
        return jax.lax.fori_loop(0, steps, pivot, start)[1]

    def shrink(_, bracket):
        low, high = bracket
        theta = low + (high - low) * fractions
        over = above(theta)
        return jnp.max(jnp.where(over, low, theta), 0), jnp.min(jnp.where(over, theta, high), 0)

    passes = 6 if diagonal.dtype == jnp.float32 else 11
    low, high = jax.lax.fori_loop(0, passes, shrink, (low, high))
    return (low + high) / 2


def _ratios(projection: Tridiagonal, value: Array) -> tuple[Array, Array]:
    """Ratios s_i / s_{i+1} of the Ritz vectors' coordinates (steps, batch), from their stable end, and |s_last| / |s|."""
    diagonal, off, steps = projection
    smallest = jnp.finfo(value.dtype).eps * value

    def back(index, carry):
        i = steps - 2 - index
        ratios, below, last, norm = carry
        coupled = off[i] > 0
        ratio = jnp.maximum(value - diagonal[i + 1] - below, smallest) / jnp.where(coupled, off[i], 1)
        ratio = jnp.where(coupled, ratio, jnp.inf)
        below = jnp.where(coupled, off[i] / ratio, 0)
        return ratios.at[i].set(ratio), below, last / ratio**2, 1 + norm / ratio**2

    one = jnp.ones_like(value)
    start = (jnp.full_like(diagonal, jnp.inf), jnp.zeros_like(value), one, one)
    ratios, _, last, norm = jax.lax.fori_loop(0, steps - 1, back, start)
    return ratios, jnp.sqrt(last / norm)
