"""At which strength a ridge head acts: the fixed point kappa of a population, and what one sample's spectrum says of it.

A head of penalty beta on n rows acts on the population as one of strength
`kappa = beta + (kappa/n) tr Sigma (Sigma + kappa)^{-1}`.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax._core.arrays import accumulation_dtype
from w2s_jax._core.checks import InputError, require_finite, require_range
from w2s_jax._core.factor import numerically_zero


def effective_ridge(
    values: Float[ArrayLike, "*batch k"],
    n: ArrayLike,
    ridge: ArrayLike,
    multiplicity: Float[ArrayLike, "*batch k"] | None = None,
) -> Float[Array, "*grid"]:
    """The strength at which a ridge head on n rows acts on its population: `kappa = ridge + (kappa/n) sum m l / (l + kappa)`.

    Args:
        values: eigenvalues l of the population covariance (k,), in any order; exact zeros drop out.
        n: number of rows; any shape that broadcasts, as for `ridge`. Need not be an integer.
        ridge: penalty beta of the mean squared loss. At 0 the limit: 0 if n >= rank, else the positive root.
        multiplicity: how often each eigenvalue occurs (k,), default once; a wide flat tail is one eigenvalue.

    Raises:
        InputError: a negative ridge, fewer than one row, or multiplicities of another shape.

    Newton's method from above, where the equation is convex; differentiated as an implicit function.

    >>> kappa = effective_ridge([1.0], n=100, ridge=0.1)
    >>> round(float(kappa), 4), round(float(0.1 + kappa / 100 * 1 / (1 + kappa)), 4)
    (0.1009, 0.1009)

    Source: the one-stage deterministic equivalent of ridge regression (docs/theory.md, the strength at which a head acts).
    """
    require_range("ridge", ridge, 0)
    require_range("n", n, 1)
    values = jnp.asarray(values)
    require_finite("values", values)
    dtype = accumulation_dtype(jnp.result_type(values, float))
    multiplicity = jnp.ones_like(values) if multiplicity is None else jnp.asarray(multiplicity)
    if multiplicity.shape[-1:] != values.shape[-1:] or values.ndim == 0:
        raise InputError(f"multiplicity must match values, got shapes {multiplicity.shape} and {values.shape}")
    arguments = (jnp.asarray(x, dtype) for x in (values, multiplicity, n, ridge))
    return _fixed_points(*arguments)


@jax.jit
def _fixed_points(values: Array, multiplicity: Array, n: Array, ridge: Array) -> Array:
    return jnp.vectorize(fixed_point, signature="(k),(k),(),()->()")(values, multiplicity, n, ridge)


@jax.custom_jvp
def fixed_point(values: Array, multiplicity: Array, n: Array, ridge: Array) -> Array:
    """kappa of one problem: eigenvalues (k,), how often each occurs (k,), rows and penalty ()."""
    largest = jnp.maximum(jnp.max(values), ridge)
    scale = jnp.ldexp(jnp.ones_like(largest), jnp.frexp(largest)[1])
    values, ridge = values / scale, ridge / scale
    positive = (ridge > 0) | (n < jnp.sum(jnp.where(values > 0, multiplicity, 0)))
    above = ridge + jnp.sum(multiplicity * values) / n
    above = jnp.where(above > 0, above, 1)
    ridge = jnp.where(positive, ridge, above)  # any problem that is quickly solved

    def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
        kappa = state[1]
        intercept = n * ridge + jnp.sum(multiplicity * values * jnp.square(kappa / (values + kappa)))
        return kappa, intercept / slack_of(values, multiplicity, n, kappa)

    def falls(state: tuple[Array, Array]) -> Array:
        return state[1] < state[0] * (1 - 2 * jnp.finfo(values.dtype).eps)

    kappa = jax.lax.while_loop(falls, step, step((above, above)))[1]
    return jnp.where(positive, kappa, 0) * scale


@fixed_point.defjvp
def _fixed_point_jvp(primals: tuple, tangents: tuple) -> tuple:
    (values, multiplicity, n, ridge), (d_values, d_multiplicity, d_n, d_ridge) = primals, tangents
    kappa = fixed_point(values, multiplicity, n, ridge)
    shrunk = over(kappa, values + kappa)
    slack = slack_of(values, multiplicity, n, kappa)
    taken = values * shrunk
    change = jnp.sum(over(multiplicity * shrunk * shrunk, slack) * d_values + over(taken, slack) * d_multiplicity)
    return kappa, change + over(n, slack) * d_ridge - over(jnp.sum(multiplicity * taken) / n, slack) * d_n


def slack_of(values: Array, multiplicity: Array, n: Array, kappa: Array) -> Array:
    """`n - df2`, without cancellation where kappa is far below the eigenvalues that nearly fill the n rows."""
    kept, shrunk = over(values, values + kappa), over(kappa, values + kappa)
    leading = values > kappa
    full = jnp.sum(jnp.where(leading, multiplicity, 0))
    return (n - full) + jnp.sum(multiplicity * jnp.where(leading, shrunk * (1 + kept), -kept * kept))


def over(x: Array, y: Array) -> Array:
    """x / y with 0 / 0 = 0."""
    nothing = (x == 0) & (y == 0)
    return x / jnp.where(nothing, 1, y)


def effective_ridge_from_spectrum(
    values: Float[ArrayLike, "*batch k"], n: ArrayLike, ridge: ArrayLike, *, bias: bool = False
) -> Float[Array, "*grid"]:
    """The same strength from one sample's spectrum: `kappa = 1 / ((1/n) tr (K/n + ridge)^{-1})`.

    Args:
        values: eigenvalues of `K/n` (or of `H^T H / n`), descending (k,); the n - k that are missing count as zeros.
        n: rows of the sample; any shape that broadcasts, as for `ridge`. At ridge 0 the limit.
        bias: heads have an intercept, the columns were centred: the trace runs over n - 1 directions.

    Raises:
        InputError: a negative ridge or fewer than one row.

    >>> round(float(effective_ridge_from_spectrum([1.0], n=100, ridge=0.1)), 4)
    0.1009

    Source: generalized cross-validation, whose denominator is `ridge / kappa`.
    """
    require_range("ridge", ridge, 0)
    require_range("n", n, 1)
    values = jnp.asarray(values)
    require_finite("values", values)
    dtype = accumulation_dtype(jnp.result_type(values, float))
    arguments = (jnp.asarray(x, dtype) for x in (values, n, ridge))
    return _strengths(*arguments, bias)


@partial(jax.jit, static_argnames="bias")
def _strengths(values: Array, n: Array, ridge: Array, bias: bool) -> Array:
    kappa = lambda v, n, b: sample_strength(v, n, b, n - bias)[0]
    return jnp.vectorize(kappa, signature="(k),(),()->()")(values, n, ridge)


def sample_strength(values: Array, n: Array, ridge: Array, directions: Array) -> tuple[Array, Array]:
    """`kappa = n / tr (K/n + beta)^{-1}`, and `1 - kappa / beta` in directions without an eigenvalue (0 if there are none)."""
    kept = values > numerically_zero(values)
    zeros = jnp.maximum(directions - jnp.sum(kept), 0)
    inside = jnp.sum(jnp.where(kept, 1 / (jnp.where(kept, values, 1) + ridge), 0))
    # Times beta where there are zeros, so that neither 1 / beta nor its limit is ever formed.
    factor = jnp.where(zeros > 0, ridge, 1)
    share = n / (factor * inside + zeros)
    return factor * share, jnp.where(zeros > 0, 1 - share, 0)


class StandIn(NamedTuple):
    """A penalty () at which a head on the rows at hand acts as one on planned rows does, its `n - df2`, and whether rows as few
    cannot tell of a strength that small: the penalty is then 0."""

    ridge: Array
    slack: Array
    short: Array


def stand_in(values: Array, n: Array, ridge: Array, planned: Array) -> StandIn:
    """The penalty for n rows, whose moment has the eigenvalues `values`, descending (k,), that stands for `ridge` on `planned`.

    With `q(l) = 1 / tr (K/n + l)^{-1}` the head acts at `kappa = n q(l)`, and since `kappa - ridge` falls with the number of rows
    as 1/n, l solves `(n / planned) (l + (planned - n) q(l)) = ridge`. As `dkappa / dl = n / (n - df2)`, `n - df2 = 1 / q'(l)`;
    that of planned rows is larger by `planned - n`. q is concave: Newton's method from below for more rows than n, from above for
    fewer, never passes the root.
    """
    kept = values > numerically_zero(values)
    zeros = jnp.maximum(n - jnp.sum(kept), 0)
    more = planned - n

    def at(penalty: Array) -> tuple[Array, Array]:
        """q and `1 / q'`; times the penalty where there are zeros, so that neither 1 / 0 nor its limit is ever formed."""
        factor = jnp.where(zeros > 0, penalty, 1)
        share = jnp.where(kept, factor / (jnp.where(kept, values, 1) + penalty), 0)
        trace = jnp.sum(share) + zeros
        return factor / trace, jnp.square(trace) / (jnp.sum(jnp.square(share)) + zeros)

    def step(penalty: Array) -> Array:
        q, slack = at(penalty)
        excess = penalty + more * q - ridge * planned / n
        return jnp.maximum(penalty - excess / (1 + more / slack), 0)

    def moves(state: tuple[Array, Array]) -> Array:
        change = (state[1] - state[0]) * jnp.sign(more)
        return change > 4 * jnp.finfo(values.dtype).eps * state[0]

    # q is at most that of equal eigenvalues.
    start = jnp.maximum(ridge - more / planned * jnp.sum(values) / n, 0)
    found = jax.lax.while_loop(moves, lambda state: (state[1], step(state[1])), (start, step(start)))[1]
    return StandIn(found, at(found)[1], more * at(jnp.zeros_like(found))[0] > ridge * planned / n)
