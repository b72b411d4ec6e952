"""kill -9 at a random moment: what log() has returned is there, once and in order, and nothing that nobody tried to log."""

from __future__ import annotations

import json
import os
import random
import re
import zlib
from pathlib import Path

import pytest

from ailab import store as stores

HARNESS = """
import json, os, random, signal, struct, sys, time

how, trials, seed, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
import ailab

WIDTHS = (2000, 20000) if how == "wide" else (1, 3, 12)  # metrics in an event: long lines are those that a kill can tear


class Buffered:
    '''The writer of the negative control: it says that it has logged when the line is in its own memory.'''

    def __init__(self, run_id):
        os.makedirs(os.path.join(folder, "segments"), exist_ok=True)
        self.file = open(os.path.join(folder, "segments", f"T_h_{os.getpid()}_x_{run_id}.jsonl"), "a")

    def log(self, values, step):
        import zlib
        line = json.dumps({"kind": "metrics.logged", "data": {"values": values, "step": step}, "crc": 0}, separators=(",", ":"))
        crc = zlib.crc32(line.encode())
        self.file.write(f"{line[:-2]}{crc}}}\\n")


def write(run, name, width, acks):
    ack = os.open(acks, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    noise = {f"{name}/{i}": i * 0.37 for i in range(width)}
    i = 0
    while True:
        noise[f"{name}/0"] = i
        run.log(noise, step=i)
        os.write(ack, struct.pack("<q", i))
        i += 1


chance = random.Random(seed)
for trial in range(trials):
    run_id = f"{how}-{trial}"
    writers = chance.choice((2, 3, 4)) if how == "group" else 1
    width = chance.choice(WIDTHS)
    patience = chance.random() * {"wide": 0.04, "group": 0.02}.get(how, 0.08)
    acks = [os.path.join(folder, f"{run_id}.{n}.acks") for n in range(writers)]
    child = os.fork()
    if child == 0:
        os.setsid()
        run = Buffered(run_id) if how == "buffered" else ailab.start_run("kill", id=run_id, dir=folder)
        for n in range(1, writers):
            if os.fork() == 0:
                write(run, f"w{n}", width, acks[n])
        write(run, "w0", width, acks[0])
    while not all(os.path.exists(path) and os.path.getsize(path) for path in acks):
        time.sleep(0.001)
    time.sleep(patience)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    time.sleep(0.01)  # the others of the group die with it, and are not ours to wait for
    print(json.dumps({"run": run_id, "width": width, "acked": [os.path.getsize(path) // 8 for path in acks]}), flush=True)
"""


def trials_of(scripts, folder, how, trials):
    folder.mkdir(exist_ok=True)
    if how != "buffered":
        stores.open_store(str(folder), create=True)
    seed = random.randrange(2**31)
    print(f"seed {seed}")
    done = scripts.run(HARNESS, how, trials, seed, folder, timeout=60 + trials)
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
                wrong += values != {f"{writer}/{i}": (i * 0.37 if i else step) for i in range(len(values))}
    return steps, torn, wrong


def judge(folder, trials):
    """What was lost, came from nowhere, came twice or out of order, and how many kills fell into a write."""
    found = {"trials": len(trials), "acknowledged": 0, "lost": 0, "phantom": 0, "disorder": 0, "wrong": 0, "torn": 0}
    for trial in trials:
        steps, torn, wrong = written(folder, trial["run"])
        trial["steps"] = steps
        found["torn"] += torn
        found["wrong"] += wrong
        assert torn <= len(trial["acked"]), trial
        for number, acked in enumerate(trial["acked"]):
            seen = steps.get(f"w{number}", [])
            found["acknowledged"] += acked
            found["lost"] += len(set(range(acked)) - set(seen))
            found["phantom"] += len([step for step in seen if step > acked])
            found["disorder"] += seen != sorted(set(seen))
    print(found)
    return found


FAULTLESS = {"lost": 0, "phantom": 0, "disorder": 0, "wrong": 0}


