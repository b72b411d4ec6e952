"""Two stores become one: what the other has and this one lacks is copied, and what either says is to go is not.

Who writes: whoever joins, into the first store; the other is only read. What holds: every file is copied under a temporary name,
read back, and only then gets its own, so a joining that is killed leaves nothing that counts by halves, and the next one goes on;
a second one copies nothing. Files are compared by their bytes: where both have a segment, one must begin with all of the other,
or it is named and left; with `heal`, what is damaged here is replaced by what is whole there, and never the other way. Blobs come
first, tables before the record that names them. What is redacted or purged in either store is
removed here afterwards, and its blobs are never copied. Both stores may be written to meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from . import blobs, commits
from .errors import AilabError, DamageError, RefusedError
from .segments import Segment, scan, writer_alive
from .store import reason_of, sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from .commits import Chosen, Commit
    from .store import Store
    from .views.mentions import Removals

CHUNK = 4 << 20
_HEAD = 1 << 16


class NotJoined(msgspec.Struct, frozen=True):
    """What was not copied or not removed, and why: `kind` is differs, alive, unknown-version, bad-checksum, unreadable or so."""

    name: str
    kind: str
    why: str


class Joining(msgspec.Struct, kw_only=True):
    """What was copied (or, with `dry_run`, would be); `there` counts what both had before.

    `healed` counts files among them that replaced damaged ones, `rewritten` records that lost data which one of the stores says
    are to go, `removed_blobs` blobs of that sort; `damaged` names segments that were copied although they are damaged there.
    """

    into: str
    source: str
    dry_run: bool = False
    segments: int = 0
    records: int = 0
    tables: int = 0
    blobs: int = 0
    bytes: int = 0
    there: int = 0
    healed: int = 0
    rewritten: int = 0
    removed_blobs: int = 0
    seconds: float = 0.0
    left: list[NotJoined] = []
    damaged: list[NotJoined] = []


class _Copy(NamedTuple):
    """A file to copy.

    Attributes:
        kind: the field of `Joining` that counts it.
        over: bytes of the file that it replaces; None where there must be none.
        heals: whether that file is damaged.
    """

    kind: str
    name: str
    source: str
    target: str
    size: int
    sha256: str | None = None
    over: int | None = None
    heals: bool = False


def join(
    into: Store,
    source: Store,
    *,
    heal: bool = False,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Joining:
    """Copy into one store what another has and it lacks.

    Args:
        into: the store that grows.
        source: the store that is read.
        heal: read what both have, and replace what is damaged in the first by what is whole in the other.
        dry_run: say what would be copied, and copy nothing.
        progress: called with (bytes copied, bytes to copy).

    Raises:
        RefusedError: it is the same store.
        OSError: the store cannot be written.
    """
    if os.path.samefile(into.path, source.path):
        raise RefusedError(f"a store cannot be merged into itself: {into.path}", hint="name two stores")
    began = time.monotonic()
    work = _Join(into, source, Joining(into=into.path, source=source.path, dry_run=dry_run), heal=heal)
    work.plan()
    work.copy(progress or (lambda _done, _total: None))
    if not dry_run:
        work.remove()
    work.done.seconds = round(time.monotonic() - began, 3)
    return work.done


class _Join:
    """One joining under way."""

    def __init__(self, into: Store, source: Store, done: Joining, *, heal: bool) -> None:
        from .views.mentions import removals

        self.into = into
        self.source = source
        self.done = done
        self._copies: list[_Copy] = []
        self._heal = heal
        self._here, _ = commits.load(into)
        if heal:
            self._here = {name: commit for name, commit in self._here.items() if commits.is_whole(into, commit)}
        self._planned: dict[str, Commit] = {}
        found = removals(into)
        self._no_blobs, self.redactions = found.blobs, found.redactions
        self._respect(removals(source))

    def _respect(self, said: Removals) -> None:
        """Take in what is to go."""
        self._no_blobs |= said.blobs
        lines = [(segment, seq) for segment, numbers in said.redactions.lines.items() for seq in numbers]
        self.redactions.add(lines, said.redactions.runs)

    def _leave(self, name: str, kind: str, why: str) -> None:
        self.done.left.append(NotJoined(name, kind, why))

    # -- what is lacking ---------------------------------------------------------------------------------------------

    def plan(self) -> None:
        """Find what is lacking: blobs, then records with their tables, then segments."""
        self._plan_blobs()
        there, problems = commits.load(self.source)
        for problem in problems:
            self._leave(os.path.basename(problem.path), problem.kind, str(problem))
        chosen = commits.choose(self._here)
        for name, commit in there.items():
            if not self._heal or commits.is_whole(self.source, commit):
                self._plan_record(name, commit, chosen)
            else:
                self._leave(name, "bad-checksum", "its tables are damaged in the other store too")
        both = commits.choose({**self._planned, **self._here})
        names = self.source.segment_names()
        seen = set(names)
        for name in names:
            try:
                self._plan_segment(name, both, seen)
            except FileNotFoundError:  # in tables meanwhile: the next joining sees them
                self._leave(name, "unreadable", "it went while it was read; merge again")
            except OSError as problem:
                self._leave(name, "unreadable", reason_of(problem))

    def _plan_blobs(self) -> None:
        wanted = self._blobs_that_stay()
        for folder, _, names in sorted(os.walk(self.source.blobs)):
            for name in sorted(names):
                if not blobs.is_digest(name) or name in self._no_blobs or (wanted is not None and name not in wanted):
                    continue
                target, path = self.into.blob_path(name), os.path.join(folder, name)
                copy = _Copy("blobs", name, path, target, os.stat(path).st_size, sha256=name)
                if not os.path.exists(target):
                    self._copies.append(copy)
                elif self._heal and blobs.hash_file(target)[0] != name:
                    self._copies.append(copy._replace(over=os.stat(target).st_size, heals=True))
                elif os.stat(target).st_size != copy.size and not self._heal:
                    self._leave(name, "differs", f"its sizes differ; {_HEAL}")
                else:
                    self.done.there += 1

    def _blobs_that_stay(self) -> set[str] | None:
        """Where data are to go, the blobs that other events name; None where all may be copied."""
        from .views import mentions

        if not self.redactions:
            return None
        found = mentions.mentions(self.source, self.redactions)
        if not found.unreadable:
            return found.kept
        every = {name for _, _, names in os.walk(self.source.blobs) for name in names}
        return every - (found.gone - found.kept)

    def _plan_record(self, name: str, commit: Commit, chosen: Chosen) -> None:
        path, target = self.source.commit_path(name), self.into.commit_path(name)
        if name in self._here or all(self._has(span.segment, span.end, span.sha256, chosen) for span in commit.spans):
            self.done.there += 1
            return
        is_here = os.path.lexists(target)
        if is_here and not self._heal:
            self._leave(name, "differs", f"a commit record of this name is here, but it or its tables are damaged; {_HEAL}")
            return
        self._planned[name] = commit
        for table in commit.files:
            there = self.into.table_path(table.name)
            if os.path.exists(there) and blobs.hash_file(there)[0] == table.sha256:  # copied by a joining that was killed
                continue
            over = os.stat(there).st_size if os.path.exists(there) else None
            self._copies.append(
                _Copy("tables", table.name, self.source.table_path(table.name), there, table.bytes, table.sha256, over, is_here)
            )
        record = _Copy("records", name, path, target, os.stat(path).st_size)
        if not is_here:
            self._copies.append(record)
        elif not _same_files(path, target):
            self._copies.append(record._replace(over=os.stat(target).st_size, heals=True))

    def _has(self, segment: str, end: int, sha256: str, chosen: Chosen) -> bool:
        """Whether the bytes of a segment up to `end` are here, in tables or in its file."""
        if segment in chosen and chosen[segment][-1][1].end >= end:
            return True
        try:
            with open(self.into.segment_path(segment), "rb") as file:
                return hashlib.sha256(file.read(end)).hexdigest() == sha256
        except OSError:
            return False

    def _plan_segment(self, name: str, chosen: Chosen, seen: set[str]) -> None:
        path = self.source.segment_path(name)
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            segment = Segment(name, path)
            segment.feed(file.readline(_HEAD))
        birth = segment.birth
        if segment.refused:
            self._leave(name, "unknown-version", "it is in a newer format; a newer version of ailab merges it")
            return
        if birth != name and (birth in seen or os.path.basename(birth) != birth or birth.startswith(".") or "\0" in birth):
            return  # a copy of another one
        seen.add(birth)
        target = self.into.segment_path(birth)
        copy = _Copy("segments", birth, path, target, size)
        if os.path.lexists(target):
            self._plan_growth(copy)
        elif birth not in chosen:
            self._copies.append(copy)
        else:
            self._plan_behind_tables(copy, chosen)

    def _plan_growth(self, copy: _Copy) -> None:
        """Both have the file: equal, or one is the beginning of the other, or they differ."""
        here = os.stat(copy.target).st_size
        if not _same_start(copy.source, copy.target, min(here, copy.size)):
            if self._heal and _heals(copy):
                self._copies.append(copy._replace(over=here, heals=True))
            else:
                why = "neither is whole and has all that the other has" if self._heal else _HEAL
                self._leave(copy.name, "differs", f"both stores have {copy.target}, with other bytes; {why}")
        elif here >= copy.size:
            self.done.there += 1
        else:
            self._copies.append(copy._replace(over=here))

    def _plan_behind_tables(self, copy: _Copy, chosen: Chosen) -> None:
        """Tables here have the segment, or will: its file is needed only for what they do not have."""
        name, last = chosen[copy.name][-1]
        if name in self._planned:
            if copy.size > last.end:
                self._copies.append(copy)
            return
        if copy.size < last.end:
            same = self._tables_begin_with(copy, chosen)
        else:
            with open(copy.source, "rb") as file:
                same = hashlib.sha256(file.read(last.end)).hexdigest() == last.sha256 and not (
                    last.sealed and copy.size > last.end
                )
        if not same:
            self._leave(copy.name, "differs", "the tables here have other bytes of it")
        elif copy.size > last.end:
            self._copies.append(copy)
        else:
            self.done.there += 1

    def _tables_begin_with(self, copy: _Copy, chosen: Chosen) -> bool:
        """Whether the lines in tables begin with those of the file; of redacted ones only their length of data differs."""
        from .views.restore import Source

        with open(copy.source, "rb") as file:
            for name, span in chosen[copy.name]:
                source = Source(self.into, name, self._here[name])
                try:
                    for row in source.lines(span):
                        line = file.readline()
                        if not line.endswith(b"\n"):
                            return row.redacted or row.line.startswith(line)
                        if not row.redacted and row.line != line:
                            return False
                finally:
                    source.close()
        return True

    # -- copying -----------------------------------------------------------------------------------------------------

    def copy(self, progress: Callable[[int, int], None]) -> None:
        """Copy what is lacking, and count it."""
        total, done = sum(copy.size for copy in self._copies), 0
        failed: set[str] = set()
        for copy in self._copies:
            if copy.kind == "records" and failed & {file.name for file in self._planned[copy.name].files}:
                self._leave(copy.name, "bad-checksum", "a table of it could not be copied")
            else:
                problem = None if self.done.dry_run else self._copy_one(copy)
                if problem is not None:
                    failed.add(copy.name)
                    self.done.left.append(problem)
                else:
                    setattr(self.done, copy.kind, getattr(self.done, copy.kind) + 1)
                    self.done.bytes += copy.size
                    self.done.healed += copy.heals
            done += copy.size
            progress(done, total)
        if not self.done.dry_run:
            for folder in {os.path.dirname(copy.target) for copy in self._copies}:
                if os.path.isdir(folder):
                    sync_folder(folder)

    def _copy_one(self, copy: _Copy) -> NotJoined | None:
        """Copy a file under a temporary name, read it back, and give it its own; what went wrong, else None."""
        folder = self.into.blobs if copy.kind == "blobs" else os.path.dirname(copy.target)
        os.makedirs(folder, exist_ok=True)
        os.makedirs(os.path.dirname(copy.target), exist_ok=True)
        temporary = os.path.join(folder, f".tmp-{os.getpid()}-{os.urandom(6).hex()}")
        try:
            try:
                digest = _copy_bytes(copy, temporary)
            except FileNotFoundError:
                return NotJoined(copy.name, "unreadable", "it went while it was read; merge again")
            if blobs.hash_file(temporary)[0] != digest:
                raise DamageError("bad-checksum", path=temporary, detail="the disk does not give back what was copied to it")
            if copy.sha256 is not None and digest != copy.sha256:
                return NotJoined(copy.name, "bad-checksum", f"{copy.source} has SHA-256 {digest}")
            if copy.kind == "segments":
                damage = _damage_in(temporary)
                if damage is not None:
                    said = f"line {damage.line}, byte {damage.offset}: {damage.detail}"
                    self.done.damaged.append(NotJoined(copy.name, damage.kind, f"it is damaged there, {said}"))
            return self._publish(copy, temporary)
        finally:
            if os.path.lexists(temporary):
                os.unlink(temporary)

    def _publish(self, copy: _Copy, temporary: str) -> NotJoined | None:
        if copy.over is None:
            try:
                os.link(temporary, copy.target)
            except FileExistsError:
                return NotJoined(copy.name, "differs", "it came here while it was copied; merge again")
            except OSError:  # a file system without hard links
                if os.path.lexists(copy.target):
                    return NotJoined(copy.name, "differs", "it came here while it was copied; merge again")
                os.rename(temporary, copy.target)
            return None
        if copy.kind == "segments":
            segment = Segment(copy.name, copy.target)
            with open(copy.target, "rb") as file:
                segment.feed(file.readline(_HEAD))
            if writer_alive(segment) or os.stat(copy.target).st_size != copy.over:
                return NotJoined(copy.name, "alive", "its writer is writing here; merge again when it has ended")
        os.replace(temporary, copy.target)
        return None

    # -- removing ----------------------------------------------------------------------------------------------------

    def remove(self) -> None:
        """Remove here what either store says is to go."""
        from .views.mentions import removals

        if self.done.healed:  # what was damaged may have said it
            self._respect(removals(self.into))
        for digest in sorted(self._no_blobs):
            path = self.into.blob_path(digest)
            if blobs.is_digest(digest) and os.path.exists(path):
                os.unlink(path)
                self.done.removed_blobs += 1
        if not self.redactions:
            return
        from .views.compact import redact

        lines = [(segment, seq) for segment, numbers in self.redactions.lines.items() for seq in sorted(numbers)]
        try:
            done = redact(self.into, lines, runs=self.redactions.runs)
        except (AilabError, OSError) as problem:
            self._leave("redaction", "busy" if isinstance(problem, RefusedError) else "unreadable", str(problem))
            return
        self.done.rewritten = done.records + done.removed
        for one in done.left:
            if one.why != "it is not there":
                self._leave(one.name, "alive", f"data that are to go stay for now: {one.why}")


_HEAL = "`ailab merge --heal` takes the one that is whole"


def _damage_in(path: str) -> DamageError | None:
    """What is wrong first with a segment's file; lines that a writer tore off itself, and a torn end, are no damage."""
    try:
        deque(scan(path), maxlen=0)
    except DamageError as problem:
        return problem
    return None


