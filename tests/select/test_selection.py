"""Chosen rows: the best scores, ties by place, classes in balance, and heads that take them as weights."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import entrywise_error

from w2s_jax import InputError, ridge_probe
from w2s_jax.select import select_rows

SCORES = np.array([0.5, 2.0, np.nan, 1.0, 1.0, 0.1, 3.0])
CLASSES = np.array(["a", "b", "a", "b", "b", "a", "b"])
TIE = "^2 rows have the same score where the choice ends: their order, not their score, has chosen 1 of them$"


def test_the_largest_scores_are_chosen():
    """A share counts rows that have a score, ties go to the earlier row, NaN is never chosen."""
    with pytest.warns(UserWarning, match=TIE):
        assert select_rows(SCORES, 0.5).rows.tolist() == [6, 1, 3]
    assert select_rows(SCORES, 4).rows.tolist() == [6, 1, 3, 4]
    assert select_rows(SCORES, 6).rows.tolist() == [6, 1, 3, 4, 0, 5]
    assert select_rows(SCORES, 0.01).rows.tolist() == [6]


@pytest.mark.filterwarnings("error")
def test_ties_are_said_where_they_decide():
    """Of balanced classes within each of them."""
    select_rows(SCORES, 4)
    select_rows(SCORES, 2)
    select_rows(SCORES, 0.5, classes=CLASSES, balanced=True)  # b's equal ones are all left out
    with pytest.raises(UserWarning, match=TIE):
        select_rows(SCORES, 3, classes=CLASSES)
    with pytest.raises(UserWarning, match=TIE):
        select_rows(SCORES, 4, classes=CLASSES, balanced=True)


def test_each_class_keeps_its_share():
    """Two of six scored rows are of class a: one of three chosen; the sum is exact."""
    chosen = select_rows(SCORES, 0.5, classes=CLASSES, balanced=True)
    assert chosen.rows.tolist() == [6, 1, 0]
    assert chosen.by_class() == {"a": (2, 1), "b": (4, 2)}
    rng = np.random.default_rng(0)
    for count in (1, 10, 33):
        of = select_rows(rng.random(50), count, classes=rng.integers(0, 7, 50), balanced=True)
        assert len(of) == count
        assert all(abs(kept - count / 50 * n) < 1 for n, kept in of.by_class().values())


@pytest.mark.filterwarnings("ignore:2 rows have the same score")
def test_what_it_shows():
    chosen = select_rows(SCORES, 3, classes=CLASSES)
    assert str(chosen).splitlines()[0] == "3 of 6 rows, of scores from 1 to 3"
    assert "<table" in chosen._repr_html_()
    assert chosen.threshold == 1 and len(chosen) == 3
    assert chosen.mask.tolist() == (chosen.weights > 0).tolist() == [i in (6, 1, 3) for i in range(7)]
    said = chosen.to_dict()
    assert said["rows"] == [6, 1, 3] and said["classes"] == {
        "a": {"rows": 2, "chosen": 0},
        "b": {"rows": 4, "chosen": 3},
    }
    assert chosen.to_pandas().score.tolist() == [3, 2, 1]


@pytest.mark.everything
@pytest.mark.filterwarnings("ignore:2 rows have the same score")
def test_weights_are_the_rows():
    """A student that is trained with them is one that is trained on the chosen rows."""
    rng = np.random.default_rng(0)
    h, y = rng.standard_normal((7, 3)), rng.standard_normal(7)
    chosen = select_rows(SCORES, 0.5)
    weighted = ridge_probe(h, y, 0.1, weights=chosen.weights)
    assert entrywise_error(weighted(h), ridge_probe(h[chosen.rows], y[chosen.rows], 0.1)(h)) <= 1e-4


@pytest.mark.everything(but=1)
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (dict(scores=[[1.0]]), "scores"),
        (dict(scores=[np.nan]), "scores"),
        (dict(scores=SCORES, keep=7), "from 1 to 6"),
        (dict(scores=SCORES, keep=0), "keep"),
        (dict(scores=SCORES, keep=1.0), "keep"),
        (dict(scores=SCORES, keep=True), "keep"),
        (dict(scores=SCORES, balanced=True), "classes"),
        (dict(scores=SCORES, classes=[1]), "classes"),
    ],
)
def test_bad_input(arguments, named):
    with pytest.raises(InputError, match=named):
        select_rows(**arguments)
