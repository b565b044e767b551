"""One weak-to-strong experiment with heads of any loss: fits, pseudo-labels, and what is measured on the test split.

All of it can be traced; run.py checks what comes in, and runs it once or over many splits.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from w2s_jax._core.arrays import accumulation_dtype
from w2s_jax._core.normalize import Normalize, RowNorm
from w2s_jax.experiment.outcome import Predicted, WeakToStrong, beyond_rounding
from w2s_jax.filters import ridge
from w2s_jax.gap import prediction_gap
from w2s_jax.heads.losses import Loss, logistic, softmax, squared
from w2s_jax.heads.ridge import LinearProbe, cross_validate_ridge, ridge_probe
from w2s_jax.heads.scaling import scaling_of
from w2s_jax.heads.trained import train_probe
from w2s_jax.overlap import overlap
from w2s_jax.theory.equivalent_errors import EquivalentErrors, equivalent_errors, fresh_error

PENALTIES = np.geomspace(1e-6, 1.0, 25)  # candidates of "cv", in units of the mean squared row norm

CheckedRows = tuple[Array, Any, Array]  # (h_w, h_s, y); the labelled split may have None for h_s


class Setup(NamedTuple):
    """The choices that make another program: intercepts, what is done to features and to rows, hard pseudo-labels, how classes
    are coded, which penalties are "cv"."""

    bias: bool
    normalize: Normalize
    rows: RowNorm
    hard: bool
    code: tuple[float, float] | None
    choose: tuple[bool, bool]


class Losses(NamedTuple):
    """Losses of weak head and ceiling, and of the student."""

    teacher: Loss
    student: Loss


@partial(jax.jit, static_argnames="setup")
def experiment(
    labelled: CheckedRows, student: CheckedRows, test: CheckedRows, ridges: tuple, losses: Losses, setup: Setup
) -> WeakToStrong:
    """`weak_to_strong` of checked splits; `ridges`: the weak and the strong penalty, not used where `setup` chooses them."""
    (h_a, _, y_a), (h_b, z_b, y_b), (h_c, z_c, y_c) = labelled, student, test
    if (setup.normalize, setup.rows) != ("none", "given"):  # by the rows that the head in question is trained on
        see_w, see_s = (scaling_of(fit, setup.normalize, setup.rows) for fit in (h_a, z_b))
        (h_a, h_b, h_c), (z_b, z_c) = map(see_w, (h_a, h_b, h_c)), map(see_s, (z_b, z_c))
    label = partial(_pseudo_labels, losses.teacher, setup)
    weak_ridge = _penalty(h_a, y_a, ridges[0], setup, 0)
    weak, done_w = fit_head(h_a, y_a, weak_ridge, losses.teacher, setup.bias)
    pseudo = label(weak(h_b))
    strong_ridge = _penalty(z_b, pseudo, ridges[1], setup, 1)
    taught, done_s = fit_head(z_b, pseudo, strong_ridge, losses.student, setup.bias)
    ceiling, done_c = fit_head(z_b, y_b, strong_ridge, losses.teacher, setup.bias)
    trained = losses.teacher, losses.student, losses.teacher
    outputs = weak(h_c), taught(z_c), ceiling(z_c)
    f_w, f_w2s, f_sc = map(predictions, trained, outputs)
    weak_error, student_error, ceiling_error = map(partial(_error, y=y_c), trained, (f_w, f_w2s, f_sc))
    found = WeakToStrong(
        weak_error=weak_error,
        student_error=student_error,
        ceiling_error=ceiling_error,
        gap=_distance(f_w2s, f_sc),
        misfit=_distance(f_w2s, label(outputs[0])),
        misfit_in_sample=_distance(predictions(losses.student, taught(z_b)), pseudo),
        weak_ridge=weak_ridge,
        strong_ridge=strong_ridge,
        converged=done_w & done_s & done_c,
    )
    found = _classified(found, (f_w, f_w2s, f_sc), y_c, setup.code)
    entropies = [_cross_entropy(*of_head, y_c) for of_head in zip(trained, outputs, strict=True)]
    names = "weak_cross_entropy", "student_cross_entropy", "ceiling_cross_entropy"
    found = replace(found, **dict(zip(names, entropies, strict=True)))
    if not all(isinstance(loss, squared) for loss in losses):
        return found
    of_weak = fresh_error(h_a, y_a, weak_ridge, bias=setup.bias)
    of_strong = equivalent_errors(z_b, y_b, pseudo, strong_ridge, bias=setup.bias)
    found = replace(found, predicted=summed(of_weak, of_strong))
    if setup.hard:
        return found
    gap = prediction_gap(overlap(h_b, z_b, y_b, bias=setup.bias), ridge(weak_ridge), ridge(strong_ridge))
    return replace(found, theorem_gap=jnp.sum(gap))


def summed(of_weak: Array, of_strong: EquivalentErrors) -> Predicted:
    """Errors of the weak head, and of student and ceiling with their gap, summed over outputs."""
    return Predicted(*(jnp.sum(x) for x in (of_weak, *of_strong)))


def _penalty(h: Array, y: Array, given: ArrayLike, setup: Setup, side: int) -> Array:
    dtype = accumulation_dtype(h.dtype, y.dtype)
    if not setup.choose[side]:
        return jnp.asarray(given, dtype)
    rows = h.astype(dtype)
    size = jnp.mean(jnp.sum(jnp.square(rows - jnp.mean(rows, 0) * setup.bias), 1))
    return cross_validate_ridge(h, y, size * jnp.asarray(PENALTIES, dtype), bias=setup.bias).ridge


def fit_head(
    h: Array, y: Array, ridge: ArrayLike, loss: Loss, bias: bool, weights: Array | None = None
) -> tuple[LinearProbe, Array]:
    """A head, and whether it reached its tolerance."""
    if isinstance(loss, squared):
        return ridge_probe(h, y, ridge, bias=bias, weights=weights), jnp.asarray(True)
    trained = train_probe(h, y, ridge, loss, bias=bias, weights=weights)
    return trained.probe, trained.converged


def predictions(loss: Loss, z: Array) -> Array:
    """What a head says of a row: its outputs, or probabilities for a classification loss."""
    if isinstance(loss, squared):
        return z
    return jax.nn.sigmoid(z) if z.ndim == 1 or isinstance(loss, logistic) else jax.nn.softmax(z)


def _pseudo_labels(loss: Loss, setup: Setup, z: Array) -> Array:
    """What a weak head with outputs z teaches."""
    soft = predictions(loss, z)
    return _hardened(soft, setup.code) if setup.hard else soft


def _hardened(f: Array, code: Any) -> Array:
    """The class that is nearest, coded as labels are."""
    low, high = code
    chosen = (
        f > (low + high) / 2 if f.ndim == 1 or f.shape[1] == 1 else jax.nn.one_hot(jnp.argmax(f, 1), f.shape[1]) > 0
    )
    return jnp.where(chosen, high, low).astype(f.dtype)


def _distance(f: Array, g: Array) -> Array:
    """Mean squared distance, summed over outputs."""
    return jnp.sum(jnp.mean(jnp.square(f - g.astype(f.dtype)), 0))


def _error(loss: Loss, f: Array, y: Array) -> Array:
    """Mean squared distance from labels; probabilities are in units of 1, whatever the labels are."""
    size = _distance(jnp.zeros_like(f), y)
    return beyond_rounding(_distance(f, y), size if isinstance(loss, squared) else 1)


def _classified(found: WeakToStrong, predictions: tuple[Array, ...], y: Array, code: Any) -> WeakToStrong:
    if code is None:
        return found
    classes = [_hardened(f, code).reshape(len(y), -1) for f in (*predictions, y)]
    same = lambda a, b: jnp.mean(jnp.all(a == b, 1).astype(found.gap.dtype))
    weak, student, ceiling = (same(chosen, classes[3]) for chosen in classes[:3])
    agreement = same(classes[0], classes[1])
    return replace(found, weak_accuracy=weak, student_accuracy=student, ceiling_accuracy=ceiling, agreement=agreement)


def _cross_entropy(loss: Loss, z: Array, y: Array) -> Array | None:
    """Mean cross-entropy of labels y under outputs z, None for a head of squared loss."""
    if isinstance(loss, squared):
        return None
    entropy = logistic() if y.ndim == 1 or isinstance(loss, logistic) else softmax()
    return jnp.mean(entropy(z, y.astype(z.dtype)))
