"""The one exception for bad input, and the check for NaN and infinity that every way into the package shares.

Data-dependent faults can only be seen where values are concrete, so `require_finite` looks at NumPy arrays
and at concrete JAX arrays, and passes tracers by: the same entry point works inside and outside `jax.jit`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

_BLOCK_ENTRIES = 1 << 20  # a NumPy check makes a boolean temporary of about this many bytes
_SAMPLE = 1 << 14  # entries that tell what integers are
_MOST_CLASSES = 10_000


class InputError(ValueError):
    """Bad input, in one sentence: which argument, what was expected, what came.

    >>> from w2s_jax import moments
    >>> moments([[1.0], [2.0]], [[1.0]])
    Traceback (most recent call last):
        ...
    w2s_jax._core.checks.InputError: weak and strong representations must have the same number of rows, got 2 and 1
    """


def require_finite(name: str, array: np.ndarray | jax.Array, first_row: int = 0) -> None:
    """Raises unless every entry is finite; `first_row` is where in the whole data the array's rows start.

    Integers, booleans and tracers pass without being read.

    Raises:
        InputError: NaN or infinite entries; it says how many there are and in which row the first one is.
    """
    if isinstance(array, Tracer) or not jnp.issubdtype(array.dtype, jnp.inexact):
        return
    if isinstance(array, jax.Array):
        with jax.ensure_compile_time_eval():  # else a constant's verdict is a tracer inside jit
            faults = None if _all_finite(array) else _device_faults(array)
    else:
        faults = None if all(np.isfinite(block).all() for _, block in _blocks(array)) else _host_faults(array)
    if faults is not None:
        count, row = int(faults[0]), int(faults[1]) + first_row
        what = f"{count} NaN or infinite values, the first" if count > 1 else "1 NaN or infinite value,"
        raise InputError(f"{name} contain {what} in row {row}")


@jax.jit
def _all_finite(array: jax.Array) -> jax.Array:
    # What is not finite is not zero times zero; sums of floats are several times as fast as those of truth values on a CPU.
    return jnp.sum(0 * array) == 0


@jax.jit
def _device_faults(array: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Number of bad entries and the first bad row; two scalars, as no host may hold the whole array."""
    bad = ~jnp.isfinite(jnp.atleast_1d(array))
    return bad.sum(dtype=jnp.uint32), bad.any(axis=tuple(range(1, bad.ndim))).argmax()


def _host_faults(array: np.ndarray) -> tuple[int, int]:
    count, first = 0, -1
    for start, block in _blocks(array):
        rows, *_ = np.nonzero(~np.isfinite(block))
        if len(rows) and count == 0:
            first = start + int(rows[0])
        count += len(rows)
    return count, first


