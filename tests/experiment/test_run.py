"""The experiment: each measured number is a dense one, each predicted number its mean, and who learns from which labels."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import computing_in, derivative_error, entrywise_error, relative_error
from jax import export
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from w2s_jax import InputError, WeakToStrong, moments, moments_from_batches, rank_supervisors, train_probe
from w2s_jax.experiment import from_moments, pseudo_labels, run
from w2s_jax.experiment.pseudo_labels import cross_fit_pseudo_labels
from w2s_jax.experiment.single import experiment
from w2s_jax.heads.losses import confidence_auxiliary, logistic
from w2s_jax.heads.ridge import cross_validate_ridge
from w2s_jax.ranking.folds import deal, lay_out

# Representations as they are: what is done to them before has tests of its own.
weak_to_strong, weak_to_strong_splits, weak_to_strong_from_moments = (
    partial(of, normalize="none")
    for of in (run.weak_to_strong, run.weak_to_strong_splits, from_moments.weak_to_strong_from_moments)
)
SIZES = (30, 44, 50)  # D~, D^, test
RIDGES = {"weak_ridge": 0.02, "strong_ridge": 0.05}
MEASURED = ("weak_error", "student_error", "ceiling_error", "gap", "misfit", "misfit_in_sample")
CLASSES = ("weak_accuracy", "student_accuracy", "ceiling_accuracy", "agreement")


def sample(n: int, d_s: int = 12, outputs: int = 0, kind: str = "numbers", seed: int = 0, dtype: type = np.float64):
    """Rows (h_w, h_s, y) about means that are not zero; y (n,) or (n, outputs): numbers, or classes coded `kind`."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((n, 8))
    see = lambda d, noise: latent @ rng.standard_normal((8, d)) / 3 + noise * rng.standard_normal((n, d)) + 0.5
    h_w, h_s = see(5, 0.6), see(d_s, 0.2)
    y = latent @ rng.standard_normal((8, outputs or 1)) + 0.5 * rng.standard_normal((n, outputs or 1)) + 0.5
    if kind != "numbers":
        chosen = y == y.max(1, keepdims=True) if outputs > 1 else y > 0.5
        y = np.where(chosen, 1, -1 if kind == "signs" else 0)
    return h_w.astype(dtype), h_s.astype(dtype), (y if outputs else y[:, 0]).astype(dtype)


def splits(*args, sizes: tuple[int, int, int] = SIZES, **kwargs):
    """The three splits of one sample."""
    rows = sample(sum(sizes), *args, **kwargs)
    ends = np.cumsum(sizes)[:2]
    return [tuple(part) for part in zip(*(np.split(x, ends) for x in rows), strict=True)]


def ridge_heads(bias: bool = True):
    weak, strong = (partial(reference.ridge_outputs, beta=beta, bias=bias) for beta in RIDGES.values())
    return weak, strong, strong


def assert_measured(found: WeakToStrong, expected: dict, tolerance: float, energy: float) -> None:
    """Errors relative to the labels' energy, shares exactly; nothing is measured that was not expected."""
    for name in MEASURED:
        assert relative_error(getattr(found, name), expected[name], energy) <= tolerance, name
    for name in (*CLASSES, "accuracy_pgr"):
        value = getattr(found, name)
        assert (value is None) == (name not in expected), name
        if value is not None:
            np.testing.assert_allclose(value, expected[name], rtol=1e-6)
    lost = abs(expected["weak_error"] - expected["ceiling_error"])
    assert lost > 0.01 * energy  # else PGR says nothing
    assert abs(found.pgr - expected["pgr"]) <= 2 * tolerance * energy / lost * max(1, abs(expected["pgr"]))


# (outputs, labels, d_s, bias, pseudo-labels)
EXPERIMENTS = {
    "numbers": (2, "numbers", 12, True, "soft"),
    "numbers through zero": (2, "numbers", 12, False, "soft"),
    "more features than rows": (0, "numbers", 60, True, "soft"),
    "one-hot": (2, "classes", 12, True, "soft"),
    "hard signs in a column": (1, "signs", 12, False, "hard"),
    "hard one-hot": (3, "classes", 12, True, "hard"),
}
PRECISIONS = {"more features than rows": ("float32", "float64"), "hard signs in a column": ("float32",)}


