"""Files in, files out, and the finiteness check: what was saved is read, bad input is one sentence."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from saving import X, assert_same, refused

from w2s_jax.files import opening
from w2s_jax.files.opening import open_rows, read_groups, read_labels
from w2s_jax.files.paths import EXTENSIONS, matching, short_name, split_key

pytestmark = pytest.mark.usefixtures("unchecked")  # bad input is answered by the package, not by its annotations


def save_npz_compressed_with(method: int) -> Callable[[Path, np.ndarray], None]:
    def save(path: Path, array: np.ndarray) -> None:
        with zipfile.ZipFile(path, "w", method) as archive, archive.open("x.npy", "w") as member:
            np.lib.format.write_array(member, array)

    return save


FORMATS: dict[str, tuple[str, Callable]] = {
    "npy": (".npy", np.save),
    "npz": (".npz", lambda path, array: np.savez(path, x=array)),
    "npz-deflate": (".npz", lambda path, array: np.savez_compressed(path, x=array)),
    "npz-bzip2": (".npz", save_npz_compressed_with(zipfile.ZIP_BZIP2)),
    "npz-lzma": (".npz", save_npz_compressed_with(zipfile.ZIP_LZMA)),
    "safetensors": (".safetensors", lambda path, array: save_file({"x": array}, path)),
}


def saved(tmp_path: Path, form: str, array: np.ndarray) -> Path:
    extension, save = FORMATS[form]
    path = tmp_path / f"reps{extension}"
    save(path, array)
    return path


# What is read is what was saved


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "i4", "u8", "i8", "f2", "f4", "f8"])
@pytest.mark.parametrize("shape", [(7,), (7, 3)])
def test_every_format_returns_the_saved_rows(tmp_path, form, dtype, shape):
    array = (np.arange(np.prod(shape)) % 100).astype(dtype).reshape(shape)
    rows = open_rows(saved(tmp_path, form, array))
    assert (rows.shape, rows.dtype, len(rows), rows.nbytes) == (shape, array.dtype, 7, array.nbytes)
    assert_same(rows[2:5], array[2:5])
    assert_same(rows[:], array)


@pytest.mark.parametrize("form", FORMATS)
def test_slices_clip_and_count_from_the_end_as_in_numpy(tmp_path, form):
    rows = open_rows(saved(tmp_path, form, X))
    for block in (slice(5, 99), slice(-2, None), slice(None, 1), slice(3, 3), slice(5, 2), slice(50, 60)):
        assert_same(rows[block], X[block])


@pytest.mark.parametrize("index", [0, slice(0, 6, 2), slice(None, None, -1), (slice(0, 2), 0)])
def test_only_a_block_of_rows_can_be_asked_for(tmp_path, index):
    with pytest.raises(TypeError, match="rows are read as a block such as"):
        open_rows(saved(tmp_path, "npy", X))[index]


@pytest.mark.parametrize("form", ["npy", "npz", "npz-deflate"])
@pytest.mark.parametrize("dtype", [">f4", ">i8"])
def test_foreign_byte_order_becomes_native(tmp_path, form, dtype):
    rows = open_rows(saved(tmp_path, form, X.astype(dtype)))
    assert rows.dtype.isnative
    assert_same(rows[1:4], X[1:4].astype(np.dtype(dtype).newbyteorder("=")))


@pytest.mark.parametrize("form", ["npy", "npz"])
def test_column_major_maps_are_sliced_by_rows(tmp_path, form):
    rows = open_rows(saved(tmp_path, form, np.asfortranarray(X)))
    assert isinstance(rows[2:5], np.memmap)
    assert_same(rows[2:5], X[2:5])


def test_safetensors_bfloat16_round_trip(tmp_path):
    array = X.astype(ml_dtypes.bfloat16)
    rows = open_rows(saved(tmp_path, "safetensors", array))
    assert rows.dtype == jnp.bfloat16
    assert_same(rows[2:6], array[2:6])


@pytest.mark.parametrize("form", ["npy", "npz"])
def test_uncompressed_data_is_memory_mapped_in_place(tmp_path, form):
    path = saved(tmp_path, form, X)
    block = open_rows(path)[2:4]
    assert isinstance(block, np.memmap)
    with path.open("r+b") as file:  # a change of the file shows through the block that was read before it
        file.seek(path.read_bytes().index(X.tobytes()) + X[:2].nbytes)
        file.write(np.float32(-1).tobytes())
    assert block[0, 0] == -1


def test_an_unaligned_map_reaches_jax_unchanged(tmp_path):
    block = open_rows(saved(tmp_path, "npz", X))[1:5]
    assert not block.flags.aligned  # np.savez puts data at odd offsets
    assert_same(np.asarray(jnp.asarray(block)), X[1:5])


@pytest.mark.parametrize("form", ["npz-deflate", "npz-bzip2", "npz-lzma"])
def test_compressed_rows_forwards_backwards_and_skipping(tmp_path, form):
    array = np.random.default_rng(0).standard_normal((500, 40))
    rows = open_rows(saved(tmp_path, form, array))
    for start in (0, 100, 200, 400, 300, 0, 50, 450, 449, 499):
        assert_same(rows[start : start + 100], array[start : start + 100])


def test_compressed_rows_going_forwards_open_the_file_once(tmp_path, monkeypatch):
    rows = open_rows(saved(tmp_path, "npz-deflate", np.zeros((6000, 10))))
    opened = []
    original = zipfile.ZipFile
    monkeypatch.setattr(zipfile, "ZipFile", lambda *args: opened.append(args) or original(*args))
    for start in (0, 2000, 4000):
        rows[start : start + 2000]
    assert len(opened) == 1
    rows[0:2000]
    assert len(opened) == 2


@pytest.mark.parametrize("form", ["npy", "npz", "npz-deflate", "safetensors"])
def test_reading_a_block_never_holds_the_file(tmp_path, form):
    array = np.zeros((4096, 1024), np.float32)  # 16 MiB
    path = saved(tmp_path, form, array)
    tracemalloc.start()
    open_rows(path)[3000:3010]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < array.nbytes / 4


def test_a_compressed_block_exists_once_while_it_is_read(tmp_path):
    array = np.zeros((4096, 1024), np.float32)
    rows = open_rows(saved(tmp_path, "npz-deflate", array))
    tracemalloc.start()
    block = rows[:]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.25 * block.nbytes


# Keys


@pytest.mark.parametrize("extension", [".npz", ".NPZ", ".safetensors"])
def test_a_key_picks_one_of_several_arrays(tmp_path, extension):
    path = tmp_path / f"reps{extension}"
    save_several(path)
    assert_same(open_rows(f"{path}:layer.1/b")[:], X + 1)
    assert_same(open_rows(f"{path}:a")[:], X)


def save_several(path: Path) -> None:
    arrays = {"a": X, "layer.1/b": X + 1}
    if path.suffix == ".safetensors":
        save_file(arrays, path)
    else:
        with path.open("wb") as file:
            np.savez(file, **arrays)


@pytest.mark.parametrize("extension", [".npz", ".safetensors"])
def test_several_arrays_need_a_key(tmp_path, extension):
    path = tmp_path / f"reps{extension}"
    save_several(path)
    with refused(r"it holds several arrays, name one as \S+:KEY, KEY one of a, layer\.1/b"):
        open_rows(path)


@pytest.mark.parametrize("extension", [".npz", ".safetensors"])
def test_an_unknown_key_lists_the_known_ones(tmp_path, extension):
    path = tmp_path / f"reps{extension}"
    save_several(path)
    with refused(r"it has no array 'c', only a, layer\.1/b"):
        open_rows(f"{path}:c")


def test_a_file_whose_name_contains_a_key_is_a_file(tmp_path):
    (tmp_path / "reps.npy:1.npy").write_bytes(saved(tmp_path, "npy", X).read_bytes())
    assert_same(open_rows(tmp_path / "reps.npy:1.npy")[:], X)


def test_npy_takes_no_key(tmp_path):
    with refused(r"an \.npy file holds one array, so it takes no key, got 'x'"):
        open_rows(f"{saved(tmp_path, 'npy', X)}:x")


@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_a_file_without_arrays(tmp_path, form):
    path = tmp_path / f"reps.{form}"
    np.savez(path) if form == "npz" else save_file({}, path)
    with refused("it holds no arrays"):
        open_rows(path)


# Arrays that are no rows of numbers


@pytest.mark.parametrize("form", ["npy", "npz", "npz-deflate", "safetensors"])
@pytest.mark.parametrize("shape", [(), (2, 3, 4)])
def test_other_ranks_are_refused(tmp_path, form, shape):
    with refused(rf"expected shape \(n,\) or \(n, d\), got {re.escape(str(shape))}"):
        open_rows(saved(tmp_path, form, np.ones(shape, np.float32)))


@pytest.mark.parametrize("form", ["npy", "npz", "npz-deflate", "safetensors"])
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_empty_arrays_are_refused(tmp_path, form, shape):
    with refused(rf"expected at least one row and one column, got shape {re.escape(str(shape))}"):
        open_rows(saved(tmp_path, form, np.ones(shape, np.float32)))


@pytest.mark.parametrize("form", ["npy", "npz", "npz-deflate"])
@pytest.mark.parametrize(
    ("array", "came"),
    [
        (np.ones((2, 2), np.complex64), "complex64"),
        (np.array(["a", "b"]), "str32"),
        (np.array([b"a", b"b"]), "bytes8"),
        (np.array(["2020-01-01"], "M8[D]"), r"datetime64\[D\]"),
        (np.ones(3, [("a", "f4"), ("b", "i4")]), "a structured array"),
    ],
)
def test_other_dtypes_are_refused(tmp_path, form, array, came):
    with refused(f"expected real numbers of at most 64 bits, got {came}"):
        open_rows(saved(tmp_path, form, array))


@pytest.mark.parametrize("form", ["npy", "npz"])
def test_bfloat16_that_numpy_stored_without_its_type_is_refused(tmp_path, form):
    with refused(r"its values have lost their type, as bfloat16 does in \.npy: use \.safetensors"):
        open_rows(saved(tmp_path, form, X.astype(ml_dtypes.bfloat16)))


@pytest.mark.parametrize("code", ["F8_E4M3", "F8_E5M2"])
def test_other_safetensors_types_are_refused(tmp_path, code):
    entry = {"dtype": code, "shape": [2, 3], "data_offsets": [0, 6]}
    header = json.dumps({"x": entry}).encode().ljust(128)
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(6))
    with refused(f"expected real numbers of at most 64 bits, got the safetensors type {code}"):
        open_rows(path)


class Bomb:
    """Unpickling an instance leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["npy", "npz", "npz-deflate"])
