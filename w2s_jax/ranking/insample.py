"""In-sample scores of a weak/strong pair (gap norms, predicted gap, linear CKA) with standard errors over blocks of rows.

Standard errors are infinitesimal jackknives: the derivative of a score in the weight of each block. A score has one slope
per pooled moment, and a block's part in it is the inner product of the slope with how far the block's moment deviates,
so that errors cost no more eigensolves or factorisations. The strong side is in the eigenbasis of its pooled second
moment, where its value is diagonal and a block's weight moves it in every direction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from w2s_jax._core.arrays import matmul, outer
from w2s_jax.filters import ridge
from w2s_jax.gap import gap_norm, prediction_gap
from w2s_jax.overlap import Overlap, Side, whitened
from w2s_jax.ranking.crossfit import Score, Settings
from w2s_jax.spectrum import Spectrum


class PairMoments(NamedTuple):
    """Moments of a pair: hh (d_w, d_w), zh (d_s, d_w), zz (d_s, d_s); with labels hy (d_w, c), zy (d_s, c), yy (c,)."""

    hh: Any
    zh: Any
    zz: Any
    hy: Any = None
    zy: Any = None
    yy: Any = None


class StrongBlocks(NamedTuple):
    """A strong model's side of `Blocks`, shared by all weak models, and the responses to its own moment (K + 1,).

    `weights` (K + 1, J) make the deviations of a moment, and then the pooled one, of sums per cell.
    """

    weights: Array
    share: Array
    moments: Array
    excess: Array
    own: Array

    @property
    def pooled(self) -> Array:
        return self.moments[-1]


class Blocks(NamedTuple):
    """The blocks of rows behind pooled moments: each one's share of the rows (K,), and `moments` (K + 1, ...), how far each
    one's part is from that share of the pooled one, which comes last. A block of weight `1 + e` moves a pooled moment by
    `e (deviation - share excess moment)`, `excess` (K,) being what the normalisation takes off."""

    moments: PairMoments
    share: Array
    excess: PairMoments
    own: Array

    @property
    def pooled(self) -> PairMoments:
        return jax.tree.map(lambda x: x[-1], self.moments)


def strong_blocks(zz: Array, n: Array, members: Array, unit_trace: bool, values: Array | None = None) -> StrongBlocks:
    """The strong side from sums per cell zz (J, d_s, d_s) over n (J,) rows; `members` (K, J) says which cells are a block.

    With `unit_trace` the representations are rescaled to unit mean squared row norm whatever the blocks' weights. `values`
    (d_s,) is the pooled moment if that is known to be diagonal.
    """
    rows, every = matmul(members, n), jnp.sum(members, 0)
    share = rows / jnp.sum(rows)
    weights = jnp.concatenate([members - outer(share, every), every[None]]) / jnp.sum(rows)
    moments = _by_block(weights, zz)
    moments = moments if values is None else moments.at[-1].set(jnp.diag(values))
    return StrongBlocks(weights, share, moments, _excess(moments, share, unit_trace), _inner(moments, moments[-1]))


def blocks_of(strong: StrongBlocks, sums: PairMoments, unit_trace: bool) -> Blocks:
    """The blocks of a pair from the weak model's sums per cell, and the labels'; zz is not used."""
    moments: PairMoments = jax.tree.map(lambda x: _by_block(strong.weights, x), sums._replace(zz=None))
    w, s, none = _excess(moments.hh, strong.share, unit_trace), strong.excess, jnp.zeros_like(strong.share)
    excess = PairMoments(w, (w + s) / 2, s, w / 2, s / 2, none)
    return Blocks(moments._replace(zz=strong.moments), strong.share, excess, strong.own)


def pooled_moment(strong: StrongBlocks, sums: Array) -> Array:
    """A moment of a pair's rows from its sums per cell."""
    return _by_block(strong.weights[-1:], sums)[0]


def _by_block(weights: Array, sums: Array) -> Array:
    # By products: a CPU takes ten times as long to add and subtract a few cells entry by entry.
    return matmul(weights, sums.reshape(len(sums), -1)).reshape(-1, *sums.shape[1:])


def _excess(moments: Array, share: Array, unit_trace: bool) -> Array:
    return jnp.trace(moments[:-1], axis1=1, axis2=2) / share if unit_trace else jnp.zeros_like(share)


def linear_cka(blocks: Blocks) -> Score:
    """`||S_sw||_F^2 / (||S_s||_F ||S_w||_F)` on centred data (Kornblith et al. 2019); S_s diagonal or not."""
    slope = blocks.pooled._replace(zz=None, hy=None, zy=None, yy=None)
    responses = responses_to(blocks, slope)._replace(zz=blocks.own)
    squared = [response[-1] for response in responses[:3]]
    value = squared[1] / jnp.sqrt(squared[2]) / jnp.sqrt(squared[0])
    relative = [c * r / size for c, r, size in zip((-1, 2, -1), responses[:3], squared, strict=True)]
    return Score(value, value * _standard_error(PairMoments(*relative), blocks))


def norms_by_spectrum(blocks: Blocks, weak: Spectrum, settings: Settings) -> tuple[Score, Score]:
    """`||P_s (I - P_w)||`, operator and Frobenius, for any threshold, given the weak moment's eigenpairs."""
    heads = _heads(settings)

    def norms(pair: PairMoments) -> tuple[Array, Array]:
        overlap = _overlap(pair, weak.n)
        return gap_norm(overlap, *heads, "op"), gap_norm(overlap, *heads, "fro")

    op, fro = _jackknifed(norms, blocks, weak)
    return op, fro


