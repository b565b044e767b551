"""Families of representations: what they say of their population is true, and so is what the theory says of them."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import derivative_error, entrywise_error, relative_error
from jax import export

from w2s_jax import InputError
from w2s_jax.studies.synthetic import (
    GaussianFamily,
    ReluFamily,
    benign_overfitting,
    benign_overfitting_errors,
    low_intrinsic_dimension,
    power_law,
    random_features,
    spiked,
    subspaces,
)
from w2s_jax.theory.equivalent import Tail, deterministic_equivalent

KEY = jax.random.key(0)
FAMILIES = {
    "low": lambda: low_intrinsic_dimension(KEY, noise=0.5),
    "spiked": lambda: spiked(KEY, 40, 60, noise=0.5),
    "power law": lambda: power_law(KEY, 1.0, 12, noise=0.5),
    "subspaces": lambda: subspaces(3, 5, 1.75, noise=0.5),
    "benign": lambda: benign_overfitting(40, 60),
    "linear features": lambda: random_features(KEY, 7, 4, 9, activation="linear", noise=0.5),
    "relu features": lambda: random_features(KEY, 7, 4, 9, noise=0.5),
}
PRODUCTS = ("ww", "ss", "sw", "wy", "sy", "yy")


def written_out(family) -> dict[str, np.ndarray]:
    """The population's moments with the tails as real features."""
    p = family.population
    widths = [0 if tail is None else tail.width for tail in (p.tail_w, p.tail_s)]
    wide = [(0, width) for width in widths]
    moments = {"ww": np.pad(p.ww, (wide[0],) * 2), "ss": np.pad(p.ss, (wide[1],) * 2)}
    for name, tail in (("ww", p.tail_w), ("ss", p.tail_s)):
        if tail is not None:
            moments[name][np.arange(-tail.width, 0), np.arange(-tail.width, 0)] = tail.variance
    return moments | {
        "sw": np.pad(p.sw, wide[::-1]),
        "wy": np.pad(p.wy, wide[0]),
        "sy": np.pad(p.sy, wide[1]),
        "yy": p.yy,
    }


@pytest.mark.everything
@pytest.mark.parametrize("name", FAMILIES)
def test_samples_have_the_moments_of_the_population(name, x64):
    """Sample moments of 40,000 rows, means and label noise included, are the population's within 5 standard errors."""
    family, n = FAMILIES[name](), 40000
    h_w, h_s, y, target = (np.asarray(x) for x in family.sample(jax.random.key(1), n))
    expected = written_out(family)
    rows = {"w": h_w, "s": h_s, "y": target[:, None]}
    for product in PRODUCTS:
        a, b = (rows[side] for side in product)
        found, squares = a.T @ b / n, (a * a).T @ (b * b) / n
        error = np.sqrt((squares - found**2) / n) + 1e-12
        assert np.max(np.abs(found - expected[product].reshape(found.shape)) / error) <= 5
    for x in rows.values():
        assert np.max(np.abs(x.mean(0)) / (x.std(0) / np.sqrt(n))) <= 5
    noise = family.population.noise
    assert abs(np.var(y - target) - noise) <= 5 * noise * np.sqrt(2 / n)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_target_has_variance_one(name, x64):
    """So errors read as shares of the target; a ReLU target is its linear one."""
    assert relative_error(FAMILIES[name]().population.yy, 1.0) <= 1e-12


def test_gaussian_moments_are_products_of_the_maps(dtype):
    """`A A^T` and `A a`, noise and tails handed on."""
    rng = np.random.default_rng(0)
    A_w, A_s, a = (rng.standard_normal(shape).astype(dtype) for shape in ((3, 5), (4, 5), (5,)))
    p = GaussianFamily(*map(jnp.asarray, (A_w, A_s, a)), 0.3, Tail(0.1, 7)).population
    A_w, A_s, a = (x.astype(np.float64) for x in (A_w, A_s, a))
    expected = A_w @ A_w.T, A_s @ A_s.T, A_s @ A_w.T, A_w @ a, A_s @ a, a @ a
    for name, value in zip(PRODUCTS, expected, strict=True):
        assert entrywise_error(getattr(p, name), value) <= (1e-10 if dtype == np.float64 else 1e-5)
    assert p.tail_w == Tail(0.1, 7) and p.tail_s is None and relative_error(p.noise, 0.3) <= 1e-6


