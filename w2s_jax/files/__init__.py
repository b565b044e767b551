"""Rows out of files, one reader a format, opened without reading them."""

from w2s_jax.files.ids import require_same_ids
from w2s_jax.files.opening import open_rows, read_groups, read_labels, read_labels_and_classes
from w2s_jax.files.rows import Kind, Place, Rows

__all__ = [
    "Kind",
    "Place",
    "Rows",
    "open_rows",
    "read_groups",
    "read_labels",
    "read_labels_and_classes",
    "require_same_ids",
]
