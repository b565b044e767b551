"""Mixtures of teachers: the least weights by their optimality conditions, products of errors against rows, what is said."""

from __future__ import annotations

from functools import cache

import jax
import numpy as np
import pytest
import reference
from conftest import relative_error

from w2s_jax import InputError, rank_supervisors
from w2s_jax.ranking import rank
from w2s_jax.ranking.folds import lay_out
from w2s_jax.ranking.mixture import Mixture, StrongSide, error_products, least, posterior_products, trial_products
from w2s_jax.ranking.predicted import Prediction
from w2s_jax.ranking.scores import Taught

N, FOLDS = 60, 3
RIDGES = {"weak_ridge": 1e-2, "strong_ridge": 2e-2}
CASES = (("all", "features"), ("masked", "none"), ("related", "scale"))  # labels, normalize


@pytest.mark.parametrize("rank_of", [2, 5, 12])
@pytest.mark.parametrize("seed", range(4))
def test_least_weights_are_optimal(rank_of, seed):
    """No weight can move without making the form larger: `(G w)_i` is least, and the same, where a weight is not zero."""
    rng = np.random.default_rng(seed)
    errors = 0.5 + rng.standard_normal((8, rank_of))
    G = errors @ errors.T
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
    ],
)
def test_least_weights_of_known_forms(products, weights):
    np.testing.assert_allclose(least(products), weights, atol=1e-12)


def test_equal_teachers_share_any_weight():
    w = least(np.ones((3, 3)) + 1e-9 * np.eye(3))
    np.testing.assert_allclose(w, 1 / 3, rtol=1e-3)


@cache
def data() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Teachers that see different parts of a latent, a strong model that sees it all, labels (n, 2) of it."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((N, 6))
    see = lambda part, d: part @ rng.standard_normal((part.shape[1], d)) + 0.5 * rng.standard_normal((N, d)) + 1
    weak = {"left": see(latent[:, :3], 8), "right": see(latent[:, 3:], 10), "both": see(latent, 9)}
    return weak, see(latent, 12), latent[:, [0, 4]] + latent[:, [3, 1]] + 0.1 * rng.standard_normal((N, 2)) + 1


def groups_of(labels: str) -> np.ndarray | None:
    return np.arange(N) // 2 if labels == "related" else None


def mask_of(labels: str) -> np.ndarray:
    return np.arange(N) % 6 < 4 if labels != "all" else np.full(N, True)


def table_of(labels: str, normalize: str = "features") -> rank.SupervisorTable:
    weak, strong, y = data()
    known = {"labelled_rows": mask_of(labels), "groups": groups_of(labels), "folds": FOLDS}
    return rank_supervisors(weak, strong, y, mixture=True, normalize=normalize, **RIDGES, **known)


