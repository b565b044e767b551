"""What a sweep reads: its files opened and checked before anything is written, and which rows each process reads.

Several processes either have the same files, and each reads its share of the rows, or each has files of its own, whose rows
follow each other in the processes' order.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from w2s_jax._core.checks import InputError, require_scale, warn_of_float_bits
from w2s_jax._core.normalize import rounding_of
from w2s_jax.devices.hosts import Hosts
from w2s_jax.files.ids import require_same_ids
from w2s_jax.files.opening import notes_of, open_rows, read_labels_and_classes
from w2s_jax.files.rows import Rows
from w2s_jax.ranking.cells import ModelRows, about_first_row
from w2s_jax.ranking.unit_rows import UnitRows
from w2s_jax.sweep.config import SweepConfig
from w2s_jax.sweep.label_sets import SweepRows, sweep_rows
from w2s_jax.sweep.row_digest import chunk_rows
from w2s_jax.sweep.store import key_of, stamp_of


@dataclass(frozen=True)
class Inputs:
    """The models' rows, their cells, the hash of all that is in those, and the rows `span` that this process reads.

    `ends`: where each process's own files end among all rows, () if all have the same; `stamps`: of every process's own
    files. `paths`, `opened`: this process's files, and their stamps when they were opened; `notes`: how they were understood.
    """

    sources: Mapping[str, ModelRows]
    rows: SweepRows
    rows_key: str
    span: tuple[int, int]
    ends: tuple[int, ...]
    stamps: Mapping[str, str]
    paths: Mapping[str, str]
    opened: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def dtype(self) -> np.dtype:
        """Of all sums."""
        return next(iter(self.sources.values())).shift.dtype

    def require_unchanged(self, name: str) -> None:
        """Raises InputError if a model's file has been written since it was opened."""
        if stamp_of(self.paths[name]) != self.opened[name]:
            raise InputError(f"model {name!r} has changed while the sweep was running: start it again")


class _Files(NamedTuple):
    """n rows of every model, and of what is read at once: the models' first rows (1, d), labels, their classes and groups."""

    n: int
    models: dict[str, Rows]
    stamps: dict[str, str]
    first: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    classes: dict[str, tuple[str, ...]]
    groups: np.ndarray | None


def open_inputs(config: SweepConfig, hosts: Hosts, process_local: bool) -> Inputs:
    """Opens the files of a sweep; with `process_local` they hold this process's own rows alone.

    Raises:
        InputError: files that cannot be read or do not fit, here or in another process; rows of unit norm, whose statistics are
            those of all rows, where no process has these.
    """
    if config.rows == "unit" and process_local and hosts.count > 1:
        raise InputError("rows 'unit' needs all rows of a model in every process, got files of each process's own rows")
    with hosts.together():
        own = _opened(config)
    _require_same(hosts, config, own, process_local)
    every, ends = _joined(hosts, own) if process_local else (own, ())
    with hosts.together():
        span = (ends[hosts.index] - own.n, ends[hosts.index]) if ends else hosts.span(own.n, chunk_rows(own.n))
        groups = None if every.groups is None else np.unique(every.groups, return_inverse=True)[1]
        rows = sweep_rows(every.n, every.labels, groups, config.folds, config.seed, config.normalize)
    models = {name: _placed(held, span[0], every.n) for name, held in own.models.items()} if ends else own.models
    sources = {name: _source(f"model {name!r}", held, every.first[name], config) for name, held in models.items()}
    rows_key = _rows_key(rows, config, next(iter(every.first.values())).dtype)
    notes = notes_of(own.models.values(), {f"labels {name!r}": names for name, names in own.classes.items()})
    return Inputs(sources, rows, rows_key, span, ends, every.stamps, config.models, own.stamps, tuple(notes))


def _placed(held: Rows, first: int, n: int) -> Rows:
    """Rows of a model from `first` on, with places among `n` rows of which only they can be read."""
    return Rows(held.label, (n, *held.shape[1:]), held.dtype, lambda start, stop: held[start - first : stop - first])


def _source(label: str, held: Rows, first: np.ndarray, config: SweepConfig) -> ModelRows:
    """A model's rows as its moments are made of them."""
    if config.rows == "unit":  # which are about 0 or of norm 1
        return ModelRows(label, UnitRows(held, label, first.dtype, config.normalize), np.zeros_like(first))
    return ModelRows(label, held, first, rounding_of(held.dtype, config.normalize))


