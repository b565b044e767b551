"""What is compiled: nothing twice, and no eigensolver where none is needed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import quickly, relative_error
from jax import export

import w2s_jax
from w2s_jax import moments_from_batches, rank_supervisors, run_sweep
from w2s_jax._core.arrays import bucket
from w2s_jax.devices import mesh
from w2s_jax.ranking import rank

RNG = np.random.default_rng(0)
N, STRONG_WIDTH = 90, 24
LATENT = RNG.standard_normal((N, 6))


def see(d: int, noise: float = 0.5, n: int = N) -> np.ndarray:
    """Rows (n, d) that share the latent, float32."""
    return (LATENT[:n] @ RNG.standard_normal((6, d)) + noise * RNG.standard_normal((n, d))).astype(np.float32)


@contextmanager
def compilations() -> Iterator[list[str]]:
    """The programs that XLA is asked for."""
    seen: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(str(kwargs.get("fun_name", event)))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_compilations_are_seen():
    """A new program counts, the same again does not."""
    program = jax.jit(lambda x: jnp.sin(x) * 3)
    for expected in (1, 0):
        with compilations() as seen:
            program(np.float32(1))
        assert len(seen) == expected


# The second call


def test_widths_share_buckets():
    """A width's bucket holds it, with at most a quarter (or 64) to spare."""
    for width in range(1, 3000, 7):
        assert width <= bucket(width) <= max(width + 63, width * 1.25)
        assert bucket(bucket(width)) == bucket(width)


@pytest.mark.parametrize("threshold", quickly([(0.0, 0.0), (0.02, 0.03)], (0.0, 0.0)))
def test_a_ranking_in_the_same_buckets_compiles_nothing(threshold):
    """Other rows, labels, widths of the same buckets, ridge strengths, thresholds, prior, noise and seed."""
    strong, y = see(STRONG_WIDTH), LATENT[:, :2]
    rank_supervisors({"a": see(10), "b": see(70)}, strong, y, threshold=threshold[0])
    settings = {"weak_ridge": 0.1, "strong_ridge": 0.3, "prior": 1.5, "noise": 0.5, "seed": 3}
    with compilations() as seen:
        other = {"x": see(33), "y": see(100)}
        table = rank_supervisors(other, strong + 1, y - 2, threshold=threshold[1], **settings)
    assert seen == []
    assert np.isfinite(table["expected_error"]).all()


@pytest.mark.parametrize("bias", [False, True])
def test_batches_of_one_length_compile_once(bias):
    """The first batch compiles; further ones, of any number, and a second pass over other rows do not."""
    batches = [(see(7, n=30), see(9, n=30)) for _ in range(3)]
    with compilations() as seen:
        moments_from_batches(batches[:1], bias=bias)
    assert seen != []
    with compilations() as seen:
        moments_from_batches(batches, bias=bias)
    assert seen == []


@pytest.mark.everything
@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["host", "device"])
def test_batches_of_many_lengths_compile_for_few(convert):
    """Twenty lengths take six programs: of the first with and without weights, and of powers of two below and above it."""
    whole = see(5, n=N), see(3, n=N), LATENT[:, 0].astype(np.float32)
    many = [tuple(np.tile(x, (5,) + (1,) * (x.ndim - 1))[:n] for x in whole) for n in (200, *range(20, 400, 20))]
    batches = [tuple(map(convert, batch)) for batch in many]
    with compilations() as seen:
        found = moments_from_batches(batches, bias=True)
    assert len([name for name in seen if "_accumulate" in name]) <= 6
    assert len(seen) <= 60
    assert found.n == sum(len(y) for _, _, y in many)
    expected = reference.moments(*(np.concatenate([batch[i] for batch in many]) for i in range(3)), bias=True)
    for name in ("ww", "ss", "sw", "wy", "yy"):
        assert relative_error(getattr(found, name), expected[name], np.max(np.abs(expected[name]))) <= 1e-6


def swept(folder: Path, models: dict[str, np.ndarray], y: np.ndarray, **settings: object) -> w2s_jax.Sweep:
    folder.mkdir()
    for name, rows in {**models, "labels": y}.items():
        np.save(folder / f"{name}.npy", rows)
    weak = [str(folder / f"{name}.npy") for name in models if name != "s"]
    return run_sweep(
        {
            "output": str(folder / "out"),
            "weak": weak,
            "strong": [str(folder / "s.npy")],
            "labels": {"t": str(folder / "labels.npy")},
            **settings,
        }
    )


