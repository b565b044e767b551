"""How well a score orders teachers: rank correlations with the measured errors, and what a wrong choice costs.

Layers of one network are no independent teachers: intervals come from resampling networks, all layers of one together.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.stats import kendalltau, rankdata

LEVEL = 0.9  # of the intervals


class Verdict(NamedTuple):
    """Of one score: Spearman's and Kendall's correlation with the errors, and the cost of its first choice.

    `cost`: the error of the chosen teacher's student minus the best one's, as a share of the median minus the best.
    """

    spearman: float
    kendall: float
    cost: float


def verdict(score: np.ndarray, error: np.ndarray) -> Verdict:
    """Of a score (teachers,) that is small where it hopes for much, against errors (teachers,)."""
    best, median = error.min(), np.median(error)
    chosen = error[np.nanargmin(score)] if np.isfinite(score).any() else np.nan
    kendall: Any = kendalltau(score, error)
    return Verdict(spearman(score, error), float(kendall[0]), float((chosen - best) / (median - best)))


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation; NaN if one of the two is constant."""
    a, b = (rankdata(values) - (len(values) + 1) / 2 for values in (x, y))
    size = np.sqrt(np.square(a).sum() * np.square(b).sum())
    return float(a @ b / size) if size > 0 else float("nan")


def resampled(networks: list[str], repeats: int, seed: int = 0) -> list[np.ndarray]:
    """Teachers' numbers, `repeats` times: as many networks as there are, drawn with replacement, with all their layers."""
    rng, of = np.random.default_rng(seed), np.asarray(networks)
    members = [np.nonzero(of == name)[0] for name in dict.fromkeys(networks)]
    return [np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))]) for _ in range(repeats)]


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle LEVEL of resampled values."""
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def network_of(teacher: str) -> str:
    """`smollm2-135m` of `smollm2-135m:layer17`."""
    return teacher.partition(":")[0]
