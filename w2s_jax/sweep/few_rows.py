"""Models and pairs of fewer rows than features, from n x n kernels.

A model of n < d rows has the eigenvalues of its kernel, and eigenvectors `H^T u / sqrt(n lambda)`. The product of all features
costs n d_s d_w for every pair, and where a cut keeps k << d eigenvectors norms need only the moment of the k_s by k_w
projected features. CKA needs the sum of squares of all of it, which is the inner product of two kernels:
`||H_s^T H_w||_F^2 = <K_s, K_w>` (Kornblith et al. 2019, eq. 3), and each kernel is computed once for many pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from w2s_jax._arrays import bucket, matmul
from w2s_jax.folds import block_size
from w2s_jax.spectrum import Spectrum, numerically_zero, spectrum
from w2s_jax.sweep.pairs import Met, Model, batches
from w2s_jax.sweep.row_cells import BLOCK_BYTES, RowCells, Source, side_by_side
from w2s_jax.sweep.row_digest import RowDigest

TILE = 512  # rows of a kernel's tile
TOGETHER = 8  # weak models at once: each of a strong kernel's tiles is read once for all of them


class Size(NamedTuple):
    """A model's features, and how many of its eigenvectors are kept."""

    width: int
    kept: int


class ModelRows(NamedTuple):
    """A batch of models' rows: centred and of unit mean square, in slabs (B, q, b, d), and as heads see them, in the kept
    eigenvectors of every set of rows and zero outside of it (B, R, q b, k)."""

    unit: Array
    kept: Array


class StrongRows(NamedTuple):
    """Several strong models: tiles of their kernels (T, S, b b), such that a sum of products is CKA, and the features
    `ModelRows.kept` of all, side by side (R, q b, sum k_s)."""

    tiles: Array
    kept: Array


def products(n: int, sets: int, strong: Sequence[Size], weak: Sequence[Size]) -> int:
    """Multiplications that all pairs of two sides take; the product of all their features takes n d_s d_w."""
    k_s, k_w = (sum(size.kept for size in side) for side in (strong, weak))
    of_models = sum(kernel_entries(n) * size.width + n * sets * size.width * size.kept for size in (*strong, *weak))
    return of_models + kernel_entries(n) * len(strong) * len(weak) + n * sets * k_s * k_w


def kernel_entries(n: int) -> int:
    """Entries of a kernel's tiles on and above the diagonal."""
    slabs, rows = _slabs(n)
    return slabs * (slabs + 1) // 2 * rows**2


