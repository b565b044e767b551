"""What a torch file's pickle says, found by interpreting its opcodes instead of running them.

Only the opcodes and names that tensors, numbers, text and containers of them need are known. Nothing that a pickle names is
imported or called: `_CALLS` lists the only three names that may be called and what stands for each of them here; what other
names would make is `Unknown`, which may lie beside tensors.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np


class Storage(NamedTuple):
    """Where a tensor's numbers are: type, name of the archive's member, and how many there are."""

    dtype: np.dtype
    member: str
    length: int


class Tensor(NamedTuple):
    """A view of a storage; offset and strides in numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Unknown(NamedTuple):
    """What something of a name that is not known here would be: an array of NumPy, a type, a module."""

    name: str


class Refused(Exception):
    """The pickle asks for something that is no tensor; says what."""


def interpret(pickled: bytes) -> Any:
    """The tensors, numbers, text, lists, tuples and dicts that a pickle describes; anything else is `Unknown`.

    Raises:
        Refused: it needs an opcode or keys that these do not need.
        Exception: it is damaged.
    """
    machine = _Machine()
    for code, argument, _ in pickletools.genops(pickled):
        machine.step(code.name, argument)
    (value,) = machine.stack
    return value


class _Callable(NamedTuple):
    """A name in a pickle that may be called."""

    name: str


