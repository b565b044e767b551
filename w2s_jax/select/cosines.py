"""Cosines between rows, in blocks of rows: what compares every row with every other never holds an n x n matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from w2s_jax._core.arrays import accumulation_dtype
from w2s_jax._core.normalize import Normalize
from w2s_jax.heads.scaling import factors_of_rows
from w2s_jax.overlap import centered

BLOCK_ENTRIES = 1 << 24  # of a block of rows against all rows


def unit_rows(h: Array, normalize: Normalize) -> Array:
    """Rows (n, d) of norm 1, or 0: as they are with "none", else about their mean and with their features' factors."""
    x = h.astype(accumulation_dtype(h.dtype)) if normalize == "none" else centered(h) * factors_of_rows(h, normalize)
    square = jnp.sum(jnp.square(x), 1, keepdims=True)
    return jnp.where(square > 0, x * jnp.where(square > 0, square, 1) ** -0.5, 0)


def by_row(function: Callable[[Any], Any], rows: Any, against: int) -> Any:
    """The function of each row, of which a block at a time is compared with so many others."""
    n = len(jax.tree.leaves(rows)[0])
    return jax.lax.map(function, rows, batch_size=max(1, min(n, BLOCK_ENTRIES // against)))