def test_pickled_arrays_are_refused_and_never_unpickled(tmp_path, form):
    path = saved(tmp_path, form, np.array([Bomb(tmp_path / "boom")], object))
    with refused(r"it holds Python objects, and unpickling is refused: save text as array\.astype\(str\)"):
        open_rows(path)
    assert not (tmp_path / "boom").exists()


def test_a_bare_pickle_is_refused_and_never_unpickled(tmp_path):
    path = tmp_path / "reps.npy"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    with refused(r"it is damaged, truncated or not a \.npy file \(.+\)"):
        open_rows(path)
    assert not (tmp_path / "boom").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "boom").exists()  # so the check above could have failed


# Files that are no readable files


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "gone.npy"
    with refused(f"cannot read strong representations from {re.escape(str(path))}: the file does not exist"):
        open_rows(path, "strong representations")


def test_a_missing_file_with_a_key(tmp_path):
    with refused(r"from \S+/gone\.npz:x: the file does not exist"):
        open_rows(tmp_path / "gone.npz:x")


def test_a_key_of_a_file_that_is_none(tmp_path):
    (tmp_path / "reps.npz").mkdir()
    with refused(r"the folder holds no file that ends in \.npy, .+, \.zarr"):
        open_rows(f"{tmp_path}/reps.npz:x")


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "reps.npy")
    with refused("it is not a regular file"):
        open_rows(tmp_path / "reps.npy")


