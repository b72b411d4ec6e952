"""Dead writers' segments are closed by readers, once for the same bytes; a writer wrongly taken as gone loses nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path

import pytest
from handmade import Pen

from ailab import closing, events, journal, store, verification
from ailab.views.compact import compact


@pytest.fixture
def place(tmp_path):
    return store.open_store(str(tmp_path / "store"), create=True)


def aged(path, seconds):
    moment = time.time() - seconds
    os.utime(path, (moment, moment))


def closed(place):
    """What a reader of its own says of dead writers now."""
    writer = journal.Writer(place, via="server")
    said = closing.close_dead(place, writer)
    writer.seal()
    return said


# -- closing -----------------------------------------------------------------------------------------------------------


def test_a_killed_writer_is_closed_with_its_bytes(place, scripts):
    """Bytes up to the last newline, their SHA-256, and what is torn behind; the file itself is not touched."""
    source = """
        import os, sys
        from ailab import events, journal, store
        writer = journal.Writer(store.Store(sys.argv[1]), run="r1")
        writer.append(events.RunStarted(name="x"))
        os.write(writer._get()[0], b'{"seq":2,')
        print(writer.name, os.getpid(), flush=True)
        os.kill(os.getpid(), 9)
    """
    name, pid = scripts.run(source, place.path, code=-9).stdout.split()
    path = Path(place.segment_path(name))
    before = path.read_bytes(), path.stat().st_mtime_ns
    whole = before[0].rpartition(b"\n")[0] + b"\n"
    assert closed(place) == [
        events.SegmentClosed(
            segment=name, bytes=len(whole), sha256=hashlib.sha256(whole).hexdigest(), torn_bytes=9,
            reason=f"process {pid} of this machine is gone",
        )
    ]  # fmt: skip
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_the_same_bytes_are_closed_once(place):
    """A second reader says nothing; when the file has grown it says so of the new length."""
    pen = Pen(place.path, "r1").point('{"a":1.0}')
    aged(pen.path, 601)
    assert [said.bytes for said in closed(place)] == [len(pen.content)]
    assert closed(place) == []
    pen.point('{"a":2.0}')
    assert closed(place) == []
    aged(pen.path, 601)
    assert [said.bytes for said in closed(place)] == [len(pen.content)]


def test_another_machines_writer_is_closed_after_ten_silent_minutes(place):
    """And the reason says how long it was silent."""
    pen = Pen(place.path, "r1")
    aged(pen.path, 595)
    assert closed(place) == []
    aged(pen.path, 700)
    (said,) = closed(place)
    assert said.reason.startswith("the file has not changed for 70")


def test_who_is_there_or_has_ended_is_not_closed(place):
    """Living writers, sealed segments, copies, newer formats, files without one whole line, and the reader's own segment."""
    living = journal.Writer(place, run="living")
    living.append(events.RunStarted(name="x"))
    done = journal.Writer(place, run="done")
    done.append(events.RunStarted(name="x"))
    done.seal()
    dead = Pen(place.path, "dead").point('{"a":1.0}')
    shutil.copy(dead.path, place.segment_path("copy"))
    newer = Pen(place.path, "newer", number=2, header=False)
    newer.line(
        f'"kind":"segment.opened","run":"newer","data":{{"format":2,"segment":"{newer.name}","ailab":"9","host":"h","pid":1}}'
    )
    Pen(place.path, "torn", number=3, header=False).raw(b'{"seq":0,"a')
    for name in place.segment_names():
        aged(place.segment_path(name), 3600)
    assert [said.segment for said in closed(place)] == [dead.name]
    living.seal()


# -- whose word counts -------------------------------------------------------------------------------------------------


def say(pen, told, *, wrong=False):
    """Have a segment say of another how far it goes."""
    size, sha256 = (10**8, "0" * 64) if wrong else (len(told.content), hashlib.sha256(told.content).hexdigest())
    return pen.line(f'"kind":"segment.closed","data":{{"segment":"{told.name}","bytes":{size},"sha256":"{sha256}"}}')


def accept(pen, *sent):
    """Have a segment of this store say which token sent which segments."""
    for token, other in sent:
        text = "" if token is None else f',"token":"{token}"'
        pen.line(f'"kind":"segment.accepted","data":{{"segment":"{other.name}"{text}}}')
    return pen


