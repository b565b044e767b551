"""The experiments on real models: their own dense measurement against the package's, and how scores are judged."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

import w2s_jax as w2s
from benchmarks import leaderboard
from benchmarks.experiments import measure, mixtures, priors, results, run
from benchmarks.experiments.page import page, tables
from benchmarks.experiments.text.tasks import FILES, alike, chosen, load
from benchmarks.experiments.text.teachers import plain
from w2s_jax.predictors import PREDICTORS
from w2s_jax.ranking.folds import deal, grouped_folds
from w2s_jax.theory import group_moments, label_posterior, posterior_experiment

DATA = Path(os.environ.get("W2S_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((120, 6))
    mix = lambda width, noise: z @ rng.standard_normal((6, width)) + noise * rng.standard_normal((120, width))
    own = {
        "big:layer1": mix(8, 0.1),
        "big:layer2": mix(8, 0.3),
        "small:layer1": mix(5, 1),
        "other:layer1": mix(60, 0.5),
    }
    own["small:layer1"][:, 0] *= 300  # a massive channel
    return {name: h.astype(np.float32) for name, h in own.items()}, np.where(z[:, :1] > 0, 1.0, -1.0)


@pytest.mark.everything
@pytest.mark.parametrize("scaling", measure.SCALINGS)
def test_measured_errors_are_the_package_s(rows, scaling):
    own, y = rows
    sizes = {"n_labelled": 40, "n_student": 50, "n_test": 30}
    splits = measure.Splits(*deal(120, (40, 50, 30), 2, None, 0))
    strong = {"big:layer1": own["big:layer1"]}
    found = measure.measured(own, strong, y, splits, (1e-3, 1e-1), scaling)
    for w, name in enumerate(own):
        for r, ridge in enumerate((1e-3, 1e-1)):
            wanted = w2s.weak_to_strong_splits(
                own[name],
                strong["big:layer1"],
                y[:, 0],
                **sizes,
                repeats=2,
                weak_ridge=ridge,
                strong_ridge=ridge,
                normalize=scaling,
            )
            for field in measure.MEASURED:
                unit = y[splits.test].var(1).sum(1) if field.endswith("error") else 1
                np.testing.assert_allclose(
                    found[field][0, r, w] * unit, getattr(wanted, field), rtol=1e-3, err_msg=field
                )


def test_errors_of_one_hot_labels_are_summed_and_numbers_have_no_accuracy(rows):
    own, y = rows
    splits = measure.Splits(*deal(120, (40, 50, 30), 2, None, 0))
    both = np.concatenate([y > 0, y < 0], 1).astype(float)
    found = [measure.measured(own, own, labels, splits, (1e-2,), "features") for labels in (y, both, y + 0.5)]
    for field in ("weak_error", "student_error", "ceiling_error"):
        np.testing.assert_allclose(found[1][field], found[0][field], rtol=1e-4)
    np.testing.assert_allclose(found[1]["student_accuracy"], found[0]["student_accuracy"])
    assert np.isnan(found[2]["student_accuracy"]).all()


@pytest.mark.everything
def test_a_task_is_kept_as_it_ends_and_becomes_a_page(rows, tmp_path, monkeypatch):
    own, y = rows
    monkeypatch.setattr(run, "LABELS", (20,))
    said = []
    for _ in range(2):
        run.run_task(
            tmp_path / "task",
            own,
            ["big:layer1"],
            y,
            np.arange(120),
            run.Sizes(splits=2),
            ridges=(1e-2, 1e-1),
            say=said.append,
        )
    assert len(said) == 2 * len(measure.SCALINGS) + 4  # nothing again
    with pytest.raises(SystemExit, match="is of big:layer1, got big:layer2: another folder for them"):
        run.run_task(tmp_path / "task", own, ["big:layer2"], y, np.arange(120), run.Sizes(splits=2), say=said.append)
    file = tmp_path / "results.csv.gz"
    results.write_results(file, [tmp_path / "task"])
    cells = results.read_results(file)
    assert {(cell.scaling, cell.ridge) for cell in cells} == {(s, r) for s in measure.SCALINGS for r in (1e-2, 1e-1)}
    for cell, kept in zip(cells, results.cells_of(tmp_path / "task"), strict=True):
        assert cell.teachers == ["small:layer1", "other:layer1"]  # none of the student's own network
        np.testing.assert_allclose(cell.columns["student_error"], kept.columns["student_error"], rtol=1e-3)
        assert ("trial_error:draw0-20" in cell.scores) == (cell.scaling == "features")  # few labels are asked for there
    (cell,) = (cell for cell in cells if (cell.scaling, cell.ridge) == ("features", 1e-2))
    np.testing.assert_allclose(cell.expected("1", 1.0), cell.scores["expected_error"], rtol=0.05)  # other folds
    text = page(cells)
    assert "trial_error:all" in text and "nan" not in text


@pytest.mark.everything
def test_the_map_s_posterior_errors_are_the_package_s(rows):
    """For every least share, labels of some rows of related groups, features on one scale."""
    own, y = rows
    groups, known = np.arange(120) // 2, np.arange(30)
    z, h = (priors.prepared(own[name], "features") for name in ("big:layer1", "small:layer1"))
    weak = {"small:layer1": own["small:layer1"]}
    found = priors.expected_map(weak, own["big:layer1"], groups, (1e-2,), "features", y, {"some": known})
    fold = grouped_folds(groups, 3, np.random.default_rng(0))
    blocks = [w2s.moments(h[fold == k], z[fold == k]) for k in range(3)]
    related = [group_moments(h[fold == k], groups=groups[fold == k]) for k in range(3)]
    about = (y[known] - y[known].mean()) / y.std()
    for least in priors.LEAST_SHARES:
        posterior = label_posterior(w2s.model_moments(z), z[known], about, groups=groups[known], least_share=least)
        roles = [(*(blocks[(k + i) % 3] for i in range(3)), 1e-2, 1e-2, posterior) for k in range(3)]
        wanted = np.mean([posterior_experiment(*of, groups=related[k])[0] for k, of in enumerate(roles)])
        np.testing.assert_allclose(found[f"least:{least:g}:some"], wanted, rtol=1e-3)
    assert found["least:0:some"] != found["least:0.5:some"]


@pytest.mark.everything
def test_scores_of_a_task_are_the_ranking_s(rows, tmp_path, monkeypatch):
    own, y = rows
    monkeypatch.setattr(run, "LABELS", ())
    run.run_task(
        tmp_path / "task", own, ["big:layer1"], y, np.arange(120), run.Sizes(splits=1), ridges=(1e-2,), say=str
    )
    splits = deal(120, (40, 40, 40), 1, np.arange(120), 0)
    mask = np.zeros(120, bool)
    mask[splits[0][0]] = True
    table = w2s.rank_supervisors(
        own,  # also the student's own network, which is left out of the results
        own["big:layer1"],
        y,
        labelled_rows=mask,
        groups=np.arange(120),
        weak_ridge=1e-2,
        strong_ridge=1e-2,
        normalize="features",
        predictors=PREDICTORS,
    )
    cell = next(cell for cell in results.cells_of(tmp_path / "task") if cell.scaling == "features")
    units = {"trial_error": y.var(), "predicted_error": y.var()}
    for name in ("expected_error", *units, *PREDICTORS):
        unit = units.get(name, 1)
        wanted = [table[name][table.names.index(teacher)] for teacher in cell.teachers]
        score = next(values for title, values in cell.scores.items() if title.partition(":")[0] == name)
        np.testing.assert_allclose(score * unit, wanted, rtol=1e-3, err_msg=name)


def test_texts_that_are_nearly_the_same_are_one_group():
    texts = ["I helped an old lady across the road.", "I tossed an old lady across the road.", "a film without a plot"]
    assert alike(texts).tolist() == [0, 0, 1]
    groups = np.array([0, 0, 1, 2, 2, 2])
    kept = chosen(groups, 4, np.random.default_rng(0))
    for group in range(3):
        assert np.count_nonzero(groups[kept] == group) in (0, np.count_nonzero(groups == group))


def test_plain_features_of_texts(tmp_path):
    texts = [f"{a} {b}" for a in ("good", "bad", "dull", "fine") for b in ("film", "plot", "song")]
    (tmp_path / "glove.txt").write_text("good 1 2\nfilm 3 0\n")
    found = plain(texts, tmp_path / "glove.txt")
    assert found["tfidf:16"].shape == (12, 12) and found["ngrams:words1024"].sum(1) == pytest.approx(2 * np.log(2))
    assert found["glove:mean"][0].tolist() == [2, 1] and found["glove:max"][0].tolist() == [3, 2]
    assert found["glove:mean"][-1].tolist() == [0, 0]
    gram = found["tfidf:16"] @ found["tfidf:16"].T
    np.testing.assert_allclose(np.diagonal(gram), 1, rtol=1e-5)


@pytest.mark.skipif(not DATA.is_dir(), reason="W2S_DATA names no folder of data sets")
def test_tasks_have_rows_labels_and_whole_groups(monkeypatch):
    monkeypatch.setenv("W2S_DATA", str(DATA))
    for name in ("sst2", "commonsense"):
        task = load(name, 60)
        assert name in FILES and 50 < len(task.texts) <= 60 and set(np.unique(task.y)) == {-1, 1}


@pytest.mark.everything
@pytest.mark.parametrize("kind", ["text", "molecules"])
def test_the_committed_page_says_what_the_committed_results_say(kind):
    """All of it but the correlations' intervals, which take a minute to resample."""
    folder = Path(measure.__file__).parent
    cells = results.read_results(folder.parent / "results" / f"{kind}.csv.gz")
    text = (folder / kind / "RESULTS.md").read_text()
    for name, table in tables(cells).items():
        assert table in text, name
    if kind == "text":
        assert mixtures.mixtures_page(folder.parent / "results" / "text_mixtures.csv.gz") in text


