"""The table: sorting, numbers out, JSON, and how it prints."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from w2s_jax import InputError, SupervisorTable
from w2s_jax.ranking.table import LARGER_IS_BETTER, TITLES

VALUES = {
    "cka": np.array([0.5, 0.9, 0.7, 0.2]),
    "expected_error": np.array([0.25, 0.125, 0.5, 1.0]),
    "trial_error": np.array([2.0, 1.0, 10.0, 0.03125]),
}


def table(strong: tuple[str, ...] = ("s",) * 4, **changes: np.ndarray) -> SupervisorTable:
    errors = {column: values / 8 for column, values in VALUES.items()} | changes
    made = SupervisorTable(
        ("a", "longer", "c", "d"), strong, (8, 16, 1024, 3), VALUES, errors, "trial_error", {"folds": 3}
    )
    return made.sort_by("trial_error")


TWO = ("t", "s", "t", "s")


@pytest.mark.parametrize(
    ("column", "names"),
    [
        ("expected_error", ("longer", "a", "c", "d")),
        ("trial_error", ("d", "longer", "a", "c")),
        ("cka", ("longer", "c", "a", "d")),
    ],
)
def test_sorting_puts_the_best_first(column, names):
    """Errors sort upwards, similarity downwards, and the table says by what."""
    got = table().sort_by(column)
    assert (got.names, got.sorted_by) == (names, column)


@pytest.mark.parametrize("column", VALUES)
def test_sorting_moves_whole_rows(column):
    """Names, widths, values and errors stay together."""
    before, after = table(), table().sort_by(column)
    rows = [
        {
            t.names[i]: (t.strong[i], t.widths[i], *(t[c][i] for c in VALUES), *(t.se(c)[i] for c in VALUES))
            for i in range(4)
        }
        for t in (before, after)
    ]
    assert rows[0] == rows[1]


def test_sorting_keeps_strong_models_apart():
    """Rows of one strong model stay together, strong models in their order, best first within each."""
    got = SupervisorTable(("a", "b", "c", "d"), TWO, (1,) * 4, VALUES, VALUES, "cka", {}).sort_by("cka")
    assert got.strong == ("t", "t", "s", "s")
    assert got.names == ("c", "a", "b", "d")


def test_sorting_puts_nan_last():
    """A score that is not a number is nobody's best."""
    values = {"cka": np.array([0.5, np.nan, 0.9]), "gap_op": np.array([np.nan, 1.0, 2.0])}
    got = SupervisorTable(("a", "b", "c"), ("s",) * 3, (1,) * 3, values, values, "cka", {})
    assert got.sort_by("cka").names == ("c", "a", "b")
    assert got.sort_by("gap_op").names == ("b", "c", "a")


def test_larger_is_better_for_similarity_alone():
    """Every other column is an error or a gap."""
    assert {"cka"} == LARGER_IS_BETTER


def test_length_is_the_number_of_pairs():
    """`len` counts rows."""
    assert len(table()) == 4


@pytest.mark.parametrize("method", ["__getitem__", "se", "sort_by"])
def test_unknown_columns_are_refused(method):
    """The message lists the columns at hand, in the order they print."""
    with pytest.raises(InputError, match=r"\Acolumn must be one of trial_error, expected_error, cka, got 'gap_op'\Z"):
        getattr(table(), method)("gap_op")


def test_dict_has_every_number():
    """`to_dict` gives each row's names, width, scores and standard errors, best first."""
    got = table().to_dict()
    assert (got["settings"], got["sorted_by"]) == ({"folds": 3}, "trial_error")
    best = {"supervisor": "d", "strong": "s", "width": 3, "trial_error": 0.03125, "trial_error_se": 0.03125 / 8}
    best |= {"expected_error": 1.0, "expected_error_se": 0.125, "cka": 0.2, "cka_se": 0.025}
    assert got["rows"][0] == best


def test_json_is_the_dict():
    """JSON gives back `to_dict`, to the last digit."""
    assert json.loads(table().to_json()) == table().to_dict()


@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
def test_json_knows_no_nan(fault):
    """What is not finite is null, and the text is JSON to the letter."""
    text = table(cka=np.full(4, fault)).to_json()
    parsed = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert [row["cka_se"] for row in parsed["rows"]] == [None] * 4


def test_prints_aligned():
    """All lines end in the same column, and columns are where their titles are."""
    lines = str(table()).splitlines()
    assert len({len(line) for line in lines}) == 1
    starts = [lines[0].index("supervisor")] * 4
    assert [line.index(name) for line, name in zip(lines[1:], ("d", "longer", "a", "c"), strict=True)] == starts


def test_prints_places_scores_and_errors():
    """A row reads: place, name, width, the sorting score first, each score with ± its error to one digit."""
    row = str(table()).splitlines()[2]
    assert re.split(r"  +", row) == ["2", "longer", "16", "1 ±0.1", "0.125 ±0.02", "0.9 ±0.1"]


def test_prints_what_sorts():
    """The sorting column comes first and has a star."""
    header = re.split(r"  +", str(table().sort_by("cka")).splitlines()[0].strip())
    assert header == ["supervisor", "width", "linear CKA *", "trial error", "expected error"]


def test_prints_no_error_that_is_not_a_number():
    """Where a standard error is not finite the score stands alone."""
    assert "±" not in str(table(**{column: np.full(4, np.nan) for column in VALUES}))


def test_prints_strong_models_only_if_several():
    """A column names the strong model where there are several, and places count within each."""
    assert "strong" not in str(table())
    lines = str(table(TWO)).splitlines()
    assert "strong" in lines[0]
    assert [line[0] for line in lines[1:]] == ["1", "2", "1", "2"]


def test_repr_is_the_table():
    """Notebooks and prompts show the table."""
    assert repr(table()) == str(table())


def test_every_column_has_a_title():
    """Columns print under titles of their own."""
    assert len(set(TITLES.values())) == len(TITLES)


def test_data_frames_have_the_rows():
    """A pandas DataFrame with the rows of `to_dict`."""
    pytest.importorskip("pandas")
    found = table().to_pandas()
    assert found.to_dict("records") == table().to_dict()["rows"]
