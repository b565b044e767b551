"""Which weak model should teach? Ranks weak representations as supervisors of a strong one, with or without labels.

Rows are streamed once per model into second moments per cell of rows (cells.py); scores come from those alone
(scores.py). Models of different width share compiled programs by zero-padded columns; those of more features than rows
have as many as rows (compact.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from w2s_jax._core.arrays import Precision, entered, matmul
from w2s_jax._core.checks import (
    InputError,
    require_choice,
    require_integer,
    require_number,
    require_scale,
    warn_of_float_bits,
)
from w2s_jax._core.cpu import one_lapack_thread
from w2s_jax._core.heavy_rows import Watched
from w2s_jax._core.normalize import (
    MANY,
    Normalize,
    RowNorm,
    after_unit_rows,
    participation_ratio,
    warn_if_concentrated,
)
from w2s_jax._core.progress import track
from w2s_jax.devices.mesh import BATCH, MODELS, ROWS, over_models, put, require_mesh, spread
from w2s_jax.devices.precision import resolved
from w2s_jax.files.ids import require_same_ids
from w2s_jax.moments import Sums
from w2s_jax.predictors import PREDICTORS, Predictor
from w2s_jax.predictors.predictor import Reads, one_of_each
from w2s_jax.ranking.cells import (
    ByLayout,
    ModelRows,
    RowBlock,
    RowCells,
    about_first_row,
    cell_sums,
    labels_of,
    on_devices,
    over_rows,
    row_blocks,
    side_by_side,
    stacked,
    total,
)
from w2s_jax.ranking.compact import CompactRows, about_origin, has_few_rows
from w2s_jax.ranking.crossfit import Score, Settings, WeakCells, prior_draws
from w2s_jax.ranking.folds import Layout, as_groups, lay_out
from w2s_jax.ranking.from_rows import KeptRows, order_of, rows_scorer
from w2s_jax.ranking.labels import about_mean, checked_labels
from w2s_jax.ranking.mixed_errors import StrongSide
from w2s_jax.ranking.mixture import Mixture, Objective, mixed
from w2s_jax.ranking.predicted import Prediction, Scored, predict, said_of
from w2s_jax.ranking.prepared import Origin
from w2s_jax.ranking.related import GroupSums, Places, Related, group_sums, related_rows
from w2s_jax.ranking.scores import Labels, Shared, Size, prepare_strong, scorer
from w2s_jax.ranking.table import LARGER_IS_BETTER, TITLES, SupervisorTable
from w2s_jax.ranking.unit_rows import UnitRows
from w2s_jax.ranking.widths import padded_widths
from w2s_jax.theory.label_fits import Chance

BATCH_BYTES = 256 << 20  # of a batch of weak models on each device
_BY_CELL = P(None, ROWS)


def rank_supervisors(
    weak: Mapping[str, Any],
    strong: Any,
    y: Any = None,
    *,
    labelled_rows: Any = None,
    groups: Any = None,
    weak_ridge: float = 1e-3,
    strong_ridge: float = 1e-3,
    threshold: float = 0.0,
    prior: float = 1.0,
    noise: float = 1.0,
    n_labelled: int | None = None,
    n_student: int | None = None,
    folds: int = 3,
    normalize: Normalize = "features",
    rows: RowNorm = "given",
    seed: int = 0,
    predictors: Iterable[str | Predictor] = (),
    mixture: bool | Objective = False,
    progress: bool | Callable[[Iterable], Iterable] = False,
    mesh: Mesh | None = None,
    precision: Precision = "float32",
) -> SupervisorTable:
    """Ranks weak models as supervisors of one or several strong models; the first row is the best teacher.

    Without labels the table is sorted by the expected experiment, with labels by a prediction made of the posterior experiment
    and the trial. All four are mean squared errors of the weak-to-strong student: the expected one in units of the labels' mean
    square, over labels that are random linear functions of the strong representation plus noise; the others in squared units of
    y, summed over outputs: the posterior's over what the given labels leave open of all labels, the trial's of weak heads that
    are trained on the given labels, and the predicted one the posterior's, moved by how the trial departs from what was foreseen.

    Args:
        weak: name -> representation (n, d_w) of the same n rows; widths may differ. NumPy or JAX arrays, or anything with
            `.shape` and row slices, such as a memory map: it is then read in blocks, and whole only if it has fewer rows than
            features.
        strong: one representation (n, d_s), or name -> representation.
        y: labels (n,) or (n, c), one-hot rows for classes (their numbers 0, 1, 2, ... are taken as values, with a warning);
            rows whose label is NaN are unlabelled.
        labelled_rows: (n,) bool, the rows whose label may be used. If all are, rows play labelled split, student's split and
            test in turn; if some, they are the labelled split and the test, and the unlabelled rows the student's split.
        groups: (n,) group of each row (contrast pairs, paraphrases): related rows stay in one fold.
        weak_ridge, strong_ridge: penalties beta of the two heads, for the mean squared loss.
        threshold: relative eigenvalue cut alpha of the gap norms and the predicted gap; 0 for none.
        prior: p of the label prior `theta ~ N(0, S_s^{p-1})`: 1 for any direction, 2 leans on the leading ones, 0.5 on the
            small ones.
        noise: variance nu of the label noise, in units of the labels' mean square.
        n_labelled, n_student: planned numbers of rows that will train the weak heads and the student, more or fewer than there
            are: which teacher, if so many labels are bought for it? They act on the expected and the posterior experiment and on
            `predicted_error`, not on the trial. None: those of a fold. Errors are right within a few percent; where planned heads
            would learn what a fold's rows cannot tell (few rows, a small ridge) a warning says so, and they are those of a
            larger ridge.
        folds: blocks of rows K >= 3 of the cross-fitting and of the standard errors.
        normalize: centre every representation, give heads an intercept, and scale to unit mean squared row norm, so that one
            ridge strength means the same for all: "features" each to unit variance first, "scale" all alike. With "none"
            representations are used as they are.
        rows: "unit": each row is divided by its norm after that, and representations are centred and of one scale again, so
            that no row is larger than another. Every representation is then read twice.
        seed: of the random folds.
        predictors: further columns, by name (`w2s_jax.predictors.PREDICTORS`) or of one's own; without standard errors. For those
            that read rows a strong model and a batch of weak ones are held in memory.
        mixture: also find the best mixture of teachers for each strong model: `table.mixtures`. True, or what it makes least: an
            error of the table, "predicted" (True with labels), "posterior", "trial", "expected" (True without), or "misfit",
            the bound on the student's error that what it leaves of its teachers' labels gives. Not for planned rows.
        progress: True for a progress bar, or a function that wraps an iterable.
        mesh: devices that share the work (see `device_mesh`): rows over one axis, weak models over the other.
        precision: of the products over rows, as in `moments`; solves and spectra are always at full precision.

    Returns:
        A table with columns `expected_error`, `expected_gap`, `gap_op`, `gap_fro` (`||P_s (I - P_w)||`), `cka`, and with labels
        `predicted_error`, `trial_error`, `posterior_error`, `predicted_gap`; each with its standard error over blocks of rows,
        that of `predicted_error` with what the labels leave open. Below it, with labels, a sentence for each strong model says
        what the order rests on.

    Raises:
        InputError: representations that do not fit each other, carry other row ids (those of `open_rows`), or hold NaN,
            infinities or nothing but a constant; parameters out of range; too few rows for the folds; a precision that the
            platform does not have.

    >>> z = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    >>> table = rank_supervisors({"half": z[:, :2], "most": z[:, :3]}, z)  # z is strong
    >>> table.names, table.sorted_by
    (('most', 'half'), 'expected_error')

    Source: Xue et al. 2025 for the norms and the predicted gap; Kornblith et al. 2019 for CKA.
    """
    given = {
        "weak_ridge": weak_ridge,
        "strong_ridge": strong_ridge,
        "threshold": threshold,
        "prior": prior,
        "noise": noise,
    }
    for name, value in given.items():
        require_number(name, value, 0, 1 if name == "threshold" else None)
    require_choice("normalize", normalize, Normalize)
    require_choice("rows", rows, RowNorm)
    planned = _planned(n_labelled, n_student, mixture)
    asked = _asked(predictors, labels=y is not None)
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed must be an integer of at least 0, got {seed!r}")
    weak_rows, strong_rows, n = _sources(weak, strong)
    require_mesh(mesh)
    targets, label_mean, mask = _targets(y, n, labelled_rows, normalize)
    told = targets is not None and bool(np.ptp(targets[mask], 0).any())
    objective = _objective(mixture, told, "y=None" if y is None else "labels that are all the same")
    numbered = as_groups(groups, n)
    layout = lay_out(n, folds, None if targets is None else mask, numbered, seed)
    dtype = _dtype(weak_rows, strong_rows)
    settings = Settings(**{name: np.asarray(value, dtype) for name, value in (given | planned).items()})
    weak_models, strong_models = (
        {name: _model(side, name, held, dtype, normalize, rows) for name, held in models.items()}
        for side, models in (("weak", weak_rows), ("strong", strong_rows))
    )
    labelled = related_rows(numbered, mask, layout)
    work = _Work(
        RowCells((layout,), targets),
        settings,
        after_unit_rows(normalize, rows),
        threshold > 0,
        mesh,
        resolved(precision, None if mesh is None else mesh.devices.flat[0]),
        labelled and related_rows(numbered, np.ones(n, bool), layout),
        labelled,
        0.0 if targets is None else _label_spread(targets[mask]),
        label_mean,
        asked,
        objective,
    )
    with one_lapack_thread(max(model.width for model in (*weak_models.values(), *strong_models.values()))):
        found = _score(weak_models, strong_models, work, progress)
    main, notes, predictions = "expected_error", (), {}
    if told:
        main, notes, predictions = "predicted_error", *_predict(found, int(mask.sum()))
    elif targets is not None:
        warnings.warn(
            f"labels y: all {mask.sum()} known labels are the same and say nothing of teachers; sorted as without labels",
            stacklevel=2,
        )
    _warn_of_short([f"weak representation {name!r}" for (_, name), scored in found.pairs.items() if scored.short])
    own = {
        "folds": folds,
        "normalize": normalize,
        "row_norm": rows,
        "seed": seed,
        "rows": n,
        "n_labelled": int(mask.sum()),
    }
    chosen = given | own | {f"planned_{name}": value for name, value in planned.items()}
    scores = {key: scored.scores for key, scored in found.pairs.items()}
    widths = {name: held.shape[1] for name, held in weak_rows.items()}
    larger = LARGER_IS_BETTER | {of.name for of in asked if of.larger_is_better}
    mixtures = _mixtures(found, work, predictions, normalize != "none")
    return replace(_table(scores, widths, main, chosen, notes, larger), mixtures=mixtures)


def _asked(predictors: Iterable[str | Predictor], labels: bool) -> tuple[Predictor, ...]:
    """The further columns; raises InputError for what needs labels where there are none."""
    asked = one_of_each(predictors, PREDICTORS, TITLES)
    for of in asked:
        if of.needs == "labels" and not labels:
            raise InputError(f"predictors that need labels need y, got {of.name!r} and y=None")
    return asked


def _objective(mixture: bool | Objective, told: bool, came: str) -> Objective | None:
    """What mixtures make least, if they are asked for; raises InputError for what needs labels that say something."""
    if isinstance(mixture, bool | np.bool_):
        return None if not mixture else "predicted" if told else "expected"
    require_choice("mixture", mixture, Objective, otherwise="a bool")
    if mixture != "expected" and not told:
        raise InputError(f"mixture={mixture!r} needs labels y that differ, got {came}")
    return mixture


def _targets(
    y: Any, n: int, labelled_rows: Any, normalize: Normalize
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray]:
    """Labels (n, c), about their mean where heads have an intercept, that mean, and which rows have one."""
    if y is None:
        if labelled_rows is not None:
            raise InputError("labelled_rows says which rows of y may be used and needs y, got y=None")
        return None, None, np.zeros(n, bool)
    targets, mask = checked_labels("labels y", y, n, labelled_rows)
    if normalize == "none":
        return targets, None, mask
    return about_mean(targets, mask), targets[mask].mean(0), mask


class _Found(NamedTuple):
    """Scores by pair (strong, weak), and by strong model the share of the labels that it expresses and what mixtures need."""

    pairs: dict[tuple[str, str], Scored]
    shares: dict[str, Any]
    of_strong: dict[str, StrongSide]


def _score(
    weak: dict[str, ModelRows],
    strong: dict[str, ModelRows],
    work: _Work,
    progress: bool | Callable[[Iterable], Iterable],
) -> _Found:
    """Scores of all pairs, a strong model after the other; the last batch runs while the next one's rows are read."""
    found = _Found({}, {}, {})
    first, asked = next(iter(strong)), work.predictors
    state: tuple[str, _Strong] | None = None
    started: list[Any] = []
    tasks = [(name, batch) for name, model in strong.items() for batch in _batches(weak, model.width, work)]
    for name, batch in track(tasks, progress, "ranking"):
        if state is None or state[0] != name:
            state = name, _prepare(strong[name], work)
            # What strong models do not matter to is asked with the first of them.
            work = work if name == first else work.without("weak_rows")
            found.shares[name] = state[1].share
            if work.mixture:
                found.of_strong[name] = StrongSide.of(state[1].shared, work.settings)
        models = [weak[member] for member in batch.members]
        started.append((name, models, batch.members, _start(state[1], models, batch, work), work.normalize))
        if len(started) > 1:
            found.pairs.update(_finish(*started.pop(0)))
    found.pairs.update(_finish(*started.pop()))
    for (_, name), scored in found.pairs.items():
        for of in asked:
            scored.scores.setdefault(of.name, found.pairs[first, name].scores[of.name])
    return found


