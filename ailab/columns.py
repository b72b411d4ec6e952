"""What is known of a column of data: its type, nulls, different values, bounds and examples, gathered batch by batch.

A column has one of the types of `TYPES`. In a file of texts, such as CSV, a column is of the narrowest type that all its values
have, and empty fields and the words of `NULLS` are null, which in a column of strings only empty fields are. Nothing here reads
files.
"""

from __future__ import annotations

from functools import cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from .values import as_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TYPES = ("integer", "float", "boolean", "datetime", "string", "array", "object", "null")
NULLS = ("", "NA", "N/A", "NULL", "null", "NaN", "nan", "None", "#N/A")
DISTINCT_MAX = 10_000
"""Different values of a column that are counted; there may be more."""
DISTINCT_BYTES = 64 << 20
"""What the different values of all columns of a file may take in memory."""
KEPT = 16
"""Values that a column keeps for its examples once it counts no more."""
EXAMPLES = 3
TEXT_MAX = 200
"""Characters of a value that are shown in a schema."""
MEMBERS_MAX = 1000
"""Members of an array or object, on all levels together, that are shown."""
DEPTH_MAX = 60
_NAN = float("nan")


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
    """How the columns of `new` differ from those of `old`, in the order of the columns.

    A column whose type breaks is told once; one whose type does not may have a second difference, in its nulls.
    """
    before, after = ({column["name"]: column for column in columns} for columns in (old, new))
    found = [
        Difference(column=name, change="removed", old=column["type"]) for name, column in before.items() if name not in after
    ]
    for name, column in after.items():
        if name not in before:
            found.append(Difference(column=name, change="added", new=column["type"]))
            continue
        typed = Difference(column=name, change="type", old=before[name]["type"], new=column["type"])
        if typed.old != typed.new:
            found.append(typed)
        if before[name]["nullable"] != column["nullable"] and (typed.old == typed.new or not breaks(typed)):
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


class Budget:
    """Memory for the different values of all columns of a file; once it is used up, those that hold most count no more."""

    def __init__(self) -> None:
        self.left = DISTINCT_BYTES
        self.profiles: list[Profile] = []

    def take(self, size: int) -> None:
        """Use so many bytes."""
        self.left -= size
        while self.left < 0:
            most = max(profile.held for profile in self.profiles)
            for profile in self.profiles:
                if profile.held * 2 >= most:
                    profile.stop()


class Profile:
    """What is known of a column so far; each batch of it is taken as values of one kind.

    `told` shows a value as JSON does. The values are counted by keys that compare with each other.
    """

    def __init__(self, name: str, budget: Budget, told: Callable[[Any], Any] | None = None) -> None:
        self.name = name
        self.told = told or partial(shown, longest=TEXT_MAX)
        self.there = 0
        self.kinds: dict[str, None] = {}
        self.bounds: dict[str, tuple[Any, Any]] = {}
        self.texts: Texts | None = None
        self.values: dict[Any, None] = {}
        self.counted: int | None = None
        self.held = 0
        self.nested = 0
        self.examples: list[Any] = []
        self.budget = budget
        budget.profiles.append(self)

    def take(self, kind: str, low: Any = None, high: Any = None) -> None:
        """Add values of a kind with their bounds, where there are any."""
        self.kinds[kind] = None
        if low is not None:
            self.bounds[kind] = _wider(self.bounds.get(kind), (low, high))

    def meet(self, values: Iterable[Any]) -> None:
        """Add values that are not null, to be counted and shown; arrays and objects are shown only."""
        size = 0
        for value in values:
            if isinstance(value, list | dict):
                self._show_nested(value)
            elif self.counted is None and (key := _key(value)) not in self.values:
                if len(self.values) == DISTINCT_MAX:
                    self.stop()
                    continue
                self.values[key] = None
                size += 100 + (len(key) if isinstance(key, str) else 0)
                if len(self.examples) < EXAMPLES:
                    self.examples.append(self.told(value))
        if self.counted is None and size:
            self.held += size
            self.budget.take(size)

    def _show_nested(self, value: Any) -> None:
        self.nested += 1
        if len(self.examples) < EXAMPLES and self.nested <= MEMBERS_MAX and (one := self.told(value)) not in self.examples:
            self.examples.append(one)

    def stop(self) -> None:
        """Count no more different values than so far."""
        self.counted = len(self.different())
        self.values = dict(islice(self.values.items(), KEPT))
        self.budget.left += self.held
        self.held = 0

    def different(self) -> list[Any]:
        """The different values that are kept."""
        return list(self.values)

    def column(self, rows: int) -> Column:
        """What it comes to in a file of so many rows; those without a value are nulls."""
        kinds = set(self.kinds)
        bounds = list(self.bounds.values())
        if kinds == {"string"} and self.texts is not None:
            found, *bounds = self.texts.found()
        elif len(kinds) == 1:
            (found,) = kinds
        elif kinds == {"integer", "float"}:
            found = "float"
        else:
            found, bounds = ("string" if kinds else "null"), []
        return Column(
            name=self.name, type=found, nullable=self.there < rows or found == "null", nulls=rows - self.there,
            distinct=None if kinds & {"array", "object"} else len(self.different()) if self.counted is None else self.counted,
            distinct_exact=self.counted is None,
            min=self.told(min(low for low, _ in bounds)) if bounds else None,
            max=self.told(max(high for _, high in bounds)) if bounds else None, examples=self.examples,
        )  # fmt: skip


