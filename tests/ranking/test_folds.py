"""How rows are laid out: folds of equal size, roles that never share a row, groups kept whole, blocks that cover all rows."""

from __future__ import annotations

import numpy as np
import pytest

from w2s_jax import InputError
from w2s_jax.ranking.folds import Layout, deal, lay_out

N = 47
RELATED = np.random.default_rng(0).permutation(N) // 2
KINDS = ("none", "all", "masked", "grouped", "masked and grouped")


def mask(kind: str) -> np.ndarray | None:
    return None if kind in ("none", "grouped") else np.full(N, True) if kind == "all" else np.arange(N) % 3 > 0


def layout(kind: str, folds: int = 4, seed: int = 0) -> Layout:
    return lay_out(N, folds, mask(kind), RELATED if "grouped" in kind else None, seed)


def players(roles: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Rows (..., n) that play a part, from the cells (..., J) that do."""
    return roles[..., cell] > 0


@pytest.mark.parametrize("folds", [3, 4, 7])
@pytest.mark.parametrize("kind", ["none", "all", "masked"])
def test_folds_are_equally_long(kind, folds):
    """Without groups the cells of a kind differ by one row at most."""
    counts = np.bincount(layout(kind, folds).cell)
    for part in (counts[:folds], counts[folds:]):
        assert len(part) == 0 or part.max() - part.min() <= 1


def test_folds_of_groups_are_nearly_equally_long():
    """With groups folds differ by less than the largest group."""
    counts = np.bincount(layout("grouped").cell)
    assert counts.max() - counts.min() <= np.bincount(RELATED).max()


@pytest.mark.parametrize("kind", ["masked", "masked and grouped"])
def test_cells_separate_labelled_rows(kind):
    """With some labels the first K cells hold the unlabelled rows of each fold, the last K the labelled ones."""
    place = layout(kind)
    assert place.cells == 8
    np.testing.assert_array_equal(place.cell >= 4, mask(kind))


@pytest.mark.parametrize("kind", ["grouped", "masked and grouped"])
def test_groups_stay_in_one_fold(kind):
    """No group has rows in two folds."""
    fold = layout(kind).cell % 4
    assert all(len(np.unique(fold[group == RELATED])) == 1 for group in np.unique(RELATED))


@pytest.mark.parametrize("names", ["text", "float", "bytes"])
def test_groups_may_be_named_by_anything_sortable(names):
    """Text, numbers and bytes name the groups as integers do."""
    convert = {
        "text": lambda g: np.array([f"g{i:02}" for i in g]),
        "float": lambda g: g / 2,
        "bytes": lambda g: g.astype("S2"),
    }
    order = np.argsort(RELATED, kind="stable")
    groups = RELATED[order] + 10
    expected, got = (lay_out(N, 3, None, g, 0).cell for g in (groups, convert[names](groups)))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("folds", [3, 4, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_no_row_plays_two_parts(kind, folds):
    """In every experiment weak head, student and test are disjoint; also no group is on both sides of the test."""
    place = layout(kind, 3 if "grouped" in kind else folds)
    for roles in (place.expected, place.trial):
        if roles is not None:
            assert np.max(sum(players(role, place.cell).astype(int) for role in roles)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_of_the_expected_experiment_plays(kind):
    """Without regard to labels each row fits the weak head, trains the student or tests, and each tests once."""
    place = layout(kind)
    parts = [players(role, place.cell) for role in place.expected]
    assert np.all(sum(part.astype(int) for part in parts) == 1)
    assert np.all(parts[2].sum(0) == 1)


def test_labelled_rows_play_all_parts():
    """With all rows labelled each fold is tested twice, weak head's and student's rows exchanged."""
    place = layout("all")
    fit, student, test = place.trial
    np.testing.assert_array_equal(fit[:, 0], student[:, 1])
    np.testing.assert_array_equal(fit[:, 1], student[:, 0])
    np.testing.assert_array_equal(test[:, 0], np.eye(4))
    assert np.all(sum(players(role, place.cell).astype(int) for role in place.trial) == 1)


@pytest.mark.parametrize("kind", ["masked", "masked and grouped"])
def test_labels_are_only_read_where_they_are(kind):
    """With some labels only labelled rows fit the weak head and test, only the others train the student."""
    place = layout(kind)
    fit, student, test = (players(role, place.cell) for role in place.trial)
    assert not np.any((fit | test) & ~mask(kind))
    assert not np.any(student & mask(kind))
    np.testing.assert_array_equal(test[:, 0].sum(0), mask(kind))


@pytest.mark.parametrize("kind", ["masked", "masked and grouped"])
def test_students_see_the_tested_fold_only_if_rows_are_unrelated(kind):
    """Unlabelled rows of the tested fold train the student, unless groups relate them to the tested rows."""
    place = layout(kind)
    student = players(place.trial.student, place.cell)[:, 0]
    same = place.cell % 4 == np.arange(4)[:, None]
    assert np.any(student & same) == (kind == "masked")


@pytest.mark.parametrize("folds", [3, 4, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_heads_are_fitted_once_on_each_set_of_cells(kind, folds):
    """No set is there twice, the weak heads' begin with the expected experiment's, and every experiment finds its own."""
    place = layout(kind, 3 if "grouped" in kind else folds)
    experiments = place.experiments(np.float32)
    np.testing.assert_array_equal(experiments.weak.expected, np.arange(len(place.expected.labelled)))
    for part, fits in (("labelled", experiments.weak), ("student", experiments.students)):
        assert len(np.unique(fits.sets, axis=0)) == len(fits.sets)
        np.testing.assert_array_equal(fits.sets[fits.expected], getattr(place.expected, part))
        if place.trial is None:
            assert experiments.trial is None and fits.trial.size == 0
        else:
            np.testing.assert_array_equal(fits.sets[fits.trial], getattr(place.trial, part))


def test_with_three_folds_trials_need_no_heads_of_their_own():
    """All rows labelled: the trial's heads are fitted on one fold, as the expected experiment's."""
    experiments = layout("all", 3).experiments(np.float32)
    assert len(experiments.weak.sets) == len(experiments.students.sets) == 3


def test_no_labels_no_trial():
    """Without labels there is no trial."""
    assert layout("none").trial is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides(kind):
    """The same seed gives the same folds, another seed others."""
    first, again, other = (layout(kind, seed=seed).cell for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


FAULTS = {
    "two folds": ((N, 2, None, None, 0), "folds must be an integer of at least 3.*got 2"),
    "a fraction": ((N, 3.0, None, None, 0), "folds must be an integer of at least 3.*got 3.0"),
    "more folds than rows": ((N, N + 1, None, None, 0), "folds must be at most the number of rows"),
    "too many folds": ((N, 24, None, None, 0), "at least 2 rows, got 1: fewer folds or more rows"),
    "few labels": (
        (N, 4, np.arange(N) < 7, None, 0),
        "at least 2 labelled rows, got 1: fewer folds or more labelled rows",
    ),
    "few unlabelled": (
        (N, 4, np.arange(N) > 2, None, 0),
        "at least 2 unlabelled rows, got 0: fewer folds or more unlabelled rows",
    ),
    "few groups": ((N, 4, None, np.arange(N) % 3, 0), r"at least as many groups as folds \(4\), got 3"),
    "one large group": ((N, 3, None, np.minimum(np.arange(N), 2), 0), "got 1: .*more groups of rows"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_too_few_rows_or_groups(unchecked, fault):
    """Rows that cannot be folded are refused in one line that says what is missing."""
    args, sentence = FAULTS[fault]
    with pytest.raises(InputError, match=rf"\A[^\n]*{sentence}[^\n]*\Z"):
        lay_out(*args)


def test_groups_are_dealt_to_one_split():
    """Rows of a group never meet in two splits, no split is larger than asked, and little is left out."""
    rng = np.random.default_rng(0)
    groups = np.array([f"group {i}" for i in rng.integers(0, 60, 200)])
    for seed in range(5):
        dealt = deal(200, (50, 90, 60), 4, groups, seed)
        for rows, size in zip(dealt, (50, 90, 60), strict=True):
            assert size - 12 <= rows.shape[1] <= size
        for rows in zip(*dealt, strict=True):
            assert len(np.unique(np.concatenate(rows))) == sum(len(r) for r in rows)
            seen = [set(groups[r]) for r in rows]
            assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
