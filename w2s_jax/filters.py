"""Spectral filters `0 <= f(lambda) <= 1`: what a head keeps of each principal direction.

A filter is a pytree of numbers or arrays. Every filter cuts first: it is zero outside the principal subspace, the
eigenvalues `>= threshold * lambda_1` among the leading `rank`. Array parameters broadcast against each other, and any
result computed with them has that broadcast shape in front: a grid is one call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax._core.checks import InputError, require_range
from w2s_jax._core.factor import numerically_zero, zeroed
from w2s_jax._core.response import evaluate
from w2s_jax.spectrum import tail_gamma


class Filter:
    """Base of all filters; called with eigenvalues (k,) and the number of rows it returns f, shape + (k,).

    >>> grid = ridge(jnp.array([[0.1], [1.0]]), threshold=jnp.array([0.0, 0.01, 0.1]))
    >>> grid.shape, grid(jnp.array([3.0, 1.0]), n=10).shape
    ((2, 3), (2, 3, 2))
    """

    bounds: ClassVar[dict[str, float | None]] = {}
    threshold: ArrayLike
    rank: ArrayLike | None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, list | tuple):
                object.__setattr__(self, name, np.asarray(value))
        for name, high in {**self.bounds, "threshold": 1.0, "rank": None, "n_fit": None}.items():
            require_range(f"{type(self).__name__}'s {name}", getattr(self, name, None), 0, high)
        self._shape_or_none()

    @property
    def shape(self) -> tuple[int, ...]:
        """Broadcast shape of the parameters: the leading shape of every result."""
        return jnp.broadcast_shapes(*(jnp.shape(p) for p in self._parameters()))

    def __call__(self, values: Float[Array, " k"], n: ArrayLike) -> Float[Array, "*grid k"]:
        values = zeroed(values, values <= numerically_zero(values))
        return evaluate(self, values, jnp.asarray(n, values.dtype))

    def kept(self, values: Float[Array, " k"]) -> Array:
        """Which eigenvalues (k,), descending, those that are rounding 0, lie in the principal subspace: shape + (k,)."""
        threshold = jnp.asarray(self.threshold, values.dtype)[..., None]
        kept = (values >= threshold * values[:1]) & (values > 0)
        if self.rank is not None:
            kept &= jnp.arange(values.shape[0]) < jnp.asarray(self.rank)[..., None]
        return kept

    def curve(self, values: Array, n: Array) -> Callable[[Array], Array]:
        """The filter as a function of one axis of eigenvalues."""
        raise NotImplementedError

    def _parameters(self) -> list[Any]:
        return [parameter for parameter in vars(self).values() if parameter is not None]

    def _shape_or_none(self) -> None:
        # jax.tree_util rebuilds filters from placeholders, which have no shape to check.
        if all(isinstance(p, (int, float, Array)) or hasattr(p, "shape") for p in self._parameters()):
            try:
                _ = self.shape
            except ValueError as error:
                shapes = [jnp.shape(p) for p in self._parameters()]
                raise InputError(f"{type(self).__name__}'s parameters must broadcast, got shapes {shapes}") from error


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ridge(Filter):
    """Ridge head of strength b: `f = lambda / (lambda + b)` on the principal subspace (Xue et al. 2025, scaled kernels).

    `ridge(b)` is the plain form: b is given, whatever it is made of (beta, or `beta + gamma` with a known population
    eigenbasis). Use it for ranking models with one common b, and wherever no tail is cut off (`threshold=0`).
    `ridge.from_head(ridge, n_fit, ...)` is for predicting a gap's size when a tail is cut off: it estimates gamma from
    the eigenvalues beyond the cut, removes it from those within (PCA inflates them by it), and adds to the penalty the gamma of
    the split of `n_fit` rows on which the head was fitted. `ridge` is the penalty of a *mean* squared loss: scikit-learn's
    `alpha` is `n * ridge`.

    Raises:
        InputError: a negative strength, threshold or rank, a threshold above 1, parameters that do not broadcast.

    >>> ridge(1.0)(jnp.array([3.0, 1.0]), n=10).tolist()
    [0.75, 0.5]
    >>> ridge(0.0, threshold=0.5)(jnp.array([3.0, 1.0]), n=10).tolist()
    [1.0, 0.0]
    """

    strength: ArrayLike
    threshold: ArrayLike = 0.0
    rank: ArrayLike | None = field(default=None, kw_only=True)
    n_fit: ArrayLike | None = field(default=None, kw_only=True)
    bounds: ClassVar[dict[str, float | None]] = {"strength": None}

    @classmethod
    def from_head(
        cls, ridge: ArrayLike, n_fit: ArrayLike, threshold: ArrayLike = 0.0, *, rank: ArrayLike | None = None
    ) -> ridge:
        """The filter of a ridge head of that penalty fitted on n_fit rows, its tail's gamma estimated from the spectrum.

        `lambda = mu - gamma`, `f = lambda / (lambda + ridge + gamma n / n_fit)`, where mu are the eigenvalues of the n
        rows at hand and `gamma = (1/n) sum of those beyond the cut`. The weak filter takes the rows of the labelled
        split as n_fit, the strong filter those of the student's split.
        """
        return cls(ridge, threshold, rank=rank, n_fit=n_fit)

    def curve(self, values: Array, n: Array) -> Callable[[Array], Array]:
        b, gamma = _last_axis(self.strength, values), jnp.zeros((1,), values.dtype)
        if self.n_fit is not None:
            gamma = tail_gamma(values, rank=jnp.sum(self.kept(values), -1), n=n)[..., None]
            b = b + gamma * n / _last_axis(self.n_fit, values)

        def f(mu: Array) -> Array:
            shrunk = jnp.maximum(mu - gamma, 0)
            return _divide(jnp.where(shrunk > 0, shrunk, 0), jnp.where(shrunk > 0, shrunk + b, 1))

        return f


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class projection(Filter):
    """Ridgeless head: `f = 1` on the principal subspace (Dong et al. 2025).

    Raises:
        InputError: a negative threshold or rank, a threshold above 1, parameters that do not broadcast.

    >>> projection(rank=1)(jnp.array([3.0, 1.0]), n=10).tolist()
    [1.0, 0.0]
    """

    threshold: ArrayLike = 0.0
    rank: ArrayLike | None = field(default=None, kw_only=True)

    def curve(self, values: Array, n: Array) -> Callable[[Array], Array]:
        return jnp.ones_like


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class gradient_flow(Filter):
    """Early stopping at time t of gradient flow: `f = 1 - exp(-t lambda)` (Medvedev et al. 2025).

    The flow is that of the loss `||h theta - y||^2 / (2n)`; t is learning rate times steps.

    Raises:
        InputError: a negative time, threshold or rank, a threshold above 1, parameters that do not broadcast.

    >>> [f"{x:.2f}" for x in gradient_flow(jnp.log(2))(jnp.array([2.0, 1.0]), n=10)]
    ['0.75', '0.50']
    """

    time: ArrayLike
    threshold: ArrayLike = 0.0
    rank: ArrayLike | None = field(default=None, kw_only=True)
    bounds: ClassVar[dict[str, float | None]] = {"time": None}

    def curve(self, values: Array, n: Array) -> Callable[[Array], Array]:
        time = _last_axis(self.time, values)
        return lambda mu: -jnp.expm1(-time * mu)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class iterated_tikhonov(Filter):
    """Ridge of strength b repeated m times on its own residual: `f = 1 - (b / (lambda + b))^m`.

    Raises:
        InputError: a negative parameter, a threshold above 1, parameters that do not broadcast.

    >>> twice = iterated_tikhonov(1.0, 2)(jnp.array([3.0, 1.0]), n=10)
    >>> [f"{x:.4f}" for x in twice]
    ['0.9375', '0.7500']
    """

    strength: ArrayLike
    iterations: ArrayLike
    threshold: ArrayLike = 0.0
    rank: ArrayLike | None = field(default=None, kw_only=True)
    bounds: ClassVar[dict[str, float | None]] = {"strength": None, "iterations": None}

    def curve(self, values: Array, n: Array) -> Callable[[Array], Array]:
        b, m = _last_axis(self.strength, values), _last_axis(self.iterations, values)
        # -log1p(lambda/b) m: no cancellation where b is much larger than lambda; b = 0 keeps everything.
        safe = jnp.where(b > 0, b, 1)
        return lambda mu: jnp.where(b > 0, -jnp.expm1(-m * jnp.log1p(_divide(mu, safe))), jnp.where(m > 0, 1.0, 0.0))


@jax.custom_jvp
def _divide(x: Array, y: Array) -> Array:
    """x / y whose derivative never squares y, which may be 1e-30 or 1e30."""
    return x / y


@_divide.defjvp
def _divide_jvp(primals: tuple, tangents: tuple) -> tuple:
    (x, y), (dx, dy) = primals, tangents
    quotient = _divide(x, y)
    return quotient, _divide(dx - quotient * dy, jnp.broadcast_to(y, quotient.shape))


def _last_axis(parameter: ArrayLike, values: Array) -> Array:
    return jnp.asarray(parameter, values.dtype)[..., None]
