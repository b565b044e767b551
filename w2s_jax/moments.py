"""Second moments of representations: the only code that sees the number of rows.

The atom is one model's own sums, of its rows and of their products with themselves and with labels (`ModelMoments`); a pair's
moments are two of them and the sums of strong times weak features (`Moments`). Everything in the package is a function of
these. Moments add, subtract, and stream over batches; sums over many rows are compensated, so 10^7 rows in float32 are as good
as a hundred. Centred moments are sums about a shift (the first row seen), never differences of large squares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax._core.arrays import (
    Precision,
    accumulation_dtype,
    as_labels,
    as_matrix,
    as_weights,
    entered,
    label_products,
    matmul,
    near,
    outer,
    require_same_rows,
    require_size,
    size_of,
)
from w2s_jax._core.checks import InputError, require_largest, require_squares
from w2s_jax._core.cpu import from_host, gram, host_zeros
from w2s_jax._core.progress import track
from w2s_jax.devices.hosts import Hosts
from w2s_jax.devices.mesh import put, require_mesh
from w2s_jax.devices.precision import resolved

BLOCK_ROWS = 8192
_NAMES = ("weak representations", "strong representations")
_LEAST_ROWS = 64  # that a shorter batch is filled up to
Tree = TypeVar("Tree")


class Sums(NamedTuple):
    """What adds up over the rows of one model: their number (or total weight) n, h (d,) and its products hh (d, d); with
    labels y () or (c,), hy (d,) or (d, c) and yy. The h and y are about a shift; several sets of rows may stand in front."""

    n: Any
    h: Any
    hh: Any
    y: Any = None
    hy: Any = None
    yy: Any = None


class Shift(NamedTuple):
    """The point that sums are taken about: features (d,), labels () or (c,)."""

    h: Any
    y: Any = None


class _Additive:
    """Sums over a set of rows: they add and subtract as the sets do."""

    @property
    def parts(self) -> tuple[Any, Any]:
        """All sums, and the shifts they are about or None."""
        raise NotImplementedError

    def about(self, shift: Any) -> Any:
        """The sums about another point."""
        raise NotImplementedError

    @classmethod
    def of(cls, sums: Any, shift: Any) -> Self:
        """The moments with these parts."""
        raise NotImplementedError

    def __add__(self, other: Self) -> Self:
        return self._merge(other, jnp.add)

    def __radd__(self, other: int) -> Any:
        """For `sum`, which starts from 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __sub__(self, other: Self) -> Self:
        return self._merge(other, jnp.subtract)

    def _merge(self, other: Self, operation: Callable[[Array, Array], Array]) -> Self:
        if jax.tree.structure(self) != jax.tree.structure(other):
            raise InputError("moments can be merged only if both have labels or none, and both are centred or none")
        ours, theirs = (jax.tree.map(jnp.shape, side.parts[0]) for side in (self, other))
        if ours != theirs:
            raise InputError(f"moments can be merged only if their widths agree, got {self} and {other}")
        sums, shift = self.parts
        return self.of(jax.tree.map(operation, sums, other.about(shift)), shift)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class ModelMoments(_Additive):
    """Second moments of one representation per row, and with labels of those; centred if they carry a shift.

    `m1 + m2` merges two disjoint sets of rows, `m - block` takes rows out again (they must have been in), `m.n` counts them.

    >>> m = model_moments([[1.0], [3.0]]) + model_moments([[2.0]])
    >>> m, m.mean.tolist(), float(m.n)
    (ModelMoments(n=3.0, d=1, no labels), [2.0], 3.0)
    """

    sums: Sums
    shift: Shift | None = None

    @property
    def n(self) -> Float[Array, ""]:
        """Number of rows (the total weight if weights were given)."""
        return self.sums.n

    @property
    def mean(self) -> Float[Array, " d"]:
        """Mean of each feature."""
        about = self.sums.h / self.n
        return about if self.shift is None else about + self.shift.h

    @property
    def label_mean(self) -> Array | None:
        """Mean of each output, () or (c,), None without labels."""
        if self.sums.y is None:
            return None
        about = self.sums.y / self.n
        return about if self.shift is None else about + self.shift.y

    @property
    def hh(self) -> Float[Array, "d d"]:
        """Second moment `H^T H / n`, of centred moments the covariance."""
        return _per_row(self.sums.hh, self.sums.h, self.sums.h, self.n, self.shift)

    @property
    def hy(self) -> Array | None:
        """Label moment `H^T y / n` (d,) or (d, c), None without labels."""
        return None if self.sums.hy is None else _per_row(self.sums.hy, self.sums.h, self.sums.y, self.n, self.shift)

    @property
    def yy(self) -> Array | None:
        """Mean square of each output, () or (c,), of centred moments the variance; None without labels."""
        if self.sums.yy is None or self.shift is None:
            return None if self.sums.yy is None else self.sums.yy / self.n
        return self.sums.yy / self.n - jnp.square(self.sums.y / self.n)

    @property
    def is_centred(self) -> bool:
        """Whether they are about the mean: those of heads with an intercept."""
        return self.shift is not None

    @property
    def parts(self) -> tuple[Sums, Shift | None]:
        return self.sums, self.shift

    @classmethod
    def of(cls, sums: Sums, shift: Shift | None) -> ModelMoments:
        return cls(sums, shift)

    def about(self, shift: Shift | None) -> Sums:
        """The sums about another point."""
        if shift is None or self.shift is None:
            return self.sums
        return moved(self.sums, jax.tree.map(jnp.subtract, shift, self.shift))

    def __repr__(self) -> str:
        if not hasattr(self.sums.hh, "shape"):
            return "ModelMoments(...)"
        return f"ModelMoments(n={self.n}, d={self.sums.hh.shape[-1]}, {_said(self)})"


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class Moments(_Additive):
    """Second moments of a weak/strong pair, per row: two models' own and their cross product; centred if they carry a shift.

    The properties `ww` (d_w, d_w), `ss` (d_s, d_s), `sw` (d_s, d_w), `wy` (d_w,) or (d_w, c), `sy`, `yy` are
    `H_w^T H_w / n` and so on (Xue et al. 2025, the kernels' sufficient statistics), `weak` and `strong` each side alone.
    `m1 + m2` merges two disjoint sets of rows, `m - block` takes rows out again (they must have been in), `m.n` counts them.

    >>> m = moments([[1.0], [3.0]], [[2.0, 0.0], [0.0, 2.0]], [1.0, -1.0])
    >>> m, m.ww.tolist(), m.sy.tolist()
    (Moments(n=2.0, d_w=1, d_s=2, labels), [[5.0]], [1.0, -1.0])
    """

    weak: ModelMoments
    strong: ModelMoments
    cross: Float[Array, "d_s d_w"]

    @property
    def n(self) -> Float[Array, ""]:
        """Number of rows (the total weight if weights were given)."""
        return self.strong.n

    @property
    def ww(self) -> Float[Array, "d_w d_w"]:
        """Weak second moment `H_w^T H_w / n`."""
        return self.weak.hh

    @property
    def ss(self) -> Float[Array, "d_s d_s"]:
        """Strong second moment `H_s^T H_s / n`."""
        return self.strong.hh

    @property
    def sw(self) -> Float[Array, "d_s d_w"]:
        """Cross moment `H_s^T H_w / n`."""
        return _per_row(self.cross, self.strong.sums.h, self.weak.sums.h, self.n, self.strong.shift)

    @property
    def wy(self) -> Array | None:
        """Weak-label moment `H_w^T y / n` (d_w,) or (d_w, c), None without labels."""
        return self.weak.hy

    @property
    def sy(self) -> Array | None:
        """Strong-label moment `H_s^T y / n` (d_s,) or (d_s, c), None without labels."""
        return self.strong.hy

    @property
    def yy(self) -> Array | None:
        """Mean square of each output, () or (c,), None without labels."""
        return self.strong.yy

    @property
    def is_centred(self) -> bool:
        """Whether they are about the mean: those of heads with an intercept."""
        return self.strong.is_centred

    @property
    def parts(self) -> tuple[Any, Any]:
        sums = self.weak.sums, self.strong.sums, self.cross
        return sums, (self.weak.shift, self.strong.shift) if self.is_centred else None

    @classmethod
    def of(cls, sums: Any, shift: Any) -> Moments:
        weak, strong, cross = sums
        shift_w, shift_s = shift or (None, None)
        return cls(ModelMoments(weak, shift_w), ModelMoments(strong, shift_s), cross)

    def about(self, shift: Any) -> Any:
        """The sums about another pair of points."""
        (weak, strong, cross), own = self.parts
        if shift is None or own is None:
            return weak, strong, cross
        by_w, by_s = jax.tree.map(jnp.subtract, shift, own)
        return moved(weak, by_w), moved(strong, by_s), moved_cross(cross, strong, weak, by_s.h, by_w.h)

    def __repr__(self) -> str:
        if not hasattr(self.cross, "shape"):
            return "Moments(...)"
        *_, d_s, d_w = self.cross.shape
        return f"Moments(n={self.n}, d_w={d_w}, d_s={d_s}, {_said(self.strong)})"


