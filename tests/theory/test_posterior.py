"""The posterior of labels and the experiment under it: the formula on rows, labels of any number, groups, transformations."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import derivative_error, entrywise_error, pair, quickly, relative_error
from jax import export

from w2s_jax._core.checks import InputError
from w2s_jax.moments import model_moments, moments
from w2s_jax.theory import (
    expected_experiment,
    group_moments,
    label_posterior,
    label_posterior_from_moments,
    posterior_experiment,
)

PRIORS, SHARES = (1.0, 1.5, 2.0), (0.05, 0.3, 0.8)
GRID = {"priors": PRIORS, "shares": SHARES, "correlations": (-0.5, 0.0, 1.5)}
N, D_W, D_S = 60, 12, 20
DRAWS = 25
PARTS = [slice(0, 24), slice(24, 44), slice(44, 60)]


def given(m: int, outputs: int = 2, dtype: type = np.float64):
    """Weak and strong rows about their mean, the first m of them with labels about theirs, and groups of one to three rows."""
    h_w, h_s, y = pair("generic", N, D_W, D_S, dtype=dtype)
    groups = np.sort(np.random.default_rng(1).integers(0, N // 2, N))
    h_w, h_s = (h - h.mean(0, dtype=np.float64).astype(dtype) for h in (h_w, h_s))
    y = y[:m, 0] if outputs == 1 else y[:m]
    return h_w, h_s, y - y.mean(0), groups


def blocks_of(h_w: np.ndarray, h_s: np.ndarray) -> list:
    return [moments(h_w[part], h_s[part]) for part in PARTS]


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("related", [False, True])
@pytest.mark.parametrize(("m", "outputs"), [(10, 2), (19, 1), (20, 2), (60, 1)])
def test_the_posterior_experiment(m, outputs, related, dtype):
    """Fewer labels than features or more, from rows or moments: `tr M (mu mu^T + Sigma) + v (1 - R) N` on rows."""
    h_w, h_s, y, groups = given(m, outputs, dtype)
    of_labels, of_weak = (groups[:m], groups[PARTS[0]]) if related else (None, None)
    grid = PRIORS, SHARES, GRID["correlations"] if related else (0.0,)
    points = reference.label_posterior(h_s, h_s[:m], y, grid, of_labels)
    rows = [[h[part] for part in PARTS] for h in (h_w, h_s)]
    expected = reference.posterior_experiment(*map(tuple, rows), 0.1, 0.2, points, of_weak)
    strong = model_moments(h_s)
    between = group_moments(h_s[:m], y, groups=of_labels) if related else None
    weak_groups = group_moments(h_w[PARTS[0]], groups=of_weak) if related else None
    for posterior in (
        label_posterior(strong, h_s[:m], y, groups=of_labels, **GRID),
        label_posterior_from_moments(strong, model_moments(h_s[:m], y), groups=between, **GRID),
    ):
        found = posterior_experiment(*blocks_of(h_w, h_s), 0.1, 0.2, posterior, groups=weak_groups)
        assert relative_error(np.array(found), np.array(expected)) <= (1e-10 if dtype == np.float64 else 1e-5)
        noise = sum(weight * noise for weight, _, _, noise, _ in points)
        assert relative_error(posterior.noise, noise) <= (1e-10 if dtype == np.float64 else 1e-5)


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("m", [10, 30])
@pytest.mark.parametrize("related", [False, True])
def test_heads_with_an_intercept(m, related, x64):
    """Centred moments of rows far from 0: strong rows about the mean of all, labels about their own."""
    h_w, h_s, y, groups = given(m)
    moved = partial(np.add, 5.0)
    of_labels = groups[:m] if related else None
    expected = label_posterior(model_moments(h_s), h_s[:m], y, groups=of_labels)
    strong = model_moments(moved(h_s), bias=True)
    labels = model_moments(moved(h_s[:m]), moved(y), bias=True)
    between = group_moments(moved(h_s[:m]), moved(y), groups=of_labels, bias=True) if related else None
    for found in (
        label_posterior(strong, moved(h_s[:m]), moved(y), groups=of_labels),
        label_posterior_from_moments(strong, labels, groups=between),
    ):
        assert entrywise_error(found.second, expected.second) <= 1e-9
        assert relative_error(found.shared, expected.shared, float(expected.noise)) <= 1e-9
    centred = [moments(moved(h_w[part]), moved(h_s[part]), bias=True) for part in PARTS]
    about = [[h[part] - h[part].mean(0) for part in PARTS] for h in (h_w, h_s)]
    plain = [moments(*rows) for rows in zip(*about, strict=True)]
    weak = [
        None if of_labels is None else group_moments(rows, groups=groups[PARTS[0]], bias=bias)
        for rows, bias in ((moved(h_w[PARTS[0]]), True), (about[0][0], False))
    ]
    found, expected = (
        posterior_experiment(*blocks, 0.1, 0.2, expected, groups=of_groups)
        for blocks, of_groups in zip((centred, plain), weak, strict=True)
    )
    assert relative_error(np.array(found), np.array(expected)) <= 1e-9


@pytest.mark.parametrize(("least", "counted"), [(0.0, SHARES), (0.2, SHARES[1:]), (0.9, SHARES[2:])])
def test_without_labels_it_is_the_expected_experiment_averaged(least, counted, x64):
    """Over all p and all R that are large enough alike, in units of the labels' mean square, which is signal and noise."""
    h_w, h_s, _, _ = given(10)
    blocks = blocks_of(h_w, h_s)
    posterior = label_posterior(model_moments(h_s), priors=PRIORS, shares=SHARES, least_share=least)
    found = posterior_experiment(*blocks, 0.1, 0.2, posterior)
    each = [
        R * np.array(expected_experiment(*blocks, 0.1, 0.2, prior=p, noise=(1 - R) / R))
        for p in PRIORS
        for R in counted
    ]
    assert relative_error(np.array(found), np.mean(each, 0)) <= 1e-10
    assert relative_error(posterior.signal, np.mean(counted)) <= 1e-10
    assert relative_error(posterior.noise, 1 - np.mean(counted)) <= 1e-10
    assert relative_error(posterior.share, np.mean(SHARES)) <= 1e-10


