"""All scores of weak models with one strong model, from second moments per cell of rows: one program for each width.

`prepare_strong` computes once what all weak models share: the strong model's moments in its eigenbasis, its spectrum and
solves. A `scorer` takes the sums of a batch of weak models to their scores: the expected experiment and the trial
(crossfit.py), and norms, predicted gap and CKA with their standard errors (insample.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from w2s_jax._core.arrays import matmul, outer
from w2s_jax._core.factor import inverse
from w2s_jax.devices.mesh import over_models
from w2s_jax.ranking import crossfit, insample
from w2s_jax.ranking.crossfit import Score, Settings, StrongCells, WeakCells
from w2s_jax.ranking.folds import Experiments
from w2s_jax.ranking.insample import Pair, RidgeNorms, StrongBlocks
from w2s_jax.spectrum import Spectrum, spectrum


class Shared(NamedTuple):
    """What is computed once per strong model: its cells in the eigenbasis `rotation`, eigenvalues, ridge solves, and blocks of
    all rows, of all rows about their means and of the labelled rows."""

    rotation: Array
    cells: StrongCells
    values: Array
    expected: crossfit.ExpectedStrong
    blocks: StrongBlocks
    centred: StrongBlocks
    norms: RidgeNorms
    inverses: Array | None
    labelled: Labelled | None


class Labelled(NamedTuple):
    """The labelled rows' blocks, in the eigenbasis `basis` (with a cut), and the ridge inverse."""

    blocks: StrongBlocks
    basis: Array
    inverse: Array


@partial(jax.jit, static_argnames=("folds", "normalize", "cut", "test_rows"))
def prepare_strong(
    sums: Any, experiments: Experiments, settings: Settings, folds: int, normalize: bool, cut: bool, test_rows: int
) -> tuple[Array, Shared]:
    """The pooled mean (d_s,) about the sums' shift, 0 without `normalize`, and what weak models share.

    `test_rows`: the most rows that test together.
    """
    n, total = sums.n, jnp.sum(sums.n)
    center = jnp.sum(sums.first.s, 0) / total * normalize
    first = sums.first.s - outer(n, center)
    ss = sums.second.ss - _rank_two(sums.first.s, center, n)
    pooled = jnp.sum(ss, 0) / total
    scale = jnp.where(normalize, jnp.trace(pooled), 1)
    scale = jnp.where(scale > 0, scale, 1)
    eigen = spectrum(pooled / scale, total)
    rotation = eigen.vectors / jnp.sqrt(scale)
    rotate = lambda x: matmul(x, rotation)
    zz = jax.vmap(lambda s: matmul(rotate(s).T, rotation))(ss)
    labels = (None, None, None)
    if sums.first.y is not None:
        sy = sums.second.sy - jax.vmap(outer, (None, 0))(center, sums.first.y)
        labels = (jax.vmap(lambda s: matmul(rotation.T, s))(sy), sums.first.y, sums.second.yy)
    cells = StrongCells(n, rotate(first), zz, *labels)
    expected = crossfit.prepare_expected(cells, eigen.values, experiments.expected, settings, test_rows)
    every = _members(len(n), folds, labelled=False)
    blocks = insample.strong_blocks(zz, n, every, normalize, eigen.values)
    centred = blocks if normalize else insample.strong_blocks(_about_mean(cells) / _mean_square(cells), n, every, False)
    norms = insample.prepare_norms(blocks, settings)
    shared = Shared(rotation, cells, eigen.values, expected, blocks, centred, norms, None, None)
    if experiments.trial is None:
        return center, shared
    inverses = crossfit.prepare_trial(cells, experiments.trial, settings)
    return center, shared._replace(inverses=inverses, labelled=_labelled(cells, settings, folds, normalize, cut))


