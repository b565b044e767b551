"""Which rows stay together and which part they play: folds, cells, roles and splits.

A cell is a fold, or with a label mask the labelled or the unlabelled part of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from w2s_jax._core.checks import InputError, require_integer


class Roles(NamedTuple):
    """0/1 weights (experiments, J): the cells that fit the weak head, train the student, and test it."""

    labelled: Any
    student: Any
    test: Any


class Experiments(NamedTuple):
    """All experiments of a layout: those of the expected one, and of the trial (blocks x experiments of one block) or None; and
    what heads are fitted on, each set of cells once: weak ones first on the expected experiment's."""

    expected: Roles
    trial: Any
    weak: Fits
    students: Fits


class Fits(NamedTuple):
    """Sets of cells (F, J) that heads are fitted on, and which of them an experiment's is: of the expected one (blocks,), of the
    trial (blocks, experiments)."""

    sets: Any
    expected: Any
    trial: Any


@dataclass(frozen=True)
class Layout:
    """Rows by cell: `cell` (n,), how many cells and folds there are, and all roles."""

    cell: np.ndarray
    cells: int
    folds: int
    expected: Roles
    trial: Roles | None

    def experiments(self, dtype: Any) -> Experiments:
        """All roles as numbers of a type, and what the heads of all experiments are fitted on."""
        cast = lambda roles: roles and Roles(*(np.asarray(role, dtype) for role in roles))
        return Experiments(cast(self.expected), cast(self.trial), self._fits(0, dtype), self._fits(1, dtype))

    def _fits(self, part: int, dtype: Any) -> Fits:
        """Of the weak heads (0) or the students (1)."""
        own = self.expected[part]
        tried = np.zeros((0, 1, self.cells)) if self.trial is None else self.trial[part]
        sets = list(dict.fromkeys(map(tuple, [*own, *tried.reshape(-1, self.cells)])))
        expected, trial = ([sets.index(tuple(fit)) for fit in x.reshape(-1, self.cells)] for x in (own, tried))
        return Fits(
            np.asarray(sets, dtype),
            np.asarray(expected, np.int32),
            np.asarray(trial, np.int32).reshape(tried.shape[:2]),
        )


def lay_out(n: int, folds: int, labelled_rows: np.ndarray | None, groups: np.ndarray | None, seed: int) -> Layout:
    """Folds for n rows, in random order and equally long; rows of one group stay in one fold.

    `labelled_rows` (n,) bool or None (no labels). With all rows labelled they play all parts in turn; otherwise the labelled
    rows fit the weak head and test, and the unlabelled ones train the student.

    Raises:
        InputError: too few rows or groups for so many folds.
    """
    if not isinstance(folds, int | np.integer) or folds < 3:
        raise InputError(f"folds must be an integer of at least 3 (weak head, student, test), got {folds!r}")
    if folds > n:
        raise InputError(f"folds must be at most the number of rows ({n}), got {folds}")
    mask = np.zeros(n, bool) if labelled_rows is None else labelled_rows
    mixed = bool(mask.any() and not mask.all())
    if groups is None:
        fold = _stratified(n, folds, mask, np.random.default_rng(seed))
    else:
        fold = grouped_folds(groups, folds, np.random.default_rng(seed))
    cell = fold + folds * mask if mixed else fold
    cells = 2 * folds if mixed else folds
    counts = np.bincount(cell, minlength=cells)
    if counts.min() < 2:
        kind = "" if not mixed else "labelled " if counts.argmin() >= folds else "unlabelled "
        more = "rows" if groups is None else "groups of rows"
        raise InputError(
            f"every fold must hold at least 2 {kind}rows, got {counts.min()}: fewer folds or more {kind}{more}"
        )
    trial = None if not mask.any() else _mixed_trial(folds, groups is not None) if mixed else _turns(folds, swap=True)
    expected = Roles(*(role[:, 0] for role in _turns(folds, swap=False)))
    if mixed:
        expected = Roles(*(np.concatenate([role, role], -1) for role in expected))
    return Layout(cell, cells, folds, expected, trial)


