"""Predictors against dense references written from their definitions, and what each is invariant under."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import subspace_angles
from scipy.optimize import minimize

import w2s_jax as w2s
from w2s_jax._core.factor import capped
from w2s_jax.predictors import PREDICTORS, PairView, Predictor, predictor, student_floor, variance_errors

N, D_W, D_S = 60, 7, 9
RIDGES = 0.05, 0.02
MOMENTS = {name: of for name, of in PREDICTORS.items() if of.reads == "moments"}  # the others: test_from_rows.py


def rows(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centred weak and strong representations with something in common, and two outputs."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((N, 5))
    h_w, h_s = (z @ rng.standard_normal((5, d)) + 0.5 * rng.standard_normal((N, d)) for d in (D_W, D_S))
    y = z[:, :2] + 0.3 * rng.standard_normal((N, 2))
    return tuple(x - x.mean(0) for x in (h_w, h_s, y))


def predicted(of: Predictor, h_w: np.ndarray, h_s: np.ndarray, y: np.ndarray) -> float:
    m = w2s.moments(h_w, h_s, y, bias=True)
    return float(of(m, w2s.ridge(RIDGES[0]), w2s.ridge(RIDGES[1])))


@jax.jit
def all_predicted(h_w: jax.Array, h_s: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
    """The numbers of all predictors that read moments."""
    m = w2s.moments(h_w, h_s, y, bias=True)
    pair = PairView(m, w2s.overlap_from_moments(m), w2s.ridge(RIDGES[0]), w2s.ridge(RIDGES[1]))
    return {name: of.function(pair) for name, of in MOMENTS.items()}


def numbers(*data: np.ndarray) -> dict[str, float]:
    return {name: float(value) for name, value in all_predicted(*data).items()}


def smoother(h: np.ndarray, ridge: float) -> np.ndarray:
    """The ridge head's map (n, n) from labels to outputs."""
    return h @ np.linalg.solve(h.T @ h / len(h) + ridge * np.eye(h.shape[1]), h.T) / len(h)


def leading(h: np.ndarray, share: float) -> np.ndarray:
    """Left singular vectors of the fewest directions with that share of the variance."""
    U, s, _ = np.linalg.svd(h, full_matrices=False)
    return U[:, : 1 + int(np.sum(np.cumsum(s**2) < share * np.sum(s**2)))]


def evidence(h: np.ndarray, y: np.ndarray) -> float:
    """The largest log evidence per row over both variances, from the labels' covariance."""
    centred = np.linalg.svd(np.ones((1, len(y))))[2][1:]  # a basis of what has no mean
    values, vectors = np.linalg.eigh(centred @ h @ h.T @ centred.T)
    y = centred @ y
    seen = (vectors.T @ y) ** 2

    def loss(logs: np.ndarray) -> float:
        spread = np.exp(logs[0]) * np.maximum(values, 0) + np.exp(logs[1])
        return float(np.sum(np.log(2 * np.pi * spread) + seen / spread)) / (2 * len(y))

    options = {"xatol": 1e-10, "fatol": 1e-14, "maxiter": 4000}
    found = (minimize(loss, start, method="Nelder-Mead", options=options).fun for start in ((0, 0), (-3, -1)))
    return -min(found)


