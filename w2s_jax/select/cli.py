"""`w2s select`: which weakly labelled rows the student should see, from files."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from w2s_jax._core.checks import InputError, require_finite, require_no_marks
from w2s_jax._core.commands import UNLABELLED_HELP, number_or_text, require_writable
from w2s_jax._core.normalize import Normalize

ScoreName = Literal["rads", "rads-mlp", "overlap", "confidence", "agreement"]
SUFFIXES = (".npy", ".txt", ".csv")
_OF_PROBABILITIES = ("overlap", "confidence")
_NEEDS = {"rads": ("weak", "strong"), "rads-mlp": ("weak", "strong"), "overlap": ("strong",), "agreement": ("strong",)}


def add_select(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to the parser's commands."""
    select = commands.add_parser("select", help="choose the weakly labelled rows that a student should see")
    select.set_defaults(run=run)
    add = select.add_argument
    add("--strong", metavar="FILE", help="strong representation (n, d), in any form that w2s rank reads")
    add("--weak", metavar="FILE", help="weak representation of the same rows, for rads and rads-mlp")
    add(
        "--weak-labels",
        required=True,
        metavar="FILE",
        help="weak labels: classes, text or one-hot, or probabilities of the second class (n,) or of all (n, classes); NaN rows "
        "are left out",
    )
    add("--unlabelled", metavar="LABEL", help=UNLABELLED_HELP)
    add("--groups", metavar="FILE", help="group of each row (n,): related rows stay in one fold of rads-mlp")
    add("--score", choices=get_args(ScoreName), required=True, help="what rows are chosen by")
    add("--ridge", type=float, default=0.1, metavar="R", help="of rads, over the kernel's mean eigenvalue")
    add("--neighbours", type=int, default=10, metavar="K", help="of agreement (default: %(default)s)")
    add("--normalize", choices=get_args(Normalize), default="none", help="of representations (default: %(default)s)")
    add(
        "--keep",
        type=_share_or_number,
        default=0.5,
        metavar="N",
        help="a share below 1, or a number of rows (default: %(default)s)",
    )
    add("--balanced", action="store_true", help="the same share of each weak class")
    add("--seed", type=int, default=0, help="of rads-mlp")
    add("--out", required=True, metavar="FILE", help=f"the chosen rows' numbers, best first: {', '.join(SUFFIXES)}")
    return select


def _share_or_number(text: str) -> float | int:
    """What `select_rows` takes: 1 is one row, and 1.0 no share."""
    try:
        return float(text) if "." in text or "e" in text.lower() else int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a share below 1 or a number of rows, got {text!r}") from error


class _Given(NamedTuple):
    """What was read: which rows have a weak label (n,), and of those labels, classes, representations by side, groups; names of
    the classes of text labels, and what is to be said of how files were understood."""

    there: np.ndarray
    labels: np.ndarray
    classes: np.ndarray
    sides: dict[str, np.ndarray]
    groups: np.ndarray | None
    names: tuple[str, ...]
    notes: list[str]


def run(args: argparse.Namespace) -> None:
    """Selects; raises InputError with one sentence."""
    if Path(args.out).suffix.lower() not in SUFFIXES:
        raise InputError(f"--out must end in {', '.join(SUFFIXES)}, got {args.out}")
    require_writable(args.out)
    given = _given(args)
    from w2s_jax.devices.programs import cache_compiled_programs
    from w2s_jax.select.selection import select_rows

    cache_compiled_programs()
    scores = np.full(len(given.there), np.nan)
    scores[given.there] = _scores(args, given)
    names = np.array(given.names)[given.classes] if given.names else given.classes
    classes = np.zeros(len(given.there), names.dtype)
    classes[given.there] = names
    chosen = select_rows(scores, args.keep, classes=classes, balanced=args.balanced)
    _write(args.out, chosen.rows, scores)
    print(*given.notes, f"{args.score}: {chosen}", sep="\n")


