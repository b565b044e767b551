"""Paths as users give them: a file, a folder or a glob pattern of shards, and behind a colon the array in it."""

from __future__ import annotations

import glob
import os
import re

EXTENSIONS = (".npy", ".npz", ".safetensors", ".pt", ".pth", ".parquet", ".arrow", ".feather", ".zarr")
_FILE_AND_KEY = re.compile(f"(.+?(?:{'|'.join(map(re.escape, EXTENSIONS))})/?):(.+)", re.IGNORECASE | re.DOTALL)


def is_pattern(path: str) -> bool:
    """Whether a path is a glob pattern, and not a file whose name looks like one."""
    return glob.has_magic(path) and not os.path.exists(path)


def split_key(path: str) -> tuple[str, str | None]:
    """File, folder or pattern, and the key behind it; what exists as it stands has none."""
    if os.path.exists(path):
        return path, None
    found = _FILE_AND_KEY.fullmatch(path)
    if found is not None:
        return found.group(1), found.group(2)
    for colon in (i for i, letter in enumerate(path) if letter == ":"):
        file, key = path[:colon], path[colon + 1 :]
        if key and (os.path.isdir(file) or (is_pattern(file) and glob.glob(file, recursive=True))):
            return file, key
    return path, None


def matching(path: str) -> list[str]:
    """What a path stands for: itself, or of a pattern the files that match, each with the pattern's key; sorted."""
    file, key = split_key(path)
    if not is_pattern(file):
        return [path]
    return [found if key is None else f"{found}:{key}" for found in sorted(glob.glob(file, recursive=True))]


def short_name(path: str) -> str:
    """The file's name without a known extension, and the key."""
    file, key = split_key(path)
    name = os.path.basename(os.path.abspath(file))
    stem, extension = os.path.splitext(name)
    name = stem if extension.lower() in EXTENSIONS else name
    return name if key is None else f"{name}:{key}"
