"""What tables have replaced, and what killed writers left behind: found and removed, never too early.

Who removes: compaction, under its claim. What holds: a segment's file goes only when every byte of it is in tables whose SHA-256
was checked in this process, and its record is older than the grace, so a copy of the store that was begun before has one or the
other; a record goes only when others count for all its bytes, the record first, its tables afterwards; a table goes only when no
record names it, and none while there is a record that this version cannot read. Whatever is killed in between, nothing is lost.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from . import commits, segments
from .errors import DamageError
from .segments import Segment, writer_alive
from .store import sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from .commits import Chosen, Commit
    from .segments import Span
    from .store import Store

Said = dict[str, str]
"""By name of a segment or record, why it was left."""


class Held:
    """The records of a store as they are now, sorted by whether they count.

    Attributes:
        store: the store.
        counting: records that have all their tables, by name.
        ruined: records that are whole, but whose tables are not.
        problems: what is wrong, by the record's name.
        readable: whether every record could be read; if not, nobody knows which tables are named.
        chosen: the spans that count; see `commits.choose`.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.counting, problems = commits.load(store)
        self.problems: Said = {os.path.basename(p.path): str(p) for p in problems}
        self.ruined: dict[str, Commit] = {}
        self.readable = True
        for name in store.commit_names():
            if name not in self.counting:
                self._look_at(name)
        for name, commit in list(self.counting.items()):
            if any(os.path.exists(store.segment_path(span.segment)) for span in commit.spans):
                self._check(name)  # while the segments are there, ruined tables cost nothing but writing them again
        self.chosen: Chosen = commits.choose(self.counting)

    def _look_at(self, name: str) -> None:
        path = self.store.commit_path(name)
        try:
            with open(path, "rb") as file:
                commit = commits.decode(file.read(), path)
        except FileNotFoundError:
            return
        except (DamageError, OSError) as problem:
            self.readable = False
            self.problems[name] = str(problem)
        else:
            self.ruined[name] = commit

    def _check(self, name: str) -> None:
        problem = self.why_not_whole(name)
        if problem is not None:
            self.ruined[name] = self.counting.pop(name)
            self.problems[name] = problem

    def why_not_whole(self, name: str) -> str | None:
        """What is wrong with a record's tables, by their bytes; None where they are whole."""
        try:
            for table in self.counting[name].files:
                commits.check_table(self.store, table)
        except DamageError as problem:
            return str(problem)
        return None

    def covered(self, segment: str) -> int:
        """How far tables have the segment."""
        spans = self.chosen.get(segment)
        return spans[-1][1].end if spans else 0

    def age(self, name: str, now: float) -> float:
        """Seconds since the record came to be in this folder, `now` by the clock of the store's files."""
        return now - os.stat(self.store.commit_path(name)).st_mtime


def remove_segments(
    held: Held,
    *,
    now: float,
    grace_s: float,
    only: Collection[str] | None = None,
    beat: Callable[[], object] = bool,
    look: bool = False,
) -> tuple[list[str], int, Said]:
    """Remove files of segments that tables have replaced.

    Args:
        held: the records.
        now: by the clock of the store's files.
        grace_s: how long a record must have been there.
        only: of these segments; by default of all.
        beat: called before each.
        look: only say what would be removed.

    Returns:
        (segments removed, bytes removed, what was left although it is old enough).
    """
    removed, size, left = [], 0, {}
    for segment, spans in held.chosen.items():
        path = held.store.segment_path(segment)
        if (only is not None and segment not in only) or not os.path.exists(path):
            continue
        if any(held.age(name, now) < grace_s for name, _ in spans):
            continue
        beat()
        problem = next((p for name, _ in spans if (p := held.why_not_whole(name)) is not None), None)
        freed = 0
        if problem is None:
            problem, freed = _remove_segment(path, spans[-1][1], look=look)
        if problem is not None:
            left[segment] = problem
        else:
            removed.append(segment)
            size += freed
    if removed and not look:
        sync_folder(held.store.segments)
    return removed, size, left