@pytest.mark.everything(but=1)
@pytest.mark.parametrize(
    ("name", "precision"), [(name, kind) for name in EXPERIMENTS for kind in PRECISIONS.get(name, ("float64",))]
)
def test_measured_numbers_are_those_of_a_dense_experiment(name, precision):
    """Errors, gap, misfits, accuracies, agreement and PGR equal those of dense heads with normal equations."""
    outputs, kind, d_s, bias, pseudo_labels = EXPERIMENTS[name]
    data = splits(d_s, outputs, kind, dtype=np.dtype(precision))
    code = {"numbers": None, "signs": (-1, 1), "classes": (0, 1)}[kind]
    expected, _ = reference.weak_to_strong(*data, ridge_heads(bias), code, pseudo_labels == "hard")
    with computing_in(precision):
        found = weak_to_strong(*data, **RIDGES, bias=bias, pseudo_labels=pseudo_labels)
        assert_measured(found, expected, 1e-10 if precision == "float64" else 1e-5, np.sum(data[2][2] ** 2) / SIZES[2])
    assert found.weak_cross_entropy is None
    assert bool(found.converged)


def logistic_head(h: np.ndarray, y: np.ndarray, beta: float, bias: bool):
    """scikit-learn's head for labels in [0, 1]: every row once with each label, weighted by its share; probabilities."""
    several = y.ndim == 2
    shares = y if several else np.stack([1 - y, y], 1)
    rows = np.repeat(h, shares.shape[1], 0)
    labels = np.tile(np.arange(shares.shape[1]), len(h))
    used = shares.reshape(-1) > 0
    model = LogisticRegression(
        C=1 / (2 * len(h) * beta), fit_intercept=bias, tol=1e-13, max_iter=1000, solver="newton-cholesky"
    )
    model.fit(rows[used], labels[used], shares.reshape(-1)[used])
    return lambda x: model.predict_proba(x) if several else model.predict_proba(x)[:, 1]


@pytest.mark.everything
@pytest.mark.parametrize(
    ("loss", "outputs", "bias", "pseudo_labels"),
    [("logistic", 0, True, "soft"), ("softmax", 3, False, "hard")],
)
def test_classification_heads_are_scikit_learns(loss, outputs, bias, pseudo_labels, x64):
    """With cross-entropies for losses every probability, and so every number, is that of LogisticRegression."""
    data = splits(12, outputs, "classes")
    found = weak_to_strong(*data, **RIDGES, loss=loss, bias=bias, pseudo_labels=pseudo_labels)
    weak, strong = (partial(logistic_head, beta=beta, bias=bias) for beta in RIDGES.values())
    expected, predictions = reference.weak_to_strong(*data, (weak, strong, strong), (0, 1), pseudo_labels == "hard")
    assert_measured(found, expected, 1e-8, 1.0)
    for name, p in zip(("weak", "student", "ceiling"), predictions, strict=True):
        logits = np.log(p) if outputs else np.log(p) - np.log1p(-p)
        entropy = np.mean(reference.cross_entropy(logits, data[2][2]))
        assert relative_error(getattr(found, f"{name}_cross_entropy"), entropy) <= 1e-8
    assert bool(found.converged)
    assert found.predicted is None and found.theorem_gap is None


def sigmoid_head(h: np.ndarray, y: np.ndarray, beta: float):
    """A biased head for each output on its own, by BFGS on the mean cross-entropy plus penalty; probabilities."""
    n, d = h.shape

    def fit(y: np.ndarray) -> np.ndarray:
        def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
            z = h @ x[:-1] + x[-1]
            slope = (1 / (1 + np.exp(-z)) - y) / n
            value = np.mean(np.logaddexp(z, 0) - y * z) + beta * np.sum(x[:-1] ** 2)
            return value, np.append(h.T @ slope + 2 * beta * x[:-1], slope.sum())

        return minimize(objective, np.zeros(d + 1), jac=True, method="BFGS", options={"gtol": 1e-9}).x

    theta = np.stack([fit(column) for column in y.T], 1)
    return lambda rows: 1 / (1 + np.exp(-rows @ theta[:-1] - theta[-1]))


@pytest.mark.everything
def test_each_head_speaks_through_its_own_loss(x64):
    """A weak head with outputs, a student with probabilities of its hard labels: each is measured by what it predicts."""
    data = splits(12, 2, "classes")
    found = weak_to_strong(*data, **RIDGES, student_loss=logistic(), pseudo_labels="hard")
    weak, _, ceiling = ridge_heads()
    heads = weak, partial(sigmoid_head, beta=RIDGES["strong_ridge"]), ceiling
    expected, predictions = reference.weak_to_strong(*data, heads, (0, 1), True)
    assert_measured(found, expected, 1e-6, 1.0)
    assert found.weak_cross_entropy is None and found.ceiling_cross_entropy is None and found.predicted is None
    p, y = predictions[1], data[2][2]
    entropy = -np.mean(np.sum(y * np.log(p) + (1 - y) * np.log1p(-p), 1))
    assert relative_error(found.student_cross_entropy, entropy) <= 1e-6


