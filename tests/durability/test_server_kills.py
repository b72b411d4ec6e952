"""kill -9 of a server at a random moment: what it answered with 2xx is there once after a restart, and nothing half (G19).

Clients write without pause, each its own kind of request; the server's process is killed, and another is started on the same
store. Every acknowledged write is then looked for through the API and counted in the lines of the segments. The one request that
each client had under way is there as a whole or not at all; sent again, it is there once: the API has no Idempotency-Key, a retry
is told by run_id, name, content or offset. A file is there with the right SHA-256, or is neither listed nor downloadable.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import random
import threading
import time
from collections import Counter

import pytest
from click.testing import CliRunner

from ailab import cli
from ailab import store as stores

NEST = """
import os, signal, sys
import duckdb
from ailab_api.app import serve

folder = sys.argv[1]
child = 0
for line in sys.stdin:
    if child:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        child = 0
    if line.strip() == "start":
        child = os.fork()
        if child == 0:
            serve(port=0, dir=folder, announce=lambda url: print(url, flush=True))
            os._exit(0)
    else:
        print("killed", flush=True)
if child:
    os.kill(child, signal.SIGKILL)
"""
"""Forks a server at every `start`, so that one is there after a moment, and kills it at every `kill`."""

FAR = """
import ailab, sys
for trial in range(int(sys.argv[2])):
    with ailab.start_run("far", id=f"far-{trial}", dir=sys.argv[1], capture="run") as run:
        for step in range(150):
            run.log({"loss": step / 7}, step=step)
"""

BINARY = {"Content-Type": "application/octet-stream"}
JSON = {"Content-Type": "application/json"}


class Nest:
    """A server that is started and killed, many times, on one port after the other."""

    def __init__(self, scripts, folder) -> None:
        self.folder = folder
        self.process = scripts.start(NEST, folder)

    def say(self, word):
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def start(self):
        self.url = self.say("start")
        assert self.url.startswith("http"), self.url
        return self.url.removeprefix("http://")

    def kill(self):
        assert self.say("kill") == "killed"


def ask(host, method, path, body=b"", headers=JSON, timeout=20):  # noqa: PLR0917
    """(status, headers, body); an OSError or HTTPException where the server is gone."""
    connection = http.client.HTTPConnection(host, timeout=timeout)
    with contextlib.closing(connection):
        connection.request(method, path, body=body if isinstance(body, bytes) else json.dumps(body), headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def get(host, path):
    status, _, body = ask(host, "GET", path, headers={})
    return json.loads(body) if status == 200 else None


def download(host, path):
    """(status, bytes) of a file, as far as they come."""
    try:
        status, _, body = ask(host, "GET", path, headers={}, timeout=5)
    except (http.client.IncompleteRead, TimeoutError) as broken:
        return 200, getattr(broken, "partial", b"")
    return status, body


# -- kinds of writes: what is sent, and how it shows -----------------------------------------------------------------------


class Kind:
    """Writes of one kind in one trial; `number` makes them different, `mark` is a text that no other write has."""

    lines = 1
    """Lines of a segment that hold the mark of one write."""

    def __init__(self, trial, chance) -> None:
        self.trial, self.chance = trial, chance
        self.run = f"run-{type(self).__name__.lower()}-{trial}"
        self.acked: list[int] = []
        self.pending: int | None = None

    def mark(self, number):
        return f"m{type(self).__name__.lower()}-{self.trial}-{number}-"

    def prepare(self, host):
        assert ask(host, "POST", "/runs", {"run_id": self.run, "name": "x"})[0] == 201

    def send(self, host, number):
        """(status, …) of the request."""
        raise NotImplementedError

    def seen(self, host, number):
        """Whether the write shows as a whole (True), not at all (False), or in part ("half")."""
        raise NotImplementedError

    def retry(self, host, number):
        """Send it again; whether it shows once."""
        return self.send(host, number)[0] in {200, 201, 204}

    def work(self, host, stop):
        number = 0
        while not stop.is_set():
            self.pending = number
            try:
                status = self.send(host, number)[0]
            except (OSError, http.client.HTTPException):
                return
            assert 200 <= status < 300, (self, number, status)
            self.acked.append(number)
            self.pending = None
            number += 1


class Note(Kind):
    """PATCH …/note; every one is among the changes behind the first."""

    def send(self, host, number):
        return ask(host, "PATCH", f"/runs/{self.run}/note", {"note": self.mark(number)})

    def seen(self, host, number):
        run = get(host, f"/runs/{self.run}")
        if run is None:
            return False
        now = run["note"]
        changes = [c for c in get(host, f"/runs/{self.run}/changes?limit=1000") if c["field"] == "note"]
        return self.mark(number) in {now, *(c["old"] for c in changes), *(c["new"] for c in changes)}


class Tags(Kind):
    """POST …/tags with two tags."""

    def send(self, host, number):
        return ask(host, "POST", f"/runs/{self.run}/tags", {"set": {f"a{number}": self.mark(number), f"b{number}": "y"}})

    def seen(self, host, number):
        run = get(host, f"/runs/{self.run}")
        tags = {} if run is None else run["tags"]
        found = (tags.get(f"a{number}") == self.mark(number)) + (tags.get(f"b{number}") == "y")
        return (False, "half", True)[found]


class Rename(Kind):
    """PATCH of a run's name and description, which are one event."""

    def send(self, host, number):
        return ask(host, "PATCH", f"/runs/{self.run}", {"name": self.mark(number), "description": f"d{self.mark(number)}"})

    def seen(self, host, number):
        run = get(host, f"/runs/{self.run}")
        last = max([*self.acked, -1] if number != self.pending else [*self.acked, number])
        if number < last:
            return True  # counted in the segments
        found = (run["name"] == self.mark(number)) + (run["description"] == f"d{self.mark(number)}")
        if number in self.acked and self.pending is not None and run["name"] == self.mark(self.pending):
            return True  # the one after it came too
        return (False, "half", True)[found]


