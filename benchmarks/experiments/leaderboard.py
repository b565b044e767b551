"""The package's scores and published predictors in one order, by how well they foretell the students' errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.experiments.judge import LEVEL, interval, network_of, resampled
from benchmarks.experiments.results import Cell
from benchmarks.experiments.tables import cost, grouped, kendall, mean, number, spearman, table, titled

REPEATS = 100  # resamplings


def leaderboard(cells: Sequence[Cell]) -> str:
    """All scores, the package's and published predictors, by what labels they need; the best first."""
    parts = [
        "## Leaderboard",
        "Spearman's correlation with the measured errors of the students, means over tasks, strong models and ridge strengths, "
        f"with {LEVEL:.0%} of {REPEATS} resamplings of networks and tasks; its lowest mean over ridge strengths, of a task and a "
        "strong model; Kendall's; and what the first choice costs. Tied: the difference from the first may be 0 by those "
        "resamplings.",
    ]
    by_labels: dict[str, list[str]] = {}
    for title in titled(cells):
        by_labels.setdefault(title.partition(":")[2], []).append(title)
    known = sorted(by_labels, key=lambda labels: int(labels or 0) if labels != "all" else np.inf)
    for labels in known:
        parts += [f"### {f'Labels: {labels}' if labels else 'No labels'}", _board(cells, by_labels[labels])]
    return "\n\n".join(parts)


def _board(cells: Sequence[Cell], titles: list[str]) -> str:
    """A line for each score."""
    draws = {title: _resampled_means(cells, title) for title in titles}
    means = {title: mean(spearman(cell, title) for cell in cells) for title in titles}
    order = sorted(titles, key=lambda title: -means[title])
    lines = [["score", "Spearman", "", "lowest", "Kendall", "cost"]]
    for title in order:
        low, high = interval(draws[title])
        lowest = min(
            mean(spearman(cell, title) for cell in own)
            for _, own in grouped(cells, lambda cell: (cell.strong, cell.task))
        )
        tied = interval(draws[order[0]] - draws[title])[0] <= 0
        numbers = (mean(of(cell, title) for cell in cells) for of in (kendall, cost))
        score = f"{title} (tied)" if tied and title != order[0] else title
        lines.append(
            [
                score,
                number(means[title]),
                f"[{number(low)}, {number(high)}]",
                number(lowest),
                *map(number, numbers),
            ]
        )
    return table(lines)


def _resampled_means(cells: Sequence[Cell], title: str) -> np.ndarray:
    """Mean correlations (REPEATS,) with networks and tasks drawn anew, the same ones for every score."""
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    drawn = np.random.default_rng(0).integers(len(tasks), size=(REPEATS, len(tasks)))
    counts = np.stack([np.bincount(row, minlength=len(tasks)) for row in drawn])
    found = np.zeros((len(tasks), REPEATS))
    for t, task in enumerate(tasks):
        own = [cell for cell in cells if cell.task == task]
        rows = {cell.strong: resampled([network_of(x) for x in cell.teachers], REPEATS) for cell in own}
        found[t] = [mean(spearman(cell, title, rows[cell.strong][i]) for cell in own) for i in range(REPEATS)]
    return np.sum(counts * found.T, 1) / len(tasks)
