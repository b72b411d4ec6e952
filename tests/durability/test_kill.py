"""kill -9 at a random moment: what log() has returned is there, once and in order, and nothing that nobody tried to log."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import threading
import time
import zlib
from collections import Counter
from pathlib import Path

import pytest
from watching import Watchers

from ailab import store as stores

HARNESS = """
import json, os, random, signal, struct, sys, time

how, trials, seed, folder, series = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
import unprotected
unprotected.apply()
import ailab
from ailab import journal

# (metrics in an event, characters that their names are longer by): long lines are those that a kill can tear
SIZES = ((2000, 0), (20000, 0), (3, 500_000), (3, 2_000_000)) if how == "wide" else ((1, 0), (3, 0), (12, 0))


def write(run, name, size, acks):
    ack = os.open(acks, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    width, longer = size
    noise = {f"{name}/{i}" + "x" * longer * (i > 0): i * 0.37 for i in range(width)}
    i = 0
    while True:
        noise[f"{name}/0"] = i
        run.log(noise, step=i)
        os.write(ack, struct.pack("<q", i))  # log() has returned: the parent may count on it
        i += 1


chance = random.Random(seed)
for trial in range(trials):
    run_id = f"{how}{series}-{trial}"
    writers = 8 if how == "group" else 1
    size = chance.choice(SIZES)
    patience = chance.random() * {"wide": 0.04, "group": 0.05}.get(how, 0.08)
    options = {"durable": how != "wide" and chance.random() < 0.15, "rotate": how != "wide" and chance.random() < 0.3}
    acks = [os.path.join(folder, f"{run_id}.{n}.acks") for n in range(writers)]
    child = os.fork()
    if child == 0:
        os.setsid()
        if options["rotate"]:
            journal.SEGMENT_BYTES = 40_000
        run = ailab.start_run("kill", id=run_id, dir=folder, durable=options["durable"])
        for n in range(1, writers):
            if os.fork() == 0:
                write(run, f"w{n}", size, acks[n])
        write(run, "w0", size, acks[0])
    while not all(os.path.exists(path) and os.path.getsize(path) for path in acks):
        time.sleep(0.001)
    time.sleep(patience)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    sizes = []
    while sizes != [os.path.getsize(path) for path in acks]:  # the others of the group die with it, and are not ours to wait for
        sizes = [os.path.getsize(path) for path in acks]
        time.sleep(0.01)
    print(json.dumps({"run": run_id, "size": size, **options, "acked": [size // 8 for size in sizes]}), flush=True)
"""


def trials_of(scripts, folder, how, trials, seed, *, series="", **env):
    folder.mkdir(exist_ok=True)
    stores.open_store(str(folder), create=True)
    done = scripts.run(HARNESS, how, trials, seed, folder, series, timeout=60 + trials, **env)
    return [json.loads(line) for line in done.stdout.splitlines()]


def written(folder, run_id):
    """({writer: steps in the order of the files}, torn tails, wrong values), by code that shares nothing with the reader."""
    steps, torn, wrong = {}, 0, 0
    for path in sorted(folder.glob(f"segments/*_{run_id}.jsonl")):
        *lines, tail = path.read_bytes().split(b"\n")
        torn += tail != b""
        for line in lines:
            crc = re.search(rb'"crc":(\d+)\}$', line)
            if crc is None or zlib.crc32(line[: crc.start(1)] + b"0}") != int(crc.group(1)):
                wrong += 1
                continue
            event = json.loads(line)
            if event["kind"] == "metrics.logged":
                values, step = event["data"]["values"], event["data"]["step"]
                writer = next(iter(values)).split("/")[0]
                steps.setdefault(writer, []).append(step)
                plain = {name.rstrip("x"): value for name, value in values.items()}
                wrong += plain != {f"{writer}/{i}": (i * 0.37 if i else step) for i in range(len(values))}
    return steps, torn, wrong


def judge(folder, trials):
    """What was lost, came from nowhere, came twice or out of order, and how many kills fell into a write.

    `torn` kills left a part of a line, `unanswered` ones a whole line that log() had not returned for; both fell within log().
    """
    found = {"trials": len(trials), "acknowledged": 0, **FAULTLESS, "torn": 0, "unanswered": 0}
    for trial in trials:
        steps, torn, wrong = written(folder, trial["run"])
        trial["steps"] = steps
        found["torn"] += torn
        found["wrong"] += wrong
        found["too torn"] += torn > len(trial["acked"])
        for number, acked in enumerate(trial["acked"]):
            seen = steps.get(f"w{number}", [])
            found["acknowledged"] += acked
            found["lost"] += len(set(range(acked)) - set(seen))
            found["phantom"] += len([step for step in seen if step > acked])
            found["duplicate"] += len(seen) - len(set(seen))
            found["disorder"] += seen != sorted(seen)
            found["unanswered"] += acked in seen
    print(found)
    return found


FAULTLESS = {"lost": 0, "phantom": 0, "duplicate": 0, "disorder": 0, "wrong": 0, "too torn": 0}


def check(found):
    """No fault at all, and enough kills within log() that the trials say something of it."""
    assert {name: found[name] for name in FAULTLESS} == FAULTLESS
    assert found["torn"] + found["unanswered"] > 0, found


def check_answers(lab, done):
    """The catalogue has exactly what the files have, names no damage, and shows every run as crashed."""
    catalogue = lab()
    assert catalogue.problems == []
    rows = catalogue.con.execute("SELECT run_id, status FROM runs").fetchall()
    assert dict(rows) == {trial["run"]: "crashed" for trial in done}
    counted = catalogue.con.execute(
        "SELECT run_id, key, count(*), max(step) FROM metrics WHERE key LIKE '%/0' GROUP BY 1, 2"
    ).fetchall()
    journaled = {(t["run"], f"{w}/0", len(s), max(s)) for t in done for w, s in t["steps"].items()}
    assert set(counted) == journaled


def test_kill_9_loses_nothing_that_was_acknowledged(store_dir, scripts, lab, seed):
    """G1, short: 25 kills of one writer; all points there once and in order, the run shown as crashed with its points."""
    done = trials_of(scripts, store_dir, "single", 25, seed)
    check(judge(store_dir, done))
    check_answers(lab, done)


def test_kill_9_within_a_write_tears_one_line_at_most(tmp_path, scripts, seed):
    """G1, short: 15 kills of a writer of lines up to four megabytes; a torn line is the last, and not acknowledged."""
    check(judge(tmp_path / "s", trials_of(scripts, tmp_path / "s", "wide", 15, seed)))


def test_control_a_writer_that_buffers_is_found_to_lose(tmp_path, scripts, seed):
    """G1, negative control: with lines that rest in memory after log() has returned, the same trials find lost points."""
    done = trials_of(scripts, tmp_path / "s", "single", 4, seed, UNPROTECTED="unbuffered")
    assert judge(tmp_path / "s", done)["lost"] > 0


def test_kill_9_of_eight_writers_into_one_run_while_it_is_read(store_dir, scripts, lab, seed):
    """G2, short: 6 kills of a group of 8 forked writers; the same for each of them, and two readers meet no fault meanwhile."""
    stores.open_store(str(store_dir), create=True)
    with Watchers(scripts, store_dir, ["sql", "scan"]) as watchers:
        done = trials_of(scripts, store_dir, "group", 6, seed)
    watchers.check()
    check(judge(store_dir, done))
    check_answers(lab, done)


def test_control_writers_that_share_a_file_are_found(tmp_path, scripts, seed):
    """G2, negative control: where forked writers go on in their parent's file, readers meet damage."""
    folder = tmp_path / "s"
    stores.open_store(str(folder), create=True)
    with Watchers(scripts, folder, ["scan"]) as watchers:
        trials_of(scripts, folder, "group", 2, seed, UNPROTECTED="fork")
    assert watchers.said[0]["errors"] + watchers.said[0]["holes"] > 0


@pytest.mark.long
def test_kill_9_a_thousand_times(tmp_path, scripts, seed):
    """G1: 1,000 kills, 0 lost, 0 from nowhere, 0 twice, 0 out of order, and more than 1 % of them within a write."""
    total = Counter()
    for batch in range(20):
        folder = tmp_path / str(batch)
        found = judge(folder, trials_of(scripts, folder, "single" if batch % 2 else "wide", 50, seed + batch))
        check(found)
        total.update(found)
        for path in folder.rglob("*.jsonl"):
            path.unlink()
    print("all together:", dict(total))
    check(total)
    assert total["torn"] * 100 >= total["trials"]


@pytest.mark.long
def test_kill_9_of_two_hundred_groups_while_a_server_reads(store_dir, scripts, server, seed):
    """G2: 200 kills of 8 writers into one run; two readers and a server read meanwhile, and the server answers every time."""
    stores.open_store(str(store_dir), create=True)
    running, asked, stop, total = server(store_dir), [], threading.Event(), Counter()

    def ask():
        while not stop.is_set():
            start = time.monotonic()
            page = running.get("/runs?limit=1000")
            asked.append((time.monotonic() - start, len(page)))
            time.sleep(0.05)

    with concurrent.futures.ThreadPoolExecutor(1) as pool, Watchers(scripts, store_dir, ["sql", "scan"]) as watchers:
        asking = pool.submit(ask)
        try:
            for batch in range(10):
                done = trials_of(scripts, store_dir, "group", 20, seed + batch, series=batch)
                found = judge(store_dir, done)
                check(found)
                total.update(found)
        finally:
            stop.set()
            asking.result(60)
    print("all together:", dict(total))
    print(f"{len(asked)} answers of the server, the slowest in {max(seconds for seconds, _ in asked):.2f} s")
    watchers.check()
    assert running.stop() == ""


def test_a_killed_writers_run_can_be_taken_up(store_dir, scripts, lab, seed):
    """After kill -9 the run goes on under its id, in a segment of its own, and ends as it ends."""
    import ailab
    from ailab import queries

    (trial,) = trials_of(scripts, store_dir, "single", 1, seed)
    before = sorted(Path(store_dir, "segments").iterdir())
    content = [path.read_bytes() for path in before]
    with ailab.start_run("again", id=trial["run"], resume="must") as run:
        run.log({"w0/0": -1.0}, step=-1)
    assert [path.read_bytes() for path in before] == content
    found = queries.get_run(lab(), trial["run"])
    assert (found.status, found.final_metrics["w0/0"]) == ("completed", -1.0)
    assert len(os.listdir(store_dir / "segments")) == len(before) + 1
