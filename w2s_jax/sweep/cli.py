"""`w2s sweep`: runs a sweep from a TOML file or flags, and exports its table."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from w2s_jax._core.checks import InputError
from w2s_jax._core.commands import NORMALIZE_HELP, PRECISION_HELP, ROWS_HELP, UNLABELLED_HELP, number_or_text
from w2s_jax._core.normalize import Normalize, RowNorm
from w2s_jax.devices.hosts import LostError, connected_hosts
from w2s_jax.devices.mesh import all_devices
from w2s_jax.devices.programs import cache_compiled_programs
from w2s_jax.files.paths import short_name, split_key
from w2s_jax.predictors import PREDICTORS
from w2s_jax.sweep.config import read_toml, sweep_config
from w2s_jax.sweep.run import run_sweep
from w2s_jax.sweep.table import read_sweep

_LISTS = ("weak", "strong")
_NUMBERS = ("threshold", "weak_threshold", "strong_threshold", "weak_ridge", "strong_ridge")
_SINGLE = ("folds", "seed", "prior", "noise", "memory", "normalize", "rows", "precision", "predictors")
_USAGE = (
    "w2s sweep CONFIG.toml, w2s sweep --weak FILE ... --strong FILE ... --output FOLDER, "
    "or w2s sweep export FOLDER --to FILE"
)


def add_sweep(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to the parser's commands."""
    sweep = commands.add_parser(
        "sweep",
        help="all weak with all strong models, over a grid of settings and several label sets; resumable",
        description=f"{_USAGE}. A configuration has the keys of the options, with _ for -; options replace them.",
    )
    sweep.set_defaults(run=run)
    sweep.add_argument("what", nargs="*", metavar="CONFIG.toml | export FOLDER", help="what to run, or what to export")
    for side in _LISTS:
        help_of_side = f"{side} models: files or globs"
        sweep.add_argument(f"--{side}", nargs="+", action="extend", metavar="FILE", help=help_of_side)
    help_of_labels = "label sets; NaN rows are unlabelled"
    sweep.add_argument("--labels", nargs="+", action="extend", metavar="NAME=FILE", help=help_of_labels)
    sweep.add_argument("--unlabelled", metavar="LABEL", help=UNLABELLED_HELP)
    sweep.add_argument("--groups", metavar="FILE", help="group of each row (n,): related rows stay in one fold")
    sweep.add_argument("--output", metavar="FOLDER", help="where results are kept and a stopped sweep goes on")
    for name in _NUMBERS:
        metavar = "ALPHA" if name.endswith("threshold") else "BETA"
        sweep.add_argument(f"--{name.replace('_', '-')}", nargs="+", action="extend", type=float, metavar=metavar)
    sweep.add_argument("--folds", type=int, metavar="K", help="also the cross-fitted errors, over K blocks of rows")
    sweep.add_argument("--seed", type=int, help="of the folds")
    sweep.add_argument("--prior", type=float, metavar="P", help="label prior of the expected error")
    sweep.add_argument("--noise", type=float, metavar="NU", help="label noise of the expected error")
    sweep.add_argument("--normalize", choices=get_args(Normalize), help=NORMALIZE_HELP)
    sweep.add_argument("--rows", choices=get_args(RowNorm), help=ROWS_HELP)
    sweep.add_argument(
        "--memory", type=float, metavar="MIB", help="for the sums or kernels of a group of pairs (default: 256)"
    )
    sweep.add_argument("--precision", metavar="NAME", help=PRECISION_HELP)
    named = ", ".join(name for name, of in PREDICTORS.items() if of.reads == "moments")
    columns = f"further columns (no NAME: none): {named}"
    sweep.add_argument("--predictors", "--predictor", nargs="*", action="extend", metavar="NAME", help=columns)
    sweep.add_argument(
        "--coordinator",
        nargs="?",
        const="",
        metavar="HOST:PORT",
        help="several processes share the work, all started with the same command: the address of process 0; none on "
        "SLURM, Kubernetes and Cloud TPU, where jax.distributed finds the others",
    )
    sweep.add_argument("--processes", type=int, metavar="N", help="with an address: how many processes there are")
    sweep.add_argument("--process", type=int, metavar="I", help="with an address: which one this is, from 0")
    sweep.add_argument(
        "--process-local",
        action="store_true",
        help="with several processes: each has files of its own, whose rows follow each other in the processes' order",
    )
    sweep.add_argument("--to", metavar="FILE", help="with export: a .csv, .parquet or .json file")
    return sweep


