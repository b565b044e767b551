"""The page of an experiment, made from its results alone: which scaling, how well every score ordered the teachers, what it cost.

python -m benchmarks.experiments.page benchmarks/results/text.csv.gz [--mixtures FILE] [--out FILE.md]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import norm

from benchmarks.experiments.judge import LEVEL, interval, network_of, resampled
from benchmarks.experiments.judge import spearman as correlated
from benchmarks.experiments.leaderboard import REPEATS, leaderboard
from benchmarks.experiments.mixtures import mixtures_page
from benchmarks.experiments.priors import PRIORS
from benchmarks.experiments.results import Cell, read_results
from benchmarks.experiments.tables import columns, cost, grouped, kendall, mean, number, spearman, table, title_of

HARDLY = 0.9  # a ceiling whose error is above this share of the labels' variance has hardly learnt anything
AIM, AIM_ON_AVERAGE, BELOW_CKA = 0.6, 0.8, 0.05
LABEL_FREE = "expected_error"
NOISES = (0.0, 1.0, 4.0)
COVERED = (0.5, 0.9)  # levels of the predicted errors' intervals


def page(cells: Sequence[Cell]) -> str:
    """Markdown."""
    heads, *others = tables(cells).values()
    first = [cell for cell in cells if cell.scaling == cells[0].scaling]
    return "\n\n".join((heads, _correlations(cells), leaderboard(first), *others)) + "\n"


def tables(cells: Sequence[Cell]) -> dict[str, str]:
    """The page's parts that need no resampling."""
    first = [cell for cell in cells if cell.scaling == cells[0].scaling]
    parts = (_by_task, _by_ridge, _intervals, _priors, _aims)
    return {"heads": _heads(cells)} | {part.__name__: part(first) for part in parts}


def _heads(cells: Sequence[Cell]) -> str:
    """What ceilings and the best students make of the labels."""
    lines = [["strong", "scaling", "ceiling's error", "best student's error", "best student's accuracy"]]
    for (strong, scaling), own in grouped(cells, lambda cell: (cell.strong, cell.scaling)):
        measured = (
            mean(cell.columns["ceiling_error"].mean() for cell in own),
            mean(cell.columns["student_error"].min() for cell in own),
            mean(cell.columns["student_accuracy"].max() for cell in own if "student_accuracy" in cell.columns),
        )
        lines.append([strong, scaling, *map(number, measured)])
    text = "Errors are shares of the labels' variance. Means over tasks and ridge strengths."
    return f"## What heads make of scaled features\n\n{text}\n\n{table(lines)}"


def _correlations(cells: Sequence[Cell]) -> str:
    parts = []
    for scaling, own in grouped(cells, lambda cell: cell.scaling):
        parts += [
            f'## Scores, `normalize="{scaling}"`',
            "Spearman's correlation with the measured errors of the students, means over tasks and ridge strengths; "
            f"{LEVEL:.0%} of {REPEATS} resamplings of networks, all layers of one together.",
            _by_strong(own, _with_interval),
            "Kendall's:",
            _by_strong(own, lambda of, title: number(mean(kendall(cell, title) for cell in of))),
            "What the first choice costs: its student's error minus the best one's, as a share of the median minus the best.",
            _by_strong(own, lambda of, title: number(mean(cost(cell, title) for cell in of))),
        ]
    return "\n\n".join(parts)


def _by_strong(cells: Sequence[Cell], entry: Callable[[list[Cell], str], str]) -> str:
    """A line for each score, a column for each strong model."""
    by_strong = dict(grouped(cells, lambda cell: cell.strong))
    lines = [["score", *by_strong]]
    lines += [[title, *(entry(own, title) for own in by_strong.values())] for title in columns(cells)]
    return table(lines)


def _with_interval(cells: list[Cell], title: str) -> str:
    """Over networks that are resampled, the same ones in all of a strong model's cells."""
    draws = resampled([network_of(teacher) for teacher in cells[0].teachers], REPEATS)
    low, high = interval(np.array([mean(spearman(cell, title, rows) for cell in cells) for rows in draws]))
    return f"{number(mean(spearman(cell, title) for cell in cells))} [{number(low)}, {number(high)}]"