class _Machine:
    """The stack machine of pickle: values, the stacks below the last mark, and what was remembered by number."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """One opcode."""
        if name in ("PROTO", "FRAME", "STOP"):
            return
        if name in _CONSTANTS:
            self.stack.append(argument if _CONSTANTS[name] is _ARGUMENT else _CONSTANTS[name])
        elif name in _NEW:
            self.stack.append(_NEW[name]())
        elif name == "MARK":
            self.below.append(self.stack)
            self.stack = []
        elif name in _PUT:
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.stack[-1]
        elif name in _GET:
            self.stack.append(self.memo[argument])
        elif name in _STEPS:
            _STEPS[name](self, argument)
        else:
            raise Refused(f"the pickle opcode {name}")

    def pop(self, count: int = 1) -> list[Any]:
        """The topmost values, in the order they were pushed."""
        if len(self.stack) < count:
            raise ValueError("the stack of its pickle is empty")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def pop_mark(self) -> list[Any]:
        """All values above the last mark."""
        values, self.stack = self.stack, self.below.pop()
        return values


def _tuple(machine: _Machine, values: list[Any]) -> None:
    machine.stack.append(tuple(values))


def _extend(machine: _Machine, values: list[Any]) -> None:
    if isinstance(machine.stack[-1], Unknown):
        return
    if type(machine.stack[-1]) is not list:
        raise ValueError("its pickle appends to what is no list")
    machine.stack[-1].extend(values)


def _update(machine: _Machine, values: list[Any]) -> None:
    """Keys and values in turn into the dict on top; keys that need hashing in depth are not let in."""
    if isinstance(machine.stack[-1], Unknown):
        return
    if type(machine.stack[-1]) is not dict or len(values) % 2:
        raise ValueError("its pickle sets items of what is no dict")
    keys = values[::2]
    if not all(type(key) in (str, int) for key in keys):
        raise Refused("a dict whose keys are no text or integers")
    machine.stack[-1].update(zip(keys, values[1::2], strict=True))


def _reduce(machine: _Machine, _: Any) -> None:
    function, arguments = machine.pop(2)
    unknown = next((x for x in (function, *_entries(arguments)) if isinstance(x, Unknown)), None)
    if unknown is not None:
        machine.stack.append(unknown)
        return
    if not isinstance(function, _Callable) or type(arguments) is not tuple:
        raise ValueError("its pickle calls what is no function")
    machine.stack.append(_CALLS[function.name](*arguments))


def _entries(arguments: Any) -> tuple:
    return arguments if type(arguments) is tuple else ()


def _new_object(machine: _Machine, _: Any) -> None:
    """An instance of a class, none of which is known."""
    made, *_ = machine.pop(2)
    if not isinstance(made, Unknown):
        raise ValueError("its pickle makes an instance of what is no class")
    machine.stack.append(made)


def _build(machine: _Machine, _: Any) -> None:
    """Attributes, such as the versions in the state dict of a module, are dropped."""
    if type(machine.stack[-2]) is not dict and not isinstance(machine.stack[-2], Unknown):
        raise ValueError("its pickle sets attributes of what has none")
    machine.pop()


def _storage(machine: _Machine, _: Any) -> None:
    (place,) = machine.pop()
    if type(place) is tuple and len(place) > 1 and isinstance(place[1], Unknown):
        machine.stack.append(place[1])
        return
    if type(place) is not tuple or len(place) != 5 or place[0] != "storage" or not isinstance(place[1], np.dtype):
        raise ValueError("its pickle refers to what is no storage")
    _, dtype, member, _, length = place
    if type(member) is not str:
        raise ValueError("a storage's name is no text")
    machine.stack.append(Storage(dtype, member, *_integers((length,))))


def _named(module: Any, name: Any) -> Any:
    full = f"{module}.{name}" if type(module) is str and type(name) is str else "a name that is no text"
    if full in _CALLS:
        return _Callable(full)
    if full in _STORAGES:
        return _STORAGES[full]
    return Unknown(full)


def _integers(value: Any) -> tuple[int, ...]:
    if type(value) is not tuple or not all(type(entry) is int and 0 <= entry < 1 << 63 for entry in value):
        raise ValueError("a tensor's shape or strides are no tuple of integers")
    return value


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
    """Mirrors `torch._utils._rebuild_tensor_v2`; `rest` is requires_grad, hooks, and whether it is lazily negated."""
    if not isinstance(storage, Storage) or (len(rest) > 2 and rest[2]):
        raise ValueError("a tensor without a storage of its own")
    (offset,), shape, strides = _integers((offset,)), _integers(shape), _integers(strides)
    if len(shape) != len(strides):
        raise ValueError("a tensor's shape and strides differ in length")
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(data: Any, *_: Any) -> Tensor:
    """Mirrors `torch._utils._rebuild_parameter`."""
    if not isinstance(data, Tensor):
        raise ValueError("a parameter without a tensor")
    return data


def _ordered_dict() -> dict:
    """Filled by the opcodes that follow, never by arguments, whose keys nobody has looked at."""
    return {}


_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "collections.OrderedDict": _ordered_dict,
}
_STORAGES = {
    f"torch.{name}Storage": np.dtype(dtype)
    for name, dtype in {
        "Double": np.float64,
        "Float": np.float32,
        "Half": np.float16,
        "BFloat16": ml_dtypes.bfloat16,
        "Long": np.int64,
        "Int": np.int32,
        "Short": np.int16,
        "Char": np.int8,
        "Byte": np.uint8,
        "Bool": np.bool_,
    }.items()
}
_ARGUMENT = object()
_CONSTANTS = {
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _ARGUMENT),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _ARGUMENT),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"), Unknown("bytes")),
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
}
_NEW: dict[str, type] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_PUT = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_GET = ("GET", "BINGET", "LONG_BINGET")
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "TUPLE1": lambda machine, _: _tuple(machine, machine.pop(1)),
    "TUPLE2": lambda machine, _: _tuple(machine, machine.pop(2)),
    "TUPLE3": lambda machine, _: _tuple(machine, machine.pop(3)),
    "TUPLE": lambda machine, _: _tuple(machine, machine.pop_mark()),
    "APPEND": lambda machine, _: _extend(machine, machine.pop(1)),
    "APPENDS": lambda machine, _: _extend(machine, machine.pop_mark()),
    "SETITEM": lambda machine, _: _update(machine, machine.pop(2)),
    "SETITEMS": lambda machine, _: _update(machine, machine.pop_mark()),
    "GLOBAL": lambda machine, name: machine.stack.append(_named(*name.split(" ", 1))),
    "STACK_GLOBAL": lambda machine, _: machine.stack.append(_named(*machine.pop(2))),
    "BINPERSID": _storage,
    "REDUCE": _reduce,
    "NEWOBJ": _new_object,
    "BUILD": _build,
}