def _said(m: ModelMoments) -> str:
    labels = "no labels" if m.sums.yy is None else "labels"
    return labels if m.shift is None else f"{labels}, centred"


def _per_row(sums: Array, left: Array, right: Array, n: Array, shift: Any) -> Array:
    return sums / n if shift is None else sums / n - outer(left / n, right / n)


def model_moments(
    h: Float[ArrayLike, "n d"],
    y: ArrayLike | None = None,
    *,
    weights: Float[ArrayLike, " n"] | None = None,
    bias: bool = False,
    precision: Precision = "float32",
) -> ModelMoments:
    """Second moments of one representation, and of its labels; arguments and errors as in `moments`.

    >>> m = model_moments([[1.0, 0.0], [3.0, 0.0]], [1.0, 2.0], bias=True)
    >>> m.mean.tolist(), m.hh.tolist(), m.hy.tolist()
    ([2.0, 0.0], [[1.0, 0.0], [0.0, 0.0]], [0.5, 0.0])

    Source: Xue et al. 2025, the kernel on one split, through its sufficient moments.
    """
    h = as_matrix("representations", h)
    require_size("representations", h)
    y = None if y is None else as_labels("labels", y, h.shape[0])
    weights = None if weights is None else as_weights(weights, h.shape[0])
    rows = (h, y, weights)
    shift = _first_row(h, y, _dtype_of(rows)) if bias else None
    sums = model_sums(rows, shift, resolved(precision))
    _require_squares("representations", sums)
    return ModelMoments(sums, shift)


