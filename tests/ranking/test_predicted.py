"""The prediction made of posterior and trial: who counts where, what its error holds, what is said of it."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import relative_error

from w2s_jax import model_moments, rank_supervisors
from w2s_jax.ranking.predicted import Prediction, Scored, predict, predicted_errors, said_of
from w2s_jax.ranking.scores import Evidence
from w2s_jax.theory import label_posterior

MODELS, FOLDS, DRAWS = 8, 3, 400


def evidence(mistaken: float, chance: float, models: int = MODELS) -> tuple[Evidence, np.ndarray]:
    """Of errors exp(order), of variance 1: a posterior that strays by `mistaken` on every model's logarithm and knows of no more
    than .01, and a trial that does not, with noise of size `chance` on every fold."""
    rng = np.random.default_rng(0)
    order = rng.standard_normal(models)
    noise = lambda size, *shape: size * rng.standard_normal((models, *shape))
    known = order + noise(mistaken)
    drawn, tried = known[:, None] + noise(0.01, DRAWS), order[:, None] + noise(chance, FOLDS)
    of_folds = np.stack([known] * FOLDS, 1)
    return Evidence(*(np.exp(x) for x in (of_folds, drawn, tried, of_folds))), np.exp(order)


def missed(of: np.ndarray, errors: np.ndarray) -> float:
    return float(np.std(np.log(of / errors)))


@pytest.mark.parametrize(("mistaken", "chance"), [(0.3, 0.1), (0.3, 0.3), (0.1, 0.5)])
def test_the_trial_moves_by_what_is_no_chance(mistaken, chance):
    """Weights are the share of the departures' square, as far as both orders are one; the chance of folds is larger than their
    spread says, by labels that they share. Where the trial knows better the prediction is better than the posterior."""
    of, errors = evidence(mistaken, chance, models=2000)
    found = predicted_errors(of)
    variance = (1 / FOLDS + 1 / (FOLDS - 1)) * chance**2
    square = mistaken**2 + chance**2 / FOLDS
    alike = (1 + mistaken**2) ** -2 * (1 + chance**2 / FOLDS) ** -2
    assert found.weight == pytest.approx(alike * square / (square + variance), abs=0.03)
    posterior, trial = (missed(x.mean(1), errors) for x in (of.posterior, of.trial))
    assert trial < posterior or mistaken < chance
    assert missed(found.value, errors) < (0.7 * posterior if mistaken >= chance else 1.2 * posterior)


def test_other_rows_than_planned_do_not_matter():
    """What a trial on other rows makes of every teacher is foreseen, and moves nothing."""
    of, _ = evidence(0.3, 0.1)
    design = np.exp(np.linspace(0, 2, MODELS))[:, None]
    assert np.ptp(np.log((of.trial * design).mean(1) / of.posterior.mean(1))) > 1
    found, other = (
        predicted_errors(of),
        predicted_errors(of._replace(trial=of.trial * design, foreseen=of.foreseen * design)),
    )
    assert relative_error(other.value, found.value) <= 1e-10
    assert relative_error(other.error, found.error) <= 1e-10


@pytest.mark.parametrize("chance", [0.1, 1.0])
def test_the_level_of_all_teachers(chance):
    """A trial above what was foreseen of it raises all errors by that, if all folds say so, and by less if they do not."""
    of, _ = evidence(0.0, 0.0)
    of_fold = 1.5 * np.exp(chance * np.array([-1, 0, 1]))
    found = predicted_errors(of._replace(trial=of.foreseen * of_fold))
    away, variance = np.log(of_fold.mean()), chance**2 / FOLDS
    weight = away**2 / (away**2 + variance)
    known = np.var(np.log(of.drawn).mean(0), ddof=1)
    assert np.log(found.value / of.posterior.mean(1)) == pytest.approx(weight * away, rel=1e-6)
    assert found.error / found.value == pytest.approx((known + weight * variance) ** 0.5, rel=0.05)


def test_departures_that_cancel():
    """Where the folds' departures cancel the trial moves nothing, however large they are."""
    of, _ = evidence(0.0, 0.0, models=100)
    cancel = np.exp(np.random.default_rng(1).standard_normal((100, FOLDS)))
    found = predicted_errors(of._replace(trial=of.foreseen * cancel / cancel.mean(1, keepdims=True)))
    assert found.weight == pytest.approx(0, abs=1e-6)
    assert found.value == pytest.approx(of.posterior.mean(1), rel=1e-6)


def test_a_trial_that_says_the_opposite_leaves_no_one_surer():
    """It moves nothing, but its chance is among the errors."""
    order, noise = np.linspace(0, 1, 4)[:, None], 0.2 * np.random.default_rng(0).standard_normal((4, FOLDS))
    of = Evidence(*(np.exp(order + np.zeros(of)) for of in (FOLDS, DRAWS, FOLDS, FOLDS)))
    same, opposite = (predicted_errors(of._replace(trial=np.exp(scale * order + noise))) for scale in (1.5, -1))
    assert opposite.weight == 0 and same.weight > 0.5
    assert opposite.apart > same.apart


def test_a_trial_in_another_order_counts_for_nothing():
    """Where it falls as the posterior rises, heads on a handful of labels are as good as none."""
    of, _ = evidence(0.0, 0.05)
    assert predicted_errors(of._replace(trial=1 / of.trial)).weight == 0
    assert predicted_errors(of._replace(trial=of.trial**1.5)).weight > 0.5


