"""The rows that a score chooses, as numbers, mask or weights."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from w2s_jax._core.arrays import entered
from w2s_jax._core.checks import InputError
from w2s_jax._core.extras import data_frame
from w2s_jax._core.text import Printed, Shown, number


@dataclass(frozen=True, repr=False)
class Selection(Shown):
    """Chosen rows, best first: `rows` (m,), the `scores` (n,) they were chosen by, and the `classes` (n,) of all rows or None.

    `mask` (n,) bool, `weights` (n,): 1 for a chosen row, 0 for the others, as heads take them; `threshold`: the lowest score
    chosen.

    >>> select_rows([0.1, 0.9, 0.5, 0.7], classes=["cat", "dog", "cat", "dog"])
    2 of 4 rows, of scores from 0.7 to 0.9
    class  rows  share  chosen  share of chosen
    cat       2  50.0%       0             0.0%
    dog       2  50.0%       2           100.0%
    """

    rows: np.ndarray
    scores: np.ndarray
    classes: np.ndarray | None = None

    @property
    def mask(self) -> np.ndarray:
        """Which rows are chosen (n,), bool."""
        chosen = np.zeros(len(self.scores), bool)
        chosen[self.rows] = True
        return chosen

    @property
    def weights(self) -> np.ndarray:
        """1 for a chosen row, 0 for the others (n,)."""
        return self.mask.astype(float)

    @property
    def threshold(self) -> float:
        """The lowest score that is chosen; of balanced classes others may be above it."""
        return float(self.scores[self.rows].min())

    def __len__(self) -> int:
        return len(self.rows)

    def by_class(self) -> dict[Any, tuple[int, int]]:
        """Rows that have a score, and chosen ones, of each class."""
        if self.classes is None:
            return {}
        scored, mask = ~np.isnan(self.scores), self.mask
        names = np.unique(self.classes[scored])
        count = lambda rows, name: int((rows & (self.classes == name)).sum())
        return {name: (count(scored, name), count(mask, name)) for name in names.tolist()}

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists: {"rows", "scores" (of the rows), "threshold", "classes": {class: {"rows", "chosen"}}}."""
        classes = {str(name): dict(zip(("rows", "chosen"), of, strict=True)) for name, of in self.by_class().items()}
        found = {"rows": self.rows.tolist(), "scores": self.scores[self.rows].tolist(), "threshold": self.threshold}
        return found | {"classes": classes}

    def to_pandas(self) -> Any:
        """A pandas DataFrame of the chosen rows and their scores, best first.

        Raises:
            InputError: pandas is not installed.
        """
        return data_frame({"row": self.rows, "score": self.scores[self.rows]})

    def _printed(self) -> Printed:
        chosen, counts = self.scores[self.rows], self.by_class()
        n, m = int((~np.isnan(self.scores)).sum()), len(self.rows)
        title = f"{m} of {n} rows, of scores from {number(chosen.min())} to {number(chosen.max())}"
        body = [[str(c), str(a), f"{a / n:.1%}", str(b), f"{b / m:.1%}"] for c, (a, b) in counts.items()]
        return Printed(("class", "rows", "share", "chosen", "share of chosen"), body, left=1, title=title)


def select_rows(
    scores: ArrayLike,
    keep: float | int = 0.5,
    *,
    classes: ArrayLike | Sequence | None = None,
    balanced: bool = False,
) -> Selection:
    """The rows of the largest scores; of equal ones the earlier; where that decides a warning says of how many.

    Args:
        scores: (n,), the larger the better; NaN for rows that are not to be chosen, which then do not count.
        keep: how many, a share below 1 or an int.
        classes: weak class of each row (n,), numbers or text: what was chosen of each is printed.
        balanced: of each class the same share, up to a row.

    Raises:
        InputError: shapes that do not fit, no scores, a share or number that chooses nothing or more than there is.

    >>> chosen = select_rows([0.1, 0.9, 0.5, 0.7], classes=[0, 1, 0, 1], balanced=True)
    >>> chosen.rows.tolist(), chosen.mask.tolist()
    ([1, 2], [False, True, True, False])
    """
    scores = np.asarray(entered("scores", scores), float)
    if scores.ndim != 1 or np.isnan(scores).all():
        raise InputError(f"scores must be numbers of shape (n,), got shape {scores.shape} with no number in it")
    classes = None if classes is None else np.asarray(classes)
    if classes is not None and classes.shape != scores.shape:
        raise InputError(f"classes must have shape {scores.shape}, one entry per row, got {classes.shape}")
    if balanced and classes is None:
        raise InputError("balanced needs classes, got None")
    order = np.argsort(-scores, kind="stable")  # NaN last
    order = order[: int((~np.isnan(scores)).sum())]
    count = _count(keep, len(order))
    chosen = order[:count] if classes is None or not balanced else order[_of_each(classes[order], count)]
    found = Selection(chosen, scores, classes)
    _warn_of_ties(scores, found.mask, classes if balanced else None)
    return found


def _warn_of_ties(scores: np.ndarray, mask: np.ndarray, classes: np.ndarray | None) -> None:
    """Warns if chosen rows and others, where there are classes of the same class, have the same score (n,)."""
    there = ~np.isnan(scores)
    scores, mask = scores[there], mask[there]
    code = np.zeros(len(scores), int) if classes is None else np.unique(classes[there], return_inverse=True)[1]
    tied = kept = 0
    for c in range(code.max() + 1):
        inside, outside = scores[mask & (code == c)], scores[~mask & (code == c)]
        if len(inside) and len(outside) and inside.min() == outside.max():
            same = np.count_nonzero(inside == inside.min())
            tied, kept = tied + same + np.count_nonzero(outside == outside.max()), kept + same
    if tied:
        warnings.warn(
            f"{tied} rows have the same score where the choice ends: their order, not their score, has chosen {kept} of them",
            stacklevel=3,
        )


def _count(keep: float | int, n: int) -> int:
    share = not isinstance(keep, int | np.integer)
    if isinstance(keep, bool) or not (0 < keep < 1 if share else 1 <= keep <= n):
        raise InputError(f"keep must be a share between 0 and 1 or an integer from 1 to {n}, got {keep!r}")
    return max(1, round(keep * n)) if share else int(keep)


def _of_each(classes: np.ndarray, count: int) -> np.ndarray:
    """Places of rows in order of their scores, so many of all and of each class its share; what rounding leaves goes to the
    classes with the largest remainders."""
    _, code, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    quota = sizes * (count / len(classes))
    room = np.floor(quota).astype(int)
    for c in np.argsort(room - quota, kind="stable")[: count - room.sum()]:
        room[c] += 1
    before = np.zeros(len(classes), int)  # rows of the same class that are better
    for c in range(len(sizes)):
        before[code == c] = np.arange(sizes[c])
    return np.nonzero(before < room[code])[0]
