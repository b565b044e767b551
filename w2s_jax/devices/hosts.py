"""Several processes on one piece of work: who reads which rows, how sums meet, and what the others hear when one fails.

Start-up and the detection of a cluster (SLURM, Kubernetes, Cloud TPU) are `jax.distributed`'s. Every process streams its
own rows; sums meet in one all-reduce. What goes wrong in one process is raised in all, so that none waits for ever.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from w2s_jax._core.arrays import bucket
from w2s_jax._core.checks import InputError

_START_SECONDS = 120  # in which all processes must have come
_HEARTBEAT_SECONDS = 20  # a process that has said nothing for so long is lost
_HEAD = 1024  # bytes of a message that go in one sum, of one length for all; the first 8 are its length


class SharedError(InputError):
    """An error that every process has been told of and raises too."""


class LostError(SharedError):
    """A process is gone: whoever is left cannot end together with it, as JAX's own shutdown would try for a while."""


@dataclass(frozen=True)
class Hosts:
    """The processes of a run: this one's `index`, their `count`. A single process is `Hosts()`."""

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

    def add(self, sums: Any) -> Any:
        """The sum of all processes' pytrees, by one all-reduce; every process calls this with the same shapes.

        Raises:
            InputError: a process has been lost.
        """
        if self.count == 1:
            return sums
        leaves, tree = jax.tree.flatten(sums)
        arrays = [np.asarray(x) for x in leaves]
        ends = np.cumsum([x.size for x in arrays])
        # Lengths share programs; what fills them up is the last part.
        own = np.zeros((1, bucket(int(ends[-1]))), jnp.result_type(*arrays))
        own[0, : ends[-1]] = np.concatenate([x.ravel() for x in arrays])
        parts = np.split(self._total(own), ends)
        return tree.unflatten(
            jnp.asarray(part.reshape(x.shape).astype(x.dtype)) for part, x in zip(parts, arrays, strict=False)
        )

    def _total(self, own: np.ndarray) -> np.ndarray:
        """The sum of every process's row (1, m)."""
        mesh = _mesh()
        try:
            rows = jax.make_array_from_process_local_data(
                NamedSharding(mesh, P("hosts")), own, (self.count, own.shape[1])
            )
            return np.asarray(_sum_over(mesh)(rows).addressable_data(0))
        except (jax.errors.JaxRuntimeError, ValueError) as error:  # either is raised for the same failure
            raise LostError(
                "another process of this run was lost: start all of them again, finished work is kept"
            ) from error

    def exchange(self, text: str) -> list[str]:
        """Every process's text; all call this together."""
        return [data.decode() for data in self.gather(text.encode())]

    def gather(self, data: bytes) -> list[bytes]:
        """Every process's bytes; all call this together."""
        if self.count == 1:
            return [data]
        message = len(data).to_bytes(8, "little") + data
        heads = self._lines(message[:_HEAD], _HEAD)
        lengths = [8 + int.from_bytes(head[:8], "little") for head in heads]
        tails = [b""] * self.count
        if max(lengths) > _HEAD:
            tails = self._lines(message[_HEAD:], max(lengths) - _HEAD)
        return [(head + tail)[8:length] for head, tail, length in zip(heads, tails, lengths, strict=True)]

    def _lines(self, data: bytes, size: int) -> list[bytes]:
        """Every process's bytes, filled up to a size with zeros."""
        table = np.zeros((self.count, -(-size // 4) * 4), np.uint8)
        table[self.index, : len(data)] = np.frombuffer(data, np.uint8)
        heard = np.asarray(self.add(table.view(np.int32))).view(np.uint8)  # all zero but in one process
        return [line.tobytes() for line in heard]

    def share(self, arrays: Mapping[str, ArrayLike] | None, source: int = 0) -> dict[str, Any]:
        """The arrays, all of one type, that the process `source` has; all call this together, the others with None."""
        if self.count == 1:
            return dict(arrays or {})
        own = {name: (np.shape(x), np.asarray(x).dtype.str) for name, x in (arrays or {}).items()}
        sizes = json.loads(self.exchange(json.dumps(own))[source])
        zeros = {name: np.zeros(shape, dtype) for name, (shape, dtype) in sizes.items()}
        return self.add(zeros if arrays is None else dict(arrays))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Work of every process that ends in `agree` or `merge`: where one fails with an InputError, all raise it."""
        try:
            yield
        except SharedError:
            raise
        except InputError as error:
            if self.count > 1:
                self._hear(str(error))
            raise

    def agree(self) -> None:
        """Waits until all have got so far; raises SharedError if one has failed."""
        self._hear("")

    def merge(self, sums: Any) -> Any:
        """`agree`, then `add`."""
        self.agree()
        return self.add(sums)

    def _hear(self, error: str) -> None:
        failed = [text for text in self.exchange(error) if text]
        if failed:
            raise SharedError(failed[0])


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
            not come, JAX ends the process.
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
    yield Hosts(jax.process_index(), jax.process_count())
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


@lru_cache
def _mesh() -> Mesh:
    """One device of each process."""
    first: dict[int, Any] = {}
    for device in jax.devices():
        first.setdefault(device.process_index, device)
    return Mesh(np.array([first[index] for index in sorted(first)]), ("hosts",))


@lru_cache
def _sum_over(mesh: Mesh) -> Callable[[Array], Array]:
    return jax.jit(lambda parts: jnp.sum(parts, 0, dtype=parts.dtype), out_shardings=NamedSharding(mesh, P()))
