"""Losses of a head trained by gradients: cross-entropies, their reverse, and the losses for weak labels.

A loss is a small pytree; what it is compared with may follow the student or the step (confidence auxiliary loss).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from w2s_jax._core.arrays import matmul
from w2s_jax._core.checks import InputError, require_choice, require_range

__all__ = [
    "Loss",
    "confidence_auxiliary",
    "confidence_window",
    "logistic",
    "product",
    "reverse_cross_entropy",
    "softmax",
    "squared",
]


class Loss:
    """Base of all losses of a head: called with outputs z and targets, (n,) or (n, c), it returns losses per row (n,).

    `curvature` is about the largest second derivative in z; `targets` turns labels into what the outputs are held
    against, without a gradient. `moving` says that the targets follow the student or the step, so that the loss can only
    be followed for a number of steps, not minimised.

    >>> softmax().slope(jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]])).tolist()
    [[-0.5, 0.5]]
    """

    curvature: ClassVar[float] = 0.25
    moving: ClassVar[bool] = False

    def __call__(self, z: Array, targets: Array) -> Array:
        raise NotImplementedError

    def check(self, y: Array) -> None:
        """Raises InputError for labels that the loss is not defined for."""
        require_range("labels of a classification loss", y, 0, 1)

    def link(self, mean: Array) -> Array:
        """The constant outputs that fit labels of this mean."""
        mean = jnp.clip(mean, 0.01, 0.99)
        return jnp.log(mean) if mean.ndim else jnp.log(mean) - jnp.log1p(-mean)

    def targets(self, z: Array, y: Array, weights: Array, step: Array) -> Array:
        return y

    def slope(self, z: Array, targets: Array) -> Array:
        """Derivatives of the losses in the outputs, shape of z."""
        return jax.grad(lambda z: jnp.sum(self(z, targets)))(z)


def _loss(cls: type) -> type:
    return jax.tree_util.register_dataclass(dataclass(frozen=True)(cls))


@_loss
class squared(Loss):
    """`||z - y||^2`: the loss of the ridge head.

    >>> squared()(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0])).tolist()
    [0.0, 4.0]
    """

    curvature: ClassVar[float] = 2.0

    def __call__(self, z: Array, targets: Array) -> Array:
        return _sum_outputs(jnp.square(z - targets))

    def check(self, y: Array) -> None:
        pass

    def link(self, mean: Array) -> Array:
        return mean


@_loss
class logistic(Loss):
    """Cross-entropy of a sigmoid with labels in [0, 1], hard or soft; several outputs are independent and add up.

    >>> [f"{x:.3f}" for x in logistic()(jnp.array([0.0, 20.0]), jnp.array([0.5, 1.0]))]
    ['0.693', '0.000']
    """

    def __call__(self, z: Array, targets: Array) -> Array:
        return _sum_outputs(jnp.logaddexp(z, 0) - targets * z)

    def slope(self, z: Array, targets: Array) -> Array:
        return jax.nn.sigmoid(z) - targets  # half the time of differentiating the logarithm

    def link(self, mean: Array) -> Array:
        mean = jnp.clip(mean, 0.01, 0.99)
        return jnp.log(mean) - jnp.log1p(-mean)


@_loss
class softmax(Loss):
    """Cross-entropy of a softmax over c outputs with labels (n, c), one-hot or soft.

    >>> [f"{x:.3f}" for x in softmax()(jnp.zeros((1, 4)), jnp.array([[1.0, 0.0, 0.0, 0.0]]))]  # log 4
    ['1.386']
    """

    curvature: ClassVar[float] = 0.5

    def __call__(self, z: Array, targets: Array) -> Array:
        return jnp.sum(targets, -1) * jax.nn.logsumexp(z, -1) - jnp.sum(targets * z, -1)

    def check(self, y: Array) -> None:
        super().check(y)
        if y.ndim != 2 or y.shape[1] < 2:
            raise InputError(f"labels of a softmax must have shape (n, classes) of at least two classes, got {y.shape}")


@_loss
class reverse_cross_entropy(Loss):
    """Cross-entropy with the student in the first argument, `-sum p_student log y`, less `entropy` times H(p_student).

    entropy = 0 is reverse cross-entropy (Xu et al. 2025), entropy = 1 is KL(student || labels), whose misfit bounds the
    student's gain (Mulgund & Pabbaraju 2025). Labels (n,) of one class or (n, c), mixed with a share `floor` of the
    uniform distribution so that log y is finite. Not convex: the fit is a stationary point.

    >>> [f"{abs(x):.3f}" for x in reverse_cross_entropy(entropy=1.0)(jnp.zeros(1), jnp.array([0.5]))]  # KL of equals
    ['0.000']
    """

    entropy: ArrayLike = 0.0
    floor: ArrayLike = 1e-2
    curvature: ClassVar[float] = 0.5

    def __call__(self, z: Array, targets: Array) -> Array:
        z, targets = _as_classes(z, targets)
        student = jax.nn.log_softmax(z)
        teacher = jnp.log((1 - self.floor) * targets + self.floor / targets.shape[-1])
        return jnp.sum(jnp.exp(student) * (self.entropy * student - teacher), -1)


@_loss
class confidence_auxiliary(Loss):
    """Cross-entropy with `(1 - c) y + c hardened(student)`, c rising linearly to `coef` over `warm_up` steps.

    The student's own predictions are hardened at the quantile that gives each class its share among the labels; more
    than two classes are told apart by how far each one's probability is above its quantile. Labels (n,) or (n, c).

    >>> loss, z, y = confidence_auxiliary(coef=0.5, warm_up=0), jnp.array([2.0, -1.0]), jnp.array([0.6, 0.4])
    >>> [f"{x:.2f}" for x in loss.targets(z, y, jnp.full(2, 0.5), step=1)]
    ['0.80', '0.20']

    Source: Burns et al. 2023, confidence auxiliary loss, with all rows in one batch.
    """

    coef: ArrayLike = 0.5
    warm_up: ArrayLike = 200
    moving: ClassVar[bool] = True

    def __call__(self, z: Array, targets: Array) -> Array:
        return _cross_entropy(z, targets)

    def targets(self, z: Array, y: Array, weights: Array, step: Array) -> Array:
        c = jnp.asarray(self.coef * jnp.clip(step / jnp.maximum(self.warm_up, 1), self.warm_up == 0, 1), z.dtype)
        return (1 - c) * y + c * _hardened(z, y, weights)


@_loss
class product(Loss):
    """Cross-entropy with targets proportional to `p_student^student y^teacher` (EleutherAI/w2s). Labels (n,) or (n, c).

    >>> [f"{x:.2f}" for x in product().targets(jnp.zeros(1), jnp.array([0.7]), jnp.ones(1), step=0)]
    ['0.70']
    """

    student: ArrayLike = 1.0
    teacher: ArrayLike = 1.0
    moving: ClassVar[bool] = True

    def __call__(self, z: Array, targets: Array) -> Array:
        return _cross_entropy(z, targets)

    def targets(self, z: Array, y: Array, weights: Array, step: Array) -> Array:
        outputs, labels = _as_classes(z, y)
        # Labels of 0 stay 0; the largest term is taken out so that the rest does not underflow.
        target = jax.nn.softmax(self.student * jax.nn.log_softmax(outputs) + self.teacher * jnp.log(labels))
        return target[:, 1].reshape(z.shape) if _is_one_class(z) else target


@_loss
class confidence_window(Loss):
    """Cross-entropy on the rows where the student's largest probability is below `.5 + radius` (EleutherAI/w2s).

    >>> [f"{x:.3f}" for x in confidence_window(0.25)(jnp.array([0.0, 5.0]), jnp.array([1.0, 1.0]))]
    ['0.693', '0.000']
    """

    radius: ArrayLike = 0.25
    moving: ClassVar[bool] = True

    def __call__(self, z: Array, targets: Array) -> Array:
        largest = jnp.max(jax.nn.softmax(_as_classes(z, targets)[0]), -1)
        return jnp.where(largest < 0.5 + self.radius, _cross_entropy(z, targets), 0)


LossName = Literal["squared", "logistic", "softmax"]
LOSSES: dict[LossName, type[Loss]] = {"squared": squared, "logistic": logistic, "softmax": softmax}


def _sum_outputs(x: Array) -> Array:
    return x if x.ndim == 1 else jnp.sum(x, -1)


def _cross_entropy(z: Array, targets: Array) -> Array:
    return logistic()(z, targets) if _is_one_class(z) else softmax()(z, targets)


def _is_one_class(z: Array) -> bool:
    """Whether outputs (n,) or (n, 1) are the logits of one class against the other."""
    return z.ndim == 1 or z.shape[1] == 1


def _as_classes(z: Array, y: Array) -> tuple[Array, Array]:
    """Logits and labels of one class (n,) or (n, 1) as those of two (n, 2); those of c classes as they are."""
    if not _is_one_class(z):
        return z, y
    z, y = z.reshape(-1), y.reshape(-1)
    return jnp.stack([jnp.zeros_like(z), z], -1), jnp.stack([1 - y, y], -1)


def _hardened(z: Array, y: Array, weights: Array) -> Array:
    """The student's predictions as 0 or 1, each class as frequent as in the labels."""
    if _is_one_class(z):
        return (z > _quantile_above(z.reshape(-1), matmul(weights, y.reshape(-1)), weights)).astype(z.dtype)
    p = jax.nn.softmax(z)
    above = p - jax.vmap(_quantile_above, (1, 0, None))(p, matmul(weights, y), weights)
    return jax.nn.one_hot(jnp.argmax(above, -1), z.shape[1], dtype=z.dtype)


def _quantile_above(values: Array, share: Array, weights: Array) -> Array:
    """The number that a share of the weight lies above: halfway between the last value above it and the next."""
    order = jnp.argsort(-values)
    ranked, weight = values[order], weights[order]
    above = jnp.sum(jnp.cumsum(weight) - weight / 2 < share)
    ends = jnp.concatenate([ranked[:1] + 1, ranked, ranked[-1:] - 1])
    return (ends[above] + ends[above + 1]) / 2


def as_loss(loss: LossName | Loss) -> Loss:
    if isinstance(loss, Loss):
        return loss
    require_choice("loss", loss, LossName, "a Loss")
    return LOSSES[loss]()
