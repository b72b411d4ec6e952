"""What a network file system does: no locks, names that come late, coarse times, files that are left, errors that pass."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import time
from pathlib import Path

import msgspec
import pytest
import unprotected

from ailab import checkup, events, journal, queries, segments, store

WRITER = """
import errno, fcntl, os, sys
import unprotected
unprotected.apply()

def flock(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

if sys.argv[1] == "no locks":
    fcntl.flock = flock
import ailab
with ailab.start_run("x", id="x") as run:
    run._wait_for_capture(20)
    print("ready", flush=True)
    for i, line in enumerate(sys.stdin):
        for n in range(int(line)):
            run.log({"w0": 1.0})
        print("logged", flush=True)
"""


@pytest.fixture
def no_locks(monkeypatch):
    """A file system without flock, for this process."""

    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)


def started(scripts, *args, **env):
    process = scripts.start(WRITER, *args, **env)
    assert process.stdout.readline() == "ready\n", process.communicate()
    return process


def log(process, count):
    process.stdin.write(f"{count}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "logged\n"


def end(process):
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")


def points(catalogue):
    catalogue.refresh()
    return catalogue.con.execute("SELECT count(*), count(DISTINCT seq) FROM metrics WHERE key = 'w0'").fetchone()


def test_without_locks_a_run_is_told_from_a_dead_one_all_the_same(store_dir, scripts, lab, no_locks):
    """G15: flock fails with ENOLCK everywhere: all is written, a living run is running, a killed one crashed within a second."""
    process = started(scripts, "no locks")
    log(process, 100)
    catalogue = lab()
    assert queries.get_run(catalogue, "x").status == "running"
    process.kill()
    process.wait()
    start = time.monotonic()
    catalogue.refresh()
    found = queries.get_run(catalogue, "x")
    assert time.monotonic() - start < 1
    assert (found.status, points(catalogue)) == ("crashed", (100, 100))
    assert not checkup.examine(str(store_dir)).flock


def test_control_by_locks_alone_a_living_run_seems_dead(store_dir, scripts, lab, no_locks, monkeypatch):
    """G15, negative control: where processes are not asked for, a run without locks is taken as crashed while it lives."""
    process = started(scripts, "no locks")
    log(process, 1)
    unprotected.apply("process_start", monkeypatch.setattr)
    assert queries.get_run(lab(), "x").status == "crashed"
    end(process)


def test_a_segment_that_is_not_seen_for_a_while_is_not_lost(store_dir, scripts, lab, tmp_path):
    """G15: a name that comes late, or goes and comes back: nothing lost, nothing twice, no count that goes down, no error."""
    store.open_store(str(store_dir), create=True)
    catalogue = lab()
    process = started(scripts, "locks")
    (path,) = Path(store_dir, "segments").iterdir()
    counts = []
    for hidden in (True, False, True, False):
        if hidden:
            path.rename(tmp_path / "hidden")
        for _ in range(3):
            log(process, 50)
            counts.append(points(catalogue))
        if hidden:
            (tmp_path / "hidden").rename(path)
    end(process)
    counts.append(points(catalogue))
    assert counts == [(n, n) for n in (0, 0, 0, 200, 250, 300, 300, 300, 300, 500, 550, 600, 600)]
    assert catalogue.problems == []
    assert queries.get_run(catalogue, "x").status == "completed"
    assert checkup.examine(str(store_dir)).healthy


@pytest.mark.parametrize("skew", [0, 600, -600])
def test_a_folder_whose_time_is_coarse_and_of_another_clock_is_listed_again(store_dir, monkeypatch, skew):
    """G15: the folder's time has steps of 2 s and another host's clock: a new segment is seen though the time did not change."""
    place = store.open_store(str(store_dir), create=True)
    real, began = os.stat, int(time.time()) - skew

    def stat(path, *rest, **named):
        found = real(path, *rest, **named)
        if path == place.segments:
            return os.stat_result((*found[:7], began, began, began), {"st_mtime_ns": began * 10**9, "st_mtime": float(began)})
        return found

    monkeypatch.setattr(os, "stat", stat)
    tail, seen = journal.Tail(place), []
    for n in range(3):
        writer = journal.Writer(place, run=f"r{n}")
        writer.append(events.RunStarted(name="x"))
        writer.seal()
        seen += [line.run for _, lines in tail.poll() for line in lines if line.kind == "run.started"]
    assert seen == ["r0", "r1", "r2"]


def test_coarse_file_times_do_not_make_a_living_writer_seem_gone(store_dir, monkeypatch):
    """G15: steps of 2 s in a file's time: a writer elsewhere that beats every 15 s is alive, one silent for 62 s is not."""
    place = store.open_store(str(store_dir), create=True)
    writer = journal.Writer(place, run="r")
    writer.append(events.RunStarted(name="x"))
    tail = journal.Tail(place)
    ((segment, _),) = tail.poll()
    segment.header = msgspec.structs.replace(segment.header, host="elsewhere", boot="other")
    for said in (1_000_000_001.9, 1_000_000_000.0):
        os.utime(segment.path, (said // 2 * 2,) * 2)
        assert [segments.writer_alive(segment, now=said + quiet) for quiet in (0, 15, 30, 45, 57)] == [True] * 5
        assert not segments.writer_alive(segment, now=said + 62)
    writer.abandon()


@pytest.mark.parametrize("folder", ["segments", "blobs", "compacted", "."])
def test_what_a_network_file_system_leaves_behind_is_not_read(store_dir, scripts, lab, folder):
    """G15: `.nfs…` files, which stand for files that were removed while open, count for nothing, whatever is in them."""
    process = started(scripts, "locks")
    log(process, 10)
    end(process)
    (path,) = Path(store_dir, "segments").iterdir()
    Path(store_dir, folder).mkdir(exist_ok=True)
    for n in range(3):
        Path(store_dir, folder, f".nfs{n:016x}").write_bytes(path.read_bytes()[: n * 300])
    catalogue = lab()
    assert points(catalogue) == (10, 10)
    assert catalogue.problems == []
    now = checkup.examine(str(store_dir))
    assert (now.healthy, now.segments, now.runs) == (True, 1, {"completed": 1})


def test_every_segment_is_created_exclusively_under_a_name_of_its_own(store_dir, scripts):
    """G15: time, host, pid and chance are in the name, and O_EXCL makes it, so no two hosts append to one file."""
    done = scripts.run(
        """
        import os
        real = os.open

        def open_(path, flags, *rest, **named):
            if str(path).endswith(".jsonl"):
                print(os.path.basename(path), bool(flags & os.O_CREAT), bool(flags & os.O_EXCL), os.getpid(), os.uname().nodename)
            return real(path, flags, *rest, **named)

        os.open = open_
        from ailab import events, journal, store
        place = store.open_store(os.environ["AILAB_DIR"], create=True)
        journal.segment_name.__globals__["time"].time = lambda: 1_700_000_000.25  # all at the same moment
        for n in range(200):
            journal.Writer(place, run="x").append(events.HeartbeatSent())
        """
    )
    names = set()
    for line in done.stdout.splitlines():
        name, create, exclusive, pid, host = line.split()
        parts = re.fullmatch(r"20231114T221320250000Z_([A-Za-z0-9.-]{1,32})_(\d+)_[0-9a-f]{8}_x\.jsonl", name)
        assert (create, exclusive, parts[2]) == ("True", "True", pid)
        assert host.startswith(parts[1][:10])
        names.add(name)
    assert len(names) == 200


def test_a_creation_that_was_sent_twice_loses_nothing(store_dir, scripts, lab):
    """G15: exclusive creation says EEXIST of its own file, as where the first answer was lost: the next name, at once."""
    done = scripts.run(
        """
        import os
        import ailab
        real, refused = os.open, []

        def open_(path, flags, *rest, **named):
            if str(path).endswith(".jsonl") and flags & os.O_CREAT and len(refused) < 2:
                os.close(real(path, flags, *rest, **named))
                refused.append(path)
                raise FileExistsError(17, "File exists", path)
            return real(path, flags, *rest, **named)

        os.open = open_
        with ailab.start_run("x", id="x") as run:
            for i in range(100):
                run.log({"w0": float(i)}, step=i)
        """
    )
    assert done.stderr == ""
    catalogue = lab()
    assert points(catalogue) == (100, 100)
    assert catalogue.problems == []
    found = queries.get_run(catalogue, "x")
    assert (found.status, found.points_dropped) == ("completed", 0)


def test_a_name_that_cannot_be_given_for_once_is_said_and_costs_no_event(store_dir, scripts, lab):
    """G15: rename fails with ESTALE once: that file is said to be missing, everything else is there."""
    done = scripts.run(
        """
        import errno, os
        import ailab
        real, failed = os.replace, []

        def replace(source, target):
            if not failed:
                failed.append(target)
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), source)
            real(source, target)

        with ailab.start_run("x", id="x") as run:
            run._wait_for_capture(20)
            os.replace = replace
            for n in range(3):
                run.log_text(f"text {n}", f"{n}.txt")
                run.log({"w0": float(n)}, step=n)
        """
    )
    assert len(done.stderr.splitlines()) == 1
    assert "Stale file handle" in done.stderr
    catalogue = lab()
    assert points(catalogue) == (3, 3)
    found = queries.get_run(catalogue, "x")
    assert (found.status, found.artifacts) == ("completed", ["1.txt", "2.txt"])
    assert list(Path(store_dir, "blobs").glob(".tmp-*")) == []


FLUSHES = """
import errno, os, stat, sys
import ailab
from ailab import journal

journal.SEGMENT_BYTES = 5000
real, number = os.fsync, getattr(errno, sys.argv[1])

def fsync(fd):
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        raise OSError(number, os.strerror(number))
    real(fd)

os.fsync = fsync
with ailab.start_run("x", id="x", durable=True) as run:
    run._wait_for_capture(20)
    for i in range(60):
        run.log({"w0": float(i)}, step=i)
"""


@pytest.mark.parametrize("error", ["EINVAL", "EACCES", "EBADF"])
def test_a_file_system_that_keeps_no_flushes_for_folders_is_fine(store_dir, scripts, lab, error):
    """G15: where folders cannot be flushed, or not be opened for it, nothing is said and nothing lost, over several segments."""
    assert scripts.run(FLUSHES, error).stderr == ""
    catalogue = lab()
    assert points(catalogue)[0] == 60
    assert len(list(Path(store_dir, "segments").iterdir())) > 2
    assert queries.get_run(catalogue, "x").status == "completed"


def test_a_folder_whose_flush_fails_is_said(store_dir, scripts, lab):
    """An error of the disk itself is named, and the training ends as it would."""
    assert "EIO" in scripts.run(FLUSHES, "EIO").stderr
    assert queries.get_run(lab(), "x").run_id == "x"


def test_a_writer_whose_file_was_removed_goes_on(store_dir, scripts, lab):
    """G15: somebody removes the segment of a living writer: the training ends as it would, and other runs are not touched."""
    process = started(scripts, "locks")
    log(process, 10)
    (path,) = Path(store_dir, "segments").iterdir()
    path.unlink()
    log(process, 10)
    process.send_signal(signal.SIGCONT)
    end(process)
    assert checkup.examine(str(store_dir)).healthy
