"""A Hugging Face checkpoint on disk: its folder, its configuration, its tokenizer, and what identifies it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from w2s_jax._core.checks import InputError, reason
from w2s_jax._core.extras import needed

Tokenize = Callable[[list[str], int | None], list[Sequence[int]]]  # texts, at most so many tokens each

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model")
_NO_MODEL = ("*.msgpack", "*.h5", "*.onnx", "*.md", "*.lock", ".*")  # what changes nothing that is computed


@dataclass(frozen=True)
class Checkpoint:
    """A folder with `config.json`; `name` is the model's, `revision` the hub's where it came from there."""

    name: str
    folder: Path
    config: dict[str, Any]
    revision: str | None = None

    @property
    def kind(self) -> str:
        return str(self.config.get("model_type", "unknown"))

    @cached_property
    def checksum(self) -> str:
        """Of all files that may take part, by name and content."""
        digest = hashlib.sha256()
        files = (path for path in self.folder.iterdir() if path.is_file())
        for path in sorted(path for path in files if not any(path.match(pattern) for pattern in _NO_MODEL)):
            with self.readable(path.name), open(path, "rb") as stream:
                digest.update(f"{path.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
        return digest.hexdigest()

    @property
    def weights(self) -> list[Path]:
        """Its .safetensors files."""
        return sorted(self.folder.glob("*.safetensors"))

    def error(self, why: str) -> InputError:
        return InputError(f"cannot read the model {self.name} from {self.folder}: {why}")

    @contextmanager
    def readable(self, file: str) -> Iterator[None]:
        """Whatever a library raises about a file, as one sentence."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            raise self.error(f"{file}: {reason(error)}") from error

    def tokenizer(self) -> Tokenize:
        """Of `tokenizer.json`, special tokens included."""
        tokenizers = needed("tokenizers", "reading a model's tokenizer", "extract")
        if not (self.folder / "tokenizer.json").is_file():
            raise self.error("it has no tokenizer.json: transformers' AutoTokenizer can save one")
        with self.readable("tokenizer.json"):
            tokenizer = tokenizers.Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        tokenizer.no_padding()

        def tokenize(texts: list[str], max_tokens: int | None) -> list[Sequence[int]]:
            if max_tokens is None:
                tokenizer.no_truncation()
            else:
                special = tokenizer.num_special_tokens_to_add(False)
                if max_tokens <= special:
                    raise InputError(f"max_tokens must be above the model's {special} special tokens, got {max_tokens}")
                tokenizer.enable_truncation(max_tokens)
            return [encoding.ids for encoding in tokenizer.encode_batch(texts)]

        return tokenize


def find_checkpoint(model: str | os.PathLike) -> Checkpoint:
    """The checkpoint in a folder, or by its name on the Hugging Face hub: from the local cache, else downloaded.

    Raises:
        InputError: there is none, or it has no readable `config.json`.
    """
    given = os.fspath(model)
    if os.path.isdir(given):
        folder = Path(given)
        return Checkpoint(folder.resolve().name, folder, _config(folder, given))
    if not _HUB_NAME.fullmatch(given) or given.endswith((".safetensors", ".json", ".gguf")):
        raise InputError(f"model must be a Hugging Face folder or name, but there is no folder {given}")
    folder = _from_hub(given)
    return Checkpoint(given.split("/")[-1], folder, _config(folder, given), folder.name)


def _from_hub(name: str) -> Path:
    hub = needed("huggingface_hub", "a model by name", "extract")
    try:
        return Path(hub.snapshot_download(name, local_files_only=True))
    except Exception:  # not there, in as many words as there are causes
        pass
    try:
        return Path(hub.snapshot_download(name, allow_patterns=list(_PATTERNS)))
    except Exception as error:
        raise InputError(
            f"model {name!r} is no folder, is not in the local cache of the Hugging Face hub and cannot be had from there "
            f"({reason(error)}): give a folder"
        ) from error


def _config(folder: Path, given: str) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{given} is no Hugging Face model: it has no config.json") from error
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the model's config.json in {given}: {reason(error)}") from error
    if not isinstance(config, dict):
        raise InputError(f"cannot read the model's config.json in {given}: it is no object")
    return config
