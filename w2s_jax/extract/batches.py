"""Batches of texts of about one length: few shapes to compile, and little padding to compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

_SHORTEST = 8


class TokenBatch(NamedTuple):
    """Tokens (b, l) of b texts, which of them are real, and the texts' places (k,), k <= b: the last of them fills up."""

    tokens: np.ndarray
    mask: np.ndarray
    places: np.ndarray


def token_batches(
    tokens: Sequence[Sequence[int]], batch_tokens: int, longest: int | None = None, multiple: int = 1
) -> Iterator[TokenBatch]:
    """All texts, longest first, in batches of at most `batch_tokens` tokens with their padding, or of `multiple` texts.

    Lengths are 8, 12, 16, 24, 32, 48, 64, ... (at most `longest`), so that a batch's shape is one of a few; only the last batch
    has fewer texts, by halves.

    >>> [batch.tokens.shape for batch in token_batches([[7]] * 5 + [[7] * 20], 64)]
    [(2, 24), (4, 8)]
    """
    lengths = np.array([len(ids) for ids in tokens])
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        length = length_bucket(int(lengths[order[start]]), longest)
        size = max(batch_tokens // length // multiple, 1) * multiple
        left = len(order) - start
        for _ in range(2):
            half = size // 2 // multiple * multiple
            size = half if half >= max(left, 1) else size
        places = order[start : start + size]
        yield _batch([tokens[place] for place in places], places, size, length)
        start += size


def length_bucket(length: int, longest: int | None = None) -> int:
    """The length that a text is padded to: the next of 8, 12, 16, 24, 32, 48, 64, ...

    >>> length_bucket(3), length_bucket(17), length_bucket(33), length_bucket(400, 512), length_bucket(400, 450)
    (8, 24, 48, 512, 450)
    """
    bucket = _SHORTEST
    while bucket < length:
        bucket = bucket * 3 // 2 if bucket & (bucket - 1) == 0 else bucket * 4 // 3
    return bucket if longest is None else max(min(bucket, longest), length)


def _batch(tokens: list[Sequence[int]], places: np.ndarray, size: int, length: int) -> TokenBatch:
    """Padded to the length on the right, and to the size with copies of the last text."""
    ids, mask = np.zeros((size, length), np.int32), np.zeros((size, length), bool)
    for row in range(size):
        text = tokens[min(row, len(tokens) - 1)]
        ids[row, : len(text)] = text
        mask[row, : len(text)] = True
    return TokenBatch(ids, mask, places)