@pytest.mark.everything
def test_confidence_auxiliary_changes_the_student_only(x64):
    """Another student loss moves the student's numbers and leaves weak head and ceiling alone."""
    data = splits(12, 0, "classes")
    plain = weak_to_strong(*data, **RIDGES, loss="logistic")
    other = weak_to_strong(*data, **RIDGES, loss="logistic", student_loss=confidence_auxiliary())
    for name in ("weak_error", "ceiling_error", "weak_cross_entropy", "ceiling_cross_entropy", "weak_accuracy"):
        np.testing.assert_array_equal(getattr(other, name), getattr(plain, name))
    for name in ("student_error", "gap", "misfit", "misfit_in_sample", "student_cross_entropy"):
        assert np.isfinite(getattr(other, name))
        assert abs(getattr(other, name) - getattr(plain, name)) > 1e-3


# Moments, and the trial of the ranking


def all_moments(data, bias: bool):
    return [moments(*split, bias=bias) for split in data]


def assert_same_outcome(found: WeakToStrong, expected: WeakToStrong, tolerance: float) -> None:
    """Every number that the moments give, predictions included."""
    for name in (*MEASURED, "theorem_gap", *RIDGES):
        assert relative_error(getattr(found, name), getattr(expected, name)) <= tolerance, name
    assert relative_error(found.pgr, expected.pgr, 1.0) <= tolerance
    assert relative_error(np.array(found.predicted), np.array(expected.predicted)) <= tolerance


@pytest.mark.everything
@pytest.mark.parametrize("bias", [True, False])
def test_moments_give_the_same_experiment(bias, x64):
    """Measured and predicted numbers from moments alone, also merged from batches, equal those from the rows."""
    data = splits(12, 2)
    rows = weak_to_strong(*data, **RIDGES, bias=bias)
    assert_same_outcome(weak_to_strong_from_moments(*all_moments(data, bias), **RIDGES), rows, 1e-9)
    halves = [[tuple(x[i::2] for x in split) for i in (0, 1)] for split in data]
    merged = [moments_from_batches([a], bias=bias) + moments(*b, bias=bias) for a, b in halves]
    assert_same_outcome(weak_to_strong_from_moments(*merged, **RIDGES), rows, 1e-9)


@pytest.mark.everything
def test_moments_are_as_good_as_they_say_in_float32():
    """Errors from float32 moments are within 1e-6 of the labels' mean square (and 1e-5 of themselves)."""
    data = splits(12, 2)
    single = [tuple(x.astype(np.float32) for x in split) for split in data]
    found = weak_to_strong_from_moments(*all_moments(single, True), **RIDGES)
    expected, _ = reference.weak_to_strong(*single, ridge_heads())
    energy = np.mean(np.sum(data[2][2] ** 2, 1))
    for name in MEASURED:
        assert abs(getattr(found, name) - expected[name]) <= 1e-6 * energy + 1e-5 * expected[name], name


@pytest.mark.everything
@pytest.mark.parametrize("masked", [False, True])
def test_the_trial_of_the_ranking_is_this_experiment(masked, x64):
    """`trial_error` is the mean student error of the same roles of the same folds."""
    h_w, h_s, y = sample(60, 12, 2)
    mask = np.arange(60) % 3 > 0 if masked else np.ones(60, bool)
    table = rank_supervisors({"a": h_w}, h_s, y, labelled_rows=mask, normalize="none", folds=4, seed=3, **RIDGES)
    layout = lay_out(60, 4, mask, None, 3)
    errors = []
    for roles in zip(*(role.reshape(-1, layout.cells) for role in layout.trial), strict=True):
        data = [tuple(x[role[layout.cell] > 0] for x in (h_w, h_s, y)) for role in roles]
        errors.append(weak_to_strong_from_moments(*all_moments(data, False), **RIDGES).student_error)
    assert len(errors) == (4 if masked else 8)
    assert relative_error(table["trial_error"], np.mean(errors, keepdims=True)) <= 1e-10


# Predictions beside the measurements


