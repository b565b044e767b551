"""Rows of many files by cell: which rows belong together for a sweep's label sets and folds, and sums over them in blocks.

Every distinct set of labelled rows has a layout (folds.py) of its cells; the cells of all layouts stand side by side. Sums
run over a range of rows, so that several processes may each take their own range and add up what they have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from w2s_jax._core.arrays import bucket, label_products, matmul
from w2s_jax._core.checks import InputError, require_finite
from w2s_jax._core.cpu import host_zeros
from w2s_jax.moments import ModelMoments, Shift, Sums, Tree, add_compensated
from w2s_jax.ranking.folds import Layout, Roles, block_size, lay_out
from w2s_jax.sweep.pairs import Cells
from w2s_jax.sweep.row_digest import RowDigest

BLOCK_ROWS = 16384
GROUP_STEP = 256  # features: groups are few and wide, and a bucket's steps would pad them by an eighth
BLOCK_BYTES = 128 << 20  # of one block of rows of all the models that are read together

Index = tuple[Array | None, ...]  # by layout: which rows of a block are in each cell, None where one cell has all


class LabelSet(NamedTuple):
    """Label columns `start` to `stop`, which layout and set of rows they live on, labelled rows, and mean square (summed)."""

    name: str
    start: int
    stop: int
    layout: int
    set: int
    rows: int
    energy: float


class Source(NamedTuple):
    """A model's rows: anything with `shape`, `dtype` and row slices, and the first row (1, d), about which sums are taken."""

    name: str
    rows: Any
    shift: np.ndarray

    @property
    def width(self) -> int:
        """Features per row."""
        return self.rows.shape[1]


@dataclass(frozen=True)
class RowCells:
    """All layouts of the n rows; `targets` (n, C): every label set's columns, 0 where unlabelled; `energy` (R, C)."""

    layouts: tuple[Layout, ...]
    cells: Cells
    label_sets: tuple[LabelSet, ...]
    targets: np.ndarray
    energy: np.ndarray

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.targets)

    def of(self, layout: int) -> slice:
        """Where a layout's cells are among all cells."""
        start = sum(other.cells for other in self.layouts[:layout])
        return slice(start, start + self.layouts[layout].cells)


def row_cells(
    n: int, labels: Mapping[str, np.ndarray], groups: np.ndarray | None, folds: int, seed: int, normalize: bool
) -> RowCells:
    """Lays out n rows for label sets (n,) or (n, c), NaN where unlabelled; without folds a cell is all or some rows.

    With `normalize` labels are taken about their mean (heads have an intercept).

    Raises:
        InputError: labels that do not fit, hold infinities or nothing but NaN or zeros; too few rows for the folds.
    """
    checked = {name: _checked_labels(name, y, n) for name, y in labels.items()}
    masks: dict[bytes, np.ndarray] = {mask.tobytes(): mask for _, mask in checked.values()}
    masks = masks or {b"": np.zeros(n, bool)}
    layouts = []
    for key, mask in masks.items():
        try:
            layouts.append(_laid_out(n, mask, groups, folds, seed))
        except InputError as error:
            names = [name for name, (_, of) in checked.items() if of.tobytes() == key]
            raise InputError(f"labels {names[0]!r}: {error}" if names else str(error)) from error
    offsets = np.cumsum([0, *(layout.cells for layout in layouts)])
    first = np.arange(offsets[-1]) < offsets[1]
    sets, set_of = [first], []
    for layout, offset in zip(layouts, offsets, strict=False):
        partial_ = layout.cells > layout.folds
        if partial_:
            place = np.arange(offsets[-1]) - offset
            sets.append((place >= layout.folds) & (place < layout.cells))
        set_of.append(len(sets) - 1 if partial_ else 0)
    label_sets, columns = [], []
    for name, (y, mask) in checked.items():
        layout = list(masks).index(mask.tobytes())
        centred = np.where(mask[:, None], y - y[mask].mean(0) * normalize, 0)
        start = sum(c.shape[1] for c in columns)
        square = float(np.sum(centred**2) / mask.sum())
        label_sets.append(LabelSet(name, start, start + y.shape[1], layout, set_of[layout], int(mask.sum()), square))
        columns.append(centred)
    targets = np.concatenate(columns, 1) if columns else np.zeros((n, 1))
    energy = np.zeros((len(sets), targets.shape[1]))
    for s in label_sets:
        energy[s.set, s.start : s.stop] = np.sum(targets[:, s.start : s.stop] ** 2, 0) / s.rows
    counts = np.concatenate([np.bincount(layout.cell, minlength=layout.cells) for layout in layouts])
    cells = Cells(counts.astype(float), np.stack(sets).astype(float), _per_cell(layouts, targets))
    return RowCells(tuple(layouts), cells, tuple(label_sets), targets, energy)


