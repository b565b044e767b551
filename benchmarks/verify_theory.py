"""The theory against simulation at full size: the figures of the README's verification section.

    python -m benchmarks.verify_theory [--quick] [--out FILE.json]

The same as `w2s verify`, with the machine it ran on and seconds per setting.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.spine import run_parts
from w2s_jax.verify import SETTINGS, run_verify


def setting(name: str) -> Callable[[bool], dict[str, Any]]:
    """One setting as a part of the benchmark."""

    def part(quick: bool) -> dict[str, Any]:
        started = time.perf_counter()
        size = {"largest": 500, "effort": 0.02} if quick else {}
        found = run_verify(settings=[name], progress=False, **size)
        seconds = time.perf_counter() - started
        print(found, flush=True)
        cells = found.to_dict()["cells"]
        worst = max(abs(bias) for cell in cells if cell["n"] >= 500 for bias in cell["bias"].values())
        return {"seconds": seconds, "equivalent's largest error, n >= 500": worst, "results": found.to_dict()}

    part.__name__ = name
    return part


if __name__ == "__main__":
    run_parts(__doc__, [setting(name) for name in SETTINGS])
