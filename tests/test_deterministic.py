"""The two-stage deterministic equivalent against its dense reference, closed forms, and the simulated experiment."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import derivative_error, entrywise_error, pair, relative_error
from jax import export

from w2s_jax._checks import InputError
from w2s_jax.deterministic import Equivalent, Population, Tail, deterministic_equivalent
from w2s_jax.equivalent_errors import equivalent_errors, equivalent_errors_from_moments
from w2s_jax.expected import expected_experiment
from w2s_jax.fixed_point import effective_ridge, effective_ridge_from_spectrum
from w2s_jax.moments import moments

ERRORS = ("weak_error", "student_error", "ceiling_error", "gap")
TAILS = Tail(0.02, 40), Tail(0.01, 60)
ROWS = ((15, 12), (30, 25), (80, 200), (700, 300))  # fewer rows than features, more, far more


def target_moments(kind: str, k_w: int = 5, k_s: int = 7, seed: int = 0) -> dict[str, np.ndarray]:
    """Second moments of a weak/strong pair and a target of variance about 1, exact in float32."""
    rows = pair(kind, 64, k_w, k_s, seed)
    h_w, h_s, y = rows.h_w, rows.h_s, rows.y[:, 0] / np.std(rows.y[:, 0])
    m = reference.moments(h_w, h_s, y)
    return {name: np.asarray(m[name], np.float64) for name in ("ww", "ss", "sw", "wy", "sy", "yy")}


def population(m: dict, noise: float = 0.3, tails: tuple = (None, None), dtype=np.float64) -> Population:
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), Population(**m, noise=noise, tail_w=tails[0], tail_s=tails[1]))


def errors(e: Equivalent) -> np.ndarray:
    return np.stack([np.asarray(getattr(e, name)) for name in ERRORS])


def dense(m: dict, noise: float, tails: tuple, *numbers: float) -> np.ndarray:
    m = m if tails[0] is None else reference.with_tails(m, *tails)
    expected = reference.deterministic_equivalent(m, noise, *numbers)
    return np.array([expected[name] for name in ERRORS])


# The population form


@pytest.mark.parametrize(
    ("rows", "ridges"), [(ROWS[0], (0.1, 0.05)), (ROWS[1], (1e-4, 0.3)), (ROWS[1], (0.0, 0.0)), (ROWS[3], (0.0, 0.0))]
)
@pytest.mark.parametrize("tails", [(None, None), TAILS], ids=["no tails", "tails"])
@pytest.mark.parametrize("kind", ["generic", "rank_deficient", "repeated", "identical"])
def test_equals_the_dense_formulas(kind, tails, rows, ridges, x64):
    """All four errors are the two-stage formulas with explicit pseudo-inverses, tails written out as features."""
    k_w, k_s = (5, 7) if kind != "rank_deficient" else (9, 11)
    m = target_moments(kind, k_w, k_s)
    found = errors(deterministic_equivalent(population(m, tails=tails), *rows, *ridges))
    assert relative_error(found, dense(m, 0.3, tails, *rows, *ridges), float(m["yy"])) <= 1e-9


@pytest.mark.parametrize("kind", ["generic", "rank_deficient"])
@pytest.mark.parametrize("rows", ROWS)
def test_single_precision(kind, rows):
    """In float32 the errors hold to 1e-5 of the target's energy, away from thresholds."""
    m = {name: x.astype(np.float32) for name, x in target_moments(kind).items()}
    found = errors(deterministic_equivalent(population(m, tails=TAILS, dtype=np.float32), *rows, 0.1, 0.05))
    assert relative_error(found, dense(m, 0.3, TAILS, *rows, 0.1, 0.05), float(m["yy"])) <= 1e-5


def test_a_tail_is_so_many_features(x64):
    """Tails and the same features written out in ww, ss and sw give one result."""
    m = target_moments("generic")
    found = deterministic_equivalent(population(m, tails=TAILS), 50, 90, 0.02, 0.03)
    expected = deterministic_equivalent(population(reference.with_tails(m, *TAILS)), 50, 90, 0.02, 0.03)
    assert relative_error(errors(found), errors(expected)) <= 1e-11
    assert relative_error(found.kappa_weak, expected.kappa_weak) <= 1e-12
    assert relative_error(found.kappa_strong, expected.kappa_strong) <= 1e-12


