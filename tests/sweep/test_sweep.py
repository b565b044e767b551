"""Sweeps: the numbers of the ranking, computed once; what is kept, what is computed again, what is refused."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from w2s_jax import InputError, moments, rank_supervisors, run_sweep, supported_precisions
from w2s_jax.cli import main
from w2s_jax.devices import precision
from w2s_jax.devices.hosts import Hosts
from w2s_jax.files import opening
from w2s_jax.sweep import inputs, run, store, workers
from w2s_jax.sweep.cli import _label_sets
from w2s_jax.sweep.config import read_config, sweep_config
from w2s_jax.sweep.pairs import Cells, leading, model_from_sums
from w2s_jax.sweep.row_cells import Source, cross_sums, model_sums, row_cells
from w2s_jax.sweep.table import Sweep, read_sweep

N = 90
RNG = np.random.default_rng(0)
LATENT = RNG.standard_normal((N, 6))
WIDTHS = (("s1", 24, 0.1), ("s2", 30, 0.4), ("a", 10, 0.1), ("b", 12, 0.7), ("c", 40, 0.4), ("d", 70, 0.5))
ROWS = {
    name: LATENT @ RNG.standard_normal((6, d)) / 3 + noise * RNG.standard_normal((N, d)) + 3
    for name, d, noise in WIDTHS
}
Y = LATENT[:, :2] + 0.1 * RNG.standard_normal((N, 2)) + 1
HIDDEN = np.where(np.arange(N)[:, None] % 5 < 3, Y, np.nan)
LABELS = {"all": Y, "some": HIDDEN, "one": LATENT[:, 0]}
TABLE = {
    "output": "out",
    "weak": ["[abc].npy"],
    "strong": ["s1.npy", "s2.npy"],
    "labels": {name: f"{name}.npy" for name in LABELS},
    "memory": 0.02,
}
LITTLE = {"output": "out", "weak": ["a.npy", "b.npy"], "strong": ["s1.npy"]}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchecked: None) -> Path:
    """A folder with every file a sweep may be given; compiled programs are not kept."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    monkeypatch.chdir(tmp_path)
    for name, rows in {**ROWS, **LABELS, "groups": np.arange(N) // 2}.items():
        np.save(f"{name}.npy", rows)
    return tmp_path


class Counter:
    """How often the units of work are computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.models: list[str] = []
        self.pairs = 0
        self.fail_after: int | None = None
        for name in ("model_sums", "cross_sums"):
            monkeypatch.setattr(workers, name, self.counting(getattr(workers, name)))

    def counting(self, function: Callable) -> Callable:
        def counted(first, *args, **kwargs):
            if self.fail_after is not None and len(self.models) + self.pairs >= self.fail_after:
                raise KeyboardInterrupt
            result = function(first, *args, **kwargs)
            if function is model_sums:
                self.models.append(first.name)
            else:
                self.pairs += len(first) * len(args[0])
            return result

        return counted

    def take(self) -> tuple[list[str], int]:
        taken = self.models, self.pairs
        self.models, self.pairs = [], 0
        return taken


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch)


# Numbers


RANKED = ("gap_op", "gap_fro", "cka", "predicted_gap", "expected_error", "expected_gap", "trial_error")


@pytest.mark.parametrize(
    ("weak", "normalize", "threshold", "labels", "groups"),
    [("ab", True, 0.0, "some", None), ("d", False, 0.05, "one", np.arange(N) // 2)],
)
def test_the_columns_are_those_of_the_ranking(x64, weak, normalize, threshold, labels, groups):
    """Every column that the ranking has too is the same, standard errors included, whatever other label sets there are."""
    setting = {"folds": 3, "normalize": normalize, "weak_ridge": 0.01, "strong_ridge": 0.1, "threshold": threshold}
    more = {} if groups is None else {"groups": "groups.npy"}
    table = run_sweep({**TABLE, "weak": [f"[{weak}].npy"], "strong": ["s1.npy"], **setting, **more})
    assert len(table) == len(weak) * 3
    found = [row for row in table.to_dict()["rows"] if row["labels"] == labels]
    ranking = rank_supervisors(
        {name: ROWS[name] for name in weak}, {"s1": ROWS["s1"]}, LABELS[labels], groups=groups, **setting
    )
    for want in ranking.to_dict()["rows"]:
        row = next(row for row in found if row["weak"] == want["supervisor"])
        for column in RANKED:
            assert row[column] == pytest.approx(want[column], rel=1e-8), column
            if f"{column}_se" in row:
                assert row[f"{column}_se"] == pytest.approx(want[f"{column}_se"], rel=1e-8, abs=1e-8 * want[column])


def test_a_cut_is_of_no_consequence_for_the_numbers(x64):
    """Where settings keep few of many eigenpairs pairs are scored with those alone, and have the numbers of the ranking."""
    wide = {name: ROWS["d"] + scale * RNG.standard_normal((N, 70)) for name, scale in (("v", 0.3), ("w", 0.6))}
    for name, rows in wide.items():
        np.save(f"{name}.npy", rows)
    table = run_sweep(
        {
            **LITTLE,
            "weak": ["a.npy", "v.npy", "w.npy"],
            "strong": ["d.npy"],
            "weak_threshold": [0.05, 0.2],
            "strong_threshold": [0.05, 0.3],
            "labels": {"some": "some.npy"},
        }
    )
    rows = row_cells(N, {}, None, 0, 0, True)
    cells = Cells(*(jnp.asarray(x) for x in rows.cells))
    model = model_from_sums(model_sums(Source("d", ROWS["d"], ROWS["d"][:1]), rows), cells, True)
    assert leading(model, 0.05, 16).vectors.shape == (1, 128, 16)
    ranking = rank_supervisors({"a": ROWS["a"], **wide}, ROWS["d"], HIDDEN, threshold=0.05)
    rows = [row for row in table.to_dict()["rows"] if row["weak_threshold"] == row["strong_threshold"] == 0.05]
    for want in ranking.to_dict()["rows"]:
        row = next(row for row in rows if row["weak"] == want["supervisor"])
        for column in ("gap_op", "gap_fro", "cka", "predicted_gap"):
            assert row[column] == pytest.approx(want[column], rel=1e-8), column


def test_folds_only_add_columns(x64):
    """The in-sample columns do not depend on how the rows are divided for the others."""
    plain, folded = run_sweep(TABLE), run_sweep({**TABLE, "output": "folded", "folds": 4})
    for column in RANKED[:4]:
        np.testing.assert_allclose(folded[column], plain[column], rtol=1e-9)
    assert np.isnan(plain["expected_error"]).all()
    assert (folded["expected_error"] > 0).all()


def test_a_grid_is_all_combinations(x64):
    """A row of a grid is the row of a sweep with that setting alone."""
    grid = {
        "weak_threshold": [0.0, 0.1],
        "strong_threshold": [0.02],
        "weak_ridge": [1e-3, 0.1],
        "strong_ridge": [0.01, 1],
    }
    table = run_sweep({**LITTLE, **grid})
    assert len(table) == 2 * 8
    keys = ("weak_threshold", "strong_threshold", "weak_ridge", "strong_ridge")
    for row in table.to_dict()["rows"][5:8]:
        alone = run_sweep({**LITTLE, "output": "alone", **{key: row[key] for key in keys}})
        same = next(other for other in alone.to_dict()["rows"] if other["weak"] == row["weak"])
        for column in ("gap_op", "gap_fro"):
            assert same[column] == pytest.approx(row[column], rel=1e-10)


def test_the_bound_is_above_the_gap(x64):
    """`predicted_gap <= gap_bound = ||P_s (I - P_w)||_op^2 E y^2` on the labelled rows."""
    table = run_sweep({**TABLE, "threshold": 0.05})
    assert (table["predicted_gap"] <= table["gap_bound"]).all()
    of_all = table["labels"] == "all"
    centred = Y - Y.mean(0)
    assert table["label_energy"][of_all] == pytest.approx(np.sum(centred**2) / N)
    assert table["gap_bound"][of_all] == pytest.approx(table["gap_op"][of_all] ** 2 * np.sum(centred**2) / N)
    assert set(table["n_labelled"][table["labels"] == "some"]) == {54}


def test_single_precision_is_near_double():
    """Without x64 files of doubles are summed in single precision, about their first row."""
    table = run_sweep({**TABLE, "threshold": 0.05, "weak_ridge": 0.1})
    with jax.enable_x64(True):
        exact = run_sweep({**TABLE, "output": "exact", "threshold": 0.05, "weak_ridge": 0.1})
    for column in ("gap_op", "gap_fro", "cka", "predicted_gap"):
        np.testing.assert_allclose(table[column], exact[column], rtol=1e-4)


def test_a_large_mean_loses_nothing():
    """Rows with a mean of 1e4 give the numbers of the rows without it."""
    plain = run_sweep(LITTLE)
    for name in ("a", "b", "s1"):
        np.save(f"{name}.npy", ROWS[name] + 1e4)
    moved = run_sweep(LITTLE)
    assert moved.changed == ("a", "b", "s1")
    for column in ("gap_op", "gap_fro", "cka"):
        np.testing.assert_allclose(moved[column], plain[column], rtol=1e-3)


@pytest.mark.parametrize("folds", [0, 3])
def test_sums_over_ranges_of_rows_merge(x64, folds):
    """Two processes with half of the rows each, merged by addition, have the sums over all."""
    rows = row_cells(N, LABELS, None, folds, 0, True)
    strong, weak = (
        [Source(name, ROWS[name], ROWS[name][:1]) for name in names] for names in (("s1", "s2"), ("a", "b"))
    )
    whole = model_sums(strong[0], rows), cross_sums(strong, weak, rows)
    first = model_sums(strong[0], rows, span=(0, 40)), cross_sums(strong, weak, rows, span=(0, 40))
    second = model_sums(strong[0], rows, span=(40, N)), cross_sums(strong, weak, rows, span=(40, N))
    own, cross = jax.tree.map(np.add, first, second)
    merged = own.of(own.sums, whole[0].shift), cross
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-11), merged, whole)


def test_sums_are_the_moments(x64):
    """Cells add up to the spine's moments of the pair."""
    rows = row_cells(N, {"y": Y}, None, 3, 0, False)
    s, w = (Source(name, ROWS[name], ROWS[name][:1]) for name in ("s1", "a"))
    m = moments(ROWS["a"] - ROWS["a"][0], ROWS["s1"] - ROWS["s1"][0], Y)
    found = model_sums(s, rows)
    np.testing.assert_allclose(found.sums.hh.sum(0)[:24, :24], m.ss * N, rtol=1e-10)
    np.testing.assert_allclose(found.sums.hy.sum(0)[:24], m.sy * N, rtol=1e-10)
    np.testing.assert_allclose(cross_sums([s], [w], rows).sum(0), m.sw * N, rtol=1e-10)


def test_many_blocks_are_one(x64, monkeypatch):
    """Rows read in small blocks give the sums of one block."""
    rows = row_cells(N, LABELS, None, 3, 0, True)
    models = [Source(name, ROWS[name], ROWS[name][:1]) for name in ("s1", "a")]
    once = model_sums(models[0], rows), cross_sums(models[:1], models[1:], rows)
    monkeypatch.setattr("w2s_jax.sweep.row_cells.BLOCK_ROWS", 16)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-11),
        (model_sums(models[0], rows), cross_sums(models[:1], models[1:], rows)),
        once,
    )


