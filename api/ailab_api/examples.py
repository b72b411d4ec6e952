"""Answers as they look, for the OpenAPI document: made of the same Structs as the real ones, so their shape cannot drift."""

from __future__ import annotations

import msgspec

from ailab.columns import Column
from ailab.inventory import DatasetDetail, DatasetPreview, DatasetView, ProjectView
from ailab.queries import (
    ArtifactFile,
    Change,
    ColumnInfo,
    DatasetUse,
    Health,
    LeaderboardRow,
    MetricPoint,
    Number,
    RunComparison,
    RunDetail,
    RunSummaryView,
    ViewInfo,
)
from ailab.receiving import Received
from ailab.telemetry import ConsoleLine, SystemFigure

RUN_ID = "06d3v8k2m4q7t9w1x5z0a2c4e6"
OTHER_ID = "06d3v8f0n2p5r8s3v6y1b4d7g9"
PATH = "checkpoints/svm_metrics.csv"
FILE_TEXT = "test"
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
DATASET_ID = f"iris@sha256:{SHA256}"
SEGMENT = "20261120T093000000000Z_lab_4711_0badcafe"
EVENT = f"{SEGMENT}:3"
TOKEN = "3f9a0c11d2e4"  # noqa: S105  (an id)
AT = "2026-11-20T09:30:00.000000Z"
LATER = "2026-11-20T09:30:12.500000Z"
_METRICS: dict[str, Number] = {"accuracy": 0.97, "val_loss": 0.12}

HEALTH = Health(status="ok", project="ailab")
SUMMARY = RunSummaryView(
    run_id=RUN_ID, timestamp=AT, git_hash="4b825dc642cb6eb9a060e54bf8d69288fbee4904", command="python train.py --model_name svm",
    dataset_id="iris@v1", wandb_url=None, final_metrics=_METRICS, name="svm", status="completed", project="iris",
    tags={"baseline": None}, note="first try",
)  # fmt: skip
ROW = LeaderboardRow(
    **{name: getattr(SUMMARY, name) for name in RunSummaryView.__struct_fields__}, rank=1, metric_name="accuracy", value=0.97
)
FILE = ArtifactFile(
    path=PATH, name="svm_metrics.csv", kind="metrics", size=812, sha256=SHA256, version=1, at=LATER, trashed=False,
    reference=False, location=None, url=f"/artifacts/{RUN_ID}/download/{PATH}",
)  # fmt: skip
DETAIL = RunDetail(
    run_id=RUN_ID, timestamp=AT, git_hash=SUMMARY.git_hash, git_diff="", command=SUMMARY.command, python_version="3.11.7",
    pip_freeze="msgspec==0.22.0\nscikit-learn==1.7.2", device_info='{"cpu":"x86_64","cpu_count":8}', dataset_id="iris@v1",
    params={"model_name": "svm", "learning_rate": 0.1}, final_metrics=_METRICS, artifacts=[PATH], wandb_url=None,
    note="first try", name="svm", status="completed", project="iris", project_id="iris", description=None,
    tags={"baseline": None}, group=None,
    parent_run_id=None, seed=42, started_at=AT, ended_at=LATER, duration_s=12.5, user="ada", host="lab", error=None,
    environment_id=SHA256, git_branch="main", git_remote="https://example.org/lab/iris.git", points_dropped=0, trashed=False,
    protected=False, artifact_files=[FILE],
    datasets=[DatasetUse(dataset_id=DATASET_ID, name="iris@v1", version=1, sha256=SHA256, role="training")],
)  # fmt: skip
COMPARISON = RunComparison(metric_keys=["accuracy", "val_loss"], param_keys=["learning_rate", "model_name"], runs=[DETAIL])
POINT = MetricPoint(key="val_loss", step=1, time=AT, value=0.12)
LINE = ConsoleLine(time=AT, stream="stdout", line="epoch 1: val_loss 0.12")
FIGURE = SystemFigure(key="process/memory_bytes", time=AT, value=412_160_000.0)
PROJECT = ProjectView(
    project_id="iris", name="Iris", description="flowers", created_at=AT, trashed=False, dataset_count=1, run_count=2,
    runs_by_status={"completed": 2}, total_dataset_bytes=3975, last_activity=LATER,
)  # fmt: skip
DATASET = DatasetView(
    dataset_id=DATASET_ID, name="iris", version=1, versions=1, sha256=SHA256, size=3975, format="csv", rows=150, columns=5,
    description="Fisher's flowers", tags={"gold": None}, project_id="iris", project="Iris", parent_id=None, file="iris.csv",
    created_at=AT, by=None, trashed=False,
)  # fmt: skip
DATASET_DETAIL = DatasetDetail(
    **{name: getattr(DATASET, name) for name in DatasetView.__struct_fields__}, metadata={"source": "UCI"}, encoding="utf-8",
    delimiter=",", notes=[], schema_changes=[], run_count=2,
    columns_detail=[
        Column(name="petal_length", type="float", nullable=False, nulls=0, distinct=43, min=1.0, max=6.9, examples=[1.4, 1.3])
    ],
)  # fmt: skip
PREVIEW = DatasetPreview(rows=[{"petal_length": 1.4, "species": "setosa"}], total=150, showing=1)
VIEW = ViewInfo(
    name="tags", comment="one row per run and tag that is set",
    columns=[ColumnInfo(name="run_id", type="VARCHAR", comment="the run's id")],
)  # fmt: skip
RECEIVED = Received(segment=SEGMENT, bytes=1233, sha256=SHA256)
CHANGE = Change(
    event=EVENT, at=LATER, by="ada", via="http", run_id=RUN_ID, kind="note.changed",
    field="note", old="first try", new="PUBLISH: best model",
)  # fmt: skip
STREAM = "id: 5f1c0a9e:43\nevent: runs\ndata: " + msgspec.json.encode({"runs": [SUMMARY], "gone": []}).decode() + "\n\n"
METRICS = (
    "# HELP ailab_runs Runs that are not in the trash.\n# TYPE ailab_runs gauge\n"
    'ailab_runs{status="running"} 1\nailab_runs{status="completed"} 41\n'
)