def test_wide_flat_tails_act_as_gamma(x64):
    """As a tail of fixed gamma widens, kappa tends to beta + gamma at rate 1/width, and so does the overfitting example.

    Weak feature a zeta + b xi, strong feature zeta, target zeta; both heads interpolate (no ridge).
    """
    a, b, n, gamma_w, gamma_s = np.sqrt(0.7), np.sqrt(0.3), 1e6, 0.02, 0.05
    s, t = 1 / (1 + gamma_w), 1 / (1 + gamma_s)
    closed = [(1 - a**2 * s) ** 2 + (a * b * s) ** 2, (1 - a**2 * s * t) ** 2, (1 - t) ** 2, (t - a**2 * s * t) ** 2]
    one = np.ones((1, 1))
    away = []
    for ratio in (1e3, 1e4):
        tails = Tail(gamma_w / ratio, n * ratio), Tail(gamma_s / ratio, n * ratio)
        p = Population(one, one, a * one, np.array([a]), np.ones(1), 1.0, 0.0, *tails)
        found = deterministic_equivalent(p, n, n, 0.0, 0.0)
        kappas = np.stack([found.kappa_weak, found.kappa_strong])
        away.append([relative_error(errors(found), closed), relative_error(kappas, [gamma_w, gamma_s])])
    assert np.all(np.array(away[0]) <= 3e-3)
    assert np.allclose(np.array(away[0]) / np.array(away[1]), 10, rtol=0.1)


@pytest.mark.parametrize("dims", [(5, 20, 60, 100), (10, 30, 100, 50), (30, 10, 100, 200)])
def test_ridgeless_subspaces(dims, x64):
    """Ridgeless heads on realisable labels: Dong et al. 2025, with n - d for n - d - 1 (the order of the equivalent)."""
    d_s, d_w, n, N = dims
    rng = np.random.default_rng(0)
    D = d_s + d_w
    V_s, V_w = (np.linalg.qr(rng.standard_normal((D, d)))[0] for d in (d_s, d_w))
    V_w[:, 0] = V_s[:, 0]  # the direction that the labels need
    V_w = np.linalg.qr(V_w)[0] * np.sign(np.linalg.qr(V_w)[1][0, 0])
    target = V_s[:, 0]
    p = Population(np.eye(d_w), np.eye(d_s), V_s.T @ V_w, V_w.T @ target, V_s.T @ target, 1.0, 1.0)
    shared = np.sum((V_s.T @ V_w) ** 2)
    student = (shared + d_s / (N - d_s) * (d_w - shared)) / (n - d_w)
    found = deterministic_equivalent(p, n, N, 0.0, 0.0)
    assert relative_error(found.weak_error, d_w / (n - d_w)) <= 1e-12
    assert relative_error(found.student_error, student) <= 1e-12
    assert relative_error(found.ceiling_error, d_s / (N - d_s)) <= 1e-12


def test_the_interpolation_threshold_is_infinite(dtype):
    """Without a ridge, rows = rank gives infinite errors where there is noise, none where there is nothing to fit wrongly."""
    m = target_moments("generic")
    p = population(m, dtype=dtype)
    weak = deterministic_equivalent(p, 5, 50, 0.0, 0.0)
    assert np.isinf(weak.weak_error) and np.isinf(weak.student_error) and np.isinf(weak.gap)
    assert np.isfinite(weak.ceiling_error)
    strong = deterministic_equivalent(p, 50, 7, 0.0, 0.0)
    assert np.isfinite(strong.weak_error) and np.isinf(strong.student_error) and np.isinf(strong.ceiling_error)
    eye = np.eye(3, dtype=dtype)
    known = Population(eye, eye, eye, eye[0], eye[0], 1.0)
    assert np.all(errors(deterministic_equivalent(known, 3, 3, 0.0, 0.0)) == 0)