def test_batches_of_an_accelerator_score_the_same(monkeypatch):
    """Weak models scored several at a time, the last batch filled up, have the scores of one at a time."""
    alone = run_sweep({**TABLE, "weak": ["[abcd].npy"], "memory": 256})
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr("w2s_jax.sweep.pair_rows.BATCH", 2)
    together = run_sweep({**TABLE, "weak": ["[abcd].npy"], "memory": 256, "output": "together"})
    assert together["weak"].tolist() == alone["weak"].tolist()
    for column in ("gap_op", "gap_fro", "cka", "predicted_gap"):
        np.testing.assert_allclose(together[column], alone[column], rtol=1e-4)


# What is computed, and what is computed again


def test_models_at_once_fit_the_memory():
    """As many models as processes, fewer where their moments would not fit, and at least one."""
    sources = {
        name: SimpleNamespace(width=d) for name, d in (("a", 100), ("b", 100), ("c", 100), ("d", 1000), ("e", 10))
    }
    cells = SimpleNamespace(n=np.ones(1), sets=np.ones((1, 1)))
    given = SimpleNamespace(rows=SimpleNamespace(cells=cells), sources=sources, dtype=np.dtype(np.float32))

    def batches(processes: int, memory: float) -> list[str]:
        asked = SimpleNamespace(
            hosts=SimpleNamespace(count=processes), inputs=given, config=SimpleNamespace(memory=memory)
        )
        return ["".join(batch) for batch in run._batches(asked, sources)]

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