def _predict(found: _Found, labels: int) -> tuple[tuple[str, ...], dict[str, Prediction]]:
    """Adds the predicted errors to the scores; a sentence and what is predicted for each strong model."""
    predictions = predict(found.pairs)
    return tuple(said_of(name, said, labels, found.shares[name]) for name, said in predictions.items()), predictions


def _mixtures(found: _Found, work: _Work, predictions: dict[str, Prediction], bias: bool) -> dict[str, Mixture]:
    """The best mixture of teachers for each strong model, if it is asked for."""
    mixtures: dict[str, Mixture] = {}
    for name, side in found.of_strong.items():
        teachers = {weak: scored for (s, weak), scored in found.pairs.items() if s == name}
        assert work.mixture is not None
        mixtures[name] = mixed(work.mixture, teachers, predictions.get(name), side, work.layout, bias)
    return mixtures


def _planned(n_labelled: int | None, n_student: int | None, mixture: bool | Objective) -> dict[str, int]:
    """The planned numbers of rows that are given."""
    planned = {name: n for name, n in (("n_labelled", n_labelled), ("n_student", n_student)) if n is not None}
    for name, n in planned.items():
        require_integer(name, n, 1)
    if planned and mixture:
        raise InputError(f"mixture is of the rows at hand and takes no planned rows, got {planned}")
    return {name: int(n) for name, n in planned.items()}


