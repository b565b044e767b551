"""A sweep's table: exported exactly, and summed up in words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sweeping import LITTLE

from w2s_jax import InputError, run_sweep
from w2s_jax.sweep import store

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.everything
def test_csv(table):
    """Numbers are written so that they are read back exactly; the last pair's last setting is the last line."""
    table.export("table.csv")
    lines = Path("table.csv").read_text().splitlines()
    assert lines[0].split(",") == list(store.COLUMNS) == list(table.columns)
    assert len(lines) == 1 + len(table) == 1 + 6 * 2 * 3
    place = table.columns.index("gap_fro")
    assert [float(line.split(",")[place]) for line in lines[1:]] == table["gap_fro"].tolist()
    assert lines[1].split(",")[:2] == ["a", "s1"]


def test_json(table):
    """The JSON file is `to_dict`; what was not asked for is null."""
    table.export("table.json")
    assert json.loads(Path("table.json").read_text()) == table.to_dict()
    assert table.to_dict()["rows"][0]["trial_error"] is None


def test_parquet_and_pandas(table):
    """Parquet and the DataFrame hold the same rows, with missing numbers as nulls."""
    pandas = pytest.importorskip("pandas")
    parquet = pytest.importorskip("pyarrow.parquet")
    table.export("table.parquet")
    assert parquet.read_table("table.parquet").to_pylist() == table.to_dict()["rows"]
    frame = table.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["gap_op"].tolist() == table["gap_op"].tolist()
    assert frame["trial_error"].isna().all()
    assert frame["weak"].tolist() == table["weak"].tolist()


def test_a_summary_of_one_is_singular():
    """One pair with one row is not several."""
    assert str(run_sweep({**LITTLE, "weak": "a.npy"})).startswith("1 pair, 1 row in out")


def test_the_summary_names_the_best_teacher(table):
    """One line per strong model, label set and setting, with the weak model of the smallest predicted gap."""
    lines = str(table).splitlines()
    assert lines[0].startswith("6 pairs, 36 rows in out")
    assert len(lines) == 2 + 2 * 3 * 2
    first = [
        row
        for row in table.to_dict()["rows"]
        if (row["strong"], row["labels"], row["weak_ridge"]) == ("s1", "all", 1e-3)
    ]
    best = min(first, key=lambda row: row["predicted_gap"])
    assert lines[2].split()[-2:] == [best["weak"], f"{best['predicted_gap']:.4g}"]


def test_a_table_without_labels(folder):
    """Without label sets a pair and setting is one row; label columns are missing."""
    table = run_sweep(LITTLE)
    assert len(table) == 2
    assert np.isnan(table["predicted_gap"]).all()
    assert set(table["labels"]) == {None}


def test_infinite_numbers_are_null_in_json(table):
    """JSON has no infinity."""
    changed = list(table.rows[0])
    changed[table.columns.index("gap_bound")] = float("inf")
    replace(table, rows=(tuple(changed), *table.rows[1:])).export("table.json")
    rows = json.loads(Path("table.json").read_text())["rows"]
    assert rows[0]["gap_bound"] is None
    assert rows[1]["gap_bound"] == table["gap_bound"][1]


def test_exports_name_their_format(table):
    """Another extension is refused, and so is a folder that is not there; nothing is written."""
    before = set(Path().iterdir())
    for path in ("table.xlsx", "none/table.csv"):
        with pytest.raises(InputError, match=path):
            table.export(path)
    assert set(Path().iterdir()) == before
