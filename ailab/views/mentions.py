"""Which blobs events name: what says which files may go, and which must never be copied again.

Who asks: whoever collects what nobody needs, and whoever joins stores. What holds: any text of 64 hexadecimal digits in an event
counts as the name of a blob, also in kinds of events that this version does not know; a place that cannot be read is named, so
that nobody takes its silence for an answer. Every line of every segment and table is looked at, whichever copy of it counts.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .. import closing, events
from ..errors import DamageError
from ..leftovers import Held
from ..segments import Blocks, Envelope, Segment
from ..store import reason_of
from . import rewrite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..store import Store
    from .rewrite import Redactions

_DIGEST = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_decode = msgspec.json.Decoder(Envelope).decode
_NEVER = datetime.min  # noqa: DTZ901  (nobody asks when)
_REMOVING = (events.EventRedacted.kind, events.RunPurged.kind)
_TEXTS = {"events": ("data", "raw"), "points": ("extra", "raw")}


class Mentions(NamedTuple):
    """What the events of a store name.

    Attributes:
        kept: blobs that some event names.
        gone: blobs that events name whose data are to go.
        unreadable: what could not be looked at, and why, in words.
    """

    kept: set[str]
    gone: set[str]
    unreadable: list[str]


class Removals(NamedTuple):
    """What is to go, by everything that a store says: data of events, and blobs."""

    redactions: Redactions
    blobs: set[str]


def removals(store: Store) -> Removals:
    """Which data and blobs are to go."""
    found = Removals(rewrite.Redactions(), set())
    for _, event in closing.said_in_segments(store, store.segment_names(), _REMOVING):
        _learn(event.kind, event.run, bytes(event.data), found)
    held = Held(store)
    for name, commit in held.counting.items():
        table = commit.table("events")
        if table is not None and held.why_not_whole(name) is None:
            wanted = pc.field("kind").isin(_REMOVING)
            rows = pq.read_table(store.table_path(table.name), columns=["kind", "run", "data"], filters=wanted)
            for row in rows.to_pylist():
                _learn(row["kind"], row["run"], (row["data"] or "{}").encode(), found)
    return found


def _learn(kind: str, run: str | None, data: bytes, found: Removals) -> None:
    found.redactions.take(kind, run, data)
    if kind == events.EventRedacted.kind:
        found.blobs.update(_redacted_blob(data))


def mentions(store: Store, redactions: Redactions) -> Mentions:
    """Look at every event.

    Args:
        store: the store.
        redactions: data that are to go, by what this store and others say.
    """
    found = Mentions(set(), set(), [])
    for name in store.segment_names():
        try:
            for raw, birth, event in _lines(store, name, found):
                _take(raw, birth, event, redactions, found)
        except FileNotFoundError:  # in tables meanwhile, which are read behind this
            continue
        except OSError as problem:
            found.unreadable.append(f"segment {name}: {reason_of(problem)}")
    _tables(store, redactions, found)
    return found


def _lines(store: Store, name: str, found: Mentions) -> Iterator[tuple[bytes, str, Envelope]]:
    segment = Segment(name, store.segment_path(name))
    with open(segment.path, "rb") as file:
        for block in Blocks(file):
            for raw, event in segment.feed_lines(block):
                if event is not None:
                    yield raw, segment.birth, event
    damage = [problem for problem in segment.problems if problem.kind != "torn-write"]
    if damage:
        found.unreadable.append(str(damage[0]))


def _take(raw: bytes, segment: str, event: Envelope, redactions: Redactions, found: Mentions) -> None:
    if event.kind == events.EventRedacted.kind:
        return
    digests = {match.decode() for match in _DIGEST.findall(raw)}
    if digests:
        (found.gone if redactions.has(segment, event) else found.kept).update(digests)


def _redacted_blob(data: bytes) -> list[str]:
    """The blob that a redaction names, if it names one."""
    try:
        said = msgspec.json.decode(data, type=events.EventRedacted)
    except msgspec.DecodeError:  # it does not fit its kind, and so names nothing
        return []
    return [said.sha256] if said.sha256 is not None else []


def _tables(store: Store, redactions: Redactions, found: Mentions) -> None:
    held = Held(store)
    found.unreadable.extend(f"commit record {name}: {why}" for name, why in held.problems.items())
    for name, commit in held.counting.items():
        problem = held.why_not_whole(name)
        if problem is not None:
            found.unreadable.append(f"commit record {name}: {problem}")
            continue
        for file in commit.files:
            kinds = ["kind"] if file.table == "events" else []
            columns = ["segment", "seq", "run", *kinds, *_TEXTS[file.table]]
            try:
                with pq.ParquetFile(store.table_path(file.name)) as table:
                    for batch in table.iter_batches(columns=columns):
                        _rows(batch, file.table, redactions, found)
            except (pa.ArrowException, OSError, DamageError) as why:
                found.unreadable.append(f"table {file.name}: {why}")


def _rows(batch: pa.RecordBatch, table: str, redactions: Redactions, found: Mentions) -> None:
    for column in _TEXTS[table]:
        if batch[column].null_count == len(batch):
            continue
        for i, text in enumerate(batch[column].to_pylist()):
            data = text.encode() if isinstance(text, str) else text
            if data is None or not _DIGEST.search(data):
                continue
            kind = batch["kind"][i].as_py() if table == "events" else events.MetricsLogged.kind
            if kind is None:  # a line that does not count, and whatever it names may be needed by whoever mends it
                found.kept.update(match.decode() for match in _DIGEST.findall(data))
            elif column == "raw":
                _take(data, batch["segment"][i].as_py(), _decode(data), redactions, found)
            else:
                event = Envelope(batch["seq"][i].as_py(), _NEVER, kind, run=batch["run"][i].as_py(), data=msgspec.Raw(data))
                _take(data, batch["segment"][i].as_py(), event, redactions, found)
