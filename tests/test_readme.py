"""The README keeps its word: its example runs as pasted, and its table names every public function."""

from __future__ import annotations

import re
from pathlib import Path

import w2s_jax

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_python_example_runs_as_pasted(capsys):
    """The example prints a ranking with the better teacher first, then a gap and a norm per ridge strength."""
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert re.search(r"1 +large.*\n2 +small", printed)
    gaps = w2s_jax.prediction_gap(names["overlap"], names["head"], names["head"])
    assert gaps.shape == (3,)
    assert str(gaps) in printed


def test_table_names_every_public_function():
    """Every public callable that is not a result type stands in the README."""
    results = {"Filter", "InputError", "Moments", "Overlap", "PrincipalKernel", "Spectrum", "SupervisorTable"}
    assert [name for name in w2s_jax.__all__ if name not in results and f"`{name}" not in README] == []