def _warn_of_short(labels: list[str], stacklevel: int = 3) -> None:
    """Warns of representations of which a fold's rows cannot tell what planned rows would learn."""
    named = list(dict.fromkeys(labels))
    if named:
        more = f" and {len(named) - 3} more" if len(named) > 3 else ""
        warnings.warn(
            f"{', '.join(named[:3])}{more}: heads on the planned rows would learn what a fold's rows cannot tell, and are judged "
            "as with a larger ridge (more rows or folds or a larger ridge help)",
            stacklevel=stacklevel,
        )


def _label_spread(known: np.ndarray) -> float:
    """The relative standard error of the mean square of labels (m, c)."""
    squares = np.sum(np.square(known / np.abs(known).max()), 1) if known.any() else np.ones(len(known))
    return float(np.std(squares) / squares.mean() / np.sqrt(len(squares)))


class _Work(NamedTuple):
    """What all pairs share: the rows' cells and labels, settings, static choices, devices, the products' precision, which rows,
    and which of the labelled ones, are related, if that counts, the relative standard error of labels' mean square, what labels
    were taken about, if they were, further columns, and what mixtures make least, if they are asked for."""

    rows: RowCells
    settings: Settings
    normalize: Normalize
    cut: bool
    mesh: Mesh | None
    precision: str
    related: Related | None
    labelled: Related | None
    label_spread: float
    label_mean: np.ndarray | None
    predictors: tuple[Predictor, ...]
    mixture: Objective | None

    @property
    def layout(self) -> Layout:
        return self.rows.layouts[0]

    @property
    def dtype(self) -> Any:
        return self.settings.noise.dtype

    @property
    def taught(self) -> Labels | None:
        """Labels of the students that mixtures need."""
        return self.mixture and ("random" if self.mixture == "expected" else "given")

    def blocks(self) -> Iterator[RowBlock]:
        return row_blocks(self.rows.layouts, (0, self.rows.n), share=1 if self.mesh is None else self.mesh.shape[ROWS])

    def reading(self, *reads: Reads) -> tuple[Predictor, ...]:
        """The further columns that read one of these."""
        return tuple(of for of in self.predictors if of.reads in reads)

    def without(self, reads: Reads) -> _Work:
        """The same but for the further columns that read this."""
        return self._replace(predictors=tuple(of for of in self.predictors if of.reads != reads))

    def places(self, related: Related | None, block: RowBlock) -> Places | None:
        """Where a block's rows stand among groups."""
        if related is None:
            return None
        return Places(on_devices(related.in_block(block), self.mesh, _BY_CELL), np.zeros(related.shape, self.dtype))


