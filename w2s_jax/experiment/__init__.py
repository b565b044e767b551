"""The weak-to-strong experiment itself: teacher, student and ceiling, measured and predicted."""

from w2s_jax.experiment.figures import plot_against_ranking, plot_predicted
from w2s_jax.experiment.from_moments import weak_to_strong_from_moments
from w2s_jax.experiment.outcome import Predicted, WeakToStrong
from w2s_jax.experiment.pseudo_labels import cross_fit_pseudo_labels
from w2s_jax.experiment.run import weak_to_strong, weak_to_strong_splits

__all__ = [
    "Predicted",
    "WeakToStrong",
    "cross_fit_pseudo_labels",
    "plot_against_ranking",
    "plot_predicted",
    "weak_to_strong",
    "weak_to_strong_from_moments",
    "weak_to_strong_splits",
]
