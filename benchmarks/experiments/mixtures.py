"""What mixtures of teachers are worth: weights that `rank_supervisors(mixture=True)` finds, and their students' measured errors.

    python -m benchmarks.experiments.mixtures [--quick] [--seeds N]

Beside them the students of the first teacher of the same table, of all teachers alike, and what hindsight would have chosen.
As a command on the leaderboard's own tasks, families of known populations and encoders of digits, for everything that a mixture
may make least.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np

import w2s_jax as w2s
from benchmarks.experiments.measure import Splits, student_products
from benchmarks.experiments.scores import FOLDS, label_sets
from benchmarks.experiments.tables import table
from w2s_jax._core.normalize import Normalize
from w2s_jax.leaderboard import network_of
from w2s_jax.leaderboard.tasks import FAMILIES, LABELS, TASKS
from w2s_jax.ranking.folds import deal
from w2s_jax.ranking.mixture import Objective, least

KEY = ("task", "strong", "ridge", "labels")
CHOICES = ("mixture", "first", "alike", "best", "best mixture")
MEASURED = (*CHOICES, "predicted", "teachers")
RIDGES = (1e-3, 1e-1)  # of the command
COLUMNS = (*MEASURED, "better than the first", "of the way to the best mixture")


def mixtures(
    weak: Mapping[str, np.ndarray],
    strong: Mapping[str, np.ndarray],
    y: np.ndarray,
    splits: Splits,
    labels: Mapping[str, np.ndarray],
    groups: np.ndarray | None,
    ridges: Sequence[float],
    scaling: Normalize,
    objective: Objective = "predicted",
) -> dict[str, np.ndarray]:
    """Errors (strong, ridge, CHOICES) by label set, measured, as shares of the labels' variance, and `predicted:SET`
    (strong, ridge) of the mixture; `teachers:SET` how many it is of. A strong model's own network does not teach it. A set of no
    rows is no labels at all."""
    products = student_products(weak, strong, y, splits, ridges, scaling)
    names, shape = list(weak), (len(strong), len(ridges))
    found: dict[str, np.ndarray] = {}
    for named, rows in labels.items():
        known = np.zeros(len(y), bool)
        known[rows] = True
        error, predicted, size = np.zeros((*shape, len(CHOICES))), np.zeros(shape), np.zeros(shape, int)
        for s, student in enumerate(strong):
            own = [i for i, name in enumerate(names) if network_of(name) != network_of(student)]
            teachers = {names[i]: weak[names[i]] for i in own}
            for r, ridge in enumerate(ridges):
                ranked = w2s.rank_supervisors(
                    teachers,
                    strong[student],
                    y if len(rows) else None,
                    labelled_rows=known if len(rows) else None,
                    groups=groups,
                    weak_ridge=ridge,
                    strong_ridge=ridge,
                    folds=FOLDS,
                    normalize=scaling,
                    mixture=objective,
                )
                mixture = ranked.mixtures["strong"]
                error[s, r] = _errors(
                    products[s, r][np.ix_(own, own)], list(teachers), ranked.names[0], mixture.weights
                )
                predicted[s, r], size[s, r] = mixture.error / y.var(0).sum(), len(mixture.weights)
        found |= {named: error, f"predicted:{named}": predicted, f"teachers:{named}": size}
    return found


def _errors(G: np.ndarray, names: list[str], first: str, weights: Mapping[str, float]) -> list:
    """Of CHOICES, from measured products of students' errors (teachers, teachers)."""
    w, best = np.array([weights.get(name, 0.0) for name in names]), least(G)
    one = names.index(first)
    return [w @ G @ w, G[one, one], G.mean(), np.diag(G).min(), best @ G @ best]


