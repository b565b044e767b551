"""Labels drawn from a posterior: their moments are the posterior's, and they turn with the representation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import relative_error

from w2s_jax.spectrum import spectrum
from w2s_jax.theory.label_fits import Chance, LabelAverage, LabelSums, average_of_sums, grid_of

N, D, M = 80, 12, 30


def average(rotation: np.ndarray, outputs: int = 2, groups: bool = False, m: int = M) -> tuple[LabelAverage, jax.Array]:
    """Of the first m rows' labels, and the eigenvectors of all rows' moment."""
    rng = np.random.default_rng(0)
    h = rng.standard_normal((N, D)) / np.arange(1, D + 1) ** 0.5
    y = h[:, :outputs] + 0.5 * rng.standard_normal((N, outputs))
    h = h @ rotation
    eigen = spectrum(h.T @ h / N, N)
    z, y = h[:m] @ eigen.vectors, jnp.asarray(y[:m])
    sums = lambda n, z, y: LabelSums(n, z.T @ z, z.T @ y, jnp.sum(y * y, 0))
    pairs = lambda x: jnp.repeat((x[::2] + x[1::2]) / 2, 2, 0)
    related = sums(m // 2, pairs(z), pairs(y)) if groups else None
    grid = grid_of((1.0, 2.0), (0.2, 0.6), (0.0, 1.0) if groups else (0.0,), float)
    return average_of_sums(eigen, sums(m, z, y), related, grid), eigen.vectors


@pytest.mark.everything
@pytest.mark.parametrize(("groups", "m"), [(False, M), (True, M), (False, 6)])
def test_draws_have_the_moments_of_the_posterior(groups, m, x64):
    """Within five standard errors of 20,000 draws; v does not stray."""
    of, _ = average(np.eye(D), groups=groups, m=m)
    count = 20_000
    outputs = of.weight.shape[-1]
    draws, posterior = of.draws(Chance.of(D, outputs, 0.0, float, count)), of.posterior()
    theta = np.asarray(draws.theta)
    each = np.einsum("isc,jsc->ijs", theta, theta)
    for found, wanted in ((each, posterior.second), (draws.noise, posterior.noise), (draws.shared, posterior.shared)):
        found = np.asarray(found)
        assert np.all(np.abs(found.mean(-1) - wanted) <= 5 * found.std(-1) / count**0.5 + 1e-12)


def test_draws_turn_with_the_representation(x64):
    """Whatever the signs of eigenvectors: rows in another basis give the same labels."""
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((D, D)))[0]
    drawn = []
    for basis in (np.eye(D), rotation):
        of, vectors = average(basis)
        theta = of.draws(Chance.of(D, of.weight.shape[-1], 0.3, float, 8)).theta
        drawn.append(basis @ np.asarray(vectors) @ theta.reshape(D, -1))
    assert relative_error(drawn[1], drawn[0], 1e-3) <= 1e-8


@pytest.mark.everything
def test_the_energy_of_labels_strays(x64):
    """By the relative standard error that is asked for, about the same place."""
    of, _ = average(np.eye(D), outputs=1)
    still, moved = (np.asarray(of.draws(Chance.of(D, 1, spread, float, 20_000)).noise) for spread in (0.0, 0.2))
    assert np.std(np.log(moved / still)) == pytest.approx(0.2, rel=0.05)
    assert np.mean(np.log(moved / still)) == pytest.approx(0, abs=0.01)
