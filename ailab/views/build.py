"""The catalogue: tables and views in a DuckDB of this process alone, kept up to date from the journal.

Each reader has its own, in memory; nothing in it is true by itself, no other process can meet a lock of it, and it can be
thrown away at any time. A refresh reads only bytes that are new, adds their events and points, folds the runs they touch,
and asks whether the writers of open runs still live; afterwards every view equals a full replay. A line, payload or blob
that cannot be used is named in `problems` and costs nothing else.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import msgspec

from .. import blobs, events
from ..errors import AilabError, FilterError
from ..journal import Tail, writer_alive
from .fold import ProjectFold, RunFold, as_double, tell

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..journal import Envelope, Segment
    from ..store import Store
    from .fold import Told

CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
"""DuckDB looks for extensions on the network otherwise, and hangs for seconds without one."""
WIDE_MAX = 1000
"""Columns for parameters and metrics in `wide`: the most used."""
WIDE_COMMENT = "one row per run not in the trash: its columns in runs, then one per parameter and final metric"
_COMMENT = "COMMENT ON "
BATCH = 20_000
"""Events handed to DuckDB at once."""

_encode = msgspec.json.Encoder().encode
_EVENT_SHAPE = (
    '[{"segment":"VARCHAR","seq":"BIGINT","at":"TIMESTAMP","clock":"BIGINT","kind":"VARCHAR","run_id":"VARCHAR",'
    '"by":"VARCHAR","via":"VARCHAR","data":"JSON"}]'
)
_ADD_EVENTS = f"INSERT INTO event_table SELECT unnest(from_json($1, '{_EVENT_SHAPE}'), recursive := true)"
_ADD_POINTS = """
INSERT INTO point_table
SELECT run_id, e.key, TRY_CAST(data ->> '$.step' AS BIGINT),
       coalesce(make_timestamp(CAST(CASE WHEN TRY_CAST(data ->> '$.time' AS DOUBLE) BETWEEN -62135596800 AND 253402300799
                                         THEN TRY_CAST(data ->> '$.time' AS DOUBLE) * 1e6 END AS BIGINT)), "at"),
       CASE e.value WHEN 'true' THEN 1 WHEN 'false' THEN 0 ELSE TRY_CAST(e.value ->> '$' AS DOUBLE) END,
       CASE WHEN json_type(e.value) = 'VARCHAR' AND e.value ->> '$' NOT IN ('NaN', 'Infinity', '-Infinity') THEN e.value ->> '$'
            WHEN regexp_full_match(CAST(e.value AS VARCHAR), '-?[0-9]{16,}')
                 AND coalesce(TRY_CAST(CAST(e.value AS VARCHAR) AS HUGEINT)
                              <> TRY_CAST(CAST(CAST(e.value AS VARCHAR) AS DOUBLE) AS HUGEINT), true)
            THEN CAST(e.value AS VARCHAR) END,
       clock, segment, seq
FROM (SELECT *, unnest(map_entries(TRY(from_json(data -> '$.values', '"MAP(VARCHAR,JSON)"')))) AS e
      FROM event_table WHERE rowid >= $1 AND kind = 'metrics.logged' AND run_id IS NOT NULL)
