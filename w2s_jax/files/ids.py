"""Row ids that files carry, held against each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from w2s_jax._core.checks import InputError

_BLOCK_ROWS = 16384


def require_same_ids(sources: Mapping[str, Any]) -> None:
    """Holds the row ids of named sources against each other, block by block; those without ids pass by.

    Args:
        sources: what messages call it -> `Rows`, or anything: only what has `.ids` is looked at.

    Raises:
        InputError: the first row whose ids differ, and both ids.

    >>> import numpy as np
    >>> from w2s_jax.files.rows import Rows
    >>> rows = lambda ids: Rows("rows", (2,), np.dtype(int), lambda *_: np.zeros(2), ids=ids)
    >>> ids = lambda *names: Rows("ids", (2,), np.dtype("U1"), lambda start, stop: np.array(names[start:stop]))
    >>> require_same_ids({"weak": rows(ids("a", "b")), "strong": rows(ids("a", "c")), "labels": rows(None)})
    Traceback (most recent call last):
        ...
    w2s_jax._core.checks.InputError: row 1 is 'b' in weak and 'c' in strong
    """
    ids = {name: rows.ids for name, rows in sources.items() if getattr(rows, "ids", None) is not None}
    for start in range(0, max(map(len, ids.values()), default=0), _BLOCK_ROWS):
        (first, expected), *others = ((name, rows[start : start + _BLOCK_ROWS].tolist()) for name, rows in ids.items())
        differing = [(_first_difference(expected, came), name, came) for name, came in others if came != expected]
        if differing:
            row, name, came = min(differing, key=lambda found: found[0])
            here, there = (repr(side[row]) if row < len(side) else "missing" for side in (expected, came))
            raise InputError(f"row {start + row} is {here} in {first} and {there} in {name}")


def _first_difference(a: list, b: list) -> int:
    return next((row for row, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