@pytest.mark.parametrize("token", ["evil", None])
@pytest.mark.parametrize("wrong", [True, False])
def test_a_sender_says_nothing_of_what_others_sent_or_wrote(place, wrong, token):
    """Neither spoils a false word a segment, nor ends a true one it early; as files and from tables."""
    mine, theirs, follower = (Pen(place.path, f"r{i}", number=i).point('{"a":1.0}') for i in range(3))
    teller, server = Pen(place.path, number=4), Pen(place.path, number=5)
    for told in (mine, theirs):
        say(teller, told, wrong=wrong)
    accept(server, (token, teller), ("other", theirs), ("other", follower))
    assert verification.verify(place).sound
    teller.seal()
    server.seal()
    for live in (3, 3):
        done = compact(place, grace_s=0)
        assert (done.live, done.left) == (live, [])
        assert verification.verify(place).sound
    assert not os.path.exists(teller.path)
    for pen in (mine, theirs, follower):
        aged(pen.path, 601)
    done = compact(place)
    assert (done.closed, done.segments, done.live, done.left) == (3, 4, 0, [])
    assert verification.verify(place).sound


def test_who_sent_a_segment_says_how_far_it_goes(place):
    """A store that was shipped is held against its own closings; not so once somebody who did not send it had a hand in them."""
    told, teller, server = Pen(place.path, "r1").point('{"a":1.0}'), Pen(place.path, number=2), Pen(place.path, number=3)
    say(teller, told, wrong=True)
    accept(server, ("one", told), ("two", told), ("one", teller))
    assert [finding.kind for finding in verification.verify(place).findings if finding.level == "error"] == ["gap"]
    accept(server, ("three", teller))
    assert verification.verify(place).sound


def test_a_sender_has_no_segment_of_another_followed(place):
    """A header that names somebody's live segment as the one before it does not make that one's missing footer a damage."""
    mine, server = Pen(place.path, "r1").point('{"a":1.0}'), Pen(place.path, number=2)
    next_ = Pen(place.path, "r1", number=3, header=False)
    fields = f'"format":1,"segment":"{next_.name}","ailab":"9","host":"h","pid":1,"previous":"{mine.name}"'
    next_.line(f'"kind":"segment.opened","run":"r1","data":{{{fields}}}')
    assert not verification.verify(place).sound
    accept(server, ("evil", next_))
    assert verification.verify(place).sound
    accept(server, ("evil", mine))
    assert not verification.verify(place).sound


# -- a writer whose file was removed -----------------------------------------------------------------------------------


def lines(place, name):
    return [(line.seq, line.kind) for line in journal.scan(place.segment_path(name), mode="strict")]


@pytest.mark.parametrize("what", ["event", "heartbeat", "point", "seal"])
def test_a_removed_file_comes_back(place, what):
    """With every byte, under its name, at the next event, heartbeat or end; points follow at the writer's next look."""
    writer = journal.Writer(place, run="r1")
    writer.append(events.RunStarted(name="x"))
    log = writer.metrics_logger("r1", lambda values, step, _: writer.append(events.MetricsLogged(values, step)))
    log({"a": 1.0}, 0)
    os.unlink(place.segment_path(writer.name))
    log({"a": 2.0}, 1)
    assert place.segment_names() == []
    if what == "event":
        writer.append(events.NoteChanged(note="n"))
    elif what == "heartbeat":
        writer.beat()
    elif what == "point":
        writer.look()
        log({"a": 3.0}, 2)
    if what != "seal":
        assert [seq for seq, _ in lines(place, writer.name)] == [0, 1, 2, 3, 4]
    log({"a": 4.0}, 3)
    writer.seal()
    assert [seq for seq, _ in lines(place, writer.name)] == list(range(6 if what == "seal" else 7))
    assert place.segment_names() == [writer.name]
    assert writer.dropped == 0


def test_a_removed_file_whose_name_is_taken(place):
    """Another file of that name is not touched; the writer goes on in a segment of its own."""
    writer = journal.Writer(place, run="r1")
    writer.append(events.RunStarted(name="x"))
    first = writer.name
    content = Path(place.segment_path(first)).read_bytes()
    os.unlink(place.segment_path(first))
    Path(place.segment_path(first)).write_bytes(content)
    writer.append(events.NoteChanged(note="n"))
    writer.seal()
    assert Path(place.segment_path(first)).read_bytes() == content
    assert [kind for _, kind in lines(place, writer.name)] == ["segment.opened", "note.changed", "segment.sealed"]


def test_a_file_that_cannot_come_back_is_tried_again(place):
    """While the folder cannot be written the event waits, and no half of a file stands in the place."""
    writer = journal.Writer(place, run="r1")
    writer.append(events.RunStarted(name="x"))
    os.rename(place.segments, place.segments + "-away")
    os.unlink(os.path.join(place.segments + "-away", f"{writer.name}.jsonl"))
    Path(place.segments).touch()
    assert writer.append(events.NoteChanged(note="n")) is None
    os.unlink(place.segments)
    os.mkdir(place.segments)
    writer.append(events.NoteChanged(note="m"))
    assert [kind for _, kind in lines(place, writer.name)] == ["segment.opened", "run.started", "note.changed", "note.changed"]
    writer.seal()
