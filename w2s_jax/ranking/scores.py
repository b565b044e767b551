"""All scores of weak models with one strong model, from second moments per cell of rows: one program for each width.

`prepare_strong` computes once what all weak models share: the strong model's moments in its eigenbasis, its spectrum and
solves. A `scorer` takes the sums of a batch of weak models to their scores: the expected experiment (crossfit.py) and the trial
(trial.py), and norms, predicted gap and CKA with their standard errors (insample.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from w2s_jax._core.arrays import matmul
from w2s_jax._core.cpu import outermost
from w2s_jax._core.normalize import Normalize
from w2s_jax.devices.mesh import over_models
from w2s_jax.filters import ridge
from w2s_jax.moments import Moments, Shift, Sums, moved
from w2s_jax.overlap import overlap_of_prepared
from w2s_jax.predictors import PairView, Predictor
from w2s_jax.ranking import crossfit, insample, norms, planned, trial
from w2s_jax.ranking.crossfit import Score, Settings, WeakCells
from w2s_jax.ranking.folds import Experiments
from w2s_jax.ranking.insample import PairMoments, StrongBlocks
from w2s_jax.ranking.prepared import Origin, about, cross_about, pool, prepare, prepared
from w2s_jax.ranking.related import GroupSums, of_means, prepared_groups
from w2s_jax.ranking.trial import Foresight
from w2s_jax.spectrum import Spectrum, spectrum
from w2s_jax.theory.label_fits import (
    CORRELATIONS,
    PRIORS,
    SHARES,
    Chance,
    LabelAverage,
    LabelDraws,
    LabelPosterior,
    LabelSums,
    average_of_sums,
    grid_of,
)


class Shared(NamedTuple):
    """What is computed once per strong model: its cells in the eigenbasis `rotation`, eigenvalues, ridge solves, blocks of all
    rows and of all rows about their means, what the labelled rows add, and what stands for planned rows, if there are any."""

    rotation: Array
    cells: Sums
    values: Array
    expected: crossfit.ExpectedStrong
    blocks: StrongBlocks
    centred: StrongBlocks
    norms: norms.RidgeNorms
    labelled: Labelled | None
    plan: planned.StrongPlan | None
    label_mean: Array | None = None  # what labels were taken about (c,), if they were
    prior_draws: Array | None = None  # random labels' targets (d_s, draws, 1), for mixtures of the expected experiment


class Labelled(NamedTuple):
    """The labelled rows' blocks, in the eigenbasis `basis` (with a cut), and the ridge inverses of students, the last that of all
    labelled rows; what those say of all labels, labels drawn from that, and those that the trial is foreseen by."""

    blocks: StrongBlocks
    basis: Array
    inverses: Array
    posterior: LabelPosterior
    draws: LabelDraws
    foresight: Foresight


@partial(outermost, static_argnames=("folds", "normalize", "cut", "test_rows"))
def prepare_strong(
    sums: Sums,
    origin: Origin,
    experiments: Experiments,
    settings: Settings,
    related: GroupSums | None,
    chance: Chance | None,
    folds: int,
    normalize: Normalize,
    cut: bool,
    test_rows: int,
) -> tuple[Array, Shared]:
    """What rows about their shift are taken about (d_s,) before they are rotated, and what weak models share, from sums per cell.

    `related`: those of groups of labelled rows, if they count; `chance`: what labels are drawn with, where there are labels;
    `test_rows`: the most rows that test together.
    """
    n, total, every_cell = sums.n, jnp.sum(sums.n), jnp.ones_like(sums.n)
    of, centred_sums = prepare(sums, origin, every_cell, normalize)
    sums = prepared(centred_sums, of, normalize)
    eigen = spectrum(pool(every_cell, sums.hh, n), total)
    rotate = lambda x: matmul(x, eigen.vectors)
    zz = jax.vmap(lambda s: matmul(rotate(s).T, eigen.vectors))(sums.hh)
    zy = None if sums.hy is None else jax.vmap(lambda s: matmul(eigen.vectors.T, s))(sums.hy)
    cells: Sums = sums._replace(h=rotate(sums.h), hh=zz, hy=zy)
    taught = experiments.students.sets
    if experiments.trial is not None:  # the last is the ceiling of all labelled rows
        every_labelled = jnp.sum(_members(len(n), folds, with_labels=True), 0, dtype=taught.dtype)
        taught = jnp.concatenate([taught, every_labelled[None]])
    inverses = crossfit.student_inverses(cells, taught, settings.strong_ridge)
    expected = crossfit.prepare_expected(cells, eigen.values, inverses, experiments, settings, test_rows)
    every = _members(len(n), folds, with_labels=False)
    blocks = insample.strong_blocks(zz, n, every, normalize == "scale", eigen.values)
    centred = blocks
    if normalize == "none":
        unit = about(cells, _mean(cells)).hh / _mean_square(cells)
        centred = insample.strong_blocks(unit, n, every, False)
    of_norms = norms.prepare_norms(blocks, settings)
    rotation = of.factor[:, None] * eigen.vectors
    plan = planned.prepare_plan(cells, expected, experiments.expected, settings)
    labelled = None
    if experiments.trial is not None and chance is not None:
        average = _label_average(eigen, cells, related and prepared_groups(related, of), folds)
        draws = average.draws(chance)
        foresight = Foresight.of(draws, chance, average.signs, eigen.values + settings.strong_ridge)
        said = average.posterior(), draws, foresight
        labelled = Labelled(*_labelled_blocks(cells, folds, normalize, cut), inverses, *said)
    shared = Shared(rotation, cells, eigen.values, expected, blocks, centred, of_norms, labelled, plan)
    return of.mean - of.origin, shared


def _labelled_blocks(cells: Sums, folds: int, normalize: Normalize, cut: bool) -> tuple[StrongBlocks, Array]:
    members = _members(len(cells.n), folds, with_labels=True)
    # Where only some rows have labels they did not set the scale, and it does not move with their weights.
    unit_trace = normalize == "scale" and len(cells.n) == folds
    blocks = insample.strong_blocks(cells.hh, cells.n, members, unit_trace)
    if not cut:
        return blocks, jnp.zeros((0, 0), cells.hh.dtype)
    basis = spectrum(blocks.pooled, jnp.sum(cells.n)).vectors
    rotated = jax.vmap(lambda s: matmul(matmul(basis.T, s), basis))(cells.hh)
    return insample.strong_blocks(rotated, cells.n, members, unit_trace), basis


def _label_average(eigen: Spectrum, cells: Sums, related: GroupSums | None, folds: int) -> LabelAverage:
    """What the labels of labelled rows, in the strong moment's eigenbasis, say of all rows' (theory/posterior.py)."""
    with_labels = jnp.sum(_members(len(cells.n), folds, with_labels=True), 0, dtype=cells.hh.dtype)
    add = lambda x: jnp.tensordot(with_labels, x, 1, precision="highest")
    own = LabelSums(*(add(x) for x in (cells.n, cells.hh, cells.hy, cells.yy)))
    if related is None:
        return average_of_sums(eigen, own, None, grid_of(PRIORS, SHARES, (0.0,), cells.hh.dtype))
    z, n, y = matmul(related.h, eigen.vectors), related.n, jnp.asarray(related.y)
    hh, hy = (jnp.sum(of_means(z, x, n), 0) for x in (z, y))
    of_groups = LabelSums(jnp.sum(n > 0), hh, hy, jnp.sum(y * y / jnp.maximum(n, 1)[..., None], (0, 1)))
    return average_of_sums(eigen, own, of_groups, grid_of(PRIORS, SHARES, CORRELATIONS, cells.hh.dtype))


def _members(cells: int, folds: int, with_labels: bool) -> Array:
    """Which cells are a fold (K, J), or the labelled part of one: unlabelled cells come first where there are both kinds."""
    eye = jnp.eye(folds)
    if cells == folds:
        return eye
    return jnp.concatenate([jnp.zeros_like(eye) if with_labels else eye, eye], 1)


class Size(NamedTuple):
    """The variance of a weak model's live features, in how many directions it is, `(sum lambda)^2 / sum lambda^2`, and where rows
    are planned whether a fold's are too few to tell of them."""

    variance: Array
    directions: Array
    short: Array | None = None


