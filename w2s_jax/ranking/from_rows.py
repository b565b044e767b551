"""Predictors that read rows, in a ranking: the blocks that sums are made of are kept, put in order, and prepared as sums are.

A ranking with such predictors holds the strong model's rows and those of a batch of weak models in memory. Rows are as wide as
the batch is padded to: all predictors of a width are one program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from w2s_jax._core.cpu import outermost
from w2s_jax._core.normalize import Normalize
from w2s_jax.devices.mesh import over_models
from w2s_jax.predictors import Predictor, RowsView
from w2s_jax.ranking.cells import RowBlock, RowCells
from w2s_jax.ranking.crossfit import Score, Settings
from w2s_jax.ranking.prepared import Origin, prepared_rows
from w2s_jax.ranking.scores import heads_of, without_error


class KeptRows(NamedTuple):
    """Blocks of weak rows about their shift, (models, cells, capacity, d_w) each, and the shifts."""

    blocks: list[Array]
    origins: Origin


class RowOrder(NamedTuple):
    """Where each row (n,) stands among the rows of all blocks' cells, which rows (n_labelled,) have labels, and those labels
    (n_labelled, c) or None."""

    place: Any
    labelled: Any
    y: Any


def order_of(rows: RowCells, blocks: Sequence[RowBlock], dtype: Any) -> RowOrder:
    """The order of rows that lie by blocks and cells of one layout."""
    place, start = np.empty(rows.n, np.int32), 0
    for block in blocks:
        own, (capacity,) = place[block.start : block.stop], block.capacity
        for chosen in block.members[0]:
            own[chosen] = start + np.arange(len(own[chosen]))
            start += capacity
    (layout,) = rows.layouts
    labelled = np.nonzero(layout.cell >= layout.folds if layout.cells > layout.folds else layout.cell >= 0)[0]
    y = None if rows.targets is None else rows.targets[labelled].astype(dtype)
    return RowOrder(place, labelled.astype(np.int32), y)


@lru_cache
def rows_scorer(predictors: tuple[Predictor, ...], normalize: Normalize) -> Callable:
    """A program for each width: scores of a batch of models and a strong model's prepared blocks (cells, d_s, capacity); of those
    that need labels on the labelled rows, of the others on all."""

    @outermost
    def score(kept: KeptRows, strong: list[Array], order: RowOrder, settings: Settings) -> dict[str, Score]:
        h_s = _in_order([jnp.swapaxes(block, 1, 2) for block in strong], order)

        def one(model: KeptRows) -> dict[str, Score]:
            h_w = prepared_rows(_in_order(model.blocks, order), model.origins, normalize)
            return {of.name: without_error(of.of_pair(view(of, h_w))) for of in predictors}

        def view(of: Predictor, h_w: Array) -> RowsView:
            seen = h_s if of.reads == "rows" else None
            if of.needs == "nothing":
                return RowsView(h_w, seen, None, *heads_of(settings))
            return RowsView(
                h_w[order.labelled], None if seen is None else seen[order.labelled], order.y, *heads_of(settings)
            )

        return over_models(one, kept)

    return score


def _in_order(blocks: Sequence[Array], order: RowOrder) -> Array:
    """The rows (n, d) of blocks (cells, capacity, d)."""
    return jnp.concatenate([block.reshape(-1, block.shape[-1]) for block in blocks])[order.place]
