"""Sweeps: every weak with every strong model, over a grid of settings and several label sets, from files, resumable.

A model's rows are read once for its own moments and eigenpairs (ranking/cells.py, pairs.py), which are kept; pairs are read in
groups, many weak with many strong models at a time, for their cross moments, or where that takes less for kernels
(kernels.py). A group is a unit of work, and so are as many models as there are processes (workers.py): its results are
committed together (store.py), and what is in the store is never computed again. Every process runs all of this; the store is
open in process 0, which tells the others what is in it.

Memory: `memory` MiB for the cross sums or kernels of a group, three times `sums.BLOCK_BYTES` for its rows, and its
models' moments.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from w2s_jax._core.checks import InputError
from w2s_jax._core.cpu import one_lapack_thread
from w2s_jax._core.normalize import participation_ratio, warn_if_concentrated
from w2s_jax._core.progress import track
from w2s_jax.devices.hosts import Hosts
from w2s_jax.devices.mesh import require_mesh
from w2s_jax.devices.precision import FASTEST, resolved
from w2s_jax.sweep.config import SweepConfig, read_config, sweep_config
from w2s_jax.sweep.inputs import Inputs, open_inputs
from w2s_jax.sweep.kernels import KeptSize, kernel_entries, products
from w2s_jax.sweep.pairs import Model, Pair, eigenpairs
from w2s_jax.sweep.predictor_columns import known_by, stamped
from w2s_jax.sweep.store import COLUMNS, Store, key_of, open_store
from w2s_jax.sweep.table import Sweep, read_sweep
from w2s_jax.sweep.workers import Workers

_ALONE = Hosts()
T = TypeVar("T")
Group = tuple[list[str], list[str]]  # strong and weak models that are read together


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
    does not is kept. A predictor of one's own has changed if its name, its code, or a number, text, array, container or function
    that it uses from outside has; one that uses anything else of one's own is computed again in every run (docs/sweeps.md).

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
        (summed over outputs); with folds `expected_error`, `expected_gap`, and with labels `trial_error`; then the predictors.
        Where the settings agree they are the numbers of `rank_supervisors`, to rounding: of raw representations with a large mean
        many eigenvalues are below float32's, and are left out here. The bound's norm is of the labelled rows.

    Raises:
        InputError: files that do not fit or hold NaN, infinities or nothing but a constant; a precision that the device does
            not have; a folder that cannot be written or is in use by another process; a full disk.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for seed, name in enumerate("abs"):
    ...         np.save(f"{folder}/{name}.npy", np.random.default_rng(seed).standard_normal((20, 3)))
    ...     sweep = run_sweep({"output": f"{folder}/out", "weak": f"{folder}/[ab].npy", "strong": f"{folder}/s.npy"})
    ...     sweep["weak"].tolist(), sweep.finished
    (['a', 'b'], 2)

    Source: Xue et al. 2025 for norms, bound and predicted gap; Kornblith et al. 2019 for CKA.
    """
    require_mesh(mesh)
    config = _agreed(config, hosts, mesh)
    inputs = open_inputs(config, hosts, process_local)  # before anything is written
    with ExitStack() as stack:
        stack.enter_context(one_lapack_thread(max(model.width for model in inputs.sources.values())))
        with hosts.together():
            store = stack.enter_context(open_store(config.output)) if hosts.index == 0 else None
        run = _Run(config, Workers(hosts, inputs, config, mesh), store, progress if hosts.index == 0 else False)
        keys, changed = _keep_models(run)
        computed = _keep_pairs(run, keys)
        with hosts.together():
            if hosts.index == 0:
                return replace(read_sweep(config.output), computed=computed, changed=changed, notes=inputs.notes)
    return Sweep((*COLUMNS, *(of.name for of in config.predictors)), (), 0, 0, config.output)


@dataclass(frozen=True)
class _Run:
    """What a run works on: its settings, who does the work, and in process 0 where results are kept."""

    config: SweepConfig
    workers: Workers
    store: Store | Any
    progress: bool | Callable[[Iterable], Iterable]

    @property
    def inputs(self) -> Inputs:
        return self.workers.inputs

    @property
    def hosts(self) -> Hosts:
        return self.workers.hosts

    def plan(self, pairs: Sequence[str | None]) -> None:
        """Says in the store which pairs the present configuration has, None where they are not known yet."""
        predictors = {of.name: of.larger_is_better for of in self.config.predictors}
        self.stored(lambda store: store.plan(pairs, predictors))

    def stored(self, work: Callable[[Store], T]) -> T:
        """What process 0 finds in its store, or does there, told to all."""
        return self.hosts.first(lambda: work(self.store))


