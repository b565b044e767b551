"""The leaderboard's own tasks: teachers of known populations, whose students' errors have no test rows' noise in them, and the
demo's encoders of scikit-learn's digits.

In a family all teachers and the strong model see one latent `x ~ N(0, I)`, of which the labels are a linear function plus noise:

- `subspaces`: a teacher sees some of the strong model's directions as they are, and others that the strong model does not see;
- `power_law`: random mixtures of the latent, whose spectrum decays slowly or fast, with noise of their own;
- `tails`: strong directions of spiked spectra, some of them missing, with wide isotropic tails or narrow ones;
- `relu`: random ReLU features of few or all inputs, for a target that is a sum of ReLU features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from w2s_jax.leaderboard.judging import Contest
from w2s_jax.predictors import PREDICTORS
from w2s_jax.ranking.rank import rank_supervisors
from w2s_jax.ranking.table import LARGER_IS_BETTER
from w2s_jax.studies.demo import DemoConfig, digit_encoders, measure_students
from w2s_jax.studies.simulation import simulate
from w2s_jax.studies.synthetic import GaussianFamily, ReluFamily
from w2s_jax.theory.equivalent import Tail

ROWS = 300  # of D~, of D^ and of the rest, in every task
LABELS = (30, 100)  # label sets beside all of D~
TEACHERS = 20  # of a family
WIDTH, STRONG = 64, 48  # most features of a family's teacher, those of its strong model
NOISE = 0.25  # of the labels, in units of their signal's variance
TRIALS = 20  # simulated experiments that a family's errors are means over
MEASURED = ("weak_error", "student_error", "ceiling_error", "gap")
LARGEST = LARGER_IS_BETTER | {name for name, of in PREDICTORS.items() if of.larger_is_better}


@dataclass(frozen=True)
class Task:
    """Representations of the same rows, by teacher and of the strong model, labels of which those of `labelled` may be seen, and
    what students at a ridge strength make of it."""

    name: str
    strong_name: str
    weak: Mapping[str, np.ndarray]
    strong: np.ndarray
    y: np.ndarray
    labelled: np.ndarray
    measure: Callable[[float], dict[str, np.ndarray]]

    def contest(self, ridge: float) -> Contest:
        """All scores and predictors at one ridge strength, without labels, with few and with all of D~."""
        scores: dict[str, np.ndarray] = {}
        for count in (*LABELS, None):
            seen = np.zeros(len(self.y), bool)
            seen[self.labelled[:count]] = True
            table = rank_supervisors(
                self.weak,
                self.strong,
                np.where(seen, self.y, np.nan),
                weak_ridge=ridge,
                strong_ridge=ridge,
                normalize="scale",
                predictors=list(PREDICTORS),
            )
            place = {name: i for i, name in enumerate(table.names)}
            order = [place[name] for name in self.weak]
            for column in table.columns:
                title = f"{column}:{count or 'all'}" if sees_labels(column) else column
                scores[title] = oriented(column, table[column][order])
        return Contest(self.name, self.strong_name, ridge, tuple(self.weak), scores, self.measure(ridge))


def sees_labels(column: str) -> bool:
    """Whether a column of a ranking, or a predictor, uses labels."""
    if column in PREDICTORS:
        return PREDICTORS[column].needs == "labels"
    return column in ("predicted_error", "trial_error", "posterior_error", "predicted_gap")


def oriented(title: str, values: np.ndarray) -> np.ndarray:
    """A score, `NAME` or `NAME:LABELS`, with its sign changed if the largest is the best; or changed back."""
    return -values if title.partition(":")[0] in LARGEST else values


def family_task(name: str, seed: int = 0) -> Task:
    """One of `FAMILIES`, its teachers drawn anew for each seed."""
    number = list(FAMILIES).index(name)
    drawn = FAMILIES[name](np.random.default_rng([seed, number]))
    families = {teacher: _on_one_scale(family) for teacher, family in drawn.items()}
    key, trials = jax.random.split(jax.random.fold_in(jax.random.key(seed), number))
    samples = {teacher: family.sample(key, 3 * ROWS) for teacher, family in families.items()}
    live = {teacher: np.asarray(of.h_w)[:, np.any(np.asarray(of.h_w) != 0, 0)] for teacher, of in samples.items()}
    first = next(iter(samples.values()))

    def measure(ridge: float) -> dict[str, np.ndarray]:
        keys = jax.random.split(trials, TRIALS)
        found = [simulate(keys, family, ROWS, ROWS, ridge, ridge) for family in families.values()]
        return {name: np.array([float(jnp.mean(getattr(of, name))) for of in found]) for name in MEASURED}

    return Task(name, "strong", live, np.asarray(first.h_s), np.asarray(first.y), np.arange(ROWS), measure)


def _on_one_scale(family: GaussianFamily | ReluFamily) -> GaussianFamily | ReluFamily:
    """With features of mean square 1 in all, a target of variance 1, and teachers of one shape, filled up with zeros."""
    population, tail = family.population, getattr(family, "tail_w", None)
    weak, strong = jnp.trace(population.ww), jnp.trace(population.ss)
    if tail is not None:
        weak = weak + tail.variance * tail.width
    filled = lambda x: jnp.pad(x, ((0, WIDTH - len(x)), (0, 0))) / jnp.sqrt(weak)
    to_target = 1 / jnp.sqrt(population.yy)
    if isinstance(family, ReluFamily):  # positively homogeneous
        return replace(family, W_w=filled(family.W_w), W_s=family.W_s / jnp.sqrt(strong), c=family.c * to_target)
    parts = {"A_w": filled(family.A_w), "A_s": family.A_s / jnp.sqrt(strong), "a": family.a * to_target}
    return replace(family, **parts, tail_w=tail and Tail(tail.variance / weak, tail.width))


def _gaussian(A: np.ndarray, A_s: np.ndarray, a: np.ndarray, tail: Tail | None = None) -> GaussianFamily:
    A, A_s, a = (np.asarray(x, np.float32) for x in (A, A_s, a))
    return GaussianFamily(jnp.asarray(A), jnp.asarray(A_s), jnp.asarray(a), NOISE, tail)


def _subspaces(rng: np.random.Generator) -> dict[str, GaussianFamily]:
    A_s = np.eye(STRONG, STRONG + WIDTH)
    a = np.pad(rng.standard_normal(STRONG) / (1 + np.arange(STRONG)) ** 0.5, (0, WIDTH))
    found = {}
    for i in range(TEACHERS):
        common, own = rng.integers(4, STRONG // 2), rng.integers(2, WIDTH // 2)
        chosen = np.concatenate([rng.permutation(STRONG)[:common], STRONG + np.arange(own)])
        found[f"{common}-of-{common + own}-{i}"] = _gaussian(np.eye(STRONG + WIDTH)[chosen], A_s, a)
    return found


def _power_law(rng: np.random.Generator) -> dict[str, GaussianFamily]:
    latent = 80
    mixed = lambda width, power: rng.standard_normal((width, latent)) * (1 + np.arange(latent)) ** (-power / 2)
    A_s, a = (np.pad(x, ((0, 0), (0, WIDTH))) for x in (mixed(STRONG, 1.0), mixed(1, 1.0)))
    found = {}
    for i in range(TEACHERS):
        width, power, blur = int(rng.integers(8, WIDTH + 1)), rng.uniform(0.2, 2.5), rng.uniform(0, 1.5)
        signal = mixed(width, power)
        seen = np.concatenate([signal / np.sqrt(np.mean(np.sum(signal**2, 1))), blur * np.eye(width, WIDTH)], 1)
        found[f"{width}-decay{power:.1f}-noise{blur:.1f}-{i}"] = _gaussian(seen, A_s, a[0])
    return found


def _tails(rng: np.random.Generator) -> dict[str, GaussianFamily]:
    spikes = 24
    A_s, a = np.diag((1 + np.arange(spikes)) ** -0.5), rng.standard_normal(spikes)
    found = {}
    for i in range(TEACHERS):
        seen = rng.random(spikes) < rng.uniform(0.3, 1.0)
        A = A_s * (seen * rng.uniform(0.5, 1.5, spikes))
        width, share = int(rng.integers(20, 500)), rng.uniform(0.05, 0.7)
        tail = Tail(jnp.float32(share * np.sum(A**2) / width), jnp.float32(width))
        found[f"{seen.sum()}-spikes-tail{width}-{i}"] = _gaussian(A, A_s, a, tail)
    return found


def _relu(rng: np.random.Generator) -> dict[str, ReluFamily]:
    inputs, hidden = 16, 40
    scale = (1 + np.arange(inputs)) ** -0.5
    draw = lambda width, seen=inputs: rng.standard_normal((width, inputs)) * scale * (np.arange(inputs) < seen)
    W_s, W_t, c = draw(STRONG), draw(hidden), rng.standard_normal(hidden)
    found = {}
    for i in range(TEACHERS):
        width, seen = int(rng.integers(4, WIDTH + 1)), int(rng.integers(2, inputs + 1))
        W_w, *others = (jnp.asarray(x, jnp.float32) for x in (draw(width, seen), W_s, W_t, c))
        found[f"{width}-of-{seen}-inputs-{i}"] = ReluFamily(W_w, *others, noise=NOISE)
    return found


FAMILIES: dict[str, Callable[[np.random.Generator], dict[str, Any]]] = {
    "subspaces": _subspaces,
    "power_law": _power_law,
    "tails": _tails,
    "relu": _relu,
}
DIGITS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "digits_parity": lambda digit: np.where(digit % 2 == 0, 1.0, -1.0),
    "digits_size": lambda digit: np.where(digit < 5, 1.0, -1.0),
}


def digits_task(name: str, seed: int = 0) -> Task:
    """One of `DIGITS`: the demo's encoders, its splits, and a question about the digit.

    Raises:
        InputError: scikit-learn is not installed.
    """
    config = DemoConfig(teaching_images=ROWS)
    found = digit_encoders(config, seed)
    y = DIGITS[name](found.digits)

    def measure(ridge: float) -> dict[str, np.ndarray]:
        errors = measure_students(found.weak, found.strong, y, found.splits, ridge)
        return {name: getattr(errors, name).mean(-1) for name in MEASURED}

    pool = np.concatenate(found.splits[0][:2])  # D~ of the first split first; its test rows stay out
    weak = {teacher: h[pool] for teacher, h in found.weak.items()}
    return Task(name, "mlp128", weak, found.strong[pool], y[pool], np.arange(ROWS), measure)


TASKS: dict[str, Callable[..., Task]] = dict.fromkeys(FAMILIES, family_task) | dict.fromkeys(DIGITS, digits_task)
