"""`w2s verify`: the theory held against simulated experiments, family by family, from n = 250 to 16,000.

Every trial is a whole experiment (weak head, student, ceiling) with exact population errors (`studies.simulation`). Beside the
measured gap stand the theorem's prediction (Xue et al. 2025), the same with gamma left out, and the deterministic
equivalent; some families meet the theorem's conditions, some break them on purpose, and `decomposability` says which.
Chunks of trials are written to a file as they finish: a stopped run goes on where it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from w2s_jax._core.checks import InputError, require_range
from w2s_jax._core.extras import data_frame
from w2s_jax._core.kept import Kept
from w2s_jax._core.progress import track
from w2s_jax._core.text import Printed
from w2s_jax.experiment.outcome import t_quantile
from w2s_jax.studies import synthetic
from w2s_jax.studies.simulation import simulate
from w2s_jax.theory.decomposability import decomposability
from w2s_jax.theory.equivalent import Equivalent, deterministic_equivalent

SIZES = (250, 500, 1000, 2000, 4000, 8000, 16000)
TRIALS = {250: 4000, 500: 4000, 1000: 4000, 2000: 2000, 4000: 1000, 8000: 500, 16000: 400}
POWER_LAW_WIDTH = 200
CHUNK_ROWS = 200_000  # rows of D^ simulated between two writes, about
MEASURED = ("weak_error", "student_error", "ceiling_error", "gap")
KEY = jax.random.key  # families are drawn anew, so that importing this module starts no device


class Scenario(NamedTuple):
    """What is simulated: a title, the family at n rows, both heads' ridge, and whether it meets the theorem's conditions.

    `share` is its part of the trials, `labelled` its labelled rows for each of the student's.

    >>> SCENARIOS["few_labels"].at(1000)[1:]
    (250, 1000, 0.1, 0.1)
    """

    title: str
    family: Callable[[int], Any]
    ridge: float
    within: bool
    share: float = 1.0
    labelled: float = 1.0

    def at(self, n: int) -> tuple[Any, int, int, float, float]:
        """What `simulate` takes after its keys: the family, the rows of both splits, the two heads' ridges."""
        return self.family(n), int(n * self.labelled), n, self.ridge, self.ridge


def _wide(n: int, **more: Any) -> Any:
    """The spiked family of all scenarios with wide tails: width n^1.5."""
    return synthetic.spiked(KEY(1), n, round(n**1.5), **more)


def _power_law(_: int) -> Any:
    return synthetic.power_law(KEY(2), 1.0, POWER_LAW_WIDTH, noise=0.25)


def _relu(_: int) -> Any:
    return synthetic.random_features(KEY(3), 20, 40, 160, exponent=1.0)


_POWER_LAW = f"power law i^-1, d = {POWER_LAW_WIDTH}, noise sd .5"
_SUBSPACES = "subspaces of 30 and 10, noise, no ridge"
SCENARIOS: dict[str, Scenario] = {
    "low": Scenario("low dimension, no tail", lambda n: synthetic.low_intrinsic_dimension(KEY(1)), 0.1, True),
    "spiked": Scenario("wide tails (d = n^1.5)", _wide, 0.1, True),
    "ridgeless": Scenario("wide tails, no ridge", _wide, 0.0, True),
    "few_labels": Scenario("wide tails, a quarter of the labels", _wide, 0.1, True, labelled=0.25),
    "benign": Scenario("benign overfitting", lambda n: synthetic.benign_overfitting(n, round(n**1.5)), 0.0, True),
    "noise": Scenario("wide tails, label noise sd 1", lambda n: _wide(n, noise=1.0), 0.1, False),
    "proportional": Scenario("tails of width 2n", lambda n: synthetic.spiked(KEY(1), n, 2 * n), 0.1, False),
    "power_law": Scenario(_POWER_LAW, _power_law, 1e-2, False, share=0.05),
    "subspaces": Scenario(_SUBSPACES, lambda n: synthetic.subspaces(30, 10, 5.5), 0.0, False, share=4.0),
    "relu": Scenario("ReLU features, 40 teach 160", _relu, 1e-3, False, share=0.02),
}


