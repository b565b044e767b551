"""The numbers of a sweep: those of the ranking, for every combination of settings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sweeping import HIDDEN, LABELS, LITTLE, RNG, ROWS, TABLE, N, Y

from w2s_jax import rank_supervisors, run_sweep
from w2s_jax.ranking.cells import ModelRows
from w2s_jax.sweep.label_sets import Cells, sweep_rows
from w2s_jax.sweep.pairs import leading, model_from_sums
from w2s_jax.sweep.sums import model_sums

pytestmark = pytest.mark.usefixtures("folder")


RANKED = ("gap_op", "gap_fro", "cka", "predicted_gap", "expected_error", "expected_gap", "trial_error")


@pytest.mark.everything(but=1)
@pytest.mark.parametrize(
    ("weak", "normalize", "rows", "threshold", "labels", "groups"),
    [
        ("ab", "scale", "given", 0.0, "some", None),
        ("ab", "features", "given", 0.0, "all", None),
        ("ab", "features", "unit", 0.0, "some", None),
        ("d", "none", "given", 0.05, "one", np.arange(N) // 2),
    ],
)
def test_the_columns_are_those_of_the_ranking(x64, weak, normalize, rows, threshold, labels, groups):
    """Every column that the ranking has too is the same, standard errors included, whatever other label sets there are."""
    setting = {"normalize": normalize, "rows": rows, "weak_ridge": 0.01, "strong_ridge": 0.1, "threshold": threshold}
    setting |= {"folds": 3}
    more = {} if groups is None else {"groups": "groups.npy"}
    table = run_sweep({**TABLE, "weak": [f"[{weak}].npy"], "strong": ["s1.npy"], **setting, **more})
    assert len(table) == len(weak) * 3
    found = [row for row in table.to_dict()["rows"] if row["labels"] == labels]
    ranking = rank_supervisors(
        {name: ROWS[name] for name in weak}, {"s1": ROWS["s1"]}, LABELS[labels], groups=groups, **setting
    )
    for want in ranking.to_dict()["rows"]:
        row = next(row for row in found if row["weak"] == want["supervisor"])
        for column in RANKED:
            assert row[column] == pytest.approx(want[column], rel=1e-8), column
            if f"{column}_se" in row:
                assert row[f"{column}_se"] == pytest.approx(want[f"{column}_se"], rel=1e-8, abs=1e-8 * want[column])


@pytest.mark.everything
def test_a_cut_is_of_no_consequence_for_the_numbers(x64):
    """Where settings keep few of many eigenpairs pairs are scored with those alone, and have the numbers of the ranking."""
    wide = {name: ROWS["d"] + scale * RNG.standard_normal((N, 70)) for name, scale in (("v", 0.3), ("w", 0.6))}
    for name, rows in wide.items():
        np.save(f"{name}.npy", rows)
    table = run_sweep(
        {
            **LITTLE,
            "weak": ["a.npy", "v.npy", "w.npy"],
            "strong": ["d.npy"],
            "weak_threshold": [0.05, 0.2],
            "strong_threshold": [0.05, 0.3],
            "labels": {"some": "some.npy"},
        }
    )
    rows = sweep_rows(N, {}, None, 0, 0, "scale")
    cells = Cells(*(jnp.asarray(x) for x in rows.cells))
    model = model_from_sums(model_sums(ModelRows("d", ROWS["d"], ROWS["d"][:1]), rows), -1.0, cells, "scale")
    assert leading(model, 0.05, 16).vectors.shape == (1, 128, 16)
    ranking = rank_supervisors({"a": ROWS["a"], **wide}, ROWS["d"], HIDDEN, threshold=0.05)
    rows = [row for row in table.to_dict()["rows"] if row["weak_threshold"] == row["strong_threshold"] == 0.05]
    for want in ranking.to_dict()["rows"]:
        row = next(row for row in rows if row["weak"] == want["supervisor"])
        for column in ("gap_op", "gap_fro", "cka", "predicted_gap"):
            assert row[column] == pytest.approx(want[column], rel=1e-8), column


@pytest.mark.everything
def test_folds_only_add_columns(x64):
    """The in-sample columns do not depend on how the rows are divided for the others."""
    plain, folded = run_sweep(TABLE), run_sweep({**TABLE, "output": "folded", "folds": 4})
    for column in RANKED[:4]:
        np.testing.assert_allclose(folded[column], plain[column], rtol=1e-9)
    assert np.isnan(plain["expected_error"]).all()
    assert (folded["expected_error"] > 0).all()


@pytest.mark.everything
def test_a_grid_is_all_combinations(x64):
    """A row of a grid is the row of a sweep with that setting alone."""
    grid = {
        "weak_threshold": [0.0, 0.1],
        "strong_threshold": [0.02],
        "weak_ridge": [1e-3, 0.1],
        "strong_ridge": [0.01, 1],
    }
    table = run_sweep({**LITTLE, **grid})
    assert len(table) == 2 * 8
    keys = ("weak_threshold", "strong_threshold", "weak_ridge", "strong_ridge")
    for row in table.to_dict()["rows"][5:8]:
        alone = run_sweep({**LITTLE, "output": "alone", **{key: row[key] for key in keys}})
        same = next(other for other in alone.to_dict()["rows"] if other["weak"] == row["weak"])
        for column in ("gap_op", "gap_fro"):
            assert same[column] == pytest.approx(row[column], rel=1e-10)


def test_the_bound_is_above_the_gap(x64):
    """`predicted_gap <= gap_bound = ||P_s (I - P_w)||_op^2 E y^2` on the labelled rows."""
    table = run_sweep({**TABLE, "threshold": 0.05})
    assert (table["predicted_gap"] <= table["gap_bound"]).all()
    of_all = table["labels"] == "all"
    centred = Y - Y.mean(0)
    assert table["label_energy"][of_all] == pytest.approx(np.sum(centred**2) / N)
    assert table["gap_bound"][of_all] == pytest.approx(table["gap_op"][of_all] ** 2 * np.sum(centred**2) / N)
    assert set(table["n_labelled"][table["labels"] == "some"]) == {54}


@pytest.mark.everything
def test_single_precision_is_near_double():
    """Without x64 files of doubles are summed in single precision, about their first row."""
    table = run_sweep({**TABLE, "threshold": 0.05, "weak_ridge": 0.1})
    with jax.enable_x64(True):
        exact = run_sweep({**TABLE, "output": "exact", "threshold": 0.05, "weak_ridge": 0.1})
    for column in ("gap_op", "gap_fro", "cka", "predicted_gap"):
        np.testing.assert_allclose(table[column], exact[column], rtol=1e-4)


@pytest.mark.everything
def test_a_large_mean_loses_nothing():
    """Rows with a mean of 1e4 give the numbers of the rows without it."""
    plain = run_sweep(LITTLE)
    for name in ("a", "b", "s1"):
        np.save(f"{name}.npy", ROWS[name] + 1e4)
    moved = run_sweep(LITTLE)
    assert moved.changed == ("a", "b", "s1")
    for column in ("gap_op", "gap_fro", "cka"):
        np.testing.assert_allclose(moved[column], plain[column], rtol=1e-3)


@pytest.mark.everything
def test_batches_of_an_accelerator_score_the_same(monkeypatch):
    """Weak models scored several at a time, the last batch filled up, have the scores of one at a time."""
    alone = run_sweep({**TABLE, "weak": ["[abcd].npy"], "memory": 256})
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr("w2s_jax.sweep.pair_rows.BATCH", 2)
    together = run_sweep({**TABLE, "weak": ["[abcd].npy"], "memory": 256, "output": "together"})
    assert together["weak"].tolist() == alone["weak"].tolist()
    for column in ("gap_op", "gap_fro", "cka", "predicted_gap"):
        np.testing.assert_allclose(together[column], alone[column], rtol=1e-4)
