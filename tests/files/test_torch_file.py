"""Files of torch: what torch saved is read without torch, and nothing that a pickle names is ever run."""

from __future__ import annotations

import copy
import io
import os
import pickle
import sys
import tracemalloc
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import pytest
from saving import DATA, X, assert_same, read_or_refused, refused

from w2s_jax._core.checks import InputError
from w2s_jax.files import torch_pickle
from w2s_jax.files.opening import open_rows, read_groups

pytestmark = pytest.mark.usefixtures("unchecked")

SAVED = DATA / "torch.pt"  # torch.save of a dict, by torch 2.13; torch_tensor.pt: of one tensor
STORAGE = X.tobytes()


def test_a_tensor_is_read_without_a_key():
    assert_same(open_rows(DATA / "torch_tensor.pt")[:], X)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("reps", X),
        ("half", X.astype(np.float16)),
        ("bf16", X.astype(ml_dtypes.bfloat16)),
        ("view", np.arange(40.0).reshape(10, 4)[2:9, 1:3]),
        ("transposed", np.arange(14).reshape(2, 7).T),
    ],
)
def test_tensors_of_a_dict_with_their_dtypes_offsets_and_strides(key, expected):
    rows = open_rows(f"{SAVED}:{key}")
    assert (rows.shape, rows.dtype) == (expected.shape, expected.dtype)
    assert_same(rows[:], expected)
    assert_same(rows[2:5], expected[2:5])


def test_a_list_beside_the_tensors_gives_the_ids():
    ids = open_rows(f"{SAVED}:reps").ids
    assert ids is not None
    assert ids[2:4].tolist() == ["row 2", "row 3"]
    assert read_groups(f"{SAVED}:ids").tolist() == list(range(7))


