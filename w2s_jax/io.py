"""Representations, labels and groups from .npy, .npz and .safetensors files; whole-or-nothing writes.

`open_rows` reads a file's header and hands back a `Rows`: a shape, a dtype, and row blocks that are read when
they are sliced, so a file larger than memory is never held. Uncompressed data is memory-mapped, also inside
.npz; compressed data is read forwards. Pickles are never loaded, and whatever is wrong with a file is one
`InputError`.
"""

from __future__ import annotations

import math
import os
import re
import stat
import threading
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np

from w2s_jax._checks import InputError

Kind = Literal["numeric", "groups"]

_EXTENSIONS = (".npy", ".npz", ".safetensors")
_PATH_AND_KEY = re.compile(r"(.+?\.(?:npy|npz|safetensors)):(.+)", re.IGNORECASE | re.DOTALL)
_FLOATS = {
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_INTEGERS = {f"{sign}{8 * size}": np.dtype(f"{sign.lower()}{size}") for sign in "IU" for size in (1, 2, 4, 8)}
_SAFETENSORS_DTYPES = {**_FLOATS, **_INTEGERS, "BOOL": np.dtype(np.bool_)}
_CHUNK = 1 << 20  # bytes decompressed at a time


@dataclass(frozen=True)
class Rows:
    """An array in a file, read block by block: `rows[start:stop]` is a NumPy array of those rows.

    `label` names the array and its file in messages; `dtype` is in native byte order.
    """

    label: str
    shape: tuple[int, ...]
    dtype: np.dtype
    _read: Callable[[int, int], np.ndarray] = field(repr=False)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise TypeError(f"rows are read as a block such as rows[0:1024], got {rows!r}")
        start, stop, _ = rows.indices(len(self))
        if stop <= start:
            return np.empty((0, *self.shape[1:]), self.dtype)
        return self._read(start, stop).astype(self.dtype, copy=False)

    @property
    def nbytes(self) -> int:
        """Size of the whole array in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


def open_rows(path: str | os.PathLike, name: str = "array", *, kind: Kind = "numeric") -> Rows:
    """Opens a file of one row per example without reading its rows; `name` is what messages call the array.

    `file.npz:key` and `file.safetensors:key` pick one of several arrays. Kind "numeric" takes real numbers
    (n,) or (n, d); "groups" takes integers, booleans or text (n,).

    Raises:
        InputError: the file cannot be read, or holds another kind of array; also when slicing a damaged .npz.
    """
    source = _locate(path, name)
    readers = {".npy": _open_npy, ".npz": _open_npz, ".safetensors": _open_safetensors}
    extension = os.path.splitext(source.file)[1].lower()
    if extension not in readers:
        came = f"the extension {extension!r}" if extension else "no extension"
        raise source.error(f"expected a file that ends in {', '.join(_EXTENSIONS)}, got {came}")
    return readers[extension](source, kind)


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
    why = _reason(error) if folder.is_dir() else f"there is no folder {folder}"
    return InputError(f"cannot write {os.fspath(path)}: {why}")


def _reason(error: BaseException) -> str:
    """The first line of an exception's own words."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return words.splitlines()[0].rstrip(".")


class _Source(NamedTuple):
    """One array asked for: what messages call it, the path as given, and the file and key that means."""

    name: str
    given: str
    file: str
    key: str | None

    def error(self, why: str) -> InputError:
        return InputError(f"cannot read {self.name} from {self.given}: {why}")

    def damaged(self, error: BaseException) -> InputError:
        """The file is not what its extension says, or not all of it."""
        extension = os.path.splitext(self.file)[1]
        return self.error(f"it is damaged, truncated or not a {extension} file ({_reason(error)})")

    def rows(self, shape: tuple[int, ...], dtype: np.dtype, read: Callable[[int, int], np.ndarray]) -> Rows:
        return Rows(f"{self.name} ({self.given})", shape, dtype.newbyteorder("="), read)


def _locate(path: str | os.PathLike, name: str) -> _Source:
    """Splits a key off the path and makes sure of a regular file: opening a pipe would wait for ever."""
    given = os.fsdecode(path)
    parts = _PATH_AND_KEY.fullmatch(given)
    file, key = parts.groups() if parts and not os.path.exists(given) else (given, None)
    source = _Source(name, given, file, key)
    try:
        mode = os.stat(file).st_mode
        if stat.S_ISDIR(mode):
            raise source.error("it is a directory, expected a file")
        if not stat.S_ISREG(mode):
            raise source.error("it is not a regular file")
        open(file, "rb").close()
    except FileNotFoundError as error:
        raise source.error("the file does not exist") from error
    except OSError as error:
        raise source.error(_reason(error)) from error
    return source


def _pick(source: _Source, keys: list[str]) -> str:
    """The key asked for, or the only one."""
    if source.key in keys:
        return source.key
    if source.key is None and len(keys) == 1:
        return keys[0]
    if not keys:
        raise source.error("it holds no arrays")
    listed = ", ".join(sorted(keys))
    if source.key is None:
        raise source.error(f"it holds several arrays, name one as {source.file}:KEY, KEY one of {listed}")
    raise source.error(f"it has no array {source.key!r}, only {listed}")


def _require_kind(source: _Source, shape: tuple[int, ...], dtype: np.dtype, kind: Kind) -> None:
    """Refuses arrays that are no representation, label or group file."""
    if dtype.hasobject:
        raise source.error("it holds Python objects, and pickled .npy files are refused")
    real = dtype.kind in "biu" or dtype.newbyteorder("=") in _FLOATS.values()
    if dtype.kind == "V" and dtype.names is None and not real:
        raise source.error("its values have lost their type, as bfloat16 does in .npy: use .safetensors")
    if not (dtype.kind in "biuU" if kind == "groups" else real):
        expected = "integers or text" if kind == "groups" else "real numbers of at most 64 bits"
        came = "a structured array" if dtype.names else dtype.name
        raise source.error(f"expected {expected}, got {came}")
    if len(shape) not in ((1,) if kind == "groups" else (1, 2)):
        expected = "shape (n,)" if kind == "groups" else "shape (n,) or (n, d)"
        raise source.error(f"expected {expected}, got {shape}")
    if min(shape) < 1:
        raise source.error(f"expected at least one row and one column, got shape {shape}")


class _Header(NamedTuple):
    """An .npy header: what the array is, and how many bytes the header itself takes."""

    shape: tuple[int, ...]
    column_major: bool
    dtype: np.dtype
    length: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _npy_header(source: _Source, stream: Any, size: int, kind: Kind) -> _Header:
    """The header of an .npy stream of `size` bytes, checked against what follows it."""
    try:
        version = np.lib.format.read_magic(stream)
        old = version == (1, 0)
        read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
        header = _Header(*read(stream), stream.tell())
    except Exception as error:  # NumPy's header parser lets half a dozen unrelated exceptions through
        raise source.damaged(error) from error
    _require_kind(source, header.shape, header.dtype, kind)
    there = size - header.length
    if there < header.nbytes:
        raise source.error(f"it is truncated: {header.nbytes} bytes of data expected, {there} there")
    return header


def _mapped(source: _Source, header: _Header, offset: int) -> Rows:
    """Rows of a memory map; a column-major one gathers each block from all over the file."""
    order = "F" if header.column_major else "C"
    try:
        array = np.memmap(source.file, header.dtype, "r", offset, header.shape, order)
    except (OSError, ValueError) as error:
        raise source.damaged(error) from error
    return source.rows(header.shape, header.dtype, lambda start, stop: array[start:stop])


def _open_npy(source: _Source, kind: Kind) -> Rows:
    if source.key is not None:
        raise source.error(f"an .npy file holds one array, so it takes no key, got {source.key!r}")
    try:
        with open(source.file, "rb") as stream:
            header = _npy_header(source, stream, os.path.getsize(source.file), kind)
    except OSError as error:
        raise source.damaged(error) from error
    return _mapped(source, header, header.length)


def _open_npz(source: _Source, kind: Kind) -> Rows:
    with _zip_faults(source), zipfile.ZipFile(source.file) as archive:
        members = {info.filename[:-4]: info for info in archive.infolist() if info.filename.endswith(".npy")}
        member = members[_pick(source, list(members))]
        with archive.open(member) as stream:
            header = _npy_header(source, stream, member.file_size, kind)
    if member.compress_type == zipfile.ZIP_STORED:
        return _mapped(source, header, _data_offset(source.file, member) + header.length)
    if header.column_major:
        raise source.error("it is compressed and in column order: save it uncompressed or in row order")
    return source.rows(header.shape, header.dtype, _Forwards(source, member, header))


def _data_offset(file: str, member: zipfile.ZipInfo) -> int:
    """Where a member's bytes start: after its local header, whose length is not in the archive's index."""
    with open(file, "rb") as stream:
        stream.seek(member.header_offset + 26)
        name, extra = (int.from_bytes(stream.read(2), "little") for _ in range(2))
    return member.header_offset + 30 + name + extra


@contextmanager
def _zip_faults(source: _Source) -> Iterator[None]:
    """Whatever zipfile and its decompressors raise on a damaged file, as one sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # BadZipFile, zlib.error, LZMAError, RuntimeError when encrypted, ...
        raise source.damaged(error) from error


class _Forwards:
    """Row blocks of a compressed member, which is read from front to back; going back starts again."""

    def __init__(self, source: _Source, member: zipfile.ZipInfo, header: _Header) -> None:
        self._source, self._member, self._header = source, member, header
        self._row_bytes = header.nbytes // header.shape[0]
        self._stream: Any | None = None
        self._row = 0
        self._lock = threading.Lock()  # a prefetching thread may share the one position with its consumer

    def __call__(self, start: int, stop: int) -> np.ndarray:
        data = np.empty((stop - start) * self._row_bytes, np.uint8)
        with self._lock, _zip_faults(self._source):
            stream = self._at(start)
            _fill(stream, data.data)
            self._stream, self._row = stream, stop
        return data.view(self._header.dtype).reshape(stop - start, *self._header.shape[1:])

    def _at(self, row: int) -> Any:
        """The stream at the start of a row."""
        stream, self._stream = self._stream, None  # a read that fails leaves no usable position behind
        behind = (row - self._row) * self._row_bytes
        if stream is None or behind < 0:
            with zipfile.ZipFile(self._source.file) as archive:
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


def _open_safetensors(source: _Source, kind: Kind) -> Rows:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        needs = "reading .safetensors files needs the safetensors package: pip install 'w2s_jax[cli]'"
        raise source.error(needs) from error
    try:
        file = safe_open(source.file, framework="np")  # memory-maps the file
    except (SafetensorError, OSError) as error:
        raise source.damaged(error) from error
    array = file.get_slice(_pick(source, list(file.keys())))
    code, shape = array.get_dtype(), tuple(array.get_shape())
    if code not in _SAFETENSORS_DTYPES:
        raise source.error(f"expected real numbers of at most 64 bits, got the safetensors type {code}")
    dtype = np.dtype(_SAFETENSORS_DTYPES[code])
    _require_kind(source, shape, dtype, kind)
    return source.rows(shape, dtype, lambda start, stop: array[start:stop])
