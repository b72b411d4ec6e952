"""Data that are to go: said by an event, and then really removed from every file that can be rewritten.

Who writes: `redact` and `purge`, through a writer of their own. What holds: the event comes first and is on the disk before a
byte is removed, so a removal that is killed is finished by the next compaction; readers leave the data out from then on. What is
not promised: copies of the store keep the data until they are merged with this one; those of a segment whose writer lives stay
until it ends.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from . import blobs, capture, commits, events
from .errors import AilabError, FilterError, NotFoundError, RefusedError
from .journal import Writer
from .segments import scan

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from .store import Store

_PERMANENT = frozenset({"event.redacted", "run.purged", "segment.opened", "segment.sealed", "segment.closed"})
"""What tells of segments, and of data that are gone."""


class Remaining(msgspec.Struct, frozen=True):
    """A segment or record that still has the data, and why."""

    name: str
    why: str


class Removal(msgspec.Struct, kw_only=True):
    """What was removed: events whose data are gone, blobs whose bytes are; `left` says what is still to be done.

    `absent` are blobs that were not here; that they are to go is written down all the same, so that no merge brings them.
    """

    events: list[str] = []
    blobs: list[str] = []
    absent: list[str] = []
    bytes: int = 0
    left: list[Remaining] = []


def parse_event(text: str) -> tuple[str, int]:
    """(segment, seq) of `SEGMENT:SEQ`.

    Raises:
        FilterError: it is none.
    """
    segment, colon, seq = text.rpartition(":")
    if not colon or not segment or not (seq.isascii() and seq.isdigit()):
        hint = 'SEGMENT:SEQ, as `ailab sql "select segment, seq from events"` and `ailab changes --json` give it'
        raise FilterError(f"event {text[:120]!r} is no SEGMENT:SEQ", where="event", hint=hint)
    return segment, int(seq)


def redact(store: Store, lines: Sequence[tuple[str, int]], *, digests: Sequence[str] = (), reason: str = "") -> Removal:
    """Remove the data of events, and the bytes of blobs.

    Args:
        store: the store.
        lines: events as (segment, seq).
        digests: SHA-256 of blobs.
        reason: kept with the event that says so.

    Raises:
        NotFoundError: a segment or event is not there.
        FilterError: a text is no digest.
        RefusedError: an event tells of segments or of other removals.
    """
    for digest in digests:
        if not blobs.is_digest(digest):
            raise FilterError(f"blob {digest[:80]!r} is no SHA-256", where="blob", hint="64 lower-case hexadecimal digits")
    for segment, seq in lines:
        _check(store, segment, seq)
    with _writing(store) as writer:
        for segment, seq in lines:
            writer.append(events.EventRedacted(segment=segment, seq=seq, reason=reason))
        for digest in digests:
            writer.append(events.EventRedacted(sha256=digest, reason=reason))
        writer.sync()
    done = _rewrite(store, lines, ()) if lines else Removal()
    for digest in digests:
        size = remove_blob(store, digest)
        (done.absent if size is None else done.blobs).append(digest)
        done.bytes += size or 0
    return done


def purge(store: Store, runs: Collection[str], *, reason: str = "") -> Removal:
    """Remove the data of every event of some runs; what only they named is for `collecting` to find."""
    with _writing(store) as writer:
        for run in sorted(runs):
            writer.append(events.RunPurged(reason=reason), run=run)
        writer.sync()
    return _rewrite(store, (), runs)


def remove_blob(store: Store, digest: str) -> int | None:
    """Remove a blob; return its bytes, None where it was not there."""
    path = store.blob_path(digest)
    try:
        size = os.stat(path).st_size
        os.unlink(path)
    except FileNotFoundError:
        return None
    return size


class _writing:  # noqa: N801  (used as a function is)
    """A writer for what a person says at a command line; sealed at the end."""

    def __init__(self, store: Store) -> None:
        self._writer = Writer(store, via="cli", by=capture.user_name(), strict=True)

    def __enter__(self) -> Writer:
        return self._writer

    def __exit__(self, *problem: object) -> None:
        self._writer.seal()


def _rewrite(store: Store, lines: Sequence[tuple[str, int]], runs: Collection[str]) -> Removal:
    from .views import compact

    try:
        done = compact.redact(store, lines, runs=runs)
    except RefusedError as problem:  # it is said, and the compaction that is at work or the next one does it
        return Removal(left=[Remaining("compaction", problem.message)])
    except (AilabError, OSError) as problem:
        return Removal(left=[Remaining("tables", str(problem))])
    return Removal(
        events=[f"{segment}:{seq}" for segment, seq in done.done], left=[Remaining(one.name, one.why) for one in done.left]
    )


def _check(store: Store, segment: str, seq: int) -> None:
    """Make sure that an event is there, and may be redacted."""
    kind = _kind(store, segment, seq)
    if kind is None:
        raise NotFoundError("event", f"{segment}:{seq}", hint='`ailab sql "select segment, seq, kind from events"` lists them')
    if kind in _PERMANENT:
        raise RefusedError(f"an event of kind {kind} holds the store together and has no data of yours: {segment}:{seq}")


def _kind(store: Store, segment: str, seq: int) -> str | None:
    path = store.segment_path(segment)
    if os.path.basename(segment) == segment and os.path.exists(path):
        for event in scan(path, mode="salvage"):
            if event.seq == seq:
                return event.kind
    found, _ = commits.load(store)
    chosen = commits.choose(found).get(segment, ())
    if not chosen:
        return None
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    for name, _ in chosen:
        for file in found[name].files:
            wanted = (pc.field("segment") == segment) & (pc.field("seq") == seq)
            columns = ["seq", "kind"] if file.table == "events" else ["seq"]
            rows = pq.read_table(store.table_path(file.name), columns=columns, filters=wanted).to_pylist()
            for row in rows:
                kind = row.get("kind", events.MetricsLogged.kind)
                if kind is not None:
                    return str(kind)
    return None
