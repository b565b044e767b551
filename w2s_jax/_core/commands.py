"""What the commands share: paths that are checked before any work is done, and words of their help."""

from __future__ import annotations

import os
from pathlib import Path

from w2s_jax._core.checks import InputError
from w2s_jax._core.figures import require_figure_path


def require_writable(*paths: str | None) -> None:
    """Fails now rather than after minutes of work."""
    for path in paths:
        if path is None:
            continue
        folder = Path(path).resolve().parent
        if not folder.is_dir():
            raise InputError(f"cannot write {path}: the folder {folder} does not exist")
        if Path(path).is_dir() or not os.access(folder, os.W_OK):
            raise InputError(f"cannot write {path}: it is a folder, or its folder is not writable")


def require_figure(path: str | None) -> None:
    if path is not None:
        require_figure_path(path)


def number_or_text(given: str | None) -> float | str | None:
    """A label as it is given on the command line."""
    try:
        return None if given is None else float(given)
    except ValueError:
        return given


NORMALIZE_HELP = (
    "what is done to representations: features (default; centred, each feature to unit variance, then one scale), scale (without "
    "the second step) or none"
)
ROWS_HELP = "as given (default), or unit: each row is divided by its norm after that, for which files are read twice"
UNLABELLED_HELP = "the label, such as -100, of rows that have none"
PRECISION_HELP = (
    "of products over rows: float32 (default), a split one that the device has, or fastest, which is measured"
)
