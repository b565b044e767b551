"""The whole experiment in closed form at any ratio of rows to features: the two-stage deterministic equivalent.

A ridge head of penalty beta on n rows acts as one of strength kappa >= beta on the population, with a variance on top;
no principal subspace, no gamma. One fixed point gives kappa, the population's second moments give the mean errors of weak
head, student and ceiling and their gap (`deterministic_equivalent`); the same follows from the weak head's outputs
on the student's rows (`equivalent_errors`). Where tails are wide and flat, kappa is beta + gamma and Xue et al. 2025 returns.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax import crossfit
from w2s_jax._arrays import accumulation_dtype, as_labels, as_matrix, matmul
from w2s_jax._checks import InputError, require_finite
from w2s_jax.crossfit import Roles, Settings, StrongCells, WeakCells
from w2s_jax.filters import projection
from w2s_jax.moments import Moments
from w2s_jax.overlap import Side, centered, principal_basis, representation, whiten
from w2s_jax.spectrum import Spectrum, apply_response, numerically_zero, require_range, spectrum, unit_scale


class Tail(NamedTuple):
    """`width` features of one variance, independent of each other and of everything else; its gamma is `variance width / n`."""

    variance: Any
    width: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Population:
    """Second moments of zero-mean features and of a noise-free target: what the experiment's mean outcome depends on.

    `ww` (k_w, k_w), `ss` (k_s, k_s), `sw` (k_s, k_w), `wy` (k_w,), `sy` (k_s,) and `yy` () are `E[h_w h_w^T]` and so on. `noise`
    is the variance of the label noise on both splits, `tail_w` and `tail_s` features beyond the k_w and k_s written out.
    """

    ww: Float[Array, "k_w k_w"]
    ss: Float[Array, "k_s k_s"]
    sw: Float[Array, "k_s k_w"]
    wy: Float[Array, " k_w"]
    sy: Float[Array, " k_s"]
    yy: ArrayLike
    noise: ArrayLike = 0.0
    tail_w: Tail | None = None
    tail_s: Tail | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Equivalent:
    """Mean outcome of the experiment: squared errors of the three heads, the gap, and the strengths that acted.

    Errors are against the noise-free target, in target units squared; `kappa_weak` and `kappa_strong` in squared units of
    the representations. All have the broadcast shape of the arguments.
    """

    weak_error: Float[Array, "*grid"]
    student_error: Float[Array, "*grid"]
    ceiling_error: Float[Array, "*grid"]
    gap: Float[Array, "*grid"]
    kappa_weak: Float[Array, "*grid"]
    kappa_strong: Float[Array, "*grid"]

    @property
    def pgr(self) -> Float[Array, "*grid"]:
        """Performance gap recovered, `(Err_w - Err_w2s) / (Err_w - Err_sc)` (Burns et al. 2023)."""
        return (self.weak_error - self.student_error) / (self.weak_error - self.ceiling_error)

    def to_dict(self) -> dict[str, Any]:
        """All fields and `pgr` by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"pgr": self.pgr}

    def __repr__(self) -> str:
        if not isinstance(self.gap, Array) or isinstance(self.gap, Tracer):
            return "Equivalent(...)"
        if self.gap.ndim:
            return f"Equivalent(grid of shape {self.gap.shape})"
        return f"Equivalent({', '.join(f'{name}={float(value):.4g}' for name, value in self.to_dict().items())})"


class _Basis(NamedTuple):
    """A population in the eigenbases of its two sides, each side divided by a power of two."""

    weak: Spectrum
    strong: Spectrum
    cross: Array
    wy: Array
    sy: Array
    yy: Array
    noise: Array
    tail_w: Tail
    tail_s: Tail


class _Head(NamedTuple):
    """A ridge head on n rows: its features' spectrum, kappa, `df2 = tr Sigma^2 (Sigma + kappa)^{-2}` and `n - df2`."""

    side: Spectrum
    kappa: Array
    df2: Array
    slack: Array


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
    return jnp.vectorize(_fixed_point, signature="(k),(k),(),()->()")(values, multiplicity, n, ridge)


