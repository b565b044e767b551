"""`w2s rank`: ranks representations in files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, get_args

from w2s_jax._core.checks import InputError
from w2s_jax._core.commands import (
    NORMALIZE_HELP,
    PRECISION_HELP,
    ROWS_HELP,
    UNLABELLED_HELP,
    number_or_text,
    require_figure,
    require_writable,
)
from w2s_jax._core.normalize import Normalize, RowNorm
from w2s_jax.predictors import PREDICTORS
from w2s_jax.ranking.mixture import Objective

_SETTINGS = (
    *("threshold", "prior", "noise", "n_labelled", "n_student"),
    *("folds", "seed", "normalize", "rows", "precision"),
)


def add_rank(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to the parser's commands."""
    rank = commands.add_parser("rank", help="rank weak representations as supervisors of a strong one")
    rank.set_defaults(run=run)
    file = (
        "a .npy, .npz, .safetensors, .pt, .parquet or .arrow file, a .zarr folder, a folder or quoted pattern of shards"
    )
    rank.add_argument(
        "--strong",
        nargs="+",
        action="extend",
        required=True,
        metavar="FILE",
        help=f"strong representations (n, d): {file}",
    )
    rank.add_argument(
        "--weak",
        nargs="+",
        action="extend",
        required=True,
        metavar="FILE",
        help="of the same rows; FILE:KEY picks an array, FILE:layer=8 a layer",
    )
    rank.add_argument(
        "--labels",
        metavar="FILE",
        help="labels (n,) or (n, outputs), one-hot or text for classes, also FILE:COLUMN of a .csv, .tsv or .jsonl file; NaN "
        "rows are unlabelled",
    )
    rank.add_argument("--unlabelled", metavar="LABEL", help=UNLABELLED_HELP)
    rank.add_argument("--groups", metavar="FILE", help="group of each row (n,): related rows stay in one fold")
    rank.add_argument(
        "--ridge",
        nargs="+",
        action="extend",
        type=float,
        metavar="BETA",
        help="of both heads, or weak strong (default: 0.001)",
    )
    rank.add_argument(
        "--threshold", type=float, default=0.0, metavar="ALPHA", help="relative eigenvalue cut of the norms"
    )
    rank.add_argument("--prior", type=float, default=1.0, metavar="P", help="label prior theta ~ N(0, S_s^(P-1))")
    rank.add_argument("--noise", type=float, default=1.0, metavar="NU", help="label noise over label variance")
    rank.add_argument(
        "--n-labelled",
        type=int,
        metavar="N",
        help="planned labels: rows that will train the weak heads (default: a fold's)",
    )
    rank.add_argument(
        "--n-student", type=int, metavar="N", help="planned rows that will train the student (default: a fold's)"
    )
    rank.add_argument("--folds", type=int, default=3, metavar="K", help="blocks of rows for cross-fitting and errors")
    rank.add_argument("--seed", type=int, default=0, help="of the folds")
    rank.add_argument("--normalize", choices=get_args(Normalize), default="features", help=NORMALIZE_HELP)
    rank.add_argument("--rows", choices=get_args(RowNorm), default="given", help=ROWS_HELP)
    rank.add_argument("--precision", default="float32", metavar="NAME", help=PRECISION_HELP)
    rank.add_argument(
        "--predictor",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help=f"further columns: {', '.join(PREDICTORS)}",
    )
    rank.add_argument(
        "--mixture",
        nargs="?",
        const=True,
        default=False,
        choices=get_args(Objective),
        help="also the best mixture of teachers, by the predicted error (without labels: the expected one), or what it makes "
        "least: %(choices)s",
    )
    rank.add_argument("--sort", metavar="COLUMN", help="sort by this column")
    rank.add_argument("--json", metavar="FILE", help="also write the table as JSON")
    rank.add_argument("--plot", metavar="FILE", help="also draw the table")
    return rank


def run(args: argparse.Namespace) -> None:
    """Ranks; raises InputError with one sentence."""
    from w2s_jax._core.writing import write_text_atomically
    from w2s_jax.files.ids import require_same_ids
    from w2s_jax.files.opening import notes_of, open_rows, read_groups, read_labels_and_classes

    ridge = args.ridge or [1e-3]
    if len(ridge) > 2:
        raise InputError(f"--ridge takes one strength or two (weak strong), got {len(ridge)}")
    strong, weak = ({n: open_rows(p, n) for n, p in _named(paths).items()} for paths in (args.strong, args.weak))
    y, classes = None, ()
    if args.labels is not None:
        y, classes = read_labels_and_classes(args.labels, unlabelled=number_or_text(args.unlabelled))
    groups = None if args.groups is None else read_groups(args.groups)
    carriers = {f"strong representation {name!r}": rows for name, rows in strong.items()}  # weak ones: rank_supervisors
    carriers |= {} if args.labels is None else {"labels": open_rows(args.labels, "labels", kind="labels")}
    carriers |= {} if args.groups is None else {"groups": open_rows(args.groups, "groups", kind="groups")}
    require_same_ids(carriers)
    require_writable(args.json, args.plot)
    require_figure(args.plot)
    from w2s_jax.devices.mesh import all_devices
    from w2s_jax.devices.programs import cache_compiled_programs
    from w2s_jax.ranking.rank import rank_supervisors

    cache_compiled_programs()
    settings: dict[str, Any] = {name: getattr(args, name) for name in _SETTINGS}
    settings |= {"weak_ridge": ridge[0], "strong_ridge": ridge[-1]}
    settings |= {"predictors": args.predictor, "mixture": args.mixture}
    table = rank_supervisors(weak, strong, y, groups=groups, progress=not args.quiet, mesh=all_devices(), **settings)
    table = table if args.sort is None else table.sort_by(args.sort)
    if args.plot is not None:
        from w2s_jax.ranking.figures import draw_table

        draw_table(table, args.plot)
    if args.json is not None:
        write_text_atomically(args.json, table.to_json())
    print(*notes_of((*strong.values(), *weak.values()), {"the labels": classes}), table, sep="\n")
    for name, mixture in table.mixtures.items():
        print(f"\nmixture of teachers for {name}:", mixture, sep="\n")


def _named(paths: Sequence[str]) -> dict[str, str]:
    """Short names for files: the stem (with the key), or the whole path for patterns and where two stems agree."""
    from w2s_jax.files.paths import is_pattern, short_name, split_key

    stems = [path if is_pattern(split_key(path)[0]) else short_name(path) for path in paths]
    short = [stem if stems.count(stem) == 1 else path for stem, path in zip(stems, paths, strict=True)]
    named = dict(zip(short, paths, strict=True))
    if len(named) < len(paths):
        raise InputError(f"every representation must be given once, got {max(paths, key=list(paths).count)} twice")
    return named
