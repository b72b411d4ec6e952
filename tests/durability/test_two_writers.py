"""Many processes, one store: no lock between them, nothing lost or mixed, also while they race to create it."""

from __future__ import annotations

import json
import time

import msgspec
import pytest
from watching import Watchers

from ailab import journal, queries, store
from ailab.errors import DamageError

WRITER = """
import os, sys, time
import ailab

number, count, start, run_id = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
while time.time() < start:  # all at once
    time.sleep(0.001)
resume = "allow" if run_id else None  # one may find the other's run there
with ailab.start_run(f"w{number}", id=run_id or None, resume=resume, project="Race", config={"n": number}) as run:
    for i in range(count):
        run.log({f"w{number}": i}, step=i)
    run.set_tags([f"tag{number}"])
    run.log_text("the same text", "same.txt")
print(run.id)
"""


def race(scripts, writers, count, run_id=""):
    """Run writers at once; their run ids."""
    start = time.time() + 0.5 + writers / 4
    processes = [scripts.start(WRITER, n, count, start, run_id) for n in range(writers)]
    ids = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, "")
        ids.append(out.strip())
    return ids


def check(store_dir, lab, ids, count):
    place = store.Store(str(store_dir))
    for name in place.segment_names():
        steps = [
            msgspec.json.decode(line.data)["step"]
            for line in journal.scan(place.segment_path(name), mode="strict")
            if line.kind == "metrics.logged"
        ]
        assert steps == list(range(count))
    catalogue = lab()
    assert catalogue.problems == []
    rows = catalogue.con.execute("SELECT key, count(*), count(DISTINCT step) FROM metrics GROUP BY 1 ORDER BY 1").fetchall()
    assert rows == sorted((f"w{n}", count, count) for n in range(len(ids)))
    assert catalogue.con.execute("SELECT project_id, name FROM projects").fetchall() == [("race", "Race")]
    return catalogue


def test_two_processes_race_to_create_a_store_and_log_into_it(store_dir, scripts, lab):
    """Both runs are whole, in one store with one marker."""
    ids = race(scripts, 2, 500)
    catalogue = check(store_dir, lab, ids, 500)
    for number, run_id in enumerate(ids):
        found = queries.get_run(catalogue, run_id)
        assert (found.status, found.params, found.tags) == ("completed", {"n": number}, {f"tag{number}": None})
        assert found.artifacts == ["same.txt"]
    assert (store_dir / "ailab-store.json").read_bytes() == store.MARKER_BYTES
    assert (store_dir / ".gitignore").read_text() == "*\n"
    assert [p.name for p in (store_dir / "blobs").glob(".tmp*")] == []


def test_two_processes_with_one_run_id_write_one_run(store_dir, scripts, lab):
    """The same id from two processes at once is one run with the points of both."""
    ids = race(scripts, 2, 300, run_id="shared")
    assert ids == ["shared", "shared"]
    catalogue = check(store_dir, lab, ids, 300)
    found = queries.get_run(catalogue, "shared")
    assert (found.status, set(found.tags)) == ("completed", {"tag0", "tag1"})
    assert queries.list_runs(catalogue).total == 1


CREATORS = """
import os, sys, json
from ailab import store
from ailab.errors import AilabError

wrong = []
for trial in range(int(sys.argv[1])):
    path = os.path.join(sys.argv[2], f"s{trial}")
    ready, go = os.pipe()
    children = []
    for n in range(6):
        pid = os.fork()
        if pid == 0:
            os.close(go)
            os.read(ready, 1)  # until the parent closes its end
            try:
                store.open_store(path, create=True)
            except AilabError as problem:
                print(problem, flush=True)
                os._exit(1)
            os._exit(0)
        children.append(pid)
    os.close(ready)
    os.close(go)
    wrong += [status for _, status in (os.waitpid(pid, 0) for pid in children) if status]
    if open(os.path.join(path, store.MARKER), "rb").read() != store.MARKER_BYTES:
        wrong.append("marker")
print(json.dumps(wrong))
"""


def test_a_store_that_six_processes_create_at_once_is_one_store(tmp_path, scripts):
    """150 races: nobody is told that the folder is foreign, and the marker's bytes are whole."""
    done = scripts.run(CREATORS, 150, tmp_path, PYTHONWARNINGS="")
    assert json.loads(done.stdout.splitlines()[-1]) == [], done.stdout


def watched_race(scripts, store_dir, writers, count, hows, **env):
    """Writers at once, read all the while; (what the readers said, the runs' ids)."""
    store.open_store(str(store_dir), create=True)
    with Watchers(scripts, store_dir, hows, **env) as watchers:
        ids = race(scripts, writers, count)
    return watchers, ids


def test_four_readers_see_counts_that_only_grow_while_eight_write(store_dir, scripts, lab):
    """G13, short: 4 readers at 10 ms during 8 x 1,000 points: 0 errors, 0 half events, no count that goes down; all is there."""
    watchers, ids = watched_race(scripts, store_dir, 8, 1000, ["sql", "scan"] * 2)
    watchers.check()
    assert [each["points"] for each in watchers.said] == [8000] * 4
    check(store_dir, lab, ids, 1000)


