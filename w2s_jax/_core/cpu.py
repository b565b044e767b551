"""What only a CPU does, each trick with the measurement that keeps it; elsewhere each is one plain call."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial, wraps
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.custom_batching import custom_vmap

from w2s_jax._core.arrays import matmul

BLOCK = 32  # of inverse factors
SYMMETRIC_WIDTH = 1024  # measured: halves save 15 to 30% from here on, and nothing at 512
LARGE = 4 << 20  # bytes: two huge pages
WIDE = 2048  # features: from here on several threads save a third of an eigensolve on two idle cores (measured)


class outermost:
    """`jax.jit` of a large program that Python calls: on a CPU without jaxlib 0.10's newer emitters.

    They take a fifth of a first ranking's time, and make no later one faster; later releases have no others. Elsewhere, and where
    other programs trace it, the options of a program of its own do not apply.
    """

    def __init__(self, function: Callable, **options: Any) -> None:
        own = {"xla_cpu_use_fusion_emitters": False}
        self.inside: Any = jax.jit(function, **options)
        self.alone: Any = (
            jax.jit(function, **options, compiler_options=own) if version("jaxlib") < "0.11" else self.inside
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        traced = any(isinstance(x, Tracer) for x in jax.tree.leaves((args, kwargs)))
        return (self.inside if traced or jax.default_backend() != "cpu" else self.alone)(*args, **kwargs)

    def programs(self) -> int:
        """How many have been compiled."""
        return sum(program._cache_size() for program in {self.inside, self.alone})


class _Threads(NamedTuple):
    """What sets and what tells the number of threads of the library of LAPACK."""

    set: Callable[[int], None]
    get: Callable[[], int]


_lock = threading.Lock()
_inside: list[int] = []  # for each caller that is inside how many threads there were before it


@contextmanager
def one_lapack_thread(width: int = 0) -> Iterator[None]:
    """Inside, the LAPACK of SciPy's wheels, which jaxlib calls on a CPU, works on one thread; afterwards on as many as before.

    Its threads wait for each other at every step, spinning. Beside processes that keep the cores busy a ranking of three models
    takes twice as long with them, now and then twenty times (`benchmarks.first_call`); on idle cores they save nothing below
    1,024 features. Rankings and sweeps do this by themselves. Who has set `OPENBLAS_NUM_THREADS` or `OMP_NUM_THREADS` is obeyed;
    where SciPy was built with another library nothing changes.

    Args:
        width: features of the widest model; with 2,048 and more nothing changes either.

    >>> with one_lapack_thread():
    ...     values = jnp.linalg.eigvalsh(jnp.eye(3)).block_until_ready()
    """
    chosen = any(os.environ.get(name) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"))
    threads = None if width >= WIDE or chosen or jax.default_backend() != "cpu" else _lapack_threads()
    if threads is None:
        yield
        return
    with _lock:
        _inside.append(threads.get())
        threads.set(1)
    try:
        yield
    finally:
        with _lock:
            before = _inside.pop()
            if not _inside:
                threads.set(before)


@cache
def _lapack_threads() -> _Threads | None:
    """Those of SciPy's own OpenBLAS, None if it has none."""
    spec = find_spec("scipy")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    for file in (*folder.parent.glob("scipy.libs/*openblas*"), *folder.glob(".dylibs/*openblas*")):
        for prefix in ("scipy_openblas", "openblas"):
            with suppress(AttributeError, OSError):
                library = ctypes.CDLL(str(file))
                return _Threads(library[f"{prefix}_set_num_threads"], library[f"{prefix}_get_num_threads"])
    return None


def one_at_a_time(function: Callable) -> Callable:
    """The function of arrays with a batching rule: a loop on a CPU, one call elsewhere.

    jaxlib spreads a batched LAPACK call over its thread pool and waits for it on one of the pool's own threads: two batched
    calls side by side on two cores wait for each other for ever.
    """
    run = custom_vmap(function)

    @run.def_vmap
    def rule(size: int, batched: list[bool], *arrays: Array) -> tuple[Any, Any]:
        moving = [x for x, moves in zip(arrays, batched, strict=True) if moves]

        def apply(call: Callable, moving: Any) -> Any:
            rest = iter(moving)
            return call(*(next(rest) if moves else x for x, moves in zip(arrays, batched, strict=True)))

        one_by_one = lambda *moving: jax.lax.map(partial(apply, run), moving)
        at_once = lambda *moving: jax.vmap(lambda *m: apply(function, m))(*moving)
        result = jax.lax.platform_dependent(*moving, cpu=one_by_one, default=at_once)
        return result, jax.tree.map(lambda _: True, result)

    return wraps(function)(lambda *arrays: run(*arrays))


