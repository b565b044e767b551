"""Factorisations of one matrix, safe to batch: eigenpairs, Cholesky and QR. None of them is differentiated here.

One eigensolve in float32 tells eigenvalues down to some eps of the largest from nothing. Where one channel has a mean of 800
and the others a spread of 1, these are lost in it, though the moment still knows them: `graded_eigh` solves the block of the
small ones on its own.

Under `vmap` a CPU takes the matrices one after another (cpu.py says why); accelerators take them in one call.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from w2s_jax._core import cpu
from w2s_jax._core.arrays import matmul, outer

SPLIT = 1e-3  # of the largest eigenvalue: those below have an eigensolve of their own, where one is not enough
ROUGH = 16  # times the eigenvalue that is rounding: known to a digit or two
UNEQUAL = 16  # times the square of the least feature: a larger one hides what the others still tell


@cpu.one_at_a_time
def eigh(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues (k,), ascending, and eigenvectors (k, k) by columns of a matrix that is symmetric up to rounding.

    Scaled to about 1 first: whatever its size, no square overflows or vanishes on the way.
    """
    unit, scale = in_unit_scale(matrix)
    vectors, values = jax.lax.linalg.eigh(unit, symmetrize_input=True)
    return values * scale, vectors


@cpu.one_at_a_time
def graded_eigh(moment: Array, known: Array) -> tuple[Array, Array]:
    """Eigenvalues (k,), descending, rounding exactly 0, and eigenvectors of a moment whose features may differ much in size.

    Every entry of such a matrix is known to rounding of its own two features, of size `known` (k,) when products were made of
    them: their squares, unless something has been subtracted since. So are the eigenvalues of small ones, and what rounding is
    along a direction is that of its features.
    """
    values, vectors = (x[..., ::-1] for x in eigh(moment))
    squares, zero = jnp.diagonal(moment), numerically_zero(values)
    plain = jnp.where(values <= zero, 0, values), vectors
    if moment.dtype == jnp.float64:
        return plain
    unknown = numerically_zero(jnp.ones_like(values)) * known

    def again(state: tuple[Array, ...]) -> tuple[Array, ...]:
        found, rotation = _split_eigh(matmul(vectors.T, matmul(moment, vectors)), values)
        turned = matmul(vectors, rotation)
        return jnp.zeros_like(state[0]), jnp.where(found <= matmul(unknown, jnp.square(turned)), 0, found), turned

    least = jnp.min(jnp.where(squares > unknown, squares, jnp.inf))
    needed = (values[-1] < ROUGH * zero[0]) & (least * UNEQUAL < jnp.max(squares))
    # Of a batch it runs where one matrix needs it, as a `cond` would always.
    _, found, turned = jax.lax.while_loop(lambda state: state[0], again, (needed, *plain))
    return found, turned


class Reflection(NamedTuple):
    """`R = 1 - weight v v^T`, orthogonal and symmetric."""

    v: Array
    weight: Array

    def __call__(self, x: Array) -> Array:
        """`R x` of x (k,) or (k, m)."""
        return x - self.weight * outer(self.v, matmul(self.v, x))

    def both(self, x: Array) -> Array:
        """`R x R` of x (k, k)."""
        return self(self(x).T).T

    def squares(self, known: Array) -> Array:
        """The most that squares known to rounding of `known` (k,) are known to after it."""
        size, v = jnp.sqrt(known), jnp.abs(self.v)
        return jnp.square(size + self.weight * v * matmul(v, size))


def reflection(x: Array) -> Reflection:
    """That which takes x (k,) to one coordinate, its largest, and leaves others nearly as they are where that is most of x.

    A matrix beside `x x^T` then is massive in one feature alone. It is not differentiated: any orthogonal matrix would do.
    """
    x = jax.lax.stop_gradient(x)
    unit = x / jnp.where(jnp.any(x != 0), power_of_two(jnp.max(jnp.abs(x))), 1)
    norm, largest = jnp.linalg.norm(unit), jnp.argmax(jnp.abs(unit))
    v = unit.at[largest].add(jnp.where(unit[largest] < 0, -norm, norm))
    square = jnp.sum(v * v)
    return Reflection(v, jnp.where(square > 0, 2 / jnp.where(square > 0, square, 1), 0))


def _split_eigh(within: Array, values: Array) -> tuple[Array, Array]:
    """Eigenvalues (k,) and eigenvectors of a matrix (k, k) in the basis of a first eigensolve, which had these descending values.

    That the first basis is off by eps turns a small eigenvector by no more than eps times the ratio of the roots of eigenvalues;
    it is the rounding within the block of the small ones that hides them.
    """
    unit, scale = in_unit_scale(within)
    small = values < SPLIT * values[0]
    block = jnp.where(small[:, None] & small, unit, 0)
    above = 2 * jnp.linalg.norm(block)  # of what is not small, apart from all that is
    found, vectors = (x[..., ::-1] for x in eigh(block + jnp.diag(jnp.where(small, 0, above))))
    return jnp.where(small, found * scale, values), jnp.where(small, vectors, jnp.eye(len(values), dtype=values.dtype))


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


def zeroed(values: Array, zero: Array) -> Array:
    """Eigenvalues with those that are rounding exactly 0; derivatives stay."""
    return values - jax.lax.stop_gradient(jnp.where(zero, values, 0))


def capped(x: Array, most: float) -> Array:
    """What rounding lifts above the most that it can be is that; derivatives stay."""
    return jnp.where(x > most, most + (x - jax.lax.stop_gradient(x)), x)


def in_unit_scale(matrix: Array) -> tuple[Array, Array]:
    """A matrix of about unit size, and what times it is the matrix: a power of two.

    By products: of `sums / n / scale` XLA would make `sums / (n scale)`, whose divisor overflows.
    """
    scale = unit_scale(matrix)
    return matrix * (1 / scale) * (1 / scale), scale**2


def unit_scale(matrix: Array) -> Array:
    """A power of two whose square is near the largest diagonal entry: scaling by it is exact and avoids overflow."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.diagonal(matrix)))
    return power_of_two(jnp.sqrt(jnp.where(largest > 0, largest, 1))).astype(matrix.dtype)


def power_of_two(size: Array) -> Array:
    """The power of two next above a positive size, exactly (`exp2` of an integer is not)."""
    return jnp.ldexp(jnp.ones_like(size), jnp.frexp(size)[1])
