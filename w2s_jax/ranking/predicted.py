"""One prediction of the student's error from posterior and trial, weighed by what each knows of how teachers differ.

A trial trains its weak heads on the labelled rows at hand, the posterior stands for as many as there are in a fold: where labels
are fewer, what of their disagreement noise does not explain is the trial's fault, otherwise the posterior's; and its order counts
no more than it follows the posterior's. Errors are compared by their logarithms.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from w2s_jax.ranking.crossfit import Score
from w2s_jax.ranking.scores import Evidence

LITTLE = 0.1  # a share of the labels' energy; what expresses no more of them has little to learn
LEVEL = 1.645  # standard errors within which 90% of normal differences lie


class Scored(NamedTuple):
    """A pair's scores by column, what they rest on where there are labels, and whether a fold's rows are too few to tell of the
    planned weak head."""

    scores: dict[str, Score]
    evidence: Any
    short: bool = False


def predict(pairs: dict[tuple[str, str], Scored], fitted: float) -> dict[str, Prediction]:
    """Adds `predicted_error` to the scores of all pairs (strong, weak); what is predicted for each strong model.

    `fitted` as in `predicted_errors`.
    """
    said = {}
    for strong in dict.fromkeys(key[0] for key in pairs):
        own = [scored for key, scored in pairs.items() if key[0] == strong]
        evidence = Evidence(*(np.stack(parts) for parts in zip(*(scored.evidence[:3] for scored in own), strict=True)))
        prediction = _of_told(evidence, fitted)
        for scored, value, error in zip(own, prediction.value, prediction.error, strict=True):
            scored.scores["predicted_error"] = Score(value, error)
        said[strong] = prediction
    return said


def _of_told(evidence: Evidence, fitted: float) -> Prediction:
    """From the teachers of whom something is known: of one that rounding has left without numbers nothing is predicted, and it
    keeps no other from its own."""
    told = np.all([np.isfinite(x).all(1) for x in evidence[:3]], 0)
    if told.all() or not told.any():
        return predicted_errors(evidence, fitted)
    found = predicted_errors(Evidence(*(x[told] for x in evidence[:3])), fitted)
    value, error = np.full((2, len(told)), np.nan)
    value[told], error[told] = found.value, found.error
    return found._replace(value=value, error=error)


class Prediction(NamedTuple):
    """Of all teachers of one strong model: predicted errors and their standard errors (models,), the trial's weight in the order,
    and the standard error of a difference between two logarithms."""

    value: np.ndarray
    error: np.ndarray
    weight: float
    apart: float


def predicted_errors(of: Evidence, fitted: float) -> Prediction:
    """The weighted mean of both logarithms: of their means over models by one weight, of what is left by another.

    `of`: (models, ...). `fitted`: rows that fit a weak head in the trial, of those that do so in the posterior.
    """
    logs = [np.log(np.maximum(x.mean(1), _floor(x))) for x in (of.posterior, of.trial)]
    posterior, drawn, trial = (_logs(x) for x in of[:3])
    fitted = min(fitted, 1.0)
    level = _mean(
        [x.mean() for x in logs],
        [_variance(drawn.mean(0)) + _of_mean(posterior.mean(0)), _of_mean(trial.mean(0))],
        fitted,
    )
    order = _mean(
        [x - x.mean() for x in logs],
        [_variance(_apart(drawn)) + _of_mean(_apart(posterior)), _of_mean(_apart(trial))],
        fitted,
        fitted + (1 - fitted) * _follows(*logs),
    )
    value = np.exp(level.value + order.value)
    return Prediction(value, value * np.hypot(level.error, order.error), order.weight, np.sqrt(2) * order.error)


class _Mean(NamedTuple):
    """A weighted mean of what posterior and trial say, its standard error, and the trial's weight."""

    value: np.ndarray
    error: float
    weight: float


def _mean(said: list, variances: list[float], fitted: float, trust: float = 1.0) -> _Mean:
    """By the inverse of variances, which take up a disagreement that they do not explain in the shares `fitted` and what is left
    of 1; the trial's weight counts as far as it is trusted. Both see the same labels: their errors add up.
    """
    differ = np.ravel(np.subtract(*said))
    unexplained = np.sum(np.square(differ)) / max(len(differ) - 1, 1) - sum(variances)
    own = np.asarray(variances) + np.array([fitted, 1 - fitted]) * max(unexplained, 0.0)
    weight = trust * float(own[0] / own.sum()) if own.sum() > 0 else trust / 2
    parts = np.array([1 - weight, weight])
    return _Mean(np.tensordot(parts, np.asarray(said), 1), float(parts @ np.sqrt(own)), weight)


def said_of(name: str, prediction: Prediction, labels: int, share: float) -> str:
    """One sentence: what the order of a strong model's teachers rests on, who is level with the first, and if it means much."""
    logs = np.sort(np.log(prediction.value[np.isfinite(prediction.value)]))
    rests = f"{name}: {labels} labels, of which it expresses {share:.0%}"
    if share < LITTLE:
        return f"{rests}: there is little to teach, and labels as few may order teachers wrongly"
    rests = f"{rests}; trial's weight {prediction.weight:.1f}"
    if len(logs) < 2:
        return rests
    level = int(np.sum(logs - logs[0] <= LEVEL * prediction.apart))
    return f"{rests}; the first {'differs from all others' if level == 1 else f'{level} do not differ beyond their errors'}"


def _follows(posterior: np.ndarray, trial: np.ndarray) -> float:
    """How far the trial's order is the posterior's, from 0 to 1: the squared correlation of logarithms, 0 for a negative one."""
    one, other = (x - x.mean() for x in (posterior, trial))
    squares = (one @ one) * (other @ other)
    return float(max(one @ other, 0) ** 2 / squares) if squares > 0 else 0.0


def _floor(x: np.ndarray) -> float:
    return max(float(np.finfo(np.float32).eps * np.abs(x).max()), float(np.finfo(float).tiny))


def _logs(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, float)
    return np.log(np.maximum(x, _floor(x)))


def _apart(x: np.ndarray) -> np.ndarray:
    """What is not common to all models."""
    return x - x.mean(0)


def _variance(x: np.ndarray) -> float:
    """Over the last axis, the mean over the first."""
    return float(np.mean(np.var(x, -1, ddof=1)))


def _of_mean(folds: np.ndarray) -> float:
    return _variance(folds) / folds.shape[-1]
