"""A sweep that is killed at random moments, twenty times and more, ends with the table of one that is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import w2s_jax

N = 60
RNG = np.random.default_rng(0)
CONFIG = """
weak = ["w*.npy"]
strong = ["s?.npy"]
threshold = [0.0, 0.05]
weak_ridge = [1e-3, 0.1]
memory = 0.001
output = "{output}"
[labels]
y = "y.npy"
some = "some.npy"
"""

# Forks a process that has imported everything but started no device, so that twenty starts cost little, and kills it.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path

from w2s_jax.cli import main
from w2s_jax import sweep

kills, seed = int(sys.argv[1]), int(sys.argv[2])
draw = random.Random(seed)


def start(log):
    child = os.fork()
    if child:
        return child
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os.dup2(2, 1)
    os._exit(main(["sweep", "killed.toml", "--quiet"]))


def wait(child, seconds=None):
    end = None if seconds is None else time.monotonic() + seconds
    while end is None or time.monotonic() < end:
        done, status = os.waitpid(child, 0 if end is None else os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def export(name):
    assert main(["sweep", "export", "killed", "--to", name]) == 0
    return Path(name).read_bytes()


codes, finished = [], 0
while codes.count(-signal.SIGKILL) < kills or codes[-1]:
    enough = codes.count(-signal.SIGKILL) >= kills
    codes.append(wait(start("log"), None if enough else draw.uniform(0.1, 1.0)))
    assert codes[-1] in (0, -signal.SIGKILL), Path("log").read_text()
    if codes[-1] == 0:
        assert export("killed.csv") == Path("whole.csv").read_bytes()
        finished += 1
        os.rename("killed", f"finished{finished}")
print(codes.count(-signal.SIGKILL), finished)
"""


def python(*args: str, cache: Path) -> str:
    package = str(Path(w2s_jax.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": package, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache)}
    env |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    done = subprocess.run([sys.executable, *args], capture_output=True, text=True, env=env, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.everything
def test_killed_twenty_times_it_ends_the_same(tmp_path, monkeypatch):
    """The exported table is byte for byte that of an undisturbed run, wherever `kill -9` has struck."""
    monkeypatch.chdir(tmp_path)
    latent = RNG.standard_normal((N, 4))
    for name, d in [*((f"w{i}", 6 + i) for i in range(16)), *((f"s{i}", 14 + i) for i in range(4))]:
        rows = latent @ RNG.standard_normal((4, d)) + 0.5 * RNG.standard_normal((N, d))
        np.save(f"{name}.npy", rows.astype(np.float32))
    np.save("y.npy", latent[:, 0])
    np.save("some.npy", np.where(np.arange(N) % 2, latent[:, 1], np.nan))
    for output in ("whole", "killed"):
        Path(f"{output}.toml").write_text(CONFIG.format(output=output))
    cache = tmp_path / "cache"
    python("-m", "w2s_jax", "sweep", "whole.toml", "--quiet", cache=cache)
    python("-m", "w2s_jax", "sweep", "export", "whole", "--to", "whole.csv", cache=cache)
    assert len(Path("whole.csv").read_text().splitlines()) == 1 + 16 * 4 * 4 * 2
    kills, finished = map(int, python("-c", KILLER, "20", "0", cache=cache).split()[-2:])
    assert kills >= 20
    assert finished >= 1
