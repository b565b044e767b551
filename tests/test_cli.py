"""The command line: files in, a table, JSON and a figure out; whatever is wrong is exit code 2 and one line on stderr."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import w2s_jax
from w2s_jax import rank_supervisors
from w2s_jax.cli import _parser, main

N = 60
RNG = np.random.default_rng(0)
LATENT = RNG.standard_normal((N, 6))
ROWS = {
    name: (LATENT @ RNG.standard_normal((6, d)) / 3 + noise * RNG.standard_normal((N, d))).astype(np.float32)
    for name, d, noise in (("strong", 24, 0.1), ("a", 10, 0.1), ("b", 12, 0.7), ("c", 30, 0.4))
}
Y = LATENT[:, :2] + 0.1 * RNG.standard_normal((N, 2))
HIDDEN = np.where(np.arange(N)[:, None] % 5 < 3, Y, np.nan)
GROUPS = np.array([f"pair {i // 2}" for i in range(N)])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchecked: None) -> Path:
    """A folder with every file a command may be given; compiled programs are not kept."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    monkeypatch.chdir(tmp_path)
    np.save("strong.npy", ROWS["strong"])
    np.save("a.npy", ROWS["a"])
    np.savez("more.npz", b=ROWS["b"], other=np.ones(3))
    save_file({"c": ROWS["c"]}, "c.safetensors")
    np.save("y.npy", Y)
    np.save("hidden.npy", HIDDEN)
    np.save("groups.npy", GROUPS)
    return tmp_path


WEAK = ["--weak", "a.npy", "more.npz:b", "c.safetensors"]
NAMES = {"a": "a", "more:b": "b", "c": "c"}
RANK = ["rank", "--strong", "strong.npy", *WEAK, "--quiet"]


def rank(*extra: str) -> int:
    return main([*RANK, *extra])


def expected(y: np.ndarray | None = None, **kwargs) -> w2s_jax.SupervisorTable:
    return rank_supervisors({name: ROWS[key] for name, key in NAMES.items()}, ROWS["strong"], y, **kwargs)


# What it prints and writes


RUNS: dict[str, tuple[list[str], dict]] = {
    "no labels": ([], {}),
    "labels": (["--labels", "y.npy"], {"y": Y}),
    "some labels, groups": (["--labels", "hidden.npy", "--groups", "groups.npy"], {"y": HIDDEN, "groups": GROUPS}),
    "one ridge": (["--labels", "y.npy", "--ridge", "0.1"], {"y": Y, "weak_ridge": 0.1, "strong_ridge": 0.1}),
    "two ridges": (["--labels", "y.npy", "--ridge", "0.1", "1"], {"y": Y, "weak_ridge": 0.1, "strong_ridge": 1.0}),
    "prior": (["--prior", "1", "--noise", "0.5", "--seed", "3"], {"prior": 1.0, "noise": 0.5, "seed": 3}),
    "raw": (
        ["--normalize", "none", "--folds", "4", "--threshold", "0.01", "--precision", "float32"],
        {"normalize": "none", "folds": 4, "threshold": 0.01, "precision": "float32"},
    ),
}


@pytest.mark.everything
@pytest.mark.parametrize("run", RUNS)
def test_options_are_arguments(capsys, run):
    """The JSON file is the table that `rank_supervisors` makes from the same arrays and settings."""
    extra, kwargs = RUNS[run]
    assert rank(*extra, "--json", "out.json") == 0
    got, want = json.loads(Path("out.json").read_text()), expected(**kwargs).to_dict()
    assert (got["settings"], got["sorted_by"]) == (want["settings"], want["sorted_by"])
    for row, other in zip(got["rows"], want["rows"], strict=True):
        assert row.keys() == other.keys()
        texts = [key for key, value in row.items() if isinstance(value, str)]
        assert {key: row.pop(key) for key in texts} == {key: other.pop(key) for key in texts}
        assert row == pytest.approx(other, rel=1e-6)


def test_a_repeated_option_adds_to_the_earlier_one(capsys):
    """Files and settings of both are taken."""
    weak = ["--weak", "a.npy", "--weak", "more.npz:b", "c.safetensors"]
    assert main(["rank", "--strong", "strong.npy", *weak, "--ridge", "0.1", "--ridge", "1", "--quiet"]) == 0
    assert capsys.readouterr() == (f"{expected(weak_ridge=0.1, strong_ridge=1.0)}\n", "")


