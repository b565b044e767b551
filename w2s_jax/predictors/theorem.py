"""Predictors in the theorem's own terms: what is lost of random labels or of given ones, and what a student corrects."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from w2s_jax._core.arrays import matmul
from w2s_jax._core.response import Power, apply_response
from w2s_jax.filters import ridge
from w2s_jax.predictors.predictor import PairView, predictor
from w2s_jax.theory.equivalent_errors import fresh_error_from_coefficients


class _RandomLabels(NamedTuple):
    """Labels `h_s^T theta`, theta of variance 1 in every direction: in the strong basis (k_s, k_s), their teacher's outputs in
    the weak basis (k_w, k_s) and in the strong one (k_s, k_s), and their mean square."""

    labels: Array
    taught: Array
    seen: Array
    energy: Array

    @classmethod
    def of(cls, pair: PairView) -> _RandomLabels:
        side, C = pair.overlap.strong, pair.overlap.C
        labels = apply_response(Power(jnp.asarray(0.5, C.dtype)), side, jnp.eye(len(C), dtype=C.dtype))
        taught = pair.by_weak(matmul(C.T, labels))
        return cls(labels, taught, matmul(C, taught), jnp.sum(side.values))


@predictor(
    predicts="the prediction gap, labels random linear functions of the strong representation", source="Xue et al. 2025"
)
def prior_gap(pair: PairView) -> Array:
    """`||F_s (I - C F_w C^T) L_s^{1/2}||_F^2 / tr L_s`: the theorem's gap, averaged over labels `h_s^T theta`."""
    of = _RandomLabels.of(pair)
    return jnp.sum(jnp.square(pair.by_student(of.labels - of.seen))) / of.energy


@predictor(
    predicts="the student's error, labels random linear functions of the strong representation",
    source="Xue et al. 2025",
)
def prior_error(pair: PairView) -> Array:
    """`||(I - F_s C F_w C^T) L_s^{1/2}||_F^2 / tr L_s`: the same mean of `||(I - P_s P_w) y||^2 / n`, in sample."""
    of = _RandomLabels.of(pair)
    return jnp.sum(jnp.square(of.labels - pair.by_student(of.seen))) / of.energy


@predictor(
    predicts="the student's gain over its teacher, labels random linear functions of the strong representation",
    source="Charikar et al. 2024",
    larger_is_better=True,
)
def prior_misfit(pair: PairView) -> Array:
    """The mean of `||(I - P_s) P_w y||^2 / n` over the same labels: what the student leaves of its teacher's labels."""
    of = _RandomLabels.of(pair)
    return _misfit(pair, of.taught, of.seen) / of.energy


@predictor(needs="labels", predicts="the student's error", source="Xue et al. 2025")
def label_error(pair: PairView) -> Array:
    """`||(I - P_s P_w) y||^2 / n` in sample, summed over outputs."""
    a_w, a_s, energy = pair.labels
    taught = pair.by_student(matmul(pair.overlap.C, pair.by_weak(a_w)))
    return jnp.sum(energy) - 2 * jnp.sum(a_s * taught) + jnp.sum(taught * taught)


@predictor(
    needs="labels",
    predicts="the student's gain over its teacher",
    source="Charikar et al. 2024",
    larger_is_better=True,
)
def misfit(pair: PairView) -> Array:
    """`||(I - P_s) P_w y||^2 / n`, summed over outputs: with a convex class that holds the target, the gain is no less."""
    taught = pair.by_weak(pair.labels[0])
    return _misfit(pair, taught, matmul(pair.overlap.C, taught))


@predictor(needs="labels", predicts="the student's error, no more", source="Charikar et al. 2024")
def misfit_bound(pair: PairView) -> Array:
    """The weak head's error on fresh rows less the misfit."""
    return weak_error.function(pair) - misfit.function(pair)


@predictor(needs="labels", predicts="the teacher's error", source="baseline")
def weak_error(pair: PairView) -> Array:
    """A ridge weak head's error on fresh rows (theory/equivalent_errors.py), summed over outputs; of other filters in sample."""
    a_w, _, energy = pair.labels
    if isinstance(pair.weak, ridge):
        strength = jnp.asarray(pair.weak.strength, a_w.dtype)[None]
        return jnp.sum(fresh_error_from_coefficients(pair.overlap.weak, a_w, energy, strength, pair.moments.is_centred))
    taught = pair.by_weak(a_w)
    return jnp.sum(energy) - 2 * jnp.sum(a_w * taught) + jnp.sum(taught * taught)


def _misfit(pair: PairView, taught: Array, seen: Array) -> Array:
    """`||(I - P_s) t||^2` of outputs t, in the weak basis (k_w, m) and in the strong one (k_s, m)."""
    kept = pair.by_student(seen)
    return jnp.sum(taught * taught) - 2 * jnp.sum(seen * kept) + jnp.sum(kept * kept)
