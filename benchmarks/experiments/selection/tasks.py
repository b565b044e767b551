"""What rows are selected from: a teacher's labels of texts, representations of both sides, and test rows with true labels.

Two kinds. SciQ has weak labels of GPT-2 models that others fine-tuned (`sciq/` in the folder that `W2S_DATA` names); no
representation of those models is at hand, and MiniLM's last layer stands in for the weak side. The text tasks have weak heads
on the weak representation itself, trained on as many other rows.
"""

from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

import w2s_jax as w2s
from benchmarks.experiments.text.tasks import load
from w2s_jax.extract import extract_model
from w2s_jax.files import open_rows
from w2s_jax.ranking.folds import deal

TEXT_TASKS = ("sst2", "mr", "subj", "trec", "commonsense")
TEACHERS = ("bert-tiny:layer2", "paraphrase-minilm-l3:layer3", "minilm-l6:layer3")
STRONG = ("smollm2-135m:layer17", "gemma3-270m:layer8", "e5-small:layer10")
ROWS, SPLITS, RIDGE = 600, 3, 1e-3  # rows of each part, and the weak heads' penalty

SCIQ_TEACHERS = ("gpt2", "gpt2_medium", "gpt2_large", "gpt2_xl")
SCIQ_ROWS, SCIQ_TEST = 2500, 1000
SCIQ_WEAK = "minilm-l6:layer6.mean"
SCIQ_STRONG = (
    *("smollm2-135m:layer17.mean", "smollm2-135m:layer17.last", "smollm2-135m:layer30.last"),
    *("gemma3-270m:layer8.mean", "gemma3-270m:layer8.last", "e5-small:layer10.mean"),
)
PREFIX = {"e5-small": "query: "}


class Setting(NamedTuple):
    """Rows of a student's split: weak and strong representation, the teacher's probabilities (n,) or (n, classes), true classes
    (n,); and test rows with true classes."""

    task: str
    teacher: str
    strong: str
    split: int
    h_w: np.ndarray
    h_s: np.ndarray
    probabilities: np.ndarray
    truth: np.ndarray
    test: np.ndarray
    test_truth: np.ndarray

    @property
    def hard(self) -> np.ndarray:
        """The teacher's class (n,)."""
        return (self.probabilities > 0.5).astype(int) if self.probabilities.ndim == 1 else self.probabilities.argmax(1)


def text_settings(work: Path) -> Iterator[Setting]:
    """Of all text tasks, from the rows that the experiment on texts has extracted into its `--work`."""
    for name in TEXT_TASKS:
        task = load(name)
        classes = (task.y[:, 0] > 0).astype(int) if task.y.shape[1] == 1 else task.y.argmax(1)
        y = task.y[:, 0] if task.y.shape[1] == 1 else task.y
        weak, strong = ({place: _read(work / name / "reps", place) for place in of} for of in (TEACHERS, STRONG))
        parts = deal(len(y), (ROWS, ROWS, ROWS), SPLITS, task.groups, 0)
        for split, (labelled, student, test) in enumerate(zip(*parts, strict=True)):
            for teacher, h in weak.items():
                head = w2s.ridge_probe(h[labelled], y[labelled], RIDGE, normalize="features")
                said = _probabilities(np.asarray(head(h[student])))
                for place, z in strong.items():
                    true = classes[student], z[test], classes[test]
                    yield Setting(name, teacher, place, split, h[student], z[student], said, *true)


def sciq_settings(models: Path, work: Path) -> Iterator[Setting]:
    """Of SciQ's questions with an answer, right or wrong; representations are extracted into `work` first."""
    folder = Path(os.environ["W2S_DATA"]) / "sciq"
    lines = _lines(folder / "weak_labels_seed0.csv.gz")
    lines = [lines[i] for i in np.random.default_rng(0).permutation(len(lines))[:SCIQ_ROWS]]
    held_out = _lines(folder / "multiple_choice_2000.csv.gz")[:SCIQ_TEST]
    texts = [line["text"] for line in lines + held_out]
    classes = np.array([int(line["label"]) for line in lines + held_out])
    rows = _extracted(models, work, texts, (SCIQ_WEAK, *SCIQ_STRONG))
    n = len(lines)
    for teacher in SCIQ_TEACHERS:
        said = np.array([float(line[f"p1_{teacher}"]) for line in lines])
        for place in SCIQ_STRONG:
            own = rows[SCIQ_WEAK][:n], rows[place][:n], said, classes[:n], rows[place][n:], classes[n:]
            yield Setting("sciq", teacher, place, 0, *own)


def _extracted(models: Path, work: Path, texts: list[str], places: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Arrays by place; one pass for all layers of a network, kept in `work`."""
    found = {}
    for network in dict.fromkeys(place.partition(":")[0] for place in places):
        own = [place for place in places if place.partition(":")[0] == network]
        layers = sorted({int(place.partition(":layer")[2].partition(".")[0]) for place in own})
        said = extract_model(
            models / network,
            texts,
            work,
            layers=layers,
            pool=("mean", "last"),
            max_tokens=128,
            prefix=PREFIX.get(network, ""),
        )
        found |= {place: np.asarray(said[place.partition(":")[2]][:]) for place in own}
    return found


def _read(folder: Path, place: str) -> np.ndarray:
    network, _, layer = place.partition(":")
    return np.asarray(open_rows(f"{folder / network}:{layer}")[:])


def _probabilities(outputs: np.ndarray) -> np.ndarray:
    """Of a head's outputs for labels -1 and 1, or one-hot ones: cut at 0 and 1, of classes made to sum to 1."""
    if outputs.ndim == 1:
        return np.clip((outputs + 1) / 2, 0, 1)
    cut = np.clip(outputs, 1e-6, 1)
    return cut / cut.sum(1, keepdims=True)


def _lines(file: Path) -> list[dict[str, str]]:
    with gzip.open(file, "rt", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