def test_units_and_order_of_models_do_not_matter():
    of, _ = evidence(0.1, 0.2)
    found = predicted_errors(of)
    larger = predicted_errors(Evidence(*(1e6 * x for x in of[:4])))
    turned = predicted_errors(Evidence(*(x[::-1] for x in of[:4])))
    for other, factor, turn in ((larger, 1e-6, 1), (turned, 1, -1)):
        for field in ("value", "error"):
            assert relative_error(factor * getattr(other, field)[::turn], getattr(found, field)) <= 1e-10
        assert (other.weight, other.apart) == pytest.approx((found.weight, found.apart))


@pytest.mark.parametrize("models", [1, 2])
def test_few_models_and_no_error_at_all(models):
    """One teacher has no order; errors of 0 have no logarithm. Both give numbers."""
    of, _ = evidence(0.1, 0.2, models=models)
    for given in (of, of._replace(trial=0 * of.trial), Evidence(*(0 * x for x in of[:4]))):
        found = predicted_errors(given)
        assert np.isfinite([*found.value, *found.error, found.weight, found.apart]).all()


def test_what_is_said():
    """Who is level with the first, by standard errors of a difference, and what a blind strong model makes of it all."""
    prediction = Prediction(np.exp([0.3, 0.0, 0.1]), np.ones(3), 0.32, 0.1)
    assert said_of("big", prediction, 40, 0.5) == (
        "big: 40 labels, of which it expresses 50%; trial's weight 0.3; the first 2 do not differ beyond their errors"
    )
    assert said_of("big", prediction._replace(apart=0.01), 40, 0.5).endswith("the first differs from all others")
    alone = said_of("big", Prediction(np.ones(1), np.ones(1), 0.32, 0.1), 40, 0.5)
    assert alone == "big: 40 labels, of which it expresses 50%; trial's weight 0.3"
    blind = said_of("big", prediction, 40, 0.02)
    assert (
        blind
        == "big: 40 labels, of which it expresses 2%: there is little to teach, and labels as few may order teachers wrongly"
    )


@pytest.mark.everything
def test_the_interval_holds_the_error_of_the_student(x64):
    """Labels as a prior has them, 40 of 150 known, and the error over all roles with all of them: 90% intervals hold it."""
    rng = np.random.default_rng(0)
    strong = rng.standard_normal((150, 10)) / np.arange(1, 11) ** 0.5
    weak = {f"{d}": strong @ rng.standard_normal((10, d)) + rng.standard_normal((150, d)) for d in (3, 6)}
    held = []
    for _ in range(120):
        y = strong @ (rng.standard_normal(10) / np.arange(1, 11) ** 0.5) + 0.5 * rng.standard_normal(150)
        some, every = (rank_supervisors(weak, strong, y, labelled_rows=np.arange(150) < m) for m in (40, 150))
        truth = dict(zip(every.names, every["trial_error"], strict=True))
        away = np.log([truth[name] for name in some.names] / some["predicted_error"])
        held += (np.abs(away) <= 1.645 * some.se("predicted_error") / some["predicted_error"]).tolist()
    assert 0.8 <= np.mean(held) <= 0.98


def test_what_the_strong_model_is_said_to_express():
    """What the posterior of the labels says over all shares, the least ones too: next to nothing of noise."""
    rng = np.random.default_rng(0)
    strong = rng.standard_normal((400, 20))
    weak = {"a": strong[:, :8], "b": strong[:, 4:16]}
    for y, said in ((rng.standard_normal(400), "there is little to teach"), (strong[:, 0], "differ")):
        (note,) = rank_supervisors(weak, strong, y, normalize="none").notes
        share = float(label_posterior(model_moments(strong, bias=False), strong, y).share)
        assert f"400 labels, of which it expresses {share:.0%}" in note and said in note


@pytest.mark.everything
def test_the_sentence_stands_below_the_table():
    """One for each strong model, also in its dict and in HTML; none without labels."""
    rng = np.random.default_rng(0)
    strong = rng.standard_normal((60, 6))
    weak, both = {"a": strong[:, :3], "b": strong[:, :5]}, {"s": strong, "t": strong[:, 1:]}
    table = rank_supervisors(weak, both, strong[:, 0])
    assert [note.partition(":")[0] for note in table.notes] == ["s", "t"]
    assert str(table).endswith("\n".join(table.notes))
    assert table.to_dict()["notes"] == list(table.notes)
    assert table.notes[0][:40] in table.sort_by("cka")._repr_html_()
    assert rank_supervisors(weak, both).notes == ()


def test_a_teacher_without_numbers_costs_no_other_its_prediction():
    """What rounding has made of one model is NaN for that one; the others are as without it."""
    of, _ = evidence(0.1, 0.1)
    parts = lambda i: Evidence(*(x[i] for x in of[:4]))
    lost = Evidence(*(np.full_like(x[0], np.nan) for x in of[:4]))
    pairs = {("s", str(i)): Scored({}, parts(i)) for i in range(MODELS)}
    without = {key: Scored({}, scored.evidence) for key, scored in pairs.items()}
    pairs["s", "lost"] = Scored({}, lost)
    said = predict(pairs)["s"]
    predict(without)
    assert np.isnan(pairs["s", "lost"].scores["predicted_error"].value)
    for key, scored in without.items():
        assert pairs[key].scores["predicted_error"] == scored.scores["predicted_error"]
    assert "differ" in said_of("s", said, 30, 0.5)
    alone = {("s", "lost"): Scored({}, lost)}
    assert said_of("s", predict(alone)["s"], 30, 0.5)
