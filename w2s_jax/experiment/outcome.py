"""What weak-to-strong experiments came to: everything measured, and beside it what was predicted of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from w2s_jax._core.checks import InputError, require_range
from w2s_jax._core.extras import data_frame
from w2s_jax._core.text import Printed, interval, number


class Predicted(NamedTuple):
    """Errors on fresh rows and gap, each (), as the deterministic equivalent finds them in the training splits alone.

    >>> Predicted(0.3, 0.2, 0.1, 0.15).student_error
    0.2
    """

    weak_error: Array
    student_error: Array
    ceiling_error: Array
    gap: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class WeakToStrong:
    """Outcome of weak-to-strong experiments; every field has the shape () or (splits,), or is None where it means nothing.

    Measured on the test split: squared errors against the labels (summed over outputs), accuracies, cross-entropies,
    `gap = E (f_w2s - f_sc)^2`, `misfit = E (f_w2s - f_w)^2` with f_w hardened if the pseudo-labels are, the same on D^ in
    sample (`misfit_in_sample`: how closely the student fits its teacher), `agreement`: share of rows where student and
    teacher choose the same class. The f are outputs, under a classification loss probabilities.
    Predicted without the test split, for squared loss: `predicted` by the deterministic equivalent, the weak error from
    D~, the rest from D^ and the weak head's outputs there; for soft pseudo-labels on D^ also
    `theorem_gap = ||P_s (I - P_w) y / sqrt(n)||^2`. `weak_ridge`, `strong_ridge`: penalties used.
    `converged`: all heads reached their tolerance.

    >>> errors = [jnp.array([x, x + 0.1]) for x in (0.4, 0.3, 0.2)]  # of weak head, student and ceiling on two splits
    >>> found = WeakToStrong(*errors, *(jnp.zeros(2) for _ in range(5)))
    >>> found.pgr.round(3).tolist(), round(float(found.mean().student_error), 3)
    ([0.5, 0.5], 0.35)
    """

    weak_error: Array
    student_error: Array
    ceiling_error: Array
    gap: Array
    misfit: Array
    misfit_in_sample: Array
    weak_ridge: Array
    strong_ridge: Array
    predicted: Predicted | None = None
    theorem_gap: Array | None = None
    weak_accuracy: Array | None = None
    student_accuracy: Array | None = None
    ceiling_accuracy: Array | None = None
    agreement: Array | None = None
    weak_cross_entropy: Array | None = None
    student_cross_entropy: Array | None = None
    ceiling_cross_entropy: Array | None = None
    converged: Array | None = None

    @property
    def pgr(self) -> Array:
        """Performance gap recovered in squared error, `(Err_w - Err_w2s) / (Err_w - Err_sc)` (Burns et al. 2023); NaN where there
        is none, as of constant labels."""
        return (self.weak_error - self.student_error) / (self.weak_error - self.ceiling_error)

    @property
    def accuracy_pgr(self) -> Array | None:
        """Performance gap recovered in accuracy, `(acc_w2s - acc_w) / (acc_sc - acc_w)`; None without classes."""
        if self.weak_accuracy is None or self.student_accuracy is None or self.ceiling_accuracy is None:
            return None
        return (self.student_accuracy - self.weak_accuracy) / (self.ceiling_accuracy - self.weak_accuracy)

    def mean(self) -> WeakToStrong:
        """Means over splits."""
        return jax.tree.map(lambda x: jnp.mean(x.astype(self.gap.dtype), 0), self) if jnp.ndim(self.gap) else self

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Confidence interval of a quantity's mean over splits (Student's t); NaN with a single split.

        Splits of the same rows overlap, so that it covers the luck of the split, not that of the rows.

        Raises:
            InputError: a quantity that was not measured, a level out of [0, 1].
        """
        require_range("level", level, 0, 1)
        found = getattr(self, name, None)
        if found is None or isinstance(found, tuple) or callable(found):
            raise InputError(f"name must be that of a measured quantity, got {name!r}")
        values = np.asarray(found, float).reshape(-1)
        if len(values) < 2:
            return float("nan"), float("nan")
        half = t_quantile(level, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
        return float(values.mean() - half), float(values.mean() + half)

    def to_dict(self) -> dict[str, Any]:
        """All fields that are there, `pgr` and `accuracy_pgr`, as numbers or lists."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        found |= {"predicted": None if self.predicted is None else self.predicted._asdict()}
        found |= {"pgr": self.pgr, "accuracy_pgr": self.accuracy_pgr}
        return jax.tree.map(lambda x: np.asarray(x).tolist(), {k: v for k, v in found.items() if v is not None})

    def to_pandas(self) -> Any:
        """A pandas DataFrame with a row per split and a column per quantity, `predicted_student_error` and so on among them.

        Raises:
            InputError: pandas is not installed.
        """
        found = self.to_dict()
        found |= {f"predicted_{name}": x for name, x in found.pop("predicted", {}).items()}
        return data_frame({name: np.atleast_1d(x) for name, x in found.items()})

    def __repr__(self) -> str:
        if not self._is_concrete:
            return "WeakToStrong(...)"
        text = lambda line: f"{line[0]:<24}{line[1]:>12}{line[2]:>26}{line[3]:>12}".rstrip()
        return "\n".join(map(text, [_HEADER, *_lines(self)]))

    def _repr_html_(self) -> str | None:
        return Printed(_HEADER, _lines(self), left=1)._repr_html_() if self._is_concrete else None

    @property
    def _is_concrete(self) -> bool:
        return isinstance(self.gap, Array | np.ndarray | np.generic) and not isinstance(self.gap, Tracer)


def beyond_rounding(error: Array, unit: ArrayLike) -> Array:
    """A squared error, 0 where it is rounding of labels whose mean square is `unit`, of which no share can be recovered."""
    return jnp.where(error <= (16 * jnp.finfo(error.dtype).eps) ** 2 * unit, 0, error)


def t_quantile(level: float, freedom: int) -> float:
    """The t with probability `level` between -t and t."""
    from scipy.special import stdtrit  # an eighth of a second that no ranking waits for

    return float(stdtrit(freedom, (1 + level) / 2))


_HEADER = "", "measured", "95% interval", "predicted"


def _lines(outcome: WeakToStrong) -> list[tuple[str, str, str, str]]:
    """A line per quantity: measured with its confidence interval, and what was predicted of it."""
    names = [field.name for field in fields(outcome) if field.name not in ("predicted", "theorem_gap", "converged")]
    lines = []
    for name in [*names, "pgr", "accuracy_pgr"]:
        value = getattr(outcome, name)
        if value is None:
            continue
        predicted = getattr(outcome.predicted, name, None)
        told = "" if predicted is None else number(float(jnp.mean(predicted)))
        measured = number(float(jnp.mean(value))), interval(*outcome.interval(name))
        lines.append((name.replace("_", " "), *measured, told))
    if outcome.theorem_gap is not None:
        lines.append(("theorem gap", "", "", number(float(jnp.mean(outcome.theorem_gap)))))
    return lines
