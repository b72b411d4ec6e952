"""One bad thing never hides the rest: whatever lies among the segments, every other run is shown, in time, and it is named."""

from __future__ import annotations

import json
import os
import random
import socket
import time
from pathlib import Path

import pytest
import unprotected

import ailab
from ailab import checkup, queries
from ailab.views import open_lab

RUNS = 20
NAME = "20260101T000000000000Z_far_1_0000000{}_bad"


def made(folder):
    """A store of healthy runs; the path of the one that may be ruined."""
    for n in range(RUNS + 1):
        with ailab.start_run("good", id=f"run-{n}", project="p", dir=folder, params={"n": n}) as run:
            for step in range(200):
                run.log({"loss": 1 / (step + 1)}, step=step)
    return next(Path(folder, "segments").glob(f"*_run-{RUNS}.jsonl"))


def ruined(folder, path):
    """A run whose file is noise: newlines, zeros, all bytes."""
    path.write_bytes(random.Random(7).randbytes(60_000) + b"\n" * 50 + bytes(5000))
    return path


def empty(folder, path):
    """A segment whose writer was killed before its first line."""
    path.write_bytes(b"")
    os.utime(path, (1, 1))
    return path


def directory(folder, path):
    """A folder named like a segment, with things in it."""
    path.mkdir()
    (path / "x.jsonl").write_text("{}\n")
    return path


def unreadable(folder, path):
    """A file that cannot be opened, not even by root: a link that leads to itself."""
    path.symlink_to(path)
    return path


def dangling(folder, path):
    """A link to nowhere."""
    path.symlink_to(folder / "nowhere")
    return path


def pipe(folder, path):
    """A named pipe: who opens it waits for ever."""
    os.mkfifo(path)
    return path


def socket_file(folder, path):
    """A socket, which cannot be opened."""
    with socket.socket(socket.AF_UNIX) as found:
        here = os.getcwd()
        os.chdir(path.parent)
        found.bind(path.name)
        os.chdir(here)
    return path


def device(folder, path):
    """A link to a device that never ends."""
    path.symlink_to("/dev/zero")
    return path


def long_line(folder, path, size=64 << 20):
    """One line without an end, of 64 MiB of which the disk keeps a few."""
    with path.open("wb") as file:
        file.write(b'{"seq":0,"data":"')
        file.truncate(size)
    os.utime(path, (1, 1))
    return path


HARMLESS = (empty, directory, unreadable, dangling, socket_file)
BLOCKING = (pipe, device)


def put(folder, *bad, start=0):
    """Put bad things among the segments; their paths."""
    return [each(folder, folder / "segments" / f"{NAME.format(n)}.jsonl") for n, each in enumerate(bad, start)]


def opened(folder):
    """(seconds until the runs are listed, the best of three; their ids; the paths of what is wrong)."""
    best, ids, wrong = 1e9, set(), set()
    for _ in range(3):
        start = time.monotonic()
        lab = open_lab(folder)
        ids = {row.run_id for row in queries.list_runs(lab).rows}
        best = min(best, time.monotonic() - start)
        wrong = set(map(str, lab.problems))
        lab.close()
    return best, ids, wrong


def test_every_other_run_is_listed_and_what_is_bad_is_named(store_dir, server):
    """G20: beside a ruined run, an empty file, a folder, two bad links, a pipe, a socket and a device 20 of 20 runs are listed.

    The catalogue lists them in less than twice the time, and so does a server; catalogue and doctor name what is bad.
    """
    last = made(store_dir)
    usual, before, _ = opened(store_dir)
    ruined(store_dir, last)
    bad = put(store_dir, *HARMLESS)
    now = checkup.examine(str(store_dir))
    block = put(store_dir, *BLOCKING, start=len(bad))
    seconds, ids, wrong = opened(store_dir)
    print(f"{usual:.3f} s before, {seconds:.3f} s with {len(bad) + len(block) + 1} bad things")
    assert before == {f"run-{n}" for n in range(RUNS + 1)}
    assert ids == {f"run-{n}" for n in range(RUNS)}
    assert seconds < max(2 * usual, 0.25)
    for path in (last, *bad[1:4]):
        assert any(str(path) in each for each in wrong), path
    named = " ".join(f"{finding.what} {finding.where}" for finding in now.findings if finding.level != "ok")
    assert [path for path in (last, *bad) if str(path) not in named] == []
    assert sum(now.runs.values()) == RUNS
    running = server(store_dir)
    assert {row["run_id"] for row in running.get("/runs?limit=100")} == ids
    assert running.get("/health")["status"] is not None
    with ailab.start_run("new", id="new", dir=store_dir) as run:
        run.log({"loss": 0.0})
    stop = time.monotonic() + 10
    while {row["run_id"] for row in running.get("/runs?limit=100")} != ids | {"new"}:
        assert time.monotonic() < stop


def test_control_where_one_error_ends_the_reading_nothing_is_listed(store_dir, monkeypatch):
    """G20, negative control: where an error of one file goes up, no run at all can be listed."""
    made(store_dir)
    put(store_dir, unreadable)
    unprotected.apply("each_alone", monkeypatch.setattr)
    with pytest.raises(RuntimeError, match="symbolic"):
        opened(store_dir)


DOCTOR = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
from ailab import checkup, store, verification
if sys.argv[1] == "doctor":
    print(checkup.examine(os.environ["AILAB_DIR"]).segments)
else:
    print(verification.verify(store.Store(os.environ["AILAB_DIR"])).segments)
"""


@pytest.mark.parametrize("who", ["doctor", "verify"])
@pytest.mark.parametrize("bad", BLOCKING, ids=lambda bad: bad.__name__)
def test_the_doctor_is_not_held_up_by_what_never_ends(store_dir, scripts, bad, who):
    """G20: a pipe that nobody writes and a device that never ends are named, and not waited for."""
    made(store_dir)
    put(store_dir, bad)
    process = scripts.start(DOCTOR, who)
    out, _ = process.communicate(timeout=3)
    assert out == f"{RUNS + 1}\n"


LISTED = """
import json, resource, time
from ailab import queries
from ailab.views import open_lab

start = time.monotonic()
lab = open_lab()
runs = queries.list_runs(lab).total
lab.refresh()
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
print(json.dumps({"runs": runs, "seconds": time.monotonic() - start, "MiB": memory}))
"""


@pytest.mark.parametrize("size", [64 << 20, pytest.param(1 << 30, marks=pytest.mark.long)], ids=["64 MiB", "1 GiB"])
def test_a_line_without_an_end_costs_neither_time_nor_memory(store_dir, scripts, size):
    """G20: the runs are listed in less than twice the time and one look at each byte, in less than 64 MiB more."""
    made(store_dir)
    usual = json.loads(scripts.run(LISTED).stdout)
    long_line(store_dir, store_dir / "segments" / f"{NAME.format(0)}.jsonl", size)
    found = json.loads(scripts.run(LISTED, timeout=400).stdout)
    print(usual, found)
    assert found["runs"] == RUNS + 1
    assert found["MiB"] < usual["MiB"] + 64
    assert found["seconds"] < max(2 * usual["seconds"], 0.5) + size / (256 << 20)
