"""A handful of rows with most of the energy is named, whatever way rows come; ordinary ones are silent."""

from __future__ import annotations

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from w2s_jax import rank_supervisors, weak_to_strong_splits
from w2s_jax._core import heavy_rows as heavy_rows_module
from w2s_jax._core.heavy_rows import Watched, heavy_rows, warn_of_heavy_rows

RNG = np.random.default_rng(0)
N, D = 400, 12
CALM = RNG.standard_normal((N, D)).astype(np.float32)


def with_heavy(*rows: int, size: float = 40.0) -> np.ndarray:
    """Rows of which some are many times as long as the others, about a mean that is longer still."""
    h = CALM / np.linalg.norm(CALM, axis=1, keepdims=True)
    for row in rows:
        h[row] *= size * (1 + row / N)
    return h + 300


def test_who_is_heavy():
    """Those that hold half, if they are few, and single ones with a tenth; nobody else."""
    energies = np.ones(1000)
    assert not len(heavy_rows(energies))
    energies[[5, 700]] = 900, 300
    assert heavy_rows(energies).tolist() == [5, 700]
    energies[[5, 700]] = 150, 1
    assert heavy_rows(energies).tolist() == [5]
    energies[:20] = 100  # half of it, but of one in fifty
    assert not len(heavy_rows(energies))
    assert heavy_rows(np.array([1.0, 5.0, 1.0])).tolist() == [1]
    assert not len(heavy_rows(np.array([1.0, 2.0, 1.0])))
    for nothing in (np.zeros(9), np.full(9, np.nan), np.array([3.0])):
        assert not len(heavy_rows(nothing))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("normalize", ["none", "scale", "features"])
def test_ordinary_rows_are_silent(normalize):
    """Of few features, of heavier tails, of features of very different sizes, of words that are rare."""
    rare = (RNG.random((N, 300)) < 0.02).astype(np.float32)
    for h in (CALM[:, :1], RNG.standard_t(4, (N, D)), CALM * np.logspace(-3, 3, D), rare, CALM[:5], np.ones((9, 2))):
        warn_of_heavy_rows("h", h, normalize)


@pytest.mark.parametrize(("normalize", "scaled"), [("features", " after scaling"), ("scale", " after scaling")])
@pytest.mark.parametrize("block", [400, 130])
def test_heavy_rows_are_named(normalize, scaled, block):
    """Once, when all have been read, whatever else was read before; by id where rows have one."""

    class Named:
        shape, dtype = (N, D), np.dtype(np.float32)
        ids = np.array([f"mol{i}" for i in range(N)])

        def __getitem__(self, wanted: slice) -> np.ndarray:
            return with_heavy(7, 311)[wanted]

    rows = Watched(Named(), "model 'a'", normalize)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for start in (0, 3, *range(0, N, block), *range(0, N, block)):
            np.testing.assert_array_equal(rows[start : start + block], Named()[start : start + block])
    (one,) = (str(warning.message) for warning in said)
    assert one.startswith("model 'a': 2 of 400 rows hold ")
    assert one.endswith(
        f'of the squared norm{scaled}, rows 311 (mol311), 7 (mol7): rows="unit" divides every row by its norm'
    )


def test_rankings_and_experiments_say_it():
    """Of each representation that heads are trained on; not where rows are of unit norm."""
    heavy, y = with_heavy(20), CALM[:, 0]
    said = r"weak representation 'a': 1 of 400 rows holds \d\d% of the squared norm after scaling, row 20: rows="
    scale = {"normalize": "scale"}
    with pytest.warns(UserWarning, match=said):
        rank_supervisors({"a": heavy}, CALM, **scale)
    with pytest.warns(UserWarning, match=r"weak representations of all rows: \d of 400 rows hold.* rows? 20"):
        weak_to_strong_splits(heavy, CALM, y, n_labelled=100, n_test=100, repeats=2, normalize="features")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rank_supervisors({"a": heavy}, CALM, rows="unit")


@pytest.mark.parametrize("normalize", ["none", "scale", "features"])
def test_rows_on_an_accelerator_stay_there(normalize, monkeypatch):
    """The same is said of them, from energies that are computed where they are."""
    said = []
    for there in (False, True):
        monkeypatch.setattr(heavy_rows_module, "_on_accelerator", lambda h, there=there: there)
        rows = with_heavy(7, 90) - (300 if normalize == "none" else 0)
        with pytest.warns(UserWarning, match=r"rows 90, 7:") as found:
            warn_of_heavy_rows("h", jnp.asarray(rows), normalize)
        said.append(str(found[0].message))
    assert said[0] == said[1]