@pytest.mark.parametrize(
    ("settings", "width"),
    [
        ({}, 11),
        *(
            pytest.param(*case, marks=pytest.mark.everything)
            for case in (({"threshold": 0.01}, 12), ({"folds": 3}, 13), ({"predictors": ["gulp", "logme"]}, 14))
        ),
    ],
    ids=str,
)
def test_a_sweep_in_the_same_buckets_compiles_nothing(settings, width, tmp_path, unchecked):
    """Other files, widths, labels and ridge strengths."""
    y = LATENT[:, 0]
    swept(tmp_path / "first", {"a": see(10), "b": see(40), "s": see(STRONG_WIDTH)}, y, **settings)
    with compilations() as seen:
        other = {"x": see(width), "y": see(width + 32), "s": see(width + 16)}
        swept(tmp_path / "second", other, 1 - 2 * y, weak_ridge=0.1, strong_ridge=0.2, **settings)
    assert seen == []


# No eigensolver where no cut is asked

WEAK_WIDTH = 40


def eigensolves(monkeypatch: pytest.MonkeyPatch, threshold: float) -> list[int]:
    """Widths of the eigensolves in the program that scores models of WEAK_WIDTH against a strong one of STRONG_WIDTH."""
    texts: list[str] = []
    scorer: Any = rank.scorer

    def spying(*choices: object):
        def score(*arguments: object):
            texts.append(jax.jit(lambda *given: scorer(*choices)(*given)).lower(*arguments).as_text())
            return scorer(*choices)(*arguments)

        return score

    monkeypatch.setattr(rank, "scorer", spying)
    rank_supervisors({"a": see(WEAK_WIDTH)}, see(STRONG_WIDTH), LATENT[:, :2], threshold=threshold)
    (text,) = texts
    solvers = [line for line in text.splitlines() if re.search(r"custom_call @\w*(syevd|eigh)", line, re.IGNORECASE)]
    return [int(re.findall(r"tensor<(?:\d+x)*?(\d+)x\1xf32>", line)[0]) for line in solvers]


@pytest.mark.everything
def test_no_weak_eigensolve_without_a_cut(monkeypatch):
    """Without a cut there are two eigensolves in the program, what Lanczos falls back on, of the strong width, and what inverses
    do in which rounding would show; neither is entered."""
    assert sorted(eigensolves(monkeypatch, 0.0)) == [STRONG_WIDTH, WEAK_WIDTH]
    nothing = lambda m: (jnp.full(len(m), jnp.nan), jnp.full_like(m, jnp.nan))
    for module in ("factor", "lanczos"):
        monkeypatch.setattr(f"w2s_jax._core.{module}.eigh", nothing)
    jax.clear_caches()
    table = rank_supervisors({"a": see(WEAK_WIDTH)}, see(STRONG_WIDTH), LATENT[:, :2])
    jax.clear_caches()  # of programs with that
    assert all(np.isfinite(table[column]).all() for column in table.columns)


@pytest.mark.everything
def test_a_cut_needs_the_weak_spectrum(monkeypatch):
    """With a cut there are eigensolves of the weak width: the look at the program can fail."""
    assert WEAK_WIDTH in eigensolves(monkeypatch, 0.02)


@pytest.mark.everything
@pytest.mark.parametrize("threshold", [0.0, 0.02])
def test_the_program_of_an_accelerator_has_one_body(monkeypatch, threshold):
    """For CUDA and TPU models are scored in batches, and a last batch with fewer of them adds no second program."""
    texts: dict[tuple[int, str], str] = {}
    scorer: Any = rank.scorer

    def spying(*choices: object):
        def score(sums: Any, *others: object):
            for platform in ("cuda", "tpu"):
                exported = export.export(jax.jit(lambda *given: scorer(*choices)(*given)), platforms=(platform,))(
                    sums, *others
                )
                texts[models, platform] = exported.mlir_module()
            raise InterruptedError

        return score

    monkeypatch.setattr(rank, "scorer", spying)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for module in (mesh, rank):
        monkeypatch.setattr(module, "BATCH", 2)
    for models in (2, 3):
        with pytest.raises(InterruptedError):
            rank_supervisors({f"{i}": see(50) for i in range(models)}, see(20), LATENT[:, :2], threshold=threshold)
    for platform, solver in (("cuda", "cusolver_syevd"), ("tpu", "Eigh")):
        count = {models: texts[models, platform].count(f"@{solver}") for models in (2, 3)}
        assert count[2] == count[3] > 0
