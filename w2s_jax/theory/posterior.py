"""What some labels say of all: the posterior of the target, and the experiment that is to be expected under it.

Labels are `y = h_s^T theta + e`, `theta ~ N(0, v R Gamma_p)` with `Gamma_p` the power `S_s^{p-1}`, scaled so that `h_s^T theta`
has mean square v R, and noise of variance `v (1 - R)`: R is the share of the labels that the strong model can express. v is the
most likely one; over p and R one averages, by marginal likelihood: a single best pair goes wrong where labels are few. Every
output has an average of its own, and what is expected is summed over outputs. Without labels v is 1 and all pairs count the same.
The experiment needs nothing of all this but `E[theta theta^T]`, one matrix for all weak models and ridge strengths.

What labels have beyond the strong model is no white noise, and students do not differ by their response to that: with R near 0 it
alone would order them. So R counts from a least share on, whatever the likelihood; the level of the errors hardly depends on it,
since v is fitted.

Labels of related rows (paraphrases, several ends of one scenario) stray together: with groups the noise has covariance
`I + c P`, P the projection on the means of groups of more than one row, and c is averaged over as well, from 0 on. Contrast
pairs have opposite labels by design: with a negative c their means, all the same, would be noise that cancels whatever the
strong model says of both, and no signal would be left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax._core.arrays import as_labels, as_matrix, matmul
from w2s_jax._core.checks import InputError, require_number
from w2s_jax.moments import ModelMoments, Moments, Shift, model_moments
from w2s_jax.spectrum import spectrum
from w2s_jax.theory.expected import checked_blocks, experiment_errors, planned_experiment, planned_rows
from w2s_jax.theory.groups import GroupMoments, Members, group_moments
from w2s_jax.theory.label_fits import (
    CORRELATIONS,
    LEAST_SHARE,
    PRIORS,
    SHARES,
    Grid,
    LabelPosterior,
    LabelSums,
    average_of_rows,
    average_of_sums,
    grid_of,
)


def label_posterior(
    strong: ModelMoments,
    h: Float[ArrayLike, "m d_s"] | None = None,
    y: ArrayLike | None = None,
    *,
    groups: Any = None,
    priors: Sequence[float] = PRIORS,
    shares: Sequence[float] = SHARES,
    correlations: Sequence[float] = CORRELATIONS,
    least_share: float = LEAST_SHARE,
) -> LabelPosterior:
    """The posterior of the labels of all rows, given those of some.

    Args:
        strong: moments of the strong representation, of all rows. If they are centred the labelled rows are taken about
            their mean, and labels about their own.
        h, y: the labelled rows (m, d_s) of the same representation and their labels (m,) or (m, c); None: no labels.
        groups: (m,) group of each labelled row, numbers or text; None: unrelated rows.
        priors, shares, correlations: the p, R and c that are averaged over.
        least_share: between 0 and 1; smaller R count for `share` alone, unless all are; 0 is the plain posterior.

    Raises:
        InputError: shapes that do not fit, NaN or infinite entries, values out of range.

    >>> h = jax.random.normal(jax.random.key(0), (200, 3))
    >>> posterior = label_posterior(model_moments(h), h[:50], h[:50, 0])
    >>> bool(posterior.share > 0.8), bool(posterior.second[0, 0] > 10 * posterior.second[1, 1])
    (True, True)

    Source: derived for this package; `posterior_experiment` is what it is for.
    """
    if h is None or y is None:
        if h is not None or y is not None or groups is not None:
            raise InputError("h and y must both be given, and groups only with them, got one without the other")
        return label_posterior_from_moments(strong, priors=priors, shares=shares, least_share=least_share)
    h = as_matrix("labelled rows", h)
    y = as_labels("labels", y, h.shape[0])
    _check(strong, h.shape[1])
    bias = strong.is_centred
    if h.shape[0] >= h.shape[1]:
        between = None if groups is None else group_moments(h, y, groups=groups, bias=bias)
        return label_posterior_from_moments(
            strong,
            model_moments(h, y, bias=bias),
            groups=between,
            priors=priors,
            shares=shares,
            correlations=correlations,
            least_share=least_share,
        )
    grid = grid_of(priors, shares, (0.0,) if groups is None else correlations, strong.hh.dtype, least_share)
    return _of_rows(strong, h, y, None if groups is None else Members.of(groups, h.shape[0]), grid)


def label_posterior_from_moments(
    strong: ModelMoments,
    labels: ModelMoments | None = None,
    *,
    groups: GroupMoments | None = None,
    priors: Sequence[float] = PRIORS,
    shares: Sequence[float] = SHARES,
    correlations: Sequence[float] = CORRELATIONS,
    least_share: float = LEAST_SHARE,
) -> LabelPosterior:
    """`label_posterior` from the moments of the labelled rows, with their labels: any number of them costs the same.

    `groups`: `group_moments` of the labelled rows, with their labels.

    >>> h = jax.random.normal(jax.random.key(0), (200, 3))
    >>> label_posterior_from_moments(model_moments(h), model_moments(h[:50], h[:50, 0])).second.shape
    (3, 3)
    """
    _check(strong)
    for name, given in (("labels", labels), ("groups", groups and groups.moments)):
        if given is not None and (given.sums.y is None or given.is_centred != strong.is_centred):
            raise InputError(f"{name} must have labels, and be centred as the moments of all rows are, got {given}")
        if given is not None:
            _check(given, strong.hh.shape[0])
    if groups is not None and labels is None:
        raise InputError("groups say how labelled rows are related and need labels, got None")
    grid = grid_of(priors, shares, (0.0,) if groups is None else correlations, strong.hh.dtype, least_share)
    return _of_moments(strong, labels, groups, grid)


def posterior_experiment(
    labelled: Moments,
    student: Moments,
    test: Moments,
    weak_ridge: ArrayLike,
    strong_ridge: ArrayLike,
    posterior: LabelPosterior,
    *,
    groups: GroupMoments | None = None,
    n_labelled: ArrayLike | None = None,
    n_student: ArrayLike | None = None,
) -> tuple[Float[Array, "*grid"], Float[Array, "*grid"]]:
    """Expected student error and gap given some labels, cross-fitted on three disjoint sets of rows.

    Args:
        labelled, student, test: moments of the rows that fit the weak head, train the student and test it. None of them needs
            labels.
        weak_ridge, strong_ridge: penalties of the mean squared loss.
        posterior: of the labels, from `label_posterior`; one for all weak models.
        groups: `group_moments` of the weak rows of `labelled`, if labels of related rows stray together.
        n_labelled, n_student: planned numbers of rows, as in `expected_experiment`; groups then do not count.

    Raises:
        InputError: widths that differ, moments of which some are centred, a negative ridge, less than one row.

    With `Q = (S_s^B + beta_s)^{-1} S_sw^B (S_w^A + beta_w)^{-1} S_ws^A` the error is `tr M E[theta theta^T]`,
    `M = (I - Q)^T S_s^C (I - Q)`, plus the response to label noise, in the posterior's units. It is against the part of the
    labels that the strong model expresses: on real labels it is larger by `posterior.noise`, for all weak models the same.
    With the posterior of no labels it is the average of `expected_experiment` over the grid of p and R, from the least share on.

    >>> from w2s_jax import moments
    >>> h = jax.random.normal(jax.random.key(0), (120, 4))
    >>> posterior = label_posterior(model_moments(h), h[:30], h[:30, 3])
    >>> blind, seeing = (
    ...     posterior_experiment(*(moments(h[i::3, w], h[i::3]) for i in range(3)), 1e-3, 1e-3, posterior)[0]
    ...     for w in (slice(0, 3), slice(1, 4))
    ... )
    >>> bool(seeing < blind / 4)  # of the label, which is the last feature
    True

    Source: derived for this package, as the expected experiment.
    """
    for name, value in (("weak_ridge", weak_ridge), ("strong_ridge", strong_ridge)):
        require_number(name, value, 0)
    blocks = checked_blocks(labelled, student, test)
    if not isinstance(posterior, LabelPosterior):
        raise InputError(f"posterior must be a LabelPosterior, got {type(posterior).__name__}")
    if posterior.second.shape != labelled.ss.shape:
        raise InputError(
            f"posterior must be of {labelled.ss.shape[0]} strong features, got {posterior.second.shape[0]}"
        )
    planned, shared = planned_rows(blocks, n_labelled, n_student), None
    if groups is not None:
        if groups.moments.hh.shape != labelled.ww.shape:
            raise InputError(
                f"groups must be of {labelled.ww.shape[0]} weak features, got {groups.moments.hh.shape[0]}"
            )
        of_groups = groups.moments
        about = of_groups.about(Shift(labelled.weak.mean, of_groups.label_mean) if labelled.is_centred else None)
        shared = posterior.shared * about.hh / labelled.n
    return _experiment(blocks, weak_ridge, strong_ridge, posterior, shared, planned)


@jax.jit
def _experiment(
    blocks: tuple,
    weak_ridge: Array,
    strong_ridge: Array,
    posterior: LabelPosterior,
    shared: Array | None,
    planned: tuple[Array, Array] | None,
) -> tuple[Array, Array]:
    if planned is not None:
        return planned_experiment(blocks, weak_ridge, strong_ridge, posterior.second, posterior.noise, planned)
    noise = posterior.noise * blocks[0].ww
    noise = noise if shared is None else noise + shared
    return experiment_errors(blocks, weak_ridge, strong_ridge, posterior.second, noise)


def _check(m: ModelMoments, width: int | None = None) -> None:
    if not isinstance(m, ModelMoments):
        raise InputError(f"strong and labels must be ModelMoments, got {type(m).__name__}")
    if width is not None and m.hh.shape[0] != width:
        raise InputError(f"all strong moments and rows must have the same width, got {m.hh.shape[0]} and {width}")


@jax.jit
def _of_moments(
    strong: ModelMoments, labels: ModelMoments | None, groups: GroupMoments | None, grid: Grid
) -> LabelPosterior:
    eigen = spectrum(strong.hh, strong.n)

    def rotated(m: ModelMoments, n: Array, label_mean: Any) -> LabelSums:
        sums = m.about(Shift(strong.mean, label_mean) if strong.is_centred else None)
        hh = matmul(matmul(eigen.vectors.T, sums.hh), eigen.vectors)
        hy = matmul(eigen.vectors.T, sums.hy.reshape(len(hh), -1))
        return LabelSums(n, hh, hy, sums.yy.reshape(-1))

    d, dtype = len(eigen.values), eigen.values.dtype
    if labels is None:
        own = LabelSums(0, *(jnp.zeros(shape, dtype) for shape in ((d, d), (d, 1), (1,))))
        return _in_basis(average_of_sums(eigen, own, None, grid).posterior(), eigen.vectors)
    own = rotated(labels, labels.n, labels.label_mean)
    related = None if groups is None else rotated(groups.moments, groups.count, labels.label_mean)
    return _in_basis(average_of_sums(eigen, own, related, grid).posterior(), eigen.vectors)


@jax.jit
def _of_rows(strong: ModelMoments, h: Array, y: Array, members: Members | None, grid: Grid) -> LabelPosterior:
    eigen = spectrum(strong.hh, strong.n)
    h, y = (x.astype(eigen.values.dtype).reshape(len(x), -1) for x in (h, y))
    if strong.is_centred:
        h, y = h - strong.mean, y - jnp.mean(y, 0)
    return _in_basis(average_of_rows(eigen, matmul(h, eigen.vectors), y, members, grid).posterior(), eigen.vectors)


def _in_basis(posterior: LabelPosterior, vectors: Array) -> LabelPosterior:
    """A posterior in the coordinates of which the columns of `vectors` are the basis it is in."""
    return replace(posterior, second=matmul(matmul(vectors, posterior.second), vectors.T))