def _wider(old: tuple[Any, Any] | None, new: tuple[Any, Any]) -> tuple[Any, Any]:
    """The bounds that hold both."""
    return new if old is None else (min(old[0], new[0]), max(old[1], new[1]))


def _key(value: Any) -> Any:
    """What a value is counted by: true is not 1, NaN is one value, a long text is its begin and its hash."""
    if isinstance(value, str):
        return value if len(value) <= TEXT_MAX else f"{value[:TEXT_MAX]}…{hash(value)}"
    if isinstance(value, bytes):
        return _key(value.hex())
    if isinstance(value, bool):
        return ("boolean", value)
    return _NAN if isinstance(value, float) and value != value else value  # noqa: PLR0124


def shown(value: Any, longest: int, room: list[int] | None = None, depth: int = 0) -> Any:  # noqa: PLR0911  (one line per kind)
    """A value as JSON shows it: times as RFC 3339, bytes and long texts cut, no NaN, arrays and objects up to `MEMBERS_MAX`."""
    if isinstance(value, float):
        return as_json(value)
    if isinstance(value, str):
        return value if len(value) <= longest else value[:longest] + "…"
    if isinstance(value, bytes):
        return shown(value[: longest + 1].hex(), longest)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, list | tuple | dict):
        return _shown_members(value, longest, [MEMBERS_MAX] if room is None else room, depth + 1)
    if hasattr(value, "isoformat"):
        return value.isoformat().replace("+00:00", "Z")
    if hasattr(value, "as_tuple"):  # a Decimal, whose column is one of floats
        return shown(float(value), longest)
    return shown(str(value), longest)


def _shown_members(value: Any, longest: int, room: list[int], depth: int) -> Any:
    """An array or object with as many members, of 100 on each level, as there is room for in all."""
    if depth > DEPTH_MAX:
        return "…"
    some = list(islice(value.items() if isinstance(value, dict) else value, min(100, room[0])))
    room[0] -= len(some)
    if isinstance(value, dict):
        return {shown(str(name), longest): shown(one, longest, room, depth) for name, one in some}
    return [shown(one, longest, room, depth) for one in some]


# -- texts -------------------------------------------------------------------------------------------------------------

_REPAIRS = {
    "integer": (r"^\+([0-9])", r"\1"),
    "datetime": (r"^(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\.\d{6})\d{1,3}", r"\1"),
    "moment": (r"^(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\.\d{6})\d{1,3}", r"\1"),
}
"""How texts are written that Arrow does not know: a plus before an integer, parts of a microsecond, which are cut."""


