"""A sweep's folder: results in one SQLite file, per-model moments beside it in checksummed .safetensors files.

Whatever is kept has a key, the hash of all that it was computed from: what is found under its key need not be computed
again, and what has changed has another key. Writes are whole or nothing, so that a process may die at any moment.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from w2s_jax._core.checks import InputError
from w2s_jax._core.writing import write_bytes_atomically
from w2s_jax.files.paths import matching, split_key

_REALS = (
    *("gap_op", "gap_fro", "cka", "gap_bound", "predicted_gap", "label_energy"),
    *("expected_error", "expected_error_se", "expected_gap", "expected_gap_se", "trial_error", "trial_error_se"),
)
COLUMNS = (
    dict.fromkeys(("weak", "strong"), "TEXT")
    | dict.fromkeys(("weak_width", "strong_width", "rows"), "INTEGER")
    | dict.fromkeys(("weak_threshold", "strong_threshold", "weak_ridge", "strong_ridge"), "REAL")
    | {"labels": "TEXT", "n_labelled": "INTEGER"}
    | dict.fromkeys(_REALS, "REAL")
    | dict.fromkeys(("version", "inputs"), "TEXT")
)
DATABASE = "sweep.sqlite"
_LAYOUT = 2  # of the tables below and the files of moments
# Predictors have tables of their own, which a folder without any does not miss.
_TABLES = f"""
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, stamp TEXT, hashed_ns INTEGER, content TEXT);
CREATE TABLE IF NOT EXISTS moments (key TEXT PRIMARY KEY, checksum TEXT);
CREATE TABLE IF NOT EXISTS pairs (key TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS sweep (place INTEGER PRIMARY KEY, pair TEXT);
CREATE TABLE IF NOT EXISTS predictors (place INTEGER PRIMARY KEY, name TEXT, larger_is_better INTEGER);
CREATE TABLE IF NOT EXISTS predicted (
    pair TEXT, place INTEGER, by_name TEXT, PRIMARY KEY (pair, place)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results (
    pair TEXT, place INTEGER, {", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())},
    PRIMARY KEY (pair, place)
) WITHOUT ROWID;
PRAGMA user_version = {_LAYOUT};
"""
_FRESH_NS = 2_000_000_000  # a file this young when it was hashed may have changed since without a new time stamp


def key_of(*parts: Any) -> str:
    """Hash of anything JSON can write, floats exactly."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def stamp_of(path: str) -> str:
    """Names, sizes and times of the last change of the files behind a path: a file, `file:key`, a folder or a glob of shards.

    Content and status: what was put in a file's place may have its size and modification time.
    """
    file, _ = split_key(path)
    found = matching(file)
    nested = [sorted(map(str, Path(p).rglob("*"))) if os.path.isdir(p) else [p] for p in found]
    files = [(name, os.stat(name)) for names in nested for name in names if os.path.isfile(name)]
    return json.dumps([(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in files])


class Store:
    """An open sweep folder; made by `open_store`, which holds the folder's lock for as long as it is open."""

    def __init__(self, folder: Path, database: sqlite3.Connection) -> None:
        self.folder, self._database = folder, database

    def content(self, path: str, stamp: str) -> str | None:
        """The hash of a file's rows, if it is known and the file has not been touched since."""
        found = self._read("SELECT stamp, hashed_ns, content FROM files WHERE path = ?", path)
        if not found or found[0][0] != stamp:
            return None
        times = [time for _, _, *changes in json.loads(stamp) for time in changes]
        return found[0][2] if times and max(times) < found[0][1] - _FRESH_NS else None

    def last_content(self, path: str) -> str | None:
        """The hash of a file's rows when they were last read, whatever they are now."""
        found = self._read("SELECT content FROM files WHERE path = ?", path)
        return found[0][0] if found else None

    def keep_content(self, path: str, stamp: str, began_ns: int, content: str) -> None:
        """Remembers the hash of a file's rows that were read from `began_ns` on."""
        self._write([("REPLACE INTO files VALUES (?, ?, ?, ?)", [(path, stamp, began_ns, content)])])

    def keep_moments(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes a model's arrays to a file of their own, then its checksum to the database."""
        from safetensors.numpy import save

        data = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
        write_bytes_atomically(self._moments_file(key), data)
        self._write([("REPLACE INTO moments VALUES (?, ?)", [(key, hashlib.sha256(data).hexdigest())])])

    def moments(self, key: str) -> dict[str, np.ndarray] | None:
        """A model's arrays, or None if they were never kept or the file is damaged."""
        from safetensors.numpy import load

        found = self._read("SELECT checksum FROM moments WHERE key = ?", key)
        try:
            data = self._moments_file(key).read_bytes() if found else b""
        except OSError:
            return None
        return load(data) if found and hashlib.sha256(data).hexdigest() == found[0][0] else None

    def eigenvalues(self, key: str) -> np.ndarray:
        """The eigenvalues of a model that is kept, without reading the rest: unchecked, to plan with."""
        from safetensors import safe_open

        with _faults(self.folder), safe_open(self._moments_file(key), "numpy") as file:
            return file.get_tensor("values")

    def keep_only_moments(self, keys: Iterable[str]) -> None:
        """Removes all other moments, and what killed processes have left."""
        kept = {self._moments_file(key).name for key in keys}
        with _faults(self.folder):
            for file in (self.folder / "moments").iterdir():
                if file.suffix == ".safetensors" and file.name not in kept:
                    file.unlink()

    def plan(self, pairs: Sequence[str | None], predictors: Mapping[str, bool]) -> None:
        """The pairs of the present configuration in the order of the exported table, None where they are not known yet, and its
        predictors: of which the largest number is the best."""
        further = [(place, *of) for place, of in enumerate(predictors.items())]
        self._write(
            [
                ("DELETE FROM sweep", [()]),
                ("INSERT INTO sweep VALUES (?, ?)", list(enumerate(pairs))),
                ("DELETE FROM predictors", [()]),
                ("INSERT INTO predictors VALUES (?, ?, ?)", further),
            ]
        )

    def finished(self) -> set[str]:
        """Keys of all pairs that have results."""
        return {key for (key,) in self._read("SELECT key FROM pairs")}

    def keep_results(self, results: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Pair -> its rows, all in one transaction; what no column is of is kept by name."""
        insert = f"REPLACE INTO results VALUES ({', '.join('?' * (2 + len(COLUMNS)))})"
        placed = [(pair, place, row) for pair, rows in results.items() for place, row in enumerate(rows)]
        lines = [(pair, place, *(row.get(name) for name in COLUMNS)) for pair, place, row in placed]
        further = [(pair, place, json.dumps(of)) for pair, place, row in placed if (of := _further(row))]
        self._write(
            [
                (insert, lines),
                ("REPLACE INTO predicted VALUES (?, ?, ?)", further),
                ("REPLACE INTO pairs VALUES (?)", [(pair,) for pair in results]),
            ]
        )

    def _moments_file(self, key: str) -> Path:
        return self.folder / "moments" / f"{key[:32]}.safetensors"

    def _read(self, query: str, *values: Any) -> list[tuple]:
        with _faults(self.folder):
            return self._database.execute(query, values).fetchall()

    def _write(self, changes: Sequence[tuple[str, Sequence[tuple]]]) -> None:
        with _faults(self.folder):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                for statement, lines in changes:
                    self._database.executemany(statement, lines)
                self._database.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
                raise


def _further(row: Mapping[str, Any]) -> dict[str, float | None]:
    """What a row has beside the columns: predictors, NaN as in the columns nothing."""
    return {name: None if x != x else x for name, x in row.items() if name not in COLUMNS}


class Stored(NamedTuple):
    """Rows of the present configuration in order (columns as in `COLUMNS`, then its predictors), pairs that are finished, all
    pairs, and the predictors: of which the largest number is the best."""

    rows: list[tuple]
    finished: int
    pairs: int
    predictors: dict[str, bool]


@contextmanager
def open_store(folder: Path) -> Iterator[Store]:
    """Opens or makes a sweep's folder, for one process at a time.

    Raises:
        InputError: the folder cannot be written, holds something else, or another process has it open; safetensors is missing.
    """
    if find_spec("safetensors") is None:
        raise InputError(
            "a sweep keeps moments in .safetensors files and needs that package: pip install 'w2s_jax[cli]'"
        )
    if (folder / DATABASE).exists():
        _connected(folder).close()  # before anything is written beside what is no sweep's
    try:
        (folder / "moments").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write the sweep's folder {folder}: {error.strerror}") from error
    with closing(_locked(folder)), closing(_connected(folder)) as database:
        with _faults(folder):
            database.executescript(_TABLES)
        yield Store(folder, database)


def read_results(folder: str | os.PathLike) -> Stored:
    """The results so far.

    Raises:
        InputError: there is no sweep in the folder.
    """
    folder = Path(folder)
    if not (folder / DATABASE).is_file():
        raise InputError(f"there is no sweep in {folder}: it has no file {DATABASE}")
    names = ", ".join(f"results.{name}" for name in COLUMNS)
    with closing(_connected(folder)) as database, _faults(folder):
        database.execute("BEGIN")  # one state of the database, whatever a running sweep adds
        predictors = _predictors(database)
        same = "predicted.pair = results.pair AND predicted.place = results.place"
        joined = f"LEFT JOIN predicted ON {same}" if predictors else ""
        names += ", predicted.by_name" if predictors else ""
        ordered = f"FROM sweep JOIN results ON results.pair = sweep.pair {joined} ORDER BY sweep.place, results.place"
        rows = database.execute(f"SELECT {names} {ordered}").fetchall()
        (done,) = database.execute("SELECT COUNT(*) FROM sweep WHERE pair IN (SELECT key FROM pairs)").fetchone()
        (planned,) = database.execute("SELECT COUNT(*) FROM sweep").fetchone()
    if predictors:
        found = [(row, json.loads(text or "{}")) for *row, text in rows]
        rows = [(*row, *(of.get(name) for name in predictors)) for row, of in found]
    return Stored(rows, done, planned, predictors)


def _predictors(database: sqlite3.Connection) -> dict[str, bool]:
    """Those of the present configuration; a folder that has never seen any may have no table of them."""
    if not database.execute("SELECT name FROM sqlite_master WHERE name = 'predictors'").fetchall():
        return {}
    found = database.execute("SELECT name, larger_is_better FROM predictors ORDER BY place").fetchall()
    return {name: bool(larger) for name, larger in found}


def _connected(folder: Path) -> sqlite3.Connection:
    with _faults(folder):
        database = sqlite3.connect(folder / DATABASE, timeout=30, isolation_level=None)
        (layout,) = database.execute("PRAGMA user_version").fetchone()
    if layout not in (0, _LAYOUT):
        raise InputError(f"{folder / DATABASE} was written by another version of the package: choose another output")
    return database


def _locked(folder: Path) -> sqlite3.Connection:
    """A lock that the system releases when the process dies, on every platform: SQLite's own, on a file beside."""
    with _faults(folder):
        lock = sqlite3.connect(folder / "sweep.lock", timeout=0, isolation_level=None)
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            lock.close()
            if error.sqlite_errorname != "SQLITE_BUSY":
                raise
            raise InputError(
                f"another process runs a sweep in {folder}: wait for it or choose another output"
            ) from error
    return lock


@contextmanager
def _faults(folder: Path) -> Iterator[None]:
    """What SQLite and the disk have to say, as one sentence."""
    try:
        yield
    except sqlite3.Error as error:
        raise InputError(f"cannot use the sweep's database {folder / DATABASE}: {error}") from error
    except OSError as error:
        raise InputError(f"cannot write the sweep's folder {folder}: {error.strerror}") from error
