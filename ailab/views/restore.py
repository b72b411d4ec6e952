"""Lines back out of tables, byte for byte: what proves a table, what a rewrite starts from, what `verify` compares.

Who reads: compaction and the checkup. What holds: a table is read only after its bytes were found to be those that its record
states; it is read with another library than the one that wrote it; a row that is missing, there twice or of no known shape is an
error, never passed over. Memory is bounded by a few row groups, whatever the size of a record.
"""

from __future__ import annotations

import os
from collections import Counter
from datetime import timedelta
from itertools import repeat
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .. import commits, events
from ..errors import DamageError
from .batch import EPOCH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..commits import Commit, Shape, TableFile
    from ..segments import Span
    from ..store import Store

KEPT_GROUPS = 2
"""Row groups of a table that are kept in memory while their rows are asked for."""

_encode = msgspec.json.Encoder().encode
_BASE = ("segment", "n", "seq", "clock", "at", "run", "raw")
_OF_EVENTS = (*_BASE, "kind", "by", "via", "data", "crc")
_OF_POINTS = (*_BASE, "shape", "step", "time", "extra")
_NAMES = {float("inf"): "Infinity", float("-inf"): "-Infinity"}


class Restored(NamedTuple):
    """A line out of a table.

    Attributes:
        segment: its segment's name at birth.
        n: its number in the file.
        line: its bytes with the newline; of a redacted one what is left of it.
        counts: whether it is an event.
        redacted: whether its data are gone.
    """

    segment: str
    n: int
    line: bytes
    counts: bool
    redacted: bool


def lines(store: Store, name: str, commit: Commit, segment: str | None = None) -> Iterator[tuple[str, int, bytes]]:
    """Every line of a record's spans as (segment, n, bytes with the newline), by segment and n.

    Args:
        store: the store.
        name: the record's name, for messages.
        commit: the record.
        segment: only this segment's.

    Raises:
        DamageError: a table is not what its record says.
    """
    for row in restored(store, name, commit, segment):
        yield row.segment, row.n, row.line


def restored(store: Store, name: str, commit: Commit, segment: str | None = None) -> Iterator[Restored]:
    """As `lines`, with what is known of each line besides its bytes."""
    source = Source(store, name, commit)
    try:
        for span in sorted(commit.spans, key=lambda span: (span.segment, span.start)):
            if segment is None or span.segment == segment:
                yield from source.lines(span)
    finally:
        source.close()


def write_segments(store: Store, folder: str) -> list[tuple[str, str]]:
    """Write the segments that only tables have into files of a folder; return (name, file) of each.

    Raises:
        DamageError: a table is not what its record says.
    """
    records, _ = commits.load(store, store.commit_names())
    found = []
    for segment, spans in commits.choose(records).items():
        if os.path.lexists(store.segment_path(segment)):
            continue
        path = os.path.join(folder, segment)
        n = 0
        with open(path, "wb") as file:
            for name, span in spans:
                for row in restored(store, name, records[name], segment):
                    if n <= row.n < span.lines:
                        file.write(row.line)
                n = span.lines
        found.append((segment, path))
    return found


