"""The views: the columns that users rely on, kept up to date, and one bad thing never hides the rest."""

from __future__ import annotations

import os
import shutil
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

import ailab
from ailab import events, journal, naming, queries, store, views
from ailab.actions import Actions
from ailab.bodies import ProjectChange
from ailab.errors import FilterError, StoreError
from ailab.views import build, compact, snapshot
from ailab.views.rows import memory_of

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = {
    "manifests": "run_id timestamp git_hash git_diff command python_version pip_freeze device_info dataset_id params_json "
    "final_metrics_json artifacts_json wandb_url note",
    "runs": "run_id name project_id project status started_at ended_at duration_s user host seed group parent_run_id dataset_id "
    "git_hash note params metrics trashed",
    "params": "run_id key value number",
    "metrics": "run_id key step time value exact seq",
    "metric_summary": "run_id key first last min max mean count last_step",
    "tags": "run_id key value at by",
    "notes": "run_id event at by via note",
    "artifacts": "run_id path kind name size sha256 version at trashed reference location",
    "projects": "project_id name description created_at trashed",
    "datasets": "dataset_id dataset name version sha256 size format rows schema description tags metadata project_id project "
    "parent_id file created_at by trashed",
    "dataset_uses": "run_id dataset_id dataset sha256 role name at",
    "system_metrics": "run_id key time value",
    "console": "run_id time stream line event n",
    "environments": "environment_id python_version packages device host",
    "changes": "event at by via run_id kind field old new project_id dataset_id",
    "events": "event segment seq at clock kind run_id by via data",
}


@pytest.fixture
def con(store_dir):
    """A connection to a store with one run."""
    with ailab.start_run("first", project="Iris", config={"lr": 0.1, "Name": "x"}, seed=7, tags={"t": 1}) as run:
        run.log({"loss": 0.5, "LR": 3.0}, step=1)
        run.log({"loss": float("nan")}, step=2)
    with ailab.connect(store_dir) as found:
        yield found


@pytest.mark.parametrize("view", COLUMNS)
def test_a_view_has_its_columns_and_a_comment_for_each(con, view):
    """Names and order are fixed; the comments are what people and programs read."""
    described = {info.name: info for info in queries.describe_views(con.lab)}[view]
    assert [column.name for column in described.columns] == COLUMNS[view].split()
    assert described.comment
    assert [column.name for column in described.columns if not column.comment] == []


def test_times_are_timestamps_without_a_zone(con):
    """TIMESTAMPTZ cannot be fetched without a library that is no dependency."""
    found = con.execute(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE data_type LIKE '%TIME ZONE%' AND NOT internal"
    )
    assert found.fetchall() == []


def test_wide_has_run_columns_then_one_for_each_parameter_and_metric(con):
    """A name that is also a run column, or is there twice, case ignored, is told apart by its table."""
    names = con.sql("SELECT * FROM wide").columns
    runs = [name for name in COLUMNS["runs"].split() if name not in {"params", "metrics"}]
    assert names == [*runs, "params.Name", "params.lr", "metrics.LR", "loss"]
    assert con.sql('SELECT "params.lr", "metrics.LR", "params.Name" FROM wide').fetchall() == [(0.1, 3.0, "x")]


def test_wide_follows_new_keys_and_types(con):
    """A parameter that was a number and becomes a text is a text for all; a trashed run gives no column and no row."""
    with ailab.start_run("second", config={"lr": "auto", "depth": 3, "flag": True}):
        pass
    rows = con.sql('SELECT name, "params.lr", depth, flag FROM wide ORDER BY started_at').fetchall()
    assert rows == [("first", "0.1", None, None), ("second", "auto", 3, True)]
    (second,) = con.execute("SELECT run_id FROM runs WHERE name = 'second'").fetchone()
    writer = journal.Writer(con.lab.store, via="cli")
    writer.append(events.RunTrashed(), run=second)
    writer.seal()
    assert con.sql('SELECT "params.lr" FROM wide').fetchall() == [(0.1,)]
    assert "depth" not in con.sql("SELECT * FROM wide").columns
    assert con.sql("SELECT count(*) FROM manifests").fetchall() == [(1,)]
    assert con.sql("SELECT name, trashed FROM runs ORDER BY started_at").fetchall() == [("first", False), ("second", True)]


