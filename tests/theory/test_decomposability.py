"""The five conditions against dense n x n kernels, and constructed representations that break one on purpose."""

from __future__ import annotations

import json
from functools import lru_cache

import jax
import numpy as np
import pytest
import reference
from conftest import entrywise_error, quickly, relative_error
from jax import export

from w2s_jax import InputError, model_moments, moments, principal_rank
from w2s_jax.theory.conditions import Quantities, measure, prepare_kernel, prepare_rows
from w2s_jax.theory.decomposability import DecomposabilityReport, decomposability, decomposability_from_moments

RANKS = np.array([0, 1, 3, 6])
# n, m, d, bias: more features than rows in all, as many as one split has rows, fewer.
SHAPES = [pytest.param(24, 40, 100, True, marks=pytest.mark.everything), (24, 40, 24, False), (64, 40, 12, True)]


def decaying(n: int, m: int, d: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Two splits of one representation whose spectrum decays geometrically, off centre, and two outputs of labels each."""
    rng = np.random.default_rng(seed)
    mixing = 0.8 ** np.arange(d)[:, None] * np.linalg.qr(rng.standard_normal((d, d)))[0]
    h = [(rng.standard_normal((rows, d)) @ mixing + 0.1) for rows in (n, m)]
    y = [x[:, :2] + rng.standard_normal((len(x), 2)) for x in h]
    return *h, *y


def covariance(d: int, seed: int = 0) -> np.ndarray:
    """The covariance of `decaying`."""
    mixing = 0.8 ** np.arange(d)[:, None] * np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]
    return mixing.T @ mixing


def measured(h_labelled, h_student, y_labelled, y_student, sigma=None, bias=False) -> Quantities:
    """The numeric core at all ranks of RANKS."""
    (n, d), m = h_labelled.shape, h_student.shape[0]
    through = prepare_kernel if d > n + m and sigma is None else prepare_rows
    prepared = through(h_labelled, h_student, (y_labelled, y_student), sigma, bias)
    return measure(prepared, RANKS, (n - bias, m - bias), sigma is not None)


def expected(*data, **options) -> Quantities:
    """What the reference measures at each rank, stacked."""
    by_rank = [reference.decomposability(*data[:2], int(k), *data[2:], **options) for k in RANKS]
    stacked = {name: np.stack([r[name] for r in by_rank], -1) for name in Quantities._fields}
    return Quantities(**stacked | {name: by_rank[0][name] for name in ("norms", "energies")})


def relative_energies(q: Quantities) -> Quantities:
    """Label energies up to their unit, of which only ratios count."""
    return q._replace(energies=q.energies / q.energies[0])


def compare(found: Quantities, wanted: Quantities, bound: float) -> None:
    pairs = zip(Quantities._fields, relative_energies(found), relative_energies(wanted), strict=True)
    errors = {name: entrywise_error(x, y) for name, x, y in pairs}
    assert max(errors.values()) <= bound, errors


@pytest.mark.everything
@pytest.mark.parametrize(("n", "m", "d", "bias"), SHAPES)
def test_quantities_are_those_of_the_reference(n, m, d, bias, x64):
    """Every number of every condition is that of n x n kernels and projections, on either side of n = d."""
    data = decaying(n, m, d)
    compare(measured(*data, bias=bias), expected(*data, bias=bias), 1e-10)


@pytest.mark.everything
def test_single_precision_is_enough():
    """In float32 they are right to five digits, through the Gram matrix of the rows too."""
    data = [x.astype(np.float32) for x in decaying(24, 40, 100)]
    compare(measured(*data), expected(*data), 2e-5)


@pytest.mark.everything
def test_a_known_covariance_replaces_its_estimates(x64):
    """With Sigma given, V is its leading eigenspace, deviations are from it, and its tail is its own."""
    data, sigma = decaying(24, 40, 32), covariance(32)
    compare(measured(*data, sigma=sigma), expected(*data, population=sigma), 1e-10)


def test_estimated_deviations_have_the_size_of_the_true_ones():
    """The difference of two splits, shared out, is on average what each is off from Sigma, for unequal splits too."""
    estimates, truths = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        a, b = (h.T @ h / len(h) for h in (rng.standard_normal((n, 5)) for n in (100, 300)))
        estimates.append([np.sqrt(share) * np.linalg.norm(a - b, 2) for share in (300 / 400, 100 / 400)])
        truths.append([np.linalg.norm(s - np.eye(5), 2) for s in (a, b)])
    assert relative_error(np.mean(estimates, 0), np.mean(truths, 0)) <= 0.1


# Constructed representations

N = 250


def tail(rng: np.random.Generator, gamma: float, ratio: float) -> np.ndarray:
    """2N rows in 2N features whose Gram matrix is exactly that of an isotropic Gaussian tail of width ratio * N.

    The triangular factor of a Wishart matrix (Bartlett); gamma is the tail's on N rows.
    """
    rows = np.tril(rng.standard_normal((2 * N, 2 * N)), -1)
    rows += np.diag(np.sqrt(rng.chisquare(ratio * N - np.arange(2 * N))))
    return rows * np.sqrt(gamma / ratio)


def spiked(seed: int, ratio: float, spikes: tuple[float, ...] = (1.0, 0.9), gamma: float = 0.2) -> tuple:
    """Spikes of the given standard deviations, of unit covariance on each split before, and a tail: two splits of N rows."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((2, N, len(spikes)))
    latent = np.concatenate([np.linalg.qr(z)[0] * np.sqrt(N) for z in latent])
    h = np.concatenate([latent * spikes, tail(rng, gamma, ratio)], 1)
    return h[:N].astype(np.float32), h[N:].astype(np.float32)


def low_dimensional(seed: int, n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Six directions of equal variance and nothing else."""
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal((rows, 6)).astype(np.float32) for rows in (n, m))


@lru_cache
def report_of_spikes(seed: int, ratio: float) -> DecomposabilityReport:
    return decomposability(*spiked(seed, ratio))


@pytest.mark.everything
@pytest.mark.parametrize("seed", range(3))
def test_a_wide_isotropic_tail_is_decomposable_with_its_gamma(seed):
    """Spikes in a tail 200 n wide: V is the spikes, all conditions hold, delta is 0, gamma is that of the tail."""
    report = report_of_spikes(seed, 200.0)
    assert report.broken == () and report.holds and report.rank == 2 and report.delta == 0
    for gamma in (report.gamma_labelled, report.gamma_student):
        assert relative_error(gamma * report.scale, 0.2) <= 0.02


@pytest.mark.parametrize("seed", quickly(range(3), 0))
def test_the_tail_measured_is_the_tail_put_in(seed):
    """PCA's V leaves the norms of the true tail's kernels, to 15% of them, and the population's variance, to 30%.

    Cutting V off without giving back its share would leave kernels gamma / 2 away from gamma I.
    """
    report = report_of_spikes(seed, 200.0)
    rows = tail_of(seed, 200.0)
    a, b = rows[:N], rows[N:]
    isotropy = max(np.linalg.norm(t @ t.T / N - 0.2 * np.eye(N), 2) for t in (a, b))
    crossing = np.linalg.norm(a @ b.T / N, 2)
    assert relative_error(report.conditions[2].value * report.scale, isotropy) <= 0.15
    assert relative_error(report.conditions[3].value * report.scale, crossing) <= 0.15
    assert relative_error(report.conditions[4].value * report.scale, 0.2 / 200) <= 0.3


def tail_of(seed: int, ratio: float) -> np.ndarray:
    """The tail of `spiked`."""
    rng = np.random.default_rng(seed)
    rng.standard_normal((2, N, 2))
    return tail(rng, 0.2, ratio)


@pytest.mark.everything
@pytest.mark.parametrize("seed", range(3))
def test_low_intrinsic_dimension_is_decomposable_without_gamma(seed):
    """Six directions, 2000 rows: V is everything, gamma and delta are 0."""
    report = decomposability(*low_dimensional(seed, 2000, 2000))
    assert report.broken == () and report.rank == 6 and report.delta == 0
    assert report.gamma_labelled == report.gamma_student == 0


def test_a_proportional_tail_is_not_isotropic():
    """A tail twice as wide as n breaks conditions 3 and 4, and neither boundedness nor concentration."""
    report = report_of_spikes(0, 2.0)
    assert report.rank == 2 and {3, 4} <= set(report.broken) <= {3, 4, 5}


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_a_power_law_has_no_isotropic_tail(power):
    """A spectrum j^-p has no gap to cut at: the tail is not isotropic, inner products and variances stay large."""
    rng = np.random.default_rng(0)
    h = (rng.standard_normal((2 * N, 2 * N)) * np.arange(1, 2 * N + 1) ** (-power / 2)).astype(np.float32)
    report = decomposability(h[:N], h[N:])
    assert report.broken == (3, 4, 5) and report.delta > 0.3


@pytest.mark.everything
def test_a_subspace_too_small_breaks_the_tail():
    """V of one direction where there are six: 3, 4 and 5 are broken, concentration is not."""
    report = decomposability(*low_dimensional(0, 2000, 2000), rule="rank", level=1)
    assert report.rank == 1 and report.broken == (3, 4, 5)


def test_too_few_rows_do_not_concentrate():
    """Twenty rows for six directions break condition 2 alone, though V is everything."""
    report = decomposability(*low_dimensional(0, 20, 20))
    assert report.broken == (2,) and report.rank == 6


def test_splits_of_different_distributions_do_not_concentrate():
    """One feature at .4 of its size on the student's split breaks condition 2 alone; in a wide tail's presence too."""
    a, b = low_dimensional(0, 2000, 2000)
    assert decomposability(a, b * np.float32([0.4, 1, 1, 1, 1, 1])).broken == (2,)
    a, b = spiked(0, 200.0)
    factor = np.ones(b.shape[1], np.float32)
    factor[0] = 0.4
    assert decomposability(a, b * factor).broken == (2,)


@pytest.mark.parametrize("seed", quickly(range(3), 0))
def test_a_heavy_tailed_feature_is_unbounded(seed):
    """A Cauchy feature breaks condition 1: the norms of the splits differ by far, and no delta helps."""
    rng = np.random.default_rng(seed)
    a, b = low_dimensional(seed, 2000, 2000)
    a[:, 0], b[:, 0] = rng.standard_cauchy((2, 2000))
    report = decomposability(a, b)
    assert 1 in report.broken and report.delta == np.inf


@pytest.mark.everything
def test_a_heavy_label_is_unbounded():
    """One label of 10^3 among 2000 breaks condition 1, through the label energies."""
    a, b = low_dimensional(0, 2000, 2000)
    y_a, y_b = a[:, 0], b[:, 0].copy()
    assert decomposability(a, b, y_a, y_b).broken == ()
    y_b[7] = 1e3
    report = decomposability(a, b, y_a, y_b)
    assert report.broken == (1,) and report.conditions[0].parts["label energies"] > 100


# The choice of V, delta and units


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("ratio", [2.0, 200.0])
def test_delta_is_the_least_ridge_with_which_all_hold(ratio):
    """Heads of ridge delta make every condition hold at some V; slightly less does not."""
    a, b = spiked(1, ratio)
    delta, scale = (getattr(decomposability(a, b, tolerance=0.02), name) for name in ("delta", "scale"))
    assert delta > 0
    assert decomposability(a, b, tolerance=0.02, ridge=1.001 * delta * scale).holds
    assert not decomposability(a, b, tolerance=0.02, ridge=0.999 * delta * scale).holds


@pytest.mark.parametrize("scale", [1e-15, 1e-6, 1e6, 1e15])
def test_units_do_not_matter(scale):
    """A representation times c, and labels times another, have the same report but for the scale, times c^2."""
    data = [*low_dimensional(0, 300, 200), *(h[:, 0] for h in low_dimensional(1, 300, 200))]
    plain = decomposability(*data)
    c = 2.0 ** np.round(np.log2(scale))
    report = decomposability(*(h * np.float32(c) for h in data[:2]), *(y * np.float32(1 / c) for y in data[2:]))
    assert report.scale == pytest.approx(plain.scale * c**2, rel=1e-5)
    assert (report.rank, report.broken) == (plain.rank, plain.broken)
    for one, other in zip(report.conditions, plain.conditions, strict=True):
        assert one.parts == pytest.approx(other.parts, rel=1e-5)


@pytest.mark.parametrize(
    ("rule", "level"), [("rank", 3), ("threshold", 0.2), ("explained_variance", 0.9), ("hard_threshold", None)]
)
def test_named_rules_choose_the_rank_of_the_pooled_spectrum(rule, level):
    """V has the dimension that `principal_rank` gives for the eigenvalues of all rows."""
    rng = np.random.default_rng(0)
    values = np.array([8, 6, 4, 2, 0.9, 0.8], np.float32)
    h = (np.linalg.qr(rng.standard_normal((400, 6)))[0] * np.sqrt(400 * values)).astype(np.float32)
    report = decomposability(h[:150], h[150:], rule=rule, level=level)
    assert report.ranks.tolist() == [report.rank] == [principal_rank(values, rule, level, n=400, d=6)]
    assert report.scale == pytest.approx(8, rel=1e-5)


# From moments, transformations, what is printed, bad input


@pytest.mark.everything
def test_moments_are_as_good_as_rows():
    """Centred second moments of both splits give the same report as the rows."""
    bias = True
    h_labelled, h_student, y_labelled, y_student = (x.astype(np.float32) for x in decaying(64, 40, 12))
    labelled, student = (model_moments(h, y, bias=bias) for h, y in ((h_labelled, y_labelled), (h_student, y_student)))
    report = decomposability_from_moments(labelled, student)
    wanted = decomposability(h_labelled, h_student, y_labelled, y_student, bias=bias)
    assert (report.rank, report.broken, report.rows) == (wanted.rank, wanted.broken, wanted.rows)
    assert report.scale == pytest.approx(wanted.scale, rel=1e-5)
    for one, other in zip(report.conditions, wanted.conditions, strict=True):
        assert one.parts == pytest.approx(other.parts, rel=2e-5)


def core(h_labelled, h_student, y_labelled, y_student):
    """The numeric core as one function of arrays."""
    return measured(h_labelled, h_student, y_labelled, y_student)


@pytest.mark.everything
def test_vmap_equals_a_loop():
    """A leading axis of representations, in float32, gives what the reference gives for each."""
    batch = [[x.astype(np.float32) for x in decaying(64, 40, 12, seed)] for seed in range(3)]
    found = jax.jit(jax.vmap(core))(*(np.stack(arrays) for arrays in zip(*batch, strict=True)))
    for i, data in enumerate(batch):
        compare(jax.tree.map(lambda x: x[i], found), expected(*data), 2e-5)


@pytest.mark.parametrize("d", [12, 120])
def test_the_core_exports_for_every_platform(d):
    """It lowers for CPU, CUDA and TPU from any of them."""
    data = [x.astype(np.float32) for x in decaying(64, 40, d)]
    exported = export.export(jax.jit(core), platforms=("cpu", "cuda", "tpu"))(*data)
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}


def test_a_report_prints_a_sentence_per_condition():
    """It names each condition, its number, its allowance and whether it holds, and converts to plain JSON."""
    report = report_of_spikes(0, 2.0)
    text = str(report)
    for condition in report.conditions:
        assert condition.sentence in text and condition.name in text
        assert condition.sentence.startswith("holds" if condition.holds else "does not hold")
        assert f"{condition.value:.3g}" in condition.sentence and f"{condition.allowance:.3g}" in condition.sentence
    assert text.startswith("not decomposable (condition 3")
    plain = json.loads(json.dumps(report.to_dict()))
    assert [c["number"] for c in plain["conditions"] if not c["holds"]] == list(report.broken)
    assert plain["ratios"] == report.ratios.tolist() and plain["rank"] == report.rank


H = np.random.default_rng(0).standard_normal((12, 3)).astype(np.float32)
BAD = {
    "h_labelled and h_student must have the same number of features, got 3 and 2": dict(h_student=H[:, :2]),
    r"h_labelled must be 2-D \(rows, features\), got shape \(12,\)": dict(h_labelled=H[:, 0]),
    "h_student contain 1 NaN or infinite value, in row 2": dict(
        h_student=np.where(np.arange(36).reshape(12, 3) == 7, np.nan, H)
    ),
    "y_labelled and y_student must both be given or neither": dict(y_labelled=H[:, 0]),
    "y_labelled and y_student must have the same outputs": dict(y_labelled=H[:, 0], y_student=H),
    r"population must be a covariance \(3, 3\), got shape \(12, 3\)": dict(population=H),
    "rule must be 'tightest', 'threshold', 'rank', 'explained_variance' or 'hard_threshold', got 'best'": dict(
        rule="best"
    ),
    "rule 'threshold' needs a level, got None": dict(rule="threshold"),
    "ridge must be at least 0, got -1": dict(ridge=-1.0),
    "tolerance must be positive, got 0": dict(tolerance=0.0),
    "representations must vary, got a covariance of zeros": dict(h_labelled=H * 0 + 1, h_student=H * 0 + 1, bias=True),
    "each split must have at least two rows to be centred, got 1 and 12": dict(h_labelled=H[:1], bias=True),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_answered_in_one_sentence(message, unchecked):
    """The argument, what was expected and what came."""
    with pytest.raises(InputError, match=message):
        decomposability(**dict(h_labelled=H, h_student=H) | BAD[message])


def test_bad_moments_are_answered_in_one_sentence(unchecked):
    """Widths, kinds, and a pair in the place of one side."""
    m = model_moments(H)
    for message, arguments in {
        "labelled must be ModelMoments of one model, got Moments": (moments(H, H), m),
        "must have the same width, got 3 and 2 features": (m, model_moments(H[:, :2])),
        "must both have labels or none, and both be centred or none": (m, model_moments(H, bias=True)),
    }.items():
        with pytest.raises(InputError, match=message):
            decomposability_from_moments(*arguments)
