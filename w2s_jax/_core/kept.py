"""Finished parts of a long run, kept as lines of a file, so that a run that was stopped goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from w2s_jax._core.checks import InputError, reason


class Kept:
    """Values that JSON can hold by keys, tuples of strings and numbers; in a file if one is named. `header` says whose they are.

    Raises:
        InputError: the file is another run's, or cannot be read or written.

    >>> kept = Kept(None, {"seed": 0})
    >>> kept.add(("a", 1), [0.5])
    >>> kept.values
    {('a', 1): [0.5]}
    """

    def __init__(self, path: str | os.PathLike | None, header: dict[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.values: dict[tuple, Any] = {}
        if self.path is None:
            return
        with self._faults():
            if not self.path.exists():
                self.path.write_text(json.dumps(header) + "\n")
            *lines, rest = self.path.read_text().split("\n")
            if lines[:1] != [json.dumps(header)]:
                different = "does not hold results of this version and these settings: name another file, or remove it"
                raise InputError(f"{self.path} {different}")
            if rest:  # what a killed run left of its last line
                self.path.write_text("\n".join(lines) + "\n")
        self.values |= {tuple(line["key"]): line["value"] for line in map(json.loads, lines[1:])}

    def add(self, key: tuple, value: Any) -> None:
        """One more; it is in the file when this returns."""
        self.values[key] = value
        if self.path is not None:
            with self._faults(), self.path.open("a") as stream:
                stream.write(json.dumps({"key": key, "value": value}) + "\n")

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"cannot keep results in {self.path}: {reason(error)}") from error
