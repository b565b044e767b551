"""The expected experiment of one cross-fitting, from the moments of three disjoint sets of rows; the ranking averages several."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax._core.arrays import matmul
from w2s_jax._core.checks import InputError, require_number, require_range
from w2s_jax._core.response import Power, apply_response, evaluate
from w2s_jax._core.ridge_solve import ridge_inverse
from w2s_jax.moments import Moments
from w2s_jax.spectrum import Spectrum, spectrum
from w2s_jax.theory.equivalent import Population, planned_errors


def expected_experiment(
    labelled: Moments,
    student: Moments,
    test: Moments,
    weak_ridge: ArrayLike,
    strong_ridge: ArrayLike,
    *,
    prior: ArrayLike = 1.0,
    noise: ArrayLike = 1.0,
    n_labelled: ArrayLike | None = None,
    n_student: ArrayLike | None = None,
) -> tuple[Float[Array, "*grid"], Float[Array, "*grid"]]:
    """Expected student error and gap over random labels, cross-fitted on three disjoint sets of rows; no labels are used.

    Args:
        labelled, student, test: moments of the rows that fit the weak head, train the student and test it.
        weak_ridge, strong_ridge: penalties of the mean squared loss.
        prior: p of the label prior: labels `h_s^T theta` with `theta ~ N(0, S_s^(p - 1))`, S_s pooled over the three.
        noise: variance of the label noise, relative to the labels' mean square.
        n_labelled, n_student: planned numbers of rows, of any shape that broadcasts; None for those that are there. Given one of
            them, nothing is cross-fitted: the experiment's deterministic equivalent takes the moments of all three sets of rows
            for the population's, which is too good where the features are not far fewer than those rows.

    Raises:
        InputError: widths that differ, moments of which some are centred, a negative ridge, prior or noise, less than one row.

    Errors are in units of the labels' mean square, without the noise that students and ceilings of all weak models share.

    >>> from w2s_jax import moments
    >>> blocks = jax.random.normal(jax.random.key(0), (3, 40, 4))
    >>> error, gap = expected_experiment(*(moments(h[:, :2], h) for h in blocks), 1e-3, 1e-3)
    >>> 0 < float(gap) < float(error)
    True

    Source: closed form of the cross-fitted experiment; one of those that `rank_supervisors` averages.
    """
    for name, value in (("weak_ridge", weak_ridge), ("strong_ridge", strong_ridge), ("prior", prior), ("noise", noise)):
        require_number(name, value, 0)
    blocks = checked_blocks(labelled, student, test)
    return _expected(blocks, weak_ridge, strong_ridge, prior, noise, planned_rows(blocks, n_labelled, n_student))


def checked_blocks(labelled: Moments, student: Moments, test: Moments) -> tuple[Moments, Moments, Moments]:
    """The three; raises InputError if they do not fit each other."""
    blocks = (labelled, student, test)
    for name, block in zip(("labelled", "student", "test"), blocks, strict=True):
        if not isinstance(block, Moments):
            raise InputError(f"{name} must be Moments, got {type(block).__name__}")
    shapes = [block.sw.shape for block in blocks]
    if len(set(shapes)) > 1:
        raise InputError(f"labelled, student and test must have the same widths (strong, weak), got {shapes}")
    if len({block.is_centred for block in blocks}) > 1:
        raise InputError("labelled, student and test must all be centred or all not, got some of each")
    return blocks


def planned_rows(
    blocks: tuple, n_labelled: ArrayLike | None, n_student: ArrayLike | None
) -> tuple[Array, Array] | None:
    """Rows of the two splits, those that are there where none are planned; None if nothing is planned."""
    if n_labelled is None and n_student is None:
        return None
    for name, n in (("n_labelled", n_labelled), ("n_student", n_student)):
        require_range(name, n, 1)
    there = (block.n if n is None else n for block, n in zip(blocks, (n_labelled, n_student), strict=False))
    n_labelled, n_student = (jnp.asarray(n, blocks[0].n.dtype) for n in there)
    try:
        jnp.broadcast_shapes(n_labelled.shape, n_student.shape)
    except ValueError as error:
        raise InputError(
            f"n_labelled and n_student must broadcast, got shapes {n_labelled.shape} and {n_student.shape}"
        ) from error
    return n_labelled, n_student


def in_shares(eigen: Spectrum) -> Spectrum:
    """A spectrum in units of its largest eigenvalue: powers of shares overflow at no scale."""
    largest = jax.lax.stop_gradient(eigen.values[0])
    return replace(eigen, values=eigen.values / largest, coupling=eigen.coupling / largest)


@jax.jit
def _expected(
    blocks: tuple,
    weak_ridge: Array,
    strong_ridge: Array,
    prior: Array,
    noise: Array,
    planned: tuple[Array, Array] | None,
) -> tuple[Array, Array]:
    n = blocks[0].n
    prior, noise = jnp.asarray(prior, n.dtype), jnp.asarray(noise, n.dtype)
    pooled = spectrum(pooled_moment(blocks, "ss"), 1)
    power, side = Power(prior - 1), in_shares(pooled)
    labels = matmul(pooled.vectors, apply_response(power, side, pooled.vectors.T))
    labels = labels / jnp.sum(evaluate(power, side.values, side.n) * pooled.values)
    if planned is not None:
        return planned_experiment(blocks, weak_ridge, strong_ridge, labels, noise, planned)
    return experiment_errors(blocks, weak_ridge, strong_ridge, labels, noise * blocks[0].ww)


def pooled_moment(blocks: tuple[Moments, ...], name: str) -> Array:
    """A moment of the rows of all sets."""
    n = jnp.stack([block.n for block in blocks])
    return jnp.tensordot(n / jnp.sum(n), jnp.stack([getattr(block, name) for block in blocks]), 1, precision="highest")


def planned_experiment(
    blocks: tuple[Moments, ...],
    weak_ridge: Array,
    strong_ridge: Array,
    labels: Array,
    noise: Array,
    planned: tuple[Array, Array],
) -> tuple[Array, Array]:
    """`experiment_errors` with planned numbers of rows, for noise of that variance."""
    ww, ss, sw = (pooled_moment(blocks, name) for name in ("ww", "ss", "sw"))
    none = jnp.zeros((), ss.dtype)
    population = Population(ww, ss, sw, none, none, none, noise)
    ridges = (jnp.asarray(ridge, ss.dtype) for ridge in (weak_ridge, strong_ridge))
    return planned_errors(population, labels, *planned, *ridges)


def experiment_errors(
    blocks: tuple[Moments, Moments, Moments], weak_ridge: Array, strong_ridge: Array, labels: Array, noise: Array
) -> tuple[Array, Array]:
    """Expected student error and gap, for labels `h_s^T theta` with `labels` (d_s, d_s) `E[theta theta^T]` and noise e with
    `E[H_w^T e e^T H_w] / n` (d_w, d_w) on the labelled rows.

    The formulas of ranking's crossfit.py on whole moments: in eigenbases their derivatives would lack a part.
    """
    A, B, C = blocks
    ss = C.ss
    weak, strong = ridge_inverse(A.ww, weak_ridge), ridge_inverse(B.ss, strong_ridge)
    students = matmul(strong, matmul(B.sw, weak))  # of the weak heads' right-hand sides
    taught, ceiling = matmul(students, A.sw.T), matmul(strong, B.ss)
    size = lambda left, inside: jnp.sum(matmul(ss, left) * matmul(left, inside))
    picked_up = size(students, noise) / A.n
    error, gap = (size(taught - of, labels) for of in (jnp.eye(len(ss), dtype=ss.dtype), ceiling))
    return error + picked_up, gap + picked_up
