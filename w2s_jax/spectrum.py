"""Eigenpairs of a second moment or kernel, all or the leading ones, how many are principal, and the tail's gamma.

Derivatives never divide by an eigengap. Eigenvectors are differentiated as constants, `S = V diag(values) V^T` being
a full matrix in the basis V: the derivative of its diagonal is carried by `values`, that of the rest by `coupling`
(zero in value). `apply_response` turns both into the exact derivative of a matrix function, repeated eigenvalues
included (Daleckii & Krein 1965).

Of the leading k eigenpairs `values` and `coupling` carry the derivative within their span, and `vectors` move out of it,
by `(lambda_i - S)^{-1} dS v_i` outside the span. That too is exact for every function of S that is zero beyond the k,
as long as the eigenvalues it keeps are separated from the (k+1)-th; it divides by no other gap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from w2s_jax._core.arrays import accumulation_dtype, as_matrix, matmul, outer
from w2s_jax._core.checks import InputError, require_choice, require_range
from w2s_jax._core.factor import (
    eigh,
    graded_eigh,
    in_unit_scale,
    numerically_zero,
    power_of_two,
    reflection,
    unit_scale,
    zeroed,
)
from w2s_jax._core.response import whole
from w2s_jax._core.subspace import Dense, Operator, Pairs, SecondMoment, leading_pairs, solve_outside

Rule = Literal["threshold", "rank", "explained_variance", "hard_threshold"]
LARGE = 4.0  # times the largest variance: a mean's square from which single precision adds it last


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Spectrum:
    """Eigenpairs of a symmetric positive semidefinite matrix, eigenvalues descending, those that are rounding exactly 0.

    `values` (k,), `vectors` (d, k) by columns, `n` rows behind the matrix, `coupling` (k, k): zero, the derivative of
    the matrix between eigenvectors. `vectors` of a whole spectrum are constants of differentiation.

    If only the leading k were asked for, `rest` (d - k,) stands in for the other eigenvalues: the most that the (k+1)-th
    can be, then the mean of what is left of the trace; and `residuals` (k,) are `||S v - lambda v||`, within which of
    each value there is an eigenvalue.

    >>> s = spectrum([[2.0, 0.0], [0.0, 3.0]], n=10)
    >>> s, s.values.tolist(), jnp.abs(s.vectors).tolist()
    (Spectrum(k=2, d=2, n=10.0), [3.0, 2.0], [[0.0, 1.0], [1.0, 0.0]])
    """

    values: Float[Array, " k"]
    vectors: Float[Array, "d k"]
    coupling: Float[Array, "k k"]
    n: Array
    rest: Float[Array, " r"] | None = None
    residuals: Float[Array, " k"] | None = None

    @property
    def all_values(self) -> Float[Array, " d"]:
        """Eigenvalues (d,), those beyond the leading k by their stand-ins: for `tail_gamma`.

        Sums over a tail that starts within the k are exact, and a principal rank above k says that the k do not reach.
        """
        return whole(self.values, self.rest)

    def __repr__(self) -> str:
        if not hasattr(self.vectors, "shape"):
            return "Spectrum(...)"
        *_, d, k = self.vectors.shape
        return f"Spectrum(k={k}, d={d}, n={self.n})"


def spectrum(matrix: Float[ArrayLike, "d d"], n: ArrayLike, *, rank: int | None = None) -> Spectrum:
    """Eigenpairs of a second moment `H^T H / n` (d, d) or of a kernel over rows `K / n` (n, n).

    Args:
        matrix: symmetric positive semidefinite (d, d); its nonzero eigenvalues agree for the two forms.
        n: number of rows behind the matrix (the gamma of a tail and `ridge.from_head` need it).
        rank: how many leading eigenpairs to compute (all if there are fewer); None: all. For rank much smaller than d
            by products with blocks of vectors, to residuals of 16 eps of the largest eigenvalue or less (subspace.py).

    Raises:
        InputError: not square, NaN or infinite entries, or a rank that is not a positive integer.

    >>> spectrum([[2.0, 0.0], [0.0, 3.0]], n=10).values.tolist()
    [3.0, 2.0]
    >>> spectrum(jnp.diag(jnp.arange(1.0, 9.0)), n=10, rank=2)
    Spectrum(k=2, d=8, n=10.0)

    Source: Xue et al. 2025, `K / n = U diag(lambda) U^T`.
    """
    matrix = as_matrix("matrix", matrix)
    if matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"matrix must be square, got shape {matrix.shape}")
    matrix = matrix.astype(accumulation_dtype(matrix.dtype))
    n = jnp.asarray(n, matrix.dtype)
    if rank is not None:
        return _leading_spectrum(Dense(in_unit_scale(matrix)[0]), n, rank, unit_scale(matrix))
    values, vectors, coupling = _eigh(matrix)
    return Spectrum(zeroed(values, values <= numerically_zero(values)), vectors, coupling, n)


def spectrum_of_moment(
    moment: Float[Array, "d d"], n: Array, known: Array | None = None, mean: Array | None = None
) -> Spectrum:
    """`spectrum` of `moment + mean mean^T`, which tells small features from rounding beside massive ones and a large mean.

    `known` (d,): how large what the moment was made of is along each feature, where something has been subtracted since.
    """
    known = jnp.diagonal(moment) if known is None else jnp.maximum(known, jnp.diagonal(moment))
    known = jax.lax.stop_gradient(known)
    if mean is None:
        return Spectrum(*_graded_eigh(moment, known), n)
    turn = reflection(jnp.where(is_large(mean, jnp.diagonal(moment)), mean, 0))
    turned = turn(mean)
    squares = turn.squares(known) + jnp.square(jax.lax.stop_gradient(turned))
    values, vectors, coupling = _graded_eigh(turn.both(moment) + outer(turned, turned), squares)
    return Spectrum(values, turn(vectors), coupling, n)


def is_large(mean: Array, variances: Array) -> Array:
    """Whether a mean (d,) takes digits from what is spread about it."""
    return jnp.sum(mean * mean) > LARGE * jnp.max(variances)


def spectrum_of_rows(h: Float[Array, "n d"], rank: int) -> Spectrum:
    """The leading eigenpairs of `H^T H / n` from rows of float32 or float64, without forming the matrix if d >> rank.

    Raises:
        InputError: a rank that is not a positive integer.
    """
    n, d = h.shape
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(h)))
    scale = power_of_two(jnp.where(largest > 0, largest, 1))
    moment = SecondMoment(h / scale)
    # From here on some tens of products with 3/2 rank vectors cost less than the matrix.
    operator = moment if d >= 256 * checked_rank(rank) else Dense(moment.dense())
    return _leading_spectrum(operator, jnp.asarray(n, h.dtype), rank, scale)


def checked_rank(rank: int) -> int:
    """The rank as an int; raises InputError unless it is a positive integer."""
    if isinstance(rank, bool) or not isinstance(rank, int | np.integer) or rank < 1:
        raise InputError(f"rank must be a positive integer, got {rank!r}")
    return int(rank)


def principal_rank(
    values: Float[ArrayLike, " k"] | Spectrum,
    rule: Rule,
    level: ArrayLike | None = None,
    *,
    n: ArrayLike | None = None,
    d: int | None = None,
) -> Int[Array, "*levels"]:
    """How many leading eigenvalues are principal (dimension of V), by a named rule; usable as `rank=` of any filter.

    Args:
        values: eigenvalues, descending (k,), or a spectrum, whose rows are then n if that is not given.
        rule: "threshold": those `>= level * values[0]` (alpha of Xue et al. 2025); "rank": `level` of them;
            "explained_variance": the fewest that sum to `level` of the trace; "hard_threshold": above the optimal
            singular value threshold for a spiked model with unknown noise (Gavish & Donoho 2014; level not used).
        level: the rule's number, any shape.
        n, d: rows and features of the representation, for "hard_threshold" (d defaults to k).

    Raises:
        InputError: eigenvalues in another order, unknown rule, a level missing or out of range; for "hard_threshold", n
            missing or a spectrum of leading eigenvalues alone, since the rule needs the median of all.

    >>> values = jnp.array([4.0, 2.0, 1.0, 1.0])
    >>> int(principal_rank(values, "threshold", 0.5)), int(principal_rank(values, "explained_variance", 0.8))
    (2, 3)

    Source: Xue et al. 2025, the relative threshold; Gavish & Donoho 2014, equation 11, the hard one.
    """
    require_choice("rule", rule, Rule)
    if isinstance(values, Spectrum):
        if rule == "hard_threshold" and values.rest is not None and values.rest.size > 0:
            k, d = values.values.shape[0], values.vectors.shape[0]
            raise InputError(f"rule 'hard_threshold' needs a whole spectrum, got the {k} leading eigenvalues of {d}")
        values, n = values.all_values, values.n if n is None else n
    values = _descending(values)
    if rule == "hard_threshold":
        if n is None:
            raise InputError("rule 'hard_threshold' needs n, the number of rows, got None")
        return _hard_threshold_rank(values, jnp.asarray(n, values.dtype), values.shape[-1] if d is None else d)
    if level is None:
        raise InputError(f"rule {rule!r} needs a level, got None")
    require_range("level", level, 0, None if rule == "rank" else 1)
    if rule == "rank" and not isinstance(level, Tracer) and (np.asarray(level) % 1).any():
        raise InputError(f"level of the rule 'rank' must be whole numbers, got {level!r}")
    level = jnp.asarray(level)[..., None]
    positive = values > numerically_zero(values)
    if rule == "threshold":
        return jnp.sum(positive & (values >= level * values[:1]), -1)
    if rule == "rank":
        return jnp.minimum(level[..., 0].astype(int), jnp.sum(positive))
    share = jnp.cumsum(values) / jnp.sum(values)
    fewest = jnp.where(level[..., 0] > 0, jnp.sum(share < level, -1) + 1, 0)
    return jnp.minimum(fewest, jnp.sum(positive))


def tail_gamma(values: Float[ArrayLike, " k"], *, rank: ArrayLike, n: ArrayLike) -> Float[Array, "*ranks"]:
    """The tail's ridge `gamma = (1/n) sum of eigenvalues beyond the leading rank` (Xue et al. 2025, isotropy condition).

    Args:
        values: eigenvalues of `K/n`, descending (k,), all that are not zero.
        rank: dimension of the principal subspace, any shape.
        n: rows of the split; gamma of another split of m rows is `n/m` of it.

    Raises:
        InputError: eigenvalues in another order, a negative rank, or n below 1.

    >>> gammas = tail_gamma(jnp.array([4.0, 2.0, 1.0, 1.0]), rank=jnp.array([1, 2]), n=10)
    >>> [f"{x:.2f}" for x in gammas]
    ['0.40', '0.20']

    Source: Xue et al. 2025, definition of decomposability, kernel-wise isotropy.
    """
    values = _descending(values)
    require_range("rank", rank, 0)
    require_range("n", n, 1)
    outside = jnp.arange(values.shape[-1]) >= jnp.asarray(rank)[..., None]
    return jnp.sum(jnp.where(outside, values, 0), -1) / jnp.asarray(n)


def _descending(values: ArrayLike) -> Array:
    """Eigenvalues (k,) as floats; raises InputError if concrete ones are in another order, as NumPy's are."""
    values = jnp.asarray(values)
    values = values if jnp.issubdtype(values.dtype, jnp.floating) else values.astype(float)
    if values.ndim != 1:
        raise InputError(f"eigenvalues must have shape (k,), got {values.shape}")
    if not isinstance(values, Tracer) and values.size:
        found = np.asarray(values, float)
        if (np.diff(found) > 1e-5 * np.abs(found).max()).any():
            raise InputError(
                "eigenvalues must be in descending order, got some that rise: reverse those of numpy.linalg.eigvalsh"
            )
    return values