def _per_cell(layouts: Sequence[Layout], columns: np.ndarray) -> np.ndarray:
    """Sums of columns (n, C) over the rows of each cell (J, C)."""
    sums = [np.stack([columns[layout.cell == j].sum(0) for j in range(layout.cells)]) for layout in layouts]
    return np.concatenate(sums)


def squares_per_cell(rows: RowCells) -> np.ndarray:
    """Sums of squared labels over the rows of each cell (J, C)."""
    return _per_cell(rows.layouts, rows.targets**2)


def _laid_out(n: int, mask: np.ndarray, groups: np.ndarray | None, folds: int, seed: int) -> Layout:
    if folds:
        return lay_out(n, folds, mask, groups, seed)
    mixed = bool(mask.any() and not mask.all())
    nobody = np.zeros((0, 1 + mixed))
    return Layout(mask.astype(int) * mixed, 1 + mixed, 1, n, Roles(nobody, nobody, nobody), None)


def _checked_labels(name: str, y: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n, c) in float64 with 0 where there are none, and which rows have one."""
    if y.ndim not in (1, 2) or y.shape[0] != n or 0 in y.shape:
        raise InputError(f"labels {name!r} must have shape ({n},) or ({n}, outputs), got {y.shape}")
    y = y.astype(float).reshape(n, -1)
    mask = np.asarray(~np.isnan(y).any(axis=1))
    if not mask.any():
        raise InputError(f"labels {name!r} must have at least one labelled row, got none")
    y = np.where(mask[:, None], y, 0)
    require_finite(f"labels {name!r}", y)
    if not y.any():
        raise InputError(f"labels {name!r} must not be zero in every labelled row")
    return y, mask


def model_sums(
    model: Source,
    rows: RowCells,
    *,
    span: tuple[int, int] | None = None,
    digest: RowDigest | None = None,
    mesh: Mesh | None = None,
    precision: str = "float32",
) -> ModelMoments:
    """A model's sums per cell over the rows `span` (default all), padded to its bucket's width.

    Args:
        digest: is fed the rows.
        mesh: devices that share the rows of every block.
        precision: of the products of features, one that the devices have.

    Raises:
        InputError: NaN or infinite entries.
    """
    total: Any = None
    add = _over_rows(_model_block, mesh, precision)
    for (block,), y, index in _blocks([[model]], [bucket(model.width)], rows, span, mesh, digest):
        total = _plus(total, add, block, y, index)
    first, second, hy = total[0] if mesh is None else jax.device_get(total[0])
    shift = np.pad(model.shift[0], (0, first.shape[1] - model.width))  # by JAX each width would compile
    return ModelMoments(Sums(None, first, second, None, hy), Shift(jnp.asarray(shift)))


def cross_sums(
    strong: Sequence[Source],
    weak: Sequence[Source],
    rows: RowCells,
    *,
    span: tuple[int, int] | None = None,
    mesh: Mesh | None = None,
    precision: str = "float32",
) -> np.ndarray:
    """Sums of strong times weak features per cell, all models side by side, (J, sum d_s, sum d_w); arguments as above."""
    widths = [sum(model.width for model in side) for side in (strong, weak)]
    total: Any = None
    add = _over_rows(_cross_block, mesh, precision)
    padded = [-(-width // GROUP_STEP) * GROUP_STEP for width in widths]
    for (s, w), _, index in _blocks([strong, weak], padded, rows, span, mesh):
        total = _plus(total, add, s, w, index)
    return np.asarray(total[0] if mesh is None else jax.device_get(total[0]))[:, : widths[0], : widths[1]]


def _plus(
    total: tuple[Tree, Tree | None] | None, function: Callable[..., Tree], *block: Any
) -> tuple[Tree, Tree | None]:
    """Compensated sum so far, and its rounding, None while there is but one block."""
    if total is None:
        return function(*block), None
    so_far, lost = total
    return _add(so_far, jax.tree.map(jnp.zeros_like, so_far) if lost is None else lost, function, *block)


@partial(jax.jit, static_argnums=2, donate_argnums=(0, 1))
def _add(total: Tree, lost: Tree, function: Callable[..., Tree], *block: Any) -> tuple[Tree, Tree]:
    return add_compensated(total, lost, function(*block))


@lru_cache
def _over_rows(function: Callable[..., Tree], mesh: Mesh | None, precision: str) -> Callable[..., Tree]:
    """The function of blocks and of which of their rows are in a cell, those dealt to all devices; one all-reduce."""
    function = partial(function, precision=precision)
    if mesh is None:
        return function
    every = mesh.axis_names

    def local(blocks: tuple[Array, ...], index: tuple[Array, ...]) -> Tree:
        return jax.lax.psum(function(*blocks, index), every)

    spread_out = jax.shard_map(local, mesh=mesh, in_specs=(P(), P(None, every)), out_specs=P(), check_vma=False)
    return jax.jit(lambda *args: spread_out(args[:-1], args[-1]))


@partial(jax.jit, static_argnames="precision")
def _model_block(block: Array, y: Array, index: Index, precision: str) -> tuple[Array, Array, Array]:
    x, labels = _by_cell(block, index), _by_cell(y, index)
    first = jnp.concatenate([jnp.sum(part, 1) for part in x])
    with_labels = [jax.vmap(label_products)(*both) for both in zip(x, labels, strict=True)]
    return first, _products(x, x, precision), jnp.concatenate(with_labels)


@partial(jax.jit, static_argnames="precision")
def _cross_block(s: Array, w: Array, index: Index, precision: str) -> Array:
    return _products(_by_cell(s, index), _by_cell(w, index), precision)


def _by_cell(block: Array, index: Index) -> list[Array]:
    """The rows of every layout's cells (cells, capacity, d), behind them zeros."""
    return [block[None] if i is None else block[i] for i in index]


