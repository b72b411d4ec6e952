"""Commit records: which bytes of which segments lie in tables, and which copy of a byte counts.

Who writes: compaction, through `publish`, which makes a record appear whole or not at all, once for each name; a record never
changes afterwards. Who reads: everyone who reads events, through `load` and `choose`. What holds: a record without all of its
tables does not count; whatever records, copies and segments lie in a store, `choose` makes every byte count exactly once, and
two readers of the same files agree; so a writer of tables may be killed at any instruction. Nothing here opens a table: that is
what `ailab/views/` does.
"""

from __future__ import annotations

import os
from datetime import datetime  # noqa: TC003  (msgspec reads the annotations of Structs at run time)
from typing import TYPE_CHECKING, Literal
from zlib import crc32

import msgspec

from . import blobs, events
from .errors import DamageError
from .segments import Span, stated_crc
from .store import reason_of, run_of_segment, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .store import Store

TABLES = ("events", "points")


class TableFile(msgspec.Struct, frozen=True, kw_only=True):
    """A Parquet file beside the record."""

    name: str
    table: Literal["events", "points"]
    bytes: int
    rows: int
    sha256: str


class Column(msgspec.Struct, frozen=True):
    """A value column of the points table: `v0` is the first."""

    key: str
    type: Literal["float", "int", "json"]


class Shape(msgspec.Struct, frozen=True):
    """The form of a point: numbers of its value columns in the line's order, and whether it has a step and a time."""

    columns: tuple[int, ...]
    step: bool = False
    time: bool = False


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """One commit record, without its checksum."""

    format: int
    at: datetime
    ailab: str
    host: str
    pid: int
    level: int
    spans: list[Span]
    files: list[TableFile]
    columns: list[Column] = []
    shapes: list[Shape] = []
    replaces: list[str] = []

    def table(self, table: str) -> TableFile | None:
        """Its table of events or of points, if it has rows."""
        return next((file for file in self.files if file.table == table), None)


Chosen = dict[str, list[tuple[str, Span]]]
"""For each segment the spans that count, in order, each with the name of its record."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Commit)
_whole: dict[str, tuple[tuple[int, int, int], str]] = {}
"""Digests of tables that this process has computed, by path: ((inode, size, mtime), SHA-256)."""


def encode(commit: Commit) -> bytes:
    """The bytes of a record, checksum and newline included."""
    body = _encoder.encode(commit)[:-1] + b',"crc":0}'
    return body[:-2] + b"%d}\n" % crc32(body)


def decode(content: bytes, path: str) -> Commit:
    """A record from its bytes.

    Raises:
        DamageError: it does not have its checksum, or its format is not known.
    """
    if not content.endswith(b"\n") or stated_crc(content[:-1]) is None:
        raise DamageError("bad-checksum", path=path, line=1, detail="a commit record that is cut short or changed")
    try:
        stated = msgspec.json.decode(content, type=dict[str, msgspec.Raw]).get("format")
        if stated is None or int(bytes(stated)) > events.FORMAT:
            raise DamageError("unknown-version", path=path, line=1, detail="a commit record of a newer format")
        commit = _decoder.decode(content)
    except (msgspec.DecodeError, ValueError) as problem:
        if isinstance(problem, DamageError):
            raise
        raise DamageError("bad-json", path=path, line=1, detail=str(problem)) from problem
    for file in commit.files:
        if os.path.basename(file.name) != file.name or not file.name.endswith(".parquet"):
            raise DamageError("bad-json", path=path, line=1, detail=f"{file.name!r} is no name of a table")
    return commit


def name_of(level: int, spans: Iterable[Span], redacted: Iterable[tuple[str, int]] = ()) -> str:
    """The record's name: it depends on what is replaced and how, never on who does it, so that two doing the same meet."""
    import hashlib

    said = [f"level {level}"]
    said += sorted(f"span {span.segment} {span.start} {span.end}" for span in spans)
    said += sorted(f"redacted {segment} {seq}" for segment, seq in redacted)
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:32]


def publish(store: Store, name: str, commit: Commit) -> bool:
    """Put a record in its place, whole and on the disk; return False where one of this name was there first."""
    os.makedirs(store.compacted, exist_ok=True)
    temporary = os.path.join(store.compacted, f".tmp-{os.getpid()}-{os.urandom(6).hex()}")
    final = store.commit_path(name)
    try:
        with open(temporary, "xb") as file:
            file.write(encode(commit))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, final)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            if os.path.lexists(final):
                return False
            os.rename(temporary, final)
    finally:
        if os.path.lexists(temporary):
            os.unlink(temporary)
    sync_folder(store.compacted)
    return True


def load(store: Store, names: Iterable[str] | None = None, *, sized: bool = True) -> tuple[dict[str, Commit], list[DamageError]]:
    """(records by name, what is wrong with others). Tables are only asked whether they are there in their size.

    Args:
        store: the store.
        names: which; by default all.
        sized: without it, tables are not even asked for.
    """
    found: dict[str, Commit] = {}
    problems: list[DamageError] = []
    for name in store.commit_names() if names is None else names:
        path = store.commit_path(name)
        try:
            with open(path, "rb") as file:
                commit = decode(file.read(), path)
            if sized:
                check_sizes(store, commit)
        except FileNotFoundError:  # superfluous, and removed since it was listed
            continue
        except DamageError as problem:
            problems.append(problem)
        except OSError as problem:
            problems.append(DamageError("unreadable", path=path, detail=reason_of(problem)))
        else:
            found[name] = commit
    return found, problems


