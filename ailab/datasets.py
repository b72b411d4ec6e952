"""What a file of data holds: its format, its columns and rows, or where exactly it is wrong.

CSV, JSON (an array of objects, or an object of arrays), newline-delimited JSON and Parquet are read in blocks, so a file of a
gigabyte needs no gigabyte of memory; only an object of arrays is read whole. Nothing here writes, knows a store or trusts a file:
whoever is given files by strangers runs `examine` in a process that may be killed.
"""

from __future__ import annotations

import codecs
import csv
import json
import os
from itertools import islice
from typing import IO, TYPE_CHECKING, Any

import msgspec

from .columns import (
    NULLS,
    Column,
    Profile,
    TextProfile,
    is_moment,
    kind_of_type,
    kind_word,
    shown,
    take_array,
    take_values,
    typed,
)
from .errors import RejectedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

FORMATS = ("csv", "json", "ndjson", "parquet")
COLUMNS_MAX = 10_000
CELL_MAX = 10_000
"""Characters of a value that are shown in a preview."""
BLOCK = 4 << 20
ELEMENT_MAX = 64 << 20
"""Bytes of one row."""
WHOLE_MAX = 256 << 20
"""Bytes of an object of arrays, which has to be read whole."""
BATCH = 4096
_ENDINGS = {
    "csv": "csv", "tsv": "csv", "txt": "csv", "json": "json", "ndjson": "ndjson", "jsonl": "ndjson", "parquet": "parquet",
    "pq": "parquet",
}  # fmt: skip
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
Row = dict[str, Any]


class Contents(msgspec.Struct, kw_only=True):
    """What a file holds; `notes` say what was done to read it, such as a column that had no name."""

    format: str
    rows: int
    columns: list[Column]
    encoding: str | None = None
    delimiter: str | None = None
    notes: list[str] = []

    @property
    def schema(self) -> dict[str, Any]:
        """What an event keeps of it."""
        more = {"encoding": self.encoding, "delimiter": self.delimiter, "notes": self.notes or None}
        return {"columns": msgspec.to_builtins(self.columns), **{k: v for k, v in more.items() if v is not None}}


# -- asking ------------------------------------------------------------------------------------------------------------


def format_of(name: str, path: str) -> str:
    """The format of a file, by the ending of its name, else by its first bytes.

    Raises:
        RejectedError: neither tells one.
    """
    with open(path, "rb") as file:
        head = file.read(1 << 16)
    if head.startswith(b"PAR1"):
        return "parquet"
    found = _ENDINGS.get(os.path.splitext(name)[1].lstrip(".").lower())
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if found is None:
        found = "json" if text[:1] in {b"[", b"{"} else None
    if found is None:
        raise RejectedError(
            f"the format of {name[:100]!r} is not known", key="file", hint=f"allowed: {', '.join(FORMATS)}, by ending or format="
        )
    if found == "parquet":
        raise _wrong("it does not begin as Parquet does", "byte 0")
    return "ndjson" if found == "json" and text[:1] == b"{" and _is_lines(path) else found


def _is_lines(path: str) -> bool:
    """Whether a file that begins with an object has one object a line, not one that holds arrays."""
    with open(path, "rb") as file:
        line = file.readline(ELEMENT_MAX)
        more = file.read(1 << 16).strip()
    try:
        return isinstance(msgspec.json.decode(line.removeprefix(codecs.BOM_UTF8)), dict) and bool(more)
    except (msgspec.DecodeError, RecursionError):
        return False


def examine(path: str, name: str, *, format: str | None = None, encoding: str | None = None) -> Contents:  # noqa: A002
    """Read a file from its first to its last byte.

    Args:
        path: where it lies.
        name: its name, whose ending tells the format.
        format: csv, json, ndjson or parquet, where the name does not tell.
        encoding: of CSV and JSON, where it is neither UTF-8 nor marked by its first bytes.

    Raises:
        RejectedError: it is empty, of an unknown format, or wrong somewhere; says line and column as far as there are any.
    """
    if format is not None and format not in FORMATS:
        raise RejectedError(f"format {format[:40]!r} is not allowed", key="format", hint=f"allowed: {', '.join(FORMATS)}")
    if os.path.getsize(path) == 0:
        raise RejectedError("the file is empty", key="file", hint="a dataset has a header, or at least one row")
    chosen = format or format_of(name, path)
    read: dict[str, Callable[[], Contents]] = {
        "csv": lambda: _read_csv(path, name, _encoding(path, encoding)),
        "parquet": lambda: _read_parquet(path),
        "ndjson": lambda: _read_lines(path, _encoding(path, encoding)),
        "json": lambda: _read_json(path, _encoding(path, encoding)),
    }
    return read[chosen]()


