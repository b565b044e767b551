"""Arrays of .safetensors files, which the safetensors package memory-maps."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from w2s_jax.files.rows import Kind, Rows, Source

_DTYPES = {
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
    "BF16": ml_dtypes.bfloat16,
    "BOOL": np.bool_,
    **{f"{sign}{8 * size}": f"{sign.lower()}{size}" for sign in "IU" for size in (1, 2, 4, 8)},
}


def open_safetensors(source: Source, kind: Kind) -> Rows:
    """One array of a .safetensors file, which the safetensors package memory-maps."""
    safetensors: Any = source.extra("safetensors", "safetensors", "cli")
    try:
        file = safetensors.safe_open(source.file, framework="np")
    except (safetensors.SafetensorError, OSError) as error:
        raise source.unreadable(error) from error

    def read(source: Source, key: str, kind: Kind) -> Rows:
        array = file.get_slice(key)
        code, shape = array.get_dtype(), tuple(array.get_shape())
        if code not in _DTYPES:
            raise source.error(f"expected real numbers of at most 64 bits, got the safetensors type {code}")
        dtype = np.dtype(_DTYPES[code])
        source.require_kind(shape, dtype, kind)
        return source.rows(shape, dtype, lambda start, stop: array[start:stop])

    keys = list(file.keys())
    return source.with_ids(source.pick(keys), keys, kind, read)
