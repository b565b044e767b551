"""Figures of the results (matplotlib, an extra): drawn without a display and written whole or not at all."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from w2s_jax._checks import InputError
from w2s_jax.io import replacing
from w2s_jax.table import TITLES, SupervisorTable


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


def plot_table(table: SupervisorTable, path: str | os.PathLike) -> None:
    """Writes the table as a figure: one panel per score, one line per pair, best supervisor on top, bars +- one error.

    Raises:
        InputError: matplotlib is missing, or the path cannot be written or has an extension it does not know.
    """
    columns = [table.sorted_by, *(column for column in table.columns if column != table.sorted_by)]
    several = len(set(table.strong)) > 1
    labels = [f"{w} → {s}" if several else w for w, s in zip(table.names, table.strong, strict=True)]
    figure = new_figure(2 + 2.1 * len(columns), 1.4 + 0.27 * len(labels))
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    place = np.arange(len(labels))
    for panel, column in zip(panels, columns, strict=True):
        best = column == table.sorted_by
        error = np.nan_to_num(table.se(column))
        panel.errorbar(table[column], place, xerr=error, fmt="o", ms=4, lw=1.2, color="#0072B2" if best else "#555555")
        panel.set_title(TITLES[column] + (" (sorted)" if best else ""), fontsize=9)
        panel.grid(axis="x", lw=0.4)
        panel.tick_params(labelsize=8)
    panels[0].set_yticks(place, labels)
    panels[0].invert_yaxis()
    save_figure(figure, path)
