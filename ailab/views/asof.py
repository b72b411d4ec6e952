"""Runs as they were: the same fold over the events up to a moment, or up to a position that somebody noted.

A moment takes the events whose writers' clocks had not passed it; events that arrive later, from another machine or another copy
of the store, may still change that answer. A position says of every segment how many lines had been read, so its answer is always
the same, unless data were redacted or purged since, which no answer shows again. A position is a file in the cache, named by the
SHA-256 of its content; its token is that name. Who writes: `position`. What is not promised: that a position is there for ever;
whoever deletes the cache deletes it, and then it is said to be gone, never answered differently.

Every question replays the store from its first event: seconds for a million lines.
"""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import msgspec

from .. import commits, events
from ..errors import DamageError, FilterError, NotFoundError
from ..segments import Envelope, Segment, Tail
from .build import Lab
from .rows import insert
from .snapshot import REMOVING_KINDS
from .tables import literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ..segments import Span
    from ..store import Store

PREFIX = "position:"
FOLDER = "positions"
"""In the cache; apart, because a redaction removes what readers have computed, and a position has no data of events."""
_NAME = re.compile(r"[0-9a-f]{32}")
_CALL = re.compile(r"\bruns_as_of\s*\(\s*'((?:[^']|'')*)'\s*\)", re.IGNORECASE)
_decode = msgspec.json.Decoder(Envelope).decode
_TABLE = "as_of_table"


class _Position(msgspec.Struct, frozen=True):
    """How far each segment had been read: its next `seq`, by name at birth; and which open runs nobody wrote any more."""

    segments: dict[str, int]
    crashed: list[str]


def position(lab: Lab) -> str:
    """A token for what a catalogue shows now; the same token for the same.

    Raises:
        OSError: the cache cannot be written.
    """
    with lab._lock:
        read = dict(lab.con.execute("SELECT segment, seq FROM more.span_table").fetchall())
        read.update({segment.birth: segment.seq for segment in lab.tail.segments.values() if segment.seq})
        found = _Position(dict(sorted(read.items())), sorted(_crashed(lab)))
    content = msgspec.json.encode(found)
    name = hashlib.sha256(content).hexdigest()[:32]
    path = _path(lab.store, name)
    if not os.path.exists(path):
        lab.store.write_cache(path, zlib.compress(content))
    return PREFIX + name


def _crashed(lab: Lab) -> list[str]:
    rows = lab.con.execute("SELECT run_id FROM base.run_table WHERE status = 'crashed'").fetchall()
    return [row[0] for row in rows]


def _path(store: Store, name: str) -> str:
    return os.path.join(store.cache, FOLDER, name)


def _load(store: Store, token: str) -> _Position:
    name = token.removeprefix(PREFIX)
    if not _NAME.fullmatch(name):
        raise FilterError(
            f"{token[:80]!r} is no position", where="as_of", hint="a position is what an answer carries as its position"
        )
    path = _path(store, name)
    try:
        with open(path, "rb") as file:
            content = zlib.decompress(file.read())
    except FileNotFoundError:
        hint = "positions are kept in the store's cache, which was deleted since; a moment can still be asked"
        raise NotFoundError("position", token, hint=hint) from None
    except zlib.error as problem:
        raise DamageError("bad-checksum", path=path, detail=f"a position that was changed: {problem}") from problem
    if hashlib.sha256(content).hexdigest()[:32] != name:
        raise DamageError("bad-checksum", path=path, detail="a position that was changed")
    return msgspec.json.decode(content, type=_Position)


def _moment(moment: str | datetime) -> datetime:
    """A time without zone, in UTC."""
    try:
        found = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
        return found.astimezone(timezone.utc).replace(tzinfo=None) if found.tzinfo else found
    except (ValueError, OverflowError):
        hint = "allowed: 2026-01-31, 2026-01-31T12:00:00Z, or a position"
        raise FilterError(f"as_of: {str(moment)[:60]!r} is no time", where="as_of", hint=hint) from None


def is_settled(moment: str | datetime) -> bool:
    """Whether the answer can no longer change by what arrives: that of a position, not of a moment."""
    return isinstance(moment, str) and moment.startswith(PREFIX)


def open_past(lab: Lab, moment: str | datetime) -> Lab:
    """The catalogue as it was; close it afterwards.

    Args:
        lab: the catalogue as it is, up to date.
        moment: RFC 3339, a bare date (midnight UTC), a datetime (UTC where it has no zone), or a position.

    Raises:
        FilterError: it is neither a time nor a position.
        NotFoundError: the position is not kept any more.
        DamageError: tables are ruined.
    """
    past = _Past(lab, moment)
    try:
        past.refresh()
    except BaseException:
        past.close()
        raise
    return past


