"""The command line, `w2s` and `python -m w2s_jax`: `rank` representations in files, `demo` the whole experiment on real
data, `verify` the theory by simulation, `sweep` many pairs and settings (sweep/cli.py).

Exit codes: 0 done, 2 bad input (one sentence on stderr, nothing half-written), 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from w2s_jax._checks import InputError
from w2s_jax.sweep.cli import PRECISION_HELP, add_sweep

_SETTINGS = ("threshold", "prior", "noise", "folds", "seed", "precision")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda said, *where: print(f"w2s {args.command}: {said}", file=sys.stderr)
            args.run(args)
    except (InputError, MemoryError) as error:
        print(f"w2s {args.command}: {error or 'out of memory'}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """argparse in one line: what is wrong and where help is."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="w2s", description="Which weak model should teach a strong one, and how much is lost?")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('w2s_jax')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{rank,demo,verify,sweep}")
    rank = commands.add_parser("rank", help="rank weak representations as supervisors of a strong one")
    rank.set_defaults(run=_rank)
    file = (
        "a .npy, .npz, .safetensors, .pt, .parquet or .arrow file, a .zarr folder, a folder or quoted pattern of shards"
    )
    rank.add_argument(
        "--strong", nargs="+", required=True, metavar="FILE", help=f"strong representations (n, d): {file}"
    )
    rank.add_argument(
        "--weak", nargs="+", required=True, metavar="FILE", help="of the same rows; FILE:KEY picks an array"
    )
    rank.add_argument(
        "--labels", metavar="FILE", help="labels (n,) or (n, outputs), one-hot for classes; NaN rows are unlabelled"
    )
    rank.add_argument("--groups", metavar="FILE", help="group of each row (n,): related rows stay in one fold")
    rank.add_argument(
        "--ridge", nargs="+", type=float, default=[1e-3], metavar="BETA", help="of both heads, or weak strong"
    )
    rank.add_argument(
        "--threshold", type=float, default=0.0, metavar="ALPHA", help="relative eigenvalue cut of the norms"
    )
    rank.add_argument("--prior", type=float, default=2.0, metavar="P", help="label prior theta ~ N(0, S_s^(P-1))")
    rank.add_argument("--noise", type=float, default=1.0, metavar="NU", help="label noise over label variance")
    rank.add_argument("--folds", type=int, default=3, metavar="K", help="blocks of rows for cross-fitting and errors")
    rank.add_argument("--seed", type=int, default=0, help="of the folds")
    rank.add_argument("--raw", action="store_true", help="neither centre nor rescale the representations")
    rank.add_argument("--precision", metavar="NAME", help=PRECISION_HELP)
    rank.add_argument("--sort", metavar="COLUMN", help="sort by this column")
    rank.add_argument("--json", metavar="FILE", help="also write the table as JSON")
    rank.add_argument("--plot", metavar="FILE", help="also draw the table")
    demo = commands.add_parser("demo", help="train encoders on digits, rank them, run the experiment, compare")
    demo.set_defaults(run=_demo)
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--plot", default="w2s_demo.png", metavar="FILE", help="figure (default: %(default)s)")
    verify = commands.add_parser("verify", help="simulate weak-to-strong experiments and hold the theory against them")
    verify.set_defaults(run=_verify)
    verify.add_argument("--settings", nargs="+", metavar="NAME", help="some of the settings (default: all)")
    verify.add_argument("--largest", type=int, default=16000, metavar="N", help="largest n (default: %(default)s)")
    verify.add_argument("--effort", type=float, default=1.0, metavar="X", help="factor on the number of trials")
    verify.add_argument("--seed", type=int, default=0, help="of the trials")
    verify.add_argument("--out", metavar="FILE", help="keep finished trials here, and go on from them next time")
    verify.add_argument("--json", metavar="FILE", help="also write the results as JSON")
    verify.add_argument("--plot", default="w2s_verify.png", metavar="FILE", help="figure (default: %(default)s)")
    for command in (rank, demo, verify, add_sweep(commands)):
        command.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _rank(args: argparse.Namespace) -> None:
    from w2s_jax.io import open_rows, read_groups, read_labels, require_same_ids, write_text_atomically

    if len(args.ridge) > 2:
        raise InputError(f"--ridge takes one strength or two (weak strong), got {len(args.ridge)}")
    strong, weak = ({n: open_rows(p, n) for n, p in _named(paths).items()} for paths in (args.strong, args.weak))
    y = None if args.labels is None else read_labels(args.labels)
    groups = None if args.groups is None else read_groups(args.groups)
    carriers = {f"strong representation {name!r}": rows for name, rows in strong.items()}  # weak ones: rank_supervisors
    carriers |= {} if args.labels is None else {"labels": open_rows(args.labels, "labels")}
    carriers |= {} if args.groups is None else {"groups": open_rows(args.groups, "groups", kind="groups")}
    require_same_ids(carriers)
    _require_writable(args.json, args.plot)
    _require_figure(args.plot)
    from w2s_jax.compilation import cache_compiled_programs
    from w2s_jax.ranking import rank_supervisors
    from w2s_jax.sharding import all_devices

    cache_compiled_programs()
    settings: dict[str, Any] = {name: getattr(args, name) for name in _SETTINGS}
    settings |= {"weak_ridge": args.ridge[0], "strong_ridge": args.ridge[-1], "normalize": not args.raw}
    table = rank_supervisors(weak, strong, y, groups=groups, progress=not args.quiet, mesh=all_devices(), **settings)
    table = table if args.sort is None else table.sort_by(args.sort)
    if args.plot is not None:
        from w2s_jax.plots import plot_table

        plot_table(table, args.plot)
    if args.json is not None:
        write_text_atomically(args.json, table.to_json())
    print(table)