class _Batch(NamedTuple):
    """Weak models that run as one program: the width they are padded to, how many the program takes, and their names."""

    width: int
    size: int
    members: list[str]


class _Strong(NamedTuple):
    """A strong model ready to meet weak ones; its rows about their shift enter as `(h - center) @ rotation`, kept if they are one
    block: transposed (cells, d_s, rows), as a CPU multiplies them up to twice as fast. `share`: of the labels' energy, what it
    is expected to express."""

    model: ModelRows
    center: Array
    shared: Shared
    rotated: Array | None
    share: float | None

    def block(self, block: RowBlock, work: _Work) -> Array:
        """A block of rows in the eigenbasis."""
        if self.rotated is not None:
            return self.rotated
        return _rotate(_strong_block(self.model, block, work), self.center, self.shared.rotation)


def _by_place(related: Related | None) -> Places | P:
    """How the places of related rows lie on devices, if there are any."""
    return P() if related is None else Places(_BY_CELL, P())


def _strong_block(model: ModelRows, block: RowBlock, work: _Work) -> Array:
    return on_devices(side_by_side([model], model.width, block), work.mesh, _BY_CELL)[0]


def _prepare(model: ModelRows, work: _Work) -> _Strong:
    specs = _BY_CELL, _BY_CELL, _by_place(work.labelled)
    sum_up = over_rows(strong_sums, work.mesh, work.precision, specs, P(), (ROWS,))
    blocks, last = list(work.blocks()), None

    def sums_of_blocks() -> Iterator[tuple[Sums, GroupSums | None]]:
        nonlocal last
        for block in blocks:
            last = _strong_block(model, block, work)
            y = on_devices(labels_of(work.rows, block, work.dtype), work.mesh, _BY_CELL)
            yield sum_up(last, y, work.places(work.labelled, block))

    sums, related = total(sums_of_blocks())
    sums = work.rows.with_labels(sums)
    if work.labelled and related and work.rows.targets is not None:
        related = related._replace(y=work.labelled.sums(work.rows.targets).astype(work.dtype))
    if work.mesh is not None:
        sums, related = jax.device_put((sums, related), work.mesh.devices.flat[0])  # one prepares what all share
    experiments = work.layout.experiments(work.dtype)
    largest = (work.layout.expected.test @ work.rows.counts).max()
    choices = work.layout.folds, work.normalize, work.cut, min(int(largest), model.width)
    origin = Origin(model.shift[0], work.dtype.type(model.rounding))
    chance = None if sums.y is None else Chance.of(model.width, sums.y.shape[-1], work.label_spread, work.dtype)
    center, shared = prepare_strong(sums, origin, experiments, work.settings, related, chance, *choices)
    largest_value = np.asarray(shared.values)[0]
    if not np.isfinite(largest_value):
        raise InputError(f"{model.name} is too large: its squares overflow {work.dtype}")
    if not largest_value > 0:
        raise InputError(f"{model.name} is constant, expected rows that differ")
    _warn_of_spectrum(model, np.asarray(shared.values), work)
    if work.label_mean is not None:
        shared = shared._replace(label_mean=np.asarray(work.label_mean, work.dtype))
    if work.taught == "random":
        shared = shared._replace(prior_draws=prior_draws(shared.expected.prior))
    if shared.plan is not None and shared.plan.stage.short:
        _warn_of_short([model.name], stacklevel=5)
    if work.mesh is not None:
        center, shared = put((center, shared), work.mesh, P())
    rotated = _rotate(last, center, shared.rotation) if len(blocks) == 1 else None
    share = shared.labelled and float(jax.device_get(shared.labelled.posterior.share))
    return _Strong(model, center, shared, rotated, share)


