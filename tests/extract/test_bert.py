"""Encoders in plain JAX: every hidden state is the reference's, whatever is padded; broken checkpoints are one sentence."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import entrywise_error
from safetensors.numpy import load_file, save_file
from saving import refused
from tiny_models import EPS, FIRST, HEADS, KINDS, POSITIONS, random_weights, save_encoder, some_texts

from benchmarks._common import compiled
from w2s_jax.extract import extract_model, open_model
from w2s_jax.extract.batches import token_batches

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_are_the_references(tmp_path, kind):
    """Of texts of all lengths, each of them alone in float64, ours in one padded batch."""
    model = open_model(save_encoder(tmp_path / kind, kind))
    tokens = model.tokenize([*some_texts(3), " ".join(["w1", "w2", "w3", "w4"] * 35)], None)
    (batch,) = token_batches(tokens, 10**4)
    states = np.stack(jax.jit(model.apply)(model.weights, batch.tokens, batch.mask))
    weights, eps = random_weights(kind), 1e-12 if kind == "distilbert" else EPS
    relative = weights.get("encoder.relative_attention_bias.weight")
    for row, place in enumerate(batch.places):
        expected = reference.encoder_states(weights, tokens[place], HEADS, eps, FIRST[kind], relative)
        assert entrywise_error(states[:, row, : len(tokens[place])], expected) < 1e-5
    assert model.longest == POSITIONS - FIRST[kind]


@pytest.mark.everything
def test_padding_changes_nothing(tmp_path):
    """Neither its length nor what tokens stand in it."""
    model = open_model(save_encoder(tmp_path / "bert"))
    (ids,) = model.tokenize(["w1 w2 w3"], None)
    one = np.stack(model.apply(model.weights, jnp.array([ids]), jnp.ones((1, 5), bool)))
    for length, filler in ((6, 1), (48, 9), (POSITIONS + 9, 7)):
        tokens = np.full((2, length), filler)
        tokens[:, :5] = ids
        padded = np.stack(model.apply(model.weights, jnp.array(tokens), jnp.arange(length) < jnp.full((2, 1), 5)))
        assert entrywise_error(padded[:, 1, :5], one[:, 0]) < 1e-6


def test_bfloat16_is_about_as_good(tmp_path):
    folder = save_encoder(tmp_path / "bert")
    model, rough = open_model(folder), open_model(folder, "bfloat16")
    tokens, mask = jnp.array(model.tokenize(["w1 w2 w3 w4"], None)), jnp.ones((1, 6), bool)
    states = rough.apply(rough.weights, tokens, mask)
    assert {state.dtype for state in states} == {jnp.dtype("bfloat16")}
    errors = [entrywise_error(a, b) for a, b in zip(states, model.apply(model.weights, tokens, mask), strict=True)]
    assert 1e-4 < max(errors) < 0.05


def test_a_checkpoint_opened_again_compiles_nothing(tmp_path):
    """Programs are of the architecture, not of one opening."""
    save_encoder(tmp_path / "tiny")
    texts = some_texts(6)
    extract_model(tmp_path / "tiny", texts)
    with compiled() as programs:
        extract_model(tmp_path / "tiny", texts)
    assert programs == []


def test_old_names_of_norms(tmp_path):
    """gamma and beta, as the first checkpoints have them, in two files."""
    model = open_model(save_encoder(tmp_path / "bert"))
    weights = load_file(tmp_path / "bert" / "model.safetensors")
    old = {
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): x for name, x in weights.items()
    }
    names = sorted(old)
    for part in (0, 1):
        save_file(
            {f"bert.{name}": old[name] for name in names[part::2]}, tmp_path / "bert" / f"model-{part}.safetensors"
        )
    (tmp_path / "bert" / "model.safetensors").unlink()
    again = open_model(tmp_path / "bert")
    assert all((a == b).all() for a, b in zip(*map(jax.tree.leaves, (model.weights, again.weights)), strict=True))
    assert again.checksum != model.checksum


def test_broken_checkpoints_are_one_sentence(tmp_path):
    with refused("there is no folder ./nowhere"):
        open_model("./nowhere")
    (tmp_path / "empty").mkdir()
    with refused("empty is no Hugging Face model: it has no config.json"):
        open_model(tmp_path / "empty")
    folder = save_encoder(tmp_path / "bert")
    with refused("dtype must be 'float32' or 'bfloat16', got 'float16'"):
        open_model(folder, "float16")
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.bias"]
    save_file(weights, folder / "model.safetensors")
    with refused("its weights have no encoder.layer.1.output.dense.bias"):
        open_model(folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with refused(r"cannot read the model bert from \S+bert: model.safetensors: .+"):
        open_model(folder)
    (folder / "tokenizer.json").unlink()
    with refused("it has no tokenizer.json: transformers' AutoTokenizer can save one"):
        open_model(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config)[:-9])
    with refused("cannot read the model's config.json in .+"):
        open_model(folder)


def test_a_hub_model_that_is_not_there_is_one_sentence(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def offline(*args, **kwargs):
        raise OSError("there is no network")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with refused(
        r"model 'some/model' is no folder, is not in the local cache .+ \(there is no network\): give a folder"
    ):
        open_model("some/model")


def save_in_cache(cache):
    """A model of two shards as the hub's cache has it: links to files by their checksums."""
    repository = cache / "models--some--model"
    folder = save_encoder(repository / "snapshots" / "c0ffee", "bert")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {name: f"model-0000{1 + place % 2}-of-00002.safetensors" for place, name in enumerate(weights)}
    for file in set(names.values()):
        save_file({name: weights[name] for name in names if names[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c0ffee")
    return folder


@pytest.mark.parametrize(
    "lost",
    [
        ["model-00002-of-00002.safetensors"],
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ["model.safetensors.index.json"],
        ["tokenizer.json"],
        ["config.json"],
        ["config.json", "model-00001-of-00002.safetensors", "tokenizer.json"],
    ],
)
def test_a_model_that_is_only_partly_in_the_cache(monkeypatch, tmp_path, lost):
    """What is missing is downloaded or, without a network, named; a link that leads nowhere is missing too."""
    hub = pytest.importorskip("huggingface_hub")
    folder, kept, cached_only = save_in_cache(tmp_path), tmp_path / "kept", hub.snapshot_download
    kept.mkdir()
    online = [False]

    def download(name, local_files_only=False, **options):
        if local_files_only:
            return cached_only(name, local_files_only=True, cache_dir=tmp_path)
        if not online[0]:
            raise OSError("there is no network")
        for file in lost:
            (folder / file).unlink(missing_ok=True)
            (kept / file).rename(folder / file)
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", download)
    whole = open_model("some/model")
    assert whole.about["revision"] == "c0ffee"
    for file in lost:
        (folder / file).rename(kept / file)
    (folder / lost[-1]).symlink_to(tmp_path / "nowhere")
    with refused(
        "model 'some/model' is only in part in the local cache of the Hugging Face hub, and the hub did not give the rest "
        rf"\(there is no network\): {', '.join(lost)} not in \S+c0ffee"
    ):
        open_model("some/model")
    online[0] = True
    assert open_model("some/model").checksum == whole.checksum
