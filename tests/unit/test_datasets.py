"""What a file of data holds is told as plain Python would count it, and a file that is wrong is refused with the place."""

from __future__ import annotations

import csv
import datetime as dt
import gc
import io
import json
import re
import signal
import uuid
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ailab import columns, datasets
from ailab.columns import DISTINCT_MAX, TEXT_MAX, breaks, differences
from ailab.errors import RejectedError

UTC = dt.timezone.utc
PLACE = re.compile(
    r"(lines? \d+( to \d+)?(, (column|character) \d+)?|a line after \d+|byte \d+): "
    r"|the (schema|object|end of the file|Parquet file): |the file is empty|the format of '|format '|encoding '"
)


class File:
    """A file that is written, then examined."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, content, name="f.csv", **how):
        """What it holds."""
        self.path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return datasets.examine(str(self.path), name, **how)

    def columns(self, content, name="f.csv", **how):
        """Its columns as an event keeps them."""
        return self.read(content, name, **how).schema["columns"]

    def column(self, content, name="f.csv", **how):
        """Its only column."""
        (column,) = self.columns(content, name, **how)
        return column

    def rows(self, content, name="f.csv", limit=100, **how):
        """What a preview shows."""
        found = self.read(content, name, **how)
        return datasets.preview(str(self.path), found.format, found.schema, limit)

    def refusal(self, content, name="f.csv", **how):
        """The sentence with which it is refused."""
        with pytest.raises(RejectedError) as problem:
            self.read(content, name, **how)
        assert problem.value.hint
        assert PLACE.match(problem.value.message)
        return problem.value.message

    def survives(self, content, name, **how):
        """It is read, shown and told as JSON, or refused with a place; whether it was read."""
        try:
            found = self.read(content, name, **how)
        except RejectedError as problem:
            if not PLACE.match(problem.message):
                raise AssertionError(f"no place: {problem.message}") from problem
            return False
        except RecursionError:
            raise AssertionError("RecursionError") from None  # whose traceback takes pytest a second
        shown = datasets.preview(str(self.path), found.format, found.schema, 20)
        assert msgspec.json.decode(msgspec.json.encode(found))["rows"] == found.rows
        told = msgspec.json.decode(msgspec.json.encode(shown))
        assert len(told) == min(found.rows, 20)
        return True


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return File(tmp_path_factory.mktemp("data") / "file")


@contextmanager
def within(seconds):
    """TimeoutError where it takes longer."""

    def late(*_):
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    gc.disable()  # in whose callbacks it would be lost
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.enable()
        signal.signal(signal.SIGALRM, before)


def parquet(table, **how):
    """A table, or one column `a`, as Parquet."""
    sink = io.BytesIO()
    pq.write_table(table if isinstance(table, pa.Table) else pa.table({"a": table}), sink, **how)
    return sink.getvalue()


ROW = "1," + "x" * 100 + "\n"
"""Of two columns; 45,000 are more than a block."""


def lines(values):
    """Objects with one column `a` as NDJSON."""
    return "".join(json.dumps({"a": value}) + "\n" for value in values)


# -- against plain Python ----------------------------------------------------------------------------------------------


def as_json(value):
    """A value as JSON shows it, by the documentation."""
    if isinstance(value, float) and value - value != 0:
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, dt.datetime) else value


def expected(name, kind, values):
    """A column by plain Python; None is null."""
    there = [value for value in values if value is not None]
    different = list(dict.fromkeys(map(as_json, there)))
    ordered = [value for value in there if value == value and kind != "boolean"]  # noqa: PLR0124  (not NaN)
    return {
        "name": name, "type": kind, "nullable": len(there) < len(values) or kind == "null", "nulls": len(values) - len(there),
        "distinct": len(different), "distinct_exact": True, "min": as_json(min(ordered, default=None)),
        "max": as_json(max(ordered, default=None)), "examples": different[:3],
    }  # fmt: skip


NAMES = ["a", "b c", "d,e;f", 'g"h', "i\nj", "ü|\t"]
KINDS = {
    "integer": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats().map(lambda value: value + 0.0),  # no negative zero
    "boolean": st.booleans(),
    "datetime": st.datetimes(),
    "moment": st.datetimes(timezones=st.just(UTC)),
    "string": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6),
}


@st.composite
def tables(draw, *without):
    """Columns by name: kind and values."""
    rows = draw(st.integers(1, 9))
    table = {}
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=2, max_size=4)):
        kind = draw(st.sampled_from([kind for kind in KINDS if kind not in without]))
        values = draw(st.lists(st.none() | KINDS[kind], min_size=rows, max_size=rows))
        table[name] = kind, [*values[1:], "plain text"] if kind == "string" else values
    return table


def rows_of(table):
    """Its rows as objects."""
    return [dict(zip(table, row, strict=True)) for row in zip(*(values for _, values in table.values()), strict=True)]


def compare(file, content, name, table, *, typed=False, **how):
    """What was found is what plain Python finds, and the preview shows the first rows."""
    found = file.read(content, name, **how)
    columns = []
    for column, (kind, values) in table.items():
        word = "datetime" if kind == "moment" else kind
        columns.append(expected(column, word if typed or any(value is not None for value in values) else "null", values))
    rows = rows_of(table)
    assert (found.rows, msgspec.to_builtins(found.columns)) == (len(rows), columns)
    shown = datasets.preview(str(file.path), found.format, found.schema, 5)
    assert shown == [{column: as_json(value) for column, value in row.items()} for row in rows[:5]]


@settings(deadline=None, max_examples=60)
@given(table=tables(), data=st.data())
def test_csv_holds_what_plain_python_counts(file, table, data):
    delimiter, end = data.draw(st.sampled_from(",;\t|")), data.draw(st.sampled_from(["\n", "\r\n"]))
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "gb18030"]))
    nulls = {"float": ("nan",), "string": ("",)}
    table = {
        name: (kind, [None if str(value) in nulls.get(kind, ()) else value for value in values])
        for name, (kind, values) in table.items()
    }
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(table)
    for row in rows_of(table):
        cells = [value.isoformat() if isinstance(value, dt.datetime) else value for value in row.values()]
        writer.writerow([str(cell).lower() if isinstance(cell, bool) else cell for cell in cells])
    how = {"encoding": encoding} if encoding == "gb18030" else {}
    compare(file, text.getvalue().encode(encoding), "f.csv", {name.strip(): told for name, told in table.items()}, **how)


@settings(deadline=None, max_examples=90)
@given(table=tables("moment"), form=st.sampled_from(["array", "columns", "lines"]), data=st.data())
def test_json_holds_what_plain_python_counts(file, table, form, data):
    """An array of objects, an object of arrays and lines say the same; a key that is missing is a null."""
    rows = json.loads(json.dumps(rows_of(table), default=dt.datetime.isoformat))
    if form == "columns":
        content = json.dumps({name: [row[name] for row in rows] for name in table})
    else:
        drop = data.draw(st.booleans())
        rows[1:] = [{name: value for name, value in row.items() if value is not None or not drop} for row in rows[1:]]
        texts = [json.dumps(row, ensure_ascii=drop) for row in rows]
        content = "[" + ",\n".join(texts) + "]" if form == "array" else "\n".join(texts)
    compare(file, content, "f.jsonl" if form == "lines" else "f.json", table)


@settings(deadline=None, max_examples=60)
@given(table=tables(), data=st.data())
def test_parquet_holds_what_plain_python_counts(file, table, data):
    kinds = {
        "integer": pa.int64(), "float": pa.float64(), "boolean": pa.bool_(), "datetime": pa.timestamp("us"),
        "moment": pa.timestamp("us", "UTC"), "string": pa.string(),
    }  # fmt: skip
    arrays = {name: pa.array(values, kinds[kind], from_pandas=False) for name, (kind, values) in table.items()}
    group = data.draw(st.integers(1, 9))
    if data.draw(st.booleans()):
        arrays = {name: one.dictionary_encode() if pa.types.is_string(one.type) else one for name, one in arrays.items()}
    compare(file, parquet(pa.table(arrays), row_group_size=group), "f.parquet", table, typed=True)


# -- CSV: texts become columns -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "kind", "low", "high", "nulls"),
    [
        (["-9223372036854775808", "9223372036854775807"], "integer", -(2**63), 2**63 - 1, 0),
        (["9223372036854775808", "1"], "float", 1.0, 2.0**63, 0),
        (["99999999999999999999999999", "-1"], "float", -1.0, 1e26, 0),
        (["1", "2.5"], "float", 1.0, 2.5, 0),
        (["1e3", "-2.5E-3"], "float", -0.0025, 1000.0, 0),
        (["1.5", "Infinity", "-inf"], "float", "-Infinity", "Infinity", 0),
        (["NaN", "1.5", "nan"], "float", 1.5, 1.5, 2),
        ([" 7 ", "8"], "integer", 7, 8, 0),
        (["1_000", "2"], "string", "1_000", "2", 0),
        (["1", "b"], "string", "1", "b", 0),
        (["true", "1"], "string", "1", "true", 0),
        (["yes", "no"], "string", "no", "yes", 0),
        (["1", "NA", "N/A", "NULL", "null", "None", "#N/A"], "integer", 1, 1, 6),
        (["x", "NA", '""'], "string", "NA", "x", 1),
        (["x", '" "', '""'], "string", " ", "x", 1),
        (["2024-02-29", "2023-12-31"], "datetime", "2023-12-31T00:00:00", "2024-02-29T00:00:00", 0),
        (["2024-02-29", "2023-02-29"], "string", "2023-02-29", "2024-02-29", 0),
        (["2024-01-01 10:00:00", "2024-01-01T09:00:00.25"], "datetime", "2024-01-01T09:00:00.250000", "2024-01-01T10:00:00", 0),
        (["2024-01-01T10:00:00+02:00", "2024-01-01T09:00:00Z"], "datetime", "2024-01-01T08:00:00Z", "2024-01-01T09:00:00Z", 0),
        (["2024-01-01T10:00:00Z", "2024-01-01T10:00:00"], "string", "2024-01-01T10:00:00", "2024-01-01T10:00:00Z", 0),
        (["0001-01-01", "9999-12-31"], "datetime", "0001-01-01T00:00:00", "9999-12-31T00:00:00", 0),
        (["10:00:00"], "string", "10:00:00", "10:00:00", 0),
        (['""', "NA"], "null", None, None, 2),
        pytest.param(
            ["2024-01-01T10:00:00.123456789"], "datetime", "2024-01-01T10:00:00.123456", "2024-01-01T10:00:00.123456", 0,
            id="nanoseconds",
        ),
        pytest.param(["0x10", "ff"], "string", "0x10", "ff", 0, id="hexadecimal and other"),
        pytest.param(["0x10", "0xff"], "string", "0x10", "0xff", 0, id="hexadecimal"),
        pytest.param(["+1", "2"], "integer", 1, 2, 0, id="plus"),
    ],
)  # fmt: skip
def test_a_column_of_texts_has_the_narrowest_type(file, cells, kind, low, high, nulls):  # noqa: PLR0917
    column = file.column("a\n" + "\n".join(cells) + "\n")
    assert [column[key] for key in ("type", "min", "max", "nulls", "nullable")] == [kind, low, high, nulls, nulls > 0]


@pytest.mark.parametrize(
    ("cells", "kind", "examples"),
    [
        (["1", "2", "1", "NA"], "integer", [1, 2]),
        (["NA", "1"], "integer", [1]),
        (["x", "X", "x "], "string", ["x", "X", "x "]),
        (["1.0", "1.00", "1"], "float", [1.0]),
        (["7", "007", " 7"], "integer", [7]),
        (["true", "True", "TRUE", "false"], "boolean", [True, False]),
        (["1", " NA ", "2"], "integer", [1, 2]),
        (["NA", "null", "NaN", "1", "2"], "integer", [1, 2]),
        (["2024-01-01T02:00:00+02:00", "2024-01-01T00:00:00Z"], "datetime", ["2024-01-01T00:00:00Z"]),
    ],
)  # fmt: skip
def test_different_values_are_counted_as_values(file, cells, kind, examples):
    """`distinct` counts values and `examples` are the first different ones, as the type has them."""
    column = file.column("a\n" + "\n".join(cells) + "\n")
    assert [column[key] for key in ("type", "distinct", "examples")] == [kind, len(examples), examples]


def test_ten_thousand_different_values_are_counted(file):
    """Exactly so many are exact, one more is not."""
    for name, write in (("f.csv", lambda n: "a\n" + "\n".join(map(str, n))), ("f.jsonl", lines), ("f.parquet", parquet)):
        exact, more = file.column(write(range(DISTINCT_MAX)), name), file.column(write(range(DISTINCT_MAX + 1)), name)
        assert (exact["distinct"], exact["distinct_exact"], exact["max"]) == (DISTINCT_MAX, True, DISTINCT_MAX - 1)
        assert (more["distinct"], more["distinct_exact"], more["max"]) == (DISTINCT_MAX, False, DISTINCT_MAX)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("f.csv", "a\ntrue\nfalse\n"),
        ("f.jsonl", lines([True, False])),
        ("f.parquet", parquet([True, False])),
    ],
)
def test_booleans_have_no_bounds(file, name, content):
    """`min` and `max` are those of numbers, times and strings."""
    assert file.column(content, name) == expected("a", "boolean", [True, False])


# -- CSV: the text -----------------------------------------------------------------------------------------------------


def test_quoted_values_keep_delimiters_newlines_and_quotes(file):
    content = 'a,"b,\nc"\n"1,5","x\r\ny"\n2,"say ""hi"""\n'
    rows = [{"a": "1,5", "b,\nc": "x\r\ny"}, {"a": "2", "b,\nc": 'say "hi"'}]
    assert file.rows(content) == rows
    assert file.read(content).rows == 2