class Source:
    """The tables of one record, checked when they are opened.

    Raises:
        DamageError: a table is not what its record says; also from `lines`.
    """

    def __init__(self, store: Store, name: str, commit: Commit) -> None:
        self.path = store.commit_path(name)
        self._spans = {(span.segment, span.end): span for span in commit.spans}
        for table in commit.files:
            commits.check_table(store, table)
        try:
            self._tables = [_Table(store, table, commit) for table in commit.files]
        except (pa.ArrowException, OSError, KeyError) as problem:
            raise self._unreadable(problem) from problem

    def close(self) -> None:
        """Let go of the tables."""
        for table in self._tables:
            table.file.close()

    def lines(self, span: Span) -> Iterator[Restored]:
        """The lines of one of the record's spans, or of the end of one, in order."""
        for n, line, counts, redacted in self.plain_lines(span):
            yield Restored(span.segment, n, line, counts, redacted)

    def plain_lines(self, span: Span) -> Iterator[tuple[int, bytes, bool, bool]]:
        """As `lines`, as (n, bytes, whether it counts, whether it is redacted): a microsecond less for each."""
        whole = self._spans.get((span.segment, span.end), span)
        try:
            for row in self._lines(whole):
                if row[0] >= span.line:
                    yield row
        except (pa.ArrowException, OSError, LookupError, TypeError, UnicodeDecodeError) as problem:
            raise self._unreadable(problem) from problem

    def _lines(self, span: Span) -> Iterator[tuple[int, bytes, bool, bool]]:
        n = span.line
        prev = 0 if span.start == 0 else -1
        line, encode = events.Line, _encode
        for number, kind, seq, at, clock, run, by, via, payload, crc, raw in self._rows(span):
            if number != n:
                break
            n += 1
            if raw is not None:
                if kind is not None:
                    prev = int(raw[raw.rfind(b":") + 1 : -2])
                yield number, raw, kind is not None, False
                continue
            body = encode(line(seq, EPOCH + timedelta(0, 0, at), clock, kind, run, by, via, payload, prev, 0))
            prev = crc32(body) if crc is None else crc
            yield number, b"%b%d}\n" % (body[:-2], prev), True, crc is not None
        if n != span.lines:
            raise DamageError("gap", path=self.path, detail=f"line {n} of segment {span.segment} is not in its tables")

    def _rows(self, span: Span) -> Iterator[tuple[Any, ...]]:
        """The rows of both tables by n."""
        rows = [table.rows(span) for table in self._tables if span.segment in table.places]
        if len(rows) == 1:
            return rows[0]
        return iter(()) if not rows else _merged(rows[1], rows[0])  # most lines are points

    def _unreadable(self, problem: Exception) -> DamageError:
        return DamageError("unreadable", path=self.path, detail=f"its tables: {problem}")


