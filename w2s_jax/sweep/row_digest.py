"""The hash of a file's rows, whoever reads which of them: chunks of rows are hashed apart, then all chunks together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from w2s_jax.files.rows import Rows

CHUNKS = 1024
LEAST_ROWS = 32  # of a chunk: with fewer, hashing takes longer than what is computed of the rows


def chunk_rows(rows: int) -> int:
    """Rows per chunk: a process reads whole chunks."""
    return max(-(-rows // CHUNKS), LEAST_ROWS)


class RowDigest:
    """Takes rows block by block in order, from the start of any chunk; chunks also end where a process's own files do."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, ends: Sequence[int] = ()) -> None:
        self._head = repr((tuple(shape), str(dtype))).encode()
        step = chunk_rows(shape[0])
        self._ends = np.unique([*range(step, shape[0], step), *ends, shape[0]])
        self._chunks = [hashlib.sha256() for _ in self._ends]
        self._fed = np.zeros(len(self._chunks), bool)

    def feed(self, start: int, block: np.ndarray) -> None:
        """Adds rows `start` and following."""
        stop, first = start + len(block), start
        while start < stop:
            chunk = int(np.searchsorted(self._ends, start, side="right"))
            end = min(stop, int(self._ends[chunk]))
            part = np.ascontiguousarray(block[start - first : end - first])
            self._chunks[chunk].update(part.reshape(-1).view(np.uint8).data)
            self._fed[chunk], start = True, end

    def of(self, rows: Rows) -> Rows:
        """The rows, each block of which is fed when it is read: once."""

        def read(start: int, stop: int) -> np.ndarray:
            block = rows[start:stop]
            self.feed(start, block)
            return block

        return replace(rows, _read=read)

    def finish(self, merge: Callable[[np.ndarray], Any]) -> str:
        """The hash; `merge` adds up what every process has (chunks, 32), zero where it has read nothing."""
        own = [
            np.frombuffer(chunk.digest(), np.uint8) * fed for chunk, fed in zip(self._chunks, self._fed, strict=True)
        ]
        return hashlib.sha256(self._head + np.asarray(merge(np.stack(own))).astype(np.uint8).tobytes()).hexdigest()
