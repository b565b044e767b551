"""Rows to cells to sums: the one way from a model's rows to its moments, for rankings and sweeps.

Rows are read in blocks and laid out as (cells, rows, features) about a shift, cells filled up with zeros, so that one product
gives the moments of every cell. Several layouts of the same rows (folds.py) may be wanted at once: their cells stand one after
another in all sums. A block sum is compensated with those before it; sums run over a range of rows, so that several processes
may each take their own and add up what they have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from w2s_jax._core.arrays import label_products, matmul
from w2s_jax._core.checks import require_finite
from w2s_jax._core.cpu import gram, host_zeros
from w2s_jax._core.normalize import COMMON, Normalize, rounding_of
from w2s_jax.devices.mesh import put
from w2s_jax.moments import Sums, Tree, add_compensated
from w2s_jax.ranking.folds import Layout

BLOCK_ROWS = 16384

ByLayout = tuple[Any, ...]  # one array for each layout, its cells in front of the rows


class ModelRows(NamedTuple):
    """A model's rows: what messages call it, anything with `shape`, `dtype` and row slices, the point (1, d) that sums are taken
    about, in the dtype of sums, and the relative rounding of its numbers (_core/normalize.py)."""

    name: str
    rows: Any
    shift: np.ndarray
    rounding: float = COMMON

    @property
    def width(self) -> int:
        """Features per row."""
        return self.rows.shape[1]


def about_first_row(name: str, rows: Any, dtype: Any, normalize: Normalize = "scale") -> ModelRows:
    """Rows whose sums are taken about the first: close enough to the mean that they lose no digits."""
    with np.errstate(over="ignore"):  # the model is named when its squares overflow
        return ModelRows(name, rows, np.asarray(rows[0:1]).astype(dtype), rounding_of(rows.dtype, normalize))


@dataclass(frozen=True)
class RowCells:
    """n rows by cell, in one or several layouts, and label columns `targets` (n, C), 0 where there are none."""

    layouts: tuple[Layout, ...]
    targets: np.ndarray | None

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.layouts[0].cell)

    def of(self, layout: int) -> slice:
        """Where a layout's cells are among all cells."""
        start = sum(other.cells for other in self.layouts[:layout])
        return slice(start, start + self.layouts[layout].cells)

    @cached_property
    def counts(self) -> np.ndarray:
        """Rows of each cell (J,)."""
        return np.concatenate([np.bincount(layout.cell, minlength=layout.cells) for layout in self.layouts]).astype(
            float
        )

    @cached_property
    def label_sums(self) -> tuple[Any, Any]:
        """Sums of the label columns and of their squares over each cell's rows (J, C), None without labels."""
        if self.targets is None:
            return None, None
        cells = [layout.cell == j for layout in self.layouts for j in range(layout.cells)]
        y, yy = (np.stack([column[rows].sum(0) for rows in cells]) for column in (self.targets, self.targets**2))
        return y, yy

    def with_labels(self, sums: Sums) -> Sums:
        """Sums of features with what rows and labels alone add up to, which is known exactly."""
        y, yy = self.label_sums
        cast = lambda x: None if x is None else x.astype(sums.hh.dtype)
        return sums._replace(n=cast(self.counts), y=cast(y), yy=cast(yy))


class RowBlock(NamedTuple):
    """Rows `start` to `stop`; by layout which of them, counted from `start`, are in each cell, and the room in a cell."""

    start: int
    stop: int
    members: tuple[list[Any], ...]
    capacity: tuple[int, ...]

    def zeros(self, lead: tuple[int, ...], width: int, dtype: Any) -> list[np.ndarray]:
        """By layout arrays (*lead, cells, capacity, width) to fill."""
        pairs = zip(self.members, self.capacity, strict=True)
        return [host_zeros((*lead, len(cells), capacity, width), dtype) for cells, capacity in pairs]


