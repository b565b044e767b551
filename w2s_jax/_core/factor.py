"""Factorisations of one matrix, safe to batch: eigenpairs, Cholesky, QR, and the regularised inverse.

On a CPU jaxlib spreads a batched LAPACK call over its thread pool and waits for it on one of the pool's own threads: two
batched calls side by side on two cores wait for each other for ever. So under `vmap` a CPU takes the matrices one after
another; accelerators take them in one call. Nothing here is differentiated but `inverse` and `solve`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_batching import custom_vmap
from jax.typing import ArrayLike

from w2s_jax._core.arrays import matmul

BLOCK = 32  # of `inverse_factor`
# Strengths, in units of the trace, at which errors of an expected experiment with fewer rows than features reach 1e-4 and
# 1e-10, by bytes of a number; measured, and proportional to the strength's inverse square.
ABOVE_ROUNDING = {4: 1.5e-4, 8: 1e-5}
ONE_THREAD = {4: 192, 8: 96}  # size up to which LAPACK factorises in one thread, by bytes of a number; measured


def _one_at_a_time(function: Callable) -> Callable:
    """The function of arrays with a batching rule: a loop on a CPU, one call elsewhere."""
    run = custom_vmap(function)

    @run.def_vmap
    def rule(size: int, batched: list[bool], *arrays: Array) -> tuple[Any, Any]:
        moving = [x for x, moves in zip(arrays, batched, strict=True) if moves]

        def apply(call: Callable, moving: Any) -> Any:
            rest = iter(moving)
            return call(*(next(rest) if moves else x for x, moves in zip(arrays, batched, strict=True)))

        one_by_one = lambda *moving: jax.lax.map(partial(apply, run), moving)
        at_once = lambda *moving: jax.vmap(lambda *m: apply(function, m))(*moving)
        result = jax.lax.platform_dependent(*moving, cpu=one_by_one, default=at_once)
        return result, jax.tree.map(lambda _: True, result)

    return wraps(function)(lambda *arrays: run(*arrays))


@_one_at_a_time
def eigh(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues (k,), ascending, and eigenvectors (k, k) by columns of a matrix that is symmetric up to rounding."""
    vectors, values = jax.lax.linalg.eigh(matrix, symmetrize_input=True)
    return values, vectors


@_one_at_a_time
def eigvalsh(matrix: Array) -> Array:
    """Eigenvalues (k,), ascending."""
    return jnp.linalg.eigvalsh(matrix)


@_one_at_a_time
def cholesky(matrix: Array) -> Array:
    """Lower Cholesky factor (k, k), NaN where the matrix is not positive definite."""
    return jnp.linalg.cholesky(matrix, symmetrize_input=False)


@_one_at_a_time
def cholesky_solve(factor: Array, b: Array) -> Array:
    """`(L L^T)^{-1} b` for a lower factor L (k, k) and b (k,) or (k, m)."""
    return jax.scipy.linalg.cho_solve((factor, True), b)


@_one_at_a_time
def inverse_factor(matrix: Array) -> Array:
    """Inverse (k, k) of the lower Cholesky factor, NaN where the matrix is not positive definite.

    On a CPU LAPACK's threads spin for milliseconds after every call that is large enough for them, and take the cores from
    the products that follow (a ranking with them takes twice as long), so blocks that one thread factorises are put
    together by products.
    """
    return jax.lax.platform_dependent(matrix, cpu=_inverse_factor_by_halves, default=_inverse_factor_at_once)


def _inverse_factor_at_once(matrix: Array) -> Array:
    eye = jnp.eye(len(matrix), dtype=matrix.dtype)
    return jax.scipy.linalg.solve_triangular(cholesky(matrix), eye, lower=True)


def _inverse_factor_by_halves(matrix: Array) -> Array:
    """Large ones by halves, `[[X, 0], [-Z W^T X, Z]]` with `W = X B` and Z that of what W leaves of the second half."""
    k = len(matrix)
    if k <= 8 * BLOCK:
        return _inverse_factor_by_blocks(matrix)
    half = k // 2 // BLOCK * BLOCK
    X = _inverse_factor_by_halves(matrix[:half, :half])
    W = matmul(X, matrix[:half, half:])
    Z = _inverse_factor_by_halves(matrix[half:, half:] - matmul(W.T, W))
    return jnp.block([[X, jnp.zeros_like(W)], [-matmul(Z, matmul(W.T, X)), Z]])


