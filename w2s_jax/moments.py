"""Second moments of a weak and a strong representation: the only code that sees the number of rows.

Everything in the package is a function of `(H_w^T H_w, H_s^T H_s, H_s^T H_w, H_w^T y, H_s^T y, y^T y, n)`. Moments
add, subtract, and stream over batches; sums over many rows are compensated, so 10^7 rows in float32 are as good
as a hundred. Centred moments are sums about a shift (the first row seen), never differences of large squares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax._core.arrays import (
    accumulation_dtype,
    as_labels,
    as_matrix,
    as_weights,
    from_host,
    gram,
    label_products,
    matmul,
    outer,
    require_same_rows,
)
from w2s_jax._core.checks import InputError
from w2s_jax._core.progress import track
from w2s_jax.devices.hosts import Hosts
from w2s_jax.devices.mesh import put, require_mesh
from w2s_jax.devices.precision import resolved

BLOCK_ROWS = 8192
Tree = TypeVar("Tree")


class Columns(NamedTuple):
    """One vector per side: weak features (d_w,), strong features (d_s,), labels () or (c,)."""

    w: Any
    s: Any
    y: Any


class Products(NamedTuple):
    """Sums over rows of products: ww (d_w, d_w), ss (d_s, d_s), sw (d_s, d_w), wy, sy and yy."""

    ww: Array
    ss: Array
    sw: Array
    wy: Any
    sy: Any
    yy: Any


class Sums(NamedTuple):
    """What adds up over rows: their number (or total weight), first and second sums about the shift."""

    n: Array
    first: Columns
    second: Products


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moments:
    """Second moments of a weak/strong pair, per row; centred if they carry a shift.

    The properties `ww` (d_w, d_w), `ss` (d_s, d_s), `sw` (d_s, d_w), `wy` (d_w,) or (d_w, c), `sy`, `yy` are
    `H_w^T H_w / n` and so on (Xue et al. 2025, the kernels' sufficient statistics). `m1 + m2` merges two disjoint
    sets of rows, `m - block` takes rows out again (they must have been in), `m.n` counts them.
    """

    sums: Sums
    shift: Columns | None = None

    @property
    def n(self) -> Float[Array, ""]:
        """Number of rows (the total weight if weights were given)."""
        return self.sums.n

    @property
    def mean(self) -> Columns:
        """Column means: weak (d_w,), strong (d_s,), labels () or (c,)."""
        about = jax.tree.map(lambda total: total / self.n, self.sums.first)
        return about if self.shift is None else jax.tree.map(jnp.add, about, self.shift)

    @property
    def ww(self) -> Float[Array, "d_w d_w"]:
        """Weak second moment `H_w^T H_w / n`."""
        return self._product("ww")

    @property
    def ss(self) -> Float[Array, "d_s d_s"]:
        """Strong second moment `H_s^T H_s / n`."""
        return self._product("ss")

    @property
    def sw(self) -> Float[Array, "d_s d_w"]:
        """Cross moment `H_s^T H_w / n`."""
        return self._product("sw")

    @property
    def wy(self) -> Array | None:
        """Weak-label moment `H_w^T y / n` (d_w,) or (d_w, c), None without labels."""
        return self._product("wy")

    @property
    def sy(self) -> Array | None:
        """Strong-label moment `H_s^T y / n` (d_s,) or (d_s, c), None without labels."""
        return self._product("sy")

    @property
    def yy(self) -> Array | None:
        """Mean square of each output, () or (c,), None without labels."""
        second = self.sums.second.yy
        if second is None or self.shift is None:
            return None if second is None else second / self.n
        return second / self.n - jnp.square(self.sums.first.y / self.n)

    def __repr__(self) -> str:
        second = self.sums.second
        if not hasattr(second.sw, "shape"):
            return "Moments(...)"
        *_, d_s, d_w = second.sw.shape
        labels = "no labels" if second.yy is None else "labels"
        return f"Moments(n={self.n}, d_w={d_w}, d_s={d_s}, {labels}{', centred' if self.shift is not None else ''})"

    def _product(self, pair: str) -> Any:
        second = getattr(self.sums.second, pair)
        if second is None or self.shift is None:
            return None if second is None else second / self.n
        left, right = (getattr(self.sums.first, side) / self.n for side in pair)
        return second / self.n - outer(left, right)

    def __add__(self, other: Moments) -> Moments:
        return self._merge(other, jnp.add)

    def __radd__(self, other: int) -> Moments:
        """For `sum`, which starts from 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __sub__(self, other: Moments) -> Moments:
        return self._merge(other, jnp.subtract)

    def _merge(self, other: Moments, operation: Callable[[Array, Array], Array]) -> Moments:
        if jax.tree.structure(self) != jax.tree.structure(other):
            raise InputError("moments can be merged only if both have labels or none, and both are centred or none")
        ours, theirs = jax.tree.map(jnp.shape, self.sums), jax.tree.map(jnp.shape, other.sums)
        if ours != theirs:
            raise InputError(f"moments can be merged only if their widths agree, got {ours.first} and {theirs.first}")
        return Moments(jax.tree.map(operation, self.sums, about(other, self.shift)), self.shift)


def moments(
    h_w: Float[ArrayLike, "n d_w"],
    h_s: Float[ArrayLike, "n d_s"],
    y: ArrayLike | None = None,
    *,
    weights: Float[ArrayLike, " n"] | None = None,
    center: bool = False,
    precision: str = "float32",
) -> Moments:
    """Second moments of a weak and a strong representation of the same rows.

    Args:
        h_w: weak representation (n, d_w), any real dtype; 16-bit floats accumulate in float32, integers convert.
        h_s: strong representation (n, d_s).
        y: labels (n,), or (n, c) for c outputs (classification: one-hot or +-1 targets).
        weights: weight of each row (n,); 0 leaves a row out (padding), default all 1.
        center: take moments about the mean (heads with an intercept), safely for any ratio of mean to spread.
        precision: of the products of features, for float32 sums: "float32", one of `supported_precisions` that splits every
            number into low-precision parts, or "fastest", the fastest of them within twice the error of "float32", which a
            GPU or TPU measures at the first call (`fastest_precision`). float64 sums are always at full precision, and so
            are products with labels.

    Raises:
        InputError: shapes that do not fit, a precision that the platform does not have, or (outside jit) NaN or infinite
            entries, named with the first row.

    Source: Xue et al. 2025, the kernels `K_w`, `K_s` on the student's examples, through their sufficient moments.
    """
    h_w, h_s = as_matrix("weak representations", h_w), as_matrix("strong representations", h_s)
    require_same_rows(h_w, h_s)
    y = None if y is None else as_labels("labels", y, h_w.shape[0])
    weights = None if weights is None else as_weights(weights, h_w.shape[0])
    rows = (h_w, h_s, y, weights)
    return _moments(rows, _shift_of(rows) if center else None, resolved(precision))


def moments_from_batches(
    batches: Iterable[tuple],
    *,
    center: bool = False,
    progress: bool | Callable[[Iterable], Iterable] = False,
    mesh: Mesh | None = None,
    precision: str = "float32",
) -> Moments:
    """Moments of any number of rows, in memory that does not grow with them.

    Args:
        batches: iterable of `(h_w, h_s)` or `(h_w, h_s, y)`; batches may differ in length (each new length compiles once).
        center: as in `moments`.
        progress: True for a progress bar, or a function that wraps the iterable (such as `tqdm.tqdm`).
        mesh: devices that share each batch's rows (see `device_mesh`); each adds up its own, the sums meet once, at the end.
        precision: as in `moments`.

    Raises:
        InputError: no batches, a batch that does not fit the first, with its number, a mesh without the axes of
            `device_mesh`, or a precision that the platform does not have.
    """
    require_mesh(mesh)
    precision = resolved(precision, None if mesh is None else mesh.devices.flat[0])
    start, accumulate, total = (
        (lambda zeros: zeros, partial(_accumulate, precision=precision), lambda sums: sums)
        if mesh is None
        else _over_rows(mesh, precision)
    )
    state: tuple[Sums, Sums] | None = None
    shift: Columns | None = None
    widths: Columns | None = None
    for number, batch in enumerate(track(batches, progress, "moments")):
        rows = _checked_batch(batch, number, widths)
        if state is None:
            shift = _shift_of(rows) if center else None
            shapes = jax.eval_shape(block_sums, rows, shift)
            widths = shapes.first
            zeros = lambda shapes=shapes: start(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))
            state = zeros(), zeros()
        state = accumulate(*state, rows, shift)
    if state is None:
        raise InputError("batches must hold at least one batch, got none")
    return Moments(total(state[0]), shift)


