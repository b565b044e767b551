"""The quantities behind the theory's five conditions, from the second moments of two splits, at many ranks of V at once.

Everything is in the eigenbasis of a reference: the splits' pooled moment, or a known population covariance. V is its leading
k directions, and the norm of any n x n tail kernel is that of a weighted d x d or min(n, d) matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from w2s_jax._core.arrays import accumulation_dtype, label_products, matmul
from w2s_jax._core.factor import numerically_zero
from w2s_jax._core.lanczos import Problem, leading_values, leading_vectors, random_start
from w2s_jax.moments import ModelMoments, model_moments
from w2s_jax.overlap import centered
from w2s_jax.spectrum import spectrum, tail_gamma

DROPS = 8


class Quantities(NamedTuple):
    """Conditions 2 to 5 at m ranks, in units of the reference's norm; entries (2, m) are for the labelled and student's split.

    smallest, crossing, diminishing (m,); gamma, concentration, isotropy (2, m), labels (2, m) or None. Independent of the
    rank: `norms` (2,) of the second moments, `energies` (2,) of the labels, or None.
    """

    smallest: Array
    gamma: Array
    concentration: Array
    labels: Array | None
    isotropy: Array
    crossing: Array
    diminishing: Array
    norms: Array
    energies: Array | None

    def worst(self) -> Array:
        """The numbers of conditions 2 to 5 (4, m)."""
        on_V = self.concentration if self.labels is None else jnp.concatenate([self.concentration, self.labels])
        return jnp.stack([jnp.max(on_V, 0), jnp.max(self.isotropy, 0), self.crossing, self.diminishing])

    def size(self) -> Array:
        """`gamma^2 + lambda_min^2` (m,), with the smaller gamma of the two splits."""
        return jnp.square(jnp.min(self.gamma, 0)) + jnp.square(self.smallest)


class Split(NamedTuple):
    """Moments of one split: second (p, p), n rows; with labels cross (p, c) and energy (), the sum of mean squares."""

    second: Array
    n: Array
    cross: Any = None
    energy: Any = None


class Prepared(NamedTuple):
    """Both splits in the eigenbasis of the reference covariance of eigenvalues (p,)."""

    values: Array
    labelled: Split
    student: Split


@partial(jax.jit, static_argnames="bias")
def prepare_rows(h_labelled: Array, h_student: Array, labels: Any, sigma: Array | None, bias: bool) -> Prepared:
    """Through the d x d side."""
    splits = []
    for h, y in zip((h_labelled, h_student), labels or (None, None), strict=True):
        splits.append(split_of(model_moments(h, y, bias=bias)))
    return prepare(*splits, sigma)


def split_of(m: ModelMoments) -> Split:
    """A split of a model's moments; its outputs, if any, are columns."""
    if m.hy is None or m.yy is None:
        return Split(m.hh, m.n)
    return Split(m.hh, m.n, m.hy.reshape(m.hh.shape[0], -1), jnp.sum(m.yy))


@partial(jax.jit, static_argnames="bias")
def prepare_kernel(h_labelled: Array, h_student: Array, labels: Any, sigma: None, bias: bool) -> Prepared:
    """Through the Gram matrix of all rows: `H H^T = Q diag(mu) Q^T`, `Q mu^{1/2}` are the rows in the pooled eigenbasis."""
    rows = [h.astype(accumulation_dtype(h.dtype)) for h in (h_labelled, h_student)]
    n, h = len(h_labelled), jnp.concatenate([centered(h) for h in rows] if bias else rows)
    gram = spectrum(matmul(h, h.T), h.shape[0])
    coordinates = gram.vectors * jnp.sqrt(gram.values)
    splits = []
    for z, y in zip((coordinates[:n], coordinates[n:]), labels or (None, None), strict=True):
        count = jnp.asarray(z.shape[0], z.dtype)
        second = matmul(z.T, z) / count
        if y is None:
            splits.append(Split(second, count))
        else:
            y = centered(y) if bias else y.astype(z.dtype)
            splits.append(Split(second, count, label_products(z, y) / count, jnp.sum(y * y) / count))
    return Prepared(gram.values / h.shape[0], *splits)


