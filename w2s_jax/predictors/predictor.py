"""What a predictor is: a function of a pair to a number, with what it reads and needs, what it claims to predict, and its source.

Most read moments (`PairView`). What no moment of second order has, such as distances of rows, is read from the rows (`RowsView`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax._core.arrays import as_labels, as_matrix, require_same_rows
from w2s_jax._core.checks import InputError, require_choice
from w2s_jax._core.response import apply_response, evaluate
from w2s_jax.filters import Filter, ridge
from w2s_jax.moments import Moments
from w2s_jax.overlap import Overlap, overlap_from_moments

Needs = Literal["nothing", "labels"]
Reads = Literal["moments", "rows", "weak_rows"]


class PairView(NamedTuple):
    """A weak/strong pair as predictors see it: moments, with labels if those are needed, their overlap, and the two heads.

    Where a ranking or a sweep calls, features may be followed by columns of zeros, and strong ones be in their eigenbasis.

    >>> from w2s_jax import moments, ridge
    >>> m = moments([[1.0], [0.0]], [[1.0, 0.0], [0.0, 1.0]])
    >>> PairView(m, overlap_from_moments(m), ridge(0.5), ridge(0.0)).f_w.tolist()
    [0.5]
    """

    moments: Moments
    overlap: Overlap
    weak: Filter
    strong: Filter

    @property
    def f_w(self) -> Array:
        """What the weak head keeps of each eigendirection (k_w,): for sums over them."""
        return evaluate(self.weak, self.overlap.weak.values, self.overlap.weak.n)

    @property
    def f_s(self) -> Array:
        """What the student keeps of each eigendirection (k_s,)."""
        return evaluate(self.strong, self.overlap.strong.values, self.overlap.strong.n)

    def by_weak(self, x: Array) -> Array:
        """`F_w x` for x (k_w, m), differentiated as a function of the whole moment."""
        return apply_response(self.weak, self.overlap.weak, x)

    def by_student(self, x: Array) -> Array:
        """`F_s x` for x (k_s, m)."""
        return apply_response(self.strong, self.overlap.strong, x)

    @property
    def labels(self) -> tuple[Array, Array, Array]:
        """`U_w^T y / sqrt(n)` (k_w, c), `U_s^T y / sqrt(n)` (k_s, c) and the mean squares of labels (c,)."""
        of = self.overlap
        if of.a_w is None or of.a_s is None or of.energy is None:
            raise InputError("moments must have labels, got some made without y")
        return of.a_w.reshape(len(of.a_w), -1), of.a_s.reshape(len(of.a_s), -1), of.energy.reshape(-1)


class RowsView(NamedTuple):
    """A pair as predictors see it that read rows: of the weak model `h_w` (n, d_w), of the strong one, labels, the two heads.

    Where a ranking calls, rows are prepared as for its other columns. Weak features may be followed by columns of zeros, strong
    ones are in their eigenbasis, and of those of models wider than rows there are no more than rows.

    >>> view = RowsView(jnp.ones((3, 2)), jnp.ones((3, 4)), None, ridge(0.1), ridge(0.1))
    >>> view.h_s.shape
    (3, 4)
    """

    h_w: Array
    strong_rows: Array | None
    y: Array | None
    weak: Filter
    strong: Filter

    @property
    def h_s(self) -> Array:
        """Rows of the strong model (n, d_s)."""
        if self.strong_rows is None:
            raise InputError('reads must be "rows" for a predictor that uses h_s, got "weak_rows"')
        return self.strong_rows

    @property
    def labels(self) -> Array:
        """Labels of the rows (n, c); in a ranking about their mean where heads have an intercept."""
        if self.y is None:
            raise InputError('needs must be "labels" for a predictor that uses labels, got "nothing"')
        return self.y.reshape(len(self.y), -1)


View = TypeVar("View", PairView, RowsView)
_WITHOUT_VALUES = (  # what JAX raises where something needs the values of arrays that have none
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


@dataclass(frozen=True)
class Predictor:
    """A predictor, called with moments and heads, or with rows by `of_rows`; made by `predictor`.

    `reads`: "moments", "rows" or "weak_rows"; `needs`: "nothing" or "labels"; `predicts`: the quantity that it claims to rank or
    to equal; `source`: who says so.

    >>> from w2s_jax.predictors import PREDICTORS
    >>> PREDICTORS["logme"], PREDICTORS["logme"].source
    (Predictor('logme', needs labels, largest is best), 'You et al. 2021')
    """

    name: str
    function: Callable[[Any], Array]
    needs: Needs
    predicts: str
    source: str
    larger_is_better: bool
    reads: Reads = "moments"

    def __call__(self, moments: Moments, weak: Filter, strong: Filter) -> Float[Array, ""]:
        """The number for a pair of representations and two heads.

        Args:
            moments: of the pair, centred or not as the heads have an intercept or not; with labels if those are needed.
            weak, strong: the heads' filters, of one strength each.

        Raises:
            InputError: a predictor that reads rows, moments or filters of another type, a grid of filters, or labels that are
                needed and not there.

        >>> from w2s_jax import moments, ridge
        >>> from w2s_jax.predictors import PREDICTORS
        >>> m = moments([[1.0], [0.0]], [[1.0, 0.0], [0.0, 1.0]])  # the weak model sees one of two directions
        >>> round(float(PREDICTORS["kept_variance"](m, ridge(0.0), ridge(0.0))), 4)
        0.5
        """
        if self.reads != "moments":
            raise InputError(f"predictor {self.name!r} reads rows, got moments: call {self.name}.of_rows(h_w, h_s)")
        if not isinstance(moments, Moments):
            raise InputError(f"moments must be Moments, got {type(moments).__name__}")
        _require_heads(weak, strong)
        if self.needs == "labels" and moments.yy is None:
            raise InputError(f"moments must have labels for the predictor {self.name!r}, got some made without y")
        return _predicted(self, moments, weak, strong)

    def of_rows(
        self,
        h_w: Float[ArrayLike, "n d_w"],
        h_s: Float[ArrayLike, "n d_s"] | None,
        y: ArrayLike | None = None,
        *,
        weak: Filter | None = None,
        strong: Filter | None = None,
    ) -> Float[Array, ""]:
        """The number for two representations of the same rows, of a predictor that reads rows.

        Args:
            h_w, h_s: representations (n, d_w) and (n, d_s), about their means or not as the heads have an intercept or not. Who
                reads "weak_rows" does not look at h_s, which may be None.
            y: labels (n,) or (n, c), if they are needed.
            weak, strong: the heads' filters, of one strength each; by default `ridge(1e-3)`.

        Raises:
            InputError: a predictor that reads moments, shapes that do not fit, NaN or infinite entries, filters of another type,
                a grid of filters, or labels that are needed and not there.

        >>> from w2s_jax.predictors import PREDICTORS
        >>> h = jnp.arange(10.0).reshape(5, 2) ** 2
        >>> round(float(PREDICTORS["debiased_cka"].of_rows(h, 3 * h)), 4)
        1.0
        """
        if self.reads == "moments":
            raise InputError(
                f"predictor {self.name!r} reads moments, got rows: call {self.name}(moments(h_w, h_s, y), ...)"
            )
        h_w, strong_rows = as_matrix("weak representations", h_w), None
        if self.reads == "rows":
            if h_s is None:
                raise InputError(
                    f"h_s must be given for the predictor {self.name!r}, which reads rows of both, got None"
                )
            strong_rows = as_matrix("strong representations", h_s)
            require_same_rows(h_w, strong_rows)
        weak, strong = (ridge(1e-3) if head is None else head for head in (weak, strong))
        _require_heads(weak, strong)
        if self.needs == "labels" and y is None:
            raise InputError(f"y must be given for the predictor {self.name!r}, which needs labels, got None")
        labels = None if y is None else as_labels("labels", y, len(h_w))
        return _of_rows(self, RowsView(h_w, strong_rows, labels, weak, strong))

    def of_pair(self, pair: PairView | RowsView) -> Float[Array, ""]:
        """The number for a pair; raises InputError if the function's result is no single real number, or if it makes Python's or
        NumPy's numbers of arrays that have no values under jit."""
        try:
            found = self.function(pair)
        except _WITHOUT_VALUES as error:
            raise InputError(
                f"predictor {self.name!r} must use jax.numpy on arrays, which have no values under jit: no float(), if or NumPy "
                f"function of one, got {type(error).__name__}"
            ) from error
        try:
            value = jnp.asarray(found)
        except (TypeError, ValueError) as error:  # of None, text and the like
            came = repr(found) if found is None or isinstance(found, str) else f"a {type(found).__name__}"
            raise InputError(f"predictor {self.name!r} must return a number, got {came}") from error
        if value.shape:
            raise InputError(f"predictor {self.name!r} must return a number, got an array of shape {value.shape}")
        if not any(jnp.issubdtype(value.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
            raise InputError(f"predictor {self.name!r} must return a real number, got one of {value.dtype}")
        return value.astype(jnp.result_type(value.dtype, float))

    def __repr__(self) -> str:
        best = "largest" if self.larger_is_better else "smallest"
        reads = "" if self.reads == "moments" else f"reads {self.reads.replace('_', ' ')}, "
        return f"Predictor({self.name!r}, {reads}needs {self.needs}, {best} is best)"


def _require_heads(weak: Any, strong: Any) -> None:
    for name, head in (("weak", weak), ("strong", strong)):
        if not isinstance(head, Filter):
            raise InputError(f"{name} must be a filter such as ridge(1e-3), got {head!r}")
        if head.shape:
            raise InputError(f"{name} must be a filter of one strength, got a grid of shape {head.shape}: use jax.vmap")


@partial(jax.jit, static_argnums=0)
def _predicted(of: Predictor, moments: Moments, weak: Filter, strong: Filter) -> Array:
    return of.of_pair(PairView(moments, overlap_from_moments(moments), weak, strong))


@partial(jax.jit, static_argnums=0)
def _of_rows(of: Predictor, view: RowsView) -> Array:
    return of.of_pair(view)


def predictor(
    *,
    needs: Needs = "nothing",
    predicts: str,
    source: str = "",
    larger_is_better: bool = False,
    reads: Reads = "moments",
) -> Callable[[Callable[[View], Array]], Predictor]:
    """Makes a predictor of a function of a `PairView` or `RowsView` to a real number (), made of `jax.numpy`: it is called under
    jit, vmap and grad.

    Args:
        needs: "labels" if it uses those of the pair.
        predicts: what it claims to predict.
        source: who published it.
        larger_is_better: whether the teacher with the largest number is the best.
        reads: "moments"; with "rows" the function is one of a `RowsView`, with "weak_rows" of one without strong rows, so that a
            ranking asks it once for all strong models.

    Raises:
        InputError: other needs, other reads.

    >>> @predictor(predicts="how much a teacher knows", larger_is_better=True)
    ... def directions(pair):
    ...     return jnp.sum(pair.f_w)
    >>> directions
    Predictor('directions', needs nothing, largest is best)
    """

    require_choice("needs", needs, Needs)
    require_choice("reads", reads, Reads)

    def of(function: Callable[[View], Array]) -> Predictor:
        return Predictor(function.__name__, function, needs, predicts, source, larger_is_better, reads)

    return of


def one_of_each(
    predictors: Iterable[str | Predictor] | Mapping[str, Predictor],
    known: dict[str, Predictor],
    taken: Iterable[str],
    offered: Iterable[str] | None = None,
) -> tuple[Predictor, ...]:
    """Predictors, some by name; raises InputError for an unknown name, with those that are `offered` (by default all that are
    known), for two of one name or one that is taken."""
    if isinstance(predictors, Mapping) and all(isinstance(of, Predictor) for of in predictors.values()):
        predictors = predictors.values()  # of `PREDICTORS`, or one's own table
    if isinstance(predictors, str | Predictor | Mapping) or not isinstance(predictors, Iterable):
        raise InputError(f"predictors must be a list, got {predictors!r}")
    found: dict[str, Predictor] = {}
    for given in predictors:
        if isinstance(given, str) and given not in known:
            raise InputError(f"predictors must be Predictors or among {', '.join(offered or known)}, got {given!r}")
        chosen = known[given] if isinstance(given, str) else given
        if not isinstance(chosen, Predictor):
            raise InputError(f"predictors must be names or Predictors, got {type(given).__name__}")
        if chosen.name in found:
            raise InputError(f"predictors must have names that differ, got {chosen.name!r} twice")
        if chosen.name in taken:
            raise InputError(f"predictors must have names that no other column has, got {chosen.name!r}")
        found[chosen.name] = chosen
    return tuple(found.values())
