"""The ranking against dense NumPy: every score and standard error, every kind of input, what is compiled, what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import reference
from conftest import computing_in, quickly, relative_error

from w2s_jax import InputError, SupervisorTable
from w2s_jax._core.normalize import participation_ratio
from w2s_jax.devices import mesh
from w2s_jax.ranking import rank
from w2s_jax.ranking.folds import lay_out
from w2s_jax.ranking.scores import scorer
from w2s_jax.theory.label_fits import CORRELATIONS, PRIORS, SHARES

rank_supervisors = partial(rank.rank_supervisors, normalize="scale")

N = 60
WIDTHS = {"a": 10, "b": 12, "c": 30}  # one bucket; c has more features than a fold has rows
STRONG_WIDTH = 24
RIDGES = {"weak_ridge": 1e-2, "strong_ridge": 2e-2}
UNLABELLED = ("expected_error", "expected_gap", "gap_op", "gap_fro", "cka")
LABELLED = ("predicted_error", "trial_error", "posterior_error", "predicted_gap")


class Data(NamedTuple):
    weak: dict[str, np.ndarray]
    strong: np.ndarray
    y: np.ndarray


@cache
def data(n: int = N) -> Data:
    """A shared latent, seen with more and less noise and about a mean that is not zero; labels (n, 2) from the latent."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((n, 6))

    def see(d: int, noise: float) -> np.ndarray:
        return latent @ rng.standard_normal((6, d)) / 3 + noise * rng.standard_normal((n, d)) + 1

    weak = {name: see(d, noise) for (name, d), noise in zip(WIDTHS.items(), (0.1, 0.7, 0.4), strict=True)}
    return Data(weak, see(STRONG_WIDTH, 0.1), latent[:, :2] + 0.1 * rng.standard_normal((n, 2)) + 1)


class Case(NamedTuple):
    """What a table is made with; labels are "none", "all", "masked" or "related" (masked, rows in pairs)."""

    labels: str
    outputs: int = 2
    normalize: str = "scale"
    threshold: float = 0.0
    folds: int = 3
    prior: float = 1.0
    noise: float = 1.0
    dtype: str = "float64"


CASES = [
    Case("all"),
    Case("all", prior=1.0, noise=0.3),
    Case("all", threshold=0.02),
    Case("all", outputs=1, normalize="none", folds=5),
    Case("masked", normalize="none"),
    Case("all", normalize="features", folds=4),
    Case("masked", normalize="features", threshold=0.02),
    Case("related"),
    Case("none", dtype="float32"),
    Case("all", dtype="float32"),
    Case("masked", dtype="float32", threshold=0.02),
]
QUICK = (CASES[3], CASES[5], CASES[7])
DOUBLE = [case for case in CASES if case.dtype == "float64"]


def named(case: Case) -> str:
    return "-".join(map(str, case))


def inputs(case: Case) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray | None, np.ndarray, np.ndarray | None]:
    """Weak, strong, labels, which rows are labelled, groups."""
    weak, strong, y = data()
    weak, strong = {name: h.astype(case.dtype) for name, h in weak.items()}, strong.astype(case.dtype)
    mask = np.arange(N) % 5 < 3 if case.labels in ("masked", "related") else np.full(N, case.labels == "all")
    groups = np.arange(N) // 2 if case.labels == "related" else None
    return weak, strong, None if case.labels == "none" else y[:, : case.outputs], mask, groups


@cache
def ranked(case: Case) -> SupervisorTable:
    weak, strong, y, mask, groups = inputs(case)
    kwargs = case._asdict()
    for name in ("labels", "outputs", "dtype"):
        del kwargs[name]
    with computing_in(case.dtype):
        labelled = None if y is None else mask
        return rank_supervisors(weak, strong, y, labelled_rows=labelled, groups=groups, **RIDGES, **kwargs)


def row(table: SupervisorTable, name: str) -> dict[str, float]:
    return {column: table[column][table.names.index(name)] for column in table.columns}


def error_row(table: SupervisorTable, name: str) -> dict[str, float]:
    return {column: table.se(column)[table.names.index(name)] for column in table.columns}


class Folded(NamedTuple):
    """One value per fold of the cross-fitted scores."""

    expected_error: list[float]
    expected_gap: list[float]
    trial_error: list[float]
    posterior_error: list[float]