def preview(path: str, format: str, schema: dict[str, Any], limit: int) -> list[dict[str, Any]]:  # noqa: A002
    """The first rows of a file that was examined, as objects by column; long values are cut, NaN and infinities are texts."""
    columns = [(column["name"], column["type"]) for column in schema.get("columns", [])]
    encoding = schema.get("encoding") or "utf-8"
    rows: Iterable[Row]
    if format == "parquet":
        rows = _parquet_rows(path, limit)
    elif format == "csv":
        rows = islice(_csv_rows(path, columns, encoding, schema.get("delimiter") or ","), limit)
    elif format == "ndjson":
        rows = (row for row, _ in islice(_lines(path, encoding), limit))
    else:
        rows = (row for row, _ in islice(_json_rows(path, encoding), limit))
    return [{name: shown(row.get(name), CELL_MAX) for name, _ in columns} for row in rows]


def _wrong(what: str, where: str, hint: str = "") -> RejectedError:
    return RejectedError(f"{where}: {what}", key="file", hint=hint or "nothing of the file was kept")


# -- CSV ---------------------------------------------------------------------------------------------------------------


def _encoding(path: str, given: str | None) -> str:
    """The encoding of a text file: as given, by its first bytes, else UTF-8, which is checked when it is read."""
    if given is not None:
        try:
            if codecs.lookup(given)._is_text_encoding:  # bytes-to-bytes codecs are none
                return given
        except LookupError:
            pass
        raise RejectedError(f"encoding {given[:40]!r} is not known", key="encoding", hint="such as utf-8, latin-1 or cp1252")
    with open(path, "rb") as file:
        head = file.read(4)
    return next((encoding for bom, encoding in _BOMS if head.startswith(bom)), "utf-8")


def _read_csv(path: str, name: str, encoding: str) -> Contents:
    delimiter, header, notes = _header(path, name, encoding)
    import pyarrow as pa

    profiles = [TextProfile(column) for column in header]
    rows = 0
    try:
        for batch in _csv_batches(path, len(header), encoding, delimiter):
            rows += batch.num_rows
            for profile, column in zip(profiles, batch.columns, strict=True):
                profile.take_text(column)
    except (pa.ArrowInvalid, UnicodeDecodeError) as problem:
        raise _place_in_csv(path, encoding, delimiter, len(header), problem) from None
    return Contents(
        format="csv", rows=rows, columns=[profile.finished() for profile in profiles], encoding=encoding, delimiter=delimiter,
        notes=notes,
    )  # fmt: skip


def _header(path: str, name: str, encoding: str) -> tuple[str, list[str], list[str]]:
    """(delimiter, names of columns, what was done to names) by the first line."""
    with open(path, encoding=encoding, errors="surrogateescape", newline="") as file:
        head = file.read(1 << 20)
    if "\x00" in head:
        raise _wrong("a NUL character; this is no text", f"line {head[: head.index(chr(0))].count(chr(10)) + 1}")
    delimiter = "\t" if name.lower().endswith(".tsv") else _delimiter(head)
    csv.field_size_limit(ELEMENT_MAX)
    try:
        first = next(row for row in csv.reader(head.splitlines(keepends=True), delimiter=delimiter) if row)
    except StopIteration:
        raise _wrong("only blank lines", "line 1") from None
    except csv.Error as problem:
        raise _wrong(str(problem), "line 1") from None
    if len(first) > COLUMNS_MAX:
        raise _wrong(f"{len(first)} columns", "line 1", f"at most {COLUMNS_MAX}")
    names: list[str] = []
    notes: list[str] = []
    for i, column in enumerate(first, 1):
        wanted = column.encode("utf-8", "replace").decode().strip() or f"column_{i}"
        chosen, n = wanted, 1
        while chosen in names:
            n += 1
            chosen = f"{wanted}_{n}"
        if chosen != column:
            notes.append(f"column {i} {column[:60]!r} is called {chosen[:60]!r}")
        names.append(chosen)
    return delimiter, names, notes[:20]


