"""After a fork the child writes a segment of its own: nothing lost, nothing mixed, no deadlock, and no run ended by a child."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from ailab import journal, queries, store
from ailab.errors import DamageError

LIMIT_SECONDS = 10
"""A child that is not done by then hangs."""


def segments(store_dir, run_id):
    """{segment: (pid in its header, what it was forked from, points by key)}; every segment must be without fault."""
    place = store.Store(str(store_dir))
    found = {}
    for name in place.segments_of_run(run_id):
        points = Counter()
        pid = forked_from = None
        for line in journal.scan(place.segment_path(name), mode="strict"):
            data = msgspec.json.decode(line.data)
            if line.kind == "segment.opened":
                pid, forked_from = data["pid"], data.get("forked_from")
            if line.kind == "metrics.logged":
                points.update(data["values"].keys())
        found[name] = (pid, forked_from, dict(points))
    return found


def counts(lab, run_id):
    rows = lab.con.execute(
        "SELECT key, count(*), count(DISTINCT step) FROM metrics WHERE run_id = ? GROUP BY 1 ORDER BY 1", [run_id]
    ).fetchall()
    assert all(points == steps for _, points, steps in rows)
    return {key: points for key, points, _ in rows}


def finished(store_dir, run_id):
    """The pids whose segments say that the run ended."""
    place = store.Store(str(store_dir))
    pids = []
    for name in place.segments_of_run(run_id):
        lines = list(journal.scan(place.segment_path(name)))
        pids += [msgspec.json.decode(lines[0].data)["pid"]] * sum(line.kind == "run.finished" for line in lines)
    return pids


def kinds(store_dir, run_id):
    """How many events of each kind a run has."""
    place = store.Store(str(store_dir))
    return Counter(line.kind for name in place.segments_of_run(run_id) for line in journal.scan(place.segment_path(name)))


def test_a_forked_child_writes_a_segment_of_its_own(store_dir, scripts, lab):
    """G12: parent and children log into one run at once: each file has one writer, every point is there, the origin is named."""
    done = scripts.run(
        """
        import os, ailab
        run = ailab.start_run("fork", id="fork")
        for i in range(100):
            run.log({"before": i}, step=i)
        pids = []
        for child in range(3):
            pid = os.fork()
            if pid == 0:
                for i in range(200):
                    run.log({f"child{child}": i}, step=i)
                if os.fork() == 0:
                    for i in range(50):
                        run.log({f"grandchild{child}": i}, step=i)
                    os._exit(0)
                os.wait()
                os._exit(0)
            pids.append(pid)
        for i in range(300):
            run.log({"parent": i}, step=i)
        for pid in pids:
            os.waitpid(pid, 0)
        run.finish()
        print(os.getpid())
        """,
        timeout=LIMIT_SECONDS * 3,
    )
    parent = int(done.stdout)
    found = segments(store_dir, "fork")
    assert sorted(points for _, _, points in found.values() if "parent" in points) == [{"before": 100, "parent": 300}]
    assert len({pid for pid, *_ in found.values()}) == len(found) == 7
    (origin,) = (name for name, (pid, *_) in found.items() if pid == parent)
    assert [forked_from for name, (_, forked_from, points) in found.items() if next(iter(points)).startswith("child")] == [
        origin
    ] * 3
    catalogue = lab()
    assert catalogue.problems == []
    expected = {f"child{n}": 200 for n in range(3)} | {f"grandchild{n}": 50 for n in range(3)} | {"before": 100, "parent": 300}
    assert counts(catalogue, "fork") == expected
    assert queries.get_run(catalogue, "fork").status == "completed"


@pytest.mark.parametrize(
    "leave", ["os._exit(0)", "sys.exit(0)", "sys.exit(3)", "raise RuntimeError('child')", "os.abort()", "pass"]
)
@pytest.mark.parametrize("block", ["with", "init"])
def test_however_a_child_leaves_the_parents_run_goes_on(store_dir, scripts, leave, block):
    """G12: only the process that started the run ends it, once, as it ends itself; the child's points are there."""
    body = f"""
    pid = os.fork()
    if pid == 0:
        run.log({{"child": 1.0}}, step=1)
        {leave}
    else:
        os.waitpid(pid, 0)
        run.log({{"parent": 1.0}}, step=1)
        print(os.getpid())
"""
    head = "import os, sys, ailab\n"
    source = head + (
        f"with ailab.start_run('x', id='r') as run:{body}" if block == "with" else f"run = ailab.init(id='r')\nif True:{body}"
    )
    done = scripts.run(source, timeout=LIMIT_SECONDS * 3)
    assert finished(store_dir, "r") == [int(done.stdout)]
    assert sorted(next(iter(points)) for _, _, points in segments(store_dir, "r").values()) == ["child", "parent"]


