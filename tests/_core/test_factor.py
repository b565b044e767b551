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

from w2s_jax._core.factor import cholesky, cholesky_solve, eigh, eigvalsh, inverse, inverse_factor, qr, solve

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
    loops = elsewhere.split("func.func")[1].count("stablehlo.while")  # an inverse has one, for those that are not sound
    assert "tensor<5x6x6xf32>" in elsewhere and loops == (name == "inverse")


@pytest.mark.parametrize("k", [1, 31, 32, 33, 64, 100, 256, 257, 545])
def test_the_inverse_factor_at_every_number_of_blocks(k, x64):
    """By blocks and by halves it is the inverse of NumPy's factor: lower triangular, whatever is left of the last block."""
    rows = RNG.standard_normal((2 * k, k))
    matrix = rows.T @ rows
    found = np.asarray(inverse_factor(jnp.asarray(matrix)))
    assert entrywise_error(found, np.linalg.inv(np.linalg.cholesky(matrix))) <= 1e-11
    assert not np.triu(found, 1).any()
    assert entrywise_error(inverse(jnp.asarray(matrix), 0.5), np.linalg.inv(matrix + 0.5 * np.eye(k))) <= 1e-11


@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6])
def test_a_float32_inverse_is_as_good_as_lapacks(condition):
    """Of an ill-conditioned matrix, held against float64: at most three times the error of LAPACK's own solve."""
    k = 300
    basis = np.linalg.qr(RNG.standard_normal((k, k)))[0]
    matrix = ((basis * np.geomspace(1, 1 / condition, k)) @ basis.T).astype(np.float32)
    exact = np.linalg.inv(matrix.astype(float))
    error = lambda found: np.abs(np.asarray(found) - exact).max() / np.abs(exact).max()
    solved = cholesky_solve(cholesky(jnp.asarray(matrix)), jnp.eye(k))
    factor = inverse_factor(jnp.asarray(matrix))
    assert error(jnp.matmul(factor.T, factor, precision="highest")) <= 3 * error(solved)


@pytest.mark.parametrize(("k", "place"), [(70, 0), (70, 40), (70, 69), (300, 10), (300, 299)])
def test_no_inverse_of_what_is_not_positive_definite(k, place):
    """A negative eigenvalue, in whichever block, makes every entry of the inverse NaN."""
    diagonal = np.ones(k, np.float32)
    diagonal[place] = -1
    assert np.isnan(inverse(jnp.diag(jnp.asarray(diagonal)), 0)).all()


@pytest.mark.parametrize("strength", [0, 1e-7, 1e-5, 1e-2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_inverse_of_a_singular_matrix_is_that_of_its_range(strength, dtype, x64):
    """Of 20 rows of 40 features and 8 columns of zeros: what their products make of it is exact at any strength, and of a
    vector in the null space nothing is made that grows with the strength's inverse."""
    rows = np.pad(np.random.default_rng(0).standard_normal((20, 40)), [(0, 0), (0, 8)]).astype(dtype)
    matrix = rows.T @ rows / np.trace(rows.T @ rows)
    found = np.asarray(jax.vmap(lambda m: inverse(m, strength))(jnp.asarray(matrix)[None])[0], float)
    values, vectors = np.linalg.eigh(matrix.astype(float))
    used = max(strength, np.finfo(dtype).eps)
    kept = vectors[:, -20:]
    expected = kept / (values[-20:] + used) @ kept.T
    tolerance = 1e-10 if dtype == "float64" else 1e-3
    moments = matrix.astype(float)
    assert entrywise_error(moments @ found @ moments, moments @ expected @ moments) <= tolerance
    if strength < 1e-2:
        assert entrywise_error(found, expected) <= tolerance


def test_a_sound_inverse_needs_no_eigenvectors(monkeypatch):
    """Of many rows, at any strength, also beside columns of zeros: the loop that would find them is never entered."""
    rows = np.pad(np.random.default_rng(0).standard_normal((200, 40)), [(0, 0), (0, 8)]).astype(np.float32)
    matrix = jnp.asarray(rows.T @ rows / np.trace(rows.T @ rows))
    expected = inverse(matrix, 1e-6)
    monkeypatch.setattr("w2s_jax._core.factor.eigh", lambda m: (jnp.full(len(m), jnp.nan), jnp.full_like(m, jnp.nan)))
    np.testing.assert_array_equal(jax.jit(lambda m: inverse(m, 1e-6))(matrix), expected)
    few = jnp.asarray(rows[:20].T @ rows[:20] / 800)
    assert np.isnan(jax.jit(lambda m: inverse(m, 1e-6))(few)).all()


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
from w2s_jax.studies.synthetic import random_features
from w2s_jax.studies.simulation import simulate
family = random_features(jax.random.key(3), 20, 40, 160, exponent=1.0)
print(float(simulate(jax.random.split(jax.random.key(0), 20), family, 300, 300, 1e-3, 1e-3, batch=5).gap.mean()))
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=300, check=True, capture_output=True, text=True)
    assert 0 < float(done.stdout) < 1
