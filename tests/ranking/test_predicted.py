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


def evidence(posterior: float, trial: float, bias: float = 0.0, models: int = MODELS) -> tuple[Evidence, np.ndarray]:
    """Of errors exp(order): noise of these sizes on every model's logarithm, and a trial that sees another order as well."""
    rng = np.random.default_rng(0)
    order = rng.standard_normal(models)
    noise = lambda size, *shape: size * rng.standard_normal((models, *shape))
    known = order + noise(posterior)
    tried = (order + noise(bias))[:, None] + noise(trial * FOLDS**0.5, FOLDS)
    drawn = known[:, None] + noise(posterior, DRAWS)
    return Evidence(*(np.exp(x) for x in (np.stack([known] * FOLDS, 1), drawn, tried))), np.exp(order)


@pytest.mark.parametrize(("posterior", "trial", "weight"), [(0.1, 0.1, 0.5), (0.3, 0.1, 0.9), (0.1, 0.3, 0.1)])
def test_it_weighs_by_what_each_knows(posterior, trial, weight):
    """The inverse of variances; better than either alone, on the average of models."""
    of, errors = evidence(posterior, trial, models=400)
    found = predicted_errors(of, 1.0)
    assert found.weight == pytest.approx(weight, abs=0.05)
    missed = lambda said: np.std(np.log(said / errors))
    assert missed(found.value) < min(missed(of.posterior.mean(1)), missed(of.trial.mean(1)))


def test_a_trial_on_few_labels_is_blamed_for_its_disagreement():
    """It sees another order than the posterior: on as many labels the posterior is blamed, on few of them the trial."""
    of, _ = evidence(0.05, 0.05, bias=0.5, models=100)
    weights = [predicted_errors(of, fitted).weight for fitted in (0.02, 0.3, 1.0)]
    assert weights[0] < 0.05 < weights[1] < 0.5
    assert weights[2] > 0.95


def test_a_trial_in_another_order_counts_for_nothing():
    """Where few labels give a trial that falls as the posterior rises it has no weight; with as many labels it has."""
    of, _ = evidence(0.5, 0.05)
    against = of._replace(trial=1 / of.trial)
    assert predicted_errors(against, 0.0).weight == 0
    assert predicted_errors(against, 1.0).weight > 0.5


def test_units_and_order_of_models_do_not_matter():
    of, _ = evidence(0.1, 0.2, bias=0.1)
    found = predicted_errors(of, 0.5)
    larger = predicted_errors(Evidence(*(1e6 * x for x in of[:3])), 0.5)
    turned = predicted_errors(Evidence(*(x[::-1] for x in of[:3])), 0.5)
    for other, factor, turn in ((larger, 1e-6, 1), (turned, 1, -1)):
        for field in ("value", "error"):
            assert relative_error(factor * getattr(other, field)[::turn], getattr(found, field)) <= 1e-10
        assert (other.weight, other.apart) == pytest.approx((found.weight, found.apart))


@pytest.mark.parametrize("models", [1, 2])
def test_few_models_and_no_error_at_all(models):
    """One teacher has no order; errors of 0 have no logarithm. Both give numbers."""
    of, _ = evidence(0.1, 0.2, models=models)
    for given in (of, of._replace(trial=0 * of.trial), Evidence(*(0 * x for x in of[:3]))):
        found = predicted_errors(given, 0.5)
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
    for _ in range(30):
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
    parts = lambda i: Evidence(*(x[i] for x in of[:3]))
    lost = Evidence(*(np.full_like(x[0], np.nan) for x in of[:3]))
    pairs = {("s", str(i)): Scored({}, parts(i)) for i in range(MODELS)}
    without = {key: Scored({}, scored.evidence) for key, scored in pairs.items()}
    pairs["s", "lost"] = Scored({}, lost)
    said = predict(pairs, 1.0)["s"]
    predict(without, 1.0)
    assert np.isnan(pairs["s", "lost"].scores["predicted_error"].value)
    for key, scored in without.items():
        assert pairs[key].scores["predicted_error"] == scored.scores["predicted_error"]
    assert "differ" in said_of("s", said, 30, 0.5)
    alone = {("s", "lost"): Scored({}, lost)}
    assert said_of("s", predict(alone, 1.0)["s"], 30, 0.5)
