"""What some labels say of all: the posterior of the target, and the experiment that is to be expected under it.

Labels are `y = h_s^T theta + e`, `theta ~ N(0, v R Gamma_p)` with `Gamma_p` the power `S_s^{p-1}`, scaled so that `h_s^T theta`
has mean square v R, and noise of variance `v (1 - R)`: R is the share of the labels that the strong model can express. v is the
most likely one; over p and R one averages, by marginal likelihood: a single best pair goes wrong where labels are few. Every
output has an average of its own, and what is expected is summed over outputs. Without labels v is 1 and all pairs count the same.
The experiment needs nothing of all this but `E[theta theta^T]`, one matrix for all weak models and ridge strengths.

With `Gamma^{1/2} H^T H Gamma^{1/2} = U diag(u) U^T` all R are diagonal: an eigensolve for each p, of features or of labelled
rows, whichever are fewer.

Labels of related rows (paraphrases, several ends of one scenario) stray together: with groups the noise has covariance
`I + c P`, P the projection on the means of groups of more than one row, and c is averaged over as well, from 0 on. Contrast
pairs have opposite labels by design: with a negative c their means, all the same, would be noise that cancels whatever the
strong model says of both, and no signal would be left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax._core.arrays import as_labels, as_matrix, matmul
from w2s_jax._core.checks import InputError, require_number, require_range
from w2s_jax._core.response import Power, apply_response, evaluate
from w2s_jax.moments import ModelMoments, Moments, Shift, model_moments
from w2s_jax.spectrum import Spectrum, spectrum
from w2s_jax.theory.expected import checked_blocks, experiment_errors, in_shares, planned_experiment, planned_rows

PRIORS = (1.0, 1.5, 2.0)
SHARES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.92)
CORRELATIONS = (0.0, 0.5, 1.5)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class LabelPosterior:
    """What is known of the labels of all rows: `second` (d_s, d_s) is `E[theta theta^T]`; `signal`, `noise` () are the energies
    of what the strong model expresses and does not; `shared` () is c times the noise, what groups have in common. Sums
    over outputs, in squared label units, or in units of the labels' mean square where there are none.

    >>> posterior = label_posterior(model_moments([[1.0], [-1.0]]))
    >>> posterior, posterior.second.shape
    (LabelPosterior(d=1, share=0.399), (1, 1))
    """

    second: Float[Array, "d_s d_s"]
    signal: Float[Array, ""]
    noise: Float[Array, ""]
    shared: Float[Array, ""]

    @property
    def share(self) -> Float[Array, ""]:
        """The share of the labels' energy that the strong model is expected to express."""
        return self.signal / (self.signal + self.noise)

    def __repr__(self) -> str:
        if not isinstance(self.signal, Array) or isinstance(self.signal, Tracer) or self.signal.ndim:
            return "LabelPosterior(...)"
        return f"LabelPosterior(d={len(self.second)}, share={float(self.share):.3g})"


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


