"""Progress bars: the same work with and without them, in a terminal, in a notebook, and where tqdm is missing."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest

from w2s_jax._core.progress import counted, track

NOTEBOOK = """
import sys, types, warnings
from w2s_jax._core.progress import counted, track
warnings.simplefilter("error")
shell = types.SimpleNamespace()
kernel = types.ModuleType("ipykernel.zmqshell")
python = types.ModuleType("IPython")
python.get_ipython = lambda: shell
sys.modules |= {"ipykernel.zmqshell": kernel, "IPython": python, "ipywidgets": None}
assert list(track(range(3), True, "work")) == [0, 1, 2]
with counted(10, True, "texts", " texts") as add:
    add(10, "5 tokens/s")
"""


def test_bars_change_nothing(capsys: pytest.CaptureFixture):
    """All items come, in order, and the bar is gone afterwards."""
    assert list(track(range(3), True, "work")) == [0, 1, 2]
    with counted(4, True, "texts", " texts", done=1) as add:
        add(3, "5 tokens/s")
    error = capsys.readouterr().err
    assert "work" in error and "texts" in error
    assert error.rstrip(" ").endswith("\r")


def test_a_function_wraps():
    assert list(track([1, 2], lambda items: [10 * x for x in items], "work")) == [10, 20]


def test_without_tqdm_there_is_silence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    assert list(track(range(2), True, "work")) == [0, 1]
    with counted(1, True, "texts", " texts") as add:
        add(1, "")
    assert capsys.readouterr().err == ""


def test_a_notebook_without_widgets_has_plain_bars():
    """No warning that widgets are missing: a bar of text does as well."""
    done = subprocess.run([sys.executable, "-c", NOTEBOOK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "work: " in done.stderr and "texts: " in done.stderr and "IProgress" not in done.stderr


def test_bars_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(track(range(2), True, "work"))
