"""All numbers of an experiment as one table: a row for each task, strong model, scaling, ridge strength and teacher."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.experiments.measure import MEASURED, SCALINGS
from benchmarks.experiments.priors import RESPONSE
from benchmarks.experiments.scores import SCORE, STANDARD_ERROR
from w2s_jax.leaderboard import Contest, network_of, oriented

KEY = ("task", "strong", "scaling", "ridge", "teacher")
PRIOR = "prior:"


class Cell(NamedTuple):
    """One task, strong model, scaling and ridge strength: columns (teachers,) by name. No teacher is of the strong network."""

    task: str
    strong: str
    scaling: str
    ridge: float
    teachers: list[str]
    columns: dict[str, np.ndarray]

    @property
    def scores(self) -> dict[str, np.ndarray]:
        return {name.removeprefix(SCORE): x for name, x in self.columns.items() if name.startswith(SCORE)}

    @property
    def standard_errors(self) -> dict[str, np.ndarray]:
        """Of the scores that have one here."""
        own = (name for name in self.columns if name.startswith(STANDARD_ERROR))
        return {name.removeprefix(STANDARD_ERROR): self.columns[name] for name in own}

    @property
    def contest(self) -> Contest:
        """The same for a leaderboard: scores by `title_of`, the smallest best."""
        scores = {title_of(name): oriented(title_of(name), values) for name, values in self.scores.items()}
        measured = {name: self.columns[name] for name in MEASURED if name in self.columns}
        return Contest(self.task, self.strong, self.ridge, tuple(self.teachers), scores, measured)

    def expected(self, prior: str, noise: float) -> np.ndarray:
        """The expected error (teachers,) for a prior's p and a noise nu, of the dense computation beside the scores."""
        return self.columns[f"{PRIOR}{prior}"] + noise * self.columns[f"{PRIOR}{RESPONSE}"]


def title_of(name: str) -> str:
    """`trial_error:100` of `trial_error:draw0-100`."""
    column, _, labels = name.partition(":")
    return f"{column}:{labels.rpartition('-')[2]}" if labels else column


def cells_of(folder: Path) -> Iterator[Cell]:
    """What `run_task` kept in a task's folder; errors are means over the splits."""
    for scaling in SCALINGS:
        with np.load(folder / f"{scaling}.npz") as kept:
            weak, strong, ridges = kept["weak"].tolist(), kept["strong"].tolist(), kept["ridges"].tolist()
            columns = {name: kept[name].mean(-1) for name in MEASURED}
            columns |= {name: kept[name] for name in kept.files if name.startswith((SCORE, STANDARD_ERROR))}
        if scaling == SCALINGS[0]:
            with np.load(folder / "priors.npz") as kept:
                columns |= {f"{PRIOR}{name}": kept[name] for name in kept.files}
            for part in ("predictors", "norms"):
                with np.load(folder / f"{part}.npz") as kept:
                    columns |= {name: kept[name] for name in kept.files}
        for s, student in enumerate(strong):
            others = [i for i, name in enumerate(weak) if network_of(name) != network_of(student)]
            for r, ridge in enumerate(ridges):
                own = {name: values[s, r, others] for name, values in columns.items()}
                yield Cell(folder.name, student, scaling, ridge, [weak[i] for i in others], own)


def write_results(file: Path, folders: Iterable[Path]) -> None:
    """All cells as a gzipped CSV, seven digits a number: scores may differ in the fifth; the same numbers make the same file."""
    cells = [cell for folder in folders for cell in cells_of(folder)]
    names = list(dict.fromkeys(name for cell in cells for name in cell.columns))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*KEY, *names])
    for cell in cells:
        columns = [cell.columns.get(name, np.full(len(cell.teachers), np.nan)) for name in names]
        for teacher, *values in zip(cell.teachers, *columns, strict=True):
            table.writerow(
                [cell.task, cell.strong, cell.scaling, f"{cell.ridge:g}", teacher, *(f"{x:.7g}" for x in values)]
            )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def read_results(file: Path) -> list[Cell]:
    """The cells of such a file."""
    lines = list(csv.DictReader(io.StringIO(gzip.decompress(file.read_bytes()).decode())))
    by_cell: dict[tuple[str, str, str, float], list[dict[str, str]]] = {}
    for line in lines:
        by_cell.setdefault((line["task"], line["strong"], line["scaling"], float(line["ridge"])), []).append(line)
    names = [name for name in lines[0] if name not in KEY]
    cells = []
    for key, own in by_cell.items():
        columns = {name: np.array([float(line[name]) for line in own]) for name in names}
        there = {name: values for name, values in columns.items() if not np.isnan(values).all()}
        cells.append(Cell(*key, [line["teacher"] for line in own], there))
    return cells