@jax.jit
def prepare(labelled: Split, student: Split, sigma: Array | None) -> Prepared:
    """Rotates two splits' moments into the eigenbasis of Sigma, or of the pooled second moment."""
    total = labelled.n + student.n
    pooled = (labelled.n / total) * labelled.second + (student.n / total) * student.second
    eigen = spectrum(pooled if sigma is None else sigma.astype(pooled.dtype), total)

    def rotate(split: Split) -> Split:
        second = matmul(matmul(eigen.vectors.T, split.second), eigen.vectors)
        cross = None if split.cross is None else matmul(eigen.vectors.T, split.cross)
        return split._replace(second=(second + second.T) / 2, cross=cross)

    return Prepared(eigen.values, rotate(labelled), rotate(student))


def candidates(values: Array) -> Array:
    """The ranks to scan, ascending: 0, powers of two, where the spectrum drops most, the numerical rank."""
    p = values.shape[0]
    rank = jnp.sum(values > numerically_zero(values))
    logs = jnp.log(jnp.maximum(values, jnp.finfo(values.dtype).tiny))
    drops = jnp.where(jnp.arange(1, p) < rank, logs[:-1] - logs[1:], 0)
    _, largest = jax.lax.top_k(drops, min(DROPS, p - 1))
    powers = 2 ** jnp.arange(p.bit_length())
    ranks = jnp.concatenate([jnp.zeros(1, int), powers, largest + 1, rank[None]])
    return jnp.sort(jnp.minimum(ranks, rank))


@partial(jax.jit, static_argnames=("freedom", "exact"))
def measure(prepared: Prepared, ranks: Array, freedom: tuple[int, int], exact: bool) -> Quantities:
    """Conditions 1 to 5 at every rank of V; `freedom`: dimensions of each split's kernel, `exact`: the reference is Sigma."""
    norm, total = prepared.values[0], prepared.labelled.n + prepared.student.n
    values, splits = prepared.values / norm, (prepared.labelled, prepared.student)
    second = jnp.stack([split.second for split in splits]) / norm
    inside = jnp.arange(values.shape[0]) < ranks[:, None]
    pooled_gamma = jnp.where(exact, 0, tail_gamma(values, rank=ranks, n=total))
    smallest = jnp.where(ranks > 0, values[jnp.maximum(ranks - 1, 0)] - pooled_gamma, 0)
    # V's directions keep the tail's share of their variance.
    share = jnp.sqrt(jnp.minimum(pooled_gamma[:, None] / jnp.where(values > 0, values, 1), 1))
    tail = jnp.where(inside, share, 1)

    rows = jnp.stack([split.n for split in splits])
    gamma = jnp.sum(jnp.square(tail) * jnp.diagonal(second, axis1=1, axis2=2)[:, None], -1) / rows[:, None]
    roots = [_root(S, min(f, S.shape[0])) for S, f in zip(second, freedom, strict=True)]
    directions = jax.lax.map(lambda S: _leading_directions(S, tail), second)
    top, fresh = (jnp.sum(directions * matmul(directions, S), -1) for S in (second, second[::-1]))
    isotropy = jnp.stack([_isotropy(*split, tail) for split in zip(roots, freedom, top, gamma, strict=True)])
    crossing = (
        _crossing(roots[0], second[1], tail) if freedom[0] <= freedom[1] else _crossing(roots[1], second[0], tail)
    )

    # Independent deviations of size n^{-1/2} add up to the difference of the splits in this proportion.
    shares = jnp.sqrt(rows[::-1] / total)[:, None]
    if exact:
        concentration = jax.lax.map(lambda S: _norm_inside(S - jnp.diag(values), inside), second)
        diminishing = jnp.where(inside[:, -1], 0, values[jnp.minimum(ranks, values.shape[0] - 1)])
    else:
        concentration, diminishing = shares * _norm_inside(second[0] - second[1], inside), jnp.max(fresh, 0)
    norms = jnp.stack([jnp.sum(jnp.square(root[0])) for root in roots])
    if prepared.labelled.cross is None:
        labels = energies = None
    else:
        energies = jnp.stack([split.energy for split in splits])
        energy = jnp.sum(rows * energies) / total
        squares = jnp.sum(jnp.square(prepared.labelled.cross - prepared.student.cross), 1)
        labels = shares * jnp.sqrt(matmul(inside.astype(norm.dtype), squares) / norm / jnp.where(energy > 0, energy, 1))
    smallest = jnp.maximum(smallest, 0)
    return Quantities(smallest, gamma, concentration, labels, isotropy, crossing, diminishing, norms, energies)


