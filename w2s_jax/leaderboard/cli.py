"""`w2s leaderboard`: all scores and predictors judged by what measured students made of it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, get_args

from w2s_jax._core.checks import InputError
from w2s_jax._core.commands import require_figure, require_writable
from w2s_jax.devices.programs import cache_compiled_programs
from w2s_jax.leaderboard.figures import draw_leaderboard
from w2s_jax.leaderboard.judging import Against, Contest, judge
from w2s_jax.leaderboard.results import read_contests, write_contests
from w2s_jax.leaderboard.run import RIDGES, run_leaderboard
from w2s_jax.leaderboard.tasks import TASKS


def add_leaderboard(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to the parser's commands."""
    own = commands.add_parser("leaderboard", help="judge all scores and predictors by measured students")
    own.set_defaults(run=_leaderboard)
    own.add_argument(
        "--tasks",
        nargs="*",
        action="extend",
        metavar="NAME",
        help=f"of {', '.join(TASKS)} (default: all; none: results alone)",
    )
    elsewhere = "also contests measured elsewhere (CSV)"
    own.add_argument("--results", nargs="+", action="extend", default=[], metavar="FILE", help=elsewhere)
    penalties = "penalties of both heads (default: 0.001 0.01 0.1)"
    own.add_argument("--ridges", nargs="+", action="extend", type=float, metavar="X", help=penalties)
    own.add_argument("--against", default="student_error", choices=get_args(Against), help="what is to be foretold")
    own.add_argument("--seed", type=int, default=0, help="of families, rows, encoders and splits")
    own.add_argument("--out", metavar="FILE", help="keep finished contests here, and go on from them next time")
    own.add_argument("--csv", metavar="FILE", help="also write what was measured, as --results reads it")
    own.add_argument("--plot", metavar="FILE", help="also draw a figure")
    return own


def _leaderboard(args: argparse.Namespace) -> None:
    require_writable(args.csv, args.plot)
    require_figure(args.plot)
    cache_compiled_programs()
    contests = _read(args.results)
    tasks = list(TASKS) if args.tasks is None else args.tasks
    if tasks:
        chosen = {"ridges": args.ridges or RIDGES, "seed": args.seed, "out": args.out, "progress": not args.quiet}
        measured = run_leaderboard(tasks, **chosen)
        if args.csv is not None:
            write_contests(args.csv, measured)
        contests += measured
    elif args.csv is not None:
        raise InputError("--csv writes what the tasks measured, got no tasks")
    board = judge(contests, args.against)
    print(board)
    if args.plot is not None:
        draw_leaderboard(board, args.plot)
        print(f"figure: {args.plot}")


def _read(paths: Sequence[str]) -> list[Contest]:
    """The contests of all files; one that is there twice, in a copy of a file also, would pass for a further one."""
    places: dict[tuple, str] = {}
    found = [(path, one) for path in paths for one in read_contests(path)]
    for path, one in found:
        errors = zip(one.teachers, one.measured["student_error"].tolist(), strict=True)
        key = one.task, one.strong, one.ridge, tuple(sorted(errors))
        if key in places:
            raise InputError(
                f"--results must have every contest once, got that of {one.task!r}, {one.strong!r} and ridge {one.ridge:g} "
                f"with the same errors in {places[key]} and {path}"
            )
        places[key] = path
    return [one for _, one in found]
