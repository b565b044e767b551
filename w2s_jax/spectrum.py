"""Eigenpairs of a second moment or kernel (the only eigensolver), how many of them are principal, and the tail's gamma.

Derivatives never divide by an eigengap. Eigenvectors are differentiated as constants, `S = V diag(values) V^T` being
a full matrix in the basis V: the derivative of its diagonal is carried by `values`, that of the rest by `coupling`
(zero in value). `apply_response` turns both into the exact derivative of a matrix function, repeated eigenvalues
included (Daleckii & Krein 1965).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from w2s_jax._arrays import as_matrix, matmul
from w2s_jax._checks import InputError
from w2s_jax._factor import eigh


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Spectrum:
    """Eigenpairs of a symmetric positive semidefinite matrix, eigenvalues descending.

    `values` (k,), `vectors` (d, k) by columns, `n` rows behind the matrix, `coupling` (k, k): zero, the derivative of
    the matrix between eigenvectors. `vectors` are constants of differentiation.
    """

    values: Float[Array, " k"]
    vectors: Float[Array, "d k"]
    coupling: Float[Array, "k k"]
    n: Array


class Response(Protocol):
    """A function of eigenvalues: `kept` says which eigenvalues it acts on, `curve` what it does to them (0 elsewhere)."""

    def kept(self, values: Array) -> Array: ...

    def curve(self, values: Array, n: Array) -> Any: ...


def spectrum(matrix: Float[ArrayLike, "d d"], n: ArrayLike) -> Spectrum:
    """Eigenpairs of a second moment `H^T H / n` (d, d) or of a kernel over rows `K / n` (n, n).

    Args:
        matrix: symmetric positive semidefinite (d, d); its nonzero eigenvalues agree for the two forms.
        n: number of rows behind the matrix (the gamma of a tail and `ridge.from_head` need it).

    Raises:
        InputError: not square, or NaN or infinite entries.

    Source: Xue et al. 2025, `K / n = U diag(lambda) U^T`.
    """
    matrix = as_matrix("matrix", matrix)
    if matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"matrix must be square, got shape {matrix.shape}")
    scale = unit_scale(matrix)
    values, vectors, coupling = _eigh(matrix / scale**2)
    n = jnp.asarray(n, matrix.dtype)
    return Spectrum(jnp.maximum(values, 0) * scale**2, vectors, coupling * scale**2, n)


def unit_scale(matrix: Float[Array, "d d"]) -> Float[Array, ""]:
    """A power of two whose square is near the largest diagonal entry: scaling by it is exact and avoids overflow."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.diagonal(matrix)))
    return power_of_two(jnp.sqrt(jnp.where(largest > 0, largest, 1))).astype(matrix.dtype)


def power_of_two(size: Array) -> Array:
    """The power of two next above a positive size, exactly (`exp2` of an integer is not)."""
    return jnp.ldexp(jnp.ones_like(size), jnp.frexp(size)[1])


def numerically_zero(values: Array) -> Array:
    """The eigenvalue below which a (k,) spectrum is rounding: 4 eps sqrt(k) of the largest."""
    return 4 * jnp.finfo(values.dtype).eps * values.shape[-1] ** 0.5 * values[:1]


def principal_rank(
    values: Float[ArrayLike, " k"],
    rule: str,
    level: ArrayLike | None = None,
    *,
    n: ArrayLike | None = None,
    d: int | None = None,
) -> Int[Array, "*levels"]:
    """How many leading eigenvalues are principal (dimension of V), by a named rule; usable as `rank=` of any filter.

    Args:
        values: eigenvalues, descending (k,).
        rule: "threshold": those `>= level * values[0]` (alpha of Xue et al. 2025); "rank": `level` of them;
            "explained_variance": the fewest that sum to `level` of the trace; "hard_threshold": above the optimal
            singular value threshold for a spiked model with unknown noise (Gavish & Donoho 2014; level not used).
        level: the rule's number, any shape.
        n, d: rows and features of the representation, for "hard_threshold" (d defaults to k).

    Raises:
        InputError: unknown rule, a level missing or out of range, or n missing for "hard_threshold".
    """
    values = jnp.asarray(values)
    if rule == "hard_threshold":
        if n is None:
            raise InputError("rule 'hard_threshold' needs n, the number of rows, got None")
        return _hard_threshold_rank(values, jnp.asarray(n, values.dtype), values.shape[-1] if d is None else d)
    if rule not in ("threshold", "rank", "explained_variance"):
        raise InputError(f"rule must be threshold, rank, explained_variance or hard_threshold, got {rule!r}")
    if level is None:
        raise InputError(f"rule {rule!r} needs a level, got None")
    require_range("level", level, 0, None if rule == "rank" else 1)
    level = jnp.asarray(level)[..., None]
    positive = values > numerically_zero(values)
    if rule == "threshold":
        return jnp.sum(positive & (values >= level * values[:1]), -1)
    if rule == "rank":
        return jnp.minimum(level[..., 0], jnp.sum(positive))
    share = jnp.cumsum(values) / jnp.sum(values)
    fewest = jnp.where(level[..., 0] > 0, jnp.sum(share < level, -1) + 1, 0)
    return jnp.minimum(fewest, jnp.sum(positive))


