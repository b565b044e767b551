"""Rows divided each by its norm as they are read, after their features have been taken about their means and scaled.

The means and scales are those of all rows, so that rows are read twice: once for these, and then block by block for what they
are wanted for.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from w2s_jax._core.checks import require_finite
from w2s_jax._core.normalize import Normalize, feature_factors, rounding_of

_BLOCK_ENTRIES = 1 << 20  # of a block in double precision


class UnitRows:
    """Rows (n, d) of unit norm in place of `given`, in a dtype; `label` names them in messages.

    Rows are about their mean and scaled as `normalize` says before they are divided, with "none" as they are. A row at the mean
    stays 0.
    """

    def __init__(self, given: Any, label: str, dtype: Any, normalize: Normalize) -> None:
        self.given, self._label = given, label
        self._normalize: Normalize = normalize
        self.shape, self.dtype = tuple(given.shape), np.dtype(dtype)

    def read_through(self, given: Any) -> UnitRows:
        """The same rows, read from something else that holds them; the statistics are known by then."""
        other = UnitRows(given, self._label, self.dtype, self._normalize)
        other.__dict__["_scaling"] = self._scaling
        return other

    def __getitem__(self, wanted: slice) -> np.ndarray:
        """Some of the rows.

        Raises:
            InputError: NaN or infinite entries.
        """
        mean, factors = self._scaling
        start, stop, _ = wanted.indices(self.shape[0])
        given = np.asarray(self.given[start:stop])
        require_finite(f"the values of {self._label}", given, start)
        found = np.empty(given.shape, self.dtype)
        step = self._step
        for first in range(0, len(given), step):
            rows = (given[first : first + step].astype(np.float64) - mean) * factors
            norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
            found[first : first + step] = rows / np.where(norms > 0, norms, 1)
        return found

    @property
    def _step(self) -> int:
        return max(1, _BLOCK_ENTRIES // self.shape[1])

    @cached_property
    def _scaling(self) -> tuple[np.ndarray, np.ndarray]:
        """What is taken off each feature (d,) and what it is multiplied by (d,), from a first pass over the rows."""
        n, d = self.shape
        if self._normalize == "none":
            return np.zeros(d), np.ones(d)
        origin = np.asarray(self.given[0:1]).astype(np.float64)[0]
        first, second = np.zeros(d), np.zeros(d)
        for start in range(0, n, self._step):
            rows = np.asarray(self.given[start : min(start + self._step, n)])
            require_finite(f"the values of {self._label}", rows, start)
            rows = rows.astype(np.float64) - origin
            first += rows.sum(0)
            second += np.einsum("ij,ij->j", rows, rows)
        about = first / n
        variances = np.maximum(second / n - about**2, 0)
        factors, _ = feature_factors(variances, origin + about, rounding_of(self.given.dtype, self._normalize), np)
        return origin + about, factors
