"""The benchmarks' page says what the results say, and the suite's parts exist."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from benchmarks import accelerator, extraction, intervals, planned
from benchmarks.__main__ import PARTS
from benchmarks._common import compiled
from benchmarks.device_checks import Skipped, judged
from benchmarks.report import AIMS, PAGE, RESULTS, ROWS, devices, rendered, updated

MACHINE = {"device": "cpu", "cpu": "Abacus", "cores": 2, "jax": "0.10"}


def test_page_is_up_to_date():
    """No figure of the page differs from the files it is written from."""
    page = PAGE.read_text()
    assert updated(page, rendered(devices(sorted(RESULTS.glob("*.json"))))) == page


def test_every_part_is_a_function_and_every_row_and_part_belong_together():
    """A part of the suite can be found by its name, and the page's rows are of the suite's parts."""
    for name in PARTS:
        module, function = name.split(".")
        assert callable(getattr(importlib.import_module(f"benchmarks.{module}"), function))
    assert {row.part for row in ROWS} <= {name.split(".")[1] for name in PARTS}


def test_missed_aims_are_bold(tmp_path):
    """Figures of one machine are merged; one that misses its aim is bold, one that is missing is said to be."""
    (tmp_path / "a.json").write_text(json.dumps({"machine": MACHINE, "penalty_path": {"(c) path / fit": 3.0}}))
    (tmp_path / "b.json").write_text(json.dumps({"machine": MACHINE, "trials": {"(a) loop / one call": 21.0}}))
    (tmp_path / "c.json").write_text(json.dumps({"machine": MACHINE, "quick": True, "trials": {}}))
    tables = rendered(devices(sorted(tmp_path.glob("*.json"))))
    assert "| 100 penalties over one fit | <= 2 | **3** |" in tables
    assert "| trials: loop over ours | >= 20 | 21 |" in tables
    assert tables.count("not measured") == len(AIMS) - 2


def test_results_of_one_part_twice_are_an_error(tmp_path):
    """Which of the two would be on the page is not left to their names."""
    for name in "ab":
        (tmp_path / f"{name}.json").write_text(json.dumps({"machine": MACHINE, "trials": {}}))
    with pytest.raises(ValueError, match=r"b\.json repeats trials"):
        devices(sorted(tmp_path.glob("*.json")))


def test_programs_are_counted_inside_only():
    """Every program that is compiled there counts, and none twice."""
    double, triple = jax.jit(lambda x: 2 * x), jax.jit(lambda x: 3 * x)
    one = jnp.ones(3)
    with compiled() as seconds:
        double(one), double(one)
    triple(one)
    assert len(seconds) == 1 and seconds[0] > 0


# The command for an accelerator


def run(tmp_path: Path, limits: dict, minutes: float = 1) -> tuple[list[str], dict[str, Any]]:
    """The names of what failed, and the file."""
    out = tmp_path / "out.json"
    failed = accelerator.run(limits, out, True, minutes, {"machine": MACHINE})
    return failed, json.loads(out.read_text())


def good(quick: bool) -> dict[str, Any]:
    """A part."""
    return {"verdict": "good"}


def test_what_fails_is_recorded_and_the_next_part_runs(tmp_path):
    """An error, a reason to skip and a limit that was reached all stand in the file; only errors count as failures."""

    def bad(quick: bool) -> dict[str, Any]:
        raise ValueError("what was asked\nwhat went wrong")

    def slow(quick: bool) -> dict[str, Any]:
        return {"verdict": str(time.sleep(60))}

    def missing(quick: bool) -> dict[str, Any]:
        raise Skipped("no such package")

    failed, found = run(tmp_path, {bad: 5, slow: 0.2, missing: 5, good: 5})
    assert failed == ["bad", "slow"]
    assert found["bad"]["error"] == "ValueError: what went wrong" and found["bad"]["first line"] == "what was asked"
    assert found["slow"]["error"] == "OutOfTime: its 0.2 seconds were over"
    assert found["missing"]["verdict"] == "skipped: no such package"
    assert found["good"]["verdict"] == "good" and found["machine"] == MACHINE


def test_the_file_is_whole_while_a_part_runs(tmp_path):
    """Whatever ends the process, earlier parts are there and the running one is named; after the minutes none is started."""

    def look(quick: bool) -> dict[str, Any]:
        seen.update(json.loads((tmp_path / "out.json").read_text()))
        return {"verdict": "seen"}

    seen: dict[str, Any] = {}
    run(tmp_path, {good: 5, look: 5})
    assert seen["good"]["verdict"] == "good" and seen["look"]["verdict"] == "running"
    _, found = run(tmp_path, {good: 5}, minutes=0)
    assert found["good"] == {"verdict": "not started: 0 minutes were over"}


def test_errors_beyond_their_bounds_are_named():
    """So is one that is not a number."""
    assert judged({"a": (1.0, 2.0)})["verdict"] == "all 1 within bounds"
    assert judged({"a": (1.0, 2.0), "b": (3.0, 2.0), "c": (float("nan"), 2.0)})["verdict"] == "2 of 3 beyond: b, c"


FEW = ("precisions", "batches", "moments_rate")
ALL = tuple(part.__name__ for part in accelerator.LIMITS)
CHECKS = {"precisions", "pair_accuracy", "batches", "ranking_accuracy", "sweep_agrees"}


@pytest.mark.everything
@pytest.mark.parametrize("parts", [FEW, ALL], ids=["few", "all"])
def test_accelerator_command_at_small_sizes(tmp_path, parts):
    """It runs on a CPU too, where everything is within its bounds."""
    out = tmp_path / "out.json"
    accelerator.main(["--quick", "--out", str(out), "--only", *parts])
    found = json.loads(out.read_text())
    assert found.keys() == {"machine", "quick", *parts}
    assert {name: found[name]["verdict"] for name in parts if "error" in found[name]} == {}
    checked = {name: found[name]["verdict"] for name in parts if name in CHECKS}
    assert {name: verdict for name, verdict in checked.items() if not verdict.endswith("within bounds")} == {}


@pytest.mark.everything
@pytest.mark.filterwarnings("ignore:.*directions hold the variance")
def test_intervals_are_counted(monkeypatch):
    """A family's share held, mean logarithm and its spread, as of two draws' logarithms and standard errors."""
    kept = []
    away = intervals._away
    monkeypatch.setattr(intervals, "LABELS", ())
    monkeypatch.setattr(intervals, "_away", lambda *given: kept.append(away(*given)) or kept[-1])
    (found,) = intervals.coverage(quick=True).items()
    (logs, errors), means = map(np.array, zip(*kept, strict=True)), [x.mean() for x, _ in kept]
    assert found[0] == "subspaces, all labels" and logs.shape == (2, 20) and np.abs(logs).max() < 0.5
    assert found[1] == pytest.approx([np.mean(np.abs(logs) <= 1.645 * errors), np.mean(means), np.std(means)])


@pytest.mark.everything
def test_planned_rows_are_nearer_than_the_fold():
    """Two draws of two settings: planning the fold's rows changes nothing, far from them the plan is nearer."""
    found = planned.planned_rows(quick=True)
    assert found["1 x"] == pytest.approx(found["1 x, as the fold"], rel=1e-3)
    for plan in ("0.5 x", "5 x", "25 x"):
        assert found[plan][-1] == 2
        for worst in (1, 3):
            assert found[plan][worst] < 10 < found[f"{plan}, as the fold"][worst]


def test_ways_of_extraction_agree(tmp_path):
    """Both ways of the package give the same rows, whatever torch's would be."""
    tiny_models.save_encoder(tmp_path / "tiny")
    texts = tiny_models.some_texts(20)
    (_, again), rows = extraction.timed("w2s_jax, last layer", str(tmp_path / "tiny"), texts)
    assert again > 0 and rows.shape == (20, tiny_models.WIDTH)
    np.testing.assert_allclose(extraction.ours_of_all_layers(str(tmp_path / "tiny"), texts), rows, rtol=1e-4, atol=1e-5)
