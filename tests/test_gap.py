"""The prediction gap, its norms, bound and shares: the reference's numbers, and the identities they obey exactly."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import (
    CASES,
    KINDS,
    SHAPES,
    Pair,
    computing_in,
    entrywise_error,
    pair,
    quickly,
    relative_error,
    resolved,
    tolerance,
    well_defined,
)
from hypothesis import assume, given
from hypothesis import strategies as st

from w2s_jax import (
    Filter,
    InputError,
    Overlap,
    example_scores,
    gap,
    gap_bound,
    gap_norm,
    gradient_flow,
    iterated_tikhonov,
    moments,
    overlap,
    overlap_from_kernels,
    overlap_from_moments,
    prediction_gap,
    principal_kernel,
    projection,
    ridge,
    spectrum,
)
from w2s_jax._core import lanczos
from w2s_jax.overlap import Side

SCALES = [scales for scales in product((1e-15, 1.0, 1e15), repeat=2) if scales != (1.0, 1.0)]
RESULTS = {
    "gap": jax.jit(prediction_gap),
    "op": jax.jit(gap_norm),
    "fro": jax.jit(partial(gap_norm, ord="fro")),
    "bound": jax.jit(gap_bound),
}

overlap_of = jax.jit(overlap)
through_moments = jax.jit(lambda *p: overlap_from_moments(moments(*p)))
through_kernels = jax.jit(overlap_from_kernels)
scores_of = jax.jit(example_scores)


@jax.jit
def results_of(o: Overlap, weak: Filter, strong: Filter) -> dict[str, jax.Array]:
    return {name: result(o, weak, strong) for name, result in RESULTS.items()}


def dense_results(p: Pair, weak: reference.Filter, strong: reference.Filter) -> dict[str, tuple]:
    """The reference's numbers, each with the floor of its relative error.

    Norms are compared by their squares, against the square of the strong kernel's norm: they come from
    `1 - cos^2`, so that a norm near zero (one subspace within the other) is known to half the digits. Scores are a
    part of the labels and compared against the labels' length.
    """
    h_w, h_s, y = (np.asarray(x, np.float64) for x in p)
    operator = reference.gap_operator(h_w, h_s, weak, strong)
    energy, f_s = np.mean(y**2, 0), strong(reference.kernel_spectrum(h_s)[0], len(y))
    scores, op, fro = operator @ y, np.linalg.norm(operator, 2), np.linalg.norm(operator)
    sizes = np.sqrt(len(y) * energy)
    return {
        "gap": (np.mean(scores**2, 0), 1e-2 * energy),
        "op": (op**2, np.max(f_s) ** 2),
        "fro": (fro**2, np.sum(f_s**2)),
        "bound": (op**2 * energy, np.max(f_s) ** 2 * energy),
        "scores": (scores, sizes),
    }


def errors(p: Pair, weak: tuple, strong: tuple) -> dict[str, float]:
    """Relative errors of all numbers, given (filter, its reference) of both sides."""
    found = results_of(overlap_of(*p), weak[0], strong[0]) | {"scores": scores_of(*p, weak[0], strong[0])}
    dense = dense_results(p, weak[1], strong[1])
    difference = np.linalg.norm(np.asarray(found["scores"], np.float64) - dense["scores"][0], axis=0)
    scores = relative_error(difference / dense["scores"][1], 0 * difference, 1.0)
    found |= {name: jnp.square(found[name]) for name in ("op", "fro")}
    return {name: relative_error(found[name], *dense[name]) for name in RESULTS} | {"scores": scores}


def failures(errors: dict[str, float], allowed: float) -> dict[str, float]:
    return {name: error for name, error in errors.items() if not error <= allowed}


def leading(h: np.ndarray) -> float:
    """The leading eigenvalue, which ridge strengths and times are given relative to."""
    return float(reference.kernel_spectrum(h)[0][0])


def ridges(h: np.ndarray, strength: float, **cut: float) -> tuple[Filter, reference.Filter]:
    b = strength * leading(h)
    return ridge(b, **cut), reference.ridge(b, **cut)


def family(name: str, h: np.ndarray, **cut: float) -> tuple[Filter, reference.Filter]:
    """A filter of each kind and its reference."""
    size, n = leading(h), len(h)
    return {
        "projection": (projection(**cut), reference.projection(**cut)),
        "from_head": (
            ridge.from_head(0.01 * size, n // 2, **cut),
            reference.ridge_from_head(0.01 * size, n // 2, **cut),
        ),
        "gradient_flow": (gradient_flow(10 / size, **cut), reference.gradient_flow(10 / size, **cut)),
        "iterated_tikhonov": (
            iterated_tikhonov(0.1 * size, 3, **cut),
            reference.iterated_tikhonov(0.1 * size, 3, **cut),
        ),
    }[name]


@pytest.mark.parametrize("threshold", [1e-2, 1e-4])
@pytest.mark.parametrize("strength", [0.0, 1e-2])
@pytest.mark.parametrize(("kind", "shape"), CASES, ids=str)
def test_numbers_are_those_of_the_reference(kind, shape, strength, threshold, dtype):
    """Every number agrees with dense kernels for every family and every relation of rows to features."""
    p = pair(kind, *shape, dtype=dtype)
    assert all(well_defined(h, threshold) for h in p[:2])
    heads = (ridges(h, strength, threshold=threshold) for h in p[:2])
    assert not failures(errors(p, *heads), tolerance(dtype, threshold))


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("cut", [dict(threshold=1e-2, rank=40), dict(threshold=0.0, rank=4)], ids=["threshold", "rank"])
@pytest.mark.parametrize("name", ["projection", "from_head", "gradient_flow", "iterated_tikhonov"])
def test_every_filter_gives_the_numbers_of_the_reference(name, cut, dtype):
    """Whatever the filter and the cut, the numbers agree with dense kernels."""
    p = pair("generic", *SHAPES[3], dtype=dtype)
    assert all(well_defined(h, **cut) for h in p[:2])
    assert not failures(errors(p, *(family(name, h, **cut) for h in p[:2])), tolerance(dtype, 1e-2))


@pytest.mark.parametrize("scales", SCALES, ids=str)
@pytest.mark.parametrize("shape", SHAPES[2:4], ids=str)
def test_scales_cancel(scales, shape, dtype):
    """A representation 1e15 times larger or smaller, its ridge with it, has the same gap."""
    p = pair("generic", *shape)
    p = Pair(*(x.astype(dtype) for x in (p.h_w * scales[0], p.h_s * scales[1], p.y)))
    heads = (ridges(h, 1e-2, threshold=1e-2) for h in p[:2])
    assert not failures(errors(p, *heads), tolerance(dtype, 1e-2))


@pytest.mark.parametrize("narrow", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("shape", SHAPES[2:4], ids=str)
def test_16_bit_inputs_are_computed_in_float32(shape, narrow):
    """bfloat16 and float16 representations have the gap of their rounded entries, as exactly as float32 ones."""
    p = pair("generic", *shape, dtype=narrow)
    heads = (ridges(h, 1e-2, threshold=1e-2) for h in p[:2])
    assert not failures(errors(p, *heads), tolerance(np.float32, 1e-2))


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
    assume(all(well_defined(h, threshold) and resolved(h, threshold, dtype) for h in p[:2]))
    heads = (ridges(h, strength, threshold=threshold) for h in p[:2])
    with computing_in(precision):
        assert not failures(errors(p, *heads), tolerance(dtype, threshold))


# Identities

P = pair("generic", *SHAPES[2])
CUT = dict(threshold=0.05)


def compare(p: Pair, q: Pair, weak: Filter, strong: Filter, allowed: float = 1e-10) -> None:
    """Two pairs have the same gap, norms and bound."""
    expected = results_of(overlap_of(*p), weak, strong)
    for name, value in results_of(overlap_of(*q), weak, strong).items():
        assert entrywise_error(value, expected[name]) <= allowed, name


@pytest.mark.parametrize("side", ["h_w", "h_s"])
@pytest.mark.parametrize("shape", SHAPES[1:4], ids=str)
def test_rotating_a_representation_changes_nothing(side, shape, x64):
    """An orthogonal map of either feature space leaves every number as it is."""
    p = pair("generic", *shape)
    h = getattr(p, side)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((h.shape[1], h.shape[1])))
    compare(p, p._replace(**{side: h @ rotation}), ridge(0.1, **CUT), ridge(0.2, **CUT))


@pytest.mark.everything
@pytest.mark.parametrize("shape", SHAPES[1:4], ids=str)
def test_rows_moments_and_kernels_agree(shape, x64):
    """The three routes to an overlap give the same gap, norms and bound."""
    h_w, h_s, y = pair("generic", *shape)
    routes = (overlap_of(h_w, h_s, y), through_moments(h_w, h_s, y), through_kernels(h_w @ h_w.T, h_s @ h_s.T, y))
    rows, *others = (results_of(o, ridge(0.1, **CUT), ridge(0.2, **CUT)) for o in routes)
    for name, other in product(RESULTS, others):
        assert entrywise_error(other[name], rows[name]) <= 1e-10, name


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("shape", SHAPES[1:4], ids=str)
def test_a_model_loses_nothing_to_itself(shape, dtype):
    """With projections, identical representations have no gap."""
    p = pair("identical", *shape, dtype=dtype)
    gap = results_of(overlap_of(*p), projection(1e-2), projection(1e-2))["gap"]
    assert np.all(gap <= (1e-12 if dtype == np.float64 else 1e-5) * np.mean(p.y**2, 0))


def test_labels_out_of_the_weak_models_reach_are_lost_entirely(x64):
    """A label part in the strong principal subspace, orthogonal to the weak one and to y, adds exactly its energy."""
    h_w, h_s, y = P
    weak, strong = projection(rank=3), projection(rank=6)
    U_w, U_s = (reference.kernel_spectrum(h)[1][:, :k] for h, k in ((h_w, 3), (h_s, 6)))
    _, _, directions = np.linalg.svd(np.concatenate([U_w, y], 1).T @ U_s)
    part = U_s @ directions[-1]
    added = prediction_gap(overlap(h_w, h_s, y + part[:, None]), weak, strong) - prediction_gap(
        overlap(h_w, h_s, y), weak, strong
    )
    assert entrywise_error(added, np.full(2, part @ part / len(y))) <= 1e-10


@pytest.mark.parametrize("shape", SHAPES[2:4], ids=str)
def test_scores_follow_their_rows(shape, x64):
    """Permuting the examples permutes their scores."""
    p, order = pair("generic", *shape), np.random.default_rng(0).permutation(shape[0])
    heads = ridge(0.1, **CUT), ridge(0.2, **CUT)
    permuted = scores_of(*(x[order] for x in p), *heads)
    assert entrywise_error(permuted, np.asarray(scores_of(*p, *heads))[order]) <= 1e-10


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES[2:4], ids=str)
def test_the_mean_square_of_the_scores_is_the_gap(shape, bias, dtype):
    """Scores share the gap out over the examples."""
    p = pair("generic", *shape, dtype=dtype)
    p, heads = p._replace(y=p.y[:, 0]), (ridge(0.1, **CUT), ridge(0.2, **CUT))
    scores = example_scores(*p, *heads, bias=bias)
    gap = prediction_gap(overlap(*p, bias=bias), *heads)
    assert relative_error(jnp.mean(scores**2), gap) <= (1e-10 if dtype == np.float64 else 1e-5)


def test_centred_scores_are_those_of_centred_columns(x64):
    """`bias=True` takes column means from representations and labels."""
    heads = ridge(0.1, **CUT), ridge(0.2, **CUT)
    centred = (x - x.mean(0) for x in P)
    assert entrywise_error(example_scores(*P, *heads, bias=True), scores_of(*centred, *heads)) <= 1e-10


@pytest.mark.parametrize("strength", [0.0, 1e-2, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_bounds_the_gap(kind, strength, dtype):
    """No label's gap exceeds the squared norm times its energy, even for the worst label."""
    p = pair(kind, *SHAPES[2], dtype=dtype)
    (weak, _), (strong, _) = (ridges(h, strength, threshold=1e-2) for h in p[:2])
    operator = reference.gap_operator(*p[:2], *(ridges(h, strength, threshold=1e-2)[1] for h in p[:2]))
    worst = np.linalg.svd(operator)[2][0]
    p = p._replace(y=np.stack([p.y[:, 0], worst], 1).astype(dtype))
    found, energy = results_of(overlap_of(*p), weak, strong), np.mean(p.y**2, 0)
    assert np.all(found["gap"] <= found["bound"] + 2e-5 * energy)