@pytest.mark.parametrize(
    ("content", "how", "encoding"),
    [
        ("ä,b\n1,é\n".encode(), {}, "utf-8"),
        ("ä,b\n1,é\n".encode("utf-8-sig"), {}, "utf-8-sig"),
        (b"\xff\xfe" + "ä,b\n1,é\n".encode("utf-16-le"), {}, "utf-16"),
        (b"\xfe\xff" + "ä,b\n1,é\n".encode("utf-16-be"), {}, "utf-16"),
        ("ä,b\n1,é\n".encode("utf-16-be"), {"encoding": "utf-16-be"}, "utf-16-be"),
        ("ä,b\n1,é\n".encode("utf-32"), {"encoding": "utf-32"}, "utf-32"),
        ("ä,b\n1,é\n".encode("latin-1"), {"encoding": "latin-1"}, "latin-1"),
        ("ä,b\n1,é\n".encode("cp850"), {"encoding": "cp850"}, "cp850"),
        pytest.param("ä,b\n1,é\n".encode("utf-8-sig"), {"encoding": "utf-8"}, None, id="BOM and utf-8"),
        pytest.param("ä,b\n1,é\n".encode("utf-16"), {"encoding": "utf-16-le"}, None, id="BOM and utf-16-le"),
    ],
)  # fmt: skip
def test_encodings_by_bom_or_by_word(file, content, how, encoding):
    assert file.rows(content, **how) == [{"ä": 1, "b": "é"}]
    if encoding is not None:
        assert file.read(content, **how).schema["encoding"] == encoding
    bom = content[:3] if content[:3] == b"\xef\xbb\xbf" else content[:2] if content[:2] in {b"\xff\xfe", b"\xfe\xff"} else b""
    plain = how.get("encoding") or {b"": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}.get(bom, "utf-8")
    for form, text in (("json", '[{"a": "é"}]'), ("json", '{"a": ["é"]}'), ("ndjson", '{"a": "é"}\n')):
        data = text.encode(plain) if plain == "utf-32" else bom + text.encode(plain)
        assert file.rows(data, format=form, **how) == [{"a": "é"}]


