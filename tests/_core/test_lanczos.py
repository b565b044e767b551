"""Lanczos: its bounds hold, what it cannot bound is solved, and its vectors are right in float32."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from w2s_jax._core import lanczos


def matrices(decay: float) -> np.ndarray:
    """Five PSD matrices (5, 60, 60) with eigenvalues j^-decay."""
    q = np.linalg.qr(np.random.default_rng(1).standard_normal((5, 60, 60)))[0]
    return (q * np.arange(1, 61.0) ** -decay) @ np.swapaxes(q, 1, 2)


def problem(matrices: np.ndarray) -> lanczos.Problem:
    A = jnp.asarray(matrices)
    product = lambda x: jnp.einsum("bij,jb->ib", A, x, precision="highest")
    return lanczos.Problem(product, lanczos.random_start((60, 5), A.dtype), (A,), lambda m: m)


@pytest.mark.parametrize("steps", [4, 8, 16, 96])
@pytest.mark.parametrize("decay", [0.1, 1.0])
def test_lanczos_bounds_its_error(steps, decay, monkeypatch, x64):
    """After any number of steps an eigenvalue lies within the bound of the value, and the value does not exceed the largest."""
    monkeypatch.setattr(lanczos, "MAX_STEPS", steps)
    A = matrices(decay)
    top, _ = lanczos._lanczos(problem(A), with_basis=False)
    exact = np.linalg.eigvalsh(A)
    assert (np.abs(exact - np.asarray(top.value)[:, None]).min(1) <= top.residual + 1e-12).all()
    assert (np.asarray(top.value) <= exact[:, -1] * (1 + 1e-12)).all()
    assert steps < 96 or (np.asarray(top.residual) <= 1e-10 * exact[:, -1]).all()


@pytest.mark.parametrize("steps", [4, 96])
def test_what_lanczos_cannot_bound_is_solved(steps, monkeypatch, x64):
    """Stopped far too early it falls back on the eigensolver: the result is right to 1e-10 either way."""
    monkeypatch.setattr(lanczos, "MAX_STEPS", steps)
    A = matrices(0.1)
    found = np.asarray(lanczos.leading_values(problem(A)))
    assert np.abs(found / np.linalg.eigvalsh(A)[:, -1] - 1).max() <= 1e-10


@pytest.mark.parametrize("overlap", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("size", [12, 60])
def test_a_start_with_little_of_the_eigenvector_finds_it(size, overlap):
    """In float32 the vectors are right also where their largest coordinates come late in the recurrence."""
    rng = np.random.default_rng(2)
    basis = np.linalg.qr(rng.standard_normal((5, size, size)))[0]
    A = (basis * np.arange(1, size + 1.0) ** -1) @ np.swapaxes(basis, 1, 2)
    start = np.einsum("bij,j->ib", basis, np.where(np.arange(size) > 0, 1, overlap))
    single = lambda x: jnp.asarray(x, jnp.float32)
    given = problem(single(A))._replace(start=single(start / np.linalg.norm(start, axis=0)))
    top, state = lanczos._lanczos(given, with_basis=True)
    found = np.asarray(lanczos._ritz_vectors(top.coordinates, state.basis), float)
    exact = basis[..., 0] * np.sign(np.sum(found * basis[..., 0], 1))[:, None]
    errors = np.linalg.norm(found - exact, axis=1)
    assert (errors <= 1e-5).all(), errors
