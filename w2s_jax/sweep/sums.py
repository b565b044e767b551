"""What one process's rows add up to: a model's own sums, and those of strong times weak features, many models at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from w2s_jax._core.arrays import bucket
from w2s_jax.moments import ModelMoments, Shift
from w2s_jax.ranking.cells import (
    BLOCK_ROWS,
    ModelRows,
    cell_products,
    cell_sums,
    labels_of,
    on_devices,
    over_rows,
    row_blocks,
    side_by_side,
    total,
)
from w2s_jax.sweep.label_sets import SweepRows

BLOCK_BYTES = 128 << 20  # of one block of rows of all the models that are read together
WIDTH_STEP = 256  # features of a group: groups are few and wide, and a bucket's steps would pad them by an eighth


def model_sums(
    model: ModelRows,
    rows: SweepRows,
    *,
    span: tuple[int, int] | None = None,
    mesh: Mesh | None = None,
    precision: str = "float32",
) -> ModelMoments:
    """A model's sums per cell over the rows `span` (default all), padded to its bucket's width.

    Args:
        mesh: devices that share the rows of every block.
        precision: of the products of features, one that the devices have.

    Raises:
        InputError: NaN or infinite entries.
    """
    width, dtype = bucket(model.width), model.shift.dtype
    sides = [lambda block: side_by_side([model], width, block), lambda block: labels_of(rows, block, dtype)]
    sums = total(_sums_of_blocks(cell_sums, sides, width * dtype.itemsize, rows, span, mesh, precision))
    shift = np.pad(model.shift[0], (0, width - model.width))  # by JAX each width would compile
    return ModelMoments(sums if mesh is None else jax.device_get(sums), Shift(jnp.asarray(shift)))


def cross_sums(
    strong: Sequence[ModelRows],
    weak: Sequence[ModelRows],
    rows: SweepRows,
    *,
    span: tuple[int, int] | None = None,
    mesh: Mesh | None = None,
    precision: str = "float32",
) -> np.ndarray:
    """Sums of strong times weak features per cell, all models side by side, (J, sum d_s, sum d_w); arguments as above."""
    widths = [sum(model.width for model in side) for side in (strong, weak)]
    padded = [-(-width // WIDTH_STEP) * WIDTH_STEP for width in widths]
    sides = [
        lambda block, side=side, width=width: side_by_side(side, width, block)
        for side, width in zip((strong, weak), padded, strict=True)
    ]
    row_bytes = strong[0].shift.dtype.itemsize * sum(padded)
    found = total(_sums_of_blocks(cell_products, sides, row_bytes, rows, span, mesh, precision))
    return np.asarray(found)[:, : widths[0], : widths[1]]


def _sums_of_blocks(
    function: Callable,
    sides: Sequence[Callable],
    row_bytes: int,
    rows: SweepRows,
    span: tuple[int, int] | None,
    mesh: Mesh | None,
    precision: str,
) -> Iterator[Any]:
    """The function of what `sides` read of every block of rows; all devices share a block's rows."""
    axes, share = ((), 1) if mesh is None else (mesh.axis_names, mesh.size)
    by_row = P(None, axes) if axes else P()
    sum_up = over_rows(function, mesh, precision, (by_row,) * len(sides), P(), axes)
    limit = min(BLOCK_ROWS, max(256, BLOCK_BYTES // row_bytes))
    for block in row_blocks(rows.layouts, span or (0, rows.n), limit, share):
        yield sum_up(*(on_devices(read(block), mesh, by_row) for read in sides))
