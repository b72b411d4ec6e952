"""Snapshots: what the tables come to, folded once, so that a reader does not scan every event.

    cache/NAME.json          which commit records it was computed from, its files with their SHA-256
    cache/NAME.runs.duckdb   one row per run, newest first; a reader works on a copy of its own
    cache/NAME.more.duckdb   what is asked more seldom: where each run's state lies, which bytes are covered, summaries, documents
    cache/NAME.states        the state of each run's fold, one after the other, each behind its CRC-32

Who writes: whoever compacts, and a reader that finds none. Who reads: every catalogue. A snapshot holds no truth: it is a
function of the commit records that it names; one that is cut short, changed, of another version or computed from other records
is not read but made anew, and any may be deleted at any moment. Its record appears last, so a snapshot is whole or not there.
"""

from __future__ import annotations

import functools
import mmap
import os
import re
import shutil
import struct
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import duckdb
import msgspec

from .. import blobs, commits
from ..errors import DamageError
from ..segments import Span, stated_crc
from ..store import run_of_segment, segment_name, sync_folder
from . import scratch
from .fold import UNDONE, VERSION, RunFold, removed_by
from .register import KINDS as REGISTER_KINDS
from .register import Register
from .rows import Documents, RunRows, columns_of, insert, keys_of, one_row, project_of, uid_of
from .tables import CHUNK, Tables, literal
from .wide import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ..commits import Chosen, Commit
    from ..store import Store
    from .rows import Key

LAYOUT = 7
"""Raised when the tables of a snapshot change."""
SPARE = 32
"""Columns for parameters and for metrics that are yet to come: one that is added to a table makes its texts slow to find."""
SMALL_RUNS, SMALL_BLOCK, LARGE_BLOCK = 5_000, 16_384, 262_144
"""A file has a block or more for each column, so with few runs large blocks are mostly empty."""
KEEP_SECONDS = 600.0
"""An older snapshot is kept so long after a newer one is there, for readers that are just opening it."""
CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
"""DuckDB looks for extensions on the network otherwise, and hangs for seconds without one."""
REMOVING_KINDS = ("event.redacted", "run.purged")
_CRC = struct.Struct("<I")


class File(msgspec.Struct, frozen=True):
    """A file of a snapshot."""

    name: str
    bytes: int
    sha256: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a snapshot; `folder` is where it was found."""

    layout: int
    fold: int
    engine: str
    at: float
    commits: list[str]
    unusable: list[str]
    runs: int
    files: list[File]
    redacted: list[tuple[str, int]]
    purged: list[str]
    unstarted: list[str] = []
    problems: list[str]
    seconds: float
    folder: str = ""

    def path(self, ending: str) -> str:
        """Path of its file with this ending."""
        return next(os.path.join(self.folder, file.name) for file in self.files if file.name.endswith(ending))


def statements(part: str) -> str:
    """A part of views.sql: `base`, `more`, `tail` or `views`."""
    text = (Path(__file__).parent / "views.sql").read_text()
    return next(piece.partition("\n")[2] for piece in text.split("-- part: ") if piece.startswith(part))


def names_in(what: str, part: str) -> list[str]:
    """Names of the views or tables (`VIEW`, `TABLE`) that a part of views.sql makes."""
    return re.findall(rf"^CREATE (?:OR REPLACE )?{what} (\w+)", statements(part), re.MULTILINE)


# -- finding -----------------------------------------------------------------------------------------------------------


def find(
    store: Store, names: Iterable[str], *, exactly: bool = True, whole: bool = True, without: Iterable[str] = ()
) -> Snapshot | None:
    """The newest snapshot in the cache that was computed from these commit records, and whose files are as they were written.

    Args:
        store: the store.
        names: the commit records that count.
        exactly: from all of them; else from some of them.
        whole: hash its files.
        without: records whose tables were found ruined.
    """
    wanted, ruined = set(names), set(without)
    for found in sorted(_records(store.cache), key=lambda one: -one.at):
        fits = {*found.commits, *found.unusable} == wanted if exactly else set(found.commits) <= wanted
        if (
            fits
            and not ruined & set(found.commits)
            and (found.layout, found.fold, found.engine) == (LAYOUT, VERSION, duckdb.__version__)
            and not any(_counts(store, name) for name in found.unusable if name in wanted)
            and (not whole or _is_whole(found))
        ):
            return found
    return None


def _counts(store: Store, name: str) -> bool:
    """Whether a record that could not be used counts now: somebody may have put its tables back."""
    records, _ = commits.load(store, [name])
    return name in records and not Tables(store, records, commits.choose(records)).check()


def _records(folder: str) -> Iterator[Snapshot]:
    try:
        names = [name for name in os.listdir(folder) if name.endswith(".json") and not name.startswith(".")]
    except OSError:
        return
    for name in names:
        try:
            content = Path(folder, name).read_bytes()
            if content.endswith(b"\n") and stated_crc(content[:-1]) is not None:
                found = msgspec.json.decode(content, type=Snapshot)
                yield msgspec.structs.replace(found, folder=folder)
        except (OSError, msgspec.DecodeError):  # removed since it was listed, or of another layout: as good as none
            continue


def _is_whole(snapshot: Snapshot) -> bool:
    """Whether the files are there as they were written; the states prove themselves one by one."""
    for file in snapshot.files:
        path = os.path.join(snapshot.folder, file.name)
        if os.path.lexists(f"{path}.wal"):  # we write none, and DuckDB would believe it
            return False
        try:
            if os.stat(path).st_size != file.bytes or (file.sha256 and blobs.hash_file(path)[0] != file.sha256):
                return False
        except OSError:
            return False
    return True


class States:
    """The folds of a snapshot's runs, read one by one; one that is damaged is None."""

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if os.fstat(file.fileno()).st_size else b""

    def raw(self, at: int, size: int) -> bytes:
        """A state with its checksum in front, as it lies there."""
        return bytes(self._map[at : at + size])

    def get(self, at: int, size: int) -> RunFold | None:
        """A fold."""
        content = self.raw(at, size)
        if len(content) < _CRC.size or len(content) != size or _CRC.unpack_from(content)[0] != crc32(content[_CRC.size :]):
            return None
        return RunFold.load(content[_CRC.size :])


