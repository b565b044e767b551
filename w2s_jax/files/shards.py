"""Many files as one array: the shards of a folder or of a glob pattern, one below the other in natural order."""

from __future__ import annotations

import glob
import json
import os
import re
import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple, cast

import numpy as np

from w2s_jax._core.checks import reason
from w2s_jax.files.paths import EXTENSIONS, is_pattern
from w2s_jax.files.rows import NoRowsError, Rows, Source, listed
from w2s_jax.files.zarr import is_zarr

_ALIKE = {".pth": ".pt", ".feather": ".arrow"}


def find_shards(source: Source) -> list[str]:
    """The files that a folder or pattern stands for: shard2 before shard10; a folder's other files are passed over.

    A folder of Hugging Face datasets says itself which of its files are the data, and in which order.

    Raises:
        InputError: there are none, they cannot be listed, or their formats differ.
    """
    if is_pattern(source.file):
        found = sorted(glob.glob(source.file, recursive=True), key=_natural)
        if not found:
            raise source.error("no file matches the pattern")
    else:
        found = _of_dataset(source) or _in_folder(source)
    formats = {_ALIKE.get(_extension(path), _extension(path)): path for path in reversed(found)}
    if len(formats) > 1:
        first, second, *_ = sorted(formats.values(), key=_natural)
        raise source.error(f"its shards differ in format: {first} and {second}")
    return found


def _of_dataset(source: Source) -> list[str]:
    """The files that a folder saved by Hugging Face datasets names; old ones and caches may lie beside them."""
    try:
        with open(os.path.join(source.file, "state.json"), encoding="utf-8") as stream:
            state = json.load(stream)
        names = [file["filename"] for file in state.get("_data_files", [])]  # none: it says something else
        return [os.path.join(source.file, name) for name in names]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise source.error("its state.json does not say which files are the data") from error


def _in_folder(source: Source) -> list[str]:
    """All files of a folder that have a known extension."""
    try:
        names = sorted(name for name in os.listdir(source.file) if not name.startswith("."))
    except OSError as error:
        raise source.error(reason(error)) from error
    paths = {name: os.path.join(source.file, name) for name in names}
    found = [path for path in paths.values() if _extension(path) in EXTENSIONS]
    if not found:
        folders = [name for name in names if os.path.isdir(paths[name])]
        inside = f", but the folders {listed(folders)}: name one of them" if folders else ""
        raise source.error(f"the folder holds no file that ends in {', '.join(EXTENSIONS)}{inside}")
    return sorted(found, key=_natural)


def open_shards(source: Source, paths: Sequence[str], open_one: Callable[[Source], Rows]) -> Rows:
    """The shards' rows one after the other; at most one shard is open at a time, however many there are. Those without
    rows are passed over.

    Raises:
        InputError: a shard cannot be read, or differs from the first in width, type or having ids; it names the shard.
    """
    key = "" if source.key is None else f":{source.key}"
    shards, heads, id_heads = [], [], []
    for shard in (source._replace(given=path + key, file=path) for path in paths):
        try:
            rows = open_one(shard)
        except NoRowsError:
            continue
        shards.append(shard)
        heads.append(_head(rows))
        id_heads.append(None if rows.ids is None else _head(rows.ids))
        if (id_heads[-1] is None) != (id_heads[0] is None):
            raise shard.error(f"one of {shards[0].file} and this shard has row ids, the other has none")
    if not shards:
        raise source.error(f"none of its {len(paths)} files has a row")
    joined = _join(source, shards, heads, open_one)
    if id_heads[0] is None:
        return joined
    of_ids = lambda shard: cast(Rows, open_one(shard).ids)
    return replace(joined, ids=_join(source.of_ids(), shards, cast(list[_Head], id_heads), of_ids))


class _Head(NamedTuple):
    """What is kept of a shard that is closed again."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def tail(self) -> str:
        return f"shape {('n', *self.shape[1:])}".replace("'", "")


def _head(rows: Rows) -> _Head:
    return _Head(rows.shape, rows.dtype)


def _join(source: Source, shards: list[Source], heads: list[_Head], open_one: Callable[[Source], Rows]) -> Rows:
    """Rows of arrays that are alike."""
    first = heads[0]
    for shard, head in zip(shards, heads, strict=True):
        if head.shape[1:] != first.shape[1:]:
            raise shard.error(f"expected {first.tail} as in {shards[0].file}, got {head.tail}")
        if head.dtype != first.dtype and not head.dtype.kind == first.dtype.kind == "U":
            raise shard.error(f"expected {first.dtype.name} as in {shards[0].file}, got {head.dtype.name}")
    shape = (sum(head.shape[0] for head in heads), *first.shape[1:])
    dtype = max((head.dtype for head in heads), key=lambda dtype: dtype.itemsize)  # the longest text
    return source.rows(shape, dtype, _Reader(shards, heads, dtype, open_one))


class _Reader:
    """Row blocks across shards; the shard that was read last stays open."""

    def __init__(
        self, shards: list[Source], heads: list[_Head], dtype: np.dtype, open_one: Callable[[Source], Rows]
    ) -> None:
        self._shards, self._heads, self._dtype, self._open_one = shards, heads, dtype, open_one
        self._starts = list(accumulate((head.shape[0] for head in heads), initial=0))
        self._open: tuple[int, Rows] | None = None
        self._lock = threading.Lock()  # a prefetching thread may share the open shard with its consumer

    def __call__(self, start: int, stop: int) -> np.ndarray:
        first, last = bisect_right(self._starts, start) - 1, bisect_right(self._starts, stop - 1) - 1
        if first == last:
            return self._block(first, start, stop)
        out = np.empty((stop - start, *self._heads[0].shape[1:]), self._dtype)
        for index in range(first, last + 1):
            begin, end = max(start, self._starts[index]), min(stop, self._starts[index + 1])
            out[begin - start : end - start] = self._block(index, begin, end)
        return out

    def _block(self, index: int, start: int, stop: int) -> np.ndarray:
        """Rows of one shard, counted from the first shard's first row."""
        with self._lock:
            if self._open is None or self._open[0] != index:
                rows = self._open_one(self._shards[index])
                if _head(rows) != self._heads[index]:
                    raise self._shards[index].error("the file has changed since it was opened")
                self._open = index, rows
            return self._open[1][start - self._starts[index] : stop - self._starts[index]]


def _natural(path: str) -> tuple[list[list[str | int]], str]:
    """Sorts numbers within the names of files and folders by size."""
    names = [re.split("([0-9]+)", name) for name in path.split(os.sep)]
    return [[int(part) if i % 2 else part for i, part in enumerate(name)] for name in names], path


def _extension(path: str) -> str:
    """In lower case; of a Zarr folder by its contents."""
    return ".zarr" if is_zarr(path) else os.path.splitext(path)[1].lower()
