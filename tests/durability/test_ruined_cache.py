"""Whatever becomes of the cache, every answer is the same and nobody has to do anything; damaged tables are named."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import tempfile
import zlib
from pathlib import Path

import pytest
from views_machine import Author, age, compare

from ailab import checkup, commits, store, views
from ailab.errors import DamageError
from ailab.views import batch, snapshot
from ailab.views import compact as compaction

HOLDER = """
import sys, duckdb
connections = [duckdb.connect(path) for path in sys.argv[1:]]
print("held", flush=True)
sys.stdin.readline()
"""


def written(folder):
    """Runs of which a part is in tables and a part came later, so that every run's state is read."""
    place = store.open_store(str(folder), create=True)
    for number in range(1, 5):
        author = Author(folder, f"r{number}", number, 0)
        author.say("run.started", {"name": f"run {number}", "project": "iris", "params": {"lr": number / 10}})
        for i in range(20):
            author.say("metrics.logged", {"values": {"loss": i / 7, "acc": i}, "step": i}, second=i)
        author.say("metrics.logged", {"values": {"loss": "NaN"}})
        author.say("run.finished", {"status": "completed", "final_metrics": {"f1": 0.5}})
        author.end("sealed")
    return place


def added_to(folder, number=9):
    """What comes after the tables: a word on every run."""
    author = Author(folder, None, number, 100)
    for run in range(1, 5):
        author.say("note.changed", {"note": f"late {number}"}, run=f"r{run}")
    author.end("sealed")


@pytest.fixture
def folder(monkeypatch):
    """A store with tables, a snapshot of them, and events behind them."""
    monkeypatch.setattr(batch, "COLUMN_LINES", 3)
    root = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    place = written(root / "store")
    compaction.compact(place, grace_s=0.0)
    added_to(root / "store")
    yield root / "store"
    shutil.rmtree(root)


def open_now(folder):
    """A fresh catalogue whose answers are those of a full replay; the seconds that a snapshot took, 0 where one was there."""
    lab = views.open_lab(folder)
    try:
        compare(lab, folder, "a fresh catalogue")
        return lab.rebuilt_s
    finally:
        lab.close()


def files_of(folder):
    """The files of the newest snapshot by ending, its record among them."""
    record = max((path for path in (folder / "cache").glob("*_*.json")), key=lambda path: path.name)
    endings = ("json", "runs.duckdb", "more.duckdb", "states")
    return {ending: record.with_name(f"{record.stem}.{ending}") for ending in endings}


def flips(path, count, seed):
    """Write the file with one changed bit at each of so many places, by chance; as it was in the end."""
    content, chance = path.read_bytes(), random.Random(seed)
    for _ in range(count):
        at, bit = chance.randrange(len(content)), chance.randrange(8)
        damaged = bytearray(content)
        damaged[at] ^= 1 << bit
        path.write_bytes(damaged)
        yield at
    path.write_bytes(content)


def with_crc(record):
    """A record of a snapshot as bytes, with the checksum that fits."""
    record.pop("crc", None)
    body = json.dumps({**record, "crc": 0}, separators=(",", ":")).encode()
    return b"%b%d}\n" % (body[:-2], zlib.crc32(body))


ENDINGS = ("json", "runs.duckdb", "more.duckdb", "states")


def test_the_cache_of_these_tests_is_used(folder):
    """An untouched snapshot is read, not made anew; one that is gone is made anew, and the time that took is known."""
    assert open_now(folder) == 0
    shutil.rmtree(folder / "cache")
    assert open_now(folder) > 0
    assert open_now(folder) == 0


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("what", ["deleted", "empty", "short"])
def test_a_file_that_is_gone_or_cut_short(folder, ending, what):
    path = files_of(folder)[ending]
    content = path.read_bytes()
    path.write_bytes(content[: {"empty": 0, "short": len(content) - 1}.get(what, 0)])
    if what == "deleted":
        path.unlink()
    assert open_now(folder) > 0
    assert open_now(folder) == 0


