"""Every published predictor behind one signature: moments and two heads in, one number out; `PREDICTORS` has them by name."""

from w2s_jax.predictors.labelled import kernel_alignment, logme
from w2s_jax.predictors.limits import VarianceErrors, student_floor, variance_errors
from w2s_jax.predictors.predictor import PairView, Predictor, predictor
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
        correlation_dimension,
        effective_rank,
        weak_participation_ratio,
        label_error,
        misfit,
        misfit_bound,
        weak_error,
        kernel_alignment,
        logme,
    )
}

__all__ = ["PREDICTORS", "PairView", "Predictor", "VarianceErrors", "predictor", "student_floor", "variance_errors"]
