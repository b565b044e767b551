"""Factorisations of one matrix, safe to batch: eigenpairs, Cholesky and QR. None of them is differentiated here.

Under `vmap` a CPU takes the matrices one after another (cpu.py says why); accelerators take them in one call.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from w2s_jax._core import cpu


@cpu.one_at_a_time
def eigh(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues (k,), ascending, and eigenvectors (k, k) by columns of a matrix that is symmetric up to rounding.

    Scaled to about 1 first: whatever its size, no square overflows or vanishes on the way.
    """
    scale = unit_scale(matrix) ** 2
    vectors, values = jax.lax.linalg.eigh(matrix / scale, symmetrize_input=True)
    return values * scale, vectors


@cpu.one_at_a_time
def eigvalsh(matrix: Array) -> Array:
    """Eigenvalues (k,), ascending."""
    return jnp.linalg.eigvalsh(matrix)


@cpu.one_at_a_time
def cholesky(matrix: Array) -> Array:
    """Lower Cholesky factor (k, k), NaN where the matrix is not positive definite."""
    return jnp.linalg.cholesky(matrix, symmetrize_input=False)


@cpu.one_at_a_time
def cholesky_solve(factor: Array, b: Array) -> Array:
    """`(L L^T)^{-1} b` for a lower factor L (k, k) and b (k,) or (k, m)."""
    return jax.scipy.linalg.cho_solve((factor, True), b)


@cpu.one_at_a_time
def inverse_factor(matrix: Array) -> Array:
    """Inverse (k, k) of the lower Cholesky factor, NaN where the matrix is not positive definite."""

    def at_once(matrix: Array) -> Array:
        eye = jnp.eye(len(matrix), dtype=matrix.dtype)
        return jax.scipy.linalg.solve_triangular(cholesky(matrix), eye, lower=True)

    return jax.lax.platform_dependent(matrix, cpu=cpu.inverse_factor_by_halves, default=at_once)


@cpu.one_at_a_time
def qr(matrix: Array) -> tuple[Array, Array]:
    """Orthonormal columns (m, k) and the triangle (k, k) of a tall matrix (m, k)."""
    q, r = jnp.linalg.qr(matrix)
    return q, r


def numerically_zero(values: Any) -> Any:
    """The eigenvalue below which a (k,) spectrum, of JAX or NumPy, is rounding: 4 eps sqrt(k) of the largest."""
    return 4 * jnp.finfo(values.dtype).eps * values.shape[-1] ** 0.5 * values[:1]


def unit_scale(matrix: Array) -> Array:
    """A power of two whose square is near the largest diagonal entry: scaling by it is exact and avoids overflow."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.diagonal(matrix)))
    return power_of_two(jnp.sqrt(jnp.where(largest > 0, largest, 1))).astype(matrix.dtype)


def power_of_two(size: Array) -> Array:
    """The power of two next above a positive size, exactly (`exp2` of an integer is not)."""
    return jnp.ldexp(jnp.ones_like(size), jnp.frexp(size)[1])
