"""The notebooks run without a network, their sizes alone made smaller, and come to what they promise; what is kept of their
outputs is small."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import pytest

import w2s_jax

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TEACHER, SCALE = ROOT / "notebooks" / "choose_your_teacher.ipynb", ROOT / "notebooks" / "theory_on_tpu.ipynb"
# The sizes that notebooks choose on a CPU, and the smaller ones that do for their promises.
SMALLER = {
    TEACHER: {"(800, 160, 5) if small": "(400, 160, 2) if small"},
    SCALE: {
        "(1000, 0.05) if small": "(500, 0.05) if small",
        "(64, 256) if small": "(32, 256) if small",
        "ratios = 0.25, 0.5, 2.0, 4.0": "ratios = 0.5, 2.0",
    },
}


def cells(notebook: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == kind]


def run(notebook: Path, capsys: pytest.CaptureFixture, until: str | None = None) -> tuple[dict, str]:
    """The names that the cells leave behind, run in order with smaller sizes, and what they print; up to the first cell that
    leaves the name `until`."""
    sources, names = ["".join(cell["source"]) for cell in cells(notebook, "code")], {"__name__": notebook.stem}
    for size, smaller in SMALLER[notebook].items():
        assert sum(source.count(size) for source in sources) == 1, size
        sources = [source.replace(size, smaller) for source in sources]
    for number, source in enumerate(sources):
        exec(compile(source, f"{notebook.name}, cell {number}", "exec", dont_inherit=True), names)
        if until in names:
            break
    return names, capsys.readouterr().out


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No network, no models, no texts: as a newcomer's first run is at worst."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for variable in ("W2S_DATA", "W2S_MODELS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    plt = pytest.importorskip("matplotlib.pyplot")
    yield
    plt.close("all")


@pytest.mark.everything
def test_choose_your_teacher(alone: None, capsys: pytest.CaptureFixture):
    """A teacher is chosen without labels and with some, its student's error is between the best and the worst; and that
    texts and networks are made up is said."""
    pytest.importorskip("tokenizers")
    names, printed = run(TEACHER, capsys)
    assert "MADE UP" in printed and printed.count("RANDOM network") == 2
    free, few, error = names["free"], names["few"], names["error"]
    assert set(free.names) == set(few.names) == set(error) == set(names["weak"])
    assert f"chosen without labels: {free.names[0]}; with 160 labels: {few.names[0]}" in printed
    assert np.isfinite(list(error.values())).all()
    assert error[names["best"]] <= error[few.names[0]] < 1.0  # of labels +-1
    for found in names["outcomes"].values():
        predicted = np.array(found.predicted)
        assert predicted.shape == (4, names["splits"]) and np.isfinite(predicted).all()
    assert 0 < names["report"].rank <= names["scaled"].shape[1]


@pytest.mark.everything
def test_choose_your_teacher_from_files(alone: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Texts and checkpoints at hand are taken, and nothing is made up; what is done with rows is the same as above."""
    pytest.importorskip("tokenizers")
    texts, labels = w2s_jax.studies.made_up_texts(300)
    Path("texts.csv").write_text("text,label\n" + "".join(f"{t},{y}\n" for t, y in zip(texts, labels, strict=True)))
    for name, width in (("paraphrase-MiniLM-L3-v2", 16), ("all-MiniLM-L6-v2", 32)):
        w2s_jax.studies.random_checkpoint(f"models/{name}", texts, width=width, layers=2)
    monkeypatch.setenv("W2S_DATA", "texts.csv")
    monkeypatch.setenv("W2S_MODELS", "models")
    names, printed = run(TEACHER, capsys, until="strong")
    assert "from texts.csv" in printed
    assert "MADE UP" not in printed and "RANDOM" not in printed
    assert "paraphrase-MiniLM-L3-v2:layer2.max" in names["weak"]


@pytest.mark.everything
def test_theory_on_tpu(alone: None, capsys: pytest.CaptureFixture):
    """The equivalent is right to the noise of the simulated mean, and a large experiment nearer to it than a small one."""
    names, printed = run(SCALE, capsys)
    assert f"{len(jax.devices())} x" in printed
    for cell in names["found"].cells:
        assert abs(cell.bias["gap"]) < 0.05 + 2 * cell.noise["gap"]
    narrow, wide = (names["off"][d] for d in names["widths"])
    assert wide < min(narrow, 0.25)
    accuracy = names["accuracy"]
    assert accuracy.shape == (32,) and 0.7 < accuracy.mean() < 1.0 and 0 < accuracy.std() < 0.05


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_clean(notebook: Path):
    """Small, without errors, progress bars or paths of the machine that ran them; cells have ids."""
    assert notebook.stat().st_size < 600_000
    for cell in cells(notebook, "code"):
        kinds = [(output["output_type"], output.get("name")) for output in cell["outputs"]]
        assert not [kind for kind in kinds if kind[0] == "error" or kind[1] == "stderr"]
    text = notebook.read_text()
    assert not re.search(r"/(tmp|home|work|root|Users)/", text)
    assert "[![Open in Colab]" in "".join(cells(notebook, "markdown")[0]["source"])
    assert all("id" in cell for cell in json.loads(text)["cells"])


def test_addresses_agree():
    """The repository has one address, in badges and in lines that install it."""
    pages = [ROOT / "README.md", *NOTEBOOKS]
    found = re.findall(r"github(?:\.com)?/([\w-]+/w2s_jax)", "\n".join(page.read_text() for page in pages))
    assert len(found) >= 6
    assert len(set(found)) == 1


def hook() -> ModuleType:
    """What the pages are made by."""
    spec = importlib.util.spec_from_file_location("notebook_pages", ROOT / "docs" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.everything
def test_pages_have_what_notebooks_have(tmp_path: Path):
    """Text, code, printed lines, tables and pictures in their order; no picture of a badge is fetched."""
    outputs = [
        {"output_type": "stream", "name": "stderr", "text": ["a bar"]},
        {"output_type": "stream", "name": "stdout", "text": ["printed\n"]},
        {"output_type": "execute_result", "data": {"text/html": ["<table></table>"], "text/plain": ["plain"]}},
        {"output_type": "display_data", "data": {"image/png": "AAAA\n", "text/plain": ["<Figure>"]}},
    ]
    badge = "[![Open in Colab](https://somewhere/badge.svg)](https://somewhere/notebook)"
    made = [
        {"cell_type": "markdown", "source": ["# Title\n", badge]},
        {"cell_type": "code", "source": ["x = 1\n", "x"], "outputs": outputs},
    ]
    (tmp_path / "n.ipynb").write_text(json.dumps({"cells": made}))
    page = hook().as_markdown(tmp_path / "n.ipynb")
    parts = ["# Title", "```python\nx = 1\nx\n```", "```text\nprinted\n```", "<table>", "base64,AAAA"]
    places = [page.index(part) for part in parts]
    assert places == sorted(places)
    assert "a bar" not in page and "plain" not in page and "badge.svg" not in page
    assert "[Open in Colab](https://somewhere/notebook)" in page
