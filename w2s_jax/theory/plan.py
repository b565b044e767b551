"""Planning an experiment that nobody has run yet: ridge strengths, and how a budget is divided among labels and student's rows.

The deterministic equivalent is smooth in all of them: the best point of a coarse grid, then L-BFGS in logarithms. All of it is in
units of the population's own sizes, so that powers of small or large moments neither vanish nor overflow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from w2s_jax._core.checks import InputError, require_number
from w2s_jax._core.factor import power_of_two, unit_scale
from w2s_jax.moments import Moments
from w2s_jax.theory.equivalent import Population, Rotated, Tail, checked_population, of_labels, outcomes, rotated
from w2s_jax.theory.posterior import LabelPosterior, label_posterior_from_moments

STARTS = (1e-4, 1e-3, 1e-2, 1e-1)  # of the penalties, in units of the mean squared row norm
PARTS = (0.15, 0.5, 0.85)  # of the budget, for labels
STEPS = 30


@dataclass(frozen=True)
class Plan:
    """An experiment with the least predicted error of the student: rows, penalties, the errors to expect of it.

    Errors are against the noise-free target; for moments, against the part of the labels that the strong model expresses, so that
    on real labels they are larger by `posterior.noise`. `label_gain`, `student_gain`: by how much one more labelled row, or one
    more row of the student's, lowers the student's error.

    >>> Plan(100.0, 1000.0, 0.1, 0.02, 0.3, 0.05, 1e-3, 1e-5)
    Plan(100 labelled and 1000 student's rows, ridges 0.1 and 0.02: student error 0.3, gap 0.05)
    """

    n_labelled: float
    n_student: float
    weak_ridge: float
    strong_ridge: float
    student_error: float
    gap: float
    label_gain: float
    student_gain: float

    def __repr__(self) -> str:
        said = (
            f"{self.n_labelled:.4g} labelled and {self.n_student:.4g} student's rows, ridges {self.weak_ridge:.2g} and "
        )
        return f"Plan({said}{self.strong_ridge:.2g}: student error {self.student_error:.4g}, gap {self.gap:.4g})"


def plan(
    population: Population | Moments,
    *,
    n_labelled: float | None = None,
    n_student: float | None = None,
    weak_ridge: float | None = None,
    strong_ridge: float | None = None,
    budget: float | None = None,
    label_cost: float = 1.0,
    student_cost: float = 0.0,
    posterior: LabelPosterior | None = None,
) -> Plan:
    """The ridge strengths, and with a budget the numbers of rows, that make the student's error least.

    Args:
        population: the population, or moments of rows at hand that stand for it (too good where their features are not far
            fewer than they are); labels are then those of `posterior`.
        n_labelled, n_student: rows of the two splits. With a budget either may be None: it is what the budget allows, and if
            both are, they are chosen.
        weak_ridge, strong_ridge: penalties of the mean squared loss; None: to be chosen.
        budget, label_cost, student_cost: `label_cost n_labelled + student_cost n_student` is the budget, of which at least a row
            of each is bought, both prices positive where the number is to be found.
        posterior: of the labels, for moments; by default what the moments' own labels say, without any the label prior's average.

    Raises:
        InputError: numbers of rows that neither are given nor follow, or that the budget does not pay for, prices or penalties
            out of range, a population that does not fit, features or labels that are all 0 (of centred moments: the same).

    >>> one, eye = jnp.ones(8), jnp.eye(8)
    >>> population = Population(ww=eye, ss=eye, sw=0.9 * eye, wy=0.9 * one, sy=one, yy=8.0, noise=1.0)
    >>> found = plan(population, budget=400, label_cost=4, student_cost=1)
    >>> round(4 * found.n_labelled + found.n_student), abs(found.label_gain / 4 / found.student_gain - 1) < 0.1
    (400, True)

    Source: derived from the deterministic equivalent (docs/theory.md).
    """
    _require(n_labelled, n_student, weak_ridge, strong_ridge, budget, label_cost, student_cost)
    basis, units = _basis(population, posterior)
    rows = _rows(n_labelled, n_student, budget, label_cost, student_cost)
    penalties = [
        (0.0, 1.0) if ridge is None else (float(ridge) / unit, 0.0)
        for ridge, unit in ((weak_ridge, units.weak), (strong_ridge, units.strong))
    ]
    numbers, found, slopes = _least(basis, jnp.asarray((*rows, *penalties), basis.strong.values.dtype))
    labelled, student, weak, strong = map(float, numbers)
    if n_labelled is None and n_student is None and budget is not None:  # to the last digit of the budget
        student = (budget - label_cost * labelled) / student_cost
    error, gap, label_gain, student_gain = (
        float(x) * units.labels for x in (found.student_error, found.gap, -slopes[0], -slopes[1])
    )
    return Plan(labelled, student, weak * units.weak, strong * units.strong, error, gap, label_gain, student_gain)


def _rows(
    n_labelled: float | None, n_student: float | None, budget: float | None, label_cost: float, student_cost: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The two numbers of rows as `a + b part`, of what the budget leaves after a row of each: a part for labels, the rest for
    the student's."""
    if n_labelled is not None and n_student is not None:
        return (n_labelled, 0.0), (n_student, 0.0)
    assert budget is not None
    if n_student is not None:
        return ((budget - student_cost * n_student) / label_cost, 0.0), (n_student, 0.0)
    if n_labelled is not None:
        return (n_labelled, 0.0), ((budget - label_cost * n_labelled) / student_cost, 0.0)
    left = budget - label_cost - student_cost
    return (1.0, left / label_cost), (1.0, left / student_cost)


@jax.jit
def _least(basis: Rotated, given: Array) -> tuple:
    """The four numbers, the errors there, and the error's slopes in the numbers of rows.

    `given` (4, 2): rows as `a + b part`, with the other part for the student's, penalties as `a + b exp(x)`.
    """

    def numbers(at: Array) -> Array:
        parts = jax.nn.sigmoid(at[0]), jax.nn.sigmoid(-at[0])
        return given[:, 0] + given[:, 1] * jnp.stack([*parts, *jnp.exp(at[1:])])

    error = lambda four: outcomes(basis, *four).student_error
    loss = lambda at: jnp.log(error(numbers(at)))
    parts = jax.scipy.special.logit(jnp.asarray(PARTS, given.dtype))
    sizes = [jnp.log(jnp.sum(side.values) * jnp.asarray(STARTS, given.dtype)) for side in (basis.weak, basis.strong)]
    grid = jnp.stack(jnp.meshgrid(parts, *sizes), -1).reshape(-1, 3)
    four = numbers(_descended(loss, grid[jnp.argmin(jax.lax.map(loss, grid))]))
    return four, outcomes(basis, *four), jax.grad(error)(four)[:2]


def _descended(loss: Callable, start: Array) -> Array:
    """L-BFGS; no step is longer than a factor e, beyond which a student of large penalties learns nothing, and the slope is 0."""
    search = optax.chain(
        optax.scale_by_lbfgs(),
        optax.clip_by_global_norm(1.0),
        optax.scale(-1.0),
        optax.scale_by_backtracking_linesearch(max_backtracking_steps=12),
    )

    def step(state: tuple, _: None) -> tuple[tuple, None]:
        at, inner = state
        value, slope = jax.value_and_grad(loss)(at)
        change, inner = search.update(slope, inner, at, value=value, grad=slope, value_fn=loss)
        return (optax.apply_updates(at, change), inner), None

    return jax.lax.scan(step, (start, search.init(start)), None, length=STEPS)[0][0]


class _Units(NamedTuple):
    """Squared sizes, powers of two, in whose units weak features, strong features and labels are about 1."""

    weak: float
    strong: float
    labels: float


def _basis(population: Any, posterior: LabelPosterior | None) -> tuple[Rotated, _Units]:
    """What is planned for in its own units, and those."""
    if isinstance(population, Population):
        if posterior is not None:
            raise InputError("posterior is for moments: a Population has its own target, got both")
        return _in_units(checked_population(population), None)
    if not isinstance(population, Moments):
        raise InputError(f"population must be a Population or Moments, got {type(population).__name__}")
    if posterior is None:
        labelled = population.strong if population.strong.sums.y is not None else None
        posterior = label_posterior_from_moments(population.strong, labelled)
    if not isinstance(posterior, LabelPosterior):
        raise InputError(f"posterior must be a LabelPosterior, got {type(posterior).__name__}")
    if posterior.second.shape != population.ss.shape:
        raise InputError(
            f"posterior must be of {population.ss.shape[0]} strong features, got {posterior.second.shape[0]}"
        )
    none = jnp.zeros((), population.ss.dtype)
    moments = population.ww, population.ss, population.sw
    return _in_units(Population(*moments, none, none, none, posterior.noise), posterior.second)


def _in_units(p: Population, labels: Array | None) -> tuple[Rotated, _Units]:
    """A population, with its own target or, on average, those of `E[theta theta^T]` (d_s, d_s)."""
    for name, moment in (("weak", p.ww), ("strong", p.ss)):
        if not jnp.trace(moment) > 0:
            raise InputError(f"population must have {name} features that are not all 0, got none")
    w, s = unit_scale(p.ww), unit_scale(p.ss)
    ss, labels = p.ss / s / s, None if labels is None else labels * s * s
    energy = jnp.asarray(p.yy) if labels is None else jnp.sum(ss * labels)
    if not 0 < energy < jnp.inf:
        raise InputError(
            "population must have a target, or labels, not all 0 (of centred moments: labels that differ) and not lost beside "
            f"the size of the features in {ss.dtype}, got a mean square of {energy:g}"
        )
    y = power_of_two(jnp.sqrt(energy + p.noise))
    tails = (of and Tail(of.variance / size / size, of.width) for of, size in ((p.tail_w, w), (p.tail_s, s)))
    target = p.wy / w / y, p.sy / s / y, energy / y / y
    scaled = Population(p.ww / w / w, ss, p.sw / s / w, *target, p.noise / y / y, *tails)
    units = _Units(*(float(size) ** 2 for size in (w, s, y)))
    return rotated(scaled) if labels is None else of_labels(scaled, labels / y / y), units


def _require(
    n_labelled: Any, n_student: Any, weak_ridge: Any, strong_ridge: Any, budget: Any, label_cost: Any, student_cost: Any
) -> None:
    for name, value, least in (
        ("n_labelled", n_labelled, 1),
        ("n_student", n_student, 1),
        ("weak_ridge", weak_ridge, 0),
        ("strong_ridge", strong_ridge, 0),
        ("budget", budget, 0),
        ("label_cost", label_cost, 0),
        ("student_cost", student_cost, 0),
    ):
        if value is not None:
            require_number(name, value, least)
            if not np.isfinite(value):
                raise InputError(f"{name} must be finite, got {value}")
    for name, n, cost in (("n_labelled", n_labelled, label_cost), ("n_student", n_student, student_cost)):
        if n is None and (budget is None or not cost > 0):
            priced = name.replace("n_", "").replace("labelled", "label")
            raise InputError(
                f"{name} must be given, or a budget and a {priced}_cost above 0, got budget={budget} and {priced}_cost={cost}"
            )
    spent = label_cost * (n_labelled or 1) + student_cost * (n_student or 1)
    if budget is not None and spent > budget:
        raise InputError(
            f"budget must pay for the rows that are given and one row of each split ({spent:g}), got {budget:g}"
        )
