"""The experiment with ridge heads from second moments alone: no second pass over the rows, however many."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from w2s_jax._core.checks import InputError, require_choice, require_number
from w2s_jax._core.normalize import Normalize
from w2s_jax._core.ridge_solve import ridge_solver
from w2s_jax.experiment.outcome import WeakToStrong, beyond_rounding
from w2s_jax.experiment.single import summed
from w2s_jax.filters import ridge
from w2s_jax.gap import prediction_gap
from w2s_jax.heads.from_moments import mean_square, ridge_heads
from w2s_jax.heads.scaling import factors_of_moments, times
from w2s_jax.moments import Moments
from w2s_jax.overlap import overlap_from_moments
from w2s_jax.theory.equivalent_errors import equivalent_errors_from_moments, fresh_error_from_moments


def weak_to_strong_from_moments(
    labelled: Moments,
    student: Moments,
    test: Moments,
    weak_ridge: ArrayLike = 1e-3,
    strong_ridge: ArrayLike = 1e-3,
    *,
    normalize: Normalize = "features",
) -> WeakToStrong:
    """The experiment with ridge heads from second moments alone: no second pass over the rows, however many.

    Args:
        labelled, student, test: moments with labels of the three splits; centred for heads with an intercept.
        weak_ridge, strong_ridge: penalties of the mean squared loss.
        normalize: as in `weak_to_strong`.

    Raises:
        InputError: moments without labels, of different widths, or not all centred or not; a negative penalty.

    Errors are sums of moments that cancel: in float32 they are known to about 1e-6 of the labels' mean square.

    >>> from w2s_jax import moments
    >>> z = jax.random.normal(jax.random.key(0), (90, 4))
    >>> a, b, c = (moments(rows[:, :2], rows, rows.sum(1)) for rows in (z[:30], z[30:60], z[60:]))
    >>> found = weak_to_strong_from_moments(a, b, c)
    >>> bool(found.ceiling_error < found.student_error)
    True

    Source: Xue et al. 2025, the three predictors, through their sufficient moments.
    """
    splits = labelled, student, test
    if len({jax.tree.structure(m) for m in splits}) > 1 or labelled.wy is None:
        raise InputError("moments of the three splits must all have labels, and all be centred or none")
    for m in (student, test):
        if jax.tree.map(jnp.shape, m) != jax.tree.map(jnp.shape, labelled):
            raise InputError(f"moments of the three splits must have the same widths, got {labelled} and {m}")
    for name, value in (("weak_ridge", weak_ridge), ("strong_ridge", strong_ridge)):
        require_number(name, value, 0)
    require_choice("normalize", normalize, Normalize)
    return _experiment_from_moments(*splits, weak_ridge, strong_ridge, normalize)


@partial(jax.jit, static_argnames="normalize")
def _experiment_from_moments(
    labelled: Moments,
    student: Moments,
    test: Moments,
    weak_ridge: ArrayLike,
    strong_ridge: ArrayLike,
    normalize: Normalize,
) -> WeakToStrong:
    if normalize != "none":
        factors = factors_of_moments(labelled.weak, normalize), factors_of_moments(student.strong, normalize)
        labelled, student, test = (times(m, *factors) for m in (labelled, student, test))
    weak_ridge, strong_ridge = (jnp.asarray(ridge, test.ww.dtype) for ridge in (weak_ridge, strong_ridge))
    solvers = ridge_solver(labelled.ww, weak_ridge), ridge_solver(student.ss, strong_ridge)
    heads = ridge_heads(labelled.weak, student, *solvers)
    from_teacher = partial(mean_square, strong=heads.student, weak=jax.tree.map(jnp.negative, heads.weak))
    size = jnp.sum(jnp.asarray(test.yy) + (jnp.square(jnp.asarray(test.strong.label_mean)) if test.is_centred else 0))
    error = lambda **heads: beyond_rounding(mean_square(test, **heads, y=-1.0), size)
    return WeakToStrong(
        weak_error=error(weak=heads.weak),
        student_error=error(strong=heads.student),
        ceiling_error=error(strong=heads.ceiling),
        gap=mean_square(test, strong=heads.gap),
        misfit=from_teacher(test),
        misfit_in_sample=from_teacher(student),
        weak_ridge=weak_ridge,
        strong_ridge=strong_ridge,
        predicted=summed(
            fresh_error_from_moments(labelled.weak, weak_ridge),
            equivalent_errors_from_moments(student, heads.weak, strong_ridge),
        ),
        theorem_gap=jnp.sum(prediction_gap(overlap_from_moments(student), ridge(weak_ridge), ridge(strong_ridge))),
    )
