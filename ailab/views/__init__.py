"""All of DuckDB: the only folder that imports it.

`open_lab` gives the catalogue that queries read; `connect` gives people a connection whose tables and views are brought up
to date before each statement; `history` gives the points of a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import duckdb

from .. import settings
from ..errors import FilterError, MissingExtraError
from ..store import find_store, open_store
from .build import Lab
from .points import Points

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

__all__ = ["Connection", "Lab", "Table", "connect", "history", "open_lab", "search_runs"]


def open_lab(dir: str | os.PathLike[str] | None = None) -> Lab:  # noqa: A002
    """The catalogue of a store, up to date.

    Args:
        dir: the store; by default as for `start_run`.

    Raises:
        StoreError: there is no store.
    """
    setting = settings.load(dir=None if dir is None else str(dir))
    lab = Lab(open_store(setting.dir or find_store(), create=False))
    lab.refresh()
    return lab


class Connection:
    """A DuckDB connection with the views of a store; every statement first takes in what is new.

    `execute` and `sql` are DuckDB's, and so is every other attribute. Tables you make are yours and live in memory.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def execute(self, query: str, parameters: Any = None) -> Any:
        """Run one statement; fetch with `fetchall`, `fetchone` or `df`."""
        self.lab.refresh()
        self.lab.prepare(query)
        return self.lab.con.execute(query) if parameters is None else self.lab.con.execute(query, parameters)

    def sql(self, query: str, **options: Any) -> Any:
        """A relation: show it, or turn it with `df`, `pl`, `to_arrow_table`, `fetchall`."""
        self.lab.refresh()
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


def history(run_id: str, keys: Iterable[str] | None = None, dir: str | os.PathLike[str] | None = None) -> Table:  # noqa: A002
    """Every logged point of a run, with columns key, step, time, value and exact, by metric in the order of logging.

    Args:
        run_id: the run.
        keys: metrics to give; by default all.
        dir: the store; by default as for `start_run`.
    """
    wanted = None if keys is None else [keys] if isinstance(keys, str) else list(keys)
    lab = open_lab(dir)
    try:
        return points_table(lab, run_id, wanted)
    finally:
        lab.close()


def points_table(lab: Lab, run_id: str, keys: Sequence[str] | None = None) -> Table:
    """As `history`, from an open catalogue."""
    return Table(lab.con.sql(Points(lab, run_id, keys).raw_sql()).to_arrow_table())


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
    with Connection(open_lab(dir)) as con:
        text = f"SELECT * FROM wide WHERE {where or 'true'} ORDER BY {order_by or 'started_at DESC'} LIMIT {int(limit)}"  # noqa: S608
        try:
            return Table(con.sql(text).to_arrow_table())
        except duckdb.Error as problem:
            raise FilterError(str(problem).strip(), where="where", hint="DESCRIBE wide tells the columns") from None
