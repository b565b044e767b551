"""Neighbours, their agreement and their smoothing, against dense cosines and a dense inverse."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import derivative_error, entrywise_error

from w2s_jax import InputError
from w2s_jax._core import row_blocks
from w2s_jax.select import nearest, neighbour_agreement, smoothed_labels

N, K = 61, 5
RNG = np.random.default_rng(0)
H = RNG.standard_normal((N, 7)) + 0.5
Y = np.where(H[:, :2] + 0.5 * RNG.standard_normal((N, 2)) > 0.5, 1.0, -1.0)


@pytest.mark.parametrize("normalize", ["none", "features"])
def test_nearest_are_the_dense_ones(normalize, monkeypatch):
    monkeypatch.setattr(row_blocks, "BLOCK_ENTRIES", 16 * N)
    found = nearest(H.astype(np.float32), K, normalize=normalize)
    np.testing.assert_array_equal(found, reference.nearest(H, K, normalize))


def test_of_equal_rows_the_earlier_is_nearer():
    """No row is its own neighbour, whatever its copies."""
    h = np.tile([[1.0, 2.0]], (4, 1))
    assert nearest(h, 2).tolist() == [[1, 2], [0, 2], [0, 1], [0, 1]]
    assert nearest(0 * h, 1).tolist() == [[1], [0], [0], [0]]


def test_agreement_counts_equal_classes():
    found = neighbour_agreement(H, Y[:, 0], K)
    classes = Y[:, 0][reference.nearest(H, K)]
    np.testing.assert_allclose(found, (classes == Y[:, :1]).mean(1))
    one_hot = np.stack([Y[:, 0] < 0, Y[:, 0] > 0], 1).astype(float)
    np.testing.assert_allclose(neighbour_agreement(H, one_hot, K), found)


@pytest.mark.everything
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_smoothed_labels_are_the_dense_ones(share, dtype):
    found = smoothed_labels(H.astype(dtype), Y.astype(dtype), K, share=share)
    assert found.dtype == dtype
    assert entrywise_error(found, reference.smoothed_labels(H, Y, K, share)) <= (1e-10 if dtype == np.float64 else 1e-3)
    one = smoothed_labels(H.astype(dtype), Y[:, 0].astype(dtype), K, share=share)
    assert entrywise_error(one, found[:, 0]) <= (1e-10 if dtype == np.float64 else 1e-3)


@pytest.mark.everything
def test_smoothing_is_linear_and_differentiable(x64):
    """In labels, and in the share."""
    of = lambda y, share: smoothed_labels(H, y, K, share=share)
    several = jax.vmap(lambda y: of(y, 0.5))(jnp.asarray(Y.T))
    assert entrywise_error(several.T, of(Y, 0.5)) <= 1e-10
    assert derivative_error(lambda x: of(x[0], x[1]), (Y[:, 0], np.array(0.5))) <= 1e-6


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: nearest(H, 0), "k must"),
        (lambda: nearest(H, N), "k must"),
        (lambda: nearest(H[0], 1), "2-D"),
        (lambda: nearest(H, 1, normalize="l2"), "normalize"),
        (lambda: neighbour_agreement(H, Y[:5], K), "weak labels"),
        (lambda: smoothed_labels(H, Y, K, share=1.0), "share"),
        (lambda: smoothed_labels(H, Y, K, share=-0.5), "share"),
    ],
)
def test_bad_input(call, named):
    with pytest.raises(InputError, match=named):
        call()
