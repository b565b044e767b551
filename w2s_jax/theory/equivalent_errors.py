"""The deterministic equivalent from data: errors of student and ceiling from the weak head's outputs on the student's rows.

What deterministic.py says of a known population, for the rows or the moments at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax._core.arrays import as_labels, matmul
from w2s_jax._core.checks import InputError, require_range
from w2s_jax._core.factor import numerically_zero
from w2s_jax._core.response import apply_response
from w2s_jax.filters import projection
from w2s_jax.moments import Moments
from w2s_jax.overlap import Side, centered, principal_basis, representation, whiten
from w2s_jax.spectrum import spectrum, unit_scale
from w2s_jax.theory.kappa import sample_strength


class EquivalentErrors(NamedTuple):
    """Errors of student and ceiling on fresh rows against the labels, noise included, and their gap; (grid, c) each."""

    student_error: Array
    ceiling_error: Array
    gap: Array


def equivalent_errors(
    h_s: Float[ArrayLike, "n d_s"],
    y: ArrayLike,
    weak_outputs: ArrayLike,
    strong_ridge: ArrayLike,
    *,
    center: bool = False,
) -> EquivalentErrors:
    """Student and ceiling on fresh rows, and their gap, from the student's rows and the weak head's outputs on them.

    Args:
        h_s: strong representation (n, d_s); its d x d or n x n side is used, whichever is smaller.
        y: true labels (n,) or (n, c).
        weak_outputs: outputs of the weak head in the shape of y, fitted on other rows. With y = delta and outputs 0 the gap
            is that of the residuals delta alone.
        strong_ridge: penalty of the mean squared loss, any shape (it comes first in the result); at 0 the limit.
        center: the student has an intercept.

    Raises:
        InputError: shapes that do not fit, a representation of zeros, NaN or infinite entries, a negative ridge.

    With `W = beta (K/n + beta)^{-1}`, the map from labels t to training residuals, a head's residuals on fresh rows are as
    large as `e(t) = n W t / tr W` (`kappa / beta = n / tr W`): generalized cross-validation. For `delta = y - f_w` the gap is
    `||delta - e(delta)||^2 / n`, the student's error `||delta + e(f_w)||^2 / n`, the ceiling's `||e(y)||^2 / n`. An intercept is
    a direction that W takes to zero: the mean of delta passes whole, and the trace loses one.

    Source: derived for this package (generalized cross-validation of two stages), no split into V and tail.
    """
    h_s = representation("strong representations", h_s)
    y = as_labels("labels", y, h_s.shape[0])
    weak_outputs = as_labels("weak outputs", weak_outputs, h_s.shape[0])
    if weak_outputs.shape != y.shape:
        raise InputError(f"weak outputs must have the labels' shape {y.shape}, got {weak_outputs.shape}")
    require_range("strong_ridge", strong_ridge, 0)
    return _errors_of_rows(h_s, y, weak_outputs, jnp.asarray(strong_ridge), center)


@partial(jax.jit, static_argnames="center")
def _errors_of_rows(h_s: Array, y: Array, outputs: Array, ridge: Array, center: bool) -> EquivalentErrors:
    basis, side = principal_basis(h_s, center)
    # The residuals are subtracted before anything else is done to them: they may be small.
    columns = [x.astype(basis.dtype) for x in (y, outputs, y - outputs)]
    mean = jnp.mean(columns[2], 0) * center
    n = y.shape[0]
    flat = jnp.stack([(centered(x) if center else x).reshape(n, -1) for x in columns], 1)
    a = matmul(basis.T, flat.reshape(n, -1)).reshape(-1, *flat.shape[1:]) / n**0.5
    return _equivalent_errors(
        side, a, jnp.einsum("nac,nbc->abc", flat, flat, precision="highest") / n, mean, ridge, center
    )


def equivalent_errors_from_moments(
    m: Moments, kernel: Float[ArrayLike, "d_w *c"], strong_ridge: ArrayLike, *, bias: ArrayLike | None = None
) -> EquivalentErrors:
    """`equivalent_errors` from the second moments of the student's rows and the weak head alone: any number of rows.

    Args:
        m: moments of the student's split, with labels; centred if the heads have intercepts.
        kernel: the weak head's weights (d_w,) or (d_w, c), fitted on other rows.
        strong_ridge: penalty of the mean squared loss, any shape (it comes first in the result); at 0 the limit.
        bias: the weak head's intercept () or (c,), if and only if the moments are centred.

    Raises:
        InputError: no labels, a kernel that does not fit, a bias too many or too few, a negative ridge.

    The moments of `delta = y - f_w` are linear and quadratic in the kernel: `E h_s delta = sy - sw kernel` and
    `E delta^2 = yy - 2 wy kernel + kernel ww kernel`. Precision: as for `overlap_from_moments`.
    """
    kernel = jnp.asarray(kernel)
    if m.wy is None:
        raise InputError("moments must have labels, got some made without y")
    if kernel.shape != m.wy.shape:
        raise InputError(f"kernel must have shape {m.wy.shape} like the moments' wy, got {kernel.shape}")
    if (bias is None) != (m.shift is None):
        given = "got none" if bias is None else f"got one of shape {jnp.shape(bias)} with moments that are not centred"
        raise InputError(f"bias must be given if and only if the moments are centred, {given}")
    require_range("strong_ridge", strong_ridge, 0)
    return _errors_of_moments(m, kernel, jnp.asarray(strong_ridge), bias)


@jax.jit
def _errors_of_moments(m: Moments, kernel: Array, ridge: Array, bias: Array | None) -> EquivalentErrors:
    scale = unit_scale(m.ss)
    eigen = spectrum(m.ss / scale**2, m.n)
    wy, sy, yy = (jnp.asarray(label) for label in (m.wy, m.sy, m.yy))
    taught = matmul(m.sw, kernel)
    columns = jnp.stack([x.reshape(x.shape[0], -1) for x in (sy, taught, sy - taught)], 1) / scale
    k, flat = columns.shape[0], columns.reshape(columns.shape[0], -1)
    a = whiten(eigen, matmul(eigen.vectors.T, flat)).reshape(k, *columns.shape[1:])
    yf, ff = jnp.sum(kernel * wy, 0), jnp.sum(kernel * matmul(m.ww, kernel), 0)
    energies = jnp.stack([yy, yf, yy - yf, yf, ff, yf - ff, yy - yf, yf - ff, yy - 2 * yf + ff])
    mean = jnp.zeros_like(yy) if bias is None else m.mean.y - matmul(m.mean.w, kernel) - bias
    return _equivalent_errors(eigen, a, energies.reshape(3, 3, -1), mean, ridge / scale**2, bias is not None)


def _equivalent_errors(
    side: Any, a: Array, energies: Array, mean: Array, ridge: Array, center: bool
) -> EquivalentErrors:
    """The three errors from labels, outputs and residuals: coefficients a (k, 3, c), mean products energies (3, 3, c).

    `e(t)` is t but for the part `f(t)` that a head learns of it: the gap is `||f(delta)||^2`, the others `||y - f(t)||^2`.
    """
    scale = unit_scale(jnp.diag(side.values)) ** 2
    side = Side(side.values / scale, side.coupling / scale, side.n)
    ridge = ridge.astype(side.values.dtype) / scale
    strength = lambda b: sample_strength(side.values, side.n, b, side.n - center)
    kappa, outside = jnp.vectorize(strength, signature="()->(),()")(ridge)
    k, _, c = a.shape
    whole, learned = (
        apply_response(response, side, a.reshape(k, -1)) for response in (projection(), _Passed(kappa, ridge))
    )
    whole, learned = whole.reshape(k, 3, c), learned.reshape(*ridge.shape, k, 3, c)
    beyond = energies - jnp.einsum("kac,kbc->abc", whole, whole, precision="highest")
    o = outside[..., None]

    def error(y: Array, y_part: int | None, t: int) -> Array:
        inside = jnp.sum(jnp.square(y - learned[..., t, :]), -2)
        left = jnp.square(o) * beyond[t, t]
        if y_part is not None:
            left = beyond[y_part, y_part] - 2 * o * beyond[y_part, t] + left
        return (inside + jnp.maximum(left, 0)).reshape(*ridge.shape, *mean.shape)

    y = whole[:, 0]
    square = mean * mean
    return EquivalentErrors(error(y, 0, 1) + square, error(y, 0, 0), error(jnp.zeros_like(y), None, 2) + square)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Passed:
    """`1 - kappa / (lambda + beta)`: the part of a label that a head learns, the optimism of its fit removed."""

    kappa: Array
    ridge: Array

    def kept(self, values: Array) -> Array:
        return values > numerically_zero(values)

    def curve(self, values: Array, n: Array):
        return lambda mu: (mu + (self.ridge - self.kappa)[..., None]) / (mu + self.ridge[..., None])
