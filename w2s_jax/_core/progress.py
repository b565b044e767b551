"""Progress bars for every long loop of the package: tqdm where it is installed, silence where it is not.

In a notebook they are widgets if ipywidgets is installed, else the bars of a terminal.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


def track(items: Iterable[T], progress: bool | Callable[[Iterable[T]], Iterable[T]], label: str) -> Iterable[T]:
    """The items, with a progress bar named `label` if `progress` is True, or wrapped by `progress` if it is a function."""
    if callable(progress):
        return progress(items)
    if not progress:
        return items
    bar = _bar()
    return items if bar is None else bar(items, desc=label, leave=False)


@contextmanager
def counted(
    total: int | None, progress: bool, label: str, unit: str, done: int = 0
) -> Iterator[Callable[[int, str], None]]:
    """A bar of so many units; what it yields adds a number of them and says something beside the time left."""
    kind = _bar() if progress else None
    bar = None if kind is None else kind(total=total, desc=label, unit=unit, initial=done, leave=False)

    def add(units: int, note: str) -> None:
        if bar is not None:
            bar.set_postfix_str(note, refresh=False)
            bar.update(units)

    try:
        yield add
    finally:
        if bar is not None:
            bar.close()


def _bar() -> Any:
    """The class of bars that suits a terminal or a notebook; None without tqdm."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="IProgress not found")  # the bar of a terminal does as well
            from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm
