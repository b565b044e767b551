"""Predictors that ask how well a teacher's representation explains some labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from w2s_jax._core.factor import capped
from w2s_jax._core.response import OnNonzero, apply_response
from w2s_jax.overlap import Side
from w2s_jax.predictors.predictor import PairView, predictor

RATIOS, STEPS = 65, 40  # penalties that are tried over sixteen decades, and golden sections around the best


@predictor(
    needs="labels", predicts="how well a teacher fits labels", source="Cristianini et al. 2001", larger_is_better=True
)
def kernel_alignment(pair: PairView) -> Array:
    """`||H_w^T y||^2 / (||H_w^T H_w||_F ||y||^2)`, sums over outputs: of one output the alignment of kernel and target."""
    size = jnp.linalg.norm(pair.overlap.weak.values)
    return jnp.sum(jnp.square(jnp.asarray(pair.moments.wy))) / (size * jnp.sum(pair.labels[2]))


@predictor(needs="labels", predicts="how well a teacher fits labels", source="You et al. 2021", larger_is_better=True)
def logme(pair: PairView) -> Array:
    """Log evidence per row of `y = H_w m + e`, m and e normal of the most likely variances; the mean over outputs.

    With the penalty r, the ratio of the variances of e and m over n, it is `(log(b / 2 pi) - 1) / 2 - log det(I + S_w / r) / 2n`,
    `1 / b = y^T (I + K / n r)^{-1} y / n = ||y||^2 / n - a_w^T F_r a_w`; the best r by search, where its own derivative is zero.
    About their means n rows count as n - 1. Outputs of zeros, as of classes that no row is of, do not count.
    """
    a_w, _, energy = pair.labels
    n = pair.overlap.weak.n
    rows = n - 1 if pair.moments.is_centred else n
    of_output = lambda a, e: _evidence(pair.overlap.weak, a * jnp.sqrt(n / rows), e * n / rows, rows)
    found = jax.vmap(of_output, (1, 0))(a_w, jnp.where(energy > 0, energy, 1))
    return jnp.sum(jnp.where(energy > 0, found, 0)) / jnp.sum(energy > 0)


@predictor(
    needs="labels", predicts="how well a teacher tells classes apart", source="Bao et al. 2019", larger_is_better=True
)
def h_score(pair: PairView) -> Array:
    """`tr(S_w^+ S_between)` of one-hot labels, as `sum_k ||U_w^T y_k||^2 / ||y_k||^2`: at most the number of classes less 1.

    The trace is remembered, not read; the form in moments is derived: class k's mean about that of all rows is
    `H_w^T y_k / ||y_k||^2`, of which S_between is the sum of squares, each as often as the class has rows. Directions that are
    numerically zero are left out. One output stands for two classes or a number: its explained share.
    """
    a_w = pair.labels[0]
    return _by_class(pair, a_w * a_w)


@predictor(
    needs="labels",
    predicts="how well a teacher tells classes apart",
    source="Bao et al. 2019; Ibrahim et al. 2022",
    larger_is_better=True,
)
def regularised_h_score(pair: PairView) -> Array:
    """`tr((S_w + b)^{-1} S_between)`, `sum_k y_k^T P_w y_k / ||y_k||^2`: b is the weak head's ridge, in the source a share of the
    mean eigenvalue (remembered, not read)."""
    a_w = pair.labels[0]
    return _by_class(pair, a_w * pair.by_weak(a_w))


def _by_class(pair: PairView, explained: Array) -> Array:
    """The sum over classes of what is explained (k_w, c), in units of the class's share of rows, at most all of it; empty classes
    do not count."""
    square = pair.labels[2]
    if len(square) > 1 and pair.moments.is_centred:  # of one output, or without an intercept, it is that already
        square = square + jnp.square(jnp.asarray(pair.moments.strong.label_mean))
    return jnp.sum(jnp.where(square > 0, capped(jnp.sum(explained, 0) / jnp.where(square > 0, square, 1), 1), 0))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Missed(OnNonzero):
    """`r / (lambda + r)`."""

    ratio: Array

    def curve(self, values: Array, n: Array) -> Callable[[Array], Array]:
        return lambda mu: self.ratio / (mu + self.ratio)


def _evidence(side: Side, a: Array, energy: Array, rows: Array) -> Array:
    """The largest log evidence per row, from `U_w^T y / sqrt(rows)` (k,) and the labels' mean square ()."""
    # What no feature sees; where features are more than rows it is rounding.
    unseen = energy - jnp.sum(a * a)
    unseen = jnp.where(unseen > 32 * jnp.finfo(a.dtype).eps * len(a) ** 0.5 * energy, unseen, 0)

    def at(log_ratio: Array, side: Side, a: Array) -> Array:
        r = jnp.exp(log_ratio)
        left = unseen + jnp.sum(a * apply_response(_Missed(r), side, a[:, None])[:, 0])
        left = jnp.where(left > 0, left, jnp.finfo(a.dtype).tiny)
        return -(jnp.log(2 * jnp.pi * left) + 1 + jnp.sum(jnp.log1p(side.values / r)) / rows) / 2

    fixed = jax.lax.stop_gradient((side, a))
    tried = jnp.log(jnp.mean(fixed[0].values)) + jnp.linspace(-8, 8, RATIOS) * jnp.log(10.0)
    best = tried[jnp.argmax(jax.lax.map(lambda x: at(x, *fixed), tried))]
    golden = (5**0.5 - 1) / 2

    def section(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        left, right = high - golden * (high - low), low + golden * (high - low)
        better = at(left, *fixed) > at(right, *fixed)
        return jnp.where(better, low, left), jnp.where(better, right, high)

    step = tried[1] - tried[0]
    low, high = jax.lax.fori_loop(0, STEPS, section, (best - step, best + step))
    return at(jax.lax.stop_gradient((low + high) / 2), side, a)