@pytest.mark.parametrize("name", [*RESULTS, "scores"])
def test_a_grid_holds_the_results_of_its_points(name, dtype):
    """Filters with array parameters give every result with the grid's shape in front, point by point the same."""
    p = pair("generic", *SHAPES[2], dtype=dtype)
    weak = ridge(np.array([[0.01], [0.1], [1.0]]), np.array([0.0, 0.05]))
    strong = ridge(0.1, rank=np.array([2, 20]))
    o = overlap_of(*p)
    result = partial(scores_of, *p) if name == "scores" else lambda *heads: results_of(o, *heads)[name]
    grid = result(weak, strong)
    assert grid.shape[:2] == (3, 2)
    for i, j in np.ndindex(3, 2):
        w, s = (jax.tree.map(lambda x: np.broadcast_to(x, (3, 2))[i, j], f) for f in (weak, strong))
        assert entrywise_error(grid[i, j], result(w, s)) <= (1e-10 if dtype == np.float64 else 2e-5)


# The principal kernel

HEADS = {
    "point": (ridge(0.1, **CUT), [reference.ridge(0.1, **CUT)]),
    "grid": (
        ridge(np.array([[0.1], [0.4]]), np.array([0.05, 0.3])),
        [reference.ridge(b, t) for b in (0.1, 0.4) for t in (0.05, 0.3)],
    ),
}