"""


class EventRow(msgspec.Struct):
    """One row of `event_table`."""

    segment: str
    seq: int
    at: Any
    clock: int
    kind: str
    run_id: str | None
    by: str | None
    via: str | None
    data: msgspec.Raw


class Lab:
    """The catalogue of one store. Use it from one thread at a time, or through `cursor`.

    Args:
        store: the store.
        problems: what could not be used so far: damaged lines, unreadable files, payloads that do not fit their kind.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.con = duckdb.connect(":memory:", config=CONFIG)
        self.con.execute("SET timezone = 'UTC'")
        statements = (Path(__file__).parent / "views.sql").read_text()
        self.con.execute(_without_comments(statements))
        self.tail = Tail(store)
        self.runs: dict[str, RunFold] = {}
        self.projects: dict[str, ProjectFold] = {}
        self.refreshed_at = 0.0
        self._payload_problems: list[str] = []
        self._lock = threading.RLock()
        self._shapes = {
            table: _shape(self.con, table)
            for table in ("run_table", "project_table", "project_change_table", "environment_table", "code_table")
        }
        self._known_blobs: set[str] = set()
        self._open: set[str] = set()
        self._gone: set[str] = set()
        self._keys: Counter[tuple[str, str, str]] = Counter()
        self._keys_of: dict[str, list[tuple[str, str, str]]] = {}
        self._wide: tuple[Any, ...] = ()
        self._locked = False
        self._commented = False
        self._make_wide(force=True)

    def close(self) -> None:
        """Let go of the catalogue."""
        self.con.close()

    def comment(self) -> None:
        """Put the comments of views.sql on views and columns: for people, and 60 ms that no other reader needs to spend."""
        if not self._commented:
            statements = (Path(__file__).parent / "views.sql").read_text()
            self.con.execute("\n".join(line for line in statements.splitlines() if line.startswith(_COMMENT)))
            self.con.execute(f"COMMENT ON VIEW wide IS {_literal(WIDE_COMMENT)}")
            self._commented = True

    def select(self, query: str, *, limit: int) -> tuple[list[str], list[str], list[tuple[Any, ...]]]:
        """Run one statement that only reads; return (column names, column types, at most `limit` rows).

        Raises:
            FilterError: it does not parse, is not one SELECT, or names what is not there; DuckDB's words say where.
        """
        try:
            statements = duckdb.extract_statements(query)
            kinds = [statement.type.name for statement in statements]
            if kinds not in (["SELECT"], ["EXPLAIN"]):
                said = ", ".join(kinds) or "nothing"
                raise FilterError(
                    f"one SELECT is allowed, not {said}", where="sql", hint="DESCRIBE wide tells the columns of a view"
                )
            cursor = self._reading().execute(query)
            columns = [(str(d[0]), str(d[1])) for d in cursor.description or ()]
            return [name for name, _ in columns], [kind for _, kind in columns], cursor.fetchmany(limit)
        except duckdb.Error as problem:
            raise FilterError(str(problem).strip(), where="sql", hint='`ailab sql "show tables"` names the views') from None

    def _reading(self) -> duckdb.DuckDBPyConnection:
        """A cursor that can reach neither files nor settings; the whole catalogue is locked from then on."""
        if not self._locked:
            self.con.execute("SET enable_external_access = false")
            self.con.execute("SET lock_configuration = true")
            self._locked = True
        return self.con.cursor()

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own to the same tables, for another thread."""
        return self.con.cursor()

    @property
    def problems(self) -> list[str]:
        """Everything that could not be used, in words."""
        return [str(problem) for problem in self.tail.problems] + self._payload_problems

    # -- refresh -----------------------------------------------------------------------------------------------------

    def refresh(self, max_age_s: float = 0.0) -> None:
        """Bring tables and views up to date, unless that was done within `max_age_s`."""
        with self._lock:
            if max_age_s and time.monotonic() - self.refreshed_at < max_age_s:
                return
            touched: set[str] = set()
            touched_projects: set[str] = set()
            rows: list[EventRow] = []
            self.con.execute("BEGIN")
            try:
                for segment, lines in self.tail.poll():
                    for line in lines:
                        self._take(segment, line, touched, touched_projects)
                        rows.append(_event_row(segment, line))
                    if len(rows) >= BATCH:
                        self._add_events(rows)
                        rows = []
                self._add_events(rows)
                self._write_runs(touched)
                self._write_projects(touched_projects)
                self._look_for_gone(touched)
                self.con.execute("COMMIT")
            except BaseException:
                self.con.execute("ROLLBACK")
                raise
            self._make_wide()
            self.refreshed_at = time.monotonic()

    def _take(self, segment: Segment, line: Envelope, touched: set[str], touched_projects: set[str]) -> None:
        """Fold one event."""
        if line.run is None and not line.kind.startswith("project."):
            return
        told = tell(segment, line)
        try:
            if line.run is not None:
                self._take_run(told, line, touched, touched_projects)
            else:
                event = msgspec.json.decode(line.data, type=events.KINDS[line.kind])
                project: str = event.project  # type: ignore[attr-defined]
                self._project(project).take(told, event)
                touched_projects.add(project)
        except (msgspec.ValidationError, KeyError) as problem:
            self._payload_problems.append(f"{line.kind} at {segment.birth}:{line.seq} does not fit its kind: {problem}")

    def _take_run(self, told: Told, line: Envelope, touched: set[str], touched_projects: set[str]) -> None:
        assert line.run is not None  # noqa: S101  (the caller has looked)
        fold = self.runs.get(line.run)
        if fold is None:
            fold = self.runs[line.run] = RunFold(line.run)
        touched.add(line.run)
        fold.take(told, line.data)
        if line.kind in {"run.started", "run.changed"}:
            event = msgspec.json.decode(line.data, type=events.KINDS[line.kind])
            name = event.project  # type: ignore[attr-defined]
            if name:
                project = events.project_id(name)
                self._project(project).name(told, name)
                touched_projects.add(project)

    def _project(self, project: str) -> ProjectFold:
        return self.projects.setdefault(project, ProjectFold(project))

    def _add_events(self, rows: list[EventRow]) -> None:
        if not rows:
            return
        (first,) = self.con.execute("SELECT coalesce(max(rowid) + 1, 0) FROM event_table").fetchone() or (0,)
        self.con.execute(_ADD_EVENTS, [_encode(rows).decode()])
        self.con.execute(_ADD_POINTS, [first])

    def _insert(self, table: str, rows: list[dict[str, Any]]) -> None:
        if rows:
            shape = _literal(self._shapes[table])
            statement = f"INSERT INTO {table} SELECT x.* FROM (SELECT unnest(from_json($1, {shape})) AS x)"  # noqa: S608  (our own names)
            self.con.execute(statement, [_encode(rows).decode()])

    def _write_runs(self, touched: set[str]) -> None:
        folds = [self.runs[run_id] for run_id in touched if self.runs[run_id].exists]
        if not folds:
            return
        self._read_blobs(folds)
        self.con.execute("DELETE FROM run_table WHERE run_id IN (SELECT unnest($1::VARCHAR[]))", [[f.run_id for f in folds]])
        rows = []
        for fold in folds:
            row = fold.row()
            row["final_metrics"] = row["metrics"]
            row["metrics"] = _doubles(row["metrics"])
            rows.append(row)
            self._count_keys(fold.run_id, row)
            (self._open.add if fold.open else self._open.discard)(fold.run_id)
        self._insert("run_table", rows)

    def _write_projects(self, touched: set[str]) -> None:
        if not touched:
            return
        self.con.execute("DELETE FROM project_table WHERE project_id IN (SELECT unnest($1::VARCHAR[]))", [sorted(touched)])
        self._insert("project_table", [self.projects[project].row() for project in sorted(touched)])
        self.con.execute("DELETE FROM project_change_table")
        changes: list[dict[str, Any]] = []
        for fold in self.projects.values():
            before: dict[str, Any] = {"name": fold.first_name.value}
            for e in sorted(fold.edits, key=lambda edit: edit.place):
                changes.append({
                    "event": e.event, "at": e.at, "by": e.by, "via": e.via, "kind": e.kind, "field": e.field,
                    "old": before.get(e.field), "new": e.value,
                })  # fmt: skip
                before[e.field] = e.value
        self._insert("project_change_table", changes)

    def _read_blobs(self, folds: Iterable[RunFold]) -> None:
        """Load environments and code that are referred to for the first time."""
        environments: list[tuple[str, Any]] = []
        codes: list[tuple[str, Any]] = []
        for fold in folds:
            for field, found in (("environment", environments), ("code", codes)):
                digest = fold.get(field)
                if digest is None or digest in self._known_blobs:
                    continue
                try:
                    content = msgspec.json.decode(blobs.read_blob(self.store, digest))
                except (AilabError, OSError, msgspec.DecodeError) as problem:
                    self._payload_problems.append(f"{field} {digest} of run {fold.run_id} cannot be read: {problem}")
                    continue
                self._known_blobs.add(digest)
                found.append((digest, content))
        about = ("python_version", "packages", "device", "host")
        self._insert(
            "environment_table", [{"environment_id": digest, **{k: c.get(k) for k in about}} for digest, c in environments]
        )
        what = ("git_hash", "branch", "remote", "dirty", "script")
        self._insert("code_table", [{"code_id": d, "git_diff": c.get("diff"), **{k: c.get(k) for k in what}} for d, c in codes])

    def _look_for_gone(self, touched: set[str]) -> None:
        """Which open runs have no living writer: those are shown as crashed."""
        gone = {run_id for run_id in self._open if not any(writer_alive(s) for s in self.runs[run_id].segments.values())}
        if gone != self._gone or touched & gone:
            self._gone = gone
            self.con.execute("DELETE FROM gone_table")
            self.con.execute("INSERT INTO gone_table SELECT unnest($1::VARCHAR[])", [sorted(gone)])

    # -- wide --------------------------------------------------------------------------------------------------------

    def _count_keys(self, run_id: str, row: dict[str, Any]) -> None:
        """Keep count of how many runs have which parameter or metric, and of which type."""
        for key in self._keys_of.pop(run_id, ()):
            self._keys[key] -= 1
        if row["trashed"]:
            return
        keys = [("params", key, _type_of(value)) for key, value in row["params"].items()]
        keys += [("metrics", key, "DOUBLE") for key in row["metrics"]]
        self._keys_of[run_id] = keys
        self._keys.update(keys)

    def _make_wide(self, *, force: bool = False) -> None:
        """Make `wide` anew when the set of parameters and metrics, or a type among them, has changed."""
        types: dict[tuple[str, str], set[str]] = {}
        uses: Counter[tuple[str, str]] = Counter()
        for (table, key, type_name), count in self._keys.items():
            if count > 0:
                types.setdefault((table, key), set()).add(type_name)
                uses[table, key] += count
        most = sorted(sorted(uses, key=lambda k: (-uses[k], k))[:WIDE_MAX], key=lambda k: (k[0] == "metrics", k[1]))
        columns = tuple((table, key, _common(types[table, key])) for table, key in most)
        if columns == self._wide and not force:
            return
        self._wide = columns
        base = [row[0] for row in self.con.execute("DESCRIBE runs").fetchall() if row[0] not in {"params", "metrics"}]
        parts = [_quoted(name) for name in base]
        for (table, key, type_name), label in zip(columns, _labels(base, columns), strict=True):
            value = f"r_{table}[{_literal(key)}]"
            text = f"coalesce({value} ->> '$', CAST({value} AS VARCHAR))"
            parts.append(f"{value if table == 'metrics' else f'TRY_CAST({text} AS {type_name})'} AS {_quoted(label)}")
        self.con.execute(
            f"CREATE OR REPLACE VIEW wide AS SELECT {', '.join(parts)} FROM "  # noqa: S608  (names are quoted, keys are literals)
            "(SELECT w.*, t.params AS r_params, t.metrics AS r_metrics "
            "FROM runs w JOIN run_table t USING (run_id) WHERE NOT w.trashed)"
        )
        if self._commented:
            self.con.execute(f"COMMENT ON VIEW wide IS {_literal(WIDE_COMMENT)}")


def _without_comments(statements: str) -> str:
    return "\n".join(line for line in statements.splitlines() if not line.startswith(_COMMENT))


def _event_row(segment: Segment, line: Envelope) -> EventRow:
    return EventRow(segment.birth, line.seq, line.at, line.clock, line.kind, line.run, line.by, line.via, line.data)


def _shape(con: duckdb.DuckDBPyConnection, table: str) -> str:
    """The JSON structure of a table's rows, as `from_json` wants it."""
    return msgspec.json.encode([{row[0]: row[1] for row in con.execute(f"DESCRIBE {table}").fetchall()}]).decode()