def test_theorem_gap_is_the_prediction_gap_of_the_students_split(x64):
    """`||P_s (I - P_w) y / sqrt(n)||^2` on D^ with the heads' own penalties, of centred rows if there is an intercept."""
    data = splits(12, 2)
    filters = [reference.ridge(beta) for beta in RIDGES.values()]
    for bias in (True, False):
        found = weak_to_strong(*data, **RIDGES, bias=bias)
        rows = [x - bias * x.mean(0) for x in data[1]]
        assert relative_error(found.theorem_gap, reference.prediction_gap(*rows, *filters).sum()) <= 1e-10


@pytest.mark.parametrize(("bias", "pseudo_labels"), [(True, "soft"), (False, "soft"), (True, "hard")])
def test_predicted_numbers_are_those_of_the_training_splits(bias, pseudo_labels, x64):
    """The dense generalized cross-validation of D^ with the labels that the student is taught, and of D~ with its own."""
    hard = pseudo_labels == "hard"
    data = splits(12, 3, "classes") if hard else splits(12, 2)
    found = weak_to_strong(*data, **RIDGES, bias=bias, pseudo_labels=pseudo_labels)
    taught = ridge_heads(bias)[0](data[0][0], data[0][2])(data[1][0])
    taught = reference.nearest_class(taught, (0, 1)) if hard else taught
    expected = reference.equivalent_errors(*data[1][1:], taught, RIDGES["strong_ridge"], bias).sum(1)
    h_w, _, y = data[0]
    weak = reference.equivalent_errors(h_w, y, 0 * y, RIDGES["weak_ridge"], bias)[1].sum()
    assert relative_error(np.array(found.predicted), np.append(weak, expected)) <= 1e-10
    assert (found.theorem_gap is None) == hard


# Rows that hard labels get wrong lie near the boundary and have less leverage than the mean that generalized
# cross-validation takes for all: its gap is 2% low with 120 rows for 24 features, as leave-one-out is not.
@pytest.mark.everything
@pytest.mark.parametrize(
    ("kind", "pseudo_labels", "student"),
    [("numbers", "soft", 120), ("signs", "hard", 600)],
)
def test_predictions_agree_with_measurements_in_the_mean(kind, pseudo_labels, student):
    """Over many splits of a Gaussian sample predicted and measured errors and gap have one mean."""
    data = sample(40000, 24, 0, kind, dtype=np.float32)
    found = weak_to_strong_splits(
        *data, n_labelled=60, n_student=student, n_test=1000, repeats=400, **RIDGES, pseudo_labels=pseudo_labels
    )
    for name in ("weak_error", "student_error", "ceiling_error", "gap"):
        measured, predicted = (np.asarray(getattr(x, name), np.float64) for x in (found, found.predicted))
        apart = predicted - measured
        error = apart.std(ddof=1) / np.sqrt(len(apart))
        assert error < 0.01 * measured.mean(), name  # else agreement says nothing
        assert abs(apart.mean()) <= 3.5 * error, name


# Penalties chosen by cross-validation


@pytest.mark.everything
def test_cv_chooses_from_the_labels_each_head_sees(x64):
    """`ridge="cv"` is cross-validation on D~ with true labels and on D^ with the weak head's, over the same scaled grid."""
    data = splits(12, 2)
    found = weak_to_strong(*data, weak_ridge="cv", strong_ridge="cv")
    (h_a, _, y_a), (h_b, z_b, _), _ = data
    grid = lambda h: np.geomspace(1e-6, 1, 25) * np.sum(np.var(h, 0))
    weak = cross_validate_ridge(h_a, y_a, grid(h_a)).ridge
    strong = cross_validate_ridge(z_b, reference.ridge_outputs(h_a, y_a, float(weak))(h_b), grid(z_b)).ridge
    assert relative_error(found.weak_ridge, weak) <= 1e-12
    assert relative_error(found.strong_ridge, strong) <= 1e-12
    assert_same_outcome(found, weak_to_strong(*data, weak_ridge=float(weak), strong_ridge=float(strong)), 1e-10)


