"""Configurations: files, patterns and mappings are one thing, and what is wrong is one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from sweeping import LATENT, LITTLE, ROWS, N, Y

from w2s_jax import InputError, run_sweep
from w2s_jax.sweep.cli import _label_sets
from w2s_jax.sweep.config import read_config, sweep_config

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.everything
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
            "normalize": "none",
            "labels": None,
        }
    )
    assert (list(config.weak), len(config.grid), config.folds, config.normalize) == (["a", "b"], 4, 3, "none")
    assert sweep_config({**LITTLE, "output": "~/o"}).output == Path.home() / "o"


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
    "normalize": ({"normalize": 1}, r"normalize must be 'features', 'scale' or 'none', got 1"),
    "unit rows": ({"rows": "both"}, r"rows must be 'given' or 'unit', got 'both'"),
    "output": ({"output": 3}, "output must be a path"),
    "precision": ({"precision": 3}, "precision must be a name, got 3"),
    "labels short": ({"labels": {"x": "short.npy"}}, "'x' must have shape"),
    "labels unlabelled": ({"labels": {"x": "nan.npy"}}, "at least one labelled row"),
    "labels zero": ({"labels": {"x": "zero.npy"}}, "'x' must not be zero"),
    "rows": ({"weak": ["a.npy", "short.npy"]}, "same number of rows"),
    "vector": ({"weak": ["one.npy"]}, "2-D"),
    "constant": ({"weak": ["ones.npy"]}, "'ones' is constant"),
    "too large": ({"weak": ["huge.npy"]}, "'huge' is too large"),
    "too small": ({"weak": ["tiny.npy"]}, "model 'tiny' must have entries of at least 1e-16"),
    "labels marked": ({"labels": {"x": "marked.npy"}}, "'x' are -100 in 9 rows and classes from 0 to 1"),
    "nan": ({"weak": ["a.npy", "bad.npy"]}, "row 17"),
    "groups": ({"groups": "short.npy"}, "short.npy"),
}


@pytest.fixture
def bad_files() -> None:
    Path("sub").mkdir()
    bad = np.where(np.arange(N)[:, None] == 17, np.nan, ROWS["a"])
    files = {"sub/a": ROWS["a"], "short": Y[:50], "nan": np.nan * Y, "zero": 0 * Y, "bad": bad}
    files |= {"most": np.where(np.arange(N) == 7, np.nan, LATENT[:, 0])}
    files |= {"ones": np.ones((N, 3)), "huge": 1e30 * ROWS["a"], "tiny": 1e-24 * ROWS["a"]}
    files |= {"marked": np.where(np.arange(N) % 10, LATENT[:, 0] > 0, -100)}
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


def test_a_configuration_of_another_type_is_one_sentence():
    """Neither a path nor a mapping."""
    with pytest.raises(InputError, match=r"^config must be a TOML file or a mapping with its keys, got int$"):
        run_sweep(5)


def test_labels_may_be_text():
    """Classes of a table are one-hot, and ids of its rows are looked at."""
    names = np.where(LATENT[:, 0] > 0, "up", "down")
    Path("meta.csv").write_text("id,label\n" + "".join(f"{i},{name}\n" for i, name in enumerate(names)))
    np.save("hot.npy", np.stack([names == "down", names == "up"], 1).astype(float))
    table = run_sweep({**LITTLE, "labels": {"text": "meta.csv:label", "hot": "hot.npy"}})
    gaps = np.asarray(table["predicted_gap"], float)
    of = lambda name: gaps[np.asarray(table["labels"]) == name]
    np.testing.assert_array_equal(of("text"), of("hot"))


def test_a_byte_order_mark_is_no_part_of_the_first_key():
    """As editors on Windows put it."""
    Path("c.toml").write_text('output = "o"\nweak = "a.npy"\nstrong = "s1.npy"\n', encoding="utf-8-sig")
    assert list(read_config("c.toml").weak) == ["a"]


def test_read_config_is_sweep_config():
    """A TOML file is the mapping it spells."""
    Path("c.toml").write_text('output = "out"\nweak = ["a.npy", "b.npy"]\nstrong = ["s1.npy"]\nfolds = 3\n')
    assert read_config("c.toml") == sweep_config({**LITTLE, "folds": 3}, Path())
