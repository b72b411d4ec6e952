"""Compaction killed, or failed by the disk, at every system call: every event is there once, and the next one cleans up."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path

import injected
import oracle
import pytest
from handmade import Pen

from ailab import commits, events, journal, store
from ailab.views import compact, record
from ailab.views.batch import Batch

SHORT_SECONDS = 25.0
"""What a short form of one kind of fault takes, about."""

pytestmark = pytest.mark.skipif(injected.missing() is not None, reason=injected.missing() or "")


@pytest.fixture
def folder(tmp_path):
    """A folder in memory where there is one: hundreds of stores are written, and what is killed is a process, not a disk."""
    found = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else tmp_path))
    yield found
    shutil.rmtree(found)


def training(place, run):
    """A sealed run with a note as its third line; its segment's name."""
    writer = journal.Writer(place, run=run)
    writer.append(events.RunStarted(name=run))
    writer.append(events.NoteChanged(note=f"a note of {run}"))
    for i in range(70):
        writer.append(events.MetricsLogged({"loss": 1 / (i + 1)}, i))
    writer.append(events.RunFinished(status="completed"))
    writer.seal()
    return writer.name


def prepared(folder):
    """A store in which a compaction has everything to do: close, rewrite, merge, redact, remove segments, records and the rest.

    Returns:
        (the store's folder, the writer of its live segment).
    """
    place = store.open_store(str(folder / "template"), create=True)
    names = []
    for run, grace_s in (("a", 0.0), ("b", 3600.0)):
        names.append(training(place, run))
        compact.compact(place, fold=False, merge_records=100, grace_s=grace_s)
    names.append(training(place, "c"))
    person = journal.Writer(place, via="cli")
    for name in names[1:]:
        person.append(events.EventRedacted(segment=name, seq=2))
    person.seal()
    dead = Pen(place.path, "dead").point('{"loss":0.5}').torn(b'{"seq":9').point('{"loss":0.25}')
    dead.raw(b'{"seq":4,"at"')
    moment = time.time() - 3600
    os.utime(dead.path, (moment, moment))
    for name in ("orphan.events.parquet", ".tmp-1-x"):
        Path(place.compacted, name).write_bytes(b"PAR1")
    Path(place.claims).mkdir(exist_ok=True)
    Path(place.claims, ".now-compaction-1-x").touch()
    living = journal.Writer(place, run="living")
    living.append(events.RunStarted(name="living"))
    return Path(place.path), living


def lines_of(path):
    """Every line of the store by an independent reading, as a list for each segment."""
    return {name: reader.lines for name, reader in oracle.read(path, []).items()}


def compare(path, before, after, what):
    """See that an independent reading finds each line as it was or will be, and besides only segments of compactions."""
    readers = oracle.read(path, [])
    lost = [
        name
        for name, lines in before.items()
        if name not in readers
        or len(readers[name].lines) != len(lines)
        or any(found not in both for found, *both in zip(readers[name].lines, lines, after[name], strict=True))
    ]
    assert not lost, f"{what}: other bytes in {lost}"
    allowed = {"segment.opened", "segment.closed", "segment.sealed"}
    kinds = {event.kind for name, reader in readers.items() if name not in before for event in reader.events.values()}
    assert kinds <= allowed, f"{what}: {kinds - allowed} from nowhere"


def changed(before, after):
    """The lines that a compaction is to change, and what becomes of them."""
    return [pair for name, lines in before.items() for pair in zip(lines, after[name], strict=True) if pair[0] != pair[1]]


def tidy(path, what):
    """See that the next compaction succeeds, and that then every file of the store is one that should be there."""
    done = compact.compact(store.Store(str(path)), grace_s=0, orphan_s=0, merge_records=2, fold=False)
    assert (done.busy, done.left) == (None, []), f"{what}: {done}"
    records = oracle.commit_records(path, problems := [])[0]
    assert problems == [], f"{what}: {problems}"
    named = {f"{record['name']}.json" for record in records} | {file["name"] for record in records for file in record["files"]}
    assert set(os.listdir(path / "compacted")) == named, f"{what}: {set(os.listdir(path / 'compacted')) ^ named}"
    assert os.listdir(path / "claims") == [], what
    assert len(os.listdir(path / "segments")) == 1, f"{what}: {os.listdir(path / 'segments')}"


def trials(calls, faults):
    """(call, N, fault) of every trial, in an order whose beginning is spread over all of it; one opening after four others."""
    every = [(call, n, fault) for fault in faults for call, count in calls.items() for n in range(1, count + 1)]
    spread = [every[i] for i in sorted(range(len(every)), key=lambda i: i * 0.6180339887 % 1)]
    others, openings = ([one for one in spread if (one[0] == "openat") is is_opening] for is_opening in (False, True))
    found = []
    while others or openings:
        found += others[:4] + openings[:1]
        others, openings = others[4:], openings[1:]
    return found


