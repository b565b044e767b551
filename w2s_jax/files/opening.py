"""Representations, labels and groups from files of many formats, folders of shards included; whole-or-nothing writes.

`open_rows` reads a file's header and hands back a `Rows`: a shape, a dtype, and row blocks that are read when they are
sliced, so a file larger than memory is never held. Uncompressed NumPy, safetensors, torch and Arrow data is
memory-mapped; compressed data is read forwards. Pickles are never loaded, whatever is wrong with a file is one
`InputError`, and row ids that files carry can be held against each other.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from w2s_jax._core.checks import InputError, require_choice
from w2s_jax.files.arrow import open_ipc, open_parquet
from w2s_jax.files.npy import open_npy, open_npz
from w2s_jax.files.paths import EXTENSIONS, TABLES, is_pattern, split_key, split_layer, table_extension
from w2s_jax.files.rows import Kind, Place, Rows
from w2s_jax.files.safetensors import open_safetensors
from w2s_jax.files.shards import find_order, find_shards, in_order, open_shards
from w2s_jax.files.tables import open_table
from w2s_jax.files.torch_file import open_torch
from w2s_jax.files.zarr import is_zarr, open_zarr

_MOST_CLASSES = 1000


def open_rows(path: str | os.PathLike, name: str = "array", *, kind: Kind = "numeric") -> Rows:
    """Opens a file of one row per example without reading its rows; `name` is what messages call the array.

    `file.npz:key` picks one of several arrays, tensors or columns, `file.npy:layer=8` or `file.npz:key:layer=8` a layer of an
    array (n, layers, d) or (layers, n, d); the axis of the layers is the much shorter one, or `layer=8,axis=0` names it. A
    folder, or a glob pattern, is all its files (shards) one after the other; files of one vector each are the rows. Kind
    "numeric" takes real numbers (n,) or (n, d), "labels" also text (n,); "groups" takes integers, booleans or text (n,).

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
    file, key = split_key(given)
    place = Place(name, given, file, *split_layer(key))
    if not is_pattern(file) and (not os.path.isdir(file) or is_zarr(file)):
        return _open_file(place, kind)
    rows = open_shards(place, find_shards(place), lambda shard: _open_file(shard, kind), vectors=kind == "numeric")
    order = find_order(place)
    if not order:
        return rows
    of_order = place._replace(name=f"order of {name}", key=None, layer=None)
    return in_order(place, rows, open_shards(of_order, order, lambda shard: _open_file(shard, "groups")))


def read_labels(path: str | os.PathLike, name: str = "labels", *, unlabelled: float | str | None = None) -> np.ndarray:
    """Labels (n,) or (n, c), in memory; NaN marks an unlabelled row, and so does `unlabelled`. Text is classes, one-hot rows in
    alphabetical order; where it is empty the row is unlabelled.

    Raises:
        InputError: the file cannot be read, has infinite labels, or text of which nearly every row has its own.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/y.npy", [1.0, np.nan, -1.0])
    ...     read_labels(f"{folder}/y.npy")
    array([ 1., nan, -1.])
    """
    return read_labels_and_classes(path, name, unlabelled=unlabelled)[0]


def read_labels_and_classes(
    path: str | os.PathLike, name: str = "labels", *, unlabelled: float | str | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """`read_labels`, and the class that each column of one-hot rows stands for; () where labels are numbers.

    Raises:
        InputError: as `read_labels`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = open(f"{folder}/y.csv", "w").write("text,label\\nmeow,cat\\nwoof,dog\\n?,\\n")
    ...     y, classes = read_labels_and_classes(f"{folder}/y.csv:label")
    ...     y.tolist(), classes
    ([[1.0, 0.0], [0.0, 1.0], [nan, nan]], ('cat', 'dog'))
    """
    rows = open_rows(path, name, kind="labels")
    labels = np.array(rows[:])
    if labels.dtype.kind in "UO":
        return _one_hot(rows, labels.astype(str), unlabelled)
    if unlabelled is not None and not isinstance(unlabelled, str):
        marked = labels == unlabelled
        labels = labels.astype(np.promote_types(labels.dtype, np.float32))
        labels[marked.all(1) if labels.ndim == 2 else marked] = np.nan
    infinite = np.isinf(labels)
    if infinite.any():
        row = int(np.nonzero(infinite)[0][0])
        raise InputError(f"{rows.label} must be finite, or NaN where unlabelled, got infinity in row {row}")
    return labels, ()


def _one_hot(rows: Rows, text: np.ndarray, unlabelled: float | str | None) -> tuple[np.ndarray, tuple[str, ...]]:
    marks = "", unlabelled if isinstance(unlabelled, str) else "" if unlabelled is None else f"{unlabelled:g}"
    there = ~np.isin(text, marks)
    classes, code = np.unique(text[there], return_inverse=True)
    if len(classes) > _MOST_CLASSES or (len(text) > 20 and 4 * len(classes) > len(text)):
        raise InputError(
            f"{rows.label} must be numbers or classes, got {len(classes)} different texts in {len(text)} rows"
        )
    labels = np.full((len(text), len(classes)), np.nan)
    labels[there] = np.eye(len(classes))[code]
    return labels, tuple(classes.tolist())


def notes_of(rows: Iterable[Any], classes: Mapping[str, Sequence[str]]) -> list[str]:
    """Lines that say how files were understood that could be otherwise, and the class of each column of label sets by name."""
    found = [f"{one.label}: {one.note}" for one in rows if getattr(one, "note", "")]
    for name, names in classes.items():
        if names:
            found.append(f"classes of {name}: " + ", ".join(f"{i} = {text}" for i, text in enumerate(names)))
    return found


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
    if table_extension(place.file) is not None:
        return open_table(place, kind)
    extension = place.extension.lower()
    if extension not in _READERS:
        came = f"the extension {extension!r}" if extension else "no extension"
        raise place.error(f"expected a file that ends in {', '.join((*EXTENSIONS, *TABLES))}, got {came}")
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