class Texts:
    """The narrowest kind that all texts so far have, one of `kinds` or else "string", and the bounds of both.

    A kind once given up does not come back; only integers may turn out to be floats.
    """

    def __init__(self, *kinds: str) -> None:
        self.kind: str | None = None
        self._kinds = kinds
        self._bounds: tuple[Any, Any] | None = None
        self._text_bounds: tuple[Any, Any] | None = None

    def take(self, texts: Any, untouched: Any) -> None:
        """Add a batch: the texts that may be values of a kind, and all that are not empty, as they were written."""
        self._text_bounds = _wider_arrow(self._text_bounds, untouched)
        if self.kind == "string" or not len(texts):
            return
        candidates = {None: self._kinds, "integer": ("integer", "float")}.get(self.kind, (self.kind or "",))
        for kind in candidates:
            bounds = _bounds_of_texts(kind, texts)
            if bounds is not None:
                old = (float(self._bounds[0]), float(self._bounds[1])) if self._bounds and kind == "float" else self._bounds
                self.kind, self._bounds = kind, _wider(old, bounds)
                return
        self.kind = "string"

    def found(self) -> tuple[Any, ...]:
        """The type, and behind it the bounds, where there are any."""
        bounds = self._text_bounds if self.kind == "string" else self._bounds
        kind = {"moment": "datetime", None: "null"}.get(self.kind, self.kind)
        return (kind,) if bounds is None or kind == "boolean" else (kind, bounds)


class TextProfile(Profile):
    """A column of texts, such as one of CSV; null are the empty ones, and the words of `NULLS` unless it is one of strings."""

    texts: Texts

    def __init__(self, name: str, budget: Budget) -> None:
        super().__init__(name, budget)
        self.texts = Texts("boolean", "integer", "float", "datetime", "moment")
        self.kinds["string"] = None
        self.filled = 0

    def take_text(self, column: Any) -> None:
        """Add a batch."""
        import pyarrow.compute as pc

        filled = column.filter(pc.not_equal(column, ""))
        self.filled += len(filled)
        valued = filled if self.texts.kind == "string" else _valued(filled)
        self.there += len(valued)
        self.texts.take(valued, filled)
        if self.counted is None:
            self.meet(pc.unique(filled).slice(0, DISTINCT_MAX + 1).to_pylist())

    def different(self) -> list[Any]:
        """The different values that are kept, as the column's kind has them."""
        kind = self.texts.kind
        if kind is None or kind == "string":
            return list(self.values) if kind else []
        import pyarrow as pa

        texts = [text for text in self.values if len(text) <= TEXT_MAX]
        return list(dict.fromkeys(_cast(kind, _valued(pa.array(texts, pa.string()))).to_pylist()))

    def column(self, rows: int) -> Column:
        """What it comes to."""
        if self.texts.kind == "string":
            self.there = self.filled
        self.examples = [shown(value, TEXT_MAX) for value in self.different()[:EXAMPLES]]
        return super().column(rows)


def _wider_arrow(bounds: tuple[Any, Any] | None, array: Any) -> tuple[Any, Any] | None:
    import pyarrow.compute as pc

    if not len(array):
        return bounds
    found = pc.min_max(array).as_py()
    return _wider(bounds, (found["min"], found["max"]))


@cache
def _nulls() -> Any:
    import pyarrow as pa

    return pa.array(NULLS)


def _valued(texts: Any) -> Any:
    """Texts without the spaces around them, and without those that mean null."""
    import pyarrow.compute as pc

    trimmed = pc.utf8_trim_whitespace(texts)
    null = pc.is_in(trimmed, value_set=_nulls())
    return trimmed.filter(pc.invert(null)) if pc.any(null).as_py() else trimmed


