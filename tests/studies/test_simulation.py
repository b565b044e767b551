"""The experiment without its rows: the same numbers as with them where that can be said, the same law where it cannot."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import derivative_error, entrywise_error, relative_error
from jax import export
from scipy import stats

from w2s_jax import InputError
from w2s_jax.studies import simulation
from w2s_jax.studies.simulation import Outcome, run_trial, simulate
from w2s_jax.studies.synthetic import GaussianFamily, ReluFamily, random_features, spiked, subspaces
from w2s_jax.theory.equivalent import Tail, deterministic_equivalent

KEY = jax.random.key(0)
COLUMNS = jax.jit(simulation._tail_columns, static_argnums=(2, 3))
ELIMINATE = jax.jit(simulation._tail_moments, static_argnums=(1, 2))
FIT = jax.jit(simulation._fit, static_argnums=3)
# (n, m, width): wide tails, as wide as there are rows, narrower, narrower than m, all rows at once, several blocks.
TAILS = [(40, 5, 300), (40, 5, 40), (40, 5, 25), (40, 5, 3), (4, 4, 9), (1, 1, 1), (300, 3, 2000)]


def gaussian(
    seed: int = 0, tail_w: Tail | None = None, tail_s: Tail | None = None, noise: float = 0.0
) -> GaussianFamily:
    """Three weak and four strong features of a latent of five dimensions."""
    rng = np.random.default_rng(seed)
    maps = (jnp.asarray(rng.standard_normal(shape) / 2) for shape in ((3, 5), (4, 5), (5,)))
    return GaussianFamily(*maps, noise, tail_w, tail_s)


def banded(key: jax.Array, n: int, m: int, width: int, dtype: np.dtype) -> np.ndarray:
    """The tail G (n, n) whose columns beyond n, if any, have been turned away: what `_tail_moments` eliminates."""
    G = np.zeros((n + m, n))
    for index in range(-(-n // simulation._ROWS_PER_DRAW)):
        c = index * simulation._ROWS_PER_DRAW + jnp.arange(simulation._ROWS_PER_DRAW)
        drawn = COLUMNS(jax.random.fold_in(key, index), c, n, m, jnp.asarray(width, dtype))
        for j, column in zip(np.asarray(c), np.asarray(drawn, np.float64), strict=True):
            if j < n:
                G[j : j + m + 1, j] = column
    assert not G[n:].any()
    return G[:n]


def head_of_rows(key: jax.Array, n: int, width: int, variance: float, ridge: float, dtype: np.dtype):
    """A head by `_fit`, and the dense head on the rows it stands for, tail columns included."""
    rng = np.random.default_rng(1)
    r, k = min(n, 6), 4
    F, labels = (rng.standard_normal(shape).astype(dtype) for shape in ((r, k), (r, 2)))
    tail, penalty = Tail(variance, width), jnp.asarray(ridge, dtype)
    found = FIT(key, jnp.asarray(F), jnp.asarray(labels), n, tail, penalty)
    G = banded(key, n, r, width, dtype)
    rest = np.zeros((n - r, k + 2))
    rows = np.sqrt(n) * np.vstack([np.hstack([F, labels]), rest])
    dense = reference.dual_ridge_head(np.hstack([rows[:, :k], np.sqrt(variance) * G]), rows[:, k:], ridge)
    return found, dense[:k], np.sum(dense[k:] ** 2, 0)


INVERTIBLE = [(*tail, ridge) for tail in TAILS for ridge in (0.3, 0.0) if ridge or tail[0] <= tail[2]]


@pytest.mark.everything(but=1)
@pytest.mark.parametrize(("n", "m", "width", "ridge"), INVERTIBLE)
def test_elimination_equals_the_dense_inverse(n, m, width, ridge, x64):
    """Rows eliminated one by one leave the top left block of the inverse of the whole tail's kernel."""
    P, K = ELIMINATE(KEY, n, m, Tail(0.7, width), jnp.asarray(ridge))
    G = banded(KEY, n, m, width, np.float64)
    for found, expected in zip((P, K), reference.tail_moments(G, 0.7 / n, ridge, m), strict=True):
        assert entrywise_error(found, expected) <= 1e-10


LONG = [(50, 400, 0.1), (50, 400, 0.0), (50, 20, 0.1), (300, 10**6, 0.05)]  # eliminations in which rounding adds up
HEADS = [(kind, *case) for kind in ("float32", "float64") for case in LONG] + [("float64", 4, 30, 0.0)]


