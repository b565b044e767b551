"""Several processes give the numbers of one: sums meet, failures are everybody's, and a lost process stops the rest."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import relative_error

from w2s_jax import InputError, moments
from w2s_jax.devices import connected_hosts, hosts, watch
from w2s_jax.devices.hosts import Hosts
from w2s_jax.sweep import store
from w2s_jax.sweep.table import read_sweep
from w2s_jax.sweep.workers import _dealt

N = 501  # an odd number of rows for any number of processes
NUMBERS = ("gap_op", "gap_fro", "cka", "predicted_gap", "expected_error", "trial_error", "gulp", "logme")


def write_models(folder: Path, weak: int = 2, fault: int | None = None) -> None:
    """Weak and strong representations of N rows, and labels; NaN in the weak models' row `fault`."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((N, 6))
    for i in range(weak):
        h = latent[:, :4] @ rng.standard_normal((4, 5)) + 0.5 * rng.standard_normal((N, 5))
        if fault is not None:
            h[fault] = np.nan
        np.save(folder / f"weak{i}.npy", h + 3)
    np.save(folder / "strong.npy", latent @ rng.standard_normal((6, 8)))
    np.save(folder / "y.npy", latent[:, 0])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def environment_of(folder: Path) -> dict[str, str]:
    """Double precision on one device, compiled as in all tests; what one process 0 has compiled no other compiles again."""
    flags = os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=8", "")
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return os.environ | cache | {"XLA_FLAGS": flags, "JAX_ENABLE_X64": "1"}


def start(
    folder: Path,
    output: str,
    processes: int,
    weak: Callable[[int], str] = lambda _: "weak*.npy",
    extra: tuple[str, ...] = (),
    program: tuple[str, ...] = ("-m", "w2s_jax"),
) -> list:
    """The command of each process with `extra` options, running, with files of its own in the folder "part0", "part1", ..."""
    port, environment = free_port(), environment_of(folder)
    given = ["--strong", "strong.npy", "--labels", "t=y.npy", "--folds", "3", "--output", output, "--quiet"]
    given += ["--predictors", "gulp", "logme"]
    together = [] if processes == 1 else ["--coordinator", f"127.0.0.1:{port}", "--processes", str(processes)]
    return [
        subprocess.Popen(
            [sys.executable, *program, "sweep", "--weak", weak(i), *given, *together]
            + ([] if processes == 1 else ["--process", str(i)])
            + list(extra),
            **dict(
                cwd=folder / f"part{i}" if "--process-local" in extra else folder,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ),
        )
        for i in range(processes)
    ]


def finish(running: list) -> list[tuple[int, str]]:
    """Exit code and stderr of each."""
    ended = [(process, *process.communicate(timeout=200)) for process in running]
    return [(process.returncode, error) for process, _, error in ended]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models and the finished sweep "alone" of a single process."""
    folder = tmp_path_factory.mktemp("hosts")
    write_models(folder, weak=20)
    assert finish(start(folder, "alone", 1))[0][0] == 0
    return folder


TOGETHER = """
import json, sys
import numpy as np
from w2s_jax import InputError, merge_moments, moments, run_sweep
from w2s_jax.devices import connected_hosts
from w2s_jax.sweep import store, workers

solve, score, solved, scored = workers.model_from_sums, workers.meet_strong, [], []
workers.model_from_sums = lambda *args: solved.append(args) or solve(*args)
workers.meet_strong = lambda strong, weak, *rest: scored.extend(weak) or score(strong, weak, *rest)

def swept(weak, output):
    solved.clear(), scored.clear()
    try:
        run_sweep({"strong": ["strong.npy"], "weak": weak, "output": output}, hosts=hosts, progress=False)
    except InputError as error:
        return str(error)
    return [len(solved), *scored]

def full(*args, **options):
    raise InputError("the disk is full")

