"""Power loss behind every operation of a process: what may be left is a clean prefix per writer, and with `durable` all of it."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from pathlib import Path

import power
import pytest

from ailab import checkup, journal, store
from ailab.errors import StoreError

TRACE = """
import os, sys
import power, unprotected
unprotected.apply()
durable, count, out = sys.argv[1] == "durable", int(sys.argv[2]), sys.argv[3]
import ailab
from ailab import journal, recorder

journal.SEGMENT_BYTES = 12_000
recorder._capture = lambda *_: None  # the same every time, and on the same thread
disk = power.Recorder(os.environ["AILAB_DIR"])
runs = [ailab.start_run("x", id=f"r{n}", durable=durable, nested=False) for n in range(2)]
for i in range(count // 2):
    for n, run in enumerate(runs):
        run.log({"i": i}, step=i)
        disk.acknowledge([run.id, i])
    if i == count // 4:
        runs[0].log_text("kept", "a.txt")
        runs[1].note("half")
    if i == count // 3:
        for run in runs:
            run._writer.sync()
            disk.acknowledge([run.id, i, "safe"])
for run in runs:
    run.finish()
    disk.acknowledge([run.id, count // 2 - 1, "safe"])
disk.save(out)
"""


@pytest.fixture
def quick_dir(tmp_path):
    """A folder in memory where there is such a place."""
    folder = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else tmp_path)
    yield Path(folder)
    shutil.rmtree(folder)


def traced(scripts, folder, mode, *, count=200, **env):
    """The trace of two runs with `count` events, and all that each of them wrote, in order."""
    place = folder / "store"
    shutil.rmtree(place, ignore_errors=True)
    done = scripts.run(TRACE, mode, count, folder / "trace.json", AILAB_DIR=str(place), **env)
    assert done.stderr == ""
    trace = json.loads((folder / "trace.json").read_text())
    whole = read(place)
    assert sum(kind == "metrics.logged" for lines in whole.values() for _, kind, _ in lines) == count // 2 * 2
    if not env:
        assert {operation[0] for operation in trace} >= {"create", "write", "flush", "flush folder", "rename", "acknowledged"}
    return trace, whole


def read(place):
    """{run: [(segment, kind, data)]} in the order of each run's segments, by salvage; what is refused as a store has nothing."""
    found = {}
    try:
        names = store.open_store(str(place), create=False).segment_names()
    except StoreError:
        return found
    for name in names:
        for line in journal.scan(str(place / "segments" / f"{name}.jsonl"), mode="salvage"):
            if not line.kind.startswith("segment."):
                found.setdefault(name.split("_")[4], []).append((name, line.kind, bytes(line.data)))
    return found


FAULTS = ("no prefix", "acknowledged and lost", "safe and lost", "healthy in spite of a hole", "wrong values")


def lose_power(folder, trace, whole, seed, *, durable, step, holes=False):
    """Rebuild what may be left and judge it; how often what went wrong."""
    target, found = folder / "left", {"operations": len(trace), "states": 0, "events lost at most": 0, **dict.fromkeys(FAULTS, 0)}
    first = ""
    for state in power.states(trace, random.Random(seed), step=step, holes=holes):
        found["states"] += 1
        state.disk.build(str(folder / "store"), target, gone=state.gone, contents=state.contents)
        left, before = read(target), dict(found)
        for run, lines in whole.items():
            given = left.get(run, [])
            if holes:
                found["wrong values"] += not set(given) <= set(lines)
            else:
                found["no prefix"] += given != lines[: len(given)]
            points = sum(kind == "metrics.logged" for _, kind, _ in given)
            answered = [each for each in state.disk.acknowledged if each[0] == run]
            acked = max((each[1] + 1 for each in answered), default=0)
            safe = max((each[1] + 1 for each in answered if len(each) > 2), default=0)
            if not holes:
                found["acknowledged and lost"] += durable and points < acked
                found["safe and lost"] += points < safe
                found["events lost at most"] = max(found["events lost at most"], acked - points)
        if holes:
            said = [each for each in checkup.examine(str(target)).findings if each.level != "ok" and str(target) in each.where]
            state.disk.build(str(folder / "store"), target, gone=frozenset(), contents={})
            found["healthy in spite of a hole"] += not said and read(target) != left
        if any(found[fault] > before[fault] for fault in FAULTS):
            first = first or state.what
    print(found, first)
    return found


def check(found):
    assert {name: found[name] for name in FAULTS} == dict.fromkeys(FAULTS, 0)


@pytest.mark.parametrize("mode", ["default", "durable"])
def test_power_loss_leaves_a_clean_prefix_and_with_durable_all_of_it(quick_dir, scripts, seed, mode):
    """G16, short: 200 events of two runs over several segments; power is lost behind every third operation."""
    trace, whole = traced(scripts, quick_dir, mode)
    check(lose_power(quick_dir, trace, whole, seed, durable=mode == "durable", step=3))


@pytest.mark.long
@pytest.mark.parametrize("mode", ["default", "durable"])
def test_power_loss_behind_every_operation_of_two_hundred_events(quick_dir, scripts, seed, mode):
    """G16: the same behind every operation, with three choices of what was not safe."""
    trace, whole = traced(scripts, quick_dir, mode)
    for n in range(3):
        check(lose_power(quick_dir, trace, whole, seed + n, durable=mode == "durable", step=1))


def test_a_hole_in_what_was_not_flushed_is_named(quick_dir, scripts, seed):
    """G16: zeros in front of newer bytes, worse than an append may leave: no wrong value, and the doctor says what is missing."""
    trace, whole = traced(scripts, quick_dir, "default", count=60)
    check(lose_power(quick_dir, trace, whole, seed, durable=False, step=2, holes=True))


@pytest.mark.parametrize("switch", ["flush", "folder_flush"])
def test_control_without_flushes_acknowledged_events_are_lost(quick_dir, scripts, seed, switch):
    """G16, negative control: where `durable` flushes no bytes, or no names, the same power losses cost what was acknowledged."""
    trace, whole = traced(scripts, quick_dir, "durable", count=20, UNPROTECTED=switch)
    assert lose_power(quick_dir, trace, whole, seed, durable=True, step=5)["acknowledged and lost"] > 0
