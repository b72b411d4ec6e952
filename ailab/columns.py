"""What is known of a column of data: its type, nulls, different values, bounds and examples, gathered batch by batch.

A column has one of the types of `TYPES`. In a file of texts, such as CSV, a column is of the narrowest type that all its values
have, and empty fields and the words of `NULLS` are null, which in a column of strings only empty fields are. Nothing here reads
files.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TYPES = ("integer", "float", "boolean", "datetime", "string", "array", "object", "null")
NULLS = ("", "NA", "N/A", "NULL", "null", "NaN", "nan", "None", "#N/A")
DISTINCT_MAX = 10_000
"""Different values of a column that are counted; there may be more."""
EXAMPLES = 3
TEXT_MAX = 200
"""Characters of a value that are shown in a schema."""
_SPECIAL = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


class Column(msgspec.Struct, kw_only=True):
    """A column: `nulls` and `distinct` count its values, `distinct_exact` is false where there may be more than counted.

    `min` and `max` are those of numbers, times (RFC 3339) and strings; `examples` are its first different values.
    """

    name: str
    type: str
    nullable: bool
    nulls: int
    distinct: int | None = None
    distinct_exact: bool = True
    min: Any = None
    max: Any = None
    examples: list[Any] = []


class Difference(msgspec.Struct, kw_only=True):
    """How a column differs between two schemas: `change` is added, removed, type or nulls."""

    column: str
    change: str
    old: str | None = None
    new: str | None = None


def differences(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[Difference]:
    """How the columns of `new` differ from those of `old`, in the order of the columns."""
    before, after = ({column["name"]: column for column in columns} for columns in (old, new))
    found = [
        Difference(column=name, change="removed", old=column["type"]) for name, column in before.items() if name not in after
    ]
    for name, column in after.items():
        if name not in before:
            found.append(Difference(column=name, change="added", new=column["type"]))
        elif before[name]["type"] != column["type"]:
            found.append(Difference(column=name, change="type", old=before[name]["type"], new=column["type"]))
        elif before[name]["nullable"] != column["nullable"]:
            words = {True: "with nulls", False: "without nulls"}
            found.append(
                Difference(column=name, change="nulls", old=words[before[name]["nullable"]], new=words[column["nullable"]])
            )
    return found


def breaks(difference: Difference) -> bool:
    """Whether code that read the old columns may fail on the new ones: one is gone, wider, or has nulls where none were."""
    if difference.change == "type":
        return not (difference.new == "null" or (difference.old, difference.new) == ("float", "integer"))
    return difference.change == "removed" or (difference.change == "nulls" and difference.new == "with nulls")


class Profile:
    """What is known of a column so far; each batch of it is taken as values of one kind."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows = 0
        self.nulls = 0
        self.kinds: dict[str, None] = {}
        self.bounds: dict[str, tuple[Any, Any]] = {}
        self.values: set[Any] | None = set()
        self.examples: list[Any] = []

    def count(self, rows: int, nulls: int) -> None:
        """Add so many values, of which some are null."""
        self.rows += rows
        self.nulls += nulls

    def take(self, kind: str, low: Any = None, high: Any = None) -> None:
        """Add values of a kind with their bounds, where there are any."""
        self.kinds[kind] = None
        if low is None:
            return
        old = self.bounds.get(kind)
        self.bounds[kind] = (low, high) if old is None else (min(low, old[0]), max(high, old[1]))

    def meet(self, values: Iterable[Any]) -> None:
        """Add different values that are not null, to be counted and shown."""
        if self.values is None:
            return
        for value in values:
            key = value if not isinstance(value, str) or len(value) <= TEXT_MAX else hash(value)
            if key not in self.values:
                if len(self.values) == DISTINCT_MAX:
                    self.values = None
                    return
                self.values.add(key)
                if len(self.examples) < EXAMPLES:
                    self.examples.append(shown(value, TEXT_MAX))

    def pad(self, rows: int) -> None:
        """Add nulls for rows before the column was first seen."""
        self.count(rows, rows)

    def column(self) -> Column:
        """What it comes to."""
        kinds = set(self.kinds)
        bounds = list(self.bounds.values())
        if len(kinds) == 1:
            (found,) = kinds
        elif kinds == {"integer", "float"}:
            found = "float"
        else:
            found, bounds = ("string" if kinds else "null"), []
        countable = self.values is None or bool(self.values) or found == "null"
        return Column(
            name=self.name, type=found, nullable=self.nulls > 0 or found == "null", nulls=self.nulls,
            distinct=(DISTINCT_MAX if self.values is None else len(self.values)) if countable and found not in {"array", "object"}
            else None,
            distinct_exact=self.values is not None,
            min=shown(min(low for low, _ in bounds), TEXT_MAX) if bounds else None,
            max=shown(max(high for _, high in bounds), TEXT_MAX) if bounds else None, examples=self.examples,
        )  # fmt: skip