def _blocks(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The rows in blocks, each with the index of its first row."""
    array = np.atleast_1d(array)
    size = max(1, _BLOCK_ENTRIES * len(array) // max(1, array.size))
    return ((start, array[start : start + size]) for start in range(0, len(array), size))


def warn_of_classes(name: str, y: np.ndarray) -> None:
    """Warns if labels (n,), NaN where there are none, are 0, 1, 2, ...: rather numbers of classes than values to regress on."""
    if y.ndim != 1 or not np.array_equal(y, np.round(y), equal_nan=True):
        return
    found = np.unique(y[~np.isnan(y)])
    if len(found) > 2 and np.array_equal(found, np.arange(len(found))):
        warnings.warn(
            f"{name} are the numbers 0 to {len(found) - 1}, taken as values; for classes give one-hot rows (n, {len(found)})",
            stacklevel=5,
        )


def require_no_marks(name: str, y: np.ndarray, remedy: str) -> None:
    """Raises InputError if labels (n, c) hold classes and beside them -100 or -1, as torch and scikit-learn write no label."""
    for mark in (-100, -1):
        marked = (y == mark).all(1)
        others = y[~marked] if marked.any() else y[:0]
        others = np.asarray(others[~np.isnan(others)], float)
        integers = np.isfinite(others).all() and np.array_equal(others, np.round(others))
        if not others.size or not integers or others.max() >= _MOST_CLASSES:
            continue
        low, high = int(others.min()), int(others.max())
        # -1 and 1, or -1 and 0, are two classes; -1 beside integers with gaps is a value like them.
        all_there = low in (0, 1) and high > low and len(np.unique(others)) == high - low + 1
        if low >= -1 if mark == -100 else all_there:
            raise InputError(
                f"{name} are {mark} in {int(marked.sum())} rows and classes from {low} to {high} in the others: where {mark} "
                f"means unlabelled {remedy}, where it is a value add 1 to all labels"
            )


def missing_classes(y: Any, others: Any = ()) -> np.ndarray:
    """The columns of labels (n, c), one-hot or shares of classes, that no row is of; with `others` only those that they have."""
    if any(isinstance(labels, Tracer) for labels in (y, *others)) or np.ndim(y) != 2 or np.shape(y)[1] < 2:
        return np.zeros(0, int)
    own, *given = (np.asarray(labels) for labels in (y, *others))
    if own.min() < 0 or np.abs(own.sum(1) - 1).max() > 1e-3:
        return np.zeros(0, int)
    there = np.any([np.any(labels > 0, 0) for labels in given], 0) if given else np.ones(own.shape[1], bool)
    return np.nonzero(there & ~np.any(own > 0, 0))[0]


def warn_of_missing_classes(name: str, y: Any, others: Any = ()) -> None:
    """Warns if there are `missing_classes`."""
    missing = missing_classes(y, others)
    if len(missing):
        named = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        classes = "class" if len(missing) == 1 else "classes"
        warnings.warn(f"{name} have no row of {classes} {named}: a head learns nothing of what they are", stacklevel=3)


def warn_of_float_bits(name: str, rows: Any) -> None:
    """Warns if the first of 16-bit integers (n, d), of an array or a file, look like the bits of 16-bit floats."""
    name_of_type = np.dtype(rows.dtype).name
    if name_of_type not in ("int16", "uint16") or len(rows.shape) != 2 or 0 in rows.shape:
        return
    bits = np.asarray(rows[: max(1, _SAMPLE // rows.shape[1])]).astype(np.int64) & 0x7FFF  # without the sign
    size = bits[bits > 0]
    exponents = size >> 10
    # Ordinary floats are between 2e-4 and 256 and of several exponents; integers are small, or of both signs and then large.
    if size.size >= 32 and ((exponents >= 3) & (exponents <= 22)).mean() > 0.97 and len(np.unique(exponents)) >= 3:
        warnings.warn(
            f"{name} are {name_of_type} that look like the bits of 16-bit floats, which as numbers mean nothing: if they are, "
            "give rows.view(np.float16), or save them as float16",
            stacklevel=4,
        )


def require_scale(name: str, rows: Any, dtype: Any) -> None:
    """Raises InputError if rows (n, d), of an array or a file, are so small that their squares are lost in a dtype."""
    require_largest(name, largest_entry(rows, dtype), dtype)


def require_largest(name: str, found: float, dtype: Any) -> None:
    """Raises InputError if the largest of all entries is so small that squares are lost in a dtype."""
    least = _least(dtype)
    if 0 < found < least:
        raise InputError(
            f"{name} must have entries of at least {least:.0e}, got none above {found:.1e}: their squares are lost in "
            f"{np.dtype(dtype)}, multiply them by a constant"
        )


def require_squares(name: str, squares: Any) -> None:
    """Raises InputError if mean squares of features, or eigenvalues, are not finite; tracers pass."""
    if isinstance(squares, jax.Array) and (isinstance(squares, Tracer) or not squares.is_fully_addressable):
        return
    if not np.isfinite(np.asarray(squares)).all():
        raise InputError(f"{name} are too large: their squares overflow {squares.dtype}, divide them by a constant")


def _least(dtype: Any) -> float:
    return 1e3 * float(np.sqrt(np.finfo(dtype).tiny))


def largest_entry(rows: Any, dtype: Any) -> float:
    """The largest size of an entry (n, d), or one that is large enough for its square.

    The first row answers for nearly every representation; only where it is tiny are the others looked at.
    """
    least = _least(dtype)
    step = max(1, _BLOCK_ENTRIES // rows.shape[1])

    def largest(start: int, stop: int) -> float:
        with np.errstate(over="ignore"):
            return float(np.max(np.abs(np.asarray(rows[start:stop]).astype(dtype))))

    found = largest(0, 1)
    for start in range(0, rows.shape[0], step):
        if not found < least:
            break
        found = max(found, largest(start, min(start + step, rows.shape[0])))
    return found


def require_choice(name: str, value: Any, choices: Any, otherwise: str | None = None) -> None:
    """Raises InputError unless it is one of the strings of a `Literal`; `otherwise` says what else would have done."""
    options = get_args(choices)
    if not isinstance(value, str) or value not in options:
        *first, last = [*map(repr, options), *([] if otherwise is None else [otherwise])]
        raise InputError(f"{name} must be {', '.join(first)} or {last}, got {value!r}")


def require_integer(name: str, value: Any, low: int) -> None:
    """Raises InputError unless it is an integer of at least so much."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
        raise InputError(f"{name} must be an integer of at least {low}, got {value!r}")


def require_number(name: str, value: ArrayLike, low: float, high: float | None = None) -> None:
    """`require_range` of one number, which has to be there."""
    if value is None:
        raise InputError(f"{name} must be one number, got None")
    try:
        shape = np.shape(value) if isinstance(value, list | tuple) else jnp.shape(value)
    except (TypeError, ValueError) as error:  # of text and other things that are no arrays
        raise InputError(f"{name} must be one number, got {value!r}") from error
    if shape:
        raise InputError(f"{name} must be one number, got shape {shape}")
    require_range(name, value, low, high)


def require_range(name: str, value: ArrayLike | None, low: float, high: float | None = None) -> None:
    """Raises InputError unless every entry of a concrete value lies in [low, high]; tracers pass."""
    # Filters are rebuilt by JAX from tracers and placeholders, which have no value to check.
    if value is None or isinstance(value, Tracer) or type(value) is object:
        return
    try:
        if np.asarray(value).dtype.kind in "US":
            raise ValueError  # which NumPy would read
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be a number or an array of numbers, got {value!r}") from error
    wrong = ~(array >= low) if high is None else ~((array >= low) & (array <= high))
    if wrong.any():
        wanted = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
        raise InputError(f"{name} must be {wanted}, got {array[wrong].flat[0]:g}")


def reason(error: BaseException) -> str:
    """The first line of an exception's own words."""
    words = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return re.sub(r" \[tensorstore_spec=.*| \[source locations=.*", "", words.splitlines()[0]).rstrip(".")
