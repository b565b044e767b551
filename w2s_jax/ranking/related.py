"""Groups of related rows, as the noise of labels sees them: sums over each group of more than one row.

A group stands in the place of its fold; those sums are all that the noise's covariance `I + c P` needs (theory/posterior.py), and
grow with the number of groups: (groups, d) for each model at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from w2s_jax._core.arrays import matmul
from w2s_jax.ranking.cells import RowBlock
from w2s_jax.ranking.folds import Layout
from w2s_jax.ranking.prepared import Preparation


class GroupSums(NamedTuple):
    """By fold and place, 0 where there is no group: rows n (folds, places), their sums h (folds, places, d), and of labels y."""

    n: Any
    h: Any
    y: Any = None

    @property
    def of_means(self) -> Array:
        """By fold, products of groups' means (folds, d, d), each as often as the group has rows."""
        return of_means(self.h, self.h, self.n)


class Places(NamedTuple):
    """Of a block's rows (cells, capacity) among groups, and zeros of the groups' shape (folds, places)."""

    rows: Any
    groups: Any


@dataclass(frozen=True)
class Related:
    """Rows with relatives: `place` (n,) of each row's group among all of `shape` (folds, places), behind the last without one."""

    place: np.ndarray
    shape: tuple[int, int]

    def in_block(self, block: RowBlock) -> np.ndarray:
        """The places of a block's rows by cell (cells, capacity)."""
        (members,), (capacity,) = block.members, block.capacity
        found = np.full((len(members), capacity), np.prod(self.shape), np.int32)
        for cell, chosen in zip(found, members, strict=True):
            taken = self.place[block.start : block.stop][chosen]
            cell[: len(taken)] = taken
        return found

    def sums(self, y: np.ndarray) -> np.ndarray:
        """Sums of label columns (n, C) over each group."""
        found = np.zeros((np.prod(self.shape) + 1, y.shape[1]))
        np.add.at(found, self.place, y)
        return found[:-1].reshape(*self.shape, -1)


def related_rows(groups: np.ndarray | None, rows: np.ndarray, layout: Layout) -> Related | None:
    """The relatives among some rows (n,) bool; None if none of them has any."""
    if groups is None:
        return None
    _, group = np.unique(groups, return_inverse=True)
    sizes = np.bincount(group[rows], minlength=group.max() + 1)
    related = np.nonzero(sizes > 1)[0]
    if not len(related):
        return None
    fold_of = np.zeros(len(sizes), int)
    fold_of[group] = layout.cell % layout.folds
    counts = np.bincount(fold_of[related], minlength=layout.folds)
    places = -(-counts.max() // 8) * 8
    order = related[np.argsort(fold_of[related], kind="stable")]
    starts = np.cumsum(counts) - counts
    place_of = np.full(len(sizes), layout.folds * places)
    place_of[order] = fold_of[order] * places + np.arange(len(order)) - starts[fold_of[order]]
    return Related(np.where(rows, place_of[group], layout.folds * places).astype(np.int32), (layout.folds, int(places)))


def group_sums(x: Array, into: Places | None) -> GroupSums | None:
    """Of rows (cells, capacity, d), None without groups."""
    if into is None:
        return None
    places, shape = into
    add = lambda values: jax.ops.segment_sum(values, places.reshape(-1), shape.size + 1)[:-1]
    h = add(x.reshape(-1, x.shape[-1]))
    return GroupSums(add(jnp.ones(places.size, x.dtype)).reshape(shape.shape), h.reshape(*shape.shape, -1))


def prepared_groups(sums: GroupSums, of: Preparation) -> GroupSums:
    """Sums of prepared rows, from those of rows about their shift."""
    return sums._replace(h=(sums.h + sums.n[..., None] * (of.origin - of.mean)) * of.factor)


def of_means(left: Array, right: Array, n: Array) -> Array:
    """By fold, products of groups' means (folds, d, c), each as often as the group has rows, from sums (folds, places, d)."""
    return matmul(jnp.swapaxes(left / jnp.maximum(n, 1)[..., None], 1, 2), right)