def test_an_unreadable_file(tmp_path, monkeypatch):
    path = saved(tmp_path, "npy", X)

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)  # file modes do not stop a test that runs as root
    with refused(r"from \S+reps\.npy: Permission denied"):
        open_rows(path)


@pytest.mark.parametrize(
    ("name", "came"),
    [("reps.txt", r"the extension '\.txt'"), ("reps.h5", r"the extension '\.h5'"), ("reps", "no extension")],
)
def test_an_unknown_extension_lists_the_known_ones(tmp_path, name, came):
    (tmp_path / name).write_bytes(b"1,2,3")
    with refused(rf"expected a file that ends in \.npy, \.npz, .+, \.jsonl, got {came}"):
        open_rows(tmp_path / name)


@pytest.mark.parametrize("extension", [".npy", ".npz", ".safetensors", ".pt", ".parquet", ".arrow", ".feather"])
@pytest.mark.parametrize("content", [b"", b"no such thing\n" * 50, b"\x93NUMPY", b"\x93NUMPY\x01\x00\x05\x00{'a':"])
def test_content_that_is_something_else(tmp_path, extension, content):
    path = tmp_path / f"reps{extension}"
    path.write_bytes(content)
    with refused(rf"it is damaged, truncated or not a {extension} file \(.+\)"):
        open_rows(path)


