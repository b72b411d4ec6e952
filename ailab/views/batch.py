"""Lines of segments on their way into one pair of Parquet files.

Who writes: compaction and whoever rewrites records, one `Batch` for each record. What holds: every line taken is one row of one
of the two tables; a row keeps the line's bytes (`raw`) unless encoding it again from its columns gives the same bytes; a point
stands in columns only where its payload's bytes are those that the columns give, so a reader of the columns and a reader of the
line see the same values. Rows leave in the order of (run, segment, n). Memory is bounded by what is taken, not by columns: a
column that a run does not have costs nothing until DuckDB writes it. Nothing here decides what is taken or commits anything.
"""

from __future__ import annotations

import hashlib
import os
from datetime import datetime, timedelta, timezone
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from .. import blobs, commits, events
from ..commits import Column, Shape, TableFile
from ..segments import INT_MAX
from ..store import sync_folder

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from typing import Literal

    import duckdb

    from ..segments import Envelope, Span
    from ..store import Store

COLUMN_LINES = 64
"""So many lines of one shape get columns; rarer ones stay JSON text."""
COLUMNS_MAX = 1000
"""Value columns of a record."""
SHAPES_MAX = 4096
"""Shapes that are counted in one batch; lines of further ones stay JSON text."""
FLUSH_ROWS = 1 << 15
"""Rows handed to DuckDB at once, about."""
GROUP_ROWS = 122_880
"""Rows of a row group, fewer in wide tables, so that one is at most `GROUP_CELLS` cells in DuckDB's memory."""
GROUP_CELLS = 1 << 25
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MICROSECOND = timedelta(microseconds=1)
NOT_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}

_UTC = timezone.utc
_encode = msgspec.json.Encoder().encode
_decode_point = msgspec.json.Decoder(events.MetricsLogged).decode
_ARROW = {"float": pa.float64(), "int": pa.int64(), "json": pa.string()}
_NAME = pa.dictionary(pa.int32(), pa.string())
_COMMON = [
    pa.field("segment", _NAME), pa.field("n", pa.int64()), pa.field("seq", pa.int64()), pa.field("clock", pa.int64()),
    pa.field("at", pa.timestamp("us")), pa.field("run", _NAME), pa.field("raw", pa.binary()),
]  # fmt: skip
_OF_EVENTS = [
    pa.field("kind", pa.string()), pa.field("by", pa.string()), pa.field("via", pa.string()), pa.field("data", pa.string()),
    pa.field("crc", pa.int64()),
]  # fmt: skip
_OF_POINTS = [pa.field("shape", pa.int32()), pa.field("step", pa.int64()), pa.field("time", pa.float64())]
_EXTRA = pa.field("extra", pa.string())


class _Form:
    """A shape while a batch is made: it gets columns when enough lines have it.

    Attributes:
        number: its number among the record's shapes, or None while it has no columns.
        barred: it never gets any.
    """

    __slots__ = ("barred", "columns", "count", "keys", "number", "step", "time", "types")

    def __init__(self, keys: tuple[str, ...], types: tuple[str, ...], *, step: bool, time: bool) -> None:
        self.keys, self.types, self.step, self.time = keys, types, step, time
        self.count = 0
        self.number: int | None = None
        self.columns: tuple[int, ...] = ()
        self.barred = False


class _Points:
    """Rows of one shape, run and segment, with the payload's text while the shape may yet be a rare one."""

    __slots__ = ("arrays", "extra", "form", "raw", "rows", "run", "segment", "texts")

    def __init__(self, form: _Form, run: str | None, segment: str) -> None:
        self.form, self.run, self.segment = form, run, segment
        self.rows: list[tuple[Any, ...]] = []
        self.texts: list[bytes] = []
        self.raw: dict[int, bytes] = {}
        self.extra: dict[int, bytes] = {}
        self.arrays: dict[str, pa.Array] = {}

    def keep(self, raw: bytes, event: Envelope, payload: events.MetricsLogged, prev: int) -> bool:
        """Keep what a line that is not as we would write it has besides its columns; False where they cannot give its payload."""
        data, plain = bytes(event.data), _encode(payload)
        if data != plain:
            if not data.startswith(plain[:-1] + b","):
                return False
            self.extra[len(self.rows)] = data[len(plain) : -1]
        line = events.Line(event.seq, _time(event.at), event.clock, event.kind, event.run, None, None, event.data, prev, 0)
        if raw != with_crc(_encode(line), event.crc):
            self.raw[len(self.rows)] = raw
        return True

    def freeze(self) -> None:
        """Turn the rows into arrays, a third of their size, and forget the texts; only for a shape that has columns."""
        fixed = ("n", "seq", "clock", "at", "step", "time")
        lists = zip(*self.rows, strict=True)
        types = dict(zip((f.name for f in (*_COMMON, *_OF_POINTS)), (f.type for f in (*_COMMON, *_OF_POINTS)), strict=True))
        given = (True, True, True, True, self.form.step, self.form.time)
        self.arrays = {
            name: pa.array(values, types[name]) for name, values, is_given in zip(fixed, lists, given, strict=False) if is_given
        }
        for column, type_, values in zip(self.form.columns, self.form.types, lists, strict=True):
            self.arrays[f"v{column}"] = pa.array(values, _ARROW[type_])
        count = len(self.rows)
        self.arrays["shape"] = pa.repeat(pa.scalar(self.form.number, pa.int32()), count)
        for name, sparse, type_ in (("raw", self.raw, pa.binary()), ("extra", self.extra, pa.string())):
            if sparse:
                self.arrays[name] = pa.array([sparse.get(i) for i in range(count)], type_)
        self.rows, self.texts = [], []

    def as_events(self) -> Iterator[tuple[Any, ...]]:
        """The rows as rows of the events table."""
        for i, (row, text) in enumerate(zip(self.rows, self.texts, strict=True)):
            yield (*row[:4], events.MetricsLogged.kind, None, None, text, None, self.raw.get(i))


