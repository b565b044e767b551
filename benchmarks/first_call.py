"""What a person waits for: programs compiled and seconds until the first answer, each case in a process of its own.

Nothing has been compiled before and nothing is kept on disk; `compile s` is what the backend's compiler took, `first s` the whole
first call, `again s` the same call once more. `w2s rank` is a whole command, imports included, with an empty and with a filled
cache of compiled programs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import w2s_jax as w2s
from benchmarks._common import first_and_again, latent_signal, representation, run_parts, timed
from w2s_jax.predictors import PREDICTORS

WIDTHS = (24, 40, 64, 96, 128, 160, 200, 256, 320, 384)


def unlabelled(quick: bool) -> dict[str, Any]:
    """28 weak models of 10 widths, 2,000 rows, a strong model of 384 features, no labels."""
    weak, strong, _ = _models(5 if quick else 28, 200 if quick else 2000)
    return _first(lambda: w2s.rank_supervisors(weak, strong))


def labelled(quick: bool) -> dict[str, Any]:
    """The same with labels on every row."""
    weak, strong, y = _models(5 if quick else 28, 200 if quick else 2000)
    return _first(lambda: w2s.rank_supervisors(weak, strong, y))


def labelled_on_top(quick: bool) -> dict[str, Any]:
    """The same with labels, once the table without them has been made."""
    weak, strong, y = _models(5 if quick else 28, 200 if quick else 2000)
    w2s.rank_supervisors(weak, strong)
    return _first(lambda: w2s.rank_supervisors(weak, strong, y))


def many(quick: bool) -> dict[str, Any]:
    """150 weak models of 32 to 512 features, 2,000 rows, a strong model of 512, no labels."""
    widths = np.linspace(32, 512, 6 if quick else 150).astype(int)
    weak, strong, _ = _models(len(widths), 200 if quick else 2000, widths, 512)
    return _first(lambda: w2s.rank_supervisors(weak, strong))


def pair(quick: bool) -> dict[str, Any]:
    """An overlap of 2,000 rows, 256 and 384 features, and a gap norm."""
    weak, strong, _ = _models(1, 200 if quick else 2000, (256,))

    def run() -> jax.Array:
        head = w2s.ridge(1e-3)
        return w2s.gap_norm(w2s.overlap(weak["0"], strong), head, head)

    return _first(run)


def busy(quick: bool) -> dict[str, Any]:
    """A ranking of three models of 256 features for a strong one of 512 again, while other processes keep all cores busy, median
    and longest of ten: as it comes, and with LAPACK's threads, one for every core, as they are without the package."""
    weak, strong, _ = _models(3, 200 if quick else 2000, (256,), 512)
    rank = lambda: w2s.rank_supervisors(weak, strong)
    found = {"idle: again s": _first(rank)["again s"]}
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        found |= _repeated("busy", rank)
        os.environ["OPENBLAS_NUM_THREADS"] = str(os.cpu_count())  # who sets it is obeyed
        found |= _repeated("busy, LAPACK's threads", rank)
    finally:
        for other in others:
            other.kill()
    return found


def _repeated(title: str, call: Callable[[], Any], times: int = 10) -> dict[str, float]:
    seconds = [timed(call, 1)[0] for _ in range(times)]
    return {f"{title}: again s": float(np.median(seconds)), f"{title}: longest s": max(seconds)}


def label_free_predictors(quick: bool) -> dict[str, Any]:
    """A ranking of one weak model of 768 features for a strong one of 1,024, 4,096 rows, and the same with every predictor that
    needs no labels, each with nothing compiled before: how much longer the second takes."""
    n, d_w, d_s = (200, 48, 64) if quick else (4096, 768, 1024)
    weak, strong, _ = _models(1, n, (d_w,), d_s)
    names = [name for name, of in PREDICTORS.items() if of.needs == "nothing"]
    found: dict[str, Any] = {}
    for title, asked in (("own columns", []), ("with predictors", names)):
        jax.clear_caches()
        of = _first(lambda asked=asked: w2s.rank_supervisors(weak, strong, predictors=asked))
        found |= {f"{title}: {what}": value for what, value in of.items()}
    for what in ("first s", "again s"):
        added = found[f"with predictors: {what}"] - found[f"own columns: {what}"]
        found[f"predictors over own columns: {what}"] = added / found[f"own columns: {what}"]
    return {"predictors": names, **found}


def command(quick: bool) -> dict[str, Any]:
    """`w2s rank` on five models in files, 2,000 rows: seconds of the whole command."""
    weak, strong, _ = _models(5, 200 if quick else 2000)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in {**weak, "strong": strong}.items():
            np.save(Path(folder) / f"{name}.npy", rows)
        files = [f"{name}.npy" for name in weak]
        line = [sys.executable, "-m", "w2s_jax", "rank", "--strong", "strong.npy", "--weak", *files, "--quiet"]
        environment = {name: x for name, x in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
        environment["XDG_CACHE_HOME"] = folder  # where the command keeps programs if nothing else is said
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(Path(w2s.__file__).parents[1]), environment.get("PYTHONPATH", "")]
        )
        for cache in ("empty", "filled"):
            started = time.perf_counter()
            subprocess.run(line, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
            found[f"{cache} cache s"] = time.perf_counter() - started
    return found


def _models(
    count: int, n: int, widths: Any = WIDTHS, strong_width: int = 384
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    latent = latent_signal(rng, n)
    weak = {str(i): representation(rng, latent, int(widths[i % len(widths)]), 0.5) for i in range(count)}
    return weak, representation(rng, latent, strong_width, 0.2), latent[:, 0] + 0.3 * rng.normal(size=n)


def _first(call: Callable[[], Any]) -> dict[str, Any]:
    """Programs and seconds of a first call, with nothing on disk."""
    jax.config.update("jax_enable_compilation_cache", False)
    return first_and_again(call)


if __name__ == "__main__":
    run_parts(__doc__, [unlabelled, labelled, labelled_on_top, many, pair, busy, label_free_predictors, command])
