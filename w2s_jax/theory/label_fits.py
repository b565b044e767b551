"""The posterior of labels in the eigenbasis of the strong moment: all pairs of prior and noise fitted at once, and averaged.

With `Gamma^{1/2} H^T H Gamma^{1/2} = U diag(u) U^T` all R are diagonal: an eigensolve for each p, of features or of labelled
rows, whichever are fewer. Which quantities these are says posterior.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Float

from w2s_jax._core.arrays import matmul
from w2s_jax._core.checks import InputError, require_number, require_range
from w2s_jax._core.response import Power, apply_response, evaluate
from w2s_jax.spectrum import Spectrum, spectrum
from w2s_jax.theory.expected import in_shares
from w2s_jax.theory.groups import Members

PRIORS = (1.0, 1.5, 2.0)
SHARES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.92)
CORRELATIONS = (0.0, 0.5, 1.5)
LEAST_SHARE = 0.35


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class LabelPosterior:
    """What is known of the labels of all rows: `second` (d_s, d_s) is `E[theta theta^T]`; `signal`, `noise` () are the energies
    of what the strong model expresses and does not; `shared` () is c times the noise, what groups have in common. Sums
    over outputs, in squared label units, or in units of the labels' mean square where there are none. `share` () is the share
    of the labels' energy that the strong model is expected to express, over all R, the least ones too.

    >>> from w2s_jax import model_moments
    >>> from w2s_jax.theory import label_posterior
    >>> posterior = label_posterior(model_moments([[1.0], [-1.0]]))
    >>> posterior, posterior.second.shape
    (LabelPosterior(d=1, share=0.399), (1, 1))
    """

    second: Float[Array, "d_s d_s"]
    signal: Float[Array, ""]
    noise: Float[Array, ""]
    shared: Float[Array, ""]
    share: Float[Array, ""]

    def __repr__(self) -> str:
        if not isinstance(self.share, Array) or isinstance(self.share, Tracer) or self.share.ndim:
            return "LabelPosterior(...)"
        return f"LabelPosterior(d={len(self.second)}, share={float(self.share):.3g})"


class Grid(NamedTuple):
    """Pairs (p, c) of a prior's power and the noise's correlation in groups, each (points,), shares R (shares,), and the least
    share () that labels are expected to have."""

    prior: Any
    correlation: Any
    share: Any
    least: Any

    @property
    def odds(self) -> Any:
        """Signal to noise."""
        return self.share / (1 - self.share)


def grid_of(priors: Any, shares: Any, correlations: Any, dtype: Any, least_share: float = LEAST_SHARE) -> Grid:
    """All pairs, and all shares, of which the largest is never too small; raises InputError for values out of range."""
    p, R, c = (np.asarray(x, dtype) for x in (priors, shares, correlations))
    for name, values in (("priors", p), ("shares", R), ("correlations", c)):
        if values.ndim != 1 or not values.size:
            raise InputError(f"{name} must be a list of numbers, got shape {values.shape}")
    require_range("priors", p, 0)
    if not (R.min() > 0 and R.max() < 1):
        raise InputError(f"shares must lie between 0 and 1, got {R.min():g} to {R.max():g}")
    if not c.min() > -1:
        raise InputError(f"correlations must be above -1, got {c.min():g}")
    require_number("least_share", least_share, 0, 1)
    p, c = np.meshgrid(p, c, indexing="ij")
    return Grid(p.reshape(-1), c.reshape(-1), R, np.minimum(R.max(), np.asarray(least_share, dtype)))


class LabelSums(NamedTuple):
    """What labelled rows, or the means of their groups, add up to: their number n, hh (d, d), hy (d, c), yy (c,)."""

    n: Any
    hh: Array
    hy: Array
    yy: Array


def average_of_sums(eigen: Spectrum, own: LabelSums, related: LabelSums | None, grid: Grid) -> LabelAverage:
    """The average in the eigenbasis of the strong moment, from what labelled rows and their groups add up to in that basis."""

    def fit(prior: Array, inner: Array) -> _LabelFit:
        hh, hy, yy = own[1:]
        if related is not None:
            # (I + c P)^{-1} = I - c / (1 + c) P
            hh, hy, yy = (x - inner * of_groups for x, of_groups in zip(own[1:], related[1:], strict=True))
        root = _root_of(eigen, prior)
        of = spectrum(root(root(hh).T), 1)
        return _LabelFit(of, matmul(of.vectors.T, root(hy)), yy, None)

    return _averaged(eigen, fit, own.n, 0 if related is None else related.n, grid, own.hy)


def average_of_rows(eigen: Spectrum, h: Array, y: Array, members: Members | None, grid: Grid) -> LabelAverage:
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

    return _averaged(eigen, fit, len(h), 0 if members is None else members.groups, grid, matmul(h.T, y))


class LabelDraws(NamedTuple):
    """Labels drawn from a posterior: theta (d_s, draws, outputs), and (draws,) the energies of the noise and of what of it
    groups have in common, summed over outputs."""

    theta: Array
    noise: Array
    shared: Array


class Chance(NamedTuple):
    """What labels are drawn with, made outside of the programs, which compile a third faster without their own: uniform numbers
    that choose the grid's points (draws, outputs), factors of the energies (draws, 1), and standard normal numbers for theta and
    for the noise, (d_s, draws, outputs) each."""

    choice: Any
    energy: Any
    theta: Any
    noise: Any

    @classmethod
    def of(cls, d: int, outputs: int, spread: float, dtype: Any, count: int | None = None) -> Chance:
        """The same ones every time, and of fewer features the first ones; energies stray from the most likely by the relative
        standard error `spread`. Where draws have many outputs there are fewer of them, unless a number is given."""
        shape = count or max(16, min(64, 512 // outputs)), outputs
        for_choice, *others = np.random.default_rng(0).spawn(4)
        shapes = (shape[0], 1), (d, *shape), (d, *shape)
        energy, theta, noise = (
            rng.standard_normal(shape, np.float32).astype(dtype) for rng, shape in zip(others, shapes, strict=True)
        )
        return cls(for_choice.random(shape).astype(dtype), np.exp(spread * energy).astype(dtype), theta, noise)


class LabelAverage(NamedTuple):
    """Fits over the pairs (p, c) of a grid; weights (points, shares, outputs) that sum to 1 for each output, and the most likely
    energies v of labels; the share () of these that is expected over all R. `signs` (d,): of the labels' products with features,
    whatever an eigenvector's own sign."""

    eigen: Spectrum
    grid: Grid
    fits: _LabelFit
    weight: Array
    energy: Array
    share: Array
    signs: Array

    def posterior(self) -> LabelPosterior:
        """What is expected of labels, summed over outputs."""
        prior, correlation, share, _ = self.grid
        energy = jnp.sum(self.weight * self.energy, 2)
        signal, noise = energy * share, energy * (1 - share)

        def add(total: Array, point: tuple) -> tuple[Array, None]:
            of, p, w, spread = point
            root = _root_of(self.eigen, p)
            return total + root(root(of.second(w, spread, self.grid.odds)).T), None

        d = len(self.eigen.values)
        second, _ = jax.lax.scan(add, jnp.zeros((d, d), share.dtype), (self.fits, prior, self.weight, signal))
        shared = jnp.sum(noise * correlation[:, None])
        return LabelPosterior(second, jnp.sum(signal), jnp.sum(noise), shared, self.share)

    def draws(self, chance: Chance) -> LabelDraws:
        """Labels drawn from the average, whose fits are of features."""
        points, shares, outputs = self.weight.shape
        prior, correlation, share, _ = self.grid
        chance = jax.tree.map(jnp.asarray, chance)
        up_to = jnp.cumsum(self.weight.reshape(-1, 1, outputs), 0)
        chosen = jnp.minimum(jnp.sum(up_to <= chance.choice * up_to[-1], 0), points * shares - 1)
        point, R = chosen // shares, share[chosen % shares]
        v = jnp.take_along_axis(self.energy.reshape(-1, outputs), chosen, 0) * chance.energy
        start = chance.theta * self.signs[:, None, None]

        def add(total: Array, of_point: tuple) -> tuple[Array, None]:
            i, of, p = of_point
            drawn = _root_of(self.eigen, p)(of.drawn(R, v, start, chance.noise).reshape(len(start), -1)).reshape(
                start.shape
            )
            return total + jnp.where(point == i, drawn, 0), None

        theta, _ = jax.lax.scan(add, jnp.zeros_like(start), (jnp.arange(points), self.fits, prior))
        noise = v * (1 - R)
        return LabelDraws(theta, jnp.sum(noise, 1), jnp.sum(noise * correlation[point], 1))


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
            inside = means + apply_response(_RatioSum(spread, odds), self.eigen, eye)
            return matmul(matmul(basis, inside), basis.T)
        seen = matmul(basis.T, self.rows)
        inside = means - apply_response(_RatioSum(spread * odds, odds), self.eigen, eye)
        return matmul(matmul(seen.T, inside), seen) + jnp.sum(spread) * jnp.eye(seen.shape[1], dtype=seen.dtype)

    def drawn(self, R: Array, v: Array, start: Array, noise: Array) -> Array:
        """Features' theta (d, draws, outputs) in units of the prior, for R and v (draws, outputs), from standard normal numbers:
        drawn from the prior, with labels of its own, and moved by what the labels differ from those."""
        u, turned = self.eigen.values[:, None, None], lambda x: x.reshape(len(x), -1)
        before = jnp.sqrt(v * R) * matmul(self.eigen.vectors.T, turned(start)).reshape(start.shape)
        strayed = jnp.sqrt(u * v * (1 - R)) * noise * _signs(self.labels)[:, None, None]
        after = before + (self.labels[:, None] - u * before - strayed) * R / (1 - R + R * u)
        return matmul(self.eigen.vectors, turned(after)).reshape(start.shape)


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
class _RatioSum(_Ratio):
    """The sum of such ratios."""

    def curve(self, values: Array, n: Array) -> Callable[[Array], Array]:
        return lambda mu: jnp.sum(self.top[:, None] / (1 + self.odds[:, None] * mu), 0)


