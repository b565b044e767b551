"""Errors of student and ceiling from data alone: the dense formulas, the right means over experiments, the ridgeless limit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import derivative_error, pair, relative_error
from jax import export
from simulated import FAMILIES, assert_means_agree, trials

from w2s_jax._core.checks import InputError
from w2s_jax.heads.ridge import LinearProbe
from w2s_jax.moments import moments
from w2s_jax.theory.equivalent_errors import equivalent_errors, equivalent_errors_from_moments


@pytest.mark.everything
@pytest.mark.parametrize(
    ("family", "intercept"),
    [
        *((family, False) for family in FAMILIES),
        ("spiked, d/n = 2, noise", True),
        ("power law .7, noise", True),
    ],
)
def test_the_errors_from_data_have_the_right_means(family, intercept, x64):
    """The form from data is right on average, trial by trial, with and without an intercept in features far from zero."""
    outcomes, found = trials(family, 250, intercept)
    true = outcomes[:, 1:] + FAMILIES[family][1] * np.array([1, 1, 0])  # errors against labels hold their noise
    assert_means_agree(found - true + np.mean(true, 0), np.mean(true, 0))


@pytest.mark.everything
@pytest.mark.parametrize(
    ("kind", "shape", "bias"),
    [
        ("generic", (24, 40, 32), True),
        ("repeated", (32, 32, 32), False),
        ("rank_deficient", (64, 12, 20), True),
        ("rank_deficient", (24, 12, 40), False),
    ],
)
def test_the_errors_from_data(kind, shape, bias, dtype):
    """From rows or from moments, student, ceiling and gap are the formulas with dense inverses."""
    h_w, h_s, y = pair(kind, *shape, dtype=dtype)
    kernel = np.random.default_rng(1).standard_normal((h_w.shape[1], 2)).astype(dtype) / 8
    intercept = np.array([0.2, -0.1], dtype)
    outputs = h_w.astype(np.float64) @ kernel + intercept * bias
    expected = np.stack([reference.equivalent_errors(h_s, y, outputs, b, bias) for b in (0.05, 1.0)], 1)
    bound = 1e-10 if dtype == np.float64 else 2e-5
    ridges = np.array([0.05, 1.0], dtype)
    found = equivalent_errors(h_s, y, outputs.astype(dtype), ridges, bias=bias)
    assert relative_error(np.stack(found), expected) <= bound
    m = moments(h_w, h_s, y, bias=bias)
    found = equivalent_errors_from_moments(m, LinearProbe(kernel, intercept if bias else None), ridges)
    assert relative_error(np.stack(found), expected) <= bound


def test_the_errors_of_one_output(x64):
    """Labels (n,) are labels (n, 1): one number per ridge."""
    h_w, h_s, y = pair("generic", 30, 6, 10)
    m, kernel = moments(h_w, h_s, y[:, 0]), np.ones(6) / 4
    expected = reference.equivalent_errors(h_s, y[:, 0], h_w @ kernel, 0.3)
    assert relative_error(np.stack(equivalent_errors(h_s, y[:, 0], h_w @ kernel, 0.3)), expected) <= 1e-10
    assert relative_error(np.stack(equivalent_errors_from_moments(m, LinearProbe(kernel), 0.3)), expected) <= 1e-10


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(24, 8, 40), (40, 8, 24)])
def test_the_errors_from_data_have_a_ridgeless_limit(shape, bias, x64):
    """At ridge 0 they are finite and the limit of small ridges, whether the student interpolates or not."""
    h_w, h_s, y = pair("generic", *shape)
    limit = reference.equivalent_errors(h_s, y, 0 * y, 1e-8, bias)
    assert relative_error(np.stack(equivalent_errors(h_s, y, 0 * y, 0.0, bias=bias)), limit, 1e-3) <= 1e-5
    weak = LinearProbe(np.zeros((8, 2)), np.zeros(2) if bias else None)
    found = equivalent_errors_from_moments(moments(h_w, h_s, y, bias=bias), weak, 0.0)
    assert relative_error(np.stack(found), limit, 1e-3) <= 1e-5


@pytest.mark.parametrize(
    ("kind", "shape", "bias"),
    [pytest.param("generic", (12, 5, 16), True, marks=pytest.mark.everything), ("repeated", (16, 5, 8), False)],
)
def test_the_errors_from_data_are_differentiable(kind, shape, bias, x64):
    """Gradients in representations, labels, the weak head and the ridge are finite differences."""
    h_w, h_s, y = pair(kind, *shape)
    rows = lambda x: jnp.stack(equivalent_errors(*x, bias=bias))
    assert derivative_error(rows, (h_s, y, y[::-1].copy(), 0.3)) <= 1e-6
    weak = lambda kernel: LinearProbe(kernel, jnp.zeros(2) if bias else None)
    whole = lambda x: jnp.stack(equivalent_errors_from_moments(moments(*x[:3], bias=bias), weak(x[3]), x[4]))
    assert derivative_error(whole, (h_w, h_s, y, np.ones((5, 2)) / 4, 0.3)) <= 1e-6


def compiled_forms() -> dict:
    """Both forms on float32 input, as functions of no arguments but arrays."""
    h_w, h_s, y = pair("generic", 16, 5, 8, dtype=np.float32)
    kernel = np.ones((5, 2), np.float32)
    return {
        "rows": (lambda h, y: equivalent_errors(h, y, y[::-1], 0.1), (h_s, y)),
        "moments": (
            lambda m, k: equivalent_errors_from_moments(m, LinearProbe(k), 0.1),
            (moments(h_w, h_s, y), kernel),
        ),
    }


@pytest.mark.parametrize("name", compiled_forms())
def test_functions_export_for_every_platform(name):
    """Each function lowers for CPU, CUDA and TPU from any of them, and compiled equals eager."""
    function, arguments = compiled_forms()[name]
    exported = export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(*arguments)
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    assert relative_error(jnp.stack(jax.jit(function)(*arguments)), jnp.stack(function(*arguments))) <= 2e-5


def test_bad_input_is_named(unchecked):
    """What does not fit is one sentence about the argument, what was expected and what came."""
    h_w, h_s, y = pair("generic", 16, 5, 8, dtype=np.float32)
    m, centred = moments(h_w, h_s, y), moments(h_w, h_s, y, bias=True)
    plain, with_bias = LinearProbe(np.ones((5, 2))), LinearProbe(np.ones((5, 2)), np.zeros(2))
    cases = {
        r"labels must have shape \(16,\)": lambda: equivalent_errors(h_s, y[:5], y, 0.1),
        r"weak outputs must have the labels' shape": lambda: equivalent_errors(h_s, y, y[:, 0], 0.1),
        r"moments must have labels": lambda: equivalent_errors_from_moments(moments(h_w, h_s), plain, 0.1),
        r"weak must be a LinearProbe, got ndarray": lambda: equivalent_errors_from_moments(m, np.ones((5, 2)), 0.1),
        r"kernel of shape \(5, 2\)": lambda: equivalent_errors_from_moments(m, LinearProbe(np.ones(5)), 0.1),
        r"weak must have a bias .* got none": lambda: equivalent_errors_from_moments(centred, plain, 0.1),
        r"weak must have a bias .* not centred": lambda: equivalent_errors_from_moments(m, with_bias, 0.1),
    }
    for message, call in cases.items():
        with pytest.raises(InputError, match=message):
            call()
