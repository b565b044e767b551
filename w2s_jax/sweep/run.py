"""Sweeps: every weak with every strong model, over a grid of settings and several label sets, from files, resumable.

A model's rows are read once for its own moments and eigenpairs (row_cells.py, pairs.py), which are kept; pairs are read in
groups, many weak with many strong models at a time, for their cross moments, or where rows are few for what takes their
place (few_rows.py). A group is a unit of work, and so are as many
models as there are processes (workers.py): its results are committed together (store.py), and what is in the store is
never computed again.

Memory: `memory` MiB for the cross sums or kernels of a group, three times `row_cells.BLOCK_BYTES` for its rows, and its
models' moments.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from w2s_jax._core.checks import InputError
from w2s_jax._core.progress import track
from w2s_jax.devices.hosts import Hosts, SharedError
from w2s_jax.devices.mesh import require_mesh
from w2s_jax.devices.precision import resolved
from w2s_jax.sweep.config import SweepConfig, read_config, sweep_config
from w2s_jax.sweep.few_rows import Size, kernel_entries, products
from w2s_jax.sweep.inputs import Inputs, open_inputs
from w2s_jax.sweep.pairs import Model, Pair, eigenpairs
from w2s_jax.sweep.store import COLUMNS, Store, key_of, now_ns, open_store
from w2s_jax.sweep.table import Sweep, read_sweep
from w2s_jax.sweep.workers import Workers

_ALONE = Hosts()


def run_sweep(
    config: SweepConfig | Mapping[str, Any] | str | os.PathLike,
    *,
    progress: bool | Callable[[Iterable], Iterable] = False,
    hosts: Hosts = _ALONE,
    process_local: bool = False,
    mesh: Mesh | None = None,
) -> Sweep:
    """Runs a sweep, or what is missing of it, and returns its table.

    Files are known by the hash of their rows, which is computed while they are first read and again when their size or
    the time of their last change is another. What depends on a file or setting that has changed is computed again, what
    does not is kept.

    Args:
        config: a TOML file, a mapping with its keys, or a checked configuration; see `sweep_config`.
        progress: True for progress bars, or a function that wraps an iterable.
        hosts: the processes that share the rows, the eigensolves and the pairs (see `connected_hosts`), each of them calling
            this with the same configuration and files. Process 0 keeps the results and returns the table, the others an
            empty one.
        process_local: each process has files of its own, of models, labels and groups with the same names as everywhere; the
            rows of all follow each other in the processes' order. A NaN in a model is named by its row among all.
        mesh: devices of this process that share the work (see `device_mesh`).

    Returns:
        A table of `gap_op`, `gap_fro` (`||P_s (I - P_w)||`), `cka`; with labels `gap_bound`, `predicted_gap`, `label_energy`
        (summed over outputs); with folds `expected_error`, `expected_gap`, and with labels `trial_error`. Where the
        settings agree they are the numbers of `rank_supervisors`, to rounding: of raw representations with a large mean many
        eigenvalues are below float32's, and are left out here. The bound's norm is of the labelled rows.

    Raises:
        InputError: files that do not fit or hold NaN, infinities or nothing but a constant; a precision that the device does
            not have; a folder that cannot be written or is in use by another process; a full disk.

    Source: Xue et al. 2025 for norms, bound and predicted gap; Kornblith et al. 2019 for CKA.
    """
    require_mesh(mesh)
    with hosts.together():
        config = config if isinstance(config, SweepConfig) else _checked(config)
        precision = resolved(config.precision, None if mesh is None else mesh.devices.flat[0])
        hosts.agree()
    inputs = open_inputs(config, hosts, process_local)  # before anything is written
    workers = Workers(hosts, inputs, config, precision, mesh)
    if hosts.index > 0:
        workers.follow()
        return Sweep(tuple(COLUMNS), (), 0, 0, config.output)
    try:
        with open_store(config.output) as store:
            run = _Run(config, store, progress, workers)
            keys, changed = _keep_models(run)
            computed = _keep_pairs(run, keys)
            result = replace(read_sweep(config.output), computed=computed, changed=changed)
    except SharedError:
        raise
    except InputError as error:
        workers.stop(str(error))
        raise
    workers.stop()
    return result


@dataclass(frozen=True)
class _Run:
    """What a run works on: its settings, where results are kept, and who does the work."""

    config: SweepConfig
    store: Store
    progress: bool | Callable[[Iterable], Iterable]
    workers: Workers

    @property
    def inputs(self) -> Inputs:
        return self.workers.inputs


class _Group(NamedTuple):
    """Weak and strong models that are read together, and the keys of their pairs (strong, weak) that are missing."""

    weak: list[str]
    strong: list[str]
    by_kernels: bool
    missing: dict[Pair, str]


def _checked(config: Mapping[str, Any] | str | os.PathLike) -> SweepConfig:
    if not isinstance(config, Mapping | str | os.PathLike):
        raise InputError(f"config must be a TOML file or a mapping with its keys, got {type(config).__name__}")
    return sweep_config(config) if isinstance(config, Mapping) else read_config(config)


def _keep_models(run: _Run) -> tuple[dict[str, str], tuple[str, ...]]:
    """Sees to it that every model's moments are in the store; their keys, and the models whose rows have changed."""
    store, paths = run.store, run.config.models
    before = {name: store.last_content(path) for name, path in paths.items()}
    contents = {name: store.content(path, run.inputs.stamps[name]) for name, path in paths.items()}
    key = lambda content: key_of("moments", run.inputs.rows_key, content)
    if None not in contents.values():
        keys = {name: key(content) for name, content in contents.items()}
        if store.finished().issuperset(_pair_keys(run, keys).values()):
            return keys, ()
    store.begin(len(run.config.weak) * len(run.config.strong))
    is_kept = lambda content: content is not None and store.moments(key(content)) is not None
    pending = [name for name in paths if not is_kept(contents[name])]
    for batch in track(_batches(run, pending), run.progress, "moments"):
        contents |= {name: _hashed(run, name) for name in batch if contents[name] is None and before[name] is not None}
        missing = [name for name in batch if not is_kept(contents[name])]
        contents |= _computed(run, missing, key) if missing else {}
    changed = tuple(name for name, content in before.items() if content not in (None, contents[name]))
    keys = {name: key(content) for name, content in contents.items()}
    store.keep_only_moments(keys.values())
    return keys, changed


