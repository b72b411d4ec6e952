"""A small sweep that shows what a store holds: three linear models on generated points, trained by SGD in plain Python.

It needs nothing beyond the package itself and writes through the public functions alone, as any script would, so what it shows
is what users get. The points and every run's numbers depend on fixed seeds only. It raises where a run of training would
warn: nobody's training is at stake, and a demo that records nothing is none.
"""

from __future__ import annotations

import math
import random
import time
from typing import TYPE_CHECKING, NamedTuple

import ailab

from .errors import RejectedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress

MODELS = ("softmax_regression", "linear_svm", "perceptron")
RATES = (0.001, 0.03)
N_RUNS = 12
N_EPOCHS = 25
PROJECT = "demo"
DATASET = "blobs"
CENTRES = ((0.0, 2.4), (-2.0, -1.2), (2.0, -1.2))
"""Where the three classes of points lie; they overlap, so that no model is right everywhere."""
SPREAD = 1.6
PER_CLASS = 120
N_TRAIN = 240

Point = tuple[tuple[float, ...], int]
"""(1, x, y) and its class; the 1 carries the model's offset."""
Weights = list[list[float]]
"""One row per class, one weight per number of a point."""


class Recipe(NamedTuple):
    """What sets one run apart from another."""

    model_name: str
    learning_rate: float
    seed: int


def run_demo(*, dir: str | None = None, n_runs: int | None = None, progress: bool = True) -> list[str]:  # noqa: A002
    """Record a small sweep; a few seconds.

    Args:
        dir: the store; by default as for `start_run`.
        n_runs: how many runs; by default 12. Models and learning rates take turns, then the next seed.
        progress: show a bar on standard error.

    Returns:
        The ids of the runs, in the order of training.

    Raises:
        RejectedError: `n_runs` is less than 1.
        StoreError: the store cannot be written.
    """
    wanted = N_RUNS if n_runs is None else n_runs
    if wanted < 1:
        raise RejectedError(f"n_runs {wanted} is not allowed", key="n_runs", hint="allowed: 1 and more")
    group = time.strftime("demo-%Y%m%dT%H%M%SZ", time.gmtime())
    train, held_out = make_points()
    found: dict[str, float] = {}
    with _bar(shown=progress) as bar:
        for number in bar.track(range(wanted), description="training"):
            run_id, accuracy = _record(_recipe(number), train, held_out, group=group, folder=dir)
            found[run_id] = accuracy
    best = max(found, key=lambda run_id: found[run_id])
    ailab.note(f"best accuracy of the demo's {wanted} runs: {found[best]:.3f}", best, dir=dir)
    return list(found)


def _recipe(number: int) -> Recipe:
    seed, place = divmod(number, len(MODELS) * len(RATES))
    rate, model = divmod(place, len(MODELS))
    return Recipe(MODELS[model], RATES[rate], seed)


def _record(recipe: Recipe, train: list[Point], held_out: list[Point], *, group: str, folder: str | None) -> tuple[str, float]:
    """Train one model as one run; (its id, accuracy on the points held out)."""
    begun = time.perf_counter()
    with ailab.start_run(
        f"{recipe.model_name} lr={recipe.learning_rate:g} s{recipe.seed}",
        project=PROJECT,
        group=group,
        dataset_id=DATASET,
        config={**recipe._asdict(), "n_epochs": N_EPOCHS},
        tags={"demo": None, "model": recipe.model_name},
        nested=False,
        dir=folder,
        mode="on",
        strict=True,
    ) as run:
        rows: list[dict[str, float]] = []
        for epoch, weights in enumerate(_epochs(recipe, train), 1):
            train_loss, train_accuracy = measure(recipe.model_name, weights, train)
            val_loss, val_accuracy = measure(recipe.model_name, weights, held_out)
            row = {"train_loss": train_loss, "val_loss": val_loss, "train_accuracy": train_accuracy, "val_accuracy": val_accuracy}
            run.log(row, step=epoch)
            rows.append({"epoch": epoch, **row})
        run.log_table(rows, f"{recipe.model_name}_metrics.csv")
        last = {key: value for key, value in rows[-1].items() if key not in {"epoch", "val_accuracy"}}
        run.finish(final_metrics={"accuracy": rows[-1]["val_accuracy"], **last, "runtime_seconds": time.perf_counter() - begun})
    return run.id, rows[-1]["val_accuracy"]


