"""The five conditions of the theory, measured on a real representation: does its tail act as extra ridge, and if not, why.

Many ranks of V are measured at once (conditions.py); the one that tells most is chosen and the report put together outside
jit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax._core.arrays import as_labels, as_matrix
from w2s_jax._core.checks import InputError, require_choice, require_range
from w2s_jax._core.extras import data_frame
from w2s_jax._core.text import Printed
from w2s_jax.moments import ModelMoments
from w2s_jax.overlap import representation
from w2s_jax.spectrum import Rule, principal_rank
from w2s_jax.theory.conditions import (
    Prepared,
    Quantities,
    candidates,
    measure,
    prepare,
    prepare_kernel,
    prepare_rows,
    split_of,
)

RankRule = Literal["tightest", Rule]
BOUND = 2.0
NAMES = ("boundedness", "concentration on V", "isotropic tail", "cross-sample tail", "tail covariance")
MEASURED = (
    "the largest ratio between the splits' norms or label energies is",
    "second or label moments on V are off by",
    "the tail's kernels differ from gamma I by",
    "the tails of the two splits have inner products of norm",
    "the largest variance of a tail direction on fresh rows is",
)
CONSEQUENCES = (
    "a few rows or one split's scale decide, and nothing below can be relied on",
    "P_w and P_s on the student's rows do not describe the head fitted on the labelled ones: more rows, fewer principal "
    "directions, or splits of the same distribution are needed",
    "the tail is not plain ridge, so effective regularization beta + gamma is biased (too narrow a tail, or no spectral gap)",
    "what the weak head fits in the tail of its own rows reaches the student's rows, and the predicted gap leaves it out",
    "heads learn from a tail direction that V leaves out, so errors on fresh rows have a part that P_w and P_s do not see",
)


@dataclass(frozen=True)
class Condition:
    """One condition: the number measured, what it may be at most, and what went into it.

    `value`: the worst entry of `parts`, all relative (see `decomposability`); `holds`: value <= allowance.

    >>> condition = Condition(3, 0.1, 0.2, {"labelled": 0.1, "student": 0.05})
    >>> condition.name, condition.holds, condition.ratio
    ('isotropic tail', True, 0.5)
    """

    number: int
    value: float
    allowance: float
    parts: Mapping[str, float]

    @property
    def name(self) -> str:
        """What the condition is called."""
        return NAMES[self.number - 1]

    @property
    def holds(self) -> bool:
        """Whether the measured number is within its allowance."""
        return self.value <= self.allowance

    @property
    def ratio(self) -> float:
        """Measured number over allowance, infinite where nothing is allowed."""
        return self.value / self.allowance if self.allowance > 0 else (np.inf if self.value > 0 else 0.0)

    @property
    def sentence(self) -> str:
        """In words: whether it holds, by which number, and what is affected if not."""
        measured = f"{MEASURED[self.number - 1]} {self.value:.3g}, at most {self.allowance:.3g} is allowed"
        if self.holds:
            return f"holds: {measured}."
        return f"does not hold: {measured}; {CONSEQUENCES[self.number - 1]}."

    def __str__(self) -> str:
        return f"{self.number} {self.name} {self.sentence}"


@dataclass(frozen=True)
class DecomposabilityReport:
    """How decomposable a representation is, and what stands in the way; prints one sentence per condition.

    `rank`: dimension of V; `gamma_labelled`, `gamma_student`: the tail's ridge on each split; `smallest`: lambda_min of the
    principal part; `delta`: the smallest delta with which all conditions hold, infinite if condition 1 does not; `ridge`:
    the delta that the conditions were judged with. All five in units of `scale`, the operator norm of the reference
    covariance. `ranks`, `ratios`: the ranks scanned and the worst ratio of conditions 2 to 5 at each. `rows`, `width`: the
    splits' numbers of rows, and of features.

    >>> report = decomposability(np.eye(4, 2), np.eye(4, 2))
    >>> report.rank, report.holds, [c.name for c in report.conditions][:2]
    (2, True, ['boundedness', 'concentration on V'])
    """

    rank: int
    gamma_labelled: float
    gamma_student: float
    smallest: float
    delta: float
    ridge: float
    scale: float
    tolerance: float
    conditions: tuple[Condition, ...]
    ranks: np.ndarray
    ratios: np.ndarray
    rows: tuple[int, int]
    width: int

    @property
    def broken(self) -> tuple[int, ...]:
        """Numbers of the conditions that do not hold."""
        return tuple(condition.number for condition in self.conditions if not condition.holds)

    @property
    def holds(self) -> bool:
        """Whether all five conditions hold."""
        return not self.broken

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, the conditions as a list of dicts."""
        names = ("rank", "gamma_labelled", "gamma_student", "smallest", "delta", "ridge", "scale", "tolerance", "width")
        conditions = [
            {"number": c.number, "name": c.name, "value": c.value, "allowance": c.allowance, "ratio": c.ratio}
            | {"holds": c.holds, "parts": dict(c.parts), "sentence": c.sentence}
            for c in self.conditions
        ]
        scan = {"rows": list(self.rows), "ranks": self.ranks.tolist(), "ratios": self.ratios.tolist()}
        return {name: getattr(self, name) for name in names} | {"holds": self.holds, "conditions": conditions} | scan

    def to_pandas(self) -> Any:
        """The conditions as a pandas DataFrame, one a row, columns as in `to_dict` but for `parts`.

        Raises:
            InputError: pandas is not installed.
        """
        rows = self.to_dict()["conditions"]
        return data_frame([{name: x for name, x in row.items() if name != "parts"} for row in rows])

    @property
    def _verdict(self) -> str:
        verdict = "decomposable" if self.holds else f"not decomposable (condition {', '.join(map(str, self.broken))})"
        return (
            f"{verdict}: V has {self.rank} of {self.width} directions, {self.rows[0]} and {self.rows[1]} rows\n"
            f"gamma~ {self.gamma_labelled:.3g}, gamma^ {self.gamma_student:.3g}, lambda_min on V {self.smallest:.3g}, "
            f"smallest delta {self.delta:.3g}, in units of ||Sigma|| = {self.scale:.4g}"
        )

    def __str__(self) -> str:
        width = max(map(len, NAMES))
        lines = [
            f"{c.number} {c.name:<{width}} {c.value:9.3g} {c.allowance:9.3g}  {c.sentence}" for c in self.conditions
        ]
        return "\n".join([self._verdict, f"  {'condition':<{width}} {'measured':>9} {'allowed':>9}", *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        header = "", "condition", "measured", "allowed", "holds"
        body = [
            (str(c.number), c.name, f"{c.value:.3g}", f"{c.allowance:.3g}", "yes" if c.holds else "no")
            for c in self.conditions
        ]
        broken = "\n".join(str(c) for c in self.conditions if not c.holds)
        return Printed(header, body, left=2, title=self._verdict, note=broken)._repr_html_()


def decomposability(
    h_labelled: Float[ArrayLike, "n_labelled d"],
    h_student: Float[ArrayLike, "n_student d"],
    y_labelled: ArrayLike | None = None,
    y_student: ArrayLike | None = None,
    *,
    rule: RankRule = "tightest",
    level: float | None = None,
    ridge: float = 0.0,
    tolerance: float = 0.25,
    population: Float[ArrayLike, "d d"] | None = None,
    bias: bool = False,
) -> DecomposabilityReport:
    """The five conditions of (delta, gamma~, gamma^)-decomposability, measured on the labelled and the student's split.

    V is spanned by the leading k eigenvectors of the pooled second moment, or of `population`. A theorem's "small" is
    asymptotic; here conditions 2 to 5 hold if the measured number is at most
    `tolerance * (min(gamma~, gamma^)^2 + delta^2 + lambda_min^2)`, everything in units of `||Sigma||_op`, so that scaling
    a representation changes no verdict. delta is what the heads' own ridge contributes: pass it as `ridge`. The report's
    `delta` is the smallest one, over the ranks scanned, with which all hold: 0 means that the representation needs no help.

    1. boundedness: the norms of `S~`, `S^` (and Sigma if known), and the label energies, within a factor of 2.
    2. concentration: `||Pi (S - Sigma) Pi||`, exact with `population`. Without, `S~ - S^` shared out as independent
       deviations of size `n^{-1/2}`: times `sqrt(n^ / (n~ + n^))` for `S~`. A difference of distributions shows here too.
       The same for `Pi E[h y]` (norm over outputs), in units of `(||Sigma|| E[y^2])^{1/2}`.
    3. isotropy: `||K(Pi' h) / n - gamma I||` on each split, the zero eigenvalues of a tail narrower than n included.
    4. cross-sample: `||K(Pi' h; D~, D^)|| / sqrt(n~ n^) = lambda_max(S~' S^')^{1/2}`.
    5. tail covariance: the variance on one split along the other's leading tail direction (the larger of the two ways),
       as a sample's own largest tail eigenvalue is near gamma even where the population's is gamma n / d. Exact with
       `population`.

    PCA puts the tail's energy along its own directions into V (`mu = lambda + gamma`, the pooled gamma). That share is
    given back: lambda_min is `mu_k - gamma`, and the tail has variance gamma, not 0, along V. With `population` neither
    is needed. gamma of a split is its tail's trace over n, that share included.

    Args:
        h_labelled, h_student: one model's representations of D~ (n_labelled, d) and D^ (n_student, d), not normalised.
        y_labelled, y_student: labels (n,) or (n, c) of both, or neither.
        rule: "tightest" scans k over 0, powers of two, the largest relative drops of the spectrum and its numerical rank;
            or a rule of `principal_rank`. It takes the k with the least product of the ratios (number to allowance) above
            1, among equals the least worst ratio: a V at which all hold if there is one, else one that blames few
            conditions (a direction that V leaves out breaks 3, 4 and 5 at once).
        level: the rule's number.
        ridge: penalty of the heads, in the representation's units squared.
        tolerance: how small "small" is.
        population: covariance Sigma (d, d), where it is known.
        bias: heads have an intercept: columns, labels included, are taken about each split's own means.

    Raises:
        InputError: shapes that do not fit, labels of one split only, an unknown rule, a level missing, a negative ridge or
            tolerance, NaN or infinite entries, representations that do not vary.

    >>> h = np.random.default_rng(0).standard_normal((4000, 3))
    >>> report = decomposability(h[:2000], h[2000:])
    >>> report.rank, report.holds, report.broken
    (3, True, ())

    Source: Xue et al. 2025, definition of decomposability.
    """
    h_labelled, h_student = representation("h_labelled", h_labelled), representation("h_student", h_student)
    n, m, d = h_labelled.shape[0], h_student.shape[0], h_labelled.shape[1]
    if h_student.shape[1] != d:
        raise InputError(
            f"h_labelled and h_student must have the same number of features, got {d} and {h_student.shape[1]}"
        )
    labels = _checked_labels(y_labelled, y_student, n, m)
    sigma = None if population is None else _checked_population(population, d)
    _check_settings(ridge, tolerance)
    # Beyond n + m features the row space has fewer dimensions than the representation: rotate into it.
    through = prepare_kernel if d > n + m and sigma is None else prepare_rows
    prepared = through(h_labelled, h_student, labels, sigma, bias)
    return _report(prepared, (n - bias, m - bias), d, (rule, level), ridge, tolerance, sigma is not None)


def decomposability_from_moments(
    labelled: ModelMoments,
    student: ModelMoments,
    *,
    rule: RankRule = "tightest",
    level: float | None = None,
    ridge: float = 0.0,
    tolerance: float = 0.25,
    population: Float[ArrayLike, "d d"] | None = None,
) -> DecomposabilityReport:
    """`decomposability` from one model's moments of the two splits: rows are not needed, so there may be any number of them.

    Args:
        labelled, student: moments of D~ and D^, such as the `strong` sides of two pairs'; both centred or neither, both with
            labels or neither.
        rule, level, ridge, tolerance, population: as in `decomposability`.

    Raises:
        InputError: as `decomposability`, or moments of different widths or kinds.

    >>> from w2s_jax import model_moments
    >>> h = np.random.default_rng(0).standard_normal((4000, 3))
    >>> decomposability_from_moments(model_moments(h[:2000]), model_moments(h[2000:])).holds
    True

    Source: Xue et al. 2025, definition of decomposability.
    """
    both = (labelled, student)
    for name, m in zip(("labelled", "student"), both, strict=True):
        if not isinstance(m, ModelMoments):
            raise InputError(f"{name} must be ModelMoments of one model, got {type(m).__name__}")
    if jax.tree.structure(labelled) != jax.tree.structure(student):
        raise InputError("labelled and student moments must both have labels or none, and both be centred or none")
    splits = [split_of(m) for m in both]
    widths = [split.second.shape[0] for split in splits]
    if widths[0] != widths[1]:
        raise InputError(
            f"labelled and student moments must have the same width, got {widths[0]} and {widths[1]} features"
        )
    sigma = None if population is None else _checked_population(population, widths[0])
    _check_settings(ridge, tolerance)
    freedom = [round(float(m.n)) - m.is_centred for m in both]
    return _report(prepare(*splits, sigma), freedom, widths[0], (rule, level), ridge, tolerance, sigma is not None)


def _check_settings(ridge: float, tolerance: float) -> None:
    require_range("ridge", ridge, 0)
    require_range("tolerance", tolerance, 0)
    if tolerance == 0:
        raise InputError("tolerance must be positive, got 0")


def _checked_labels(
    y_labelled: ArrayLike | None, y_student: ArrayLike | None, n: int, m: int
) -> tuple[Array, Array] | None:
    """Both labels as (rows, c), or None."""
    if y_labelled is None and y_student is None:
        return None
    if y_labelled is None or y_student is None:
        raise InputError("y_labelled and y_student must both be given or neither, got one of them")
    labelled, student = as_labels("y_labelled", y_labelled, n), as_labels("y_student", y_student, m)
    if labelled.shape[1:] != student.shape[1:]:
        raise InputError(
            f"y_labelled and y_student must have the same outputs, got shapes {labelled.shape} and {student.shape}"
        )
    return labelled.reshape(n, -1), student.reshape(m, -1)


def _checked_population(population: ArrayLike, d: int) -> Array:
    sigma = as_matrix("population", population)
    if sigma.shape != (d, d):
        raise InputError(f"population must be a covariance ({d}, {d}), got shape {sigma.shape}")
    return sigma


def _report(
    prepared: Prepared,
    freedom: Sequence[int],
    width: int,
    rule: tuple[RankRule, float | None],
    ridge: float,
    tolerance: float,
    exact: bool,
) -> DecomposabilityReport:
    """Chooses V and puts the report together, in float64 on the host."""
    values, rows = prepared.values, (round(float(prepared.labelled.n)), round(float(prepared.student.n)))
    if not values[0] > 0:
        raise InputError("representations must vary, got a covariance of zeros")
    if min(freedom) < 1:
        raise InputError(f"each split must have at least two rows to be centred, got {rows[0]} and {rows[1]}")
    ranks = _ranks(values, *rule, sum(rows), width)
    # A kernel with zeros is the same whatever their number: no new compilation for another number of rows.
    clipped = (min(freedom[0], len(values) + 1), min(freedom[1], len(values) + 1))
    measured = measure(prepared, ranks, clipped, exact)
    q = jax.tree.map(lambda x: np.asarray(x, np.float64), measured)
    scale = float(values[0])
    delta = float(ridge) / scale
    worst, size = (np.asarray(x, np.float64) for x in (measured.worst(), measured.size()))
    allowances = tolerance * (size + delta**2)
    ratios = np.divide(worst, allowances, out=np.where(worst > 0, np.inf, 0.0), where=allowances > 0)
    excess = np.log(np.maximum(ratios, 1)).sum(0)
    i = int(np.lexsort((ratios.max(0), excess))[0])
    conditions = _conditions(q, i, float(allowances[i]), exact)
    needed = np.sqrt(np.maximum(worst.max(0) / tolerance - size, 0)).min() if conditions[0].holds else np.inf
    return DecomposabilityReport(
        int(ranks[i]),
        float(q.gamma[0, i]),
        float(q.gamma[1, i]),
        float(q.smallest[i]),
        float(needed),
        delta,
        scale,
        float(tolerance),
        conditions,
        np.asarray(ranks),
        ratios.max(0),
        rows,
        width,
    )


def _ranks(values: Array, rule: RankRule, level: float | None, n: int, d: int) -> Array:
    require_choice("rule", rule, RankRule)
    if rule == "tightest":
        return candidates(values)
    return jnp.atleast_1d(principal_rank(values, rule, level, n=n, d=d)).astype(int)


def _conditions(q: Quantities, i: int, allowance: float, exact: bool) -> tuple[Condition, ...]:
    norms = [*q.norms, *([1.0] if exact else [])]
    bounded = {"norms": _spread(norms)} | ({} if q.energies is None else {"label energies": _spread(q.energies)})
    concentrated = {"labelled": q.concentration[0, i], "student": q.concentration[1, i]}
    if q.labels is not None:
        concentrated |= {"label moments, labelled": q.labels[0, i], "label moments, student": q.labels[1, i]}
    isotropic = {"labelled": q.isotropy[0, i], "student": q.isotropy[1, i]}
    parts = (bounded, concentrated, isotropic, {"cross": q.crossing[i]}, {"variance": q.diminishing[i]})
    return tuple(
        Condition(number, float(max(part.values())), BOUND if number == 1 else allowance, _floats(part))
        for number, part in enumerate(parts, 1)
    )


def _spread(sizes: Any) -> float:
    """Largest over smallest; 1 if all are zero."""
    low, high = min(sizes), max(sizes)
    return high / low if low > 0 else (np.inf if high > 0 else 1.0)


def _floats(part: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in part.items()}
