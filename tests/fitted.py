"""What the tests of heads share: rows with labels of two kinds, and a head's coefficients."""

from __future__ import annotations

import numpy as np
import reference

from w2s_jax.heads.ridge import (
    LinearProbe,
)

SHAPES = ((12, 20), (16, 16), (40, 6))  # n <, =, > d
CASES = [(SHAPES[0], True), (SHAPES[1], False), (SHAPES[2], True), (SHAPES[2], False)]  # with and without bias
PENALTIES = np.array([1e-3, 1e-2, 0.3])


def rows(n: int, d: int, dtype: type = np.float64, seed: int = 0, outputs: int | None = 2, mean: float = 3.0):
    """A representation about a mean, and noisy linear labels (n,) or (n, outputs)."""
    rng = np.random.default_rng(seed)
    h = rng.standard_normal((n, d)) / np.sqrt(1 + np.arange(d) / 4)
    y = 1 + h @ rng.standard_normal((d, outputs or 1)) + 0.3 * rng.standard_normal((n, outputs or 1))
    return (h + mean).astype(dtype), (y if outputs else y[:, 0]).astype(dtype)


def classes(n: int, d: int, dtype: type = np.float64, seed: int = 0, outputs: int | None = None):
    """A representation, and 0/1 labels (n,) or one-hot ones (n, outputs), no class being separable."""
    h, y = rows(n, d, dtype, seed, outputs)
    y = y + np.random.default_rng(seed + 1).standard_normal(y.shape)
    return h, (y > np.median(y) if outputs is None else np.eye(outputs)[np.argmax(y, 1)]).astype(dtype)


def coefficients(probe: LinearProbe) -> np.ndarray:
    """Kernel and, in a last row, bias."""
    kernel = np.asarray(probe.kernel[...])
    return kernel if probe.bias is None else np.concatenate([kernel, np.asarray(probe.bias[...])[None]])


def expected_coefficients(*arguments, bias: bool = True, **options) -> np.ndarray:
    theta, intercept = reference.ridge_probe(*arguments, bias=bias, **options)
    return np.concatenate([theta, np.asarray(intercept)[None]]) if bias else theta


def precision(dtype: np.dtype) -> float:
    return 1e-10 if dtype == np.float64 else 1e-5


H, Y = np.ones((4, 3), np.float32), np.arange(4.0)
