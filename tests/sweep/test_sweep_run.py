"""Runs of a sweep: what is computed once, and what is computed again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sweeping import LITTLE, RNG, ROWS, TABLE, Y

from w2s_jax import InputError, run_sweep
from w2s_jax.cli import main
from w2s_jax.devices import precision, supported_precisions
from w2s_jax.devices.hosts import Hosts
from w2s_jax.sweep import run, store, sweep_config
from w2s_jax.sweep.inputs import open_inputs
from w2s_jax.sweep.table import read_sweep

pytestmark = pytest.mark.usefixtures("folder")


def test_models_at_once_fit_the_memory():
    """As many models as processes, fewer where their moments would not fit, and at least one."""
    widths = {"a": 100, "b": 100, "c": 100, "d": 1000, "e": 10}
    rows = SimpleNamespace(counts=np.ones(1), sets=np.ones((1, 1)))
    given = SimpleNamespace(rows=rows, dtype=np.dtype(np.float32))

    def batches(processes: int, memory: float) -> list[str]:
        asked = SimpleNamespace(
            hosts=SimpleNamespace(count=processes),
            inputs=given,
            config=SimpleNamespace(memory=memory),
            workers=SimpleNamespace(widths=widths),
        )
        return ["".join(batch) for batch in run._batches(asked, widths)]

    assert batches(1, 256) == ["a", "b", "c", "d", "e"]
    assert batches(3, 256) == ["abc", "de"]
    assert batches(3, 2 * 100**2 * 8 / 2**20) == ["ab", "c", "d", "e"]


def test_models_are_met_once(units):
    """Five models in six pairs: five passes for moments, and every pair's cross moment once."""
    assert run_sweep(TABLE).computed == 6
    assert units.take() == (["a", "b", "c", "s1", "s2"], 6)


def test_a_finished_sweep_computes_nothing(units):
    """The second run reads the results of the first."""
    before = run_sweep(TABLE)
    units.take()
    after = run_sweep(TABLE)
    assert units.take() == ([], 0)
    assert (after.computed, after.changed, after.rows) == (0, (), before.rows)


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("done", range(11))
def test_a_stopped_run_goes_on(units, done):
    """Wherever a run stops, the next does the units that are missing, no other, and the results are the same."""
    whole = run_sweep({**TABLE, "output": "whole"})
    want = units.take()
    units.fail_after = done
    with pytest.raises(KeyboardInterrupt):
        run_sweep(TABLE)
    units.fail_after, kept = None, units.pairs
    table = run_sweep(TABLE)
    assert table.rows == whole.rows
    models, pairs = units.take()
    assert (models, pairs) == want
    assert table.computed == 6 - kept


def test_a_changed_file_invalidates_what_depends_on_it(units):
    """One weak model's moments and pairs are computed again and no others, and the results are those of a fresh sweep."""
    run_sweep(TABLE)
    units.take()
    np.save("b.npy", ROWS["b"] + RNG.standard_normal(ROWS["b"].shape))
    table = run_sweep(TABLE)
    assert (table.changed, table.computed) == (("b",), 2)
    assert units.take()[0] == ["b"]
    assert table.rows == run_sweep({**TABLE, "output": "fresh"}).rows


def test_a_touched_file_changes_nothing(units):
    """A file that was only written again is hashed, not computed."""
    run_sweep(TABLE)
    units.take()
    np.save("b.npy", ROWS["b"])
    table = run_sweep(TABLE)
    assert (table.changed, table.computed, units.take()) == ((), 0, ([], 0))


def test_a_path_may_be_spelled_in_any_way(units, monkeypatch, folder):
    """What is kept is found by whoever asks for the same files."""
    monkeypatch.setattr(store, "_FRESH_NS", 0)
    first = run_sweep(LITTLE)
    units.take()
    Path("sub").mkdir()
    monkeypatch.chdir("sub")
    paths = {"weak": ["../a.npy", f"{folder}/b.npy"], "strong": ["../sub/../s1.npy"]}
    assert run_sweep({"output": "../out", **paths}).rows == first.rows
    assert units.take() == ([], 0)


