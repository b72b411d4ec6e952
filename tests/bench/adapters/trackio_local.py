"""Trackio with its local SQLite, one database per project; no space, so nothing to upload."""

# ruff: noqa: ARG002, RUF012  (signatures and class attributes are those of kit.Adapter)

from __future__ import annotations

import json
import sys
import time

from kit import FILTER_MIN, FILTER_PARAM, Adapter, run_record

PROJECT = "bench"
SELECT = (
    "SELECT m.run_name AS run, m.metrics AS metrics, c.config AS config FROM metrics m JOIN configs c ON c.run_id = m.run_id "
)
M0 = "json_extract(CAST(m.metrics AS TEXT), '$.m0')"
P0 = "json_extract(CAST(c.config AS TEXT), '$.p0')"
FILTER = f"{SELECT} WHERE {M0} >= {FILTER_MIN} AND {P0} = '{FILTER_PARAM}' ORDER BY m.timestamp DESC LIMIT 50"
TOP = f"{SELECT} ORDER BY {M0} DESC LIMIT 10"
SERVER = """
import uvicorn
from trackio.server import build_starlette_app_only
uvicorn.run(build_starlette_app_only()[0], host="127.0.0.1", port={port}, log_level="error")
"""


class A(Adapter):
    """Its own API where it has one, SQL through its query door where it has none."""

    ENV, PACKAGE, IMPORT, REQUIREMENTS = "trackio", "trackio", "import trackio", ["trackio"]
    VARIABLES = {"TRACKIO_DIR": "{root}/store", "TRACKIO_STORAGE_MODE": "sqlite"}

    def __init__(self, root):
        super().__init__(root)
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        self.trackio, self.database = trackio, SQLiteStorage

    def open_run(self, name, params):
        run = self.trackio.init(project=PROJECT, name=name, config=params, embed=False)
        self.remember(name, run.id)
        return run

    def logger(self, run):
        call = self.trackio.log
        return lambda values, step: call(values, step=step)

    def close_run(self, run, summary=None):
        if summary:
            self.trackio.log(summary)
        self.trackio.finish()

    def recovered(self, name):
        return len(self.history(name, "loss"))

    def history(self, name, metric):
        return self.database.get_metric_values(PROJECT, name, metric, run_id=self.recall(name))

    # -- questions

    def populate(self, n, deadline):
        """Its own `bulk_log`, one call a run."""
        for i in range(n):
            name, params, metrics = run_record(i)
            self.database.bulk_log(
                project=PROJECT, run=name, run_id=f"{i:032x}", metrics_list=[metrics], steps=[0], config=params
            )
            if time.monotonic() > deadline:
                return i + 1
        return n

    def questions(self, n):
        api, database, run = self.trackio.Api, self.database, f"{n // 2:032x}"

        def newest():
            runs = api().runs(PROJECT)
            return sum(runs[i].config is not None for i in range(min(50, len(runs))))

        def detail():
            points = database.get_logs(PROJECT, None, run_id=run)
            return int(database.get_run_config(PROJECT, run_id=run, run=None) is not None and points is not None)

        return {
            "newest50": newest,
            "filter50": lambda: database.query_project(PROJECT, FILTER)["row_count"],
            "top10": lambda: database.query_project(PROJECT, TOP)["row_count"],
            "detail": detail,
        }

    def serve(self, port, n):
        def ask(route, **given):
            return "POST", f"/api/{route}", {"Content-Type": "application/json"}, json.dumps(given)

        return [sys.executable, "-c", SERVER.format(port=port)], "/version", {
            "newest50": ask("get_runs_for_project", project=PROJECT),  # all runs: it has no pages
            "filter50": ask("query_project", project=PROJECT, query=FILTER),
            "top10": ask("query_project", project=PROJECT, query=TOP),
            "detail": ask("get_run_summary", project=PROJECT, run_id=f"{n // 2:032x}"),
        }  # fmt: skip