# -- making ------------------------------------------------------------------------------------------------------------


def make(store: Store, *, progress: Callable[[int, int], None] | None = None) -> Snapshot | None:
    """Compute a snapshot from all commit records that count, from an older one where that is possible.

    It is put into the cache; where that cannot be written, into a folder of its own that goes with the process.

    Returns:
        The snapshot, or None where nothing was ever compacted.
    """
    began = time.monotonic()
    names = store.commit_names()
    records, problems = commits.load(store, names)
    for name, problem in Tables(store, records, commits.choose(records)).check():
        records.pop(name, None)
        problems.append(problem)
    if not records and not problems:
        return None
    chosen = commits.choose(records)
    words = [str(problem) for problem in problems]
    unusable = sorted(set(names) - set(records))
    older = find(store, records, exactly=False)
    for own in (False, True):
        folder = _own_folder() if own else store.cache
        try:
            os.makedirs(folder, exist_ok=True)
            maker = functools.partial(_Maker, store, folder, records, chosen)
            made = _made(lambda: maker(list(words)), older, unusable, began, progress)  # noqa: B023  (called here)
        except (OSError, duckdb.IOException):
            if own:
                raise
            continue
        _remove_others(made)
        return made
    return None


def _made(new_maker: Callable[[], _Maker], older: Snapshot | None, *rest: Any) -> Snapshot:
    """Compute it from an older one, or from the tables alone where that cannot be used."""
    if older is not None:
        with suppress(DamageError, duckdb.Error), new_maker() as maker:
            return maker.run(older, *rest)
    with new_maker() as maker:
        return maker.run(None, *rest)


@functools.cache
def _own_folder() -> str:
    """A folder of this process, for stores whose cache cannot be written."""
    return scratch.make("cache")


def _remove_others(made: Snapshot) -> None:
    """Remove snapshots that a newer one replaced some time ago, and what killed makers left."""
    now = time.time()
    keep = {file.name for file in made.files}
    for found in _records(made.folder):
        if found.at >= made.at or (now - made.at < KEEP_SECONDS and now - found.at < KEEP_SECONDS):
            keep |= {file.name for file in found.files}
    kept_names = {name.partition(".")[0] for name in keep}
    for entry in os.scandir(made.folder):
        stem = entry.name.partition(".")[0] if not entry.name.startswith(".") else ""
        ours = entry.name.endswith((".runs.duckdb", ".more.duckdb", ".states", ".wal")) or (stem and "_" in stem)
        if ours and stem not in kept_names:
            with suppress(OSError):
                if now - entry.stat().st_mtime > KEEP_SECONDS:
                    os.unlink(entry.path)


