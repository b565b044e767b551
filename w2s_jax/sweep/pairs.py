"""Models met once and paired many times: what a model's second moments give alone, and what a cross moment adds.

Rows belong to cells (folds.py) and sets of cells (all rows, the labelled rows of a label set). A model's sums per cell
become one eigendecomposition per set; a pair is then its cross moment in both eigenbases, as far as some setting keeps them
(here by two products with that of all features, in kernels.py without that), and k x k work for the whole grid at once.
Widths are padded with columns of zeros, whose eigenvalues no filter keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from w2s_jax._core.arrays import matmul, outer
from w2s_jax._core.normalize import Normalize, scaled
from w2s_jax.devices.mesh import over_models
from w2s_jax.filters import ridge
from w2s_jax.gap import gap_norm, prediction_gap
from w2s_jax.moments import ModelMoments, Sums
from w2s_jax.overlap import Side, whitened
from w2s_jax.ranking import crossfit, trial
from w2s_jax.ranking.crossfit import ExpectedStrong, Settings, WeakCells, WeakHeads
from w2s_jax.ranking.folds import Experiments
from w2s_jax.ranking.prepared import Origin, cross_about, pool, prepare, prepared
from w2s_jax.spectrum import spectrum
from w2s_jax.sweep.label_sets import Cells

Pair = tuple[str, str]  # strong, weak


class Model(NamedTuple):
    """A model as heads see it: sums per cell, and per set of rows its eigenpairs and labels in the eigenbasis.

    `mean`, `origin`, `factor`, `unit` (d,), `variance` () are its preparation (ranking/prepared.py), `spread`: `||S||_F` of the
    second moment of centred rows times `unit`. `first` (J, d): sums of the rows about their mean; `second` (J, d, d),
    `hy` (J, d, C): of prepared rows; `values` (R, d), `vectors` (R, d, d), `labels` (R, d, C). `rows` (n, n): of a model of more
    features than rows, what stands in for them (ranking/compact.py); of others (0, 0). `own_values` (R - 1, d), `own_vectors`
    (R - 1, d, d): the eigenpairs of each set but all rows about its own mean, where predictors ask for them.
    """

    mean: Any
    origin: Any
    factor: Any
    unit: Any
    variance: Any
    spread: Any
    first: Any
    second: Any
    hy: Any
    values: Any
    vectors: Any
    labels: Any
    rows: Any
    own_values: Any = None
    own_vectors: Any = None

    @property
    def arrays(self) -> dict[str, Any]:
        """All that there are, by name."""
        return {name: x for name, x in self._asdict().items() if x is not None}


@partial(jax.jit, static_argnames=("normalize", "own_means"))
def model_from_sums(
    m: ModelMoments, rounding: ArrayLike, cells: Cells, normalize: Normalize, own_means: bool = False
) -> Model:
    """Everything about one model alone, from its sums per cell; `variance` is not positive if its rows do not differ."""
    n, all_rows = cells.n, cells.sets[0]
    origin = Origin(jnp.asarray(m.shift.h if m.shift else 0), rounding)
    of, centred = prepare(m.sums._replace(n=n, y=cells.y), origin, all_rows, normalize)
    seen = prepared(centred, of, normalize)
    spread = jnp.sqrt(jnp.sum(jnp.square(scaled(pool(all_rows, centred.hh, n), of.unit))))

    def of_set(chosen: Array) -> tuple[Array, Array, Array]:
        eigen = spectrum(pool(chosen, seen.hh, n), jnp.sum(chosen * n))
        return eigen.values, eigen.vectors, matmul(eigen.vectors.T, pool(chosen, seen.hy, n))

    values, vectors, labels = jax.lax.map(of_set, cells.sets)
    no_rows = jnp.zeros((0, 0), spread.dtype)
    sums = {"first": centred.h, "second": seen.hh, "hy": seen.hy}
    found = {"spread": spread, **sums, "values": values, "vectors": vectors, "labels": labels, "rows": no_rows}
    own = _about_own_means(seen, cells) if own_means else (None, None)
    return Model(**of._asdict(), **found, own_values=own[0], own_vectors=own[1])


def _about_own_means(seen: Sums, cells: Cells) -> tuple[Array, Array]:
    """Eigenpairs over every set of rows but the first, about its own mean, from sums of prepared rows."""

    def of_set(chosen: Array) -> tuple[Array, Array]:
        mean = pool(chosen, seen.h, cells.n)
        eigen = spectrum(pool(chosen, seen.hh, cells.n) - outer(mean, mean), jnp.sum(chosen * cells.n))
        return eigen.values, eigen.vectors

    return jax.lax.map(of_set, cells.sets[1:])


class Met(NamedTuple):
    """What two models' rows have to be read together for: CKA, and for every set of rows the cross moment in the leading
    eigenvectors of both (R, k_s, k_w); with folds `run_experiments` by layout; predictors by name, (G,) or for each label set
    (L, G)."""

    cka: Any
    rotated: Any
    experiments: Any = None
    predicted: Any = None


def leading(model: Model, threshold: float, size: int) -> Model:
    """The model without moments and rows, and with `size` eigenpairs, no more than features; of those alone that are above a
    relative threshold the values are not zero."""
    alone = model._replace(second=None, hy=None, rows=None, own_values=None, own_vectors=None)
    return _cut(alone, threshold, size)


def eigenpairs(values: ArrayLike, threshold: float) -> int:
    """How many eigenvalues are above a relative threshold, at most, of those of several sets of rows (R, d)."""
    return int(_count(values, threshold))


@jax.jit
def _count(values: Array, threshold: Array) -> Array:
    return jnp.max(jnp.sum(_kept(values, threshold), -1))


def _kept(values: Array, threshold: Array) -> Array:
    return jax.vmap(ridge(0.0, threshold).kept)(values)


@partial(jax.jit, static_argnames="size")
def _cut(model: Model, threshold: Array, size: int) -> Model:
    """A model's leading eigenpairs; the values of those that are not kept are zero, which no filter keeps."""
    values = jnp.where(_kept(model.values, threshold), model.values, 0)
    vectors, labels = model.vectors[:, :, :size], model.labels[:, :size]
    return model._replace(values=values[:, :size], vectors=vectors, labels=labels)


