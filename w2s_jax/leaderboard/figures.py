"""The leaderboard as a figure: every score with its interval, one panel for each set of labels."""

from __future__ import annotations

import os
from typing import Any

from w2s_jax._core.figures import axes, new_figure, quiet_grid, save_figure, style
from w2s_jax.leaderboard.judging import LEVEL, Leaderboard


def plot_leaderboard(board: Leaderboard, labels: str = "", ax: Any = None) -> Any:
    """Draws the scores of one set of labels with their intervals, the best on top; filled: the best, and those tied with it.

    Args:
        board: of `judge`.
        labels: of `board.labels`; "" for scores that saw none.
        ax: axes to draw on, by default those of a new figure.

    Returns:
        The axes.

    Raises:
        InputError: matplotlib is not installed.

    >>> from w2s_jax.leaderboard import Standing
    >>> board = Leaderboard((Standing("cka", "", 0.5, 0.3, 0.6, 0.2, 0.4, 0.3, False),), "student_error", 1, 1)
    >>> [label.get_text() for label in plot_leaderboard(board).get_yticklabels()]
    ['cka']
    """
    standings = board.of(labels)
    ax = axes(ax, 5.5, 1 + 0.27 * len(standings))
    for place, standing in enumerate(standings):
        look = style(0 if place == 0 or standing.tied else 1)
        ax.plot([standing.low, standing.high], [place, place], lw=1.2, marker="|", color=look["color"])
        ax.plot(standing.spearman, place, look["marker"], ms=4.5, color=look["color"])
    ax.axvline(0, lw=0.8, color="0.5", zorder=0)
    ax.set_yticks(range(len(standings)), [standing.score for standing in standings])
    ax.set_ylim(len(standings) - 0.5, -0.5)
    ax.set_xlabel(f"Spearman with {board.against}, {LEVEL:.0%}")
    ax.set_title(f"labels: {labels}" if labels else "no labels", loc="left", fontsize="medium")
    quiet_grid(ax)
    return ax


def draw_leaderboard(board: Leaderboard, path: str | os.PathLike) -> None:
    """Writes a panel for each set of labels as one figure; circles are tied with the best, squares are not.

    Raises:
        InputError: the path cannot be written, or matplotlib is not installed.
    """
    rows = max(len(board.of(labels)) for labels in board.labels)
    figure = new_figure(3.4 * len(board.labels), 1.4 + 0.24 * rows)
    panels = figure.subplots(1, len(board.labels), squeeze=False, sharex=True)[0]
    for labels, panel in zip(board.labels, panels, strict=True):
        plot_leaderboard(board, labels, panel).set_xlabel("")
    figure.suptitle("Circles: the best score, and those whose distance from it may be chance", fontsize="medium")
    figure.supxlabel(f"Spearman's correlation with {board.against}, {LEVEL:.0%} of resamplings", fontsize="medium")
    save_figure(figure, path)
