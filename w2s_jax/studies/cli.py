"""`w2s demo` and `w2s verify`: the whole experiment on real data, and the theory against simulation."""

from __future__ import annotations

import argparse
import json
from typing import Any

from w2s_jax._core.commands import require_figure, require_writable
from w2s_jax._core.writing import write_text_atomically
from w2s_jax.devices.programs import cache_compiled_programs
from w2s_jax.studies.demo import run_demo
from w2s_jax.studies.verify import SCENARIOS, run_verify
from w2s_jax.studies.verify_figure import draw_verification


def add_studies(commands: Any) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Adds the commands to the parser's commands."""
    demo = commands.add_parser("demo", help="train encoders on digits, rank them, run the experiment, compare")
    demo.set_defaults(run=_demo)
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--plot", default="w2s_demo.png", metavar="FILE", help="figure (default: %(default)s)")
    verify = commands.add_parser("verify", help="simulate weak-to-strong experiments and hold the theory against them")
    verify.set_defaults(run=_verify)
    some = "some of the scenarios (default: all)"
    verify.add_argument("--scenarios", nargs="+", action="extend", metavar="NAME", help=some)
    verify.add_argument("--largest", type=int, default=16000, metavar="N", help="largest n (default: %(default)s)")
    verify.add_argument("--effort", type=float, default=1.0, metavar="X", help="factor on the number of trials")
    verify.add_argument("--seed", type=int, default=0, help="of the trials")
    verify.add_argument("--out", metavar="FILE", help="keep finished trials here, and go on from them next time")
    verify.add_argument("--json", metavar="FILE", help="also write the results as JSON")
    verify.add_argument("--plot", default="w2s_verify.png", metavar="FILE", help="figure (default: %(default)s)")
    return demo, verify


def _demo(args: argparse.Namespace) -> None:
    require_writable(args.plot)
    require_figure(args.plot)
    cache_compiled_programs()
    result = run_demo(args.seed, progress=not args.quiet)
    result.figure(args.plot)
    print(result.report())
    print(f"figure: {args.plot}")


def _verify(args: argparse.Namespace) -> None:
    require_writable(args.json, args.plot)
    require_figure(args.plot)
    cache_compiled_programs()
    scenarios = list(SCENARIOS) if args.scenarios is None else args.scenarios
    numbers = {"largest": args.largest, "effort": args.effort, "seed": args.seed}
    found = run_verify(scenarios=scenarios, out=args.out, progress=not args.quiet, **numbers)
    draw_verification(found, args.plot)
    if args.json is not None:
        write_text_atomically(args.json, json.dumps(found.to_dict(), indent=1) + "\n")
    print(found)
    print(f"figure: {args.plot}")
