"""What mixtures of teachers are worth: weights that `rank_supervisors(mixture=True)` finds, and their students' measured errors.

Beside them the students of the first teacher of the same table, of all teachers alike, and what hindsight would have chosen.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

import w2s_jax as w2s
from benchmarks.experiments.measure import Splits, student_products
from benchmarks.experiments.scores import FOLDS
from benchmarks.experiments.tables import table
from w2s_jax._core.normalize import Normalize
from w2s_jax.leaderboard import network_of
from w2s_jax.ranking.mixture import least

KEY = ("task", "strong", "ridge", "labels")
CHOICES = ("mixture", "first", "alike", "best", "best mixture")


def mixtures(
    weak: Mapping[str, np.ndarray],
    strong: Mapping[str, np.ndarray],
    y: np.ndarray,
    splits: Splits,
    labels: Mapping[str, np.ndarray],
    groups: np.ndarray,
    ridges: Sequence[float],
    scaling: Normalize,
) -> dict[str, np.ndarray]:
    """Errors (strong, ridge, CHOICES) by label set, measured, as shares of the labels' variance, and `predicted:SET`
    (strong, ridge) of the mixture; `teachers:SET` how many it is of. A strong model's own network does not teach it."""
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
                    y,
                    labelled_rows=known,
                    groups=groups,
                    weak_ridge=ridge,
                    strong_ridge=ridge,
                    folds=FOLDS,
                    normalize=scaling,
                    mixture=True,
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
    body = [["labels", *CHOICES, "predicted", "teachers", "better than the first", "of the way to the best mixture"]]
    for labels in dict.fromkeys(line["labels"] for line in lines):
        own = [line for line in lines if line["labels"] == labels]
        of = {name: np.array([float(line[name]) for line in own]) for name in (*CHOICES, "predicted", "teachers")}
        gained = of["first"] - of["mixture"]
        way = gained.sum() / (of["first"] - of["best mixture"]).sum()
        means = [f"{x.mean():.3f}" for x in of.values()]
        means[-1] = f"{of['teachers'].mean():.1f}"
        body.append([labels, *means, f"{np.mean(gained > 0):.0%}", f"{way:.0%}"])
    tasks = ", ".join(dict.fromkeys(line["task"] for line in lines))
    text = (
        "Errors of students, shares of the labels' variance: of the mixture of `rank_supervisors(mixture=True)`, of the first "
        "teacher of the same table, of all teachers alike, of the best teacher and the best mixture in hindsight. Means over "
        f"{tasks}, strong models and ridge strengths ({', '.join(dict.fromkeys(line['ridge'] for line in lines))})."
    )
    return f"## Mixtures of teachers\n\n{text}\n\n{table(body)}\n"
