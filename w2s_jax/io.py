"""Representations, labels and groups from files of many formats, folders of shards included; whole-or-nothing writes.

`open_rows` reads a file's header and hands back a `Rows`: a shape, a dtype, and row blocks that are read when they are
sliced, so a file larger than memory is never held. Uncompressed NumPy, safetensors, torch and Arrow data is
memory-mapped; compressed data is read forwards. Pickles are never loaded, whatever is wrong with a file is one
`InputError`, and row ids that files carry can be held against each other.
"""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from w2s_jax._checks import InputError
from w2s_jax.formats.arrow import open_ipc, open_parquet
from w2s_jax.formats.npy import open_npy, open_npz
from w2s_jax.formats.paths import EXTENSIONS, is_pattern, split_key
from w2s_jax.formats.rows import Kind, Rows, Source, reason
from w2s_jax.formats.shards import find_shards, open_shards
from w2s_jax.formats.torch_file import open_torch
from w2s_jax.formats.zarr import is_zarr, open_zarr

_SAFETENSORS_DTYPES = {
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
    "BF16": ml_dtypes.bfloat16,
    "BOOL": np.bool_,
    **{f"{sign}{8 * size}": f"{sign.lower()}{size}" for sign in "IU" for size in (1, 2, 4, 8)},
}
_BLOCK_ROWS = 16384


def open_rows(path: str | os.PathLike, name: str = "array", *, kind: Kind = "numeric") -> Rows:
    """Opens a file of one row per example without reading its rows; `name` is what messages call the array.

    `file.npz:key` picks one of several arrays, tensors or columns. A folder, or a glob pattern, is all its files (shards)
    one after the other. Kind "numeric" takes real numbers (n,) or (n, d); "groups" takes integers, booleans or text (n,).

    Raises:
        InputError: it cannot be read, or holds another kind of array; also when slicing a damaged file.
    """
    given = os.fsdecode(path)
    source = Source(name, given, *split_key(given))
    if is_pattern(source.file) or (os.path.isdir(source.file) and not _is_zarr(source.file)):
        return open_shards(source, find_shards(source), lambda shard: _open_file(shard, kind))
    return _open_file(source, kind)


def require_same_ids(sources: Mapping[str, Any]) -> None:
    """Holds the row ids of named sources against each other, block by block; those without ids pass by.

    Args:
        sources: what messages call it -> `Rows`, or anything: only what has `.ids` is looked at.

    Raises:
        InputError: the first row whose ids differ, and both ids.
    """
    ids = {name: rows.ids for name, rows in sources.items() if getattr(rows, "ids", None) is not None}
    for start in range(0, max(map(len, ids.values()), default=0), _BLOCK_ROWS):
        (first, expected), *others = ((name, rows[start : start + _BLOCK_ROWS].tolist()) for name, rows in ids.items())
        differing = [(_first_difference(expected, came), name, came) for name, came in others if came != expected]
        if differing:
            row, name, came = min(differing, key=lambda found: found[0])
            here, there = (repr(side[row]) if row < len(side) else "missing" for side in (expected, came))
            raise InputError(f"row {start + row} is {here} in {first} and {there} in {name}")


