"""Models met once and paired many times: what a model's second moments give alone, and what a cross moment adds.

Rows belong to cells (folds.py) and sets of cells (all rows, the labelled rows of a label set). A model's sums per cell
become one eigendecomposition per set; a pair is then two products that turn the cross moment into both eigenbases, as far as
some setting keeps them, and k x k work for the whole grid at once. Widths are padded with columns of zeros, whose
eigenvalues no filter keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from w2s_jax import crossfit
from w2s_jax._arrays import bucket, matmul, outer
from w2s_jax.crossfit import ExpectedStrong, Settings, StrongCells, WeakCells, WeakHeads, pool
from w2s_jax.filters import ridge
from w2s_jax.gap import gap_norm, prediction_gap
from w2s_jax.overlap import Side, whitened
from w2s_jax.spectrum import spectrum


class Cells(NamedTuple):
    """What the rows' cells are: rows per cell n (J,), sets of cells (R, J), the first being all rows, label sums y (J, C)."""

    n: Any
    sets: Any
    y: Any


class Sums(NamedTuple):
    """A model's sums per cell about its shift (d,): first (J, d), second (J, d, d), with labels hy (J, d, C)."""

    shift: Any
    first: Any
    second: Any
    hy: Any


class Model(NamedTuple):
    """A model as heads see it: sums per cell, and per set of rows its eigenpairs and labels in the eigenbasis.

    `mean` (d,): of all rows, about the shift; `origin` (d,): what the mean becomes (0 if normalised), `root`: what rows
    are divided by; `variance`: trace of the centred second moment before that, `spread`: `||S||_F / tr S` of it.
    `first` (J, d), `second` (J, d, d), `hy` (J, d, C); `values` (R, d), `vectors` (R, d, d), `labels` (R, d, C).
    """

    mean: Any
    origin: Any
    root: Any
    spread: Any
    variance: Any
    first: Any
    second: Any
    hy: Any
    values: Any
    vectors: Any
    labels: Any


@partial(jax.jit, static_argnames="normalize")
def model_from_sums(sums: Sums, cells: Cells, normalize: bool) -> Model:
    """Everything about one model alone; `variance` is not positive if its rows do not differ."""
    shift, first, second, hy = sums
    n, all_rows = cells.n, cells.sets[0]
    mean = pool(all_rows, first, n)
    second = moved(second, first, first, n, mean, mean)
    hy = hy - jax.vmap(outer, (None, 0))(mean, cells.y)
    first = first - outer(n, mean)
    centred = pool(all_rows, second, n)
    variance = jnp.trace(centred)
    size = jnp.where(variance > 0, variance, 1)
    spread = jnp.sqrt(jnp.sum(jnp.square(centred / size)))
    if normalize:
        root, origin = jnp.sqrt(size), jnp.zeros_like(mean)
        first, second, hy = first / root, second / root / root, hy / root
    else:
        root, origin = jnp.ones_like(variance), shift + mean
        second = moved(second, first, first, n, -origin, -origin)
        hy = hy + jax.vmap(outer, (None, 0))(origin, cells.y)

    def of_set(chosen: Array) -> tuple[Array, Array, Array]:
        eigen = spectrum(pool(chosen, second, n), jnp.sum(chosen * n))
        return eigen.values, eigen.vectors, matmul(eigen.vectors.T, pool(chosen, hy, n))

    values, vectors, labels = jax.lax.map(of_set, cells.sets)
    return Model(mean, origin, root, spread, variance, first, second, hy, values, vectors, labels)


def leading(models: Mapping[str, Model], threshold: float) -> dict[str, Model]:
    """The models as `score_pairs` takes them: without moments, and with no more eigenpairs than some of them need above a
    relative threshold, as many for all, so that they share programs."""
    kept = {name: _kept(model.values, threshold) for name, model in models.items()}
    size = bucket(max(int(jnp.max(jnp.sum(keep, -1))) for keep in kept.values()))
    return {name: _cut(model._replace(second=None, hy=None), kept[name], size) for name, model in models.items()}


@jax.jit
def _kept(values: Array, threshold: Array) -> Array:
    return jax.vmap(ridge(0.0, threshold).kept)(values)


@partial(jax.jit, static_argnames="size")
def _cut(model: Model, kept: Array, size: int) -> Model:
    """A model's leading eigenpairs; the values of those that are not kept are zero, which no filter keeps."""
    values = jnp.where(kept, model.values, 0)[:, :size]
    return model._replace(values=values, vectors=model.vectors[..., :size], labels=model.labels[:, :size])


