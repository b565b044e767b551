"""Tables as text."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(header: Sequence[str], body: Sequence[Sequence[str]], left: int) -> str:
    """Columns padded to their widest cell, the first `left` flush left, two blanks between."""
    widths = [max(len(row[i]) for row in (header, *body)) for i in range(len(header))]
    pad = lambda i, cell: cell.ljust(widths[i]) if i < left else cell.rjust(widths[i])
    return "\n".join("  ".join(pad(i, cell) for i, cell in enumerate(row)).rstrip() for row in (header, *body))