def _agreed(
    config: SweepConfig | Mapping[str, Any] | str | os.PathLike, hosts: Hosts, mesh: Mesh | None
) -> SweepConfig:
    """The configuration, checked, with a precision that the devices have: the one measured, if any, is process 0's; predictors as
    they are now."""
    device = None if mesh is None else mesh.devices.flat[0]
    with hosts.together():
        checked = config if isinstance(config, SweepConfig) else _checked(config)
    chosen = hosts.first(lambda: resolved(checked.precision, device))
    with hosts.together():
        own = resolved(chosen if checked.precision == FASTEST else checked.precision, device)
        return replace(checked, precision=own, predictors=tuple(map(stamped, checked.predictors)))


def _checked(config: Mapping[str, Any] | str | os.PathLike) -> SweepConfig:
    if not isinstance(config, Mapping | str | os.PathLike):
        raise InputError(f"config must be a TOML file or a mapping with its keys, got {type(config).__name__}")
    return sweep_config(config) if isinstance(config, Mapping) else read_config(config)


def _keep_models(run: _Run) -> tuple[dict[str, str], tuple[str, ...]]:
    """Sees to it that every model's moments are in the store; their keys, and the models whose rows have changed."""
    paths, stamps = run.config.models, run.inputs.stamps
    before = run.stored(lambda store: {name: store.last_content(path) for name, path in paths.items()})
    contents: dict[str, Any] = run.stored(
        lambda store: {name: store.content(path, stamps[name]) for name, path in paths.items()}
    )
    if None not in contents.values():
        keys = {name: _model_key(run, content) for name, content in contents.items()}
        if not _missing(run, _pair_keys(run, keys).values()):
            return keys, ()
    run.plan([None] * (len(run.config.weak) * len(run.config.strong)))
    for batch in track(_batches(run, _not_kept(run, contents)), run.progress, "moments"):
        contents |= {name: _hashed(run, name) for name in batch if contents[name] is None and before[name] is not None}
        contents |= _computed(run, _not_kept(run, {name: contents[name] for name in batch}))
    changed = tuple(name for name, content in before.items() if content not in (None, contents[name]))
    keys = {name: _model_key(run, content) for name, content in contents.items()}
    run.stored(lambda store: store.keep_only_moments(keys.values()))
    return keys, changed


def _model_key(run: _Run, content: str) -> str:
    """The key of a model's moments, from the hash of its rows."""
    return key_of("moments", run.inputs.rows_key, content)


def _not_kept(run: _Run, contents: Mapping[str, str | None]) -> list[str]:
    """The models whose moments are not in the store, or whose rows' hash is not known."""
    kept = lambda store, content: content is not None and store.moments(_model_key(run, content)) is not None
    return run.stored(lambda store: [name for name, content in contents.items() if not kept(store, content)])


def _missing(run: _Run, keys: Iterable[str]) -> set[str]:
    """The keys of pairs that have no results in the store."""
    return set(run.stored(lambda store: list(set(keys) - store.finished())))


def _batches(run: _Run, names: Iterable[str]) -> list[list[str]]:
    """Models in batches of no more than there are processes, whose moments and eigenvectors fit in the memory for sums."""
    count, rows = run.hosts.count, run.inputs.rows
    squares = {name: width**2 for name, width in run.workers.widths.items()}
    limit = run.config.memory * 2**20 / (run.inputs.dtype.itemsize * (len(rows.counts) + len(rows.sets)))
    return [part[i : i + count] for part in _packed(names, squares, limit) for i in range(0, len(part), count)]


def _hashed(run: _Run, name: str) -> str:
    """The hash of a model's rows, read for its sake alone."""
    began = time.time_ns()
    return _keep(run, name, began, run.workers.hash_of(name))


def _computed(run: _Run, names: Sequence[str]) -> dict[str, str]:
    """Computes and keeps models' moments; the hashes of their rows."""
    began, contents = time.time_ns(), {}
    for name, (found, content) in run.workers.models(names).items():
        if not np.isfinite(found.variance) or not np.isfinite(found.values).all():
            raise InputError(f"model {name!r} is too large: its squares overflow {run.inputs.dtype}")
        if not found.variance > 0:
            raise InputError(f"model {name!r} is constant, expected rows that differ")
        directions = participation_ratio(np.asarray(found.values[0]))
        width = run.workers.widths[name]
        warn_if_concentrated(f"model {name!r}", directions, width, run.config.normalize, run.inputs.dtype)
        contents[name] = _keep(run, name, began, content, found)
    return contents


def _keep(run: _Run, name: str, began: int, content: str, model: Model | None = None) -> str:
    """Keeps a model's moments, if given, and the hash of its rows, which have been read from `began` on."""

    def write(store: Store) -> None:
        if model is not None:
            arrays = {field: np.asarray(array) for field, array in model.arrays.items()}
            store.keep_moments(_model_key(run, content), arrays)
        store.keep_content(run.config.models[name], run.inputs.stamps[name], began, content)

    run.stored(write)
    return content


