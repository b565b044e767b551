"""Rows of Parquet files and of Arrow IPC files and streams (.arrow, .feather), by pyarrow.

One column is read: fixed-size lists, or lists that are equally long, for representations; numbers or text for labels,
groups and ids. Batches are read forwards from the row group or record batch that holds the first row asked for, so that
no more than a batch is in memory, however the file was cut into row groups.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from w2s_jax._core.checks import InputError
from w2s_jax.files.rows import FLOATS, ID_KEYS, LISTED, Forwards, Kind, Place, Rows

_BATCH_BYTES = 4 << 20
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


def open_parquet(place: Place, kind: Kind) -> Rows:
    """One column of a Parquet file."""
    parquet = place.extra("pyarrow.parquet", "arrow")
    with place.faults():
        file = parquet.ParquetFile(place.file, pre_buffer=False, buffer_size=1 << 20)
        counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]

        def batches(name: str, rows: int, first: int) -> Iterator[Any]:
            groups = list(range(first, len(counts)))
            for batch in file.iter_batches(rows, groups, [name]):
                yield batch.column(batch.schema.get_field_index(name))

        _require_columns(place, file.schema_arrow)
        return _column_rows(place, kind, file.schema_arrow, counts, batches)


def open_ipc(place: Place, kind: Kind) -> Rows:
    """One column of an Arrow IPC file or, as Hugging Face datasets are saved, of an IPC stream; memory-mapped.

    A compressed record batch is decompressed whole, and opening a compressed file decompresses it once.
    """
    arrow = place.extra("pyarrow", "arrow")
    with place.faults(), arrow.memory_map(place.file) as mapped:
        is_file = mapped.read(6) == b"ARROW1"
        if not is_file and not _ends_as_stream(place.file):
            raise ValueError("it has no end mark")
        mapped.seek(0)
        open_reader = arrow.ipc.open_file if is_file else arrow.ipc.open_stream
        reader = open_reader(mapped)
        schema, number = reader.schema, reader.num_record_batches if is_file else 0
        _require_columns(place, schema)
        # Asked for one column of a batch, a file's reader copies it; of a compressed batch it decompresses all unless asked.
        some = not is_file or (number > 0 and not _is_mapped(reader.get_batch(0), mapped))

        def record_batches(column: int, first: int) -> Iterator[Any]:
            mapped = arrow.memory_map(place.file)  # one for each reader, which has a position in it
            options = arrow.ipc.IpcReadOptions(included_fields=[column] if some else [])
            reader = open_reader(mapped, options=options)
            return (reader.get_batch(i) for i in range(first, number)) if is_file else reader

        def batches(name: str, _: int, first: int) -> Iterator[Any]:
            column = schema.get_field_index(name)
            return (batch.column(0 if some else column) for batch in record_batches(column, first))

        least = min(range(len(schema)), key=lambda i: schema.field(i).type.num_fields)  # to count the rows by: no lists
        counts = [batch.num_rows for batch in record_batches(least, 0)]
        return _column_rows(place, kind, schema, counts if is_file else [sum(counts)], batches)


def _is_mapped(batch: Any, mapped: Any) -> bool:
    """Whether a record batch lies in the file itself, and not in memory."""
    mapped.seek(0)
    whole = mapped.read_buffer(mapped.size())
    buffers = [buffer for column in batch.columns for buffer in column.buffers() if buffer is not None and buffer.size]
    return all(whole.address <= buffer.address < whole.address + whole.size for buffer in buffers)


def _ends_as_stream(path: str) -> bool:
    """A stream that was cut between two batches would pass for a shorter one."""
    with open(path, "rb") as stream:
        stream.seek(-min(8, os.path.getsize(path)), os.SEEK_END)
        return stream.read() == _END_OF_STREAM


class _Column(NamedTuple):
    """A column's type: of its numbers or text, and whether rows are lists of them; `width` if the type fixes it."""

    dtype: np.dtype | None
    is_list: bool
    width: int | None


Batches = Callable[[str, int, int], Iterator[Any]]  # column, rows at a time, first seek point -> Arrow arrays


def _require_columns(place: Place, schema: Any) -> None:
    if not len(schema):
        raise place.error("it holds no arrays")
    if len(set(schema.names)) < len(schema):
        raise place.error("two of its columns have the same name")


