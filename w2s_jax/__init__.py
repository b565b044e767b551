"""Weak-to-strong generalization from representations: how much is lost, and which weak model should teach.

What one types in the first week stands here; everything else is in the wing of its subject: `w2s_jax.theory`,
`w2s_jax.heads`, `w2s_jax.devices`, ...
"""

from importlib.metadata import version

from w2s_jax import (
    devices,
    experiment,
    extract,
    files,
    heads,
    leaderboard,
    predictors,
    ranking,
    select,
    studies,
    sweep,
    theory,
)
from w2s_jax._core.checks import InputError
from w2s_jax.experiment import WeakToStrong, weak_to_strong, weak_to_strong_from_moments, weak_to_strong_splits
from w2s_jax.filters import Filter, gradient_flow, iterated_tikhonov, projection, ridge
from w2s_jax.gap import PrincipalKernel, example_scores, gap_bound, gap_norm, prediction_gap, principal_kernel
from w2s_jax.heads import LinearProbe, ridge_probe, train_probe
from w2s_jax.moments import ModelMoments, Moments, merge_moments, model_moments, moments, moments_from_batches
from w2s_jax.overlap import Overlap, overlap, overlap_from_kernels, overlap_from_moments
from w2s_jax.ranking import SupervisorTable, rank_supervisors
from w2s_jax.spectrum import Spectrum, principal_rank, spectrum, tail_gamma
from w2s_jax.sweep import Sweep, run_sweep

__version__ = version("w2s_jax")

__all__ = [
    "Filter",
    "InputError",
    "LinearProbe",
    "ModelMoments",
    "Moments",
    "Overlap",
    "PrincipalKernel",
    "Spectrum",
    "SupervisorTable",
    "Sweep",
    "WeakToStrong",
    "devices",
    "example_scores",
    "experiment",
    "extract",
    "files",
    "gap_bound",
    "gap_norm",
    "gradient_flow",
    "heads",
    "iterated_tikhonov",
    "leaderboard",
    "merge_moments",
    "model_moments",
    "moments",
    "moments_from_batches",
    "overlap",
    "overlap_from_kernels",
    "overlap_from_moments",
    "prediction_gap",
    "predictors",
    "principal_kernel",
    "principal_rank",
    "projection",
    "rank_supervisors",
    "ranking",
    "ridge",
    "ridge_probe",
    "run_sweep",
    "select",
    "spectrum",
    "studies",
    "sweep",
    "tail_gamma",
    "theory",
    "train_probe",
    "weak_to_strong",
    "weak_to_strong_from_moments",
    "weak_to_strong_splits",
]