def _pair_keys(run: _Run, keys: Mapping[str, str]) -> dict[Pair, str]:
    """The keys of all pairs' results (strong, weak), in the table's order, from those of the models' moments."""
    config = run.config
    label_sets = [label._asdict() for label in run.inputs.rows.label_sets]
    asked: list[Any] = [label_sets, config.grid, (config.prior, config.noise) if config.folds else None]
    if config.predictors:  # of which some see what labels were taken about
        asked += [run.stored(lambda _: [known_by(of) for of in config.predictors]), run.inputs.rows.means.tolist()]
    return {
        (strong, weak): key_of("pair", asked, weak, keys[weak], strong, keys[strong])
        for strong in config.strong
        for weak in config.weak
    }


def _keep_pairs(run: _Run, keys: Mapping[str, str]) -> int:
    """Sees to it that every pair's results are in the store; how many were missing."""
    pairs = _pair_keys(run, keys)
    run.plan(list(pairs.values()))
    asked = _missing(run, pairs.values())
    if not asked:
        return 0
    kept = run.stored(lambda store: _eigenpairs(run, store, keys))
    by_kernels = _kernel_groups(run, kept)
    missing_of = lambda group: {pair: pairs[pair] for pair in itertools.product(*group) if pairs[pair] in asked}
    groups = [(group, missing) for group in by_kernels or _groups(run) if (missing := missing_of(group))]
    held: dict[str, Model] = {}
    for group, missing in track(groups, run.progress, "pairs"):
        names = dict.fromkeys(itertools.chain(*group))
        held = {name: held[name] if name in held else _loaded(run, name, keys[name]) for name in names}
        strong, weak = ({name: held[name] for name in side} for side in group)
        scored = run.workers.score(strong, weak, list(missing), kept, bool(by_kernels))
        _keep_results(run, missing, scored)
    return sum(len(missing) for _, missing in groups)


def _eigenpairs(run: _Run, store: Store, keys: Mapping[str, str]) -> tuple[int, int]:
    """How many eigenpairs some setting keeps of some strong, and of some weak model, in steps that share programs."""
    lowest, sides = run.config.lowest_thresholds, (run.config.strong, run.config.weak)
    counts = [
        max(eigenpairs(store.eigenvalues(keys[name]), threshold) for name in names)
        for names, threshold in zip(sides, lowest, strict=True)
    ]
    strong, weak = (-(-count // 16) * 16 for count in counts)
    return strong, weak


def _groups(run: _Run) -> Iterator[Group]:
    """All pairs, in groups whose cross sums fit in the memory for them; near squares need the fewest reads."""
    width = run.workers.widths
    entries = run.config.memory * 2**20 / (3 * run.inputs.dtype.itemsize * len(run.inputs.rows.counts))
    all_weak = sum(width[name] for name in run.config.weak)
    for strong in _packed(run.config.strong, width, max(entries**0.5, entries / all_weak)):
        for weak in _packed(run.config.weak, width, entries / sum(width[name] for name in strong)):
            yield strong, weak


def _kernel_groups(run: _Run, kept: tuple[int, int]) -> list[Group]:
    """All pairs, in groups whose strong kernels fit in that memory, as do weak models with their cross moments; none where the
    product of features takes less, or is shared by several processes or devices."""
    config, sets, n = run.config, len(run.inputs.rows.sets), run.inputs.rows.n
    if config.folds or config.predictors or run.workers.mesh is not None or run.hosts.count > 1:
        return []
    width = run.workers.widths
    strong, weak = (
        {name: KeptSize(width[name], min(width[name], most)) for name in names}
        for names, most in zip((config.strong, config.weak), kept, strict=True)
    )
    entries = config.memory * 2**20 / (3 * run.inputs.dtype.itemsize)
    groups, needed = [], 0
    for part in _packed(strong, dict.fromkeys(strong, kernel_entries(n)), entries):
        needed += products(n, sets, [strong[name] for name in part], list(weak.values()))
        beside = sum(strong[name].kept for name in part)
        own = {name: sets * (2 * of.width**2 + of.kept * beside) for name, of in weak.items()}
        groups += [(part, names) for names in _packed(weak, own, entries)]
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


def _keep_results(run: _Run, missing: Mapping[Pair, str], scored: Sequence[list[dict[str, Any]]]) -> None:
    """Keeps the rows of pairs (strong, weak) by their keys."""
    width = lambda name: run.inputs.sources[name].width
    same = {"rows": run.inputs.rows.n, "version": version("w2s_jax")}
    results = {}
    for ((strong, weak), key), rows in zip(missing.items(), scored, strict=True):
        models = {"weak": weak, "strong": strong, "weak_width": width(weak), "strong_width": width(strong)}
        results[key] = [models | same | {"inputs": key} | row for row in rows]
    run.stored(lambda store: store.keep_results(results))


def _loaded(run: _Run, name: str, key: str) -> Model:
    """A model whose moments are in the store, in every process."""

    def found() -> dict[str, np.ndarray]:
        arrays = run.store.moments(key)
        if arrays is None:
            raise InputError(
                f"the moments of model {name!r} in {run.config.output} were damaged: start the sweep again"
            )
        return arrays

    return Model(**{field: jnp.asarray(array) for field, array in run.hosts.broadcast(found).items()})