@pytest.mark.parametrize(
    ("content", "name"),
    [("a,b\n1,x\n2,ä é\n", "f.csv"), ('[{"a":1},\n{"ä":"é"}]', "f.json"), ('{"a":1}\n{"ä":"é"}\n', "f.jsonl")],
)
def test_an_encoding_that_is_not_said_is_told_by_line_and_character(file, content, name):
    line = content.split("\n")[content[: content.index("ä")].count("\n")]
    where = f"line {content[: content.index('ä')].count(chr(10)) + 1}, character {line.index('ä') + 1}: byte 0xe4 is no utf-8"
    assert file.refusal(content.encode("latin-1"), name) == where
    assert file.read(content.encode("latin-1"), name, encoding="latin-1").rows >= 1


@pytest.mark.parametrize(
    ("content", "how", "where"),
    [
        (b'{"a":"\xe9"}\n{"a":1}\n', {}, r"line 1, character 7: byte 0xe9 is no utf-8$"),
        (b'{"a":["\xe9"]}', {"encoding": "latin-1"}, None),
        (b'{"a":["\xe9"]}', {}, r"line 1, character 8: byte 0xe9 is no utf-8$"),
    ],
)
def test_json_objects_in_another_encoding(file, content, how, where):
    """A .json file that begins with an object is looked at for its form before its encoding is known."""
    if where is None:
        assert file.rows(content, "f.json", **how) == [{"a": "é"}]
    else:
        assert re.match(where, file.refusal(content, "f.json", **how))


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("klingon", b"a\n1\n"),
        ("hex", b"a\n1\n"),
        ("rot13", b"a\n1\n"),
        ("", b"a\n1\n"),
        ("x" * 10_000, b"a\n1\n"),
        pytest.param("a\0b", b"a\n1\n", id="NUL"),
        ("idna", b"a\n1\n"),
        ("utf-16", b"a\n1\n"),
        ("utf-16-le", b"a\n1\n1"),
        pytest.param(None, "a\n1\n".encode("utf-16")[:-1], id="half UTF-16"),
        pytest.param(None, b"\xff\xfea\0\n\0\0\xd8\n\0", id="half pair"),
    ],
)
def test_encodings_that_do_not_fit_are_refused(file, encoding, content):
    assert len(file.refusal(content, encoding=encoding)) < 200


@pytest.mark.parametrize("encoding", ["ascii", "utf-16"])
def test_encodings_that_do_not_fit_json_are_refused(file, encoding):
    for name, content in (("f.json", '[{"é":1}]'), ("f.jsonl", '{"é":1}')):
        assert len(file.refusal(content, name, encoding=encoding)) < 200


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ("a,b\n1,2\n3,4,5\n", "line 3, column 3: 3 values, the header has 2"),
        ("a,b,c\n1,2,3\n4,5\n", "line 3, column 3: 2 values, the header has 3"),
        ("a,b\n1,2\n3\n", "line 3, column 2: 1 values, the header has 2"),
        ("a,b\n1,2,\n", "line 2, column 3: 3 values, the header has 2"),
        ('a,b\n"1\n\n2",2\n3,4,5\n', "line 5, column 3: 3 values, the header has 2"),
        ('a,b\r\n"1\r\n2",2\r\n3,4,5\r\n', "line 4, column 3: 3 values, the header has 2"),
        ('a,b\n1,2\n\n\n"3\n4",5,6\n', "lines 5 to 6, column 3: 3 values, the header has 2"),
        ("a,b\n" + ROW * 45_000 + '"3\n\n4",5\n6,7,8\n', "line 45005, column 3: 3 values, the header has 2"),
        ("a;b\n1;2\n3;4;5\n", "line 3, column 3: 3 values, the header has 2"),
        ("# note\na,b\n1,2\n", "line 2, column 2: 2 values, the header has 1"),
    ],
    ids=["long", "short", "one", "trailing", "newlines", "crlf", "row of lines", "behind 4 MB", "semicolons", "comment"],
)  # fmt: skip
def test_ragged_rows_are_refused_by_line_and_column(file, content, where):
    assert file.refusal(content) == where


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ("", "the file is empty"),
        ("\n\n", "line 1: only blank lines"),
        (b"\xef\xbb\xbf", "line 1: only blank lines"),
        (" \n \n", "line 1: only blank lines"),
        ("a,\0b\n1,2\n", "line 1: a NUL character; this is no text"),
        ("a,b\n1,2\n1,\x002\n", "line 3: a NUL character; this is no text"),
        (b"a,b\n1," + b"x" * (65 << 20) + b"\n", "line 2: field larger than field limit (67108864)"),
    ],
    ids=["nothing", "newlines", "BOM", "spaces", "NUL above", "NUL", "65 MB"],
)
def test_a_file_that_is_no_table_is_refused(file, content, where):
    assert file.refusal(content) == where


def test_a_nul_behind_the_first_block_is_refused(file):
    assert file.refusal("a,b\n" + ROW * 45_000 + "1,\0\n") == "line 45002: a NUL character; this is no text"


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ('a,b\n1,2\n3,"4\n5,6\n7,8\n', r"lines? 3\b"),
        ('a,"b\n1,2\n', r"lines? 1\b"),
        ('a,b\n1,2\n3,"4\n' + ROW * 45_000, r"lines? 3\b"),
    ],
    ids=["value", "header", "behind it 4 MB"],
)
def test_a_quote_that_does_not_end_is_refused(file, content, where):
    """pandas: EOF inside string; DuckDB: unterminated quote. Taken as a value it would swallow rows."""
    assert re.match(where, file.refusal(content))


