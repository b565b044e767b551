"""The cross-fitted networks of RADS: they learn, and no row's own label tells what is said of it."""

from __future__ import annotations

import numpy as np
import pytest

from w2s_jax import InputError
from w2s_jax.select import mlp_predictions

N = 60
RNG = np.random.default_rng(0)
H = RNG.standard_normal((N, 4)).astype(np.float32)
Y = np.sign(H[:, 0] * H[:, 1]).astype(np.float32)  # no linear head sees it
KIND = dict(folds=3, members=2, width=32, epochs=40, batch_rows=16, learning_rate=0.01, weight_decay=0.1)


@pytest.mark.everything
def test_networks_learn_what_no_linear_head_sees():
    found = np.asarray(mlp_predictions(H, Y, **KIND))
    assert found.shape == Y.shape and found.dtype == np.float32
    assert np.corrcoef(found, Y)[0, 1] > 0.4


def test_no_row_sees_its_own_group():
    """Other labels of a group change nothing of what is said of it, nor does the scale of features."""
    groups = np.repeat(np.arange(12), 5)
    own = groups == 4
    turned = np.where(own, -Y, Y)
    turned[own] += (Y.sum() - turned.sum()) / own.sum()  # the mean stays
    found = [
        np.asarray(mlp_predictions(h, y, groups=groups, **KIND)) for h, y in ((H, Y), (H, turned), (64 * H + 8, Y))
    ]
    np.testing.assert_allclose(found[0][own], found[1][own], atol=1e-4)
    assert np.abs(found[0] - found[1])[~own].max() > 1e-2
    np.testing.assert_allclose(found[0], found[2], atol=0.05)


def test_one_seed_is_one_answer_in_any_shape():
    found = mlp_predictions(H, Y[:, None], **KIND)
    np.testing.assert_allclose(found[:, 0], mlp_predictions(H, Y, **KIND), atol=1e-5)
    assert np.abs(np.asarray(found[:, 0] - mlp_predictions(H, Y, seed=1, **KIND))).max() > 1e-3


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (dict(folds=1), "folds"),
        (dict(folds=N + 1), "folds"),
        (dict(members=0), "members"),
        (dict(batch_rows=0), "batch_rows"),
        (dict(weight_decay=-1.0), "weight_decay"),
        (dict(groups=np.zeros(N)), "groups"),
    ],
)
def test_bad_input(change, named):
    with pytest.raises(InputError, match=named):
        mlp_predictions(H, Y, **(KIND | change))
