"""Trained heads: each ends at the optimum of its own sentence, and an ensemble is one program."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import optax
import pytest
import reference
from conftest import entrywise_error, quickly
from fitted import CASES, SHAPES, classes, coefficients, expected_coefficients, precision, rows
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from w2s_jax import gradient_flow, principal_kernel
from w2s_jax.heads.losses import (
    reverse_cross_entropy,
)
from w2s_jax.heads.ridge import (
    LinearProbe,
)
from w2s_jax.heads.trained import train_probe

SINGLE = [(*case, "float32") for case in (CASES[1], CASES[2])]  # rounding stops the search: without bias and with


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("beta", [1e-3, 0.1])
@pytest.mark.parametrize(
    ("shape", "bias", "dtype"), [*SINGLE, *((*case, "float64") for case in CASES)], indirect=["dtype"]
)
def test_a_converged_squared_loss_is_the_closed_form(shape, bias, beta, dtype):
    """L-BFGS ends at the ridge head, and says that it got there."""
    h, y = rows(*shape, dtype, mean=1.0)
    found = train_probe(h, y, beta, bias=bias)
    assert found.converged and found.gradient_norm <= (1e-12 if dtype == np.float64 else 1e-6)
    assert entrywise_error(coefficients(found.probe), expected_coefficients(h, y, beta, bias=bias)) <= precision(dtype)


@pytest.mark.parametrize("beta", [1e-4, 1e-2])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        (SHAPES[2], "float32"),
        (SHAPES[2], "float64"),
        *(pytest.param(shape, "float64", marks=pytest.mark.everything) for shape in SHAPES[:2]),
    ],
    indirect=["dtype"],
)
def test_a_logistic_head_is_that_of_scikit_learn(shape, beta, dtype):
    """`C = 1/(2 n beta)`: the same coefficients, to scikit-learn's own tolerance."""
    h, y = classes(*shape, dtype)
    found = train_probe(h, y, beta, "logistic")
    other = LogisticRegression(C=1 / (2 * len(h) * beta), tol=1e-8, max_iter=10_000).fit(h.astype(float), y)
    expected = np.append(other.coef_[0], other.intercept_)
    assert found.converged
    assert entrywise_error(coefficients(found.probe), expected) <= 1e-4


@pytest.mark.parametrize("name", quickly(["logistic", "softmax", "reverse"], "reverse"))
def test_heads_minimise_their_printed_objective(name, x64):
    """Mean loss plus penalty, as NumPy writes it, is what the head reports and cannot be improved by SciPy."""
    h, y = classes(40, 5, outputs=None if name == "logistic" else 3)
    y = 0.8 * y + 0.2 * np.mean(y, 0)
    loss = reverse_cross_entropy(1.0, 0.1) if name == "reverse" else name
    row_loss = (
        partial(reference.reverse_cross_entropy, entropy=1.0, floor=0.1)
        if name == "reverse"
        else reference.cross_entropy
    )
    found = train_probe(h, y, 0.01, loss)

    def objective(flat: np.ndarray) -> float:
        theta = flat.reshape(6, *y.shape[1:])
        return np.mean(row_loss(h @ theta[:5] + theta[5], y)) + 0.01 * np.sum(theta[:5] ** 2)

    at = coefficients(found.probe).ravel()
    assert found.converged and entrywise_error(found.loss, objective(at)) <= 1e-12
    assert minimize(objective, at, method="BFGS").fun >= found.loss - 1e-10


@pytest.mark.everything
def test_independent_outputs_are_separate_heads(x64):
    """A logistic loss on (n, c) labels fits each output as on its own."""
    h, y = classes(40, 5, outputs=3)
    together = train_probe(h, y, 0.01, "logistic")
    for j in range(3):
        alone = train_probe(h, y[:, j], 0.01, "logistic")
        assert entrywise_error(coefficients(together.probe)[:, j], coefficients(alone.probe)) <= 1e-9


@pytest.mark.parametrize("scale", quickly([1e-8, 1e8], 1e8))
def test_training_does_not_depend_on_the_units(scale):
    """Features times c with the penalty times c^2 give the kernel over c, in float32."""
    h, y = classes(60, 8, np.float32)
    plain = train_probe(h, y, 1e-3, "logistic")
    scaled = train_probe(h * np.float32(scale), y, 1e-3 * scale**2, "logistic")
    assert scaled.converged
    assert entrywise_error(scaled.probe.kernel[...] * scale, plain.probe.kernel[...]) <= 1e-5