def _demo(args: argparse.Namespace) -> None:
    _require_writable(args.plot)
    _require_figure(args.plot)
    from w2s_jax.compilation import cache_compiled_programs
    from w2s_jax.demo import run_demo

    cache_compiled_programs()
    result = run_demo(args.seed, progress=not args.quiet)
    result.figure(args.plot)
    print(result.report())
    print(f"figure: {args.plot}")


def _verify(args: argparse.Namespace) -> None:
    from w2s_jax.io import write_text_atomically

    _require_writable(args.json, args.plot)
    _require_figure(args.plot)
    from w2s_jax.compilation import cache_compiled_programs
    from w2s_jax.plots import plot_verification
    from w2s_jax.verify import SETTINGS, run_verify

    cache_compiled_programs()
    settings = list(SETTINGS) if args.settings is None else args.settings
    numbers = {"largest": args.largest, "effort": args.effort, "seed": args.seed}
    found = run_verify(settings=settings, out=args.out, progress=not args.quiet, **numbers)
    plot_verification(found, args.plot)
    if args.json is not None:
        write_text_atomically(args.json, json.dumps(found.to_dict(), indent=1) + "\n")
    print(found)
    print(f"figure: {args.plot}")


def _named(paths: Sequence[str]) -> dict[str, str]:
    """Short names for files: the stem (with the key), or the whole path for patterns and where two stems agree."""
    from w2s_jax.formats.paths import is_pattern, short_name, split_key

    stems = [path if is_pattern(split_key(path)[0]) else short_name(path) for path in paths]
    short = [stem if stems.count(stem) == 1 else path for stem, path in zip(stems, paths, strict=True)]
    named = dict(zip(short, paths, strict=True))
    if len(named) < len(paths):
        raise InputError(f"every representation must be given once, got {max(paths, key=list(paths).count)} twice")
    return named


def _require_writable(*paths: str | None) -> None:
    """Fails now rather than after minutes of work."""
    for path in paths:
        if path is None:
            continue
        folder = Path(path).resolve().parent
        if not folder.is_dir():
            raise InputError(f"cannot write {path}: the folder {folder} does not exist")
        if Path(path).is_dir() or not os.access(folder, os.W_OK):
            raise InputError(f"cannot write {path}: it is a folder, or its folder is not writable")


def _require_figure(path: str | None) -> None:
    if path is not None:
        from w2s_jax.plots import require_figure_path

        require_figure_path(path)
