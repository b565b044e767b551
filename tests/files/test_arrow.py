"""Parquet and Arrow files: one column of lists, numbers or text, read batch by batch from any row."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saving import X, assert_same, read_or_refused, refused

from w2s_jax.files.opening import open_rows, read_groups, read_labels

pa = pytest.importorskip("pyarrow")
feather = pytest.importorskip("pyarrow.feather")
parquet = pytest.importorskip("pyarrow.parquet")

pytestmark = pytest.mark.usefixtures("unchecked")


def write_ipc(path: Path, table: Any, new: Callable, rows: int = 3) -> None:
    with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)


FORMATS: dict[str, tuple[str, Callable]] = {
    "parquet": (".parquet", lambda path, table: parquet.write_table(table, path, row_group_size=3)),
    "file": (".arrow", lambda path, table: write_ipc(path, table, pa.ipc.new_file)),
    "stream": (".arrow", lambda path, table: write_ipc(path, table, pa.ipc.new_stream)),
    "feather": (".feather", lambda path, table: feather.write_feather(table, str(path), "lz4", chunksize=3)),
}


def saved(tmp_path: Path, form: str, **columns: Any) -> Path:
    extension, write = FORMATS[form]
    path = tmp_path / f"reps{extension}"
    write(path, pa.table(columns))
    return path


def fixed(array: np.ndarray) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1])


def lists(array: np.ndarray, kind: Callable = pa.list_) -> Any:
    return pa.array(array.tolist(), kind(pa.from_numpy_dtype(array.dtype)))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", ["i1", "u2", "i8", "f2", "f4", "f8"])
def test_fixed_size_lists_are_rows(tmp_path, form, dtype):
    array = X.astype(dtype)
    rows = open_rows(saved(tmp_path, form, reps=fixed(array)))
    assert (rows.shape, rows.dtype) == (array.shape, array.dtype)
    for start, stop in ((0, 7), (2, 5), (6, 7), (0, 1), (3, 6), (1, 7)):  # forwards, backwards, across row groups
        assert_same(rows[start:stop], array[start:stop])


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
def test_lists_of_equal_length_are_rows(tmp_path, form, kind):
    assert_same(open_rows(saved(tmp_path, form, reps=lists(X, kind)))[1:6], X[1:6])


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", ["?", "i4", "f8"])
def test_a_column_of_numbers_is_labels(tmp_path, form, dtype):
    array = (np.arange(7) % 2).astype(dtype)
    assert_same(read_labels(saved(tmp_path, form, y=pa.array(array))), array)


@pytest.mark.parametrize("form", FORMATS)
def test_text_is_groups_also_as_a_dictionary(tmp_path, form):
    words = pa.array(["land", "wäter", "air", "land", "air", "land", "air"])
    codes = [1, 2, 0, 1, 0, 1, 0]
    assert read_groups(saved(tmp_path, form, group=words)).tolist() == codes
    assert read_groups(saved(tmp_path, form, group=words.dictionary_encode())).tolist() == codes


@pytest.mark.parametrize("form", ["file", "stream"])
def test_text_as_polars_writes_it(tmp_path, form):
    words = pa.array(list("badcab")).cast(pa.string_view())
    assert read_groups(saved(tmp_path, form, group=words)).tolist() == [1, 0, 3, 2, 0, 1]


@pytest.mark.parametrize("form", FORMATS)
def test_rows_and_ids_are_read_in_turn(tmp_path, form):
    """Each has a place of its own in the file."""
    rows = open_rows(saved(tmp_path, form, reps=fixed(X), id=pa.array(range(7))))
    assert rows.ids is not None
    for start in range(6):
        assert_same(rows[start : start + 2], X[start : start + 2])
        assert rows.ids[start : start + 2].tolist() == [start, start + 1]


@pytest.mark.parametrize("form", FORMATS)
def test_many_columns_of_numbers_are_no_representation(tmp_path, form):
    with refused("a representation is one column with a list in every row, got 12 columns of single values"):
        open_rows(saved(tmp_path, form, **{f"f{i}": pa.array(X[:, 0]) for i in range(12)}))


@pytest.mark.parametrize("form", FORMATS)
def test_fixed_shape_tensors_are_rows(tmp_path, form):
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(X)
    assert_same(open_rows(saved(tmp_path, form, reps=column))[:], X)


@pytest.mark.parametrize("form", FORMATS)
def test_the_only_column_of_lists_is_the_default_and_a_key_picks_another(tmp_path, form):
    path = saved(tmp_path, form, y=pa.array(np.arange(7.0)), more=lists(X + 1), reps=fixed(X), id=pa.array(range(7)))
    assert_same(open_rows(path)[:], X)
    assert_same(open_rows(f"{path}:more")[2:], X[2:] + 1)
    assert_same(open_rows(f"{path}:y")[:], np.arange(7.0))
    with refused("it has no array 'z', only id, more, reps, y"):
        open_rows(f"{path}:z")


@pytest.mark.parametrize("form", FORMATS)
def test_several_columns_of_lists_need_a_key(tmp_path, form):
    with refused(r"it holds several arrays, name one as \S+:KEY, KEY one of a, b"):
        open_rows(saved(tmp_path, form, a=fixed(X), b=fixed(X)))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("ids", [list(range(7)), list("abcdefg")])
def test_a_column_of_ids(tmp_path, form, ids):
    rows = open_rows(saved(tmp_path, form, reps=fixed(X), ids=pa.array(ids)))
    assert rows.ids is not None
    assert rows.ids[2:6].tolist() == ids[2:6]
    assert open_rows(tmp_path / f"reps{FORMATS[form][0]}:ids", kind="groups").ids is None


@pytest.mark.parametrize("form", FORMATS)
def test_lists_of_another_length_are_refused_by_row(tmp_path, form):
    rows = open_rows(saved(tmp_path, form, reps=pa.array([[1.0, 2.0]] * 5 + [[1.0]] + [[1.0, 2.0]])))
    for _ in range(2):  # the failed read left no position behind
        with refused(r"cannot read array from \S+: expected 2 numbers in every row, got 1 in row 5"):
            rows[:]
    if form != "parquet":
        assert rows[0:3].tolist() == [[1, 2]] * 3  # as far as whole batches are good


@pytest.mark.parametrize("form", FORMATS)
def test_floating_nulls_are_nan(tmp_path, form):
    """As pandas writes NaN, which marks unlabelled rows."""
    y = [1.0, 2, 3, 4, None, 6, 7]
    assert_same(read_labels(saved(tmp_path, form, y=pa.array(y))), np.array(y, float))
    outputs = [[1.0, value] for value in y]
    assert_same(read_labels(saved(tmp_path, form, y=pa.array(outputs))), np.array(outputs, float))


@pytest.mark.parametrize("form", FORMATS)
def test_other_nulls_are_refused_by_row(tmp_path, form):
    remedy = ": where that means unlabelled, use NaN in a column of floating numbers"
    with refused(f"row 4 is null{remedy}"):
        open_rows(saved(tmp_path, form, y=pa.array([1, 2, 3, 4, None, 6, 7])))[:]
    with refused("row 1 is null"):
        read_groups(saved(tmp_path, form, y=pa.array(["a", None])))
    with refused("row 0 is null"):
        open_rows(saved(tmp_path, form, reps=pa.array([None, None], pa.list_(pa.float32()))))
    with refused(
        rf"row 5 is null{remedy}|it is damaged, .+ \(Expected all lists to be of size=1 .+\)"
    ):  # so says pyarrow 18
        open_rows(saved(tmp_path, form, reps=pa.array([[1.0]] * 5 + [None], pa.list_(pa.float32(), 1))))[:]
    with refused(f"row 4 contains a null{remedy}"):
        open_rows(saved(tmp_path, form, reps=pa.array([[1]] * 4 + [[None]], pa.list_(pa.int32()))))[:]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("column", "came"),
    [
        (pa.array(["a"] * 7), "str"),
        (pa.array([["a"]] * 7), r"the Arrow type list<.+>"),
        (pa.array([[[1.0]]] * 7), r"the Arrow type list<.+>"),
        (pa.array([{"a": 1}] * 7), r"the Arrow type struct<.+>"),
        (pa.array([0] * 7, pa.timestamp("s")), r"the Arrow type timestamp\[.+\]"),
        (pa.array([None] * 7), "the Arrow type null"),
    ],
)
def test_other_types_are_refused(tmp_path, form, column, came):
    with refused(f"expected real numbers of at most 64 bits, got {came}"):
        open_rows(saved(tmp_path, form, x=column))


@pytest.mark.parametrize("form", FORMATS)
def test_columns_without_rows_are_refused(tmp_path, form):
    for column in (pa.array([], pa.float32()), pa.array([], pa.list_(pa.float32())), pa.array([[]] * 3)):
        with refused(r"expected (at least one row and one column, got shape .+|real numbers of .+)"):
            open_rows(saved(tmp_path, form, x=column))
    with refused("it holds no arrays"):
        open_rows(saved(tmp_path, form))


@pytest.mark.parametrize("form", ["file", "stream"])
def test_two_columns_of_one_name_are_refused(tmp_path, form):
    extension, write = FORMATS[form]
    path = tmp_path / f"reps{extension}"
    write(path, pa.Table.from_arrays([fixed(X), fixed(X)], names=["a", "a"]))
    with refused("two of its columns have the same name"):
        open_rows(path)


@pytest.mark.parametrize("form", FORMATS)
def test_files_cut_at_any_length_are_refused(tmp_path, form):
    path = saved(tmp_path, form, reps=fixed(X), id=pa.array(list("abcdefg")))
    whole = path.read_bytes()
    for length in range(0, len(whole), 13):
        path.write_bytes(whole[:length])
        with refused(r"it is damaged, truncated or not a \.\w+ file \(.+\)"):
            open_rows(path)


@pytest.mark.parametrize("module", ["pyarrow", "pyarrow.parquet"])
def test_pyarrow_missing(tmp_path, monkeypatch, module):
    path = saved(tmp_path, "parquet" if module == "pyarrow.parquet" else "file", reps=fixed(X))
    monkeypatch.setitem(sys.modules, module, None)
    needs = r"reading \.(parquet|arrow) files needs the pyarrow package: pip install 'w2s_jax\[arrow\]'"
    with refused(needs):
        open_rows(path)


DAMAGE = """
import sys
sys.path[:0] = [sys.argv[2]]
import numpy as np
from saving import read_or_refused
from pathlib import Path
path = Path(sys.argv[1])
whole, rng = path.read_bytes(), np.random.default_rng(0)
for place in rng.integers(0, len(whole), 400):
    path.write_bytes(whole[:place] + bytes([int(rng.integers(256))]) + whole[place + 1 :])
    read_or_refused(path)
