"""What a torch file's pickle describes, by Python's own unpickler with nothing left that it could run or be made to run.

`_Reader` knows the opcodes that containers, numbers, text and calls need. What a pickle names is not looked up: three
functions of torch and Python are stood for by those in `_MEANT`, everything else is `Unknown`, which swallows what is
done to it and may lie beside tensors. The unpickler in C cannot be so confined: it hashes whatever is a key (an 87-byte
file of nested tuples keeps it busy for minutes, a deeper one ends the process) and allocates by the numbers in a file.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import ml_dtypes
import numpy as np

_LONGEST_NAME = 80  # of a module or of what is in it, in memory and in messages


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


@dataclass(frozen=True, slots=True)
class Unknown:
    """What something of a name that is not known here would be: an array of NumPy, a type, a module."""

    name: str

    def __call__(self, *_: Any) -> Unknown:
        return self

    def extend(self, _: Any) -> None:
        """Takes what a pickle appends."""

    append = extend


class Refused(Exception):
    """The pickle asks for something that is no tensor; says what."""


def interpret(pickled: bytes) -> Any:
    """The tensors, numbers, text, lists, tuples and dicts that a pickle describes; anything else is `Unknown`.

    Raises:
        Refused: it needs an opcode or keys that these do not need.
        Exception: it is damaged.

    >>> interpret(pickle.dumps({"epoch": 3, "run": eval}, 2))
    {'epoch': 3, 'run': Unknown(name='__builtin__.eval')}
    """
    return _Reader(io.BytesIO(pickled)).load()


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor | Unknown:
    """Mirrors `torch._utils._rebuild_tensor_v2`; `rest` is requires_grad, hooks, and whether it is lazily negated."""
    if isinstance(storage, Unknown):
        return storage
    if not isinstance(storage, Storage) or (len(rest) > 2 and rest[2]):
        raise ValueError("a tensor without a storage of its own")
    (offset,), shape, strides = _integers((offset,)), _integers(shape), _integers(strides)
    if len(shape) != len(strides):
        raise ValueError("a tensor's shape and strides differ in length")
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(data: Any, *_: Any) -> Tensor | Unknown:
    """Mirrors `torch._utils._rebuild_parameter`."""
    if not isinstance(data, Tensor | Unknown):
        raise ValueError("a parameter without a tensor")
    return data


def _ordered_dict() -> dict:
    """Filled by the opcodes that follow, never by arguments, whose keys nobody has looked at."""
    return {}


def _integers(value: Any) -> tuple[int, ...]:
    if type(value) is not tuple or not all(type(entry) is int and 0 <= entry < 1 << 63 for entry in value):
        raise ValueError("a tensor's shape or strides are no tuple of integers")
    return value


_STORAGES = {
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
}
_MEANT = {
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "collections.OrderedDict": _ordered_dict,
    **{f"torch.{name}Storage": np.dtype(dtype) for name, dtype in _STORAGES.items()},
}


def _set_items(reader: Any, items: list[Any]) -> None:
    """Keys and values in turn into the dict on top; keys that need hashing in depth, or share a hash, are not let in."""
    target, keys = reader.stack[-1], items[::2]
    if isinstance(target, Unknown):
        return
    if type(target) is not dict:
        raise ValueError("its pickle sets items of what is no dict")
    if not all(type(key) is str or (type(key) is int and abs(key) < 1 << 60) for key in keys):
        raise Refused("a dict whose keys are no text or integers")
    target.update(zip(keys, items[1::2], strict=True))


def _drop(reader: Any) -> None:
    """Arguments of a new instance, or attributes such as the versions in the state dict of a module."""
    reader.stack.pop()
    if not isinstance(reader.stack[-1], dict | Unknown):
        raise ValueError("its pickle makes an instance of what is no class, or sets attributes of what has none")


# As Python does them. Numbers of any length and memos by decimal numbers, which could share a hash, are not among them.
_HARMLESS = """
    PROTO FRAME STOP MARK BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET
    NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT
    BINUNICODE SHORT_BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8
    EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS
    GLOBAL STACK_GLOBAL BINPERSID REDUCE
"""
_OURS: dict[str, Callable[[Any], None]] = {
    "SETITEM": lambda reader: _set_items(reader, [reader.stack.pop(-2), reader.stack.pop()]),
    "SETITEMS": lambda reader: _set_items(reader, reader.pop_mark()),
    "NEWOBJ": _drop,
    "BUILD": _drop,
    "BYTEARRAY8": lambda reader: reader.load_binbytes8(),  # its own allocates before it reads
}


def _step(opcode: pickletools.OpcodeInfo) -> Callable[[Any], None]:
    if opcode.name in _HARMLESS.split():
        return pickle._Unpickler.dispatch[ord(opcode.code)]

    def refuse(_: Any) -> None:
        raise Refused(f"the pickle opcode {opcode.name}")

    return _OURS.get(opcode.name, refuse)


class _Reader(pickle._Unpickler):
    """Python's unpickler with other hands."""

    dispatch: ClassVar = {ord(opcode.code): _step(opcode) for opcode in pickletools.opcodes}

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for what is known by this name."""
        full = f"{module[:_LONGEST_NAME]}.{name[:_LONGEST_NAME]}"
        full = "".join(letter if letter.isprintable() else "?" for letter in full)
        return _MEANT.get(full, Unknown(full))

    def persistent_load(self, pid: Any) -> Storage | Unknown:
        """The storage that a tensor refers to."""
        if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage" or type(pid[2]) is not str:
            raise ValueError("its pickle refers to what is no storage")
        _, dtype, member, _, length = pid
        if isinstance(dtype, Unknown):
            return dtype
        if not isinstance(dtype, np.dtype):
            raise ValueError("its pickle refers to what is no storage")
        return Storage(dtype, member, *_integers((length,)))
