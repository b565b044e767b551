"""Real teachers for real language models: measured, and beside it what every score said.

    W2S_DATA=FOLDER python -m benchmarks.experiments.text --models FOLDER --work FOLDER [--glove glove.6B.50d.txt]
        [--tasks sst2 ...] [--strong smollm2-135m:layer17 ...] [--out benchmarks/results/text.csv.gz]

--models has Hugging Face folders called as in `teachers.NETWORKS`; others are left out and said so. Everything is kept
in --work as it ends: started again, the command goes on. Needs the extras `hf` and `test`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from benchmarks.experiments.mixtures import write_mixtures
from benchmarks.experiments.results import write_results
from benchmarks.experiments.run import run_task
from benchmarks.experiments.text.tasks import FILES, load
from benchmarks.experiments.text.teachers import NETWORKS, STRONG, extracted, plain
from w2s_jax.extract import open_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="folder of Hugging Face folders")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is computed")
    parser.add_argument("--glove", type=Path, help="a text file of GloVe's vectors")
    parser.add_argument("--tasks", nargs="+", choices=list(FILES), default=list(FILES))
    parser.add_argument(
        "--strong", nargs="+", default=STRONG, metavar="NAME:layerN", help="of those in --models, as students"
    )
    parser.add_argument("--out", type=Path, help="also write all numbers as a gzipped CSV")
    args = parser.parse_args()
    if not os.path.isdir(os.environ.get("W2S_DATA", "")):
        parser.error("W2S_DATA must name the folder of the data sets (see tasks.py)")
    networks = [network for network in NETWORKS if (args.models / network.name).is_dir()]
    for network in NETWORKS:
        if network not in networks:
            print(f"left out: {network.name} is not in {args.models}")
    if not any(place.partition(":")[0] in {network.name for network in networks} for place in args.strong):
        parser.error(f"--models must have the folder of a strong model ({', '.join(args.strong)}), got {args.models}")
    tasks = [load(name) for name in args.tasks]
    rows: dict[str, dict[str, np.ndarray]] = {task.name: {} for task in tasks}
    for network in networks:  # opened and compiled once for all tasks
        model = open_model(args.models / network.name)
        for task in tasks:
            rows[task.name] |= extracted(network, model, task.texts, args.work / task.name / "reps")
    for task in tasks:
        own = rows[task.name] | plain(task.texts, args.glove)
        strong = [teacher for teacher in args.strong if teacher in own]
        run_task(args.work / task.name, own, strong, task.y, task.groups, say=lambda line: print(line, flush=True))
    if args.out:
        folders = [args.work / name for name in args.tasks]
        write_results(args.out, folders)
        write_mixtures(args.out.with_name(args.out.name.replace(".csv", "_mixtures.csv")), folders)


if __name__ == "__main__":
    main()