def test_a_header_alone_is_a_table_of_no_rows(file):
    null = {"nullable": True, **dict.fromkeys(("nulls", "distinct"), 0), **dict.fromkeys(("min", "max"))}
    for content in ("a,b\n", "a,b", "\n\na,b\r\n\r\n"):
        found = file.read(content)
        assert (found.rows, file.rows(content)) == (0, [])
        assert found.schema["columns"] == [
            {"name": name, "type": "null", "distinct_exact": True, "examples": [], **null} for name in "ab"
        ]


@pytest.mark.parametrize(
    "content",
    [
        "a,b\n1,2\n3,4\n", "a,b\r\n1,2\r\n3,4", "a,b\r1,2\r3,4\r", "a,b\n\n1,2\n\n\r\n3,4\n\n", "\n\na,b\n1,2\n3,4\n",
        " a , b \n1, 2\n3 ,4\n",
    ],
    ids=["lf", "crlf", "cr", "blank lines", "blank lines above", "spaces"],
)  # fmt: skip
def test_line_ends_blank_lines_and_spaces_do_not_matter(file, content):
    assert file.rows(content) == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    assert file.read(content).rows == 2


@pytest.mark.parametrize(
    ("content", "name", "delimiter", "names"),
    [
        ("a,b\n1,2\n", "f.csv", ",", ["a", "b"]),
        ("a;b\n1,5;2,5\n", "f.csv", ";", ["a", "b"]),
        ("a\tb\n1,5\t2;5\n", "f.txt", "\t", ["a", "b"]),
        ("a|b\n1|2\n", "f.csv", "|", ["a", "b"]),
        ("a,b;c\td\n1,2;3\t4\n", "f.tsv", "\t", ["a,b;c", "d"]),
        ('"a,b,c";d\n1;2\n', "f.csv", ";", ["a,b,c", "d"]),
        ("text\nhello\nworld\n", "f.csv", ",", ["text"]),
        ("text\nhello; you\nworld\n", "f.csv", ",", ["text"]),
    ],
)  # fmt: skip
def test_the_delimiter_is_found_in_the_header(file, content, name, delimiter, names):
    found = file.read(content, name)
    assert (found.delimiter, [column.name for column in found.columns]) == (delimiter, names)
    assert len(file.rows(content, name)) == found.rows == content.count("\n") - 1


@pytest.mark.parametrize(
    ("header", "names", "notes"),
    [
        ("a,a,b", ["a", "a_2", "b"], ["column 2 'a' is called 'a_2'"]),
        (",b,", ["column_1", "b", "column_3"], ["column 1 '' is called 'column_1'", "column 3 '' is called 'column_3'"]),
        ("column_2,,x", ["column_2", "column_2_2", "x"], ["column 2 '' is called 'column_2_2'"]),
        ("a,a,a_2", ["a", "a_3", "a_2"], ["column 2 'a' is called 'a_3'"]),
    ],
)  # fmt: skip
def test_columns_without_a_name_of_their_own_get_one(file, header, names, notes):
    found = file.read(f"{header}\n1,2,3\n")
    assert ([column.name for column in found.columns], found.schema["notes"]) == (names, notes)
    assert file.rows(f"{header}\n1,2,3\n") == [dict(zip(names, (1, 2, 3), strict=True))]


def test_only_newlines_end_the_header(file):
    for mark in "\u2028\x85\x0c\x1c":
        assert file.rows(f"a{mark}b,c\n1,2\n") == [{f"a{mark}b": 1, "c": 2}]


def test_ten_thousand_columns_and_no_more(file):
    names = [f"c{n}" for n in range(datasets.COLUMNS_MAX + 1)]
    wide = pa.table([pa.array([1])] * len(names), names)
    said = {
        file.refusal(",".join(names) + "\n"),
        file.refusal(json.dumps([dict.fromkeys(names, 1)]), "f.json"),
        file.refusal(json.dumps({name: [1] for name in names}), "f.json"),
        file.refusal(lines([0]) + json.dumps(dict.fromkeys(names, 1)), "f.jsonl"),
        file.refusal(parquet(wide), "f.parquet"),
    }
    assert said == {
        "line 1: 10001 columns", "line 1, column 2: more than 10000 columns", "the object: more than 10000 columns",
        "line 2: more than 10000 columns", "the schema: 10001 columns",
    }  # fmt: skip
    assert len(file.columns(json.dumps(dict.fromkeys(names[:-1], 1)), "f.jsonl")) == 10_000


@pytest.mark.parametrize(
    ("size", "before"),
    [
        (5_000_000, 0),
        (9_000_000, 0),
        (9_000_000, 45_000),
    ],
)
def test_a_row_longer_than_a_block(file, size, before):
    """Up to ELEMENT_MAX, wherever it stands."""
    column = file.columns("a,b\n" + ROW * before + "2," + "y" * size + "\n3,z\n")[1]
    assert (column["type"], column["max"], column["nulls"]) == ("string", "z", 0)
    assert max(map(len, column["examples"])) == TEXT_MAX + 1


# -- types that change later -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "kind", "low", "high"),
    [
        pytest.param("zebra", "string", "0", "zebra", id="string"),
        ("0.5", "float", 0.0, 44_999.0),
        ("99999999999999999999", "float", 0.0, 1e20),
        ("NA", "integer", 0, 44_999),
        pytest.param("2024-01-01", "string", "0", "9999", id="time"),
    ],
)
def test_a_csv_column_may_change_its_type_behind_the_first_block(file, last, kind, low, high):
    filler = "x" * 100
    column = file.columns("a,b\n" + "".join(f"{n},{filler}\n" for n in range(45_000)) + f"{last},x\n")[0]
    nulls = int(last == "NA")
    assert [column[key] for key in ("type", "min", "max", "nulls", "nullable")] == [kind, low, high, nulls, nulls > 0]
    assert (column["distinct"], column["distinct_exact"]) == (DISTINCT_MAX, False)


@pytest.mark.parametrize(
    ("first", "last", "column"),
    [
        (1, 0.5, ("float", 0.5, 1, 2, 0)),
        (1, None, ("integer", 1, 1, 1, 1)),
        (None, 7, ("integer", 7, 7, 1, 4096)),
        (1, "x", ("string", None, None, 2, 0)),
        (1, 2**80, ("integer", 1, 2**80, 2, 0)),
        ("y", "x", ("string", "x", "y", 2, 0)),
        pytest.param("2024-01-01", "x", ("string", "2024-01-01", "x", 2, 0), id="time, then string"),
        pytest.param(
            "2024-01-01T00:00:00", "2024-01-01T00:00:00Z", ("string", "2024-01-01T00:00:00", "2024-01-01T00:00:00Z", 2, 0),
            id="time, then zone",
        ),
    ],
)  # fmt: skip
def test_a_json_column_may_change_its_type_behind_the_first_batch(file, first, last, column):
    rows = [first] * datasets.BATCH + [last]
    for name, content in (("f.jsonl", lines(rows)), ("f.json", json.dumps({"a": rows}))):
        found = file.column(content, name)
        assert tuple(found[key] for key in ("type", "min", "max", "distinct", "nulls")) == column


def test_a_json_key_may_come_behind_the_first_batch(file):
    content = lines(range(datasets.BATCH)) + '{"b": "late"}\n'
    late = expected("b", "string", ["late"]) | {"nulls": datasets.BATCH, "nullable": True}
    assert file.columns(content, "f.jsonl")[1] == late
    assert file.rows(content, "f.jsonl", limit=1) == [{"a": 0, "b": None}]


