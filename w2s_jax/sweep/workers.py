"""What the processes of a sweep compute together: each reads its own share of the rows and, once the sums of all have met,
takes its own share of the eigensolves and of the pairs to score. Every process calls the same functions in the same order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from w2s_jax.devices.hosts import Hosts
from w2s_jax.moments import ModelMoments
from w2s_jax.sweep.config import SweepConfig
from w2s_jax.sweep.few_rows import StrongRows, meet_weak, model_of_rows, projected, read_strong, with_vectors
from w2s_jax.sweep.inputs import Inputs
from w2s_jax.sweep.pair_rows import Entry, meet_strong, table_rows
from w2s_jax.sweep.pairs import Cells, Met, Model, Pair, leading, model_from_sums
from w2s_jax.sweep.row_cells import BLOCK_BYTES, Source, cross_sums, model_sums
from w2s_jax.sweep.row_digest import RowDigest

Entries = Mapping[str, Entry]


class Workers:
    """The processes, what they read, and the devices of this one.

    `models`, `hash_of` and `score` are collectives; they raise InputError, in every process, if a file is bad or has been
    written since the run began.
    """

    def __init__(self, hosts: Hosts, inputs: Inputs, config: SweepConfig, mesh: Mesh | None = None) -> None:
        self.hosts, self.inputs, self.config, self.mesh = hosts, inputs, config, mesh
        self._strong: tuple[list[str], StrongRows] | None = None

    def models(self, names: Sequence[str]) -> dict[str, tuple[Model, str]]:
        """Models and the hashes of their rows; as many models as processes are work for all of them."""
        own, hashes = {}, {}
        takers = {name: i % self.hosts.count for i, name in enumerate(names)}
        for name, taker in takers.items():
            if self._has_few_rows(name):
                own[name], hashes[name] = self._model_of_rows(name)
                continue
            sums, hashes[name] = self._sums(name)
            if taker == self.hosts.index:
                own[name] = self._model(sums)
        solved = {name: lambda name=name: own[name]._asdict() for name in names}
        return {name: (Model(**self.hosts.broadcast(solved[name], takers[name])), hashes[name]) for name in names}

    def hash_of(self, name: str) -> str:
        """The hash of a model's rows alone."""
        digest, model = self._digest(name), self.inputs.sources[name]
        step = max(1, BLOCK_BYTES // (model.width * model.rows.dtype.itemsize))
        first, last = self.inputs.span
        with self.hosts.together():
            for start in range(first, last, step):
                digest.feed(start, np.asarray(model.rows[start : min(start + step, last)]))
            self.inputs.require_unchanged(name)
        return digest.finish(self.hosts.add)

    def score(
        self,
        strong: Mapping[str, Model],
        weak: Mapping[str, Model],
        missing: Sequence[Pair],
        kept: Sequence[int],
        by_kernels: bool = False,
    ) -> list[list[dict[str, Any]]]:
        """The rows of every missing pair of two sides: its settings, then label sets.

        `kept`: eigenpairs that strong and weak models need; `by_kernels` (few_rows.py) is for one process, without folds.
        """
        order = _dealt(list(strong), list(weak), missing, self.hosts.count)
        ends = [len(order) * i // self.hosts.count for i in (self.hosts.index, self.hosts.index + 1)]
        own = [missing[i] for i in order[slice(*ends)]]
        cuts = zip((strong, weak), self.config.lowest_thresholds, kept, strict=True)
        entries_s, entries_w = (_entries(*cut) for cut in cuts)
        met = (self._met_by_kernels if by_kernels else self._met_by_features)(entries_s, entries_w, own)
        rows = table_rows(met, entries_s, entries_w, self.inputs.rows, self.config, self.mesh) if met else {}
        found = [rows[pair] for pair in own]
        if self.hosts.count > 1:
            found = [rows for text in self.hosts.exchange(json.dumps(found)) for rows in json.loads(text)]
        return [rows for _, rows in sorted(zip(order, found, strict=True), key=lambda both: both[0])]

    def _has_few_rows(self, name: str) -> bool:
        """Whether a model's kernel is smaller than its moments, and made and needed by this process alone."""
        inputs = self.inputs
        return self.hosts.count == 1 and not self.config.folds and inputs.rows.n < inputs.sources[name].width

    def _model_of_rows(self, name: str) -> tuple[Model, str]:
        """A model from whole rows, and their hash."""
        digest, inputs = self._digest(name), self.inputs
        model = model_of_rows(inputs.sources[name], inputs.rows, self.config.normalize, digest)
        inputs.require_unchanged(name)
        return model, digest.finish(self.hosts.add)

    def _sums(self, name: str) -> tuple[ModelMoments, str]:
        """A model's sums per cell, and the hash of its rows."""
        digest, inputs = self._digest(name), self.inputs
        with self.hosts.together():
            sums = model_sums(inputs.sources[name], inputs.rows, digest=digest, **self._summing())
            inputs.require_unchanged(name)
        return sums.of(self.hosts.add(sums.sums), sums.shift), digest.finish(self.hosts.add)

    def _model(self, sums: ModelMoments) -> Model:
        cells = Cells(*(jnp.asarray(x, self.inputs.dtype) for x in self.inputs.rows.cells))
        return model_from_sums(sums, cells, self.config.normalize)

    def _met_by_features(self, strong: Entries, weak: Entries, pairs: Sequence[Pair]) -> dict[Pair, Met]:
        """What pairs of two sides are scored by, from the cross sums of both: all processes' pairs need them."""
        inputs, sides = self.inputs, [[self.inputs.sources[name] for name in side] for side in (strong, weak)]
        with self.hosts.together():
            own = cross_sums(sides[0], sides[1], inputs.rows, **self._summing())
            for name in (*strong, *weak):
                inputs.require_unchanged(name)
        cross = np.asarray(self.hosts.add(own))
        strong, weak = self._in_features(strong), self._in_features(weak)
        places, met = [_places(side) for side in sides], {}
        for name in dict.fromkeys(s for s, _ in pairs):
            chosen = {w: weak[w] for s, w in pairs if s == name}
            parts = {w: cross[:, places[0][name], places[1][w]] for w in chosen}
            found = meet_strong(strong[name], chosen, parts, inputs.rows, self.config, self.mesh)
            met |= {(name, w): of for w, of in found.items()}
        return met

    def _in_features(self, entries: Entries) -> Entries:
        """Models with eigenvectors of their features, whatever they have been kept with."""
        inputs, found = self.inputs, dict(entries)
        for name, entry in entries.items():
            if entry.light.is_of_rows:
                with self.hosts.together():
                    own = projected(inputs.sources[name], entry.light, inputs.rows, inputs.span)
                    inputs.require_unchanged(name)
                found[name] = entry._replace(light=with_vectors(entry.light, self.hosts.add(own)))
        return found

    def _met_by_kernels(self, strong: Entries, weak: Entries, pairs: Sequence[Pair]) -> dict[Pair, Met]:
        """The same from whole rows, those of strong models kept for the next weak ones."""
        rows, sources = self.inputs.rows, self.inputs.sources
        if self._strong is None or self._strong[0] != list(strong):
            self._strong = None
            read = read_strong(
                [(sources[name], entry.light) for name, entry in strong.items()], rows, self.config.precision
            )
            self._strong = list(strong), read
        chosen = {w: (sources[w], weak[w].light) for w in dict.fromkeys(w for _, w in pairs)}
        sizes = [entry.light.values.shape[1] for entry in strong.values()]
        met = meet_weak(chosen, self._strong[1], sizes, rows, self.config.precision)
        for name in (*strong, *chosen):
            self.inputs.require_unchanged(name)
        return {(s, w): met[w][list(strong).index(s)] for s, w in pairs}

    def _summing(self) -> dict[str, Any]:
        """How this process sums over its rows."""
        return {"span": self.inputs.span, "mesh": self.mesh, "precision": self.config.precision}

    def _digest(self, name: str) -> RowDigest:
        rows = self.inputs.sources[name].rows
        return RowDigest(tuple(rows.shape), rows.dtype, self.inputs.ends)


def _entries(models: Mapping[str, Model], threshold: float, size: int) -> dict[str, Entry]:
    """Models of one side, with the leading eigenpairs that the side needs."""
    return {name: Entry(model, leading(model, threshold, size)) for name, model in models.items()}


def _dealt(strong: Sequence[str], weak: Sequence[str], pairs: Sequence[Pair], count: int) -> list[int]:
    """The order in which pairs are cut into `count` equal parts: by strong model, which costs something of its own, and within
    one by every `count`-th weak model, since neighbours are often equally wide."""
    place = {name: i for i, name in enumerate(strong)}, {name: i % count for i, name in enumerate(weak)}
    return sorted(range(len(pairs)), key=lambda i: (place[0][pairs[i][0]], place[1][pairs[i][1]]))


def _places(models: Sequence[Source]) -> dict[str, slice]:
    """Where each model's features are among those of all."""
    ends = np.cumsum([model.width for model in models])
    return {model.name: slice(int(end) - model.width, int(end)) for model, end in zip(models, ends, strict=True)}
