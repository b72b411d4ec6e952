"""Records rewritten: many small ones become one, and lines whose data are to go lose them.

Who works: whoever holds the claim `compaction`. What holds: the new record has every byte that counts in those that it names, and
is proved like any other before it appears; until they are removed both are there, and `commits.choose` takes the new one. A
redacted line keeps its envelope and the checksum that it had. What is not promised: that a copy of the store loses the data too;
but it does so when it is joined with one that knows of the redaction, and compacted.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .. import closing, commits, events
from ..segments import Envelope
from . import record, restore
from .batch import Batch
from .fold import removed_by

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    import duckdb

    from ..commits import Commit
    from ..leftovers import Held
    from ..segments import Span
    from ..store import Store

MERGE_BYTES = 512 << 20
"""Bytes of lines in a record that others are merged into, about; so much is in memory at once, halved."""
MERGE_RECORDS = 16
"""So many small records of one level are made one."""
MERGE_MOST = 64
"""Records that are merged at once; each has its tables open."""

_decode = msgspec.json.Decoder(Envelope).decode
_REMOVING = (events.EventRedacted.kind, events.RunPurged.kind)


class Redactions:
    """Which lines are to lose their data.

    Attributes:
        lines: sequence numbers by segment.
        runs: all of whose events are, but not the purge itself.
    """

    def __init__(self, lines: Iterable[tuple[str, int]] = (), runs: Iterable[str] = ()) -> None:
        self.lines: dict[str, set[int]] = {}
        self.runs: set[str] = set()
        self.add(lines, runs)

    def add(self, lines: Iterable[tuple[str, int]], runs: Iterable[str]) -> None:
        """Add lines as (segment, seq), and runs."""
        self.runs.update(runs)
        for segment, seq in lines:
            self.lines.setdefault(segment, set()).add(seq)

    def __bool__(self) -> bool:
        return bool(self.lines or self.runs)

    def take(self, kind: str, run: str | None, data: bytes | str) -> None:
        """Learn from an event."""
        if kind not in _REMOVING:
            return
        try:
            purged, redacted = removed_by(kind, run, data)
        except msgspec.DecodeError:  # it does not fit its kind, and so names nothing
            return
        self.add([] if redacted is None else [redacted], [] if purged is None else [purged])

    def has(self, segment: str, event: Envelope) -> bool:
        """Whether this event is among them."""
        return event.kind not in _REMOVING and (event.seq in self.lines.get(segment, ()) or event.run in self.runs)

    def numbers(self, span: Span, lines: Sequence[tuple[bytes, Envelope | None]]) -> set[int]:
        """Numbers `n` of the lines of a span that are among them."""
        if not self:
            return set()
        return {n for n, (_, event) in enumerate(lines, span.line) if event is not None and self.has(span.segment, event)}


def said_in_tables(held: Held, closings: closing.Closings, redactions: Redactions) -> None:
    """Learn what events in tables say of segments' ends and senders, and of data that are to go."""
    kinds, columns = [*closing.SAYING, *_REMOVING], ["segment", "kind", "run", "data"]
    for name, commit in held.counting.items():
        table = commit.table("events")
        if table is None or held.why_not_whole(name) is not None:
            continue
        found = pq.read_table(held.store.table_path(table.name), columns=columns, filters=_among("kind", kinds))
        for row in found.to_pylist():
            if row["kind"] in closing.SAYING:
                closings.take(row["segment"], row["kind"], (row["data"] or "{}").encode())
            else:
                redactions.take(row["kind"], row["run"], row["data"] or "{}")


def said_in_segments(store: Store, names: Iterable[str], redactions: Redactions) -> None:
    """Learn what events of writers without a run say of data that are to go."""
    for _, event in closing.said_in_segments(store, names, _REMOVING):
        redactions.take(event.kind, event.run, bytes(event.data))


def has_bytes_of(held: Held, name: str, redactions: Redactions) -> bool:
    """Whether a record has data that are to go."""
    if not redactions:
        return False
    for file in held.counting[name].files:
        columns = ["segment", "seq", "run", *(["kind", "crc"] if file.table == "events" else [])]
        wanted = _among("segment", redactions.lines) | _among("run", redactions.runs)
        if file.table == "events":
            wanted = wanted & pc.field("crc").is_null() & pc.field("kind").is_valid()
        for batch in pq.read_table(held.store.table_path(file.name), columns=columns, filters=wanted).to_batches():
            for row in batch.to_pylist():
                gone = row["run"] in redactions.runs or row["seq"] in redactions.lines.get(row["segment"], ())
                if gone and row.get("kind") not in _REMOVING:
                    return True
    return False


def _among(column: str, texts: Iterable[str]) -> pc.Expression:
    return pc.field(column).isin(pa.array(list(texts), pa.string()))