class Begin(Kind):
    """POST /runs with a run_id."""

    lines = None

    def prepare(self, host):
        pass

    def send(self, host, number):
        return ask(host, "POST", "/runs", {"run_id": self.mark(number) + "r", "name": "begun", "params": {"n": number}})

    def seen(self, host, number):
        run = get(host, f"/runs/{self.mark(number)}r")
        return False if run is None else True if run["params"] == {"n": number} and run["name"] == "begun" else "half"

    def retry(self, host, number):
        self.send(host, number)
        return len([r for r in get(host, "/runs?limit=1000&q=begun") if r["run_id"] == f"{self.mark(number)}r"]) == 1


class Trash(Kind):
    """DELETE and restore of a run, by turns."""

    lines = None

    def send(self, host, number):
        return ask(host, *(("POST", f"/runs/{self.run}/restore") if number % 2 else ("DELETE", f"/runs/{self.run}")))

    def seen(self, host, number):
        last = max(self.acked, default=-1)
        trashed = bool([r for r in get(host, "/runs?trashed=true&limit=1000") if r["run_id"] == self.run])
        allowed = {last % 2 == 0 if last >= 0 else False} | ({self.pending % 2 == 0} if self.pending is not None else set())
        return (trashed in allowed) if number in self.acked else trashed == (number % 2 == 0)


class Events(Kind):
    """POST …/events: one event of two metrics."""

    def send(self, host, number):
        values = {self.mark(number): number, "loss": number}
        return ask(
            host,
            "POST",
            f"/runs/{self.run}/events",
            {"events": [{"kind": "metrics.logged", "data": {"values": values, "step": number}}]},
        )

    def seen(self, host, number):
        keys = {point["key"] for point in get(host, f"/runs/{self.run}/metrics?key={self.mark(number)}") or []}
        loss = [p for p in get(host, f"/runs/{self.run}/metrics?key=loss") or [] if p["step"] == number]
        return (False, "half", True)[(self.mark(number) in keys) + (len(loss) == 1)]

    def retry(self, host, number):  # noqa: ARG002
        return True  # a point again is a point more; the journal is the way that can be taken up


