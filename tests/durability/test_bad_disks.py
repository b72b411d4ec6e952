"""When nothing can be written: training goes on, one warning says why, what is lost is counted and told, strict raises."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

import ailab
from ailab import checkup, journal, queries, store, views
from ailab.errors import ForeignFolderError, StoreError


def mounted(kind, *options):
    """Mount a file system on a new folder, or skip where that is not allowed."""
    folder = tempfile.mkdtemp(prefix="ailab-disk-")
    done = subprocess.run(["mount", *kind, *options, folder], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        os.rmdir(folder)
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    return Path(folder)


def unmounted(folder):
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    shutil.rmtree(folder)


@pytest.fixture
def small_disk():
    """A file system of one megabyte."""
    folder = mounted(["-t", "tmpfs"], "-o", "size=1M", "tmpfs")
    yield folder
    unmounted(folder)


FULL = """
import json, os, sys, time
import ailab
from ailab import journal

journal.WARN_SECONDS = 60.0
run = ailab.start_run("full", id="full", project="p")
run._wait_for_capture(20)
ballast = os.path.join(sys.argv[1], "ballast")
free = os.statvfs(sys.argv[1]).f_bavail * 4096
with open(ballast, "wb") as file:
    file.write(b"x" * max(0, free - 100_000))
for i in range(10_000):
    run.log({"loss": 1 / (i + 1), "i": i}, step=i)
run.note("written while full")
run.log_params({"late": 1})
run.log_text("kept?", "x.txt")
dropped = run._writer.dropped
os.unlink(ballast)
for i in range(10_000, 10_100):
    run.log({"loss": 0.0, "i": i}, step=i)
run.finish()
print(json.dumps(dropped))
"""


def test_a_full_disk(small_disk, scripts):
    """G7: 10,000 calls on 1 MiB: exit 0, one warning with path and ENOSPC, the lost counted and shown, then all goes on."""
    where = small_disk / "store"
    done = scripts.run(FULL, small_disk, AILAB_DIR=str(where))
    dropped = json.loads(done.stdout)
    told = done.stderr.splitlines()
    assert len([line for line in told if "events cannot be written to" in line and "ENOSPC" in line]) == 1, told
    assert [line for line in told if f"{dropped} points could not be written" in line]
    assert len(told) <= 3, told  # the third is the text that could not be kept
    lab = views.open_lab(where)
    lab.prepare()
    found = queries.get_run(lab, "full")
    (points,) = lab.con.execute("SELECT count(*) FROM metrics WHERE key = 'i'").fetchone()
    later = lab.con.execute("SELECT count(*), count(DISTINCT step) FROM metrics WHERE key = 'i' AND step >= 10000").fetchone()
    events = dict(lab.con.execute("SELECT kind, count(*) FROM events GROUP BY 1").fetchall())
    lost = lab.con.execute("SELECT data ->> '$.error' FROM events WHERE kind = 'writes.dropped'").fetchall()
    damage = lab.tail.problems
    lab.close()
    print(f"{points} points kept, {dropped} dropped and counted")
    assert dropped > 5000
    assert points + dropped == 10_100
    assert later == (100, 100)
    assert (found.points_dropped, found.status) == (dropped, "completed")
    assert (found.note, found.params) == ("written while full", {"late": 1})
    assert events["segment.opened"] == 1
    assert lost == [("[Errno 28] No space left on device",)]
    assert {problem.kind for problem in damage} <= {"torn-write"}
    now = checkup.examine(str(where))
    assert now.points_dropped == dropped
    assert [f.what for f in now.findings if f.level == "error" and "MiB are free" not in f.what] == []


def test_a_disk_that_is_full_from_the_start(small_disk, scripts):
    """Nothing can be made at all: one warning, exit 0; and where space comes in time, header and start come first."""
    where = small_disk / "store"
    source = """
    import os, sys, time
    import ailab
    from ailab import journal, store

    journal.RETRY_SECONDS = 0.0
    if sys.argv[2] == "store is there":
        store.open_store(os.environ["AILAB_DIR"], create=True)
    ballast = os.path.join(sys.argv[1], "ballast")
    fd = os.open(ballast, os.O_CREAT | os.O_WRONLY)
    try:
        while True:
            os.write(fd, b"x" * 4096)
    except OSError:
        os.close(fd)
    run = ailab.start_run("full", id="full")
    for i in range(100):
        run.log({"i": i}, step=i)
    os.unlink(ballast)
    run.log({"i": 100}, step=100)
    run.finish()
    """
    done = scripts.run(source, small_disk, "store is there", AILAB_DIR=str(where))
    assert "ENOSPC" in done.stderr
    lab = views.open_lab(where)
    lab.prepare()
    found = queries.get_run(lab, "full")
    kinds = [row[0] for row in lab.con.execute("SELECT kind FROM events WHERE segment LIKE '%full' ORDER BY seq").fetchall()]
    lab.close()
    assert kinds[:2] == ["segment.opened", "run.started"]
    assert (found.status, found.final_metrics, found.points_dropped) == ("completed", {"i": 100}, 100)
    shutil.rmtree(where)
    done = scripts.run(source, small_disk, "no store", AILAB_DIR=str(where))
    assert "ENOSPC" in done.stderr
    assert "training goes on" in done.stderr


def test_strict_raises_on_a_full_disk(small_disk, scripts):
    """G7: AILAB_STRICT=1: the call that could not be written raises StoreError."""
    done = scripts.run(
        """
        import sys, ailab
        from ailab.errors import StoreError
        run = ailab.start_run("full")
        run._wait_for_capture(20)
        try:
            for i in range(100_000):
                run.log({"i": i, **{f"m{n}": 0.5 for n in range(20)}}, step=i)
        except StoreError as problem:
            print(i, problem)
        """,
        AILAB_DIR=str(small_disk / "store"),
        AILAB_STRICT="1",
        code=None,
    )
    assert "ENOSPC" in done.stdout
    assert int(done.stdout.split()[0]) > 100


SHORT = """
import json, os, resource, signal, sys
import ailab

