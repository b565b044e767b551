"""What a weak representation says of its labels on rows it has not seen: an ensemble of small networks, cross-fitted.

All networks, one for each fold and member, are trained side by side in one program.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax._core.arrays import accumulation_dtype, as_labels, as_matrix
from w2s_jax._core.checks import require_integer, require_number
from w2s_jax._core.row_blocks import by_row
from w2s_jax.heads.scaling import factors_of_rows
from w2s_jax.ranking.folds import dealt


class _Sizes(NamedTuple):
    """What makes another program: members of each fold, width of the network, epochs, rows of a batch, batches of an epoch."""

    members: int
    width: int
    epochs: int
    batch: int
    steps: int


def mlp_predictions(
    weak: Float[ArrayLike, "n d"],
    weak_labels: ArrayLike,
    *,
    folds: int = 5,
    members: int = 3,
    width: int = 256,
    epochs: int = 60,
    batch_rows: int = 256,
    learning_rate: float | Array = 1e-3,
    weight_decay: float | Array = 30.0,
    groups: ArrayLike | Sequence | None = None,
    seed: int = 0,
) -> Array:
    """Predictions of each row's weak label by networks that have not seen it, for `rads_scores(weak_part=)`.

    Networks d-width-width-c with GELU between, squared loss on labels about their mean, features to zero mean and unit variance
    of the fold's training rows, AdamW; the mean of the members, which differ in start and order of rows.

    Args:
        weak: weak representation (n, d).
        weak_labels: (n,) or (n, c).
        folds: each row's networks are trained on the other folds.
        members: networks a fold.
        width, epochs, batch_rows, learning_rate, weight_decay: of a network and its training; the last batch of an epoch has what
            is left.
        groups: group of each row (n,); a group stays in one fold.
        seed: of folds, starts and orders.

    Returns:
        Predictions in the shape and units of weak_labels.

    Raises:
        InputError: shapes that do not fit, NaN or infinite entries, not 2 <= folds <= n, fewer groups than folds.

    >>> h = np.linspace(-1, 1, 40)[:, None]
    >>> said = mlp_predictions(h, np.sign(h[:, 0]), folds=2, members=1, width=16, epochs=20, weight_decay=0.0, learning_rate=0.01)
    >>> bool(np.mean(np.sign(said) == np.sign(h[:, 0])) > 0.8)
    True

    Source: RADS, the first of its two steps; starts are Flax's, not torch's.
    """
    h = as_matrix("weak representations", weak)
    n = h.shape[0]
    y = as_labels("weak labels", weak_labels, n)
    for name, value, least in (("members", members, 1), ("width", width, 1), ("epochs", epochs, 1)):
        require_integer(name, value, least)
    require_integer("batch_rows", batch_rows, 1)
    require_number("learning_rate", learning_rate, 0)
    require_number("weight_decay", weight_decay, 0)
    fold = dealt(n, folds, groups, seed)
    batch = min(batch_rows, n)
    seen = n - int(np.bincount(fold).min())
    sizes = _Sizes(members, width, epochs, batch, -(-seen // batch))
    dtype = accumulation_dtype(h.dtype, y.dtype)
    labels = y.astype(dtype).reshape(n, -1)
    mean = jnp.mean(labels, 0)
    keys = jax.random.split(jax.random.key(seed), (folds, members))
    said = _train(sizes, keys, h.astype(dtype), labels - mean, jnp.asarray(fold), learning_rate, weight_decay)
    return (said + mean).reshape(y.shape)


@partial(jax.jit, static_argnums=0)
def _train(sizes: _Sizes, keys: Array, h: Array, y: Array, fold: Array, learning_rate: Any, weight_decay: Any) -> Array:
    """Out-of-fold predictions (n, c)."""
    optimizer = optax.adamw(learning_rate, weight_decay=weight_decay)

    def of_member(key: Array, seen: Array) -> Array:
        start, orders = jax.random.split(key)
        graph, parameters = nnx.split(_network(start, h.shape[1], sizes.width, y.shape[1], h.dtype))
        weights = seen.astype(h.dtype) / jnp.sum(seen)
        mean = jnp.sum(weights[:, None] * h, 0)
        scale = factors_of_rows(h, "features", weights)
        scale = scale * jnp.sqrt(jnp.sum(scale > 0))  # to unit variance each
        outputs = lambda parameters, rows: nnx.merge(graph, parameters)((rows - mean) * scale)

        def loss(parameters: Any, rows: Array, counted: Array) -> Array:
            squares = jnp.mean(jnp.square(outputs(parameters, h[rows]) - y[rows]), 1)
            return jnp.sum(jnp.where(counted, squares, 0)) / jnp.maximum(jnp.sum(counted), 1)

        def step(carry: tuple, batch: tuple[Array, Array]) -> tuple[tuple, None]:
            parameters, state = carry
            change, next_state = optimizer.update(jax.grad(loss)(parameters, *batch), state, parameters)
            trained = optax.apply_updates(parameters, change), next_state
            # Where folds are of several sizes a batch may have no rows: nothing happens then.
            return jax.tree.map(lambda new, old: jnp.where(jnp.any(batch[1]), new, old), trained, carry), None

        def epoch(carry: tuple, key: Array) -> tuple[tuple, None]:
            return jax.lax.scan(step, carry, _batches(key, seen, sizes))[0], None

        first = parameters, optimizer.init(parameters)
        (trained, _), _ = jax.lax.scan(epoch, first, jax.random.split(orders, sizes.epochs))
        return by_row(lambda row: outputs(trained, row[None])[0], h, 16 * sizes.width)

    def of_fold(keys: Array, k: Array) -> Array:
        return jnp.mean(jax.vmap(of_member, (0, None))(keys, fold != k), 0)

    said = jax.vmap(of_fold)(keys, jnp.arange(len(keys)))
    return jnp.take_along_axis(said, fold[None, :, None], 0)[0]


def _network(key: Array, d: int, width: int, c: int, dtype: Any) -> nnx.Sequential:
    rngs = nnx.Rngs(key)
    linear = partial(nnx.Linear, param_dtype=dtype, precision=jax.lax.Precision.HIGHEST, rngs=rngs)
    return nnx.Sequential(linear(d, width), _gelu, linear(width, width), _gelu, linear(width, c))


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


def _batches(key: Array, seen: Array, sizes: _Sizes) -> tuple[Array, Array]:
    """An epoch's rows (steps, batch) in random order, and which of them are training rows."""
    n = len(seen)
    order = jnp.argsort(jnp.where(seen, jax.random.uniform(key, (n,)), 2))
    place = jnp.arange(sizes.steps * sizes.batch)
    rows = order[jnp.minimum(place, n - 1)]
    counted = (place < n) & seen[rows]
    return rows.reshape(sizes.steps, sizes.batch), counted.reshape(sizes.steps, sizes.batch)
