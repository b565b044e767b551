"""Shards are one array, in natural order; what differs between them is refused by name."""

from __future__ import annotations

import errno
import json
import re
import resource
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from saving import DATA, X, assert_same, refused

from w2s_jax.files import shards
from w2s_jax.files.opening import open_rows, read_groups

pytestmark = pytest.mark.usefixtures("unchecked")

PARTS = [X + 100 * i for i in range(3)]
WHOLE = np.concatenate(PARTS)


def save_npz(path: Path, array: np.ndarray) -> None:
    np.savez_compressed(path, x=array, id=(array[:, 0] * 2).astype(int))


def save_safetensors(path: Path, array: np.ndarray) -> None:
    save_file({"x": array, "ids": (array[:, 0] * 2).astype(int)}, path)


def save_parquet(path: Path, array: np.ndarray) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"x": pa.array(list(array)), "id": pa.array((array[:, 0] * 2).astype(int))}
    parquet.write_table(pa.table(columns), path)


FORMATS: dict[str, Callable[[Path, np.ndarray], None]] = {
    ".npy": np.save,
    ".npz": save_npz,
    ".safetensors": save_safetensors,
    ".parquet": save_parquet,
}


def saved(folder: Path, extension: str = ".npy", parts: list[np.ndarray] = PARTS) -> Path:
    """Files whose order as text is not their order as numbers."""
    folder.mkdir()
    for number, array in zip((2, 10, 100), parts, strict=False):
        FORMATS[extension](folder / f"shard{number}{extension}", array)
    return folder


@pytest.mark.parametrize("extension", FORMATS)
def test_a_folder_and_a_pattern_are_their_shards_in_natural_order(tmp_path, extension):
    folder = saved(tmp_path / "reps", extension)
    (folder / "README.md").write_text("passed over")
    (folder / ".hidden.npy").write_bytes(b"passed over")
    for given in (folder, f"{folder}/", f"{folder}/shard*{extension}", f"{tmp_path}/**/shard*{extension}"):
        rows = open_rows(given)
        assert (rows.shape, rows.dtype) == (WHOLE.shape, WHOLE.dtype)
        for start, stop in ((0, 21), (0, 7), (6, 8), (5, 19), (13, 14), (20, 21), (1, 2)):
            assert_same(rows[start:stop], WHOLE[start:stop])
            assert rows.ids is None or rows.ids[start:stop].tolist() == (2 * WHOLE[start:stop, 0]).tolist()
    assert (open_rows(folder).ids is None) == (extension == ".npy")


@pytest.mark.parametrize("extension", [".npz", ".safetensors", ".parquet"])
def test_a_key_picks_an_array_of_every_shard(tmp_path, extension):
    folder = saved(tmp_path / "reps", extension)
    for given in (f"{folder}:x", f"{folder}/:x", f"{folder}/shard*{extension}:x"):
        assert_same(open_rows(given)[:], WHOLE)
    with refused(rf"from \S+reps/shard2\{extension}:y: it has no array 'y', only .+"):
        open_rows(f"{folder}:y")


def test_where_a_key_is_missing_the_folder_is_named(tmp_path):
    """What is said to be given then gives all rows, not those of the first shard."""
    folder = tmp_path / "reps"
    folder.mkdir()
    for number in range(2):
        np.savez(folder / f"{number}.npz", a=X, b=X)
    with refused(rf".+it holds several arrays, name one as {re.escape(str(folder))}:KEY, KEY one of a, b"):
        open_rows(folder, "weak")
    assert len(open_rows(f"{folder}:a", "weak")) == 2 * len(X)


def test_a_block_within_a_shard_stays_a_memory_map(tmp_path):
    assert isinstance(open_rows(saved(tmp_path / "reps"))[8:12], np.memmap)


def test_text_of_different_lengths_is_one_text(tmp_path):
    folder = saved(tmp_path / "groups", parts=[np.array(["bb", "a"]), np.array(["a", "cccc"])])
    assert read_groups(folder).tolist() == [1, 0, 0, 2]


