"""Figures of the results (matplotlib, an extra): drawn without a display and written whole or not at all."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from w2s_jax._checks import InputError
from w2s_jax.io import replacing
from w2s_jax.table import TITLES, SupervisorTable
from w2s_jax.verify import SETTINGS, Verification, phase_diagram

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


def plot_verification(found: Verification, path: str | os.PathLike) -> None:
    """Writes a panel per setting, relative errors of the predictions over n, and the phase diagram of the equivalent.

    Raises:
        InputError: matplotlib is missing, or the path cannot be written or has an extension it does not know.
    """
    names = list(dict.fromkeys(cell.setting for cell in found.cells))
    rows = -(-(len(names) + 2) // 4)
    figure = new_figure(13, 3.1 * rows)
    panels = figure.subplots(rows, 4, squeeze=False).reshape(-1)
    for panel, name in zip(panels, names, strict=False):
        _errors_over_n(panel, found, name)
    lines = {label: line for panel in panels for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=4, frameon=False)
    _phases(figure, panels[len(names) : len(names) + 2])
    for panel in panels[len(names) + 2 :]:
        panel.set_axis_off()
    save_figure(figure, path)


def _errors_over_n(panel: Any, found: Verification, name: str) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    cells = found.of(name)
    n = np.array([cell.n for cell in cells])
    median, low, high = np.array([cell.theorem for cell in cells]).T
    panel.plot(n, median, "o-", ms=3, lw=1.2, color=BLUE, label="theorem (median over trials)")
    panel.fill_between(n, low, high, color=BLUE, alpha=0.25, lw=0)
    if any(cell.without_gamma != cell.theorem for cell in cells):
        panel.plot(
            n, [cell.without_gamma[0] for cell in cells], "s--", ms=3, lw=1, color=ORANGE, label="theorem without gamma"
        )
    bias, noise = (np.array([getattr(cell, part)["gap"] for cell in cells]) for part in ("bias", "noise"))
    panel.plot(
        n,
        np.maximum(np.abs(bias), 1e-4),
        "D-",
        ms=3,
        lw=1.2,
        color=GREEN,
        label="deterministic equivalent (of the mean)",
    )
    panel.plot(n, noise, ":", lw=1, color=GREEN, label="twice the standard error of the simulated mean")
    panel.set(xscale="log", yscale="log", ylim=(1e-4, 3), title=SETTINGS[name].title)
    panel.set_xticks(n, [f"{x:,}" for x in n], rotation=45)
    panel.xaxis.set_minor_locator(NullLocator())
    panel.title.set_fontsize(8.5)
    panel.title.set_color("black" if SETTINGS[name].within else "#A03000")
    panel.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g}%"))
    panel.tick_params(labelsize=7)
    panel.grid(lw=0.3)


def _phases(figure: Any, panels: Any) -> None:
    ratio, outcome = phase_diagram()
    quotient = np.asarray(outcome.student_error / outcome.weak_error)
    pictures = (
        ("student error / weak error", quotient, "RdBu_r", (0.5, 1.5), [1.0]),
        ("prediction gap", np.asarray(outcome.gap), "viridis_r", (0.0, 0.5), [0.05, 0.1, 0.2, 0.4]),
    )
    for panel, (title, values, colours, (low, high), levels) in zip(panels, pictures, strict=True):
        image = panel.pcolormesh(ratio, ratio, values.T, cmap=colours, vmin=low, vmax=high, rasterized=True)
        lines = panel.contour(ratio, ratio, values.T, levels=levels, colors="black", linewidths=0.8)
        panel.clabel(lines, fontsize=6)
        panel.set(
            xscale="log", yscale="log", xlabel="labels per feature, n~/d", ylabel="student's rows per feature, n^/d"
        )
        panel.set_title(f"{title} (equivalent, power law)", fontsize=8.5)
        panel.tick_params(labelsize=7)
        figure.colorbar(image, ax=panel).ax.tick_params(labelsize=7)
