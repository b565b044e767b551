"""Where representations go: a folder of .safetensors shards that appears when all of them are there, or memory.

Until then the shards lie in `.NAME.unfinished` beside it, with an `extraction.json` that has each one's checksum and says
what they were computed from. What is found there is used again, if it was computed from the same and is undamaged. A run that
fails before its first shard leaves nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from w2s_jax._core.checks import InputError, reason, require_finite
from w2s_jax._core.extras import needed
from w2s_jax._core.writing import write_bytes_atomically, write_text_atomically
from w2s_jax.files.opening import open_rows

MANIFEST = "extraction.json"
_LAYOUT = 1


class ShardFolder:
    """The shards of one extraction: those that are `kept` already, as `extraction.json` describes them, and further ones.

    `settings` decide what the shards hold: what was written with others is not gone on with. `about` is said beside them. As a
    context it removes at its end the folders that it made for nothing.
    """

    def __init__(self, folder: str | os.PathLike, settings: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        needed("safetensors", "writing representations", "extract")
        self.folder = Path(folder)
        self.settings = json.loads(json.dumps(settings))  # as they will be read again
        self.about = {**about, "layout": _LAYOUT}
        self._unfinished = self.folder.with_name(f".{self.folder.name}.unfinished")
        self.finished = (self.folder / MANIFEST).is_file()
        if self.folder.exists() and not self.finished:
            raise InputError(f"cannot write {self.folder}: it exists and is no folder of extracted representations")
        self._made = [folder for folder in (self._unfinished, *self._unfinished.parents) if not folder.exists()]
        if not self.finished:
            try:
                self._unfinished.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"cannot write {self.folder}: {reason(error)}") from error
        self.kept = self._found()

    def __enter__(self) -> ShardFolder:
        return self

    def __exit__(self, *failure: object) -> None:
        if not self.kept:
            with suppress(OSError):  # one that is not empty stays, and so do those around it
                for folder in self._made:
                    folder.rmdir()

    @property
    def rows(self) -> int:
        """How many are kept."""
        return sum(shard["rows"] for shard in self.kept)

    def keep(self, arrays: Mapping[str, np.ndarray], ids: np.ndarray, **facts: Any) -> None:
        """Writes one more shard: arrays (n, d) by name, and the ids of their rows."""
        from safetensors.numpy import save

        for name, array in arrays.items():
            require_finite(f"{name} of {self.folder.name}", array, self.rows)
        text = ids.dtype.kind == "U"
        stored = np.char.encode(ids, "utf-8") if text else ids.astype(np.int64)
        if text:
            stored = stored.view(np.uint8).reshape(len(ids), -1)
        metadata = {"id": "utf-8"} if text else None
        data = save({**{name: np.ascontiguousarray(x) for name, x in arrays.items()}, "id": stored}, metadata)
        file = f"{len(self.kept):05d}.safetensors"
        write_bytes_atomically(self._unfinished / file, data)
        record = {"file": file, "rows": len(ids), "sha256": hashlib.sha256(data).hexdigest(), **facts}
        self.kept.append({**record, "widths": {name: x.shape[1] for name, x in arrays.items()}})
        self._write()

    def finish(self) -> None:
        """Gives the folder its name, once: from here on it can be read."""
        if self.finished:
            return
        self._write()
        for path in self._unfinished.iterdir():  # what a killed run has left
            if path.name not in {MANIFEST, *(shard["file"] for shard in self.kept)}:
                path.unlink()
        try:
            self._unfinished.rename(self.folder)
        except OSError as error:
            raise InputError(f"cannot write {self.folder}: {reason(error)}") from error
        self.finished = True

    def read(self) -> dict[str, Any]:
        """The arrays of the finished folder, opened."""
        return {name: open_rows(f"{self.folder}:{name}", name) for name in self.kept[0]["widths"]}

    def _write(self) -> None:
        manifest = {"about": self.about, "settings": self.settings, "shards": self.kept}
        write_text_atomically(self._unfinished / MANIFEST, json.dumps(manifest, indent=2) + "\n")

    def _found(self) -> list[dict[str, Any]]:
        """The shards that are there, up to the first that is missing or damaged."""
        folder = self.folder if self.finished else self._unfinished
        try:
            manifest = json.loads((folder / MANIFEST).read_bytes())
            settings, shards = manifest["settings"], manifest["shards"]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"cannot read {folder / MANIFEST}: it is damaged, delete the folder") from error
        differing = [name for name in {**settings, **self.settings} if settings.get(name) != self.settings.get(name)]
        if differing:
            where = "holds" if self.finished else "was begun as"
            raise InputError(
                f"{self.folder} {where} an extraction with other {' and '.join(differing)}: write to another folder, "
                f"or delete {folder}"
            )
        whole: list[dict[str, Any]] = []
        for shard in shards:
            if not _is_whole(folder / shard["file"], shard["sha256"]):
                break
            whole.append(shard)
        if self.finished and len(whole) < len(shards):
            raise InputError(
                f"{folder / shards[len(whole)]['file']} is missing or damaged: delete {folder} and extract again"
            )
        return whole


def _is_whole(path: Path, checksum: str) -> bool:
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == checksum
    except OSError:
        return False


class Collected:
    """The same for arrays that stay in memory."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []
        self.rows, self.finished = 0, False
        self._parts: list[Mapping[str, np.ndarray]] = []

    def __enter__(self) -> Collected:
        return self

    def __exit__(self, *failure: object) -> None:
        """There is nothing to remove."""

    def keep(self, arrays: Mapping[str, np.ndarray], ids: np.ndarray, **facts: Any) -> None:
        for name, array in arrays.items():
            require_finite(name, array, self.rows)
        self.kept.append(facts)
        self._parts.append(arrays)
        self.rows += len(ids)

    def finish(self) -> None:
        self.finished = True

    def read(self) -> dict[str, Any]:
        return {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}


def open_storage(
    out: str | os.PathLike | None, name: str, settings: Mapping[str, Any], about: Mapping[str, Any]
) -> ShardFolder | Collected:
    """The folder `out/name`, or without `out` memory."""
    if out is None:
        return Collected()
    return ShardFolder(Path(out) / name, settings, {"package": f"w2s_jax {version('w2s_jax')}", **about})