# -- JSON --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "name", "where"),
    [
        ('[{"a":1},\n {"a":2},\n {"a":tru},\n{"a":4}]', "f.json", "line 3, column 7: Expecting value"),
        ('[{"a":1},\r\n {"a":2},\r\n {"a":tru}]', "f.json", "line 3, column 7: Expecting value"),
        ("[\n" + ('{"a":"' + "é" * 900_000 + '"},\n') * 5 + '{"a":tru}]', "f.json", "line 7, column 6: Expecting value"),
        ('[{"a":1},]', "f.json", "line 1, column 10: a comma before the end of the array"),
        ('[{"a":1} {"a":2}]', "f.json", "line 1, column 10: '{' instead of a comma"),
        ('[{"a":1}\n', "f.json", "line 2, column 1: the array does not end"),
        ('[{"a":1}]\n x', "f.json", "line 2, column 2: 'x' behind the end of the array"),
        ('[{"a":1},\n [2]]', "f.json", "line 2, column 2: a row is an object, not an array"),
        ("3", "f.json", "line 1, column 1: neither an array nor an object"),
        ("[]", "f.json", "the end of the file: no row with a column"),
        ("[{},{}]", "f.json", "the end of the file: no row with a column"),
        ('[{"a":"x\ny"}]', "f.json", "line 1, column 9: Invalid control character at"),
        (b'[{"a":"x\0y"}]', "f.json", "line 1, column 9: Invalid control character at"),
        ('{"a":[1,\n2,\n tru]}', "f.json", "line 3, column 2: Expecting value"),
        ('{"a":[1,2],"b":["x"]}', "f.json", "the object: 'b' has 1 values, 'a' has 2"),
        ('{"a":1}', "f.json", "the object: 'a' is no array"),
        ("{}", "f.json", "the object: no column"),
        ('{"a":1}\n\n{"a":}\n', "f.jsonl", "line 3, column 6: Expecting value"),
        ('{"a":1}\r\n{"a":}\r\n', "f.jsonl", "line 2, column 6: Expecting value"),
        ('{"a":1}\n3\n', "f.jsonl", "line 2: a row is an object, not an integer"),
        ('{"a":1}\n[1]\n', "f.jsonl", "line 2: a row is an object, not an array"),
        ('{"a":1}{"a":2}\n', "f.jsonl", "line 1, column 8: Extra data"),
        ('{"a":1}\n{"a', "f.jsonl", "line 2, column 2: Unterminated string starting at"),
        (('{"a":"' + "x" * 900_000 + '"}\n') * 5 + '{"a":tru}', "f.jsonl", "line 6, column 6: Expecting value"),
        ("\n \n", "f.jsonl", "the end of the file: no row with a column"),
    ],
)  # fmt: skip
def test_json_that_is_wrong_is_refused_by_line_and_column(file, content, name, where):
    assert file.refusal(content, name) == where


def test_newlines_of_unicode_do_not_end_a_line(file):
    assert file.rows('{"a":"x\u2028y\x85z"}\n{"a":"b"}\n', "f.jsonl") == [{"a": "x\u2028y\x85z"}, {"a": "b"}]


@pytest.mark.parametrize(
    ("values", "kind", "low", "high", "examples", "distinct"),
    [
        ([2**64, -(2**70), 2**64], "integer", -(2**70), 2**64, [2**64, -(2**70)], 2),
        ([float("nan"), float("inf"), 1.5], "float", 1.5, "Infinity", ["NaN", "Infinity", 1.5], 3),
        ([1, "x"], "string", None, None, [1, "x"], 2),
        (["2024-01-02", "2024-01-01"], "datetime", "2024-01-01T00:00:00", "2024-01-02T00:00:00", ["2024-01-02", "2024-01-01"], 2),
        (["2024-01-01", "x"], "string", "2024-01-01", "x", ["2024-01-01", "x"], 2),
        ([None, None], "null", None, None, [], 0),
        ([[1, 2], None, []], "array", None, None, [[1, 2], []], None),
        ([{"x": {"y": [None]}}, {}], "object", None, None, [{"x": {"y": [None]}}, {}], None),
        pytest.param(
            ["2024-01-01T11:00:00+02:00", "2024-01-01T10:00:00Z"], "datetime", "2024-01-01T09:00:00Z", "2024-01-01T10:00:00Z",
            ["2024-01-01T11:00:00+02:00", "2024-01-01T10:00:00Z"], 2, id="zones",
        ),
        pytest.param([2, 0.5], "float", 0.5, 2, [2, 0.5], 2, id="mixed numbers"),
        pytest.param(["x", 1], "string", None, None, ["x", 1], 2, id="mixed"),
        pytest.param([1, True], "string", None, None, [1, True], 2, id="1 and true"),
        pytest.param([[1], [1]], "array", None, None, [[1]], None, id="same array"),
    ],
)  # fmt: skip
def test_json_values(file, values, kind, low, high, examples, distinct):  # noqa: PLR0917
    for name, content in (("f.jsonl", lines(values)), ("f.json", json.dumps({"a": values}))):
        column = file.column(content, name)
        assert [column[key] for key in ("type", "min", "max", "examples", "distinct")] == [kind, low, high, examples, distinct]


def test_a_column_with_some_arrays_has_no_exact_count(file):
    column = file.column(lines([1, [1], [2]]), "f.jsonl")
    assert column["distinct"] is None or column["distinct"] == 3 or not column["distinct_exact"]


@pytest.mark.parametrize("depth", [50, 100_000, 700])
def test_nested_json_is_read_or_refused(file, depth):
    """A bomb of brackets is neither a crash nor a RecursionError."""
    for name, before, behind in (("f.json", '[{"a":1},\n{"a":', "}]"), ("f.jsonl", '{"a":1}\n{"a":', "}\n")):
        for opened, closed in (("[", "]"), ('{"b":', "}")):
            read = file.survives(before + opened * depth + "1" + closed * depth + behind, name)
            assert read == (depth == 50) or depth == 700
    for content in ("[" * depth, '[{"a":' + "[" * depth):
        assert re.match(r"line 1, column \d+: ", file.refusal(content, "f.json"))


def test_a_nested_column_of_an_object_of_arrays_is_refused_with_its_place(file):
    assert file.refusal('{"a":[1,\n' + "[" * 100_000, "f.json")


def test_a_number_of_five_thousand_digits(file):
    """It is read or refused."""
    for name, form in (("f.json", '[{"a":%s}]'), ("f.json", '{"a":[%s]}'), ("f.jsonl", '{"a":%s}\n')):
        assert file.survives(form % ("9" * 5000), name) in {True, False}


def test_half_a_surrogate_pair_can_be_told(file):
    for content in (r'{"a":"\ud800"}', r'{"\udfff":1}', r'{"a":[["\ud800"]]}'):
        assert file.survives(content, "f.jsonl") in {True, False}


