"""The notebooks as pages: their text, code and kept outputs, as Markdown; what is shown in a notebook is shown here."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "notebooks"


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for path in sorted(FOLDER.glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=as_markdown(path)))
    return files


def as_markdown(path: Path) -> str:
    """A notebook's cells one below the other."""
    return "\n\n".join(part for cell in json.loads(path.read_text())["cells"] for part in _cell(cell)) + "\n"


def _cell(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield re.sub(r"!\[([^]]*)\]\(https?://[^)]*\)", r"\1", source)  # pages fetch nothing from elsewhere
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        yield from _output(output)


def _output(output: dict[str, Any]) -> Iterator[str]:
    data = output.get("data", {})
    if output["output_type"] == "stream" and output["name"] == "stdout":
        yield f"```text\n{''.join(output['text']).rstrip()}\n```"
    elif "image/png" in data:
        yield f'<img alt="" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
    elif "text/html" in data:
        yield "".join(data["text/html"])
    elif "text/plain" in data:
        yield f"```text\n{''.join(data['text/plain'])}\n```"
