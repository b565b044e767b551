"""An array in a file as `Rows`, and what the readers of all formats share: which array, of which kind, what is wrong.

Every format's reader takes a `Place` and a kind and returns `Rows` without reading a row. An array called `id` or `ids`
beside the one asked for names its rows: it is never taken for the representation, and comes along as `Rows.ids`.
"""

from __future__ import annotations

import math
import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np

from w2s_jax._core.checks import InputError, reason
from w2s_jax._core.extras import needed
from w2s_jax.files.paths import Layer

LISTED = 10  # names at most in a message
_MORE_ROWS = 4  # times as many rows as layers tell them apart
Kind = Literal["numeric", "groups", "labels"]

ID_KEYS = ("id", "ids")
FLOATS = tuple(np.dtype(name) for name in (np.float16, np.float32, np.float64, ml_dtypes.bfloat16))


class NoRowsError(InputError):
    """An array without rows, which among shards is none to complain about."""


@dataclass(frozen=True)
class Rows:
    """An array in a file, read block by block: `rows[start:stop]` is a NumPy array of those rows.

    `label` names the array and its file in messages; `dtype` is in native byte order; `ids` (n,) are the ids of the
    rows, integers or text, where the file carries them; `note` says how a file was understood that could be otherwise,
    `layer` which layer was taken, and along which axis.

    >>> rows = Rows("weak (a.npy)", (4, 2), np.dtype("f4"), lambda start, stop: np.ones((stop - start, 2)))
    >>> len(rows), rows[2:].shape, rows.nbytes
    (4, (2, 2), 32)
    """

    label: str
    shape: tuple[int, ...]
    dtype: np.dtype
    _read: Callable[[int, int], np.ndarray] = field(repr=False)
    ids: Rows | None = field(default=None, repr=False)
    note: str = ""
    layer: Layer | None = field(default=None, repr=False)

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


class Place(NamedTuple):
    """One array asked for: what messages call it, the path as given, and the file, key and layer that means; of a shard also the
    folder or pattern that it belongs to.

    >>> Place("weak", "a.npz:y", "a.npz", "y").error("the file does not exist")
    InputError('cannot read weak from a.npz:y: the file does not exist')
    """

    name: str
    given: str
    file: str
    key: str | None
    layer: Layer | None = None
    whole: str | None = None

    @property
    def extension(self) -> str:
        return os.path.splitext(self.file.rstrip(os.sep))[1]

    @property
    def format(self) -> str:
        """The extension; what is read without one is a Zarr folder."""
        return self.extension or ".zarr"

    def error(self, why: str) -> InputError:
        return InputError(f"cannot read {self.name} from {self.given}: {why}")

    def unreadable(self, error: BaseException) -> InputError:
        """The system refuses the file, or it is not what its extension says, or not all of it."""
        if isinstance(error, FileNotFoundError):
            return self.error("the file does not exist")
        if isinstance(error, OSError) and error.errno is not None:
            return self.error(reason(error))
        return self.error(f"it is damaged, truncated or not a {self.format} file ({reason(error)})")

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Whatever a format's library raises on a damaged file, as one sentence."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # BadZipFile, zlib.error, ArrowInvalid, RuntimeError when encrypted, ...
            raise self.unreadable(error) from error

    def extra(self, module: str, extra: str) -> Any:
        """A module that only this format needs."""
        try:
            return needed(module, f"reading {self.format} files", extra)
        except InputError as error:
            raise self.error(str(error)) from error

    def rows(self, shape: tuple[int, ...], dtype: np.dtype, read: Callable[[int, int], np.ndarray]) -> Rows:
        """Rows of native byte order; bytes are text."""
        if dtype.kind == "S":
            return self.rows(shape, np.dtype(("U", dtype.itemsize)), lambda *span: self._decoded(read(*span)))
        rows = Rows(f"{self.name} ({self.given})", shape, dtype.newbyteorder("="), read)
        return rows if self.layer is None else self._of_layer(self.layer, rows)

    def _of_layer(self, layer: Layer, rows: Rows) -> Rows:
        """One layer of an array (n, layers, d) or (layers, n, d)."""
        shape, read = rows.shape, rows._read
        axis = layer.axis
        if axis is None:
            few, many = sorted(shape[:2])
            if many < _MORE_ROWS * few:
                raise self.error(
                    f"which axis of its shape {shape} are the layers is not clear: say FILE:layer={layer.number},axis=0 or 1"
                )
            axis = shape.index(few)
        layers, index = shape[axis], layer.number
        if not -layers <= index < layers:
            raise self.error(f"expected one of the {layers} layers along axis {axis} of its shape {shape}, got {index}")
        index %= layers
        of_layer = _WholeLayer(read, index) if axis == 0 else lambda start, stop: read(start, stop)[:, index]
        note = f"layer {index} of the {layers} along axis {axis} of the shape {shape}"
        return replace(rows, shape=(shape[1 - axis], shape[2]), _read=of_layer, note=note, layer=Layer(index, axis))

    def _decoded(self, block: np.ndarray) -> np.ndarray:
        with self.faults():
            return np.char.decode(block, "utf-8")

    def pick(self, keys: Sequence[str]) -> str:
        """The key asked for, or the only one that holds no ids."""
        if self.key is not None and self.key in keys:
            return self.key
        arrays = [key for key in keys if key not in ID_KEYS] or keys
        if self.key is None and len(arrays) == 1:
            return arrays[0]
        if not keys:
            raise self.error("it holds no arrays")
        names = listed(sorted(keys))
        if self.key is None:
            raise self.error(f"it holds several arrays, name one as {self.whole or self.file}:KEY, KEY one of {names}")
        raise self.error(f"it has no array {self.key!r}, only {names}")

    def of_ids(self) -> Place:
        """The same place, asked for the ids of its rows."""
        return self._replace(name=f"row ids of {self.name}", layer=None)

    def with_ids(self, key: str, keys: Sequence[str], kind: Kind, read: Callable[[Place, str, Kind], Rows]) -> Rows:
        """The array under a key, read by `read`, and the ids beside it."""
        rows = read(self, key, kind)
        name = next((name for name in ID_KEYS if name in keys), None)
        if name is None or key in ID_KEYS:
            return rows
        try:
            ids = read(self.of_ids(), name, "groups")
        except InputError as error:
            raise InputError(
                f"{error}; its array {name!r} names the rows: call it something else if it does not"
            ) from error
        if len(ids) != len(rows):
            raise self.error(f"its array {name!r} holds {len(ids)} row ids, expected {len(rows)}")
        return replace(rows, ids=ids)

    def require_kind(self, shape: tuple[int, ...], dtype: np.dtype, kind: Kind) -> None:
        """Refuses arrays that are no representation, label or group file."""
        if dtype.hasobject:
            raise self.error("it holds Python objects, and unpickling is refused: save text as array.astype(str)")
        real = dtype.kind in "biu" or dtype.newbyteorder("=") in FLOATS
        if dtype.kind == "V" and dtype.names is None and not real:
            raise self.error("its values have lost their type, as bfloat16 does in .npy: use .safetensors")
        text = dtype.kind in "US"
        if not {"groups": text or dtype.kind in "biu", "labels": text or real, "numeric": real}[kind]:
            raise self.wrong_type("a structured array" if dtype.names else dtype.name, kind)
        if self.layer is not None and len(shape) != 3:
            raise self.error(f"it has no layers: expected shape (n, layers, d) or (layers, n, d), got {shape}")
        column = kind == "groups" or text
        if self.layer is None and len(shape) not in ((1,) if column else (1, 2)):
            expected = "shape (n,)" if column else "shape (n,) or (n, d)"
            remedy = "of several layers name one as FILE:layer=L; " if kind == "numeric" and len(shape) == 3 else ""
            raise self.error(f"{remedy}expected {expected}, got {shape}")
        if min(shape) < 1:
            why = self.error(f"expected at least one row and one column, got shape {shape}")
            raise why if shape[0] else NoRowsError(*why.args)

    def wrong_type(self, came: str, kind: Kind) -> InputError:
        reals = "real numbers of at most 64 bits"
        expected = {"groups": "integers or text", "labels": f"{reals} or text", "numeric": reals}[kind]
        return self.error(f"expected {expected}, got {came}")


