"""How fast a sweep of many weak with many strong models is, from files to the table.

    python -m benchmarks.pairs [--quick] [--out FILE.json]

Everything is float32 and without labels; the first sweep's time above the second's is the compile. The floor is what a plain
program would do with the library's own parts: one eigensolve per model and the product of all strong with all weak features. With
rows as few as here `run_sweep` takes kernels in that product's place.
"""

from __future__ import annotations

import tempfile
import time
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
    with tempfile.TemporaryDirectory() as folder:
        for side, models in (("weak", weak), ("strong", strong)):
            for i, rows in enumerate(models):
                np.save(Path(folder) / f"{side}{i}.npy", rows)
        config = {"weak": [f"{folder}/weak*.npy"], "strong": [f"{folder}/strong*.npy"], "threshold": 1e-3}
        seconds = []
        for output in ("first", "second"):
            started = time.perf_counter()
            table = w2s.run_sweep({**config, "output": f"{folder}/{output}"})
            seconds.append(time.perf_counter() - started)
    started = time.perf_counter()
    for h in (weak[0], weak[-1]):
        dense_script(h, strong[0], latent[:, 0].astype(np.float32), 1e-3, 1e-2)
    rival = (time.perf_counter() - started) / 2 * weak_count * strong_count
    programs = floor_programs()
    eigen = 0.0
    for h in (*weak, *strong):
        moment = programs["product"](jnp.asarray(h), jnp.asarray(h)) / n
        eigen += timed(lambda m=moment: programs["eigh"](m), 1)[0]
    sides = [jnp.asarray(np.concatenate(side, 1)) for side in (strong, weak)]
    cross = timed(lambda: programs["product"](*sides), 1)[0]
    return {
        "n, weak models, widths, strong models, d_s": [n, weak_count, [low, high], strong_count, d_s],
        "pairs": table.computed,
        "dense scripts s": rival,
        "sweep s": seconds[1],
        "compile s": seconds[0] - seconds[1],
        "floor s (eigensolves, cross products)": [eigen, cross],
        "sweep / floor": seconds[1] / (eigen + cross),
    }


if __name__ == "__main__":
    run_parts(__doc__, (many_pairs,))
