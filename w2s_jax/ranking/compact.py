"""Representations of fewer rows than features, turned without loss into as many features as rows.

Heads, kernels and spectra see nothing of a representation but the products of its rows. Those of H (n, d) are the products
of a square root L (n, n) of its kernel, `H H^T = L L^T`, also after any step that is linear in the rows: centring, scaling,
a choice of rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from w2s_jax._core.checks import InputError, require_finite
from w2s_jax._core.normalize import Normalize, normalised_rows, rounding_of
from w2s_jax.ranking.cells import ModelRows


def has_few_rows(rows: Any) -> bool:
    """Whether there are fewer rows than features."""
    return rows.shape[0] < rows.shape[1]


class CompactRows:
    """Rows (n, n) in place of n < d rows of d features, which are read whole when rows are first asked for.

    `label` names them in messages; `normalize`: what is done to features is done here where they are scaled each, and unless
    heads have no bias rows are taken about their mean, so that neither a large one nor a stray first row costs digits;
    `keep`: for more than one pass over the rows, otherwise they are let go with the last one.
    """

    def __init__(
        self, rows: Any, label: str, dtype: Any, normalize: Normalize, keep: bool, about_mean: bool = False
    ) -> None:
        self._rows, self._label, self._keep = rows, label, keep
        self._about_mean = about_mean and normalize != "none"
        self._normalize: Normalize = normalize
        self._held: np.ndarray | None = None
        self.shape, self.dtype = (rows.shape[0], rows.shape[0]), np.dtype(dtype)

    def __getitem__(self, wanted: slice) -> np.ndarray:
        """Some of the rows.

        Raises:
            InputError: NaN or infinite entries, or such that overflow the dtype.
        """
        if self._held is None:
            self._held = self._compact()
        found = self._held[wanted]
        if not self._keep and wanted.stop is not None and wanted.stop >= len(self._held):
            self._held = None
        return found

    def _compact(self) -> np.ndarray:
        rows = np.asarray(self._rows[0 : self.shape[0]])
        require_finite(f"the values of {self._label}", rows)
        # In double precision: single would leave errors in trials six times those of moments of all features.
        rounding = rounding_of(rows.dtype, self._normalize)
        with np.errstate(over="ignore", invalid="ignore"):
            rows = normalised_rows(rows, rounding) if rounding >= 0 else rows.astype(np.float64)
            rows = rows if self._normalize == "none" else _about_mean(rows)
            found = _square_root(rows, self.dtype).astype(self.dtype)
        if not np.isfinite(found).all():
            raise InputError(f"{self._label} is too large: its squares overflow {self.dtype}")
        return found


def about_origin(name: str, rows: Any, normalize: Normalize) -> ModelRows:
    """Compact rows, whose sums are taken about their mean, which is zero, or if heads have no bias about the first one."""
    first = np.asarray(rows[0:1])
    return ModelRows(name, rows, first if normalize == "none" else np.zeros_like(first))


def _about_mean(rows: np.ndarray) -> np.ndarray:
    rows = rows - rows[0]
    return rows - rows.mean(0)


def _square_root(rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A triangle (n, n) whose rows have the products of rows (n, d), to the precision of a dtype.

    To double precision by QR; to single by Cholesky of the products in double, which takes less than half the time.
    """
    if dtype == np.float64:
        return np.asarray(np.linalg.qr(rows.T, mode="r")).T
    size = np.max(np.abs(rows))
    if not 0 < size < np.inf:  # rows that are constant or overflow, of which there is none
        return np.full((len(rows), len(rows)), size)
    scaled = rows / size
    kernel = scaled @ scaled.T
    # More than the rounding of the products, so that none of them is negative, and nothing in single precision.
    ridge = len(kernel) * np.finfo(np.float64).eps * np.trace(kernel)
    return size * np.linalg.cholesky(kernel + ridge * np.eye(len(kernel)))
