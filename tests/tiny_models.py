"""Tiny random checkpoints of the BERT family, as Hugging Face lays them out, and texts for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

WORDS = ["<s>", "<pad>", "</s>", "<unk>", *(f"w{number}" for number in range(40))]
WIDTH, HEADS, DEPTH, INNER, POSITIONS, EPS = 16, 4, 3, 24, 160, 1e-5
LAYER = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
KINDS = ("bert", "roberta", "mpnet", "distilbert")
FIRST = {"bert": 0, "roberta": 2, "mpnet": 2, "distilbert": 0}  # position; the padding token is 1
NAMES = {
    "bert": {},
    "roberta": {"": "roberta."},  # with a head's prefix
    "mpnet": {
        **{f"attention.self.{name}": f"attention.attn.{name[0]}" for name in ("query", "key", "value")},
        "attention.output.dense": "attention.attn.o",
        "attention.output.LayerNorm": "attention.LayerNorm",
    },
    "distilbert": {
        "encoder.layer": "transformer.layer",
        **{f"attention.self.{name}": f"attention.{name[0]}_lin" for name in ("query", "key", "value")},
        "attention.output.dense": "attention.out_lin",
        "attention.output.LayerNorm": "sa_layer_norm",
        "intermediate.dense": "ffn.lin1",
        ".output.dense": ".ffn.lin2",
        ".output.LayerNorm": ".output_layer_norm",
    },
}


def some_texts(number: int, longest: int = 60, seed: int = 0) -> list[str]:
    """Texts of one to many words, of any length in any order."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS[4:], length)) for length in rng.integers(1, longest, number)]


def save_tokenizer(folder: Path) -> Tokenizer:
    """One token a word, between `<s>` and `</s>`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, "<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def random_weights(kind: str = "bert", seed: int = 0) -> dict[str, np.ndarray]:
    """Under BERT's names, whatever the kind."""
    rng = np.random.default_rng(seed)
    made = lambda *shape: rng.standard_normal(shape).astype(np.float32) / 2
    dense = lambda name, out, inside: {f"{name}.weight": made(out, inside), f"{name}.bias": made(out)}
    norm = lambda name: {f"{name}.weight": 1 + made(WIDTH), f"{name}.bias": made(WIDTH)}
    weights = {
        "embeddings.word_embeddings.weight": made(len(WORDS), WIDTH),
        "embeddings.position_embeddings.weight": made(POSITIONS, WIDTH),
        **norm("embeddings.LayerNorm"),
    }
    if kind in ("bert", "roberta"):
        weights["embeddings.token_type_embeddings.weight"] = made(2, WIDTH)
    for number in range(DEPTH):
        for part in LAYER:
            weights |= dense(f"encoder.layer.{number}.{part}", WIDTH, WIDTH)
        weights |= dense(f"encoder.layer.{number}.intermediate.dense", INNER, WIDTH)
        weights |= dense(f"encoder.layer.{number}.output.dense", WIDTH, INNER)
        weights |= norm(f"encoder.layer.{number}.attention.output.LayerNorm")
        weights |= norm(f"encoder.layer.{number}.output.LayerNorm")
    if kind == "mpnet":
        weights["encoder.relative_attention_bias.weight"] = made(32, HEADS)
    return weights


def save_encoder(folder: Path, kind: str = "bert", weights: dict[str, np.ndarray] | None = None) -> Path:
    """A checkpoint; returns the folder."""
    save_tokenizer(folder)
    names = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "hidden_act": "gelu"}
    if kind == "distilbert":
        names = {"dim": WIDTH, "n_layers": DEPTH, "n_heads": HEADS, "activation": "gelu", "hidden_dim": INNER}
    config = {"model_type": kind, "vocab_size": len(WORDS), "intermediate_size": INNER, "layer_norm_eps": EPS}
    config |= {"max_position_embeddings": POSITIONS, "pad_token_id": 1, "type_vocab_size": 2, **names}
    if kind == "distilbert":
        del config["layer_norm_eps"]
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {_renamed(name, kind): x for name, x in (weights or random_weights(kind)).items()}, folder / "model.safetensors"
    )
    return folder


def _renamed(name: str, kind: str) -> str:
    for ours, theirs in NAMES[kind].items():
        name = theirs + name if ours == "" else name.replace(ours, theirs)
    return name
