"""How fast the experiment is: simulated trials, logistic heads and penalty paths against what a script does.

    python -m benchmarks.experiment [--quick] [--out FILE.json]

Everything is float32, compile apart. (a) a NumPy and scikit-learn loop over one compiled call for 1,000 weak-to-strong
trials (n = 500, d = 100: sample three splits, fit three ridge heads, measure); (b) a scikit-learn loop over one call for 100
logistic heads on the same rows, ours stopped at the gradient norm that scikit-learn reached; (c) a path of 100 penalties
over one ridge fit.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge

import w2s_jax as w2s
from benchmarks._common import run_parts, timed
from w2s_jax.studies.simulation import Trial, simulate
from w2s_jax.studies.synthetic import GaussianFamily, power_law


def trials(quick: bool) -> dict[str, Any]:
    """(a): the rival's loop is timed over a tenth of the trials."""
    count, n, d = (100, 200, 40) if quick else (1000, 500, 100)
    family, ridge = power_law(jax.random.key(0), 1.0, d, noise=0.1), 1e-2
    assert isinstance(family, GaussianFamily)
    keys = jax.random.split(jax.random.key(1), count)
    seconds, compiling = timed(lambda: simulate(keys, family, n, n, ridge, ridge, measure=errors), 3)
    A_w, A_s, a = (np.asarray(x) for x in (family.A_w, family.A_s, family.a))
    rng, loop = np.random.default_rng(0), max(1, count // 10)
    started = time.perf_counter()
    found = [script_trial(rng, A_w, A_s, a, n, ridge) for _ in range(loop)]
    rival = (time.perf_counter() - started) / loop * count
    ours = np.mean(simulate(keys, family, n, n, ridge, ridge, measure=errors)[1])
    return {
        "trials, n, d": [count, n, d],
        "NumPy and scikit-learn loop s": rival,
        "one call s": seconds,
        "compile s": compiling,
        "(a) loop / one call": rival / seconds,
        "mean student error, loop and ours": [float(np.mean(found)), float(ours)],
    }


def errors(trial: Trial) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """What the rival measures too."""
    return trial.weak_error, trial.student_error, trial.ceiling_error, trial.gap


def script_trial(
    rng: np.random.Generator, A_w: np.ndarray, A_s: np.ndarray, a: np.ndarray, n: int, beta: float
) -> float:
    """One trial as a script does it; the student's test error."""
    x = [rng.standard_normal((n, A_w.shape[1]), np.float32) for _ in range(3)]
    target = [z @ a for z in x]
    labels = [t + 0.1**0.5 * rng.standard_normal(n, np.float32) for t in target]
    head = lambda: Ridge(alpha=n * beta, fit_intercept=False)
    weak = head().fit(x[0] @ A_w.T, labels[0])
    student = head().fit(x[1] @ A_s.T, weak.predict(x[1] @ A_w.T))
    ceiling = head().fit(x[1] @ A_s.T, labels[1])
    outputs = [weak.predict(x[2] @ A_w.T), student.predict(x[2] @ A_s.T), ceiling.predict(x[2] @ A_s.T)]
    measured = [np.mean((f - target[2]) ** 2) for f in outputs] + [np.mean((outputs[1] - outputs[2]) ** 2)]
    return float(measured[1])


def logistic_heads(quick: bool) -> dict[str, Any]:
    """(b)."""
    heads, n, d, beta = (10, 500, 32, 1e-3) if quick else (100, 5000, 256, 1e-3)
    rng = np.random.default_rng(0)
    h = rng.standard_normal((n, d)).astype(np.float32)
    y = (h @ rng.standard_normal((d, heads)) / 2 + rng.logistic(size=(n, heads)) > 0).astype(np.float32)
    started = time.perf_counter()
    fits = [LogisticRegression(C=1 / (2 * n * beta), tol=1e-4, max_iter=500).fit(h, column) for column in y.T]
    rival = time.perf_counter() - started
    kernels = np.stack([fit.coef_[0] for fit in fits]), np.array([fit.intercept_[0] for fit in fits])
    slope = jax.jit(jax.vmap(lambda k, b, y: relative_gradient(k, b, jnp.asarray(h), y, beta)))
    reached = np.asarray(slope(*(jnp.asarray(k, jnp.float32) for k in kernels), jnp.asarray(y.T)))
    train = jax.jit(
        jax.vmap(lambda h, y, t: w2s.train_probe(h, y, beta, "logistic", tolerance=t), in_axes=(None, 0, None))
    )
    rows, labels, tolerance = jnp.asarray(h), jnp.asarray(y.T), jnp.asarray(float(np.median(reached)))
    seconds, compiling = timed(lambda: train(rows, labels, tolerance), 5)
    found = train(rows, labels, tolerance)
    ours = np.asarray(slope(found.probe.kernel[...], found.probe.bias[...], labels))
    return {
        "heads, n, d": [heads, n, d],
        "scikit-learn loop s": rival,
        "one call s": seconds,
        "compile s": compiling,
        "(b) loop / one call": rival / seconds,
        "relative gradient norm, loop and ours (median)": [float(np.median(reached)), float(np.median(ours))],
    }


def relative_gradient(kernel: jax.Array, bias: jax.Array, h: jax.Array, y: jax.Array, beta: float) -> jax.Array:
    """Gradient norm of the objective, relative to that of a zero kernel with the best constant."""

    def objective(kernel: jax.Array, bias: jax.Array) -> jax.Array:
        z = jnp.matmul(h, kernel, precision="highest") + bias
        return jnp.mean(jnp.logaddexp(z, 0) - y * z) + beta * jnp.sum(kernel * kernel)

    size = lambda kernel, bias: jnp.sqrt(sum(jnp.sum(g * g) for g in jax.grad(objective, (0, 1))(kernel, bias)))
    mean = jnp.mean(y)
    return size(kernel, bias) / size(jnp.zeros_like(kernel), jnp.log(mean / (1 - mean)))


def penalty_path(quick: bool) -> dict[str, Any]:
    """(c)."""
    n, d = (500, 32) if quick else (5000, 256)
    rng = np.random.default_rng(0)
    h, y = jnp.asarray(rng.standard_normal((n, d)), jnp.float32), jnp.asarray(rng.standard_normal(n), jnp.float32)
    betas = jnp.geomspace(1e-5, 1, 100)
    one, compile_one = timed(lambda: w2s.ridge_probe(h, y, 1e-3), 15)
    path, compile_path = timed(lambda: w2s.heads.ridge_probe_path(h, y, betas), 15)
    return {
        "n, d, penalties": [n, d, 100],
        "one fit s": one,
        "path s": path,
        "compile s (fit, path)": [compile_one, compile_path],
        "(c) path / fit": path / one,
    }


if __name__ == "__main__":
    run_parts(__doc__, (trials, logistic_heads, penalty_path))
