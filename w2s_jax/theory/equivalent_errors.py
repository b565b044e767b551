"""The deterministic equivalent from data: errors of student and ceiling from the weak head's outputs on the student's rows.

What equivalent.py says of a known population, for the rows or the moments at hand.
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
from w2s_jax._core.response import OnNonzero, apply_response, in_units
from w2s_jax.filters import projection
from w2s_jax.heads.from_moments import parts
from w2s_jax.heads.ridge import LinearProbe
from w2s_jax.moments import ModelMoments, Moments
from w2s_jax.overlap import centered, principal_basis, representation, whiten
from w2s_jax.spectrum import spectrum
from w2s_jax.theory.kappa import sample_strength


class EquivalentErrors(NamedTuple):
    """Errors of student and ceiling on fresh rows against the labels, noise included, and their gap; (grid, c) each.

    >>> h = jnp.eye(3, 1)
    >>> equivalent_errors(h, h[:, 0], h[:, 0], 0.1)._fields
    ('student_error', 'ceiling_error', 'gap')
    """

    student_error: Array
    ceiling_error: Array
    gap: Array


def equivalent_errors(
    h_s: Float[ArrayLike, "n d_s"],
    y: ArrayLike,
    weak_outputs: ArrayLike,
    strong_ridge: ArrayLike,
    *,
    bias: bool = False,
) -> EquivalentErrors:
    """Student and ceiling on fresh rows, and their gap, from the student's rows and the weak head's outputs on them.

    Args:
        h_s: strong representation (n, d_s); its d x d or n x n side is used, whichever is smaller.
        y: true labels (n,) or (n, c).
        weak_outputs: outputs of the weak head in the shape of y, fitted on other rows. With y = delta and outputs 0 the gap
            is that of the residuals delta alone.
        strong_ridge: penalty of the mean squared loss, any shape (it comes first in the result); at 0 the limit.
        bias: the student has an intercept.

    Raises:
        InputError: shapes that do not fit, a representation of zeros, NaN or infinite entries, a negative ridge.

    With `W = beta (K/n + beta)^{-1}`, the map from labels t to training residuals, a head's residuals on fresh rows are as
    large as `e(t) = n W t / tr W` (`kappa / beta = n / tr W`): generalized cross-validation. For `delta = y - f_w` the gap is
    `||delta - e(delta)||^2 / n`, the student's error `||delta + e(f_w)||^2 / n`, the ceiling's `||e(y)||^2 / n`. An intercept is
    a direction that W takes to zero: the mean of delta passes whole, and the trace loses one.

    >>> h, y = jnp.arange(1.0, 5.0)[:, None], jnp.arange(1.0, 5.0)
    >>> found = equivalent_errors(h, y, weak_outputs=y, strong_ridge=0.1)  # a perfect teacher
    >>> round(float(found.gap), 4), bool(jnp.isclose(found.student_error, found.ceiling_error))
    (0.0, True)

    Source: derived for this package (generalized cross-validation of two stages), no split into V and tail.
    """
    h_s = representation("strong representations", h_s)
    y = as_labels("labels", y, h_s.shape[0])
    weak_outputs = as_labels("weak outputs", weak_outputs, h_s.shape[0])
    if weak_outputs.shape != y.shape:
        raise InputError(f"weak outputs must have the labels' shape {y.shape}, got {weak_outputs.shape}")
    require_range("strong_ridge", strong_ridge, 0)
    return _errors_of_rows(h_s, y, weak_outputs, jnp.asarray(strong_ridge), bias)


@partial(jax.jit, static_argnames="bias")
def _errors_of_rows(h_s: Array, y: Array, outputs: Array, ridge: Array, bias: bool) -> EquivalentErrors:
    basis, side = principal_basis(h_s, bias)
    # The residuals are subtracted before anything else is done to them: they may be small.
    columns = [x.astype(basis.dtype) for x in (y, outputs, y - outputs)]
    mean = jnp.mean(columns[2], 0) * bias
    n = y.shape[0]
    flat = jnp.stack([(centered(x) if bias else x).reshape(n, -1) for x in columns], 1)
    a = matmul(basis.T, flat.reshape(n, -1)).reshape(-1, *flat.shape[1:]) / n**0.5
    energies = jnp.einsum("nac,nbc->abc", flat, flat, precision="highest") / n
    return _equivalent_errors(_fit(side, a, energies, ridge, bias), mean)


@partial(jax.jit, static_argnames="bias")
def fresh_error(h: Array, y: Array, ridge: Array, bias: bool) -> Array:
    """Error on fresh rows, by output, of a ridge head fitted to the labels of these rows: `||e(y)||^2 / n`."""
    basis, side = principal_basis(h, bias)
    y = (centered(y) if bias else y.astype(basis.dtype)).reshape(y.shape[0], -1)
    n = y.shape[0]
    a = matmul(basis.T, y)[:, None] / n**0.5
    return _fit(side, a, jnp.sum(y * y, 0)[None, None] / n, ridge, bias).error(0, 0)


def equivalent_errors_from_moments(m: Moments, weak: LinearProbe, strong_ridge: ArrayLike) -> EquivalentErrors:
    """`equivalent_errors` from the second moments of the student's rows and the weak head alone: any number of rows.

    Args:
        m: moments of the student's split, with labels; centred if the heads have intercepts.
        weak: the weak head, fitted on other rows, with a bias if and only if the moments are centred.
        strong_ridge: penalty of the mean squared loss, any shape (it comes first in the result); at 0 the limit.

    Raises:
        InputError: no labels, no probe or one that does not fit, a bias too many or too few, a negative ridge.

    The moments of `delta = y - f_w` are linear and quadratic in the kernel: `E h_s delta = sy - sw kernel` and
    `E delta^2 = yy - 2 wy kernel + kernel ww kernel`. Precision: as for `overlap_from_moments`.

    >>> from w2s_jax import moments
    >>> h, y = jnp.arange(1.0, 5.0)[:, None], jnp.arange(1.0, 5.0)
    >>> found = equivalent_errors_from_moments(moments(h, h, y), LinearProbe(jnp.ones(1)), 0.1)  # a perfect teacher
    >>> round(float(found.gap), 4)
    0.0

    Source: as `equivalent_errors`, through its sufficient moments.
    """
    if not isinstance(weak, LinearProbe):
        raise InputError(f"weak must be a LinearProbe, got {type(weak).__name__}")
    kernel, bias = parts(weak)
    if m.wy is None:
        raise InputError("moments must have labels, got some made without y")
    if kernel.shape != m.wy.shape:
        raise InputError(f"weak must have a kernel of shape {m.wy.shape} like the moments' wy, got {kernel.shape}")
    if (bias is None) == m.is_centred:
        given = "got none" if bias is None else f"got one of shape {jnp.shape(bias)} with moments that are not centred"
        raise InputError(f"weak must have a bias if and only if the moments are centred, {given}")
    require_range("strong_ridge", strong_ridge, 0)
    return _errors_of_moments(m, kernel, jnp.asarray(strong_ridge), bias)


@jax.jit
def _errors_of_moments(m: Moments, kernel: Array, ridge: Array, bias: Array | None) -> EquivalentErrors:
    eigen = spectrum(m.ss, m.n)
    wy, sy, yy = (jnp.asarray(label) for label in (m.wy, m.sy, m.yy))
    taught = matmul(m.sw, kernel)
    columns = jnp.stack([x.reshape(x.shape[0], -1) for x in (sy, taught, sy - taught)], 1)
    k, flat = columns.shape[0], columns.reshape(columns.shape[0], -1)
    a = whiten(eigen, matmul(eigen.vectors.T, flat)).reshape(k, *columns.shape[1:])
    yf, ff = jnp.sum(kernel * wy, 0), jnp.sum(kernel * matmul(m.ww, kernel), 0)
    energies = jnp.stack([yy, yf, yy - yf, yf, ff, yf - ff, yy - yf, yf - ff, yy - 2 * yf + ff])
    mean = jnp.zeros_like(yy) if bias is None else jnp.asarray(m.strong.label_mean) - matmul(m.weak.mean, kernel) - bias
    fit = _fit(eigen, a, energies.reshape(3, 3, -1), ridge, bias is not None)
    return _equivalent_errors(fit, mean)


@jax.jit
def fresh_error_from_moments(m: ModelMoments, ridge: Array) -> Array:
    """`fresh_error` from a model's moments with labels."""
    eigen = spectrum(m.hh, m.n)
    hy = jnp.asarray(m.hy).reshape(m.hh.shape[0], -1)
    a = whiten(eigen, matmul(eigen.vectors.T, hy))
    return fresh_error_from_coefficients(eigen, a, jnp.asarray(m.yy).reshape(-1), ridge, m.is_centred)


