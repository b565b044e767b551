"""How often the 90% interval of `predicted_error` holds the student's error: families of the leaderboard, each drawn many times.

    python -m benchmarks.intervals [--quick] [--out FILE.json]

By family and number of labels: the share of teachers whose measured error, the label noise with it, lies within 1.645 standard
errors of the prediction; the logarithm of prediction over error, its mean, and the spread of means of draws. One draw's labels
are the same for all its teachers: a share stands for as many draws, not for as many teachers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks._common import run_parts
from w2s_jax import rank_supervisors
from w2s_jax.leaderboard.tasks import FAMILIES, LABELS, NOISE, Task, family_task
from w2s_jax.ranking.predicted import LEVEL

DRAWS = 12
RIDGE = 1e-2


def coverage(quick: bool) -> dict[str, Any]:
    """Of every family and label set: share held, mean logarithm of prediction over error, spread of a draw's mean."""
    found: dict[str, Any] = {}
    for name in list(FAMILIES)[: 1 if quick else None]:
        tasks = [family_task(name, 100 + seed) for seed in range(2 if quick else DRAWS)]
        truths = [task.measure(RIDGE)["student_error"] + NOISE for task in tasks]
        for count in (*LABELS, None):
            logs, errors = zip(*(_away(*pair, count) for pair in zip(tasks, truths, strict=True)), strict=True)
            held = [np.abs(x) <= LEVEL * e for x, e in zip(logs, errors, strict=True)]
            means = np.array([x.mean() for x in logs])
            found[f"{name}, {count or 'all'} labels"] = [float(np.mean(held)), float(means.mean()), float(means.std())]
    return found


def _away(task: Task, truth: np.ndarray, count: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of predictions over errors (teachers,), and their standard errors."""
    y = np.full(len(task.y), np.nan)
    y[task.labelled[:count]] = task.y[task.labelled[:count]]
    table = rank_supervisors(task.weak, task.strong, y, weak_ridge=RIDGE, strong_ridge=RIDGE, normalize="scale")
    order = [table.names.index(name) for name in task.weak]
    value = table["predicted_error"][order]
    return np.log(value / truth), table.se("predicted_error")[order] / value


if __name__ == "__main__":
    run_parts(__doc__, (coverage,))
