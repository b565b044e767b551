"""Closed forms and limits: the variance that a student inherits from label noise, and the least error it can reach."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from w2s_jax._core.checks import InputError, require_range


class VarianceErrors(NamedTuple):
    """Errors, in units of the label noise's variance, of the teacher, its student, the strong model on the teacher's rows and
    their labels, and on true labels of all rows; shapes as the arguments' broadcast.

    >>> found = variance_errors(20, 5, 2.75, 60, 100)
    >>> f"{found.pgr:.2f}, {found.opr:.2f}"  # beats its teacher, not the strong model on few true labels
    '0.87, 0.98'
    """

    weak: Array
    student: Array
    strong: Array
    ceiling: Array

    @property
    def pgr(self) -> Array:
        """Performance gap recovered, `(Err_w - Err_w2s) / (Err_w - Err_c)`."""
        return (self.weak - self.student) / (self.weak - self.ceiling)

    @property
    def opr(self) -> Array:
        """Outperforming ratio `Err_s / Err_w2s`: above 1 where weak labels of many rows beat true labels of few."""
        return self.strong / self.student


def variance_errors(
    d_w: ArrayLike, d_s: ArrayLike, shared: ArrayLike, n_labelled: ArrayLike, n_student: ArrayLike
) -> VarianceErrors:
    """Errors of ridgeless heads on Gaussian features of low dimension, of which the labels are a noisy linear function of both.

    Args:
        d_w, d_s: dimensions of the weak and strong features.
        shared: their correlation dimension, between 0 and the smaller.
        n_labelled, n_student: rows with labels, and rows with the teacher's labels.

    Raises:
        InputError: numbers out of range, or no more rows than features and one.

    >>> found = variance_errors(20, 5, 5, 60, 100)
    >>> round(float(found.student), 3), round(float(found.weak), 3)
    (0.149, 0.513)

    Source: Dong et al. 2025, with the factors of finite Gaussian samples, `1 / (n - d - 1)` for their `1 / n`.
    """
    for name, value, low in (("d_w", d_w, 1), ("d_s", d_s, 1), ("shared", shared, 0)):
        require_range(name, value, low)
    d_w, d_s, shared, n, N = (jnp.asarray(x, float) for x in (d_w, d_s, shared, n_labelled, n_student))
    for name, rows, d in (("n_labelled", n, jnp.maximum(d_w, d_s)), ("n_student", N, d_s)):
        if _known(rows <= d + 1):
            raise InputError(f"{name} must be above the number of features and one, got {rows}")
    if _known(shared > jnp.minimum(d_w, d_s)):
        raise InputError(f"shared must be at most the smaller dimension, got {shared}")
    noise = 1 / (n - d_w - 1)
    student = noise * (shared + d_s / (N - d_s - 1) * (d_w - shared))
    return VarianceErrors(d_w * noise, student, d_s / (n - d_s - 1), d_s / (n + N - d_s - 1))


def _known(faults: Array) -> bool:
    """Whether there is a fault; of tracers nothing is known."""
    return not isinstance(faults, Tracer) and bool(jnp.any(faults))


def student_floor(weak_error: ArrayLike) -> Array:
    """The least error of a student that filters its teacher's labels, `(1 - sqrt(1 - Err_w))^2 >= Err_w^2 / 4`.

    Args:
        weak_error: the teacher's error, any shape, in units of the labels' mean square: between 0 and 1.

    Raises:
        InputError: an error out of range.

    >>> [f"{x:.2f}" for x in student_floor([0.0, 0.36, 1.0])]
    ['0.00', '0.04', '1.00']

    Source: Medvedev et al. 2025: a teacher trained on the population, a student that is any filter `0 <= T <= 1` of its labels.
    """
    require_range("weak_error", weak_error, 0, 1)
    return jnp.square(1 - jnp.sqrt(1 - jnp.asarray(weak_error, float)))
