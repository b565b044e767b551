"""A sweep's label sets: which rows each is on, their layouts, and what sums per cell are pooled over.

Every distinct set of labelled rows has a layout (ranking/folds.py) of its cells; the cells of all layouts stand side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from w2s_jax._core.checks import InputError
from w2s_jax._core.normalize import Normalize
from w2s_jax.ranking.cells import RowCells
from w2s_jax.ranking.folds import Layout, Roles, lay_out
from w2s_jax.ranking.labels import about_mean, checked_labels


class LabelSet(NamedTuple):
    """Label columns `start` to `stop`, which layout and set of rows they live on, labelled rows, and mean square (summed)."""

    name: str
    start: int
    stop: int
    layout: int
    set: int
    rows: int
    energy: float


class Cells(NamedTuple):
    """What sums per cell are pooled over: rows per cell n (J,), sets of cells (R, J), the first being all rows, and label sums
    y (J, C)."""

    n: Any
    sets: Any
    y: Any


@dataclass(frozen=True)
class SweepRows(RowCells):
    """The n rows of a sweep by cell, the sets of them that models are looked at on (R, J), its label sets, whose columns
    `targets` are, each column's mean square on every set of rows, `energy` (R, C), and what it was taken about, `means` (C,)."""

    targets: np.ndarray
    sets: np.ndarray
    label_sets: tuple[LabelSet, ...]
    energy: np.ndarray
    means: np.ndarray

    @property
    def cells(self) -> Cells:
        """What programs need of them."""
        return Cells(self.counts, self.sets, self.label_sums[0])


def sweep_rows(
    n: int, labels: Mapping[str, np.ndarray], groups: np.ndarray | None, folds: int, seed: int, normalize: Normalize
) -> SweepRows:
    """Lays out n rows for label sets (n,) or (n, c), NaN where unlabelled; without folds a cell is all or some rows.

    Unless `normalize` is "none" labels are taken about their mean (heads have an intercept).

    Raises:
        InputError: labels that do not fit, hold infinities or nothing but NaN or zeros; too few rows for the folds.
    """
    checked = {name: checked_labels(f"labels {name!r}", y, n) for name, y in labels.items()}
    masks: dict[bytes, np.ndarray] = {mask.tobytes(): mask for _, mask in checked.values()}
    masks = masks or {b"": np.zeros(n, bool)}
    layouts = []
    for key, mask in masks.items():
        try:
            layouts.append(_laid_out(n, mask, groups, folds, seed))
        except InputError as error:
            names = [name for name, (_, of) in checked.items() if of.tobytes() == key]
            raise InputError(f"labels {names[0]!r}: {error}" if names else str(error)) from error
    sets, set_of = _sets(layouts)
    label_sets, columns, means = [], [], []
    for name, (y, mask) in checked.items():
        layout = list(masks).index(mask.tobytes())
        seen = y if normalize == "none" else about_mean(y, mask)
        means.append(np.zeros(y.shape[1]) if normalize == "none" else y[mask].mean(0))
        start = sum(c.shape[1] for c in columns)
        square = float(np.sum(seen**2) / mask.sum())
        label_sets.append(LabelSet(name, start, start + y.shape[1], layout, set_of[layout], int(mask.sum()), square))
        columns.append(seen)
    targets = np.concatenate(columns, 1) if columns else np.zeros((n, 1))
    energy = np.zeros((len(sets), targets.shape[1]))
    for s in label_sets:
        energy[s.set, s.start : s.stop] = np.sum(targets[:, s.start : s.stop] ** 2, 0) / s.rows
    return SweepRows(tuple(layouts), targets, sets, tuple(label_sets), energy, np.concatenate(means or [np.zeros(1)]))


def _laid_out(n: int, mask: np.ndarray, groups: np.ndarray | None, folds: int, seed: int) -> Layout:
    if folds:
        return lay_out(n, folds, mask, groups, seed)
    mixed = bool(mask.any() and not mask.all())
    nobody = np.zeros((0, 1 + mixed))
    return Layout(mask.astype(int) * mixed, 1 + mixed, 1, Roles(nobody, nobody, nobody), None)


def _sets(layouts: list[Layout]) -> tuple[np.ndarray, list[int]]:
    """All rows, and the labelled rows of every layout with others (R, J), as 0 and 1; each layout's set."""
    offsets = np.cumsum([0, *(layout.cells for layout in layouts)])
    place = np.arange(offsets[-1])
    sets, set_of = [place < offsets[1]], []
    for layout, offset in zip(layouts, offsets, strict=False):
        mixed = layout.cells > layout.folds
        if mixed:
            sets.append((place >= offset + layout.folds) & (place < offset + layout.cells))
        set_of.append(len(sets) - 1 if mixed else 0)
    return np.stack(sets).astype(float), set_of