@pytest.mark.everything
@pytest.mark.parametrize("bias", [True, False])
def test_gradient_descent_stopped_early_is_gradient_flow(bias, x64):
    """T steps of rate eta on the squared loss without penalty are the filter `1 - exp(-2 eta T lambda)` as eta -> 0."""
    h, y = rows(30, 8)
    time, errors = 0.4, []
    mean = y.mean(0) if bias else 0
    flow = principal_kernel(h, gradient_flow(time), bias=bias) @ (y - mean) + mean
    for steps in (2_000, 4_000):
        descent = optax.sgd(time / 2 / steps)
        found = train_probe(h, y, 0.0, bias=bias, optimizer=descent, max_steps=steps, tolerance=0.0)
        assert found.steps == steps
        errors.append(entrywise_error(found.probe(h), flow))
    assert errors[0] <= 1e-2
    assert 1.9 <= errors[0] / errors[1] <= 2.1  # first order in the rate


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("optimizer", [optax.adam(optax.cosine_decay_schedule(0.1, 2_000)), optax.lbfgs()])
def test_any_optimiser_finds_the_same_head(optimizer, x64):
    """An optimiser from optax, with or without its own line search, ends where L-BFGS does."""
    h, y = classes(60, 6)
    expected = coefficients(train_probe(h, y, 0.1, "logistic").probe)
    found = train_probe(h, y, 0.1, "logistic", optimizer=optimizer, max_steps=2_000, tolerance=1e-7)
    assert found.converged
    assert entrywise_error(coefficients(found.probe), expected) <= 1e-5


@pytest.mark.everything
@pytest.mark.parametrize("shape", SHAPES[::2])
def test_a_start_changes_the_way_not_the_end(shape, x64):
    """From the solution no step is taken; from elsewhere the same head is found."""
    h, y = classes(*shape)
    found = train_probe(h, y, 0.01, "logistic")
    assert train_probe(h, y, 0.01, "logistic", start=found.probe, tolerance=1e-10).steps == 0
    elsewhere = LinearProbe(np.ones(shape[1]), np.asarray(1.0))
    other = train_probe(h, y, 0.01, "logistic", start=elsewhere)
    assert other.converged and entrywise_error(coefficients(other.probe), coefficients(found.probe)) <= 1e-9


def test_too_few_steps_are_reported():
    """A fit that has not got there says so."""
    found = train_probe(*classes(60, 6), 1e-4, "logistic", max_steps=2)
    assert not found.converged and found.steps == 2 and found.gradient_norm > 1e-6


@pytest.mark.everything
def test_labels_of_one_class_and_of_zeros_are_fitted(dtype):
    """Constant labels need no kernel; nothing is NaN."""
    h, _ = rows(20, 4, dtype)
    ones = train_probe(h, np.ones(20, dtype), 1e-2, "logistic", max_steps=50)
    assert np.all(np.isfinite(coefficients(ones.probe))) and np.all(ones.probe(h) > 4)
    zeros = train_probe(h, np.zeros(20, dtype))
    assert zeros.converged and np.array_equal(zeros.probe(h), np.zeros(20))


@pytest.mark.everything
def test_an_ensemble_is_one_program():
    """Models x seeds x penalties by vmap are the fits one by one, and other numbers do not compile again."""
    data = [[classes(40, 6, np.float32, seed + 10 * model) for seed in range(3)] for model in range(2)]
    h, y = (np.stack([[d[i] for d in of_model] for of_model in data]) for i in range(2))
    betas = np.array([1e-3, 1e-1], np.float32)
    traces = []

    def fit(h, y, beta):
        traces.append(0)
        return train_probe(h, y, beta, "logistic")

    ensemble = jax.jit(jax.vmap(jax.vmap(jax.vmap(fit, (None, None, 0)), (0, 0, None)), (0, 0, None)))
    found = ensemble(h, y, betas)
    ensemble(h + 1, 1 - y, betas * 2)
    assert len(traces) == 1 and np.all(found.converged)
    for i, j, k in np.ndindex(2, 3, 2):
        one = jax.tree.map(lambda x: x[i, j, k], found)
        alone = train_probe(h[i, j], y[i, j], betas[k], "logistic")
        assert entrywise_error(coefficients(one.probe), coefficients(alone.probe)) <= 1e-5


@pytest.mark.everything
def test_a_change_of_numbers_does_not_recompile():
    """Penalty, tolerance, steps, a loss's parameters and weights are traced."""
    h, y = classes(40, 6, np.float32)
    with jax.log_compiles(False):
        fit = jax.jit(
            lambda *numbers: train_probe(
                h, y, numbers[0], numbers[1], tolerance=numbers[2], max_steps=numbers[3], weights=numbers[4]
            )
        )
        fit(0.1, reverse_cross_entropy(0.5, 0.1), 1e-4, 10, np.ones(40))
        fit(0.2, reverse_cross_entropy(1.0, 0.2), 1e-5, 20, np.arange(40.0))
    assert fit._cache_size() == 1
