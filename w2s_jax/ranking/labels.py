"""Labels on entry, of rankings and sweeps: numbers, which rows have one, and about their mean where heads have an intercept."""

from __future__ import annotations

from typing import Any

import numpy as np

from w2s_jax._core.arrays import entered
from w2s_jax._core.checks import InputError, require_finite, require_no_marks, warn_of_classes


def checked_labels(name: str, y: Any, n: int, labelled_rows: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n, c) in float64 with 0 where there are none, and which rows have one: those that are not NaN, or of them the
    chosen ones, `labelled_rows` (n,) bool.

    Raises:
        InputError: labels that are no numbers or do not fit, hold infinities, nothing but NaN or nothing but zeros, or -1 or -100
            for no label beside classes.
    """
    given = entered(name, y)
    try:
        y = np.asarray(given).astype(float)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} must be numbers (classes as one-hot or +-1 targets), got {type(y).__name__}"
        ) from error
    if y.ndim not in (1, 2) or y.shape[0] != n or 0 in y.shape:
        raise InputError(f"{name} must have shape ({n},) or ({n}, outputs), got {y.shape}")
    warn_of_classes(name, y)
    y = y.reshape(n, -1)
    mask = np.asarray(~np.isnan(y).any(axis=1))
    if labelled_rows is not None:
        mask = _chosen(labelled_rows, mask)
    if not mask.any():
        raise InputError(f"{name} must have at least one labelled row, got none")
    require_no_marks(name, y[mask], "make it NaN, as --unlabelled of w2s rank and unlabelled= of read_labels do")
    y = np.where(mask[:, None], y, 0)
    require_finite(name, y)
    if not y.any():
        raise InputError(f"{name} must not be zero in every labelled row")
    return y, mask


def about_mean(y: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Labels about the mean of the rows that have one, which keeps the digits that a large mean would cost."""
    return np.where(mask[:, None], y - y[mask].mean(0), 0)


def _chosen(labelled_rows: Any, mask: np.ndarray) -> np.ndarray:
    chosen = np.asarray(labelled_rows)
    if chosen.shape != mask.shape or chosen.dtype != bool:
        raise InputError(
            f"labelled_rows must be a boolean array of shape {mask.shape}, got {chosen.dtype} {chosen.shape}"
        )
    if (chosen & ~mask).any():
        raise InputError(f"labelled_rows must have labels, got NaN in row {int(np.argmax(chosen & ~mask))}")
    return chosen