@pytest.mark.parametrize("key", ['a "quoted" key', "it's", "a.b/c", "Ü", "select", "%", ""])
def test_wide_takes_any_key(con, key):
    with ailab.start_run("odd", config={key: 5}):
        pass
    quoted = key.replace('"', '""')
    if key:
        assert con.sql(f"SELECT \"{quoted}\" FROM wide WHERE name = 'odd'").fetchall() == [(5,)]
    assert con.sql("SELECT key, number FROM params JOIN runs USING (run_id) WHERE name = 'odd'").fetchall() == [(key, 5.0)]


def test_an_event_of_another_process_is_seen_within_a_second(con, scripts):
    """A reader that is open sees what is written elsewhere, also while it is being written."""
    process = scripts.start(
        """
        import sys, ailab
        with ailab.start_run("elsewhere") as run:
            for step in range(3):
                run.log({"loss": 1.0}, step=step)
                print(step, flush=True)
                sys.stdin.readline()
        """
    )
    for step in range(3):
        assert process.stdout.readline() == f"{step}\n"
        start = time.monotonic()
        count = con.execute("SELECT count(*) FROM metrics JOIN runs USING (run_id) WHERE name = 'elsewhere'").fetchone()
        assert count == (step + 1,)
        assert time.monotonic() - start < 1
        process.stdin.write("\n")
        process.stdin.flush()
    assert process.wait(20) == 0


def test_steps_that_were_not_given_are_counted(store_dir, con):
    """Absent stays absent in the journal; the view counts the points of each metric."""
    with ailab.start_run("unstepped") as run:
        run.log({"a": 1.0})
        run.log({"a": 2.0, "b": 5.0})
        run.log({"b": 6.0})
    rows = con.sql(
        "SELECT key, step, value FROM metrics JOIN runs USING (run_id) WHERE name = 'unstepped' ORDER BY ALL"
    ).fetchall()
    assert rows == [("a", 0, 1.0), ("a", 1, 2.0), ("b", 0, 5.0), ("b", 1, 6.0)]


def test_points_come_in_the_order_of_logging_over_rotated_segments(store_dir, con, monkeypatch):
    """`seq` begins anew in each segment; the order of a history does not."""
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 3000)
    monkeypatch.setattr(journal, "LOOK_EVERY", 5)
    with ailab.start_run("long") as run:
        for i in range(60):
            run.log({"x": float(i)}, step=0)
    assert len(con.lab.store.segments_of_run(run.id)) > 2
    con.lab.refresh()
    assert [p.value for p in queries.metric_points(con.lab, run.id).rows] == [float(i) for i in range(60)]
    assert [row["value"] for row in run.history().rows()] == [float(i) for i in range(60)]
    assert queries.get_run(con.lab, run.id).final_metrics == {"x": 59.0}


