"""Many files as one array: the shards of a folder or of a glob pattern, one below the other in natural order.

Files that hold one vector each are the rows. A folder of Hugging Face datasets says which files are its data, and may say in
which order their rows are meant.
"""

from __future__ import annotations

import glob
import json
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple, cast

import numpy as np

from w2s_jax.files.paths import EXTENSIONS, is_pattern
from w2s_jax.files.rows import NoRowsError, Place, Rows, listed
from w2s_jax.files.zarr import is_zarr

_STEP = 4096  # rows at most that are read for a few of them
_ALIKE = {".pth": ".pt", ".feather": ".arrow"}


def find_shards(place: Place) -> list[str]:
    """The files that a folder or pattern stands for: shard2 before shard10; a folder's other files are passed over.

    A folder of Hugging Face datasets says itself which of its files are the data, and in which order.

    Raises:
        InputError: there are none, they cannot be listed, or their formats differ.
    """
    if is_pattern(place.file):
        found = sorted(glob.glob(place.file, recursive=True), key=_natural)
        if not found:
            raise place.error("no file matches the pattern")
    else:
        found = _of_dataset(place) or _in_folder(place)
    formats = {_ALIKE.get(_extension(path), _extension(path)): path for path in reversed(found)}
    if len(formats) > 1:
        first, second, *_ = sorted(formats.values(), key=_natural)
        raise place.error(f"its shards differ in format: {first} and {second}")
    return found


def find_order(place: Place) -> list[str]:
    """The files of row numbers, in a folder of a Hugging Face dataset that was shuffled or filtered before it was saved."""
    return [] if is_pattern(place.file) else _of_dataset(place, "_indices_data_files")


def _of_dataset(place: Place, which: str = "_data_files") -> list[str]:
    """The files that a folder saved by Hugging Face datasets names; old ones and caches may lie beside them."""
    try:
        with open(os.path.join(place.file, "state.json"), encoding="utf-8") as stream:
            state = json.load(stream)
        names = [file["filename"] for file in state.get(which) or []]  # none: it says something else
        return [os.path.join(place.file, name) for name in names]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise place.error("its state.json does not say which files are the data") from error


def _in_folder(place: Place) -> list[str]:
    """All files of a folder that have a known extension."""
    with place.faults():
        names = sorted(name for name in os.listdir(place.file) if not name.startswith("."))
    paths = [os.path.join(place.file, name) for name in names]
    found = [path for path in paths if _extension(path) in EXTENSIONS]
    if not found:
        folders = [name for name, path in zip(names, paths, strict=True) if os.path.isdir(path)]
        inside = f", but the folders {listed(folders)}: name one of them" if folders else ""
        raise place.error(f"the folder holds no file that ends in {', '.join(EXTENSIONS)}{inside}")
    return sorted(found, key=_natural)


def open_shards(place: Place, paths: Sequence[str], open_one: Callable[[Place], Rows], vectors: bool = False) -> Rows:
    """The shards' rows one after the other; at most one shard is open at a time, however many there are. Those without
    rows are passed over. With `vectors` files of equally long vectors (d,) are rows (files, d).

    Raises:
        InputError: a shard cannot be read, or differs from the first in width, type or having ids; it names the shard.
    """
    key = "" if place.key is None else f":{place.key}"
    shards, closed, ids, note, layer = [], [], [], "", place.layer
    for path in paths:
        shard = place._replace(given=path + key, file=path, layer=layer, whole=place.file)
        try:
            rows = open_one(shard)
        except NoRowsError:
            continue
        note, layer = (
            note or rows.note,
            rows.layer or layer,
        )  # a short last shard would not show which axis has the layers
        shards.append(shard)
        closed.append(_Closed(rows.shape, rows.dtype))
        ids += [] if rows.ids is None else [_Closed(rows.ids.shape, rows.ids.dtype)]
        if len(ids) not in (0, len(closed)):
            raise shard.error(f"one of {shards[0].file} and this shard has row ids, the other has none")
    if not shards:
        raise place.error(f"none of its {len(paths)} files has a row")
    place = place._replace(layer=None)
    if vectors and len(closed) > 1 and {one.shape for one in closed} == {closed[0].shape} and len(closed[0].shape) == 1:
        return _stack(place, shards, closed, open_one)
    joined = replace(_join(place, shards, closed, open_one), note=note)
    if not ids:
        return joined
    of_ids = lambda shard: cast(Rows, open_one(shard).ids)
    return replace(joined, ids=_join(place.of_ids(), shards, ids, of_ids))


