"""Which weak model should teach? Ranks weak representations as supervisors of a strong one, with or without labels.

Rows are streamed once per model into second moments per cell of rows (folds.py); scores come from those alone
(scores.py). Models of different width share compiled programs by zero-padded columns; those of more features than rows
have as many as rows (compact.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from w2s_jax._core.arrays import accumulation_dtype, host_zeros, matmul
from w2s_jax._core.checks import InputError, require_finite, require_number, warn_of_classes
from w2s_jax._core.progress import track
from w2s_jax.devices.mesh import BATCH, MODELS, ROWS, over_models, put, require_mesh, spread
from w2s_jax.devices.precision import resolved
from w2s_jax.files.ids import require_same_ids
from w2s_jax.moments import ModelMoments, Shift, Sums, Tree, add_compensated, block_sums
from w2s_jax.ranking.compact import CompactRows
from w2s_jax.ranking.crossfit import Score, Settings, WeakCells
from w2s_jax.ranking.folds import Layout, as_groups, lay_out
from w2s_jax.ranking.scores import Shared, prepare_strong, scorer
from w2s_jax.ranking.table import SupervisorTable
from w2s_jax.ranking.widths import padded_widths

GROUP_BYTES = 256 << 20  # of a group of weak models on each device
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
    prior: float = 2.0,
    noise: float = 1.0,
    folds: int = 3,
    normalize: bool = True,
    seed: int = 0,
    progress: bool | Callable[[Iterable], Iterable] = False,
    mesh: Mesh | None = None,
    precision: str = "float32",
) -> SupervisorTable:
    """Ranks weak models as supervisors of one or several strong models; the first row is the best teacher.

    Without labels the table is sorted by the expected experiment, with labels by the trial. Both are mean squared errors
    of the weak-to-strong student: the expected one in units of the labels' mean square, over labels that are random
    linear functions of the strong representation plus noise; the trial's in squared units of y, summed over outputs.

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
        prior: p of the label prior `theta ~ N(0, S_s^{p-1})`: 1 for any direction, 2 leans on the leading ones.
        noise: variance nu of the label noise, in units of the labels' mean square.
        folds: blocks of rows K >= 3 of the cross-fitting and of the standard errors.
        normalize: centre every representation and scale it to unit mean squared row norm, so that one ridge strength
            means the same for all, and give heads an intercept. With False they are used as they are.
        seed: of the random folds.
        progress: True for a progress bar, or a function that wraps an iterable.
        mesh: devices that share the work (see `device_mesh`): rows over one axis, weak models over the other.
        precision: of the products over rows, as in `moments`; solves and spectra are always at full precision.

    Returns:
        A table with columns `expected_error`, `expected_gap`, `gap_op`, `gap_fro` (`||P_s (I - P_w)||`), `cka`, and with labels
        `trial_error`, `predicted_gap`; each with its standard error over blocks of rows.

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
    if not isinstance(normalize, bool | np.bool_):
        raise InputError(f"normalize must be True or False, got {normalize!r}")
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed must be an integer of at least 0, got {seed!r}")
    weak_rows, strong_rows, n = _sources(weak, strong)
    targets, mask = _targets(y, labelled_rows, n, normalize)
    require_mesh(mesh)
    layout = lay_out(n, folds, mask if targets is not None else None, as_groups(groups, n), seed)
    devices = 1 if mesh is None else mesh.size
    if mesh is not None:
        layout = replace(layout, capacity=-(-layout.capacity // mesh.shape[ROWS]) * mesh.shape[ROWS])
    settings = Settings(*(np.asarray(value, _dtype(weak_rows, strong_rows)) for value in given.values()))
    precision = resolved(precision, None if mesh is None else mesh.devices.flat[0])
    widths = {name: rows.shape[1] for name, rows in weak_rows.items()}
    weak_rows, strong_rows = (
        {name: _compact(side, name, rows, settings, normalize) for name, rows in models.items()}
        for side, models in (("weak", weak_rows), ("strong", strong_rows))
    )
    work = _Work(layout, targets, settings, normalize, threshold > 0, mesh, precision)
    pairs: dict[tuple[str, str], dict[str, Score]] = {}
    tasks = [
        (name, group)
        for name in strong_rows
        for group in _grouped(weak_rows, strong_rows[name].shape[1], layout, devices)
    ]
    state: tuple[str, _Strong] | None = None
    started: list[tuple[str, list[str], Any]] = []  # the last group runs while the next one's rows are read
    for name, group in track(tasks, progress, "ranking"):
        if state is None or state[0] != name:
            state = name, _prepare(name, strong_rows[name], work)
        started.append((name, group.members, _start(state[1], weak_rows, group, work)))
        if len(started) > 1:
            pairs |= _finish(*started.pop(0))
    pairs |= _finish(*started.pop())
    chosen = {
        **given,
        "folds": folds,
        "normalize": normalize,
        "seed": seed,
        "rows": n,
        "n_labelled": int(mask.sum()),
    }
    return _table(pairs, widths, chosen)


class _Work(NamedTuple):
    """What all pairs share: the rows' layout, labels (n, c), settings, static choices, devices, the products' precision."""

    layout: Layout
    targets: np.ndarray | None
    settings: Settings
    normalize: bool
    cut: bool
    mesh: Mesh | None
    precision: str


class _Group(NamedTuple):
    """Weak models that run as one program: the width they are padded to, how many the program takes, and their names."""

    width: int
    size: int
    members: list[str]


class _Strong(NamedTuple):
    """A strong model ready to meet weak ones; its rows enter as `(h - center) @ rotation`, cached if they are one block:
    transposed (cells, d_s, rows), as a CPU multiplies them up to twice as fast."""

    rows: Any
    center: Array
    shared: Shared
    cached: list[Array]


def _prepare(name: str, rows: Any, work: _Work) -> _Strong:
    dtype = work.settings.noise.dtype
    shift: Shift | None = None

    def sums_of_blocks() -> Iterator[Sums]:
        nonlocal shift
        for block, first, y, weight, _ in _blocks({name: rows}, work, "strong representation"):
            shift = Shift(first[0]) if shift is None else shift
            yield cell_sums(block[0], y, weight, shift)

    cell_sums = _summed(_cell_sums, work, (_BY_CELL,) * 3 + (P(),), P())
    sums = _total(sums_of_blocks())
    if work.mesh is not None:
        sums = jax.device_put(sums, work.mesh.devices.flat[0])  # one device prepares what all share
    experiments = work.layout.experiments(dtype)
    largest = (work.layout.expected.test @ np.bincount(work.layout.cell)).max()
    test_rows = min(int(largest), rows.shape[1])
    choices = work.layout.folds, work.normalize, work.cut, test_rows
    center, shared = prepare_strong(ModelMoments(sums, shift), experiments, work.settings, *choices)
    largest_value = np.asarray(shared.values)[0]
    if not np.isfinite(largest_value):
        raise InputError(f"strong representation {name!r} is too large: its squares overflow {dtype}")
    if not largest_value > 0:
        raise InputError(f"strong representation {name!r} is constant, expected rows that differ")
    if work.mesh is not None:
        center, shared = put((center, shared), work.mesh, P())
    return _Strong(rows, center, shared, [])


def _start(strong: _Strong, weak: Mapping[str, Any], group: _Group, work: _Work) -> tuple[Array, dict]:
    """The sizes and scores of a group of weak models, which the device may still be computing."""
    chosen = {name: weak[name] for name in group.members}
    size = group.size if work.mesh is None else -(-group.size // work.mesh.shape[MODELS]) * work.mesh.shape[MODELS]
    shift: Any = None

    def sums_of_blocks() -> Iterator[WeakCells]:
        nonlocal shift
        for block, first, y, weight, place in _blocks(chosen, work, "weak representation", group.width, size):
            shift = first if shift is None else shift
            yield weak_sums(block, _rotated(strong, work, place), y, weight, shift)

    by_model = (P(MODELS, *_BY_CELL), P(None, None, ROWS), _BY_CELL, _BY_CELL, P(MODELS))
    weak_sums = _summed(_weak_sums, work, by_model, P(MODELS))
    sums = _total(sums_of_blocks())
    score = scorer(work.layout.folds, work.normalize, work.cut)
    score = score if work.mesh is None else spread(score, work.mesh)
    return score(sums, strong.shared, work.layout.experiments(work.settings.noise.dtype), work.settings)


def _finish(strong: str, members: list[str], group: tuple[Array, dict]) -> dict[tuple[str, str], dict[str, Score]]:
    """A started group's scores by pair, once they are there."""
    sizes, scores = jax.device_get(group)
    for name, size in zip(members, sizes, strict=False):  # behind them copies of the last, to fill up the group
        if not np.isfinite(size):
            raise InputError(f"weak representation {name!r} is too large: its squares overflow {sizes.dtype}")
        if not size > 0:
            raise InputError(f"weak representation {name!r} is constant, expected rows that differ")
    of_member = lambda i: {key: Score(score.value[i], score.error[i]) for key, score in scores.items()}
    return {(strong, name): of_member(i) for i, name in enumerate(members)}


def _total(parts: Iterable[Tree]) -> Tree:
    """Compensated sum of at least one pytree."""
    parts = iter(parts)
    total, lost = next(parts), None
    for part in parts:
        total, lost = _add(total, jax.tree.map(jnp.zeros_like, total) if lost is None else lost, part)
    return total


_add = jax.jit(add_compensated, donate_argnums=(0, 1))


@partial(jax.jit, static_argnames="precision")
def _cell_sums(h: Array, y: Array | None, weights: Array, shift: Shift, precision: str) -> Sums:
    return jax.vmap(lambda *rows: block_sums(*rows, shift=shift, precision=precision))(h, y, weights)


@partial(jax.jit, static_argnames="precision")
def _weak_sums(blocks: Array, zT: Array, y: Array | None, weights: Array, shifts: Array, precision: str) -> WeakCells:
    """Sums per model and cell; the strong side's own products are not computed again."""

    def one(args: tuple[Array, Array]) -> WeakCells:
        block, shift = args
        own = _cell_sums(block, y, weights, Shift(shift), precision)
        return WeakCells(own, matmul(zT, (block - shift) * weights[..., None], precision))

    return over_models(one, (blocks, shifts))


def _summed(function: Callable, work: _Work, specs: tuple, out: P) -> Callable:
    """A function of rows at the products' precision, over the devices if there are several."""
    if work.mesh is None:
        return partial(function, precision=work.precision)
    return _over_rows(function, work.mesh, specs, out, work.precision)


@lru_cache
def _over_rows(function: Callable, mesh: Mesh, specs: tuple, out: P, precision: str) -> Callable:
    """A function of rows that each device calls with its own; the sums of a block meet in one all-reduce."""

    def local(*rows: Any) -> Any:
        return jax.lax.psum(function(*rows, precision=precision), ROWS)

    return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False))


@jax.jit
def _rotate(block: Array, center: Array, rotation: Array) -> Array:
    return jnp.swapaxes(matmul(block.astype(rotation.dtype) - center, rotation), 1, 2)


def _rotated(strong: _Strong, work: _Work, place: tuple) -> Array:
    """A block of strong rows in the eigenbasis; kept if all rows are one block."""
    if strong.cached:
        return strong.cached[0]
    start, stop, index = place
    block = jnp.asarray(_as_floats(np.asarray(strong.rows[start:stop])[index], work.settings.noise.dtype))
    block = block if work.mesh is None else put(block, work.mesh, _BY_CELL)
    zT = _rotate(block, strong.center, strong.shared.rotation)
    if stop - start == len(work.layout.cell):
        strong.cached.append(zT)
    return zT


def _blocks(
    rows: Mapping[str, Any], work: _Work, kind: str, width: int | None = None, size: int = 1
) -> Iterator[tuple]:
    """Blocks of rows in cell order, features (models, cells, rows, width), and what their sums are about (models, width).

    There are `size` models: those given, and copies of the last.
    """
    dtype = work.settings.noise.dtype
    mixed = len({source.dtype for source in rows.values()}) > 1
    for start, stop, index, weight in work.layout.blocks():
        stacked: Any = None
        for i, (name, source) in enumerate(rows.items()):
            block = np.asarray(source[start:stop])
            require_finite(f"the values of {kind} {name!r}", block, start)
            block = block.astype(dtype) if mixed else _as_floats(block, dtype)
            if stacked is None:
                stacked = host_zeros((size, *index.shape, width or block.shape[1]), block.dtype)
            stacked[i, ..., : block.shape[1]] = block[index]
        stacked[len(rows) :] = stacked[len(rows) - 1]
        first = stacked[:, 0, 0].astype(dtype) * work.normalize
        y = None if work.targets is None else np.asarray(work.targets[start:stop][index], dtype)
        block = jax.device_put(stacked)
        place = start, stop, index
        yield block.astype(accumulation_dtype(block.dtype)), first, y, np.asarray(weight, dtype), place


def _as_floats(block: np.ndarray, dtype: Any) -> np.ndarray:
    """Floating numbers as they are, others in the dtype of sums: JAX would narrow 64-bit integers."""
    return block if jnp.issubdtype(block.dtype, jnp.floating) else block.astype(dtype)


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
    if isinstance(rows, jax.Array) or not (hasattr(rows, "shape") and hasattr(rows, "dtype")):
        try:
            rows = np.asarray(rows)
        except ValueError as error:
            raise InputError(f"{name} must be a 2-D array, got rows of different lengths") from error
    if len(rows.shape) != 2 or 0 in rows.shape:
        raise InputError(f"{name} must be 2-D (rows, features) and not empty, got shape {tuple(rows.shape)}")
    if not (jnp.issubdtype(rows.dtype, jnp.floating) or jnp.issubdtype(rows.dtype, jnp.integer) or rows.dtype == bool):
        raise InputError(f"{name} must hold real numbers, got {rows.dtype}")
    return rows


def _compact(side: str, name: str, rows: Any, settings: Settings, normalize: bool) -> Any:
    """The rows, in fewer features if there are more than rows; those of a strong model are read twice."""
    if rows.shape[1] <= rows.shape[0]:
        return rows
    label = f"{side} representation {name!r}"
    return CompactRows(rows, label, settings.noise.dtype, bias=normalize, keep=side == "strong")


def _targets(y: Any, labelled_rows: Any, n: int, center: bool) -> tuple[np.ndarray | None, np.ndarray]:
    """Labels (n, c) with 0 where there are none, and which rows have one; about their mean if heads have an intercept, which
    keeps the digits that a large mean would cost."""
    if y is None:
        if labelled_rows is not None:
            raise InputError("labelled_rows says which rows of y may be used and needs y, got y=None")
        return None, np.zeros(n, bool)
    try:
        y = np.asarray(y, float)
    except (TypeError, ValueError) as error:
        raise InputError(f"y must be numbers (classes as one-hot or +-1 targets), got {type(y).__name__}") from error
    if y.ndim not in (1, 2) or y.shape[0] != n or 0 in y.shape:
        raise InputError(f"y must have shape ({n},) or ({n}, outputs), got {y.shape}")
    warn_of_classes("labels y", y)
    y = y.reshape(n, -1)
    mask = ~np.isnan(y).any(1)
    if labelled_rows is not None:
        chosen = np.asarray(labelled_rows)
        if chosen.shape != (n,) or chosen.dtype != bool:
            raise InputError(
                f"labelled_rows must be a boolean array of shape ({n},), got {chosen.dtype} {chosen.shape}"
            )
        if (chosen & ~mask).any():
            raise InputError(f"labelled_rows must have labels, got NaN in row {int(np.argmax(chosen & ~mask))}")
        mask = chosen
    if not mask.any():
        raise InputError("y must have at least one labelled row, got none")
    y = np.where(mask[:, None], y, 0)
    require_finite("labels y", y)
    if not y.any():
        raise InputError("y must not be zero in every labelled row")
    return np.where(mask[:, None], y - y[mask].mean(0), 0) if center else y, mask


def _dtype(*models: Mapping[str, Any]) -> Any:
    """Everything is accumulated in float32 unless some representation is float64 and x64 is on."""
    wide = any(rows.dtype == np.float64 for side in models for rows in side.values())
    return jnp.float64 if wide and jnp.result_type(float) == jnp.float64 else jnp.float32


def _grouped(weak: Mapping[str, Any], d_s: int, layout: Layout, devices: int) -> Iterator[_Group]:
    """Weak models in groups of one padded width, within the memory for a group; all groups are of one size, so that the number
    of models changes no program. A CPU takes one at a time, on each of its devices."""
    widths = {name: rows.shape[1] for name, rows in weak.items()}
    padded = padded_widths(list(widths.values()), d_s, len(layout.cell), layout.cells)
    size = devices
    if jax.default_backend() != "cpu":
        width = max(padded.values())
        entries = layout.cells * (layout.capacity * width + 3 * width * (width + d_s))
        size = devices * min(BATCH, len(widths), max(1, GROUP_BYTES // (4 * entries)))
    for width in sorted(set(padded.values())):
        names = [name for name in widths if padded[widths[name]] == width]
        yield from (_Group(width, size, names[i : i + size]) for i in range(0, len(names), size))


def _table(pairs: dict, width: Mapping[str, int], settings: dict) -> SupervisorTable:
    keys = list(pairs)
    columns = list(pairs[keys[0]])
    values = {column: np.array([pairs[key][column].value for key in keys], float) for column in columns}
    errors = {column: np.array([pairs[key][column].error for key in keys], float) for column in columns}
    names, strong = tuple(name for _, name in keys), tuple(name for name, _ in keys)
    widths = tuple(width[name] for name in names)
    main = "trial_error" if "trial_error" in columns else "expected_error"
    return SupervisorTable(names, strong, widths, values, errors, main, settings).sort_by(main)