def write_mixtures(file: Path, folders: Iterable[Path]) -> None:
    """What `run_task` kept of all tasks as a gzipped CSV: a line for each task, strong model, ridge strength and label set."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([*KEY, *CHOICES, "predicted", "teachers"])
    for folder in folders:
        with np.load(folder / "mixtures.npz") as kept:
            sets = [name for name in kept.files if f"predicted:{name}" in kept.files]
            places = itertools.product(enumerate(kept["strong"].tolist()), enumerate(kept["ridges"].tolist()), sets)
            for (s, student), (r, ridge), named in places:
                errors, predicted = kept[named][s, r], kept[f"predicted:{named}"][s, r]
                numbers = [f"{x:.7g}" for x in (*errors, predicted)]
                labels = named.rpartition("-")[2]
                lines.writerow([folder.name, student, f"{ridge:g}", labels, *numbers, kept[f"teachers:{named}"][s, r]])
    file.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def mixtures_page(file: Path) -> str:
    """A table of the errors by label set, means over tasks, strong models and ridge strengths."""
    lines = list(csv.DictReader(io.StringIO(gzip.decompress(file.read_bytes()).decode())))
    body = [["labels", *COLUMNS]]
    for labels in dict.fromkeys(line["labels"] for line in lines):
        own = [line for line in lines if line["labels"] == labels]
        body.append([labels, *_means(np.array([[float(line[name]) for name in MEASURED] for line in own]))])
    tasks = ", ".join(dict.fromkeys(line["task"] for line in lines))
    text = (
        "Errors of students, shares of the labels' variance: of the mixture of `rank_supervisors(mixture=True)`, of the first "
        "teacher of the same table, of all teachers alike, of the best teacher and the best mixture in hindsight. Means over "
        f"{tasks}, strong models and ridge strengths ({', '.join(dict.fromkeys(line['ridge'] for line in lines))})."
    )
    return f"## Mixtures of teachers\n\n{text}\n\n{table(body)}\n"


def _means(values: np.ndarray) -> list[str]:
    """COLUMNS, from MEASURED of every setting."""
    of = dict(zip(MEASURED, values.T, strict=True))
    gained = of["first"] - of["mixture"]
    way = gained.sum() / (of["first"] - of["best mixture"]).sum()
    means = [f"{x.mean():.3f}" for x in of.values()]
    means[-1] = f"{of['teachers'].mean():.1f}"
    return [*means, f"{np.mean(gained > 0):.0%}", f"{way:.0%}"]


def of_task(name: str, seed: int) -> dict[tuple[str, str], np.ndarray]:
    """MEASURED (ridges, 7) by labels and objective, of one of the leaderboard's own tasks."""
    task = TASKS[name](name, seed)
    third = len(task.y) // 3
    splits = Splits(*deal(len(task.y), (third, third, third), 4, None, 0))
    sets = label_sets(splits, LABELS, 1)
    found = {}
    for objective in get_args(Objective):
        known = {"draw0-none": np.arange(0)} if objective == "expected" else sets
        given = {task.strong_name: task.strong}, task.y.reshape(-1, 1), splits, known
        kept = mixtures(task.weak, *given, None, RIDGES, "scale", objective)
        for named in known:
            parts = kept[named][0], kept[f"predicted:{named}"][0][:, None], kept[f"teachers:{named}"][0][:, None]
            found[named.rpartition("-")[2], objective] = np.concatenate(parts, 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one task, to see that it runs")
    parser.add_argument("--seeds", type=int, default=2, help="draws of every family's teachers")
    args = parser.parse_args()
    drawn = [(name, seed) for name in TASKS for seed in range(args.seeds if name in FAMILIES else 1)]
    found = {at: of_task(*at) for at in (drawn[:1] if args.quick else drawn)}
    for name in (*dict.fromkeys(name for name, _ in found), "all tasks"):
        own = [of for (task, _), of in found.items() if name in (task, "all tasks")]
        body = [[*key, *_means(np.concatenate([of[key] for of in own]))] for key in own[0]]
        print(f"{name}\n\n{table([['labels', 'least', *COLUMNS], *sorted(body)])}\n")


if __name__ == "__main__":
    main()
