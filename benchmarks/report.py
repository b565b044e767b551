"""Writes the tables of benchmarks/README.md from the files in benchmarks/results, so that no figure is typed by hand.

    python -m benchmarks.report [--check]

Files of the same machine are one device; files without a machine, and those of quick runs, are left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks._common import shown

PAGE = Path(__file__).parent / "README.md"
RESULTS = Path(__file__).parent / "results"
MARKS = "<!-- results -->", "<!-- end -->"

Figures = Mapping[str, Any]


class Row(NamedTuple):
    """What took how long: names of a part's figures, in seconds; a list of them is added up."""

    title: str
    part: str
    ours: str
    compile: str | None = None
    rival: str | None = None
    floor: str | None = None


class Aim(NamedTuple):
    """A figure of a device, and the bound it should keep to; `only` on CPUs or on accelerators."""

    title: str
    sign: str
    bound: float
    value: Callable[[Figures], float]
    only: str | None = None


ROWS = (
    Row(
        "one pair: norm and gap",
        "single_pair",
        "ours s",
        "compile s",
        "dense script s",
        "floor s (products, eigensolves)",
    ),
    Row("the same at 1,024 cuts and ridge strengths", "single_pair", "grid s", "grid compile s"),
    Row(
        "150 x 1 pairs: ranking",
        "many_models",
        "table s",
        "compile s",
        "dense scripts s",
        "floor s (products, eigensolves)",
    ),
    Row(
        "150 x 8 pairs: sweep of files",
        "many_pairs",
        "sweep s",
        "compile s",
        "dense scripts s",
        "floor s (eigensolves, cross products)",
    ),
    Row(
        "12 x 2 pairs of fewer rows than features: sweep of files",
        "few_rows",
        "sweep s",
        "compile s",
        "dense scripts s",
        "floor s (kernels, eigensolves)",
    ),
    Row("12 x 1 of them: ranking", "few_rows", "ranking s", "ranking compile s"),
    Row("`w2s rank` of five models, empty cache", "command_line", "(e) empty cache s"),
    Row("the same, filled cache", "command_line", "(e) filled cache s"),
    Row("moments of 65,536 rows on the device", "resident", "moments s", "compile s", None, "floor s (products)"),
    Row(
        "moments of 100,000 streamed rows",
        "streaming_short",
        "streaming s",
        "compile s",
        "NumPy products s",
        "floor s (products)",
    ),
    Row(
        "moments of 1,000,000 streamed rows",
        "streaming_long",
        "streaming s",
        "compile s",
        "NumPy products s",
        "floor s (products)",
    ),
    Row("1,000 trials", "trials", "one call s", "compile s", "NumPy and scikit-learn loop s"),
    Row("100 logistic heads", "logistic_heads", "one call s", "compile s", "scikit-learn loop s"),
    Row("100 penalties", "penalty_path", "path s", "compile s (fit, path)", None, "one fit s"),
    Row("verification, a tenth of the trials up to n = 4,000", "verification", "seconds"),
)


def figure(part: str, name: str) -> Callable[[Figures], float]:
    """One figure of a part."""
    return lambda results: results[part][name]


def _memory_growth(results: Figures) -> float:
    short, long = (results[f"streaming_{size}"]["peak memory MiB"] for size in ("short", "long"))
    return abs(long / short - 1)


AIMS = (
    Aim("one pair: dense script over ours", ">=", 60, figure("single_pair", "(a) dense script / ours")),
    Aim("one pair: ours over floor", "<=", 1.3, figure("single_pair", "(b) ours / floor")),
    Aim("grid of 1,024 points over one point", "<=", 3, figure("single_pair", "(c) grid / point")),
    Aim("150 x 1 pairs: ours over floor", "<=", 2, figure("many_models", "(d) table / floor")),
    Aim("150 x 1 pairs: seconds", "<=", 1, figure("many_models", "table s"), "accelerator"),
    Aim("150 x 8 pairs: ours over floor", "<=", 1.5, figure("many_pairs", "sweep / floor")),
    Aim("first ranking of 28 models: seconds", "<=", 6, figure("unlabelled", "first s"), "CPU"),
    Aim("the same with labels: seconds", "<=", 7, figure("labelled", "first s"), "CPU"),
    Aim("the same with labels: programs", "<=", 12, figure("labelled", "programs"), "CPU"),
    Aim("first ranking of 150 models: seconds", "<=", 8, figure("many", "first s"), "CPU"),
    Aim(
        "label-free predictors of a pair over a ranking's own columns, first call",
        "<=",
        3,
        figure("label_free_predictors", "predictors over own columns: first s"),
    ),
    Aim("`w2s rank`, empty cache: seconds", "<=", 4, figure("command_line", "(e) empty cache s"), "CPU"),
    Aim("`w2s rank`, filled cache: seconds", "<=", 2.5, figure("command_line", "(e) filled cache s"), "CPU"),
    Aim(
        "moments: share of the best product's rate",
        ">=",
        0.6,
        figure("resident", "share of the best product's rate"),
        "accelerator",
    ),
    Aim(
        "streaming 1,000,000 rows: share of the products' rate",
        ">=",
        0.8,
        figure("streaming_long", "share of the products' rate"),
        "CPU",
    ),
    Aim("streaming: change of peak memory, 100,000 to 1,000,000 rows", "<=", 0.05, _memory_growth),
    Aim("trials: loop over ours", ">=", 20, figure("trials", "(a) loop / one call")),
    Aim("logistic heads: loop over ours", ">=", 5, figure("logistic_heads", "(b) loop / one call")),
    Aim("100 penalties over one fit", "<=", 2, figure("penalty_path", "(c) path / fit")),
    Aim(
        "verification: equivalent's largest error, n >= 500",
        "<=",
        0.02,
        figure("verification", "largest error, n >= 500"),
    ),
)


