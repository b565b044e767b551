"""Many devices: rows over one axis of a mesh, models over the other; and moments merged over hosts.

Rows stay where they are: every device adds up its own share, and the sums meet once. Models need nothing of each other, so
a batch of them is spread over all devices. A process works on its own devices; hosts meet in one collective.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from w2s_jax._core.checks import InputError

ROWS, MODELS = "rows", "models"
BATCH = 16  # models, or pairs, at once on an accelerator


def device_mesh(rows: int | None = None, models: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of this process's devices with the axes "rows" and "models" that the package looks for.

    Args:
        rows: devices along the rows, by default as many as there are for each model.
        models: devices along the models.
        devices: which ones, by default all of this process.

    Raises:
        InputError: not as many devices as rows x models.

    >>> device_mesh(rows=1).axis_names
    ('rows', 'models')
    """
    devices = jax.local_devices() if devices is None else devices
    rows = len(devices) // max(models, 1) if rows is None else rows
    if rows < 1 or models < 1 or rows * models > len(devices):
        raise InputError(
            f"rows x models must be between 1 and the number of devices ({len(devices)}), got {rows} x {models}"
        )
    return Mesh(np.array(devices[: rows * models]).reshape(rows, models), (ROWS, MODELS))


def all_devices() -> Mesh | None:
    """All of this process's accelerators along the rows; None for a single one, and for CPUs, which share their cores."""
    return device_mesh() if jax.local_device_count() > 1 and jax.default_backend() != "cpu" else None


@lru_cache
def spread(function: Callable, mesh: Mesh) -> Callable:
    """The function with its first argument's leading axis (models, seeds, penalties) spread over all devices.

    `spread(jax.vmap(f), mesh)(xs)` is `jax.vmap(f)(xs)`: spectra of many models, an ensemble of probes. Further arguments go
    whole to every device. Lengths that do not divide evenly are filled up with copies of the last entry.

    Args:
        function: `function(entries, *common)`, each entry's result its own, entries first in the results.
        mesh: of any axes. Pass the same function object again to reuse the program.

    Raises:
        InputError: entries that are no arrays, or whose leading axes differ.

    >>> squares = spread(jax.vmap(lambda x: x * x), device_mesh())
    >>> squares(jnp.arange(3.0)).tolist()
    [0.0, 1.0, 4.0]
    """
    every = P(mesh.axis_names)

    def local(entries: Any, common: tuple) -> Any:
        return function(entries, *common)

    program = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(every, P()), out_specs=every, check_vma=False))

    def call(entries: Any, *common: Any) -> Any:
        lengths = {jnp.shape(x)[:1] for x in jax.tree.leaves(entries)}
        if len(lengths) != 1 or () in lengths:
            raise InputError(f"entries must be arrays with one common leading axis, got lengths {sorted(lengths)}")
        found = program(filled(entries, mesh.size), common)
        return jax.tree.map(lambda x: x[: min(lengths)[0]], found)

    return call


def filled(entries: Any, multiple: int) -> Any:
    """Arrays whose leading axis is a multiple of a number, filled up with copies of the last entry."""

    def fill(x: Any) -> Any:
        return x if len(x) % multiple == 0 else x[np.minimum(np.arange(-(-len(x) // multiple) * multiple), len(x) - 1)]

    return jax.tree.map(fill, entries)


def over_models(function: Callable, models: Any) -> Any:
    """What a function makes of every model or pair: one by one on a CPU, where batching gains nothing, else in equal batches.

    The last batch is filled up with copies: a shorter one would be compiled as a second program.
    """
    if jax.default_backend() == "cpu":
        return jax.lax.map(function, models)
    count = len(jax.tree.leaves(models)[0])
    batches = -(-count // BATCH)
    size = -(-count // batches)
    found = jax.lax.map(function, filled(models, batches * size), batch_size=size)
    return jax.tree.map(lambda x: x[:count], found)


def put(x: Any, mesh: Mesh, spec: P) -> Any:
    """Arrays on the mesh's devices, cut as the spec says."""
    return jax.device_put(x, NamedSharding(mesh, spec))


def require_mesh(mesh: Mesh | None) -> None:
    """Raises InputError unless it is None or a mesh of this process with the axes "rows" and "models"."""
    if mesh is None:
        return
    if not isinstance(mesh, Mesh) or set(mesh.axis_names) != {ROWS, MODELS}:
        came = mesh.axis_names if isinstance(mesh, Mesh) else type(mesh).__name__
        raise InputError(f"mesh must have the axes 'rows' and 'models' (see device_mesh), got {came}")
    if mesh.is_multi_process:
        raise InputError("mesh must hold devices of this process only: hosts merge their moments instead")
