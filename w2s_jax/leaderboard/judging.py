"""How well scores order teachers: rank correlations with what their students made of it, and the cost of a wrong choice.

Layers of one network are no independent teachers, and tasks are few: intervals come from drawing networks, with all their
layers, and tasks anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from w2s_jax._core.checks import InputError, require_choice, require_integer
from w2s_jax._core.extras import data_frame
from w2s_jax._core.text import Printed, Shown, interval, number

LEVEL = 0.9  # of the intervals
Against = Literal["student_error", "pgr", "gap"]


@dataclass(frozen=True)
class Contest:
    """One task, strong model and ridge strength: what scores said of k teachers, and what their students made of it.

    `scores` (k,) by name, `NAME:LABELS` for those that saw labels; the smallest is the best teacher's. `measured` (k,) by name:
    `student_error`, and for other outcomes `weak_error` and `ceiling_error`, or `gap`. Teachers called `NETWORK:layer4` are
    layers of one network.

    >>> measured = {"student_error": np.array([0.2, 0.3])}
    >>> one = Contest("digits", "mlp", 1e-3, ("a:layer0", "b"), {"cka": np.array([-0.9, -0.5])}, measured)
    >>> one.networks, one.outcome("student_error").tolist()
    (('a', 'b'), [0.2, 0.3])
    """

    task: str
    strong: str
    ridge: float
    teachers: tuple[str, ...]
    scores: Mapping[str, np.ndarray] = field(repr=False)
    measured: Mapping[str, np.ndarray] = field(repr=False)

    @property
    def networks(self) -> tuple[str, ...]:
        """Of each teacher."""
        return tuple(map(network_of, self.teachers))

    def outcome(self, against: Against) -> np.ndarray:
        """What is foretold (k,), small for a good teacher: the performance gap recovered with its sign changed.

        Raises:
            InputError: it was not measured, or not for each teacher.
        """
        needed = ("weak_error", "student_error", "ceiling_error") if against == "pgr" else (against,)
        missing = [name for name in needed if name not in self.measured]
        if missing:
            raise InputError(
                f"against={against!r} needs {', '.join(missing)}, which task {self.task!r} has not measured"
            )
        found = [np.asarray(self.measured[name], np.float64) for name in needed]
        for name, values in zip(needed, found, strict=True):
            if values.shape != (len(self.teachers),) or not np.isfinite(values).all():
                raise InputError(
                    f"measured {name!r} of task {self.task!r} must have a number for each of {len(self.teachers)} teachers"
                    f", got {values.tolist()}"
                )
        if against != "pgr":
            return found[0]
        weak, student, ceiling = found
        return (student - weak) / (weak - ceiling)


class Standing(NamedTuple):
    """A score's line, means over the contests of a task, then over tasks: Spearman's correlation, its interval, Kendall's, and
    what the first choice costs; the lowest mean of a task and a strong model; whether the best with such labels may be no better.

    `cost`: the outcome of the chosen teacher minus the best one's, as a share of the median minus the best.
    """

    score: str
    labels: str
    spearman: float
    low: float
    high: float
    lowest: float
    kendall: float
    cost: float
    tied: bool

    @property
    def title(self) -> str:
        """As in a contest's scores: `NAME` or `NAME:LABELS`."""
        return f"{self.score}:{self.labels}" if self.labels else self.score


