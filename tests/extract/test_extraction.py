"""Rows come out in the texts' order with their ids, a killed run goes on, what has changed is noticed, ranking reads it."""

from __future__ import annotations

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import entrywise_error
from saving import refused
from tiny_models import DEPTH, EPS, HEADS, WIDTH, random_weights, save_encoder, some_texts

import w2s_jax
from w2s_jax.cli import main
from w2s_jax.devices import device_mesh
from w2s_jax.extract import LanguageModel, extract, extract_model, extraction, open_model, texts_of
from w2s_jax.files import open_rows

pytestmark = pytest.mark.usefixtures("unchecked")

TEXTS = some_texts(50)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "tiny")


def test_rows_are_the_references_in_order(folder):
    """Of every layer and pooling, over several shards and batches."""
    pools = ("mean", "last", "cls", "max")
    found = extract_model(folder, TEXTS, pool=pools, batch_tokens=300, shard_rows=20)
    assert list(found) == [f"layer{layer}.{pool}" for layer in range(DEPTH + 1) for pool in pools]
    tokenize, weights = open_model(folder).tokenize, random_weights()
    for row in (0, 19, 20, 49):
        states = reference.encoder_states(weights, tokenize(TEXTS[row : row + 1], None)[0], HEADS, EPS)
        expected = {"mean": states.mean(1), "last": states[:, -1], "cls": states[:, 0], "max": states.max(1)}
        for layer, pool in ((0, "last"), (1, "max"), (2, "cls"), (3, "mean")):
            assert entrywise_error(found[f"layer{layer}.{pool}"][row], expected[pool][layer]) < 1e-5


def test_bfloat16_states_are_pooled_in_float32(folder):
    """A mean over many tokens has float32's digits, not those of its terms, and ranks as states in float32 do."""
    table = jnp.asarray(np.random.default_rng(0).standard_normal((20, 8)) + 3, jnp.bfloat16)
    tokenize = lambda texts, _: [[len(word) for word in text.split()] for text in texts]
    model = LanguageModel("half", tokenize, lambda weights, tokens, mask: [weights[tokens]], table)
    tokens = np.random.default_rng(1).integers(1, 9, 400)
    (found,) = extract_model(model, [" ".join("x" * n for n in tokens)]).values()
    assert found.dtype == np.float32
    assert entrywise_error(found[0], np.asarray(table, np.float64)[tokens].mean(0)) < 1e-6
    half, single = (list(extract_model(folder, TEXTS, dtype=dtype).values()) for dtype in ("bfloat16", "float32"))
    assert 1e-4 < max(entrywise_error(a, b) for a, b in zip(half, single, strict=True)) < 0.05


def test_a_folder_holds_what_memory_holds(folder, tmp_path):
    """With ids, integers or text, and facts beside them; a finished extraction is not repeated."""
    memory = extract_model(folder, TEXTS, layers=[0, -1], prefix="w1 ")
    ids = [f"tëxt{row}" for row in range(50)]
    for out, texts in ((tmp_path / "numbered", TEXTS), (tmp_path / "named", texts_of(TEXTS, ids))):
        written = extract_model(folder, texts, out, layers=[0, -1], prefix="w1 ", shard_rows=20)
        assert list(written) == list(memory) == ["layer0", f"layer{DEPTH}"]
        for name, rows in memory.items():
            assert written[name].shape == (50, WIDTH)
            np.testing.assert_allclose(written[name][:], rows, rtol=1e-5, atol=1e-6)
        rows = open_rows(f"{out}/tiny:layer0")
        assert rows.ids is not None
        assert rows.ids[15:25].tolist() == (ids if texts is not TEXTS else list(range(50)))[15:25]
    assert sorted(path.name for path in (tmp_path / "named").iterdir()) == ["tiny"]
    said = json.loads((tmp_path / "named" / "tiny" / "extraction.json").read_text())
    assert [shard["rows"] for shard in said["shards"]] == [20, 20, 10]
    assert said["about"]["last hidden states"].startswith("after")
    unused = LanguageModel(
        "tiny", None, open_model(folder).apply, open_model(folder).weights, checksum=said["settings"]["model"]
    )
    extract_model(unused, texts_of(TEXTS, ids), tmp_path / "named", layers=[0, -1], prefix="w1 ", max_tokens=160)


def test_a_killed_run_goes_on(folder, tmp_path, monkeypatch):
    """At most one shard is computed again, damaged ones too; nothing can be read before the end."""
    computed = []
    real = extraction._Extractor.rows

    def dying(self, texts, first, add):
        computed.append(first)
        if len(computed) == 3:
            raise KeyboardInterrupt
        return real(self, texts, first, add)

    monkeypatch.setattr(extraction._Extractor, "rows", dying)
    with pytest.raises(KeyboardInterrupt):
        extract_model(folder, TEXTS, tmp_path, shard_rows=10)
    with refused("the file does not exist"):
        open_rows(tmp_path / "tiny")
    (tmp_path / ".tiny.unfinished" / "00001.safetensors").write_bytes(b"damaged")
    (tmp_path / ".tiny.unfinished" / ".left.safetensors").write_bytes(b"half")
    rows = extract_model(folder, TEXTS, tmp_path, shard_rows=10)
    assert computed == [0, 10, 20, 10, 20, 30, 40]
    np.testing.assert_allclose(rows["layer2"][:], extract_model(folder, TEXTS)["layer2"], rtol=1e-5, atol=1e-6)
    assert len(list((tmp_path / "tiny").iterdir())) == 6