@jax.custom_jvp
def _fixed_point(values: Array, multiplicity: Array, n: Array, ridge: Array) -> Array:
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
        return kappa, intercept / _slack(values, multiplicity, n, kappa)

    def falls(state: tuple[Array, Array]) -> Array:
        return state[1] < state[0] * (1 - 2 * jnp.finfo(values.dtype).eps)

    kappa = jax.lax.while_loop(falls, step, step((above, above)))[1]
    return jnp.where(positive, kappa, 0) * scale


@_fixed_point.defjvp
def _fixed_point_jvp(primals: tuple, tangents: tuple) -> tuple:
    (values, multiplicity, n, ridge), (d_values, d_multiplicity, d_n, d_ridge) = primals, tangents
    kappa = _fixed_point(values, multiplicity, n, ridge)
    shrunk = _over(kappa, values + kappa)
    slack = _slack(values, multiplicity, n, kappa)
    taken = values * shrunk
    change = jnp.sum(_over(multiplicity * shrunk * shrunk, slack) * d_values + _over(taken, slack) * d_multiplicity)
    return kappa, change + _over(n, slack) * d_ridge - _over(jnp.sum(multiplicity * taken) / n, slack) * d_n


def _slack(values: Array, multiplicity: Array, n: Array, kappa: Array) -> Array:
    """`n - df2`, without cancellation where kappa is far below the eigenvalues that nearly fill the n rows."""
    kept, shrunk = _over(values, values + kappa), _over(kappa, values + kappa)
    leading = values > kappa
    full = jnp.sum(jnp.where(leading, multiplicity, 0))
    return (n - full) + jnp.sum(multiplicity * jnp.where(leading, shrunk * (1 + kept), -kept * kept))


def _over(x: Array, y: Array) -> Array:
    """x / y with 0 / 0 = 0."""
    nothing = (x == 0) & (y == 0)
    return x / jnp.where(nothing, 1, y)


def deterministic_equivalent(
    population: Population, n_labelled: ArrayLike, n_student: ArrayLike, weak_ridge: ArrayLike, strong_ridge: ArrayLike
) -> Equivalent:
    """Mean errors of weak head, student and ceiling, and their gap, for n_labelled and n_student rows.

    Args:
        population: second moments, tails and label noise.
        n_labelled, n_student: rows of the weak head's and of the student's split; need not be integers.
        weak_ridge, strong_ridge: penalties of the mean squared loss, 0 for the ridgeless limit.
            All four broadcast: arrays give a phase diagram from one pair of eigendecompositions.

    Raises:
        InputError: moments whose shapes do not fit, NaN or infinite entries, a negative ridge, noise or tail, fewer than one row.

    A head on n rows with labels t has mean `(Sigma + kappa)^{-1} E[h t]` and covariance `tau (Sigma + kappa)^{-1} Sigma
    (Sigma + kappa)^{-1}`, where `n - df2` times tau is the error of the mean head on t, label noise included. That error is
    `E t^2 - E[t h]^T (2A - A Sigma A) E[h t]` with `A = (Sigma + kappa)^{-1}`: pseudo-inverses (bias through Sigma^+ c, residual
    variance beside it) cancel, so singular covariances need none. Stage two takes `t = h_w^T theta_w` for the student,
    `y - h_w^T theta_w` for the gap, `y` for the ceiling, averaged over theta_w. A weak tail's coordinates of theta_w are pure
    variance, `tau v / (v + kappa)^2` each: with df2 over the tail too, the weak head's output varies by `tau df2`, of which
    the student's features see only the part that passes through `E[h_s h_w^T]`; the rest is label noise to it. Label noise
    enters through tau alone, so that errors are against the noise-free target. At an interpolation threshold (no ridge,
    rows = rank) errors are infinite. Heads without intercept; corrections are of order 1/n (n - d - 1 for n - d).

    Source: derived from the one-stage equivalent of ridge regression, twice; its limit of wide flat tails is Xue et al. 2025.
    """
    population = _checked(population)
    for name, value, least in (
        ("n_labelled", n_labelled, 1),
        ("n_student", n_student, 1),
        ("weak_ridge", weak_ridge, 0),
        ("strong_ridge", strong_ridge, 0),
    ):
        require_range(name, value, least)
    numbers = [jnp.asarray(x, population.ww.dtype) for x in (n_labelled, n_student, weak_ridge, strong_ridge)]
    try:
        jnp.broadcast_shapes(*map(jnp.shape, numbers))
    except ValueError as error:
        shapes = [jnp.shape(x) for x in numbers]
        raise InputError(f"numbers of rows and ridges must broadcast, got shapes {shapes}") from error
    return _equivalent(population, *numbers)


