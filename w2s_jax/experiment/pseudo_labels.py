"""Pseudo-labels of rows from weak heads that have not seen them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax._core.arrays import as_labels, as_matrix
from w2s_jax._core.checks import require_number
from w2s_jax.experiment.single import fit_head, predictions
from w2s_jax.heads.losses import Loss, LossName, as_loss
from w2s_jax.ranking.folds import dealt


def cross_fit_pseudo_labels(
    h_w: Float[ArrayLike, "n d_w"],
    y: ArrayLike,
    weak_ridge: ArrayLike = 1e-3,
    *,
    loss: LossName | Loss = "squared",
    folds: int = 5,
    groups: ArrayLike | Sequence | None = None,
    bias: bool = True,
    seed: int = 0,
) -> Array:
    """Pseudo-labels of every row from a weak head that has not seen it: K heads, each fitted without one fold.

    Args:
        h_w: weak representation (n, d_w).
        y: labels (n,) or (n, c).
        weak_ridge, loss, bias: of the heads, as in `weak_to_strong`.
        folds: number of folds K.
        groups: group of each row (n,); a group stays in one fold.
        seed: of the folds.

    Returns:
        Outputs in the shape of y; probabilities for a classification loss.

    Raises:
        InputError: shapes that do not fit, NaN or infinite entries, not 2 <= folds <= n, fewer groups than folds.

    >>> h = jnp.arange(6.0).reshape(6, 1)
    >>> [f"{x:.2f}" for x in cross_fit_pseudo_labels(h, 2 * h[:, 0], weak_ridge=0.0, folds=3)]
    ['0.00', '2.00', '4.00', '6.00', '8.00', '10.00']
    """
    h_w = as_matrix("weak representations", h_w)
    y = as_labels("labels", y, len(h_w))
    require_number("weak_ridge", weak_ridge, 0)
    chosen = as_loss(loss)
    chosen.check(y)
    fold = dealt(len(h_w), folds, groups, seed)
    return _cross_fit(h_w, y, jnp.asarray(fold), weak_ridge, chosen, folds, bias)


@partial(jax.jit, static_argnames=("folds", "bias"))
def _cross_fit(h: Array, y: Array, fold: Array, ridge: ArrayLike, loss: Loss, folds: int, bias: bool) -> Array:
    def outputs(k: Array) -> Array:
        probe, _ = fit_head(h, y, ridge, loss, bias, weights=(fold != k).astype(h.dtype))
        return predictions(loss, probe(h))

    return jnp.take_along_axis(
        jax.lax.map(outputs, jnp.arange(folds)), fold.reshape(1, -1, *(1,) * (y.ndim - 1)), axis=0
    )[0]