def _opened(config: SweepConfig) -> _Files:
    """This process's files."""
    stamps = {name: stamp_of(path) for name, path in config.models.items()}
    models = {name: open_rows(path, f"model {name!r}") for name, path in config.models.items()}
    for name, rows in models.items():
        if len(rows.shape) != 2:
            raise InputError(f"model {name!r} must be 2-D (rows, features), got shape {rows.shape}")
    first, n = next((name, rows.shape[0]) for name, rows in models.items())
    for name, rows in models.items():
        if rows.shape[0] != n:
            raise InputError(
                f"all models must have the same number of rows, got {n} in {first!r} and {rows.shape[0]} in {name!r}"
            )
    carriers = {f"model {name!r}": rows for name, rows in models.items()}
    carriers |= {
        f"labels {name!r}": open_rows(path, f"labels {name!r}", kind="labels") for name, path in config.labels.items()
    }
    groups = None if config.groups is None else open_rows(config.groups, "groups", kind="groups")
    carriers |= {} if groups is None else {"groups": groups}
    require_same_ids(carriers)
    labels, classes = {}, {}
    for name, path in config.labels.items():
        y, classes[name] = read_labels_and_classes(path, f"labels {name!r}", unlabelled=config.unlabelled)
        labels[name] = y.astype(float)
    for name, y in labels.items():
        if len(y) != n:
            raise InputError(f"labels {name!r} must have shape ({n},) or ({n}, outputs), got {y.shape}")
    if groups is not None and groups.shape != (n,):
        raise InputError(f"groups must have one entry per row ({n}), got {len(groups)}")
    wide = any(rows.dtype == np.float64 for rows in models.values()) and jnp.result_type(float) == jnp.float64
    dtype = np.float64 if wide else np.float32
    for name, rows in models.items():
        warn_of_float_bits(f"model {name!r}", rows)
        require_scale(f"model {name!r}", rows, dtype)
    heads = {name: about_first_row(name, rows, dtype).shift for name, rows in models.items()}
    codes = None if groups is None else groups[:]
    if codes is not None and codes.dtype == object:  # text of Arrow
        codes = codes.astype(str)
    return _Files(n, models, stamps, heads, labels, classes, codes)


def _require_same(hosts: Hosts, config: SweepConfig, own: _Files, process_local: bool) -> None:
    """Raises InputError, in all processes, unless they have the same models, labels and settings, whatever is in own files."""
    settings = ("normalize", "rows", "folds", "seed", "prior", "noise", "memory", "precision", "grid")
    given: dict[str, Any] = {"weak": list(config.weak), "strong": list(config.strong), "labels": list(config.labels)}
    groups = [] if own.groups is None else [own.groups]
    given |= {"predictors": [repr(of) for of in config.predictors]}
    given |= {"groups": ["text" if of.dtype.kind == "U" else "numbers" for of in groups]}
    given |= {name: getattr(config, name) for name in settings}
    given |= {f"width and type of model {m!r}": [x.shape[1], np.dtype(x.dtype).name] for m, x in own.models.items()}
    given |= {f"classes of labels {name!r}": list(names) for name, names in own.classes.items()}
    given |= {f"outputs of labels {name!r}": y.shape[1:] for name, y in own.labels.items()}
    if not process_local:
        given |= {"number of rows": own.n, "values of labels and groups": _hash_of([*own.labels.values(), *groups])[:8]}
    first, *others = (json.loads(text) for text in hosts.exchange(json.dumps(given)))
    for process, other in enumerate(others, 1):
        for what in [*first, *other]:
            if first.get(what) != other.get(what):
                came = f"{first.get(what)} in process 0 and {other.get(what)} in process {process}"
                raise InputError(f"all processes of a sweep must be given the same {what}, got {came}")


def _joined(hosts: Hosts, own: _Files) -> tuple[_Files, tuple[int, ...]]:
    """All processes' rows below each other, and where each one's end; of the models still the own ones."""
    arrays: dict[str, Any] = {f"labels{i}": y for i, y in enumerate(own.labels.values())}
    arrays |= {f"first{i}": x for i, x in enumerate(own.first.values())}
    arrays |= {} if own.groups is None else {"groups": own.groups}
    packed = io.BytesIO()
    np.savez(packed, n=own.n, stamps=json.dumps(own.stamps), **arrays)
    parts = [np.load(io.BytesIO(data)) for data in hosts.gather(packed.getvalue())]
    ends = np.cumsum([int(part["n"]) for part in parts]).tolist()
    stamps = [json.loads(str(part["stamps"])) for part in parts]
    below = lambda key: np.concatenate([part[key] for part in parts])
    joined = own._replace(
        n=ends[-1],
        stamps={name: json.dumps([file for of in stamps for file in json.loads(of[name])]) for name in own.stamps},
        first={name: parts[0][f"first{i}"] for i, name in enumerate(own.first)},
        labels={name: below(f"labels{i}") for i, name in enumerate(own.labels)},
        groups=None if own.groups is None else below("groups"),
    )
    return joined, tuple(ends)


def wants_own_means(rows: SweepRows, config: SweepConfig) -> bool:
    """Whether predictors see the labelled rows of some label set about those rows' own mean."""
    labels = any(of.needs == "labels" for of in config.predictors)
    return labels and config.normalize != "none" and len(rows.sets) > 1


def _rows_key(rows: SweepRows, config: SweepConfig, dtype: np.dtype) -> str:
    """Hash of what a model's moments depend on beside its rows."""
    digest = _hash_of([rows.targets, *(layout.cell for layout in rows.layouts)])
    settings = config.normalize, config.rows, config.folds, config.precision
    parts = [version("w2s_jax"), dtype.name, settings, rows.targets.shape, digest]
    more = ["own means"] if wants_own_means(rows, config) else []
    return key_of(*parts, [layout.cells for layout in rows.layouts], *more)


def _hash_of(arrays: list[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
