"""Which weakly labelled examples should the student see? Scores of rows, and the rows that a score chooses."""

from w2s_jax.select.mlp import mlp_predictions
from w2s_jax.select.neighbours import nearest, neighbour_agreement, smoothed_labels
from w2s_jax.select.overlap_density import (
    OverlapDensity,
    change_point,
    choose_source,
    overlap_density,
    weak_confidence,
)
from w2s_jax.select.rads import rads_scores
from w2s_jax.select.selection import Selection, select_rows

__all__ = [
    "OverlapDensity",
    "Selection",
    "change_point",
    "choose_source",
    "mlp_predictions",
    "nearest",
    "neighbour_agreement",
    "overlap_density",
    "rads_scores",
    "select_rows",
    "smoothed_labels",
    "weak_confidence",
]