def gap_by_spectrum(blocks: Blocks, weak: Spectrum, settings: Settings) -> Score:
    """The theorem's predicted gap, summed over outputs, given the weak moment's eigenpairs."""
    heads = _heads(settings)
    (score,) = _jackknifed(lambda pair: (jnp.sum(prediction_gap(_overlap(pair, weak.n), *heads)),), blocks, weak)
    return score


def gap_by_solves(blocks: Blocks, inverse_s: Array, B: Array) -> Score:
    """The theorem's predicted gap without a cut, `q^T S_s q` with `q = A (c_s - S_sw B c_w)`, summed over outputs.

    `inverse_s` is `A = (S_s + b_s)^{-1}` (d_s, d_s) of the labelled rows, shared by all weak models, and `B = (S_w + b_w)^{-1}`
    (d_w, d_w).
    """
    pooled = blocks.pooled
    t = matmul(B, pooled.hy)
    q = matmul(inverse_s, pooled.zy - matmul(pooled.zh, t))
    S_q = matmul(pooled.zz, q)
    p = matmul(inverse_s, S_q)
    s = matmul(B, matmul(pooled.zh.T, p))
    responses = low_rank_responses(blocks, PairMoments(2 * s.T, -2 * p.T, (q - 2 * p).T), PairMoments(t.T, t.T, q.T))
    labels = responses_to(blocks, PairMoments(None, None, None, -2 * s, 2 * p))
    responses = PairMoments(*responses[:3], *labels[3:])
    return Score(jnp.sum(q * S_q), _standard_error(responses, blocks))


def _heads(settings: Settings) -> tuple[ridge, ridge]:
    return ridge(settings.weak_ridge, settings.threshold), ridge(settings.strong_ridge, settings.threshold)


def _overlap(pair: PairMoments, n: Array) -> Overlap:
    """The overlap of a pair in both eigenbases: the moments are diagonal but for their derivatives."""
    weak, strong = (Side(jnp.diagonal(x), x - jnp.diag(jnp.diagonal(x)), n) for x in (pair.hh, pair.zz))
    return whitened(weak, strong, pair.zh, *(() if pair.hy is None else (pair.hy, pair.zy, pair.yy)))


def responses_to(blocks: Blocks, slope: PairMoments) -> PairMoments:
    """`<deviation_k, slope>` for every moment and block k, then `<moment, slope>`: (K + 1,) each."""
    return _responses_by(_inner, blocks, slope)


def low_rank_responses(blocks: Blocks, lefts: PairMoments, rights: PairMoments) -> PairMoments:
    """The same for slopes `sum_i left_i right_i^T`, given as sequences of vectors."""

    slopes = [None if left is None else (left, right) for left, right in zip(lefts, rights, strict=True)]
    return _responses_by(lambda x, slope: low_rank_inner(x, *slope), blocks, PairMoments(*slopes))


def low_rank_inner(x: Array, left: Any, right: Any) -> Array:
    """`<x_k, sum_i left_i right_i^T>` (K + 1,)."""
    columns, others = (jnp.stack([*vectors], 1) for vectors in (left, right))
    return jnp.sum(matmul(x, others) * columns, (-2, -1)).reshape(-1)


def _responses_by(inner: Callable[[Array, Any], Array], blocks: Blocks, slope: PairMoments) -> PairMoments:
    # With deviations: a slope's inner products with the parts themselves nearly cancel.
    return PairMoments(*(None if g is None else inner(m, g) for m, g in zip(blocks.moments, slope, strict=True)))


def _inner(x: Array, slope: Array) -> Array:
    return matmul(x.reshape(-1, slope.size), slope.reshape(-1))


def _jackknifed(scores: Callable[[PairMoments], tuple[Array, ...]], blocks: Blocks, weak: Spectrum) -> list[Score]:
    """Scores of a pair in the weak eigenbasis, and their standard errors."""
    V, pooled = weak.vectors, blocks.pooled
    hy = None if pooled.hy is None else matmul(V.T, pooled.hy)
    values, pull = jax.vjp(scores, pooled._replace(hh=jnp.diag(weak.values), zh=matmul(pooled.zh, V), hy=hy))

    def error(i: int) -> Array:
        slope: PairMoments = pull(tuple(jnp.asarray(j == i, value.dtype) for j, value in enumerate(values)))[0]
        hy = None if slope.hy is None else matmul(V, slope.hy)
        slope = slope._replace(hh=matmul(matmul(V, slope.hh), V.T), zh=matmul(slope.zh, V.T), hy=hy)
        return _standard_error(responses_to(blocks, slope), blocks)

    return [Score(value, error(i)) for i, value in enumerate(values)]


def root_score(squared: Array, responses: PairMoments, blocks: Blocks) -> Score:
    """Score and standard error of the square root."""
    root = jnp.sqrt(jnp.maximum(squared, 0))
    return Score(root, _standard_error(responses, blocks) / jnp.where(root > 0, 2 * root, 1))


def _standard_error(responses: PairMoments, blocks: Blocks) -> Array:
    """Standard error from the derivative in each block's weight: exact for a mean over blocks."""
    count, change = blocks.share.shape[0], jnp.zeros_like(blocks.share)
    for response, excess in zip(responses, blocks.excess, strict=True):
        if response is not None:
            change += response[:-1] - blocks.share * excess * response[-1]
    return jnp.sqrt(count / (count - 1) * jnp.sum(change * change))
