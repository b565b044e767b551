"""How fast sweeps are, from files to the table: of many models, and of models of fewer rows than features.

    python -m benchmarks.pairs [--quick] [--out FILE.json]

Everything is float32 and without labels; the first sweep's time above the second's is the compile. The floor is what a plain
program would do with the library's own parts: one eigensolve per model, and the product of all strong with all weak features,
in whose place `run_sweep` takes kernels with rows as few as here; of fewer rows than features each model's n x n kernel and
the eigensolve of that.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import w2s_jax as w2s
from benchmarks._common import floor_programs, latent_signal, representation, run_parts, timed
from benchmarks.spine import dense_script


def many_pairs(quick: bool) -> dict[str, Any]:
    """150 x 8; dense scripts are timed on two pairs."""
    n, weak_count, strong_count, d_s, low, high = (200, 4, 2, 48, 16, 32) if quick else (2000, 150, 8, 768, 32, 512)
    rng = np.random.default_rng(3)
    latent = latent_signal(rng, n)
    widths = np.linspace(low, high, weak_count).astype(int)
    weak = [representation(rng, latent, int(d), 2.0 * (1 - i / weak_count)) for i, d in enumerate(widths)]
    strong = [representation(rng, latent, d_s, 0.1 * (1 + j)) for j in range(strong_count)]
    swept, rival = sweep(weak, strong), dense_scripts(weak, strong, latent)
    programs = floor_programs()
    eigen = 0.0
    for h in (*weak, *strong):
        moment = programs["product"](jnp.asarray(h), jnp.asarray(h)) / n
        eigen += timed(lambda m=moment: programs["eigh"](m), 1)[0]
    sides = [jnp.asarray(np.concatenate(side, 1)) for side in (strong, weak)]
    cross = timed(lambda: programs["product"](*sides), 1)[0]
    return {
        "n, weak models, widths, strong models, d_s": [n, weak_count, [low, high], strong_count, d_s],
        **swept,
        "dense scripts s": rival,
        "floor s (eigensolves, cross products)": [eigen, cross],
        "sweep / floor": swept["sweep s"] / (eigen + cross),
    }


def few_rows(quick: bool) -> dict[str, Any]:
    """Twelve weak and two strong models, and the ranking of the weak ones for the first; scripts are timed on two pairs."""
    n, weak_count, d_w, d_s = (60, 3, 96, 160) if quick else (1000, 12, 2048, 4096)
    rng = np.random.default_rng(5)
    latent = latent_signal(rng, n)
    weak = [representation(rng, latent, d_w, 2.0 * (1 - i / weak_count)) for i in range(weak_count)]
    strong = [representation(rng, latent, d_s, noise) for noise in (0.1, 0.2)]
    swept, rival = sweep(weak, strong), dense_scripts(weak, strong, latent)
    named = {f"weak{i}": h for i, h in enumerate(weak)}
    ranking, compiling = timed(lambda: w2s.rank_supervisors(named, strong[0], normalize="scale")["gap_op"], 3)
    programs = floor_programs()
    products = eigen = 0.0
    for h in (*weak, *strong):
        transposed = jnp.asarray(h.T)
        products += timed(lambda h=transposed: programs["product"](h, h), 1)[0]
        kernel = programs["product"](transposed, transposed) / n
        eigen += timed(lambda m=kernel: programs["eigh"](m), 1)[0]
    return {
        "n, weak models, d_w, strong models, d_s": [n, weak_count, d_w, len(strong), d_s],
        **swept,
        "dense scripts s": rival,
        "floor s (kernels, eigensolves)": [products, eigen],
        "sweep / floor": swept["sweep s"] / (products + eigen),
        "ranking s": ranking,
        "ranking compile s": compiling,
    }


def sweep(weak: Sequence[np.ndarray], strong: Sequence[np.ndarray]) -> dict[str, Any]:
    """Seconds of a second sweep of files of these, and what the first took on top."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        config = save_models(folder, weak, strong)
        for output in ("first", "second"):
            started = time.perf_counter()
            table = w2s.run_sweep({**config, "threshold": 1e-3, "normalize": "scale", "output": f"{folder}/{output}"})
            seconds.append(time.perf_counter() - started)
    return {"pairs": table.computed, "sweep s": seconds[1], "compile s": seconds[0] - seconds[1]}


def save_models(folder: str, weak: Sequence[np.ndarray], strong: Sequence[np.ndarray]) -> dict[str, Any]:
    """Writes models to `.npy` files of a folder; what a sweep's configuration says of them."""
    for side, models in (("weak", weak), ("strong", strong)):
        for i, rows in enumerate(models):
            np.save(Path(folder) / f"{side}{i}.npy", rows)
    return {"weak": f"{folder}/weak*.npy", "strong": f"{folder}/strong*.npy"}


def dense_scripts(weak: Sequence[np.ndarray], strong: Sequence[np.ndarray], latent: np.ndarray) -> float:
    """Seconds of a dense script for every pair, from the first and the last weak model."""
    started = time.perf_counter()
    for h in (weak[0], weak[-1]):
        dense_script(h, strong[0], latent[:, 0].astype(np.float32), 1e-3, 1e-2)
    return (time.perf_counter() - started) / 2 * len(weak) * len(strong)


if __name__ == "__main__":
    run_parts(__doc__, (many_pairs, few_rows))