def bad_things(folder: Path, good: Path) -> None:
    """What may lie in a store that was ill-treated."""
    (folder / "20200101T000000000000Z_h_1_00000000.jsonl").mkdir()
    (folder / "20200101T000000000000Z_h_2_00000000.jsonl").write_bytes(b"")
    (folder / "20200101T000000000000Z_h_3_00000000.jsonl").write_bytes(b"not an event\n{}\n\x00\xff\n" + b"x" * 200_000 + b"\n")
    shutil.copy(good, folder / "copied.jsonl")
    raw = bytearray(good.read_bytes())
    (folder / "20200101T000000000000Z_h_4_00000000.jsonl").symlink_to(folder / "nowhere")
    raw[len(raw) // 2] ^= 1


def test_one_bad_thing_never_hides_the_rest(store_dir, con):
    """Rubbish, an empty file, a folder, a dead link and a copy are named; every run is still there, once."""
    folder = store_dir / "segments"
    good = next(path for path in folder.iterdir())
    bad_things(folder, good)
    assert con.sql("SELECT name FROM runs").fetchall() == [("first",)]
    assert con.execute("SELECT count(*) FROM metrics").fetchone() == (3,)
    told = "\n".join(con.lab.problems)
    for word in ("unreadable", "bad-checksum", "duplicate"):
        assert word in told


def test_a_damaged_line_costs_only_itself(store_dir, con):
    """One flipped bit takes one point away, named with file, line and byte; no wrong value is served."""
    path = next((store_dir / "segments").iterdir())
    raw = path.read_bytes()
    at = raw.index(b'"loss":0.5') + len(b'"loss":0.')
    path.write_bytes(raw[:at] + b"4" + raw[at + 1 :])
    lab = views.open_lab(store_dir)
    assert [p.key for p in queries.metric_points(lab, naming.resolve_run(lab, "latest")).rows] == ["loss"]
    (problem,) = [p for p in lab.tail.problems if p.kind == "bad-checksum"]
    assert (problem.path, problem.line) == (str(path), raw[:at].count(b"\n") + 1)
    lab.close()


def test_a_payload_that_does_not_fit_its_kind_is_named(store_dir, con):
    """A line that is whole but says nonsense, as another program may write it, hides nothing."""
    writer = journal.Writer(con.lab.store, run="run-odd")
    writer.append(events.RunStarted(name="odd"))

    class Odd(events.Event, frozen=True, kw_only=True):
        kind = "metrics.logged"
        values: int = 3

    writer.append(Odd())
    writer.append(events.RunFinished(status="completed"))
    writer.seal()
    assert con.sql("SELECT name, status FROM runs WHERE run_id = 'run-odd'").fetchall() == [("odd", "completed")]
    assert any("metrics.logged" in problem and "does not fit" in problem for problem in con.lab.problems)


def test_a_store_that_is_not_there_is_no_empty_one(tmp_path):
    with pytest.raises(StoreError, match="no store here"):
        ailab.connect(tmp_path / "nothing")
    assert os.listdir(tmp_path) == []


def test_history_is_a_table_for_every_library(store_dir, con):
    table = ailab.history(con.execute("SELECT run_id FROM runs").fetchone()[0], keys=["LR"])
    assert table.rows()[0]["value"] == 3.0
    assert (len(table), table.arrow.column_names) == (1, ["key", "step", "time", "value", "exact"])
    assert table.pl()["value"].to_list() == table.df()["value"].tolist() == [3.0]


def test_people_may_make_tables_of_their_own(con):
    con.execute("CREATE TABLE mine AS SELECT name FROM runs")
    assert con.execute("SELECT * FROM mine").fetchall() == [("first",)]


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("DROP TABLE run_table", "not DROP"),
        ("SELECT 1; SELECT 2", "not 2 statements"),
        ("SELECT * FROM read_text('/etc/hostname')", "read_text is not allowed"),
        ("COPY (SELECT 1) TO '/tmp/x.csv'", "not COPY"),
        ("ATTACH '/tmp/x.duckdb'", "not ATTACH"),
        ("SET threads = 1", "not SET"),
        ("selec 1", "syntax error"),
        ("SELECT nothing FROM runs", "nothing"),
        ("", "not nothing"),
    ],
)
def test_ailab_sql_answers_one_select(con, query, word):
    """Anything else is refused in words, and changes nothing."""
    lab = views.Lab(store.open_store(con.lab.store.path, create=False))
    lab.refresh()
    with pytest.raises(FilterError, match=word) as error:
        queries.run_sql(lab, query)
    assert error.value.where == "sql"
    assert queries.run_sql(lab, "SELECT name FROM runs").rows == [["first"]]
    lab.close()


def test_names_that_differ_in_case_only_or_look_like_ours_hide_nothing(store_dir, con):
    """Two parameters `lr` and `LR`, one called `params.lr` itself, empty names and NUL: every one has a column and its value."""
    with ailab.start_run("odd", config={"lr": 1, "LR": 2, "params.lr": 3, "": 4, "nu\0l": 5}) as run:
        run.log({"lr": 6.0, "metrics.lr": 7.0, "": 8.0, "nu\0l": 9.0, "Nu\0L": 10.0})
    rows = con.sql("SELECT * FROM wide WHERE name = 'odd'")
    values = dict(zip(rows.columns, rows.fetchall()[0], strict=True))
    assert len({name.lower() for name in rows.columns}) == len(rows.columns)
    own = [value for name, value in values.items() if name not in COLUMNS["runs"].split() and value is not None]
    assert sorted(own) == list(range(1, 11))
    assert queries.get_run(con.lab, run.id).final_metrics == {"lr": 6, "metrics.lr": 7, "": 8, "nu\0l": 9, "Nu\0L": 10}