def _cast(kind: str, texts: Any) -> Any:
    """Texts as values of a kind; ArrowInvalid where one is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = {
        "boolean": pa.bool_(), "integer": pa.int64(), "float": pa.float64(), "datetime": pa.timestamp("us"),
        "moment": pa.timestamp("us", "UTC"),
    }[kind]  # fmt: skip
    if kind == "boolean" and pc.any(pc.is_in(texts, value_set=pa.array(("0", "1")))).as_py():
        raise pa.ArrowInvalid("numbers")
    if kind == "integer" and any(pc.any(pc.match_substring(texts, mark)).as_py() for mark in "xX"):
        raise pa.ArrowInvalid("hexadecimal, which is text")
    try:
        return pc.cast(texts, wanted)
    except pa.ArrowInvalid:
        if kind not in _REPAIRS:
            raise
    return pc.cast(pc.replace_substring_regex(texts, *_REPAIRS[kind]), wanted)


def _bounds_of_texts(kind: str, texts: Any) -> tuple[Any, Any] | None:
    """Smallest and greatest of texts that are all of a kind; None where one is not."""
    import pyarrow as pa

    try:
        return _wider_arrow(None, _cast(kind, texts))
    except (pa.ArrowInvalid, ValueError, OverflowError):
        return None


def typed(kind: str, texts: Any) -> list[Any]:
    """An array of texts as values of the type that their column has; None where they mean null."""
    import pyarrow.compute as pc

    if kind == "null":
        return [None] * len(texts)
    if kind != "string":
        trimmed = pc.utf8_trim_whitespace(texts)
        known = pc.if_else(pc.is_in(trimmed, value_set=_nulls()), None, trimmed)
        for one in ("datetime", "moment") if kind == "datetime" else (kind,):
            if _bounds_of_texts(one, known) is not None:
                return list(_cast(one, known).to_pylist())
    return [text or None for text in texts.to_pylist()]


# -- decoded values ----------------------------------------------------------------------------------------------------

_KINDS = {bool: "boolean", int: "integer", float: "float", str: "string", list: "array", dict: "object"}


def kind_word(value: Any) -> str:
    """The type of a decoded JSON value, in words."""
    if value is None:
        return "null"
    word = _KINDS[type(value)]
    return f"{'an' if word[0] in 'aio' else 'a'} {word}"


def take_values(profile: Profile, values: list[Any]) -> None:
    """Add a batch of decoded values; nulls are skipped."""
    there = [value for value in values if value is not None]
    profile.there += len(there)
    types = set(map(type, there))
    for kind in types:
        _take_kind(profile, _KINDS[kind], there if len(types) == 1 else [value for value in there if type(value) is kind])
    profile.meet(dict.fromkeys(there) if len(types) == 1 and not types & {list, dict} else there)


def _take_kind(profile: Profile, word: str, values: list[Any]) -> None:
    import pyarrow as pa

    profile.take(word)
    if word == "string":
        texts = pa.array(values)
        profile.texts = profile.texts or Texts("datetime", "moment")
        profile.texts.take(texts, texts)
    elif word in {"integer", "float"}:
        numbers = values if word == "integer" else [value for value in values if value == value]  # noqa: PLR0124  (not NaN)
        if numbers:
            profile.take(word, min(numbers), max(numbers))


# -- Arrow's values ----------------------------------------------------------------------------------------------------


def kind_of_type(kind: Any) -> str:
    """The type of a column by its Arrow type."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return kind_of_type(kind.value_type)
    if hasattr(kind, "storage_type"):
        return kind_of_type(kind.storage_type)
    asked: tuple[tuple[str, tuple[Callable[[Any], bool], ...]], ...] = (
        ("boolean", (types.is_boolean,)), ("integer", (types.is_integer,)), ("float", (types.is_floating, types.is_decimal)),
        ("datetime", (types.is_timestamp, types.is_date, types.is_time)), ("null", (types.is_null,)),
        ("array", (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)),
        ("object", (types.is_struct, types.is_map)),
    )  # fmt: skip
    return next((word for word, tests in asked if any(test(kind) for test in tests)), "string")