def test_cv_never_sees_the_students_true_labels(x64):
    """Other true labels on D^ change the ceiling, but neither the chosen penalty nor the student."""
    labelled, student, test = splits(12, 2)
    other = (*student[:2], -3 * student[2] + 1)
    one, two = (weak_to_strong(labelled, x, test, weak_ridge="cv", strong_ridge="cv") for x in (student, other))
    for name in ("weak_ridge", "strong_ridge", "weak_error", "student_error", "misfit", "misfit_in_sample"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert abs(two.ceiling_error - one.ceiling_error) > 0.1 * one.ceiling_error


# Cross-fitted pseudo-labels


@pytest.mark.parametrize(
    ("loss", "outputs", "bias", "grouped"), [("squared", 2, True, True), ("squared", 0, False, False)]
)
def test_pseudo_labels_come_from_heads_that_have_not_seen_the_row(loss, outputs, bias, grouped, x64):
    """A row's label does not move its own pseudo-label or its group's; it equals the dense head of the other folds."""
    h, _, y = sample(30, 12, outputs)
    groups = np.repeat(np.arange(15), 2)[np.random.default_rng(0).permutation(30)] if grouped else None
    label = lambda y: np.asarray(cross_fit_pseudo_labels(h, y, 0.02, loss=loss, groups=groups, bias=bias, seed=1))
    found = label(y)
    assert found.shape == y.shape
    moved = np.stack([label(np.concatenate([y[:i], y[i : i + 1] + 1, y[i + 1 :]])) for i in range(30)]) != found
    together = ~moved.reshape(30, 30, -1).any(2)  # rows whose pseudo-label row i's label does not reach: its fold
    np.testing.assert_array_equal(np.diagonal(together), True)
    np.testing.assert_array_equal(together.sum(1), 6)
    if grouped:
        np.testing.assert_array_equal(together | (groups[:, None] != groups), True)
    for i in range(30):
        fitted = ~together[i]
        expected = reference.ridge_outputs(h[fitted], y[fitted], 0.02, bias)(h[i : i + 1])[0]
        assert entrywise_error(found[i], expected) <= 1e-10


@pytest.mark.everything
def test_pseudo_labels_of_a_classification_loss_are_probabilities(x64):
    """With the logistic loss each fold's labels are scikit-learn's probabilities from the other folds."""
    h, _, y = sample(60, 12, 0, "classes")
    groups = np.arange(60) % 3  # three groups in three folds: the folds are the groups
    found = np.asarray(cross_fit_pseudo_labels(h, y, 0.02, loss="logistic", groups=groups, folds=3))
    for k in range(3):
        expected = logistic_head(h[groups != k], y[groups != k], 0.02, True)(h[groups == k])
        assert entrywise_error(found[groups == k], expected) <= 1e-8


# Repeated splits


def test_splits_are_single_experiments_on_disjoint_rows(x64):
    """Fields are (repeats,) and those of `weak_to_strong` on the dealt rows; a seed fixes them, the student takes the rest."""
    data = sample(sum(SIZES), 12, 2)
    run = partial(weak_to_strong_splits, *data, n_labelled=SIZES[0], n_test=SIZES[2], repeats=3, **RIDGES)
    found, again, other = run(seed=1), run(seed=1), run(seed=2)
    assert {x.shape for x in jax.tree.leaves(found)} == {(3,)}
    jax.tree.map(np.testing.assert_array_equal, found, again)
    assert not np.any(found.gap == other.gap)
    dealt = deal(sum(SIZES), SIZES, 3, None, 1)
    assert [rows.shape for rows in dealt] == [(3, size) for size in SIZES]
    for i, rows in enumerate(zip(*dealt, strict=True)):
        np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(sum(SIZES)))
        one = weak_to_strong(*(tuple(x[r] for x in data) for r in rows), **RIDGES)
        assert_same_outcome(jax.tree.map(lambda x: x[i], found), one, 1e-10)


def test_grouped_splits_run(x64):
    """With groups the experiments are those on the rows that the groups were dealt to."""
    data, groups = sample(sum(SIZES), 12, 2), np.arange(sum(SIZES)) // 2
    sizes = dict(zip(("n_labelled", "n_student", "n_test"), SIZES, strict=True))
    found = weak_to_strong_splits(*data, **sizes, repeats=3, groups=groups, **RIDGES)
    dealt = deal(sum(SIZES), SIZES, 3, groups, 0)
    assert tuple(rows.shape[1] for rows in dealt) == SIZES
    one = weak_to_strong(*(tuple(x[rows[1]] for x in data) for rows in dealt), **RIDGES)
    assert_same_outcome(jax.tree.map(lambda x: x[1], found), one, 1e-10)


# Transformations


@pytest.mark.everything
@pytest.mark.usefixtures("unchecked")
def test_moments_under_jit_and_vmap(x64):
    """Batches of moments and of penalties give each member's own outcome."""
    data = [all_moments(splits(12, 2, seed=seed), True) for seed in (0, 1)]
    ridges = np.array([0.02, 0.3])
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *data)
    batched = jax.jit(jax.vmap(lambda m, beta: weak_to_strong_from_moments(*m, beta, 2 * beta)))(stacked, ridges)
    for i in range(2):
        one = weak_to_strong_from_moments(*data[i], ridges[i], 2 * ridges[i])
        assert_same_outcome(jax.tree.map(lambda x: x[i], batched), one, 1e-10)


