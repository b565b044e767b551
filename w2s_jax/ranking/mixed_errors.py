"""What students of mixtures of teachers err by: matrices G (teachers, teachers) with the error `w^T G w` at weights w of sum 1.

A ridge student is linear in its labels: what it errs by when it learns from a weighted mean of pseudo-labels is that mean of what
it errs by with each teacher. So G holds mean products of what students err by: those of the trial, or those of labels drawn from
the posterior or the prior.

The misfit bounds that error (Charikar et al. 2024). The student s with kernel theta minimises `|f - s|^2 + b |theta|^2` over rows
that are labelled with f, and a target s* with kernel theta* would make it larger by `|s* - s|^2 + b |theta* - theta|^2`. So

    |s - s*|^2 <= |f - s*|^2 - |f - s|^2 - b |theta|^2 + b |theta*|^2

the teacher's error less the misfit, and at no penalty the theorem's bound. The last term is the same for all mixtures and not
known. The rest is a difference of two quadratic forms of the weights, but f's own drops out: `|f|^2 - |f - s|^2 - b |theta|^2` is
`theta^T (S + b) theta`, S being the second moment of the student's rows. So what is made least is

    theta(w)^T (S + b) theta(w) - 2 <f(w), y> + |y|^2

which is convex. The first term is of the student's rows, labels are those of test rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from w2s_jax.moments import Sums
from w2s_jax.ranking.crossfit import Settings
from w2s_jax.ranking.folds import Layout
from w2s_jax.ranking.predicted import Prediction
from w2s_jax.ranking.scores import Shared, Taught


class StrongSide(NamedTuple):
    """What the strong model adds: its cells' sums, the student's ridge, and the energies of drawn labels' noise, of what groups
    have in common, and of what no student can tell: noise of the labels that it is tested on."""

    cells: Sums
    ridge: float
    noise: float
    shared: float
    untold: float

    @classmethod
    def of(cls, shared: Shared, settings: Settings) -> StrongSide:
        """Of what its pairs share, as NumPy arrays; random labels are tested on without their noise."""
        cells, ridge = jax.device_get(shared.cells), float(settings.strong_ridge)
        if shared.prior_draws is not None:
            return cls(cells, ridge, float(settings.noise), 0.0, 0.0)
        assert shared.labelled is not None
        draws = shared.labelled.draws
        noise = float(draws.noise.mean())
        return cls(cells, ridge, noise, float(draws.shared.mean()), noise)


def drawn_products(of: Taught, strong: StrongSide) -> np.ndarray:
    """Of labels drawn from the posterior or the prior. What noise adds is taken to be common to all teachers: the most that it
    can add to a mixture."""
    teachers, folds, _, draws, _ = of.missed.shape
    missed = of.missed.astype(float).reshape(teachers, -1)
    total = missed @ missed.T / (folds * draws) + strong.untold
    for energy, response in ((strong.noise, of.response), (strong.shared, of.shared)):
        if response is not None:
            root = np.sqrt(np.maximum(np.asarray(response, float), 0))
            total += energy * root @ root.T / folds
    return total


def trial_products(of: Taught, strong: StrongSide, layout: Layout, bias: bool) -> np.ndarray:
    """Of the trial's students, on its test rows."""
    total = np.zeros((len(of.kernels),) * 2)
    for run in _runs(of, strong.cells, layout, bias):
        seen = (run.test @ run.kernels).reshape(len(total), -1)
        flat = run.kernels.reshape(len(total), -1)
        right = flat @ run.labels.reshape(-1)
        total += (seen @ flat.T - right[:, None] - right + run.energy) / run.runs
    return total


def misfit_products(of: Taught, strong: StrongSide, layout: Layout, bias: bool) -> np.ndarray:
    """Of the bound that the trial's misfits give, but for what is common to all mixtures; positive along differences of weights,
    as a bound it may be negative."""
    total = np.zeros((len(of.kernels),) * 2)
    for run in _runs(of, strong.cells, layout, bias):
        flat = run.kernels.reshape(len(total), -1)
        learnt = (run.student @ run.kernels).reshape(len(total), -1) + strong.ridge * flat
        total += (learnt @ flat.T - run.agreed[:, None] - run.agreed + run.energy) / run.runs
    return (total + total.T) / 2


def predicted_products(said: Prediction, posterior: np.ndarray, trial: np.ndarray) -> np.ndarray:
    """Correlations by what posterior and trial say, the trial's by its weight in the order; squares are the predicted errors."""
    alike = (1 - said.weight) * scaled(posterior, 1.0) + said.weight * scaled(trial, 1.0)
    return scaled(alike, said.value)


def scaled(products: np.ndarray, errors: np.ndarray | float) -> np.ndarray:
    """Products whose squares become these errors, one for each teacher or for all."""
    size = np.sqrt(errors / np.maximum(np.diag(products), np.finfo(float).tiny))
    return products * np.multiply.outer(size, size)


class _TrialRun(NamedTuple):
    """One experiment of so many `runs`: second moments of test and student's rows, the test rows' products with labels and their
    energy (), the kernels (teachers, d_s, c), and the teachers' products with labels (teachers,)."""

    runs: int
    test: np.ndarray
    student: np.ndarray
    labels: np.ndarray
    energy: float
    kernels: np.ndarray
    agreed: np.ndarray


def _runs(of: Taught, cells: Sums, layout: Layout, bias: bool) -> Iterator[_TrialRun]:
    """The trial's experiments, from sums of the strong model's cells."""
    n, h, hh, y, hy, yy = (np.asarray(x, float) for x in (cells.n, cells.h, cells.hh, cells.y, cells.hy, cells.yy))
    roles = layout.trial
    assert roles is not None
    experiments = list(np.ndindex(*roles.test.shape[:2]))
    for at in experiments:
        tested, taught = (role[at] / (role[at] @ n) for role in (roles.test, roles.student))
        S, about, c, mean_y = (np.tensordot(tested, x, 1) for x in (hh, h, hy, y))
        mean = roles.labelled[at] @ y / (roles.labelled[at] @ n) * bias  # what heads take labels about
        energy = float(np.sum(tested @ yy - 2 * mean * mean_y + mean * mean))
        kernels, agreed = (np.asarray(x, float)[(slice(None), *at)] for x in (of.kernels, of.agreed))
        moment = np.tensordot(taught, hh, 1)
        yield _TrialRun(len(experiments), S, moment, c - np.outer(about, mean), energy, kernels, agreed)
