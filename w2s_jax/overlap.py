"""The overlap of a weak and a strong representation: `C = U_s^T U_w`, eigenvalues, and label coefficients.

Everything about a pair is a function of this object (gap.py); it depends on no ridge strength, threshold or filter.
It comes from moments (d x d), from kernels (n x n), or from the arrays, whichever side is smaller for each model; for
all eigenpairs or, where a cut is known beforehand, for the leading ones.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax._core.arrays import (
    accumulation_dtype,
    as_labels,
    as_matrix,
    matmul,
    near,
    outer,
    require_same_rows,
    require_size,
)
from w2s_jax._core.checks import InputError, require_squares
from w2s_jax._core.factor import numerically_zero, reflection, zeroed
from w2s_jax._core.normalize import participation_ratio
from w2s_jax._core.response import OnNonzero, apply_response, in_units
from w2s_jax.moments import ModelMoments, Moments, Shift, model_sums, moments, pair_sums
from w2s_jax.spectrum import Spectrum, checked_rank, is_large, spectrum, spectrum_of_moment, spectrum_of_rows

FEW = 2.0  # directions that hold nearly all: then it is looked whether the others are lost
LOST = 0.1  # of an eigenvalue: what is off by more is lost
LARGE_MEAN = 30.0  # times the variance: mean squares from which it is looked whether moments about zero have lost it
WIDEST = 2048  # features: of more it takes too long
LOOKED_AT = 1 << 26  # entries: larger representations are not

Ranks = tuple[int | None, int | None]  # of the weak and the strong side; None: all


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Side:
    """One model's spectrum within an overlap: `values` (k,) descending, `coupling` (k, k) zero, `n`, `rest` (see spectrum.py)."""

    values: Float[Array, " k"]
    coupling: Float[Array, "k k"]
    n: Array
    rest: Float[Array, " r"] | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Overlap:
    """All that a weak and a strong representation of the same n rows have in common.

    `C` (k_s, k_w) is `U_s^T U_w`, entries in [-1, 1]; `a_w = U_w^T y / sqrt(n)` (k_w,) or (k_w, c), `a_s` likewise,
    `energy` = mean square of each output, () or (c,); the three are None without labels. `weak`, `strong` hold the
    eigenvalues of `K/n`. Directions whose eigenvalue is numerically zero have zero rows or columns, or no filter keeps them.

    >>> o = overlap([[1.0], [0.0]], [[1.0, 0.0], [0.0, 2.0]], [3.0, 1.0])
    >>> o, o.strong.values.tolist(), float(o.energy)
    (Overlap(k_s=2, k_w=1, labels (1)), [2.0, 0.5], 5.0)
    """

    weak: Side
    strong: Side
    C: Float[Array, "k_s k_w"]
    a_w: Array | None = None
    a_s: Array | None = None
    energy: Array | None = None

    def __repr__(self) -> str:
        if not hasattr(self.C, "shape"):
            return "Overlap(...)"
        labels = "no labels" if self.a_s is None else f"labels {self.a_s.shape[1:] or '(1)'}"
        return f"Overlap(k_s={self.C.shape[0]}, k_w={self.C.shape[1]}, {labels})"


class _Basis(NamedTuple):
    """An orthonormal basis U (n, k) of a representation: `columns V lambda^{-1/2} / sqrt(n)`, or the columns themselves."""

    columns: Array
    spectrum: Spectrum
    is_orthonormal: bool


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _InverseRoot(OnNonzero):
    """`lambda^{-1/2}` on eigenvalues that are not numerically zero."""

    def curve(self, values: Array, n: Array):
        return lambda mu: jax.lax.rsqrt(jnp.where(mu > 0, mu, 1))


