"""What a chemist has without a network: fingerprints, descriptors (rdkit), and n-grams of SMILES (nothing needed).

All are counts or plain numbers (n, d). An n-gram goes to the column that a checksum names, so that columns mean the same for
all molecules; with fewer columns more n-grams share one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.experiments.molecules.transformer import TOKEN
from w2s_jax._core.checks import InputError

Maker = Callable[[Sequence[str]], np.ndarray]
FEW_DESCRIPTORS = (
    "MolWt",
    "MolLogP",
    "TPSA",
    "NumHDonors",
    "NumHAcceptors",
    "NumRotatableBonds",
    "RingCount",
    "FractionCSP3",
    "HeavyAtomCount",
    "NumAromaticRings",
)


def makers() -> dict[str, Maker]:
    """All teachers that are no network, by name; what stands before the colon is their family."""
    found: dict[str, Maker] = {}
    for order in (1, 2, 3):
        for size in (128, 512) if order > 1 else (128,):
            found[f"ngrams:{order}-{size}"] = partial(ngrams, order=order, size=size)
    for radius in (1, 2, 3):
        for size in (256, 512, 1024, 2048):
            found[f"morgan:{radius}-{size}"] = partial(fingerprint, kind="Morgan", size=size, radius=radius)
    for kind in ("AtomPair", "TopologicalTorsion", "RDKitFP"):
        found[f"{kind.lower()}:1024"] = partial(fingerprint, kind=kind, size=1024)
    found["maccs:167"] = maccs
    found["descriptors:few"] = partial(descriptors, names=FEW_DESCRIPTORS)
    found["descriptors:all"] = descriptors
    return found


def chemistry() -> Any:
    """rdkit's Chem.

    Raises:
        InputError: it is not installed.
    """
    try:
        from rdkit import Chem, RDLogger  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError("the experiment on molecules needs the rdkit package: pip install rdkit") from error
    RDLogger.DisableLog("rdApp.warning")  # pyright: ignore[reportAttributeAccessIssue]
    return Chem


def canonical(smiles: str, stereo: bool) -> str:
    """The one SMILES that rdkit writes for a molecule."""
    chem = chemistry()
    return chem.MolToSmiles(chem.MolFromSmiles(smiles), isomericSmiles=stereo)


def ngrams(smiles: Sequence[str], order: int, size: int) -> np.ndarray:
    """Counts (n, size) of runs of 1 to `order` tokens."""
    counts = np.zeros((len(smiles), size), np.float32)
    for row, text in enumerate(smiles):
        tokens = TOKEN.findall(text)
        for length in range(1, order + 1):
            for start in range(len(tokens) - length + 1):
                counts[row, zlib.crc32(" ".join(tokens[start : start + length]).encode()) % size] += 1
    return counts


def fingerprint(smiles: Sequence[str], kind: str, size: int, **options: Any) -> np.ndarray:
    """Counts (n, size) of hashed substructures, by one of rdkit's generators."""
    chem = chemistry()
    from rdkit.Chem import rdFingerprintGenerator  # pyright: ignore[reportMissingImports]

    generator = getattr(rdFingerprintGenerator, f"Get{kind}Generator")(fpSize=size, **options)
    found = [generator.GetCountFingerprintAsNumPy(chem.MolFromSmiles(text)) for text in smiles]
    return np.stack(found).astype(np.float32)


def maccs(smiles: Sequence[str]) -> np.ndarray:
    """The 167 MACCS keys (n, 167): whether a substructure is there."""
    chem = chemistry()
    from rdkit.Chem import MACCSkeys  # pyright: ignore[reportMissingImports]

    keys = [MACCSkeys.GenMACCSKeys(chem.MolFromSmiles(text)) for text in smiles]  # pyright: ignore
    return np.array([list(key) for key in keys], np.float32)


def descriptors(smiles: Sequence[str], names: Sequence[str] | None = None) -> np.ndarray:
    """rdkit's descriptors (n, d); of all of them those that are finite, and not astronomical, for every molecule."""
    chem = chemistry()
    from rdkit.Chem import Descriptors  # pyright: ignore[reportMissingImports]

    functions = dict(Descriptors.descList)
    chosen = [functions[name] for name in names or functions if name != "Ipc"]  # Ipc grows as a factorial
    rows = np.array([[function(mol) for function in chosen] for mol in map(chem.MolFromSmiles, smiles)], np.float64)
    return rows[:, np.isfinite(rows).all(0)].astype(np.float32)