def _doubles(metrics: dict[str, Any]) -> dict[str, Any]:
    """Final metrics as JSON that fits a DOUBLE, those that are no number left out."""
    found = {key: as_double(value) for key, value in metrics.items()}
    special = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    return {k: special.get(str(v), v) for k, v in found.items() if v is not None}


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "BOOLEAN"
    if isinstance(value, int):
        return "BIGINT" if -(2**63) <= value < 2**63 else "DOUBLE"
    if isinstance(value, float):
        return "DOUBLE"
    return "NULL" if value is None else "VARCHAR"


def _common(types: set[str]) -> str:
    """The type that holds values of all `types`."""
    real = types - {"NULL"}
    if len(real) == 1:
        return next(iter(real))
    return "DOUBLE" if real and real <= {"BIGINT", "DOUBLE"} else "VARCHAR"


def _labels(base: list[str], columns: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    """Column names of parameters and metrics in `wide`: one that is taken, case ignored, has its table in front."""
    counts = Counter([name.lower() for name in base] + [key.lower() for _, key, _ in columns])
    used = {name.lower() for name in base}
    for table, key, _ in columns:
        label = key if key and counts[key.lower()] == 1 else f"{table}.{key}"
        while label.lower() in used:  # two parameters that differ in case only, or one that is called `params.x` itself
            label += "_"
        used.add(label.lower())
        yield label


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""').replace("\0", "\N{SYMBOL FOR NULL}") + '"'


def _literal(text: str) -> str:
    literal = "'" + text.replace("'", "''") + "'"
    return "(" + literal.replace("\0", "' || chr(0) || '") + ")" if "\0" in text else literal
