"""The expected experiment over a map of label priors and noise, dense and on its own: what decides where the ranking fails?

Labels are `h_s^T theta`, `theta ~ N(0, S_s^{p-1})`, plus noise of nu times their variance. For each pair and ridge strength
the student's error is linear in `E[theta theta^T]` and in nu, so that one pass over the rows gives the whole map, and with it the
posterior experiment for any least share R of the labels that the strong model is taken to express.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array

from w2s_jax.moments import model_moments
from w2s_jax.ranking.folds import grouped_folds
from w2s_jax.theory import LabelPosterior, label_posterior

PRIORS = (0.5, 1.0, 1.5, 2.0, 3.0)
LEAST_SHARES = (0.0, 0.1, 0.2, 0.35, 0.5)
RESPONSE, LEAST = "response", "least:"


def expected_map(
    weak: Mapping[str, np.ndarray],
    strong: np.ndarray,
    groups: np.ndarray,
    ridges: Sequence[float],
    scaling: str,
    y: np.ndarray,
    labels: Mapping[str, np.ndarray],
    folds: int = 3,
) -> dict[str, np.ndarray]:
    """Errors (ridge, weak) by p, without noise and in units of the labels' variance; `response` is what nu = 1 adds.

    `labels`: numbers of the rows whose label in y (n, c) may be seen, by the set's name; `least:R:NAME` are the posterior errors
    of each set and least share.
    """
    fold = grouped_folds(groups, folds, np.random.default_rng(0))
    z = prepared(strong, scaling)
    values, vectors = np.linalg.eigh(z.T @ z / len(z))
    z, values = z @ vectors, np.maximum(values, values[-1] * np.finfo(np.float32).eps)
    prior = np.array([(values / values[-1]) ** (p - 1) for p in PRIORS])
    prior /= (prior @ values)[:, None]
    posteriors = _posteriors(z, y, labels, groups)
    errors = np.zeros((len(PRIORS) + len(posteriors), len(ridges), len(weak)))
    noise = np.zeros((len(ridges), len(weak)))
    for turn in range(folds):
        a, b, c = (np.nonzero(fold == (turn + k) % folds)[0] for k in range(3))
        students = [_root(z[c]) @ cho_solve(_factor(z[b], ridge), z[b].T / len(b)) for ridge in ridges]
        target, means = _root(z[c]), _group_means(groups[a])
        for w, rows in enumerate(weak.values()):
            h = prepared(rows, scaling)
            for r, ridge in enumerate(ridges):
                heads = cho_solve(_factor(h[a], ridge), h[a].T / len(a))
                of_noise = students[r] @ (h[b] @ heads)  # the student's response to labels on A
                away = of_noise @ z[a] - target
                missed, own = away.T @ away, np.square(of_noise).sum()
                shared = np.square(of_noise @ means).sum()
                of_labels = [
                    np.sum(missed * of.second) + of.noise * own + of.shared * shared for of in posteriors.values()
                ]
                errors[:, r, w] += np.array([*(prior @ np.diag(missed)), *of_labels]) / folds
                noise[r, w] += own / folds
    return {RESPONSE: noise} | dict(zip([*(f"{p:g}" for p in PRIORS), *posteriors], errors, strict=True))


def _posteriors(
    z: np.ndarray, y: np.ndarray, labels: Mapping[str, np.ndarray], groups: np.ndarray
) -> dict[str, LabelPosterior]:
    """By least share and label set; labels about their mean, and y in units of its standard deviation."""
    strong, size = model_moments(z), np.sqrt(y.var(0).sum())
    found = {}
    for named, rows in labels.items():
        about = (y[rows] - y[rows].mean(0)) / size
        for least in LEAST_SHARES:
            posterior = label_posterior(strong, z[rows], about, groups=groups[rows], least_share=least)
            found[f"{LEAST}{least:g}:{named}"] = jax.tree.map(np.asarray, posterior)
    return found


def _group_means(groups: np.ndarray) -> csr_array:
    """A matrix (rows, groups) whose product with itself is the projection on means of groups of more than one row."""
    _, place, size = np.unique(groups, return_inverse=True, return_counts=True)
    value = np.where(size > 1, 1 / np.sqrt(size), 0)[place]
    return csr_array((value, (np.arange(len(groups)), place)))


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
