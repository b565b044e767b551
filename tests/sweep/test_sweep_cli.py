"""`w2s sweep`: its flags are the configuration's keys, and wrong usage is one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sweeping import LATENT, LITTLE, Y

from w2s_jax import run_sweep
from w2s_jax.cli import main
from w2s_jax.sweep.table import read_sweep

pytestmark = pytest.mark.usefixtures("folder")


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


@pytest.mark.everything
def test_flags_are_keys():
    """Options alone make the configuration that a file does, and replace its entries."""
    flags = ["--weak", "[ab].npy", "--strong", "s1.npy", "--labels", "task=one.npy", "some.npy", "--output", "out"]
    exact = ["--precision", "float32"]
    assert main(["sweep", *flags, "--threshold", "0.1", "--folds", "3", "--normalize", "none", "--quiet", *exact]) == 0
    table = {
        **LITTLE,
        "labels": {"task": "one.npy", "some": "some.npy"},
        "threshold": 0.1,
        "folds": 3,
        "normalize": "none",
        "precision": "float32",
    }
    assert read_sweep("out").rows == run_sweep({**table, "output": "again"}).rows
    Path("config.toml").write_text('output = "out"\nweak = ["a.npy"]\nstrong = ["s1.npy"]\nweak_threshold = 0.5\n')
    assert main(["sweep", "config.toml", "--threshold", "0.1", "--output", "third", "--quiet"]) == 0
    assert set(read_sweep("third")["weak_threshold"]) == {0.1}


@pytest.mark.everything
def test_classes_and_rows_without_a_label(capsys):
    """Text is classes, which are printed; the mark of rows that have none is a key and an option."""
    names = np.where(np.arange(90) % 5 < 3, np.where(LATENT[:, 0] > 0, "dog", "cat"), "?")
    Path("y.csv").write_text("\n".join(["label", *names]) + "\n")
    np.save("hot.npy", np.where(names[:, None] == "?", np.nan, names[:, None] == ["cat", "dog"]))
    models = ["--weak", "a.npy", "--strong", "s1.npy", "--quiet"]
    assert main(["sweep", *models, "--output", "o", "--labels", "y=y.csv", "--unlabelled", "?"]) == 0
    assert capsys.readouterr().out == f"classes of labels 'y': 0 = cat, 1 = dog\n{read_sweep(Path('o').absolute())}\n"
    want = run_sweep({**LITTLE, "weak": "a.npy", "labels": {"y": "hot.npy"}})
    assert read_sweep("o")["predicted_gap"] == want["predicted_gap"]
    np.save("k.npy", np.where(np.arange(90) % 5 < 3, LATENT[:, 0] > 0, -100))
    marked = run_sweep({**LITTLE, "labels": {"y": "k.npy"}, "unlabelled": -100, "output": "marked"})
    assert set(marked["n_labelled"]) == {54}
    assert main(["sweep", *models, "--output", "o", "--labels", "k.npy"]) == 2
    assert "labels 'k' are -100 in 36 rows" in capsys.readouterr().err


def test_label_sets_of_the_command_line(capsys):
    """Named by their files and keys, or as they are told to be; no set takes another's place."""
    np.savez("two.npz", a=Y, b=LATENT[:, 0])
    models = ["--weak", "a.npy", "--strong", "s1.npy", "--output", "o", "--quiet"]
    assert main(["sweep", *models, "--labels", "two.npz:a", "two.npz:b", "--labels", "mine=one.npy"]) == 0
    assert list(read_sweep("o")["labels"]) == ["two:a", "two:b", "mine"]
    assert main(["sweep", *models, "--labels", "one.npy", "one=two.npz:a"]) == 2
    error = capsys.readouterr().err
    assert "--labels must have names that differ, got 'one' for " in error
    assert error.endswith("two.npz:a: give NAME=FILE\n")


@pytest.mark.parametrize("options", [["--processes", "2"], ["--process", "0"], ["--process-local"]])
def test_processes_need_a_coordinator(capsys, options):
    """One of several processes would work alone on what it has."""
    assert main(["sweep", "--weak", "a.npy", "--strong", "s1.npy", "--output", "o", *options]) == 2
    assert capsys.readouterr().err == f"w2s sweep: {options[0]} is for several processes and needs --coordinator\n"
    assert not Path("o").exists()


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
            ["export", "out", "--to", "t.csv", "--folds", "3", "--normalize", "none"],
            "export takes FOLDER and --to alone, got --folds, --normalize",
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