@dataclass(frozen=True)
class Cell:
    """One scenario at one n: trials, means, and how far each prediction is off.

    `mean` and `se`: of the measured quantities; `equivalent`: what the deterministic equivalent says of them.
    `theorem`, `without_gamma`: median over trials of |prediction / measured - 1| of the gap, with a 95% band.

    >>> one = dict.fromkeys(MEASURED, 1.0)
    >>> cell = Cell("spiked", 250, 4000, one, one, dict.fromkeys(MEASURED, 1.5), (0.1, 0.09, 0.11), (0.5, 0.4, 0.6))
    >>> cell.bias["gap"], cell.noise["gap"]
    (0.5, 2.0)
    """

    scenario: str
    n: int
    trials: int
    mean: dict[str, float]
    se: dict[str, float]
    equivalent: dict[str, float]
    theorem: tuple[float, float, float]
    without_gamma: tuple[float, float, float]

    @property
    def bias(self) -> dict[str, float]:
        """Relative error of the equivalent against the simulated mean."""
        return {name: self.equivalent[name] / self.mean[name] - 1 for name in MEASURED}

    @property
    def noise(self) -> dict[str, float]:
        """Twice the relative standard error of the simulated mean."""
        return {name: 2 * self.se[name] / self.mean[name] for name in MEASURED}


@dataclass(frozen=True)
class Verification:
    """All cells, the fitted rate in n of the theorem's error (slope, standard error), and which conditions are broken.

    >>> Verification(cells=(), rates={"spiked": (-0.5, 0.01)}, broken={"spiked": ()}).of("spiked")
    []
    """

    cells: tuple[Cell, ...]
    rates: dict[str, tuple[float, float]]
    broken: dict[str, tuple[int, ...]]

    def of(self, scenario: str) -> list[Cell]:
        """A scenario's cells by n."""
        return [cell for cell in self.cells if cell.scenario == scenario]

    def to_dict(self) -> dict[str, Any]:
        """Everything that is reported, as plain lists and numbers."""
        cells = [{**vars(cell), "bias": cell.bias, "noise": cell.noise} for cell in self.cells]
        return {"cells": cells, "rates": self.rates, "broken": self.broken}

    def to_pandas(self) -> Any:
        """A pandas DataFrame with a row per scenario and n: trials, and of each quantity mean, s.e., equivalent, bias and noise.

        Raises:
            InputError: pandas is not installed.
        """
        kinds = ("mean", "se", "equivalent", "bias", "noise")
        return data_frame(
            [
                {"scenario": cell.scenario, "n": cell.n, "trials": cell.trials}
                | {f"{name}_{kind}": getattr(cell, kind)[name] for name in MEASURED for kind in kinds}
                | {"theorem": cell.theorem[0], "without_gamma": cell.without_gamma[0]}
                for cell in self.cells
            ]
        )

    def __str__(self) -> str:
        return "\n".join(_report(self))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        header = "", "n", "trials", "gap", "theorem", "95% band", "no gamma", "equivalent", "worst of four"
        body = []
        for name in self.rates:
            titles = [SCENARIOS[name].title, *[""] * len(self.of(name))]
            body += [(title, *_numbers(cell)) for title, cell in zip(titles, self.of(name), strict=False)]
        note = "\n".join(_judgement(self, name) for name in self.rates)
        return Printed(header, body, left=1, title=" ".join(_LEGEND), note=note)._repr_html_()


