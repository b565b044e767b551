"""The page of an experiment, made from its results alone: which scaling, how well every score ordered the teachers, what it cost.

python -m benchmarks.experiments.page benchmarks/results/text.csv.gz
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from benchmarks.experiments.judge import LEVEL, interval, network_of, resampled, spearman, verdict
from benchmarks.experiments.results import Cell, read_results
from benchmarks.experiments.scores import LARGER_IS_BETTER

REPEATS = 200  # resampled networks
HARDLY = 0.9  # a ceiling whose error is above this share of the labels' variance has hardly learnt anything
AIM, AIM_ON_AVERAGE, BELOW_CKA = 0.6, 0.8, 0.05
LABEL_FREE = "expected_error"


def page(cells: Sequence[Cell]) -> str:
    """Markdown."""
    return "\n\n".join((_scalings(cells), _by_strong(cells), _by_task(cells), _costs(cells), _aims(cells))) + "\n"


def titled(cells: Iterable[Cell]) -> list[str]:
    """The scores of all cells, those of several draws of labels once: `trial_error:100`."""
    return list(dict.fromkeys(_title(name) for cell in cells for name in cell.scores))


def _title(name: str) -> str:
    column, _, labels = name.partition(":")
    return f"{column}:{labels.rpartition('-')[2]}" if labels else column


def oriented(cell: Cell, title: str) -> list[np.ndarray]:
    """A score of a cell, small where it hopes for much, from each draw of labels."""
    sign = -1 if title.partition(":")[0] in LARGER_IS_BETTER else 1
    return [sign * score for name, score in cell.scores.items() if _title(name) == title]


def correlation(cell: Cell, title: str, teachers: np.ndarray | slice = slice(None)) -> float:
    """Spearman's with the student's error, mean over draws of labels."""
    error = cell.columns["student_error"][teachers]
    found = [spearman(score[teachers], error) for score in oriented(cell, title)]
    return float(np.mean(found)) if found else float("nan")


def cost(cell: Cell, title: str) -> float:
    """Of the first choice, mean over draws of labels."""
    return float(np.mean([verdict(score, cell.columns["student_error"]).cost for score in oriented(cell, title)]))


def _scalings(cells: Sequence[Cell]) -> str:
    titles = titled(cells)
    lines = [["scaling", "strong", "ceiling error", "best student", "best student's accuracy", *titles]]
    for (strong, scaling), own in _grouped(cells, lambda cell: (cell.strong, cell.scaling)):
        measured = [
            np.mean([cell.columns["ceiling_error"].mean() for cell in own]),
            np.mean([cell.columns["student_error"].min() for cell in own]),
            np.nanmean([cell.columns["student_accuracy"].max() for cell in own]),
        ]
        said = [_mean(correlation(cell, title) for cell in own) for title in titles]
        lines.append([scaling, strong, *(f"{x:.3f}" for x in (*measured, *said))])
    return (
        "## Scaling of features\n\nMeans over tasks and ridge strengths; Spearman with the student's error.\n\n"
        + _table(lines)
    )


def _by_strong(cells: Sequence[Cell]) -> str:
    """With intervals from networks that are resampled, the same ones in all of a strong model's cells."""
    titles = titled(cells)
    lines = [["scaling", "strong", *titles]]
    for (strong, scaling), own in _grouped(cells, lambda cell: (cell.strong, cell.scaling)):
        draws = resampled([network_of(teacher) for teacher in own[0].teachers], REPEATS)
        texts = []
        for title in titles:
            low, high = interval(np.array([_mean(correlation(cell, title, rows) for cell in own) for rows in draws]))
            texts.append(f"{_mean(correlation(cell, title) for cell in own):.2f} [{low:.2f}, {high:.2f}]")
        lines.append([scaling, strong, *texts])
    return (
        f"## Intervals\n\n{LEVEL:.0%} of {REPEATS} resamplings of networks, all layers of one together.\n\n"
        + _table(lines)
    )


def _by_task(cells: Sequence[Cell]) -> str:
    titles = titled(cells)
    lines = [["scaling", "strong", "task", "ceiling error", *titles]]
    for (scaling, strong, task), own in _grouped(cells, lambda cell: (cell.scaling, cell.strong, cell.task)):
        ceiling = np.min([cell.columns["ceiling_error"].mean() for cell in own])
        marked = f"{ceiling:.2f}" + (" (hardly sees the labels)" if ceiling > HARDLY else "")
        lines.append([scaling, strong, task, marked, *(f"{_mean(correlation(c, t) for c in own):.2f}" for t in titles)])
    return "## By task\n\nMeans over ridge strengths; the ceiling at its best one.\n\n" + _table(lines)


def _costs(cells: Sequence[Cell]) -> str:
    titles = titled(cells)
    lines = [["scaling", "strong", *titles]]
    for (scaling, strong), own in _grouped(cells, lambda cell: (cell.scaling, cell.strong)):
        lines.append([scaling, strong, *(f"{_mean(cost(cell, title) for cell in own):.2f}" for title in titles)])
    said = "Error of the chosen teacher's student minus the best one's, as a share of the median minus the best."
    return f"## Cost of the wrong choice\n\n{said} Means over tasks and ridge strengths.\n\n" + _table(lines)


def _aims(cells: Sequence[Cell]) -> str:
    """What the label-free score should reach, and whether it did."""
    lines = ["## Aims", f"`{LABEL_FREE}`, features on one scale, means over tasks and ridge strengths."]
    means = {}
    for strong, own in _grouped([c for c in cells if c.scaling == "features"], lambda cell: cell.strong):
        means[strong] = _mean(correlation(cell, LABEL_FREE) for cell in own)
        behind = _mean(correlation(cell, "cka") for cell in own) - means[strong]
        verdicts = [
            f"{'above' if means[strong] > AIM else 'NOT above'} {AIM}",
            f"{'no' if behind <= BELOW_CKA else 'MORE'} than {BELOW_CKA} below CKA",
        ]
        lines.append(f"- {strong}: {means[strong]:.2f}, {', '.join(verdicts)}")
    average = _mean(means.values())
    lines.append(f"- on average {average:.2f}: {'above' if average > AIM_ON_AVERAGE else 'NOT above'} {AIM_ON_AVERAGE}")
    return "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:])


def _grouped(cells: Iterable[Cell], key: Callable) -> list[tuple]:
    return [(name, list(own)) for name, own in groupby(sorted(cells, key=key), key)]


def _mean(values: Iterable[float]) -> float:
    found = np.array(list(values), float)
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def _table(lines: list[list[str]]) -> str:
    header, *body = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *body))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="a file that an experiment has written")
    print(page(read_results(parser.parse_args().results)))
