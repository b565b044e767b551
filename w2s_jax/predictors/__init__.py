"""Every published predictor behind one signature: moments and two heads in, or rows, and one number out; `PREDICTORS` has them by
name. Beside them closed forms, and functions of trained weak heads' labels."""

from w2s_jax.predictors.from_rows import debiased_cka, two_nn_dimension
from w2s_jax.predictors.labelled import h_score, kernel_alignment, logme, regularised_h_score
from w2s_jax.predictors.limits import VarianceErrors, student_floor, variance_errors
from w2s_jax.predictors.predictor import PairView, Predictor, RowsView, predictor
from w2s_jax.predictors.similarity import (
    correlation_dimension,
    effective_rank,
    gulp,
    kept_variance,
    largest_angle,
    mean_cca,
    procrustes,
    svcca,
    weak_participation_ratio,
)
from w2s_jax.predictors.theorem import (
    label_error,
    misfit,
    misfit_bound,
    prior_error,
    prior_gap,
    prior_misfit,
    weak_error,
)
from w2s_jax.predictors.weak_labels import Agreement, agreement, consensus, misfit_bregman, weak_label_gap

PREDICTORS: dict[str, Predictor] = {
    of.name: of
    for of in (
        prior_error,
        prior_gap,
        prior_misfit,
        kept_variance,
        gulp,
        mean_cca,
        svcca,
        largest_angle,
        procrustes,
        debiased_cka,
        correlation_dimension,
        effective_rank,
        weak_participation_ratio,
        two_nn_dimension,
        label_error,
        misfit,
        misfit_bound,
        weak_error,
        kernel_alignment,
        logme,
        h_score,
        regularised_h_score,
    )
}

__all__ = [
    "PREDICTORS",
    "Agreement",
    "PairView",
    "Predictor",
    "RowsView",
    "VarianceErrors",
    "agreement",
    "consensus",
    "misfit_bregman",
    "predictor",
    "student_floor",
    "variance_errors",
    "weak_label_gap",
]
