"""The one regularised solve: `(S + ridge)^{-1}` of a positive semidefinite S, of minimum norm where that is singular.

By Cholesky. Where rounding in the null space of S could be seen, it is zero on the eigenvectors of numerically zero
eigenvalues instead, which nothing made of the same rows has a part in; the eigensolve for that runs only then. NaN where
that finds a negative eigenvalue. Rounding is seen in products of `ridge_inverse`s at penalties that a `ridge_solver`, for a
few columns, still solves as well as the rounded S says; it ends where the system itself is singular. Both are differentiable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from w2s_jax._core.arrays import matmul
from w2s_jax._core.cpu import square_of_triangle
from w2s_jax._core.factor import cholesky, cholesky_solve, eigh, inverse_factor, numerically_zero

# Penalties, in units of the trace, at which errors of an expected experiment with fewer rows than features reach 1e-4 and
# 1e-10, by bytes of a number; measured, and proportional to the penalty's inverse square.
ABOVE_ROUNDING = {4: 1.5e-4, 8: 1e-5}


def ridge_inverse(matrix: Array, ridge: ArrayLike) -> Array:
    """`(matrix + ridge)^{-1}` (k, k)."""
    return _inverse(matrix, jnp.asarray(ridge, matrix.dtype))


def ridge_solver(matrix: Array, ridge: ArrayLike) -> Callable[[Array], Array]:
    """`b -> (matrix + ridge)^{-1} b` for b (k,) or (k, m)."""
    ridge = jnp.asarray(ridge, matrix.dtype)
    constant, shift = jax.lax.stop_gradient((matrix, ridge))
    shifted = _shifted(constant, shift)
    factor = cholesky(shifted)
    # What is left of a column once those before it are taken out: rounding, if it depends on them.
    left = jnp.square(jnp.diagonal(factor))
    sound = jnp.all(left > 4 * jnp.finfo(matrix.dtype).eps * len(matrix) ** 0.5 * jnp.diagonal(shifted))

    def solve(_: Any, b: Array) -> Array:
        in_range = lambda root: matmul(root, matmul(root.T, b))
        return _if_sound(sound, cholesky_solve(factor, b), in_range, constant, shift)

    product = lambda x: matmul(matrix, x) + ridge * x
    return lambda b: jax.lax.custom_linear_solve(product, b, solve, symmetric=True)


@jax.custom_jvp
def _inverse(matrix: Array, ridge: Array) -> Array:
    inverted = square_of_triangle(inverse_factor(_shifted(matrix, ridge)))
    sound = _is_sound(matrix, ridge, inverted)
    return _if_sound(sound, inverted, lambda root: matmul(root, root.T), matrix, ridge)


@_inverse.defjvp
def _inverse_jvp(primals: tuple, tangents: tuple) -> tuple:
    inverted = _inverse(*primals)
    change = tangents[0] + tangents[1] * jnp.eye(len(inverted), dtype=inverted.dtype)
    return inverted, -matmul(matmul(inverted, change), inverted)


def _shifted(matrix: Array, ridge: Array) -> Array:
    """`matrix + ridge`; columns of zeros, of padded models, have 1 on the diagonal where there is no penalty."""
    diagonal = jnp.diagonal(matrix) + ridge
    return matrix + jnp.diag(jnp.where(diagonal == 0, 1, ridge))


def _is_sound(matrix: Array, ridge: Array, inverted: Array) -> Array:
    """Whether the penalty is well above rounding, or else no eigenvalue can be numerically zero: `||inverse||_F` bounds the
    smallest from below. Columns of zeros, of padded models, do not count."""
    diagonal, eps = jnp.diagonal(matrix), jnp.finfo(matrix.dtype).eps
    trace = jnp.sum(diagonal)
    largest = trace * jnp.linalg.norm(matrix / jnp.where(trace > 0, trace, 1))
    zero = 4 * eps * len(matrix) ** 0.5 * largest + ridge
    bound = jnp.linalg.norm(jnp.where(diagonal > 0, inverted * zero, 0))
    return (ridge > ABOVE_ROUNDING[matrix.dtype.itemsize] * trace) | (bound < 1)


def _if_sound(sound: Array, found: Array, in_range: Callable[[Array], Array], matrix: Array, ridge: Array) -> Array:
    """`found`, or what `in_range` makes of a root R (k, k) of the inverse on the range, `R R^T`."""

    def anew(state: tuple[Array, Array]) -> tuple[Array, Array]:
        # The barrier ties the eigensolve to the loop: the compiler would otherwise do it ahead, needed or not.
        values, vectors = eigh(jax.lax.optimization_barrier((matrix, state[0]))[0])
        zero = numerically_zero(values[::-1])
        kept = values > zero
        roots = jnp.where(kept, jax.lax.rsqrt(jnp.where(kept, values, 1) + ridge), 0)
        return in_range(vectors * jnp.where(values[0] < -zero, jnp.nan, roots)), jnp.asarray(True)

    # A loop, not a branch: under vmap too it costs nothing where everything is sound.
    return jax.lax.while_loop(lambda state: ~state[1], anew, (found, sound))[0]
