"""The page of the experiment, made from its results alone.

python -m benchmarks.experiments.selection.page benchmarks/results/selection.csv.gz [--out FILE.md]
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.experiments.selection.halves import RANDOM_HALVES, SMOOTHED
from benchmarks.experiments.tables import table

KEY = ("task", "teacher", "strong", "split", "ridge")
NUMBERS = ("error", "accuracy", "label_accuracy")
ABOUT = (
    "Computed on 2 CPU cores. Columns: the student's test error (in units of the labels' variance) and accuracy after training "
    "on the score's better half, and on the other half; in how many settings the better half's error is below the mean of "
    f"{RANDOM_HALVES} random halves, and how far in their standard deviations (z); how many labels of the better half are "
    "right. `, features`: representations with each feature at unit variance. Smoothed labels are those of all rows."
)
Cells = dict[tuple[str, ...], dict[tuple[str, str], dict[str, float]]]


def write_rows(file: Path, rows: Iterable[dict]) -> None:
    """A gzipped CSV, five digits a number."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([*KEY, "score", "half", *NUMBERS])
    for row in rows:
        lines.writerow([*(row[name] for name in (*KEY, "score", "half")), *(f"{row[name]:.5g}" for name in NUMBERS)])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def read_cells(file: Path) -> Cells:
    """By task, teacher, strong model, split and ridge: the numbers of every score and half."""
    cells: Cells = {}
    for row in csv.DictReader(io.StringIO(gzip.decompress(file.read_bytes()).decode())):
        cell = cells.setdefault(tuple(row[name] for name in KEY), {})
        cell[row["score"], row["half"]] = {name: float(row[name]) for name in NUMBERS}
    return cells


def page(cells: Cells) -> str:
    """Markdown."""
    sciq = {key: cell for key, cell in cells.items() if key[0] == "sciq"}
    others = {key: cell for key, cell in cells.items() if key[0] != "sciq"}
    parts = [ABOUT]
    for title, own in (("SciQ, weak labels of fine-tuned GPT-2 models", sciq), ("Text tasks, weak heads", others)):
        for ridge in sorted({key[4] for key in own}, key=float):
            parts.append(
                f"## {title}; students' ridge {ridge}\n\n{_scores({k: c for k, c in own.items() if k[4] == ridge})}"
            )
    parts.append(f"## By task\n\n{_by(cells, 0)}")
    parts.append(f"## By strong model, SciQ\n\n{_by(sciq, 2)}")
    parts.append(f"## By strong model, text tasks\n\n{_by(others, 2)}")
    return "\n\n".join(parts) + "\n"


def _scores(cells: Cells) -> str:
    """A line for each score: means over settings, and how often its half beats the random ones."""
    of = list(cells.values())
    all_rows, halves = _mean(of, ("all", "all")), _mean([_random(cell) for cell in of], ("random", "mean"))
    text = (
        f"{len(of)} settings. Random halves: error {halves['error']:.3f} (sd within a setting "
        f"{np.mean([_spread(cell, 'error') for cell in of]):.3f}), accuracy {halves['accuracy']:.1%} (sd "
        f"{np.mean([_spread(cell, 'accuracy') for cell in of]):.1%}), labels right {halves['label_accuracy']:.1%}. "
        f"All rows: error {all_rows['error']:.3f}, accuracy {all_rows['accuracy']:.1%}."
    )
    lines = [["score", "error", "other half's", "accuracy", "other half's", "better than random", "z", "labels right"]]
    for name in _names(of):
        half = "all" if name.startswith(SMOOTHED) else "kept"
        own = _mean(of, (name, half))
        rest = _mean(of, (name, "other")) if half == "kept" else None
        gains = [_gain(cell, name, half) for cell in of]
        errors = f"{own['error']:.3f}", f"{rest['error']:.3f}" if rest else ""
        accuracies = f"{own['accuracy']:.1%}", f"{rest['accuracy']:.1%}" if rest else ""
        better = f"{np.mean([gain > 0 for gain in gains]):.0%}", f"{np.mean(gains):+.1f}"
        lines.append([name, *errors, *accuracies, *better, f"{own['label_accuracy']:.1%}"])
    return f"{text}\n\n{table(lines)}"


def _by(cells: Cells, place: int) -> str:
    """The change of accuracy in points and of error in percent against random halves, both ridges together."""
    names, groups = _names(list(cells.values())), list(dict.fromkeys(key[place] for key in cells))
    lines = [["score", *groups]]
    for name in names:
        half, entries = "all" if name.startswith(SMOOTHED) else "kept", []
        for group in groups:
            own = [cell for key, cell in cells.items() if key[place] == group]
            pairs = [(cell[name, half], _random(cell)["random", "mean"]) for cell in own]
            points = np.mean([100 * (a["accuracy"] - b["accuracy"]) for a, b in pairs])
            error = np.mean([100 * (a["error"] / b["error"] - 1) for a, b in pairs])
            entries.append(f"{points:+.1f} ({error:+.0f}%)")
        lines.append([name, *entries])
    return f"Points of accuracy against random halves, in brackets the change of the error.\n\n{table(lines)}"


def _random(cell: dict) -> dict:
    own = [numbers for (name, _), numbers in cell.items() if name == "random"]
    return {("random", "mean"): {what: float(np.mean([x[what] for x in own])) for what in NUMBERS}}


def _spread(cell: dict, what: str) -> float:
    return float(np.std([numbers[what] for (name, _), numbers in cell.items() if name == "random"], ddof=1))


def _gain(cell: dict, name: str, half: str) -> float:
    """How far the student's error is below that of random halves, in their standard deviations."""
    return (_random(cell)["random", "mean"]["error"] - cell[name, half]["error"]) / _spread(cell, "error")


def _names(cells: Sequence[dict]) -> list[str]:
    return list(dict.fromkeys(name for cell in cells for name, _ in cell if name not in ("all", "random")))


def _mean(cells: Sequence[dict], key: tuple[str, str]) -> dict[str, float]:
    return {what: float(np.mean([cell[key][what] for cell in cells])) for what in NUMBERS}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="a file that the experiment has written")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the page there")
    args = parser.parse_args()
    text = page(read_cells(args.results))
    args.out.write_text(text) if args.out else print(text)