POOL = """
import multiprocessing, os, sys
import ailab


def work(number, run_id):
    if multiprocessing.get_start_method() == "fork":
        run = ailab.active_run()
    else:
        run = ailab.start_run("worker", id=run_id, resume="must")
    for i in range(100):
        run.log({f"w{number}": i}, step=i)
    return run.id


if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    with ailab.start_run("pool", id="pool") as run:
        with multiprocessing.Pool(2) as pool:
            pending = [pool.apply_async(work, (n, run.id)) for n in range(4)]
            for i in range(200):
                run.log({"parent": i}, step=i)
            assert [p.get(20) for p in pending] == ["pool"] * 4
            pool.close()
            pool.join()
        run.log({"last": 1.0}, step=1)
    print(os.getpid())
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_a_pool_log_into_the_parents_run(store_dir, scripts, lab, method):
    """G12: however multiprocessing starts them: every point there, own segments, and the run is completed by its parent."""
    done = scripts.run(POOL, method, timeout=LIMIT_SECONDS * 6)
    assert done.stderr == ""
    found = segments(store_dir, "pool")
    assert [points for pid, _, points in found.values() if pid == int(done.stdout)] == [{"parent": 200, "last": 1}]
    catalogue = lab()
    assert catalogue.problems == []
    assert counts(catalogue, "pool") == {"w0": 100, "w1": 100, "w2": 100, "w3": 100, "parent": 200, "last": 1}
    assert queries.get_run(catalogue, "pool").status == "completed"


FORK_STORM = """
import json, os, signal, sys, threading, time
import unprotected
unprotected.apply()
import ailab
from ailab import journal

journal.SEGMENT_BYTES = 100_000  # so that forks fall between two segments too
trials, patience = int(sys.argv[1]), int(sys.argv[2])
run = ailab.start_run("storm", id="storm")
stop, logged = threading.Event(), [0, 0]


def work(number):
    while not stop.is_set():
        if number:
            run.log({"t1": float("nan")}, step=logged[1])
        else:
            run.log({"t0": 1.0}, step=logged[0])
        logged[number] += 1


threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
for thread in threads:
    thread.start()
hung = 0
for trial in range(trials):
    child = os.fork()
    if child == 0:
        signal.alarm(patience)  # kills the child if it hangs
        for i in range(3):
            run.log({"child": float(i)}, step=trial * 3 + i)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    hung += status != 0
stop.set()
for thread in threads:
    thread.join()
run.finish()
print(json.dumps({"hung": hung, "logged": logged}))
"""


def fork_storm(store_dir, scripts, trials):
    done = scripts.run(FORK_STORM, trials, LIMIT_SECONDS, timeout=60 + trials)
    told = json.loads(done.stdout)
    print(trials, "forks,", told["hung"], "hung,", told["logged"], "points of two threads meanwhile")
    assert told["hung"] == 0
    found = segments(store_dir, "storm")
    total = Counter()
    for _, _, points in found.values():
        total.update(points)
    assert total == {"t0": told["logged"][0], "t1": told["logged"][1], "child": 3 * trials}
    assert len(found) > trials + 10  # the parent's are many


def test_a_fork_while_other_threads_are_inside_log(store_dir, scripts):
    """G12, short: 60 forks while two threads log all the time: no deadlock, no child in its parent's file, no point lost."""
    fork_storm(store_dir, scripts, 60)


