"""The built-in tasks: teachers of one strong model on the same rows, exact errors, runs that go on; and the command."""

import json
import shutil

import jax
import numpy as np
import pytest

from w2s_jax import InputError
from w2s_jax.cli import main
from w2s_jax.leaderboard import run_leaderboard, tasks
from w2s_jax.predictors import PREDICTORS


@pytest.fixture
def small(monkeypatch):
    for name, value in {"ROWS": 60, "LABELS": (20,), "TEACHERS": 3, "TRIALS": 2}.items():
        monkeypatch.setattr(tasks, name, value)


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("name", tasks.FAMILIES)
def test_teachers_of_a_family_see_the_same_rows(name, small):
    """Strong rows and labels are one draw for all of them, on one scale, and nothing of a teacher is a dead column."""
    number = list(tasks.FAMILIES).index(name)
    drawn = tasks.FAMILIES[name](np.random.default_rng([0, number]))
    families = [tasks._on_one_scale(family) for family in drawn.values()]
    samples = [family.sample(jax.random.key(0), 500) for family in families]
    for one in samples[1:]:
        np.testing.assert_allclose(one.h_s, samples[0].h_s, atol=1e-6)
        np.testing.assert_allclose(one.y, samples[0].y, atol=1e-5)
    for family, one in zip(families, samples, strict=True):
        for rows in (one.h_w, one.h_s, one.target[:, None]):
            assert np.mean(np.sum(np.square(rows), 1)) == pytest.approx(1, rel=0.25)
        tail = getattr(family, "tail_w", None)
        width = 0 if tail is None else float(tail.width * tail.variance)
        assert float(np.trace(family.population.ww)) + width == pytest.approx(1, rel=1e-3)
    task = tasks.family_task(name)
    assert len(task.weak) == 3 and all(h.std(0).min() > 0 and len(h) == 180 for h in task.weak.values())


@pytest.mark.everything
def test_a_contest_has_all_scores_and_exact_errors(small):
    one = tasks.family_task("subspaces").contest(1e-2)
    labelled = {name for name, of in PREDICTORS.items() if of.needs == "labels"}
    assert {"cka", "expected_error", "gulp"} <= set(one.scores)
    assert {f"{name}:{labels}" for name in (*labelled, "predicted_error") for labels in ("20", "all")} <= set(
        one.scores
    )
    assert not labelled & set(one.scores)
    assert all(np.isfinite(values).all() and values.shape == (3,) for values in one.scores.values())
    assert (one.scores["cka"] < 0).all()
    assert (one.measured["gap"] > 0).all() and np.ptp(one.measured["ceiling_error"]) < 0.2


@pytest.mark.everything
def test_a_run_goes_on_where_it_stopped(small, tmp_path):
    out = tmp_path / "kept.jsonl"
    first = run_leaderboard(["relu"], ridges=[0.1], out=out, progress=False)
    header, line = out.read_text().splitlines()
    out.write_text(f"{header}\n{line}\n" + line[:50])  # killed while it wrote
    again = run_leaderboard(["relu"], ridges=[0.1], out=out, progress=False)
    assert out.read_text().splitlines() == [header, line]
    np.testing.assert_array_equal(first[0].scores["gap_op"], again[0].scores["gap_op"])
    assert json.loads(line)["key"] == ["relu", 0.1]
    with pytest.raises(InputError, match=r"kept\.jsonl does not hold results of this version and these settings"):
        run_leaderboard(["relu"], seed=1, out=out, progress=False)


def test_the_command_measures_judges_and_writes(small, tmp_path, capsys):
    files = [str(tmp_path / name) for name in ("out.jsonl", "table.csv.gz", "board.png")]
    options = ["--ridges", "0.1", "--out", files[0], "--csv", files[1], "--plot", files[2], "--quiet"]
    assert main(["leaderboard", "--tasks", "subspaces", *options]) == 0
    printed = capsys.readouterr().out
    assert "against student_error, 1 contests of 1 tasks" in printed and "labels 20: " in printed
    assert main(["leaderboard", "--tasks", "--results", files[1], "--against", "gap"]) == 0
    assert "against gap, 1 contests of 1 tasks" in capsys.readouterr().out
    again = shutil.copy(files[1], tmp_path / "copy.csv.gz")
    for other in (files[1], str(again)):
        assert main(["leaderboard", "--tasks", "--results", files[1], "--results", other]) == 2
        said = "--results must have every contest once, got that of 'subspaces', 'strong' and ridge 0.1 with the same errors in "
        assert f"{said}{files[1]} and {other}" in capsys.readouterr().err
    assert main(["leaderboard", "--tasks", "--csv", files[1], "--results", files[1]]) == 2
    assert "--csv writes what the tasks measured, got no tasks" in capsys.readouterr().err


def test_wrong_input_is_named(tmp_path, unchecked):
    cases = {
        "tasks must be some of subspaces, .*, got chess": lambda: run_leaderboard(["chess"]),
        "tasks must be some of .*, got none": lambda: run_leaderboard([]),
        r"ridges must be positive, got \[0\.1, -1\]": lambda: run_leaderboard(ridges=[0.1, -1]),
        "seed must be an integer of at least 0, got -1": lambda: run_leaderboard(seed=-1),
        "cannot keep results in .*no/out.jsonl": lambda: run_leaderboard(["relu"], out=tmp_path / "no" / "out.jsonl"),
    }
    for message, call in cases.items():
        with pytest.raises(InputError, match=message):
            call()
