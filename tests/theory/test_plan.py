"""Plans against grids of the deterministic equivalent, against the posterior experiment, and against simulated experiments."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import relative_error
from simulated import FAMILIES, affine_head

from w2s_jax._core.checks import InputError
from w2s_jax.moments import moments
from w2s_jax.theory import Plan, deterministic_equivalent, label_posterior, plan, posterior_experiment
from w2s_jax.theory.equivalent import Population, Tail

RIDGES = np.geomspace(1e-6, 1e2, 49)
PLANNED = "power law .7, noise"
NOISE = 0.25
HOPELESS = "spiked, d/n = 2, noise"  # heads that learn anything do worse than none


def population(name: str) -> Population:
    m, _, tail_w, tail_s, *_ = FAMILIES[name]
    tails = [None if tail[1] == 0 else Tail(*map(float, tail)) for tail in (tail_w, tail_s)]
    return Population(**{key: jnp.asarray(x) for key, x in m.items()}, noise=NOISE, tail_w=tails[0], tail_s=tails[1])


@pytest.mark.everything
def test_ridges_are_the_best_of_a_grid(x64):
    """No pair of ridges on a fine grid has a smaller error; the errors are the equivalent's at the ridges found."""
    n = FAMILIES[PLANNED][4:6]
    found = plan(population(PLANNED), n_labelled=n[0], n_student=n[1])
    assert (found.n_labelled, found.n_student) == n
    on_grid = deterministic_equivalent(population(PLANNED), *n, RIDGES[:, None], RIDGES).student_error
    assert found.student_error <= float(on_grid.min()) * (1 + 1e-6)
    there = deterministic_equivalent(population(PLANNED), *n, found.weak_ridge, found.strong_ridge)
    assert relative_error(found.student_error, there.student_error) < 1e-12
    assert relative_error(found.gap, there.gap) < 1e-12


@pytest.mark.everything
def test_where_heads_only_lose_nothing_is_learnt():
    found = plan(population(HOPELESS), n_labelled=120, n_student=120)
    assert found.weak_ridge > 1 and found.student_error == pytest.approx(1, rel=1e-3)


@pytest.mark.everything
def test_single_precision_is_near_double():
    found = plan(population(PLANNED), n_labelled=80, n_student=160)
    with jax.enable_x64(True):
        exact = plan(population(PLANNED), n_labelled=80, n_student=160)
    assert found.student_error == pytest.approx(exact.student_error, rel=1e-4)


@pytest.mark.everything
def test_a_budget_is_divided_as_on_a_grid(x64):
    """Labels cost five times as much as the student's rows; ridges are given."""
    prices = {"budget": 600.0, "label_cost": 5.0, "student_cost": 1.0}
    found = plan(population(PLANNED), weak_ridge=0.05, strong_ridge=0.02, **prices)
    part = np.linspace(0.01, 0.99, 397)
    errors = deterministic_equivalent(population(PLANNED), part * 120, (1 - part) * 600, 0.05, 0.02).student_error
    assert 5 * found.n_labelled + found.n_student == pytest.approx(600)
    assert found.student_error <= float(errors.min()) * (1 + 1e-6)
    assert abs(found.n_labelled / 120 - part[int(errors.argmin())]) < 0.01
    assert found.label_gain / 5 == pytest.approx(found.student_gain, rel=1e-3)


def test_all_four_numbers_together(x64):
    prices = {"budget": 600.0, "label_cost": 5.0, "student_cost": 1.0}
    found = plan(population(PLANNED), **prices)
    part, ridges = np.linspace(0.05, 0.95, 19)[:, None, None], np.geomspace(1e-4, 10, 16)
    numbers = part * 120, (1 - part) * 600, ridges[:, None], ridges
    assert found.student_error <= float(deterministic_equivalent(population(PLANNED), *numbers).student_error.min())


@pytest.mark.everything
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"n_labelled": 50, "student_cost": 2.0}, (50, 125)),
        ({"n_student": 100, "student_cost": 2.0}, (100, 100)),
        ({"n_student": 400}, (300, 400)),  # rows of the student's for nothing
    ],
)
def test_a_number_follows_from_the_budget(given, expected):
    found = plan(population(PLANNED), weak_ridge=0.1, strong_ridge=0.1, budget=300, **given)
    assert (found.n_labelled, found.n_student) == pytest.approx(expected)


def test_gains_are_differences(x64):
    found = plan(population(PLANNED), n_labelled=80, n_student=160, weak_ridge=0.05, strong_ridge=0.02)
    error = lambda *n: float(deterministic_equivalent(population(PLANNED), *n, 0.05, 0.02).student_error)
    slopes = (error(79.5, 160) - error(80.5, 160), error(80, 159.5) - error(80, 160.5))
    assert (found.label_gain, found.student_gain) == pytest.approx(slopes, rel=1e-3)