def row_blocks(layouts: Sequence[Layout], span: tuple[int, int], limit: int = 0, share: int = 1) -> Iterator[RowBlock]:
    """Equal blocks of the rows `span`, no more than `limit` each; in all of them a cell has room for a multiple of `share`."""
    first, last = span
    size = block_size(last - first, limit or BLOCK_ROWS)
    starts = range(first, last, size)
    capacity = tuple(-(-_fullest(layout, starts, last) // share) * share for layout in layouts)
    for start in starts:
        stop = min(start + size, last)
        yield RowBlock(start, stop, tuple(_members(layout, start, stop) for layout in layouts), capacity)


def block_size(n: int, limit: int) -> int:
    """Rows of a block: as few blocks as the limit allows, equally long, as the last is filled up to the length of the others."""
    return -(-n // -(-n // limit))


def _fullest(layout: Layout, starts: range, last: int) -> int:
    """Rows of a block's fullest cell, in steps of 8."""
    fullest = max(int(np.bincount(layout.cell[a : min(a + starts.step, last)]).max()) for a in starts)
    return -(-fullest // 8) * 8


def _members(layout: Layout, start: int, stop: int) -> list[Any]:
    """The rows of each cell; a slice, which copies nothing, where one has all."""
    if layout.cells == 1:
        return [slice(None)]
    return [np.nonzero(layout.cell[start:stop] == cell)[0] for cell in range(layout.cells)]


def read_block(model: ModelRows, block: RowBlock, into: Sequence[np.ndarray]) -> None:
    """Writes a block of a model's rows about its shift into zeros (cells, capacity, d), one array for each layout.

    Raises:
        InputError: NaN or infinite entries.
    """
    rows = np.asarray(model.rows[block.start : block.stop])
    require_finite(f"the values of {model.name}", rows, block.start)
    # Subtracted in double precision where the file has it, also if sums do not.
    wide = rows.dtype if rows.dtype == np.float64 else model.shift.dtype
    with np.errstate(over="ignore"):
        for cells, members in zip(into, block.members, strict=True):
            for cell, chosen in zip(cells, members, strict=True):
                taken = rows[chosen].astype(wide, copy=False)
                np.subtract(taken, model.shift, out=cell[: len(taken)], casting="same_kind")


def labels_of(rows: RowCells, block: RowBlock, dtype: Any) -> ByLayout | None:
    """The label columns of a block's rows by cell (cells, capacity, C)."""
    if rows.targets is None:
        return None
    found = block.zeros((), rows.targets.shape[1], dtype)
    for cells, members in zip(found, block.members, strict=True):
        for cell, chosen in zip(cells, members, strict=True):
            taken = rows.targets[block.start : block.stop][chosen]
            cell[: len(taken)] = taken
    return tuple(found)


def side_by_side(models: Sequence[ModelRows], width: int, block: RowBlock) -> ByLayout:
    """A block of several models' rows, their features beside each other and behind them zeros (cells, capacity, width)."""
    found, place = block.zeros((), width, models[0].shift.dtype), 0
    for model in models:
        read_block(model, block, [part[..., place : place + model.width] for part in found])
        place += model.width
    return tuple(found)


def stacked(models: Sequence[ModelRows], width: int, size: int, block: RowBlock) -> ByLayout:
    """A block of several models' rows, padded to one width (size, cells, capacity, width); behind them copies of the last."""
    found = block.zeros((size,), width, models[0].shift.dtype)
    for i, model in enumerate(models):
        read_block(model, block, [part[i, ..., : model.width] for part in found])
    for part in found:
        part[len(models) :] = part[len(models) - 1]
    return tuple(found)


def on_devices(arrays: Any, mesh: Mesh | None, spec: P) -> Any:
    """Arrays on the default device, or cut over a mesh."""
    return jax.device_put(arrays) if mesh is None else put(arrays, mesh, spec)


@partial(jax.jit, static_argnames="precision")
def cell_sums(x: ByLayout, y: ByLayout | None, precision: str) -> Sums:
    """What rows about their shift (cells, capacity, d) add up to per cell: h (J, d), hh (J, d, d), with labels hy (J, d, C)."""
    of_cells = lambda function, *args: jnp.concatenate(
        [_per_cell(function, *parts) for parts in zip(*args, strict=True)]
    )
    sums = Sums(None, of_cells(lambda a: jnp.sum(a, 0), x), of_cells(lambda a: gram(a, a, precision), x))
    return sums if y is None else sums._replace(hy=of_cells(label_products, x, y))


@partial(jax.jit, static_argnames="precision")
def cell_products(left: ByLayout, right: ByLayout, precision: str) -> Array:
    """Sums of products of two sides' rows per cell (J, d_left, d_right)."""
    product = lambda a, b: matmul(a.T, b, precision)
    return jnp.concatenate([_per_cell(product, *parts) for parts in zip(left, right, strict=True)])


def _per_cell(function: Callable, *rows: Array) -> Array:
    """A function of every cell's rows; a single cell is no batch of one, which takes a CPU a fifth longer."""
    return function(*(x[0] for x in rows))[None] if len(rows[0]) == 1 else jax.vmap(function)(*rows)


@lru_cache
def over_rows(
    function: Callable[..., Tree], mesh: Mesh | None, precision: str, specs: tuple, out: P, axes: tuple[str, ...]
) -> Callable[..., Tree]:
    """A function of blocks at the products' precision; over a mesh each device takes its own rows, along `axes`, and the sums of
    a block meet in one all-reduce."""
    if mesh is None:
        return partial(function, precision=precision)

    def local(*rows: Any) -> Any:
        return jax.lax.psum(function(*rows, precision=precision), axes)

    return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False))


def total(parts: Iterable[Tree]) -> Tree:
    """Compensated sum of at least one pytree."""
    parts = iter(parts)
    so_far, lost = next(parts), None
    for part in parts:
        so_far, lost = _add(so_far, jax.tree.map(jnp.zeros_like, so_far) if lost is None else lost, part)
    return so_far


_add = jax.jit(add_compensated, donate_argnums=(0, 1))
