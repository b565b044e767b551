"""Encoders of the BERT family in plain JAX: BERT, RoBERTa, XLM-RoBERTa, CamemBERT, MPNet, DistilBERT; no torch.

They differ in the names of their weights, in where positions start, and in MPNet's bias of attention by relative
position. A layer ends with its norm, so that the last hidden states are normalised. Weights are read from
`.safetensors`; the three projections of attention are one product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from w2s_jax._core.extras import needed
from w2s_jax.extract.checkpoint import Checkpoint
from w2s_jax.extract.models import LanguageModel

_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm": "output.LayerNorm",
}
_MPNET = _LAYER | {
    **{name: f"attention.attn.{name[0]}" for name in ("query", "key", "value", "out")},
    "attention_norm": "attention.LayerNorm",
}
_DISTIL = {
    **{name: f"attention.{name[0]}_lin" for name in ("query", "key", "value")},
    "out": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "norm": "output_layer_norm",
}
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_fast"), partial(jax.nn.gelu, approximate=True)),
    "relu": jax.nn.relu,
    **dict.fromkeys(("silu", "swish"), jax.nn.silu),
}


@dataclass(frozen=True)
class _Naming:
    """Where a family keeps its layers, under which names, and whether positions start behind the padding token's."""

    prefix: str
    layers: str
    names: Mapping[str, str]
    after_padding: bool


_FAMILIES = {
    "bert": _Naming("bert.", "encoder.layer", _LAYER, False),
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert"), _Naming("roberta.", "encoder.layer", _LAYER, True)),
    "mpnet": _Naming("mpnet.", "encoder.layer", _MPNET, True),
    "distilbert": _Naming("distilbert.", "transformer.layer", _DISTIL, False),
}


def is_bert(checkpoint: Checkpoint) -> bool:
    """Whether this module computes the model as transformers does."""
    config = checkpoint.config
    return (
        checkpoint.kind in _FAMILIES
        and _activation(config) in _ACTIVATIONS
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder")
        and bool(checkpoint.weights)
    )


def open_bert(checkpoint: Checkpoint, dtype: str = "float32") -> LanguageModel:
    """The encoder, its weights in the dtype of its products.

    Raises:
        InputError: safetensors or tokenizers is missing, weights are missing, or of other shapes than `config.json` says.
    """
    config, family = checkpoint.config, _FAMILIES[checkpoint.kind]
    tokenize = checkpoint.tokenizer()
    weights = _weights(checkpoint, family)
    first = 0
    if family.after_padding:
        first = 2 if checkpoint.kind == "mpnet" else int(config.get("pad_token_id", 1)) + 1
    apply = _Encoder(
        heads=_setting(checkpoint, "num_attention_heads", "n_heads"),
        activation=_activation(config),
        eps=float(config.get("layer_norm_eps", 1e-12)),
        first=first,
    )
    return LanguageModel(
        checkpoint.name,
        tokenize,
        apply,
        jax.tree.map(lambda x: jnp.asarray(x, dtype), weights),
        longest=len(weights["position"]) - first,
        about={
            "architecture": checkpoint.kind,
            "revision": checkpoint.revision,
            "run by": "w2s_jax",
            "last hidden states": "after the last norm (every layer ends with one)",
        },
        checksum=checkpoint.checksum,
    )


@dataclass(frozen=True)
class _Encoder:
    """`bert_states` of one architecture: equal ones share their compiled programs, whenever a checkpoint was opened."""

    heads: int
    activation: str
    eps: float
    first: int

    def __call__(self, weights: Any, tokens: Array, mask: Array) -> list[Array]:
        return bert_states(weights, tokens, mask, **vars(self))


def bert_states(
    weights: Any,
    tokens: Int[Array, "b l"],
    mask: Bool[Array, "b l"],
    *,
    heads: int,
    activation: str,
    eps: float,
    first: int,
) -> list[Float[Array, "b l d"]]:
    """The embeddings and every layer's output, of texts padded on the right; norms and softmax are computed in float32."""
    length = tokens.shape[1]
    x = (
        weights["word"][tokens] + weights["position"][first + np.arange(length)]
    )  # JAX clips what padding is past the end
    x = _normalised(x if "type" not in weights else x + weights["type"][0], weights["norm"], eps)
    away = jnp.where(mask, 0, -1e30).astype(jnp.float32)[:, None, None, :]
    if "relative" in weights:
        away = away + weights["relative"].astype(jnp.float32)[_relative_buckets(length)].transpose(2, 0, 1)
    states = [x]
    for w in weights["layers"]:
        x = _normalised(x + _dense(_attention(x, away, w, heads), w["out"]), w["attention_norm"], eps)
        inner = _ACTIVATIONS[activation](_dense(x, w["up"]))
        x = _normalised(x + _dense(inner, w["down"]), w["norm"], eps)
        states.append(x)
    return states


