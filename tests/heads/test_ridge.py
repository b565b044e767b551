"""Heads: each fit is the dense solution of its own sentence, and an ensemble is one program."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from conftest import derivative_error, entrywise_error
from jax import export
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from w2s_jax import InputError, gradient_flow, model_moments, moments, principal_kernel
from w2s_jax.heads.losses import (
    confidence_auxiliary,
    confidence_window,
    logistic,
    product,
    reverse_cross_entropy,
    softmax,
    squared,
)
from w2s_jax.heads.ridge import (
    LinearProbe,
    cross_validate_ridge,
    ridge_probe,
    ridge_probe_from_moments,
    ridge_probe_path,
)
from w2s_jax.heads.trained import train_probe

SHAPES = ((12, 20), (16, 16), (40, 6))  # n <, =, > d
CASES = [(SHAPES[0], True), (SHAPES[1], False), (SHAPES[2], True), (SHAPES[2], False)]  # with and without bias
PENALTIES = np.array([1e-3, 1e-2, 0.3])


def rows(n: int, d: int, dtype: type = np.float64, seed: int = 0, outputs: int | None = 2, mean: float = 3.0):
    """A representation about a mean, and noisy linear labels (n,) or (n, outputs)."""
    rng = np.random.default_rng(seed)
    h = rng.standard_normal((n, d)) / np.sqrt(1 + np.arange(d) / 4)
    y = 1 + h @ rng.standard_normal((d, outputs or 1)) + 0.3 * rng.standard_normal((n, outputs or 1))
    return (h + mean).astype(dtype), (y if outputs else y[:, 0]).astype(dtype)


def classes(n: int, d: int, dtype: type = np.float64, seed: int = 0, outputs: int | None = None):
    """A representation, and 0/1 labels (n,) or one-hot ones (n, outputs), no class being separable."""
    h, y = rows(n, d, dtype, seed, outputs)
    y = y + np.random.default_rng(seed + 1).standard_normal(y.shape)
    return h, (y > np.median(y) if outputs is None else np.eye(outputs)[np.argmax(y, 1)]).astype(dtype)


def coefficients(probe: LinearProbe) -> np.ndarray:
    """Kernel and, in a last row, bias."""
    kernel = np.asarray(probe.kernel[...])
    return kernel if probe.bias is None else np.concatenate([kernel, np.asarray(probe.bias[...])[None]])


def expected_coefficients(*arguments, bias: bool = True, **options) -> np.ndarray:
    theta, intercept = reference.ridge_probe(*arguments, bias=bias, **options)
    return np.concatenate([theta, np.asarray(intercept)[None]]) if bias else theta


def precision(dtype: np.dtype) -> float:
    return 1e-10 if dtype == np.float64 else 1e-5


@pytest.mark.parametrize("outputs", [None, 2])
@pytest.mark.parametrize(("shape", "bias"), CASES)
def test_ridge_is_the_dense_solution(shape, bias, outputs, dtype):
    """The closed form is the argmin of mean squared loss plus penalty, on either side, with the labels' shape."""
    h, y = rows(*shape, dtype, outputs=outputs, mean=1.0)
    found = ridge_probe(h, y, 0.1, bias=bias)
    assert found.kernel.dtype == dtype and found.kernel.shape == (shape[1], *y.shape[1:])
    assert entrywise_error(coefficients(found), expected_coefficients(h, y, 0.1, bias=bias)) <= precision(dtype)
    theta, intercept = reference.ridge_probe(h, y, 0.1, bias)
    assert entrywise_error(found(h), h.astype(float) @ theta + intercept) <= precision(dtype)


@pytest.mark.parametrize(("shape", "bias"), CASES)
def test_without_a_penalty_the_solution_of_minimum_norm_comes_out(shape, bias, dtype):
    """beta = 0 on a representation of rank 3: the pseudo-inverse's solution, also where n < d."""
    rng = np.random.default_rng(0)
    n, d = shape
    h = (rng.integers(-3, 4, (n, 3)) @ rng.integers(-3, 4, (3, d))).astype(dtype)  # no rounding: the rank is 3 exactly
    y = rng.standard_normal((n, 2)).astype(dtype)
    found = coefficients(ridge_probe(h, y, 0.0, bias=bias))
    assert entrywise_error(found, expected_coefficients(h, y, 0.0, bias=bias)) <= precision(dtype)


