"""What the package says of all teachers before anything is trained: a ranking for every strong model, ridge and label set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

import w2s_jax as w2s
from benchmarks.experiments.measure import Splits
from w2s_jax._core.normalize import Normalize

FOLDS = 3
IN_LABEL_UNITS = ("trial_error", "predicted_gap", "posterior_error", "predicted_error")  # and with labels alone
WITH_ERRORS = ("predicted_error",)
SCORE, STANDARD_ERROR = "score:", "se:"


def label_sets(splits: Splits, counts: Iterable[int], draws: int) -> dict[str, np.ndarray]:
    """`draw0-100`, ...: which rows have labels, the first of a split's D~; `draw0-all` are all of D~."""
    return {
        f"draw{draw}-{'all' if count is None else count}": splits.labelled[draw][:count]
        for draw in range(draws)
        for count in (*counts, None)
    }


def scores(
    weak: Mapping[str, np.ndarray],
    strong: Mapping[str, np.ndarray],
    y: np.ndarray,
    labels: Mapping[str, np.ndarray],
    groups: np.ndarray,
    ridges: Iterable[float],
    scaling: Normalize,
) -> dict[str, np.ndarray]:
    """Scores (strong, ridge, weak) by name, those that use labels with their set: `score:expected_error`,
    `score:trial_error:draw0-100`, `se:predicted_error:draw0-100`. Errors are shares of the labels' variance.

    `labels`: numbers of the rows whose label may be seen, by the set's name; the others are known without one.
    """
    ridges, place, variance = list(ridges), {name: i for i, name in enumerate(weak)}, y.var(0).sum()
    found: dict[str, np.ndarray] = {}
    for r, ridge in enumerate(ridges):
        for named, rows in labels.items():
            known = np.zeros(len(y), bool)
            known[rows] = True
            table = w2s.rank_supervisors(
                weak,
                strong,
                y,
                labelled_rows=known,
                groups=groups,
                weak_ridge=ridge,
                strong_ridge=ridge,
                folds=FOLDS,
                normalize=scaling,
            )
            at = [list(strong).index(name) for name in table.strong], [place[name] for name in table.names]
            said = {f"{SCORE}{column}": table[column] for column in table.columns}
            said |= {f"{STANDARD_ERROR}{column}": table.se(column) for column in WITH_ERRORS if column in table.columns}
            for name, values in said.items():
                seen = name.partition(":")[2] in IN_LABEL_UNITS
                name, unit = (f"{name}:{named}", variance) if seen else (name, 1.0)
                score = found.setdefault(name, np.full((len(strong), len(ridges), len(weak)), np.nan, np.float32))
                score[at[0], r, at[1]] = values / unit
    return found
