"""Zarr arrays and groups of both formats: blocks of rows whatever the chunks, one sentence for what is wrong."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from saving import X, assert_same, read_or_refused, refused

from w2s_jax.files.opening import open_rows, read_groups

tensorstore = pytest.importorskip("tensorstore")

pytestmark = pytest.mark.usefixtures("unchecked")

GROUPS = {"zarr": (".zgroup", {"zarr_format": 2}), "zarr3": ("zarr.json", {"zarr_format": 3, "node_type": "group"})}


def save_array(path: Path, driver: str, array: np.ndarray, chunks: tuple[int, ...]) -> Path:
    zlib = {"compressor": {"id": "zlib", "level": 1}}
    gzip = {"codecs": [{"name": "gzip", "configuration": {"level": 1}}]}
    spec = {
        "driver": driver,
        "kvstore": {"driver": "file", "path": f"{path}/"},
        "metadata": zlib if driver == "zarr" else gzip,
        "schema": {
            "dtype": array.dtype.name,
            "domain": {"shape": list(array.shape)},
            "chunk_layout": {"chunk": {"shape": list(chunks)}},
        },
    }
    tensorstore.open(spec, create=True).result().write(array).result()
    return path


def save_group(path: Path, driver: str, **arrays: Any) -> Path:
    path.mkdir()
    name, content = GROUPS[driver]
    (path / name).write_text(json.dumps(content | {"attributes": {}}))
    for key, array in arrays.items():
        save_array(path / key, driver, np.asarray(array), (2, 2)[: np.ndim(array)])
    return path


@pytest.fixture(params=["zarr", "zarr3"])
def driver(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("chunks", [(2, 2), (7, 3), (1, 3), (100, 100)])
def test_blocks_of_rows_whatever_the_chunks(tmp_path, driver, dtype, chunks):
    array = X.astype(np.dtype(getattr(ml_dtypes, dtype, None) or dtype))
    rows = open_rows(save_array(tmp_path / "reps.zarr", driver, array, chunks))
    assert (rows.shape, rows.dtype, rows.ids) == (array.shape, array.dtype, None)
    for start, stop in ((0, 7), (2, 5), (6, 7), (0, 1)):
        assert_same(rows[start:stop], array[start:stop])


def test_an_array_of_a_group_and_its_ids(tmp_path, driver):
    path = save_group(tmp_path / "all.zarr", driver, reps=X, ids=np.arange(10, 17))
    for given in (path, f"{path}:reps", path / "reps", f"{path}/"):
        rows = open_rows(given)
        assert_same(rows[3:], X[3:])
        assert rows.ids is not None
        assert rows.ids[2:4].tolist() == [12, 13]
    assert read_groups(f"{path}:ids").tolist() == list(range(7))


def test_several_arrays_need_a_key(tmp_path, driver):
    path = save_group(tmp_path / "all.zarr", driver, a=X, b=X + 1, id=np.arange(7))
    with refused(r"it holds several arrays, name one as \S+all\.zarr:KEY, KEY one of a, b, id"):
        open_rows(path)
    with refused("it has no array 'c', only a, b, id"):
        open_rows(f"{path}:c")
    assert_same(open_rows(f"{path}:b")[:], X + 1)


def test_an_array_takes_no_key(tmp_path, driver):
    path = save_array(tmp_path / "x.zarr", driver, X, (2, 2))
    with refused("it is an array, not a group of arrays, so it takes no key, got 'y'"):
        open_rows(f"{path}:y")


def test_an_empty_group_and_a_folder_that_is_no_zarr(tmp_path, driver):
    with refused("it holds no arrays"):
        open_rows(save_group(tmp_path / "a.zarr", driver))
    (tmp_path / "b.zarr").mkdir()
    with refused("it holds no arrays"):
        open_rows(tmp_path / "b.zarr")
    (tmp_path / "c.zarr").write_bytes(b"PK")
    with refused(r"a \.zarr is a folder, got a file"):
        open_rows(tmp_path / "c.zarr")
    with refused("the file does not exist"):
        open_rows(tmp_path / "d.zarr")


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.ones((2, 3, 4), np.float32), r"expected shape \(n,\) or \(n, d\), got \(2, 3, 4\)"),
        (np.ones((0, 3), np.float32), r"expected at least one row and one column, got shape \(0, 3\)"),
        (np.ones((2, 3), np.complex64), "expected real numbers of at most 64 bits, got complex64"),
    ],
)
def test_other_arrays_are_refused(tmp_path, driver, array, why):
    with refused(why):
        open_rows(save_array(tmp_path / "x.zarr", driver, array, (2,) * array.ndim))


def test_text_ids_which_tensorstore_does_not_read_are_one_sentence(tmp_path):
    path = save_group(tmp_path / "x.zarr", "zarr", reps=X, id=np.arange(7))
    metadata = json.loads((path / "id/.zarray").read_text())
    (path / "id/.zarray").write_text(json.dumps(metadata | {"dtype": "<U5"}))
    with refused(r"cannot read row ids of array from \S+: TensorStore cannot open the array 'id' \(.+\); its .+"):
        open_rows(path)


def test_files_cut_at_any_length_are_read_or_refused(tmp_path, driver):
    """A chunk that is missing or empty is no damage in Zarr: it stands for the fill value in some columns of a row."""
    path = save_group(tmp_path / "x.zarr", driver, reps=X, id=np.arange(7))
    for part in [part for part in path.rglob("*") if part.is_file()]:
        whole = part.read_bytes()
        for length in range(0, len(whole), 9):
            part.write_bytes(whole[:length])
            read_or_refused(path)
        part.write_bytes(whole)
    assert_same(read_or_refused(path), X)


def test_rows_that_were_never_written_are_refused(tmp_path, driver):
    path = save_array(tmp_path / "x.zarr", driver, X + 1, (2, 3))
    rows = open_rows(path, "h")
    (path / ("1.0" if driver == "zarr" else "c/1/0")).unlink()
    assert_same(rows[4:7], X[4:7] + 1)
    with refused(r"cannot read h from \S+: row 2 is in no chunk of the array 'x\.zarr': it was never written, or .+"):
        rows[0:7]


def test_rows_and_labels_of_zeros_are_read(tmp_path, driver):
    """A chunk of zeros that is there is data; of labels, of which many are zero, it may be left out."""
    path = save_array(tmp_path / "x.zarr", driver, np.where(np.arange(7)[:, None] == 4, 0, X + 1), (2, 3))
    assert open_rows(path)[4:5].tolist() == [[0, 0, 0]]
    path = save_array(tmp_path / "y.zarr", driver, np.zeros(7, np.float32), (2,))
    assert open_rows(path)[:].tolist() == [0] * 7


def test_a_damaged_chunk_is_refused_on_reading(tmp_path, driver):
    path = save_array(tmp_path / "x.zarr", driver, X, (7, 3))
    chunk = path / ("0.0" if driver == "zarr" else "c/0/0")
    chunk.write_bytes(chunk.read_bytes()[:-9])
    rows = open_rows(path, "weak representations")
    with refused(r"cannot read weak representations from \S+: it is damaged, truncated or not a \.zarr file \(.+\)"):
        rows[0:1]


def test_tensorstore_missing(tmp_path, monkeypatch):
    path = save_array(tmp_path / "x.zarr", "zarr", X, (2, 2))
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with refused(r"reading \.zarr files needs the tensorstore package: pip install 'w2s_jax\[zarr\]'"):
        open_rows(path)
    shutil.move(path, tmp_path / "plain")
    with refused(r"reading \.zarr files needs the tensorstore package: pip install 'w2s_jax\[zarr\]'"):
        open_rows(tmp_path / "plain")