class Evidence(NamedTuple):
    """What labels say of a pair's student: the posterior's errors by fold (K,) and by draw (draws,), the trial's by fold (K,) and
    what the posterior foresaw of those; for mixtures of teachers also the student itself."""

    posterior: Any
    drawn: Any
    trial: Any
    foreseen: Any
    student: Any = None


Labels = Literal["given", "random"]


class Taught(NamedTuple):
    """A pair's student, of the given labels or of random ones: by fold and draw of labels what it misses of them
    (K, k, draws, c), and its response to noise of variance 1, to each row's own and to what groups share, (K,) each; in the trial
    its kernels (K, experiments, d_s, c) and the teacher's mean products with labels of the test's rows (K, experiments)."""

    missed: Any
    response: Any
    shared: Any = None
    kernels: Any = None
    agreed: Any = None


class Scorer(NamedTuple):
    """Sizes, scores and evidence of a batch of models, from their sums: a program for each width, and without a cut the search
    for the largest eigenvalue, the same for all widths, and one for each width that makes the norm of it."""

    score: Callable
    largest: Callable
    finish: Callable

    def __call__(
        self, batch: tuple[WeakCells, Origin], shared: Shared, experiments: Experiments, settings: Settings
    ) -> tuple[Size, dict[str, Score], Evidence | None]:
        size, scores, evidence, rest = self.score(*batch, shared, experiments, settings)
        if rest is not None:
            scores["gap_op"] = self.finish(rest, self.largest(rest.parts.K, shared), settings)
        return size, scores, evidence


