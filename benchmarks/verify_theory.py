"""The theory against simulation: the figures of docs/verification.md, with seconds per scenario.

    python -m benchmarks.verify_theory [--quick] [--out FILE.json]

The same as `w2s verify`; the suite runs a tenth of its trials, up to n = 4,000.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from benchmarks._common import run_parts
from w2s_jax.studies.verify import SCENARIOS, run_verify


def everything(quick: bool) -> dict[str, Any]:
    """All trials at all sizes: minutes."""
    return simulated(500, 0.02) if quick else simulated(16000, 1.0)


def verification(quick: bool) -> dict[str, Any]:
    """A first look."""
    return simulated(500, 0.005, list(SCENARIOS)[:1]) if quick else simulated(4000, 0.1)


def simulated(largest: int, effort: float, scenarios: Sequence[str] = tuple(SCENARIOS)) -> dict[str, Any]:
    """Seconds, and the equivalent's largest error of any quantity at n >= 500, by scenario and over all."""
    figures: dict[str, Any] = {}
    for name in scenarios:
        started = time.perf_counter()
        cells = run_verify(scenarios=[name], progress=False, largest=largest, effort=effort).to_dict()["cells"]
        worst = max(abs(bias) for cell in cells if cell["n"] >= 500 for bias in cell["bias"].values())
        figures[f"{name}: seconds, largest error"] = [time.perf_counter() - started, worst]
    seconds, errors = zip(*figures.values(), strict=True)
    total = {"seconds": sum(seconds), "largest error, n >= 500": max(errors)}
    return {"largest n, share of the trials": [largest, effort]} | total | figures


if __name__ == "__main__":
    run_parts(__doc__, (everything,))
