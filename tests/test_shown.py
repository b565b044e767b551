"""Results in notebooks: tables of HTML with everything that is printed, escaped, in the page's own colours; and data frames."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from w2s_jax import SupervisorTable, Sweep, WeakToStrong
from w2s_jax.devices import MeasuredPrecision, PrecisionReport
from w2s_jax.experiment import Predicted
from w2s_jax.extract import Representations
from w2s_jax.studies import Cell, DemoConfig, DemoResult, Verification
from w2s_jax.studies.demo import Measured
from w2s_jax.theory import decomposability

NAME = "<b>net</b> & co"  # of a model


def table() -> SupervisorTable:
    values, errors = {"cka": np.array([0.9, np.nan])}, {"cka": np.array([0.1, np.nan])}
    return SupervisorTable((NAME, "b"), ("s", "s"), (8, 16), values, errors, "cka", {})


def outcome() -> WeakToStrong:
    errors = [jnp.array([x, x + 0.1]) for x in (0.4, 0.4, 0.4)]  # weak head, student, ceiling: no PGR
    return WeakToStrong(*errors, *(jnp.zeros(2) for _ in range(5)), predicted=Predicted(*errors, jnp.full(2, jnp.nan)))


def sweep() -> Sweep:
    rows = (NAME, "s", None, 0.5), ("b", "s", None, 0.25)
    return Sweep(("weak", "strong", "labels", "gap_op"), rows, 2, 3, Path("results"))


def verification() -> Verification:
    one = dict.fromkeys(("weak_error", "student_error", "ceiling_error", "gap"), 1.0)
    cells = [Cell("low", n, 100, one, one, one, (0.1, 0.09, 0.11), (0.1, 0.09, 0.11)) for n in (250, 500)]
    return Verification(tuple(cells), {"low": (float("nan"), float("nan"))}, {"low": (3, 4)})


def demo() -> DemoResult:
    names, columns = ("mlp8/full", "mlp8/half"), ("predicted_error", "trial_error", "expected_error")
    scores = {column: np.array([0.4, 0.2]) for column in columns}
    free, labelled = (
        SupervisorTable(names, ("s",) * 2, (8, 8), scores, scores, column, {"rows": 400})
        for column in (columns[-1], columns[0])
    )
    measured = Measured(*(np.array([[0.4, 0.4], [0.3, 0.2]]) + 0.1 * i for i in range(7)))
    return DemoResult(DemoConfig(), 0, names, free, labelled, measured)


RESULTS = {
    "ranking": (table, (NAME, "0.9 ±0.1", "linear CKA *"), 2),
    "experiment": (outcome, ("student error", "0.45", "[-0.1853, 1.085]", "pgr"), 2),
    "sweep": (sweep, ("b", "0.25", "1 not finished", "best teacher by gap_op"), 2),
    "decomposability": (
        lambda: decomposability(np.eye(4, 2), np.eye(4, 2)[::-1]),
        ("isotropic tail", "V has", "allowed"),
        5,
    ),
    "verification": (verification, ("[9.0%, 11.0%]", "conditions 3, 4 broken", "low dimension, no tail"), 2),
    "extraction": (lambda: Representations({NAME: np.zeros((1200, 3))}), (NAME, "1,200"), 1),
    "precision": (
        lambda: PrecisionReport("bf16_x6", "TPU", 8, 4, (MeasuredPrecision("float32", 1e-7, 1.0, 0.2),)),
        ("products of 8 x 4 rows on TPU: bf16_x6", "1e-07"),
        1,
    ),
    "demo": (demo, ("mlp8/half", "Spearman correlation", "hindsight"), 2),
}
PARAMETERS = [pytest.param(*case, id=name) for name, case in RESULTS.items()]


class Page(HTMLParser):
    """The text of a page, its tags and styles; tags must be closed in the order in which they are opened."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.styles, self.tags, self.open = [], [], set(), []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.add(tag)
        self.styles += [value for name, value in attrs if name == "style"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.everything(but=1)
@pytest.mark.parametrize(("make", "told", "rows"), PARAMETERS)
def test_html_says_what_is_printed(make: Any, told: tuple[str, ...], rows: int):
    """Names, numbers, intervals; names are text, whatever is in them, and a missing number is no `nan`."""
    page = Page(make()._repr_html_())
    text = "\n".join(page.text)
    assert [part for part in told if part not in text] == []
    assert "nan" not in text.lower()
    assert page.tags <= {"div", "p", "table", "thead", "tbody", "tr", "th", "td"}


@pytest.mark.parametrize(("make", "told", "rows"), PARAMETERS)
def test_html_has_no_colours_of_its_own(make: Any, told: tuple[str, ...], rows: int):
    """It can be read on a light page and on a dark one."""
    styles = " ".join(Page(make()._repr_html_()).styles)
    assert styles
    assert "background" not in styles
    assert "color" not in styles.replace("currentColor", "")


@pytest.mark.parametrize(("make", "told", "rows"), PARAMETERS)
def test_converts(make: Any, told: tuple[str, ...], rows: int):
    """Plain dicts that JSON can take, and a data frame with a row for each thing."""
    pytest.importorskip("pandas")
    result = make()
    assert json.loads(json.dumps(result.to_dict()))
    frame = result.to_pandas()
    assert len(frame) == rows
    assert str(result) == repr(result) or isinstance(result, PrecisionReport)


def test_predictions_are_columns_of_the_frame():
    """A row per split, measured and predicted beside each other; one experiment is one row."""
    pytest.importorskip("pandas")
    frame = outcome().to_pandas()
    np.testing.assert_allclose(frame["predicted_student_error"], frame["student_error"])
    assert len(outcome().mean().to_pandas()) == 1


def test_missing_numbers_are_dashes():
    """In text as in HTML: of constant labels there is no PGR."""
    line = next(line for line in str(outcome()).splitlines() if line.startswith("pgr"))
    assert line.split() == ["pgr", "–"]
    assert str(table()).splitlines()[-1].split() == ["2", "b", "16", "–"]


def test_traced_outcomes_have_no_table():
    """Inside jit there are no numbers to show."""
    shown = []
    jax.jit(lambda found: shown.append(found._repr_html_()))(outcome())
    assert shown == [None]