def _batches(run: _Run, names: Iterable[str]) -> list[list[str]]:
    """Models in batches of no more than there are processes, whose moments and eigenvectors fit in the memory for sums."""
    count, cells = run.workers.hosts.count, run.inputs.rows.cells
    squares = {name: model.width**2 for name, model in run.inputs.sources.items()}
    limit = run.config.memory * 2**20 / (run.inputs.dtype.itemsize * (len(cells.n) + len(cells.sets)))
    return [part[i : i + count] for part in _packed(names, squares, limit) for i in range(0, len(part), count)]


def _hashed(run: _Run, name: str) -> str:
    """The hash of a model's rows, read for its sake alone."""
    began = now_ns()
    return _content(run, name, began, run.workers.hash_of(name))


def _computed(run: _Run, names: Sequence[str], key: Callable[[str], str]) -> dict[str, str]:
    """Computes and keeps models' moments; the hashes of their rows."""
    began, contents = now_ns(), {}
    for name, (found, content) in run.workers.models(names).items():
        if not np.isfinite(found.variance) or not np.isfinite(found.values).all():
            raise InputError(f"model {name!r} is too large: its squares overflow {run.inputs.dtype}")
        if not found.variance > 0:
            raise InputError(f"model {name!r} is constant, expected rows that differ")
        run.store.keep_moments(key(content), {k: np.asarray(array) for k, array in found._asdict().items()})
        contents[name] = _content(run, name, began, content)
    return contents


def _content(run: _Run, name: str, began: int, content: str) -> str:
    run.store.keep_content(run.config.models[name], run.inputs.stamps[name], began, content)
    return content


def _pair_keys(run: _Run, keys: Mapping[str, str]) -> dict[Pair, str]:
    """The keys of all pairs' results (strong, weak), in the table's order, from those of the models' moments."""
    config = run.config
    label_sets = [label._asdict() for label in run.inputs.rows.label_sets]
    asked = [label_sets, config.grid, (config.prior, config.noise) if config.folds else None]
    return {
        (strong, weak): key_of("pair", asked, weak, keys[weak], strong, keys[strong])
        for strong in config.strong
        for weak in config.weak
    }