def _checked_batch(batch: tuple, number: int, first: Columns | None) -> tuple:
    try:
        h_w, h_s, y = batch if len(batch) == 3 else (*batch, None)
    except (TypeError, ValueError) as error:
        raise InputError(f"batch {number} must be (h_w, h_s) or (h_w, h_s, y), got {type(batch).__name__}") from error
    h_w = as_matrix(f"weak representations of batch {number}", from_host(h_w))
    h_s = as_matrix(f"strong representations of batch {number}", from_host(h_s))
    require_same_rows(h_w, h_s)
    y = None if y is None else as_labels(f"labels of batch {number}", y, h_w.shape[0])
    if first is not None:
        want = (first.w.shape, first.s.shape, None if first.y is None else first.y.shape)
        got = (h_w.shape[1:], h_s.shape[1:], None if y is None else y.shape[1:])
        if want != got:
            raise InputError(f"batch {number} must have widths (weak, strong, labels) {want} like batch 0, got {got}")
    return h_w, h_s, y, None


@partial(jax.jit, static_argnames="precision")
def _moments(rows: tuple, shift: Columns | None, precision: str = "float32") -> Moments:
    n = rows[0].shape[0]
    if n <= BLOCK_ROWS:
        return Moments(block_sums(rows, shift, precision), shift)

    def step(carry: tuple[Sums, Sums], start: Array) -> tuple[tuple[Sums, Sums], None]:
        block = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, BLOCK_ROWS), rows)
        return add_compensated(carry[0], carry[1], block_sums(block, shift, precision)), None

    full = n - n % BLOCK_ROWS
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(block_sums, rows, shift))
    carry, _ = jax.lax.scan(step, (zeros, zeros), jnp.arange(0, full, BLOCK_ROWS))
    if full < n:
        rest = jax.tree.map(lambda x: x[full:], rows)
        carry = add_compensated(carry[0], carry[1], block_sums(rest, shift, precision))
    return Moments(carry[0], shift)