def _delimiter(head: str) -> str:
    """The delimiter that the first line has most of, outside of quotes."""
    counts = dict.fromkeys((",", ";", "\t", "|"), 0)
    quoted = False
    for character in head:
        if character == '"':
            quoted = not quoted
        elif not quoted and character in "\r\n" and any(counts.values()):
            break
        elif not quoted and character in counts:
            counts[character] += 1
    return max(counts, key=lambda one: counts[one])


def _csv_batches(path: str, columns: int, encoding: str, delimiter: str) -> Iterator[Any]:
    """The rows behind the header, all values as text."""
    import pyarrow as pa
    from pyarrow import csv as reader

    names = [f"f{i}" for i in range(columns)]
    for size in (BLOCK, ELEMENT_MAX):
        began = False
        try:
            batches = reader.open_csv(
                path,
                read_options=reader.ReadOptions(
                    block_size=size, column_names=names, use_threads=False, encoding="utf-8" if "utf-8" in encoding else encoding
                ),
                parse_options=reader.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                convert_options=reader.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
            )
            header = True
            for batch in batches:
                found = batch.slice(1) if header and batch.num_rows else batch
                header = header and not batch.num_rows
                began = True
                yield found
        except pa.ArrowInvalid as problem:
            if began or "block" not in str(problem) or size == ELEMENT_MAX:
                raise
        else:
            return


def _csv_rows(path: str, columns: list[tuple[str, str]], encoding: str, delimiter: str) -> Iterator[dict[str, Any]]:
    kinds = {name: kind for name, kind in columns if kind not in {"string", "null"}}
    for batch in _csv_batches(path, len(columns), encoding, delimiter):
        for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            row: dict[str, Any] = {}
            for (name, kind), text in zip(columns, values, strict=True):
                if text == "" or (name in kinds and text.strip() in NULLS):
                    row[name] = None
                elif kind == "datetime":
                    row[name] = (
                        typed("moment", text) if text.strip()[-1:] in "Zz0123456789" and is_moment(text) else typed(kind, text)
                    )
                else:
                    row[name] = typed(kind, text) if name in kinds else text
            yield row