def check_sizes(store: Store, commit: Commit) -> None:
    """Make sure that the tables of a record are there in their size.

    Raises:
        DamageError: one is not.
    """
    for table in commit.files:
        _check_size(store, table)


def _check_size(store: Store, table: TableFile) -> None:
    path = store.table_path(table.name)
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        raise DamageError("missing", path=path, detail="a table that a commit record names is not there") from None
    if size != table.bytes:
        raise DamageError("bad-checksum", path=path, detail=f"{size} bytes, its commit record says {table.bytes}")


def check_table(store: Store, table: TableFile) -> None:
    """Make sure that a table has the bytes that its record states; hashed once per process, and again when it was changed.

    Raises:
        DamageError: it has not, is not there or cannot be read.
    """
    path = store.table_path(table.name)
    try:
        _check_size(store, table)
        status = os.stat(path)
        mark = (status.st_ino, status.st_size, status.st_mtime_ns)
        known = _whole.get(path)
        if known is None or known[0] != mark:
            known = _whole[path] = (mark, blobs.hash_file(path)[0])
    except OSError as problem:
        raise DamageError("unreadable", path=path, detail=reason_of(problem)) from problem
    if known[1] != table.sha256:
        raise DamageError("bad-checksum", path=path, detail="its bytes do not have the SHA-256 that its commit record states")


def check_tables(store: Store, commit: Commit) -> None:
    """Make sure that all tables of a record have the bytes that it states; see `check_table`.

    Raises:
        DamageError: one has not.
    """
    for table in commit.files:
        check_table(store, table)


def is_whole(store: Store, commit: Commit) -> bool:
    """Whether all tables of a record have the bytes that it states."""
    try:
        check_tables(store, commit)
    except DamageError:
        return False
    return True


def spans_of_run(store: Store, run: str) -> list[Span]:
    """Spans of the segments that were written for a run, in all records that are whole, whether they count or not.

    Opens no table: it tells a writer that goes on with a run that the run is there, and how far its clock had come.
    """
    mark = f'_{run}"'.encode()
    found: list[Span] = []
    for name in store.commit_names():
        try:
            with open(store.commit_path(name), "rb") as file:
                content = file.read()
            if mark in content:
                found += [span for span in decode(content, store.commit_path(name)).spans if run_of_segment(span.segment) == run]
        except (OSError, DamageError):  # removed since it was listed, or ruined: a reader names it, a training goes on
            continue
    return found


def choose(commits: Mapping[str, Commit]) -> Chosen:
    """Which spans count: from position 0 of each segment always the one that reaches farthest; see events/README.md.

    A span that starts before the position is given back as starting there.
    """
    found: Chosen = {}
    for segment, spans in by_segment(commits).items():
        chosen = cover(commits, spans)
        if chosen:
            found[segment] = chosen
    return found


def by_segment(commits: Mapping[str, Commit]) -> Chosen:
    """The spans of all records, by segment and start."""
    found: Chosen = {}
    for name, commit in commits.items():
        for span in commit.spans:
            found.setdefault(span.segment, []).append((name, span))
    for spans in found.values():
        spans.sort(key=lambda one: one[1].start)
    return found


def cover(
    commits: Mapping[str, Commit], spans: Iterable[tuple[str, Span]], position: int = 0, line: int = 0
) -> list[tuple[str, Span]]:
    """Which spans of one segment, sorted by start, count from a position on, where so many lines were read."""
    chosen: list[tuple[str, Span]] = []
    best: tuple[str, Span] | None = None
    rest = iter(spans)
    following = next(rest, None)
    while True:
        while following is not None and following[1].start <= position:
            best = following if best is None else min(best, following, key=lambda one: _rank(commits, one))
            following = next(rest, None)
        if best is None or best[1].end <= position:
            return chosen
        name, span = best
        chosen.append((name, span if span.start == position else msgspec.structs.replace(span, start=position, line=line)))
        position, line = span.end, span.lines


def _rank(commits: Mapping[str, Commit], one: tuple[str, Span]) -> tuple[int, int, str]:
    """What the best copy has least of."""
    return -one[1].end, -commits[one[0]].level, one[0]


def passed_over(commits: Mapping[str, Commit], chosen: Chosen) -> dict[str, list[Span]]:
    """By record the lines in its tables that do not count, as spans; records all of whose lines count are left out."""
    counting = {(name, span.segment, span.end): span for spans in chosen.values() for name, span in spans}
    found: dict[str, list[Span]] = {}
    for name, commit in commits.items():
        for span in commit.spans:
            counted = counting.get((name, span.segment, span.end))
            if counted is None:
                found.setdefault(name, []).append(span)
            elif counted.line > span.line:
                found.setdefault(name, []).append(msgspec.structs.replace(span, end=counted.start, lines=counted.line))
    return found