@pytest.mark.parametrize("exponent", [-50, 50])
def test_errors_do_not_depend_on_the_units_of_a_representation(exponent):
    """In float32, representations times c and ridges times c^2, c from 1e-15 to 1e15, leave the errors as they are."""
    c = np.float32(2.0**exponent)
    m = {name: x.astype(np.float32) for name, x in target_moments("generic").items()}
    large = m | {
        "ww": m["ww"] * c * c,
        "ss": m["ss"] * c * c,
        "sw": m["sw"] * c * c,
        "wy": m["wy"] * c,
        "sy": m["sy"] * c,
    }
    tails = tuple(Tail(np.float32(tail.variance) * c * c, tail.width) for tail in TAILS)
    plain = deterministic_equivalent(population(m, tails=TAILS, dtype=np.float32), 30, 50, 0.1, 0.2)
    ridges = np.float32(0.1) * c * c, np.float32(0.2) * c * c
    scaled = deterministic_equivalent(population(large, tails=tails, dtype=np.float32), 30, 50, *ridges)
    assert relative_error(errors(scaled), errors(plain)) <= 1e-6
    assert relative_error(scaled.kappa_strong, plain.kappa_strong * c * c) <= 1e-6


def test_a_phase_diagram_is_one_call(x64):
    """Arrays of rows and ridges broadcast, and so does vmap over anything; both equal single calls."""
    p = population(target_moments("generic"), tails=TAILS)
    n_w, n_s, ridges = np.array([10.0, 50, 200]), np.array([[20.0], [300]]), np.array([0.0, 0.1, 0.3])
    grid = deterministic_equivalent(p, n_w, n_s, ridges, 0.05)
    at = [(n, N, b) for N in n_s[:, 0] for n, b in zip(n_w, ridges, strict=True)]
    singles = np.array([errors(deterministic_equivalent(p, *point, 0.05)) for point in at])
    assert relative_error(errors(grid), singles.T.reshape(4, 2, 3)) <= 1e-12
    many = jax.tree.map(lambda x: jnp.stack([x, x / 2]), p)
    mapped = jax.vmap(lambda p, n: deterministic_equivalent(p, n, 20.0, 0.0, 0.05))(many, n_w[:2])
    assert relative_error(mapped.gap[0], singles[0, 3]) <= 1e-12


def test_new_numbers_do_not_compile_anew():
    """One compiled program serves all populations of a shape, rows and ridges."""
    call = jax.jit(deterministic_equivalent)
    p = population(target_moments("generic"), tails=TAILS, dtype=np.float32)
    first = call(p, 30.0, 50.0, 0.1, 0.1)
    assert call(replace(p, noise=2 * p.noise), 31.0, 49.0, 0.0, 0.2).weak_error != first.weak_error
    assert call._cache_size() == 1


def of_everything(x: tuple) -> jax.Array:
    """The four errors as a function of the population and of rows and ridges, all of size about 1."""
    p, n_w, n_s, b_w, b_s = x
    tails = [Tail(tail.variance / 10, tail.width * 100) for tail in (p.tail_w, p.tail_s)]
    p = replace(p, ww=(p.ww + p.ww.T) / 2, ss=(p.ss + p.ss.T) / 2, tail_w=tails[0], tail_s=tails[1])
    e = deterministic_equivalent(p, 100 * n_w, 100 * n_s, b_w, b_s)
    return jnp.stack([getattr(e, name) for name in ERRORS])


@pytest.mark.parametrize("rows", [(0.15, 0.12), (0.8, 2.0)])
@pytest.mark.parametrize("kind", ["generic", "repeated"])
def test_errors_are_differentiable(kind, rows, x64):
    """Gradients in covariances, tails, noise, rows and ridges are finite differences, eigenvalues repeated or not."""
    tails = tuple(Tail(tail.variance * 10, tail.width / 100) for tail in TAILS)
    p = population(target_moments(kind), tails=tails)
    assert derivative_error(of_everything, jax.tree.map(np.asarray, (p, *rows, 0.1, 0.05))) <= 1e-6


