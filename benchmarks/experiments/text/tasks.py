"""The six tasks: up to 2,000 texts each with labels, and the groups of texts that are nearly the same.

Files are gzipped CSV in the folder that `W2S_DATA` names, with the names of `FILES`; text and `label` are their columns.
"""

from __future__ import annotations

import csv
import gzip
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

FILES = {
    "sst2": (("sentence_tasks/sst2_dev.csv.gz", "sentence_tasks/sst2_test.csv.gz"), "text"),
    "mr": (("sentence_tasks/mr.csv.gz",), "text"),
    "subj": (("sentence_tasks/subj.csv.gz",), "text"),
    "trec": (("sentence_tasks/trec_train.csv.gz", "sentence_tasks/trec_test.csv.gz"), "text"),
    "justice": (("ethics/justice_test.csv.gz",), "scenario"),
    "commonsense": (("ethics/cm_test.csv.gz",), "input"),
}
ROWS = 2000
SAMPLE = 4000  # texts of a large file that are looked at
ALIKE = 0.5  # shared words of all the words of two texts: near-duplicates, contrast pairs, scenarios with several ends


class Task(NamedTuple):
    """Texts, labels (n, c) as -1 and 1 or one-hot, and the number of each text's group (n,)."""

    name: str
    texts: list[str]
    y: np.ndarray
    groups: np.ndarray


def load(name: str, rows: int = ROWS) -> Task:
    """A task from the folder `W2S_DATA`; whole groups, in random order, as many as fit."""
    files, column = FILES[name]
    lines = [line for file in files for line in _lines(Path(os.environ["W2S_DATA"]) / file)]
    lines = [line for line in lines if line.get("is_short", "True") == "True" and line[column].strip()]
    rng = np.random.default_rng(0)
    if len(lines) > SAMPLE:
        lines = [lines[i] for i in np.sort(rng.permutation(len(lines))[:SAMPLE])]
    groups = alike([line[column] for line in lines])
    kept = chosen(groups, rows, rng)
    texts = [lines[i][column].strip() for i in kept]
    return Task(name, texts, _targets([int(lines[i]["label"]) for i in kept]), groups[kept])


def alike(texts: list[str]) -> np.ndarray:
    """Groups (n,): texts that share at least ALIKE of their words, and whatever hangs together by that."""
    words = [set(re.findall(r"\w+", text.lower())) for text in texts]
    number = {word: i for i, word in enumerate(sorted(set().union(*words)))}
    pairs = [(i, number[word]) for i, own in enumerate(words) for word in own]
    has = csr_array((np.ones(len(pairs), np.float32), tuple(np.array(pairs).T)), (len(texts), len(number)))
    shared, sizes = (has @ has.T).toarray(), has.sum(1)
    return connected_components(shared >= ALIKE * (sizes[:, None] + sizes - shared))[1]


def chosen(groups: np.ndarray, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers of at most `rows` rows, in random order of their groups."""
    order = rng.permutation(np.unique(groups))
    by_group = [np.nonzero(groups == group)[0] for group in order]
    room = np.cumsum([len(members) for members in by_group]) <= rows
    return np.concatenate([members for members, fits in zip(by_group, room, strict=True) if fits])


def _targets(labels: list[int]) -> np.ndarray:
    classes = np.unique(labels)
    if len(classes) == 2:
        return np.where(np.asarray(labels) == classes[1], 1.0, -1.0)[:, None]
    return (np.asarray(labels)[:, None] == classes).astype(float)


def _lines(file: Path) -> list[dict[str, str]]:
    with gzip.open(file, "rt", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
