"""The experiment itself, measured for many teachers at once: dense, in NumPy, with no code of the package in it.

Ridge heads with intercepts. What is done to features comes from the rows that a head is trained on, as everywhere. Errors are
mean squares over the test rows, in units of the labels' variance: a head that has learnt nothing has about 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from w2s_jax._core.normalize import Normalize

SCALINGS: tuple[Normalize, ...] = ("features", "scale")
MEASURED = ("weak_error", "student_error", "ceiling_error", "weak_accuracy", "student_accuracy", "ceiling_accuracy")


class Splits(NamedTuple):
    """Row numbers (splits, rows) of D~, D^ and the test rows."""

    labelled: np.ndarray
    student: np.ndarray
    test: np.ndarray


def measured(
    weak: Mapping[str, np.ndarray],
    strong: Mapping[str, np.ndarray],
    y: np.ndarray,
    splits: Splits,
    ridges: Iterable[float],
    scaling: str,
) -> dict[str, np.ndarray]:
    """What teachers, students and ceilings make of the test rows: arrays (strong, ridge, weak, splits) by name.

    y is (n, c): one column of -1 and 1, one-hot rows, or any numbers (whose accuracies are NaN).
    """
    ridges = list(ridges)
    found = {name: np.empty((len(strong), len(ridges), len(weak), len(splits.test)), np.float32) for name in MEASURED}
    for run in _runs(weak, strong, y, splits, ridges, scaling):
        for who, outputs in zip(("weak", "student", "ceiling"), run.outputs, strict=True):
            place = run.strong, run.ridge, slice(None), run.split
            found[f"{who}_error"][place] = np.square(outputs - run.truth).sum(2).mean(1) / run.variance
            found[f"{who}_accuracy"][place] = _accuracy(outputs, run.truth)
    return found


def student_products(
    weak: Mapping[str, np.ndarray],
    strong: Mapping[str, np.ndarray],
    y: np.ndarray,
    splits: Splits,
    ridges: Iterable[float],
    scaling: str,
) -> np.ndarray:
    """Mean products of what two teachers' students err by, (strong, ridge, weak, weak), means over splits: a student of a mixture
    with weights w has the error `w^T G w`. Arguments as in `measured`."""
    ridges = list(ridges)
    found = np.zeros((len(strong), len(ridges), len(weak), len(weak)))
    for run in _runs(weak, strong, y, splits, ridges, scaling):
        wrong = (run.outputs[1] - run.truth).reshape(len(weak), -1)
        found[run.strong, run.ridge] += wrong @ wrong.T / (len(run.truth) * run.variance * len(splits.test))
    return found


class _Run(NamedTuple):
    """Outputs (weak, test rows, c) of teachers, students and ceilings in one split, for one strong model and ridge; the truth
    (test rows, c) and its variance."""

    strong: int
    ridge: int
    split: int
    outputs: tuple[np.ndarray, np.ndarray, np.ndarray]
    truth: np.ndarray
    variance: float


def _runs(
    weak: Mapping[str, np.ndarray],
    strong: Mapping[str, np.ndarray],
    y: np.ndarray,
    splits: Splits,
    ridges: list[float],
    scaling: str,
) -> Iterator[_Run]:
    for i, rows in enumerate(zip(*splits, strict=True)):
        teachers = [_outputs(h, y, rows, ridges, scaling) for h in weak.values()]  # each (ridges, D^ and test, c)
        pseudo = np.stack(teachers, 1)
        truth, students = y[rows[2]], len(rows[1])
        for s, z in enumerate(strong.values()):
            for r, smooth in enumerate(_smoothers(z, rows, ridges, scaling)):
                taught = smooth(pseudo[r, :, :students])
                ceiling = np.broadcast_to(smooth(y[rows[1]][None]), taught.shape)
                yield _Run(s, r, i, (pseudo[r, :, students:], taught, ceiling), truth, float(truth.var(0).sum()))


def _outputs(h: np.ndarray, y: np.ndarray, rows: tuple, ridges: list[float], scaling: str) -> np.ndarray:
    """A head's outputs (ridges, D^ and test rows, c), trained on D~."""
    (a, mean), others = _scaled(h, rows[0], scaling), np.concatenate(rows[1:])
    x, at = (h[rows[0]] - mean) * a, (h[others] - mean) * a
    target = y[rows[0]] - y[rows[0]].mean(0)
    return np.stack([weights @ target for weights in _weights(x, at, ridges)]) + y[rows[0]].mean(0)


def _smoothers(z: np.ndarray, rows: tuple, ridges: list[float], scaling: str) -> Iterable:
    """For each ridge the function from labels (k, D^, c) to outputs (k, test, c) of the heads trained on them."""
    a, mean = _scaled(z, rows[1], scaling)
    x, at = (z[rows[1]] - mean) * a, (z[rows[2]] - mean) * a
    for weights in _weights(x, at, ridges):

        def smooth(labels: np.ndarray, weights: np.ndarray = weights) -> np.ndarray:
            mean = labels.mean(1, keepdims=True)
            return weights @ (labels - mean) + mean

        yield smooth


def _scaled(h: np.ndarray, rows: np.ndarray, scaling: str) -> tuple[np.ndarray, np.ndarray]:
    """Factors and means (d,) of features from some rows; a feature that is constant there becomes 0."""
    mean, variance = h[rows].mean(0), h[rows].var(0)
    eps = np.finfo(np.float32).eps
    live = variance > (eps * mean) ** 2
    live &= variance > eps**2 * np.exp(np.log(variance[live]).mean())
    if scaling == "scale":
        return np.full(len(mean), variance.sum() ** -0.5), mean
    return np.where(live, 1 / np.sqrt(np.where(live, variance, 1) * live.sum()), 0), mean


def _weights(x: np.ndarray, at: np.ndarray, ridges: list[float]) -> Iterator[np.ndarray]:
    """For each ridge what a head's outputs at some rows (m, d) are of its labels at rows x (n, d): (m, n)."""
    n, d = x.shape
    if d > n:  # the same by products of rows
        kernel, crossed = x @ x.T / n, at @ x.T / n
        yield from (_solve(kernel, ridge, crossed.T).T for ridge in ridges)
    else:
        S = x.T @ x / n
        yield from (at @ _solve(S, ridge, x.T / n) for ridge in ridges)


def _solve(S: np.ndarray, ridge: float, c: np.ndarray) -> np.ndarray:
    return cho_solve(cho_factor(S + ridge * np.eye(len(S)), check_finite=False), c, check_finite=False)


def _accuracy(outputs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Share of the rows (k,) whose class is right; NaN if the labels are not classes."""
    if truth.shape[1] > 1:
        return (outputs.argmax(2) == truth.argmax(1)).mean(1)
    if not np.isin(truth, (-1, 1)).all():
        return np.full(len(outputs), np.nan)
    return ((outputs[..., 0] > 0) == (truth[:, 0] > 0)).mean(1)