def _attention(x: Array, away: Array, w: Any, heads: int) -> Array:
    """Softmax attention of all heads, side by side."""
    batch, length, width = x.shape
    parts = _dense(x, w["query key value"]).reshape(batch, length, 3, heads, width // heads)
    query, key, value = (parts[:, :, part].swapaxes(1, 2) for part in range(3))
    query = query * jnp.asarray((width // heads) ** -0.5, x.dtype)
    scores = jnp.matmul(query, key.swapaxes(2, 3), precision="highest", preferred_element_type=jnp.float32) + away
    shares = jnp.exp(scores - scores.max(-1, keepdims=True))
    total = shares.sum(-1, keepdims=True)  # divided by after the product, which is narrower
    mixed = jnp.matmul(shares.astype(x.dtype), value, precision="highest", preferred_element_type=jnp.float32) / total
    return mixed.astype(x.dtype).swapaxes(1, 2).reshape(batch, length, width)


def _dense(x: Array, w: Any) -> Array:
    return jnp.matmul(x, w["weight"], precision="highest") + w["bias"]


def _normalised(x: Array, w: Any, eps: float) -> Array:
    wide = x.astype(jnp.float32)
    wide = wide - wide.mean(-1, keepdims=True)
    scaled = wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + eps)
    return (scaled * w["weight"] + w["bias"]).astype(x.dtype)


def _relative_buckets(length: int, buckets: int = 32, farthest: int = 128) -> np.ndarray:
    """MPNet's bucket (l, l) of each pair of positions: near ones each have their own, far ones share by logarithm."""
    away = np.arange(length)[None, :] - np.arange(length)[:, None]
    half, near = buckets // 2, buckets // 4
    distance = np.abs(away)
    far = np.log(np.maximum(distance, 1) / near) / np.log(farthest / near) * (half - near)
    shared = np.minimum(near + far.astype(int), half - 1)
    return np.where(away > 0, half, 0) + np.where(distance < near, distance, shared)


def _weights(checkpoint: Checkpoint, family: _Naming) -> Any:
    """The pytree of `bert_states`, in float32, out of whatever names the family has for it."""
    found = _tensors(checkpoint, family.prefix)

    def take(name: str) -> np.ndarray:
        if name not in found:
            raise checkpoint.error(f"its weights have no {name}")
        return found[name]

    def dense(*names: str) -> dict[str, np.ndarray]:
        return {
            "weight": np.concatenate([take(f"{name}.weight") for name in names]).T,
            "bias": np.concatenate([take(f"{name}.bias") for name in names]),
        }

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"weight": take(f"{name}.weight"), "bias": take(f"{name}.bias")}

    def layer(number: int) -> dict[str, Any]:
        name = {part: f"{family.layers}.{number}.{words}" for part, words in family.names.items()}
        return {
            "query key value": dense(name["query"], name["key"], name["value"]),
            **{part: dense(name[part]) for part in ("out", "up", "down")},
            **{part: norm(name[part]) for part in ("attention_norm", "norm")},
        }

    weights: dict[str, Any] = {
        "word": take("embeddings.word_embeddings.weight"),
        "position": take("embeddings.position_embeddings.weight"),
        "norm": norm("embeddings.LayerNorm"),
        "layers": [layer(number) for number in range(_setting(checkpoint, "num_hidden_layers", "n_layers"))],
    }
    if "embeddings.token_type_embeddings.weight" in found:
        weights["type"] = take("embeddings.token_type_embeddings.weight")
    if checkpoint.kind == "mpnet":
        weights["relative"] = take("encoder.relative_attention_bias.weight")
    return weights


def _tensors(checkpoint: Checkpoint, prefix: str) -> dict[str, np.ndarray]:
    """All weights in float32, by their names without what stands before those of a bare encoder."""
    safetensors = needed("safetensors.numpy", "reading a model's weights", "extract")
    found: dict[str, np.ndarray] = {}
    for path in checkpoint.weights:
        with checkpoint.readable(path.name):
            found |= {
                name.removeprefix(prefix): x.astype(np.float32) for name, x in safetensors.load_file(path).items()
            }
    old = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}  # names of the first checkpoints
    for name in [name for name in found if name.endswith(tuple(old))]:
        end = next(end for end in old if name.endswith(end))
        found[name.removesuffix(end) + old[end]] = found.pop(name)
    return found


def _activation(config: Mapping[str, Any]) -> str:
    return str(config.get("hidden_act", config.get("activation", "gelu")))


def _setting(checkpoint: Checkpoint, *names: str) -> int:
    for name in names:
        if name in checkpoint.config:
            return int(checkpoint.config[name])
    raise checkpoint.error(f"its config.json has no {names[0]}")