@partial(jax.jit, donate_argnums=(0, 1), static_argnames="precision")
def _accumulate(
    total: Sums, lost: Sums, rows: tuple, shift: Columns | None, precision: str = "float32"
) -> tuple[Sums, Sums]:
    return add_compensated(total, lost, _moments(rows, shift, precision).sums)


@lru_cache
def _adder(mesh: Mesh, precision: str = "float32") -> Callable:
    """`_accumulate` on each device's own rows and sums (devices, ...): no communication."""
    every = P(mesh.axis_names)

    def local(total: Sums, lost: Sums, rows: tuple, shift: Columns | None) -> tuple[Sums, Sums]:
        total, lost = jax.tree.map(lambda x: x[0], (total, lost))
        return jax.tree.map(lambda x: x[None], add_compensated(total, lost, _moments(rows, shift, precision).sums))

    return jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=(every, every, every, P()), out_specs=every, check_vma=False),
        donate_argnums=(0, 1),
    )


def _over_rows(mesh: Mesh, precision: str = "float32") -> tuple[Callable, Callable, Callable]:
    """Zeros for each device, `_accumulate` with a batch's rows spread over all devices, and the devices' total."""
    every, add = P(mesh.axis_names), _adder(mesh, precision)

    def start(zeros: Sums) -> Sums:
        return jax.tree.map(lambda x: put(np.zeros((mesh.size, *x.shape), x.dtype), mesh, every), zeros)

    def accumulate(total: Sums, lost: Sums, rows: tuple, shift: Columns | None) -> tuple[Sums, Sums]:
        h_w, h_s, y, _ = rows
        n = h_w.shape[0]
        weights = jnp.ones(n, accumulation_dtype(h_w.dtype, h_s.dtype))
        fill = lambda x: jnp.pad(x, ((0, -n % mesh.size),) + ((0, 0),) * (x.ndim - 1))
        return add(total, lost, jax.tree.map(lambda x: put(fill(x), mesh, every), (h_w, h_s, y, weights)), shift)

    def together(sums: Sums) -> Sums:
        summed = jax.jit(lambda parts: jax.tree.map(lambda x: jnp.sum(x, 0), parts))(sums)
        return jax.device_put(summed, mesh.devices.flat[0])

    return start, accumulate, together


