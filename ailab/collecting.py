"""What nobody needs any more, and its removal: replaced files, what killed processes left, blobs that no event names, old trash.

Who works: whoever collects, under the claim of compaction, so that the two never meet. What holds: a file goes only when others
have all of it, or when nobody has named it for an hour; a blob only when every segment and table was read and none names it; a
run's data only after an event on the disk says so. Whatever is killed in between, nothing that is named is lost, and the next
collection goes on. With `dry_run` the same is looked at, and nothing is changed.
"""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING, Literal

import msgspec

from . import blobs, claims, events, leftovers, queries
from .background import CLAIM
from .errors import RefusedError
from .removal import purge
from .segments import Segment, writer_alive
from .store import run_of_segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .store import Store
    from .views import Lab

GRACE_SECONDS = 3600.0
"""How long replaced segments and records stay."""
YOUNG_SECONDS = 3600.0
"""A temporary file, or a blob that no event names, may be somebody's work until it is so old."""
TRASH_DAYS = 30.0

Sort = Literal["segments", "records", "tables", "leftovers", "snapshots", "runs", "blobs"]


class Collected(msgspec.Struct, kw_only=True):
    """Files of one sort that were removed, or would be: `names` of the first hundred."""

    sort: Sort
    count: int = 0
    bytes: int = 0
    names: list[str] = []


class Kept(msgspec.Struct, frozen=True):
    """What stays although it is old enough, and why."""

    name: str
    why: str


class Collection(msgspec.Struct, kw_only=True):
    """What a collection removed, or with `dry_run` would remove; each sort is there, also where nothing is of it."""

    dry_run: bool
    sorts: list[Collected]
    bytes: int
    left: list[Kept]
    seconds: float


class _File(msgspec.Struct, frozen=True):
    """A file that is to go."""

    path: str
    size: int


NAMES_MAX = 100


def collect(
    lab: Lab,
    *,
    dry_run: bool = False,
    grace_s: float = GRACE_SECONDS,
    trash_days: float = TRASH_DAYS,
    young_s: float = YOUNG_SECONDS,
    progress: Callable[[int, int], None] | None = None,
) -> Collection:
    """Remove what nobody needs any more.

    Args:
        lab: the catalogue of the store, up to date: it tells which runs are in the trash.
        dry_run: only say what would be removed.
        grace_s: seconds that replaced segments and records stay.
        trash_days: days that a run stays in the trash before its data go.
        young_s: seconds that temporary files and blobs stay that nobody names.
        progress: called with (steps done, steps to do).

    Raises:
        RefusedError: a compaction is at work.
        OSError: the store cannot be written.
    """
    began = time.monotonic()
    work = _Work(lab, dry_run=dry_run, grace_s=grace_s, young_s=young_s)
    steps: list[Callable[[], None]] = [lambda: work.runs(trash_days)]
    steps += [work.records, work.segments, work.tables, work.leftovers, work.snapshots, work.blobs]
    tell = progress or (lambda _done, _total: None)
    for number, step in enumerate(steps):
        if dry_run or number == 0:  # purging takes the claim itself
            step()
        else:
            work.claimed(step)
        tell(number + 1, len(steps))
    found = list(work.found.values())
    return Collection(
        dry_run=dry_run, sorts=found, bytes=sum(one.bytes for one in found), left=work.left,
        seconds=round(time.monotonic() - began, 3),
    )  # fmt: skip