def _merged(one: Iterator[tuple[Any, ...]], other: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Rows of two tables by n, cheaper than `heapq.merge` where most are in one of them."""
    waiting = next(other, None)
    for row in one:
        while waiting is not None and waiting[0] <= row[0]:
            yield waiting
            waiting = next(other, None)
        yield row
    if waiting is not None:
        yield waiting
        yield from other


class _Table:
    """One Parquet file: where the rows of each segment are, and those rows."""

    def __init__(self, store: Store, table: TableFile, commit: Commit) -> None:
        self.path = store.table_path(table.name)
        self.file = pq.ParquetFile(self.path)
        self.commit = commit
        self.points = table.table == "points"
        self._starts = [0]
        for i in range(self.file.num_row_groups):
            self._starts.append(self._starts[-1] + self.file.metadata.row_group(i).num_rows)
        self.places = self._index()
        names = [span.segment for span in commit.spans]
        self._several = {name for name, count in Counter(names).items() if count > 1}
        self._groups: dict[int, pa.Table] = {}

    def _index(self) -> dict[str, list[tuple[int, int]]]:
        """By segment the ranges of its rows: one for each run that its lines are about."""
        found: dict[tuple[str, str | None], tuple[int, int]] = {}
        for i, start in enumerate(self._starts[:-1]):
            names = self.file.read_row_group(i, columns=["segment", "run"])
            names = names.append_column("row", pa.array(range(start, self._starts[i + 1]), pa.int64()))
            asked = [("row", "min"), ("row", "max"), ("row", "count")]
            for group in names.group_by(["segment", "run"], use_threads=False).aggregate(asked).to_pylist():
                place, first, count = (group["segment"], group["run"]), group["row_min"], group["row_count"]
                before = found.get(place, (first, 0))
                if group["row_max"] - first + 1 != count or sum(before) != first:
                    raise DamageError("bad-json", path=self.path, detail="its rows are not sorted")
                found[place] = (before[0], before[1] + count)
        ranges: dict[str, list[tuple[int, int]]] = {}
        for (segment, _), part in found.items():
            ranges.setdefault(segment, []).append(part)
        return ranges

    def rows(self, span: Span) -> Iterator[tuple[Any, ...]]:
        """(n, kind, seq, at, clock, run, by, via, payload, crc, raw) of the span's rows, by n."""
        parts = [part for first, count in self.places.get(span.segment, []) for part in self._read(first, count)]
        if not parts:
            return
        table = parts[0] if len(parts) == 1 else pa.concat_tables(parts, promote_options="default")
        if span.segment in self._several:
            table = table.filter(pc.and_(pc.greater_equal(table["n"], span.line), pc.less(table["n"], span.lines)))
        if len(self.places[span.segment]) > 1:
            table = table.sort_by("n")
        yield from (self._as_points(table) if self.points else self._as_events(table))

    def _read(self, first: int, count: int) -> Iterator[pa.Table]:
        for i, start in enumerate(self._starts[:-1]):
            end = self._starts[i + 1]
            if start < first + count and first < end:
                low = max(first, start)
                yield self._group(i).slice(low - start, min(first + count, end) - low)

    def _group(self, i: int) -> pa.Table:
        found = self._groups.pop(i, None)
        if found is None:
            while len(self._groups) >= KEPT_GROUPS:
                del self._groups[next(iter(self._groups))]
            columns = list(_OF_EVENTS)
            if self.points:
                shapes = pc.unique(self.file.read_row_group(i, columns=["shape"])["shape"]).to_pylist()
                columns = [
                    *_OF_POINTS,
                    *sorted({f"v{column}" for shape in shapes for column in self.commit.shapes[shape].columns}),
                ]
            found = self.file.read_row_group(i, columns=columns)
        self._groups[i] = found  # the last one that was asked for comes last
        return found

    def _as_events(self, table: pa.Table) -> Iterator[tuple[Any, ...]]:
        payloads = [None if data is None else msgspec.Raw(data) for data in table["data"].to_pylist()]
        texts = (table[name].to_pylist() for name in ("run", "by", "via"))
        return zip(
            _numbers(table["n"]), table["kind"].to_pylist(), _numbers(table["seq"]), _numbers(table["at"]),
            _numbers(table["clock"]), *texts, payloads, _numbers(table["crc"]), table["raw"].to_pylist(), strict=True,
        )  # fmt: skip

    def _as_points(self, table: pa.Table) -> Iterator[tuple[Any, ...]]:
        which = _numbers(table["shape"])
        shapes = set(which)
        if len(shapes) == 1:
            return self._of_shape(table, shapes.pop())
        parts = {shape: self._of_shape(table.filter(pc.equal(table["shape"], shape)), shape) for shape in shapes}
        return (next(parts[shape]) for shape in which)

    def _of_shape(self, table: pa.Table, number: int) -> Iterator[tuple[Any, ...]]:
        shape = self.commit.shapes[number]
        return zip(
            _numbers(table["n"]), repeat(events.MetricsLogged.kind), _numbers(table["seq"]), _numbers(table["at"]),
            _numbers(table["clock"]), table["run"].to_pylist(), repeat(None), repeat(None), self._payloads(table, shape),
            repeat(None), table["raw"].to_pylist() if table["raw"].null_count < len(table) else repeat(None), strict=False,
        )  # fmt: skip

    def _payloads(self, table: pa.Table, shape: Shape) -> Iterator[Any]:
        keys = [self.commit.columns[column].key for column in shape.columns]
        cells = [_cells(table[f"v{column}"], self.commit.columns[column].type) for column in shape.columns]
        steps = _numbers(table["step"]) if shape.step else repeat(None)
        times = _numbers(table["time"]) if shape.time else repeat(None)
        rows = zip(*cells, strict=True) if cells else repeat((), len(table))
        made = (events.MetricsLogged(dict(zip(keys, row, strict=True)), step, time)
                for row, step, time in zip(rows, steps, times, strict=False))  # fmt: skip
        if table["extra"].null_count == len(table):
            return made
        return (
            point if extra is None else msgspec.Raw(_encode(point)[:-1] + b"," + extra.encode() + b"}")
            for point, extra in zip(made, table["extra"].to_pylist(), strict=True)
        )


def _numbers(column: pa.ChunkedArray) -> list[Any]:
    """The numbers of a column; microseconds of a time."""
    if column.null_count:
        nullable: list[Any] = (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()
        return nullable
    found: list[Any] = []
    for chunk in column.chunks:
        if len(chunk):
            plain = memoryview(chunk.buffers()[1]).cast("B")
            if column.type == pa.float64():
                cells: memoryview[Any] = plain.cast("d")
            else:
                cells = plain.cast("i" if column.type == pa.int32() else "q")
            found += cells[chunk.offset : chunk.offset + len(chunk)].tolist()
    return found


def _cells(column: pa.ChunkedArray, type_: str) -> list[Any]:
    """The values of a column as they stand in a line."""
    if type_ == "json":
        return [None if text is None else msgspec.Raw(text) for text in column.to_pylist()]
    values = _numbers(column)
    if type_ == "float" and not pc.all(pc.is_finite(column)).as_py():
        return [value if value is None or isfinite(value) else _NAMES.get(value, "NaN") for value in values]
    return values
