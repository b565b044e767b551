"""The weak-to-strong experiment itself: weak head, pseudo-labels, student and ceiling, measured and predicted.

Three splits: D~ (`labelled`) fits the weak head, D^ (`student`) is labelled by it and trains the student, and with its true
labels the ceiling; `test` measures all three. With ridge heads the same outcome follows from the splits' moments alone.
Beside each measured number stands what the theory says of it, from D~ and D^ only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Float

from w2s_jax._core.arrays import as_labels, as_matrix, require_same_rows
from w2s_jax._core.checks import (
    InputError,
    missing_classes,
    require_choice,
    require_integer,
    require_number,
    warn_of_missing_classes,
)
from w2s_jax._core.heavy_rows import warn_of_heavy_rows
from w2s_jax._core.normalize import Normalize, RowNorm
from w2s_jax.experiment.outcome import WeakToStrong
from w2s_jax.experiment.single import CheckedRows, Losses, Setup, experiment
from w2s_jax.heads.losses import Loss, LossName, as_loss, squared
from w2s_jax.ranking.folds import as_groups, deal

SplitRows = tuple[ArrayLike, ArrayLike | None, ArrayLike]  # (h_w, h_s, y)
Penalty = ArrayLike | Literal["cv"]
PseudoLabels = Literal["soft", "hard"]


def weak_to_strong(
    labelled: SplitRows,
    student: SplitRows,
    test: SplitRows,
    *,
    loss: LossName | Loss = "squared",
    student_loss: LossName | Loss | None = None,
    pseudo_labels: PseudoLabels = "soft",
    weak_ridge: Penalty = 1e-3,
    strong_ridge: Penalty = 1e-3,
    bias: bool = True,
    normalize: Normalize = "features",
    rows: RowNorm = "given",
) -> WeakToStrong:
    """Runs one experiment: fits weak head, student and ceiling, and measures them beside what the theory predicts.

    Args:
        labelled, student, test: the three splits, each `(h_w, h_s, y)` with h_w (n, d_w), h_s (n, d_s) and y (n,) or (n, c);
            the labelled split's h_s is not used and may be None. The student's y serves its ceiling and the predictions.
        loss: of weak head and ceiling: "squared", "logistic", "softmax" or a `Loss` (labels as `train_probe` takes them).
        student_loss: of the student, if another, such as `confidence_auxiliary()`; a classification loss learns from
            probabilities or from hard pseudo-labels.
        pseudo_labels: "soft" (outputs; probabilities for a classification loss) or "hard" (classes, coded as the labels).
        weak_ridge, strong_ridge: penalties, or "cv" (squared loss): chosen by 5-fold cross-validation, the strong one
            from the weak labels alone. Ceiling and student share the strong one.
        bias: heads have an intercept.
        normalize: "scale" for representations of unit mean squared row norm, "features" for features of unit variance before
            that, both by what the rows say that a head is trained on (D~ of the weak model, D^ of the strong one), so that one
            penalty means the same for all models; "none" for representations as they are.
        rows: "unit": each row is divided by its norm after that, about the mean and with the scale of the same rows, and then
            all are of one scale again.

    Raises:
        InputError: splits that do not fit each other, NaN or infinite entries, an unknown option, "cv" with another
            loss, hard pseudo-labels where labels are not classes (+-1, 0/1, or one-hot) or are traced.

    >>> z = np.random.default_rng(0).standard_normal((90, 4)).astype(np.float32)
    >>> a, b, c = ((rows[:, :2], rows, rows.sum(1)) for rows in (z[:30], z[30:60], z[60:]))
    >>> found = weak_to_strong(a, b, c)
    >>> bool(found.ceiling_error < found.student_error), round(float(found.weak_ridge), 4)
    (True, 0.001)

    Source: Xue et al. 2025, the three predictors; Burns et al. 2023 for PGR.
    """
    named = (("labelled", labelled), ("student", student), ("test", test))
    splits = [_rows(f"the {name} split", split, strong=name != "labelled") for name, split in named]
    _require_same_widths(splits)
    if rows == "given":
        warn_of_heavy_rows("weak representations of the labelled split", splits[0][0], normalize)
        warn_of_heavy_rows("strong representations of the student split", splits[1][1], normalize)
    labels, code = [y for *_, y in splits], _class_code([split[2] for _, split in named])
    warn_of_missing_classes("the labelled rows", labels[0], labels[1:])
    setup, losses = _setup(
        labels, code, loss, student_loss, pseudo_labels, bias, normalize, rows, weak_ridge, strong_ridge
    )
    return experiment(*splits, _numbers(weak_ridge, strong_ridge), losses, setup)


def weak_to_strong_splits(
    h_w: Float[ArrayLike, "n d_w"],
    h_s: Float[ArrayLike, "n d_s"],
    y: ArrayLike,
    *,
    n_labelled: int,
    n_test: int,
    n_student: int | None = None,
    repeats: int = 10,
    groups: ArrayLike | Sequence | None = None,
    seed: int = 0,
    loss: LossName | Loss = "squared",
    student_loss: LossName | Loss | None = None,
    pseudo_labels: PseudoLabels = "soft",
    weak_ridge: Penalty = 1e-3,
    strong_ridge: Penalty = 1e-3,
    bias: bool = True,
    normalize: Normalize = "features",
    rows: RowNorm = "given",
) -> WeakToStrong:
    """`weak_to_strong` over random splits of the same rows, in one compiled program: fields have the shape (repeats,).

    Args:
        h_w, h_s, y: representations (n, d_w), (n, d_s) and labels (n,) or (n, c) of all rows.
        n_labelled, n_student, n_test: rows per split; the student takes the rest by default.
        repeats: number of random splits.
        groups: group of each row (n,); a group is dealt to one split, sizes are then met as nearly as groups allow, and
            rows that do not fit are left out.
        seed: of the splits.
        loss, student_loss, pseudo_labels, weak_ridge, strong_ridge, bias, normalize, rows: as in `weak_to_strong`.

    Raises:
        InputError: as `weak_to_strong`, or sizes that do not fit the rows.

    >>> z = np.random.default_rng(0).standard_normal((90, 4)).astype(np.float32)
    >>> found = weak_to_strong_splits(z[:, :2], z, z.sum(1), n_labelled=30, n_test=30, repeats=3)
    >>> found.student_error.shape, bool((found.ceiling_error < found.student_error).all())
    ((3,), True)

    Source: as `weak_to_strong`.
    """
    given_rows = _rows("all rows", (h_w, h_s, y))
    n = given_rows[0].shape[0]
    if rows == "given":
        warn_of_heavy_rows("weak representations of all rows", given_rows[0], normalize)
        warn_of_heavy_rows("strong representations of all rows", given_rows[1], normalize)
    given = {"n_labelled": n_labelled, "n_test": n_test, "repeats": repeats}
    given |= {} if n_student is None else {"n_student": n_student}
    for name, value in given.items():
        require_integer(name, value, 1)
    require_integer("seed", seed, 0)
    sizes = n_labelled, n - n_labelled - n_test if n_student is None else n_student, n_test
    if min(sizes) < 1 or sum(sizes) > n:
        named = "n_labelled={}, n_student={}, n_test={}".format(*sizes)
        raise InputError(f"splits must have at least one row each and at most {n} together, got {named}")
    code = _class_code([y])
    setup, losses = _setup(
        [given_rows[2]], code, loss, student_loss, pseudo_labels, bias, normalize, rows, weak_ridge, strong_ridge
    )
    splits = deal(n, sizes, repeats, as_groups(groups, n), seed)
    _warn_of_unseen_classes(given_rows[2], splits[0])
    return _experiments(*given_rows, splits, _numbers(weak_ridge, strong_ridge), losses, setup)


def _setup(
    labels: list[Array],
    code: tuple[float, float] | None,
    loss: LossName | Loss,
    student_loss: LossName | Loss | None,
    pseudo_labels: PseudoLabels,
    bias: bool,
    normalize: Normalize,
    rows: RowNorm,
    weak_ridge: Penalty,
    strong_ridge: Penalty,
) -> tuple[Setup, Losses]:
    losses = Losses(as_loss(loss), as_loss(loss if student_loss is None else student_loss))
    require_choice("pseudo_labels", pseudo_labels, PseudoLabels)
    require_choice("normalize", normalize, Normalize)
    require_choice("rows", rows, RowNorm)
    if pseudo_labels == "hard" and code is None:
        raise InputError("hard pseudo-labels need labels that are classes, not traced: +-1, 0 and 1, or one-hot rows")
    if pseudo_labels == "soft" and isinstance(losses.teacher, squared) and not isinstance(losses.student, squared):
        raise InputError("student_loss must be 'squared' for the outputs of a squared loss, or pseudo_labels 'hard'")
    choose = []
    for name, ridge_, own in (
        ("weak_ridge", weak_ridge, losses.teacher),
        ("strong_ridge", strong_ridge, losses.student),
    ):
        if isinstance(ridge_, str) and (ridge_ != "cv" or not isinstance(own, squared)):
            raise InputError(f"{name} must be a number, or 'cv' with squared loss, got {ridge_!r}")
        choose.append(isinstance(ridge_, str))
        if not isinstance(ridge_, str):
            require_number(name, ridge_, 0)
    for y in labels:
        for one in losses:
            one.check(y)
    return Setup(bias, normalize, rows, pseudo_labels == "hard", code, (choose[0], choose[1])), losses


def _warn_of_unseen_classes(y: Array, labelled: np.ndarray) -> None:
    """Of the first split whose labelled rows (repeats, n~) lack a class that others have."""
    if isinstance(y, Tracer):
        return
    labels = np.asarray(y)
    lacking = (i for i, rows in enumerate(labelled) if len(missing_classes(labels[rows], [labels])))
    if (first := next(lacking, None)) is not None:
        warn_of_missing_classes(f"the labelled rows of split {first}", labels[labelled[first]], [labels])


def _class_code(given: list[ArrayLike]) -> tuple[float, float] | None:
    """How classes are coded in labels (n,) or (n, c): (-1, 1), (0, 1), or None if they are no classes or traced.

    Labels as they were given: inside jit, JAX arrays made of constants are traced.
    """
    if any(isinstance(y, Tracer) for y in given):
        return None
    labels = [np.asarray(y).astype(float) for y in given]
    columns = [y.reshape(len(y), -1) for y in labels]
    for code in ((-1.0, 1.0), (0.0, 1.0)):
        if all(np.isin(y, code).all() and (y.shape[1] == 1 or ((y == 1).sum(1) == 1).all()) for y in columns):
            return code
    return None


def _numbers(weak_ridge: Penalty, strong_ridge: Penalty) -> tuple[ArrayLike, ArrayLike]:
    weak, strong = (0.0 if isinstance(r, str) else r for r in (weak_ridge, strong_ridge))
    return weak, strong


def _rows(name: str, split: Any, strong: bool = True) -> CheckedRows:
    """The checked arrays (h_w, h_s, y) of a split; h_s may be None where it is not used."""
    if not isinstance(split, tuple | list) or len(split) != 3:
        raise InputError(f"{name} must be (h_w, h_s, y), got {type(split).__name__}")
    h_w = as_matrix(f"weak representations of {name}", split[0])
    y = as_labels(f"labels of {name}", split[2], h_w.shape[0])
    if split[1] is None and not strong:
        return h_w, None, y
    given: Any = split[1]
    h_s = as_matrix(f"strong representations of {name}", given)
    require_same_rows(h_w, h_s)
    return h_w, h_s, y


def _require_same_widths(splits: list[CheckedRows]) -> None:
    for i, name in enumerate(("weak representations", "strong representations", "labels")):
        widths = [split[i].shape[1:] for split in splits if split[i] is not None]
        if len(set(widths)) > 1:
            raise InputError(f"{name} must have the same shape per row in all splits, got {widths}")


@partial(jax.jit, static_argnames="setup")
def _experiments(
    h_w: Array, h_s: Array, y: Array, rows: tuple[Array, ...], ridges: tuple, losses: Losses, setup: Setup
) -> WeakToStrong:
    def one(rows: tuple[Array, ...]) -> WeakToStrong:
        return experiment(*((h_w[i], h_s[i], y[i]) for i in rows), ridges, losses, setup)

    return jax.lax.map(one, rows)