run = ailab.start_run("short", id="short")
run._wait_for_capture(20)
for i in range(3):
    run.log({"i": i}, step=i)
limit = os.path.getsize(run.store.segment_path(run._writer.name)) + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
for i in range(3, 20):
    run.log({"i": i}, step=i)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
for i in range(20, 25):
    run.log({"i": i}, step=i)
run.finish()
print(run._writer.dropped)
"""


def test_control_without_resync_a_short_write_takes_a_neighbour(store_dir, scripts, lab):
    """G7, negative control: where a torn line is not ended, the event behind it is lost: here the one that counts the lost."""
    done = scripts.run("import unprotected\nunprotected.apply()\n" + SHORT, 60, UNPROTECTED="resync")
    assert int(done.stdout) == 17
    assert queries.get_run(lab(), "short").points_dropped == 0


@pytest.mark.parametrize("torn_at", [0, 1, 60, 150])
def test_a_short_write(store_dir, scripts, lab, torn_at):
    """G7b: RLIMIT_FSIZE: a line cut in the middle takes no neighbour with it, is counted, and the rest goes on behind it."""
    done = scripts.run(SHORT, torn_at)
    told = done.stderr.splitlines()
    assert "EFBIG" in told[0]
    assert len(told) == 2
    dropped = int(done.stdout)
    catalogue = lab()
    steps = [row[0] for row in catalogue.con.execute("SELECT step FROM metrics ORDER BY step").fetchall()]
    assert steps == [0, 1, 2, *range(20, 25)]
    assert (dropped, queries.get_run(catalogue, "short").points_dropped) == (17, 17)
    assert [problem for problem in catalogue.problems if "torn-write" not in problem] == []
    assert len(catalogue.problems) == (1 if torn_at else 0)


def refused_run(place, **given):
    """A run on a place that cannot be written, from start to finish."""
    with ailab.start_run("x", dir=place, **given) as run:
        for i in range(10):
            run.log({"i": i})
        run.log_params({"a": 1})
        run.note("n")
        run.log_text("t", "t.txt")
    return run


def test_a_folder_that_is_read_only(scripts):
    """G7b: a read-only file system (nothing less stops root): exit 0, the warning names place and EROFS; strict raises."""
    folder = mounted(["-t", "tmpfs"], "-o", "size=1M", "tmpfs")
    try:
        store.open_store(str(folder / "there"), create=True)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        for name in ("there", "new"):
            done = scripts.run(
                """
                import ailab
                with ailab.start_run("x", id="x") as run:
                    for i in range(1000):
                        run.log({"i": i})
                    run.note("n")
                    run.log_text("t", "t.txt")
                """,
                AILAB_DIR=str(folder / name),
            )
            assert "EROFS" in done.stderr
            assert str(folder / name) in done.stderr
            assert len([line for line in done.stderr.splitlines() if "EROFS" in line]) == 1
            with pytest.raises(StoreError, match=r"EROFS"):
                refused_run(folder / name, strict=True)
    finally:
        unmounted(folder)


def test_a_file_where_segments_should_be(store_dir, capsys, lab):
    """The store opens, its segments cannot be made: one warning, and nothing is raised, also when a run is to be resumed."""
    store.open_store(str(store_dir), create=True)
    os.rmdir(store_dir / "segments")
    (store_dir / "segments").write_text("mine")
    refused_run(store_dir)
    refused_run(store_dir, id="some", resume="allow")
    told = [line for line in capsys.readouterr().err.splitlines() if "cannot be" in line or "not recorded" in line]
    assert told
    assert all("ENOTDIR" in line or "EEXIST" in line or "NotADirectory" in line for line in told), told
    with pytest.raises(StoreError):
        refused_run(store_dir, strict=True)
    with pytest.raises((StoreError, OSError)):
        lab()
    assert (store_dir / "segments").read_text() == "mine"


def test_a_file_where_blobs_should_be(store_dir, lab, capsys):
    """Artifacts and environment cannot be kept; points can."""
    store.open_store(str(store_dir), create=True)
    (store_dir / "blobs").write_text("mine")
    run = refused_run(store_dir)
    found = queries.get_run(lab(), run.id)
    assert (found.status, found.final_metrics, found.artifacts) == ("completed", {"i": 9}, [])
    assert "training goes on" in capsys.readouterr().err


def test_a_file_or_a_foreign_folder_where_the_store_should_be(tmp_path, capsys):
    """Neither is adopted or touched, not even an own marker's lookalike; the warning says what to do."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "deep")
    for name in ("file", "folder"):
        refused_run(tmp_path / name)
        told = capsys.readouterr().err
        assert told.count("ailab:") == 1
        assert "AILAB_DIR" in told
        with pytest.raises(ForeignFolderError, match=name):
            refused_run(tmp_path / name, strict=True)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["file", "thesis.txt"]