def model_of_rows(source: Source, rows: RowCells, normalize: bool, digest: RowDigest) -> Model:
    """What `model_from_sums` makes of a model's sums, of its n < d rows; without second moments and their labels, which only
    folds need, and with n eigenpairs.

    Raises:
        InputError: NaN or infinite entries.
    """
    height, width = -(-rows.n // 8) * 8, bucket(source.width)
    x = jax.device_put(side_by_side([source], width, 0, rows.n, height, digest))
    y = np.pad(rows.targets, ((0, height - rows.n), (0, 0)))
    shift = np.pad(source.shift[0], (0, width - source.width))
    y, members, sets = (array.astype(x.dtype) for array in (y, _members(rows, height), rows.cells.sets))
    return _model(x, y, members, sets, shift, normalize)


@partial(jax.jit, static_argnames="normalize")
def _model(x: Array, y: Array, members: Array, sets: Array, shift: Array, normalize: bool) -> Model:
    """`model_of_rows` of rows about their shift and labels, zeros behind them, and which cells they are in (m, J)."""
    inside = matmul(members, sets.T)
    counts = jnp.sum(inside, 0)
    mean = jnp.sum(x, 0) / counts[0]
    centred = (x - mean) * inside[:, :1]
    kernel = matmul(centred, centred.T) / counts[0]
    variance = jnp.trace(kernel)
    size = jnp.where(variance > 0, variance, 1)
    spread = jnp.sqrt(jnp.sum(jnp.square(kernel / size)))
    root, origin = (jnp.sqrt(size), 0 * mean) if normalize else (jnp.ones_like(size), shift + mean)
    seen = centred / root + origin

    def of_set(args: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        chosen, count = args
        own = seen * chosen[:, None] / jnp.sqrt(count)
        eigen = spectrum(matmul(own, own.T), count)
        vectors = _features(own, eigen)
        return eigen.values, vectors, matmul(vectors.T, matmul(own.T, y)) / jnp.sqrt(count)

    values, vectors, labels = jax.lax.map(of_set, (inside.T, counts))
    none = jnp.zeros((members.shape[1], 0, 0), x.dtype)
    first = matmul(members.T, centred) / root
    return Model(mean, origin, root, spread, variance, first, none, none, values, vectors, labels)


def _features(own: Array, eigen: Spectrum) -> Array:
    """Eigenvectors of `own^T own` (d, m) from those of `own own^T`, zero where the eigenvalue is numerically zero."""
    is_kept = eigen.values > numerically_zero(eigen.values)
    inverse_root = jnp.where(is_kept, jax.lax.rsqrt(jnp.where(is_kept, eigen.values, 1)), 0)
    vectors = matmul(own.T, eigen.vectors) * inverse_root
    # Each has rounding of larger ones that the root has magnified: a Gram-Schmidt step takes it out.
    return vectors - matmul(vectors, jnp.triu(matmul(vectors.T, vectors), 1))


def read_strong(models: Sequence[tuple[Source, Model]], rows: RowCells, precision: str = "float32") -> StrongRows:
    """Strong models, whole rows and what `leading` leaves of the models, ready to meet weak ones.

    Raises:
        InputError: NaN or infinite entries.
    """
    tiles, kept = [], []
    for source, model in models:
        read = _read([(source, model)], rows)
        tiles.append(_tiles(read.unit[0], model.spread, jnp.asarray(rows.n, read.unit.dtype), precision))
        kept.append(read.kept[0])
    return StrongRows(jnp.stack(tiles, 1), jnp.concatenate(kept, -1))


def meet_weak(
    models: Mapping[str, tuple[Source, Model]],
    strong: StrongRows,
    sizes: Sequence[int],
    rows: RowCells,
    precision: str = "float32",
) -> dict[str, list[Met]]:
    """Weak models' meetings with each of the strong ones, of which so many eigenvectors (`sizes`) are kept.

    Raises:
        InputError: NaN or infinite entries.
    """
    counts = np.asarray(rows.cells.sets @ rows.cells.n, strong.kept.dtype)
    started: list[tuple[list[str], tuple[Array, Array]]] = []
    found = {}
    widths = {name: model.mean.shape[0] for name, (_, model) in models.items()}
    for names in batches(widths, partial(_at_once, rows.n)):
        batch = [models[name] for name in names]
        spread = jnp.stack([model.spread for _, model in batch])
        started.append((names, _meet(_read(batch, rows), spread, strong, counts, precision)))
        # One behind: rows are read while the device computes, and no more than two batches are in memory.
        found |= _fetched(*started.pop(0), sizes) if len(started) > 1 else {}
    return found | _fetched(*started.pop(), sizes)


def _at_once(n: int, width: int, count: int) -> int:
    """How many of so many models of one width: what suits products with the strong kernels and fits a block of rows."""
    return block_size(count, max(1, min(TOGETHER, BLOCK_BYTES // (8 * n * width))))


def _fetched(names: Sequence[str], met: tuple[Array, Array], sizes: Sequence[int]) -> dict[str, list[Met]]:
    cka, rotated = jax.device_get(met)
    parts = np.split(rotated, np.cumsum(sizes)[:-1], 2)
    return {name: [Met(cka[i, j], part[i]) for j, part in enumerate(parts)] for i, name in enumerate(names)}


def _slabs(n: int) -> tuple[int, int]:
    """How many slabs n rows make, and of how many rows each."""
    rows = -(-block_size(n, TILE) // 8) * 8
    return -(-n // rows), rows


def _read(models: Sequence[tuple[Source, Model]], rows: RowCells) -> ModelRows:
    slabs, height = _slabs(rows.n)
    width = models[0][1].mean.shape[0]
    read = [jax.device_put(side_by_side([source], width, 0, rows.n, slabs * height)) for source, _ in models]
    inside = rows.cells.sets @ _members(rows, slabs * height).T > 0
    return _seen(read, [model for _, model in models], inside, slabs)


def _members(rows: RowCells, height: int) -> np.ndarray:
    """Which rows are in which cell (height, J), none of those behind them."""
    members = np.concatenate([np.eye(layout.cells)[layout.cell] for layout in rows.layouts], 1)
    return np.pad(members, ((0, height - rows.n), (0, 0)))


@partial(jax.jit, static_argnames="slabs")
def _seen(read: Sequence[Array], models: Sequence[Model], inside: Array, slabs: int) -> ModelRows:
    """Rows about their shifts (q b, d), zeros behind them, as both are needed; `inside` (R, q b), the first being all."""

    def one(x: Array, model: Model) -> ModelRows:
        centred = jnp.where(inside[0, :, None], x - model.mean, 0)
        unit = centred / jnp.sqrt(model.variance)
        kept = jnp.where(inside[..., None], matmul(centred / model.root + model.origin, model.vectors), 0)
        return ModelRows(unit.reshape(slabs, -1, x.shape[1]), kept)

    rows = [one(x, model) for x, model in zip(read, models, strict=True)]
    return jax.tree.map(lambda *x: jnp.stack(x), *rows)


def _corners(slabs: int) -> tuple[Array, Array]:
    """Which slabs meet in the tiles on and above the diagonal."""
    first, second = np.triu_indices(slabs)
    return jnp.asarray(first), jnp.asarray(second)


@partial(jax.jit, static_argnames="precision")
def _tiles(unit: Array, spread: Array, n: Array, precision: str) -> Array:
    """A strong model's tiles (T, b b) from its slabs (q, b, d); those off the diagonal stand for two."""
    first, second = _corners(len(unit))
    weight = jnp.where(first == second, 1, 2) / (spread * n * n)
    tile = lambda corner: corner[2] * matmul(unit[corner[0]], unit[corner[1]].T, precision).reshape(-1)
    return jax.lax.map(tile, (first, second, weight))


@partial(jax.jit, static_argnames="precision")
def _meet(weak: ModelRows, spread: Array, strong: StrongRows, counts: Array, precision: str) -> tuple[Array, Array]:
    """Weak models with all strong ones: CKA (B, S), cross moments (B, R, sum k_s, k_w); `spread` (B,) is the weak models',
    `counts` (R,) the rows of every set."""
    first, second = _corners(weak.unit.shape[1])

    def add(total: Array, corner: tuple[Array, Array, Array]) -> tuple[Array, None]:
        a, b, tiles = corner
        kernel = matmul(weak.unit[:, a], jnp.swapaxes(weak.unit[:, b], 1, 2), precision)
        return total + matmul(kernel.reshape(len(kernel), -1), tiles.T), None

    start = jnp.zeros((len(spread), strong.tiles.shape[1]), spread.dtype)
    total, _ = jax.lax.scan(add, start, (first, second, strong.tiles))
    sets = [_cross(strong.kept[r], weak.kept[:, r]) / counts[r] for r in range(len(counts))]
    return total / spread[:, None], jnp.stack(sets, 1)


def _cross(strong: Array, weak: Array) -> Array:
    """Sums of products (B, k_s, k_w) of features (m, k_s) with those of several models (B, m, k_w), which stand side by side."""
    product = matmul(strong.T, jnp.moveaxis(weak, 0, 1).reshape(len(strong), -1))
    return jnp.moveaxis(product.reshape(-1, len(weak), weak.shape[2]), 1, 0)