def test_what_has_changed_is_noticed(folder, tmp_path, monkeypatch):
    extract_model(folder, TEXTS, tmp_path, layers=[1])
    other = save_encoder(tmp_path / "other" / "tiny", weights=random_weights(seed=1))
    asked = {
        "texts": lambda: extract_model(folder, [*TEXTS[:-1], "w1"], tmp_path, layers=[1]),
        "model": lambda: extract_model(other, TEXTS, tmp_path, layers=[1]),
        "layers and pool": lambda: extract_model(folder, TEXTS, tmp_path, layers=[2], pool="max"),
        "dtype": lambda: extract_model(folder, TEXTS, tmp_path, layers=[1], dtype="bfloat16"),
        "max_tokens": lambda: extract_model(folder, TEXTS, tmp_path, layers=[1], max_tokens=9),
    }
    for name, ask in asked.items():
        with refused(f"tiny holds an extraction with other {name}: write to another folder, or delete .+tiny"):
            ask()
    shard = tmp_path / "tiny" / "00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with refused("00000.safetensors is missing or damaged: delete .+ and extract again"):
        extract_model(folder, TEXTS, tmp_path, layers=[1])
    with refused("other: it exists and is no folder of extracted representations"):
        extract_model(LanguageModel("other", *_constant()), ["a"], tmp_path)


def test_a_run_that_fails_before_its_first_shard_leaves_nothing(folder, tmp_path):
    """No folder that it has made; those that were there stay."""
    (tmp_path / "there").mkdir()
    for out in ("there", "made/by it"):
        with refused("max_tokens must be above the model's 2 special tokens, got 2"):
            extract_model(folder, TEXTS, tmp_path / out, max_tokens=2)
        with refused("batches must hold at least one row, got none"):
            extract(both, [], tmp_path / out)
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_a_mesh_changes_nothing(folder):
    expected = extract_model(folder, TEXTS[:20], layers=[2])["layer2"]
    found = extract_model(folder, TEXTS[:20], layers=[2], mesh=device_mesh(rows=4), batch_tokens=256)["layer2"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_long_texts_are_cut_and_said(folder):
    with pytest.warns(UserWarning, match="2 of 3 texts have 5 tokens or more: what comes after is cut off"):
        found = extract_model(folder, ["w1 w2 w3", "w1 w2 w3 w4", "w1"], max_tokens=5)
    np.testing.assert_allclose(found["layer3"][0], found["layer3"][1], rtol=1e-5, atol=1e-6)


def _constant(value: float = 1.0):
    tokenize = lambda texts, max_tokens: [[len(word) for word in text.split()][:max_tokens] for text in texts]
    return tokenize, lambda weights, tokens, mask: [value * tokens[..., None].astype(jnp.float32)]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"layers": [5]}, "layers must be integers between -4 and 3, got 5"),
        ({"layers": "0,1"}, "layers must be \"all\" or numbers of layers, got '0,1'"),
        ({"pool": "median"}, "pool must be 'mean', 'last', 'cls' or 'max', got 'median'"),
        ({"pool": ["max", "max"]}, r"pool must be one or several of .+, each once, got \('max', 'max'\)"),
        ({"max_tokens": 0}, "max_tokens must be an integer of at least 1, got 0"),
        ({"max_tokens": 1}, "max_tokens must be above the model's 2 special tokens, got 1"),
        ({"batch_tokens": 0}, "batch_tokens must be an integer of at least 1, got 0"),
        ({"mesh": 3}, r"mesh must have the axes .+ got int"),
    ],
)
def test_bad_arguments_are_one_sentence(folder, wrong, sentence):
    with refused(sentence):
        extract_model(folder, ["w1 w2", "w3"], **wrong)


def test_bad_results_are_one_sentence():
    with refused("the text in row 1 has no tokens"):
        extract_model(LanguageModel("lengths", *_constant()), ["a", " ", "b"])
    with refused("layer0 contain 1 NaN or infinite value, in row 1"):
        extract_model(LanguageModel("lengths", *_constant(1e38)), ["a", "aaaaaaaaaaaaaaaaa", "b"])
    flat = lambda weights, tokens, mask: [tokens]
    with refused(r"model lengths must return hidden states \(b, l, d\), got \[\(1, 8\)\]"):
        extract_model(LanguageModel("lengths", _constant()[0], flat), ["a"])