def _first_difference(a: list, b: list) -> int:
    return next((row for row, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def read_labels(path: str | os.PathLike, name: str = "labels") -> np.ndarray:
    """Labels (n,) or (n, c), in memory; NaN is kept, it marks an unlabelled row.

    Raises:
        InputError: the file cannot be read, or has infinite labels.
    """
    rows = open_rows(path, name)
    labels = np.array(rows[:])
    infinite = np.isinf(labels)
    if infinite.any():
        row = int(np.nonzero(infinite)[0][0])
        raise InputError(f"{rows.label} must be finite, or NaN where unlabelled, got infinity in row {row}")
    return labels


def read_groups(path: str | os.PathLike, name: str = "groups") -> np.ndarray:
    """Integer group codes (n,): the place of each row's group among the sorted distinct groups.

    Raises:
        InputError: the file cannot be read, or does not hold integers or text.
    """
    return np.unique(open_rows(path, name, kind="groups")[:], return_inverse=True)[1]


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which becomes `path` on success and is removed on failure.

    Raises:
        InputError: the folder is missing, or nothing can be written there.
    """
    target = Path(os.path.realpath(path))  # a link stays a link to the file that is replaced
    if os.path.exists(target) and not os.path.isfile(target):
        raise InputError(f"cannot write {os.fspath(path)}: it exists and is not a regular file")
    temporary = target.with_name(f".{uuid.uuid4().hex}{target.suffix}")
    try:
        temporary.open("xb").close()  # before any work is done for a file that cannot be written
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield temporary
        try:
            temporary.replace(target)
        except OSError as error:
            raise _cannot_write(path, error) from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_bytes_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Writes a whole file or, on any failure, leaves what was there.

    Raises:
        InputError: the file cannot be written.
    """
    with replacing(path) as temporary:
        try:
            temporary.write_bytes(data)
        except OSError as error:
            raise _cannot_write(path, error) from error


def write_text_atomically(path: str | os.PathLike, text: str) -> None:
    """`write_bytes_atomically` of the text in UTF-8."""
    write_bytes_atomically(path, text.encode())


def _cannot_write(path: str | os.PathLike, error: OSError) -> InputError:
    folder = Path(path).parent
    why = reason(error) if folder.is_dir() else f"there is no folder {folder}"
    return InputError(f"cannot write {os.fspath(path)}: {why}")


def _open_file(source: Source, kind: Kind) -> Rows:
    """Opens one file, or one Zarr folder; opening a pipe would wait for ever, so only a regular file is opened."""
    if _is_zarr(source.file):
        return open_zarr(source, kind)
    try:
        mode = os.stat(source.file).st_mode
        if stat.S_ISDIR(mode):
            raise source.error("it is a directory, expected a file")
        if not stat.S_ISREG(mode):
            raise source.error("it is not a regular file")
        open(source.file, "rb").close()
    except FileNotFoundError as error:
        raise source.error("the file does not exist") from error
    except OSError as error:
        raise source.error(reason(error)) from error
    extension = source.extension.lower()
    if extension not in _READERS:
        came = f"the extension {extension!r}" if extension else "no extension"
        raise source.error(f"expected a file that ends in {', '.join(EXTENSIONS)}, got {came}")
    return _READERS[extension](source, kind)


def _is_zarr(path: str) -> bool:
    """Whether a folder is one Zarr array or group rather than a folder of shards."""
    return os.path.isdir(path) and (is_zarr(path) or path.rstrip("/").lower().endswith(".zarr"))


def _open_safetensors(source: Source, kind: Kind) -> Rows:
    """One array of a .safetensors file, which the safetensors package memory-maps."""
    safetensors: Any = source.extra("safetensors", "safetensors", "cli")
    try:
        file = safetensors.safe_open(source.file, framework="np")
    except (safetensors.SafetensorError, OSError) as error:
        raise source.unreadable(error) from error

    def read(source: Source, key: str, kind: Kind) -> Rows:
        array = file.get_slice(key)
        code, shape = array.get_dtype(), tuple(array.get_shape())
        if code not in _SAFETENSORS_DTYPES:
            raise source.error(f"expected real numbers of at most 64 bits, got the safetensors type {code}")
        dtype = np.dtype(_SAFETENSORS_DTYPES[code])
        source.require_kind(shape, dtype, kind)
        return source.rows(shape, dtype, lambda start, stop: array[start:stop])

    keys = list(file.keys())
    return source.with_ids(source.pick(keys), keys, kind, read)


_READERS: dict[str, Callable[[Source, Kind], Rows]] = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".safetensors": _open_safetensors,
    ".pt": open_torch,
    ".pth": open_torch,
    ".parquet": open_parquet,
    ".arrow": open_ipc,
    ".feather": open_ipc,
    ".zarr": open_zarr,
}
