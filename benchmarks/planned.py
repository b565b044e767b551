"""Expected experiments of planned rows against those of the known population: how far `rank_supervisors(n_labelled=)` is off.

    python -m benchmarks.planned [--quick] [--out FILE.json]

Power-law spectra on both sides, 80 rows a fold, 0.2 to 2 features a row; as many labelled as student's rows. By planned rows over
a fold's, how far the mean of eight draws is off in percent: mean and worst of the student's error, then of the gap, and how many
settings. Apart are those in which a fold's rows cannot tell of the planned heads (a warning says so), and what is off where
the fold's own numbers are taken.
"""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._common import run_parts
from w2s_jax import rank_supervisors
from w2s_jax.studies.synthetic import GaussianFamily
from w2s_jax.theory.equivalent import planned_errors

FOLD = 80  # rows
DRAWS = 8
PLANS = (0.5, 1, 2, 5, 25)  # of a fold's rows


def planned_rows(quick: bool) -> dict[str, Any]:
    """Percent: mean and worst of the student's error, mean and worst of the gap, and how many settings."""
    shares, exponents = ((0.2,), (1.0,)) if quick else ((0.2, 0.5, 1, 2), (0.5, 1.0, 1.5))
    off: dict[str, list[np.ndarray]] = {}
    for share, exponent, ridge in itertools.product(shares, exponents, (1e-3, 1e-1)):
        family = _family(int(share * FOLD), exponent)
        draws = [family.sample(jax.random.key(seed), 3 * FOLD) for seed in range(2 if quick else DRAWS)]
        here = np.mean([_ranked(draw, ridge, None)[0] for draw in draws], 0)
        for plan in PLANS:
            found, short = zip(*(_ranked(draw, ridge, int(plan * FOLD)) for draw in draws), strict=True)
            known = _known(family, ridge, plan * FOLD)
            kind = ", cannot be told" if any(short) else ""
            off.setdefault(f"{plan} x{kind}", []).append(np.mean(found, 0) / known - 1)
            off.setdefault(f"{plan} x{kind}, as the fold", []).append(here / known - 1)
    return {name: _summary(np.abs(np.stack(values))) for name, values in off.items()}


def _summary(off: np.ndarray) -> list[float]:
    return [float(100 * x) for column in off.T for x in (column.mean(), column.max())] + [len(off)]


def _family(d: int, exponent: float) -> GaussianFamily:
    """Spectra i^-exponent of sum 1, in bases turned against each other."""
    rng = np.random.default_rng(0)
    root = np.arange(1.0, d + 1) ** (-exponent / 2)
    root /= np.linalg.norm(root)
    turn = np.linalg.qr(np.eye(d) + 0.5 / np.sqrt(d) * rng.standard_normal((d, d)))[0]
    return GaussianFamily(
        *(jnp.asarray(x, jnp.float32) for x in (root[:, None] * turn, np.diag(root), root)), noise=1.0
    )


def _ranked(draw: Any, ridge: float, planned: int | None) -> tuple[np.ndarray, bool]:
    """Error and gap, and whether the rows cannot tell."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        table = rank_supervisors(
            {"weak": draw.h_w},
            draw.h_s,
            weak_ridge=ridge,
            strong_ridge=ridge,
            normalize="none",
            n_labelled=planned,
            n_student=planned,
        )
    short = any("cannot tell" in str(warning.message) for warning in said)
    return np.array([table["expected_error"][0], table["expected_gap"][0]]), short


def _known(family: GaussianFamily, ridge: float, rows: float) -> np.ndarray:
    population = family.population
    labels = jnp.eye(len(population.ss)) / jnp.trace(population.ss)
    return np.array(planned_errors(population, labels, *map(jnp.asarray, (rows, rows, ridge, ridge))))


if __name__ == "__main__":
    run_parts(__doc__, (planned_rows,))
