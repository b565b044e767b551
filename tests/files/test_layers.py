"""One layer of an array with all of them: along which axis they are is found out and said, or asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from saving import assert_same, refused

from w2s_jax.files.opening import open_rows
from w2s_jax.files.rows import _WholeLayer

pytestmark = pytest.mark.usefixtures("unchecked")

LAYERS, N, D = 3, 40, 5
ALL = np.arange(LAYERS * N * D, dtype=np.float32).reshape(LAYERS, N, D)
FORMS = {
    "npy": lambda path, x: np.save(path, x),
    "npz": lambda path, x: np.savez(path, hidden=x, ids=np.arange(N)),
    "deflated": lambda path, x: np.savez_compressed(path, hidden=x),
    "safetensors": lambda path, x: pytest.importorskip("safetensors.numpy").save_file({"hidden": x}, path),
    "zarr": lambda path, x: save_zarr(path, x),
}


def save_zarr(path: Path, x: np.ndarray) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    store = {"driver": "file", "path": str(path)}
    spec = {"driver": "zarr", "kvstore": store, "metadata": {"chunks": (2, 8, 5)}}
    array = tensorstore.open(spec, create=True, shape=x.shape, dtype="float32")
    array.result().write(x).result()


def saved(folder: Path, form: str, x: np.ndarray) -> Path:
    path = folder / f"reps.{'npz' if form == 'deflated' else form}"
    FORMS[form](path, np.ascontiguousarray(x))
    return path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("axis", [0, 1])
def test_a_layer_is_rows(tmp_path, form, axis):
    """Layers before rows and rows before layers; counted from the end too, and behind a key."""
    path = saved(tmp_path, form, ALL if axis == 0 else ALL.swapaxes(0, 1))
    shape = (LAYERS, N, D) if axis == 0 else (N, LAYERS, D)
    keys = [""] if form in ("npy", "zarr") else ["", "hidden:"]
    for given in [f"{path}:{key}layer={layer}" for key in keys for layer in (2, -1)] + [f"{path}:layer=2,axis={axis}"]:
        rows = open_rows(given)
        assert rows.note == f"layer 2 of the 3 along axis {axis} of the shape {shape}"
        assert_same(rows[:], ALL[2])
        assert_same(rows[7:31], ALL[2, 7:31])
        assert (rows.ids is not None) == (form == "npz")


def test_a_layer_before_rows_is_read_once_for_all_its_blocks():
    """It comes whole, and is let go with its last row."""
    calls: list[tuple[int, int]] = []

    def read(start: int, stop: int) -> np.ndarray:
        calls.append((start, stop))
        return ALL[start:stop]

    layer = _WholeLayer(read, 1)
    for _ in range(2):
        assert_same(np.concatenate([layer(start, min(start + 7, N)) for start in range(0, N, 7)]), ALL[1])
    assert calls == [(1, 2)] * 2


def test_layers_of_shards(tmp_path):
    for number in (2, 10):
        np.save(tmp_path / f"part{number}.npy", ALL.swapaxes(0, 1) + number)
    np.save(tmp_path / "part11.npy", ALL.swapaxes(0, 1)[:1])  # alone it would be one layer of three rows
    rows = open_rows(f"{tmp_path}:layer=-1")
    assert_same(rows[:], np.concatenate([ALL[2] + 2, ALL[2] + 10, ALL[2, :1]]))
    assert rows.note == "layer 2 of the 3 along axis 1 of the shape (40, 3, 5)"


@pytest.mark.parametrize(
    ("shape", "layer", "why"),
    [
        (
            (25, 13, 4),
            "8",
            r"which axis of its shape \(25, 13, 4\) are the layers is not clear: say FILE:layer=8,axis=0 or 1",
        ),
        ((40, 3, 4), "3", r"expected one of the 3 layers along axis 1 of its shape \(40, 3, 4\), got 3"),
        ((40, 3, 4), "-4", "expected one of the 3 layers .+ got -4"),
        ((40, 3), "1", r"it has no layers: expected shape \(n, layers, d\) or \(layers, n, d\), got \(40, 3\)"),
    ],
)
def test_what_is_not_clear_or_not_there_is_refused(tmp_path, shape, layer, why):
    path = saved(tmp_path, "npy", np.ones(shape, np.float32))
    with refused(why):
        open_rows(f"{path}:layer={layer}")


def test_an_array_of_layers_asks_for_one(tmp_path):
    with refused(r"of several layers name one as FILE:layer=L; expected shape \(n,\) or \(n, d\), got \(3, 40, 5\)"):
        open_rows(saved(tmp_path, "npy", ALL))
