"""The README keeps its word: its example runs as pasted, and its table names every public function."""

from __future__ import annotations

import re
from pathlib import Path

import w2s_jax

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_python_examples_run_as_pasted(capsys):
    """The first prints a ranking with the better teacher first, a gap and a norm per ridge strength; the second goes on."""
    first, second = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(compile(first, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert re.search(r"1 +large.*\n2 +small", printed)
    gaps = w2s_jax.prediction_gap(names["overlap"], names["head"], names["head"])
    assert gaps.shape == (3,)
    assert str(gaps) in printed
    exec(compile(second, "README.md", "exec"), names)
    assert "student error" in capsys.readouterr().out
    assert names["head"](names["strong"]).shape == (2000, 1)


def test_table_names_every_public_function():
    """Every public callable that is not a result type stands in the README."""
    results = {"Filter", "InputError", "Moments", "Overlap", "PrincipalKernel", "Spectrum", "SupervisorTable"}
    results |= {
        "DecomposabilityReport",
        "Equivalent",
        "EquivalentErrors",
        "LinearProbe",
        "Population",
        "RidgeChoice",
        "Tail",
    }
    results |= {"Hosts", "PrecisionReport", "Sweep", "TrainedProbe", "WeakToStrong"}
    assert [name for name in w2s_jax.__all__ if name not in results and f"`{name}" not in README] == []