@pytest.mark.long
def test_five_hundred_forks_while_other_threads_are_inside_log(store_dir, scripts):
    """G12: 500 forks."""
    fork_storm(store_dir, scripts, 500)


def test_control_without_the_fork_hook_children_write_into_their_parents_file(store_dir, scripts):
    """G12, negative control: where a child keeps segment, seq and lock, it hangs or breaks its parent's file."""
    done = scripts.run(FORK_STORM, 3, 1, UNPROTECTED="fork")
    hung = json.loads(done.stdout)["hung"]
    print(hung, "of 3 hung")
    if not hung:
        with pytest.raises(DamageError):
            segments(store_dir, "storm")


def test_what_a_child_says_counts_after_what_was_said_before_the_fork(store_dir, scripts, lab):
    """The child's clock goes on from its parent's, so its note and its points are the later ones."""
    scripts.run(
        """
        import os, ailab
        with ailab.start_run("clock", id="clock") as run:
            for i in range(300):
                run.log({"a": float(i)})
            run.note("parent")
            if os.fork() == 0:
                run.log({"a": -1.0})
                run.note("child")
                os._exit(0)
            os.wait()
        """
    )
    found = queries.get_run(lab(), "clock")
    assert (found.note, found.final_metrics, found.status) == ("child", {"a": -1.0}, "completed")


def test_a_child_may_start_runs_of_its_own(store_dir, scripts, lab):
    """Its run is whole, with environment and end, and a child of the run that was open when it was forked."""
    done = scripts.run(
        """
        import os, ailab
        with ailab.start_run("outer", id="outer") as run:
            if os.fork() == 0:
                with ailab.start_run("inner", id="inner") as inner:
                    ailab.log({"a": 1.0})
                os._exit(0)
            os.wait()
        """,
        timeout=LIMIT_SECONDS * 3,
    )
    assert done.stderr == ""
    catalogue = lab()
    inner, outer = (queries.get_run(catalogue, run_id) for run_id in ("inner", "outer"))
    assert (inner.status, inner.parent_run_id, inner.final_metrics) == ("completed", "outer", {"a": 1.0})
    assert (outer.status, outer.final_metrics) == ("completed", {})
    assert inner.python_version is not None


def test_a_script_that_becomes_a_daemon_keeps_its_run(store_dir, scripts, lab, tmp_path):
    """The process that started the run is gone; the one that goes on ends it."""
    scripts.run(
        """
        import os, time, ailab
        with ailab.start_run("daemon", id="daemon") as run:
            parent = os.getpid()
            if os.fork():
                os._exit(0)
            while os.getppid() == parent:
                time.sleep(0.01)
            run.log({"a": 1.0})
        open("done", "w").close()
        """,
        cwd=tmp_path,
    )
    for _ in range(500):
        if Path(tmp_path, "done").exists():
            break
        time.sleep(0.01)
    found = queries.get_run(lab(), "daemon")
    assert (found.status, found.final_metrics) == ("completed", {"a": 1.0})


def test_a_childs_subprocess_does_not_keep_a_dead_run_alive(store_dir, scripts, lab):
    """A program started from the script inherits no descriptor of the segment: kill -9 of the script is seen at once."""
    process = scripts.start(
        """
        import subprocess, sys, ailab
        run = ailab.start_run("x", id="gone")
        run.log({"a": 1.0})
        other = subprocess.Popen(["sleep", "20"], close_fds=False)
        print(other.pid, flush=True)
        sys.stdin.read()
        """
    )
    other = int(process.stdout.readline())
    process.kill()
    process.wait()
    assert queries.get_run(lab(), "gone").status == "crashed"
    os.kill(other, 0)  # it lives, and was no help
    os.kill(other, signal.SIGKILL)


# -- what other threads are at -------------------------------------------------------------------------------------------

