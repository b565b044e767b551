"""What features are multiplied by before a head sees them: the one rule for rankings, sweeps and experiments.

"features": every feature to unit variance, then all to unit mean squared row norm. A language model has channels hundreds of
times larger than the rest, which would otherwise be all that a head sees. "scale": all by one number, to unit mean squared row
norm. Both take variances about the mean. "none": as they are; in rankings and sweeps heads then have no bias. With
rows="unit" each row is divided by its norm after that, so that none is larger than another.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import Array

Normalize = Literal["features", "scale", "none"]
RowNorm = Literal["given", "unit"]
FEW, MANY = 2.5, 16  # directions that hold the variance, of how many features at least: worth a warning
HIDING = 1.001  # directions in which representations as they are have lost the others to float32's rounding, or nearly
SINGLE = float(np.finfo(np.float32).eps)  # models sum in single precision, also those that store half of it
COMMON = -1.0  # in the place of a relative rounding: one factor for all features


def rounding_of(dtype: Any, normalize: Normalize) -> float:
    """The relative rounding of numbers of a type, or COMMON where features are not scaled each."""
    if normalize != "features":
        return COMMON
    return float(jnp.finfo(dtype).eps) if jnp.issubdtype(dtype, jnp.floating) else 0.0


def after_unit_rows(normalize: Normalize, rows: RowNorm) -> Normalize:
    """What is left to do to rows that are of unit norm when they are read: their features have been scaled before that."""
    return "scale" if rows == "unit" and normalize == "features" else normalize


def feature_factors(variances: Any, means: Any, rounding: Any, xp: Any = jnp) -> tuple[Any, Any]:
    """Factors (d,) of features with these variances and means (d,), and the variance () that there was.

    A feature that varies by no more than the rounding of its values, or of those of the others (their geometric mean: a unit that
    is 0 but for what was left of sums of the others), is dead: it becomes 0. A head would learn from rounding what to make of
    the one row that wakes it.
    """
    varied = variances > xp.square(rounding * means)
    logs = xp.where(varied, xp.log(xp.where(varied, variances, 1)), 0)
    typical = xp.exp(xp.sum(logs) / xp.maximum(xp.sum(varied), 1))
    dead = ~varied | (variances <= xp.square(xp.minimum(rounding, SINGLE)) * typical)
    live = xp.where((rounding < 0) | ~dead, variances, 0)
    total, count = xp.sum(live), xp.sum(live > 0)
    each = xp.where(live > 0, 1 / xp.sqrt(xp.where(live > 0, live, 1) * xp.maximum(count, 1)), 0)
    common = xp.where(total > 0, 1 / xp.sqrt(xp.where(total > 0, total, 1)), 1)
    return xp.where(rounding < 0, common + 0 * variances, each), total


def participation_ratio(values: np.ndarray) -> float:
    """In how many directions the variance is, `(sum lambda)^2 / sum lambda^2`."""
    values = np.asarray(values, np.float64)  # squares of those of rows of 1e-12 or 1e12 are out of float32's range
    return float(np.sum(values) ** 2 / np.sum(np.square(values)))


def warn_if_concentrated(
    name: str, directions: float, width: int, normalize: Normalize, dtype: Any, stacklevel: int = 5
) -> None:
    """Warns where one or two of many directions hold the variance, as they are where one hides the others in single precision;
    `directions` is the participation ratio."""
    if directions >= (HIDING if normalize == "none" else FEW) or width < MANY:
        return
    if normalize == "none":
        if dtype == np.float64:
            return
        warnings.warn(
            f"{name}: one of {width} directions holds {1 - (directions - 1) / 2:.3%} of the mean square and float32 loses others "
            'beside it: normalize="features" takes features about their means and to one scale',
            stacklevel=stacklevel,
        )
        return
    cure = "" if normalize == "features" else ': normalize="features" puts all features on one scale'
    warnings.warn(
        f"{name}: {directions:.1f} of {width} directions hold the variance and heads see little else{cure}",
        stacklevel=stacklevel,
    )


def normalised_rows(rows: np.ndarray, rounding: float) -> np.ndarray:
    """Rows (n, d) about their mean and times their features' factors, in double precision."""
    rows = rows.astype(np.float64)
    rows = rows / max(
        np.max(np.abs(rows), initial=0), np.finfo(float).tiny
    )  # whose squares neither overflow nor vanish
    first = rows[0]
    about = rows - first
    mean = about.mean(0)
    about -= mean
    return about * feature_factors(np.mean(np.square(about), 0), first + mean, rounding, np)[0]


def scaled(x: Array, factors: Array) -> Array:
    """A symmetric matrix (..., d, d) of features times their factors on both sides."""
    return factors[:, None] * x * factors
