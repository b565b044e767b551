"""Verdicts on scores against SciPy's own, resamplings that keep layers together, and tables that come back from a file."""

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from w2s_jax import InputError
from w2s_jax.leaderboard import Contest, draw_leaderboard, judge, read_contests, write_contests
from w2s_jax.leaderboard.judging import redrawn

TEACHERS = tuple(f"net{i // 3}:layer{i % 3}" for i in range(12))


def contest(task: str = "a", ridge: float = 0.1, seed: int = 0, noise: float = 0.3) -> Contest:
    rng = np.random.default_rng(seed)
    weak, ceiling = 1 + rng.random(12), np.full(12, 0.2)
    student = ceiling + rng.random(12)
    scores = {"own": student + noise * rng.random(12), "cka": rng.random(12), "own:30": student, "flat": np.ones(12)}
    measured = {"weak_error": weak, "student_error": student, "ceiling_error": ceiling, "gap": student - ceiling}
    return Contest(task, "s", ridge, TEACHERS, scores, measured)


def by_title(board):
    return {standing.title: standing for standing in board.standings}


def test_one_contest_is_judged_as_scipy_does():
    one = contest()
    error = one.measured["student_error"]
    found = by_title(judge([one]))
    for title in ("own", "cka"):
        assert found[title].spearman == pytest.approx(spearmanr(one.scores[title], error)[0])
        assert found[title].kendall == pytest.approx(kendalltau(one.scores[title], error)[0])
        cost = (error[np.argmin(one.scores[title])] - error.min()) / (np.median(error) - error.min())
        assert found[title].cost == pytest.approx(cost)
    assert found["own:30"].spearman == 1 and found["own:30"].cost == 0 and found["own:30"].labels == "30"
    assert np.isnan(found["flat"].spearman) and np.isnan(found["flat"].cost)


def test_performance_gap_recovered_counts_the_other_way_round():
    one = contest()
    weak, student, ceiling = (one.measured[f"{name}_error"] for name in ("weak", "student", "ceiling"))
    recovered = (weak - student) / (weak - ceiling)
    assert by_title(judge([one], "pgr"))["cka"].spearman == pytest.approx(spearmanr(-one.scores["cka"], recovered)[0])
    assert by_title(judge([one], "gap"))["own:30"].spearman == 1


def test_means_over_contests_and_the_lowest_task():
    contests = [contest("a", 0.1, 0), contest("a", 1.0, 1), contest("b", 0.1, 2)]
    own = [spearmanr(one.scores["cka"], one.measured["student_error"])[0] for one in contests]
    found = by_title(judge(contests))["cka"]
    assert found.spearman == pytest.approx(((own[0] + own[1]) / 2 + own[2]) / 2)  # of a task, then over tasks
    assert found.lowest == pytest.approx(min((own[0] + own[1]) / 2, own[2]))


def test_intervals_are_those_of_networks_and_tasks_drawn_anew():
    """Against a loop over resamplings, one contest at a time."""
    contests = [contest("a", 0.1, 0), contest("b", 0.1, 1), contest("c", 0.1, 2)]
    rng, means = np.random.default_rng(7), []
    tasks = rng.integers(3, size=(50, 3))
    rows = redrawn(contests[0].networks, 50, 7)
    for drawn, teachers in zip(tasks, rows, strict=True):
        own = [contests[t] for t in drawn]
        means.append(
            np.mean([spearmanr(x.scores["cka"][teachers], x.measured["student_error"][teachers])[0] for x in own])
        )
    found = by_title(judge(contests, repeats=50, seed=7))["cka"]
    np.testing.assert_allclose((found.low, found.high), np.quantile(means, [0.05, 0.95]), rtol=1e-6)


def test_scores_as_good_as_the_best_are_tied_and_poor_ones_are_not():
    rng = np.random.default_rng(0)
    contests = []
    for seed in range(8):
        one = contest(f"task{seed}", seed=seed)
        error = one.measured["student_error"]
        scores = {"good": error + 0.05 * rng.random(12), "alike": error + 0.05 * rng.random(12), "poor": rng.random(12)}
        contests.append(Contest(one.task, "s", 0.1, TEACHERS, scores, one.measured))
    found = by_title(judge(contests))
    assert sum(found[name].tied for name in ("good", "alike")) == 1
    assert not found["poor"].tied
    assert "tied with" in str(judge(contests))


@pytest.mark.parametrize("count", [1, 5])
def test_no_score_is_the_best_where_nothing_can_be_told(count, tmp_path):
    """Of a single teacher, or of teachers with the same error."""
    scores = {"own": np.arange(count), "own:30": np.arange(count)}
    board = judge([Contest("t", "s", 0.1, TEACHERS[:count], scores, {"student_error": np.ones(count)})])
    *_, without, labelled = str(board).splitlines()
    why = "nothing can be told, as no contest has teachers that differ in student_error and in a score that all have"
    assert (without, labelled) == (f"no labels: {why}", f"labels 30: {why}")
    draw_leaderboard(board, tmp_path / "board.png")


