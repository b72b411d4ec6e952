"""Segments whose writer is gone: a reader says so in a segment of its own, and how far their files go.

Who writes: whoever calls `close_dead`, through a writer of its own; no byte of the dead segment is ever touched. What holds: a
closing is a statement about the bytes that were there; should the writer prove alive and go on, the bytes behind belong to a
later closing, and nothing is damage. What is not promised: that a writer on another machine is gone; silence is all that tells.

Whose word counts: what this store's own processes say, of any segment; what a segment says that came through a server, only of
segments that the same tokens sent. So no sender can have anybody else's segment taken as damaged, and a store that is shipped is
still held against its own closings. Where a word does not count, silence tells the server's own compaction the same.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from . import capture, claims, commits, events
from .segments import Envelope, Segment, stated_crc, writer_alive
from .store import run_of_segment

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from .commits import Chosen
    from .journal import Writer
    from .store import Store

ELSEWHERE_SECONDS = 600.0
"""A segment of another machine is closed when it has not changed for so long: ten times what makes its run a crashed one."""

SAYING = (events.SegmentClosed.kind, events.SegmentAccepted.kind)
"""Kinds that `Closings` learns from."""
_decoder = msgspec.json.Decoder(Envelope)
_HEAD = 1 << 16
_TAIL = 1 << 14


class Closings:
    """What was said of segments' ends, and who sent those that came through a server; segments go by their name at birth.

    Args:
        known: what it begins with.
    """

    def __init__(self, known: Closings | None = None) -> None:
        self._said: dict[str, list[tuple[str, events.SegmentClosed]]] = {}
        self._senders: dict[str, set[str | None]] = {}
        if known is not None:
            self._said = {segment: list(said) for segment, said in known._said.items()}
            self._senders = {segment: set(senders) for segment, senders in known._senders.items()}

    def take(self, teller: str, kind: str, data: bytes | msgspec.Raw) -> None:
        """Learn from an event of one of the kinds `SAYING` in segment `teller`; what does not fit its kind says nothing."""
        try:
            said = msgspec.json.decode(data, type=events.KINDS[kind])
        except (msgspec.DecodeError, RecursionError):
            return
        if isinstance(said, events.SegmentClosed):
            self._said.setdefault(said.segment, []).append((teller, said))
        elif isinstance(said, events.SegmentAccepted):
            self._senders.setdefault(said.segment, set()).add(said.token)

    def is_received(self, segment: str) -> bool:
        """Whether it came through a server."""
        return segment in self._senders

    def counts(self, teller: str, segment: str) -> bool:
        """Whether what one segment says of another counts: it is of this store, or whoever sent it has sent the other too."""
        return self._senders.get(teller, set()) <= self._senders.get(segment, set())

    def of(self, segment: str) -> list[events.SegmentClosed]:
        """The closings of a segment that count."""
        return [said for teller, said in self._said.get(segment, ()) if self.counts(teller, segment)]

    def segments(self) -> list[str]:
        """Those of which something was said, whether it counts or not."""
        return list(self._said)


def close_dead(
    store: Store, writer: Writer, *, known: Closings | None = None, chosen: Chosen | None = None
) -> list[events.SegmentClosed]:
    """Close every segment whose writer is gone, unless that was said of the same bytes before; return what was said.

    Args:
        store: the store.
        writer: appends the events; its own segment is left alone.
        known: closings that lie in tables; those in segments are looked for here.
        chosen: the spans that count; by default those of the store's commit records.
    """
    names = store.segment_names()
    covered = commits.choose(commits.load(store)[0]) if chosen is None else chosen
    said = closings_in_segments(store, names, known)
    now = claims.file_time(store)
    found = []
    for name in names:
        closing = _closing_of(store, name, covered, now=now)
        if closing is None or name == writer.name or any(_is_same(closing, other) for other in said.of(closing.segment)):
            continue
        writer.append(closing)
        found.append(closing)
    return found


def closings_in_segments(store: Store, names: Iterable[str], known: Closings | None = None) -> Closings:
    """What segments say of others' ends, and what is known besides."""
    found = Closings(known)
    for name, event in said_in_segments(store, names, SAYING):
        found.take(name, event.kind, event.data)
    return found


