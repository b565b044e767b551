"""Groups of related rows (paraphrases, several ends of one scenario) as the noise of labels sees them: the means of groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax._core.arrays import as_labels, as_matrix
from w2s_jax._core.checks import InputError
from w2s_jax.moments import ModelMoments, model_moments


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GroupMoments:
    """Moments of the means of groups of more than one row, each as often as it has rows, and how many groups they are.

    >>> group_moments([[1.0], [3.0], [5.0]], groups=["a", "a", "b"]).moments.hh.tolist()
    [[4.0]]
    """

    moments: ModelMoments
    count: Array


def group_moments(
    h: Float[ArrayLike, "n d"], y: ArrayLike | None = None, *, groups: Any, bias: bool = False
) -> GroupMoments:
    """What groups of related rows add to the moments of the same rows, for `posterior_experiment`.

    Args:
        h, y: representation (n, d), and labels (n,) or (n, c) or None.
        groups: (n,) group of each row, numbers or text.
        bias: as in `model_moments`.

    Raises:
        InputError: shapes that do not fit.

    >>> group_moments([[1.0], [3.0], [5.0]], groups=["a", "a", "b"]).count
    Array(1., dtype=float32)
    """
    h = as_matrix("representations", h)
    y = None if y is None else as_labels("labels", y, h.shape[0])
    members = Members.of(groups, h.shape[0])
    labels = None if y is None else members.means(y)
    m = model_moments(members.means(h), labels, weights=members.related.astype(float), bias=bias)
    return GroupMoments(m, jnp.asarray(members.groups, m.n.dtype))


class Members(NamedTuple):
    """The group (n,) of each row by number, each group's size, which rows have relatives, and how many groups they are in."""

    group: np.ndarray
    sizes: np.ndarray
    related: np.ndarray
    groups: int

    @classmethod
    def of(cls, groups: Any, n: int) -> Members:
        """Raises InputError unless there is a group for every row."""
        groups = np.asarray(groups)
        if groups.shape != (n,):
            raise InputError(f"groups must have shape ({n},), one entry per row, got {groups.shape}")
        _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        return cls(group, sizes, sizes[group] > 1, int(np.sum(sizes > 1)))

    def means(self, x: Array) -> Array:
        """Of every row the mean over its group."""
        total = jax.ops.segment_sum(x, self.group, len(self.sizes))
        return (total / jnp.asarray(self.sizes, x.dtype).reshape(-1, *(1,) * (x.ndim - 1)))[self.group]