@lru_cache
def scorer(
    folds: int, normalize: Normalize, cut: bool, predictors: tuple[Predictor, ...], taught: Labels | None
) -> Scorer:
    """The programs of one set of choices; for mixtures the evidence has students that such labels have `taught`."""

    @outermost
    def score(sums: WeakCells, origins: Origin, shared: Shared, experiments: Experiments, settings: Settings) -> tuple:
        choices = {"folds": folds, "normalize": normalize, "cut": cut, "predictors": predictors, "taught": taught}
        one = partial(_score_one, **choices)
        # Eigensolves before all else: on a CPU they and the products that they share the cores with take twice as long.
        of_model = lambda model: _weak_spectra(model[0], model[1], shared, folds, normalize)
        eigen = over_models(of_model, (sums, origins)) if cut else ()
        of_model = lambda model: one(model[0], model[1], model[2], shared, experiments, settings)
        return over_models(of_model, (sums, origins, eigen))

    @outermost
    def largest(K: Array, shared: Shared) -> norms.LeadingValue:
        return over_models(lambda K: norms.top_of(shared.norms, shared.blocks, K), K)

    @outermost
    def finish(rest: norms.Unfinished, top: norms.LeadingValue, settings: Settings) -> Score:
        return over_models(
            lambda model: norms.operator(model[0].parts, model[0].blocks, model[1], settings), (rest, top)
        )

    return Scorer(score, largest, finish)


def _weak_spectra(
    sums: WeakCells, origin: Origin, shared: Shared, folds: int, normalize: Normalize
) -> tuple[Spectrum, ...]:
    """Of the weak model's moment over all rows, and over the labelled ones if there are others."""
    weak, _, _ = _prepared(sums, origin, shared.cells, normalize)
    blocks = [shared.blocks]
    if shared.labelled is not None and len(shared.cells.n) > folds:
        blocks.append(shared.labelled.blocks)
    return tuple(spectrum(insample.pooled_moment(b, weak.own.hh), jnp.sum(shared.cells.n)) for b in blocks)


