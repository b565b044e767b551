"""Predictors as columns of a sweep: the numbers of the ranking, kept and known again."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from sweeping import LABELS, LITTLE, RNG, ROWS, N, Y

from w2s_jax import InputError, rank_supervisors, run_sweep
from w2s_jax.cli import main
from w2s_jax.predictors import PREDICTORS, predictor
from w2s_jax.sweep import predictor_columns, read_sweep, sweep_config
from w2s_jax.sweep.predictor_columns import known_by

pytestmark = pytest.mark.usefixtures("folder")

ASKED = [name for name, of in PREDICTORS.items() if of.reads == "moments"]
FEW = ["gulp", "logme"]  # of which one depends on the setting and needs nothing
SETTING = {"weak_ridge": [0.1, 0.01], "strong_ridge": 0.05, "threshold": [0.0, 0.02]}
LABELLED = {**LITTLE, "labels": {"some": "some.npy"}}
WIDE = {**ROWS, "wide": ROWS["d"][:, :50] @ RNG.standard_normal((50, 130)) + RNG.standard_normal((N, 130))}


@predictor(needs="labels", predicts="nothing")
def of_label_means(view):
    """Of what labels were taken about, and of both heads."""
    return jnp.sum(view.moments.strong.label_mean) * jnp.sum(view.f_w) + jnp.sum(view.f_s)


@pytest.mark.filterwarnings("ignore:strong representation 'strong'. the threshold 0.02 keeps 2 of 24 directions")
@pytest.mark.parametrize(
    ("normalize", "weak", "labels", "more"),
    [
        ("features", "a", "some", {"folds": 3}),
        ("scale", "wide", "one", {"groups": "groups.npy", "folds": 4}),
        ("none", "wide", "some", {}),
    ],
)
def test_the_columns_are_those_of_the_ranking(x64, normalize, weak, labels, more):
    """Of every predictor at a setting of a grid, whatever other label sets there are; of models of fewer features than rows and of
    more, of labels on some rows and on all, with folds and groups and without."""
    np.save("wide.npy", WIDE["wide"])
    asked = [*ASKED, *([] if normalize == "none" else [of_label_means])]
    files = {"weak": f"{weak}.npy", "labels": {name: f"{name}.npy" for name in LABELS}, "normalize": normalize}
    table = run_sweep({**LITTLE, **files, **SETTING, **more, "predictors": asked})
    assert len(table) == 4 * 3
    setting = {"weak_ridge": 0.01, "strong_ridge": 0.05, "threshold": 0.02}
    groups = {"groups": np.arange(N) // 2} if "groups" in more else {}
    setting |= {"normalize": normalize, "predictors": asked}
    ranking = rank_supervisors({weak: WIDE[weak]}, ROWS["s1"], LABELS[labels], **setting, **groups)
    row = next(
        row
        for row in table.to_dict()["rows"]
        if (row["labels"], row["weak_ridge"], row["weak_threshold"]) == (labels, 0.01, 0.02)
    )
    for of in asked:
        name = of if isinstance(of, str) else of.name
        assert row[name] == pytest.approx(ranking[name][0], rel=1e-8), name
