"""Agreement, consensus, gap and misfit of weak labels, against dense NumPy and the bound they are for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from scipy.optimize import minimize

import w2s_jax as w2s
from w2s_jax.predictors import agreement, consensus, misfit_bregman, weak_label_gap

M, N, C = 5, 40, 3
RNG = np.random.default_rng(0)
CLASSES = RNG.integers(0, C, (M, N)).astype(float)
OUTPUTS = RNG.standard_normal((M, N, C))
SOFT = RNG.random((M, N))


def probabilities(shape: tuple[int, ...]) -> np.ndarray:
    p = RNG.random(shape)
    return p / p.sum(-1, keepdims=True)


def test_agreement_is_the_share_of_equal_classes(dtype):
    forms = [
        (CLASSES, None, CLASSES),
        (OUTPUTS, None, OUTPUTS.argmax(2)),
        (SOFT, 0.5, SOFT > 0.5),
        (SOFT[..., None], 0.5, SOFT > 0.5),
    ]
    for given, middle, classes in forms:
        found = agreement(given.astype(dtype), middle=middle)
        wanted = np.array([[np.mean(a == b) for b in classes] for a in classes])
        np.testing.assert_allclose(found.pairs, wanted, rtol=1e-6)
        rest = [np.mean(np.delete(wanted[i], i)) for i in range(M)]
        np.testing.assert_allclose(found.each, rest, rtol=1e-6)


def test_consensus_is_the_mean_or_the_most_frequent_class():
    np.testing.assert_allclose(consensus(list(OUTPUTS)), OUTPUTS.mean(0), atol=1e-6)
    of_rows = [np.bincount(column.astype(int), minlength=C) for column in CLASSES.T]
    found = np.asarray(consensus(CLASSES, "vote")).astype(int)
    for said, counts, column in zip(found, of_rows, CLASSES.T, strict=True):
        most = np.flatnonzero(counts == counts.max())
        assert said == next(label for label in column if label in most)  # the first model's
    by_class = np.asarray(consensus(np.eye(C)[CLASSES.astype(int)], "vote"))
    np.testing.assert_array_equal(by_class, np.eye(C)[found])
    np.testing.assert_array_equal(consensus(SOFT, "vote", middle=0.5), (SOFT > 0.5).sum(0) > M / 2)


def test_the_gap_of_weak_labels_is_the_theorem_s(x64):
    h_w, h_s = RNG.standard_normal((N, 6)), RNG.standard_normal((N, 8))
    centred = [h - h.mean(0) for h in (h_w, h_s)]
    labels = consensus(SOFT)
    ridges = 0.1, 0.01
    wanted = reference.prediction_gap(*centred, np.asarray(labels), *map(reference.ridge, ridges))
    found = weak_label_gap(h_w, h_s, labels, *map(w2s.ridge, ridges), bias=True)
    assert float(found) == pytest.approx(float(wanted), rel=1e-9)
    grid = weak_label_gap(h_w, h_s, OUTPUTS[0], w2s.ridge([0.1, 1.0]), w2s.ridge(0.01), bias=True)
    assert grid.shape == (2, C)
    own = centred[0] @ RNG.standard_normal(6)  # a ridgeless head's outputs on its own rows
    assert float(weak_label_gap(h_w, h_s, own, w2s.projection(), w2s.ridge(0.01), bias=True)) == pytest.approx(0)


def test_the_misfit_is_a_mean_divergence(dtype):
    for p, q in (
        (SOFT[0], SOFT[1]),
        (np.eye(C)[CLASSES[0].astype(int)], probabilities((N, C))),
        (SOFT[0] > 0.5, SOFT[1]),
    ):
        p = p.astype(dtype)
        found = misfit_bregman(p, q.astype(dtype))
        assert float(found) == pytest.approx(reference.kl_divergence(p, q), rel=1e-5)
    assert float(misfit_bregman(OUTPUTS[0], OUTPUTS[1], "squared")) == pytest.approx(
        np.sum((OUTPUTS[0] - OUTPUTS[1]) ** 2) / N, rel=1e-5
    )
    assert float(misfit_bregman(np.array([0.5]), np.array([0.0]))) == np.inf
    assert float(jax.jit(misfit_bregman)(SOFT[0], SOFT[0])) == pytest.approx(0, abs=1e-6)
    slope = jax.grad(lambda q: misfit_bregman(jnp.array([1.0, 0.0]), q))(jnp.array([0.5, 0.2]))
    np.testing.assert_allclose(slope, [-1.0, 0.625], rtol=1e-5)


@pytest.mark.parametrize("divergence", ["kl", "squared"])
def test_a_student_of_a_convex_class_gains_no_less(divergence, x64):
    """The class: convex combinations of a few predictors, of which the target is one; the student is the projection."""
    corners = probabilities((4, N, C))
    of = lambda a: np.tensordot(np.exp(a) / np.exp(a).sum(), corners, 1)
    target, weak = of(RNG.standard_normal(4)), probabilities((N, C))
    loss = jax.jit(lambda a: misfit_bregman(jnp.tensordot(jax.nn.softmax(a), corners, 1), weak, divergence))
    found = minimize(loss, np.zeros(4), jac=jax.jit(jax.grad(loss)), options={"gtol": 1e-9})
    gain = misfit_bregman(target, weak, divergence) - misfit_bregman(target, of(found.x), divergence)
    assert float(gain) >= float(misfit_bregman(of(found.x), weak, divergence)) - 1e-8 > 0


def test_bad_arguments_are_named(unchecked):
    for call, words in (
        (lambda: agreement(CLASSES[:1]), "weak_labels must be of at least two models, got 1"),
        (lambda: agreement(3.0), "weak_labels must be those of several models"),
        (lambda: agreement([1.0, 2.0]), r"weak_labels must have shape \(n,\)"),
        (lambda: agreement([CLASSES[0], CLASSES[1][1:]]), r"weak_labels\[1\] must have shape \(40,\)"),
        (lambda: agreement([CLASSES[0], OUTPUTS[1]]), "of one shape for all models"),
        (lambda: agreement(OUTPUTS, middle=0.5), r"middle is for labels \(m, n\)"),
        (lambda: consensus(CLASSES, "median"), "how must be"),
        (lambda: consensus(np.where(CLASSES > 1, np.nan, CLASSES)), r"weak_labels\[0\] contain"),
        (lambda: misfit_bregman(SOFT[0], SOFT[0][1:]), "student and weak must have the same shape"),
        (lambda: misfit_bregman(SOFT[0], 2 * SOFT[1]), "weak must be between 0 and 1"),
        (lambda: misfit_bregman(OUTPUTS[0] ** 0, OUTPUTS[0] ** 0), "student must have rows that add up to 1"),
        (lambda: misfit_bregman(SOFT[0], SOFT[1], "js"), "divergence must be"),
    ):
        with pytest.raises(w2s.InputError, match=words):
            call()
