"""Many processes, one store: no lock between them, nothing lost or mixed, also while they race to create it."""

from __future__ import annotations

import json
import time

import msgspec
import pytest

from ailab import journal, queries, store

WRITER = """
import os, sys, time
import ailab

number, count, start, run_id = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
while time.time() < start:  # all at once
    time.sleep(0.001)
with ailab.start_run(f"w{number}", id=run_id or None, project="Race", config={"n": number}) as run:
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


def test_eight_processes_log_into_one_store_at_once(store_dir, scripts, lab):
    """G11, short: 8 x 1,000 points, 0 lost, 0 mixed."""
    ids = race(scripts, 8, 1000)
    assert len(set(ids)) == 8
    check(store_dir, lab, ids, 1000)


def test_two_processes_with_one_run_id_write_one_run(store_dir, scripts, lab):
    """The same id from two processes at once is one run with the points of both."""
    ids = race(scripts, 2, 300, run_id="shared")
    assert ids == ["shared", "shared"]
    catalogue = check(store_dir, lab, ids, 300)
    found = queries.get_run(catalogue, "shared")
    assert (found.status, set(found.tags)) == ("completed", {"tag0", "tag1"})
    assert queries.list_runs(catalogue).total == 1


@pytest.mark.long
def test_eight_processes_with_ten_thousand_points_each(store_dir, scripts, lab):
    """G11: 8 x 10,000."""
    check(store_dir, lab, race(scripts, 8, 10_000), 10_000)


@pytest.mark.long
def test_sixty_four_processes_with_a_thousand_points_each(store_dir, scripts, lab):
    """G11: 64 x 1,000."""
    check(store_dir, lab, race(scripts, 64, 1000), 1000)


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


def test_readers_see_counts_that_only_grow_while_others_write(store_dir, scripts, lab):
    """G13, short: a reader that polls meets no error, no half event, and no count that goes down; at the end all is there."""
    store.open_store(str(store_dir), create=True)
    start = time.time() + 1.0
    processes = [scripts.start(WRITER, n, 3000, start, "") for n in range(2)]
    catalogue = lab()
    before, polls = (0, 0), 0
    while any(process.poll() is None for process in processes):
        catalogue.refresh()
        now = catalogue.con.execute("SELECT (SELECT count(*) FROM metrics), (SELECT count(*) FROM events)").fetchone()
        (holes,) = catalogue.con.execute(
            "SELECT count(*) FROM (SELECT key, count(*) AS n, max(step) AS m FROM metrics GROUP BY 1) WHERE n <> m + 1"
        ).fetchone()
        assert holes == 0
        assert now[0] >= before[0]
        assert now[1] >= before[1]
        before, polls = now, polls + 1
        time.sleep(0.01)
    for process in processes:
        out, err = process.communicate()
        assert (process.returncode, err) == (0, ""), out
    catalogue.refresh()
    assert catalogue.problems == []
    assert catalogue.con.execute("SELECT count(*) FROM metrics").fetchone() == (6000,)
    print(polls, "polls")
    assert polls > 5
