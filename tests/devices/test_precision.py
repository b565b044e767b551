"""Products at lower precision: which a device has, how accurate they are, what they touch, and what is refused."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import entrywise_error, relative_error

from w2s_jax import InputError, moments, moments_from_batches, rank_supervisors, run_sweep
from w2s_jax._core import cpu
from w2s_jax._core.arrays import PRECISIONS, matmul
from w2s_jax._core.cpu import gram
from w2s_jax.devices import device_mesh, fastest_precision, precision, supported_precisions
from w2s_jax.devices.precision import MeasuredPrecision, choose, errors_of, resolved
from w2s_jax.ranking import cells
from w2s_jax.sweep import kernels

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((300, 24)).astype(np.float32)
WEAK = {"a": ROWS[:, :20], "b": ROWS[:, 5:] + RNG.standard_normal((300, 19)).astype(np.float32)}
Y = ROWS @ RNG.standard_normal((24, 2)).astype(np.float32)
SUPPORTED = supported_precisions()
SPLIT = [name for name in SUPPORTED if name != "float32"]
MISSING = [name for name in PRECISIONS if name not in SUPPORTED]


def presets(lowered: str) -> list[str]:
    """The algorithms of a program's products: mantissa bits of the parts and how many products."""
    return re.findall(r"num_primitive_operations = (\d+)", lowered)


def program(function, *arguments) -> str:
    return jax.jit(function).lower(*arguments).as_text()


# What a device has


def test_float32_is_always_there():
    """It comes first, and the others are among the known names."""
    assert SUPPORTED[0] == "float32"
    assert set(SUPPORTED) <= set(PRECISIONS)


def test_supported_precisions_compute_and_others_do_not():
    """Every supported name multiplies; JAX refuses every other."""
    h = jnp.asarray(ROWS)
    for name in SUPPORTED:
        assert entrywise_error(np.asarray(matmul(h.T, h, name)), ROWS.T.astype(float) @ ROWS) <= 1e-6
    for name in MISSING:
        with pytest.raises((ValueError, RuntimeError)):
            jax.block_until_ready(matmul(h.T, h, name))


def test_devices_are_asked_once(monkeypatch):
    """Another question about a device compiles nothing."""
    monkeypatch.setattr(precision.jax, "jit", lambda *_: pytest.fail("compiled again"))
    assert supported_precisions() == supported_precisions(jax.devices()[0]) == SUPPORTED


def test_the_chosen_device_is_asked():
    """Within `jax.default_device` it is that device, given as such or by its platform's name."""
    for chosen in (jax.devices()[3], "cpu"):
        with jax.default_device(chosen):
            assert supported_precisions() == SUPPORTED


# What it changes


@pytest.mark.parametrize("name", SPLIT)
@pytest.mark.parametrize("bias", [False, True])
def test_moments_are_those_of_full_precision(name, bias):
    """Within twice the error against float64 that full float32 makes on the same way, which is itself small."""
    exact = ROWS.astype(float) - ROWS.astype(float).mean(0) * bias
    exact = exact.T @ exact / len(ROWS)
    batches = [(ROWS[i : i + 100], ROWS[i : i + 100]) for i in (0, 100, 200)]
    for compute in (
        lambda name: moments(ROWS, ROWS, bias=bias, precision=name),
        lambda name: moments_from_batches(batches, bias=bias, precision=name),
        lambda name: moments_from_batches(batches, bias=bias, precision=name, mesh=device_mesh()),
    ):
        full, found = compute("float32"), compute(name)
        for product in ("ww", "ss", "sw"):
            best, error = (entrywise_error(np.asarray(getattr(m, product)), exact) for m in (full, found))
            assert error <= max(2 * best, 3e-7) and best <= 32 * np.finfo(np.float32).eps


@pytest.mark.parametrize("name", SPLIT)
def test_products_of_features_are_split(name):
    """Three products of features at the chosen precision, labels' products at full precision; by default none."""
    found = presets(program(lambda h, y: moments(h, h[:, :9], y, precision=name), ROWS, Y))
    assert found == [name[-1]] * 3
    assert presets(program(lambda h, y: moments(h, h[:, :9], y), ROWS, Y)) == []


@pytest.mark.parametrize("name", SPLIT)
def test_float64_is_never_split(name, x64):
    """Sums of float64 rows are at full precision, whatever is asked."""
    assert presets(program(lambda h: moments(h, h, precision=name), ROWS.astype(float))) == []
    h = ROWS.astype(float)
    assert np.array_equal(moments(h, h, precision=name).ww, moments(h, h).ww)


@pytest.mark.everything(but=1)
@pytest.mark.skipif(not SPLIT, reason="this platform has full float32 only")
@pytest.mark.parametrize("shape", [None, (4, 2)])
def test_the_ranking_is_that_of_full_precision(shape):
    """Every score, on one device and on several."""
    name, mesh = (SPLIT[0], None) if shape is None else (SPLIT[-1], device_mesh(*shape))
    expected = rank_supervisors(WEAK, ROWS, Y)
    found = rank_supervisors(WEAK, ROWS, Y, precision=name, mesh=mesh)
    assert found.names == expected.names
    for column in expected.columns:
        assert relative_error(found[column], expected[column]) <= 1e-4, column