def _inverse_factor_by_blocks(matrix: Array) -> Array:
    """Rows above `block i` are the result's; below, columns left of it are its right-hand sides and the rest what is left."""
    k = len(matrix)
    steps = -(-k // BLOCK)
    index = jnp.arange(steps * BLOCK)
    padded = jnp.pad(matrix, (0, steps * BLOCK - k)) + jnp.diag((index >= k).astype(matrix.dtype))

    def step(i: Array, state: Array) -> Array:
        rows = jax.lax.dynamic_slice_in_dim(state, i * BLOCK, BLOCK)
        pivot = _inverse_factor_of_block(jax.lax.dynamic_slice_in_dim(rows, i * BLOCK, BLOCK, 1))
        rows = matmul(pivot, rows)
        below = jnp.where(index >= (i + 1) * BLOCK, rows, 0)
        rows = jax.lax.dynamic_update_slice_in_dim(rows - below, pivot, i * BLOCK, 1)
        state = jax.lax.dynamic_update_slice_in_dim(state, jnp.zeros_like(rows.T), i * BLOCK, 1)
        state = state - matmul(below.T, rows + below)
        return jax.lax.dynamic_update_slice_in_dim(state, rows, i * BLOCK, 0)

    return jax.lax.fori_loop(0, steps, step, padded)[:k, :k]


def _inverse_factor_of_block(matrix: Array) -> Array:
    """By halves that double: the off-diagonal quarter of every diagonal block from the inverses of its halves."""
    factor = cholesky(matrix)
    place = jnp.arange(len(matrix))

    def double(level: Array, inverted: Array) -> Array:
        half = place >> level
        quarter = (half[:, None] >> 1 == half >> 1) & (half[:, None] > half)
        return inverted - matmul(matmul(inverted, jnp.where(quarter, factor, 0)), inverted)

    levels = (len(matrix) - 1).bit_length()
    return jax.lax.fori_loop(0, levels, double, jnp.diag(1 / jnp.diagonal(factor)))


@_one_at_a_time
def qr(matrix: Array) -> tuple[Array, Array]:
    """Orthonormal columns (m, k) and the triangle (k, k) of a tall matrix (m, k)."""
    q, r = jnp.linalg.qr(matrix)
    return q, r


def numerically_zero(values: Array) -> Array:
    """The eigenvalue below which a (k,) spectrum is rounding: 4 eps sqrt(k) of the largest."""
    return 4 * jnp.finfo(values.dtype).eps * values.shape[-1] ** 0.5 * values[:1]


def inverse(matrix: Array, strength: ArrayLike) -> Array:
    """`(matrix + strength I)^{-1}` of a positive semidefinite matrix by Cholesky; NaN where it has a negative eigenvalue.

    A strength below the rounding of the matrix is raised to it. The inverse divides by it what rounding leaves in the null
    space of a singular matrix; where that could be seen, the inverse is zero on eigenvectors of numerically zero
    eigenvalues, which nothing made of the same rows has a part in.
    """
    used = sound_strength(matrix, strength)
    return _inverse(matrix + used * jnp.eye(len(matrix), dtype=matrix.dtype), used)


def solve(matrix: Array, strength: ArrayLike, b: Array) -> Array:
    """`(matrix + strength I)^{-1} b`, the strength as in `inverse`, for b (k,) or (k, m) of few columns."""
    regular = matrix + sound_strength(matrix, strength) * jnp.eye(len(matrix), dtype=matrix.dtype)
    constant = jax.lax.stop_gradient(regular)
    if jax.default_backend() == "cpu" and len(matrix) > ONE_THREAD[matrix.dtype.itemsize]:
        inverted = inverse_factor(constant)
        backward = lambda _, b: matmul(inverted.T, matmul(inverted, b))
    else:
        factor = cholesky(constant)
        backward = lambda _, b: cholesky_solve(factor, b)
    return jax.lax.custom_linear_solve(lambda x: matmul(regular, x), b, backward, symmetric=True)


def sound_strength(matrix: Array, strength: ArrayLike) -> Array:
    """The strength that `inverse` and `solve` use."""
    floor = jnp.finfo(matrix.dtype).eps * jnp.trace(matrix)
    # The last term keeps a matrix of zeros (a padded model) from dividing by zero.
    return jnp.maximum(jnp.asarray(strength, matrix.dtype), floor) + jnp.finfo(matrix.dtype).tiny


@jax.custom_jvp
def _inverse(matrix: Array, strength: Array) -> Array:
    """Of a matrix that the strength is part of."""

    def in_range(state: tuple[Array, Array]) -> tuple[Array, Array]:
        # The barrier ties the eigensolve to the loop: the compiler would otherwise do it ahead, needed or not.
        values, vectors = eigh(jax.lax.optimization_barrier((matrix, state[0]))[0])
        zero = numerically_zero(values[::-1] - strength)
        roots = jnp.where(values - strength > zero, 1 / jnp.sqrt(jnp.maximum(values, strength)), 0)
        half = vectors * jnp.where(values[0] - strength < -zero, jnp.nan, roots)
        return matmul(half, half.T), jnp.asarray(True)

    inverted = _square(inverse_factor(matrix))
    # A loop, not a branch: under vmap too it costs nothing where every inverse is sound.
    sound = _is_sound(matrix, strength, inverted)
    return jax.lax.while_loop(lambda state: ~state[1], in_range, (inverted, sound))[0]


def _is_sound(matrix: Array, strength: Array, inverted: Array) -> Array:
    """Whether the strength is well above rounding, or else no eigenvalue can be numerically zero: `||inverse||_F` bounds the
    smallest from below. Columns of zeros, of padded models, do not count."""
    diagonal = jnp.diagonal(matrix) - strength
    trace = jnp.sum(diagonal)
    zero = 4 * jnp.finfo(matrix.dtype).eps * len(matrix) ** 0.5 * trace * jnp.linalg.norm(matrix / trace) + strength
    bound = jnp.linalg.norm(jnp.where(diagonal > 0, inverted * zero, 0))
    return (strength > ABOVE_ROUNDING[matrix.dtype.itemsize] * trace) | (bound < 1)


def _square(factor: Array) -> Array:
    """`L^T L` of a lower triangle; on a CPU by halves, which leaves out most of the products with zeros."""
    k = len(factor)
    if k <= 8 * BLOCK or jax.default_backend() != "cpu":
        return matmul(factor.T, factor)
    half = k // 2 // BLOCK * BLOCK
    X, Y, Z = factor[:half, :half], factor[half:, :half], factor[half:, half:]
    corner = matmul(Y.T, Z)
    return jnp.block([[_square(X) + matmul(Y.T, Y), corner], [corner.T, _square(Z)]])


@_inverse.defjvp
def _inverse_jvp(primals: tuple, tangents: tuple) -> tuple:
    inverted = _inverse(*primals)
    return inverted, -matmul(matmul(inverted, tangents[0]), inverted)