def _labelled(cells: StrongCells, settings: Settings, folds: int, normalize: bool, cut: bool) -> Labelled:
    members = _members(len(cells.n), folds, labelled=True)
    # Where only some rows have labels they did not set the scale, and it does not move with their weights.
    unit_trace = normalize and len(cells.n) == folds
    blocks = insample.strong_blocks(cells.zz, cells.n, members, unit_trace)
    inverted = inverse(blocks.pooled, settings.strong_ridge)
    if not cut:
        return Labelled(blocks, jnp.zeros((0, 0), cells.zz.dtype), inverted)
    basis = spectrum(blocks.pooled, jnp.sum(cells.n)).vectors
    rotated = jax.vmap(lambda s: matmul(matmul(basis.T, s), basis))(cells.zz)
    return Labelled(insample.strong_blocks(rotated, cells.n, members, unit_trace), basis, inverted)


def _members(cells: int, folds: int, labelled: bool) -> Array:
    """Which cells are a fold (K, J), or the labelled part of one: unlabelled cells come first where there are both kinds."""
    eye = jnp.eye(folds)
    if cells == folds:
        return eye
    return jnp.concatenate([jnp.zeros_like(eye) if labelled else eye, eye], 1)


@lru_cache
def scorer(folds: int, normalize: bool, cut: bool) -> Callable:
    """Sizes and scores of a batch of models, as one program for each set of choices."""

    @jax.jit
    def score_models(
        sums: WeakCells, shared: Shared, experiments: Experiments, settings: Settings
    ) -> tuple[Array, dict]:
        common = {"shared": shared, "experiments": experiments, "settings": settings}
        score = partial(_score_one, **common, folds=folds, normalize=normalize, cut=cut)
        # Eigensolves before all else: on a CPU they and the products that they share the cores with take twice as long.
        eigen = over_models(lambda sums: _weak_spectra(sums, shared, folds, normalize), sums) if cut else ()
        return over_models(lambda args: score(*args), (sums, eigen))

    return score_models


def _weak_spectra(sums: WeakCells, shared: Shared, folds: int, normalize: bool) -> tuple[Spectrum, ...]:
    """Of the weak model's moment over all rows, and over the labelled ones if there are others."""
    weak, _, _ = _normalised(sums, shared.cells, normalize)
    blocks = [shared.blocks]
    if shared.labelled is not None and len(shared.cells.n) > folds:
        blocks.append(shared.labelled.blocks)
    return tuple(spectrum(insample.pooled_moment(b, weak.hh), jnp.sum(shared.cells.n)) for b in blocks)


def _score_one(
    sums: WeakCells,
    eigen: tuple[Spectrum, ...],
    shared: Shared,
    experiments: Experiments,
    settings: Settings,
    folds: int,
    normalize: bool,
    cut: bool,
) -> tuple[Array, dict[str, Score]]:
    cells = shared.cells
    weak, centred, size = _normalised(sums, cells, normalize)
    blocks = insample.blocks_of(shared.blocks, Pair(weak.hh, weak.zh, None), normalize)
    scores = {}
    fits = [experiments.fits]
    if not cut:  # heads of all rows and, the last, of all labelled ones
        fits.append(jnp.ones((1, len(cells.n)), cells.n.dtype))
        if shared.labelled is not None and len(cells.n) > folds:
            fits.append(jnp.sum(_members(len(cells.n), folds, labelled=True), 0)[None])
    heads = crossfit.weak_heads(weak, cells.n, jnp.concatenate(fits), settings.weak_ridge)
    scores["expected_error"], scores["expected_gap"] = crossfit.expected_experiment(
        shared.expected, weak, heads, cells.n, experiments.expected, settings.noise
    )
    if cut:
        scores["gap_op"], scores["gap_fro"] = insample.norms_by_spectrum(blocks, eigen[0], settings)
    else:
        every = heads.inverse[len(experiments.fits)]
        scores["gap_op"], scores["gap_fro"] = insample.norms_by_solves(shared.norms, blocks, every, settings)
    if not normalize:
        # CKA is the same at any scale, its squares are not.
        root_w, root_s = jnp.sqrt(jnp.where(size > 0, size, 1)), jnp.sqrt(_mean_square(cells))
        zh = (centred.zh - jax.vmap(outer, (None, 0))(_mean(cells), centred.h)) / root_w / root_s
        blocks = insample.blocks_of(shared.centred, Pair(centred.hh / root_w / root_w, zh, None), False)
    scores["cka"] = insample.linear_cka(blocks)
    if shared.inverses is not None and shared.labelled is not None:
        scores["trial_error"] = crossfit.trial(shared.inverses, cells, weak, heads, experiments, normalize)
        of_labelled = eigen[-1] if cut else heads.inverse[-1]
        scores["predicted_gap"] = _predicted_gap(weak, cells, folds, shared.labelled, settings, normalize, of_labelled)
    return size, scores