def array_profile(name: str, kind: Any, budget: Budget) -> Profile:
    """A column of an Arrow type."""
    kind = _value_type(kind)
    profile = Profile(name, budget, partial(_time_told, kind=kind) if _is_time(kind) else None)
    profile.take(kind_of_type(kind))
    return profile


def _value_type(kind: Any) -> Any:
    """The type of the values of a dictionary or an extension."""
    inner = getattr(kind, "storage_type", None) or (kind.value_type if hasattr(kind, "index_type") else None)
    return kind if inner is None else _value_type(inner)


def _is_time(kind: Any) -> bool:
    from pyarrow import types

    return types.is_temporal(kind) and not types.is_interval(kind)


def take_array(profile: Profile, column: Any) -> None:
    """Add a batch of a typed column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if hasattr(column, "storage"):
        column = column.storage
    profile.there += len(column) - column.null_count
    there = _comparable(column.drop_null() if column.null_count else column)
    kind = kind_of_type(there.type)
    if not len(there) or kind == "null":
        return
    if kind in {"array", "object"}:
        if len(profile.examples) < EXAMPLES:
            profile.meet(unpacked(there.slice(0, KEPT)))
        return
    word = next(iter(profile.kinds))
    if word in {"integer", "float", "datetime"} or there.type in {pa.string(), pa.large_string()}:
        counted = there.filter(pc.invert(pc.is_nan(there))) if pa.types.is_floating(there.type) else there
        profile.take(word, *(_wider_arrow(None, counted) or ()))
    if profile.counted is None:
        profile.meet(_different(there))


def _different(array: Any) -> list[Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        return list(pc.unique(array).slice(0, DISTINCT_MAX + 1).to_pylist())
    except pa.ArrowNotImplementedError:  # for rare types
        return list(array.to_pylist())


def _comparable(array: Any) -> Any:
    """An array without nulls, as its values are counted: of a dictionary those in use, of times their numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if hasattr(array, "storage"):
        return _comparable(array.storage)
    if pa.types.is_dictionary(array.type):
        return _comparable(array.dictionary.take(pc.unique(array.indices)).drop_null())
    if _is_time(array.type):
        return array.cast(pa.int32() if array.type.bit_width == 32 else pa.int64())  # noqa: PLR2004  (bits)
    return array.cast(pa.float32()) if pa.types.is_float16(array.type) else array


def unpacked(array: Any) -> list[Any]:
    """The values of an array as Python has them; decimals as floats, times as texts, since Python cannot hold all of them."""
    import pyarrow as pa

    if hasattr(array, "storage"):
        return unpacked(array.storage)
    if _is_time(array.type):
        return [None if number is None else _time_told(number, array.type) for number in _comparable(array).to_pylist()]
    try:
        return list(array.to_pylist())
    except (ValueError, OverflowError, KeyError):
        if not pa.types.is_nested(array.type) or len(array) == 1:
            return [f"a value of type {array.type} that cannot be shown"] * len(array)
    return [one for at in range(len(array)) for one in unpacked(array.slice(at, 1))]


def _time_told(number: int, kind: Any) -> str:
    """A time of an Arrow type as text, to the nanosecond; one that Python cannot hold as a number of its unit."""
    import pyarrow as pa

    unit, rest = getattr(kind, "unit", "days"), 0
    coarse = kind
    if unit == "ns":
        coarse = next(
            one
            for one in (pa.timestamp("us", getattr(kind, "tz", None)), pa.duration("us"), pa.time64("us"))
            if one.id == kind.id
        )
        number, rest = divmod(number, 1000)
    try:
        value = pa.scalar(number, coarse).as_py()
    except (ValueError, OverflowError, KeyError):
        return f"{number} {coarse.unit if unit == 'ns' else unit} from 1970"
    if not rest:
        return str(shown(value, TEXT_MAX))
    text = (
        value.isoformat(timespec="microseconds")
        if hasattr(value, "isoformat")
        else f"{value}{'' if value.microseconds else '.000000'}"
    )
    behind = text.index(".") + 7
    return f"{text[:behind]}{rest:03}{text[behind:]}".replace("+00:00", "Z")
