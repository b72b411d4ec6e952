"""Answers as they look, for the OpenAPI document: made of the same Structs as the real ones, so their shape cannot drift."""

from __future__ import annotations

from ailab.queries import (
    ArtifactFile,
    Change,
    DatasetUse,
    Health,
    LeaderboardRow,
    MetricPoint,
    Number,
    RunComparison,
    RunDetail,
    RunSummaryView,
)

RUN_ID = "06d3v8k2m4q7t9w1x5z0a2c4e6"
OTHER_ID = "06d3v8f0n2p5r8s3v6y1b4d7g9"
PATH = "checkpoints/svm_metrics.csv"
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
DATASET_ID = f"iris@sha256:{SHA256}"
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
    url=f"/artifacts/{RUN_ID}/download/{PATH}",
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
CHANGE = Change(
    event="20261120T093000000000Z_lab_4711_0badcafe:3", at=LATER, by="ada", via="http", run_id=RUN_ID, kind="note.changed",
    field="note", old="first try", new="PUBLISH: best model",
)  # fmt: skip
