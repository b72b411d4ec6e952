"""What `ailab verify` asks: is every byte of this store what was written, and is everything there that something names.

Reads all of it: each line's checksum and chain, footers, closings, successors, commit records, the SHA-256 of every table and
blob, and the lines that tables give back. It writes nothing and trusts nothing that another reader has computed. What one file
says of another counts as a statement: a footer of what stands before it, a header and a footer of the segments before and after,
a closing and a commit record of a segment's length and bytes. So a segment that is gone, or was cut at a newline, is found where
some statement is left; the last segment of a writer that nobody closed has none, and is said to be unsealed. The store may be
written to meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from . import artifacts, blobs, capture, closing, commits, events
from .damage import FROM_COPY, effect_of
from .errors import DamageError
from .segments import Blocks, Envelope, Segment, writer_alive
from .store import open_plain, reason_of, size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from .commits import Chosen, Commit
    from .segments import Span
    from .store import Store

PER_FILE = 20
"""Findings of one kind in one file that are listed singly; the others are counted."""

Level = Literal["note", "warning", "error"]


class Finding(msgspec.Struct, kw_only=True):
    """Something that is not as it was written, or worth knowing.

    Attributes:
        kind: torn-tail, torn-write, bad-checksum, bad-json, gap, duplicate, missing, unknown-version, unreadable, redacted or
            unsealed, or of a file that was only referred to changed or missing.
        line: from 1; 0 where the whole file is meant.
        offset: of the line's first byte.
    """

    level: Level
    kind: str
    file: str
    line: int = 0
    offset: int = 0
    what: str = ""
    cost: str = ""
    hint: str = ""


class Verification(msgspec.Struct, kw_only=True):
    """What was read, and what was found: `lines` of segments and tables, each once, and all `bytes` that were read.

    `references` counts files of this machine that were only referred to; None where they were not to be read.
    """

    store: str
    segments: int = 0
    lines: int = 0
    commits: int = 0
    spans: int = 0
    tables: int = 0
    blobs: int = 0
    redacted: int = 0
    references: int | None = None
    bytes: int = 0
    seconds: float = 0.0
    findings: list[Finding] = []

    @property
    def sound(self) -> bool:
        """Whether nothing found is an error."""
        return all(finding.level != "error" for finding in self.findings)


_ELSEWHERE = "nothing: segments or other tables have the events"
_BLOBS = {
    "artifact.added": ("sha256",), "media.logged": ("sha256",), "run.started": ("environment", "code"),
    "run.resumed": ("environment", "code"), "environment.captured": ("environment",), "code.captured": ("code",),
}  # fmt: skip
_TELLING = frozenset({*_BLOBS, "segment.opened", "segment.sealed", "segment.closed", "segment.accepted", "event.redacted"})
"""Kinds whose payload names blobs or segments."""
_LOCAL = frozenset({"sdk", "cli"})
"""Ways of an event into a store whose writer saw the files that it names."""
_POINT = b'"kind":"metrics.logged"'
_decode = msgspec.json.Decoder(Envelope).decode


class _Statement(NamedTuple):
    """Somebody says that the first `bytes` bytes of a segment have this SHA-256."""

    bytes: int
    sha256: str
    by: str


class _Reference(NamedTuple):
    """A file that somebody saw elsewhere, and when and in which segment they said so."""

    at: datetime
    segment: str
    location: str
    sha256: str


class _Named(NamedTuple):
    """Where a segment is named, as what, and in which segment, if it is in one."""

    file: str
    line: int
    offset: int
    role: str
    teller: str


def verify(
    store: Store, *, references: bool = False, progress: Callable[[int, int], None] | None = None
) -> Verification:  # fmt: skip
    """Read everything in a store.

    What leaves no trace is not found: a segment that is gone as a whole, and that no other file names, was never there.

    Args:
        store: the store.
        references: read also the files of this machine that artifacts refer to, as far as a process of this machine said so, and
            no client of a server; what has changed or is gone is a warning, no damage.
        progress: called with (bytes read, bytes to read).
    """
    began = time.monotonic()
    look = _Look(store, progress or (lambda _done, _total: None))
    look.all_records()
    look.all_segments()
    look.all_statements()
    look.all_blobs()
    if references:
        look.all_references()
    look.more()
    look.found.seconds = round(time.monotonic() - began, 3)
    return look.found


class _Look:
    """One reading of a store: what was counted and found so far."""

    def __init__(self, store: Store, progress: Callable[[int, int], None]) -> None:
        self.store = store
        self.found = Verification(store=store.path)
        self.chosen: Chosen = {}
        self._sound: dict[str, Commit] = {}
        self._told: set[str] = set()
        self._progress = progress
        self._listed: Counter[tuple[str, str]] = Counter()
        self._names = store.segment_names()
        self._births: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._statements: dict[str, list[_Statement]] = {}
        self._named: dict[str, list[_Named]] = {}
        self._closings = closing.Closings()
        self._wanted: dict[str, tuple[int | None, str]] = {}
        self._redacted_blobs: set[str] = set()
        self._references: dict[str, _Reference] = {}
        self._origins: dict[str, events.SegmentOpened] = {}
        self._unsealed: dict[str, str] = {}
        self._digests: dict[tuple[str, int], Any] = {}
        self._total = size_of(store.segments) + 2 * size_of(store.compacted) + size_of(store.blobs)

    def say(self, level: Level, kind: str, file: str, *, line: int = 0, offset: int = 0, **words: str) -> None:
        """Add a finding, unless so many like it were listed already."""
        self._listed[kind, file] += 1
        if self._listed[kind, file] <= PER_FILE:
            self.found.findings.append(Finding(level=level, kind=kind, file=file, line=line, offset=offset, **words))

    def damage(self, problem: DamageError, segment: Segment | None = None, *, cost: str = "", hint: str = "") -> None:
        """Add what a reader has found, in this segment if it is given."""
        effect = effect_of(problem, segment)
        self.say(
            effect.level, problem.kind, problem.path, line=problem.line, offset=problem.offset, what=problem.detail,
            cost=cost or effect.cost, hint=hint or effect.hint,
        )  # fmt: skip

    def more(self) -> None:
        """Say how many findings were not listed singly."""
        levels = {(finding.kind, finding.file): finding.level for finding in self.found.findings}
        for (kind, file), count in list(self._listed.items()):
            if count > PER_FILE:
                level = levels[kind, file]
                self.found.findings.append(Finding(level=level, kind=kind, file=file, what=f"{count - PER_FILE} more"))

    def _read(self, size: int) -> None:
        self.found.bytes += size
        self._progress(self.found.bytes, max(self._total, self.found.bytes))

    # -- tables ------------------------------------------------------------------------------------------------------

    def all_records(self) -> None:
        """Check every commit record, the bytes of its tables, and the lines that they give back."""
        whole: dict[str, Commit] = {}
        ruined: list[tuple[str, DamageError]] = []
        for name in self.store.commit_names():
            try:
                commit = self._record(name)
            except FileNotFoundError:  # superfluous, and removed since it was listed
                continue
            except DamageError as problem:
                self.damage(problem, cost="its tables do not count; segments that are still there are read in their place")
            else:
                whole[name] = commit
                ruined += [(name, damage) for damage in self._tables(commit)]
        sound = {name: commit for name, commit in whole.items() if name not in dict(ruined)}
        self.chosen, self._sound = commits.choose(sound), sound
        for name, damage in ruined:
            lost = [span.segment for span in whole[name].spans if not self._is_elsewhere(span)]
            self.damage(damage, cost=f"events of {len(lost)} segments, {lost[0]} first" if lost else _ELSEWHERE)
            self._told.update(lost)
        for name, commit in whole.items():
            for span in commit.spans:
                said = _Statement(span.end, span.sha256, f"commit record {name}")
                self._statements.setdefault(span.segment, []).append(said)
                self._name(span.segment, self.store.commit_path(name), role="what it replaces")
        self._restore_all(sound)

    def _record(self, name: str) -> Commit:
        path = self.store.commit_path(name)
        try:
            with open(path, "rb") as file:
                content = file.read()
        except FileNotFoundError:
            raise
        except OSError as problem:
            raise DamageError("unreadable", path=path, detail=reason_of(problem)) from problem
        self._read(len(content))
        commit = commits.decode(content, path)
        self.found.commits += 1
        return commit

    def _tables(self, commit: Commit) -> list[DamageError]:
        """What is wrong with the bytes of a record's tables."""
        problems = []
        for file in commit.files:
            try:
                commits.check_table(self.store, file)
            except DamageError as problem:
                problems.append(problem)
            self.found.tables += 1
            self._read(file.bytes)
        return problems

    def _is_elsewhere(self, span: Span) -> bool:
        if span.segment in self.chosen and self.chosen[span.segment][-1][1].end >= span.end:
            return True
        try:
            return os.stat(self.store.segment_path(span.segment)).st_size >= span.end
        except OSError:
            return False

    def _restore_all(self, sound: dict[str, Commit]) -> None:
        """Give back the lines of every span that begins a segment, then of those that go on from there."""
        for name, commit in sound.items():
            spans = [span for span in commit.spans if span.start == 0]
            with self._source(name) as source:
                for span in sorted(spans, key=lambda span: span.segment) if source is not None else ():
                    counts = (name, span) in self.chosen.get(span.segment, ())
                    self._digest(source, name, span, hashlib.sha256(), counts=counts)
            self._read(sum(file.bytes for file in commit.files))
        later = [(name, span) for chosen in self.chosen.values() for name, span in chosen if span.start > 0]
        for name, span in later:  # few, as a segment is compacted in parts only where its writer proved alive
            with self._source(name) as source:
                if source is not None:
                    self._digest(source, name, span, self._digests.get((span.segment, span.start)), counts=True)
        self.found.lines += sum(chosen[-1][1].lines for chosen in self.chosen.values())

    @contextmanager
    def _source(self, name: str) -> Iterator[Any]:
        """The tables of a record; None where they cannot be read."""
        from .views.restore import Source

        try:
            source = Source(self.store, name, self._sound[name])
        except DamageError as problem:
            self.damage(problem)
            yield None
            return
        try:
            yield source
        finally:
            source.close()

    def _digest(self, source: Any, name: str, span: Span, before: Any, *, counts: bool) -> None:
        after = self._span(source, name, span, before, counts=counts)
        if after is not None and counts:
            self._digests[span.segment, span.end] = after
        self.found.spans += 1

    def _span(self, source: Any, name: str, span: Span, digest: Any, *, counts: bool) -> Any:
        """Compare the lines of a span with what its record states; return the digest up to its end, if it is known."""
        digest = digest.copy() if digest is not None else None
        path, offset, crc, redacted = self.store.commit_path(name), span.start, None, 0
        try:
            for row in source.lines(span):
                if digest is not None:
                    digest.update(row.line)
                if row.counts:
                    crc = int(row.line[row.line.rfind(b":") + 1 : -2])
                redacted += row.redacted
                if counts and row.counts and not row.redacted and _POINT not in row.line:
                    self._take(_decode(row.line), path, span.segment, row.n + 1, offset)
                offset += len(row.line)
        except DamageError as problem:
            self.damage(problem)
            return None
        if redacted and counts:
            self.found.redacted += redacted
            self.say(
                "note", "redacted", path, what=f"{redacted} lines of segment {span.segment} have lost their data",
                cost="their data, as somebody wanted", hint="their checksums are kept; this is no damage",
            )  # fmt: skip
        if not redacted and digest is not None and digest.hexdigest() != span.sha256:
            self.damage(DamageError(
                "bad-checksum", path=path, detail=f"tables do not give back bytes {span.start} to {span.end} of {span.segment}"
            ))  # fmt: skip
        elif crc is not None and crc != span.crc:
            self.damage(DamageError("gap", path=path, detail=f"the last line of segment {span.segment} is not the one it states"))
        return None if redacted else digest

    # -- segments ----------------------------------------------------------------------------------------------------

    def all_segments(self) -> None:
        """Read every segment's file."""
        self._closings = closing.closings_in_segments(self.store, self._names, self._closings)
        for name in self._closings.segments():
            for one in self._closings.of(name):
                self._statements.setdefault(name, []).append(_Statement(one.bytes, one.sha256, "a closing"))
        for name in self._names:
            before = len(self.found.findings)
            self._segment(name)
            self.found.findings[before:] = sorted(self.found.findings[before:], key=lambda finding: finding.line)

    def _segment(self, name: str) -> None:
        path = self.store.segment_path(name)
        segment = Segment(name, path, hashed=True)
        try:
            with open_plain(path) as file:
                reading = _Reading(self, segment, file)
                reading.all()
                alive = segment.footer is None and writer_alive(segment)
                if not alive:
                    reading.all()  # what its writer wrote between our last look and its end
        except FileNotFoundError:  # in tables meanwhile
            if not os.path.lexists(path):
                return
            self.damage(DamageError("unreadable", path=path, detail="a link to nowhere"))
        except OSError as problem:
            self.damage(DamageError("unreadable", path=path, detail=reason_of(problem)))
        else:
            self.found.segments += 1
            self._judge(segment, reading, alive=alive)

    def _judge(self, segment: Segment, reading: _Reading, *, alive: bool) -> None:
        """What a segment that was read to its end is like."""
        birth, size = segment.birth, segment.offset + reading.rest
        for problem in segment.problems:
            self.damage(problem, segment)
        if reading.rest and (segment.footer is not None or not alive):
            self.damage(segment.problem_of_rest(reading.rest))
        is_copy = segment.name != birth and self._copy(segment, size)
        if not is_copy:
            self._births.setdefault(birth, segment.name)
            self._sizes[birth] = size
            self._judge_statements(segment, reading.digests, size)
            covered = self.chosen[birth][-1][1].lines if birth in self.chosen else 0
            self.found.lines += max(0, segment.line - covered)
        if segment.footer is None and not is_copy:
            self._unsealed[birth] = segment.path
        if segment.footer is None and not alive and not is_copy and not self._is_closed(birth, size):
            self.say(
                "note", "unsealed", segment.path, line=segment.line, offset=segment.offset,
                what="its writer is gone, and nothing says how far it went",
                cost="nothing that is known: lines cut off at its end would not be missed", hint="`ailab compact` closes it",
            )  # fmt: skip

    def _copy(self, segment: Segment, size: int) -> bool:
        """Say that a file is a copy; return whether another one counts in its place."""
        birth = segment.birth
        other = birth if birth in self._names else self._births.get(birth)
        if other is None and birth not in self.chosen:
            self.say(
                "note", "duplicate", segment.path, line=1, what=f"the segment {birth} under another name",
                cost="nothing: it counts", hint="its name at birth is the usual one",
            )  # fmt: skip
            return False
        where = "tables" if other is None else self.store.segment_path(other)
        known = self.chosen[birth][-1][1].end if other is None else size_of(where)
        more = f", with {size - known} bytes more than it" if size > known else ""
        self.say(
            "warning" if more else "note", "duplicate", segment.path, line=1, what=f"a copy of segment {birth}{more}",
            cost="what stands only here" if more else "nothing: events count once", hint=f"the other is in {where}",
        )  # fmt: skip
        return True

    def _is_closed(self, birth: str, size: int) -> bool:
        """Whether somebody said how far the file goes."""
        ends = {said.bytes for said in self._statements.get(birth, [])}
        torn = {one.bytes + one.torn_bytes for one in self._closings.of(birth)}
        return size in ends | torn

    def stated(self, birth: str) -> list[int]:
        """The lengths at which a segment's SHA-256 is stated."""
        return sorted({said.bytes for said in self._statements.get(birth, [])})

    def _judge_statements(self, segment: Segment, digests: dict[int, str], size: int) -> None:
        """Compare a file with what others say of it."""
        for said in dict.fromkeys(self._statements.get(segment.birth, [])):
            if said.bytes > size:
                kind, what = "gap", f"{said.by} states {said.bytes} bytes, {size} are there"
            elif digests.get(said.bytes, said.sha256) != said.sha256:
                kind, what = "bad-checksum", f"its first {said.bytes} bytes do not have the SHA-256 that {said.by} states"
            else:
                continue
            covered = segment.birth in self.chosen and self.chosen[segment.birth][-1][1].end >= said.bytes
            cost = "nothing: tables have the lines" if covered else "the events that are gone or changed"
            self.damage(DamageError(kind, path=segment.path, line=segment.line, offset=segment.offset, detail=what), cost=cost)

    # -- what events say ---------------------------------------------------------------------------------------------

    def _take(self, event: Envelope, file: str, segment: str, line: int, offset: int) -> None:
        """Keep what an event says of segments and blobs."""
        if event.kind not in _TELLING:
            return
        try:
            data = msgspec.json.decode(event.data, type=events.KINDS[event.kind])
        except (msgspec.DecodeError, RecursionError) as problem:
            self.say(
                "error", "bad-json", file, line=line, offset=offset, what=f"{event.kind} does not fit its kind: {problem}",
                cost="this event", hint="a newer version may have written it",
            )  # fmt: skip
            return
        if isinstance(data, events.SegmentOpened):
            self._origins[segment] = data
            self._name(data.previous, file, line, offset, role=f"what {segment} follows", teller=segment)
            self._name(data.forked_from, file, line, offset, role=f"what the parent of {segment} wrote")
        elif isinstance(data, events.SegmentSealed):
            self._name(data.next, file, line, offset, role=f"what follows {segment}")
        elif isinstance(data, events.SegmentClosed):
            self._closings.take(segment, event.kind, event.data)
            self._name(data.segment, file, line, offset, role="closed")
        elif isinstance(data, events.SegmentAccepted):
            self._closings.take(segment, event.kind, event.data)
        elif isinstance(data, events.EventRedacted):
            if data.sha256:
                self._redacted_blobs.add(data.sha256)
        else:
            self._want(event, data, segment)

    def _want(self, event: Envelope, data: Any, segment: str) -> None:
        if isinstance(data, events.ArtifactAdded) and data.reference:
            location = data.metadata.get("location")
            if isinstance(location, str) and (event.via is None or event.via in _LOCAL):
                owner, found = f"artifact {data.path} of run {event.run}", _Reference(event.at, segment, location, data.sha256)
                self._references[owner] = max(found, self._references.get(owner, found))  # the newest version
            return
        for field in _BLOBS[event.kind]:
            digest, size = getattr(data, field), getattr(data, "size", None)
            if digest and (size is not None or digest not in self._wanted):
                self._wanted[digest] = (size, f"{event.kind} of run {event.run}")

    def _name(self, segment: str | None, file: str, line: int = 0, offset: int = 0, *, role: str, teller: str = "") -> None:
        if segment:
            self._named.setdefault(segment, []).append(_Named(file, line, offset, role, teller))

    def all_statements(self) -> None:
        """Segments that are named and nowhere, or followed and without a footer; tables whose first part is nowhere."""
        for segment, places in self._named.items():
            followed = any(place.role.endswith(" follows") and self._closings.counts(place.teller, segment) for place in places)
            if segment in self._unsealed and followed:
                self.damage(
                    DamageError("gap", path=self._unsealed[segment], detail="another segment follows it, and it has no footer"),
                    cost="the events at its end", hint=FROM_COPY,
                )  # fmt: skip
            if segment in self._names or segment in self._births or segment in self.chosen or segment in self._told:
                continue
            place = places[0]
            killed = (
                "; nothing, if its writer was killed before it made the file" if place.role.startswith("what follows") else ""
            )
            self.say(
                "error", "missing", place.file, line=place.line, offset=place.offset,
                what=f"segment {segment}, {place.role}, is neither a file nor in tables", cost=f"its events{killed}",
                hint=FROM_COPY,
            )  # fmt: skip

        for name in sorted(self._sound):
            for span in self._sound[name].spans:
                if span.start and not self._is_elsewhere(span):
                    self.say(
                        "error", "missing", self.store.commit_path(name),
                        what=f"what stands before byte {span.start} of segment {span.segment} is neither a file nor in tables",
                        cost="its events, and those behind it until it is there", hint=FROM_COPY,
                    )  # fmt: skip

    # -- blobs -------------------------------------------------------------------------------------------------------

    def all_blobs(self) -> None:
        """Compare every blob with its name, and with what events say of it."""
        there = {}
        for path, digest in _blobs(self.store):
            try:
                actual, size = blobs.hash_file(path)
            except FileNotFoundError:
                continue
            except OSError as problem:
                self.damage(DamageError("unreadable", path=path, detail=reason_of(problem)), cost="this file")
                continue
            self._read(size)
            self.found.blobs += 1
            there[digest] = size
            if actual != digest:
                self.damage(
                    DamageError("bad-checksum", path=path, detail=f"its bytes have the SHA-256 {actual}"), cost="this file"
                )
        for digest, (wanted, owner) in self._wanted.items():
            path = self.store.blob_path(digest)
            if digest not in there and digest not in self._redacted_blobs and not os.path.lexists(path):
                self.say(
                    "note", "missing", path, what=f"the bytes of {owner} were left out by a copy",
                    cost="this file; the run is shown", hint="copy blobs/ too, or `ailab merge` from a store that has them",
                )  # fmt: skip
            elif digest in there and wanted is not None and there[digest] != wanted:
                self.damage(
                    DamageError("bad-checksum", path=path, detail=f"{there[digest]} bytes, {owner} says {wanted}"),
                    cost="this file",
                )
        for digest in sorted(self._redacted_blobs & there.keys()):
            self.say(
                "warning", "redacted", self.store.blob_path(digest), what="the bytes of a redacted blob are still here",
                cost="nothing", hint="`ailab gc` removes them",
            )  # fmt: skip

    def all_references(self) -> None:
        """Compare the files of this machine that were only referred to with what they were; each once."""
        there: dict[str, tuple[str, str]] = {}
        for owner, one in self._references.items():
            origin, place = self._origins.get(one.segment), artifacts.path_of_location(one.location)
            ours = origin is not None and origin.via in _LOCAL and not self._closings.is_received(one.segment)
            if place is None or not ours or place[0] != capture.host_name():
                continue
            if place[1] not in there:
                there[place[1]] = self._look_at(place[1])
            digest, problem = there[place[1]]
            if digest != one.sha256:
                kind, what = ("missing", problem) if problem else ("changed", "it has other bytes now")
                self.say(
                    "warning", kind, place[1], what=f"{owner} refers to this file: {what}",
                    cost="nothing of the store: its bytes were never kept here", hint=f"its SHA-256 was {one.sha256}",
                )  # fmt: skip
        self.found.references = len(there)

    def _look_at(self, path: str) -> tuple[str, str]:
        """(SHA-256 of a file, ""), or ("", why it cannot be read)."""
        try:
            with open_plain(path) as file:
                digest, size = blobs.hash_open(file)
        except OSError as problem:
            return "", reason_of(problem)
        self._read(size)
        return digest, ""


