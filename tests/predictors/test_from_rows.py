"""Predictors that read rows, and H-scores, against dense references; in a ranking by blocks and for several strong models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import w2s_jax as w2s
from w2s_jax._core import row_blocks
from w2s_jax.predictors import PREDICTORS, predictor
from w2s_jax.ranking import cells, rank
from w2s_jax.ranking.from_rows import rows_scorer

CKA, TWO_NN = PREDICTORS["debiased_cka"], PREDICTORS["two_nn_dimension"]
RNG = np.random.default_rng(0)
N = 24
Z = RNG.standard_normal((N, 6))
H_W, H_S = (Z @ RNG.standard_normal((6, d)) + 0.3 * RNG.standard_normal((N, d)) + 2 for d in (5, 30))
CLASSES = np.arange(N) % 3


def with_copies(h: np.ndarray) -> np.ndarray:
    """With a dozen rows that are the same, more than there are candidates, and some that differ by rounding alone."""
    same = np.repeat(h[:1], 12, 0)
    return np.concatenate([h, same, h[3:6] * (1 + 1e-6)])


def both(h_w: np.ndarray, h_s: np.ndarray) -> list[float]:
    return [float(CKA.of_rows(h_w, h_s)), float(TWO_NN.of_rows(h_w, None))]


def test_numbers_are_those_of_the_definitions(dtype, monkeypatch):
    monkeypatch.setattr(row_blocks, "BLOCK_ENTRIES", 7 * N)  # blocks of rows, the last a shorter one
    rel = 1e-8 if dtype == np.float64 else 2e-4
    assert float(CKA.of_rows(H_W.astype(dtype), H_S.astype(dtype))) == pytest.approx(
        reference.debiased_cka(H_W, H_S), rel=rel
    )
    for h in (H_W, with_copies(H_W)):
        assert float(TWO_NN.of_rows(h.astype(dtype), None)) == pytest.approx(reference.two_nn_dimension(h), rel=rel)


def test_rotations_scales_origins_and_columns_of_zeros_change_nothing(x64):
    rotation = np.linalg.qr(RNG.standard_normal((5, 5)))[0]
    changed = np.pad(3 * H_W @ rotation - 1, ((0, 0), (0, 4)))
    assert both(changed, 0.1 * H_S + 5) == pytest.approx(both(H_W, H_S), rel=1e-8)


def test_what_they_estimate(x64):
    """The number of coordinates of a cube, also with copies of rows and near ones, and no similarity of unrelated wide rows."""
    rng = np.random.default_rng(1)
    h = rng.uniform(size=(800, 3)) @ rng.standard_normal((3, 20))
    near = h[:30] + 1e-4 * rng.standard_normal((30, 20))
    for rows, off in ((h, 0.1), (np.concatenate([h, h[:400]]), 0.1), (np.concatenate([h, near]), 0.3)):
        assert float(TWO_NN.of_rows(rows, None)) == pytest.approx(3, rel=off)
    unrelated = [float(CKA.of_rows(*rng.standard_normal((2, N, 40)))) for _ in range(40)]
    assert abs(np.mean(unrelated)) <= 4 * np.std(unrelated) / 40**0.5
    assert float(TWO_NN.of_rows(np.eye(4)[[0, 0, 1, 1]], None)) == 0  # two rows that differ


def test_batches_and_gradients(x64):
    views = jnp.stack([jnp.asarray(H_W), jnp.asarray(H_W) ** 2])
    for of, partner in ((CKA, H_S), (TWO_NN, None)):
        found = jax.vmap(lambda h, of=of, partner=partner: of.of_rows(h, partner))(views)
        assert np.asarray(found) == pytest.approx([float(of.of_rows(h, partner)) for h in views], rel=1e-8)
        of_step = lambda t, of=of, partner=partner: of.of_rows(H_W + t * H_W**2, partner)
        slope = (of_step(1e-6) - of_step(-1e-6)) / 2e-6
        assert float(jax.jacrev(of_step)(0.0)) == pytest.approx(float(slope), rel=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_h_scores_are_traces_of_class_means(bias, x64):
    """Of representations without full rank, one of them with as many features as rows; a class of no row does not count."""
    one_hot = np.eye(4)[CLASSES]
    about = H_W - H_W.mean(0)
    for h in (np.concatenate([about, about[:, :2]], 1), about, H_S - H_S.mean(0)):
        m = w2s.moments(h, H_S, one_hot, bias=bias)
        for name, ridge in (("h_score", 0.0), ("regularised_h_score", 0.3)):
            found = float(PREDICTORS[name](m, w2s.ridge(ridge), w2s.ridge(0.1)))
            assert found == pytest.approx(reference.h_score(h, CLASSES, ridge), rel=1e-7)
    two = CLASSES > 0
    for y in (np.where(two, 1.0, -1.0), np.eye(2)[two.astype(int)]):  # one output or two say the same
        found = float(PREDICTORS["h_score"](w2s.moments(about, H_S, y, bias=True), w2s.ridge(0.3), w2s.ridge(0.1)))
        assert found == pytest.approx(reference.h_score(about, two), rel=1e-8)


@predictor(reads="weak_rows", predicts="nothing")
def rows_in_order(view):
    """Depends on the order of rows."""
    return jnp.sum(view.h_w * jnp.arange(1.0, len(view.h_w) + 1)[:, None])


def test_a_ranking_reads_rows_in_blocks_and_asks_the_weak_alone_once(monkeypatch, x64):
    """Rows in any block, of several strong models, classes in labels: a program for each width and what is read."""
    monkeypatch.setattr(cells, "BLOCK_ROWS", 16)
    asked = {"debiased_cka": CKA, "two_nn_dimension": TWO_NN, "rows_in_order": rows_in_order, "h_score": "h_score"}
    y = np.where(np.arange(N)[:, None] % 4 > 0, np.eye(3)[CLASSES], np.nan)
    known = ~np.isnan(y[:, 0])
    weak = {"a": H_W[:, :3], "b": H_W}
    strong = {"s": H_S[:, :20], "t": H_S[:, 10:]}
    table = rank.rank_supervisors(weak, strong, y, normalize="scale", predictors=asked.values())
    programs = [rows_scorer((CKA, TWO_NN, rows_in_order), "scale"), rows_scorer((CKA,), "scale")]
    assert [program.programs() for program in programs] == [1, 1]
    for i, (name, of) in enumerate(zip(table.names, table.strong, strict=True)):
        h, h_s = weak[name] - weak[name].mean(0), strong[of]
        scaled = h / np.sqrt(np.mean(np.sum(h**2, 1)))
        wanted = [reference.debiased_cka(h, h_s), reference.two_nn_dimension(h)]
        wanted += [np.sum(scaled * np.arange(1, N + 1)[:, None]), reference.h_score(h[known], CLASSES[known])]
        assert [table[column][i] for column in asked] == pytest.approx(wanted, rel=1e-7)


def test_bad_arguments_are_named(unchecked):
    m, head = w2s.moments(H_W, H_S), w2s.ridge(0.1)
    strong = predictor(reads="weak_rows", predicts="")(lambda view: jnp.sum(view.h_s))
    labels = predictor(reads="rows", needs="labels", predicts="")(lambda view: jnp.sum(view.labels))
    unasked = predictor(reads="rows", predicts="")(lambda view: jnp.sum(view.labels))
    for call, words in (
        (lambda: CKA(m, head, head), r"'debiased_cka' reads rows, got moments: call debiased_cka.of_rows\(h_w, h_s\)"),
        (lambda: PREDICTORS["gulp"].of_rows(H_W, H_S), "'gulp' reads moments, got rows"),
        (lambda: CKA.of_rows(H_W, H_S[1:]), "same number of rows"),
        (lambda: CKA.of_rows(H_W, None), "h_s must be given"),
        (lambda: CKA.of_rows(H_W, H_S, weak=0.1), "weak must be a filter"),
        (lambda: CKA.of_rows(H_W[:3], H_S[:3]), "at least 4 rows, got 3"),
        (lambda: TWO_NN.of_rows(H_W[:2], None), "at least 3 rows, got 2"),
        (lambda: strong.of_rows(H_W, H_S), 'reads must be "rows"'),
        (lambda: labels.of_rows(H_W, H_S), "y must be given"),
        (lambda: unasked.of_rows(H_W, H_S), 'needs must be "labels"'),
        (lambda: predictor(reads="files", predicts=""), "reads must be"),
    ):
        with pytest.raises(w2s.InputError, match=words):
            call()
