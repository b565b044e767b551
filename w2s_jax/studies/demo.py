"""`w2s demo`: predicts which weak model teaches best, then runs every experiment and compares.

Small encoders, each held back in its own way, and a bigger one learn to read digits (scikit-learn). Their
representations of images that none of them saw are ranked with `rank_supervisors`, without labels and with
those of D~. Then weak heads, students and ceilings are really fitted, over several splits into D~ and D^ and
with one test set, on a task the encoders were not trained for (even or odd). Every number is computed.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from os import PathLike
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from w2s_jax._core.checks import InputError, require_integer
from w2s_jax._core.extras import data_frame
from w2s_jax._core.figures import ink, new_figure, paper, quiet_grid, save_figure
from w2s_jax._core.progress import track
from w2s_jax._core.ranks import spearman
from w2s_jax._core.text import Printed, html_of
from w2s_jax.experiment.run import weak_to_strong
from w2s_jax.ranking.rank import rank_supervisors
from w2s_jax.ranking.table import SupervisorTable

SIDE = 8  # pixels; scikit-learn's digits are 8 x 8
MARKERS = {"full": "o", "coarse": "s", "half": "^", "few": "D", "brief": "v"}
Splits = tuple[np.ndarray, np.ndarray, np.ndarray]  # row numbers of D~, D^ and the test split
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")  # Okabe and Ito, told apart by the colour-blind


@dataclass(frozen=True)
class DemoConfig:
    """Sizes of the demo: images per split, encoders and their training, ridge strength of all heads.

    >>> DemoConfig(widths=(4, 12), splits=2).ridge
    0.001
    """

    encoder_images: int = 500
    test_images: int = 497
    teaching_images: int = 300
    splits: int = 5
    widths: tuple[int, ...] = (8, 24, 64)
    hidden: int = 64
    strong_width: int = 128
    strong_hidden: int = 512
    steps: int = 300
    brief_steps: int = 10
    few_images: int = 60
    learning_rate: float = 1e-3
    ridge: float = 1e-3


class Measured(NamedTuple):
    """What was measured on test rows; errors and the gap are mean squares, in label units squared."""

    weak_error: Any
    student_error: Any
    ceiling_error: Any
    gap: Any
    weak_accuracy: Any
    student_accuracy: Any
    ceiling_accuracy: Any


class Encoded(NamedTuple):
    """Held-out images (rows, width) as each weak encoder and the strong one see them, their digits, and splits of the rows."""

    weak: dict[str, np.ndarray]
    strong: np.ndarray
    digits: np.ndarray
    splits: list[Splits]


class Correlation(NamedTuple):
    """Spearman correlation of one score with the measured student error and gap over weak models."""

    score: str
    with_error: float
    with_gap: float


@dataclass(frozen=True)
class DemoResult:
    """Predictions and measurements of the demo; prints as a report.

    `measured` holds arrays (models, splits) in the order of `names`; the tables keep their own order.

    >>> free = SupervisorTable(("a", "b"), ("s", "s"), (8, 8), {"cka": np.ones(2)}, {"cka": np.zeros(2)}, "cka", {})
    >>> measured = Measured(*(np.array([[0.4, 0.4], [0.3, 0.3]]) - 0.1 * i for i in range(7)))  # (models, splits)
    >>> DemoResult(DemoConfig(), 0, ("a", "b"), free, free, measured).pgr.round(3).tolist()
    [0.5, 0.5]
    """

    config: DemoConfig
    seed: int
    names: tuple[str, ...]
    label_free: SupervisorTable
    labelled: SupervisorTable
    measured: Measured

    @property
    def mean(self) -> Measured:
        """Means over splits, (models,) each."""
        return Measured(*(values.mean(1) for values in self.measured))

    @property
    def se(self) -> Measured:
        """Standard errors over splits into D~ and D^, (models,) each, for these encoders and test images."""
        return Measured(*(values.std(1, ddof=1) / np.sqrt(values.shape[1]) for values in self.measured))

    @property
    def pgr(self) -> np.ndarray:
        """Performance gap recovered (models,), a ratio of differences of mean errors (Burns et al. 2023)."""
        weak, student, ceiling = self.mean[:3]
        return (weak - student) / (weak - ceiling)

    def score(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """A score and its standard errors in the order of `names`, label-free where it can be."""
        table = self.label_free if column in self.label_free.columns else self.labelled
        order = [list(table.names).index(name) for name in self.names]
        return np.asarray(table[column])[order], np.asarray(table.se(column))[order]

    @property
    def columns(self) -> list[str]:
        """All scores, those that need no labels first."""
        return list(dict.fromkeys([*self.label_free.columns, *self.labelled.columns]))

    def correlations(self) -> tuple[list[Correlation], list[Correlation]]:
        """One per score: those of the label-free table, then those that only the labelled table has."""
        found, free = [_correlation(c, self.score(c)[0], self.mean) for c in self.columns], len(self.label_free.columns)
        return found[:free], found[free:]

    def to_dict(self) -> dict[str, Any]:
        """Everything that is reported, as plain lists and numbers."""
        free, labelled = self.correlations()
        return {
            "config": asdict(self.config),
            "seed": self.seed,
            "names": list(self.names),
            "label_free": self.label_free.to_dict(),
            "labelled": self.labelled.to_dict(),
            "mean": {key: values.tolist() for key, values in self.mean._asdict().items()},
            "se": {key: values.tolist() for key, values in self.se._asdict().items()},
            "pgr": self.pgr.tolist(),
            "correlations": {row.score: row._asdict() for row in free + labelled},
        }

    def to_pandas(self) -> Any:
        """A pandas DataFrame with a row per weak model: its scores, what was measured with standard errors, and its PGR.

        Raises:
            InputError: pandas is not installed.
        """
        errors = {f"{name}_se": values for name, values in self.se._asdict().items()}
        scores = {column: self.score(column)[0] for column in self.columns}
        return data_frame({"supervisor": list(self.names), **scores, **self.mean._asdict(), **errors, "pgr": self.pgr})

    def report(self) -> str:
        """Predicted and measured for every weak model, then the rank correlations; fits 100 columns."""
        return "\n\n".join(map(str, _parts(self)))

    def _repr_html_(self) -> str:
        return html_of(_parts(self))

    def figure(self, path: str | PathLike[str]) -> None:
        """Writes predicted against measured as a figure; the path's ending chooses the format.

        Raises:
            InputError: matplotlib is not installed, or the path cannot be written.
        """
        figure = new_figure(10.5, 8.6)
        axes = figure.subplots(2, 2)
        _scatter(axes[0, 0], self, "expected_error", "Expected error of the student (no labels)")
        _scatter(axes[0, 1], self, "gap_op", "Operator norm of $P_s(I - P_w)$ (no labels)")
        _scatter(axes[1, 0], self, "trial_error", "Trial error of the student (labels of D~)")
        axes[1, 0].axline((0.5, 0.5), slope=1, color="0.6", linestyle="--", zorder=0, label="as predicted")
        axes[1, 0].legend(loc="lower right", frameon=False)
        _ladder(axes[1, 1], self)
        figure.legend(handles=_legend(self), loc="outside lower center", ncols=8, frameon=False)
        save_figure(figure, path)

    __repr__ = __str__ = report


def run_demo(seed: int = 0, progress: bool = True, config: DemoConfig = DemoConfig()) -> DemoResult:
    """Trains the encoders, ranks the weak ones as supervisors of the strong one, and measures who was right.

    Args:
        seed: of the splits, the encoders and the ranking.
        progress: show progress bars where tqdm is installed.
        config: sizes; the defaults take under a minute on two CPU cores.

    Raises:
        InputError: scikit-learn or matplotlib is not installed.

    >>> run_demo(seed=-1)
    Traceback (most recent call last):
        ...
    w2s_jax._core.checks.InputError: seed must be an integer of at least 0, got -1
    """
    _extra("matplotlib.figure")  # or `figure` would fail a minute later
    weak, strong, digits, splits = digit_encoders(config, seed, progress)
    labels = np.where(digits % 2 == 0, 1.0, -1.0)
    measured = measure_students(weak, strong, labels, splits, config.ridge)

    pool = np.sort(np.concatenate(splits[0][:2]))
    seen = {name: h[pool] for name, h in weak.items()}, strong[pool]
    ridges = {"weak_ridge": config.ridge, "strong_ridge": config.ridge}
    rank = partial(rank_supervisors, **ridges, normalize="scale", seed=seed, progress=progress)
    label_free = rank(*seen)
    labelled = np.isin(pool, splits[0][0])
    # NaN, so that no label outside D~ can be used even by mistake.
    trial = rank(*seen, np.where(labelled, labels[pool], np.nan), labelled_rows=labelled)
    return DemoResult(config, seed, tuple(weak), label_free, trial, measured)


def digit_encoders(config: DemoConfig, seed: int, progress: bool = False) -> Encoded:
    """Trains encoders of digits on some images and represents the others.

    Raises:
        InputError: scikit-learn is not installed, or a seed that is none.
    """
    pixels, digits = _extra("sklearn.datasets").load_digits(return_X_y=True)
    require_integer("seed", seed, 0)
    rng = np.random.default_rng(seed)
    train, held_out = np.split(rng.permutation(len(pixels)), [config.encoder_images])
    weak, strong = _train_encoders(config, seed, (pixels[train] / 16, digits[train], pixels[held_out] / 16), progress)
    test, pool = np.split(np.arange(len(held_out)), [config.test_images])
    shuffled = np.stack([rng.permutation(pool) for _ in range(config.splits)])
    teach, learn = np.split(shuffled, [config.teaching_images], axis=1)
    return Encoded(weak, strong, digits[held_out], [(a, b, test) for a, b in zip(teach, learn, strict=True)])


def measure_students(
    weak: dict[str, np.ndarray], strong: np.ndarray, labels: np.ndarray, splits: Iterable[Splits], ridge: float
) -> Measured:
    """The real experiments, (models, splits) each; representations are scaled over the split's D~ and D^ as in the ranking."""
    width = max(h.shape[1] for h in weak.values())
    padded = [np.pad(h, ((0, 0), (0, width - h.shape[1]))) for h in weak.values()]  # one compiled program for all

    def outcome(h_w: np.ndarray, splits: Splits) -> list[float]:
        seen = np.concatenate(splits[:2])
        h_w, h_s = (h / np.sqrt(h[seen].var(0).sum()) for h in (h_w, strong))
        rows = ((h_w[i], h_s[i], labels[i]) for i in splits)
        found = weak_to_strong(*rows, weak_ridge=ridge, strong_ridge=ridge, normalize="none")
        return [float(getattr(found, name)) for name in Measured._fields]

    found = np.array([[outcome(h, rows) for rows in splits] for h in padded])
    return Measured(*np.moveaxis(found, -1, 0))


