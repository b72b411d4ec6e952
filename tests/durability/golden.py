"""A store as this version writes it, kept for ever, and what every later version must answer from it.

`python tests/durability/golden.py` writes `tests/golden/VERSION`, once for each release: a store with every kind of event, and
`answers.json`, what was answered from it then. It does nothing where that folder is there: what is kept is never written again.
Nothing in it tells of the machine that it was made on: host, user, environment and code are made up, and so is the clock.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).resolve().parents[1] / "golden"
START = 1_795_251_600.0  # 2026-11-21T09:00:00Z
TABLES = {
    "params": "SELECT run_id, key, value FROM params ORDER BY ALL",
    "notes": 'SELECT run_id, note, "at", "by" FROM notes ORDER BY ALL',
    "tags": "SELECT run_id, key, value FROM tags ORDER BY ALL",
    "artifacts": "SELECT run_id, path, kind, size, sha256, version, trashed FROM artifacts ORDER BY ALL",
    "projects": "SELECT project_id, name FROM projects ORDER BY ALL",
    "datasets": "SELECT dataset_id, name, version, size, rows, schema, tags, parent_id, trashed FROM datasets ORDER BY ALL",
    "dataset_uses": "SELECT run_id, dataset_id, name, role FROM dataset_uses ORDER BY ALL",
    "system_metrics": "SELECT run_id, key, value FROM system_metrics ORDER BY ALL",
    "console": "SELECT run_id, stream, line FROM console ORDER BY ALL",
    "changes": 'SELECT event, "at", run_id, kind, field, old, new FROM changes ORDER BY ALL',
    "kinds": "SELECT kind, count(*) FROM events GROUP BY 1 ORDER BY 1",
    "metric_summary": 'SELECT run_id, key, count, "min", "max", "first", "last" FROM metric_summary ORDER BY ALL',
}


def answers(folder: Path) -> dict[str, Any]:
    """What this version answers from a store: runs, points, leaderboards, tables, and what the doctor counts."""
    import msgspec

    from ailab import checkup, queries
    from ailab.views import open_lab

    lab = open_lab(str(folder))
    try:
        runs = [row.run_id for row in queries.list_runs(lab).rows]
        found = {
            "order": runs,
            "runs": {run: msgspec.to_builtins(queries.get_run(lab, run)) for run in sorted(runs)},
            "points": {run: msgspec.to_builtins(queries.metric_points(lab, run).rows) for run in sorted(runs)},
            "leaderboard": [[row.rank, row.run_id, row.value] for row in queries.leaderboard(lab, "accuracy", top_k=100)],
            "tables": {name: queries.run_sql(lab, query).rows for name, query in TABLES.items()},
            "problems": sorted(str(problem).replace(str(folder), "STORE") for problem in lab.problems),
        }
    finally:
        lab.close()
    now = checkup.examine(str(folder))
    counted = ("segments", "sealed", "live", "unsealed", "events", "points_dropped", "segment_bytes", "blobs")
    found["doctor"] = {name: getattr(now, name) for name in counted}
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def make(folder: Path) -> None:
    """Write a store with every kind of event that this version knows."""
    invent()
    import ailab
    from ailab import events, journal

    store = str(folder)
    with ailab.start_run(
        "first", id="first", project="Iris Flowers", seed=7, group="g1", dataset_id="iris@v1", description="the first run",
        tags={"stage": "early", "baseline": None}, params={"lr": 0.1, "layers": [64, 32], "optimizer": {"name": "sgd", "m": 0.9}},
        dir=store,
    ) as run:  # fmt: skip
        run.define_metric("loss", unit="nats", goal="min", summary="min", step_metric="epoch")
        for step in (0, 1, 2, 5, 4, 3, 3):
            run.log({"loss": 1 / (step + 1), "accuracy": 0.5 + step / 20}, step=step)
        run.log({"loss": float("nan"), "odd": float("inf")}, step=6)
        run.log({"odd": float("-inf")}, step=-3)
        run.log({"unstepped": 0.25})
        run.log({"unstepped": -0.0}, time=START - 5)
        run.log({"whole": 2**53 + 1, "great": 10**30, "decimal": Decimal("0.10000000000000000001"), "flag": True}, step=1)
        run.log_params({"late": "✓ two\nlines", "nothing": None, "nan": float("nan"), "api_key": "hidden"})
        run.config["set"] = True
        run.summary["best"] = 0.97
        run.note("a first note")
        run.note("a second note")
        run.set_tags({"stage": "late"})
        Path("model.bin").write_bytes(bytes(range(64)))
        run.log_artifact("model.bin", "model", name="models/model.bin")
        Path("model.bin").write_bytes(bytes(range(65)))
        run.log_artifact("model.bin", "model", name="models/model.bin")
        run.log_dict({"a": [1, 2.5, None]}, "config.json")
        run.log_text("said", "said.txt")
        run.log_table({"x": [1, 2], "y": ["a", "b"]}, "table.csv", step=2)
        run.finish(final_metrics={"accuracy": 0.93})
    with ailab.start_run("second", id="second", project="iris flowers", parent="first", dir=store, params={"lr": 0.5}) as run:
        run.log({"loss": 3.0, "accuracy": 0.4}, step=0)
        run.finish("failed", error="ValueError: no such thing")
    with ailab.start_run("third", id="third", project="Wine", dir=store) as run:
        run.log({"accuracy": 0.7}, step=0)
        run.finish("killed")
    with ailab.start_run("third again", id="third", project="Wine", dir=store, resume="must", params={"more": 1}) as run:
        run.log({"accuracy": 0.8}, step=1)
    journal.SEGMENT_BYTES = 3000
    with ailab.start_run("long", id="long", dir=store) as run:
        for step in range(40):
            run.log({"accuracy": step / 100}, step=step)
    journal.SEGMENT_BYTES = 16 << 20
    _afterwards(store, events, journal, _killed(store))


def _killed(store: str) -> Path:
    """The segment of a run that kill -9 ended within a write."""
    import ailab
    from ailab import events

    run = ailab.start_run("killed", id="crashed", dir=store)
    run._wait_for_capture(20)
    run.log({"accuracy": 0.1}, step=0)
    ended = run._writer
    ended.append(events.HeartbeatSent())
    run.log({"accuracy": 0.2}, step=1)
    run.status = "completed"
    ailab.runs.open_runs.pop(run.id)
    ended.abandon()
    path = Path(ended.store.segment_path(ended.name))
    path.write_bytes(path.read_bytes()[:-40])
    return path


def _afterwards(store: str, events: Any, journal: Any, crashed: Path) -> None:
    """What a server and a command line say later."""
    import hashlib
    from datetime import datetime, timezone

    from ailab.store import Store

    place = Store(store)
    for run in ("gone", "kept", "purged"):
        writer = journal.Writer(place, run=run)
        writer.append(events.RunStarted(name=run, project="Trash"))
        writer.append(events.MetricsLogged({"accuracy": 0.99}, 0))
        writer.append(events.RunFinished(status="completed"))
        writer.seal()
    writer = journal.Writer(place, via="http", by="grace")
    last = max(line.clock for name in place.segment_names() for line in journal.scan(place.segment_path(name)))
    writer.observe(last)
    when = datetime.fromtimestamp(START, timezone.utc)
    whole = crashed.read_bytes()
    whole, torn = whole[: whole.rfind(b"\n") + 1], len(whole) - whole.rfind(b"\n") - 1
    first = place.segments_of_run("first")[0]
    note = next(line.seq for line in journal.scan(place.segment_path(first)) if line.kind == "note.changed")
    closed = events.SegmentClosed(
        segment=crashed.stem,
        bytes=len(whole),
        sha256=hashlib.sha256(whole).hexdigest(),
        torn_bytes=torn,
        reason="nobody holds it",
    )
    for run, event in (
        ("second", events.RunRenamed(name="second, renamed")),
        ("second", events.RunFlagged(flag="BAD RUN", note="BAD RUN: it failed")),
        ("second", events.TagsChanged(set={"x": "y"}, removed=["stage"])),
        ("second", events.RunProtected()),
        ("third", events.RunProtected()),
        ("third", events.RunUnprotected()),
        ("third", events.RunChanged(description="told later", group="g2", wandb_url="https://wandb.example/x")),
        ("gone", events.RunTrashed()),
        ("kept", events.RunTrashed()),
        ("kept", events.RunRestored()),
        ("first", events.ArtifactTrashed(path="said.txt")),
        ("first", events.ArtifactTrashed(path="config.json")),
        ("first", events.ArtifactRestored(path="config.json")),
        ("first", events.NoteChanged(note="a note by grace")),
        ("long", events.WritesDropped(count=17, error="[Errno 28] No space left on device", first=when, last=when)),
        ("crashed", closed),
        ("first", events.EventRedacted(segment=first, seq=note, reason="a name")),
        ("purged", events.RunPurged(reason="asked for")),
        (None, events.ProjectCreated(project="empty", name="Empty", description="nothing in it")),
        (None, events.ProjectChanged(project="wine", name="Wine and cheese", description="told later")),
        (None, events.ProjectTrashed(project="empty")),
        (None, events.ProjectRestored(project="empty")),
        *_data_and_tokens(events, hashlib, place),
    ):
        writer.append(event, run=run)
    changed = writer.append(events.NoteChanged(note="a slip"), run="third")
    writer.append(events.ChangeUndone(event=f"{writer.name}:{changed}"), run="third")
    writer.seal()


def _data_and_tokens(events: Any, hashlib: Any, place: Any) -> Iterator[tuple[str | None, Any]]:
    """Versions of a dataset and who read them, what a machine did and printed, tokens, and a segment that came from elsewhere."""
    first, second = (hashlib.sha256(text).hexdigest() for text in (b"a,b\n1,2\n", b"a,b\n1,2\n3,4\n"))
    column = {"name": "a", "type": "integer", "nullable": False, "nulls": 0, "distinct": 1, "min": 1, "max": 1, "examples": [1]}
    told = {"dataset": "petals", "name": "Petals", "format": "csv", "schema": {"columns": [column]}, "file": "petals.csv"}
    yield None, events.DatasetVersionRegistered(**told, sha256=first, size=8, rows=1, project="iris-flowers")
    yield None, events.DatasetVersionRegistered(**told, sha256=second, size=12, rows=2, parent=first, tags={"gold": None})
    yield None, events.DatasetVersionChanged(dataset="petals", sha256=second, description="told later", metadata={"by": "hand"})
    yield None, events.DatasetVersionTrashed(dataset="petals", sha256=first)
    yield None, events.DatasetVersionRestored(dataset="petals", sha256=first)
    yield "second", events.DatasetUsed(sha256=first, dataset="petals", name="petals@v1", role="training")
    yield "second", events.SystemMetricsLogged(values={"cpu": 98.5, "memory": 1 << 30})
    yield "second", events.ConsoleLinesLogged(stream="stderr", lines=["epoch 1", "✓"], dropped=3)
    for token, role in (("t1", "writer"), ("t2", "admin")):
        yield (
            None,
            events.TokenCreated(token=token, sha256=hashlib.sha256(token.encode()).hexdigest(), role=role, name=f"{role} 1"),
        )
    yield None, events.TokenRevoked(token="t2")
    yield None, events.SegmentAccepted(segment=place.segments_of_run("second")[0], token="t1", by="writer 1", address="192.0.2.1")


def invent() -> None:
    """Make up host, user, process, environment, code and clock."""
    import wrong_clock

    from ailab import capture, repository

    ticks = iter(range(10**9))
    wrong_clock.set_clock(lambda: START + next(ticks) * 0.25)
    wrong_clock.be_host("lab1")
    capture.user_name = lambda: "ada"
    capture.process_start = lambda pid: 482113.0 if pid == os.getpid() else None
    capture.command_line = lambda _=None: "python train.py --lr 0.1"
    device = capture.Device(system="Linux", release="6.1", machine="x86_64", cpu="a processor", cores_logical=8)
    packages = ["msgspec==0.20.0", "numpy==2.1.0"]
    made_up = capture.Environment(
        python_version="3.12.4", implementation="CPython", packages=packages, device=device, host="lab1"
    )
    capture.capture_environment = lambda: made_up
    code = repository.Code(
        git_hash="4be1c0de" * 5,
        branch="main",
        remote="https://code.example/lab.git",
        dirty=True,
        diff="--- a\n+++ b\n",
        script="train.py",
    )
    repository.capture_code = lambda *_: code


def main() -> None:
    """Write the store of this version."""
    from ailab import __version__

    place = FOLDER / __version__
    if place.exists():
        sys.exit(f"{place} is there, and is kept as it is")
    with tempfile.TemporaryDirectory() as here:
        os.chdir(here)
        make(Path(here, "store"))
        found = answers(Path(here, "store"))
        shutil.rmtree(Path(here, "store", "cache"), ignore_errors=True)
        place.mkdir(parents=True)
        shutil.copytree(Path(here, "store"), place / "store")
    (place / "answers.json").write_text(json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    print(place)


if __name__ == "__main__":
    main()
