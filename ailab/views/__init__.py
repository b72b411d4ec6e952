"""All of DuckDB: the only folder that imports it.

`open_lab` gives a catalogue of one's own; `borrow` the one that this process keeps for questions at a prompt, brought up to date;
`connect` gives people a connection whose tables and views are brought up to date before each statement; `history` gives the
points of a run.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import duckdb

from .. import settings
from ..errors import FilterError, MissingExtraError
from ..store import find_store, open_store
from .asof import make_relations
from .build import Lab
from .points import COLUMNS, Points

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Connection", "Lab", "Table", "borrow", "connect", "history", "open_lab", "search_runs"]

_kept: dict[str, Lab] = {}
_kept_by = 0
_keeping = threading.RLock()


def open_lab(dir: str | os.PathLike[str] | None = None, *, create: bool = False) -> Lab:  # noqa: A002
    """The catalogue of a store, up to date.

    Args:
        dir: the store; by default as for `start_run`.
        create: make it where there is none.

    Raises:
        StoreError: there is no store, or it cannot be made.
    """
    lab = Lab(open_store(_place(dir), create=create))
    lab.refresh()
    return lab


def _place(dir: str | os.PathLike[str] | None) -> str:  # noqa: A002
    return settings.load(dir=None if dir is None else str(dir)).dir or find_store()


@contextmanager
def borrow(dir: str | os.PathLike[str] | None = None) -> Iterator[Lab]:  # noqa: A002
    """The catalogue that this process keeps of a store, up to date, for one thread at a time; the last store's is kept.

    Args:
        dir: the store; by default as for `start_run`.

    Raises:
        StoreError: there is no store.
    """
    global _kept_by  # noqa: PLW0603  (a forked child has the names of these catalogues, and none of their threads)
    with _keeping:
        place = open_store(_place(dir), create=False)
        if _kept_by != os.getpid():
            _kept.clear()
            _kept_by = os.getpid()
        lab = _kept.pop(place.path, None)
        try:
            if lab is None:
                lab = Lab(place)
            lab.refresh()
            yield lab
        except duckdb.Error:
            if lab is not None:
                with suppress(duckdb.Error):
                    lab.close()
            raise
        for other in _kept.values():
            other.close()
        _kept.clear()
        _kept[place.path] = lab


class Connection:
    """A DuckDB connection with the views of a store; every statement first takes in what is new.

    `execute` and `sql` are DuckDB's, and so is every other attribute. Tables you make are yours and live in memory.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def execute(self, query: str, parameters: Any = None) -> Any:
        """Run one statement; fetch with `fetchall`, `fetchone` or `df`."""
        self.lab.refresh()
        make_relations(self.lab, query)
        self.lab.prepare(query)
        return self.lab.con.execute(query) if parameters is None else self.lab.con.execute(query, parameters)

    def sql(self, query: str, **options: Any) -> Any:
        """A relation: show it, or turn it with `df`, `pl`, `to_arrow_table`, `fetchall`."""
        self.lab.refresh()
        make_relations(self.lab, query)
        self.lab.prepare(query)
        return self.lab.con.sql(query, **options)

    def close(self) -> None:
        """Let go of the catalogue."""
        self.lab.close()

    def __enter__(self) -> Connection:  # noqa: PYI034
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lab.con, name)


def connect(dir: str | os.PathLike[str] | None = None) -> Connection:  # noqa: A002
    """Open a store for SQL, in this process alone.

    Raises:
        StoreError: there is no store.
    """
    lab = open_lab(dir)
    lab.comment()
    return Connection(lab)


class Table:
    """Rows as Arrow: `df()` for pandas, `pl()` for polars, `arrow` for itself, `rows()` for dictionaries."""

    def __init__(self, arrow: Any) -> None:
        self.arrow = arrow

    def df(self) -> Any:
        """A pandas data frame."""
        try:
            return self.arrow.to_pandas()
        except ImportError:
            raise MissingExtraError("a pandas data frame", extra="eval") from None

    def pl(self) -> Any:
        """A polars data frame."""
        try:
            import polars
        except ImportError:
            raise MissingExtraError("a polars data frame", extra="eval") from None
        return polars.from_arrow(self.arrow)

    def rows(self) -> list[dict[str, Any]]:
        """A list of dictionaries."""
        return list(self.arrow.to_pylist())

    def __len__(self) -> int:
        return int(self.arrow.num_rows)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """Hand the rows to any library that speaks Arrow."""
        return self.arrow.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        return repr(self.arrow)


def history(
    run_id: str,
    keys: Iterable[str] | None = None,
    dir: str | os.PathLike[str] | None = None,  # noqa: A002
    *,
    columns: Sequence[str] = COLUMNS,
) -> Table:
    """Every logged point of a run, by metric in the order of logging.

    Args:
        run_id: the run.
        keys: metrics to give; by default all.
        dir: the store; by default as for `start_run`.
        columns: some of key, step, time, value and exact (digits that a double does not hold); fewer are faster.

    Raises:
        FilterError: there is no such column.
    """
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown or not columns:
        raise FilterError(f"no column {unknown[:1] or columns!r}", where="columns", hint=f"allowed: {', '.join(COLUMNS)}")
    wanted = None if keys is None else [keys] if isinstance(keys, str) else list(keys)
    with borrow(dir) as lab:
        return points_table(lab, run_id, wanted, columns)


def points_table(lab: Lab, run_id: str, keys: Sequence[str] | None = None, columns: Sequence[str] = COLUMNS) -> Table:
    """As `history`, from an open catalogue."""
    return Table(lab.con.sql(Points(lab, run_id, keys).logged_sql(columns)).to_arrow_table())


def search_runs(
    where: str | None = None,
    order_by: str | None = None,
    *,
    limit: int = 1000,
    dir: str | os.PathLike[str] | None = None,  # noqa: A002
) -> Table:
    """Rows of `wide` that a SQL condition keeps: `search_runs("accuracy > 0.9 AND model_name = 'svm'", "accuracy DESC")`.

    Args:
        where: a SQL condition on the columns of `wide`.
        order_by: SQL order; by default newest first.
        limit: how many rows at most.
        dir: the store; by default as for `start_run`.

    Raises:
        FilterError: the condition or the order does not parse, or names what is not there.
    """
    with borrow(dir) as lab:
        lab.prepare("wide")
        text = f"SELECT * FROM wide WHERE {where or 'true'} ORDER BY {order_by or 'started_at DESC'} LIMIT {int(limit)}"  # noqa: S608
        try:
            return Table(lab.con.sql(text).to_arrow_table())
        except duckdb.Error as problem:
            raise FilterError(str(problem).strip(), where="where", hint="DESCRIBE wide tells the columns") from None
