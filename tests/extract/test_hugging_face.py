"""Hidden states are those of transformers in torch, for each family; without torch one sentence says what is missing."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import entrywise_error
from safetensors.numpy import load_file, save_file
from saving import refused
from tiny_models import save_tokenizer, some_texts

from w2s_jax.extract import extract_model, open_model
from w2s_jax.extract.batches import token_batches
from w2s_jax.extract.hugging_face import open_transformers

pytestmark = pytest.mark.usefixtures("unchecked")
MODELS = os.environ.get("W2S_MODELS")
MISSING = [name for name in ("torch", "transformers", "torchax") if find_spec(name) is None]
with_torch = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: pip install 'w2s_jax[hf]'")

_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 44,
}
_SIZES |= {"max_position_embeddings": 96, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_GROUPED = {**_SIZES, "num_key_value_heads": 2, "head_dim": 8}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": _SIZES,
    "roberta": _SIZES,
    "mpnet": _SIZES,
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, **_SIZES},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 96, "vocab_size": 44},
    "llama": _GROUPED,
    "gemma3_text": {**_GROUPED, "sliding_window": 16},
    "qwen2": _GROUPED,
    "qwen3": _GROUPED,
}
OURS = ("bert", "roberta", "mpnet", "distilbert")


def saved(folder: Path, kind: str) -> Path:
    """A random model of a family, with its tokenizer; far from its initial weights, at which much is 0."""
    import torch
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(kind, **CONFIGS[kind]))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(folder)
    save_tokenizer(folder)
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "model_max_length": 96}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    return folder


def states_in_torch(folder: Path, ids: list[int]) -> np.ndarray:
    """Of one text alone."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        found = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    return np.stack([state[0].numpy() for state in found])


@with_torch
@pytest.mark.parametrize("kind", CONFIGS)
def test_hidden_states_are_those_of_transformers(tmp_path, kind):
    """In one padded batch, against each text alone."""
    folder = saved(tmp_path / kind, kind)
    model = open_model(folder)
    assert (model.about["run by"] == "w2s_jax") == (kind in OURS)
    assert model.about["last hidden states"].startswith("after the last norm")
    assert model.longest is not None
    tokens = model.tokenize([*some_texts(2, 30), " ".join(["w1", "w2", "w3"] * 25)], 96)
    (batch,) = token_batches(tokens, 10**4, 96)
    states = np.stack(jax.jit(model.apply)(model.weights, batch.tokens, batch.mask))
    for row, place in enumerate(batch.places):
        expected = states_in_torch(folder, tokens[place])
        assert entrywise_error(states[:, row, : len(tokens[place])], expected) < 2e-5


@with_torch
@pytest.mark.skipif(not MODELS, reason="needs W2S_MODELS, a folder of Hugging Face models such as all-MiniLM-L6-v2")
def test_hidden_states_of_real_models():
    """Every layer of each model in the folder, in one padded batch against each text alone."""
    texts = ["A plain sentence.", "Short", " ".join(["It was, all in all, a film of 2 hours and 7 minutes;"] * 5)]
    folders = [path for path in sorted(Path(str(MODELS)).iterdir()) if (path / "config.json").is_file()]
    assert folders
    for folder in folders:
        model = open_model(folder)
        tokens = model.tokenize(texts, None)
        (batch,) = token_batches(tokens, 10**4)
        states = jax.jit(model.apply)(model.weights, batch.tokens, batch.mask)
        for row, place in enumerate(batch.places):
            expected = states_in_torch(folder, tokens[place])
            for layer, state in enumerate(states):
                error = entrywise_error(np.asarray(state)[row, : len(tokens[place])], expected[layer])
                assert error < 5e-5, (folder.name, layer)


@with_torch
def test_torchax_computes_encoders_too(tmp_path):
    """The same by either way, pooled."""
    folder = saved(tmp_path / "bert", "bert")
    ours = open_model(folder)
    from w2s_jax.extract.checkpoint import find_checkpoint

    theirs = open_transformers(find_checkpoint(folder))
    texts = some_texts(5, 20)
    a, b = (extract_model(model, texts, pool=["mean", "max"]) for model in (ours, theirs))
    assert all(entrywise_error(a[name], b[name]) < 1e-5 for name in a)


@with_torch
def test_an_encoder_of_an_encoder_and_decoder(tmp_path):
    folder = saved_t5(tmp_path / "t5")
    found = extract_model(folder, some_texts(3, 20))
    assert {rows.shape for rows in found.values()} == {(3, 32)}


def saved_t5(folder: Path) -> Path:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 44}
    CONFIGS["t5"] = {**sizes, "decoder_start_token_id": 1, "pad_token_id": 1, "eos_token_id": 2}
    return saved(folder, "t5")


def test_what_is_missing_is_one_sentence(tmp_path, monkeypatch):
    save_tokenizer(tmp_path / "llama")
    (tmp_path / "llama" / "config.json").write_text('{"model_type": "llama"}')
    monkeypatch.setitem(sys.modules, "torch", None)
    with refused(r"a model of type 'llama' needs the torch package.*: pip install 'w2s_jax\[hf\]'"):
        open_model(tmp_path / "llama")


@with_torch
def test_a_broken_checkpoint_is_one_sentence(tmp_path):
    save_tokenizer(tmp_path / "llama")
    (tmp_path / "llama" / "config.json").write_text('{"model_type": "llama"}')
    with refused(r"cannot read the model llama from \S+llama: transformers: .+"):
        open_model(tmp_path / "llama")
    folder = saved(tmp_path / "gpt2", "gpt2")
    weights = load_file(folder / "model.safetensors")
    del weights["h.1.mlp.c_fc.bias"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with refused("its weights have no h.1.mlp.c_fc.bias"):
        open_model(folder)