def test_a_working_folder_that_was_deleted(tmp_path, store_dir, scripts, lab):
    """With a store named, everything is recorded; without one, one warning and training goes on."""
    source = """
    import os, sys
    gone = os.path.join(sys.argv[1], "gone")
    os.mkdir(gone)
    os.chdir(gone)
    os.rmdir(gone)
    import ailab
    with ailab.start_run("x", id="gone", config={"a": 1}) as run:
        run.log({"i": 1})
        run.log_artifact("missing.txt")
        run.log_text("t", "t.txt")
    ailab.log({"after": 1})
    """
    done = scripts.run(source, tmp_path)
    assert "missing.txt" in done.stderr
    found = queries.get_run(lab(), "gone")
    assert (found.status, found.final_metrics, found.artifacts) == ("completed", {"i": 1}, ["t.txt"])
    done = scripts.run(source, tmp_path, AILAB_DIR="")
    assert "the working folder is gone" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_working_folder_that_is_deleted_meanwhile(tmp_path, scripts):
    """A store found from a folder that goes away is still written by its full path."""
    home = tmp_path / "home"
    (home / "work").mkdir(parents=True)
    store.open_store(str(home / "events"), create=True)
    scripts.run(
        """
        import os, shutil
        import ailab
        run = ailab.start_run("x", id="x")
        run._wait_for_capture(20)
        shutil.rmtree(os.getcwd())
        run.log({"i": 1})
        run.log_text("t", "t.txt")
        run.finish()
        """,
        cwd=home / "work",
        AILAB_DIR="",
    )
    lab = views.open_lab(home / "events")
    lab.prepare()
    found = queries.get_run(lab, "x")
    lab.close()
    assert (found.status, found.final_metrics, found.artifacts) == ("completed", {"i": 1}, ["t.txt"])


