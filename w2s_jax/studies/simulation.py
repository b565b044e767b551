"""The whole weak-to-strong experiment on synthetic families, exact in distribution at a cost that hardly depends on n.

Heads see Gaussian rows only through inner products. Without tails n rows are a Wishart factor of the latent's size
(Bartlett). An isotropic tail G (n, width) enters as `M = v G G^T + n beta I`, seen from the few columns that carry signal:
turned from both sides until those columns are the first m coordinates, G is a banded triangle of independent chi and
normal variables (Dumitriu & Edelman 2002, in blocks), and `Q^T M^{-1} Q` follows by eliminating its n rows from the last to
the first: O(n m^2) time, O(m^2) memory, for any width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax._core.arrays import matmul, outer
from w2s_jax._core.checks import InputError, require_integer, require_range
from w2s_jax._core.ridge_solve import ridge_solver
from w2s_jax.devices.mesh import filled
from w2s_jax.filters import ridge as ridge_filter
from w2s_jax.gap import prediction_gap
from w2s_jax.moments import Moments, moments
from w2s_jax.overlap import overlap_from_moments
from w2s_jax.studies.synthetic import GaussianFamily, ReluFamily
from w2s_jax.theory.equivalent import Tail

Family = GaussianFamily | ReluFamily
_ROWS_PER_DRAW = 128  # tail rows whose random numbers are drawn together
_BATCH_ENTRIES = 1 << 23  # numbers that the trials of one batch hold at once, about


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trial:
    """One experiment: exact population errors of its heads, and what the theorem sees of the student's rows.

    Errors are mean squares against the noise-free target, `gap` that of student minus ceiling; `moments` are those of the
    features without tails, and of the noisy labels, on the student's rows (no means); `weak_ridge` and `strong_ridge` are the
    heads' penalties, `gamma_w` the weak tail's gamma on the labelled rows, `gamma_s` the strong tail's on the student's.

    >>> from w2s_jax.studies.synthetic import subspaces
    >>> trial = jax.eval_shape(lambda key: run_trial(key, subspaces(4, 3, 2.5), 250, 500, 0.1, 0.1), jax.random.key(0))
    >>> trial.gap.shape, trial.moments.cross.shape
    ((), (4, 3))
    """

    weak_error: Float[Array, ""]
    student_error: Float[Array, ""]
    ceiling_error: Float[Array, ""]
    gap: Float[Array, ""]
    moments: Moments
    weak_ridge: Float[Array, ""]
    strong_ridge: Float[Array, ""]
    gamma_w: Float[Array, ""]
    gamma_s: Float[Array, ""]


class Outcome(NamedTuple):
    """Measured errors and gap of a trial, the theorem's gap, and the same with gamma left out; all of one shape.

    >>> Outcome(0.3, 0.2, 0.1, gap=0.15, theorem=0.14, theorem_without_gamma=0.2).theorem
    0.14
    """

    weak_error: Array
    student_error: Array
    ceiling_error: Array
    gap: Array
    theorem: Array
    theorem_without_gamma: Array


class _ReducedRows(NamedTuple):
    """The rows of one split in orthonormal coordinates, divided by sqrt(n): weak features (r, k_w), strong features
    (r, k_s), labels (r,), and a column of standard normals that nothing else depends on (r,).
    """

    w: Array
    s: Array
    y: Array
    spare: Array


class _Fitted(NamedTuple):
    """Ridge heads: coefficients of the features (k, c), and squared norms of the coefficients of the tail (c,)."""

    theta: Array
    tail: Array


def simulate(
    keys: Array,
    family: Family,
    n_labelled: int,
    n_student: int,
    weak_ridge: ArrayLike,
    strong_ridge: ArrayLike,
    *,
    measure: Callable[[Trial], Any] | None = None,
    batch: int | None = None,
) -> Any:
    """Independent weak-to-strong experiments, one per key, in memory-bounded batches of one compiled program.

    Args:
        keys: random keys (trials,).
        family: of `studies.synthetic`; another one of the same shapes compiles nothing.
        n_labelled, n_student: rows of the labelled split (weak head) and of the student's split (student and ceiling).
        weak_ridge, strong_ridge: penalties of the mean squared losses; heads have no intercept.
        measure: what to keep of each `Trial`, by default `outcome`; pass the same function object again to reuse the program.
        batch: trials at once, by default as many as fit about 32 MB (more helps on an accelerator).

    Returns:
        What `measure` returns, with the axis (trials,) in front: an `Outcome` of (trials,) arrays by default.

    Raises:
        InputError: n below 1, a negative ridge or noise, or a head without ridge whose tail is narrower than its rows.

    Source: Xue et al. 2025, the setting of the main theorem.

    >>> from w2s_jax.studies.synthetic import subspaces
    >>> run = lambda keys: simulate(keys, subspaces(4, 3, 2.5), 250, 500, 0.1, 0.1)
    >>> jax.eval_shape(run, jax.random.split(jax.random.key(0), 1000)).gap.shape  # `run(keys)` runs it
    (1000,)
    """
    keys = jnp.asarray(keys)
    if keys.ndim != (1 if jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) else 2):
        raise InputError(f"keys must be one random key per trial, got {keys.dtype} of shape {keys.shape}")
    for name, count in (("n_labelled", n_labelled), ("n_student", n_student), ("batch", 1 if batch is None else batch)):
        require_integer(name, count, 1)
    require_range("noise", family.noise, 0)
    _require_solvable("weak", getattr(family, "tail_w", None), n_labelled, weak_ridge)
    _require_solvable("strong", getattr(family, "tail_s", None), n_student, strong_ridge)
    batch = _batch_size(family, n_labelled, n_student) if batch is None else batch
    ridges, measure = (weak_ridge, strong_ridge), outcome if measure is None else measure
    return _simulate(keys, family, (n_labelled, n_student), ridges, measure, batch)


def outcome(trial: Trial) -> Outcome:
    """Errors of a trial beside the theorem's gap, `b = beta + gamma` (Xue et al. 2025), and beside that of `b = beta`.

    >>> from w2s_jax.studies.synthetic import subspaces
    >>> run = lambda key: outcome(run_trial(key, subspaces(4, 3, 2.5), 250, 500, 0.1, 0.1))
    >>> jax.eval_shape(run, jax.random.key(0))._fields
    ('weak_error', 'student_error', 'ceiling_error', 'gap', 'theorem', 'theorem_without_gamma')
    """
    gammas = jnp.stack([jnp.ones_like(trial.gap), jnp.zeros_like(trial.gap)])
    ridges = trial.weak_ridge + gammas * trial.gamma_w, trial.strong_ridge + gammas * trial.gamma_s
    theorem = prediction_gap(overlap_from_moments(trial.moments), *map(ridge_filter, ridges))
    return Outcome(trial.weak_error, trial.student_error, trial.ceiling_error, trial.gap, theorem[0], theorem[1])


def run_trial(
    key: Array, family: Family, n_labelled: int, n_student: int, weak_ridge: ArrayLike, strong_ridge: ArrayLike
) -> Trial:
    """One experiment, as `simulate` runs it: pure, for use inside jit and vmap; n's are static, ridges are numbers ().

    >>> from w2s_jax.studies.synthetic import subspaces
    >>> run = lambda key: run_trial(key, subspaces(4, 3, 2.5), 250, 500, 0.1, 0.1)
    >>> jax.eval_shape(run, jax.random.key(0)).student_error.shape
    ()
    """
    rows_key, tail_key, student_key, student_tail_key = jax.random.split(key, 4)
    gaussian = family if isinstance(family, GaussianFamily) else family.gaussian
    A_w, A_s, a = gaussian.A_w, gaussian.A_s, gaussian.a
    weak_ridge, strong_ridge = (jnp.asarray(ridge, a.dtype) for ridge in (weak_ridge, strong_ridge))
    rows = _split(rows_key, family, n_labelled)
    weak = _fit(tail_key, rows.w, rows.y[:, None], n_labelled, gaussian.tail_w, weak_ridge)
    weak_error, carried = _errors(weak, A_w, a[:, None], gaussian.tail_w)
    rows = _split(student_key, family, n_student)
    # What the weak head makes of its own tail on new rows is independent normal noise.
    pseudo = matmul(rows.w, weak.theta[:, 0]) + jnp.sqrt(carried[0]) * rows.spare
    labels = jnp.stack([pseudo, rows.y, pseudo - rows.y], 1)
    heads = _fit(student_tail_key, rows.s, labels, n_student, gaussian.tail_s, strong_ridge)
    targets = jnp.stack([a, a, jnp.zeros_like(a)], 1)
    (student, ceiling, gap), _ = _errors(heads, A_s, targets, gaussian.tail_s)
    gammas = (_gamma(gaussian.tail_w, n_labelled, a.dtype), _gamma(gaussian.tail_s, n_student, a.dtype))
    seen = _moments(rows, n_student)
    return Trial(weak_error[0], student, ceiling, gap, seen, weak_ridge, strong_ridge, *gammas)


@partial(jax.jit, static_argnames=("sizes", "measure", "batch"))
def _simulate(
    keys: Array,
    family: Family,
    sizes: tuple[int, int],
    ridges: tuple[ArrayLike, ArrayLike],
    measure: Callable[[Trial], Any],
    batch: int,
) -> Any:
    trials = keys.shape[0]
    batches = -(-trials // batch)
    # Batches of one size, the last filled up with a trial already run: a remainder would be a second program.
    size = -(-trials // batches)
    one = lambda key: measure(run_trial(key, family, *sizes, *ridges))
    results = jax.lax.map(one, filled(keys, batches * size), batch_size=size)
    return jax.tree.map(lambda x: x[:trials], results)


def _split(key: Array, family: Family, n: int) -> _ReducedRows:
    """The features and labels of n rows; in as few coordinates as they have dimensions where the family is Gaussian."""
    if isinstance(family, ReluFamily):
        sample, scale = family.sample(key, n), n**-0.5
        return _ReducedRows(sample.h_w * scale, sample.h_s * scale, sample.y * scale, jnp.zeros_like(sample.y))
    p = family.a.shape[0]
    columns = _wishart_root(key, n, p + 1 + (family.tail_w is not None), family.a.dtype)
    x = columns[:, :p]
    y = matmul(x, family.a) + jnp.sqrt(jnp.asarray(family.noise, x.dtype)) * columns[:, p]
    return _ReducedRows(matmul(x, family.A_w.T), matmul(x, family.A_s.T), y, columns[:, -1])


def _wishart_root(key: Array, n: int, m: int, dtype: Any) -> Array:
    """R (min(n, m), m), upper triangular, with `n R^T R` distributed as `Z^T Z` of n rows of m standard normals (Bartlett)."""
    normal, chi = jax.random.split(key)
    r = min(n, m)
    R = jnp.triu(jax.random.normal(normal, (r, m), dtype), 1)
    diagonal = _chi(chi, n - jnp.arange(r, dtype=dtype))
    return (R + jnp.eye(r, m, dtype=dtype) * diagonal[:, None]) / jnp.sqrt(jnp.asarray(n, dtype))


def _fit(key: Array, F: Array, labels: Array, n: int, tail: Tail | None, ridge: Array) -> _Fitted:
    """Ridge heads on features F (r, k) and a tail, for labels (r, c), everything in the coordinates of `_ReducedRows`.

    With a tail the dual solution is `M^{-1} w`, `w = u - F theta`, `theta = (I + F^T P F)^{-1} F^T P u`, P the inverse of M/n.
    """
    r, k = F.shape
    if tail is None and r < k:
        return _Fitted(matmul(F.T, ridge_solver(matmul(F, F.T), ridge)(labels)), jnp.zeros(labels.shape[1:], F.dtype))
    if tail is None:
        return _Fitted(ridge_solver(matmul(F.T, F), ridge)(matmul(F.T, labels)), jnp.zeros(labels.shape[1:], F.dtype))
    P, K = _tail_moments(key, n, r, tail, ridge)
    weighted = matmul(P, F)
    theta = ridge_solver(matmul(F.T, weighted), 1)(matmul(weighted.T, labels))
    w = labels - matmul(F, theta)
    return _Fitted(theta, jnp.sum(w * matmul(K, w), 0))


def _errors(heads: _Fitted, A: Array, targets: Array, tail: Tail | None) -> tuple[Array, Array]:
    """Mean squared errors (c,) of heads against targets (p, c) on the population, and the tail's part of them."""
    of_tail = heads.tail * (0 if tail is None else jnp.asarray(tail.variance, A.dtype))
    return jnp.sum(jnp.square(matmul(A.T, heads.theta) - targets), 0) + of_tail, of_tail