def overlap(
    h_w: Float[ArrayLike, "n d_w"],
    h_s: Float[ArrayLike, "n d_s"],
    y: ArrayLike | None = None,
    *,
    bias: bool = False,
    rank: int | tuple[int, int] | None = None,
) -> Overlap:
    """The overlap of two representations, each through its d x d or its n x n side, whichever is smaller.

    Args:
        h_w, h_s: representations (n, d_w), (n, d_s) of the same rows.
        y: labels (n,) or (n, c).
        bias: heads have an intercept: columns are taken about their means.
        rank: only the leading eigenpairs, so many of each side or (weak, strong); None: all. Much faster where d is large.
            Then filters must cut within them: one that might keep more is an InputError, and NaN under jit.

    Small features beside massive ones and beside a large mean are right in float32 too: means are added last, and what one
    eigensolve does not tell from rounding has another. Still lost are those beside one row of 1e5 or, with fewer rows than
    features or with `rank`, beside a massive channel: a warning counts them, outside jit and of up to 6e7 entries.

    Raises:
        InputError: shapes that do not fit, a representation of zeros, NaN or infinite entries, such that are too small or too
            large to be squared, or a bad rank.

    >>> o = overlap([[1.0], [1.0]], [[1.0, 0.0], [0.0, 2.0]])
    >>> o, [f"{abs(x):.4f}" for x in o.C[:, 0]]
    (Overlap(k_s=2, k_w=1, no labels), ['0.7071', '0.7071'])

    Source: Xue et al. 2025; `C = L_s^{-1/2} V_s^T (H_s^T H_w / n) V_w L_w^{-1/2}`.
    """
    h_w, h_s, y = checked_pair(h_w, h_s, y)
    if rank is not None or max(h_w.shape[1], h_s.shape[1]) > h_w.shape[0]:
        found = overlap_and_basis(h_w, h_s, y, bias, checked_ranks(rank))[0]
    else:
        found = _overlap_of_rows(h_w, h_s, y, bias)
    for name, h, side in (("weak", h_w, found.weak), ("strong", h_s, found.strong)):
        require_squares(f"{name} representations", side.values)
        warn_of_lost_directions(f"{name} representations", h, side, bias)
    return found


def overlap_from_moments(m: Moments, *, rank: int | tuple[int, int] | None = None) -> Overlap:
    """The overlap from second moments alone (two eigensolves of size d_w and d_s); centred if the moments are.

    Args:
        m: second moments of the pair.
        rank: only the leading eigenpairs, as in `overlap`.

    Precision: the moments square the condition number; in float32 directions below about 1e-4 of the leading
    eigenvalue are known to two or three digits. Small features beside massive ones are known as well as these; a spread that
    moments lost beside a mean that is large in all features is gone, and a warning says so outside jit.

    Raises:
        InputError: a rank that is not a positive integer or two of them.

    >>> overlap_from_moments(moments([[1.0], [1.0]], [[1.0, 0.0], [0.0, 2.0]]), rank=1)
    Overlap(k_s=1, k_w=1, no labels)

    Source: Xue et al. 2025; `C = L_s^{-1/2} V_s^T (H_s^T H_w / n) V_w L_w^{-1/2}`, `a = L^{-1/2} V^T (H^T y / n)`.
    """
    found = _overlap_from_moments(m, checked_ranks(rank))
    for name, own, side in (("weak", m.weak, found.weak), ("strong", m.strong, found.strong)):
        _warn_of_lost_spread(name, own, side)
    return found


def overlap_of_prepared(m: Moments) -> Overlap:
    """As `overlap_from_moments`, of sums that have been moved, scaled or turned: their rounding is the largest feature's."""
    return _overlap_of_spectra(m, spectrum(m.ww, m.n), spectrum(m.ss, m.n))


@partial(jax.jit, static_argnames="ranks")
def _overlap_from_moments(m: Moments, ranks: Ranks) -> Overlap:
    return _overlap_about(m if m.is_centred else _about_means(m), ranks, about_zero=not m.is_centred)


def _about_means(m: Moments) -> Moments:
    """Moments about zero as sums about zero of which means are taken off."""
    origin = lambda sums: Shift(jnp.zeros_like(sums.h), None if sums.y is None else jnp.zeros_like(sums.y))
    return Moments.of(m.parts[0], (origin(m.weak.sums), origin(m.strong.sums)))


