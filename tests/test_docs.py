"""The pages keep their word: code runs as pasted, links lead to files, public names are named, the front page is short."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import re
import shlex
import tempfile
import tomllib
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

import w2s_jax
from w2s_jax.cli import main
from w2s_jax.sweep.config import KEYS

ROOT = Path(__file__).parent.parent
README, START = ROOT / "README.md", ROOT / "docs" / "index.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
WINGS = (
    "devices",
    "experiment",
    "extract",
    "files",
    "heads",
    "heads.losses",
    "predictors",
    "ranking",
    "select",
    "studies",
    "sweep",
    "theory",
)
PUBLIC = {
    name: getattr(module, name)
    for module in (w2s_jax, *(importlib.import_module(f"w2s_jax.{wing}") for wing in WINGS))
    for name in module.__all__
    if not inspect.ismodule(getattr(module, name))
}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """A page's blocks of a language, each behind as many empty lines as stand before it: tracebacks name the page's lines."""
    text = page.read_text()
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return ["\n" * text.count("\n", 0, block.start(1)) + block[1] for block in found]


@lru_cache
def run(page: Path) -> tuple[dict, str]:
    """The names that a page's blocks leave behind, run in order in an empty folder, and what they print."""
    names, printed = {"__name__": page.stem}, io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        for block in blocks(page, "python"):
            exec(compile(block, name(page), "exec", dont_inherit=True), names)
    return names, printed.getvalue()


CODE = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("page", CODE, ids=name)
def test_code_runs(page: Path):
    """Every block of Python runs, after those before it on its page."""
    run(page)


def test_front_page_says_what_it_shows():
    """Its example prints a ranking with better teachers first, a gap and a norm per ridge strength, the experiment."""
    names, printed = run(README)
    assert re.search(r"1 +large.*\n2 +medium.*\n3 +small", printed)
    gaps = w2s_jax.prediction_gap(names["overlap"], names["head"], names["head"])
    assert gaps.shape == (3,)
    assert str(gaps) in printed
    assert "student error" in printed


def test_rank_prints_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """`w2s rank` on the files of the start page prints the table of both pages; standard errors may round another way."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    exec(blocks(START, "python")[0], {})
    (shown,) = {block.strip() for page in (README, START) for block in blocks(page, "console")}
    command, _, table = shown.partition("\n")
    assert main([*shlex.split(command.removeprefix("$ w2s ")), "--quiet"]) == 0
    printed, shown = (re.sub(r"±\S+", "", text).split() for text in (capsys.readouterr().out, table))
    assert [x for x in printed if not _is_number(x)] == [x for x in shown if not _is_number(x)]
    numbers = ([float(x) for x in text if _is_number(x)] for text in (printed, shown))
    np.testing.assert_allclose(*numbers, rtol=1e-2)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[\d.]+(e-?\d+)?", text) is not None


def test_front_page_is_short():
    assert len(README.read_text().splitlines()) <= 100


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page: Path):
    """Every relative link, of pictures too."""
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    assert [target for target in targets if "://" not in target and not (page.parent / target).exists()] == []


def test_every_public_function_is_explained():
    """Each function, filter and loss is named outside of the pages that are made of docstrings."""
    text = "\n".join(page.read_text() for page in PAGES if page.parent.name != "api")
    functions = [name for name, value in PUBLIC.items() if name.islower() and callable(value)]
    assert [name for name in functions if not re.search(rf"[`.]{name}\b", text)] == []


def test_interface_pages_list_what_there_is():
    """Every public name of the package and its wings stands in the pages of its docstrings, and no other does."""
    listed: set[str] = set()
    for page in (ROOT / "docs" / "api").glob("*.md"):
        for module, members in re.findall(r"^::: (\S+)\n((?: .*\n?)+)", page.read_text(), re.MULTILINE):
            names = re.findall(r"^ +- (\w+)$", members, re.MULTILINE)
            assert [name for name in names if not hasattr(importlib.import_module(module), name)] == []
            listed.update(names)
    assert PUBLIC.keys() - listed == set()


def test_configurations_have_known_keys():
    """Those that pages show of sweeps."""
    tables = [tomllib.loads(block) for page in PAGES for block in blocks(page, "toml")]
    assert tables
    assert [key for table in tables for key in table if key not in KEYS] == []
