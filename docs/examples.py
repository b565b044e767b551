"""For the pages of docstrings: examples, which docstrings carry as plain `>>>` lines, are sections of their own."""

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"(?:^|(?<=\n\n))>>> .*?(?=\n\n|\Z)", re.DOTALL)


class Examples(griffe.Extension):
    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            indented = lambda found: "Examples:\n" + re.sub(r"^", "    ", found.group(), flags=re.MULTILINE)
            obj.docstring.value = _EXAMPLE.sub(indented, obj.docstring.value)
