"""The expected experiment over a map of label priors and noise, dense and on its own: what decides where the ranking fails?

Labels are `h_s^T theta`, `theta ~ N(0, S_s^{p-1})`, plus noise of nu times their variance. For each pair and ridge strength
the student's error is linear in the prior and in nu, so that one pass over the rows gives the whole map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from w2s_jax.ranking.folds import grouped_folds

PRIORS = (0.5, 1.0, 1.5, 2.0, 3.0)
RESPONSE = "response"


def expected_map(
    weak: Mapping[str, np.ndarray],
    strong: np.ndarray,
    groups: np.ndarray,
    ridges: Sequence[float],
    scaling: str,
    folds: int = 3,
) -> dict[str, np.ndarray]:
    """Errors (ridge, weak) by p, without noise and in units of the labels' variance; `response` is what nu = 1 adds."""
    fold = grouped_folds(groups, folds, np.random.default_rng(0))
    z = prepared(strong, scaling)
    values, vectors = np.linalg.eigh(z.T @ z / len(z))
    z, values = z @ vectors, np.maximum(values, values[-1] * np.finfo(np.float32).eps)
    prior = np.array([(values / values[-1]) ** (p - 1) for p in PRIORS])
    prior /= (prior @ values)[:, None]
    errors = np.zeros((len(PRIORS), len(ridges), len(weak)))
    noise = np.zeros((len(ridges), len(weak)))
    for turn in range(folds):
        a, b, c = (np.nonzero(fold == (turn + k) % folds)[0] for k in range(3))
        students = [_root(z[c]) @ cho_solve(_factor(z[b], ridge), z[b].T / len(b)) for ridge in ridges]
        target = _root(z[c])
        for w, rows in enumerate(weak.values()):
            h = prepared(rows, scaling)
            for r, ridge in enumerate(ridges):
                heads = cho_solve(_factor(h[a], ridge), h[a].T / len(a))
                of_noise = students[r] @ (h[b] @ heads)  # the student's response to labels on A
                errors[:, r, w] += prior @ np.square(of_noise @ z[a] - target).sum(0) / folds
                noise[r, w] += np.square(of_noise).sum() / folds
    return {RESPONSE: noise} | {f"{p:g}": errors[i] for i, p in enumerate(PRIORS)}


def prepared(h: np.ndarray, scaling: str) -> np.ndarray:
    """Rows about their mean, on one scale, in single precision."""
    about = h - h.mean(0, dtype=np.float64)
    if scaling == "features":
        size = about.std(0)
        about = about * np.where(
            size > np.finfo(np.float32).eps * np.abs(h.mean(0)), 1 / np.where(size > 0, size, 1), 0
        )
    return (about / np.sqrt(np.square(about).sum(1).mean())).astype(np.float32)


def _factor(x: np.ndarray, ridge: float) -> tuple:
    S = x.T @ x / len(x)
    return cho_factor(S + np.float32(ridge) * np.eye(len(S), dtype=S.dtype), check_finite=False)


def _root(x: np.ndarray) -> np.ndarray:
    """A matrix whose Gram matrix is `x^T x / n`: R of the rows' QR decomposition."""
    return np.asarray(np.linalg.qr(x, "r")) / np.float32(np.sqrt(len(x)))
