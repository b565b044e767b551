"""The experiment on selected rows: students are trained on the chosen rows alone, and its page is the one its results give."""

from pathlib import Path

import numpy as np
import pytest
import reference

from benchmarks.experiments.selection import halves, page
from benchmarks.experiments.selection.tasks import Setting
from w2s_jax.select import select_rows

RESULTS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def setting() -> Setting:
    rng = np.random.default_rng(0)
    h = rng.standard_normal((120, 6)).astype(np.float32)
    truth = (h[:, 0] > 0).astype(int)
    said = 1 / (1 + np.exp(-3 * (h[:, 0] + 0.5 * rng.standard_normal(120))))
    return Setting("task", "a", "b", 0, h[:80, :3], h[:80], said[:80], truth[:80], h[80:], truth[80:])


def test_students_see_the_chosen_rows(setting):
    """Errors and accuracies of a dense head that is trained on those rows."""
    score = np.random.default_rng(1).random(80)
    rows = {(row["score"], row["half"]): row for row in halves.judged(setting, {"mine": score}, 1e-2)}
    y, target = (np.where(classes > 0, 1.0, -1.0) for classes in (setting.hard, setting.test_truth))
    assert len([name for name, _ in rows if name == "random"]) == halves.RANDOM_HALVES
    for half, chosen in (("kept", select_rows(score).mask), ("other", ~select_rows(score).mask)):
        fit = setting.h_s[chosen].astype(float)
        scale = np.sqrt(6) * fit.std(0)
        said = reference.ridge_outputs(fit / scale, y[chosen], 1e-2)(setting.test / scale)
        found = rows["mine", half]
        assert found["error"] == pytest.approx(np.mean((said - target) ** 2) / target.var(), rel=1e-3)
        assert found["accuracy"] == np.mean((said > 0) == (target > 0))
        assert found["label_accuracy"] == np.mean(setting.hard[chosen] == setting.truth[chosen])


def test_the_page_is_that_of_the_results():
    cells = page.read_cells(RESULTS / "results" / "selection.csv.gz")
    assert page.page(cells) == (RESULTS / "experiments" / "selection" / "RESULTS.md").read_text()
