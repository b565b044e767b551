"""What a function computes with, as text that is the same in every process: functions of one text give the same numbers.

A function is its code (bytecode, constants and names), its defaults, and the values that it takes from outside; functions among
those likewise. Arrays count with all their bytes, containers by what they hold, modules by the attributes that the code names. Of
what JAX, NumPy, SciPy, Python and this package bring the name is enough. Anything else may change unseen, and has no text.
"""

from __future__ import annotations

import dataclasses
import dis
import hashlib
import sys
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from w2s_jax.predictors import PREDICTORS, Predictor

_KNOWN = {"jax", "jaxlib", "numpy", "scipy", __name__.partition(".")[0], *sys.stdlib_module_names}
_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, type(...), np.dtype)
_JITTED: Any = type(jax.jit(abs))


class UnseenError(Exception):
    """Something may change without its text."""


def contents(x: Any) -> str:
    """The text of a function, or of any other value.

    Raises:
        UnseenError: there is something in it that may change unseen.

    >>> contents([1, np.ones(2)]) == contents([1, np.ones(2)]), contents(lambda x: x + 1) == contents(lambda x: x + 2)
    (True, False)
    """
    try:
        return _text(x, {})
    except RecursionError as error:
        raise UnseenError("nested too deeply") from error


def _text(x: Any, told: dict[int, tuple[int, Any]]) -> str:
    """`told`: what there has been, by id: its place, and itself, so that nothing else gets its id."""
    if type(x) in _PLAIN or isinstance(x, np.generic):
        return f"{type(x).__name__} {x!r}"
    if isinstance(x, np.ndarray | Array):
        return _of_array(x)
    name = _known_name(x)
    if name is not None:
        return name
    if id(x) in told:
        return f"the {told[id(x)][0]}th"
    if not isinstance(x, tuple | frozenset | CodeType):  # equal ones are one object here and there
        told[id(x)] = len(told), x
    parts = [_text(part, told) for part in _parts(x)]
    return f"{type(x).__name__}({', '.join(sorted(parts) if isinstance(x, set | frozenset) else parts)})"


def _parts(x: Any) -> list[Any]:
    """What a value is made of."""
    if isinstance(x, FunctionType):
        return [x.__code__, x.__defaults__, x.__kwdefaults__, vars(x), *_outside(x)]
    if isinstance(x, CodeType):
        names = x.co_names, x.co_varnames, x.co_cellvars, x.co_freevars
        counts = x.co_argcount, x.co_posonlyargcount, x.co_kwonlyargcount, x.co_flags
        return [x.co_code, x.co_exceptiontable, x.co_consts, *names, *counts]
    if isinstance(x, MethodType):
        return [x.__func__, x.__self__]
    if isinstance(x, _JITTED):
        return [x.__wrapped__]
    if type(x) is dict:
        return [part for pair in x.items() for part in pair]
    if type(x) in (list, tuple, set, frozenset):
        return list(x)
    if _is_known(type(x).__module__) and dataclasses.is_dataclass(x) and not isinstance(x, type):
        return [type(x).__qualname__, {field.name: getattr(x, field.name) for field in dataclasses.fields(x)}]
    raise UnseenError(f"a {type(x).__name__} may change unseen")


def _of_array(x: np.ndarray | Array) -> str:
    if isinstance(x, Array):
        if isinstance(x, Tracer) or not x.is_fully_addressable:
            raise UnseenError("not all there")
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return f"{x.dtype} {_of_array(jax.random.key_data(x))}"
    elif type(x) not in (np.ndarray, np.memmap) or x.dtype.hasobject:
        raise UnseenError("more than numbers")
    digest = hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()
    return f"{type(x).__name__} {x.dtype} {x.shape} {digest}"


def _outside(x: FunctionType) -> list[Any]:
    """What a function takes from outside: of its closure, of its module, and by its own imports."""
    names, space = _names(x.__code__), x.__globals__
    read = sorted(_names(x.__code__, "LOAD_GLOBAL", "LOAD_NAME") & space.keys())
    imported = [name for name in sorted(_names(x.__code__, "IMPORT_NAME")) if not _is_known(name)]
    try:
        found = [cell.cell_contents for cell in x.__closure__ or ()]
        found += [*(space[name] for name in read), *(sys.modules[name] for name in imported)]
    except (KeyError, ValueError) as error:
        raise UnseenError("not there yet") from error
    return [read, imported, *(_used(value, names) for value in found)]


def _used(x: Any, names: set[str]) -> Any:
    """Of a module that is not known, the attributes that code with such names may use."""
    if not isinstance(x, ModuleType) or _is_known(x.__name__):
        return x
    return {name: _used(vars(x)[name], names) for name in sorted(names & vars(x).keys())}


def _names(code: CodeType, *operations: str) -> set[str]:
    """Names in some code and in that of functions within it: all, or those of some operations."""
    within = [part for part in code.co_consts if isinstance(part, CodeType)]
    own = (
        {step.argval for step in dis.get_instructions(code) if step.opname in operations}
        if operations
        else code.co_names
    )
    return {*own, *(name for part in within for name in _names(part, *operations))}


def _is_known(module: Any) -> bool:
    return isinstance(module, str) and module.partition(".")[0] in _KNOWN


def _known_name(x: Any) -> str | None:
    """The name of a module, a function, a class or a predictor that is known, and is what is found under that name."""
    if isinstance(x, Predictor):
        return f"predictor {x.name}" if PREDICTORS.get(x.name) is x else None
    if isinstance(x, ModuleType):
        return f"module {x.__name__}" if _is_known(x.__name__) else None
    module, name = getattr(x, "__module__", None), getattr(x, "__qualname__", getattr(x, "__name__", None))
    if not _is_known(module) or not isinstance(name, str):
        return None
    found: Any = sys.modules.get(str(module))
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}.{name}" if found is x else None
