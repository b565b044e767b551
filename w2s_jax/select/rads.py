"""RADS: how much of what the weak side does not explain of its own labels does the strong side express, row by row.

A row counts where the weak labels hold something that the weak representation alone would not have said and the strong one can
learn. It is the entry of `P_s (I - P_w) y` of the main theorem (`example_scores`), with weak labels in the place of true ones
and ridge heads without a cut: two fits, no eigenpairs.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax._core.arrays import as_labels, as_matrix, matmul, require_same_rows
from w2s_jax._core.checks import InputError, require_choice, require_number
from w2s_jax._core.normalize import Normalize
from w2s_jax.heads.ridge import ridge_probe
from w2s_jax.overlap import centered


def rads_scores(
    weak: Float[ArrayLike, "n d_w"] | None,
    strong: Float[ArrayLike, "n d_s"],
    weak_labels: ArrayLike,
    *,
    ridge: ArrayLike = 0.1,
    normalize: Normalize = "none",
    weak_part: ArrayLike | None = None,
) -> Float[Array, " n"]:
    """Scores of weakly labelled rows, `|P_s (I - P_w) y|` (RADS-Lin); the upper half is the useful one.

    Representations and labels are taken about their means, `P = K (K + ridge tr(K) / n)^{-1}`, `K = h h^T / n`. Solved on the
    smaller of the d x d and the n x n side.

    Args:
        weak: weak representation (n, d_w); None if `weak_part` is given.
        strong: strong representation (n, d_s).
        weak_labels: (n,) or (n, c), hard in the source; of several outputs the score is the norm over them.
        ridge: of both sides, in units of the mean eigenvalue of the n x n kernel.
        normalize: "none" and "scale" are the source's formula, which no common factor changes; "features" puts each feature to
            unit variance first.
        weak_part: what takes the place of `P_w y`: predictions, in label units, of a weak side that has not seen the row, such as
            `mlp_predictions` (RADS) or `experiment.cross_fit_pseudo_labels(weak, weak_labels)`.

    Returns:
        Scores (n,) in label units, at least 0.

    Raises:
        InputError: shapes that do not fit, NaN or infinite entries, a negative ridge, both or neither of weak and weak_part.

    >>> weak, strong = [[1.0], [-1.0], [0.0], [0.0]], [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
    >>> rads_scores(weak, strong, [1.0, -1.0, 1.0, -1.0], ridge=0.0).round(4).tolist()  # the weak side says the first two alone
    [0.0, 0.0, 1.0, 1.0]

    Source: RADS-Lin; Xue et al. 2025, main theorem, before the norm is taken.
    """
    strong = as_matrix("strong representations", strong)
    y = as_labels("weak labels", weak_labels, strong.shape[0])
    if (weak is None) == (weak_part is None):
        raise InputError(
            f"rads_scores needs one of weak and weak_part, got {'neither' if weak is None else 'both of them'}"
        )
    require_number("ridge", ridge, 0)
    require_choice("normalize", normalize, Normalize)
    if weak is not None:
        weak = as_matrix("weak representations", weak)
        require_same_rows(weak, strong)
    if weak_part is not None:
        weak_part = as_labels("weak_part", weak_part, strong.shape[0])
        if weak_part.shape != y.shape:
            raise InputError(f"weak_part must have the shape {y.shape} of the weak labels, got {weak_part.shape}")
    return _rads(weak, strong, y, weak_part, ridge, "scale" if normalize == "none" else normalize)


@partial(jax.jit, static_argnames="normalize")
def _rads(
    weak: Array | None, strong: Array, y: Array, weak_part: Array | None, ridge: ArrayLike, normalize: Normalize
) -> Array:
    y = centered(y)
    left = y - (_projected(weak, y, ridge, normalize) if weak is not None else jnp.asarray(weak_part))
    kept = _projected(strong, left, ridge, normalize)
    return jnp.abs(kept) if kept.ndim == 1 else _norms(kept)


def _projected(h: Array, y: Array, ridge: ArrayLike, normalize: Normalize) -> Array:
    """`P y`: rows of one scale have `tr(K) = 1`."""
    head = ridge_probe(h, y, jnp.asarray(ridge) / h.shape[0], normalize=normalize)
    return matmul(centered(h), head.kernel[...])


def _norms(x: Array) -> Array:
    """Norms of rows, whose derivative at 0 is 0."""
    squares = jnp.sum(jnp.square(x), 1)
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
