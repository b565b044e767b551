"""The command line, `w2s` and `python -m w2s_jax`; each command is a `cli.py` of its wing.

Exit codes: 0 done, 2 bad input (one sentence on stderr, nothing half-written), 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NoReturn

from w2s_jax._core.checks import InputError
from w2s_jax.extract.cli import add_extract
from w2s_jax.leaderboard.cli import add_leaderboard
from w2s_jax.ranking.cli import add_rank
from w2s_jax.select.cli import add_select
from w2s_jax.studies.cli import add_studies
from w2s_jax.sweep.cli import add_sweep


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    args = _parser().parse_args(argv)
    _compile_quickly()
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


def _compile_quickly() -> None:
    """Without jaxlib 0.10's newer emitters of CPU programs, which take a third of a first ranking's time and make none of it
    faster; later releases have no others. Of no consequence once JAX has begun to compute."""
    if version("jaxlib") < "0.11":
        os.environ["XLA_FLAGS"] = f"--xla_cpu_use_fusion_emitters=false {os.environ.get('XLA_FLAGS', '')}"


class _Parser(argparse.ArgumentParser):
    """argparse in one line: what is wrong and where help is. Options have their whole names: --k is not --keep."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="w2s", description="Which weak model should teach a strong one, and how much is lost?")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('w2s_jax')}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="{extract,rank,select,demo,verify,leaderboard,sweep}"
    )
    own = add_extract(commands), add_rank(commands), add_select(commands), *add_studies(commands)
    own = *own, add_leaderboard(commands), add_sweep(commands)
    for command in own:
        command.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser
