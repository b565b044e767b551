"""The overlap of a pair: the reference's eigenvalues, products and label energies, however it is computed."""

from __future__ import annotations

import warnings
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import (
    CASES,
    SHAPES,
    Pair,
    computing_in,
    entrywise_error,
    pair,
    quickly,
    relative_error,
    tolerance,
    well_defined,
)
from hypothesis import assume, given
from hypothesis import strategies as st

from w2s_jax import (
    InputError,
    Overlap,
    example_scores,
    gap_norm,
    moments,
    moments_from_batches,
    overlap,
    overlap_from_kernels,
    overlap_from_moments,
    prediction_gap,
    principal_kernel,
    projection,
    ridge,
)

SCALES = [scales for scales in product((1e-15, 1.0, 1e15), repeat=2) if scales != (1.0, 1.0)]


@jax.jit
def from_rows(h_w, h_s, y):
    return overlap(h_w, h_s, y)


@jax.jit
def from_moments(h_w, h_s, y):
    return overlap_from_moments(moments(h_w, h_s, y))


@jax.jit
def from_kernels(h_w, h_s, y):
    return overlap_from_kernels(h_w @ h_w.T, h_s @ h_s.T, y)


ROUTES = {"rows": from_rows, "moments": from_moments, "kernels": from_kernels}


@jax.jit
def numbers(o: Overlap, weak: ridge, strong: ridge) -> dict[str, jax.Array]:
    """What an overlap says whatever the bases: eigenvalues, and norms and products of `P y` and of `P_s P_w`."""
    f_w, f_s = weak(o.weak.values, o.weak.n), strong(o.strong.values, o.strong.n)
    t_w, t_s, C = f_w[:, None] * o.a_w, f_s[:, None] * o.a_s, f_s[:, None] * o.C * f_w
    return {
        "weak": o.weak.values,
        "strong": o.strong.values,
        "energy": o.energy,
        "weak_learned": jnp.sum(t_w**2, 0),
        "strong_learned": jnp.sum(t_s**2, 0),
        "shared": jnp.sum(C**2),
        "agreement": jnp.sum(t_s * (C @ o.a_w), 0),
    }


def expected(p: Pair, weak: reference.Filter, strong: reference.Filter) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The same from dense kernels, each with the floor of its relative error."""
    h_w, h_s, y = (np.asarray(x, np.float64) for x in p)
    P_w, P_s = reference.principal_kernel(h_w, weak), reference.principal_kernel(h_s, strong)
    values = [reference.kernel_spectrum(h)[0][: min(h.shape)] for h in (h_w, h_s)]
    energy = np.mean(y**2, 0)

    def per_row(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sum(a * b, 0) / len(y)

    return {
        "weak": (values[0], values[0][0]),
        "strong": (values[1], values[1][0]),
        "energy": (energy, 0.0),
        "weak_learned": (per_row(P_w @ y, P_w @ y), 1e-2 * energy),
        "strong_learned": (per_row(P_s @ y, P_s @ y), 1e-2 * energy),
        "shared": (np.linalg.norm(P_s @ P_w) ** 2, 1e-2 * np.linalg.norm(P_s) * np.linalg.norm(P_w)),
        "agreement": (per_row(P_s @ y, P_s @ P_w @ y), 1e-2 * energy),
    }


def errors(p: Pair, strength: float, threshold: float, route: str = "rows") -> dict[str, float]:
    """Relative errors of all numbers, the ridge strength given relative to the leading eigenvalue."""
    b_w, b_s = (strength * reference.kernel_spectrum(h)[0][0] for h in (p.h_w, p.h_s))
    found = numbers(ROUTES[route](*p), ridge(b_w, threshold), ridge(b_s, threshold))
    dense = expected(p, reference.ridge(b_w, threshold), reference.ridge(b_s, threshold))
    k_w, k_s = len(dense["weak"][0]), len(dense["strong"][0])
    found |= {"weak": found["weak"][:k_w], "strong": found["strong"][:k_s]}
    return {name: relative_error(found[name], *dense[name]) for name in dense}


def failures(found: dict[str, float], allowed: float) -> dict[str, float]:
    return {name: error for name, error in found.items() if not error <= allowed}


@pytest.mark.parametrize("threshold", [1e-2, 1e-4])
@pytest.mark.parametrize("strength", [0.0, 1e-2])
@pytest.mark.parametrize(("kind", "shape"), CASES, ids=str)
def test_numbers_are_those_of_the_reference(kind, shape, strength, threshold, dtype):
    """Each number agrees with dense kernels for every family and every relation of rows to features."""
    p = pair(kind, *shape, dtype=dtype)
    assert all(well_defined(h, threshold) for h in p[:2])
    assert not failures(errors(p, strength, threshold), tolerance(dtype, threshold))


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[2]], ids=str)
@pytest.mark.parametrize("route", ["moments", "kernels"])
def test_every_route_agrees_with_the_reference(route, shape, dtype):
    """Moments and kernels give the numbers that rows give, with more and with fewer rows than features."""
    p = pair("generic", *shape, dtype=dtype)
    assert not failures(errors(p, 1e-2, 1e-2, route), tolerance(dtype, 1e-2))


@pytest.mark.parametrize("scales", SCALES, ids=str)
@pytest.mark.parametrize("shape", SHAPES[2:4], ids=str)
def test_scales_cancel(scales, shape, dtype):
    """A representation 1e15 times larger or smaller has the same overlap, whatever the other one's scale."""
    p = pair("generic", *shape)
    p = Pair(*(x.astype(dtype) for x in (p.h_w * scales[0], p.h_s * scales[1], p.y)))
    assert not failures(errors(p, 1e-2, 1e-2), tolerance(dtype, 1e-2))