def test_resampling_keeps_the_layers_of_a_network_together():
    for drawn in redrawn(("a", "a", "b", "c", "c", "c"), 20):
        for members in ([0, 1], [2], [3, 4, 5]):
            assert len({np.count_nonzero(drawn == i) for i in members}) == 1


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_contests_come_back_from_a_file(name, tmp_path):
    contests = [contest("a", 0.1), contest("b", 1e-3, 1)]
    write_contests(tmp_path / name, contests)
    first = (tmp_path / name).read_bytes()
    write_contests(tmp_path / name, contests)
    assert (tmp_path / name).read_bytes() == first
    found = read_contests(tmp_path / name)
    for kept, one in zip(found, contests, strict=True):
        assert (kept.task, kept.strong, kept.ridge, kept.teachers) == (one.task, one.strong, one.ridge, one.teachers)
        for columns in ("scores", "measured"):
            assert set(getattr(kept, columns)) == set(getattr(one, columns))
            for title, values in getattr(one, columns).items():
                np.testing.assert_allclose(getattr(kept, columns)[title], values, rtol=1e-6)


def test_of_several_scalings_the_first_is_read(tmp_path):
    table = "task,strong,scaling,ridge,teacher,student_error,score:cka,score:trial_error:draw0-30\n"
    rows = ("t,s,features,0.1,a,0.5,0.9,1", "t,s,features,0.1,b,0.6,0.8,", "t,s,scale,0.1,a,0.7,0.1,")
    (tmp_path / "t.csv").write_text(table + "\n".join(rows) + "\n")
    (found,) = read_contests(tmp_path / "t.csv")
    assert found.measured["student_error"].tolist() == [0.5, 0.6]
    assert found.scores["cka"].tolist() == [-0.9, -0.8]  # the largest is the best
    assert np.isnan(found.scores["trial_error:30"][1])


def test_a_figure_is_written(tmp_path):
    draw_leaderboard(judge([contest()], repeats=5), tmp_path / "board.png")
    assert (tmp_path / "board.png").stat().st_size > 5000


def test_wrong_input_is_named(tmp_path, unchecked):
    one = contest()
    without = Contest("t", "s", 0.1, TEACHERS, one.scores, {"student_error": one.measured["student_error"]})
    short = Contest("t", "s", 0.1, TEACHERS, {"x": np.ones(3)}, one.measured)
    holes = Contest("t", "s", 0.1, TEACHERS, one.scores, {"student_error": np.r_[np.ones(11), np.nan]})
    bare = Contest("t", "s", 0.1, TEACHERS, {}, one.measured)
    head = "task,strong,scaling,ridge,teacher,student_error\n"
    rows = {
        "again": "\nt,s,f,0.1,b,1\nt,s,g,0.1,a,1\nt,s,f,0.10,a,1\n",
        "few": "t,s,f,0.1,b\n",
        "many": "t,s,f,0.1,b,1,2\n",
    }
    for name, text in rows.items():
        (tmp_path / f"{name}.csv").write_text(head + "t,s,f,0.1,a,1\n" + text)
    (tmp_path / "no.csv").write_text("task,strong\n")
    (tmp_path / "word.csv").write_text("task,strong,ridge,teacher,student_error\nt,s,0.1,a,much\n")
    (tmp_path / "twice.csv").write_text(
        "task,strong,ridge,teacher,student_error,score:x:draw0-30,score:x:draw1-30\nt,s,0.1,a,1,2,3\n"
    )
    cases = {
        "contests must hold at least one, got none": lambda: judge([]),
        r"against must be .*, got 'accuracy'": lambda: judge([one], "accuracy"),
        "against='pgr' needs weak_error, ceiling_error, which task 't' has not measured": lambda: judge(
            [without], "pgr"
        ),
        "against='gap' needs gap, which": lambda: judge([without], "gap"),
        r"score 'x' must have a number for each of 12 teachers, got shape \(3,\)": lambda: judge([short]),
        "measured 'student_error' of task 't' must have a number for each of 12 teachers, got": lambda: judge([holes]),
        "cannot read .*none.csv: No such file": lambda: read_contests(tmp_path / "none.csv"),
        "no.csv must have rows with columns task, strong, ridge, teacher, student_error, got none": lambda: (
            read_contests(tmp_path / "no.csv")
        ),
        "word.csv must have numbers in column student_error, got 'much'": lambda: read_contests(tmp_path / "word.csv"),
        "again.csv must have one row for each teacher of a contest, got 'a' of 't', 's' and ridge 0.1 in lines 2 and 6": lambda: (
            read_contests(tmp_path / "again.csv")
        ),
        "few.csv must have 6 cells in line 3, got 5": lambda: read_contests(tmp_path / "few.csv"),
        "many.csv must have 6 cells in line 3, got 7": lambda: read_contests(tmp_path / "many.csv"),
        "contests must have at least one score, got none": lambda: judge([bare]),
        "twice.csv must have one column for the score x:30, got several": lambda: read_contests(tmp_path / "twice.csv"),
    }
    for message, call in cases.items():
        with pytest.raises(InputError, match=message):
            call()
