"""G5: any byte of a table changed on the disk is named, whatever the codec; DuckDB alone would not tell."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
from pathlib import Path

import duckdb
import msgspec
import pytest

from ailab import checkup, commits, events, journal, store, views
from ailab.errors import DamageError
from ailab.leftovers import Held
from ailab.views import restore
from ailab.views.compact import compact
from ailab.views.questions import select

CODECS = ("zstd", "snappy", "uncompressed")
FLIPS = 500


@pytest.fixture
def seed(figure):
    """What chance begins with; told, and taken from DURABILITY_SEED where a failure is to be seen again."""
    found = int(os.environ.get("DURABILITY_SEED", random.randrange(2**31)))
    figure(f"seed {found}")
    return found


@pytest.fixture
def place(tmp_path):
    """A store with one record: 2,000 points of three metrics, notes, and a run's start and end."""
    found = store.open_store(str(tmp_path / "store"), create=True)
    writer = journal.Writer(found, run="r1")
    writer.append(events.RunStarted(name="x", params={"lr": 0.1}))
    chance = random.Random(1)
    for i in range(2000):
        writer.append(events.MetricsLogged({"loss": chance.random(), "acc": chance.random(), "n": i}, i))
        if i % 10 == 0:
            writer.append(events.NoteChanged(note=f"note {i} {chance.random()}"))
    writer.append(events.RunFinished(status="completed"))
    writer.seal()
    compact(found, grace_s=0, fold=False)
    compact(found, grace_s=0, fold=False)
    return found


def recoded(place, codec):
    """Write the record's tables anew with another codec, and the record with their digests; return it with its name."""
    ((name, commit),) = commits.load(place)[0].items()
    files = []
    for file in commit.files:
        path = place.table_path(file.name)
        rows = duckdb.sql(f"SELECT * FROM read_parquet('{path}')").to_arrow_table()
        duckdb.sql("SELECT * FROM rows").write_parquet(f"{path}.new", compression=codec)
        os.replace(f"{path}.new", path)
        content = Path(path).read_bytes()
        assert len(rows) == file.rows
        files.append(msgspec.structs.replace(file, bytes=len(content), sha256=hashlib.sha256(content).hexdigest()))
    commit = msgspec.structs.replace(commit, files=files)
    Path(place.commit_path(name)).write_bytes(commits.encode(commit))
    return name, commit


def values(path):
    """Everything that DuckDB reads from a table, as text, or None where it says that something is wrong."""
    try:
        return repr(duckdb.sql(f"SELECT * FROM read_parquet('{path}')").fetchall())
    except (duckdb.Error, ValueError, OverflowError, RuntimeError):  # a name that is no text any more fails in the binding
        return None


def is_named(place, file):
    """Whether the check of a table raises, and names its file."""
    try:
        commits.check_table(place, file)
    except DamageError as problem:
        return problem.path == place.table_path(file.name)
    return False


@pytest.mark.parametrize("codec", CODECS)
def test_each_changed_byte_is_named(place, codec, seed, figure):
    """500 random bytes changed, one at a time: every time the table's file is named, and no line is read from it."""
    name, commit = recoded(place, codec)
    whole = [line for _, _, line in restore.lines(place, name, commit)]
    contents = {file.name: Path(place.table_path(file.name)).read_bytes() for file in commit.files}
    right = {file.name: values(place.table_path(file.name)) for file in commit.files}
    chance = random.Random(seed)
    silent, quiet = 0, []
    for trial in range(FLIPS):
        file = chance.choice(commit.files)
        path, content = Path(place.table_path(file.name)), contents[file.name]
        at, bit = chance.randrange(len(content)), 1 << chance.randrange(8)
        path.write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
        commits._whole.clear()
        silent += not is_named(place, file)
        if trial % 10 == 0:
            quiet.append(values(path) not in {None, right[file.name]})
            with pytest.raises(DamageError, match="SHA-256"):
                list(restore.lines(place, name, commit))
        path.write_bytes(content)
    commits._whole.clear()
    assert [line for _, _, line in restore.lines(place, name, commit)] == whole
    figure(f"{codec}: {FLIPS} bytes changed, {silent} not named; DuckDB alone found {sum(quiet)} of {len(quiet)} right")
    assert silent == 0
    if codec == "uncompressed":
        assert sum(quiet) > 10  # the control: without the digest somebody would have been told wrong values


