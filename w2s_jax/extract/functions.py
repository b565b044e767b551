"""Representations out of any function that JAX can run, batch by batch: of images, molecules, whatever a batch may be.

Shards end between batches. They keep a checksum of what went in, so that a run that is resumed notices other batches.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from w2s_jax._core.checks import InputError, require_integer
from w2s_jax._core.progress import counted
from w2s_jax.extract.pooling import Pool, array_name, as_pools, pooled
from w2s_jax.extract.representations import Representations
from w2s_jax.extract.storing import open_storage

_pooled = jax.jit(pooled, static_argnames="pool")


def extract(
    apply: Callable[[Any], Mapping[str, Array] | Sequence[Array]],
    batches: Iterable[Any],
    out: str | os.PathLike | None = None,
    *,
    name: str = "model",
    pool: Pool | Sequence[Pool] = "mean",
    settings: Mapping[str, Any] | None = None,
    shard_rows: int = 4096,
    progress: bool = False,
) -> Representations:
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
    pools = as_pools(pool)
    require_integer("shard_rows", shard_rows, 1)
    chosen = {"settings": dict(settings or {}), "pool": list(pools), "shard_rows": shard_rows}
    storage = open_storage(out, name, chosen, {"model": name})
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

    with storage, counted(None, progress, f"extracting {name}", " rows") as add:
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
    return Representations(storage.read())


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
        out |= {array_name(name, pool, pools): _pooled(array, mask.astype(bool), pool=pool) for pool in pools}
    return {name: np.asarray(array, np.float32) for name, array in out.items()}
