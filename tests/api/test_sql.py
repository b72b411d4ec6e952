"""POST /sql: rows leave as they are found, and whoever asks for too much, or leaves, holds up nobody else.

Every test has a server of its own on a small store, and looks at its processes from outside.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import time

import psutil
import pytest
from live import wait_for

import ailab

ENDLESS = "select count(*) from range(100000) a, range(100000) b, range(100000) c"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def live(start, tmp_path):
    """A server on a store with one run."""
    with ailab.start_run("first", id="r0", dir=tmp_path / "lab") as run:
        run.log({"loss": 0.5})
    return start(dir=tmp_path / "lab")


def asked(live, sql, **more):
    """A connection whose answer nobody has read yet."""
    connection = http.client.HTTPConnection(*live.address, timeout=30)
    connection.request("POST", "/sql", json.dumps({"sql": sql, **more}), JSON)
    return connection


def answer(live, sql, **more):
    """(status, what was answered)."""
    with contextlib.closing(asked(live, sql, **more)) as connection:
        found = connection.getresponse()
        return found.status, json.loads(found.read())


def boxes(live):
    """The processes that answer queries."""
    return [one for one in psutil.Process(live.process.pid).children() if "ailab.views.sandbox" in " ".join(one.cmdline())]


def test_an_answer_has_columns_types_and_rows(live):
    """The Struct that the command line gives as well."""
    assert answer(live, "select run_id, 1.5::double as x from runs") == (
        200,
        {"columns": ["run_id", "x"], "types": ["VARCHAR", "DOUBLE"], "rows": [["r0", 1.5]], "truncated": False},
    )


def test_rows_leave_before_the_last_is_found(live):
    """The first of 100,000 wide rows is there while the query runs, and the server keeps none of them."""
    with contextlib.closing(asked(live, "select range, repeat('x', 500) from range(100000)", limit=100_000)) as connection:
        found = connection.getresponse()
        first = found.read(100_000)
        assert first.startswith(b'{"columns":["range",')
        before = psutil.Process(live.process.pid).memory_info().rss
        rest = found.read()
        assert psutil.Process(live.process.pid).memory_info().rss - before < 20 << 20
    whole = json.loads(first + rest)
    assert (len(whole["rows"]), whole["rows"][-1][0], whole["truncated"]) == (100_000, 99_999, False)


def test_more_rows_than_the_limit_are_said_to_be_there(live):
    """`truncated` tells a cut answer from a whole one."""
    _, found = answer(live, "select * from range(10)", limit=3)
    assert (found["rows"], found["truncated"]) == ([[0], [1], [2]], True)


def test_a_query_that_takes_too_long_is_refused_and_the_next_is_answered(live):
    """Its process is killed at the deadline."""
    status, found = answer(live, ENDLESS, seconds=0.5)
    assert (status, found["detail"]) == (400, "the query took longer than 0.5 s")
    assert answer(live, "select 1")[1]["rows"] == [[1]]


def test_what_goes_wrong_behind_the_first_rows_stands_behind_them(live):
    """The status was sent by then; the member `error` says it, and no row is lost that was found."""
    status, found = answer(
        live, "select case when range < 50000 then repeat('x', 50) else error('late') end from range(100000)", limit=100_000
    )
    assert status in {200, 400}
    assert "late" in (found["error"]["detail"] if status == 200 else found["detail"])


def test_a_client_that_leaves_ends_its_query(live):
    """Its process is killed at once, not at its deadline, and whoever comes next is answered."""
    connection = asked(live, ENDLESS, seconds=100)
    wait_for(lambda: boxes(live))
    (box,) = boxes(live)
    wait_for(lambda: box.cpu_times().user > 1)
    connection.close()
    wait_for(lambda: not box.is_running())
    assert answer(live, "select 1")[1]["rows"] == [[1]]


def test_clients_that_leave_in_every_state_leave_no_place_taken(live):
    """Thirty that leave before, while and after they are answered: all eight places are free afterwards."""
    for n in range(30):
        sql, more = (
            (ENDLESS, {"seconds": 100}) if n % 3 else ("select range, repeat('x', 500) from range(100000)", {"limit": 100_000})
        )
        connection = asked(live, sql, **more)
        if n % 3 == 0:
            connection.getresponse().read(10)
        time.sleep(0.01 * (n % 4))
        if n % 2:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        connection.close()
    wait_for(lambda: answer(live, "select 1")[0] == 200)
    wait_for(lambda: "ailab_sql_queries 0\n" in live.get("/metrics").text)
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(contextlib.closing(asked(live, "select 1"))) for _ in range(8)]
        assert [one.getresponse().status for one in waiting] == [200] * 8


def unread(live, sql, **more):
    """A connection that takes in next to nothing of its answer."""
    body = json.dumps({"sql": sql, **more}).encode()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(30)
    connection.connect(live.address)
    head = f"POST /sql HTTP/1.1\r\nHost: {live.host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def test_a_client_that_does_not_read_holds_nobody_up_beyond_its_deadline(live):
    """Process, lock and place end there, whatever it does; where it reads on, what happened stands behind its rows."""
    wide = {"sql": "select repeat('x', 10000) from range(100000)", "limit": 100_000}
    with contextlib.closing(unread(live, **wide, seconds=1)) as connection:
        wait_for(lambda: boxes(live))
        (box,) = boxes(live)
        began = time.monotonic()
        assert answer(live, "select 1")[1]["rows"] == [[1]]
        assert time.monotonic() - began < 5
        assert not box.is_running()
        assert "ailab_sql_queries 0\n" in live.get("/metrics").text
        found = http.client.HTTPResponse(connection, method="POST")
        found.begin()
        late = json.loads(found.read())
    assert (late["truncated"], late["error"]["detail"]) == (True, "the query took longer than 1 s")
    assert {row[0] for row in late["rows"]} == {"x" * 10_000}


def test_an_answer_that_is_found_holds_no_place(live):
    """Eight clients that do not read one row of 20 MB: the ninth is answered, though nobody's time is over."""
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(contextlib.closing(unread(live, "select repeat('x', 20000000)", seconds=100)))
        wait_for(lambda: answer(live, "select 1")[0] == 200)