def test_arrays_behind_each_other_are_refused(tmp_path):
    """As `np.save` into one open file makes them: only the first would be read."""
    with open(tmp_path / "x.npy", "wb") as stream:
        np.save(stream, X)
        np.save(stream, X)
    with refused(r"several arrays were saved to it, one behind the other: save them as an \.npz or as shards"):
        open_rows(tmp_path / "x.npy")


def test_what_the_system_says_is_no_damage(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", X)

    def full(*_: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("numpy.memmap", full)
    with refused(r"cannot read array from \S+x\.npy: Too many open files"):
        open_rows(tmp_path / "x.npy")


def test_every_extension_has_a_reader():
    assert tuple(opening._READERS) == EXTENSIONS


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("a/two.npz:layers.5", "two:layers.5"),
        ("a/two.npz:layers/7", "two:layers/7"),
        ("a/pythia-1.4b", "pythia-1.4b"),
        ("a/pythia-1.4b:emb", "pythia-1.4b:emb"),
        ("a/x.zarr/", "x"),
        ("a/x.npz", "x"),
        ("a/x.dat", "x.dat"),
        ("a/y.csv:label", "y:label"),
        ("a/x.npy:layer=8", "x:layer=8"),
        (".", "here"),
    ],
)
def test_short_names_of_files(tmp_path, monkeypatch, given, name):
    (tmp_path / "here/a/pythia-1.4b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert short_name(given) == name


def test_keys_of_patterns_and_folders(tmp_path):
    (tmp_path / "run[1]").mkdir()
    for name in ("a", "b"):
        np.savez(tmp_path / f"run[1]/{name}.npz", **{"x:y": X})
    file, pattern, folder = f"{tmp_path}/run[1]/a.npz", f"{tmp_path}/run*/*.npz", f"{tmp_path}/run[1]"
    for path in (file, pattern, f"{tmp_path}/run*/*", folder):
        assert split_key(path) == (path, None)
        assert split_key(f"{path}:x:y") == (path, "x:y")
    assert matching(f"{file}:x:y") == [f"{file}:x:y"]
    assert matching(f"{pattern}:x:y") == [f"{tmp_path}/run[1]/{name}.npz:x:y" for name in "ab"]
    assert split_key(f"{tmp_path}/none/*:x") == (f"{tmp_path}/none/*:x", None)


def test_truncated_npy_data(tmp_path):
    path = saved(tmp_path, "npy", X)
    path.write_bytes(path.read_bytes()[:-4])
    with refused("it is truncated: 84 bytes of data expected, 80 there"):
        open_rows(path)


@pytest.mark.parametrize("form", ["npy", "npz", "npz-deflate", "safetensors"])
def test_truncation_anywhere_is_refused_on_opening(tmp_path, form):
    path = saved(tmp_path, form, X)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with refused(r"it is (damaged, truncated or not a \S+ file \(.+\)|truncated: .+)"):
            open_rows(path)


def test_a_member_shorter_than_its_header_says(tmp_path):
    path = tmp_path / "reps.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", saved(tmp_path, "npy", X).read_bytes()[:-4])
    with refused("it is truncated: 84 bytes of data expected, 80 there"):
        open_rows(path)


