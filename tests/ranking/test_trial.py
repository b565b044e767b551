"""What the posterior foresees of the trial, against the experiment as one linear map of labels, carried out on rows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import relative_error

from w2s_jax.moments import Sums
from w2s_jax.ranking import rank
from w2s_jax.ranking.crossfit import ExpectedStrong, Students, WeakCells, WeakHeads, student_inverses, weak_heads
from w2s_jax.ranking.folds import Experiments, Layout, lay_out
from w2s_jax.ranking.predicted import Scored, predict
from w2s_jax.ranking.related import GroupSums
from w2s_jax.ranking.scores import Labelled, _over_few_draws
from w2s_jax.ranking.trial import Foresight, foreseen, trial
from w2s_jax.theory.label_fits import LabelDraws, LabelPosterior

N, WEAK, STRONG, DRAWS, OUTPUTS = 60, 5, 8, 3, 2
WEAK_RIDGE, STRONG_RIDGE = 0.05, 0.02
NOISE, SHARED = 0.7, 0.4
FOUR = np.repeat(np.arange(N // 4), 4)  # groups of four rows


def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Representations that are not centred, and targets (d_s, draws, c)."""
    rng = np.random.default_rng(0)
    s = rng.standard_normal((N, STRONG)) / np.arange(1, STRONG + 1) + 0.3
    return s[:, :WEAK] + 0.5 * rng.standard_normal((N, WEAK)), s, rng.standard_normal((STRONG, DRAWS, OUTPUTS))