# Encoders


class Handicap(NamedTuple):
    """How an encoder is held back: pixels @ view is what it sees, of so many images, for so many steps."""

    view: np.ndarray
    images: int
    steps: int
    meaning: str


def _handicaps(config: DemoConfig) -> dict[str, Handicap]:
    whole, images, steps = np.eye(SIDE * SIDE), config.encoder_images, config.steps
    upper = np.diag(np.arange(SIDE * SIDE) < SIDE * SIDE // 2).astype(float)
    pair = np.kron(np.eye(SIDE // 2), np.full((2, 2), 0.5))
    return {
        "full": Handicap(whole, images, steps, "in nothing but its width"),
        "coarse": Handicap(np.kron(pair, pair), images, steps, "saw 4 x 4 pixels"),
        "half": Handicap(upper, images, steps, "saw the upper half"),
        "few": Handicap(whole, config.few_images, steps, f"trained on {config.few_images} images"),
        "brief": Handicap(whole, images, config.brief_steps, f"trained for {config.brief_steps} steps"),
    }


def _train_encoders(
    config: DemoConfig, seed: int, data: tuple[np.ndarray, ...], progress: bool
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Weak representations by name, each (n, width), and the strong one, of the held-out rows."""
    handicaps = _handicaps(config)
    biggest = config.strong_hidden, config.strong_width, {"strong": handicaps["full"]}
    families = [
        (config.hidden, width, {f"mlp{width}/{key}": handicap for key, handicap in handicaps.items()})
        for width in config.widths
    ]
    keys = jax.random.split(jax.random.key(seed), len(families) + 1)
    found: dict[str, np.ndarray] = {}
    jobs = list(zip(keys, [*families, biggest], strict=True))
    for key, (hidden, width, members) in track(jobs, progress, "encoders"):
        views, images, steps = (np.stack(each) for each in list(zip(*members.values(), strict=True))[:3])
        sizes = hidden, width, config.steps, config.learning_rate
        family = _train_family(sizes, key, views, images, steps, *data)
        found |= dict(zip(members, np.asarray(family), strict=True))
    strong = found.pop("strong")
    return found, strong


@partial(jax.jit, static_argnums=0)
def _train_family(
    sizes: tuple[int, int, int, float],
    key: Array,
    views: Float[Array, "members pixels pixels"],
    images: Int[Array, " members"],
    steps: Int[Array, " members"],
    pixels: Float[Array, "n pixels"],
    digits: Int[Array, " n"],
    held_out: Float[Array, "rows pixels"],
) -> Float[Array, "members rows width"]:
    """Trains encoders that differ in what holds them back, side by side; represents the held-out images."""
    import optax
    from flax import nnx

    hidden, width, all_steps, learning_rate = sizes
    optimizer = optax.adam(learning_rate)

    def network(key: Array) -> nnx.Sequential:
        rngs = nnx.Rngs(key)
        layers = nnx.Linear(SIDE * SIDE, hidden, rngs=rngs), nnx.Linear(hidden, width, rngs=rngs)
        body = nnx.Sequential(layers[0], nnx.relu, layers[1], nnx.relu)
        return nnx.Sequential(body, nnx.Linear(width, 10, rngs=rngs))

    def member(key: Array, view: Array, images: Array, steps: Array) -> Array:
        graph, start = nnx.split(network(key))
        seen = jnp.arange(pixels.shape[0]) < images

        def loss(parameters):
            logits = nnx.merge(graph, parameters)(pixels @ view)
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, digits), where=seen)

        def step(carry, i):
            parameters, state = carry
            updates, state = optimizer.update(jax.grad(loss)(parameters), state)
            updates = jax.tree.map(lambda update: jnp.where(i < steps, update, 0), updates)
            return (optax.apply_updates(parameters, updates), state), None

        (trained, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), jnp.arange(all_steps))
        return nnx.merge(graph, trained).layers[0](held_out @ view)

    return jax.vmap(member)(jax.random.split(key, views.shape[0]), views, images, steps)


# Report


def _correlation(name: str, values: np.ndarray, mean: Measured) -> Correlation:
    return Correlation(name, spearman(values, mean.student_error), spearman(values, mean.gap))


def _parts(result: DemoResult) -> tuple[str | Printed, ...]:
    return tuple(part(result) for part in (_heading, _models, _scores, _correlations, _choices))


def _heading(result: DemoResult) -> str:
    config, mean, kinds = result.config, result.mean, _handicaps(result.config)
    pool, taught = result.label_free.settings["rows"], config.teaching_images
    lines = [
        "Which weak model should teach? Digits (scikit-learn), task: even or odd (+-1), squared error.",
        f"{len(result.names)} weak encoders (mlp8: width 8) and a strong one ({config.strong_width}) were",
        f"trained to read the digits of {config.encoder_images} images; each weak one was held back:",
        *(f"  {name:<8}{handicap.meaning}" for name, handicap in kinds.items()),
        f"Ridge heads (beta {config.ridge:g}) on {pool} other images, {taught} in D~, {pool - taught} in D^.",
        f"Measured on {config.test_images} test images, mean ± standard error over {config.splits} splits.",
        "Predicted from the first split; the trial holds out a third of D~, so it runs high.",
        f"Seed {result.seed}. Ceiling (true labels of D^): error {mean.ceiling_error[0]:.3f}, "
        f"accuracy {mean.ceiling_accuracy[0]:.1%}.",
    ]
    return "\n".join(lines)


def _models(result: DemoResult) -> Printed:
    """A line per weak model: what was predicted, and what was measured; the best expected error first."""
    mean, student = result.mean, (result.mean.student_error, result.se.student_error)
    expected, trial = result.score("expected_error"), result.score("trial_error")

    def line(i: int) -> list[str]:
        errors = [f"{value[i]:.4f} ±{se[i]:.4f}" for value, se in (expected, trial, student)]
        accuracy = f"{mean.weak_accuracy[i]:.1%}, {mean.student_accuracy[i]:.1%}"
        rest = f"{mean.weak_error[i]:.3f}", f"{mean.gap[i]:.3f}", accuracy, f"{result.pgr[i]:.2f}"
        return [result.names[i], *errors[:2], "|", errors[2], *rest]

    header = "Predicted", "expected error", "trial error", "|", "measured", "weak", "", "weak, student", ""
    second = "", "no labels", "labels of D~", "|", "student error", "error", "gap", "accuracy", "PGR"
    note = "(The expected error averages over tasks that the strong model could be given: its order counts.)"
    return Printed(header, [second, *map(line, np.argsort(expected[0]).tolist())], 1, note=note)


_SHOWN_BELOW = frozenset({"predicted_error", "posterior_error"})  # there is no room for them beside the others


def _scores(result: DemoResult) -> Printed:
    """Scores of every model beside the measured error and gap, the best expected error first; as many as fit a line."""
    columns = {column: result.score(column)[0] for column in result.columns if column not in _SHOWN_BELOW}
    first, second = zip(*([*column.split("_"), ""][:2] for column in columns), strict=True)

    def line(i: int) -> list[str]:
        measured = result.mean.student_error, result.mean.gap
        scores, errors = ([f"{x[i]:.4f}" for x in values] for values in (columns.values(), measured))
        return [result.names[i], *scores, "|", *errors]

    lines = [["", *second, "|", "error", "gap"], *map(line, np.argsort(columns["expected_error"]).tolist())]
    return Printed(["Every score", *first, "|", "measured", ""], lines, 1)


def _correlations(result: DemoResult) -> Printed:
    free, labelled = result.correlations()
    weak = _correlation("measured weak error", result.mean.weak_error, result.mean)
    groups = {"no labels": free, "labels of D~": labelled, "test labels": [weak]}
    rows = [(row, needs) for needs, found in groups.items() for row in found]
    body = [[row.score, needs, f"{row.with_error:.2f}", f"{row.with_gap:.2f}"] for row, needs in rows]
    title = f"Spearman correlation, over the {len(result.names)} weak models, with the measured"
    note = "(cka is a similarity: good teachers have a large one, so a good correlation is negative.)"
    return Printed(("", "needs", "student error", "gap"), body, 2, title, note)


def _choices(result: DemoResult) -> Printed:
    """What following each prediction would have given."""
    student = result.mean.student_error
    rules = {
        "the expected error (no labels)": result.score("expected_error")[0],
        "the trial (labels of D~)": result.score("trial_error")[0],
        "trial and posterior (labels of D~)": result.score("predicted_error")[0],
        "hindsight": student,
    }
    picks = {rule: int(np.argmin(score)) for rule, score in rules.items()}
    lines = [(rule, f"{student[pick]:.4f}", result.names[pick]) for rule, pick in picks.items()]
    lines.append(("chance (mean over all)", f"{student.mean():.4f}", ""))
    return Printed(("Teacher chosen by", "error of its student", "teacher"), lines, 3)


# Figure


def _style(result: DemoResult, name: str) -> tuple[str, str]:
    """Colour of the model's width, marker of its handicap."""
    width, handicap = name.removeprefix("mlp").split("/")
    return COLOURS[result.config.widths.index(int(width)) % len(COLOURS)], MARKERS[handicap]


def _scatter(ax: Any, result: DemoResult, column: str, label: str) -> None:
    score, score_se = result.score(column)
    for i, name in enumerate(result.names):
        colour, marker = _style(result, name)
        x, y = score[i], result.mean.student_error[i]
        bars = {"xerr": score_se[i], "yerr": result.se.student_error[i], "elinewidth": 0.8}
        marks = {"markersize": 7, "markeredgecolor": paper(), "markeredgewidth": 0.6, "alpha": 0.85}
        ax.errorbar(x, y, **bars, **marks, fmt=marker, color=colour)
    rho = spearman(score, result.mean.student_error)
    ax.set(xlabel=label, ylabel="Measured student error", title=f"Spearman {rho:.2f}")
    _clean(ax)


def _ladder(ax: Any, result: DemoResult) -> None:
    """Weak error, student error and ceiling of every model, the best student on top."""
    mean, order = result.mean, np.argsort(-result.mean.student_error)
    ax.axvline(mean.ceiling_error[0], color=ink(), linestyle="--", linewidth=1, label="strong ceiling")
    for place, i in enumerate(order):
        colour, marker = _style(result, result.names[i])
        ax.hlines(place, mean.weak_error[i], mean.student_error[i], color=colour, linewidth=1, zorder=1)
        ax.plot(mean.weak_error[i], place, marker, color=colour, markerfacecolor=paper(), markersize=6)
        ax.plot(mean.student_error[i], place, marker, color=colour, markersize=6)
    ax.plot([], [], "o", color=ink(), markerfacecolor=paper(), label="weak model")
    ax.plot([], [], "o", color=ink(), label="its student")
    ax.set_yticks(range(len(order)), [result.names[i] for i in order])
    ax.set(xlabel="Measured error", title="Student against teacher")
    ax.legend(loc="upper right", facecolor=paper(), edgecolor="none", framealpha=1)
    _clean(ax)


def _clean(ax: Any) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    quiet_grid(ax)


def _legend(result: DemoResult) -> list[Any]:
    from matplotlib.lines import Line2D

    colours = {width: COLOURS[i % len(COLOURS)] for i, width in enumerate(result.config.widths)}
    lines = [Line2D([], [], color=c, linewidth=5, label=f"width {width}") for width, c in colours.items()]
    return lines + [Line2D([], [], color=ink(), linestyle="", marker=m, label=name) for name, m in MARKERS.items()]


def _extra(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError("w2s demo needs scikit-learn and matplotlib: pip install 'w2s_jax[demo]'") from error
