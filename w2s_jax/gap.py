"""The prediction gap and its label-free norms, from an overlap: Xue et al. 2025, main theorem and its bound.

    prediction gap   ||P_s (I - P_w) y / sqrt(n)||^2     labels lost by weak supervision
    gap norm         ||P_s (I - P_w)||_op or _F          the same, for the worst or the average label, without labels

Filters with array parameters give a whole grid of results; the products with C are shared by all its points.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax._core.arrays import matmul
from w2s_jax._core.checks import InputError, require_choice, require_squares
from w2s_jax._core.lanczos import Problem, leading_values, leading_vectors, random_start
from w2s_jax._core.response import apply_response, evaluate, require_reach
from w2s_jax.filters import Filter
from w2s_jax.overlap import (
    Overlap,
    Side,
    checked_pair,
    checked_ranks,
    overlap_and_basis,
    principal_basis,
    representation,
    warn_of_lost_directions,
)
from w2s_jax.spectrum import checked_rank

POINTS_PER_CHUNK = 128
Norm = Literal["op", "fro"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PrincipalKernel:
    """The scaled principal kernel `P = U diag(f) U^T` (n, n), kept in factors.

    `P @ y` for y (n,) or (n, c), `P.diagonal()` (n,), `P.trace()` (effective degrees of freedom), `P.to_dense()` (n, n).
    With array parameters in the filter every result has their shape in front.

    >>> from w2s_jax import projection
    >>> P = principal_kernel([[1.0], [0.0]], projection())
    >>> P.shape, [f"{x:.2f}" for x in P @ [3.0, 1.0]], round(float(P.trace()), 4)
    ((2, 2), ['3.00', '0.00'], 1.0)
    """

    U: Float[Array, "n k"]
    side: Side
    filter: Filter

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense operator: the filter's grid, then (n, n)."""
        return (*self.filter.shape, self.U.shape[0], self.U.shape[0])

    def __matmul__(self, y: ArrayLike) -> Array:
        y = jnp.asarray(y)
        if y.ndim < 1 or y.shape[0] != self.U.shape[0]:
            raise InputError(f"P @ y needs y with {self.U.shape[0]} rows, got shape {y.shape}")
        columns = matmul(self.U.T, y.reshape(y.shape[0], -1))
        result = matmul(self.U, apply_response(self.filter, self.side, columns))
        return result.reshape(*self.filter.shape, *y.shape)

    def diagonal(self) -> Float[Array, "*grid n"]:
        """Leverages: the diagonal of P."""
        return jnp.sum(self.U.T * apply_response(self.filter, self.side, self.U.T), -2)

    def trace(self) -> Float[Array, "*grid"]:
        """Trace of P: the head's effective degrees of freedom."""
        return jnp.sum(evaluate(self.filter, self.side.values, self.side.n, self.side.rest), -1)

    def to_dense(self) -> Float[Array, "*grid n n"]:
        """P as a dense matrix."""
        return matmul(self.U, apply_response(self.filter, self.side, self.U.T))

    def __repr__(self) -> str:
        if not hasattr(self.U, "shape"):
            return "PrincipalKernel(...)"
        *_, n, k = self.U.shape
        return f"PrincipalKernel(n={n}, k={k}, {self.filter})"


def principal_kernel(
    h: Float[ArrayLike, "n d"], filter: Filter, *, bias: bool = False, rank: int | None = None
) -> PrincipalKernel:
    """The operator `P = U diag(f(lambda)) U^T` of a representation (Xue et al. 2025, scaled principal kernel).

    Args:
        h: representation (n, d).
        filter: spectral filter, for instance `ridge(b, threshold=alpha)`.
        bias: heads have an intercept: columns are taken about their means.
        rank: only so many leading eigenpairs, as in `overlap`.

    Raises:
        InputError: not 2-D, zero, NaN or infinite entries, a bad rank, or (outside jit; NaN inside) a filter that may keep
            more than the leading eigenvalues.

    >>> from w2s_jax import ridge
    >>> P = principal_kernel([[2.0], [0.0]], ridge([0.0, 2.0]))  # lambda = 2
    >>> [f"{x:.2f}" for x in P.trace()]
    ['1.00', '0.50']
    """
    rank = None if rank is None else checked_rank(rank)
    _require_filter("filter", filter)
    U, side = principal_basis(representation("representations", h), bias, rank)
    require_reach("filter", filter, side)
    return PrincipalKernel(U, side, filter)