class Project(Kind):
    """POST /projects."""

    def prepare(self, host):
        pass

    def send(self, host, number):
        return ask(host, "POST", "/projects", {"name": f"{self.mark(number)}p", "description": "d"})

    def seen(self, host, number):
        found = get(host, f"/projects/{self.mark(number)}p")
        return False if found is None else True if found["description"] == "d" else "half"

    def retry(self, host, number):
        self.send(host, number)
        return len([p for p in get(host, "/projects?limit=1000") if p["project_id"] == f"{self.mark(number)}p"]) == 1


def noise(seed, size):
    return random.Random(seed).randbytes(size)


class Dataset(Kind):
    """POST /datasets, 300 KB."""

    lines = None

    def prepare(self, host):
        pass

    def content(self, number):
        return b"a,b\n" + b"".join(b"%d,%s\n" % (i, self.mark(number).encode()) for i in range(12_000))

    def send(self, host, number):
        return ask(host, "POST", f"/datasets?file={self.mark(number)}.csv", self.content(number), {"Content-Type": "text/csv"})

    def seen(self, host, number):
        found = get(host, f"/datasets/{self.mark(number)}")
        if found is None:
            return False
        body = download(host, f"/datasets/{self.mark(number)}/download")[1]
        return True if body == self.content(number) and found["rows"] == 12_000 and found["versions"] == 1 else "half"

    def retry(self, host, number):
        return super().retry(host, number) and self.seen(host, number) is True


class Artifact(Kind):
    """POST /artifacts/RUN, 700 KB."""

    lines = None

    def content(self, number):
        return noise(self.mark(number), 700_000)

    def send(self, host, number):
        return ask(host, "POST", f"/artifacts/{self.run}?path={self.mark(number)}.bin", self.content(number), BINARY)

    def seen(self, host, number):
        listed = [f for f in get(host, f"/artifacts/{self.run}?limit=1000") if f["path"] == f"{self.mark(number)}.bin"]
        status, body = download(host, f"/artifacts/{self.run}/download/{self.mark(number)}.bin")
        if not listed:
            return False if status == 404 else "half"
        digest = hashlib.sha256(self.content(number)).hexdigest()
        whole = len(listed) == 1 and hashlib.sha256(body).hexdigest() == listed[0]["sha256"] == digest
        return True if whole else "half"

    def retry(self, host, number):
        if not super().retry(host, number):
            return False
        listed = [f for f in get(host, f"/artifacts/{self.run}?limit=1000") if f["path"] == f"{self.mark(number)}.bin"]
        return len({f["sha256"] for f in listed}) == 1  # a version more at most, of the same bytes


class Blob(Kind):
    """PUT /blobs/SHA256, 700 KB."""

    lines = None

    def prepare(self, host):
        pass

    def digest(self, number):
        return hashlib.sha256(noise(self.mark(number), 700_000)).hexdigest()

    def send(self, host, number):
        return ask(host, "PUT", f"/blobs/{self.digest(number)}", noise(self.mark(number), 700_000), BINARY)

    def seen(self, host, number):
        missing = json.loads(ask(host, "POST", "/blobs/missing", {"sha256": [self.digest(number)]})[2])["missing"]
        path = stores.open_store(str(self.folder), create=False).blob_path(self.digest(number))
        if missing:
            return False if not os.path.exists(path) else "half"
        with open(path, "rb") as file:
            return True if hashlib.sha256(file.read()).hexdigest() == self.digest(number) else "half"


