"""Real teachers for real students on molecules: measured, and beside it what every score said.

    W2S_DATA=FOLDER python -m benchmarks.experiments.molecules --work FOLDER [--tasks ESOL ...] [--out FILE.csv.gz]

Without W2S_DATA the rows come from their origin. Everything is kept in --work as it ends: started again, the command goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.experiments.molecules import rows
from benchmarks.experiments.molecules.fingerprints import canonical, makers
from benchmarks.experiments.molecules.minimol import minimol
from benchmarks.experiments.molecules.representations import representations, stray_rows
from benchmarks.experiments.molecules.transformer import open_transformer
from benchmarks.experiments.results import write_results
from benchmarks.experiments.run import RIDGES, Sizes, run_task

MINIMOL = "minimol:fingerprint"
STRONG = (MINIMOL, "rxnmapper:layer2")
SIZES = Sizes(splits=20)
TRIMMED = "trimmed"  # what a task is called without the rows that a dead feature of MiniMol sets apart


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for what is computed")
    parser.add_argument("--tasks", nargs="+", choices=list(rows.SOURCES), default=list(rows.SOURCES))
    parser.add_argument("--out", type=Path, help="also write all numbers as a gzipped CSV")
    args = parser.parse_args(arguments)
    args.work.mkdir(parents=True, exist_ok=True)
    say = lambda line: print(line, flush=True)
    folders = []
    for name in args.tasks:
        task = rows.load(name, args.work, canonical)
        found = representations(task, args.work / "reps", makers(), {MINIMOL: minimol}, open_transformer)
        stray = {task.smiles[row]: feature for row, feature in stray_rows(found[MINIMOL]).items()}
        say(f"{name}: {len(task.y)} rows, {len(set(task.groups))} molecules; set apart by one feature: {stray}")
        kept = {name: np.arange(len(task.y))}
        if stray:
            kept[f"{name}-{TRIMMED}"] = np.array([row for row, text in enumerate(task.smiles) if text not in stray])
        for title, members in kept.items():
            own = {teacher: x[members] for teacher, x in found.items()}
            run_task(args.work / title, own, STRONG, task.y[members, None], task.groups[members], SIZES, RIDGES, say)
            folders.append(args.work / title)
    if args.out:
        write_results(args.out, folders)


if __name__ == "__main__":
    main()