def prediction_gap(overlap: Overlap, weak: Filter, strong: Filter) -> Float[Array, "*grid_and_c"]:
    """Predicted gap between the weakly supervised student and its ceiling, `||P_s (I - P_w) y / sqrt(n)||^2`.

    Args:
        overlap: of the student's examples, with labels; mean squares in label units squared.
        weak, strong: filters of the two heads; their broadcast shape comes first, then (c,) for c outputs.

    Raises:
        InputError: the overlap has no labels, the filters do not broadcast, or (outside jit; NaN inside) they may keep
            more than the overlap's leading eigenvalues.

    >>> from w2s_jax import overlap, projection
    >>> o = overlap([[1.0], [0.0]], [[1.0, 0.0], [0.0, 1.0]], [3.0, 1.0])  # the weak model sees the first row alone
    >>> round(float(prediction_gap(o, projection(), projection())), 4)
    0.5

    Source: Xue et al. 2025, main theorem; computed as `||F_s (a_s - C F_w a_w)||^2`.
    """
    _require_reach(overlap, weak, strong)
    return _prediction_gap(overlap, weak, strong)


@jax.jit
def _prediction_gap(overlap: Overlap, weak: Filter, strong: Filter) -> Array:
    lost = _lost_coefficients(overlap, weak, strong)
    return jnp.sum(lost * lost, -2).reshape(*grid_shape(weak, strong), *_labels(overlap)[2].shape)


def gap_norm(overlap: Overlap, weak: Filter, strong: Filter, ord: Norm = "op") -> Float[Array, "*grid"]:
    """Label-free size of the gap, `||P_s (I - P_w)||`, not squared; between 0 and 1 for "op".

    Args:
        overlap: labels are not used.
        weak, strong: filters of the two heads; the result has their broadcast shape.
        ord: "op" (the worst label; Lanczos, with a full eigensolve where it does not converge) or "fro" (the sum over
            an orthonormal basis of labels).

    Raises:
        InputError: ord is neither, the filters do not broadcast, or (outside jit; NaN inside) they may keep more than
            the overlap's leading eigenvalues.

    >>> from w2s_jax import overlap, ridge
    >>> o = overlap([[1.0], [0.0]], [[1.0, 0.0], [0.0, 1.0]])  # the weak model sees the first row alone
    >>> gap_norm(o, ridge(0.5), ridge([0.0, 0.5])).round(4).tolist(), float(gap_norm(o, ridge(0.0), ridge(0.0), "fro"))
    ([1.0, 0.5], 1.0)

    Source: Xue et al. 2025, label-free bound; `lambda_max` or trace of `F_s (I - C (2 F_w - F_w^2) C^T) F_s`.
    """
    require_choice("ord", ord, Norm)
    _require_reach(overlap, weak, strong)
    return _gap_norm(overlap, weak, strong, ord)


@partial(jax.jit, static_argnames="ord")
def _gap_norm(overlap: Overlap, weak: Filter, strong: Filter, ord: Norm) -> Array:
    grid = grid_shape(weak, strong)
    squared = _op_squared(overlap, weak, strong) if ord == "op" else _fro_squared(overlap, weak, strong)
    return _root(squared).reshape(grid)


def gap_bound(overlap: Overlap, weak: Filter, strong: Filter) -> Float[Array, "*grid_and_c"]:
    """Upper bound of the prediction gap, `||P_s (I - P_w)||_op^2 E[y^2]`: ranks, does not estimate (3 to 6 times too large).

    Raises:
        InputError: the overlap has no labels, or the filters do not broadcast.

    >>> from w2s_jax import overlap, projection
    >>> o = overlap([[1.0], [0.0]], [[1.0, 0.0], [0.0, 1.0]], [3.0, 1.0])  # the weak model sees the first row alone
    >>> round(float(gap_bound(o, projection(), projection())), 4)
    5.0

    Source: Xue et al. 2025, label-free bound.
    """
    _, _, energy = _labels(overlap)
    norm = gap_norm(overlap, weak, strong)
    return jnp.square(norm)[(...,) + (None,) * energy.ndim] * energy