@pytest.mark.long
@pytest.mark.parametrize(("writers", "count"), [(8, 10_000), (64, 1000)])
def test_four_readers_while_eight_or_sixty_four_write(store_dir, scripts, lab, writers, count):
    """G11 and G13: 8 x 10,000 and 64 x 1,000 points in processes of their own, 4 readers at 10 ms meanwhile."""
    watchers, ids = watched_race(scripts, store_dir, writers, count, ["sql", "scan"] * 2)
    watchers.check()
    assert [each["points"] for each in watchers.said] == [writers * count] * 4
    check(store_dir, lab, ids, count)


# -- one run or many, in every way that work is shared out --------------------------------------------------------------

WAYS = """
import asyncio, multiprocessing, os, sys, threading
import unprotected
unprotected.apply()
import ailab

way, workers, count, one = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "one run"


def work(number):
    with_run(number, lambda run: [run.log({f"w{number}": i}, step=i) for i in range(count)])


def with_run(number, act):
    if not one:
        with ailab.start_run("worker", id=f"run-{number}", nested=False) as run:
            act(run)
    elif way in ("spawn", "forkserver"):
        act(ailab.start_run("worker", id="run", resume="must"))
    else:
        act(shared)


async def work_async(number):
    async def act(run):
        for i in range(count):
            run.log({f"w{number}": i}, step=i)
            await asyncio.sleep(0)

    if one:
        await act(shared)
    else:
        with ailab.start_run("worker", id=f"run-{number}", nested=False) as run:
            await act(run)


async def all_async():
    await asyncio.gather(*(work_async(n) for n in range(workers)))


def share_out():
    if way == "asyncio":
        asyncio.run(all_async())
        return
    kind = threading.Thread if way == "threads" else multiprocessing.get_context(way).Process
    started = [kind(target=work, args=(n,)) for n in range(workers)]
    for each in started:
        each.start()
    for each in started:
        each.join()
        assert getattr(each, "exitcode", 0) == 0


if __name__ == "__main__":
    if one:
        with ailab.start_run("all", id="run") as shared:
            share_out()
    else:
        share_out()
"""
SHARED_OUT = [(way, runs) for way in ("spawn", "fork", "forkserver", "threads", "asyncio") for runs in ("one run", "many runs")]


def share_out(scripts, store_dir, lab, way, runs, *, workers, count, **env):
    """Let `workers` log `count` points each in one way; every one must be there once, in its writer's order, in a whole file."""
    done = scripts.run(WAYS, way, workers, count, runs, timeout=300, **env)
    assert done.stderr == ""
    place, last = store.Store(str(store_dir)), {}
    for name in place.segment_names():
        for line in journal.scan(place.segment_path(name), mode="strict"):
            if line.kind == "metrics.logged":
                data = msgspec.json.decode(line.data)
                (key,) = data["values"]
                assert data["step"] == last.get(key, -1) + 1, (name, key)
                last[key] = data["step"]
    catalogue = lab()
    assert catalogue.problems == []
    rows = catalogue.con.execute("SELECT run_id, key, count(*), count(DISTINCT step) FROM metrics GROUP BY 1, 2").fetchall()
    expected = {("run" if runs == "one run" else f"run-{n}", f"w{n}", count, count) for n in range(workers)}
    assert set(rows) == expected
    statuses = catalogue.con.execute("SELECT DISTINCT status FROM runs").fetchall()
    assert statuses == [("completed",)]


@pytest.mark.parametrize(("way", "runs"), SHARED_OUT)
def test_work_shared_out_in_every_way(store_dir, scripts, lab, way, runs):
    """G11, short: 4 x 500 points by processes, threads and tasks, into one run and into many: 0 lost, 0 mixed."""
    share_out(scripts, store_dir, lab, way, runs, workers=4, count=500)


@pytest.mark.long
@pytest.mark.parametrize(("workers", "count"), [(8, 10_000), (64, 1000)])
@pytest.mark.parametrize(("way", "runs"), SHARED_OUT)
def test_much_work_shared_out_in_every_way(store_dir, scripts, lab, way, runs, workers, count):  # noqa: PLR0917  (a parameter each)
    """G11: 8 x 10,000 and 64 x 1,000 points in each of the ten ways."""
    share_out(scripts, store_dir, lab, way, runs, workers=workers, count=count)


@pytest.mark.parametrize(("switch", "way"), [("exclusive", "spawn"), ("fork", "fork")])
def test_control_writers_of_one_file_are_found(store_dir, scripts, lab, switch, way):
    """G11, negative control: without exclusive creation, or with a parent's segment kept by its children, events are lost."""
    with pytest.raises(DamageError, match="duplicate"):
        share_out(scripts, store_dir, lab, way, "one run", workers=4, count=500, UNPROTECTED=switch)


def test_control_readers_of_a_file_with_many_writers_complain(store_dir, scripts):
    """G13, negative control: where processes share a segment, the readers that poll meanwhile meet damage or holes."""
    with Watchers(scripts, store_dir, ["scan"]) as watchers:
        scripts.run(WAYS, "spawn", 4, 500, "one run", UNPROTECTED="exclusive")
    assert watchers.said[0]["errors"] + watchers.said[0]["holes"] + watchers.said[0]["down"] > 0