def _heals(copy: _Copy) -> bool:
    """Whether the file here is damaged, and the other one is whole and goes as far."""
    if _damage_in(copy.target) is None or _damage_in(copy.source) is not None:
        return False
    ours, other = (max((line.seq for line in scan(path, mode="salvage")), default=-1) for path in (copy.target, copy.source))
    return other >= ours


def _same_files(one: str, other: str) -> bool:
    size = os.stat(one).st_size
    return os.stat(other).st_size == size and _same_start(one, other, size)


def _copy_bytes(copy: _Copy, temporary: str) -> str:
    """Copy, flush, keep the time of the last change where readers ask it; return the SHA-256 of what was read."""
    digest = hashlib.sha256()
    with open(copy.source, "rb") as source, open(temporary, "xb") as target:
        left = copy.size if copy.kind == "segments" else None
        while chunk := source.read(CHUNK if left is None else min(CHUNK, left)):
            digest.update(chunk)
            target.write(chunk)
            left = None if left is None else left - len(chunk)
        target.flush()
        os.fsync(target.fileno())
        if copy.kind == "segments":  # how long a writer of another machine has been silent
            status = os.fstat(source.fileno())
            os.utime(temporary, ns=(status.st_atime_ns, status.st_mtime_ns))
    return digest.hexdigest()


def _same_start(one: str, other: str, size: int) -> bool:
    """Whether two files have the same first bytes."""
    with open(one, "rb") as first, open(other, "rb") as second:
        while size > 0:
            step = min(size, CHUNK)
            if first.read(step) != second.read(step):
                return False
            size -= step
    return True