@pytest.mark.everything
@pytest.mark.parametrize("bias", [False, True])
def test_moments_with_a_posterior_are_the_planned_experiment(bias, x64):
    """Moments stand for the population, and the posterior for the labels: errors are the posterior experiment's."""
    rng = np.random.default_rng(0)
    h = rng.standard_normal((120, 6)) / np.arange(1, 7)
    y = h[:, 0] + 0.3 * rng.standard_normal(120)
    blocks = [moments(h[i::3, :4], h[i::3], bias=bias) for i in range(3)]
    whole = moments(h[:, :4], h, y, bias=bias)
    posterior = label_posterior(whole.strong, h, y)
    found = plan(whole, n_labelled=200, n_student=500)
    numbers = found.weak_ridge, found.strong_ridge, posterior
    error, gap = posterior_experiment(*blocks, *numbers, n_labelled=200, n_student=500)
    tolerance = 1e-9 if not bias else 0.05  # blocks about means of their own
    assert relative_error(found.student_error, error) < tolerance
    assert relative_error(found.gap, gap) < tolerance
    assert plan(whole, n_labelled=200, n_student=500, posterior=posterior) == found


@pytest.mark.everything
def test_rows_without_labels_are_planned_for_the_prior(x64):
    h = np.random.default_rng(0).standard_normal((120, 6))
    found = plan(moments(h[:, :4], h), n_labelled=100, n_student=100)
    assert 0 < found.gap < found.student_error < 1


def drawn(weak: float = 1.0, strong: float = 1.0, labels: float = 1.0, y: np.ndarray | None = None, bias: bool = True):
    """Moments of rows and labels of some sizes, in single precision."""
    rng = np.random.default_rng(0)
    h = rng.standard_normal((120, 6)) / np.arange(1, 7)
    y = h[:, 0] + 0.3 * rng.standard_normal(120) if y is None else y
    return moments(*(np.float32(x) for x in (weak * h[:, :4], strong * h, labels * y)), bias=bias)


def test_plans_are_free_of_scale():
    """In single precision, of features from 1e-15 to 1e15 and of labels: ridges and errors have squared units."""
    given = {"n_labelled": 50, "n_student": 200}
    plain = plan(drawn(), **given)
    for sizes in ((1e-8, 1.0, 1.0), (1e-15, 1e-15, 1.0), (1e15, 1e15, 1.0), (1.0, 1.0, 1e-15), (1e-15, 1e-15, 1e-15)):
        found, (weak, strong, labels) = plan(drawn(*sizes), **given), np.square(sizes)
        got = (found.student_error / labels, found.gap / labels, found.label_gain / labels, found.student_gain / labels)
        assert got == pytest.approx((plain.student_error, plain.gap, plain.label_gain, plain.student_gain), rel=5e-2)
        ridges = (found.weak_ridge / weak, found.strong_ridge / strong)
        assert ridges == pytest.approx((plain.weak_ridge, plain.strong_ridge), rel=0.1)
        fixed = plan(drawn(*sizes), **given, weak_ridge=0.1 * weak, strong_ridge=0.1 * strong)
        assert (fixed.weak_ridge, fixed.strong_ridge) == pytest.approx((0.1 * weak, 0.1 * strong))


def test_populations_with_tails_are_free_of_scale(x64):
    p, (w, s, y) = population("power law .7, noise"), (1e-9, 1e6, 1e-4)
    p = replace(p, tail_w=Tail(0.01, 30.0), tail_s=Tail(0.02, 50.0))
    sized = Population(
        p.ww * w * w, p.ss * s * s, p.sw * s * w, p.wy * w * y, p.sy * s * y, p.yy * y * y, p.noise * y * y
    )
    sized = replace(sized, tail_w=Tail(0.01 * w * w, 30.0), tail_s=Tail(0.02 * s * s, 50.0))
    plain, found = (plan(of, n_labelled=80, n_student=160) for of in (p, sized))
    assert found.student_error / y**2 == pytest.approx(plain.student_error, rel=1e-9)
    there = deterministic_equivalent(sized, 80, 160, found.weak_ridge, found.strong_ridge)
    assert (found.student_error, found.gap) == pytest.approx((float(there.student_error), float(there.gap)), rel=1e-9)


@pytest.mark.parametrize("prices", [(2, 1, 1), (3, 1, 1), (2.2, 2, 0.1), (1000, 1, 1), (50, 20, 25)])
def test_budgets_are_kept(prices):
    """The smallest ones too: a row of each, and no more is spent than there is."""
    budget, label_cost, student_cost = prices
    found = plan(drawn(), budget=budget, label_cost=label_cost, student_cost=student_cost)
    assert min(found.n_labelled, found.n_student) >= 1 - 1e-5
    assert label_cost * found.n_labelled + student_cost * found.n_student == pytest.approx(budget, rel=1e-12)
    assert np.isfinite([found.weak_ridge, found.strong_ridge, found.student_error]).all()


@pytest.mark.parametrize(("y", "bias"), [(0.0, True), (5.3, True), (0.0, False)])
def test_labels_that_say_nothing_are_refused(y, bias, unchecked):
    with pytest.raises(
        InputError, match=r"population must have a target, or labels, not all 0 .* got a mean square of 0"
    ):
        plan(drawn(y=np.full(120, y), bias=bias), n_labelled=50, n_student=200)


