"""Features on one scale for heads: factors from the rows that a head is trained on, for its own and all other rows."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
from jax import Array

from w2s_jax._core.arrays import accumulation_dtype
from w2s_jax._core.normalize import Normalize, feature_factors, rounding_of, scaled
from w2s_jax.moments import ModelMoments, Moments, Shift


def factors_of_rows(h: Array, normalize: Normalize) -> Array:
    """Factors (d,) of the features of rows (n, d); 1 for "none"."""
    dtype = accumulation_dtype(h.dtype)
    if normalize == "none":
        return jnp.ones(h.shape[1], dtype)
    first = h[0].astype(dtype)
    about = h.astype(dtype) - first
    mean = jnp.mean(about, 0)
    variances = jnp.mean(jnp.square(about - mean), 0)
    return feature_factors(variances, first + mean, rounding_of(h.dtype, normalize))[0]


def factors_of_moments(m: ModelMoments, normalize: Normalize) -> Array:
    """The same from a model's moments, whose numbers are taken to be as precise as the sums."""
    if normalize == "none":
        return jnp.ones_like(m.mean)
    variances = jnp.diagonal(m.hh)
    variances = variances if m.is_centred else jnp.maximum(variances - jnp.square(m.mean), 0)
    return feature_factors(variances, m.mean, rounding_of(m.hh.dtype, normalize))[0]


def times(m: Moments, weak: Array, strong: Array) -> Moments:
    """Moments of features times factors (d_w,) and (d_s,)."""
    return Moments(_times(m.weak, weak), _times(m.strong, strong), strong[:, None] * m.cross * weak)


def _times(m: ModelMoments, factors: Array) -> ModelMoments:
    sums = m.sums._replace(h=m.sums.h * factors, hh=scaled(m.sums.hh, factors))
    if sums.hy is not None:
        sums = sums._replace(hy=(sums.hy.T * factors).T)
    return replace(m, sums=sums, shift=None if m.shift is None else Shift(m.shift.h * factors, m.shift.y))
