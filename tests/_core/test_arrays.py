"""The one way in for arrays: whatever holds numbers is taken as they are, what cannot be is one sentence."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from saving import refused

from w2s_jax import moments, overlap, rank_supervisors, ridge_probe
from w2s_jax._core.arrays import as_labels, as_matrix, entered
from w2s_jax._core.checks import require_scale, warn_of_float_bits

pytestmark = pytest.mark.usefixtures("unchecked")

X = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
Y = X[:, 0] + 1


class Tensor:
    """What torch's tensors do: NumPy has them only without their gradient, and never bfloat16, which goes by DLPack."""

    def __init__(self, values: Any, requires_grad: bool = False) -> None:
        self._values, self.requires_grad, self.layout = values, requires_grad, "torch.strided"

    shape = property(lambda self: self._values.shape)
    dtype = property(lambda self: f"torch.{self._values.dtype}")
    detach = cpu = contiguous = lambda self: Tensor(self._values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.requires_grad:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        if self._values.dtype == ml_dtypes.bfloat16:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return np.asarray(self._values, dtype)

    def __dlpack__(self, **options: Any) -> Any:
        return jnp.asarray(self._values).__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return jnp.asarray(self._values).__dlpack_device__()


def of_pandas(x: np.ndarray) -> Any:
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(x) if x.ndim == 2 else pandas.Series(x)


def of_mixed_columns(x: np.ndarray) -> Any:
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(x).astype({0: "Float32"}) if x.ndim == 2 else pandas.Series(x).astype("Float32")


def of_polars(x: np.ndarray) -> Any:
    polars = pytest.importorskip("polars")
    return polars.DataFrame(x) if x.ndim == 2 else polars.Series(x)


def of_torch(x: np.ndarray) -> Any:
    torch = pytest.importorskip("torch")
    return torch.tensor(x, requires_grad=True)


HOLDERS = {
    "fortran": np.asfortranarray,
    "list": lambda x: x.tolist(),
    "list of rows": lambda x: [Tensor(row, True) for row in x] if x.ndim == 2 else x.tolist(),
    "jax": jnp.asarray,
    "tensor": Tensor,
    "gradient": lambda x: Tensor(x, True),
    "masked": np.ma.array,
    "objects": lambda x: x.astype(object),
    "read only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "pandas": of_pandas,
    "mixed columns": of_mixed_columns,
    "polars": of_polars,
    "torch": of_torch,
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_whatever_holds_numbers_is_taken(holder):
    """Representations and labels, by one function."""
    hold = HOLDERS[holder]
    np.testing.assert_array_equal(as_matrix("h", hold(X)), X)
    np.testing.assert_array_equal(as_labels("y", hold(Y), 40), Y)


@pytest.mark.parametrize("holder", ["gradient", "pandas", "fortran"])
def test_every_way_in_takes_them(holder):
    """Moments, overlaps, heads and rankings say the same of them as of NumPy's arrays."""
    hold = HOLDERS[holder]
    for function in (
        lambda of: moments(of(X[:, :3]), of(X), of(Y)).sw,
        lambda of: overlap(of(X[:, :3]), of(X), of(Y)).C,
        lambda of: ridge_probe(of(X), of(Y), 0.1).kernel[...],
        lambda of: rank_supervisors({"a": of(X[:, :3]), "b": of(X[:, 1:])}, of(X), of(Y))["trial_error"],
    ):
        np.testing.assert_array_equal(function(hold), function(np.asarray))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_bfloat16_of_a_tensor_stays_bfloat16(requires_grad):
    values = X.astype(ml_dtypes.bfloat16)
    found = entered("h", Tensor(values, requires_grad))
    assert found.dtype == ml_dtypes.bfloat16
    assert found.tobytes() == values.tobytes()
    assert as_matrix("h", Tensor(values, requires_grad)).dtype == jnp.bfloat16
    table = rank_supervisors({"a": Tensor(values[:, :3])}, Tensor(values, requires_grad))
    assert table["gap_fro"] == rank_supervisors({"a": values[:, :3]}, values)["gap_fro"]


def test_torch_gives_bfloat16():
    torch = pytest.importorskip("torch")
    found = entered("h", torch.tensor(X, requires_grad=True).to(torch.bfloat16))
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found, X.astype(ml_dtypes.bfloat16))


def test_traced_lists_stay_traced():
    """Inside jit a list may hold what is traced."""
    traced = jax.jit(lambda a: as_labels("y", [a, 2 * a], 2))
    assert traced(1.0).tolist() == [1, 2]


HOLES = np.ma.array(X, mask=X > 2)
REFUSED = {
    "holes": (
        HOLES,
        rf"h must have a number in every place, got a masked array with {int((X > 2).sum())} masked entries",
    ),
    "scipy": (
        lambda: pytest.importorskip("scipy.sparse").csr_matrix(X),
        r"h must be a dense array, got a sparse one \(csr_matrix\)",
    ),
    "jax sparse": (
        lambda: pytest.importorskip("jax.experimental.sparse").BCOO.fromdense(X),
        r"h must be a dense array, got a sparse one \(BCOO\)",
    ),
    "text": (lambda: of_pandas(np.full((40, 2), "x")), "h must be a numeric array, got DataFrame"),
    "complex": (X * 1j, "h must be real, got complex64"),
    "none": (lambda: object(), "h must be a numeric array, got object"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_holds_no_dense_numbers_is_one_sentence(what):
    given, why = REFUSED[what]
    with refused(why):
        as_matrix("h", given() if callable(given) else given)


@pytest.mark.parametrize("what", ["holes", "scipy", "text"])
def test_rankings_refuse_them_in_the_same_words(what):
    given, why = REFUSED[what]
    with refused(why.replace("h must", "weak representation 'a' must")):
        rank_supervisors({"a": given() if callable(given) else given}, X)
    if what == "holes":
        with refused("labels y must have a number in every place.+"):
            rank_supervisors({"a": X}, X, np.ma.array(Y, mask=Y > 1))


# Numbers that mean something else


def bits(x: np.ndarray, dtype: Any, of: Any = np.float16) -> np.ndarray:
    return x.astype(of).view(dtype)


FLOATS = {
    "normal": lambda rng: rng.normal(size=(50, 64)),
    "rectified": lambda rng: np.maximum(rng.normal(size=(50, 64)), 0),
    "small": lambda rng: 0.02 * rng.normal(size=(50, 64)),
    "large": lambda rng: 100 + 30 * rng.normal(size=(50, 64)),
}
INTEGERS = {
    "bytes": lambda rng: rng.integers(0, 256, (50, 64)),
    "all": lambda rng: rng.integers(0, 65536, (50, 64)),
    "both signs": lambda rng: 3000 * rng.normal(size=(50, 64)),
    "counts": lambda rng: rng.poisson(3, (50, 64)),
    "zeros": lambda rng: np.zeros((50, 64)),
}


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_bits_of_floats_are_warned_of(dtype):
    """They would rank as if they were numbers; integers that are meant pass in silence."""
    for make in FLOATS.values():
        with pytest.warns(UserWarning, match=f"^h are {np.dtype(dtype).name} that look like the bits of 16-bit floats"):
            as_matrix("h", bits(make(np.random.default_rng(0)), dtype))
    with warnings.catch_warnings(action="error"):
        for make in INTEGERS.values():
            warn_of_float_bits("h", make(np.random.default_rng(0)).astype(dtype))
        warn_of_float_bits("h", np.zeros((0, 3), dtype))


def test_a_ranking_warns_of_bits():
    with pytest.warns(UserWarning, match="^weak representation 'a' are int16 that look like the bits"):
        rank_supervisors({"a": bits(X, np.int16)}, X)


@pytest.mark.parametrize("scale", [1e-18, 1e-24])
def test_rows_whose_squares_are_lost_are_refused(scale):
    """At 1e-24 rows were "constant", at 1e-18 scores off by 3%; 1e-15 loses nothing."""
    tiny = (X * scale).astype(np.float32)
    for given in ({"weak": {"a": tiny}, "strong": X}, {"weak": {"a": X}, "strong": tiny}):
        with refused(r"representation '\w+' must have entries of at least 1e-16, got none above .+"):
            rank_supervisors(**given)
    expected, found = (rank_supervisors({"a": x[:, :3]}, x)["gap_fro"] for x in (X, (1e-15 * X).astype(np.float32)))
    assert found == pytest.approx(expected, rel=1e-4)
    blank = np.concatenate([0 * tiny[:1], tiny])  # the first row tells nothing
    with refused("h must have entries of at least 1e-16.+"):
        require_scale("h", blank, np.float32)
    require_scale("h", np.concatenate([tiny, X]), np.float32)
    require_scale("h", X * scale, np.float64)


MARKED = {
    "torch": (
        [0, 1, 2, -100],
        r"y are -100 in 1 rows and classes from 0 to 2 in the others: where -100 means unlabelled .+",
    ),
    "two classes": ([-1, 1, -100], "y are -100 in 1 rows and classes from -1 to 1 .+"),
    "scikit-learn": ([0, 1, -1, -1], "y are -1 in 2 rows and classes from 0 to 1 in the others: where -1 means .+"),
    "one-hot": ([[1, 0], [0, 1], [-1, -1]], "y are -1 in 1 rows and classes from 0 to 1 .+"),
}


@pytest.mark.parametrize("case", MARKED)
def test_marks_for_no_label_beside_classes_are_refused(case):
    """Regressed, they cost an error of 2908 for .08."""
    y, why = MARKED[case]
    with refused(why):
        as_labels("y", np.array(y, np.float32), len(y))


@pytest.mark.parametrize(
    "y",
    [
        [-1, 1, 1],
        [-100, 12_000],
        [-1, 0, 0],
        [-1, -1],
        [-1, 5, 9],
        [-100, -3, 2],
        [-100, 0.5],
        [[-1, 1], [-1, -1], [1, -1]],
        [0, 1, 2],
    ],
    ids=str,
)
def test_labels_that_are_values_pass(y):
    np.testing.assert_array_equal(as_labels("y", np.array(y, np.float32), len(y)), y)
