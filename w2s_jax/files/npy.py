"""Rows of .npy and .npz files: memory-mapped where they are uncompressed, read forwards where they are compressed.

Pickles are never loaded. The members of an .npz are located by zipfile and mapped in place.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from w2s_jax.files.rows import Forwards, Kind, Place, Rows

_MAGIC = b"\x93NUMPY"
_BLOCK_BYTES = 1 << 16  # decompressed at a time


def open_npy(place: Place, kind: Kind) -> Rows:
    """The array of an .npy file."""
    if place.key is not None:
        raise place.error(f"an .npy file holds one array, so it takes no key, got {place.key!r}")
    with place.faults(), open(place.file, "rb") as stream:
        header = _read_header(place, stream, os.path.getsize(place.file), kind)
        stream.seek(header.length + header.nbytes)
        if stream.read(len(_MAGIC)) == _MAGIC:
            raise place.error(
                "several arrays were saved to it, one behind the other: save them as an .npz or as shards"
            )
    return _mapped(place, header, header.length)


def open_npz(place: Place, kind: Kind) -> Rows:
    """One array of an .npz file."""
    with place.faults(), zipfile.ZipFile(place.file) as archive:
        members = {info.filename[:-4]: info for info in archive.infolist() if info.filename.endswith(".npy")}

        def read(place: Place, key: str, kind: Kind) -> Rows:
            with archive.open(members[key]) as stream:
                header = _read_header(place, stream, members[key].file_size, kind)
            if members[key].compress_type == zipfile.ZIP_STORED:
                return _mapped(place, header, data_offset(place.file, members[key]) + header.length)
            if header.column_major:
                raise place.error("it is compressed and in column order: save it uncompressed or in row order")
            return _inflated(place, members[key], header)

        return place.with_ids(place.pick(list(members)), list(members), kind, read)


def data_offset(file: str, member: zipfile.ZipInfo) -> int:
    """Where a zip member's bytes start: after its local header, whose length is not in the archive's index."""
    with open(file, "rb") as stream:
        stream.seek(member.header_offset + 26)
        name, extra = (int.from_bytes(stream.read(2), "little") for _ in range(2))
    return member.header_offset + 30 + name + extra


class _Header(NamedTuple):
    """An .npy header: what the array is, and how many bytes the header itself takes."""

    shape: tuple[int, ...]
    column_major: bool
    dtype: np.dtype
    length: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _read_header(place: Place, stream: Any, size: int, kind: Kind) -> _Header:
    """The header of an .npy stream of `size` bytes, checked against what follows it."""
    with place.faults():  # NumPy's header parser lets half a dozen unrelated exceptions through
        version = np.lib.format.read_magic(stream)
        old = version == (1, 0)
        read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
        header = _Header(*read(stream), stream.tell())
    place.require_kind(header.shape, header.dtype, kind)
    there = size - header.length
    if there < header.nbytes:
        raise place.error(f"it is truncated: {header.nbytes} bytes of data expected, {there} there")
    return header


def _mapped(place: Place, header: _Header, offset: int) -> Rows:
    """Rows of a memory map; a column-major one gathers each block from all over the file."""
    order = "F" if header.column_major else "C"
    with place.faults():
        array = np.memmap(place.file, header.dtype, "r", offset, header.shape, order)
    return place.rows(header.shape, header.dtype, lambda start, stop: array[start:stop])


def _inflated(place: Place, member: zipfile.ZipInfo, header: _Header) -> Rows:
    """Rows of a compressed member, which is read from front to back."""
    rows = max(1, _BLOCK_BYTES * header.shape[0] // header.nbytes)

    def blocks(_: int) -> Iterator[np.ndarray]:
        with zipfile.ZipFile(place.file) as archive:
            stream = archive.open(member)  # keeps the file open for as long as it is needed
        _read(stream, header.length)
        for first in range(0, header.shape[0], rows):
            shape = min(rows, header.shape[0] - first), *header.shape[1:]
            data = _read(stream, math.prod(shape) * header.dtype.itemsize)
            yield np.frombuffer(data, header.dtype).reshape(shape)

    return place.rows(header.shape, header.dtype, Forwards(place, header.shape, header.dtype, [0], blocks))


def _read(stream: Any, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError("the data ends too early")
    return data
