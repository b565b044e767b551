"""What every module does to an array on entry: pick the dtype it is accumulated in, check its shape, multiply it.

bfloat16 and float16 are accumulated in float32, integers become the default float, float32 and float64 stay
what they are. `matmul` is the only product in the package that feeds a spectrum or a solve: whatever
`jax_default_matmul_precision` says it runs at full precision (TF32 and single-pass bfloat16 lose the answer), or, for
moments, by a sum of several low-precision products that is as good (devices/precision.py).
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.experimental import checkify
from jax.typing import ArrayLike

from w2s_jax._core.checks import InputError, require_finite

Precision = Literal["float32", "tf32_x3", "bf16_x3", "bf16_x6", "bf16_x9", "fastest"]
PRECISIONS = {
    "float32": jax.lax.Precision.HIGHEST,
    "tf32_x3": jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3,
    "bf16_x3": jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X3,
    "bf16_x6": jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X6,
    "bf16_x9": jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X9,
}


def matmul(a: Array, b: Array, precision: str = "float32") -> Array:
    """Matrix product at full precision of the operands' dtype, or of float32 ones by one of `PRECISIONS`."""
    name = precision if jnp.result_type(a, b) == jnp.float32 else "float32"
    return jnp.matmul(a, b, precision=PRECISIONS[name])


def label_products(h: Array, y: Array) -> Array:
    """`h^T y` (d,) or (d, c) for labels y (n,) or (n, c), with h as it lies: a CPU would copy its transpose for one column."""
    return matmul(y.T, h).T


def outer(a: Array, b: Array) -> Array:
    """Outer product by broadcasting: never a (rounded) matrix unit's product."""
    return a.reshape(a.shape + (1,) * b.ndim) * b


def accumulation_dtype(*dtypes: jnp.dtype) -> jnp.dtype:
    """The float dtype in which arrays of these dtypes are summed: at least float32."""
    return jnp.promote_types(jnp.result_type(*dtypes, jnp.float32), jnp.float32)


def bucket(width: int) -> int:
    """Widths share compiled programs in steps of a quarter to an eighth of their size, at least 64."""
    step = max(64, 2 ** (width.bit_length() - 3))
    return -(-width // step) * step


def as_matrix(name: str, array: ArrayLike) -> Array:
    """A representation as a 2-D float array; checks rank, emptiness and (outside jit) finiteness.

    Raises:
        InputError: not 2-D, no rows or columns, complex, or NaN/infinite entries.
    """
    array = _as_real(name, array)
    if array.ndim != 2:
        raise InputError(f"{name} must be 2-D (rows, features), got shape {array.shape}")
    if 0 in array.shape:
        raise InputError(f"{name} must have at least one row and one feature, got shape {array.shape}")
    return _finite(name, array)


def as_labels(name: str, array: ArrayLike, rows: int) -> Array:
    """Labels as a float array (n,) or (n, c) with the given number of rows.

    Raises:
        InputError: another rank or row count, complex, or NaN/infinite entries.
    """
    array = _as_real(name, array)
    if array.ndim not in (1, 2) or array.shape[0] != rows or 0 in array.shape:
        raise InputError(f"{name} must have shape ({rows},) or ({rows}, outputs), got {array.shape}")
    return _finite(name, array)


def as_weights(array: ArrayLike, rows: int) -> Array:
    """Weights of rows as a float array (n,).

    Raises:
        InputError: another shape, complex, NaN, infinite or negative entries.
    """
    array = _as_real("weights", array)
    if array.shape != (rows,):
        raise InputError(f"weights must have shape ({rows},), got {array.shape}")
    if not isinstance(array, Tracer) and (array < 0).any():
        raise InputError(f"weights must be at least 0, got {float(array.min()):g}")
    return _finite("weights", array)


def require_same_rows(h_w: Array, h_s: Array) -> None:
    """Raises InputError unless both arrays have the same number of rows."""
    if h_w.shape[0] != h_s.shape[0]:
        raise InputError(
            f"weak and strong representations must have the same number of rows, got {h_w.shape[0]} and {h_s.shape[0]}"
        )


def _as_real(name: str, array: ArrayLike) -> Array:
    if isinstance(array, np.ndarray | np.generic) and array.dtype.kind in "iu":
        array = array.astype(float)  # before JAX narrows 64-bit integers
    try:
        array = jnp.asarray(array)
    except OverflowError:  # a list of such integers
        array = jnp.asarray(np.asarray(array, float))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be a numeric array, got {type(array).__name__}") from error
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise InputError(f"{name} must be real, got {array.dtype}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(jnp.result_type(float))
    return array


def _finite(name: str, array: Array) -> Array:
    require_finite(name, array)
    if isinstance(array, Tracer):
        checkify.debug_check(jnp.all(jnp.isfinite(array)), f"{name} must be finite")
    return array
