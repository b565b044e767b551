"""A spectrum as the theory splits it: principal directions, and a tail that acts as ridge."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax.typing import ArrayLike

from w2s_jax._core.checks import InputError, require_number
from w2s_jax._core.figures import BLUE, COLOURS, GREEN, axes, quiet_grid
from w2s_jax.spectrum import Spectrum, principal_rank, tail_gamma
from w2s_jax.theory.decomposability import DecomposabilityReport


def plot_spectrum(
    spectrum: Spectrum | ArrayLike,
    *,
    threshold: float | None = None,
    rank: int | DecomposabilityReport | None = None,
    n: float | None = None,
    ridge: float | None = None,
    ax: Any = None,
) -> Any:
    """Draws eigenvalues over their number, both logarithmic, the cut between V and its tail, and the tail's gamma.

    A head's ridge beta acts on V as beta + gamma: directions whose eigenvalue is far above that are kept, those below are lost.

    Args:
        spectrum: a `Spectrum`, or eigenvalues of `K / n`, descending (k,).
        threshold: the cut, relative to the largest eigenvalue.
        rank: or the dimension of V, or the report of `decomposability` that chose one.
        n: rows behind eigenvalues that are given without their `Spectrum`.
        ridge: beta of a head, drawn too.
        ax: axes to draw on, by default those of a new figure.

    Returns:
        The axes.

    Raises:
        InputError: both a threshold and a rank, eigenvalues of another shape or without n, a number out of its range, or
            matplotlib is not installed.

    >>> from w2s_jax import spectrum
    >>> ax = plot_spectrum(spectrum(np.diag([4.0, 2.0, 1.0, 1.0]), n=10), rank=2)
    >>> ax.get_legend_handles_labels()[1]
    ['V: 2 directions', 'tail: 2 directions', 'cut', 'gamma = 0.2']
    """
    if threshold is not None and rank is not None:
        raise InputError("the cut must be a threshold or a rank, got both")
    if isinstance(spectrum, Spectrum):
        known, values, n = spectrum.values.shape[0], spectrum.all_values, float(spectrum.n) if n is None else n
    else:
        values = np.asarray(spectrum)
        if values.ndim != 1 or not len(values):
            raise InputError(f"spectrum must be a Spectrum, or eigenvalues of shape (k,), got shape {values.shape}")
        known = len(values)
    if n is None:
        raise InputError("n, the number of rows, must be given with eigenvalues alone, got None")
    values = np.asarray(values, float)
    rank = rank.rank if isinstance(rank, DecomposabilityReport) else rank
    if threshold is not None:
        rank = int(principal_rank(values, "threshold", threshold))
    ax = axes(ax, 5.5, 3.8)
    _draw_values(ax, values, known, len(values) if rank is None else rank)
    if rank is not None:
        gamma = float(tail_gamma(values, rank=rank, n=n))
        ax.axvline(rank + 0.5, color=COLOURS[3], linestyle="-.", lw=1.2, label="cut")
        if gamma > 0:
            ax.axhline(gamma, color=GREEN, linestyle="--", lw=1.4, label=f"gamma = {gamma:.3g}")
    if ridge is not None:
        require_number("ridge", ridge, 0)
        ax.axhline(ridge, color=COLOURS[4], linestyle=":", lw=1.8, label=f"beta = {ridge:.3g}")
    ax.set(xscale="log", yscale="log", xlabel="direction", ylabel="eigenvalue")
    ax.legend(frameon=False)
    quiet_grid(ax)
    return ax


def _draw_values(ax: Any, values: np.ndarray, known: int, rank: int) -> None:
    """Those of V full, those of the tail empty; zeros have no place on a logarithmic axis, nor stand-ins beyond the known."""
    place = np.arange(len(values))
    for name, part, face in (("V", place < rank, BLUE), ("tail", place >= rank, "none")):
        count, seen = int(np.sum(part & (values > 0))), part & (values > 0) & (place < known)
        if not count:
            continue
        label = f"{name}: {count} direction{'s' * (count != 1)}"
        marks = {"marker": "o", "ms": 4, "markerfacecolor": face, "markeredgecolor": BLUE, "linestyle": ""}
        ax.plot(1 + place[seen], values[seen], **marks, label=label)