def test_tensors_are_memory_mapped(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes((DATA / "torch_tensor.pt").read_bytes())
    block = open_rows(path)[2:4]
    with path.open("r+b") as file:
        file.seek(path.read_bytes().index(STORAGE) + X[:2].nbytes)
        file.write(np.float32(-1).tobytes())
    assert block[0, 0] == -1


def test_several_tensors_need_a_key():
    with refused(r"name one as \S+:KEY, KEY one of bf16, half, reps, transposed, view"):
        open_rows(SAVED)
    with refused("it has no array 'epoch', only bf16, half, reps, transposed, view"):
        open_rows(f"{SAVED}:epoch")


def test_one_tensor_takes_no_key():
    with refused("it holds one tensor, so it takes no key, got 'x'"):
        open_rows(f"{DATA / 'torch_tensor.pt'}:x")


# Hand-made files: a pickler that writes tensors as torch does


class Storage(tuple):
    """Pickled as a persistent id."""


class Made:
    """Pickled as a call of the named function with the arguments, whatever they are."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Named:
    """Something that pickle finds under this name."""

    def __init__(self, module: str, name: str) -> None:
        self.__module__, self.__qualname__ = module, name


class Pickler(pickle._Pickler):
    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def persistent_id(self, obj: Any) -> Any:
        return tuple(obj) if isinstance(obj, Storage) else None

    def save_named(self, obj: Named) -> None:
        self.write(f"c{obj.__module__}\n{obj.__qualname__}\n".encode())

    dispatch[Named] = save_named

    def save_made(self, obj: Made) -> None:
        function, arguments = obj.call
        self.save(function)
        self.save(tuple(arguments))
        self.write(b"R")

    dispatch[Made] = save_made


REBUILD = Named("torch._utils", "_rebuild_tensor_v2")


def tensor(shape=(7, 3), strides=(3, 1), offset=0, length=21, dtype="Float", member="0", rest=()) -> Made:
    storage = Storage(("storage", Named("torch", f"{dtype}Storage"), member, "cpu", length))
    return Made(REBUILD, storage, offset, shape, strides, False, OrderedDict(), *rest)


def written(
    path: Path, obj: Any, data: bytes = STORAGE, method: int = zipfile.ZIP_STORED, protocol: int = 2, **members: bytes
) -> Path:
    stream = io.BytesIO()
    Pickler(stream, protocol).dump(obj)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x/data.pkl", stream.getvalue(), zipfile.ZIP_STORED)
        archive.writestr("x/data/0", data)
        for name, content in members.items():
            archive.writestr(f"x/{name}", content)
    return path


def test_hand_made_files_are_read_as_real_ones(tmp_path):
    path = tmp_path / "x.pth"
    assert_same(open_rows(written(path, tensor()))[:], X)
    assert_same(open_rows(written(path, {"only": tensor(), "id": list(range(7))}))[:], X)
    assert_same(open_rows(written(path, OrderedDict(only=tensor())))[:], X)
    parameter = Made(Named("torch._utils", "_rebuild_parameter"), tensor(), True, OrderedDict())
    assert_same(open_rows(written(path, parameter))[:], X)


def test_big_endian_storages(tmp_path):
    path = written(tmp_path / "x.pt", tensor(), X.astype(">f4").tobytes(), byteorder=b"big")
    assert_same(open_rows(path)[:], X)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"mkdir {self.path}",)


def test_a_pickle_that_runs_a_command_is_not_run(tmp_path):
    path = written(tmp_path / "x.pt", Bomb(tmp_path / "boom"))
    with refused(r"expected a tensor or a dict of tensors, got posix\.system"):
        open_rows(path)
    path = written(tmp_path / "x.pt", {"reps": tensor(), "config": Bomb(tmp_path / "boom")})
    assert_same(open_rows(path)[:], X)
    with refused(r"expected a tensor as 'config', got posix\.system: save it as a tensor"):
        open_rows(f"{path}:config")
    assert not (tmp_path / "boom").exists()
    os.system(f"mkdir {tmp_path / 'boom'}")
    assert (tmp_path / "boom").exists()  # so the check above could have failed


@pytest.mark.parametrize(
    "name", ["builtins.eval", "torch._utils._rebuild_sparse_tensor", "torch.nn.Linear", "collections.Counter", "os.a b"]
)
def test_other_names_may_lie_beside_tensors(tmp_path, name):
    module, _, attribute = name.rpartition(".")
    path = written(tmp_path / "x.pt", {"x": tensor(), "y": Made(Named(module, attribute), "1")})
    assert_same(open_rows(path)[:], X)
    with refused(f"expected a tensor as 'y', got {name}: save it as a tensor"):
        open_rows(f"{path}:y")
    with refused(f"expected a tensor or a dict of tensors, got dict, {name}"):
        open_rows(written(tmp_path / "x.pt", {"y": Made(Named(module, attribute), "1")}))


class Plain:
    """An instance, whose pickle has NEWOBJ and BUILD."""

    def __init__(self) -> None:
        self.width = 3


@pytest.mark.parametrize(
    ("beside", "name"),
    [
        (np.ones(3), r"numpy\.\S+_reconstruct"),
        (np.float32(3), r"numpy\.\S+scalar"),
        (defaultdict(int, a=1), r"collections\.defaultdict"),
        (Plain(), r"\S*test_torch_file\.Plain"),
        (Plain, r"\S*test_torch_file\.Plain"),
    ],
)
def test_what_users_save_beside_tensors(tmp_path, beside, name):
    path = written(tmp_path / "x.pt", {"x": tensor(), "more": beside})
    assert_same(open_rows(path)[:], X)
    with refused(f"expected a tensor as 'more', got {name}: save it as a tensor"):
        open_rows(f"{path}:more")


def test_nested_tensors_have_keys_with_dots(tmp_path):
    path = written(
        tmp_path / "x.pt", {"layers": [tensor(), {"last": tensor(offset=3, shape=(6, 3))}], "ids": list(range(7))}
    )
    rows = open_rows(f"{path}:layers.0")
    assert_same(rows[:], X)
    assert rows.ids is not None
    assert rows.ids[:].tolist() == list(range(7))
    with refused(r"it holds several arrays, name one as \S+:KEY, KEY one of layers\.0, layers\.1\.last"):
        open_rows(path)
    assert_same(open_rows(written(tmp_path / "x.pt", [tensor(), tensor()]).as_posix() + ":1")[:], X)


def test_one_protein_a_file_as_esm_saves_them(tmp_path):
    """Mean representations of a layer; those of every residue lie beside them."""
    for number in (2, 10):
        means = {layer: tensor(shape=(3,), strides=(1,), offset=layer + number) for layer in (4, 5)}
        found = {"label": f"protein {number}", "representations": {5: tensor()}, "mean_representations": means}
        written(tmp_path / f"protein{number}.pt", found)
    flat = X.reshape(-1)
    for given in (f"{tmp_path}:layer=5", f"{tmp_path}:mean_representations.5"):
        rows = open_rows(given)
        assert_same(rows[:], np.stack([flat[7:10], flat[15:18]]))
        assert rows.note.endswith("from protein2.pt to protein10.pt")
    with refused("it has no array 'mean_representations.6', only .+"):
        open_rows(f"{tmp_path}:layer=6")
    for number in (2, 10):
        written(tmp_path / f"protein{number}.pt", {"mean_representations": {5: tensor(shape=(3,), strides=(1,))}})
    assert open_rows(tmp_path).shape == (2, 3)


def test_a_container_within_itself_is_looked_into_once(tmp_path):
    loop: dict = {"x": tensor()}
    loop |= {str(i): loop for i in range(9)}
    assert_same(open_rows(written(tmp_path / "x.pt", loop))[:], X)


def test_other_opcodes_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({"x": [1.5]}, 0))
    with refused("expected nothing but tensors, got the pickle opcode DICT: save a tensor or a dict of tensors"):
        open_rows(path)


def nested(depth: int) -> bytes:
    return b"\x80\x02}" + b")" + depth * b"\x85" + b"Ns."


def long(opcode: bytes, length: int, count: int) -> bytes:
    return b"\x80\x05" + opcode + length.to_bytes(count, "little") + b"."


REMEMBERED_TWICE = b"q\0h\0\x86"  # a pair of what is on top, twice the same
HOSTILE = {
    "a deep tuple as a key": nested(2 * 10**5),
    "a key whose hash takes for ever": b"\x80\x02}N" + 60 * REMEMBERED_TWICE + b"Ns.",
    "a deep tuple": b"\x80\x02)" + 2 * 10**5 * b"\x85" + b".",
    "pairs of pairs": b"\x80\x02N" + 60 * REMEMBERED_TWICE + b".",
    "deep marks": 10**5 * b"(" + b".",
    "an empty stack": b"\x80\x02R.",
    "nothing to build": b"\x80\x02Nb.",
    "nothing to set": b"\x80\x02}Ns.",
    "no value": b"\x80\x02.",
    "two values": b"\x80\x02NN.",
    "an unknown memo": b"\x80\x02h\x05.",
    "the last memo there can be": b"\x80\x02Nr\xff\xff\xff\xff.",
    "items of a tuple": b"\x80\x02)NNs.",
    "appending to a dict": b"\x80\x02}Na.",
    "calling text": b"\x80\x02X\x01\x00\x00\x00a)R.",
    "calling a type of storage": b"\x80\x02ctorch\nFloatStorage\n)R.",
    "an instance of text": b"\x80\x02X\x01\x00\x00\x00a)\x81.",
    "a storage that is none": b"\x80\x02)Q.",
    "no end": b"\x80\x02}",
    "no such opcode": b"\x80\x02\x01.",
    "no such protocol": b"\x80\x09N.",
    "a long integer as a key": b"\x80\x02}\x8b\x04\x00\x00\x00\x01\x00\x00\x00Ns.",
    "a key that shares its hash": b"\x80\x02}\x8a\x08" + (2**61 - 1).to_bytes(8, "little") + b"Ns.",
    "a list as a key": b"\x80\x02}]Ns.",
    "text of an exabyte": long(b"\x8d", 2**60, 8),
    "bytes of an exabyte": long(b"\x8e", 2**60, 8),
    "an array of an exabyte": long(b"\x96", 2**60, 8),
    "a frame of an exabyte": long(b"\x95", 2**60, 8),
    "an integer of two gigabytes": long(b"\x8b", 2**31 - 1, 4),
    "a name that is no text": b"\x80\x04K\x01K\x02\x93.",
    "a name of two lines": b"\x80\x04\x8c\x03a\nb\x8c\x03c\nd\x93.",
    "a name of a megabyte": b"\x80\x02c" + 2**20 * b"a" + b"\nb\n.",
    "an extension": b"\x80\x02\x82\x01.",
    "an instance of protocol 0": b"(ios\nsystem\n.",
    "an instance of protocol 1": b"(cos\nsystem\nX\x01\x00\x00\x00ao.",
    "an instance with keywords": b"\x80\x04cos\nsystem\n)}\x92.",
    "a buffer of someone else": b"\x80\x05\x97\x98.",
    "a set": b"\x80\x04\x8f.",
}


def pickled(path: Path, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", data)
        archive.writestr("x/data/0", STORAGE)
    return path


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_one_sentence(tmp_path, name):
    """At once, and in no more memory than a few times their own size."""
    path = pickled(tmp_path / "x.pt", HOSTILE[name])
    tracemalloc.start()
    try:
        with refused(r"(expected .+|it is damaged, truncated or not a \.pt file \(.+\))"):
            open_rows(path)
        assert tracemalloc.get_traced_memory()[1] < (1 << 20) + 400 * len(HOSTILE[name])
    finally:
        tracemalloc.stop()


def test_names_in_messages_are_short_and_printable(tmp_path):
    for name in ("a name of two lines", "a name of a megabyte"):
        with pytest.raises(InputError) as raised:
            open_rows(pickled(tmp_path / "x.pt", HOSTILE[name]))
        assert len(str(raised.value)) < 400
        assert str(raised.value).isprintable()


ATTRIBUTES = {"__defaults__": ((), ()), "__dict__": {"a": 1}, "__class__": dict, "a": 1}
STAND_INS = ["torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "collections.OrderedDict"]


@pytest.mark.parametrize("name", [*STAND_INS, "torch.FloatStorage", "os.system"])
@pytest.mark.parametrize("slots", [False, True])
def test_a_pickle_leaves_no_trace_on_what_stands_for_a_name(tmp_path, name, slots):
    """Attributes that a pickle sets on a function or type would still be there for the next file."""
    stream = io.BytesIO()
    pickler = Pickler(stream, 2)
    pickler.write(b"\x80\x02" + "c{}\n{}\n".format(*name.rsplit(".", 1)).encode())
    pickler.save((None, ATTRIBUTES) if slots else ATTRIBUTES)
    pickler.write(b"b.")
    before = {key: copy.copy(getattr(value, "__dict__", None)) for key, value in torch_pickle._MEANT.items()}
    with refused(r"(expected .+|it is damaged, .+ \(its pickle makes an instance of what is no class, or sets .+\))"):
        open_rows(pickled(tmp_path / "x.pt", stream.getvalue()))
    assert before == {key: getattr(value, "__dict__", None) for key, value in torch_pickle._MEANT.items()}
    assert torch_pickle._rebuild_tensor.__defaults__ is None
    assert_same(open_rows(written(tmp_path / "x.pt", tensor()))[:], X)


@pytest.mark.parametrize("module", ["antigravity", "w2s_jax.no_such_module", "this", "os.path", ""])
def test_no_module_is_imported(tmp_path, module):
    """Neither by GLOBAL nor by STACK_GLOBAL, whose name may have dots."""
    loaded = set(sys.modules)
    stacked = b"".join(b"\x8c" + bytes([len(text)]) + text for text in (module.encode(), b"a.b.c"))
    for data in (f"\x80\x02c{module}\na\n.".encode("latin1"), b"\x80\x04" + stacked + b"\x93."):
        with refused(rf"expected a tensor or a dict of tensors, got {module}\.a\S*"):
            open_rows(pickled(tmp_path / "x.pt", data))
    assert set(sys.modules) == loaded


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_from_2_on_is_read(tmp_path, protocol):
    """With frames, memos without numbers, and bytes beside the tensors."""
    held = {
        "x": tensor(),
        "ids": [f"row {i}" for i in range(7)],
        "bytes": b"a",
        "more": bytes(300),
        "array": bytearray(3),
    }
    rows = open_rows(written(tmp_path / "x.pt", held, protocol=protocol))
    assert rows.ids is not None
    assert_same(rows[:], X)
    assert rows.ids[:].tolist() == held["ids"]
    name = "bytes" if protocol > 2 else r"_codecs\.encode"
    with refused(f"expected a tensor as 'bytes', got {name}: save it as a tensor"):
        open_rows(f"{tmp_path / 'x.pt'}:bytes")


def test_a_list_that_is_there_ten_thousand_times_is_searched_once(tmp_path):
    numbers = list(range(10**5))
    path = written(tmp_path / "x.pt", {"x": tensor(), "more": [[], *[numbers] * 10**4]})
    assert_same(open_rows(path)[:], X)


def test_what_has_a_name_too_long_is_passed_by(tmp_path):
    assert_same(open_rows(written(tmp_path / "x.pt", {"x": tensor(), "y" * 2000: tensor()}))[:], X)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (dict(length=10**12), r"expected 4000000000000 bytes of uncompressed data in its member 'x/data/0', got 84"),
        (dict(shape=(8, 3)), "its tensor ends at number 24 of a storage of 21"),
        (dict(offset=1), "its tensor ends at number 22 of a storage of 21"),
        (dict(strides=(3, 10)), "its tensor ends at number 39 of a storage of 21"),
        (dict(shape=(10**18, 10**18), strides=(0, 0)), r"it is damaged.+"),
        (dict(shape=(7, -3)), r"it is damaged, .+ \(a tensor's shape or strides are no tuple of integers\)"),
        (dict(shape=(7, True)), r"it is damaged, .+ \(a tensor's shape or strides are no tuple of integers\)"),
        (dict(shape=(7,)), r"it is damaged, .+ \(a tensor's shape and strides differ in length\)"),
        (dict(member="1"), "it is damaged, .+"),
        (dict(member="../../etc/passwd"), "it is damaged, .+"),
        (dict(dtype="ComplexFloat"), "expected a tensor or a dict of tensors, got torch.ComplexFloatStorage"),
        (dict(rest=({"neg": True},)), "it is damaged, .+"),
        (dict(shape=(0, 3)), r"expected at least one row and one column, got shape \(0, 3\)"),
        (dict(shape=(7, 3, 1), strides=(3, 1, 1)), r"expected shape \(n,\) or \(n, d\), got \(7, 3, 1\)"),
    ],
)
def test_tensors_that_do_not_fit_their_storage_are_refused(tmp_path, made, why):
    with refused(why):
        open_rows(written(tmp_path / "x.pt", tensor(**made)))


def test_a_compressed_storage_is_refused(tmp_path):
    with refused("expected 84 bytes of uncompressed data in its member 'x/data/0', got 84"):
        open_rows(written(tmp_path / "x.pt", tensor(), method=zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize(
    ("obj", "came"), [([1, 2], "list"), ("text", "str"), (None, "NoneType"), ((1, 2), "tuple"), ({"a": 1.5}, "dict")]
)
def test_what_is_no_tensor_nor_dict_is_refused(tmp_path, obj, came):
    with refused(f"expected a tensor or a dict of tensors, got {came}"):
        open_rows(written(tmp_path / "x.pt", obj))


@pytest.mark.parametrize("ids", [[1, "a"], [1.5], [None], []])
def test_ids_that_are_no_integers_or_text_are_refused(tmp_path, ids):
    with refused(
        r"cannot read row ids of array from \S+: expected integers or text, got a list; its array 'ids' names .+"
    ):
        open_rows(written(tmp_path / "x.pt", {"x": tensor(), "ids": ids}))


def test_the_format_before_torch_1_6_is_named(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"rest")
    with refused(r"it is in the format of torch before 1\.6: load and save it with a newer torch"):
        open_rows(path)


def test_files_cut_at_any_length_are_refused(tmp_path):
    whole = SAVED.read_bytes()
    path = tmp_path / "x.pt"
    for length in range(0, len(whole), 11):
        path.write_bytes(whole[:length])
        with refused(r"it is damaged, truncated or not a \.pt file \(.+\)"):
            open_rows(f"{path}:reps")


def test_files_with_any_byte_changed_are_read_or_refused(tmp_path):
    whole = (DATA / "torch_tensor.pt").read_bytes()
    path = tmp_path / "x.pt"
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        read_or_refused(path)


def test_pickles_with_any_byte_changed_are_read_or_refused(tmp_path):
    stream = io.BytesIO()
    Pickler(stream, 2).dump({"x": tensor(), "ids": ["a"] * 7})
    pickled, path = stream.getvalue(), tmp_path / "x.pt"
    rng = np.random.default_rng(0)
    for place in range(len(pickled)):
        for byte in rng.integers(0, 256, 4):
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("x/data.pkl", pickled[:place] + bytes([byte]) + pickled[place + 1 :])
                archive.writestr("x/data/0", STORAGE)
            read_or_refused(path)
