"""What the tests share: the two tiers, type checking of the package, double precision on demand, families of representations."""

from __future__ import annotations

import gc
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        # Half of the tests' time is compilation: of single precision with less effort, in one piece, and without the
        # emitters that later releases have alone, which take twice as long.
        "--xla_backend_optimization_level=1",
        "--xla_cpu_parallel_codegen_split_count=1",
        "--xla_backend_extra_options=xla_cpu_disable_loop_unrolling,xla_cpu_disable_slp_vectorizer",
        "--xla_cpu_use_fusion_emitters=false" if version("jaxlib") < "0.11" else "",
    ]
)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["MPLBACKEND"] = "agg"  # figures open no window

import jax
import jaxtyping
import numpy as np
import pytest
import reference
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintException
from hypothesis import settings
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree
from threadpoolctl import threadpool_limits

QUICK = True  # the tier that runs
# Files that take a minute or more start first: no worker waits for another one's last file.
LONGEST = (
    *("hosts", "pair_rows", "notebooks", "benchmarks", "simulation", "rank"),
    *("compact", "run", "trained", "experiments", "docs"),
)

pytest_plugins = ["sweeping"]  # its fixtures, for all tests of sweeps
gc.set_threshold(200_000, 20, 20)  # traces are made of many objects that live long
threadpool_limits(1, user_api="blas")  # on matrices this small, threads only get in each other's way


def check_types(function: Callable) -> Callable:
    """Checks a function's arguments and result against its annotations, shapes included, in every test.

    Pytrees are checked where functions receive them, not where they are built: JAX rebuilds them from batched arrays,
    axis numbers and placeholders.
    """
    if function.__name__ == "__init__":
        return function
    try:
        return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)  # an int will do for a float
    except BeartypeDecorHintException:  # a hint that cannot be checked, such as a Protocol
        return function


jaxtyping.install_import_hook("w2s_jax", f"{__name__}.check_types")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--everything", action="store_true", help="run all tests, not the quick tier alone")


def pytest_configure(config: pytest.Config) -> None:
    global QUICK
    QUICK = not config.getoption("everything")
    settings.register_profile("quick", max_examples=10, deadline=None, derandomize=True)
    settings.register_profile("everything", max_examples=500, deadline=None, derandomize=True)
    settings.load_profile("quick" if QUICK else "everything")
    if hasattr(config, "cache"):
        keep_programs(config.cache.mkdir("programs"))


