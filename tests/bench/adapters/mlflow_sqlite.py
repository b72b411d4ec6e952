"""MLflow with its SQLite store, the fluent API, synchronous logging: what it does as installed."""

# ruff: noqa: ARG002, RUF012  (signatures and class attributes are those of kit.Adapter)

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time

from kit import FILTER_MIN, FILTER_PARAM, Adapter, run_record

FILTER = f"metrics.m0 >= {FILTER_MIN} and params.p0 = '{FILTER_PARAM}'"
BATCH = 1000
"""Metrics that `log_batch` takes at most."""


class A(Adapter):
    """One SQLite database; its server with one worker and everything else as by default."""

    ENV, PACKAGE, IMPORT, REQUIREMENTS = "mlflow", "mlflow", "import mlflow", ["mlflow"]
    VARIABLES = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": "sqlite:///{root}/store/mlflow.db",
        "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
    }

    def __init__(self, root):
        super().__init__(root)
        import mlflow
        from mlflow.tracking import MlflowClient

        self.mlflow, self.client = mlflow, MlflowClient()
        os.chdir(self.store)
        self.experiment = self.client.get_experiment_by_name("Default").experiment_id  # makes or migrates the database

    def open_run(self, name, params):
        run = self.mlflow.start_run(run_name=name)
        self.mlflow.log_params(params)
        self.remember(name, run.info.run_id)
        return run

    def logger(self, run):
        call = self.mlflow.log_metrics
        return lambda values, step: call(values, step=step)

    def close_run(self, run, summary=None):
        if summary:
            self.mlflow.log_metrics(summary)
        self.mlflow.end_run()

    def fill(self, run, curves, n, deadline):
        """`log_batch`, metric after metric; steps times metrics are the points written."""
        from mlflow.entities import Metric

        done = 0
        for key, values in curves.items():
            for start in range(0, n, BATCH):
                end = min(n, start + BATCH)
                points = [Metric(key, values[i % len(values)], 1_700_000_000_000 + i, i) for i in range(start, end)]
                self.client.log_batch(run.info.run_id, metrics=points)
                done += end - start
                if time.monotonic() > deadline:
                    return done / len(curves)
        return done / len(curves)

    def recovered(self, name):
        return len(self.client.get_metric_history(self.recall(name), "loss"))

    def history(self, name, metric):
        return self.client.get_metric_history(self.recall(name), metric)

    # -- questions

    def populate(self, n, deadline):
        """Straight SQL into its schema: parameters, metrics and their latest values, three tags a run."""
        con = sqlite3.connect(self.store / "mlflow.db")
        tables = ("runs", "params", "metrics", "latest_metrics", "tags")
        columns = {table: [row[1] for row in con.execute(f"PRAGMA table_info({table})")] for table in tables}
        done = 0
        for start in range(0, n, 2000):
            done = min(n, start + 2000)
            for table, rows in self._rows(range(start, done)).items():
                names = [name for name in columns[table] if name in rows[0]]
                marks = ",".join("?" * len(names))
                con.executemany(
                    f"INSERT INTO {table}({','.join(names)}) VALUES ({marks})", [[row[k] for k in names] for row in rows]
                )
            con.commit()
            if time.monotonic() > deadline:
                break
        con.close()
        return done

    def _rows(self, numbers):
        """Rows of some runs by table."""
        found = {table: [] for table in ("runs", "params", "metrics", "latest_metrics", "tags")}
        for i in numbers:
            name, params, metrics = run_record(i)
            run, moment = f"{i:032x}", 1_700_000_000_000 + i * 1000
            found["runs"].append({
                "run_uuid": run, "name": name, "source_type": "LOCAL", "source_name": "train.py", "entry_point_name": "",
                "user_id": "bench", "status": "FINISHED", "start_time": moment, "end_time": moment + 500, "source_version": "",
                "lifecycle_stage": "active", "artifact_uri": f"{self.store}/{run}/artifacts",
                "experiment_id": int(self.experiment), "deleted_time": None,
            })  # fmt: skip
            found["params"] += [{"key": k, "value": str(v), "run_uuid": run} for k, v in params.items()]
            points = [
                {"key": k, "value": v, "timestamp": moment, "run_uuid": run, "step": 0, "is_nan": 0} for k, v in metrics.items()
            ]
            found["metrics"] += points
            found["latest_metrics"] += points
            tags = {"mlflow.runName": name, "mlflow.user": "bench", "mlflow.source.name": "train.py"}
            found["tags"] += [{"key": k, "value": v, "run_uuid": run} for k, v in tags.items()]
        return found

    def questions(self, n):
        client, where, run = self.client, [self.experiment], f"{n // 2:032x}"

        def whole(runs):
            assert len(runs[0].data.params) == 10
            assert len(runs[0].data.metrics) == 5
            return len(runs)

        return {
            "newest50": lambda: whole(client.search_runs(where, max_results=50)),
            "filter50": lambda: whole(client.search_runs(where, FILTER, max_results=50)),
            "top10": lambda: whole(client.search_runs(where, order_by=["metrics.m0 DESC"], max_results=10)),
            "detail": lambda: whole([client.get_run(run)]),
        }

    def serve(self, port, n):
        def search(**asked):
            body = json.dumps({"experiment_ids": [self.experiment], **asked})
            return "POST", "/api/2.0/mlflow/runs/search", {"Content-Type": "application/json"}, body

        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
            "--backend-store-uri", os.environ["MLFLOW_TRACKING_URI"], "--default-artifact-root", str(self.store / "artifacts"),
        ]  # fmt: skip
        return command, "/health", {
            "newest50": search(max_results=50),
            "filter50": search(max_results=50, filter=FILTER),
            "top10": search(max_results=10, order_by=["metrics.m0 DESC"]),
            "detail": ("GET", f"/api/2.0/mlflow/runs/get?run_id={n // 2:032x}", {}, None),
        }  # fmt: skip