def example_scores(
    h_w: Float[ArrayLike, "n d_w"],
    h_s: Float[ArrayLike, "n d_s"],
    y: ArrayLike,
    weak: Filter,
    strong: Filter,
    *,
    bias: bool = False,
    rank: int | tuple[int, int] | None = None,
) -> Float[Array, "*grid n *c"]:
    """Each example's share of the gap: the entries of `P_s (I - P_w) y`, in label units; their mean square is the gap.

    Args:
        h_w, h_s, y, bias, rank: as in `overlap`.
        weak, strong: filters of the two heads; their broadcast shape comes first.

    Raises:
        InputError: shapes that do not fit, a representation of zeros, NaN or infinite entries, a bad rank, or (outside
            jit; NaN inside) a filter that may keep more than the leading eigenvalues.

    >>> from w2s_jax import projection
    >>> weak, strong = [[1.0], [0.0]], [[1.0, 0.0], [0.0, 1.0]]  # the weak model sees the first row alone
    >>> jnp.abs(example_scores(weak, strong, [3.0, 1.0], projection(), projection())).round(4).tolist()
    [0.0, 1.0]

    Source: Xue et al. 2025, main theorem, before the norm is taken.
    """
    weak_rows, strong_rows, labels = checked_pair(h_w, h_s, y)
    overlap, U_s = overlap_and_basis(weak_rows, strong_rows, labels, bias, checked_ranks(rank))
    for name, h, side in (("weak", weak_rows, overlap.weak), ("strong", strong_rows, overlap.strong)):
        require_squares(f"{name} representations", side.values)
        warn_of_lost_directions(f"{name} representations", h, side, bias)
    _require_reach(overlap, weak, strong)
    return _scores(overlap, U_s, weak, strong)


@jax.jit
def _scores(overlap: Overlap, U_s: Array, weak: Filter, strong: Filter) -> Array:
    lost = _lost_coefficients(overlap, weak, strong)
    scores = matmul(U_s, lost) * jnp.sqrt(jnp.asarray(U_s.shape[0], lost.dtype))
    return scores.reshape(*grid_shape(weak, strong), U_s.shape[0], *_labels(overlap)[2].shape)


def grid_shape(weak: Filter, strong: Filter) -> tuple[int, ...]:
    """Broadcast shape of two filters' parameters; raises InputError if there is none."""
    try:
        return jnp.broadcast_shapes(weak.shape, strong.shape)
    except ValueError as error:
        raise InputError(f"weak and strong filters must broadcast, got {weak.shape} and {strong.shape}") from error


def _require_reach(overlap: Overlap, weak: Filter, strong: Filter) -> None:
    if not isinstance(overlap, Overlap):
        raise InputError(f"overlap must be an Overlap, got {type(overlap).__name__}")
    _require_filter("weak", weak)
    _require_filter("strong", strong)
    require_reach("the weak filter", weak, overlap.weak)
    require_reach("the strong filter", strong, overlap.strong)


def _require_filter(name: str, filter: Filter) -> None:
    if not isinstance(filter, Filter):
        raise InputError(f"{name} must be a filter such as ridge(1e-3), got {filter!r}")


def _labels(overlap: Overlap) -> tuple[Array, Array, Array]:
    """`a_w`, `a_s` and the energy; raises InputError if there are none."""
    if overlap.a_s is None or overlap.a_w is None or overlap.energy is None:
        raise InputError("overlap must have labels, got one made without y")
    return overlap.a_w, overlap.a_s, overlap.energy


def _lost_coefficients(overlap: Overlap, weak: Filter, strong: Filter) -> Array:
    """`F_s (a_s - C F_w a_w)`, grid + (k_s, c): what weak supervision loses, in the strong basis."""
    grid_shape(weak, strong)
    a_w, a_s = (a.reshape(a.shape[0], -1) for a in _labels(overlap)[:2])
    taught = apply_response(weak, overlap.weak, a_w)
    return apply_response(strong, overlap.strong, a_s - matmul(overlap.C, taught))


@jax.custom_jvp
def _fro_squared(overlap: Overlap, weak: Filter, strong: Filter) -> Array:
    f_w, f_s = (evaluate(f, s.values, s.n, s.rest) for f, s in ((weak, overlap.weak), (strong, overlap.strong)))
    passed = matmul(2 * f_w - f_w * f_w, jnp.square(overlap.C).T)
    return jnp.sum(f_s * f_s * (1 - passed), -1)


@_fro_squared.defjvp
def _fro_squared_jvp(primals: tuple, tangents: tuple) -> tuple:
    return jax.jvp(_fro_squared_matrix, primals, tangents)


def _fro_squared_matrix(overlap: Overlap, weak: Filter, strong: Filter) -> Array:
    """The same trace with whole matrix functions, which differentiate between eigendirections too."""
    once = apply_response(weak, overlap.weak, overlap.C.T)
    twice = apply_response(weak, overlap.weak, once)
    inside = jnp.eye(overlap.C.shape[0], dtype=overlap.C.dtype) - matmul(overlap.C, 2 * once - twice)
    filtered = apply_response(strong, overlap.strong, apply_response(strong, overlap.strong, inside))
    return jnp.trace(filtered, axis1=-2, axis2=-1)


