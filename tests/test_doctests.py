"""Every public name has an example, and examples in docstrings run and print what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
from test_docs import PUBLIC

import w2s_jax

MODULES = ["w2s_jax", *(info.name for info in pkgutil.walk_packages(w2s_jax.__path__, "w2s_jax."))]
EXAMPLES = {
    name: tests
    for name in MODULES
    if not name.endswith("__main__")
    and (tests := [test for test in doctest.DocTestFinder().find(importlib.import_module(name)) if test.examples])
}


@pytest.mark.everything(but=1)
@pytest.mark.usefixtures("unchecked")  # as users see them
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name):
    """All examples of a module, each in the module's own names, output compared up to white space."""
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for test in EXAMPLES[name]:
        runner.run(test)
    assert runner.summarize(verbose=False).attempted > 0
    assert runner.failures == 0


def test_every_public_name_has_an_example():
    """Each function and class that the top of the package or a wing says is public."""
    ours = {name: value for name, value in PUBLIC.items() if getattr(value, "__module__", "").startswith("w2s_jax")}
    assert [name for name, value in ours.items() if ">>>" not in (value.__doc__ or "")] == []