@pytest.mark.everything
@pytest.mark.parametrize(("dtype", "n", "width", "ridge"), HEADS, indirect=["dtype"])
def test_heads_equal_dense_heads_on_the_same_rows(dtype, n, width, ridge):
    """Coefficients of the features and the norm of the tail's are those of a dense solve with the tail as real columns."""
    found, theta, tail = head_of_rows(KEY, n, width, 0.2 * n / width, ridge, dtype)
    tolerance = 1e-10 if dtype == np.float64 else 1e-5
    assert entrywise_error(found.theta, theta) <= tolerance
    assert relative_error(found.tail, tail) <= tolerance * 10


@pytest.mark.parametrize("n", [7, 3])
def test_heads_without_tail_equal_dense_heads(n, x64):
    """More rows than features or fewer, with ridge: the dense ridge head; without, the shortest that fits best."""
    rng = np.random.default_rng(0)
    F, labels = rng.standard_normal((n, 5)), rng.standard_normal((n, 2))
    for ridge in (0.2, 0.0):
        found = FIT(KEY, jnp.asarray(F), jnp.asarray(labels), n, None, jnp.asarray(ridge))
        dense = (
            reference.dual_ridge_head(F * np.sqrt(n), labels * np.sqrt(n), ridge)
            if ridge
            else np.linalg.pinv(F) @ labels
        )
        assert entrywise_error(found.theta, dense) <= 1e-10
        assert not np.any(found.tail)


@pytest.mark.parametrize("freedom", [1, 2, 3, 17, 1000, 10**7])
def test_chi_has_the_law_of_chi(freedom):
    """In float32, from one degree of freedom to ten million."""
    drawn = np.asarray(simulation._chi(KEY, jnp.full(20000, freedom, jnp.float32)), np.float64)
    # The square about its mean: chi's own spread is 1/sqrt(2), a hundred float32 steps at ten million.
    assert stats.kstest(drawn, lambda x: stats.chi2.cdf(x**2, freedom)).pvalue > 1e-2


def test_elimination_without_ridge_is_a_wishart_schur_complement():
    """`1 / Q^T (G G^T)^{-1} Q` is chi squared of `width - n + 1` degrees of freedom, whatever else is drawn."""
    n, width = 60, 75
    draw = jax.vmap(lambda key: simulation._tail_moments(key, n, 1, Tail(float(n), width), jnp.float32(0))[0][0, 0])
    schur = 1 / np.asarray(jax.jit(draw)(jax.random.split(KEY, 2000)), np.float64)
    assert stats.kstest(schur, stats.chi2(width - n + 1).cdf).pvalue > 1e-2


EXPERIMENTS = {
    "weak tail, fewer rows than latents": dict(tails=((0.1, 90), (0.0, 0)), sizes=(3, 4)),
    "both tails": dict(tails=((0.1, 90), (0.05, 120))),
    "both interpolate noise": dict(tails=((0.1, 90), (0.05, 120)), ridges=(0.0, 0.0), noise=0.5),
    "tails narrower than rows": dict(tails=((0.3, 12), (0.2, 7)), noise=0.5),
}


@pytest.mark.everything
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_have_the_law_of_explicit_ones(name, unchecked):
    """Errors, gap and the theorem's gap are distributed as when every row and every tail column is written out."""
    settings = dict(tails=((0.0, 0), (0.0, 0)), sizes=(20, 30), ridges=(0.1, 0.05), noise=0.2) | EXPERIMENTS[name]
    tails, sizes, ridges, noise = (settings[key] for key in ("tails", "sizes", "ridges", "noise"))
    family = gaussian(0, *(Tail(*tail) if tail[1] else None for tail in tails), noise)
    gammas = [variance * width / n for (variance, width), n in zip(tails, sizes, strict=True)]
    heads = [reference.ridge(beta + gamma) for beta, gamma in zip(ridges, gammas, strict=True)]
    predicted = lambda w, s, y: reference.prediction_gap(w, s, y, *heads)
    maps, rng = tuple(map(np.asarray, (family.A_w, family.A_s, family.a))), np.random.default_rng(3)
    explicit = [reference.synthetic_trial(rng, maps, noise, tails, sizes, ridges, predicted) for _ in range(700)]
    drawn = simulate(jax.random.split(KEY, 1000), family, *sizes, *ridges)
    for one, other in zip(np.array(explicit).T, np.asarray(drawn, np.float64)[:5], strict=True):
        assert stats.ks_2samp(one, other).pvalue > 1e-3
        one, other = (np.log(x) for x in (one, other))  # for errors with heavy tails
        assert abs(np.mean(one) - np.mean(other)) <= 3.5 * np.hypot(stats.sem(one), stats.sem(other))
        spread = [np.abs(x - np.mean(x)) for x in (one, other)]
        assert abs(np.mean(spread[0]) - np.mean(spread[1])) <= 3.5 * np.hypot(*map(stats.sem, spread))