def _products(left: list[Array], right: list[Array], precision: str) -> Array:
    """Sums of products per cell; a single cell's is no batch of one, which takes a CPU a fifth longer."""

    def of_cells(a: Array, b: Array) -> Array:
        single = len(a) == 1
        return matmul(a[0].T, b[0], precision)[None] if single else matmul(jnp.swapaxes(a, 1, 2), b, precision)

    return jnp.concatenate([of_cells(a, b) for a, b in zip(left, right, strict=True)])


def _blocks(
    sides: Sequence[Sequence[Source]],
    widths: Sequence[int],
    rows: RowCells,
    span: tuple[int, int] | None,
    mesh: Mesh | None = None,
    digest: RowDigest | None = None,
) -> Iterator[tuple[list[Array], Array, Index]]:
    """Blocks of rows: each side's models side by side (rows + 1, width), labels, and the rows of every cell by layout.

    The last row is zero: cells are filled up with it. No index is needed where one cell has all rows, on one device.
    """
    first, last = span or (0, rows.n)
    dtype = sides[0][0].shift.dtype
    limit = min(BLOCK_ROWS, max(256, BLOCK_BYTES // (dtype.itemsize * sum(widths))))
    size = -(-block_size(last - first, limit) // 8) * 8
    starts = range(first, last, size)
    share = 1 if mesh is None else mesh.size
    capacity = [-(-_capacity(layout, starts, last, size) // share) * share for layout in rows.layouts]
    for start in starts:
        stop = min(start + size, last)
        sized = zip(sides, widths, strict=True)
        blocks = [jax.device_put(side_by_side(side, width, start, stop, size + 1, digest)) for side, width in sized]
        y = np.zeros((size + 1, rows.targets.shape[1]), dtype)
        y[: stop - start] = rows.targets[start:stop]
        index = tuple(
            None if mesh is None and layout.cells == 1 else _index(layout, start, stop, c, size)
            for layout, c in zip(rows.layouts, capacity, strict=True)
        )
        yield blocks, jnp.asarray(y), index


def side_by_side(
    models: Sequence[Source], width: int, start: int, stop: int, height: int, digest: RowDigest | None = None
) -> np.ndarray:
    """Rows of several models about their shifts, padded with zeros (height, width).

    Raises:
        InputError: NaN or infinite entries.
    """
    dtype, place = models[0].shift.dtype, 0
    side = host_zeros((height, width), dtype)
    for model in models:
        block = np.asarray(model.rows[start:stop])
        require_finite(f"the values of model {model.name!r}", block, start)
        if digest is not None:
            digest.feed(start, block)
        # Subtracted in double precision where the file has it, also if sums do not.
        wide = block.dtype if block.dtype.kind == "f" and block.dtype.itemsize > 4 else dtype
        rows = side[: stop - start, place : place + model.width]
        with np.errstate(over="ignore"):
            np.subtract(block.astype(wide, copy=False), model.shift, out=rows, casting="same_kind")
        place += model.width
    return side


def _capacity(layout: Layout, starts: range, last: int, size: int) -> int:
    """Rows of a block's fullest cell, in steps of 8."""
    fullest = max(int(np.bincount(layout.cell[a : min(a + size, last)]).max()) for a in starts)
    return min(size, -(-fullest // 8) * 8)


def _index(layout: Layout, start: int, stop: int, capacity: int, size: int) -> Array:
    """Places in the block of the rows of each cell (cells, capacity), then of its last row, which is zero."""
    index = np.full((layout.cells, capacity), size, np.int32)
    for cell in range(layout.cells):
        members = np.nonzero(layout.cell[start:stop] == cell)[0]
        index[cell, : len(members)] = members
    return jnp.asarray(index)
