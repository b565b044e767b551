"""What a predictor is: a function of a pair to a number, with what it needs, what it claims to predict, and its source."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from w2s_jax._core.checks import InputError, require_choice
from w2s_jax._core.response import apply_response, evaluate
from w2s_jax.filters import Filter
from w2s_jax.moments import Moments
from w2s_jax.overlap import Overlap, overlap_from_moments

Needs = Literal["nothing", "labels"]


class PairView(NamedTuple):
    """A weak/strong pair as predictors see it: moments, with labels if those are needed, their overlap, and the two heads.

    Where a ranking calls, weak features may be followed by columns of zeros and strong ones are in their eigenbasis.

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


@dataclass(frozen=True)
class Predictor:
    """A predictor, called with moments and heads; made by `predictor`.

    `needs`: "nothing" or "labels"; `predicts`: the quantity that it claims to rank or to equal; `source`: who says so.

    >>> from w2s_jax.predictors import PREDICTORS
    >>> PREDICTORS["logme"], PREDICTORS["logme"].source
    (Predictor('logme', needs labels, largest is best), 'You et al. 2021')
    """

    name: str
    function: Callable[[PairView], Array]
    needs: Needs
    predicts: str
    source: str
    larger_is_better: bool

    def __call__(self, moments: Moments, weak: Filter, strong: Filter) -> Float[Array, ""]:
        """The number for a pair of representations and two heads.

        Args:
            moments: of the pair, centred or not as the heads have an intercept or not; with labels if those are needed.
            weak, strong: the heads' filters, of one strength each.

        Raises:
            InputError: moments or filters of another type, a grid of filters, or labels that are needed and not there.

        >>> from w2s_jax import moments, ridge
        >>> from w2s_jax.predictors import PREDICTORS
        >>> m = moments([[1.0], [0.0]], [[1.0, 0.0], [0.0, 1.0]])  # the weak model sees one of two directions
        >>> round(float(PREDICTORS["kept_variance"](m, ridge(0.0), ridge(0.0))), 4)
        0.5
        """
        if not isinstance(moments, Moments):
            raise InputError(f"moments must be Moments, got {type(moments).__name__}")
        for name, head in (("weak", weak), ("strong", strong)):
            if not isinstance(head, Filter):
                raise InputError(f"{name} must be a filter such as ridge(1e-3), got {head!r}")
            if head.shape:
                raise InputError(
                    f"{name} must be a filter of one strength, got a grid of shape {head.shape}: use jax.vmap"
                )
        if self.needs == "labels" and moments.yy is None:
            raise InputError(f"moments must have labels for the predictor {self.name!r}, got some made without y")
        return _predicted(self, moments, weak, strong)

    def of_pair(self, pair: PairView) -> Float[Array, ""]:
        """The number for a pair; raises InputError if the function's result is no single number."""
        value = jnp.asarray(self.function(pair))
        if value.shape:
            raise InputError(f"predictor {self.name!r} must return a number, got an array of shape {value.shape}")
        return value

    def __repr__(self) -> str:
        best = "largest" if self.larger_is_better else "smallest"
        return f"Predictor({self.name!r}, needs {self.needs}, {best} is best)"


@partial(jax.jit, static_argnums=0)
def _predicted(of: Predictor, moments: Moments, weak: Filter, strong: Filter) -> Array:
    return of.of_pair(PairView(moments, overlap_from_moments(moments), weak, strong))


def predictor(
    *, needs: Needs = "nothing", predicts: str, source: str = "", larger_is_better: bool = False
) -> Callable[[Callable[[PairView], Array]], Predictor]:
    """Makes a predictor of a function of a `PairView` to a number (), which may be called under jit, vmap and grad.

    Args:
        needs: "labels" if it uses those of the pair's moments.
        predicts: what it claims to predict.
        source: who published it.
        larger_is_better: whether the teacher with the largest number is the best.

    Raises:
        InputError: other needs.

    >>> @predictor(predicts="how much a teacher knows", larger_is_better=True)
    ... def directions(pair):
    ...     return jnp.sum(pair.f_w)
    >>> directions
    Predictor('directions', needs nothing, largest is best)
    """

    require_choice("needs", needs, Needs)

    def of(function: Callable[[PairView], Array]) -> Predictor:
        return Predictor(function.__name__, function, needs, predicts, source, larger_is_better)

    return of


def one_of_each(
    predictors: Iterable[str | Predictor], known: dict[str, Predictor], taken: Iterable[str]
) -> tuple[Predictor, ...]:
    """Predictors, some by name; raises InputError for an unknown name, two of one name or one that is taken."""
    if isinstance(predictors, str | Predictor) or not isinstance(predictors, Iterable):
        raise InputError(f"predictors must be a list, got {predictors!r}")
    found: dict[str, Predictor] = {}
    for given in predictors:
        if isinstance(given, str) and given not in known:
            raise InputError(f"predictors must be Predictors or among {', '.join(known)}, got {given!r}")
        chosen = known[given] if isinstance(given, str) else given
        if not isinstance(chosen, Predictor):
            raise InputError(f"predictors must be names or Predictors, got {type(given).__name__}")
        if chosen.name in found:
            raise InputError(f"predictors must have names that differ, got {chosen.name!r} twice")
        if chosen.name in taken:
            raise InputError(f"predictors must have names that no other column has, got {chosen.name!r}")
        found[chosen.name] = chosen
    return tuple(found.values())
