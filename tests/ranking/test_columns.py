"""Predictors as columns of a ranking."""

import jax.numpy as jnp
import numpy as np
import pytest

import w2s_jax as w2s
from w2s_jax.predictors import PREDICTORS, predictor
from w2s_jax.ranking import plot_ranking

N = 90
HEADS = w2s.ridge(1e-2, 0.0), w2s.ridge(1e-1, 0.0)
RIDGES = {"weak_ridge": 1e-2, "strong_ridge": 1e-1}


@pytest.fixture(scope="module")
def models() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((N, 4))
    noisy = lambda d: z @ rng.standard_normal((4, d)) + 0.5 * rng.standard_normal((N, d)) + 3
    return {"a": noisy(5), "b": noisy(8), "wide": noisy(120)}, noisy(7), z[:, :1] + 0.2 * rng.standard_normal((N, 1))


@predictor(reads="rows", needs="labels", predicts="nothing")
def of_labelled_rows(view):
    """Of row products, strengths and labels, whatever basis features are in and whatever labels are about."""
    y = view.labels - jnp.mean(view.labels, 0)
    shared = jnp.sum((view.h_w @ view.h_w.T) * (view.h_s @ view.h_s.T) * (y @ y.T))
    return shared * view.weak.strength / view.strong.strength


def as_heads_see_it(h: np.ndarray, normalize: str) -> np.ndarray:
    if normalize == "none":
        return h
    h = h - h.mean(0)
    h = h / h.std(0) if normalize == "features" else h
    return h / np.sqrt(np.mean(np.sum(h**2, 1)))


@pytest.mark.everything(but=1)
@pytest.mark.parametrize(("normalize", "labels"), [("features", "some"), ("scale", "all"), ("none", "some")])
def test_a_column_is_the_predictor_on_the_rows_it_needs(models, normalize, labels, x64):
    """Without labels on all rows, with labels on those that have one."""
    weak, strong, y = models
    given = np.where(np.arange(N)[:, None] % 3 == 0, y, np.nan) if labels == "some" else y
    known = ~np.isnan(given[:, 0])
    asked = PREDICTORS | {of_labelled_rows.name: of_labelled_rows}
    table = w2s.rank_supervisors(weak, strong, given, normalize=normalize, predictors=asked.values(), **RIDGES)
    for place, name in enumerate(table.names):
        h_w, h_s = (as_heads_see_it(h, normalize) for h in (weak[name], strong))
        m = w2s.moments(h_w, h_s, bias=normalize != "none")
        of_known = h_w[known], h_s[known], y[known]
        with_labels = w2s.moments(*of_known, bias=normalize != "none")
        heads = {"weak": HEADS[0], "strong": HEADS[1]}
        for column, of in asked.items():
            if of.reads == "moments":
                wanted = of(m if of.needs == "nothing" else with_labels, *HEADS)
            else:
                wanted = of.of_rows(*((h_w, h_s) if of.needs == "nothing" else of_known), **heads)
            assert table[column][place] == pytest.approx(float(wanted), rel=1e-6), (name, column)


@pytest.mark.everything
def test_ones_own_sorts_and_prints(models):
    weak, strong, _ = models

    @predictor(predicts="nothing", larger_is_better=True)
    def weak_freedom(pair):
        return jnp.sum(pair.f_w)

    table = w2s.rank_supervisors(weak, strong, predictors=[weak_freedom, "gulp"], **RIDGES)
    by_own = table.sort_by("weak_freedom")
    assert by_own.names[0] == "wide" and np.all(np.diff(by_own["weak_freedom"]) < 0)
    assert np.all(np.diff(table.sort_by("gulp")["gulp"]) > 0)
    assert "weak freedom *" in str(by_own) and "±" not in str(by_own).splitlines()[1].split("wide")[1].split()[1]
    axes = [plot_ranking(table, column).get_xlabel() for column in ("gulp", "cka")]
    assert axes == ["gulp", "linear CKA (± standard error)"]
    assert table.to_dict()["rows"][0]["gulp"] == table["gulp"][0] and np.isnan(table.se("gulp")).all()


@pytest.mark.everything
def test_the_command_asks_by_name(models, tmp_path, capsys):
    weak, strong, _ = models
    for name, h in (*weak.items(), ("strong", strong)):
        np.save(tmp_path / f"{name}.npy", h)
    files = [str(tmp_path / f"{name}.npy") for name in weak]
    from w2s_jax.cli import main

    line = ["rank", "--strong", str(tmp_path / "strong.npy"), "--weak", *files, "--quiet"]
    assert main([*line, "--predictor", "gulp", "svcca", "--sort", "svcca"]) == 0
    assert "svcca *" in capsys.readouterr().out
    assert main([*line, "--predictor", "gull"]) == 2
    assert "among prior_error" in capsys.readouterr().err


@pytest.mark.everything
def test_bad_predictors_are_named(models, unchecked):
    weak, strong, _ = models
    twice = predictor(predicts="nothing")(lambda pair: pair.f_w[0])
    for given, words in (
        (["misfit"], "need y, got 'misfit'"),
        (["gulp", "gulp"], "'gulp' twice"),
        ("gulp", "must be a list"),
        ([3], "got int"),
        (None, "must be a list, got None"),
        ([twice, twice], "twice"),
        ([predictor(predicts="")(_named("cka"))], "no other column has, got 'cka'"),
    ):
        with pytest.raises(w2s.InputError, match=words):
            w2s.rank_supervisors(weak, strong, predictors=given)


def _named(name: str):
    def of(pair):
        return pair.f_w[0]

    of.__name__ = name
    return of
