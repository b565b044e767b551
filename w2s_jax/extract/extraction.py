"""Representations of texts out of language models: all chosen layers and poolings in one pass, in resumable shards or in memory.

A shard is made of consecutive texts, sorted by length into batches within it. Its rows are back in order when it is
written, so that memory does not grow with the number of texts and a killed run repeats at most one shard.
"""

from __future__ import annotations

import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

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
from w2s_jax.extract.pooling import Pool, array_name, as_pools, pooled
from w2s_jax.extract.representations import Representations
from w2s_jax.extract.storing import open_storage
from w2s_jax.extract.texts import Texts, open_texts, texts_of

SHARD_BYTES, LEAST_ROWS, MOST_ROWS = 64 << 20, 64, 4096
MAX_TOKENS = 512
CPU_TOKENS = 1024  # of a batch, whose activations stay in the caches
ACCELERATOR_TOKENS = 16384


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
) -> Representations:
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
    pools = as_pools(pool)
    for name, value in {"batch_tokens": batch_tokens, "max_tokens": max_tokens, "shard_rows": shard_rows}.items():
        if value is not None:
            require_integer(name, value, 1)
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
    storage = open_storage(out, opened.name, settings, about)
    if not storage.finished:
        bytes_a_text = 4 * sum(widths[column.layer] for column in columns.values())
        rows = shard_rows or min(max(SHARD_BYTES // bytes_a_text, LEAST_ROWS), MOST_ROWS)
        budget = batch_tokens or (CPU_TOKENS if jax.default_backend() == "cpu" else ACCELERATOR_TOKENS)
        with storage, counted(len(source), progress, f"extracting {opened.name}", " texts", storage.rows) as add:
            run = _Extractor(opened, columns, limit, budget, prefix, mesh)
            for ids, block in source.blocks(rows, storage.rows):
                found, cut = run.rows(block, storage.rows, add)
                storage.keep(found, ids, cut=cut)
        storage.finish()
        _say_cut(sum(shard["cut"] for shard in storage.kept), len(source), limit)
    return Representations(storage.read())


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
    return {array_name(f"layer{layer}", pool, pools): PooledLayer(layer, pool) for layer in chosen for pool in pools}


def _texts(texts: str | os.PathLike | Sequence[str] | Texts) -> Texts:
    if isinstance(texts, Texts):
        return texts
    return open_texts(texts) if isinstance(texts, str | os.PathLike) else texts_of(texts)


def _say_cut(cut: int, rows: int, limit: int) -> None:
    if cut:
        warnings.warn(f"{cut} of {rows} texts have {limit} tokens or more: what comes after is cut off", stacklevel=3)