IN_AN_IMPORT = """
import os, signal, sys, time
import unprotected
unprotected.apply()
import ailab

# the capture imports the module git; this one is there at once in all processes but this one
with open("git.py", "w") as file:
    file.write(f'''if True:
        import os, time
        while os.getpid() == {os.getpid()} and not os.path.exists("go"):
            open("begun", "w").close()
            time.sleep(0.01)
    ''')
sys.path.insert(0, os.getcwd())
run = ailab.start_run("parent", id="parent", silent=True)
while not os.path.exists("begun"):
    time.sleep(0.01)
print("forks", flush=True)
hung = 0
for trial in range(int(sys.argv[1])):
    child = os.fork()
    if child == 0:
        signal.alarm(int(sys.argv[2]))  # kills the child if it hangs
        import git
        if not trial:
            with ailab.start_run("child", id="child", nested=False, silent=True):
                pass
        os._exit(0)
    _, status = os.waitpid(child, 0)
    hung += status != 0
assert run._captured.is_alive()
open("go", "w").close()
run.finish()
print(hung)
"""


def test_a_fork_does_not_wait_for_an_import_and_its_child_imports_the_same(store_dir, scripts, lab, tmp_path):
    """However long the capture needs for a module: no child waits for it, and parent and child both have their code."""
    done = scripts.run(IN_AN_IMPORT, 20, LIMIT_SECONDS, cwd=tmp_path, timeout=LIMIT_SECONDS * 6)
    assert (done.stdout, done.stderr) == ("forks\n0\n", "")
    catalogue = lab()
    for run_id in ("parent", "child"):
        found = queries.get_run(catalogue, run_id)
        assert (found.status, found.python_version is not None) == ("completed", True)
        assert kinds(store_dir, run_id)["code.captured"] == 1


def test_control_a_child_that_keeps_half_imported_modules_hangs(store_dir, scripts, tmp_path):
    """G12, negative control: Python's own lock of the module is held for ever."""
    done = scripts.run(IN_AN_IMPORT, 2, 2, cwd=tmp_path, UNPROTECTED="half_imported")
    assert done.stdout == "forks\n2\n"


def test_control_a_fork_that_waits_for_an_import_does_not_come(store_dir, scripts, tmp_path):
    """G12, negative control: with all the time there is, the first fork waits for what its own script has to end."""
    process = scripts.start(IN_AN_IMPORT, 1, LIMIT_SECONDS, cwd=tmp_path, UNPROTECTED="short_wait")
    assert process.stdout.readline() == "forks\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(3)


STARTING_GIT = """
import os, signal, sys, threading
import unprotected
unprotected.apply()
import ailab
from ailab import forks

if not os.environ.get("UNPROTECTED"):
    forks.WAIT_SECONDS = 30.0  # on a busy machine too, what is tried here is what is done within it
pipe, starts, forked = os.pipe, threading.Event(), threading.Event()


def slow_pipe():
    ends = pipe()
    if threading.current_thread().name == "ailab-capture":
        starts.set()
        forked.wait(0.1)
    return ends


os.pipe = slow_pipe
run = ailab.start_run("pipes", id="pipes", silent=True)
starts.wait()
worker = os.fork()
if worker == 0:  # as of a data loader: it lives on, with all that it inherited
    signal.pause()
forked.set()
run._captured.join(float(sys.argv[1]))
print(run._captured.is_alive())
os.kill(worker, signal.SIGKILL)
os.waitpid(worker, 0)
run.finish()
"""


def test_a_child_does_not_keep_the_pipes_of_a_program_that_was_being_started(store_dir, scripts):
    """Whoever starts a program waits for the end of a pipe, which does not come while a forked child has it too."""
    assert scripts.run(STARTING_GIT, 30).stdout == "False\n"


def test_control_a_fork_that_waits_for_nothing_holds_up_the_capture(store_dir, scripts):
    """G12, negative control: git has ended, and its answer does not for as long as the child lives."""
    assert scripts.run(STARTING_GIT, 2, UNPROTECTED="undivided").stdout == "True\n"


BEHIND_GIT = """
import os, stat, sys, time
import ailab
run = ailab.start_run("slow", id="slow", silent=True)
while not os.path.exists("asked"):
    time.sleep(0.01)
workers = []
for _ in range(20):
    workers.append(os.fork())
    if not workers[-1]:
        while not os.path.exists("stop"):
            time.sleep(0.01)
        os._exit(0)
open("go", "w").close()
run._captured.join()
open("stop", "w").close()
for worker in workers:
    assert os.waitpid(worker, 0)[1] == 0
run.finish()
"""


