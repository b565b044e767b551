"""Simulated weak-to-strong experiments with ridge heads, their errors exact given the heads, for the tests of several modules."""

from __future__ import annotations

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import reference

from w2s_jax.theory.equivalent_errors import equivalent_errors


def power_law(d: int, exponent: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Spectra i^-exponent on both sides, in bases turned against each other, and a target of energy 1."""
    rng = np.random.default_rng(seed)
    root = np.arange(1.0, d + 1) ** (-exponent / 2)
    turn = np.linalg.qr(np.eye(d) + 0.5 / np.sqrt(d) * rng.standard_normal((d, d)))[0]
    y = rng.standard_normal(d) * root
    joint = np.vstack([root[:, None] * turn, np.diag(root), y / np.linalg.norm(y)])
    m = joint @ joint.T
    return {
        "ww": m[:d, :d],
        "ss": m[d:-1, d:-1],
        "sw": m[d:-1, :d],
        "wy": m[:d, -1],
        "sy": m[d:-1, -1],
        "yy": m[-1, -1],
    }


def spiked(seed: int = 0) -> dict[str, np.ndarray]:
    """Three strong directions on each side of a shared latent; the target is partly outside both."""
    rng = np.random.default_rng(seed)
    weak, strong = (np.linalg.qr(rng.standard_normal((5, 3)))[0].T * [[1.4], [1.2], [1.0]] for _ in range(2))
    joint = np.vstack([weak, strong, np.ones(5) / 5**0.5])
    m = joint @ joint.T
    return {"ww": m[:3, :3], "ss": m[3:6, 3:6], "sw": m[3:6, :3], "wy": m[:3, 6], "sy": m[3:6, 6], "yy": m[6, 6]}


FAMILIES = {  # moments, noise, weak tail, strong tail, n~, n^, beta_w, beta_s
    "spiked, d/n = 5": (spiked(), 0.0, (0.06, 600), (0.04, 600), 120, 120, 0.1, 0.1),
    "spiked, d/n = 2, noise": (spiked(), 0.25, (0.15, 240), (0.1, 240), 120, 120, 0.1, 0.1),
    "spiked, ridgeless": (spiked(), 0.25, (0.15, 240), (0.1, 300), 120, 120, 0.0, 0.0),
    "power law 1": (power_law(60, 1.0), 0.0, (0.0, 0), (0.0, 0), 90, 120, 0.01, 0.01),
    "power law .7, noise": (power_law(100, 0.7), 0.25, (0.0, 0), (0.0, 0), 80, 160, 0.01, 0.01),
}


def affine_head(h: np.ndarray, y: np.ndarray, beta: float, intercept: bool) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias of a ridge head, through the smaller side."""
    means = (h.mean(0), y.mean()) if intercept else (np.zeros(h.shape[1]), 0.0)
    h, y, n = h - means[0], y - means[1], len(h)
    if len(h[0]) <= n:
        theta = np.linalg.solve(h.T @ h / n + beta * np.eye(len(h[0])), h.T @ y / n)
    else:
        theta = h.T @ np.linalg.solve(h @ h.T / n + beta * np.eye(n), y / n)
    return theta, means[1] - theta @ means[0]


@lru_cache
def trials(family: str, count: int, intercept: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Errors and gap of repeated experiments (count, 4), exact given the heads, and what D^ says of the last three (count, 3)."""
    m, noise, weak, strong, n_w, n_s, b_w, b_s = FAMILIES[family]
    rng, shift, k_w = np.random.default_rng(1), 3.0 * intercept, len(m["ww"])
    full = reference.with_tails(m, weak, strong)
    labels = np.append(m["wy"], m["sy"])[:, None]
    root = reference.matrix_sqrt(
        np.block([[np.block([[m["ww"], m["sw"].T], [m["sw"], m["ss"]]]), labels], [labels.T, m["yy"]]])
    )
    outcomes, rows, seen, outputs = [], [], [], []

    def draw(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        z = rng.standard_normal((n, len(root))) @ root + shift
        h_w, h_s, y = z[:, :k_w], z[:, k_w:-1], z[:, -1]
        tails = (np.sqrt(v) * rng.standard_normal((n, d)) for v, d in (weak, strong))
        h_w, h_s = (np.hstack(pieces) for pieces in zip((h_w, h_s), tails, strict=True))
        return h_w, h_s, y + np.sqrt(noise) * rng.standard_normal(n)

    def error(side: str, theta: np.ndarray, bias: float, target: bool = True) -> float:
        offset = bias + shift * (np.sum(theta[: len(m[side + side])]) - target)
        squares = theta @ full[side + side] @ theta + offset**2
        return squares + target * (m["yy"] - 2 * theta @ full[side + "y"])

    for _ in range(count):
        h_w, _, y = draw(n_w)
        T, bias = affine_head(h_w, y, b_w, intercept)
        h_w, h_s, y = draw(n_s)
        (Q, q), (R, r) = (affine_head(h_s, labels, b_s, intercept) for labels in (h_w @ T + bias, y))
        outcomes.append(
            [error("w", T, bias), error("s", Q, q), error("s", R, r), error("s", Q - R, q - r, target=False)]
        )
        rows.append(h_s), seen.append(y), outputs.append(h_w @ T + bias)
    found = jax.jit(jax.vmap(lambda h, y, f: jnp.stack(equivalent_errors(h, y, f, b_s, bias=intercept))))
    return np.array(outcomes), np.asarray(found(np.stack(rows), np.stack(seen), np.stack(outputs)))


def assert_means_agree(samples: np.ndarray, expected: np.ndarray, finite_size: float = 0.01) -> None:
    """The samples' mean is the expected value within 4 standard errors, which are small, and terms of order 1/n."""
    mean, error = samples.mean(0), samples.std(0, ddof=1) / np.sqrt(len(samples))
    assert np.all(error <= 0.03 * expected)
    assert np.all(np.abs(mean - expected) <= 4 * error + finite_size * expected)
