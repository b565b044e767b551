"""The trial: the weak-to-strong experiment on labels that are known, from second moments per cell of rows as in crossfit.py; and
what the posterior expects of that very experiment."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from w2s_jax._core.arrays import matmul, outer
from w2s_jax.heads.from_moments import mean_square, parts, ridge_heads
from w2s_jax.moments import Moments, Shift, Sums, moved
from w2s_jax.ranking.crossfit import WeakCells, WeakHeads
from w2s_jax.ranking.folds import Experiments, Roles
from w2s_jax.ranking.prepared import pool
from w2s_jax.theory.label_fits import Chance, LabelDraws

COLUMNS = 64  # of targets, and of probes, that stand for all


class Foresight(NamedTuple):
    """Of labels drawn from the posterior what the trial is foreseen by: theta (d_s, draws, c) of the first draws, the mean
    energies of their noise and of what of it groups share, and probes: vectors (d_s, k) and their counterparts, the mean of whose
    products is the identity."""

    theta: Any
    noise: Any
    shared: Any
    probes: Any
    counterparts: Any

    @classmethod
    def of(cls, draws: LabelDraws, chance: Chance, signs: Array, energies: Array) -> Foresight:
        """`signs` (d_s,): of directions, as those of `LabelAverage`, whatever an eigenvector's own; `energies` (d_s,): about what
        probes meet along each, by which they are even."""
        few = max(8, COLUMNS // draws.theta.shape[2])
        normal = signs[:, None] * jnp.asarray(chance.noise).reshape(len(signs), -1)[:, :COLUMNS]
        size = jnp.sqrt(jnp.where(energies > 0, energies, 1))[:, None]
        energy = jnp.mean(draws.noise[:few]), jnp.mean(draws.shared[:few])
        return cls(draws.theta[:, :few], *energy, normal * size, normal / size)


def trial(
    inverses: Array, strong: Sums, weak: WeakCells, heads: WeakHeads, experiments: Experiments, bias: bool
) -> tuple[Array, Array, Array]:
    """Mean squared errors of the real experiment (heads/from_moments.py) by fold (K,), summed over outputs, the students' kernels
    (K, experiments, d_s, c), and the teachers' mean products with the test rows' labels (K, experiments).

    `inverses`: `student_inverses` of the experiments' sets, `heads`: on those of the weak ones. With a bias labels are taken
    about their mean on A.
    """

    def one(roles: Roles, head: Array, student: Array) -> tuple[Array, Array, Array]:
        mean = pool(roles.labelled, strong.y, strong.n) * bias
        labelled, taught, tested = (_pooled(role, strong, weak, mean) for role in roles)
        found = ridge_heads(labelled.weak, taught, partial(matmul, head), partial(matmul, student))
        agreed = jnp.sum(parts(found.weak)[0] * jnp.asarray(tested.weak.hy))
        return mean_square(tested, strong=found.student, y=-1.0), parts(found.student)[0], agreed

    errors, kernels, agreed = _each(one, inverses, heads, experiments)
    return errors.mean(1), kernels, agreed


def foreseen(
    inverses: Array,
    strong: Sums,
    weak: WeakCells,
    heads: WeakHeads,
    experiments: Experiments,
    bias: bool,
    of: Foresight,
) -> Array:
    """What the posterior expects of the trial's errors by fold (K,), on the very rows and with the same heads.

    A draw theta is learned as `theta + missed`; labels about their mean on A add what theta and the noise have in that mean, but
    not what groups of related rows have in common. The response to noise of covariance V in the weak head's kernel is
    `tr S^C K V K^T`, K what the student makes of such kernels, by random probes.
    """
    target = of.theta.reshape(len(of.theta), -1)  # (d_s, draws c)
    related = None if weak.labelled is None else weak.labelled.of_means

    def one(roles: Roles, head: Array, student: Array) -> Array:
        pooled = lambda role, sums: pool(role, sums, strong.n)
        rows, taught = matmul(roles.labelled, strong.n), pooled(roles.student, weak.cross)
        h, s = (pooled(roles.labelled, sums) * bias for sums in (weak.own.h, strong.h))
        mean, test = matmul(s, target), pooled(roles.test, strong.hh)
        kernel = matmul(head, matmul(pooled(roles.labelled, weak.cross).T, target) - outer(h, mean))
        missed = matmul(student, matmul(taught, kernel)) - target
        error = jnp.sum(missed * matmul(test, missed))
        error += jnp.sum((2 * matmul(pooled(roles.test, strong.h), missed) + mean) * mean)
        both = jnp.concatenate([of.probes, matmul(test, of.counterparts)], 1)
        probed, tested = jnp.split(matmul(head, matmul(taught.T, matmul(student, both))), 2, 1)
        respond = lambda covariance: jnp.sum(probed * matmul(covariance, tested)) / of.probes.shape[1] / rows
        response = respond(pooled(roles.labelled, weak.own.hh) - outer(h, h)) + bias / rows
        error = error / of.theta.shape[1] + of.noise * (1 + response)
        if related is None:
            return error
        of_fold = jnp.sum(roles.labelled.reshape(-1, len(related)), 0) / rows
        return error + of.shared * respond(jnp.tensordot(of_fold, related, 1, precision="highest"))

    return _each(one, inverses, heads, experiments).mean(1)


def _each(one: Callable, inverses: Array, heads: WeakHeads, experiments: Experiments) -> Any:
    """What `one` makes of the roles of a fold's experiments and the inverses of both heads, (K, experiments)."""
    roles, heads_of, students_of = experiments.trial, experiments.weak.trial, experiments.students.trial
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (roles, heads_of, students_of))
    found = jax.lax.map(lambda of: one(of[0], heads.inverse[of[1]], inverses[of[2]]), flat)
    return jax.tree.map(lambda x: x.reshape(*heads_of.shape, *x.shape[1:]), found)


def _pooled(role: Array, strong: Sums, weak: WeakCells, mean: Array) -> Moments:
    """Moments of the rows of a role's cells, labels about `mean` (c,); what is not used of them costs nothing under jit."""
    sums = jax.tree.map(lambda x: pool(role, x, strong.n), (weak.own, strong, weak.cross))
    own, of_strong, cross = sums
    return Moments.of((moved(own, Shift(None, mean)), moved(of_strong, Shift(None, mean)), cross), None)
