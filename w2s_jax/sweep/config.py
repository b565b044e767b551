"""What a sweep is made of: the models, label sets and grid, read from TOML or given as a mapping, checked on the way in.

Relative paths are relative to the configuration file. Everything wrong with a configuration is one sentence.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from w2s_jax._core.checks import InputError, require_choice, require_integer, require_range
from w2s_jax._core.normalize import Normalize, RowNorm
from w2s_jax.files.paths import matching, short_name
from w2s_jax.predictors import PREDICTORS, Predictor
from w2s_jax.predictors.predictor import one_of_each
from w2s_jax.sweep.store import COLUMNS

KEYS = (
    *("output", "weak", "strong", "labels", "unlabelled", "groups", "normalize", "rows", "memory"),
    *("threshold", "weak_threshold", "strong_threshold", "weak_ridge", "strong_ridge"),
    *("folds", "seed", "prior", "noise", "precision", "predictors"),
)


class Setting(NamedTuple):
    """One point of the grid: relative eigenvalue cuts and ridge strengths of the two heads.

    >>> Setting(0.0, 0.0, weak_ridge=1e-3, strong_ridge=1e-2).strong_ridge
    0.01
    """

    weak_threshold: float
    strong_threshold: float
    weak_ridge: float
    strong_ridge: float


@dataclass(frozen=True)
class SweepConfig:
    """A checked sweep. `weak`, `strong`: model name -> file; `labels`: label set -> file; `grid`: all settings.

    `unlabelled`: the label of rows that have none, beside NaN; `groups`: file of row groups that stay in one fold; `normalize`,
    `rows`: as in `rank_supervisors`; `folds`: 0, or blocks of rows for the cross-fitted columns, drawn with `seed`, for label
    prior `prior` and noise `noise`; `memory`: MiB for the sums or kernels of a group of pairs; `precision`: of the products of
    features, as in `moments`; `predictors`: further columns.

    >>> table = {"output": "results", "weak": {"a": "a.npy"}, "strong": {"b": "b.npy"}}
    >>> config = sweep_config(table | {"threshold": [0.0, 0.1]})
    >>> list(config.models), len(config.grid), config.lowest_thresholds
    (['a', 'b'], 2, (0.0, 0.0))
    """

    output: Path
    weak: Mapping[str, str]
    strong: Mapping[str, str]
    labels: Mapping[str, str]
    unlabelled: float | str | None
    grid: tuple[Setting, ...]
    groups: str | None
    normalize: Normalize
    rows: RowNorm
    folds: int
    seed: int
    prior: float
    noise: float
    memory: float
    precision: str
    predictors: tuple[Predictor, ...] = ()

    @property
    def models(self) -> dict[str, str]:
        """All models, weak ones first; a model that is both appears once."""
        return {**self.weak, **self.strong}

    @property
    def lowest_thresholds(self) -> tuple[float, float]:
        """The least cut of strong and of weak models."""
        return min(s.strong_threshold for s in self.grid), min(s.weak_threshold for s in self.grid)


def read_config(path: str | os.PathLike) -> SweepConfig:
    """A sweep from a TOML file.

    Raises:
        InputError: the file cannot be read or is not TOML, or see `sweep_config`.

    >>> import tempfile
    >>> lines = 'output = "results"', 'weak = {a = "a.npy"}', 'strong = {b = "b.npy"}', "folds = 3"
    >>> with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
    ...     print(*lines, sep=os.linesep, file=file, flush=True)
    ...     read_config(file.name).folds
    3
    """
    return sweep_config(read_toml(path), Path(path).parent)


def read_toml(path: str | os.PathLike) -> dict[str, Any]:
    """The tables of a TOML file; raises InputError if there is none."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))  # also with a mark in front
    except OSError as error:
        raise InputError(f"cannot read {os.fspath(path)}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {os.fspath(path)}: it is not TOML ({error})") from error