@jax.jit
def _equivalent(p: Population, n_w: Array, n_s: Array, ridge_w: Array, ridge_s: Array) -> Equivalent:
    scale_w, scale_s = unit_scale(p.ww), unit_scale(p.ss)
    weak, strong = spectrum(p.ww / scale_w**2, 1), spectrum(p.ss / scale_s**2, 1)
    cross = matmul(matmul(strong.vectors.T, p.sw / scale_w / scale_s), weak.vectors)
    wy, sy = matmul(weak.vectors.T, p.wy / scale_w), matmul(strong.vectors.T, p.sy / scale_s)
    tail_w, tail_s = _scaled_tail(p.tail_w, scale_w), _scaled_tail(p.tail_s, scale_s)
    basis = _Basis(weak, strong, cross, wy, sy, jnp.asarray(p.yy), jnp.asarray(p.noise), tail_w, tail_s)
    point = jnp.vectorize(partial(_outcome, basis), signature=f"(),(),(),()->{','.join(['()'] * 6)}")
    outcome = Equivalent(*point(n_w, n_s, ridge_w / scale_w**2, ridge_s / scale_s**2))
    kappas = outcome.kappa_weak * scale_w**2, outcome.kappa_strong * scale_s**2
    return replace(outcome, kappa_weak=kappas[0], kappa_strong=kappas[1])


def _scaled_tail(tail: Tail | None, scale: Array) -> Tail:
    tail = Tail(0.0, 0.0) if tail is None else tail
    return Tail(tail.variance / scale**2, jnp.asarray(tail.width, scale.dtype))


def _outcome(p: _Basis, n_w: Array, n_s: Array, ridge_w: Array, ridge_s: Array) -> tuple[Array, ...]:
    """Weak, student and ceiling error, gap, and the two kappas at one point."""
    weak, strong = _head(p.weak, p.tail_w, n_w, ridge_w), _head(p.strong, p.tail_s, n_s, ridge_s)
    theta = _apply(_Root, weak, _apply(_Root, weak, p.wy))
    taught = matmul(p.cross, theta)
    spread = _apply(_Half, weak, p.cross.T).T
    mean_error = _positive(p.yy - _caught(weak, p.wy))
    tau = _over(mean_error + p.noise, weak.slack)
    passed, unseen = _output(strong, spread), _positive(weak.df2 - _caught(strong, spread))
    inflation = _over(strong.df2, strong.slack)

    def fitted(mean: Array, residual: Array) -> Array:
        """Squared output or error of the mean student, plus its variance, over the weak head's distribution."""
        return mean + _times(tau, passed) + _times(inflation, _positive(residual) + _times(tau, unseen))

    student_mean = p.yy - 2 * _agreement(strong, p.sy, taught) + _output(strong, taught)
    student = fitted(_positive(student_mean), _output(weak, p.wy) - _caught(strong, taught))
    lost = p.sy - taught
    gap = fitted(_output(strong, lost), mean_error + p.noise - _caught(strong, lost))
    ceiling_mean = _positive(p.yy - _caught(strong, p.sy))
    ceiling = ceiling_mean + _times(inflation, ceiling_mean + p.noise)
    return mean_error + _times(tau, weak.df2), student, ceiling, gap, weak.kappa, strong.kappa


