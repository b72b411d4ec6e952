"""A batch becomes a record: tables written, read back, compared, and only then named by a commit record.

Who writes: compaction and rewriting, through `put`. What holds: nothing counts before the record is there; the record is there
only after the tables were read from the disk again and gave back every byte that they replace; whatever stops `put`, its tables
are removed, or are files that no record names, which the next compaction removes.
"""

from __future__ import annotations

import hashlib
import os
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import duckdb

from .. import __version__, capture, commits, events
from ..errors import DamageError, StoreError
from ..store import reason_of
from . import restore
from .snapshot import CONFIG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..commits import Commit
    from ..store import Store
    from .batch import Batch


def connection() -> duckdb.DuckDBPyConnection:
    """A DuckDB that writes tables: one thread, because it works beside a training, and nothing spilled to other folders."""
    return duckdb.connect(":memory:", config={**CONFIG, "threads": 1, "temp_directory": ""})


def put(
    store: Store,
    con: duckdb.DuckDBPyConnection,
    batch: Batch,
    *,
    may: Callable[[], str | None],
    level: int = 0,
    replaces: Iterable[str] = (),
    redacted: Iterable[tuple[str, int]] = (),
) -> tuple[str, Commit, str | None]:
    """Write a batch as tables, prove them, and commit them.

    Args:
        store: the store.
        con: from `connection`.
        batch: what was taken; it is used up.
        may: asked at the last moment; a sentence says why the record must not be committed any more.
        level: 0 for lines of segments, else one more than the greatest level that is rewritten.
        replaces: names of the records that it rewrites.
        redacted: what is newly gone from it, as (segment, seq).

    Returns:
        (name, record, None), or the sentence that says why it was not committed.

    Raises:
        StoreError: the tables cannot be written.
        DamageError: they do not give back what was taken.
    """
    stem = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S%fZ}_{os.getpid()}_{os.urandom(4).hex()}"
    name = commits.name_of(level, batch.spans, redacted)
    committed = False
    try:
        try:
            files = batch.write(con, store, stem)
        except duckdb.Error as problem:
            raise StoreError(f"tables cannot be written: {problem}", path=store.compacted) from problem
        except OSError as problem:
            raise StoreError(f"tables cannot be written: {reason_of(problem)}", path=store.compacted) from problem
        commit = commits.Commit(
            format=events.FORMAT, at=datetime.now(timezone.utc), ailab=__version__, host=capture.host_name(), pid=os.getpid(),
            level=level, spans=batch.spans, files=files, columns=batch.columns, shapes=batch.shapes, replaces=sorted(replaces),
        )  # fmt: skip
        prove(store, name, commit, batch.digests)
        refusal = may()
        if refusal is None:
            committed = commits.publish(store, name, commit) or (_make_way(store, name) and commits.publish(store, name, commit))
            refusal = None if committed else "another record replaces the same bytes"
        return name, commit, refusal
    finally:
        if not committed:
            _remove(store, name, stem)


def prove(store: Store, name: str, commit: Commit, digests: list[str]) -> None:
    """Read the tables of a record that is not committed yet, and compare every span.

    Args:
        store: the store.
        name: the record's name.
        commit: the record.
        digests: SHA-256 of each span's own bytes.

    Raises:
        DamageError: a line does not come back, or comes back changed.
    """
    source = restore.Source(store, name, commit)
    try:
        for span, wanted in zip(commit.spans, digests, strict=True):
            digest = hashlib.sha256()
            changed = span.start > 0
            for _, line, _, redacted in source.plain_lines(span):
                digest.update(line)
                changed = changed or redacted
            if digest.hexdigest() != wanted or (not changed and wanted != span.sha256):
                raise DamageError("bad-checksum", path=store.commit_path(name), detail=f"tables do not give back {span.segment}")
    finally:
        source.close()


def _make_way(store: Store, name: str) -> bool:
    """Remove a record of this name whose own bytes are damaged: the name says what it replaced, and that is proved anew."""
    path = store.commit_path(name)
    try:
        with open(path, "rb") as file:
            commits.decode(file.read(), path)
    except FileNotFoundError:
        return True
    except DamageError as problem:
        if problem.kind == "unknown-version":
            return False
        os.unlink(path)
        return True
    return False


def _remove(store: Store, name: str, stem: str) -> None:
    """Remove tables that no record names."""
    if os.path.exists(store.commit_path(name)):
        try:
            with open(store.commit_path(name), "rb") as file:
                commit = commits.decode(file.read(), store.commit_path(name))
        except DamageError:  # then nobody knows what it names
            return
        if any(file.name.startswith(stem) for file in commit.files):  # it was committed, and only flushing the folder failed
            return
    for table in commits.TABLES:
        path = store.table_path(f"{stem}.{table}.parquet")
        if os.path.exists(path):
            os.unlink(path)
