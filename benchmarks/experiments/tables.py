"""What the tables of a page are made of: verdicts on a score in a cell of the results, groups of cells, and Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby

import numpy as np

from benchmarks.experiments.judge import spearman as correlated
from benchmarks.experiments.judge import verdict
from benchmarks.experiments.results import Cell
from benchmarks.experiments.scores import LARGER_IS_BETTER
from w2s_jax.predictors import PREDICTORS


def titled(cells: Iterable[Cell]) -> list[str]:
    """The scores of all cells, those of several draws of labels once: `trial_error:100`."""
    return sorted(dict.fromkeys(title_of(name) for cell in cells for name in cell.scores))


def columns(cells: Iterable[Cell]) -> list[str]:
    """Those of them that every ranking has."""
    return [title for title in titled(cells) if title.partition(":")[0] not in PREDICTORS]


def title_of(name: str) -> str:
    column, _, labels = name.partition(":")
    return f"{column}:{labels.rpartition('-')[2]}" if labels else column


def oriented(cell: Cell, title: str) -> list[np.ndarray]:
    """A score of a cell, small where it hopes for much, from each draw of labels."""
    sign = -1 if title.partition(":")[0] in LARGER_IS_BETTER else 1
    return [sign * score for name, score in cell.scores.items() if title_of(name) == title]


def spearman(cell: Cell, title: str, teachers: np.ndarray | slice = slice(None)) -> float:
    """With the student's error, mean over draws of labels."""
    error = cell.columns["student_error"][teachers]
    return mean(correlated(score[teachers], error) for score in oriented(cell, title))


def kendall(cell: Cell, title: str) -> float:
    """With the student's error, mean over draws of labels."""
    return mean(verdict(score, cell.columns["student_error"]).kendall for score in oriented(cell, title))


def cost(cell: Cell, title: str) -> float:
    """Of the first choice, mean over draws of labels."""
    return mean(verdict(score, cell.columns["student_error"]).cost for score in oriented(cell, title))


def grouped(cells: Iterable[Cell], key: Callable) -> list[tuple]:
    return [(name, list(own)) for name, own in groupby(sorted(cells, key=key), key)]


def mean(values: Iterable[float]) -> float:
    found = np.array(list(values), float)
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def number(x: float) -> str:
    return f"{x:.2f}" if np.isfinite(x) else ""


def table(lines: list[list[str]]) -> str:
    header, *body = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *body))
