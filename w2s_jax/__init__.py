"""Weak-to-strong generalization from representations: how much is lost, and which weak model should teach."""

from w2s_jax._checks import InputError
from w2s_jax.filters import Filter, gradient_flow, iterated_tikhonov, projection, ridge
from w2s_jax.gap import PrincipalKernel, example_scores, gap_bound, gap_norm, prediction_gap, principal_kernel
from w2s_jax.moments import Moments, moments, moments_from_batches
from w2s_jax.overlap import Overlap, overlap, overlap_from_kernels, overlap_from_moments
from w2s_jax.ranking import rank_supervisors
from w2s_jax.spectrum import Spectrum, principal_rank, spectrum, tail_gamma
from w2s_jax.table import SupervisorTable

__all__ = [
    "Filter",
    "InputError",
    "Moments",
    "Overlap",
    "PrincipalKernel",
    "Spectrum",
    "SupervisorTable",
    "example_scores",
    "gap_bound",
    "gap_norm",
    "gradient_flow",
    "iterated_tikhonov",
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
    "spectrum",
    "tail_gamma",
]
