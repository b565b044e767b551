"""Tables of text, .csv, .tsv and .jsonl (also .gz), of one line a row: their lines, and columns for labels, groups and ids.

The first line of .csv and .tsv names the columns; a .jsonl has an object in every line. Lines are read forwards; of columns
what is needed is held. Numbers are taken as such where all cells are; empty cells and nulls among numbers are NaN.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import numpy as np

from w2s_jax.files.paths import table_extension
from w2s_jax.files.rows import ID_KEYS, Kind, Place, Rows

_INTEGER = re.compile("-?(0|[1-9][0-9]{0,17})")  # of 64 bits; 007 is text
_LARGEST_CELL = 1 << 30

Lines = Iterator[dict[str, Any]]


@contextmanager
def opened_text(place: Place) -> Iterator[TextIO]:
    """A file of text, compressed or not; whatever is wrong with it while it is read is one sentence."""
    open_file: Any = gzip.open if place.file.lower().endswith(".gz") else open
    with place.faults(), open_file(place.file, "rt", encoding="utf-8-sig", newline="") as stream:
        yield stream


@contextmanager
def table_lines(place: Place) -> Iterator[tuple[list[str], Lines]]:
    """The columns that a header names (a .jsonl has none), and every line's values by column, as they stand there."""
    with opened_text(place) as stream:
        extension = table_extension(place.file)
        if extension == ".jsonl":
            yield [], _objects(place, stream)
            return
        with _long_cells():
            lines = csv.reader(stream, delimiter="\t" if extension == ".tsv" else ",", strict=True)
            header = [name.strip() for name in next(lines, [])]
            names = [name for name in header if name]  # pandas' index has none
            if len(set(names)) < len(names):
                raise place.error("two of its columns have the same name")
            if names and all(_number(name) is not None for name in names):
                raise place.error("expected the names of the columns in its first line, got numbers")
            yield names, _cells(place, lines, header)


def open_table(place: Place, kind: Kind) -> Rows:
    """One column of a file of text."""
    names, columns = _columns(place)

    def read(place: Place, key: str, kind: Kind) -> Rows:
        values = columns[key]
        if not values:
            place.require_kind((0,), np.dtype(bool), kind)
        array = _numbers_or_text(place, key, values, kind)
        text = array.dtype == object
        place.require_kind(array.shape, np.dtype("U") if text else array.dtype, kind)
        return place.rows(array.shape, array.dtype, lambda start, stop: array[start:stop])

    return place.with_ids(place.pick(names), names, kind, read)


def _columns(place: Place) -> tuple[list[str], dict[str, list]]:
    """The names of all columns, and the column asked for and the ids; texts of any length beside them are let go."""
    with table_lines(place) as (header, lines):
        names, kept = dict.fromkeys(header), []
        for line in lines:
            names |= dict.fromkeys(line)
            kept.append({name: line[name] for name in _wanted(place, list(line))})
    return list(names), {name: [line.get(name) for line in kept] for name in _wanted(place, list(names))}


def _cells(place: Place, lines: Any, header: list[str]) -> Lines:
    for cells in lines:
        if not cells:  # an empty line
            continue
        if len(cells) != len(header):
            raise place.error(f"expected {len(header)} cells in line {lines.line_num}, got {len(cells)}")
        yield {name: cell for name, cell in zip(header, cells, strict=True) if name}


def _objects(place: Place, stream: TextIO) -> Lines:
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        found = json.loads(line)
        if not isinstance(found, dict):
            raise place.error(f"expected an object in line {number}, got {type(found).__name__}")
        yield found


def _wanted(place: Place, names: list[str]) -> list[str]:
    """The columns that are looked into: the one asked for, or the only one, and the ids."""
    return [name for name in names if place.key in (None, name) or name in ID_KEYS]


def _numbers_or_text(place: Place, key: str, values: list, kind: Kind) -> np.ndarray:
    """A column's values: integers, floats with NaN where there is none, rows of numbers, or text as objects."""
    values = [value.strip() if isinstance(value, str) else value for value in values]
    if any(isinstance(value, list) for value in values):
        return _lists(place, key, values)
    if all(isinstance(value, bool) for value in values):
        return np.array(values)
    numbers = [_number(value) for value in values]
    empty = [value is None or value == "" for value in values]
    texts = [i for i, number in enumerate(numbers) if number is None and not empty[i]]
    if not texts and not any(empty) and all(_INTEGER.fullmatch(str(value)) for value in values):
        return np.array([int(value) for value in values])
    if not texts and not all(empty) and kind != "groups":
        return np.array([np.nan if number is None else number for number in numbers])
    if 2 * len(texts) < len(values) - sum(empty) and kind != "groups":
        raise place.error(f"expected a number in row {texts[0]} of {key!r}, got {str(values[texts[0]])[:40]!r}")
    return np.array(["" if value is None else str(value) for value in values], object)


def _lists(place: Place, key: str, values: list) -> np.ndarray:
    width = next(len(value) for value in values if isinstance(value, list))
    for row, value in enumerate(values):
        if not isinstance(value, list) or len(value) != width or not all(isinstance(x, int | float) for x in value):
            raise place.error(f"expected {width} numbers in row {row} of {key!r}")
    return np.array(values, float).reshape(len(values), width)


def _number(value: Any) -> float | None:
    if isinstance(value, bool | None):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


@contextmanager
def _long_cells() -> Iterator[None]:
    """Texts may be longer than the csv module lets them be by itself."""
    before = csv.field_size_limit(_LARGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)