@jax.jit
def forms_of(h: jax.Array, y: jax.Array, filter: Filter) -> dict[str, jax.Array]:
    """All that a principal kernel can be asked for."""
    P = principal_kernel(h, filter)
    return {
        "dense": P.to_dense(),
        "product": P @ y,
        "vector": P @ y[:, 0],
        "diagonal": P.diagonal(),
        "trace": P.trace(),
    }


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("side", [0, 1])
def test_the_principal_kernel_acts_as_its_dense_matrix(name, side, dtype):
    """`P @ y`, diagonal, trace, shape and dense form are those of the reference, for more and fewer rows than features."""
    h, y = pair("generic", *SHAPES[3], dtype=dtype)[side], P.y[:40].astype(dtype)
    filter, references = HEADS[name]
    assert all(well_defined(h, threshold) for threshold in (0.05, 0.3))
    dense = np.reshape([reference.principal_kernel(h, f) for f in references], (*filter.shape, 40, 40))
    assert principal_kernel(h, filter).shape == dense.shape
    expected = {
        "dense": dense,
        "product": dense @ y,
        "vector": dense @ y[:, 0],
        "diagonal": np.diagonal(dense, axis1=-2, axis2=-1),
        "trace": np.trace(dense, axis1=-2, axis2=-1),
    }
    for form, found in forms_of(h, y, filter).items():
        assert entrywise_error(found, expected[form]) <= tolerance(dtype, 1e-2), form