class _WholeLayer:
    """Reads rows of one layer of an array (layers, n, d): whole when rows are first asked for, and let go with the last one."""

    def __init__(self, read: Callable[[int, int], np.ndarray], index: int) -> None:
        self._read, self._index = read, index
        self._held: np.ndarray | None = None

    def __call__(self, start: int, stop: int) -> np.ndarray:
        held = self._held
        layer = self._read(self._index, self._index + 1)[0] if held is None else held
        self._held = None if stop == len(layer) else layer
        return layer[start:stop]


def listed(names: Sequence[str]) -> str:
    """Names for a message, not all if there are many.

    >>> listed([f"layer{i}" for i in range(12)])[-25:]
    'layer8, layer9 and 2 more'
    """
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


@dataclass
class Forwards:
    """Reads rows out of data that comes block by block: `blocks(i)` are those from the i-th seek point on, `starts` the seek
    points' first rows. Going back starts again at the last seek point before the rows asked for.
    """

    place: Place
    shape: tuple[int, ...]
    dtype: np.dtype
    starts: Sequence[int]
    blocks: Callable[[int], Iterator[np.ndarray]]
    _ahead: Iterator[np.ndarray] | None = None
    _block: np.ndarray = field(default_factory=lambda: np.empty(0))
    _first: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)  # a prefetching thread may share it with its consumer

    def __call__(self, start: int, stop: int) -> np.ndarray:
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        with self._lock, self.place.faults():
            done = start
            while done < stop:
                block = self._from(done)[: stop - done]
                out[done - start : done - start + len(block)] = block
                done += len(block)
        return out

    def _from(self, row: int) -> np.ndarray:
        """Rows from `row` on, as many as its block holds."""
        ahead, self._ahead = self._ahead, None  # a read that fails leaves no usable position behind
        point = bisect_right(self.starts, row) - 1
        if ahead is None or row < self._first or self.starts[point] > self._first + len(self._block):
            ahead, self._block, self._first = self.blocks(point), np.empty(0), self.starts[point]
        while row >= self._first + len(self._block):
            self._first += len(self._block)
            block = next(ahead, None)
            if block is None:
                raise EOFError("the data ends too early")
            self._block = block
        self._ahead = ahead
        return self._block[row - self._first :]