def _leading_spectrum(operator: Operator, n: Array, rank: int, scale: Array) -> Spectrum:
    """The leading eigenpairs of `scale^2` times an operator of about unit size."""
    k = min(checked_rank(rank), operator.size)
    values, vectors, coupling, residuals = _leading(operator, k)
    values = jnp.maximum(values, 0)
    rest = _stand_ins(operator.trace(), values, operator.size)
    values = zeroed(values, values <= numerically_zero(whole(values, rest)))
    return Spectrum(*(values * scale**2, vectors, coupling * scale**2, n), rest * scale**2, residuals * scale**2)


def _stand_ins(trace: Array, values: Array, d: int) -> Array:
    """Eigenvalues (d - k,) with the sum of those unknown: the most that the next one can be, then their mean."""
    count = d - values.shape[0]
    if count == 0:
        return jnp.zeros((0,), values.dtype)
    tail = trace - jnp.sum(values)
    tail = jnp.where(tail > 4 * jnp.finfo(values.dtype).eps * d**0.5 * trace, tail, 0)
    if count == 1:
        return tail[None]
    most = jnp.minimum(values[-1], tail)
    return jnp.concatenate([most[None], jnp.full(count - 1, (tail - most) / (count - 1))])


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _leading(operator: Operator, k: int) -> tuple[Array, Array, Array, Array]:
    values, vectors, residuals = leading_pairs(operator, k)
    return values, vectors, jnp.zeros((k, k), values.dtype), residuals