def test_too_many_open_files(store_dir, scripts, lab):
    """G7b: EMFILE at the start: one warning; once files can be opened again, everything that waited is there."""
    done = scripts.run(
        """
        import os, resource
        import ailab
        from ailab import journal, store
        store.open_store(os.environ["AILAB_DIR"], create=True)
        from ailab import capture, recorder
        journal.RETRY_SECONDS = 0.0
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        held = []
        try:
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        os.close(held.pop())
        writer_run = ailab.runs.Run("emfile", "x", ailab.settings.load(), store.Store(os.environ["AILAB_DIR"]))
        held.append(os.open("/dev/null", os.O_RDONLY))
        writer_run._write(ailab.events.RunStarted(name="x"))
        for i in range(10):
            writer_run.log({"i": i}, step=i)
        while held:
            os.close(held.pop())
        writer_run.log({"i": 10}, step=10)
        writer_run.finish()
        """
    )
    assert "EMFILE" in done.stderr
    found = queries.get_run(lab(), "emfile")
    assert (found.status, found.final_metrics, found.points_dropped) == ("completed", {"i": 10}, 10)


ERRORS = ("EIO", "EROFS", "EACCES", "EDQUOT", "ESTALE", "ENOSPC", "EMFILE", "ENOTCONN", "EPERM")

EVERY_ERROR = """
import json, sys
import bad_disk, unprotected
unprotected.apply()
import ailab
from ailab import journal

journal.RETRY_SECONDS = 0.0
disk = bad_disk.Disk()
for error in sys.argv[2:]:
    setattr(disk, sys.argv[1], bad_disk.number(error) if sys.argv[1] == "open_error" else None)
    run = ailab.start_run("x", id=error)
    if sys.argv[1] == "write_error":
        for i in range(10):
            run.log({"i": i}, step=i)
        disk.write_error = bad_disk.number(error)
    for i in range(10, 30):
        run.log({"i": i}, step=i)
    run.note("said meanwhile")
    disk.write_error = disk.open_error = None
    for i in range(30, 40):
        run.log({"i": i}, step=i)
    run.finish()
"""


@pytest.mark.parametrize("where", ["write_error", "open_error"])
def test_every_error_is_named_counted_and_got_over(store_dir, scripts, lab, where):
    """G7b: nine errors of write and of open: exit 0, one warning with path and name, the lost counted, doctor and API agree."""
    store.open_store(str(store_dir), create=True)
    done = scripts.run(EVERY_ERROR, where, *ERRORS)
    told, catalogue = done.stderr.splitlines(), lab()
    for error in ERRORS:
        found = queries.get_run(catalogue, error)
        points = catalogue.con.execute("SELECT step FROM metrics WHERE run_id = ? ORDER BY 1", [error]).fetchall()
        kept = [*range(10 if where == "write_error" else 0), *range(30, 40)]
        assert ([step for (step,) in points], found.points_dropped) == (kept, 20)
        assert (found.status, found.note, found.final_metrics) == ("completed", "said meanwhile", {"i": 39})
        warned = [line for line in told if f"{error}," in line]
        assert len(warned) == 1, told
        assert "events cannot be written to" in warned[0]
        assert str(store_dir / "segments") in warned[0] or f"_{error}" in warned[0]
    assert [line for line in told if "20 points could not be written" not in line and "events cannot" not in line] == []
    now = checkup.examine(str(store_dir))
    assert (now.points_dropped, now.healthy) == (20 * len(ERRORS), True)
    assert len([finding for finding in now.findings if "20 points could not be written" in finding.what]) == len(ERRORS)


def test_control_without_the_edge_an_error_ends_the_training(store_dir, scripts):
    """G7b, negative control: where the recorder swallows nothing, the script ends with the error."""
    done = scripts.run(EVERY_ERROR, "write_error", "EIO", code=None, UNPROTECTED="edge")
    assert (done.returncode, "Input/output error" in done.stderr) == (1, True)


def test_control_without_counting_the_lost_are_not_told(store_dir, scripts, lab):
    """G7b, negative control: where drops are not counted, points are gone and API and doctor say nothing."""
    scripts.run(EVERY_ERROR, "write_error", "EIO", UNPROTECTED="counted")
    catalogue = lab()
    assert catalogue.con.execute("SELECT count(*) FROM metrics").fetchone() == (20,)
    assert (queries.get_run(catalogue, "EIO").points_dropped, checkup.examine(str(store_dir)).points_dropped) == (0, 0)