class _Block(NamedTuple):
    """Rows of one run and segment as arrays; what is not among them is NULL."""

    run: str | None
    segment: str
    arrays: Mapping[str, pa.Array]

    @property
    def place(self) -> tuple[bool, str, str]:
        """Rows without a run first, then by run and segment."""
        return self.run is not None, self.run or "", self.segment


class Batch:
    """Take the lines of spans, then write them as tables.

    Attributes:
        spans: what was taken.
        digests: for each span the SHA-256 of its own bytes as they will be restored.
        lines: rows taken.
        points: values among them.
        bytes: bytes of the spans taken.
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.digests: list[str] = []
        self.lines = 0
        self.points = 0
        self.bytes = 0
        self._columns: dict[tuple[str, str], int] = {}
        self._numbered: list[_Form] = []
        self._forms: dict[Any, _Form] = {}
        self._floats: dict[Any, _Form] = {}
        self._points: list[_Points] = []
        self._pending: list[_Points] = []
        self._segment = ""
        self._here: dict[tuple[str | None, _Form], _Points] = {}
        self._events: dict[tuple[str | None, str], list[tuple[Any, ...]]] = {}

    # -- taking ------------------------------------------------------------------------------------------------------

    def take(self, span: Span, lines: Iterable[tuple[bytes, Envelope | None]], redacted: Collection[int] = ()) -> None:
        """Take all lines of a span.

        Args:
            span: where they lie.
            lines: (bytes with the newline, event where the line counts), in order. Every clock must have 64 bits and every
                payload be UTF-8.
            redacted: numbers `n` of lines whose data are to go, or have gone.
        """
        digest = hashlib.sha256()
        n = span.line
        prev = 0 if span.start == 0 else -1  # what stands before the span is not in its tables, so its first line is kept whole
        self._segment, self._here = span.segment, {}
        for raw, event in lines:
            if event is None:
                self._add_event(None, (n, None, None, None, None, None, None, None, None, raw))
            elif n in redacted:
                at = micros(event.at)
                row = (n, event.seq, event.clock, at, event.kind, event.by, event.via, None, event.crc, None)
                self._add_event(event.run, row)
                digest.update(redacted_line(event, at, prev))
                prev = event.crc
                n += 1
                continue
            else:
                if event.kind != events.MetricsLogged.kind or not self._take_point(n, raw, event, prev):
                    self._take_event(n, raw, event, prev)
                prev = event.crc
            digest.update(raw)
            n += 1
        for points in self._here.values():
            if points.rows:
                self._settle(points)
        self.lines += n - span.line
        self.bytes += span.end - span.start
        self.spans.append(span)
        self.digests.append(digest.hexdigest())

    def _add_event(self, run: str | None, row: tuple[Any, ...]) -> None:
        self._events.setdefault((run, self._segment), []).append(row)

    def _take_event(self, n: int, raw: bytes, event: Envelope, prev: int) -> None:
        at = micros(event.at)
        data: bytes | None = bytes(event.data)
        kept: bytes | None = raw
        for payload in (event.data, None) if data == b"{}" else (event.data,):
            line = events.Line(
                event.seq, _time(event.at), event.clock, event.kind, event.run, event.by, event.via, payload, prev, 0
            )
            if raw == with_crc(_encode(line), event.crc):
                data, kept = None if payload is None else data, None
                break
        row = (n, event.seq, event.clock, at, event.kind, event.by, event.via, data, None, kept)
        self._add_event(event.run, row)

    def _take_point(self, n: int, raw: bytes, event: Envelope, prev: int) -> bool:
        """Take a point into columns; return False where it has to be an event with JSON text."""
        try:
            payload = _decode_point(event.data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        step, time, logged = payload.step, payload.time, payload.values
        if event.by is not None or event.via is not None or (step is not None and not -INT_MAX <= step <= INT_MAX):
            return False
        values: Iterable[Any] = logged.values()
        key = (tuple(logged), tuple(map(type, values)), step is None, time is None)
        form = self._floats.get(key)
        if form is None:
            form, values = self._form_of(key, logged)
        form.count += 1
        if form.number is None and not self._may_number(form):
            return False
        line = events.Line(event.seq, _time(event.at), event.clock, event.kind, event.run, None, None, payload, prev, 0)
        points = self._here.get((event.run, form))
        if points is None:
            points = self._here[event.run, form] = _Points(form, event.run, self._segment)
        if raw != with_crc(_encode(line), event.crc) and not points.keep(raw, event, payload, prev):
            return False
        points.rows.append((n, event.seq, event.clock, micros(event.at), step, time, *values))
        if form.number is None:
            points.texts.append(bytes(event.data))
        self.points += len(logged)
        return True

    def _form_of(self, key: tuple[Any, ...], logged: dict[str, Any]) -> tuple[_Form, list[Any]]:
        """The shape of a point, by its values' types, and the values as they stand in columns."""
        keys, classes, no_step, no_time = key
        types, values = [], []
        for value in logged.values():
            type_, cell = _cell(value)
            types.append(type_)
            values.append(cell)
        known = (keys, tuple(types), no_step, no_time)
        form = self._forms.get(known)
        if form is None:
            form = _Form(keys, tuple(types), step=not no_step, time=not no_time)
            form.barred = len(self._forms) >= SHAPES_MAX
            if form.barred:
                return form, values
            self._forms[known] = form
        if all(class_ is float for class_ in classes):
            self._floats[key] = form
        return form, values

    def _may_number(self, form: _Form) -> bool:
        """Give a shape its columns once enough lines have it, or bar it where there are too many; False of a barred one."""
        if form.barred or form.count < COLUMN_LINES:
            return not form.barred
        wanted = list(zip(form.keys, form.types, strict=True))
        if len(self._columns) + sum(1 for column in wanted if column not in self._columns) > COLUMNS_MAX:
            form.barred = True
            return False
        form.columns = tuple(self._columns.setdefault(column, len(self._columns)) for column in wanted)
        form.number = len(self._numbered)
        self._numbered.append(form)
        return True

    def _settle(self, points: _Points) -> None:
        """Put rows of a segment that has been read to their like."""
        if points.form.number is not None:
            points.freeze()
            self._points.append(points)
        else:
            self._pending.append(points)

    # -- writing -----------------------------------------------------------------------------------------------------

    @property
    def columns(self) -> list[Column]:
        """Value columns of the points table, in order."""
        return [Column(key, type_) for key, type_ in self._columns]  # type: ignore[arg-type]

    @property
    def shapes(self) -> list[Shape]:
        """Shapes of its points, by their numbers."""
        return [Shape(form.columns, step=form.step, time=form.time) for form in self._numbered]

    def write(self, con: duckdb.DuckDBPyConnection, store: Store, stem: str) -> list[TableFile]:
        """Write what was taken as `STEM.events.parquet` and `STEM.points.parquet`, flushed to the disk; a batch writes once."""
        for points in self._pending:
            if points.form.number is not None:
                points.freeze()
                self._points.append(points)
            else:
                rows = self._events.setdefault((points.run, points.segment), [])
                rows += points.as_events()
                rows.sort(key=itemgetter(0))
        self._pending = []
        os.makedirs(store.compacted, exist_ok=True)
        values = [pa.field(f"v{i}", _ARROW[column.type]) for i, column in enumerate(self.columns)]
        tables = (
            ("events", [*_COMMON, *_OF_EVENTS], [_events_block(*place, rows) for place, rows in self._events.items()]),
            ("points", [*_COMMON, *_OF_POINTS, *values, _EXTRA], [_Block(p.run, p.segment, p.arrays) for p in self._points]),
        )
        self._events, self._points = {}, []
        files = []
        for table, fields, blocks in tables:
            if blocks:
                name = f"{stem}.{table}.parquet"
                _write(con, store.table_path(name), pa.schema(fields), blocks)
                digest, size = blobs.hash_file(store.table_path(name))
                count = sum(len(block.arrays["n"]) for block in blocks)
                files.append(TableFile(name=name, table=_table(table), bytes=size, rows=count, sha256=digest))
        sync_folder(store.compacted)
        return files


