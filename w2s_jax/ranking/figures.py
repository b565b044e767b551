"""The table of supervisors as a figure."""

from __future__ import annotations

import os

import numpy as np

from w2s_jax._core.figures import BLUE, new_figure, save_figure
from w2s_jax.ranking.table import TITLES, SupervisorTable


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
        panel.errorbar(table[column], place, xerr=error, fmt="o", ms=4, lw=1.2, color=BLUE if best else "#555555")
        panel.set_title(TITLES[column] + (" (sorted)" if best else ""), fontsize=9)
        panel.grid(axis="x", lw=0.4)
        panel.tick_params(labelsize=8)
    panels[0].set_yticks(place, labels)
    panels[0].invert_yaxis()
    save_figure(figure, path)