@pytest.mark.parametrize("ending", ENDINGS[:3])
def test_any_flipped_byte_is_noticed(folder, seed, ending):
    """Of 500 flips in each file that is hashed none passes, and answers stay what they were."""
    place, path = store.open_store(str(folder), create=False), files_of(folder)[ending]
    names = place.commit_names()
    for number, at in enumerate(flips(path, 500, seed)):
        assert snapshot.find(place, names) is None, f"byte {at}"
        if number % 250 == 0:
            assert open_now(folder) > 0
            for other in files_of(folder).values():  # made just now
                assert other.stem.partition(".")[0] != path.stem.partition(".")[0]
                other.unlink()
    assert open_now(folder) == 0


def test_a_flipped_byte_of_a_state_costs_nothing(folder, seed):
    """The states of runs prove themselves one by one; a damaged one is found when it is needed."""
    tell_flips(folder, "states", 6, seed)


def tell_flips(folder, ending, count, seed):
    """Open the store at each flip, from the same snapshot each time."""
    kept = folder.parent / "kept"
    shutil.copytree(folder / "cache", kept)
    path = files_of(folder)[ending]
    rebuilt = 0
    for _ in flips(path, count, seed):
        damaged = path.read_bytes()
        rebuilt += open_now(folder) > 0
        shutil.rmtree(folder / "cache")
        shutil.copytree(kept, folder / "cache")
        path.write_bytes(damaged)
    print(f"{count} flips in {ending}, {rebuilt} times made anew")
    assert rebuilt == count


@pytest.mark.long
@pytest.mark.parametrize("ending", ENDINGS)
def test_five_hundred_flips_cost_nothing(folder, seed, ending):
    """The whole way from a damaged file to the answers, 500 times for each file."""
    tell_flips(folder, ending, 500, seed)


def test_a_damaged_state_is_not_taken_over(folder):
    """A snapshot that is computed from an older one with a damaged state starts from the tables instead."""
    path = files_of(folder)["states"]
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)
    author = Author(folder, "r5", 20, 0)
    author.say("run.started", {"name": "more"})
    author.end("sealed")
    compaction.compact(store.open_store(str(folder), create=False), grace_s=0.0)
    added_to(folder, 21)
    assert open_now(folder) == 0


@pytest.mark.parametrize("field", ["layout", "fold", "engine"])
def test_a_snapshot_of_another_version_is_made_anew(folder, field):
    path = files_of(folder)["json"]
    record = json.loads(path.read_bytes())
    record[field] = "99.0" if field == "engine" else 99
    path.write_bytes(with_crc(record))
    assert open_now(folder) > 0


@pytest.mark.parametrize("ending", ENDINGS[1:3])
@pytest.mark.parametrize("content", [b"", b"WAL " * 100])
def test_a_log_beside_the_snapshot_is_not_believed(folder, ending, content):
    path = files_of(folder)[ending]
    path.with_name(f"{path.name}.wal").write_bytes(content)
    assert open_now(folder) > 0
    assert open_now(folder) == 0


@pytest.mark.parametrize("instead", ["file", "link", "read-only"])
def test_a_cache_that_cannot_be_written(folder, monkeypatch, instead):
    """The snapshot is then made in a folder that goes with the process, and a compaction ends in order."""
    cache = folder / "cache"
    shutil.rmtree(cache)
    if instead == "file":
        cache.write_text("not a folder")
    elif instead == "link":
        cache.symlink_to(folder / "nowhere" / "cache")
    else:
        cache.mkdir()
        make = tempfile.mkdtemp

        def refuse(*args, dir=None, **kwargs):  # noqa: A002  (the name of the standard library)
            if dir is not None and Path(dir) == cache:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir))
            return make(*args, dir=dir, **kwargs)

        monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    assert open_now(folder) > 0
    done = compaction.compact(store.open_store(str(folder), create=False), grace_s=0.0)
    assert done.segments > 0
    assert open_now(folder) > 0


def test_a_snapshot_that_another_process_holds(folder, scripts):
    """DuckDB lets one process write a file; a reader takes a copy, and a newer snapshot can be made meanwhile."""
    files = files_of(folder)
    holder = scripts.start(HOLDER, files["runs.duckdb"], files["more.duckdb"])
    assert holder.stdout.readline() == "held\n"
    open_now(folder)
    compaction.compact(store.open_store(str(folder), create=False), grace_s=0.0)
    open_now(folder)
    holder.communicate("\n", timeout=30)