class Journal(Kind):
    """PUT /journal/SEGMENT, range by range of whole lines."""

    lines = None

    def prepare(self, host):  # noqa: ARG002
        far = stores.open_store(str(self.far), create=False)
        (self.segment,) = (name for name in far.segment_names() if name.endswith(f"_far-{self.trial}"))
        with open(far.segment_path(self.segment), "rb") as file:
            self.whole = file.read()
        self.ends, place = [], 0
        for line in self.whole.splitlines(keepends=True):
            place += len(line)
            self.ends.append(place)

    def span(self, number):
        return (self.ends[number - 1] if number else 0), self.ends[number]

    def send(self, host, number):
        if number >= len(self.ends):
            time.sleep(0.01)
            return (200,)
        begin, end = self.span(number)
        return ask(host, "PUT", f"/journal/{self.segment}?offset={begin}", self.whole[begin:end], BINARY)

    def seen(self, host, number):
        if number >= len(self.ends):
            return True
        state = get(host, f"/journal/{self.segment}")
        if state is None:
            return False
        there = state["bytes"]
        if there not in {0, *self.ends} or hashlib.sha256(self.whole[:there]).hexdigest() != state["sha256"]:
            return "half"
        return there >= self.span(number)[1]

    def retry(self, host, number):
        return super().retry(host, number) and self.seen(host, number) is True


KINDS = (Note, Tags, Rename, Begin, Trash, Events, Project, Dataset, Artifact, Blob, Journal)


# -- the trials ----------------------------------------------------------------------------------------------------------


def counted(folder, kinds):
    """How often the mark of each write of these kinds stands in whole lines of the segments."""
    found: Counter[str] = Counter()
    text = b"".join(path.read_bytes().rpartition(b"\n")[0] + b"\n" for path in sorted((folder / "segments").glob("*.jsonl")))
    for kind in kinds:
        if kind.lines is not None:
            for number in [*kind.acked, *([] if kind.pending is None else [kind.pending])]:
                mark = kind.mark(number).encode()
                found[kind.mark(number)] = sum(mark in line for line in text.split(b"\n")) if mark in text else 0
    return found


def judge(host, folder, kinds):
    """What is wrong after a restart, and what was tried."""
    faults, tried = [], Counter()
    often = counted(folder, kinds)
    for kind in kinds:
        name = type(kind).__name__
        tried["acknowledged"] += len(kind.acked)
        tried[name] += 1
        for number in kind.acked[-60:]:
            shows = kind.seen(host, number)
            if shows is not True:
                faults.append(f"{name} {number}: {'lost' if shows is False else shows}")
        if kind.lines is not None:
            marks = {number: often[kind.mark(number)] for number in kind.acked}
            faults += [f"{name} {number}: {lines} lines" for number, lines in marks.items() if lines != kind.lines]
        if kind.pending is not None:
            shows = kind.seen(host, kind.pending)
            tried["under way"] += 1
            tried["under way and there"] += shows is True
            if shows == "half" or (kind.lines is not None and often[kind.mark(kind.pending)] > kind.lines):
                faults.append(f"{name} {kind.pending}: half there, or twice")
            if not isinstance(kind, Trash) and not kind.retry(host, kind.pending):
                faults.append(f"{name} {kind.pending}: a retry is not there once")
    return faults, tried


def trials(scripts, folder, far, plan, seed, *, spoil=None):
    """Kill a server once for each group of kinds; (faults, what was tried)."""
    chance = random.Random(seed)
    stores.open_store(str(folder), create=True)
    nest, faults, tried = Nest(scripts, folder), [], Counter()
    host = nest.start()
    for trial, group in enumerate(plan):
        kinds = [kind(trial, chance) for kind in group]
        for kind in kinds:
            kind.folder, kind.far = folder, far
            kind.prepare(host)
        stop = threading.Event()
        threads = [threading.Thread(target=kind.work, args=(host, stop)) for kind in kinds]
        for thread in threads:
            thread.start()
        time.sleep(0.02 + chance.random() * 0.25)
        nest.kill()
        stop.set()
        for thread in threads:
            thread.join()
        if spoil is not None:
            spoil(folder, kinds)
        host = nest.start()
        found, what = judge(host, folder, kinds)
        faults += found
        tried += what
        tried["kills"] += 1
    nest.kill()
    print(dict(tried))
    return faults, tried


def planned(rounds, chance, size=3):
    """Groups of different kinds, such that each kind comes `rounds` times."""
    turns = [chance.sample(KINDS, len(KINDS)) for _ in range(rounds)]
    return [kinds[i : i + size] for kinds in turns for i in range(0, len(KINDS), size)]


