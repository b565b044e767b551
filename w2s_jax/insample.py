"""In-sample scores of a weak/strong pair (gap norms, predicted gap, linear CKA) with standard errors over blocks of rows.

Standard errors are infinitesimal jackknives: the derivative of a score in the weight of each block, which costs no more
eigensolves or factorisations. The strong side is in the eigenbasis of its pooled second moment, where its value is
diagonal and a block's weight moves it in every direction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from w2s_jax._arrays import inverse, matmul
from w2s_jax.crossfit import Score, Settings
from w2s_jax.filters import ridge
from w2s_jax.gap import gap_norm, prediction_gap
from w2s_jax.lanczos import Problem, leading_vectors, random_start
from w2s_jax.overlap import Overlap, Side, whitened
from w2s_jax.spectrum import spectrum


class Pair(NamedTuple):
    """Moments of a pair: hh (d_w, d_w), zh (d_s, d_w), zz (d_s, d_s); with labels hy (d_w, c), zy (d_s, c), yy (c,)."""

    hh: Array
    zh: Array
    zz: Array
    hy: Any = None
    zy: Any = None
    yy: Any = None


def block_changes(pooled: Pair, blocks: Pair, share: Array, unit_trace: bool) -> Pair:
    """Derivative of the pooled moments in each block's weight, (K, ...) per moment.

    `blocks` holds each block's own moments, `share` (K,) its part of the rows. With `unit_trace` the representations are
    rescaled to unit mean squared row norm whatever the weights.
    """
    size_w, size_s = (jnp.trace(s, axis1=1, axis2=2) for s in (blocks.hh, blocks.zz))
    one = jnp.ones_like(share)
    w, s = (size_w, size_s) if unit_trace else (one, one)
    scales = Pair(w, (w + s) / 2, s, (w + 1) / 2, (s + 1) / 2, one)

    def change(block: Array, scale: Array, whole: Array) -> Array:
        spread = (slice(None),) + (None,) * whole.ndim
        return share[spread] * (block - scale[spread] * whole)

    changes: list[Any] = [
        None if b is None else change(b, c, p) for b, c, p in zip(blocks, scales, pooled, strict=True)
    ]
    return Pair(*changes)


def linear_cka(pooled: Pair, changes: Pair) -> Score:
    """`||S_sw||_F^2 / (||S_s||_F ||S_w||_F)` on centred data (Kornblith et al. 2019)."""

    def cka(weights: Array) -> Array:
        ww, sw, ss = (p + _weighted(weights, c) for p, c in zip(pooled[:3], changes[:3], strict=True))
        return jnp.sum(sw * sw) / jnp.sqrt(jnp.sum(ss * ss)) / jnp.sqrt(jnp.sum(ww * ww))

    return _jackknifed(cka, changes)


def norms_by_spectrum(pooled: Pair, changes: Pair, n: Array, settings: Settings) -> tuple[Score, Score]:
    """`||P_s (I - P_w)||`, operator and Frobenius, for any threshold: one eigensolve of the weak side."""
    weak, strong = _heads(settings)

    def norm(ord: str) -> Score:
        return _jackknifed(lambda w: gap_norm(_overlap(pooled, changes, n, w), weak, strong, ord), changes)

    return norm("op"), norm("fro")


def gap_by_spectrum(pooled: Pair, changes: Pair, n: Array, settings: Settings) -> Score:
    """The theorem's predicted gap, summed over outputs."""
    weak, strong = _heads(settings)
    return _jackknifed(lambda w: jnp.sum(prediction_gap(_overlap(pooled, changes, n, w), weak, strong)), changes)


def norms_by_solves(pooled: Pair, changes: Pair, settings: Settings) -> tuple[Score, Score]:
    """The same norms for ridge heads without a cut: no eigenpairs of the weak side, only one Cholesky factor.

    With `B = (S_w + b_w)^{-1}`, `A = (S_s + b_s)^{-1}`, `Y = S_sw B` and `K = S_s - Y S_ws - b_w Y Y^T`, the matrix of
    `(I - P_w)^2` between strong features: Frobenius `tr(A S_s A K)`, operator `lambda_max(S_s^{1/2} A K A S_s^{1/2})`.
    """
    values, b = jnp.diagonal(pooled.zz), settings.weak_ridge
    parts = _solved(pooled, values, settings)
    return _op_by_solves(values, changes, parts, b), _fro_by_solves(values, changes, parts, b)


class _Solved(NamedTuple):
    """A (d_s,) diagonal, B (d_w, d_w), `Y = S_sw B` (d_s, d_w) and `K = S_s - Y (S_sw + b_w Y)^T` (d_s, d_s)."""

    A: Array
    B: Array
    Y: Array
    K: Array


def _solved(pooled: Pair, values: Array, settings: Settings) -> _Solved:
    # Below rounding a strength is raised to it, as in `inverse`.
    strong_ridge = jnp.maximum(settings.strong_ridge, jnp.finfo(values.dtype).eps * jnp.sum(values))
    B = inverse(pooled.hh, settings.weak_ridge)
    Y = matmul(pooled.zh, B)
    K = jnp.diag(values) - matmul(Y, (pooled.zh + settings.weak_ridge * Y).T)
    return _Solved(1 / (values + strong_ridge), B, Y, K)