@pytest.mark.everything
@pytest.mark.usefixtures("unchecked")
def test_rows_under_jit_and_vmap(x64):
    """A batch of penalties gives each one's outcome, classes included unless the labels are traced."""
    data = splits(12, 2, "classes")
    expected = weak_to_strong(*data, **RIDGES)
    assert jax.eval_shape(lambda data: weak_to_strong(*data, **RIDGES), data).student_accuracy is None
    betas = np.array([0.05, 0.3])
    over = jax.jit(jax.vmap(lambda beta: weak_to_strong(*data, weak_ridge=RIDGES["weak_ridge"], strong_ridge=beta)))
    found = over(betas)
    assert_same_outcome(jax.tree.map(lambda x: x[0], found), expected, 1e-10)
    np.testing.assert_allclose(found.student_accuracy[0], expected.student_accuracy)
    assert found.gap[1] != found.gap[0]


@pytest.mark.everything
@pytest.mark.usefixtures("unchecked")
def test_outcomes_are_differentiable(x64):
    """Derivatives in the penalties and, through the moments, in the student's rows are those of finite differences."""
    labelled, (h_w, h_s, y), test = splits(12, 2)
    m = all_moments((labelled, test), True)

    def outcome(x):
        betas, z = x
        found = weak_to_strong_from_moments(m[0], moments(h_w, z, y, bias=True), m[1], betas[0], betas[1])
        return jnp.stack([found.student_error, found.gap, found.predicted.gap, found.theorem_gap])

    assert derivative_error(outcome, (np.array([0.02, 0.05]), h_s)) <= 1e-6


@pytest.mark.everything
@pytest.mark.usefixtures("unchecked")
def test_everything_exports():
    """Nothing calls back to the host: moments, rows, splits with cross-validation, classification, cross-fitting."""
    data = splits(12, 0, "classes", dtype=np.float32)
    h, _, y = data[1]

    def classified(data, beta):
        return weak_to_strong(*data, loss="logistic", student_loss=confidence_auxiliary(), weak_ridge=beta)

    rows = tuple(jnp.asarray(r) for r in deal(44, (10, 20, 10), 2, None, 0))
    setup, losses = run._setup([jnp.asarray(y)], (0, 1), "squared", None, "hard", True, "none", "given", "cv", "cv")
    core = lambda data, rows: run._experiments(*data, rows, (0.0, 0.0), losses, setup)
    cross_fit = lambda h, y, beta: cross_fit_pseudo_labels(h, y, beta, folds=3)
    for function, args in (
        (weak_to_strong_from_moments, (*all_moments(data, True), 0.1, 0.2)),
        (classified, (data, 0.1)),
        (core, (data[1], rows)),
        (cross_fit, (h, y, 0.1)),
    ):
        exported = export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(*args)
        assert set(exported.platforms) == {"cpu", "cuda", "tpu"}


def test_new_numbers_compile_nothing(x64):
    """Other penalties, loss parameters, rows and seeds run the same programs."""
    programs = (experiment, run._experiments, from_moments._experiment_from_moments, pseudo_labels._cross_fit)
    sizes = set()
    for seed, beta in ((0, 0.1), (1, 0.2)):
        data, rest = splits(12, 0, "classes", seed=seed), sample(sum(SIZES), 12, 2, seed=seed)
        ridges = dict(weak_ridge=beta, strong_ridge=beta / 2)
        auxiliary = confidence_auxiliary(coef=beta, warm_up=100 + seed)
        weak_to_strong(*data, loss="logistic", student_loss=auxiliary, **ridges)
        weak_to_strong_splits(*rest, n_labelled=30, n_test=50, repeats=3, seed=seed, **ridges)
        weak_to_strong_from_moments(*all_moments(splits(12, 2, seed=seed), True), beta, beta / 2)
        cross_fit_pseudo_labels(rest[0][:30], rest[2][:30], beta, seed=seed)
        sizes.add(tuple(program._cache_size() for program in programs))
    assert len(sizes) == 1


