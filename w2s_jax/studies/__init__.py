"""Families of known populations, simulated experiments, and the studies made of them: verify, demo."""

from w2s_jax.studies.demo import DemoConfig, DemoResult, run_demo
from w2s_jax.studies.simulation import Outcome, Trial, outcome, run_trial, simulate
from w2s_jax.studies.stand_ins import made_up_texts, random_checkpoint
from w2s_jax.studies.synthetic import (
    GaussianFamily,
    ReluFamily,
    Sample,
    benign_overfitting,
    benign_overfitting_errors,
    low_intrinsic_dimension,
    power_law,
    random_features,
    spiked,
    subspaces,
)
from w2s_jax.studies.verify import Cell, Scenario, Verification, phase_diagram, run_verify
from w2s_jax.studies.verify_figure import plot_verification

__all__ = [
    "Cell",
    "DemoConfig",
    "DemoResult",
    "GaussianFamily",
    "Outcome",
    "ReluFamily",
    "Sample",
    "Scenario",
    "Trial",
    "Verification",
    "benign_overfitting",
    "benign_overfitting_errors",
    "low_intrinsic_dimension",
    "made_up_texts",
    "outcome",
    "phase_diagram",
    "plot_verification",
    "power_law",
    "random_checkpoint",
    "random_features",
    "run_demo",
    "run_trial",
    "run_verify",
    "simulate",
    "spiked",
    "subspaces",
]