def _fro_by_solves(values: Array, changes: Pair, parts: _Solved, b: Array) -> Score:
    """`<H, K>` with `H = A S_s A`; the derivative by hand: differentiation would redo each product several times."""
    A, B, Y, K = parts
    H = A * A * values
    squared = jnp.sum(H * jnp.diagonal(K))
    J = matmul(Y.T, H[:, None] * Y)
    slope_w = J + 2 * b * matmul(B, J)
    slope_sw = -2 * H[:, None] * (Y + b * matmul(Y, B))
    A_S = A * values
    slope_s = jnp.outer(A, A) * (1 - A_S[:, None] - A_S[None, :]) * K + jnp.diag(H)
    slope = _inner(changes.hh, slope_w) + _inner(changes.zh, slope_sw) + _inner(changes.zz, slope_s)
    return _root_score(squared, slope)


def _op_by_solves(values: Array, changes: Pair, parts: _Solved, b: Array) -> Score:
    """The top eigenvalue by Lanczos, its derivative from the left and right eigenvectors of `A K A S_s`."""
    A, B, Y, K = parts
    scale = A * jnp.sqrt(values)
    matrix = scale[:, None] * K * scale
    start = random_start((values.shape[0], 1), values.dtype)
    problem = Problem(lambda x: matmul(matrix, x), start, (matrix[None],), lambda m: (m + m.T) / 2)
    v = leading_vectors(problem)[0]
    a = scale * v
    g = matmul(K, a)
    right = v / jnp.where(values > 0, jnp.sqrt(jnp.where(values > 0, values, 1)), jnp.inf)
    x = matmul(a, Y + b * matmul(Y, B))
    t = matmul(a, Y)
    slope = _quadratic(changes.zz, a, a) + _quadratic(changes.zz, A * g, right - 2 * a)
    slope += _quadratic(changes.hh, t, t + 2 * b * matmul(t, B)) - 2 * _quadratic(changes.zh, a, x)
    return _root_score(jnp.maximum(jnp.dot(a, g, precision="highest"), 0), slope)


def gap_by_solves(pooled: Pair, changes: Pair, inverse_s: Array, settings: Settings) -> Score:
    """The theorem's predicted gap without a cut, `q^T S_s q` with `q = A (c_s - S_sw B c_w)`, summed over outputs.

    `inverse_s` is `A = (S_s + b_s)^{-1}` (d_s, d_s) of the labelled rows, shared by all weak models.
    """
    B = inverse(pooled.hh, settings.weak_ridge)
    t = matmul(B, pooled.hy)
    q = matmul(inverse_s, pooled.zy - matmul(pooled.zh, t))
    S_q = matmul(pooled.zz, q)
    p = matmul(inverse_s, S_q)
    s = matmul(B, matmul(pooled.zh.T, p))
    slope = 2 * _inner(changes.zy, p) - 2 * _inner(changes.hy, s)
    for i in range(q.shape[1]):
        slope += _quadratic(changes.zz, q[:, i] - 2 * p[:, i], q[:, i]) - 2 * _quadratic(changes.zh, p[:, i], t[:, i])
        slope += 2 * _quadratic(changes.hh, s[:, i], t[:, i])
    return Score(jnp.sum(q * S_q), _spread(slope))


def _heads(settings: Settings) -> tuple[ridge, ridge]:
    return ridge(settings.weak_ridge, settings.threshold), ridge(settings.strong_ridge, settings.threshold)


def _overlap(pooled: Pair, changes: Pair, n: Array, weights: Array) -> Overlap:
    """The pair's overlap with blocks reweighted by `1 + weights`, to first order and without a strong eigensolve."""
    moved = Pair(*jax.tree.map(lambda p, c: p + _weighted(weights, c), tuple(pooled), tuple(changes)))
    weak = spectrum(moved.hh, n)
    diagonal = jnp.diagonal(moved.zz)
    strong = Side(diagonal, moved.zz - jnp.diag(diagonal), n)
    labels = (None, None) if moved.hy is None else (matmul(weak.vectors.T, moved.hy), moved.zy)
    cross = matmul(moved.zh, weak.vectors)
    return whitened(Side(weak.values, weak.coupling, n), strong, cross, *labels, moved.yy)


def _weighted(weights: Array, change: Array) -> Array:
    return jnp.sum(weights.reshape(-1, *(1,) * (change.ndim - 1)) * change, 0)


def _inner(change: Array, slope: Array) -> Array:
    """`<change_k, slope>` for every block k."""
    return jnp.sum(change * slope, tuple(range(1, change.ndim)))


def _quadratic(change: Array, left: Array, right: Array) -> Array:
    """`left^T change_k right` for every block k."""
    return matmul(matmul(change, right), left)


def _jackknifed(score: Callable[[Array], Array], changes: Pair) -> Score:
    blocks = changes.hh.shape[0]
    value, slope = jax.value_and_grad(score)(jnp.zeros(blocks, changes.hh.dtype))
    return Score(value, _spread(slope))


def _root_score(squared: Array, slope: Array) -> Score:
    """Score and standard error of the square root."""
    root = jnp.sqrt(jnp.maximum(squared, 0))
    return Score(root, _spread(slope) / jnp.where(root > 0, 2 * root, 1))


def _spread(slope: Array) -> Array:
    """Standard error from the derivative in each block's weight: exact for a mean over blocks."""
    blocks = slope.shape[0]
    return jnp.sqrt(blocks / (blocks - 1) * jnp.sum(slope * slope))
