"""What the tests of sweeps share: a folder of files, a table, and a count of what is computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from w2s_jax import run_sweep
from w2s_jax.sweep import workers
from w2s_jax.sweep.sums import model_sums
from w2s_jax.sweep.table import Sweep

N = 90
RNG = np.random.default_rng(0)
LATENT = RNG.standard_normal((N, 6))
WIDTHS = (("s1", 24, 0.1), ("s2", 30, 0.4), ("a", 10, 0.1), ("b", 12, 0.7), ("c", 40, 0.4), ("d", 70, 0.5))
ROWS = {
    name: LATENT @ RNG.standard_normal((6, d)) / 3 + noise * RNG.standard_normal((N, d)) + 3
    for name, d, noise in WIDTHS
}
Y = LATENT[:, :2] + 0.1 * RNG.standard_normal((N, 2)) + 1
HIDDEN = np.where(np.arange(N)[:, None] % 5 < 3, Y, np.nan)
LABELS = {"all": Y, "some": HIDDEN, "one": LATENT[:, 0]}
TABLE = {
    "output": "out",
    "weak": ["[abc].npy"],
    "strong": ["s1.npy", "s2.npy"],
    "labels": {name: f"{name}.npy" for name in LABELS},
    "normalize": "scale",
    "memory": 0.02,
}
LITTLE = {"output": "out", "weak": ["a.npy", "b.npy"], "strong": ["s1.npy"]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchecked: None) -> Path:
    """A folder with every file a sweep may be given; compiled programs are not kept."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    monkeypatch.chdir(tmp_path)
    for name, rows in {**ROWS, **LABELS, "groups": np.arange(N) // 2}.items():
        np.save(f"{name}.npy", rows)
    return tmp_path


class Counter:
    """How often the units of work are computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.models: list[str] = []
        self.pairs = 0
        self.fail_after: int | None = None
        for name in ("model_sums", "cross_sums"):
            monkeypatch.setattr(workers, name, self.counting(getattr(workers, name)))

    def counting(self, function: Callable) -> Callable:
        def counted(first, *args, **kwargs):
            if self.fail_after is not None and len(self.models) + self.pairs >= self.fail_after:
                raise KeyboardInterrupt
            result = function(first, *args, **kwargs)
            if function is model_sums:
                self.models.append(first.name.split("'")[1])
            else:
                self.pairs += len(first) * len(args[0])
            return result

        return counted

    def take(self) -> tuple[list[str], int]:
        taken = self.models, self.pairs
        self.models, self.pairs = [], 0
        return taken


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch)


@pytest.fixture
def table() -> Sweep:
    return run_sweep({**TABLE, "weak_ridge": [1e-3, 0.1]})


def write(text: str) -> Callable[[], None]:
    return lambda: Path("config.toml").write_text(text)
