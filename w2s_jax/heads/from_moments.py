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
from w2s_jax.moments import ModelMoments, Moments, Shift, Sums

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


def ridge_heads(labelled: ModelMoments, student: Moments, solve_weak: Solve, solve_strong: Solve) -> Heads:
    """Heads `S_w^{-1} c_w` of D~, `S_s^{-1} S_sw theta_w` and `S_s^{-1} c_s` of D^, each `S^{-1}` (ridge included) a solve;
    `labelled` are the weak model's moments."""
    weak = probe_from_moments(labelled, solve_weak)
    taught = probe_from_moments(relabelled(student, weak), solve_strong)
    return Heads(weak, taught, probe_from_moments(student.strong, solve_strong))


def relabelled(m: Moments, weak: LinearProbe) -> ModelMoments:
    """The strong side's moments with the weak head's outputs for labels."""
    kernel, bias = parts(weak)
    taught = matmul(m.weak.sums.hh, kernel)
    labels = {
        "y": matmul(m.weak.sums.h, kernel),
        "hy": matmul(m.cross, kernel),
        "yy": jnp.sum(kernel * taught, 0),
    }
    sums: Sums = m.strong.sums._replace(**labels)
    if m.weak.shift is None or m.strong.shift is None or bias is None:
        return ModelMoments(sums)
    return ModelMoments(sums, Shift(m.strong.shift.h, matmul(m.weak.shift.h, kernel) + bias))


def mean_square(
    m: Moments, *, weak: LinearProbe | None = None, strong: LinearProbe | None = None, y: float = 0.0
) -> Array:
    """Mean square of `weak(h_w) + strong(h_s) + y * label`, summed over outputs."""
    energy, mean = y * y * jnp.asarray(m.yy), y * jnp.asarray(m.strong.label_mean)
    heads = [(side, *parts(probe)) for side, probe in ((m.weak, weak), (m.strong, strong)) if probe is not None]
    for side, kernel, bias in heads:
        energy = energy + jnp.sum(kernel * (matmul(side.hh, kernel) + 2 * y * jnp.asarray(side.hy)), 0)
        mean = mean + matmul(side.mean, kernel) + (0 if bias is None else bias)
    if len(heads) == 2:
        energy = energy + 2 * jnp.sum(heads[1][1] * matmul(m.sw, heads[0][1]), 0)
    return jnp.sum(jnp.maximum(energy, 0) + (mean * mean if m.is_centred else 0))


def parts(probe: LinearProbe) -> tuple[Array, Any]:
    """Kernel, and bias or None."""
    return jnp.asarray(probe.kernel[...]), None if probe.bias is None else jnp.asarray(probe.bias[...])
