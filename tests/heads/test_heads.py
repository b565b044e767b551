"""What all heads promise: derivatives, export for every platform, and bad input in one sentence."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import derivative_error
from fitted import PENALTIES, H, Y, rows
from jax import export

from w2s_jax import InputError, model_moments, moments
from w2s_jax.heads.losses import (
    confidence_auxiliary,
)
from w2s_jax.heads.ridge import (
    cross_validate_ridge,
    ridge_probe,
    ridge_probe_from_moments,
    ridge_probe_path,
)
from w2s_jax.heads.trained import train_probe

FITS = {
    "ridge": lambda h, y, beta, weights: ridge_probe(h, y, beta, weights=weights)(h),
    "features": lambda h, y, beta, weights: ridge_probe(h, y, beta, normalize="features", weights=weights)(h),
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
    ("name", "shape"),
    [
        *(pytest.param(name, (10, 14), marks=pytest.mark.everything) for name in FITS),
        ("ridge", (14, 5)),
        ("features", (14, 5)),
        ("logistic", (14, 5)),
    ],
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


BAD = {
    "rows": (lambda: ridge_probe(H, Y[:3], 0.1), r"labels must have shape \(4,\) or \(4, outputs\), got \(3,\)"),
    "scaling": (
        lambda: train_probe(H, Y, normalize="each"),
        "normalize must be 'features', 'scale' or 'none', got 'each'",
    ),
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
        "loss must be 'squared', 'logistic', 'softmax' or a Loss, got 'hinge'",
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


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("fault", BAD)
def test_bad_input_is_named(fault):
    """Wrong use is one sentence: which argument, what was expected, what came."""
    call, message = BAD[fault]
    with pytest.raises(InputError, match=message):
        call()