def _start(strong: _Strong, models: list[ModelRows], batch: _Batch, work: _Work) -> tuple[Size, dict, Any]:
    """The sizes, scores and evidence of a batch of weak models, which the device may still be computing."""
    size = batch.size if work.mesh is None else -(-batch.size // work.mesh.shape[MODELS]) * work.mesh.shape[MODELS]
    by_model = P(MODELS, *_BY_CELL)
    specs = by_model, P(None, None, ROWS), _BY_CELL, _by_place(work.related), _by_place(work.labelled)
    sum_up = over_rows(weak_sums, work.mesh, work.precision, specs, P(MODELS), (ROWS,))

    from_rows = work.reading("rows", "weak_rows")
    kept: list[Array] = []
    strong_kept: list[Array] = []

    def sums_of_blocks() -> Iterator[WeakCells]:
        for block in work.blocks():
            x = on_devices(stacked(models, batch.width, size, block), work.mesh, by_model)[0]
            y = on_devices(labels_of(work.rows, block, work.dtype), work.mesh, _BY_CELL)
            z = strong.block(block, work)
            if from_rows:
                kept.append(x)
                strong_kept.append(z)
            yield sum_up(x, z, y, work.places(work.related, block), work.places(work.labelled, block))

    sums = total(sums_of_blocks())
    filled_up = models + models[-1:] * (size - len(models))
    shifts = np.stack([np.pad(model.shift[0], (0, batch.width - model.width)) for model in filled_up])
    origins = Origin(shifts, np.asarray([model.rounding for model in filled_up], work.dtype))
    over = lambda score: score if work.mesh is None else spread(score, work.mesh)
    score = over(scorer(work.layout.folds, work.normalize, work.cut, work.reading("moments"), work.taught))
    variance, scores, evidence = score(
        (sums, origins), strong.shared, work.layout.experiments(work.dtype), work.settings
    )
    if from_rows:
        order = order_of(work.rows, list(work.blocks()), work.dtype)
        read = over(rows_scorer(from_rows, work.normalize))
        scores |= read(KeptRows(kept, origins), strong_kept, order, work.settings)
    return variance, scores, evidence


def _warn_of_spectrum(model: ModelRows, values: np.ndarray, work: _Work) -> None:
    """Says so where next to nothing of a strong model is left for its heads."""
    warn_if_concentrated(model.name, participation_ratio(values), model.width, work.normalize, work.dtype, stacklevel=6)
    cut = float(work.settings.threshold)
    kept = int(np.sum(values > cut * values[0]))
    if cut > 0 and kept <= 2 and model.width >= MANY:
        warnings.warn(f"{model.name}: the threshold {cut:g} keeps {kept} of {model.width} directions", stacklevel=5)


def _finish(
    strong: str, models: list[ModelRows], names: list[str], batch: tuple[Size, dict, Any], normalize: Normalize
) -> dict[tuple[str, str], Scored]:
    """A started batch's scores by pair, once they are there."""
    size, scores, evidence = jax.device_get(batch)
    for i, model in enumerate(models):  # behind them copies of the last, to fill up the batch
        if not np.isfinite(size.variance[i]):
            raise InputError(f"{model.name} is too large: its squares overflow {size.variance.dtype}")
        if not size.variance[i] > 0:
            raise InputError(f"{model.name} is constant, expected rows that differ")
        warn_if_concentrated(model.name, float(size.directions[i]), model.width, normalize, size.variance.dtype)
    of_member = lambda i: Scored(
        {key: Score(score.value[i], score.error[i]) for key, score in scores.items()},
        jax.tree.map(lambda part: part[i], evidence),
        size.short is not None and bool(size.short[i]),
    )
    return {(strong, name): of_member(i) for i, name in enumerate(names)}


@partial(jax.jit, static_argnames="precision")
def strong_sums(x: Array, y: ByLayout | None, places: Places | None, precision: str) -> tuple[Sums, GroupSums | None]:
    """Sums per cell, and per group of labelled rows if they count."""
    return cell_sums((x,), y, precision), group_sums(x, places)


@partial(jax.jit, static_argnames="precision")
def weak_sums(
    x: Array, zT: Array, y: ByLayout | None, places: Places | None, labelled: Places | None, precision: str
) -> WeakCells:
    """Sums per model and cell of a batch; the strong side's own products are not computed again."""

    def one(x: Array) -> WeakCells:
        related = group_sums(x, places), group_sums(x, labelled)
        return WeakCells(cell_sums((x,), y, precision), matmul(zT, x, precision), *related)

    return over_models(one, x)


@jax.jit
def _rotate(block: Array, center: Array, rotation: Array) -> Array:
    return jnp.swapaxes(matmul(block - center, rotation), 1, 2)


def _sources(weak: Any, strong: Any) -> tuple[dict[str, Any], dict[str, Any], int]:
    """The representations by name, checked for rank and rows; files and memory maps stay unread."""
    if not isinstance(weak, Mapping):
        raise InputError(f"weak must be a dict of name -> representation, got {type(weak).__name__}")
    strong = strong if isinstance(strong, Mapping) else {"strong": strong}
    for argument, models in (("weak", weak), ("strong", strong)):
        if not models:
            raise InputError(f"{argument} must hold at least one representation, got none")
    sources = [
        {str(name): _source(f"{side} representation {name!r}", rows) for name, rows in models.items()}
        for side, models in (("weak", weak), ("strong", strong))
    ]
    sides = zip(("strong", "weak"), sources[::-1], strict=True)
    require_same_ids({f"{side} representation {name!r}": rows for side, held in sides for name, rows in held.items()})
    for argument, models, held in (("weak", weak, sources[0]), ("strong", strong, sources[1])):
        if len(held) < len(models):
            raise InputError(f"{argument} must have names that differ as text, got {list(models)}")
    first, n = next((name, rows.shape[0]) for name, rows in sources[1].items())
    for side, models in zip(("weak", "strong"), sources, strict=True):
        for name, rows in models.items():
            if rows.shape[0] != n:
                raise InputError(
                    f"all representations must have the same number of rows, got {n} in strong representation {first!r} "
                    f"and {rows.shape[0]} in {side} representation {name!r}"
                )
    return sources[0], sources[1], n


def _source(name: str, rows: Any) -> Any:
    rows = entered(name, rows, lazily=True)
    rows = np.asarray(rows) if isinstance(rows, jax.Array) else rows
    if len(rows.shape) != 2 or 0 in rows.shape:
        raise InputError(f"{name} must be 2-D (rows, features) and not empty, got shape {tuple(rows.shape)}")
    if not (jnp.issubdtype(rows.dtype, jnp.floating) or jnp.issubdtype(rows.dtype, jnp.integer) or rows.dtype == bool):
        raise InputError(f"{name} must hold real numbers, got {rows.dtype}")
    return rows


def _model(side: str, name: str, rows: Any, dtype: Any, normalize: Normalize, row_norm: RowNorm) -> ModelRows:
    """The rows, in fewer features if there are more than rows; those of a strong model may be read twice."""
    label = f"{side} representation {name!r}"
    warn_of_float_bits(label, rows)
    require_scale(label, rows, dtype)
    if row_norm == "unit":
        rows, normalize = UnitRows(rows, label, dtype, normalize), after_unit_rows(normalize, row_norm)
    else:
        rows = Watched(rows, label, normalize)
    if not has_few_rows(rows):
        return about_first_row(label, rows, dtype, normalize)
    compact = CompactRows(rows, label, dtype, normalize, keep=side == "strong")
    return about_origin(label, compact, normalize)


def _dtype(*models: Mapping[str, Any]) -> Any:
    """Everything is accumulated in float32 unless some representation is float64 and x64 is on."""
    wide = any(rows.dtype == np.float64 for side in models for rows in side.values())
    return jnp.float64 if wide and jnp.result_type(float) == jnp.float64 else jnp.float32


def _batches(weak: Mapping[str, ModelRows], d_s: int, work: _Work) -> Iterator[_Batch]:
    """Weak models in batches of one padded width, within the memory for a batch; all are of one size, so that the number of
    models changes no program. A CPU takes one at a time, on each of its devices."""
    size = 1 if work.mesh is None else work.mesh.size
    widths = {name: model.width for name, model in weak.items()}
    padded = padded_widths(list(widths.values()), d_s, work.rows.n, work.layout.cells)
    if jax.default_backend() != "cpu":
        width = max(padded.values())
        rows = sum(next(work.blocks()).capacity)
        entries = work.layout.cells * (rows * width + 3 * width * (width + d_s))
        size *= min(BATCH, len(widths), max(1, BATCH_BYTES // (4 * entries)))
    for width in sorted(set(padded.values())):
        names = [name for name in widths if padded[widths[name]] == width]
        yield from (_Batch(width, size, names[i : i + size]) for i in range(0, len(names), size))


def _table(
    pairs: dict, width: Mapping[str, int], main: str, settings: dict, notes: tuple[str, ...], larger: frozenset[str]
) -> SupervisorTable:
    keys = list(pairs)
    columns = list(pairs[keys[0]])
    values = {column: np.array([pairs[key][column].value for key in keys], float) for column in columns}
    errors = {column: np.array([pairs[key][column].error for key in keys], float) for column in columns}
    names, strong = tuple(name for _, name in keys), tuple(name for name, _ in keys)
    widths = tuple(width[name] for name in names)
    return SupervisorTable(names, strong, widths, values, errors, main, settings, notes, larger).sort_by(main)