def test_every_option_of_several_values_may_be_repeated():
    """With no values by default, to which those given would be added; and an option has its whole name alone."""
    (commands,) = (action.choices for action in _parser()._actions if isinstance(action.choices, dict))
    for command in commands.values():
        assert not command.allow_abbrev
        for option in command._actions:
            if option.option_strings and option.nargs in ("+", "*"):
                assert isinstance(option, argparse._ExtendAction) and not option.default, option.dest


def test_prints_the_table(capsys):
    """Standard output is the printed table and nothing else, standard error is empty."""
    assert rank() == 0
    assert capsys.readouterr() == (f"{expected()}\n", "")


def test_a_warning_is_one_line(capsys):
    """As an error is, here of too many folds, without the place in the package that it comes from."""
    np.save("k.npy", np.arange(N) % 3)
    assert rank("--labels", "k.npy", "--folds", "100") == 2
    said, failed = capsys.readouterr().err.splitlines()
    assert said == "w2s rank: labels y are the numbers 0 to 2, taken as values; for classes give one-hot rows (n, 3)"
    assert failed.startswith("w2s rank: folds ")


@pytest.mark.everything
def test_labels_of_a_table_are_classes_and_said(capsys):
    """Text of a column is one-hot, which class is which column is printed, and a mark stands for no label."""
    names = np.where(Y[:, 0] > 0, "up", "down")
    names[::7] = "?"
    Path("meta.csv").write_text("label\n" + "\n".join(names) + "\n")
    assert rank("--labels", "meta.csv:label", "--unlabelled", "?", "--json", "out.json") == 0
    hot = np.stack([names == "down", names == "up"], 1).astype(float)
    hot[::7] = np.nan
    said, table = capsys.readouterr().out.split("\n", 1)
    assert said == "classes of the labels: 0 = down, 1 = up"
    assert table == f"{expected(hot)}\n"
    np.save("k.npy", np.where(np.arange(N) % 7, Y[:, 0] > 0, -100))
    assert rank("--labels", "k.npy") == 2
    assert "where -100 means unlabelled make it NaN, as --unlabelled" in capsys.readouterr().err
    assert rank("--labels", "k.npy", "--unlabelled", "-100") == 0


def test_a_layer_is_taken_and_said(capsys):
    """Of an array of all layers, along the axis that is so much shorter."""
    np.save("all.npy", np.stack([ROWS["a"], -ROWS["a"] + 1, ROWS["a"] ** 2]))
    assert main(["rank", "--strong", "strong.npy", "--weak", "all.npy:layer=0", "--quiet"]) == 0
    said, table = capsys.readouterr().out.split("\n", 1)
    assert said == "all:layer=0 (all.npy:layer=0): layer 0 of the 3 along axis 0 of the shape (3, 60, 10)"
    assert table == f"{rank_supervisors({'all:layer=0': ROWS['a']}, ROWS['strong'])}\n"


def test_sorts_by_a_column(capsys):
    """`--sort` orders the table, the JSON file included."""
    assert rank("--sort", "cka", "--json", "out.json") == 0
    assert capsys.readouterr().out == f"{expected().sort_by('cka')}\n"
    assert json.loads(Path("out.json").read_text())["sorted_by"] == "cka"