def run_trials(folder, faults, seconds, control="", *, figure=print):
    """Do the trials; tell and return how they ended."""
    path, living = prepared(folder)
    before = lines_of(path)
    ended = Counter()
    with injected.Zygote(control) as zygote:
        began = time.monotonic()
        with copied(path, living) as copy:
            calls = zygote.calls(copy)
            after = {name: lines for name, lines in lines_of(copy).items() if name in before}
            compare(copy, before, after, "untouched")
        assert [one.count(b"a note of ") for one, _ in changed(before, after)] == [1, 1]
        assert [other.count(b'"data"') for _, other in changed(before, after)] == [0, 0]
        for call, n, fault in trials(calls, faults):
            if seconds is not None and time.monotonic() - began > seconds:
                break
            what = f"{call} number {n}: {fault}"
            with copied(path, living) as copy:
                ended[zygote.trial(copy, f"{call}:{fault}:when={n}")] += 1
                compare(copy, before, after, what)
                tidy(copy, what)
                compare(copy, after, after, f"{what}, after the next compaction")
    total = sum(calls.values()) * len(faults)
    took = time.monotonic() - began
    figure(f"{sum(ended.values())} of {total} faults at {calls}: ended {dict(ended)}, {took:.0f} s")
    living.seal()
    return ended


@contextmanager
def copied(path, living):
    """A copy of the store, whose live segment is held as its writer holds it."""
    copy = path.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(path, copy, copy_function=shutil.copy2)
    with (copy / "segments" / f"{living.name}.jsonl").open("rb+") as file:
        flock(file, LOCK_EX)
        os.utime(file.fileno())
        yield copy


KILL = ["signal=SIGKILL"]
FAIL = ["error=ENOSPC", "error=EIO"]


@pytest.mark.parametrize("seconds", [SHORT_SECONDS, pytest.param(None, marks=pytest.mark.long)])
def test_killed_at_any_call(folder, seconds, figure):
    """G8: at the entry of each write, flush, rename, link, removal and opening; nothing lost, nothing twice, nothing left."""
    ended = run_trials(folder, KILL, seconds, figure=figure)
    figure(f"{ended[-9]} kills fell")  # threads count for themselves, so some numbers are never reached
    assert set(ended) <= {0, -9}
    assert ended[-9] > 10


@pytest.mark.parametrize("seconds", [SHORT_SECONDS, pytest.param(None, marks=pytest.mark.long)])
def test_failed_at_any_call(folder, seconds, figure):
    """G8: a full disk and a broken one; it ends with an error or without, never by a signal, and the store is as it was."""
    ended = run_trials(folder, FAIL, seconds, figure=figure)
    assert set(ended) <= {0, 1}
    figure(f"{ended[1]} ended with an error")
    assert ended[1] > 10


@pytest.mark.parametrize("control", ["removed_first", "replaced_first"])
def test_the_kills_find_a_compaction_that_loses(folder, control):
    """Controls: one that removes segments, one that removes records, before what replaces them is there."""
    with pytest.raises(AssertionError, match="other bytes in"):
        run_trials(folder, KILL, None, control)


def test_what_is_left_behind_is_found(folder, monkeypatch):
    """Control: a compaction that does not remove what killed ones left is found."""
    monkeypatch.setattr(compact, "remove_orphans", lambda *_args, **_kwargs: [])
    with pytest.raises(AssertionError, match=r"\.parquet"):
        run_trials(folder, KILL, 5.0)


def test_a_wrong_table_is_never_committed(folder, monkeypatch):
    """A table that gives back another value is noticed before its record appears; without the proof it would count."""
    path, living = prepared(folder)
    place, before = store.Store(str(path)), lines_of(path)
    take = Batch._take_point

    def wrong(self, n, raw, event, prev):
        taken = take(self, n, raw, event, prev)
        for points in self._here.values():
            if points.rows:
                *rest, last = points.rows[-1]
                points.rows[-1] = (*rest, last + 1.0)
        return taken

    monkeypatch.setattr(Batch, "_take_point", wrong)
    with pytest.raises(ValueError, match="tables do not give back"):
        compact.compact(place, grace_s=0, orphan_s=0, fold=False)
    compare(path, before, before, "with the proof")
    tables = {file.name for commit in commits.load(place)[0].values() for file in commit.files}
    assert {name for name in os.listdir(place.compacted) if name.endswith(".parquet")} == tables
    monkeypatch.setattr(record, "prove", lambda *_: None)
    compact.compact(place, grace_s=0, orphan_s=0, fold=False)
    with pytest.raises(AssertionError, match="other bytes in"):
        compare(path, before, before, "without the proof")
    living.seal()