def test_zarr_folders_and_torch_files_are_shards_too(tmp_path):
    for number in (1, 2):
        (tmp_path / f"{number}.pt").write_bytes((DATA / "torch_tensor.pt").read_bytes())
    assert_same(open_rows(tmp_path)[:], np.concatenate([X, X]))


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (np.ones((7, 4), np.float32), r"expected shape \(n, 3\) as in \S+shard2\.npy, got shape \(n, 4\)"),
        (np.ones(7, np.float32), r"expected shape \(n, 3\) as in \S+shard2\.npy, got shape \(n,\)"),
        (np.ones((7, 3), np.float64), r"expected float32 as in \S+shard2\.npy, got float64"),
        (np.ones((2, 3), np.complex64), r"expected real numbers of at most 64 bits, got complex64"),
    ],
)
def test_a_shard_that_differs_is_named(tmp_path, other, why):
    with refused(rf"cannot read h from \S+shard10\.npy: {why}"):
        open_rows(saved(tmp_path / "reps", parts=[X, other, X]), "h")


def test_a_damaged_shard_is_named(tmp_path):
    folder = saved(tmp_path / "reps")
    (folder / "shard100.npy").write_bytes(b"")
    with refused(r"from \S+shard100\.npy: it is damaged, .+"):
        open_rows(folder)


@pytest.mark.parametrize("extension", FORMATS)
def test_shards_without_rows_are_passed_over(tmp_path, extension):
    """As jobs of many workers leave them."""
    folder = saved(tmp_path / "reps", extension, [X, X[:0], X])
    rows = open_rows(folder)
    assert_same(rows[:], np.concatenate([X, X]))
    assert rows.ids is None or len(rows.ids) == len(rows)
    with refused("none of its 1 files has a row"):
        open_rows(saved(tmp_path / "empty", extension, [X[:0]]))


def test_hugging_face_datasets_say_which_files_are_theirs(tmp_path):
    """Files of an earlier save and caches lie in the same folder; the order is theirs too."""
    folder = saved(tmp_path / "reps")
    state = {"_data_files": [{"filename": "shard10.npy"}, {"filename": "shard2.npy"}], "_fingerprint": "1"}
    (folder / "state.json").write_text(json.dumps(state))
    assert_same(open_rows(folder)[:], np.concatenate([PARTS[1], PARTS[0]]))
    (folder / "state.json").write_text('{"epoch": 3}')  # of something else
    assert_same(open_rows(folder)[:], WHOLE)
    (folder / "state.json").write_text('{"_data_files": ["shard2.npy"]}')
    with refused(r"from \S+reps: its state\.json does not say which files are the data"):
        open_rows(folder)


def save_order(folder: Path, order: list[int]) -> None:
    """As Hugging Face datasets saved a selection: the data as it was, and beside it the numbers of the chosen rows."""
    pa, ipc = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.ipc")
    table = pa.table({"indices": pa.array(order, pa.uint64())})
    with pa.OSFile(str(folder / "indices.arrow"), "wb") as sink, ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    names = [{"filename": f"shard{number}.parquet"} for number in (2, 10, 100)]
    state = {"_data_files": names, "_indices_data_files": [{"filename": "indices.arrow"}]}
    (folder / "state.json").write_text(json.dumps(state))


@pytest.mark.parametrize("order", [[3, 1, 20, 1, 7], list(range(4, 18)), list(range(20, -1, -1))], ids=str)
def test_a_selected_dataset_is_read_in_its_own_order(tmp_path, monkeypatch, order):
    """`select`, `filter` and `shuffle` save the rows as they were and beside them which are meant, with repeats; ids follow."""
    monkeypatch.setattr(shards, "_STEP", 3)
    folder = saved(tmp_path / "reps", ".parquet")
    save_order(folder, order)
    rows = open_rows(f"{folder}:x")
    assert rows.shape == (len(order), 3)
    assert rows.note == f"{len(order)} of 21 saved rows, in the order that its state.json names"
    assert_same(rows[:], WHOLE[order])
    assert_same(rows[1:4], WHOLE[order[1:4]])
    assert rows.ids is not None
    assert len(rows.ids) == len(order)
    assert rows.ids[1:4].tolist() == (2 * WHOLE[order[1:4], 0]).tolist()


def test_an_order_of_rows_that_are_not_there_is_refused(tmp_path):
    folder = saved(tmp_path / "reps", ".parquet")
    save_order(folder, [3, 21])
    with refused(r"from \S+reps:x: its order names row 21 of 21"):
        open_rows(f"{folder}:x")


