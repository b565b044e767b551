"""Linear heads trained by gradients, for any loss: L-BFGS to a tolerance, or any optax optimiser for a number of steps.

A head minimises `1/n sum loss(theta^T h_i + bias, y_i) + ridge ||theta||^2`; the bias carries no penalty. `vmap` over labels,
penalties, weights or representations trains an ensemble in one program, and a representation that its members share is
multiplied with all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax._core.arrays import matmul, outer
from w2s_jax._core.checks import require_choice, require_range, warn_of_missing_classes
from w2s_jax._core.factor import inverse_factor, qr
from w2s_jax._core.normalize import Normalize
from w2s_jax.heads.losses import Loss, LossName, as_loss, squared
from w2s_jax.heads.ridge import LinearProbe, WeightedRows, checked_rows, on_one_scale, probe_through, weigh

LBFGS_STEPS = 500
FIRST_ORDER_STEPS = 1000
SEARCH_STEPS = 12
SLOPE_LEFT = 0.1  # a line search ends where this share of the initial slope is left


class TrainedProbe(NamedTuple):
    """A head trained by gradients, and how far it got.

    `converged` (): the gradient norm is at most the tolerance. `gradient_norm` (): relative to that of a zero kernel,
    in the optimiser's coordinates. `steps` (): steps taken. `loss` (): mean loss plus penalty.

    >>> trained = train_probe([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0], ridge=0.0)
    >>> bool(trained.converged), round(float(trained.probe([[10.0]])[0]), 2)
    (True, 21.0)
    """

    probe: LinearProbe
    converged: Array
    gradient_norm: Array
    steps: Array
    loss: Array


def train_probe(
    h: Float[ArrayLike, "n d"],
    y: ArrayLike,
    ridge: ArrayLike = 1e-3,
    loss: LossName | Loss = "squared",
    *,
    bias: bool = True,
    normalize: Normalize = "none",
    weights: Float[ArrayLike, " n"] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    tolerance: ArrayLike | None = None,
    max_steps: ArrayLike | None = None,
    start: LinearProbe | None = None,
) -> TrainedProbe:
    """A head `argmin 1/n sum loss(theta^T h_i + bias, y_i) + ridge ||theta||^2`, trained by gradients on all rows.

    By default L-BFGS in coordinates in which the loss's curvature is about the identity (one Cholesky factor: the cost
    of a closed-form ridge fit), with a line search along the outputs: two products with h per step. The result is
    differentiable in all arrays through its optimality condition. Any optax optimiser steps on kernel and bias
    themselves, rows taken about their mean if there is a bias. Gradient descent of rate eta for T steps on the squared
    loss without penalty is the filter `gradient_flow(2 eta T)` (centred if there is a bias) as eta -> 0.

    Args:
        h: representation (n, d).
        y: labels (n,) or (n, c), for classification losses in [0, 1].
        ridge: penalty, as in `ridge_probe`; scikit-learn's `C` is `1 / (2 n ridge)`.
        loss: "squared", "logistic", "softmax" or a `Loss`; one with a moving target (`confidence_auxiliary`) takes all
            `max_steps` and `optax.adam(1e-2)` if no optimiser is given.
        bias: with an intercept, not penalised.
        normalize: as in `ridge_probe`: penalty and steps are those of a head on features of one scale.
        weights: weight of each row (n,) in the mean; 0 leaves a row out, default all 1.
        optimizer: optax optimiser instead of L-BFGS; each new object compiles once.
        tolerance: gradient norm to reach, relative to that of a zero kernel with the best constant (default 1e-6, in
            float64 1e-12; L-BFGS measures it in its own coordinates, where it is about the relative error of the fit).
        max_steps: most steps to take, default 500, of a given optimiser 1000.
        start: head to start from, default zero with the best constant.

    Raises:
        InputError: shapes that do not fit, NaN or infinite entries, a negative penalty, labels out of the loss's range,
            an unknown loss.

    >>> h, y = [[-2.0], [-1.0], [1.0], [2.0]], [0.0, 0.0, 1.0, 1.0]
    >>> probe = train_probe(h, y, loss="logistic").probe
    >>> (probe(h) > 0).tolist()
    [False, False, True, True]

    Source: Xue et al. 2025, heads of the setting, for any loss; Medvedev et al. 2025 for gradient flow.
    """
    loss = as_loss(loss)
    h, y, weights = checked_rows(h, y, weights)
    loss.check(y)
    if not isinstance(loss, squared):
        warn_of_missing_classes("the rows", y)
    require_choice("normalize", normalize, Normalize)
    for name, value in (("ridge", ridge), ("tolerance", tolerance), ("max_steps", max_steps)):
        require_range(name, value, 0)
    if loss.moving and optimizer is None:
        optimizer = optax.adam(1e-2)
    if max_steps is None:
        max_steps = LBFGS_STEPS if optimizer is None else FIRST_ORDER_STEPS
    return _train(h, y, weights, ridge, loss, start, tolerance, max_steps, bias, normalize, optimizer)


class _Head(NamedTuple):
    """Kernel (d,) or (d, c), and bias () or (c,) about the rows' mean, or None."""

    kernel: Array
    bias: Any


