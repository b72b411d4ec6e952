"""A disk that stalls: the policy is one synchronous write a call, so a step waits for its own write, and for nothing else."""

from __future__ import annotations

import json
from pathlib import Path

from ailab import checkup

STALL_SECONDS = 2.0
SMALL_SECONDS = 1.0
"""What a call may take besides, on a machine that has other things to do."""

STALLED = """
import json, sys, threading, time
import bad_disk, unprotected
unprotected.apply()
disk = bad_disk.Disk()
import ailab

stalled = ailab.start_run("stalled", id="stalled")
other = ailab.start_run("other", id="other", nested=False)
for run in (stalled, other):
    run.log({"i": -1.0})
stalled._wait_for_capture(20)
times, stop = {"stalled": [], "other": [], "note": []}, threading.Event()


def timed(name, call):
    start = time.monotonic()
    call()
    times[name].append(time.monotonic() - start)


def train():
    while not stop.is_set():
        timed("other", lambda: other.log({"i": float(len(times["other"]))}))
        time.sleep(0.01)


thread = threading.Thread(target=train)
thread.start()
for i in range(10):
    if i in (3, 7):
        disk.only, disk.seconds = "_stalled", float(sys.argv[1])
    before = disk.writes_of("_stalled")
    timed("stalled", lambda: stalled.log({"i": float(i)}, step=i))
    assert disk.writes_of("_stalled") == before + 1, "a call is one write"
    disk.seconds = 0.0
disk.seconds = float(sys.argv[1])
timed("note", lambda: stalled.note("said"))
disk.seconds = 0.0
stop.set()
thread.join()
stalled.finish()
other.finish()
print(json.dumps(times))
"""


def stalled(scripts, **env):
    """Seconds that each call took: {"stalled", "other", "note"}; nothing is written by the clock, since writes are counted."""
    done = scripts.run(STALLED, STALL_SECONDS, AILAB_SYSTEM_METRICS="0", AILAB_CONSOLE="0", **env)
    assert done.stderr == ""
    times = json.loads(done.stdout)
    print({name: f"{len(each)} calls, the slowest {max(each):.2f} s" for name, each in times.items()})
    return times


def test_a_step_waits_for_its_own_write_and_no_longer(store_dir, scripts):
    """G23: of writes that take 2 s each call waits for one; steps before and behind, and another run's, are not held up."""
    times = stalled(scripts)
    slow = [n for n, seconds in enumerate(times["stalled"]) if seconds >= STALL_SECONDS]
    assert slow == [3, 7]
    assert max(times["stalled"] + times["note"]) < STALL_SECONDS + SMALL_SECONDS
    assert sorted(times["stalled"])[-3] < SMALL_SECONDS
    assert max(times["other"]) < SMALL_SECONDS
    assert len(times["other"]) > 100
    now = checkup.examine(str(store_dir))
    assert (now.healthy, now.runs, now.points_dropped) == (True, {"completed": 2}, 0)


def test_control_where_runs_share_a_lock_one_holds_up_the_other(store_dir, scripts):
    """G23, negative control: with one lock for all writers, another run's steps wait for the stalled write too."""
    assert max(stalled(scripts, UNPROTECTED="own_lock")["other"]) > STALL_SECONDS / 2


def test_the_policy_is_stated():
    """G23: the README says that training waits for its write."""
    text = " ".join((Path(__file__).resolve().parents[2] / "README.md").read_text().split())
    assert "a step waits for its own write" in text.partition("## Log from training code")[2].partition("## Ask")[0]
