"""Choices are one of their strings; what is no number is counted and located, without a mask of the whole array."""

from __future__ import annotations

import tracemalloc
from typing import Literal

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from saving import refused

from w2s_jax._core.checks import InputError, missing_classes, require_choice, require_finite, warn_of_missing_classes

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(40,), (40, 3), (40, 2, 2)])
def test_nan_and_infinity_are_counted_and_located(convert, dtype, shape):
    array = np.ones(shape, dtype)
    require_finite("h", convert(array))
    for row, value in ((30, np.nan), (17, np.inf), (39, -np.inf)):
        array[(row, *(-1 for _ in shape[1:]))] = value
    with refused("strong representations contain 3 NaN or infinite values, the first in row 17"):
        require_finite("strong representations", convert(array))
    with refused("the first in row 117"):
        require_finite("strong representations", convert(array), first_row=100)


def test_the_first_bad_row_past_the_first_block():
    array = np.zeros((5000, 500), np.float32)  # more entries than the check looks at in one go
    array[[4321, 4999], [77, 0]] = np.nan
    with refused("h contain 2 NaN or infinite values, the first in row 4321"):
        require_finite("h", array)


def test_the_check_makes_no_mask_of_the_whole_array():
    array = np.zeros((8, 1 << 20), np.float16)
    tracemalloc.start()
    require_finite("h", array)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < array.size / 4


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_one_bad_value_is_one_value(convert):
    with refused("h contain 1 NaN or infinite value, in row 2"):
        require_finite("h", convert([0.0, 1.0, np.nan]))


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_a_bad_scalar(convert):
    with refused("h contain 1 NaN or infinite value, in row 0"):
        require_finite("h", convert(np.float32(np.inf)))


def test_tracers_pass_and_constants_inside_jit_do_not():
    bad = jnp.array([1.0, jnp.nan])

    @jax.jit
    def checked(x):
        require_finite("x", x)
        return x + 1

    @jax.jit
    def with_constant(x):
        require_finite("constant", bad)
        return x

    assert np.isnan(checked(bad)[1])
    with pytest.raises(InputError, match="constant contain 1 NaN or infinite value, in row 1"):
        with_constant(1.0)


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("dtype", [np.int32, np.bool_])
def test_integers_pass_without_being_read(convert, dtype, monkeypatch):
    def fail(*_):
        raise AssertionError("the array was read")

    monkeypatch.setattr("w2s_jax._core.checks._all_finite", fail)
    monkeypatch.setattr("w2s_jax._core.checks._blocks", fail)
    require_finite("h", convert(np.ones((2, 2), dtype)))
    with pytest.raises(AssertionError, match="the array was read"):
        require_finite("h", convert(np.ones((2, 2), np.float32)))


@pytest.mark.parametrize("value", ["b", None, 1, b"a"])
def test_a_choice_is_one_of_the_strings(value):
    require_choice("kind", "a", Literal["a", "c"])
    with refused(f"kind must be 'a' or 'c', got {value!r}"):
        require_choice("kind", value, Literal["a", "c"])
    with refused(f"kind must be 'a', 'c' or a Kind, got {value!r}"):
        require_choice("kind", value, Literal["a", "c"], "a Kind")


def test_classes_without_a_row_are_named():
    """Of one-hot labels and of shares; what is no class passes, and classes that nobody has if others say which there are."""
    one_hot = np.eye(12)[[0, 2, 2]]
    assert missing_classes(one_hot[:, :4]).tolist() == [1, 3]
    assert missing_classes(one_hot[:, :4], [np.eye(4)[[0, 1]]]).tolist() == [1]
    assert missing_classes(jnp.array([[0.5, 0.5, 0], [1, 0, 0]])).tolist() == [2]
    for none in (one_hot[:, 0], one_hot[:, :1], -one_hot, 2 * one_hot, np.eye(3)):
        assert not len(missing_classes(none))
    jax.jit(lambda y: warn_of_missing_classes("rows", y) or y)(one_hot)
    with pytest.warns(UserWarning, match="rows have no row of classes 1, 3, 4, 5, 6, 7, 8, 9, 10, 11: a head learns"):
        warn_of_missing_classes("rows", one_hot)
