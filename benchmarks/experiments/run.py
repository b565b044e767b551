"""One task of an experiment: measured errors and scores of all teachers for all strong models, kept in a folder as they end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.experiments.measure import SCALINGS, Splits, measured
from benchmarks.experiments.mixtures import mixtures
from benchmarks.experiments.norms import norms
from benchmarks.experiments.predictors import predictions
from benchmarks.experiments.priors import expected_map
from benchmarks.experiments.scores import label_sets, scores
from w2s_jax.ranking.folds import deal

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
MIXED_RIDGES = (1e-3, 1e-2)  # of the mixtures
LABELS = (30, 100)  # label sets beside all of D~, with the first way of scaling
DRAWS = 1


class Sizes(NamedTuple):
    """Rows of D~, D^ and test as shares of all, and how many splits."""

    labelled: float = 1 / 3
    student: float = 1 / 3
    test: float = 1 / 3
    splits: int = 5


SIZES = Sizes()


def run_task(
    folder: Path,
    rows: Mapping[str, np.ndarray],
    strong: Sequence[str],
    y: np.ndarray,
    groups: np.ndarray,
    sizes: Sizes = SIZES,
    ridges: Sequence[float] = RIDGES,
    say: Callable[[str], None] = print,
) -> None:
    """Fills `folder` with `SCALING-measured.npz` and, with scores beside that, `SCALING.npz` of every scaling, `priors.npz`,
    `predictors.npz`, `norms.npz`, `mixtures.npz`; what is there is not computed again.

    rows: name -> representation (n, d) of all models, the strong ones too; y (n, c); groups (n,).
    """
    folder.mkdir(parents=True, exist_ok=True)
    n = len(y)
    counts = (int(sizes.labelled * n), int(sizes.student * n), int(sizes.test * n))
    splits = Splits(*deal(n, counts, sizes.splits, groups, 0))
    students = {name: rows[name] for name in strong}
    for scaling in SCALINGS:
        file = folder / f"{scaling}.npz"
        if file.exists():
            _require_strong(file, strong)
            continue
        errors = folder / f"{scaling}-measured.npz"
        if not errors.exists():
            say(f"{folder.name}, {scaling}: measuring")
            about = {"weak": list(rows), "strong": list(strong), "ridges": ridges, "n": [len(x[0]) for x in splits]}
            _replaced(errors, {**about, **measured(rows, students, y, splits, ridges, scaling)})
        _require_strong(errors, strong)
        say(f"{folder.name}, {scaling}: scoring")
        labels = label_sets(splits, LABELS if scaling == SCALINGS[0] else (), DRAWS)
        said = scores(rows, students, y, labels, groups, ridges, scaling)
        with np.load(errors) as found:
            _replaced(file, {**found, **said})

    file = folder / "priors.npz"
    if not file.exists():
        say(f"{folder.name}, {SCALINGS[0]}: priors")
        labels = label_sets(splits, LABELS, DRAWS)
        maps = [expected_map(rows, z, groups, ridges, SCALINGS[0], y, labels) for z in students.values()]
        _replaced(file, {name: np.stack([of[name] for of in maps]) for name in maps[0]})
    file = folder / "predictors.npz"
    if not file.exists():
        say(f"{folder.name}, {SCALINGS[0]}: predictors")
        labels = label_sets(splits, LABELS, DRAWS)
        _replaced(file, predictions(rows, students, y, labels, ridges, SCALINGS[0]))
    file = folder / "norms.npz"
    if not file.exists():
        say(f"{folder.name}, {SCALINGS[0]}: norms")
        _replaced(file, norms(rows, students, ridges, SCALINGS[0]))
    file = folder / "mixtures.npz"
    if not file.exists():
        say(f"{folder.name}, {SCALINGS[0]}: mixtures")
        labels = label_sets(splits, LABELS, DRAWS)
        mixed = [ridge for ridge in ridges if ridge in MIXED_RIDGES]
        found = mixtures(rows, students, y, splits, labels, groups, mixed, SCALINGS[0])
        _replaced(file, {"strong": list(strong), "ridges": mixed, **found})


def _require_strong(file: Path, strong: Sequence[str]) -> None:
    with np.load(file) as kept:
        if kept["strong"].tolist() != list(strong):
            raise SystemExit(
                f"{file} is of {', '.join(kept['strong'])}, got {', '.join(strong)}: another folder for them"
            )


def _replaced(file: Path, content: Mapping[str, Any]) -> None:
    """Writes a file whole or not at all."""
    part = file.with_suffix(".part")
    with part.open("wb") as stream:
        np.savez(stream, **content)
    part.replace(file)
