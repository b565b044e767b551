"""The largest eigenvalue of many symmetric matrices at once, by Lanczos with a residual-based stop.

All matrices of a batch advance together, so the caller's product can be one matrix product for the whole batch. For
eigenvalues the recurrence keeps two vectors: without reorthogonalisation the leading Ritz value and its residual stay
accurate (Paige 1971). Eigenvectors need the whole basis, kept orthogonal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from w2s_jax._core.arrays import matmul
from w2s_jax._core.factor import eigh, eigvalsh

MAX_STEPS = 96
STEPS_PER_CHECK = 8
SECTIONS = 32, 256  # of a bracket at once, fewest and most: those of a small batch cost nothing


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
    """Leading Ritz values (batch,), bounds of their error (batch,), their vectors' coordinates in the basis (steps, batch)."""

    value: Array
    residual: Array
    coordinates: Array


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
        problem, top, _ritz_vectors(top.coordinates, state.basis), lambda *point: eigh(problem.matrix(*point))[1][:, -1]
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


def _converged(top: Top, vectors: bool = False) -> Array:
    """Whether residuals are small enough; less for vectors, whose errors are of their order and not of their squares'."""
    values, of_vectors = (1e-5, 1e-6) if top.value.dtype == jnp.float32 else (1e-10, 1e-13)
    return top.residual <= (of_vectors if vectors else values) * top.value


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
        done = _converged(top, with_basis)
        return Top(*(jnp.where(done, old, new) for old, new in zip(top, _ritz(state.projection), strict=True))), state

    def unfinished(carry: tuple[Top, State]) -> Array:
        return ~jnp.all(_converged(carry[0], with_basis)) & (carry[1].projection.steps < limit)

    first = Top(nothing, nothing + jnp.inf, empty)
    return jax.lax.while_loop(unfinished, advance, (first, state))


def _ritz_vectors(coordinates: Array, basis: Array) -> Array:
    """Unit eigenvectors (batch, k)."""
    vectors = matmul(coordinates.T[:, None], basis)[:, 0]
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
    coordinates = _coordinates(projection, value)
    last = projection.steps - 1
    return Top(value, projection.off[last] * jnp.abs(coordinates[last]), coordinates)


def _top_of_tridiagonal(projection: Tridiagonal) -> Array:
    """Largest eigenvalue (batch,) by multisection: theta lies above it iff all pivots of theta - T are positive."""
    # eigh_tridiagonal of jax.scipy runs as long (1.4 ms for 128), compiles 1.5 to 2.4 times as long; a dense eigh runs 0.5 s.
    diagonal, off, steps = projection
    # Rows beyond the last step, up to a whole number of checks, are zero and their pivots theta.
    rows = -(-len(diagonal) // STEPS_PER_CHECK) * STEPS_PER_CHECK
    used = (jnp.arange(rows) < steps)[:, None]
    diagonal, off = (jnp.where(used, jnp.pad(x, [(0, rows - len(x)), (0, 0)]), 0) for x in (diagonal, off))
    before = jnp.where(used, jnp.roll(off, 1, 0), 0).at[0].set(0)
    squares = before * before

    def above(theta: Array) -> Array:
        def pivots(check, q):
            for i in range(STEPS_PER_CHECK):
                row = check * STEPS_PER_CHECK + i
                q = jnp.where(q > 0, theta - diagonal[row] - squares[row] / q, q)
            return q

        return jax.lax.fori_loop(0, -(-steps // STEPS_PER_CHECK), pivots, jnp.ones_like(theta)) > 0

    sections = int(np.clip(512 // max(diagonal.shape[1], 1), *SECTIONS))
    fractions = jnp.arange(1, sections + 1, dtype=diagonal.dtype)[:, None] / (sections + 1)

    def shrink(_, bracket):
        low, high = bracket
        theta = low + (high - low) * fractions
        over = above(theta)
        return jnp.max(jnp.where(over, low, theta), 0), jnp.min(jnp.where(over, theta, high), 0)

    passes = math.ceil((30 if diagonal.dtype == jnp.float32 else 55) / math.log2(sections + 1))
    bracket = jnp.max(diagonal, 0), jnp.max(diagonal + before + off, 0)
    low, high = jax.lax.fori_loop(0, passes, shrink, bracket)
    return (low + high) / 2


def _coordinates(projection: Tridiagonal, value: Array) -> Array:
    """The Ritz vectors' coordinates (steps, batch), unit vectors, by a twisted factorisation of `theta - T`.

    Pivots from either end give the ratio of neighbours reliably only as far as coordinates grow; the two meet where the
    vector is largest. A start that has little of the eigenvector puts that far from the first coordinate.
    """
    diagonal, off, steps = projection
    index = jnp.arange(len(diagonal))[:, None]
    size = jnp.where(value > 0, value, 1)  # else squares of small numbers vanish
    above, off = (value - diagonal) / size, jnp.where(index < steps - 1, off, 0) / size
    squares, smallest = off * off, jnp.finfo(value.dtype).tiny
    nonzero = lambda pivot: jnp.where(jnp.abs(pivot) < smallest, smallest, pivot)

    def advance(i, pivots):
        # Where there is no neighbour the square is zero: beyond the last step, and at -1, which is the last row.
        down, up = pivots
        j = steps - 1 - i
        down = down.at[i].set(nonzero(above[i] - squares[i - 1] / down[i - 1]))
        return down, up.at[j].set(nonzero(above[j] - squares[j] / up[j + 1]))

    positive = jnp.ones((len(diagonal) + 1, *value.shape), value.dtype)
    down, up = jax.lax.fori_loop(0, steps, advance, (positive, positive))
    down, up = down[:-1], up[1:]
    # At the twist what is left of both ends is smallest.
    left = jnp.where(index < steps, jnp.abs(down - squares / up), jnp.inf)
    growth = jnp.where(index < jnp.argmin(left, 0), down / jnp.where(off > 0, off, jnp.inf), off / up)
    sizes = jnp.concatenate([jnp.ones_like(growth[:1]), jnp.cumprod(growth[:-1], 0)])
    sizes = sizes / jnp.max(jnp.abs(sizes), 0)
    return sizes / jnp.linalg.norm(sizes, axis=0)
