"""Predictors as columns of a sweep: of every pair from its sums per cell, for all settings and label sets at once.

Predictors see what `rank_supervisors` shows them: all rows, or those of a label set, as heads see them. No eigensolve is left to
pairs, as models have eigenpairs over every set of rows (pairs.py). What heads do not matter to is asked for one setting alone.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from w2s_jax._core.arrays import matmul
from w2s_jax._core.cpu import outermost
from w2s_jax._core.normalize import Normalize
from w2s_jax.devices.mesh import over_models
from w2s_jax.filters import ridge
from w2s_jax.moments import Moments, Shift, Sums
from w2s_jax.overlap import Overlap, Side, whitened
from w2s_jax.predictors import PREDICTORS, PairView, Predictor
from w2s_jax.sweep.contents import UnseenError, contents
from w2s_jax.sweep.label_sets import Cells, LabelSet
from w2s_jax.sweep.pairs import Model, cross_moments, first_sums


class LabelColumns(NamedTuple):
    """Label sets of equally many outputs: where each is among all label sets (L,), its set of rows (L,), its columns (L, c)."""

    place: Any
    set: Any
    columns: Any


class Targets(NamedTuple):
    """Sums of the label columns and of their squares per cell (J, C), and what they were taken about (C,)."""

    y: Any
    yy: Any
    means: Any


class _Seen(NamedTuple):
    """What predictors see of a pair, the weak model's part first: sums per cell of both models' prepared rows, of those times
    label columns (J, d, C) and of the two models' products (J, d_s, d_w), and over each set of rows the eigenvalues (R, k) and
    vectors (R, d, k) of both, and the cross moment in those (R, k_s, k_w)."""

    sums: tuple[Sums, Sums]
    hy: tuple[Array, Array]
    products: Array
    values: tuple[Array, Array]
    vectors: tuple[Array, Array]
    rotated: Array


def by_outputs(label_sets: Sequence[LabelSet]) -> tuple[LabelColumns, ...]:
    """All label sets, those of equally many outputs together, which one program goes through."""
    found = []
    for outputs in dict.fromkeys(label.stop - label.start for label in label_sets):
        alike = [(i, label) for i, label in enumerate(label_sets) if label.stop - label.start == outputs]
        columns = np.array([np.arange(label.start, label.stop) for _, label in alike])
        found.append(LabelColumns(np.array([i for i, _ in alike]), np.array([of.set for _, of in alike]), columns))
    return tuple(found)


@partial(outermost, static_argnames=("predictors", "normalize"))
def predict(
    batch: tuple[Model, Array],
    strong: Model,
    cells: Cells,
    targets: Targets,
    label_sets: tuple[LabelColumns, ...],
    grid: Array,
    predictors: tuple[Predictor, ...],
    normalize: Normalize,
) -> tuple[dict[str, Array], list[dict[str, Array]]]:
    """Predictors of a batch of weak models (stacked, B in front) and their cross sums (B, J, d_s, d_w) with a strong model.

    Args:
        grid: (G, 4), settings as in `config.Setting`.

    Returns:
        By name (B, G) of those that need nothing, over all rows; by name (B, L, G) of those that need labels, for each of
        `label_sets`.
    """
    asked = {needs: [of for of in predictors if of.needs == needs] for needs in ("nothing", "labels")}
    shown = len(cells.sets) if asked["labels"] else 1

    def one(pair: tuple[Model, Array]) -> Any:
        seen = _seen(*pair, strong, cells._replace(sets=cells.sets[:shown]), normalize)
        view = partial(_view, seen, cells, targets, normalize != "none")
        with_labels = lambda of: _at_all(asked["labels"], *view(of.set, of.columns), grid)
        found = [jax.lax.map(with_labels, of) for of in label_sets if asked["labels"]]
        return _at_all(asked["nothing"], *view(0, None), grid), found

    return jax.lax.map(one, batch)


def _seen(weak: Model, cross: Array, strong: Model, cells: Cells, normalize: Normalize) -> _Seen:
    """What predictors see of a pair on some sets of rows."""
    _, products = cross_moments(weak, cross, strong, cells, normalize)
    sums_w, sums_s = (Sums(cells.n, first_sums(model, cells), model.second) for model in (weak, strong))
    sums = sums_w, sums_s
    (values_w, vectors_w), (values_s, vectors_s) = (_eigenpairs(model, len(cells.sets)) for model in (weak, strong))

    def rotated(args: tuple[Array, Array, Array]) -> Array:
        chosen, V_w, V_s = args
        return matmul(matmul(V_s.T, _moments(sums, products, chosen, normalize != "none").sw), V_w)

    moment = jax.lax.map(rotated, (cells.sets, vectors_w, vectors_s))
    return _Seen(sums, (weak.hy, strong.hy), products, (values_w, values_s), (vectors_w, vectors_s), moment)


def _eigenpairs(model: Model, sets: int) -> tuple[Array, Array]:
    """Values and vectors over so many sets of rows, each about its own mean if heads have an intercept."""
    if sets == 1 or model.own_values is None:
        return model.values[:sets], model.vectors[:sets]
    first = (model.values[:1], model.own_values), (model.vectors[:1], model.own_vectors)
    return jnp.concatenate(first[0]), jnp.concatenate(first[1])


def _moments(sums: tuple[Sums, Sums], products: Array, chosen: Array, bias: bool, mean: Any = None) -> Moments:
    """The moments of some cells' rows (J,), centred where heads have an intercept; `mean` (c,) is what labels are about."""
    add = lambda x: jnp.tensordot(chosen, x, 1, precision="highest")
    own = jax.tree.map(add, (*sums, products))
    shift = tuple(Shift(jnp.zeros_like(side.h), mean) for side in own[:2])
    return Moments.of(own, shift if bias else None)


