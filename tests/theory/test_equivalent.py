"""The two-stage deterministic equivalent against its dense reference, closed forms, and the simulated experiment."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import derivative_error, pair, quickly, relative_error
from jax import export
from simulated import FAMILIES, assert_means_agree, trials

from w2s_jax._core.checks import InputError
from w2s_jax.moments import moments
from w2s_jax.theory.equivalent import Equivalent, Population, Tail, deterministic_equivalent

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


@pytest.mark.everything
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


@pytest.mark.everything
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


@pytest.mark.everything
@pytest.mark.parametrize("rows", [(0.15, 0.12), (0.8, 2.0)])
@pytest.mark.parametrize("kind", ["generic", "repeated"])
def test_errors_are_differentiable(kind, rows, x64):
    """Gradients in covariances, tails, noise, rows and ridges are finite differences, eigenvalues repeated or not."""
    tails = tuple(Tail(tail.variance * 10, tail.width / 100) for tail in TAILS)
    p = population(target_moments(kind), tails=tails)
    assert derivative_error(of_everything, jax.tree.map(np.asarray, (p, *rows, 0.1, 0.05))) <= 1e-6


# The simulated experiment


@pytest.mark.parametrize("family", quickly(FAMILIES, "spiked, d/n = 2, noise"))
def test_predicts_the_mean_experiment(family, x64):
    """Mean weak, student and ceiling error and mean gap of real ridge heads, where the theorem is 20 to 60% off."""
    m, noise, weak, strong, *numbers = FAMILIES[family]
    p = population(m, noise, (Tail(*weak), Tail(*strong)))
    assert_means_agree(trials(family, 250)[0], errors(deterministic_equivalent(p, *numbers)))


# Transformations, bad input, printing


@pytest.mark.everything
def test_it_exports_for_every_platform():
    """It lowers for CPU, CUDA and TPU from any of them, and compiled equals eager; so do gradients."""
    p = population(target_moments("generic"), tails=TAILS, dtype=np.float32)
    run = lambda p: deterministic_equivalent(p, 30, 50, 0.1, 0.1)
    exported = export.export(jax.jit(run), platforms=("cpu", "cuda", "tpu"))(p)
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    assert relative_error(errors(jax.jit(run)(p)), errors(run(p))) <= 2e-5
    gradient = jax.jit(jax.grad(lambda p: run(p).gap))
    assert export.export(gradient, platforms=("cpu", "cuda", "tpu"))(p).mlir_module()


def test_bad_input_is_named(unchecked):
    """What does not fit is one sentence about the argument, what was expected and what came."""
    p = population(target_moments("generic"), dtype=np.float32)
    m = moments(*pair("generic", 16, 5, 8, dtype=np.float32))
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
        r"population must be a Population, .* got Moments": lambda: deterministic_equivalent(m, 9, 9, 0.1, 0.1),
    }
    for message, call in cases.items():
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.everything
def test_the_result_prints_its_numbers():
    """One point prints its errors and PGR, a grid its shape; to_dict has them all."""
    p = population(target_moments("generic"), dtype=np.float32)
    e = deterministic_equivalent(p, 30, 50, 0.1, 0.1)
    assert f"gap={float(e.gap):.4g}" in repr(e) and f"pgr={float(e.pgr):.4g}" in repr(e)
    assert e.to_dict()["pgr"] == (e.weak_error - e.student_error) / (e.weak_error - e.ceiling_error)
    assert repr(deterministic_equivalent(p, np.ones(3), 50, 0.1, 0.1)) == "Equivalent(grid of shape (3,))"
    assert repr(jax.tree.map(lambda x: None, e)) == "Equivalent(...)"