@pytest.mark.parametrize("what", ["deleted", "changed"])
def test_a_cache_that_goes_while_a_catalogue_stands_on_it(folder, what):
    """What comes next is read all the same, from a snapshot made anew."""
    compaction.compact(store.open_store(str(folder), create=False), grace_s=0.0)
    lab = views.open_lab(folder)
    if what == "deleted":
        shutil.rmtree(folder / "cache")
    else:
        for path in (folder / "cache").glob("*.runs.duckdb"):
            path.write_bytes(b"ruined")
    added_to(folder, 30)
    lab.refresh()
    compare(lab, folder, "the long-lived catalogue")
    lab.close()


def test_the_doctor_tells_how_long_the_snapshot_took(folder):
    (found,) = [one for one in checkup.examine(str(folder)).findings if one.what.startswith("snapshot")]
    record = json.loads(files_of(folder)["json"].read_bytes())
    assert (found.level, found.where) == ("ok", str(files_of(folder)["json"]))
    assert found.what == f"snapshot of 4 runs, computed in {record['seconds']:.1f} s"


def test_the_servers_log_tells_when_one_was_made(folder, server):
    """A server starts on a ruined cache, answers the same, and says on its log how long that took."""
    for path in (folder / "cache").glob("*.duckdb"):
        path.write_bytes(b"ruined")
    running = server(folder)
    assert [run["name"] for run in running.get("/runs")] == [f"run {number}" for number in (4, 3, 2, 1)]
    assert "the snapshot of what is compacted was computed anew in" in running.stop()


def test_nothing_is_noticed_without_hashes(folder, seed, monkeypatch):
    """Without the look at the files' hashes these tests fail: damage gets through."""
    monkeypatch.setattr(snapshot, "_is_whole", lambda _found: True)
    place, path = store.open_store(str(folder), create=False), files_of(folder)["more.duckdb"]
    found = [snapshot.find(place, place.commit_names()) for _ in flips(path, 20, seed)]
    assert None not in found


# -------------------------------------------------------------------------------------------------------------- tables


def tables_of(folder):
    """The Parquet files."""
    return sorted((folder / "compacted").glob("*.parquet"))


@pytest.mark.parametrize("table", ["events", "points"])
def test_a_damaged_table_is_named_and_its_segments_are_read(folder, seed, table):
    """While the segments are kept, answers are complete, and the file is named; put back, it is used again."""
    place = written(folder.parent / "other")
    compaction.compact(place, grace_s=3600.0)
    (path,) = (folder.parent / "other" / "compacted").glob(f"*.{table}.parquet")
    content = path.read_bytes()
    list(flips_once(path, seed))
    for _ in range(2):
        lab = views.open_lab(place.path)
        compare(lab, Path(place.path), "a fresh catalogue")
        (problem,) = [problem for problem in lab.problems if str(path) in problem]
        assert "incomplete" not in problem
        lab.close()
    path.write_bytes(content)
    lab = views.open_lab(place.path)
    compare(lab, Path(place.path), "a fresh catalogue")
    assert lab.problems == []
    lab.close()


def flips_once(path, seed):
    """Change one bit of a file and leave it so."""
    content = bytearray(path.read_bytes())
    content[random.Random(seed).randrange(len(content))] ^= 4
    path.write_bytes(content)
    yield path


def test_a_damaged_table_without_segments_is_called_incomplete(folder, seed):
    """What is missing is said, and what is not damaged is shown."""
    path = next(path for path in tables_of(folder) if ".points." in path.name)
    list(flips_once(path, seed))
    lab = views.open_lab(folder)
    lab.prepare()
    (problem,) = [problem for problem in lab.problems if str(path) in problem]
    assert problem.startswith("incomplete: ")
    assert lab.con.execute("SELECT count(*) FROM runs").fetchone() == (4,)
    assert lab.con.execute("SELECT count(*) FROM metrics").fetchone() == (0,)
    lab.close()


def test_no_flipped_byte_of_a_table_is_silent(folder, seed):
    """500 flips in each table: every one is an error that names the file."""
    place = store.open_store(str(folder), create=False)
    named = {file.name: file for commit in commits.load(place)[0].values() for file in commit.files}
    for path in tables_of(folder):
        for at in flips(path, 500, seed):
            age(path)
            commits._whole.clear()
            with pytest.raises(DamageError, match=r"SHA-256") as caught:
                commits.check_table(place, named[path.name])
            assert caught.value.path == str(path), f"byte {at}"