def test_a_pair_of_surrogates_is_one_character(file):
    assert file.rows(r'{"a":"\ud83d\ude00"}', "f.jsonl") == [{"a": "😀"}]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ('{"a":1}\n{"a":2}\n', [{"a": 1}, {"a": 2}]),
        ('{"a":[1,2]}', [{"a": 1}, {"a": 2}]),
        ('{\n"a":[1,2]}\n', [{"a": 1}, {"a": 2}]),
        ('{"a":[1,2]}\n{"a":[3]}\n', [{"a": [1, 2]}, {"a": [3]}]),
        ('\n{"a":1}\n{"a":2}\n', [{"a": 1}, {"a": 2}]),
    ],
)
def test_a_json_file_may_hold_lines(file, content, rows):
    """Many tools call NDJSON .json."""
    assert file.rows(content, "f.json") == rows


def test_a_megabyte_of_short_rows_takes_no_minute(file):
    content = "[" + ",".join(['{"a":1}'] * 131_072) + "]"
    with within(10):
        assert file.read(content, "f.json").rows == 131_072


def test_two_thousand_columns_of_one_name_take_no_minute(file):
    with within(7):
        assert file.columns(",".join(["a"] * 2000))[-1]["name"] == "a_2000"


@pytest.mark.long
def test_many_sparse_columns_take_no_minute(file):
    with within(40):
        assert len(file.columns("\n".join(f'{{"c{n % 10_000}":1}}' for n in range(40_000)), "f.jsonl")) == 10_000


# -- Parquet -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "kind", "low", "high", "examples"),
    [
        (pa.array(["y", "x", None]).dictionary_encode(), "string", "x", "y", ["y", "x"]),
        (pa.array(["y", "x"], pa.large_string()), "string", "x", "y", ["y", "x"]),
        (pa.array([4, 3]).dictionary_encode(), "integer", 3, 4, [4, 3]),
        (pa.array([2**64 - 1, 0], pa.uint64()), "integer", 0, 2**64 - 1, [2**64 - 1, 0]),
        (pa.array([1.5, float("nan"), float("inf")], pa.float32()), "float", 1.5, "Infinity", [1.5, "NaN", "Infinity"]),
        (pa.array([Decimal("1.10"), None, Decimal("2.25")]), "float", 1.1, 2.25, [1.1, 2.25]),
        (pa.array([0, 1], pa.timestamp("ns")), "datetime", "1970-01-01T00:00:00", "1970-01-01T00:00:00.000000001", None),
        (pa.array([0], pa.timestamp("s", "+05:30")), "datetime", "1970-01-01T05:30:00+05:30", "1970-01-01T05:30:00+05:30", None),
        (pa.array([1, 0], pa.date32()), "datetime", "1970-01-01", "1970-01-02", ["1970-01-02", "1970-01-01"]),
        (pa.array([0, 5], pa.time64("us")), "datetime", "00:00:00", "00:00:00.000005", ["00:00:00", "00:00:00.000005"]),
        (pa.array([[1, 2], None, []]), "array", None, None, [[1, 2], []]),
        (pa.array([[1, 2]], pa.list_(pa.int64(), 2)), "array", None, None, [[1, 2]]),
        (pa.array([{"x": 1, "y": [None]}, None]), "object", None, None, [{"x": 1, "y": [None]}]),
        (pa.array([b"\xff\0", b"x"]), "string", None, None, ["ff00", "78"]),
        (pa.array([None, None], pa.int64()), "integer", None, None, []),
        (pa.array([None, None], pa.null()), "null", None, None, []),
        (pa.array([1.5, 0.5], pa.float16()), "float", 0.5, 1.5, [1.5, 0.5]),
        (pa.array([uuid.UUID(int=7).bytes], pa.uuid()), "string", None, None, None),
        (pa.array([[1]], pa.list_view(pa.int64())), "array", None, None, [[1]]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)  # fmt: skip
def test_types_of_parquet(file, array, kind, low, high, examples):  # noqa: PLR0917
    content = parquet(array, coerce_timestamps=None)
    found = file.read(content, "f.parquet")
    (column,) = found.schema["columns"]
    assert [column[key] for key in ("type", "min", "max", "nulls")] == [kind, low, high, array.null_count]
    assert examples is None or column["examples"] == examples
    assert found.rows == len(array) == len(file.rows(content, "f.parquet"))
    assert file.survives(content, "f.parquet")


def test_parquet_of_no_rows(file):
    found = file.read(parquet(pa.table({"a": pa.array([], pa.int64()), "b": pa.array([], pa.string())})), "f.parquet")
    assert (found.rows, [(column.name, column.type, column.distinct) for column in found.columns]) == (
        0, [("a", "integer", 0), ("b", "string", 0)],
    )  # fmt: skip


def test_parquet_of_no_columns_is_refused(file):
    assert file.refusal(parquet(pa.table({})), "f.parquet")


def test_parquet_with_two_columns_of_one_name_is_refused(file):
    twice = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
    assert file.refusal(parquet(twice), "f.parquet") == "the schema: two columns have one name"


def test_nan_is_one_value_in_all_batches(file):
    assert file.column(parquet([float("nan")] * (3 * datasets.BATCH)), "f.parquet") == expected(
        "a", "float", [float("nan")] * 12_288
    )


def test_decimals_are_counted_as_they_are(file):
    array = pa.array([Decimal(10**30 + n) for n in range(5)])
    assert file.column(parquet(array), "f.parquet")["distinct"] == 5


@pytest.mark.parametrize(
    "array",
    [
        pa.array([2**62], pa.timestamp("us")),
        pa.array([-(2**30)], pa.date32()),
        pa.array([[0]] * 3 + [[2**62]], pa.list_(pa.timestamp("us"))),  # only a preview meets it
    ],
    ids=["time", "date", "list"],
)
def test_times_beyond_the_year_9999(file, array):
    """DuckDB and pandas read them; they are told or refused."""
    assert file.survives(parquet(array), "f.parquet") in {True, False}


@pytest.mark.parametrize("unit", [pa.timestamp("ns"), pa.duration("ns")], ids=str)
def test_nanoseconds_need_no_pandas(file, scripts, tmp_path, unit):
    (tmp_path / "f").write_bytes(parquet(pa.array([1, 2], unit)))
    done = scripts.run(
        """
        import importlib.abc, sys

        class NoPandas(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "pandas":
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, NoPandas())
        from ailab import datasets
        print(datasets.examine(sys.argv[1], "f.parquet").columns[0].distinct)
        """,
        tmp_path / "f",
        code=None,
    )
    assert (done.stdout, done.stderr[-300:]) == ("2\n", "")


def test_damaged_parquet_is_refused(file):
    content = parquet(pa.table({"a": list(range(1000)), "b": ["x"] * 1000}))
    broken = [
        b"PAR1", b"PAR1PAR1", content[:-1], content[4:], content[:200] + content[300:], content[:-9] + b"\xff" * 4 + content[-5:],
        content[:20] + b"\xff" * 40 + content[60:],
    ]  # fmt: skip
    for one in broken:
        assert re.match("the Parquet file: .", file.refusal(one, "f.parquet", format="parquet"))
    assert file.refusal(b"a,b\n1,2\n", "f.parquet") == "byte 0: it does not begin as Parquet does"


@pytest.mark.parametrize(("where", "byte"), [("page", 2), ("page", 0), ("footer", 2), ("footer", 0x7F)])
def test_parquet_whose_pages_and_footer_disagree_is_refused(file, where, byte):
    content = bytearray(parquet([1, 2, 3], compression="none", use_dictionary=False, store_schema=False, write_statistics=False))
    at = content.index(b"\x15\x06") if where == "page" else content.index(b"\x16\x06", 60)  # 3 as Thrift writes it
    content[at + 1] = byte
    assert file.refusal(bytes(content), "f.parquet")


def test_text_in_parquet_that_is_no_text_is_refused(file):
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    assert re.match("the Parquet file: ", file.refusal(parquet(bad), "f.parquet"))


# -- formats and previews ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "name", "found"),
    [
        ("a\n1\n", "f.CSV", "csv"),
        ("a\n1\n", "f.tsv", "csv"),
        ("a\n1\n", "f.txt", "csv"),
        ('[{"a":1}]', "f.json", "json"),
        ('{"a":1}\n', "f.jsonl", "ndjson"),
        ('{"a":1}\n', "f.ndjson", "ndjson"),
        (parquet([1]), "f.pq", "parquet"),
        (parquet([1]), "data", "parquet"),
        ('  [{"a":1}]', "data", "json"),
        (b'\xef\xbb\xbf{"a":1}\n{"a":2}\n', "data", "ndjson"),
        ("PAR1,PAR2\n1,2\n", "f.csv", "csv"),
    ],
)
def test_the_format_is_told_by_the_ending_else_by_the_first_bytes(file, content, name, found):
    assert file.read(content, name).format == found
    assert datasets.format_of(name, str(file.path)) == found