class _Past(Lab):
    """A catalogue in memory over the events before a cut."""

    def __init__(self, lab: Lab, moment: str | datetime) -> None:
        if is_settled(moment):
            at = _load(lab.store, str(moment))
            limits, self._crashed_then = at.segments, frozenset(at.crashed)
            shows: Callable[[str, Envelope], bool] = lambda birth, line: line.seq < limits.get(birth, 0)  # noqa: E731
        else:
            last = _moment(moment)
            shows = lambda _birth, line: line.at.replace(tzinfo=None) <= last  # noqa: E731
        self._settled = is_settled(moment)
        super().__init__(lab.store)
        self._replay = self.tail = _Replay(lab.store, shows)
        with lab._lock:
            self._redacted, self._purged = set(lab._redacted), set(lab._purged)
        insert(self.con, "redacted_table", [{"segment": segment, "seq": seq} for segment, seq in sorted(self._redacted)])
        insert(self.con, "purged_table", [{"run_id": run} for run in sorted(self._purged)])

    def _stand_on(self, names: Sequence[str]) -> None:
        """Stand on nothing: a snapshot has what came later, too."""

    def _follow_commits(self) -> None:
        """Let be: what was read does not change."""

    def _is_written(self, run_id: str) -> bool:
        """Whether somebody was still writing the run: he wrote on afterwards, or lives."""
        if self._settled:
            return run_id not in self._crashed_then
        return run_id in self._replay.later or super()._is_written(run_id)


class _Replay(Tail):
    """Every event of the tables and then of the segments, once, without those behind the cut and those that remove.

    What is to go is known beforehand, from the catalogue as it is now, whenever it was said.

    Attributes:
        later: runs that have events of their own writers behind the cut.
    """

    def __init__(self, store: Store, shows: Callable[[str, Envelope], bool]) -> None:
        self._records, problems = commits.load(store)
        if problems:
            raise problems[0]
        self._chosen = commits.choose(self._records)
        super().__init__(store, self._last_spans)
        self.later: set[str] = set()
        self._shows = shows
        self._done = False

    def _last_spans(self, names: Sequence[str]) -> dict[str, Span]:
        return {name: self._chosen[name][-1][1] for name in names if name in self._chosen}

    def poll(self) -> Iterator[tuple[Segment, list[Envelope]]]:
        """Yield (segment, events) of everything, the first time that it is asked."""
        if self._done:
            return
        self._done = True
        for segment, lines in self._of_tables():
            yield segment, self._before(segment, lines)
        for segment, lines in super().poll():
            yield segment, self._before(segment, lines)

    def _before(self, segment: Segment, lines: list[Envelope]) -> list[Envelope]:
        shown = [line for line in lines if self._shows(segment.birth, line)]
        if len(shown) < len(lines) and segment.run is not None:
            self.later.add(segment.run)
        return [line for line in shown if line.kind not in REMOVING_KINDS]

    def _of_tables(self) -> Iterator[tuple[Segment, list[Envelope]]]:
        """The events of every segment that tables have."""
        from .restore import Source  # pyarrow, which few questions need

        heads: dict[str, Segment] = {}
        parts: dict[str, list[tuple[int, str, Span]]] = {}
        for segment, chosen in self._chosen.items():
            for number, (name, span) in enumerate(chosen):
                parts.setdefault(name, []).append((number, segment, span))
        for name, spans in sorted(parts.items(), key=lambda part: max(number for number, *_ in part[1])):
            source = Source(self.store, name, self._records[name])
            try:
                for _, segment, span in sorted(spans, key=lambda one: one[1:2]):
                    head = heads.setdefault(segment, Segment(segment, self.store.segment_path(segment)))
                    lines = [_decode(row.line) for row in source.lines(span) if row.counts]
                    if head.header is None and lines and lines[0].kind == events.SegmentOpened.kind and lines[0].data:
                        head._note(lines[0])
                    if span.sealed:
                        head.footer = events.SegmentSealed(lines=0, bytes=0, sha256="")  # it has ended, and so has its writer
                    yield head, lines
            finally:
                source.close()


# -- SQL ---------------------------------------------------------------------------------------------------------------


def make_relations(lab: Lab, query: str) -> None:
    """Make `runs_as_of('…')` answer for every moment or position that a query names.

    Raises:
        FilterError, NotFoundError, DamageError: as `open_past`.
    """
    if "runs_as_of" not in query.lower():
        return
    asked = {text.replace("''", "'") for text in _CALL.findall(query)}
    if not asked:
        hint = "runs_as_of('2026-11-24T12:00:00Z'), a quoted time or position"
        raise FilterError("runs_as_of takes one quoted text", where="sql", hint=hint)
    lab.make_views()
    lab.con.execute(f"CREATE TABLE IF NOT EXISTS {_TABLE} AS SELECT '' AS asked, * FROM runs LIMIT 0")  # noqa: S608
    lab.con.execute(
        f"CREATE OR REPLACE MACRO runs_as_of(moment) AS TABLE SELECT * EXCLUDE (asked) FROM {_TABLE} WHERE asked = moment"  # noqa: S608
    )
    for text in sorted(asked):
        past = open_past(lab, text)
        try:
            past.make_views()
            rows: Any = past.con.sql("SELECT * FROM runs").to_arrow_table()
        finally:
            past.close()
        lab.con.execute(f"DELETE FROM {_TABLE} WHERE asked = {literal(text)}")  # noqa: S608
        lab.con.register("as_of_rows", rows)
        try:
            lab.con.execute(f"INSERT INTO {_TABLE} BY NAME SELECT {literal(text)} AS asked, * FROM as_of_rows")  # noqa: S608
        finally:
            lab.con.unregister("as_of_rows")
