"""Rows of norm 1, whose products are cosines."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from w2s_jax._core.arrays import accumulation_dtype
from w2s_jax._core.normalize import Normalize
from w2s_jax.heads.scaling import factors_of_rows
from w2s_jax.overlap import centered


def unit_rows(h: Array, normalize: Normalize) -> Array:
    """Rows (n, d) of norm 1, or 0: as they are with "none", else about their mean and with their features' factors."""
    x = h.astype(accumulation_dtype(h.dtype)) if normalize == "none" else centered(h) * factors_of_rows(h, normalize)
    square = jnp.sum(jnp.square(x), 1, keepdims=True)
    return jnp.where(square > 0, x * jnp.where(square > 0, square, 1) ** -0.5, 0)
