"""Functions of eigenvalues, applied and differentiated as functions of the whole matrix.

Derivatives never divide by an eigengap: `coupling`, which is zero, carries the derivative of the matrix between eigenvectors
(spectrum.py), and divided differences turn it into the derivative of f (Daleckii & Krein 1965).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from w2s_jax._core.arrays import matmul
from w2s_jax._core.checks import InputError
from w2s_jax._core.factor import power_of_two


class Response(Protocol):
    """A function of eigenvalues: `kept` says which eigenvalues it acts on, `curve` what it does to them (0 elsewhere)."""

    def kept(self, values: Array) -> Array: ...

    def curve(self, values: Array, n: Array) -> Any: ...


class OnNonzero:
    """Base of responses that act on the eigenvalues that are not zero: in a spectrum, what is rounding is exactly 0."""

    def kept(self, values: Array) -> Array:
        return values > 0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Power:
    """`lambda^exponent` on eigenvalues that are not zero, 1 on all for the exponent 0."""

    exponent: Array

    def kept(self, values: Array) -> Array:
        return (values > 0) | (self.exponent == 0)

    def curve(self, values: Array, n: Array) -> Callable[[Array], Array]:
        return lambda mu: jnp.where(mu > 0, mu, 1) ** self.exponent


def apply_response(response: Response, side: Any, x: Array) -> Array:
    """`f(S) x` in S's eigenbasis: `f * x` for x (..., k, m), differentiated as a function of the whole matrix S.

    `side` has `values` (k,), `coupling` (k, k), `n` and `rest`. Leading axes of f's parameters broadcast against those
    of x. NaN where f reaches beyond the k values.
    """
    return _apply(response, side.values, side.coupling, side.n, side.rest, x)


def in_units(side: Any) -> tuple[Any, Array]:
    """A side in units where its largest eigenvalue is about 1, and the power of two by which representations are divided for
    that: derivatives of curves would overflow at the ends of the dtype's range. The rest is left out."""
    largest = jax.lax.stop_gradient(side.values[0])
    scale = power_of_two(jnp.sqrt(jnp.where(largest > 0, largest, 1)))
    return replace(side, values=side.values / scale**2, coupling=side.coupling / scale**2, rest=None), scale


def evaluate(response: Response, values: Array, n: Array, rest: Array | None = None) -> Array:
    """f (..., k): the response's curve on the eigenvalues it keeps, 0 on the others; NaN if it would keep some of the rest."""
    f = jnp.where(_kept(response, values, rest), response.curve(whole(values, rest), n)(values), 0)
    return f if rest is None else jnp.where(_reaches_beyond(response, values, rest)[..., None], jnp.nan, f)


def require_reach(name: str, response: Response, side: Any) -> None:
    """Raises InputError if a response keeps more eigenvalues than a side has; tracers pass, and give NaN."""
    if side.rest is None or any(isinstance(x, Tracer) for x in jax.tree.leaves((response, side))):
        return
    if jnp.any(_reaches_beyond(response, side.values, side.rest)):
        k = side.values.shape[0]
        raise InputError(
            f"{name} must cut within the {k} leading eigenvalues that were computed, got one that may keep more: "
            f"raise its threshold, set its rank to at most {k}, or compute more eigenvalues"
        )


def whole(values: Array, rest: Array | None) -> Array:
    """Eigenvalues, and stand-ins for those that were not computed."""
    return values if rest is None else jnp.concatenate([values, rest])


def _kept(response: Response, values: Array, rest: Array | None) -> Array:
    return response.kept(whole(values, rest))[..., : values.shape[0]]


def _reaches_beyond(response: Response, values: Array, rest: Array) -> Array:
    """Whether the response keeps the most that the next eigenvalue can be, (...,)."""
    beyond = response.kept(whole(values, rest))[..., values.shape[0] :]
    return jnp.any(beyond, -1)


@jax.custom_jvp
def _apply(response: Response, values: Array, coupling: Array, n: Array, rest: Array | None, x: Array) -> Array:
    return evaluate(response, values, n, rest)[..., None] * x


@_apply.defjvp
def _apply_jvp(primals: tuple, tangents: tuple) -> tuple:
    """With the derivative of an off-diagonal part, which is itself zero: no product with it but in the tangent."""
    response, values, _, n, rest, x = primals
    diagonal = lambda response, values, n, rest, x: evaluate(response, values, n, rest)[..., None] * x
    known = lambda arguments: (*arguments[:2], *arguments[3:])
    result, change = jax.jvp(diagonal, known(primals), known(tangents))
    slopes = jax.lax.stop_gradient(_divided_differences(response, values, n, rest))
    return result, change + matmul(slopes * tangents[2], x)


def _divided_differences(response: Response, values: Array, n: Array, rest: Array | None) -> Array:
    """`(f_i - f_j) / (lambda_i - lambda_j)` (..., k, k), the derivative at the midpoint where the two are close."""
    f, kept = evaluate(response, values, n, rest), _kept(response, values, rest)
    gap = values[:, None] - values[None, :]
    middle = (values[:, None] + values[None, :]) / 2
    close = jnp.abs(gap) <= jnp.finfo(values.dtype).eps ** (1 / 3) * middle
    both = kept[..., :, None] & kept[..., None, :]
    curve = response.curve(whole(values, rest), n)
    flat = middle.reshape(-1)
    _, slope = jax.jvp(curve, (flat,), (jnp.ones_like(flat),))
    slope = slope.reshape(*slope.shape[:-1], *middle.shape)
    quotient = (f[..., :, None] - f[..., None, :]) / jnp.where(gap == 0, 1, gap)
    return jnp.where(close & both, slope, jnp.where(gap == 0, 0, quotient))
