"""Pairs met by kernels, and models of fewer rows than features: the numbers of moments and of the product of all features."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from w2s_jax import InputError, run_sweep
from w2s_jax.devices import device_mesh
from w2s_jax.sweep import kernels, run, workers
from w2s_jax.sweep.kernels import KeptSize, Kernel, kernel_entries, products
from w2s_jax.sweep.table import Sweep, read_sweep

N = 90
WIDTHS = {"w1": 70, "w2": 100, "w3": 110, "w4": 120, "s1": 300, "s2": 50, "s3": 400}
LABELS = ("all", "some", "few")
WIDE = {
    "output": "out",
    "weak": ["w?.npy"],
    "strong": ["s?.npy"],
    "labels": {name: f"{name}.npy" for name in LABELS},
    "threshold": [0.05, 0.2],
}


@pytest.fixture(autouse=True)
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchecked: None) -> dict[str, np.ndarray]:
    """Models and labels in files, in slabs of 32 rows, no more than two weak models at once; compiled programs are not kept."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kernels, "TILE", 32)
    monkeypatch.setattr(kernels, "TOGETHER", 2)
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((N, 6))
    noise = lambda d: rng.standard_normal((N, d)) * np.arange(1, d + 1) ** -1.2
    models = {name: latent @ rng.standard_normal((6, d)) / 3 + noise(d) + 3 for name, d in WIDTHS.items()}
    y = latent[:, :2] + 1
    hidden = [np.where(np.arange(N)[:, None] % 5 < kept, y, np.nan) for kept in (3, 2)]
    for name, x in {**models, **dict(zip(LABELS, (y, *hidden), strict=True))}.items():
        np.save(f"{name}.npy", x)
    return models


def by_features(monkeypatch: pytest.MonkeyPatch, config: dict) -> Sweep:
    """The table made of moments and the product of all features."""
    with monkeypatch.context() as patched:
        widths = lambda self: {name: model.width for name, model in self.inputs.sources.items()}
        patched.setattr(workers.Workers, "widths", property(widths))
        patched.setattr(run, "_kernel_groups", lambda *args: [])
        return run_sweep({**config, "output": "features"})


@pytest.mark.everything
@pytest.mark.parametrize(
    ("normalize", "norm"), [("scale", "given"), ("features", "given"), ("features", "unit"), ("none", "given")]
)
def test_the_numbers_are_those_of_all_features(x64, monkeypatch, rows, normalize, norm):
    """Of every pair, setting and label set, for models and cuts of several widths; CKA is also that of its definition."""
    config = {**WIDE, "normalize": normalize, "rows": norm, "memory": 1}
    want = by_features(monkeypatch, config)
    monkeypatch.setattr(workers, "cross_sums", None)
    table = run_sweep(config)
    assert len(table) == len(want) == 12 * 2 * 3
    for column in ("gap_op", "gap_fro", "cka", "gap_bound", "predicted_gap"):
        np.testing.assert_allclose(table[column], want[column], rtol=1e-9, err_msg=column)
    if normalize == "features":
        return
    row = table.to_dict()["rows"][0]
    weak, strong = (rows[row[side]] - rows[row[side]].mean(0) for side in ("weak", "strong"))
    norm = lambda a, b: np.linalg.norm(a.T @ b)
    assert row["cka"] == pytest.approx(norm(strong, weak) ** 2 / norm(strong, strong) / norm(weak, weak), rel=1e-12)


@pytest.mark.everything
def test_single_precision_is_as_near_double_as_by_features(monkeypatch, rows):
    """At any scale of the rows, to a factor of two of the worst pair."""
    for name, x in rows.items():
        np.save(f"{name}.npy", x * (1e15 if name[0] == "w" else 1e-15))
    config = {**WIDE, "labels": {"some": "some.npy"}, "normalize": "scale"}
    tables = run_sweep(config), by_features(monkeypatch, config)
    with jax.enable_x64(True):
        exact = run_sweep({**config, "output": "exact"})
    for column in ("gap_op", "gap_fro", "cka", "predicted_gap"):
        found, by_moments = (np.max(np.abs(table[column] - exact[column])) for table in tables)
        assert 0 < found <= 2 * by_moments + 1e-6, column


