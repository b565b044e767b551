"""Representations out of models: all chosen layers and poolings in one pass, in resumable shards or in memory.

A shard is made of consecutive texts, sorted by length into batches within it. Its rows are back in order when it is
written, so that memory does not grow with the number of texts and a killed run repeats at most one shard.
"""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from w2s_jax._core.checks import InputError, require_choice, require_integer
from w2s_jax._core.progress import counted
from w2s_jax.devices.mesh import ROWS, put, require_mesh
from w2s_jax.extract.batches import length_bucket, token_batches
from w2s_jax.extract.models import Forward, LanguageModel
from w2s_jax.extract.opening import open_model
from w2s_jax.extract.pooling import Pool, pooled
from w2s_jax.extract.storing import Collected, ShardFolder
from w2s_jax.extract.texts import Texts, open_texts, texts_of

SHARD_BYTES, LEAST_ROWS, MOST_ROWS = 64 << 20, 64, 4096
MAX_TOKENS = 512
CPU_TOKENS, ACCELERATOR_TOKENS = (
    1024,
    16384,
)  # of a batch: activations stay in a CPU's caches, and keep an accelerator busy

_pooled = jax.jit(pooled, static_argnames="pool")


class PooledLayer(NamedTuple):
    """One array of the output: a pooling of a layer."""

    layer: int
    pool: Pool


