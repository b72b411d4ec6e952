"""Train many models in parallel, each a run of its own in one store; then show the best, and mean ± deviation over seeds.

    python examples/train_model/sweep.py
    python examples/train_model/sweep.py --models linear_svm --datasets digits --learning_rates 0.001 0.01 0.1 --n_jobs 4

Every combination of models, data sets, learning rates and seeds is one run. The runs are shared out to processes (joblib's
loky); each writes its own files into the store, so none waits for another. All runs of a sweep have the same group. A run
that fails is counted and named, the others go on, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime, timezone
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joblib import Parallel, cpu_count, delayed
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from run import CHECKPOINTS, DATASETS, MODELS, PROJECT, positive, run, run_name, seed_value

import ailab

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAIN: dict[str, Any] = {"title_justify": "left", "title_style": "bold", "box": None, "pad_edge": False, "padding": (0, 2, 0, 0)}
"""How the tables look."""


def attempt(index: int, params: dict[str, Any], options: dict[str, Any]) -> tuple[int, str | None]:
    """One run in a process of the sweep: its place among the runs, and why it failed, if it did."""
    try:
        run(params, **options)
    except Exception as problem:  # noqa: BLE001  (whatever a run dies of, the others go on; ailab keeps the traceback)
        return index, f"{type(problem).__name__}: {problem}"
    return index, None


def grid(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Parameters of every run; seeds outermost, so that long and short runs mix."""
    return [
        {
            "experiment_name": args.experiment_name,
            "task_name": "classification",
            "model_name": model,
            "dataset": dataset,
            "n_epochs": args.n_epochs,
            "learning_rate": rate,
            "seed": seed,
        }
        for seed, rate, dataset, model in product(args.seeds, args.learning_rates, args.datasets, args.models)
    ]


def train_all(runs: list[dict[str, Any]], options: dict[str, Any], n_jobs: int, console: Console) -> dict[int, str]:
    """Train all; give the errors of those that failed, by their place in `runs`."""
    told = TextColumn("{task.fields[failed]}")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), told
    waiting, errors = list(range(len(runs))), {}
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("training", total=len(runs), failed="")
        while waiting:
            for index, error in ended(waiting, runs, options, n_jobs):
                if error is not None:
                    errors[index] = error
                progress.update(bar, advance=1, failed=f"[red]{len(errors)} failed" if errors else "")
    return errors


def ended(
    waiting: list[int], runs: list[dict[str, Any]], options: dict[str, Any], n_jobs: int
) -> Iterator[tuple[int, str | None]]:
    """Train those that wait, and give each as it ends, with its error if it failed.

    A process that is killed (memory ran out, say) takes the pool with it: those under way count as failed, the others still wait.
    """
    under_way: set[int] = set()

    def jobs() -> Iterator[Any]:
        while waiting:
            index = waiting.pop(0)
            under_way.add(index)
            yield delayed(attempt)(index, runs[index], options)

    try:  # one run at a time to each process, so that it is known which are under way
        for index, error in Parallel(n_jobs=n_jobs, return_as="generator_unordered", pre_dispatch="n_jobs", batch_size=1)(jobs()):
            under_way.remove(index)
            yield index, error
    except BrokenProcessPool:
        for index in sorted(under_way):
            yield index, "its process was killed, or one beside it"


def leaderboard(out: Console) -> None:
    """The ten best runs, of this sweep or any other that wrote into the same store."""
    table = Table("#", "accuracy", "run", "run id", title="best runs in the store by accuracy", **PLAIN)
    for row in ailab.leaderboard("accuracy"):
        table.add_row(f"{row.rank:>2}", f"{row.value:.4f}", escape(row.name), row.run_id)
    out.print(table)


def means(out: Console, group: str, args: argparse.Namespace) -> None:
    """A row per model (and learning rate), a column per data set, from the store by SQL."""
    with ailab.connect() as con:
        found = con.execute(
            'SELECT model_name, learning_rate, dataset, avg(accuracy), stddev_samp(accuracy) FROM wide WHERE "group" = ? '
            "AND accuracy IS NOT NULL GROUP BY ALL",
            [group],
        ).fetchall()
    cells = {tuple(key): f"{mean:.3f}" + ("" if off is None else f" ± {off:.3f}") for *key, mean, off in found}
    seeds = f"{len(args.seeds)} seeds" if len(args.seeds) > 1 else f"seed {args.seeds[0]}"
    several = len(args.learning_rates) > 1
    table = Table("model", *["rate"] * several, *args.datasets, title=f"accuracy, mean ± deviation over {seeds}", **PLAIN)
    for model, rate in product(args.models, args.learning_rates):
        table.add_row(model, *[f"{rate:g}"] * several, *(cells.get((model, rate, dataset), "-") for dataset in args.datasets))
    out.print(table)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train every combination of models, data sets, learning rates and seeds in parallel; each is a run.",
        allow_abbrev=False,
    )
    models, datasets, jobs = list(MODELS), list(DATASETS), cpu_count()
    add = parser.add_argument
    add("--models", nargs="+", default=models, choices=models, metavar="MODEL", help=f"of {', '.join(models)} (all)")
    add("--datasets", nargs="+", default=datasets, choices=datasets, metavar="DATA", help=f"of {', '.join(datasets)} (all)")
    add("--seeds", nargs="+", default=[0, 1, 2, 3, 4], type=seed_value, metavar="N", help="a run for each (0 1 2 3 4)")
    add("--learning_rates", nargs="+", default=[0.1], type=positive(float), metavar="RATE", help="step sizes (0.1)")
    add("--n_epochs", default=30, type=positive(int), metavar="N", help="passes over the training part (%(default)s)")
    add("--n_jobs", default=jobs, type=positive(int), metavar="N", help="processes at once (%(default)s, one per processor)")
    add("--experiment_name", default="linear_models_sweep", help="what the runs belong to (%(default)s)")
    add("--project", default=PROJECT, help="the runs' project (%(default)s)")
    add("--checkpoints", default=CHECKPOINTS, type=Path, metavar="DIR", help="where models and CSVs go (%(default)s)")
    args = parser.parse_args(argv)
    for axis in ("models", "datasets", "seeds", "learning_rates"):
        setattr(args, axis, list(dict.fromkeys(getattr(args, axis))))  # a value given twice is one run, not two of the same
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    runs = grid(args)
    group = f"sweep-{datetime.now(timezone.utc):%Y%m%dT%H%M%S.%fZ}"
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    err = Console(stderr=True, highlight=False)
    err.print(f"{len(runs)} runs on {args.n_jobs} processes, project {args.project}, group {group}", soft_wrap=True)
    begun = time.perf_counter()
    try:
        errors = train_all(runs, {"project": args.project, "group": group, "checkpoints": args.checkpoints}, args.n_jobs, err)
    except KeyboardInterrupt:
        err.print("interrupted; what was logged until now is in the store")
        return 130
    took = time.perf_counter() - begun
    err.print(f"{len(runs) - len(errors)} of {len(runs)} runs in {took:.1f} s\n")
    try:
        leaderboard(out)
        out.print()
        means(out, group, args)
    except ailab.AilabError as problem:
        err.print(f"the runs cannot be read: {problem}", markup=False)
        return 1
    if errors:
        err.print(f"\n{len(errors)} of {len(runs)} runs failed:")
        for index, error in sorted(errors.items()):
            err.print(f"  {run_name(runs[index])}: {error}", markup=False, soft_wrap=True)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