class Clock:
    """A clock that goes as it is told."""

    def __init__(self, *moments):
        self.moments = iter(moments)
        self.last = None

    def now(self, zone):
        self.last = next(self.moments, self.last)
        return self.last.astimezone(zone)


def test_a_clock_that_goes_wrong_changes_no_order_and_gives_no_negative_time(store_dir, lab, monkeypatch):
    """G14: back by an hour, frozen, 1970, 2100 in the middle of a run: order and last values hold, no duration is negative."""
    noon = datetime(2026, 3, 29, 12, tzinfo=timezone.utc)
    jumps = {
        "back": [noon, noon - timedelta(hours=1)],
        "frozen": [noon],
        "epoch": [noon, noon, datetime(1970, 1, 1, tzinfo=timezone.utc)],
        "future": [noon, noon, noon, datetime(2100, 1, 1, tzinfo=timezone.utc), noon],
        "zigzag": [noon + timedelta(seconds=(-1) ** i * i) for i in range(50)],
    }
    for name, moments in jumps.items():
        monkeypatch.setattr(journal, "datetime", Clock(*moments))
        with ailab.start_run(name, id=name) as run:
            for i in range(20):
                run.log({"x": float(i)}, step=i)
            run.note("first")
            run.note("second")
    monkeypatch.undo()
    catalogue = lab()
    assert catalogue.problems == []
    for name in jumps:
        found = queries.get_run(catalogue, name)
        assert (found.status, found.final_metrics, found.note) == ("completed", {"x": 19.0}, "second"), name
        assert found.duration_s >= 0
        assert [p.value for p in queries.metric_points(catalogue, name).rows] == [float(i) for i in range(20)]
    assert catalogue.con.execute("SELECT count(*) FROM runs WHERE duration_s < 0").fetchone() == (0,)


def test_a_project_in_the_trash_hides_its_runs(store_dir, con):
    """Its runs are in `runs`, marked, and in no manifest, until it is restored; others are not touched."""
    with ailab.start_run("other", project="Other"):
        pass
    writer = journal.Writer(con.lab.store, via="cli", by="ada")
    writer.observe(1000)
    writer.append(events.ProjectTrashed(project="iris"))
    assert con.sql("SELECT name, trashed FROM runs ORDER BY started_at").fetchall() == [("first", True), ("other", False)]
    assert [run.name for run in queries.list_runs(con.lab).rows] == ["other"]
    assert con.sql("SELECT count(*) FROM manifests").fetchall() == [(1,)]
    writer.append(events.ProjectRestored(project="iris"))
    writer.seal()
    assert con.sql("SELECT count(*) FROM manifests").fetchall() == [(2,)]


def test_an_edit_of_a_run_that_is_not_here_makes_no_run(store_dir, con):
    """A note that came before its run waits for it."""
    writer = journal.Writer(con.lab.store, via="cli")
    writer.append(events.NoteChanged(note="early"), run="later")
    writer.append(events.RunTrashed(), run="nobody")
    writer.seal()
    assert con.sql("SELECT name FROM runs").fetchall() == [("first",)]
    with ailab.start_run("later", id="later", resume="allow"):
        pass
    assert con.sql("SELECT name FROM runs ORDER BY started_at").fetchall() == [("first",), ("later",)]
    assert queries.get_run(con.lab, "later").note == "early"


def test_several_writers_of_a_run_and_its_status(store_dir, con):
    """A worker that joined and left without an end does not take the end of the run's own process away; a new start does."""
    place = con.lab.store
    with ailab.start_run("pool", id="pool") as run:
        worker = journal.Writer(place, run="pool")
        worker.observe(5000)  # it has seen much more than the run's own process
        worker.append(events.RunResumed(command="worker"))
        worker.append(events.MetricsLogged({"x": 1.0}))
        run.log({"y": 1.0})
    worker.abandon()
    con.lab.refresh()
    assert queries.get_run(con.lab, "pool").status == "completed"
    again = journal.Writer(place, run="pool")
    again.observe(10_000)
    again.append(events.RunResumed(command="again"))
    con.lab.refresh()
    assert queries.get_run(con.lab, "pool").status == "running"
    again.append(events.RunFinished(status="failed", error="x"))
    again.seal()
    con.lab.refresh()
    assert queries.get_run(con.lab, "pool").status == "failed"


