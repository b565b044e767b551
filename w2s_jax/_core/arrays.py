"""What every module does to an array on entry: make it one of NumPy or JAX, pick the dtype it is accumulated in, check its
shape, multiply it.

`entered` is the one way in: tensors of torch, data frames, masked arrays and lists become arrays of NumPy there.
bfloat16 and float16 are accumulated in float32, integers become the default float, float32 and float64 stay
what they are. `matmul` is the only product in the package that feeds a spectrum or a solve: whatever
`jax_default_matmul_precision` says it runs at full precision (TF32 and single-pass bfloat16 lose the answer), or, for
moments, by a sum of several low-precision products that is as good (devices/precision.py).
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.experimental import checkify
from jax.typing import ArrayLike

from w2s_jax._core.checks import (
    InputError,
    largest_entry,
    require_finite,
    require_largest,
    require_no_marks,
    warn_of_float_bits,
)

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


def entered(name: str, given: Any, lazily: bool = False) -> Any:
    """What was given as an array of NumPy, or of JAX if it is one: tensors (torch is never imported, and bfloat16 is kept), data
    frames and their columns, masked arrays without holes, lists of any of these. With `lazily` what has a shape, a dtype of
    NumPy and row slices, such as a memory map or a file, stays as it is.

    Raises:
        InputError: a masked array with holes, a sparse matrix, or what is no array of numbers.

    >>> entered("y", np.ma.array([1.0, 2.0], mask=[False, False]))
    array([1., 2.])
    """
    if isinstance(given, jax.Array | Tracer):
        return given
    if isinstance(given, np.ma.MaskedArray):
        holes = int(np.ma.getmaskarray(given).sum())
        if holes:
            raise InputError(
                f"{name} must have a number in every place, got a masked array with {holes} masked entries"
            )
        return np.asarray(given.data)
    if hasattr(given, "todense") or "sparse" in str(getattr(given, "layout", "")):
        raise InputError(f"{name} must be a dense array, got a sparse one ({type(given).__name__})")
    of_numpy = isinstance(getattr(given, "dtype", None), np.dtype) and not hasattr(given, "to_numpy")
    if lazily and of_numpy and hasattr(given, "shape"):
        return given
    try:
        if hasattr(given, "__jax_array__"):
            return jnp.asarray(given)
        found = _from_host(given)
        return found.astype(float) if found.dtype == object else found
    except jax.errors.TracerArrayConversionError:  # a list of what is traced
        return jnp.asarray(given)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{name} must be a numeric array, got {type(given).__name__}") from error


def _from_host(given: Any) -> np.ndarray:
    """Arrays of other packages, and lists, by what they can do."""
    if hasattr(given, "detach"):  # torch gives tensors away only without their gradient, and from its own memory
        given = given.detach().cpu()
    if type(given) in (list, tuple) and any(hasattr(row, "detach") for row in given):
        return np.stack([_from_host(row) for row in given])
    if hasattr(given, "to_numpy"):
        found = np.asarray(given.to_numpy())
        # Of pandas' columns of several types, or of such that know no number, objects.
        return given.to_numpy(dtype=float, na_value=np.nan) if found.dtype == object else found
    try:
        return np.asarray(given)
    except (TypeError, RuntimeError):
        if not hasattr(given, "__dlpack__"):
            raise
        # bfloat16, which torch does not give to NumPy.
        given = given.contiguous() if hasattr(given, "contiguous") else given
        return np.asarray(jnp.from_dlpack(given, copy=True))


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


def require_size(name: str, h: Array) -> None:
    """Raises InputError if a representation is so small that its squares are lost; tracers pass."""
    require_largest(name, size_of(h), accumulation_dtype(h.dtype))


def size_of(h: Array) -> float:
    """`largest_entry` of a representation; infinite of a tracer."""
    if isinstance(h, Tracer) or not h.is_fully_addressable:
        return np.inf
    return largest_entry(near(h), accumulation_dtype(h.dtype))


def near(x: Array) -> Any:
    """An array that is on a CPU as NumPy sees it there, which slices it without a program; another as it is."""
    return np.asarray(x) if next(iter(x.devices())).platform == "cpu" else x


def as_labels(name: str, array: ArrayLike, rows: int) -> Array:
    """Labels as a float array (n,) or (n, c) with the given number of rows.

    Raises:
        InputError: another rank or row count, complex, NaN/infinite entries, or -1 or -100 for no label beside classes.
    """
    array = _as_real(name, array)
    if array.ndim not in (1, 2) or array.shape[0] != rows or 0 in array.shape:
        raise InputError(f"{name} must have shape ({rows},) or ({rows}, outputs), got {array.shape}")
    if not isinstance(array, Tracer) and array.is_fully_addressable:
        require_no_marks(name, np.asarray(array).reshape(rows, -1), "leave those rows out")
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
    given: Any = entered(name, array)
    if isinstance(given, np.ndarray):
        warn_of_float_bits(name, given)
    try:
        # Of integers floats, before JAX narrows those of 64 bits.
        array = jnp.asarray(
            given.astype(float) if isinstance(given, np.ndarray) and given.dtype.kind in "iu" else given
        )
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