def by_cell(layout: Layout, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.stack([x[layout.cell == cell].T @ y[layout.cell == cell] for cell in range(layout.cells)])


def cells_of(layout: Layout) -> tuple[Sums, Sums, np.ndarray, Experiments]:
    h, s, _ = rows()
    n, one = np.bincount(layout.cell, minlength=layout.cells).astype(float), np.ones((N, 1))
    own, strong = (Sums(n, by_cell(layout, x, one)[..., 0], by_cell(layout, x, x)) for x in (h, s))
    return own, strong, by_cell(layout, s, h), layout.experiments(float)


def label_sums(layout: Layout, x: np.ndarray, y: jax.Array) -> dict[str, jax.Array]:
    """What labels (N, c) add to the sums of rows x."""
    member = jnp.asarray(layout.cell == np.arange(layout.cells)[:, None], float)
    return {"y": member @ y, "hy": jnp.einsum("jn,nd,nc->jdc", member, x, y), "yy": member @ y**2}


def heads_of(own: Sums, strong: Sums, experiments: Experiments) -> tuple[WeakHeads, jax.Array]:
    heads = weak_heads(own, experiments.weak.sets, jnp.asarray(WEAK_RIDGE))
    return heads, student_inverses(strong, experiments.students.sets, jnp.asarray(STRONG_RIDGE))


def got(layout: Layout, bias: bool, groups: np.ndarray | None) -> np.ndarray:
    """Probes are the axes, so that traces are exact."""
    h, _, theta = rows()
    related = None
    if groups is not None:
        of_fold = layout.cell % layout.folds == np.arange(layout.folds)[:, None]
        member = groups == np.unique(groups)[:, None]
        places = of_fold[:, None] & member[None] & (layout.cell >= layout.cells - layout.folds)  # labelled ones
        related = GroupSums(jnp.asarray(places.sum(2, dtype=float)), jnp.asarray(places @ h))
    own, strong, cross, experiments = jax.tree.map(jnp.asarray, cells_of(layout))
    heads, inverses = heads_of(own, strong, experiments)
    weak = WeakCells(own, cross, None, related)
    of = Foresight(jnp.asarray(theta), jnp.asarray(NOISE), jnp.asarray(SHARED), *(STRONG**0.5 * jnp.eye(STRONG),) * 2)
    return np.asarray(foreseen(inverses, strong, weak, heads, experiments, bias, of))


def by_rows(layout: Layout, bias: bool, groups: np.ndarray | None) -> np.ndarray:
    """Of labels y on A the student says `P y` on C, with a bias `P (y - mean) + mean`; noise is of C's own rows, and of A's."""
    h, s, theta = rows()
    target = theta.reshape(STRONG, -1)

    def one(A: np.ndarray, B: np.ndarray, C: np.ndarray) -> float:
        m = A.sum()
        head = np.linalg.solve(h[A].T @ h[A] / m + WEAK_RIDGE * np.eye(WEAK), h[A].T / m)
        inverse = np.linalg.inv(s[B].T @ s[B] / B.sum() + STRONG_RIDGE * np.eye(STRONG))
        P = s[C] @ inverse @ (s[B].T @ h[B] / B.sum()) @ head
        said = P + bias * (1 - P.sum(1, keepdims=True)) / m
        signal = np.sum(np.square(said @ s[A] @ target - s[C] @ target)) / DRAWS
        value = signal / C.sum() + NOISE * (1 + np.sum(said**2) / C.sum())
        if groups is None:
            return value
        alike = groups[A][:, None] == groups[A]
        return value + SHARED * np.trace(P @ (alike / alike.sum(1)) @ P.T) / C.sum()

    assert layout.trial is not None
    roles = (np.asarray(role)[..., layout.cell] > 0 for role in layout.trial)
    return np.array([np.mean([one(*of) for of in zip(*fold, strict=True)]) for fold in zip(*roles, strict=True)])


@pytest.mark.parametrize("groups", [None, FOUR], ids=["unrelated", "related"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("known", [np.full(N, True), np.arange(N) % 2 == 0], ids=["all", "some"])
def test_the_trial_that_is_foreseen(x64, known, bias, groups):
    """Means over draws and noise of what the heads on those rows make of such labels."""
    layout = lay_out(N, 4, known, groups, 0)
    assert relative_error(got(layout, bias, groups), by_rows(layout, bias, groups)) <= 1e-10


def test_trials_of_drawn_labels_are_as_foreseen(x64):
    """The mean error of the trial itself over labels of these draws with noise, on half of the rows."""
    h, s, theta = rows()
    layout = lay_out(N, 4, np.arange(N) % 2 == 0, None, 0)
    rng, count = np.random.default_rng(1), 300
    own, strong, cross, experiments = jax.tree.map(jnp.asarray, cells_of(layout))
    heads, inverses = heads_of(own, strong, experiments)

    def errors(y: jax.Array) -> jax.Array:
        with_labels = lambda sums, x: sums._replace(**label_sums(layout, x, y))
        weak = WeakCells(with_labels(own, h), cross)
        return trial(inverses, with_labels(strong, s), weak, heads, experiments, True)[0]

    noise = rng.standard_normal((count, DRAWS, N, OUTPUTS)) * (NOISE / OUTPUTS) ** 0.5
    drawn = np.einsum("nd,dkc->knc", s, theta) + noise
    found = jax.jit(jax.vmap(jax.vmap(errors)))(drawn)
    assert relative_error(np.mean(found, (0, 1)), got(layout, True, None)) <= 0.02


@pytest.mark.parametrize(("theta", "factor"), [([1, 1, 3, 5], 4), ([0, 0, 3, 5], 1)])
def test_few_draws_stand_for_all(theta, factor):
    """By what is expected of students, 4 here, over what few draws say, 1; where those say nothing there is no factor."""
    draws = jnp.asarray(theta, jnp.float32).reshape(1, 4, 1)
    none, one = jnp.zeros(1), jnp.ones((1, 1, 1))
    posterior = LabelPosterior(4 * one[0], *(none[0],) * 4)
    nothing: Any = (None,) * 3
    of_all = LabelDraws(draws, jnp.zeros(4), jnp.zeros(4))
    known = Labelled(*nothing, posterior, of_all, Foresight(draws[:, :2], none[0], none[0], one[0], one[0]))
    students = Students(0 * one, none, None)
    assert float(_over_few_draws(ExpectedStrong(one, one, one, none), students, known)) == factor


def test_a_plan_is_not_what_is_foreseen(monkeypatch):
    """The trial is of the rows at hand, and so is that."""
    h, s, theta = rows()
    y = s @ theta[:, 0] + 0.3 * np.random.default_rng(1).standard_normal((N, OUTPUTS))
    known = np.arange(N) % 2 == 0
    at_hand, planned = (
        evidence(monkeypatch, {"w": h}, s, y, labelled_rows=known, n_labelled=n)["strong", "w"].evidence
        for n in (None, 9)
    )
    assert relative_error(planned.foreseen, at_hand.foreseen) <= 1e-5
    assert relative_error(planned.posterior, at_hand.posterior) > 0.01


def evidence(monkeypatch, weak: dict, strong: np.ndarray, y: np.ndarray, **settings) -> dict[tuple[str, str], Scored]:
    """Of all pairs of a ranking."""
    kept: dict[tuple[str, str], Scored] = {}
    monkeypatch.setattr(rank, "predict", lambda pairs: kept.update(pairs) or predict(pairs))
    rank.rank_supervisors(weak, strong, y, normalize="none", weak_ridge=1e-2, strong_ridge=1e-2, **settings)
    return kept
