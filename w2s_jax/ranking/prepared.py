"""A representation as heads see it, from its sums per cell: about its mean and of unit mean square, or as it is."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from w2s_jax._core.arrays import matmul
from w2s_jax.moments import Shift, Sums, moved, moved_cross


class Preparation(NamedTuple):
    """What is done to a model's rows: taken about their `mean` (d,), which becomes `origin` (d,), and divided by `scale` ().

    The mean is about the shift of the sums; `variance` () is the trace of the centred second moment before that.
    """

    mean: Any
    origin: Any
    scale: Any
    variance: Any


def pool(roles: Array, sums: Array, n: Array) -> Array:
    """Means over the rows of a role's cells of what `sums` (J, ...) adds up, for one role (J,) or several (..., J)."""
    weights = roles / matmul(roles, n)[..., None]
    return matmul(weights, sums.reshape(len(n), -1)).reshape(*roles.shape[:-1], *sums.shape[1:])


def about(cells: Sums, by: Array) -> Sums:
    """The sums of every cell about an origin that moves by so much."""
    return jax.vmap(moved, (0, None))(cells, Shift(by))


def cross_about(cross: Array, strong: Sums, weak: Sums, by_s: Array | None, by_w: Array | None) -> Array:
    """Sums of products of every cell (J, d_s, d_w) about origins that move; `strong`, `weak` are about the old ones."""
    return jax.vmap(moved_cross, (0, 0, 0, None, None))(cross, strong, weak, by_s, by_w)


def prepare(sums: Sums, shift: Array, over: Array, normalize: bool) -> tuple[Preparation, Sums]:
    """What is done to a model's rows, given their sums about a shift; the statistics are those of the cells `over` (J,). With it
    the sums about the mean."""
    mean = pool(over, sums.h, sums.n)
    centred = about(sums, mean)
    variance = jnp.trace(pool(over, centred.hh, sums.n))
    scale = jnp.sqrt(jnp.where(variance > 0, variance, 1))
    if normalize:
        return Preparation(mean, jnp.zeros_like(mean), scale, variance), centred
    return Preparation(mean, shift + mean, jnp.ones_like(scale), variance), centred


def prepared(centred: Sums, of: Preparation, normalize: bool) -> Sums:
    """Sums of prepared rows, from those about the mean."""
    if not normalize:
        return about(centred, -of.origin)
    hy = None if centred.hy is None else centred.hy / of.scale
    return centred._replace(h=centred.h / of.scale, hh=centred.hh / of.scale / of.scale, hy=hy)
