"""What each score's better half of weakly labelled rows is worth to a student: against random halves, all rows, the other half.

    W2S_DATA=FOLDER python -m benchmarks.experiments.selection --models FOLDER --text-work FOLDER --work FOLDER
        [--tasks sciq text] [--out benchmarks/results/selection.csv.gz]

--text-work is the `--work` of the experiment on texts, whose extracted rows are used. Everything is kept in --work as it ends:
started again, the command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np

from benchmarks.experiments.selection.halves import RIDGES, coded, judged, scores_of
from benchmarks.experiments.selection.page import KEY, write_rows
from benchmarks.experiments.selection.tasks import Setting, sciq_settings, text_settings
from w2s_jax.select import mlp_predictions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="folder of Hugging Face folders")
    parser.add_argument("--text-work", type=Path, required=True, help="what the experiment on texts has computed")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is computed")
    parser.add_argument("--tasks", nargs="+", choices=("sciq", "text"), default=["sciq", "text"])
    parser.add_argument("--out", type=Path, help="also write all numbers as a gzipped CSV")
    args = parser.parse_args()
    if not os.path.isdir(os.environ.get("W2S_DATA", "")):
        parser.error("W2S_DATA must name the folder of the data sets")
    args.work.mkdir(parents=True, exist_ok=True)
    rows: list[dict] = []
    for kind in args.tasks:
        settings = sciq_settings(args.models, args.work / "reps") if kind == "sciq" else text_settings(args.text_work)
        for setting in settings:
            rows += _kept(args.work, setting)
    if args.out:
        write_rows(args.out, rows)


def _kept(work: Path, setting: Setting) -> list[dict]:
    """The setting's results, from a file if they are there."""
    key = setting.task, setting.teacher, setting.strong, setting.split
    file = work / ("-".join(map(str, key)).replace(":", "_") + ".json")
    if not file.exists():
        scores = scores_of(setting, _networks(work, setting))
        found = [
            dict(zip(KEY, (*key, ridge), strict=True))
            | {name: x if isinstance(x, str) else float(x) for name, x in row.items()}
            for ridge in RIDGES
            for row in judged(setting, scores, ridge)
        ]
        part = file.with_suffix(".part")
        part.write_text(json.dumps(found))
        part.replace(file)
        print(f"{', '.join(map(str, key))}: done", flush=True)
    return json.loads(file.read_text())


def _networks(work: Path, setting: Setting) -> np.ndarray:
    """RADS' networks see the weak side alone: once for all strong models."""
    file = work / ("-".join(("networks", setting.task, setting.teacher, str(setting.split))).replace(":", "_") + ".npy")
    if not file.exists():
        np.save(file, mlp_predictions(setting.h_w, coded(setting.hard, setting)))
    return np.load(file)


if __name__ == "__main__":
    main()