class _Training(NamedTuple):
    """What is minimised: rows about a shift, their weighted mean about it (d,) or None without a bias, penalty, loss."""

    rows: WeightedRows
    mean: Array | None
    ridge: Array
    loss: Loss


class _Report(NamedTuple):
    gradient_norm: Array
    steps: Array


@partial(jax.jit, static_argnames=("bias", "normalize", "optimizer"))
def _train(
    h: Array,
    y: Array,
    weights: Array | None,
    ridge: ArrayLike,
    loss: Loss,
    start: LinearProbe | None,
    tolerance: ArrayLike | None,
    max_steps: ArrayLike,
    bias: bool,
    normalize: Normalize,
    optimizer: optax.GradientTransformation | None,
) -> TrainedProbe:
    rows, factors = on_one_scale(h, y, weights, normalize)
    # The shift is the same for all weights: rows shared by an ensemble stay shared.
    shift = jnp.mean(rows.h, 0) if bias else jnp.zeros_like(rows.h[0])
    rows = rows._replace(h=rows.h - shift)
    mean = matmul(rows.weights, rows.h) if bias else None
    problem = _Training(rows, mean, jnp.asarray(ridge, rows.h.dtype), loss)
    tolerance = (1e-6 if rows.h.dtype == jnp.float32 else 1e-12) if tolerance is None else tolerance
    zero = _Head(
        jnp.zeros((h.shape[1], *y.shape[1:]), rows.h.dtype), loss.link(matmul(rows.weights, rows.y)) if bias else None
    )
    first = zero if start is None else _about_mean(start, shift, mean, factors)
    if optimizer is None:
        head, report = _minimum(problem, zero, first, tolerance, max_steps)
    else:
        head, report = _follow(problem, zero, first, tolerance, max_steps, optimizer)
    value = _objective(problem, head, _targets(problem, head, report.steps))
    probe = probe_through(head.kernel, None if mean is None else (shift + mean, head.bias), factors)
    return TrainedProbe(probe, report.gradient_norm <= tolerance, *report, value)


def _minimum(
    problem: _Training, zero: _Head, start: _Head, tolerance: ArrayLike, max_steps: ArrayLike
) -> tuple[_Head, _Report]:
    """`_lbfgs`, differentiated by the implicit function theorem: `H dx = -d(gradient)`, solved by conjugate gradients."""

    def solve(_: Any, start: _Head) -> tuple[_Head, _Report]:
        head, (norm, steps) = _lbfgs(problem, zero, start, tolerance, max_steps)
        return head, _Report(norm, steps.astype(norm.dtype))  # the rule for derivatives knows no integers

    def tangent(hessian: Callable[[_Head], _Head], b: _Head) -> _Head:
        options = dict(tol=8 * float(jnp.finfo(b.kernel.dtype).eps), maxiter=4 * b.kernel.size)
        conjugate_gradients = lambda product, b: jax.scipy.sparse.linalg.cg(product, b, **options)[0]
        return jax.lax.custom_linear_solve(hessian, b, conjugate_gradients, symmetric=True)

    gradient = jax.grad(lambda head: _objective(problem, head, problem.rows.y))
    head, (norm, steps) = jax.lax.custom_root(gradient, start, solve, tangent, has_aux=True)
    return head, jax.lax.stop_gradient(_Report(norm, steps.astype(int)))


class _Descent(NamedTuple):
    """L-BFGS under way: the head and its outputs; position, gradient and memory in its own coordinates; progress."""

    head: _Head
    outputs: Array
    position: _Head
    gradient: _Head
    memory: Any
    report: _Report


