"""Figures of the results (matplotlib, an extra): drawn without a display and written whole or not at all."""

from __future__ import annotations

import os

import numpy as np

from w2s_jax._checks import InputError
from w2s_jax.io import replacing
from w2s_jax.table import TITLES, SupervisorTable


def plot_table(table: SupervisorTable, path: str | os.PathLike) -> None:
    """Writes the table as a figure: one panel per score, one line per pair, best supervisor on top, bars +- one error.

    Raises:
        InputError: matplotlib is missing, or the path cannot be written or has an extension it does not know.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("figures need matplotlib: pip install 'w2s_jax[plot]'") from error
    columns = [table.sorted_by, *(column for column in table.columns if column != table.sorted_by)]
    several = len(set(table.strong)) > 1
    labels = [f"{w} → {s}" if several else w for w, s in zip(table.names, table.strong, strict=True)]
    figure = Figure(figsize=(2 + 2.1 * len(columns), 1.4 + 0.27 * len(labels)), layout="constrained")
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
    with replacing(path) as temporary:
        try:
            figure.savefig(temporary, dpi=150)
        except ValueError as error:
            raise InputError(f"cannot write {os.fspath(path)}: expected a figure such as .png, .pdf or .svg") from error
