"""Representations of a task's texts: layers of language models by `w2s_jax.extract`, and plain features beside them."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from w2s_jax.extract import LanguageModel, extract_model


class Network(NamedTuple):
    """A checkpoint's folder name, the layers to take (as in `hidden_states`), and what its texts begin with."""

    name: str
    layers: tuple[int, ...]
    prefix: str = ""


NETWORKS = (
    Network("minilm-l6", tuple(range(7))),
    Network("paraphrase-minilm-l3", tuple(range(4))),
    Network("bert-tiny", tuple(range(3))),
    Network("e5-small", (0, 2, 4, 6, 8, 10, 12), prefix="query: "),
    Network("gemma3-270m", tuple(range(0, 19, 2))),
    Network("smollm2-135m", (*range(0, 31, 3), 17)),
)
STRONG = ("smollm2-135m:layer17", "smollm2-135m:layer30", "gemma3-270m:layer8", "e5-small:layer10")
MAX_TOKENS = 128


def extracted(network: Network, model: LanguageModel, texts: list[str], out: Path) -> dict[str, np.ndarray]:
    """The layers' mean-pooled rows by teacher's name; what is in `out` already is not computed again."""
    found = extract_model(
        model,
        texts,
        out,
        layers=sorted(network.layers),
        max_tokens=MAX_TOKENS,
        prefix=network.prefix,
        progress=True,
    )
    return {f"{network.name}:{layer}": np.asarray(rows[:]) for layer, rows in found.items()}


def plain(texts: list[str], glove: Path | None) -> dict[str, np.ndarray]:
    """TF-IDF reduced by its leading singular vectors, hashed n-grams, and means and maxima of GloVe's vectors."""
    words = [re.findall(r"\w+|[^\w\s]", text.lower()) for text in texts]
    letters = [_letters(" ".join(own)) for own in words]
    found = {f"tfidf:{d}": rows for d, rows in _tfidf(words, (16, 64, 256)).items()}
    for name, tokens, width in (
        ("letters256", letters, 256),
        ("letters1024", letters, 1024),
        ("words1024", words, 1024),
    ):
        found[f"ngrams:{name}"] = _hashed(tokens, width)
    if glove is not None:
        vectors = _vectors(glove, set().union(*words))
        empty = np.zeros((1, len(next(iter(vectors.values())))), np.float32)
        each = [np.array([vectors[word] for word in own if word in vectors] or empty) for own in words]
        found["glove:mean"], found["glove:max"] = (_pooled(each, pool) for pool in (np.mean, np.max))
    return found


def _tfidf(words: list[list[str]], widths: tuple[int, ...]) -> Mapping[int, np.ndarray]:
    """Rows of unit norm in the leading left singular vectors, times their singular values."""
    counts = [Counter(own) for own in words]
    documents = Counter(word for own in counts for word in own)
    number = {word: i for i, word in enumerate(sorted(word for word, times in documents.items() if times > 1))}
    table = np.zeros((len(words), len(number)))
    for i, own in enumerate(counts):
        for word, times in own.items():
            if word in number:
                table[i, number[word]] = times * np.log(len(words) / documents[word])
    table /= np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    values, vectors = np.linalg.eigh(table @ table.T)
    leading = (vectors * np.sqrt(np.maximum(values, 0)))[:, ::-1]
    return {width: leading[:, :width].astype(np.float32) for width in widths}


def _letters(text: str) -> list[str]:
    return [text[i : i + size] for size in (3, 4) for i in range(len(text) - size + 1)]


def _hashed(tokens: list[list[str]], width: int) -> np.ndarray:
    found = np.zeros((len(tokens), width), np.float32)
    for row, own in zip(found, tokens, strict=True):
        np.add.at(row, [zlib.crc32(token.encode()) % width for token in own], 1)
    return np.log1p(found)


def _vectors(file: Path, wanted: set[str]) -> dict[str, np.ndarray]:
    """Of GloVe's text files: a word and its numbers a line."""
    with file.open(encoding="utf-8") as stream:
        lines = (line.rstrip().split(" ") for line in stream)
        return {word: np.array(numbers, np.float32) for word, *numbers in lines if word in wanted}


def _pooled(each: list[np.ndarray], pool: Callable) -> np.ndarray:
    return np.stack([pool(vectors, 0) for vectors in each])
