"""Train one linear classifier by stochastic gradient descent, epoch by epoch, and record it with ailab.

    python examples/train_model/run.py --model_name linear_svm --dataset wine --n_epochs 30

Data: iris, wine, breast_cancer and digits, which scikit-learn brings along; nothing is downloaded. A quarter of the samples,
drawn class by class, is kept for validation. Features are scaled to mean 0 and deviation 1 of the training part alone.

Training: scikit-learn's SGDClassifier with a constant learning rate; an epoch is one `partial_fit` over the training part in
a new random order. With several classes it fits one binary problem per class against all others. The seed decides the
split and the orders: the same seed gives the same numbers. (The rate of a perceptron does little but scale its weights.)

Losses, without the penalty on the weights; t is +1 for the class in question and -1 for all others, f its decision value:
  logistic_regression  multinomial log loss: the mean of -log p(true class), the probabilities of all classes summing to 1
  linear_svm           hinge loss max(0, 1 - t f), the mean over samples and one-vs-all problems (one problem if two classes)
  perceptron           perceptron loss max(0, -t f), the mean over the same
Those of the latter two are what the trainer minimises, so they compare between data sets with different numbers of classes.

Files: `<model>_metrics_<timestamp>.csv` (an epoch per row, written as it ends) and `<model>_model_<timestamp>.joblib` (scaler
and classifier as one pipeline that predicts from raw features). Both are kept as the run's artifacts.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import joblib
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ailab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODELS = {"logistic_regression": "log_loss", "linear_svm": "hinge", "perceptron": "perceptron"}
"""Name of a model: the loss that SGDClassifier minimises for it."""
DATASETS = {"iris": load_iris, "wine": load_wine, "breast_cancer": load_breast_cancer, "digits": load_digits}
VALIDATION_SHARE = 0.25
COLUMNS = ["epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy"]
CHECKPOINTS = Path(__file__).resolve().parent / "checkpoints"
PROJECT = os.environ.get("AILAB_PROJECT") or os.environ.get("PROJECT_NAME") or "train_model"


class Split(NamedTuple):
    """Scaled features (n_samples, n_features), labels (n_samples,), and the scaler that was fitted to the training part."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    scaler: StandardScaler


def load_split(dataset: str, seed: int) -> Split:
    x, y = DATASETS[dataset](return_X_y=True)
    x_train, x_val, y_train, y_val = train_test_split(x, y, test_size=VALIDATION_SHARE, stratify=y, random_state=seed)
    scaler = StandardScaler().fit(x_train)
    return Split(scaler.transform(x_train), y_train, scaler.transform(x_val), y_val, scaler)


