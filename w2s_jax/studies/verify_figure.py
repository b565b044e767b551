"""The figure of `w2s verify`: errors over n by family, and the phase diagram of the equivalent."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from w2s_jax._core.checks import InputError
from w2s_jax._core.figures import BLUE, COLOURS, GREEN, ORANGE, axes, new_figure, quiet_grid, save_figure
from w2s_jax.studies.verify import SCENARIOS, Verification, phase_diagram


def draw_verification(found: Verification, path: str | os.PathLike) -> None:
    """Writes a panel per scenario, relative errors of the predictions over n, and the phase diagram of the equivalent.

    Raises:
        InputError: matplotlib is missing, or the path cannot be written or has an extension it does not know.
    """
    names = list(found.rates)
    rows = -(-(len(names) + 2) // 4)
    figure = new_figure(13, 3.1 * rows)
    panels = figure.subplots(rows, 4, squeeze=False).reshape(-1)
    for panel, name in zip(panels, names, strict=False):
        _errors_over_n(panel, found, name)
        panel.title.set_fontsize(8.5)
        panel.tick_params(labelsize=7)
    lines = {label: line for panel in panels for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=4, frameon=False)
    _phases(figure, panels[len(names) : len(names) + 2])
    for panel in panels[len(names) + 2 :]:
        panel.set_axis_off()
    save_figure(figure, path)


def plot_verification(found: Verification, name: str, ax: Any = None) -> Any:
    """Draws a scenario: how far predictions of the gap are off, over n; both axes are logarithmic.

    Args:
        found: of `run_verify`.
        name: one of its scenarios.
        ax: axes to draw on, by default those of a new figure.

    Returns:
        The axes.

    Raises:
        InputError: a scenario that was not run, or matplotlib is not installed.

    >>> from w2s_jax.studies import Cell
    >>> errors = dict.fromkeys(("weak_error", "student_error", "ceiling_error", "gap"), 1.0)
    >>> cells = [Cell("low", n, 100, errors, errors, errors, (0.1, 0.09, 0.11), (0.1, 0.09, 0.11)) for n in (250, 500)]
    >>> plot_verification(Verification(tuple(cells), {"low": (-0.5, 0.1)}, {"low": ()}), "low").get_title()
    'low dimension, no tail'
    """
    if not found.of(name):
        raise InputError(f"name must be one of {', '.join(found.rates)}, got {name!r}")
    ax = axes(ax, 6, 4)
    _errors_over_n(ax, found, name)
    ax.set(xlabel="n", ylabel="relative error of the predicted gap")
    ax.legend(frameon=False, fontsize="small")
    return ax


def _errors_over_n(panel: Any, found: Verification, name: str) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    cells = found.of(name)
    n = np.array([cell.n for cell in cells])
    median, low, high = np.array([cell.theorem for cell in cells]).T
    panel.plot(n, median, "o-", ms=3, lw=1.2, color=BLUE, label="theorem (median over trials)")
    panel.fill_between(n, low, high, color=BLUE, alpha=0.25, lw=0)
    if any(cell.without_gamma != cell.theorem for cell in cells):
        without = [cell.without_gamma[0] for cell in cells]
        panel.plot(n, without, "s--", ms=3, lw=1, color=ORANGE, label="theorem without gamma")
    bias, noise = (np.array([getattr(cell, part)["gap"] for cell in cells]) for part in ("bias", "noise"))
    off = np.maximum(np.abs(bias), 1e-4)
    panel.plot(n, off, "D-", ms=3, lw=1.2, color=GREEN, label="deterministic equivalent (of the mean)")
    panel.plot(n, noise, ":", lw=1, color=GREEN, label="twice the standard error of the simulated mean")
    panel.set(xscale="log", yscale="log", ylim=(1e-4, 3), title=SCENARIOS[name].title)
    panel.set_xticks(n, [f"{x:,}" for x in n], rotation=45)
    panel.xaxis.set_minor_locator(NullLocator())
    if not SCENARIOS[name].within:
        panel.title.set_color(COLOURS[1])
    panel.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g}%"))
    quiet_grid(panel)


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