@pytest.mark.parametrize("given", ["shards/part*.npz:h", "shards:h", "run[1]/b.npz:h"])
def test_a_changed_file_behind_a_key_is_noticed(given):
    """Also where a pattern, a folder or brackets come before the key."""
    for name in ("shards", "run[1]"):
        Path(name).mkdir()

    def save(rows: np.ndarray, when: float) -> None:
        np.savez("run[1]/b.npz", h=rows)
        for i, part in enumerate(np.split(rows, 3)):
            np.savez(f"shards/part{i}.npz", h=part)
        for file in (*Path("shards").iterdir(), Path("run[1]/b.npz")):
            os.utime(file, (when, when))

    table = {**LITTLE, "weak": {"a": "a.npy", "b": given}}
    save(ROWS["b"], 1e9)
    first = run_sweep(table)
    save(ROWS["b"] + np.arange(12) * LATENT[:, :1], 1.1e9)
    second = run_sweep(table)
    assert (second.changed, second.computed) == (("b",), 1)
    assert first.rows[0] == second.rows[0] != first.rows[1] != second.rows[1]


def test_a_touched_file_changes_nothing(units):
    """A file that was only written again is hashed, not computed."""
    run_sweep(TABLE)
    units.take()
    np.save("b.npy", ROWS["b"])
    table = run_sweep(TABLE)
    assert (table.changed, table.computed, units.take()) == ((), 0, ([], 0))


