"""Events and points that lie in Parquet: as SQL for the views, and one run after the other for the fold.

Who writes the tables: compaction. A table is read only after its bytes were found to be those that its commit record states,
once per process. Rows of spans that do not count (see `commits.choose`) are left out of everything here. Nothing here keeps
state but what was given: a `Tables` speaks of one choice of records and never changes.
"""

from __future__ import annotations

import itertools
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from .. import commits, events
from ..errors import DamageError
from ..store import run_of_segment
from ..values import as_json
from .fold import DECIMAL, RunFold, Series, Told

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import duckdb

    from ..commits import Chosen, Commit
    from ..segments import Span
    from ..store import Store

CHUNK = 20_000
"""Runs that are folded at once."""
RUNS_KNOWN = 1000
"""Runs of whose points it is remembered where they are."""
FETCH = 10_000
"""Rows fetched at once."""

_SECONDS = "-62135596800 AND 253402300799"
_WORDS_SQL = "('NaN', 'Infinity', '-Infinity')"
EXACT_JSON = f"""
    CASE WHEN json_type({{v}}) = 'VARCHAR' AND {{v}} ->> '$' NOT IN {_WORDS_SQL} THEN {{v}} ->> '$'
         WHEN regexp_full_match(CAST({{v}} AS VARCHAR), '-?[0-9]{{{{16,}}}}')
              AND format('{{{{:.0f}}}}', CAST(CAST({{v}} AS VARCHAR) AS DOUBLE)) <> CAST({{v}} AS VARCHAR)
         THEN CAST({{v}} AS VARCHAR) END"""
"""The digits of a JSON value: of a text that is a number, and where a double does not hold them."""
VALUE_JSON = f"""
    CASE json_type({{v}})
         WHEN 'VARCHAR' THEN CASE WHEN {{v}} ->> '$' IN {_WORDS_SQL} OR regexp_full_match({{v}} ->> '$', '{DECIMAL}')
                                  THEN TRY_CAST({{v}} ->> '$' AS DOUBLE) END
         WHEN 'BOOLEAN' THEN CASE {{v}} WHEN 'true' THEN 1 ELSE 0 END
         WHEN 'DOUBLE' THEN TRY_CAST({{v}} ->> '$' AS DOUBLE) WHEN 'BIGINT' THEN TRY_CAST({{v}} ->> '$' AS DOUBLE)
         WHEN 'UBIGINT' THEN TRY_CAST({{v}} ->> '$' AS DOUBLE) END"""
"""The double nearest to a JSON value; NULL where that is no number."""
_FITS = """
    coalesce(json_type(data, '$.step'), 'NULL') IN ('NULL', 'BIGINT', 'UBIGINT')
    AND (coalesce(json_type(data, '$.step'), 'NULL') = 'NULL' OR TRY_CAST(data ->> '$.step' AS BIGINT) IS NOT NULL)
    AND coalesce(json_type(data, '$.time'), 'NULL') IN ('NULL', 'BIGINT', 'UBIGINT', 'DOUBLE')"""
"""Whether the payload of points fits its kind."""
TIME_JSON = f"""coalesce(make_timestamp(CAST(CASE WHEN TRY_CAST(data ->> '$.time' AS DOUBLE) BETWEEN {_SECONDS}
                          THEN TRY_CAST(data ->> '$.time' AS DOUBLE) * 1e6 END AS BIGINT)), "at")"""
"""When a point was made, by its payload."""


def points_of_json(source: str) -> str:
    """A SELECT of points, with the columns of `point_table`, from events that carry them as JSON.

    Args:
        source: `FROM` text of a relation with run_id, clock, segment, seq, at, data.
    """
    value, exact = VALUE_JSON.format(v="e.value"), EXACT_JSON.format(v="e.value")
    return f"""
        SELECT * FROM (
            SELECT run_id, e.key, TRY_CAST(data ->> '$.step' AS BIGINT) AS step, {TIME_JSON} AS "time", {value} AS value,
                   {exact} AS exact, clock, segment, seq
            FROM (SELECT *, unnest(map_entries(TRY(from_json(data -> '$.values', '"MAP(VARCHAR,JSON)"')))) AS e FROM {source})
            WHERE {_FITS}
        ) WHERE value IS NOT NULL
    """  # noqa: S608  (fixed fragments)


