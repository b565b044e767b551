"""The best mixture of teachers: weights of their pseudo-labels with the least predicted error of the student.

What a student of a mixture errs by is a quadratic form of the weights (mixed_errors.py), by what the table knows: predicted,
posterior, trial, or without labels the expected experiment, or by the bound that misfits give. Weights that are not negative and
sum to 1 make it least.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

from w2s_jax._core.text import Printed, Shown, number
from w2s_jax.ranking.folds import Layout
from w2s_jax.ranking.mixed_errors import (
    StrongSide,
    drawn_products,
    misfit_products,
    predicted_products,
    scaled,
    trial_products,
)
from w2s_jax.ranking.predicted import Prediction, Scored

SHOWN = 0.005  # weights below do not print
Objective = Literal["predicted", "posterior", "trial", "misfit", "expected"]


@dataclass(frozen=True, repr=False)
class Mixture(Shown):
    """Weights of teachers' pseudo-labels, and the errors by what they make least of a student of the mixture, of the best teacher
    alone, and of all teachers alike.

    `weights`: by teacher's name, largest first, those that are not 0; they sum to 1. `objective`: what is least. Errors are in
    the units of that column of the table; of "misfit" they are a bound less a number that is the same for all mixtures
    (mixed_errors.py), and may be negative.

    >>> Mixture({"a": 0.75, "b": 0.25}, 0.2, 0.25, 0.3, "expected")
       teacher  weight
    1  a          0.75
    2  b          0.25
    expected error 0.2; of the best teacher alone 0.25, of all alike 0.3
    """

    weights: Mapping[str, float]
    error: float
    single_error: float
    mean_error: float
    objective: Objective = "predicted"

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and numbers."""
        errors = {"error": self.error, "single_error": self.single_error, "mean_error": self.mean_error}
        return {"weights": dict(self.weights), **errors, "objective": self.objective}

    def _printed(self) -> Printed:
        shown = [(name, w) for name, w in self.weights.items() if w >= SHOWN]
        body = [[str(place), name, f"{w:.2f}"] for place, (name, w) in enumerate(shown, 1)]
        title = "bound by misfit" if self.objective == "misfit" else f"{self.objective} error"
        errors = f"{title} {number(self.error)}; of the best teacher alone {number(self.single_error)}"
        return Printed(
            ["", "teacher", "weight"], body, left=2, note=f"{errors}, of all alike {number(self.mean_error)}"
        )


def mixed(
    objective: Objective,
    teachers: Mapping[str, Scored],
    said: Prediction | None,
    strong: StrongSide,
    layout: Layout,
    bias: bool,
) -> Mixture:
    """The mixture that makes the objective least of teachers given by name, whose evidence has students."""
    of = jax.tree.map(lambda *parts: np.stack(parts), *(scored.evidence.student for scored in teachers.values()))
    if objective == "misfit":
        products = misfit_products(of, strong, layout, bias)
    elif objective == "trial":
        products = trial_products(of, strong, layout, bias)
    elif objective == "predicted":
        assert said is not None
        products = predicted_products(said, drawn_products(of, strong), trial_products(of, strong, layout, bias))
    else:
        errors = np.array([scored.scores[f"{objective}_error"].value for scored in teachers.values()], float)
        products = scaled(drawn_products(of, strong), errors)
    return best_mixture(list(teachers), products, objective)


def best_mixture(names: list[str], products: np.ndarray, objective: Objective) -> Mixture:
    """The mixture with the least error `w^T G w`, from G (teachers, teachers)."""
    weights = least(products)
    order = [i for i in np.argsort(-weights, kind="stable") if weights[i] > 0]
    chosen = {names[i]: float(weights[i]) for i in order}
    single, alike = float(np.diag(products).min()), float(products.mean())
    return Mixture(chosen, float(weights @ products @ weights), single, alike, objective)


def least(G: np.ndarray) -> np.ndarray:
    """Weights (k,), not negative and of sum 1, that minimise `w^T G w` for a G (k, k) that is positive semidefinite along
    differences of weights.

    From the best single one on, the weight that would lower the form most is set free, until none would.
    """
    size = max(float(np.abs(G).max()), np.finfo(float).tiny)
    G = G / size + np.finfo(float).eps * len(G) * np.eye(len(G))
    w = np.zeros(len(G))
    w[np.diag(G).argmin()] = 1
    free = w > 0
    for _ in range(3 * len(G)):
        slope = np.where(free, np.inf, G @ w)
        if slope.min() >= w @ G @ w - 1e-10:
            break
        free[slope.argmin()] = True
        w, free = _solved(G, w, free)
    return w / w.sum()


def _solved(G: np.ndarray, w: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least one with the free weights positive; those that would not be are given up."""
    while True:
        k, aim = free.sum(), np.zeros(len(G))
        system = np.block([[G[np.ix_(free, free)], np.ones((k, 1))], [np.ones((1, k)), np.zeros((1, 1))]])
        aim[free] = np.linalg.solve(system, np.eye(k + 1)[k])[:k]
        falling = free & (aim <= 0)
        if not falling.any():
            return aim, free
        steps = w[falling] / (w[falling] - aim[falling])
        w = w + steps.min() * (aim - w)
        free = free & ~(falling & (w <= np.finfo(float).eps * w.max()))
        w = np.where(free, w, 0)