def keep_programs(folder: Path) -> None:
    """Compiled programs are kept for all workers and for later runs, a gigabyte at most: a second run compiles little."""
    if sum(file.stat().st_size for file in folder.iterdir()) > 2**30:
        shutil.rmtree(folder, ignore_errors=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def pytest_sessionstart(session: pytest.Session) -> None:
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal and not hasattr(session.config, "workerinput"):
        everything = session.config.getoption("everything")
        terminal.write_line("all tests" if everything else "the quick tier of the tests (all of them: --everything)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The quick tier: no test that is marked, and of a cross product of cases only as many as its mark or `covering` asks for.

    A test whose name stands on the command line runs whole.
    """
    order = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
    if config.getoption("everything") or any("::" in argument for argument in config.args):
        return
    cases = defaultdict(list)
    for item in items:
        if all(marker.kwargs for marker in item.iter_markers("everything")):
            cases[item.nodeid.partition("[")[0]].append(item)
    quick = {item for of_one_test in cases.values() for item in _quick(of_one_test)}
    config.hook.pytest_deselected(items=[item for item in items if item not in quick])
    items[:] = [item for item in items if item in quick]


def _quick(items: list[pytest.Item]) -> list[pytest.Item]:
    """The cases of a test that stay: as many as its mark says, the first ones, or else those that cover all values."""
    marker = items[0].get_closest_marker("everything")
    return items[: marker.kwargs["but"]] if marker else covering(items)


def covering(items: list[pytest.Item]) -> list[pytest.Item]:
    """Cases in which each value of each parameter occurs, chosen greedily, so that values of several meet in one case."""
    parts = {item: _values(item) for item in items}
    left, chosen = set().union(*parts.values()), []
    while left:
        chosen.append(max(items, key=lambda item: len(parts[item] & left)))
        left -= parts[chosen[-1]]
    return chosen or items


def _values(item: pytest.Item) -> set[tuple[str, Any]]:
    """The parameters of a case with their values: plain ones are what they print, others are themselves alone."""
    spec = getattr(item, "callspec", None)
    if spec is None:
        return set()
    plain = (str, int, float, tuple, type(None))
    return {(name, repr(x) if isinstance(x, plain) else id(x)) for name, x in spec.params.items()}


def quickly(cases: Iterable, *keep: Any) -> list:
    """The cases of a parameter, of which only those to keep belong to the quick tier."""
    return [case if case in keep else pytest.param(case, marks=pytest.mark.everything) for case in cases]


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Annotations are not checked: what happens to bad input is the package's own answer, as its users see it."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(scope="module", autouse=True)
def own_programs() -> Iterator[None]:
    """Compiled programs go with their module: thousands of them exhaust the memory mappings that a process may have."""
    yield
    _compiled.cache_clear()
    jax.clear_caches()
    gc.collect()


@contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """JAX computes in "float32" or "float64".

    Where both are tried, single precision's rounding is at stake: with --everything its programs are compiled as users
    compile them.
    """
    jax.config.update("jax_disable_most_optimizations", precision == "float64" or QUICK)
    try:
        with jax.enable_x64(precision == "float64"):
            yield
    finally:
        jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def x64() -> Iterator[None]:
    """JAX computes in float64."""
    with computing_in("float64"):
        yield


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Iterator[np.dtype]:
    """Single precision, then double precision with x64 switched on."""
    with computing_in(request.param):
        yield np.dtype(request.param)


def relative_error(value: np.ndarray, reference: np.ndarray, floor: np.ndarray | float = 0.0) -> float:
    """Largest |value - reference| relative to the larger of |reference| and a floor; NaN counts as infinite.

    The floor says what a small number is small against: a gap that is a tiny part of the label energy, or a norm that
    is a tiny part of the strong kernel's, is a difference of nearly equal vectors.
    """
    value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    assert value.shape == reference.shape, f"shape {value.shape}, expected {reference.shape}"
    size = np.maximum(np.abs(reference), floor)
    error = np.abs(value - reference) / np.where(size > 0, size, 1)
    return float(np.max(np.nan_to_num(error, nan=np.inf), initial=0.0))


def entrywise_error(value: np.ndarray, reference: np.ndarray) -> float:
    """Largest |value - reference| relative to the largest entry of the reference."""
    return relative_error(value, reference, np.max(np.abs(np.asarray(reference, np.float64))))


@lru_cache
def _compiled(function: Callable) -> tuple[Callable, Callable]:
    """The function and its pull-back of weights."""
    return jax.jit(function), jax.jit(lambda x, weights: jax.vjp(function, x)[1](weights)[0])


def derivative_error(function: Callable, x: PyTree, seed: int = 0) -> float:
    """How far a gradient in a random direction is from fourth-order finite differences (in x64)."""
    rng = np.random.default_rng(seed)
    value, pull_back = _compiled(function)
    x, unravel = ravel_pytree(x)
    direction = rng.standard_normal(x.shape)
    step = 1e-3 * np.sqrt(np.mean(x**2)) / np.linalg.norm(direction)

    def difference(h: float) -> np.ndarray:
        return (value(unravel(x + h * direction)) - value(unravel(x - h * direction))) / (2 * h)

    expected = (4 * difference(step) - difference(2 * step)) / 3
    weights = rng.standard_normal(expected.shape)
    gradient, _ = ravel_pytree(pull_back(unravel(x), weights))
    return relative_error(gradient @ direction, np.sum(weights * expected), np.max(np.abs(expected)))


def tolerance(dtype: np.dtype, threshold: float) -> float:
    """The error the package promises for a principal subspace cut at a threshold."""
    if dtype == np.float64:
        return 1e-10
    return 1e-5 if threshold >= 1e-2 else 1e-3


def well_defined(h: np.ndarray, threshold: float = 0.0, rank: int | None = None) -> bool:
    """Whether rounding cannot move the cut: no eigenvalue within 1e-3 of the threshold, none tied across the rank.

    Where it can, the principal subspace itself is not a function of the rounded representation, so no error is defined.
    """
    values, _ = reference.kernel_spectrum(h)
    if rank is not None and rank < len(values) and values[rank - 1] - values[rank] < 1e-2 * values[rank - 1]:
        return False
    return not np.any(np.abs(values - threshold * values[0]) < 1e-3 * threshold * values[0])


def resolved(h: np.ndarray, threshold: float, dtype: np.dtype) -> bool:
    """Whether a rounding of the Gram matrix turns the principal subspace by at most four times the promised error.

    It turns by eps lambda_1 over the gap at the cut, whatever is computed afterwards.
    """
    values, _ = reference.kernel_spectrum(h)
    inside, outside = values[values >= threshold * values[0]], values[values < threshold * values[0]]
    if len(outside) == 0 or outside[0] <= 1e-12 * values[0]:
        return True
    return np.finfo(dtype).eps * values[0] <= 4 * tolerance(dtype, threshold) * (inside[-1] - outside[0])


KINDS = ("generic", "rank_deficient", "repeated", "dominant", "identical", "d1")
SHAPES = ((24, 40, 32), (32, 32, 32), (64, 12, 20), (40, 60, 16), (40, 16, 60))  # (n, d_w, d_s): n <, =, > d, mixed
CASES = [(kind, shape) for kind in KINDS for shape in SHAPES if kind != "d1"] + [("d1", SHAPES[2])]


class Pair(NamedTuple):
    """Weak and strong representations of the same rows, and labels (n, 2)."""

    h_w: np.ndarray
    h_s: np.ndarray
    y: np.ndarray


def pair(kind: str, n: int, d_w: int, d_s: int, seed: int = 0, dtype: np.dtype = np.float64) -> Pair:
    """A weak/strong pair of a named family; for "d1" both have one feature.

    generic: a shared latent of decaying strength, each side seen through its own map, plus noise. rank_deficient: the
    latent alone. repeated: eigenvalues 4, 4, 1, 1, 1, 1/4, ... exactly. dominant: one direction a million times larger,
    so that the second moment's condition number is 1e12. identical: equal but for columns of zeros.
    """
    rng = np.random.default_rng(seed)
    d_w, d_s = (1, 1) if kind == "d1" else (d_w, d_s)
    latent = rng.standard_normal((n, 6)) / np.arange(1, 7)
    h_w, h_s = (latent @ rng.standard_normal((6, d)) / np.sqrt(d) for d in (d_w, d_s))
    if kind != "rank_deficient":
        h_w, h_s = (h + 0.2 * rng.standard_normal(h.shape) for h in (h_w, h_s))
    if kind == "repeated":
        h_w, h_s = (_repeated(rng, n, d) for d in (d_w, d_s))
    if kind == "dominant":
        h_w, h_s = (1e-6 * h + np.outer(rng.standard_normal(n), rng.standard_normal(h.shape[1])) for h in (h_w, h_s))
    if kind == "identical":
        common = h_w[:, : min(d_w, d_s)]
        h_w, h_s = (np.pad(common, ((0, 0), (0, d - common.shape[1]))) for d in (d_w, d_s))
    seen = (h @ rng.standard_normal((h.shape[1], 2)) / np.linalg.norm(h) * np.sqrt(n) for h in (h_w, h_s))
    y = latent[:, :2] + sum(seen) + rng.standard_normal((n, 2))
    return Pair(*(x.astype(dtype) for x in (h_w, h_s, y)))


def _repeated(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Singular values 2, 2, 1, 1, 1, 1/2, ... between bases of few-bit entries: no rounding even in bfloat16."""
    values = np.concatenate([[2, 2, 1, 1, 1], np.full(max(n, d), 0.5)])[: min(n, d)]
    middle = np.zeros((n, d))
    np.fill_diagonal(middle, values)
    return _dyadic_rotation(rng, n) @ middle @ _dyadic_rotation(rng, d).T


def _dyadic_rotation(rng: np.random.Generator, n: int) -> np.ndarray:
    """An orthogonal matrix whose entries are multiples of 1/4."""
    pairs = np.array([[1, 1], [1, -1]])
    once = np.eye(n)
    for start in range(0, n - n % 4, 4):
        once[start : start + 4, start : start + 4] = np.kron(pairs, pairs) / 2
    return (once @ once[rng.permutation(n)])[rng.permutation(n)]
