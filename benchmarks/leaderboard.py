"""Every score and published predictor on everything that is measured: families, digits, texts, molecules. One command each:

    w2s leaderboard --out FILE.jsonl --csv benchmarks/results/leaderboard.csv.gz     # measures the first two
    python -m benchmarks.leaderboard --out benchmarks/LEADERBOARD.md --plot docs/leaderboard.png

The second only reads the committed results, those of `benchmarks/experiments` beside them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.experiments.tables import number, table
from w2s_jax.leaderboard import LEVEL, Contest, Standing, draw_leaderboard, judge, read_contests
from w2s_jax.leaderboard.judging import Against
from w2s_jax.leaderboard.tasks import DIGITS, FAMILIES

RESULTS = Path(__file__).parent / "results"
REPEATS = 100
AGAINST: dict[Against, str] = {
    "student_error": "student's error",
    "pgr": "performance gap recovered",
    "gap": "prediction gap",
}


def sources(folder: Path = RESULTS) -> dict[str, list[Contest]]:
    """What was measured, by kind; molecules without the rows that one dead unit sets apart."""
    own = read_contests(folder / "leaderboard.csv.gz")
    kinds = {
        "families": [one for one in own if one.task in FAMILIES],
        "digits": [one for one in own if one.task in DIGITS],
        "texts": read_contests(folder / "text.csv.gz"),
        "molecules": read_contests(folder / "molecules.csv.gz"),
    }
    return {kind: [one for one in contests if not one.task.endswith("-trimmed")] for kind, contests in kinds.items()}


def page(kinds: dict[str, list[Contest]], repeats: int = REPEATS) -> str:
    """Markdown."""
    everything = [one for contests in kinds.values() for one in contests]
    parts = [
        "## Who was right",
        "Spearman's correlation with the student's error, means over strong models and ridge strengths of a task, then over "
        f"tasks; {LEVEL:.0%} of {repeats} resamplings of networks and tasks. The lowest mean of a task and a strong model, "
        "Kendall's, and the cost of the first choice are over all kinds of tasks.",
        *_boards(kinds, everything, "student_error", repeats),
        "## Other outcomes",
        "The same scores against the performance gap recovered, and against the prediction gap where it was measured.",
        _others(kinds, everything),
    ]
    return "\n\n".join(parts) + "\n"


def _boards(kinds: dict[str, list[Contest]], everything: list[Contest], against: Against, repeats: int) -> list[str]:
    board = judge(everything, against, repeats=repeats)
    by_kind = {kind: _by_title(contests, against) for kind, contests in kinds.items()}
    found = []
    for labels in board.labels:
        lines = [["score", *kinds, "all", "", "lowest", "Kendall", "cost"]]
        for one in board.of(labels):
            kind = [_mean(by_kind[name], one.title) for name in kinds]
            between = f"[{number(one.low)}, {number(one.high)}]"
            title = f"{one.score} (tied)" if one.tied else one.score
            numbers = map(number, (one.lowest, one.kendall, one.cost))
            lines.append([title, *kind, number(one.spearman), between, *numbers])
        found += [f"### {f'Labels: {labels}' if labels else 'No labels'}", table(lines)]
    return found


def _others(kinds: dict[str, list[Contest]], everything: list[Contest]) -> str:
    """A line for each score: its mean correlation with each outcome."""
    with_gap = [one for one in everything if "gap" in one.measured]
    by_outcome = {against: _by_title(with_gap if against == "gap" else everything, against) for against in AGAINST}
    lines = [["score", *AGAINST.values()]]
    lines += [[title, *(_mean(of, title) for of in by_outcome.values())] for title in by_outcome["student_error"]]
    return table(lines)


def _by_title(contests: Sequence[Contest], against: Against) -> dict[str, Standing]:
    return {one.title: one for one in judge(contests, against, repeats=1).standings}


def _mean(of: dict[str, Standing], title: str) -> str:
    return number(of[title].spearman) if title in of else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the page there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the leaderboard of all of it")
    args = parser.parse_args()
    found = sources()
    text = page(found)
    args.out.write_text(text) if args.out else print(text)
    if args.plot:
        draw_leaderboard(judge([one for contests in found.values() for one in contests], repeats=REPEATS), args.plot)
