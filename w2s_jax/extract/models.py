"""A language model as extraction sees it: texts to tokens, and tokens to the hidden states of every layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jax import Array

from w2s_jax.extract.checkpoint import Tokenize

Forward = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class LanguageModel:
    """A tokenizer and a JAX function, from a checkpoint (`open_model`) or of one's own.

    Attributes:
        name: of the folder that its representations are written to.
        tokenize: `tokenize(texts, max_tokens)`, integers for each text, at most `max_tokens` of them (None: all).
        apply: `apply(weights, tokens, mask)` with tokens (b, l), padded on the right, and mask (b, l), true for real tokens:
            a sequence of hidden states (b, l, d), layer0, layer1, ...; it is compiled.
        weights: any pytree.
        longest: texts have at most so many tokens.
        about: more facts for `extraction.json`.
        checksum: of all that decides the hidden states.

    >>> import jax.numpy as jnp
    >>> model = LanguageModel(
    ...     "lengths",
    ...     tokenize=lambda texts, max_tokens: [[len(word) for word in text.split()][:max_tokens] for text in texts],
    ...     apply=lambda weights, tokens, mask: [weights[tokens]],
    ...     weights=jnp.eye(10),
    ... )
    >>> model.tokenize(["one of three"], None)
    [[3, 2, 5]]
    """

    name: str
    tokenize: Tokenize
    apply: Callable[[Any, Array, Array], Sequence[Array]]
    weights: Any = field(default=(), repr=False)
    longest: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    checksum: str | None = None
