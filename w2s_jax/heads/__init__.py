"""Linear heads on frozen representations: ridge in closed form, trained with any loss, or from moments alone."""

from w2s_jax.heads import losses
from w2s_jax.heads.losses import Loss
from w2s_jax.heads.ridge import (
    LinearProbe,
    RidgeChoice,
    cross_validate_ridge,
    ridge_probe,
    ridge_probe_from_moments,
    ridge_probe_path,
)
from w2s_jax.heads.trained import TrainedProbe, train_probe

__all__ = [
    "LinearProbe",
    "Loss",
    "RidgeChoice",
    "TrainedProbe",
    "cross_validate_ridge",
    "losses",
    "ridge_probe",
    "ridge_probe_from_moments",
    "ridge_probe_path",
    "train_probe",
]
