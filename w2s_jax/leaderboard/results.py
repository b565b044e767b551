"""Settings in files: a CSV table with a row for each teacher of each contest, plain or gzipped, and one's own tables too."""

from __future__ import annotations

import csv
import gzip
import io
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from w2s_jax._core.checks import InputError, reason
from w2s_jax._core.writing import write_bytes_atomically
from w2s_jax.leaderboard.judging import Contest
from w2s_jax.leaderboard.tasks import oriented

KEY = ("task", "strong", "ridge", "teacher")
SCALING, SCORE = "scaling", "score:"


def write_contests(path: str | os.PathLike, contests: Iterable[Contest]) -> None:
    """Writes a table that `read_contests` reads; gzipped if the path ends in .gz. The same contests make the same file.

    Columns: task, strong, ridge, teacher, what was measured (`student_error`, ...), and scores as `score:NAME` and
    `score:NAME:LABELS`; seven digits a number.

    Raises:
        InputError: the path cannot be written.

    >>> import tempfile
    >>> measured = {"student_error": np.array([0.2, 0.3])}
    >>> one = Contest("t", "s", 0.1, ("a", "b"), {"cka": np.array([-0.9, -0.5])}, measured)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_contests(f"{folder}/t.csv", [one])
    ...     print(Path(f"{folder}/t.csv").read_text())
    ...     read_contests(f"{folder}/t.csv")[0].scores["cka"].tolist()
    task,strong,ridge,teacher,student_error,score:cka
    t,s,0.1,a,0.2,0.9
    t,s,0.1,b,0.3,0.5
    <BLANKLINE>
    [-0.9, -0.5]
    """
    lines: list[dict[str, str]] = []
    for one in contests:
        scores = {f"{SCORE}{title}": oriented(title, values) for title, values in one.scores.items()}
        for i, teacher in enumerate(one.teachers):
            numbers = {name: f"{values[i]:.7g}" for name, values in (*one.measured.items(), *scores.items())}
            lines.append(
                {"task": one.task, "strong": one.strong, "ridge": f"{one.ridge:g}", "teacher": teacher} | numbers
            )
    text = io.StringIO()
    table = csv.DictWriter(text, list(dict.fromkeys(name for line in lines for name in line)), lineterminator="\n")
    table.writeheader()
    table.writerows(lines)
    data = text.getvalue().encode()
    write_bytes_atomically(path, gzip.compress(data, mtime=0) if os.fspath(path).endswith(".gz") else data)


def read_contests(path: str | os.PathLike) -> list[Contest]:
    """The contests of such a table; scores of names that the package does not know are the smaller the better.

    Further columns are taken for measured ones; a column `scaling` keeps contests apart, of which the first are read; labels of
    a score may name a draw (`score:trial_error:draw0-100`). Entries may be empty.

    Raises:
        InputError: no such file, a missing column, no rows, a row with too few or too many cells, an entry that is no number, two
            rows of one teacher in a contest, or two columns of one score.
    """
    try:
        data = Path(path).read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise InputError(f"cannot read {os.fspath(path)}: {reason(error)}") from error
    lines = _lines(path, text)
    head = next(iter(lines.values()), {})
    missing = [name for name in (*KEY, "student_error") if name not in head]
    if missing:
        raise InputError(f"{os.fspath(path)} must have rows with columns {', '.join(missing)}, got none")
    by_contest: dict[tuple[str, str, float], dict[str, int]] = {}  # teacher -> number of its line
    for number, line in lines.items():
        if line.get(SCALING) != head.get(SCALING):
            continue
        key = line["task"], line["strong"], _number(path, "ridge", line["ridge"])
        before = by_contest.setdefault(key, {}).setdefault(line["teacher"], number)
        if before != number:
            task, strong, ridge = key
            raise InputError(
                f"{os.fspath(path)} must have one row for each teacher of a contest, got {line['teacher']!r} of {task!r}, "
                f"{strong!r} and ridge {ridge:g} in lines {before} and {number}"
            )
    return [_contest(path, key, [lines[i] for i in own.values()]) for key, own in by_contest.items()]


def _lines(path: str | os.PathLike, text: str) -> dict[int, dict[str, str]]:
    """The rows of a table by the numbers of their lines."""
    cells = csv.reader(io.StringIO(text))
    header, found = next(cells, []), {}
    for line in cells:
        if line and len(line) != len(header):
            raise InputError(
                f"{os.fspath(path)} must have {len(header)} cells in line {cells.line_num}, got {len(line)}"
            )
        if line:
            found[cells.line_num] = dict(zip(header, line, strict=True))
    return found


def _contest(path: str | os.PathLike, key: tuple[str, str, float], lines: list[dict[str, str]]) -> Contest:
    scores: dict[str, np.ndarray] = {}
    measured: dict[str, np.ndarray] = {}
    for name in lines[0]:
        if name in (*KEY, SCALING):
            continue
        values = np.array([_number(path, name, line[name]) for line in lines])
        if np.isnan(values).all():
            continue
        if not name.startswith(SCORE):
            measured[name] = values
            continue
        score, _, labels = name.removeprefix(SCORE).partition(":")
        title = f"{score}:{labels.rpartition('-')[2]}" if labels else score
        if title in scores:
            raise InputError(f"{os.fspath(path)} must have one column for the score {title}, got several")
        scores[title] = oriented(title, values)
    return Contest(*key, tuple(line["teacher"] for line in lines), scores, measured)


def _number(path: str | os.PathLike, column: str, entry: str | None) -> float:
    try:
        return float(entry) if entry else float("nan")
    except ValueError as error:
        raise InputError(f"{os.fspath(path)} must have numbers in column {column}, got {entry!r}") from error
