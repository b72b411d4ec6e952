"""Texts in files: their encoding and where they are wrong, and the tables of CSV.

A file is read once, in blocks, as UTF-8; only one that is wrong is read again, by Python's slower reader, which knows the line.
"""

from __future__ import annotations

import codecs
import csv
import io
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from .columns import Budget, Column, TextProfile, typed
from .errors import RejectedError

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMNS_MAX = 10_000
NAME_MAX = 1000
"""Characters of the name of a column."""
BLOCK = 4 << 20
ELEMENT_MAX = 64 << 20
"""Bytes of one row."""
HEAD = 1 << 20
_TAIL = 1 << 16
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig", "utf-8"), (codecs.BOM_UTF32_LE, "utf-32", "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32", "utf-32-be"), (codecs.BOM_UTF16_LE, "utf-16", "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16", "utf-16-be"),
)  # fmt: skip
"""First bytes, the encoding that they mean, and the encoding to which they are no text, but a mark."""
_NO_FILES = {"idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape"}
"""Encodings of Python that files of text do not have."""
_END = "end"


def wrong(what: str, where: str, hint: str = "") -> RejectedError:
    """The refusal of a file that is wrong at a place."""
    return RejectedError(f"{where}: {what}", key="file", hint=hint or "nothing of the file was kept")


def check_name(name: str, where: str) -> None:
    """Refuse the name of a column that is too long to be kept in an event."""
    if len(name) > NAME_MAX:
        raise wrong(f"the name {name[:60]!r}… has {len(name)} characters", where, f"at most {NAME_MAX}")


# -- text --------------------------------------------------------------------------------------------------------------


def encoding_of(path: str, given: str | None) -> str:
    """The encoding of a text file: as given, by its first bytes, else UTF-8, which is checked when it is read.

    Raises:
        RejectedError: the one that is given is not known.
    """
    with open(path, "rb") as file:
        head = file.read(4)
    if given is None:
        return next((encoding for bom, encoding, _ in _BOMS if head.startswith(bom)), "utf-8")
    try:
        found = codecs.lookup(given)
        if found._is_text_encoding and found.name.replace("_", "-") not in _NO_FILES:  # bytes-to-bytes codecs are none
            return next((encoding for bom, encoding, plain in _BOMS if head.startswith(bom) and found.name == plain), given)
    except (LookupError, ValueError):
        pass
    raise RejectedError(f"encoding {given[:40]!r} is not known", key="encoding", hint="such as utf-8, latin-1 or cp1252")


def place_of_bad_text(path: str, encoding: str, *, nul: bool = False) -> RejectedError | None:
    """The first byte of a file that is no text in this encoding, or, where that is asked, a NUL."""
    for text, line, column, problem in _decoded_blocks(path, encoding):
        if nul and "\0" in text:
            return wrong("a NUL character; this is no text", f"line {line + text.count(chr(10), 0, text.index(chr(0)))}")
        if problem is not None:
            byte = problem.object[problem.start : problem.start + 1].hex() if isinstance(problem, UnicodeDecodeError) else ""
            what = f"byte 0x{byte} is no {encoding}" if byte else f"this is no {encoding}"
            where = "line {}, character {}".format(*after(text, line, column))
            return wrong(what, where, "say the file's encoding, such as encoding=latin-1 or cp1252")
    return None