def _head(side: Spectrum, tail: Tail, n: Array, ridge: Array) -> _Head:
    kept = jnp.where(side.values > numerically_zero(side.values), side.values, 0)
    values = jnp.append(kept, tail.variance)
    multiplicity = jnp.append(jnp.ones_like(kept), tail.width)
    kappa = _fixed_point(values, multiplicity, n, ridge)
    df2 = jnp.sum(multiplicity * jnp.square(_over(values, values + kappa)))
    slack = _slack(values, multiplicity, n, kappa)
    # With no ridge and as many rows as features the difference is rounding: the threshold itself.
    return _Head(side, kappa, df2, jnp.where(slack > 4 * jnp.finfo(slack.dtype).eps * n, slack, 0))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Root:
    """`(lambda + kappa)^{-1/2}` on eigenvalues that are not numerically zero."""

    kappa: Array

    def kept(self, values: Array) -> Array:
        return values > numerically_zero(values)

    def curve(self, values: Array, n: Array):
        return lambda mu: jax.lax.rsqrt(jnp.where(mu > 0, mu, 1) + self.kappa)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Half(_Root):
    """`lambda^{1/2} / (lambda + kappa)`: a head's output per unit of the moment `E[h t]`."""

    def curve(self, values: Array, n: Array):
        def response(mu: Array) -> Array:
            safe = jnp.where(mu > 0, mu, 1)
            return jnp.sqrt(safe) / (safe + self.kappa)

        return response


def _apply(response: type[_Root], head: _Head, x: Array) -> Array:
    return apply_response(response(head.kappa), head.side, x.reshape(x.shape[0], -1)).reshape(x.shape)


def _agreement(head: _Head, x: Array, y: Array) -> Array:
    """`E[t f]` of labels t with moment x and the mean head f fitted to labels with moment y: `x^T (Sigma + kappa)^{-1} y`."""
    return jnp.sum(_apply(_Root, head, x) * _apply(_Root, head, y))


def _output(head: _Head, x: Array) -> Array:
    """`E f^2` of the mean head fitted to labels with moment x, summed over columns."""
    return jnp.sum(jnp.square(_apply(_Half, head, x)))


def _caught(head: _Head, x: Array) -> Array:
    """By how much the mean head f fitted to labels t with moment x reduces their energy: `E t^2 - E (t - f)^2`."""
    return 2 * _agreement(head, x, x) - _output(head, x)


def _positive(x: Array) -> Array:
    """What is a difference of nearly equal energies, never below 0."""
    return jnp.maximum(x, 0)


def _times(x: Array, y: Array) -> Array:
    """x y with infinity times 0 = 0."""
    return jnp.where(y == 0, 0, x * jnp.where(y == 0, 1, y))


def _checked(p: Population) -> Population:
    if not isinstance(p, Population):
        raise InputError(f"population must be a Population, such as a family's .population, got {type(p).__name__}")
    ww, ss, sw = (
        as_matrix("population's ww", p.ww),
        as_matrix("population's ss", p.ss),
        as_matrix("population's sw", p.sw),
    )
    k_s, k_w = sw.shape
    shapes = {"ww": (k_w, k_w), "ss": (k_s, k_s), "wy": (k_w,), "sy": (k_s,), "yy": (), "noise": ()}
    for name, shape in shapes.items():
        if jnp.shape(getattr(p, name)) != shape:
            raise InputError(f"population's {name} must have shape {shape}, got {jnp.shape(getattr(p, name))}")
    for name, tail in (("tail_w", p.tail_w), ("tail_s", p.tail_s)):
        require_range(f"population's {name}.variance", None if tail is None else tail.variance, 0)
        require_range(f"population's {name}.width", None if tail is None else tail.width, 0)
    require_range("population's noise", p.noise, 0)
    require_range("population's yy", p.yy, 0)
    vectors = jnp.asarray(p.wy), jnp.asarray(p.sy)
    for name, vector in zip(("wy", "sy"), vectors, strict=True):
        require_finite(f"population's {name}", vector)
    dtype = accumulation_dtype(ww.dtype, ss.dtype, sw.dtype)
    rest = jax.tree.map(lambda x: jnp.asarray(x, dtype), (*vectors, p.yy, p.noise, p.tail_w, p.tail_s))
    return Population(ww.astype(dtype), ss.astype(dtype), sw.astype(dtype), *rest)