def moments(
    h_w: Float[ArrayLike, "n d_w"],
    h_s: Float[ArrayLike, "n d_s"],
    y: ArrayLike | None = None,
    *,
    weights: Float[ArrayLike, " n"] | None = None,
    bias: bool = False,
    precision: Precision = "float32",
) -> Moments:
    """Second moments of a weak and a strong representation of the same rows.

    Args:
        h_w: weak representation (n, d_w), any real dtype; 16-bit floats accumulate in float32, integers convert.
        h_s: strong representation (n, d_s).
        y: labels (n,), or (n, c) for c outputs (classification: one-hot or +-1 targets).
        weights: weight of each row (n,); 0 leaves a row out (padding), default all 1.
        bias: heads have an intercept: moments are taken about the mean, safely for any ratio of mean to spread.
        precision: of the products of features, for float32 sums: "float32", one of `devices.supported_precisions` that
            splits every number into low-precision parts, or "fastest": the fastest of them within twice the error of
            "float32", measured at the first call. float64 sums are always at full precision, and so are products with labels.

    Raises:
        InputError: shapes that do not fit, a precision that the platform does not have, or (outside jit) NaN or infinite
            entries, named with the first row, or such that are too small or too large to be squared.

    >>> moments([[1.0], [3.0]], [[2.0, 0.0], [0.0, 2.0]], bias=True).sw.tolist()
    [[-1.0], [1.0]]

    Source: Xue et al. 2025, the kernels `K_w`, `K_s` on the student's examples, through their sufficient moments.
    """
    h_w, h_s = as_matrix("weak representations", h_w), as_matrix("strong representations", h_s)
    require_same_rows(h_w, h_s)
    for name, h in zip(_NAMES, (h_w, h_s), strict=True):
        require_size(name, h)
    y = None if y is None else as_labels("labels", y, h_w.shape[0])
    weights = None if weights is None else as_weights(weights, h_w.shape[0])
    rows = (h_w, h_s, y, weights)
    shift = _first_rows(rows) if bias else None
    sums = pair_sums(rows, shift, resolved(precision))
    for name, own in zip(_NAMES, sums[:2], strict=True):
        _require_squares(name, own)
    return Moments.of(sums, shift)


