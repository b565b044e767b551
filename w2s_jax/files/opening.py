"""Representations, labels and groups from files of many formats, folders of shards included; whole-or-nothing writes.

`open_rows` reads a file's header and hands back a `Rows`: a shape, a dtype, and row blocks that are read when they are
sliced, so a file larger than memory is never held. Uncompressed NumPy, safetensors, torch and Arrow data is
memory-mapped; compressed data is read forwards. Pickles are never loaded, whatever is wrong with a file is one
`InputError`, and row ids that files carry can be held against each other.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

import numpy as np

from w2s_jax._core.checks import InputError, require_choice
from w2s_jax.files.arrow import open_ipc, open_parquet
from w2s_jax.files.npy import open_npy, open_npz
from w2s_jax.files.paths import EXTENSIONS, is_pattern, split_key
from w2s_jax.files.rows import Kind, Place, Rows
from w2s_jax.files.safetensors import open_safetensors
from w2s_jax.files.shards import find_shards, open_shards
from w2s_jax.files.torch_file import open_torch
from w2s_jax.files.zarr import is_zarr, open_zarr


def open_rows(path: str | os.PathLike, name: str = "array", *, kind: Kind = "numeric") -> Rows:
    """Opens a file of one row per example without reading its rows; `name` is what messages call the array.

    `file.npz:key` picks one of several arrays, tensors or columns. A folder, or a glob pattern, is all its files (shards)
    one after the other. Kind "numeric" takes real numbers (n,) or (n, d); "groups" takes integers, booleans or text (n,).

    Raises:
        InputError: it cannot be read, or holds another kind of array; also when slicing a damaged file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/model.npz", layer=np.arange(6.0).reshape(3, 2), ids=["a", "b", "c"])
    ...     rows = open_rows(f"{folder}/model.npz:layer")
    ...     rows.shape, rows[1:].tolist(), rows.ids[1:].tolist()
    ((3, 2), [[2.0, 3.0], [4.0, 5.0]], ['b', 'c'])
    """
    require_choice("kind", kind, Kind)
    given = os.fsdecode(path)
    place = Place(name, given, *split_key(given))
    if is_pattern(place.file) or (os.path.isdir(place.file) and not is_zarr(place.file)):
        return open_shards(place, find_shards(place), lambda shard: _open_file(shard, kind))
    return _open_file(place, kind)


def read_labels(path: str | os.PathLike, name: str = "labels") -> np.ndarray:
    """Labels (n,) or (n, c), in memory; NaN is kept, it marks an unlabelled row.

    Raises:
        InputError: the file cannot be read, or has infinite labels.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/y.npy", [1.0, np.nan, -1.0])
    ...     read_labels(f"{folder}/y.npy")
    array([ 1., nan, -1.])
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

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/groups.npy", ["mnist", "digits", "mnist"])
    ...     read_groups(f"{folder}/groups.npy").tolist()
    [1, 0, 1]
    """
    return np.unique(open_rows(path, name, kind="groups")[:], return_inverse=True)[1]


def _open_file(place: Place, kind: Kind) -> Rows:
    """Opens one file, or one Zarr folder; opening a pipe would wait for ever, so only a regular file is opened."""
    if is_zarr(place.file):
        return open_zarr(place, kind)
    with place.faults():
        mode = os.stat(place.file).st_mode
        if stat.S_ISDIR(mode):
            raise place.error("it is a directory, expected a file")
        if not stat.S_ISREG(mode):
            raise place.error("it is not a regular file")
        open(place.file, "rb").close()
    extension = place.extension.lower()
    if extension not in _READERS:
        came = f"the extension {extension!r}" if extension else "no extension"
        raise place.error(f"expected a file that ends in {', '.join(EXTENSIONS)}, got {came}")
    return _READERS[extension](place, kind)


_READERS: dict[str, Callable[[Place, Kind], Rows]] = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".safetensors": open_safetensors,
    ".pt": open_torch,
    ".pth": open_torch,
    ".parquet": open_parquet,
    ".arrow": open_ipc,
    ".feather": open_ipc,
    ".zarr": open_zarr,
}
