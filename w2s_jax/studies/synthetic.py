"""Families of weak/strong representations whose population is known in closed form, to hold theory against.

All Gaussian families have one shape: a latent `x ~ N(0, I)` seen through two matrices and a target vector, label noise,
and optional isotropic tails. Every number of a family is an array in a pytree: a family can be jitted over, mapped over
and differentiated, and another one of the same shapes compiles nothing. `studies.simulation` runs the experiment on a family.

In all families `key` draws the directions, `noise` is the variance of the label noise (the target's is 1), and a number
out of its range is an InputError.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax._core.arrays import accumulation_dtype, matmul
from w2s_jax._core.checks import InputError, require_choice, require_integer, require_range
from w2s_jax.experiment.outcome import Predicted
from w2s_jax.spectrum import spectrum
from w2s_jax.theory.equivalent import Population, Tail

Activation = Literal["relu", "linear"]

LARGEST_SAMPLE = 1 << 28  # entries of one representation that `sample` is willing to make


class Sample(NamedTuple):
    """Representations (n, d_w), (n, d_s) of the same n rows, labels (n,), and the labels without their noise (n,).

    >>> family = subspaces(strong_rank=3, weak_rank=2, overlap=1.0)
    >>> sample = jax.eval_shape(lambda key: family.sample(key, 5), jax.random.key(0))
    >>> sample.h_w.shape, sample.h_s.shape, sample.y.shape
    ((5, 2), (5, 3), (5,))
    """

    h_w: Array
    h_s: Array
    y: Array
    target: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GaussianFamily:
    """Features `A_w x` and `A_s x` and target `a^T x` of a latent `x ~ N(0, I_p)`, with isotropic Gaussian tails or none.

    `A_w` (k_w, p), `A_s` (k_s, p), `a` (p,); `noise` is the variance of the label noise; `tail_w`, `tail_s` are further
    coordinates that carry no signal. Labels are those of both splits.

    Raises:
        InputError: numbers of columns that differ.

    >>> family = GaussianFamily(jnp.array([[1.0, 0.0]]), jnp.eye(2), jnp.array([0.6, 0.8]), tail_s=Tail(0.01, 30))
    >>> family.population.sw.tolist(), jax.eval_shape(lambda key: family.sample(key, 5), jax.random.key(0)).h_s.shape
    ([[1.0], [0.0]], (5, 32))
    """

    A_w: Float[Array, "k_w p"]
    A_s: Float[Array, "k_s p"]
    a: Float[Array, " p"]
    noise: ArrayLike = 0.0
    tail_w: Tail | None = None
    tail_s: Tail | None = None

    def __post_init__(self) -> None:
        parts = self.A_w, self.A_s, self.a
        # jax.tree_util rebuilds families from placeholders, and from gradients: only shapes can be checked.
        if all(isinstance(part, Array | np.ndarray) for part in parts):
            latent = [part.shape[-1] for part in parts]
            if len(set(latent)) > 1:
                raise InputError(f"A_w, A_s and a must have the same number of columns, got {latent}")

    @property
    def population(self) -> Population:
        """Second moments of the features and the target."""
        A_w, A_s, a = self.A_w, self.A_s, self.a
        products = matmul(A_w, A_w.T), matmul(A_s, A_s.T), matmul(A_s, A_w.T), matmul(A_w, a), matmul(A_s, a)
        noise = jnp.asarray(self.noise, a.dtype)
        return Population(*products, jnp.sum(a * a), noise=noise, tail_w=self.tail_w, tail_s=self.tail_s)

    def sample(self, key: Array, n: int) -> Sample:
        """n rows of both representations, tails as explicit columns after the features.

        Raises:
            InputError: a tail too wide to write down (simulate never does), n below 1, or a negative noise.
        """
        _require(self.noise, n=n)
        return _gaussian_sample(key, self, n, *(_explicit_width(tail, n) for tail in (self.tail_w, self.tail_s)))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ReluFamily:
    """Features `relu(W_w x)` and `relu(W_s x)` and target `c^T relu(W_t x)`, each minus its mean, of inputs `x ~ N(0, I_d)`.

    `W_w` (k_w, d), `W_s` (k_s, d), `W_t` (t, d), `c` (t,); `noise` is the variance of the label noise. A linear target
    `a^T x` is `W_t = [a, -a]`, `c = [1, -1]`. Second moments given the weights are the arc-cosine kernel's (Cho & Saul 2009).

    >>> family = ReluFamily(jnp.eye(1, 2), jnp.eye(2), jnp.array([[1.0, 0.0], [-1.0, 0.0]]), jnp.array([1.0, -1.0]))
    >>> [f"{x:.3f}" for x in family.population.sw[:, 0]]  # 1/2 - 1/(2 pi) is the variance of relu(x)
    ['0.341', '0.000']
    """

    W_w: Float[Array, "k_w d"]
    W_s: Float[Array, "k_s d"]
    W_t: Float[Array, "t d"]
    c: Float[Array, " t"]
    noise: ArrayLike = 0.0

    @property
    def population(self) -> Population:
        """Second moments of the features and the target; the features themselves are not Gaussian."""
        joint, k_w = self._joint(), self.W_w.shape[0]
        weak, strong = joint[:k_w], joint[k_w:-1]
        products = weak[:, :k_w], strong[:, k_w:-1], strong[:, :k_w], weak[:, -1], strong[:, -1]
        return Population(*products, joint[-1, -1], noise=jnp.asarray(self.noise, joint.dtype))

    @property
    def gaussian(self) -> GaussianFamily:
        """The Gaussian family with the same second moments: errors of linear heads on both are the same function."""
        eigen, k_w = spectrum(self._joint(), 1), self.W_w.shape[0]
        root = eigen.vectors * jnp.sqrt(eigen.values)
        return GaussianFamily(root[:k_w], root[k_w:-1], root[-1], self.noise)

    def sample(self, key: Array, n: int) -> Sample:
        """n rows of both representations.

        Raises:
            InputError: more entries than can be written down, n below 1, or a negative noise.
        """
        _require(self.noise, n=n)
        _require_room(n, max(self.W_w.shape[0], self.W_s.shape[0]))
        return _relu_sample(key, self, n)

    def _joint(self) -> Array:
        """Second moment of (weak features, strong features, target)."""
        W = jnp.concatenate([self.W_w, self.W_s, self.W_t])
        moment = _relu_covariance(W)
        k, t = W.shape[0] - self.W_t.shape[0], self.W_t.shape[0]
        mix = jnp.eye(k + t, k + 1, dtype=W.dtype).at[k:, k].set(self.c)
        return matmul(mix.T, matmul(moment, mix))


def low_intrinsic_dimension(
    key: Array,
    *,
    latent: int = 6,
    weak_rank: int = 3,
    strong_rank: int = 4,
    decay: float = 1.0,
    noise: ArrayLike = 0.0,
) -> GaussianFamily:
    """Few features and no tail: two principal subspaces of a shared latent (Xue et al. 2025, gamma = 0).

    Ranks are at most `latent`, eigenvalues `i^-decay` on both sides; the target is a random unit vector in the strong subspace.

    >>> family = low_intrinsic_dimension(jax.random.key(0), weak_rank=2, strong_rank=3)
    >>> family.A_w.shape, family.A_s.shape
    ((2, 6), (3, 6))
    """
    _require(noise, latent=latent, weak_rank=weak_rank, strong_rank=strong_rank)
    for name, rank in (("weak_rank", weak_rank), ("strong_rank", strong_rank)):
        if rank > latent:
            raise InputError(f"{name} must be at most latent = {latent}, got {rank}")
    weak_key, strong_key, target_key = jax.random.split(key, 3)
    weak, strong = (jax.random.orthogonal(k, latent) for k in (weak_key, strong_key))
    target = _unit(jax.random.normal(target_key, (strong_rank,)))
    A_w, A_s = (_root_spectrum(k, decay)[:, None] * q[:k] for k, q in ((weak_rank, weak), (strong_rank, strong)))
    return GaussianFamily(A_w, A_s, matmul(target, strong[:strong_rank]), noise)


def spiked(
    key: Array,
    n: int,
    width: int,
    *,
    weak_gamma: ArrayLike = 0.3,
    strong_gamma: ArrayLike = 0.2,
    **principal: int | float,
) -> GaussianFamily:
    """`low_intrinsic_dimension` with an isotropic tail of the given width on both sides (Xue et al. 2025, spiked covariance).

    The gammas are the tails' effective regularizations on n rows; on m rows they are `gamma n / m`. The theorem needs a width
    much larger than n. `principal` is as in `low_intrinsic_dimension`.

    >>> family = spiked(jax.random.key(0), 100, 1000, weak_gamma=0.3)
    >>> round(family.tail_w.variance * family.tail_w.width / 100, 3)
    0.3
    """
    tails = _tails(n, width, weak_gamma, strong_gamma)
    family = low_intrinsic_dimension(key, **principal)  # pyright: ignore[reportArgumentType]
    return GaussianFamily(family.A_w, family.A_s, family.a, family.noise, *tails)


def power_law(
    key: Array, exponent: ArrayLike, width: int, *, correlation: ArrayLike = 0.8, noise: ArrayLike = 0.0
) -> GaussianFamily:
    """Both spectra `i^-exponent`, no gap and no tail: where the theorem is biased and the deterministic equivalent is not.

    The whitened weak features are the strong ones turned by the angle whose cosine is `correlation`, each in a random
    plane: `h_w = L^{1/2} R x`, `h_s = L^{1/2} x`. The target is a random linear function of the strong features. Both sides
    have `width` features, an even number; a correlation of 1 makes them the same.

    >>> print(*(f"{x:.3f}" for x in power_law(jax.random.key(0), 1.0, 4).population.ss.diagonal()))
    1.000 0.500 0.333 0.250
    """
    _require(noise, width=width)
    require_range("correlation", correlation, -1, 1)
    if width % 2:
        raise InputError(f"width must be even, got {width}")
    planes_key, target_key = jax.random.split(key)
    root, basis = _root_spectrum(width, exponent), jax.random.orthogonal(planes_key, width)
    # An orthogonal, antisymmetric matrix: a quarter turn in width / 2 random planes.
    quarter = matmul(basis[:, ::2], basis[:, 1::2].T)
    turn = correlation * jnp.eye(width) + jnp.sqrt(1 - jnp.square(correlation)) * (quarter - quarter.T)
    target = _unit(root * jax.random.normal(target_key, (width,)))
    return GaussianFamily(root[:, None] * turn, jnp.diag(root), target, noise)


def subspaces(strong_rank: int, weak_rank: int, overlap: float, *, noise: ArrayLike = 1.0) -> GaussianFamily:
    """Whitened features on subspaces of given dimensions and correlation dimension (Dong et al. 2025, ridgeless heads).

    `overlap` is `||V_s^T V_w||_F^2`, between 1 and the smaller dimension: as many directions in common as its integer part,
    and one at an angle for the rest. The target lies in the first common direction, so that both sides can express it; heads
    without ridge then have closed errors, exact at any n.

    >>> family = subspaces(strong_rank=3, weak_rank=2, overlap=1.25)
    >>> round(float(jnp.sum(family.population.sw**2)), 3)
    1.25
    """
    _require(noise, strong_rank=strong_rank, weak_rank=weak_rank)
    require_range("overlap", overlap, 1, min(strong_rank, weak_rank))
    common = math.floor(overlap)
    squares = jnp.clip(overlap - jnp.arange(weak_rank), 0, 1)
    shared = jnp.eye(weak_rank, strong_rank) * jnp.sqrt(squares)[:, None]
    own = jnp.eye(weak_rank, weak_rank - common, -common) * jnp.sqrt(1 - squares)[:, None]
    A_s = jnp.eye(strong_rank, strong_rank + weak_rank - common)
    return GaussianFamily(jnp.concatenate([shared, own], 1), A_s, A_s[0], noise)


def benign_overfitting(
    n: int,
    width: int,
    *,
    noise_share: ArrayLike = 0.3,
    weak_gamma: ArrayLike = 0.02,
    strong_gamma: ArrayLike = 0.02,
) -> GaussianFamily:
    """Both heads interpolate their labels, and the student still squares its teacher's error (Xue et al. 2025, example).

    Target zeta; weak feature `a zeta + b xi`, `b^2 = noise_share`, `a^2 + b^2 = 1`; strong feature zeta; isotropic tails of the
    given width and gammas on n rows. `benign_overfitting_errors` is the limit of wide tails, without ridge.

    >>> family = benign_overfitting(100, 1000, noise_share=0.25, weak_gamma=0.02)
    >>> round(float(family.A_w[0, 1]), 3), round(family.tail_w.variance * family.tail_w.width / 100, 3)
    (0.5, 0.02)
    """
    require_range("noise_share", noise_share, 0, 1)
    share = jnp.asarray(noise_share, jnp.result_type(float))
    weak = jnp.stack([jnp.sqrt(1 - share), jnp.sqrt(share)])
    zeta = jnp.eye(1, 2)
    return GaussianFamily(weak[None], zeta, zeta[0], 0.0, *_tails(n, width, weak_gamma, strong_gamma))


def benign_overfitting_errors(noise_share: ArrayLike, weak_gamma: ArrayLike, strong_gamma: ArrayLike) -> Predicted:
    """Errors of `benign_overfitting` without ridge, for n and then width going to infinity (Xue et al. 2025, example).

    With `s = 1/(1 + weak_gamma)`, `t = 1/(1 + strong_gamma)`: weak error `(1 - a^2 s)^2 + (a b s)^2`, student `(1 - a^2 s t)^2`,
    ceiling `(1 - t)^2`, gap `(t - a^2 s t)^2`.

    >>> errors = benign_overfitting_errors(0.3, 0.0, 0.0)
    >>> round(float(errors.weak_error), 3), round(float(errors.student_error), 3)
    (0.3, 0.09)
    """
    share, weak_gamma, strong_gamma = map(jnp.asarray, (noise_share, weak_gamma, strong_gamma))
    s, t = 1 / (1 + weak_gamma), 1 / (1 + strong_gamma)
    kept = (1 - share) * s
    weak = jnp.square(1 - kept) + kept * share * s
    return Predicted(weak, jnp.square(1 - kept * t), jnp.square(1 - t), jnp.square(t - kept * t))


def random_features(
    key: Array,
    inputs: int,
    weak_width: int,
    strong_width: int,
    *,
    activation: Activation = "relu",
    exponent: float = 0.0,
    noise: ArrayLike = 0.0,
) -> GaussianFamily | ReluFamily:
    """Random features of the same Gaussian inputs: few for the teacher, more for the student (Medvedev et al. 2025).

    Weights have rows N(0, L), L the covariance of the `inputs`, of trace 1 and with eigenvalues that decay as `i^-exponent`;
    features are scaled by `width^{-1/2}`, the target is linear. The activation is "relu" (centred, a `ReluFamily`) or "linear"
    (a `GaussianFamily`).

    >>> family = random_features(jax.random.key(0), inputs=4, weak_width=2, strong_width=8)
    >>> family.W_w.shape, family.W_s.shape
    ((2, 4), (8, 4))
    """
    _require(noise, inputs=inputs, weak_width=weak_width, strong_width=strong_width)
    require_choice("activation", activation, Activation)
    root = _unit(_root_spectrum(inputs, exponent))
    weak_key, strong_key, target_key = jax.random.split(key, 3)
    pairs = ((weak_key, weak_width), (strong_key, strong_width))
    W_w, W_s = (jax.random.normal(k, (width, inputs)) * root / math.sqrt(width) for k, width in pairs)
    target = _unit(root * jax.random.normal(target_key, (inputs,)))
    if activation == "linear":
        return GaussianFamily(W_w, W_s, target, noise)
    return ReluFamily(W_w, W_s, jnp.stack([target, -target]), jnp.array([1.0, -1.0], target.dtype), noise)


def _require(noise: ArrayLike = 0.0, **counts: int) -> None:
    for name, count in counts.items():
        require_integer(name, count, 1)
    require_range("noise", noise, 0)


def _root_spectrum(count: int, exponent: ArrayLike) -> Array:
    """Square roots of the eigenvalues `i^-exponent`, i = 1 ... count."""
    return jnp.arange(1, count + 1, dtype=jnp.result_type(float)) ** (-jnp.asarray(exponent) / 2)


def _unit(vector: Array) -> Array:
    return vector / jnp.sqrt(jnp.sum(vector * vector))


def _tails(n: int, width: int, weak_gamma: ArrayLike, strong_gamma: ArrayLike) -> tuple[Tail, Tail]:
    _require(n=n, width=width)
    require_range("weak_gamma", weak_gamma, 0)
    require_range("strong_gamma", strong_gamma, 0)
    return Tail(weak_gamma * n / width, width), Tail(strong_gamma * n / width, width)


def _explicit_width(tail: Tail | None, n: int) -> int:
    """The tail's width as a number, small enough to write n rows of it down."""
    if tail is None:
        return 0
    if isinstance(tail.width, Tracer):
        raise InputError(
            "sample must be called outside jit on a family with tails, whose widths are array shapes there"
        )
    _require_room(n, int(tail.width))
    return int(tail.width)


