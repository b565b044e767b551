"""What the processes of a sweep compute together: each reads its own share of the rows and, once the sums of all have met,
takes its own share of the eigensolves and of the pairs to score. Every process calls the same functions in the same order."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from w2s_jax._core.heavy_rows import Watched
from w2s_jax._core.normalize import after_unit_rows
from w2s_jax.devices.hosts import Hosts
from w2s_jax.moments import ModelMoments
from w2s_jax.ranking.cells import ModelRows
from w2s_jax.ranking.compact import CompactRows, about_origin
from w2s_jax.ranking.unit_rows import UnitRows
from w2s_jax.sweep.config import SweepConfig
from w2s_jax.sweep.inputs import Inputs, wants_own_means
from w2s_jax.sweep.kernels import Kernel, meet_weak, read_strong
from w2s_jax.sweep.label_sets import Cells
from w2s_jax.sweep.pair_rows import Entry, meet_strong, table_rows
from w2s_jax.sweep.pairs import Met, Model, Pair, leading, model_from_sums
from w2s_jax.sweep.row_digest import RowDigest
from w2s_jax.sweep.sums import BLOCK_BYTES, cross_sums, model_sums

Entries = Mapping[str, Entry]


class Workers:
    """The processes, what they read, and the devices of this one.

    `models`, `hash_of` and `score` are collectives; they raise InputError, in every process, if a file is bad or has been
    written since the run began.
    """

    def __init__(self, hosts: Hosts, inputs: Inputs, config: SweepConfig, mesh: Mesh | None = None) -> None:
        self.hosts, self.inputs, self.config, self.mesh = hosts, inputs, config, mesh
        self._strong: tuple[list[str], Kernel] | None = None

    @property
    def widths(self) -> dict[str, int]:
        """The features that each model's moments are of: no more than rows, if this process has all of them."""
        most = self.inputs.rows.n if self.hosts.count == 1 else sys.maxsize
        return {name: min(model.width, most) for name, model in self.inputs.sources.items()}

    def models(self, names: Sequence[str]) -> dict[str, tuple[Model, str]]:
        """Models and the hashes of their rows; as many models as processes are work for all of them."""
        own, hashes = {}, {}
        takers = {name: i % self.hosts.count for i, name in enumerate(names)}
        for name, taker in takers.items():
            digest = self._digest(name)
            with self.hosts.together():
                source = self._compact(name, digest)
                m = model_sums(source, self.inputs.rows, **self._summing())
                self.inputs.require_unchanged(name)
            m, hashes[name] = m.of(self.hosts.add(m.sums), m.shift), digest.finish(self.hosts.add)
            if taker == self.hosts.index:
                own[name] = self._model(source, m)
        solved = {name: lambda name=name: own[name].arrays for name in names}
        return {name: (Model(**self.hosts.broadcast(solved[name], takers[name])), hashes[name]) for name in names}

    def hash_of(self, name: str) -> str:
        """The hash of a model's rows alone."""
        digest, rows = self._digest(name), self._given(name)
        step = max(1, BLOCK_BYTES // (rows.shape[1] * rows.dtype.itemsize))
        first, last = self.inputs.span
        with self.hosts.together():
            for start in range(first, last, step):
                digest.feed(start, np.asarray(rows[start : min(start + step, last)]))
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

        `kept`: eigenpairs that strong and weak models need; `by_kernels` (kernels.py) is for one process, without folds and
        predictors.
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

    def _compact(self, name: str, digest: RowDigest) -> ModelRows:
        """A model's rows as they feed a digest, in fewer features where `widths` says so."""
        source = self.inputs.sources[name]
        rows: Any = digest.of(self._given(name))
        if isinstance(source.rows, UnitRows):
            rows = source.rows.read_through(rows)
        elif self.hosts.count == 1:
            rows = Watched(rows, source.name, self.config.normalize)
        if self.widths[name] == source.width:
            return source._replace(rows=rows)
        left = after_unit_rows(self.config.normalize, self.config.rows)
        compact = CompactRows(rows, source.name, self.inputs.dtype, left, keep=True)
        return about_origin(source.name, compact, left)

    def _model(self, source: ModelRows, m: ModelMoments) -> Model:
        dtype = self.inputs.dtype
        cells: Cells = jax.tree.map(lambda x: jnp.asarray(x, dtype), self.inputs.rows.cells)
        own_means = wants_own_means(self.inputs.rows, self.config)
        model = model_from_sums(m, dtype.type(source.rounding), cells, self.config.normalize, own_means)
        return model._replace(rows=source.rows[:]) if isinstance(source.rows, CompactRows) else model

    def _summing(self) -> dict[str, Any]:
        """How this process sums over its rows."""
        return {"span": self.inputs.span, "mesh": self.mesh, "precision": self.config.precision}

    def _met_by_features(self, strong: Entries, weak: Entries, pairs: Sequence[Pair]) -> dict[Pair, Met]:
        """What pairs of two sides are scored by, from the cross sums of both: all processes' pairs need them."""
        sides = [self._sources(side) for side in (strong, weak)]
        with self.hosts.together():
            strong_rows, weak_rows = (list(side.values()) for side in sides)
            own = cross_sums(strong_rows, weak_rows, self.inputs.rows, **self._summing())
            for name in (*strong, *weak):
                self.inputs.require_unchanged(name)
        cross = np.asarray(self.hosts.add(own))
        places, met = [_places(side) for side in sides], {}
        for name in dict.fromkeys(s for s, _ in pairs):
            chosen = {w: weak[w] for s, w in pairs if s == name}
            parts = {w: cross[:, places[0][name], places[1][w]] for w in chosen}
            found = meet_strong(strong[name], chosen, parts, self.inputs.rows, self.config, self.mesh)
            met |= {(name, w): of for w, of in found.items()}
        return met

    def _met_by_kernels(self, strong: Entries, weak: Entries, pairs: Sequence[Pair]) -> dict[Pair, Met]:
        """The same from whole rows, those of strong models kept for the next weak ones."""
        rows, precision = self.inputs.rows, self.config.precision
        chosen = {w: weak[w] for w in dict.fromkeys(w for _, w in pairs)}
        sides = [
            {name: (source, entries[name].light) for name, source in self._sources(entries).items()}
            for entries in (strong, chosen)
        ]
        if self._strong is None or self._strong[0] != list(strong):
            self._strong = None
            self._strong = list(strong), read_strong(list(sides[0].values()), rows, precision)
        sizes = [entry.light.values.shape[1] for entry in strong.values()]
        met = meet_weak(sides[1], self._strong[1], sizes, rows, precision)
        for name in (*strong, *chosen):
            self.inputs.require_unchanged(name)
        return {(s, w): met[w][list(strong).index(s)] for s, w in pairs}

    def _sources(self, entries: Entries) -> dict[str, ModelRows]:
        """Models' rows as their moments have been made of them: in fewer features where they are more than rows."""
        found = {}
        for name, (model, _) in entries.items():
            source, rows = self.inputs.sources[name], np.asarray(model.rows)
            found[name] = about_origin(source.name, rows, self.config.normalize) if rows.size else source
        return found

    def _given(self, name: str) -> Any:
        """A model's rows as its file has them."""
        rows = self.inputs.sources[name].rows
        return rows.given if isinstance(rows, UnitRows) else rows

    def _digest(self, name: str) -> RowDigest:
        rows = self._given(name)
        return RowDigest(tuple(rows.shape), rows.dtype, self.inputs.ends)


def _entries(models: Mapping[str, Model], threshold: float, size: int) -> dict[str, Entry]:
    """Models of one side, with the leading eigenpairs that the side needs."""
    return {name: Entry(model, leading(model, threshold, size)) for name, model in models.items()}


def _dealt(strong: Sequence[str], weak: Sequence[str], pairs: Sequence[Pair], count: int) -> list[int]:
    """The order in which pairs are cut into `count` equal parts: by strong model, which costs something of its own, and within
    one by every `count`-th weak model, since neighbours are often equally wide."""
    place = {name: i for i, name in enumerate(strong)}, {name: i % count for i, name in enumerate(weak)}
    return sorted(range(len(pairs)), key=lambda i: (place[0][pairs[i][0]], place[1][pairs[i][1]]))


def _places(models: Mapping[str, ModelRows]) -> dict[str, slice]:
    """Where each model's features are among those of all."""
    ends = np.cumsum([model.width for model in models.values()])
    return {
        name: slice(int(end) - model.width, int(end)) for (name, model), end in zip(models.items(), ends, strict=True)
    }