def discard(ruined: Snapshot) -> None:
    """Take a snapshot's record away, so that nobody stands on it again; what cannot be removed stays."""
    with suppress(OSError):
        for name in os.listdir(ruined.folder):
            if name.partition(".")[0] == ruined.files[0].name.partition(".")[0] and name.endswith(".json"):
                os.unlink(os.path.join(ruined.folder, name))


def attach(con: duckdb.DuckDBPyConnection, path: str, name: str, *, read_only: bool, lasting: bool = True) -> None:
    """Attach a DuckDB file under a name; what need not last is written without a log and a flush."""
    how = " (READ_ONLY)" if read_only else "" if lasting else " (RECOVERY_MODE no_wal_writes)"
    con.execute(f"ATTACH {literal(path)} AS {name}{how}")


def mark_of(path: str) -> tuple[int, int, int] | None:
    """What changes when a file does; None where it is not there."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


class _Maker:
    """Computes one snapshot: a scratch catalogue that is filled run by run, then written newest first."""

    def __init__(self, store: Store, folder: str, records: dict[str, Commit], chosen: Chosen, problems: list[str]) -> None:
        from .. import capture

        self.store = store
        self.folder = folder
        self.records = records
        self.chosen = chosen
        self.problems = problems
        self.name = segment_name(host=capture.host_name(), pid=os.getpid(), run=None)
        self.scratch = tempfile.mkdtemp(prefix=f".{self.name}-", dir=folder)
        self.con = duckdb.connect(":memory:", config=CONFIG)
        self.con.execute("SET timezone = 'UTC'")
        self.con.execute(f"SET temp_directory = {literal(self.scratch)}")
        self.con.execute("SET preserve_insertion_order = true")
        self.redacted: set[tuple[str, int]] = set()
        self.purged: set[str] = set()
        self.unstarted: set[str] = set()
        self._states: Any = None
        self._older: States | None = None

    def __enter__(self) -> _Maker:  # noqa: PYI034
        return self

    def __exit__(self, *problem: object) -> None:
        self.con.close()
        if self._states is not None:
            self._states.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def run(
        self, older: Snapshot | None, unusable: list[str], began: float, progress: Callable[[int, int], None] | None
    ) -> Snapshot:
        """Do it all."""
        for part in ("base", "more"):
            attach(self.con, os.path.join(self.scratch, part), part, read_only=False)
            self.con.execute(statements(part))
        fresh = self._beyond(older)
        if fresh is None:
            older, fresh = None, self.chosen
        tables = self._tables(fresh)
        self._removing(tables)
        flipped = self._read_register(tables, older)
        if older is not None and (self.redacted or self.purged or flipped):  # it changes what was folded before
            older, tables = None, self._tables(self.chosen)
            self._removing(tables)
            self._read_register(tables, None)
        runs = [run for run in tables.runs(self.con) if run not in self.purged]
        self._states = open(os.path.join(self.scratch, "states"), "xb")  # noqa: SIM115  (closed in __exit__)
        rows = RunRows(self.con, "base", Documents(self.store, self.con, "more", None, self.problems))
        if older is not None:
            self._take_over(older, runs, rows)
        self._fold(tables, runs, rows, older, progress)
        self._register_rows(older)
        return self._publish(rows, unusable, began)

    def _tables(self, spans: Chosen) -> Tables:
        names = {name for chosen in spans.values() for name, _ in chosen}
        late = [segment for segment, chosen in spans.items() if chosen[0][1].start]
        known = {}
        if late:  # they begin in tables that an older snapshot has read
            first = {segment: self.chosen[segment][:1] for segment in late}
            records = {name: self.records[name] for chosen in first.values() for name, _ in chosen}
            known = Tables(self.store, records, first).headers_of(self.con, late)
        return Tables(self.store, {name: self.records[name] for name in names}, spans, known)

    def _read_register(self, tables: Tables, older: Snapshot | None) -> bool:
        """Take in what was said of no run; return whether a project went into the trash or came out of it."""
        for table in (*Register.tables, "register_table"):
            schema = "more" if table == "register_table" else "base"
            self.con.execute(f"DELETE FROM {schema}.{table}")  # noqa: S608
            if older is not None:
                self.con.execute(f"INSERT INTO {schema}.{table} SELECT * FROM old_{schema}.{table}")  # noqa: S608
        self.register = Register(self.con, None if older is None else "more.register_table")
        for told, run, data in tables.told(self.con, tuple(REGISTER_KINDS)):
            counts = (run is None or told.kind != UNDONE) and run not in self.purged
            if counts and (told.segment, told.seq) not in self.redacted:
                try:
                    self.register.take(told, data)
                except msgspec.DecodeError as problem:
                    self.problems.append(f"{told.kind} at {told.event} does not fit its kind: {problem}")
        return any(old is not None and new is not None and old[1] != new[1] for old, new in self.register.settle().values())

    # -- what is new -------------------------------------------------------------------------------------------------

    def _beyond(self, older: Snapshot | None) -> Chosen | None:
        """The spans that count and that `older` does not cover; None where it covers what does not count any more."""
        if older is None:
            return None
        covered = self._covered(older)
        fresh: Chosen = {}
        for segment, spans in self.chosen.items():
            end, lines = covered.pop(segment, (0, 0))
            if end > spans[-1][1].end:
                return None
            beyond = [
                (name, span if span.start >= end else msgspec.structs.replace(span, start=end, line=lines))
                for name, span in spans
                if span.end > end
            ]
            if beyond:
                fresh[segment] = beyond
        return None if covered else fresh

    def _covered(self, older: Snapshot) -> dict[str, tuple[int, int]]:
        attach(self.con, older.path(".more.duckdb"), "old_more", read_only=True)
        attach(self.con, older.path(".runs.duckdb"), "old_base", read_only=True)
        self._older = States(older.path(".states"))
        rows = self.con.execute('SELECT segment, "end", lines FROM old_more.span_table').fetchall()
        return {segment: (end, lines) for segment, end, lines in rows}

    def _removing(self, tables: Tables) -> None:
        for told, run, data in tables.of_kind(self.con, REMOVING_KINDS):
            try:
                purged, redacted = removed_by(told.kind, run, data)
            except msgspec.DecodeError as problem:
                self.problems.append(f"{told.kind} at {told.event} does not fit its kind: {problem}")
                continue
            if purged is not None:
                self.purged.add(purged)
            if redacted is not None:
                self.redacted.add(redacted)

    # -- runs --------------------------------------------------------------------------------------------------------

    def _take_over(self, older: Snapshot, touched: Sequence[str], rows: RunRows) -> None:
        """Copy what no new event is about."""
        con = self.con
        con.execute("CREATE TEMP TABLE touched AS SELECT unnest($1::VARCHAR[]) AS run_id", [list(touched)])
        for kind, column in con.execute("SELECT kind, column_name FROM old_base.column_table").fetchall():
            con.execute(f"ALTER TABLE base.run_table ADD COLUMN {column} {'VARCHAR' if kind == 'params' else 'DOUBLE'}")
        for table in ("column_table", "key_table"):
            con.execute(f"INSERT INTO base.{table} SELECT * FROM old_base.{table}")  # noqa: S608
        rows.load()
        columns = ", ".join(map(quoted, columns_of(con, "base.run_table")))  # not the spare ones
        text = f"SELECT {columns} FROM old_base.run_table ANTI JOIN touched USING (run_id)"  # noqa: S608
        con.execute(f"INSERT INTO base.run_table BY NAME {text}")
        for table in ("environment_table", "code_table"):
            con.execute(f"INSERT INTO more.{table} SELECT * FROM old_more.{table}")  # noqa: S608
        con.execute("INSERT INTO more.summary_table SELECT * FROM old_more.summary_table ANTI JOIN touched USING (run_id)")
        kept: list[tuple[str, str, int, int]] = []
        cursor = con.cursor().execute('SELECT run_id, uid, "at", bytes FROM old_more.state_table ORDER BY "at"')
        gone = set(touched)
        assert self._older is not None  # noqa: S101
        while found := cursor.fetchmany(CHUNK):
            for run_id, uid, at, size in found:
                if run_id not in gone:
                    if self._older.get(at, size) is None:
                        raise DamageError("bad-checksum", path="states", offset=at, detail=f"the state of run {run_id}")
                    kept.append((run_id, str(uid), self._states.tell(), size))
                    self._states.write(self._older.raw(at, size))
            self._insert_states(kept)
            kept.clear()
        self.redacted |= {(segment, seq) for segment, seq in older.redacted}
        self.purged |= set(older.purged)
        self.unstarted |= set(older.unstarted) - gone

    def _insert_states(self, kept: Sequence[tuple[str, str, int, int]]) -> None:
        insert(self.con, "more.state_table", [
            {"uid": uid, "run_id": run_id, "at": at, "bytes": size} for run_id, uid, at, size in kept
        ])  # fmt: skip

    def _fold(
        self,
        tables: Tables,
        runs: Sequence[str],
        rows: RunRows,
        older: Snapshot | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        headers = tables.headers(self.con)
        live = self._live_runs()
        for start in range(0, len(runs), CHUNK):
            chunk = runs[start : start + CHUNK]
            folds = self._loaded(chunk) if older is not None else {}
            self.register.settle()
            before = [key for fold in folds.values() if fold.exists for key in state_keys(fold, self.register.labels)]
            self.problems += tables.fold(self.con, chunk, folds, headers=headers, redacted=frozenset(self.redacted))
            for fold in folds.values():
                self.register.call(fold)
            self._write(rows, folds, before, live)
            if progress is not None:
                progress(min(start + CHUNK, len(runs)), len(runs))

    def _loaded(self, runs: Sequence[str]) -> dict[str, RunFold]:
        assert self._older is not None  # noqa: S101
        found: dict[str, RunFold] = {}
        text = 'SELECT run_id, "at", bytes FROM old_more.state_table WHERE run_id IN (SELECT unnest($1::VARCHAR[]))'
        for run_id, at, size in self.con.execute(text, [list(runs)]).fetchall():
            fold = self._older.get(at, size)
            if fold is None:
                raise DamageError("bad-checksum", path="states", offset=at, detail=f"the state of run {run_id}")
            found[run_id] = fold
        return found

    def _live_runs(self) -> set[str]:
        """Runs that have a segment whose bytes are not all in tables: only those may have a living writer."""
        sealed = {segment for segment, spans in self.chosen.items() if spans[-1][1].sealed}
        return {run for name in self.store.segment_names() if name not in sealed and (run := run_of_segment(name)) is not None}

    def _write(self, rows: RunRows, folds: dict[str, RunFold], before: list[Key], live: set[str]) -> None:
        states, summaries = [], []
        self.unstarted.update(run_id for run_id, fold in folds.items() if not fold.exists)
        for run_id, fold in folds.items():
            content = fold.dump()
            states.append((run_id, uid_of(run_id), self._states.tell(), len(content) + _CRC.size))
            self._states.write(_CRC.pack(crc32(content)) + content)
            summaries += [{"run_id": run_id, **series.row(key)} for key, series in fold.series.items()] if fold.exists else []
        self._insert_states(states)
        insert(self.con, "more.summary_table", summaries)
        self.register.settle()
        written = rows.write([fold for fold in folds.values() if fold.exists], before, self.register.labels)
        rows.documents.flush()
        crash(self.con, [row.run_id for row in written if row.is_open and row.run_id not in live])

    # -- the end -----------------------------------------------------------------------------------------------------

    def _register_rows(self, older: Snapshot | None) -> None:
        """The register as it is now; runs that were taken over follow their project's label and trash."""
        self.register.write()
        states = self.register.states()
        if older is not None:
            self.con.execute(
                "DELETE FROM more.register_table r USING (SELECT unnest($1::VARCHAR[]) a, unnest($2::VARCHAR[]) n) "
                "WHERE r.about = a AND r.name = n",
                [[row["about"] for row in states], [row["name"] for row in states]],
            )
        insert(self.con, "more.register_table", states)
        self.con.execute("""
            UPDATE base.run_table SET project = p.name, trashed = own_trashed OR p.trashed
            FROM base.project_table p
            WHERE p.project_id = run_table.project_id
              AND (p.name, own_trashed OR p.trashed) IS DISTINCT FROM (run_table.project, run_table.trashed)
        """)

    def _publish(self, rows: RunRows, unusable: list[str], began: float) -> Snapshot:
        con = self.con
        insert(con, "more.span_table", [
            {field: getattr(spans[-1][1], field) for field in ("segment", "end", "lines", "seq", "crc", "sealed")}
            for spans in self.chosen.values()
        ])  # fmt: skip
        con.execute("DELETE FROM base.key_table")
        insert(con, "base.key_table", [
            {"kind": kind, "key": key, "type": type_name, "uses": uses}
            for (kind, key, type_name), uses in rows.keys.items() if uses > 0
        ])  # fmt: skip
        self._states.flush()
        for part in ("runs", "more"):
            self._write_out(part)
        os.replace(os.path.join(self.scratch, "states"), os.path.join(self.folder, f"{self.name}.states"))
        (runs,) = one_row(con, "SELECT count(*) FROM base.run_table") or (0,)
        files = []
        for ending in ("runs.duckdb", "more.duckdb", "states"):
            path = os.path.join(self.folder, f"{self.name}.{ending}")
            digest, size = ("", os.stat(path).st_size) if ending == "states" else blobs.hash_file(path)
            files.append(File(f"{self.name}.{ending}", size, digest))
        found = Snapshot(
            layout=LAYOUT, fold=VERSION, engine=duckdb.__version__, at=time.time(), commits=sorted(self.records),
            unusable=unusable, runs=runs, files=files,
            redacted=sorted(self.redacted),
            purged=sorted(self.purged), unstarted=sorted(self.unstarted), problems=self.problems,
            seconds=time.monotonic() - began,
        )  # fmt: skip
        body = msgspec.json.encode(found)[:-1] + b',"crc":0}'
        temporary = os.path.join(self.scratch, "record")
        Path(temporary).write_bytes(body[:-2] + b"%d}\n" % crc32(body))
        os.replace(temporary, os.path.join(self.folder, f"{self.name}.json"))
        with suppress(OSError):
            sync_folder(self.folder)
        return msgspec.structs.replace(found, folder=self.folder)

    def _write_out(self, part: str) -> None:
        """Copy a scratch catalogue into a file without gaps, runs newest first."""
        con, schema = self.con, {"runs": "base", "more": "more"}[part]
        path = os.path.join(self.folder, f"{self.name}.{part}.duckdb")
        (runs,) = one_row(con, "SELECT count(*) FROM base.run_table") or (0,)
        size = SMALL_BLOCK if runs < SMALL_RUNS else LARGE_BLOCK
        con.execute(f"ATTACH {literal(path)} AS out (BLOCK_SIZE {size})")
        tables = con.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = ?", [schema]).fetchall()
        orders = {
            "run_table": "started_at DESC, uid DESC",
            "state_table": "uid DESC",
            "summary_table": "run_id",
            "span_table": "segment",
        }
        ((hot,),) = con.execute("SELECT count(*) FROM base.column_table").fetchall()
        spare = "".join(f", NULL::VARCHAR AS p{n}, NULL::DOUBLE AS m{n}" for n in range(hot, hot + SPARE))
        for (table,) in tables:
            order = f" ORDER BY {orders[table]}" if table in orders else ""
            more = spare if table == "run_table" else ""
            con.execute(f"CREATE TABLE out.{table} AS SELECT *{more} FROM {schema}.{table}{order}")  # noqa: S608
        con.execute("CHECKPOINT out")
        con.execute("DETACH out")