def _place_in_csv(path: str, encoding: str, delimiter: str, columns: int, problem: Exception) -> RejectedError:
    """Say where a CSV file is wrong: the first byte that is no text, else the first row with too many or too few values."""
    found = _place_of_bad_text(path, encoding)
    if found is not None:
        return found
    with open(path, encoding=encoding, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        before = 0
        try:
            for row in reader:
                if row and len(row) != columns:
                    lines = f"line {before + 1}" if reader.line_num == before + 1 else f"lines {before + 1} to {reader.line_num}"
                    return _wrong(
                        f"{len(row)} values, the header has {columns}", f"{lines}, column {min(len(row), columns) + 1}",
                        "a value with a delimiter in it stands in double quotes",
                    )  # fmt: skip
                before = reader.line_num
        except csv.Error as error:
            return _wrong(str(error), f"line {reader.line_num}")
    return _wrong(str(problem)[:200], f"a line after {before}" if before else "somewhere")


def _place_of_bad_text(path: str, encoding: str) -> RejectedError | None:
    """The first byte of a file that is no text in this encoding."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line, column = 1, 1
    with open(path, "rb") as file:
        while True:
            chunk = file.read(1 << 20)
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                good = error.object[: error.start].decode(encoding, "replace")
                line, column = _after(good, line, column)
                byte = error.object[error.start : error.start + 1].hex()
                return _wrong(
                    f"byte 0x{byte} is no {encoding}", f"line {line}, character {column}",
                    "say the file's encoding, such as encoding=latin-1 or cp1252",
                )  # fmt: skip
            line, column = _after(text, line, column)
            if not chunk:
                return None


def _after(text: str, line: int, column: int) -> tuple[int, int]:
    ends = text.count("\n")
    return (line + ends, len(text) - text.rfind("\n")) if ends else (line, column + len(text))


# -- JSON --------------------------------------------------------------------------------------------------------------


def _read_json(path: str, encoding: str) -> Contents:
    with open(path, encoding=encoding, errors="replace") as file:
        first = file.read(1 << 16).lstrip()[:1]
    if first != "{":
        return _read_rows(_json_rows(path, encoding), "json", encoding)
    columns = _whole_columns(path, encoding)
    profiles = [Profile(name) for name in columns]
    for profile in profiles:
        values = columns[profile.name]
        for start in range(0, len(values), BATCH):
            take_values(profile, values[start : start + BATCH])
    rows = len(next(iter(columns.values()), []))
    return Contents(format="json", rows=rows, columns=[profile.column() for profile in profiles], encoding=encoding)


def _whole_columns(path: str, encoding: str) -> dict[str, list[Any]]:
    if os.path.getsize(path) > WHOLE_MAX:
        raise RejectedError(
            f"an object of arrays of more than {WHOLE_MAX >> 20} MB", key="file", hint="write it as NDJSON or Parquet instead"
        )
    try:
        with open(path, encoding=encoding) as file:
            found = json.load(file)
    except json.JSONDecodeError as problem:
        raise _wrong(problem.msg, f"line {problem.lineno}, column {problem.colno}") from None
    except UnicodeDecodeError:
        raise _place_of_bad_text(path, encoding) or _wrong("no text", "byte 0") from None
    except RecursionError:
        raise _wrong("nested too deeply", "somewhere") from None
    bad = next((name for name, values in found.items() if not isinstance(values, list)), None)
    if bad is not None:
        raise _wrong(f"{bad[:60]!r} is no array", "the object", "allowed: an array of objects, or an object of arrays")
    lengths = {name: len(values) for name, values in found.items()}
    if len(set(lengths.values())) > 1:
        short, long = min(lengths, key=lambda n: lengths[n]), max(lengths, key=lambda n: lengths[n])
        raise _wrong(f"{short[:60]!r} has {lengths[short]} values, {long[:60]!r} has {lengths[long]}", "the object")
    if not found:
        raise _wrong("no column", "the object")
    if len(found) > COLUMNS_MAX:
        raise _wrong(f"{len(found)} columns", "the object", f"at most {COLUMNS_MAX}")
    return dict(found)


def _json_rows(path: str, encoding: str) -> Iterator[tuple[Row, str]]:
    """Rows of an array of objects, or of an object of arrays, each with its place in words."""
    with open(path, encoding=encoding, errors="replace") as file:
        first = file.read(1 << 16).lstrip()[:1]
    if first == "{":
        columns = _whole_columns(path, encoding)
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True)), "the object"
        return
    with open(path, encoding=encoding) as file:
        try:
            yield from _Elements(file)
        except UnicodeDecodeError:
            raise _place_of_bad_text(path, encoding) or _wrong("no text", "byte 0") from None


class _Elements:
    """The elements of a JSON array, decoded one by one from a buffer that never holds more than one of them and a block."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._text = ""
        self._at = 0
        self._line, self._column = 1, 1
        self._ended = False
        self._decode = json.JSONDecoder().raw_decode

    def __iter__(self) -> Iterator[tuple[Row, str]]:
        if self._next_mark() != "[":
            raise _wrong("neither an array nor an object", self._place(), "allowed: an array of objects, or an object of arrays")
        self._at += 1
        mark = self._next_mark()
        while mark != "]":
            where = self._place()
            yield self._element(), where
            mark = self._next_mark()
            if mark == ",":
                self._at += 1
                if self._next_mark() == "]":
                    raise _wrong("a comma before the end of the array", self._place())
            elif mark != "]":
                raise _wrong("the array does not end" if not mark else f"{mark!r} instead of a comma", self._place())
        self._at += 1
        mark = self._next_mark()
        if mark:
            raise _wrong(f"{mark!r} behind the end of the array", self._place())

    def _element(self) -> Any:
        size = BLOCK
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as problem:
                if self._ended or len(self._text) - self._at > ELEMENT_MAX:
                    self._forget(problem.pos)
                    raise _wrong(problem.msg, self._place()) from None
            except RecursionError:
                raise _wrong("nested too deeply", self._place()) from None
            else:
                if end < len(self._text) or self._ended:  # a number at the end of the buffer may go on
                    self._at = end
                    return value
            self._more(size)
            size *= 2

    def _next_mark(self) -> str:
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n\ufeff":
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._more(BLOCK)

    def _more(self, size: int) -> None:
        self._forget(self._at)
        block = self._file.read(size)
        self._ended = not block
        self._text += block

    def _forget(self, end: int) -> None:
        self._line, self._column = _after(self._text[:end], self._line, self._column)
        self._text, self._at = self._text[end:], 0

    def _place(self) -> str:
        line, column = _after(self._text[: self._at], self._line, self._column)
        return f"line {line}, column {column}"


def _lines(path: str, encoding: str) -> Iterator[tuple[Row, str]]:
    """Rows of newline-delimited JSON."""
    with open(path, encoding=encoding, newline="\n") as file:
        n = 0
        try:
            while line := file.readline(ELEMENT_MAX):
                n += 1
                if len(line) >= ELEMENT_MAX:
                    raise _wrong(f"longer than {ELEMENT_MAX >> 20} MB", f"line {n}")
                text = line.strip()
                if text:
                    yield _decoded(text, n), f"line {n}"
        except UnicodeDecodeError:
            raise _place_of_bad_text(path, encoding) or _wrong("no text", "byte 0") from None


def _decoded(text: str, n: int) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        pass
    try:  # slower, but it knows NaN, and says where it is wrong
        return json.loads(text)
    except json.JSONDecodeError as problem:
        raise _wrong(problem.msg, f"line {n}, column {problem.colno}") from None
    except RecursionError:
        raise _wrong("nested too deeply", f"line {n}") from None


def _read_lines(path: str, encoding: str) -> Contents:
    return _read_rows(_lines(path, encoding), "ndjson", encoding)


def _read_rows(rows: Iterable[tuple[Any, str]], chosen: str, encoding: str) -> Contents:
    profiles: dict[str, Profile] = {}
    count = 0
    source = iter(rows)
    while batch := list(islice(source, BATCH)):
        for row, where in batch:
            if not isinstance(row, dict):
                raise _wrong(f"a row is an object, not {kind_word(row)}", where)
            for name in row:
                if name not in profiles:
                    if len(profiles) == COLUMNS_MAX:
                        raise _wrong(f"more than {COLUMNS_MAX} columns", where)
                    profiles[name] = Profile(name)
                    profiles[name].pad(count)
        for name, profile in profiles.items():
            take_values(profile, [row.get(name) for row, _ in batch])
        count += len(batch)
    if not profiles:
        raise _wrong("no row with a column", "the end of the file")
    columns = [profile.column() for profile in profiles.values()]
    return Contents(format=chosen, rows=count, columns=columns, encoding=encoding)


# -- Parquet -----------------------------------------------------------------------------------------------------------


def _read_parquet(path: str) -> Contents:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            if len(names) > COLUMNS_MAX:
                raise _wrong(f"{len(names)} columns", "the schema", f"at most {COLUMNS_MAX}")
            if len(set(names)) < len(names):
                raise _wrong("two columns have one name", "the schema")
            profiles = [Profile(name) for name in names]
            for batch in file.iter_batches(batch_size=BATCH):
                for profile, column in zip(profiles, batch.columns, strict=True):
                    take_array(profile, column)
            types = [kind_of_type(column.type) for column in file.schema_arrow]
            rows = file.metadata.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as problem:
        raise _wrong(str(problem).splitlines()[0][:200], "the Parquet file") from None
    columns = [profile.column() for profile in profiles]
    for column, kind in zip(columns, types, strict=True):
        column.type = kind  # also where all values are null
    return Contents(format="parquet", rows=rows, columns=columns)


def _parquet_rows(path: str, limit: int) -> list[Row]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        batch = next(file.iter_batches(batch_size=limit), None)
        return [] if batch is None else batch.to_pylist()
