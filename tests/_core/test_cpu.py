"""LAPACK's threads: one inside, afterwards as many as before, whatever happens in between."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from w2s_jax import rank_supervisors, run_sweep
from w2s_jax._core import cpu
from w2s_jax.ranking import rank
from w2s_jax.sweep import run


@pytest.fixture
def threads(monkeypatch):
    """A library of four threads; what has been set, in order, is `threads.log`."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)

    found = SimpleNamespace(log=[4])
    own = cpu._Threads(found.log.append, lambda: found.log[-1])
    monkeypatch.setattr(cpu, "_lapack_threads", lambda: own)
    return found


def test_one_inside_and_as_many_as_before_afterwards(threads):
    with cpu.one_lapack_thread():
        assert threads.log[-1] == 1
        with cpu.one_lapack_thread():
            assert threads.log[-1] == 1
        assert threads.log[-1] == 1
    assert threads.log[-1] == 4


def test_one_that_starts_last_may_end_last(threads):
    one, other = cpu.one_lapack_thread(), cpu.one_lapack_thread()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert threads.log[-1] == 1
    other.__exit__(None, None, None)
    assert threads.log[-1] == 4


def test_errors_leave_as_many_as_before(threads):
    with pytest.raises(ValueError, match="inside"), cpu.one_lapack_thread():
        raise ValueError("inside")
    assert threads.log[-1] == 4


@pytest.mark.parametrize("name", ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"])
def test_who_has_chosen_is_obeyed(threads, monkeypatch, name):
    monkeypatch.setenv(name, "3")
    with cpu.one_lapack_thread():
        assert threads.log == [4]


def test_wide_models_keep_their_threads(threads):
    with cpu.one_lapack_thread(cpu.WIDE):
        assert threads.log == [4]


def test_nothing_is_done_where_the_library_is_another(monkeypatch):
    monkeypatch.setattr(cpu, "_lapack_threads", lambda: None)
    with cpu.one_lapack_thread():
        pass


def test_scipys_own_library_is_found():
    """Of the two that are loaded, NumPy's and SciPy's, it is the one that jaxlib calls."""
    import scipy.linalg  # noqa: F401
    from threadpoolctl import threadpool_info

    own = [
        of for of in threadpool_info() if of["internal_api"] == "openblas" and "scipy" in of["filepath"].split("/")[-2]
    ]
    if not own:
        pytest.skip("SciPy was built with another library than OpenBLAS")
    found = cpu._lapack_threads()
    assert found is not None
    before = found.get()
    try:
        found.set(1)
        assert {of["num_threads"] for of in threadpool_info() if of["filepath"] == own[0]["filepath"]} == {1}
    finally:
        found.set(before)


def test_rankings_and_sweeps_work_on_one_thread(threads, monkeypatch, tmp_path):
    seen = []
    score, kept = rank._score, run._keep_models
    monkeypatch.setattr(rank, "_score", lambda *args: (seen.append(threads.log[-1]), score(*args))[1])
    monkeypatch.setattr(run, "_keep_models", lambda *args: (seen.append(threads.log[-1]), kept(*args))[1])
    rng = np.random.default_rng(0)
    h, z = rng.standard_normal((30, 3)), rng.standard_normal((30, 4))
    rank_supervisors({"h": h}, z)
    np.save(tmp_path / "h.npy", h)
    np.save(tmp_path / "z.npy", z)
    run_sweep({"output": str(tmp_path / "out"), "weak": str(tmp_path / "h.npy"), "strong": str(tmp_path / "z.npy")})
    assert seen == [1, 1]
    assert threads.log[-1] == 4
