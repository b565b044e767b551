"""Stand-ins for texts and language models where nothing can be downloaded: made-up sentences, checkpoints of random numbers.

They serve to try the whole way from texts to a ranking. What comes out says nothing about real models.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from w2s_jax._core.checks import InputError, require_integer
from w2s_jax._core.extras import needed

_PLAIN = (
    *("the", "a", "this", "that", "film", "story", "scene", "actor", "plot", "ending", "music"),
    *("camera", "night", "city", "house", "man", "woman", "was", "and", "with", "of", "in"),
)
_LIKED = ("good", "fine", "warm", "lovely", "bright", "clever", "honest", "funny", "gentle", "brave")
_DISLIKED = ("bad", "dull", "cold", "clumsy", "dark", "stupid", "false", "boring", "cruel", "weak")
_SPECIAL = "<s>", "<pad>", "</s>", "<unk>"
_POSITIONS = 512


def made_up_texts(number: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Random rows of words, and labels (number,) of 0 and 1 that show in the choice of words alone.

    Three words of each text praise or blame; each agrees with the label in four of five cases.

    Raises:
        InputError: a number below 1.

    >>> texts, labels = made_up_texts(100)
    >>> len(texts), sorted(set(labels.tolist()))
    (100, [0, 1])
    """
    require_integer("number", number, 1)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, number)
    texts = []
    for label in labels:
        words = list(rng.choice(_PLAIN, rng.integers(4, 14)))
        for agrees in rng.random(3) < 0.8:
            words.insert(rng.integers(len(words) + 1), rng.choice(_LIKED if agrees == label else _DISLIKED))
        texts.append(" ".join(words))
    return texts, labels


def random_checkpoint(
    folder: str | os.PathLike, texts: Sequence[str], *, width: int, layers: int, heads: int = 4, seed: int = 0
) -> Path:
    """Writes a BERT encoder of random weights, which has a token for every word of the texts; returns the folder.

    Args:
        folder: for `config.json`, `model.safetensors` and `tokenizer.json`; made if need be.
        texts: whose words, between blanks, are known.
        width: of the hidden states, a multiple of `heads`.
        layers, heads: of attention.
        seed: of the weights.

    Raises:
        InputError: a number below 1, a width that heads do not divide, or safetensors or tokenizers is not installed.

    >>> import tempfile
    >>> from w2s_jax.extract import extract_model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     extract_model(random_checkpoint(folder, ["one of", "three"], width=8, layers=1), ["one", "three of"])
            rows  width
    layer0     2      8
    layer1     2      8
    """
    for name, value in {"width": width, "layers": layers, "heads": heads}.items():
        require_integer(name, value, 1)
    if width % heads:
        raise InputError(f"width must be a multiple of the {heads} heads, got {width}")
    save_file = needed("safetensors.numpy", "writing a checkpoint", "extract").save_file
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    words = [*_SPECIAL, *sorted({word for text in texts for word in text.split()})]
    _save_tokenizer(folder, words)
    config = {"model_type": "bert", "vocab_size": len(words), "hidden_size": width, "num_hidden_layers": layers}
    config |= {"num_attention_heads": heads, "intermediate_size": 2 * width, "hidden_act": "gelu", "type_vocab_size": 1}
    config |= {"max_position_embeddings": _POSITIONS, "layer_norm_eps": 1e-12, "pad_token_id": 1}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    save_file(_weights(np.random.default_rng(seed), len(words), width, layers), folder / "model.safetensors")
    return folder


def _save_tokenizer(folder: Path, words: Sequence[str]) -> None:
    """One token a word, between `<s>` and `</s>`."""
    tokenizers = needed("tokenizers", "writing a tokenizer", "extract")
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: number for number, word in enumerate(words)}, "<unk>")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    ends = [(word, words.index(word)) for word in ("<s>", "</s>")]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing("<s> $A </s>", special_tokens=ends)
    tokenizer.save(str(folder / "tokenizer.json"))


def _weights(rng: np.random.Generator, words: int, width: int, layers: int) -> dict[str, np.ndarray]:
    """Under BERT's names: normal numbers that keep the size of what passes through them."""
    normal = lambda out, inside: (rng.standard_normal((out, inside)) / inside**0.5).astype(np.float32)
    dense = lambda name, out, inside: {f"{name}.weight": normal(out, inside), f"{name}.bias": np.zeros(out, np.float32)}
    norm = lambda name: {f"{name}.weight": np.ones(width, np.float32), f"{name}.bias": np.zeros(width, np.float32)}
    embedded = {"word": words, "position": _POSITIONS, "token_type": 1}
    found = {f"embeddings.{name}_embeddings.weight": normal(size, width) for name, size in embedded.items()}
    found |= norm("embeddings.LayerNorm")
    for number in range(layers):
        layer = f"encoder.layer.{number}"
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            found |= dense(f"{layer}.{part}", width, width)
        found |= dense(f"{layer}.intermediate.dense", 2 * width, width)
        found |= dense(f"{layer}.output.dense", width, 2 * width)
        found |= norm(f"{layer}.attention.output.LayerNorm") | norm(f"{layer}.output.LayerNorm")
    return found
