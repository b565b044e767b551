"""Closed forms beside the spine: kappa, the deterministic equivalent, the expected and the posterior experiment,
decomposability."""

from w2s_jax.theory.decomposability import (
    Condition,
    DecomposabilityReport,
    decomposability,
    decomposability_from_moments,
)
from w2s_jax.theory.equivalent import Equivalent, Population, Tail, deterministic_equivalent
from w2s_jax.theory.equivalent_errors import EquivalentErrors, equivalent_errors, equivalent_errors_from_moments
from w2s_jax.theory.expected import expected_experiment
from w2s_jax.theory.figures import plot_spectrum
from w2s_jax.theory.kappa import effective_ridge, effective_ridge_from_spectrum
from w2s_jax.theory.plan import Plan, plan
from w2s_jax.theory.posterior import (
    GroupMoments,
    LabelPosterior,
    group_moments,
    label_posterior,
    label_posterior_from_moments,
    posterior_experiment,
)

__all__ = [
    "Condition",
    "DecomposabilityReport",
    "Equivalent",
    "EquivalentErrors",
    "GroupMoments",
    "LabelPosterior",
    "Plan",
    "Population",
    "Tail",
    "decomposability",
    "decomposability_from_moments",
    "deterministic_equivalent",
    "effective_ridge",
    "effective_ridge_from_spectrum",
    "equivalent_errors",
    "equivalent_errors_from_moments",
    "expected_experiment",
    "group_moments",
    "label_posterior",
    "label_posterior_from_moments",
    "plan",
    "plot_spectrum",
    "posterior_experiment",
]
