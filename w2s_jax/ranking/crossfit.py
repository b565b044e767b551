"""The weak-to-strong experiment, cross-fitted from second moments per cell of rows: expected over labels.

A cell is a set of rows that stay together: a fold, or the labelled or unlabelled part of one. Roles say which cells fit
the weak head, which train the student and which test it; the experiment is then a handful of ridge solves, and the rows
are never needed again. The strong side is expressed in the eigenbasis of its pooled second moment.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from w2s_jax._core.arrays import matmul
from w2s_jax._core.factor import numerically_zero
from w2s_jax._core.ridge_solve import ridge_inverse
from w2s_jax.moments import Sums
from w2s_jax.ranking.folds import Experiments, Roles
from w2s_jax.ranking.prepared import pool
from w2s_jax.ranking.related import GroupSums
from w2s_jax.spectrum import spectrum
from w2s_jax.theory.label_fits import LabelDraws, LabelPosterior

DIRECTIONS = 512  # of the strong model that products of teachers' students are exact for, if labels are random


class WeakCells(NamedTuple):
    """A weak model's sums per cell (J, ...), those of strong times weak features, cross (J, d_s, d_w), and those of groups of
    related rows, if they count: of all rows, and of labelled ones."""

    own: Sums
    cross: Array
    related: GroupSums | None = None
    labelled: GroupSums | None = None


class Settings(NamedTuple):
    """Ridge strengths of the two heads, relative threshold of the norms, label prior p, noise-to-signal ratio nu; planned numbers
    of rows (planned.py), or None for those that are there."""

    weak_ridge: Any
    strong_ridge: Any
    threshold: Any
    prior: Any
    noise: Any
    n_labelled: Any = None
    n_student: Any = None


class Score(NamedTuple):
    """A score and its standard error over blocks of rows."""

    value: Array
    error: Array


class ExpectedStrong(NamedTuple):
    """What every weak model's expected experiment shares, per experiment: see `prepare_expected`."""

    student: Array
    target: Array
    ceiling: Array
    prior: Array


class WeakHeads(NamedTuple):
    """Ridge heads on sets of rows: their penalty () and `(S_w + ridge)^{-1}` (F, d_w, d_w)."""

    ridge: Array
    inverse: Array


def weak_heads(weak: Sums, fits: Array, ridge: Array) -> WeakHeads:
    """The ridge heads that the cells of `fits` (F, J) make; all in one call, which compiles a factorisation but once."""
    return WeakHeads(ridge, jax.vmap(partial(ridge_inverse, ridge=ridge))(pool(fits, weak.hh, weak.n)))


def student_inverses(cells: Sums, fits: Array, ridge: Array) -> Array:
    """The ridge inverses (F, d_s, d_s) of students that the cells of `fits` (F, J) teach, shared by all weak models."""
    return jax.lax.map(lambda fit: ridge_inverse(pool(fit, cells.hh, cells.n), ridge), fits)