@pytest.mark.everything(but=1)
@pytest.mark.skipif(not SPLIT, reason="this platform has full float32 only")
@pytest.mark.parametrize(("n", "shape"), [(300, None), (300, (4, 2)), (40, None)])
def test_a_sweep_multiplies_at_its_precision(n, shape, tmp_path, monkeypatch, unchecked):
    """Moments and pairs, the latter by features or, of few rows, by kernels; the numbers are those of full precision."""
    wide = np.concatenate([ROWS[:n], RNG.standard_normal((n, 5 * (300 - n) // 8))], 1, dtype=np.float32)
    files = {name: str(tmp_path / f"{name}.npy") for name in "abcdefgstu"}
    for name, rows in {"a": wide[:, :20], "s": wide, "t": wide[:, 1:], "u": wide[:, 2:]}.items():
        np.save(files[name], rows)
    for i, name in enumerate("bcdefg", 3):
        np.save(files[name], wide[:, i:])
    split = set()
    for module in (cells, kernels):
        multiply = lambda a, b, name="float32", module=module: split.add((module, name)) or matmul(a, b, name)
        monkeypatch.setattr(module, "matmul", multiply)
    weak, strong = ({name: files[name] for name in names} for names in ("abcdefg", "stu"))
    config = {"weak": weak, "strong": strong, "threshold": 0.5, "normalize": "scale"}
    full, found = (
        run_sweep({**config, "output": str(tmp_path / name), "precision": name}, mesh=shape and device_mesh(*shape))
        for name in ("float32", SPLIT[-1])
    )
    assert (kernels if n == 40 else cells, SPLIT[-1]) in split
    for column in ("gap_op", "gap_fro", "cka"):
        assert relative_error(found[column], full[column]) <= 1e-4, column


@pytest.mark.parametrize("name", SPLIT)
def test_differentiable_and_batched(name):
    """Gradients and vmap pass through a split product."""
    trace = lambda h: jnp.trace(moments(h, h, precision=name).ww)
    assert entrywise_error(jax.grad(trace)(ROWS), 2 * ROWS / len(ROWS)) <= 1e-5
    several = jax.vmap(trace)(np.stack([ROWS, 2 * ROWS]))
    assert relative_error(np.asarray(several), np.asarray([trace(ROWS), 4 * trace(ROWS)])) <= 1e-6


# Symmetric products


@pytest.mark.parametrize("width", [8, 15, 33])
@pytest.mark.parametrize("weighted", [False, True])
def test_mirrored_blocks_are_the_product(width, weighted, monkeypatch, x64):
    """Halves down to any width, odd ones too, weighted rows or not; the corners are each other's mirror to the last bit."""
    monkeypatch.setattr(cpu, "SYMMETRIC_WIDTH", 8)
    h = RNG.standard_normal((50, width))
    weights = RNG.random((50, 1)) if weighted else np.ones((50, 1))
    found = np.asarray(jax.jit(lambda h, w: gram(h, h * w))(h, weights))
    assert entrywise_error(found, h.T @ (h * weights)) <= 1e-14
    corner = found[: width // 2, width // 2 :]
    assert np.array_equal(corner.T, found[width // 2 :, : width // 2])


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere a product is one call")
def test_mirrored_blocks_save_work(monkeypatch):
    """A wide product has three quarters of the multiplications, a narrow one all."""
    h = jax.ShapeDtypeStruct((16, 8), jnp.float32)

    def work() -> float:
        found: Any = jax.jit(lambda h: gram(h, h)).lower(h).compile().cost_analysis()
        return found["flops"]

    assert work() == 2 * 16 * 8 * 8
    monkeypatch.setattr(cpu, "SYMMETRIC_WIDTH", 8)
    jax.clear_caches()
    assert work() == 2 * 16 * 8 * 8 * 3 / 4


# What is measured


def test_the_fastest_is_measured():
    """Every supported precision, full float32 first, and the choice is one of them; printed with its numbers."""
    report = fastest_precision(64, 16, repeats=1)
    assert [m.name for m in report.measured] == list(SUPPORTED)
    assert report.measured[0].relative == 1
    assert all(m.seconds > 0 and m.error < 1e-6 for m in report.measured)
    assert report.chosen in SUPPORTED
    assert (report.rows, report.width) == (64, 16)
    lines = str(report).splitlines()
    assert lines[0].endswith(f": {report.chosen}")
    assert [line.split()[0] for line in lines[2:]] == list(SUPPORTED)


def test_speed_counts_only_within_twice_the_error():
    """The fastest that is accurate; full float32 where all faster ones are not."""
    rows = [("float32", 1.0, 4.0), ("tf32_x3", 2.1, 1.0), ("bf16_x6", 1.9, 2.0), ("bf16_x9", 1.0, 3.0)]
    measured = [MeasuredPrecision(name, 1e-7 * ratio, ratio, seconds) for name, ratio, seconds in rows]
    assert choose(measured) == "bf16_x6"
    assert choose(measured, within=3) == "tf32_x3"
    assert choose(measured[:2]) == "float32"
    assert choose(measured, within=1) == "bf16_x9"


def three_products(h):
    """H^T H as a matrix unit splits it: two bfloat16 parts of each number, three products."""
    high = h.astype(jnp.bfloat16).astype(h.dtype)
    low = (h - high).astype(jnp.bfloat16).astype(h.dtype)
    return matmul(high.T, high) + matmul(high.T, low) + matmul(low.T, high)


def test_splits_that_lose_are_seen():
    """Two bfloat16 parts carry 16 bits: over few rows what is left out is more than twice float32's error."""
    samples = precision._samples(1024, 32)
    exact = [h.astype(float).T @ h for h in samples]
    on_device = [jnp.asarray(h) for h in samples]
    full = errors_of(partial(precision._gram, precision="float32"), on_device, exact)
    split = errors_of(three_products, on_device, exact)
    assert max(full) <= 5e-7
    assert split[1] > 2 * full[1]


@pytest.fixture
def unmeasured():
    """As in a new process."""
    precision._fastest.cache_clear()
    yield
    precision._fastest.cache_clear()


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="others have something to choose from")
def test_a_cpu_measures_nothing(monkeypatch, unmeasured):
    """Its splits are plain float32 products."""
    monkeypatch.setattr(precision, "fastest_precision", None)
    with pytest.warns(UserWarning, match="^precision 'fastest' on cpu is float32$"):
        assert resolved("fastest") == "float32"


@pytest.fixture
def measuring(monkeypatch, unmeasured):
    """This device as one whose splits may pay: the reports of what is measured, on small products."""
    reports = []

    def measure(device):
        reports.append(fastest_precision(64, 16, device=device, repeats=1))
        return reports[-1]

    monkeypatch.setattr(precision, "UNSPLIT", ())
    monkeypatch.setattr(precision, "fastest_precision", measure)
    return reports


@pytest.mark.parametrize("way", ["outside", "jit", "grad", "vmap"])
def test_the_fastest_is_measured_once(measuring, way):
    """The first call measures and says so, also one that is being traced; what is asked by name measures nothing."""
    trace = lambda h: jnp.trace(moments(h, h, precision="fastest").ww)
    ways = {"outside": trace, "jit": jax.jit(trace), "grad": jax.grad(trace), "vmap": jax.vmap(trace)}
    h = np.stack([ROWS, ROWS]) if way == "vmap" else ROWS
    moments(ROWS, ROWS)
    assert resolved("float32") == "float32" and not measuring
    with pytest.warns(UserWarning, match="^precision 'fastest' on ") as said:
        found = [ways[way](h) for _ in range(2)]
    assert np.isfinite(np.asarray(found)).all()
    assert [report.device for report in measuring] == [jax.devices()[0].device_kind]
    assert resolved("fastest") == measuring[0].chosen
    assert [str(warning.message).rpartition(" ")[2] for warning in said] == [measuring[0].chosen]


@pytest.mark.skipif(not SPLIT, reason="this platform has full float32 only")
@pytest.mark.filterwarnings("ignore:precision 'fastest'")
def test_the_fastest_is_what_was_measured(measuring, monkeypatch):
    """Products are at the chosen precision."""
    rows = [("float32", 1.0, 2.0), (SPLIT[-1], 1.5, 1.0)]
    monkeypatch.setattr(precision, "choose", lambda *_: choose([MeasuredPrecision(n, 1e-7, r, s) for n, r, s in rows]))
    assert presets(program(lambda h: moments(h, h[:, :9], precision="fastest"), ROWS)) == [SPLIT[-1][-1]] * 3


# What is refused

CALLS = {
    "moments": lambda name: moments(ROWS, ROWS, precision=name),
    "batches": lambda name: moments_from_batches([(ROWS, ROWS)], precision=name),
    "ranking": lambda name: rank_supervisors(WEAK, ROWS, precision=name),
    "sweep": lambda name: run_sweep({"output": "out", "weak": "w.npy", "strong": "s.npy", "precision": name}),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", [*MISSING, "float16"])
def test_unsupported_precisions_are_one_sentence(call, name, unchecked):
    """Which argument, what the platform has, what came."""
    has = ", ".join(map(repr, SUPPORTED))
    sentence = f"precision must be 'fastest' or one that {jax.devices()[0].platform} has: {has}; got {name!r}"
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        CALLS[call](name)


@pytest.mark.parametrize("name", ["rows", "width", "within", "repeats"])
def test_nothing_to_measure_is_one_sentence(name):
    """Numbers below 1 are refused by name."""
    with pytest.raises(InputError, match=f"^{name} must be at least 1, got 0$"):
        fastest_precision(**{name: 0})
