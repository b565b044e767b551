"""Nearest neighbours in the strong representation: do a row's neighbours share its weak label, and what would they say?"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from w2s_jax._core.arrays import as_labels, as_matrix, matmul
from w2s_jax._core.checks import InputError, require_choice, require_integer, require_range
from w2s_jax._core.normalize import Normalize
from w2s_jax._core.row_blocks import by_row
from w2s_jax.select.cosines import unit_rows

MAX_STEPS = 1000  # of conjugate gradients; a share of 0.99 takes less than a hundred


def nearest(strong: Float[ArrayLike, "n d"], k: int = 10, *, normalize: Normalize = "none") -> Int[Array, "n k"]:
    """The k other rows of largest cosine, the nearest first; of equal ones the earlier row.

    Args:
        strong: strong representation (n, d).
        k: neighbours of each row, fewer than n.
        normalize: rows as they are ("none"), about their mean ("scale"), or also with each feature to unit variance
            ("features").

    Raises:
        InputError: not 2-D, NaN or infinite entries, not 1 <= k < n.

    >>> nearest([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], 1).tolist()
    [[1], [0], [1]]
    """
    strong = as_matrix("strong representations", strong)
    require_integer("k", k, 1)
    require_choice("normalize", normalize, Normalize)
    if k >= strong.shape[0]:
        raise InputError(f"k must be less than the number of rows ({strong.shape[0]}), got {k}")
    return _nearest(strong, int(k), normalize)


@partial(jax.jit, static_argnames=("k", "normalize"))
def _nearest(strong: Array, k: int, normalize: Normalize) -> Array:
    unit = unit_rows(strong, normalize)

    def of_row(given: tuple[Array, Array]) -> Array:
        row, own = given
        return jax.lax.top_k(matmul(unit, row).at[own].set(-jnp.inf), k)[1]

    return by_row(of_row, (unit, jnp.arange(len(unit))), len(unit))


def neighbour_agreement(
    strong: Float[ArrayLike, "n d"], weak_labels: ArrayLike, k: int = 10, *, normalize: Normalize = "none"
) -> Float[Array, " n"]:
    """Share of each row's k nearest neighbours with its weak label, between 0 and 1.

    Args:
        strong, k, normalize: as in `nearest`.
        weak_labels: classes (n,), compared as they are, or outputs (n, c), of which the largest is the class.

    Raises:
        InputError: as `nearest`, and labels that do not fit.

    >>> strong = [[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0]]
    >>> neighbour_agreement(strong, [1, 0, 1, 1], k=2).tolist()
    [0.5, 0.0, 0.5, 0.5]
    """
    rows = nearest(strong, k, normalize=normalize)
    y = as_labels("weak labels", weak_labels, len(rows))
    classes = y.reshape(-1) if y.ndim == 1 or y.shape[1] == 1 else jnp.argmax(y, 1)
    return jnp.mean((classes[rows] == classes[:, None]).astype(jnp.result_type(float)), 1)


def smoothed_labels(
    strong: Float[ArrayLike, "n d"],
    weak_labels: ArrayLike,
    k: int = 10,
    *,
    share: ArrayLike = 0.9,
    normalize: Normalize = "none",
) -> Array:
    """Weak labels smoothed over the graph of neighbours, `(1 - share) (I - share S)^{-1} Y`, by conjugate gradients.

    `S = D^{-1/2} W D^{-1/2}`, `W = (A + A^T) / 2`, A the k nearest neighbours, D the row sums of W: nothing n x n is formed.
    Labels are best about their mean: S keeps `D^{1/2}`, not a constant.

    Args:
        strong, k, normalize: as in `nearest`.
        weak_labels: (n,) or (n, c).
        share: what comes from the neighbours, in [0, 1); 0 leaves labels as they are.

    Returns:
        Labels in the shape and units of weak_labels.

    Raises:
        InputError: as `nearest`, labels that do not fit, a share outside of [0, 1).

    >>> strong = [[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [1.0, 0.3]]
    >>> smoothed_labels(strong, [1.0, -1.0, 1.0, 1.0], k=3, share=0.9)[1] > -0.3  # three neighbours say otherwise
    Array(True, dtype=bool)

    Source: Zhou et al. 2004 (local and global consistency); arXiv:2511.14166 for weak labels, whose form is remembered, not read.
    """
    require_range("share", share, 0, 1)
    if not isinstance(share, Tracer) and float(jnp.max(jnp.asarray(share))) == 1:
        raise InputError("share must be below 1, got 1")
    rows = nearest(strong, k, normalize=normalize)
    return _smoothed(rows, as_labels("weak labels", weak_labels, len(rows)), share)


@jax.jit
def _smoothed(rows: Array, y: Array, share: ArrayLike) -> Array:
    n, k = rows.shape
    y = y.astype(jnp.promote_types(y.dtype, jnp.float32))
    degree = (k + jnp.zeros(n, y.dtype).at[rows].add(1)) / 2
    root = jax.lax.rsqrt(degree).reshape(-1, *(1,) * (y.ndim - 1))

    def spread(x: Array) -> Array:
        x = root * x
        handed = jnp.zeros_like(x).at[rows.reshape(-1)].add(jnp.repeat(x, k, 0))
        return root * (jnp.sum(x[rows], 1) + handed) / 2

    share = jnp.asarray(share, y.dtype)
    tolerance = 8 * float(jnp.finfo(y.dtype).eps)
    solved, _ = jax.scipy.sparse.linalg.cg(lambda x: x - share * spread(x), y, tol=tolerance, maxiter=MAX_STEPS)
    return (1 - share) * solved
