"""The rows of a sweep's table: pairs that have met, scored on the device, for every setting and label set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike

from w2s_jax._core.normalize import Normalize
from w2s_jax.devices.mesh import BATCH, spread
from w2s_jax.predictors import Predictor
from w2s_jax.ranking.folds import Layout
from w2s_jax.sweep.config import Setting, SweepConfig
from w2s_jax.sweep.label_sets import Cells, LabelSet, SweepRows
from w2s_jax.sweep.pairs import (
    Met,
    Model,
    Pair,
    Sides,
    batches,
    meet,
    prepare_student,
    run_experiments,
    score_pairs,
)
from w2s_jax.sweep.predictor_columns import LabelColumns, Targets, by_outputs, predict


class Entry(NamedTuple):
    """A model of a group of pairs: whole, and as `pairs.leading` cuts it for its side's thresholds."""

    model: Model
    light: Model


def meet_strong(
    strong: Entry,
    weak: Mapping[str, Entry],
    cross: Mapping[str, np.ndarray],
    rows: SweepRows,
    config: SweepConfig,
    mesh: Mesh | None = None,
) -> dict[str, Met]:
    """A strong model's meetings with weak ones, from cross sums (J, d_s, d_w) by name.

    Weak models are spread over the mesh's devices.
    """
    padded = {name: _padded(cross[name], strong.model, entry.model) for name, entry in weak.items()}
    common = strong.light, _on_device(rows.cells, strong.model.mean.dtype)
    run = _over(mesh, _meetings(config.normalize))
    batch = lambda names: _stacked([(weak[name].light, padded[name]) for name in names])
    widths = {name: entry.model.mean.shape[0] for name, entry in weak.items()}
    found = _by_name(widths, mesh, lambda names: run(batch(names), *common))
    whole = {name: (entry.model, padded[name]) for name, entry in weak.items()}
    if config.folds:
        tried = [_trials(number, strong.model, whole, rows, config, mesh) for number in range(len(rows.layouts))]
        found = {name: met._replace(experiments=[of[name] for of in tried]) for name, met in found.items()}
    if config.predictors:
        predicted = _predicted(strong.model, whole, rows, config, mesh)
        found = {name: met._replace(predicted=predicted[name]) for name, met in found.items()}
    return found


def table_rows(
    met: Mapping[Pair, Met],
    strong: Mapping[str, Entry],
    weak: Mapping[str, Entry],
    rows: SweepRows,
    config: SweepConfig,
    mesh: Mesh | None = None,
) -> dict[Pair, list[dict[str, Any]]]:
    """The rows of pairs that have met: settings, then label sets. Pairs are spread over the mesh's devices."""
    dtype = next(iter(weak.values())).light.values.dtype
    common = _on_device((rows.cells, np.asarray(config.grid), rows.energy), dtype)
    sides = [jax.device_get({n: (e.light.values, e.light.labels) for n, e in side.items()}) for side in (strong, weak)]
    run, shapes = _over(mesh, score_pairs), {pair: of.rotated.shape for pair, of in met.items()}
    one = lambda pair: Sides(met[pair].rotated, *sides[1][pair[1]], *sides[0][pair[0]])
    batch = lambda pairs: jax.tree.map(lambda *x: np.stack(x), *map(one, pairs))
    scores = _by_name(shapes, mesh, lambda pairs: run(batch(pairs), *common))
    as_floats = lambda of_pair: {key: np.asarray(x, float) for key, x in of_pair.items()}
    return {pair: list(_rows(as_floats(of), met[pair], rows, config)) for pair, of in scores.items()}


def _by_name(shapes: Mapping[Any, Any], mesh: Mesh | None, run: Callable[[list[Any]], Any]) -> dict[Any, Any]:
    """What `run` makes of every model or pair, given the names of a batch; a CPU takes one at a time on each of its devices."""
    size = (1 if jax.default_backend() == "cpu" else BATCH) * (1 if mesh is None else mesh.size)
    # Fetched only when all are started, so that the device never waits.
    started = [(names, run(names)) for names in batches(shapes, lambda shape, count: size)]
    entry = lambda i, found: jax.tree.map(lambda x: x[i], found)
    return {name: entry(i, found) for names, found in jax.device_get(started) for i, name in enumerate(names)}


