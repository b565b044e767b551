"""The paper's norm over a grid of its two settings, the relative cut alpha and the penalty b: how well does each order teachers?

The operator norm of `P_s (I - P_w)`, both heads with the same cut and penalty, from all rows and no label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import w2s_jax as w2s
from benchmarks.experiments.predictors import filled
from benchmarks.experiments.priors import prepared
from benchmarks.experiments.tables import mean, number, table
from w2s_jax._core.figures import new_figure, save_figure
from w2s_jax._core.ranks import spearman

CUTS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
NORM = "norm:"


def norms(
    weak: Mapping[str, np.ndarray], strong: Mapping[str, np.ndarray], ridges: Sequence[float], scaling: str
) -> dict[str, np.ndarray]:
    """Norms (strong, ridge, weak) by name, `norm:ALPHA:B`; the same at every ridge strength of the experiment."""
    teachers = [filled(prepared(rows, scaling)) for rows in weak.values()]
    found = np.empty((len(strong), len(weak), len(CUTS) * len(PENALTIES)), np.float32)
    for s, z in enumerate(prepared(rows, scaling) for rows in strong.values()):
        for w, h in enumerate(teachers):
            found[s, w] = _grid(w2s.moments(h, z, bias=True))
    names = [f"{NORM}{cut:g}:{penalty:g}" for cut in CUTS for penalty in PENALTIES]
    return {name: np.repeat(found[:, None, :, i], len(ridges), 1) for i, name in enumerate(names)}


@jax.jit
def _grid(m: w2s.Moments) -> jax.Array:
    overlap = w2s.overlap_from_moments(m)
    cuts, penalties = (x.ravel() for x in jnp.meshgrid(jnp.array(CUTS), jnp.array(PENALTIES), indexing="ij"))

    def at(settings: tuple[jax.Array, jax.Array]) -> jax.Array:
        head = w2s.ridge(settings[1], threshold=settings[0])
        return w2s.gap_norm(overlap, head, head)

    return jax.lax.map(at, (cuts, penalties))


def correlations(cells: Sequence[Any]) -> dict[float, np.ndarray]:
    """Spearman's with the student's error, (cuts, penalties), means over cells of each of the experiment's ridge strengths."""
    of = lambda cell, cut, penalty: spearman(cell.columns[f"{NORM}{cut:g}:{penalty:g}"], cell.columns["student_error"])
    by_ridge: dict[float, list[Any]] = {}
    for cell in cells:
        by_ridge.setdefault(cell.ridge, []).append(cell)
    return {
        ridge: np.array([[mean(of(cell, cut, b) for cell in own) for b in PENALTIES] for cut in CUTS])
        for ridge, own in by_ridge.items()
    }


def norms_page(cells: Sequence[Any]) -> str:
    """A table for each ridge strength, side by side."""
    found = correlations(cells)
    lines = [["alpha", *(f"ridge {ridge:g}: b = {b:g}" for ridge in found for b in PENALTIES)]]
    lines += [[f"{cut:g}", *(number(x) for values in found.values() for x in values[i])] for i, cut in enumerate(CUTS)]
    text = (
        "Spearman's correlation of `||P_s (I - P_w)||` with the students' errors at each ridge strength, by the norm's relative "
        "cut alpha and penalty b; means over tasks and strong models."
    )
    return f"## The norm's cut and penalty\n\n{text}\n\n{table(lines)}"


def draw_norms(cells: Sequence[Any], path: Path) -> None:
    """The same as heat maps, one for each ridge strength of the experiment."""
    found = correlations(cells)
    figure = new_figure(2.6 * len(found) + 0.8, 3.2)
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    shown = []
    for panel, (ridge, values) in zip(panels, found.items(), strict=True):
        shown.append(panel.imshow(values, vmin=-1, vmax=1, cmap="PuOr", aspect="auto"))
        for (i, j), x in np.ndenumerate(values):
            panel.text(j, i, f"{x:.2f}", ha="center", va="center", fontsize="small", color="w" if abs(x) > 0.6 else "k")
        panel.set_xticks(range(len(PENALTIES)), [f"{b:g}" for b in PENALTIES])
        panel.set_yticks(range(len(CUTS)), [f"{cut:g}" for cut in CUTS])
        panel.set(title=f"heads' ridge {ridge:g}", xlabel="b")
    panels[0].set_ylabel("alpha")
    figure.colorbar(shown[0], ax=panels, label="Spearman with the student's error", shrink=0.9)
    save_figure(figure, path)
