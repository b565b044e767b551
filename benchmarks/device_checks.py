"""What only a device can answer: whether its float32 is float32, and whether its batched solvers and programs are right.

Parts of `benchmarks.accelerator`. References are dense, in float64, on the host, written here from the definitions on rows;
bounds are the README's: 1e-5 in float32 for cuts of at least 1e-2, 1e-3 for cuts of at least 1e-4. Representations have steps in
their spectra, with the cuts between them: where a cut goes through a dense spectrum rounding moves it on any device.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import w2s_jax as w2s
from benchmarks._common import latent_signal, representation, timed
from w2s_jax._core import factor
from w2s_jax.devices import PrecisionReport, fastest_precision

RIDGE, CUT = 1e-2, 1e-2
BOUND, BOUND_SMALL_CUT = 1e-5, 1e-3
TEACHERS = 20  # more than an accelerator batches at once


class Skipped(Exception):
    """A part that cannot run here, and why."""


def require_sweeps() -> None:
    """Raises Skipped without the one package that sweeps need beyond the library's own."""
    if find_spec("safetensors") is None:
        raise Skipped("sweeps need safetensors, which is not installed")


def judged(errors: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """Errors and their bounds, and a verdict that names those beyond them; NaN is beyond."""
    beyond = [name for name, (error, bound) in errors.items() if not error <= bound]
    found = (
        f"{len(beyond)} of {len(errors)} beyond: {', '.join(beyond)}" if beyond else f"all {len(errors)} within bounds"
    )
    return {"verdict": found} | {f"{name}: error, bound": list(pair) for name, pair in errors.items()}


def relative(value: Any, exact: Any) -> float:
    """Frobenius norm of the error over that of the exact array."""
    exact = np.asarray(exact, float)
    return float(np.linalg.norm(np.asarray(value, float) - exact) / np.linalg.norm(exact))


def stepped(rng: np.random.Generator, n: int, widths: list[int]) -> tuple[list[np.ndarray], np.ndarray]:
    """Representations whose eigenvalues end at about 1e-1, go on at 1e-3 and end in a tail of 1e-6 of the largest, each blind
    to another part of the latent variables; and these (n, 18)."""
    latent = np.concatenate([latent_signal(rng, n, 12), 0.05 * rng.normal(size=(n, 6))], 1)
    seen = [np.delete(latent, i % 7, 1) for i in range(len(widths))]
    return [representation(rng, z, d, 1e-3) for z, d in zip(seen, widths, strict=True)], latent


@cache
def precision_report(quick: bool) -> PrecisionReport:
    """Errors and seconds of every precision that the device has."""
    return fastest_precision(*((1024, 128) if quick else (8192, 1024)))


def precisions(quick: bool) -> dict[str, Any]:
    """Which precisions there are, their errors and rates, and what is lost where a product leaves its precision to JAX."""
    report = precision_report(quick)
    rows, width = report.rows, report.width
    work = 2e-9 * rows * width * width
    h = np.random.default_rng(0).standard_normal((rows, width), np.float32)
    exact, left_open = h.astype(float).T @ h, jax.jit(lambda h: h.T @ h)
    figures: dict[str, Any] = {"rows, width": [rows, width], "supported": [m.name for m in report.measured]}
    figures["fastest within 2x of float32's error"] = report.chosen
    for m in report.measured:
        figures[f"{m.name}: error, over float32's, GFLOP/s"] = [m.error, m.relative, work / m.seconds]
    figures["error of a product at JAX's default precision"] = relative(left_open(h), exact)
    with jax.default_matmul_precision("bfloat16"):
        figures["the same where the default is bfloat16"] = relative(left_open(h), exact)
    return judged({m.name: (m.error, BOUND) for m in report.measured if m.name == "float32"}) | figures


class Kernel(NamedTuple):
    """The principal kernel of a ridge head, `U diag(f) U^T`, in factors (n, k) and (k,)."""

    U: np.ndarray
    f: np.ndarray

    def norm(self, ord: str) -> float:
        """ "op" or "fro"."""
        return float(self.f.max() if ord == "op" else np.linalg.norm(self.f))


def kernel(h: np.ndarray, cut: float = 0.0, ridge: float = RIDGE) -> Kernel:
    """Of rows in float64."""
    U, singular, _ = np.linalg.svd(h, full_matrices=False)
    values = singular**2 / len(h)
    return Kernel(U, np.where(values >= cut * values[0], values / (values + ridge), 0))


def lost(weak: Kernel, strong: Kernel) -> np.ndarray:
    """`P_s (I - P_w)` in the basis of P_s (k, n): of the same norms."""
    kept = strong.f[:, None] * strong.U.T
    return kept - ((kept @ weak.U) * weak.f) @ weak.U.T


def norm(matrix: np.ndarray, ord: str) -> float:
    """Of a wide matrix, "op" or "fro"."""
    return float(np.sqrt(np.linalg.eigvalsh(matrix @ matrix.T)[-1]) if ord == "op" else np.linalg.norm(matrix))


def pair_accuracy(quick: bool) -> dict[str, Any]:
    """Moments, gaps and norms of a pair, at JAX's default precision of products and where that is bfloat16."""
    n, widths = (200, [96, 128]) if quick else (1000, [256, 384])
    (h_w, h_s), latent = stepped(np.random.default_rng(6), n, widths)
    y = latent[:, :2].astype(np.float32)
    w, s, t = (x.astype(float) for x in (h_w, h_s, y))
    products = {"ww": w.T @ w, "ss": s.T @ s, "sw": s.T @ w, "sy": s.T @ t}
    cuts = {CUT: BOUND, CUT**2: BOUND_SMALL_CUT}
    dense = [PairScores.of(kernel(w, cut), kernel(s, cut), t) for cut in cuts]
    heads = w2s.ridge(RIDGE, np.array(list(cuts)))
    errors: dict[str, tuple[float, float]] = {}
    for default in (None, "bfloat16"):
        with jax.default_matmul_precision(default):
            m = w2s.moments(h_w, h_s, y)
            o = w2s.overlap(h_w, h_s, y)
            gap = np.asarray(w2s.prediction_gap(o, heads, heads), float)
            op, fro = (np.asarray(w2s.gap_norm(o, heads, heads, ord), float) for ord in ("op", "fro"))
        name = f"default precision {default}"
        sums = {"ww": m.ww, "ss": m.ss, "sw": m.sw, "sy": m.sy}
        errors |= {f"{name}: moment {key}": (relative(sums[key], G / n), BOUND) for key, G in products.items()}
        for i, (cut, bound) in enumerate(cuts.items()):
            found = dense[i].errors(gap[i], float(op[i]), float(fro[i]))
            errors |= {f"{name}: {key}, cut {cut:g}": (error, bound) for key, error in found.items()}
    return judged(errors) | {"n, d_w, d_s": [n, *widths]}


class PairScores(NamedTuple):
    """Gap by output, the mean square of each, the two norms, and those of P_s."""

    gap: np.ndarray
    energy: np.ndarray
    norms: dict[str, float]
    sizes: dict[str, float]

    @classmethod
    def of(cls, weak: Kernel, strong: Kernel, y: np.ndarray) -> PairScores:
        """By their definitions."""
        L = lost(weak, strong)
        norms, sizes = ({ord: of(ord) for ord in ("op", "fro")} for of in (partial(norm, L), strong.norm))
        return cls(np.sum((L @ y) ** 2, 0) / len(y), np.mean(y**2, 0), norms, sizes)

    def errors(self, gap: np.ndarray, op: float, fro: float) -> dict[str, float]:
        """Of a gap relative to it or to 1% of the labels' energy, of squared norms relative to those of P_s."""
        found = {"gap": float(np.max(np.abs(gap - self.gap) / np.maximum(self.gap, 1e-2 * self.energy)))}
        for ord, value in (("op", op), ("fro", fro)):
            found[f"norm {ord}"] = abs(value**2 - self.norms[ord] ** 2) / self.sizes[ord] ** 2
        return found


class Ranked(NamedTuple):
    """A small labelled ranking with a cut, its models and its rows' groups: one of each size and so one a fold.

    `sizes`: what errors of a score are relative to where that is not the score itself.
    """

    weak: dict[str, np.ndarray]
    strong: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    table: w2s.SupervisorTable
    sizes: dict[str, float]


SETTINGS: dict[str, Any] = {"weak_ridge": RIDGE, "strong_ridge": RIDGE, "threshold": CUT, "normalize": "scale"}


@cache
def ranked(quick: bool) -> Ranked:
    """Teachers of one width, in two batches on an accelerator."""
    n, d_w, d_s, count = (150, 48, 64, 4) if quick else (600, 96, 128, TEACHERS)
    rng = np.random.default_rng(7)
    (strong, *teachers), latent = stepped(rng, n, [d_s] + [d_w] * count)
    rows = n // 3 + n // 30, n // 3, n // 3 - n // 30  # the largest group is the first fold
    groups = rng.permutation(np.repeat(np.arange(3), rows))
    weak = {f"weak{i}": h for i, h in enumerate(teachers)}
    y = (latent[:, :2] + 0.1 * rng.normal(size=(n, 2))).astype(np.float32)
    P_s = kernel(unit(strong), CUT)
    sizes = {"gap_op": P_s.norm("op"), "gap_fro": P_s.norm("fro"), "predicted_gap": 1e-2 * float(np.sum(np.var(y, 0)))}
    return Ranked(weak, strong, y, groups, w2s.rank_supervisors(weak, strong, y, groups=groups, **SETTINGS), sizes)


def ranking_accuracy(quick: bool) -> dict[str, Any]:
    """Scores of a ranking against the experiment on rows, and those of teachers in batches against each one's alone."""
    weak, strong, y, groups, table, sizes = ranked(quick)
    errors = {}
    for name in list(weak)[:: max(1, len(weak) // 3)]:
        together = scores_of(table, name)
        exact = dense_scores(weak[name], strong, y, groups)
        alone = w2s.rank_supervisors({name: weak[name]}, strong, y, groups=groups, **SETTINGS)
        for column, value in together.items():
            if column in exact:  # the posterior has tests of its own
                errors[f"{name}: {column}"] = score_error(column, value, exact[column], sizes), BOUND
            if column != "predicted_error":  # it rests on how all teachers of the table differ
                errors[f"{name}: {column}, alone"] = score_error(column, value, float(alone[column][0]), sizes), BOUND
    return judged(errors) | {"n, teachers": [len(y), len(weak)]}


def scores_of(table: w2s.SupervisorTable, name: str) -> dict[str, float]:
    """A model's row of a table."""
    return {column: float(table[column][table.names.index(name)]) for column in table.columns}


def score_error(column: str, value: float, exact: float, sizes: Mapping[str, float]) -> float:
    """Relative error, as in `PairScores.errors`."""
    if column in ("gap_op", "gap_fro"):
        return abs(value**2 - exact**2) / sizes[column] ** 2
    return abs(value - exact) / max(abs(exact), sizes.get(column, 0.0))


def dense_scores(h_w: np.ndarray, h_s: np.ndarray, y: np.ndarray, fold: np.ndarray) -> dict[str, float]:
    """Every score of a labelled ranking of three folds by its definition."""
    h, s = unit(h_w), unit(h_s)
    pair = PairScores.of(kernel(h, CUT), kernel(s, CUT), y - y.mean(0))
    size = lambda a, b: float(np.linalg.norm(a.T @ b))
    folds = [fold == i for i in range(3)]
    turns = [(folds[(i + 1) % 3], folds[(i + 2) % 3], folds[i]) for i in range(3)]
    expected = np.mean([expected_scores(h, s, turn) for turn in turns], 0)
    swapped = [(b, a, c) for a, b, c in turns]
    return {
        "trial_error": float(np.mean([trial(h, s, y, turn) for turn in turns + swapped])),
        "predicted_gap": float(np.sum(pair.gap)),
        "expected_error": float(expected[0]),
        "expected_gap": float(expected[1]),
        "gap_op": pair.norms["op"],
        "gap_fro": pair.norms["fro"],
        "cka": size(s, h) ** 2 / size(h, h) / size(s, s),
    }


def unit(h: np.ndarray) -> np.ndarray:
    """Centred, of unit mean squared row norm, float64."""
    h = h.astype(float) - h.mean(0, dtype=float)
    return h / np.sqrt(np.mean(np.sum(h**2, 1)))


def head(h: np.ndarray) -> np.ndarray:
    """The map (d, n) from labels to a ridge head."""
    return np.linalg.solve(h.T @ h / len(h) + RIDGE * np.eye(h.shape[1]), h.T / len(h))


def outputs(h: np.ndarray, s: np.ndarray, turn: tuple) -> np.ndarray:
    """The map from labels on rows A to the student's outputs on rows C, by way of pseudo-labels on rows B."""
    A, B, C = turn
    return s[C] @ head(s[B]) @ h[B] @ head(h[A])


def trial(h: np.ndarray, s: np.ndarray, y: np.ndarray, turn: tuple) -> float:
    """The student's squared error on rows C, summed over outputs; the intercept is the labels' mean on A."""
    A, _, C = turn
    error = outputs(h, s, turn) @ (y[A] - y[A].mean(0)) - (y[C] - y[A].mean(0))
    return float(np.sum(error**2) / np.sum(C))


def expected_scores(h: np.ndarray, s: np.ndarray, turn: tuple) -> tuple[float, float]:
    """Error and gap, averaged over labels `s theta` of mean square 1 plus noise of variance 1, theta ~ N(0, I)."""
    A, B, C = turn
    student = outputs(h, s, turn)
    root = np.eye(s.shape[1]) / np.linalg.norm(s) * np.sqrt(len(s))  # a root of theta's covariance
    noise = np.sum(student**2)
    square = lambda targets: (np.sum(((student @ s[A] - targets) @ root) ** 2) + noise) / np.sum(C)
    return square(s[C]), square(s[C] @ head(s[B]) @ s[B])


def batches(quick: bool) -> dict[str, Any]:
    """Factorisations of a batch against those of each matrix, how well they solve, and seconds at once and one by one."""
    # Up to 32 a GPU has a solver of its own; elsewhere a further size is another slow program.
    count, sizes = (3, (24,)) if quick else (16, (32, 256) if jax.default_backend() == "gpu" else (256,))
    figures: dict[str, Any] = {}
    errors: dict[str, tuple[float, float]] = {}
    for d in sizes:
        h = jax.random.normal(jax.random.key(d), (count, 2 * d, d))
        matrices = jax.jit(lambda h: jnp.matmul(jnp.swapaxes(h, 1, 2), h, precision="highest") / h.shape[1])(h)
        for name, function in factorisations().items():
            one, all_ = jax.jit(function), jax.jit(jax.vmap(function))
            seconds = timed(partial(all_, matrices), 3)[0], timed(partial(each, one, matrices), 3)[0]
            figures[f"{name} of {count} x {d}: s at once, one by one"] = list(seconds)
            together = np.asarray(all_(matrices), float)
            alone, exact = np.asarray(each(one, matrices), float), np.asarray(matrices, float)
            if name == "eigenvalues":
                exact = np.linalg.eigvalsh(exact)
            errors[f"{name} of {d}: at once and alone"] = relative(together, alone), BOUND
            errors[f"{name} of {d}"] = relative(together, exact), BOUND
    return judged(errors) | figures


def each(function: Callable, matrices: jax.Array) -> jax.Array:
    """One matrix after another."""
    return jnp.stack([jax.block_until_ready(function(matrix)) for matrix in matrices])


def factorisations() -> dict[str, Callable[[jax.Array], jax.Array]]:
    """The package's own, each made into what does not depend on signs: the matrix again, or its eigenvalues."""
    product = partial(jnp.matmul, precision="highest")

    def by_eigenpairs(matrix: jax.Array) -> jax.Array:
        values, vectors = factor.eigh(matrix)
        return product(vectors * values, vectors.T)

    def by_cholesky(matrix: jax.Array) -> jax.Array:
        lower = factor.cholesky(matrix)
        return product(lower, lower.T)

    def by_inverse(matrix: jax.Array) -> jax.Array:
        # `L^{-1} S = L^T`, and so the matrix is the square of that.
        upper = product(factor.inverse_factor(matrix), matrix)
        return product(upper.T, upper)

    def by_qr(matrix: jax.Array) -> jax.Array:
        return product(*factor.qr(matrix))

    return {
        "eigenvalues": factor.eigvalsh,
        "eigenpairs": by_eigenpairs,
        "Cholesky": by_cholesky,
        "inverse factor": by_inverse,
        "QR": by_qr,
    }


def sweep_agrees(quick: bool) -> dict[str, Any]:
    """The same models and labels in files: a sweep's columns are the ranking's."""
    require_sweeps()
    weak, strong, y, groups, table, sizes = ranked(quick)
    with tempfile.TemporaryDirectory() as folder:
        for name, array in {**weak, "strong": strong, "y": y, "groups": groups}.items():
            np.save(Path(folder) / f"{name}.npy", array)
        config = {
            "weak": f"{folder}/weak*.npy",
            "strong": f"{folder}/strong.npy",
            "output": f"{folder}/results",
            "folds": 3,
        }
        files = {"labels": {"y": f"{folder}/y.npy"}, "groups": f"{folder}/groups.npy"}
        started = time.perf_counter()
        swept = w2s.run_sweep(config | files | SETTINGS)
        seconds = time.perf_counter() - started
    errors = {}
    for i, name in enumerate(swept["weak"]):
        for column, value in scores_of(table, name).items():
            if column not in swept.columns:
                continue
            errors[f"{name}: {column}"] = score_error(column, float(swept[column][i]), value, sizes), BOUND
    return judged(errors) | {"pairs, s": [len(swept), seconds]}
