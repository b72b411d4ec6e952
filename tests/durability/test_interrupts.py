"""Signals at any instruction, and every way a process can end: nothing broken, nothing lost, nothing swallowed, told rightly."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest
import unprotected

from ailab import checkup, journal, queries, store
from ailab.errors import DamageError

STORM = """
import json, os, random, signal, sys, time
import numpy as np
import unprotected
unprotected.apply()
import ailab
from ailab import journal

what, wanted, rotate, path = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "rotate", sys.argv[4]
if rotate:
    journal.SEGMENT_BYTES = 20_000


class Halt(Exception):
    pass


KIND = {"KeyboardInterrupt": KeyboardInterrupt, "TimeoutError": TimeoutError, "Halt": Halt, "ValueError": ValueError}[what]
raised = caught = inside = step = 0
acknowledged = []


def handler(number, frame):
    global raised, inside
    raised += 1
    while frame:
        if os.sep + "ailab" + os.sep in frame.f_code.co_filename:
            inside += 1
            break
        frame = frame.f_back
    raise KIND("from the handler")


signal.signal(signal.SIGALRM, handler)
run = ailab.start_run("storm", id="storm")
run._wait_for_capture(20)  # Python 3.11 hangs for ever where an interrupt meets an import that another thread is making
import hashlib
values = (lambda i: {"x": float(i)}, lambda i: {"x": np.float32(i)}, lambda i: {"x": float(i), "nan": float("nan")})


def arm():
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 3e-4), 1.0)


ignored = []
sys.unraisablehook = lambda told: ignored.append(repr(told.object))  # Python itself drops what is raised in a destructor


stop = time.monotonic() + 60 + wanted / 100  # on a machine that has other things to do
while caught < wanted and time.monotonic() < stop:
    try:
        arm()
        while True:
            step += 1
            run.log(values[step % 7 % 3](step), step=step)
            acknowledged.append(step)
    except KIND as problem:
        assert str(problem) == "from the handler", problem
        caught += 1
signal.setitimer(signal.ITIMER_REAL, 0)
run.log({"x": -1.0}, step=-1)
with open(path, "w") as file:
    json.dump({"raised": raised, "caught": caught, "inside": inside, "ignored": ignored, "acknowledged": acknowledged}, file)
run.finish()
"""


def points(store_dir, run_id):
    """Steps of a run's points in the order of its segments, each of which must be without any fault."""
    place = store.Store(str(store_dir))
    steps = []
    for name in place.segments_of_run(run_id):
        for line in journal.scan(place.segment_path(name), mode="strict"):
            if line.kind == "metrics.logged":
                steps.append(msgspec.json.decode(line.data)["step"])  # noqa: PERF401  (plainer than two clauses in one)
    return steps


def storm(scripts, store_dir, what, *, wanted, rotate, **env):
    result = store_dir.parent / "result.json"
    done = scripts.run(
        STORM, what, wanted, rotate, result, timeout=100 + wanted / 100, PYTHONWARNINGS="ignore::ResourceWarning", **env
    )
    found = json.loads(result.read_text())
    steps = points(store_dir, "storm")
    counts = {name: found[name] for name in ("raised", "caught", "inside", "ignored")}
    print(what, counts, len(steps), "points", len(found["acknowledged"]), "acknowledged")
    assert done.stderr == ""
    assert found["caught"] == wanted
    assert found["raised"] == wanted + len(found["ignored"])
    assert len(found["ignored"]) < wanted / 100
    assert found["inside"] > wanted // 2
    assert len(steps) == len(set(steps))
    assert set(found["acknowledged"]) <= set(steps)
    assert steps == [*sorted(steps[:-1]), -1]


@pytest.mark.parametrize("rotate", ["one segment", "rotate"])
def test_ctrl_c_at_any_instruction_breaks_nothing(store_dir, scripts, rotate):
    """3,000 times: no broken chain, no gap, no seq twice, every acknowledged point once, also while segments are changed."""
    storm(scripts, store_dir, "KeyboardInterrupt", wanted=3000, rotate=rotate)


@pytest.mark.parametrize("what", ["TimeoutError", "ValueError", "Halt"])
def test_what_a_handler_raises_inside_log_reaches_the_caller(store_dir, scripts, what):
    """1,500 times: a time limit or an exception of the caller's own is never swallowed, and nothing breaks."""
    storm(scripts, store_dir, what, wanted=1500, rotate="rotate")


@pytest.mark.long
@pytest.mark.parametrize("what", ["KeyboardInterrupt", "TimeoutError", "ValueError"])
def test_interrupted_thirty_thousand_times(store_dir, scripts, what):
    storm(scripts, store_dir, what, wanted=30_000, rotate="rotate")


