"""Overlap density: rows that are easy for the weak model and look, to the strong one, like those that are hard for it.

On such overlapping rows weak labels are good and teach what the hard rows need. Hard are rows of low weak confidence; what low
is, and what looks alike, each say a change point of sorted values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from w2s_jax._core.arrays import accumulation_dtype, as_labels, as_matrix, entered, matmul
from w2s_jax._core.checks import InputError, require_choice, require_finite, require_range
from w2s_jax._core.normalize import Normalize
from w2s_jax._core.row_blocks import by_row
from w2s_jax.select.cosines import unit_rows


def weak_confidence(probabilities: ArrayLike) -> Float[Array, " n"]:
    """How sure a weak model is of each row, from 0 (chance) to 1.

    Args:
        probabilities: of the second of two classes (n,), or of c classes (n, c), rows summing to 1.

    Returns:
        `2 |p - 1/2|`; of c classes how far the largest probability is above chance, `(max p - 1/c) / (1 - 1/c)`, which for two
        classes is the same.

    Raises:
        InputError: another shape, entries outside of [0, 1], rows that do not sum to 1.

    >>> weak_confidence([0.5, 0.0, 0.75]).tolist(), weak_confidence([[0.25, 0.75]]).tolist()
    ([0.0, 1.0, 0.5], [0.5])

    Source: Shin et al. 2025.
    """
    require_range("probabilities", probabilities, 0, 1)
    p = as_labels("probabilities", probabilities, np.shape(probabilities)[0] if np.ndim(probabilities) else 0)
    if p.ndim == 1 or p.shape[1] == 1:
        return 2 * jnp.abs(p.reshape(-1) - 0.5)
    if not isinstance(p, Tracer) and float(jnp.max(jnp.abs(jnp.sum(p, 1) - 1))) > 1e-3:
        raise InputError("probabilities of classes must sum to 1 in each row, got rows that do not")
    chance = 1 / p.shape[1]
    return (jnp.max(p, 1) - chance) / (1 - chance)


def change_point(values: Float[ArrayLike, " n"], counted_rows: Bool[ArrayLike, " n"] | None = None) -> Float[Array, ""]:
    """The one change point of sorted values under squared error: the largest value of the lower part.

    Exact, by cumulative sums: of all splits of the sorted values the one with the least squared distance of the two parts from
    their means. Equal values stay together; if all are equal they are the lower part.

    Args:
        values: (n,), in any order.
        counted_rows: (n,) bool, which of them count, default all; with none the threshold is infinite.

    Raises:
        InputError: another shape, no values, NaN or infinite ones.

    >>> float(change_point([5.0, 1.0, 2.0, 6.0]))
    2.0

    Source: Shin et al. 2025, the split of confidences and of similarities.
    """
    values = jnp.asarray(entered("values", values))
    if values.ndim != 1 or not values.size:
        raise InputError(f"values must have shape (n,), got {values.shape}")
    require_finite("values", values)
    counted = jnp.ones(values.shape, bool) if counted_rows is None else jnp.asarray(counted_rows)
    if counted.shape != values.shape or counted.dtype != bool:
        raise InputError(
            f"counted_rows must be a boolean array of shape {values.shape}, got {counted.dtype} {counted.shape}"
        )
    return _change_point(values.astype(accumulation_dtype(values.dtype)), counted)


@jax.jit
def _change_point(values: Array, counted: Array) -> Array:
    n = jnp.sum(counted)
    ordered = jnp.sort(jnp.where(counted, values, jnp.inf))
    there = jnp.arange(len(ordered)) < n
    mean = jnp.sum(jnp.where(there, ordered, 0)) / jnp.maximum(n, 1)
    low = jnp.arange(1, len(ordered) + 1, dtype=values.dtype)  # rows of the lower part
    sums = jnp.cumsum(jnp.where(there, ordered - mean, 0))
    apart = (low < n) & (ordered < jnp.roll(ordered, -1))
    gain = jnp.where(apart, jnp.square(sums) / (low * jnp.maximum(n - low, 1)), -1)
    last = ordered[jnp.maximum(n - 1, 0)]  # infinite if nothing counts
    return jnp.where(jnp.any(apart), ordered[jnp.argmax(gain)], last)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OverlapDensity:
    """Which rows are hard, easy or both, and how many overlap.

    `confidence`, `similarity` (n,): of the weak model, and the largest |cos| of the strong representation with that of a hard
    row. `hard` (n,): confidence at or below `confidence_threshold`; `overlap` (n,): not hard, similarity above
    `similarity_threshold`. `density`: share of overlapping rows. `scores` (n,): to select rows by, the similarity of those that
    are not hard, and below them all the hard ones by their confidence.

    >>> strong = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]
    >>> overlap_density(strong, [0.1, 0.9, 0.9, 0.8])
    OverlapDensity(density 0.25: 1 hard, 2 easy, 1 overlapping of 4 rows)
    """

    confidence: Float[Array, " n"]
    similarity: Float[Array, " n"]
    confidence_threshold: Array
    similarity_threshold: Array

    @property
    def hard(self) -> Bool[Array, " n"]:
        """Rows of low weak confidence."""
        return self.confidence <= self.confidence_threshold

    @property
    def overlap(self) -> Bool[Array, " n"]:
        """Rows that are not hard and look like one that is."""
        return ~self.hard & (self.similarity > self.similarity_threshold)

    @property
    def density(self) -> Array:
        """Share of overlapping rows."""
        return jnp.mean(self.overlap.astype(self.similarity.dtype))

    @property
    def scores(self) -> Float[Array, " n"]:
        """What to select rows by: between 0 and 1, of hard rows between -1 and 0."""
        return jnp.where(self.hard, self.confidence - 1, self.similarity)

    def __repr__(self) -> str:
        if isinstance(self.similarity, Tracer) or not hasattr(self.similarity, "shape"):
            return "OverlapDensity(...)"
        hard, overlap, n = int(self.hard.sum()), int(self.overlap.sum()), len(self.similarity)
        counts = f"{hard} hard, {n - hard - overlap} easy, {overlap} overlapping of {n} rows"
        return f"OverlapDensity(density {overlap / n:.3g}: {counts})"


def overlap_density(
    strong: Float[ArrayLike, "n d"], confidence: Float[ArrayLike, " n"], *, normalize: Normalize = "none"
) -> OverlapDensity:
    """Rows that are easy for the weak model and similar to hard ones for the strong model, and their share.

    Args:
        strong: strong representation (n, d).
        confidence: of the weak model (n,), in [0, 1], such as `weak_confidence`.
        normalize: "none" takes cosines of rows as they are, as the source does; "scale" about their mean, "features" also with
            each feature to unit variance.

    Raises:
        InputError: shapes that do not fit, NaN or infinite entries, a confidence outside of [0, 1].

    >>> found = overlap_density([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]], [0.1, 0.9, 0.9, 0.8])
    >>> found.overlap.tolist(), round(float(found.confidence_threshold), 2)
    ([False, True, False, False], 0.1)

    Source: Shin et al. 2025 (arXiv:2412.03881), overlap detection.
    """
    strong = as_matrix("strong representations", strong)
    require_range("confidence", confidence, 0, 1)
    require_choice("normalize", normalize, Normalize)
    confidence = as_labels("confidence", confidence, strong.shape[0])
    if confidence.ndim != 1:
        raise InputError(f"confidence must have shape ({strong.shape[0]},), got {confidence.shape}")
    return _overlap_density(strong, confidence, normalize)


@partial(jax.jit, static_argnames="normalize")
def _overlap_density(strong: Array, confidence: Array, normalize: Normalize) -> OverlapDensity:
    threshold = _change_point(confidence, jnp.ones(confidence.shape, bool))
    hard = confidence <= threshold
    unit = unit_rows(strong, normalize)
    largest = lambda row: jnp.max(jnp.where(hard, jnp.abs(matmul(unit, row)), 0))
    similarity = jnp.minimum(by_row(largest, unit, len(unit)), 1)
    return OverlapDensity(confidence, similarity, threshold, _change_point(similarity, ~hard))


def choose_source(
    densities: Float[ArrayLike, " sources"], draws: ArrayLike, *, exploration: ArrayLike = 2.0
) -> Int[Array, ""]:
    """The data source to draw from next: the one of largest upper confidence bound of its overlap density.

    One step of a bandit: `density + sqrt(exploration log(all draws) / draws)`; a source without a draw comes first.

    Args:
        densities: mean overlap density of each source so far (sources,); what stands at those without a draw is not used.
        draws: how often each has been drawn from (sources,).
        exploration: 0 takes the densest source at once.

    Raises:
        InputError: shapes that differ, negative entries.

    >>> int(choose_source([0.3, 0.2, 0.0], [5, 5, 0])), int(choose_source([0.3, 0.2], [500, 5]))
    (2, 1)

    Source: Shin et al. 2025, data-source selection; Auer et al. 2002 (UCB1).
    """
    require_range("draws", draws, 0)
    require_range("exploration", exploration, 0)
    densities, draws = jnp.asarray(densities, float), jnp.asarray(draws, float)
    if densities.ndim != 1 or densities.shape != draws.shape or not densities.size:
        raise InputError(
            f"densities and draws must both have shape (sources,), got {densities.shape} and {draws.shape}"
        )
    width = jnp.sqrt(exploration * jnp.log(jnp.maximum(jnp.sum(draws), 1)) / jnp.maximum(draws, 1))
    return jnp.argmax(jnp.where(draws > 0, densities + width, jnp.inf))
