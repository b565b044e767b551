"""Rankings for planned numbers of rows: against dense NumPy, a known population, and the rows that are there."""

from __future__ import annotations

import warnings
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import computing_in, quickly, relative_error
from simulated import power_law

from w2s_jax import InputError
from w2s_jax.cli import main
from w2s_jax.ranking import rank
from w2s_jax.ranking.folds import lay_out
from w2s_jax.theory.equivalent import Population, planned_errors
from w2s_jax.theory.kappa import stand_in
from w2s_jax.theory.label_fits import CORRELATIONS, PRIORS, SHARES

N = 60
WIDTHS = {"a": 10, "c": 30}  # c has more features than a fold has rows
BETAS = (3e-2, 4e-2)
rank_supervisors = partial(rank.rank_supervisors, weak_ridge=BETAS[0], strong_ridge=BETAS[1], normalize="none")


def rows(dtype: str) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Weak, strong, labels (n, 1), of a shared latent."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((N, 6))
    see = lambda d: latent @ rng.standard_normal((6, d)) / d + 0.4 * rng.standard_normal((N, d)) / d**0.5
    weak = {name: see(d).astype(dtype) for name, d in WIDTHS.items()}
    return weak, see(24).astype(dtype), (latent[:, :1] + 0.3 * rng.standard_normal((N, 1))).astype(dtype)


@pytest.mark.parametrize("precision", quickly(["float32", "float64"], "float32"))
def test_against_rows(precision):
    """Expected and posterior errors, these with related rows, are the formulas on rows, for more labels, fewer student rows."""
    weak, strong, y = rows(precision)
    groups, planned = np.arange(N) // 2, (50, 15)
    with computing_in(precision):
        table = rank_supervisors(weak, strong, y, groups=groups, n_labelled=planned[0], n_student=planned[1], prior=1.5)
    settings = {key: value for key, value in table.settings.items() if key.endswith(("n_labelled", "n_student"))}
    assert settings == {"n_labelled": N, "planned_n_labelled": 50, "planned_n_student": 15}
    s, y = np.float64(strong), np.float64(y)
    fold = lay_out(N, 3, np.ones(N, bool), groups, 0).cell
    values, vectors = np.linalg.eigh(s.T @ s / N)
    root = vectors * values**0.25 / np.sqrt(np.sum(values**1.5))
    points = reference.label_posterior(s, s, y, (PRIORS, SHARES, CORRELATIONS), groups)
    found = {"expected_error": [], "expected_gap": [], "posterior_error": []}
    for name in table.names:
        folds = np.zeros((3, 3))
        for test in range(3):
            turn = (fold - test) % 3
            A, B, C = turn == 1, turn == 2, turn == 0
            blocks = [tuple(x[part] for part in (A, B, C)) for x in (weak[name], s)]
            experiment = partial(reference.planned_experiment, *blocks, BETAS, planned)
            folds[test, :2] = experiment(root, np.eye(A.sum()))
            related = reference.group_projection(groups[A])
            for weight, mean, covariance, noise, c in points:
                known = reference.matrix_sqrt(np.outer(mean, mean) + covariance)
                folds[test, 2] += weight * (noise + experiment(known, noise * (np.eye(A.sum()) + c * related))[0])
        for column, value in zip(found, folds.mean(0), strict=True):
            found[column].append(value)
    error = max(relative_error(table[column], np.array(value)) for column, value in found.items())
    assert error <= (1e-9 if precision == "float64" else 1e-4)


@pytest.mark.everything
def test_a_known_population():
    """From 60 rows a fold and 60 features, error and gap of 30 to 300 rows are those of the population: within 6%, mean of four
    draws, where the rows' own are off by up to a factor of three. What a fold's rows cannot tell is said."""
    m = {name: np.asarray(x, float) / 4.68 for name, x in power_law(60, 1.0).items()}  # mean squared rows of 1
    population = Population(*(jnp.asarray(m[name]) for name in ("ww", "ss", "sw", "wy", "sy", "yy")), noise=1.0)
    labels = jnp.eye(60) / np.trace(m["ss"])
    root = reference.matrix_sqrt(np.block([[m["ww"], m["sw"].T], [m["sw"], m["ss"]]]))
    draws = [np.float32(np.random.default_rng(i).standard_normal((180, 120)) @ root) for i in range(4)]

    def errors(z: np.ndarray, n: int, ridge: float) -> list[float]:
        ranked = partial(rank.rank_supervisors, {"w": z[:, :60]}, z[:, 60:], normalize="none")
        table = ranked(weak_ridge=ridge, strong_ridge=ridge, n_labelled=n, n_student=n)
        return [table["expected_error"][0], table["expected_gap"][0]]

    for n in (30, 300):
        known = planned_errors(population, labels, *(jnp.asarray(x) for x in (n, n, 0.01, 0.01)))
        assert relative_error(np.mean([errors(z, n, 0.01) for z in draws], 0), np.array(known)) <= 0.06
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        errors(draws[0], 5000, 1e-6)
    said = [str(warning.message) for warning in caught if "a fold's rows cannot tell" in str(warning.message)]
    assert [text.split(":")[0] for text in said] == ["strong representation 'strong'", "weak representation 'w'"]


