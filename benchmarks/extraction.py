"""Texts per second of `w2s extract`, and of what people do otherwise with the same checkpoint, texts and cores.

    pip install '.[hf]' sentence-transformers
    python -m benchmarks.extraction MODEL --texts FILE [--column NAME] [--limit 2000]

MODEL is the folder of a checkpoint of sentence-transformers. Every way gives means over tokens, in float32, in its own process:
`w2s_jax` of the last layer, and of all layers; transformers in torch, 32 texts at a time, as they come and sorted by length;
sentence-transformers' `encode`, which sorts them too. First calls compile or warm up; `texts per s` are those of the second.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks._common import machine, shown
from w2s_jax.extract import extract_model, open_texts

BATCH = 32  # the default of sentence-transformers


def ours(model: str, texts: list[str]) -> np.ndarray:
    """The last layer's rows."""
    (rows,) = extract_model(model, texts, layers=[-1]).values()
    return np.asarray(rows)


def ours_of_all_layers(model: str, texts: list[str]) -> np.ndarray:
    """The last layer's rows, the others beside them."""
    return np.asarray(list(extract_model(model, texts).values())[-1])


def as_they_come(model: str, texts: list[str]) -> np.ndarray:
    """torch, each batch padded to its longest text."""
    return _torch(model, texts, range(len(texts)))


def sorted_by_length(model: str, texts: list[str]) -> np.ndarray:
    """The same with texts of one length together."""
    return _torch(model, texts, sorted(range(len(texts)), key=lambda i: -len(texts[i])))


def sentence_transformers(model: str, texts: list[str]) -> np.ndarray:
    """`encode` as its documentation has it, pooling only."""
    from sentence_transformers import SentenceTransformer, models  # pyright: ignore[reportMissingImports]

    tokens = models.Transformer(model, max_seq_length=512)
    pooling = models.Pooling(tokens.get_word_embedding_dimension(), "mean")
    return SentenceTransformer(modules=[tokens, pooling], device="cpu").encode(texts, batch_size=BATCH)


def _torch(model: str, texts: list[str], order: Sequence[int]) -> np.ndarray:
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import AutoModel, AutoTokenizer  # pyright: ignore[reportMissingImports]

    tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model).eval()
    found: dict[int, np.ndarray] = {}
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            batch = tokenizer(
                [texts[i] for i in places], padding=True, truncation=True, max_length=512, return_tensors="pt"
            )
            hidden, mask = network(**batch).last_hidden_state, batch["attention_mask"][..., None]
            means = (hidden * mask).sum(1) / mask.sum(1)
            found.update(zip(places, means.numpy(), strict=True))
    return np.stack([found[i] for i in range(len(texts))])


WAYS: dict[str, Callable[[str, list[str]], np.ndarray]] = {
    "w2s_jax, last layer": ours,
    "w2s_jax, all layers": ours_of_all_layers,
    "transformers, as they come": as_they_come,
    "transformers, sorted by length": sorted_by_length,
    "sentence-transformers": sentence_transformers,
}


def timed(way: str, model: str, texts: list[str]) -> tuple[list[float], np.ndarray]:
    """Seconds of a first and a second call, the model's opening included, and the rows."""
    seconds, rows = [], np.zeros(0)
    for _ in range(2):
        started = time.perf_counter()
        rows = WAYS[way](model, texts)
        seconds.append(time.perf_counter() - started)
    return seconds, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a checkpoint")
    parser.add_argument("--texts", required=True, help="file of texts")
    parser.add_argument("--column", help="where the texts are in a table")
    parser.add_argument("--limit", type=int, default=2000, help="texts")
    args = parser.parse_args()
    ((_, texts), *_) = open_texts(args.texts, args.column).blocks(args.limit)
    spawned = multiprocessing.get_context("spawn")
    found: dict[str, Any] = {}
    expected = None
    for way in WAYS:
        with spawned.Pool(1) as process:
            (first, again), rows = process.apply(timed, (way, args.model, texts))
        expected = rows if expected is None else expected
        difference = float(np.abs(rows - expected).max() / np.abs(expected).max())
        found[f"{way}: texts per s, first s, difference"] = [len(texts) / again, first, difference]
        print(*shown(dict([found.popitem()])), flush=True)
    print(*shown(machine()), sep="\n")


if __name__ == "__main__":
    main()
