"""Features on one scale for heads, and rows: by what the rows are that a head is trained on, for its own and all other rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax.numpy as jnp
from jax import Array

from w2s_jax._core.arrays import accumulation_dtype, matmul
from w2s_jax._core.normalize import Normalize, RowNorm, after_unit_rows, feature_factors, rounding_of, scaled
from w2s_jax.moments import ModelMoments, Moments, Shift


def scaling_of(fit: Array, normalize: Normalize, rows: RowNorm = "given") -> Callable[[Array], Array]:
    """What is done to the rows of a head that is trained on `fit` (n, d)."""
    factors = factors_of_rows(fit, normalize)
    if rows == "given":
        return lambda h: h * factors
    origin = jnp.zeros_like(fit[0]) if normalize == "none" else fit[0]
    mean = 0 if normalize == "none" else jnp.mean(fit - origin, 0)
    unit = lambda h: _of_unit_norm((h - origin - mean) * factors)
    common = factors_of_rows(unit(fit), after_unit_rows(normalize, rows))
    return lambda h: unit(h) * common


def _of_unit_norm(h: Array) -> Array:
    square = jnp.sum(jnp.square(h), 1, keepdims=True)
    there = square > 0
    return jnp.where(there, h * jnp.where(there, square, 1) ** -0.5, 0)


def factors_of_rows(h: Array, normalize: Normalize, weights: Array | None = None) -> Array:
    """Factors (d,) of the features of rows (n, d), whose weights (n,) add up to 1; 1 for "none"."""
    dtype = accumulation_dtype(h.dtype)
    if normalize == "none":
        return jnp.ones(h.shape[1], dtype)
    first = h[0].astype(dtype)
    about = h.astype(dtype) - first
    mean_of = (lambda x: jnp.mean(x, 0)) if weights is None else partial(matmul, weights)
    mean = mean_of(about)
    variances = mean_of(jnp.square(about - mean))
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
