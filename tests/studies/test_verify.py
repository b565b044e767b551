"""`w2s verify`: its numbers are those of its trials, a stopped run goes on, and what is broken is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import jax
import numpy as np
import pytest

from w2s_jax.cli import main
from w2s_jax.studies import verify, verify_figure
from w2s_jax.studies.verify import MEASURED, SCENARIOS, Verification, run_verify

SMALL = dict(scenarios=["low", "proportional"], largest=250, effort=0.0, progress=False)


@pytest.fixture(scope="module", autouse=True)
def once() -> Iterator[None]:
    """What depends on a scenario alone, or on nothing, is computed once for all runs: it takes longer than their trials."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "_broken", lru_cache(verify._broken))
        patch.setattr(verify_figure, "phase_diagram", lru_cache(verify_figure.phase_diagram))
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("verify") / "trials.jsonl"


@pytest.fixture(scope="module")
def found(store: Path) -> Verification:
    return run_verify(**SMALL, out=store)


@pytest.mark.everything
def test_cells_hold_the_numbers_of_their_trials(found, store):
    """Means, standard errors and median relative errors are those of the trials in the file."""
    lines = [json.loads(line) for line in store.read_text().splitlines()[1:]]
    for cell in found.cells:
        kept = [line["value"] for line in lines if line["key"][0] == cell.scenario]
        trials = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
        assert cell.trials == len(trials["gap"]) == 20
        for name in MEASURED:
            assert cell.mean[name] == pytest.approx(trials[name].mean())
            assert cell.se[name] == pytest.approx(trials[name].std(ddof=1) / 20**0.5)
        off = np.abs(trials["theorem"] / trials["gap"] - 1)
        median, low, high = cell.theorem
        assert median == pytest.approx(np.median(off))
        assert low <= median <= high


@pytest.mark.everything
def test_the_equivalent_is_near_and_the_theorem_only_within_its_conditions(found):
    """Twenty trials suffice to see that tails of width 2n bias the theorem and not the equivalent."""
    low, proportional = found.cells
    for cell in found.cells:
        assert all(abs(cell.bias[name]) <= 2 * cell.noise[name] + 0.01 for name in MEASURED)
    assert low.theorem[2] < 0.15 < proportional.theorem[1]
    assert found.broken == {"low": (), "proportional": (3, 4)}


@pytest.mark.everything
@pytest.mark.parametrize("cut", ["between lines", "within a line"])
def test_a_stopped_run_goes_on(found, store, tmp_path, monkeypatch, cut):
    """From a file that ends early only the missing chunks are simulated, and the results and the file are the same."""
    whole = store.read_text()
    lines = whole.splitlines(keepends=True)
    path = tmp_path / "trials.jsonl"
    path.write_text("".join(lines[:2]) + (lines[2][:50] if cut == "within a line" else ""))
    simulated = []
    real = verify._simulated
    monkeypatch.setattr(verify, "_simulated", lambda *job: simulated.append(job) or real(*job))
    assert json.dumps(run_verify(**SMALL, out=path).to_dict()) == json.dumps(found.to_dict())
    assert path.read_text() == whole
    assert len(simulated) == len(lines) - 2


@pytest.mark.everything
def test_trials_do_not_depend_on_their_chunk(found, store):
    """Trial i is the same however the trials are divided up."""
    whole = json.loads(store.read_text().splitlines()[1])
    assert whole["key"] == ["low", 250, 0, 20]
    parts = [verify._simulated("low", 250, first, 10, 0) for first in (0, 10)]
    for name, values in whole["value"].items():
        np.testing.assert_allclose(np.concatenate([part[name] for part in parts]), values, rtol=1e-4)


def test_the_rate_is_the_slope_of_a_power_law():
    """Errors that are exactly n^-1/2 have rate -1/2 and no standard error."""
    cell = lambda n: verify.Cell("low", n, 20, {}, {}, {}, (n**-0.5, 0.0, 1.0), (0.0, 0.0, 0.0))
    slope, error = verify._rate([cell(n) for n in (250, 500, 1000, 4000)])
    assert slope == pytest.approx(-0.5) and error == pytest.approx(0, abs=1e-8)


def test_the_band_of_a_median_covers_it():
    """The order statistics hold the true median in 95% of samples, give or take."""
    rng = np.random.default_rng(0)
    bands = np.array([verify._median_band(rng.exponential(size=101)) for _ in range(2000)])
    covered = np.mean((bands[:, 1] <= np.log(2)) & (np.log(2) <= bands[:, 2]))
    assert 0.94 <= covered <= 0.985


@pytest.mark.everything
def test_the_phase_diagram_has_both_phases():
    """With few labels the student beats its teacher, with few rows of its own it does not."""
    ratio, outcome = verify_figure.phase_diagram()
    beats = np.asarray(outcome.student_error < outcome.weak_error)
    assert beats.shape == (len(ratio), len(ratio))
    assert beats[0, -1] and not beats[-1, 0]


def test_every_scenario_can_be_built():
    """Each scenario has a population and rows for both splits at the smallest n."""
    for scenario in SCENARIOS.values():
        family, n_labelled, n_student, *ridges = scenario.at(250)
        assert np.isfinite(np.asarray(family.population.yy)) and min(n_labelled, n_student) > 0 and min(ridges) >= 0


@pytest.mark.everything
def test_the_command_prints_draws_and_writes(found, tmp_path, monkeypatch, capsys):
    """`w2s verify` prints the report, draws the figure and writes the results; a second run simulates nothing."""
    monkeypatch.chdir(tmp_path)
    arguments = ["verify", "--scenarios", "low", "proportional", "--largest", "250", "--effort", "0", "--quiet"]
    assert main([*arguments, "--out", "t.jsonl", "--json", "r.json", "--plot", "f.png"]) == 0
    printed = capsys.readouterr().out
    assert str(found) in printed and "conditions 3, 4 broken" in printed
    assert json.loads(Path("r.json").read_text()) == json.loads(json.dumps(found.to_dict()))
    assert Path("f.png").stat().st_size > 10_000
    monkeypatch.setattr(verify, "_simulated", lambda *job: pytest.fail("simulated again"))
    assert main([*arguments, "--out", "t.jsonl", "--plot", "f.svg"]) == 0


FAULTS = {
    "scenario": (["--scenarios", "nothing"], "scenarios must be some of low, spiked"),
    "largest": (["--largest", "10"], "largest must be at least 250, got 10"),
    "effort": (["--effort", "-1"], "effort must be at least 0, got -1"),
    "other run": (["--out", "other.jsonl"], "other.jsonl does not hold results of this version and these settings"),
    "no folder": (["--out", "none/t.jsonl"], "cannot keep results in none/t.jsonl"),
    "figure": (["--plot", "f.xyz"], "f.xyz: expected a figure such as .png"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_one_line(fault, tmp_path, monkeypatch, capsys):
    """Exit code 2, one line that names what is wrong, and nothing written."""
    monkeypatch.chdir(tmp_path)
    Path("other.jsonl").write_text('{"w2s_verify": "0.0.0", "seed": 0}\n')
    extra, message = FAULTS[fault]
    assert main(["verify", "--quiet", *extra]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert [path.name for path in Path().iterdir()] == ["other.jsonl"]


@pytest.mark.everything
def test_importing_starts_no_device():
    """The scenarios are recipes: nothing is computed before they are asked for."""
    assert all(callable(scenario.at) for scenario in SCENARIOS.values())
    assert not any(isinstance(value, jax.Array) for value in vars(verify).values())