def moments_from_batches(
    batches: Iterable[tuple],
    *,
    bias: bool = False,
    progress: bool | Callable[[Iterable], Iterable] = False,
    mesh: Mesh | None = None,
    precision: Precision = "float32",
) -> Moments:
    """Moments of any number of rows, in memory that does not grow with them.

    Args:
        batches: iterable of `(h_w, h_s)` or `(h_w, h_s, y)`; batches may differ in length. Those not as long as the first are
            filled up to it or to a power of two, so that few programs are compiled.
        bias: as in `moments`.
        progress: True for a progress bar, or a function that wraps the iterable (such as `tqdm.tqdm`).
        mesh: devices that share each batch's rows (see `devices.device_mesh`); each adds up its own, the sums meet once, at the
            end.
        precision: as in `moments`.

    Raises:
        InputError: no batches, a batch that does not fit the first, with its number, a mesh without the axes of
            `device_mesh`, a precision that the platform does not have, or representations that are too small or too large
            to be squared in all batches.

    >>> import numpy as np
    >>> h = np.arange(12.0).reshape(6, 2)
    >>> m = moments_from_batches((h[i : i + 2], h[i : i + 2, :1]) for i in range(0, 6, 2))
    >>> m, bool(np.allclose(m.ww, h.T @ h / 6))
    (Moments(n=6.0, d_w=2, d_s=1, no labels), True)
    """
    require_mesh(mesh)
    chosen = resolved(precision, None if mesh is None else mesh.devices.flat[0])
    start, accumulate, total = (
        (lambda zeros: zeros, partial(_accumulate, precision=chosen), lambda sums: sums)
        if mesh is None
        else _over_rows(mesh, chosen)
    )
    state: tuple[Any, Any] | None = None
    shift: Any = None
    widths: tuple | None = None
    length, sizes = 0, (0.0, 0.0)
    for number, batch in enumerate(track(batches, progress, "moments")):
        rows = _checked_batch(batch, number, widths, length)
        sizes = tuple(map(_larger, sizes, rows))
        if state is None:
            widths, length = _widths(rows), len(rows[0])
            shift = _first_rows(rows) if bias else None
            shapes = jax.eval_shape(_block_of_pair, rows, shift)
            zeros = lambda shapes=shapes: start(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))
            state = zeros(), zeros()
        state = accumulate(*state, rows, shift)
    if state is None:
        raise InputError("batches must hold at least one batch, got none")
    sums = total(state[0])
    for name, size, own in zip(_NAMES, sizes, sums[:2], strict=True):
        require_largest(name, size, own.hh.dtype)
        _require_squares(name, own)
    return Moments.of(sums, shift)


def merge_moments(m: Tree, hosts: Hosts) -> Tree:
    """Moments of the rows of all processes, from those of each one's own; every process calls this and has the result.

    `with connected_hosts() as hosts: merge_moments(moments_from_batches(own), hosts)`; `Moments` or `ModelMoments`.

    Raises:
        InputError: a process has been lost.

    >>> merge_moments(model_moments([[1.0], [3.0]]), Hosts())  # alone
    ModelMoments(n=2.0, d=1, no labels)
    """
    if not isinstance(m, _Additive):
        raise InputError(f"m must be Moments or ModelMoments, got {type(m).__name__}")
    sums, shift = m.parts
    if shift is None:
        return m.of(hosts.add(sums), None)
    # All about the shift of process 0: small, and then one sum.
    shift = hosts.add(shift if hosts.index == 0 else jax.tree.map(jnp.zeros_like, shift))
    return m.of(hosts.add(m.about(shift)), shift)


def block_sums(
    h: Array,
    y: Array | None = None,
    weights: Array | None = None,
    shift: Shift | None = None,
    precision: str = "float32",
    dtype: Any = None,
) -> Sums:
    """Sums over a block of rows about a shift; what is not used of them costs nothing under jit."""
    dtype = _dtype_of((h, y, weights)) if dtype is None else dtype
    x, t = _about(h, shift and shift.h, dtype), _about(y, shift and shift.y, dtype)
    vx, vt, n = x, t, jnp.asarray(x.shape[0], dtype)
    if weights is not None:
        column = weights.astype(dtype)[:, None]
        n, vx = jnp.sum(column), x * column
        vt = None if t is None else t * column.reshape(-1, *(1,) * (t.ndim - 1))
    sums = Sums(n, vx.sum(0), gram(x, vx, precision))
    if t is None or vt is None:
        return sums
    return sums._replace(y=vt.sum(0), hy=label_products(x, vt), yy=jnp.sum(t * vt, 0))


