"""Texts are read from every format with their ids, a change shows in the checksum, bad files are one sentence."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest
from saving import refused

from w2s_jax.extract import open_texts, texts_of

pytestmark = pytest.mark.usefixtures("unchecked")

TEXTS = ["plain", 'with "quotes", commas', "wäter\u2028line", "", "two\twords"]
IDS = ["r7", "r9", "", "a", "b"]


def table(delimiter: str) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter).writerows(zip(["id", *IDS], ["text", *TEXTS], ["y", *IDS], strict=True))
    return stream.getvalue().encode()


def json_lines() -> bytes:
    rows = ({"y": 1, "text": text, "id": name} for text, name in zip(TEXTS, IDS, strict=True))
    return "\n\n".join(map(json.dumps, rows)).encode()


def arrow_table():
    pa = pytest.importorskip("pyarrow")
    return pa.table({"y": range(5), "text": TEXTS, "id": IDS})


def save_dataset(folder: Path) -> None:
    """As Hugging Face's save_to_disk does."""
    pa = pytest.importorskip("pyarrow")
    folder.mkdir()
    for part in (0, 1):
        rows = arrow_table().slice(3 * part, 3)
        with pa.OSFile(f"{folder}/data-{part}.arrow", "wb") as sink, pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
    files = [{"filename": f"data-{part}.arrow"} for part in (0, 1)]
    (folder / "state.json").write_text(json.dumps({"_data_files": files}))


def save(path: Path) -> Path:
    kinds = {".csv": lambda: table(","), ".tsv": lambda: table("\t"), ".jsonl": json_lines}
    kinds[".txt"] = lambda: "\r\n".join([*TEXTS, ""]).encode()
    if path.suffix == ".parquet":
        pytest.importorskip("pyarrow.parquet").write_table(arrow_table(), path)
    elif path.suffix == "":
        save_dataset(path)
    else:
        data = kinds[path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix]()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else b"\xef\xbb\xbf" + data)
    return path


@pytest.mark.parametrize(
    "name", ["a.txt", "a.txt.gz", "a.csv", "a.csv.gz", "a.tsv", "a.jsonl", "a.jsonl.gz", "a.parquet", "dataset"]
)
def test_what_was_written_is_read(tmp_path, name):
    texts = open_texts(save(tmp_path / name))
    assert len(texts) == 5
    for start in (0, 3):
        ids, found = zip(*texts.blocks(2, start), strict=True)
        assert [text for block in found for text in block] == TEXTS[start:]
        expected = list(range(5)) if "txt" in name else IDS
        assert np.concatenate(ids).tolist() == expected[start:]


def test_a_column_by_either_name(tmp_path):
    path = save(tmp_path / "a.csv")
    assert next(open_texts(f"{path}:y").blocks(9))[1] == next(open_texts(path, "y").blocks(9))[1] == IDS


def test_ids_are_integers_where_all_are():
    assert texts_of(["a", "b"], ids=["7", "-12"]).integer_ids
    assert next(texts_of(["a", "b"], ids=["7", "-12"]).blocks(2))[0].dtype == np.int64
    for ids in (["7", "007"], ["7", "7.0"], [7, "x"], ["9" * 19, "1"]):
        assert not texts_of(["a", "b"], ids=ids).integer_ids


def test_any_change_shows_in_the_checksum():
    cases = (["a", "b"], ["a", "c"], ["ab", ""], ["a", "b", ""], ["b", "a"])
    found = {texts_of(texts).checksum for texts in cases} | {texts_of(["a", "b"], ids=[1, 2]).checksum}
    assert len(found) == 6
    assert texts_of(["a", "b"]).checksum in found


def test_bad_files_are_one_sentence(tmp_path):
    def written(name: str, text: str | bytes) -> Path:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path / name

    faults = {
        "the file does not exist": (tmp_path / "none.csv", None),
        r"expected .txt, .csv, .+": (written("a.doc", "x"), None),
        "a .txt file has a text a line and no columns": (written("a.txt", "x"), "text"),
        r"texts from \S+empty.txt: it holds none": (written("empty.txt", ""), None),
        "it has no column 'text', only id, body": (written("a.csv", "id,body\n1,x\n"), None),
        "expected 2 cells in line 3, got 1": (written("b.csv", "id,text\n1,x\n2\n"), None),
        r"it is damaged, .+utf-8.+": (written("c.csv", b"text\n\xff\n"), None),
        "row 0 must be text, got 3": (written("a.jsonl", '{"text": 3}'), None),
        "expected an object in line 1, got list": (written("b.jsonl", "[1]"), None),
        r"it is damaged, truncated or not a .jsonl file .+": (written("c.jsonl", "{"), None),
        "the id of row 0 must be an integer or text, got 1.5": (written("d.jsonl", '{"text": "a", "id": 1.5}'), None),
        "row 0 is no valid Unicode": (written("e.jsonl", '{"text": "\\ud800"}'), None),
        r"it is damaged, .+": (written("a.csv.gz", b"text\nx"), None),
        "got 'a' in the path and 'b'": (f"{written('e.csv', 'a,b')}:a", "b"),
    }
    for sentence, (path, column) in faults.items():
        with refused(sentence):
            open_texts(path, column)
    with refused("rows 0 and 2 have the same id 'r7'"):
        open_texts(written("f.csv", "id,text\nr7,a\nr9,b\nr7,c\nr9,d\n"))
    with refused("cannot read texts from texts: rows 1 and 2 have the same id '3'"):
        texts_of(["a", "b", "c"], ids=[1, 3, "3"])
    with refused("texts must be a sequence of at least one text, got 'one'"):
        texts_of("one")
    with refused("texts must have as many ids, got 2 texts and 1 ids"):
        texts_of(["a", "b"], ids=[1])