def references(h_w: np.ndarray, h_s: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Every predictor by its definition on rows."""
    P_w, P_s, eye = smoother(h_w, RIDGES[0]), smoother(h_s, RIDGES[1]), np.eye(N)
    energy, square = np.sum(h_s**2), lambda x: float(np.sum(x**2))
    U = {share: [leading(h, share) for h in (h_w, h_s)] for share in (0.9, 0.99, 1 - 1e-12)}
    cosines = {share: np.linalg.svd(a.T @ b, compute_uv=False) for share, (a, b) in U.items()}
    S_w = h_w.T @ h_w / N
    values = np.linalg.eigvalsh(S_w)
    shares = values / values.sum()
    scale = np.sqrt(square(h_w) * square(h_s))
    return {
        "prior_gap": square(P_s @ (eye - P_w) @ h_s) / energy,
        "prior_error": square((eye - P_s @ P_w) @ h_s) / energy,
        "prior_misfit": square((eye - P_s) @ P_w @ h_s) / energy,
        "kept_variance": float(np.trace(h_s.T @ P_w @ h_s)) / energy,
        "gulp": square(P_w - P_s),
        "mean_cca": square(cosines[1 - 1e-12]) / min(D_W, D_S),
        "svcca": float(np.mean(cosines[0.99])),
        "largest_angle": float(subspace_angles(*U[0.9])[0]),
        "procrustes": 2 - 2 * float(np.sum(np.linalg.svd(h_s.T @ h_w, compute_uv=False))) / scale,
        "correlation_dimension": square(cosines[0.9]),
        "effective_rank": float(np.exp(-np.sum(shares * np.log(shares)))),
        "weak_participation_ratio": float(values.sum() ** 2 / square(values)),
        "label_error": square((eye - P_s @ P_w) @ y) / N,
        "misfit": square((eye - P_s) @ P_w @ y) / N,
        "kernel_alignment": float(np.trace(y.T @ h_w @ h_w.T @ y)) / (np.linalg.norm(h_w @ h_w.T) * square(y)),
        "h_score": sum(square(U[1 - 1e-12][0].T @ column) / square(column) for column in y.T),
        "regularised_h_score": sum(float(column @ P_w @ column) / square(column) for column in y.T),
        "logme": float(np.mean([evidence(h_w, column) for column in y.T])),
    }


def test_numbers_are_those_of_the_definitions(x64):
    data = rows()
    wanted, found = references(*data), numbers(*data)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-6)
    assert MOMENTS.keys() - wanted.keys() == {"weak_error", "misfit_bound"}  # below


def test_single_precision_keeps_its_digits():
    data = rows()
    wanted, found = references(*data), numbers(*(x.astype(np.float32) for x in data))
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("name", ["gulp", "label_error"])
def test_called_with_moments_and_heads(name, x64):
    data = rows()
    assert predicted(PREDICTORS[name], *data) == pytest.approx(references(*data)[name], rel=1e-6)


def test_the_weak_error_is_that_of_fresh_rows(x64):
    """Of many samples of a Gaussian population, within four standard errors; the bound takes the misfit off."""
    rng, errors, found = np.random.default_rng(0), [], []
    theta = rng.standard_normal(D_W)
    for _ in range(200):
        h, fresh = rng.standard_normal((2, N, D_W)) / np.arange(1, D_W + 1) ** 0.5
        y, noise = h @ theta + rng.standard_normal(N), 1.0
        m = w2s.moments(h, h, y, bias=True)
        found.append(float(PREDICTORS["weak_error"](m, w2s.ridge(RIDGES[0]), w2s.ridge(RIDGES[1]))))
        head = np.linalg.solve(m.ww + RIDGES[0] * np.eye(D_W), m.wy)
        errors.append(np.mean((fresh @ (head - theta)) ** 2) + noise)
    apart = np.subtract(found, errors)
    assert abs(np.mean(apart)) <= 4 * np.std(apart) / len(apart) ** 0.5
    bound, misfit, weak = (predicted(PREDICTORS[name], *rows()) for name in ("misfit_bound", "misfit", "weak_error"))
    assert bound == pytest.approx(weak - misfit)


def test_rotations_and_columns_of_zeros_change_nothing(x64):
    """Such as rankings fill up widths with."""
    h_w, h_s, y = rows()
    wanted, rng = numbers(h_w, h_s, y), np.random.default_rng(1)
    turned = [h @ np.linalg.qr(rng.standard_normal((h.shape[1], h.shape[1])))[0] for h in (h_w, h_s)]
    assert numbers(*turned, y) == pytest.approx(wanted, rel=1e-8)
    assert numbers(np.pad(h_w, ((0, 0), (0, 4))), h_s, y) == pytest.approx(wanted, rel=1e-8)


@pytest.mark.everything
def test_gradients_are_finite_differences(x64):
    h_w, h_s, y = rows()
    step = np.random.default_rng(0).standard_normal(h_w.shape)
    slopes = jax.jit(jax.jacrev(all_predicted))(h_w, h_s, y)
    up, down = (numbers(h_w + sign * 1e-5 * step, h_s, y) for sign in (1, -1))
    wanted = {name: (up[name] - down[name]) / 2e-5 for name in MOMENTS}
    assert {name: float(jnp.sum(slope * step)) for name, slope in slopes.items()} == pytest.approx(wanted, rel=1e-5)


def test_a_batch_of_teachers_is_each_of_them(x64):
    h_w, h_s, y = rows()
    several = np.stack([h_w, 2 * h_w, h_w**2])
    found = jax.vmap(lambda h: all_predicted(h, h_s, y))(several)
    for i, h in enumerate(several):
        assert {name: float(values[i]) for name, values in found.items()} == pytest.approx(numbers(h, h_s, y), rel=1e-8)


@pytest.mark.filterwarnings("ignore:.*directions")
@pytest.mark.parametrize(("n", "d_w", "decay", "normalize"), [(150, 40, 0, "features"), (150, 160, 2, "scale")])
def test_correlations_of_few_rows_are_no_more_than_one(n, d_w, decay, normalize):
    """In single precision small eigenvalues are rough: where one model spans all rows the mean square is 1, and of a steep
    spectrum, of which rounding leaves a few directions, it was 8."""
    rng = np.random.default_rng(0)
    h_s, z = rng.standard_normal((n, 170)), rng.standard_normal((n, d_w))
    h_w = (z @ rng.standard_normal((d_w, d_w)) / np.arange(1, d_w + 1) ** decay).astype(np.float32)
    h_s, names = (h_s / np.arange(1, 171) ** decay).astype(np.float32), ["mean_cca", "svcca", "h_score"]
    found = w2s.rank_supervisors({"weak": h_w}, h_s, z[:, 0], predictors=names, normalize=normalize)
    assert all(0 <= found[name][0] <= 1 for name in names)
    if decay == 0:
        assert found["mean_cca"][0] == pytest.approx(1, abs=1e-2) and found["h_score"][0] == pytest.approx(1, abs=1e-2)


def test_what_is_capped_keeps_its_derivatives():
    h = jnp.asarray(rows()[0], jnp.float32)
    cca = lambda h_w: PREDICTORS["mean_cca"](w2s.moments(h_w, h), w2s.ridge(0.1), w2s.ridge(0.1))
    value, slope = jax.value_and_grad(cca)(h)
    assert value <= 1 and float(jnp.abs(slope).max()) < 1e-3  # the most that there is, where the derivative is 0
    assert float(capped(jnp.float32(8.8), 1)) == 1 and float(jax.grad(lambda x: capped(3 * x, 1))(2.0)) == 3


def test_a_class_that_no_row_is_of_does_not_count(x64):
    h_w, h_s, y = rows()
    with_none = np.concatenate([y, np.zeros((N, 1))], 1)
    for name in ("logme", "kernel_alignment", "label_error", "misfit", "h_score", "regularised_h_score"):
        wanted = predicted(PREDICTORS[name], h_w, h_s, y)
        assert predicted(PREDICTORS[name], h_w, h_s, with_none) == pytest.approx(wanted, rel=1e-9)


def test_variances_are_those_that_were_simulated():
    """Student errors of simulated experiments, noise of variance 1: (d_w, d_s, shared, labelled, student's rows)."""
    cases = {
        (20, 5, 5, 60, 100): 0.149,
        (20, 5, 2.75, 60, 40): 0.136,
        (30, 10, 5.5, 100, 50): 0.171,
        (10, 30, 5.5, 100, 200): 0.071,
    }
    for case, error in cases.items():
        assert float(variance_errors(*case).student) == pytest.approx(error, rel=0.04)


def test_variances_of_heads_on_gaussian_features(x64):
    """Teacher, student, strong model and ceiling, fitted on noise alone: within four standard errors."""
    rng, d_w, d_s, n, more = np.random.default_rng(0), 8, 5, 40, 60
    basis, _ = np.linalg.qr(rng.standard_normal((12, 12)))
    V_w, V_s = basis[:, :d_w], basis[:, 5 : 5 + d_s]
    found = []
    for _ in range(400):
        z, noise = rng.standard_normal((n + more, 12)), rng.standard_normal(n + more)
        fit = lambda V, rows, y: V @ np.linalg.lstsq(z[rows] @ V, y, rcond=None)[0]
        few, many = slice(n), slice(n, None)
        weak = fit(V_w, few, noise[few])
        heads = weak, fit(V_s, many, z[many] @ weak), fit(V_s, few, noise[few]), fit(V_s, slice(None), noise)
        found.append([np.sum(head**2) for head in heads])
    wanted = variance_errors(d_w, d_s, np.sum((V_s.T @ V_w) ** 2), n, more)
    assert np.all(np.abs(np.mean(found, 0) - np.array(wanted)) <= 4 * np.std(found, 0) / len(found) ** 0.5)
    assert float(wanted.pgr) == pytest.approx(float((wanted.weak - wanted.student) / (wanted.weak - wanted.ceiling)))
    assert float(wanted.opr) == pytest.approx(float(wanted.strong / wanted.student))


def test_closed_forms_can_be_jitted():
    found = jax.jit(variance_errors)(20, 5, 5, 60, 100)
    np.testing.assert_allclose(found, variance_errors(20, 5, 5, 60, 100), rtol=1e-6)
    assert float(jax.jit(student_floor)(0.36)) == pytest.approx(0.04)


def test_no_filter_of_the_teacher_is_below_the_floor():
    """Any filter between 0 and 1 of a projection of the target."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        target = rng.standard_normal(20)
        target /= np.linalg.norm(target)
        U, V = (np.linalg.qr(rng.standard_normal((20, 20)))[0] for _ in range(2))
        teacher = U[:, :12] @ (U[:, :12].T @ target)
        student = V @ (rng.random(20) * (V.T @ teacher))
        assert np.sum((student - target) ** 2) >= float(student_floor(np.sum((teacher - target) ** 2))) - 1e-6


def test_ones_own(x64):
    h_w, h_s, y = rows()

    @predictor(predicts="nothing", source="here", larger_is_better=True)
    def both(pair):
        return jnp.sum(pair.f_w) + jnp.sum(pair.f_s)

    wanted = np.trace(smoother(h_w, RIDGES[0])) + np.trace(smoother(h_s, RIDGES[1]))
    assert predicted(both, h_w, h_s, y) == pytest.approx(wanted)


def test_bad_arguments_are_named(unchecked):
    h_w, h_s, _ = rows()
    m, head, of = w2s.moments(h_w, h_s), w2s.ridge(0.1), PREDICTORS["label_error"]
    for call, words in (
        (lambda: of(m, head, head), "labels for the predictor 'label_error'"),
        (lambda: of(h_w, head, head), "moments must be Moments"),
        (lambda: of(m, 0.1, head), "weak must be a filter"),
        (lambda: of(m, head, w2s.ridge([0.1, 0.2])), "strong must be a filter of one strength"),
        (lambda: variance_errors(20, 5, 5, 21, 100), "n_labelled must be above"),
        (lambda: variance_errors(20, 5, 6, 60, 100), "shared must be at most"),
        (lambda: student_floor(1.5), "weak_error"),
        (lambda: predictor(needs="label", predicts=""), "needs must be"),
        (lambda: predictor(predicts="")(lambda pair: pair.f_w)(m, head, head), r"must return a number, got .* \(7,\)"),
    ):
        with pytest.raises(w2s.InputError, match=words):
            call()


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda pair: None, "predictor '<lambda>' must return a number, got None"),
        (lambda pair: "0.5", "predictor '<lambda>' must return a number, got '0.5'"),
        (lambda pair: {"a": 1.0}, "predictor '<lambda>' must return a number, got a dict"),
        (lambda pair: jnp.sum(pair.f_w) + 1j, r"predictor '<lambda>' must return a real number, got one of complex\d+"),
        (lambda pair: float(pair.f_w[0]), "predictor '<lambda>' must use jax.numpy on arrays"),
        (lambda pair: np.asarray(pair.f_w)[0], "predictor '<lambda>' must use jax.numpy on arrays"),
        (lambda pair: pair.f_w[0] if pair.f_w[0] > 0 else 0.0, "predictor '<lambda>' must use jax.numpy on arrays"),
        (lambda pair: pair.f_w[pair.f_w > 0][0], "predictor '<lambda>' must use jax.numpy on arrays"),
        (lambda pair: [1.0, 2.0][jnp.argmax(pair.f_w)], "predictor '<lambda>' must use jax.numpy on arrays"),
    ],
)
def test_ones_own_that_gives_no_number_is_named(function, words):
    """Called alone and in a ranking."""
    h_w, h_s, _ = rows()
    own = predictor(predicts="")(function)
    with pytest.raises(w2s.InputError, match=words):
        own(w2s.moments(h_w, h_s), w2s.ridge(0.1), w2s.ridge(0.1))
    with pytest.raises(w2s.InputError, match=words):
        w2s.rank_supervisors({"a": h_w}, h_s, predictors=[own])


def test_ones_own_may_give_any_real_number():
    h_w, h_s, _ = rows()
    for number in (2, 2.0, np.float64(2), np.int32(2), True):
        own = predictor(predicts="")(lambda pair, number=number: number)
        assert float(own(w2s.moments(h_w, h_s), w2s.ridge(0.1), w2s.ridge(0.1))) == float(number)


def test_the_page_lists_them_all():
    """With what each needs and which end is the better one."""
    page = (Path(__file__).parents[2] / "docs" / "ranking.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (nothing|labels) \| (.*) \|$", page.partition("## Predictors")[2], re.MULTILINE)
    said = {name: (needs, "larger is better" in what) for name, needs, what in rows}
    assert said == {of.name: (of.needs, of.larger_is_better) for of in PREDICTORS.values()}
