"""Who reads the rows of a sweep: each process its own share, process 0 saying of what, and all meeting in one sum."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.sharding import Mesh

from w2s_jax.hosts import Hosts, SharedError
from w2s_jax.sweep.inputs import Inputs
from w2s_jax.sweep.pairs import Sums
from w2s_jax.sweep.row_cells import BLOCK_BYTES, Merge, cross_sums, model_sums
from w2s_jax.sweep.row_digest import RowDigest


@dataclass(frozen=True)
class Readers:
    """The processes, what they read, and the devices of this one.

    Process 0 calls `model`, `hash_of` and `cross`; the others follow. All raise InputError if a file has been written since
    the run began.
    """

    hosts: Hosts
    inputs: Inputs
    mesh: Mesh | None = None

    def model(self, name: str) -> tuple[Sums, str]:
        """A model's sums per cell, and the hash of its rows."""
        self._say("model", [name])
        digest, inputs = self._digest(name), self.inputs
        with self.hosts.together():
            model, merge = inputs.sources[name], self._checked_merge([name])
            sums = model_sums(model, inputs.rows, span=inputs.span, merge=merge, digest=digest, mesh=self.mesh)
        return sums, digest.finish(self.hosts.add)

    def hash_of(self, name: str) -> str:
        """The hash of a model's rows alone."""
        self._say("hash_of", [name])
        digest, model = self._digest(name), self.inputs.sources[name]
        step = max(1, BLOCK_BYTES // (model.width * model.rows.dtype.itemsize))
        first, last = self.inputs.span
        with self.hosts.together():
            for start in range(first, last, step):
                digest.feed(start, np.asarray(model.rows[start : min(start + step, last)]))
            self.inputs.require_unchanged(name)
            self.hosts.agree()
        return digest.finish(self.hosts.add)

    def cross(self, strong: Sequence[str], weak: Sequence[str]) -> np.ndarray:
        """Cross sums per cell of strong and weak models side by side (J, sum d_s, sum d_w)."""
        self._say("cross", [list(strong), list(weak)])
        left, right = ([self.inputs.sources[name] for name in names] for names in (strong, weak))
        with self.hosts.together():
            merge = self._checked_merge([*strong, *weak])
            return cross_sums(left, right, self.inputs.rows, span=self.inputs.span, merge=merge, mesh=self.mesh)

    def _checked_merge(self, names: Sequence[str]) -> Merge:
        """The sum over all processes, once it is sure that what each has read are still the models' files."""

        def merge(sums: Any) -> Any:
            for name in names:
                self.inputs.require_unchanged(name)
            return self.hosts.merge(sums)

        return merge

    def _say(self, task: str, arguments: list[Any]) -> None:
        if self.hosts.index == 0:
            self.hosts.exchange(json.dumps([task, *arguments]))

    def _digest(self, name: str) -> RowDigest:
        rows = self.inputs.sources[name].rows
        return RowDigest(tuple(rows.shape), rows.dtype, self.inputs.ends)


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
