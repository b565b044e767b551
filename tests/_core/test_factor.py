"""Factorisations: the dense answers, one at a time under vmap on a CPU, in one call elsewhere."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import entrywise_error
from jax import export

from w2s_jax._core.factor import cholesky, cholesky_solve, eigh, eigvalsh, inverse_factor, qr
from w2s_jax._core.ridge_solve import ridge_inverse, ridge_solver

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((5, 9, 6))
MATRICES = np.swapaxes(ROWS, 1, 2) @ ROWS + np.eye(6)

FUNCTIONS = {
    "eigh": (lambda m: rebuilt(*eigh(m)), lambda m: m),
    "eigvalsh": (eigvalsh, np.linalg.eigvalsh),
    "cholesky": (cholesky, np.linalg.cholesky),
    "cholesky_solve": (lambda m: cholesky_solve(cholesky(m), m[:, 0]), lambda m: np.eye(6)[0]),
    "inverse_factor": (inverse_factor, lambda m: np.linalg.inv(np.linalg.cholesky(m))),
    "qr": (lambda m: jnp.matmul(*qr(m)), lambda m: m),
    "solve": (lambda m: ridge_solver(m, 0.5)(m[:, :2]), lambda m: np.linalg.solve(m + 0.5 * np.eye(6), m[:, :2])),
    "inverse": (lambda m: ridge_inverse(m, 0.5), lambda m: np.linalg.inv(m + 0.5 * np.eye(6))),
}


def rebuilt(values, vectors):
    return (vectors * values) @ vectors.T


@pytest.mark.everything(but=1)
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
    loops = elsewhere.split("func.func")[1].count(
        "stablehlo.while"
    )  # a ridge solve has one, for those that are not sound
    assert "tensor<5x6x6xf32>" in elsewhere and loops == (name in ("inverse", "solve"))


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("k", [1, 31, 32, 33, 64, 100, 256, 257, 545])
def test_the_inverse_factor_at_every_number_of_blocks(k, x64):
    """By blocks and by halves it is the inverse of NumPy's factor: lower triangular, whatever is left of the last block."""
    rows = RNG.standard_normal((2 * k, k))
    matrix = rows.T @ rows
    found = np.asarray(inverse_factor(jnp.asarray(matrix)))
    assert entrywise_error(found, np.linalg.inv(np.linalg.cholesky(matrix))) <= 1e-11
    assert not np.triu(found, 1).any()
    inverted = np.asarray(ridge_inverse(jnp.asarray(matrix), 0.5))
    assert entrywise_error(inverted, np.linalg.inv(matrix + 0.5 * np.eye(k))) <= 1e-11


@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6])
def test_a_float32_inverse_is_as_good_as_lapacks(condition):
    """Of ill-conditioned matrices, held against float64: in the median of nine at most twice the error of LAPACK's solve."""
    k, ratios = 300, []
    for rng in map(np.random.default_rng, range(9)):
        basis = np.linalg.qr(rng.standard_normal((k, k)))[0]
        matrix = ((basis * np.geomspace(1, 1 / condition, k)) @ basis.T).astype(np.float32)
        exact = np.linalg.inv(matrix.astype(float))
        error = lambda found, exact=exact: np.abs(np.asarray(found) - exact).max()
        solved = cholesky_solve(cholesky(jnp.asarray(matrix)), jnp.eye(k))
        factor = inverse_factor(jnp.asarray(matrix))
        ratios.append(error(jnp.matmul(factor.T, factor, precision="highest")) / error(solved))
    assert np.median(ratios) <= 2


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_eigenpairs_at_the_ends_of_float32(size):
    """A matrix 1e30 times larger or smaller has eigenvalues of that size."""
    values, vectors = eigh(jnp.asarray(MATRICES[0] * size, jnp.float32))
    assert entrywise_error(rebuilt(np.asarray(values, float) / size, np.asarray(vectors, float)), MATRICES[0]) <= 1e-5


@pytest.mark.everything
def test_batched_experiments_end():
    """A batch whose factorisations of both sides are independent of each other ends, also on two cores."""
    code = """
import jax, jax.numpy as jnp
from w2s_jax.studies.synthetic import random_features
from w2s_jax.studies.simulation import simulate
family = random_features(jax.random.key(3), 20, 40, 160, exponent=1.0)
print(float(simulate(jax.random.split(jax.random.key(0), 20), family, 300, 300, 1e-3, 1e-3, batch=5).gap.mean()))
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=300, check=True, capture_output=True, text=True)
    assert 0 < float(done.stdout) < 1