files = [f"weak{i}.npy" for i in range(6)]
with connected_hosts(sys.argv[1], 2, int(sys.argv[2])) as hosts:
    said = {
        "four": swept(files[:4], "dealt"),
        "six": swept(files, "dealt"),
        "fault": swept(["faulty/weak0.npy", "faulty/weak1.npy"], "faults"),
        "other": swept(files[: 2 - hosts.index], "others"),
    }
    if hosts.index == 0:
        store.Store.keep_results = full
    said["kept"] = swept(files[:2], "kept")
    rows = np.load("rows.npy")[hosts.index :: hosts.count]
    for bias in (False, True):
        m = merge_moments(moments(rows[:, :3], rows[:, 3:7], rows[:, 7], bias=bias), hosts)
        said[f"moments{bias}"] = {k: np.asarray(getattr(m, k)).tolist() for k in "n ww ss sw wy sy yy".split()}
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def together(alone: Path) -> list[dict]:
    """What each of two processes has to say of pieces of work that they do one after another, most of them faulty."""
    (alone / "faulty").mkdir()
    write_models(alone / "faulty", fault=N - 1)
    np.save(alone / "rows.npy", np.random.default_rng(0).standard_normal((101, 8)) + 10)
    address = f"127.0.0.1:{free_port()}"
    given = dict(cwd=alone, env=environment_of(alone), text=True, stdout=subprocess.PIPE)
    running = [subprocess.Popen([sys.executable, "-c", TOGETHER, address, str(i)], **given) for i in range(2)]
    said = [process.communicate(timeout=200)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    return [json.loads(lines.splitlines()[-1]) for lines in said]


@pytest.mark.everything
@pytest.mark.parametrize(("processes", "precision"), [(2, "fastest"), (4, "float32")])
def test_processes_give_the_table_of_one(alone, processes, precision):
    """All columns agree, and the inputs have the same hash, whoever has read which rows; process 0 says what is fastest."""
    output = f"of{processes}"
    ended = finish(start(alone, output, processes, extra=("--precision", precision)))
    assert [code for code, _ in ended] == [0] * processes
    assert ["precision 'fastest' on cpu is float32" in said for _, said in ended] == [
        precision == "fastest" and process == 0 for process in range(processes)
    ]
    found, expected = read_sweep(alone / output), read_sweep(alone / "alone")
    for column in NUMBERS:
        assert relative_error(found[column], expected[column]) <= 1e-9, column
    assert list(found["inputs"]) == list(expected["inputs"])


OWN = ("--process-local", "--groups", "groups.npy")


def write_parts(folder: Path, parts: list[slice]) -> None:
    """Every process's own part of the rows of all files, in a folder each, text no longer than it must be."""
    for i, rows in enumerate(parts):
        (folder / f"part{i}").mkdir()
        for file in folder.glob("*.npy"):
            part = np.load(file)[rows]
            np.save(folder / f"part{i}" / file.name, part.tolist())
            os.utime(folder / f"part{i}" / file.name, (1e9, 1e9))


@pytest.mark.everything
def test_processes_with_files_of_their_own(tmp_path):
    """Parts of any length, labels on some rows and groups across parts: the table of all rows in one file; a part that
    changes is noticed by a restart, and rows that do not fit are named by their place among all."""
    write_models(tmp_path)
    y = np.load(tmp_path / "y.npy")
    y[::3] = np.nan
    np.save(tmp_path / "y.npy", y)
    np.save(tmp_path / "groups.npy", [f"{i % 97}{'later' * (i > 300)}" for i in range(N)])
    write_parts(tmp_path, [slice(0, 40), slice(40, 333), slice(333, N)])
    assert finish(start(tmp_path, "whole", 1, extra=OWN[1:]))[0][0] == 0
    output = str(tmp_path / "out")
    assert finish(start(tmp_path, output, 3, extra=OWN)) == [(0, "")] * 3
    found, expected = read_sweep(output), read_sweep(tmp_path / "whole")
    for column in NUMBERS:
        assert relative_error(found[column], expected[column]) <= 1e-9, column
    last = tmp_path / "part2" / "weak1.npy"
    np.save(last, np.load(last)[::-1])
    assert finish(start(tmp_path, output, 3, extra=OWN)) == [
        (0, "changed since the last run: weak1\n"),
        (0, ""),
        (0, ""),
    ]
    assert relative_error(read_sweep(output)["gap_op"], expected["gap_op"]) > 1e-6
    faulty = np.load(last)
    faulty[5, 0] = np.nan
    np.save(last, faulty)
    for code, said in finish(start(tmp_path, output, 3, extra=OWN)):
        assert code == 2
        assert said.endswith("the values of model 'weak1' contain 1 NaN or infinite value, in row 338\n")
    np.save(last, faulty[:, :4])
    for code, said in finish(start(tmp_path, output, 3, extra=OWN)):
        assert code == 2
        assert said.endswith(
            "all processes of a sweep must be given the same width and type of model 'weak1', got [5, 'float64'] in "
            "process 0 and [4, 'float64'] in process 2\n"
        )


@pytest.mark.everything
def test_a_fault_in_one_process_is_heard_by_all(together):
    """NaN in rows that only the last process reads: the same sentence from each, none waits, and they go on together."""
    sentence = f"the values of model 'weak0' contain 5 NaN or infinite values, the first in row {N - 1}"
    assert [said["fault"] for said in together] == [sentence] * 2


BREAKING = """
import sys
from w2s_jax.cli import main
from w2s_jax.sweep import workers

def fail(*args, **options):
    raise RuntimeError('a fault of its own')

if sys.argv[sys.argv.index("--process") + 1] == "{victim}":
    {place} = fail
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.everything
def test_what_process_0_cannot_keep_is_heard_by_all(together):
    """The others have no part in the store and end with its sentence."""
    assert [said["kept"] for said in together] == ["the disk is full"] * 2


@pytest.mark.everything
@pytest.mark.parametrize(("victim", "place"), [(1, "workers.table_rows"), (0, "workers.model_sums")])
def test_a_failure_of_another_kind_ends_the_others(alone, victim, place):
    """The one that fails shows where; the other says that it was lost, or without process 0 JAX's runtime does."""
    script = BREAKING.format(victim=victim, place=place)
    ended = finish(start(alone, f"{place}{victim}", 2, extra=("--folds", "0"), program=("-c", script)))
    assert ended[victim][0] == 1 and "RuntimeError: a fault of its own" in ended[victim][1]
    code, said = ended[1 - victim]
    ours = code == 2 and "another process of this run was lost: start all of them again" in said
    assert ours or (victim == 0 and code == -signal.SIGABRT)


@pytest.mark.everything
def test_processes_go_on_with_kernels_of_one(tmp_path):
    """What a single process has kept of fewer rows than features is of use to several, which share the features."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((70, 6))
    for name, width in (("weak0", 90), ("weak1", 120), ("strong", 100)):
        np.save(tmp_path / name, latent @ rng.standard_normal((6, width)) + 0.5 * rng.standard_normal((70, width)))
    np.save(tmp_path / "y.npy", np.where(np.arange(70) % 3, latent[:, 0], np.nan))
    time.sleep(store._FRESH_NS / 1e9)
    assert finish(start(tmp_path, "of1", 1, extra=("--folds", "0")))[0][0] == 0
    shutil.copytree(tmp_path / "of1", tmp_path / "of2")
    kept = stored(tmp_path / "of2" / "sweep.sqlite")
    for processes in (1, 2):
        ended = finish(start(tmp_path, f"of{processes}", processes, extra=("--folds", "0", "--threshold", "0.01")))
        assert ended == [(0, "")] * processes
    assert stored(tmp_path / "of2" / "sweep.sqlite") == kept
    expected, found = (read_sweep(tmp_path / output) for output in ("of1", "of2"))
    for column in ("gap_op", "gap_fro", "cka", "predicted_gap"):
        assert relative_error(found[column], expected[column]) <= 1e-9, column


@pytest.mark.everything
def test_processes_with_other_models_are_refused(together):
    """What each is given must be the same."""
    given = "['weak0', 'weak1'] in process 0 and ['weak0'] in process 1"
    sentence = f"all processes of a sweep must be given the same weak, got {given}"
    assert [said["other"] for said in together] == [sentence] * 2


@pytest.mark.everything
@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_process_stops_the_others_and_a_restart_goes_on(alone, tmp_path, victim):
    """kill -9 in the middle: the other says so and ends; started again the sweep computes only what is missing.

    Without process 0, which coordinates, JAX's runtime itself ends the others, in its own words.
    """
    for file in alone.glob("*.npy"):
        shutil.copy2(file, tmp_path)
    time.sleep(store._FRESH_NS / 1e9)  # files as young as the run would be hashed again
    running = start(tmp_path, "out", 2)
    kept = wait_for_moments(tmp_path / "out" / "sweep.sqlite", 5)
    running[victim].send_signal(signal.SIGKILL)
    code, said = finish(running)[1 - victim]
    ours = "another process of this run was lost: start all of them again, finished work is kept"
    assert ours in said or (victim == 0 and "This most likely indicates that another task died" in said)
    assert code in ((2,) if victim else (2, -signal.SIGABRT))
    before = stored(tmp_path / "out" / "sweep.sqlite")
    assert len(before) >= kept
    assert [code for code, _ in finish(start(tmp_path, "out", 2))] == [0, 0]
    assert before.items() <= stored(tmp_path / "out" / "sweep.sqlite").items()
    found, expected = read_sweep(tmp_path / "out"), read_sweep(alone / "alone")
    for column in NUMBERS:
        assert relative_error(found[column], expected[column]) <= 1e-9, column


@pytest.mark.everything
@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_process_ends_the_others(tmp_path, victim):
    """It has not died and keeps its connections: the other says that it was lost, and aborts with no stack."""
    write_models(tmp_path, weak=60)
    impatient = "import sys; from w2s_jax import cli; from w2s_jax.devices import watch; watch.SILENT_SECONDS = 10.0"
    running = start(tmp_path, "out", 2, program=("-c", f"{impatient}; sys.exit(cli.main())"))
    wait_for_moments(tmp_path / "out" / "sweep.sqlite", 5)
    running[victim].send_signal(signal.SIGSTOP)
    try:
        _, said = running[1 - victim].communicate(timeout=120)
    finally:
        running[victim].kill()
    assert (running[1 - victim].returncode, said) == (2, f"{watch.LOST}\n")
    finish(running[victim : victim + 1])


def stored(database: Path) -> dict[str, int]:
    """When each model's rows were hashed."""
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            return dict(connection.execute("SELECT path, hashed_ns FROM files").fetchall())
    except sqlite3.OperationalError:
        return {}


def wait_for_moments(database: Path, models: int) -> int:
    for _ in range(2000):
        if len(stored(database)) >= models:
            return len(stored(database))
        time.sleep(0.05)
    raise AssertionError("the sweep has not started")


@pytest.mark.everything
def test_an_interrupted_process_stops_the_others(tmp_path):
    """Ctrl-C in one: it ends at once, and the other says that it was lost."""
    write_models(tmp_path, weak=60)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # else what runs in the background ignores it
    running = start(tmp_path, "out", 2)
    signal.signal(signal.SIGINT, before)
    wait_for_moments(tmp_path / "out" / "sweep.sqlite", 2)
    running[1].send_signal(signal.SIGINT)
    (code, said), (code_of_interrupted, said_by_interrupted) = finish(running)
    assert code == 2
    assert "another process of this run was lost: start all of them again, finished work is kept" in said
    assert code_of_interrupted == 130
    assert said_by_interrupted == "interrupted\n"


def test_spans_cover_the_rows_once():
    """Every row belongs to one process, in whole steps; fewer steps than processes are refused."""
    for rows, step, count in ((501, 1, 4), (501, 7, 3), (1024, 16, 5)):
        spans = [Hosts(i, count).span(rows, step) for i in range(count)]
        assert [stop for _, stop in spans[:-1]] == [start for start, _ in spans[1:]]
        assert (spans[0][0], spans[-1][1]) == (0, rows)
        assert all(start % step == 0 and stop > start for start, stop in spans)
    with pytest.raises(InputError, match="each process must have at least 1 row, got 3 rows for 4 processes"):
        Hosts(0, 4).span(3)
    with pytest.raises(InputError, match="at least 8 rows, got 20 rows for 4 processes"):
        Hosts(0, 4).span(20, 8)


@pytest.mark.everything
def test_eigensolves_and_pairs_are_dealt_to_the_processes(together):
    """Each model is solved, and each pair scored, in one process; a restart deals what is missing."""
    assert [said["four"] for said in together] == [[3, "weak0", "weak2"], [2, "weak1", "weak3"]]
    assert [said["six"] for said in together] == [[1, "weak4"], [1, "weak5"]]


def test_a_strong_model_goes_to_few_processes():
    """Where pairs are cut into equal parts, one that must be split is dealt weak model by weak model."""
    strong, weak = ["a", "b"], ["0", "1", "2", "3"]
    pairs = [(s, w) for w in weak for s in strong]
    order = lambda count: ["".join(pairs[i]) for i in _dealt(strong, weak, pairs, count)]
    assert order(1) == order(4) == ["a0", "a1", "a2", "a3", "b0", "b1", "b2", "b3"]
    assert order(2) == ["a0", "a2", "a1", "a3", "b0", "b2", "b1", "b3"]
    assert order(3) == ["a0", "a3", "a1", "a2", "b0", "b3", "b1", "b2"]


@pytest.mark.everything
@pytest.mark.parametrize("bias", [False, True])
def test_moments_merge_over_processes(alone, together, bias, x64):
    """Each process has the moments of all rows from those of its own, centred or not."""
    rows = np.load(alone / "rows.npy")
    expected = moments(rows[:, :3], rows[:, 3:7], rows[:, 7], bias=bias)
    for said in together:
        for name, found in said[f"moments{bias}"].items():
            assert relative_error(found, getattr(expected, name), 1.0) <= 1e-12, name


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":9999", "localhost:http", "localhost:70000"])
def test_an_address_has_a_host_and_a_port(address):
    """Anything else is one sentence, before JAX is asked."""
    with (
        pytest.raises(InputError, match=rf"^coordinator must be HOST:PORT, got '{address}'$"),
        connected_hosts(address, 2, 0),
    ):
        pass


def test_a_coordinator_that_does_not_answer_is_one_sentence(monkeypatch):
    """JAX would end the process."""
    monkeypatch.setattr(hosts, "_START_SECONDS", 0.5)
    address = f"127.0.0.1:{free_port()}"
    with (
        pytest.raises(InputError, match=rf"^cannot join {address}: Connection refused$"),
        connected_hosts(address, 2, 1),
    ):
        pass
