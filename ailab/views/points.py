"""The points of a run: raw, or thinned so that every stretch keeps its smallest and its greatest value.

Reads the columns of the metrics that are asked for and of nothing else. A point's step is the one given, or how many points of
the metric came before it; its place in the order of logging is (clock, segment, seq). Nothing here writes.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgspec

from .rows import one_row
from .tables import literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .build import Lab

SPARSE = 4
"""A metric with fewer points than a fourth of its range of steps is thinned by number of points, not by step."""
HUGE = 2**62
SHORT = 2**16
STAMP = "%Y-%m-%dT%H:%M:%S.%fZ"
_ROW = f"key, step, strftime(\"time\", '{STAMP}'), value, exact"
COLUMNS = ("key", "step", "time", "value", "exact")
_COLUMNS = 'key, step, "time", value, exact, clock, segment, seq'
_COUNTED = (
    'key, coalesce(step, row_number() OVER (PARTITION BY key ORDER BY clock, segment, seq) - 1) AS step, "time", value, exact'
)


class Extent(msgspec.Struct, frozen=True):
    """How many points a metric has, with a step and with digits beyond a double, and between which steps they lie."""

    key: str
    count: int
    stepped: int
    exact: int
    low: int | None
    high: int | None


class Points:
    """The points of one run in a catalogue, as it stands.

    Args:
        lab: the catalogue.
        run_id: the run.
        keys: metrics; by default all.
    """

    def __init__(self, lab: Lab, run_id: str, keys: Sequence[str] | None = None) -> None:
        self._lab = lab
        self._run = literal(run_id)
        self._run_id = run_id
        self._keys = None if keys is None else list(dict.fromkeys(keys))
        lab.flush()
        self._tables = lab.whole_tables()
        self._where = None if self._tables is None else self._tables.where(lab.con, run_id)
        text = f"SELECT count(*), count(*) - count(step) FROM point_table WHERE run_id = {self._run}"  # noqa: S608  (quoted)
        self._late, unstepped = one_row(lab.con, text) or (0, 0)
        self._stepped = not unstepped and (self._where is None or self._where.stepped)

    def _source(self, keys: Sequence[str] | None) -> str:
        """A relation of the points, in the columns of `point_table`."""
        only = "" if keys is None else f" AND key IN ({', '.join(map(literal, keys)) or 'NULL'})"
        tail = f"SELECT {_COLUMNS} FROM point_table WHERE run_id = {self._run}{only}"  # noqa: S608
        others = self._tables and self._tables.points_sql(keys=keys, run=self._run_id, within=self._where)
        if not others:
            text = tail
        elif not self._late:
            text = f"SELECT {_COLUMNS} FROM ({others})"  # noqa: S608
        else:
            text = f"{tail}\nUNION ALL SELECT {_COLUMNS} FROM ({others})"  # noqa: S608
        return self._lab.without_removed(text, self._run_id)

    def extents(self) -> list[Extent]:
        """What there is, by metric."""
        counted = "key, count(*), count(step), count(exact), min(step), max(step)"
        text = f"SELECT {counted} FROM ({self._source(self._keys)}) GROUP BY key"  # noqa: S608
        return sorted((Extent(*row) for row in self._lab.con.execute(text).fetchall()), key=lambda extent: extent.key)

    def logged_sql(self, columns: Sequence[str] = COLUMNS) -> str:
        """A SELECT of all points, by metric and then as they were logged.

        Args:
            columns: some of key, step, time, value, exact.
        """
        names = ", ".join(f'"{name}"' for name in columns)
        keys = self._keys
        if keys is None and self._where is not None and self._tables is not None:
            keys = sorted({column.key for name in self._where.records for column in self._tables.records[name].columns})
        in_order = not self._late and self._stepped and self._where is not None and self._where.in_order
        if in_order and keys == sorted(keys or ()):
            return f"SELECT {names} FROM ({self._source(keys)})"  # noqa: S608
        return self._sorted_sql(names, "clock, segment, seq")

    def _sorted_sql(self, names: str, order: str) -> str:
        source = self._source(self._keys)
        if not self._stepped:
            source = f"SELECT {_COUNTED}, clock, segment, seq FROM ({source})"  # noqa: S608
        by_key = "" if self._keys is not None and len(self._keys) == 1 else "key, "
        return f"SELECT {names} FROM ({source}) ORDER BY {by_key}{order}"  # noqa: S608

    def raw(self) -> list[tuple[Any, ...]]:
        """(key, step, time as text, value, exact) of all points by metric, step and order of logging."""
        return self._lab.con.execute(self._sorted_sql(_ROW, "step, clock, segment, seq")).fetchall()

    def after(self, known: Mapping[str, int]) -> list[tuple[Any, ...]]:
        """As `raw`, of the points behind the last line that is known of each segment."""
        cases = " ".join(f"WHEN {literal(segment)} THEN {int(seq)}" for segment, seq in known.items())
        beyond = f"seq > CASE segment {cases} ELSE -1 END" if cases else "true"
        source = self._source(self._keys)
        if not self._stepped:  # a step that was not given is counted among all points
            source = f"SELECT {_COUNTED}, clock, segment, seq FROM ({source})"  # noqa: S608
        text = f"SELECT {_ROW} FROM ({source}) WHERE {beyond} ORDER BY key, step, clock, segment, seq"  # noqa: S608
        return self._lab.con.execute(text).fetchall()

    def ends(self) -> dict[str, int]:
        """The last line that has points of these metrics, by segment."""
        text = f"SELECT segment, max(seq) FROM ({self._source(self._keys)}) GROUP BY segment ORDER BY segment"  # noqa: S608
        return dict(self._lab.con.execute(text).fetchall())

    def thinned(self, most: int) -> tuple[list[tuple[Any, ...]], int]:
        """As `raw`, of each metric at most `most`, of each stretch the smallest and the greatest; and how many there are."""
        extents = self.extents()
        stretches = max(1, most // 2)
        found: list[tuple[Any, ...]] = []
        rest: list[str] = []
        for extent in extents:
            if self._is_even(extent) and extent.count > most:
                found += self._by_step(extent, stretches)
            else:
                rest.append(extent.key)
        if rest:
            found += self._by_number(rest, stretches, most)
        return sorted(found, key=itemgetter(0, 1)), sum(extent.count for extent in extents)

    @staticmethod
    def _is_even(extent: Extent) -> bool:
        """Whether stretches of equal steps have about equal numbers of points."""
        if extent.stepped < extent.count or extent.exact or extent.low is None or extent.high is None:
            return False
        return extent.high - extent.low < min(SPARSE * extent.count, HUGE) and max(abs(extent.low), abs(extent.high)) < HUGE

    def _by_step(self, extent: Extent, stretches: int) -> list[tuple[Any, ...]]:
        assert extent.low is not None and extent.high is not None  # noqa: S101, PT018
        width = -(-(extent.high - extent.low + 1) // stretches)
        kind = "USMALLINT" if stretches <= SHORT else "BIGINT"  # groups by a short number are found without hashing
        text = f"""
            SELECT min(value), arg_min(step, value), strftime(arg_min("time", value), '{STAMP}'),
                   max(value), arg_max(step, value), strftime(arg_max("time", value), '{STAMP}')
            FROM ({self._source([extent.key])}) GROUP BY ((step - ({extent.low})) // {width})::{kind}
        """  # noqa: S608  (numbers)
        rows: list[tuple[Any, ...]] = []
        for low, low_step, low_time, high, high_step, high_time in self._lab.con.execute(text).fetchall():
            rows.append((extent.key, low_step, low_time, low, None))
            if high_step != low_step:
                rows.append((extent.key, high_step, high_time, high, None))
        return rows

    def _by_number(self, keys: Sequence[str], stretches: int, most: int) -> list[tuple[Any, ...]]:
        text = f"""
            WITH counted AS (SELECT {_COUNTED}, (clock, segment, seq) AS place FROM ({self._source(keys)})),
            numbered AS (
                SELECT *, count(*) OVER (PARTITION BY key) AS count,
                       (row_number() OVER w - 1) * {stretches} // count(*) OVER (PARTITION BY key) AS stretch
                FROM counted WINDOW w AS (PARTITION BY key ORDER BY step, place)
            ), placed AS (
                SELECT *, row_number() OVER (PARTITION BY key, stretch ORDER BY value, place) AS low,
                       row_number() OVER (PARTITION BY key, stretch ORDER BY value DESC, place DESC) AS high FROM numbered
            )
            SELECT {_ROW} FROM placed WHERE count <= {most} OR low = 1 OR high = 1
            ORDER BY key, step, place
        """  # noqa: S608
        return self._lab.con.execute(text).fetchall()