def inverse_factor_by_halves(matrix: Array) -> Array:
    """Inverse (k, k) of the lower Cholesky factor, its blocks put together by products.

    LAPACK's threads spin for milliseconds after every call that is large enough for them, and take the cores from the
    products that follow: a ranking with them takes at least twice as long. One thread factorises the blocks. Large ones by
    halves, `[[X, 0], [-Z W^T X, Z]]` with `W = X B` and Z that of what W leaves of the second half.
    """
    k = len(matrix)
    if k <= 8 * BLOCK:
        return _inverse_factor_by_blocks(matrix)
    half = k // 2 // BLOCK * BLOCK
    X = inverse_factor_by_halves(matrix[:half, :half])
    W = matmul(X, matrix[:half, half:])
    Z = inverse_factor_by_halves(matrix[half:, half:] - matmul(W.T, W))
    return jnp.block([[X, jnp.zeros_like(W)], [-matmul(Z, matmul(W.T, X)), Z]])


def _inverse_factor_by_blocks(matrix: Array) -> Array:
    """Rows above `block i` are the result's; below, columns left of it are its right-hand sides and the rest what is left."""
    k = len(matrix)
    steps = -(-k // BLOCK)
    index = jnp.arange(steps * BLOCK)
    padded = jnp.pad(matrix, (0, steps * BLOCK - k)) + jnp.diag((index >= k).astype(matrix.dtype))

    def step(i: Array, state: Array) -> Array:
        rows = jax.lax.dynamic_slice_in_dim(state, i * BLOCK, BLOCK)
        pivot = _inverse_factor_of_block(jax.lax.dynamic_slice_in_dim(rows, i * BLOCK, BLOCK, 1))
        rows = matmul(pivot, rows)
        below = jnp.where(index >= (i + 1) * BLOCK, rows, 0)
        rows = jax.lax.dynamic_update_slice_in_dim(rows - below, pivot, i * BLOCK, 1)
        state = jax.lax.dynamic_update_slice_in_dim(state, jnp.zeros_like(rows.T), i * BLOCK, 1)
        state = state - matmul(below.T, rows + below)
        return jax.lax.dynamic_update_slice_in_dim(state, rows, i * BLOCK, 0)

    return jax.lax.fori_loop(0, steps, step, padded)[:k, :k]


def _inverse_factor_of_block(matrix: Array) -> Array:
    """By halves that double: the off-diagonal quarter of every diagonal block from the inverses of its halves."""
    factor = jnp.linalg.cholesky(matrix, symmetrize_input=False)
    place = jnp.arange(len(matrix))

    def double(level: Array, inverted: Array) -> Array:
        half = place >> level
        quarter = (half[:, None] >> 1 == half >> 1) & (half[:, None] > half)
        return inverted - matmul(matmul(inverted, jnp.where(quarter, factor, 0)), inverted)

    levels = (len(matrix) - 1).bit_length()
    return jax.lax.fori_loop(0, levels, double, jnp.diag(1 / jnp.diagonal(factor)))


def square_of_triangle(factor: Array) -> Array:
    """`L^T L` of a lower triangle; on a CPU by halves, which leaves out most of the products with zeros."""
    k = len(factor)
    if k <= 8 * BLOCK or jax.default_backend() != "cpu":
        return matmul(factor.T, factor)
    half = k // 2 // BLOCK * BLOCK
    X, Y, Z = factor[:half, :half], factor[half:, :half], factor[half:, half:]
    corner = matmul(Y.T, Z)
    return jnp.block([[square_of_triangle(X) + matmul(Y.T, Y), corner], [corner.T, square_of_triangle(Z)]])


def gram(a: Array, b: Array, precision: str = "float32") -> Array:
    """`a^T b` where that is symmetric (b is a, its rows weighted or not); on a CPU wide ones by halves, one corner mirrored."""
    d = a.shape[1]
    if d < SYMMETRIC_WIDTH or jax.default_backend() != "cpu":
        return matmul(a.T, b, precision)
    first, last = slice(d // 2), slice(d // 2, None)
    corner = matmul(a[:, first].T, b[:, last], precision)
    upper, lower = (gram(a[:, half], b[:, half], precision) for half in (first, last))
    return jnp.block([[upper, corner], [corner.T, lower]])


def host_zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros that `jax.device_put` of a CPU takes over as they lie, if they are large; who has put them writes to them no more.

    In huge pages of their own, which go back at once: JAX's own copy has small ones, and can take longer than a product.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(shape, dtype)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype).reshape(shape)


def from_host(array: Any) -> Any:
    """What a CPU takes over of a large NumPy array of floats: a copy, made faster than JAX would; all else as it comes."""
    large = isinstance(array, np.ndarray) and array.nbytes >= LARGE and jnp.issubdtype(array.dtype, jnp.floating)
    if not large or jax.default_backend() != "cpu":
        return array
    copy = host_zeros(array.shape, jax.dtypes.canonicalize_dtype(array.dtype))
    with np.errstate(over="ignore"):
        np.copyto(copy, array, casting="same_kind")
    return jax.device_put(copy)
