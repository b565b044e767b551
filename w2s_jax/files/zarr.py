"""Rows of Zarr arrays, format 2 and 3, by TensorStore: a folder that is an array, or a group of arrays."""

from __future__ import annotations

import json
import os
from functools import partial

import numpy as np

from w2s_jax._core.checks import reason
from w2s_jax.files.rows import ID_KEYS, Kind, Place, Rows

_CACHE_BYTES = 128 << 20  # so that blocks of rows smaller than a chunk do not decode it again and again
_MARKS = ("zarr.json", ".zarray", ".zgroup")


def is_zarr(path: str) -> bool:
    """Whether a path is a folder with a Zarr array or group, by its metadata or its name."""
    marked = any(os.path.isfile(os.path.join(path, mark)) for mark in _MARKS)
    return marked or (os.path.isdir(path) and path.rstrip("/").lower().endswith(".zarr"))


def open_zarr(place: Place, kind: Kind) -> Rows:
    """The array in a folder, whose ids are its sibling, or one array of a group."""
    if not os.path.isdir(place.file):
        raise place.error("a .zarr is a folder, got a file")
    with place.faults():
        driver = _driver(place.file)
        if driver is None:
            keys = [entry.name for entry in os.scandir(place.file) if entry.is_dir() and _driver(entry.path)]
            return place.with_ids(place.pick(keys), keys, kind, partial(_read, place.file))
        if place.key is not None:
            raise place.error(f"it is an array, not a group of arrays, so it takes no key, got {place.key!r}")
        group, name = os.path.split(os.path.abspath(place.file))
        keys = [key for key in ID_KEYS if is_zarr(group) and _driver(os.path.join(group, key))]
        return place.with_ids(name, keys, kind, partial(_read, group))


def _driver(path: str) -> str | None:
    """TensorStore's name for the format of the array in a folder; None where there is none."""
    if os.path.isfile(os.path.join(path, ".zarray")):
        return "zarr"
    try:
        with open(os.path.join(path, "zarr.json"), encoding="utf-8") as stream:
            return "zarr3" if json.load(stream)["node_type"] == "array" else None
    except FileNotFoundError:
        return None


def _read(group: str, place: Place, key: str, kind: Kind) -> Rows:
    tensorstore = place.extra("tensorstore", "zarr")
    path = os.path.join(group, key)
    spec = {
        "driver": _driver(path),
        "kvstore": {"driver": "file", "path": path + os.sep},
        "context": {"cache_pool": {"total_bytes_limit": _CACHE_BYTES}},
        "recheck_cached_data": "open",
    }
    try:
        array = tensorstore.open(spec, open=True, read=True).result()
    except ValueError as error:
        raise place.error(f"TensorStore cannot open the array {key!r} ({reason(error)})") from error
    shape, dtype = tuple(array.shape), array.dtype.numpy_dtype
    if dtype is None or dtype.hasobject:
        raise place.wrong_type(f"the TensorStore type {array.dtype.name}", kind)
    place.require_kind(shape, dtype, kind)

    def read(start: int, stop: int) -> np.ndarray:
        with place.faults():
            block = np.asarray(array[start:stop].read().result())
        if block.ndim > 1:
            require_written(start, block)
        return block

    def require_written(start: int, block: np.ndarray) -> None:
        """Chunks that are not there, as a killed writer leaves them, read as rows of nothing but the fill value."""
        empty = (block == (array.fill_value or 0)).reshape(len(block), -1).all(1)
        if not empty.any():
            return
        row = start + int(np.argmax(empty))
        strict = tensorstore.open(spec | {"fill_missing_data_reads": False}, open=True, read=True)
        try:
            strict.result()[row].read().result()
        except ValueError as error:
            never = "it was never written, or holds nothing but the fill value and was left out"
            raise place.error(f"row {row} is in no chunk of the array {key!r}: {never}") from error

    return place.rows(shape, dtype, read)
