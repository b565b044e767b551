"""Batches of texts: every text once, within the budget, in few shapes; pooling is over real tokens alone."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2s_jax.extract import pooled
from w2s_jax.extract.batches import length_bucket, token_batches

POOLS = ("mean", "last", "cls", "max")


@given(st.lists(st.integers(1, 200), min_size=1, max_size=80), st.integers(1, 900), st.integers(1, 4))
def test_every_text_once(lengths, budget, multiple):
    tokens = [list(range(length)) for length in lengths]
    seen, shapes = [], set()
    for batch in token_batches(tokens, budget, 200, multiple):
        size, length = batch.tokens.shape
        assert size * length <= budget or size == multiple
        assert size % multiple == 0 and length <= 200
        for row in range(size):
            text = tokens[batch.places[min(row, len(batch.places) - 1)]]
            assert batch.tokens[row][batch.mask[row]].tolist() == text
            assert not batch.mask[row, len(text) :].any()
        seen += batch.places.tolist()
        shapes.add(length)
    assert sorted(seen) == list(range(len(tokens)))
    assert len(shapes) <= 11


def test_lengths_are_few_and_close():
    found = [length_bucket(length) for length in range(1, 513)]
    assert found == sorted(found) and len(set(found)) == 13
    assert all(length <= bucket <= max(8, 1.5 * length) for length, bucket in enumerate(found, 1))
    assert length_bucket(150, 160) == 160


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("pool", POOLS)
def test_pooling_is_over_real_tokens(pool, dtype):
    hidden = jnp.asarray(np.random.default_rng(0).standard_normal((4, 7, 3)), dtype)
    mask = np.arange(7) < np.array([[7], [3], [1], [5]])
    mask[3, 0] = False  # padded on the left
    hidden = jnp.where(mask[..., None], hidden, jnp.nan)
    found = pooled(hidden, jnp.array(mask), pool)
    assert found.dtype == jnp.float32
    for row in range(4):
        real = np.asarray(hidden, np.float64)[row][mask[row]]
        expected = {"mean": real.mean(0), "last": real[-1], "cls": real[0], "max": real.max(0)}[pool]
        np.testing.assert_allclose(found[row], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pool", POOLS)
def test_no_real_token_is_nan(pool):
    assert np.isnan(pooled(jnp.ones((1, 3, 2)), jnp.zeros((1, 3), bool), pool)).all()