@jax.custom_jvp
def _op_squared(overlap: Overlap, weak: Filter, strong: Filter) -> Array:
    """Largest eigenvalue of `F_s (I - C (2 F_w - F_w^2) C^T) F_s` at every grid point (grid,)."""
    return _by_points(leading_values, overlap, weak, strong)


@_op_squared.defjvp
def _op_squared_jvp(primals: tuple, tangents: tuple) -> tuple:
    """The derivative of the Rayleigh quotient with the top eigenvector held fixed."""
    vectors = _by_points(leading_vectors, *primals)
    _, change = jax.jvp(lambda *args: _rayleigh(vectors, *args), primals, tangents)
    return _op_squared(*primals), change


def _by_points(solve: Callable[[Problem], Array], overlap: Overlap, weak: Filter, strong: Filter) -> Array:
    """Solves the grid in chunks of neighbouring points: easy ones need not wait for the hardest."""
    grid, C = grid_shape(weak, strong), overlap.C
    f_w, f_s = (evaluate(f, s.values, s.n, s.rest) for f, s in ((weak, overlap.weak), (strong, overlap.strong)))
    points = math.prod(grid)
    chunk = min(points, POINTS_PER_CHUNK)
    # The last chunk is filled up with copies of the last point.
    fill = jnp.minimum(jnp.arange(-(-points // chunk) * chunk), points - 1).reshape(-1, chunk)

    def flat(f: Array) -> Array:
        return jnp.broadcast_to(f, (*grid, f.shape[-1])).reshape(points, f.shape[-1])[fill]

    each = flat(f_s), flat(2 * f_w - f_w * f_w)
    if len(fill) == 1:
        return solve(_gap_problem(C, each[0][0], each[1][0]))
    solved = jax.lax.map(lambda fs: _on_leading(solve, C, *fs), each)
    return solved.reshape(-1, *solved.shape[2:])[:points]


def _on_leading(solve: Callable[[Problem], Array], C: Array, f_s: Array, passed: Array) -> Array:
    """Solves a chunk on the whole strong side, its leading quarter or sixteenth: the least that no filter reaches beyond."""
    k_s = C.shape[0]
    sizes = [k_s, -(-k_s // 4), -(-k_s // 16)]
    reach = jnp.max(jnp.where(f_s != 0, jnp.arange(1, k_s + 1), 0))

    def solve_leading(k: int) -> Array:
        solved = solve(_gap_problem(C[:k], f_s[:, :k], passed))
        return solved if solved.ndim == 1 else jnp.pad(solved, ((0, 0), (0, k_s - k)))

    level = sum((reach <= k).astype(int) for k in sizes[1:])
    return jax.lax.switch(level, [partial(solve_leading, k) for k in sizes])


def _rayleigh(vectors: Array, overlap: Overlap, weak: Filter, strong: Filter) -> Array:
    f_shape = grid_shape(weak, strong)
    q = apply_response(strong, overlap.strong, vectors.reshape(*f_shape, -1, 1))
    t = matmul(overlap.C.T, q)
    once = apply_response(weak, overlap.weak, t)
    kept = 2 * once - apply_response(weak, overlap.weak, once)
    return (jnp.sum(q * q, (-2, -1)) - jnp.sum(t * kept, (-2, -1))).reshape(-1)


def _gap_problem(C: Array, f_s: Array, passed: Array) -> Problem:
    """`F_s (I - C (2 F_w - F_w^2) C^T) F_s` for f_s (points, k_s) and 2 f_w - f_w^2 (points, k_w)."""
    C_t = C.T

    def product(x: Array) -> Array:
        q = f_s.T * x
        return f_s.T * (q - matmul(C, passed.T * matmul(C_t, q)))

    def matrix(f_s: Array, passed: Array) -> Array:
        inside = jnp.eye(C.shape[0], dtype=C.dtype) - matmul(C * passed, C_t)
        return f_s[:, None] * inside * f_s

    return Problem(product, random_start(f_s.T.shape, C.dtype), (f_s, passed), matrix)


def _root(squared: Array) -> Array:
    """Square root with value and derivative 0 at 0, where the norm has no derivative; NaN stays NaN."""
    vanishes = squared <= 0
    return jnp.where(vanishes, 0, jnp.sqrt(jnp.where(vanishes, 1, squared)))