def test_control_a_writer_that_trusts_its_memory_is_found_to_break(store_dir, scripts):
    """Negative control: where a writer does not read its file after an interrupt, they break the chain of lines."""
    with pytest.raises(DamageError, match=r"duplicate|gap"):
        storm(scripts, store_dir, "KeyboardInterrupt", wanted=1500, rotate="one segment", UNPROTECTED="dirty")


def test_a_handler_that_logs_itself_loses_and_breaks_nothing(store_dir, scripts, lab):
    """A handler that calls log() and note() within log() and log_params(): all points once, all notes, also behind kill -9."""
    done = scripts.run(
        """
        import os, random, signal, time
        import numpy as np
        import ailab
        from ailab import journal

        journal.SEGMENT_BYTES = 50_000
        run = ailab.start_run("nested", id="nested")
        handled = 0

        def handler(number, frame):
            global handled
            run.log({"handler": float(handled)}, step=handled)
            if handled % 10 == 0:
                run.note(f"note {handled}")
            handled += 1
            if handled < 2000:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 2e-4))

        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 1e-4)
        i = 0
        while handled < 2000:
            run.log({"main": float(i) if i % 3 else np.float32(i)}, step=i)
            if i % 50 == 0:
                run.log_params({"p": i})
            i += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        run.log({"main": float(i)}, step=i)
        print(i + 1, handled, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        code=-signal.SIGKILL,
    )
    main, handled = map(int, done.stdout.split())
    points(store_dir, "nested")
    catalogue = lab()
    assert catalogue.problems == []
    counts = catalogue.con.execute(
        "SELECT key, count(*), count(DISTINCT step), min(step), max(step), count(*) FILTER (value <> step) FROM metrics "
        "GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert counts == [("handler", handled, handled, 0, handled - 1, 0), ("main", main, main, 0, main - 1, 0)]
    notes = catalogue.con.execute("SELECT note FROM notes ORDER BY CAST(note[6:] AS INT)").fetchall()
    assert notes == [(f"note {i}",) for i in range(0, handled, 10)]


def test_the_last_thing_a_handler_logs_does_not_wait_for_another_call(store_dir, scripts):
    """What a handler has logged in the middle of note() is in the file when note() has returned."""
    scripts.run(
        """
        import os, signal
        import ailab
        from ailab import journal

        run = ailab.start_run("nested", id="nested")
        real = journal.Writer._put_bytes

        def put_bytes(self, fd, data):
            real(self, fd, data)
            journal.Writer._put_bytes = real
            signal.raise_signal(signal.SIGUSR1)

        signal.signal(signal.SIGUSR1, lambda *_: run.log({"a": 1.0}, step=7))
        journal.Writer._put_bytes = put_bytes
        run.note("interrupted")
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        code=-signal.SIGKILL,
    )
    assert points(store_dir, "nested") == [7]


# -- endings -----------------------------------------------------------------------------------------------------------

WAIT = """
run._wait_for_capture(20)  # an early signal would have to wait for it
print("ready", flush=True)
while True:
    run.log({"a": 1.0})
    time.sleep(1e-3)
"""