def edited(folder):
    """(bytes of a catalogue's tables, that catalogue) after 300 long notes of one run among three, each read as it came."""
    lab = views.open_lab(folder)
    with Actions(lab, via="cli") as actions:
        for i in range(300):
            actions.note("run-2", f"{i} " + "x" * 3_000)
        actions.change_project("p", ProjectChange(description="y" * 100))
    return memory_of(lab.con), lab


def test_rows_that_were_replaced_take_no_memory(tmp_path, monkeypatch):
    """A run is written anew at every edit, with all its changes; what it was before is freed, and everything reads as before.

    The control, a catalogue that frees nothing, has many times as much.
    """
    for i in range(3):
        ailab.start_run(id=f"run-{i}", project="p", params={"lr": i}, dir=tmp_path / "lab").finish()
    monkeypatch.setattr(build, "UNTIDIED", 1 << 20)
    used, lab = edited(tmp_path / "lab")
    fresh = views.open_lab(tmp_path / "lab")
    assert used < 3 * (1 << 20) + 3 * memory_of(fresh.con)
    for view in ("runs", "params", "changes", "notes", "projects", "wide"):
        asked = f"SELECT * FROM {view} ORDER BY ALL"
        lab.prepare()
        fresh.prepare()
        assert lab.con.execute(asked).fetchall() == fresh.con.execute(asked).fetchall(), view
    lab.close()
    fresh.close()
    monkeypatch.setattr(build, "UNTIDIED", 1 << 40)
    wasted, lab = edited(tmp_path / "lab")
    lab.close()
    assert wasted > 10 * used


def test_new_names_over_a_snapshot_get_the_columns_that_it_has_to_spare(store_dir):
    """A column added to a table of the engine makes its texts slow to find; beyond the spare ones it works all the same."""
    for i in range(3):
        ailab.start_run(id=f"old-{i}", params={"lr": i}, dir=store_dir).finish(final_metrics={"acc": i / 3})
    compact.compact(store.open_store(str(store_dir), create=False), grace_s=0)
    lab = views.open_lab(store_dir)
    before = len(lab.con.execute("DESCRIBE base.run_table").fetchall())
    for count, grown in ((1, False), (2 * snapshot.SPARE, True)):
        names = {f"n{count}-{i}": float(i) for i in range(count)}
        ailab.start_run(id=f"new-{count}", params=names, dir=store_dir).finish(final_metrics=names)
        lab.refresh()
        assert (len(lab.con.execute("DESCRIBE base.run_table").fetchall()) > before) == grown
        found = queries.list_runs(
            lab, queries.RunFilter(metric_name=f"n{count}-0", metric_min=0.0, params={f"n{count}-0": "0.0"})
        )
        assert [run.run_id for run in found.rows] == [f"new-{count}"]
    lab.close()
    compact.compact(store.open_store(str(store_dir), create=False), grace_s=0)
    fresh = views.open_lab(store_dir)
    assert len(queries.list_runs(fresh).rows) == 5
    fresh.close()


def test_a_flood_is_taken_in_by_and_by(store_dir, monkeypatch):
    """A reader with little time takes a part, and asks again; in the end it reads as one that took all at once, in any order."""
    monkeypatch.setattr(build, "BATCH", 10)
    ailab.start_run(id="first", dir=store_dir).finish()
    lab = views.open_lab(store_dir)
    for i in range(4):
        with ailab.start_run(id=f"run-{i}", dir=store_dir) as run:
            for step in range(25):
                run.log({"loss": step / 3}, step=step)
    seen = []
    while not seen or seen[-1] < 5:
        lab.refresh(within_s=0.0)
        seen.append(len(queries.list_runs(lab).rows))
        assert len(seen) < 50
    assert len(set(seen)) > 1
    for _ in range(20):
        lab.refresh(within_s=0.0)
    fresh = views.open_lab(store_dir)
    for view in ("runs", "metrics", "events"):
        asked = f"SELECT * FROM {view} ORDER BY ALL"
        found = []
        for one in (lab, fresh):
            one.prepare()
            found.append(one.con.execute(asked).fetchall())
        assert found[0] == found[1], view
    lab.close()
    fresh.close()