def _score_one(
    sums: WeakCells,
    origin: Origin,
    eigen: tuple[Spectrum, ...],
    shared: Shared,
    experiments: Experiments,
    settings: Settings,
    folds: int,
    normalize: Normalize,
    cut: bool,
    predictors: tuple[Predictor, ...],
    taught: Labels | None,
) -> tuple[Size, dict[str, Score], Evidence | None, norms.Unfinished | None]:
    """The size of a model, its scores, what they rest on, and without a cut what the operator norm is made of."""
    cells = shared.cells
    weak, centred, size = _prepared(sums, origin, cells, normalize)
    blocks = insample.blocks_of(shared.blocks, PairMoments(weak.own.hh, weak.cross, None), normalize == "scale")
    scores, evidence, rest = {}, None, None
    fits = [experiments.weak.sets]
    if not cut:  # heads of all rows and, the last, of all labelled ones
        fits.append(jnp.ones((1, len(cells.n)), cells.n.dtype))
        if shared.labelled is not None and len(cells.n) > folds:
            fits.append(jnp.sum(_members(len(cells.n), folds, with_labels=True), 0)[None])
    heads = crossfit.weak_heads(weak.own, jnp.concatenate(fits), settings.weak_ridge)
    crossfitted: Any = crossfit if shared.plan is None else planned
    students: Any
    if shared.plan is None:
        students = crossfit.students(shared.expected, weak, heads, experiments.expected)
    else:
        asked = shared.expected, shared.plan, weak, experiments.expected, settings
        students = planned.students(*asked, labels=shared.labelled is not None)
    scores["expected_error"], scores["expected_gap"] = crossfitted.expected_errors(
        shared.expected, students, settings.noise
    )
    if cut:
        scores["gap_op"], scores["gap_fro"] = insample.norms_by_spectrum(blocks, eigen[0], settings)
    else:
        parts = norms.solved(blocks.pooled, heads.inverse[len(experiments.weak.sets)], settings)
        scores["gap_fro"] = norms.frobenius(shared.norms, blocks, parts, settings)
        rest = norms.Unfinished(parts, blocks._replace(moments=blocks.moments._replace(zz=None)))
    if normalize == "none":
        # CKA is the same at any scale, its squares are not.
        root_w, root_s = jnp.sqrt(jnp.where(size > 0, size, 1)), jnp.sqrt(_mean_square(cells))
        zh = cross_about(centred.cross, cells, centred.own, _mean(cells), None)
        unit = PairMoments(centred.own.hh / root_w / root_w, zh / root_w / root_s, None)
        blocks = insample.blocks_of(shared.centred, unit, False)
    scores["cka"] = insample.linear_cka(blocks)
    student = None
    if taught == "random" and shared.prior_draws is not None:
        student = Taught(crossfit.missed_of(shared.expected, students, shared.prior_draws), students.response)
        evidence = Evidence(None, None, None, None, student)
    if (known := shared.labelled) is not None:
        of_experiments = known.inverses, cells, weak, heads, experiments, normalize != "none"
        tried, *of_trial = trial.trial(*of_experiments)
        drawn, missed = crossfitted.drawn_errors(shared.expected, students, known.draws)
        posterior = crossfitted.posterior_errors(shared.expected, students, known.posterior)
        if taught == "given":
            student = Taught(missed, students.response, students.shared, *of_trial)
        at_hand = students
        if shared.plan is not None:
            at_hand = crossfit.students(shared.expected, weak, heads, experiments.expected)
        foreseen = trial.foreseen(*of_experiments, known.foresight) * _over_few_draws(shared.expected, at_hand, known)
        evidence = Evidence(posterior, drawn, tried, foreseen, student)
        scores["posterior_error"] = crossfit.over_blocks(evidence.posterior)
        scores["trial_error"] = crossfit.over_blocks(evidence.trial)
        of_labelled = eigen[-1] if cut else heads.inverse[-1]
        scores["predicted_gap"] = _predicted_gap(weak, cells, folds, known, settings, normalize, of_labelled)
    scores |= _predicted(predictors, weak, shared, folds, settings, normalize)
    S = insample.pooled_moment(shared.blocks, weak.own.hh)
    short = None if shared.plan is None else students.short
    S = S / jnp.where(jnp.trace(S) > 0, jnp.trace(S), 1)  # whose squares neither overflow nor vanish
    return Size(size, 1 / jnp.sum(jnp.square(S)), short), scores, evidence, rest


def _over_few_draws(strong: crossfit.ExpectedStrong, students: crossfit.Students, known: Labelled) -> Array:
    """What is expected of students, by what the few draws say of them that the trial is foreseen by."""
    drawn = crossfit.drawn_errors(strong, students, known.draws)[0]
    few = jnp.mean(drawn[: known.foresight.theta.shape[1]])
    return jnp.where(few > 0, jnp.mean(crossfit.posterior_errors(strong, students, known.posterior)) / few, 1)