@dataclass(frozen=True, repr=False)
class Leaderboard(Shown):
    """Scores by the labels that they saw, the best first; prints as a table.

    >>> rng, error = np.random.default_rng(0), np.arange(8.0)
    >>> teachers = tuple("abcdefgh")
    >>> scores = {"good": error, "poor": rng.standard_normal(8)}
    >>> board = judge([Contest("t", "s", 0.1, teachers, scores, {"student_error": error})], repeats=20)
    >>> board.standings[0].score, board.standings[0].spearman
    ('good', 1.0)
    """

    standings: tuple[Standing, ...]
    against: Against
    contests: int
    tasks: int

    def of(self, labels: str = "") -> tuple[Standing, ...]:
        """The standings of those labels: "" for scores that saw none."""
        return tuple(standing for standing in self.standings if standing.labels == labels)

    @property
    def labels(self) -> tuple[str, ...]:
        """What labels there are, none first."""
        return tuple(dict.fromkeys(standing.labels for standing in self.standings))

    def to_pandas(self) -> Any:
        """A pandas DataFrame with a row for each score.

        Raises:
            InputError: pandas is not installed.
        """
        return data_frame([standing._asdict() for standing in self.standings])

    def _printed(self) -> Printed:
        header = ("labels", "score", "Spearman", f"{LEVEL:.0%}", "lowest", "Kendall", "cost", "")
        body = [
            (
                standing.labels or "none",
                standing.score,
                number(standing.spearman, ".2f"),
                interval(standing.low, standing.high, ".2f"),
                number(standing.lowest, ".2f"),
                number(standing.kendall, ".2f"),
                number(standing.cost, ".2f"),
                "tied" if standing.tied else "",
            )
            for standing in self.standings
        ]
        title = f"against {self.against}, {self.contests} contests of {self.tasks} tasks"
        return Printed(header, body, left=2, title=title, note="\n".join(map(self._said, self.labels)))

    def _said(self, labels: str) -> str:
        """Which scores are the best with such labels."""
        first, *others = self.of(labels)
        tied = [standing.score for standing in others if standing.tied]
        said = f"{first.score}, tied with {', '.join(tied)}" if tied else first.score
        if np.isnan(first.spearman):
            said = f"nothing can be told, as no contest has teachers that differ in {self.against} and in a score that all have"
        return f"labels {labels}: {said}" if labels else f"no labels: {said}"


def judge(
    contests: Iterable[Contest], against: Against = "student_error", *, repeats: int = 100, seed: int = 0
) -> Leaderboard:
    """Judges all scores of all contests.

    Args:
        contests: measured by `run_leaderboard`, read by `read_contests`, or one's own.
        against: what scores should foretell: the student's error, the performance gap recovered ("pgr", Burns et al. 2024), or
            the prediction gap.
        repeats: resamplings of networks and tasks, for the intervals.
        seed: of the resamplings.

    Returns:
        A standing for each score. Means are over contests of a task, then over tasks, and skip contests in which a score says
        the same of all teachers.

    Raises:
        InputError: no contests, no scores, another outcome, or one that was not measured.

    >>> judge([])
    Traceback (most recent call last):
        ...
    w2s_jax._core.checks.InputError: contests must hold at least one, got none
    """
    require_choice("against", against, Against)
    require_integer("repeats", repeats, 1)
    contests = list(contests)
    if not contests:
        raise InputError("contests must hold at least one, got none")
    if not any(one.scores for one in contests):
        raise InputError("contests must have at least one score, got none")
    titles = sorted(dict.fromkeys(title for one in contests for title in one.scores), key=_by_labels)
    tasks = list(dict.fromkeys(one.task for one in contests))
    outcomes = [one.outcome(against) for one in contests]
    scores = [np.stack([_of(one, title) for title in titles]) for one in contests]
    found = np.stack([_correlations(*pair) for pair in zip(scores, outcomes, strict=True)])
    drawn = _resampled(contests, scores, outcomes, tasks, repeats, seed)
    verdicts = np.array([[_verdict(s, error) for s in said] for said, error in zip(scores, outcomes, strict=True)])
    of_tasks = lambda values: _mean(_group_means(values, [one.task for one in contests]), 0)
    lowest = np.fmin.reduce(_group_means(found, [(one.task, one.strong) for one in contests]))
    ends = [_quantile(drawn, level) for level in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)]
    numbers = np.stack([of_tasks(found), *ends, lowest, *of_tasks(verdicts).T], 1)
    standings: list[Standing] = []
    for labels in dict.fromkeys(title.partition(":")[2] for title in titles):
        own = [i for i, title in enumerate(titles) if title.partition(":")[2] == labels]
        standings += _ordered([titles[i] for i in own], numbers[own], drawn[own])
    return Leaderboard(tuple(standings), against, len(contests), len(tasks))


def _ordered(titles: list[str], numbers: np.ndarray, drawn: np.ndarray) -> list[Standing]:
    """Standings of scores that saw the same labels, the best first, from their numbers (titles, 6) and resampled means."""
    order = np.argsort(-np.nan_to_num(numbers[:, 0], nan=-2), kind="stable")
    nearest = _quantile(drawn[order[0]] - drawn, (1 - LEVEL) / 2)
    return [
        Standing(*titles[i].partition(":")[::2], *map(float, numbers[i]), tied=bool(i != order[0] and nearest[i] <= 0))
        for i in order
    ]


