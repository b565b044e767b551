"""The page of an experiment, made from its results alone: which scaling, how well every score ordered the teachers, what it cost.

python -m benchmarks.experiments.page benchmarks/results/text.csv.gz [--mixtures FILE] [--heat-map FILE] [--out FILE.md]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import norm

from benchmarks.experiments.mixtures import mixtures_page
from benchmarks.experiments.norms import draw_norms, norms_page
from benchmarks.experiments.priors import LEAST, LEAST_SHARES, PRIORS
from benchmarks.experiments.results import PRIOR, Cell, read_results, title_of
from benchmarks.experiments.tables import grouped, mean, number, table
from w2s_jax._core.ranks import spearman
from w2s_jax.leaderboard import LEVEL, Standing, judge
from w2s_jax.predictors import PREDICTORS

REPEATS = 100  # resamplings
HARDLY = 0.9  # a ceiling whose error is above this share of the labels' variance has hardly learnt anything
AIM, AIM_ON_AVERAGE, BELOW_CKA = 0.6, 0.8, 0.05
LABEL_FREE = "expected_error"
NOISES = (0.0, 1.0, 4.0)
COVERED = (0.5, 0.9)  # levels of the predicted errors' intervals


def page(cells: Sequence[Cell]) -> str:
    """Markdown."""
    heads, *others = tables(cells).values()
    first = [cell for cell in cells if cell.scaling == cells[0].scaling]
    return "\n\n".join((heads, _correlations(cells), _leaderboard(first), *others)) + "\n"


def tables(cells: Sequence[Cell]) -> dict[str, str]:
    """The page's parts that need no resampling."""
    first = [cell for cell in cells if cell.scaling == cells[0].scaling]
    parts = (_by_task, _by_ridge, norms_page, _intervals, _priors, _least_shares, _aims)
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
        by_strong = {strong: _judged(of, REPEATS) for strong, of in grouped(own, lambda cell: cell.strong)}
        between = lambda standing: f"{number(standing.spearman)} [{number(standing.low)}, {number(standing.high)}]"
        parts += [
            f'## Scores, `normalize="{scaling}"`',
            "Spearman's correlation with the measured errors of the students, means over tasks and ridge strengths; "
            f"{LEVEL:.0%} of {REPEATS} resamplings of tasks and networks, all layers of one together.",
            _by_strong(by_strong, between),
            "Kendall's:",
            _by_strong(by_strong, lambda standing: number(standing.kendall)),
            "What the first choice costs: its student's error minus the best one's, as a share of the median minus the best.",
            _by_strong(by_strong, lambda standing: number(standing.cost)),
        ]
    return "\n\n".join(parts)


def _judged(cells: Sequence[Cell], repeats: int = 1) -> dict[str, Standing]:
    """Scores that every ranking has, by title."""
    standings = judge([cell.contest for cell in cells], repeats=repeats).standings
    return {standing.title: standing for standing in standings if standing.score not in PREDICTORS}


def _by_strong(by_strong: dict[str, dict[str, Standing]], said: Callable[[Standing], str]) -> str:
    """A line for each score, a column for each strong model."""
    titles = dict.fromkeys(title for standings in by_strong.values() for title in standings)
    lines = [["score", *by_strong]]
    lines += [[title, *(said(standings[title]) for standings in by_strong.values())] for title in sorted(titles)]
    return table(lines)


def _leaderboard(cells: Sequence[Cell]) -> str:
    """All scores, the package's and published predictors, by what labels they need; the best first."""
    board = judge([cell.contest for cell in cells], repeats=REPEATS)
    parts = [
        "## Leaderboard",
        "Spearman's correlation with the measured errors of the students, means over tasks, strong models and ridge strengths, "
        f"with {LEVEL:.0%} of {REPEATS} resamplings of networks and tasks; its lowest mean over ridge strengths, of a task and a "
        "strong model; Kendall's; and what the first choice costs. Tied: the difference from the first may be 0 by those "
        "resamplings.",
    ]
    for labels in board.labels:
        lines = [["score", "Spearman", "", "lowest", "Kendall", "cost"]]
        for standing in board.of(labels):
            between = f"[{number(standing.low)}, {number(standing.high)}]"
            numbers = map(number, (standing.lowest, standing.kendall, standing.cost))
            title = f"{standing.title} (tied)" if standing.tied else standing.title
            lines.append([title, number(standing.spearman), between, *numbers])
        parts += [f"### {f'Labels: {labels}' if labels else 'No labels'}", table(lines)]
    return "\n\n".join(parts)


