"""The regularised solve: of minimum norm on either form, exact where the matrix is regular, differentiable."""

from __future__ import annotations

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import derivative_error, entrywise_error

from w2s_jax._core.ridge_solve import ridge_inverse, ridge_solver

FORMS = {"inverse": ridge_inverse, "solver": lambda m, ridge: ridge_solver(m, ridge)(jnp.eye(len(m), dtype=m.dtype))}
both_forms = pytest.mark.parametrize("form", FORMS)


def few_rows(dtype: str) -> np.ndarray:
    """The moment, of trace 1, of 20 rows of 40 features and 8 columns of zeros."""
    rows = np.pad(np.random.default_rng(0).standard_normal((20, 40)), [(0, 0), (0, 8)]).astype(dtype)
    return rows.T @ rows / np.trace(rows.T @ rows)


@both_forms
@pytest.mark.parametrize(("k", "place"), [(70, 0), (70, 40), (70, 69), (300, 10), (300, 299)])
def test_no_solution_of_what_is_not_positive_definite(k, place, form):
    """A negative eigenvalue, in whichever block, makes every entry NaN."""
    diagonal = np.ones(k, np.float32)
    diagonal[place] = -1
    assert np.isnan(FORMS[form](jnp.diag(jnp.asarray(diagonal)), 0)).all()


@pytest.mark.parametrize(
    ("form", "ridge"), [*product(["inverse"], [0, 1e-7, 1e-5, 1e-2]), *product(["solver"], [0, 1e-5, 1e-2])]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_inverse_of_a_singular_matrix_is_that_of_its_range(ridge, dtype, form, x64):
    """What products of the same rows make of it is exact at any penalty; where rounding could be seen, and without a penalty,
    it is zero in the null space."""
    matrix = few_rows(dtype)
    found = np.asarray(jax.vmap(lambda m: FORMS[form](m, ridge))(jnp.asarray(matrix)[None])[0], float)
    values, vectors = np.linalg.eigh(matrix.astype(float))
    kept = vectors[:, -20:]
    expected = kept / (values[-20:] + ridge) @ kept.T
    tolerance = 1e-10 if dtype == "float64" else 1e-3
    moments = matrix.astype(float)
    assert entrywise_error(moments @ found @ moments, moments @ expected @ moments) <= tolerance
    if ridge < 1e-2 and (form == "inverse" or ridge == 0):
        assert entrywise_error(found, expected) <= tolerance


@both_forms
def test_a_matrix_of_zeros(form):
    """Of a padded model: nothing that is not finite, with and without a penalty."""
    for ridge in (0, 1e-3):
        assert np.isfinite(FORMS[form](jnp.zeros((5, 5), jnp.float32), ridge)).all()


@both_forms
def test_a_sound_solve_needs_no_eigenvectors(form, monkeypatch):
    """Of many rows, at any penalty, also beside columns of zeros: the loop that would find them is never entered."""
    rows = np.pad(np.random.default_rng(0).standard_normal((200, 40)), [(0, 0), (0, 8)]).astype(np.float32)
    matrix = jnp.asarray(rows.T @ rows / np.trace(rows.T @ rows))
    expected = [FORMS[form](matrix, ridge) for ridge in (0, 1e-6)]
    nan = lambda m: (jnp.full(len(m), jnp.nan), jnp.full_like(m, jnp.nan))
    monkeypatch.setattr("w2s_jax._core.ridge_solve.eigh", nan)
    for ridge, wanted in zip((0, 1e-6), expected, strict=True):
        np.testing.assert_array_equal(jax.jit(lambda m, b: FORMS[form](m, b))(matrix, ridge), wanted)
    assert np.isnan(jax.jit(lambda m: FORMS[form](m, 0))(jnp.asarray(few_rows("float32")))).all()


@both_forms
def test_solves_differentiate(form, x64):
    """Both forms have their derivatives, in the matrix and in the penalty."""
    rows = np.random.default_rng(0).standard_normal((5, 9, 6))
    matrices = np.swapaxes(rows, 1, 2) @ rows + np.eye(6)
    symmetric = lambda m, ridge: FORMS[form]((m + m.T) / 2, ridge)
    assert derivative_error(lambda x: symmetric(*x), (matrices[0], 0.5)) <= 1e-7
    assert derivative_error(jax.vmap(lambda m: symmetric(m, 0.5)), matrices) <= 1e-7