def test_unknown_formats_are_refused(file):
    said = "the format of %r is not known"
    for name, content in (("data", "a\n1\n"), ("f.xlsx", b"PK\3\4"), ("f.csv.gz", b"\x1f\x8b\x08\0"), ("", "a\n")):
        assert file.refusal(content, name) == said % name
    assert file.refusal("a\n", "n" * 1000) == said % ("n" * 100)
    assert file.refusal("a\n", format="xml") == "format 'xml' is not allowed"
    for form in datasets.FORMATS:
        assert file.refusal("", format=form) == "the file is empty"
    assert file.read("a\n1\n", "data", format="csv").format == "csv"


def test_the_path_says_nothing(tmp_path):
    """The name tells the format, the path is only where it lies."""
    assert File(tmp_path / "upload.gz").read("a\n1\n").rows == 1


def test_a_preview_of_parquet_goes_on_behind_a_row_group(file):
    content = parquet(pa.array(["x", "y"] * 3).dictionary_encode(), row_group_size=2)
    assert file.column(content, "f.parquet") == expected("a", "string", ["x", "y"] * 3)
    assert file.rows(content, "f.parquet", limit=5) == [{"a": text} for text in "xyxyx"]


LONG = "ü" * (datasets.CELL_MAX + 5)
MANY = {
    "csv": "a\n" + "1\n" * 50,
    "json": '[{"a":1}' + ',{"a":1}' * 49 + "]",
    "ndjson": '{"a":1}\n' * 50,
    "parquet": parquet([1] * 50),
}


@pytest.mark.parametrize("form", MANY)
def test_a_preview_has_as_many_rows_as_are_asked_for(file, form):
    found = file.read(MANY[form], f"f.{form}")
    assert found.rows == 50
    assert [len(datasets.preview(str(file.path), form, found.schema, n)) for n in (1, 7, 50, 10**9)] == [1, 7, 50, 50]


@pytest.mark.parametrize("form", ["csv", "json", "ndjson", "parquet"])
def test_a_preview_may_have_no_row(file, form):
    found = file.read(MANY[form], f"f.{form}")
    assert datasets.preview(str(file.path), form, found.schema, 0) == []


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (f"a,b\n{LONG},1\n", "f.csv"), (json.dumps([{"a": LONG, "b": 1}]), "f.json"),
        (parquet(pa.table({"a": [LONG], "b": [1]})), "f.parquet"),
    ],
)  # fmt: skip
def test_long_values_are_cut(file, content, name):
    """200 characters in a schema, 10,000 in a preview."""
    column = file.columns(content, name)[0]
    assert [column["min"], column["max"], *column["examples"]] == ["ü" * TEXT_MAX + "…"] * 3
    assert file.rows(content, name) == [{"a": "ü" * datasets.CELL_MAX + "…", "b": 1}]


def test_long_values_are_told_apart_behind_the_cut(file):
    texts = ["x" * TEXT_MAX + str(n) for n in range(7)]
    for content, name in (("a\n" + "\n".join(texts), "f.csv"), (lines(texts), "f.jsonl"), (parquet(texts), "f.parquet")):
        assert file.column(content, name)["distinct"] == 7


def test_a_schema_stays_small(file):
    """It is kept in an event."""
    content = json.dumps([{"a": [[[1] * 100] * 100] * 20}])
    assert len(msgspec.json.encode(file.column(content, "f.json"))) < 100_000


def test_a_preview_shows_texts_as_their_types(file):
    content = "i,f,b,d,m,s\n 1,inf,True,2024-01-01,2024-01-01T02:00:00+02:00,NA\nNA,nan,null,,None,\n,,,,,x\n"
    assert file.rows(content) == [
        {"i": 1, "f": "Infinity", "b": True, "d": "2024-01-01T00:00:00", "m": "2024-01-01T00:00:00Z", "s": "NA"},
        dict.fromkeys("ifbdms"),
        {**dict.fromkeys("ifbdm"), "s": "x"},
    ]


def test_a_preview_shows_nulls_as_nulls(file):
    assert file.rows("a,b\n1,NA\n2,null\n") == [{"a": 1, "b": None}, {"a": 2, "b": None}]


def test_a_preview_of_decimals_shows_numbers(file):
    """The column is a float."""
    assert file.rows(parquet([Decimal("1.10")]), "f.parquet") == [{"a": 1.1}]


# -- attacks -----------------------------------------------------------------------------------------------------------

SEEDS = {
    "csv": b'a,b,c\n1,"x,y",2024-01-01T00:00:00Z\n2,"q""z\n\xc3\xa9",NA\n',
    "json": b'[{"a":1,"b":"x\\u00e9\xc3\xa9"},\n {"a":NaN,"b":null,"c":[1,{"d":-2.5e3}]}]',
    "columns": b'{"a":[1,2],\n"b":["x",null]}',
    "ndjson": b'{"a":1,"b":"x"}\n{"a":2.5e3,"b":"2024-01-01"}\n',
    "parquet": parquet(pa.table({"i": [1, None], "s": pa.array(["x", "y"]).dictionary_encode(), "l": [[1], None]})),
}


@pytest.mark.parametrize(
    "seed",
    ["csv", "json", "columns", "ndjson", "parquet", "utf-16"],
)
def test_a_file_cut_off_anywhere_is_read_or_refused(file, seed):
    """JSON and Parquet that are cut off are no JSON and no Parquet; a line is whole or wrong."""
    content = SEEDS["csv"].decode().encode("utf-16") if seed == "utf-16" else SEEDS[seed]
    form = {"columns": "json", "utf-16": "csv"}.get(seed, seed)
    read = [end for end in range(len(content) + 1) if file.survives(content[:end], f"f.{form}", format=form)]
    whole = {"ndjson": [15, 16, len(content) - 1, len(content)]}.get(seed, [len(content)])
    assert read == whole if form != "csv" else read[-1] == len(content)