def _overlap_about(m: Moments, ranks: Ranks, about_zero: bool) -> Overlap:
    """Of centred moments, or of those about zero that they stand for: what means add is added last, in eigenbases, where a large
    one takes no digits from the rest."""
    spectra = [_spectrum_of(own, about_zero, rank) for own, rank in zip((m.weak, m.strong), ranks, strict=True)]
    return _overlap_of_spectra(m, *spectra, about_zero=about_zero)


def _spectrum_of(own: ModelMoments, about_zero: bool, rank: int | None = None) -> Spectrum:
    mean = own.mean if about_zero else None
    if rank is not None:
        return spectrum(own.hh if mean is None else own.hh + outer(mean, mean), own.n, rank=rank)
    return spectrum_of_moment(own.hh, own.n, jnp.diagonal(own.sums.hh) / own.n, mean)


def _overlap_of_spectra(m: Moments, weak: Spectrum, strong: Spectrum, about_zero: bool = False) -> Overlap:
    cross = matmul(matmul(strong.vectors.T, m.sw), weak.vectors)
    project = lambda x_w, x_s: (matmul(weak.vectors.T, x_w), matmul(strong.vectors.T, x_s))
    wy, sy, yy = None, None, m.yy
    if m.wy is not None and m.sy is not None:
        wy, sy = project(m.wy, m.sy)
    if about_zero:
        mean_w, mean_s = project(m.weak.mean, m.strong.mean)
        cross += outer(mean_s, mean_w)
        if (mean := m.strong.label_mean) is not None and not (wy is None or sy is None or yy is None):
            wy, sy, yy = wy + outer(mean_w, mean), sy + outer(mean_s, mean), yy + mean * mean
    return _whitened(_side(weak), _side(strong), cross, wy, sy, yy)


def whitened(
    weak: Side,
    strong: Side,
    cross: Float[Array, "k_s k_w"],
    wy: Array | None = None,
    sy: Array | None = None,
    yy: Array | None = None,
) -> Overlap:
    """The overlap from moments that are already expressed in the two eigenbases: `C = L_s^{-1/2} cross L_w^{-1/2}`."""
    weak, strong = (replace(x, values=zeroed(x.values, x.values <= numerically_zero(x.values))) for x in (weak, strong))
    return _whitened(weak, strong, cross, wy, sy, yy)


def _whitened(
    weak: Side, strong: Side, cross: Array, wy: Array | None = None, sy: Array | None = None, yy: Array | None = None
) -> Overlap:
    """Of sides in which what is rounding is exactly 0."""
    C = whiten(strong, whiten(weak, cross.T).T)
    if wy is None or sy is None:
        return Overlap(weak, strong, C)
    a_w, a_s = (whiten(side, _two_dim(y)).reshape(y.shape) for side, y in ((weak, wy), (strong, sy)))
    return Overlap(weak, strong, C, a_w, a_s, yy)


def overlap_from_kernels(
    K_w: Float[ArrayLike, "n n"],
    K_s: Float[ArrayLike, "n n"],
    y: ArrayLike | None = None,
    *,
    rank: int | tuple[int, int] | None = None,
) -> Overlap:
    """The overlap of any two positive semidefinite kernels (n, n) of the same n rows: linear, NTK, RBF.

    Args:
        K_w, K_s: kernels (n, n), not divided by n.
        y: labels (n,) or (n, c).
        rank: only the leading eigenpairs, as in `overlap`. Negative eigenvalues are then noticed only where they take more
            off the trace than all but the leading ones add to it.

    Raises:
        InputError: not square, sizes that differ, labels that do not fit, NaN or infinite entries, a bad rank, and (outside
            jit) a kernel that is not symmetric or has negative eigenvalues, both to 1%.

    >>> h = jnp.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    >>> overlap_from_kernels(jnp.exp(h @ h.T), h @ h.T)
    Overlap(k_s=3, k_w=3, no labels)

    Source: Xue et al. 2025; `C = U_s^T U_w`, `a = U^T y / sqrt(n)`, of `K / n = U diag(lambda) U^T`.
    """
    K_w, K_s = as_matrix("weak kernel", K_w), as_matrix("strong kernel", K_s)
    for name, K in (("weak", K_w), ("strong", K_s)):
        if K.shape[0] != K.shape[1]:
            raise InputError(f"{name} kernel must be square (n, n), got shape {K.shape}")
    require_same_rows(K_w, K_s)
    y = None if y is None else as_labels("labels", y, K_w.shape[0])
    result = _overlap_of_kernels(K_w, K_s, y, checked_ranks(rank))
    for name, K, side in (("weak", K_w, result.weak), ("strong", K_s, result.strong)):
        if not any(isinstance(x, Tracer) for x in (K, side.values)):
            _require_positive(name, K, side)
    return result


