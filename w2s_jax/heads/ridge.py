"""Linear heads on frozen representations, in closed form: ridge, its whole path, and the choice of the penalty.

A head minimises `1/n sum ||theta^T h_i + bias - y_i||^2 + ridge ||theta||^2`; the bias carries no penalty, outputs add up.
Every fit is a pure function of arrays: `vmap` over labels, penalties, weights or representations fits an ensemble in one
program. trained.py fits the same heads by gradients, for any loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax._core.arrays import accumulation_dtype, as_labels, as_matrix, as_weights, label_products, matmul
from w2s_jax._core.checks import InputError, require_choice, require_integer, require_number, require_range
from w2s_jax._core.normalize import Normalize
from w2s_jax._core.response import OnNonzero, apply_response
from w2s_jax._core.ridge_solve import ridge_solver
from w2s_jax.heads.scaling import factors_of_rows
from w2s_jax.moments import ModelMoments
from w2s_jax.spectrum import spectrum


class LinearProbe(nnx.Module):
    """A linear head `h -> h kernel + bias`: kernel (d,) or (d, c), bias None, () or (c,).

    >>> probe = LinearProbe(jnp.array([2.0, 0.0]), jnp.array(1.0))
    >>> probe([[1.0, 5.0], [3.0, 5.0]]).tolist()
    [3.0, 7.0]
    """

    def __init__(self, kernel: ArrayLike, bias: ArrayLike | None = None) -> None:
        self.kernel = nnx.Param(kernel)
        self.bias = None if bias is None else nnx.Param(bias)

    def __call__(self, h: Float[ArrayLike, "n d"]) -> Array:
        """Outputs (n,) or (n, c) for rows h (n, d), in label units (logits for a classification loss)."""
        h = as_matrix("representations", h)
        kernel = self.kernel[...]
        if h.shape[1] != kernel.shape[0]:
            raise InputError(f"representations must have {kernel.shape[0]} features, got shape {h.shape}")
        outputs = matmul(h.astype(accumulation_dtype(h.dtype, kernel.dtype)), kernel)
        return outputs if self.bias is None else outputs + self.bias[...]


class WeightedRows(NamedTuple):
    """Representation (n, d), labels (n,) or (n, c), weights (n,) that sum to 1."""

    h: Array
    y: Array
    weights: Array


def ridge_probe(
    h: Float[ArrayLike, "n d"],
    y: ArrayLike,
    ridge: ArrayLike,
    *,
    bias: bool = True,
    normalize: Normalize = "none",
    weights: Float[ArrayLike, " n"] | None = None,
) -> LinearProbe:
    """The ridge head `argmin 1/n sum ||theta^T h_i + bias - y_i||^2 + ridge ||theta||^2` in closed form.

    Solved by Cholesky on the smaller of the d x d and the n x n side; a numerically singular system has the solution of
    minimum norm, from an eigensolve that runs only then. Differentiable in all arrays.

    Args:
        h: representation (n, d).
        y: labels (n,) or (n, c); the kernel is (d,) or (d, c).
        ridge: penalty; scikit-learn's `alpha` is `n * ridge`.
        bias: with an intercept, not penalised.
        normalize: the penalty is that of a head on features of one scale, each to unit variance and all to unit mean squared row
            norm ("features") or by one number ("scale"), as these rows and weights say. The probe takes rows as they are.
        weights: weight of each row (n,) in the mean; 0 leaves a row out (padding, folds), default all 1.

    Raises:
        InputError: shapes that do not fit, NaN or infinite entries, a negative penalty.

    >>> probe = ridge_probe([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0], ridge=0.0)
    >>> round(float(probe([[10.0]])[0]), 3)
    21.0

    Source: Xue et al. 2025, heads of the setting.
    """
    require_number("ridge", ridge, 0)
    require_choice("normalize", normalize, Normalize)
    return _ridge(*checked_rows(h, y, weights), ridge, bias, normalize)


def ridge_probe_from_moments(m: ModelMoments, ridge: ArrayLike) -> LinearProbe:
    """The ridge head of a model's second moments: `(S + ridge)^{-1} h^T y / n`, with a bias iff they are centred.

    Args:
        m: moments with labels, of one model: `model_moments(h, y)`, or the `weak` or `strong` side of a pair's.
        ridge: penalty of the mean squared loss.

    Raises:
        InputError: a pair's moments, no labels in the moments, a negative penalty.

    >>> from w2s_jax import model_moments
    >>> probe = ridge_probe_from_moments(model_moments([[1.0], [3.0]], [2.0, 6.0]), ridge=5.0)
    >>> round(float(probe.kernel[0]), 3), probe.bias
    (1.0, None)

    Source: Xue et al. 2025, heads of the setting, through their sufficient moments.
    """
    if not isinstance(m, ModelMoments):
        raise InputError(f"m must be ModelMoments, such as the weak or strong side of a pair's, got {type(m).__name__}")
    require_number("ridge", ridge, 0)
    if m.hy is None:
        raise InputError("moments must have labels, got moments made without y")
    return probe_from_moments(m, ridge_solver(m.hh, ridge))


def ridge_probe_path(
    h: Float[ArrayLike, "n d"],
    y: ArrayLike,
    ridges: Float[ArrayLike, " b"],
    *,
    bias: bool = True,
    normalize: Normalize = "none",
    weights: Float[ArrayLike, " n"] | None = None,
) -> LinearProbe:
    """Ridge heads for many penalties (b,) from one eigendecomposition: a `LinearProbe` with a leading axis b.

    `jax.vmap(lambda probe: probe(h))(probes)` applies them. Eigenvalues that are numerically zero are left out, so
    that a penalty of 0 gives the solution of minimum norm. Arguments and errors as in `ridge_probe`.

    >>> probes = ridge_probe_path([[1.0], [3.0]], [2.0, 6.0], [0.0, 5.0], bias=False)
    >>> [f"{x:.2f}" for x in probes.kernel[:, 0]]
    ['2.00', '1.00']

    Source: Xue et al. 2025, heads of the setting, `theta = V (lambda + ridge)^{-1} V^T h^T y / n`.
    """
    require_choice("normalize", normalize, Normalize)
    return _path(*checked_rows(h, y, weights), _checked_penalties(ridges), bias, normalize)


class RidgeChoice(NamedTuple):
    """Chosen penalty (), and the cross-validated mean squared error of each candidate (b,), in label units squared.

    >>> choice = cross_validate_ridge([[1.0], [2.0], [3.0]], [1.0, 2.0, 3.0], [0.0, 1.0], folds=3)
    >>> float(choice.ridge), choice.errors.shape
    (0.0, (2,))
    """

    ridge: Array
    errors: Array


def cross_validate_ridge(
    h: Float[ArrayLike, "n d"],
    y: ArrayLike,
    ridges: Float[ArrayLike, " b"],
    *,
    folds: int = 5,
    bias: bool = True,
    normalize: Normalize = "none",
    weights: Float[ArrayLike, " n"] | None = None,
    seed: ArrayLike = 0,
) -> RidgeChoice:
    """The penalty of least K-fold cross-validated squared error, from one eigendecomposition per fold.

    Only the given labels are used: a student's penalty is chosen with its weak labels. Outputs add up.

    Args:
        h, y, normalize, weights: as in `ridge_probe`; the scale of features is that of the folds that a head is fitted on.
        ridges: candidate penalties (b,); the first one wins a tie.
        folds: number of folds, of equal size up to one row, in random order.
        seed: number that fixes the folds.

    Raises:
        InputError: as in `ridge_probe`, or not 2 <= folds <= n.

    >>> h = jnp.arange(6.0)[:, None]
    >>> choice = cross_validate_ridge(h, 2 * h[:, 0], [1.0, 0.1, 0.001], folds=3)
    >>> round(float(choice.ridge), 4), int(choice.errors.argmin())
    (0.001, 2)
    """
    data = checked_rows(h, y, weights)
    require_integer("folds", folds, 2)
    if not 2 <= folds <= data[0].shape[0]:
        raise InputError(f"folds must be between 2 and the number of rows ({data[0].shape[0]}), got {folds}")
    require_choice("normalize", normalize, Normalize)
    return _cross_validate(*data, _checked_penalties(ridges), seed, folds, bias, normalize)


@partial(jax.jit, static_argnames=("bias", "normalize"))
def _ridge(
    h: Array, y: Array, weights: Array | None, ridge: ArrayLike, bias: bool, normalize: Normalize
) -> LinearProbe:
    rows, factors = on_one_scale(h, y, weights, normalize)
    h, y, mean = _weighted(rows, bias)
    ridge = jnp.asarray(ridge, h.dtype)
    # A second solve, for what the rows say is left, takes back the rounding of the matrix.
    if h.shape[1] <= h.shape[0]:
        solve = ridge_solver(matmul(h.T, h), ridge)
        kernel = solve(label_products(h, y))
        kernel = kernel + solve(label_products(h, y - matmul(h, kernel)) - ridge * kernel)
        return probe_through(kernel, mean, factors)
    solve = ridge_solver(matmul(h, h.T), ridge)
    dual = solve(y)
    dual = dual + solve(y - matmul(h, matmul(h.T, dual)) - ridge * dual)
    return probe_through(matmul(h.T, dual), mean, factors)


@partial(jax.jit, static_argnames=("bias", "normalize"))
def _path(h: Array, y: Array, weights: Array | None, ridges: Array, bias: bool, normalize: Normalize) -> LinearProbe:
    rows, factors = on_one_scale(h, y, weights, normalize)
    h, y, mean = _weighted(rows, bias)
    primal = h.shape[1] <= h.shape[0]
    side = spectrum(matmul(h.T, h) if primal else matmul(h, h.T), h.shape[0])
    target = label_products(h, y) if primal else y
    columns = matmul(side.vectors.T, target.reshape(target.shape[0], -1))
    solutions = apply_response(_Resolvent(ridges.astype(h.dtype)), side, columns)
    kernels = matmul(side.vectors if primal else matmul(h.T, side.vectors), solutions)
    return jax.vmap(lambda kernel: probe_through(kernel, mean, factors))(kernels.reshape(-1, h.shape[1], *y.shape[1:]))


@partial(jax.jit, static_argnames=("folds", "bias", "normalize"))
def _cross_validate(
    h: Array,
    y: Array,
    weights: Array | None,
    ridges: Array,
    seed: ArrayLike,
    folds: int,
    bias: bool,
    normalize: Normalize,
) -> RidgeChoice:
    rows = as_rows(h, y, weights)
    fold = jax.random.permutation(jax.random.key(seed), h.shape[0]) % folds

    def squares(k: Array) -> Array:
        """The fold's share (b,) of each candidate's mean squared error."""
        probes = _path(h, rows.y, jnp.where(fold == k, 0, rows.weights), ridges, bias, normalize)
        errors = jax.vmap(lambda probe: jnp.square(probe(rows.h) - rows.y).reshape(h.shape[0], -1).sum(1))(probes)
        return matmul(errors, jnp.where(fold == k, rows.weights, 0))

    errors = jnp.sum(jax.lax.map(squares, jnp.arange(folds)), 0)
    return RidgeChoice(ridges[jnp.argmin(errors)], errors)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Resolvent(OnNonzero):
    """`1 / (lambda + b)` on eigenvalues that are not numerically zero; leading axes of b lead the result."""

    strength: Array

    def curve(self, values: Array, n: Array) -> Callable[[Array], Array]:
        return lambda mu: 1 / (jnp.where(mu > 0, mu, 1) + self.strength[..., None])


def weigh(weights: Array, x: Array) -> Array:
    """Rows of x (n,) or (n, c) times their weights."""
    return weights.reshape(-1, *(1,) * (x.ndim - 1)) * x


def checked_rows(h: ArrayLike, y: ArrayLike, weights: ArrayLike | None) -> tuple[Array, Array, Array | None]:
    h = as_matrix("representations", h)
    y = as_labels("labels", y, h.shape[0])
    if weights is not None:
        weights = as_weights(weights, h.shape[0])
        if not isinstance(weights, Tracer) and not weights.any():
            raise InputError("weights must not be zero in every row")
    return h, y, weights


def _checked_penalties(ridges: ArrayLike) -> Array:
    require_range("ridges", ridges, 0)
    ridges = jnp.asarray(ridges)
    ridges = ridges.astype(jnp.result_type(ridges, float))
    if ridges.ndim != 1 or 0 in ridges.shape:
        raise InputError(f"ridges must have shape (b,), got {ridges.shape}")
    return ridges


def as_rows(h: Array, y: Array, weights: Array | None) -> WeightedRows:
    """Rows in the dtype that they are summed in, weights summing to 1."""
    dtype = accumulation_dtype(*(x.dtype for x in (h, y, weights) if x is not None))
    weights = jnp.ones(h.shape[0], dtype) if weights is None else weights.astype(dtype)
    return WeightedRows(h.astype(dtype), y.astype(dtype), weights / jnp.sum(weights))


def on_one_scale(h: Array, y: Array, weights: Array | None, normalize: Normalize) -> tuple[WeightedRows, Array | None]:
    """Rows for a head, and what their features have been multiplied by (d,), if by anything."""
    rows = as_rows(h, y, weights)
    if normalize == "none":
        return rows, None
    factors = factors_of_rows(h, normalize, rows.weights)
    return rows._replace(h=rows.h * factors), factors


def _weighted(rows: WeightedRows, bias: bool) -> tuple[Array, Array, tuple[Array, Array] | None]:
    """Rows and labels, with a bias about their means, times the roots of the weights; and the means."""
    h, y, weights = rows
    mean = (matmul(weights, h), matmul(weights, y)) if bias else None
    if mean is not None:
        h, y = h - mean[0], y - mean[1]
    # A weight of 0 has no root to differentiate.
    root = jnp.where(weights > 0, jnp.sqrt(jnp.where(weights > 0, weights, 1)), 0)
    return weigh(root, h), weigh(root, y), mean


def probe_from_moments(m: ModelMoments, solve: Callable[[Array], Array]) -> LinearProbe:
    """The head of a model's moments for a given solve of its ridge system, with a bias iff they are centred."""
    kernel = solve(jnp.asarray(m.hy))
    return probe_through(kernel, None if m.shift is None else (m.mean, jnp.asarray(m.label_mean)))


def probe_through(kernel: Array, through: tuple[Array, Array] | None, factors: Array | None = None) -> LinearProbe:
    """The probe of this kernel whose outputs pass through a point (rows, outputs), or without bias; of features that have been
    multiplied by `factors` (d,), for rows as they were."""
    bias = None if through is None else through[1] - matmul(through[0], kernel)
    return LinearProbe(kernel if factors is None else weigh(factors, kernel), bias)