@pytest.mark.everything
def test_relu_moments_are_integrals(dtype):
    """The arc-cosine form equals the integral over angles, for parallel and opposite weights too."""
    rng = np.random.default_rng(0)
    W = rng.standard_normal((5, 3)).astype(dtype)
    W[1], W[2] = 2 * W[0], -W[0]
    target = rng.standard_normal((2, 3)).astype(dtype)
    family = ReluFamily(*map(jnp.asarray, (W[:3], W[3:], target, np.array([0.5, -2], dtype))))
    everything = np.concatenate([W, target])
    J = np.array([[reference.relu_moment(u, v) for v in everything] for u in everything])
    c = np.array([0.5, -2])
    expected = J[:3, :3], J[3:5, 3:5], J[3:5, :3], J[:3, 5:] @ c, J[3:5, 5:] @ c, c @ J[5:, 5:] @ c
    # 1 - cos^2 of parallel weights is rounding: its root, the angle, has half the digits, the moment (its cube) all.
    for name, value in zip(PRODUCTS, expected, strict=True):
        assert entrywise_error(getattr(family.population, name), value) <= (1e-10 if dtype == np.float64 else 1e-5)


def test_the_gaussian_double_of_relu_features_has_their_moments(x64):
    """Same second moments, noise included, from a square root that needs no inverse."""
    family = FAMILIES["relu features"]()
    found, expected = family.gaussian.population, family.population
    for name in (*PRODUCTS, "noise"):
        assert entrywise_error(getattr(found, name), getattr(expected, name)) <= 1e-10


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("n", [30, 120])
def test_spiked_tails_have_their_gammas(n, x64):
    """On n rows the tails' kernels are gamma on the diagonal; on other rows in proportion."""
    family = spiked(KEY, n, 50000, weak_gamma=0.4, strong_gamma=0.1)
    for tail, gamma in ((family.tail_w, 0.4), (family.tail_s, 0.1)):
        assert relative_error(tail.variance * tail.width / n, gamma) <= 1e-12
    h_w = np.asarray(family.sample(KEY, n).h_w)[:, family.A_w.shape[0] :]
    assert np.max(np.abs(h_w @ h_w.T / n - 0.4 * np.eye(n))) <= 0.4 * 6 / np.sqrt(50000)


def test_principal_subspaces_have_their_spectra(x64):
    """Eigenvalues `i^-decay` on both sides, and a target that the strong side can express."""
    p = low_intrinsic_dimension(KEY, latent=7, weak_rank=2, strong_rank=5, decay=1.5).population
    assert entrywise_error(np.linalg.eigvalsh(p.ww)[::-1], np.arange(1, 3) ** -1.5) <= 1e-10
    assert entrywise_error(np.linalg.eigvalsh(p.ss)[::-1], np.arange(1, 6) ** -1.5) <= 1e-10
    assert relative_error(p.sy @ np.linalg.solve(p.ss, p.sy), p.yy) <= 1e-10


@pytest.mark.parametrize("correlation", [0.8, 0.0, -0.3, 1.0])
def test_power_laws_have_their_spectra_and_correlation(correlation, x64):
    """Both spectra are `i^-exponent`; whitened, every weak direction has the given correlation with its strong one."""
    p = power_law(KEY, 0.7, 20, correlation=correlation).population
    values = np.arange(1, 21) ** -0.7
    for found in (p.ww, p.ss):
        assert entrywise_error(found, np.diag(values)) <= 1e-10
    whitened = p.sw / np.sqrt(np.outer(values, values))
    assert (
        entrywise_error((whitened + whitened.T) / 2, correlation * np.eye(20))
        <= 1e-10 * (1 if correlation else 0) + 1e-9
    )
    assert entrywise_error(whitened @ whitened.T, np.eye(20)) <= 1e-10


@pytest.mark.everything(but=1)
@pytest.mark.parametrize(("d_s", "d_w", "overlap"), [(5, 20, 2.75), (20, 5, 2.75), (4, 4, 4), (3, 6, 1), (1, 1, 1)])
def test_subspaces_have_their_correlation_dimension(d_s, d_w, overlap, x64):
    """White features, `||V_s^T V_w||_F^2` as asked, fractions included, and a target that both sides can express."""
    p = subspaces(d_s, d_w, overlap).population
    assert entrywise_error(p.ww, np.eye(d_w)) <= 1e-10 and entrywise_error(p.ss, np.eye(d_s)) <= 1e-10
    assert relative_error(np.sum(np.square(p.sw)), overlap) <= 1e-10
    assert relative_error([p.wy @ p.wy, p.sy @ p.sy], [p.yy, p.yy]) <= 1e-10


@pytest.mark.parametrize("gammas", [(0.02, 0.02), (0.5, 0.1)])
def test_benign_overfitting_is_the_limit_of_the_deterministic_equivalent(gammas, x64):
    """With more and more rows, and many times more tail, closed forms and equivalent become the same four numbers."""
    n = 10**6
    family = benign_overfitting(n, 1000 * n, noise_share=0.3, weak_gamma=gammas[0], strong_gamma=gammas[1])
    found = deterministic_equivalent(family.population, n, n, 0.0, 0.0)
    closed = benign_overfitting_errors(0.3, *gammas)
    for name in closed._fields:
        assert relative_error(getattr(found, name), getattr(closed, name)) <= 5e-3