def batches(shapes: Mapping[Any, Any], size: Callable[[Any, int], int]) -> Iterator[list[Any]]:
    """Names of one shape, `size(shape, how many)` of them at a time; the last batch is filled up with its last member."""
    alike: dict[Any, list[Any]] = {}
    for name, shape in shapes.items():
        alike.setdefault(shape, []).append(name)
    for shape, members in alike.items():
        step = size(shape, len(members))
        for start in range(0, len(members), step):
            batch = members[start : start + step]
            yield batch + batch[-1:] * (step - len(batch))


@partial(jax.jit, static_argnames="normalize")
def meet(batch: tuple[Model, Array], strong: Model, cells: Cells, normalize: Normalize) -> Met:
    """A batch of weak models (stacked, B in front) and their cross sums (B, J, d_s, d_w) about the shifts, with one strong
    model, all as `leading` makes them."""

    def one(weak: Model, cross: Array) -> Met:
        centred, cross = cross_moments(weak, cross, strong, cells, normalize)
        pooled = strong.unit[:, None] * pool(cells.sets[0], centred, cells.n) * weak.unit
        cka = jnp.sum(pooled * pooled) / weak.spread / strong.spread

        def of_set(args: tuple[Array, Array, Array]) -> Array:
            chosen, vectors_w, vectors_s = args
            return matmul(matmul(vectors_s.T, pool(chosen, cross, cells.n)), vectors_w)

        return Met(cka, jax.lax.map(of_set, (cells.sets, weak.vectors, strong.vectors)))

    return over_models(lambda args: one(*args), batch)


class Sides(NamedTuple):
    """A pair as norms need it: its cross moment (R, k_s, k_w), eigenvalues (R, k), and labels in the eigenbases (R, k, C)."""

    rotated: Any
    values_w: Any
    labels_w: Any
    values_s: Any
    labels_s: Any


@jax.jit
def score_pairs(batch: Sides, cells: Cells, grid: Array, energy: Array) -> dict[str, Array]:
    """Norms and gaps of a batch of pairs (B in front), one program for all widths whose cut is the same.

    Args:
        grid: (G, 4), settings as in `config.Setting`.
        energy: mean square of each label column on each set of rows (R, C).

    Returns:
        `gap_op` and `gap_fro` (B, R, G) for every set of rows, `predicted_gap` (B, R, G, C).
    """
    weak_head, strong_head = ridge(grid[:, 2], grid[:, 0]), ridge(grid[:, 3], grid[:, 1])

    def of_set(args: tuple[Array, Array, Sides]) -> dict[str, Array]:
        chosen, energy, pair = args
        n = jnp.sum(chosen * cells.n)
        weak, strong = (Side(x, jnp.zeros((len(x), len(x)), x.dtype), n) for x in (pair.values_w, pair.values_s))
        overlap = whitened(weak, strong, pair.rotated, pair.labels_w, pair.labels_s, energy)
        op, fro = (gap_norm(overlap, weak_head, strong_head, ord) for ord in ("op", "fro"))
        return {"gap_op": op, "gap_fro": fro, "predicted_gap": prediction_gap(overlap, weak_head, strong_head)}

    return over_models(lambda pair: jax.lax.map(of_set, (cells.sets, energy, pair)), batch)