_TIME = f'coalesce(make_timestamp(CAST(CASE WHEN "time" BETWEEN {_SECONDS} THEN "time" * 1e6 END AS BIGINT)), "at")'
_VALUES = {
    "float": ("{v}", "NULL::VARCHAR"),
    "int": ("CAST({v} AS DOUBLE)", "CASE WHEN {v}::DOUBLE::HUGEINT <> {v}::HUGEINT THEN CAST({v} AS VARCHAR) END"),
    "json": (VALUE_JSON.replace("{v}", "({v}::JSON)"), EXACT_JSON.replace("{v}", "({v}::JSON)")),
}  # fmt: skip
"""SQL of (double, digits where a double does not hold them) by a value column's type."""


Said = tuple["str | None", "str | None"]
"""(by, via) of a segment's header"""


class Where(msgspec.Struct, frozen=True):
    """Where a run's points are: records that have them in columns, and as JSON among the events.

    `in_order`: of each metric the file has them in the order of logging. `stepped`: each has a step.
    """

    records: list[str]
    rare: list[str]
    in_order: bool
    stepped: bool


class Tables:
    """The tables of some commit records, read through one connection.

    Args:
        store: the store.
        records: the records, by name.
        chosen: which spans count among all records of the store.
        known: headers of segments that begin in tables which are not among these.
    """

    def __init__(
        self, store: Store, records: Mapping[str, Commit], chosen: Chosen, known: Mapping[str, Said] = MappingProxyType({})
    ) -> None:
        self.store = store
        self.records = dict(sorted(records.items()))
        self.chosen = chosen
        self._known = known
        self._left_out = commits.passed_over(records, chosen)
        self._checked = False
        self._by_run: dict[str | None, set[str]] | None = None
        self._where: dict[str, Where] = {}

    def check(self) -> list[tuple[str, DamageError]]:
        """Hash every table that was not hashed by this process before; return (record, what is wrong) for the bad ones."""
        found: list[tuple[str, DamageError]] = []
        if self._checked:
            return found
        for name, record in self.records.items():
            for file in record.files:
                try:
                    commits.check_table(self.store, file)
                except DamageError as problem:
                    found.append((name, problem))
        self._checked = not found
        return found

    # -- SQL ---------------------------------------------------------------------------------------------------------

    def _source(self, name: str, table: str) -> str | None:
        """`FROM` text of a record's table without the rows that do not count; None where it has no such table."""
        file = self.records[name].table(table)
        if file is None:
            return None
        text = f"read_parquet({_literal(self.store.table_path(file.name))})"
        skipped = " OR ".join(_within(span) for span in self._left_out.get(name, ()))
        return f"(SELECT * FROM {text} WHERE NOT ({skipped}))" if skipped else text  # noqa: S608  (names we made, quoted)

    def events_sql(self, *, points: bool = True) -> str | None:
        """A SELECT of all events that count, with the columns of `event_table`; None where there are none.

        Args:
            points: also the points that lie in columns, as the JSON that they were.
        """
        parts = []
        for name, record in self.records.items():
            source = self._source(name, "events")
            if source is not None:
                parts.append(
                    f'SELECT segment, seq, "at", clock, kind, run AS run_id, "by", via, '  # noqa: S608
                    f"coalesce(data, '{{}}')::JSON AS data FROM {source} WHERE kind IS NOT NULL"
                )
            if points:
                parts += self._point_events(name, record)
        return "\nUNION ALL ".join(parts) or None

    def _point_events(self, name: str, record: Commit) -> Iterator[str]:
        source = self._source(name, "points")
        if source is None:
            return
        whens = []
        for number, shape in enumerate(record.shapes):
            values = ", ".join(f"{_literal(record.columns[i].key)}, {_as_json(i, record.columns[i].type)}" for i in shape.columns)
            more = "".join(f", '{word}', {column}" for word, column, there in (
                ("step", "step", shape.step), ("time", '"time"', shape.time)) if there)  # fmt: skip
            whens.append(f"WHEN {number} THEN json_object('values', json_object({values}){more})")
        data = f"CASE shape {' '.join(whens)} END"
        yield (
            f'SELECT segment, seq, "at", clock, \'metrics.logged\' AS kind, run AS run_id, NULL AS "by", NULL AS via, '  # noqa: S608
            f"CASE WHEN extra IS NULL THEN {data} ELSE json_merge_patch({data}, ('{{' || extra || '}}')::JSON) END AS data "
            f"FROM {source}"
        )

    def points_sql(self, *, keys: Sequence[str] | None = None, run: str | None = None, within: Where | None = None) -> str | None:
        """A SELECT of all points that count, with the columns of `point_table`; None where there are none.

        Args:
            keys: only these metrics, and in this order; columns of others are not opened.
            run: only of this run.
            within: where its points are, as `where` says.
        """
        only = f" AND run = {_literal(run)}" if run is not None else " AND run IS NOT NULL"
        parts = []
        for name, record in self.records.items():
            source = self._source(name, "points") if within is None or name in within.records else None
            columns = list(enumerate(record.columns))
            if keys is not None:
                columns = sorted((one for one in columns if one[1].key in keys), key=lambda one: keys.index(one[1].key))
            moment = _TIME if any(shape.time for shape in record.shapes) else '"at"'
            for number, column in columns if source is not None else ():
                value, exact = (text.format(v=f"v{number}") for text in _VALUES[column.type])
                there = f"v{number} IS NOT NULL" if column.type != "json" else f"({value}) IS NOT NULL"
                parts.append(
                    f'SELECT run AS run_id, {_literal(column.key)} AS key, step, {moment} AS "time", '  # noqa: S608
                    f"{value} AS value, {exact} AS exact, clock, segment, seq FROM {source} "
                    f"WHERE {there}{only}"
                )
            rare = self._source(name, "events") if within is None or name in within.rare else None
            if rare is not None:
                of_keys = f" WHERE key IN ({', '.join(map(_literal, keys))})" if keys is not None else ""
                inner = (
                    f'(SELECT run AS run_id, clock, segment, seq, "at", data::JSON AS data FROM {rare} '  # noqa: S608
                    f"WHERE kind = 'metrics.logged' AND data IS NOT NULL{only})"
                )
                parts.append(f"SELECT * FROM ({points_of_json(inner)}){of_keys}")  # noqa: S608
        return "\nUNION ALL ".join(parts) or None

    def where(self, con: duckdb.DuckDBPyConnection, run: str) -> Where:
        """In which records the points of a run are, and whether they lie there as they were logged; asked once for each run."""
        found = self._where.get(run)
        if found is None:
            if len(self._where) >= RUNS_KNOWN:
                self._where.clear()
            found = self._where[run] = self._look_for(con, run)
        return found

    def _look_for(self, con: duckdb.DuckDBPyConnection, run: str) -> Where:
        if self._by_run is None:
            self._by_run = {}
            for name, record in self.records.items():
                for owner in {run_of_segment(span.segment) for span in record.spans}:
                    self._by_run.setdefault(owner, set()).add(name)
        maybe = sorted(self._by_run.get(run, set()) | self._by_run.get(None, set()))
        extents, rare = [], []
        for name in maybe:
            points, others = self._source(name, "points"), self._source(name, "events")
            if points is not None:
                told = "segment, min(clock), max(clock), count(*) - count(step)"
                text = f"SELECT {told} FROM {points} WHERE run = $1 GROUP BY segment"  # noqa: S608
                extents += [(*row, name) for row in con.execute(text, [run]).fetchall()]
            if others is not None:
                text = f"SELECT 1 FROM {others} WHERE kind = 'metrics.logged' AND run = $1 LIMIT 1"  # noqa: S608
                rare += [name for _ in con.execute(text, [run]).fetchall()]
        extents.sort()
        records = sorted({extent[4] for extent in extents})
        rising = all(before[2] < after[1] for before, after in itertools.pairwise(extents))
        in_order = rising and len(records) <= 1 and not rare
        return Where(records, rare, in_order=in_order, stepped=not any(extent[3] for extent in extents) and not rare)

    # -- folding -----------------------------------------------------------------------------------------------------

    def runs(self, con: duckdb.DuckDBPyConnection) -> list[str]:
        """Ids of all runs that any event is about, sorted."""
        parts = [
            f"SELECT DISTINCT run FROM {source} WHERE run IS NOT NULL"  # noqa: S608
            for name in self.records
            for table in commits.TABLES
            if (source := self._source(name, table)) is not None
        ]
        if not parts:
            return []
        return [row[0] for row in con.execute(f"SELECT DISTINCT run FROM ({' UNION ALL '.join(parts)}) ORDER BY run").fetchall()]  # noqa: S608

    def told(self, con: duckdb.DuckDBPyConnection, kinds: Sequence[str]) -> Iterator[tuple[Told, str | None, bytes]]:
        """Events of these kinds with their run, each joined with its segment's header."""
        where = f"kind IN ({', '.join(map(_literal, kinds))})"
        segments = {
            row[0]
            for name in self.records
            if (source := self._source(name, "events")) is not None
            for row in con.execute(f"SELECT DISTINCT segment FROM {source} WHERE run IS NOT NULL AND {where}").fetchall()  # noqa: S608
        }
        for run, told, data in self._rows(con, where, {**self.headers(con), **self.headers_of(con, sorted(segments))}):
            if data is not None:
                yield told, run, data

    def of_kind(self, con: duckdb.DuckDBPyConnection, kinds: Sequence[str]) -> Iterator[tuple[Told, str | None, bytes]]:
        """Events of these kinds, with their run."""
        for name in self.records:
            source = self._source(name, "events")
            if source is not None:
                text = (
                    f'SELECT clock, segment, seq, "at", kind, run, data FROM {source} WHERE kind IN '  # noqa: S608
                    f"({', '.join(map(_literal, kinds))}) AND data IS NOT NULL"
                )
                for clock, segment, seq, at, kind, run, data in con.execute(text).fetchall():
                    yield Told(clock, segment, seq, _utc(at), kind, None, None, run_of_segment(segment)), run, data.encode()

    def headers(self, con: duckdb.DuckDBPyConnection) -> dict[str, Said]:
        """What the headers say of segments that belong to no run, and of those whose lines lie in several records."""
        split = [segment for segment, spans in self.chosen.items() if len(spans) > 1]
        return {**self._known, **self._headers(con, "run IS NULL"), **self.headers_of(con, split)}

    def headers_of(self, con: duckdb.DuckDBPyConnection, segments: Sequence[str]) -> dict[str, Said]:
        """What the headers of some segments say, as far as they are in these tables."""
        if not segments:
            return {}
        return self._headers(con, "segment IN (SELECT unnest($1::VARCHAR[]))", [list(segments)])

    def _headers(self, con: duckdb.DuckDBPyConnection, where: str, values: Sequence[Any] = ()) -> dict[str, Said]:
        found: dict[str, Said] = {}
        for name in self.records:
            source = self._source(name, "events")
            if source is not None:
                text = f"SELECT segment, data FROM {source} WHERE kind = 'segment.opened' AND {where}"  # noqa: S608
                found |= {segment: _said_by(data) for segment, data in con.execute(text, list(values)).fetchall() if data}
        return found

    def _rows(
        self, con: duckdb.DuckDBPyConnection, where: str, headers: Mapping[str, Said]
    ) -> Iterator[tuple[str | None, Told, bytes | None]]:
        """(run, told, payload) of rows of the events tables; within a run the header of its own segment comes first."""
        own: dict[str, Said] = {}
        for name in self.records:
            source = self._source(name, "events")
            if source is None:
                continue
            text = (
                f'SELECT run, segment, seq, clock, "at", kind, "by", via, data FROM {source} WHERE kind IS NOT NULL AND {where} '  # noqa: S608
                "ORDER BY run, segment, n"
            )
            cursor = con.cursor().execute(text)
            while rows := cursor.fetchmany(FETCH):
                for run, segment, seq, clock, at, kind, by, via, data in rows:
                    if kind == "segment.opened" and data is not None:
                        own[segment] = _said_by(data)
                    said = own.get(segment) or headers.get(segment) or (None, None)
                    told = Told(clock, segment, seq, _utc(at), kind, by or said[0], via or said[1], run_of_segment(segment))
                    yield run, told, None if data is None else data.encode()

    def fold(
        self,
        con: duckdb.DuckDBPyConnection,
        runs: Sequence[str],
        folds: dict[str, RunFold],
        *,
        headers: Mapping[str, Said],
        redacted: frozenset[tuple[str, int]] = frozenset(),
    ) -> list[str]:
        """Add all events of `runs` (sorted ids, of all that lie between the first and the last) to `folds`.

        Returns:
            What did not fit its kind, in words.
        """
        problems: list[str] = []
        wanted = set(runs)
        where = f"run BETWEEN {_literal(runs[0])} AND {_literal(runs[-1])}"
        for run, told, data in self._rows(con, where, headers):
            if run not in wanted:
                continue
            fold = _fold_of(folds, run)
            if data is None or (told.segment, told.seq) in redacted:
                fold.seen(told.clock, told.at, told.writer)
                continue
            try:
                fold.take(told, msgspec.Raw(data))
            except msgspec.DecodeError as problem:
                problems.append(f"{told.kind} at {told.event} does not fit its kind: {problem}")
        for run, segment, key, series, clock, at in self._series(con, where, redacted):
            if run in wanted:
                fold = _fold_of(folds, run)
                fold.seen(clock, at, run_of_segment(segment))
                fold.join(key, segment, series)
        return problems

    def _series(
        self, con: duckdb.DuckDBPyConnection, where: str, redacted: frozenset[tuple[str, int]]
    ) -> Iterator[tuple[str, str, str, Series, int, Any]]:
        """For each run, segment and metric what its points in columns come to: (run, segment, key, series, clock, last time)."""
        for name, record in self.records.items():
            source = self._source(name, "points")
            if source is None:
                continue
            gone = " OR ".join(f"(segment = {_literal(s)} AND seq = {n})" for s, n in sorted(redacted) if s in self.chosen)
            kept = f" AND NOT ({gone})" if gone else ""
            for number, column in enumerate(record.columns):
                value = _VALUES[column.type][0].format(v=f"v{number}")
                there = f"v{number} IS NOT NULL" if column.type != "json" else f"({value}) IS NOT NULL"
                number_of = f"CASE WHEN isnan({value}) THEN NULL ELSE {value} END"
                text = f"""
                    SELECT run, segment, arg_min(v{number}, n), arg_min(clock, n), min(seq), arg_max(v{number}, n),
                           arg_max(clock, n), max(seq), min({number_of}), max({number_of}), sum({number_of}), count({number_of}),
                           count(*), max(step), max(clock), max("at")
                    FROM {source} WHERE {where} AND {there}{kept} GROUP BY run, segment
                """  # noqa: S608
                cursor = con.cursor().execute(text)
                while rows := cursor.fetchmany(FETCH):
                    for row in rows:
                        yield row[0], row[1], column.key, _series_of(row, column.type), row[14], _utc(row[15])


