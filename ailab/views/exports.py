"""Views as files for other programs: a DuckDB database with plain tables, a folder of Parquet, or the runs as CSV.

Who writes: whoever exports, never into the store. What holds: a file has its name only when it is whole, and one that is there is
replaced only where that is wanted. The tables are what the views say now: they do not follow the store.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal

import duckdb
import msgspec

from ..errors import FilterError, RefusedError, StoreError
from .snapshot import attach
from .tables import literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .build import Lab

Form = Literal["duckdb", "parquet", "csv"]


class ExportedTable(msgspec.Struct, kw_only=True):
    """A view as it was written: into `file`; `bytes` is 0 where several share one."""

    name: str
    rows: int
    file: str
    bytes: int = 0


class Export(msgspec.Struct, kw_only=True):
    """What was written."""

    target: str
    form: Form
    tables: list[ExportedTable]
    bytes: int
    seconds: float


def form_of(target: str) -> Form:
    """What a target is to become, by its name.

    Raises:
        FilterError: the name does not tell.
    """
    if target.endswith((os.sep, "/")) or os.path.isdir(target):
        return "parquet"
    ending = os.path.splitext(target)[1].lower()
    if ending == ".duckdb":
        return "duckdb"
    if ending == ".csv":
        return "csv"
    raise FilterError(
        f"target {target!r} does not say what it is to become", where="target",
        hint="allowed: NAME.duckdb, NAME.csv, or a folder with a slash behind its name",
    )  # fmt: skip


def export(lab: Lab, target: str, *, force: bool = False, progress: Callable[[int, int], None] | None = None) -> Export:
    """Write the views of a catalogue, as it stands, to a target.

    Args:
        lab: the catalogue.
        target: `NAME.duckdb`, `NAME.csv`, or a folder with a slash behind its name.
        force: replace files that are there.
        progress: called with (views written, views to write).

    Raises:
        FilterError: the target does not say what it is to become.
        RefusedError: it is there already, or lies in the store.
        StoreError: it cannot be written.
    """
    began = time.monotonic()
    form = form_of(target)
    path = os.path.abspath(os.path.expanduser(target))
    inside = os.path.realpath(lab.store.path)
    if os.path.commonpath([inside, os.path.realpath(path)]) == inside:
        raise RefusedError(f"the target lies in the store: {path}", hint="name a place outside of it")
    lab.comment()
    tell = progress or (lambda _done, _total: None)
    try:
        if form == "duckdb":
            tables = _database(lab, path, force=force, progress=tell)
        elif form == "parquet":
            tables = _folder(lab, path, force=force, progress=tell)
        else:
            _check_free(path, force=force)
            tables = [_file(lab, "wide", path, "FORMAT csv, HEADER")]
            tell(1, 1)
    except duckdb.Error as problem:
        raise StoreError(f"it cannot be written: {str(problem).strip()}", path=path) from problem
    size = sum(table.bytes for table in tables) or os.stat(path).st_size
    return Export(target=path, form=form, tables=tables, bytes=size, seconds=round(time.monotonic() - began, 3))


def _views(lab: Lab) -> list[str]:
    """The views that people may rely on."""
    text = (
        "SELECT view_name FROM duckdb_views() WHERE NOT internal AND comment IS NOT NULL AND database_name = 'memory' ORDER BY 1"
    )
    return [row[0] for row in lab.con.execute(text).fetchall()]


def _check_free(path: str, *, force: bool) -> None:
    if os.path.lexists(path) and not force:
        raise RefusedError(f"it is there already: {path}", hint="--force replaces it")


@contextmanager
def _aside(path: str) -> Iterator[str]:
    """A temporary name in the same folder; the file gets its own at the end, if nothing went wrong."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = os.path.join(os.path.dirname(path), f".tmp-{os.getpid()}-{os.urandom(6).hex()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        for left in (temporary, f"{temporary}.wal"):
            with suppress(FileNotFoundError):
                os.unlink(left)


def _database(lab: Lab, path: str, *, force: bool, progress: Callable[[int, int], None]) -> list[ExportedTable]:
    _check_free(path, force=force)
    names, found = _views(lab), []
    with _aside(path) as temporary:
        attach(lab.con, temporary, "exported", read_only=False)
        try:
            for i, name in enumerate(names):
                order = _order(lab, name)
                lab.con.execute(f'CREATE TABLE exported."{name}" AS SELECT * FROM "{name}"{order}')  # noqa: S608  (our own names)
                _comment(lab, name)
                found.append(ExportedTable(name=name, rows=_count(lab, f'exported."{name}"'), file=path))
                progress(i + 1, len(names))
            lab.con.execute("CHECKPOINT exported")
        finally:
            lab.con.execute("DETACH exported")
    return found


def _order(lab: Lab, name: str) -> str:
    """Newest runs first, as a person expects; points lie by run and metric."""
    columns = {row[0] for row in lab.con.execute(f'DESCRIBE "{name}"').fetchall()}
    if name == "metrics":
        return " ORDER BY run_id, key, step"
    return " ORDER BY started_at DESC, run_id" if {"started_at", "run_id"} <= columns else ""


def _comment(lab: Lab, name: str) -> None:
    """Take over what the view's comments say."""
    about = lab.con.execute("SELECT comment FROM duckdb_views() WHERE view_name = ? AND NOT internal", [name]).fetchall()
    lab.con.execute(f'COMMENT ON TABLE exported."{name}" IS {literal(about[0][0])}')
    text = (
        "SELECT column_name, comment FROM duckdb_columns() "
        "WHERE table_name = ? AND database_name = 'memory' AND comment IS NOT NULL"
    )
    for column, comment in lab.con.execute(text, [name]).fetchall():
        quoted = column.replace('"', '""')
        lab.con.execute(f'COMMENT ON COLUMN exported."{name}"."{quoted}" IS {literal(comment)}')


def _folder(lab: Lab, path: str, *, force: bool, progress: Callable[[int, int], None]) -> list[ExportedTable]:
    if os.path.lexists(path) and not os.path.isdir(path):
        raise RefusedError(f"a file stands where the folder should be: {path}", hint="name another folder")
    names = _views(lab)
    for name in names:
        _check_free(os.path.join(path, f"{name}.parquet"), force=force)
    found = []
    for i, name in enumerate(names):
        found.append(_file(lab, name, os.path.join(path, f"{name}.parquet"), "FORMAT parquet, COMPRESSION zstd"))
        progress(i + 1, len(names))
    return found


def _file(lab: Lab, name: str, path: str, how: str) -> ExportedTable:
    """Write one view into one file."""
    with _aside(path) as temporary:
        columns = ", ".join(_column(lab, name, column, kind) for column, kind, *_ in _described(lab, name))
        text = f'SELECT {columns} FROM "{name}"{_order(lab, name)}'  # noqa: S608  (our own names, quoted)
        ((rows,),) = lab.con.execute(f"COPY ({text}) TO {literal(temporary)} ({how})").fetchall()
    return ExportedTable(name=name, rows=rows, file=path, bytes=os.stat(path).st_size)


def _described(lab: Lab, name: str) -> list[tuple[str, ...]]:
    return lab.con.execute(f'DESCRIBE "{name}"').fetchall()


def _column(lab: Lab, view: str, column: str, kind: str) -> str:
    """A column as Parquet holds it without loss: integers of 128 bits as 64, and as text where one is longer."""
    quoted = '"' + column.replace('"', '""') + '"'
    if kind not in {"HUGEINT", "UHUGEINT", "UBIGINT"}:
        return quoted
    long = f'SELECT count(*) FROM "{view}" WHERE {quoted} IS NOT NULL AND TRY_CAST({quoted} AS BIGINT) IS NULL'  # noqa: S608
    ((count,),) = lab.con.execute(long).fetchall()
    return f"CAST({quoted} AS {'VARCHAR' if count else 'BIGINT'}) AS {quoted}"


def _count(lab: Lab, table: str) -> int:
    ((rows,),) = lab.con.execute(f"SELECT count(*) FROM {table}").fetchall()  # noqa: S608
    return int(rows)