def check(scripts, folder, lab, how, trials):
    done = trials_of(scripts, folder, how, trials)
    found = judge(folder, done)
    assert {name: found[name] for name in FAULTLESS} == FAULTLESS
    catalogue = lab()
    assert catalogue.problems == []
    rows = catalogue.con.execute("SELECT run_id, status FROM runs").fetchall()
    assert dict(rows) == {trial["run"]: "crashed" for trial in done}
    counted = catalogue.con.execute(
        "SELECT run_id, key, count(*), max(step) FROM metrics WHERE key LIKE '%/0' GROUP BY 1, 2"
    ).fetchall()
    journaled = {(t["run"], f"{w}/0", len(s), max(s)) for t in done for w, s in t["steps"].items()}
    assert set(counted) == journaled
    return found


def test_kill_9_loses_nothing_that_was_acknowledged(store_dir, scripts, lab):
    """G1, short: 20 kills of one writer; all points there once and in order, the run shown as crashed with its points."""
    check(scripts, store_dir, lab, "single", 20)


def test_kill_9_within_a_write_tears_one_line_at_most(tmp_path, scripts):
    """G1, short: 15 kills of a writer of lines up to half a megabyte; a torn line is the last, and not acknowledged."""
    found = judge(tmp_path / "s", trials_of(scripts, tmp_path / "s", "wide", 15))
    assert {name: found[name] for name in FAULTLESS} == FAULTLESS


def test_kill_9_of_a_group_of_writers_into_one_run(store_dir, scripts, lab):
    """G2, short: 6 kills of 2 to 4 forked writers at once; the same, for each of them."""
    check(scripts, store_dir, lab, "group", 6)


def test_the_harness_finds_a_writer_that_loses(tmp_path, scripts):
    """Negative control: a writer that buffers what it has acknowledged is found out by the same trials."""
    found = judge(tmp_path / "s", trials_of(scripts, tmp_path / "s", "buffered", 5))
    assert found["lost"] > 0


@pytest.mark.long
def test_kill_9_a_thousand_times(tmp_path, scripts):
    """G1: 1,000 kills, 0 lost, 0 from nowhere, 0 twice, 0 out of order, and more than 1 % of them within a write."""
    total = dict.fromkeys(("trials", "torn"), 0)
    for batch in range(20):
        folder = tmp_path / str(batch)
        found = judge(folder, trials_of(scripts, folder, "single" if batch % 2 else "wide", 50))
        assert {name: found[name] for name in FAULTLESS} == FAULTLESS
        total = {name: total[name] + found[name] for name in total}
        for path in folder.rglob("*.jsonl"):
            path.unlink()
    print(total)
    assert total["torn"] >= total["trials"] // 100


@pytest.mark.long
def test_kill_9_of_two_hundred_groups(tmp_path, scripts):
    """G2: 200 kills of 2 to 4 writers into one run."""
    for batch in range(10):
        folder = tmp_path / str(batch)
        found = judge(folder, trials_of(scripts, folder, "group", 20))
        assert {name: found[name] for name in FAULTLESS} == FAULTLESS
        for path in folder.rglob("*.jsonl"):
            path.unlink()


def test_a_killed_writers_run_can_be_taken_up(store_dir, scripts, lab):
    """After kill -9 the run goes on under its id, in a segment of its own, and ends as it ends."""
    import ailab
    from ailab import queries

    (trial,) = trials_of(scripts, store_dir, "single", 1)
    before = sorted(Path(store_dir, "segments").iterdir())
    content = [path.read_bytes() for path in before]
    with ailab.start_run("again", id=trial["run"], resume="must") as run:
        run.log({"w0/0": -1.0}, step=-1)
    assert [path.read_bytes() for path in before] == content
    found = queries.get_run(lab(), trial["run"])
    assert (found.status, found.final_metrics["w0/0"]) == ("completed", -1.0)
    assert len(os.listdir(store_dir / "segments")) == len(before) + 1
