"""Predictors that read rows: what second moments do not have, as the norms and distances of rows."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from w2s_jax._core.arrays import matmul
from w2s_jax._core.checks import InputError
from w2s_jax._core.row_blocks import by_row
from w2s_jax.overlap import centered
from w2s_jax.predictors.predictor import RowsView, predictor

CANDIDATES = 8  # neighbours by products of rows, of which the nearest two are found by differences
SAME = 3e-5  # of the root mean square norm: rows that are no further apart count as one
TAIL = 10  # one ratio of so many, the largest, is only known to be large


@predictor(reads="rows", predicts="similarity", source="Song et al. 2012; Kornblith et al. 2019", larger_is_better=True)
def debiased_cka(pair: RowsView) -> Array:
    """`H(w, s) / sqrt(H(w, w) H(s, s))` with the unbiased HSIC, which is about 0 for unrelated rows however many features.

    Over distinct rows i, j, q, r, `H = E[K_ij L_ij + K_ij L_qr - 2 K_ij L_iq]`, the U-statistic (remembered). Derived from it for
    linear kernels of rows about their mean, whose sums off the diagonal are minus the squared norms a (n,), b (n,) of the rows:
    `n (n - 3) H = ||X^T Z||_F^2 - n / (n - 2) a^T b + sum(a) sum(b) / ((n - 1) (n - 2))`. It costs n d_w d_s.
    """
    if len(pair.h_w) < 4:
        raise InputError(f"debiased_cka needs at least 4 rows, got {len(pair.h_w)}")
    x, z = _unit(pair.h_w), _unit(pair.h_s)
    return _hsic(x, z) / jnp.sqrt(_hsic(x, x) * _hsic(z, z))


def _hsic(x: Array, z: Array) -> Array:
    """n (n - 3) times the unbiased HSIC of rows about their mean."""
    a, b, n = jnp.sum(x * x, 1), jnp.sum(z * z, 1), len(x)
    shared = jnp.sum(jnp.square(matmul(x.T, z)))
    return shared - jnp.sum(a * b) * (n / (n - 2)) + jnp.sum(a) * jnp.sum(b) / ((n - 1) * (n - 2))


@predictor(
    reads="weak_rows",
    predicts="how many directions a teacher has",
    source="Facco et al. 2017",
    larger_is_better=True,
)
def two_nn_dimension(pair: RowsView) -> Array:
    """Intrinsic dimension of the weak rows from the distances `r_1 < r_2` of each to its nearest two others.

    Where density is constant over both, `log(r_2 / r_1)` is exponential with rate d (the source's model). The source fits the
    smallest nine tenths; here they have their unbiased estimate with the rest censored, derived from sums of exponential gaps:
    of m ratios x in order the first k, `d = (k - 1) / (x_1 + ... + x_k + (m - k) x_k)`.

    Rows that are the same, or no further apart than 3e-5 of the root mean square norm, count as one: 0 of less than three. Other
    near copies pull it down where more than a tenth of the rows have one. Where neighbours are all equally far the result is huge
    or infinite. Costs 4 n^2 d, by blocks of rows.
    """
    n = len(pair.h_w)
    if n < 3:
        raise InputError(f"two_nn_dimension needs at least 3 rows, got {n}")
    x, number = _unit(pair.h_w), jnp.arange(n)
    nearest = partial(_nearest, x, jnp.sum(x * x, 1))
    first = by_row(lambda row: nearest(row[0], number < row[1])[0] > SAME**2, (x, number), n)
    found = by_row(lambda row: nearest(row[0], first & (number != row[1]))[:2], (x, number), n)
    there = first & jnp.isfinite(found[:, 1])
    r = jnp.where(there[:, None], found, 1)  # squared
    ratios = jnp.sort(jnp.where(there, jnp.log(r[:, 1] / r[:, 0]) / 2, jnp.inf))
    m = jnp.sum(there)
    k = m - m // TAIL
    kept = jnp.where(number < k, ratios, 0)
    return jnp.where(m > 2, (k - 1) / (jnp.sum(kept) + (m - k) * kept[k - 1]), 0)


def _nearest(x: Array, squares: Array, row: Array, allowed: Array) -> Array:
    """Squared distances (candidates,) of a row to the nearest of others, ascending; infinite where there are no more."""
    near = jnp.where(allowed, squares - 2 * matmul(x, row), jnp.inf)
    _, chosen = jax.lax.top_k(-jax.lax.stop_gradient(near), min(CANDIDATES, len(x)))
    exact = jnp.sum(jnp.square(x[chosen] - row), 1)
    return jnp.sort(jnp.where(allowed[chosen], exact, jnp.inf))


def _unit(h: Array) -> Array:
    """Rows about their mean, of mean squared norm 1."""
    x = centered(h)
    size = jnp.mean(jnp.sum(x * x, 1))
    return x * jax.lax.rsqrt(jnp.where(size > 0, size, 1))
