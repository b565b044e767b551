"""Precision as speed: float32 products by several low-precision ones, where the device has them and they are as accurate.

A split product writes every float32 number as a sum of two or three bfloat16 or TF32 ones and adds up the products that
matter, at the rate of the matrix units. Which of them a device has is asked of its compiler; how accurate and how fast
they are there is measured (`fastest_precision`), never assumed.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import SingleDeviceSharding

from w2s_jax._core.arrays import PRECISIONS, Precision, matmul
from w2s_jax._core.checks import InputError
from w2s_jax._core.extras import data_frame
from w2s_jax._core.text import Printed

UNSPLIT = ("cpu",)  # computes the bfloat16 presets as plain float32 products: the same numbers in the same time
FASTEST = "fastest"  # the precision that is measured
FEW_ROWS = 16


class MeasuredPrecision(NamedTuple):
    """One precision: largest error against float64, most that an error is over full float32's, seconds of a product.

    >>> MeasuredPrecision("float32", error=1e-7, relative=1.0, seconds=0.1).name
    'float32'
    """

    name: Precision
    error: float
    relative: float
    seconds: float


@dataclass(frozen=True)
class PrecisionReport:
    """What `fastest_precision` measured for products H^T H of H (rows, width), and its choice.

    >>> full, split = MeasuredPrecision("float32", 1e-7, 1.0, 0.2), MeasuredPrecision("bf16_x6", 1e-7, 1.1, 0.1)
    >>> print(PrecisionReport("bf16_x6", "TPU v5e", 8192, 1024, (full, split)))
    products of 8192 x 1024 rows on TPU v5e: bf16_x6
    precision  error  over float32's  seconds  times as fast
    float32    1e-07               1      0.2              1
    bf16_x6    1e-07             1.1      0.1              2
    """

    chosen: Precision
    device: str
    rows: int
    width: int
    measured: tuple[MeasuredPrecision, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and names, `measured` as a list of dicts."""
        return vars(self) | {"measured": [m._asdict() for m in self.measured]}

    def to_pandas(self) -> Any:
        """What was measured as a pandas DataFrame, a precision a row.

        Raises:
            InputError: pandas is not installed.
        """
        return data_frame(self.to_dict()["measured"])

    def __str__(self) -> str:
        return str(self._printed())

    def _repr_html_(self) -> str:
        return self._printed()._repr_html_()

    def _printed(self) -> Printed:
        header = ["precision", "error", "over float32's", "seconds", "times as fast"]
        full = self.measured[0].seconds
        body = [
            [m.name, f"{m.error:.2g}", f"{m.relative:.3g}", f"{m.seconds:.3g}", f"{full / m.seconds:.3g}"]
            for m in self.measured
        ]
        title = f"products of {self.rows} x {self.width} rows on {self.device}: {self.chosen}"
        return Printed(header, body, left=1, title=title)


def supported_precisions(device: Any = None) -> tuple[Precision, ...]:
    """The names that `precision` may have on a device (by default the one JAX computes on), found by compiling products.

    "float32" is always there; "tf32_x3", "bf16_x3", "bf16_x6" and "bf16_x9" are sums of 3, 6 or 9 low-precision products.

    >>> supported_precisions()[0]
    'float32'
    """
    return _supported(_default_device() if device is None else device)