# Any function


BATCHES = [np.random.default_rng(size).standard_normal((size, 5, 2)) for size in (4, 4, 3, 4, 1)]


def both(batch):
    return {"mean": batch.mean(1), "states": jnp.asarray(batch)}


def test_any_function(tmp_path):
    """Rows as they are, hidden states pooled; in memory and in a folder, which goes on after a kill."""
    whole = np.concatenate(BATCHES)
    found = extract(both, BATCHES, pool=["mean", "last"])
    assert list(found) == ["mean", "states.mean", "states.last"]
    np.testing.assert_allclose(found["states.mean"], found["mean"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["states.last"], whole[:, -1], rtol=1e-6)
    calls = []

    def dying(batch):
        calls.append(len(batch))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return both(batch)

    with pytest.raises(KeyboardInterrupt):
        extract(dying, BATCHES, tmp_path, name="f", shard_rows=8)
    rows = extract(dying, BATCHES, tmp_path, name="f", shard_rows=8)
    assert calls == [4, 4, 3, 4, 3, 4, 1]
    np.testing.assert_allclose(rows["mean"][:], found["mean"])
    assert rows["mean"].ids[:].tolist() == list(range(16))
    again = extract(dying, BATCHES, tmp_path, name="f", shard_rows=8)
    assert len(calls) == 7 and again["states"].shape == (16, 2)
    for changed in ([*BATCHES[:-1], 1 + BATCHES[-1]], BATCHES[:-3], [*BATCHES, *BATCHES]):
        with refused(r"batches have changed since f was written to .+: write to another folder, or delete it"):
            extract(both, changed, tmp_path, name="f", shard_rows=8)
    with refused("with other settings: .+"):
        extract(both, BATCHES, tmp_path, name="f", shard_rows=8, settings={"step": 2})


def test_masks_and_ids_of_batches(tmp_path):
    batch = {
        "x": np.arange(12.0).reshape(2, 3, 2),
        "mask": np.array([[1, 0, 0], [1, 1, 0]]),
        "id": np.array(["a", "b"]),
    }
    rows = extract(lambda batch: [jnp.asarray(batch["x"])], [batch], tmp_path)["layer0"]
    assert rows[:].tolist() == [[0, 1], [7, 8]]
    assert rows.ids[:].tolist() == ["a", "b"]


def test_bad_functions_are_one_sentence():
    with refused(r"apply must return arrays \(4, d\) .+, got layer0 \(5,\)"):
        extract(lambda batch: [jnp.ones(5)], BATCHES)
    with refused("batches must be arrays with one common leading axis, got lengths .+"):
        extract(both, [{"a": np.ones(3), "b": np.ones(4)}])
    with refused("batches must hold at least one row, got none"):
        extract(both, [])


# The command line


def test_from_texts_to_a_ranking(folder, tmp_path, monkeypatch, capsys):
    """`w2s extract`, then `w2s rank` on two of its layers."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    monkeypatch.chdir(tmp_path)
    Path("texts.csv").write_text("id,sentence\n" + "".join(f"r{row},{text}\n" for row, text in enumerate(TEXTS)))
    Path("link").symlink_to(folder)
    command = ["extract", "link", "--texts", "texts.csv", "--column", "sentence", "--out", "reps"]
    assert main([*command, "--layers", "0,2,-1", "--pool", "mean"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1].split() == ["reps/tiny:layer2", "50", "x", "16"]
    assert "tokens/s" in printed.err
    command.append("--quiet")
    assert (
        main(["rank", "--strong", "reps/tiny:layer3", "--weak", "reps/tiny:layer0", "reps/tiny:layer2", "--quiet"]) == 0
    )
    assert "tiny:layer2" in capsys.readouterr().out
    assert main([*command, "--layers", "a"]) == 2
    assert "w2s extract: --layers must be all, or numbers such as 0,4,-1, got 'a'" in capsys.readouterr().err
    assert main([*command, "--layers", "1"]) == 2
    assert "with other layers" in capsys.readouterr().err


def test_other_texts_are_not_ranked_together(folder, tmp_path):
    """Their ids differ."""
    for out, first in (("a", 0), ("b", 5)):
        ids = [f"r{row + first}" for row in range(50)]
        extract_model(folder, texts_of(TEXTS, ids), tmp_path / out, layers=[0])
    weak, strong = (open_rows(f"{tmp_path}/{out}/tiny:layer0") for out in "ab")
    with refused("row 0 is 'r0' in .+ and 'r5' in .+"):
        w2s_jax.files.require_same_ids({"weak": weak, "strong": strong})


def test_the_programs_are_few(folder):
    """As many as lengths, and not more with more texts."""
    model, longest = open_model(folder), some_texts(400)
    extract_model(model, longest, layers=[1], shard_rows=64, batch_tokens=512)
    (program,) = {extraction._program(model.apply, (extraction.PooledLayer(1, "mean"),))}
    assert program._cache_size() <= 12