@_leading.defjvp
def _leading_jvp(k: int, primals: tuple, tangents: tuple) -> tuple:
    values, vectors, coupling, residuals = _leading(*primals, k)
    basis = _once(vectors)
    _, image = jax.jvp(lambda operator: operator.symmetric_times(basis), primals, tangents)
    change = matmul(basis.T, image)
    outside = image - matmul(basis, change)
    moved = solve_outside(primals[0], Pairs(values, basis, residuals), outside)
    moved -= matmul(basis, matmul(basis.T, moved))
    diagonal = jnp.diagonal(change)
    coupled = (change + change.T) / 2 - jnp.diag(diagonal)
    return (values, vectors, coupling, residuals), (diagonal, moved, coupled, jnp.zeros_like(residuals))


@jax.custom_jvp
def _eigh(matrix: Array) -> tuple[Array, Array, Array]:
    values, vectors = eigh(matrix)
    return values[::-1], vectors[:, ::-1], jnp.zeros_like(matrix)


@jax.custom_jvp
def _graded_eigh(moment: Array, known: Array) -> tuple[Array, Array, Array]:
    return *graded_eigh(moment, known), jnp.zeros_like(moment)


def _eigh_jvp(solve: Callable, primals: tuple, tangents: tuple) -> tuple:
    values, vectors, coupling = solve(*primals)
    basis = _once(vectors)
    change = matmul(matmul(basis.T, (tangents[0] + tangents[0].T) / 2), basis)
    diagonal = jnp.diagonal(change)
    return (values, vectors, coupling), (diagonal, jnp.zeros_like(vectors), change - jnp.diag(diagonal))