@cache
def folded(case: Case, name: str) -> Folded:
    """The cross-fitted scores of every fold, each by the experiment itself or by its expectation, on rows."""
    weak, strong, y, mask, groups = inputs(case)
    by_feature = case.normalize == "features"
    fit = np.float64 if case.normalize == "none" else lambda x: reference.normalized(x, by_feature)
    h, s = fit(weak[name]), fit(strong)
    mixed = mask.any() and not mask.all()
    fold = lay_out(N, case.folds, mask if y is not None else None, groups, 0).cell % case.folds
    values, vectors = np.linalg.eigh(s.T @ s / N)
    values = np.maximum(values, 0)
    root = vectors * values ** ((case.prior - 1) / 2)
    root /= np.sqrt(np.sum(values**case.prior))
    result = Folded([], [], [], [])
    betas = tuple(RIDGES.values())
    points = []
    if y is not None:
        about = y[mask] - (0 if case.normalize == "none" else y[mask].mean(0))
        grid = PRIORS, SHARES, (0.0,) if groups is None else CORRELATIONS
        points = reference.label_posterior(s, s[mask], about, grid, None if groups is None else groups[mask])
    for test in range(case.folds):
        turn = (fold - test) % case.folds
        A, B, C = (turn > 0) & (turn <= case.folds // 2), turn > case.folds // 2, turn == 0
        blocks = [[x[rows] for rows in (A, B, C)] for x in (h, s)]
        error, gap = reference.expected_experiment(*map(tuple, blocks), *betas, root, case.noise)
        result.expected_error.append(float(error))
        result.expected_gap.append(float(gap))
        if y is None:
            continue
        error, _ = reference.posterior_experiment(
            *map(tuple, blocks), *betas, points, None if groups is None else groups[A]
        )
        result.posterior_error.append(float(error) + sum(weight * noise for weight, _, _, noise, _ in points))
        plays = [(A, B, C), (B, A, C)]
        if mixed:
            plays = [(mask & (turn > 0), ~mask & (turn > 0) if groups is not None else ~mask, mask & (turn == 0))]
        errors = []
        for A, B, C in plays:
            mean = 0 if case.normalize == "none" else y[A].mean(0)
            errors.append(reference.experiment(h[A], s[B], h[B], s[C], y[C] - mean, y[A] - mean, *betas))
        result.trial_error.append(float(np.mean(errors)))
    return result


def in_sample(case: Case, name: str, weights: np.ndarray | None = None) -> dict[str, float]:
    """The scores that are not cross-fitted, on rows of given weights (N,): weighted means, rows times a root.

    Where only some rows have labels the predicted gap's representations and labels are normalised once, without weights.
    """
    weak, strong, y, mask, _ = inputs(case)
    w = np.ones(N) if weights is None else weights

    def about_mean(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return np.float64(x) - w @ np.float64(x) / w.sum()

    def rows(h: np.ndarray, w: np.ndarray) -> np.ndarray:
        if case.normalize == "none":
            return np.float64(h)
        if case.normalize == "features":  # factors are as given, whatever the weights
            return about_mean(reference.normalized(h, by_feature=True), w)
        h = about_mean(h, w)
        return h / np.sqrt(w @ np.sum(h**2, 1) / w.sum())

    def weighted(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return x * np.sqrt(w / w.mean())[:, None]

    heads = [reference.ridge(beta, case.threshold) for beta in RIDGES.values()]
    h, s = rows(weak[name], w), rows(strong, w)
    scores = {
        f"gap_{ord}": float(reference.gap_norm(weighted(h, w), weighted(s, w), *heads, ord)) for ord in ("op", "fro")
    }
    seen = (h, s) if case.normalize == "features" else (weak[name], strong)
    centred = [weighted(about_mean(x, w), w) for x in seen]
    sw, ww, ss = (np.linalg.norm(a.T @ b) for a, b in ((centred[1], centred[0]), (centred[0],) * 2, (centred[1],) * 2))
    scores["cka"] = sw**2 / (ww * ss)
    if y is not None:
        v = w if mask.all() else np.ones(N)
        y = y[mask] if case.normalize == "none" else about_mean(y[mask], v[mask])
        labelled = [weighted(x, w[mask]) for x in (rows(weak[name], v)[mask], rows(strong, v)[mask], y)]
        scores["predicted_gap"] = float(np.sum(reference.prediction_gap(*labelled, *heads)))
    return scores


# Values and standard errors


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize("case", quickly(CASES, *QUICK), ids=named)
def test_every_score_is_the_reference(case, name):
    """Every column equals its definition, carried out on rows by dense NumPy in float64."""
    expected = {key: np.mean(values) for key, values in folded(case, name)._asdict().items() if values}
    expected |= in_sample(case, name)
    got = row(ranked(case), name)
    got.pop("predicted_error", None)  # test_predicted.py
    assert got.keys() == expected.keys()
    bound = 1e-10 if case.dtype == "float64" else 1e-5
    assert {c: e for c in got if (e := relative_error(got[c], expected[c])) > bound} == {}


@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize("case", quickly(CASES, *QUICK), ids=named)
def test_cross_fitted_errors_are_the_spread_of_folds(case, name):
    """The standard error of an expected or a real experiment is the folds' standard deviation over root K."""
    values = {key: parts for key, parts in folded(case, name)._asdict().items() if parts}
    expected = {key: np.std(parts, ddof=1) / np.sqrt(case.folds) for key, parts in values.items()}
    got = error_row(ranked(case), name)
    bound = 1e-9 if case.dtype == "float64" else 1e-3
    assert {c: e for c in expected if (e := relative_error(got[c], expected[c])) > bound} == {}


@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize("case", quickly(DOUBLE, *QUICK), ids=named)
def test_in_sample_errors_are_infinitesimal_jackknives(case, name):
    """They are root(K / (K - 1) sum of squares) of the score's finite differences in each fold's weight."""
    _, _, y, mask, groups = inputs(case)
    fold = lay_out(N, case.folds, mask if y is not None else None, groups, 0).cell % case.folds
    step = 1e-4
    slopes = []
    for k in range(case.folds):
        up, down = (in_sample(case, name, 1 + h * (fold == k)) for h in (step, -step))
        slopes.append({column: (up[column] - down[column]) / (2 * step) for column in up})
    factor = np.sqrt(case.folds / (case.folds - 1))
    expected = {column: factor * np.linalg.norm([slope[column] for slope in slopes]) for column in slopes[0]}
    got = error_row(ranked(case), name)
    assert {c: e for c in expected if (e := relative_error(got[c], expected[c])) > 1e-5} == {}


@pytest.mark.everything
@pytest.mark.parametrize("kind", ["value", "error"])
@pytest.mark.parametrize("case", [Case("all"), Case("all", prior=1.0, noise=0.3)], ids=named)
def test_solves_and_spectra_agree(case, kind):
    """Without a cut the scores come from solves, with a cut below every eigenvalue from spectra: the same numbers."""
    solves, spectra = ranked(case), ranked(case._replace(threshold=1e-13))
    assert solves.names == spectra.names
    read = SupervisorTable.__getitem__ if kind == "value" else SupervisorTable.se
    assert {c: e for c in solves.columns if (e := relative_error(read(spectra, c), read(solves, c))) > 1e-8} == {}


def test_scores_of_several_strong_models():
    """With several strong models every pair gets the scores it would get alone."""
    weak, strong, *_ = inputs(Case("none", dtype="float32"))
    models = {"first": strong, "second": weak["c"][:, :STRONG_WIDTH]}
    table = rank_supervisors(weak, models, **RIDGES)
    for name, model in models.items():
        alone = rank_supervisors(weak, model, **RIDGES)
        place = [i for i, s in enumerate(table.strong) if s == name]
        assert tuple(table.names[i] for i in place) == alone.names
        for column in UNLABELLED:
            assert relative_error(table[column][place], alone[column]) < 1e-6


@pytest.mark.everything
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_raw_representations_of_any_scale(scale):
    """In float32, without normalisation, scaling all by c and both ridges by c^2 changes no score."""
    weak, strong, _ = data()
    scaled = lambda x, c: np.asarray(x, np.float32) * np.float32(c)
    tables = [
        rank_supervisors(
            {name: scaled(h, c) for name, h in weak.items()},
            scaled(strong, c),
            normalize="none",
            weak_ridge=1e-2 * c**2,
            strong_ridge=1e-2 * c**2,
        )
        for c in (1, scale)
    ]
    assert tables_differ(tables[1], tables[0], 1e-3, 0.1) == {}


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_no_direction_is_said_to_hide_others_for_its_units(scale, recwarn):
    """One that holds most and one that does not, whatever their scale; squares of such moments are out of float32's range."""
    h = np.random.default_rng(0).standard_normal((60, 30)).astype(np.float32)
    alone = h * np.where(np.arange(30) == 3, 1e4, 1).astype(np.float32)
    rank_supervisors({"even": np.float32(scale) * h, "alone": np.float32(scale) * alone}, h, normalize="none")
    said = [str(one.message) for one in recwarn if "directions holds" in str(one.message)]
    assert len(said) == 1 and "'alone'" in said[0] and "100.000%" in said[0]


@pytest.mark.parametrize("scale", [1e-15, 1e-12, 1e12, 1e15])
def test_what_is_concentrated_is_seen_at_any_scale(scale):
    """The squares of such eigenvalues vanish in float32, which gave infinitely many directions, or overflow, which gave none."""
    assert participation_ratio(np.float32([1, 1, 0]) * np.float32(scale) ** 2) == pytest.approx(2)


def test_a_prior_of_a_high_power_is_finite():
    """Leaning wholly on the leading direction is the limit of high powers, not an underflow."""
    weak, strong, _ = data()
    errors = [rank_supervisors(weak, strong, prior=p, **RIDGES)["expected_error"] for p in (100.0, 200.0)]
    assert np.allclose(*errors, rtol=0.05)


# Kinds of input


def tables_differ(
    got: SupervisorTable, expected: SupervisorTable, bound: float, share: float = 0.0
) -> dict[tuple[str, str], float]:
    """Where values or errors differ by more than a bound, relative to the value or the error.

    An error far below its value is a difference of parts of it, and known no better than they are: with `share` it is
    held against that share of the value if it is smaller.
    """
    assert set(got.names) == set(expected.names)
    found = {}
    for name in got.names:
        for kind, read in (("value", row), ("error", error_row)):
            a, b = read(got, name), read(expected, name)
            floor = {c: share * abs(row(expected, name)[c]) if kind == "error" else 0.0 for c in b}
            found |= {(kind, c): e for c in b if (e := relative_error(a[c], b[c], floor[c])) > bound}
    return found


class Sliceable:
    """Rows with a shape, a dtype and slices, and nothing else."""

    def __init__(self, array: np.ndarray) -> None:
        self._array, self.shape, self.dtype = array, array.shape, array.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        assert isinstance(rows, slice)
        return self._array[rows]


def mapped(folder: Path, name: str, array: np.ndarray) -> np.ndarray:
    np.save(folder / f"{name}.npy", array)
    return np.load(folder / f"{name}.npy", mmap_mode="r")


WRAPPERS: dict[str, Callable[[Path, str, np.ndarray], Any]] = {
    "memmap": mapped,
    "sliceable": lambda folder, name, array: Sliceable(array),
    "jax": lambda folder, name, array: jnp.asarray(array),
    "fortran": lambda folder, name, array: np.asfortranarray(array),
    "list": lambda folder, name, array: array.tolist(),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_any_source_of_rows_is_as_good_as_an_array(tmp_path, wrapper):
    """Memory maps, objects that only slice, JAX arrays, column-major arrays and lists give what arrays give."""
    case = Case("all", dtype="float32")
    weak, strong, y, *_ = inputs(case)
    wrap = WRAPPERS[wrapper]
    given = {name: wrap(tmp_path, name, h) for name, h in weak.items()}
    got = rank_supervisors(given, wrap(tmp_path, "strong", strong), y, **RIDGES)
    assert tables_differ(got, ranked(case), 1e-6) == {}


@pytest.mark.parametrize(
    "case",
    quickly([Case("all", dtype="float32"), Case("masked", normalize="none")], Case("masked", normalize="none")),
    ids=named,
)
def test_blocks_of_rows_add_up(monkeypatch, case):
    """Rows read in blocks that do not divide their number give the scores of rows read at once."""
    expected = ranked(case)
    monkeypatch.setattr("w2s_jax.ranking.cells.BLOCK_ROWS", 22)
    bound, share = (1e-10, 0.0) if case.dtype == "float64" else (1e-4, 0.1)
    assert tables_differ(ranked.__wrapped__(case), expected, bound, share) == {}


@pytest.mark.parametrize("dtype", ["int8", "int64", "bool", "float16", "bfloat16"])
def test_narrow_types_are_their_values(dtype):
    """Integers, booleans and half precision rank as the float32 arrays of the same numbers."""
    weak, strong, y = data()
    convert = {"int8": lambda h: np.round(20 * h), "int64": lambda h: np.round(20 * h), "bool": lambda h: h > 1}
    change = convert.get(dtype, lambda h: h)
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    narrow = {name: change(h).astype(kind) for name, h in [*weak.items(), ("strong", strong)]}
    wide = {name: h.astype(np.float32) for name, h in narrow.items()}
    tables = [rank_supervisors({k: r[k] for k in WIDTHS}, r["strong"], y, **RIDGES) for r in (narrow, wide)]
    assert tables_differ(*tables, 1e-6) == {}


def test_models_of_different_types_rank_together():
    """One call takes half, bfloat16, single and integer representations side by side."""
    weak, strong, y = data()
    kinds = dict(zip(WIDTHS, (np.float16, ml_dtypes.bfloat16, np.int32), strict=True))
    narrow = {name: (8 * weak[name]).astype(kind) for name, kind in kinds.items()}
    got = rank_supervisors(narrow, strong.astype(np.float32), y, **RIDGES)
    wide = rank_supervisors(
        {name: h.astype(np.float32) for name, h in narrow.items()}, strong.astype(np.float32), y, **RIDGES
    )
    assert tables_differ(got, wide, 1e-6) == {}


def test_large_integers_keep_their_values():
    """64-bit integers beyond 32 bits are not wrapped: scaled by 2^32 a representation ranks the same."""
    weak, strong, y = data()
    small = {name: np.round(20 * h).astype(np.int64) for name, h in weak.items()}
    large = {name: h << 32 for name, h in small.items()}
    tables = [rank_supervisors(w, strong.astype(np.float32), y, **RIDGES) for w in (large, small)]
    assert tables_differ(*tables, 1e-4) == {}


def test_labels_with_nan_are_a_mask():
    """Rows whose label is NaN count as unlabelled."""
    case = Case("masked", dtype="float32", threshold=0.02)
    weak, strong, y, mask, _ = inputs(case)
    hidden = np.where(mask[:, None], y, np.nan)
    assert tables_differ(rank_supervisors(weak, strong, hidden, threshold=0.02, **RIDGES), ranked(case), 1e-6) == {}


@pytest.mark.parametrize("kind", quickly(["all", "masked"], "all"))
def test_labels_may_have_a_large_mean(kind):
    """Heads with an intercept see no constant, and in float32 it costs no digits."""
    weak, strong, y, mask, _ = inputs(Case(kind, dtype="float32"))
    tables = [rank_supervisors(weak, strong, y + mean, labelled_rows=mask, **RIDGES) for mean in (0, 1e6)]
    assert tables_differ(*tables, 1e-6) == {}


@pytest.mark.everything
@pytest.mark.parametrize("ridge", [0, 1e-6])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_more_features_than_rows_of_a_fold_at_any_ridge(ridge, dtype, x64):
    """Weak heads on 20 rows of 40 features, students on 20 of 24: what rounding leaves of null spaces is not divided by a
    small ridge, and no ridge is none."""
    weak, strong, y = data()
    wide = {"wide": np.concatenate([weak["a"], weak["b"], weak["c"]], 1)[:, :40].astype(dtype)}
    table = rank_supervisors(wide, strong.astype(dtype), y, weak_ridge=ridge, strong_ridge=ridge)
    # By kernels of rows, which have no null space, in place of moments.
    heads = lambda x: x.T @ np.linalg.inv(x @ x.T / len(x) + ridge * np.eye(len(x))) / len(x)
    h, s = reference.normalized(wide["wide"]), reference.normalized(strong)
    root = np.eye(s.shape[1]) / np.sqrt(np.mean(np.sum(s**2, 1)))
    fold = lay_out(N, 3, np.ones(N, bool), None, 0).cell
    errors, gaps = [], []
    for test in range(3):
        A, B, C = ((fold - test) % 3 == turn for turn in (1, 2, 0))
        through = heads(s[B]) @ h[B] @ heads(h[A])
        size = lambda x, rows=s[C]: np.linalg.norm(rows @ x) ** 2 / len(rows)
        errors.append(size((through @ s[A] - np.eye(len(root))) @ root) + size(through))
        gaps.append(size((through @ s[A] - heads(s[B]) @ s[B]) @ root) + size(through))
    bound = 1e-9 if dtype == "float64" else 1e-3
    assert relative_error(table["expected_error"][0], np.mean(errors)) < bound
    assert relative_error(table["expected_gap"][0], np.mean(gaps)) < bound


def test_large_integers_do_not_wrap():
    """Representations of 64-bit integers rank as the same numbers in floats, strong ones too."""
    weak, strong, y = data()
    whole = lambda h: np.round(np.asarray(h, np.float64) * 1e10).astype(np.int64)
    tables = [
        rank_supervisors({n: kind(whole(h)) for n, h in weak.items()}, kind(whole(strong)), y, **RIDGES)
        for kind in (np.asarray, np.float32)
    ]
    assert tables_differ(*tables, 1e-6) == {}


def test_labels_outside_the_mask_are_not_used():
    """Labels of rows that may not be used change nothing."""
    case = Case("masked", dtype="float32", threshold=0.02)
    weak, strong, y, mask, _ = inputs(case)
    other = np.where(mask[:, None], y, 1e6)
    got = rank_supervisors(weak, strong, other, labelled_rows=mask, threshold=0.02, **RIDGES)
    assert tables_differ(got, ranked(case), 1e-6) == {}


# What the scores do not depend on, and what they do


def test_padding_changes_nothing(x64):
    """A model ranked alone scores as among models of other widths, which share its padded program."""
    weak, strong, y = data()
    alone = rank_supervisors({"a": weak["a"]}, strong, y, **RIDGES)
    among = ranked(Case("all"))
    for read in (row, error_row):
        own = (c for c in alone.columns if c != "predicted_error")  # which looks at all models together
        assert all(relative_error(read(alone, "a")[c], read(among, "a")[c]) < 1e-6 for c in own)


def test_several_groups_of_one_width(monkeypatch):
    """Models that do not fit into memory together get the same scores in several groups."""
    case = Case("all")
    expected = ranked(case)
    monkeypatch.setattr(rank, "BATCH_BYTES", 1)
    assert tables_differ(ranked.__wrapped__(case), expected, 1e-9) == {}


@pytest.mark.parametrize("side", ["weak", "strong"])
def test_normalised_representations_have_no_position_size_or_axes(x64, side):
    """Rotating, rescaling and shifting a representation changes no score."""
    weak, strong, y = data()
    rng = np.random.default_rng(1)

    def move(h: np.ndarray) -> np.ndarray:
        return 1e3 * h @ np.linalg.qr(rng.standard_normal((h.shape[1],) * 2))[0] + rng.standard_normal(h.shape[1])

    if side == "weak":
        weak = {name: move(h) for name, h in weak.items()}
    else:
        strong = move(strong)
    assert tables_differ(rank_supervisors(weak, strong, y, **RIDGES), ranked(Case("all")), 1e-8) == {}


@pytest.mark.parametrize("column", UNLABELLED)
def test_the_strong_model_is_its_own_best_supervisor(column):
    """Among noisy models a copy of the strong representation comes first by every label-free score."""
    weak, strong, _ = data()
    rows = {"a": weak["a"], "c": weak["c"], "copy": strong}
    assert rank_supervisors(rows, strong, **RIDGES).sort_by(column).names[0] == "copy"


def test_a_copy_of_the_strong_model_has_cka_one():
    """Linear CKA of a representation with itself is 1."""
    weak, strong, _ = data()
    table = rank_supervisors({"a": weak["a"], "c": weak["c"], "copy": strong}, strong, **RIDGES)
    assert abs(row(table, "copy")["cka"] - 1) < 1e-5


@pytest.mark.parametrize("column", ["expected_error", "expected_gap", "gap_fro", "cka"])
def test_more_noise_makes_a_worse_supervisor(column):
    """Without labels, copies of one representation are ordered by the noise added to them."""
    strong = data().strong.astype(np.float32)
    rng = np.random.default_rng(2)
    noise = {sd: sd * rng.standard_normal((N, d)) for sd, d in ((3.0, 12), (0.1, 13), (1.0, 14))}
    noisy = {str(sd): strong[:, : e.shape[1]] + e for sd, e in noise.items()}
    assert rank_supervisors(noisy, strong, **RIDGES).sort_by(column).names == ("0.1", "1.0", "3.0")


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("grouped", [False, True])
def test_related_rows_leak_unless_grouped(grouped):
    """Representations that only tell paraphrases apart seem to predict labels, unless groups stay in one fold."""
    rng = np.random.default_rng(3)
    group = np.arange(N) // 6
    y = rng.standard_normal((N // 6, 2))[group]
    identity = rng.standard_normal((N // 6, 30))[group] + 0.01 * rng.standard_normal((N, 30))
    weak = {name: identity[:, :d] for name, d in WIDTHS.items()}
    table = rank_supervisors(weak, identity[:, :STRONG_WIDTH], y, groups=group if grouped else None)
    leaks = table["trial_error"] < np.sum(np.var(y, 0)) / 10
    assert np.all(leaks != grouped)


def test_the_prediction_sorts_where_there_are_labels():
    """The first row has the smallest predicted error with labels, many or few, and expected error without."""
    weak, strong, y = data()
    few = rank_supervisors(weak, strong, y, labelled_rows=np.arange(N) % 7 == 0, **RIDGES)
    tables = few, ranked(Case("all", dtype="float32")), ranked(Case("none", dtype="float32"))
    for table, column in zip(tables, ("predicted_error", "predicted_error", "expected_error"), strict=True):
        assert table.sorted_by == column
        assert np.all(np.diff(table[column]) >= 0)


@pytest.mark.parametrize("labels", ["none", "all"])
def test_columns_follow_the_labels(labels):
    """Trial and predicted gap are there exactly when labels are."""
    assert set(ranked(Case(labels, dtype="float32")).columns) == {*UNLABELLED, *(LABELLED if labels == "all" else ())}


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_no_ridge_is_allowed(precision):
    """With both strengths zero, also where second moments are singular, scores and errors are finite."""
    weak, strong, y, *_ = inputs(Case("all", dtype=precision))
    with computing_in(precision):
        table = rank_supervisors(weak, strong, y, weak_ridge=0, strong_ridge=0)
    for column in table.columns:
        assert np.isfinite([table[column], table.se(column)]).all(), column


def test_the_seed_decides():
    """The same seed gives the same numbers, another seed other folds."""
    weak, strong, y, *_ = inputs(Case("all", dtype="float32"))
    first, again, other = (rank_supervisors(weak, strong, y, seed=seed, **RIDGES) for seed in (0, 0, 1))
    assert tables_differ(again, first, 0) == {}
    assert not np.any(other["trial_error"] == first["trial_error"])


@pytest.mark.everything
def test_labels_that_are_all_the_same_sort_nothing():
    """One sentence says so; the order is that without labels."""
    weak, strong, *_ = inputs(Case("all", dtype="float32"))
    same = np.where(np.arange(N) < 12, 1.0, np.nan)
    with pytest.warns(UserWarning, match="all 12 known labels are the same"):
        table = rank_supervisors(weak, strong, same, **RIDGES)
    assert table.sorted_by == "expected_error"
    assert np.all(np.diff(table["expected_error"]) >= 0)


def test_settings_are_in_the_table():
    """The table says how it was made."""
    settings = dict(ranked(Case("masked", normalize="none")).settings)
    chosen = {"threshold": 0.0, "prior": 1.0, "noise": 1.0, "folds": 3, "normalize": "none", "seed": 0}
    assert settings == RIDGES | chosen | {"rows": N, "row_norm": "given", "n_labelled": 36}


@pytest.mark.parametrize("several", [False, True])
def test_progress_wraps_the_work(several):
    """A function given as progress sees one item per weak and strong model, on a CPU."""
    seen = []

    def progress(items):
        items = list(items)
        seen.append(len(items))
        return items

    weak, strong, _ = data()
    rank_supervisors(weak, {"s": strong, "t": strong} if several else strong, progress=progress, **RIDGES)
    assert seen == [6 if several else 3]


# Compiled programs


def programs() -> int:
    of_rows = (rank.weak_sums, rank.cell_sums, rank._rotate)
    return scoring_programs() + rank.prepare_strong.programs() + sum(program._cache_size() for program in of_rows)


def scoring_programs() -> int:
    return sum(program.programs() for cut in (False, True) for program in scorer(3, "scale", cut, (), None))


def test_programs_do_not_grow_with_models():
    """Models of many widths share the programs of a few: more models of other widths compile nothing."""
    rng = np.random.default_rng(4)
    rows = {str(width): rng.standard_normal((N, width)) for width in range(30, 62, 4)}
    jax.clear_caches()
    rank_supervisors(dict(list(rows.items())[-2:]), data().strong, **RIDGES)
    assert scoring_programs() == 3  # scores, the largest eigenvalue, the norm made of it
    rank_supervisors(rows, data().strong, **RIDGES)
    assert scoring_programs() == 3


@pytest.mark.everything
def test_uneven_groups_of_one_width_are_one_program(monkeypatch):
    """Three models in groups of two: the second group is filled up, and what fills it is in no row of the table."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for module in (mesh, rank):
        monkeypatch.setattr(module, "BATCH", 2)
    rng = np.random.default_rng(4)
    rows = {name: rng.standard_normal((N, 36)).astype(np.float32) for name in "abc"}
    sizes = []
    before = scoring_programs()
    table = rank_supervisors(rows, data().strong, progress=lambda tasks: sizes.append(len(tasks)) or tasks, **RIDGES)
    assert (sizes, sorted(table.names)) == ([2], ["a", "b", "c"])
    assert scoring_programs() - before <= 3


@pytest.mark.everything
@pytest.mark.parametrize("threshold", [0.0, 0.05])
def test_batches_of_an_accelerator_score_the_same(monkeypatch, x64, threshold):
    """Three models scored two at a time, the last batch filled up, have the scores of one at a time."""
    rng = np.random.default_rng(5)
    weak, strong, y = data()
    rows = {name: weak["a"] + rng.standard_normal(weak["a"].shape) for name in "pqr"}
    expected = rank_supervisors(rows, strong, y, threshold=threshold, **RIDGES)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for module in (mesh, rank):
        monkeypatch.setattr(module, "BATCH", 2)
    found = rank_supervisors(rows, strong, y, threshold=threshold, **RIDGES)
    for name in "pqr":
        for read in (row, error_row):
            assert read(found, name) == pytest.approx(read(expected, name), rel=1e-8)


@pytest.mark.everything
def test_other_numbers_compile_nothing():
    """Other rows, ridge strengths, prior, noise and seed run the programs that are there."""
    weak, strong, y, *_ = inputs(Case("all", dtype="float32"))
    rank_supervisors(weak, strong, y, **RIDGES)
    before = programs()
    moved = {name: h + np.float32(1) for name, h in weak.items()}
    rank_supervisors(moved, strong, y, weak_ridge=0.1, strong_ridge=0.3, prior=1.5, noise=0.0, seed=5)
    assert programs() == before


@pytest.mark.everything
def test_a_massive_channel_is_said_and_cured():
    """One warning a model, with the numbers; none once all features are on one scale."""
    rng = np.random.default_rng(6)
    strong = rng.standard_normal((N, 24)).astype(np.float32)
    strong[:, 3] *= 100
    weak = {"calm": rng.standard_normal((N, 20)), "loud": strong[:, :20].copy()}
    with pytest.warns(UserWarning, match="directions hold the variance") as said:
        rank_supervisors(weak, {"s": strong})
    found = [str(one.message).split(" hold")[0] for one in said]
    assert found == [
        "strong representation 's': 1.0 of 24 directions",
        "weak representation 'loud': 1.0 of 20 directions",
    ]
    with warnings.catch_warnings(action="error"):
        rank_supervisors(weak, {"s": strong}, normalize="features")
    with pytest.warns(UserWarning, match=r"strong representation 's': the threshold 0.95 keeps 1 of 24 directions"):
        rank_supervisors({"calm": weak["calm"]}, {"s": strong}, normalize="features", threshold=0.95)


# Bad input


def with_entry(h: np.ndarray, value: float) -> np.ndarray:
    h = h.copy()
    h[17, 3] = value
    return h


def refusals() -> dict[str, tuple[dict[str, Any], str]]:
    """What is given instead, and what the message must say."""
    weak, strong, y = data()
    one, some = y[:, 0], {name: weak[name] for name in "ab"}
    mask = np.arange(N) < 30
    mixed_groups = np.array([None, "x"] * (N // 2), dtype=object)
    return {
        "weak array": ({"weak": strong}, "weak must be a dict.*ndarray"),
        "no weak": ({"weak": {}}, "weak must hold at least one representation"),
        "no strong": ({"strong": {}}, "strong must hold at least one representation"),
        "weak rows": ({"weak": weak | {"short": strong[:50]}}, "60 in strong representation 'strong'.*50.*'short'"),
        "strong rows": ({"strong": {"s": strong, "t": strong[:50]}}, "60.*'s'.*50.*strong representation 't'"),
        "weak nan": ({"weak": weak | {"bad": with_entry(strong, np.nan)}}, "weak representation 'bad'.*row 17"),
        "weak inf": ({"weak": weak | {"bad": with_entry(strong, np.inf)}}, "weak representation 'bad'.*row 17"),
        "strong nan": ({"strong": with_entry(strong, np.nan)}, "strong representation 'strong'.*row 17"),
        "weak constant": ({"weak": some | {"flat": np.ones((N, 30))}}, "'flat' is constant"),
        "weak zero": ({"weak": some | {"flat": np.zeros((N, 30))}}, "'flat' is constant"),
        "strong constant": ({"strong": np.full((N, STRONG_WIDTH), 3.0)}, "'strong' is constant"),
        "weak 1-D": ({"weak": {"v": one}}, "'v' must be 2-D"),
        "weak empty": ({"weak": {"v": np.ones((N, 0))}}, "'v' must be 2-D.*not empty"),
        "weak ragged": ({"weak": {"v": [[1.0], [2.0, 3.0]]}}, "'v'"),
        "weak none": ({"weak": {"v": None}}, "'v' must"),
        "strings": ({"weak": {"v": np.full((N, 2), "x")}}, "'v' must hold real numbers"),
        "objects": ({"weak": {"v": np.full((N, 2), None)}}, "'v' must hold real numbers, got object"),
        "complex": ({"strong": strong * 1j}, "'strong' must hold real numbers, got complex128"),
        "too large": ({"weak": some | {"v": 1e30 * weak["c"]}}, "'v'.*large"),
        "same name": ({"weak": {1: weak["a"], "1": weak["b"]}}, "'1'"),
        "weak ridge": ({"weak_ridge": -1.0}, "weak_ridge must be.*-1"),
        "strong ridge": ({"strong_ridge": -1.0}, "strong_ridge must be.*-1"),
        "nan ridge": ({"weak_ridge": np.nan}, "weak_ridge must be.*nan"),
        "threshold": ({"threshold": 1.5}, "threshold must be.*1.5"),
        "prior": ({"prior": -1.0}, "prior must be.*-1"),
        "noise": ({"noise": -0.5}, "noise must be.*-0.5"),
        "folds": ({"folds": 2}, "folds must be an integer of at least 3.*2"),
        "fractional folds": ({"folds": 3.5}, "folds must be an integer of at least 3.*3.5"),
        "many folds": ({"folds": 40}, "every fold must hold at least 2 rows"),
        "seed": ({"seed": -1}, "seed"),
        "labelled alone": ({"labelled_rows": mask}, "labelled.*needs y"),
        "labelled type": (
            {"y": one, "labelled_rows": mask.astype(int)},
            "labelled_rows must be a boolean array.*int64",
        ),
        "labelled shape": ({"y": one, "labelled_rows": mask[:50]}, r"labelled_rows must be a boolean array.*\(50,\)"),
        "labelled none": ({"y": one, "labelled_rows": np.zeros(N, bool)}, "y must have at least one labelled row"),
        "labelled few": (
            {"y": one, "labelled_rows": np.arange(N) < 4},
            "every fold must hold at least 2 labelled rows",
        ),
        "labelled nan": ({"y": np.where(mask, one, np.nan), "labelled_rows": ~mask}, "labelled_rows.*NaN in row 30"),
        "y length": ({"y": one[:50]}, r"y must have shape \(60,\).*\(50,\)"),
        "y rank": ({"y": np.ones((N, 1, 1))}, "y must have shape"),
        "y text": ({"y": ["yes", "no"] * (N // 2)}, "y must be numbers"),
        "y infinite": ({"y": np.where(np.arange(N) == 17, np.inf, one)}, "labels y contain.*row 17"),
        "y zero": ({"y": np.zeros(N)}, "y must not be zero"),
        "y nan": ({"y": np.full(N, np.nan)}, "y must have at least one labelled row"),
        "groups length": ({"groups": np.arange(50)}, r"groups must have shape \(60,\).*\(50,\)"),
        "groups two": ({"groups": np.arange(N) % 2}, "groups must name at least as many groups as folds.*2"),
        "groups mixed": ({"groups": mixed_groups}, "groups"),
    }


@pytest.mark.parametrize("fault", refusals())
def test_bad_input_is_one_sentence(unchecked, fault):
    """Bad input raises InputError, in one line that names the argument or model and what came."""
    change, sentence = refusals()[fault]
    weak, strong, _ = data()
    with pytest.raises(InputError, match=rf"\A[^\n]*{sentence}[^\n]*\Z"):
        rank_supervisors(**({"weak": weak, "strong": strong} | RIDGES | change))


def test_unknown_column():
    """Asking for a column that is not there names those that are."""
    table = ranked(Case("none", dtype="float32"))
    for ask in (table.__getitem__, table.se, table.sort_by):
        with pytest.raises(InputError, match=r"expected_error, .*cka, got 'trial_error'"):
            ask("trial_error")


def test_raw_representations_that_one_direction_hides_are_warned_of():
    """A channel of mean 1e4 beside 23 ordinary ones: what is left of these in single precision is rounding."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((60, 24)).astype(np.float32)
    hidden = rows + np.float32([1e4, *[0] * 23])
    with pytest.warns(UserWarning, match=r"^strong .* one of 24 directions holds 100.000% .* float32 loses others"):
        rank_supervisors({"w": rows[:, :5]}, hidden, normalize="none")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rank_supervisors({"w": rows[:, :5]}, rows + 1, normalize="none")
        rank_supervisors({"w": rows[:, :5]}, hidden, normalize="scale")