@cache
def parts(labels: str, normalize: str) -> tuple[Taught, StrongSide, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What the products are made of, as the ranking finds it; trial's and drawn errors by teacher."""
    seen: dict[str, Taught] = {}
    keep, original = {}, rank.mixed

    def spy(students, said, strong, layout, bias):
        seen.update(students)
        keep["strong"] = strong
        return original(students, said, strong, layout, bias)

    evidence = {}
    finish = rank._finish

    def spy_finish(*args):
        found = finish(*args)
        evidence.update({name: scored.evidence for (_, name), scored in found.items()})
        return found

    with pytest.MonkeyPatch.context() as patch, jax.enable_x64(True):
        patch.setattr(rank, "mixed", spy)
        patch.setattr(rank, "_finish", spy_finish)
        table_of(labels, normalize)
    students = jax.tree.map(lambda *x: np.stack(x), *seen.values())
    trial, drawn = ({name: np.asarray(getattr(evidence[name], of)) for name in seen} for of in ("trial", "drawn"))
    return students, keep["strong"], trial, drawn


@pytest.mark.everything
@pytest.mark.parametrize(("labels", "normalize"), CASES)
def test_products_of_the_trial_are_those_of_rows(labels, normalize):
    """Taughts on rows by dense NumPy: the mean product of what two of them err by."""
    students, strong, trial, _ = parts(labels, normalize)
    mask, groups = mask_of(labels), groups_of(labels)
    layout = lay_out(N, FOLDS, mask, groups, 0)
    got = trial_products(students.kernels, strong.cells, layout, normalize != "none")
    assert relative_error(np.diag(got), [x.mean() for x in trial.values()]) < 1e-10
    weak, z, y = data()
    see = (lambda x: x) if normalize == "none" else lambda x: reference.normalized(x, normalize == "features")
    fold, expected = layout.cell % FOLDS, np.zeros((3, 3))
    for test in range(FOLDS):
        turn = (fold - test) % FOLDS
        plays = [(turn == 1, turn == 2, turn == 0), (turn == 2, turn == 1, turn == 0)]
        if labels != "all":
            plays = [(mask & (turn > 0), ~mask & (turn > 0) if groups is not None else ~mask, mask & (turn == 0))]
        for A, B, C in plays:
            mean = 0 if normalize == "none" else y[A].mean(0)
            errors = []
            for h in map(see, weak.values()):
                pseudo = h[B] @ reference.ridge_head(h[A], y[A] - mean, RIDGES["weak_ridge"])
                student = reference.ridge_head(see(z)[B], pseudo, RIDGES["strong_ridge"])
                errors.append((see(z)[C] @ student - (y[C] - mean)).reshape(-1) / np.sqrt(C.sum()))
            expected += np.array(errors) @ np.array(errors).T / (FOLDS * len(plays))
    assert relative_error(got, expected) < 1e-10


@pytest.mark.parametrize(("labels", "normalize"), CASES)
def test_products_of_drawn_labels(labels, normalize):
    """A teacher's own product is the mean of its drawn errors, noise included; two teachers' signal is the mean over draws."""
    students, strong, _, drawn = parts(labels, normalize)
    got = posterior_products(students, strong)
    assert relative_error(np.diag(got), [x.mean() for x in drawn.values()]) < 1e-10
    silent = strong._replace(noise=0.0, shared=0.0)
    folds, _, draws, _ = students.missed.shape[1:]
    signal = sum(
        np.sum(students.missed[0, fold, :, draw] * students.missed[1, fold, :, draw])
        for fold in range(folds)
        for draw in range(draws)
    )
    assert relative_error(posterior_products(students, silent)[0, 1], signal / (folds * draws)) < 1e-10


def test_squares_of_products_are_predicted_errors():
    rng = np.random.default_rng(0)
    of = [x @ x.T for x in rng.standard_normal((2, 3, 5))]
    said = Prediction(np.array([1.0, 2.0, 3.0]), np.zeros(3), 0.3, 0.0)
    got = error_products(said, *of)
    np.testing.assert_allclose(np.diag(got), said.value)
    np.testing.assert_allclose(got, got.T)


@cache
def of_halves() -> rank.SupervisorTable:
    weak, strong, y = data()
    return rank_supervisors({name: weak[name] for name in ("left", "right")}, strong, y, mixture=True, **RIDGES)


@pytest.mark.everything
def test_teachers_of_different_parts_are_mixed():
    """Two that see halves of what the labels are of teach together what neither can alone."""
    table = of_halves()
    (mixture,) = table.mixtures.values()
    assert set(mixture.weights) == {"left", "right"}
    assert mixture.error < mixture.single_error == pytest.approx(table["predicted_error"].min())
    assert sum(mixture.weights.values()) == pytest.approx(1)


def test_one_teacher_is_its_own_mixture():
    weak, strong, y = data()
    table = rank_supervisors({"both": weak["both"]}, {"s": strong}, y, mixture=True)
    assert table.mixtures["s"].weights == {"both": 1.0}
    assert table.mixtures["s"].error == pytest.approx(float(table["predicted_error"][0]))


def test_a_mixture_changes_no_score():
    weak, strong, y = data()
    with_it, without = (rank_supervisors(weak, strong, y, mixture=mixture) for mixture in (True, False))
    assert with_it.names == without.names and without.mixtures == {}
    for column in without.columns:
        np.testing.assert_allclose(with_it[column], without[column], rtol=1e-5)


def test_a_mixture_prints_and_converts():
    mixture = Mixture({"a": 0.997, "b": 0.003}, 0.1, 0.2, 0.3)
    assert str(mixture).splitlines()[1:] == [
        "1  a          1.00",
        "predicted error 0.1; of the best teacher alone 0.2, of all alike 0.3",
    ]
    assert "<table" in mixture._repr_html_()
    assert mixture.to_dict()["weights"] == {"a": 0.997, "b": 0.003}
    assert of_halves().to_dict()["mixtures"]["strong"].keys() == mixture.to_dict().keys()


def test_mixtures_need_labels():
    weak, strong, _ = data()
    with pytest.raises(InputError, match="mixture needs labels y, got y=None"):
        rank_supervisors(weak, strong, mixture=True)
