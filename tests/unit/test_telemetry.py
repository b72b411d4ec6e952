"""Questions about printed lines and figures of the machine: in order, page by page, the same after a compaction."""

from __future__ import annotations

import pytest

import ailab
from ailab import events, queries, runs, store, telemetry
from ailab.errors import FilterError, NotFoundError
from ailab.journal import Writer
from ailab.views.compact import compact


def said(run, *lines, stream="stdout", dropped=0):
    """Keep lines in a run, in one event."""
    run._write(events.ConsoleLinesLogged(stream=stream, lines=list(lines), dropped=dropped))


def pages(lab, run_id, limit):
    """All lines, page by page, and what each page said of how many there are."""
    since, found, totals = None, [], []
    while True:
        page = telemetry.console(lab, run_id, since=since, limit=limit)
        totals.append(page.total)
        assert len(page.rows) <= limit
        if not page.rows:
            return found, totals
        found += page.rows
        since = page.next


@pytest.fixture(params=["as written", "compacted"])
def settled(request, store_dir):
    """`settled()` compacts the store, or leaves it as it was written."""

    def settle():
        if request.param == "compacted":
            assert compact(store.Store(str(store_dir)), grace_s=0).segments

    return settle


def test_pages_meet_without_a_gap(lab, settled, store_dir):
    """Whatever their size, also in the midst of an event, and with events that only count."""
    with ailab.start_run(id="r") as run:
        said(run, "a", "b", "c")
        said(run, dropped=3)
        said(run, "d", stream="stderr", dropped=1)
        said(run, "e", "f")
        run.log({"loss": 1.0})
    settled()
    catalogue = lab()
    for limit in (1, 2, 3, 7, 1000):
        found, totals = pages(catalogue, "r", limit)
        assert [(line.line, line.dropped) for line in found] == [
            ("a", 0), ("b", 0), ("c", 0), (None, 3), ("d", 1), ("e", 0), ("f", 0),
        ]  # fmt: skip
        assert totals == [max(0, 7 - n * limit) for n in range(len(totals))]
    for last in range(1, 9):
        page = telemetry.console(catalogue, "r", last=last)
        assert [line.line for line in page.rows] == ["a", "b", "c", None, "d", "e", "f"][-last:]
        assert telemetry.console(catalogue, "r", since=page.next).rows == []
    assert [line.line for line in telemetry.console(catalogue, "r", stream="stderr").rows] == ["d"]


def test_lines_that_come_late_are_behind_a_cursor(lab, store_dir):
    """Also from another process, whose clock is behind; and none comes twice."""
    ailab.start_run(id="r")
    run = runs.open_runs["r"]
    said(run, "a", "b")
    catalogue = lab()
    page = telemetry.console(catalogue, "r", limit=1)
    said(run, "c")
    other = Writer(run.store, run="r")
    other.append(events.ConsoleLinesLogged(stream="stdout", lines=["of another"]))
    other.seal()
    run.finish()
    catalogue.refresh()
    rest = telemetry.console(catalogue, "r", since=page.next)
    assert sorted(line.line for line in rest.rows) == ["b", "c", "of another"]
    assert telemetry.console(catalogue, "r", since=rest.next).rows == []


def test_figures_by_name_and_time(lab, settled, store_dir):
    """NaN and infinities stay, what is no number is not there, and thinned out the smallest and greatest are."""
    with ailab.start_run(id="r") as run:
        for i in range(100):
            run._write(events.SystemMetricsLogged(values={"b": i * 37 % 100, "a": "NaN" if i else "Infinity", "c": "text"}))
    settled()
    catalogue = lab()
    page = telemetry.system_metrics(catalogue, "r")
    assert page.total == len(page.rows) == 200
    assert [row.value for row in page.rows[:2]] == ["Infinity", "NaN"]
    assert [row.value for row in page.rows[100:]] == [float(i * 37 % 100) for i in range(100)]
    thin = telemetry.system_metrics(catalogue, "r", keys=["b"], max_points=10)
    assert thin.total == 100
    assert len(thin.rows) <= 10
    assert {0.0, 99.0} <= {row.value for row in thin.rows}
    assert [row.time for row in thin.rows] == sorted(row.time for row in thin.rows)
    assert telemetry.system_metrics(catalogue, "r", since=page.next).rows == []


def test_what_was_redacted_is_gone(lab, store_dir):
    with ailab.start_run(id="r") as run:
        said(run, "kept")
        event = run._writer.append(events.ConsoleLinesLogged(stream="stdout", lines=["secret"]))
    catalogue = lab()
    assert [line.line for line in telemetry.console(catalogue, "r").rows] == ["kept", "secret"]
    segment, _, seq = event.partition(":")
    other = Writer(run.store)
    other.append(events.EventRedacted(segment=segment, seq=int(seq), reason="a secret"))
    other.seal()
    catalogue.refresh()
    assert [line.line for line in telemetry.console(catalogue, "r").rows] == ["kept"]


def test_questions_that_have_no_answer(lab, store_dir):
    with ailab.start_run(id="r"):
        pass
    catalogue = lab()
    page = telemetry.console(catalogue, "r")
    assert (page.rows, page.total) == ([], 0)
    assert telemetry.console(catalogue, "r", since=page.next).rows == []
    points = queries.metric_points(catalogue, "r", cursor=True).next
    for ask, given in (
        (telemetry.console, {"since": points}), (telemetry.console, {"limit": 0}), (telemetry.console, {"last": 1001}),
        (telemetry.console, {"last": 1, "since": page.next}), (telemetry.system_metrics, {"since": page.next}),
    ):  # fmt: skip
        with pytest.raises(FilterError):
            ask(catalogue, "r", **given)
    for ask in (telemetry.console, telemetry.system_metrics):
        with pytest.raises(NotFoundError):
            ask(catalogue, "q")
