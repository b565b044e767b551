"""Functions of every row, a block of rows at a time: what compares each row with all others never holds an n x n matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

BLOCK_ENTRIES = 1 << 24  # of a block of rows against all rows


def by_row(function: Callable[[Any], Any], rows: Any, against: int) -> Any:
    """The function of each row, of which a block at a time is compared with so many others."""
    n = len(jax.tree.leaves(rows)[0])
    return jax.lax.map(function, rows, batch_size=max(1, min(n, BLOCK_ENTRIES // against)))