def _decoded_blocks(path: str, encoding: str) -> Iterator[tuple[str, int, int, UnicodeError | None]]:
    """(text, line and column where it begins, what is wrong behind it), up to the first that is wrong."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line, column = 1, 1
    with open(path, "rb") as file:
        while True:
            chunk = file.read(HEAD)
            state = decoder.getstate()
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeError as problem:
                good = max(problem.start - len(state[0]), 0) if isinstance(problem, UnicodeDecodeError) else 0
                decoder.setstate(state)
                yield decoder.decode(chunk[:good]), line, column, problem
                return
            yield text, line, column, None
            line, column = after(text, line, column)
            if not chunk:
                return


def after(text: str, line: int, column: int) -> tuple[int, int]:
    """Line and column behind a text that begins at this line and column."""
    ends = text.count("\n")
    return (line + ends, len(text) - text.rfind("\n")) if ends else (line, column + len(text))


class _Utf8(io.RawIOBase):
    """The bytes of a text file as UTF-8 without a mark, whatever its encoding; `tail` are the last ones so far.

    Bytes that are no UTF-8 are passed on in a file of that encoding, where Arrow finds them.

    Raises:
        UnicodeError: the file is of another encoding, and not text in that.
        csv.Error: there is a NUL.
    """

    def __init__(self, path: str, encoding: str) -> None:
        self._file = open(path, "rb")  # noqa: SIM115  (close closes it)
        if encoding == "utf-8-sig":
            self._file.read(len(codecs.BOM_UTF8))
        is_utf8 = encoding == "utf-8-sig" or codecs.lookup(encoding).name == "utf-8"
        self._decoder = None if is_utf8 else codecs.getincrementaldecoder(encoding)()
        self._ready = b""
        self.tail = b"\n"

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            chunk = self._file.read(HEAD)
            self._ready = chunk if self._decoder is None else self._decoder.decode(chunk, final=not chunk).encode()
            if b"\0" in self._ready:
                raise csv.Error("NUL")
            if not chunk:
                break
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        self.tail = (self.tail + bytes(buffer[max(size - _TAIL, 0) : size]))[-_TAIL:]
        return size


# -- CSV ---------------------------------------------------------------------------------------------------------------


class Table(NamedTuple):
    """What a CSV file holds; `notes` say what was done to names of columns."""

    rows: int
    columns: list[Column]
    delimiter: str
    notes: list[str]


def read_csv(path: str, name: str, encoding: str) -> Table:
    """Read a CSV file from its first to its last byte.

    Raises:
        RejectedError: it is wrong somewhere; says line and column.
    """
    import pyarrow as pa

    delimiter = ","
    header: list[str] = []
    try:
        delimiter, header = _header(path, name, encoding)
        names, notes = _names(header)
        budget = Budget()
        profiles = [TextProfile(column, budget) for column in names]
        rows = 0
        for batch in _batches(path, len(header), encoding, delimiter):
            rows += batch.num_rows
            for profile, column in zip(profiles, batch.columns, strict=True):
                profile.take_text(column)
    except (pa.ArrowInvalid, UnicodeError, csv.Error) as problem:
        raise _place(path, encoding, delimiter, len(header), problem) from None
    return Table(rows, [profile.column(rows) for profile in profiles], delimiter, notes)


def _header(path: str, name: str, encoding: str) -> tuple[str, list[str]]:
    """(delimiter, values of the first line that is not blank)."""
    with _opened(path, encoding) as file:
        head = file.read(HEAD)
    if not head.strip():
        raise wrong("only blank lines", "line 1")
    delimiter = "\t" if name.lower().endswith(".tsv") else _delimiter(head)
    with _opened(path, encoding) as file, _long_fields():
        first = next(row for row in csv.reader(file, delimiter=delimiter) if row)
    if len(first) > COLUMNS_MAX:
        raise wrong(f"{len(first)} columns", "line 1", f"at most {COLUMNS_MAX}")
    return delimiter, first


def _opened(path: str, encoding: str) -> io.TextIOWrapper:
    """A text file whose lines end where those of CSV do."""
    return io.TextIOWrapper(io.BufferedReader(_Utf8(path, encoding), HEAD), "utf-8", errors="surrogateescape", newline="")


@contextmanager
def _long_fields() -> Iterator[None]:
    """The csv module takes values of up to `ELEMENT_MAX`."""
    before = csv.field_size_limit(ELEMENT_MAX)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _delimiter(head: str) -> str:
    """The delimiter that the first line that is not blank has most of, outside of quotes."""
    counts = dict.fromkeys((",", ";", "\t", "|"), 0)
    quoted = False
    for character in head.lstrip("\r\n"):
        if character == '"':
            quoted = not quoted
        elif not quoted and character in "\r\n":
            break
        elif not quoted and character in counts:
            counts[character] += 1
    return max(counts, key=lambda one: counts[one])


def _names(header: list[str]) -> tuple[list[str], list[str]]:
    """(names of columns, what was done to names): each is the only one of its name, and the first that has it keeps it."""
    wishes = [column.encode("utf-8", "replace").decode().strip() for column in header]
    taken, used = set(wishes), dict[str, None]()
    numbers: dict[str, int] = {}
    notes: list[str] = []
    for i, (wish, column) in enumerate(zip(wishes, header, strict=True), 1):
        check_name(wish, "line 1")
        chosen = base = wish or f"column_{i}"
        while chosen in used or (chosen in taken and chosen != wish):
            numbers[base] = numbers.get(base, 1) + 1
            chosen = f"{base}_{numbers[base]}"
        if chosen != column:
            notes.append(f"column {i} {column[:60]!r} is called {chosen[:60]!r}")
        used[chosen] = None
    return list(used), notes[:20]


def _batches(path: str, columns: int, encoding: str, delimiter: str) -> Iterator[Any]:
    """The rows behind the header, all values as text; a row longer than a block is read again in larger ones."""
    import pyarrow as pa

    done = 1
    for size in (BLOCK, 4 * BLOCK, ELEMENT_MAX):
        skip = done
        try:
            for batch in _blocks(path, columns, encoding, delimiter, size):
                found = batch.slice(min(skip, batch.num_rows))
                skip -= batch.num_rows - found.num_rows
                if found.num_rows:
                    done += found.num_rows
                    yield found
        except pa.ArrowInvalid as problem:
            if "block" not in str(problem) or size == ELEMENT_MAX:
                raise
        else:
            return


def _blocks(path: str, columns: int, encoding: str, delimiter: str, size: int) -> Iterator[Any]:
    """The rows of a file in blocks of so many bytes.

    Raises:
        csv.Error: a value is longer than `ELEMENT_MAX`, or the last one is all the rest, behind a quote that does not end.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv as reader

    names = [f"f{i}" for i in range(columns)]
    with _Utf8(path, encoding) as raw, io.BufferedReader(raw, HEAD) as file:
        last: Any = None
        for batch in reader.open_csv(
            pa.PythonFile(file, mode="r"),
            read_options=reader.ReadOptions(block_size=size, column_names=names, use_threads=False),
            parse_options=reader.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=reader.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
        ):
            if size == ELEMENT_MAX and any((pc.max(pc.binary_length(one)).as_py() or 0) > size for one in batch.columns):
                raise csv.Error("a row that is too long")  # _place says where
            last = batch if batch.num_rows else last
            yield batch
        if last is not None and _is_open(last.columns[-1][-1].as_py(), raw.tail, delimiter):
            raise csv.Error("a quote that does not end")


