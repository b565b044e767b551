"""What the tests of files share: the array they save, and how they compare and refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from w2s_jax._core.checks import InputError
from w2s_jax.files.opening import open_rows

X = np.arange(21, dtype=np.float32).reshape(7, 3)
DATA = Path(__file__).parent / "data"


def assert_same(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert got.tobytes() == expected.tobytes()


def refused(sentence: str):
    """One line, ending in `sentence`: no second line, no traceback text."""
    return pytest.raises(InputError, match=rf"\A[^\n]*{sentence}\Z")


def read_or_refused(path: str | Path, kind: str = "numeric") -> np.ndarray | None:
    """All rows and ids, or None where that is an InputError of one line; anything else fails the test."""
    try:
        rows = open_rows(path, kind=kind)
        if rows.ids is not None:
            rows.ids[:]
        return rows[:]
    except InputError as error:
        if "\n" in str(error):
            raise
        return None