@pytest.mark.parametrize("narrow", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("shape", SHAPES[2:4], ids=str)
def test_16_bit_inputs_are_computed_in_float32(shape, narrow):
    """bfloat16 and float16 representations have the overlap of their rounded entries, as exactly as float32 ones."""
    p = pair("generic", *shape, dtype=narrow)
    assert from_rows(*p).C.dtype == jnp.float32
    assert not failures(errors(p, 1e-2, 1e-2), tolerance(np.float32, 1e-2))


@pytest.mark.everything
@given(
    case=st.sampled_from(CASES),
    seed=st.integers(0, 2**31),
    scales=st.tuples(st.integers(-15, 15), st.integers(-15, 15)),
    strength=st.sampled_from([0.0, 1e-4, 1e-2, 1.0]),
    threshold=st.sampled_from([1e-4, 1e-3, 1e-2, 1e-1]),
)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_random_pairs_agree_with_the_reference(precision, case, seed, scales, strength, threshold):
    """Whatever the family, shape, scales, ridge and threshold, every number is the reference's."""
    dtype = np.dtype(precision)
    p = pair(case[0], *case[1], seed)
    p = Pair(*(x.astype(dtype) for x in (p.h_w * 10.0 ** scales[0], p.h_s * 10.0 ** scales[1], p.y)))
    assume(all(well_defined(h, threshold) for h in p[:2]))
    with computing_in(precision):
        found = errors(p, strength, threshold)
    assert not failures(found, tolerance(dtype, threshold))


# Identities


@pytest.mark.parametrize("route", ROUTES)
def test_overlap_entries_are_cosines(route, x64):
    """On directions that are not zero, C is U_s^T U_w: its singular values are the cosines between the two ranges."""
    h_w, h_s, y = pair("generic", *SHAPES[2])
    U_w, U_s = (np.linalg.qr(h)[0] for h in (h_w, h_s))
    cosines = np.linalg.svd(U_s.T @ U_w, compute_uv=False)
    assert entrywise_error(jnp.linalg.svd(ROUTES[route](h_w, h_s, y).C[:20, :12])[1], cosines) <= 1e-10


@pytest.mark.parametrize("shape", [SHAPES[2], SHAPES[3]], ids=str)
def test_centring_is_the_overlap_of_centred_columns(shape, x64):
    """`bias=True` is the overlap of representations and labels from which column means were taken."""
    p = pair("generic", *shape)
    shifted = Pair(*(x + 3.0 for x in p))
    centred = Pair(*(x - x.mean(0) for x in p))
    cut = ridge(0.1, 1e-2)
    found = numbers(overlap(*shifted, bias=True), cut, cut)
    for name, value in numbers(from_rows(*centred), cut, cut).items():
        assert entrywise_error(found[name], value) <= 1e-10


def test_centred_moments_give_the_centred_overlap(x64):
    """An overlap is centred if the moments it is made of are."""
    p, cut = pair("generic", *SHAPES[2]), ridge(0.1, 1e-2)
    found = numbers(overlap_from_moments(moments(*p, bias=True)), cut, cut)
    for name, value in numbers(overlap(*p, bias=True), cut, cut).items():
        assert entrywise_error(found[name], value) <= 1e-10


@pytest.mark.parametrize("side", ["h_w", "h_s"])
@pytest.mark.parametrize("shape", [SHAPES[2], SHAPES[3]], ids=str)
def test_padding_with_columns_of_zeros_changes_nothing(side, shape, x64):
    """Models of unequal width batch by zero-padding: the padded overlap has the same numbers."""
    p, cut = pair("generic", *shape), ridge(0.1, 1e-2)
    padded = numbers(from_rows(*p._replace(**{side: np.pad(getattr(p, side), ((0, 0), (0, 9)))})), cut, cut)
    for name, value in numbers(from_rows(*p), cut, cut).items():
        assert entrywise_error(padded[name][: len(value)] if value.ndim else padded[name], value) <= 1e-10


def test_labels_of_one_output_drop_their_axis(x64):
    """Labels (n,) give coefficients (k,) that equal the column of labels (n, 2)."""
    h_w, h_s, y = pair("generic", *SHAPES[2])
    one, two = overlap(h_w, h_s, y[:, 0]), overlap(h_w, h_s, y)
    assert (one.a_w.shape, one.a_s.shape, one.energy.shape) == ((12,), (20,), ())
    assert entrywise_error(one.a_w, two.a_w[:, 0]) <= 1e-12
    assert entrywise_error(one.energy, two.energy[0]) <= 1e-12


@pytest.mark.parametrize("shape", [SHAPES[2], SHAPES[3]], ids=str)
def test_labels_are_optional(shape):
    """Without labels the overlap is the same but for the three label fields, which are None."""
    h_w, h_s, y = pair("generic", *shape, dtype=np.float32)
    without = overlap(h_w, h_s)
    assert (without.a_w, without.a_s, without.energy) == (None, None, None)
    assert entrywise_error(jnp.abs(without.C), jnp.abs(overlap(h_w, h_s, y).C)) <= 1e-3
    assert "no labels" in repr(without) and "labels" in repr(overlap(h_w, h_s, y))


def test_kernels_need_not_be_linear(x64):
    """Any positive semidefinite kernels will do: for RBF kernels too the numbers are the dense ones."""
    h_w, h_s, y = pair("generic", *SHAPES[0])
    K_w, K_s = (np.exp(-np.sum((h[:, None] - h) ** 2, -1)) for h in (h_w, h_s))
    found = numbers(overlap_from_kernels(K_w, K_s, y), ridge(0.01), ridge(0.01))
    P_w, P_s = (reference.principal_kernel_from_kernel(K, reference.ridge(0.01)) for K in (K_w, K_s))
    assert relative_error(found["shared"], np.linalg.norm(P_s @ P_w) ** 2) <= 1e-10
    assert relative_error(found["weak_learned"], np.mean((P_w @ y) ** 2, 0)) <= 1e-10


# Leading eigenpairs only

LEADING_SHAPES = ((24, 40, 32), (64, 12, 20), (40, 60, 16))
CUTS = {
    "ridge": ridge(0.1, 0.106),
    "from_head": ridge.from_head(0.1, 20.0, 0.106),
    "rank": ridge(0.1, rank=6),
    "grid": ridge(np.array([0.1, 1.0]), np.array([[0.106], [0.18]])),
}


def gaps(o: Overlap, head: ridge) -> list[jax.Array]:
    return [prediction_gap(o, head, head), gap_norm(o, head, head), gap_norm(o, head, head, "fro")]


@pytest.mark.everything
@pytest.mark.parametrize(
    ("shape", "bias", "cut"),
    [
        *((LEADING_SHAPES[0], False, cut) for cut in CUTS),
        *((shape, bias, "grid") for shape, bias in zip(LEADING_SHAPES[1:], (False, True), strict=True)),
    ],
    ids=str,
)
def test_gaps_of_leading_eigenpairs_are_those_of_all(shape, bias, cut, x64):
    """Gap and norms with a cut within the leading eigenpairs need no others, from rows, moments and kernels."""
    p, rank = pair("generic", *shape), (7, 8)
    expected = gaps(overlap(*p, bias=bias), CUTS[cut])
    about = Pair(*(x - bias * x.mean(0) for x in p))
    for found in (
        overlap(*p, bias=bias, rank=rank),
        overlap_from_moments(moments(*p, bias=bias), rank=rank),
        overlap_from_kernels(about.h_w @ about.h_w.T, about.h_s @ about.h_s.T, about.y, rank=rank),
    ):
        assert (found.C.shape, found.a_w.shape, found.a_s.shape) == ((8, 7), (7, 2), (8, 2))
        assert max(map(entrywise_error, gaps(found, CUTS[cut]), expected)) <= 1e-10


@pytest.mark.parametrize("scales", SCALES, ids=str)
@pytest.mark.parametrize("shape", LEADING_SHAPES, ids=str)
def test_scales_cancel_in_leading_eigenpairs(scales, shape):
    """In float32, a scale from 1e-15 to 1e15 changes the gap through leading eigenpairs by no more than 1e-4."""
    p, head = pair("generic", *shape), projection(0.106)
    scaled = Pair(*(x.astype(np.float32) for x in (p.h_w * scales[0], p.h_s * scales[1], p.y)))
    expected = reference.prediction_gap(*p, *2 * (reference.projection(0.106),))
    assert relative_error(prediction_gap(overlap(*scaled, rank=8), head, head), expected) <= 1e-4


@pytest.mark.parametrize("function", [prediction_gap, gap_norm, partial(gap_norm, ord="fro")])
@pytest.mark.parametrize("head", [ridge(0.1), ridge(0.1, 1e-3), ridge(0.1, rank=5), projection()], ids=str)
def test_a_filter_that_reaches_beyond_the_leading_eigenpairs_is_refused(head, function):
    """A filter that might keep a fifth of four eigenpairs is an InputError, and NaN under jit."""
    o, within = overlap(H_W, H_S, Y, rank=4), ridge(0.1, rank=4)
    assert np.all(np.isfinite(function(o, within, within)))
    for heads, name in (((head, within), "weak"), ((within, head), "strong")):
        with pytest.raises(InputError, match=f"the {name} filter must cut within the 4 leading eigenvalues"):
            function(o, *heads)
        assert np.all(np.isnan(jax.jit(function)(o, *heads)))


def test_points_of_a_grid_within_the_leading_eigenpairs_are_found_beside_others():
    """Under jit only those points of a grid are NaN that reach beyond."""
    o, heads = overlap(H_W, H_S, Y, rank=4), ridge(0.1, rank=np.array([2, 5, 4]))
    for ord in ("op", "fro"):
        assert np.isnan(jax.jit(partial(gap_norm, ord=ord))(o, heads, heads)).tolist() == [False, True, False]


@pytest.mark.everything
def test_a_rank_above_the_number_of_eigenpairs_is_all_of_them(x64):
    """Then no filter reaches beyond."""
    p, head = pair("generic", *SHAPES[2]), ridge(0.1)
    for expected, found in zip(gaps(overlap(*p), head), gaps(overlap(*p, rank=99), head), strict=True):
        assert entrywise_error(found, expected) <= 1e-10


@pytest.mark.parametrize("kind", quickly(["generic", "rank_deficient", "identical"], "rank_deficient"))
def test_leading_eigenpairs_of_a_deficient_pair_agree(kind, x64):
    """Six directions, or columns of zeros: eigenvalues of zero among the leading ones are no reach beyond."""
    p, head = pair(kind, *SHAPES[1]), ridge(0.1, 1e-6 if kind == "rank_deficient" else 0.1)
    for expected, found in zip(gaps(overlap(*p), head), gaps(overlap(*p, rank=12), head), strict=True):
        assert entrywise_error(found, expected) <= 1e-8


H_W, H_S, Y = pair("generic", *SHAPES[2], dtype=np.float32)
K = H_W @ H_W.T
NAN = np.where(np.arange(64)[:, None] == 11, np.nan, H_W)
BAD = {
    "rows": (overlap, (H_W[1:], H_S), "same number of rows, got 63 and 64"),
    "zeros": (overlap, (0 * H_W, H_S), "weak representations are zero in every entry"),
    "strong zeros": (overlap, (H_W, 0 * H_S), "strong representations are zero in every entry"),
    "labels": (overlap, (H_W, H_S, Y[1:]), r"labels must have shape \(64,\)"),
    "rank": (partial(overlap, rank=0), (H_W, H_S), "rank must be a positive integer, got 0"),
    "ranks": (partial(overlap, rank=(1, 2, 3)), (H_W, H_S), r"two \(weak, strong\), got \(1, 2, 3\)"),
    "moments' rank": (partial(overlap_from_moments, rank=(1, 2.5)), (moments(H_W, H_S),), "integer, got 2.5"),
    "NaN": (overlap, (NAN, H_S), "weak representations contain 12 .* row 11"),
    "kernels' rank": (partial(overlap_from_kernels, rank=True), (K, K), "rank must be a positive integer, got True"),
    "not square": (overlap_from_kernels, (H_W, K), r"weak kernel must be square .* \(64, 12\)"),
    "kernel sizes": (overlap_from_kernels, (K, K[1:, 1:]), "same number of rows, got 64 and 63"),
    "kernel labels": (overlap_from_kernels, (K, K, Y[1:]), r"labels must have shape \(64,\)"),
    "kernel asymmetric": (overlap_from_kernels, (K, K + np.triu(K)), "strong kernel must be symmetric"),
    "kernel negative": (
        overlap_from_kernels,
        (K - 2 * np.eye(64, dtype=K.dtype), K),
        "weak kernel must be positive semi",
    ),
    "leading part of a negative kernel": (
        partial(overlap_from_kernels, rank=8),
        (K, K - np.trace(K) / 40 * np.eye(64, dtype=K.dtype)),
        "strong kernel must be positive semi",
    ),
    "kernel NaN": (overlap_from_kernels, (K, K * np.nan), "strong kernel contain 4096 .* row 0"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("fault", BAD)
def test_bad_pairs_are_named(fault):
    """Each fault of a pair is one sentence with the array's name, what was expected and what came."""
    function, arguments, message = BAD[fault]
    with pytest.raises(InputError, match=message):
        function(*arguments)


def massive(kind: str, n: int, d_w: int, d_s: int) -> tuple[np.ndarray, ...]:
    """Rows in float32 of two models and labels, channels of which are as large as language models have some."""
    rng = np.random.default_rng(0)
    w, s, y = rng.standard_normal((n, d_w)), rng.standard_normal((n, d_s)), rng.standard_normal(n)
    y += s[:, 0] + s[:, 1]
    if kind == "means":
        s += 5 * rng.standard_normal(d_s)
    if kind == "no mean":
        s[:, 5] *= 1000
    else:
        s[:, 5] = 60 * s[:, 5] + 800
    if kind == "both sides":
        w[:, 3] = 60 * w[:, 3] + 800
    if kind == "two":
        s[:, 2] = 40 * s[:, 2] - 500
    return w.astype(np.float32), s.astype(np.float32), y.astype(np.float32)


MASSIVE = ["mean", "both sides", "two", "no mean", "means"]
SMALL_HEADS = ridge(1e-3), ridge(1e-3)
SMALL_DENSE = [reference.ridge(1e-3, 0.0)] * 2


@pytest.mark.parametrize("kind", MASSIVE)
def test_small_features_beside_massive_ones_are_right_in_single_precision(kind):
    """The gap norm was 1.0 for 3.9: eigenvalues of 1e-6 of the largest are rounding to one eigensolve of raw moments."""
    w, s, y = massive(kind, 200, 6, 16)
    found = overlap(w, s, y)
    for h, side in ((w, found.weak), (s, found.strong)):
        np.testing.assert_allclose(side.values, reference.kernel_spectrum(h)[0][: h.shape[1]], rtol=1e-3)
    wanted = reference.gap_norm(w, s, *SMALL_DENSE, "fro")
    assert relative_error(gap_norm(found, *SMALL_HEADS, "fro"), wanted) < 1e-5
    gap = reference.prediction_gap(w, s, y, *SMALL_DENSE)
    assert relative_error(prediction_gap(found, *SMALL_HEADS), gap) < 1e-3
    assert relative_error(np.mean(np.square(example_scores(w, s, y, *SMALL_HEADS))), gap) < 1e-3
    trace = np.trace(reference.principal_kernel(s, SMALL_DENSE[0]))
    assert relative_error(principal_kernel(s, SMALL_HEADS[0]).trace(), trace) < 1e-5
    batches = ((w[i : i + 50], s[i : i + 50]) for i in range(0, len(w), 50))
    for m in (moments(w, s), moments_from_batches(batches), moments(w[:20], s[:20]) + moments(w[20:], s[20:])):
        norm = gap_norm(overlap_from_moments(m), *SMALL_HEADS, "fro")
        assert relative_error(norm, wanted) < 1e-5


def test_small_features_beside_massive_ones_under_jit_and_vmap():
    """A batch of which one pair has a massive channel and one has none."""
    pairs = [massive(kind, 40, 4, 8)[:2] for kind in ("mean", "two")] + [(H_W[:40, :4], H_S[:40, :8])]
    norm = lambda w, s: gap_norm(overlap(w, s), *SMALL_HEADS, "fro")
    found = jax.jit(jax.vmap(norm))(*(np.stack(side).astype(np.float32) for side in zip(*pairs, strict=True)))
    wanted = [reference.gap_norm(np.float32(w), np.float32(s), *SMALL_DENSE, "fro") for w, s in pairs]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.everything
def test_derivatives_beside_massive_features(x64):
    """In single precision those of double precision, which meet finite differences; second ones are refused."""
    w, s, y = massive("mean", 60, 5, 8)
    numbers_of = (
        lambda w, s: gap_norm(overlap(w, s), ridge(0.3), ridge(0.2), "fro"),
        lambda w, s: gap_norm(overlap(w, s), ridge(0.3), ridge(0.2)),
        lambda w, s: prediction_gap(overlap(w, s, y.astype(s.dtype)), ridge(0.3), ridge(0.2)),
        lambda w, s: gap_norm(overlap_from_moments(moments(w, s)), ridge(0.3), ridge(0.2), "fro"),
    )
    moved = np.random.default_rng(1).standard_normal(s.shape) * 1e-4
    for number in numbers_of:
        single = jax.grad(number, (0, 1))(w, s)
        double = jax.grad(number, (0, 1))(np.float64(w), np.float64(s))
        for one, other in zip(single, double, strict=True):
            assert one.dtype == np.float32
            np.testing.assert_allclose(one, other, atol=1e-3 * np.abs(other).max())
        slope = number(np.float64(w), s + moved) - number(np.float64(w), s - moved)
        assert relative_error(2 * np.sum(moved * double[1]), slope) < 1e-3
    with pytest.raises(NotImplementedError, match="second derivatives of a spectrum"):
        jax.hessian(numbers_of[0], 1)(w, s)


def test_what_is_no_more_than_rounding_stays_zero():
    """Rows of low rank beside a massive feature: a second eigensolve finds no directions in what rounding left."""
    rng = np.random.default_rng(0)
    h = (rng.standard_normal((200, 4)) @ rng.standard_normal((4, 15))).astype(np.float32)
    h[:, 3] = 60 * h[:, 3] + 800
    for found in (overlap(h, h), overlap_from_moments(moments(h, h))):
        assert int((np.asarray(found.strong.values) > 0).sum()) == 5


def shifted(kind: str, few: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ordinary representations, and means in one, three or all strong features and in all weak ones; labels."""
    rng = np.random.default_rng(0)
    n, d = (40, 60) if few else (400, 16)
    z = rng.standard_normal((n, 6))
    w = z @ rng.standard_normal((6, 12)) + 0.5 * rng.standard_normal((n, 12))
    s = z @ rng.standard_normal((6, d)) + 0.2 * rng.standard_normal((n, d))
    which, mean = kind.split()
    s[:, : {"one": 1, "three": 3, "all": d}[which]] += float(mean)
    return np.float32(w + (float(mean) if which == "all" else 0)), np.float32(s), np.float32(z[:, 0])


def about(x: np.ndarray, bias: bool) -> np.ndarray:
    x = np.float64(x)
    return x - x.mean(0) if bias else x


def learned(h: np.ndarray, bias: bool) -> np.ndarray:
    """What a ridge head of 1e-3 learns (n, n), by singular values: the reference's kernels lose digits beside a large mean."""
    U, values, _ = np.linalg.svd(about(h, bias), full_matrices=False)
    squares = np.square(values) / len(h)
    return U * (squares / (squares + 1e-3)) @ U.T


@pytest.mark.everything(but=4)
@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize(
    "kind", ["one 100", "three 300", "all 1000", "one 50", "one 150", "one 250", "one 1e5", "three 100", "all 100"]
)
def test_a_mean_of_any_size_costs_no_digits(kind, few):
    """Of rows, also where features that are small nowhere have small directions: off by up to 65% in a band of means before."""
    w, s, y = shifted(kind, few)
    heads = ridge(1e-3), ridge(1e-3)
    for bias in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = gap_norm(overlap(w, s, bias=bias), *heads, "fro")
            scores = example_scores(w, s, y, *heads, bias=bias)
        P_w, P_s, labels = (x(side, bias) for x, side in ((learned, w), (learned, s), (about, y)))
        lost = P_s @ (np.eye(len(y)) - P_w)
        assert relative_error(found, np.linalg.norm(lost)) < 2e-5
        wanted = lost @ labels
        assert np.linalg.norm(scores - wanted) < 5e-3 * np.linalg.norm(wanted)


def test_what_is_lost_is_counted():
    """What rows, moments or leading eigenpairs in single precision do not tell from rounding, each with what to do."""
    h_w, h_s, y = massive("mean", 400, 8, 24)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        overlap(h_w, h_s)
        overlap_from_moments(moments(h_w, h_s))
        overlap(h_w, h_s, bias=True)
        overlap(h_w, h_s[:, [0, 0, 1]])  # of a rank that is no accident
        overlap(h_w, h_s * np.float32([1e7, *[1] * 23]), bias=True)  # one feature, however massive
    said = r"^strong representations: 23 of 24 directions are lost in float32 .* compute in float64"
    row = h_s - h_s.mean(0)
    row[3] *= np.float32(1e5)
    with pytest.warns(UserWarning, match=said):
        overlap(h_w, row)
    with pytest.warns(UserWarning, match=said):
        example_scores(h_w, row, y, *SMALL_HEADS)
    with pytest.warns(
        UserWarning, match=r"^strong representations: \d of \d directions .*: leave rank out, or compute"
    ):
        overlap(h_w, row, rank=8)
    said = r"^strong moments: what is spread about a mean of norm 2e\+04 is lost in float32: take moments with bias"
    with pytest.warns(UserWarning, match=said):
        overlap_from_moments(moments(h_w, h_s[:, :4] + np.float32(1e4)))


@pytest.mark.parametrize("bias", [False, True])
def test_rows_whose_squares_are_out_of_range_are_refused(bias):
    """From 1e-15 to 1e17 numbers are right, as the README promises; at 1e-18, 1e-24 and 1e20 it is one sentence, of moments too.

    Batches of 1e-24 had a gap norm of 0, and 1e17 was a spectrum of zeros."""
    h_w, h_s = np.float32(H_W), np.float32(H_S)
    heads = ridge(0.0), ridge(0.0), "fro"
    batches = lambda w, s: ((w[i : i + 20], s[i : i + 20]) for i in range(0, len(w), 20))
    calls = {
        "rows": lambda w, s: overlap(w, s, bias=bias),
        "moments": lambda w, s: overlap_from_moments(moments(w, s, bias=bias)),
        "batches": lambda w, s: overlap_from_moments(moments_from_batches(batches(w, s), bias=bias)),
    }
    for call in calls.values():
        want = gap_norm(call(h_w, h_s), *heads)
        for scale in (1e-15, 1e-12, 1e12, 1e15, 1e17):
            found = gap_norm(call(h_w * np.float32(scale), h_s * np.float32(scale)), *heads)
            assert relative_error(found, want) < 1e-4
        for scale in (1e-18, 1e-24):
            message = "strong representations must have entries of at least 1e-16, got none above"
            with pytest.raises(InputError, match=message):
                call(h_w, h_s * np.float32(scale))
        for scale in (1e19, 1e25):
            with pytest.raises(InputError, match="weak representations are too large: their squares overflow float32"):
                call(h_w * np.float32(scale), h_s)
    blank = np.zeros((20, h_s.shape[1]), np.float32)
    tiny = [(h_w[:20], h) for h in (blank, h_s[:20] * np.float32(1e-24), h_s[20:40])]
    moments_from_batches(tiny, bias=bias)  # one batch does not speak for all
