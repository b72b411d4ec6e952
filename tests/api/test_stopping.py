"""A server that is told to stop takes nobody new, finishes what is under way in its time, and leaves nothing half done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import msgspec
import psutil
import pytest
from live import Live, environment, read_answer, wait_for

from ailab import views
from ailab.inventory import list_datasets
from ailab_api.app import GRACE_S

SERVE = """
import sys
import ailab_api.app
ailab_api.app.GRACE_S = float(sys.argv[2])
ailab_api.app.serve(port=0, dir=sys.argv[1], announce=lambda url: print(url, flush=True))
"""
ROWS = b"1,2\n" * 500_000
SENT = 1_500_000
"""Bytes of them that are sent before the server is told to stop: more than one piece that it writes at once."""


@pytest.fixture
def lab(tmp_path):
    """The path of the server's store."""
    return tmp_path / "lab"


@pytest.fixture
def serving(start, lab):
    """`serving(grace)`: a server, and a connection on which half of an upload was sent and written."""
    held = []

    def begin(grace=GRACE_S):
        live = start(dir=lab, port=grace, source=SERVE)
        connection = live.connect()
        held.append(connection)
        head = f"POST /datasets?file=a.csv HTTP/1.1\r\nHost: {live.host}\r\nContent-Type: text/csv"
        connection.sendall(f"{head}\r\nContent-Length: {len(ROWS) + 4}\r\n\r\na,b\n".encode() + ROWS[:SENT])
        wait_for(lambda: any(path.stat().st_size > 0 for path in lab.glob("blobs/.tmp-*")))
        return live, connection

    yield begin
    for connection in held:
        connection.close()


def refuses(live):
    """Whether a new connection is refused."""
    try:
        live.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def files(lab):
    """What lies in the store besides its marks: kept files, temporary ones, and segments."""
    return sorted(
        path.relative_to(lab).parts[0] for folder in ("blobs", "segments") for path in (lab / folder).rglob("*") if path.is_file()
    )


def names(lab):
    """The datasets that the store has, as somebody else reads it."""
    opened = views.open_lab(lab)
    try:
        return [found.dataset_id.partition("@")[0] for found in list_datasets(opened).rows]
    finally:
        opened.close()


def is_sealed(lab):
    """Whether the only segment has ended."""
    (segment,) = (lab / "segments").iterdir()
    return msgspec.json.decode(segment.read_bytes().splitlines()[-1])["kind"] == "segment.sealed"


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_an_upload_under_way_is_finished(serving, lab, by):
    """Whoever is connected has time to send the rest, and gets 201; whoever comes anew is refused; the segment is sealed."""
    live, connection = serving()
    live.process.send_signal(by)
    wait_for(lambda: refuses(live))
    assert live.process.poll() is None
    connection.sendall(ROWS[SENT:])
    assert read_answer(connection).status == 201
    assert connection.recv(1) == b""
    assert live.end(by) == (-signal.SIGTERM if by == signal.SIGTERM else 0, "")
    assert (names(lab), files(lab), is_sealed(lab)) == (["a"], ["blobs", "segments"], True)


def test_an_upload_that_takes_longer_leaves_nothing(serving, lab):
    """When the time is over it is answered 503, as a problem; no file and no event of it is there; the log has one line."""
    live, connection = serving(grace=1)
    live.process.send_signal(signal.SIGTERM)
    answer = read_answer(connection)
    assert (answer.status, answer.json()["detail"], answer.header("retry-after")) == (503, "the server stops", "1")
    assert answer.header("x-content-type-options") == "nosniff"
    code, err = live.end()
    assert (code, err) == (-signal.SIGTERM, "1 request under way was ended\n")
    assert (names(lab), files(lab)) == ([], [])


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_interrupt_ends_at_once(serving, lab, first):
    """Nobody who is in a hurry waits for a slow client; and nothing is left all the same."""
    live, connection = serving(grace=600)
    assert live.send("POST", "/projects", {"name": "before"}).status == 201
    live.process.send_signal(first)
    wait_for(lambda: refuses(live))
    live.process.send_signal(signal.SIGINT)
    assert read_answer(connection).status == 503
    live.process.wait(timeout=10)
    assert live.process.returncode == (-signal.SIGTERM if first == signal.SIGTERM else 0)
    assert (names(lab), files(lab), is_sealed(lab)) == ([], ["segments"], True)