def _lbfgs(
    problem: _Training, zero: _Head, start: _Head, tolerance: ArrayLike, max_steps: ArrayLike
) -> tuple[_Head, _Report]:
    rows, loss = problem.rows, problem.loss
    basis = _coordinates(problem)
    if problem.rows.h.shape[0] < problem.rows.h.shape[1]:
        start = start._replace(kernel=_span(rows.h, start.kernel))
    lbfgs = optax.scale_by_lbfgs()

    def to_head(u: _Head) -> _Head:
        return _Head(matmul(u.kernel.T, basis.kernel.T).T, None if u.bias is None else u.bias * basis.bias)

    def gradient(head: _Head, z: Array) -> _Head:
        g = _pull_back(problem, head, weigh(rows.weights, loss.slope(z, rows.y)))
        return _Head(matmul(g.kernel.T, basis.kernel).T, None if g.bias is None else g.bias * basis.bias)

    def advance(s: _Descent) -> _Descent:
        ahead, memory = lbfgs.update(s.gradient, s.memory, s.position)
        # Rounding, or a loss that is not convex, can turn the direction uphill.
        downhill = _inner(ahead, s.gradient) > 0
        ahead = jax.tree.map(lambda x, g: -jnp.where(downhill, x, g), ahead, s.gradient)
        along = to_head(ahead)
        change = _outputs(problem, along)
        linear, square = (2 * problem.ridge * jnp.sum(k * along.kernel) for k in (s.head.kernel, along.kernel))

        def slope(a: Array) -> Array:
            return (
                jnp.sum(weigh(rows.weights, loss.slope(s.outputs + a * change, rows.y)) * change) + linear + a * square
            )

        a = _line_search(slope, _inner(ahead, s.gradient))
        head, position = (
            jax.tree.map(lambda x, dx: x + a * dx, x, dx) for x, dx in ((s.head, along), (s.position, ahead))
        )
        outputs = s.outputs + a * change
        g = gradient(head, outputs)
        return _Descent(head, outputs, position, g, memory, _Report(_norm(g) / scale, s.report.steps + 1))

    z = _outputs(problem, start)
    scale = _norm(gradient(zero, _outputs(problem, zero)))
    scale = jnp.where(scale > 0, scale, 1)
    g = gradient(start, z)
    origin = jax.tree.map(jnp.zeros_like, g)
    first = _Descent(start, z, origin, g, lbfgs.init(origin), _Report(_norm(g) / scale, jnp.asarray(0)))
    last = jax.lax.while_loop(lambda s: _unfinished(s.report, tolerance, max_steps), advance, first)
    return last.head, last.report


def _coordinates(problem: _Training) -> _Head:
    """A map from coordinates to kernels (d, min(n, d)) and a factor of the bias that make the curvature about 1."""
    h = problem.rows.h
    n, d = h.shape
    basis = None
    if n < d:
        # The penalty keeps the kernel in the span of the rows.
        basis, r = qr(h.T)
        h = r.T
    curvature = problem.loss.curvature
    matrix = curvature / n * matmul(h.T, h)
    strength = 2 * problem.ridge + jnp.finfo(h.dtype).eps * jnp.trace(matrix) + jnp.finfo(h.dtype).tiny
    eye = jnp.eye(len(matrix), dtype=h.dtype)
    inverse = inverse_factor(matrix + strength * eye).T
    return _Head(inverse if basis is None else matmul(basis, inverse), jnp.asarray(curvature**-0.5, h.dtype))


class _Search(NamedTuple):
    """A line search: the step, the bracket of a zero of the slope, slope and curvature at the step, evaluations."""

    at: Array
    low: Array
    high: Array
    value: Array
    curvature: Array
    evaluations: Array


def _line_search(slope: Callable[[Array], Array], initial: Array) -> Array:
    """A step whose slope is at most a tenth of the initial one: Newton's method in a bracket, doubled while it is open.

    Slopes only: near the minimum, differences of losses are rounding in float32, slopes are not.
    """

    def evaluate(at: Array, low: Array, high: Array, evaluations: Array) -> _Search:
        value, curvature = jax.jvp(slope, (at,), (jnp.ones_like(at),))
        below = value < 0
        return _Search(at, jnp.where(below, at, low), jnp.where(below, high, at), value, curvature, evaluations)

    def unfinished(s: _Search) -> Array:
        return (jnp.abs(s.value) > SLOPE_LEFT * jnp.abs(initial)) & (s.evaluations < SEARCH_STEPS)

    def refine(s: _Search) -> _Search:
        newton = s.at - s.value / s.curvature
        inside = (s.curvature > 0) & (newton > s.low) & (newton < s.high)
        fallback = jnp.where(jnp.isinf(s.high), 2 * s.low, (s.low + s.high) / 2)
        return evaluate(jnp.where(inside, newton, fallback), s.low, s.high, s.evaluations + 1)

    one = jnp.ones_like(initial)
    return jax.lax.while_loop(unfinished, refine, evaluate(one, 0 * one, jnp.inf * one, jnp.asarray(0))).at