def _require_positive(name: str, K: Array, side: Side) -> None:
    """Raises InputError for an asymmetric kernel, or one with more trace in its eigenvalues, clipped at 0, than it has."""
    K = K.astype(side.values.dtype) / side.n
    if float(jnp.max(jnp.abs(K - K.T))) > 1e-2 * float(jnp.max(jnp.abs(K))):
        raise InputError(f"{name} kernel must be symmetric, got entries that differ from their mirror image by over 1%")
    clipped = float(jnp.sum(side.values) - jnp.trace(K))
    if clipped > 1e-2 * float(jnp.sum(side.values)):
        raise InputError(f"{name} kernel must be positive semidefinite, got negative eigenvalues")


def checked_pair(h_w: ArrayLike, h_s: ArrayLike, y: ArrayLike | None) -> tuple[Array, Array, Array | None]:
    """Representations and labels as arrays, checked; raises InputError as `overlap` does."""
    h_w, h_s = representation("weak representations", h_w), representation("strong representations", h_s)
    require_same_rows(h_w, h_s)
    return h_w, h_s, None if y is None else as_labels("labels", y, h_w.shape[0])


def representation(name: str, h: ArrayLike) -> Array:
    """A representation as a checked array (n, d); raises InputError also if it is zero in every entry, or too small to be
    squared."""
    h = as_matrix(name, h)
    require_size(name, h)
    # The first row answers for nearly every representation.
    if not isinstance(h, Tracer) and not (jnp.any(h[0]) or jnp.any(h)):
        raise InputError(f"{name} are zero in every entry, expected at least one nonzero")
    return h


def warn_of_lost_directions(name: str, h: Array, side: Side, bias: bool) -> None:
    """Warns if float32 has lost directions beside one that holds nearly all: where that may be, by float64 on the host."""
    if isinstance(h, Tracer) or isinstance(side.values, Tracer) or not h.is_fully_addressable:
        return
    values = np.asarray(side.values)
    told = values[-1] > numerically_zero(values)[0] or participation_ratio(values) > FEW
    if told or values.dtype != np.float32 or h.size > LOOKED_AT:
        return
    rows = np.asarray(h, np.float64)
    rows = rows - rows.mean(0) if bias else rows
    products = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    true = np.linalg.eigvalsh(products / len(rows))[::-1][: len(values)]
    # Below that they are what rows of float32 are rounded by.
    real = true > 10 * np.finfo(np.float32).eps ** 2 * true[0]
    lost = int(np.sum(real & (np.abs(values - true) > LOST * true)))
    if lost:
        cure = "" if side.rest is None else "leave rank out, or "
        warnings.warn(
            f"{name}: {lost} of {int(real.sum())} directions are lost in float32 beside one that holds "
            f"{true[0] / true.sum():.2%} of the mean square: {cure}compute in float64 (jax_enable_x64)",
            stacklevel=3,
        )