def _padded(cross: np.ndarray, strong: Model, weak: Model) -> np.ndarray:
    """Cross sums padded to the models' widths."""
    missing = [side.mean.shape[0] - have for side, have in zip((strong, weak), cross.shape[1:], strict=True)]
    return np.pad(cross, [(0, 0), *((0, more) for more in missing)])


@lru_cache
def _meetings(normalize: Normalize) -> Callable:
    def run(batch: tuple[Model, ArrayLike], strong: Model, cells: Cells) -> Met:
        return meet(batch, strong, cells, normalize=normalize)

    return run


def _over(mesh: Mesh | None, function: Callable) -> Callable:
    return function if mesh is None else spread(function, mesh)


@jax.jit
def _stacked(trees: list[Any]) -> Any:
    """A batch."""
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def _trials(
    number: int,
    strong: Model,
    weak: Mapping[str, tuple[Model, np.ndarray]],
    rows: SweepRows,
    config: SweepConfig,
    mesh: Mesh | None,
) -> dict[str, dict[str, np.ndarray]]:
    """What `run_experiments` makes of weak models, whole and with their cross sums, on one layout of the rows."""
    layout, where, dtype = rows.layouts[number], rows.of(number), strong.mean.dtype
    y, yy = (sums[where] for sums in rows.label_sums)
    cells, y = _on_device((Cells(rows.counts[where], rows.sets[:, where], y), (y, yy)), dtype)
    experiments, part = layout.experiments(dtype), _part(strong, where)
    weak_ridges, strong_ridges = (jnp.asarray(side, dtype) for side in _ridges(config.grid))
    shared = jnp.asarray([config.prior, config.noise], dtype)
    student = prepare_student(part, cells, experiments, strong_ridges, shared, y, _test_rows(layout, strong))
    columns = tuple((label.start, label.stop) for label in rows.label_sets if label.layout == number)
    run = _over(mesh, _experiments(columns, config.normalize))
    batch = lambda names: _stacked([(_part(weak[name][0], where), weak[name][1][where]) for name in names])
    common = part, cells, student, experiments, weak_ridges, shared
    widths = {name: model.mean.shape[0] for name, (model, _) in weak.items()}
    return _by_name(widths, mesh, lambda names: run(batch(names), *common))


@lru_cache
def _experiments(columns: tuple[tuple[int, int], ...], normalize: Normalize) -> Callable:
    """`run_experiments` of a batch of weak models, one after another on each device."""

    @jax.jit
    def run(entries: tuple[Model, Array], part: Model, *common: Any) -> dict[str, Array]:
        one = lambda entry: run_experiments(entry[0], part, entry[1], *common, columns=columns, normalize=normalize)
        return jax.lax.map(one, entries)

    return run


def _predicted(
    strong: Model, weak: Mapping[str, tuple[Model, np.ndarray]], rows: SweepRows, config: SweepConfig, mesh: Mesh | None
) -> dict[str, dict[str, np.ndarray]]:
    """The predictors of weak models, whole and with their cross sums."""
    dtype, label_sets = strong.mean.dtype, by_outputs(rows.label_sets)
    targets = Targets(*rows.label_sums, rows.means)
    cells, targets, grid = _on_device((rows.cells, targets, np.asarray(config.grid)), dtype)
    whole = lambda model: model._replace(labels=None, rows=None)
    run = _over(mesh, _predictions(config.predictors, config.normalize))
    batch = lambda names: _stacked([(whole(weak[name][0]), weak[name][1]) for name in names])
    common = whole(strong), cells, targets, label_sets, grid
    widths = {name: model.mean.shape[0] for name, (model, _) in weak.items()}
    found = _by_name(widths, mesh, lambda names: run(batch(names), *common))
    return {name: _by_label_set(of, label_sets) for name, of in found.items()}


