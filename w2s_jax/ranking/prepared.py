"""A representation as heads see it, from its sums per cell: about its mean and on one scale, or as it is."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from w2s_jax._core.arrays import matmul
from w2s_jax._core.normalize import Normalize, feature_factors, scaled
from w2s_jax.moments import Shift, Sums, moved, moved_cross


class Origin(NamedTuple):
    """The point (d,) that a model's sums are taken about, and the relative rounding () of its numbers (_core/normalize.py)."""

    shift: Any
    rounding: Any


class Preparation(NamedTuple):
    """What is done to a model's rows: taken about their `mean` (d,), which becomes `origin` (d,), and times `factor` (d,).

    The mean is about the shift of the sums. Centred rows times `unit` (d,) have a mean squared norm of 1; `variance` () is that
    norm before, of features that are not dead.
    """

    mean: Any
    origin: Any
    factor: Any
    unit: Any
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


def prepare(sums: Sums, origin: Origin, over: Array, normalize: Normalize) -> tuple[Preparation, Sums]:
    """What is done to a model's rows, given their sums; the statistics are those of the cells `over` (J,). With it the sums
    about the mean."""
    mean = pool(over, sums.h, sums.n)
    centred = about(sums, mean)
    variances = jnp.diagonal(pool(over, centred.hh, sums.n))
    unit, variance = feature_factors(variances, origin.shift + mean, origin.rounding)
    if normalize == "none":
        return Preparation(mean, origin.shift + mean, jnp.ones_like(mean), unit, variance), centred
    return Preparation(mean, jnp.zeros_like(mean), unit, unit, variance), centred


def prepared_rows(rows: Array, origin: Origin, normalize: Normalize) -> Array:
    """Rows (n, d) as heads see them, from all of them about their shift."""
    if normalize == "none":
        return rows + origin.shift
    mean = jnp.mean(rows, 0)
    about = rows - mean
    return about * feature_factors(jnp.mean(jnp.square(about), 0), origin.shift + mean, origin.rounding)[0]


def prepared(centred: Sums, of: Preparation, normalize: Normalize) -> Sums:
    """Sums of prepared rows, from those about the mean."""
    if normalize == "none":
        return about(centred, -of.origin)
    hy = None if centred.hy is None else of.factor[:, None] * centred.hy
    return centred._replace(h=centred.h * of.factor, hh=scaled(centred.hh, of.factor), hy=hy)
