"""What `runs_as_of` promises: runs as they were at a moment or a position, however the store was compacted since."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path

import pytest

import ailab
from ailab import events, journal, queries, views
from ailab.errors import DamageError, FilterError, NotFoundError
from ailab.filters import RunFilter
from ailab.removal import purge, redact
from ailab.store import open_store
from ailab.views.compact import compact
from ailab.views.questions import select


@pytest.fixture
def opened(store_dir):
    """`opened()` gives the catalogue, up to date; closed with the test."""
    labs = []

    def now():
        labs.append(views.open_lab(store_dir))
        return labs[-1]

    yield now
    for lab in labs:
        lab.close()


def moment():
    """A time between two events."""
    time.sleep(0.002)
    now = datetime.now(timezone.utc)
    time.sleep(0.002)
    return now


def train(run_id, accuracy):
    with ailab.start_run(f"run {run_id}", id=run_id, project="p", config={"lr": accuracy / 10}) as run:
        run.log({"accuracy": accuracy}, 1)


def shown(page):
    return [(row.run_id, row.status, row.note, row.final_metrics) for row in page.rows]


def crush(store_dir):
    """Compact, and remove what was replaced."""
    place = open_store(str(store_dir), create=False)
    compact(place, grace_s=0)
    compact(place, grace_s=0)
    return place


@pytest.mark.parametrize("compacted", ["never", "before", "after", "both"])
def test_runs_are_as_they_were(store_dir, opened, compacted):
    """Notes, new runs and resumed ones since are not in the answer of then, and are in that of now."""
    train("r1", 0.5)
    ailab.note("first", "r1")
    if compacted in {"before", "both"}:
        crush(store_dir)
    before, then, token = shown(queries.list_runs(opened())), moment(), queries.position(opened())
    ailab.note("second", "r1")
    train("r2", 0.9)
    writer = journal.Writer(open_store(str(store_dir), create=False), run="r1")
    writer.observe(1000)
    writer.append(events.RunResumed())
    writer.append(events.MetricsLogged({"accuracy": 0.7}, 2))
    writer.append(events.RunFinished(status="completed"))
    writer.seal()
    if compacted in {"after", "both"}:
        crush(store_dir)
    lab = opened()
    now = shown(queries.list_runs(lab))
    assert [row[0] for row in now] == ["r2", "r1"]
    assert now[1][2:] == ("second", {"accuracy": 0.7})
    assert before == [("r1", "completed", "first", {"accuracy": 0.5})]
    assert shown(queries.runs_as_of(lab, then)) == before
    assert shown(queries.runs_as_of(lab, then.isoformat())) == before
    assert shown(queries.runs_as_of(lab, token)) == before
    assert shown(queries.runs_as_of(lab, moment())) == now
    assert shown(queries.runs_as_of(lab, queries.position(lab))) == now


def test_an_answer_carries_its_position_and_says_whether_it_may_change(store_dir, opened):
    train("r1", 0.5)
    lab, then = opened(), moment()
    page = queries.runs_as_of(lab, then)
    assert (page.settled, page.position) == (False, queries.position(lab))
    again = queries.runs_as_of(lab, page.position)
    assert (again.settled, again.position, shown(again)) == (True, page.position, shown(page))


def test_late_arrivals_change_a_moment_and_no_position(store_dir, opened):
    """Events of another machine that come with a merge may be older than the moment."""
    train("r1", 0.5)
    then, token = moment(), queries.position(opened())
    line = journal.encode_line
    writer = journal.Writer(open_store(str(store_dir), create=False), run="late")

    def early(one):
        import msgspec

        return line(msgspec.structs.replace(one, at=datetime(2026, 1, 1, tzinfo=timezone.utc)))

    journal.encode_line = early
    try:
        writer.append(events.RunStarted(name="late"))
        writer.append(events.RunFinished(status="completed"))
        writer.seal()
    finally:
        journal.encode_line = line
    lab = opened()
    assert {row.run_id for row in queries.runs_as_of(lab, then).rows} == {"late", "r1"}
    assert {row.run_id for row in queries.runs_as_of(lab, token).rows} == {"r1"}


def test_filters_ask_for_runs_as_they_were(store_dir, opened):
    """A run that has another value now is found by the one that it had."""
    train("r1", 0.5)
    then = moment()
    with ailab.start_run(id="r1", resume="must") as run:
        run.log({"accuracy": 0.9}, 2)
    lab = opened()
    low = RunFilter(metric_name="accuracy", metric_max=0.6)
    assert [row.run_id for row in queries.runs_as_of(lab, then, low).rows] == ["r1"]
    assert queries.list_runs(lab, low).rows == []


def test_a_run_that_was_open_is_shown_running(store_dir, opened):
    """While its writer wrote on afterwards, it was running; one that nobody wrote any more had crashed."""
    place = open_store(str(store_dir), create=True)
    dead = journal.Writer(place, run="dead")
    dead.append(events.RunStarted(name="dead"))
    dead.abandon()
    run = ailab.start_run(id="alive")
    run.log({"a": 1.0}, 1)
    then, token = moment(), queries.position(opened())
    run.log({"a": 2.0}, 2)
    run.finish()
    lab = opened()
    for asked in (then, token):
        assert {row.run_id: row.status for row in queries.runs_as_of(lab, asked).rows} == {"alive": "running", "dead": "crashed"}
    assert {row.run_id: row.status for row in queries.list_runs(lab).rows} == {"alive": "completed", "dead": "crashed"}


@pytest.mark.parametrize("compacted", [False, True])
def test_what_is_removed_is_in_no_answer(store_dir, opened, compacted):
    """Redacted and purged since: neither a moment nor a position shows it again."""
    train("r1", 0.5)
    ailab.note("secret", "r1")
    train("r2", 0.6)
    then, token = moment(), queries.position(opened())
    place = open_store(str(store_dir), create=False)
    rows = select(opened(), "SELECT segment, seq FROM events WHERE kind = 'note.changed'", limit=9)[2]
    if compacted:
        crush(store_dir)
    redact(place, [tuple(row) for row in rows], reason="test")
    purge(place, ["r2"])
    lab = opened()
    for asked in (then, token):
        assert shown(queries.runs_as_of(lab, asked)) == [("r1", "completed", None, {"accuracy": 0.5})]


def test_sql_asks_the_same(store_dir, opened):
    """`runs_as_of('…')` has the columns of `runs`, several times in one query, by time and position."""
    train("r1", 0.5)
    then, token = moment().isoformat(), queries.position(opened())
    train("r2", 0.9)
    lab = opened()
    text = f"SELECT n.run_id, o.status FROM runs n LEFT JOIN runs_as_of('{then}') o USING (run_id) ORDER BY 1"
    assert queries.run_sql(lab, text).rows == [["r1", "completed"], ["r2", None]]
    assert queries.run_sql(lab, f"SELECT count(*) FROM runs_as_of( '{token}' )").rows == [[1]]
    columns = queries.run_sql(lab, "SELECT * FROM runs").columns
    assert queries.run_sql(lab, f"SELECT * FROM RUNS_AS_OF('{token}')").columns == columns
    with ailab.connect() as con:
        assert con.sql(f"SELECT run_id, metrics FROM runs_as_of('{token}')").fetchall() == [("r1", {"accuracy": 0.5})]
        assert con.execute("SELECT count(*) FROM runs_as_of('2001-01-01')").fetchall() == [(0,)]


@pytest.mark.parametrize("asked", ["yesterday", "position:xyz", "position:../../x", "2026-13-01", ""])
def test_what_is_neither_time_nor_position_is_refused(store_dir, opened, asked):
    train("r1", 0.5)
    with pytest.raises(FilterError):
        queries.runs_as_of(opened(), asked)


def test_sql_needs_a_quoted_text(store_dir, opened):
    train("r1", 0.5)
    with pytest.raises(FilterError, match="one quoted text"):
        queries.run_sql(opened(), "SELECT * FROM runs_as_of(now())")


def test_a_position_that_is_gone_or_changed_is_never_answered(store_dir, opened):
    train("r1", 0.5)
    lab = opened()
    token = queries.position(lab)
    (path,) = Path(store_dir, "cache", "positions").iterdir()
    content = path.read_bytes()
    path.write_bytes(content[:-3] + b"xyz")
    with pytest.raises(DamageError):
        queries.runs_as_of(lab, token)
    path.unlink()
    with pytest.raises(NotFoundError, match="no position"):
        queries.runs_as_of(lab, token)
    assert queries.position(lab) == token
    assert path.read_bytes() == content