@pytest.mark.everything
def test_relu_experiments_equal_dense_ones_on_the_same_rows(x64):
    """A family that is not Gaussian is sampled: heads and population errors are those of dense solves."""
    family, sizes, ridges = random_features(KEY, 3, 4, 6, noise=0.1), (25, 40), (0.02, 0.01)
    found = jax.jit(run_trial, static_argnums=(2, 3))(KEY, family, *sizes, *ridges)
    rows_key, _, student_key, _ = jax.random.split(KEY, 4)
    fit, student = (family.sample(key, n) for key, n in ((rows_key, sizes[0]), (student_key, sizes[1])))
    weak = reference.dual_ridge_head(fit.h_w, fit.y, ridges[0])
    taught = reference.dual_ridge_head(student.h_s, np.asarray(student.h_w) @ weak, ridges[1])
    ceiling = reference.dual_ridge_head(student.h_s, student.y, ridges[1])
    p = family.population
    error = lambda theta, S, c: theta @ S @ theta - 2 * theta @ c + p.yy
    assert relative_error(found.weak_error, error(weak, p.ww, p.wy)) <= 1e-10
    assert relative_error(found.student_error, error(taught, p.ss, p.sy)) <= 1e-10
    assert relative_error(found.ceiling_error, error(ceiling, p.ss, p.sy)) <= 1e-10
    assert relative_error(found.gap, (taught - ceiling) @ p.ss @ (taught - ceiling)) <= 1e-10
    expected = reference.moments(student.h_w, student.h_s, student.y)
    for name in ("ww", "ss", "sw", "wy", "sy", "yy"):
        assert entrywise_error(getattr(found.moments, name), expected[name]) <= 1e-10


@pytest.mark.everything
def test_the_outcome_is_the_theorem_on_the_trials_moments(x64):
    """The predicted gap is that of moments with `b = beta + gamma`, and with gamma left out `b = beta`."""
    family, sizes, ridges = gaussian(1, Tail(0.01, 500), Tail(0.02, 400), 0.1), (50, 80), (0.1, 0.2)
    trial = jax.jit(run_trial, static_argnums=(2, 3))(KEY, family, *sizes, *ridges)
    m, found = trial.moments, simulation.outcome(trial)

    def expected(b_w: float, b_s: float) -> float:
        lost = m.sy - m.sw @ np.linalg.solve(m.ww + b_w * np.eye(3), m.wy)
        theta = np.linalg.solve(m.ss + b_s * np.eye(4), lost)
        return theta @ m.ss @ theta

    assert relative_error(found.theorem, expected(0.1 + 0.01 * 500 / 50, 0.2 + 0.02 * 400 / 80)) <= 1e-10
    assert relative_error(found.theorem_without_gamma, expected(0.1, 0.2)) <= 1e-10


def mean_and_error(x: jax.Array) -> tuple[float, float]:
    x = np.asarray(x, np.float64)
    return float(np.mean(x)), float(stats.sem(x))


@pytest.mark.everything
def test_ridgeless_subspaces_have_their_closed_errors():
    """Errors of heads without ridge on Gaussian subspaces (Dong et al. 2025, exact form), noise included."""
    d_s, d_w, n, N, overlap = 5, 20, 60, 40, 2.75
    drawn = simulate(jax.random.split(KEY, 3000), subspaces(d_s, d_w, overlap), n, N, 0.0, 0.0)
    student = (overlap + d_s / (N - d_s - 1) * (d_w - overlap)) / (n - d_w - 1)
    expected = d_w / (n - d_w - 1), student, d_s / (N - d_s - 1)
    for found, value in zip(drawn[:3], expected, strict=True):
        mean, error = mean_and_error(found)
        assert abs(mean - value) <= 3.5 * error and error <= 0.02 * value


@pytest.mark.everything
def test_means_are_the_deterministic_equivalents():
    """Single precision has no bias: the mean of many trials of a spiked family is the equivalent's."""
    n = 250
    family = spiked(jax.random.key(1), n, 5 * n, noise=0.25)
    drawn = simulate(jax.random.split(KEY, 400), family, n, n, 0.1, 0.1)
    equivalent = deterministic_equivalent(family.population, n, n, 0.1, 0.1).to_dict()
    for name in ("weak_error", "student_error", "ceiling_error", "gap"):
        mean, error = mean_and_error(getattr(drawn, name))
        assert abs(mean - float(equivalent[name])) <= 3 * error + 0.01 * mean  # the equivalent's own error at this n


