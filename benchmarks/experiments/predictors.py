"""What every predictor of `w2s_jax.predictors` says of all teachers, for all strong models, ridges and label sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import w2s_jax as w2s
from benchmarks.experiments.priors import prepared
from benchmarks.experiments.scores import SCORE
from w2s_jax.predictors import PREDICTORS, PairView, RowsView

WIDTHS = (32, 64, 128, 256, 384, 640, 1024)  # that teachers are filled up to with zeros, for few programs


def predictions(
    weak: Mapping[str, np.ndarray],
    strong: Mapping[str, np.ndarray],
    y: np.ndarray,
    labels: Mapping[str, np.ndarray],
    ridges: Sequence[float],
    scaling: str,
) -> dict[str, np.ndarray]:
    """Numbers (strong, ridge, weak): `score:gulp`, `score:misfit:draw0-100`; arguments as in `scores.scores`."""
    found: dict[str, np.ndarray] = {}
    teachers = {name: filled(prepared(rows, scaling)) for name, rows in weak.items()}
    strengths = jnp.asarray(ridges, jnp.float32)
    for s, z in enumerate(prepared(rows, scaling) for rows in strong.values()):
        for w, h in enumerate(teachers.values()):
            said = _of_pair(w2s.moments(h, z, bias=True), strengths, "nothing") | _of_rows(h, z, strengths)
            said = {f"{SCORE}{name}": x for name, x in said.items()}
            for named, rows in labels.items():
                m = w2s.moments(h[rows], z[rows], y[rows].astype(np.float32), bias=True)
                said |= {f"{SCORE}{name}:{named}": x for name, x in _of_pair(m, strengths, "labels").items()}
            for name, values in said.items():
                kept = found.setdefault(name, np.full((len(strong), len(ridges), len(weak)), np.nan, np.float32))
                kept[s, :, w] = values
    return found


def filled(h: np.ndarray) -> np.ndarray:
    """With columns of zeros behind, to one of a few widths."""
    width = next((width for width in WIDTHS if width >= h.shape[1]), h.shape[1])
    return np.pad(h, ((0, 0), (0, width - h.shape[1])))


@partial(jax.jit, static_argnames="needs")
def _of_pair(m: w2s.Moments, ridges: jax.Array, needs: str) -> dict[str, jax.Array]:
    """Those with such needs, for every ridge (ridges,)."""
    overlap = w2s.overlap_from_moments(m)
    chosen = {name: of.function for name, of in PREDICTORS.items() if (of.reads, of.needs) == ("moments", needs)}

    def at(ridge: jax.Array) -> dict[str, jax.Array]:
        pair = PairView(m, overlap, w2s.ridge(ridge), w2s.ridge(ridge))
        return {name: function(pair) for name, function in chosen.items()}

    return jax.vmap(at)(ridges)


@jax.jit
def _of_rows(h: jax.Array, z: jax.Array, ridges: jax.Array) -> dict[str, jax.Array]:
    """Those that read rows, for every ridge (ridges,)."""
    chosen = {name: of for name, of in PREDICTORS.items() if of.reads != "moments" and of.needs == "nothing"}

    def at(ridge: jax.Array) -> dict[str, jax.Array]:
        heads = w2s.ridge(ridge), w2s.ridge(ridge)
        return {
            name: of.function(RowsView(h, z if of.reads == "rows" else None, None, *heads))
            for name, of in chosen.items()
        }

    return jax.vmap(at)(ridges)