@pytest.mark.everything
def test_the_committed_leaderboard_says_what_the_committed_results_say():
    """All of it but intervals and ties, which take half a minute to resample."""
    plain = lambda text: re.sub(r"\[[^]]*\]| \(tied\)|\d+ resamplings", "", text)
    committed = (Path(leaderboard.__file__).parent / "LEADERBOARD.md").read_text()
    assert plain(leaderboard.page(leaderboard.sources(), repeats=1)) == plain(committed)


def test_mixtures_are_written_and_read(tmp_path):
    """From two teachers' measured products: what the choices err by, and the shares of the way that a page says."""
    products = np.array([[0.5, 0.2, 0.3], [0.2, 0.4, 0.3], [0.3, 0.3, 0.9]])
    names = ["a", "b", "c"]
    errors = np.asarray(mixtures._errors(products, names, "a", {"a": 0.5, "b": 0.5}))
    np.testing.assert_allclose(errors, [0.325, 0.5, products.mean(), 0.4, 9.9 / 31])
    task = tmp_path / "task"
    task.mkdir()
    kept = {"draw0-30": errors[None, None], "predicted:draw0-30": [[0.3]], "teachers:draw0-30": [[2]]}
    np.savez(task / "mixtures.npz", strong=["s"], ridges=[1e-3], **kept)
    mixtures.write_mixtures(tmp_path / "out.csv.gz", [task])
    last = mixtures.mixtures_page(tmp_path / "out.csv.gz").strip().splitlines()[-1]
    assert last == "| 30 | 0.325 | 0.500 | 0.378 | 0.400 | 0.319 | 0.300 | 2.0 | 100% | 97% |"
