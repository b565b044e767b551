"""Labels on entry: which rows have one, and what is said of those that are no labels."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from w2s_jax import InputError
from w2s_jax.ranking.labels import about_mean, checked_labels


@pytest.mark.parametrize("y", [np.arange(6) % 3, [2, np.nan, 0, 1, np.nan, 1]], ids=["all", "some"])
def test_numbers_of_classes_are_taken_as_values_with_a_warning(y):
    """Labels 0, 1, 2, ... of one column; two values, fractions and one-hot rows are what they are."""
    with pytest.warns(
        UserWarning, match=r"^labels y are the numbers 0 to 2, taken as values; for classes give one-hot rows"
    ):
        checked_labels("labels y", y, 6)
    with warnings.catch_warnings(action="error"):
        for quiet in (np.arange(6) % 2, np.arange(6) / 2, np.arange(6) % 3 + 1, np.eye(3)[np.arange(6) % 3]):
            checked_labels("labels y", quiet, 6)


def test_rows_without_a_label_are_zero_and_take_no_part():
    """NaN in any output leaves a row out, as does the choice of rows; the mean is that of the others."""
    y = np.array([[1.0, 4.0], [np.nan, 1.0], [3.0, 0.0], [8.0, 8.0]])
    found, mask = checked_labels("y", y, 4)
    assert mask.tolist() == [True, False, True, True]
    assert found.tolist() == [[1, 4], [0, 0], [3, 0], [8, 8]]
    found, mask = checked_labels("y", y, 4, np.array([True, False, True, False]))
    assert about_mean(found, mask).tolist() == [[-1, 2], [0, 0], [1, -2], [0, 0]]
    classes = np.array([0, 1, -100, 1])  # a mark among rows that are not used is none of theirs
    assert checked_labels("y", classes, 4, classes >= 0)[0][:, 0].tolist() == [0, 1, 0, 1]


FAULTS = {
    "text": (["a", "b"], None, "y must be numbers .* got list"),
    "length": ([1.0], None, r"y must have shape \(2,\) or \(2, outputs\), got \(1,\)"),
    "nothing": ([np.nan, np.nan], None, "y must have at least one labelled row"),
    "infinite": ([1.0, np.inf], None, "y contain.*row 1"),
    "marked": ([-100, 1], None, r"y are -100 in 1 rows and classes from 1 to 1 .* make it NaN, as --unlabelled .*"),
    "zero": ([0.0, 0.0], None, "y must not be zero in every labelled row"),
    "numbers of rows": ([1.0, 2.0], [0, 1], r"labelled_rows must be a boolean array of shape \(2,\), got int64"),
    "a row without": ([1.0, np.nan], [True, True], "labelled_rows must have labels, got NaN in row 1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_labels_are_one_sentence(fault):
    """Each names the argument, what was expected and what came."""
    y, chosen, said = FAULTS[fault]
    with pytest.raises(InputError, match=said):
        checked_labels("y", y, 2, chosen)
