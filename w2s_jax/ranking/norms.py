"""Gap norms of ridge heads without a cut, by solves: no eigenpairs of the weak side.

With `A = (S_s + b_s)^{-1}`, `B = (S_w + b_w)^{-1}`, `Y = S_sw B` and `K = S_s - Y S_ws - b_w Y Y^T`, the matrix of `(I - P_w)^2`
between strong features: Frobenius `tr(A S_s A K)`, operator `lambda_max(S_s^{1/2} A K A S_s^{1/2})`. The search for the largest
eigenvalue knows nothing of the weak model's width, so that it is a program of its own, compiled once for all widths.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from w2s_jax._core.arrays import matmul
from w2s_jax._core.factor import numerically_zero
from w2s_jax._core.lanczos import Problem, leading_vectors, random_start
from w2s_jax.ranking.crossfit import Score, Settings
from w2s_jax.ranking.insample import (
    Blocks,
    PairMoments,
    StrongBlocks,
    low_rank_inner,
    low_rank_responses,
    responses_to,
    root_score,
)


class RidgeNorms(NamedTuple):
    """The strong side of `norms_by_solves`: `A = (S_s + b_s)^{-1}` (d_s,) and `H = A S_s A` (d_s,) on its diagonal moment, and
    what the Frobenius norm's slope in S_s, `slope * K + diag(H)`, makes of the deviations and the moment: `slope` times them
    (K + 1, d_s, d_s), and the response of the diagonal (K + 1,)."""

    A: Array
    H: Array
    sloped: Array
    fixed: Array


def prepare_norms(strong: StrongBlocks, settings: Settings) -> RidgeNorms:
    """What the norms of all weak models share."""
    values = jnp.diagonal(strong.pooled)
    # Nothing has a part in the null space, as in `ridge_inverse`.
    kept = values > numerically_zero(values)
    A = jnp.where(kept, 1 / (jnp.where(kept, values, 1) + settings.strong_ridge), 0)
    A_S = A * values
    moments = strong.moments
    # The moments between the two factors: of a large or a small scale their product alone has no float32.
    sloped = (1 - A_S[:, None] - A_S) * (A[:, None] * moments * A)
    return RidgeNorms(A, A * A_S, sloped, matmul(jnp.diagonal(moments, axis1=1, axis2=2), A * A_S))


class Solved(NamedTuple):
    """A pair's `B` (d_w, d_w), `Y = S_sw B` (d_s, d_w) and `K` (d_s, d_s)."""

    B: Array
    Y: Array
    K: Array


class Unfinished(NamedTuple):
    """What the operator norm of a pair is made of, beside the largest eigenvalue; the strong side's moments are left out."""

    parts: Solved
    blocks: Blocks


def solved(pooled: PairMoments, B: Array, settings: Settings) -> Solved:
    """From pooled moments and the weak head's inverse."""
    Y = matmul(pooled.zh, B)
    return Solved(B, Y, pooled.zz - matmul(Y, (pooled.zh + settings.weak_ridge * Y).T))


def frobenius(norms: RidgeNorms, blocks: Blocks, parts: Solved, settings: Settings) -> Score:
    """The root of `<H, K>` with `H = A S_s A`; its derivative by hand: differentiation would redo each product several times."""
    (B, Y, K), H = parts, norms.H[:, None]
    bYB = settings.weak_ridge * matmul(Y, B)
    # In S_w it is `J + 2 b B J`, `J = Y^T H Y`; only its symmetric part meets the symmetric deviations.
    found = responses_to(blocks, PairMoments(matmul((Y + 2 * bYB).T, H * Y), -2 * H * (Y + bYB), None))
    found = found._replace(zz=matmul(norms.sloped.reshape(len(norms.sloped), -1), K.reshape(-1)) + norms.fixed)
    return root_score(jnp.sum(norms.H * jnp.diagonal(K)), found, blocks)


class LeadingValue(NamedTuple):
    """The largest eigenvalue (), its direction a (d_s,) between strong features, and its responses to S_s (K + 1,)."""

    squared: Array
    a: Array
    own: Array


def top_of(norms: RidgeNorms, strong: StrongBlocks, K: Array) -> LeadingValue:
    """By Lanczos; the derivative from the left and right eigenvectors of `A K A S_s`."""
    A, values = norms.A, jnp.diagonal(strong.pooled)
    scale = A * jnp.sqrt(values)
    matrix = scale[:, None] * K * scale
    start = random_start((values.shape[0], 1), values.dtype)
    problem = Problem(lambda x: matmul(matrix, x), start, (matrix[None],), lambda m: (m + m.T) / 2)
    v = leading_vectors(problem)[0]
    a = scale * v
    g = matmul(K, a)
    right = v / jnp.where(values > 0, jnp.sqrt(jnp.where(values > 0, values, 1)), jnp.inf)
    own = low_rank_inner(strong.moments, (a, A * g), (a, right - 2 * a))
    return LeadingValue(jnp.maximum(jnp.dot(a, g, precision="highest"), 0), a, own)


def operator(parts: Solved, blocks: Blocks, top: LeadingValue, settings: Settings) -> Score:
    """The root of the largest eigenvalue."""
    t = matmul(top.a, parts.Y)
    tbB = matmul(t, settings.weak_ridge * parts.B)  # first b B, which no scale of the representations moves
    lefts = PairMoments((t,), (top.a,), None)
    rights = PairMoments((t + 2 * tbB,), (-2 * (t + tbB),), None)
    return root_score(top.squared, low_rank_responses(blocks, lefts, rights)._replace(zz=top.own), blocks)