def _predicted_gap(
    weak: WeakCells,
    cells: StrongCells,
    folds: int,
    labelled: Labelled,
    settings: Settings,
    normalize: bool,
    weak_side: Spectrum | Array,
) -> Score:
    """The theorem's gap on the labelled rows, labels about their mean where heads have an intercept, given their weak moment's
    eigenpairs or without a cut its ridge inverse."""
    with_labels = jnp.sum(_members(len(cells.n), folds, True), 0)
    n = matmul(with_labels, cells.n)
    mean = matmul(with_labels, cells.y) / n * normalize
    zy = cells.zy - jax.vmap(outer, (0, None))(cells.z, mean)
    hy = weak.hy - jax.vmap(outer, (0, None))(weak.h, mean)
    yy = cells.yy - 2 * mean * cells.y + outer(cells.n, mean * mean)
    sums, unit_trace = Pair(weak.hh, weak.zh, None, hy, zy, yy), normalize and len(cells.n) == folds
    if not isinstance(weak_side, Spectrum):
        return insample.gap_by_solves(
            insample.blocks_of(labelled.blocks, sums, unit_trace), labelled.inverse, weak_side
        )
    zh, zy = (jax.vmap(lambda s: matmul(labelled.basis.T, s))(x) for x in (weak.zh, zy))
    blocks = insample.blocks_of(labelled.blocks, sums._replace(zh=zh, zy=zy), unit_trace)
    return insample.gap_by_spectrum(blocks, replace(weak_side, n=n), settings)


def _normalised(sums: WeakCells, cells: StrongCells, normalize: bool) -> tuple[WeakCells, WeakCells, Array]:
    """Weak cells as the heads see them, the same about the pooled mean, and the total variance."""
    total = jnp.sum(cells.n)
    center = jnp.sum(sums.h, 0) / total
    h = sums.h - outer(cells.n, center)
    hh = sums.hh - _rank_two(sums.h, center, cells.n)
    zh = sums.zh - jax.vmap(outer, (0, None))(cells.z, center)
    hy = None if sums.hy is None else sums.hy - jax.vmap(outer, (None, 0))(center, cells.y)
    centred = WeakCells(h, hh, zh, hy)
    size = jnp.sum(jnp.trace(hh, axis1=1, axis2=2)) / total
    if not normalize:
        return sums, centred, size
    root = jnp.sqrt(jnp.where(size > 0, size, 1))
    return WeakCells(h / root, hh / root / root, zh / root, None if hy is None else hy / root), centred, size


def _mean(cells: StrongCells) -> Array:
    return jnp.sum(cells.z, 0) / jnp.sum(cells.n)


def _mean_square(cells: StrongCells) -> Array:
    """Mean squared norm of the strong rows, 1 if they are zero."""
    size = jnp.sum(jnp.trace(cells.zz, axis1=1, axis2=2)) / jnp.sum(cells.n)
    return jnp.where(size > 0, size, 1)


def _about_mean(cells: StrongCells) -> Array:
    """Strong sums of products per cell about the mean of all rows."""
    return cells.zz - _rank_two(cells.z, _mean(cells), cells.n)


def _rank_two(first: Array, center: Array, n: Array) -> Array:
    """What moving the origin to `center` takes off the products of every cell."""
    cross = jax.vmap(outer, (0, None))(first, center)
    return cross + jnp.swapaxes(cross, 1, 2) - outer(n, outer(center, center))