def _by_task(cells: Sequence[Cell]) -> str:
    titles = columns(cells)
    lines = [["strong", "task", "ceiling's error", *titles]]
    for (strong, task), own in grouped(cells, lambda cell: (cell.strong, cell.task)):
        ceiling = min(cell.columns["ceiling_error"].mean() for cell in own)
        marked = number(ceiling) + (" (hardly sees the labels)" if ceiling > HARDLY else "")
        lines.append([strong, task, marked, *(number(mean(spearman(c, title) for c in own)) for title in titles)])
    text = "Spearman, means over ridge strengths; the ceiling at its best one."
    return f"## By task\n\n{text}\n\n{table(lines)}"


def _by_ridge(cells: Sequence[Cell]) -> str:
    titles = columns(cells)
    lines = [["ridge", *titles]]
    for ridge, own in grouped(cells, lambda cell: cell.ridge):
        lines.append([f"{ridge:g}", *(number(mean(spearman(cell, title) for cell in own)) for title in titles)])
    return f"## By ridge strength\n\nSpearman, means over tasks and strong models.\n\n{table(lines)}"


def _intervals(cells: Sequence[Cell]) -> str:
    """How often the measured error lies within the predicted one's interval, on a scale of logarithms."""
    names = dict.fromkeys(name for cell in cells for name in cell.standard_errors)
    lines = [
        ["score", "strong", *(f"within {level:.0%}" for level in COVERED), "measured over predicted", "standard error"]
    ]
    for title in dict.fromkeys(map(title_of, names)):
        for strong, own in grouped(cells, lambda cell: cell.strong):
            of = [_strays(cell, name) for cell in own for name in cell.standard_errors if title_of(name) == title]
            strayed, error = (np.concatenate(parts) for parts in zip(*of, strict=True))
            within = [np.mean(np.abs(strayed) <= norm.ppf((1 + level) / 2) * error) for level in COVERED]
            numbers = [*within, np.exp(np.mean(strayed)), np.mean(error)]
            lines.append([title, strong, *(number(float(x)) for x in numbers)])
    text = "Shares of teachers, tasks and ridge strengths whose measured error is in the interval; relative standard errors."
    return f"## Intervals\n\n{text}\n\n{table(lines)}"


def _strays(cell: Cell, name: str) -> tuple[np.ndarray, np.ndarray]:
    """By how much the measured error differs from the predicted one, as a logarithm, and the predicted one's relative error."""
    predicted = cell.scores[name]
    return np.log(cell.columns["student_error"] / predicted), cell.standard_errors[name] / predicted


def _priors(cells: Sequence[Cell]) -> str:
    """The label-free score for other label priors and noises."""
    chosen = [(f"{p:g}", noise) for p in PRIORS for noise in NOISES]
    lines = [["strong", "task", *(f"p = {p}, nu = {noise:g}" for p, noise in chosen)]]
    for (strong, task), own in grouped(cells, lambda cell: (cell.strong, cell.task)):
        of = lambda cell, p, noise: correlated(cell.expected(p, noise), cell.columns["student_error"])
        lines.append([strong, task, *(number(mean(of(cell, p, noise) for cell in own)) for p, noise in chosen)])
    text = "Spearman of the expected error, by the label prior's p and the noise nu; means over ridge strengths."
    return f"## Priors and noise\n\n{text}\n\n{table(lines)}"


def _aims(cells: Sequence[Cell]) -> str:
    """What the label-free score should reach, and whether it did."""
    lines, means = [], {}
    for strong, own in grouped(cells, lambda cell: cell.strong):
        means[strong] = mean(spearman(cell, LABEL_FREE) for cell in own)
        behind = mean(spearman(cell, "cka") for cell in own) - means[strong]
        verdicts = (
            f"{'above' if means[strong] > AIM else 'NOT above'} {AIM}",
            f"{'not more' if behind <= BELOW_CKA else 'MORE'} than {BELOW_CKA} below CKA",
        )
        lines.append(f"- {strong}: {number(means[strong])}, {', '.join(verdicts)}")
    average = mean(means.values())
    lines.append(
        f"- on average {number(average)}: {'above' if average > AIM_ON_AVERAGE else 'NOT above'} {AIM_ON_AVERAGE}"
    )
    return f"## Aims\n\n`{LABEL_FREE}`, means over tasks and ridge strengths.\n\n" + "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="a file that an experiment has written")
    parser.add_argument("--mixtures", type=Path, metavar="FILE", help="what the same experiment wrote of mixtures")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the page there")
    args = parser.parse_args()
    text = page(read_results(args.results)) + ("\n" + mixtures_page(args.mixtures) if args.mixtures else "")
    args.out.write_text(text) if args.out else print(text)