def shown(value: Any, longest: int) -> Any:  # noqa: PLR0911  (one line per kind of value)
    """A value as JSON shows it: times as RFC 3339, bytes and long texts cut, no NaN."""
    if isinstance(value, float):
        return value if value - value == 0 else _SPECIAL[str(value)]
    if isinstance(value, str):
        return value if len(value) <= longest else value[:longest] + "…"
    if isinstance(value, bytes):
        return shown(value[: longest + 1].hex(), longest)
    if value is None or isinstance(value, bool | int):
        return value
    if hasattr(value, "isoformat"):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, list | tuple):
        return [shown(one, longest) for one in value[:100]]
    if isinstance(value, dict):
        return {str(key): shown(one, longest) for key, one in islice(value.items(), 100)}
    return shown(str(value), longest)


class TextProfile(Profile):
    """A column of texts, each of which may be a value of a narrower type; types that one text does not have are given up."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.empty = 0
        self.live: dict[str, tuple[Any, Any] | None] = dict.fromkeys(("boolean", "integer", "float", "datetime", "moment"))
        self.low_text: str | None = None
        self.high_text: str | None = None

    def take_text(self, column: Any) -> None:
        """Add a batch."""
        import pyarrow as pa
        import pyarrow.compute as pc

        trimmed = pc.utf8_trim_whitespace(column)
        kept = pc.invert(pc.is_in(trimmed, value_set=pa.array(NULLS)))
        texts = trimmed.filter(kept)
        self.count(len(column), len(column) - len(texts))
        self.empty += pc.sum(pc.equal(column, "")).as_py() or 0
        for kind in list(self.live) if len(texts) else ():
            found = _bounds_of_texts(kind, texts)
            if found is None:
                del self.live[kind]
                continue
            old = self.live[kind]
            self.live[kind] = found if old is None else (min(old[0], found[0]), max(old[1], found[1]))
        self._meet_texts(column)

    def _meet_texts(self, column: Any) -> None:
        import pyarrow.compute as pc

        filled = column.filter(pc.not_equal(column, ""))
        if not len(filled):
            return
        if not self.live:
            bounds = pc.min_max(filled).as_py()
            self.low_text = bounds["min"] if self.low_text is None else min(self.low_text, bounds["min"])
            self.high_text = bounds["max"] if self.high_text is None else max(self.high_text, bounds["max"])
        if self.values is not None:
            self.meet(pc.unique(filled).to_pylist())

    def finished(self) -> Column:
        """What it comes to."""
        seen = {kind: bounds for kind, bounds in self.live.items() if bounds is not None}
        if seen:
            kind, bounds = next(iter(seen.items()))
            self.take("datetime" if kind == "moment" else kind, *bounds)
            if self.values is not None:
                self.values -= set(NULLS)
            self.examples = [typed(kind, text) for text in self.examples if text.strip() not in NULLS]
        elif self.rows > self.nulls or (self.rows > self.empty and not self.live):
            self.nulls = self.empty
            self.take("string", self.low_text, self.high_text)
        column = self.column()
        if column.type == "null":
            column.distinct, column.examples = 0, []
        return column


def _cast(kind: str, texts: Any) -> Any:
    """Texts as values of a kind; ArrowInvalid where one is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    types = {
        "boolean": pa.bool_(), "integer": pa.int64(), "float": pa.float64(), "datetime": pa.timestamp("us"),
        "moment": pa.timestamp("us", "UTC"),
    }  # fmt: skip
    if kind == "boolean" and pc.any(pc.is_in(texts, value_set=pa.array(("0", "1")))).as_py():
        raise pa.ArrowInvalid("numbers")
    return pc.cast(texts, types[kind])