def _predicted_gap(
    weak: WeakCells,
    cells: Sums,
    folds: int,
    labelled: Labelled,
    settings: Settings,
    normalize: Normalize,
    weak_side: Spectrum | Array,
) -> Score:
    """The theorem's gap on the labelled rows, labels about their mean where heads have an intercept, given their weak moment's
    eigenpairs or without a cut its ridge inverse."""
    with_labels = jnp.sum(_members(len(cells.n), folds, True), 0)
    n = matmul(with_labels, cells.n)
    mean = matmul(with_labels, cells.y) / n * (normalize != "none")
    own, strong = (jax.vmap(moved, (0, None))(side, Shift(None, mean)) for side in (weak.own, cells))
    sums = PairMoments(own.hh, weak.cross, None, own.hy, strong.hy, strong.yy)
    unit_trace = normalize == "scale" and len(cells.n) == folds
    if not isinstance(weak_side, Spectrum):
        return insample.gap_by_solves(
            insample.blocks_of(labelled.blocks, sums, unit_trace), labelled.inverses[-1], weak_side
        )
    zh, zy = (jax.vmap(lambda s: matmul(labelled.basis.T, s))(x) for x in (sums.zh, sums.zy))
    blocks = insample.blocks_of(labelled.blocks, sums._replace(zh=zh, zy=zy), unit_trace)
    return insample.gap_by_spectrum(blocks, replace(weak_side, n=n), settings)


def _predicted(
    predictors: tuple[Predictor, ...],
    weak: WeakCells,
    shared: Shared,
    folds: int,
    settings: Settings,
    normalize: Normalize,
) -> dict[str, Score]:
    """Predictors of a pair, those that need labels on the labelled rows; a block has none of its own, and they no error."""
    heads, cells = heads_of(settings), shared.cells
    mixed = len(cells.n) > folds
    pairs: dict[bool, PairView] = {}
    found: dict[str, Score] = {}
    for of in predictors:
        labelled = mixed and of.needs == "labels"
        if labelled not in pairs:
            chosen = jnp.sum(_members(len(cells.n), folds, labelled), 0)
            m = _moments_over(chosen, weak, cells, shared.label_mean, normalize, with_labels=labelled or not mixed)
            pairs[labelled] = PairView(m, overlap_of_prepared(m), *heads)
        found[of.name] = without_error(of.of_pair(pairs[labelled]))
    return found


def heads_of(settings: Settings) -> tuple[ridge, ridge]:
    """The filters of both heads."""
    return ridge(settings.weak_ridge, settings.threshold), ridge(settings.strong_ridge, settings.threshold)


def without_error(value: Array) -> Score:
    """A score whose standard error is not known."""
    return Score(value, jnp.full_like(value, jnp.nan))


def _moments_over(
    chosen: Array, weak: WeakCells, cells: Sums, label_mean: Array | None, normalize: Normalize, with_labels: bool
) -> Moments:
    """The moments of some cells' rows (J,), centred where heads have an intercept; labels are about a mean (c,) by then."""
    sums = [weak.own, cells] if with_labels else [x._replace(y=None, hy=None, yy=None) for x in (weak.own, cells)]
    add = lambda x: jnp.tensordot(chosen, x, 1, precision="highest")
    own, strong, cross = jax.tree.map(add, (*sums, weak.cross))
    origin = lambda side: Shift(jnp.zeros_like(side.h), None if side.y is None else label_mean)
    return Moments.of((own, strong, cross), None if normalize == "none" else (origin(own), origin(strong)))


def _prepared(sums: WeakCells, origin: Origin, cells: Sums, normalize: Normalize) -> tuple[WeakCells, WeakCells, Array]:
    """Weak cells as the heads see them, the same about the pooled mean, and the total variance."""
    own = sums.own._replace(n=cells.n, y=cells.y, yy=cells.yy)
    of, centred = prepare(own, origin, jnp.ones_like(cells.n), normalize)
    cross = cross_about(sums.cross, cells, own, None, of.mean)
    seen = cross_about(sums.cross, cells, own, None, -origin.shift) if normalize == "none" else cross * of.factor
    related = (None if groups is None else prepared_groups(groups, of) for groups in (sums.related, sums.labelled))
    return WeakCells(prepared(centred, of, normalize), seen, *related), WeakCells(centred, cross), of.variance


def _mean(cells: Sums) -> Array:
    return jnp.sum(cells.h, 0) / jnp.sum(cells.n)


def _mean_square(cells: Sums) -> Array:
    """Mean squared norm of the rows, 1 if they are zero."""
    size = jnp.sum(jnp.trace(cells.hh, axis1=1, axis2=2)) / jnp.sum(cells.n)
    return jnp.where(size > 0, size, 1)