def test_an_old_file_is_not_read_again(monkeypatch):
    """Size and time answer for files that had not just been written when they were hashed."""
    monkeypatch.setattr(store, "_FRESH_NS", 0)
    run_sweep(TABLE)
    monkeypatch.setattr(run, "_hashed", None)
    assert run_sweep(TABLE).changed == ()


def test_files_that_change_places_are_noticed(monkeypatch):
    """As their sizes and modification times do too."""
    monkeypatch.setattr(store, "_FRESH_NS", 0)
    np.save("b.npy", ROWS["a"] ** 2)
    for name in "ab":
        os.utime(f"{name}.npy", (1e9, 1e9))
    before = run_sweep(LITTLE)
    for source, target in (("a", "c"), ("b", "a"), ("c", "b")):
        os.replace(f"{source}.npy", f"{target}.npy")
    after = run_sweep(LITTLE)
    assert after.changed == ("a", "b")
    assert list(after["gap_op"]) == list(before["gap_op"])[::-1]


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
    tables = [run_sweep({**LITTLE, "normalize": normalize}) for normalize in (True, False)]
    units.take()
    for table, normalize in zip(tables, (True, False), strict=True):
        again = run_sweep({**LITTLE, "normalize": normalize})
        assert (again.rows, again.computed, units.take()) == (table.rows, 0, ([], 0))


def test_a_run_that_ends_among_the_moments_says_what_is_missing(units, capsys):
    """The table of a former configuration is not shown as that of this one, nor as a finished one."""
    run_sweep(LITTLE)
    units.take()
    units.fail_after = 1
    with pytest.raises(KeyboardInterrupt):
        run_sweep({**TABLE, "normalize": False})
    assert (read_sweep("out").pairs, read_sweep("out").finished, len(read_sweep("out"))) == (6, 0, 0)
    assert main(["sweep", "export", "out", "--to", "table.csv"]) == 0
    assert capsys.readouterr().out == "0 rows in table.csv; 0 of 6 pairs are finished\n"


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


def test_damaged_moments_are_computed_again(units):
    """A file of moments that is not what its checksum says is not used."""
    before = run_sweep(LITTLE)
    units.take()
    for file in Path("out/moments").iterdir():
        *most, last = file.read_bytes()
        file.write_bytes(bytes([*most, last ^ 1]))
    assert run_sweep(LITTLE).rows == before.rows
    assert len(units.take()[0]) == 3


def test_moments_of_other_files_are_removed():
    """Beside the database stand the moments of the present models and nothing else."""
    run_sweep(TABLE)
    Path("out/moments/.1234.safetensors").write_bytes(b"left by a killed process")
    run_sweep(LITTLE)
    assert len(list(Path("out/moments").iterdir())) == 3


def test_groups_share_their_reads(monkeypatch):
    """With memory for all pairs every file is read twice: once for its moments, once for the cross moments."""
    read: list[str] = []
    real = inputs.open_rows

    def opened(path, name, **options):
        rows = real(path, name, **options)
        if not name.startswith("model"):
            return rows
        reading = lambda start, stop: (read.append(name) if stop > 1 else None) or rows[start:stop]
        return opening.Rows(rows.label, rows.shape, rows.dtype, reading)

    monkeypatch.setattr(inputs, "open_rows", opened)
    run_sweep({**TABLE, "memory": 256})
    assert {name: read.count(name) for name in read} == {f"model {name!r}": 2 for name in ("a", "b", "c", "s1", "s2")}


