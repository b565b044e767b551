"""The whole experiment in closed form at any ratio of rows to features: the two-stage deterministic equivalent.

A ridge head of penalty beta on n rows acts as one of strength kappa >= beta on the population, with a variance on top;
no principal subspace, no gamma. One fixed point gives kappa (kappa.py), the population's second moments give the mean
errors of weak head, student and ceiling and their gap; the same follows from data (equivalent_errors.py). Where tails are
wide and flat, kappa is beta + gamma and Xue et al. 2025 returns.
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

from w2s_jax._core.arrays import accumulation_dtype, as_matrix, matmul
from w2s_jax._core.checks import InputError, require_finite, require_range
from w2s_jax._core.factor import numerically_zero
from w2s_jax._core.response import OnNonzero, Power, apply_response
from w2s_jax.spectrum import Spectrum, spectrum
from w2s_jax.theory.kappa import fixed_point, over, slack_of


class Tail(NamedTuple):
    """`width` features of one variance, independent of each other and of everything else; its gamma is `variance width / n`.

    >>> Tail(variance=0.01, width=3000)  # gamma = 0.3 on 100 rows
    Tail(variance=0.01, width=3000)
    """

    variance: ArrayLike
    width: float | Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Population:
    """Second moments of zero-mean features and of a noise-free target: what the experiment's mean outcome depends on.

    `ww` (k_w, k_w), `ss` (k_s, k_s), `sw` (k_s, k_w), `wy` (k_w,), `sy` (k_s,) and `yy` () are `E[h_w h_w^T]` and so on. `noise`
    is the variance of the label noise on both splits, `tail_w` and `tail_s` features beyond the k_w and k_s written out.

    >>> one = jnp.ones((1, 1))
    >>> population = Population(ww=one, ss=one, sw=one, wy=one[0], sy=one[0], yy=1.0, tail_w=Tail(0.01, 3000))
    >>> population.tail_w.width, population.noise
    (3000, 0.0)
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

    >>> one = jnp.ones((1, 1))
    >>> population = Population(ww=one, ss=one, sw=one, wy=one[0], sy=one[0], yy=1.0)
    >>> found = deterministic_equivalent(population, jnp.array([10, 100]), 100, 0.1, 0.1)
    >>> found, found.pgr.shape
    (Equivalent(grid of shape (2,)), (2,))
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


class Rotated(NamedTuple):
    """A population in the eigenbases of its two sides; `student_noise` is the label noise that the ceiling sees."""

    weak: Spectrum
    strong: Spectrum
    cross: Array
    wy: Array
    sy: Array
    yy: Array
    noise: Array
    student_noise: Array
    tail_w: Tail
    tail_s: Tail


