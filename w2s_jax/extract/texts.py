"""Texts out of files, one after the other: lines, a column of a table, a Hugging Face dataset; with ids and one checksum.

A file is read forwards as often as it is asked for and never held in memory. The first pass counts the texts, takes
their checksum and finds out whether all ids are integers.
"""

from __future__ import annotations

import hashlib
import os
import re
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

import numpy as np

from w2s_jax._core.checks import InputError
from w2s_jax.files.opening import open_rows
from w2s_jax.files.paths import split_key, table_extension
from w2s_jax.files.rows import ID_KEYS, Place, listed
from w2s_jax.files.tables import opened_text, table_lines

Id = int | str
Numbered = Iterator[tuple[Any, Any]]  # (id or None, text), both as they stand in the file

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")  # of which every one is its own shortest form and fits into 64 bits
_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Texts:
    """Texts that are read anew at each pass: `len(texts)`, and `texts.blocks(size)`.

    `label` names them in messages, `checksum` is of all texts and ids, `integer_ids` says whether ids are integers or text.

    >>> texts = texts_of(["one", "two", "three"])
    >>> len(texts), [(ids.tolist(), block) for ids, block in texts.blocks(2)]
    (3, [([0, 1], ['one', 'two']), ([2], ['three'])])
    """

    label: str
    checksum: str
    integer_ids: bool
    _count: int
    _read: Callable[[], Iterator[tuple[Id, str]]] = field(repr=False)

    def __len__(self) -> int:
        return self._count

    def blocks(self, size: int, start: int = 0) -> Iterator[tuple[np.ndarray, list[str]]]:
        """From the row `start` on, up to `size` texts at a time, with their ids: integers (n,) or text (n,)."""
        rows = islice(self._read(), start, None)
        while block := list(islice(rows, size)):
            ids, texts = zip(*block, strict=True)
            yield np.array(ids, np.int64) if self.integer_ids else np.array([str(name) for name in ids]), list(texts)


def open_texts(path: str | os.PathLike, column: str | None = None) -> Texts:
    """Texts of a file, without holding them.

    `.txt` has a text a line; `.csv`, `.tsv` (with a header), `.jsonl`, Parquet, Arrow and folders that Hugging Face datasets
    saved have one in a column. All but the last three may end in `.gz`. A column `id` or `ids` names the rows, else they are
    numbered from 0.

    Args:
        path: the file or folder; `FILE:COLUMN` names the column too.
        column: of the texts, by default "text".

    Raises:
        InputError: it cannot be read, has no such column or no texts, a value is no text, or two rows have the same id.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with open(f"{folder}/reviews.csv", "w") as file:
    ...         _ = file.write("id,sentence\\nr7,good\\nr9,bad\\n")
    ...     texts = open_texts(f"{folder}/reviews.csv", "sentence")
    ...     list(texts.blocks(10))
    [(array(['r7', 'r9'], dtype='<U2'), ['good', 'bad'])]
    """
    given = os.fsdecode(path)
    file, key = split_key(given)
    if column is not None and key is not None:
        raise InputError(f"give the column of texts once, got {key!r} in the path and {column!r}")
    place = Place("texts", given, file, key or column or "text")
    read = _reader(place, named=(key or column) is not None)
    return _counted(given, read)


def texts_of(texts: Sequence[str], ids: Sequence[Id] | None = None) -> Texts:
    """Texts in memory, numbered or with ids of their own.

    Raises:
        InputError: there are none, one is no text, there are not as many ids, or two of them are the same.

    >>> texts_of(["one", "two"], ids=["a", "b"]).integer_ids
    False
    """
    if isinstance(texts, str) or not len(texts):
        raise InputError(f"texts must be a sequence of at least one text, got {texts!r}")
    if ids is not None and len(ids) != len(texts):
        raise InputError(f"texts must have as many ids, got {len(texts)} texts and {len(ids)} ids")
    return _counted("texts", lambda: zip(count() if ids is None else ids, texts, strict=False))


def _counted(label: str, read: Callable[[], Numbered]) -> Texts:
    """The first pass."""
    digest, rows, integers, hashes = hashlib.sha256(), 0, True, array("q")  # of ids, which may be too long to be held
    for name, text in _checked(label, read):
        try:
            data = text.encode()
            digest.update(f"{name} {len(data)} ".encode() + data)
        except UnicodeEncodeError as error:
            raise InputError(f"cannot read texts from {label}: row {rows} is no valid Unicode") from error
        integers = integers and _INTEGER.fullmatch(str(name)) is not None
        hashes.append(hash(str(name)))
        rows += 1
    if not rows:
        raise InputError(f"cannot read texts from {label}: it holds none")
    if len(np.unique(hashes)) < rows:
        _require_different_ids(label, read)
    return Texts(label, digest.hexdigest(), integers, rows, lambda: _checked(label, read))


def _require_different_ids(label: str, read: Callable[[], Numbered]) -> None:
    """Raises InputError with the first id that two rows have."""
    first: dict[str, int] = {}
    for row, (name, _) in enumerate(_checked(label, read)):
        before = first.setdefault(str(name), row)
        if before != row:
            raise InputError(f"cannot read texts from {label}: rows {before} and {row} have the same id {name!r}")


def _checked(label: str, read: Callable[[], Numbered]) -> Iterator[tuple[Id, str]]:
    """Rows whose texts are texts, and which have an id."""
    for row, (name, text) in enumerate(read()):
        if not isinstance(text, str):
            raise InputError(f"cannot read texts from {label}: row {row} must be text, got {text!r}")
        if isinstance(name, np.generic):
            name = name.item()
        if name is not None and (isinstance(name, bool) or not isinstance(name, int | str)):
            raise InputError(
                f"cannot read texts from {label}: the id of row {row} must be an integer or text, got {name!r}"
            )
        yield row if name is None else name, str(text)


def _reader(place: Place, named: bool) -> Callable[[], Numbered]:
    """How a file is read, by its extension."""
    if table_extension(place.file) is not None:
        return lambda: _of_table(place)
    extension = os.path.splitext(place.file.lower().removesuffix(".gz").rstrip(os.sep))[1]
    if extension == ".txt":
        if named:
            raise place.error("a .txt file has a text a line and no columns")
        return lambda: _lines(place)
    if os.path.isfile(place.file) and extension not in (".parquet", ".arrow", ".feather", ".npz"):
        raise place.error("expected .txt, .csv, .tsv, .jsonl (also .gz), .parquet, .arrow or a folder of a dataset")
    return lambda: _columns(place)


def _lines(place: Place) -> Numbered:
    with opened_text(place) as stream:
        yield from ((None, line.rstrip("\r\n")) for line in stream)


def _of_table(place: Place) -> Numbered:
    with table_lines(place) as (header, lines):
        _require_column(place, header or [place.key])
        for line in lines:
            _require_column(place, line)
            name = next((name for name in ID_KEYS if name in line and name != place.key), None)
            yield None if name is None else line[name], line[str(place.key)]


def _require_column(place: Place, names: Collection[str | None]) -> None:
    if place.key not in names:
        raise place.error(f"it has no column {place.key!r}, only {listed([str(name) for name in names])}")


def _columns(place: Place) -> Numbered:
    """Of the formats that hold arrays, which files/ reads."""
    rows = open_rows(f"{place.file}:{place.key}", "texts", kind="groups")
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = rows[start : start + _BLOCK_ROWS].tolist()
        ids = [None] * len(block) if rows.ids is None else rows.ids[start : start + _BLOCK_ROWS].tolist()
        yield from zip(ids, block, strict=True)