def fresh_error_from_coefficients(side: Any, a: Array, energy: Array, ridge: Array, bias: bool) -> Array:
    """`fresh_error` from a model's spectrum, the labels' coefficients a (k, c) in its eigenbasis and mean squares (c,)."""
    return _fit(side, a[:, None], energy[None, None], ridge, bias).error(0, 0)


class _Fit(NamedTuple):
    """What a head makes of p label vectors: their parts in the eigenbasis `whole` (k, p, c), what it learns of those, optimism
    removed, `learned` (grid, k, p, c); products of the parts beyond the basis (p, p, c), and the share it learns of them."""

    whole: Array
    learned: Array
    beyond: Array
    outside: Array

    def error(self, y: int | None, t: int) -> Array:
        """`||y - f(t)||^2` (grid, c) of label vectors y and t, or `||f(t)||^2`."""
        target = jnp.zeros_like(self.whole[:, 0]) if y is None else self.whole[:, y]
        inside = jnp.sum(jnp.square(target - self.learned[..., t, :]), -2)
        left = jnp.square(self.outside) * self.beyond[t, t]
        if y is not None:
            left = self.beyond[y, y] - 2 * self.outside * self.beyond[y, t] + left
        return inside + jnp.maximum(left, 0)


def _fit(side: Any, a: Array, energies: Array, ridge: Array, bias: bool) -> _Fit:
    """From coefficients a (k, p, c) and mean products of the label vectors (p, p, c)."""
    side, scale = in_units(side)
    ridge = ridge.astype(side.values.dtype) / scale**2
    strength = lambda b: sample_strength(side.values, side.n, b, side.n - bias)
    kappa, outside = jnp.vectorize(strength, signature="()->(),()")(ridge)
    flat = a.reshape(len(a), -1)
    whole, learned = (apply_response(response, side, flat) for response in (projection(), _Passed(kappa, ridge)))
    whole, learned = whole.reshape(a.shape), learned.reshape(*ridge.shape, *a.shape)
    beyond = energies - jnp.einsum("kac,kbc->abc", whole, whole, precision="highest")
    return _Fit(whole, learned, beyond, outside[..., None])


def _equivalent_errors(fit: _Fit, mean: Array) -> EquivalentErrors:
    """From a head's fit of labels, outputs and residuals, and the mean of the residuals, () or (c,), which passes whole.

    `e(t)` is t but for the part `f(t)` that a head learns of it: the gap is `||f(delta)||^2`, the others `||y - f(t)||^2`.
    """
    shaped = lambda error: error.reshape(*error.shape[:-1], *mean.shape)
    student, ceiling, gap = (shaped(fit.error(y, t)) for y, t in ((0, 1), (0, 0), (None, 2)))
    return EquivalentErrors(student + mean * mean, ceiling, gap + mean * mean)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Passed(OnNonzero):
    """`1 - kappa / (lambda + beta)`: the part of a label that a head learns, the optimism of its fit removed."""

    kappa: Array
    ridge: Array

    def curve(self, values: Array, n: Array):
        return lambda mu: (mu + (self.ridge - self.kappa)[..., None]) / (mu + self.ridge[..., None])
