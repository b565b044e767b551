"""The experiment on molecules: its parts on a few made-up rows, without what it needs besides the package."""

import csv
import gzip
import re
from importlib.util import find_spec

import numpy as np
import pytest

from benchmarks.experiments import results, run
from benchmarks.experiments.molecules import __main__ as command
from benchmarks.experiments.molecules import fingerprints, rows
from benchmarks.experiments.molecules.representations import representations, stray_rows
from benchmarks.experiments.molecules.transformer import TOKEN, albert
from w2s_jax import InputError
from w2s_jax.extract import extract_model

SMILES = ["CCO", "c1ccccc1Br", "ClC(=O)N", "C[N+](C)(C)C", "C%10CC%10", "CCO", "O", "CCCCCCCC"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "C", "c", "O", "N", "(", ")", "=", "1", "Cl", "Br", "%10", "[N+]"]


def tiny_weights():
    """Of a random ALBERT, by the names that transformers has for them."""
    rng = np.random.default_rng(0)
    layer = "encoder.albert_layer_groups.0.albert_layers.0."
    shapes = {
        "embeddings.word_embeddings": (len(VOCABULARY), 6),
        "embeddings.position_embeddings": (32, 6),
        "embeddings.token_type_embeddings": (2, 6),
        "embeddings.LayerNorm": (6,),
        "encoder.embedding_hidden_mapping_in": (8, 6),
        **{f"{layer}attention.{part}": (8, 8) for part in ("query", "key", "value", "dense")},
        f"{layer}attention.LayerNorm": (8,),
        f"{layer}ffn": (12, 8),
        f"{layer}ffn_output": (8, 12),
        f"{layer}full_layer_layer_norm": (8,),
    }
    weights = {}
    for name, shape in shapes.items():
        weights[f"albert.{name}.weight"] = rng.standard_normal(shape).astype(np.float32)
        weights[f"albert.{name}.bias"] = rng.standard_normal(shape[:1]).astype(np.float32)
    return weights


CONFIG = {"num_hidden_layers": 2, "num_attention_heads": 2, "layer_norm_eps": 1e-12, "max_position_embeddings": 32}
TINY = tiny_weights(), CONFIG, VOCABULARY


def tiny_albert():
    return albert("rxnmapper", *TINY)


def test_tokens_are_atoms_bonds_and_ring_numbers():
    assert TOKEN.findall("C[N+]Cl%10Br=c1") == ["C", "[N+]", "Cl", "%10", "Br", "=", "c", "1"]
    assert tiny_albert().tokenize(["CSi"], None) == [[2, 4, 1, 1, 3]]


def test_padding_changes_no_representation_of_the_transformer():
    together = extract_model(tiny_albert(), SMILES)
    assert list(together) == ["layer0", "layer1", "layer2"]
    assert {array.shape for array in together.values()} == {(8, 8)}
    alone = extract_model(tiny_albert(), SMILES[:1])
    for name, array in together.items():
        np.testing.assert_allclose(array[0], alone[name][0], rtol=2e-5, atol=2e-5)
        np.testing.assert_array_equal(array[0], array[5])


def test_ngrams_count_runs_of_tokens():
    counts = fingerprints.ngrams(["CCO", "OCC"], order=2, size=4096)
    assert counts.sum(1).tolist() == [5, 5]
    assert counts.max() == 2  # C twice
    np.testing.assert_array_equal(fingerprints.ngrams(["CCO"], 1, 64), fingerprints.ngrams(["OCC"], 1, 64))
    assert (counts[0] != counts[1]).any()


def test_rows_are_read_from_a_folder_or_from_their_origin_and_checked(tmp_path, monkeypatch):
    y = np.arange(len(SMILES)) / 4

    def write(path, column):
        path.parent.mkdir(exist_ok=True)
        with gzip.open(path, "wt", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerows([["smiles", column], *zip([f"{text} " for text in SMILES], y, strict=True)])

    source = rows.SOURCES["ESOL"]._replace(checksum=rows.checksum(SMILES, y))
    monkeypatch.setitem(rows.SOURCES, "ESOL", source)
    write(tmp_path / "chembench" / "esol.csv.gz", "y")
    write(tmp_path / "origin" / "ESOL.csv.gz", source.column)
    monkeypatch.setattr(rows, "ORIGIN", (tmp_path / "origin").as_uri() + "/{name}.csv.gz")
    same = lambda smiles, stereo: smiles if stereo else smiles.replace("Br", "Cl")
    for folder in (str(tmp_path), ""):
        monkeypatch.setenv("W2S_DATA", folder)
        found = rows.load("ESOL", tmp_path, same)
        assert found.smiles == SMILES and found.flat[1] == "c1ccccc1Cl"
        np.testing.assert_array_equal(found.y, y)
        assert found.groups[0] == found.groups[5] and len(set(found.groups)) == len(SMILES) - 1
    write(tmp_path / "ESOL.csv.gz", "z")
    with pytest.raises(InputError, match="must have columns smiles and measured log"):
        rows.load("ESOL", tmp_path, same)
    write(tmp_path / "chembench" / "freesolv.csv.gz", "y")
    monkeypatch.setenv("W2S_DATA", str(tmp_path))
    with pytest.raises(InputError, match="rows of FreeSolv must be those that the results are of"):
        rows.load("FreeSolv", tmp_path, same)
    with pytest.raises(InputError, match=r"cannot read Lipop: .*lipop\.csv\.gz is not there"):
        rows.load("Lipop", tmp_path, same)


def test_representations_are_made_once(tmp_path):
    task = rows.Molecules("tiny", SMILES, SMILES, np.zeros(8), np.arange(8))
    calls = []

    def counted(smiles):
        calls.append(len(smiles))
        return fingerprints.ngrams(smiles, 1, 16)

    make = lambda: representations(task, tmp_path, {"ngrams:1-16": counted}, {"stereo:16": counted}, tiny_albert)
    first, again = make(), make()
    assert calls == [8, 8]
    assert list(first) == ["ngrams:1-16", "stereo:16", "rxnmapper:layer0", "rxnmapper:layer1", "rxnmapper:layer2"]
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])


