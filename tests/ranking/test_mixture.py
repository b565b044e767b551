"""Mixtures of teachers: the least weights by their optimality conditions and by brute force, what students of two teachers err by
against rows, the bound that misfits give, what is said."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import computing_in, relative_error

from w2s_jax import InputError, rank_supervisors
from w2s_jax.cli import main
from w2s_jax.ranking import crossfit, mixture, rank
from w2s_jax.ranking.folds import lay_out
from w2s_jax.ranking.mixed_errors import predicted_products
from w2s_jax.ranking.mixture import Mixture, least
from w2s_jax.ranking.predicted import Prediction
from w2s_jax.theory.label_fits import CORRELATIONS, PRIORS, SHARES

N, FOLDS = 60, 3
RIDGES = {"weak_ridge": 1e-2, "strong_ridge": 2e-2}
CASES = (("all", "features"), ("masked", "none"), ("related", "scale"))  # labels, normalize
OBJECTIVES = ("predicted", "posterior", "trial", "misfit", "expected")
SIMPLEX = np.array([(i, j, 40 - i - j) for i, j in itertools.product(range(41), repeat=2) if i + j <= 40]) / 40


@pytest.mark.parametrize("rank_of", [2, 5, 12])
@pytest.mark.parametrize("seed", range(4))
def test_least_weights_are_optimal(rank_of, seed):
    """No weight can move without making the form larger: `(G w)_i` is least, and the same, where a weight is not zero. Also of a
    form that is positive along differences of weights alone, and negative as a whole."""
    rng = np.random.default_rng(seed)
    errors = 0.5 + rng.standard_normal((8, rank_of))
    for G in (errors @ errors.T, errors @ errors.T - np.add.outer(*rng.standard_normal((1, 8)).repeat(2, 0)) - 9):
        w = least(G)
        slope, value = G @ w, w @ G @ w
        assert w.min() >= 0 and abs(w.sum() - 1) < 1e-12
        small = 1e-6 * np.abs(G).max()
        assert slope.min() >= value - small
        assert np.abs(slope - value)[w > 0].max() <= small


@pytest.mark.parametrize(
    ("products", "weights"),
    [
        (np.diag([1.0, 1.0]), [0.5, 0.5]),  # errors that have nothing in common
        (np.diag([1.0, 3.0]), [0.75, 0.25]),
        (np.array([[1.0, 1.0], [1.0, 2.0]]), [1.0, 0.0]),  # nothing that the second adds
        (np.array([[2.0]]), [1.0]),
        (np.zeros((2, 2)) + np.diag([0.0, 1.0]), [1.0, 0.0]),  # no error at all
        (np.zeros((2, 2)), [1.0, 0.0]),
        (np.diag([1.0, 3.0]) - 5, [0.75, 0.25]),  # what is the same for all mixtures
    ],
)
def test_least_weights_of_known_forms(products, weights):
    np.testing.assert_allclose(least(products), weights, atol=1e-12)


def test_equal_teachers_share_any_weight():
    w = least(np.ones((3, 3)) + 1e-9 * np.eye(3))
    np.testing.assert_allclose(w, 1 / 3, rtol=1e-3)


@cache
def data() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Teachers that see different parts of a latent, or all of it badly; a strong model that sees it all, labels (n, 2) of it."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((N, 6))
    see = lambda part, d, noise=0.5: part @ rng.standard_normal((part.shape[1], d)) + noise * rng.normal(1, 1, (N, d))
    weak = {"left": see(latent[:, :3], 8), "right": see(latent[:, 3:], 10), "both": see(latent, 9, 4.0)}
    return weak, see(latent, 12), latent[:, [0, 4]] + latent[:, [3, 1]] + 0.1 * rng.standard_normal((N, 2)) + 1


def groups_of(labels: str) -> np.ndarray | None:
    return np.arange(N) // 2 if labels == "related" else None


def mask_of(labels: str) -> np.ndarray:
    return np.arange(N) % 6 < 4 if labels != "all" else np.full(N, True)


def ranked(labels: str, normalize: str, objective: str) -> tuple[rank.SupervisorTable, np.ndarray]:
    """The table, and the products that its mixture comes from; teachers as in `data`."""
    weak, strong, y = data()
    known = {"y": y, "labelled_rows": mask_of(labels)} if labels != "none" else {}
    found, best = [], mixture.best_mixture
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixture, "best_mixture", lambda *given: found.append(given[1]) or best(*given))
        chosen = {"groups": groups_of(labels), "folds": FOLDS, "normalize": normalize, "mixture": objective}
        table = rank_supervisors(weak, strong, **known, **RIDGES, **chosen)
    return table, found[0]


def experiments(labels: str, trial: bool) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows that fit the weak head, teach the student and test it, of the trial or of the expected experiment."""
    mask, groups = mask_of(labels), groups_of(labels)
    fold = lay_out(N, FOLDS, None if labels == "none" else mask, groups, 0).cell % FOLDS
    for test in range(FOLDS):
        turn = (fold - test) % FOLDS
        if not trial:
            yield turn == 1, turn == 2, turn == 0
        elif labels == "all":
            yield from ((turn == 1, turn == 2, turn == 0), (turn == 2, turn == 1, turn == 0))
        else:
            yield mask & (turn > 0), ~mask & (turn > 0) if groups is not None else ~mask, mask & (turn == 0)