def _remove_segment(path: str, span: Span, *, look: bool) -> tuple[str | None, int]:  # noqa: PLR0911  (one line per reason)
    """(why it is left, bytes freed)."""
    try:
        with open(path, "rb") as file:
            content = file.read(span.end)
            tail = file.read()
            if len(content) < span.end or hashlib.sha256(content).hexdigest() != span.sha256:
                return "its bytes are not those in tables", 0
            if tail and (span.sealed or b"\n" in tail):
                return f"{len(tail)} bytes that no table has", 0
            if not span.sealed:
                segment = Segment(span.segment, path)
                segment.feed(content[: content.find(b"\n") + 1])
                if writer_alive(segment):
                    return "its writer is alive", 0
            if segments._lock_is_held(path):
                return "somebody holds its lock", 0
            if os.fstat(file.fileno()).st_size != span.end + len(tail):
                return "it has just grown", 0
            if not look:
                os.unlink(path)
    except FileNotFoundError:
        return None, 0
    return None, span.end + len(tail)


def remove_records(
    held: Held, *, now: float, grace_s: float, only: Collection[str] | None = None, look: bool = False
) -> tuple[list[str], int, Said]:
    """Remove records all of whose bytes count in others, and then their tables.

    Args and result are those of `remove_segments`.
    """
    removed, size, left = [], 0, {}
    counting = {name for spans in held.chosen.values() for name, _ in spans}
    for name, commit in list(held.counting.items()):
        if name in counting or (only is not None and name not in only):
            continue
        others = {other for span in commit.spans for other, _ in held.chosen.get(span.segment, [])}
        if any(held.age(other, now) < grace_s for other in others):
            continue
        problem = next((p for other in others if (p := held.why_not_whole(other)) is not None), None)
        if problem is None and any(held.covered(span.segment) < span.end for span in commit.spans):
            problem = "it alone has some bytes, though what comes before them is not there"
        if problem is not None:
            left[name] = problem
            continue
        size += remove_record(held.store, name, commit, look=look)
        del held.counting[name]
        removed.append(name)
    return removed, size, left


def remove_record(store: Store, name: str, commit: Commit, *, look: bool = False) -> int:
    """Remove a record, then its tables, or only `look`; return how many bytes that frees."""
    size = 0
    for path in [store.commit_path(name), *(store.table_path(file.name) for file in commit.files)]:
        try:
            size += os.stat(path).st_size
            if look:
                continue
            os.unlink(path)
        except FileNotFoundError:
            continue
        if path == store.commit_path(name):
            sync_folder(store.compacted)
    return size


def remove_ruined(held: Held) -> list[str]:
    """Remove records with ruined tables where segments or other records have every byte; so those are rewritten."""
    removed = []
    for name, commit in list(held.ruined.items()):
        if all(_is_elsewhere(held, span) for span in commit.spans):
            remove_record(held.store, name, commit)
            del held.ruined[name]
            removed.append(name)
    return removed


def _is_elsewhere(held: Held, span: Span) -> bool:
    """Whether other records, or the segment's file, have the bytes up to the span's end."""
    if held.covered(span.segment) >= span.end:
        return all(held.why_not_whole(name) is None for name, _ in held.chosen[span.segment])
    try:
        with open(held.store.segment_path(span.segment), "rb") as file:
            content = file.read(span.end)
    except OSError:
        return False
    return len(content) == span.end and hashlib.sha256(content).hexdigest() == span.sha256


def remove_orphans(held: Held, *, now: float, older_than_s: float, look: bool = False) -> list[str]:
    """Remove tables that no record names, and unfinished files, unless they are so young that somebody may be at work.

    Args:
        held: the records.
        now: by the clock of the store's files.
        older_than_s: age from which a file is nobody's.
        look: only say what would be removed.
    """
    named = {file.name for records in (held.counting, held.ruined) for commit in records.values() for file in commit.files}
    removed: list[str] = []
    try:
        with os.scandir(held.store.compacted) as entries:
            found = list(entries)
    except FileNotFoundError:
        return removed
    for entry in found:
        unfinished = entry.name.startswith(".tmp-")
        if not unfinished and (not entry.name.endswith(".parquet") or entry.name in named or not held.readable):
            continue
        try:
            if now - entry.stat().st_mtime >= older_than_s:
                if not look:
                    os.unlink(entry.path)
                removed.append(entry.name)
        except FileNotFoundError:  # its writer lives
            continue
    return removed


def remove_empty(store: Store, *, now: float, older_than_s: float) -> list[str]:
    """Remove segments without one byte, whose writer was killed before it wrote its first line; return their names."""
    removed = []
    for name in store.segment_names():
        path = store.segment_path(name)
        try:
            status = os.stat(path)
            if status.st_size == 0 and now - status.st_mtime >= older_than_s and not segments._lock_is_held(path):
                os.unlink(path)
                removed.append(name)
        except OSError:  # removed since, or named by whoever reads events
            continue
    return removed