def test_benign_overfitting_squares_the_error_without_gamma():
    """As gamma vanishes the weak error is b^2, and the student's and the gap b^4."""
    closed = benign_overfitting_errors(0.3, 0.0, 0.0)
    assert entrywise_error(jnp.stack(closed), np.array([0.3, 0.09, 0.0, 0.09])) <= 1e-6


def test_linear_random_features_see_inputs_of_trace_one(x64):
    """Features are `W x / sqrt(width)` of inputs whose eigenvalues decay and sum to one."""
    family = random_features(KEY, 50, 4000, 8, activation="linear", exponent=1.0)
    values = 1 / np.arange(1, 51)
    assert entrywise_error(np.diag(family.A_w.T @ family.A_w), values / values.sum()) <= 0.1
    assert family.A_w.shape == (4000, 50) and family.A_s.shape == (8, 50)


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("name", FAMILIES)
def test_populations_are_functions_of_numbers(name, x64):
    """A family is a pytree: its population is the same under jit, mapped over, and differentiable in every array."""
    family = FAMILIES[name]()
    moments = lambda family: [getattr(family.population, product) for product in (*PRODUCTS, "noise")]
    two = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 2), family)
    for found, one in zip(jax.jit(jax.vmap(moments))(two), moments(family), strict=True):
        assert entrywise_error(found[1], one) <= 1e-10
    if name != "relu features":  # whose target has opposite weights, where an angle has no derivative
        floats = jax.tree.map(lambda x: np.asarray(x, float), family)
        assert derivative_error(lambda f: jnp.concatenate([jnp.ravel(x) for x in moments(f)]), floats) <= 1e-7


@pytest.mark.everything
@pytest.mark.parametrize("name", ["low", "power law", "relu features"])
def test_samples_are_jitted_mapped_and_exported(name):
    """Sampling is a function of key and family, for any platform."""
    family = FAMILIES[name]()
    keys = jax.random.split(KEY, 3)
    draw = lambda family, key: family.sample(key, 10)
    mapped = jax.jit(jax.vmap(partial(draw, family)))(keys)
    for found, one in zip(mapped, draw(family, keys[1]), strict=True):
        assert entrywise_error(found[1], one) <= 1e-5
    exported = export.export(jax.jit(draw), platforms=("cpu", "cuda", "tpu"))(family, KEY)
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}


A = jnp.ones((2, 3))
BAD = {
    "A_w, A_s and a must have the same number of columns": lambda: GaussianFamily(A, A[:, :2], A[0]),
    "noise must be at least 0, got -1": lambda: GaussianFamily(A, A, A[0], -1.0).sample(KEY, 3),
    "noise must be at least 0, got -2": lambda: subspaces(3, 5, 2.0, noise=-2.0),
    "weak_rank must be at most latent = 3, got 4": lambda: low_intrinsic_dimension(
        KEY, latent=3, weak_rank=4, strong_rank=2
    ),
    "strong_rank must be an integer of at least 1, got 0": lambda: low_intrinsic_dimension(KEY, strong_rank=0),
    "weak_gamma must be at least 0, got -0.1": lambda: spiked(KEY, 10, 20, weak_gamma=-0.1),
    "width must be an integer of at least 1, got 2.5": lambda: spiked(KEY, 10, 2.5),
    "width must be even, got 5": lambda: power_law(KEY, 1.0, 5),
    "correlation must be between -1 and 1, got 2": lambda: power_law(KEY, 1.0, 4, correlation=2.0),
    "overlap must be between 1 and 3, got 3.5": lambda: subspaces(3, 5, 3.5),
    "noise_share must be between 0 and 1, got 2": lambda: benign_overfitting(10, 20, noise_share=2.0),
    "activation must be 'relu' or 'linear', got 'tanh'": lambda: random_features(KEY, 3, 3, 3, activation="tanh"),
    "got 1000 rows of 1000000 columns; simulate draws": lambda: spiked(KEY, 10, 10**6).sample(KEY, 1000),
    "n must be an integer of at least 1, got 0": lambda: random_features(KEY, 3, 3, 3).sample(KEY, 0),
    "sample must be called outside jit": lambda: jax.jit(lambda f: f.sample(KEY, 3))(spiked(KEY, 10, 20)),
}


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("sentence", BAD)
def test_bad_input_is_one_sentence(sentence, unchecked):
    """Which argument, what was expected, what came."""
    with pytest.raises(InputError) as caught:
        BAD[sentence]()
    assert sentence in str(caught.value)
