"""The folder of a sweep: one process at a time, and whatever the disk does is one sentence."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from sweeping import LITTLE, TABLE

from w2s_jax import InputError, run_sweep
from w2s_jax.cli import main
from w2s_jax.sweep import store
from w2s_jax.sweep.table import read_sweep

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.everything
def test_damaged_moments_are_computed_again(units):
    """A file of moments that is not what its checksum says is not used."""
    before = run_sweep(LITTLE)
    units.take()
    for file in Path("out/moments").iterdir():
        *most, last = file.read_bytes()
        file.write_bytes(bytes([*most, last ^ 1]))
    assert run_sweep(LITTLE).rows == before.rows
    assert len(units.take()[0]) == 3


@pytest.mark.everything
def test_moments_of_other_files_are_removed():
    """Beside the database stand the moments of the present models and nothing else."""
    run_sweep(TABLE)
    Path("out/moments/.1234.safetensors").write_bytes(b"left by a killed process")
    run_sweep(LITTLE)
    assert len(list(Path("out/moments").iterdir())) == 3


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
    """A file that is no database, and a database of another layout, are left alone, and nothing is put beside them."""
    Path("out").mkdir()
    Path("out/sweep.sqlite").write_bytes(b"something else" * 100)
    with pytest.raises(InputError, match="not a database"):
        run_sweep(LITTLE)
    assert os.listdir("out") == ["sweep.sqlite"]
    Path("out/sweep.sqlite").unlink()
    with sqlite3.connect("out/sweep.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(InputError, match="another version"):
        run_sweep(LITTLE)
    assert os.listdir("out") == ["sweep.sqlite"]


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """Sets how large a file may become, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.everything(but=1)
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