for _solve in (_eigh, _graded_eigh):
    _solve.defjvp(partial(_eigh_jvp, _solve))


@jax.custom_jvp
def _once(vectors: Array) -> Array:
    return vectors


@_once.defjvp
def _once_jvp(primals: tuple, tangents: tuple) -> tuple:
    raise NotImplementedError(
        "second derivatives of a spectrum with respect to its matrix are not implemented; "
        "first derivatives, and second ones with respect to a filter's parameters, are"
    )


def _hard_threshold_rank(values: Array, n: Array, d: int) -> Array:
    """Gavish & Donoho 2014, eq. 11 and section III.E: lambda_*(beta) / sqrt(mu_beta) times the median singular value."""
    aspect = jnp.minimum(n, d) / jnp.maximum(n, d)
    root = jnp.sqrt(aspect**2 + 14 * aspect + 1)
    squared = 2 * (aspect + 1) + 8 * aspect / (aspect + 1 + root)
    count = jnp.minimum(n, d)
    # The median of the min(n, d) singular values; zeros that pad the spectrum do not count.
    low = jnp.clip(jnp.floor((count - 1) / 2).astype(int), 0, values.shape[-1] - 1)
    high = jnp.clip(jnp.ceil((count - 1) / 2).astype(int), 0, values.shape[-1] - 1)
    median = ((jnp.sqrt(values[low]) + jnp.sqrt(values[high])) / 2) ** 2
    return jnp.sum(values > squared / _marchenko_pastur_median(aspect) * median)


@partial(jax.jit, static_argnames="points")
def _marchenko_pastur_median(aspect: Array, points: int = 4001) -> Array:
    """Median of the Marchenko-Pastur law with ratio `aspect` in (0, 1], noise variance 1."""
    low, high = (1 - jnp.sqrt(aspect)) ** 2, (1 + jnp.sqrt(aspect)) ** 2
    # x = middle - half cos(angle) removes the density's square-root edges (and its pole at ratio 1).
    angle = jnp.linspace(0, jnp.pi, points, dtype=aspect.dtype)
    x = (low + high) / 2 - (high - low) / 2 * jnp.cos(angle)
    safe = jnp.where(x > 0, x, 1)
    density = ((high - low) / 2 * jnp.sin(angle)) ** 2 / (2 * jnp.pi * aspect * safe)
    density = jnp.where(x > 1e-6 * high, density, (high - low) / (2 * jnp.pi * aspect) * jnp.where(low == 0, 1, 0))
    mass = jnp.concatenate([jnp.zeros(1, x.dtype), jnp.cumsum((density[1:] + density[:-1]) / 2)])
    return jnp.interp(mass[-1] / 2, mass, x)