def _group_means(values: np.ndarray, keys: Sequence[Any]) -> np.ndarray:
    """Means (groups, ...) over the contests of a group."""
    return np.stack([_mean(values[[key == group for key in keys]], 0) for group in dict.fromkeys(keys)])


def _by_labels(title: str) -> tuple[float, str]:
    """Scores without labels first, those with all last."""
    name, _, labels = title.partition(":")
    count = -1.0 if not labels else float(labels) if labels.isdigit() else np.inf
    return count, name


def _of(contest: Contest, title: str) -> np.ndarray:
    count = len(contest.teachers)
    values = np.asarray(contest.scores.get(title, np.full(count, np.nan)), np.float64)
    if values.shape != (count,):
        raise InputError(f"score {title!r} must have a number for each of {count} teachers, got shape {values.shape}")
    return values


def _correlations(scores: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """Spearman's of scores (titles, k) with an outcome (k,): NaN where one is constant or not all numbers."""
    from scipy.stats import rankdata  # takes a second to import

    ranks = rankdata(np.concatenate([scores, outcome[None]]), axis=1) - (len(outcome) + 1) / 2
    own, truth = ranks[:-1], ranks[-1]
    size = np.sqrt(np.sum(own**2, 1) * np.sum(truth**2))
    return np.where(np.isfinite(scores).all(1) & (size > 0), own @ truth / np.where(size > 0, size, 1), np.nan)


def _verdict(score: np.ndarray, outcome: np.ndarray) -> tuple[float, float]:
    """Kendall's correlation, and what the first choice costs."""
    from scipy.stats import kendalltau

    if not np.isfinite(score).all() or len(set(score.tolist())) < 2:
        return np.nan, np.nan
    found: Any = kendalltau(score, outcome)
    best, median = outcome.min(), np.median(outcome)
    return float(found[0]), float((outcome[np.argmin(score)] - best) / (median - best)) if median > best else np.nan


def _resampled(
    contests: Sequence[Contest],
    scores: Sequence[np.ndarray],
    outcomes: Sequence[np.ndarray],
    tasks: Sequence[str],
    repeats: int,
    seed: int,
) -> np.ndarray:
    """Mean correlations (titles, repeats) with networks and tasks drawn anew, the same ones for every score."""
    drawn = np.random.default_rng(seed).integers(len(tasks), size=(repeats, len(tasks)))
    counts = np.stack([np.bincount(row, minlength=len(tasks)) for row in drawn]).T.astype(float)  # (tasks, repeats)
    of_task = np.full((len(tasks), len(scores[0]), repeats), np.nan)
    for t, task in enumerate(tasks):
        found = []
        for one, said, truth in zip(contests, scores, outcomes, strict=True):
            if one.task == task:
                rows = redrawn(one.networks, repeats, seed)
                found.append(np.stack([_correlations(said[:, i], truth[i]) for i in rows], 1))
        of_task[t] = _mean(np.stack(found), 0)
    weights = counts[:, None] * np.isfinite(of_task)
    total = weights.sum(0)
    return np.where(total > 0, np.sum(weights * np.nan_to_num(of_task), 0) / np.where(total > 0, total, 1), np.nan)


def network_of(teacher: str) -> str:
    """Of which network a teacher is a layer.

    >>> network_of("smollm2-135m:layer17"), network_of("glove")
    ('smollm2-135m', 'glove')
    """
    return teacher.partition(":")[0]


def redrawn(networks: Sequence[str], repeats: int, seed: int = 0) -> list[np.ndarray]:
    """Teachers' numbers, `repeats` times: as many networks as there are, drawn with replacement, with all their layers.

    >>> [rows.tolist() for rows in redrawn(("a", "a", "b"), 2)]
    [[2, 2], [2, 0, 1]]
    """
    rng, of = np.random.default_rng(seed), np.asarray(networks)
    members = [np.nonzero(of == name)[0] for name in dict.fromkeys(networks)]
    return [np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))]) for _ in range(repeats)]


def _quantile(values: np.ndarray, level: float) -> np.ndarray:
    """Of each row's numbers; NaN where it has none."""
    return np.array([np.nanquantile(row, level) if np.isfinite(row).any() else np.nan for row in values])


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Over those that are numbers; NaN where none is."""
    there = np.isfinite(values)
    count = there.sum(axis)
    return np.where(count > 0, np.where(there, values, 0).sum(axis) / np.maximum(count, 1), np.nan)