SLEEP = """
with ailab.start_run() as run:
    run._wait_for_capture(20)
    print("ready", flush=True)
    time.sleep(60)
"""
EXITS = "signal.signal(signal.SIGTERM, lambda *_: (print('mine', flush=True), sys.exit({code})))\n"
RETURNS = """
seen = []
signal.signal(signal.SIGTERM, lambda *_: (print("mine", flush=True), seen.append(1)))
run = ailab.init()
print("ready", flush=True)
while not seen:
    run.log({"a": 1.0})
    time.sleep(1e-3)
run.log({"a": 3.0})
"""
IGNORES = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
run = ailab.init()
print("ready", flush=True)
time.sleep(0.5)
run.log({"a": 3.0})
"""
LATER = "run = ailab.init()\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(4))\n" + WAIT
CAUGHT = "run = ailab.init()\ntry: sys.exit(3)\nexcept SystemExit: pass\nrun.log({'a': 2.0})"
SEGFAULT = "import ctypes\nrun = ailab.init()\nrun.log({'a': 1.0})\nctypes.string_at(0)"
MEMORY = """
import resource
run = ailab.init()
run._wait_for_capture(20)
run.log({"a": 1.0})
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
held = bytearray(1 << 34)
"""
KILLED = "run = ailab.init()\nrun.log({'a': 1.0})\nos.kill(os.getpid(), signal.SIGKILL)  # as the kernel does, out of memory"
SECRET = "run = ailab.init()\nraise RuntimeError('password=hunter2222 is wrong')"
INIT = "run = ailab.init()\n"
BLOCK = "with ailab.start_run() as run: "
TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP

ENDINGS = {
    # name: (source, signal, exit code, status, error, on standard error)
    "normal": (INIT, None, 0, "completed", None, ""),
    "with": (BLOCK + "pass", None, 0, "completed", None, ""),
    "exception": (BLOCK + "1 / 0", None, 1, "failed", "ZeroDivisionError", "ZeroDivisionError"),
    "exception without a block": (INIT + "1 / 0", None, 1, "failed", "ZeroDivisionError", "ZeroDivisionError"),
    "secret": (SECRET, None, 1, "failed", "RuntimeError", "hunter2222"),
    "sys.exit(0)": (BLOCK + "sys.exit(0)", None, 0, "completed", None, ""),
    "sys.exit(3)": (BLOCK + "sys.exit(3)", None, 3, "failed", "SystemExit: 3", ""),
    "sys.exit(0) without a block": (INIT + "sys.exit(0)", None, 0, "completed", None, ""),
    "sys.exit(3) without a block": (INIT + "sys.exit(3)", None, 3, "failed", "SystemExit: 3", ""),
    "sys.exit(3) caught": (CAUGHT, None, 0, "completed", None, ""),
    "os._exit": (INIT + "run.log({'a': 1.0})\nos._exit(0)", None, 0, "crashed", None, ""),
    "segmentation fault": (SEGFAULT, None, -11, "crashed", None, ""),
    "out of memory": (MEMORY, None, 1, "failed", "MemoryError", "MemoryError"),
    "killed for memory": (KILLED, None, -9, "crashed", None, ""),
    "SIGTERM": (INIT + WAIT, TERM, -15, "killed", "SIGTERM", ""),
    "SIGTERM in a block": (SLEEP, TERM, -15, "killed", "SIGTERM", ""),
    "SIGINT": (SLEEP, INT, -2, "killed", "KeyboardInterrupt", "KeyboardInterrupt"),
    "SIGINT without a block": (INIT + WAIT, INT, -2, "killed", "KeyboardInterrupt", "KeyboardInterrupt"),
    "SIGTERM with a handler that exits": (EXITS.format(code=5) + INIT + WAIT, TERM, 5, "killed", "SIGTERM", ""),
    "SIGTERM in a block with a handler that exits": (EXITS.format(code=0) + SLEEP, TERM, 0, "killed", "SIGTERM", ""),
    "SIGTERM with a handler that returns": (RETURNS, TERM, 0, "completed", None, ""),
    "SIGTERM ignored": (IGNORES, TERM, 0, "completed", None, ""),
    "SIGTERM with a handler set later": (LATER, TERM, 4, "failed", "SystemExit: 4", ""),
    "SIGHUP": (INIT + WAIT, HUP, -1, "crashed", None, ""),
}


def test_every_way_to_end_is_told_rightly(store_dir, scripts, lab):
    """G17: the exit code is what it would be without ailab, and within a second the run's status says what happened."""
    store.open_store(str(store_dir), create=True)
    catalogue, processes = lab(), {}
    for number, (name, (source, *_)) in enumerate(ENDINGS.items()):
        header = f"import os, signal, sys, time\nos.environ['AILAB_RUN_ID'] = 'end-{number}'\nimport ailab\n"
        processes[name] = scripts.start(header + source)
    for name, (_, number_of_signal, *_) in ENDINGS.items():
        if number_of_signal is not None:
            assert processes[name].stdout.readline() == "ready\n"
            time.sleep(0.02)
            processes[name].send_signal(number_of_signal)
    seen = {}
    for name, process in processes.items():
        out, err = process.communicate(timeout=60)
        seen[name] = (process.returncode, "mine" in out, err)
    start = time.monotonic()
    catalogue.refresh()
    statuses = Counter(status for *_, status, _, _ in ENDINGS.values())
    assert Counter(row.status for row in queries.list_runs(catalogue).rows) == statuses
    seconds = time.monotonic() - start
    print(f"{len(ENDINGS)} endings, told {seconds:.2f} s after the last")
    assert seconds < 1
    assert catalogue.problems == []
    assert checkup.examine(str(store_dir)).runs == statuses
    wrong = {}
    for number, (name, (_, _, code, status, in_error, on_stderr)) in enumerate(ENDINGS.items()):
        run = queries.get_run(catalogue, f"end-{number}")
        returned, _, err = seen[name]
        told = (
            returned,
            run.status,
            (in_error is None and run.error is None) or (in_error or "") in (run.error or ""),
            on_stderr in err,
        )
        if told != (code, status, True, True) or "ailab:" in err:
            wrong[name] = (told, (run.error or "")[-300:], err[-1500:])
        assert "hunter2222" not in (run.error or "")
    assert not wrong, json.dumps(wrong, indent=1)
    assert {name for name, (_, mine, _) in seen.items() if mine} == {n for n in ENDINGS if "with a handler that" in n}


