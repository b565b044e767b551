"""Precision as speed: error and time of every way this device has to multiply float32 matrices at about float32's accuracy.

    python -m benchmarks.precision [--quick] [--out FILE.json]

`products` measures products H^T H for several widths (`w2s_jax.devices.fastest_precision`): errors are relative to float64, for
all rows and for a few alone, and the choice is the fastest within twice full float32's error for both.
`streaming` times `w2s_jax.moments` of a pair at each precision.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

import w2s_jax as w2s
from benchmarks._common import run_parts, timed


def precision_of_products(quick: bool) -> dict[str, Any]:
    """Error, error over full float32's, and seconds of each precision, and the choice."""
    rows, widths = (1024, (64, 128)) if quick else (8192, (512, 1024, 2048))
    figures: dict[str, Any] = {}
    for width in widths:
        report = w2s.devices.fastest_precision(rows, width)
        for m in report.measured:
            key = f"{rows} x {width} {m.name}: error, over float32's, s"
            figures[key] = [m.error, m.relative, m.seconds]
        figures[f"{rows} x {width} fastest within 2x"] = report.chosen
    return figures


def precision_of_moments(quick: bool) -> dict[str, Any]:
    """Seconds of the moments of a pair, and GFLOP/s of its three products."""
    n, d_w, d_s = (4096, 64, 96) if quick else (65536, 768, 1024)
    rng = np.random.default_rng(0)
    h_w, h_s = (jnp.asarray(rng.standard_normal((n, d), np.float32)) for d in (d_w, d_s))
    work = 2e-9 * n * (d_w * d_w + d_s * d_s + d_s * d_w)
    figures: dict[str, Any] = {"n, d_w, d_s": [n, d_w, d_s]}
    for name in w2s.devices.supported_precisions():
        seconds, compiling = timed(lambda name=name: w2s.moments(h_w, h_s, precision=name), 3)
        figures[f"moments {name}: s, compile s, GFLOP/s"] = [seconds, compiling, work / seconds]
    return figures


if __name__ == "__main__":
    run_parts(__doc__, (precision_of_products, precision_of_moments))
