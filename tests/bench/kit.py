"""The work that every system is given, and the shape of an adapter. Standard library only: it runs in every environment.

The same seeds give the same curves, parameters and metrics everywhere, so two systems never differ in what they were asked to
keep. An adapter is one system; heavy imports go into its constructor, never to module level, because the driver reads its
class attributes without having the system installed.
"""

from __future__ import annotations

import array
import math
import os
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable

POOL = 100_000
"""Steps of a curve, after which it begins again."""
PARAMETERS, METRICS = 10, 5
TEN = tuple(f"m{j}" for j in range(10))
FILTER_MIN, FILTER_PARAM = 0.9, "v3"
"""The filter: m0 >= 0.9 and p0 = 'v3', which keeps one run in 80."""
QUESTIONS = ("newest50", "filter50", "top10", "detail")
QUESTION_WORDS = {
    "newest50": "newest 50",
    "filter50": "m0 >= 0.9 and p0 = 'v3', newest 50",
    "top10": "top 10 by m0",
    "detail": "one run",
}


def curve(j: int) -> array.array[float]:
    """A noisy decay rounded to float32, as `loss.item()` gives it: its JSON has about 17 digits."""
    dice = random.Random(1000 + j)
    return array.array("f", (math.exp(-i / 30_000) + 0.1 * dice.random() + j for i in range(POOL)))


def run_record(i: int) -> tuple[str, dict[str, Any], dict[str, float]]:
    """Name, 10 parameters and 5 final metrics of run `i`, the same in every system."""
    dice = random.Random(i)
    params: dict[str, Any] = {"p0": f"v{dice.randrange(8)}", "p1": dice.choice(["adam", "sgd"]), "p2": dice.randrange(1000)}
    for j in range(3, PARAMETERS):
        params[f"p{j}"] = round(dice.random(), 6)
    return f"run-{i:06d}", params, {f"m{j}": dice.random() for j in range(METRICS)}


class Adapter:
    """One system.

    Attributes:
        ENV: its environment under `.envs/`, or "" for the project's own.
        REQUIREMENTS: what is installed there.
        PACKAGE: the distribution whose version is told.
        IMPORT: the statement whose time is the import's.
        VARIABLES: environment variables of its processes; `{root}` is its folder. None may lead to a network.
        SKIP: jobs that it cannot do, with the reason.
    """

    ENV: ClassVar[str] = ""
    REQUIREMENTS: ClassVar[list[str]] = []
    PACKAGE: ClassVar[str] = ""
    IMPORT: ClassVar[str] = ""
    VARIABLES: ClassVar[dict[str, str]] = {}
    SKIP: ClassVar[dict[str, str]] = {}

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.store = self.root / "store"
        """Everything that the system keeps; its size is what is measured."""
        self.aux = self.root / "aux"
        """What the adapter itself has to remember; not counted."""
        self.store.mkdir(parents=True, exist_ok=True)
        self.aux.mkdir(parents=True, exist_ok=True)

    def remember(self, name: str, ident: object) -> None:
        """Keep the id that the system gave to what we call `name`."""
        (self.aux / name).write_text(str(ident))

    def recall(self, name: str) -> str:
        """The id behind `name`."""
        return (self.aux / name).read_text()

    # -- writing

    def open_run(self, name: str, params: dict[str, Any]) -> Any:
        """Start a run with parameters."""
        raise NotImplementedError

    def logger(self, run: Any) -> Callable[[dict[str, float], int], object]:
        """The call that a training loop makes."""
        raise NotImplementedError

    def close_run(self, run: Any, summary: dict[str, float] | None = None) -> None:
        """Finish; returns once the system says that the run is kept."""
        raise NotImplementedError

    def fill(self, run: Any, curves: dict[str, array.array[float]], n: int, deadline: float) -> float:
        """Log `n` steps of every curve by the fastest public way; return how many steps were reached."""
        log, items = self.logger(run), list(curves.items())
        for i in range(n):
            log({key: values[i % POOL] for key, values in items}, i)
            if not i & 255 and time.monotonic() > deadline:
                return i + 1
        return n

    def settle(self) -> None:
        """Bring the store into the form that it is kept in, once nothing is written any more."""

    # -- reading

    def recovered(self, name: str) -> int:
        """How many logged steps the system's own reader finds for a run."""
        raise NotImplementedError

    def history(self, name: str, metric: str) -> Any:
        """All points of one metric of a run: (steps, values), or a list of points."""
        raise NotImplementedError

    # -- questions

    def populate(self, n: int, deadline: float) -> int:
        """Make `n` finished runs; return how many were reached."""
        for i in range(n):
            name, params, metrics = run_record(i)
            self.close_run(self.open_run(name, params), metrics)
            if time.monotonic() > deadline:
                return i + 1
        return n

    def questions(self, n: int) -> dict[str, Callable[[], int]]:
        """Each question as a function that answers it whole and returns the number of rows."""
        raise NotImplementedError

    def serve(self, port: int, n: int) -> tuple[list[str], str, dict[str, tuple[str, str, dict[str, str], str | None]]] | None:
        """(command line, path that answers once it is up, (method, path, headers, body) of each question), or None."""


def tree_bytes(folder: Path | str, *, without: tuple[str, ...] = ()) -> int:
    """Size of all files below a folder; folders right below it that are called as in `without` are left out."""
    size = 0
    for place, folders, files in os.walk(folder):
        if Path(place) == Path(folder):
            folders[:] = [name for name in folders if name not in without]
        for name in files:
            try:
                size += os.lstat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                continue
    return size


def quantiles(values: list[float]) -> dict[str, float]:
    """Number, mean, median, 95th and 99th percentile, smallest, greatest, and the first."""
    ordered = sorted(values)
    n = len(ordered)
    return {
        "n": n, "mean": sum(ordered) / n, "p50": ordered[n // 2], "p95": ordered[min(n - 1, int(n * 0.95))],
        "p99": ordered[min(n - 1, int(n * 0.99))], "min": ordered[0], "max": ordered[-1], "first": values[0],
    }  # fmt: skip
