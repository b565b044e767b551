"""Texts of functions: what changes them, what does not, and what has none."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from w2s_jax import ridge
from w2s_jax.sweep.contents import UnseenError, contents

PRELUDE = "import jax, math\nimport jax.numpy as jnp\nimport numpy as np\nfrom w2s_jax.predictors import PREDICTORS\n"
LONG = "np.arange(5000.0)"


def function(outside: str, body: str = "p * A", **space):
    """`own` of a module of one's own, whose other lines are given."""
    space = {"__name__": "own", **space}
    exec(f"{PRELUDE}{outside}\ndef own(p):\n    return {body}\n", space)
    return space["own"]


@pytest.mark.parametrize(
    ("one", "other", "body"),
    [
        ("A = 1.0", "A = 1", "p * A"),
        ("A = 0.1", "A = np.float32(0.1)", "p * A"),
        ("A = np.array([1., 2.])", "A = np.array([1., 3.])", "A[0] * jnp.sum(p)"),
        (f"A = {LONG}", f"A = {LONG}; A[2500] = 0", "jnp.sum(A)"),
        ("A = np.array([1.])", "A = np.array([1. + 1e-12])", "p * A"),
        ("A = np.zeros(2)", "A = np.zeros(2, np.float32)", "p * A"),
        ("A = np.zeros((2, 3))", "A = np.zeros((3, 2))", "p * A"),
        ("A = jnp.ones(3)", "A = jnp.zeros(3)", "p * A"),
        ("A = jax.random.key(0)", "A = jax.random.key(1)", "jax.random.normal(A)"),
        ("A = {'k': [1, (2, 3)]}", "A = {'k': [1, (2, 4)]}", "p * A['k'][1][1]"),
        ("A = {1, 2}", "A = {1, 3}", "len(A)"),
        ("A = lambda p: p + 1", "A = lambda p: p + 2", "A(p)"),
        ("B = 1\ndef A(p): return p + B", "B = 2\ndef A(p): return p + B", "A(p)"),
        ("@jax.jit\ndef A(p): return p + 1", "@jax.jit\ndef A(p): return p + 2", "A(p)"),
        ("def A(p, b=1): return p + b", "def A(p, b=2): return p + b", "A(p)"),
        ("def A(p, *, b=1): return p + b", "def A(p, *, b=2): return p + b", "A(p)"),
        ("def A(b, c): return b - c", "def A(c, b): return c - b", "A(b=p, c=2)"),
        ("A = jnp.sin", "A = jnp.cos", "A(p)"),
        ("A = PREDICTORS['gulp']", "A = PREDICTORS['svcca']", "A.function(p)"),
        ("A = 1", "A = 2", "(lambda q: q * A)(p)"),
    ],
)
def test_what_is_used_makes_another_text(one, other, body):
    assert contents(function(one, body)) == contents(function(one, body)) != contents(function(other, body))


def test_the_code_is_looked_at():
    """Two of one line, names that are read, and constants; where it stands does not matter."""
    plus, minus = (lambda p: p + 1), (lambda p: p - 1)
    one, two = (lambda p: p + 1), (lambda p: p + 2)
    assert len({contents(of) for of in (plus, minus, two)}) == 3 and contents(plus) == contents(one)
    assert contents(lambda p: p.weak) != contents(lambda p: p.strong)
    assert contents(function("", "p * 2")) == contents(function("\n\nunused = object()", "p * 2"))


def test_closures_and_modules_of_ones_own(monkeypatch):
    """Of a module those attributes that the code names."""

    def closed(over):
        return lambda p: p * over

    assert contents(closed(np.ones(2000))) != contents(closed(np.append(np.ones(1999), 2)))
    conf = types.ModuleType("conf")
    conf.k, conf.other, conf.part = 1, object(), types.ModuleType("conf.part")
    conf.part.level = 2
    monkeypatch.setitem(sys.modules, "conf", conf)
    texts = []
    for body in ("p * conf.k", "p * conf.part.level", "__import__ and 0"):
        own = function("", body, conf=conf)
        texts += [contents(own), contents(own)]
        conf.k, conf.part.level = conf.k + 1, conf.part.level + 1
        texts.append(contents(own))
    first, second, third = texts[:3], texts[3:6], texts[6:]
    assert [len(set(of)) for of in (first, second, third)] == [2, 2, 1]

    def importing(p):
        from conf import k

        return p * k

    before, conf.k = contents(importing), 9
    assert contents(importing) != before


class Conf:
    k = 1


@dataclass
class Settings:
    k: int = 1


def not_there(p):
    import nowhere_at_all

    return nowhere_at_all.k


@pytest.mark.parametrize(
    "x",
    [
        lambda p: p * Conf.k,
        lambda p: p * Settings.k,
        function("A = A", A=Settings()),
        function("A = A", A=Conf()),
        function("A = [A]", A=object()),
        function("A = A", A=np.random.default_rng(0)),
        function("A = A", A=np.random.default_rng(0).normal),
        function("A = A", A=np.array([Conf()])),
        function("A = A", A=np.ma.masked_array([1.0, 2.0], [True, False])),
        partial(max, 1),
        not_there,
    ],
)
def test_what_may_change_unseen_has_none(x):
    with pytest.raises(UnseenError):
        contents(x)


def test_what_is_in_itself_ends():
    circle: list = [1]
    circle.append(circle)
    assert contents(function("A = A", A=circle)) == contents(function("A = A", A=circle))
    deep: list = []
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(UnseenError):
        contents(deep)


def test_what_the_package_brings_has_a_text():
    """Predictors and filters, and functions under JAX's transformations or none."""
    for outside, body in (
        ("A = PREDICTORS", "A['gulp'].function(p)"),
        ("A = (jnp.add, jnp.clip, jax.nn.relu, np.sum, np.add, math.sqrt, jnp.float32, jnp.linalg)", "p"),
        ("import jax.numpy.linalg as A", "A.norm(p)"),
    ):
        assert contents(function(outside, body)) == contents(function(outside, body))
    assert contents(ridge(0.1)) == contents(ridge(0.1)) != contents(ridge(0.2))


@pytest.mark.everything
def test_every_process_has_the_same_text(tmp_path):
    """Whatever its hashes of text are, and whether it compiled the code or found it compiled."""
    (tmp_path / "own.py").write_text(
        f"{PRELUDE}A, B = {{'x', 'y', 'z'}}, {{'k': np.arange(3)}}\n"
        "def helper(p): return p if p in {'a', 'b', 'c', 'd'} else B\n"
        "def own(p): return [helper(q) for q in A] + [own]\n"
    )
    said = "import own\nfrom w2s_jax.sweep.contents import contents\nprint(contents(own.own))"
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    found = {
        subprocess.run(
            [sys.executable, "-c", said],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1 and "helper" in found.pop()
