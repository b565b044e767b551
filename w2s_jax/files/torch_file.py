"""Rows of torch's .pt and .pth files, without torch and without unpickling.

Such a file is a zip archive: a pickle that says which tensors there are, and one uncompressed member per storage,
which is memory-mapped here. Only `torch_pickle.py` looks at the pickle.
"""

from __future__ import annotations

import zipfile
from typing import Any

import numpy as np

from w2s_jax.files.npy import data_offset
from w2s_jax.files.rows import Kind, Place, Rows
from w2s_jax.files.torch_pickle import Refused, Tensor, Unknown, interpret

_LARGEST_PICKLE = 256 << 20  # it is held in memory, so a file's ids may be that long, its tensors of any size
_NESTING = (Tensor, dict, list, tuple)
_DEEPEST = 8  # of nested containers
_LONGEST_KEY = 1024
_MEANS = "mean_representations"  # as ESM's extraction saves one protein a file: layer -> vector
_OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how a .pt of torch < 1.6 begins


def open_torch(place: Place, kind: Kind) -> Rows:
    """One tensor of a .pt file; ids may be a tensor or a list of integers or text."""
    with place.faults(), open(place.file, "rb") as stream:
        if stream.read(len(_OLD_FORMAT)) == _OLD_FORMAT:
            raise place.error("it is in the format of torch before 1.6: load and save it with a newer torch")
        archive = zipfile.ZipFile(stream)
        found = _contents(place, archive)
        if isinstance(found, Tensor):
            if place.key is not None:
                raise place.error(f"it holds one tensor, so it takes no key, got {place.key!r}")
            return _tensor_rows(place, archive, found, kind)
        held = _flat(found)
        tensors = [key for key, value in held.items() if isinstance(value, Tensor)]
        if not tensors:
            unknown = [value.name for value in held.values() if isinstance(value, Unknown)]
            came = ", ".join([type(found).__name__] * (not isinstance(found, Unknown | bytes)) + unknown[:1])
            raise place.error(f"expected a tensor or a dict of tensors, got {came}")

        def read(place: Place, key: str, kind: Kind) -> Rows:
            value = held[key]
            if isinstance(value, Unknown):
                raise place.error(f"expected a tensor as {key!r}, got {value.name}: save it as a tensor")
            if isinstance(value, list):
                return _list_rows(place, value, kind)
            return _tensor_rows(place, archive, value, kind)

        means = [key for key in tensors if key.startswith(f"{_MEANS}.")]
        if place.key is None and means and (place.layer is not None or len(means) == 1):
            key = means[0] if place.layer is None else f"{_MEANS}.{place.layer.number}"
            place = place._replace(key=key, layer=None)
        key = place.pick(list(held) if place.key in held else tensors)
        return place.with_ids(key, list(held), kind, read)


def _flat(found: Any) -> dict[str, Tensor | list | Unknown]:
    """All tensors by the keys and places that lead to them, joined by dots; beside them lists, as ids are, and what is unknown.

    A container that is there several times is looked into once, and nothing whose name would be too deep or too long.
    """
    flat: dict[str, Tensor | list | Unknown] = {}
    nested: dict[int, bool] = {}  # by id, so that each list is searched once, however often it is there
    seen: set[int] = set()

    def nests(value: Any) -> bool:
        if id(value) not in nested:
            entries = value if isinstance(value, list | tuple) else ()
            nested[id(value)] = isinstance(value, dict) or any(isinstance(entry, _NESTING) for entry in entries)
        return nested[id(value)]

    def visit(value: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, bytes):
            value = Unknown("bytes")
        if isinstance(value, Tensor | Unknown) or (isinstance(value, list) and not nests(value) and path):
            flat.setdefault(".".join(path), value)
        elif nests(value) and len(path) < _DEEPEST and id(value) not in seen:
            seen.add(id(value))
            for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
                if len(str(key)) <= _LONGEST_KEY:
                    visit(entry, (*path, str(key)))

    visit(found, ())
    return flat


def _tensor_rows(place: Place, archive: zipfile.ZipFile, tensor: Tensor, kind: Kind) -> Rows:
    """Rows of a memory map, which may be a slice or a transpose of what was saved."""
    storage, dtype = tensor.storage, tensor.storage.dtype
    place.require_kind(tensor.shape, dtype, kind)
    folder = _pickle_member(archive).filename.removesuffix("data.pkl")
    member = archive.getinfo(f"{folder}data/{storage.member}")
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    if last >= storage.length:
        raise place.error(f"its tensor ends at number {last + 1} of a storage of {storage.length}")
    if member.compress_type != zipfile.ZIP_STORED or member.file_size < storage.length * dtype.itemsize:
        expected = f"{storage.length * dtype.itemsize} bytes of uncompressed data"
        raise place.error(f"expected {expected} in its member {member.filename!r}, got {member.file_size}")
    if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") == b"big":
        dtype = dtype.newbyteorder(">")
    numbers = np.memmap(place.file, dtype, "r", data_offset(place.file, member), (storage.length,))
    steps = tuple(step * dtype.itemsize for step in tensor.strides)
    array = np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, steps, writeable=False)
    return place.rows(tensor.shape, dtype, lambda start, stop: array[start:stop])


def _list_rows(place: Place, values: list, kind: Kind) -> Rows:
    """A list of integers or of text, as ids and groups are."""
    types = {type(value) for value in values}
    if types not in ({int}, {str}):
        raise place.wrong_type("a list", kind)
    array = np.array(values)
    if array.dtype.hasobject:
        raise place.error("expected integers of at most 64 bits")
    place.require_kind(array.shape, array.dtype, kind)
    return place.rows(array.shape, array.dtype, lambda start, stop: array[start:stop])


def _pickle_member(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    found = [info for info in archive.infolist() if info.filename.split("/")[1:] == ["data.pkl"]]
    if len(found) != 1:
        raise ValueError("no tensors are described in it")
    return found[0]


def _contents(place: Place, archive: zipfile.ZipFile) -> Any:
    """What the archive's pickle describes."""
    member = _pickle_member(archive)
    if member.compress_type != zipfile.ZIP_STORED or member.file_size > _LARGEST_PICKLE:
        raise place.error("what it holds besides tensors is compressed or larger than 256 MiB")
    try:
        return interpret(archive.read(member))
    except Refused as error:
        raise place.error(f"expected nothing but tensors, got {error}: save a tensor or a dict of tensors") from error