def moved(cross: Array, first_s: Array, first_w: Array, n: Array, by_s: Array, by_w: Array) -> Array:
    """Sums of products per cell (J, d_s, d_w) about an origin that moves by `by_s` and `by_w`; first sums about the old one."""
    cross = cross - jax.vmap(outer, (0, None))(first_s, by_w) - jax.vmap(outer, (None, 0))(by_s, first_w)
    return cross + outer(n, outer(by_s, by_w))


def score_pairs(
    weak: Model, strong: Model, cross: ArrayLike, cells: Cells, grid: Array, energy: Array, normalize: bool
) -> dict[str, Array]:
    """Scores of a batch of weak models (stacked, B in front) with one strong model, from cross sums about the shifts.

    Two programs: the larger one, of the norms, is that of all widths whose cut is the same.

    Args:
        weak, strong: as `leading` makes them.
        cross: (B, J, d_s, d_w).
        grid: (G, 4), settings as in `config.Setting`.
        energy: mean square of each label column on each set of rows (R, C).

    Returns:
        `cka` (B,), `gap_op` and `gap_fro` (B, R, G) for every set of rows, `predicted_gap` (B, R, G, C).
    """
    cka, rotated = _rotated(weak, strong, cross, cells, normalize)
    sides = (weak.values, weak.labels), (strong.values, strong.labels)
    return {"cka": cka} | _norms(rotated, *sides, cells, grid, energy)


def _over_batch(function: Callable, *batch: Any) -> Any:
    """One after another on a CPU, which gains nothing from batching; an accelerator does."""
    size = None if jax.default_backend() == "cpu" else len(jax.tree.leaves(batch)[0])
    return jax.lax.map(lambda args: function(*args), batch, batch_size=size)


@partial(jax.jit, static_argnames="normalize")
def _rotated(weak: Model, strong: Model, cross: Array, cells: Cells, normalize: bool) -> tuple[Array, Array]:
    """CKA (B,) and the cross moment of every set of rows in both eigenbases (B, R, k_s, k_w)."""

    def one(weak: Model, cross: Array) -> tuple[Array, Array]:
        centred, cross = cross_moments(weak, cross, strong, cells, normalize)
        pooled = pool(cells.sets[0], centred, cells.n) / jnp.sqrt(weak.variance) / jnp.sqrt(strong.variance)
        cka = jnp.sum(pooled * pooled) / weak.spread / strong.spread

        def of_set(args: tuple[Array, Array, Array]) -> Array:
            chosen, vectors_w, vectors_s = args
            return matmul(matmul(vectors_s.T, pool(chosen, cross, cells.n)), vectors_w)

        return cka, jax.lax.map(of_set, (cells.sets, weak.vectors, strong.vectors))

    return _over_batch(one, weak, cross)


@jax.jit
def _norms(
    rotated: Array, weak: tuple[Array, Array], strong: tuple[Array, Array], cells: Cells, grid: Array, energy: Array
) -> dict[str, Array]:
    """The norms and gaps of `score_pairs`; `weak` and `strong` are eigenvalues and labels."""
    weak_head, strong_head = ridge(grid[:, 2], grid[:, 0]), ridge(grid[:, 3], grid[:, 1])

    def of_set(args: tuple[Array, ...]) -> dict[str, Array]:
        chosen, rotated, values_w, labels_w, values_s, labels_s, energy = args
        n = jnp.sum(chosen * cells.n)
        weak_side, strong_side = (Side(x, jnp.zeros((len(x), len(x)), x.dtype), n) for x in (values_w, values_s))
        overlap = whitened(weak_side, strong_side, rotated, labels_w, labels_s, energy)
        op, fro = (gap_norm(overlap, weak_head, strong_head, ord) for ord in ("op", "fro"))
        return {"gap_op": op, "gap_fro": fro, "predicted_gap": prediction_gap(overlap, weak_head, strong_head)}

    one = lambda rotated, weak: jax.lax.map(of_set, (cells.sets, rotated, *weak, *strong, energy))
    return _over_batch(one, rotated, weak)


def cross_moments(weak: Model, cross: Array, strong: Model, cells: Cells, normalize: bool) -> tuple[Array, Array]:
    """Cross sums per cell (J, d_s, d_w) from those about the shifts: about the means of all rows, and as heads see them."""
    n = cells.n
    # First sums about the shifts: those of the model are about its mean, and divided.
    first_s, first_w = (m.first * m.root + outer(n, m.mean) for m in (strong, weak))
    centred = moved(cross, first_s, first_w, n, strong.mean, weak.mean)
    if normalize:
        return centred, centred / strong.root / weak.root
    return centred, moved(centred, strong.first, weak.first, n, -strong.origin, -weak.origin)