def _bounds_of_texts(kind: str, texts: Any) -> tuple[Any, Any] | None:
    """Smallest and greatest of texts that are all of a kind; None where one is not."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        bounds = pc.min_max(_cast(kind, texts)).as_py()
    except (pa.ArrowInvalid, ValueError, OverflowError):
        return None
    return bounds["min"], bounds["max"]


def typed(kind: str, text: Any) -> Any:
    """A text as the value of a kind that it is, as JSON shows it; the text itself where it was cut."""
    import pyarrow as pa

    if not isinstance(text, str):
        return text
    try:
        return shown(_cast(kind, pa.array([text.strip()]))[0].as_py(), TEXT_MAX)
    except (pa.ArrowInvalid, ValueError):  # it was cut to be shown
        return text


def is_moment(text: str) -> bool:
    """Whether a text that is a time has a zone."""
    tail = text.strip()[10:]
    return tail[-1:] in {"Z", "z"} or "+" in tail or "-" in tail


_KINDS = {bool: "boolean", int: "integer", float: "float", str: "string", list: "array", dict: "object"}


def kind_word(value: Any) -> str:
    """The type of a decoded JSON value, in words."""
    return "null" if value is None else f"a {_KINDS.get(type(value), type(value).__name__)}"


def take_values(profile: Profile, values: list[Any]) -> None:
    """Add a batch of decoded values."""
    there = [value for value in values if value is not None]
    profile.count(len(values), len(values) - len(there))
    by_type: dict[type, list[Any]] = {}
    for kind in set(map(type, there)):
        by_type[kind] = [value for value in there if type(value) is kind]
    for kind, some in sorted(by_type.items(), key=lambda item: item[0].__name__):
        word = _KINDS.get(kind, "string")
        if word == "string":
            _take_texts(profile, some)
        elif word in {"integer", "float"}:
            numbers = [value for value in some if value == value]  # noqa: PLR0124  (not NaN)
            profile.take(word, *((min(numbers), max(numbers)) if numbers else ()))
        else:
            profile.take(word)
        if word not in {"array", "object"}:
            profile.meet(dict.fromkeys(some))
        elif len(profile.examples) < EXAMPLES:
            profile.examples += [shown(value, TEXT_MAX) for value in some[: EXAMPLES - len(profile.examples)]]


def _take_texts(profile: Profile, texts: list[str]) -> None:
    import pyarrow as pa

    if "string" not in profile.kinds:
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        for kind in ("datetime", "moment"):
            bounds = _bounds_of_texts(kind, pa.array(clean))
            if bounds is not None:
                profile.take("datetime", *(bound.replace(tzinfo=None) for bound in bounds))
                return
    profile.take("string", min(texts), max(texts))


def kind_of_type(kind: Any) -> str:
    """The type of a column by its Arrow type."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return kind_of_type(kind.value_type)
    asked: tuple[tuple[str, tuple[Callable[[Any], bool], ...]], ...] = (
        ("boolean", (types.is_boolean,)), ("integer", (types.is_integer,)), ("float", (types.is_floating, types.is_decimal)),
        ("datetime", (types.is_timestamp, types.is_date, types.is_time)), ("null", (types.is_null,)),
        ("array", (types.is_list, types.is_large_list, types.is_fixed_size_list)), ("object", (types.is_struct, types.is_map)),
    )  # fmt: skip
    return next((word for word, tests in asked if any(test(kind) for test in tests)), "string")


def take_array(profile: Profile, column: Any) -> None:
    """Add a batch of a typed column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = kind_of_type(column.type)
    profile.count(len(column), column.null_count)
    there = column.drop_null() if column.null_count else column
    if not len(there):
        return
    if kind in {"array", "object", "null"}:
        profile.take(kind)
        if len(profile.examples) < EXAMPLES:
            profile.examples += [shown(value, TEXT_MAX) for value in there.slice(0, EXAMPLES - len(profile.examples)).to_pylist()]
        return
    bounds: tuple[Any, ...] = ()
    if kind not in {"boolean", "string"} or pa.types.is_string(there.type) or pa.types.is_large_string(there.type):
        counted = there.filter(pc.invert(pc.is_nan(there))) if pa.types.is_floating(there.type) else there
        if len(counted):
            found = pc.min_max(counted).as_py()
            bounds = (_plain(found["min"]), _plain(found["max"]))
    profile.take(kind, *bounds)
    if profile.values is not None:
        profile.meet(map(_plain, pc.unique(there).to_pylist()))


def _plain(value: Any) -> Any:
    """A value that compares with others of its kind and can be counted."""
    if hasattr(value, "as_tuple"):  # a Decimal
        return float(value)
    return value.hex() if isinstance(value, bytes) else value
