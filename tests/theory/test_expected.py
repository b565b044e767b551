"""The expected experiment of three sets of rows: its closed form, and how it is called."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import derivative_error, pair, relative_error
from jax import export

from w2s_jax._core.checks import InputError
from w2s_jax.moments import moments
from w2s_jax.theory.expected import expected_experiment


@pytest.mark.parametrize("prior", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("shape", [(24, 40, 32), (64, 12, 20)])
def test_the_expected_experiment(shape, prior, dtype):
    """On three blocks of rows, expected error and gap are the closed form with the pooled label prior."""
    h_w, h_s, _ = pair("generic", *shape, dtype=dtype)
    parts = [slice(0, shape[0] // 2), slice(shape[0] // 2, 3 * shape[0] // 4), slice(3 * shape[0] // 4, None)]
    blocks = [moments(h_w[part], h_s[part]) for part in parts]
    lam, V = np.linalg.eigh(reference.moments(h_w, h_s)["ss"])
    root = V * np.where(lam > 1e-6 * lam[-1], np.maximum(lam, 1e-300) ** ((prior - 1) / 2), prior == 1) @ V.T
    root = root / np.linalg.norm(h_s @ root) * np.sqrt(len(h_s))
    expected = reference.expected_experiment([h_w[p] for p in parts], [h_s[p] for p in parts], 0.1, 0.2, root, 0.7)
    found = expected_experiment(*blocks, 0.1, 0.2, prior=prior, noise=0.7)
    assert relative_error(np.array(found), np.array(expected)) <= (1e-10 if dtype == np.float64 else 5e-5)


@pytest.mark.parametrize(
    ("part", "prior"), [(0, 1.0), *(pytest.param(*case, marks=pytest.mark.everything) for case in ((1, 1.5), (2, 3.0)))]
)
def test_it_differentiates_in_both_representations(part, prior, x64):
    """Gradients in either side of every set of rows are finite differences, for priors of any power."""
    rng = np.random.default_rng(0)
    rows = [(rng.standard_normal((30, 4)), rng.standard_normal((30, 6))) for _ in range(3)]

    def experiment(pair: tuple) -> jax.Array:
        blocks = [moments(*(pair if i == part else rows[i])) for i in range(3)]
        return jnp.stack(expected_experiment(*blocks, 0.1, 0.2, prior=prior, noise=0.5))

    assert derivative_error(experiment, rows[part]) <= 1e-6


def test_it_exports_for_every_platform():
    """It lowers for CPU, CUDA and TPU from any of them, and compiled equals eager."""
    m = moments(*pair("generic", 16, 5, 8, dtype=np.float32))
    run = lambda m: expected_experiment(m, m, m, 0.1, 0.1)
    exported = export.export(jax.jit(run), platforms=("cpu", "cuda", "tpu"))(m)
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    assert relative_error(np.array(jax.jit(run)(m)), np.array(run(m))) <= 2e-5


def test_bad_input_is_named(unchecked):
    """Widths that differ, a negative ridge or noise."""
    h_w, h_s, _ = pair("generic", 16, 5, 8, dtype=np.float32)
    m, other = moments(h_w, h_s), moments(h_w, h_w)
    cases = {
        r"must have the same widths \(strong, weak\), got \[\(8, 5\), \(8, 5\), \(5, 5\)\]": lambda: (
            expected_experiment(m, m, other, 0.1, 0.1)
        ),
        r"weak_ridge must be at least 0, got -1": lambda: expected_experiment(m, m, m, -1.0, 0.1),
        r"strong_ridge must be at least 0, got -1": lambda: expected_experiment(m, m, m, 0.1, -1.0),
        r"labelled, student and test must all be centred or all not": lambda: expected_experiment(
            m, moments(h_w, h_s, bias=True), m, 0.1, 0.1
        ),
        r"labelled must be Moments, got ndarray": lambda: expected_experiment(h_w, m, m, 0.1, 0.1),
        r"weak_ridge must be one number, got shape \(2,\)": lambda: expected_experiment(m, m, m, [0.1, 0.2], 0.1),
        r"noise must be at least 0, got -1": lambda: expected_experiment(m, m, m, 0.1, 0.1, noise=-1.0),
    }
    for message, call in cases.items():
        with pytest.raises(InputError, match=message):
            call()
