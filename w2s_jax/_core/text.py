"""Tables as text and, for notebooks, as HTML: every entry escaped, colours the page's own, so that light and dark will do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

MISSING = "–"


def number(value: float, form: str = ".4g") -> str:
    """A number as text; a dash for one that is missing.

    >>> number(0.12345), number(float("nan")), number(0.5, ".1%")
    ('0.1235', '–', '50.0%')
    """
    return MISSING if value != value else format(value, form)


def interval(low: float, high: float, form: str = ".4g") -> str:
    """As text; empty where there is none."""
    return "" if low != low or high != high else f"[{low:{form}}, {high:{form}}]"


def aligned(header: Sequence[str], body: Sequence[Sequence[str]], left: int) -> str:
    """Columns padded to their widest cell, the first `left` flush left, two blanks between."""
    widths = [max(len(row[i]) for row in (header, *body)) for i in range(len(header))]
    pad = lambda i, cell: cell.ljust(widths[i]) if i < left else cell.rjust(widths[i])
    return "\n".join("  ".join(pad(i, cell) for i, cell in enumerate(row)).rstrip() for row in (header, *body))


@dataclass(frozen=True)
class Printed:
    """A table that is shown to a person: prints, and is HTML in a notebook; `left` columns are flush left.

    Without rows there is only what stands above and below it.

    >>> print(Printed(("", "error"), [("a", "0.5")], left=1, title="on test rows"))
    on test rows
       error
    a    0.5
    """

    header: Sequence[str]
    body: Sequence[Sequence[str]]
    left: int
    title: str = ""
    note: str = ""

    def __str__(self) -> str:
        table = aligned(self.header, self.body, self.left) if self.body else ""
        return "\n".join(part for part in (self.title, table, self.note) if part)

    def _repr_html_(self) -> str:
        line = "border-bottom: 1px solid currentColor; "
        head = "".join(self._cell("th", i, cell, line) for i, cell in enumerate(self.header))
        rows = "".join(f"<tr>{''.join(self._cell('td', *cell) for cell in enumerate(row))}</tr>" for row in self.body)
        table = f'<table style="border-collapse: collapse"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        return f"<div>{html_text(self.title)}{table if self.body else ''}{html_text(self.note)}</div>"

    def _cell(self, tag: str, column: int, cell: str, style: str = "") -> str:
        side = "left" if column < self.left else "right"
        return f'<{tag} style="{style}text-align: {side}; white-space: nowrap">{escape(cell)}</{tag}>'


class Shown:
    """What prints as the table that `_printed` makes, and is HTML in a notebook."""

    def _printed(self) -> Printed:
        raise NotImplementedError

    def __str__(self) -> str:
        return str(self._printed())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self._printed()._repr_html_()


def html_text(text: str) -> str:
    """A paragraph that keeps its lines; nothing for no text."""
    return f'<p style="white-space: pre-line">{escape(text)}</p>' if text else ""


def html_of(parts: Iterable[Printed | str]) -> str:
    """Tables and paragraphs one below the other."""
    return "".join(html_text(part) if isinstance(part, str) else part._repr_html_() for part in parts)