def micros(at: datetime) -> int:
    """Microseconds since 1970; a time without a zone is taken as UTC."""
    return (at - EPOCH if at.tzinfo is not None else at.replace(tzinfo=_UTC) - EPOCH) // MICROSECOND


def with_crc(body: bytes, crc: int) -> bytes:
    """A line from its encoding with `crc` 0."""
    return b"%b%d}\n" % (body[:-2], crc)


def redacted_line(event: Envelope, at: int, prev: int) -> bytes:
    """What is left of a redacted line: its envelope, and the checksum that it had, which no longer is that of its bytes."""
    line = events.Line(
        event.seq, EPOCH + timedelta(0, 0, at), event.clock, event.kind, event.run, event.by, event.via, None, prev, 0
    )
    return with_crc(_encode(line), event.crc)


def _time(at: datetime) -> datetime:
    """The time as the column gives it back."""
    return at if at.tzinfo is _UTC else EPOCH + timedelta(0, 0, micros(at))


def _cell(value: Any) -> tuple[str, Any]:
    """(type of its column, value in it) of a metric's value."""
    class_ = type(value)
    if class_ is float:
        return "float", value
    if class_ is int and -INT_MAX <= value <= INT_MAX:
        return "int", value
    if class_ is str and value in NOT_FINITE:
        return "float", NOT_FINITE[value]
    return "json", _encode(value)