@pytest.mark.everything
@pytest.mark.usefixtures("unchecked")
def test_half_precision_rows_are_those_of_float32():
    """16-bit rows give the float32 experiment of the same numbers, penalties included; integer labels convert."""
    data = splits(12, 1, "signs", dtype=np.float32)
    half = [(jnp.bfloat16(h), jnp.bfloat16(z), y.astype(np.int8)) for h, z, y in data]
    single = [tuple(np.asarray(x, np.float32) for x in split) for split in half]
    found, expected = (weak_to_strong(*x, **RIDGES, bias=False, pseudo_labels="hard") for x in (half, single))
    assert max(jax.tree.leaves(jax.tree.map(relative_error, found, expected))) <= 1e-5


# Bad input

BAD_DATA = splits(3, 0, "numbers", sizes=(6, 6, 6), dtype=np.float32)
LABELLED, STUDENT, TEST = BAD_DATA
ROWS = sample(20, 3, 0, "classes", dtype=np.float32)


def holed(split, part: int):
    split = [x.copy() for x in split]
    split[part][2] = np.nan
    return tuple(split)


def attempt(**options):
    return weak_to_strong(*BAD_DATA, **options)


def over_splits(**options):
    return weak_to_strong_splits(*ROWS, **{"n_labelled": 5, "n_test": 5, "repeats": 1, **options})