def _view(
    seen: _Seen, cells: Cells, targets: Targets, bias: bool, number: Array | int, columns: Array | None
) -> tuple[Moments, Overlap]:
    """A pair on one of the sets of rows, with some label columns (c,)."""
    sums, mean = seen.sums, None
    if columns is not None:
        y, yy, mean = (x[..., columns] for x in targets)
        sums_w, sums_s = (of._replace(y=y, hy=hy[..., columns], yy=yy) for of, hy in zip(sums, seen.hy, strict=True))
        sums = sums_w, sums_s
    m = _moments(sums, seen.products, cells.sets[number], bias, mean)
    weak, strong = (Side(x[number], jnp.zeros((x.shape[1],) * 2, x.dtype), m.n) for x in seen.values)
    if m.wy is None or m.sy is None:
        return m, whitened(weak, strong, seen.rotated[number])
    wy, sy = (matmul(V[number].T, hy) for V, hy in zip(seen.vectors, (m.wy, m.sy), strict=True))
    return m, whitened(weak, strong, seen.rotated[number], wy, sy, m.yy)


def _at_all(asked: Iterable[Predictor], m: Moments, overlap: Overlap, grid: Array) -> dict[str, Array]:
    """Predictors of a pair at all settings, (G,) each."""

    def at(of: Predictor, point: Array) -> Array:
        weak, strong = ridge(point[2], point[0]), ridge(point[3], point[1])
        return of.of_pair(PairView(m, overlap, weak, strong))

    asked = list(asked)
    moving = [of for of in asked if not _is_constant(partial(at, of), grid)]
    found = over_models(lambda point: {of.name: at(of, point) for of in moving}, grid) if moving else {}
    return {of.name: found[of.name] if of in moving else jnp.full(len(grid), at(of, grid[0])) for of in asked}


def _is_constant(function: Callable[[Array], Array], points: Array) -> bool:
    """Whether a function does not look at its argument: else `vmap` cannot do without an axis of its results."""
    try:
        jax.eval_shape(jax.vmap(function, out_axes=None), points)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class _Stamped:
    """A function with the text of what it computes with: programs of another text are not those of this one."""

    function: Callable[[PairView], Array]
    text: str

    def __call__(self, pair: PairView) -> Array:
        return self.function(pair)


def stamped(of: Predictor) -> Predictor:
    """A predictor as it is now. One of one's own carries the text of its code and of what it uses from outside (contents.py); one
    that uses what may change unseen has a text of its own every time."""
    if PREDICTORS.get(of.name) is of:
        return of
    try:
        text = hashlib.sha256(contents(of.function).encode()).hexdigest()
    except UnseenError:
        text = uuid.uuid4().hex
    return replace(of, function=_Stamped(of.function, text))


def known_by(of: Predictor) -> list[str]:
    """What a stamped predictor's results are kept under: of the package's own its name, of others also the text."""
    return [repr(of), of.function.text] if isinstance(of.function, _Stamped) else [of.name]