def test_rows_must_have_the_same_ids():
    """Row ids that files carry are held against each other, those of labels too."""
    ids = np.arange(N)
    for name, moved in (("a", 0), ("all", 5)):
        rows = ROWS[name] if name in ROWS else LABELS[name]
        np.savez(f"{name}.npz", h=rows, id=np.roll(ids, moved))
    config = {**TABLE, "weak": ["a.npz"], "labels": {"all": "all.npz"}}
    with pytest.raises(InputError, match=f"row 0 is 0 in model 'a' and {N - 5} in labels 'all'"):
        run_sweep(config)
    assert not Path("out").exists()


def test_a_change_while_running_is_an_error(monkeypatch):
    """A file that changes between its moments and its pairs is named, and its pairs are not kept."""
    real = workers.cross_sums

    def slow(*args, **options):
        np.save("b.npy", ROWS["b"][:, ::-1])
        return real(*args, **options)

    monkeypatch.setattr(workers, "cross_sums", slow)
    with pytest.raises(InputError, match="'b' has changed while the sweep was running"):
        run_sweep(LITTLE)
    assert len(read_sweep("out")) == 0


# The table


@pytest.fixture
def table() -> Sweep:
    return run_sweep({**TABLE, "weak_ridge": [1e-3, 0.1]})


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


# Configuration and command line


def test_toml_paths_are_relative_to_the_file(monkeypatch, capsys):
    """`w2s sweep config.toml` runs from anywhere; `w2s sweep export` writes the table."""
    Path("config.toml").write_text(
        'output = "out"\nweak = ["a.npy", "b.npy"]\nstrong = ["s1.npy"]\nweak_ridge = [1e-3, 1]\n[labels]\ntask = "one.npy"\n'
    )
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert main(["sweep", "../config.toml", "--quiet"]) == 0
    assert capsys.readouterr() == (f"{read_sweep('../out')}\n".replace("../out", str(Path("../out"))), "")
    assert main(["sweep", "export", "../out", "--to", "table.csv"]) == 0
    assert capsys.readouterr().out == "4 rows in table.csv\n"
    assert len(Path("table.csv").read_text().splitlines()) == 5


def test_flags_are_keys():
    """Options alone make the configuration that a file does, and replace its entries."""
    flags = ["--weak", "[ab].npy", "--strong", "s1.npy", "--labels", "task=one.npy", "some.npy", "--output", "out"]
    exact = ["--precision", "float32"]
    assert main(["sweep", *flags, "--threshold", "0.1", "--folds", "3", "--raw", "--quiet", *exact]) == 0
    table = {
        **LITTLE,
        "labels": {"task": "one.npy", "some": "some.npy"},
        "threshold": 0.1,
        "folds": 3,
        "normalize": False,
        "precision": "float32",
    }
    assert read_sweep("out").rows == run_sweep({**table, "output": "again"}).rows
    Path("config.toml").write_text('output = "out"\nweak = ["a.npy"]\nstrong = ["s1.npy"]\nweak_threshold = 0.5\n')
    assert main(["sweep", "config.toml", "--threshold", "0.1", "--output", "third", "--quiet"]) == 0
    assert set(read_sweep("third")["weak_threshold"]) == {0.1}


def test_names_and_patterns():
    """Globs are models of their own, tables give names, keys of archives are part of the name."""
    save_file({"x": ROWS["a"].astype(np.float32), "y": ROWS["b"].astype(np.float32)}, "two.v1.safetensors")
    table = {"output": "o", "weak": ["[ab].npy", "two.v1.safetensors:x"], "strong": {"big": "s1.npy"}}
    config = sweep_config(table)
    assert list(config.weak) == ["a", "b", "two.v1:x"]
    assert config.strong == {"big": str(Path("s1.npy").absolute())}
    assert len(run_sweep(config)) == 3
    assert sweep_config({**LITTLE, "weak": "[ab].npy", "strong": Path("s1.npy")}) == sweep_config(LITTLE)
    for name in ("1.v2", "2.v2"):
        Path(name).mkdir()
        np.savez(f"{name}/x.npz", **{"layers.5": ROWS["a"], "id": np.arange(N)})
        np.savez(f"m{name}.npz", **{"layers.5": ROWS["a"], "layers.6": ROWS["b"]})
    assert list(
        sweep_config({**table, "weak": ["m*.npz:layers.5", "[12].v2:layers.5", "m1.v2.npz:layers.6"]}).weak
    ) == [*("m1.v2:layers.5", "m2.v2:layers.5", "1.v2:layers.5", "2.v2:layers.5", "m1.v2:layers.6")]


