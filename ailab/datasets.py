"""What a file of data holds: its format, its columns and rows, or where exactly it is wrong.

CSV, JSON (an array of objects, or an object of arrays), newline-delimited JSON and Parquet are read in blocks, so a file of a
gigabyte needs no gigabyte of memory. Nothing here writes, knows a store or trusts a file: whoever is given files by strangers
runs `examine` in a process that may be killed.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from itertools import islice
from typing import IO, TYPE_CHECKING, Any

import msgspec

from .columns import Budget, Column, Profile, array_profile, kind_of_type, kind_word, shown, take_array, take_values, unpacked
from .errors import RejectedError
from .tabular import (
    BLOCK,
    COLUMNS_MAX,
    ELEMENT_MAX,
    after,
    check_name,
    encoding_of,
    place_of_bad_text,
    preview_csv,
    read_csv,
    wrong,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyarrow.parquet import ParquetFile

FORMATS = ("csv", "json", "ndjson", "parquet")
CELL_MAX = 10_000
"""Characters of a value that are shown in a preview."""
BATCH = 4096
BATCH_BYTES = 32 << 20
"""About what a batch of Parquet takes in memory."""
_ENDINGS = {
    "csv": "csv", "tsv": "csv", "txt": "csv", "json": "json", "ndjson": "ndjson", "jsonl": "ndjson", "parquet": "parquet",
    "pq": "parquet",
}  # fmt: skip
_ALLOWED = "allowed: an array of objects, or an object of arrays"
_NO_SCALAR = re.compile(r"[\[\]{}]")
_SCALARS = 1 << 16
"""Characters of numbers and texts that are decoded at once."""
_ALONE = 256
"""Elements that are decoded one by one where some could not be decoded at once."""
_SURROGATES = ("\\ud", "\\uD")
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


def format_of(name: str, path: str, encoding: str | None = None) -> str:
    """The format of a file, by the ending of its name, else by its first bytes.

    Raises:
        RejectedError: neither tells one.
    """
    with open(path, "rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    found = _ENDINGS.get(os.path.splitext(name)[1].lstrip(".").lower())
    if found == "parquet" and not is_parquet:
        raise wrong("it does not begin as Parquet does", "byte 0")
    if found is None and is_parquet:
        return "parquet"
    if found in {None, "json"}:
        found = _json_form(path, encoding_of(path, encoding)) or found
    if found is None:
        raise RejectedError(
            f"the format of {name[:100]!r} is not known", key="file", hint=f"allowed: {', '.join(FORMATS)}, by ending or format="
        )
    return found


def _json_form(path: str, encoding: str) -> str | None:
    """json, or ndjson where the first line that is not blank is an object, of less than a block, and more follows; else None."""
    try:
        with open(path, encoding=encoding, errors="replace", newline="\n") as file:
            line = next((line for line in iter(lambda: file.readline(2 * BLOCK), "") if line.strip()), "").strip()
            more = bool(file.read(1 << 16).strip())
    except UnicodeError:
        return None
    if line[:1] not in {"[", "{"}:
        return None
    try:
        return "ndjson" if line[0] == "{" and more and len(line) < BLOCK and isinstance(_decoded(line, 1), dict) else "json"
    except RejectedError:
        return "json"


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
    chosen = format or format_of(name, path, encoding)
    if chosen == "parquet":
        return _read_parquet(path)
    known = encoding_of(path, encoding)
    if chosen == "csv":
        rows, columns, delimiter, notes = read_csv(path, name, known)
        return Contents(format="csv", rows=rows, columns=columns, encoding=known, delimiter=delimiter, notes=notes)
    try:
        rows, columns = (_read_lines if chosen == "ndjson" else _read_json)(path, known)
    except UnicodeError as problem:
        raise place_of_bad_text(path, known) or wrong(str(problem)[:200], "byte 0") from None
    return Contents(format=chosen, rows=rows, columns=columns, encoding=known)


def preview(path: str, format: str, schema: dict[str, Any], limit: int) -> list[dict[str, Any]]:  # noqa: A002
    """The first rows of a file that was examined, as objects by column; long values are cut, NaN and infinities are texts."""
    columns = [(column["name"], column["type"]) for column in schema.get("columns", [])]
    encoding = schema.get("encoding") or "utf-8"
    read: dict[str, Callable[[], list[Row]]] = {
        "csv": lambda: preview_csv(path, columns, encoding, schema.get("delimiter") or ",", limit),
        "json": lambda: _preview_json(path, encoding, limit),
        "ndjson": lambda: list(islice(_Lines(path, encoding), limit)),
        "parquet": lambda: _preview_parquet(path, limit),
    }
    return [{name: shown(row.get(name), CELL_MAX) for name, _ in columns} for row in read[format]()]


# -- JSON --------------------------------------------------------------------------------------------------------------


def _read_json(path: str, encoding: str) -> tuple[int, list[Column]]:
    with open(path, encoding=encoding) as file:
        scanner = _Scanner(file)
        return _read_columns(scanner) if scanner.mark() == "{" else _read_rows(scanner)


def _read_lines(path: str, encoding: str) -> tuple[int, list[Column]]:
    return _read_rows(_Lines(path, encoding))


def _preview_json(path: str, encoding: str, limit: int) -> list[Row]:
    with open(path, encoding=encoding) as file:
        scanner = _Scanner(file)
        if scanner.mark() != "{":
            return list(islice(scanner, limit))
        columns: dict[str, list[Any]] = {}
        for name, values in scanner.columns():
            columns[name] = list(islice(values, limit))
            for _ in values:  # up to the next column
                continue
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _read_columns(scanner: _Scanner) -> tuple[int, list[Column]]:
    """An object of arrays, of which each is a column."""
    budget = Budget()
    profiles: dict[str, Profile] = {}
    lengths: dict[str, int] = {}
    for name, values in scanner.columns():
        _admit(profiles, [name], "the object")
        profiles[name] = Profile(name, budget)
        lengths[name] = 0
        for batch in _batches(values, scanner):
            take_values(profiles[name], batch)
            lengths[name] += len(batch)
    if not profiles:
        raise wrong("no column", "the object")
    short, long = min(lengths, key=lambda n: lengths[n]), max(lengths, key=lambda n: lengths[n])
    if lengths[short] != lengths[long]:
        raise wrong(f"{short[:60]!r} has {lengths[short]} values, {long[:60]!r} has {lengths[long]}", "the object")
    return lengths[long], [profile.column(lengths[long]) for profile in profiles.values()]


def _read_rows(source: _Scanner | _Lines) -> tuple[int, list[Column]]:
    """Objects, whose keys are columns; a key that is missing is a null."""
    budget = Budget()
    profiles: dict[str, Profile] = {}
    rows = 0
    for batch in _batches(_checked(source, profiles, budget), source):
        cells: dict[str, list[Any]] = defaultdict(list)
        for row in batch:
            for name, value in row.items():
                cells[name].append(value)
        for name, values in cells.items():
            take_values(profiles[name], values)
        rows += len(batch)
    if not profiles:
        raise wrong("no row with a column", "the end of the file")
    return rows, [profile.column(rows) for profile in profiles.values()]


def _checked(source: _Scanner | _Lines, profiles: dict[str, Profile], budget: Budget) -> Iterator[Row]:
    """Rows that are objects; each of their keys has a profile."""
    for row in source:
        if not isinstance(row, dict):
            raise wrong(f"a row is an object, not {kind_word(row)}", source.where())
        if not row.keys() <= profiles.keys():
            new = [name for name in row if name not in profiles]
            _admit(profiles, new, source.where())
            profiles.update((name, Profile(name, budget)) for name in new)
        yield row


def _admit(profiles: dict[str, Profile], names: list[str], where: str) -> None:
    """Refuse more columns than are allowed, and names that are too long."""
    if len(profiles) + len(names) > COLUMNS_MAX:
        raise wrong(f"more than {COLUMNS_MAX} columns", where)
    for name in names:
        check_name(name, where)


def _batches(values: Iterable[Any], source: _Scanner | _Lines) -> Iterator[list[Any]]:
    """Values of a source, up to `BATCH` and about up to a block of text."""
    batch: list[Any] = []
    size = 0
    for value in values:
        batch.append(value)
        size += source.size
        if len(batch) == BATCH or size >= BLOCK:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Scanner:
    """The elements of JSON arrays, decoded one by one from a buffer that never holds more than one of them and a block.

    `size` is the length of the last one in characters.
    """

    def __init__(self, file: IO[str]) -> None:
        self.size = 0
        self._file = file
        self._text = ""
        self._at = self._start = 0
        self._line, self._column = 1, 1
        self._ended = False
        self._alone = 0
        self._decode = json.JSONDecoder().raw_decode

    def __iter__(self) -> Iterator[Any]:
        """The elements of the array that is the file."""
        if self.mark() != "[":
            raise wrong("neither an array nor an object", self._place(self._at), _ALLOWED)
        yield from self._elements()
        self._finish("array")

    def columns(self) -> Iterator[tuple[str, Iterator[Any]]]:
        """The keys of the object that is the file, each with the elements of its array, which have to be read to the end."""
        self._at += 1
        names: set[str] = set()
        more = self.mark() != "}"
        while more:
            name = self._element() if self.mark() == '"' else None
            if name is None or name in names:
                raise wrong("Expecting another name in double quotes", self._place(self._at))
            names.add(name)
            if self.mark() != ":":
                raise wrong("Expecting ':' delimiter", self._place(self._at))
            self._at += 1
            if self.mark() != "[":
                self._element()
                raise wrong(f"{name[:60]!r} is no array", "the object", _ALLOWED)
            yield name, self._elements()
            more = self._goes_on("}", "object")
        self._at += 1
        self._finish("object")

    def _elements(self) -> Iterator[Any]:
        self._at += 1
        more = self.mark() != "]"
        while more:
            if scalars := self._scalars():
                yield from scalars
                self.mark()
            yield self._element()
            more = self._goes_on("]", "array")
        self._at += 1

    def _goes_on(self, end: str, what: str) -> bool:
        """Go behind the comma after an element; False where the end comes instead."""
        mark = self.mark()
        if mark == end:
            return False
        if mark != ",":
            raise wrong(f"{mark!r} instead of a comma" if mark else f"the {what} does not end", self._place(self._at))
        self._at += 1
        if self.mark() == end:
            raise wrong(f"a comma before the end of the {what}", self._place(self._at))
        return True

    def _scalars(self) -> list[Any]:
        """Numbers, words and texts that stand in a row here, and are followed by a comma and another element."""
        if self._alone > 0:
            self._alone -= 1
            return []
        found = _NO_SCALAR.search(self._text, self._at, self._at + _SCALARS)
        stop = found.start() if found else self._at + _SCALARS
        end = self._text.rfind('",', self._at, stop) + 1 or self._text.rfind(",", self._at, stop)
        if end <= self._at:
            return []
        text = self._text[self._at : end]
        try:
            values = [] if any(half in text for half in _SURROGATES) else json.loads(f"[{text}]")
        except ValueError:  # a comma in a text, or something wrong, of which _element says where
            values = []
        if not values:
            self._alone = _ALONE
            return []
        self.size = len(text) // len(values)
        self._start, self._at = self._at, end + 1
        return list(values)

    def _element(self) -> Any:
        size = BLOCK
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as problem:
                if self._ended or len(self._text) - self._at > ELEMENT_MAX:
                    raise wrong(problem.msg, self._place(problem.pos)) from None
            except (ValueError, RecursionError) as problem:
                raise wrong(_too_much(problem), self._place(self._at)) from None
            else:
                if end < len(self._text) or self._ended:  # a number at the end of the buffer may go on
                    break
            self._more(size)
            size *= 2
        if any(self._text.find(half, self._at, end) >= 0 for half in _SURROGATES):
            _check_pairs(value, self._place(self._at))
        self.size = end - self._at
        self._start, self._at = self._at, end
        return value

    def mark(self) -> str:
        """The next character that is no space, which is not passed; empty at the end of the file."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in " \t\r\n\ufeff":
                    return self._text[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._more(BLOCK)

    def where(self) -> str:
        """Where the last element begins."""
        return self._place(self._start)

    def _finish(self, what: str) -> None:
        mark = self.mark()
        if mark:
            raise wrong(f"{mark!r} behind the end of the {what}", self._place(self._at))

    def _more(self, size: int) -> None:
        self._line, self._column = after(self._text[: self._at], self._line, self._column)
        block = self._file.read(size)
        self._ended = not block
        self._text, self._at = self._text[self._at :] + block, 0

    def _place(self, at: int) -> str:
        line, column = after(self._text[:at], self._line, self._column)
        return f"line {line}, column {column}"


class _Lines:
    """Rows of newline-delimited JSON; `size` is the length of the last one in characters."""

    def __init__(self, path: str, encoding: str) -> None:
        self.size = 0
        self._path, self._encoding = path, encoding
        self._line = 0

    def __iter__(self) -> Iterator[Any]:
        with open(self._path, encoding=self._encoding, newline="\n") as file:
            while line := file.readline(ELEMENT_MAX):
                self._line += 1
                self.size = len(line)
                if self.size >= ELEMENT_MAX:
                    raise wrong(f"longer than {ELEMENT_MAX >> 20} MB", self.where())
                if text := line.strip():
                    yield _decoded(text, self._line)

    def where(self) -> str:
        """Where the last row stands."""
        return f"line {self._line}"


def _decoded(text: str, line: int) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        pass
    try:  # slower, but it knows NaN, and says where it is wrong
        value = json.loads(text)
    except json.JSONDecodeError as problem:
        raise wrong(problem.msg, f"line {line}, column {problem.colno}") from None
    except (ValueError, RecursionError) as problem:
        raise wrong(_too_much(problem), f"line {line}") from None
    _check_pairs(value, f"line {line}")
    return value


def _too_much(problem: Exception) -> str:
    """What is wrong with JSON that Python's limits do not let through."""
    return "nested too deeply" if isinstance(problem, RecursionError) else "a number of too many digits"


def _check_pairs(value: Any, where: str) -> None:
    """Refuse half of a surrogate pair, which no event and no answer can hold."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise wrong("half of a surrogate pair, which is no character", where) from None
    except RecursionError as problem:
        raise wrong(_too_much(problem), where) from None


# -- Parquet -----------------------------------------------------------------------------------------------------------


def _read_parquet(path: str) -> Contents:
    import pyarrow as pa

    try:
        with _parquet(path) as file:
            fields = list(file.schema_arrow)
            _check_names([field.name for field in fields])
            budget = Budget()
            profiles = [array_profile(field.name, field.type, budget) for field in fields]
            rows = 0
            for batch in file.iter_batches(batch_size=_batch_of(file.metadata)):
                rows += batch.num_rows
                for profile, column in zip(profiles, batch.columns, strict=True):
                    take_array(profile, column)
            said = file.metadata.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as problem:
        raise wrong(str(problem).splitlines()[0][:200], "the Parquet file") from None
    if rows != said:
        raise wrong(f"its footer says {said} rows, its pages hold {rows}", "the Parquet file")
    return Contents(format="parquet", rows=rows, columns=[profile.column(rows) for profile in profiles])


def _parquet(path: str) -> ParquetFile:
    """The file; where texts are long, they come as dictionaries: one that is stored once and in each row is in memory once."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        texts = [field.name for field in file.schema_arrow if kind_of_type(field.type) == "string"]
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        long = any(_has_long_texts(file, group, texts) for group in range(file.metadata.num_row_groups)) if texts else False
    return pq.ParquetFile(path, read_dictionary=texts if long else None, page_checksum_verification=True)


def _has_long_texts(file: ParquetFile, group: int, texts: list[str]) -> bool:
    """Whether a dictionary of a row group has a text so long that a batch of it would be large."""
    import pyarrow as pa
    import pyarrow.compute as pc

    longest = BATCH_BYTES // BATCH
    if file.metadata.row_group(group).total_byte_size <= longest:
        return False
    first = next(file.iter_batches(batch_size=1, row_groups=[group], columns=texts), None)
    dictionaries = [column.dictionary for column in first.columns if pa.types.is_dictionary(column.type)] if first else []
    return any((pc.max(pc.binary_length(one)).as_py() or 0) > longest for one in dictionaries)


def _check_names(names: list[str]) -> None:
    if not names or len(names) > COLUMNS_MAX:
        raise wrong(f"{len(names)} columns" if names else "no column", "the schema", f"at least one, at most {COLUMNS_MAX}")
    if len(set(names)) < len(names):
        raise wrong("two columns have one name", "the schema")
    for name in names:
        check_name(name, "the schema")


def _batch_of(metadata: Any) -> int:
    """How many rows are read at once: `BATCH`, or fewer where rows are long."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    longest = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=1)
    return min(BATCH, max(1, BATCH_BYTES // max(longest, 1)))


def _preview_parquet(path: str, limit: int) -> list[Row]:
    rows: list[Row] = []
    with _parquet(path) as file:
        names = file.schema_arrow.names
        for batch in file.iter_batches(batch_size=min(max(limit, 1), _batch_of(file.metadata))):
            some = batch.slice(0, limit - len(rows))
            rows += [dict(zip(names, row, strict=True)) for row in zip(*map(unpacked, some.columns), strict=True)]
            if len(rows) >= limit:
                break
    return rows