@pytest.mark.everything
def test_the_theorem_needs_gamma_and_gains_with_rows():
    """On tails of width n^1.5 its error falls like n^-1/2; gamma left out, it stays wrong."""
    errors = []
    for n in (250, 1000):
        drawn = simulate(jax.random.split(KEY, 400), spiked(jax.random.key(1), n, round(n**1.5)), n, n, 0.1, 0.1)
        errors.append(np.median(np.abs(drawn.theorem / drawn.gap - 1)))
        assert np.median(drawn.theorem_without_gamma / drawn.gap) > 1.3
    assert errors[1] <= 0.65 * errors[0] <= 0.1


TRACED = {
    "tails": lambda: gaussian(0, Tail(0.01, 900), Tail(0.02, 400), 0.1),
    "relu": lambda: random_features(KEY, 3, 4, 6, noise=0.1),
}


def all_of(family: GaussianFamily | ReluFamily, key: jax.Array, ridges: jax.Array) -> jax.Array:
    return jnp.stack(simulation.outcome(run_trial(key, family, 20, 30, ridges[0], ridges[1])))


@pytest.mark.everything
def test_batches_change_nothing():
    """Trials are the same in batches, the last one filled up, and mapped over by hand."""
    family, keys, ridges = TRACED["tails"](), jax.random.split(KEY, 50), jnp.array([0.1, 0.2])
    batches = simulate(keys, family, 20, 30, 0.1, 0.2, batch=16)
    assert isinstance(batches, Outcome) and batches.gap.shape == (50,)
    mapped = jax.jit(jax.vmap(partial(all_of, family), (0, None)))(keys[-5:], ridges).T
    assert entrywise_error(jnp.stack(batches)[:, -5:], mapped) <= 1e-5


@pytest.mark.everything
def test_derivatives_in_the_ridges_are_finite_differences(x64):
    """With the randomness held fixed every outcome is differentiable in the ridges."""
    family = gaussian(0, None, Tail(0.02, 400), 0.1)
    assert derivative_error(lambda ridges: all_of(family, KEY, ridges), np.array([0.1, 0.2])) <= 1e-7


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("name", TRACED)
def test_trials_export_for_every_platform(name):
    """Nothing calls back to the host."""
    keys = jax.random.split(KEY, 3)
    function = jax.jit(lambda family, keys, ridge: simulate(keys, family, 20, 30, ridge, ridge))
    exported = export.export(function, platforms=("cpu", "cuda", "tpu"))(TRACED[name](), keys, 0.1)
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}


def test_new_numbers_compile_nothing():
    """Other ridges, weights, noise, tails and keys run the same program."""
    programs = set()
    for seed, (v, width, ridge) in enumerate([(0.01, 900, 0.1), (0.02, 700, 0.3)]):
        family = gaussian(seed, Tail(v, width), Tail(v, width), 0.1 * v)
        simulate(jax.random.split(jax.random.key(seed), 50), family, 20, 30, ridge, ridge, batch=16)
        programs.add(simulation._simulate._cache_size())
    assert len(programs) == 1


def test_another_measure_is_kept_instead():
    """`measure` sees the whole trial: its moments, ridges and gammas come back with the trials in front."""
    family, measure = gaussian(0, Tail(0.01, 900), None), lambda trial: (trial.moments.sw, trial.gamma_w, trial.gamma_s)
    kept = simulate(jax.random.split(KEY, 3), family, 20, 30, 0.1, 0.2, measure=measure)
    assert kept[0].shape == (3, 4, 3)
    np.testing.assert_allclose(kept[1], 0.01 * 900 / 20, rtol=1e-6)
    np.testing.assert_array_equal(kept[2], 0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(n_labelled=0), "n_labelled must be an integer of at least 1, got 0"),
        (dict(n_student=2.5), "n_student must be an integer of at least 1, got 2.5"),
        (dict(weak_ridge=-1.0), "weak_ridge must be at least 0, got -1"),
        (
            dict(strong_ridge=0.0),
            "strong_ridge must be positive where the strong tail is narrower than its 30 rows, got 0",
        ),
        (dict(keys=KEY), r"keys must be one random key per trial, got key<fry> of shape \(\)"),
        (dict(batch=0), "batch must be an integer of at least 1, got 0"),
    ],
)
def test_bad_input_is_one_sentence(change, sentence, unchecked):
    """Which argument, what was expected, what came."""
    family = gaussian(0, None, Tail(0.1, 29))
    arguments = dict(n_labelled=20, n_student=30, weak_ridge=0.0, strong_ridge=0.1) | change
    with pytest.raises(InputError, match=sentence):
        simulate(family=family, **{"keys": jax.random.split(KEY, 2)} | arguments)
