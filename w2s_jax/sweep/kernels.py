"""Pairs met by n x n kernels, where that takes fewer products than the features of both.

The product of all features costs n d_s d_w for every pair. Where a cut keeps k << d eigenvectors norms need only the moment of
the k_s by k_w projected features, and CKA the inner product of two kernels, `||H_s^T H_w||_F^2 = <K_s, K_w>` (Kornblith et al.
2019, eq. 3), each of which is computed once for many pairs. Kernels are kept as tiles on and above the diagonal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from w2s_jax._core.arrays import bucket, matmul
from w2s_jax.ranking.cells import ModelRows, RowBlock, block_size, side_by_side
from w2s_jax.sweep.label_sets import SweepRows
from w2s_jax.sweep.pairs import Met, Model, batches

TILE = 512  # rows of a kernel's tile
TOGETHER = 8  # weak models at once: each of a strong kernel's tiles is read once for all of them


class KeptSize(NamedTuple):
    """A model's features, no more than rows, and how many of its eigenvectors are kept."""

    width: int
    kept: int


class Kernel(NamedTuple):
    """A model's tiles (T, b b), of rows centred and of unit mean square, and its prepared rows in the kept eigenvectors of every
    set of rows, zero outside of it (R, q b, k)."""

    tiles: Array
    kept: Array


def products(n: int, sets: int, strong: Sequence[KeptSize], weak: Sequence[KeptSize]) -> int:
    """Multiplications that all pairs of two sides take; the product of all their features takes n d_s d_w."""
    k_s, k_w = (sum(size.kept for size in side) for side in (strong, weak))
    of_models = sum(kernel_entries(n) * size.width + n * sets * size.width * size.kept for size in (*strong, *weak))
    return of_models + kernel_entries(n) * len(strong) * len(weak) + n * sets * k_s * k_w


def kernel_entries(n: int) -> int:
    """Entries of a kernel's tiles."""
    slabs, rows = _slabs(n)
    return slabs * (slabs + 1) // 2 * rows**2


def read_strong(models: Sequence[tuple[ModelRows, Model]], rows: SweepRows, precision: str) -> Kernel:
    """Strong models, whole rows and what `leading` leaves of the models, ready to meet weak ones: tiles (S, T, b b) such that
    their products with weak ones add up to CKA, and kept features of all side by side (R, q b, sum k_s).

    Raises:
        InputError: NaN or infinite entries.
    """
    read = [_read(source, model, rows, precision) for source, model in models]
    first, second = np.triu_indices(_slabs(rows.n)[0])
    twice = np.where(first == second, 1, 2)[:, None]  # tiles off the diagonal stand for two
    scale = [1 / (model.spread * rows.n * rows.n) for _, model in models]
    tiles = jnp.stack([one.tiles * (twice * factor) for one, factor in zip(read, scale, strict=True)])
    return Kernel(tiles, jnp.concatenate([one.kept for one in read], -1))


def meet_weak(
    models: Mapping[str, tuple[ModelRows, Model]],
    strong: Kernel,
    sizes: Sequence[int],
    rows: SweepRows,
    precision: str,
) -> dict[str, list[Met]]:
    """Weak models' meetings with each of the strong ones, of which so many eigenvectors (`sizes`) are kept.

    Raises:
        InputError: NaN or infinite entries.
    """
    counts = np.asarray(rows.sets @ rows.counts, strong.kept.dtype)
    started: list[tuple[list[str], tuple[Array, Array]]] = []
    found = {}
    shapes = {name: model.values.shape for name, (_, model) in models.items()}
    for names in batches(shapes, lambda shape, count: block_size(count, TOGETHER)):
        read = [_read(*models[name], rows, precision) for name in names]
        spread = jnp.stack([models[name][1].spread for name in names])
        started.append((names, _meet(read, spread, strong, counts)))
        # One behind: rows are read while the device computes, and no more than two batches are in memory.
        found |= _fetched(*started.pop(0), sizes) if len(started) > 1 else {}
    return found | _fetched(*started.pop(), sizes)


def _fetched(names: Sequence[str], met: tuple[Array, Array], sizes: Sequence[int]) -> dict[str, list[Met]]:
    cka, rotated = jax.device_get(met)
    parts = np.split(rotated, np.cumsum(sizes)[:-1], 2)
    return {name: [Met(cka[i, j], part[i]) for j, part in enumerate(parts)] for i, name in enumerate(names)}


def _slabs(n: int) -> tuple[int, int]:
    """How many slabs n rows make, and of how many rows each."""
    rows = -(-block_size(n, TILE) // 8) * 8
    return -(-n // rows), rows


def _read(source: ModelRows, model: Model, rows: SweepRows, precision: str) -> Kernel:
    """A model's kernel and kept features, from its whole rows."""
    slabs, height = _slabs(rows.n)
    block = RowBlock(0, rows.n, ([slice(None)],), (slabs * height,))
    x = jax.device_put(side_by_side([source], bucket(source.width), block)[0][0])
    cell = np.concatenate([np.eye(layout.cells)[layout.cell] for layout in rows.layouts], 1)
    inside = np.pad(rows.sets @ cell.T, ((0, 0), (0, len(x) - rows.n))) > 0
    return _kernel(x, model, inside, slabs, precision)


@partial(jax.jit, static_argnames=("slabs", "precision"))
def _kernel(x: Array, model: Model, inside: Array, slabs: int, precision: str) -> Kernel:
    """Of rows about their shift (q b, d), zeros behind them; `inside` (R, q b): which are in each set, the first being all."""
    centred = jnp.where(inside[0, :, None], x - model.mean, 0)
    unit = (centred * model.unit).reshape(slabs, -1, x.shape[1])
    seen = (centred + model.origin) * model.factor
    kept = jnp.stack(
        [matmul(jnp.where(chosen[:, None], seen, 0), v) for chosen, v in zip(inside, model.vectors, strict=True)]
    )
    tile = lambda corner: matmul(unit[corner[0]], unit[corner[1]].T, precision).reshape(-1)
    return Kernel(jax.lax.map(tile, tuple(jnp.asarray(x) for x in np.triu_indices(slabs))), kept)


@jax.jit
def _meet(weak: list[Kernel], spread: Array, strong: Kernel, counts: Array) -> tuple[Array, Array]:
    """Weak models with all strong ones: CKA (B, S), cross moments (B, R, sum k_s, k_w); `spread` (B,) is the weak models',
    `counts` (R,) the rows of every set."""
    flat = lambda tiles: tiles.reshape(len(tiles), -1)
    cka = matmul(flat(jnp.stack([one.tiles for one in weak])), flat(strong.tiles).T) / spread[:, None]
    kept = jnp.concatenate([one.kept for one in weak], -1)
    cross = matmul(jnp.swapaxes(strong.kept, 1, 2), kept) / counts[:, None, None]
    return cka, jnp.stack(jnp.split(cross, len(weak), -1))
