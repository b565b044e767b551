"""A Hugging Face checkpoint on disk: its folder, its configuration, its tokenizer, and what identifies it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from w2s_jax._core.checks import InputError, reason
from w2s_jax._core.extras import needed
from w2s_jax.files.rows import listed

Tokenize = Callable[[list[str], int | None], list[Sequence[int]]]  # texts, at most so many tokens each

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model")
_WEIGHTS = ("*.safetensors", "*.bin")
_SHARD = re.compile(r"(.+-)\d{5}-of-(\d{5})(\.safetensors)")
_TOKENIZERS = ("tokenizer.json", "*.model", "vocab*", "*.vocab", "*.tiktoken", "*.bpe*")
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
        InputError: there is none, the cache holds a part of it and the hub does not give the rest, or it has no readable
            `config.json`.
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
    """The model's folder in the local cache; what is not there, of a model or of all of it, is downloaded."""
    hub = needed("huggingface_hub", "a model by name", "extract")
    found, why = None, ""
    with suppress(Exception):  # not there, in as many words as there are causes
        found = Path(hub.snapshot_download(name, local_files_only=True))
    if found is not None and not _missing(found):
        return found
    try:
        found = Path(hub.snapshot_download(name, allow_patterns=list(_PATTERNS)))
    except Exception as error:
        if found is None:
            raise InputError(
                f"model {name!r} is no folder, is not in the local cache of the Hugging Face hub and cannot be had from there "
                f"({reason(error)}): give a folder"
            ) from error
        why = f" ({reason(error)})"
    missing = _missing(found)
    if missing:
        raise InputError(
            f"model {name!r} is only in part in the local cache of the Hugging Face hub, and the hub did not give the rest{why}: "
            f"{listed(missing)} not in {found}"
        )
    return found


def _missing(folder: Path) -> list[str]:
    """What a model needs and a folder does not hold: configuration, every shard of its weights, a tokenizer."""
    holds = lambda pattern: any(path.is_file() for path in folder.glob(pattern))  # a link may lead nowhere
    missing = [] if holds("config.json") else ["config.json"]
    shards = _shards(folder)
    missing += [name for name in shards if not holds(name)]
    if not shards and not any(map(holds, _WEIGHTS)):
        missing.append("model.safetensors")
    return missing if any(map(holds, _TOKENIZERS)) or _reads_bytes(folder) else [*missing, "tokenizer.json"]


def _shards(folder: Path) -> list[str]:
    """The files of the weights, if they are several: those that their index names, and all that one of them counts."""
    found: set[str] = set()
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # whoever reads the index says why
        found |= set(json.loads((folder / "model.safetensors.index.json").read_bytes())["weight_map"].values())
    for path in folder.glob("*.safetensors"):
        counted = _SHARD.fullmatch(path.name)
        if counted:
            start, count, end = counted.groups()
            found |= {f"{start}{number:05d}-of-{count}{end}" for number in range(1, int(count) + 1)}
            found.add("model.safetensors.index.json")
    return sorted(found)


def _reads_bytes(folder: Path) -> bool:
    """Whether its tokenizer is one that has no files but its configuration."""
    with suppress(OSError, ValueError, AttributeError):
        said = json.loads((folder / "tokenizer_config.json").read_bytes())
        return said.get("tokenizer_class") in ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")
    return False


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