def test_files_of_one_vector_each_are_the_rows(tmp_path):
    """One item a file, in natural order, which is said; labels and groups cut into shards stay columns."""
    for number, vector in enumerate(X):
        np.save(tmp_path / f"protein{5 * number}.npy", vector)
    rows = open_rows(tmp_path)
    assert rows.shape == X.shape
    assert rows.note == "7 files of one vector each are the rows, in natural order from protein0.npy to protein30.npy"
    assert_same(rows[:], X)
    assert_same(rows[2:5], X[2:5])
    assert_same(open_rows(tmp_path, kind="labels")[:], X.reshape(-1))
    np.save(tmp_path / "protein9.npy", X[0].astype(np.float64))
    with refused(r"from \S+protein9\.npy: expected float32 as in \S+protein0\.npy, got float64"):
        open_rows(tmp_path)
    np.save(tmp_path / "protein9.npy", X[0, :2])
    assert open_rows(tmp_path).shape == (23,)  # which no ranking takes


def test_folders_within_a_folder_are_named(tmp_path):
    for name in ("train", "test"):
        saved(tmp_path / name)
    with refused("the folder holds no file that ends in .+, but the folders test, train: name one of them"):
        open_rows(tmp_path)


def test_a_folder_that_cannot_be_listed_is_one_sentence(tmp_path, monkeypatch):
    def forbidden(path: str) -> list[str]:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    folder = saved(tmp_path / "reps")
    monkeypatch.setattr("os.listdir", forbidden)
    with refused(r"from \S+reps: Permission denied"):
        open_rows(folder)


def test_a_name_may_be_the_start_of_another(tmp_path):
    """Of names without an extension one may be the other and a number, and sorts before it."""
    for name, array in (("part2", PARTS[2]), ("part", PARTS[0]), ("part1", PARTS[1])):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", array)
    assert_same(open_rows(f"{tmp_path}/part*/x.npy")[:], WHOLE)
    with refused(r"from \S+/part: it is a directory, expected a file"):
        open_rows(f"{tmp_path}/part*")


def test_formats_do_not_mix(tmp_path):
    folder = saved(tmp_path / "reps")
    np.savez(folder / "shard3.npz", x=X)
    with refused(r"its shards differ in format: \S+shard2\.npy and \S+shard3\.npz"):
        open_rows(folder)


def test_ids_in_some_shards_only_are_refused(tmp_path):
    folder = saved(tmp_path / "reps", ".npz")
    np.savez(folder / "shard10.npz", x=X)
    with refused(r"from \S+shard10\.npz: one of \S+shard2\.npz and this shard has row ids, the other has none"):
        open_rows(folder)


def test_nothing_to_read(tmp_path):
    with refused(r"the folder holds no file that ends in \.npy, \.npz, .+"):
        open_rows(tmp_path)
    with refused(r"from \S+/shard\*\.npy: no file matches the pattern"):
        open_rows(f"{tmp_path}/shard*.npy")
    (tmp_path / "a.txt").write_text("x")
    with refused(r"from \S+/a\.txt: expected a file that ends in .+, got the extension '\.txt'"):
        open_rows(f"{tmp_path}/*")


def test_a_folder_in_a_pattern_is_no_shard(tmp_path):
    saved(tmp_path / "reps")
    with refused(r"from \S+/reps: it is a directory, expected a file"):
        open_rows(f"{tmp_path}/*")


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path):
    np.save(tmp_path / "reps[1].npy", X)
    assert_same(open_rows(tmp_path / "reps[1].npy")[:], X)


def test_a_shard_that_changes_meanwhile_is_refused(tmp_path):
    folder = saved(tmp_path / "reps")
    rows = open_rows(folder)
    rows[0:7]
    np.save(folder / "shard10.npy", X[:5])
    with refused(r"from \S+shard10\.npy: the file has changed since it was opened"):
        rows[0:21]


def test_more_shards_than_files_may_be_open(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for number in range(150):
        np.savez_compressed(tmp_path / f"{number}.npz", x=X + number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        rows = open_rows(tmp_path)
        assert rows[:][:, 0].tolist() == [3.0 * i + number for number in range(150) for i in range(7)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_reading_a_block_never_holds_the_shards(tmp_path):
    array = np.zeros((4096, 1024), np.float32)  # 16 MiB
    for number in range(3):
        np.savez_compressed(tmp_path / f"{number}.npz", x=array)
    tracemalloc.start()
    open_rows(tmp_path)[8000:8010]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < array.nbytes / 4
