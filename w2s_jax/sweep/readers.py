"""Who reads the rows of a sweep: each process its own share, process 0 saying of what, and all meeting in one sum."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.sharding import Mesh

from w2s_jax.hosts import Hosts, SharedError
from w2s_jax.sweep.pairs import Sums
from w2s_jax.sweep.row_cells import BLOCK_BYTES, RowCells, Source, cross_sums, model_sums
from w2s_jax.sweep.row_digest import RowDigest, chunk_rows


@dataclass(frozen=True)
class Readers:
    """The processes, the models' rows, their files' stamps, the rows' cells, the hash of all that is in those, devices.

    Process 0 calls `model`, `hash_of` and `cross`; the others follow.
    """

    hosts: Hosts
    sources: Mapping[str, Source]
    stamps: Mapping[str, str]
    rows: RowCells
    rows_key: str
    mesh: Mesh | None = None

    @property
    def dtype(self) -> np.dtype:
        """Of all sums."""
        return next(iter(self.sources.values())).shift.dtype

    def model(self, name: str) -> tuple[Sums, str]:
        """A model's sums per cell, and the hash of its rows."""
        self._say("model", [name])
        digest, model = self._digest(name), self.sources[name]
        with self.hosts.together():
            sums = model_sums(
                model, self.rows, span=self._span(), merge=self.hosts.merge, digest=digest, mesh=self.mesh
            )
        return sums, digest.finish(self.hosts.add)

    def hash_of(self, name: str) -> str:
        """The hash of a model's rows alone."""
        self._say("hash_of", [name])
        digest, model = self._digest(name), self.sources[name]
        step = max(1, BLOCK_BYTES // (model.width * model.rows.dtype.itemsize))
        first, last = self._span()
        with self.hosts.together():
            for start in range(first, last, step):
                digest.feed(start, np.asarray(model.rows[start : min(start + step, last)]))
            self.hosts.agree()
        return digest.finish(self.hosts.add)

    def cross(self, strong: Sequence[str], weak: Sequence[str]) -> np.ndarray:
        """Cross sums per cell of strong and weak models side by side (J, sum d_s, sum d_w)."""
        self._say("cross", [list(strong), list(weak)])
        left, right = ([self.sources[name] for name in names] for names in (strong, weak))
        with self.hosts.together():
            return cross_sums(left, right, self.rows, span=self._span(), merge=self.hosts.merge, mesh=self.mesh)

    def _say(self, task: str, arguments: list[Any]) -> None:
        if self.hosts.index == 0:
            self.hosts.exchange(json.dumps([task, *arguments]))

    def _digest(self, name: str) -> RowDigest:
        rows = self.sources[name].rows
        return RowDigest(tuple(rows.shape), rows.dtype)

    def _span(self) -> tuple[int, int]:
        return self.hosts.span(self.rows.n, chunk_rows(self.rows.n))


def follow(readers: Readers) -> None:
    """Reads what process 0 asks for, until it has all.

    Raises:
        InputError: what stopped process 0.
    """
    while True:
        task, *arguments = json.loads(readers.hosts.exchange("")[0])
        if task == "stop":
            if arguments[0]:
                raise SharedError(arguments[0])
            return
        getattr(readers, task)(*arguments)