def run(args: argparse.Namespace) -> None:
    """Runs or exports; raises InputError with one sentence."""
    if args.what[:1] == ["export"]:
        _export(args)
        return
    if len(args.what) > 1 or args.to is not None:
        raise InputError(f"usage: {_USAGE}")
    alone = {"--processes": args.processes, "--process": args.process, "--process-local": args.process_local or None}
    for option, value in alone.items():
        if args.coordinator is None and value is not None:
            raise InputError(f"{option} is for several processes and needs --coordinator")
    table, folder = ({}, Path()) if not args.what else (read_toml(args.what[0]), Path(args.what[0]).parent)
    config = sweep_config(_with_options(table, args, folder), folder)
    cache_compiled_programs()
    if args.coordinator is None:
        sweep = run_sweep(config, progress=not args.quiet, mesh=all_devices())
    else:
        with _leaving_at_once(), connected_hosts(args.coordinator or None, args.processes, args.process) as hosts:
            sweep = run_sweep(
                config, progress=not args.quiet, hosts=hosts, process_local=args.process_local, mesh=all_devices()
            )
        if hosts.index > 0:
            return
    if sweep.changed:
        print(f"changed since the last run: {', '.join(sweep.changed)}", file=sys.stderr)
    print(*sweep.notes, sweep, sep="\n")


@contextmanager
def _leaving_at_once() -> Iterator[None]:
    """Ends the process on what the others have not heard of: a normal exit would wait for them, and they for it."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, InputError) and not isinstance(error, LostError):
            raise
        code = 2 if isinstance(error, LostError) else 130 if isinstance(error, KeyboardInterrupt) else 1
        told = {2: f"w2s sweep: {error}", 130: "interrupted", 1: "".join(traceback.format_exception(error)).rstrip()}
        print(told[code], file=sys.stderr, flush=True)
        os._exit(code)


def _export(args: argparse.Namespace) -> None:
    if len(args.what) != 2 or args.to is None:
        raise InputError(f"usage: {_USAGE}")
    own = {"command", "run", "what", "to", "quiet"}
    others = [
        name for name, value in vars(args).items() if name not in own and value is not None and value is not False
    ]
    if others:
        raise InputError(f"export takes FOLDER and --to alone, got --{', --'.join(others).replace('_', '-')}")
    sweep = read_sweep(args.what[1])
    sweep.export(args.to)
    missing = "" if sweep.finished == sweep.pairs > 0 else f"; {sweep.finished} of {sweep.pairs} pairs are finished"
    print(f"{len(sweep)} row{'s' * (len(sweep) != 1)} in {args.to}{missing}")


def _with_options(table: dict[str, Any], args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The configuration with the options in place; their paths are relative to where the command runs."""
    here = lambda path: str(Path(path).absolute())
    options = {name: getattr(args, name) for name in (*_NUMBERS, *_SINGLE)}
    options |= {name: None if (given := getattr(args, name)) is None else [here(p) for p in given] for name in _LISTS}
    options |= {name: None if (given := getattr(args, name)) is None else here(given) for name in ("output", "groups")}
    options |= {"unlabelled": number_or_text(args.unlabelled)}
    options |= {"labels": None if args.labels is None else _label_sets(args.labels, here)}
    given = {name: value for name, value in options.items() if value is not None}
    cuts = {"threshold", "weak_threshold", "strong_threshold"}
    if given.keys() & cuts:  # cuts on the command line replace those of the file, whichever way they are written
        table = {name: value for name, value in table.items() if name not in cuts}
    return {**table, **given}


def _label_sets(given: list[str], here: Any) -> dict[str, str]:
    """Name -> file, of `NAME=FILE` or `FILE`."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=") if not os.path.exists(split_key(text)[0]) else ("", "", text)
        name, path = (name, here(path)) if equals else (short_name(text), here(text))
        if name in found:
            raise InputError(
                f"--labels must have names that differ, got {name!r} for {found[name]} and {path}: give NAME=FILE"
            )
        found[name] = path
    return found
