"""A warning where a handful of rows hold most of the energy: squared norms of rows about their mean, scaled as heads see them.

One broken or extreme example can be all that a head sees, as one channel can. Rows are looked at as they are read for something
else. Where they come in blocks all are scaled as the first block says.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from w2s_jax._core.normalize import Normalize, feature_factors, rounding_of

HANDFUL = 10  # rows at most, and no more than one in a hundred, that hold half of the energy
LARGE, TIMES = 0.1, 20  # the share of a single row, at least so many times the mean: of normal ones none is so large
_ENTRIES = 1 << 18  # that are looked at together, while they are in the cache


def heavy_rows(energies: np.ndarray) -> np.ndarray:
    """The rows (k,) out of (n,) that are worth a warning, the largest first; k is nearly always 0."""
    n, total = len(energies), float(np.sum(energies))
    if n < 2 or not 0 < total < np.inf:
        return np.zeros(0, int)
    most = max(1, min(HANDFUL, n // 100))
    largest = np.argpartition(-energies, most - 1)[:most]
    largest = largest[np.argsort(-energies[largest])]
    single = int(np.sum(energies[largest] > total * max(LARGE, TIMES / n)))
    half = np.cumsum(energies[largest]) > total / 2
    return largest[: max(single, int(np.argmax(half)) + 1 if half[-1] else 0)]


def warn_of_heavy_rows(name: str, h: Any, normalize: Normalize) -> None:
    """Warns if a handful of rows (n, d) hold most of the energy; tracers pass. Of rows on an accelerator nothing but their
    energies is copied."""
    if isinstance(h, Tracer):
        return
    if _on_accelerator(h):
        _warn(name, np.asarray(_energies_there(h, normalize), np.float64), normalize, None, 4)
    else:
        rows = np.asarray(h)
        Watched(rows, name, normalize)[0 : len(rows)]


def _on_accelerator(h: Any) -> bool:
    return isinstance(h, jax.Array) and any(device.platform != "cpu" for device in h.devices())


@partial(jax.jit, static_argnames="normalize")
def _energies_there(h: jax.Array, normalize: Normalize) -> jax.Array:
    """Squared norms (n,) of scaled rows about their mean."""
    rows = h.astype(jnp.promote_types(h.dtype, jnp.float32))
    if normalize == "none":
        return jnp.sum(jnp.square(rows), 1)
    mean = jnp.mean(rows, 0)
    about = rows - mean
    factors, _ = feature_factors(jnp.mean(jnp.square(about), 0), mean, rounding_of(h.dtype, normalize))
    return jnp.sum(jnp.square(about * factors), 1)


class Watched:
    """Rows as they are read: when they have been read from the first to the last, a warning says if a handful hold most of their
    energy, by number or id."""

    def __init__(self, rows: Any, name: str, normalize: Normalize) -> None:
        self._rows, self._name, self._ids = rows, name, getattr(rows, "ids", None)
        self._normalize: Normalize = normalize
        self._energies: list[np.ndarray] = []
        self._next, self._done = -1, False
        self._scaling: tuple[np.ndarray, np.ndarray] = np.zeros(0), np.zeros(0)
        self.shape, self.dtype = tuple(rows.shape), rows.dtype

    def __getitem__(self, wanted: slice) -> np.ndarray:
        block = np.asarray(self._rows[wanted])
        start, stop, _ = wanted.indices(self.shape[0])
        if not self._done and start in (0, self._next):
            self._watch(start, stop, block)
        return block

    def _watch(self, start: int, stop: int, block: np.ndarray) -> None:
        if start == 0:
            self._energies, self._scaling = [], _scaling(block, self._normalize)
        self._energies += _energies(block, *self._scaling)
        self._next = stop
        if stop == self.shape[0]:
            self._done = True
            _warn(self._name, np.concatenate(self._energies), self._normalize, self._ids, 6)


def _warn(name: str, energies: np.ndarray, normalize: Normalize, ids: Any, stacklevel: int) -> None:
    heavy = heavy_rows(energies)
    if not len(heavy):
        return
    share = float(energies[heavy].sum() / energies.sum())
    id_of = lambda row: "" if ids is None else f" ({ids[row : row + 1].tolist()[0]})"
    named = ", ".join(f"{row}{id_of(int(row))}" for row in heavy)
    hold, rows = ("holds", "row") if len(heavy) == 1 else ("hold", "rows")
    of_what = "of the squared norm" + ("" if normalize == "none" else " after scaling")
    warnings.warn(
        f"{name}: {len(heavy)} of {len(energies):,} rows {hold} {share:.0%} {of_what}, {rows} {named}: "
        'rows="unit" divides every row by its norm',
        stacklevel=stacklevel,
    )


def _chunks(block: np.ndarray) -> list[np.ndarray]:
    """Some rows at a time, in the dtype that they are looked at in."""
    dtype = np.float64 if block.dtype == np.float64 else np.float32
    step = max(1, _ENTRIES // block.shape[1])
    return [block[i : i + step].astype(dtype, copy=False) for i in range(0, len(block), step)]


def _scaling(block: np.ndarray, normalize: Normalize) -> tuple[np.ndarray, np.ndarray]:
    """What rows are taken about (d,), and their features' factors (d,)."""
    d = block.shape[1]
    if normalize == "none":
        return np.zeros(d, np.float32), np.ones(d, np.float32)
    first = block[0].astype(np.float64)
    sums, squares = np.zeros(d), np.zeros(d)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused where it is computed with
        for rows in _chunks(block):
            about = rows - first.astype(rows.dtype)
            sums += about.sum(0)
            squares += np.einsum("ij,ij->j", about, about)
        mean = sums / len(block)
        variances = np.maximum(squares / len(block) - mean**2, 0)
        factors, _ = feature_factors(variances, first + mean, rounding_of(block.dtype, normalize), np)
    return first + mean, factors


def _energies(block: np.ndarray, mean: np.ndarray, factors: np.ndarray) -> list[np.ndarray]:
    with np.errstate(over="ignore", invalid="ignore"):
        about = [(rows - mean.astype(rows.dtype)) * factors.astype(rows.dtype) for rows in _chunks(block)]
        return [np.einsum("ij,ij->i", rows, rows).astype(np.float64) for rows in about]