def test_rows_that_are_there_and_padding():
    """Planning a fold's rows changes no number, and columns of zeros none either."""
    weak, strong, y = rows("float32")
    weak["d"] = np.pad(weak["c"], ((0, 0), (0, 1)))
    there, planned = (rank_supervisors(weak, strong, y, n_labelled=n, n_student=n) for n in (None, N // 3))
    assert set(planned.settings) - set(there.settings) == {"planned_n_labelled", "planned_n_student"}
    for column in ("expected_error", "expected_gap", "posterior_error", "predicted_error", "trial_error"):
        assert relative_error(planned[column], there[column]) <= 1e-5
    more = rank_supervisors(weak, strong, y, n_labelled=4 * N, n_student=N // 3)
    of = lambda name, column: more[column][more.names.index(name)]
    for column in ("expected_error", "expected_gap", "posterior_error"):
        assert abs(of("d", column) / of("c", column) - 1) <= 2e-5
        assert np.all(np.sort(more[column]) < np.sort(there[column]))


def test_the_penalty_that_stands_for_planned_rows(x64):
    """It solves its equation, for more rows and fewer than there are; where none does, it is 0 and says so."""
    h = np.random.default_rng(0).standard_normal((20, 30)) / 30**0.5
    for width, beta, planned in (
        (30, 0.3, 60),
        (30, 0.1, 8),
        (12, 1e-3, 200),
        (12, 0.0, 15),
        (30, 1e-3, 60),
        (30, 0.2, 20),
    ):
        seen = h[:, :width]
        values = np.maximum(np.linalg.eigvalsh(seen.T @ seen / 20)[::-1], 0)
        found = stand_in(*(jnp.asarray(x, float) for x in (values, 20.0, beta, planned)))
        penalty, slack = reference.planned_penalty(seen, beta, planned)
        assert np.isclose(found.ridge, penalty, rtol=1e-9, atol=1e-11) and np.isclose(found.slack, slack, rtol=1e-6)
        assert bool(found.short) == ((width, beta) == (30, 1e-3))


def test_bad_input_is_named(unchecked):
    """Numbers of rows that are none, and mixtures, whose students are those of the rows at hand."""
    weak, strong, y = rows("float32")
    for given, message in (
        ({"n_labelled": 0}, "n_labelled must be an integer of at least 1, got 0"),
        ({"n_student": 2.5}, "n_student must be an integer of at least 1, got 2.5"),
        ({"n_labelled": True}, "n_labelled must be an integer of at least 1, got True"),
        (
            {"n_student": 9, "mixture": True},
            "mixture is of the rows at hand and takes no planned rows, got {'n_student': 9}",
        ),
    ):
        with pytest.raises(InputError, match=message):
            rank_supervisors(weak, strong, y, **given)


def test_the_command_passes_them_on(tmp_path, monkeypatch):
    """`w2s rank --n-labelled 5 --n-student 7`."""
    np.save(tmp_path / "h.npy", np.eye(6, 3, dtype=np.float32))
    seen = {}

    def record(*_: object, **kwargs: object) -> None:
        seen.update(kwargs)
        raise InputError("enough")

    monkeypatch.setattr(rank, "rank_supervisors", record)
    monkeypatch.setattr("w2s_jax.devices.programs.cache_compiled_programs", lambda: None)
    path = str(tmp_path / "h.npy")
    assert main(["rank", "--strong", path, "--weak", path, "--n-labelled", "5", "--n-student", "7", "--quiet"]) == 2
    assert (seen["n_labelled"], seen["n_student"]) == (5, 7)
