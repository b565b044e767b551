"""The house: wings import each other only downwards, nothing imports in a circle, and a name is one type."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import w2s_jax

ROOT = Path(w2s_jax.__file__).parent
# From the top of the house to the bottom: a file may import what stands below it, and what stands in its own room.
FLOORS = (
    "__main__",
    "cli",
    "__init__",
    "leaderboard",
    "studies",
    "sweep",
    "select",
    "experiment",
    "ranking",
    "predictors",
    "theory",
    "heads",
    "gap",
    "overlap",
    "filters",
    "spectrum",
    "moments",
    "extract",
    "files",
    "devices",
    "_core",
)
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


def room(parts: tuple[str, ...]) -> str:
    return Path(parts[0]).stem


def imported(path: Path) -> list[tuple[str, ...]]:
    """The modules of the package that a file imports, wherever in the file it does, as parts below the package."""
    found = []
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "w2s_jax":
            base = tuple(node.module.split(".")[1:])
            names = [(*base, alias.name) for alias in node.names]
            found += [name if Path(*name).with_suffix(".py") in FILES else base or ("__init__",) for name in names]
        if isinstance(node, ast.Import):
            found += [tuple(alias.name.split(".")[1:]) for alias in node.names if alias.name.startswith("w2s_jax.")]
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_downwards(path: Path):
    """No file imports from a room above its own."""
    own = FLOORS.index(room(path.parts))
    assert [".".join(parts) for parts in imported(path) if FLOORS.index(room(parts)) < own] == []


def test_every_file_has_a_room():
    """About a dozen files stand directly in the package; the rest are in wings that the house knows."""
    assert {room(path.parts) for path in FILES} <= set(FLOORS)
    assert len([path for path in FILES if len(path.parts) == 1]) <= 12


def test_no_circle():
    """Modules can be put in an order in which each comes after those that it imports."""
    graph = {path: {_file(parts) for parts in imported(path)} - {path} for path in FILES}
    while graph:
        free = {path for path, needs in graph.items() if not needs & graph.keys()}
        assert free, f"a circle among {sorted(map(str, graph))}"
        graph = {path: needs for path, needs in graph.items() if path not in free}


def test_importing_starts_no_device():
    """`import w2s_jax` has every wing, but neither a device nor the packages that only extras need."""
    extras = "matplotlib", "pandas", "pyarrow", "safetensors", "sklearn", "tensorstore", "tokenizers", "torch"
    code = f"""
import sys, jax, w2s_jax
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
assert not sys.modules.keys() & set({extras})
w2s_jax.theory.decomposability, w2s_jax.heads.losses.softmax, w2s_jax.studies.simulate
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_is_one_type():
    """No two classes or aliases of types share a name, a leading underscore aside."""
    found = Counter(name for path in FILES for name in types_in(path))
    assert [name for name, count in found.items() if count > 1] == []


def types_in(path: Path) -> list[str]:
    """The classes of a file, and what else its top level assigns to a name in CamelCase, without leading underscores."""
    tree = ast.parse((ROOT / path).read_text())
    assigned = [node.targets[0] for node in tree.body if isinstance(node, ast.Assign)]
    names = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    names += [target.id for target in assigned if isinstance(target, ast.Name) and not target.id.isupper()]
    return [name.lstrip("_") for name in names if name.lstrip("_")[:1].isupper()]


def _file(parts: tuple[str, ...]) -> Path:
    path = Path(*parts).with_suffix(".py")
    return path if path in FILES else Path(*parts) / "__init__.py"