@settings(deadline=None, max_examples=200)
@given(
    content=st.binary(min_size=1, max_size=200) | st.text('",\n\r\\[]{}:0123eE.-+ NaTZ;|\t\0é', max_size=80).map(str.encode),
    form=st.sampled_from(datasets.FORMATS),
    encoding=st.sampled_from([None, None, "latin-1", "cp1252", "utf-8-sig", "gb18030", "shift-jis"]),
)
def test_random_bytes_are_read_or_refused(file, content, form, encoding):
    file.survives(content, "f", format=form, encoding=encoding)


@settings(deadline=None, max_examples=250)
@given(
    seed=st.sampled_from([*SEEDS, "parquet"]),
    places=st.lists(
        st.tuples(st.floats(0, 0.999), st.integers(0, 255), st.sampled_from(["put", "cut", "add"])), min_size=1, max_size=4
    ),
)
def test_files_with_damage_are_read_or_refused(file, seed, places):
    content = bytearray(SEEDS[seed])
    for share, byte, what in places:
        at = int(share * len(content))
        content[at : at + (what != "add")] = b"" if what == "cut" else bytes([byte])
    form = "json" if seed == "columns" else seed
    file.survives(bytes(content), f"f.{form}", format=form)


def written(path, parts):
    """100 MB of text."""
    with open(path, "w", encoding="utf-8") as target:
        size = 0
        for part in parts:
            size += target.write(part)
            if size > 100_000_000:
                break
        target.write('{"a":"last"}]' if part.startswith("{") and part.endswith(",\n") else "")


def narrow():
    """Two million rows of four columns."""
    yield "a,b,c,d\n"
    for n in range(3_000_000):
        yield f"{n},name{n % 777},{n / 7:.6f},2024-01-01T00:00:{n % 60:02}Z\n"


def wide():
    """Ten thousand vectors of a thousand numbers."""
    yield ",".join(f"c{n}" for n in range(1000)) + "\n"
    for n in range(20_000):
        yield ",".join(f"{(n * 1000 + i) * 0.6180339 % 1:.8f}" for i in range(1000)) + "\n"


def vectors():
    """Rows of 25 KB."""
    row = '{"a":[' + ",".join(["0.5"] * 6250) + "]}\n"
    for _ in range(5000):
        yield row


def texts():
    """An array of rows of 100 KB."""
    yield "["
    for n in range(2000):
        yield f'{{"a":"{n}{"x" * 100_000}"}},\n'


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process's memory is asked of /proc")
@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("narrow.csv", narrow),
        ("rows.json", texts),
        ("wide.csv", wide),
        ("rows.ndjson", vectors),
    ],
)
def test_a_hundred_megabytes_take_no_three_hundred(scripts, tmp_path, figure, name, parts):
    """Beyond what pyarrow itself takes; and no minute."""
    written(tmp_path / "data", parts())
    done = scripts.run(
        """
        import sys, time
        import pyarrow.csv, pyarrow.compute
        from ailab import datasets

        def kilobytes(what):
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what))

        before, began = kilobytes("VmRSS:"), time.monotonic()
        datasets.examine(sys.argv[1], sys.argv[2])
        print((kilobytes("VmHWM:") - before) >> 10, time.monotonic() - began)
        """,
        tmp_path / "data",
        name,
    )
    peak, seconds = map(float, done.stdout.split())
    figure(f"{name}: {peak:.0f} MB, {seconds:.1f} s")
    assert peak < 300
    assert seconds < 30


# -- two schemas -------------------------------------------------------------------------------------------------------


def schema(**kinds):
    """Columns; a `?` behind a type says that it has nulls."""
    return [{"name": name, "type": kind.rstrip("?"), "nullable": kind[-1] == "?"} for name, kind in kinds.items()]


@pytest.mark.parametrize(
    ("old", "new", "said", "broken"),
    [
        (schema(a="integer", b="string?"), schema(b="string?", a="integer"), [], False),
        (schema(a="integer"), schema(a="integer", b="float"), [("b", "added", None, "float")], False),
        (schema(a="integer", b="float"), schema(a="integer"), [("b", "removed", "float", None)], True),
        (schema(a="integer"), schema(a="float"), [("a", "type", "integer", "float")], True),
        (schema(a="float"), schema(a="integer"), [("a", "type", "float", "integer")], False),
        (schema(a="integer"), schema(a="string"), [("a", "type", "integer", "string")], True),
        (schema(a="string"), schema(a="integer"), [("a", "type", "string", "integer")], True),
        (schema(a="null?"), schema(a="integer?"), [("a", "type", "null", "integer")], True),
        (schema(a="integer?"), schema(a="null?"), [("a", "type", "integer", "null")], False),
        (schema(a="integer"), schema(a="integer?"), [("a", "nulls", "without nulls", "with nulls")], True),
        (schema(a="integer?"), schema(a="integer"), [("a", "nulls", "with nulls", "without nulls")], False),
        (schema(b="float"), schema(B="null?"), [("b", "removed", "float", None), ("B", "added", None, "null")], True),
        ([], [], [], False),
    ],
)  # fmt: skip
def test_differences_of_two_schemas(old, new, said, broken):
    found = differences(old, new)
    assert [(one.column, one.change, one.old, one.new) for one in found] == said
    assert any(map(breaks, found)) == broken


@pytest.mark.parametrize(
    ("old", "new"),
    [(schema(a="float"), schema(a="integer?")), (schema(a="integer"), schema(a="null?"))],
    ids=["narrower", "null"],
)
def test_new_nulls_break_whatever_the_type_does(old, new):
    assert any(map(breaks, differences(old, new)))


def test_differences_of_two_files(file):
    """Schemas as they are kept."""
    before, after = file.columns("a,b,c\n1,x,1.5\n"), file.columns("c,a,d\n2,1,\n3,,\n")
    found = [(one.column, one.change, one.old, one.new, breaks(one)) for one in differences(before, after)]
    assert found == [
        ("b", "removed", "string", None, True),
        ("c", "type", "float", "integer", False),
        ("a", "nulls", "without nulls", "with nulls", True),
        ("d", "added", None, "null", False),
    ]


# -- words and values --------------------------------------------------------------------------------------------------


def test_values_as_json_shows_them():
    day = dt.datetime(2024, 1, 1, tzinfo=UTC)
    given_and_shown = [
        (float("nan"), "NaN"), (float("-inf"), "-Infinity"), (1.5, 1.5), ("x" * 5, "xxxx…"), ("xxxx", "xxxx"), (True, True),
        (None, None), (2**80, 2**80), (b"\xff\0", "ff00"), (b"\xff" * 3, "ffff…"), (day, "2024-01-01T00:00:00Z"),
        (dt.date(2024, 1, 1), "2024-01-01"), ([1, [float("inf")]], [1, ["Infinity"]]), ((1,), [1]), ({1: None}, {"1": None}),
        (Decimal("1.5"), 1.5), ([0] * 200, [0] * 100),
    ]  # fmt: skip
    assert [columns.shown(value, 4) for value, _ in given_and_shown] == [shown for _, shown in given_and_shown]


def test_words_for_values():
    words = ["null", "a boolean", "an integer", "a float", "a string", "an array", "an object"]
    assert [columns.kind_word(value) for value in (None, True, 1, 1.5, "x", [], {})] == words