@pytest.mark.everything
def test_the_gap_is_written_as_on_paper(x64):
    """`P_s @ (y - P_w @ y)` are the example scores."""
    weak, strong = ridge(0.1, **CUT), ridge(0.2, **CUT)
    P_w, P_s = principal_kernel(P.h_w, weak), principal_kernel(P.h_s, strong)
    assert entrywise_error(P_s @ (P.y - P_w @ P.y), scores_of(*P, weak, strong)) <= 1e-10


@pytest.mark.parametrize("shape", quickly([(24, 40, 32), (64, 12, 20)], (64, 12, 20)), ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_kernels_and_scores_of_leading_eigenpairs_are_those_of_all(shape, bias, x64):
    """With a cut within the leading eigenpairs no others are needed, not for the trace of a kernel either."""
    p, weak, strong = pair("generic", *shape), ridge(0.1, 0.106), ridge(np.array([0.1, 2.0]), 0.106)
    part, whole = (example_scores(*p, weak, strong, bias=bias, rank=rank) for rank in ((7, 8), None))
    assert entrywise_error(part, whole) <= 1e-10
    kernels = [principal_kernel(p.h_s, strong, bias=bias, rank=rank) for rank in (8, None)]
    assert kernels[0].U.shape == (shape[0], 8)
    for form in (lambda k: k.to_dense(), lambda k: k.diagonal(), lambda k: k.trace(), lambda k: k @ p.y):
        assert entrywise_error(*map(form, kernels)) <= 1e-10


def test_a_filter_beyond_the_leading_eigenpairs_of_rows_is_refused():
    """One that may keep a ninth is an InputError, and NaN under jit."""
    with pytest.raises(InputError, match="the weak filter must cut within the 8 leading"):
        example_scores(*P, ridge(0.1), ridge(0.1, rank=4), rank=8)
    with pytest.raises(InputError, match="filter must cut within the 8 leading"):
        principal_kernel(P.h_s, ridge(0.1), rank=8)
    assert np.isnan(jax.jit(lambda h: principal_kernel(h, ridge(0.1), rank=8).trace())(P.h_s))


def test_a_centred_principal_kernel_ignores_column_means(x64):
    """`bias=True` is the kernel of centred columns; constant labels are mapped to zero."""
    kernel = principal_kernel(P.h_s + 5.0, ridge(0.1), bias=True)
    assert (
        entrywise_error(kernel.to_dense(), reference.principal_kernel(P.h_s - P.h_s.mean(0), reference.ridge(0.1)))
        <= 1e-10
    )
    assert np.max(np.abs(kernel @ np.ones(64))) <= 1e-10


O = overlap(*(x.astype(np.float32) for x in P))
UNLABELLED = overlap(*(x.astype(np.float32) for x in P[:2]))
PAIR, TRIPLE = ridge(np.array([0.1, 0.2])), ridge(np.array([0.1, 0.2, 0.3]))
BAD = {
    "ord": (lambda: gap_norm(O, ridge(0.1), ridge(0.1), "nuclear"), "ord must be 'op' or 'fro', got 'nuclear'"),
    "no labels": (lambda: prediction_gap(UNLABELLED, ridge(0.1), ridge(0.1)), "overlap must have labels"),
    "no labels to bound": (lambda: gap_bound(UNLABELLED, ridge(0.1), ridge(0.1)), "overlap must have labels"),
    "shapes": (lambda: gap_norm(O, PAIR, TRIPLE), r"must broadcast, got \(2,\) and \(3,\)"),
    "gap shapes": (lambda: prediction_gap(O, PAIR, TRIPLE), r"must broadcast, got \(2,\) and \(3,\)"),
    "score shapes": (lambda: example_scores(*P, PAIR, TRIPLE), r"must broadcast, got \(2,\) and \(3,\)"),
    "rows": (lambda: example_scores(P.h_w[1:], P.h_s, P.y, ridge(0.1), ridge(0.1)), "rows, got 63 and 64"),
    "score labels": (lambda: example_scores(*P[:2], None, ridge(0.1), ridge(0.1)), "labels"),
    "kernel rank": (lambda: principal_kernel(P.h_w[0], ridge(0.1)), r"representations must be 2-D .*\(12,\)"),
    "kernel zeros": (lambda: principal_kernel(0 * P.h_w, ridge(0.1)), "representations are zero in every entry"),
    "kernel rank 0": (lambda: principal_kernel(P.h_w, ridge(0.1), rank=0), "rank must be a positive integer, got 0"),
    "score ranks": (lambda: example_scores(*P, ridge(0.1), ridge(0.1), rank=(1, 2, 3)), "positive integer or two"),
    "kernel NaN": (lambda: principal_kernel(np.nan * P.h_w, ridge(0.1)), "representations contain 768 .* row 0"),
    "product": (lambda: principal_kernel(P.h_w, ridge(0.1)) @ P.y[1:], r"needs y with 64 rows, got shape \(63, 2\)"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("fault", BAD)
def test_bad_input_is_named(fault):
    """Each fault is one sentence that says what was expected and what came."""
    make, message = BAD[fault]
    with pytest.raises(InputError, match=message):
        make()


# The largest eigenvalue

TOPS = {
    "single": np.concatenate([[0.9], np.linspace(0.5, 0, 199)]),
    "uniform": np.linspace(1, 0, 200),
    "clustered": np.concatenate([0.9 - 1e-6 * np.arange(20), np.linspace(0.8, 0, 180)]),
    "near tie": np.concatenate([[0.9, 0.8999], np.linspace(0.85, 0, 198)]),
    "repeated": np.repeat([0.7, 0.2], 100),
    "all equal": np.full(200, 0.4),
    "two sizes": np.concatenate([[0.5], np.full(199, 1e-4)]),
    "small": np.linspace(1e-3, 0, 200),
}


def with_lost(lost: np.ndarray) -> Overlap:
    """An overlap whose `I - C C^T` has these eigenvalues, in random bases: with projections, the squared norms' spectrum."""
    k = len(lost)
    left, right = (np.linalg.qr(np.random.default_rng(seed).standard_normal((k, k)))[0] for seed in (0, 1))
    side = Side(jnp.ones(k), jnp.zeros((k, k)), jnp.asarray(1000.0))
    return Overlap(side, side, jnp.asarray(left * np.sqrt(1 - lost) @ right.T))


@pytest.fixture(scope="module", params=[8, 96])
def steps(request: pytest.FixtureRequest) -> Iterator[int]:
    """Lanczos stops here, converged or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanczos, "MAX_STEPS", request.param)
        jax.clear_caches()
        yield request.param
    jax.clear_caches()


@pytest.mark.parametrize("name", TOPS)
def test_the_norm_is_the_dense_eigensolve(name, steps, dtype):
    """The largest eigenvalue is found where tops cluster, and where Lanczos is stopped before it has converged.

    It is a difference from 1, so that no rounding of C leaves it more exact than a unit in the last place of 1.
    """
    found = RESULTS["op"](with_lost(TOPS[name]), projection(), projection()) ** 2
    allowed = 1e-9 if dtype == np.float64 else 2e-5
    assert relative_error(found, TOPS[name].max(), np.finfo(dtype).eps / allowed) <= allowed


def test_what_holds_arrays_prints_one_line(unchecked):
    """Sizes and no entries, inside jit and of placeholders too."""
    h_w, h_s, y = P
    objects = {
        "Moments(n=64.0, d_w=12, d_s=20, labels)": moments(h_w, h_s, y),
        "Moments(n=64.0, d_w=12, d_s=20, no labels, centred)": moments(h_w, h_s, bias=True),
        "Spectrum(k=12, d=12, n=64.0)": spectrum(h_w.T @ h_w, 64),
        "Spectrum(k=3, d=12, n=64.0)": spectrum(h_w.T @ h_w, 64, rank=3),
        "Overlap(k_s=20, k_w=12, no labels)": overlap(h_w, h_s),
        f"PrincipalKernel(n=64, k=12, {ridge(0.1)})": principal_kernel(h_w, ridge(0.1)),
    }
    assert objects.keys() == {repr(found) for found in objects.values()}
    for text, found in objects.items():
        kind = text.split("(")[0]
        assert repr(jax.tree.map(lambda x: object(), found)) == f"{kind}(...)"
        seen = []
        jax.jit(lambda found, seen=seen: seen.append(repr(found)))(found)
        assert seen[0].startswith(f"{kind}(")
        assert "\n" not in seen[0]


def test_no_rounding_pushes_the_norm_past_one():
    """Where two strong directions are wholly lost the norm is 1, also when Lanczos, soon exhausted, goes on with rounding."""
    norm = jax.jit(lambda h_w, h_s: gap_norm(overlap(h_w, h_s), projection(rank=4), projection(rank=6)))
    for seed in range(100):
        rng = np.random.default_rng(seed)
        latent = rng.standard_normal((40, 6), np.float32) / np.arange(1, 7, dtype=np.float32)
        maps = (rng.standard_normal(shape, np.float32) for shape in ((4, 16), (6, 60)))
        h_w, h_s = (latent[:, : len(m)] @ m for m in maps)
        assert abs(float(norm(h_w, h_s)) ** 2 - 1) <= 1e-6


@jax.jit
def norm_slope(o: Overlap, b: jax.Array) -> jax.Array:
    return jax.grad(lambda b: gap_norm(o, ridge(b), projection()) ** 2)(b)


@pytest.mark.parametrize("name", ["single", "uniform", "near tie", "two sizes"])
def test_the_norm_differentiates_as_its_leading_eigenvalue(name, steps, dtype):
    """The squared norm's slope in the weak ridge b is that of `1 - (1 - top) (2 f - f^2)`, f = 1 / (1 + b)."""
    b, top = 0.5, TOPS[name].max()
    found = norm_slope(with_lost(TOPS[name]), jnp.asarray(b))
    assert relative_error(found, 2 * (1 - top) * b / (1 + b) ** 3) <= (1e-5 if dtype == np.float64 else 2e-3)


def test_a_grid_of_norms_is_dense_point_by_point(dtype):
    """Points that converge at different speeds share a batch and none spoils another."""
    o, strengths = with_lost(TOPS["clustered"]), np.array([0.0, 1e-3, 0.1, 1.0, 100.0])
    ranks = np.array([[1], [7], [150], [200]])
    found = RESULTS["op"](o, ridge(strengths), projection(rank=ranks))
    C = np.asarray(o.C, np.float64)
    for (i, k), (j, b) in product(enumerate(ranks[:, 0]), enumerate(strengths)):
        f = 1 / (1 + b)
        dense = np.linalg.eigvalsh(np.eye(k) - (2 * f - f * f) * C[:k] @ C[:k].T)[-1]
        assert relative_error(found[i, j] ** 2, dense, 1e-2) <= (1e-9 if dtype == np.float64 else 2e-5)


@pytest.mark.everything
def test_chunks_of_a_grid_change_nothing(monkeypatch, x64):
    """Points solved a few at a time, on as much of the strong side as they reach, have the norms and slopes of all at once."""
    o, ranks = with_lost(TOPS["uniform"]), jnp.array([[200], [150], [40], [7], [1]])

    def norms(b):
        return gap_norm(o, ridge(b), projection(rank=ranks))

    def found(points_per_chunk):
        monkeypatch.setattr(gap, "POINTS_PER_CHUNK", points_per_chunk)
        jax.clear_caches()
        return jax.jit(lambda b: (norms(b), jax.jvp(norms, (b,), (jnp.ones(3),))[1]))(jnp.array([1e-3, 0.1, 1.0]))

    for few, all_at_once in zip(found(4), found(128), strict=True):
        assert few.shape == (5, 3)
        assert relative_error(few, all_at_once) <= 1e-9
    jax.clear_caches()


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_filter_or_overlap_is_named():
    """A strength in the place of a filter, a class, or arrays in the place of an overlap."""
    h_w, h_s, y = pair("generic", 20, 3, 4, dtype=np.float32)
    o = overlap(h_w, h_s, y)
    cases = {
        "weak must be a filter such as ridge": lambda: prediction_gap(o, 1e-3, ridge(1e-3)),
        "strong must be a filter such as ridge": lambda: gap_norm(o, ridge(1e-3), projection),
        "filter must be a filter such as ridge": lambda: principal_kernel(h_w, 1e-3),
        "overlap must be an Overlap, got ndarray": lambda: prediction_gap(h_w, ridge(1e-3), ridge(1e-3)),
    }
    for message, call in cases.items():
        with pytest.raises(InputError, match=message):
            call()