def _tail_moments(key: Array, n: int, m: int, tail: Tail, ridge: Array) -> tuple[Array, Array]:
    """`P = Q^T A^{-1} Q` and `K = Q^T A^{-1} (A - beta I) A^{-1} Q` (m, m), `A = v/n G G^T + beta I`, Q orthonormal (n, m).

    Rows leave from the last to the first: P and K are those of the m rows after the current one as if no earlier column
    existed, and each step adds a row and a column g, by Sherman and Morrison, and drops the last row.
    """
    dtype = ridge.dtype
    scale, width = jnp.asarray(tail.variance, dtype) / n, jnp.asarray(tail.width, dtype)
    first = jnp.eye(1, m, dtype=dtype)[0]

    def eliminate(state: tuple[Array, Array], g: Array) -> tuple[tuple[Array, Array], None]:
        P, K = state
        p, k = jnp.sum(P * g[1:], -1), jnp.sum(K * g[1:], -1)
        q, energy = 1 + scale * jnp.sum(g[1:] * p), 1 + scale * jnp.sum(g[1:] * k)
        pivot = ridge * q + scale * g[0] * g[0]
        u = jnp.concatenate([g[:1], ridge * p[:-1]]) / pivot
        p, k = _moved(p), _moved(k)
        P = _moved(P) - scale * (outer(p, u) + u[0] * outer(first, p)) + q / pivot * outer(first, first)
        K = _moved(K) - scale * (outer(u, k) + outer(k, u)) + scale * energy * outer(u, u)
        return (P, K), None

    def block(state: tuple[Array, Array], index: Array) -> tuple[tuple[Array, Array], None]:
        rows = index * _ROWS_PER_DRAW + jnp.arange(_ROWS_PER_DRAW)
        columns = _tail_columns(jax.random.fold_in(key, index), rows, n, m, width)
        return jax.lax.scan(eliminate, state, columns, reverse=True)

    zero = jnp.zeros((m, m), dtype)
    return jax.lax.scan(block, (zero, zero), jnp.arange(-(-n // _ROWS_PER_DRAW)), reverse=True)[0]


def _tail_columns(key: Array, c: Array, n: int, m: int, width: Array) -> Array:
    """Entries c, ..., c + m of columns c of the banded G, (columns, m + 1); zero beyond n rows or width columns.

    On the diagonal chi of `width - c` degrees of freedom, m below it chi of `n - m - c`, between them standard normals.
    """
    normal, chi = jax.random.split(key)
    freedom = jnp.stack([width - c, n - m - c.astype(width.dtype)])
    ends = _chi(chi, jnp.maximum(freedom, 1))[..., None]
    columns = jnp.concatenate([ends[0], jax.random.normal(normal, (c.shape[0], m - 1), width.dtype), ends[1]], 1)
    exists = (c[:, None] + jnp.arange(m + 1) < n) & (c < width)[:, None]
    # A row beyond the last is a coordinate of its own, whatever it holds.
    alone = (c >= n)[:, None] & (jnp.arange(m + 1) == 0)
    return jnp.where(exists, columns, jnp.where(alone, 1, 0))


def _moved(x: Array) -> Array:
    """One step down (and right): a zero in front, the last entry out."""
    return jnp.pad(x[(slice(-1),) * x.ndim], ((1, 0),) * x.ndim)


def _chi(key: Array, freedom: Array) -> Array:
    """Chi variables of the given degrees of freedom (any shape, at least 1): rejection of Marsaglia & Tsang 2000.

    `chi^2 / 2 = d (1 + y)^3` with y normal, accepted with probability `exp(d * _excess(y))`: their test in a form that
    loses no digits at millions of degrees of freedom in float32, and that holds down to one.
    """
    d = freedom / 2 - 1 / 3
    spread = 1 / (3 * jnp.sqrt(d))

    def propose(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        attempt, y, waiting = state
        # A proposal, and minus the logarithm of a uniform variable as half a chi squared of two degrees of freedom.
        proposal, *pair = jax.random.normal(jax.random.fold_in(key, attempt), (3, *d.shape), d.dtype)
        accepted = -(jnp.square(pair[0]) + jnp.square(pair[1])) / 2 < d * _excess(spread * proposal)
        return attempt + 1, jnp.where(waiting & accepted, spread * proposal, y), waiting & ~accepted

    start = jnp.zeros((), jnp.uint32), jnp.zeros_like(d), jnp.ones(d.shape, bool)
    _, y, _ = jax.lax.while_loop(lambda state: jnp.any(state[2]), propose, start)
    return jnp.sqrt(2 * d) * (1 + y) ** 1.5


def _excess(y: Array) -> Array:
    """`3 log(1 + y) - 3 y + 3 y^2 / 2 - y^3`, at most 0; minus infinity for y <= -1, by its series near 0."""
    inside = jnp.where(y > -1, y, 0)
    series = -3 * y**4 * (1 / 4 - y / 5 + y**2 / 6 - y**3 / 7 + y**4 / 8 - y**5 / 9)
    closed = 3 * jnp.log1p(inside) - 3 * y + 1.5 * y**2 - y**3
    return jnp.where(y > -1, jnp.where(jnp.abs(y) < 0.1, series, closed), -jnp.inf)


def _moments(rows: _ReducedRows, n: int) -> Moments:
    """Of n rows from fewer that have the same products: each stands for n over their number."""
    root, weights = len(rows.y) ** 0.5, jnp.full(len(rows.y), n / len(rows.y), rows.y.dtype)
    return moments(rows.w * root, rows.s * root, rows.y * root, weights=weights)


def _gamma(tail: Tail | None, n: int, dtype: Any) -> Array:
    """The tail's effective regularization on n rows, `variance width / n`."""
    return jnp.zeros((), dtype) if tail is None else jnp.asarray(tail.variance, dtype) * tail.width / n


def _batch_size(family: Family, n_labelled: int, n_student: int) -> int:
    """Trials whose numbers fit `_BATCH_ENTRIES`, at least one."""
    if isinstance(family, ReluFamily):
        size = 2 * max(n_labelled, n_student) * (family.W_w.shape[0] + family.W_s.shape[0])
    else:
        m = family.a.shape[0] + 2
        size = 16 * m * m + 4 * _ROWS_PER_DRAW * m
    return max(1, _BATCH_ENTRIES // size)


def _require_solvable(side: str, tail: Tail | None, n: int, ridge: ArrayLike) -> None:
    require_range(f"{side}_ridge", ridge, 0)
    if tail is None or isinstance(tail.width, Tracer) or isinstance(ridge, Tracer) or ridge != 0 or tail.width >= n:
        return
    narrower = f"the {side} tail is narrower than its {n} rows"
    raise InputError(f"{side}_ridge must be positive where {narrower}, got 0 and width {tail.width}")
