"""To which widths models are padded, so that few programs serve all of them.

Every width compiles programs of its own, which a person waits for; columns of zeros cost multiplications. The widths are those
of least cost together, with what compiling takes counted as the multiplications that a device does meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from w2s_jax._core.arrays import bucket

# Multiplications that take as long as compiling a width's programs: about 1 s of a CPU's two cores (measured), 20 s of an
# accelerator.
PROGRAM = {"cpu": 1.5e10}
PROGRAM_ELSEWHERE = 1e14


def padded_widths(widths: Sequence[int], strong_width: int, rows: int, cells: int) -> dict[int, int]:
    """Width -> the width it is padded to, for models (one entry each) that meet a strong one on so many rows and cells."""
    distinct, counts = np.unique(widths, return_counts=True)
    if len(distinct) == 1:
        return {int(distinct[0]): int(distinct[0])}
    program = PROGRAM.get(jax.default_backend(), PROGRAM_ELSEWHERE)
    to = [bucket(int(width)) for width in distinct]
    each = [multiplications(width, strong_width, rows, cells) for width in to]
    # Of the narrowest i + 1 widths: the least cost, and how many of them are padded to narrower ones than the last.
    best: list[tuple[float, int]] = []
    for i in range(len(distinct)):
        options = [
            (program + each[i] * counts[j : i + 1].sum() + (best[j - 1][0] if j else 0.0), j) for j in range(i + 1)
        ]
        best.append(min(options))
    found: dict[int, int] = {}
    last = len(distinct)
    while last:
        start = best[last - 1][1]
        found |= {int(width): to[last - 1] for width in distinct[start:last]}
        last = start
    return found


def multiplications(width: int, strong_width: int, rows: int, cells: int) -> float:
    """About those of one model: its sums, a solve for each cell and one for all, products with the strong side."""
    both = width * (width + strong_width)
    return rows * both + (cells + 1) * width**3 + (cells + 3) * strong_width * both