def seen(normalize: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Weak and strong representations as heads see them."""
    see = (lambda x: x) if normalize == "none" else lambda x: reference.normalized(x, normalize == "features")
    weak, strong, _ = data()
    return [see(h) for h in weak.values()], see(strong)


BETAS = tuple(RIDGES.values())


@pytest.mark.everything(but=1)
@pytest.mark.parametrize(("labels", "normalize"), CASES)
def test_products_of_the_trial_are_those_of_rows(labels, normalize, x64):
    """Students on rows by dense NumPy: the mean product of what two of them err by."""
    table, got = ranked(labels, normalize, "trial")
    (weak, z), y, products = seen(normalize), data()[2], []
    for A, B, C in experiments(labels, trial=True):
        mean = 0 if normalize == "none" else y[A].mean(0)
        heads = [reference.taught((h[A], h[B], h[C]), z[B], BETAS)[2] @ (y[A] - mean) for h in weak]
        errors = np.array([(z[C] @ head - (y[C] - mean)).reshape(-1) for head in heads])
        products.append(errors @ errors.T / C.sum())
    assert relative_error(got, np.mean(products, 0)) < 1e-10
    assert table.mixtures["strong"].single_error == pytest.approx(table["trial_error"].min())


@pytest.mark.everything(but=1)
@pytest.mark.parametrize(("labels", "normalize"), CASES)
def test_products_of_misfits_are_those_of_rows(labels, normalize, x64):
    """The bound of any mixture's teacher on rows, by the formula as printed; along differences of weights it is convex."""
    _, got = ranked(labels, normalize, "misfit")
    (weak, z), y, bounds = seen(normalize), data()[2], []
    for A, B, C in experiments(labels, trial=True):
        mean = 0 if normalize == "none" else y[A].mean(0)
        maps = [reference.taught((h[A], h[B], h[C]), z[B], BETAS)[:2] for h in weak]
        on_B, on_C = (np.array([f @ (y[A] - mean) for f in of]) for of in zip(*maps, strict=True))
        mixed = [np.tensordot(SIMPLEX, f, 1) for f in (on_B, on_C)]
        bounds.append([reference.misfit_bound(*f, y[C] - mean, z[B], BETAS[1]) for f in zip(*mixed, strict=True)])
    assert relative_error(np.einsum("si,ij,sj->s", SIMPLEX, got, SIMPLEX), np.mean(bounds, 0)) < 1e-10
    across = np.eye(3) - 1 / 3
    assert np.linalg.eigvalsh(across @ got @ across).min() > -1e-12


def test_the_misfit_bounds_the_students_error():
    """On its own rows, of a target that it can express: by `b |theta - theta*|^2` and a number that no weights change."""
    rng = np.random.default_rng(0)
    h, beta, target = rng.standard_normal((40, 7)), 0.3, rng.standard_normal((7, 2))
    y, square = h @ target, lambda x: np.sum(x * x) / len(x)
    for _ in range(5):
        f = y + rng.standard_normal((40, 2)) * rng.random(2)
        head = reference.ridge_head(h, f, beta)
        bound = reference.misfit_bound(f, f, y, h, beta) + beta * np.sum(target**2)
        assert square(h @ head - y) + beta * np.sum((head - target) ** 2) == pytest.approx(bound)


@pytest.mark.everything(but=1)
@pytest.mark.parametrize(("labels", "normalize"), [*CASES, ("none", "features")])
def test_products_of_random_labels_are_those_of_rows(labels, normalize, x64):
    """Of labels that are random linear functions of the strong rows plus noise, which all teachers may have in common."""
    table, got = ranked(labels, normalize, "expected")
    (weak, z), products = seen(normalize), []
    target = np.eye(z.shape[1]) / np.sqrt(np.trace(z.T @ z / N))
    for A, B, C in experiments(labels, trial=False):
        heads = [reference.taught((h[A], h[B], h[C]), z[B], BETAS)[2] for h in weak]
        missed = np.array([(z[C] @ (head @ z[A] - np.eye(len(target))) @ target).reshape(-1) for head in heads])
        strayed = np.array([(z[C] @ head).reshape(-1) for head in heads])
        products.append((missed @ missed.T + np.outer(*[np.linalg.norm(strayed, axis=1)] * 2)) / C.sum())
        assert np.all(strayed @ strayed.T <= np.outer(*[np.linalg.norm(strayed, axis=1)] * 2) + 1e-12)
    assert relative_error(got, np.mean(products, 0)) < 1e-9
    assert table.mixtures["strong"].single_error == pytest.approx(table["expected_error"].min())


@pytest.mark.everything(but=1)
@pytest.mark.parametrize(("labels", "normalize"), CASES)
def test_products_of_the_posterior_are_near_those_of_rows(labels, normalize, x64):
    """Correlations come from 64 draws of labels, squares are the posterior's errors."""
    table, got = ranked(labels, normalize, "posterior")
    place = [table.names.index(name) for name in data()[0]]
    np.testing.assert_allclose(np.diag(got), table["posterior_error"][place])
    (weak, z), y, mask, groups = seen(normalize), data()[2], mask_of(labels), groups_of(labels)
    y = y if normalize == "none" else y - y[mask].mean(0)
    points = reference.label_posterior(
        z,
        z[mask],
        y[mask],
        (PRIORS, SHARES, CORRELATIONS if groups is not None else (0.0,)),
        None if groups is None else groups[mask],
    )
    second = sum(w * (np.outer(mean, mean) + covariance) for w, mean, covariance, _, _ in points)
    noise, common = (sum(w * v * x for w, _, _, v, x in points) for points in ([(*p[:4], 1) for p in points], points))
    products = []
    for A, B, C in experiments(labels, trial=False):
        heads = [z[C] @ reference.taught((h[A], h[B], h[C]), z[B], BETAS)[2] for h in weak]
        missed = [head @ z[A] - z[C] for head in heads]
        inside = noise * np.eye(A.sum()) + (0 if groups is None else common * reference.group_projection(groups[A]))
        own = np.array([np.sqrt(np.sum((head @ inside) * head)) for head in heads])
        signal = np.array([[np.sum((a @ second) * b) for b in missed] for a in missed])
        products.append((signal + np.outer(own, own)) / C.sum() + noise)
    expected = np.mean(products, 0)
    np.testing.assert_allclose(np.diag(got), np.diag(expected), rtol=1e-6)
    assert np.abs(got - expected).max() < 0.1 * np.diag(expected).max()


def test_squares_of_products_are_predicted_errors():
    rng = np.random.default_rng(0)
    of = [x @ x.T for x in rng.standard_normal((2, 3, 5))]
    said = Prediction(np.array([1.0, 2.0, 3.0]), np.zeros(3), 0.3, 0.0)
    got = predicted_products(said, *of)
    np.testing.assert_allclose(np.diag(got), said.value)
    np.testing.assert_allclose(got, got.T)


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_no_other_weights_are_better(objective, precision):
    """Of three teachers, by brute force; and what is said are the form's values."""
    with computing_in(precision):
        table, products = ranked("masked", "features", objective)
    found = table.mixtures["strong"]
    w = np.array([found.weights.get(name, 0.0) for name in data()[0]])
    others = np.einsum("si,ij,sj->s", SIMPLEX, products, SIMPLEX)
    assert found.error <= others.min() + 1e-9 and found.error == pytest.approx(w @ products @ w)
    assert found.error >= others.min() - 0.01 * np.abs(products).max()
    assert found.objective == objective and np.count_nonzero(w) > 1
    assert found.single_error == pytest.approx(np.diag(products).min())
    assert found.mean_error == pytest.approx(products.mean())


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_order_and_copies_of_teachers_change_nothing(objective):
    weak, strong, y = data()
    of = lambda teachers: rank_supervisors(teachers, strong, y, mixture=objective, **RIDGES).mixtures["strong"]
    one, turned = of(weak), of(dict(reversed(weak.items())))
    copied = of(weak | {"left too": weak["left"]})
    assert turned.error == pytest.approx(one.error, rel=1e-4)
    # What the trial counts in the predicted error it counts over all teachers, and a copy is one more.
    assert copied.error == pytest.approx(one.error, rel=0.02 if objective == "predicted" else 1e-4)
    assert {name: pytest.approx(w, abs=2e-3) for name, w in one.weights.items()} == turned.weights


@cache
def of_halves() -> rank.SupervisorTable:
    weak, strong, y = data()
    return rank_supervisors({name: weak[name] for name in ("left", "right")}, strong, y, mixture=True, **RIDGES)


def test_teachers_of_different_parts_are_mixed():
    """Two that see halves of what the labels are of teach together what neither can alone."""
    table = of_halves()
    (mixture,) = table.mixtures.values()
    assert set(mixture.weights) == {"left", "right"} and mixture.objective == "predicted"
    assert mixture.error < mixture.single_error == pytest.approx(table["predicted_error"].min())
    assert sum(mixture.weights.values()) == pytest.approx(1)


def test_one_teacher_is_its_own_mixture():
    weak, strong, y = data()
    table = rank_supervisors({"both": weak["both"]}, {"s": strong}, y, mixture=True)
    assert table.mixtures["s"].weights == {"both": 1.0}
    assert table.mixtures["s"].error == pytest.approx(float(table["predicted_error"][0]))


def test_bools_of_numpy_are_bools(unchecked):
    weak, strong, _ = data()
    given, teachers = (np.True_, np.False_), {"both": weak["both"]}
    asked, not_asked = (rank_supervisors(teachers, strong, mixture=mixture) for mixture in given)
    assert (asked.mixtures["strong"].weights, not_asked.mixtures) == ({"both": 1.0}, {})


@pytest.mark.parametrize("objective", [True, "expected"])
def test_a_mixture_changes_no_score(objective):
    weak, strong, y = data()
    with_it, without = (rank_supervisors(weak, strong, y, mixture=mixture) for mixture in (objective, False))
    assert with_it.names == without.names and without.mixtures == {}
    for column in without.columns:
        np.testing.assert_allclose(with_it[column], without[column], rtol=1e-5)


def test_without_labels_random_ones_choose(unchecked):
    """Also where all labels are the same; of several strong models each has its own."""
    weak, strong, _ = data()
    table = rank_supervisors(weak, {"one": strong, "other": strong[:, :5]}, mixture=True)
    assert {name: found.objective for name, found in table.mixtures.items()} == dict.fromkeys(
        ("one", "other"), "expected"
    )
    assert "\nexpected error " in str(table.mixtures["one"])
    with pytest.warns(UserWarning, match="all 60 known labels are the same"):
        same = rank_supervisors(weak, strong, np.ones(N), mixture=True)
    assert same.mixtures["strong"].weights == pytest.approx(table.mixtures["one"].weights)


def test_of_many_directions_some_are_drawn(monkeypatch):
    """Their mean square is the prior; errors remain those of the table."""
    prior = jnp.linspace(1, 2, 6)
    exact = crossfit.prior_draws(prior)[..., 0]
    np.testing.assert_allclose(exact @ exact.T / exact.shape[1], np.diag(prior), atol=1e-5)
    monkeypatch.setattr(crossfit, "DIRECTIONS", 5)
    drawn = crossfit.prior_draws(jnp.ones(600))
    assert drawn.shape == (600, 5, 1) and abs(float(jnp.mean(drawn**2)) - 1) < 0.1
    weak, strong, _ = data()
    table = rank_supervisors(weak, strong, mixture=True)
    assert table.mixtures["strong"].single_error == pytest.approx(table["expected_error"].min())


def test_a_mixture_prints_and_converts():
    mixture = Mixture({"a": 0.997, "b": 0.003}, 0.1, 0.2, 0.3)
    assert str(mixture).splitlines()[1:] == [
        "1  a          1.00",
        "predicted error 0.1; of the best teacher alone 0.2, of all alike 0.3",
    ]
    assert "<table" in mixture._repr_html_()
    assert mixture.to_dict()["weights"] == {"a": 0.997, "b": 0.003}
    assert of_halves().to_dict()["mixtures"]["strong"].keys() == mixture.to_dict().keys()
    assert "bound by misfit 0.1;" in str(Mixture({"a": 1.0}, 0.1, 0.2, 0.3, "misfit"))


def test_bad_input_is_named(unchecked):
    weak, strong, _ = data()
    choices = "'predicted', 'posterior', 'trial', 'misfit', 'expected' or a bool"
    for y, asked, message in (
        (None, "trial", "mixture='trial' needs labels y that differ, got y=None"),
        (np.ones(N), "misfit", "mixture='misfit' needs labels y that differ, got labels that are all the same"),
        (None, "best", f"mixture must be {choices}, got 'best'"),
    ):
        with pytest.raises(InputError, match=message):
            rank_supervisors(weak, strong, y, mixture=asked)


def test_the_command_passes_it_on(tmp_path, monkeypatch):
    """`w2s rank --mixture [OBJECTIVE]`."""
    np.save(tmp_path / "h.npy", np.eye(6, 3, dtype=np.float32))
    seen = []

    def record(*_: object, **kwargs: object) -> None:
        seen.append(kwargs["mixture"])
        raise InputError("enough")

    monkeypatch.setattr(rank, "rank_supervisors", record)
    monkeypatch.setattr("w2s_jax.devices.programs.cache_compiled_programs", lambda: None)
    path = str(tmp_path / "h.npy")
    for asked in ([], ["--mixture"], ["--mixture", "misfit"]):
        assert main(["rank", "--strong", path, "--weak", path, "--quiet", *asked]) == 2
    assert seen == [False, True, "misfit"]
