"""Lists of runs are found in threads: two at a time, beside what needs no list, and a server that stops waits for them."""

from __future__ import annotations

import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from live import SERVER, wait_for

SLOW = """
import os, pathlib, tempfile, threading, time
from ailab import queries

list_runs, leaderboard = queries.list_runs, queries.leaderboard

def slowly(question):
    def ask(*given, **named):
        pathlib.Path(os.environ["MARKS"], f"begun-{threading.get_ident()}").touch()
        while not pathlib.Path(os.environ["MARKS"], "go").exists():
            time.sleep(0.01)
        return question(*given, **named)
    return ask

queries.list_runs, queries.leaderboard = slowly(list_runs), slowly(leaderboard)
"""
LISTS = (
    "/runs?limit=20", "/runs/leaderboard?metric_name=accuracy", "/runs/leaderboard?metric_name=accuracy&of=max",
    "/projects/iris/runs", "/api/modellab/runs", "/api/modellab/projects/iris/runs",
)  # fmt: skip


@pytest.fixture
def slow(start, store, tmp_path):
    """A server whose lists wait for a file `go`, on a store that nobody else writes, and the folder of that file."""
    marks, copy = tmp_path / "marks", tmp_path / "store"
    marks.mkdir()
    shutil.copytree(store, copy, copy_function=lambda a, b: (os.link if "blobs" in a else shutil.copy2)(a, b))
    return start(dir=copy, source=SLOW + SERVER, MARKS=str(marks)), marks


@pytest.mark.parametrize("path", LISTS)
def test_two_lists_are_found_at_a_time(slow, path):
    """In two threads, and others are answered meanwhile; both answers are what one list alone is answered."""
    live, marks = slow
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(live.get, path) for _ in range(2)]
        wait_for(lambda: len(list(marks.glob("begun-*"))) == 2)
        assert live.get("/health").status == 200
        assert not any(answer.done() for answer in answers)
        (marks / "go").touch()
        found = [answer.result(30) for answer in answers]
    assert [answer.status for answer in found] == [200, 200]
    assert found[0].body == found[1].body == live.get(path).body
    assert b"run-a" in found[0].body


def test_a_server_that_stops_waits_for_a_list(slow):
    """The answer comes, and the server ends in order."""
    live, marks = slow
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(live.get, "/runs")
        wait_for(lambda: list(marks.glob("begun-*")))
        live.process.send_signal(signal.SIGTERM)
        (marks / "go").touch()
        assert answer.result(30).status == 200
    assert live.process.wait(30) == -signal.SIGTERM


def test_an_error_in_a_thread_is_answered_as_any(server):
    """What is wrong with a question is found there, and said as elsewhere."""
    for path in ("/runs?where=nothing%20%3D%201", "/runs/leaderboard?metric_name=acuracy", "/projects/iris/runs?cursor=x"):
        answer = server.get(path)
        assert (answer.status, answer.json()["status"]) == (400, 400)