def run_verify(
    *,
    largest: int = 16000,
    effort: float = 1.0,
    scenarios: Iterable[str] = tuple(SCENARIOS),
    seed: int = 0,
    out: str | os.PathLike | None = None,
    progress: bool = True,
) -> Verification:
    """Simulates all scenarios at n = 250 ... `largest` and compares; with `out`, resumable.

    Args:
        largest: the largest n.
        effort: factor on the number of trials (4,000 up to n = 1,000, 400 at n = 16,000), never fewer than 20.
        scenarios: names from `SCENARIOS`.
        seed: of all trials.
        out: file that keeps finished chunks of trials, one JSON line each.
        progress: show a progress bar where tqdm is installed.

    Raises:
        InputError: an unknown scenario, or a file that belongs to another run or cannot be written.

    >>> run_verify(largest=100)
    Traceback (most recent call last):
        ...
    w2s_jax._core.checks.InputError: largest must be at least 250, got 100
    """
    scenarios = list(scenarios)
    unknown = [name for name in scenarios if name not in SCENARIOS]
    if unknown or not scenarios:
        raise InputError(f"scenarios must be some of {', '.join(SCENARIOS)}, got {', '.join(unknown) or 'none'}")
    sizes = [n for n in SIZES if n <= largest]
    if not sizes:
        raise InputError(f"largest must be at least {SIZES[0]}, got {largest}")
    require_range("effort", effort, 0)
    counts = {(s, n): max(20, round(TRIALS[n] * effort * SCENARIOS[s].share)) for s in scenarios for n in sizes}
    kept = Kept(out, {"w2s_verify": version("w2s_jax"), "seed": seed})
    jobs = {(s, n): [(s, n, *chunk) for chunk in _chunks(n, trials)] for (s, n), trials in counts.items()}
    for job in track([job for parts in jobs.values() for job in parts], progress, "experiments"):
        if job not in kept.values:
            kept.add(job, _simulated(*job, seed))
    cells = tuple(_cell(*place, [kept.values[job] for job in parts]) for place, parts in jobs.items())
    rates = {s: _rate([cell for cell in cells if cell.scenario == s]) for s in scenarios}
    return Verification(cells, rates, {s: _broken(s) for s in scenarios})