def without_data(held: Held, lines: Collection[tuple[str, int]]) -> set[tuple[str, int]]:
    """Those of some lines, as (segment, seq), that lie in tables without their data."""
    segments = sorted({segment for segment, _ in lines})
    found: set[tuple[str, int]] = set()
    for commit in held.counting.values():
        table = commit.table("events")
        if table is not None and any(span.segment in segments for span in commit.spans):
            wanted = _among("segment", segments) & pc.field("crc").is_valid()
            rows = pq.read_table(held.store.table_path(table.name), columns=["segment", "seq"], filters=wanted)
            found.update(zip(rows["segment"].to_pylist(), rows["seq"].to_pylist(), strict=True))
    return found & set(lines)


def mergeable(held: Held, *, at_least: int = MERGE_RECORDS, most_bytes: int = MERGE_BYTES) -> list[list[str]]:
    """Groups of small records of one level that are to be made one."""
    counting = {name for spans in held.chosen.values() for name, _ in spans}
    small: dict[int, list[tuple[str, str, int]]] = {}
    for name, commit in held.counting.items():
        size = _size(commit)
        if name in counting and size <= most_bytes // 4:
            small.setdefault(commit.level, []).append((min(span.segment for span in commit.spans), name, size))
    groups: list[list[str]] = []
    for same in small.values():
        if len(same) < at_least:
            continue
        group: list[str] = []
        total = 0
        for _, name, size in sorted(same):
            if group and (total + size > most_bytes or len(group) >= MERGE_MOST):
                groups.append(group)
                group, total = [], 0
            group.append(name)
            total += size
        groups.append(group)
    return [group for group in groups if len(group) > 1]


def _size(commit: Commit) -> int:
    return sum(span.end - span.start for span in commit.spans)


def is_needed(held: Held, name: str) -> bool:
    """Whether a record has lines that no other gives."""
    return any(_joined(held, [name]))


class _Part(NamedTuple):
    """A span of a record that is rewritten."""

    name: str
    span: Span


def rewrite(
    held: Held,
    con: duckdb.DuckDBPyConnection,
    names: Sequence[str],
    redactions: Redactions,
    *,
    may: Callable[[], str | None],
    beat: Callable[[], object],
) -> tuple[str, Commit, str | None]:
    """Write the lines that count in some records as one record of the next level, without what is to go.

    Args:
        held: the records as they are.
        con: from `record.connection`.
        names: the records to replace.
        redactions: data that are to go.
        may: asked at the last moment; a sentence says why the record must not be committed.
        beat: called between segments.

    Returns and raises what `record.put` does.
    """
    level = 1 + max(held.counting[name].level for name in names)
    batch = Batch()
    gone: set[tuple[str, int]] = set()
    sources = {name: restore.Source(held.store, name, held.counting[name]) for name in names}
    try:
        for parts in _joined(held, names):
            beat()
            first, last = parts[0].span, parts[-1].span
            whole = msgspec.structs.replace(last, start=first.start, line=first.line)
            numbers: set[int] = set()
            batch.take(whole, _lines(parts, sources, redactions, numbers, gone), numbers)
    finally:
        for source in sources.values():
            source.close()
    return record.put(held.store, con, batch, may=may, level=level, replaces=names, redacted=gone)


def _joined(held: Held, names: Collection[str]) -> Iterator[list[_Part]]:
    """The spans of records that are to be kept, those of one segment that follow each other together."""
    rewritten = {name: held.counting[name] for name in names}
    for segment, spans in sorted(commits.by_segment(rewritten).items()):
        kept = [one for one in held.chosen.get(segment, ()) if one[0] in rewritten]
        behind = [one for one in spans if one[1].end > held.covered(segment)]  # what comes before them is not there
        while behind:
            kept += commits.cover(rewritten, behind, behind[0][1].start, behind[0][1].line)
            behind = [one for one in behind if one[1].end > kept[-1][1].end]
        group: list[_Part] = []
        for name, span in kept:
            if group and group[-1].span.end != span.start:
                yield group
                group = []
            group.append(_Part(name, span))
        if group:
            yield group


def _lines(
    parts: Sequence[_Part],
    sources: Mapping[str, restore.Source],
    redactions: Redactions,
    numbers: set[int],
    gone: set[tuple[str, int]],
) -> Iterator[tuple[bytes, Envelope | None]]:
    """The lines of some spans, one after the other; into `numbers` those without data, into `gone` those that lose them now."""
    for row in itertools.chain.from_iterable(sources[part.name].lines(part.span) for part in parts):
        event = _decode(row.line) if row.counts else None
        if event is not None and (row.redacted or redactions.has(row.segment, event)):
            numbers.add(row.n)
            if not row.redacted:
                gone.add((row.segment, event.seq))
        yield row.line, event