def test_a_wide_head_without_a_penalty_interpolates(dtype):
    """n < d, beta = 0: the labels themselves."""
    h, y = rows(12, 30, dtype)
    assert entrywise_error(ridge_probe(h, y, 0.0)(h), y) <= precision(dtype)


def test_a_representation_of_zeros_has_the_zero_head():
    """Nothing to learn from: kernel 0, bias the labels' mean, no NaN."""
    probe = ridge_probe(np.zeros((5, 3), np.float32), np.arange(5, dtype=np.float32), 0.0)
    assert np.array_equal(probe.kernel[...], np.zeros(3)) and np.isclose(probe.bias[...], 2)


def test_only_a_singular_member_of_a_batch_is_solved_anew(dtype):
    """Under vmap a singular and a regular system both come out as on their own."""
    h, y = rows(20, 6, dtype)
    pair = np.stack([h, h * np.array([1, 1, 1, 0, 1, 0], dtype)])
    found = jax.vmap(lambda h: ridge_probe(h, y, 0.0))(pair)
    for i in range(2):
        one = jax.tree.map(lambda x: x[i], found)
        assert entrywise_error(coefficients(one), expected_coefficients(pair[i], y, 0.0)) <= precision(dtype)


def test_a_dominant_mean_costs_no_digits():
    """float32, no bias, rows far from zero: the second solve takes the second moment's rounding back."""
    h, y = rows(300, 20, np.float32, mean=2.0)
    assert (
        entrywise_error(
            coefficients(ridge_probe(h, y, 1e-3, bias=False)), expected_coefficients(h, y, 1e-3, bias=False)
        )
        <= 1e-5
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_repeated_and_left_out_rows(shape, dtype):
    """Weight 0 leaves a row out and weight 2 counts it twice, in closed form, on a path and by gradients."""
    h, y = rows(*shape, dtype)
    weights = np.resize([1, 0, 2, 1], shape[0]).astype(dtype)
    repeated = np.repeat(np.arange(shape[0]), weights.astype(int))
    expected = expected_coefficients(h[repeated], y[repeated], 0.1)
    assert entrywise_error(coefficients(ridge_probe(h, y, 0.1, weights=weights)), expected) <= precision(dtype)
    path = ridge_probe_path(h, y, PENALTIES, weights=weights)
    for i, beta in enumerate(PENALTIES[1:], 1):
        one = jax.tree.map(lambda x: x[i], path)
        assert entrywise_error(coefficients(one), expected_coefficients(h[repeated], y[repeated], beta)) <= precision(
            dtype
        )
    assert entrywise_error(coefficients(train_probe(h, y, 0.1, weights=weights).probe), expected) <= precision(dtype)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("side", ["weak", "strong"])
def test_heads_from_moments_are_those_from_rows(side, bias, dtype):
    """Second moments suffice, with a bias iff they are centred."""
    h_w, y = rows(40, 6, dtype, mean=1.0)
    h_s, _ = rows(40, 9, dtype, seed=1, mean=1.0)
    found = ridge_probe_from_moments(getattr(moments(h_w, h_s, y, bias=bias), side), 0.1)
    expected = expected_coefficients(h_w if side == "weak" else h_s, y, 0.1, bias=bias)
    assert entrywise_error(coefficients(found), expected) <= precision(dtype)


@pytest.mark.parametrize(("shape", "bias"), CASES)
def test_a_path_holds_the_head_of_each_penalty(shape, bias, dtype):
    """One eigendecomposition gives the heads of all penalties."""
    h, y = rows(*shape, dtype, mean=1.0)
    betas = np.array([0.03, 0.1, 1.0, 10.0])
    path = ridge_probe_path(h, y, betas, bias=bias)
    for i, beta in enumerate(betas):
        one = jax.tree.map(lambda x: x[i], path)
        assert entrywise_error(coefficients(one), expected_coefficients(h, y, beta, bias=bias)) <= precision(dtype)


def test_penalties_may_be_a_list(unchecked):
    """Of integers and floats, as people write them."""
    of = lambda betas: (ridge_probe_path(H, Y, betas).kernel[...], cross_validate_ridge(H, Y, betas, folds=2).errors)
    jax.tree.map(np.testing.assert_array_equal, of([1, 0.1]), of(np.array([1, 0.1])))


@pytest.mark.parametrize("outputs", [None, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_cross_validation_is_the_refit_without_each_fold(shape, outputs, dtype):
    """The error of a penalty is that of heads fitted without the row's fold, and the least one is chosen."""
    h, y = rows(*shape, dtype, outputs=outputs, mean=1.0)
    betas = np.array([0.01, 0.1, 1.0, 10.0])
    found = cross_validate_ridge(h, y, betas, folds=4, seed=3)
    fold = np.asarray(jax.random.permutation(jax.random.key(3), shape[0])) % 4
    expected = reference.cross_validated_errors(h, y, betas, fold)
    assert entrywise_error(found.errors, expected) <= precision(dtype)
    assert found.ridge == betas[np.argmin(expected)].astype(dtype)


def test_cross_validation_leaves_rows_of_weight_zero_out(x64):
    """Rows of weight zero neither fit nor test."""
    h, y = rows(30, 5)
    weights = np.repeat([1.0, 0.0], [24, 6])
    wrong = np.where(weights[:, None] > 0, y, 1e6)
    found = cross_validate_ridge(h, wrong, PENALTIES, folds=3, weights=weights)
    fold = np.asarray(jax.random.permutation(jax.random.key(0), 30))[:24] % 3
    assert entrywise_error(found.errors, reference.cross_validated_errors(h[:24], y[:24], PENALTIES, fold)) <= 1e-10


@pytest.mark.parametrize("beta", [1e-3, 0.1])
@pytest.mark.parametrize(("shape", "bias"), CASES)
def test_a_converged_squared_loss_is_the_closed_form(shape, bias, beta, dtype):
    """L-BFGS ends at the ridge head, and says that it got there."""
    h, y = rows(*shape, dtype, mean=1.0)
    found = train_probe(h, y, beta, bias=bias)
    assert found.converged and found.gradient_norm <= (1e-12 if dtype == np.float64 else 1e-6)
    assert entrywise_error(coefficients(found.probe), expected_coefficients(h, y, beta, bias=bias)) <= precision(dtype)


@pytest.mark.parametrize("beta", [1e-4, 1e-2])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_logistic_head_is_that_of_scikit_learn(shape, beta, dtype):
    """`C = 1/(2 n beta)`: the same coefficients, to scikit-learn's own tolerance."""
    h, y = classes(*shape, dtype)
    found = train_probe(h, y, beta, "logistic")
    other = LogisticRegression(C=1 / (2 * len(h) * beta), tol=1e-8, max_iter=10_000).fit(h.astype(float), y)
    expected = np.append(other.coef_[0], other.intercept_)
    assert found.converged
    assert entrywise_error(coefficients(found.probe), expected) <= 1e-4


@pytest.mark.parametrize("name", ["logistic", "softmax", "reverse"])
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


def test_independent_outputs_are_separate_heads(x64):
    """A logistic loss on (n, c) labels fits each output as on its own."""
    h, y = classes(40, 5, outputs=3)
    together = train_probe(h, y, 0.01, "logistic")
    for j in range(3):
        alone = train_probe(h, y[:, j], 0.01, "logistic")
        assert entrywise_error(coefficients(together.probe)[:, j], coefficients(alone.probe)) <= 1e-9


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_training_does_not_depend_on_the_units(scale):
    """Features times c with the penalty times c^2 give the kernel over c, in float32."""
    h, y = classes(60, 8, np.float32)
    plain = train_probe(h, y, 1e-3, "logistic")
    scaled = train_probe(h * np.float32(scale), y, 1e-3 * scale**2, "logistic")
    assert scaled.converged
    assert entrywise_error(scaled.probe.kernel[...] * scale, plain.probe.kernel[...]) <= 1e-5


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


@pytest.mark.parametrize("optimizer", [optax.adam(optax.cosine_decay_schedule(0.1, 2_000)), optax.lbfgs()])
def test_any_optimiser_finds_the_same_head(optimizer, x64):
    """An optimiser from optax, with or without its own line search, ends where L-BFGS does."""
    h, y = classes(60, 6)
    expected = coefficients(train_probe(h, y, 0.1, "logistic").probe)
    found = train_probe(h, y, 0.1, "logistic", optimizer=optimizer, max_steps=2_000, tolerance=1e-7)
    assert found.converged
    assert entrywise_error(coefficients(found.probe), expected) <= 1e-5


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


def test_labels_of_one_class_and_of_zeros_are_fitted(dtype):
    """Constant labels need no kernel; nothing is NaN."""
    h, _ = rows(20, 4, dtype)
    ones = train_probe(h, np.ones(20, dtype), 1e-2, "logistic", max_steps=50)
    assert np.all(np.isfinite(coefficients(ones.probe))) and np.all(ones.probe(h) > 4)
    zeros = train_probe(h, np.zeros(20, dtype))
    assert zeros.converged and np.array_equal(zeros.probe(h), np.zeros(20))


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


FITS = {
    "ridge": lambda h, y, beta, weights: ridge_probe(h, y, beta, weights=weights)(h),
    "path": lambda h, y, beta, weights: jax.vmap(lambda probe: probe(h))(
        ridge_probe_path(h, y, jnp.stack([beta, 2 * beta]), weights=weights)
    ),
    "moments": lambda h, y, beta, weights: ridge_probe_from_moments(
        model_moments(h, y, weights=weights, bias=True), beta
    )(h),
    "logistic": lambda h, y, beta, weights: train_probe(
        h, jax.nn.sigmoid(y[:, 0]), beta, "logistic", weights=weights
    ).probe(h),
    "softmax": lambda h, y, beta, weights: train_probe(h, jax.nn.softmax(y), beta, "softmax", bias=False).probe(h),
}


@pytest.mark.parametrize(
    ("name", "shape"), [*((name, (10, 14)) for name in FITS), ("ridge", (14, 5)), ("logistic", (14, 5))]
)
def test_derivatives_are_finite_differences(shape, name, x64):
    """Heads differentiate in representations, labels, penalty and weights; trained ones through their optimality."""
    h, y = rows(*shape)
    weights = 1 + np.random.default_rng(2).random(shape[0])
    assert derivative_error(lambda x: FITS[name](*x), (h, y, np.asarray(0.1), weights)) <= 1e-6


def test_fits_export_for_every_platform():
    """Every fit lowers for CPU, CUDA and TPU, and so does its gradient."""
    h, y = rows(12, 5, np.float32)
    total = lambda *x: sum(jnp.sum(fit(*x)) for fit in FITS.values())
    other = lambda h, y: [
        cross_validate_ridge(h, y, PENALTIES).errors,
        train_probe(h, jax.nn.sigmoid(y[:, 0]), loss=confidence_auxiliary()).loss,
        train_probe(h.T[:, :5], h[0], 0.1).loss,
    ]
    arguments = h, y, np.float32(0.1), np.ones(12, np.float32)
    for function, x in ((jax.grad(total, (0, 1, 2)), arguments), (other, arguments[:2])):
        exported = export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(*x)
        assert set(exported.platforms) == {"cpu", "cuda", "tpu"}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_half_precision_rows_are_summed_in_float32(half):
    """16-bit rows give the float32 head of the same numbers; integers convert."""
    h, y = rows(40, 6, np.float32)
    h = jnp.asarray(h, half)
    found = ridge_probe(h, y, 0.1)
    assert found.kernel.dtype == np.float32
    assert entrywise_error(coefficients(found), expected_coefficients(np.asarray(h, float), y, 0.1)) <= 1e-5
    integers = np.arange(12).reshape(6, 2) ** 2
    assert ridge_probe(integers, np.arange(6), 0.1).kernel.dtype == np.float32


def test_hardened_predictions_keep_the_class_shares(x64):
    """The auxiliary target is `(1 - c) y + c hardened`, each class as frequent as in the labels, c rising to coef."""
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal(50) - 2, rng.random(50)
    weights = np.full(50, 1 / 50)
    count = round(y.sum())
    hard = np.zeros(50)
    hard[np.argsort(-z)[:count]] = 1
    loss = confidence_auxiliary(coef=0.4, warm_up=10)
    for step, c in ((0, 0.0), (5, 0.2), (10, 0.4), (99, 0.4)):
        found = loss.targets(jnp.asarray(z), jnp.asarray(y), jnp.asarray(weights), jnp.asarray(step))
        assert entrywise_error(found, (1 - c) * y + c * hard) <= 1e-12
    two = loss.targets(jnp.stack([0 * z, z], 1), jnp.stack([1 - y, y], 1), jnp.asarray(weights), jnp.asarray(10))
    assert entrywise_error(two[:, 1], 0.6 * y + 0.4 * hard) <= 1e-12


def test_no_gradient_passes_through_a_moving_target(x64):
    """One step of gradient descent is that of cross-entropy with the target held still."""
    h, y = classes(40, 4)
    y = 0.9 * y + 0.05
    start = LinearProbe(np.full(4, 0.3))
    loss, rate = confidence_auxiliary(coef=0.5, warm_up=1e-9), 0.1
    found = train_probe(h, y, 0.0, loss, bias=False, optimizer=optax.sgd(rate), max_steps=2, start=start).probe
    kernel = np.full(4, 0.3)
    for step in (0, 1):  # the coefficient is still 0 at step 0
        hard = np.zeros(40)
        hard[np.argsort(-(h @ kernel))[: round(y.sum())]] = 1
        target = y if step == 0 else 0.5 * y + 0.5 * hard
        kernel = kernel - rate * h.T @ (1 / (1 + np.exp(-h @ kernel)) - target) / 40
    assert entrywise_error(found.kernel[...], kernel) <= 1e-12


def test_a_confident_student_is_less_like_its_teacher():
    """With the auxiliary loss predictions are further from 1/2 and disagree with more of the weak labels' mistakes."""
    rng = np.random.default_rng(0)
    h = rng.standard_normal((400, 4)).astype(np.float32)
    truth = h[:, 0] > 0
    weak = np.where(rng.random(400) < 0.2, ~truth, truth).astype(np.float32)
    plain = train_probe(h, weak, 1e-3, "logistic").probe(h)
    found = train_probe(h, weak, 1e-3, confidence_auxiliary())
    assert found.steps == 1000
    assert jnp.mean(jnp.abs(found.probe(h))) > 1.5 * jnp.mean(jnp.abs(plain))
    assert jnp.mean((found.probe(h) > 0) == truth) > 0.9


def test_the_other_losses_of_weak_labels_are_their_formulas(x64):
    """Product targets, the confidence window and the reverse cross-entropy, for one class and for three."""
    rng = np.random.default_rng(0)
    for shape in ((20,), (20, 3)):
        z = 2 * rng.standard_normal(shape)
        y = rng.random(shape) if len(shape) == 1 else rng.dirichlet(np.ones(3), 20)
        two = (np.stack([0 * z, z], 1), np.stack([1 - y, y], 1)) if len(shape) == 1 else (z, y)
        p = np.exp(two[0]) / np.exp(two[0]).sum(1, keepdims=True)
        mixed = p**0.5 * two[1] ** 2
        mixed /= mixed.sum(1, keepdims=True)
        found = product(0.5, 2.0).targets(jnp.asarray(z), jnp.asarray(y), jnp.ones(20) / 20, jnp.asarray(0))
        assert entrywise_error(found, mixed[:, 1] if len(shape) == 1 else mixed) <= 1e-12
        inside = np.where(p.max(1) < 0.7, reference.cross_entropy(z, y), 0)
        assert entrywise_error(confidence_window(0.2)(jnp.asarray(z), jnp.asarray(y)), inside) <= 1e-12
        reverse = reverse_cross_entropy(0.3, 0.05)(jnp.asarray(z), jnp.asarray(y))
        assert entrywise_error(reverse, reference.reverse_cross_entropy(z, y, 0.3, 0.05)) <= 1e-12


@pytest.mark.parametrize("loss", [squared(), logistic(), softmax(), reverse_cross_entropy(), confidence_window()])
def test_slopes_are_derivatives_of_losses(loss, x64):
    """The slope that training uses is the derivative of the loss in the outputs."""
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((10, 3)), rng.dirichlet(np.ones(3), 10)
    step = 1e-5
    for j in range(3):
        change = step * np.eye(3)[j]
        ahead, back = (loss(jnp.asarray(z + by), jnp.asarray(y)) for by in (change, -change))
        difference = (ahead - back) / (2 * step)
        assert entrywise_error(loss.slope(jnp.asarray(z), jnp.asarray(y))[:, j], difference) <= 1e-8


H, Y = np.ones((4, 3), np.float32), np.arange(4.0)
BAD = {
    "rows": (lambda: ridge_probe(H, Y[:3], 0.1), r"labels must have shape \(4,\) or \(4, outputs\), got \(3,\)"),
    "penalty": (lambda: ridge_probe(H, Y, -0.1), "ridge must be at least 0, got -0.1"),
    "NaN": (lambda: ridge_probe(H * np.nan, Y, 0.1), "representations contain 12 NaN or infinite values"),
    "weights": (lambda: ridge_probe(H, Y, 0.1, weights=-Y), "weights must be at least 0, got -3"),
    "no weight": (lambda: ridge_probe(H, Y, 0.1, weights=0 * Y), "weights must not be zero in every row"),
    "weights in columns": (
        lambda: ridge_probe(H, Y, 0.1, weights=Y[:, None]),
        r"weights must have shape \(4,\), got \(4, 1\)",
    ),
    "several penalties": (lambda: ridge_probe(H, Y, [0.1, 0.2]), r"ridge must be one number, got shape \(2,\)"),
    "no penalty": (lambda: ridge_probe(H, Y, None), "ridge must be one number, got None"),
    "half a fold": (
        lambda: cross_validate_ridge(H, Y, [0.1], folds=2.5),
        "folds must be an integer of at least 2, got 2.5",
    ),
    "one class": (lambda: train_probe(H, 0 * Y[:, None], loss="softmax"), r"of at least two classes, got \(4, 1\)"),
    "betas": (lambda: ridge_probe_path(H, Y, 0.1), r"ridges must have shape \(b,\), got \(\)"),
    "folds": (lambda: cross_validate_ridge(H, Y, [0.1], folds=5), r"folds must be between 2 and .* \(4\), got 5"),
    "a pair": (
        lambda: ridge_probe_from_moments(moments(H, H, Y), 0.1),
        "m must be ModelMoments, such as the weak or strong side of a pair's, got Moments",
    ),
    "no labels": (lambda: ridge_probe_from_moments(model_moments(H), 0.1), "moments must have labels"),
    "loss": (
        lambda: train_probe(H, Y, loss="hinge"),
        "loss must be one of squared, logistic, softmax or a Loss, got 'hinge'",
    ),
    "classes": (
        lambda: train_probe(H, Y, loss="logistic"),
        "labels of a classification loss must be between 0 and 1, got 2",
    ),
    "one-hot": (
        lambda: train_probe(H, Y / 3, loss="softmax"),
        r"labels of a softmax must have shape \(n, classes\) of at least two classes, got \(4,\)",
    ),
    "tolerance": (lambda: train_probe(H, Y, tolerance=-1.0), "tolerance must be at least 0, got -1"),
    "features": (lambda: ridge_probe(H, Y, 0.1)(H[:, :2]), r"representations must have 3 features, got shape \(4, 2\)"),
}


@pytest.mark.parametrize(
    "loss",
    [reverse_cross_entropy(), confidence_auxiliary(), confidence_auxiliary(warm_up=0), product(), confidence_window()],
)
def test_one_column_of_labels_is_one_class(loss):
    """Labels (n, 1) fit what labels (n,) do, and not a softmax of one output, which is constant."""
    rng = np.random.default_rng(0)
    h = rng.standard_normal((60, 4))
    y = (h[:, 0] + 0.5 * rng.standard_normal(60) > 0).astype(float)
    column, flat = (train_probe(h, labels, 0.1, loss).probe for labels in (y[:, None], y))
    assert np.abs(flat.kernel[...]).max() > 1e-2
    assert entrywise_error(column.kernel[...][:, 0], flat.kernel[...]) <= 1e-4


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", ["array", "list"])
def test_large_integers_do_not_wrap(kind):
    """64-bit integers become floats before JAX narrows them."""
    rows = np.array([[3_000_000_000, 1], [1, 3_000_000_000], [5, 7]])
    labels = np.array([3_000_000_000, 0, 1])
    floats = ridge_probe(rows.astype(float), labels.astype(float), 0.1)
    found = ridge_probe(rows, labels, 0.1) if kind == "array" else ridge_probe(rows.tolist(), labels.tolist(), 0.1)
    assert entrywise_error(found.kernel[...], floats.kernel[...]) == 0


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("fault", BAD)
def test_bad_input_is_named(fault):
    """Wrong use is one sentence: which argument, what was expected, what came."""
    call, message = BAD[fault]
    with pytest.raises(InputError, match=message):
        call()