def _said_by(data: str) -> Said:
    """(by, via) that a header's payload says; one that does not fit its kind says nothing."""
    try:
        header = msgspec.json.decode(data, type=events.SegmentOpened)
    except msgspec.DecodeError:
        return None, None
    return header.by, header.via


def _series_of(row: Sequence[Any], kind: str) -> Series:
    first, first_clock, first_seq, last, last_clock, last_seq, low, high, total, n, count, step = row[2:14]
    first, last = (as_logged(value, kind) for value in (first, last))
    return Series((first_clock, 0, first_seq), first, (last_clock, 0, last_seq), last, low, high, total or 0.0, n, count, step)


def as_logged(value: Any, kind: str) -> Any:
    """A value column's value as JSON has it."""
    if kind == "json":
        return msgspec.json.decode(value)
    return as_json(value) if kind == "float" else value


def _fold_of(folds: dict[str, RunFold], run: str) -> RunFold:
    fold = folds.get(run)
    if fold is None:
        fold = folds[run] = RunFold(run)
    return fold


def _as_json(number: int, kind: str) -> str:
    if kind == "json":
        return f"v{number}::JSON"
    if kind == "int":
        return f"v{number}"
    return (
        f"CASE WHEN isfinite(v{number}) THEN to_json(v{number}) WHEN isnan(v{number}) THEN '\"NaN\"'::JSON "
        f"WHEN v{number} > 0 THEN '\"Infinity\"'::JSON ELSE '\"-Infinity\"'::JSON END"
    )


def _within(span: Span) -> str:
    return f"(segment = {_literal(span.segment)} AND n >= {span.line} AND n < {span.lines})"


def _utc(moment: Any) -> Any:
    from datetime import timezone

    return moment.replace(tzinfo=timezone.utc)


def _literal(text: str) -> str:
    """A text as SQL writes it."""
    literal = "'" + text.replace("'", "''") + "'"
    return "(" + literal.replace("\0", "' || chr(0) || '") + ")" if "\0" in text else literal


literal = _literal
