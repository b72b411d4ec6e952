"""Runs as rows: what a fold comes to, written into `run_table` of a catalogue, with a column per parameter and metric.

Who writes: the snapshot, once, and each reader's own copy of it as events arrive. What holds: a run's row is a function of its
fold, of the documents (environment, code) that it names and of its project; the columns `p0`, `p1` … and `m0`, `m1` … repeat
values that stand in `detail` and `metrics` too, for the names listed in `column_table`; `keys` counts exactly the parameters and
metrics of the runs that are not in the trash.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections import Counter, defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import duckdb
import msgspec

from .. import blobs, events
from ..errors import AilabError
from ..values import as_json
from .fold import ENDED, as_double
from .wide import COLUMNS_MAX, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence
    from datetime import datetime

    from ..store import Store
    from .fold import RunFold, RunState

HOT_MAX = COLUMNS_MAX
"""Parameters and metrics that have a column of their own."""
ALPHABET = frozenset("0123456789abcdefghjkmnpqrstvwxyz")
_BASE_32 = str.maketrans("0123456789abcdefghjkmnpqrstvwxyz", "0123456789abcdefghijklmnopqrstuv")
_ID_LENGTH = 26
_encode = msgspec.json.Encoder().encode

Key = tuple[str, str, str]
"""(`params` or `metrics`, name, SQL type), or (`goals`, name of a metric, `max` or `min`)"""


project_of = functools.lru_cache(maxsize=4096)(events.project_id)


@functools.lru_cache(maxsize=16_384)
def uid_of(run_id: str) -> str:
    """The run's id as a UUID, which a catalogue finds without an index: ids of ours are 128 bits in order of time."""
    if len(run_id) == _ID_LENGTH and run_id[0] <= "7" and ALPHABET.issuperset(run_id):
        digits = f"{int(run_id.translate(_BASE_32), 32):032x}"
    else:
        digits = hashlib.sha256(run_id.encode("utf-8", "backslashreplace")).hexdigest()[:32]
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def stamp(moment: datetime | None) -> str | None:
    """RFC 3339 with microseconds, UTC."""
    return None if moment is None else moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def text_of(value: Any) -> str | None:
    """A parameter's value as text; None where it is null."""
    if value is None or value.__class__ is str:
        return value
    return str(value) if value.__class__ is int else _encode(value).decode()


class EventRow(msgspec.Struct, gc=False):
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


class Documents:
    """Environments and code by digest, read from blobs at their first mention into tables of the catalogue `schema`.

    Args:
        store: where the blobs are.
        con: the connection.
        schema: where `environment_table` and `code_table` are that new ones go to.
        known: another place where they may be already.
        problems: what cannot be read is named here.
    """

    def __init__(self, store: Store, con: duckdb.DuckDBPyConnection, schema: str, known: str | None, problems: list[str]) -> None:
        self._store = store
        self._con = con
        self._schema = schema
        self._known = known
        self._problems = problems
        self._waiting: dict[str, list[dict[str, Any]]] = {"environment_table": [], "code_table": []}
        self._hashes: dict[str, str | None] = {}
        self._environments: set[str] = set()

    def git_hash(self, digest: str | None, captured: events.CodeCaptured | None, run_id: str) -> str | None:
        """The commit of a code digest; `captured` is the event that names it, where the run has one."""
        if digest is None:
            return None
        if digest not in self._hashes:
            row = self._row("code_table", "git_hash", "code_id", digest)
            self._hashes[digest] = row[0] if row else self._read_code(digest, captured, run_id)
        if self._hashes[digest] is None and captured is not None:
            return captured.git_hash
        return self._hashes[digest]

    def environment(self, digest: str | None, run_id: str) -> None:
        """Make sure that an environment is in its table, if it can be read."""
        if digest is None or digest in self._environments:
            return
        self._environments.add(digest)
        if self._row("environment_table", "1", "environment_id", digest):
            return
        content = self._read("environment", digest, run_id)
        if content is not None:
            about = {k: content.get(k) for k in ("python_version", "packages", "device", "host")}
            self._waiting["environment_table"].append({"environment_id": digest, **about})

    def flush(self) -> None:
        """Write what was read: apart from the runs, because one transaction changes one database."""
        for table, rows in self._waiting.items():
            insert(self._con, f"{self._schema}.{table}", rows)
            rows.clear()

    def _row(self, table: str, column: str, key: str, digest: str) -> tuple[Any, ...] | None:
        for schema in (self._known, self._schema):
            if schema is not None:
                row = one_row(self._con, f"SELECT {column} FROM {schema}.{table} WHERE {key} = ?", [digest])  # noqa: S608
                if row:
                    return row
        return None

    def _read_code(self, digest: str, captured: events.CodeCaptured | None, run_id: str) -> str | None:
        content = self._read("code", digest, run_id)
        if content is None and captured is None:
            return None
        about = content or msgspec.structs.asdict(captured)  # type: ignore[arg-type]
        row = {k: about.get(k) for k in ("git_hash", "branch", "remote", "dirty", "script")}
        self._waiting["code_table"].append({"code_id": digest, **row, "git_diff": about.get("diff")})
        return row["git_hash"]

    def _read(self, what: str, digest: str, run_id: str) -> dict[str, Any] | None:
        try:
            content = msgspec.json.decode(blobs.read_blob(self._store, digest))
        except (AilabError, OSError, msgspec.DecodeError) as problem:
            self._problems.append(f"{what} {digest} of run {run_id} cannot be read: {problem}")
            return None
        return content if isinstance(content, dict) else None


