"""Padded widths: of all ways to let models share programs, the one of least cost."""

from __future__ import annotations

import itertools

from w2s_jax._core.arrays import bucket
from w2s_jax.ranking import widths


def test_widths_cost_least_together(monkeypatch):
    """The widths that models are padded to are the cheapest of all ways to group them, against every one of them."""
    monkeypatch.setattr(widths, "PROGRAM", {"cpu": 2e7})
    given = [8, 70, 70, 130, 190, 260]
    distinct = sorted(set(given))
    cost = lambda padded: (
        sum(widths.multiplications(padded[w], 64, 100, 3) for w in given) + 2e7 * len(set(padded.values()))
    )
    ways = []
    for cuts in itertools.product((False, True), repeat=len(distinct) - 1):
        groups: list[list[int]] = [[]]
        for width, cut in zip(distinct, (*cuts, False), strict=True):
            groups[-1].append(width)
            groups += [[]] * cut
        ways.append({w: bucket(max(group)) for group in map(list, groups) for w in group})
    assert cost(widths.padded_widths(given, 64, 100, 3)) == min(map(cost, ways))


def test_one_width_is_left_as_it_is():
    """Models of a single width are not padded at all."""
    assert widths.padded_widths([70, 70], 64, 100, 3) == {70: 70}
