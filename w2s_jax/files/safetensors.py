"""Arrays of .safetensors files, which the safetensors package memory-maps.

The format has no text. Where its metadata say `utf-8` of an array, rows of bytes (n, width) are that: ids of texts, as
`w2s extract` writes them.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from w2s_jax.files.rows import Kind, Place, Rows

_DTYPES = {
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
    "BF16": ml_dtypes.bfloat16,
    "BOOL": np.bool_,
    **{f"{sign}{8 * size}": f"{sign.lower()}{size}" for sign in "IU" for size in (1, 2, 4, 8)},
}


def open_safetensors(place: Place, kind: Kind) -> Rows:
    """One array of a .safetensors file, which the safetensors package memory-maps."""
    safetensors = place.extra("safetensors", "cli")
    with place.faults():
        file = safetensors.safe_open(place.file, framework="np")
        texts = [key for key, code in (file.metadata() or {}).items() if code == "utf-8"]

    def read(place: Place, key: str, kind: Kind) -> Rows:
        array = file.get_slice(key)
        code, shape = array.get_dtype(), tuple(array.get_shape())
        if code not in _DTYPES:
            raise place.error(f"expected real numbers of at most 64 bits, got the safetensors type {code}")
        dtype = np.dtype(_DTYPES[code])
        if key in texts and code == "U8" and len(shape) == 2 and shape[1]:
            text = np.dtype(("S", shape[1]))
            place.require_kind(shape[:1], text, kind)
            return place.rows(shape[:1], text, lambda start, stop: array[start:stop].view(text)[:, 0])
        place.require_kind(shape, dtype, kind)
        return place.rows(shape, dtype, lambda start, stop: array[start:stop])

    keys = list(file.keys())
    return place.with_ids(place.pick(keys), keys, kind, read)