class Student(NamedTuple):
    """A strong model's part in the experiments of one layout, per strong ridge strength."""

    cells: StrongCells
    expected: ExpectedStrong
    inverses: Any


@partial(jax.jit, static_argnames=("test_rows", "has_trial"))
def prepare_student(
    strong: Model,
    cells: Cells,
    roles: tuple,
    strong_ridge: Array,
    shared: Array,
    y: tuple,
    test_rows: int,
    has_trial: bool,
) -> Student:
    """The strong side of a layout's experiments (crossfit.py) for strengths (B,); `cells`, `strong` hold its cells alone.

    `shared`: label prior and noise (2,); `y`: per cell the sums of its label columns and of their squares (J, c).
    """
    rotation = strong.vectors[0]
    zz = jax.vmap(lambda s: matmul(matmul(rotation.T, s), rotation))(strong.second)
    first = _first(strong, cells)
    zy = jax.vmap(lambda s: matmul(rotation.T, s))(strong.hy)
    rotated = StrongCells(cells.n, matmul(first, rotation), zz, zy, *y)

    def of_ridge(b: Array) -> tuple[ExpectedStrong, Any]:
        settings = Settings(b, b, jnp.zeros_like(b), shared[0], shared[1])
        expected = crossfit.prepare_expected(rotated, strong.values[0], roles[0], settings, test_rows)
        if not has_trial:
            return expected, None
        flat = jax.tree.map(lambda role: role.reshape(-1, role.shape[-1]), roles[1])
        return expected, crossfit.prepare_trial(rotated, flat, settings)

    return Student(rotated, *jax.lax.map(of_ridge, strong_ridge))


@partial(jax.jit, static_argnames=("columns", "normalize"))
def run_experiments(
    weak: Model,
    strong: Model,
    cross: Array,
    cells: Cells,
    student: Student,
    roles: tuple,
    ridges: tuple[Array, Array],
    shared: Array,
    columns: tuple[tuple[int, int], ...],
    normalize: bool,
) -> dict[str, Array]:
    """Cross-fitted errors of one pair on one layout, for all weak (B_w,) and strong (B_s,) ridge strengths.

    Returns:
        `expected_error`, `expected_gap`: (B_w, B_s, 2), value and standard error; `trial_error` (label sets, B_w, B_s, 2)
        for the label columns `columns` (pairs of start and stop), if there are any.
    """
    _, products = cross_moments(weak, cross, strong, cells, normalize)
    zh = jax.vmap(lambda x: matmul(strong.vectors[0].T, x))(products)
    taught = WeakCells(_first(weak, cells), weak.second, zh)

    heads = jax.lax.map(partial(crossfit.weak_heads, taught, cells.n, roles[0].fit), ridges[0])

    def of_ridges(
        b_w: Array, heads: WeakHeads, b_s: Array, expected: ExpectedStrong, inverses: Any
    ) -> tuple[Array, Array, Array]:
        settings = Settings(b_w, b_s, jnp.zeros_like(b_w), shared[0], shared[1])
        error, gap = crossfit.expected_experiment(expected, taught, heads, cells.n, roles[0], settings.noise)
        trials = [
            crossfit.trial(inverses, _labels(student.cells, a, b), taught._replace(hy=weak.hy[..., a:b]), *rest)
            for a, b in columns
            for rest in [(roles[1], settings, normalize)]
        ]
        return (
            jnp.stack(error),
            jnp.stack(gap),
            jnp.stack([jnp.stack(t) for t in trials]) if trials else jnp.zeros((0, 2)),
        )

    def of_strong(args: tuple) -> Any:
        return jax.lax.map(lambda weak_side: of_ridges(*weak_side, *args), (ridges[0], heads))

    error, gap, trials = jax.lax.map(of_strong, (ridges[1], student.expected, student.inverses))
    by_weak = lambda x: jnp.swapaxes(x, 0, 1)
    return {"expected_error": by_weak(error), "expected_gap": by_weak(gap), "trial_error": by_weak(trials)}


def _labels(cells: StrongCells, start: int, stop: int) -> StrongCells:
    """The cells with some of their label columns."""
    return cells._replace(zy=cells.zy[..., start:stop], y=cells.y[:, start:stop], yy=cells.yy[:, start:stop])


def _first(model: Model, cells: Cells) -> Array:
    """First sums per cell of the rows that heads see (J, d)."""
    return model.first + outer(cells.n, model.origin)