@lru_cache
def _predictions(predictors: tuple[Predictor, ...], normalize: Normalize) -> Callable:
    def run(batch: tuple[Model, Array], *common: Any) -> Any:
        return predict(batch, *common, predictors=predictors, normalize=normalize)

    return run


def _by_label_set(found: tuple[dict, list[dict]], label_sets: tuple[LabelColumns, ...]) -> dict[str, np.ndarray]:
    """What needs no labels as it is (G,), what needs them by label set in their order (L, G)."""
    of_pair, of_labels = found
    order = np.argsort(np.concatenate([of.place for of in label_sets])) if of_labels else None
    names = of_labels[0] if of_labels else ()
    return of_pair | {name: np.concatenate([part[name] for part in of_labels])[order] for name in names}


def _on_device(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def _part(model: Model, cells: slice) -> Model:
    """The model with the sums of some cells."""
    sums = {"first": model.first[cells], "second": model.second[cells], "hy": model.hy[cells]}
    return model._replace(**sums, rows=None, own_values=None, own_vectors=None)


def _test_rows(layout: Layout, strong: Model) -> int:
    """No more eigenvalues of a test split's moment than this are not zero."""
    largest = (layout.expected.test @ np.bincount(layout.cell, minlength=layout.cells)).max()
    return min(int(largest), strong.mean.shape[0])


def _ridges(grid: Iterable[Setting]) -> tuple[list[float], list[float]]:
    """Distinct ridge strengths of the two heads."""
    weak, strong = (list(dict.fromkeys(strengths)) for strengths in zip(*(s[2:] for s in grid), strict=True))
    return weak, strong


def _rows(scores: Mapping[str, np.ndarray], met: Met, rows: SweepRows, config: SweepConfig) -> Iterator[dict[str, Any]]:
    weak_ridges, strong_ridges = _ridges(config.grid)
    for point, setting in enumerate(config.grid):
        of_all = {"cka": float(met.cka)} | {name: float(scores[name][0, point]) for name in ("gap_op", "gap_fro")}
        place = weak_ridges.index(setting.weak_ridge), strong_ridges.index(setting.strong_ridge)
        for number, label in enumerate(rows.label_sets or (None,)):
            with_labels = {} if label is None else _with_labels(scores, point, label)
            tried = {} if met.experiments is None else _cross_fitted(met.experiments, place, label, rows)
            predicted = (met.predicted or {}).items()
            further = {name: float(x[point] if x.ndim == 1 else x[number, point]) for name, x in predicted}
            yield {**setting._asdict(), **of_all, **with_labels, **tried, **further}


def _with_labels(scores: Mapping[str, np.ndarray], point: int, label: LabelSet) -> dict[str, Any]:
    """The columns that labels add; the bound is `||P_s (I - P_w)||_op^2 E y^2` on their rows (Xue et al. 2025)."""
    return {
        "labels": label.name,
        "n_labelled": label.rows,
        "label_energy": label.energy,
        "gap_bound": float(scores["gap_op"][label.set, point]) ** 2 * label.energy,
        "predicted_gap": float(scores["predicted_gap"][label.set, point, label.start : label.stop].sum()),
    }


def _cross_fitted(
    trials: list[dict[str, np.ndarray]], place: tuple[int, int], label: LabelSet | None, rows: SweepRows
) -> dict[str, float]:
    """The cross-fitted columns, with standard errors."""
    of_layout = trials[0 if label is None else label.layout]
    found = {name: of_layout[name][place] for name in ("expected_error", "expected_gap")}
    if label is not None:
        same = [other for other in rows.label_sets if other.layout == label.layout]
        found["trial_error"] = of_layout["trial_error"][place][same.index(label)]
    values = {name: float(pair[0]) for name, pair in found.items()}
    return values | {f"{name}_se": float(pair[1]) for name, pair in found.items()}
