"""Second moments: the equations hold, in any split of the rows and at any mean, and bad input is one sentence."""

from __future__ import annotations

import mmap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import entrywise_error, pair, relative_error

from w2s_jax import InputError, Moments, moments, moments_from_batches

N, D_W, D_S = 40, 5, 7
PRODUCTS = ("ww", "ss", "sw", "wy", "sy", "yy")
MEANS = ("mean_w", "mean_s", "mean_y")
LABELS = {"none": lambda y: None, "one": lambda y: y[:, 0], "two": lambda y: y}

pytestmark = pytest.mark.filterwarnings("error")


def rows(n: int = N, seed: int = 0, dtype: np.dtype = np.float32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tuple(pair("generic", n, D_W, D_S, seed, dtype))


def means(m: Moments) -> tuple:
    return m.weak.mean, m.strong.mean, m.strong.label_mean


def agrees(m: Moments, expected: dict[str, np.ndarray], tolerance: float) -> None:
    """All products and means are those of the reference, relative to the spread of the columns they belong to."""
    found = {name: getattr(m, name) for name in PRODUCTS} | dict(zip(MEANS, means(m), strict=True))
    spread = {side: np.sqrt(np.max(expected.get(2 * side, 1))) for side in "wsy"}
    for name, value in found.items():
        assert (value is None) == (name not in expected)
        if value is not None:
            floor = np.prod([spread[side] for side in name.removeprefix("mean_")])
            assert relative_error(value, expected[name], floor) <= tolerance, name


def same(m: Moments, other: Moments, tolerance: float) -> None:
    """Two moments agree in all they report."""
    for name in ("n", *PRODUCTS):
        assert entrywise_error(getattr(m, name), getattr(other, name)) <= tolerance, name
    for one, two in zip(means(m), means(other), strict=True):
        assert one is two is None or entrywise_error(one, two) <= tolerance


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("n", [3, N])
def test_moments_are_those_of_the_reference(n, bias, labels, dtype):
    """Every product and mean is the printed equation, for fewer and for more rows than features."""
    h_w, h_s, y = rows(n, dtype=dtype)
    y = LABELS[labels](y)
    agrees(moments(h_w, h_s, y, bias=bias), reference.moments(h_w, h_s, y, bias), 8 * float(np.finfo(dtype).eps))


@pytest.mark.parametrize("bias", [False, True])
def test_integer_weights_repeat_rows(bias):
    """A row of weight 3 counts as three rows, a row of weight 0 as none."""
    h_w, h_s, y = rows()
    weights = np.random.default_rng(1).integers(0, 4, N)
    repeated = (np.repeat(x, weights, axis=0) for x in (h_w, h_s, y))
    m = moments(h_w, h_s, y, weights=weights.astype(np.float32), bias=bias)
    agrees(m, reference.moments(*repeated, bias), 1e-6)
    assert m.n == weights.sum()


@pytest.mark.parametrize("narrow", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("bias", [False, True])
def test_16_bit_floats_accumulate_in_float32(narrow, bias):
    """Moments of 16-bit representations are exact sums of their rounded entries."""
    h_w, h_s, y = (x.astype(narrow) for x in rows(2000))
    m = moments(h_w, h_s, y, bias=bias)
    assert m.ww.dtype == jnp.float32
    agrees(m, reference.moments(h_w, h_s, y, bias), 2e-6)


def test_a_mix_of_dtypes_accumulates_in_the_widest(x64):
    """One float64 array among 16-bit and 32-bit ones makes all sums float64."""
    h_w, h_s, y = rows()
    m = moments(h_w.astype(jnp.bfloat16), h_s, y.astype(np.float64))
    assert {x.dtype for x in jax.tree.leaves(m)} == {jnp.dtype("float64")}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("convert", [np.int8, np.int64, bool, list])
def test_integers_booleans_and_lists_convert(convert):
    """Anything numeric is taken as floats."""
    h_w, h_s, y = (np.round(3 * x) for x in rows())
    if convert is bool:
        h_w, h_s, y = h_w > 0, h_s > 0, y > 0
    given = ((x.tolist() if convert is list else x.astype(convert)) for x in (h_w, h_s, y))
    agrees(moments(*given), reference.moments(h_w, h_s, y), 1e-6)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("cuts", [(10,), (1, 17, 39)])
def test_moments_of_blocks_add_up(bias, cuts):
    """However the rows are split, the blocks' moments add up to the whole's."""
    blocks = zip(*(np.split(x, cuts) for x in rows()), strict=True)
    parts = [moments(*block, bias=bias) for block in blocks]
    same(sum(parts[1:], parts[0]), moments(*rows(), bias=bias), 1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_subtracting_a_block_leaves_the_others(bias):
    """Leaving a block out by subtraction equals never having seen it."""
    out, rest = zip(*(np.split(x, [15]) for x in rows()), strict=True)
    same(moments(*rows(), bias=bias) - moments(*out, bias=bias), moments(*rest, bias=bias), 3e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_a_stream_equals_the_whole(bias):
    """Batches of unequal length stream to the moments of all rows at once."""
    batches = zip(*(np.split(x, [10, 20, 37]) for x in rows()), strict=True)
    same(moments_from_batches(batches, bias=bias), moments(*rows(), bias=bias), 1e-6)


def test_a_stream_without_labels_equals_the_whole():
    """Batches may be (h_w, h_s) or (h_w, h_s, None)."""
    (a, b), (c, d), _ = (np.split(x, 2) for x in rows())
    streamed, whole = moments_from_batches([(a, c), (b, d, None)]), moments(*rows()[:2])
    assert streamed.wy is streamed.yy is None
    assert entrywise_error(streamed.sw, whole.sw) <= 1e-6


@pytest.mark.parametrize("route", ["whole", "stream", "merged"])
def test_centring_far_from_zero_keeps_five_digits(route):
    """In float32, a spread of 1 about a mean of 1e4 is measured to 1e-5, also between sets with different shifts."""
    data = [
        (x + 1e4).astype(np.float32) for x in np.split(np.random.default_rng(0).normal(size=(3000, 13)), [5, 12], 1)
    ]
    data[2] = data[2][:, 0]
    expected = reference.moments(*data, bias=True)
    blocks = list(zip(*(np.split(x, 3) for x in data), strict=True))
    if route == "whole":
        m = moments(*data, bias=True)
    elif route == "stream":
        m = moments_from_batches(blocks, bias=True)
    else:
        first, *others = (moments(*block, bias=True) for block in blocks)
        m = sum(others, first)
    agrees(m, expected, 1e-5)


@pytest.fixture(scope="module")
def two_million_rows() -> tuple[tuple, dict]:
    """Positive numbers, so that sums grow with the rows; and their moments in float64."""
    rng = np.random.default_rng(0)
    data = tuple(rng.random(shape, np.float32) for shape in ((2_000_000, 4), (2_000_000, 3), 2_000_000))
    return data, {bias: reference.moments(*data, bias) for bias in (False, True)}


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_two_million_rows_accumulate_without_drift(two_million_rows, bias, stream):
    """Sums of 2 million float32 rows are good to 1e-6, from one array or streamed."""
    data, expected = two_million_rows
    if stream:
        batches = zip(*(np.split(x, 400) for x in data), strict=True)
        m = moments_from_batches(batches, bias=bias)
    else:
        m = moments(*data, bias=bias)
    agrees(m, expected[bias], 1e-6)


def test_memory_of_a_stream_does_not_grow():
    """From its third batch on, a stream keeps as many arrays alive, of the same total size, as after the last."""
    batch = jax.tree.map(jnp.asarray, rows())
    alive = []

    def batches():
        for _ in range(20):
            yield batch
            alive.append(sum(x.nbytes for x in jax.live_arrays()))

    m = moments_from_batches(batches(), bias=True)
    assert set(alive[3:]) == {alive[3]}
    assert jax.tree.map(jnp.shape, m) == jax.tree.map(jnp.shape, moments(*batch, bias=True))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("huge_pages", [True, False])
def test_a_reader_may_fill_the_same_large_buffer_again(monkeypatch, dtype, huge_pages):
    """Blocks of several MiB, which a CPU takes over from a copy, written into one array in turn: none is lost or mixed."""
    if not huge_pages:
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    blocks = np.random.default_rng(0).normal(size=(3, 60_000, 40)).astype(dtype)
    buffer = np.empty_like(blocks[0])
    assert buffer.nbytes > 4 << 20

    def batches():
        for block in blocks:
            buffer[:] = block
            yield buffer, buffer[:, :3]
            buffer[:] = np.nan

    whole = blocks.reshape(-1, 40).astype(float)
    m = moments_from_batches(batches())
    assert m.ww.dtype == jnp.float32
    assert relative_error(m.ww, whole.T @ whole / len(whole), 1.0) <= 1e-6
    assert relative_error(m.sw, whole[:, :3].T @ whole / len(whole), 1.0) <= 1e-6


def test_progress_wraps_the_batches():
    """A progress function sees the batches and is what is iterated over."""
    seen = []

    def progress(batches):
        for batch in batches:
            seen.append(batch)
            yield batch

    batches = [rows(seed=s) for s in range(3)]
    moments_from_batches(batches, progress=progress)
    assert [id(batch) for batch in seen] == [id(batch) for batch in batches]


def spoiled(array: np.ndarray, *entries: tuple) -> np.ndarray:
    """A copy with NaN at the given entries, infinity at the last."""
    array = array.copy()
    for entry in entries:
        array[entry] = np.nan
    array[entries[-1]] = np.inf
    return array


H_W, H_S, Y = rows()
BAD_ARRAYS = {
    "rows": ((H_W[:-1], H_S), "same number of rows, got 39 and 40"),
    "rank": ((H_W[0], H_S), r"weak representations must be 2-D .*\(5,\)"),
    "strong rank": ((H_W, H_S[None]), r"strong representations must be 2-D .*\(1, 40, 7\)"),
    "no rows": ((H_W[:0], H_S[:0]), r"weak representations .* at least one row .*\(0, 5\)"),
    "no features": ((H_W, H_S[:, :0]), r"strong representations .* at least one row .*\(40, 0\)"),
    "complex": ((H_W * 1j, H_S), "weak representations must be real, got complex64"),
    "text": ((H_W, "text"), "strong representations must be a numeric array, got str"),
    "ragged": (([[1.0, 2.0], [3.0]], H_S), "weak representations must be a numeric array, got list"),
    "labels": ((H_W, H_S, Y[:-1]), r"labels must have shape \(40,\) or \(40, outputs\), got \(39, 2\)"),
    "label rank": ((H_W, H_S, Y[..., None]), r"labels must have shape .*got \(40, 2, 1\)"),
    "NaN": ((spoiled(H_W, (7, 1), (7, 2), (9, 0)), H_S), "weak representations contain 3 .* row 7"),
    "infinity": ((H_W, spoiled(H_S, (3, 1))), "strong representations contain 1 .* row 3"),
    "NaN label": ((H_W, H_S, spoiled(Y, (5, 1), (6, 1))), "labels contain 2 .* row 5"),
    "NaN on device": ((jnp.asarray(spoiled(H_W, (7, 1), (9, 0))), H_S), "weak representations contain 2 .* row 7"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("fault", BAD_ARRAYS)
def test_bad_arrays_are_named(fault):
    """Each fault of an array is one sentence with the array's name, what was expected and what came."""
    arrays, message = BAD_ARRAYS[fault]
    with pytest.raises(InputError, match=message):
        moments(*arrays)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("weights", [np.ones(N - 1), spoiled(np.ones(N), 4)])
def test_bad_weights_are_named(weights):
    """Weights must be finite, one per row."""
    with pytest.raises(InputError, match="weights"):
        moments(H_W, H_S, weights=weights)


BAD_BATCHES = {
    "none": ([], "at least one batch, got none"),
    "width": ([(H_W, H_S), (H_W, H_S[:, 1:])], "batch 1 must have widths"),
    "labels appear": ([(H_W, H_S), (H_W, H_S, Y)], "batch 1 must have widths"),
    "labels vanish": ([(H_W, H_S, Y), (H_W, H_S, Y), (H_W, H_S)], "batch 2 must have widths"),
    "rows": ([(H_W, H_S), (H_W, H_S[1:])], "number of rows, got 40 and 39"),
    "NaN": ([(H_W, H_S), (H_W, spoiled(H_S, (2, 0)))], "strong representations of batch 1 contain 1 .* row 2"),
    "not a pair": ([(H_W,)], "batch 0 must be"),
    "not a tuple": ([3], "batch 0 must be .* got int"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("fault", BAD_BATCHES)
def test_bad_batches_are_numbered(fault):
    """Each fault of a stream is one sentence with the batch's number."""
    batches, message = BAD_BATCHES[fault]
    with pytest.raises(InputError, match=message):
        moments_from_batches(iter(batches))


@pytest.mark.parametrize(
    "other",
    [moments(H_W, H_S), moments(H_W, H_S, Y, bias=True), moments(H_W, H_S[:, 1:], Y), moments(H_W, H_S, Y[:, 0])],
    ids=["no labels", "centred", "width", "label shape"],
)
@pytest.mark.parametrize("operation", ["__add__", "__sub__"])
def test_unlike_moments_do_not_merge(other, operation):
    """Moments that differ in labels, centring or widths neither add nor subtract."""
    with pytest.raises(InputError, match="moments can be merged only if"):
        getattr(moments(H_W, H_S, Y), operation)(other)


@pytest.mark.everything
@pytest.mark.usefixtures("unchecked")
def test_moments_add_up_by_sum_and_weights_are_weights():
    """`sum` starts from 0; weights are one non-negative number per row."""
    h_w, h_s, y = pair("generic", 20, 3, 4, dtype=np.float32)
    parts = [moments(h_w[i : i + 5], h_s[i : i + 5], y[i : i + 5]) for i in range(0, 20, 5)]
    assert entrywise_error(sum(parts).sw, moments(h_w, h_s, y).sw) <= 1e-6
    with pytest.raises(TypeError):
        _ = 1 + parts[0]
    for weights, message in ((np.ones((20, 1)), r"shape \(20,\), got \(20, 1\)"), (-np.ones(20), "at least 0, got -1")):
        with pytest.raises(InputError, match=f"weights must .*{message}"):
            moments(h_w, h_s, weights=weights)
