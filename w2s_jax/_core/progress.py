"""One progress bar for every long loop of the package: tqdm where it is installed, silence where it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], progress: bool | Callable[[Iterable[T]], Iterable[T]], label: str) -> Iterable[T]:
    """The items, with a progress bar named `label` if `progress` is True, or wrapped by `progress` if it is a function."""
    if callable(progress):
        return progress(items)
    if not progress:
        return items
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return items
    return tqdm(items, desc=label, leave=False)
