"""Examples in docstrings run and print what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import w2s_jax

MODULES = ["w2s_jax", *(info.name for info in pkgutil.walk_packages(w2s_jax.__path__, "w2s_jax."))]
EXAMPLES = {
    name: tests
    for name in MODULES
    if not name.endswith("__main__")
    and (tests := [test for test in doctest.DocTestFinder().find(importlib.import_module(name)) if test.examples])
}


@pytest.mark.usefixtures("unchecked")  # as users see them
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name):
    """All examples of a module, each in the module's own names, output compared up to white space."""
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for test in EXAMPLES[name]:
        runner.run(test)
    assert runner.summarize(verbose=False).attempted > 0
    assert runner.failures == 0
