"""Columns of text files and of Parquet as labels, groups and ids: numbers, classes, and what is neither."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from saving import refused

from w2s_jax.files.opening import open_rows, read_groups, read_labels, read_labels_and_classes
from w2s_jax.files.paths import short_name

pytestmark = pytest.mark.usefixtures("unchecked")

COLUMNS = {
    "text": ["a, b", 'say "x"', "two\nlines", ""],
    "label": ["cat", "dog", "", "cat"],
    "score": ["1", "-2.5", "", "1e3"],
    "count": ["3", "0", "7", "-1"],
    "code": ["007", "7", "1", "2"],
    "id": ["10", "11", "12", "13"],
}


def saved(folder: Path, extension: str, columns: dict[str, list[str]] = COLUMNS) -> Path:
    path = folder / f"meta{extension}"
    rows = list(zip(*columns.values(), strict=True))
    if extension == ".jsonl":
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
    else:
        quote = lambda cell: '"' + cell.replace('"', '""') + '"'
        join = ("\t" if extension == ".tsv" else ",").join
        lines = [join(columns), *(join(map(quote, row)) for row in rows)]
    path.write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize("extension", [".csv", ".tsv", ".jsonl"])
def test_columns_are_numbers_or_classes(tmp_path, extension):
    """What is empty is unlabelled; text is one-hot, in alphabetical order; a byte-order mark is no part of the first name."""
    path = saved(tmp_path, extension)
    np.testing.assert_array_equal(read_labels(f"{path}:score"), [1, -2.5, np.nan, 1000])
    assert read_labels(f"{path}:count").dtype == np.int64
    labels, classes = read_labels_and_classes(f"{path}:label")
    assert classes == ("cat", "dog")
    np.testing.assert_array_equal(labels, [[1, 0], [0, 1], [np.nan] * 2, [1, 0]])
    assert read_labels_and_classes(f"{path}:count")[1] == ()
    rows = open_rows(f"{path}:score")
    assert rows.ids is not None
    assert rows.ids[:].tolist() == [10, 11, 12, 13]
    assert read_groups(f"{path}:code").tolist() == [0, 3, 1, 2]
    assert read_groups(f"{path}:text").tolist() == [1, 2, 3, 0]
    with refused(r"it has no array 'class', only code, count, id, label, score, text"):
        read_labels(f"{path}:class")
    with refused(r"it holds several arrays, name one as \S+:KEY, .+"):
        read_labels(path)


def test_values_of_json_are_what_they_are(tmp_path):
    path = tmp_path / "y.jsonl"
    lines = [{"y": 1, "hot": [0, 1.5], "yes": True, "none": None}, {"y": None, "hot": [1, 0], "yes": False, "none": 2}]
    path.write_text("\n\n".join(map(json.dumps, lines)))
    np.testing.assert_array_equal(read_labels(f"{path}:y"), [1, np.nan])
    np.testing.assert_array_equal(read_labels(f"{path}:hot"), [[0, 1.5], [1, 0]])
    assert read_labels(f"{path}:yes").tolist() == [True, False]
    path.write_text('{"hot": [1, 2]}\n{"hot": [1]}\n')
    with refused(r"expected 2 numbers in row 1 of 'hot'"):
        read_labels(path)
    path.write_text("[1, 2]\n")
    with refused("expected an object in line 1, got list"):
        read_labels(path)


def test_pandas_index_has_no_name_and_is_no_label(tmp_path):
    (tmp_path / "y.csv").write_text(",y\n0,0.5\n1,0.25\n")
    assert read_labels(tmp_path / "y.csv").tolist() == [0.5, 0.25]


def test_labels_come_from_the_compressed_file_that_texts_came_from(tmp_path):
    """Also by the name of a column, and by a name without both extensions."""
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"text,label\nso good,1\nso bad,0\n"))
    assert read_labels(f"{tmp_path}/t.csv.gz:label").tolist() == [1, 0]
    assert short_name(f"{tmp_path}/t.csv.gz:label") == "t:label"
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"y\n1\n2\n")[:-6])
    with refused("cannot read labels from .+: it is damaged, truncated .+"):
        read_labels(f"{tmp_path}/cut.csv.gz")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0.5\n1\n", "expected the names of the columns in its first line, got numbers"),
        ("y,y\n1,2\n", "two of its columns have the same name"),
        ("y,z\n1,2\n3\n", "expected 2 cells in line 3, got 1"),
        ("y\n1\n2\nn/a\n4\n", "expected a number in row 2 of 'y', got 'n/a'"),
        ("y\n", r"expected at least one row and one column, got shape \(0,\)"),
        ("", "it holds no arrays"),
        ('y\n"1\n', r"it is damaged, truncated or not a \.csv file .+"),
    ],
)
def test_tables_that_are_none_are_refused(tmp_path, text, why):
    (tmp_path / "y.csv").write_text(text)
    with refused(f"cannot read labels from .+: {why}"):
        read_labels(f"{tmp_path}/y.csv" if "z" not in text else f"{tmp_path}/y.csv:y")


def test_texts_are_no_classes(tmp_path):
    path = saved(tmp_path, ".csv", {"text": [f"text {i}" for i in range(30)], "topic": ["a"] * 15 + ["b"] * 15})
    with refused(r"labels \(\S+\) must be numbers or classes, got 30 different texts in 30 rows"):
        read_labels(f"{path}:text")
    with refused("expected real numbers of at most 64 bits, got .+"):
        open_rows(f"{path}:topic")


def test_a_mark_for_no_label_is_nan(tmp_path):
    """Numbers, rows of numbers and text."""
    np.save(tmp_path / "y.npy", [0, 1, -100])
    np.testing.assert_array_equal(read_labels(tmp_path / "y.npy", unlabelled=-100), [0, 1, np.nan])
    np.save(tmp_path / "y.npy", [[0, 1], [-1, -1], [-1, 0]])
    np.testing.assert_array_equal(read_labels(tmp_path / "y.npy", unlabelled=-1), [[0, 1], [np.nan] * 2, [-1, 0]])
    path = saved(tmp_path, ".csv", {"y": ["a", "none", "b", "-1"]})
    labels, classes = read_labels_and_classes(path, unlabelled="none")
    assert classes == ("-1", "a", "b")
    assert np.isnan(labels).all(1).tolist() == [False, True, False, False]
    assert read_labels_and_classes(path, unlabelled=-1)[1] == ("a", "b", "none")


def test_text_of_parquet_is_classes(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"text": ["x", "y", "z"], "label": ["dog", "cat", "dog"], "n": [1.0, None, 3.0]})
    parquet.write_table(table, tmp_path / "y.parquet")
    labels, classes = read_labels_and_classes(f"{tmp_path}/y.parquet:label")
    assert (labels.tolist(), classes) == ([[0, 1], [1, 0], [0, 1]], ("cat", "dog"))
    np.testing.assert_array_equal(read_labels(f"{tmp_path}/y.parquet:n"), [1, np.nan, 3])