def _chunks(n: int, trials: int) -> Iterator[tuple[int, int]]:
    """First trial and number of trials of each chunk."""
    size = max(1, CHUNK_ROWS // n)
    return ((first, min(size, trials - first)) for first in range(0, trials, size))


@lru_cache(maxsize=1)
def _at(scenario: str, n: int) -> tuple[Any, int, int, float, float]:
    return SCENARIOS[scenario].at(n)


def _simulated(scenario: str, n: int, first: int, count: int, seed: int) -> dict[str, list[float]]:
    base = jax.random.fold_in(jax.random.fold_in(KEY(seed), list(SCENARIOS).index(scenario)), n)
    keys = jax.vmap(lambda i: jax.random.fold_in(base, i))(jnp.arange(first, first + count))
    found = simulate(keys, *_at(scenario, n))
    return {name: np.asarray(values, float).tolist() for name, values in found._asdict().items()}


def _cell(scenario: str, n: int, parts: list[dict[str, list[float]]]) -> Cell:
    trials = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    count = len(trials["gap"])
    mean = {name: float(trials[name].mean()) for name in MEASURED}
    se = {name: float(trials[name].std(ddof=1) / count**0.5) for name in MEASURED}
    family, *numbers = _at(scenario, n)
    equivalent = deterministic_equivalent(family.population, *numbers)
    predicted = {name: float(getattr(equivalent, name)) for name in MEASURED}
    off = [_median_band(np.abs(trials[p] / trials["gap"] - 1)) for p in ("theorem", "theorem_without_gamma")]
    return Cell(scenario, n, count, mean, se, predicted, off[0], off[1])


def _median_band(values: np.ndarray) -> tuple[float, float, float]:
    """Median and a 95% confidence band from order statistics (no assumption on the distribution)."""
    ranked, count = np.sort(values), len(values)
    half = 0.98 * count**0.5  # 1.96 standard deviations of a binomial with p = 1/2
    low, high = ranked[max(0, int(count / 2 - half))], ranked[min(count - 1, int(np.ceil(count / 2 + half)))]
    return float(np.median(ranked)), float(low), float(high)


def _rate(cells: list[Cell]) -> tuple[float, float]:
    """Slope of log(theorem's error) in log n, and its standard error."""
    if len(cells) < 3:
        return float("nan"), float("nan")
    x, y = np.log([cell.n for cell in cells]), np.log([cell.theorem[0] for cell in cells])
    (slope, _), covariance = np.polyfit(x, y, 1, cov=True)
    return float(slope), float(np.sqrt(covariance[0, 0]))


def _broken(scenario: str, n: int = 1000) -> tuple[int, ...]:
    """Conditions of the theory that fail on two samples of n strong rows, for the V that the theorem's prediction uses."""
    family, *_, strong_ridge = _at(scenario, n)
    train, student = (family.sample(KEY(i), n) for i in (0, 1))
    principal = {"rule": "rank", "level": family.population.ss.shape[0], "ridge": strong_ridge, "tolerance": 1.0}
    return decomposability(train.h_s, student.h_s, train.y, student.y, **principal).broken


_LEGEND = (
    "Prediction gap: simulated mean, and how far predictions are off: the theorem (median over trials, 95% band), the",
    "theorem without gamma, and the deterministic equivalent (against the mean; ± twice the mean's standard error).",
)


def _report(found: Verification) -> list[str]:
    header = f"{'':>8}{'trials':>8}{'gap':>10}{'theorem':>22}{'no gamma':>10}{'equivalent':>18}{'worst of four':>15}"
    lines = [*_LEGEND, header]
    for name in found.rates:
        lines += ["", _judgement(found, name), *map(_line, found.of(name))]
    return lines


def _judgement(found: Verification, name: str) -> str:
    """A scenario in words: the rate of the theorem's error, and which conditions are broken."""
    slope, error = found.rates[name]
    spread = error * t_quantile(0.95, max(1, len(found.of(name)) - 2))
    rate = f"theorem's error ~ n^{slope:.2f} ± {spread:.2f}; " if slope == slope else ""
    broken = ", ".join(map(str, found.broken[name]))
    conditions = f"condition{'s' * (', ' in broken)} {broken} broken" if broken else "conditions hold"
    return f"{SCENARIOS[name].title}: {rate}{conditions} at n = 1,000"


def _numbers(cell: Cell) -> tuple[str, ...]:
    """n, trials, gap, the theorem's error with its band, that without gamma, the equivalent's, and its worst."""
    median, low, high = cell.theorem
    equivalent = f"{cell.bias['gap']:+.2%} ± {cell.noise['gap']:.2%}"
    errors = f"{median:.1%}", f"[{low:.1%}, {high:.1%}]", f"{cell.without_gamma[0]:.1%}"
    worst = max(cell.bias.values(), key=abs)
    return f"{cell.n}", f"{cell.trials}", f"{cell.mean['gap']:.4g}", *errors, equivalent, f"{worst:+.2%}"


def _line(cell: Cell) -> str:
    n, trials, gap, median, band, without, equivalent, worst = _numbers(cell)
    both = f"{median:>8} {band}"
    return f"n ={n:>6}{trials:>7}{gap:>10}{both:>22}{without:>10}{equivalent:>18}{worst:>15}"


def phase_diagram(points: int = 61) -> tuple[np.ndarray, Equivalent]:
    """Rows per feature (points,) on both axes, and the equivalent over n~ (first axis) and n^ (second) for a power law.

    >>> ratio, found = phase_diagram(points=2)
    >>> ratio.round(3).tolist(), found
    ([0.1, 30.0], Equivalent(grid of shape (2, 2)))
    """
    ratio = np.geomspace(0.1, 30, points)
    rows = np.maximum(ratio * POWER_LAW_WIDTH, 1)
    return ratio, deterministic_equivalent(_power_law(0).population, rows[:, None], rows[None, :], 1e-2, 1e-2)