def moved(sums: Sums, by: Shift) -> Sums:
    """The sums of rows about an origin that moves by so much, None where it stays."""
    if by.h is not None:
        n, h, hh, y, hy, _ = sums
        to = h - n * by.h
        hy = None if hy is None else hy - outer(by.h, y)
        sums = sums._replace(h=to, hh=hh - outer(by.h, h) - outer(to, by.h), hy=hy)
    if by.y is not None and sums.y is not None:
        n, h, _, y, hy, yy = sums
        to = y - n * by.y
        sums = sums._replace(y=to, hy=hy - outer(h, by.y), yy=yy - by.y * (y + to))
    return sums


def moved_cross(cross: Array, strong: Sums, weak: Sums, by_s: Array | None, by_w: Array | None) -> Array:
    """Sums of products of two models (d_s, d_w) about origins that move by so much; `strong`, `weak` are about the old ones."""
    h_s = strong.h
    if by_s is not None:
        cross, h_s = cross - outer(by_s, weak.h), h_s - strong.n * by_s
    return cross if by_w is None else cross - outer(h_s, by_w)


def add_compensated(total: Tree, lost: Tree, block: Tree) -> tuple[Tree, Tree]:
    """Kahan's summation, entry by entry: `lost` carries the rounding of the sums so far."""
    addend = jax.tree.map(jnp.subtract, block, lost)
    new = jax.tree.map(jnp.add, total, addend)
    lost = jax.tree.map(lambda new, old, x: (new - old) - x, new, total, addend)
    return new, lost


def _about(x: Array | None, origin: Array | None, dtype: Any) -> Any:
    x = None if x is None else x.astype(dtype)
    return x if x is None or origin is None else x - origin


def _larger(size: float, h: Array) -> float:
    """The largest entry so far; what follows one that is large enough is not looked at."""
    return size if size >= 1e-3 else max(size, size_of(h))


def _require_squares(name: str, sums: Sums) -> None:
    """Raises InputError if a model's sums overflow; tracers pass."""
    if not isinstance(sums.hh, Tracer) and sums.hh.is_fully_addressable:
        require_squares(name, near(sums.hh).diagonal())


def _dtype_of(rows: tuple) -> jnp.dtype:
    return accumulation_dtype(*(x.dtype for x in rows if x is not None))


def _first_row(h: Array, y: Array | None, dtype: Any) -> Shift:
    """Close enough to the mean that sums about it lose nothing, and known before the data is read."""
    first = lambda x: None if x is None else jax.lax.stop_gradient(x[0].astype(dtype))
    return Shift(first(h), first(y))


def _first_rows(rows: tuple) -> tuple[Shift, Shift]:
    """The shifts of the weak and of the strong side."""
    h_w, h_s, y, _ = rows
    return _first_row(h_w, y, _dtype_of(rows)), _first_row(h_s, y, _dtype_of(rows))


def _widths(rows: tuple) -> tuple:
    return tuple(None if x is None else x.shape[1:] for x in rows[:3])


def _checked_batch(batch: tuple, number: int, first: tuple | None, length: int) -> tuple:
    try:
        h_w, h_s, y = batch if len(batch) == 3 else (*batch, None)
    except (TypeError, ValueError) as error:
        raise InputError(f"batch {number} must be (h_w, h_s) or (h_w, h_s, y), got {type(batch).__name__}") from error
    names = [f"{what} of batch {number}" for what in ("weak representations", "strong representations", "labels")]
    given = [None if x is None else entered(name, x) for name, x in zip(names, (h_w, h_s, y), strict=True)]
    (h_w, h_s, y), weights = _filled_up(given, length)
    h_w, h_s = as_matrix(names[0], from_host(h_w)), as_matrix(names[1], from_host(h_s))
    require_same_rows(h_w, h_s)
    rows = h_w, h_s, None if y is None else as_labels(names[2], y, h_w.shape[0]), weights
    if first is not None and first != _widths(rows):
        raise InputError(
            f"batch {number} must have widths (weak, strong, labels) {first} like batch 0, got {_widths(rows)}"
        )
    return rows


def _filled_up(arrays: list, first: int) -> tuple[list, np.ndarray | None]:
    """A batch's arrays with rows of zeros behind them, up to the first batch's length or a power of two, and the weights that
    leave those rows out. On the host, as on a device each length would take a program; the first batch, what has its length,
    what is traced and what does not fit stay as they are."""
    there = [x for x in arrays if x is not None]
    lengths = {x.shape[0] if x.ndim else 0 for x in there}
    n = max(lengths)
    if not first or lengths in ({first}, {0}) or len(lengths) > 1 or any(isinstance(x, Tracer) for x in there):
        return arrays, None
    length = max(_LEAST_ROWS, 1 << (n - 1).bit_length())
    length = min(length, first) if n < first else length

    def fill(x: Any) -> Any:
        found = host_zeros((length, *x.shape[1:]), x.dtype)
        found[:n] = x
        return found

    return [None if x is None else fill(x) for x in arrays], (np.arange(length) < n).astype(np.float32)