def said_in_segments(store: Store, names: Iterable[str], kinds: Collection[str]) -> Iterator[tuple[str, Envelope]]:
    """(segment, event) of some kinds in segments without a run, which alone say such things, wherever the rest is damaged."""
    wanted = [b'"kind":"' + kind.encode() + b'"' for kind in kinds]
    for name in names:
        if run_of_segment(name) is not None:
            continue
        try:
            with open(store.segment_path(name), "rb") as file:
                lines = [line for line in file if any(mark in line for mark in wanted)]
        except OSError:  # removed since, or named by whoever reads events
            continue
        for line in lines:
            event = _decode(line[:-1])
            if event is not None and event.kind in kinds:
                yield name, event


def is_closed_at(closings: Closings, segment: str, end: int, sha256: str) -> bool:
    """Whether somebody said that the segment ends at `end`, and these were its bytes."""
    return any(said.bytes == end and said.sha256 == sha256 for said in closings.of(segment))


def contradicting(closings: Closings, segment: str, content: bytes) -> events.SegmentClosed | None:
    """A closing of the segment that its bytes do not bear out: they are fewer, or others."""
    import hashlib

    for said in closings.of(segment):
        if said.bytes > len(content) or hashlib.sha256(content[: said.bytes]).hexdigest() != said.sha256:
            return said
    return None


def _closing_of(store: Store, name: str, chosen: Chosen, *, now: float) -> events.SegmentClosed | None:
    """What is to be said of a file: None unless its writer is gone, and it has no footer, and lines that no table has."""
    import hashlib

    end = chosen[name][-1][1].end if name in chosen else 0
    path = store.segment_path(name)
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size <= end or has_footer(file.fileno(), status.st_size):
                return None
            segment = Segment(name, path)
            segment.feed(file.readline(_HEAD))
            if segment.birth != name and (segment.birth in chosen or os.path.exists(store.segment_path(segment.birth))):
                return None  # a copy
            reason = _gone(segment, quiet_s=now - status.st_mtime, now=now)
            if reason is None:
                return None
            file.seek(0)
            content = file.read()
    except OSError:  # removed since, or named by whoever reads events
        return None
    whole = content.rfind(b"\n") + 1
    if whole <= end:
        return None
    return events.SegmentClosed(
        segment=segment.birth,
        bytes=whole,
        sha256=hashlib.sha256(memoryview(content)[:whole]).hexdigest(),
        torn_bytes=len(content) - whole,
        reason=reason,
    )


def _gone(segment: Segment, *, quiet_s: float, now: float) -> str | None:
    """Why the writer is taken as gone; None while it is not."""
    if segment.refused or writer_alive(segment, now=now):
        return None
    header = segment.header
    if header is not None and (header.boot, header.host) == (capture.boot_id(), capture.host_name()):
        return f"process {header.pid} of this machine is gone"
    if quiet_s < ELSEWHERE_SECONDS:
        return None
    return f"the file has not changed for {quiet_s:.0f} seconds"


def has_footer(fd: int, size: int) -> bool:
    """Whether the last line is a footer; whether it fits is for others to find."""
    tail = os.pread(fd, _TAIL, max(0, size - _TAIL))
    line = tail[tail.rfind(b"\n", 0, -1) + 1 : -1]
    said = _decode(line) if tail.endswith(b"\n") else None
    return said is not None and said.kind == events.SegmentSealed.kind


def _decode(line: bytes) -> Envelope | None:
    """A line's event, if it is whole and right."""
    if stated_crc(line) is None:
        return None
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _is_same(one: events.SegmentClosed, other: events.SegmentClosed) -> bool:
    return (one.bytes, one.sha256) == (other.bytes, other.sha256)
