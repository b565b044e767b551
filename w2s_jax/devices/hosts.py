"""Several processes on one piece of work: who reads which rows, how sums meet, and what the others hear when one fails.

Every process runs the same program and meets the others in the same collectives, in the same order (SPMD). Start-up and
the detection of a cluster (SLURM, Kubernetes, Cloud TPU) are `jax.distributed`'s, the collectives are
`jax.experimental.multihost_utils`' and, for sums, one all-reduce. What goes wrong in one process is raised in all, so that
none waits for ever.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax._src.distributed import global_state  # the client is public nowhere
from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from w2s_jax._core.arrays import bucket
from w2s_jax._core.checks import InputError
from w2s_jax.devices.watch import LOST, Watch

_START_SECONDS = 120  # in which all processes must have come
_HEARTBEAT_SECONDS = 120  # in which JAX's runtime aborts; before that watch.py has ended the process
T = TypeVar("T")


class LostError(InputError):
    """A process is gone: whoever is left cannot end together with it, as JAX's own shutdown would try for a while."""


@dataclass(frozen=True)
class Hosts:
    """The processes of a run: this one's `index`, their `count`. A single process is `Hosts()`.

    All but `span` are collectives, which every process calls at the same point of the program; they raise InputError if a
    process has been lost.

    >>> Hosts().span(10), Hosts(index=1, count=3).span(10)
    ((0, 10), (3, 6))
    """

    index: int = 0
    count: int = 1

    def span(self, rows: int, step: int = 1) -> tuple[int, int]:
        """This process's share of the rows, start and stop, in multiples of a step.

        Raises:
            InputError: fewer steps than processes.
        """
        steps = -(-rows // step)
        if steps < self.count:
            least = "1 row" if step == 1 else f"{step} rows"
            raise InputError(f"each process must have at least {least}, got {rows} rows for {self.count} processes")
        return steps * self.index // self.count * step, min(rows, steps * (self.index + 1) // self.count * step)

    def add(self, sums: T) -> T:
        """The sum of all processes' pytrees, which have the same shapes."""
        if self.count == 1:
            return sums
        mesh = _mesh()
        by_process = NamedSharding(mesh, P("hosts"))

        def placed(x: ArrayLike) -> Array:
            own = np.asarray(x)[None]
            return jax.make_array_from_process_local_data(by_process, own, (self.count, *own.shape[1:]))

        with _among_all():
            total = _sum_over(mesh)(jax.tree.map(placed, sums))
            return jax.tree.map(lambda x: jnp.asarray(np.asarray(x.addressable_data(0))), total)

    def gather(self, data: bytes) -> list[bytes]:
        """Every process's bytes."""
        if self.count == 1:
            return [data]
        with _among_all():
            lengths = process_allgather(np.int32(len(data))).tolist()
            rows = process_allgather(_padded(data, max(lengths))) if any(lengths) else lengths
        return [row[:length].tobytes() if length else b"" for row, length in zip(rows, lengths, strict=True)]

    def exchange(self, text: str) -> list[str]:
        """Every process's text."""
        return [data.decode() for data in self.gather(text.encode())]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Work of a process alone, without collectives: where it fails with an InputError in one, all raise that at its end."""
        if self.count == 1:
            yield
            return
        own = None
        try:
            yield
        except InputError as error:
            own = error
        failed = [text for text in self.exchange("" if own is None else str(own)) if text]
        if failed:
            raise InputError(failed[0]) from own

    def first(self, make: Callable[[], T]) -> T:
        """What `make` returns in process 0, where alone it is called, told to all as JSON writes it."""
        if self.count == 1:
            return make()
        with self.together():
            text = json.dumps(make()) if self.index == 0 else ""
        return json.loads(self._told(text, 0))

    def broadcast(self, make: Callable[[], Mapping[str, ArrayLike]], source: int = 0) -> dict[str, Any]:
        """The arrays that `make` returns in the process `source`, where alone it is called."""
        if self.count == 1:
            return dict(make())
        with self.together():
            arrays = {name: np.asarray(x) for name, x in make().items()} if self.index == source else {}
        own = json.dumps({name: (x.shape, x.dtype.str) for name, x in arrays.items()})
        shapes = json.loads(self._told(own, source))
        arrays = arrays or {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
        with _among_all():
            return broadcast_one_to_all(arrays, is_source=self.index == source)

    def _told(self, text: str, source: int) -> str:
        """The text of the process `source`."""
        data, here = text.encode(), self.index == source
        with _among_all():
            length = int(broadcast_one_to_all(np.int32(len(data)), is_source=here))
            heard = broadcast_one_to_all(_padded(data if here else b"", length), is_source=here)
        return heard[:length].tobytes().decode()


@contextmanager
def connected_hosts(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> Iterator[Hosts]:
    """Joins the processes of a run, by address or, without one, as `jax.distributed` finds them on a cluster.

    Args:
        coordinator: "host:port" of process 0.
        processes, process: how many there are, and which one this is.

    Raises:
        InputError: no cluster was found, the address is none, or process 0 does not answer there within two minutes. If others do
            not come, JAX ends the process; if one is later heard of no more, this ends the process with one sentence.

    >>> with connected_hosts("localhost", processes=2, process=0) as hosts:
    ...     hosts.index
    Traceback (most recent call last):
        ...
    w2s_jax._core.checks.InputError: coordinator must be HOST:PORT, got 'localhost'
    """
    if coordinator is not None:
        _require_address(coordinator, process)
    try:
        jax.distributed.initialize(
            *(coordinator, processes, process),
            initialization_timeout=_START_SECONDS,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        where = "no cluster was recognised" if coordinator is None else f"cannot join {coordinator}"
        raise InputError(f"{where}: {str(error).splitlines()[0]}") from error
    watch, done = Watch(global_state.client, jax.process_index()), False
    watch.start()
    try:
        yield Hosts(jax.process_index(), jax.process_count())
        done = True
    finally:
        watch.end(done)
    jax.distributed.shutdown()


def _require_address(coordinator: str, process: int | None) -> None:
    """Asks for process 0 before JAX does, which ends the process where nobody answers."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise InputError(f"coordinator must be HOST:PORT, got {coordinator!r}")
    last = time.monotonic() + _START_SECONDS
    while process:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_START_SECONDS).close()
            return
        except OSError as error:
            if time.monotonic() > last:
                raise InputError(f"cannot join {coordinator}: {error.strerror or error}") from error
            time.sleep(0.2)


@contextmanager
def _among_all() -> Iterator[None]:
    """Collectives: what they raise without an answer, as one sentence."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # either is raised for the same failure
        raise LostError(LOST) from error


def _padded(data: bytes, length: int) -> np.ndarray:
    """Bytes, filled up with zeros to a length that shares programs with its neighbours."""
    padded = np.zeros(bucket(length), np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    return padded


@lru_cache
def _mesh() -> Mesh:
    """One device of each process."""
    first = [jax.local_devices(process_index=index)[0] for index in range(jax.process_count())]
    return Mesh(np.array(first), ("hosts",))


@lru_cache
def _sum_over(mesh: Mesh) -> Callable[[Any], Any]:
    add = lambda parts: jax.tree.map(lambda x: jnp.sum(x, 0, dtype=x.dtype), parts)
    return jax.jit(add, out_shardings=NamedSharding(mesh, P()))
