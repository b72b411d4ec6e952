"""ailab itself, by its public API, for the same jobs as every other system."""

# ruff: noqa: RUF012  (signatures and class attributes are those of kit.Adapter)

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from kit import FILTER_MIN, FILTER_PARAM, Adapter

if TYPE_CHECKING:
    from pathlib import Path

SEGMENT_PER_RUN_MAX = 10_000
"""Up to so many runs are made through the API, each with a segment of its own; more are written in bulk, as MLflow's are."""


class A(Adapter):
    """A store of plain files."""

    PACKAGE, IMPORT = "ailab", "import ailab"
    VARIABLES = {"AILAB_DIR": "{root}/store", "AILAB_SILENT": "1"}

    def __init__(self, root):
        super().__init__(root)
        import ailab

        self.ailab = ailab

    def open_run(self, name, params):
        run = self.ailab.start_run(name, project="bench", config=params)
        self.remember(name, run.id)
        return run

    def logger(self, run):
        return run.log

    def close_run(self, run, summary=None):
        run.finish(final_metrics=summary)

    def settle(self):
        compact(self.store)

    def recovered(self, name):
        with self.ailab.connect(self.store) as lab:
            asked = "SELECT count(DISTINCT step) FROM metrics WHERE run_id = $1 AND key = 'loss'"
            return lab.execute(asked, [self.recall(name)]).fetchone()[0]

    def history(self, name, metric):
        return self.ailab.history(self.recall(name), [metric], dir=self.store)

    # -- questions

    def populate(self, n, deadline):
        if n <= SEGMENT_PER_RUN_MAX:
            done = super().populate(n, deadline)
            with self.ailab.connect(self.store) as lab:
                ids = [row[0] for row in lab.execute("SELECT run_id FROM runs ORDER BY started_at").fetchall()]
        else:
            import population

            ids = population.populate(self.store, n)
            done = n
        self.remember("ids", "\n".join(ids))
        self.settle()
        return done

    def questions(self, n):
        from ailab import views

        lab = views.open_lab(self.store)
        ids = self.recall("ids").splitlines()
        return {name: (lambda name=name: ask(lab, name, ids[n // 2])) for name in ("newest50", "filter50", "top10", "detail")}

    def serve(self, port, n):
        run = self.recall("ids").splitlines()[n // 2]
        return serve_command(self.store, port), "/health", {name: ("GET", path, {}, None) for name, path in paths(run).items()}


def ask(lab, question: str, run_id: str) -> int:
    """Answer one question; return the number of rows."""
    from ailab import queries
    from ailab.queries import RunFilter

    if question == "newest50":
        return len(queries.list_runs(lab, RunFilter(limit=50), counted=False).rows)
    if question == "filter50":
        asked = RunFilter(metric_name="m0", metric_min=FILTER_MIN, params={"p0": FILTER_PARAM}, limit=50)
        return len(queries.list_runs(lab, asked, counted=False).rows)
    if question == "top10":
        return len(queries.leaderboard(lab, "m0", top_k=10))
    found = queries.get_run(lab, run_id)
    assert len(found.params) == 10
    assert len(found.final_metrics) == 5
    return 1


def paths(run_id: str) -> dict[str, str]:
    """The same questions as paths of the server."""
    return {
        "newest50": "/runs?limit=50",
        "filter50": f"/runs?metric_name=m0&metric_min={FILTER_MIN}&params.p0={FILTER_PARAM}&limit=50",
        "top10": "/runs/leaderboard?metric_name=m0&top_k=10",
        "detail": f"/runs/{run_id}",
    }


def command(*words: str) -> list[str]:
    """A command line of `ailab`, by this interpreter."""
    return [sys.executable, "-m", "ailab", *words]


def serve_command(store: Path | str, port: int) -> list[str]:
    """What serves a store."""
    return command("--dir", str(store), "serve", "--port", str(port))


def compact_command(store: Path | str) -> list[str]:
    """What compacts a store and removes at once what was replaced."""
    return command("compact", "--dir", str(store), "--grace", "0")


def can_compact() -> bool:
    """Whether this version has `ailab compact`."""
    return subprocess.run(command("compact", "--help"), capture_output=True, check=False).returncode == 0


def compact(store: Path | str) -> bool:
    """Compact a store and remove what was replaced at once; say whether that can be done at all."""
    if not can_compact():
        return False
    done = subprocess.run(compact_command(store), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ailab compact failed: {done.stderr[-500:]}")
    return True
