"""jit, vmap, grad and export: every public function of the spine survives each transformation of JAX."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Pair, derivative_error, entrywise_error, pair, quickly
from jax import export
from jax.experimental import checkify

from w2s_jax import (
    Overlap,
    example_scores,
    gap_bound,
    gap_norm,
    gradient_flow,
    iterated_tikhonov,
    moments,
    moments_from_batches,
    overlap,
    overlap_from_kernels,
    overlap_from_moments,
    prediction_gap,
    principal_kernel,
    principal_rank,
    projection,
    ridge,
    ridge_probe,
    spectrum,
    tail_gamma,
)
from w2s_jax._core.response import apply_response
from w2s_jax.theory import equivalent_errors

N, D_W, D_S = 12, 5, 16
PRODUCTS = ("ww", "ss", "sw", "wy", "sy", "yy")
CUT = dict(threshold=0.08)  # far from all relative eigenvalues of the pairs below
WEAK, STRONG = ridge(0.2, **CUT), ridge(0.1, **CUT)


def invariants(o: Overlap) -> dict[str, jax.Array]:
    """What an overlap says whatever the signs of its bases."""
    f_w, f_s = WEAK(o.weak.values, o.weak.n), STRONG(o.strong.values, o.strong.n)
    shared = jnp.square(f_s[:, None] * o.C * f_w)
    learned = jnp.square(f_w[:, None] * o.a_w), jnp.square(f_s[:, None] * o.a_s)
    return {"weak": o.weak.values, "strong": o.strong.values, "shared": shared, "learned": learned, "energy": o.energy}


def values(h_w, h_s, y):
    return spectrum(h_w.T @ h_w / N, N).values


def rebuilt(h_w, h_s, y):
    s = spectrum(h_w.T @ h_w / N, N)
    return s.vectors * s.values @ s.vectors.T


def leading(h_w, h_s, y):
    """Trace and tail of the strong second moment from its leading part, and its matrix through a filter that cuts within."""
    s = spectrum(h_s.T @ h_s / N, N, rank=7)
    return [
        jnp.sum(s.all_values),
        tail_gamma(s.all_values, rank=5, n=N),
        s.vectors @ apply_response(STRONG, s, s.vectors.T),
    ]


def seen(P, y):
    return {"product": P @ y, "dense": P.to_dense(), "diagonal": P.diagonal(), "trace": P.trace()}


FILTERS = {
    "from_head": ridge.from_head(0.2, 8.0, **CUT),
    "projection": projection(**CUT),
    "gradient_flow": gradient_flow(3.0, **CUT),
    "iterated_tikhonov": iterated_tikhonov(0.2, 3.0, **CUT),
}
WITH_HEADS: dict[str, Callable] = {
    "prediction_gap": lambda h_w, h_s, y, *heads: prediction_gap(overlap(h_w, h_s, y), *heads),
    "gap from moments": lambda *p_and_heads: prediction_gap(
        overlap_from_moments(moments(*p_and_heads[:3], bias=True)), *p_and_heads[3:]
    ),
    "gap from kernels": lambda h_w, h_s, y, *heads: prediction_gap(
        overlap_from_kernels(h_w @ h_w.T, h_s @ h_s.T, y), *heads
    ),
    "op": lambda h_w, h_s, y, *heads: gap_norm(overlap(h_w, h_s), *heads),
    "fro": lambda h_w, h_s, y, *heads: gap_norm(overlap(h_w, h_s), *heads, "fro"),
    "gap_bound": lambda h_w, h_s, y, *heads: gap_bound(overlap(h_w, h_s, y), *heads),
    "example_scores": lambda h_w, h_s, y, *heads: example_scores(h_w, h_s, y, *heads, bias=True),
    "principal_kernel": lambda h_w, h_s, y, weak, strong: [
        seen(principal_kernel(h_w, weak), y),
        seen(principal_kernel(h_s, strong), y),
    ],
}
DIFFERENTIABLE: dict[str, Callable] = {
    "moments": lambda *p: [[getattr(m, name) for name in PRODUCTS] for m in (moments(*p), moments(*p, bias=True))],
    "moments_from_batches": lambda *p: moments_from_batches([p, p], bias=True).sw,
    "spectrum": lambda *p: [values(*p), tail_gamma(values(*p), rank=2, n=N)],
    "leading eigenpairs": leading,
    "gap of leading pairs": lambda *p: prediction_gap(overlap(*p, rank=(5, 7)), WEAK, STRONG),
    "norms of leading pairs": lambda h_w, h_s, y: [
        gap_norm(overlap_from_moments(moments(h_w, h_s), rank=(4, 7)), WEAK, STRONG, ord) for ord in ("op", "fro")
    ],
    "gap of a grid": lambda *p: prediction_gap(overlap(*p), ridge(np.array([0.1, 0.3]), **CUT), STRONG),
}
DIFFERENTIABLE |= {name: partial(lambda f, *p: f(*p, WEAK, STRONG), f) for name, f in WITH_HEADS.items()}
BY_FILTER = {name: partial(lambda f, *p: prediction_gap(overlap(*p), f, f), f) for name, f in FILTERS.items()}
FUNCTIONS = DIFFERENTIABLE | {
    "eigenvectors": rebuilt,
    "overlap": lambda *p: invariants(overlap(*p)),
    "overlap_from_moments": lambda *p: invariants(overlap_from_moments(moments(*p))),
    "overlap_from_kernels": lambda h_w, h_s, y: invariants(overlap_from_kernels(h_w @ h_w.T, h_s @ h_s.T, y)),
    "principal_rank": lambda *p: [
        principal_rank(values(*p), rule, level, n=N)
        for rule, level in (("threshold", 0.1), ("rank", 3), ("explained_variance", 0.9), ("hard_threshold", None))
    ],
    "filters": lambda *p: [f(values(*p), N) for f in FILTERS.values()],
}


def flat(results) -> jax.Array:
    """All results in one vector."""
    return jnp.concatenate([jnp.ravel(leaf) * 1.0 for leaf in jax.tree.leaves(results)])


@lru_cache
def compiled(name: str) -> Callable:
    """A function of (h_w, h_s, y) by its name, with all its results in one vector."""
    return jax.jit(lambda *p: flat((FUNCTIONS | BY_FILTER)[name](*p)))


@lru_cache
def gradients(name: str) -> Callable:
    """Gradients of the sum of squared results in both representations, all in one vector."""
    total = lambda h_w, h_s, y, *heads: jnp.sum(jnp.square(flat(WITH_HEADS[name](h_w, h_s, y, *heads))))
    return jax.jit(lambda *arguments: flat(jax.grad(total, (0, 1))(*arguments)))


def data(seed: int = 0, dtype: np.dtype = np.float32) -> Pair:
    return pair("generic", N, D_W, D_S, seed, dtype)


@pytest.mark.parametrize("name", quickly(FUNCTIONS, "gap from moments", "gap of a grid"))
def test_jit_equals_eager(name):
    """Compiling a function as a whole changes nothing."""
    with jax.disable_jit():
        eager = flat(FUNCTIONS[name](*map(jnp.asarray, data())))
    assert entrywise_error(compiled(name)(*data()), eager) <= 2e-5


@pytest.mark.parametrize("name", quickly(FUNCTIONS, "gap from moments"))
def test_vmap_equals_a_loop(name):
    """A leading axis of pairs is mapped over as a loop would."""
    pairs = [data(seed) for seed in range(3)]
    found = jax.jit(jax.vmap(compiled(name)))(*(np.stack(arrays) for arrays in zip(*pairs, strict=True)))
    assert entrywise_error(found, np.stack([compiled(name)(*p) for p in pairs])) <= 2e-5


def generic() -> Pair:
    return data(dtype=np.float64)


def repeated() -> Pair:
    """Strong eigenvalues that repeat, in clusters the cut does not split, and a weak side without ties."""
    return generic()._replace(h_s=pair("repeated", N, D_W, D_S).h_s)


@lru_cache
def of_a_pair(name: str) -> Callable:
    return lambda p: compiled(name)(*p)


@pytest.mark.everything(but=6)
@pytest.mark.parametrize("make", quickly([generic, repeated], repeated))
@pytest.mark.parametrize("name", DIFFERENTIABLE | BY_FILTER)
def test_derivatives_are_finite_differences(name, make, x64):
    """Gradients agree with finite differences in all inputs, eigenvalues repeated or not, with a cut in place."""
    assert derivative_error(of_a_pair(name), make()) <= 1e-7


@pytest.mark.parametrize("name", ["op", "fro", "gap"])
def test_derivatives_in_the_filters_are_finite_differences(name, x64):
    """Ridge strengths of both sides are differentiable too, a grid of them at once."""
    o = overlap(*generic())

    def function(b):
        heads = ridge(b[0], **CUT), ridge(b[1], **CUT)
        return prediction_gap(o, *heads) if name == "gap" else gap_norm(o, *heads, name)

    b = np.array([[0.1, 0.3], [0.2, 0.05]])
    assert derivative_error(function, b) <= 1e-7


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("scale", [1e-15, 1e-5, 1e5, 1e15])
@pytest.mark.parametrize("name", WITH_HEADS)
def test_gradients_keep_their_digits_at_any_scale(name, scale):
    """In float32, scaling representations by c and ridges by c^2 scales gradients by 1/c, for c from 1e-15 to 1e15."""
    h_w, h_s, y = data()
    c = np.float32(2.0 ** np.round(np.log2(scale)))
    plain = gradients(name)(h_w, h_s, y, WEAK, STRONG)
    scaled = gradients(name)(h_w * c, h_s * c, y, ridge(0.2 * c**2, **CUT), ridge(0.1 * c**2, **CUT))
    assert entrywise_error(c * scaled, plain) <= 1e-4


@pytest.mark.parametrize(
    "name", quickly(FUNCTIONS, "op", "gap from moments", "leading eigenpairs", "principal_kernel", "filters")
)
def test_functions_export_for_every_platform(name):
    """A function lowers for CPU, CUDA and TPU from any of them."""
    exported = export.export(jax.jit(FUNCTIONS[name]), platforms=("cpu", "cuda", "tpu"))(*data())
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}


@pytest.mark.parametrize("name", quickly(["prediction_gap", "op", "fro", "gap of leading pairs"], "op"))
def test_gradients_export_for_every_platform(name):
    """So do gradients."""
    gradient = jax.grad(lambda *p: jnp.sum(DIFFERENTIABLE[name](*p)), (0, 1, 2))
    assert export.export(jax.jit(gradient), platforms=("cpu", "cuda", "tpu"))(*data()).mlir_module()


def test_the_block_method_exports_for_every_platform():
    """So do leading eigenpairs at a size where the block method finds them, and their derivative."""
    matrix = np.diag(1.0 / np.arange(1, 601, dtype=np.float32))
    for f in (lambda m: spectrum(m, 9, rank=4).values, jax.grad(lambda m: jnp.sum(spectrum(m, 9, rank=4).values))):
        assert export.export(jax.jit(f), platforms=("cpu", "cuda", "tpu"))(matrix).mlir_module()


CHECKED = {
    "moments": lambda h_w, h_s, y: moments(h_w, h_s, y).ww,
    "spectrum": lambda h_w, h_s, y: spectrum(h_w.T @ h_w, N).values,
    "leading": lambda h_w, h_s, y: spectrum(h_w.T @ h_w, N, rank=3).values,
    "overlap": lambda h_w, h_s, y: overlap(h_w, h_s, y).C,
    "kernels": lambda h_w, h_s, y: overlap_from_kernels(h_w @ h_w.T, h_s @ h_s.T, y).C,
    "scores": lambda h_w, h_s, y: example_scores(h_w, h_s, y, WEAK, STRONG),
    "kernel": lambda h_w, h_s, y: principal_kernel(h_w, WEAK).trace(),
    "head": lambda h_w, h_s, y: ridge_probe(h_w, y, 0.1).kernel[...],
    "equivalent": lambda h_w, h_s, y: equivalent_errors(h_w, y, y, 0.1).gap,
}


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("name", CHECKED)
def test_checkify_finds_what_jit_cannot_raise(name):
    """Inside jit a NaN is reported by `checkify`, and finite input reports nothing."""
    checked = jax.jit(checkify.checkify(CHECKED[name]))
    h_w, h_s, y = pair("generic", N, D_W, D_S, dtype=np.float32)
    assert checked(h_w, h_s, y)[0].get() is None
    h_w[3, 1] = np.nan
    assert "must be finite" in checked(h_w, h_s, y)[0].get()
