"""The stream tells of every run that changed, in order, to whoever comes back with a cursor; a stopped server ends it."""

from __future__ import annotations

import http.client
import json
import time

import msgspec
import pytest

import ailab
from ailab import queries, views
from ailab_api import following

LIVE = {"Accept": "text/event-stream"}


@pytest.fixture
def place(tmp_path):
    """A store with one run."""
    ailab.start_run(id="r0", dir=tmp_path / "lab").finish()
    return tmp_path / "lab"


@pytest.fixture
def live(start, place):
    """A server on it."""
    return start(dir=place)


def events_of(text):
    """(id, kind, data) of the events of an answer."""
    for block in filter(None, text.replace("\r\n", "\n").split("\n\n")):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        if "event" in fields:
            yield fields["id"], fields["event"], json.loads(fields["data"])


def polled(live, cursor=None, **headers):
    """The events of an answer that ends."""
    connection = http.client.HTTPConnection(*live.address, timeout=20)
    connection.request("GET", "/stream" + (f"?cursor={cursor}" if cursor else ""), headers=headers)
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("content-type").partition(";")[0]) == (200, "text/event-stream")
    found = list(events_of(answer.read().decode()))
    connection.close()
    return found


class Reader:
    """A client that stays."""

    def __init__(self, live, path="/stream", **headers):
        self.connection = http.client.HTTPConnection(*live.address, timeout=20)
        self.connection.request("GET", path, headers={**LIVE, **headers})
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200

    def next(self):
        """The next event; None at the end."""
        block = ""
        while True:
            line = self.answer.readline().decode().replace("\r\n", "\n")
            if not line:
                return None
            block += line
            if line == "\n" and (found := list(events_of(block))):
                return found[0]

    def close(self):
        self.answer.close()
        self.connection.close()


def test_a_change_is_told_while_it_happens(live, place):
    """Start, then each run as it stands in a list, then those that went; none is told twice unless it changed again."""
    reader = Reader(live)
    _, kind, data = reader.next()
    assert (kind, set(data)) == ("start", {"cursor"})
    with ailab.start_run("first", id="r1", dir=place) as run:
        seen = reader.next()
        assert (seen[1], [r["status"] for r in seen[2]["runs"]], seen[2]["gone"]) == ("runs", ["running"], [])
        run.log({"loss": 0.5})
    while seen[2]["runs"][0]["status"] != "completed":
        seen = reader.next()
    lab = views.open_lab(place)
    (told,) = seen[2]["runs"]
    assert told == msgspec.to_builtins(next(row for row in queries.list_runs(lab).rows if row.run_id == "r1"))
    lab.close()
    assert live.ask("DELETE", "/runs/r1", {"Content-Type": "application/json"}, b"{}").status == 204
    _, kind, data = reader.next()
    assert (kind, data) == ("runs", {"runs": [], "gone": ["r1"]})
    reader.close()


@pytest.mark.parametrize("header", [False, True])
def test_a_cursor_misses_nothing_and_tells_nothing_twice(live, place, header):
    """Whoever was away for 250 runs hears of each once, in batches; with a cursor or as a browser shows it."""
    cursor = polled(live)[0][0]
    for number in range(250):
        ailab.start_run(id=f"n{number}", dir=place).finish()
    told = []
    while found := polled(live, None if header else cursor, **({"Last-Event-ID": cursor} if header else {})):
        assert all(len(data["runs"]) <= following.BATCH for _, _, data in found)
        told += [run["run_id"] for _, _, data in found for run in data["runs"]]
        cursor = found[-1][0]
    assert sorted(told) == sorted(f"n{number}" for number in range(250))


@pytest.mark.parametrize("cursor", ["x", "5f1c0a9e:1", "5f1c0a9e:", ":", "{epoch}:99", "{epoch}:-1", "{epoch}:" + "9" * 30])
def test_a_cursor_that_says_nothing_is_reset(live, cursor):
    """It is of another server, or of none: the reader is told, and where it is now; the new cursor counts."""
    here = polled(live)[0][0]
    ((now, kind, data),) = polled(live, cursor.format(epoch=here.partition(":")[0]))
    assert (now, kind, data) == (here, "reset", {"cursor": here})
    assert polled(live, now) == []


def test_a_project_that_got_another_name_resets(live, place):
    """All runs of it look different now, and nobody knows which were seen."""
    ailab.start_run(id="p", project="iris", dir=place).finish()
    cursor = polled(live)[0][0]
    body = json.dumps({"name": "Iris flowers"}).encode()
    assert live.ask("PUT", "/projects/iris", {"Content-Type": "application/json"}, body).status == 200
    assert [kind for _, kind, _ in polled(live, cursor)] == ["reset"]


def test_a_stopped_server_ends_its_streams(live):
    """SIGTERM waits for no reader, and the reader sees an end, not an error."""
    reader = Reader(live)
    assert reader.next()[1] == "start"
    began = time.monotonic()
    live.end()
    assert reader.next() is None
    assert time.monotonic() - began < 4
    reader.close()


def test_seconds_end_a_stream(live):
    """So long, and no longer; what is no number is refused."""
    began = time.monotonic()
    reader = Reader(live, "/stream?seconds=1")
    assert (reader.next()[1], reader.next()) == ("start", None)
    assert 0.9 < time.monotonic() - began < 4
    reader.close()
    assert live.get("/stream?seconds=x").status == 400


def test_as_many_streams_as_may_be_and_no_more(live):
    """The next one is told to come again; a reader that went away leaves its place."""
    readers = [Reader(live) for _ in range(following.FOLLOWERS_MAX)]
    assert all(reader.next()[1] == "start" for reader in readers)
    assert live.ask("GET", "/stream", LIVE).status == 429
    assert live.get("/health").status == 200
    for reader in readers:
        reader.close()
    until = time.monotonic() + 10
    while live.get("/stream").status != 200:
        assert time.monotonic() < until
        time.sleep(0.2)


def test_a_token_of_one_project_hears_of_that_project_alone(place):
    """What `follow` tells is bounded by the project, also of runs that went."""
    lab = views.open_lab(place)
    lab.take_changed()
    for run_id, project in (("mine", "iris"), ("other", "wine")):
        ailab.start_run(id=run_id, project=project, dir=place).finish()
    lab.refresh()
    changed = lab.take_changed()
    assert changed == {"mine", "other"}
    assert queries.projects_of(lab, sorted(changed)) == {"mine": "iris", "other": "wine"}
    lab.close()
