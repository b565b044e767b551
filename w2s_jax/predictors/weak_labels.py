"""What trained weak heads' own labels say, without true ones: agreement, consensus, the gap on weak labels, and the misfit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax._core.arrays import as_labels, entered
from w2s_jax._core.checks import InputError, require_choice, require_number, require_range
from w2s_jax.filters import Filter
from w2s_jax.gap import prediction_gap
from w2s_jax.overlap import overlap

How = Literal["mean", "vote"]
Divergence = Literal["kl", "squared"]


class Agreement(NamedTuple):
    """Shares of rows on which weak models choose the same class: `pairs` (m, m), and of `each` (m,) the mean over all others.

    >>> agreement([[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]]).each.tolist()
    [0.5, 0.625, 0.375]
    """

    pairs: Float[Array, "m m"]
    each: Float[Array, " m"]


def agreement(weak_labels: ArrayLike | Sequence[ArrayLike], *, middle: float | None = None) -> Agreement:
    """How often weak models agree with each other.

    Args:
        weak_labels: of m >= 2 models, classes (m, n), compared as they are, or outputs (m, n, c), the largest being the class.
        middle: of soft labels (m, n), the point between two classes.

    Raises:
        InputError: less than two models, shapes that differ, NaN or infinite entries.

    >>> agreement([[0.9, 0.2], [0.6, 0.7]], middle=0.5).pairs.tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    classes = _classes(_several(weak_labels), middle)
    if len(classes) < 2:
        raise InputError(f"weak_labels must be of at least two models, got {len(classes)}")
    same = lambda own: jnp.mean((classes == own).astype(jnp.result_type(float)), 1)
    pairs = jax.lax.map(same, classes)
    return Agreement(pairs, (jnp.sum(pairs, 1) - 1) / (len(classes) - 1))


def consensus(
    weak_labels: ArrayLike | Sequence[ArrayLike], how: How = "mean", *, middle: float | None = None
) -> Float[Array, "n *c"]:
    """One label for each row from those of several weak models.

    Args:
        weak_labels: of m models, (m, n) or (m, n, c).
        how: "mean" of the labels; "vote": the class of most models, the first model's of those equally often. A vote of outputs
            (m, n, c) is one-hot, and one of classes (m, n) in their own numbers.
        middle: for a vote of soft labels (m, n), the point between two classes, which become 0 and 1.

    Raises:
        InputError: no models, shapes that differ, NaN or infinite entries.

    >>> labels = [[1.0, 0.25], [0.75, 0.75], [0.25, 0.5]]
    >>> consensus(labels, "vote", middle=0.5).tolist(), consensus(labels[:2]).tolist()
    ([1.0, 0.0], [0.875, 0.5])
    """
    require_choice("how", how, How)
    given = _several(weak_labels)
    if how == "mean":
        return jnp.mean(given, 0)
    classes = _classes(given, middle)
    votes = jax.lax.map(lambda own: jnp.sum(classes == own, 0), classes)  # for what each model says of each row
    chosen = jnp.take_along_axis(classes, jnp.argmax(votes, 0)[None], 0)[0]
    return chosen.astype(given.dtype) if given.ndim == 2 else jax.nn.one_hot(chosen, given.shape[2], dtype=given.dtype)


def weak_label_gap(
    h_w: Float[ArrayLike, "n d_w"],
    h_s: Float[ArrayLike, "n d_s"],
    weak_labels: ArrayLike,
    weak: Filter,
    strong: Filter,
    *,
    bias: bool = False,
) -> Float[Array, "*grid_and_c"]:
    """The prediction gap of labels that weak models gave, `||P_s (I - P_w) y_weak / sqrt(n)||^2`: no true one is needed.

    Args:
        h_w, h_s, bias: as in `overlap`.
        weak_labels: (n,) or (n, c), best a `consensus`, or cross-fitted: of a ridgeless head's own outputs on these rows it is 0.
        weak, strong: filters of the two heads; their broadcast shape comes first.

    Raises:
        InputError: as `overlap` and `prediction_gap`.

    >>> from w2s_jax import projection
    >>> weak, strong = [[1.0], [0.0]], [[1.0, 0.0], [0.0, 1.0]]  # the weak model sees the first row alone
    >>> round(float(weak_label_gap(weak, strong, consensus([[3.0, 2.0], [1.0, 0.0]]), projection(), projection())), 4)
    0.5

    Source: the gap of Xue et al. 2025; the idea of weak labels in it is that of RADS.
    """
    return prediction_gap(overlap(h_w, h_s, weak_labels, bias=bias), weak, strong)


