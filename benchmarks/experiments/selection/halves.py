"""What a student becomes that is trained on a score's better half of the weakly labelled rows, the other half, random halves.

Students are ridge heads with an intercept on features of one scale, trained on the teacher's hard labels. Nothing is chosen by
how it does here: every score has its source's settings, and beside them those of features on one scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

import w2s_jax as w2s
from benchmarks.experiments.selection.tasks import Setting
from w2s_jax import select
from w2s_jax._core.normalize import Normalize
from w2s_jax.experiment import cross_fit_pseudo_labels

RIDGES = (1e-3, 1e-2)  # of students
RANDOM_HALVES = 20
KINDS: dict[str, Normalize] = {"": "none", ", features": "features"}  # what names of scores end with
SMOOTHED = "smoothed labels"  # all rows, their labels smoothed over neighbours


def scores_of(setting: Setting, networks: np.ndarray) -> dict[str, np.ndarray]:
    """Every score (n,) by name; none has seen a true label. `networks`: what `mlp_predictions` says of the teacher's labels."""
    h, z, y = setting.h_w, setting.h_s, coded(setting.hard, setting)
    confidence = select.weak_confidence(setting.probabilities)
    crossed = cross_fit_pseudo_labels(_standardised(h), y, 1e-3)
    head = w2s.ridge(1e-3)
    gap = w2s.example_scores(_standardised(h), _standardised(z), y, head, head, bias=True)
    found = {"confidence": confidence, "example_scores": jnp.linalg.norm(jnp.reshape(gap, (len(z), -1)), axis=1)}
    for suffix, normalize in KINDS.items():
        kind: dict[str, Any] = {"normalize": normalize}
        found[f"rads-lin{suffix}"] = select.rads_scores(h, z, y, **kind)
        found[f"rads-lin, out of fold{suffix}"] = select.rads_scores(None, z, y, weak_part=crossed, **kind)
        found[f"rads (networks){suffix}"] = select.rads_scores(None, z, y, weak_part=networks, **kind)
        found[f"overlap density{suffix}"] = select.overlap_density(z, confidence, **kind).scores
        found[f"agreement{suffix}"] = select.neighbour_agreement(z, setting.hard, **kind)
        smooth = select.smoothed_labels(z, y - y.mean(0), **kind)
        found[f"smoothed agreement{suffix}"] = jnp.sum(jnp.reshape(smooth * (y - y.mean(0)), (len(z), -1)), 1)
    return {name: np.asarray(score) for name, score in found.items()}


def coded(classes: np.ndarray, setting: Setting) -> np.ndarray:
    """Classes as labels: -1 and 1, or one-hot rows."""
    if setting.probabilities.ndim == 1:
        return np.where(classes == 1, 1.0, -1.0).astype(np.float32)
    return np.eye(setting.probabilities.shape[1], dtype=np.float32)[classes]


def judged(setting: Setting, scores: Mapping[str, np.ndarray], ridge: float) -> list[dict]:
    """For each score and half, random halves and all rows: the student's test error in units of the labels' variance, its
    accuracy, and how many of the chosen labels are right."""
    n, y = len(setting.truth), coded(setting.hard, setting)
    rng = np.random.default_rng(0)
    weights = {("all", "all"): np.ones(n)}
    for i in range(RANDOM_HALVES):
        weights["random", str(i)] = np.isin(np.arange(n), rng.permutation(n)[: n // 2]).astype(float)
    for name, score in scores.items():
        kept = select.select_rows(score, 0.5)
        weights |= {(name, "kept"): kept.weights, (name, "other"): 1 - kept.weights}
    labels = dict.fromkeys(weights, y)
    centred = y - y.mean(0)
    for suffix, normalize in KINDS.items():
        key = f"{SMOOTHED}{suffix}", "all"
        weights[key] = np.ones(n)
        smooth = np.asarray(select.smoothed_labels(setting.h_s, centred, normalize=normalize))
        # To the spread that labels have: a head's outputs would shrink with them.
        labels[key] = y.mean(0) + smooth * (np.linalg.norm(centred) / np.linalg.norm(smooth))
    of = (
        jnp.asarray(np.stack(list(labels.values())), jnp.float32),
        jnp.asarray(np.stack(list(weights.values())), jnp.float32),
    )
    outputs = np.asarray(_students(jnp.asarray(setting.h_s), *of, jnp.asarray(setting.test), ridge))
    target = coded(setting.test_truth, setting)
    right = setting.hard == setting.truth
    found = []
    for (name, half), said in zip(weights, outputs, strict=True):
        error = np.sum(np.mean((said - target) ** 2, 0)) / np.sum(target.var(0))
        answer = (said > 0).astype(int) if said.ndim == 1 else said.argmax(1)
        chosen = weights[name, half] > 0
        found.append(
            {"score": name, "half": half, "error": error, "accuracy": np.mean(answer == setting.test_truth)}
            | {"label_accuracy": right[chosen].mean()}
        )
    return found


@jax.jit
def _students(z: Array, labels: Array, weights: Array, test: Array, ridge: ArrayLike) -> Array:
    """Outputs (students, test rows, c), one student after another."""

    def outputs(of: tuple[Array, Array]) -> Array:
        return w2s.ridge_probe(z, of[0], ridge, normalize="features", weights=of[1])(test)

    return jax.lax.map(outputs, (labels, weights))


def _standardised(h: np.ndarray) -> np.ndarray:
    """Features as heads see them."""
    spread = h.std(0)
    live = spread > 1e-6 * np.abs(h).max(0)
    scale = np.where(live, 1 / np.where(live, spread, 1), 0) / np.sqrt(live.sum())
    return ((h - h.mean(0)) * scale).astype(np.float32)
