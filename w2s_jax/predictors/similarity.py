"""Predictors that compare two representations without labels."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from w2s_jax._core.factor import capped
from w2s_jax._core.response import Power, apply_response
from w2s_jax.filters import projection
from w2s_jax.overlap import Side
from w2s_jax.predictors.predictor import PairView, predictor


@predictor(
    predicts="the student's error", source="baseline: ridge regression of the strong features", larger_is_better=True
)
def kept_variance(pair: PairView) -> Array:
    """`tr(L_s^{1/2} C F_w C^T L_s^{1/2}) / tr L_s`: the share of the strong variance that the weak head keeps."""
    side, C = pair.overlap.strong, pair.overlap.C
    seen = apply_response(Power(jnp.asarray(0.5, C.dtype)), side, C).T
    return jnp.sum(seen * pair.by_weak(seen)) / jnp.sum(side.values)


@predictor(predicts="how far two ridge predictions are apart at most", source="Boix-Adsera et al. 2022")
def gulp(pair: PairView) -> Array:
    """`||F_s||_F^2 + ||F_w||_F^2 - 2 tr(F_s C F_w C^T)`: squared distance of the two heads' kernels."""
    shared = jnp.sum(pair.by_student(pair.overlap.C).T * pair.by_weak(pair.overlap.C.T))
    return jnp.sum(jnp.square(pair.f_s)) + jnp.sum(jnp.square(pair.f_w)) - 2 * shared


@predictor(predicts="similarity", source="Hotelling 1936; Raghu et al. 2017", larger_is_better=True)
def mean_cca(pair: PairView) -> Array:
    """`||C||_F^2 / min(k_s, k_w)`: mean squared canonical correlation, 0 to 1; k is the number of eigenvalues above 0."""
    ranks = (jnp.sum(side.values > 0) for side in (pair.overlap.strong, pair.overlap.weak))
    return capped(jnp.sum(jnp.square(pair.overlap.C)) / jnp.minimum(*ranks), 1)


@predictor(predicts="similarity", source="Raghu et al. 2017", larger_is_better=True)
def svcca(pair: PairView) -> Array:
    """Mean canonical correlation of the fewest directions that hold 99% of each side's variance."""
    C, rank = within(pair, 0.99)
    return jnp.sum(capped(jnp.linalg.svd(C, compute_uv=False), 1)) / rank


@predictor(predicts="similarity", source="Björck & Golub 1973")
def largest_angle(pair: PairView) -> Array:
    """Largest principal angle, in radians, of the directions that hold 90% of each side's variance."""
    C, rank = within(pair, 0.9)
    return jnp.arccos(jnp.clip(jnp.linalg.svd(C, compute_uv=False)[rank - 1], 0, 1))


@predictor(predicts="what of the teacher's variance the student inherits", source="Dong et al. 2025")
def correlation_dimension(pair: PairView) -> Array:
    """`||V_s^T V_w||_F^2` of the whitened directions that hold 90% of each side's variance."""
    return jnp.sum(jnp.square(within(pair, 0.9)[0]))


@predictor(predicts="similarity", source="Schönemann 1966; Ding et al. 2021")
def procrustes(pair: PairView) -> Array:
    """`2 - 2 ||S_sw||_* / sqrt(tr S_s tr S_w)`: squared distance after the best rotation, both of unit mean squared norm."""
    cross, o = pair.moments.sw, pair.overlap
    nuclear = jnp.sum(jnp.linalg.svd(cross, compute_uv=False))
    return 2 - 2 * nuclear / jnp.sqrt(jnp.sum(o.strong.values)) / jnp.sqrt(jnp.sum(o.weak.values))


@predictor(predicts="how many directions a teacher has", source="Roy & Vetterli 2007", larger_is_better=True)
def effective_rank(pair: PairView) -> Array:
    """`exp` of the entropy of the weak eigenvalues' shares."""
    shares = pair.overlap.weak.values / jnp.sum(pair.overlap.weak.values)
    return jnp.exp(-jnp.sum(jnp.where(shares > 0, shares * jnp.log(jnp.where(shares > 0, shares, 1)), 0)))


@predictor(predicts="how many directions a teacher has", source="baseline", larger_is_better=True)
def weak_participation_ratio(pair: PairView) -> Array:
    """`(sum lambda)^2 / sum lambda^2` of the weak eigenvalues."""
    values = pair.overlap.weak.values / pair.overlap.weak.values[0]
    return jnp.square(jnp.sum(values)) / jnp.sum(values * values)


def within(pair: PairView, share: float) -> tuple[Array, Array]:
    """C between the fewest directions of each side that hold a share of its variance, zero elsewhere; the smaller number ()."""
    strong, weak = (_fewest(side, share) for side in (pair.overlap.strong, pair.overlap.weak))
    kept = apply_response(projection(rank=strong), pair.overlap.strong, pair.overlap.C)
    return apply_response(projection(rank=weak), pair.overlap.weak, kept.T).T, jnp.minimum(strong, weak)


def _fewest(side: Side, share: float) -> Array:
    before = jnp.cumsum(side.values) - side.values
    return jnp.sum((before < share * jnp.sum(side.values)) & (side.values > 0))