def test_strict_raises_every_error(store_dir, scripts):
    """G7b: with `strict` the call that could not be written raises, names the error and the store, and the run goes on."""
    done = scripts.run(
        """
        import sys
        import bad_disk, ailab
        from ailab.errors import StoreError
        disk = bad_disk.Disk()
        with ailab.start_run("x", id="x", strict=True) as run:
            run._wait_for_capture(20)
            for error in sys.argv[1:]:
                disk.write_error = bad_disk.number(error)
                for call in (lambda: run.log({"i": 1.0}), lambda: run.note("n")):
                    try:
                        call()
                    except StoreError as problem:
                        print(error in str(problem) and problem.path)
                    else:
                        print("nothing raised")
                disk.write_error = None
                run.log({"i": 2.0})
        """,
        *ERRORS,
    )
    assert done.stdout.splitlines() == [str(store_dir)] * 2 * len(ERRORS)
    assert checkup.examine(str(store_dir)).points_dropped == len(ERRORS)


def test_a_flush_that_failed_is_not_believed(store_dir, scripts, lab):
    """A failed flush is said, and what comes next goes into a new segment: a flush repeated over lost pages tells nothing."""
    done = scripts.run(
        """
        import bad_disk, ailab
        disk = bad_disk.Disk()
        with ailab.start_run("x", id="x", durable=True) as run:
            run._wait_for_capture(20)
            run.log({"i": 0.0}, step=0)
            disk.flush_error = bad_disk.number("EIO")
            run.log({"i": 1.0}, step=1)
            run.log({"i": 2.0}, step=2)
        """
    )
    assert "could not be flushed to the disk: EIO" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    place = store.Store(str(store_dir))
    points = {
        name: [line.data for line in journal.scan(place.segment_path(name), mode="strict") if line.kind == "metrics.logged"]
        for name in place.segment_names()
    }
    assert [len(each) for each in points.values()] == [2, 1]
    (logged,) = lab().con.execute("SELECT list(step ORDER BY step) FROM metrics").fetchone()
    assert logged == [0, 1, 2]
    assert checkup.examine(str(store_dir)).healthy


@pytest.mark.parametrize("home", ["/proc/self/fdinfo", "/dev/null", "/nonexistent/home"])
def test_a_home_that_cannot_be_written_is_not_needed(store_dir, scripts, lab, home):
    """G7b: nothing of ailab lies in the home: where it is read-only, a file or not there, a run is whole and nothing is said."""
    places = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), home)
    done = scripts.run("import ailab\nwith ailab.start_run('x', id='x') as run: run.log({'i': 1.0})", **places)
    assert done.stderr == ""
    found = queries.get_run(lab(), "x")
    assert (found.status, found.final_metrics) == ("completed", {"i": 1.0})


def test_io_errors_of_every_kind_are_named(store_dir, scripts, lab):
    """G7b: EIO, EDQUOT, ESTALE from write(2) itself (strace): exit 0, one warning names the error, the lost are counted."""
    if shutil.which("strace") is None or subprocess.run(["strace", "-o", "/dev/null", "true"], check=False).returncode != 0:
        pytest.skip("strace cannot trace here")
    command = scripts.command(
        """
        import sys
        import ailab
        from ailab import journal
        journal.segment_name = lambda run, **_: f"T_h_1_x_{run}"  # strace is told its path beforehand
        run = ailab.start_run("x", id=sys.argv[1])
        run._wait_for_capture(20)
        for i in range(40):
            run.log({"i": i}, step=i)
        run.finish()
        """
    )
    place = store.open_store(str(store_dir), create=True)
    errors = ("EIO", "EDQUOT", "ESTALE")
    for error in errors:
        watch = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", place.segment_path(f"T_h_1_x_{error}"), "-e", "trace=write"]
        fault = ["-e", f"inject=write:error={error}:when=10..25"]
        done = subprocess.run(
            [*watch, *fault, *command, error], env=scripts.environment(), capture_output=True, text=True, timeout=60, check=True
        )
        told = [line for line in done.stderr.splitlines() if line.startswith("ailab:")]
        assert len(told) == 2, told
        assert error in told[0]
        assert "points could not be written" in told[1]
    catalogue = lab()
    for error in errors:
        found = queries.get_run(catalogue, error)
        points = queries.metric_points(catalogue, error).total
        assert 5 < found.points_dropped == 40 - points
        assert (found.status, found.final_metrics) == ("completed", {"i": 39})