def test_a_ninth_query_is_told_to_come_again(live):
    """429 with Retry-After, while everything else is answered; each of the eight is answered in its turn."""
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(contextlib.closing(asked(live, ENDLESS, seconds=1))) for _ in range(8)]
        wait_for(lambda: boxes(live))
        time.sleep(0.2)
        ninth = live.send("POST", "/sql", {"sql": "select 1"})
        assert (ninth.status, ninth.json()["detail"]) == (429, "too many queries at once")
        assert int(ninth.header("retry-after")) >= 1
        assert live.get("/artifacts/r0").status == 200
        assert [one.getresponse().status for one in waiting] == [400] * 8
    assert answer(live, "select 1")[0] == 200


def test_a_server_that_ends_ends_its_queries(live):
    """SIGTERM while a query runs: the server waits for no deadline, and leaves no process behind."""
    with contextlib.closing(asked(live, ENDLESS, seconds=100)):
        wait_for(lambda: boxes(live))
        (box,) = boxes(live)
        began = time.monotonic()
        assert live.end()[0] == -signal.SIGTERM
        assert time.monotonic() - began < 15
        assert not box.is_running()


@pytest.mark.parametrize("sql", ["", "select", "drop table runs", "select * from read_csv('/etc/passwd')", "select 1; select 2"])
def test_what_is_no_question_is_refused(live, sql):
    """One SELECT over the views, or a problem that says why not."""
    status, found = answer(live, sql)
    assert (status, bool(found["detail"])) == (400, True)


@pytest.mark.parametrize(("name", "value"), [("limit", 0), ("limit", 100_001), ("seconds", 0), ("seconds", 120.5)])
def test_limits_that_cannot_be_are_refused(server, name, value):
    """As in lists; the query is not begun."""
    answer = server.send("POST", "/sql", {"sql": "select 1", name: value})
    assert (answer.status, answer.json()["where"]) == (400, f"body.{name}")
