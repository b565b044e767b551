"""How fast the leading k eigenpairs of a large second moment are, and how near to the full eigensolver's.

    python -m benchmarks.large_d [--quick] [--out FILE.json]

Everything is float32; each figure is the median of several calls after a first one, whose extra time is the compile. Ratios
compare within this run only: the full eigensolve over the leading pairs, from the stored matrix and (matrix product included
in the former) from rows. Errors are relative to the largest eigenvalue; the angle is that between the two subspaces at the
widest gap in the upper half of the k. Two families: variances that decay as 1/i, and noise without a gap, the hardest case.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import w2s_jax as w2s
from benchmarks._common import run_parts, timed
from w2s_jax.spectrum import spectrum_of_rows

full = jax.jit(w2s.spectrum)
leading = jax.jit(w2s.spectrum, static_argnames="rank")
by_rows = jax.jit(spectrum_of_rows, static_argnames="rank")
moment = jax.jit(lambda h: jnp.matmul(h.T, h, precision="highest") / len(h))


def rows(d: int, exponent: float) -> jax.Array:
    """Gaussian rows (2d, d) whose columns have variances i^-exponent."""
    rng = np.random.default_rng(0)
    return jnp.asarray(
        rng.standard_normal((2 * d, d), np.float32) * np.arange(1, d + 1, dtype=np.float32) ** (-exponent / 2)
    )


def angle(one: jax.Array, other: jax.Array) -> float:
    """Sine of the largest angle between the spans of two orthonormal bases (d, k)."""
    return float(
        jnp.linalg.norm(one - jnp.matmul(other, jnp.matmul(other.T, one, precision="highest"), precision="highest"), 2)
    )


def widest_gap(values: np.ndarray, k: int) -> int:
    """The cut in the upper half of the k with the widest gap beyond it."""
    gaps = values[k // 2 - 1 : k - 1] - values[k // 2 : k]
    return int(np.argmax(gaps)) + k // 2


def family(exponent: float, sizes: tuple[int, ...], ranks: tuple[int, ...]) -> dict[str, Any]:
    """Times and errors over d and k."""
    results: dict[str, Any] = {}
    for d in sizes:
        h = rows(d, exponent)
        S = moment(h)
        moment_seconds = timed(lambda h=h: moment(h), 1)[0]
        repeats = 5 if d <= 2048 else 1
        full_seconds = timed(lambda S=S: full(S, 1), repeats)[0]
        whole = full(S, 1)
        for k in ranks:
            seconds, compiling = timed(lambda S=S, k=k: leading(S, 1, rank=k), repeats)
            rows_seconds, _ = timed(lambda h=h, k=k: by_rows(h, rank=k), repeats)
            found = leading(S, 1, rank=k)
            name = f"variances i^-{exponent:g}, d = {d}, k = {k}"
            results[f"{name}: full s, leading s, ratio"] = [full_seconds, seconds, full_seconds / seconds]
            total = full_seconds + moment_seconds
            results[f"{name}: product and full s, rows s, ratio"] = [total, rows_seconds, total / rows_seconds]
            results[f"{name}: compile s"] = compiling
            largest = float(found.values[0])
            results[f"{name}: residual"] = float(jnp.max(found.residuals)) / largest
            error = float(jnp.max(jnp.abs(found.values - whole.values[:k]))) / largest
            cut = widest_gap(np.asarray(whole.values), k)
            gap = float(whole.values[cut - 1] - whole.values[cut]) / largest
            sine = angle(found.vectors[:, :cut], whole.vectors[:, :cut])
            results[f"{name}: value error, sine of angle, gap"] = [error, sine, gap]
    return results


def leading_pairs(quick: bool) -> dict[str, Any]:
    """Variances 1/i, as representations have, and equal ones, whose leading eigenvalues lie close together."""
    return family(1.0, (256,), (8,)) if quick else both(1024, 2048, 4096)


def full_size(quick: bool) -> dict[str, Any]:
    """The same where a full eigensolve takes a minute; not in the suite."""
    return family(0.0, (256,), (8,)) if quick else both(8192)


def both(*sizes: int) -> dict[str, Any]:
    """Both families."""
    return family(1.0, sizes, (32, 128)) | family(0.0, sizes, (32, 128))


def overlaps(quick: bool) -> dict[str, Any]:
    """A pair's overlap from rows, all of it and its leading part."""
    n, d, k = (256, 128, 8) if quick else (4096, 2048, 32)
    weak, strong = rows(d, 1.0)[:n], rows(d, 0.8)[:n]
    strong = strong + weak
    y = jnp.sum(strong[:, :k], 1)
    head = w2s.ridge(0.01, rank=k)
    found = {}
    for name, rank in (("full", None), ("leading", k)):
        call = partial(w2s.overlap, weak, strong, y, rank=rank)
        o = call()
        found[name] = [timed(call, 3)[0], float(w2s.prediction_gap(o, head, head)), float(w2s.gap_norm(o, head, head))]
    return {
        "overlap n, d, k": [n, d, k],
        "overlap full s, leading s": [found["full"][0], found["leading"][0]],
        "gap and norm: relative difference": [
            abs(b / a - 1) for a, b in zip(*(v[1:] for v in found.values()), strict=True)
        ],
    }


if __name__ == "__main__":
    run_parts(__doc__, (leading_pairs, overlaps, full_size))