class _Reading:
    """A file of lines that is read to its end, with its SHA-256 at the places that statements speak of."""

    def __init__(self, look: _Look, segment: Segment, file: IO[bytes]) -> None:
        self.digests: dict[int, str] = {}
        self._look = look
        self._segment = segment
        self._blocks = Blocks(file)
        self._counting = 0
        self._read = 0
        self._told = 0
        self._sha: Any = None
        self._stops: list[int] = []

    def all(self) -> None:
        """Take all that is there now."""
        for block in self._blocks:
            self._lines(block)
            self._tell()
        self._tell()

    @property
    def rest(self) -> int:
        """Bytes behind the last newline."""
        return self._blocks.rest

    def _tell(self) -> None:
        self._look._read(self._blocks.read - self._told)
        self._told = self._blocks.read

    def _lines(self, block: bytes) -> None:
        segment = self._segment
        line, offset = segment.line, segment.offset
        found = segment.feed_lines(block)
        self._digest(block)
        for raw, event in found:
            line += 1
            if event is not None:
                self._counting += 1
                if event.kind == events.SegmentSealed.kind:
                    self._check_count(event, line, offset)
                if not segment.refused and event.kind in _TELLING:
                    self._look._take(event, segment.path, segment.birth, line, offset)
            offset += len(raw)

    def _digest(self, block: bytes) -> None:
        """Hash along, where somebody states the SHA-256 of a part."""
        if self._read == 0:
            self._stops = self._look.stated(self._segment.birth)
            self._sha = hashlib.sha256() if self._stops else None
        start, self._read = self._read, self._read + len(block)
        if self._sha is None:
            return
        done = 0
        while self._stops and self._stops[0] <= self._read:
            stop = self._stops.pop(0)
            self._sha.update(memoryview(block)[done : stop - start])
            done = stop - start
            self.digests[stop] = self._sha.hexdigest()
        self._sha.update(memoryview(block)[done:])

    def _check_count(self, event: Envelope, line: int, offset: int) -> None:
        try:
            footer = msgspec.json.decode(event.data, type=events.SegmentSealed)
        except msgspec.DecodeError:  # named by whoever read the line
            return
        if footer.lines != self._counting - 1:
            self._look.damage(DamageError(
                "gap", path=self._segment.path, line=line, offset=offset,
                detail=f"the footer states {footer.lines} lines before it, {self._counting - 1} count",
            ))  # fmt: skip


def _blobs(store: Store) -> Iterator[tuple[str, str]]:
    """(path, digest) of every blob."""
    for folder, _, names in sorted(os.walk(store.blobs)):
        for name in sorted(names):
            if blobs.is_digest(name):
                yield os.path.join(folder, name), name