@pytest.fixture
def far(scripts, tmp_path):
    """`far(n)`: a store of another machine with so many runs, which are shipped."""

    def make(count):
        scripts.run(FAR, tmp_path / "far", count, timeout=60 + count)
        return tmp_path / "far"

    return make


def test_a_killed_server_has_what_it_acknowledged(scripts, far, tmp_path, seed, figure):
    """G19, short: each kind of write is met by six kills; nothing acknowledged is lost or twice, nothing is half there."""
    plan = planned(6, random.Random(seed))
    faults, tried = trials(scripts, tmp_path / "s", far(len(plan)), plan, seed)
    figure(dict(tried))
    assert faults == []
    assert tried["under way"] > len(plan) / 2
    assert all(tried[kind.__name__] == 6 for kind in KINDS)


@pytest.mark.long
def test_a_server_killed_two_hundred_times_in_each_kind_of_write(scripts, far, tmp_path, seed, figure):
    """G19: 200 kills of each kind."""
    total, origin = Counter(), far(80)
    for batch in range(10):
        plan = planned(20, random.Random(seed + batch))
        faults, tried = trials(scripts, tmp_path / f"s{batch}", origin, plan, seed + batch)
        assert faults == []
        total += tried
    figure(dict(total))
    assert all(total[kind.__name__] >= 200 for kind in KINDS)


# -- killed between two writes of one request ----------------------------------------------------------------------------

BETWEEN = """
import os, signal, sys
from ailab import journal
from ailab_api.app import serve

write = journal.Writer._put_bytes

def put(self, fd, data):
    write(self, fd, data)
    if b"parameters.added" in data or b"metrics.logged" in data:
        os.kill(os.getpid(), signal.SIGKILL)

journal.Writer._put_bytes = put
if sys.argv[2:] == ["singly"]:
    journal.Writer.append_all = lambda self, said, **about: [self.append(event, **about) for event in said]
serve(port=0, dir=sys.argv[1], announce=lambda url: print(url, flush=True))
"""
"""Killed as soon as the first write of several events is done."""


PLAIN = """
import sys
from ailab_api.app import serve
serve(port=0, dir=sys.argv[1], announce=lambda url: print(url, flush=True))
"""


def begun(scripts, source, folder, *more):
    return scripts.start(source, folder, *more).stdout.readline().strip().removeprefix("http://")


HALVES = {
    "events": (
        "POST",
        "/events",
        {"events": [{"kind": "metrics.logged", "data": {"values": {"x": i}, "step": i}} for i in (1, 2)]},
    ),
    "change": ("PATCH", "", {"params": {"x": 1}, "name": "renamed"}),
}


def is_half_there(scripts, folder, how, *more):
    """Whether a request of several events, whose server was killed behind its first write, left a part of them."""
    stores.open_store(str(folder), create=True)
    host = begun(scripts, PLAIN, folder)
    assert ask(host, "POST", "/runs", {"run_id": "r", "name": "first"})[0] == 201
    method, path, body = HALVES[how]
    killed = begun(scripts, BETWEEN, folder, *more)
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(killed, method, f"/runs/r{path}", body)
    time.sleep(0.5)
    points, run = len(get(host, "/runs/r/metrics?key=x") or []), get(host, "/runs/r")
    return points != 2 if how == "events" else (run["params"], run["name"]) != ({"x": 1}, "renamed")


@pytest.mark.parametrize("how", sorted(HALVES))
def test_a_request_of_several_events_is_there_as_a_whole_or_not_at_all(scripts, tmp_path, how):
    """The API's README says so: all of them or none; no kill comes between two of them."""
    assert not is_half_there(scripts, tmp_path / "s", how)


@pytest.mark.parametrize("how", sorted(HALVES))
def test_control_events_that_are_written_singly_are_found_half(scripts, tmp_path, how):
    """G19, negative control: the same check finds a server that writes line by line."""
    assert is_half_there(scripts, tmp_path / "s", how, "singly")


AT_FIRST = """
import os, signal, sys
from ailab import receiving
from ailab_api.app import serve

receiving.sync_folder = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
serve(port=0, dir=sys.argv[1], announce=lambda url: print(url, flush=True))
"""
"""Killed as soon as a segment that is shipped has a file, before it has a byte."""