class _Closed(NamedTuple):
    """What is kept of a shard that is closed again."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def tail(self) -> str:
        return f"shape {('n', *self.shape[1:])}".replace("'", "")


def _stack(place: Place, shards: list[Place], closed: list[_Closed], open_one: Callable[[Place], Rows]) -> Rows:
    """Rows of files that hold one vector each."""
    ends = [os.path.basename(shards[i].file) for i in (0, -1)]
    note = f"{len(shards)} files of one vector each are the rows, in natural order from {ends[0]} to {ends[1]}"
    vectors = [_Closed((1, *one.shape), one.dtype) for one in closed]
    return replace(_join(place, shards, vectors, lambda shard: _as_row(open_one(shard))), note=note)


def _as_row(vector: Rows) -> Rows:
    return replace(vector, shape=(1, *vector.shape), _read=lambda start, stop: vector[:][None])


def in_order(place: Place, rows: Rows, order: Rows) -> Rows:
    """The rows with these numbers, in their order.

    Raises:
        InputError: there is no row of some number.
    """
    numbers = order[:].astype(np.int64)
    wrong = (numbers < 0) | (numbers >= len(rows))
    if wrong.any():
        raise place.error(f"its order names row {numbers[wrong][0]} of {len(rows)}")
    note = f"{len(numbers)} of {len(rows)} saved rows, in the order that its state.json names"

    def ordered(of: Rows) -> Rows:
        shape = (len(numbers), *of.shape[1:])
        return replace(of, shape=shape, _read=lambda start, stop: _taken(of, numbers[start:stop]))

    return replace(ordered(rows), note=note, ids=None if rows.ids is None else ordered(rows.ids))


def _taken(rows: Rows, numbers: np.ndarray) -> np.ndarray:
    """Some rows, read forwards and a few at a time."""
    places = np.argsort(numbers, kind="stable")
    sorted_numbers = numbers[places]
    out = np.empty((len(numbers), *rows.shape[1:]), rows.dtype)
    for start in range(int(sorted_numbers[0]), int(sorted_numbers[-1]) + 1, _STEP):
        a, b = np.searchsorted(sorted_numbers, (start, start + _STEP))
        if a < b:
            wanted = sorted_numbers[a:b]
            out[places[a:b]] = rows[int(wanted[0]) : int(wanted[-1]) + 1][wanted - wanted[0]]
    return out


def _join(place: Place, shards: list[Place], closed: list[_Closed], open_one: Callable[[Place], Rows]) -> Rows:
    """Rows of arrays that are alike."""
    first = closed[0]
    for shard, one in zip(shards, closed, strict=True):
        if one.shape[1:] != first.shape[1:]:
            raise shard.error(f"expected {first.tail} as in {shards[0].file}, got {one.tail}")
        if one.dtype != first.dtype and not one.dtype.kind == first.dtype.kind == "U":
            raise shard.error(f"expected {first.dtype.name} as in {shards[0].file}, got {one.dtype.name}")
    shape = (sum(one.shape[0] for one in closed), *first.shape[1:])
    dtype = max((one.dtype for one in closed), key=lambda dtype: dtype.itemsize)  # the longest text
    starts = list(accumulate((one.shape[0] for one in closed), initial=0))

    @lru_cache(maxsize=1)  # the shard that was read last stays open
    def opened(index: int) -> Rows:
        rows = open_one(shards[index])
        if _Closed(rows.shape, rows.dtype) != closed[index]:
            raise shards[index].error("the file has changed since it was opened")
        return rows

    def read(start: int, stop: int) -> np.ndarray:
        touched = range(bisect_right(starts, start) - 1, bisect_right(starts, stop - 1))
        if len(touched) == 1:
            return opened(touched[0])[start - starts[touched[0]] : stop - starts[touched[0]]]
        out = np.empty((stop - start, *shape[1:]), dtype)
        for i in touched:
            begin, end = max(start, starts[i]), min(stop, starts[i + 1])
            out[begin - start : end - start] = opened(i)[begin - starts[i] : end - starts[i]]
        return out

    return place.rows(shape, dtype, read)


def _natural(path: str) -> tuple[list[list[str | int]], str]:
    """Sorts numbers within the names of files and folders by size."""
    names = [re.split("([0-9]+)", name) for name in path.split(os.sep)]
    return [[int(part) if i % 2 else part for i, part in enumerate(name)] for name in names], path


def _extension(path: str) -> str:
    """In lower case; of a Zarr folder by its contents."""
    return ".zarr" if is_zarr(path) else os.path.splitext(path)[1].lower()
