"""Every representation of a task's molecules, made once: a run that was stopped goes on behind the last one that is there.

They lie in a folder that is named after a checksum of the SMILES; other molecules get another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.experiments.molecules.rows import Molecules
from w2s_jax._core.writing import replacing
from w2s_jax.extract import LanguageModel, extract_model

Maker = Callable[[Sequence[str]], np.ndarray]
TRANSFORMER = "rxnmapper"


def representations(
    task: Molecules,
    folder: Path,
    plain: Mapping[str, Maker],
    stereo: Mapping[str, Maker],
    transformer: Callable[[], LanguageModel],
) -> dict[str, np.ndarray]:
    """All representations (n, d) by name: of `plain` makers and the transformer's layers from SMILES without stereo marks,
    of `stereo` makers from those with them.
    """
    name = hashlib.sha256("\n".join(task.smiles).encode()).hexdigest()[:8]
    place = folder / f"{task.name}-{name}"
    place.mkdir(parents=True, exist_ok=True)
    found = {name: _made(_file(place, name), maker, task.flat) for name, maker in plain.items()}
    found |= {name: _made(_file(place, name), maker, task.smiles) for name, maker in stereo.items()}
    layers = extract_model(transformer(), task.flat, place)
    return found | {f"{TRANSFORMER}:{layer}": np.asarray(rows[:]) for layer, rows in layers.items()}


def _file(place: Path, name: str) -> Path:
    return place / f"{name.replace(':', '_')}.npy"


def _made(file: Path, maker: Maker, smiles: Sequence[str]) -> np.ndarray:
    if not file.is_file():
        with replacing(file) as temporary:
            np.save(temporary, maker(smiles))
    return np.load(file)


def stray_rows(rows: np.ndarray, times: float = 1e3) -> dict[int, int]:
    """Rows that some feature alone sets apart, and which: so many times the other rows' standard deviation away from them.

    A feature that is the same for all other rows does not count: where such a row is not among those that a head is trained
    on, the feature is dead there.

    >>> rows = np.random.default_rng(0).standard_normal((100, 8))
    >>> rows[:, 5] *= 1e-9
    >>> rows[7, 5] = 1e-4
    >>> stray_rows(rows)
    {7: 5}
    """
    found: dict[int, int] = {}
    for feature, values in enumerate(rows.T.astype(np.float64)):
        row = int(np.argmax(np.abs(values - values.mean())))
        others = np.delete(values, row)
        if others.std() > 0 and abs(values[row] - others.mean()) > times * others.std():
            found.setdefault(row, feature)
    return found
