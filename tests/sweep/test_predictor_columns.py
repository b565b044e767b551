"""Predictors as columns of a sweep: the numbers of the ranking, kept and known again."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from sweeping import LABELS, LITTLE, RNG, ROWS, N, Y

from w2s_jax import InputError, rank_supervisors, run_sweep
from w2s_jax.cli import main
from w2s_jax.predictors import PREDICTORS, predictor
from w2s_jax.sweep import predictor_columns, read_sweep, sweep_config
from w2s_jax.sweep.predictor_columns import known_by, stamped

pytestmark = pytest.mark.usefixtures("folder")

ASKED = [name for name, of in PREDICTORS.items() if of.reads == "moments"]
FEW = ["gulp", "logme"]  # of which one depends on the setting and needs nothing
SETTING = {"weak_ridge": [0.1, 0.01], "strong_ridge": 0.05, "threshold": [0.0, 0.02]}
LABELLED = {**LITTLE, "labels": {"some": "some.npy"}}
WIDE = {**ROWS, "wide": ROWS["d"][:, :50] @ RNG.standard_normal((50, 130)) + RNG.standard_normal((N, 130))}


@predictor(needs="labels", predicts="nothing")
def of_label_means(view):
    """Of what labels were taken about, and of both heads."""
    return jnp.sum(view.moments.strong.label_mean) * jnp.sum(view.f_w) + jnp.sum(view.f_s)


@pytest.mark.everything(but=1)
@pytest.mark.filterwarnings("ignore:strong representation 'strong'. the threshold 0.02 keeps 2 of 24 directions")
@pytest.mark.parametrize(
    ("normalize", "weak", "labels", "more"),
    [
        ("features", "a", "some", {"folds": 3}),
        ("scale", "wide", "one", {"groups": "groups.npy", "folds": 4}),
        ("none", "wide", "some", {}),
    ],
)
def test_the_columns_are_those_of_the_ranking(x64, normalize, weak, labels, more):
    """Of every predictor at a setting of a grid, whatever other label sets there are; of models of fewer features than rows and
    of more, of labels on some rows and on all, with folds and groups and without."""
    np.save("wide.npy", WIDE["wide"])
    asked = [*ASKED, *([] if normalize == "none" else [of_label_means])]
    files = {"weak": f"{weak}.npy", "labels": {name: f"{name}.npy" for name in LABELS}, "normalize": normalize}
    table = run_sweep({**LITTLE, **files, **SETTING, **more, "predictors": asked})
    assert len(table) == 4 * 3
    setting = {"weak_ridge": 0.01, "strong_ridge": 0.05, "threshold": 0.02}
    groups = {"groups": np.arange(N) // 2} if "groups" in more else {}
    setting |= {"normalize": normalize, "predictors": asked}
    ranking = rank_supervisors({weak: WIDE[weak]}, ROWS["s1"], LABELS[labels], **setting, **groups)
    row = next(
        row
        for row in table.to_dict()["rows"]
        if (row["labels"], row["weak_ridge"], row["weak_threshold"]) == (labels, 0.01, 0.02)
    )
    for of in asked:
        name = of if isinstance(of, str) else of.name
        assert row[name] == pytest.approx(ranking[name][0], rel=1e-8), name


def test_they_are_kept_and_the_rest_stays(units):
    """With predictors pairs are computed again, models are not; both tables are there afterwards, and no other columns change."""
    plain = run_sweep(LITTLE)
    units.take()
    asked = run_sweep({**LITTLE, "predictors": FEW[:1]})
    assert (asked.computed, units.take()) == (2, ([], 2))
    assert asked.columns == (*plain.columns, "gulp")
    assert (asked["gap_fro"] == plain["gap_fro"]).all() and np.isfinite(asked["gulp"]).all()
    for before, more in ((plain, {}), (asked, {"predictors": FEW[:1]})):
        again = run_sweep({**LITTLE, **more})
        assert (again.computed, again.rows, again.columns) == (0, before.rows, before.columns)
    assert run_sweep({**LITTLE, "predictors": ["gulp", "svcca"]}).computed == 2


def test_labels_on_some_rows_take_models_anew_for_what_looks_at_them(units):
    """About those rows' own mean; a stopped run goes on."""
    run_sweep(LABELLED)
    units.take()
    asked = {**LABELLED, "predictors": FEW}
    units.fail_after = 3
    with pytest.raises(KeyboardInterrupt):
        run_sweep(asked)
    units.fail_after = None
    assert (units.take(), run_sweep(asked).computed, units.take()) == (((["a", "b", "s1"]), 0), 2, ([], 2))
    assert run_sweep({**asked, "normalize": "none"}).computed == 2
    assert run_sweep(asked).computed == 0