def test_it_learns_what_the_labels_are(x64):
    """Of labels that the strong model expresses whole, or not at all, or in its leading directions."""
    rng = np.random.default_rng(0)
    h = rng.standard_normal((400, 30)) * np.arange(1, 31.0) ** -0.75
    strong, noise = model_moments(h), rng.standard_normal(400)
    leading, blind = h[:, 0] + 0.01 * noise, noise
    assert label_posterior(strong, h, leading).share > 0.9
    unseen = label_posterior(strong, h, blind)
    assert unseen.share < 0.1
    assert unseen.signal >= 0.53 * unseen.noise  # R = .35 is the least that teachers are told apart by
    plain = label_posterior(strong, h, blind, least_share=0)
    assert plain.share == unseen.share == pytest.approx(plain.signal / (plain.signal + plain.noise))
    few = label_posterior(strong, h[:15], leading[:15])
    assert few.second[0, 0] > 0.8
    assert label_posterior(strong, h[:15], 3 * leading[:15]).signal == pytest.approx(9 * few.signal)


@pytest.mark.everything
def test_it_differentiates_and_maps(x64):
    """Gradients in all representations and in the labels are finite differences, and vmap is a loop."""
    h_w, h_s, y, groups = given(15)

    def errors(arrays: tuple, m: int = 15) -> jax.Array:
        h_w, h_s, y = arrays
        posterior = label_posterior(model_moments(h_s), h_s[:m], y[:m], groups=groups[:m], **GRID)
        return jnp.stack(posterior_experiment(*blocks_of(h_w, h_s), 0.1, 0.2, posterior))

    assert derivative_error(errors, (h_w, h_s, y)) <= 1e-6
    strong, labels = model_moments(h_s), jnp.stack([y, y[::-1]])
    one = lambda y: label_posterior_from_moments(strong, model_moments(h_s[:15], y), **GRID).second
    assert relative_error(jax.vmap(one)(labels)[1], one(labels[1]), 1e-3) <= 1e-10
    assert derivative_error(lambda h: one(h[1] @ jnp.ones((20, 1))), jnp.stack([h_s[:15]] * 2)) <= 1e-6


@pytest.mark.everything(but=1)
def test_labels_that_are_all_alike_are_finite(dtype):
    """Nothing to learn and nothing to teach: no error, and no NaN."""
    h_w, h_s, _, _ = given(10, dtype=dtype)
    for m in (1, 10, 30):
        posterior = label_posterior(model_moments(h_s, bias=True), h_s[:m], np.ones(m, dtype))
        error, gap = posterior_experiment(*blocks_of(h_w, h_s), 0.1, 0.2, posterior)
        assert float(error) == pytest.approx(0, abs=1e-6)
        assert float(gap) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("labels", quickly(["none", "some"], "some"))
