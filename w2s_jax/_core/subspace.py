"""Leading eigenpairs of a large positive semidefinite matrix, in products with blocks of vectors.

A block of more vectors than are wanted is multiplied by a Chebyshev polynomial of the matrix, small on [0, theta] and
growing fast above it, and replaced by its Ritz vectors; theta is the block's smallest Ritz value. It ends when the
residuals `||S v - lambda v||` of the wanted pairs are rounding (Zhou, Saad, Tiago & Chelikowsky 2006; random start as
in Halko, Martinsson & Tropp 2011). An eigenvalue lies within its residual of the value found. Where that takes more
products than an eigensolve is worth, and where the matrix is small, all eigenpairs are computed and cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_batching import sequential_vmap
from jaxtyping import Float

from w2s_jax._core.arrays import matmul
from w2s_jax._core.factor import eigh, qr

SMALLEST = 512  # below, an eigensolve takes less time
DIRECTIONS_PER_VECTOR = 16  # with fewer dimensions per wanted vector, too
MAX_DEGREE = 16
MAX_STEPS = 1000
ROUNDING = 16  # a residual of so many eps times the largest eigenvalue is rounding


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Dense:
    """A symmetric matrix that is stored."""

    entries: Float[Array, "d d"]

    @property
    def size(self) -> int:
        return self.entries.shape[0]

    def times(self, x: Array) -> Array:
        return matmul(self.entries, x)

    def symmetric_times(self, x: Array) -> Array:
        return (matmul(self.entries, x) + matmul(self.entries.T, x)) / 2

    def trace(self) -> Array:
        return jnp.trace(self.entries)

    def dense(self) -> Array:
        return self.entries


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SecondMoment:
    """`H^T H / n` of rows H (n, d), applied to vectors without being formed."""

    rows: Float[Array, "n d"]

    @property
    def size(self) -> int:
        return self.rows.shape[1]

    def times(self, x: Array) -> Array:
        return matmul(self.rows.T, matmul(self.rows, x)) / self.rows.shape[0]

    def symmetric_times(self, x: Array) -> Array:
        return self.times(x)

    def trace(self) -> Array:
        return jnp.sum(jnp.square(self.rows)) / self.rows.shape[0]

    def dense(self) -> Array:
        return matmul(self.rows.T, self.rows) / self.rows.shape[0]


Operator = Dense | SecondMoment  # pytrees that are linear or quadratic in their leaves


class Pairs(NamedTuple):
    """Eigenvalues (k,), descending, eigenvectors (d, k) by columns, and their residuals `||S v - lambda v||` (k,)."""

    values: Array
    vectors: Array
    residuals: Array


class _Block(NamedTuple):
    """Ritz vectors (d, m), the matrix times them, Ritz values (m,), and the number of products it took."""

    vectors: Array
    images: Array
    values: Array
    products: Array


def is_cheaper(size: int, k: int) -> bool:
    """Whether k of so many eigenpairs are found faster by a block method than by an eigensolve."""
    return size >= SMALLEST and size >= DIRECTIONS_PER_VECTOR * k


@partial(jax.jit, static_argnames="k")
def leading_pairs(operator: Operator, k: int) -> Pairs:
    """The k leading eigenpairs, by whichever method is faster."""
    if not is_cheaper(operator.size, k):
        return _cut_eigensolve(operator, k)

    # One after another under vmap, which would turn the branch into both: large matrices fill a device alone.
    @sequential_vmap
    def solve(operator: Operator) -> Pairs:
        found = _pairs(_filtered_block(operator, k), k)
        give_up = lambda operator, _: _cut_eigensolve(operator, k)
        return jax.lax.cond(_converged(found), lambda _, found: found, give_up, operator, found)

    return solve(operator)


def solve_outside(operator: Operator, pairs: Pairs, b: Array) -> Array:
    """X (d, k) with `lambda_i x_i - S x_i = b_i` outside the span of the eigenvectors and `lambda_i x_i = b_i` within.

    By conjugate gradients, each column with its own eigenvalue; linear in b, also for JAX. Columns whose eigenvalue is
    not above all those outside have no solution: they end finite, without a meaning.
    """
    values = jnp.where(pairs.values > 0, pairs.values, 1)

    def product(x: Array) -> Array:
        within = matmul(pairs.vectors, matmul(pairs.vectors.T, x))
        y = x - within
        y = y * values - operator.times(y)
        return y - matmul(pairs.vectors, matmul(pairs.vectors.T, y)) + within * values

    return jax.lax.custom_linear_solve(product, b, _conjugate_gradients, symmetric=True)


def _conjugate_gradients(product: Callable[[Array], Array], b: Array) -> Array:
    """Solves columns side by side; a column stops at rounding, or where the matrix is not positive along its direction."""
    goal = (4 * jnp.finfo(b.dtype).eps) ** 2 * jnp.sum(b * b, 0)

    def step(state: tuple) -> tuple:
        x, residual, direction, squared, active, steps = state
        image = product(direction)
        curvature = jnp.sum(direction * image, 0)
        active &= curvature > 0
        length = jnp.where(active, squared / jnp.where(active, curvature, 1), 0)
        x, residual = x + length * direction, residual - length * image
        now = jnp.sum(residual * residual, 0)
        direction = residual + jnp.where(active, now / jnp.where(squared > 0, squared, 1), 0) * direction
        return x, residual, direction, now, active & (now > goal), steps + 1

    squared = jnp.sum(b * b, 0)
    start = (jnp.zeros_like(b), b, b, squared, squared > goal, 0)
    return jax.lax.while_loop(lambda s: jnp.any(s[4]) & (s[5] < MAX_STEPS), step, start)[0]


def _cut_eigensolve(operator: Operator, k: int) -> Pairs:
    values, vectors = eigh(operator.dense())
    values, vectors = values[::-1][:k], vectors[:, ::-1][:, :k]
    return Pairs(values, vectors, _norms(operator.times(vectors) - vectors * values))


def _filtered_block(operator: Operator, k: int) -> _Block:
    """Filters until the k leading pairs have converged, or until it is not worth it, and once more if that is better."""
    d = operator.size
    m = k + max(16, k // 2)
    dtype = jax.eval_shape(operator.trace).dtype
    most = 6 * d // m  # products that take about as long as an eigensolve
    start = jax.random.normal(jax.random.key(0), (d, m), dtype)
    first = _ritz(operator, operator.times(start), jnp.asarray(1))
    unfinished = lambda block: ~_converged(_pairs(block, k)) & (block.products < most)
    block = jax.lax.while_loop(unfinished, partial(_filter, operator, k), first)
    # A residual of rounding has been reached: which multiple of eps is chance.
    again = _filter(operator, k, block)
    better = jnp.max(_pairs(again, k).residuals) < jnp.max(_pairs(block, k).residuals)
    return jax.tree.map(partial(jnp.where, better), again, block)


def _filter(operator: Operator, k: int, block: _Block) -> _Block:
    """The Ritz block of `T_q(2 S / theta - 1) X`."""
    x, image, values, products = block
    half = jnp.maximum(values[-1], 4 * jnp.finfo(x.dtype).eps * values[0]) / 2
    half = jnp.where(half > 0, half, 1)
    degree = _degree(_pairs(block, k), half)

    def recur(_: Array, pair: tuple[Array, Array]) -> tuple[Array, Array]:
        before, last = pair
        return last, 2 * (operator.times(last) / half - last) - before

    _, filtered = jax.lax.fori_loop(1, degree, recur, (x, image / half - x))
    return _ritz(operator, filtered, products + degree)


def _degree(pairs: Pairs, half: Array) -> Array:
    """As much as convergence needs, if the leading vector does not grow past the k-th by more than a root of rounding.

    More would turn the whole block into the leading eigenvector. `T_q` grows as `exp(q arccosh)`.
    """
    eps = jnp.finfo(half.dtype).eps
    growth = lambda value: jnp.arccosh(jnp.maximum(value / half - 1, 1))
    first, last = growth(pairs.values[0]), growth(pairs.values[-1])
    tiny = jnp.sqrt(eps)
    needed = jnp.log(jnp.max(pairs.residuals) / (eps * pairs.values[0])) / jnp.maximum(last, tiny)
    allowed = -jnp.log(eps) / 2 / jnp.maximum(first - last, tiny)
    finite = 60 / jnp.maximum(first, tiny)
    wanted = jnp.minimum(jnp.minimum(jnp.ceil(needed), allowed), finite)
    return jnp.clip(jnp.nan_to_num(wanted, nan=1.0), 1, MAX_DEGREE).astype(int)


def _ritz(operator: Operator, x: Array, products: Array) -> _Block:
    basis, _ = qr(x)
    image = operator.times(basis)
    values, rotation = eigh(matmul(basis.T, image))
    rotation = rotation[:, ::-1]
    return _Block(matmul(basis, rotation), matmul(image, rotation), values[::-1], products + 1)


def _pairs(block: _Block, k: int) -> Pairs:
    values, vectors = block.values[:k], block.vectors[:, :k]
    return Pairs(values, vectors, _norms(block.images[:, :k] - vectors * values))


def _converged(pairs: Pairs) -> Array:
    return jnp.max(pairs.residuals) <= ROUNDING * jnp.finfo(pairs.values.dtype).eps * pairs.values[0]


def _norms(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(x * x, 0))