def test_a_folder_of_before(units):
    """One without tables for predictors is read, goes on, and takes some."""
    before = run_sweep(LITTLE)
    with sqlite3.connect("out/sweep.sqlite") as database:
        database.executescript("DROP TABLE predictors; DROP TABLE predicted;")
    assert read_sweep("out").rows == before.rows
    units.take()
    assert (run_sweep(LITTLE).computed, run_sweep({**LITTLE, "predictors": ["gulp"]}).computed) == (0, 2)
    assert units.take() == ([], 2)


def made(level: float, body: str = "") -> object:
    """A predictor `own` from a text of source, with a number from outside."""
    Path("own.py").write_text(
        f"def make(level):\n    def own(view):\n        {body}return view.f_w[0] * level\n    return own\n"
    )
    space: dict = {}
    exec(compile(Path("own.py").read_text(), str(Path("own.py").absolute()), "exec"), space)
    return predictor(predicts="nothing")(space["make"](level))


def test_ones_own_is_known_by_its_code():
    """And by what it uses from outside; where labels were taken about another point, that matters too."""
    first = made(1.0)
    found = run_sweep({**LITTLE, "predictors": [first]})
    assert np.isfinite(found["own"]).all()
    assert run_sweep({**LITTLE, "predictors": [made(1.0)]}).computed == 0
    for changed in (made(2.0), made(1.0, "other = 0; ")):
        assert run_sweep({**LITTLE, "predictors": [changed]}).computed == 2
    assert known_by(stamped(PREDICTORS["gulp"])) == ["gulp"]
    asked = {**LITTLE, "labels": {"all": "all.npy"}, "predictors": [of_label_means]}
    before = run_sweep(asked)
    np.save("all.npy", Y + 1)
    after = run_sweep(asked)
    assert after.computed == 2 and (after["of_label_means"] > before["of_label_means"]).all()


LEVELS = np.ones(5000)


class Conf:
    level = 1.0


@predictor(predicts="nothing")
def by_array(view):
    return LEVELS[2500] * jnp.sum(view.f_w)


@predictor(predicts="nothing")
def by_attribute(view):
    return Conf.level * jnp.sum(view.f_w)


def test_values_from_outside_are_those_of_now(monkeypatch):
    """Of the same function in the same process too, whose programs have the values of before; what may change unseen is computed
    again in every run."""
    asked = {**LITTLE, "predictors": [by_array]}
    before = run_sweep(asked)
    LEVELS[2500] = 3.0
    after = run_sweep(asked)
    assert after["by_array"] == pytest.approx(3 * before["by_array"]) and run_sweep(asked).computed == 0
    asked = {**LITTLE, "predictors": [by_attribute]}
    before = run_sweep(asked)
    monkeypatch.setattr(Conf, "level", 2.0)
    after = run_sweep(asked)
    assert (after.computed, run_sweep(asked).computed) == (2, 2)
    assert after["by_attribute"] == pytest.approx(2 * before["by_attribute"])


