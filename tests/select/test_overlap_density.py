"""Overlap density: confidences, change points and similarities against their sentences, tried out one by one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from w2s_jax import InputError
from w2s_jax._core import row_blocks
from w2s_jax.select import change_point, choose_source, overlap_density, weak_confidence

N, D = 61, 7


def rows(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    h = rng.standard_normal((N, D)) + 0.5
    h[3] = 0  # a row of zeros is similar to none
    return h, np.round(rng.beta(0.5, 0.5, N), 2)


@pytest.mark.everything
def test_confidence_of_two_classes_either_way():
    p = np.linspace(0, 1, 11)
    np.testing.assert_allclose(weak_confidence(p), 2 * np.abs(p - 0.5), atol=1e-6)
    np.testing.assert_allclose(weak_confidence(np.stack([1 - p, p], 1)), weak_confidence(p), atol=1e-6)
    np.testing.assert_allclose(weak_confidence(np.eye(4)), 1)
    np.testing.assert_allclose(weak_confidence(np.full((2, 4), 0.25)), 0, atol=1e-6)


@pytest.mark.everything
@given(st.lists(st.integers(-20, 20), min_size=2, max_size=30).filter(lambda x: len(set(x)) > 1))
def test_change_point_is_the_best_split(values):
    """Of equal costs either: its own cost is the least."""
    values = np.array(values, float)
    padded = np.concatenate([values, np.full(30 - len(values), 7.0)])  # of one length, so that one program does
    found = float(change_point(padded, np.arange(30) < len(values)))
    spread = lambda part: np.sum((part - part.mean()) ** 2)
    cost = lambda threshold: spread(values[values <= threshold]) + spread(values[values > threshold])
    assert found in values and found < values.max()
    assert cost(found) <= cost(reference.change_point(values)) + 1e-3


def test_change_point_without_a_change():
    """All values are the lower part if they are equal; none are below an infinite threshold if none count."""
    assert float(change_point(np.full(3, 2.0))) == 2
    assert float(change_point(np.array([2.0]))) == 2
    assert float(change_point(np.array([2.0, 3.0]), np.zeros(2, bool))) == np.inf


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("normalize", ["none", "scale", "features"])
def test_overlap_is_the_dense_one(normalize, dtype, monkeypatch):
    """Also where blocks are of a few rows, with some left over."""
    monkeypatch.setattr(row_blocks, "BLOCK_ENTRIES", 16 * N)
    h, confidence = rows()
    found = overlap_density(h.astype(dtype), confidence.astype(dtype), normalize=normalize)
    hard, overlap, density = reference.overlap_density(h, confidence, normalize)
    assert (np.asarray(found.hard) == hard).all() and (np.asarray(found.overlap) == overlap).all()
    assert float(found.density) == pytest.approx(density, rel=1e-6)
    assert repr(found) == (
        f"OverlapDensity(density {density:.3g}: {hard.sum()} hard, {(~hard & ~overlap).sum()} easy, "
        f"{overlap.sum()} overlapping of {N} rows)"
    )
    scores = np.asarray(found.scores)
    assert scores[hard].max() < scores[~hard].min()


def test_rotations_change_no_similarity(x64):
    h, confidence = rows()
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((D, D)))[0]
    found = [overlap_density(z, confidence) for z in (h, 3 * h @ rotation)]
    np.testing.assert_allclose(found[0].similarity, found[1].similarity, atol=1e-12)


def test_runs_under_jit_and_vmap():
    """Thresholds and masks of several confidences in one program."""
    h, confidence = rows()
    several = np.stack([confidence, confidence[::-1]])
    found = jax.jit(jax.vmap(lambda c: overlap_density(h, c).overlap))(several)
    for one, c in zip(found, several, strict=True):
        np.testing.assert_array_equal(one, overlap_density(h, c).overlap)


def test_everything_hard_overlaps_nowhere():
    """A confidence that is the same everywhere has no change point."""
    found = overlap_density(rows()[0], np.full(N, 0.5))
    assert bool(found.hard.all()) and not bool(found.overlap.any()) and float(found.density) == 0


def test_the_bandit_comes_to_the_densest_source():
    """Each source is tried, and in the end most draws go to the best."""
    density, draws = jnp.array([0.1, 0.5, 0.3]), np.zeros(3)
    for _ in range(300):
        draws[int(choose_source(density, draws, exploration=0.1))] += 1
    assert draws.min() >= 1 and draws.argmax() == 1 and draws[1] > 150
    assert int(choose_source(np.array([np.nan, 0.2]), np.array([0, 1]))) == 0


@pytest.mark.everything(but=1)
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: weak_confidence([1.5]), "probabilities"),
        (lambda: weak_confidence([[0.5, 0.1]]), "sum to 1"),
        (lambda: weak_confidence(0.5), "probabilities"),
        (lambda: change_point([[1.0]]), "values"),
        (lambda: change_point([np.nan, 1.0]), "values"),
        (lambda: change_point([1.0, 2.0], [True]), "counted_rows"),
        (lambda: overlap_density(np.ones((3, 2)), [0.1, 0.2]), "confidence"),
        (lambda: overlap_density(np.ones((3, 2)), [0.1, 0.2, 2.0]), "confidence"),
        (lambda: overlap_density(np.ones((3, 2)), [0.1, 0.2, 0.3], normalize="all"), "normalize"),
        (lambda: choose_source([0.1], [1, 2]), "sources"),
        (lambda: choose_source([0.1], [-1]), "draws"),
    ],
)
def test_bad_input(call, named):
    with pytest.raises(InputError, match=named):
        call()