class Written(msgspec.Struct, frozen=True):
    """What there is to remember of a row: the names that it counts for, if it was counted, and whether its run may crash.

    `is_open` says that the run has no end yet, and lines in segments of its own: any other one has no writer to lose.
    """

    run_id: str
    is_open: bool
    keys: list[Key] | None


class RunRow(msgspec.Struct, gc=False):
    """One row of `run_table`, without its columns for parameters and metrics: a run as it reads now."""

    uid: str
    run_id: str
    name: str
    project_id: str | None
    project: str | None
    status: str
    started_at: datetime | None
    ended_at: datetime | None
    last_at: datetime | None
    user: str | None
    host: str | None
    seed: int | None
    group: str | None
    parent_run_id: str | None
    dataset_id: str | None
    environment_id: str | None
    code_id: str | None
    git_hash: str | None
    command: str
    wandb_url: str | None
    note: str | None
    description: str | None
    error: str | None
    trashed: bool
    own_trashed: bool
    protected: bool
    dropped: int
    has_artifacts: bool
    goals: str | None
    tags: str | None
    notes: str | None
    artifacts: str | None
    changes: str | None
    datasets: str | None
    detail: str


class RunRows:
    """Writes runs into `SCHEMA.run_table`, adds columns for new parameters and metrics, and counts their names.

    Attributes:
        hot: column by ("params" or "metrics", name).
        keys: how many runs that are not in the trash have a name, by its type.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, schema: str, documents: Documents) -> None:
        self.con = con
        self.schema = schema
        self.documents = documents
        self.hot: dict[tuple[str, str], str] = {}
        self.keys: Counter[Key] = Counter()
        self._known_types: dict[str, str] = {}

    def load(self) -> None:
        """Take up the names that a snapshot has counted and given columns."""
        rows = self.con.execute(f"SELECT kind, key, column_name FROM {self.schema}.column_table").fetchall()  # noqa: S608
        self.hot = {(kind, key): column for kind, key, column in rows}
        rows = self.con.execute(f"SELECT kind, key, type, uses FROM {self.schema}.key_table").fetchall()  # noqa: S608
        self.keys = Counter({(kind, key, type_name): uses for kind, key, type_name, uses in rows})

    def row(self, fold: RunFold, state: RunState, project: tuple[str, bool] | None) -> RunRow:
        """The run as a row."""
        standing, get = state.standing(), state.fields.get
        started_at, command = state.started or (None, "")
        label, project_trashed = project or (None, False)
        code, environment, name = get("code"), get("environment"), get("project")
        self.documents.environment(environment, fold.run_id)
        git_hash = code and self.documents.git_hash(code, state.codes.get(code), fold.run_id)
        user, host = (None, None) if state.origin is None else (state.origin.user, state.origin.host)
        files, own_trashed = state.files(), bool(get("trashed", False))
        row = RunRow(
            uid_of(fold.run_id), fold.run_id, get("name", ""), name and project_of(name), label, standing.status, started_at,
            standing.at if standing.status in ENDED else None, fold.last_at, user, host, get("seed"), get("group"), get("parent"),
            get("dataset"), environment, code, git_hash, command, get("wandb_url"), get("note"), get("description"),
            standing.error, own_trashed or project_trashed, own_trashed, bool(get("protected", False)), state.dropped,
            any(not file["trashed"] for file in files), _text({k: v for k, v in state.goals.items() if v}),
            _text([
                {"key": k, "value": text_of(v), "at": at, "by": by, "segment": segment}
                for k, (v, at, by, segment) in sorted(state.tags.items())
            ]),
            _text(state.notes), _text(files), _text(state.changes), _text(list(state.datasets.values())), "",
        )  # fmt: skip
        row.detail = _encode(_detail(state, row, files)).decode()
        return row

    def write(
        self,
        folds: Iterable[RunFold],
        before: Iterable[Key],
        projects: Mapping[str, tuple[str, bool]],
        *,
        uncounted: Container[str] = (),
    ) -> list[Written]:
        """Insert the rows of `folds`, which must not be there.

        Args:
            folds: the runs.
            before: the names that their old rows counted for.
            projects: label and trash of each project.
            uncounted: runs whose names are what they were, so that they stay counted.
        """
        folds = list(folds)
        rows: list[RunRow] = []
        written: list[Written] = []
        hot: defaultdict[str, list[Any]] = defaultdict(lambda: [None] * len(folds))
        self.keys.subtract(before)
        for fold in folds:
            state = fold.state()
            name = state.fields.get("project")
            row = self.row(fold, state, projects.get(project_of(name)) if name else None)
            keys = None if fold.run_id in uncounted else [] if row.trashed else keys_of(state)
            if keys is not None:
                self.keys.update(keys)
            self._fill(hot, len(rows), "params", state.params, text_of)
            self._fill(hot, len(rows), "metrics", state.final_metrics(), _double)
            rows.append(row)
            written.append(Written(row.run_id, row.status not in ENDED and row.last_at is not None, keys))
        if rows:
            columns = dict(zip(RunRow.__struct_fields__, zip(*map(msgspec.structs.astuple, rows), strict=True), strict=True))
            insert_columns(self.con, f"{self.schema}.run_table", {**columns, **hot}, self._types())
        return written

    def _types(self) -> dict[str, str]:
        """The columns of `run_table` as they are now."""
        if not self._known_types:
            self._known_types = columns_of(self.con, f"{self.schema}.run_table")
        return self._known_types

    def _fill(
        self, hot: dict[str, list[Any]], i: int, kind: str, values: Mapping[str, Any], as_column: Callable[[Any], Any]
    ) -> None:
        """Put the values of row `i` into their columns; a new name gets one, as long as there is room."""
        column_of = self.hot
        for key, value in values.items():
            column = column_of.get((kind, key))
            if column is None:
                if len(column_of) >= HOT_MAX:
                    continue
                column = self._add_column(kind, key)
            hot[column][i] = as_column(value)

    def _add_column(self, kind: str, key: str) -> str:
        column = f"{kind[0]}{len(self.hot)}"
        if column not in self._types():  # a snapshot has some to spare
            kind_of = "VARCHAR" if kind == "params" else "DOUBLE"
            self.con.execute(f"ALTER TABLE {self.schema}.run_table ADD COLUMN {column} {kind_of}")
        insert(self.con, f"{self.schema}.column_table", [{"kind": kind, "key": key, "column_name": column}])
        self.hot[kind, key] = column
        self._known_types = {}
        return column


def keys_of(state: RunState) -> list[Key]:
    """The names that a run counts for while it is not in the trash."""
    found = [("params", key, type_of(value)) for key, value in state.params.items()]
    found += [("metrics", key, "DOUBLE") for key, value in state.final_metrics().items() if as_double(value) is not None]
    return found + [("goals", key, goal) for key, goal in state.goals.items() if goal]


def type_of(value: Any) -> str:
    """The SQL type of a parameter's value."""
    if isinstance(value, bool):
        return "BOOLEAN"
    if isinstance(value, int):
        return "BIGINT" if -(2**63) <= value < 2**63 else "DOUBLE"
    if isinstance(value, float):
        return "DOUBLE"
    return "NULL" if value is None else "VARCHAR"