def _given(args: argparse.Namespace) -> _Given:
    from w2s_jax.files.ids import require_same_ids
    from w2s_jax.files.opening import notes_of, open_rows, read_groups, read_labels_and_classes

    needed = _NEEDS.get(args.score, ())
    missing = [side for side in needed if getattr(args, side) is None]
    if missing:
        raise InputError(f"--score {args.score} needs --{' and --'.join(missing)}")
    labels, names = read_labels_and_classes(args.weak_labels, "weak labels", unlabelled=number_or_text(args.unlabelled))
    sides = {side: open_rows(str(getattr(args, side)), f"{side} representation") for side in needed}
    carriers = sides | {"weak labels": open_rows(args.weak_labels, "weak labels", kind="labels")}
    groups = None
    if args.groups is not None:
        groups, carriers["groups"] = read_groups(args.groups), open_rows(args.groups, "groups", kind="groups")
    require_same_ids({rows.label: rows for rows in carriers.values()})
    n = len(labels)
    for rows in carriers.values():
        if len(rows) != n:
            raise InputError(f"{rows.label} must have {n} rows like the weak labels, got {len(rows)}")
    there = np.asarray(~np.isnan(labels.reshape(n, -1)).any(1))
    if not there.any():
        raise InputError("weak labels must have at least one labelled row, got none")
    _require_labels_for(args.score, labels[there])
    return _Given(
        there,
        labels[there],
        weak_classes(labels[there]),
        {side: _read(rows)[there] for side, rows in sides.items()},
        None if groups is None else groups[there],
        names,
        notes_of(sides.values(), {"the weak labels": names}),
    )


def _require_labels_for(score: str, labels: np.ndarray) -> None:
    """Raises InputError if labels without NaN, (n,) or (n, c), hold a mark of no label or are nothing that the score can tell."""
    require_no_marks("weak labels", labels.reshape(len(labels), -1), "make it NaN, as --unlabelled of w2s select does")
    if score in _OF_PROBABILITIES and np.array_equal(labels, np.round(labels)):
        raise InputError(
            f"--score {score} needs weak labels that are probabilities, got classes: none is surer than another"
        )


def weak_classes(labels: np.ndarray) -> np.ndarray:
    """The weak class (n,) of labels without NaN: the largest of outputs (n, c), whether a probability is above 1/2, an integer.

    Raises:
        InputError: numbers that are neither probabilities nor integers.

    >>> weak_classes(np.array([0.2, 0.9])), weak_classes(np.array([[0.2, 0.8], [0.6, 0.4]])), weak_classes(np.array([-1, 1]))
    (array([0, 1]), array([1, 0]), array([-1,  1]))
    """
    if labels.ndim == 2 and labels.shape[1] > 1:
        return labels.argmax(1)
    labels = labels.reshape(-1)
    if np.array_equal(labels, np.round(labels)):
        return labels.astype(int)
    if labels.min() < 0 or labels.max() > 1:
        raise InputError(
            f"weak labels must be classes or probabilities, got numbers from {labels.min():g} to {labels.max():g}"
        )
    return (labels > 0.5).astype(int)


def _read(rows: Any) -> np.ndarray:
    found = np.asarray(rows[:])
    require_finite(rows.label, found)
    if found.ndim != 2:
        raise InputError(f"{rows.label} must be 2-D (rows, features), got shape {found.shape}")
    return found


def _scores(args: argparse.Namespace, given: _Given) -> np.ndarray:
    """Scores of the rows that have a weak label."""
    from w2s_jax.select.mlp import mlp_predictions
    from w2s_jax.select.neighbours import neighbour_agreement
    from w2s_jax.select.overlap_density import overlap_density, weak_confidence
    from w2s_jax.select.rads import rads_scores

    kind: dict[str, Any] = {"normalize": args.normalize}
    strong: Any = given.sides.get("strong")
    if args.score == "agreement":
        return np.asarray(neighbour_agreement(strong, given.classes, args.neighbours, **kind))
    if args.score == "confidence":
        return np.asarray(weak_confidence(given.labels))
    if args.score == "overlap":
        return np.asarray(overlap_density(strong, weak_confidence(given.labels), **kind).scores)
    found, code = np.unique(given.classes, return_inverse=True)
    hard = np.eye(len(found))[code] if len(found) > 2 else code.astype(float)
    weak, kind["ridge"] = given.sides["weak"], args.ridge
    if args.score == "rads":
        return np.asarray(rads_scores(weak, strong, hard, **kind))
    said = mlp_predictions(weak, hard, groups=given.groups, seed=args.seed)
    return np.asarray(rads_scores(None, strong, hard, weak_part=said, **kind))


def _write(path: str, rows: np.ndarray, scores: np.ndarray) -> None:
    from w2s_jax._core.writing import write_bytes_atomically

    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        content = io.BytesIO()
        np.save(content, rows.astype(np.int64))
        write_bytes_atomically(path, content.getvalue())
        return
    lines = [f"{row},{scores[row]:.9g}" for row in rows] if suffix == ".csv" else list(map(str, rows))
    head = ["row,score"] if suffix == ".csv" else []
    write_bytes_atomically(path, ("\n".join([*head, *lines]) + "\n").encode())
