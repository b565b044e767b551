"""How fast second moments are summed, and that memory does not grow with the rows.

    python -m benchmarks.streaming [--quick] [--out FILE.json]

Everything is float32: the library at its default precision for products over rows, its floor, the same three products of the same
blocks alone, at full precision. Streamed blocks are NumPy arrays, a few that come again and again, so that making them costs
nothing; on an accelerator they have to get there. Resident rows are on the device from the start.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import w2s_jax as w2s
from benchmarks._common import peak_memory, run_parts, timed

products = jax.jit(lambda w, s: [jnp.matmul(a.T, b, precision="highest") for a, b in ((w, w), (s, s), (s, w))])


def widths(quick: bool) -> tuple[int, int]:
    """Of the two representations: 1,792 columns together."""
    return (96, 128) if quick else (768, 1024)


def flop(n: int, d_w: int, d_s: int) -> float:
    """Of the three products, none taken to be symmetric."""
    return 2.0 * n * (d_w * d_w + d_s * d_s + d_s * d_w)


def streamed(n: int, rows: int, d_w: int, d_s: int) -> dict[str, Any]:
    """Moments of n rows in blocks of `rows`, once; peak memory before anything else has run."""
    rng = np.random.default_rng(4)
    made = [tuple(rng.standard_normal((rows, d), np.float32) for d in (d_w, d_s)) for _ in range(4)]

    def blocks(count: int) -> Iterator[tuple[np.ndarray, ...]]:
        return (made[i % len(made)] for i in range(count))

    run = lambda count: jax.block_until_ready(w2s.moments_from_batches(blocks(count)))
    started = time.perf_counter()
    run(2)
    first = time.perf_counter() - started
    started = time.perf_counter()
    found = run(n // rows)
    seconds = time.perf_counter() - started
    memory = peak_memory()
    on_device = [tuple(jnp.asarray(h) for h in block) for block in made]
    floor = sum(timed(lambda b=block: products(*b), 5)[0] for block in on_device) / len(made) * (n // rows)
    started = time.perf_counter()
    for w, s in made:
        _ = w.T @ w, s.T @ s, s.T @ w
    rival = (time.perf_counter() - started) / len(made) * (n // rows)
    return {
        "n, rows per block, d_w, d_s": [int(found.n), rows, d_w, d_s],
        "NumPy products s": rival,
        "streaming s": seconds,
        "compile s": max(0.0, first - 2 * seconds / (n // rows)),
        "floor s (products)": floor,
        "rows per s": n / seconds,
        "GFLOP per s, ours and products alone": [flop(n, d_w, d_s) / t / 1e9 for t in (seconds, floor)],
        "share of the products' rate": floor / seconds,
    } | memory


def streaming_short(quick: bool) -> dict[str, Any]:
    """10^5 rows."""
    return streamed(10**4 if quick else 10**5, 1000 if quick else 6250, *widths(quick))


def streaming_long(quick: bool) -> dict[str, Any]:
    """Ten times as many rows (twice, if quick) in the same blocks."""
    return streamed(2 * 10**4 if quick else 10**6, 1000 if quick else 6250, *widths(quick))


def resident(quick: bool) -> dict[str, Any]:
    """Moments of rows on the device, against the best rate of a large product that is as accurate as float32."""
    n, side, (d_w, d_s) = (4096, 512, widths(quick)) if quick else (65536, 4096, widths(quick))
    keys = jax.random.split(jax.random.key(0))
    w, s = (jax.random.normal(key, (n, d), jnp.float32) for key, d in zip(keys, (d_w, d_s), strict=True))
    seconds, compiling = timed(lambda: w2s.moments(w, s), 5)
    floor = timed(lambda: products(w, s), 5)[0]
    best, rate = max(product_rates(side).items(), key=lambda item: item[1])
    reached = flop(n, d_w, d_s) / seconds / 1e9
    return {
        "n, d_w, d_s": [n, d_w, d_s],
        "moments s": seconds,
        "compile s": compiling,
        "floor s (products)": floor,
        "GFLOP per s, ours and products alone": [reached, flop(n, d_w, d_s) / floor / 1e9],
        f"best product of side {side} at float32 accuracy": best,
        "best product's GFLOP per s": rate,
        "share of the best product's rate": reached / rate,
    }


def product_rates(side: int) -> dict[str, float]:
    """GFLOP/s of square products by every algorithm the device has whose error is within 2x of full float32's."""
    a, b = (jax.random.normal(key, (side, side), jnp.float32) for key in jax.random.split(jax.random.key(1)))
    exact = np.asarray(a[:64], float) @ np.asarray(b, float)
    rates, errors = {}, {}
    presets = jax.lax.DotAlgorithmPreset
    split = [preset for preset in presets if "_F32_X" in preset.name]
    for precision in (jax.lax.Precision.HIGHEST, *split):
        multiply = jax.jit(lambda a, b, p=precision: jnp.matmul(a, b, precision=p))
        try:
            errors[precision.name] = float(np.linalg.norm(np.asarray(multiply(a, b)[:64], float) - exact))
        except (ValueError, NotImplementedError, jax.errors.JaxRuntimeError):
            continue  # not on this device
        if errors[precision.name] <= 2 * errors["HIGHEST"]:
            rates[precision.name] = 2.0 * side**3 / timed(lambda f=multiply: f(a, b), 5)[0] / 1e9
    return rates


def rates(quick: bool) -> dict[str, Any]:
    """What the device can do: products at float32 accuracy and eigensolves."""
    figures: dict[str, Any] = {}
    for side in (256, 512) if quick else (1024, 2048, 4096):
        for name, rate in product_rates(side).items():
            figures[f"product, side {side}, {name}: GFLOP per s"] = rate
    solve = jax.jit(lambda s: jax.lax.linalg.eigh(s))
    for d in (64, 128) if quick else (256, 512, 1024, 2048):
        h = jax.random.normal(jax.random.key(2), (2 * d, d), jnp.float32)
        moment = jnp.matmul(h.T, h, precision="highest")
        figures[f"eigensolve, d = {d}: s, compile s"] = list(timed(lambda m=moment: solve(m), 3))
    return figures


if __name__ == "__main__":
    run_parts(__doc__, (rates, resident, streaming_short, streaming_long))
