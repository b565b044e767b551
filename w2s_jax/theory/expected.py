"""The expected experiment of one cross-fitting, from the moments of three disjoint sets of rows; the ranking averages several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax._core.arrays import matmul
from w2s_jax._core.checks import InputError, require_number
from w2s_jax._core.factor import numerically_zero
from w2s_jax._core.response import apply_response, evaluate
from w2s_jax._core.ridge_solve import ridge_inverse
from w2s_jax.moments import Moments
from w2s_jax.spectrum import spectrum


def expected_experiment(
    labelled: Moments,
    student: Moments,
    test: Moments,
    weak_ridge: ArrayLike,
    strong_ridge: ArrayLike,
    *,
    prior: ArrayLike = 2.0,
    noise: ArrayLike = 1.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Expected student error and gap over random labels, cross-fitted on three disjoint sets of rows; no labels are used.

    Args:
        labelled, student, test: moments of the rows that fit the weak head, train the student and test it.
        weak_ridge, strong_ridge: penalties of the mean squared loss.
        prior: p of the label prior: labels `h_s^T theta` with `theta ~ N(0, S_s^(p - 1))`, S_s pooled over the three.
        noise: variance of the label noise, relative to the labels' mean square.

    Raises:
        InputError: widths that differ, moments of which some are centred, a negative ridge, prior or noise.

    Errors are in units of the labels' mean square, without the noise that students and ceilings of all weak models share.

    >>> from w2s_jax import moments
    >>> blocks = jax.random.normal(jax.random.key(0), (3, 40, 4))
    >>> error, gap = expected_experiment(*(moments(h[:, :2], h) for h in blocks), 1e-3, 1e-3)
    >>> 0 < float(gap) < float(error)
    True

    Source: closed form of the cross-fitted experiment; one of those that `rank_supervisors` averages.
    """
    for name, value in (("weak_ridge", weak_ridge), ("strong_ridge", strong_ridge), ("prior", prior), ("noise", noise)):
        require_number(name, value, 0)
    blocks = (labelled, student, test)
    for name, block in zip(("labelled", "student", "test"), blocks, strict=True):
        if not isinstance(block, Moments):
            raise InputError(f"{name} must be Moments, got {type(block).__name__}")
    shapes = [block.sw.shape for block in blocks]
    if len(set(shapes)) > 1:
        raise InputError(f"labelled, student and test must have the same widths (strong, weak), got {shapes}")
    if len({block.is_centred for block in blocks}) > 1:
        raise InputError("labelled, student and test must all be centred or all not, got some of each")
    return _expected(blocks, weak_ridge, strong_ridge, prior, noise)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Power:
    """`lambda^exponent` on eigenvalues that are not numerically zero, 1 on all for the exponent 0."""

    exponent: Array

    def kept(self, values: Array) -> Array:
        return (values > numerically_zero(values)) | (self.exponent == 0)

    def curve(self, values: Array, n: Array) -> Callable[[Array], Array]:
        return lambda mu: jnp.where(mu > 0, mu, 1) ** self.exponent


@jax.jit
def _expected(blocks: tuple, weak_ridge: Array, strong_ridge: Array, prior: Array, noise: Array) -> tuple[Array, Array]:
    """The formulas of `crossfit.expected_experiment` on whole moments: in eigenbases their derivatives would lack a part."""
    n, ww, ss, sw = (jnp.stack([getattr(block, name) for block in blocks]) for name in ("n", "ww", "ss", "sw"))
    prior, noise = jnp.asarray(prior, n.dtype), jnp.asarray(noise, n.dtype)
    pooled = spectrum(jnp.sum(n[:, None, None] * ss, 0) / jnp.sum(n), 1)
    # Powers of shares of the largest eigenvalue: they overflow at no scale.
    largest = jax.lax.stop_gradient(pooled.values[0])
    side = replace(pooled, values=pooled.values / largest, coupling=pooled.coupling / largest)
    power = _Power(prior - 1)
    labels = matmul(pooled.vectors, apply_response(power, side, pooled.vectors.T))
    labels = labels / jnp.sum(evaluate(power, side.values, side.n) * pooled.values)
    weak, strong = ridge_inverse(ww[0], weak_ridge), ridge_inverse(ss[1], strong_ridge)
    students = matmul(strong, matmul(sw[1], weak))  # of the weak heads' right-hand sides
    taught, ceiling = matmul(students, sw[0].T), matmul(strong, ss[1])
    size = lambda left, inside: jnp.sum(matmul(ss[2], left) * matmul(left, inside))
    picked_up = noise / n[0] * size(students, ww[0])
    error, gap = (size(taught - of, labels) for of in (jnp.eye(len(ss[0]), dtype=n.dtype), ceiling))
    return error + picked_up, gap + picked_up