def _warn_of_lost_spread(name: str, own: ModelMoments, side: Side) -> None:
    """Warns if moments that are not centred hold means so large that their rounding hides what is spread about them."""
    leaves = own.sums.hh, own.sums.h, side.values
    if any(isinstance(x, Tracer) or not x.is_fully_addressable for x in leaves) or own.is_centred:
        return
    mean, hh = np.asarray(own.sums.h, np.float64) / float(own.n), near(own.sums.hh)
    squares = hh.diagonal().astype(np.float64) / float(own.n)
    unit = numerically_zero(np.ones_like(side.values, shape=len(mean)))[0]
    live = squares > 0
    suspect = _all_values(side)[: live.sum()].min() < 10 * unit * squares.max()
    if suspect and np.sum(squares) > LARGE_MEAN * np.sum(squares - mean * mean) and len(mean) <= WIDEST:
        spread = hh.astype(np.float64) / float(own.n) - np.outer(mean, mean)
        rounding = np.sqrt(unit * squares[live])
        spread = spread[np.ix_(live, live)] / np.outer(rounding, rounding)
        # Fewer rows leave directions empty, and one direction may be the mean's own.
        hidden = int(np.sum(np.linalg.eigvalsh(spread) < 10)) - max(len(spread) - int(own.n) + 1, 0) - 1
        if hidden > 0:
            warnings.warn(
                f"{name} moments: what is spread about a mean of norm {np.linalg.norm(mean):,.4g} is lost in "
                f"{side.values.dtype}: take moments with bias=True, or float64 (jax_enable_x64)",
                stacklevel=3,
            )


def _all_values(side: Side) -> np.ndarray:
    """Eigenvalues, and stand-ins for those that were not computed, where no program is needed to look at them."""
    return np.concatenate([np.asarray(x) for x in (side.values, side.rest) if x is not None])


def principal_basis(h: Float[Array, "n d"], bias: bool = False, rank: int | None = None) -> tuple[Array, Side]:
    """Orthonormal basis U (n, k) of a representation's principal directions, and their spectrum."""
    columns, side = _principal_basis(h, bias, rank)
    require_squares("representations", side.values)
    return columns, side


@partial(jax.jit, static_argnames=("bias", "rank"))
def _principal_basis(h: Array, bias: bool, rank: int | None) -> tuple[Array, Side]:
    basis = _data_basis(centered(h) if bias else h, rank)
    return _times_basis(basis.columns, basis), _side(basis.spectrum)


@partial(jax.jit, static_argnames=("bias", "ranks"))
def overlap_and_basis(
    h_w: Array, h_s: Array, y: Array | None, bias: bool, ranks: Ranks = (None, None)
) -> tuple[Overlap, Array]:
    """The overlap of two checked arrays, and the strong basis U_s (n, k_s) in which it is expressed."""
    if bias:
        h_w, h_s, y = centered(h_w), centered(h_s), None if y is None else centered(y)
    weak, strong = _data_basis(h_w, ranks[0]), _data_basis(h_s, ranks[1])
    return _overlap_of_bases(weak, strong, y), _times_basis(strong.columns, strong)


@partial(jax.jit, static_argnames="bias")
def _overlap_of_rows(h_w: Array, h_s: Array, y: Array | None, bias: bool) -> Overlap:
    # The barrier keeps products and eigensolves from running side by side, where they slow each other down.
    if bias:
        m = moments(h_w, h_s, y, bias=True)
    else:
        shift = tuple(_near(h, y) for h in (h_w, h_s))
        m = Moments.of(pair_sums((h_w, h_s, y, None), shift), shift)
    return _overlap_about(jax.lax.optimization_barrier(m), (None, None), about_zero=not bias)


def _near(h: Array, y: Array | None = None) -> Shift:
    """What rows whose mean is large are taken about, the first; zero for others."""
    h = jax.lax.stop_gradient(h.astype(accumulation_dtype(h.dtype)))
    about = h - h[0]
    off = jnp.mean(about, 0)
    large = is_large(off + h[0], jnp.mean(about * about, 0) - off * off)
    return Shift(jnp.where(large, h[0], 0), None if y is None else jnp.zeros_like(y[0], h.dtype))


@partial(jax.jit, static_argnames="ranks")
def _overlap_of_kernels(K_w: Array, K_s: Array, y: Array | None, ranks: Ranks) -> Overlap:
    return _overlap_of_bases(_kernel_basis(K_w, ranks[0]), _kernel_basis(K_s, ranks[1]), y)


