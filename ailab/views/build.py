"""The catalogue: tables and views in a DuckDB of this process alone, kept up to date from the journal.

Each reader has its own; nothing in it is true by itself, no other process can meet a lock of it, and it can be thrown away at any
time. It stands on a snapshot of what is compacted (a private copy, so that rows of runs can be changed in place), and on what
came after it: a refresh reads only bytes that are new, folds the runs they touch, and asks whether the writers of open runs still
live; afterwards every answer equals a full replay. Points and events as rows, and the views over them, are made when they are
first asked for. A line, payload, table or blob that cannot be used is named in `problems` and costs nothing else.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
import time
from contextlib import suppress
from datetime import timezone
from math import inf
from typing import TYPE_CHECKING, Any

import duckdb
import msgspec

from .. import commits
from ..errors import DamageError, StoreError
from ..journal import Envelope, Tail, writer_alive
from . import scratch, snapshot, wide
from .askers import Askers
from .fold import UNDONE, RunFold, Told, removed_by, tell
from .register import KINDS as REGISTER_KINDS
from .register import NAMING_KINDS, Register
from .rows import ARROW_ROWS, Documents, EventRow, Key, RunRows, insert, memory_of, one_row, uid_of, write_anew
from .snapshot import CONFIG, States, attach, crash, mark_of, names_in, state_keys, statements
from .tables import Tables, literal, points_of_json
from .wide import quoted

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager

    from ..commits import Commit
    from ..journal import Segment
    from ..segments import Span
    from ..store import Store
    from .snapshot import Snapshot

_log = logging.getLogger("ailab")
WIDE_COMMENT = "one row per run not in the trash: its columns in runs, then one per parameter and final metric"
_COMMENT = "COMMENT ON "
BATCH = 20_000
"""Lines that are folded, and events handed to DuckDB, at once."""
COUNTED_KINDS = frozenset({
    "run.started", "run.resumed", "run.changed", "parameters.added", "metrics.logged", "metric.described", "summary.set",
    "run.finished", "run.trashed", "run.restored",
})  # fmt: skip
"""Kinds that may change which parameters and metrics a run has, or whether they count."""
LATE_ROWS = 1001
"""A question for so many first rows finds them by the columns that decide before it reads the others: a page and one more."""
UNTIDIED = 64 << 20
"""Bytes of rows that were replaced which may pile up before their place is given free, which takes 100 ms."""
TIDY_EVERY = 4
"""Refreshes between two looks at it, which cost 0.4 ms."""
DOCUMENTS_MAX = 256
"""Environments and codes that are kept at hand."""
HEAVY = 50_000
"""Lines behind the snapshot from which on a newer snapshot is worth opening anew."""
INNER = frozenset({"run_now", "summary_now", "environment_now", "code_now", "point_now", "system_now", "console_now"})
"""Views that others stand on, which nobody may rely on."""
_OVER_TABLES = re.compile(
    r"\b(metrics|events|point_now|point_all|event_all|system_metrics|system_now|console|console_now)\b", re.IGNORECASE
)


class _Stale(Exception):  # noqa: N818  (it says what is to be done, and never leaves this module)
    """What the catalogue stands on has changed; it is to be opened anew."""


class Lab:
    """The catalogue of one store. One thread at a time uses it; others may ask meanwhile, within `reading`.

    Args:
        store: the store.

    Attributes:
        con: the connection of the thread that asks for it.
        counts: numbers of runs that were asked for, until a run changes.
        opened_s: seconds that opening took, and `rebuilt_s` those of it that computing a snapshot took.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._askers = Askers(duckdb.connect(":memory:", config=CONFIG))
        self.con.execute("SET GLOBAL timezone = 'UTC'")
        self.con.execute(f"SET GLOBAL late_materialization_max_rows = {LATE_ROWS}")
        self.con.execute(f"SET checkpoint_threshold = '{UNTIDIED}B'")
        self.refreshed_at = 0.0
        self.rebuilt_s = 0.0
        self._lock = threading.RLock()
        self._locked = False
        self._commented = False
        self._folder = ""
        self._attached = False
        self._ruined: dict[str, str] = {}
        self._unsettled: set[str] = set()
        self._records: dict[str, Commit] = {}
        self._replaced: set[str] = set()
        self._distrusted: set[str] = set()
        self._open()

    # -- opening -----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Stand on the newest snapshot, with nothing behind it yet."""
        self._commit_names = self.store.commit_names()
        self._snapshot = self._stand_on(self._commit_names)
        self._payload_problems: list[str] = list(self._snapshot.problems) if self._snapshot is not None else []
        self._detach()
        self._writable = self._snapshot is None
        for part, ending in (("base", ".runs.duckdb"), ("more", ".more.duckdb")):
            if self._snapshot is None:
                self.con.execute(f"ATTACH ':memory:' AS {part}")
                self.con.execute(statements(part))
            else:
                self._attach(self._snapshot.path(ending), part)
        self._opened = None if self._snapshot is None else mark_of(self._snapshot.path(".runs.duckdb"))
        self._attached = True
        self.con.execute(statements("tail"))
        self.tail = Tail(self.store, self._covered)
        self.runs: dict[str, RunFold] = {}
        self._states: States | None = None
        self._register = Register(self.con, None if self._snapshot is None else "more.register_table")
        self._redacted: set[tuple[str, int]] = set()
        self._purged: set[str] = set()
        self._renamed = False
        self._unstarted: set[str] = set()
        self._hidden: set[str] = set()
        self._writers: dict[str, dict[str, Segment]] = {}
        self._keys_of: dict[str, list[Key]] = {}
        self._uncounted: set[str] = set()
        self._pending: list[EventRow] = []
        self._unsummed: set[str] = set()
        self._changed: set[str] | None = None
        self._documents: dict[tuple[str, str], tuple[Any, ...]] = {}
        self.counts: dict[tuple[str, ...], int] = {}
        self._lines = 0
        self._writes = self._tidied = 0
        self._viewed: tuple[Any, ...] = ()
        self._wide: tuple[Any, ...] = ()
        self._tables: Tables | None = None
        self._rows = RunRows(self.con, "base", Documents(self.store, self.con, "memory", "more", self._payload_problems))
        self._rows.load()
        if self._snapshot is not None:
            self._take_up(self._snapshot)
        self._crashed: set[str] = set()
        text = "SELECT run_id FROM base.run_table WHERE status IN ('running', 'pending') AND last_at IS NOT NULL"
        self._open_runs = {row[0] for row in self.con.execute(text).fetchall()}

    def _attach(self, path: str, part: str) -> None:
        """Attach a file of the snapshot, or a copy of it where another process holds it."""
        try:
            attach(self.con, path, part, read_only=True)
        except duckdb.IOException:
            copy = os.path.join(self._own_folder(), f"{os.urandom(4).hex()}.duckdb")
            shutil.copyfile(path, copy)
            attach(self.con, copy, part, read_only=True)

    def _stand_on(self, names: Sequence[str]) -> Snapshot | None:
        if not names:
            return None
        for _ in range(3):
            found = snapshot.find(self.store, names, without=self._replaced)
            if found is None or found.files[0].name in self._distrusted:
                began = time.monotonic()
                found = snapshot.make(self.store)
                self.rebuilt_s = time.monotonic() - began
            try:
                if found is not None:
                    self._states_of = States(found.path(".states"))
            except FileNotFoundError:  # a newer one came, and this one was old enough to be removed
                continue
            return found
        raise StoreError("snapshots come and go too fast", path=self.store.cache)

    def _take_up(self, found: Snapshot) -> None:
        self._states = self._states_of
        self._redacted = {(segment, seq) for segment, seq in found.redacted}
        self._purged = set(found.purged)
        insert(self.con, "redacted_table", [{"segment": s, "seq": n} for s, n in found.redacted])
        insert(self.con, "purged_table", [{"run_id": run} for run in found.purged])
        self._unstarted = set(found.unstarted)

    def _detach(self) -> None:
        """Let go of what an earlier opening made; tables of the user stay."""
        if self._attached:
            text = "SELECT view_name FROM duckdb_views() WHERE NOT internal AND database_name = 'memory'"
            known = {*names_in("VIEW", "views"), "wide", "event_all", "point_all"}
            for (name,) in self.con.execute(text).fetchall():
                if name in known:
                    self.con.execute(f'DROP VIEW IF EXISTS "{name}"')
            for name in names_in("TABLE", "tail"):
                self.con.execute(f'DROP TABLE IF EXISTS "{name}"')
            for part in ("base", "more"):
                self.con.execute(f"DETACH {part}")
            self._attached = False

    def _make_writable(self) -> None:
        """Stand on a copy of the snapshot's runs that only this process has."""
        if self._writable:
            return
        assert self._snapshot is not None  # noqa: S101  (without one, the catalogue is in memory)
        path, source = os.path.join(self._own_folder(), f"{os.urandom(4).hex()}.duckdb"), self._snapshot.path(".runs.duckdb")
        try:
            shutil.copyfile(source, path)
        except FileNotFoundError as problem:  # somebody deleted the cache
            raise _Stale from problem
        if mark_of(source) != self._opened:
            raise _Stale
        self.con.execute("DETACH base")
        attach(self.con, path, "base", read_only=False, lasting=False)
        self._writable = True

    def _own_folder(self) -> str:
        if not self._folder:
            self._folder = scratch.make("view")
        return self._folder

    def _covered(self, names: Sequence[str]) -> dict[str, Span]:
        """How far tables cover segments."""
        return snapshot.spans_of(self.con, names) if self._snapshot is not None else {}

    def close(self) -> None:
        """Let go of the catalogue; nobody reads it any more."""
        self._askers.close()
        self.con.close()
        if self._folder:
            scratch.remove(self._folder)

    # -- asking ------------------------------------------------------------------------------------------------------

    @property
    def con(self) -> duckdb.DuckDBPyConnection:
        """The connection of this thread."""
        return self._askers.mine.con

    def reading(self) -> AbstractContextManager[None]:
        """Until its end, ask in this thread while others do: nothing changes, and views are there that were made before."""
        return self._askers.reading()

    def comment(self) -> None:
        """Put the comments of views.sql on views and columns: for people, and 60 ms that no other reader needs to spend."""
        self.make_views()
        if not self._commented:
            lines = statements("views").splitlines()
            self.con.execute("\n".join(line for line in lines if line.startswith(_COMMENT)))
            self.con.execute(f"COMMENT ON VIEW wide IS {literal(WIDE_COMMENT)}")
            self._commented = True

    def view_names(self) -> frozenset[str]:
        """The views that people may rely on, in lower case."""
        return frozenset({*names_in("VIEW", "views"), "wide"}) - INNER

    def locked(self) -> duckdb.DuckDBPyConnection:
        """A cursor that can reach neither files nor settings; the whole catalogue is locked from then on."""
        if not self._locked:
            allowed = [self.store.compacted, self.store.cache, self._own_folder()]
            if self._snapshot is not None:
                allowed.append(self._snapshot.folder)
            self.con.execute(f"SET allowed_directories = [{', '.join(literal(folder + os.sep) for folder in allowed)}]")
            self.con.execute("SET enable_external_access = false")
            self.con.execute("SET lock_configuration = true")
            self._locked = True
        return self.con.cursor()

    def rows(self, text: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of a question of ours."""
        return self._askers.mine.rows(text, values)

    def is_pattern(self, text: str) -> bool:
        """Whether a text is a regular expression that the engine understands."""
        try:
            self.con.execute("SELECT regexp_matches('', ?)", [text]).fetchall()
        except duckdb.Error:
            return False
        return True

    def prepare(self, query: str | None = None) -> None:
        """Make the views, and make sure that what a query may read is there and whole; None means all."""
        with self._lock:
            if query is None or _OVER_TABLES.search(query):
                self.whole_tables()
            self.make_views()

    @property
    def problems(self) -> list[str]:
        """Everything that could not be used, in words."""
        return [str(problem) for problem in self.tail.problems] + self._payload_problems + list(self._ruined.values())

    @property
    def segments(self) -> tuple[int, int]:
        """(segments that have not ended, all that are not wholly in tables)."""
        found = self.tail.segments.values()
        return sum(not segment.ended for segment in found), len(found)

    @property
    def hot(self) -> dict[tuple[str, str], str]:
        """The column of `base.run_table` of a parameter or metric that has one: by ("params" or "metrics", name)."""
        return self._rows.hot

    @property
    def keys(self) -> Counter[Key]:
        """How many runs that are not in the trash have a parameter or metric, by ("params" or "metrics", name, type)."""
        return self._rows.keys

    def clock_of(self, run_id: str) -> int:
        """The greatest Lamport clock among the events of a run; -1 where it is not known."""
        fold = self.fold_of(run_id)
        return -1 if fold is None else fold.clock

    def clock_of_subject(self, about: str, name: str) -> int:
        """The greatest Lamport clock among the events of a project, dataset or token; -1 where it is not known."""
        with self._lock:
            return self._register.clock_of(about, name)

    def undoing_of_subject(self, event: str, about: str, name: str) -> str | None:
        """The undoing that takes an event of a project or dataset out of the count; None where it counts."""
        with self._lock:
            return self._register.undoing_of(event, about, name)

    def fold_of(self, run_id: str) -> RunFold | None:
        """All that is known of a run; None where nothing is."""
        with self._lock:
            self._load([run_id])
            return self.runs.get(run_id)

    def document(self, table: str, columns: str, key: str, digest: str | None) -> tuple[Any, ...] | None:
        """A row of `environment_table` or `code_table`, if the document was read; asked once for each digest."""
        if digest is None:
            return None
        found = self._documents.get((table, digest))
        if found is None:
            for schema in ("more", "memory"):
                text = f"SELECT {columns} FROM {schema}.{table} WHERE {key} = ?"  # noqa: S608  (our own names)
                found = found or one_row(self.con, text, [digest])
            if found is not None:
                if len(self._documents) >= DOCUMENTS_MAX:
                    self._documents.clear()
                self._documents[table, digest] = found
        return found

    # -- refresh -----------------------------------------------------------------------------------------------------

    def refresh(self, max_age_s: float = 0.0, *, within_s: float = inf) -> None:
        """Bring everything up to date, unless that was done within `max_age_s`; of a flood, take in what `within_s` allows."""
        if max_age_s and time.monotonic() - self.refreshed_at < max_age_s:
            return
        with self._lock, self._askers.changing():
            try:
                self._follow_commits()
                self._read_tail(time.monotonic() + within_s)
            except _Stale:
                self._read_anew()
            except BaseException:
                self._commit_names = ["?"]  # lines may have been read that did not arrive: the next refresh opens anew
                raise
            if self._viewed:
                self.make_views()
            self.refreshed_at = time.monotonic()

    def take_changed(self) -> set[str] | None:
        """The runs that changed since the last call, and are known from then on; None where it may be any of them."""
        found, self._changed = self._changed, set()
        return found

    def _read_anew(self) -> None:
        """Stand on another snapshot, and read what came after it."""
        for _ in range(3):
            try:
                with self._askers.changing():
                    self._open()
                    self._read_tail()
            except _Stale:
                continue
            except BaseException:
                self._commit_names = ["?"]
                raise
            return
        raise StoreError("snapshots are damaged faster than they are made", path=self.store.cache)

    def _follow_commits(self) -> None:
        """Open anew where tables hold what was not read from segments, or a newer snapshot spares much memory."""
        names = self.store.commit_names()
        if names == self._commit_names:
            return
        if self._snapshot is not None and not set(self._snapshot.commits) <= set(names):
            raise _Stale
        heavy = self._lines > HEAVY and snapshot.find(self.store, names, whole=False) is not None
        fresh, _ = commits.load(self.store, set(names) - set(self._commit_names))
        if heavy or "?" in self._commit_names or not self._has_read(span for commit in fresh.values() for span in commit.spans):
            raise _Stale
        self._commit_names = names

    def _has_read(self, spans: Iterable[Span]) -> bool:
        """Whether all of these bytes are in the snapshot or were read from segments."""
        unread: dict[str, int] = {}
        for span in spans:
            read = self.tail.read_to(span.segment)
            if read is None or read < span.end:
                unread[span.segment] = max(span.end, unread.get(span.segment, 0))
        covered = self._covered(list(unread))
        return all(segment in covered and covered[segment].end >= end for segment, end in unread.items())

    def _read_tail(self, until: float = inf) -> None:
        touched: set[str] = set()
        batch: list[tuple[Segment, Envelope]] = []
        for segment, lines in self.tail.poll():
            if segment.run is not None:
                self._writers.setdefault(segment.run, {})[segment.birth] = segment
            batch += [(segment, line) for line in lines]
            if len(batch) >= BATCH:
                self._take_all(batch, touched)
                batch = []
                if time.monotonic() > until:
                    break
        self._take_all(batch, touched)
        if not touched and not self._register.is_touched and self._gone_runs() == self._crashed:
            return
        self.counts.clear()
        self._make_writable()
        self.con.execute("BEGIN")
        try:
            touched |= self._write_register()
            revived = {run_id for run_id in self._crashed - touched if self._is_written(run_id)}
            self._load(revived)
            touched |= revived
            self._write_runs(touched)
            gone = self._gone_runs()
            crash(self.con, sorted(gone - (self._crashed - touched)))
            if self._changed is not None:
                self._changed |= touched | gone - self._crashed
            self.con.execute("COMMIT")
        except BaseException:
            self.con.execute("ROLLBACK")
            raise
        self._tidy()
        self._crashed = gone
        self._rows.documents.flush()

    def _tidy(self) -> None:
        """Give the place of replaced rows free, now and then; where rows lie in a file, the engine does so by itself."""
        self._writes += 1
        if self._snapshot is None and self._writes % TIDY_EVERY == 0 and memory_of(self.con) > 2 * self._tidied + UNTIDIED:
            write_anew(self.con, "base")
            self._tidied = memory_of(self.con)

    def _take_all(self, batch: list[tuple[Segment, Envelope]], touched: set[str]) -> None:
        self._load([line.run for _, line in batch if line.run is not None])
        self._lines += len(batch)
        again: set[str] = set()
        for segment, line in batch:
            told = tell(segment, line)
            self._pending.append(
                EventRow(told.segment, line.seq, line.at, line.clock, line.kind, line.run, line.by, line.via, line.data)
            )
            if line.kind in snapshot.REMOVING_KINDS:
                again |= self._remove(told, line)
            if line.run is not None or line.kind in REGISTER_KINDS:
                self._take(told, line, touched)
        if len(self._pending) > BATCH:
            self._flush()
        for run_id in again:
            self._fold_again(run_id)
            touched.add(run_id)
        if self._renamed:
            self._name_again()

    def _take(self, told: Told, line: Envelope, touched: set[str]) -> None:
        """Fold one event."""
        removed = (told.segment, told.seq) in self._redacted
        try:
            if line.run is not None:
                if line.run in self._purged:
                    return
                fold = self.runs.get(line.run)
                if fold is None:
                    fold = self.runs[line.run] = RunFold(line.run)
                touched.add(line.run)
                if line.run in self._uncounted and line.kind in COUNTED_KINDS:
                    self._count_before(line.run)
                if removed:
                    fold.seen(told.clock, told.at, told.writer)
                    return
                event: Any = fold.take(told, line.data)
                if line.kind == "run.started" or (line.kind == "run.changed" and event.project):
                    self._register.call(fold)
            if line.kind in REGISTER_KINDS and not removed and (line.run is None or line.kind != UNDONE):
                self._register.take(told, bytes(line.data))
        except msgspec.DecodeError as problem:
            self._payload_problems.append(f"{line.kind} at {told.event} does not fit its kind: {problem}")

    def _name_again(self) -> None:
        """Replay the register, and name all projects anew, after events that it had or that named some are gone."""
        self._register.again(lambda told: (told.segment, told.seq) in self._redacted)
        known = self.con.execute("SELECT run_id FROM base.run_table WHERE project_id IS NOT NULL").fetchall()
        self._load(row[0] for row in known if row[0] not in self._purged)
        for fold in self.runs.values():
            self._register.call(fold)
        self._renamed = False

    def _load(self, run_ids: Iterable[str]) -> None:
        """Take up the folds of runs that the snapshot knows."""
        wanted = sorted({run_id for run_id in run_ids if run_id not in self.runs})
        if not wanted or self._states is None:
            return
        text = 'SELECT run_id, "at", bytes FROM more.state_table WHERE uid IN (SELECT unnest($1::UUID[]))'
        for run_id, at, size in self.con.execute(text, [[uid_of(run_id) for run_id in wanted]]).fetchall():
            fold = self._states.get(at, size)
            if fold is None:
                assert self._snapshot is not None  # noqa: S101
                self._distrusted.add(self._snapshot.files[0].name)
                snapshot.discard(self._snapshot)
                raise _Stale
            self.runs[run_id] = fold
            self._uncounted.add(run_id)

    def _count_before(self, run_id: str) -> None:
        """Know which names a run from the snapshot counted for, before an event that may change them."""
        self._uncounted.discard(run_id)
        fold = self.runs[run_id]
        if fold.exists:
            self._keys_of[run_id] = state_keys(fold, self._register.labels)

    def _write_runs(self, touched: set[str]) -> None:
        known = [run_id for run_id in touched if run_id in self.runs or run_id in self._purged]
        if not known:
            return
        text = "DELETE FROM base.run_table WHERE uid IN (SELECT unnest($1::UUID[]))"
        self.con.execute(text, [[uid_of(run_id) for run_id in known]])
        before = [key for run_id in known for key in self._keys_of.pop(run_id, ())]
        folds = [self.runs[run_id] for run_id in known if run_id in self.runs and self.runs[run_id].exists]
        unstarted = {run_id for run_id in known if run_id in self.runs} - {fold.run_id for fold in folds}
        if unstarted or not self._unstarted.isdisjoint(known):
            self._unstarted = (self._unstarted - set(known)) | unstarted  # another set, so that the views notice
        if self.refreshed_at and len(folds) >= ARROW_ROWS:  # whoever refreshes often gains more than the import costs
            import pyarrow  # noqa: F401
        for written in self._rows.write(folds, before, self._register.labels, uncounted=self._uncounted):
            if written.keys is not None:
                self._keys_of[written.run_id] = written.keys
            (self._open_runs.add if written.is_open else self._open_runs.discard)(written.run_id)
        self._open_runs -= self._purged
        self._unsummed.update(known)

    def _write_register(self) -> set[str]:
        """Write the register; return the runs of projects that went into the trash or came out of it, to be written again."""
        if not self._register.is_touched:
            return set()
        before, again = dict(self._register.labels), set()
        for project, (old, new) in self._register.settle().items():
            if old is None or new is None:
                continue
            if old[1] == new[1]:
                self.con.execute("UPDATE base.run_table SET project = $1 WHERE project_id = $2", [new[0], project])
                self._changed = None
            else:
                rows = self.con.execute("SELECT run_id FROM base.run_table WHERE project_id = $1", [project]).fetchall()
                again |= {row[0] for row in rows}
        self._register.write()
        self._load(again)
        for run_id in again & self._uncounted:
            self._uncounted.discard(run_id)
            self._keys_of[run_id] = state_keys(self.runs[run_id], before)
        return again

    def _gone_runs(self) -> set[str]:
        """Open runs that nobody writes any more: those are shown as crashed."""
        return {run_id for run_id in self._open_runs if not self._is_written(run_id)}

    def _is_written(self, run_id: str) -> bool:
        """Whether one of the run's writers lives."""
        return any(writer_alive(segment) for segment in self._writers.get(run_id, {}).values())

    # -- removing ----------------------------------------------------------------------------------------------------

    def _remove(self, told: Told, line: Envelope) -> set[str]:
        """Take in a redaction or purge; return the runs that are to be folded again."""
        try:
            purged, redacted = removed_by(line.kind, line.run, bytes(line.data))
        except msgspec.DecodeError as problem:
            self._payload_problems.append(f"{line.kind} at {told.event} does not fit its kind: {problem}")
            return set()
        if purged is not None:
            self._load([purged])
            if purged in self._uncounted:
                self._count_before(purged)
            self._purged.add(purged)
            self._renamed = True
            self.runs.pop(purged, None)
            insert(self.con, "purged_table", [{"run_id": purged}])
            return {purged}
        if redacted is None or redacted in self._redacted:
            return set()
        self._redacted.add(redacted)
        insert(self.con, "redacted_table", [{"segment": redacted[0], "seq": redacted[1]}])
        self.prepare()
        text = "SELECT run_id, kind FROM event_all WHERE segment = $1 AND seq = $2"
        found = self.con.execute(text, list(redacted)).fetchall()
        self._renamed |= any(kind in NAMING_KINDS or kind in REGISTER_KINDS for _, kind in found)
        return {run_id for run_id, kind in found if run_id is not None and kind not in snapshot.REMOVING_KINDS}

    def _fold_again(self, run_id: str) -> None:
        """Fold a run from its first event on, without those that are to go."""
        self._load([run_id])
        if run_id in self._purged:
            self.runs.pop(run_id, None)
            return
        self.prepare()
        folds = {run_id: RunFold(run_id)}
        tables = self.tables()
        if tables is not None:
            self._payload_problems += tables.fold(
                self.con, [run_id], folds, headers=tables.headers(self.con), redacted=frozenset(self._redacted)
            )
        text = 'SELECT segment, seq, "at", clock, kind, "by", via, data FROM event_table WHERE run_id = $1'
        headers = {segment.birth: segment for segment in self.tail.segments.values()}
        for segment, seq, at, clock, kind, by, via, data in self.con.execute(text, [run_id]).fetchall():
            line = Envelope(seq, at.replace(tzinfo=timezone.utc), kind, clock, run_id, by, via, msgspec.Raw(data.encode()))
            told = tell(headers[segment], line)
            if (segment, seq) in self._redacted:
                folds[run_id].seen(told.clock, told.at, told.writer)
                continue
            with suppress(msgspec.DecodeError):  # it was named when it came
                folds[run_id].take(told, line.data)
        if run_id in self._uncounted:
            self._count_before(run_id)
        self.runs[run_id] = folds[run_id]

    # -- events, points and views ------------------------------------------------------------------------------------

    def tables(self) -> Tables | None:
        """What lies in Parquet; None where nothing does."""
        if self._snapshot is None:
            return None
        if self._tables is None:
            self._records, _ = commits.load(self.store, self._snapshot.commits, sized=False)
            for name in self._records.keys() - self._ruined.keys():
                try:
                    commits.check_sizes(self.store, self._records[name])
                except (DamageError, OSError) as problem:
                    self._leave_out(name, problem)
            records = {name: record for name, record in self._records.items() if name not in self._ruined}
            self._tables = Tables(self.store, records, commits.choose(self._records))
        return self._tables

    def _leave_out(self, name: str, problem: Exception) -> None:
        """Answer without the tables of a record, and say so once."""
        self._ruined[name] = f"incomplete: {problem}"
        self._unsettled.add(name)
        self._tables = None

    def whole_tables(self) -> Tables | None:
        """The tables after a look at their bytes: one that is ruined is named and left out, and `problems` says so.

        Where the segments that it replaced are still there, they are read in its place.
        """
        for name in self._ruined.keys() & self._records.keys():
            if commits.is_whole(self.store, self._records[name]):
                del self._ruined[name]  # somebody has brought them from a copy
                self._tables = None
        while (tables := self.tables()) is not None:
            for name, problem in tables.check():
                self._leave_out(name, problem)
            if not self._unsettled:
                return tables
            replaced = {name for name in self._unsettled if self._segments_are_there(self._records[name])}
            for name in self._unsettled - replaced:
                _log.warning("warning: answers lack what is in a table: %s", self._ruined[name])
            self._unsettled.clear()
            if replaced:
                self._replaced |= replaced
                self._read_anew()
                for name in replaced:  # the snapshot names them
                    self._ruined.pop(name, None)
        return None

    def _segments_are_there(self, record: Commit) -> bool:
        """Whether everything that a record replaced still lies in segments."""
        try:
            return all(os.stat(self.store.segment_path(span.segment)).st_size >= span.end for span in record.spans)
        except OSError:
            return False

    def flush(self) -> None:
        """Hand events and points that are new to DuckDB."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        rows, self._pending = self._pending, []
        for start in range(0, len(rows), BATCH):
            (first,) = one_row(self.con, "SELECT coalesce(max(rowid) + 1, 0) FROM event_table") or (0,)
            insert(self.con, "event_table", [msgspec.structs.asdict(row) for row in rows[start : start + BATCH]])
            source = f"event_table WHERE rowid >= {first} AND kind = 'metrics.logged' AND run_id IS NOT NULL"
            self.con.execute(f"INSERT INTO point_table {points_of_json(source)}")

    def sum_up(self) -> None:
        """Bring the summaries of metrics up to date, which `metric_summary` shows."""
        with self._lock:
            unsummed, self._unsummed = sorted(self._unsummed), set()
            if not unsummed:
                return
            for table in ("summary_table", "touched_table"):
                self.con.execute(f"DELETE FROM {table} WHERE run_id IN (SELECT unnest($1::VARCHAR[]))", [unsummed])  # noqa: S608
            insert(self.con, "touched_table", [{"run_id": run_id} for run_id in unsummed])
            insert(self.con, "summary_table", [
                {"run_id": run_id, **series.row(key)}
                for run_id in unsummed
                if run_id in self.runs and self.runs[run_id].exists
                for key, series in self.runs[run_id].series.items()
            ])  # fmt: skip

    def make_views(self) -> None:
        """Make the views, or those of them that what has come since changes; those who only read find them made."""
        if self._askers.is_reading:  # they must not wait for the lock: whoever holds it may wait for them
            return
        with self._lock:
            self._flush()
            self.sum_up()
            if self._hidden is not self._unstarted:
                self._hidden = self._unstarted
                self.con.execute("DELETE FROM unstarted_table")
                insert(self.con, "unstarted_table", [{"run_id": run_id} for run_id in sorted(self._hidden)])
            tables = self.tables()
            state = (id(tables), bool(self._redacted), bool(self._purged), bool(self._unstarted), tuple(self._ruined))
            if state != self._viewed:
                self._viewed = state
                self._make_union("event_all", "event_table", tables.events_sql() if tables is not None else None)
                self._make_union("point_all", "point_table", tables.points_sql() if tables is not None else None)
                self.con.execute("\n".join(line for line in statements("views").splitlines() if not line.startswith(_COMMENT)))
                self._wide = ()
                self._commented = False
            self._make_wide()

    def _make_union(self, view: str, table: str, others: str | None) -> None:
        """A view over what came after the snapshot and what lies in Parquet, without what is to go."""
        columns = [row[0] for row in self.con.execute(f"DESCRIBE {table}").fetchall()]
        names = ", ".join(quoted(name) for name in columns)
        text = f"SELECT {names} FROM {table}" + (f"\nUNION ALL SELECT {names} FROM ({others})" if others else "")  # noqa: S608
        if (self._purged or self._unstarted) and view == "point_all":
            gone = "(SELECT run_id FROM purged_table UNION ALL SELECT run_id FROM unstarted_table)"
            text = f"SELECT * FROM ({text}) WHERE run_id NOT IN {gone}"  # noqa: S608
        if self._redacted and view == "point_all":
            text = f"SELECT * FROM ({text}) ANTI JOIN redacted_table USING (segment, seq)"  # noqa: S608
        elif (self._redacted or self._purged) and view == "event_all":
            kept = "kind IN ('event.redacted', 'run.purged') OR (r.seq IS NULL AND p.run_id IS NULL)"
            shown = ", ".join(f"CASE WHEN {kept} THEN e.data ELSE '{{}}'::JSON END AS data" if n == '"data"' else f"e.{n}"
                              for n in map(quoted, columns))  # fmt: skip
            text = (
                f"SELECT {shown} FROM ({text}) e LEFT JOIN redacted_table r ON (e.segment, e.seq) = (r.segment, r.seq) "  # noqa: S608
                "LEFT JOIN (SELECT DISTINCT run_id FROM purged_table) p ON e.run_id = p.run_id"
            )
        self.con.execute(f"CREATE OR REPLACE VIEW {view} AS {text}")

    def without_removed(self, text: str, run_id: str) -> str:
        """A relation of points of one run, without those that are to go."""
        if run_id in self._purged or run_id in self._unstarted:
            return f"SELECT * FROM ({text}) WHERE false"  # noqa: S608
        return f"SELECT * FROM ({text}) ANTI JOIN redacted_table USING (segment, seq)" if self._redacted else text  # noqa: S608

    def _make_wide(self) -> None:
        """Make `wide` anew when the set of parameters and metrics, or a type among them, has changed."""
        columns = wide.columns(self._rows.keys, self.hot)
        if columns == self._wide and columns:
            return
        self._wide = columns
        base = [row[0] for row in self.con.execute("DESCRIBE runs").fetchall() if row[0] not in {"params", "metrics"}]
        self.con.execute(wide.statement(base, columns))
        if self._commented:
            self.con.execute(f"COMMENT ON VIEW wide IS {literal(WIDE_COMMENT)}")