def test_what_heads_do_not_matter_to_is_asked_once(monkeypatch):
    """Whatever the number of settings; numbers are found out by tracing, in one program for models of one padded width."""
    real, asked = predictor_columns._is_constant, {}

    def spying(function, points):
        asked[function.args[0].name] = real(function, points)
        return asked[function.args[0].name]

    monkeypatch.setattr(predictor_columns, "_is_constant", spying)
    predictor_columns.predict.inside.clear_cache()
    predictor_columns.predict.alone.clear_cache()
    table = run_sweep({**LITTLE, "labels": {"all": "all.npy", "one": "one.npy"}, "predictors": ASKED, **SETTING})
    fixed = {"mean_cca", "svcca", "largest_angle", "procrustes", "correlation_dimension", "effective_rank"}
    fixed |= {"weak_participation_ratio", "kernel_alignment", "logme", "h_score"}
    assert {name for name, constant in asked.items() if constant} == fixed
    assert all((len(np.unique(table[name][:8:2])) == 1) == (name in fixed) for name in ASKED if name != "weak_error")
    assert predictor_columns.predict.programs() == 1


def test_exports_and_the_summary(capsys):
    """From a file by the command, whose option replaces its key: each predictor names the teacher that it takes for the best."""
    Path("c.toml").write_text(
        'output = "out"\nweak = ["a.npy", "b.npy"]\nstrong = "s1.npy"\npredictors = ["gulp"]\n[labels]\nsome = "some.npy"\n'
    )
    assert main(["sweep", "c.toml", "--quiet", "--predictors"]) == 0
    assert not {"gulp", "logme"} & {*read_sweep("out").columns}  # no names switch the file's off
    assert main(["sweep", "c.toml", "--quiet", "--predictor", *FEW]) == 0
    table = read_sweep("out")
    assert table.larger_is_better == {"logme"} and table.columns[-2:] == ("gulp", "logme")
    header, line = str(table).splitlines()[1:]
    assert header.endswith("predicted gap  by gulp  by logme")
    assert line.split()[-2:] == [table["weak"][table["gulp"].argmin()], table["weak"][table["logme"].argmax()]]
    assert "<th" in table._repr_html_() and "by logme" in table._repr_html_()
    for extension in ("csv", "json", "parquet"):
        table.export(f"t.{extension}")
    names, *lines = [row.split(",") for row in Path("t.csv").read_text().splitlines()]
    assert [float(row[names.index("logme")]) for row in lines] == table["logme"].tolist()
    assert json.loads(Path("t.json").read_text())["rows"][1]["gulp"] == table["gulp"][1]
    assert table.to_pandas()["gulp"].tolist() == table["gulp"].tolist()


def test_a_number_that_is_none_is_missing():
    """As in all other columns."""
    nothing = predictor(predicts="nothing")(lambda view: view.f_w[0] * jnp.nan)
    table = run_sweep({**LITTLE, "predictors": [nothing]})
    assert np.isnan(table["<lambda>"]).all() and table.rows[0][-1] is None
    assert str(table).splitlines()[2].split()[-1] == "–"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["gull"], "predictors must be Predictors or among prior_error"),
        ("gulp", "predictors must be a list, got 'gulp'"),
        ({"gulp": True}, "predictors must be a list, got {'gulp': True}"),
        (["gulp", "gulp"], "got 'gulp' twice"),
        (["debiased_cka"], "got 'debiased_cka', which reads rows: ask rank_supervisors"),
        (["two_nn_dimension"], "which reads rows"),
        (["logme"], "predictors that need labels need a label set, got 'logme' and no labels"),
        ([PREDICTORS["gulp"], 3], "got int"),
    ],
)
def test_bad_predictors_are_named(asked, words):
    with pytest.raises(InputError, match=words):
        sweep_config({**LITTLE, "predictors": asked})


def test_what_sweeps_refuse_is_not_offered():
    with pytest.raises(InputError) as raised:
        sweep_config({**LITTLE, "predictors": ["gull"]})
    offered = str(raised.value)
    assert "gulp" in offered and not any(name in offered for name, of in PREDICTORS.items() if of.reads != "moments")