M = {c: [moments(*split, bias=c) for split in BAD_DATA] for c in (True, False)}
BAD = {
    "rows": (
        lambda: weak_to_strong(LABELLED, (STUDENT[0], STUDENT[1][:4], STUDENT[2]), TEST),
        "weak and strong representations must have the same number of rows, got 6 and 4",
    ),
    "labels": (
        lambda: weak_to_strong(LABELLED, STUDENT, (*TEST[:2], TEST[2][:3])),
        r"labels of the test split must have shape \(6,\) or \(6, outputs\), got \(3,\)",
    ),
    "NaN": (
        lambda: weak_to_strong(LABELLED, holed(STUDENT, 1), TEST),
        "strong representations of the student split contain 3 NaN or infinite values, the first in row 2",
    ),
    "NaN label": (
        lambda: weak_to_strong(holed(LABELLED, 2), STUDENT, TEST),
        "labels of the labelled split contain 1 NaN or infinite value, in row 2",
    ),
    "NaN in all rows": (
        lambda: weak_to_strong_splits(*holed(ROWS, 0), n_labelled=5, n_test=5),
        "weak representations of all rows contain 5 NaN or infinite values, the first in row 2",
    ),
    "no split": (lambda: weak_to_strong(LABELLED, STUDENT[:2], TEST), r"the student split must be \(h_w, h_s, y\)"),
    "no strong rows": (
        lambda: weak_to_strong(LABELLED, (STUDENT[0], None, STUDENT[2]), TEST),
        "strong representations of the student split must be",
    ),
    "widths": (
        lambda: weak_to_strong(LABELLED, STUDENT, (TEST[0][:, :2], *TEST[1:])),
        r"weak representations must have the same shape per row in all splits, got \[\(5,\), \(5,\), \(2,\)\]",
    ),
    "outputs": (
        lambda: weak_to_strong(LABELLED, STUDENT, (*TEST[:2], TEST[2][:, None])),
        r"labels must have the same shape per row in all splits, got \[\(\), \(\), \(1,\)\]",
    ),
    "loss": (lambda: attempt(loss="hinge"), "loss must be 'squared', 'logistic', 'softmax' or a Loss, got 'hinge'"),
    "student's loss": (lambda: attempt(student_loss="hinge"), "loss must be .* or a Loss, got 'hinge'"),
    "labels of a loss": (lambda: attempt(loss="logistic"), "labels of a classification loss must be between 0 and 1"),
    "outputs for probabilities": (
        lambda: over_splits(student_loss="logistic"),
        "student_loss must be 'squared' for the outputs of a squared loss, or pseudo_labels 'hard'",
    ),
    "pseudo-labels": (lambda: attempt(pseudo_labels="firm"), "pseudo_labels must be 'soft' or 'hard', got 'firm'"),
    "hard numbers": (lambda: attempt(pseudo_labels="hard"), "hard pseudo-labels need labels that are classes"),
    "cv": (lambda: attempt(weak_ridge="best"), "weak_ridge must be a number, or 'cv' with squared loss, got 'best'"),
    "cv of another loss": (
        lambda: over_splits(loss="logistic", strong_ridge="cv"),
        "strong_ridge must be a number, or 'cv' with squared loss, got 'cv'",
    ),
    "cv of few rows": (
        lambda: weak_to_strong(tuple(x[:3] for x in LABELLED), STUDENT, TEST, weak_ridge="cv"),
        r"folds must be between 2 and the number of rows \(3\), got 5",
    ),
    "negative": (lambda: attempt(strong_ridge=-1.0), "strong_ridge must be at least 0, got -1"),
    "many": (lambda: attempt(weak_ridge=np.ones(3)), r"weak_ridge must be one number, got shape \(3,\)"),
    "negative with moments": (
        lambda: weak_to_strong_from_moments(*M[True], -1.0, 0.1),
        "weak_ridge must be at least 0, got -1",
    ),
    "moments without labels": (
        lambda: weak_to_strong_from_moments(*(moments(*split[:2]) for split in BAD_DATA)),
        "moments of the three splits must all have labels, and all be centred or none",
    ),
    "moments of two kinds": (
        lambda: weak_to_strong_from_moments(*M[True][:2], M[False][2]),
        "moments of the three splits must all have labels, and all be centred or none",
    ),
    "moments of other widths": (
        lambda: weak_to_strong_from_moments(*M[True][:2], moments(TEST[0][:, :2], *TEST[1:], bias=True)),
        "moments of the three splits must have the same widths, got",
    ),
    "sizes": (
        lambda: over_splits(n_labelled=10, n_student=10, n_test=10),
        "splits must have at least one row each and at most 20 together, got n_labelled=10, n_student=10, n_test=10",
    ),
    "no student": (lambda: over_splits(n_labelled=10, n_test=10), "got n_labelled=10, n_student=0, n_test=10"),
    "share": (lambda: over_splits(n_labelled=0.5), "n_labelled must be an integer of at least 1, got 0.5"),
    "repeats": (lambda: over_splits(repeats=0), "repeats must be an integer of at least 1, got 0"),
    "seed": (lambda: over_splits(seed=-1), "seed must be an integer of at least 0, got -1"),
    "groups": (lambda: over_splits(groups=[1, 2]), r"groups must have shape \(20,\), one entry per row, got \(2,\)"),
    "mixed groups": (
        lambda: over_splits(groups=[None, *range(19)]),
        "groups must be all numbers or all text, got both or None",
    ),
    "large groups": (
        lambda: over_splits(groups=np.arange(20) // 10),
        r"groups must leave each split at least one row, got \[0, 10, 0\] rows for \[5, 10, 5\]",
    ),
    "folds": (
        lambda: cross_fit_pseudo_labels(*STUDENT[::2], folds=9),
        r"folds must be between 2 and the number of rows \(6\), got 9",
    ),
    "one fold": (
        lambda: cross_fit_pseudo_labels(*STUDENT[::2], folds=1),
        "folds must be an integer of at least 2, got 1",
    ),
    "cross-fit penalty": (
        lambda: cross_fit_pseudo_labels(*STUDENT[::2], -0.1),
        "weak_ridge must be at least 0, got -0.1",
    ),
    "cross-fit groups": (
        lambda: cross_fit_pseudo_labels(*STUDENT[::2], groups=[1, 2, 3]),
        r"groups must have shape \(6,\), one entry per row, got \(3,\)",
    ),
    "few groups": (
        lambda: cross_fit_pseudo_labels(*STUDENT[::2], groups=[1, 1, 1, 2, 2, 2]),
        r"groups must name at least as many groups as folds \(5\), got 2",
    ),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("fault", BAD)
def test_bad_input_is_named(fault):
    """Wrong use is one sentence: which argument, what was expected, what came."""
    call, message = BAD[fault]
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.everything
def test_classes_that_the_labelled_rows_lack_are_named(x64):
    """A head learns nothing of them: of given splits, of the first random one, and of a trained head."""
    (h_w, h_s, _), *others = splits(12, 3, "classes")
    y = np.eye(3)[np.arange(SIZES[0]) % 2]
    for options in (
        {"loss": "squared"},
        {"loss": "softmax", "bias": False},
    ):  # whose programs tests above have compiled
        with pytest.warns(UserWarning, match="the labelled rows have no row of class 2: a head learns nothing"):
            weak_to_strong((h_w, h_s, y), *others, **RIDGES, **options, pseudo_labels="hard")
    rare = np.eye(3)[np.where(np.arange(60) == 7, 2, np.arange(60) % 2)]
    with pytest.warns(UserWarning, match="the labelled rows of split 0 have no row of class 2"):
        weak_to_strong_splits(*sample(60)[:2], rare, n_labelled=5, n_test=30, repeats=2)
    with pytest.warns(UserWarning, match="the rows have no row of class 2"):
        train_probe(h_w, y, loss="softmax")