def label_posterior(
    strong: ModelMoments,
    h: Float[ArrayLike, "m d_s"] | None = None,
    y: ArrayLike | None = None,
    *,
    groups: Any = None,
    priors: Sequence[float] = PRIORS,
    shares: Sequence[float] = SHARES,
    correlations: Sequence[float] = CORRELATIONS,
) -> LabelPosterior:
    """The posterior of the labels of all rows, given those of some.

    Args:
        strong: moments of the strong representation, of all rows. If they are centred the labelled rows are taken about
            their mean, and labels about their own.
        h, y: the labelled rows (m, d_s) of the same representation and their labels (m,) or (m, c); None: no labels.
        groups: (m,) group of each labelled row, numbers or text; None: unrelated rows.
        priors, shares, correlations: the p, R and c that are averaged over.

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
        return label_posterior_from_moments(strong, priors=priors, shares=shares)
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
        )
    grid = grid_of(priors, shares, (0.0,) if groups is None else correlations, strong.hh.dtype)
    return _of_rows(strong, h, y, None if groups is None else Members.of(groups, h.shape[0]), grid)


def label_posterior_from_moments(
    strong: ModelMoments,
    labels: ModelMoments | None = None,
    *,
    groups: GroupMoments | None = None,
    priors: Sequence[float] = PRIORS,
    shares: Sequence[float] = SHARES,
    correlations: Sequence[float] = CORRELATIONS,
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
    grid = grid_of(priors, shares, (0.0,) if groups is None else correlations, strong.hh.dtype)
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
    With the posterior of no labels it is the average of `expected_experiment` over the grid of p and R.

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
        return _in_basis(posterior_of_sums(eigen, own, None, grid), eigen.vectors)
    own = rotated(labels, labels.n, labels.label_mean)
    related = None if groups is None else rotated(groups.moments, groups.count, labels.label_mean)
    return _in_basis(posterior_of_sums(eigen, own, related, grid), eigen.vectors)


@jax.jit
def _of_rows(strong: ModelMoments, h: Array, y: Array, members: Members | None, grid: Grid) -> LabelPosterior:
    eigen = spectrum(strong.hh, strong.n)
    h, y = (x.astype(eigen.values.dtype).reshape(len(x), -1) for x in (h, y))
    if strong.is_centred:
        h, y = h - strong.mean, y - jnp.mean(y, 0)
    return _in_basis(posterior_of_rows(eigen, matmul(h, eigen.vectors), y, members, grid), eigen.vectors)


def _in_basis(posterior: LabelPosterior, vectors: Array) -> LabelPosterior:
    """A posterior in the coordinates of which the columns of `vectors` are the basis it is in."""
    return replace(posterior, second=matmul(matmul(vectors, posterior.second), vectors.T))


class Grid(NamedTuple):
    """Pairs (p, c) of a prior's power and the noise's correlation in groups, each (points,), and shares R (shares,)."""

    prior: Any
    correlation: Any
    share: Any


def grid_of(priors: Any, shares: Any, correlations: Any, dtype: Any) -> Grid:
    """All pairs, and all shares; raises InputError for values out of range."""
    p, R, c = (np.asarray(x, dtype) for x in (priors, shares, correlations))
    for name, values in (("priors", p), ("shares", R), ("correlations", c)):
        if values.ndim != 1 or not values.size:
            raise InputError(f"{name} must be a list of numbers, got shape {values.shape}")
    require_range("priors", p, 0)
    if not (R.min() > 0 and R.max() < 1):
        raise InputError(f"shares must lie between 0 and 1, got {R.min():g} to {R.max():g}")
    if not c.min() > -1:
        raise InputError(f"correlations must be above -1, got {c.min():g}")
    p, c = np.meshgrid(p, c, indexing="ij")
    return Grid(p.reshape(-1), c.reshape(-1), R)


class LabelSums(NamedTuple):
    """What labelled rows, or the means of their groups, add up to: their number n, hh (d, d), hy (d, c), yy (c,)."""

    n: Any
    hh: Array
    hy: Array
    yy: Array


def posterior_of_sums(eigen: Spectrum, own: LabelSums, related: LabelSums | None, grid: Grid) -> LabelPosterior:
    """The posterior in the eigenbasis of the strong moment, from what labelled rows and their groups add up to in that basis."""

    def fit(prior: Array, inner: Array) -> _LabelFit:
        hh, hy, yy = own[1:]
        if related is not None:
            # (I + c P)^{-1} = I - c / (1 + c) P
            hh, hy, yy = (x - inner * of_groups for x, of_groups in zip(own[1:], related[1:], strict=True))
        root = _root_of(eigen, prior)
        of = spectrum(root(root(hh).T), 1)
        return _LabelFit(of, matmul(of.vectors.T, root(hy)), yy, None)

    return _averaged(eigen, fit, own.n, 0 if related is None else related.n, grid)


def posterior_of_rows(eigen: Spectrum, h: Array, y: Array, members: Members | None, grid: Grid) -> LabelPosterior:
    """The same from labelled rows h (m, d) in that basis and their labels y (m, c), by the products of rows."""
    means = None if members is None else (members.means(h), members.means(y))

    def fit(prior: Array, inner: Array) -> _LabelFit:
        rows, labels = h, y
        if members is not None and means is not None:
            # (I + c P)^{-1/2}; of rows without relatives P is 0.
            step = jnp.where(members.related, jnp.sqrt(1 - inner) - 1, 0)[:, None]
            rows, labels = (x + step * mean for x, mean in zip((h, y), means, strict=True))
        rows = _root_of(eigen, prior)(rows.T).T
        of = spectrum(matmul(rows, rows.T), 1)
        return _LabelFit(of, matmul(of.vectors.T, labels), None, rows)

    return _averaged(eigen, fit, len(h), 0 if members is None else members.groups, grid)


class _LabelFit(NamedTuple):
    """Labelled rows under one prior and noise. Features, in units of the prior: eigenpairs of `H^T H`, `H^T y` in that basis
    (d, c) and `y^T y` (c,). Or rows: eigenpairs of `H H^T`, y in that basis (m, c), and H (m, d)."""

    eigen: Spectrum
    labels: Array
    energy: Array | None
    rows: Array | None

    def gain(self, odds: Array) -> Array:
        """The mean of theta (shares, k, c), of rows as their combination; `odds` is R / (1 - R)."""
        return apply_response(_Ratio(odds, odds), self.eigen, self.labels)

    def misfit(self, odds: Array) -> Array:
        """`y^T (I + odds H H^T)^{-1} y` (shares, c)."""
        if self.energy is None:
            return jnp.sum(self.labels * apply_response(_Ratio(jnp.ones_like(odds), odds), self.eigen, self.labels), 1)
        left = self.energy - jnp.sum(self.labels * self.gain(odds), 1)
        return jnp.maximum(left, jnp.finfo(left.dtype).eps * self.energy)

    def second(self, weight: Array, spread: Array, odds: Array) -> Array:
        """`E[theta theta^T]` (d, d) in units of the prior: outputs' means by their weights (shares, c), and covariances
        by `spread` (shares,)."""
        gain, k = self.gain(odds), len(self.labels)
        columns = jnp.swapaxes(gain, 0, 1).reshape(k, -1)
        means = matmul(columns * weight.reshape(-1), columns.T)
        basis, eye = self.eigen.vectors, jnp.eye(k, dtype=gain.dtype)
        if self.rows is None:
            inside = means + apply_response(_Mixture(spread, odds), self.eigen, eye)
            return matmul(matmul(basis, inside), basis.T)
        seen = matmul(basis.T, self.rows)
        inside = means - apply_response(_Mixture(spread * odds, odds), self.eigen, eye)
        return matmul(matmul(seen.T, inside), seen) + jnp.sum(spread) * jnp.eye(seen.shape[1], dtype=seen.dtype)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Ratio:
    """`top / (1 + odds lambda)`."""

    top: Array
    odds: Array

    def kept(self, values: Array) -> Array:
        return jnp.ones_like(values, bool)

    def curve(self, values: Array, n: Array) -> Callable[[Array], Array]:
        return lambda mu: self.top[:, None] / (1 + self.odds[:, None] * mu)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Mixture(_Ratio):
    """The sum of such ratios."""

    def curve(self, values: Array, n: Array) -> Callable[[Array], Array]:
        return lambda mu: jnp.sum(self.top[:, None] / (1 + self.odds[:, None] * mu), 0)


def _root_of(eigen: Spectrum, prior: Array) -> Callable[[Array], Array]:
    """`x -> Gamma^{1/2} x` in the eigenbasis of the strong moment."""
    side, power = in_shares(eigen), Power((prior - 1) / 2)
    size = jnp.sqrt(jnp.sum(evaluate(Power(prior - 1), side.values, side.n) * eigen.values))
    return lambda x: apply_response(power, side, x) / size


def _averaged(eigen: Spectrum, fit: Callable[..., _LabelFit], n: Any, groups: Any, grid: Grid) -> LabelPosterior:
    """The average over the grid, per output by marginal likelihood, summed over outputs."""
    prior, correlation, share = (jnp.asarray(x, eigen.values.dtype) for x in grid)
    odds, n = share / (1 - share), jnp.asarray(n, share.dtype)
    fits = jax.lax.map(lambda point: fit(*point), (prior, correlation / (1 + correlation)))

    def likelihood(point: tuple[_LabelFit, Array]) -> tuple[Array, Array]:
        of, c = point
        left = of.misfit(odds)
        volume = jnp.sum(jnp.log1p(odds[:, None] * of.eigen.values), 1) + groups * jnp.log1p(c)
        tiny = jnp.finfo(left.dtype).tiny
        return left, -(n * jnp.log(jnp.maximum(left, tiny)) + volume[:, None]) / 2

    left, logs = jax.lax.map(likelihood, (fits, correlation))  # (points, shares, c)
    weight = jax.nn.softmax(logs, (0, 1))
    energy = weight * jnp.where(n > 0, left / (jnp.maximum(n, 1) * (1 - share[:, None])), 1)

    def add(total: Array, point: tuple) -> tuple[Array, None]:
        of, p, w, spread = point
        root = _root_of(eigen, p)
        return total + root(root(of.second(w, spread, odds)).T), None

    signal = jnp.sum(energy, 2) * share
    noise = jnp.sum(energy, 2) * (1 - share)
    d = len(eigen.values)
    second, _ = jax.lax.scan(add, jnp.zeros((d, d), share.dtype), (fits, prior, weight, signal))
    return LabelPosterior(second, jnp.sum(signal), jnp.sum(noise), jnp.sum(noise * correlation[:, None]))