def test_a_stored_member_that_claims_to_reach_past_the_end_of_the_file(tmp_path):
    header = saved(tmp_path, "npy", np.zeros(10**6)).read_bytes()[:128]
    path = tmp_path / "reps.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 20 : entry + 28] = 2 * (128 + 8 * 10**6).to_bytes(4, "little")  # both sizes in the index
    path.write_bytes(content)
    with refused(r"it is damaged, truncated or not a \.npz file \(.+\)"):
        open_rows(path)


def test_damaged_compressed_data_is_refused_on_reading(tmp_path):
    array = np.random.default_rng(0).standard_normal((500, 40))
    path = saved(tmp_path, "npz-deflate", array)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    rows = open_rows(path, "weak representations")
    assert_same(rows[0:10], array[0:10])
    with refused(r"cannot read weak representations from \S+: it is damaged, truncated .+"):
        rows[10:500]
    assert_same(rows[10:20], array[10:20])  # the failed read left no position behind


def test_compressed_columns_are_refused(tmp_path):
    with refused("it is compressed and in column order: save it uncompressed or in row order"):
        open_rows(saved(tmp_path, "npz-deflate", np.asfortranarray(X)))


def test_safetensors_missing(tmp_path, monkeypatch):
    path = saved(tmp_path, "safetensors", X)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    needs = r"reading \.safetensors files needs the safetensors package: pip install 'w2s_jax\[cli\]'"
    with refused(needs):
        open_rows(path)


# Labels and groups


@pytest.mark.parametrize("labels", [np.array([0.0, np.nan, 1.0]), np.array([[1, 0], [0, 1]]), np.array([True, False])])
def test_labels_are_returned_as_saved_and_in_memory(tmp_path, labels):
    got = read_labels(saved(tmp_path, "npy", labels))
    assert type(got) is np.ndarray
    assert got.flags.owndata
    assert_same(got, labels)


def test_infinite_labels_are_refused(tmp_path):
    path = saved(tmp_path, "npy", np.array([0.0, np.nan, -np.inf, np.inf]))
    with refused(r"labels \(\S+\) must be finite, or NaN where unlabelled, got infinity in row 2"):
        read_labels(path)


@pytest.mark.parametrize("form", ["npy", "npz", "npz-deflate"])
@pytest.mark.parametrize("groups", [np.array(["land", "wäter", "land", "air"]), np.array([30, 70, 30, -1])])
def test_groups_become_codes_in_sorted_order(tmp_path, form, groups):
    codes = read_groups(saved(tmp_path, form, groups))
    assert codes.tolist() == [1, 2, 1, 0]


@pytest.mark.parametrize(("groups", "came"), [(np.ones(3), "float64"), (np.array([1j]), "complex128")])
def test_groups_of_other_dtypes_are_refused(tmp_path, groups, came):
    with refused(f"expected integers or text, got {came}"):
        read_groups(saved(tmp_path, "npy", groups))


def test_groups_are_one_column(tmp_path):
    with refused(r"expected shape \(n,\), got \(3, 1\)"):
        read_groups(saved(tmp_path, "npy", np.ones((3, 1), int)))
