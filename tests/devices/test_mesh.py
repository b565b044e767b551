"""Many devices give the numbers of one, to rounding: rows, models and both spread over eight CPU devices."""

from __future__ import annotations

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import relative_error
from jax.sharding import PartitionSpec

from w2s_jax import InputError, Moments, moments_from_batches, rank_supervisors, run_sweep, spectrum, train_probe
from w2s_jax.devices import device_mesh, spread
from w2s_jax.devices.mesh import put
from w2s_jax.moments import _adder, _block_of_pair, _over_rows

SHAPES = [(8, 1), (1, 8), (2, 4)]
ROWS = 203  # of which no mesh gets an even share


def mesh_of(rows: int, models: int) -> jax.sharding.Mesh:
    return device_mesh(rows, models, jax.devices("cpu"))


def sample(n: int = ROWS, models: int = 3) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Weak representations by name, a strong one (n, 8), labels (n,), about means that are not zero."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((n, 8)) + 1
    see = lambda d: latent @ rng.standard_normal((8, d)) + 0.5 * rng.standard_normal((n, d))
    return {f"weak{i}": see(5) for i in range(models)}, see(8), latent[:, 0]


def batches(lengths: tuple[int, ...] = (64, 64, 64, 11)):
    weak, strong, y = sample()
    starts = np.cumsum([0, *lengths])
    return [(weak["weak0"][a:b], strong[a:b], y[a:b]) for a, b in pairwise(starts)]


def assert_same_moments(found: Moments, expected: Moments, tolerance: float) -> None:
    for name in ("n", "ww", "ss", "sw", "wy", "sy", "yy"):
        assert relative_error(getattr(found, name), getattr(expected, name), 1.0) <= tolerance, name


@pytest.mark.parametrize(("shape", "bias"), [*((shape, True) for shape in SHAPES), (SHAPES[-1], False)])
def test_moments_over_devices_are_those_of_one(shape, bias, x64):
    """Rows that do not divide evenly, and batches shorter than the mesh, add up to the same moments; they still merge."""
    expected = moments_from_batches(batches(), bias=bias)
    assert_same_moments(moments_from_batches(batches(), bias=bias, mesh=mesh_of(*shape)), expected, 1e-13)
    found = moments_from_batches(batches((ROWS - 5, 5)), bias=bias, mesh=mesh_of(*shape))
    assert_same_moments(found + expected, expected + expected, 1e-13)


def test_rows_meet_once(x64):
    """A streamed block costs no communication: only the devices' totals meet."""
    mesh = mesh_of(8, 1)
    rows = jnp.ones((16, 3)), jnp.ones((16, 3)), None, jnp.ones(16)
    start, _, _ = _over_rows(mesh)
    shapes = jax.eval_shape(_block_of_pair, rows, None)
    zeros = start(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))
    text = _adder(mesh).lower(zeros, zeros, put(rows, mesh, PartitionSpec("rows")), None)
    assert not [word for word in ("all_reduce", "all_gather", "collective") if word in text.as_text()]


@pytest.mark.everything
@pytest.mark.parametrize("labelled", [False, True])
def test_ranking_over_devices_is_that_of_one(labelled, x64):
    """Every score and standard error of every pair, models and rows spread unevenly over both axes."""
    weak, strong, y = sample()
    options = dict(y=y, labelled_rows=np.arange(ROWS) % 3 > 0, threshold=0.01) if labelled else {}
    options |= {"predictors": ["debiased_cka", "two_nn_dimension"]}
    expected = rank_supervisors(weak, strong, **options)
    found = rank_supervisors(weak, strong, mesh=mesh_of(4, 2), **options)
    assert found.names == expected.names
    for column, values in expected.values.items():
        assert relative_error(found[column], values) <= 1e-9, column
        assert relative_error(*(np.nan_to_num(table.errors[column]) for table in (found, expected))) <= 1e-9, column


@pytest.mark.everything
def test_a_sweep_over_devices_is_that_of_one(x64, tmp_path):
    """Rows of every block and weak models are dealt to all devices: the same table, and the same hash of the inputs."""
    weak, strong, y = sample()
    for name, rows in {**weak, "strong": strong, "y": np.where(np.arange(ROWS) % 4 > 0, y, np.nan)}.items():
        np.save(tmp_path / f"{name}.npy", rows)
    files = {"weak": [str(tmp_path / "weak*.npy")], "strong": [str(tmp_path / "strong.npy")]}
    files |= {
        "labels": {"some": str(tmp_path / "y.npy")},
        "threshold": [0.0, 0.01],
        "folds": 3,
        "predictors": ["gulp", "logme"],
    }
    expected = run_sweep({**files, "output": str(tmp_path / "one")})
    found = run_sweep({**files, "output": str(tmp_path / "eight")}, mesh=mesh_of(4, 2))
    assert list(found["inputs"]) == list(expected["inputs"])
    for column in (
        "gap_op",
        "gap_fro",
        "cka",
        "predicted_gap",
        "expected_error",
        "expected_gap",
        "trial_error",
        "gulp",
        "logme",
    ):
        assert relative_error(found[column], expected[column]) <= 1e-9, column


@pytest.mark.parametrize("shape", SHAPES)
def test_spectra_of_many_models(shape, x64):
    """Eigenvalues of 11 matrices on 8 devices are those of each."""
    a = np.random.default_rng(0).standard_normal((11, 12, 6))
    matrices = jnp.asarray(np.swapaxes(a, 1, 2) @ a)
    values = jax.vmap(lambda m: spectrum(m, 12).values)
    assert relative_error(spread(values, mesh_of(*shape))(matrices), values(matrices)) <= 1e-12


def test_an_ensemble_of_probes(x64):
    """Heads for many labels, trained on all devices, are those trained on one; the rows go to every device."""
    h = np.random.default_rng(0).standard_normal((40, 5))
    labels = (h @ np.random.default_rng(1).standard_normal((5, 9)) > 0).T.astype(float)
    kernels = lambda ys, h: jax.vmap(lambda y: train_probe(h, y, 1e-2, "logistic").probe.kernel[...])(ys)
    found = spread(kernels, mesh_of(8, 1))(labels, h)
    assert relative_error(found, kernels(labels, h), 1e-2) <= 1e-8


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: mesh_of(9, 1), r"rows x models must be between 1 and the number of devices \(8\), got 9 x 1"),
        (lambda: mesh_of(1, 0), "got 1 x 0"),
        (
            lambda: spread(lambda x: x[0], mesh_of(8, 1))((np.ones(3), np.ones(4))),
            r"one common leading axis, got lengths \[\(3,\), \(4,\)\]",
        ),
        (lambda: spread(lambda x: x, mesh_of(8, 1))(3.0), r"one common leading axis, got lengths \[\(\)\]"),
        (lambda: moments_from_batches(batches(), mesh="all"), "mesh must have the axes 'rows' and 'models' .* got str"),
        (
            lambda: rank_supervisors(*sample()[:2], mesh=jax.make_mesh((8,), ("x",))),
            r"mesh must have the axes 'rows' and 'models' \(see device_mesh\), got \('x',\)",
        ),
    ],
)
def test_bad_input_is_one_sentence(call, sentence, unchecked):
    """Which argument, what was expected, what came."""
    with pytest.raises(InputError, match=sentence):
        call()