def sweep_config(table: Mapping[str, Any], folder: str | os.PathLike = ".") -> SweepConfig:
    """A sweep from a mapping with the keys of the configuration file.

    Args:
        table: `output` (folder), `weak` and `strong` (file or glob, list of them, or name -> file), and optionally `labels`
            (name -> file), `unlabelled`, `groups` (file), `threshold` or `weak_threshold` and `strong_threshold`, `weak_ridge`,
            `strong_ridge` (numbers or lists of them, all combinations), `normalize`, `rows`, `folds`, `seed`, `prior`,
            `noise`, `memory`, `precision`, `predictors` (names of `w2s_jax.predictors.PREDICTORS`, or Predictors of one's own).
        folder: what relative paths are relative to.

    Raises:
        InputError: an unknown or missing key, a wrong type or range, a pattern without files, names that are not unique, a
            predictor that reads rows, or that needs labels where there are none.

    >>> table = {"output": "results", "weak": {"a": "a.npy"}, "strong": {"b": "b.npy"}}
    >>> config = sweep_config(table | {"weak_ridge": [0.1, 1]})
    >>> [setting.weak_ridge for setting in config.grid], config.folds
    ([0.1, 1.0], 0)
    """
    unknown = [key for key in table if key not in KEYS]
    if unknown:
        raise InputError(f"a sweep has no key {unknown[0]!r}, only {', '.join(KEYS)}")
    for key in ("output", "weak", "strong"):
        if key not in table:
            raise InputError(f"a sweep needs {key}, got {', '.join(table) or 'nothing'}")
    folder = Path(folder)
    _place("output", table["output"], folder)
    output = folder / Path(table["output"]).expanduser()
    weak, strong = (_models(key, table[key], folder, output) for key in ("weak", "strong"))
    for name in weak.keys() & strong.keys():
        if weak[name] != strong[name]:
            raise InputError(f"a name must mean one model, got {name!r} for {weak[name]} and for {strong[name]}")
    groups, folds, seed = table.get("groups"), table.get("folds", 0), table.get("seed", 0)
    normalize, rows = table.get("normalize", "features"), table.get("rows", "given")
    require_choice("normalize", normalize, Normalize)
    require_choice("rows", rows, RowNorm)
    require_integer("folds", folds, 0)
    require_integer("seed", seed, 0)
    labels = _named_files("labels", table.get("labels") or {}, folder)
    return SweepConfig(
        output=output,
        weak=weak,
        strong=strong,
        labels=labels,
        unlabelled=_label(table.get("unlabelled")),
        grid=_grid(table),
        groups=None if groups is None else _place("groups", groups, folder),
        normalize=normalize,
        rows=rows,
        folds=int(folds),
        seed=int(seed),
        prior=_number("prior", table.get("prior", 1.0)),
        noise=_number("noise", table.get("noise", 1.0)),
        memory=_number("memory", table.get("memory", 256.0)),
        precision=_text("precision", table.get("precision", "float32"), "a name"),
        predictors=_predictors(table.get("predictors", ()), bool(labels)),
    )


def _predictors(given: Any, labels: bool) -> tuple[Predictor, ...]:
    """The further columns."""
    asked = one_of_each(given, PREDICTORS, COLUMNS, [name for name, of in PREDICTORS.items() if of.reads == "moments"])
    for of in asked:
        if of.reads != "moments":
            raise InputError(
                f"predictors of a sweep read moments, got {of.name!r}, which reads rows: ask rank_supervisors"
            )
        if of.needs == "labels" and not labels:
            raise InputError(f"predictors that need labels need a label set, got {of.name!r} and no labels")
    return asked


