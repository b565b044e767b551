"""The expected experiment of one cross-fitting, from the moments of three disjoint sets of rows; the ranking averages several."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax import crossfit
from w2s_jax._arrays import matmul
from w2s_jax._checks import InputError
from w2s_jax.crossfit import Roles, Settings, StrongCells, WeakCells
from w2s_jax.moments import Moments
from w2s_jax.spectrum import require_range, spectrum, unit_scale


def expected_experiment(
    labelled: Moments,
    student: Moments,
    test: Moments,
    weak_ridge: ArrayLike,
    strong_ridge: ArrayLike,
    *,
    prior: ArrayLike = 2.0,
    noise: ArrayLike = 1.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Expected student error and gap over random labels, cross-fitted on three disjoint sets of rows; no labels are used.

    Args:
        labelled, student, test: moments of the rows that fit the weak head, train the student and test it.
        weak_ridge, strong_ridge: penalties of the mean squared loss.
        prior: p of the label prior: labels `h_s^T theta` with `theta ~ N(0, S_s^(p - 1))`, S_s pooled over the three.
        noise: variance of the label noise, relative to the labels' mean square.

    Raises:
        InputError: widths that differ, a negative ridge or noise.

    Errors are in units of the labels' mean square, without the noise that students and ceilings of all weak models share.

    Source: closed form of the cross-fitted experiment; one of those that `rank_supervisors` averages.
    """
    for name, value in (("weak_ridge", weak_ridge), ("strong_ridge", strong_ridge), ("noise", noise)):
        require_range(name, value, 0)
    blocks = (labelled, student, test)
    shapes = [block.sw.shape for block in blocks]
    if len(set(shapes)) > 1:
        raise InputError(f"labelled, student and test must have the same widths (strong, weak), got {shapes}")
    return _expected(blocks, weak_ridge, strong_ridge, prior, noise)


@jax.jit
def _expected(blocks: tuple, weak_ridge: Array, strong_ridge: Array, prior: Array, noise: Array) -> tuple[Array, Array]:
    n, ww, ss, sw = (jnp.stack([getattr(block, name) for block in blocks]) for name in ("n", "ww", "ss", "sw"))
    scale_w, scale_s = unit_scale(ww[0]), unit_scale(ss[0])
    ww, ss, sw = ww / scale_w**2, ss / scale_s**2, sw / scale_w / scale_s
    rows = n[:, None, None]
    pooled = spectrum(jnp.sum(rows * ss, 0) / jnp.sum(n), 1)
    V = pooled.vectors
    cells = StrongCells(n, jnp.zeros_like(ss[..., 0]), rows * matmul(matmul(V.T, ss), V))
    weak = WeakCells(jnp.zeros_like(ww[..., 0]), rows * ww, rows * matmul(V.T, sw))
    roles = Roles(*jnp.eye(3, dtype=n.dtype)[:, None])
    ridges = weak_ridge / scale_w**2, strong_ridge / scale_s**2
    settings = Settings(*(jnp.asarray(x, n.dtype) for x in (*ridges, 0, prior, noise)))
    strong = crossfit.prepare_expected(cells, pooled.values, roles, settings)
    heads = crossfit.weak_heads(weak, n, roles.fit, settings.weak_ridge)
    error, gap = crossfit.expected_experiment(strong, weak, heads, n, roles, settings.noise)
    return error.value, gap.value