def measure(model: SGDClassifier, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """(mean loss, accuracy) on x (n_samples, n_features) and y (n_samples,); the losses are those of the module's docstring."""
    with np.errstate(over="ignore", invalid="ignore"):  # a model that diverged has a loss of inf or NaN, which says it
        losses, right = _losses(model, x, np.searchsorted(model.classes_, y))
        return float(losses.mean()), float(right.mean())


def _losses(model: SGDClassifier, x: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(losses, whether the guess is right (n_samples,)); `true` has the place of each sample's class among all."""
    scores = model.decision_function(x)  # (n_samples,) of the second class if there are two, else (n_samples, n_classes)
    if scores.ndim == 1:
        guess, signed = (scores > 0).astype(int), np.where(true == 1, scores, -scores)
    else:
        guess, signed = scores.argmax(axis=1), np.where(true[:, None] == np.arange(len(model.classes_)), scores, -scores)
    if model.loss == "hinge":
        losses = np.maximum(0, 1 - signed)
    elif model.loss == "perceptron":
        losses = np.maximum(0, -signed)
    elif scores.ndim == 1:
        losses = np.logaddexp(0, -signed)
    else:
        log_p = -np.logaddexp(0, -scores)  # of each problem by itself; their probabilities are then made to sum to 1
        losses = np.logaddexp.reduce(log_p, axis=1) - log_p[np.arange(len(true)), true]
    return losses, guess == true


def epochs(model: SGDClassifier, split: Split, n_epochs: int, seed: int) -> Iterator[dict[str, Any]]:
    """Train epoch by epoch; give a row of COLUMNS after each."""
    order = np.random.default_rng(seed)
    classes = np.unique(split.y_train)
    for epoch in range(1, n_epochs + 1):
        shuffled = order.permutation(len(split.y_train))
        model.partial_fit(split.x_train[shuffled], split.y_train[shuffled], classes=classes)
        train_loss, train_accuracy = measure(model, split.x_train, split.y_train)
        val_loss, val_accuracy = measure(model, split.x_val, split.y_val)
        yield dict(zip(COLUMNS, [epoch, train_loss, val_loss, train_accuracy, val_accuracy], strict=True))


def final_metrics(model: SGDClassifier, split: Split, last: dict[str, Any]) -> dict[str, float]:
    with np.errstate(over="ignore", invalid="ignore"):  # as in `measure`
        guess = model.predict(split.x_val)
    macro = {"average": "macro", "zero_division": 0.0}  # a class that is never predicted has precision 0 and no warning
    return {
        "accuracy": float(accuracy_score(split.y_val, guess)),
        "train_accuracy": last["train_accuracy"],
        "train_loss": last["train_loss"],
        "val_loss": last["val_loss"],
        "f1_macro": float(f1_score(split.y_val, guess, **macro)),
        "precision_macro": float(precision_score(split.y_val, guess, **macro)),
        "recall_macro": float(recall_score(split.y_val, guess, **macro)),
    }


def new_paths(folder: Path, model_name: str) -> tuple[Path, Path]:
    """Where metrics and model go; microseconds and process id keep runs apart that start at the same time."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S.%fZ}-{os.getpid()}"
    return folder / f"{model_name}_metrics_{stamp}.csv", folder / f"{model_name}_model_{stamp}.joblib"


def run_name(params: dict[str, Any]) -> str:
    return f"{params['dataset']} {params['model_name']} lr={params['learning_rate']:g} seed={params['seed']}"


def run(
    params: dict[str, Any],
    *,
    project: str = PROJECT,
    group: str | None = None,
    checkpoints: Path = CHECKPOINTS,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train and record one run.

    Args:
        params: what `train` below takes; the run's parameters.
        project: the run's project.
        group: a name that several runs share.
        checkpoints: the folder that gets the model and the CSV.
        on_epoch: called with every row of the CSV.
    """

    @ailab.log_run(name=run_name(params), project=project, group=group)
    def train(
        *, experiment_name: str, task_name: str, model_name: str, dataset: str, n_epochs: int, learning_rate: float, seed: int
    ) -> dict[str, Any]:
        del experiment_name, task_name  # they only describe the run
        begun = time.perf_counter()
        split = load_split(dataset, seed)
        model = SGDClassifier(
            loss=MODELS[model_name], learning_rate="constant", eta0=learning_rate, shuffle=False, random_state=seed
        )
        csv_path, model_path = new_paths(checkpoints, model_name)
        row: dict[str, Any] = {}
        with csv_path.open("x", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            table.writeheader()
            for row in epochs(model, split, n_epochs, seed):
                ailab.log({name: row[name] for name in COLUMNS[1:]}, step=row["epoch"])
                table.writerow(row)
                file.flush()
                if on_epoch is not None:
                    on_epoch(row)
        joblib.dump(make_pipeline(split.scaler, model), model_path)
        runtime = time.perf_counter() - begun
        return {
            "final_metrics": {**final_metrics(model, split, row), "runtime_seconds": runtime},
            "artifacts": [str(model_path), str(csv_path)],
            "dataset_id": dataset,
            "run_id": ailab.active_run().id,
        }

    return train(**params)


def positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    """A type for argparse: a finite number of this kind above 0."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not (value > 0 and math.isfinite(value)):
            what = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed: a {what} above 0")
        return value

    return parse


def seed_value(text: str) -> int:
    """A type for argparse: what numpy and scikit-learn take as a seed."""
    if not (text.isascii() and text.isdigit() and int(text) < 2**32):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: a whole number from 0 to 4294967295")
    return int(text)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train one linear classifier by SGD and record it with ailab.",
        allow_abbrev=False,
    )
    models, datasets = list(MODELS), list(DATASETS)
    add = parser.add_argument
    add("--experiment_name", default="linear_models", help="what the run belongs to (%(default)s)")
    add("--task_name", default="classification", help="what is learned (%(default)s)")
    add("--model_name", default=models[0], choices=models, metavar="MODEL", help=f"{', '.join(models)} (%(default)s)")
    add("--dataset", default=datasets[0], choices=datasets, metavar="DATA", help=f"{', '.join(datasets)} (%(default)s)")
    add("--n_epochs", default=30, type=positive(int), metavar="N", help="passes over the training part (%(default)s)")
    add("--learning_rate", default=0.1, type=positive(float), metavar="RATE", help="constant step size (%(default)s)")
    add("--seed", default=0, type=seed_value, metavar="N", help="decides the split and the order of samples (%(default)s)")
    add("--project", default=PROJECT, help="the run's project (%(default)s)")
    add("--checkpoints", default=CHECKPOINTS, type=Path, metavar="DIR", help="where model and CSV go (%(default)s)")
    return parser.parse_args(argv)


def number(value: float) -> str:
    four_decimals_say_it = value == 0 or 0.001 <= abs(value) < 100_000  # noqa: PLR2004
    return f"{value:.4f}" if four_decimals_say_it else f"{value:.3g}"


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    params = {k: v for k, v in vars(args).items() if k not in {"project", "checkpoints"}}
    shown = max(1, args.n_epochs // 10)

    def show(row: dict[str, Any]) -> None:
        if row["epoch"] % shown == 0 or row["epoch"] in {1, args.n_epochs}:
            print("  ".join([f"{row['epoch']:>5}", *(number(row[name]).rjust(len(name)) for name in COLUMNS[1:])]), flush=True)

    print(run_name(params))
    print("  ".join(COLUMNS))
    result = run(params, project=args.project, checkpoints=args.checkpoints, on_epoch=show)
    print(f"\nrun {result['run_id']}")
    for name, value in result["final_metrics"].items():
        print(f"  {name:<16} {number(value)}")
    for path in result["artifacts"]:
        print(f"  {os.path.relpath(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