def _by_task(cells: Sequence[Cell]) -> str:
    lines = [["strong", "task", "ceiling's error", *sorted(_judged(cells))]]
    for (strong, task), own in grouped(cells, lambda cell: (cell.strong, cell.task)):
        ceiling = min(cell.columns["ceiling_error"].mean() for cell in own)
        marked = number(ceiling) + (" (hardly sees the labels)" if ceiling > HARDLY else "")
        lines.append([strong, task, marked, *(number(of.spearman) for _, of in sorted(_judged(own).items()))])
    text = "Spearman, means over ridge strengths; the ceiling at its best one."
    return f"## By task\n\n{text}\n\n{table(lines)}"


def _by_ridge(cells: Sequence[Cell]) -> str:
    lines = [["ridge", *sorted(_judged(cells))]]
    for ridge, own in grouped(cells, lambda cell: cell.ridge):
        lines.append([f"{ridge:g}", *(number(of.spearman) for _, of in sorted(_judged(own).items()))])
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
        of = lambda cell, p, noise: spearman(cell.expected(p, noise), cell.columns["student_error"])
        lines.append([strong, task, *(number(mean(of(cell, p, noise) for cell in own)) for p, noise in chosen)])
    text = "Spearman of the expected error, by the label prior's p and the noise nu; means over ridge strengths."
    return f"## Priors and noise\n\n{text}\n\n{table(lines)}"


def _least_shares(cells: Sequence[Cell]) -> str:
    """The posterior error for other least shares of the labels that the strong model is taken to express."""
    sets = dict.fromkeys(name.rpartition(":")[2] for name in cells[0].columns if name.startswith(PRIOR + LEAST))
    column = lambda least, named: f"{PRIOR}{LEAST}{least:g}:{named}"
    of = lambda cell, *which: spearman(cell.columns[column(*which)], cell.columns["student_error"])
    titles = [f"R >= {least:g}, {title_of(f':{named}')[1:]} labels" for named in sets for least in LEAST_SHARES]
    by_task = {
        task: np.array([[mean(of(cell, least, named) for cell in own) for least in LEAST_SHARES] for named in sets])
        for task, own in grouped(cells, lambda cell: cell.task)
    }
    lines = [["task", *titles, "best R elsewhere"]]
    for task, found in by_task.items():
        others = [x for name, x in by_task.items() if name != task]
        best = f"{LEAST_SHARES[int(np.argmax(np.mean(others, (0, 1))))]:g}" if others else ""
        lines.append([task, *map(number, found.ravel()), best])
    lines.append(["all", *map(number, np.mean(list(by_task.values()), 0).ravel()), ""])
    text = (
        "Spearman of the posterior error by the least share R of the labels that the strong model is taken to "
        "express: the package's posterior, in an experiment of its own on the rows; means over strong models and "
        "ridge strengths. Last: which R is best on all other tasks."
    )
    return f"## The least share\n\n{text}\n\n{table(lines)}"


def _aims(cells: Sequence[Cell]) -> str:
    """What the label-free score should reach, and whether it did."""
    lines, means = [], {}
    for strong, own in grouped(cells, lambda cell: cell.strong):
        found = _judged(own)
        means[strong] = found[LABEL_FREE].spearman
        behind = found["cka"].spearman - means[strong]
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
    parser.add_argument("--heat-map", type=Path, metavar="FILE", help="draw the norm over its cut and penalty")
    args = parser.parse_args()
    cells = read_results(args.results)
    if args.heat_map:
        draw_norms([cell for cell in cells if cell.scaling == cells[0].scaling], args.heat_map)
    text = page(cells) + ("\n" + mixtures_page(args.mixtures) if args.mixtures else "")
    args.out.write_text(text) if args.out else print(text)