def test_planned_rows_are_the_mean_of_many_draws(labels, x64):
    """Fewer and more rows than features: the mean over draws of rows of the experiment's closed form, to some percent."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((24, 16)) * np.arange(1, 17.0) ** -0.5
    rows = lambda n: rng.standard_normal((n, 16)) * np.arange(1, 17.0) ** -0.7
    weak_of = lambda h: h @ mix.T + 0.5 * rng.standard_normal((len(h), 24))
    h_s = rows(20000)
    h_w, few = weak_of(h_s), h_s[:40]
    population = moments(h_w, h_s)
    y = few[:, 1] + 0.3 * rng.standard_normal(40)
    posterior = label_posterior(population.strong, *(() if labels == "none" else (few, y)))
    n_labelled, n_student = np.array([[12], [40], [200]]), np.array([30, 100])
    found, gap = posterior_experiment(
        *[population] * 3, 0.02, 0.05, posterior, n_labelled=n_labelled, n_student=n_student
    )
    assert found.shape == gap.shape == (3, 2)
    for i, j in ((0, 0), (1, 1), (2, 0)):
        draws = []
        for _ in range(DRAWS):
            A, B = rows(n_labelled[i, 0]), rows(n_student[j])
            blocks = moments(weak_of(A), A), moments(weak_of(B), B), population
            draws.append(posterior_experiment(*blocks, 0.02, 0.05, posterior))
        spread = np.std(draws, 0) / np.sqrt(DRAWS)
        assert np.all(np.abs(np.mean(draws, 0) - [found[i, j], gap[i, j]]) < 4 * spread + 0.03 * np.mean(draws, 0))
    assert np.all(np.diff(found, axis=0) < 0)  # more labels, smaller errors


@pytest.mark.everything
def test_planned_rows_of_the_expected_experiment(x64):
    """One prior and noise are a posterior of one point; a number that is not planned is that of the rows there."""
    h_w, h_s, _, _ = given(10)
    blocks = blocks_of(h_w, h_s)
    posterior = label_posterior(model_moments(h_s), priors=(1.5,), shares=(0.4,))
    found = expected_experiment(*blocks, 0.1, 0.2, prior=1.5, noise=1.5, n_labelled=500)
    expected = posterior_experiment(*blocks, 0.1, 0.2, posterior, n_labelled=500, n_student=20)
    assert relative_error(0.4 * np.array(found), np.array(expected)) <= 1e-10
    run = lambda h_w: jnp.stack(expected_experiment(*blocks_of(h_w, h_s), 0.1, 0.2, n_labelled=50))
    assert derivative_error(run, h_w) <= 1e-6


def test_it_exports_for_every_platform():
    """It lowers for CPU, CUDA and TPU from any of them."""
    h_w, h_s, y, _ = given(30, dtype=np.float32)
    m, labels = moments(h_w, h_s), model_moments(h_s[:30], y)
    run = lambda m, labels: posterior_experiment(m, m, m, 0.1, 0.1, label_posterior_from_moments(m.strong, labels))
    exported = export.export(jax.jit(run), platforms=("cpu", "cuda", "tpu"))(m, labels)
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}


def test_bad_input_is_named(unchecked):
    """Labels without rows, moments of another kind or width, values out of range."""
    h_w, h_s, y, groups = given(10, dtype=np.float32)
    m, strong = moments(h_w, h_s), model_moments(h_s)
    posterior = label_posterior(strong)
    cases = {
        r"h and y must both be given": lambda: label_posterior(strong, h_s[:10]),
        r"strong and labels must be ModelMoments, got Moments": lambda: label_posterior(m),
        r"must have the same width, got 20 and 12": lambda: label_posterior(strong, h_w[:10], y),
        r"groups must have shape \(10,\)": lambda: label_posterior(strong, h_s[:10], y, groups=groups),
        r"labels must have labels": lambda: label_posterior_from_moments(strong, strong),
        r"labels must .* be centred as": lambda: label_posterior_from_moments(
            strong, model_moments(h_s[:10], y, bias=True)
        ),
        r"groups say how labelled rows are related": lambda: label_posterior_from_moments(
            strong, groups=group_moments(h_s[:10], y, groups=groups[:10])
        ),
        r"priors must be at least 0, got -1": lambda: label_posterior(strong, priors=(-1.0,)),
        r"priors must be a list of numbers, got shape \(\)": lambda: label_posterior(strong, priors=1.0),
        r"least_share must be between 0 and 1, got -0.1": lambda: label_posterior(strong, least_share=-0.1),
        r"least_share must be between 0 and 1, got 35": lambda: label_posterior(strong, least_share=35),
        r"least_share must be one number, got shape \(2,\)": lambda: label_posterior(strong, least_share=[0.1, 0.2]),
        r"shares must lie between 0 and 1, got 0 to 0.5": lambda: label_posterior(strong, shares=(0.0, 0.5)),
        r"correlations must be above -1, got -1": lambda: label_posterior(
            strong, h_s[:10], y, groups=groups[:10], correlations=(-1.0,)
        ),
        r"strong_ridge must be at least 0, got -1": lambda: posterior_experiment(m, m, m, 0.1, -1.0, posterior),
        r"posterior must be a LabelPosterior, got float": lambda: posterior_experiment(m, m, m, 0.1, 0.1, 1.0),
        r"posterior must be of 20 strong features, got 12": lambda: posterior_experiment(
            m, m, m, 0.1, 0.1, label_posterior(model_moments(h_w))
        ),
        r"n_student must be at least 1, got 0": lambda: posterior_experiment(m, m, m, 0.1, 0.1, posterior, n_student=0),
        r"n_labelled and n_student must broadcast, got shapes \(2,\) and \(3,\)": lambda: posterior_experiment(
            m, m, m, 0.1, 0.1, posterior, n_labelled=np.ones(2), n_student=np.ones(3)
        ),
        r"groups must be of 12 weak features, got 20": lambda: posterior_experiment(
            m, m, m, 0.1, 0.1, posterior, groups=group_moments(h_s, groups=groups)
        ),
    }
    for message, call in cases.items():
        with pytest.raises(InputError, match=message):
            call()