def test_a_ruined_record_is_found_by_whoever_compacts(place, seed):
    """It does not count, is named, and is not removed: its segments are gone, so it is all there is."""
    ((name, commit),) = commits.load(place)[0].items()
    path = Path(place.table_path(commit.files[0].name))
    content = bytearray(path.read_bytes())
    content[random.Random(seed).randrange(len(content))] ^= 1
    path.write_bytes(content[:-1])
    held = Held(place)
    assert (list(held.counting), list(held.ruined)) == ([], [name])
    done = compact(place, grace_s=0, orphan_s=0, fold=False)
    assert [left.name for left in done.left] == [path.name]
    assert path.exists()
    path.write_bytes(content)
    commits._whole.clear()
    done = compact(place, grace_s=0, orphan_s=0, fold=False)
    assert path.exists()


def test_a_newer_record_keeps_its_tables(place):
    """Of a record in a format that is not known nobody knows which tables it names; so none is removed."""
    ((name, commit),) = commits.load(place)[0].items()
    Path(place.commit_path(name)).write_bytes(commits.encode(msgspec.structs.replace(commit, format=events.FORMAT + 1)))
    done = compact(place, grace_s=0, orphan_s=0, fold=False)
    assert done.orphans == 0
    assert all(os.path.exists(place.table_path(file.name)) for file in commit.files)
    assert any("newer format" in left.why for left in done.left)


HURTS = ("a bit", "more bytes", "no file")


def hurt(path, how):
    """Damage a table in one of three ways."""
    raw = Path(path).read_bytes()
    if how == "no file":
        os.unlink(path)
    else:
        Path(path).write_bytes(raw + b"xxxx" if how == "more bytes" else raw[:100] + bytes([raw[100] ^ 1]) + raw[101:])


@pytest.mark.parametrize("how", HURTS)
@pytest.mark.parametrize("table", ["events", "points"])
def test_a_question_to_damaged_tables_says_that_its_answer_lacks_something(place, caplog, table, how):
    """The catalogue has a snapshot of the runs, so that only whoever asks for points or events can notice."""
    with contextlib.closing(views.open_lab(place.path)) as lab:
        whole = {name: select(lab, f"SELECT count(*) FROM {name}", limit=1)[2] for name in ("runs", "metrics", "events")}
    ((_, commit),) = commits.load(place)[0].items()
    path = place.table_path(commit.table(table).name)
    raw = Path(path).read_bytes()
    hurt(path, how)
    with contextlib.closing(views.open_lab(place.path)) as lab:
        assert select(lab, "SELECT count(*) FROM runs", limit=1)[2] == whole["runs"]
        assert caplog.records == []
        assert select(lab, "SELECT count(*) FROM metrics", limit=1)[2] != whole["metrics"]
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert path in caplog.text
        assert len(lab.problems) == 1
        select(lab, "SELECT count(*) FROM events", limit=1)
        assert len(caplog.records) == 1
        damaged = Path(path).read_bytes() if how != "no file" else None
        Path(path).write_bytes(raw)  # and a reader that has the store open sees that it is whole again
        assert select(lab, "SELECT count(*) FROM metrics", limit=1)[2] == whole["metrics"]
        assert (len(caplog.records), lab.problems) == (1, [])
    os.unlink(path) if damaged is None else Path(path).write_bytes(damaged)
    (found,) = [one for one in checkup.examine(place.path).findings if one.level == "error"]
    assert (found.where, found.what.split(":")[0]) == (path, "missing" if how == "no file" else "bad-checksum")


@pytest.mark.parametrize("how", HURTS)
@pytest.mark.parametrize("table", ["events", "points"])
def test_segments_that_are_put_back_are_read_in_place_of_damaged_tables(place, tmp_path, caplog, table, how):
    """Whatever the cache has: every answer is there again, and nothing is to be warned of."""
    from ailab.joining import join

    copy = store.open_store(str(tmp_path / "copy"), create=True)
    writer = journal.Writer(copy, run="r2")
    writer.append(events.RunStarted(name="y"))
    for i in range(3000):
        writer.append(events.MetricsLogged({"loss": 1 / (i + 1), "acc": i}, i))
    writer.seal()
    backup = store.open_store(str(tmp_path / "backup"), create=True)
    join(backup, copy)
    compact(copy, grace_s=0)
    compact(copy, grace_s=0)
    with contextlib.closing(views.open_lab(copy.path)) as lab:
        whole = select(lab, "SELECT count(*), max(value), count(DISTINCT step) FROM metrics", limit=1)[2]
    ((_, commit),) = commits.load(copy)[0].items()
    hurt(copy.table_path(commit.table(table).name), how)
    for name in backup.segment_names():
        Path(copy.segment_path(name)).write_bytes(Path(backup.segment_path(name)).read_bytes())
    with contextlib.closing(views.open_lab(copy.path)) as lab:
        assert select(lab, "SELECT count(*), max(value), count(DISTINCT step) FROM metrics", limit=1)[2] == whole
    assert caplog.records == []
