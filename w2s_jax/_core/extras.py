"""Packages that only an extra installs, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from w2s_jax._core.checks import InputError


def needed(module: str, what: str, extra: str) -> Any:
    """The module, which `what` needs; `extra` installs it.

    Raises:
        InputError: it is not installed, or cannot be imported.

    >>> needed("json", "reading", "cli").loads("1")
    1
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        why = "" if isinstance(error, ModuleNotFoundError) and error.name in (package, module) else f" ({error})"
        raise InputError(f"{what} needs the {package} package{why}: pip install 'w2s_jax[{extra}]'") from error


def data_frame(rows: Any) -> Any:
    """A pandas DataFrame of rows or columns.

    Raises:
        InputError: pandas is not installed.
    """
    return needed("pandas", "a DataFrame", "pandas").DataFrame(rows)