class _Stage(NamedTuple):
    """A ridge head on n rows: its features' spectrum, kappa, `df2 = tr Sigma^2 (Sigma + kappa)^{-2}` and `n - df2`."""

    side: Spectrum
    kappa: Array
    df2: Array
    slack: Array


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

    >>> one = jnp.ones((1, 1))
    >>> population = Population(ww=one, ss=one, sw=one, wy=one[0], sy=one[0], yy=1.0)
    >>> found = deterministic_equivalent(population, 100, 100, 0.1, 0.1)
    >>> round(float(found.kappa_weak), 4), bool(found.student_error > found.ceiling_error)
    (0.1009, True)

    Source: derived from the one-stage equivalent of ridge regression, twice; its limit of wide flat tails is Xue et al. 2025.
    """
    population = checked_population(population)
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


def of_labels(population: Population, labels: Array) -> Rotated:
    """The population with targets `h_s^T theta`, `labels` (d_s, d_s) being `E[theta theta^T]`, for errors on average over them.

    The equivalent's formulas are quadratic in the target, so that one with the columns of a root of `labels` for outputs does.
    `wy`, `sy` and `yy` of the population do not count, and the ceiling's own noise is left out, which all weak models share.
    """
    of = spectrum(labels, 1)
    root = matmul(
        of.vectors, apply_response(Power(jnp.asarray(0.5, labels.dtype)), of, jnp.eye(len(labels), dtype=labels.dtype))
    )
    sy = matmul(population.ss, root)
    averaged = replace(population, wy=matmul(population.sw.T, root), sy=sy, yy=jnp.sum(root * sy))
    return rotated(averaged, jnp.zeros_like(of.n))


def planned_errors(
    population: Population, labels: Array, n_labelled: Array, n_student: Array, weak_ridge: Array, strong_ridge: Array
) -> tuple[Array, Array]:
    """Mean student error and gap on average over targets, as in `of_labels`."""
    found = outcomes(of_labels(population, labels), n_labelled, n_student, weak_ridge, strong_ridge)
    return found.student_error, found.gap


@jax.jit
def _equivalent(p: Population, n_w: Array, n_s: Array, ridge_w: Array, ridge_s: Array) -> Equivalent:
    return outcomes(rotated(p), n_w, n_s, ridge_w, ridge_s)


def rotated(p: Population, student_noise: Array | None = None) -> Rotated:
    """A checked population in its eigenbases."""
    weak, strong = spectrum(p.ww, 1), spectrum(p.ss, 1)
    cross = matmul(matmul(strong.vectors.T, p.sw), weak.vectors)
    wy, sy = matmul(weak.vectors.T, p.wy), matmul(strong.vectors.T, p.sy)
    none = Tail(*jnp.zeros((2,), p.ww.dtype))
    tails = p.tail_w or none, p.tail_s or none
    noise = jnp.asarray(p.noise)
    student_noise = noise if student_noise is None else student_noise
    return Rotated(weak, strong, cross, wy, sy, jnp.asarray(p.yy), noise, student_noise, *tails)


def outcomes(basis: Rotated, n_w: Array, n_s: Array, ridge_w: Array, ridge_s: Array) -> Equivalent:
    """The equivalent at numbers that broadcast."""
    point = jnp.vectorize(partial(_outcome, basis), signature=f"(),(),(),()->{','.join(['()'] * 6)}")
    return Equivalent(*point(n_w, n_s, ridge_w, ridge_s))


def _outcome(p: Rotated, n_w: Array, n_s: Array, ridge_w: Array, ridge_s: Array) -> tuple[Array, ...]:
    """Weak, student and ceiling error, gap, and the two kappas at one point."""
    weak, strong = _stage(p.weak, p.tail_w, n_w, ridge_w), _stage(p.strong, p.tail_s, n_s, ridge_s)
    theta = _apply(_Root, weak, _apply(_Root, weak, p.wy))
    taught = matmul(p.cross, theta)
    spread = _apply(_Half, weak, p.cross.T).T
    mean_error = _positive(p.yy - _caught(weak, p.wy))
    tau = over(mean_error + p.noise, weak.slack)
    passed, unseen = _output(strong, spread), _positive(weak.df2 - _caught(strong, spread))
    inflation = over(strong.df2, strong.slack)

    def fitted(mean: Array, residual: Array) -> Array:
        """Squared output or error of the mean student, plus its variance, over the weak head's distribution."""
        return mean + _times(tau, passed) + _times(inflation, _positive(residual) + _times(tau, unseen))

    student_mean = p.yy - 2 * _agreement(strong, p.sy, taught) + _output(strong, taught)
    student = fitted(_positive(student_mean), _output(weak, p.wy) - _caught(strong, taught))
    lost = p.sy - taught
    gap = fitted(_output(strong, lost), mean_error + p.student_noise - _caught(strong, lost))
    ceiling_mean = _positive(p.yy - _caught(strong, p.sy))
    ceiling = ceiling_mean + _times(inflation, ceiling_mean + p.student_noise)
    return mean_error + _times(tau, weak.df2), student, ceiling, gap, weak.kappa, strong.kappa


def _stage(side: Spectrum, tail: Tail, n: Array, ridge: Array) -> _Stage:
    kept = jnp.where(side.values > numerically_zero(side.values), side.values, 0)
    values = jnp.append(kept, tail.variance)
    multiplicity = jnp.append(jnp.ones_like(kept), tail.width)
    kappa = fixed_point(values, multiplicity, n, ridge)
    df2 = jnp.sum(multiplicity * jnp.square(over(values, values + kappa)))
    slack = slack_of(values, multiplicity, n, kappa)
    # With no ridge and as many rows as features the difference is rounding: the threshold itself.
    return _Stage(side, kappa, df2, jnp.where(slack > 4 * jnp.finfo(slack.dtype).eps * n, slack, 0))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Root(OnNonzero):
    """`(lambda + kappa)^{-1/2}` on eigenvalues that are not numerically zero."""

    kappa: Array

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


def _apply(response: type[_Root], head: _Stage, x: Array) -> Array:
    return apply_response(response(head.kappa), head.side, x.reshape(x.shape[0], -1)).reshape(x.shape)


def _agreement(head: _Stage, x: Array, y: Array) -> Array:
    """`E[t f]` of labels t with moment x and the mean head f fitted to labels with moment y: `x^T (Sigma + kappa)^{-1} y`."""
    return jnp.sum(_apply(_Root, head, x) * _apply(_Root, head, y))


def _output(head: _Stage, x: Array) -> Array:
    """`E f^2` of the mean head fitted to labels with moment x, summed over columns."""
    return jnp.sum(jnp.square(_apply(_Half, head, x)))


def _caught(head: _Stage, x: Array) -> Array:
    """By how much the mean head f fitted to labels t with moment x reduces their energy: `E t^2 - E (t - f)^2`."""
    return 2 * _agreement(head, x, x) - _output(head, x)


def _positive(x: Array) -> Array:
    """What is a difference of nearly equal energies, never below 0."""
    return jnp.maximum(x, 0)


def _times(x: Array, y: Array) -> Array:
    """x y with infinity times 0 = 0."""
    return jnp.where(y == 0, 0, x * jnp.where(y == 0, 1, y))


def checked_population(p: Population) -> Population:
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