def _overlap_of_bases(weak: _Basis, strong: _Basis, y: Array | None) -> Overlap:
    cross = _times_basis(matmul(strong.columns.T, weak.columns), weak)
    C = _times_basis(cross.T, strong).T
    left, right = _side(weak.spectrum), _side(strong.spectrum)
    if y is None:
        return Overlap(left, right, C)
    y = y.astype(C.dtype)
    rows = _two_dim(y).T / jnp.sqrt(jnp.asarray(y.shape[0], C.dtype))
    a_w, a_s = (_times_basis(matmul(rows, b.columns), b).T.reshape(-1, *y.shape[1:]) for b in (weak, strong))
    return Overlap(left, right, C, a_w, a_s, jnp.mean(y * y, 0))


def _data_basis(h: Array, rank: int | None = None) -> _Basis:
    h = h.astype(accumulation_dtype(h.dtype))
    n, d = h.shape
    if d > n:
        return _kernel_basis(matmul(h, h.T), rank) if rank is not None else _few_rows_basis(h)
    if rank is None:
        shift = _near(h)
        own = ModelMoments(model_sums((h, None, None), shift, "float32"), shift)
        eigen = _spectrum_of(own, about_zero=True)
        # Rows about the mean and the mean apart: beside a large one their sum has fewer digits.
        projected = matmul(eigen.vectors.T, centered(h).T) + matmul(eigen.vectors.T, own.mean)[:, None]
        return _Basis(whiten(eigen, projected).T / jnp.sqrt(eigen.n), eigen, True)
    rows = _Basis(h, spectrum_of_rows(h, rank), False)
    # The leading columns of U are few: products with them take the place of a d x d product.
    return rows._replace(columns=_times_basis(h, rows), is_orthonormal=True)


def _few_rows_basis(h: Array) -> _Basis:
    """Of n rows by their products, about the mean if it is large: what that adds is in one coordinate once rows are reflected."""
    n, about = h.shape[0], centered(h)
    mean, ones = h[0] - about[0], jnp.ones(n, h.dtype)
    large = is_large(mean, jnp.mean(about * about, 0))
    rows, mean = jnp.where(large, about, h), jnp.where(large, mean, 0)
    turn = reflection(jnp.where(large, ones, 0))
    along = turn(matmul(rows, mean)) + jnp.sum(mean * mean) / 2 * turn(ones)
    added = outer(turn(ones), along)
    eigen = spectrum_of_moment((turn.both(matmul(rows, rows.T)) + added + added.T) / n, jnp.asarray(n, h.dtype))
    return _Basis(turn(eigen.vectors), eigen, True)


def _kernel_basis(K: Array, rank: int | None = None) -> _Basis:
    n = K.shape[0]
    eigen = spectrum(K.astype(accumulation_dtype(K.dtype)) / n, n, rank=rank)
    return _Basis(eigen.vectors, eigen, True)


def _times_basis(x: Array, basis: _Basis) -> Array:
    """`X U` (m, k) from `X columns` (m, columns)."""
    if basis.is_orthonormal:
        return x
    eigen = basis.spectrum
    return whiten(eigen, matmul(eigen.vectors.T, x.T)).T / jnp.sqrt(eigen.n)


def whiten(eigen: Spectrum | Side, x: Array) -> Array:
    """`lambda^{-1/2} x` (k, m), zero where lambda is numerically zero."""
    unit, scale = in_units(eigen)
    return apply_response(_InverseRoot(), unit, x / scale)


def checked_ranks(rank: int | tuple[int, int] | None) -> Ranks:
    """Ranks of the weak and the strong side; raises InputError unless they are positive integers."""
    if rank is None:
        return None, None
    if not isinstance(rank, tuple):
        return checked_rank(rank), checked_rank(rank)
    if len(rank) != 2:
        raise InputError(f"rank must be a positive integer or two (weak, strong), got {rank!r}")
    return checked_rank(rank[0]), checked_rank(rank[1])


def _side(eigen: Spectrum) -> Side:
    return Side(eigen.values, eigen.coupling, eigen.n, eigen.rest)


def centered(x: Array) -> Array:
    """Columns minus their means, about the first row so that a large mean costs no digits."""
    x = x.astype(accumulation_dtype(x.dtype))
    x = x - jax.lax.stop_gradient(x[0])
    return x - jnp.mean(x, 0)


def _two_dim(y: Array) -> Array:
    return y.reshape(y.shape[0], -1)