def fastest_precision(
    rows: int = 8192, width: int = 1024, *, device: Any = None, within: float = 2.0, repeats: int = 5
) -> PrecisionReport:
    """Measures every supported precision on a device and chooses the fastest whose error is near full float32's.

    Errors are `||G - H^T H||_F / ||H^T H||_F` against float64, for normal H of so many rows, and for the first few rows of
    it alone, where what a split leaves out does not average out. Near means near for both.

    Args:
        rows, width: of H.
        device: by default the one that JAX computes on.
        within: how many times full float32's error is near enough.
        repeats: products that are timed; their median counts.

    Raises:
        InputError: numbers below 1.

    >>> report = fastest_precision(rows=64, width=8, repeats=1)
    >>> report.measured[0].name, report.chosen in supported_precisions()
    ('float32', True)
    """
    for name, value in {"rows": rows, "width": width, "within": within, "repeats": repeats}.items():
        if not value >= 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    device = _default_device() if device is None else device
    samples = _samples(rows, width)
    exact = [h.astype(float).T @ h for h in samples]
    on_device = [jax.device_put(h, device) for h in samples]
    found: list[MeasuredPrecision] = []
    full: list[float] = []
    for name in supported_precisions(device):
        product = jax.jit(partial(_gram, precision=name))
        errors = errors_of(product, on_device, exact)
        full = full or [max(error, float(np.finfo(np.float32).tiny)) for error in errors]
        relative = max(error / least for error, least in zip(errors, full, strict=True))
        found.append(MeasuredPrecision(name, max(errors), relative, _seconds(product, on_device[0], repeats)))
    return PrecisionReport(choose(found, within), device.device_kind, rows, width, tuple(found))


def choose(measured: list[MeasuredPrecision], within: float = 2.0) -> Precision:
    """The fastest within so many times full float32's error; the first of them, full float32, where none is faster."""
    return min((m for m in measured if m.relative <= within), key=lambda m: m.seconds, default=measured[0]).name


def errors_of(product: Callable[[Array], Array], samples: list[Array], exact: list[np.ndarray]) -> list[float]:
    """Relative Frobenius errors of the products H^T H of samples of H."""
    norm = np.linalg.norm
    pairs = zip(samples, exact, strict=True)
    return [float(norm(np.asarray(product(h), float) - G) / norm(G)) for h, G in pairs]


def resolved(precision: str, device: Any = None) -> str:
    """A precision that the device has: the one asked for, or for "fastest" the fastest one that is accurate there.

    That one is measured once per process and device, as compilers time their kernels, and a warning says which it is; a CPU
    has nothing to choose from.

    Raises:
        InputError: an unknown name, or one that the device does not have, with those that it has.
    """
    device = _default_device() if device is None else device
    if precision == FASTEST:
        return _fastest(device)
    supported = ("float32",) if precision == "float32" else supported_precisions(device)
    if precision not in supported:
        has = ", ".join(repr(name) for name in supported_precisions(device))
        raise InputError(f"precision must be {FASTEST!r} or one that {device.platform} has: {has}; got {precision!r}")
    return precision


@lru_cache
def _fastest(device: Any) -> str:
    if device.platform in UNSPLIT:
        chosen = "float32"
    else:
        with jax.ensure_compile_time_eval():  # the first to ask may be a function that is being traced
            chosen = fastest_precision(device=device).chosen
    warnings.warn(f"precision {FASTEST!r} on {device.device_kind} is {chosen}", stacklevel=4)
    return chosen


@lru_cache
def _supported(device: Any) -> tuple[Precision, ...]:
    shape = jax.ShapeDtypeStruct((128, 128), jnp.float32, sharding=SingleDeviceSharding(device))

    def compiles(name: str) -> bool:
        try:
            jax.jit(partial(_gram, precision=name)).lower(shape).compile()
        except (ValueError, RuntimeError):  # refused by JAX's lowering or by the platform's compiler
            return False
        return True

    return tuple(name for name in get_args(Precision) if name in PRECISIONS and (name == "float32" or compiles(name)))


def _gram(h: Array, precision: str) -> Array:
    return matmul(h.T, h, precision)


def _default_device() -> Any:
    chosen = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    return chosen if isinstance(chosen, jax.Device) else jax.local_devices(backend=chosen)[0]


def _samples(rows: int, width: int) -> list[np.ndarray]:
    h = np.random.default_rng(0).standard_normal((rows, width), np.float32)
    return [h, h[:FEW_ROWS]]


def _seconds(call: Callable[[Array], Array], h: Array, repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(call(h))
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))
