"""What all benchmarks share: timing, memory, the device's own programs, and parts that run in processes of their own.

A part is a function of `quick` that returns its figures by name. A process each keeps a part's peak memory its own, and leaves
the device to the part: the process that runs them all never starts JAX.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ROOT = Path(__file__).parents[1]
REST = 0.05  # seconds: on a CPU LAPACK's threads spin for some 20 ms after a call, and slow down what comes next
COMPILED = "/jax/core/compile/backend_compile_duration"  # JAX's event for every program that the backend has compiled
Part = Callable[[bool], dict[str, Any]]


def timed(call: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Median seconds of a call, and what its first call took on top; each starts on a machine at rest."""
    started = time.perf_counter()
    jax.block_until_ready(call())
    first = time.perf_counter() - started
    seconds = []
    for _ in range(repeats):
        time.sleep(REST)
        started = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - started)
    median = float(np.median(seconds))
    return median, first - median


@contextmanager
def compiled() -> Iterator[list[float]]:
    """The seconds that the compiler takes for each program inside; programs loaded from a cache on disk count too."""
    seconds: list[float] = []

    def hear(event: str, duration_secs: float, **_: Any) -> None:
        if event == COMPILED:
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(hear)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(hear)


def first_and_again(call: Callable[[], Any]) -> dict[str, Any]:
    """What a person waits for: programs and seconds of a first call, what of them the compiler took, and the call once more."""
    with compiled() as programs:
        started = time.perf_counter()
        jax.block_until_ready(call())
        first = time.perf_counter() - started
    started = time.perf_counter()
    jax.block_until_ready(call())
    again = time.perf_counter() - started
    return {"programs": len(programs), "compile s": sum(programs), "first s": first, "again s": again}


def floor_programs() -> dict[str, Callable]:
    """The library's own products, of rows (`a^T b`) and plain, and its eigensolve, full float32 precision."""
    product = jax.jit(lambda a, b: jnp.matmul(a.T, b, precision="highest"))
    plain = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest"))
    return {"product": product, "plain product": plain, "eigh": jax.jit(lambda s: jax.lax.linalg.eigh(s))}


def representation(rng: np.random.Generator, latent: np.ndarray, d: int, noise: float) -> np.ndarray:
    """A shared latent signal and noise, both with decaying spectra, in a random basis: float32 (n, d)."""
    tail = rng.normal(size=(len(latent), d)) * noise * np.arange(1, d + 1) ** -0.5
    signal = latent @ rng.normal(size=(latent.shape[1], d)) / 8
    return (tail @ np.linalg.qr(rng.normal(size=(d, d)))[0] + signal).astype(np.float32)


def latent_signal(rng: np.random.Generator, n: int, k: int = 64) -> np.ndarray:
    """Shared latent variables (n, k) with variances 1/i."""
    return rng.normal(size=(n, k)) * np.arange(1, k + 1) ** -0.5


def peak_memory() -> dict[str, float]:
    """The most memory that this process has had so far, and on an accelerator the most on the device, in MiB."""
    # A child of a larger process inherits ru_maxrss, but not VmHWM.
    lines = [line for line in _lines("/proc/self/status") if line.startswith("VmHWM")]
    unit = 2**20 if sys.platform == "darwin" else 2**10
    size = int(lines[0].split()[1]) * 2**10 if lines else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    device = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    found = {"peak memory MiB": size / 2**20}
    return found if device is None else found | {"peak device memory MiB": device / 2**20}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    device = jax.devices()[0]
    names = (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name"))
    return {
        "device": device.device_kind,
        "cpu": next(names, platform.processor()),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def _lines(file: str) -> list[str]:
    return Path(file).read_text().splitlines() if Path(file).exists() else []


def run_parts(description: str | None, parts: Sequence[Part | str]) -> None:
    """The command line of a benchmark: runs its parts and prints, and optionally writes, their figures.

    A part is a function of a module of this package, or its name, "module.function".
    """
    names = [part if isinstance(part, str) else _name(part) for part in parts]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--out", metavar="FILE", help="also write the figures as JSON")
    parser.add_argument("--only", nargs="+", metavar="PART", choices=names, help="these parts; FILE keeps its others")
    args = parser.parse_args()
    out = None if args.out is None else Path(args.out)
    results: dict[str, Any] = json.loads(out.read_text()) if args.only and out and out.exists() else {}
    failed = []
    for name in args.only or names:
        started = time.perf_counter()
        found = run_apart(name, args.quick)
        if found is None:
            failed.append(name)
            continue
        found["figures"]["process s"] = time.perf_counter() - started
        if results.setdefault("machine", found["machine"]) != found["machine"]:
            sys.exit(f"{out} is of another machine: {results['machine']}")
        if results.setdefault("quick", args.quick) != args.quick:
            sys.exit(f"{out} holds {'quick' if results['quick'] else 'full'} figures")
        results[name.rpartition(".")[2]] = found["figures"]
        print(f"\n{name} on {found['machine']['device']}", *shown(found["figures"]), sep="\n", flush=True)
        if out is not None:
            out.write_text(json.dumps(results, indent=1) + "\n")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _name(part: Part) -> str:
    module = sys.modules[part.__module__]
    full = module.__spec__.name if module.__name__ == "__main__" and module.__spec__ else module.__name__
    return f"{full.removeprefix('benchmarks.')}.{part.__name__}"


def shown(figures: dict[str, Any]) -> list[str]:
    """A line for every figure that is a number, a text, or a list of those."""
    lines = []
    for name, value in figures.items():
        if not isinstance(value, dict):
            values = value if isinstance(value, list) else [value]
            numbers = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in values]
            lines.append(f"{name:56} {', '.join(numbers)}")
    return lines


def run_apart(name: str, quick: bool) -> dict[str, Any] | None:
    """A part's figures and machine from a process of its own, None if it failed (its error is on stderr)."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "benchmarks._common", name, str(file), *(["--quick"] if quick else [])]
        done = subprocess.run(command, cwd=ROOT)
        return json.loads(file.read_text()) if done.returncode == 0 else None


def _run_here(name: str, file: str, *quick: str) -> None:
    module, _, function = name.rpartition(".")
    figures = getattr(importlib.import_module(f"benchmarks.{module}"), function)(bool(quick))
    # A part that compares memory has taken it before its rival ran.
    figures = peak_memory() | figures
    Path(file).write_text(json.dumps({"machine": machine(), "figures": figures}))


if __name__ == "__main__":
    _run_here(*sys.argv[1:])