print("done")
"""


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("form", FORMATS)
def test_files_with_any_byte_changed_are_read_or_refused(tmp_path, form):
    """In a process of its own, as a fault in the library's native code would end it."""
    path = saved(tmp_path, form, reps=lists(X), id=pa.array(list("abcdefg")))
    command = [sys.executable, "-c", DAMAGE, str(path), str(Path(__file__).parents[1])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "done\n", done.stderr[-2000:]


@pytest.mark.parametrize("form", ["parquet", "file", "stream", "feather"])
def test_reading_blocks_never_holds_the_file(tmp_path, form):
    """64 MiB in one row group, one batch, or compressed batches of 4 MiB; Arrow's own memory is counted, not its maps."""
    array = np.zeros((65536, 256), np.float32)
    array[:, 0] = np.arange(len(array))
    path, table = tmp_path / f"reps{FORMATS[form][0]}", pa.table({"reps": fixed(array)})
    if form == "parquet":
        parquet.write_table(table, path, row_group_size=len(array), compression="none", use_dictionary=False)
    elif form == "feather":
        feather.write_feather(table, str(path), "lz4", chunksize=4096)
    else:
        write_ipc(path, table, pa.ipc.new_file if form == "file" else pa.ipc.new_stream, len(array))
    pool, before = pa.system_memory_pool(), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        start = pool.bytes_allocated()
        rows, largest = open_rows(path), 0
        for first in range(0, len(array), 2048):
            assert rows[first : first + 2048][:, 0].tolist() == array[first : first + 2048, 0].tolist()
            largest = max(largest, pool.bytes_allocated() - start)
        assert largest < array.nbytes / 3
    finally:
        pa.set_memory_pool(before)


def test_a_changed_byte_in_the_middle_is_what_read_or_refused_would_notice(tmp_path):
    path = saved(tmp_path, "file", reps=fixed(X))
    assert_same(read_or_refused(path), X)
    path.write_bytes(b"")
    assert read_or_refused(path) is None