def _double(value: Any) -> Any:
    """A final metric as JSON that fits a DOUBLE; None where it is no number."""
    found = as_double(value)
    return None if found is None else as_json(found)


def _text(value: Any) -> str | None:
    """A list or object as JSON text; None where it is empty."""
    return _encode(value).decode() if value else None


class Detail(msgspec.Struct, frozen=True, gc=False):
    """All of a run's answer but what depends on its project, on documents and on who lives, which whoever answers puts in."""

    run_id: str
    timestamp: str | None
    started_at: str | None
    name: str
    params: dict[str, Any]
    final_metrics: dict[str, Any]
    tags: dict[str, str | None]
    points_dropped: int
    artifact_files: list[dict[str, Any]]
    artifacts: list[str]
    command: str
    dataset_id: Any
    wandb_url: Any
    note: Any
    project_id: Any
    description: Any
    group: Any
    parent_run_id: Any
    seed: Any
    user: Any
    host: Any
    error: Any
    environment_id: Any
    protected: bool
    datasets: list[dict[str, Any]]
    git_hash: None = None
    status: str = ""
    project: None = None


def _detail(state: RunState, row: RunRow, files: list[dict[str, Any]]) -> Detail:
    started = stamp(row.started_at)
    shown = [{k: v for k, v in file.items() if k != "logged"} | {"at": stamp(file["at"])} for file in reversed(files)]
    return Detail(
        row.run_id, started, started, row.name or "", dict(sorted(state.params.items())), state.final_metrics(),
        {key: text_of(value) for key, (value, *_) in sorted(state.tags.items())}, row.dropped, shown,
        list(dict.fromkeys(file["logged"] for file in files if not file["trashed"])), row.command, row.dataset_id, row.wandb_url,
        row.note, row.project_id, row.description, row.group, row.parent_run_id, row.seed, row.user, row.host, row.error,
        row.environment_id, row.protected, [{k: v for k, v in one.items() if k != "at"} for one in state.datasets.values()],
    )  # fmt: skip


