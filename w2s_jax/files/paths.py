"""Paths as users give them: a file, a folder or a glob pattern of shards, and behind a colon the array in it and its layer."""

from __future__ import annotations

import glob
import os
import re
from typing import NamedTuple

EXTENSIONS = (".npy", ".npz", ".safetensors", ".pt", ".pth", ".parquet", ".arrow", ".feather", ".zarr")
TABLES = (".csv", ".tsv", ".jsonl")  # of labels, groups and ids, also compressed (.gz): never taken for shards
_KNOWN = "|".join([*map(re.escape, EXTENSIONS), *(rf"{re.escape(table)}(?:\.gz)?" for table in TABLES)])
_FILE_AND_KEY = re.compile(f"(.+?(?:{_KNOWN})/?):(.+)", re.IGNORECASE | re.DOTALL)
_KEY_AND_LAYER = re.compile(r"(?:(.+):)?layer=(-?[0-9]{1,9})(?:,axis=([01]))?", re.DOTALL)


class Layer(NamedTuple):
    """Which layer of an array (n, layers, d) or (layers, n, d), and along which axis the layers are if the path says so."""

    number: int
    axis: int | None = None


def is_pattern(path: str) -> bool:
    """Whether a path is a glob pattern, and not a file whose name looks like one.

    >>> is_pattern("reps/*.npy"), is_pattern("reps/a.npy")
    (True, False)
    """
    return glob.has_magic(path) and not os.path.exists(path)


def split_key(path: str) -> tuple[str, str | None]:
    """File, folder or pattern, and the key behind it; what exists as it stands has none.

    >>> split_key("reps/a.npz:layer.4"), split_key("reps/*.npy")
    (('reps/a.npz', 'layer.4'), ('reps/*.npy', None))
    """
    if os.path.exists(path):
        return path, None
    found = _FILE_AND_KEY.fullmatch(path)
    if found is not None:
        return found.group(1), found.group(2)
    for colon in (i for i, letter in enumerate(path) if letter == ":"):
        file, key = path[:colon], path[colon + 1 :]
        if key and (os.path.isdir(file) or (is_pattern(file) and glob.glob(file, recursive=True))):
            return file, key
    return path, None


def table_extension(path: str) -> str | None:
    """The extension of a table of text, also of a compressed one.

    >>> table_extension("y.csv"), table_extension("y.tsv.gz"), table_extension("y.npy")
    ('.csv', '.tsv', None)
    """
    extension = os.path.splitext(path.lower().removesuffix(".gz"))[1]
    return extension if extension in TABLES else None


def split_layer(key: str | None) -> tuple[str | None, Layer | None]:
    """The array's key, and the layer behind it.

    >>> split_layer("hidden:layer=8"), split_layer("layer=-1,axis=0"), split_layer("layer8")
    (('hidden', Layer(number=8, axis=None)), (None, Layer(number=-1, axis=0)), ('layer8', None))
    """
    found = None if key is None else _KEY_AND_LAYER.fullmatch(key)
    if found is None:
        return key, None
    key, number, axis = found.groups()
    return key, Layer(int(number), None if axis is None else int(axis))


def matching(path: str) -> list[str]:
    """What a path stands for: itself, or of a pattern the files that match, each with the pattern's key; sorted.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in "ba":
    ...         open(f"{folder}/{name}.npz", "w").close()
    ...     [os.path.basename(path) for path in matching(f"{folder}/*.npz:layer")]
    ['a.npz:layer', 'b.npz:layer']
    """
    file, key = split_key(path)
    if not is_pattern(file):
        return [path]
    return [found if key is None else f"{found}:{key}" for found in sorted(glob.glob(file, recursive=True))]


def short_name(path: str) -> str:
    """The file's name without a known extension, and the key.

    >>> short_name("reps/small.npy"), short_name("reps/small.npz:layer")
    ('small', 'small:layer')
    """
    file, key = split_key(path)
    name = os.path.basename(os.path.abspath(file))
    if table_extension(name) is not None and name.lower().endswith(".gz"):
        name = name[: -len(".gz")]
    stem, extension = os.path.splitext(name)
    name = stem if extension.lower() in EXTENSIONS + TABLES else name
    return name if key is None else f"{name}:{key}"
