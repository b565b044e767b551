"""The experiment with ridge heads on second moments: weak head, student and ceiling, and how far any of them is off.

Heads come from the moments of D~ and D^ and are measured on those of the test split; no rows are seen. Whoever calls says
how a ridge system is solved: once, or with what many experiments share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from w2s_jax._core.arrays import matmul
from w2s_jax.heads.ridge import LinearProbe, probe_from_moments
from w2s_jax.moments import Columns, Moments, Products, Sums

Solve = Callable[[Array], Array]


class Heads(NamedTuple):
    """The three heads of an experiment."""

    weak: LinearProbe
    student: LinearProbe
    ceiling: LinearProbe

    @property
    def gap(self) -> LinearProbe:
        """Student minus ceiling."""
        return jax.tree.map(jnp.subtract, self.student, self.ceiling)


def ridge_heads(labelled: Moments, student: Moments, solve_weak: Solve, solve_strong: Solve) -> Heads:
    """Heads `S_w^{-1} c_w` of D~, `S_s^{-1} S_sw theta_w` and `S_s^{-1} c_s` of D^, each `S^{-1}` (ridge included) a solve."""
    weak = probe_from_moments(labelled, "weak", solve_weak)
    taught = probe_from_moments(relabelled(student, weak), "strong", solve_strong)
    return Heads(weak, taught, probe_from_moments(student, "strong", solve_strong))


def relabelled(m: Moments, weak: LinearProbe) -> Moments:
    """The moments of the same rows with the weak head's outputs for labels."""
    (n, first, second), (kernel, bias) = m.sums, parts(weak)
    wy, sy = matmul(second.ww, kernel), matmul(second.sw, kernel)
    products = Products(second.ww, second.ss, second.sw, wy, sy, jnp.sum(kernel * wy, 0))
    sums = Sums(n, Columns(first.w, first.s, matmul(first.w, kernel)), products)
    if m.shift is None or bias is None:
        return Moments(sums)
    return Moments(sums, Columns(m.shift.w, m.shift.s, matmul(m.shift.w, kernel) + bias))


def mean_square(
    m: Moments, *, weak: LinearProbe | None = None, strong: LinearProbe | None = None, y: float = 0.0
) -> Array:
    """Mean square of `weak(h_w) + strong(h_s) + y * label`, summed over outputs."""
    energy, mean = y * y * jnp.asarray(m.yy), y * m.mean.y
    heads = {side: parts(probe) for side, probe in (("w", weak), ("s", strong)) if probe is not None}
    for side, (kernel, bias) in heads.items():
        same, labels = (m.ww, m.wy) if side == "w" else (m.ss, m.sy)
        energy = energy + jnp.sum(kernel * (matmul(same, kernel) + 2 * y * jnp.asarray(labels)), 0)
        mean = mean + matmul(getattr(m.mean, side), kernel) + (0 if bias is None else bias)
    if len(heads) == 2:
        energy = energy + 2 * jnp.sum(heads["s"][0] * matmul(m.sw, heads["w"][0]), 0)
    return jnp.sum(jnp.maximum(energy, 0) + (0 if m.shift is None else mean * mean))


def parts(probe: LinearProbe) -> tuple[Array, Any]:
    """Kernel, and bias or None."""
    return probe.kernel[...], None if probe.bias is None else probe.bias[...]
