"""The benchmarks' page says what the results say, and the suite's parts exist."""

from __future__ import annotations

import importlib
import json

import pytest

from benchmarks.__main__ import PARTS
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