def _require_room(n: int, width: int) -> None:
    if n * width > LARGEST_SAMPLE:
        raise InputError(
            f"sample must make at most {LARGEST_SAMPLE} numbers, got {n} rows of {width} columns; "
            "simulate draws wide tails exactly without writing them down"
        )


@partial(jax.jit, static_argnames=("n", "width_w", "width_s"))
def _gaussian_sample(key: Array, family: GaussianFamily, n: int, width_w: int, width_s: int) -> Sample:
    latent, noise, weak, strong = jax.random.split(key, 4)
    dtype = accumulation_dtype(family.a.dtype)
    x = jax.random.normal(latent, (n, family.a.shape[0]), dtype)

    def seen(key: Array, A: Array, tail: Tail | None, width: int) -> Array:
        features = matmul(x, A.T)
        if tail is None:
            return features
        return jnp.concatenate([features, jnp.sqrt(tail.variance) * jax.random.normal(key, (n, width), dtype)], 1)

    h_w, h_s = seen(weak, family.A_w, family.tail_w, width_w), seen(strong, family.A_s, family.tail_s, width_s)
    return _labelled(noise, family.noise, h_w, h_s, matmul(x, family.a))


@partial(jax.jit, static_argnames="n")
def _relu_sample(key: Array, family: ReluFamily, n: int) -> Sample:
    inputs, noise = jax.random.split(key)
    dtype = accumulation_dtype(family.W_w.dtype)
    x = jax.random.normal(inputs, (n, family.W_w.shape[1]), dtype)
    h_w, h_s, hidden = (jax.nn.relu(matmul(x, W.T)) - _relu_mean(W) for W in (family.W_w, family.W_s, family.W_t))
    return _labelled(noise, family.noise, h_w, h_s, matmul(hidden, family.c))


def _labelled(key: Array, noise: ArrayLike, h_w: Array, h_s: Array, target: Array) -> Sample:
    spread = jnp.sqrt(jnp.asarray(noise, target.dtype))
    return Sample(h_w, h_s, target + spread * jax.random.normal(key, target.shape, target.dtype), target)


def _relu_mean(W: Array) -> Array:
    """`E relu(w^T x) = ||w|| / sqrt(2 pi)` for each row w."""
    return jnp.sqrt(jnp.sum(W * W, 1) / (2 * jnp.pi))


def _relu_covariance(W: Array) -> Array:
    """`||u|| ||v|| (sin phi + (pi - phi) cos phi - 1) / (2 pi)` for all pairs of rows at angle phi (Cho & Saul 2009)."""
    norms = jnp.sqrt(jnp.sum(W * W, 1))
    unit = W / jnp.where(norms > 0, norms, 1)[:, None]
    cosine = jnp.clip(matmul(unit, unit.T), -1, 1)
    sine = jnp.sqrt(1 - cosine * cosine)
    angle = jnp.arctan2(sine, cosine)
    return norms[:, None] * norms * (sine + (jnp.pi - angle) * cosine - 1) / (2 * jnp.pi)