def misfit_bregman(student: ArrayLike, weak: ArrayLike, divergence: Divergence = "kl") -> Float[Array, ""]:
    """Mean divergence `E D(f_w2s, f_w)` of a student from its teacher, the student first: what it gains, where its class allows.

    If the student minimises it over a convex class that has the target f* in it, then `Err_w2s <= Err_w - misfit` for
    `Err = E D(f*, .)`: with labels y, the bound is `misfit_bregman(y, weak) - misfit_bregman(student, weak)`.

    Args:
        student, weak: probabilities of one class (n,) or of all of them (n, c); for "squared" any outputs, which add up.
        divergence: "kl" of Bernoulli or categorical distributions, or "squared" differences (Charikar et al. 2024).

    Raises:
        InputError: shapes that differ, NaN or infinite entries, for "kl" what are no probabilities.

    >>> labels, teacher, student = [1.0, 0.0], [0.6, 0.4], [0.8, 0.2]
    >>> error, misfit = misfit_bregman(labels, teacher), misfit_bregman(student, teacher)
    >>> [f"{x:.3f}" for x in (error, misfit, misfit_bregman(labels, student))]  # 0.511 - 0.092 is no less than 0.223
    ['0.511', '0.092', '0.223']

    Source: Mulgund & Pabbaraju 2025, whose form is derived here from the generalised Pythagorean inequality; infinite where the
    teacher excludes what the student does not.
    """
    require_choice("divergence", divergence, Divergence)
    given = [as_labels(name, x, _rows(name, x)) for name, x in (("student", student), ("weak", weak))]
    p, q = given
    if p.shape != q.shape:
        raise InputError(f"student and weak must have the same shape, got {p.shape} and {q.shape}")
    if divergence == "squared":
        return jnp.sum(jnp.square(p - q)) / len(p)
    for name, x in zip(("student", "weak"), given, strict=True):
        _require_probabilities(name, x)
    of_class = jax.scipy.special.rel_entr
    found = of_class(p, q) + of_class(1 - p, 1 - q) if p.ndim == 1 or p.shape[1] == 1 else of_class(p, q)
    return jnp.sum(found) / len(p)


def _require_probabilities(name: str, x: Array) -> None:
    require_range(name, x, 0, 1)
    if x.ndim == 2 and x.shape[1] > 1 and not isinstance(x, Tracer):
        away = float(jnp.max(jnp.abs(jnp.sum(x, 1) - 1)))
        if away > 1e-3:
            raise InputError(f"{name} must have rows that add up to 1, got one that is {away:.2g} away")


def _several(weak_labels: Any) -> Array:
    """Labels of several models (m, n) or (m, n, c)."""
    if not hasattr(weak_labels, "__len__") or not len(weak_labels):
        raise InputError(f"weak_labels must be those of several models, got {weak_labels!r}")
    n = _rows("weak_labels", weak_labels[0])
    found = [as_labels(f"weak_labels[{i}]", labels, n) for i, labels in enumerate(weak_labels)]
    if len({labels.shape for labels in found}) > 1:
        raise InputError(f"weak_labels must be of one shape for all models, got {[labels.shape for labels in found]}")
    return jnp.stack(found)


def _rows(name: str, given: Any) -> int:
    shape = entered(name, given).shape
    if not shape:
        raise InputError(f"{name} must have shape (n,) or (n, outputs), got {given!r}")
    return shape[0]


def _classes(given: Array, middle: float | None) -> Array:
    """The class of each row by model (m, n)."""
    if middle is not None:
        require_number("middle", middle, -jnp.inf)
        given = given[..., 0] if given.ndim == 3 and given.shape[2] == 1 else given
        if given.ndim == 3:
            raise InputError(f"middle is for labels (m, n) of two classes, got shape {given.shape}")
        return (given > middle).astype(int)
    return given.reshape(given.shape[:2]) if given.ndim == 2 or given.shape[2] == 1 else jnp.argmax(given, 2)