class _Work:
    """One collection under way."""

    def __init__(self, lab: Lab, *, dry_run: bool, grace_s: float, young_s: float) -> None:
        self.lab = lab
        self.store: Store = lab.store
        self.dry_run = dry_run
        self.grace_s = grace_s
        self.young_s = young_s
        sorts: tuple[Sort, ...] = ("segments", "records", "tables", "leftovers", "snapshots", "runs", "blobs")
        self.found: dict[str, Collected] = {sort: Collected(sort=sort) for sort in sorts}
        self.left: list[Kept] = []
        self._purged: set[str] = set()
        self._gone: set[str] = set()

    def claimed(self, step: Callable[[], None]) -> None:
        """Do one step while nobody compacts."""
        claim = claims.take(self.store, CLAIM)
        if claim is None:
            holder = claims.holder(self.store, CLAIM)
            who = f"process {holder.pid} on {holder.host}" if holder is not None else "another process"
            raise RefusedError(f"a compaction is at work: {who}", hint="try again when it has ended")
        with claim:
            step()

    def _count(self, sort: Sort, names: Iterable[str], size: int) -> None:
        one = self.found[sort]
        for name in names:
            one.count += 1
            if len(one.names) < NAMES_MAX:
                one.names.append(name)
        one.bytes += size

    def _remove(self, sort: Sort, files: Iterable[_File]) -> None:
        """Remove files one by one."""
        for file in files:
            try:
                if not self.dry_run:
                    os.unlink(file.path)
            except FileNotFoundError:
                continue
            except OSError as problem:
                self.left.append(Kept(file.path, problem.strerror or str(problem)))
                continue
            self._count(sort, [os.path.basename(file.path)], file.size)

    def _keep(self, said: dict[str, str]) -> None:
        self.left += [Kept(name, why) for name, why in sorted(said.items())]

    # -- runs --------------------------------------------------------------------------------------------------------

    def runs(self, trash_days: float) -> None:
        """Purge runs that have been in the trash for long."""
        rows = queries.trashed_runs(self.lab, days=trash_days)
        self._purged = set(rows)
        if not rows:
            return
        before = self._files_of_purged()
        self._gone = set(before)
        if not self.dry_run:
            done = purge(self.store, rows, reason=f"in the trash for more than {trash_days:g} days")
            self._keep({one.name: one.why for one in done.left})
        still = {} if self.dry_run else self._files_of_purged()
        self._count("runs", rows, sum(size for name, size in before.items() if name not in still))

    def _files_of_purged(self) -> dict[str, int]:
        """Sizes of the segments that have events of the purged runs, but for those whose writers live."""
        found = {}
        for name in self.store.segment_names():
            run = run_of_segment(name)
            if run is not None and run not in self._purged:
                continue
            segment = Segment(name, self.store.segment_path(name))
            try:
                with open(segment.path, "rb") as file:
                    lines = segment.feed(file.read())
                    size = os.fstat(file.fileno()).st_size
            except OSError:
                continue
            theirs = any(line.run in self._purged and line.kind != events.RunPurged.kind for line in lines)
            if theirs and not writer_alive(segment):
                found[name] = size
        return found

    # -- what tables replaced ----------------------------------------------------------------------------------------

    def records(self) -> None:
        """Records all of whose bytes count in others, with their tables."""
        held, now = leftovers.Held(self.store), claims.file_time(self.store)
        removed, size, left = leftovers.remove_records(held, now=now, grace_s=self.grace_s, look=self.dry_run)
        self._count("records", removed, size)
        self._keep({**held.problems, **left})

    def segments(self) -> None:
        """Segments that tables have replaced."""
        held, now = leftovers.Held(self.store), claims.file_time(self.store)
        only = [name for name in held.chosen if not (self.dry_run and name in self._gone)]
        removed, size, left = leftovers.remove_segments(held, now=now, grace_s=self.grace_s, only=only, look=self.dry_run)
        self._count("segments", removed, size)
        self._keep(left)

    def tables(self) -> None:
        """Tables that no record names, and unfinished files beside them."""
        held, now = leftovers.Held(self.store), claims.file_time(self.store)
        names = leftovers.remove_orphans(held, now=now, older_than_s=self.young_s, look=True)
        self._remove("tables", self._sized(self.store.table_path(name) for name in names))

    @staticmethod
    def _sized(paths: Iterable[str]) -> list[_File]:
        found = []
        for path in paths:
            try:
                found.append(_File(path, os.lstat(path).st_size))
            except FileNotFoundError:
                continue
        return found

    # -- what killed processes left ----------------------------------------------------------------------------------

    def leftovers(self) -> None:
        """Temporary files beside segments, blobs and claims, and folders where a snapshot was being made."""
        now, old = claims.file_time(self.store), []
        for folder in (self.store.segments, self.store.blobs, self.store.claims, self.store.cache):
            marks = (".new-", ".now-", ".stale-") if folder == self.store.claims else (".tmp-",)
            for entry in _entries(folder):
                temporary = entry.name.startswith(marks) or (folder == self.store.cache and entry.name.endswith(".tmp"))
                if temporary and entry.is_file(follow_symlinks=False) and _age(entry, now) >= self.young_s:
                    old.append(entry.path)
        self._remove("leftovers", self._sized(old))
        for entry in _entries(self.store.cache):
            if entry.name.startswith(".") and entry.is_dir(follow_symlinks=False) and _age(entry, now) >= self.young_s:
                inside = (os.path.join(place, name) for place, _, names in os.walk(entry.path) for name in names)
                size = sum(file.size for file in self._sized(inside))
                if not self.dry_run:
                    shutil.rmtree(entry.path, ignore_errors=True)
                self._count("leftovers", [entry.name], size)

    def snapshots(self) -> None:
        """Files of snapshots that a newer one replaced some time ago."""
        from .views import snapshot

        now = claims.file_time(self.store)
        current = snapshot.find(self.store, self.store.commit_names(), exactly=False, whole=False)
        keep = {file.name.partition(".")[0] for file in current.files} if current is not None else set()
        old = []
        for entry in _entries(self.store.cache):
            stem, ours = entry.name.partition(".")[0], entry.name.endswith((".json", ".runs.duckdb", ".more.duckdb", ".states"))
            if ours and "_" in stem and stem not in keep and _age(entry, now) >= snapshot.KEEP_SECONDS:
                old.append(entry.path)
        old.sort(key=lambda path: not path.endswith(".json"))  # the record first: without it the others mean nothing
        self._remove("snapshots", self._sized(old))

    # -- blobs -------------------------------------------------------------------------------------------------------

    def blobs(self) -> None:
        """Blobs that no event names, or whose bytes are to go."""
        from .views import mentions

        removals = mentions.removals(self.store)
        removals.redactions.add([], self._purged)
        found = mentions.mentions(self.store, removals.redactions)
        if found.unreadable:
            self._keep(dict.fromkeys(found.unreadable, "no blob is removed while this cannot be read: it may name one"))
        now, old = claims.file_time(self.store), []
        for folder in _entries(self.store.blobs):
            for entry in _entries(folder.path) if folder.is_dir(follow_symlinks=False) else ():
                name = entry.name
                if not blobs.is_digest(name):
                    continue
                unnamed = not found.unreadable and name not in found.kept and _age(entry, now) >= self.young_s
                if name in removals.blobs or unnamed:
                    old.append(entry.path)
        self._remove("blobs", self._sized(old))


def _entries(path: str) -> list[os.DirEntry[str]]:
    """What is in a folder, by name; [] where there is none."""
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []


def _age(entry: os.DirEntry[str], now: float) -> float:
    """Seconds since a file last changed; 0 where it is gone."""
    try:
        return now - os.lstat(entry.path).st_mtime
    except FileNotFoundError:
        return 0.0