def _follow(
    problem: _Training,
    zero: _Head,
    start: _Head,
    tolerance: ArrayLike,
    max_steps: ArrayLike,
    optimizer: optax.GradientTransformation,
) -> tuple[_Head, _Report]:
    """Steps of an optax optimiser until the gradient is small; with a moving target, all of them."""
    optimizer = optax.with_extra_args_support(optimizer)

    def at(head: Any, steps: Array) -> tuple[Array, _Head, Callable[[_Head], Array]]:
        targets = _targets(problem, head, steps)
        objective = lambda head: _objective(problem, head, targets)
        return *jax.value_and_grad(objective)(head), objective

    def advance(carry: tuple) -> tuple:
        head, value, g, state, report = carry
        _, _, objective = at(head, report.steps)
        update, state = optimizer.update(g, state, head, value=value, grad=g, value_fn=objective)
        head = optax.apply_updates(head, update)
        value, g, _ = at(head, report.steps + 1)
        return head, value, g, state, _Report(_norm(g) / scale, report.steps + 1)

    scale = _norm(at(zero, jnp.asarray(0))[1])
    scale = jnp.where(scale > 0, scale, 1)
    value, g, _ = at(start, jnp.asarray(0))
    first = start, value, g, optimizer.init(start), _Report(_norm(g) / scale, jnp.asarray(0))
    # A moving target says nothing about the end before it is reached.
    goal = -1 if problem.loss.moving else tolerance
    head, *_, report = jax.lax.while_loop(lambda carry: _unfinished(carry[-1], goal, max_steps), advance, first)
    return head, report


def _unfinished(report: _Report, tolerance: ArrayLike, max_steps: ArrayLike) -> Array:
    return (report.gradient_norm > tolerance) & (report.steps < max_steps)


def _objective(problem: _Training, head: _Head, targets: Array) -> Array:
    """Mean loss plus penalty."""
    rows = problem.rows
    fit = jnp.sum(rows.weights * problem.loss(_outputs(problem, head), targets))
    return fit + problem.ridge * jnp.sum(jnp.square(head.kernel))


def _targets(problem: _Training, head: _Head, steps: Array) -> Array:
    rows = problem.rows
    targets = problem.loss.targets(_outputs(problem, head), rows.y, rows.weights, steps)
    return jax.lax.stop_gradient(targets)


def _outputs(problem: _Training, head: _Head) -> Array:
    # Heads stand on the left: a batch of them times shared rows is one product that comes out heads first.
    z = matmul(head.kernel.T, problem.rows.h.T).T
    return z if problem.mean is None else z + (head.bias - matmul(problem.mean, head.kernel))


def _pull_back(problem: _Training, head: _Head, slopes: Array) -> _Head:
    """The objective's gradient at a head, given that of the mean loss in each row's outputs."""
    kernel = matmul(slopes.T, problem.rows.h).T + 2 * problem.ridge * head.kernel
    if problem.mean is None:
        return _Head(kernel, None)
    total = jnp.sum(slopes, 0)
    return _Head(kernel - outer(problem.mean, total), total)


def _span(h: Array, kernel: Array) -> Array:
    """The part of a kernel that lies in the span of the rows."""
    basis, _ = qr(h.T)
    return matmul(basis, matmul(basis.T, kernel))


def _inner(a: Any, b: Any) -> Array:
    return jnp.sum(jnp.stack([jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]))


def _norm(a: Any) -> Array:
    return jnp.sqrt(_inner(a, a))


def _about_mean(probe: LinearProbe, shift: Array, mean: Array | None, factors: Array | None) -> _Head:
    kernel = probe.kernel[...].astype(shift.dtype)
    if factors is not None:
        kernel = weigh(jnp.where(factors > 0, 1 / jnp.where(factors > 0, factors, 1), 0), kernel)
    if mean is None:
        return _Head(kernel, None)
    bias = 0 if probe.bias is None else probe.bias[...]
    return _Head(kernel, bias + matmul(shift + mean, kernel))