def test_label_sets_of_the_command_line(capsys):
    """Named by their files and keys, or as they are told to be; no set takes another's place."""
    np.savez("two.npz", a=Y, b=LATENT[:, 0])
    models = ["--weak", "a.npy", "--strong", "s1.npy", "--output", "o", "--quiet"]
    assert main(["sweep", *models, "--labels", "two.npz:a", "two.npz:b", "mine=one.npy"]) == 0
    assert list(read_sweep("o")["labels"]) == ["two:a", "two:b", "mine"]
    assert main(["sweep", *models, "--labels", "one.npy", "one=two.npz:a"]) == 2
    error = capsys.readouterr().err
    assert "--labels must have names that differ, got 'one' for " in error
    assert error.endswith("two.npz:a: give NAME=FILE\n")


def test_files_whose_name_has_an_equals_sign():
    """A file that is there is no NAME=FILE."""
    Path("run=3").mkdir()
    np.save("run=3/y.npy", Y)
    assert _label_sets(["run=3/y.npy", "x=one.npy"], str) == {"y": "run=3/y.npy", "x": "one.npy"}


def test_the_output_may_lie_among_the_models():
    """What the sweep has written there is no model."""
    Path("models").mkdir()
    for name in "ab":
        np.save(f"models/{name}.npy", ROWS[name])
    for _ in range(2):
        table = run_sweep({"output": "models/results", "weak": "models/*", "strong": "s1.npy"})
        assert list(table["weak"]) == ["a", "b"]
    shutil.rmtree("models/results")
    for _ in range(2):
        assert list(run_sweep({"output": "models", "weak": "models/*", "strong": "s1.npy"})["weak"]) == ["a", "b"]


def test_configurations_of_python():
    """Numbers of NumPy are numbers, a file that is named twice is one model, and no labels may be None."""
    config = sweep_config(
        {
            **LITTLE,
            "weak": ["a.npy", "[ab].npy"],
            "weak_ridge": np.logspace(-3, 0, 4),
            "strong_ridge": np.float32(0.5),
            "folds": np.int64(3),
            "normalize": np.bool_(False),
            "labels": None,
        }
    )
    assert (list(config.weak), len(config.grid), config.folds, config.normalize) == (["a", "b"], 4, 3, False)
    assert sweep_config({**LITTLE, "output": "~/o"}).output == Path.home() / "o"


def test_infinite_numbers_are_null_in_json(table):
    """JSON has no infinity."""
    changed = list(table.rows[0])
    changed[table.columns.index("gap_bound")] = float("inf")
    replace(table, rows=(tuple(changed), *table.rows[1:])).export("table.json")
    rows = json.loads(Path("table.json").read_text())["rows"]
    assert rows[0]["gap_bound"] is None
    assert rows[1]["gap_bound"] == table["gap_bound"][1]


@pytest.mark.parametrize("options", [["--processes", "2"], ["--process", "0"], ["--process-local"]])
def test_processes_need_a_coordinator(capsys, options):
    """One of several processes would work alone on what it has."""
    assert main(["sweep", "--weak", "a.npy", "--strong", "s1.npy", "--output", "o", *options]) == 2
    assert capsys.readouterr().err == f"w2s sweep: {options[0]} is for several processes and needs --coordinator\n"
    assert not Path("o").exists()