def add_compensated(total: Tree, lost: Tree, block: Tree) -> tuple[Tree, Tree]:
    """Kahan's summation, entry by entry: `lost` carries the rounding of the sums so far."""
    addend = jax.tree.map(jnp.subtract, block, lost)
    new = jax.tree.map(jnp.add, total, addend)
    lost = jax.tree.map(lambda new, old, x: (new - old) - x, new, total, addend)
    return new, lost


def block_sums(rows: tuple, shift: Columns | None, precision: str = "float32") -> Sums:
    """Sums about the shift over a block `(h_w, h_s, y or None, weights or None)`; unused ones cost nothing under jit."""
    h_w, h_s, y, weights = rows
    dtype = accumulation_dtype(*(x.dtype for x in rows if x is not None))
    w, s = h_w.astype(dtype), h_s.astype(dtype)
    t: Any = None if y is None else y.astype(dtype)
    if shift is not None:
        w, s, t = w - shift.w, s - shift.s, None if t is None else t - shift.y
    vw, vs, n = w, s, jnp.asarray(w.shape[0], dtype)
    vt: Any = t
    if weights is not None:
        column = weights.astype(dtype)[:, None]
        n, vw, vs = jnp.sum(column), w * column, s * column
        vt = None if t is None else t * column.reshape(-1, *(1,) * (t.ndim - 1))
    labels: Any = (None, None, None)
    if t is not None:
        labels = label_products(w, vt), label_products(s, vt), jnp.sum(t * vt, 0)
    first = Columns(vw.sum(0), vs.sum(0), None if vt is None else vt.sum(0))
    ww, ss = gram(w, vw, precision), gram(s, vs, precision)
    return Sums(n, first, Products(ww, ss, matmul(s.T, vw, precision), *labels))


def _shift_of(rows: tuple) -> Columns:
    """The first row: close enough to the mean that sums about it lose nothing, and known before the data is read."""
    dtype = accumulation_dtype(*(x.dtype for x in rows if x is not None))
    w, s, y = (None if x is None else jax.lax.stop_gradient(x[0].astype(dtype)) for x in rows[:3])
    return Columns(w, s, y)


def about(m: Moments, shift: Columns | None) -> Sums:
    """The sums of `m` about another point."""
    if shift is None or m.shift is None:
        return m.sums
    n, first, second = m.sums
    move = jax.tree.map(jnp.subtract, m.shift, shift)
    moved = jax.tree.map(lambda total, by: total + n * by, first, move)

    def product(left: str, right: str) -> Any:
        old = getattr(second, left + right)
        if old is None:
            return None
        a, b = getattr(move, left), getattr(move, right)
        return old + outer(a, getattr(first, right)) + outer(getattr(moved, left), b)

    yy = None if second.yy is None else second.yy + move.y * (first.y + moved.y)
    ww, ss, sw, wy, sy = (product(*pair) for pair in ("ww", "ss", "sw", "wy", "sy"))
    return Sums(n, moved, Products(ww, ss, sw, wy, sy, yy))


def merge_moments(m: Moments, hosts: Hosts) -> Moments:
    """Moments of the rows of all processes, from those of each one's own; every process calls this and has the result.

    `with connected_hosts() as hosts: merge_moments(moments_from_batches(own), hosts)`.

    Raises:
        InputError: a process has been lost.
    """
    if m.shift is None:
        return Moments(hosts.add(m.sums))
    # All about the shift of process 0: small, and then one sum.
    shift = hosts.add(m.shift if hosts.index == 0 else jax.tree.map(jnp.zeros_like, m.shift))
    return Moments(hosts.add(about(m, shift)), shift)
