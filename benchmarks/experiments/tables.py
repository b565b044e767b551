"""What the tables of a page are made of: groups of cells, means of what is there, and Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

import numpy as np


def grouped(cells: Iterable[Any], key: Callable) -> list[tuple]:
    return [(name, list(own)) for name, own in groupby(sorted(cells, key=key), key)]


def mean(values: Iterable[float]) -> float:
    found = np.array(list(values), float)
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def number(x: float) -> str:
    return f"{x:.2f}" if np.isfinite(x) else ""


def table(lines: list[list[str]]) -> str:
    header, *body = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *body))