def test_groups_of_text_in_arrow():
    """Text of Parquet is as good as that of NumPy."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    names = np.array([f"g{i // 2}" for i in range(N)])
    np.save("names.npy", names)
    parquet.write_table(pa.table({"g": names}), "names.parquet")
    configs = [sweep_config({**LITTLE, "folds": 3, "groups": f"names.{end}"}) for end in ("npy", "parquet")]
    found = [inputs.open_inputs(config, Hosts(), False) for config in configs]
    np.testing.assert_array_equal(*(of.rows.layouts[0].cell for of in found))
    assert found[0].rows_key == found[1].rows_key


def test_numbers_of_classes_are_taken_as_values_with_a_warning():
    """As in a ranking, which has the test of what is warned of."""
    np.save("k.npy", np.arange(N) % 3)
    with pytest.warns(UserWarning, match=r"^labels 'k' are the numbers 0 to 2, taken as values"):
        inputs.open_inputs(sweep_config({**LITTLE, "labels": {"k": "k.npy"}}), Hosts(), False)


def write(text: str) -> Callable[[], None]:
    return lambda: Path("config.toml").write_text(text)


FAULTS: dict[str, tuple[dict, str]] = {
    "unknown key": ({"ridge": 1.0}, "no key 'ridge'"),
    "no weak": ({"weak": []}, "weak must hold at least one model"),
    "weak is a number": ({"weak": 3}, "weak must be a file, a list of files or a table of name = file, got 3"),
    "no match": ({"weak": ["none*.npy"]}, "none*.npy of weak"),
    "no path": ({"weak": ["a\0.npy"]}, "weak must be a path in UTF-8"),
    "same name as text": ({"weak": {1: "a.npy", "1": "b.npy"}}, "weak must have names that differ as text"),
    "ridge huge": ({"weak_ridge": 10**400}, "weak_ridge must be finite"),
    "folds huge": ({"folds": 10**15}, "folds must be at most the number of rows (90)"),
    "labels of one kind": (
        {"folds": 3, "labels": {"all": "all.npy", "x": "most.npy"}},
        "labels 'x': every fold must hold at ",
    ),
    "missing file": ({"weak": ["none.npy"]}, "none.npy"),
    "same name": ({"weak": ["a.npy", "sub/a.npy"]}, "names of weak models must be unique, got 'a'"),
    "same name for two": ({"strong": {"a": "s1.npy"}}, "/s1.npy"),
    "labels a list": ({"labels": ["one.npy"]}, "labels must be a table"),
    "ridge text": ({"weak_ridge": ["small"]}, "weak_ridge must be a number, got 'small'"),
    "ridge negative": ({"weak_ridge": [-1]}, "weak_ridge must be finite and at least 0"),
    "ridge empty": ({"weak_ridge": []}, "weak_ridge must hold at least one number"),
    "ridge twice": ({"weak_ridge": [1, 1.0]}, "weak_ridge must hold numbers that differ"),
    "threshold": ({"threshold": 2}, "threshold must be between 0 and 1"),
    "both thresholds": ({"threshold": 0, "weak_threshold": 0.1}, "either threshold or weak_threshold"),
    "folds": ({"folds": 2}, "folds must be an integer of at least 3"),
    "folds text": ({"folds": "3"}, "folds must be an integer"),
    "normalize": ({"normalize": 1}, "normalize must be true or false"),
    "output": ({"output": 3}, "output must be a path"),
    "precision": ({"precision": 3}, "precision must be a name, got 3"),
    "labels short": ({"labels": {"x": "short.npy"}}, "'x' must have shape"),
    "labels unlabelled": ({"labels": {"x": "nan.npy"}}, "at least one labelled row"),
    "labels zero": ({"labels": {"x": "zero.npy"}}, "'x' must not be zero"),
    "rows": ({"weak": ["a.npy", "short.npy"]}, "same number of rows"),
    "vector": ({"weak": ["one.npy"]}, "2-D"),
    "constant": ({"weak": ["ones.npy"]}, "'ones' is constant"),
    "too large": ({"weak": ["huge.npy"]}, "'huge' is too large"),
    "nan": ({"weak": ["a.npy", "bad.npy"]}, "row 17"),
    "groups": ({"groups": "short.npy"}, "short.npy"),
}


@pytest.fixture
def bad_files() -> None:
    Path("sub").mkdir()
    bad = np.where(np.arange(N)[:, None] == 17, np.nan, ROWS["a"])
    files = {"sub/a": ROWS["a"], "short": Y[:50], "nan": np.nan * Y, "zero": 0 * Y, "bad": bad}
    files |= {"most": np.where(np.arange(N) == 7, np.nan, LATENT[:, 0])}
    files |= {"ones": np.ones((N, 3)), "huge": 1e30 * ROWS["a"]}
    for name, rows in files.items():
        np.save(f"{name}.npy", rows)


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_one_sentence(bad_files, fault):
    """Whatever is wrong with a configuration or a file is one InputError that names it."""
    change, message = FAULTS[fault]
    with pytest.raises(InputError) as raised:
        run_sweep({**LITTLE, **change})
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert Path("out").exists() == (fault in ("constant", "too large", "nan"))  # which take reading all rows to see


@pytest.mark.parametrize(
    ("text", "message"), [("weak = [", "not TOML"), ('output = "o"', "a sweep needs weak"), (None, "No such file")]
)
def test_a_bad_file_of_settings_is_one_line(capsys, text, message):
    """Exit code 2 and one line."""
    if text is not None:
        Path("config.toml").write_text(text)
    assert main(["sweep", "config.toml"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("w2s sweep: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["export", "out"], "usage"),
        (["export", "none", "--to", "t.csv"], "there is no sweep in none"),
        (
            ["export", "out", "--to", "t.csv", "--folds", "3", "--raw"],
            "export takes FOLDER and --to alone, got --folds, --raw",
        ),
        (["export", "out", "--to", "t.csv", "--process-local"], "alone, got --process-local"),
        (["a.toml", "b.toml"], "usage"),
        ([], "needs output"),
    ],
)
def test_wrong_usage_is_one_line(capsys, args, message):
    """Exit code 2 and one line."""
    assert main(["sweep", *args]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_exports_name_their_format(table):
    """Another extension is refused, and so is a folder that is not there; nothing is written."""
    before = set(Path().iterdir())
    for path in ("table.xlsx", "none/table.csv"):
        with pytest.raises(InputError, match=path):
            table.export(path)
    assert set(Path().iterdir()) == before


# Folders and disks


def test_one_process_at_a_time(capsys):
    """While one run has the folder another one stops with one sentence; the table can be read meanwhile."""
    run_sweep(LITTLE)
    args = ["--weak", "a.npy", "--strong", "s1.npy", "--output", "out", "--quiet"]
    with store.open_store(Path("out")):
        assert main(["sweep", *args]) == 2
        assert "another process runs a sweep in" in capsys.readouterr().err
        assert len(read_sweep("out")) == 2
    assert main(["sweep", *args]) == 0


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_folder():
    """A folder that may not be written is refused before any work."""
    Path("locked").mkdir(mode=0o500)
    with pytest.raises(InputError, match="cannot write the sweep's folder locked"):
        run_sweep({**LITTLE, "output": "locked/out"})


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_that_cannot_be_made(monkeypatch, error):
    """A read-only or full file system is one sentence."""

    def mkdir(*args: object, **kwargs: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(InputError, match=f"cannot write the sweep's folder out: {os.strerror(error)}"):
        run_sweep(LITTLE)


def test_a_file_in_the_way():
    """An output inside a file is refused."""
    with pytest.raises(InputError, match="cannot write the sweep's folder"):
        run_sweep({**LITTLE, "output": "a.npy/out"})


def test_another_database_in_the_way():
    """A file that is no database, and a database of another layout, are left alone."""
    Path("out").mkdir()
    Path("out/sweep.sqlite").write_bytes(b"something else" * 100)
    with pytest.raises(InputError, match="not a database"):
        run_sweep(LITTLE)
    Path("out/sweep.sqlite").unlink()
    with sqlite3.connect("out/sweep.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(InputError, match="another version"):
        run_sweep(LITTLE)


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """Sets how large a file may become, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 4096, 20_000, 49_152])
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(small_disk, size):
    """When files cannot grow, at any point, the run stops with one sentence; with room it ends like any other."""
    small_disk(size)
    with pytest.raises(InputError, match="cannot") as raised:
        run_sweep({**TABLE, "weak_ridge": list(np.geomspace(1e-4, 1, 40))})
    assert "\n" not in str(raised.value)
    small_disk(resource.RLIM_INFINITY)
    table = run_sweep({**TABLE, "weak_ridge": list(np.geomspace(1e-4, 1, 40))})
    assert (table.finished, len(table)) == (6, 6 * 40 * 3)