@pytest.mark.everything
def test_the_command_goes_from_rows_to_results(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    smiles = ["".join(rng.choice(VOCABULARY[4:], 7)) for _ in range(60)]
    task = rows.Molecules("tiny", smiles, smiles, rng.standard_normal(60), np.arange(60) // 2)

    def network(texts):
        found = fingerprints.ngrams(texts, 2, 8) + rng.standard_normal((len(texts), 8))
        found[:, 0] *= 1e-9
        found[4, 0] = 1
        return found

    monkeypatch.setattr(rows, "load", lambda name, *_: task._replace(name=name))
    for name, value in {
        "makers": lambda: {"ngrams:1-8": lambda texts: fingerprints.ngrams(texts, 1, 8)},
        "minimol": network,
        "open_transformer": tiny_albert,
        "SIZES": run.Sizes(splits=2),
        "RIDGES": (1e-2,),
    }.items():
        monkeypatch.setattr(command, name, value)
    monkeypatch.setattr(run, "LABELS", ())
    for module in (run, results):
        monkeypatch.setattr(module, "SCALINGS", ("features",))
    file = tmp_path / "results.csv.gz"
    command.main(["--work", str(tmp_path / "work"), "--tasks", "ESOL", "--out", str(file)])
    assert f"set apart by one feature: {{{smiles[4]!r}: 0}}" in capsys.readouterr().out
    cells = results.read_results(file)
    assert [(cell.task, cell.strong) for cell in cells] == [
        (task, strong) for task in ("ESOL", "ESOL-trimmed") for strong in command.STRONG
    ]
    assert cells[0].teachers == ["ngrams:1-8", "rxnmapper:layer0", "rxnmapper:layer1", "rxnmapper:layer2"]
    assert cells[1].teachers == ["ngrams:1-8", command.MINIMOL]
    assert all(np.isfinite(cell.scores["expected_error"]).all() for cell in cells)


def test_a_row_that_brings_a_dead_feature_to_life_is_found():
    x = np.random.default_rng(0).standard_normal((200, 8))
    x[3] = 50  # far out, but no feature is without the row what it is not with it
    x[:, 2] = np.where(np.arange(200) == 4, 1, 0)  # the same for all others
    assert stray_rows(x) == {}
    x[:, 6] *= 1e-9
    x[5, 6] = 1e-4
    assert stray_rows(x) == {5: 6}


@pytest.mark.skipif(find_spec("rdkit") is None, reason="rdkit is not installed")
def test_teachers_of_rdkit_are_as_wide_as_they_say():
    assert fingerprints.canonical("OCC", False) == fingerprints.canonical("CCO", False)
    for name, maker in fingerprints.makers().items():
        found = maker(["CCO", "c1ccccc1"])
        assert found.shape[0] == 2 and np.isfinite(found).all()
        if not name.startswith("descriptors"):
            assert found.shape[1] == int(re.split("[:-]", name)[-1])


@pytest.mark.skipif(find_spec("rxnmapper") is None, reason="rxnmapper, whose weights these are, is not installed")
def test_the_transformer_is_that_of_transformers():
    from benchmarks.experiments.molecules.transformer import open_transformer

    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = open_transformer()
    assert len(extract_model(model, ["CCO"])) == 13
    spec = find_spec("rxnmapper")
    assert spec is not None and spec.submodule_search_locations
    from benchmarks.experiments.molecules.transformer import FOLDER

    theirs = transformers.AlbertModel.from_pretrained(f"{spec.submodule_search_locations[0]}/{FOLDER}").eval()
    tokens = model.tokenize(["CC(=O)Nc1ccccc1"], None)
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens), output_hidden_states=True).hidden_states
    found = model.apply(model.weights, np.array(tokens), np.ones_like(tokens, bool))
    for ours, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-4)