def _column_rows(place: Place, kind: Kind, schema: Any, counts: list[int], batches: Batches) -> Rows:
    """Rows of the column asked for, and of the ids; `counts` are the rows between seek points."""
    columns = {field.name: _column(place, field.type) for field in schema}
    if not sum(counts):  # its columns may have no type
        place.require_kind((0,), np.dtype(bool), kind)

    def valid(name: str, rows: int, first: int) -> Iterator[Any]:
        for array in batches(name, rows, first):
            array.validate(full=True)  # offsets that lead out of a damaged array would end the process
            yield array

    def read(place: Place, key: str, kind: Kind) -> Rows:
        column = columns[key]
        if column.dtype is None:
            raise place.wrong_type(f"the Arrow type {schema.field(key).type}", kind)
        n, width = sum(counts), column.width
        if column.is_list and width is None and n:
            width = next((len(array[0]) for array in valid(key, 1, 0) if len(array) and array[0].is_valid), None)
            if width is None:
                raise place.error("row 0 is null")
        shape: tuple[int, ...] = (n, width or 0) if column.is_list else (n,)
        place.require_kind(shape, column.dtype, kind)
        dtype = np.dtype(object) if column.dtype.kind == "U" else column.dtype
        rows = max(1, _BATCH_BYTES // (dtype.itemsize * math.prod(shape[1:])))
        starts = [int(start) for start in np.cumsum([0, *counts[:-1]])]

        def blocks(point: int) -> Iterator[np.ndarray]:
            first = starts[point]
            for array in valid(key, rows, point):
                yield _numbers(place, array, first, width, dtype)
                first += len(array)

        return place.rows(shape, dtype, Forwards(place, shape, dtype, starts, blocks))

    return place.with_ids(_pick(place, columns), list(columns), kind, read)


def _column(place: Place, kind: Any) -> _Column:
    """What a column of an Arrow type holds."""
    types = place.extra("pyarrow", "arrow").types
    kind = getattr(kind, "storage_type", kind)
    is_list = types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind)
    width = kind.list_size if types.is_fixed_size_list(kind) else None
    kind = kind.value_type if is_list or types.is_dictionary(kind) else kind
    if types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind):
        return _Column(np.dtype(kind.to_pandas_dtype()), is_list, width)
    if not is_list and (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
        return _Column(np.dtype("U"), False, None)
    return _Column(None, is_list, width)


def _pick(place: Place, columns: dict[str, _Column]) -> str:
    """The column asked for, or the only one of fixed-size lists, or of lists, or of all."""
    lists = [name for name, column in columns.items() if column.is_list and column.dtype is not None]
    fixed = [name for name in lists if columns[name].width is not None]
    only = next((names[0] for names in (fixed, lists) if len(names) == 1), None)
    if place.key is None and only is not None and only not in ID_KEYS:
        return only
    if place.key is None and not lists and len(columns) > LISTED:
        raise place.error(
            f"a representation is one column with a list in every row, got {len(columns)} columns of single values"
        )
    return place.pick(list(columns))


def _numbers(place: Place, array: Any, first: int, width: int | None, dtype: np.dtype) -> np.ndarray:
    """A batch as (rows, ...) in NumPy, floating nulls as NaN; other nulls and lists of another length are refused.

    `first` is its first row in the file, `width` the length of its lists if it holds lists.
    """

    def null(row: int, why: str) -> InputError:
        remedy = ": where that means unlabelled, use NaN in a column of floating numbers" if dtype.kind != "O" else ""
        return place.error(f"row {first + row} {why}{remedy}")

    array = getattr(array, "storage", array)
    if hasattr(array, "dictionary"):
        array = array.dictionary_decode()
    if array.null_count and (width is not None or dtype not in FLOATS):
        raise null(int(np.argmin(array.is_valid())), "is null")
    if width is not None:
        lengths = array.value_lengths().to_numpy()
        if (lengths != width).any():
            row = int(np.argmax(lengths != width))
            raise place.error(f"expected {width} numbers in every row, got {lengths[row]} in row {first + row}")
        array = array.flatten()
        if array.null_count and dtype not in FLOATS:
            raise null(int(np.argmin(array.is_valid())) // width, "contains a null")
    numbers = array.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
    return numbers if width is None else numbers.reshape(-1, width)
