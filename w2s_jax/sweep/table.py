"""The results of a sweep as a table: one row per pair, setting and label set; prints a summary, converts, exports."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from w2s_jax._core.checks import InputError
from w2s_jax._core.extras import data_frame, needed
from w2s_jax._core.text import MISSING, Printed, Shown
from w2s_jax._core.writing import replacing, write_text_atomically
from w2s_jax.sweep.store import COLUMNS, DATABASE, read_results

FORMATS = (".csv", ".parquet", ".json")
_KINDS = {"TEXT": "string", "INTEGER": "int64", "REAL": "float64"}


@dataclass(frozen=True, repr=False)
class Sweep(Shown):
    """Results of a sweep, pairs in the order of the configuration, then settings, then label sets.

    `columns` name the entries of each of `rows`, predictors last; what was not asked for is None. `finished` of `pairs` pairs are
    in. `computed`: pairs that this run computed, the others were there; `changed`: models whose file has changed since the
    last run; `notes`: lines on how its files were understood; `larger_is_better`: the predictors of which the largest number is
    the best.

    >>> rows = ("a", "s", 0.5), ("b", "s", 0.25)
    >>> sweep = Sweep(("weak", "strong", "gap_op"), rows, finished=2, pairs=2, output=Path("results"))
    >>> len(sweep), sweep["gap_op"].tolist()
    (2, [0.5, 0.25])
    """

    columns: tuple[str, ...]
    rows: tuple[tuple, ...]
    finished: int
    pairs: int
    output: Path
    computed: int = 0
    changed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    larger_is_better: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, column: str) -> np.ndarray:
        """A column (rows,); numbers that were not asked for are NaN."""
        if column not in self.columns:
            raise InputError(f"column must be one of {', '.join(self.columns)}, got {column!r}")
        place = self.columns.index(column)
        return np.array([row[place] for row in self.rows], float if _kind(column) == "REAL" else object)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers: {"finished", "pairs", "rows": [{column: value}]}."""
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        return {"finished": self.finished, "pairs": self.pairs, "rows": rows}

    def to_pandas(self) -> Any:
        """The table as a pandas DataFrame.

        Raises:
            InputError: pandas is not installed.
        """
        pandas = needed("pandas", "a DataFrame", "pandas")
        kinds = {"TEXT": "str", "INTEGER": "Int64", "REAL": "float64"}
        series = {c: pandas.Series(list(column), dtype=kinds[_kind(c)]) for c, column in self._by_column()}
        return data_frame(series)

    def export(self, path: str | os.PathLike) -> None:
        """Writes the table as CSV, Parquet or JSON, as the extension says; whole or not at all.

        Raises:
            InputError: another extension, the file cannot be written, or pyarrow is not installed (Parquet).
        """
        extension = Path(path).suffix.lower()
        if extension not in FORMATS:
            raise InputError(f"an export must end in {', '.join(FORMATS)}, got {os.fspath(path)}")
        if extension == ".parquet":
            _write_parquet(path, self._by_column())
        else:
            write_text_atomically(path, self._csv() if extension == ".csv" else self._json())

    def _printed(self) -> Printed:
        """The best teacher of each strong model, label set and setting, and the one that each predictor takes for it."""
        place = {column: i for i, column in enumerate(self.columns)}
        known = lambda c: c in place and any(row[place[c]] is not None for row in self.rows)
        score = next(filter(known, ("trial_error", "predicted_gap", "expected_error")), "gap_op")
        missing = f", {self.pairs - self.finished} not finished" if self.finished < self.pairs else ""
        pairs, rows = (f"{n} {what}{'s' * (n != 1)}" for n, what in ((self.pairs, "pair"), (len(self), "row")))
        title = f"{pairs}{missing}, {rows} in {self.output / DATABASE}; best teacher by {score}:"
        judges = {score: 1, **{c: -1 if c in self.larger_is_better else 1 for c in self.columns if c not in COLUMNS}}
        found: dict[tuple, list[tuple]] = {}
        settings = ("strong", "labels", "weak_threshold", "strong_threshold", "weak_ridge", "strong_ridge")
        context = [c for c in settings if c in place]
        for row in self.rows:
            if row[place[score]] is not None:
                found.setdefault(tuple(row[place[c]] for c in context), []).append(row)
        several = [i for i, c in enumerate(context) if len({key[i] for key in found}) > 1 or c == "strong"]
        body = []
        for key, rows_of in found.items():
            best = [_best(rows_of, place[c], place["weak"], sign) for c, sign in judges.items()]
            body.append(
                [*(_cell(key[i]) for i in several), best[0][1], f"{best[0][0]:.4g}", *(name for _, name in best[1:])]
            )
        header = [*(context[i].replace("_", " ") for i in several), "best weak", score.replace("_", " ")]
        header += [f"by {c.replace('_', ' ')}" for c in judges if c != score]
        return Printed(header, body, left=len(several) + 1, title=title)

    def _by_column(self) -> Iterable[tuple[str, tuple]]:
        columns = zip(*self.rows, strict=True) if self.rows else ((),) * len(self.columns)
        return zip(self.columns, columns, strict=True)

    def _csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([repr(cell) if isinstance(cell, float) else cell for cell in row] for row in self.rows)
        return text.getvalue()

    def _json(self) -> str:
        """A number that is not finite is null."""
        finite = lambda x: None if isinstance(x, float) and not math.isfinite(x) else x
        rows = [{name: finite(value) for name, value in row.items()} for row in self.to_dict()["rows"]]
        return json.dumps(self.to_dict() | {"rows": rows}, indent=1, allow_nan=False) + "\n"


def _kind(column: str) -> str:
    return COLUMNS.get(column, "REAL")


def _best(rows: Iterable[tuple], column: int, name: int, sign: int) -> tuple[float, str]:
    """The least number, times the sign, of a column that is known, and its row's name."""
    known = [(sign * row[column], row[name]) for row in rows if row[column] is not None]
    return min(known, default=(math.nan, MISSING))


def _cell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def read_sweep(output: str | os.PathLike) -> Sweep:
    """The results so far of the sweep in a folder, also while it runs.

    Raises:
        InputError: there is no sweep in the folder.

    >>> read_sweep("no_such_folder")
    Traceback (most recent call last):
        ...
    w2s_jax._core.checks.InputError: there is no sweep in no_such_folder: it has no file sweep.sqlite
    """
    rows, finished, pairs, predictors = read_results(output)
    larger = frozenset(name for name, of_this in predictors.items() if of_this)
    columns = (*COLUMNS, *predictors)
    return Sweep(columns, tuple(rows), finished, pairs, Path(output), larger_is_better=larger)


def _write_parquet(path: str | os.PathLike, columns: Iterable[tuple[str, tuple]]) -> None:
    parquet, pyarrow = (needed(module, "writing .parquet", "pandas") for module in ("pyarrow.parquet", "pyarrow"))
    table = pyarrow.table({c: pyarrow.array(values, _KINDS[_kind(c)]) for c, values in columns})
    with replacing(path) as temporary:
        try:
            parquet.write_table(table, temporary)
        except OSError as error:
            raise InputError(f"cannot write {os.fspath(path)}: {error}") from error
