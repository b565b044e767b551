"""Files written whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from w2s_jax._core.checks import InputError, reason


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which becomes `path` on success and is removed on failure.

    Raises:
        InputError: the folder is missing, or nothing can be written there.
    """
    target = Path(os.path.realpath(path))  # a link stays a link to the file that is replaced
    if os.path.exists(target) and not os.path.isfile(target):
        raise InputError(f"cannot write {os.fspath(path)}: it exists and is not a regular file")
    temporary = target.with_name(f".{uuid.uuid4().hex}{target.suffix}")
    try:
        temporary.open("xb").close()  # before any work is done for a file that cannot be written
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield temporary
        try:
            temporary.replace(target)
        except OSError as error:
            raise _cannot_write(path, error) from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_bytes_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Writes a whole file or, on any failure, leaves what was there.

    Raises:
        InputError: the file cannot be written.
    """
    with replacing(path) as temporary:
        try:
            temporary.write_bytes(data)
        except OSError as error:
            raise _cannot_write(path, error) from error


def write_text_atomically(path: str | os.PathLike, text: str) -> None:
    """`write_bytes_atomically` of the text in UTF-8."""
    write_bytes_atomically(path, text.encode())


def _cannot_write(path: str | os.PathLike, error: OSError) -> InputError:
    folder = Path(path).parent
    why = reason(error) if folder.is_dir() else f"there is no folder {folder}"
    return InputError(f"cannot write {os.fspath(path)}: {why}")
