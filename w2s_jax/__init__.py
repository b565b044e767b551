"""Weak-to-strong generalization from representations: how much is lost, and which weak model should teach."""

from importlib.metadata import version

from w2s_jax._core.checks import InputError
from w2s_jax.devices.hosts import Hosts, connected_hosts
from w2s_jax.devices.mesh import device_mesh, spread
from w2s_jax.devices.precision import PrecisionReport, fastest_precision, supported_precisions
from w2s_jax.devices.programs import cache_compiled_programs
from w2s_jax.experiment.from_moments import weak_to_strong_from_moments
from w2s_jax.experiment.outcome import WeakToStrong
from w2s_jax.experiment.pseudo_labels import cross_fit_pseudo_labels
from w2s_jax.experiment.run import weak_to_strong, weak_to_strong_splits
from w2s_jax.filters import Filter, gradient_flow, iterated_tikhonov, projection, ridge
from w2s_jax.gap import PrincipalKernel, example_scores, gap_bound, gap_norm, prediction_gap, principal_kernel
from w2s_jax.heads.ridge import (
    LinearProbe,
    RidgeChoice,
    cross_validate_ridge,
    ridge_probe,
    ridge_probe_from_moments,
    ridge_probe_path,
)
from w2s_jax.heads.trained import TrainedProbe, train_probe
from w2s_jax.moments import ModelMoments, Moments, merge_moments, model_moments, moments, moments_from_batches
from w2s_jax.overlap import Overlap, overlap, overlap_from_kernels, overlap_from_moments
from w2s_jax.ranking.rank import rank_supervisors
from w2s_jax.ranking.table import SupervisorTable
from w2s_jax.spectrum import Spectrum, principal_rank, spectrum, tail_gamma
from w2s_jax.sweep import Sweep, run_sweep
from w2s_jax.theory.decomposability import DecomposabilityReport, decomposability, decomposability_from_moments
from w2s_jax.theory.equivalent import Equivalent, Population, Tail, deterministic_equivalent
from w2s_jax.theory.equivalent_errors import EquivalentErrors, equivalent_errors, equivalent_errors_from_moments
from w2s_jax.theory.expected import expected_experiment
from w2s_jax.theory.kappa import effective_ridge, effective_ridge_from_spectrum

__version__ = version("w2s_jax")

__all__ = [
    "DecomposabilityReport",
    "Equivalent",
    "EquivalentErrors",
    "Filter",
    "Hosts",
    "InputError",
    "LinearProbe",
    "ModelMoments",
    "Moments",
    "Overlap",
    "Population",
    "PrecisionReport",
    "PrincipalKernel",
    "RidgeChoice",
    "Spectrum",
    "SupervisorTable",
    "Sweep",
    "Tail",
    "TrainedProbe",
    "WeakToStrong",
    "cache_compiled_programs",
    "connected_hosts",
    "cross_fit_pseudo_labels",
    "cross_validate_ridge",
    "decomposability",
    "decomposability_from_moments",
    "deterministic_equivalent",
    "device_mesh",
    "effective_ridge",
    "effective_ridge_from_spectrum",
    "equivalent_errors",
    "equivalent_errors_from_moments",
    "example_scores",
    "expected_experiment",
    "fastest_precision",
    "gap_bound",
    "gap_norm",
    "gradient_flow",
    "iterated_tikhonov",
    "merge_moments",
    "model_moments",
    "moments",
    "moments_from_batches",
    "overlap",
    "overlap_from_kernels",
    "overlap_from_moments",
    "prediction_gap",
    "principal_kernel",
    "principal_rank",
    "projection",
    "rank_supervisors",
    "ridge",
    "ridge_probe",
    "ridge_probe_from_moments",
    "ridge_probe_path",
    "run_sweep",
    "spectrum",
    "spread",
    "supported_precisions",
    "tail_gamma",
    "train_probe",
    "weak_to_strong",
    "weak_to_strong_from_moments",
    "weak_to_strong_splits",
]