def tail_gamma(values: Float[ArrayLike, " k"], rank: ArrayLike, n: ArrayLike) -> Float[Array, "*ranks"]:
    """The tail's ridge `gamma = (1/n) sum of eigenvalues beyond the leading rank` (Xue et al. 2025, isotropy condition).

    Args:
        values: eigenvalues of `K/n`, descending (k,), all that are not zero.
        rank: dimension of the principal subspace, any shape.
        n: rows of the split; gamma of another split of m rows is `n/m` of it.
    """
    values = jnp.asarray(values)
    outside = jnp.arange(values.shape[-1]) >= jnp.asarray(rank)[..., None]
    return jnp.sum(jnp.where(outside, values, 0), -1) / n


def apply_response(response: Response, side: Any, x: Array) -> Array:
    """`f(S) x` in S's eigenbasis: `f * x` for x (..., k, m), differentiated as a function of the whole matrix S.

    `side` has `values` (k,), `coupling` (k, k) and `n`. Leading axes of f's parameters broadcast against those of x.
    """
    return _apply(response, side.values, side.coupling, side.n, x)


def evaluate(response: Response, values: Array, n: Array) -> Array:
    """f (..., k): the response's curve on the eigenvalues it keeps, 0 on the others."""
    return jnp.where(response.kept(values), response.curve(values, n)(values), 0)


def require_range(name: str, value: ArrayLike | None, low: float, high: float | None = None) -> None:
    """Raises InputError unless every entry of a concrete value lies in [low, high]; tracers pass."""
    # Filters are rebuilt by JAX from tracers and placeholders, which have no value to check.
    if value is None or isinstance(value, Tracer) or type(value) is object:
        return
    try:
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be a number or an array of numbers, got {value!r}") from error
    wrong = ~(array >= low) if high is None else ~((array >= low) & (array <= high))
    if wrong.any():
        wanted = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
        raise InputError(f"{name} must be {wanted}, got {array[wrong].flat[0]:g}")


@jax.custom_jvp
def _eigh(matrix: Array) -> tuple[Array, Array, Array]:
    values, vectors = eigh(matrix)
    return values[::-1], vectors[:, ::-1], jnp.zeros_like(matrix)


@_eigh.defjvp
def _eigh_jvp(primals: tuple, tangents: tuple) -> tuple:
    values, vectors, coupling = _eigh(*primals)
    basis = _once(vectors)
    change = matmul(matmul(basis.T, (tangents[0] + tangents[0].T) / 2), basis)
    diagonal = jnp.diagonal(change)
    return (values, vectors, coupling), (diagonal, jnp.zeros_like(vectors), change - jnp.diag(diagonal))


@jax.custom_jvp
def _once(vectors: Array) -> Array:
    return vectors


@_once.defjvp
def _once_jvp(primals: tuple, tangents: tuple) -> tuple:
    raise NotImplementedError(
        "second derivatives of a spectrum with respect to its matrix are not implemented; "
        "first derivatives, and second ones with respect to a filter's parameters, are"
    )


@jax.custom_jvp
def _apply(response: Response, values: Array, coupling: Array, n: Array, x: Array) -> Array:
    return evaluate(response, values, n)[..., None] * x


@_apply.defjvp
def _apply_jvp(primals: tuple, tangents: tuple) -> tuple:
    return jax.jvp(_apply_matrix, primals, tangents)


def _apply_matrix(response: Response, values: Array, coupling: Array, n: Array, x: Array) -> Array:
    """`_apply` for a matrix with an off-diagonal part: exact to first order in `coupling`."""
    f = evaluate(response, values, n)
    slopes = jax.lax.stop_gradient(_divided_differences(response, values, n))
    return f[..., None] * x + matmul(slopes * coupling, x)


def _divided_differences(response: Response, values: Array, n: Array) -> Array:
    """`(f_i - f_j) / (lambda_i - lambda_j)` (..., k, k), the derivative at the midpoint where the two are close."""
    f, kept = evaluate(response, values, n), response.kept(values)
    gap = values[:, None] - values[None, :]
    middle = (values[:, None] + values[None, :]) / 2
    close = jnp.abs(gap) <= jnp.finfo(values.dtype).eps ** (1 / 3) * middle
    both = kept[..., :, None] & kept[..., None, :]
    curve = response.curve(values, n)
    flat = middle.reshape(-1)
    _, slope = jax.jvp(curve, (flat,), (jnp.ones_like(flat),))
    slope = slope.reshape(*slope.shape[:-1], *middle.shape)
    quotient = (f[..., :, None] - f[..., None, :]) / jnp.where(gap == 0, 1, gap)
    return jnp.where(close & both, slope, jnp.where(gap == 0, 0, quotient))


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