def test_a_segment_whose_first_range_met_a_kill_can_be_shipped_again(scripts, far, tmp_path):
    """Its empty file is not taken for a segment that was written here: nothing would ever be accepted of it."""
    stores.open_store(str(tmp_path / "s"), create=True)
    journal = Journal(0, random)
    journal.far = far(1)
    journal.prepare(None)
    with pytest.raises((OSError, http.client.HTTPException)):
        journal.send(begun(scripts, AT_FIRST, tmp_path / "s"), 0)
    host = begun(scripts, PLAIN, tmp_path / "s")
    assert (tmp_path / "s" / "segments" / f"{journal.segment}.jsonl").stat().st_size == 0
    assert journal.retry(host, 0)


def cut_off(scripts, folder):
    """A server that is killed in the middle of an upload, and the store behind it."""
    stores.open_store(str(folder), create=True)
    process = scripts.start(PLAIN, folder)
    host = process.stdout.readline().strip().removeprefix("http://")
    assert ask(host, "POST", "/runs", {"run_id": "r"})[0] == 201
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.putrequest("POST", "/artifacts/r?path=x.bin")
    connection.putheader("Content-Type", "application/octet-stream")
    connection.putheader("Content-Length", "9000000")
    connection.endheaders()
    connection.send(bytes(4_000_000))
    until = time.monotonic() + 10
    while not (left := left_in(folder)) and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    process.wait()
    connection.close()
    assert left
    return begun(scripts, PLAIN, folder)


def left_in(folder):
    return [name for name in os.listdir(folder / "blobs") if name.startswith(".tmp-")] if (folder / "blobs").exists() else []


def test_what_a_killed_upload_left_is_nowhere_to_be_had(scripts, tmp_path):
    """Its bytes are no file of the run, under no name."""
    host = cut_off(scripts, tmp_path / "s")
    assert get(host, "/artifacts/r") == []
    for name in left_in(tmp_path / "s"):
        for path in (f"/artifacts/r/download/{name}", f"/artifacts/r/download/blobs/{name}", f"/datasets/{name}/download"):
            assert ask(host, "GET", path, headers={})[0] == 404


def test_what_a_killed_upload_left_is_collected(scripts, tmp_path):
    """It is told as what it is, and taken away once it cannot be anybody's work any more."""
    cut_off(scripts, tmp_path / "s")
    (name,) = left_in(tmp_path / "s")
    old = time.time() - 7200
    os.utime(tmp_path / "s" / "blobs" / name, (old, old))
    assert CliRunner().invoke(cli.main, ["--dir", str(tmp_path / "s"), "gc", "--yes"]).exit_code == 0
    assert left_in(tmp_path / "s") == []


# -- the negative control ------------------------------------------------------------------------------------------------


def lose_the_end(folder, kinds):
    """Take the last two lines from every segment that a server wrote, as if they had rested in its memory."""
    for path in (folder / "segments").glob("*.jsonl"):
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:-2]))


def double_the_end(folder, kinds):
    """Write the last lines of every segment twice, as a retry without a check would."""
    for path in (folder / "segments").glob("*.jsonl"):
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([*lines, *lines[-2:]]))


def halve_blobs(folder, kinds):
    """Cut every blob in half, as a name that is there before its bytes are would be found."""
    for path in (folder / "blobs").glob("*/*"):
        os.chmod(path, 0o644)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("spoil", "kinds", "fault"),
    [(lose_the_end, [Note, Tags], "lost"), (double_the_end, [Note, Tags], "lines"), (halve_blobs, [Blob], "half")],
    ids=["lost", "twice", "half"],
)  # fmt: skip
def test_control_a_server_that_loses_is_found(scripts, tmp_path, seed, spoil, kinds, fault):  # noqa: PLR0917
    """G19, negative control: lines lost or doubled and blobs cut between kill and restart are found by the same judge."""
    faults, _ = trials(scripts, tmp_path / "s", None, [kinds] * 2, seed, spoil=spoil)
    assert any(fault in one for one in faults), faults
