"""The table of supervisors: scores with standard errors, one row per weak/strong pair; prints, sorts, converts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from w2s_jax._core.checks import InputError
from w2s_jax._core.extras import data_frame
from w2s_jax._core.text import Printed, Shown, number
from w2s_jax.ranking.mixture import Mixture

TITLES = {
    "predicted_error": "predicted error",
    "trial_error": "trial error",
    "posterior_error": "posterior error",
    "predicted_gap": "predicted gap",
    "expected_error": "expected error",
    "expected_gap": "expected gap",
    "gap_op": "gap norm op",
    "gap_fro": "gap norm F",
    "cka": "linear CKA",
}
LARGER_IS_BETTER = frozenset({"cka"})


@dataclass(frozen=True, repr=False)
class SupervisorTable(Shown):
    """Weak models ranked as supervisors of strong ones, best first.

    `names`, `strong`, `widths`: the pairs, one per row. `table[column]` and `table.se(column)`: a score (rows,) and its
    standard error over blocks of rows, NaN for predictors (w2s_jax.predictors). `columns`: the scores at hand; `sorted_by`: the
    one that orders the rows; of `larger_is_better` the largest is the best. `mixtures`: by strong model's name, where asked for.

    >>> cka, error = np.array([0.5, 0.9]), np.array([0.1, 0.1])
    >>> table = SupervisorTable(("a", "b"), ("s", "s"), (8, 16), {"cka": cka}, {"cka": error}, "cka", {})
    >>> print(table.sort_by("cka"))
       supervisor  width  linear CKA *
    1  b              16      0.9 ±0.1
    2  a               8      0.5 ±0.1
    """

    names: tuple[str, ...]
    strong: tuple[str, ...]
    widths: tuple[int, ...]
    values: Mapping[str, np.ndarray]
    errors: Mapping[str, np.ndarray]
    sorted_by: str
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    larger_is_better: frozenset[str] = LARGER_IS_BETTER
    mixtures: Mapping[str, Mixture] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """Names of the scores, in the order they print."""
        return [*(column for column in TITLES if column in self.values), *(c for c in self.values if c not in TITLES)]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, column: str) -> np.ndarray:
        return self.values[self._known(column)]

    def se(self, column: str) -> np.ndarray:
        """Standard errors (rows,) of a score over blocks of rows."""
        return self.errors[self._known(column)]

    def sort_by(self, column: str) -> SupervisorTable:
        """The table ordered by another score, best supervisor first within each strong model.

        Raises:
            InputError: no such column.
        """
        sign = -1.0 if self._known(column) in self.larger_is_better else 1.0
        groups = {name: place for place, name in enumerate(dict.fromkeys(self.strong))}
        keys = sign * self.values[column], np.array([groups[name] for name in self.strong])
        return self._take(np.lexsort(keys), column)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers: {"settings", "sorted_by", "notes", "mixtures": {strong: mixture}, "rows": [{"supervisor",
        "strong", "width", score, score_se}]}."""
        rows = []
        for i, name in enumerate(self.names):
            row: dict[str, Any] = {"supervisor": name, "strong": self.strong[i], "width": self.widths[i]}
            for column in self.columns:
                row[column], row[f"{column}_se"] = float(self.values[column][i]), float(self.errors[column][i])
            rows.append(row)
        mixtures = {name: mixture.to_dict() for name, mixture in self.mixtures.items()}
        return {
            "settings": dict(self.settings),
            "sorted_by": self.sorted_by,
            "notes": list(self.notes),
            "mixtures": mixtures,
            "rows": rows,
        }

    def to_pandas(self) -> Any:
        """The rows as a pandas DataFrame, columns as in `to_dict`.

        Raises:
            InputError: pandas is not installed.
        """
        return data_frame(self.to_dict()["rows"])

    def to_json(self) -> str:
        """`to_dict` as JSON text; a score that is not finite is null."""
        finite = lambda x: None if isinstance(x, float) and not np.isfinite(x) else x
        table = self.to_dict()
        table["rows"] = [{key: finite(value) for key, value in row.items()} for row in table["rows"]]
        return json.dumps(table, indent=2, allow_nan=False) + "\n"

    def _printed(self) -> Printed:
        order = [self.sorted_by, *(column for column in self.columns if column != self.sorted_by)]
        several = len(set(self.strong)) > 1
        header = ["", "supervisor", *(["strong"] if several else []), "width"]
        header += [title_of(column) + (" *" if column == self.sorted_by else "") for column in order]
        body, place = [], 0
        for i, name in enumerate(self.names):
            place = place + 1 if i and self.strong[i] == self.strong[i - 1] else 1
            scores = [_with_error(self.values[c][i], self.errors[c][i]) for c in order]
            body.append([str(place), name, *([self.strong[i]] if several else []), str(self.widths[i]), *scores])
        return Printed(header, body, left=2 + several, note="\n".join(self.notes))

    def _known(self, column: str) -> str:
        if column not in self.values:
            raise InputError(f"column must be one of {', '.join(self.columns)}, got {column!r}")
        return column

    def _take(self, order: np.ndarray, column: str) -> SupervisorTable:
        pick = lambda items: tuple(items[i] for i in order)
        values, errors = ({c: x[order] for c, x in side.items()} for side in (self.values, self.errors))
        lists = {"names": pick(self.names), "strong": pick(self.strong), "widths": pick(self.widths)}
        return replace(self, **lists, values=values, errors=errors, sorted_by=column)


def title_of(column: str) -> str:
    """How a column is called where it is printed."""
    return TITLES.get(column, column.replace("_", " "))


def axis_title(table: SupervisorTable, column: str) -> str:
    """How a column is called beside an axis, where bars are its standard errors if it has some."""
    return title_of(column) + (" (± standard error)" if np.isfinite(table.se(column)).any() else "")


def _with_error(value: float, error: float) -> str:
    return f"{value:.4g} ±{error:.1g}" if np.isfinite(error) else number(value)