@pytest.mark.parametrize(("extension", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_draws_the_table(capsys, extension, magic):
    """`--plot` writes a figure of the kind its extension says."""
    assert rank("--plot", f"out.{extension}") == 0
    assert Path(f"out.{extension}").read_bytes().startswith(magic)


@pytest.mark.everything
def test_several_strong_models(capsys):
    """Every weak model is ranked for every strong one."""
    assert main(["rank", "--strong", "strong.npy", "c.safetensors", *WEAK, "--quiet", "--json", "out.json"]) == 0
    rows = json.loads(Path("out.json").read_text())["rows"]
    assert [row["strong"] for row in rows] == ["strong"] * 3 + ["c"] * 3


def test_files_of_one_stem_are_named_by_path(capsys):
    """Names are stems, or whole paths where stems agree."""
    Path("one").mkdir()
    np.save("one/a.npy", ROWS["b"])
    main(["rank", "--strong", "strong.npy", "--weak", "a.npy", "one/a.npy", "c.safetensors", "--quiet", "--json", "o"])
    assert {row["supervisor"] for row in json.loads(Path("o").read_text())["rows"]} == {"a.npy", "one/a.npy", "c"}


def test_overwrites_its_own_files(capsys):
    """A second run replaces the files of the first, and leaves no others behind."""
    for seed in ("0", "1"):
        assert rank("--json", "out.json", "--seed", seed) == 0
    assert json.loads(Path("out.json").read_text())["settings"]["seed"] == 1
    assert not list(Path().glob(".*"))


def python(*args: str, **env: str) -> SimpleNamespace:
    package = str(Path(w2s_jax.__file__).parents[1])
    here = {
        key: value for key, value in os.environ.items() if key not in ("XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR")
    }
    here |= {"PYTHONPATH": package, "JAX_PLATFORMS": "cpu"} | env
    done = subprocess.run([sys.executable, *args], capture_output=True, text=True, env=here, timeout=120, check=False)
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


def test_module_is_the_command(folder):
    """`python -m w2s_jax rank` prints the table, with a progress bar, and keeps compiled programs in the user's cache."""
    done = python("-m", "w2s_jax", *RANK[:-1], XDG_CACHE_HOME=str(folder / "cache"))
    assert (done.code, done.out) == (0, f"{expected()}\n")
    assert "ranking" in done.err
    assert any((folder / "cache" / "w2s_jax" / "compiled").iterdir())


def test_bad_input_with_a_progress_bar_is_one_clean_line(folder):
    """Where the bar has started, the message stands on a line of its own."""
    np.save("a.npy", np.where(np.arange(N)[:, None] == 17, np.nan, ROWS["a"]))
    done = python("-m", "w2s_jax", *RANK[:-1], JAX_COMPILATION_CACHE_DIR="")
    assert done.code == 2
    assert done.err.rstrip("\n").split("\n")[-1].split("\r")[-1].startswith("w2s rank: ")


@pytest.mark.everything
def test_a_closed_pipe_is_no_error():
    """`w2s rank ... | head -0` ends quietly."""
    closing = "r.run = lambda args: (_ for _ in ()).throw(BrokenPipeError)"
    program = f"import sys, w2s_jax.cli as c, w2s_jax.ranking.cli as r; {closing}; sys.exit(c.main())"
    done = python("-c", program, *RANK)
    assert (done.code, done.err) == (0, "")


def test_interrupts_are_130(capsys, monkeypatch):
    """Ctrl-C ends with code 130 and one word."""

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("w2s_jax.ranking.cli.run", interrupt)
    assert rank() == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.fixture
def without_cache() -> Iterator[None]:
    """Compiled programs are kept nowhere, not where the tests keep theirs."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize("chosen", ["", "elsewhere"])
def test_a_chosen_cache_is_left_alone(capsys, monkeypatch, without_cache, chosen):
    """With JAX's own setting in the environment, also an empty one, the program does not set another."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", chosen)
    assert rank() == 0
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.parametrize("command", [[], ["extract"], ["rank"], ["demo"]])
def test_help_is_help(capsys, command):
    """`--help` explains the command and ends with code 0."""
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("usage: w2s")


# Bad input


USAGE: dict[str, list[str]] = {
    "nothing": [],
    "unknown command": ["sort"],
    "no files": ["rank"],
    "no weak": ["rank", "--strong", "strong.npy"],
    "unknown option": [*RANK, "--alpha", "1"],
    "part of a name": [*RANK, "--fold", "4"],
    "no number": [*RANK, "--ridge", "small"],
    "fraction of folds": [*RANK, "--folds", "3.5"],
}


@pytest.mark.parametrize("usage", USAGE)
def test_wrong_usage_is_one_line(capsys, usage):
    """A command that cannot be parsed ends with code 2 and one line that points to the help."""
    with pytest.raises(SystemExit) as stop:
        main(USAGE[usage])
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
    assert "--help" in err


def cut_short(path: str) -> None:
    Path(path).write_bytes(Path(path).read_bytes()[:-100])


def not_finite(value: float) -> np.ndarray:
    rows = ROWS["a"].copy()
    rows[17, 3] = value
    return rows


def nothing() -> None:
    pass


FAULTS: dict[str, tuple[Callable[[], object], list[str], str]] = {
    "missing file": (nothing, ["--weak", "none.npy"], "none.npy"),
    "missing labels": (nothing, ["--labels", "none.npy"], "none.npy"),
    "missing groups": (nothing, ["--groups", "none.npy"], "none.npy"),
    "folder": (lambda: Path("d.npy").mkdir(), ["--weak", "d.npy"], "d.npy"),
    "unknown type": (lambda: Path("a.csv").write_text("1"), ["--weak", "a.csv"], ".csv"),
    "unknown key": (nothing, ["--weak", "more.npz:x"], "'x'"),
    "no key": (nothing, ["--weak", "more.npz"], "more.npz:KEY"),
    "truncated": (lambda: cut_short("a.npy"), [], "truncated"),
    "truncated npz": (lambda: cut_short("more.npz"), [], "more.npz"),
    "truncated safetensors": (lambda: cut_short("c.safetensors"), [], "c.safetensors"),
    "empty file": (lambda: Path("a.npy").write_bytes(b""), [], "a.npy"),
    "pickled": (lambda: np.save("a.npy", np.array([{}] * N), allow_pickle=True), [], "unpickling"),
    "text": (lambda: np.save("a.npy", GROUPS), [], "a.npy"),
    "vector": (lambda: np.save("a.npy", ROWS["a"][:, 0]), [], "2-D"),
    "nan": (lambda: np.save("a.npy", not_finite(np.nan)), [], "row 17"),
    "infinity": (lambda: np.save("a.npy", not_finite(np.inf)), [], "row 17"),
    "strong nan": (lambda: np.save("strong.npy", np.full((N, 24), np.nan)), [], "'strong'"),
    "rows": (lambda: np.save("a.npy", ROWS["a"][:50]), [], "'a'"),
    "zero": (lambda: np.save("a.npy", 0 * ROWS["a"]), [], "'a' is constant"),
    "strong zero": (lambda: np.save("strong.npy", 0 * ROWS["strong"]), [], "'strong' is constant"),
    "negative ridge": (nothing, ["--ridge", "-1"], "ridge"),
    "nan ridge": (nothing, ["--ridge", "nan"], "ridge"),
    "three ridges": (nothing, ["--ridge", "1", "2", "3"], "--ridge"),
    "threshold": (nothing, ["--threshold", "2"], "threshold"),
    "folds": (nothing, ["--folds", "2"], "folds"),
    "many folds": (nothing, ["--folds", "50"], "folds"),
    "seed": (nothing, ["--seed", "-1"], "seed"),
    "twice": (nothing, ["--weak", "a.npy", "c.safetensors", "a.npy"], "a.npy"),
    "labels short": (lambda: np.save("y.npy", Y[:50]), ["--labels", "y.npy"], "50"),
    "labels infinite": (lambda: np.save("y.npy", np.inf * np.abs(Y)), ["--labels", "y.npy"], "infinity"),
    "labels nan": (lambda: np.save("y.npy", np.nan * Y), ["--labels", "y.npy"], "labelled"),
    "labels text": (nothing, ["--labels", "groups.npy"], "groups.npy"),
    "groups short": (lambda: np.save("groups.npy", GROUPS[:50]), ["--groups", "groups.npy"], "50"),
    "groups one": (lambda: np.save("groups.npy", GROUPS[:1].repeat(N)), ["--groups", "groups.npy"], "groups"),
    "groups real": (nothing, ["--groups", "y.npy"], "y.npy"),
    "unknown column": (nothing, ["--sort", "accuracy"], "'accuracy'"),
    "column without labels": (nothing, ["--sort", "trial_error"], "'trial_error'"),
    "json folder": (nothing, ["--json", "none/out.json"], "none"),
    "json is a folder": (lambda: Path("j").mkdir(), ["--json", "j"], "j"),
    "plot folder": (nothing, ["--plot", "none/out.png"], "none"),
    "plot extension": (nothing, ["--plot", "new.xyz"], "new.xyz"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_one_line(capsys, fault):
    """Exit code 2, one line on stderr that names what is wrong, nothing on stdout."""
    change, extra, named = FAULTS[fault]
    change()
    assert rank(*extra) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("w2s rank: ")
    assert named in err


@pytest.mark.parametrize("fault", ["missing file", "nan", "zero", "unknown column", "plot extension", "plot folder"])
@pytest.mark.parametrize("there", [False, True])
def test_a_failing_run_writes_nothing(capsys, fault, there):
    """After bad input no output file is new, none that was there has changed, none is left half-written."""
    change, extra, _ = FAULTS[fault]
    change()
    outputs = {name: name.encode() for name in ("out.json", "out.png")} if there else {}
    for name, data in outputs.items():
        Path(name).write_bytes(data)
    before = set(Path().rglob("*"))
    assert rank("--json", "out.json", "--plot", "out.png", *extra) == 2
    assert set(Path().rglob("*")) == before
    assert all(Path(name).read_bytes() == data for name, data in outputs.items())


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission(capsys):
    """A folder that may not be written is refused before any work."""
    Path("locked").mkdir(mode=0o500)
    assert rank("--json", "locked/out.json") == 2
    assert capsys.readouterr().err.startswith("w2s rank: cannot write locked/out.json")