def _root(second: Array, rank: int) -> Array:
    """F (rank, p) with `F^T F` the second moment: as good as the rows, and no more of them than needed."""
    eigen = spectrum(second, 1)
    return jnp.sqrt(eigen.values[:rank, None]) * eigen.vectors.T[:rank]


def _leading_directions(second: Array, tail: Array) -> Array:
    """Tail-weighted leading eigenvectors (m, p) of `W S W`, W the tail's weights (m, p)."""
    w = tail.T
    matrix = lambda w: w[:, None] * second * w
    problem = Problem(lambda x: w * matmul(second, w * x), random_start(w.shape, second.dtype), (tail,), matrix)
    return tail * leading_vectors(problem)


def _isotropy(root: Array, freedom: int, top: Array, gamma: Array, tail: Array) -> Array:
    """`||K' / n - gamma I||` (m,) of the tail's kernel, which has the eigenvalues of `F W^2 F^T`, or these and zeros."""
    if freedom > root.shape[1]:
        return jnp.maximum(gamma, top - gamma)
    w = jnp.square(tail).T
    shifted = lambda x: matmul(root, w * matmul(root.T, x)) - gamma * x
    eye = jnp.eye(root.shape[0], dtype=root.dtype)
    matrix = lambda weights, g: matmul(root * jnp.square(weights), root.T) - g * eye
    return _norm(shifted, matrix, (tail, gamma), (root.shape[0], tail.shape[0]), root.dtype)


def _crossing(root: Array, other: Array, tail: Array) -> Array:
    """`lambda_max(S~' S^')^{1/2}` (m,), as that of `F W^2 S W^2 F^T`."""
    w = jnp.square(tail).T

    def product(x: Array) -> Array:
        return matmul(root, w * matmul(other, w * matmul(root.T, x)))

    def matrix(weights: Array) -> Array:
        half = root * jnp.square(weights)
        return matmul(matmul(half, other), half.T)

    start = random_start((root.shape[0], tail.shape[0]), root.dtype)
    return jnp.sqrt(jnp.maximum(leading_values(Problem(product, start, (tail,), matrix)), 0))


def _norm_inside(deviation: Array, inside: Array) -> Array:
    """`||Pi D Pi||` (m,) of a symmetric matrix on V (m, p)."""
    mask = inside.T.astype(deviation.dtype)
    matrix = lambda inside: jnp.where(inside[:, None] & inside, deviation, 0)
    return _norm(lambda x: mask * matmul(deviation, mask * x), matrix, (inside,), mask.shape, deviation.dtype)


def _norm(product: Callable, matrix: Callable, points: tuple, shape: tuple[int, ...], dtype: Any) -> Array:
    """Operator norms (m,) of symmetric matrices, as roots of their squares' largest eigenvalues."""

    def squared(*point: Array) -> Array:
        dense = matrix(*point)
        return matmul(dense, dense)

    problem = Problem(lambda x: product(product(x)), random_start(shape, dtype), points, squared)
    return jnp.sqrt(jnp.maximum(leading_values(problem), 0))