@pytest.mark.parametrize("step", ["_write", "write_bytes_atomically"])
def test_no_space_left(monkeypatch, capsys, step):
    """The system's own words for a full disk reach the user, with exit code 2."""
    if step == "_write":
        full = sqlite3.OperationalError("database or disk is full")
        monkeypatch.setattr(store.Store, "_write", raising_inside(full))
    else:
        monkeypatch.setattr(Path, "write_bytes", raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    assert main(["sweep", "--weak", "a.npy", "--strong", "s1.npy", "--output", "out", "--quiet"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("w2s sweep: cannot")
    assert "full" in err or "No space left" in err
    assert err.count("\n") == 1


def raising(error: Exception) -> Callable:
    def fail(*args: object) -> None:
        raise error

    return fail


def raising_inside(error: Exception) -> Callable:
    def fail(self: store.Store, *args: object) -> None:
        with store._faults(self.folder):
            raise error

    return fail


def test_a_configuration_of_another_type_is_one_sentence():
    """Neither a path nor a mapping."""
    with pytest.raises(InputError, match=r"^config must be a TOML file or a mapping with its keys, got int$"):
        run_sweep(5)


def test_read_config_is_sweep_config():
    """A TOML file is the mapping it spells."""
    Path("c.toml").write_text('output = "out"\nweak = ["a.npy", "b.npy"]\nstrong = ["s1.npy"]\nfolds = 3\n')
    assert read_config("c.toml") == sweep_config({**LITTLE, "folds": 3}, Path())
