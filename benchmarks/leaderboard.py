"""Every score and published predictor on everything that is measured: families, digits, texts, molecules. One command each:

    w2s leaderboard --out FILE.jsonl --csv benchmarks/results/leaderboard.csv.gz     # measures the first two
    python -m benchmarks.leaderboard --out benchmarks/LEADERBOARD.md --plot docs/leaderboard.png

The second only reads the committed results, those of `benchmarks/experiments` beside them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
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


def asked_everywhere(kinds: dict[str, list[Contest]]) -> list[Contest]:
    """All contests, with the scores that every kind has: means of others are over other tasks, and not to be compared."""
    titles = [{title for one in contests for title in one.scores} for contests in kinds.values()]
    common = set.intersection(*titles)
    return [
        replace(one, scores={title: said for title, said in one.scores.items() if title in common})
        for contests in kinds.values()
        for one in contests
    ]


def page(kinds: dict[str, list[Contest]], repeats: int = REPEATS) -> str:
    """Markdown."""
    parts = [
        "## Who was right",
        "Spearman's correlation with the student's error, means over strong models and ridge strengths of a task, then over "
        f"tasks; {LEVEL:.0%} of {repeats} resamplings of networks and tasks. The lowest mean of a task and a strong model, "
        "Kendall's, and the cost of the first choice are over all kinds of tasks. Scores that were not asked about every kind "
        "come last, without them.",
        *_boards(kinds, "student_error", repeats),
        "## Other outcomes",
        "The same scores against the performance gap recovered, and against the prediction gap where it was measured.",
        _others(asked_everywhere(kinds)),
    ]
    return "\n\n".join(parts) + "\n"


def _boards(kinds: dict[str, list[Contest]], against: Against, repeats: int) -> list[str]:
    board = judge(asked_everywhere(kinds), against, repeats=repeats)
    by_kind = {kind: _by_title(contests, against) for kind, contests in kinds.items()}
    others = dict.fromkeys(title for of in by_kind.values() for title in of)
    found = []
    for labels in board.labels:
        lines = [["score", *kinds, "all", "", "lowest", "Kendall", "cost"]]
        for one in board.of(labels):
            between = f"[{number(one.low)}, {number(one.high)}]"
            numbers = map(number, (one.lowest, one.kendall, one.cost))
            kind = [_mean(of, one.title) for of in by_kind.values()]
            title = f"{one.score} (tied)" if one.tied else one.score
            lines.append([title, *kind, number(one.spearman), between, *numbers])
            others.pop(one.title)
        for title in others:
            score, _, seen = title.partition(":")
            if seen == labels:
                lines.append([score, *(_mean(of, title) for of in by_kind.values()), *[""] * 5])
        found += [f"### {f'Labels: {labels}' if labels else 'No labels'}", table(lines)]
    return found


def _others(everything: list[Contest]) -> str:
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
        draw_leaderboard(judge(asked_everywhere(found), repeats=REPEATS), args.plot)
