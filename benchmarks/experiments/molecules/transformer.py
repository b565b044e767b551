"""rxnmapper's SMILES transformer (Schwaller et al. 2021) as the package's extraction runs it: an ALBERT of 12 layers in JAX.

It was trained to fill in masked tokens of chemical reactions, never on a property. All layers share their weights, so that
what a layer adds is depth alone. The weights come with the rxnmapper package, of which nothing else is used.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from w2s_jax._core.checks import InputError
from w2s_jax.extract import LanguageModel

TOKEN = re.compile(r"\[[^\]]+\]|Br|Cl|%\d\d|>>|.")  # an atom, a bond, a branch, a ring's number
FOLDER = "models/transformers/albert_heads_8_uspto_all_1310k"
_LAYER = "encoder.albert_layer_groups.0.albert_layers.0."
_NAMES = {
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "out": "attention.dense",
    "attention_norm": "attention.LayerNorm",
    "up": "ffn",
    "down": "ffn_output",
    "norm": "full_layer_layer_norm",
}


def open_transformer() -> LanguageModel:
    """The transformer of the installed rxnmapper package; hidden states as transformers counts them, 0 to 12.

    Raises:
        InputError: rxnmapper or torch, which reads its weights, is not installed.
    """
    spec = find_spec("rxnmapper")  # does not import it, and so none of what it needs
    places = spec.submodule_search_locations if spec else None
    if not places:
        raise InputError("the SMILES transformer needs the rxnmapper package: pip install --no-deps rxnmapper==0.4.3")
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(f"reading the SMILES transformer's weights needs the torch package ({error})") from error
    folder = Path(places[0], FOLDER)
    file = folder / "pytorch_model.bin"
    tensors = torch.load(file, map_location="cpu", weights_only=True)
    config = json.loads((folder / "config.json").read_text())
    vocabulary = (folder / "vocab.txt").read_text().splitlines()
    weights = {name: tensor.numpy() for name, tensor in tensors.items()}
    return albert("rxnmapper", weights, config, vocabulary, hashlib.sha256(file.read_bytes()).hexdigest())


def albert(
    name: str,
    weights: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    vocabulary: list[str],
    checksum: str | None = None,
) -> LanguageModel:
    """An ALBERT with one group of layers, out of weights by transformers' names and a vocabulary of tokens of SMILES."""
    numbers = {token: number for number, token in enumerate(vocabulary)}
    unknown, first, last = (numbers[token] for token in ("[UNK]", "[CLS]", "[SEP]"))

    def tokenize(texts: list[str], max_tokens: int | None) -> list[Sequence[int]]:
        found = [[first, *(numbers.get(token, unknown) for token in TOKEN.findall(text)), last] for text in texts]
        return [tokens[:max_tokens] for tokens in found]

    apply = partial(
        hidden_states,
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        eps=config["layer_norm_eps"],
    )
    found = {name.removeprefix("albert."): array for name, array in weights.items()}
    longest = config["max_position_embeddings"]
    return LanguageModel(name, tokenize, apply, _weights(found), longest=longest, checksum=checksum)


def hidden_states(weights: Any, tokens: Array, mask: Array, *, layers: int, heads: int, eps: float) -> list[Array]:
    """The projected embeddings and every layer's output (b, l, d), of SMILES padded on the right."""
    w, length = weights, tokens.shape[1]
    with jax.default_matmul_precision("highest"):
        x = _normalised(w["word"][tokens] + w["position"][:length] + w["type"][0], w["embedding_norm"], eps)
        states = [_dense(x, w["mapping"])]
        for _ in range(layers):
            x = states[-1]
            query, key, value = (
                _dense(x, w[part]).reshape(*x.shape[:2], heads, -1) for part in ("query", "key", "value")
            )
            mixed = jax.nn.dot_product_attention(query, key, value, mask=mask[:, None, None, :]).reshape(x.shape)
            x = _normalised(x + _dense(mixed, w["out"]), w["attention_norm"], eps)
            inner = jax.nn.gelu(_dense(x, w["up"]), approximate=False)
            states.append(_normalised(x + _dense(inner, w["down"]), w["norm"], eps))
    return states


def _weights(found: Mapping[str, np.ndarray]) -> dict[str, Any]:
    pair = lambda name: {part: jnp.asarray(found[f"{name}.{part}"]) for part in ("weight", "bias")}
    embeddings = {part: f"embeddings.{part}_embeddings.weight" for part in ("word", "position")}
    embeddings["type"] = "embeddings.token_type_embeddings.weight"
    return {
        **{part: jnp.asarray(found[name]) for part, name in embeddings.items()},
        "embedding_norm": pair("embeddings.LayerNorm"),
        "mapping": pair("encoder.embedding_hidden_mapping_in"),
        **{part: pair(_LAYER + name) for part, name in _NAMES.items()},
    }


def _dense(x: Array, w: Any) -> Array:
    return x @ w["weight"].T + w["bias"]


def _normalised(x: Array, w: Any, eps: float) -> Array:
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * w["weight"] + w["bias"]