def _is_open(value: str, tail: bytes, delimiter: str) -> bool:
    """Whether the last value of a file, which ends in `tail`, stands behind a quote that does not end."""
    rest = value.replace('"', '""').encode()
    return rest.endswith(tail) or any(tail.endswith(mark.encode() + b'"' + rest) for mark in (delimiter, "\n", "\r"))


def preview_csv(path: str, columns: list[tuple[str, str]], encoding: str, delimiter: str, limit: int) -> list[dict[str, Any]]:
    """The first rows of a file that was examined, by its columns' names and types."""
    rows: list[dict[str, Any]] = []
    names = [name for name, _ in columns]
    for batch in _batches(path, len(columns), encoding, delimiter):
        some = batch.slice(0, limit - len(rows))
        values = [typed(kind, texts) for (_, kind), texts in zip(columns, some.columns, strict=True)]
        rows += [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
        if len(rows) >= limit:
            break
    return rows


# -- where CSV is wrong ------------------------------------------------------------------------------------------------


def _place(path: str, encoding: str, delimiter: str, columns: int, problem: Exception) -> RejectedError:
    """Say where a CSV file is wrong: the first NUL or byte that is no text, else the first row that is wrong."""
    found = place_of_bad_text(path, encoding, nul=True)
    if found is not None:
        return found
    ended: list[bool] = []
    with _opened(path, encoding) as file, _long_fields():
        reader = csv.reader(chain(file, _end(ended)), delimiter=delimiter)
        before = 0
        try:
            for row in reader:
                if ended and reader.line_num > before + 1:  # the row goes on behind the end
                    return _open_quote(row[-1].removesuffix(_END), reader.line_num)
                if row and not ended and len(row) != columns:
                    return _ragged(len(row), columns, before, reader.line_num)
                before = reader.line_num
        except csv.Error as error:
            return wrong(str(error), f"line {before + 1}")
    return wrong(str(problem)[:200], f"a line after {before}")


def _end(ended: list[bool]) -> Iterator[str]:
    """A last line, of a row of its own unless a quote is open."""
    ended.append(True)
    yield _END


def _open_quote(value: str, end: int) -> RejectedError:
    """The last value of a file, which is open; `end` is the line behind the file."""
    line = end - max(value.count("\n"), value.count("\r")) - (not value.endswith(("\n", "\r")))
    return wrong("a quote that does not end", f"line {line}", 'a quote inside of a quoted value is written twice, as ""')


def _ragged(values: int, columns: int, before: int, end: int) -> RejectedError:
    """A row of the lines behind `before` up to `end` that has too many or too few values."""
    lines = f"line {end}" if end == before + 1 else f"lines {before + 1} to {end}"
    return wrong(
        f"{values} values, the header has {columns}", f"{lines}, column {min(values, columns) + 1}",
        "a value with a delimiter in it stands in double quotes",
    )  # fmt: skip
