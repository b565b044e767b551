"""The expected and the posterior experiment as if other numbers of rows trained its weak heads and its students.

A ridge head of strength kappa (theory/kappa.py) has the mean `(Sigma + kappa)^{-1} Sigma v` and a variance as large as
`1 / (n - df2)`, whatever the number of rows n. So heads are fitted on the rows at hand, with the penalty that gives them the
strength of the planned ones; that is their mean. Then the variance is scaled: what heads pick up of label noise, and what their
rows' randomness adds, which is `s^2` times the response to noise of variance 1, with `n s^2 / (n - df2)` the head's expected
squared error on fresh rows: those of the test. All of it stays cross-fitted. Within a few percent where a fold's rows can tell
of the strength; where they cannot, at no penalty, it is the experiment of the larger penalty that has theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from w2s_jax._core.arrays import matmul
from w2s_jax._core.factor import eigvalsh
from w2s_jax._core.ridge_solve import ridge_inverse
from w2s_jax.moments import Sums
from w2s_jax.ranking.crossfit import ExpectedStrong, Score, Settings, WeakCells, over_blocks
from w2s_jax.ranking.folds import Roles
from w2s_jax.ranking.prepared import pool
from w2s_jax.theory.kappa import over, stand_in
from w2s_jax.theory.label_fits import LabelDraws, LabelPosterior


class PlannedHeads(NamedTuple):
    """Heads of every experiment that stand for planned ones: penalties (K,), `(S + penalty)^{-1}` (K, d, d) and their rows (K,);
    `kept` (K,), the planned variance by theirs, and `lost` (K,), what is to be taken off by the product of their error on fresh
    rows and the response to noise; whether any strength is out of reach, ()."""

    ridge: Array
    inverse: Array
    rows: Array
    kept: Array
    lost: Array
    short: Array


class StrongPlan(NamedTuple):
    """What the students of all weak models share: their stage, the ceilings (K, d_s, d_s), and `stage.lost` times the response
    to noise (K,)."""

    stage: PlannedHeads
    ceiling: Array
    lost: Array


class PlannedStudents(NamedTuple):
    """Students' errors per experiment as quadratic forms of the target, (K, d_s, d_s) or their diagonals (K, d_s) if there are no
    labels, the diagonals of the gaps' (K, d_s), responses as of `Students`, and whether a strength was out of reach, ()."""

    error: Array
    gap: Array
    response: Array
    shared: Array | None
    short: Array


def stage_of(roles: Array, cells: Sums, ridge: Array, planned: Any) -> PlannedHeads:
    """Heads on the rows of roles (K, J) that stand for ones on `planned` rows; None: for themselves."""
    moment, rows = pool(roles, cells.hh, cells.n), matmul(roles, cells.n)
    ones = jnp.ones_like(rows)
    penalties, kept, lost, short = ridge * ones, ones, 0 * ones, jnp.zeros((), bool)
    if planned is not None:

        def one(of: tuple[Array, Array]) -> Any:
            unit = jnp.trace(of[0])
            unit = jnp.where(unit > 0, unit, 1)
            found = stand_in(eigvalsh(of[0] / unit)[::-1], of[1], ridge / unit, planned)
            return found._replace(ridge=found.ridge * unit)

        found = jax.lax.map(one, (moment, rows))
        penalties, short = found.ridge, jnp.any(found.short)
        kept = over(found.slack, planned - rows + found.slack)
        lost = (1 - kept) * found.slack / rows
    return PlannedHeads(penalties, jax.vmap(ridge_inverse)(moment, penalties), rows, kept, lost, short)


def prepare_plan(cells: Sums, expected: ExpectedStrong, roles: Roles, settings: Settings) -> StrongPlan | None:
    """The strong model's part; None if no rows are planned."""
    if settings.n_labelled is None and settings.n_student is None:
        return None
    stage = stage_of(roles.student, cells, settings.strong_ridge, settings.n_student)
    half = matmul(expected.target, stage.inverse)
    response = jnp.sum((expected.target - stage.ridge[:, None, None] * half) * half, (1, 2)) / stage.rows
    return StrongPlan(stage, matmul(stage.inverse, pool(roles.student, cells.hh, cells.n)), stage.lost * response)


