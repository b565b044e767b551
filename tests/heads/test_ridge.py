"""Ridge heads: each fit is the dense solution of its own sentence, from rows, from moments and along a path."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import entrywise_error
from fitted import CASES, PENALTIES, SHAPES, H, Y, coefficients, expected_coefficients, precision, rows

from w2s_jax import moments
from w2s_jax.heads.ridge import (
    cross_validate_ridge,
    ridge_probe,
    ridge_probe_from_moments,
    ridge_probe_path,
)
from w2s_jax.heads.trained import train_probe


def in_pairs(cases: Sequence, outputs: Sequence = (None, 2)) -> list[tuple]:
    """Each case with all labels, in single and in double precision by turns: any two of the three meet."""
    of = ("float32", "float64")
    return [(*case, labels, of[(i + j) % 2]) for i, case in enumerate(cases) for j, labels in enumerate(outputs)]


@pytest.mark.parametrize(("shape", "bias", "outputs", "dtype"), in_pairs(CASES), indirect=["dtype"])
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


@pytest.mark.everything(but=1)
@pytest.mark.parametrize(("shape", "normalize"), [*((shape, "features") for shape in SHAPES), (SHAPES[0], "scale")])
def test_a_head_of_scaled_features_takes_rows_as_they_are(shape, normalize, x64):
    """In closed form, on a path, by gradients and by folds: the head of scaled rows, with the weights' statistics."""
    h, y = rows(*shape)
    h = h * np.logspace(-2, 3, shape[1])
    h[:, 2] = 7
    weights = np.resize([1.0, 1.0, 0.0, 1.0], shape[0])
    there = weights > 0
    seen = reference.normalized(h[there], normalize == "features")
    want = ridge_probe(seen, y[there], 0.1)(seen)
    options = {"normalize": normalize, "weights": weights}
    path = jax.tree.map(lambda x: x[1], ridge_probe_path(h, y, np.array([0.5, 0.1]), **options))
    start = ridge_probe(h, y, 0.3, **options)
    found = ridge_probe(h, y, 0.1, **options), path, train_probe(h, y, 0.1, start=start, **options).probe
    for probe in found:
        assert entrywise_error(probe(h[there]), want) < 1e-8
        assert normalize == "scale" or not np.any(probe.kernel[2])
    if normalize == "features":
        spread = h[there].std(0)
        scaled = h * np.where(spread > 0, 1 / np.where(spread > 0, spread, 1), 0) / np.sqrt((spread > 0).sum())
        plain = ridge_probe(scaled, y, 0.1, bias=False, weights=weights)(scaled)
        assert entrywise_error(ridge_probe(h, y, 0.1, bias=False, **options)(h), plain) < 1e-8
    errors = [cross_validate_ridge(x, y, np.array([0.1]), normalize=normalize).errors for x in (h, 1e3 * h + 9)]
    assert entrywise_error(*errors) < 1e-8


@pytest.mark.parametrize(
    ("shape", "dtype"), [(SHAPES[2], "float32"), *((shape, "float64") for shape in SHAPES)], indirect=["dtype"]
)
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


@pytest.mark.parametrize(("shape", "outputs", "dtype"), in_pairs([(shape,) for shape in SHAPES]), indirect=["dtype"])
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


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", ["array", "list"])
def test_large_integers_do_not_wrap(kind):
    """64-bit integers become floats before JAX narrows them."""
    rows = np.array([[3_000_000_000, 1], [1, 3_000_000_000], [5, 7]])
    labels = np.array([3_000_000_000, 0, 1])
    floats = ridge_probe(rows.astype(float), labels.astype(float), 0.1)
    found = ridge_probe(rows, labels, 0.1) if kind == "array" else ridge_probe(rows.tolist(), labels.tolist(), 0.1)
    assert entrywise_error(found.kernel[...], floats.kernel[...]) == 0
