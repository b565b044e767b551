"""The table of supervisors as figures: a score with its errors, over layers, and the whole table in a file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from w2s_jax._core.checks import InputError
from w2s_jax._core.figures import BLUE, axes, new_figure, quiet_grid, save_figure, style
from w2s_jax.ranking.table import SupervisorTable, axis_title, title_of

_LAYER = re.compile(r"(?P<network>.*):layer(?P<layer>\d+)(?P<pool>\.\w+)?")


class LayerName(NamedTuple):
    """A network's name, with the pooling if the name has one, and the number of a layer."""

    network: str
    layer: int


def layer_of(name: str) -> LayerName | None:
    """What a name such as extraction gives says; None for one that names no layer.

    >>> layer_of("minilm:layer4"), layer_of("minilm:layer4.max").network, layer_of("glove")
    (LayerName(network='minilm', layer=4), 'minilm.max', None)
    """
    found = _LAYER.fullmatch(name)
    return None if found is None else LayerName(found["network"] + (found["pool"] or ""), int(found["layer"]))


def plot_ranking(table: SupervisorTable, column: str | None = None, ax: Any = None) -> Any:
    """Draws a score with its standard errors, one line per pair, in the table's order: the best teacher on top.

    Args:
        table: of `rank_supervisors`.
        column: the score, by default the one that sorts the table.
        ax: axes to draw on, by default those of a new figure.

    Returns:
        The axes.

    Raises:
        InputError: no such column, or matplotlib is not installed.

    >>> cka = {"cka": np.array([0.5, 0.9])}
    >>> table = SupervisorTable(("a", "b"), ("s", "s"), (8, 16), cka, {"cka": np.array([0.1, 0.1])}, "cka", {})
    >>> [label.get_text() for label in plot_ranking(table.sort_by("cka")).get_yticklabels()]
    ['b', 'a']
    """
    column = table.sorted_by if column is None else column
    scores, errors = table[column], np.nan_to_num(table.se(column))
    ax = axes(ax, 5.5, 1 + 0.27 * len(table))
    place = np.arange(len(table))
    ax.errorbar(scores, place, xerr=errors, fmt="o", ms=4.5, lw=1.2, capsize=2.5, color=BLUE)
    ax.set_yticks(place, _pairs(table))
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlabel(axis_title(table, column))
    quiet_grid(ax)
    return ax


def plot_layers(table: SupervisorTable, column: str | None = None, ax: Any = None) -> Any:
    """Draws a score over the layers that are ranked, one line per network; what has no layers is a level line.

    Names say what is a layer of what, as those of extracted files do: `NETWORK:layer4`, `NETWORK:layer4.max`. With several
    strong models there is a line for each.

    Args:
        table: of `rank_supervisors`.
        column: the score, by default the one that sorts the table.
        ax: axes to draw on, by default those of a new figure.

    Returns:
        The axes.

    Raises:
        InputError: no such column, no name with a layer, or matplotlib is not installed.

    >>> scores, names = {"gap_op": np.array([0.2, 0.5, 0.3])}, ("net:layer2", "net:layer0", "words")
    >>> table = SupervisorTable(names, ("s",) * 3, (8,) * 3, scores, scores, "gap_op", {})
    >>> sorted(plot_layers(table).get_legend_handles_labels()[1])
    ['net', 'words']
    """
    column = table.sorted_by if column is None else column
    scores, errors = table[column], table.se(column)
    lines = list(_lines(table))
    if not any(line.layers for line in lines):
        raise InputError(f"names must say layers, as in minilm:layer4, got {', '.join(table.names[:3])}")
    ax = axes(ax, 6, 3.8)
    for number, line in enumerate(lines):
        if line.layers:
            bars = {"yerr": np.nan_to_num(errors[line.rows]), "capsize": 2.5, "elinewidth": 0.8}
            ax.errorbar(line.layers, scores[line.rows], **bars, ms=4.5, lw=1.3, label=line.label, **style(number))
        else:
            ax.axhline(scores[line.rows[0]], lw=1.3, label=line.label, **style(number) | {"marker": ""})
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="layer", ylabel=axis_title(table, column))
    ax.legend(frameon=False)
    quiet_grid(ax)
    return ax


def draw_table(table: SupervisorTable, path: str | os.PathLike) -> None:
    """Writes the table as a figure: one panel per score, the one that sorts it first.

    Raises:
        InputError: matplotlib is missing, or the path cannot be written or has an extension it does not know.
    """
    columns = [table.sorted_by, *(column for column in table.columns if column != table.sorted_by)]
    figure = new_figure(2 + 2.1 * len(columns), 1.4 + 0.27 * len(table))
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for panel, column in zip(panels, columns, strict=True):
        plot_ranking(table, column, panel)
        panel.set_title(title_of(column) + (" (sorted)" if column == table.sorted_by else ""), fontsize=9)
        panel.set_xlabel("")
        panel.tick_params(labelsize=8)
    save_figure(figure, path)


class _Line(NamedTuple):
    """Rows of a table that belong to one line, by layer; without layers it is a single row."""

    label: str
    rows: list[int]
    layers: list[int]


def _pairs(table: SupervisorTable) -> list[str]:
    several = len(set(table.strong)) > 1
    return [f"{w} → {s}" if several else w for w, s in zip(table.names, table.strong, strict=True)]


def _lines(table: SupervisorTable) -> Iterator[_Line]:
    """In the order of their names, so that a line looks the same whatever sorts the table."""
    found: dict[tuple[str, str, bool], list[tuple[int, int]]] = {}
    for row, (name, strong) in enumerate(zip(table.names, table.strong, strict=True)):
        network, layer = layer_of(name) or (name, None)
        found.setdefault((network, strong, layer is not None), []).append((layer or 0, row))
    several = len(set(table.strong)) > 1
    for network, strong, deep in sorted(found):
        layers, rows = zip(*sorted(found[network, strong, deep]), strict=True)
        label = f"{network} → {strong}" if several else network
        yield _Line(label, list(rows), list(layers) if deep else [])
