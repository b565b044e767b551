"""Factorisations: the dense answers, one at a time under vmap on a CPU, in one call elsewhere."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import derivative_error, entrywise_error
from jax import export

from w2s_jax._factor import cholesky, cholesky_solve, eigh, eigvalsh, inverse, qr, solve, triangular_inverse

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((5, 9, 6))
MATRICES = np.swapaxes(ROWS, 1, 2) @ ROWS + np.eye(6)

FUNCTIONS = {
    "eigh": (lambda m: rebuilt(*eigh(m)), lambda m: m),
    "eigvalsh": (eigvalsh, np.linalg.eigvalsh),
    "cholesky": (cholesky, np.linalg.cholesky),
    "cholesky_solve": (lambda m: cholesky_solve(cholesky(m), m[:, 0]), lambda m: np.eye(6)[0]),
    "triangular_inverse": (lambda m: triangular_inverse(jnp.tril(m)), lambda m: np.linalg.inv(np.tril(m))),
    "qr": (lambda m: jnp.matmul(*qr(m)), lambda m: m),
    "solve": (lambda m: solve(m, 0.5, m[:, :2]), lambda m: np.linalg.solve(m + 0.5 * np.eye(6), m[:, :2])),
    "inverse": (lambda m: inverse(m, 0.5), lambda m: np.linalg.inv(m + 0.5 * np.eye(6))),
}


def rebuilt(values, vectors):
    return (vectors * values) @ vectors.T


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_batch_is_its_matrices(name, x64):
    """Alone, under vmap and under two vmaps each factorisation is NumPy's."""
    function, dense = FUNCTIONS[name]
    expected, matrices = np.stack([dense(m) for m in MATRICES]), jnp.asarray(MATRICES)
    assert entrywise_error(np.stack([function(m) for m in matrices]), expected) <= 1e-12
    assert entrywise_error(jax.jit(jax.vmap(function))(matrices), expected) <= 1e-12
    assert entrywise_error(jax.vmap(jax.vmap(function))(matrices[None])[0], expected) <= 1e-12


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_cpu_never_gets_a_batched_call(name):
    """Compiled for a CPU every LAPACK call has one matrix; for CUDA the batch stays together."""
    function, _ = FUNCTIONS[name]
    batched = jax.jit(jax.vmap(function))
    matrices = jnp.asarray(MATRICES, jnp.float32)
    text = batched.lower(matrices).as_text()
    calls = [line for line in text.splitlines() if "lapack" in line]
    assert calls and not any("tensor<5x" in line for line in calls)
    elsewhere = export.export(batched, platforms=("cuda",))(matrices).mlir_module()
    assert "tensor<5x6x6xf32>" in elsewhere and "while" not in elsewhere.split("func.func")[1]


@pytest.mark.parametrize("name", ["inverse", "solve"])
def test_solves_differentiate(name, x64):
    """The regularised inverse and its solve have their derivatives, in the matrix and in the strength."""
    function = inverse if name == "inverse" else lambda m, b: solve(m, b, m[:, 1:3])
    symmetric = lambda m, strength: function((m + m.T) / 2, strength)
    assert derivative_error(lambda x: symmetric(*x), (MATRICES[0], 0.5)) <= 1e-7
    assert derivative_error(jax.vmap(lambda m: symmetric(m, 0.5)), MATRICES) <= 1e-7


def test_batched_experiments_end():
    """A batch whose factorisations of both sides are independent of each other ends, also on two cores."""
    code = """
import jax, jax.numpy as jnp
from w2s_jax.synthetic import random_features
from w2s_jax.trials import simulate
family = random_features(jax.random.key(3), 20, 40, 160, exponent=1.0)
print(float(simulate(jax.random.split(jax.random.key(0), 20), family, 300, 300, 1e-3, 1e-3, batch=5).gap.mean()))
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=300, check=True, capture_output=True, text=True)
    assert 0 < float(done.stdout) < 1