# The simulated experiment


def power_law(d: int, exponent: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Spectra i^-exponent on both sides, in bases turned against each other, and a target of energy 1."""
    rng = np.random.default_rng(seed)
    root = np.arange(1.0, d + 1) ** (-exponent / 2)
    turn = np.linalg.qr(np.eye(d) + 0.5 / np.sqrt(d) * rng.standard_normal((d, d)))[0]
    y = rng.standard_normal(d) * root
    joint = np.vstack([root[:, None] * turn, np.diag(root), y / np.linalg.norm(y)])
    m = joint @ joint.T
    return {
        "ww": m[:d, :d],
        "ss": m[d:-1, d:-1],
        "sw": m[d:-1, :d],
        "wy": m[:d, -1],
        "sy": m[d:-1, -1],
        "yy": m[-1, -1],
    }


def spiked(seed: int = 0) -> dict[str, np.ndarray]:
    """Three strong directions on each side of a shared latent; the target is partly outside both."""
    rng = np.random.default_rng(seed)
    weak, strong = (np.linalg.qr(rng.standard_normal((5, 3)))[0].T * [[1.4], [1.2], [1.0]] for _ in range(2))
    joint = np.vstack([weak, strong, np.ones(5) / 5**0.5])
    m = joint @ joint.T
    return {"ww": m[:3, :3], "ss": m[3:6, 3:6], "sw": m[3:6, :3], "wy": m[:3, 6], "sy": m[3:6, 6], "yy": m[6, 6]}


FAMILIES = {  # moments, noise, weak tail, strong tail, n~, n^, beta_w, beta_s
    "spiked, d/n = 5": (spiked(), 0.0, (0.06, 600), (0.04, 600), 120, 120, 0.1, 0.1),
    "spiked, d/n = 2, noise": (spiked(), 0.25, (0.15, 240), (0.1, 240), 120, 120, 0.1, 0.1),
    "spiked, ridgeless": (spiked(), 0.25, (0.15, 240), (0.1, 300), 120, 120, 0.0, 0.0),
    "power law 1": (power_law(60, 1.0), 0.0, (0.0, 0), (0.0, 0), 90, 120, 0.01, 0.01),
    "power law .7, noise": (power_law(100, 0.7), 0.25, (0.0, 0), (0.0, 0), 80, 160, 0.01, 0.01),
}


def affine_head(h: np.ndarray, y: np.ndarray, beta: float, intercept: bool) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias of a ridge head, through the smaller side."""
    means = (h.mean(0), y.mean()) if intercept else (np.zeros(h.shape[1]), 0.0)
    h, y, n = h - means[0], y - means[1], len(h)
    if len(h[0]) <= n:
        theta = np.linalg.solve(h.T @ h / n + beta * np.eye(len(h[0])), h.T @ y / n)
    else:
        theta = h.T @ np.linalg.solve(h @ h.T / n + beta * np.eye(n), y / n)
    return theta, means[1] - theta @ means[0]


@lru_cache
def trials(family: str, count: int, intercept: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Errors and gap of repeated experiments (count, 4), exact given the heads, and what D^ says of the last three (count, 3)."""
    m, noise, weak, strong, n_w, n_s, b_w, b_s = FAMILIES[family]
    rng, shift, k_w = np.random.default_rng(1), 3.0 * intercept, len(m["ww"])
    full = reference.with_tails(m, weak, strong)
    labels = np.append(m["wy"], m["sy"])[:, None]
    root = reference.matrix_sqrt(
        np.block([[np.block([[m["ww"], m["sw"].T], [m["sw"], m["ss"]]]), labels], [labels.T, m["yy"]]])
    )
    outcomes, rows, seen, outputs = [], [], [], []

    def draw(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        z = rng.standard_normal((n, len(root))) @ root + shift
        h_w, h_s, y = z[:, :k_w], z[:, k_w:-1], z[:, -1]
        tails = (np.sqrt(v) * rng.standard_normal((n, d)) for v, d in (weak, strong))
        h_w, h_s = (np.hstack(pieces) for pieces in zip((h_w, h_s), tails, strict=True))
        return h_w, h_s, y + np.sqrt(noise) * rng.standard_normal(n)

    def error(side: str, theta: np.ndarray, bias: float, target: bool = True) -> float:
        offset = bias + shift * (np.sum(theta[: len(m[side + side])]) - target)
        squares = theta @ full[side + side] @ theta + offset**2
        return squares + target * (m["yy"] - 2 * theta @ full[side + "y"])

    for _ in range(count):
        h_w, _, y = draw(n_w)
        T, bias = affine_head(h_w, y, b_w, intercept)
        h_w, h_s, y = draw(n_s)
        (Q, q), (R, r) = (affine_head(h_s, labels, b_s, intercept) for labels in (h_w @ T + bias, y))
        outcomes.append(
            [error("w", T, bias), error("s", Q, q), error("s", R, r), error("s", Q - R, q - r, target=False)]
        )
        rows.append(h_s), seen.append(y), outputs.append(h_w @ T + bias)
    found = jax.jit(jax.vmap(lambda h, y, f: jnp.stack(equivalent_errors(h, y, f, b_s, center=intercept))))
    return np.array(outcomes), np.asarray(found(np.stack(rows), np.stack(seen), np.stack(outputs)))


def assert_means_agree(samples: np.ndarray, expected: np.ndarray, finite_size: float = 0.01) -> None:
    """The samples' mean is the expected value within 4 standard errors, which are small, and terms of order 1/n."""
    mean, error = samples.mean(0), samples.std(0, ddof=1) / np.sqrt(len(samples))
    assert np.all(error <= 0.03 * expected)
    assert np.all(np.abs(mean - expected) <= 4 * error + finite_size * expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_predicts_the_mean_experiment(family, x64):
    """Mean weak, student and ceiling error and mean gap of real ridge heads, where the theorem is 20 to 60% off."""
    m, noise, weak, strong, *numbers = FAMILIES[family]
    p = population(m, noise, (Tail(*weak), Tail(*strong)))
    assert_means_agree(trials(family, 250)[0], errors(deterministic_equivalent(p, *numbers)))


@pytest.mark.parametrize(
    ("family", "intercept"),
    [*((family, False) for family in FAMILIES), ("spiked, d/n = 2, noise", True), ("power law .7, noise", True)],
)
def test_the_errors_from_data_have_the_right_means(family, intercept, x64):
    """The form from data is right on average, trial by trial, with and without an intercept in features far from zero."""
    outcomes, found = trials(family, 250, intercept)
    true = outcomes[:, 1:] + FAMILIES[family][1] * np.array([1, 1, 0])  # errors against labels hold their noise
    assert_means_agree(found - true + np.mean(true, 0), np.mean(true, 0))


# From data


@pytest.mark.parametrize(
    ("kind", "shape", "center"),
    [
        ("generic", (24, 40, 32), True),
        ("repeated", (32, 32, 32), False),
        ("rank_deficient", (64, 12, 20), True),
        ("rank_deficient", (24, 12, 40), False),
    ],
)
def test_the_errors_from_data(kind, shape, center, dtype):
    """From rows or from moments, student, ceiling and gap are the formulas with dense inverses."""
    h_w, h_s, y = pair(kind, *shape, dtype=dtype)
    kernel = np.random.default_rng(1).standard_normal((h_w.shape[1], 2)).astype(dtype) / 8
    bias = np.array([0.2, -0.1], dtype)
    outputs = h_w.astype(np.float64) @ kernel + bias * center
    expected = np.stack([reference.equivalent_errors(h_s, y, outputs, b, center) for b in (0.05, 1.0)], 1)
    bound = 1e-10 if dtype == np.float64 else 2e-5
    ridges = np.array([0.05, 1.0], dtype)
    found = equivalent_errors(h_s, y, outputs.astype(dtype), ridges, center=center)
    assert relative_error(np.stack(found), expected) <= bound
    m = moments(h_w, h_s, y, center=center)
    found = equivalent_errors_from_moments(m, kernel, ridges, bias=bias if center else None)
    assert relative_error(np.stack(found), expected) <= bound


def test_the_errors_of_one_output(x64):
    """Labels (n,) are labels (n, 1): one number per ridge."""
    h_w, h_s, y = pair("generic", 30, 6, 10)
    m, kernel = moments(h_w, h_s, y[:, 0]), np.ones(6) / 4
    expected = reference.equivalent_errors(h_s, y[:, 0], h_w @ kernel, 0.3)
    assert relative_error(np.stack(equivalent_errors(h_s, y[:, 0], h_w @ kernel, 0.3)), expected) <= 1e-10
    assert relative_error(np.stack(equivalent_errors_from_moments(m, kernel, 0.3)), expected) <= 1e-10


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("shape", [(24, 8, 40), (40, 8, 24)])
def test_the_errors_from_data_have_a_ridgeless_limit(shape, center, x64):
    """At ridge 0 they are finite and the limit of small ridges, whether the student interpolates or not."""
    h_w, h_s, y = pair("generic", *shape)
    limit = reference.equivalent_errors(h_s, y, 0 * y, 1e-8, center)
    assert relative_error(np.stack(equivalent_errors(h_s, y, 0 * y, 0.0, center=center)), limit, 1e-3) <= 1e-5
    m, bias = moments(h_w, h_s, y, center=center), np.zeros(2) if center else None
    found = equivalent_errors_from_moments(m, np.zeros((8, 2)), 0.0, bias=bias)
    assert relative_error(np.stack(found), limit, 1e-3) <= 1e-5


@pytest.mark.parametrize(("kind", "shape", "center"), [("generic", (12, 5, 16), True), ("repeated", (16, 5, 8), False)])
def test_the_errors_from_data_are_differentiable(kind, shape, center, x64):
    """Gradients in representations, labels, the weak head and the ridge are finite differences."""
    h_w, h_s, y = pair(kind, *shape)
    rows = lambda x: jnp.stack(equivalent_errors(*x, center=center))
    assert derivative_error(rows, (h_s, y, y[::-1].copy(), 0.3)) <= 1e-6
    bias = np.zeros(2) if center else None
    whole = lambda x: jnp.stack(equivalent_errors_from_moments(moments(*x[:3], center=center), *x[3:], bias=bias))
    assert derivative_error(whole, (h_w, h_s, y, np.ones((5, 2)) / 4, 0.3)) <= 1e-6


# The expected experiment


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


# Transformations, bad input, printing


def compiled_forms() -> dict:
    """Every public function on float32 input, as a function of no arguments but arrays."""
    h_w, h_s, y = pair("generic", 16, 5, 8, dtype=np.float32)
    p = population(target_moments("generic"), tails=TAILS, dtype=np.float32)
    labelled = moments(h_w, h_s, y)
    return {
        "kappa": (lambda v: effective_ridge(v, 3, 0.1), (h_s[0] ** 2,)),
        "kappa of a sample": (lambda v: effective_ridge_from_spectrum(v, 30, 0.1), (np.sort(h_s[0] ** 2)[::-1],)),
        "population": (lambda p: deterministic_equivalent(p, 30, 50, 0.1, 0.1), (p,)),
        "rows": (lambda h, y: equivalent_errors(h, y, y[::-1], 0.1), (h_s, y)),
        "moments": (lambda m, k: equivalent_errors_from_moments(m, k, 0.1), (labelled, np.ones((5, 2), np.float32))),
        "expected": (lambda m: expected_experiment(m, m, m, 0.1, 0.1), (labelled,)),
    }


@pytest.mark.parametrize("name", compiled_forms())
def test_functions_export_for_every_platform(name):
    """Each function lowers for CPU, CUDA and TPU from any of them, and compiled equals eager."""
    function, arguments = compiled_forms()[name]
    exported = export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(*arguments)
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    flat = lambda result: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(result)])
    assert entrywise_error(flat(jax.jit(function)(*arguments)), flat(function(*arguments))) <= 2e-5


def test_gradients_export_for_every_platform():
    """So do gradients of the population form."""
    p = population(target_moments("generic"), tails=TAILS, dtype=np.float32)
    gradient = jax.jit(jax.grad(lambda p: deterministic_equivalent(p, 30, 50, 0.1, 0.1).gap))
    assert export.export(gradient, platforms=("cpu", "cuda", "tpu"))(p).mlir_module()


def test_bad_input_is_named(unchecked):
    """What does not fit is one sentence about the argument, what was expected and what came."""
    p = population(target_moments("generic"), dtype=np.float32)
    h_w, h_s, y = pair("generic", 16, 5, 8, dtype=np.float32)
    m, centred = moments(h_w, h_s, y), moments(h_w, h_s, y, center=True)
    kernel = np.ones((5, 2))
    run = lambda p, *numbers: lambda: deterministic_equivalent(p, *(numbers or (30, 30, 0.1, 0.1)))
    cases = {
        r"population's wy must have shape \(5,\), got \(7,\)": run(replace(p, wy=p.sy)),
        r"population's ss must have shape \(7, 7\), got \(5, 5\)": run(replace(p, ss=p.ww)),
        r"population's noise must be at least 0, got -1": run(replace(p, noise=-1.0)),
        r"population's tail_w.variance must be at least 0": run(replace(p, tail_w=Tail(-1.0, 10))),
        r"population's ww contain": run(replace(p, ww=p.ww * np.nan)),
        r"population's sy contain": run(replace(p, sy=p.sy * np.nan)),
        r"n_labelled must be at least 1, got 0": run(p, 0, 30, 0.1, 0.1),
        r"strong_ridge must be at least 0, got -0.1": run(p, 30, 30, 0.1, -0.1),
        r"must broadcast, got shapes": run(p, np.ones(2), np.ones(3), 0.1, 0.1),
        r"ridge must be at least 0": lambda: effective_ridge(np.ones(3), 3, -1.0),
        r"multiplicity must match values": lambda: effective_ridge(np.ones(3), 3, 1.0, np.ones(2)),
        r"labels must have shape \(16,\)": lambda: equivalent_errors(h_s, y[:5], y, 0.1),
        r"weak outputs must have the labels' shape": lambda: equivalent_errors(h_s, y, y[:, 0], 0.1),
        r"moments must have labels": lambda: equivalent_errors_from_moments(moments(h_w, h_s), kernel, 0.1),
        r"kernel must have shape \(5, 2\)": lambda: equivalent_errors_from_moments(m, kernel[:, 0], 0.1),
        r"bias must be given .* got none": lambda: equivalent_errors_from_moments(centred, kernel, 0.1),
        r"bias must be given .* not centred": lambda: equivalent_errors_from_moments(m, kernel, 0.1, bias=np.zeros(2)),
        r"must have the same widths": lambda: expected_experiment(m, m, moments(h_w, h_w), 0.1, 0.1),
        r"population must be a Population, .* got Moments": lambda: deterministic_equivalent(m, 9, 9, 0.1, 0.1),
    }
    for message, call in cases.items():
        with pytest.raises(InputError, match=message):
            call()


def test_the_result_prints_its_numbers():
    """One point prints its errors and PGR, a grid its shape; to_dict has them all."""
    p = population(target_moments("generic"), dtype=np.float32)
    e = deterministic_equivalent(p, 30, 50, 0.1, 0.1)
    assert f"gap={float(e.gap):.4g}" in repr(e) and f"pgr={float(e.pgr):.4g}" in repr(e)
    assert e.to_dict()["pgr"] == (e.weak_error - e.student_error) / (e.weak_error - e.ceiling_error)
    assert repr(deterministic_equivalent(p, np.ones(3), 50, 0.1, 0.1)) == "Equivalent(grid of shape (3,))"
    assert repr(jax.tree.map(lambda x: None, e)) == "Equivalent(...)"
