"""Figures (matplotlib, an extra): what all of them look like, and how they are written: whole or not at all.

Text, background and lines of the axes are those of the user's style (`rcParams`), light or dark. What is told apart by colour is
told apart by marker and dash too: in print, and by the colour-blind.
"""

from __future__ import annotations

import os
from typing import Any

from w2s_jax._core.checks import InputError
from w2s_jax._core.extras import needed
from w2s_jax._core.writing import replacing

BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
COLOURS = (BLUE, "#D55E00", GREEN, "#CC79A7", ORANGE, "#56B4E9")  # Okabe and Ito, without black and the yellow
MARKERS = "osD^vPX"
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))


def style(series: int) -> dict[str, Any]:
    """Colour, marker and dash of the n-th series of points.

    >>> style(1)
    {'color': '#D55E00', 'marker': 's', 'linestyle': '--'}
    """
    pick = lambda choices: choices[series % len(choices)]
    return {"color": pick(COLOURS), "marker": pick(MARKERS), "linestyle": pick(DASHES)}


def ink() -> str:
    """The colour of text in the user's style."""
    return needed("matplotlib", "a figure", "plot").rcParams["text.color"]


def paper() -> str:
    """The colour behind what is drawn."""
    return needed("matplotlib", "a figure", "plot").rcParams["axes.facecolor"]


def quiet_grid(ax: Any) -> None:
    """Lines of the text's colour that stay behind what is drawn."""
    ax.grid(color=ink(), alpha=0.15, lw=0.6)
    ax.set_axisbelow(True)


def axes(ax: Any, width: float, height: float) -> Any:
    """The axes given, or those of a new figure (inches), which notebooks show.

    Raises:
        InputError: matplotlib is missing.
    """
    if ax is not None:
        return ax
    pyplot = needed("matplotlib.pyplot", "a figure", "plot")
    return pyplot.subplots(figsize=(width, height), layout="constrained")[1]


def new_figure(width: float, height: float) -> Any:
    """An empty figure (inches) that no display is needed for.

    Raises:
        InputError: matplotlib is missing.
    """
    return needed("matplotlib.figure", "a figure", "plot").Figure(figsize=(width, height), layout="constrained")


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
