"""One vector a text out of one a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from w2s_jax._core.checks import InputError, require_choice

Pool = Literal["mean", "last", "cls", "max"]


def pooled(hidden: Float[Array, "b l d"], mask: Bool[Array, "b l"], pool: Pool = "mean") -> Float[Array, "b d"]:
    """Rows (b, d), in float32, from the hidden states of tokens; what the mask leaves out changes nothing.

    Args:
        hidden: states of b texts, padded to l tokens.
        mask: which tokens are real; special tokens are. A text without any gives NaN.
        pool: "mean" or "max" over real tokens, "last" or "cls" for the last or the first of them.

    Raises:
        InputError: another pooling.

    >>> hidden = jnp.array([[[1.0], [3.0], [100.0]]])
    >>> mask = jnp.array([[True, True, False]])
    >>> [float(pooled(hidden, mask, pool)[0, 0]) for pool in ("mean", "last", "cls", "max")]
    [2.0, 3.0, 1.0, 3.0]
    """
    require_choice("pool", pool, Pool)
    real = mask[..., None]
    if pool == "mean":
        total = jnp.sum(jnp.where(real, hidden, 0), axis=1, dtype=jnp.float32)
        return total / mask.sum(axis=1, dtype=jnp.float32)[:, None]
    if pool == "max":
        found = jnp.max(jnp.where(real, hidden, -jnp.inf), axis=1)
    else:
        first = jnp.argmax(mask, axis=1) if pool == "cls" else mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1)
        found = jnp.take_along_axis(hidden, first[:, None, None], axis=1)[:, 0]
    return jnp.where(mask.any(axis=1)[:, None], found.astype(jnp.float32), jnp.nan)


def as_pools(pool: Pool | Sequence[Pool]) -> tuple[Pool, ...]:
    """One pooling or several as several.

    Raises:
        InputError: none, an unknown one, or one twice.

    >>> as_pools("mean"), as_pools(["mean", "max"])
    (('mean',), ('mean', 'max'))
    """
    pools = (pool,) if isinstance(pool, str) else tuple(pool)
    for one in pools:
        require_choice("pool", one, Pool)
    if not pools or len(set(pools)) < len(pools):
        raise InputError(f"pool must be one or several of {', '.join(get_args(Pool))}, each once, got {pools}")
    return pools


def array_name(layer: str, pool: Pool, pools: Sequence[Pool]) -> str:
    """What an array of the output is called.

    >>> array_name("layer4", "max", ["max"]), array_name("layer4", "max", ["mean", "max"])
    ('layer4', 'layer4.max')
    """
    return layer if len(pools) == 1 else f"{layer}.{pool}"
