"""The tasks: molecules as SMILES with one measured property each, and which rows are the same molecule.

ESOL (solubility), FreeSolv (hydration free energy) and Lipop (octanol/water distribution) as ChemBench curates them from
MoleculeNet. They are read from `chembench/` in the folder that W2S_DATA names (columns smiles and y), or from ChemBench's
repository at one commit; either way a checksum of all rows says that they are the ones that the results are of.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import os
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from w2s_jax._core.checks import InputError, reason

ORIGIN = (
    "https://raw.githubusercontent.com/shenwanxiang/ChemBench/0b10d4c1ac72b6929503694a5f60446824736391/"
    "src/chembench/data_and_index/{name}/{name}.csv.gz"
)


class Source(NamedTuple):
    """A task's column of values in ChemBench, what they are, and the checksum of its rows."""

    column: str
    unit: str
    checksum: str


SOURCES = {
    "ESOL": Source(
        "measured log solubility in mols per litre",
        "log10 mol/L",
        "85ce1ea79ca67c1f6071d5c24cd739e1f0a772e9388797c9b9f1b44afb882e94",
    ),
    "FreeSolv": Source("expt", "kcal/mol", "ec47f824d4f67c8b55c36682e96422c50cc3662e38885cc7bff508ba8e0148e5"),
    "Lipop": Source("exp", "logD at pH 7.4", "b9ad0f995da7975456626dda9500dba7b56d51503f8237fecd2403a9f597c08f"),
}


class Molecules(NamedTuple):
    """A task's rows: canonical SMILES with and without stereo marks, values (n,), and the number (n,) of each row's molecule."""

    name: str
    smiles: list[str]
    flat: list[str]
    y: np.ndarray
    groups: np.ndarray


def load(name: str, cache: Path, canonical: Callable[[str, bool], str]) -> Molecules:
    """The rows of a task; `canonical(smiles, stereo)` writes the one SMILES of a molecule, with or without stereo marks.

    Rows without stereo marks that are equal are one molecule: the transformer cannot tell them apart either.

    Raises:
        InputError: they are nowhere to be read, or are others than those of the results.
    """
    given, y = _read(name, cache)
    found = checksum(given, y)
    if found != SOURCES[name].checksum:
        raise InputError(f"the rows of {name} must be those that the results are of, got others (sha256 {found})")
    flat = [canonical(smiles, False) for smiles in given]
    return Molecules(
        name, [canonical(smiles, True) for smiles in given], flat, y, np.unique(flat, return_inverse=True)[1]
    )


def checksum(smiles: Sequence[str], y: np.ndarray) -> str:
    """Of rows, whatever file they came from."""
    lines = (f"{text} {float(value)!r}\n" for text, value in zip(smiles, y, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _read(name: str, cache: Path) -> tuple[list[str], np.ndarray]:
    """SMILES and values out of a folder with the prepared file, or out of ChemBench's, which is kept in `cache`."""
    folder = os.environ.get("W2S_DATA")
    prepared = Path(folder, "chembench", f"{name.lower()}.csv.gz") if folder else None
    if prepared is not None and prepared.is_file():
        return parse(prepared, "y")
    kept = cache / f"{name}.csv.gz"
    if not kept.is_file():
        url = ORIGIN.format(name=name)
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                data = answer.read()
        except OSError as error:
            where = f"{prepared} is not there" if prepared else "W2S_DATA names no folder"
            raise InputError(f"cannot read {name}: {where}, and {url} cannot be read ({reason(error)})") from error
        kept.write_bytes(data)
    return parse(kept, SOURCES[name].column)


def parse(path: Path, column: str) -> tuple[list[str], np.ndarray]:
    """The column "smiles", stripped of blanks, and another one as numbers, of a compressed table."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        rows: list[dict[str, Any]] = list(csv.DictReader(stream))
    if not rows or not {"smiles", column} <= rows[0].keys():
        raise InputError(f"{path.name} must have columns smiles and {column}, got {', '.join(rows[0] if rows else [])}")
    return [row["smiles"].strip() for row in rows], np.array([float(row[column]) for row in rows])