# -- inserting ---------------------------------------------------------------------------------------------------------

FEW_ROWS = 2
"""So many rows are bound one by one: reading the structure of a row costs more."""
ARROW_ROWS = 100
"""From so many rows on, inserting through Arrow is faster than as JSON …"""
ARROW_IMPORT_ROWS = 10_000
"""… and pays for the import besides, half a second with pandas installed."""
_PLAIN = {"BIGINT": "int64", "BOOLEAN": "bool_", "DOUBLE": "float64"}
_static: dict[str, dict[str, str]] = {}
"""Columns of tables that never change, by name."""


def columns_of(con: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    """Columns of a table and their types, in order."""
    return {row[0]: row[1] for row in con.execute(f"DESCRIBE {table}").fetchall()}


def insert(con: duckdb.DuckDBPyConnection, table: str, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows given as dictionaries into a table whose columns never change; what a row does not have is NULL."""
    if rows:
        name = table.rpartition(".")[2]
        types = _static.get(name) or _static.setdefault(name, columns_of(con, table))
        insert_columns(con, table, {column: [row.get(column) for row in rows] for column in types}, types)


def memory_of(con: duckdb.DuckDBPyConnection) -> int:
    """Bytes of all tables that are in memory."""
    ((used,),) = con.execute("SELECT sum(memory_usage_bytes)::BIGINT FROM duckdb_memory()").fetchall()
    return int(used)


def write_anew(con: duckdb.DuckDBPyConnection, schema: str) -> None:
    """Copy the tables of a database, which have no keys, and put the copies in their places: rows that were replaced are gone.

    In memory the engine frees no text of a row that was deleted, whatever CHECKPOINT and VACUUM do.
    """
    tables = con.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = $1", [schema]).fetchall()
    con.execute("BEGIN")
    try:
        for (table,) in tables:
            con.execute(f"CREATE TABLE {schema}.anew AS FROM {schema}.{table}")
            con.execute(f"DROP TABLE {schema}.{table}")
            con.execute(f"ALTER TABLE {schema}.anew RENAME TO {table}")
        con.execute("COMMIT")
    except BaseException:
        con.execute("ROLLBACK")
        raise
    with suppress(duckdb.TransactionException):  # a cursor reads them just now: they are freed by the next
        con.execute(f"CHECKPOINT {schema}")


def insert_columns(
    con: duckdb.DuckDBPyConnection, table: str, columns: Mapping[str, Sequence[Any]], types: Mapping[str, str]
) -> None:
    """Insert rows given by columns of equal length, at least one row; a column that is not given is NULL.

    Args:
        con: the connection.
        table: the table, with its database.
        columns: values by column.
        types: the table's columns.
    """
    n = len(next(iter(columns.values())))
    names = ", ".join(quoted(column) for column in columns)
    into = f"INSERT INTO {table} ({names})"
    if n >= (ARROW_ROWS if "pyarrow.lib" in sys.modules else ARROW_IMPORT_ROWS):
        _insert_arrow(con, into, columns, types)
        return
    rows = zip(*columns.values(), strict=True)
    if n <= FEW_ROWS:
        kinds = [types[column] for column in columns]
        for row in rows:
            con.execute(f"{into} VALUES ({', '.join('?' * len(row))})", list(map(_bound, row, kinds)))
        return
    shape = "'" + _encode([{column: types[column] for column in columns}]).decode().replace("'", "''") + "'"
    con.execute(
        f"{into} SELECT x.* FROM (SELECT unnest(from_json($1, {shape})) AS x)",  # noqa: S608  (our own names)
        [_encode([dict(zip(columns, row, strict=True)) for row in rows]).decode()],
    )


def _bound(value: Any, kind: str) -> Any:
    """A value as it is bound to a column of this type."""
    if value is None or kind in _PLAIN or kind in {"VARCHAR", "TIMESTAMP"}:
        return value
    return str(value) if kind in {"UUID", "HUGEINT"} else _encode(value).decode()


def _insert_arrow(
    con: duckdb.DuckDBPyConnection, into: str, columns: Mapping[str, Sequence[Any]], types: Mapping[str, str]
) -> None:
    import pyarrow

    arrays, casts = [], []
    for name, values in columns.items():
        kind, cast = types[name], quoted(name)
        if kind == "TIMESTAMP":
            array = pyarrow.array(values, pyarrow.timestamp("us"))
        elif kind in _PLAIN:
            array = pyarrow.array(_numbers(values) if kind == "DOUBLE" else values, getattr(pyarrow, _PLAIN[kind])())
        elif kind == "VARCHAR":
            array = pyarrow.array(values, pyarrow.string())
        elif kind in {"UUID", "HUGEINT"}:
            array = pyarrow.array([None if value is None else str(value) for value in values], pyarrow.string())
            cast = f"CAST({cast} AS {kind})"
        else:  # as JSON text: maps and lists are nearly always empty or small
            array = pyarrow.array([None if value is None else _encode(value).decode() for value in values], pyarrow.string())
            cast = _from_json(cast, kind)
        arrays.append(array)
        casts.append(cast)
    con.register("incoming", pyarrow.Table.from_arrays(arrays, names=list(columns)))
    try:
        con.execute(f"{into} SELECT {', '.join(casts)} FROM incoming")  # noqa: S608  (our own names)
    finally:
        con.unregister("incoming")


def _numbers(values: Sequence[Any]) -> list[float | None]:
    return [float(value) if isinstance(value, str) else value for value in values]


def _from_json(column: str, kind: str) -> str:
    """SQL of a column that came as JSON text."""
    if kind == "JSON":
        return f"CAST({column} AS JSON)"
    return f"from_json({column}, '{_encode(kind).decode()}')"


def one_row(con: duckdb.DuckDBPyConnection, text: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
    """The first row of a result that is fetched to its end: one that is not keeps the connection from anything else."""
    rows = con.execute(text, list(values)).fetchall()
    return rows[0] if rows else None