def test_forks_do_not_wait_for_git(store_dir, scripts, tmp_path):
    """A large repository on a slow disk: git needs long, and nobody waits for it but the capture, which has its answer then."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    real = shutil.which("git")
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text(f"""#!/bin/sh
        case "$*" in *status*) : > {tmp_path}/asked; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done;; esac
        exec {real} "$@"
    """)
    slow.chmod(0o755)
    scripts.folder = tmp_path  # so that the script's code is that of the repository
    scripts.run(BEHIND_GIT, cwd=tmp_path, PATH=f"{slow.parent}{os.pathsep}{os.environ['PATH']}")
    assert kinds(store_dir, "slow")["code.captured"] == 1


DAEMON = """
import os, sys, time
import unprotected
unprotected.apply()
import ailab
with open("git.py", "w") as file:
    file.write(f"import os, time\\nwhile os.getpid() == {os.getpid()}:\\n    time.sleep(0.01)\\n")
sys.path.insert(0, os.getcwd())
with ailab.start_run("daemon", id="daemon", silent=True) as run:
    parent = os.getpid()
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        os.read(reader, 1)  # its end; the capture of this process comes to none
        os._exit(0)
    os.close(writer)
    while os.getppid() == parent:
        time.sleep(0.01)
open("done", "w").close()
"""


def said_of_a_daemon(store_dir, scripts, lab, tmp_path, **env):
    """How many events of each kind its run has, once it has ended."""
    scripts.run(DAEMON, cwd=tmp_path, **env)
    for _ in range(3000):
        if Path(tmp_path, "done").exists():
            break
        time.sleep(0.01)
    found = queries.get_run(lab(), "daemon")
    assert found.status == "completed"
    return kinds(store_dir, "daemon")


def test_a_daemon_captures_what_the_process_before_it_had_begun_to(store_dir, scripts, lab, tmp_path):
    """The thread that does it is not forked with the script."""
    assert said_of_a_daemon(store_dir, scripts, lab, tmp_path)["code.captured"] == 1


def test_control_a_daemon_that_leaves_it_out(store_dir, scripts, lab, tmp_path):
    """G12, negative control: its code is told nowhere."""
    assert said_of_a_daemon(store_dir, scripts, lab, tmp_path, UNPROTECTED="owed")["code.captured"] == 0


IN_A_WRITE = """
import os, sys, threading
import unprotected
unprotected.apply()
real, inside, forked = os.write, threading.Event(), threading.Event()


def write(fd, data):
    with memoryview(data):  # as the call of the system has it while it lasts
        if threading.current_thread().name == "writes":
            inside.set()
            forked.wait()
        return real(fd, data)


os.write = write
import ailab
from ailab import journal

run = ailab.start_run("write", id="write")
run._captured.join()
thread = threading.Thread(target=run.log, args=({f"key{n}": 1.0 for n in range(300)},), name="writes")
thread.start()
inside.wait()
child = os.fork()
if child == 0:
    run.log({"opens a segment": 1.0})
    slowly, append = [], journal.Writer._append
    journal.Writer._append = lambda *given: slowly.append(given) or append(*given)
    for i in range(10):
        run.log({f"key{n}": 1.0 for n in range(400)}, step=i)
    print(len(slowly), flush=True)
    os._exit(0)
os.waitpid(child, 0)
forked.set()
thread.join()
run.finish()
"""


def test_a_child_logs_as_fast_as_its_parent_that_was_writing(store_dir, scripts):
    """What the parent's write held on to is not what the child encodes into: none of its points takes the slow way."""
    assert scripts.run(IN_A_WRITE).stdout == "0\n"


def test_control_a_child_with_its_parents_buffer_logs_slowly(store_dir, scripts):
    """G12, negative control: bytes that a write holds on to cannot grow."""
    assert scripts.run(IN_A_WRITE, UNPROTECTED="own_buffer").stdout == "10\n"