def extract_model(
    model: str | os.PathLike | LanguageModel,
    texts: str | os.PathLike | Sequence[str] | Texts,
    out: str | os.PathLike | None = None,
    *,
    layers: str | Sequence[int] = "all",
    pool: Pool | Sequence[Pool] = "mean",
    max_tokens: int | None = None,
    dtype: Forward = "float32",
    batch_tokens: int | None = None,
    prefix: str = "",
    shard_rows: int | None = None,
    mesh: Mesh | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """A language model's representations of texts: for each layer and pooling float32 rows (n, d), in the texts' order.

    With `out` they are written to `out/NAME`, NAME the model's, as shards with the texts' ids and an `extraction.json` that
    says what they are. `w2s rank --weak out/NAME:layer4` reads them. A run that was stopped goes on where it was; one that is
    finished is not repeated.

    Args:
        model: a Hugging Face folder or name, or a model of one's own.
        texts: a file (see `open_texts`), or texts in memory.
        out: the folder for the models' folders; without it the arrays stay in memory.
        layers: "all", or numbers as in transformers' `hidden_states`: 0 the embeddings, -1 the last layer.
        pool: one pooling, or several. Arrays are called `layer4`, with several `layer4.mean`, `layer4.cls`, ...
        max_tokens: texts are cut there, by default at 512 or what the model can take.
        dtype: of a checkpoint's weights and products; pooling and output are in float32.
        batch_tokens: computed at once, padding included, by default 1,024 on a CPU and 16,384 elsewhere.
        prefix: put before every text, as some models want ("query: ").
        shard_rows: texts in a shard, by default as many as 64 MiB of arrays, 64 to 4,096.
        mesh: batches are spread over the devices of its "rows" axis.
        progress: whether to show a bar with tokens per second.

    Returns:
        The arrays by name: in memory, or as `Rows` of the folder.

    Raises:
        InputError: model or texts cannot be read, an argument is not as above, a text has no tokens, a representation is not
            finite, or `out/NAME` holds an extraction from another model, other texts or other settings.

    >>> import jax.numpy as jnp
    >>> model = LanguageModel(
    ...     "lengths",
    ...     tokenize=lambda texts, max_tokens: [[len(word) for word in text.split()] for text in texts],
    ...     apply=lambda weights, tokens, mask: [weights[tokens], 2 * weights[tokens]],
    ...     weights=jnp.arange(20.0).reshape(10, 2),
    ... )
    >>> found = extract_model(model, ["one of", "these"], layers=[-1])
    >>> {name: rows.tolist() for name, rows in found.items()}
    {'layer1': [[10.0, 12.0], [20.0, 22.0]]}
    """
    pools = (pool,) if isinstance(pool, str) else tuple(pool)
    _require(pools, shard_rows, batch_tokens=batch_tokens, max_tokens=max_tokens)
    require_choice("dtype", dtype, Forward)
    require_mesh(mesh)
    source = _texts(texts)
    opened = model if isinstance(model, LanguageModel) else open_model(model, dtype)
    limit = min(limit for limit in (max_tokens or MAX_TOKENS, opened.longest) if limit is not None)
    widths = _widths(opened)
    columns = _columns(layers, len(widths), pools)
    settings = {
        "model": opened.checksum or opened.name,
        "texts": source.checksum,
        "layers": list(dict.fromkeys(column.layer for column in columns.values())),
        "pool": list(pools),
        "max_tokens": limit,
        "dtype": dtype,
        "prefix": prefix,
    }
    about = {"model": opened.name, **opened.about, "texts": os.path.basename(source.label), "rows": len(source)}
    storage = _storage(out, opened.name, settings, about)
    if not storage.finished:
        bytes_a_text = 4 * sum(widths[column.layer] for column in columns.values())
        rows = shard_rows or min(max(SHARD_BYTES // bytes_a_text, LEAST_ROWS), MOST_ROWS)
        budget = batch_tokens or (CPU_TOKENS if jax.default_backend() == "cpu" else ACCELERATOR_TOKENS)
        run = _Extractor(opened, columns, limit, budget, prefix, mesh)
        with counted(len(source), progress, f"extracting {opened.name}", " texts", storage.rows) as add:
            for ids, block in source.blocks(rows, storage.rows):
                found, cut = run.rows(block, storage.rows, add)
                storage.keep(found, ids, cut=cut)
        storage.finish()
        _say_cut(sum(shard["cut"] for shard in storage.kept), len(source), limit)
    return storage.read()


def extract(
    apply: Callable[[Any], Mapping[str, Array] | Sequence[Array]],
    batches: Iterable[Any],
    out: str | os.PathLike | None = None,
    *,
    name: str = "model",
    pool: Pool | Sequence[Pool] = "mean",
    settings: Mapping[str, Any] | None = None,
    shard_rows: int = MOST_ROWS,
    progress: bool = False,
) -> dict[str, Any]:
    """Representations out of any JAX or Flax function: rows (n, d) of all batches, by name, written as `extract_model` does.

    Args:
        apply: a batch -> arrays by name, or a sequence of them (layer0, layer1, ...). Arrays (b, d) are taken as they are,
            hidden states (b, l, d) are pooled with the batch's "mask" (b, l), without one over all l. Compile it
            (`jax.jit`) yourself.
        batches: pytrees of arrays with a leading axis of b rows. In dicts "id" (b,) are the rows' ids, else they are numbered.
        out: the folder for `out/NAME`; without it the arrays stay in memory.
        name: NAME.
        pool: one pooling or several, as in `extract_model`.
        settings: what decides the rows and cannot be seen from the batches (a version, a checksum of weights): a folder that
            was written with others is refused.
        shard_rows: a shard is written when it has at least so many rows.
        progress: whether to show a bar.

    Returns:
        The arrays by name: in memory, or as `Rows` of the folder.

    Raises:
        InputError: results or batches are not as above, or the folder holds something else. Batches are checked against those
            of the shards that are kept.

    >>> images = np.arange(24.0).reshape(6, 2, 2)
    >>> found = extract(lambda batch: {"pixels": batch.reshape(len(batch), -1)}, [images[:4], images[4:]])
    >>> found["pixels"].shape
    (6, 4)
    """
    pools = (pool,) if isinstance(pool, str) else tuple(pool)
    _require(pools, shard_rows)
    chosen = {"settings": dict(settings or {}), "pool": list(pools), "shard_rows": shard_rows}
    storage = _storage(out, name, chosen, {"model": name})
    already, number, shard = len(storage.kept), 0, _Shard()
    changed = InputError(
        f"batches have changed since {name} was written to {out}: write to another folder, or delete it"
    )

    def close() -> None:
        if number >= already and storage.finished:
            raise changed
        if number >= already:
            storage.keep(shard.joined(), np.concatenate(shard.ids), input=shard.checksum)
        elif storage.kept[number]["input"] != shard.checksum:
            raise changed

    with counted(None, progress, f"extracting {name}", " rows") as add:
        for batch in batches:
            rows = shard.take(batch)
            if number >= already:
                shard.parts.append(_named_rows(apply(batch), batch, rows, pools))
            add(rows, "")
            if shard.rows >= shard_rows:
                close()
                number, shard = number + 1, _Shard(first=shard.first + shard.rows)
        if shard.rows:
            close()
            number += 1
    if number < already:
        raise changed
    if not number:
        raise InputError("batches must hold at least one row, got none")
    storage.finish()
    return storage.read()


class _Shard:
    """What belongs to one shard of batches: their ids and checksum, and what was made of them."""

    def __init__(self, first: int = 0) -> None:
        self.first, self.rows = first, 0
        self.ids: list[np.ndarray] = []
        self.parts: list[dict[str, np.ndarray]] = []
        self._digest = hashlib.sha256()

    def take(self, batch: Any) -> int:
        """Looks at a batch; returns its number of rows."""
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(batch)]
        lengths = {leaf.shape[:1] for leaf in leaves}
        if len(lengths) != 1 or () in lengths:
            raise InputError(f"batches must be arrays with one common leading axis, got lengths {sorted(lengths)}")
        ((rows,),) = lengths
        for leaf in leaves:
            self._digest.update(f"{leaf.dtype.str} {leaf.shape} ".encode() + np.ascontiguousarray(leaf).tobytes())
        start = self.first + self.rows
        ids = (
            np.asarray(batch["id"]) if isinstance(batch, Mapping) and "id" in batch else np.arange(start, start + rows)
        )
        if ids.ndim != 1 or ids.dtype.kind not in "iuU":
            raise InputError(f"batch['id'] must be integers or text (b,), got {ids.dtype} {ids.shape}")
        self.ids.append(ids)
        self.rows += rows
        return rows

    @property
    def checksum(self) -> str:
        return self._digest.hexdigest()

    def joined(self) -> dict[str, np.ndarray]:
        first = self.parts[0]
        if any(part.keys() != first.keys() for part in self.parts):
            raise InputError(f"apply must return the same arrays for every batch, got once {', '.join(first)}")
        return {name: np.concatenate([part[name] for part in self.parts]) for name in first}


def _named_rows(found: Any, batch: Any, rows: int, pools: Sequence[Pool]) -> dict[str, np.ndarray]:
    """Rows (b, d) by name out of what a function returned for a batch."""
    if not isinstance(found, Mapping):
        found = {f"layer{number}": array for number, array in enumerate(found)}
    out: dict[str, Array] = {}
    for name, array in found.items():
        if array.ndim not in (2, 3) or len(array) != rows or name in ("id", "ids"):
            raise InputError(
                f"apply must return arrays ({rows}, d) or ({rows}, l, d), none called id, got {name} {array.shape}"
            )
        if array.ndim == 2:
            out[name] = array
            continue
        mask = batch["mask"] if isinstance(batch, Mapping) and "mask" in batch else np.ones(array.shape[:2], bool)
        out |= {_array_name(name, pool, pools): _pooled(array, mask.astype(bool), pool=pool) for pool in pools}
    return {name: np.asarray(array, np.float32) for name, array in out.items()}


class _Extractor:
    """A model that is ready to compute its columns for blocks of texts."""

    def __init__(
        self,
        model: LanguageModel,
        columns: Mapping[str, PooledLayer],
        limit: int,
        batch_tokens: int,
        prefix: str,
        mesh: Mesh | None,
    ) -> None:
        self._model, self._limit, self._budget, self._prefix, self._mesh = model, limit, batch_tokens, prefix, mesh
        self._program = _program(model.apply, tuple(columns.values()))
        self._names = list(columns)
        self._weights = model.weights if mesh is None else put(model.weights, mesh, P())
        self._began, self._tokens = time.monotonic(), 0

    def rows(self, texts: list[str], first: int, add: Callable[[int, str], None]) -> tuple[dict[str, np.ndarray], int]:
        """The columns of consecutive texts, of which the first is row `first`, and how many texts reach the limit of tokens."""
        tokens = self._model.tokenize([self._prefix + text for text in texts], self._limit)
        lengths = np.array([len(ids) for ids in tokens])
        if not lengths.all():
            raise InputError(f"the text in row {first + int(np.argmin(lengths))} has no tokens")
        found: list[np.ndarray] = []
        multiple = 1 if self._mesh is None else self._mesh.shape[ROWS]
        running: deque[tuple[np.ndarray, list[Array]]] = deque()

        def take() -> None:
            places, arrays = running.popleft()
            if not found:
                found.extend(np.empty((len(texts), array.shape[1]), np.float32) for array in arrays)
            for whole, array in zip(found, arrays, strict=True):
                whole[places] = np.asarray(array)[: len(places)]
            self._tokens += int(lengths[places].sum())
            add(len(places), f"{self._tokens / (time.monotonic() - self._began):,.0f} tokens/s")

        for batch in token_batches(tokens, self._budget, self._limit, multiple):
            inputs = batch.tokens, batch.mask
            inputs = inputs if self._mesh is None else put(inputs, self._mesh, P(ROWS))
            running.append((batch.places, self._program(self._weights, *inputs)))
            if len(running) > 1:  # one is computed while the next is made ready
                take()
        while running:
            take()
        return dict(zip(self._names, found, strict=True)), int((lengths >= self._limit).sum())


@lru_cache(maxsize=8)
def _program(apply: Callable, columns: tuple[PooledLayer, ...]) -> Callable[..., list[Array]]:
    """Compiled: the columns of a batch. Layers above the last of them are not computed."""

    @jax.jit
    def program(weights: Any, tokens: Array, mask: Array) -> list[Array]:
        states = apply(weights, tokens, mask)
        return [pooled(states[column.layer], mask, column.pool) for column in columns]

    return program


def _widths(model: LanguageModel) -> list[int]:
    """Of the hidden states, which nothing is computed for."""
    length = length_bucket(1, model.longest)
    tokens, mask = (jax.ShapeDtypeStruct((1, length), dtype) for dtype in (np.int32, np.bool_))
    states = jax.eval_shape(lambda *batch: list(model.apply(*batch)), model.weights, tokens, mask)
    if not states or any(len(state.shape) != 3 for state in states):
        raise InputError(f"model {model.name} must return hidden states (b, l, d), got {[s.shape for s in states]}")
    return [state.shape[2] for state in states]


def _columns(layers: str | Sequence[int], count: int, pools: Sequence[Pool]) -> dict[str, PooledLayer]:
    """The arrays asked for, by name."""
    numbers = list(range(count)) if layers == "all" else layers
    if isinstance(numbers, str) or not numbers:
        raise InputError(f'layers must be "all" or numbers of layers, got {layers!r}')
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int) or not -count <= number < count:
            raise InputError(f"layers must be integers between {-count} and {count - 1}, got {number!r}")
    chosen = dict.fromkeys(number % count for number in numbers)
    return {_array_name(f"layer{layer}", pool, pools): PooledLayer(layer, pool) for layer in chosen for pool in pools}


def _array_name(layer: str, pool: Pool, pools: Sequence[Pool]) -> str:
    return layer if len(pools) == 1 else f"{layer}.{pool}"


def _require(pools: Sequence[Pool], shard_rows: int | None, **counts: int | None) -> None:
    """Checks what both ways in have, and numbers that are at least 1."""
    for pool in pools:
        require_choice("pool", pool, Pool)
    if not pools or len(set(pools)) < len(pools):
        raise InputError(f"pool must be one or several of {', '.join(get_args(Pool))}, each once, got {pools}")
    for name, value in {**counts, "shard_rows": shard_rows}.items():
        if value is not None:
            require_integer(name, value, 1)


def _storage(out: Any, name: str, settings: Mapping[str, Any], about: Mapping[str, Any]) -> ShardFolder | Collected:
    if out is None:
        return Collected()
    return ShardFolder(Path(out) / name, settings, {"package": f"w2s_jax {version('w2s_jax')}", **about})


def _texts(texts: str | os.PathLike | Sequence[str] | Texts) -> Texts:
    if isinstance(texts, Texts):
        return texts
    return open_texts(texts) if isinstance(texts, str | os.PathLike) else texts_of(texts)


def _say_cut(cut: int, rows: int, limit: int) -> None:
    if cut:
        warnings.warn(f"{cut} of {rows} texts have {limit} tokens or more: what comes after is cut off", stacklevel=3)