def test_sigterm_in_the_middle_of_log_loses_nothing(store_dir, scripts, lab):
    """12 times at a random moment: killed, every acknowledged point there, no fault in the journal."""
    done = scripts.run(
        """
        import json, os, random, signal, struct, time
        import ailab

        for trial in range(12):
            acks = f"acks-{trial}"
            child = os.fork()
            if child == 0:
                run = ailab.init(id=f"term-{trial}")
                if trial % 4:
                    run._wait_for_capture(20)
                ack = os.open(acks, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
                i = 0
                while True:
                    run.log({"x": float(i)} if i % 2 else {"x": float("nan")}, step=i)
                    os.write(ack, b"x")
                    i += 1
            while not os.path.exists(acks) or not os.path.getsize(acks):
                time.sleep(0.001)
            time.sleep(random.random() * 0.05)
            os.kill(child, signal.SIGTERM)
            _, status = os.waitpid(child, 0)
            print(json.dumps([f"term-{trial}", os.path.getsize(acks), status]))
        """
    )
    told = [line for line in done.stderr.splitlines() if "were not captured within 1 s" not in line]
    assert told == []  # the handler waits a second for the capture, which waits for the call that the handler has interrupted
    catalogue = lab()
    for line in done.stdout.splitlines():
        run_id, acked, status = json.loads(line)
        assert status == signal.SIGTERM
        steps = points(store_dir, run_id)
        assert steps == list(range(len(steps)))
        assert acked <= len(steps) <= acked + 1
        assert queries.get_run(catalogue, run_id).status == "killed"


def test_a_stopped_process_goes_on_and_ends_as_it_ends(store_dir, scripts, lab):
    """G17: SIGSTOP is no end, however long: the run is running meanwhile, and completed afterwards."""
    process = scripts.start(
        """
        import sys, ailab
        with ailab.init(id="stopped") as run:
            print("ready", flush=True)
            for i, line in enumerate(sys.stdin):
                run.log({"a": float(i)})
        """
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGSTOP)
    (path,) = Path(store_dir, "segments").iterdir()
    an_hour_ago = time.time() - 3600
    os.utime(path, (an_hour_ago, an_hour_ago))  # it has said nothing since
    assert queries.get_run(lab(), "stopped").status == "running"
    assert checkup.examine(str(store_dir)).runs == {"running": 1}
    process.send_signal(signal.SIGCONT)
    process.communicate("a\nb\n", timeout=30)
    found = queries.get_run(lab(), "stopped")
    assert (found.status, found.final_metrics) == ("completed", {"a": 1.0})


ALIVE = """
import sys
import wrong_clock
if sys.argv[1:]:
    wrong_clock.be_host(sys.argv[1])
import ailab
run = ailab.init(id="gone")
run._wait_for_capture(20)
run.log({"a": 1.0})
print("ready", flush=True)
sys.stdin.read()
"""


def killed(scripts, *args):
    process = scripts.start(ALIVE, *args)
    assert process.stdout.readline() == "ready\n"
    yield
    process.kill()
    process.wait()
    yield


def test_a_killed_run_is_crashed_within_a_second(store_dir, scripts, lab):
    """G17: on the same host nobody waits for a heartbeat that will not come; its end is its last sign of life."""
    process = killed(scripts)
    next(process)
    catalogue = lab()
    assert queries.get_run(catalogue, "gone").status == "running"
    next(process)
    start = time.monotonic()
    catalogue.refresh()
    found = queries.get_run(catalogue, "gone")
    print(f"told after {time.monotonic() - start:.3f} s")
    assert time.monotonic() - start < 1
    assert (found.status, found.final_metrics) == ("crashed", {"a": 1.0})
    assert found.ended_at >= found.started_at


def test_control_without_the_host_a_killed_run_goes_on_for_ever(store_dir, scripts, lab, monkeypatch):
    """G17, negative control: where a reader does not see that the writer was on its own host, the dead run is still running."""
    process = killed(scripts)
    next(process)
    unprotected.apply("same_host", monkeypatch.setattr)
    next(process)
    assert queries.get_run(lab(), "gone").status == "running"


def test_a_run_of_a_host_that_is_gone_is_crashed_after_a_minute(store_dir, scripts, lab):
    """G17: of another host there is only silence: running until 60 s after the last sign, crashed from then on."""
    process = killed(scripts, "elsewhere")
    next(process)
    next(process)
    (path,) = Path(store_dir, "segments").iterdir()
    for quiet, status in ((0, "running"), (55, "running"), (61, "crashed"), (86_400, "crashed")):
        then = time.time() - quiet
        os.utime(path, (then, then))
        found = queries.get_run(lab(), "gone")
        assert (quiet, found.status, found.final_metrics) == (quiet, status, {"a": 1.0})
        assert checkup.examine(str(store_dir)).runs == {status: 1}