@pytest.fixture
def typed(tmp_path, lab):
    """The verb itself, as somebody starts it at a prompt, once it answers: its process and its URL."""
    command = [sys.executable, "-m", "ailab", "serve", "--dir", str(lab)]
    with subprocess.Popen(command, env=environment(), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process, process.stdout.readline().decode().strip()
        finally:
            process.kill()


def test_somebody_who_waits_is_told_for_what(typed, lab):
    """After one Ctrl-C: what is under way, how long at most, and what a second one does; which it then does."""
    process, url = typed
    live = Live(process, url)
    with live.connect() as connection:
        head = f"POST /datasets?file=a.csv HTTP/1.1\r\nHost: {live.host}\r\nContent-Type: text/csv"
        connection.sendall(f"{head}\r\nContent-Length: {len(ROWS) + 4}\r\n\r\na,b\n".encode() + ROWS[:SENT])
        wait_for(lambda: any(path.stat().st_size > 0 for path in lab.glob("blobs/.tmp-*")))
        process.send_signal(signal.SIGINT)
        line = process.stderr.readline().decode()
        assert line == "stopping: 1 request under way may take 5 s more; Ctrl-C again stops at once\n"
        process.send_signal(signal.SIGINT)
        assert read_answer(connection).status == 503
    assert process.wait(10) == 0


def test_where_nobody_is_waited_for_nothing_is_said(typed):
    """Control: an idle server ends without a word."""
    process, _ = typed
    process.send_signal(signal.SIGINT)
    assert (process.wait(10), process.stderr.read()) == (0, b"")


def test_one_signal_waits_and_two_terms_do_not_hurry(serving):
    """Control: the upload holds the server for as long as it has time, so what ends it above is the second interrupt."""
    live, connection = serving(grace=600)
    live.process.send_signal(signal.SIGTERM)
    wait_for(lambda: refuses(live))
    live.process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert live.process.poll() is None
    connection.sendall(ROWS[SENT:])
    assert read_answer(connection).status == 201
    assert live.end() == (-signal.SIGTERM, "")


def test_a_killed_server_does_leave_something(serving, lab):
    """Control: `files` sees what a server leaves that could not clean up."""
    live, _ = serving()
    live.process.kill()
    live.process.wait()
    assert files(lab) == ["blobs"]


def test_an_idle_connection_is_closed(start, lab):
    """A client that keeps its connection open holds nobody up, and sees it end."""
    live = start(dir=lab, port=600, source=SERVE)
    with live.connect() as idle:
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert read_answer(idle).status == 200
        live.process.send_signal(signal.SIGTERM)
        assert idle.recv(1) == b""
    assert live.end() == (-signal.SIGTERM, "")


def asking(live):
    """A connection on which a query was sent that takes for ever."""
    connection = live.connect()
    body = b'{"sql": "select sum(hash(i)) from range(100000000000) t(i)", "seconds": 60}'
    head = f"POST /sql HTTP/1.1\r\nHost: {live.host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def sandbox(live):
    """The process that answers SQL, once it does: it has worked for longer than its start takes."""
    found = [one for one in psutil.Process(live.process.pid).children() if "ailab.views.sandbox" in one.cmdline()]
    return next((one for one in found if one.cpu_times().user > 5), None)


def test_sql_that_takes_longer_is_ended(start, lab):
    """Its process is killed with it, and the server waits for neither."""
    live = start(dir=lab, port=1, source=SERVE)
    with asking(live) as connection:
        wait_for(lambda: "ailab_sql_processes 1" in live.get("/metrics").text)
        live.process.send_signal(signal.SIGTERM)
        assert read_answer(connection).status == 503
    assert live.end()[0] == -signal.SIGTERM


BESIDE = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stderr=subprocess.DEVNULL)
"""


def test_ctrl_c_at_a_terminal_stops_in_order(start, lab):
    """A terminal interrupts all processes of the server; the query has its time all the same, and is answered 503.

    Control: another child of the server is interrupted with it.
    """
    live = start(dir=lab, port=1, source=BESIDE + SERVE, own_group=True)
    (beside,) = psutil.Process(live.process.pid).children()
    with asking(live) as connection:
        wait_for(lambda: sandbox(live), seconds=30)
        box = sandbox(live)
        assert os.getpgid(box.pid) == os.getsid(box.pid) == box.pid
        os.killpg(live.process.pid, signal.SIGINT)
        wait_for(lambda: refuses(live))
        wait_for(lambda: not beside.is_running() or beside.status() == psutil.STATUS_ZOMBIE)
        answer = read_answer(connection)
        assert (answer.status, answer.json()["detail"]) == (503, "the server stops")
    live.process.wait(timeout=20)
    assert (live.process.returncode, box.is_running()) == (0, False)


def test_a_killed_server_takes_its_query_along(start, lab):
    """The process that no terminal reaches does not outlive the server, however that ends."""
    live = start(dir=lab, port=1, source=SERVE, own_group=True)
    with asking(live):
        wait_for(lambda: sandbox(live), seconds=30)
        box = sandbox(live)
        live.process.kill()
        live.process.wait()
        wait_for(lambda: not box.is_running() or box.status() == psutil.STATUS_ZOMBIE)