def _block_of_pair(rows: tuple, shift: Any, precision: str = "float32") -> tuple[Sums, Sums, Array]:
    h_w, h_s, y, weights = rows
    dtype = _dtype_of(rows)
    shift_w, shift_s = shift or (None, None)
    weak = block_sums(h_w, y, weights, shift_w, precision, dtype)
    strong = block_sums(h_s, y, weights, shift_s, precision, dtype)
    w, s = _about(h_w, shift_w and shift_w.h, dtype), _about(h_s, shift_s and shift_s.h, dtype)
    w = w if weights is None else w * weights.astype(dtype)[:, None]
    return weak, strong, matmul(s.T, w, precision)


def _over_blocks(function: Callable[[tuple], Tree], rows: tuple) -> Tree:
    """Compensated sum of a function over blocks of rows."""
    n = rows[0].shape[0]
    if n <= BLOCK_ROWS:
        return function(rows)

    def step(carry: tuple[Tree, Tree], start: Array) -> tuple[tuple[Tree, Tree], None]:
        block = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, BLOCK_ROWS), rows)
        return add_compensated(*carry, function(block)), None

    full = n - n % BLOCK_ROWS
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, rows))
    carry, _ = jax.lax.scan(step, (zeros, zeros), jnp.arange(0, full, BLOCK_ROWS))
    if full < n:
        carry = add_compensated(*carry, function(jax.tree.map(lambda x: x[full:], rows)))
    return carry[0]


@partial(jax.jit, static_argnames="precision")
def model_sums(rows: tuple, shift: Shift | None, precision: str) -> Sums:
    return _over_blocks(lambda rows: block_sums(*rows, shift=shift, precision=precision), rows)


@partial(jax.jit, static_argnames="precision")
def pair_sums(rows: tuple, shift: Any, precision: str = "float32") -> tuple[Sums, Sums, Array]:
    return _over_blocks(lambda rows: _block_of_pair(rows, shift, precision), rows)


@partial(jax.jit, donate_argnums=(0, 1), static_argnames="precision")
def _accumulate(total: Tree, lost: Tree, rows: tuple, shift: Any, precision: str = "float32") -> tuple[Tree, Tree]:
    return add_compensated(total, lost, pair_sums(rows, shift, precision))


@lru_cache
def _adder(mesh: Mesh, precision: str = "float32") -> Callable:
    """`_accumulate` on each device's own rows and sums (devices, ...): no communication."""
    every = P(mesh.axis_names)

    def local(total: Any, lost: Any, rows: tuple, shift: Any) -> Any:
        total, lost = jax.tree.map(lambda x: x[0], (total, lost))
        return jax.tree.map(lambda x: x[None], add_compensated(total, lost, pair_sums(rows, shift, precision)))

    return jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=(every, every, every, P()), out_specs=every, check_vma=False),
        donate_argnums=(0, 1),
    )


def _over_rows(mesh: Mesh, precision: str = "float32") -> tuple[Callable, Callable, Callable]:
    """Zeros for each device, `_accumulate` with a batch's rows spread over all devices, and the devices' total."""
    every, add = P(mesh.axis_names), _adder(mesh, precision)

    def start(zeros: Any) -> Any:
        return jax.tree.map(lambda x: put(np.zeros((mesh.size, *x.shape), x.dtype), mesh, every), zeros)

    def accumulate(total: Any, lost: Any, rows: tuple, shift: Any) -> Any:
        h_w, h_s, y, weights = rows
        n = h_w.shape[0]
        weights = jnp.asarray(np.ones(n) if weights is None else weights, accumulation_dtype(h_w.dtype, h_s.dtype))
        fill = lambda x: jnp.pad(x, ((0, -n % mesh.size),) + ((0, 0),) * (x.ndim - 1))
        return add(total, lost, jax.tree.map(lambda x: put(fill(x), mesh, every), (h_w, h_s, y, weights)), shift)

    def together(sums: Any) -> Any:
        summed = jax.jit(lambda parts: jax.tree.map(lambda x: jnp.sum(x, 0), parts))(sums)
        return jax.device_put(summed, mesh.devices.flat[0])

    return start, accumulate, together
