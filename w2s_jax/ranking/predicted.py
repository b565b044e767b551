"""One prediction of the student's error: the posterior's, moved by what the trial says beyond that.

The posterior also foresees the trial: the very rows, however few, and the heads fitted on them. How far the trial departs from
that tells by how much the posterior is mistaken: real labels are no draw from a prior. Errors are compared by their logarithms,
the level of all teachers and their order apart.
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


def predict(pairs: dict[tuple[str, str], Scored]) -> dict[str, Prediction]:
    """Adds `predicted_error` to the scores of all pairs (strong, weak); what is predicted for each strong model."""
    said = {}
    for strong in dict.fromkeys(key[0] for key in pairs):
        own = [scored for key, scored in pairs.items() if key[0] == strong]
        prediction = _of_told(Evidence(*(np.stack(x) for x in zip(*(of.evidence[:4] for of in own), strict=True))))
        for scored, value, error in zip(own, prediction.value, prediction.error, strict=True):
            scored.scores["predicted_error"] = Score(value, error)
        said[strong] = prediction
    return said


def _of_told(evidence: Evidence) -> Prediction:
    """From the teachers of whom something is known: of one that rounding has left without numbers nothing is predicted, and it
    keeps no other from its own."""
    told = np.all([np.isfinite(x).all(1) for x in evidence[:4]], 0)
    if told.all() or not told.any():
        return predicted_errors(evidence)
    found = predicted_errors(Evidence(*(x[told] for x in evidence[:4])))
    value, error = np.full((2, len(told)), np.nan)
    value[told], error[told] = found.value, found.error
    return found._replace(value=value, error=error)


class Prediction(NamedTuple):
    """Of all teachers of one strong model: predicted errors and their standard errors (models,), the trial's weight in the order
    (of one alone in the level), and the standard error of a difference between two logarithms."""

    value: np.ndarray
    error: np.ndarray
    weight: float
    apart: float


def predicted_errors(of: Evidence) -> Prediction:
    """The posterior's errors, moved by how much of the trial's departure from what was foreseen is no chance.

    `of`: (models, ...). Heads of different folds share labels, and so does what they say of teachers' differences: its variance
    has a term for that (Nadeau and Bengio, 2003). What labels do to all teachers they do to the posterior as well.
    """
    said, tried, expected = (np.log(np.maximum(x.mean(1), _floor(x))) for x in (of.posterior, of.trial, of.foreseen))
    by_fold, drawn, departed = _logs(of.posterior), _logs(of.drawn), _logs(of.trial) - _logs(of.foreseen)
    away, (models, folds) = tried - expected, departed.shape
    own, left = away - away.mean(), models / max(models - 1, 1)  # what their mean has taken of variances
    level = _moved(
        said.mean(), away.mean(), _variance(drawn.mean(0)) + _of_mean(by_fold.mean(0)), _of_mean(departed.mean(0))
    )
    order = _moved(
        said - said.mean(),
        own,
        left * (_variance(_apart(drawn)) + _of_mean(_apart(by_fold))),
        left * (1 + folds / (folds - 1)) * _of_mean(_apart(departed)),
        _follows(said, said + own) ** 2,
    )
    value = np.exp(level.value + order.value)
    error = value * np.sqrt(level.error**2 + order.error**2 / left)
    weight = (order if models > 1 else level).weight
    return Prediction(value, error, weight, np.sqrt(2) * order.error)


class _Moved(NamedTuple):
    """What the posterior says, moved by a part of the trial's departure: that weight, and the standard error."""

    value: np.ndarray
    error: float
    weight: float


def _moved(said: Any, away: Any, variance: float, chance: float, trust: float = 1.0) -> _Moved:
    """By the share of the departures that is no chance, as far as it is trusted. The posterior's error remains: it is of the same
    labels, and the trial tells of what the posterior is mistaken in, not of what labels there are. So does the trial's, trusted
    or not."""
    square = np.sum(np.square(away)) / max(np.size(away) - 1, 1)
    share = float(square / (square + chance)) if square + chance > 0 else 0.0
    return _Moved(said + trust * share * away, float(np.sqrt(variance + share * chance)), trust * share)


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
    """How far the order that the trial would have is the posterior's, from 0 to 1: the squared correlation of logarithms, 0 for a
    negative one."""
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
