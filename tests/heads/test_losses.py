"""Losses of weak labels: their formulas, their slopes, and the students that they make."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from conftest import entrywise_error
from fitted import classes

from w2s_jax.heads.losses import (
    confidence_auxiliary,
    confidence_window,
    logistic,
    product,
    reverse_cross_entropy,
    softmax,
    squared,
)
from w2s_jax.heads.ridge import (
    LinearProbe,
)
from w2s_jax.heads.trained import train_probe


def test_hardened_predictions_keep_the_class_shares(x64):
    """The auxiliary target is `(1 - c) y + c hardened`, each class as frequent as in the labels, c rising to coef."""
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal(50) - 2, rng.random(50)
    weights = np.full(50, 1 / 50)
    count = round(y.sum())
    hard = np.zeros(50)
    hard[np.argsort(-z)[:count]] = 1
    loss = confidence_auxiliary(coef=0.4, warm_up=10)
    for step, c in ((0, 0.0), (5, 0.2), (10, 0.4), (99, 0.4)):
        found = loss.targets(jnp.asarray(z), jnp.asarray(y), jnp.asarray(weights), jnp.asarray(step))
        assert entrywise_error(found, (1 - c) * y + c * hard) <= 1e-12
    two = loss.targets(jnp.stack([0 * z, z], 1), jnp.stack([1 - y, y], 1), jnp.asarray(weights), jnp.asarray(10))
    assert entrywise_error(two[:, 1], 0.6 * y + 0.4 * hard) <= 1e-12


def test_no_gradient_passes_through_a_moving_target(x64):
    """One step of gradient descent is that of cross-entropy with the target held still."""
    h, y = classes(40, 4)
    y = 0.9 * y + 0.05
    start = LinearProbe(np.full(4, 0.3))
    loss, rate = confidence_auxiliary(coef=0.5, warm_up=1e-9), 0.1
    found = train_probe(h, y, 0.0, loss, bias=False, optimizer=optax.sgd(rate), max_steps=2, start=start).probe
    kernel = np.full(4, 0.3)
    for step in (0, 1):  # the coefficient is still 0 at step 0
        hard = np.zeros(40)
        hard[np.argsort(-(h @ kernel))[: round(y.sum())]] = 1
        target = y if step == 0 else 0.5 * y + 0.5 * hard
        kernel = kernel - rate * h.T @ (1 / (1 + np.exp(-h @ kernel)) - target) / 40
    assert entrywise_error(found.kernel[...], kernel) <= 1e-12


def test_a_confident_student_is_less_like_its_teacher():
    """With the auxiliary loss predictions are further from 1/2 and disagree with more of the weak labels' mistakes."""
    rng = np.random.default_rng(0)
    h = rng.standard_normal((400, 4)).astype(np.float32)
    truth = h[:, 0] > 0
    weak = np.where(rng.random(400) < 0.2, ~truth, truth).astype(np.float32)
    plain = train_probe(h, weak, 1e-3, "logistic").probe(h)
    found = train_probe(h, weak, 1e-3, confidence_auxiliary())
    assert found.steps == 1000
    assert jnp.mean(jnp.abs(found.probe(h))) > 1.5 * jnp.mean(jnp.abs(plain))
    assert jnp.mean((found.probe(h) > 0) == truth) > 0.9


def test_the_other_losses_of_weak_labels_are_their_formulas(x64):
    """Product targets, the confidence window and the reverse cross-entropy, for one class and for three."""
    rng = np.random.default_rng(0)
    for shape in ((20,), (20, 3)):
        z = 2 * rng.standard_normal(shape)
        y = rng.random(shape) if len(shape) == 1 else rng.dirichlet(np.ones(3), 20)
        two = (np.stack([0 * z, z], 1), np.stack([1 - y, y], 1)) if len(shape) == 1 else (z, y)
        p = np.exp(two[0]) / np.exp(two[0]).sum(1, keepdims=True)
        mixed = p**0.5 * two[1] ** 2
        mixed /= mixed.sum(1, keepdims=True)
        found = product(0.5, 2.0).targets(jnp.asarray(z), jnp.asarray(y), jnp.ones(20) / 20, jnp.asarray(0))
        assert entrywise_error(found, mixed[:, 1] if len(shape) == 1 else mixed) <= 1e-12
        inside = np.where(p.max(1) < 0.7, reference.cross_entropy(z, y), 0)
        assert entrywise_error(confidence_window(0.2)(jnp.asarray(z), jnp.asarray(y)), inside) <= 1e-12
        reverse = reverse_cross_entropy(0.3, 0.05)(jnp.asarray(z), jnp.asarray(y))
        assert entrywise_error(reverse, reference.reverse_cross_entropy(z, y, 0.3, 0.05)) <= 1e-12


@pytest.mark.parametrize("loss", [squared(), logistic(), softmax(), reverse_cross_entropy(), confidence_window()])
def test_slopes_are_derivatives_of_losses(loss, x64):
    """The slope that training uses is the derivative of the loss in the outputs."""
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((10, 3)), rng.dirichlet(np.ones(3), 10)
    step = 1e-5
    for j in range(3):
        change = step * np.eye(3)[j]
        ahead, back = (loss(jnp.asarray(z + by), jnp.asarray(y)) for by in (change, -change))
        difference = (ahead - back) / (2 * step)
        assert entrywise_error(loss.slope(jnp.asarray(z), jnp.asarray(y))[:, j], difference) <= 1e-8


@pytest.mark.everything(but=1)
@pytest.mark.parametrize(
    "loss",
    [reverse_cross_entropy(), confidence_auxiliary(), confidence_auxiliary(warm_up=0), product(), confidence_window()],
)
def test_one_column_of_labels_is_one_class(loss):
    """Labels (n, 1) fit what labels (n,) do, and not a softmax of one output, which is constant."""
    rng = np.random.default_rng(0)
    h = rng.standard_normal((60, 4))
    y = (h[:, 0] + 0.5 * rng.standard_normal(60) > 0).astype(float)
    column, flat = (train_probe(h, labels, 0.1, loss).probe for labels in (y[:, None], y))
    assert np.abs(flat.kernel[...]).max() > 1e-2
    assert entrywise_error(column.kernel[...][:, 0], flat.kernel[...]) <= 1e-4