def devices(files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Results by name of the device; raises ValueError if two files give the same part."""
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        results = json.loads(file.read_text())
        if "machine" not in results or results.get("quick"):
            continue
        merged = found.setdefault(_name(results["machine"]), {})
        twice = merged.keys() & results.keys() - {"machine", "quick"}
        if twice:
            raise ValueError(f"{file.name} repeats {', '.join(sorted(twice))} of a machine: remove the older file")
        merged |= results
    return found


def _name(machine: Figures) -> str:
    device = machine["device"]
    chip = f"{machine['cpu']}, {machine['cores']} cores" if device == "cpu" else device
    return f"{chip} (jax {machine['jax']})"


def rendered(found: Mapping[str, Figures]) -> str:
    """The tables in Markdown."""
    lines = ["### Aims", "", "| | aim |" + "".join(f" {name} |" for name in found), "|---|---|" + "---|" * len(found)]
    for aim in AIMS:
        bound = f"{aim.sign} {aim.bound:g}" + (f" ({aim.only})" if aim.only else "")
        judged = (_judged(aim, results) for results in found.values())
        lines.append(f"| {aim.title} | {bound} | {' | '.join(judged)} |")
    columns = ("", "seconds", "rival / ours", "ours / floor", "compile s", "peak MiB", "device peak MiB")
    for name, results in found.items():
        lines += ["", f"### {name}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        lines += [_line(row, results[row.part]) for row in ROWS if row.part in results]
        lines += ["", "<details><summary>All figures</summary>", "", "```text"]
        for part, figures in results.items():
            if isinstance(figures, dict) and part != "machine":
                lines += [part, *(f"  {line}" for line in shown(figures))]
        lines += ["```", "", "</details>"]
    return "\n".join(lines)


def _judged(aim: Aim, results: Figures) -> str:
    try:
        value = aim.value(results)
    except KeyError:
        return "not measured"
    is_cpu = results["machine"]["device"] == "cpu"
    if aim.only and (aim.only == "CPU") != is_cpu:
        return f"{value:.3g}"
    met = value >= aim.bound if aim.sign == ">=" else value <= aim.bound
    return f"{value:.3g}" if met else f"**{value:.3g}**"


def _line(row: Row, figures: Figures) -> str:
    ours, rival, floor = (_seconds(figures, name) for name in (row.ours, row.rival, row.floor))
    cells = [
        ours,
        None if rival is None or ours is None else rival / ours,
        None if floor is None or ours is None else ours / floor,
        _seconds(figures, row.compile),
        figures.get("peak memory MiB"),
        figures.get("peak device memory MiB"),
    ]
    written = ["" if cell is None else f"{cell:,.0f}" if cell >= 100 else f"{cell:.3g}" for cell in cells]
    return f"| {row.title} | " + " | ".join(written) + " |"


def _seconds(figures: Figures, name: str | None) -> float | None:
    value = None if name is None else figures.get(name)
    return float(sum(value)) if isinstance(value, list) else value


def updated(page: str, tables: str) -> str:
    """The page with other tables between its marks."""
    before, rest = page.split(MARKS[0])
    return f"{before}{MARKS[0]}\n\n{tables}\n\n{MARKS[1]}{rest.split(MARKS[1])[1]}"


def main() -> None:
    """Writes the page, or with `--check` fails if it would change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if the page is not up to date")
    args = parser.parse_args()
    page = PAGE.read_text()
    new = updated(page, rendered(devices(sorted(RESULTS.glob("*.json")))))
    if not args.check:
        PAGE.write_text(new)
    elif page != new:
        sys.exit(f"{PAGE.name} is out of date: python -m benchmarks.report")


if __name__ == "__main__":
    main()
