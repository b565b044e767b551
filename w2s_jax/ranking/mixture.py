"""The best mixture of teachers: weights of their pseudo-labels with the least predicted error of the student.

A ridge student is linear in its labels: what it errs by when it learns from a weighted mean of pseudo-labels is that mean of
what it errs by with each teacher. Its mean square is a quadratic form of the weights, whose matrix follows from the trial's
students and from those of labels drawn from the posterior; weights that are not negative and sum to 1 make it least.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from w2s_jax._core.text import Printed, Shown, number
from w2s_jax.moments import Sums
from w2s_jax.ranking.folds import Layout
from w2s_jax.ranking.predicted import Prediction
from w2s_jax.ranking.scores import Shared, Taught

SHOWN = 0.005  # weights below do not print


@dataclass(frozen=True, repr=False)
class Mixture(Shown):
    """Weights of teachers' pseudo-labels, and the predicted errors of a student of the mixture, of the best teacher alone, and of
    all teachers alike.

    `weights`: by teacher's name, largest first, those that are not 0; they sum to 1. Errors are in squared label units, as
    `predicted_error` of the table that the mixture belongs to.

    >>> Mixture({"a": 0.75, "b": 0.25}, 0.2, 0.25, 0.3)
       teacher  weight
    1  a          0.75
    2  b          0.25
    predicted error 0.2; of the best teacher alone 0.25, of all alike 0.3
    """

    weights: Mapping[str, float]
    error: float
    single_error: float
    mean_error: float

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and numbers."""
        errors = {"error": self.error, "single_error": self.single_error, "mean_error": self.mean_error}
        return {"weights": dict(self.weights), **errors}

    def _printed(self) -> Printed:
        shown = [(name, w) for name, w in self.weights.items() if w >= SHOWN]
        body = [[str(place), name, f"{w:.2f}"] for place, (name, w) in enumerate(shown, 1)]
        errors = f"predicted error {number(self.error)}; of the best teacher alone {number(self.single_error)}"
        return Printed(
            ["", "teacher", "weight"], body, left=2, note=f"{errors}, of all alike {number(self.mean_error)}"
        )


class StrongSide(NamedTuple):
    """What the strong model adds: its cells' sums, and the energies of drawn labels' noise and of what groups have in common."""

    cells: Sums
    noise: float
    shared: float

    @classmethod
    def of(cls, shared: Shared) -> StrongSide:
        """Of what its pairs share, as NumPy arrays."""
        draws = shared.draws
        energies = (0.0, 0.0) if draws is None else (float(x.mean()) for x in (draws.noise, draws.shared))
        return cls(jax.device_get(shared.cells), *energies)


def mixed(students: Mapping[str, Taught], said: Prediction, strong: StrongSide, layout: Layout, bias: bool) -> Mixture:
    """The mixture with the least predicted error of teachers whose students are given by name."""
    of = jax.tree.map(lambda *parts: np.stack(parts), *students.values())
    posterior, trial = posterior_products(of, strong), trial_products(of.kernels, strong.cells, layout, bias)
    return best_mixture(list(students), error_products(said, posterior, trial))


def best_mixture(names: list[str], products: np.ndarray) -> Mixture:
    """The mixture with the least error, from mean products of teachers' students' errors (teachers, teachers)."""
    weights = least(products)
    order = [i for i in np.argsort(-weights, kind="stable") if weights[i] > 0]
    chosen = {names[i]: float(weights[i]) for i in order}
    return Mixture(chosen, float(weights @ products @ weights), float(np.diag(products).min()), float(products.mean()))


def error_products(said: Prediction, posterior: np.ndarray, trial: np.ndarray) -> np.ndarray:
    """Products of students' errors (teachers, teachers): correlations by what posterior and trial say, weighed as the order of
    teachers is; squares are the predicted errors."""
    alike = (1 - said.weight) * _correlations(posterior) + said.weight * _correlations(trial)
    return alike * np.sqrt(np.outer(said.value, said.value))


def trial_products(kernels: np.ndarray, cells: Sums, layout: Layout, bias: bool) -> np.ndarray:
    """Mean products of what students err by in the trial (teachers, teachers), from sums of the strong model's cells and their
    kernels (teachers, K, experiments, d_s, c)."""
    n, h, hh, y, hy, yy = (np.asarray(x, float) for x in (cells.n, cells.h, cells.hh, cells.y, cells.hy, cells.yy))
    roles = layout.trial
    assert roles is not None
    count, total = len(kernels), np.zeros((len(kernels), len(kernels)))
    experiments = list(np.ndindex(*roles.test.shape[:2]))
    for at in experiments:
        tested = roles.test[at] / (roles.test[at] @ n)
        S, about, c, mean_y = (np.tensordot(tested, x, 1) for x in (hh, h, hy, y))
        mean = roles.labelled[at] @ y / (roles.labelled[at] @ n) * bias  # what heads take labels about
        c = c - np.outer(about, mean)
        energy = np.sum(tested @ yy - 2 * mean * mean_y + mean * mean)
        q = kernels[(slice(None), *at)].astype(float)
        seen = (S @ q).reshape(count, -1)
        q = q.reshape(count, -1)
        right = q @ c.reshape(-1)
        total += seen @ q.T - right[:, None] - right + energy
    return total / len(experiments)


def posterior_products(of: Taught, strong: StrongSide) -> np.ndarray:
    """The same over labels drawn from the posterior. What noise adds is taken to be common to all teachers: the most that it can
    add to a mixture."""
    teachers, folds, _, draws, _ = of.missed.shape
    missed = of.missed.astype(float).reshape(teachers, -1)
    total = missed @ missed.T / (folds * draws) + strong.noise
    for energy, response in ((strong.noise, of.response), (strong.shared, of.shared)):
        if response is not None:
            root = np.sqrt(np.maximum(np.asarray(response, float), 0))
            total += energy * root @ root.T / folds
    return total


def least(G: np.ndarray) -> np.ndarray:
    """Weights (k,), not negative and of sum 1, that minimise `w^T G w` for a positive semidefinite G (k, k).

    Up to their size they minimise `x^T G x - 2 sum(x)`: non-negative least squares (Lawson and Hanson 1974).
    """
    G = G + np.finfo(float).eps * np.trace(G) * np.eye(len(G))
    x, free = np.zeros(len(G)), np.zeros(len(G), bool)
    for _ in range(3 * len(G)):
        slope = np.where(free, -np.inf, 1 - G @ x)
        if slope.max() <= 1e-10:
            break
        free[slope.argmax()] = True
        x, free = _solved(G, x, free)
    return x / x.sum()


def _solved(G: np.ndarray, x: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least one with the free entries positive; those that would not be are given up."""
    while True:
        aim = np.zeros(len(G))
        aim[free] = np.linalg.solve(G[np.ix_(free, free)], np.ones(free.sum()))
        falling = free & (aim <= 0)
        if not falling.any():
            return aim, free
        steps = x[falling] / (x[falling] - aim[falling])
        x = x + steps.min() * (aim - x)
        free = free & ~(falling & (x <= np.finfo(float).eps * x.max()))
        x = np.where(free, x, 0)


def _correlations(products: np.ndarray) -> np.ndarray:
    size = np.sqrt(np.maximum(np.diag(products), np.finfo(float).tiny))
    return products / np.outer(size, size)
