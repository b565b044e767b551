"""Row ids: found beside the rows, never taken for them, and held against each other between files."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from saving import X, assert_same, refused

from w2s_jax import InputError, rank_supervisors
from w2s_jax.cli import main
from w2s_jax.files import ids as row_ids
from w2s_jax.files.ids import require_same_ids
from w2s_jax.files.opening import open_rows, read_groups

REMEDY = "; its array 'id' names the rows: call it something else if it does not"

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("key", ["id", "ids"])
@pytest.mark.parametrize("ids", [np.arange(7) * 3, np.array(list("abcdefg"))])
def test_ids_beside_the_only_array(tmp_path, save, key, ids):
    save(tmp_path / "reps.npz", x=X, **{key: ids})
    rows = open_rows(tmp_path / "reps.npz")
    assert_same(rows[2:5], X[2:5])
    assert rows.ids is not None
    assert_same(rows.ids[2:5], ids[2:5])
    assert read_groups(f"{tmp_path}/reps.npz:{key}").tolist() == list(range(7))


def test_text_in_safetensors(tmp_path):
    """Bytes that the metadata call text, of another width in every shard; without that they are refused as ids."""
    words = np.array(["a", "wäter", "", "c", "däta", "e", "f"])
    for shard, rows in enumerate((slice(0, 4), slice(4, 7))):
        text = np.char.encode(words[rows], "utf-8")
        arrays = {"x": X[rows], "id": text.view(np.uint8).reshape(len(text), -1)}
        save_file(arrays, tmp_path / f"{shard}.safetensors", {"id": "utf-8"})
    rows = open_rows(f"{tmp_path}:x")
    assert rows.ids is not None
    assert rows.ids[1:6].tolist() == words[1:6].tolist()
    assert read_groups(f"{tmp_path}/1.safetensors:id").tolist() == [0, 1, 2]
    save_file(arrays, tmp_path / "1.safetensors")
    with refused(r"expected shape \(n,\), got \(3, 5\)" + REMEDY):
        open_rows(f"{tmp_path}/1.safetensors:x")
    arrays["id"][:] = 255
    save_file(arrays, tmp_path / "1.safetensors", {"id": "utf-8"})
    rows = open_rows(f"{tmp_path}/1.safetensors:x")
    with refused(r"it is damaged, .+"):
        assert rows.ids is not None and rows.ids[:]


def test_bytes_are_text(tmp_path):
    words = np.array(["a", "wäter", "b", "c", "d", "e", "f"])
    np.savez(tmp_path / "reps.npz", x=X, id=np.char.encode(words))
    rows = open_rows(tmp_path / "reps.npz")
    assert rows.ids is not None
    assert rows.ids[:].tolist() == words.tolist()
    np.savez(tmp_path / "reps.npz", x=X, id=np.array([b"\xff"] * 7))
    with refused(r"it is damaged, .+ \(.+can't decode.+\)"):
        rows = open_rows(tmp_path / "reps.npz")
        assert rows.ids is not None
        rows.ids[:]


def test_ids_in_safetensors(tmp_path):
    save_file({"x": X, "id": np.arange(7)}, tmp_path / "reps.safetensors")
    rows = open_rows(tmp_path / "reps.safetensors")
    assert rows.ids is not None
    assert rows.ids[2:5].tolist() == [2, 3, 4]


def test_files_without_ids(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "x.npz", x=X)
    np.savez(tmp_path / "ids.npz", ids=np.arange(7))
    assert open_rows(tmp_path / "x.npy").ids is None
    assert open_rows(tmp_path / "x.npz").ids is None
    assert open_rows(tmp_path / "ids.npz").ids is None


@pytest.mark.parametrize(
    ("ids", "why"),
    [
        (np.arange(6), "its array 'id' holds 6 row ids, expected 7"),
        (np.arange(7.0), f"expected integers or text, got float64{REMEDY}"),
        (np.arange(7)[:, None], rf"expected shape \(n,\), got \(7, 1\){REMEDY}"),
        (np.array("run 7"), rf"expected shape \(n,\), got \(\){REMEDY}"),
        (np.array(list("abcdefg"), object), f"it holds Python objects, and unpickling is refused: save .+{REMEDY}"),
    ],
)
def test_arrays_that_are_no_ids_are_refused(tmp_path, ids, why):
    np.savez(tmp_path / "reps.npz", x=X, id=ids)
    with refused(rf"cannot read (row ids of )?h from \S+: {why}"):
        open_rows(tmp_path / "reps.npz", "h")


def carrier(ids: Any) -> SimpleNamespace:
    return SimpleNamespace(ids=None if ids is None else np.asarray(ids))


def test_equal_ids_pass_and_so_does_what_has_none():
    require_same_ids({})
    require_same_ids({"a": carrier(None), "b": X})
    require_same_ids({"a": carrier(["x", "y"]), "b": carrier(None), "c": carrier(["x", "y"]), "d": X})


def test_the_first_differing_row_and_both_ids_are_named():
    strong, weak = np.arange(50).astype(str), np.arange(50).astype(str)
    weak[[17, 30]] = "b"
    strong[17] = "a"
    with refused("row 17 is 'a' in strong representation 's' and 'b' in weak representation 'w1'"):
        require_same_ids({"strong representation 's'": carrier(strong), "weak representation 'w1'": carrier(weak)})


def test_the_first_row_is_first_among_all_sources_and_blocks(monkeypatch):
    monkeypatch.setattr(row_ids, "_BLOCK_ROWS", 8)
    a, b, c = (np.arange(40) for _ in range(3))
    b[23], c[18] = -1, -2
    with refused("row 18 is 18 in a and -2 in c"):
        require_same_ids({"a": carrier(a), "b": carrier(b), "c": carrier(c)})


def test_text_and_integers_differ():
    with refused("row 0 is 1 in a and '1' in b"):
        require_same_ids({"a": carrier([1, 2]), "b": carrier(["1", "2"])})


@pytest.mark.parametrize("rows", [3, 4])
def test_a_missing_row_is_named(monkeypatch, rows):
    monkeypatch.setattr(row_ids, "_BLOCK_ROWS", rows)
    with refused("row 3 is 13 in a and missing in b"):
        require_same_ids({"a": carrier([10, 11, 12, 13]), "b": carrier([10, 11, 12])})
    with refused("row 3 is missing in a and 13 in b"):
        require_same_ids({"a": carrier([10, 11, 12]), "b": carrier([10, 11, 12, 13])})


# The command line


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((60, 4))
    for name in ("s", "w1", "w2"):
        h = latent @ rng.standard_normal((4, 5)) + rng.standard_normal((60, 5))
        np.savez(f"{name}.npz", h=h, id=np.arange(60))
    np.save("plain.npy", h)
    Path("shards").mkdir()
    for part in range(2):
        np.save(f"shards/{part}.npy", h[30 * part : 30 * (part + 1)])
    np.savez("y.npz", y=latent[:, 0], id=np.arange(60))
    np.savez("shuffled.npz", h=h, id=np.arange(60)[::-1])
    return tmp_path


RANK = ["rank", "--quiet", "--strong", "s.npz", "--weak"]


def test_rank_takes_files_with_ids_files_without_and_shards(folder, capsys):
    assert main([*RANK, "w1.npz", "plain.npy", "shards", "shards/*.npy", "--labels", "y.npz"]) == 0
    printed = capsys.readouterr().out
    assert all(f" {name} " in f" {printed} " for name in ("w1", "plain", "shards", "shards/*.npy"))


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (["w1.npz", "shuffled.npz"], "weak representation 'shuffled'"),
        (["w1.npz", "--labels", "shuffled.npz"], "labels"),
        (["w1.npz", "--groups", "shuffled.npz:id"], None),
    ],
)
def test_rank_exits_with_2_where_ids_differ(folder, capsys, given, what):
    code = main([*RANK, *given])
    printed = capsys.readouterr()
    if what is None:
        assert code == 0
    else:
        assert (code, printed.out) == (2, "")
        assert printed.err == f"w2s rank: row 0 is 0 in strong representation 's' and 59 in {what}\n"


def test_rank_supervisors_holds_ids_against_each_other(folder):
    """In Python too: rows that files name otherwise are not ranked."""
    with pytest.raises(InputError, match="row 0 is 0 in strong representation 's' and 59 in weak representation 'b'"):
        rank_supervisors({"a": open_rows("w1.npz"), "b": open_rows("shuffled.npz")}, {"s": open_rows("s.npz")})


def test_rank_exits_with_2_where_an_extra_is_missing(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    Path("w.parquet").write_bytes(b"PAR1")
    assert main([*RANK, "w.parquet"]) == 2
    needs = "reading .parquet files needs the pyarrow package: pip install 'w2s_jax[arrow]'"
    assert capsys.readouterr().err == f"w2s rank: cannot read w from w.parquet: {needs}\n"