def _stratified(n: int, folds: int, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every `folds` consecutive rows of a kind go to different folds, in random order."""
    fold = np.empty(n, int)
    for kind in (mask, ~mask):
        rows = np.nonzero(kind)[0]
        tuples = -(-len(rows) // folds)
        fold[rows] = rng.permuted(np.tile(np.arange(folds), (tuples, 1)), axis=1).reshape(-1)[: len(rows)]
    return fold


def as_groups(groups: Any, n: int) -> np.ndarray | None:
    """The number (n,) of each row's group, from names or numbers; None without groups.

    Raises:
        InputError: another shape, or entries that cannot be compared.
    """
    if groups is None:
        return None
    groups = np.asarray(groups)
    if groups.shape != (n,):
        raise InputError(f"groups must have shape ({n},), one entry per row, got {groups.shape}")
    try:
        return np.unique(groups, return_inverse=True)[1]
    except TypeError as error:
        raise InputError("groups must be all numbers or all text, got both or None") from error


def grouped_folds(groups: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Fold of each row (n,), rows of a group in one: largest group first, each to the fold with the fewest rows so far."""
    _, code, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) < folds:
        raise InputError(f"groups must name at least as many groups as folds ({folds}), got {len(sizes)}")
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled, fold_of = np.zeros(folds, int), np.empty(len(sizes), int)
    for group in order:
        fold_of[group] = np.argmin(filled)
        filled[fold_of[group]] += sizes[group]
    return fold_of[code.reshape(-1)]


def dealt(n: int, folds: int, groups: Any, seed: int) -> np.ndarray:
    """Fold of each row (n,) for cross-fitting, equally long in random order; rows of one group stay in one fold.

    Raises:
        InputError: not 2 <= folds <= n, groups that do not fit, fewer groups than folds.
    """
    require_integer("folds", folds, 2)
    require_integer("seed", seed, 0)
    if folds > n:
        raise InputError(f"folds must be between 2 and the number of rows ({n}), got {folds}")
    rng = np.random.default_rng(seed)
    groups = as_groups(groups, n)
    return rng.permutation(n) % folds if groups is None else grouped_folds(groups, folds, rng)


def deal(
    n: int, sizes: tuple[int, int, int], repeats: int, groups: np.ndarray | None, seed: int
) -> tuple[np.ndarray, ...]:
    """Row numbers (repeats, size) of three splits, random every time; rows of one group go to one split or to none.

    Raises:
        InputError: groups so large that a split gets none.
    """
    rng = np.random.default_rng(seed)
    ends = np.cumsum(sizes)
    if groups is None:
        rows = np.stack([rng.permutation(n)[: ends[2]] for _ in range(repeats)])
        return tuple(np.split(rows, ends[:2], 1))
    _, code, counts = np.unique(groups, return_inverse=True, return_counts=True)
    dealt = [_deal_groups(code.reshape(-1), counts, sizes, rng) for _ in range(repeats)]
    fewest = [min(len(rows[i]) for rows in dealt) for i in range(3)]
    if min(fewest) < 1:
        raise InputError(f"groups must leave each split at least one row, got {fewest} rows for {list(sizes)}")
    return tuple(np.stack([rows[i][: fewest[i]] for rows in dealt]) for i in range(3))


def _deal_groups(
    code: np.ndarray, counts: np.ndarray, sizes: tuple[int, int, int], rng: np.random.Generator
) -> list[np.ndarray]:
    """Groups in random order fill one split after another; one that no longer fits goes to a later split or to none."""
    room, taken = np.array(sizes), np.full(len(counts), -1)
    for group in rng.permutation(len(counts)):
        fitting = np.nonzero(room >= counts[group])[0]
        if len(fitting):
            taken[group] = fitting[0]
            room[fitting[0]] -= counts[group]
    split = taken[code]
    return [rng.permutation(np.nonzero(split == i)[0]) for i in range(3)]


def _turns(folds: int, swap: bool) -> Roles:
    """Each fold tests once; the ones after it, in turn, fit the weak head (first half) and train the student (second).

    Roles are (folds, 1 or 2, cells): with `swap` also the two halves exchanged.
    """
    test = np.eye(folds)
    fit = sum(np.roll(test, -shift, 0) for shift in range(1, 1 + folds // 2))
    student = 1 - test - fit
    pairs = [(fit, student), (student, fit)] if swap else [(fit, student)]
    return Roles(*(np.stack(parts, 1) for parts in ([p[0] for p in pairs], [p[1] for p in pairs], [test] * len(pairs))))


def _mixed_trial(folds: int, related: bool) -> Roles:
    """Labelled rows out of the fold fit the weak head, those in it test; unlabelled rows train the student.

    Where rows are related, unlabelled rows of the fold are left out too. Cells: unlabelled folds, then labelled ones.
    """
    test, none = np.eye(folds), np.zeros((folds, folds))
    student = 1 - test if related else np.ones((folds, folds))
    parts = ((none, 1 - test), (student, none), (none, test))
    return Roles(*(np.concatenate(part, -1)[:, None] for part in parts))