def prepare_expected(
    cells: Sums,
    values: Array,
    inverses: Array,
    experiments: Experiments,
    settings: Settings,
    test_rows: int | None = None,
) -> ExpectedStrong:
    """The strong model's part of `students` and of their errors: `(S^C)^{1/2}` times the student's map, itself, and times the
    ceiling's, and the prior's variances (d_s,).

    `values` (d_s,): eigenvalues of the pooled second moment; `inverses`: `student_inverses` of the experiments' sets. The prior
    is `theta ~ N(0, S_s^{p-1})`, scaled so that the labels `h_s^T theta` have mean square 1. `test_rows`: no more than so many
    eigenvalues of `S^C` are not zero.
    """
    nonzero = values > numerically_zero(values)
    # Powers of shares of the largest overflow at no scale and for no p. p = 1 is flat, also where an eigenvalue is zero;
    # any other power leaves those directions out.
    power = jnp.where(nonzero, values / values[0], 1) ** (settings.prior - 1)
    prior = jnp.where(nonzero | (settings.prior == 1), power, 0)

    def one(of: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        (S_student, S_test), inverse = (pool(role, cells.hh, cells.n) for role in of[:2]), inverses[of[2]]
        eigen = spectrum(S_test, 1)
        half = (jnp.sqrt(eigen.values)[:, None] * eigen.vectors.T)[:test_rows]
        response = matmul(half, inverse)
        return response, half, matmul(response, S_student)

    roles = experiments.expected
    student, target, ceiling = jax.lax.map(one, (roles.student, roles.test, experiments.students.expected))
    return ExpectedStrong(student, target, ceiling, prior / jnp.sum(prior * values))


class Students(NamedTuple):
    """Random labels' students per experiment: `(S^C)^{1/2}` times the map of the target (K, k, d_s), and their response to label
    noise of variance 1 (K,), and to that which groups of related rows share, if they count."""

    taught: Array
    response: Array
    shared: Array | None


def students(strong: ExpectedStrong, weak: WeakCells, heads: WeakHeads, roles: Roles) -> Students:
    """The students of weak heads, whatever the labels; the first of `heads` are those of `roles.labelled`.

    On cells A (weak head), B (student), C (test) a target theta is learned as
    `(S_s^B + beta_s)^{-1} S_sw^B (S_w^A + beta_w)^{-1} S_ws^A theta`.
    """
    n = weak.own.n
    uncarried = matmul(strong.student, pool(roles.student, weak.cross, n))
    carried = matmul(uncarried, heads.inverse[: len(roles.labelled)])
    taught = matmul(carried, jnp.swapaxes(pool(roles.labelled, weak.cross, n), 1, 2))
    # `S_w (S_w + beta_w)^{-1} = I - beta_w (S_w + beta_w)^{-1}`.
    response = jnp.sum((uncarried - heads.ridge * carried) * carried, (1, 2))
    rows = matmul(roles.labelled, n)
    if weak.related is None:
        return Students(taught, response / rows, None)
    of_folds = weak.related.of_means
    of_groups = jnp.tensordot(roles.labelled[:, : len(of_folds)] / rows[:, None], of_folds, 1, precision="highest")
    return Students(taught, response / rows, jnp.sum(matmul(carried, of_groups) * carried, (1, 2)) / rows)


def expected_errors(strong: ExpectedStrong, of: Students, noise: Array) -> tuple[Score, Score]:
    """Expected student error and prediction gap over random labels: no labels are used.

    Labels are `h_s^T theta`, of mean square 1, plus noise of variance `noise`. With the students' map Q and that of the
    ceiling, R, and `G G^T` the prior, `||(S_s^C)^{1/2} (Q - 1) G||_F^2` is the error and `||(S_s^C)^{1/2} (Q - R) G||_F^2` the
    gap, each plus the response to the noise that the weak heads pick up. Errors are in units of the labels' mean square.
    """
    away = lambda x: matmul(jnp.sum(jnp.square(of.taught - x), 1), strong.prior) + noise * of.response
    return over_blocks(away(strong.target)), over_blocks(away(strong.ceiling))


def posterior_errors(strong: ExpectedStrong, of: Students, posterior: LabelPosterior) -> Array:
    """Expected student errors by fold (K,) given some labels (theory/posterior.py), in squared label units and against labels
    with their noise. `posterior` is in the strong moment's eigenbasis."""
    away = of.taught - strong.target
    error = jnp.sum(matmul(away, posterior.second) * away, (1, 2)) + posterior.noise * of.response
    if of.shared is not None:
        error += posterior.shared * of.shared
    return error + posterior.noise


def drawn_errors(strong: ExpectedStrong, of: Students, draws: LabelDraws) -> tuple[Array, Array]:
    """The same for each draw of labels (draws,), the mean over folds; and what students miss of them."""
    missed = missed_of(strong, of, draws.theta)
    error = jnp.mean(jnp.sum(jnp.square(missed), (1, 3)), 0) + draws.noise * (1 + jnp.mean(of.response))
    return error if of.shared is None else error + draws.shared * jnp.mean(of.shared), missed


def missed_of(strong: ExpectedStrong, of: Students, theta: Array) -> Array:
    """What students miss of targets theta (d_s, draws, c): (K, k, draws, c), whose squares make up the error but for noise."""
    away = of.taught - strong.target
    return matmul(away, theta.reshape(len(theta), -1)).reshape(*away.shape[:2], *theta.shape[1:])


@jax.jit
def prior_draws(prior: Array) -> Array:
    """Targets (d_s, draws, 1) whose mean square is the prior's variances (d_s,): one along each direction, of more than
    DIRECTIONS so many random ones."""
    d = len(prior)
    chosen = np.sqrt(d) * np.eye(d) if d <= DIRECTIONS else np.random.default_rng(0).standard_normal((d, DIRECTIONS))
    return (jnp.sqrt(prior)[:, None] * chosen.astype(prior.dtype))[..., None]


def over_blocks(estimates: Array) -> Score:
    """Mean of one estimate per block, and its standard error."""
    return Score(jnp.mean(estimates), jnp.std(estimates, ddof=1) / jnp.sqrt(estimates.shape[0]))