def state_keys(fold: RunFold, projects: Mapping[str, tuple[str, bool]]) -> list[Key]:
    """The names that a run counts for; `projects` tells label and trash of each project."""
    state = fold.state()
    name = state.fields.get("project")
    if state.fields.get("trashed") or (name and projects.get(project_of(name), ("", False))[1]):
        return []
    return keys_of(state)


def crash(con: duckdb.DuckDBPyConnection, runs: Sequence[str]) -> None:
    """Show runs as crashed: no end, and nobody writes them any more."""
    if runs:
        con.execute(
            "UPDATE base.run_table SET status = 'crashed', ended_at = last_at WHERE uid IN (SELECT unnest($1::UUID[]))",
            [[uid_of(run) for run in runs]],
        )


def spans_of(con: duckdb.DuckDBPyConnection, names: Sequence[str]) -> dict[str, Span]:
    """How far the attached snapshot covers segments: by name the last span, of which only its end is told."""
    text = (
        'SELECT segment, "end", lines, seq, crc, sealed FROM more.span_table WHERE segment IN (SELECT unnest($1::VARCHAR[]))'
        if len(names) < CHUNK
        else 'SELECT segment, "end", lines, seq, crc, sealed FROM more.span_table WHERE $1 IS NOT NULL'
    )
    return {
        segment: Span(segment=segment, start=0, end=end, sha256="", line=0, lines=lines, seq=seq, crc=crc, sealed=sealed)
        for segment, end, lines, seq, crc, sealed in con.execute(text, [list(names)]).fetchall()
    }