def test_features_of_zeros_and_other_posteriors_are_refused(unchecked):
    p = population(PLANNED)
    with pytest.raises(InputError, match="population must have weak features that are not all 0"):
        plan(replace(p, ww=0 * p.ww), n_labelled=50, n_student=200)
    with pytest.raises(InputError, match="posterior must be a LabelPosterior, got str"):
        plan(drawn(), n_labelled=50, n_student=200, posterior="x")


def simulated(name: str, ridges: list[tuple[float, float]], count: int) -> np.ndarray:
    """Students' errors (ridges, count) in simulated experiments, all ridges on the same rows."""
    m, _, tail_w, tail_s, n_w, n_s, *_ = FAMILIES[name]
    full, rng, k = reference.with_tails(m, tail_w, tail_s), np.random.default_rng(0), len(m["ww"])
    labels = np.append(m["wy"], m["sy"])[:, None]
    joint = np.block([[np.block([[m["ww"], m["sw"].T], [m["sw"], m["ss"]]]), labels], [labels.T, m["yy"]]])
    root = reference.matrix_sqrt(joint)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        z = rng.standard_normal((n, len(root))) @ root
        tails = [np.sqrt(v) * rng.standard_normal((n, d)) for v, d in (tail_w, tail_s)]
        h_w, h_s = np.hstack([z[:, :k], tails[0]]), np.hstack([z[:, k:-1], tails[1]])
        return h_w, h_s, z[:, -1] + np.sqrt(NOISE) * rng.standard_normal(n)

    found = np.empty((len(ridges), count))
    for trial in range(count):
        (h_A, _, y_A), (h_B, z_B, _) = draw(n_w), draw(n_s)
        for i, (weak, strong) in enumerate(ridges):
            pseudo = h_B @ affine_head(h_A, y_A, weak, False)[0]
            theta = affine_head(z_B, pseudo, strong, False)[0]
            found[i, trial] = theta @ full["ss"] @ theta - 2 * theta @ full["sy"] + m["yy"]
    return found


@pytest.mark.everything
def test_simulated_experiments_are_no_better_elsewhere():
    """The mean error of simulated students at the planned ridges, against ridges around them."""
    found = plan(population(PLANNED), n_labelled=FAMILIES[PLANNED][4], n_student=FAMILIES[PLANNED][5])
    factors = [(1.0, 1.0), (4.0, 1.0), (0.25, 1.0), (1.0, 4.0), (1.0, 0.25)]
    at, *others = simulated(PLANNED, [(a * found.weak_ridge, b * found.strong_ridge) for a, b in factors], 30)
    assert abs(at.mean() - found.student_error) < 4 * at.std() / np.sqrt(len(at)) + 0.02 * found.student_error
    for other in others:
        assert np.mean(other - at) > -2 * np.std(other - at) / np.sqrt(len(at))


def test_a_plan_says_what_it_is():
    text = repr(Plan(100.0, 1000.0, 0.1, 0.02, 0.3, 0.05, 1e-3, 1e-5))
    assert text == "Plan(100 labelled and 1000 student's rows, ridges 0.1 and 0.02: student error 0.3, gap 0.05)"


FAULTS = {
    "n_student must be given, or a budget and a student_cost above 0": {"n_labelled": 10},
    "n_labelled must be given, or a budget and a label_cost above 0": {"n_student": 10, "budget": 9, "label_cost": 0.0},
    r"budget must pay for the rows that are given and one row of each split \(21\), got 20": {
        "n_labelled": 20,
        "budget": 20,
        "student_cost": 1.0,
    },
    r"budget must pay for the rows that are given and one row of each split \(2\), got 1.5": {
        "budget": 1.5,
        "student_cost": 1.0,
    },
    r"budget must pay for the rows that are given .* \(30\), got 10": {"n_labelled": 30, "n_student": 5, "budget": 10},
    "budget must be finite, got inf": {"budget": float("inf"), "student_cost": 1.0},
    "n_student must be finite, got inf": {"n_labelled": 10, "n_student": np.inf},
    "n_labelled must be at least 1": {"n_labelled": 0, "n_student": 10},
    "n_labelled must be a number or an array of numbers, got '100'": {"n_labelled": "100", "n_student": 10},
    "weak_ridge must be": {"n_labelled": 10, "n_student": 10, "weak_ridge": -1.0},
    "posterior is for moments": {"n_labelled": 10, "n_student": 10, "posterior": "of"},
}


@pytest.mark.parametrize("said", FAULTS)
def test_bad_input_is_one_sentence(said, unchecked):
    with pytest.raises(InputError, match=said):
        plan(population(PLANNED), **FAULTS[said])


def test_another_population_is_refused(unchecked):
    with pytest.raises(InputError, match="population must be a Population or Moments, got dict"):
        plan({}, n_labelled=10, n_student=10)
