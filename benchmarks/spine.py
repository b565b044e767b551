"""How fast the spine is: against a dense NumPy script, against its own products and eigensolves, and for a person waiting.

    python -m benchmarks.spine [--quick] [--out FILE.json]

Everything is float32; each figure is the median of several calls after a first one, whose extra time is the compile.
Ratios compare within this run only: (a) n x n NumPy script over ours, (b) ours over the floor (the same matrices' products
and eigensolves by the same library, each alone and awaited), (c) a grid of 1,000 points over one point, (d) 150 weak models
against one strong model over their floor, (e) seconds from process start to the table of `w2s rank`. "In one go" one follows
the other: longer where an eigensolve is followed by products, as LAPACK's threads go on spinning on a CPU, and shorter for
many small ones of a kind. The floor of (d) has the moments' products and all eigensolves, which a table without a cut does
without; its scores take more than twice the moments' operations, and the time of their products, from every fifth model's,
stands apart.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import w2s_jax as w2s
from benchmarks._common import floor_programs, latent_signal, representation, run_parts, timed


def dense_script(h_w: np.ndarray, h_s: np.ndarray, y: np.ndarray, alpha: float, b: float) -> tuple[float, float]:
    """What a script does: two n x n kernels, two eigendecompositions, an operator norm, and the gap."""
    projections = []
    for h in (h_w, h_s):
        values, vectors = np.linalg.eigh(h @ h.T / np.float32(len(h)))
        f = np.where(values >= alpha * values[-1], values / (values + b), 0).astype(np.float32)
        projections.append((vectors * f) @ vectors.T)
    P_w, P_s = projections
    lost = P_s @ (np.eye(len(y), dtype=np.float32) - P_w)
    return float(np.linalg.norm(lost, 2)), float(np.sum((lost @ y) ** 2) / len(y))


def single_pair(quick: bool) -> dict[str, Any]:
    """(a), (b) and (c) on one pair."""
    n, d_w, d_s, points = (256, 48, 64, 100) if quick else (4096, 768, 1024, 1000)
    rng = np.random.default_rng(0)
    latent = latent_signal(rng, n)
    h_w, h_s = representation(rng, latent, d_w, 1.0), representation(rng, latent, d_s, 0.5)
    y, alpha, b = latent[:, 0].astype(np.float32), 1e-3, 1e-2
    weak, strong, labels = jnp.asarray(h_w), jnp.asarray(h_s), jnp.asarray(y)

    def ours(head: w2s.ridge) -> tuple[jax.Array, jax.Array]:
        overlap = w2s.overlap(weak, strong, labels)
        return w2s.gap_norm(overlap, head, head), w2s.prediction_gap(overlap, head, head)

    point = w2s.ridge(b, alpha)
    side = round(points**0.5)
    alphas, strengths = np.geomspace(1e-4, 0.3, side), np.geomspace(1e-4, 1, -(-points // side))
    grid = w2s.ridge(strengths[None, :], alphas[:, None])
    started = time.perf_counter()
    script = dense_script(h_w, h_s, y, alpha, b)
    script_seconds = time.perf_counter() - started
    seconds, compiling = timed(lambda: ours(point), 5)
    grid_seconds, grid_compiling = timed(lambda: ours(grid), 3)
    programs = floor_programs()
    pairs = ((weak, weak), (strong, strong), (strong, weak))
    products = sum(timed(lambda a=a, c=c: programs["product"](a, c), 5)[0] for a, c in pairs)
    moments = [programs["product"](h, h) / n for h in (weak, strong)]
    eigen = sum(timed(lambda s=s: programs["eigh"](s), 5)[0] for s in moments)

    def in_one_go() -> Any:
        squares = jax.block_until_ready([programs["product"](a, c) for a, c in pairs])
        return [jax.block_until_ready(programs["eigh"](s / n)) for s in squares[:2]]

    one_go = timed(in_one_go, 5)[0]
    values = [float(x) for x in ours(point)]
    return {
        "n, d_w, d_s": [n, d_w, d_s],
        "dense script s": script_seconds,
        "ours s": seconds,
        "compile s": compiling,
        "(a) dense script / ours": script_seconds / seconds,
        "relative difference of op norm and gap": [abs(o / s - 1) for o, s in zip(values, script, strict=True)],
        "floor s (products, eigensolves)": [products, eigen],
        "(b) ours / floor": seconds / (products + eigen),
        "the same in one go s": one_go,
        "ours / the same in one go": seconds / one_go,
        "grid points": int(np.prod(grid.shape)),
        "grid s": grid_seconds,
        "grid compile s": grid_compiling,
        "(c) grid / point": grid_seconds / seconds,
    }


def many_models(quick: bool) -> dict[str, Any]:
    """(d): the whole ranking table of many weak models against one strong model; scripts are timed on three of them."""
    n, count, d_s, low, high = (200, 4, 48, 16, 32) if quick else (2000, 150, 768, 32, 512)
    rng = np.random.default_rng(1)
    latent = latent_signal(rng, n)
    widths = np.linspace(low, high, count).astype(int)
    weak = {f"weak{i}": representation(rng, latent, int(d), 2.0 * (1 - i / count)) for i, d in enumerate(widths)}
    strong = representation(rng, latent, d_s, 0.2)
    seconds, compiling = timed(lambda: w2s.rank_supervisors(weak, strong, normalize="scale")["gap_op"], 3)
    scripted = list(weak.values())[:: count // 3 + 1]
    started = time.perf_counter()
    for h in scripted:
        dense_script(h, strong, latent[:, 0].astype(np.float32), 1e-3, 1e-2)
    rival = (time.perf_counter() - started) / len(scripted) * count
    programs = floor_programs()
    arrays = [jnp.asarray(h) for h in (strong, *weak.values())]
    pairs = [(h, h) for h in arrays] + [(arrays[0], h) for h in arrays[1:]]
    moments = [programs["product"](h, h) for h in arrays]
    products = sum(timed(lambda a=a, c=c: programs["product"](a, c), 1)[0] for a, c in pairs)
    eigen = sum(timed(lambda m=m: programs["eigh"](m), 1)[0] for m in moments)
    products_in_one_go = timed(lambda: [programs["product"](a, c) for a, c in pairs], 3)[0]
    eigen_in_one_go = timed(lambda: [programs["eigh"](m) for m in moments], 3)[0]
    part = widths[:: 1 if quick else 5]
    scoring = timed(lambda: multiply(programs["plain product"], score_products(n, part, d_s)), 3)[0]
    scores_in_one_go = scoring * count / len(part)
    return {
        "n, weak models, widths, d_s": [n, count, [low, high], d_s],
        "dense scripts s": rival,
        "table s": seconds,
        "compile s": compiling,
        "floor s (products, eigensolves)": [products, eigen],
        "(d) table / floor": seconds / (products + eigen),
        "the same in one go s": [products_in_one_go, eigen_in_one_go],
        "table / the same in one go": seconds / (products_in_one_go + eigen_in_one_go),
        "products of its scores in one go s": scores_in_one_go,
        "table / all its products in one go": seconds / (products_in_one_go + scores_in_one_go),
    }


def score_products(n: int, widths: np.ndarray, d_s: int) -> Iterator[list[tuple[jax.Array, jax.Array]]]:
    """Factors of all larger products that a model's scores are made of beside its moments: three folds' teachers and students,
    tested on n/3 rows, and the matrix of `(I - P_w)^2` between strong features."""
    third = -(-n // 3)
    for d in map(int, widths):
        shapes = 3 * [(third, d_s, d), (third, d, d), (third, d, d_s)] + 2 * [(d_s, d, d)] + [(d_s, d, d_s)]
        yield [(ones(a, b), ones(b, c)) for a, b, c in shapes]


@cache
def ones(*shape: int) -> jax.Array:
    """One array for all products that have a factor of this shape."""
    return jnp.ones(shape, jnp.float32)


def multiply(product: Callable, factors: Iterable[list[tuple[jax.Array, jax.Array]]]) -> None:
    """All products; those of one model are awaited before the next one's."""
    for of_model in factors:
        jax.block_until_ready([product(a, b) for a, b in of_model])


def command_line(quick: bool) -> dict[str, Any]:
    """(e): seconds of the whole process, with an empty and with a filled compilation cache."""
    rng = np.random.default_rng(2)
    n, d = (200, 32) if quick else (1000, 256)
    latent = latent_signal(rng, n)
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"weak{i}.npy") for i in range(5)]
        for i, path in enumerate(paths):
            np.save(path, representation(rng, latent, d, 0.5 + i))
        strong = str(Path(folder) / "strong.npy")
        np.save(strong, representation(rng, latent, d, 0.2))
        command = [sys.executable, "-m", "w2s_jax", "rank", "--quiet", "--strong", strong, "--weak", *paths]
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(Path(folder) / "cache")}
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - started)
    return {"n, d, weak models": [n, d, 5], "(e) empty cache s": seconds[0], "(e) filled cache s": seconds[1]}


if __name__ == "__main__":
    run_parts(__doc__, (single_pair, many_models, command_line))