# -- the trainer -------------------------------------------------------------------------------------------------------


def make_points() -> tuple[list[Point], list[Point]]:
    """(points to train on, points held out): three overlapping Gaussian blobs, the same ones every time."""
    source = random.Random(20)  # noqa: S311  (data, no secret)
    points: list[Point] = [
        ((1.0, source.gauss(x, SPREAD), source.gauss(y, SPREAD)), label)
        for label, (x, y) in enumerate(CENTRES)
        for _ in range(PER_CLASS)
    ]
    source.shuffle(points)
    return points[:N_TRAIN], points[N_TRAIN:]


def _epochs(recipe: Recipe, train: list[Point]) -> Iterator[Weights]:
    """The weights after each epoch; an epoch is one step per point, in an order that the seed decides."""
    order = random.Random(recipe.seed)  # noqa: S311
    slopes = _SLOPES[recipe.model_name]
    weights = [[order.gauss(0.0, 0.1) for _ in train[0][0]] for _ in CENTRES]
    points = list(train)
    for _ in range(N_EPOCHS):
        order.shuffle(points)
        for x, label in points:
            for row, slope in zip(weights, slopes(_scores(weights, x), label), strict=True):
                if slope:
                    for i, value in enumerate(x):
                        row[i] -= recipe.learning_rate * slope * value
        yield weights


def measure(model_name: str, weights: Weights, points: list[Point]) -> tuple[float, float]:
    """(mean loss, accuracy): log loss of the softmax; hinge and perceptron loss as the mean over the one-vs-all problems."""
    loss = right = 0.0
    for x, label in points:
        scores = _scores(weights, x)
        right += scores.index(max(scores)) == label
        if model_name == "softmax_regression":
            loss -= math.log(_softmax(scores)[label])
        else:
            margin = 1.0 if model_name == "linear_svm" else 0.0
            loss += sum(max(0.0, margin - score * _sign(c, label)) for c, score in enumerate(scores)) / len(scores)
    return loss / len(points), right / len(points)


def _scores(weights: Weights, x: tuple[float, ...]) -> list[float]:
    return [sum(w * value for w, value in zip(row, x, strict=True)) for row in weights]


def _sign(class_: int, label: int) -> float:
    return 1.0 if class_ == label else -1.0


def _softmax(scores: list[float]) -> list[float]:
    """Probabilities, none of them 0: a score far below the best counts as 500 below it."""
    top = max(scores)
    powers = [math.exp(max(score - top, -500.0)) for score in scores]
    total = sum(powers)
    return [power / total for power in powers]


def _softmax_slopes(scores: list[float], label: int) -> list[float]:
    return [p - (c == label) for c, p in enumerate(_softmax(scores))]


def _hinge_slopes(scores: list[float], label: int) -> list[float]:
    return [-_sign(c, label) if score * _sign(c, label) < 1.0 else 0.0 for c, score in enumerate(scores)]


def _perceptron_slopes(scores: list[float], label: int) -> list[float]:
    return [-_sign(c, label) if score * _sign(c, label) <= 0.0 else 0.0 for c, score in enumerate(scores)]


_SLOPES: dict[str, Callable[[list[float], int], list[float]]] = {
    "softmax_regression": _softmax_slopes,
    "linear_svm": _hinge_slopes,
    "perceptron": _perceptron_slopes,
}
"""Of each class's score, the slope of the loss at one point."""


# -- progress ----------------------------------------------------------------------------------------------------------


def _bar(*, shown: bool) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=Console(stderr=True), disable=not shown)
