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

from w2s_jax._arrays import matmul


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
def triangular_inverse(factor: Array) -> Array:
    """Inverse (k, k) of a lower triangular matrix."""
    return jax.scipy.linalg.solve_triangular(factor, jnp.eye(len(factor), dtype=factor.dtype), lower=True)


@_one_at_a_time
def qr(matrix: Array) -> tuple[Array, Array]:
    """Orthonormal columns (m, k) and the triangle (k, k) of a tall matrix (m, k)."""
    q, r = jnp.linalg.qr(matrix)
    return q, r


def inverse(matrix: Array, strength: ArrayLike) -> Array:
    """`(matrix + strength I)^{-1}` of a positive semidefinite matrix by Cholesky.

    A strength below the rounding of the matrix is raised to it, so that a singular matrix is solved in its range.
    """
    return _inverse(_regularised(matrix, strength))


def solve(matrix: Array, strength: ArrayLike, b: Array) -> Array:
    """`(matrix + strength I)^{-1} b`, the strength as in `inverse`, for b (k,) or (k, m) of few columns."""
    regular = _regularised(matrix, strength)
    factor = cholesky(jax.lax.stop_gradient(regular))
    backward = lambda _, b: cholesky_solve(factor, b)
    return jax.lax.custom_linear_solve(lambda x: matmul(regular, x), b, backward, symmetric=True)


def _regularised(matrix: Array, strength: ArrayLike) -> Array:
    floor = jnp.finfo(matrix.dtype).eps * jnp.trace(matrix)
    # The last term keeps a matrix of zeros (a padded model) from dividing by zero.
    strength = jnp.maximum(jnp.asarray(strength, matrix.dtype), floor) + jnp.finfo(matrix.dtype).tiny
    return matrix + strength * jnp.eye(matrix.shape[0], dtype=matrix.dtype)


@jax.custom_jvp
def _inverse(matrix: Array) -> Array:
    return cholesky_solve(cholesky(matrix), jnp.eye(len(matrix), dtype=matrix.dtype))


@_inverse.defjvp
def _inverse_jvp(primals: tuple, tangents: tuple) -> tuple:
    inverted = _inverse(primals[0])
    return inverted, -matmul(matmul(inverted, tangents[0]), inverted)
