"""Predicted against measured, as figures: by the experiments' own predictions, and by a score of the ranking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from w2s_jax._core.checks import InputError
from w2s_jax._core.figures import axes, ink, quiet_grid, style
from w2s_jax._core.ranks import spearman
from w2s_jax.experiment.outcome import Predicted, WeakToStrong
from w2s_jax.ranking.figures import layer_of
from w2s_jax.ranking.table import SupervisorTable, axis_title


def plot_predicted(outcomes: WeakToStrong | Mapping[str, WeakToStrong], ax: Any = None) -> Any:
    """Draws what was measured over what the experiments predicted of it: errors of the three heads, and gap.

    Bars are 95% intervals over splits. On the diagonal the prediction is right.

    Args:
        outcomes: one experiment, or several by name, with predictions (those of squared loss).
        ax: axes to draw on, by default those of a new figure.

    Returns:
        The axes.

    Raises:
        InputError: no experiment, one without predictions, or matplotlib is not installed.

    >>> rng = np.random.default_rng(0)
    >>> h, y = rng.standard_normal((90, 4)), rng.standard_normal(90)
    >>> from w2s_jax import weak_to_strong_splits
    >>> ax = plot_predicted(weak_to_strong_splits(h[:, :2], h, y, n_labelled=30, n_test=30, repeats=3))
    >>> ax.get_legend_handles_labels()[1]
    ['as predicted', 'weak error', 'student error', 'ceiling error', 'gap']
    """
    found = list(_named(outcomes).values())
    if any(outcome.predicted is None for outcome in found):
        raise InputError("outcomes must have predictions, which those of a classification loss do not have")
    ax = axes(ax, 4.6, 4.4)
    for number, name in enumerate(Predicted._fields):
        predicted = [float(np.mean(getattr(outcome.predicted, name))) for outcome in found]
        _points(ax, np.array(predicted), found, name, name.replace("_", " "), number)
    ax.axline((0, 0), slope=1, color=ink(), linestyle="--", lw=0.8, label="as predicted", zorder=0)
    ax.set(xlabel="predicted", ylabel="measured, with 95% interval over splits")
    ax.legend(frameon=False)
    quiet_grid(ax)
    return ax


def plot_against_ranking(
    outcomes: Mapping[str, WeakToStrong],
    table: SupervisorTable,
    column: str | None = None,
    quantity: str = "student_error",
    ax: Any = None,
) -> Any:
    """Draws what was measured of each teacher over a score that ranks them; the title has Spearman's correlation.

    Teachers that are layers (`NETWORK:layer4`) look alike within a network.

    Args:
        outcomes: experiments by the teacher's name.
        table: the ranking of the same teachers for one strong model; those without an experiment are left out.
        column: the score, by default the one that sorts the table.
        quantity: what was measured, a field of `WeakToStrong`.
        ax: axes to draw on, by default those of a new figure.

    Returns:
        The axes.

    Raises:
        InputError: no such column or quantity, several strong models, no teacher of the table among the outcomes, or matplotlib
            is not installed.

    >>> zero = np.zeros(2)
    >>> outcomes = {name: WeakToStrong(zero, np.array([x, x]), *[zero] * 6) for name, x in (("a", 0.3), ("b", 0.2), ("c", 0.1))}
    >>> scores = {"gap_op": np.array([0.5, 0.4, 0.6])}
    >>> table = SupervisorTable(("a", "b", "c"), ("s",) * 3, (8,) * 3, scores, scores, "gap_op", {})
    >>> plot_against_ranking(outcomes, table).get_title()
    'Spearman -0.50 over 3 teachers'
    """
    column = table.sorted_by if column is None else column
    scores, errors = table[column], np.nan_to_num(table.se(column))
    if len(set(table.strong)) > 1:
        raise InputError(f"table must be of one strong model, got {', '.join(dict.fromkeys(table.strong))}")
    rows = [row for row, name in enumerate(table.names) if name in _named(outcomes)]
    if not rows:
        raise InputError(
            f"outcomes must be named as the table's teachers, {table.names[0]!r} and so on, got none of them"
        )
    ax = axes(ax, 5, 4.2)
    networks = {row: (layer_of(table.names[row]) or (table.names[row],))[0] for row in rows}
    for number, network in enumerate(sorted(set(networks.values()))):
        own = [row for row in rows if networks[row] == network]
        _points(ax, scores[own], [outcomes[table.names[row]] for row in own], quantity, network, number, errors[own])
    measured = np.array([np.mean(getattr(outcomes[table.names[row]], quantity)) for row in rows])
    ax.set_title(f"Spearman {spearman(scores[rows], measured):.2f} over {len(rows)} teachers")
    ax.set(xlabel=axis_title(table, column), ylabel=f"measured {quantity.replace('_', ' ')} (95% interval)")
    ax.legend(frameon=False)
    quiet_grid(ax)
    return ax


def _named(outcomes: WeakToStrong | Mapping[str, WeakToStrong]) -> Mapping[str, WeakToStrong]:
    found = {"": outcomes} if isinstance(outcomes, WeakToStrong) else outcomes
    if not isinstance(found, Mapping) or not found or not all(isinstance(x, WeakToStrong) for x in found.values()):
        got = type(outcomes).__name__ if found else "none"
        raise InputError(f"outcomes must be experiments by name, at least one, got {got}")
    return found


def _points(
    ax: Any, x: np.ndarray, found: list[WeakToStrong], quantity: str, label: str, series: int, xerr: Any = None
) -> None:
    """One series: the quantity's mean over splits, with its interval where there are several."""
    spans = np.array([outcome.interval(quantity) for outcome in found])
    y = np.array([float(np.mean(getattr(outcome, quantity))) for outcome in found])
    bars = np.nan_to_num(np.abs(spans.T - y))
    looks = style(series) | {"linestyle": "", "markeredgewidth": 1.2}
    ax.errorbar(x, y, yerr=bars, xerr=xerr, ms=6, elinewidth=0.9, capsize=2, alpha=0.9, label=label, **looks)