def _root_of(eigen: Spectrum, prior: Array) -> Callable[[Array], Array]:
    """`x -> Gamma^{1/2} x` in the eigenbasis of the strong moment."""
    side, power = in_shares(eigen), Power((prior - 1) / 2)
    size = jnp.sqrt(jnp.sum(evaluate(Power(prior - 1), side.values, side.n) * eigen.values))
    return lambda x: apply_response(power, side, x) / size


def _signs(x: Array) -> Array:
    """Of the first column."""
    return jnp.where(x[:, 0] < 0, -1, 1).astype(x.dtype)


def _averaged(
    eigen: Spectrum, fit: Callable[..., _LabelFit], n: Any, groups: Any, grid: Grid, hy: Array
) -> LabelAverage:
    """Fits of all points of the grid, weighed by marginal likelihood per output; `hy` (d, c): labels' products with features."""
    grid = Grid(*(jnp.asarray(x, eigen.values.dtype) for x in grid))
    odds, n = grid.odds, jnp.asarray(n, grid.share.dtype)
    fits = jax.lax.map(lambda point: fit(*point), (grid.prior, grid.correlation / (1 + grid.correlation)))

    def likelihood(point: tuple[_LabelFit, Array]) -> tuple[Array, Array]:
        of, c = point
        left = of.misfit(odds)
        volume = jnp.sum(jnp.log1p(odds[:, None] * of.eigen.values), 1) + groups * jnp.log1p(c)
        tiny = jnp.finfo(left.dtype).tiny
        return left, -(n * jnp.log(jnp.maximum(left, tiny)) + volume[:, None]) / 2

    left, logs = jax.lax.map(likelihood, (fits, grid.correlation))  # (points, shares, c)
    energy = jnp.where(n > 0, left / (jnp.maximum(n, 1) * (1 - grid.share[:, None])), 1)
    of_all = jnp.sum(jax.nn.softmax(logs, (0, 1)) * energy, (0, 2))
    share = jnp.sum(of_all * grid.share) / jnp.sum(of_all)
    weight = jax.nn.softmax(jnp.where(grid.share[:, None] >= grid.least, logs, -jnp.inf), (0, 1))
    return LabelAverage(eigen, grid, fits, weight, energy, share, _signs(hy))