@pytest.mark.everything(but=1)
@pytest.mark.parametrize("change", [{"threshold": 0.0}, {"folds": 3}, {"strong": ["s2.npy"]}, {"predictors": ["gulp"]}])
def test_features_where_they_take_fewer_products(monkeypatch, change):
    """Without a cut, with folds or predictors, and for narrow models the product of features is taken."""

    def multiplied(*args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "cross_sums", multiplied)
    with pytest.raises(KeyboardInterrupt):
        run_sweep({**WIDE, "weak": ["w1.npy"], "labels": {}, **change})


def test_products_are_counted():
    """Two kernels of three slabs and their product, the projections of both models, and the product of their kept features."""
    entries = 6 * 32**2
    assert kernel_entries(90) == entries
    found = products(90, 2, [KeptSize(90, 20)], [KeptSize(80, 10)])
    assert found == entries * (90 + 80 + 1) + 2 * 90 * (90 * 20 + 80 * 10 + 20 * 10)


@pytest.mark.everything
def test_a_stopped_run_goes_on(monkeypatch):
    """With little memory strong models are read once for several groups of weak ones; groups that are done stay done, and the
    table is that of a run that was not stopped."""
    met, read = [], []
    real_meet, real_read = workers.meet_weak, workers.read_strong

    def meet(models, *args):
        if len(met) == 2:
            raise KeyboardInterrupt
        found = real_meet(models, *args)
        met.append(sorted(models))
        return found

    monkeypatch.setattr(workers, "meet_weak", meet)
    monkeypatch.setattr(
        workers, "read_strong", lambda models, *args: read.append(len(models)) or real_read(models, *args)
    )
    config = {**WIDE, "memory": 0.5}
    with pytest.raises(KeyboardInterrupt):
        run_sweep(config)
    assert (met, read) == ([["w1"], ["w2"]], [3])
    assert read_sweep("out").finished == 6
    monkeypatch.setattr(workers, "meet_weak", real_meet)
    resumed = run_sweep(config)
    assert resumed.computed == 6
    for table, file in ((resumed, "resumed.csv"), (run_sweep({**config, "output": "whole"}), "whole.csv")):
        table.export(file)
    assert Path("resumed.csv").read_bytes() == Path("whole.csv").read_bytes()


def test_a_change_while_running_is_an_error(monkeypatch, rows):
    """A file that changes between its moments and its pairs is named, and its pairs are not kept."""
    real = workers.read_strong

    def slow(*args):
        np.save("w2.npy", rows["w2"][:, ::-1])
        return real(*args)

    monkeypatch.setattr(workers, "read_strong", slow)
    with pytest.raises(InputError, match="'w2' has changed while the sweep was running"):
        run_sweep(WIDE)
    assert len(read_sweep("out")) == 0


@pytest.mark.everything
@pytest.mark.parametrize("output", ["anew", "out"])
def test_several_devices_take_what_one_has_kept(x64, rows, output):
    """Over several devices pairs are met by features, models of more and of fewer rows than features of one padded width
    together, also those that one device has kept. The numbers are those of kernels."""
    for name, width in (("w1", 36), ("w2", 50), ("w3", 110), ("s1", 300), ("s2", 50)):
        np.save(f"{name}.npy", rows[name][:38, :width])
    config = {**WIDE, "weak": ["w[123].npy"], "strong": ["s[12].npy"], "labels": {}, "threshold": [0.0, 0.05]}
    run_sweep(config)
    config["weak_ridge"] = 0.5
    found, want = run_sweep({**config, "output": output}, mesh=device_mesh()), run_sweep({**config, "output": "one"})
    assert len(found) == 12
    for column in ("gap_op", "gap_fro", "cka"):
        np.testing.assert_allclose(found[column], want[column], rtol=1e-7, err_msg=column)


def test_it_lowers_for_accelerators():
    """The programs of a model's kernel and of a batch of weak models, for CPU, CUDA and TPU."""
    weak = [Kernel(jnp.ones((6, 64)), jnp.ones((1, 24, 4)))] * 2
    strong = Kernel(jnp.ones((5, 6, 64)), jnp.ones((1, 24, 7)))
    exported = export.export(kernels._meet, platforms=("cpu", "cuda", "tpu"))(weak, jnp.ones(2), strong, jnp.ones(1))
    assert [x.shape for x in exported.out_avals] == [(2, 5), (2, 1, 7, 4)]
