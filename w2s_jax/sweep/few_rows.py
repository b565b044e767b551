"""Models and pairs of fewer rows than features, from n x n kernels.

A model of n < d rows has the eigenvalues of its kernel, and eigenvectors `H^T u / sqrt(n lambda)`, in which its rows are
`u sqrt(n lambda)`: only pairs that are met by features need the vectors themselves. The product of all features costs
n d_s d_w for every pair, and where a cut keeps k << d eigenvectors norms need only the moment of the k_s by k_w projected
features. CKA needs the sum of squares of all of it, which is the inner product of two kernels:
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
from jax.typing import ArrayLike

from w2s_jax._core.arrays import bucket, matmul, outer
from w2s_jax._core.factor import numerically_zero
from w2s_jax.ranking.folds import block_size
from w2s_jax.spectrum import spectrum
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
    projected = [size for size in (*strong, *weak) if size.width <= n]
    of_models = sum(kernel_entries(n) * size.width for size in (*strong, *weak))
    of_models += sum(n * sets * size.width * size.kept for size in projected)
    return of_models + kernel_entries(n) * len(strong) * len(weak) + n * sets * k_s * k_w


def kernel_entries(n: int) -> int:
    """Entries of a kernel's tiles on and above the diagonal."""
    slabs, rows = _slabs(n)
    return slabs * (slabs + 1) // 2 * rows**2


def model_of_rows(source: Source, rows: RowCells, normalize: bool, digest: RowDigest) -> Model:
    """What `model_from_sums` makes of a model's sums, of its n < d rows; without second moments and their labels, which only
    folds need, and with the n eigenpairs of its kernel.

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
    seen = kernel / size * counts[0] if normalize else matmul(centred + origin, (centred + origin).T)

    def of_set(args: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        chosen, count = args
        eigen = spectrum(seen * outer(chosen, chosen) / count, count)
        left = jnp.where(eigen.values > numerically_zero(eigen.values), eigen.vectors, 0)
        return eigen.values, left, jnp.sqrt(eigen.values / count)[:, None] * matmul(left.T, y)

    values, left, labels = jax.lax.map(of_set, (inside.T, counts))
    first = matmul(members.T, centred) / root
    no_sums, no_vectors = (jnp.zeros((count, 0, 0), x.dtype) for count in (len(first), len(values)))
    return Model(mean, origin, root, spread, variance, first, no_sums, no_sums, values, no_vectors, left, labels)


def projected(source: Source, model: Model, rows: RowCells, span: tuple[int, int]) -> Array:
    """What this process's rows `span` add to the eigenvectors of a few-row model's features (R, d, k).

    Raises:
        InputError: NaN or infinite entries.
    """
    first, last = span
    x = jax.device_put(side_by_side([source], len(model.mean), first, last, last - first))
    inside = _inside(rows, rows.n).astype(x.dtype)
    return _projected(x, model._replace(left=model.left[:, first:last]), inside[:, first:last], inside.sum(1))


def with_vectors(model: Model, sums: ArrayLike) -> Model:
    """A model of few rows with eigenvectors of its features instead of its kernel's, from what all rows add to them."""
    vectors = _orthogonal(jnp.asarray(sums))
    return model._replace(vectors=vectors, left=jnp.zeros((len(vectors), 0, 0), vectors.dtype))


@jax.jit
def _projected(x: Array, model: Model, inside: Array, counts: Array) -> Array:
    """Eigenvectors of every set's moment (R, d, k) as far as some rows about their shift (m, d) make them up."""
    seen = (x - model.mean) / model.root + model.origin

    def of_set(args: tuple[Array, ...]) -> Array:
        chosen, count, values, left = args
        inverse_root = jnp.where(values > 0, jax.lax.rsqrt(jnp.where(values > 0, values * count, 1)), 0)
        return matmul((seen * chosen[:, None]).T, left) * inverse_root

    return jax.lax.map(of_set, (inside, counts, model.values, model.left))


@jax.jit
def _orthogonal(vectors: Array) -> Array:
    """Each vector has rounding of those before it that the root has magnified: a Gram-Schmidt step takes it out."""
    return jax.vmap(lambda v: v - matmul(v, jnp.triu(matmul(v.T, v), 1)))(vectors)


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
    kinds = {name: (len(model.mean), model.is_of_rows) for name, (_, model) in models.items()}
    for names in batches(kinds, lambda kind, count: _at_once(rows.n, kind[0], count)):
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
    return _seen(read, [model for _, model in models], _inside(rows, slabs * height) > 0, slabs)


def _members(rows: RowCells, height: int) -> np.ndarray:
    """Which rows are in which cell (height, J), none of those behind them."""
    members = np.concatenate([np.eye(layout.cells)[layout.cell] for layout in rows.layouts], 1)
    return np.pad(members, ((0, height - rows.n), (0, 0)))


def _inside(rows: RowCells, height: int) -> np.ndarray:
    """Which rows are in which set of them (R, height), as 0 and 1."""
    return rows.cells.sets @ _members(rows, height).T


@partial(jax.jit, static_argnames="slabs")
def _seen(read: Sequence[Array], models: Sequence[Model], inside: Array, slabs: int) -> ModelRows:
    """Rows about their shifts (q b, d), zeros behind them, as both are needed; `inside` (R, q b), the first being all."""

    def one(x: Array, model: Model) -> ModelRows:
        centred = jnp.where(inside[0, :, None], x - model.mean, 0)
        unit = centred / jnp.sqrt(model.variance)
        if model.is_of_rows:
            root = jnp.sqrt(model.values * jnp.sum(inside, 1, keepdims=True))
            kept = jnp.pad(model.left * root[:, None], ((0, 0), (0, len(x) - model.left.shape[1]), (0, 0)))
        else:
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
