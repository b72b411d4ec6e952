"""Compaction: segments that nobody writes any more become tables, and go an hour later.

Who works: one process at a time, by the claim `compaction`; two at once would waste work, not count anything twice. In order:
ruined records whose bytes are elsewhere are removed, dead segments closed, sealed and closed ones rewritten in batches of bounded
size, many small records made one, and what was replaced long enough ago removed. Each batch is committed by itself, so a
compaction that is killed or fails at any instruction has lost no event and counts none twice; the next one removes what it left.
What is not taken: live segments, damaged ones, those in a newer format, copies under another name. They stay as they are.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from datetime import datetime, timezone
from typing import IO, TYPE_CHECKING, NamedTuple

import msgspec

from .. import background, claims, closing, commits, events
from ..background import CLAIM
from ..errors import DamageError, RefusedError
from ..journal import Writer
from ..leftovers import Held, remove_empty, remove_orphans, remove_records, remove_ruined, remove_segments
from ..segments import Segment, Span
from ..store import reason_of, run_of_segment
from . import record, rewrite, snapshot
from .batch import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ..claims import Claim
    from ..segments import Envelope
    from ..store import Store

GRACE_SECONDS = 3600.0
"""How long replaced segments and records stay: longer than a copy of the store takes."""
ORPHAN_SECONDS = 3600.0
"""Age from which a table that no record names is taken as left behind."""
BATCH_BYTES = 256 << 20
"""Bytes of segments that go into one record, about; they take half of that in memory."""
BATCH_SEGMENTS = 4096
_LAST = "compaction.json"


class Left(msgspec.Struct, frozen=True):
    """A segment or record that was left as it is, and why."""

    name: str
    why: str


class Compaction(msgspec.Struct, kw_only=True):
    """What a compaction did.

    `bytes_before` is the size of what was rewritten, `bytes_after` that of its tables and records; `removed` and `removed_bytes`
    count files of replaced segments and records. `busy` says who is compacting instead, and then nothing was done.
    """

    segments: int = 0
    lines: int = 0
    points: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    commits: int = 0
    merged: int = 0
    closed: int = 0
    live: int = 0
    removed: int = 0
    removed_bytes: int = 0
    orphans: int = 0
    seconds: float = 0.0
    left: list[Left] = []
    busy: str | None = None


class _Found(NamedTuple):
    """A segment that can be rewritten: the span, and its lines."""

    span: Span
    lines: list[tuple[bytes, Envelope | None]]


class _LeftError(Exception):
    """This segment is left as it is, for the reason that is the text."""


class _Live(Exception):  # noqa: N818  (nothing is wrong)
    """This segment is still being written."""


def compact(
    store: Store,
    *,
    grace_s: float = GRACE_SECONDS,
    orphan_s: float = ORPHAN_SECONDS,
    batch_bytes: int = BATCH_BYTES,
    batch_segments: int = BATCH_SEGMENTS,
    merge_records: int = rewrite.MERGE_RECORDS,
    max_commits: int | None = None,
    fold: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Compaction:
    """Rewrite what nobody writes any more as tables, and remove what was replaced `grace_s` ago.

    Args:
        store: the store.
        grace_s: seconds that replaced segments and records stay.
        orphan_s: age in seconds from which a table that no record names is removed.
        batch_bytes: bytes of segments in one record, about.
        batch_segments: segments in one record.
        merge_records: so many small records of one level are made one.
        max_commits: stop after so many records; the next compaction goes on.
        fold: compute the snapshot that readers start from, too.
        progress: called with (bytes done, bytes to do).

    Raises:
        StoreError: tables cannot be written.
        DamageError: tables that were just written do not give back what was taken.
        OSError: the store cannot be written.
    """
    began = time.monotonic()
    claim = claims.take(store, CLAIM)
    if claim is None:
        return Compaction(busy=_holder(store))
    with claim:
        background.forget(store)
        work = _Work(store, claim, progress)
        work.clear(orphan_s=orphan_s)
        work.close()
        work.learn()
        work.rewrite(batch_bytes=batch_bytes, batch_segments=batch_segments, max_commits=max_commits)
        work.merge(merge_records)
        work.cleanse()
        work.remove(grace_s=grace_s)
        if fold:
            work.fold()
        work.done.left = [Left(name, why) for name, why in sorted({**work.held.problems, **work.left}.items())]
        work.done.seconds = round(time.monotonic() - began, 3)
        _remember(store, work.done)
    return work.done


class Redaction(msgspec.Struct, kw_only=True):
    """What became of a redaction: whose data are gone, and what could not be done, and why."""

    done: list[tuple[str, int]] = []
    left: list[Left] = []
    records: int = 0
    removed: int = 0


def redact(store: Store, lines: Collection[tuple[str, int]], *, runs: Collection[str] = ()) -> Redaction:
    """Take the data of events out of tables, and out of segments that nobody writes any more, at once.

    The events that say so (`event.redacted`, `run.purged`) are the caller's to append; a compaction that meets them later does
    the same for what is still being written now.

    Args:
        store: the store.
        lines: events as (segment, seq).
        runs: runs all of whose events are to go.

    Raises:
        RefusedError: a compaction is at work.
        StoreError: tables cannot be written.
        DamageError: tables are not what their records say, or do not give back what was taken.
    """
    claim = claims.take(store, CLAIM)
    if claim is None:
        raise RefusedError(f"a compaction is at work: {_holder(store)}", hint="try again when it has ended")
    with claim:
        work = _Work(store, claim, None)
        work.close()
        work.learn()
        work.redactions.add(lines, runs)
        work.rewrite(only=None if runs else {segment for segment, _ in lines})
        records, removed = work.cleanse()
        done = rewrite.without_data(work.held, lines)
        for segment in sorted({segment for segment, seq in lines if (segment, seq) not in done}):
            there = os.path.exists(store.segment_path(segment))
            work.left.setdefault(segment, "its writer is alive" if there else "it is not there")
    return Redaction(
        done=sorted(done), left=[Left(name, why) for name, why in sorted(work.left.items())], records=records, removed=removed
    )


def _holder(store: Store) -> str:
    holder = claims.holder(store, CLAIM)
    return f"process {holder.pid} on {holder.host}" if holder is not None else "another process"


class LastCompaction(msgspec.Struct):
    """`cache/compaction.json`: when the last compaction ended, and what it did and left."""

    at: datetime
    done: Compaction


class _Work:
    """One compaction under way.

    Attributes:
        done: what was done so far.
        held: the records as they were when last looked at.
        redactions: data that are to go.
        left: by segment or record, why it was left.
    """

    def __init__(self, store: Store, claim: Claim, progress: Callable[[int, int], None] | None) -> None:
        self.store = store
        self.claim = claim
        self.done = Compaction()
        self.held = Held(store)
        self.redactions = rewrite.Redactions()
        self.left: dict[str, str] = {}
        self._con = record.connection()
        self._closings = closing.Closings()
        self._progress = progress or (lambda _done, _total: None)
        self._births: set[str] = set()
        self._redacted: list[tuple[str, int]] = []

    def clear(self, *, orphan_s: float) -> None:
        """Remove what killed compactions left, and records whose tables are ruined though their bytes are elsewhere."""
        self.done.orphans = claims.sweep(self.store, orphan_s)
        remove_ruined(self.held)
        now = claims.file_time(self.store)
        self.done.orphans += len(remove_orphans(self.held, now=now, older_than_s=orphan_s))
        self.done.orphans += len(remove_empty(self.store, now=now, older_than_s=orphan_s))

    def close(self) -> None:
        """Say which writers are gone, unless that was said before."""
        rewrite.said_in_tables(self.held, self._closings, self.redactions)
        writer = Writer(self.store, via="server", strict=True)
        try:
            self.done.closed = len(closing.close_dead(self.store, writer, known=self._closings, chosen=self.held.chosen))
        finally:
            writer.seal()

    def learn(self) -> None:
        """Learn from segments which others are closed, and which data are to go."""
        names = self.store.segment_names()
        self._closings = closing.closings_in_segments(self.store, names, self._closings)
        rewrite.said_in_segments(self.store, names, self.redactions)

    # -- rewriting ---------------------------------------------------------------------------------------------------

    def rewrite(
        self,
        *,
        batch_bytes: int = BATCH_BYTES,
        batch_segments: int = BATCH_SEGMENTS,
        max_commits: int | None = None,
        only: Collection[str] | None = None,
    ) -> None:
        """Rewrite every segment that can be, or of `only` these, batch by batch."""
        sizes = {name: size for name, size in self._uncovered().items() if only is None or name in only}
        total, seen = sum(sizes.values()), 0
        batch = Batch()
        for name, size in sizes.items():
            self.claim.beat()
            try:
                found = self._examine(name)
            except _Live:
                self.done.live += 1
            except _LeftError as why:
                self.left[name] = str(why)
            else:
                if found is not None:
                    batch.take(found.span, found.lines, self._to_redact(found))
            seen += size
            self._progress(seen, total)
            if batch.bytes >= batch_bytes or len(batch.spans) >= batch_segments:
                self._commit(batch)
                batch = Batch()
                if max_commits is not None and self.done.commits >= max_commits:
                    break
        self._commit(batch)
        self.held = Held(self.store)

    def _uncovered(self) -> dict[str, int]:
        """Segments that have bytes which no table has, oldest first, with how many."""
        found = {}
        for name in self.store.segment_names():
            try:
                size = os.stat(self.store.segment_path(name)).st_size
            except FileNotFoundError:
                continue
            if size > self.held.covered(name):
                found[name] = size - self.held.covered(name)
        return found

    def _examine(self, name: str) -> _Found | None:
        """Read a segment; what of it can be rewritten, None where there is nothing.

        Raises:
            _LeftError: it stays as it is.
            _Live: it is still being written.
        """
        path = self.store.segment_path(name)
        try:
            with open(path, "rb") as file:
                if self._is_open(name, file):
                    raise _Live
                content = file.read()
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise _LeftError(reason_of(problem)) from problem
        segment = Segment(name, path, hashed=True)
        lines = segment.feed_lines(content)
        self._check(segment, lines)
        self._check_copy(segment)
        before = self.held.chosen[segment.birth][-1][1] if segment.birth in self.held.chosen else None
        start, first = (before.end, before.lines) if before is not None else (0, 0)
        if before is not None and hashlib.sha256(memoryview(content)[:start]).hexdigest() != before.sha256:
            raise _LeftError("its bytes are not those in tables")
        end, sealed = segment.offset, segment.footer is not None
        contradicted = closing.contradicting(self._closings, segment.birth, content)
        if contradicted is not None:
            raise _LeftError(f"its first {contradicted.bytes} bytes are not those that it was closed with")
        last = lines[-1][1]
        if sealed and (end < len(content) or last is None or last.kind != events.SegmentSealed.kind):
            raise _LeftError("there are bytes behind its footer")
        sha256 = segment.sha.hexdigest()
        if not sealed and not closing.is_closed_at(self._closings, segment.birth, end, sha256):
            raise _Live
        if end <= start:  # only a torn line is new
            return None
        span = Span(
            segment=segment.birth, start=start, end=end, sha256=sha256, line=first, lines=len(lines), seq=segment.seq,
            crc=segment.crc, sealed=sealed, clock=segment.clock,
        )  # fmt: skip
        return _Found(span, lines[first:])

    def _is_open(self, name: str, file: IO[bytes]) -> bool:
        """Whether a segment has neither footer nor closing, by its first and last line; then nothing else of it is read."""
        if closing.has_footer(file.fileno(), os.fstat(file.fileno()).st_size):
            return False
        segment = Segment(name, file.name)
        segment.feed(file.readline(BATCH_BYTES))
        file.seek(0)
        return not segment.refused and not self._closings.of(segment.birth)

    def _check(self, segment: Segment, lines: list[tuple[bytes, Envelope | None]]) -> None:
        """Make sure that a reader finds nothing wrong with the segment, and that tables can hold it."""
        damage = next((problem for problem in segment.problems if problem.kind != "torn-write"), None)
        if damage is not None:
            raise _LeftError(f"{damage.kind} in line {damage.line}, byte {damage.offset}: {damage.detail}")
        if not lines:
            raise _LeftError("it has no whole line")
        if segment.header is None:
            raise _LeftError("it has no header")
        for raw, event in lines:
            if event is not None and not raw.isascii():
                try:
                    raw.decode()
                except UnicodeDecodeError as problem:
                    raise _LeftError(f"a line is not UTF-8: {problem}") from problem

    def _check_copy(self, segment: Segment) -> None:
        """A copy under another name is taken only while nothing else has what it has."""
        birth = segment.birth
        if segment.name != birth and (birth in self.held.chosen or os.path.exists(self.store.segment_path(birth))):
            raise _LeftError(f"a copy of segment {birth}")
        if birth in self._births:
            raise _LeftError(f"another copy of segment {birth}")
        self._births.add(birth)

    def _to_redact(self, found: _Found) -> set[int]:
        numbers = self.redactions.numbers(found.span, found.lines)
        self._redacted += [(found.span.segment, event.seq) for n, (_, event) in enumerate(found.lines, found.span.line)
                           if n in numbers and event is not None]  # fmt: skip
        return numbers

    def _commit(self, batch: Batch) -> None:
        redacted, self._redacted = self._redacted, []
        if not batch.spans:
            return
        before = batch.bytes
        _, commit, refusal = record.put(self.store, self._con, batch, may=lambda: self._refusal(batch.spans), redacted=redacted)
        if refusal is not None:
            for span in batch.spans:
                self.left[span.segment] = refusal
            return
        self.done.commits += 1
        self.done.segments += len(batch.spans)
        self.done.lines += batch.lines
        self.done.points += batch.points
        self.done.bytes_before += before
        self.done.bytes_after += sum(file.bytes for file in commit.files) + len(commits.encode(commit))

    def _refusal(self, spans: Collection[Span]) -> str | None:
        """Why spans must not be committed any more: somebody else did so meanwhile."""
        if not self.claim.held():
            return "another compaction took over"
        now = Held(self.store)
        taken = [span.segment for span in spans if now.covered(span.segment) > span.start]
        return f"another compaction has rewritten {taken[0]}" if taken else None

    def merge(self, at_least: int) -> None:
        """Make many small records one."""
        for group in rewrite.mergeable(self.held, at_least=at_least):
            if self._rewrite_records(group):
                self.done.merged += len(group)
        if self.done.merged:
            self.held = Held(self.store)

    def _rewrite_records(self, names: list[str]) -> bool:
        """Write records as one; return whether that was committed."""
        try:
            name, _, refusal = rewrite.rewrite(
                self.held, self._con, names, self.redactions, may=lambda: self._refusal_of(names), beat=self.claim.beat
            )
        except DamageError as problem:
            name, refusal = names[0], str(problem)
        if refusal is not None:
            self.left[name] = refusal
        return refusal is None

    def _refusal_of(self, names: Collection[str]) -> str | None:
        """Why a record that replaces these must not be committed any more."""
        if not self.claim.held():
            return "another compaction took over"
        return None if set(names) <= set(self.store.commit_names()) else "another compaction has rewritten these records"

    # -- removing ----------------------------------------------------------------------------------------------------

    def cleanse(self) -> tuple[int, int]:
        """Take data that are to go out of records, and remove whatever has them, at once; return (records, files)."""
        if not self.redactions:
            return 0, 0
        dirty = [name for name in self.held.counting if rewrite.has_bytes_of(self.held, name, self.redactions)]
        rewritten = sum(self._rewrite_records([name]) for name in dirty if rewrite.is_needed(self.held, name))
        self.held = Held(self.store)
        segments = [name for name in self.held.chosen if self._file_has_redacted(name)]
        if dirty or segments:
            self._forget_snapshots()
        removed = self._count(
            remove_records(self.held, now=claims.file_time(self.store), grace_s=0.0, only=dirty),
            remove_segments(self.held, now=claims.file_time(self.store), grace_s=0.0, only=segments),
        )
        return rewritten, removed

    def _forget_snapshots(self) -> None:
        """Remove what readers have computed from data that are to go; they compute it anew."""
        with suppress(FileNotFoundError), os.scandir(self.store.cache) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False) and entry.name not in {background.TALLY, _LAST}:
                    os.unlink(entry.path)

    def _file_has_redacted(self, name: str) -> bool:
        """Whether a segment that tables have is still there with data that are to go."""
        run, path = run_of_segment(name), self.store.segment_path(name)
        if name not in self.redactions.lines and run is not None and run not in self.redactions.runs:
            return False
        if not os.path.exists(path):
            return False
        with open(path, "rb") as file:
            return any(self.redactions.has(name, event) for event in Segment(name, path).feed(file.read()))

    def remove(self, *, grace_s: float) -> None:
        """Remove segments and records that were replaced `grace_s` ago."""
        self.held = Held(self.store)
        if self.claim.beat():
            now = claims.file_time(self.store)
            self._count(
                remove_records(self.held, now=now, grace_s=grace_s),
                remove_segments(self.held, now=now, grace_s=grace_s, beat=self.claim.beat),
            )

    def _count(self, *removals: tuple[list[str], int, dict[str, str]]) -> int:
        """Take what was removed into what is done; return how many."""
        count = 0
        for removed, size, left in removals:
            count += len(removed)
            self.done.removed_bytes += size
            self.left |= left
        self.done.removed += count
        return count

    def fold(self) -> None:
        """Compute the snapshot that readers start from, unless it is there."""
        names = self.store.commit_names()
        if not names or snapshot.find(self.store, names, whole=False) is not None:
            return
        try:
            snapshot.make(self.store)
        except Exception as problem:  # noqa: BLE001  (nothing was lost; readers then compute it for themselves)
            self.left["snapshot"] = str(problem)


def _remember(store: Store, done: Compaction) -> None:
    """Keep what was done where the next one, and whoever looks, finds it."""
    content = msgspec.json.encode(LastCompaction(datetime.now(timezone.utc), done)) + b"\n"
    with suppress(OSError):  # a cache that cannot be written costs nobody anything else
        store.write_cache(os.path.join(store.cache, _LAST), content)
