"""All scores and predictors against measured students on the built-in tasks; a run that was stopped goes on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np

from w2s_jax._core.checks import InputError, require_integer
from w2s_jax._core.kept import Kept
from w2s_jax._core.progress import track
from w2s_jax.leaderboard.judging import Contest
from w2s_jax.leaderboard.tasks import TASKS

RIDGES = (1e-3, 1e-2, 1e-1)


def run_leaderboard(
    tasks: Iterable[str] = tuple(TASKS),
    *,
    ridges: Iterable[float] = RIDGES,
    seed: int = 0,
    out: str | os.PathLike | None = None,
    progress: bool = True,
) -> list[Contest]:
    """Measures teachers' students in every task and ridge strength, and asks all scores beforehand.

    Args:
        tasks: names from `TASKS`: families of known populations (20 teachers each), and the demo's 15 encoders of digits.
        ridges: penalties of both heads.
        seed: of families, rows, encoders and splits.
        out: file that keeps finished contests, one JSON line each; with it a stopped run goes on.
        progress: show a progress bar where tqdm is installed.

    Returns:
        A contest for each task and ridge strength; `judge` makes the leaderboard.

    Raises:
        InputError: an unknown task, a ridge that is not positive, scikit-learn is missing (for digits), or a file that belongs to
            another run or cannot be written.

    >>> run_leaderboard(["relu"], ridges=[0.0])
    Traceback (most recent call last):
        ...
    w2s_jax._core.checks.InputError: ridges must be positive, got [0.0]
    """
    tasks, ridges = list(tasks), list(ridges)
    unknown = [name for name in tasks if name not in TASKS]
    if unknown or not tasks:
        raise InputError(f"tasks must be some of {', '.join(TASKS)}, got {', '.join(unknown) or 'none'}")
    require_integer("seed", seed, 0)
    if not ridges or not all(ridge > 0 for ridge in ridges):
        raise InputError(f"ridges must be positive, got {ridges}")
    kept = Kept(out, {"w2s_leaderboard": version("w2s_jax"), "seed": seed})
    made = lru_cache(maxsize=1)(lambda name: TASKS[name](name, seed))
    jobs = [(name, ridge) for name in tasks for ridge in ridges]
    for name, ridge in track(jobs, progress, "contests"):
        if (name, ridge) not in kept.values:
            kept.add((name, ridge), _packed(made(name).contest(ridge)))
    return [_unpacked(*job, kept.values[job]) for job in jobs]


def _packed(contest: Contest) -> dict[str, Any]:
    lists = lambda columns: {name: [float(x) for x in values] for name, values in columns.items()}
    return {
        "strong": contest.strong,
        "teachers": list(contest.teachers),
        "scores": lists(contest.scores),
        "measured": lists(contest.measured),
    }


def _unpacked(task: str, ridge: float, value: dict[str, Any]) -> Contest:
    arrays = lambda columns: {name: np.array(values) for name, values in columns.items()}
    teachers = tuple(value["teachers"])
    return Contest(task, value["strong"], ridge, teachers, arrays(value["scores"]), arrays(value["measured"]))
