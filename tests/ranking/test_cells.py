"""Blocks of rows by cell, in several layouts at once: each row in its own cell, about the shift, and nothing behind it."""

from __future__ import annotations

import numpy as np
import pytest

from w2s_jax import InputError
from w2s_jax.ranking.cells import RowCells, about_first_row, labels_of, row_blocks, side_by_side, stacked, total
from w2s_jax.ranking.folds import Layout, Roles, lay_out

N = 47
RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((N, 5)) + 3
NOBODY = np.zeros((0, 1))
LAYOUTS = (
    Layout(np.zeros(N, int), 1, 1, Roles(NOBODY, NOBODY, NOBODY), None),
    lay_out(N, 4, None, None, 0),
    lay_out(N, 3, np.arange(N) % 3 > 0, None, 1),
)


@pytest.mark.parametrize("share", [1, 8])
@pytest.mark.parametrize("span", [(0, N), (10, 40)])
@pytest.mark.parametrize("size", [10, 16, 47, 1000])
def test_blocks_hold_each_row_once(size, span, share):
    """Rows of a cell stand there in order about the shift; zeros fill it up to a room that is the same in all blocks."""
    model = about_first_row("h", ROWS, np.float64)
    found = [[[] for _ in range(layout.cells)] for layout in LAYOUTS]
    shapes = set()
    for block in row_blocks(LAYOUTS, span, size, share):
        assert block.stop - block.start <= size
        parts = side_by_side([model], 7, block)
        shapes.add(tuple(part.shape for part in parts))
        for layout, part, rows in zip(LAYOUTS, parts, found, strict=True):
            inside = layout.cell[block.start : block.stop]
            for cell, held in enumerate(rows):
                count = int(np.sum(inside == cell))
                held.append(part[cell, :count, :5])
                assert not part[cell, count:].any()
                assert not part[cell, :, 5:].any()
    assert len(shapes) == 1
    assert all(room % share == 0 for _, room, _ in shapes.pop())
    for layout, rows in zip(LAYOUTS, found, strict=True):
        inside = layout.cell[slice(*span)]
        for cell, held in enumerate(rows):
            np.testing.assert_array_equal(np.concatenate(held), (ROWS - ROWS[0])[slice(*span)][inside == cell])


def test_models_stand_beside_each_other_or_behind():
    """Side by side in one array's features, or each padded to one width, with copies of the last to fill a batch."""
    models = [about_first_row(str(d), ROWS[:, :d], np.float32) for d in (2, 5)]
    (block,) = row_blocks(LAYOUTS[:1], (0, N), 100)
    (beside,) = side_by_side(models, 8, block)
    (behind,) = stacked(models, 6, 3, block)
    assert (beside.shape, behind.shape) == ((1, 48, 8), (3, 1, 48, 6))
    np.testing.assert_array_equal(beside[0, :, 2:7], behind[1, 0, :, :5])
    np.testing.assert_array_equal(behind[1], behind[2])


def test_sums_of_labels_are_exact():
    """Labels by cell, and what they add up to."""
    y = RNG.standard_normal((N, 2))
    rows = RowCells(LAYOUTS, y)
    (block,) = row_blocks(LAYOUTS, (0, N), 100)
    parts = labels_of(rows, block, np.float64)
    for sums, by_hand in zip(rows.label_sums, (np.sum, lambda x, axis: np.sum(x * x, axis)), strict=True):
        np.testing.assert_allclose(sums, np.concatenate([by_hand(part, 1) for part in parts]), rtol=1e-12)
    np.testing.assert_array_equal(
        rows.counts, [N, *(np.sum(of.cell == j) for of in LAYOUTS[1:] for j in range(of.cells))]
    )
    assert RowCells(LAYOUTS, None).label_sums == (None, None)
    assert [rows.of(i) for i in range(3)] == [slice(0, 1), slice(1, 5), slice(5, 11)]


def test_doubles_are_subtracted_as_doubles():
    """Without x64 a file of doubles loses no digits to a large mean."""
    model = about_first_row("h", ROWS + 1e9, np.float32)
    shift = model.shift.astype(float)
    (block,) = row_blocks(LAYOUTS[:1], (0, N), 100)
    np.testing.assert_array_equal(side_by_side([model], 5, block)[0][0, :N], np.float32(ROWS + 1e9 - shift))


def test_a_bad_value_is_named_by_its_row():
    """Counted from the first of all rows."""
    model = about_first_row("model 'h'", np.where(np.arange(N)[:, None] == 33, np.nan, ROWS), np.float32)
    *_, last = row_blocks(LAYOUTS[:1], (0, N), 16)
    with pytest.raises(InputError, match=r"the values of model 'h' contain.*row 33"):
        side_by_side([model], 5, last)


def test_totals_are_compensated():
    """Small parts are not lost beside a large one."""
    parts = [np.float32(1e8), *[np.float32(1)] * 1000]
    assert float(total({"x": x} for x in parts)["x"]) == 1e8 + 1000
