"""Files are written whole or not at all, under their own name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from saving import refused

from w2s_jax._core.writing import replacing, write_bytes_atomically, write_text_atomically


def listing(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


pytestmark = pytest.mark.usefixtures("unchecked")


def test_text_and_bytes_are_written_whole(tmp_path):
    write_text_atomically(tmp_path / "a.json", "wäter\n")
    write_bytes_atomically(tmp_path / "b.bin", b"\r\n\0")
    assert (tmp_path / "a.json").read_bytes() == "wäter\n".encode()
    assert (tmp_path / "b.bin").read_bytes() == b"\r\n\0"
    assert listing(tmp_path) == ["a.json", "b.bin"]


def test_the_temporary_file_is_beside_the_target_with_its_suffix(tmp_path):
    target = tmp_path / "figure.png"
    with replacing(target) as temporary:
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".png")
        temporary.write_bytes(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("before", [[], ["out.npz"]])
def test_a_failing_writer_leaves_what_was_there(tmp_path, before):
    for name in before:
        (tmp_path / name).write_text("old")

    def fail() -> None:
        with replacing(tmp_path / "out.npz") as temporary:
            temporary.write_text("half of the new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert listing(tmp_path) == before
    assert all((tmp_path / name).read_text() == "old" for name in before)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with refused(r"cannot write \S+out\.txt: No space left on device"):
        write_text_atomically(tmp_path / "out.txt", "text")
    assert listing(tmp_path) == []


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    write_text_atomically(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_the_written_file_has_ordinary_permissions(tmp_path):
    write_text_atomically(tmp_path / "ours.txt", "text")
    (tmp_path / "plain.txt").write_text("text")
    assert (tmp_path / "ours.txt").stat().st_mode == (tmp_path / "plain.txt").stat().st_mode


@pytest.mark.parametrize("folder", ["gone", "file.txt"])
def test_writing_into_no_folder(tmp_path, folder):
    (tmp_path / "file.txt").write_text("a file is no folder")
    with refused(rf"cannot write \S+{folder}/out\.txt: there is no folder \S+{folder}"):
        write_text_atomically(tmp_path / folder / "out.txt", "text")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_target_that_is_no_file_is_never_replaced(tmp_path, make):
    make(tmp_path / "out.txt")
    with refused(r"cannot write \S+: it exists and is not a regular file"):
        write_text_atomically(tmp_path / "out.txt", "text")


def test_a_target_that_cannot_be_created(tmp_path):
    with refused(r"cannot write \S+: .*[Tt]oo long"):
        write_text_atomically(tmp_path / ("x." + "y" * 250), "text")


def test_a_target_that_turns_into_a_folder_meanwhile(tmp_path):
    def write() -> None:
        with replacing(tmp_path / "out.txt"):
            (tmp_path / "out.txt").mkdir()

    with refused(r"cannot write \S+out\.txt: .+"):
        write()
    assert listing(tmp_path) == ["out.txt"]
