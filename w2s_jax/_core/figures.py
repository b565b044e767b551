"""Figures (matplotlib, an extra): drawn without a display and written whole or not at all."""

from __future__ import annotations

import os
from typing import Any

from w2s_jax._core.checks import InputError
from w2s_jax._core.writing import replacing

BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"


def new_figure(width: float, height: float) -> Any:
    """An empty figure (inches) that no display is needed for.

    Raises:
        InputError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("figures need matplotlib: pip install 'w2s_jax[plot]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def require_figure_path(path: str | os.PathLike) -> None:
    """Fails before any work is done for a figure that could not be saved.

    Raises:
        InputError: matplotlib is missing, or it cannot write the kind of file that the path's extension says.
    """
    known = new_figure(1, 1).canvas.get_supported_filetypes()
    extension = os.path.splitext(os.fspath(path))[1]
    if extension[1:].lower() not in known:
        came = f"the extension {extension!r}" if extension else "no extension"
        raise InputError(f"cannot write {os.fspath(path)}: expected a figure such as .png, .pdf or .svg, got {came}")


def save_figure(figure: Any, path: str | os.PathLike) -> None:
    """Writes a figure whole or not at all; the path's extension chooses the format.

    Raises:
        InputError: the path cannot be written, or has an extension that matplotlib does not know.
    """
    require_figure_path(path)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)