def test_configurations_that_take_turns(units, monkeypatch):
    """What has been finished once is not computed again, moments neither, though another configuration has been here."""
    monkeypatch.setattr(store, "_FRESH_NS", 0)
    tables = [run_sweep({**LITTLE, "normalize": normalize}) for normalize in ("scale", "none")]
    units.take()
    for table, normalize in zip(tables, ("scale", "none"), strict=True):
        again = run_sweep({**LITTLE, "normalize": normalize})
        assert (again.rows, again.computed, units.take()) == (table.rows, 0, ([], 0))


def test_a_run_that_ends_among_the_moments_says_what_is_missing(units, capsys):
    """The table of a former configuration is not shown as that of this one, nor as a finished one."""
    run_sweep(LITTLE)
    units.take()
    units.fail_after = 1
    with pytest.raises(KeyboardInterrupt):
        run_sweep({**TABLE, "normalize": "none"})
    assert (read_sweep("out").pairs, read_sweep("out").finished, len(read_sweep("out"))) == (6, 0, 0)
    assert main(["sweep", "export", "out", "--to", "table.csv"]) == 0
    assert capsys.readouterr().out == "0 rows in table.csv; 0 of 6 pairs are finished\n"


def test_rows_of_unit_norm_are_another_computation(units):
    """Kept under the hash of the files' own rows, and known again by it; a process that has not all rows is refused."""
    first = run_sweep({**LITTLE, "normalize": "features"})
    unit = {**LITTLE, "normalize": "features", "rows": "unit"}
    units.take()
    second = run_sweep(unit)
    assert (second.changed, second.computed, (first["gap_op"] != second["gap_op"]).all()) == ((), 2, True)
    assert len(units.take()[0]) == 3
    assert (run_sweep(unit).computed, units.take()) == (0, ([], 0))
    with pytest.raises(InputError, match="rows 'unit' needs all rows of a model in every process, got files of each"):
        open_inputs(sweep_config(unit), Hosts(0, 2), process_local=True)


def test_other_labels_are_noticed(units):
    """New labels change the predicted gap, and not the norms."""
    before = run_sweep(TABLE)
    np.save("all.npy", Y[::-1])
    after = run_sweep(TABLE)
    of = before["labels"] == "all"
    assert after.computed == 6
    assert (before["predicted_gap"][of] != after["predicted_gap"][of]).all()
    assert (before["gap_op"] == after["gap_op"]).all()


def test_another_grid_keeps_the_moments(units):
    """New settings are new pairs of old moments; the old settings' results are still there afterwards."""
    before = run_sweep(TABLE)
    units.take()
    assert run_sweep({**TABLE, "weak_ridge": 0.5}).computed == 6
    assert units.take() == ([], 6)
    again = run_sweep(TABLE)
    assert (again.computed, again.rows) == (0, before.rows)


def test_another_precision_is_another_computation(units):
    """Of models and pairs alike; it is the one that is computed with, however it was chosen."""
    split = supported_precisions()[-1]
    run_sweep(LITTLE)
    units.take()
    precision._fastest.cache_clear()
    with pytest.warns(UserWarning, match="^precision 'fastest' on cpu is float32$"):
        assert run_sweep({**LITTLE, "precision": "fastest"}).computed == 0
    assert units.take() == ([], 0)
    assert run_sweep({**LITTLE, "precision": split}).changed == ()
    models, pairs = units.take()
    assert (len(models), pairs) == ((0, 0) if split == "float32" else (3, 2))


def test_another_model_is_only_its_own_pairs(units):
    """One more weak model costs its moments and one cross moment per strong model."""
    run_sweep({**TABLE, "weak": ["a.npy", "b.npy"]})
    units.take()
    assert run_sweep(TABLE).computed == 2
    models, pairs = units.take()
    assert (models, pairs) == (["c"], 2)