def cross_moments(weak: Model, cross: Array, strong: Model, cells: Cells, normalize: Normalize) -> tuple[Array, Array]:
    """Cross sums per cell (J, d_s, d_w) from those about the shifts: about the means of all rows, and of prepared rows."""
    about_shift = lambda m: Sums(cells.n, m.first + outer(cells.n, m.mean), None)
    centred = cross_about(cross, about_shift(strong), about_shift(weak), strong.mean, weak.mean)
    if normalize != "none":
        return centred, strong.factor[:, None] * centred * weak.factor
    about_mean = lambda m: Sums(cells.n, m.first, None)
    return centred, cross_about(centred, about_mean(strong), about_mean(weak), -strong.origin, -weak.origin)


class Student(NamedTuple):
    """A strong model's part in the experiments of one layout, per strong ridge strength."""

    cells: Sums
    expected: ExpectedStrong
    inverses: Any


@partial(jax.jit, static_argnames="test_rows")
def prepare_student(
    strong: Model,
    cells: Cells,
    experiments: Experiments,
    strong_ridge: Array,
    shared: Array,
    y: tuple,
    test_rows: int,
) -> Student:
    """The strong side of a layout's experiments (ranking/crossfit.py) for strengths (B,); `cells`, `strong` hold its cells alone.

    `shared`: label prior and noise (2,); `y`: per cell the sums of its label columns and of their squares (J, c).
    """
    rotation = strong.vectors[0]
    zz = jax.vmap(lambda s: matmul(matmul(rotation.T, s), rotation))(strong.second)
    first = first_sums(strong, cells)
    zy = jax.vmap(lambda s: matmul(rotation.T, s))(strong.hy)
    rotated = Sums(cells.n, matmul(first, rotation), zz, y[0], zy, y[1])

    def of_ridge(b: Array) -> tuple[ExpectedStrong, Any]:
        settings = Settings(b, b, jnp.zeros_like(b), shared[0], shared[1])
        inverses = crossfit.student_inverses(rotated, experiments.students.sets, b)
        expected = crossfit.prepare_expected(rotated, strong.values[0], inverses, experiments, settings, test_rows)
        return expected, None if experiments.trial is None else inverses

    return Student(rotated, *jax.lax.map(of_ridge, strong_ridge))


@partial(jax.jit, static_argnames=("columns", "normalize"))
def run_experiments(
    weak: Model,
    strong: Model,
    cross: Array,
    cells: Cells,
    student: Student,
    experiments: Experiments,
    weak_ridge: Array,
    shared: Array,
    columns: tuple[tuple[int, int], ...],
    normalize: Normalize,
) -> dict[str, Array]:
    """Cross-fitted errors of one pair on one layout, for all weak (B_w,) and strong (B_s,) ridge strengths.

    Returns:
        `expected_error`, `expected_gap`: (B_w, B_s, 2), value and standard error; `trial_error` (label sets, B_w, B_s, 2)
        for the label columns `columns` (pairs of start and stop), if there are any.
    """
    _, products = cross_moments(weak, cross, strong, cells, normalize)
    zh = jax.vmap(lambda x: matmul(strong.vectors[0].T, x))(products)
    own = student.cells._replace(h=first_sums(weak, cells), hh=weak.second, hy=weak.hy)
    taught = WeakCells(own, zh)
    heads = jax.lax.map(partial(crossfit.weak_heads, own, experiments.weak.sets), weak_ridge)

    def of_ridges(heads: WeakHeads, expected: ExpectedStrong, inverses: Any) -> tuple[Array, Array, Array]:
        students = crossfit.students(expected, taught, heads, experiments.expected)
        error, gap = crossfit.expected_errors(expected, students, shared[1])
        trials = [
            crossfit.over_blocks(
                trial.trial(inverses, _labels(student.cells, a, b), WeakCells(_labels(own, a, b), zh), *rest)[0]
            )
            for a, b in columns
            for rest in [(heads, experiments, normalize != "none")]
        ]
        return (
            jnp.stack(error),
            jnp.stack(gap),
            jnp.stack([jnp.stack(t) for t in trials]) if trials else jnp.zeros((0, 2)),
        )

    def of_strong(strong_side: tuple) -> Any:
        return jax.lax.map(lambda heads: of_ridges(heads, *strong_side), heads)

    error, gap, trials = jax.lax.map(of_strong, (student.expected, student.inverses))
    by_weak = lambda x: jnp.swapaxes(x, 0, 1)
    return {"expected_error": by_weak(error), "expected_gap": by_weak(gap), "trial_error": by_weak(trials)}


def _labels(cells: Sums, start: int, stop: int) -> Sums:
    """The cells with some of their label columns."""
    return cells._replace(hy=cells.hy[..., start:stop], y=cells.y[:, start:stop], yy=cells.yy[:, start:stop])


def first_sums(model: Model, cells: Cells) -> Array:
    """First sums per cell of the rows that heads see (J, d)."""
    return (model.first + outer(cells.n, model.origin)) * model.factor