def _events_block(run: str | None, segment: str, rows: list[tuple[Any, ...]]) -> _Block:
    names = ("n", "seq", "clock", "at", "kind", "by", "via", "data", "crc", "raw")
    types = {field.name: field.type for field in (*_COMMON, *_OF_EVENTS)}
    lists = zip(*rows, strict=True)
    return _Block(run, segment, {name: pa.array(values, types[name]) for name, values in zip(names, lists, strict=True)})


def _write(con: duckdb.DuckDBPyConnection, path: str, schema: pa.Schema, blocks: list[_Block]) -> None:
    """Write blocks as one Parquet file, and flush it to the disk."""
    group = max(2048, min(GROUP_ROWS, GROUP_CELLS // len(schema)))
    blocks.sort(key=lambda block: block.place)
    con.register("rows_to_write", pa.RecordBatchReader.from_batches(schema, _record_batches(schema, blocks)))
    try:
        con.execute(
            f"COPY (SELECT * FROM rows_to_write) TO {_literal(path)} (FORMAT parquet, COMPRESSION zstd, "  # noqa: S608  (no text of others)
            f"PARQUET_VERSION v2, ROW_GROUP_SIZE {group}, USE_TMP_FILE false)"
        )
    finally:
        con.unregister("rows_to_write")
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _table(table: str) -> Literal["events", "points"]:
    return "events" if table == commits.TABLES[0] else "points"


def _record_batches(schema: pa.Schema, blocks: list[_Block]) -> Iterator[pa.RecordBatch]:
    """The rows of sorted blocks in order of (run, segment, n)."""
    waiting: list[list[_Block]] = []
    count = 0
    for _, same in groupby(blocks, key=lambda block: block.place):
        waiting.append(list(same))
        count += sum(len(block.arrays["n"]) for block in waiting[-1])
        if count >= FLUSH_ROWS:
            yield _record_batch(schema, waiting)
            waiting, count = [], 0
    if waiting:
        yield _record_batch(schema, waiting)


def _record_batch(schema: pa.Schema, groups: list[list[_Block]]) -> pa.RecordBatch:
    blocks = [block for group in groups for block in group]
    lengths = [len(block.arrays["n"]) for block in blocks]
    place = pa.concat_arrays(
        [pa.repeat(pa.scalar(i, pa.int32()), len(block.arrays["n"])) for i, group in enumerate(groups) for block in group]
    )
    order = None
    if len(blocks) > len(groups):  # several shapes in one segment: their lines stood mixed
        n = pa.concat_arrays([block.arrays["n"] for block in blocks])
        order = pc.sort_indices(pa.table({"place": place, "n": n}), [("place", "ascending"), ("n", "ascending")])
        place = place.take(order)
    present = {name for block in blocks for name in block.arrays}
    arrays = []
    for field in schema:
        if field.name in ("segment", "run"):
            names = pa.array([getattr(group[0], field.name) for group in groups], pa.string())
            arrays.append(pa.DictionaryArray.from_arrays(place, names))
        elif field.name not in present:
            arrays.append(pa.nulls(sum(lengths), field.type))
        else:
            parts = [
                block.arrays[field.name] if field.name in block.arrays else pa.nulls(length, field.type)
                for block, length in zip(blocks, lengths, strict=True)
            ]
            whole = pa.concat_arrays(parts)
            arrays.append(whole if order is None else whole.take(order))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
