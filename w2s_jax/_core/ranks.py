"""Whether two orders agree."""

from __future__ import annotations

import numpy as np


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation over the entries where both are numbers; NaN where one side has a single value.

    >>> spearman(np.array([1.0, 2.0, 3.0, np.nan]), np.array([10.0, 30.0, 20.0, 0.0]))
    0.5
    """
    from scipy.stats import rankdata  # takes a second to import, and nothing else here needs it

    there = np.isfinite(a) & np.isfinite(b)
    if min(len(set(x[there].tolist())) for x in (a, b)) < 2:
        return float("nan")
    return round(float(np.corrcoef(rankdata(a[there]), rankdata(b[there]))[0, 1]), 12)
