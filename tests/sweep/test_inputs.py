"""Inputs of a sweep: one set of rows, noticed when they change."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from sweeping import LABELS, LATENT, LITTLE, ROWS, TABLE, N

from w2s_jax import InputError, run_sweep
from w2s_jax.devices.hosts import Hosts
from w2s_jax.files import opening
from w2s_jax.sweep import inputs, run, store, workers
from w2s_jax.sweep.config import sweep_config
from w2s_jax.sweep.table import read_sweep

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.everything
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


@pytest.mark.everything
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
