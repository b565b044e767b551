"""Rows of .npy and .npz files: memory-mapped where they are uncompressed, read forwards where they are compressed.

Pickles are never loaded. The members of an .npz are located by zipfile and mapped in place.
"""

from __future__ import annotations

import math
import os
import threading
import zipfile
from typing import Any, NamedTuple

import numpy as np

from w2s_jax.files.rows import Kind, Place, Rows

_MAGIC = b"\x93NUMPY"
_CHUNK = 1 << 20  # bytes decompressed at a time


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
            return _member(place, members[key], header)

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


def _member(place: Place, member: zipfile.ZipInfo, header: _Header) -> Rows:
    if member.compress_type == zipfile.ZIP_STORED:
        return _mapped(place, header, data_offset(place.file, member) + header.length)
    if header.column_major:
        raise place.error("it is compressed and in column order: save it uncompressed or in row order")
    return place.rows(header.shape, header.dtype, _Forwards(place, member, header))


class _Forwards:
    """Row blocks of a compressed member, which is read from front to back; going back starts again."""

    def __init__(self, place: Place, member: zipfile.ZipInfo, header: _Header) -> None:
        self._place, self._member, self._header = place, member, header
        self._row_bytes = header.nbytes // header.shape[0]
        self._stream: Any | None = None
        self._row = 0
        self._lock = threading.Lock()  # a prefetching thread may share the one position with its consumer

    def __call__(self, start: int, stop: int) -> np.ndarray:
        data = np.empty((stop - start) * self._row_bytes, np.uint8)
        with self._lock, self._place.faults():
            stream = self._at(start)
            _fill(stream, data.data)
            self._stream, self._row = stream, stop
        return data.view(self._header.dtype).reshape(stop - start, *self._header.shape[1:])

    def _at(self, row: int) -> Any:
        """The stream at the start of a row."""
        stream, self._stream = self._stream, None  # a read that fails leaves no usable position behind
        behind = (row - self._row) * self._row_bytes
        if stream is None or behind < 0:
            with zipfile.ZipFile(self._place.file) as archive:
                stream = archive.open(self._member)  # keeps the file open for as long as it is needed
            behind = self._header.length + row * self._row_bytes
        while behind > 0:
            behind -= _advance(stream.read(min(behind, _CHUNK)))
        return stream


def _fill(stream: Any, target: memoryview) -> None:
    """Reads in chunks straight into the target, so that no second copy of a block exists."""
    done = 0
    while done < len(target):
        chunk = stream.read(min(len(target) - done, _CHUNK))
        target[done : done + len(chunk)] = chunk
        done += _advance(chunk)


def _advance(chunk: bytes) -> int:
    if not chunk:
        raise EOFError("the data ends too early")
    return len(chunk)
