"""Compiled programs on disk: the second process that needs a program loads it instead of compiling it."""

from __future__ import annotations

import os
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from w2s_jax._core.checks import InputError

SECONDS = 0.1  # a program that compiles faster than this is not worth a file


def cache_compiled_programs(folder: str | os.PathLike | None = None) -> Path | None:
    """Keeps every program that JAX compiles from here on in a folder, for later processes; the command line does so.

    Without a folder JAX's own choice stands if there is one: the environment variable `JAX_COMPILATION_CACHE_DIR` (empty:
    nothing is kept) or `jax_compilation_cache_dir`. Else it is `$XDG_CACHE_HOME/w2s_jax/compiled`, by default under
    `~/.cache`. `JAX_ENABLE_COMPILATION_CACHE=0` turns every cache off. Importing the package sets nothing. Programs of
    other versions of JAX or for other devices are never loaded; the folder can be deleted at any time.

    Args:
        folder: where to keep them, made if need be.

    Returns:
        The folder in use, None if nothing is kept.

    Raises:
        InputError: the folder cannot be made or written.

    >>> folder = cache_compiled_programs()  # the one that is in use from here on
    """
    if not jax.config.values["jax_enable_compilation_cache"]:
        return None
    if folder is None:
        chosen = jax.config.values["jax_compilation_cache_dir"]
        if chosen or "JAX_COMPILATION_CACHE_DIR" in os.environ:
            return Path(chosen) if chosen else None
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        path = root / "w2s_jax" / "compiled"  # where it cannot be written JAX warns and goes on without
    else:
        path = _writable(Path(folder).absolute())
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SECONDS)
    compilation_cache.reset_cache()  # JAX goes on using the folder it has opened otherwise
    return path


def _writable(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"folder {path} for compiled programs cannot be made: {error.strerror}") from error
    if not os.access(path, os.W_OK):
        raise InputError(f"folder {path} for compiled programs must be writable")
    return path