def students(
    strong: ExpectedStrong, plan: StrongPlan, weak: WeakCells, roles: Roles, settings: Settings, labels: bool
) -> PlannedStudents:
    """Students as of planned rows; with `labels` their errors as whole forms.

    Given the weak head's variance, the student's own is `lost` times its squared error against the weak head's outputs, and the
    gap's that of student less ceiling against the outputs less the labels, both on the test's rows.
    """
    n, turned = weak.own.n, lambda x: jnp.swapaxes(x, 1, 2)
    own, cross = (pool(roles.test, x, n) for x in (weak.own.hh, weak.cross))
    stage = stage_of(roles.labelled, weak.own, settings.weak_ridge, settings.n_labelled)
    head = matmul(stage.inverse, turned(pool(roles.labelled, weak.cross, n)))
    student = matmul(plan.stage.inverse, pool(roles.student, weak.cross, n))  # of the weak head's kernel
    taught, outputs, seen = matmul(student, head), matmul(own, head), matmul(cross, head)
    target = jnp.eye(taught.shape[1], dtype=taught.dtype)

    def forms(product: Callable[[Array, Array], Array], of: Array) -> Array:
        """Squares of what kernels x (K, d_s, d_s) miss of `of`, or lack of the outputs, by target."""
        energy = lambda x: product(*[matmul(strong.target, x)] * 2)
        both = lambda x: x + (turned(x) if x.ndim == 3 else x)
        apart = lambda x: energy(x) - both(product(x, seen)) + product(head, outputs)
        error, left = energy(taught - of), apart(taught + target - of)
        # Of the signal's error on fresh rows what planned heads do not have.
        weigh = lambda by, x: by.reshape(-1, *[1] * (x.ndim - 1)) * x
        signal = apart(jnp.broadcast_to(target, taught.shape))
        return error - weigh(plan.lost, left) - weigh(stage.lost * response, signal)

    def answer(noise: Array) -> Array:
        """Of planned students to weak kernels with that covariance (K, d_w, d_w)."""
        of_student = matmul(student, noise)
        passed = jnp.sum(matmul(strong.target, of_student) * matmul(strong.target, student), (1, 2))
        left = passed - 2 * jnp.sum(of_student * cross, (1, 2)) + jnp.sum(own * noise, (1, 2))
        return passed - plan.lost * left

    per_row = stage.rows[:, None, None]
    inverse = stage.inverse
    response = answer((inverse - stage.ridge[:, None, None] * matmul(inverse, inverse)) / per_row)
    shared = None
    if weak.related is not None:
        of_folds = weak.related.of_means
        of_groups = jnp.tensordot(roles.labelled[:, : len(of_folds)], of_folds, 1, precision="highest") / per_row
        shared = stage.kept * answer(matmul(matmul(inverse, of_groups), inverse) / per_row)
    columns = lambda x, y: jnp.sum(x * y, 1)
    whole = lambda x, y: matmul(turned(x), y)
    errors = forms(whole if labels else columns, target), forms(columns, plan.ceiling)
    return PlannedStudents(*errors, stage.kept * response, shared, stage.short)


def expected_errors(strong: ExpectedStrong, of: PlannedStudents, noise: Array) -> tuple[Score, Score]:
    """As of `crossfit.expected_errors`."""
    diagonal = jnp.diagonal(of.error, axis1=1, axis2=2) if of.error.ndim == 3 else of.error
    away = lambda form: jnp.maximum(matmul(form, strong.prior) + noise * of.response, 0)
    return over_blocks(away(diagonal)), over_blocks(away(of.gap))


def posterior_errors(strong: ExpectedStrong, of: PlannedStudents, posterior: LabelPosterior) -> Array:
    """As of `crossfit.posterior_errors`."""
    error = jnp.sum(of.error * posterior.second, (1, 2)) + posterior.noise * of.response
    if of.shared is not None:
        error += posterior.shared * of.shared
    return jnp.maximum(error, 0) + posterior.noise


def drawn_errors(strong: ExpectedStrong, of: PlannedStudents, draws: LabelDraws) -> tuple[Array, None]:
    """As of `crossfit.drawn_errors`, without what students miss: there is no student as of planned rows."""
    form, theta = jnp.mean(of.error, 0), draws.theta.reshape(len(draws.theta), -1)
    missed = jnp.sum((theta * matmul(form, theta)).reshape(draws.theta.shape), (0, 2))
    error = missed + draws.noise * jnp.mean(of.response)
    if of.shared is not None:
        error += draws.shared * jnp.mean(of.shared)
    return jnp.maximum(error, 0) + draws.noise, None