def effective_ridge_from_spectrum(
    values: Float[ArrayLike, "*batch k"], n: ArrayLike, ridge: ArrayLike, *, center: bool = False
) -> Float[Array, "*grid"]:
    """The same strength from one sample's spectrum: `kappa = 1 / ((1/n) tr (K/n + ridge)^{-1})`.

    Args:
        values: eigenvalues of `K/n` (or of `H^T H / n`), descending (k,); the n - k that are missing count as zeros.
        n: rows of the sample; any shape that broadcasts, as for `ridge`. At ridge 0 the limit.
        center: columns were centred (heads with an intercept): the trace runs over n - 1 directions.

    Raises:
        InputError: a negative ridge or fewer than one row.

    Source: generalized cross-validation, whose denominator is `ridge / kappa`.
    """
    require_range("ridge", ridge, 0)
    require_range("n", n, 1)
    values = jnp.asarray(values)
    require_finite("values", values)
    dtype = accumulation_dtype(jnp.result_type(values, float))
    arguments = (jnp.asarray(x, dtype) for x in (values, n, ridge))
    return _strengths(*arguments, center)


@partial(jax.jit, static_argnames="center")
def _strengths(values: Array, n: Array, ridge: Array, center: bool) -> Array:
    kappa = lambda v, n, b: _strength(v, n, b, n - center)[0]
    return jnp.vectorize(kappa, signature="(k),(),()->()")(values, n, ridge)


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
    strength = lambda b: _strength(side.values, side.n, b, side.n - center)
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
        return (inside + _positive(left)).reshape(*ridge.shape, *mean.shape)

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


def _strength(values: Array, n: Array, ridge: Array, directions: Array) -> tuple[Array, Array]:
    """`kappa = n / tr (K/n + beta)^{-1}`, and `1 - kappa / beta` in directions without an eigenvalue (0 if there are none)."""
    kept = values > numerically_zero(values)
    zeros = jnp.maximum(directions - jnp.sum(kept), 0)
    inside = jnp.sum(jnp.where(kept, 1 / (jnp.where(kept, values, 1) + ridge), 0))
    # Times beta where there are zeros, so that neither 1 / beta nor its limit is ever formed.
    factor = jnp.where(zeros > 0, ridge, 1)
    share = n / (factor * inside + zeros)
    return factor * share, jnp.where(zeros > 0, 1 - share, 0)


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
        InputError: widths that differ, a negative ridge or noise.

    Errors are in units of the labels' mean square, without the noise that students and ceilings of all weak models share.

    Source: closed form of the cross-fitted experiment; one of those that `rank_supervisors` averages.
    """
    for name, value in (("weak_ridge", weak_ridge), ("strong_ridge", strong_ridge), ("noise", noise)):
        require_range(name, value, 0)
    blocks = (labelled, student, test)
    shapes = [block.sw.shape for block in blocks]
    if len(set(shapes)) > 1:
        raise InputError(f"labelled, student and test must have the same widths (strong, weak), got {shapes}")
    return _expected(blocks, weak_ridge, strong_ridge, prior, noise)


@jax.jit
def _expected(blocks: tuple, weak_ridge: Array, strong_ridge: Array, prior: Array, noise: Array) -> tuple[Array, Array]:
    n, ww, ss, sw = (jnp.stack([getattr(block, name) for block in blocks]) for name in ("n", "ww", "ss", "sw"))
    scale_w, scale_s = unit_scale(ww[0]), unit_scale(ss[0])
    ww, ss, sw = ww / scale_w**2, ss / scale_s**2, sw / scale_w / scale_s
    rows = n[:, None, None]
    pooled = spectrum(jnp.sum(rows * ss, 0) / jnp.sum(n), 1)
    V = pooled.vectors
    cells = StrongCells(n, jnp.zeros_like(ss[..., 0]), rows * matmul(matmul(V.T, ss), V))
    weak = WeakCells(jnp.zeros_like(ww[..., 0]), rows * ww, rows * matmul(V.T, sw))
    roles = Roles(*jnp.eye(3, dtype=n.dtype)[:, None])
    ridges = weak_ridge / scale_w**2, strong_ridge / scale_s**2
    settings = Settings(*(jnp.asarray(x, n.dtype) for x in (*ridges, 0, prior, noise)))
    strong = crossfit.prepare_expected(cells, pooled.values, roles, settings)
    heads = crossfit.weak_heads(weak, n, roles.fit, settings.weak_ridge)
    error, gap = crossfit.expected_experiment(strong, weak, heads, n, roles, settings.noise)
    return error.value, gap.value