def _grid(table: Mapping[str, Any]) -> tuple[Setting, ...]:
    """All combinations; one `threshold` moves both cuts together."""
    sides = [key for key in ("weak_threshold", "strong_threshold") if key in table]
    if "threshold" in table and sides:
        raise InputError(f"a sweep has either threshold or {sides[0]}, got both")
    if sides:
        weak, strong = (_numbers(f"{side}_threshold", table, 0.0, 1.0) for side in ("weak", "strong"))
        cuts = list(itertools.product(weak, strong))
    else:
        cuts = [(cut, cut) for cut in _numbers("threshold", table, 0.0, 1.0)]
    weak, strong = (_numbers(key, table, 1e-3, None) for key in ("weak_ridge", "strong_ridge"))
    return tuple(Setting(*cut, b_w, b_s) for cut, b_w, b_s in itertools.product(cuts, weak, strong))


def _numbers(key: str, table: Mapping[str, Any], default: float, high: float | None) -> list[float]:
    given: Any = table.get(key, default)
    given = given.tolist() if isinstance(given, np.ndarray) else given
    values: list[Any] = list(given) if isinstance(given, list | tuple) else [given]
    if not values:
        raise InputError(f"{key} must hold at least one number, got none")
    numbers = [_number(key, value) for value in values]
    require_range(key, np.array(numbers), 0, high)
    if len(set(numbers)) < len(numbers):
        raise InputError(f"{key} must hold numbers that differ, got {numbers}")
    return numbers


def _number(key: str, value: Any) -> float:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{key} must be a number, got {value!r}")
    if not 0 <= value <= sys.float_info.max:
        raise InputError(f"{key} must be finite and at least 0, got {value}")
    return float(value)


def _label(value: Any) -> float | str | None:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool) or not isinstance(value, int | float | str | None):
        raise InputError(f"unlabelled must be a number or text, got {value!r}")
    return float(value) if isinstance(value, int) else value


def _text(key: str, value: Any, what: str = "a path") -> str:
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise InputError(f"{key} must be {what}, got {value!r}")
    return os.fspath(value)


def _place(key: str, value: Any, folder: Path) -> str:
    """One spelling for a path, however it was given: what is kept of a file is found by it."""
    path = os.path.abspath(folder / Path(_text(key, value)).expanduser())
    if "\0" in path or path.encode(errors="replace").decode() != path:
        raise InputError(f"{key} must be a path in UTF-8, got {value!r}")
    return path


def _models(key: str, given: Any, folder: Path, output: Path) -> dict[str, str]:
    """Name -> file; entries are files, or globs that stand for as many models as they match."""
    if isinstance(given, Mapping):
        models = _named_files(key, given, folder)
    else:
        given = [given] if isinstance(given, str | os.PathLike) else given
        if not isinstance(given, list | tuple):
            raise InputError(f"{key} must be a file, a list of files or a table of name = file, got {given!r}")
        models = {}
        for path in (path for entry in given for path in _expanded(key, _place(key, entry, folder), output)):
            name = short_name(path)
            if models.get(name, path) != path:
                raise InputError(
                    f"names of {key} models must be unique, got {name!r} for {models[name]} and {path}: give a table of "
                    "name = file"
                )
            models[name] = path
    if not models:
        raise InputError(f"{key} must hold at least one model, got none")
    return models


def _expanded(key: str, path: str, output: Path) -> list[str]:
    """The files of a path, or of a pattern those that the sweep does not write itself."""
    place = os.path.abspath(output)
    written = re.compile(rf"{re.escape(place)}(/(moments|sweep\.[^/]*)(/.*)?)?")
    found = [_place(key, file, Path()) for file in matching(path)]
    found = [file for file in found if file == path or not written.fullmatch(file)]
    if not found:
        raise InputError(f"no file matches {path} of {key}")
    return found


def _named_files(key: str, given: Any, folder: Path) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise InputError(f"{key} must be a table of name = file, got {given!r}")
    if len(set(map(str, given))) < len(given):
        raise InputError(f"{key} must have names that differ as text, got {list(given)}")
    return {str(name): _place(f"{key}.{name}", path, folder) for name, path in given.items()}