def _keep_pairs(run: _Run, keys: Mapping[str, str]) -> int:
    """Sees to it that every pair's results are in the store; how many were missing."""
    pairs = _pair_keys(run, keys)
    run.store.plan(list(pairs.values()))
    finished = run.store.finished()
    if finished.issuperset(pairs.values()):
        return 0
    groups = []
    kept = _eigenpairs(run, keys)
    for group in _kernel_groups(run, kept) or _groups(run):
        missing = {p: pairs[p] for p in ((s, w) for s in group.strong for w in group.weak) if pairs[p] not in finished}
        if missing:
            groups.append(group._replace(missing=missing))
    for group in track(groups, run.progress, "pairs"):
        run.workers.hold(list(dict.fromkeys([*group.strong, *group.weak])), lambda name: _loaded(run, name, keys[name]))
        run.store.keep_results(_results(run, group, kept))
    return sum(len(group.missing) for group in groups)


def _eigenpairs(run: _Run, keys: Mapping[str, str]) -> tuple[int, int]:
    """How many eigenpairs some setting keeps of some strong, and of some weak model, in steps that share programs."""
    lowest, sides = run.config.lowest_thresholds, (run.config.strong, run.config.weak)
    counts = [
        max(eigenpairs(run.store.eigenvalues(keys[name]), threshold) for name in names)
        for names, threshold in zip(sides, lowest, strict=True)
    ]
    strong, weak = (-(-count // 16) * 16 for count in counts)
    return strong, weak


def _groups(run: _Run) -> Iterator[_Group]:
    """All pairs, in groups whose cross sums fit in the memory for them; near squares need the fewest reads."""
    width = {name: model.width for name, model in run.inputs.sources.items()}
    entries = run.config.memory * 2**20 / (3 * run.inputs.dtype.itemsize * len(run.inputs.rows.cells.n))
    all_weak = sum(width[name] for name in run.config.weak)
    for strong in _packed(run.config.strong, width, max(entries**0.5, entries / all_weak)):
        for weak in _packed(run.config.weak, width, entries / sum(width[name] for name in strong)):
            yield _Group(weak, strong, False, {})


def _kernel_groups(run: _Run, kept: tuple[int, int]) -> list[_Group]:
    """All pairs, in groups whose strong kernels fit in that memory, as do weak models with their cross moments; none where the
    product of features takes less, or is shared by several processes or devices."""
    config, sets, n = run.config, len(run.inputs.rows.cells.sets), run.inputs.rows.n
    if config.folds or run.workers.mesh is not None or run.workers.hosts.count > 1:
        return []
    strong, weak = (
        {name: Size(run.inputs.sources[name].width, min(run.inputs.sources[name].width, most)) for name in names}
        for names, most in zip((config.strong, config.weak), kept, strict=True)
    )
    entries = config.memory * 2**20 / (3 * run.inputs.dtype.itemsize)
    groups, needed = [], 0
    for part in _packed(strong, dict.fromkeys(strong, kernel_entries(n)), entries):
        needed += products(n, sets, [strong[name] for name in part], list(weak.values()))
        beside = sum(strong[name].kept for name in part)
        own = {name: sets * (2 * min(of.width, n) ** 2 + of.kept * beside) for name, of in weak.items()}
        groups += [_Group(names, part, True, {}) for names in _packed(weak, own, entries)]
    features = n * sum(of.width for of in strong.values()) * sum(of.width for of in weak.values())
    return groups if needed < features else []


def _packed(names: Iterable[str], size: Mapping[str, int], limit: float) -> Iterator[list[str]]:
    """Names in order, as many at a time as their sizes allow, at least one."""
    part: list[str] = []
    for name in names:
        if part and sum(size[other] for other in part) + size[name] > limit:
            yield part
            part = []
        part.append(name)
    yield part


def _results(run: _Run, group: _Group, kept: tuple[int, int]) -> dict[str, list[dict[str, Any]]]:
    """The rows of every missing pair of a group, by its key."""
    width = lambda name: run.inputs.sources[name].width
    same = {"rows": run.inputs.rows.n, "version": version("w2s_jax")}
    results = {}
    scored = run.workers.score(group.strong, group.weak, list(group.missing), kept, group.by_kernels)
    for ((strong, weak), key), rows in zip(group.missing.items(), scored, strict=True):
        models = {"weak": weak, "strong": strong, "weak_width": width(weak), "strong_width": width(strong)}
        results[key] = [models | same | {"inputs": key} | row for row in rows]
    return results


def _loaded(run: _Run, name: str, key: str) -> Model:
    arrays = run.store.moments(key)
    if arrays is None:
        raise InputError(f"the moments of model {name!r} in {run.config.output} were damaged: start the sweep again")
    return Model(**{field: jnp.asarray(array) for field, array in arrays.items()})
