"""Which runs, and in which order: what a person or program asks for, and the SQL of it over `base.run_table`.

Values from outside only ever reach SQL as bound parameters. A parameter or metric that has a column of its own in the
catalogue is compared there; any other one is looked up in the run's row, slower and with the same answer.
"""

from __future__ import annotations

import base64
import itertools
import math
from datetime import datetime, time, timedelta, timezone
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from .blobs import is_digest
from .errors import FilterError
from .views.rows import project_of
from .where import Operand, Value, compile_where, half_character

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .views import Lab

T = TypeVar("T")
LIMIT_DEFAULT = 100
LIMIT_MAX = 1000
STATUSES = ("pending", "running", "completed", "failed", "killed", "crashed")


class RunFilter(msgspec.Struct, kw_only=True, frozen=True):
    """Which runs, in which order, and how many; every condition must hold.

    `from_timestamp` and `to_timestamp` are RFC 3339 or a bare date, which is midnight UTC; `to_timestamp` includes its
    whole day. `metric_min` and `metric_max` need `metric_name`. `sort` is a column, `metrics.NAME` or `params.NAME`, with
    `-` in front for falling order.
    """

    dataset_id: str | None = None
    project_id: str | None = None
    status: str | None = None
    command_substring: str | None = None
    note_substring: str | None = None
    from_timestamp: str | None = None
    to_timestamp: str | None = None
    has_artifacts: bool | None = None
    metric_name: str | None = None
    metric_min: float | None = None
    metric_max: float | None = None
    tag: str | None = None
    params: dict[str, str] = {}
    q: str | None = None
    where: str | None = None
    trashed: bool = False
    sort: str = "-started_at"
    cursor: str | None = None
    limit: int = LIMIT_DEFAULT

    @classmethod
    def parse(cls, pairs: Iterable[tuple[str, str]]) -> RunFilter:
        """Read a filter from texts, as a query string or a command line gives them.

        Raises:
            FilterError: a name that is no filter, a value that does not parse, or one given twice; says which.
        """
        found: dict[str, Any] = {}
        params: dict[str, str] = {}
        for name, text in pairs:
            if name.startswith("params."):
                params[name.removeprefix("params.")] = text
            elif name not in cls.__struct_fields__ or name == "params":
                allowed = ", ".join([f for f in cls.__struct_fields__ if f != "params"] + ["params.KEY"])
                raise FilterError(f"no filter {name!r}", where=name, hint=f"allowed: {allowed}")
            elif name in found:
                raise FilterError(f"{name} is given twice", where=name)
            else:
                found[name] = _parse_value(name, text)
        return cls(**found, params=params)


def _parse_value(name: str, text: str) -> Any:
    if name in {"metric_min", "metric_max"}:
        return _float(name, text)
    if name == "limit":
        return parse_count("limit", text, LIMIT_MAX)
    if name in {"has_artifacts", "trashed"}:
        return parse_switch(name, text)
    return text


def _float(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise FilterError(f"{name}: {text!r} is no number", where=name, hint="allowed: a number such as 0.9") from None
    if value != value:  # noqa: PLR0124  (NaN)
        raise FilterError(f"{name}: NaN compares with nothing", where=name, hint="allowed: a number such as 0.9")
    return value


def parse_count(name: str, text: str, maximum: int) -> int:
    """A whole number from 1 to `maximum`.

    Raises:
        FilterError: it is none.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= maximum):  # noqa: PLR2004
        raise FilterError(f"{name}: {text[:40]!r} is not allowed", where=name, hint=f"allowed: 1 to {maximum}")
    return int(text)


def parse_switch(name: str, text: str) -> bool:
    """True or false from the usual words.

    Raises:
        FilterError: it is neither.
    """
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in known:
        raise FilterError(f"{name}: {text!r} is no switch", where=name, hint="allowed: true, false")
    return known[text.lower()]


def _moment(name: str, text: str, *, whole_day: bool) -> datetime:
    """A time without zone, in UTC."""
    try:
        if len(text) == len("2026-01-31"):
            day = datetime.combine(datetime.strptime(text, "%Y-%m-%d").date(), time())  # noqa: DTZ007
            return day + timedelta(days=1) - timedelta(microseconds=1) if whole_day else day
        moment = datetime.fromisoformat(
            text.replace(" ", "+") if "+" not in text and text.count(" ") == 1 and "T" in text else text
        )
        return moment.astimezone(timezone.utc).replace(tzinfo=None) if moment.tzinfo else moment
    except (ValueError, OverflowError):
        hint = "allowed: 2026-01-31 or 2026-01-31T12:00:00Z"
        raise FilterError(f"{name}: {text[:60]!r} is no time", where=name, hint=hint) from None


_DURATION = "greatest(0, epoch(coalesce(ended_at, last_at) - started_at))"
_SORTABLE = {
    "started_at": ("started_at", "TIMESTAMP"), "timestamp": ("started_at", "TIMESTAMP"), "ended_at": ("ended_at", "TIMESTAMP"),
    "name": ("name", "VARCHAR"), "status": ("status", "VARCHAR"), "project": ("project", "VARCHAR"),
    "run_id": ("run_id", "VARCHAR"), "dataset_id": ("dataset_id", "VARCHAR"), "user": ('"user"', "VARCHAR"),
    "host": ("host", "VARCHAR"), "seed": ("seed", "HUGEINT"), "note": ("note", "VARCHAR"), "git_hash": ("git_hash", "VARCHAR"),
    "duration_s": (_DURATION, "DOUBLE"),
}  # fmt: skip
"""SQL and type of the columns that runs are sorted by."""


def metric_of(lab: Lab, key: str) -> tuple[str, list[Any]]:
    """(SQL, bound values) of a run's final value of a metric: its column, where it has one."""
    column = lab.hot.get(("metrics", key))
    if column:
        return column, []
    return "TRY_CAST(detail::JSON -> '$.final_metrics' ->> ? AS DOUBLE)", [pointer(key)]


def _param(lab: Lab, key: str) -> tuple[str, list[Any]]:
    """(SQL, bound values) of a parameter as text: its column, where it has one."""
    column = lab.hot.get(("params", key))
    if column:
        return column, []
    return "(detail::JSON -> '$.params' ->> ?)", [pointer(key)]


def pointer(key: str) -> str:
    """Where a member of a JSON object is, as DuckDB wants it."""
    return "/" + key.replace("~", "~0").replace("/", "~1")


class Key(msgspec.Struct, frozen=True):
    """A term that runs are ordered by, NULL last; `kind` is the SQL type that a cursor's value of it is compared as."""

    term: str
    kind: str
    falling: bool
    bound: list[Any] = []

    @property
    def way(self) -> str:
        """The direction, as ORDER BY has it."""
        return "DESC NULLS LAST" if self.falling else "ASC NULLS LAST"


_NEWEST = (Key("started_at", "TIMESTAMP", falling=True), Key("run_id", "VARCHAR", falling=True))


def order_of(lab: Lab, sort: str) -> list[Key]:
    """The keys of an order, so that no two runs are equal in all; NaN and absent values come last whichever way it goes."""
    column, falling = sort.removeprefix("-"), sort.startswith("-")
    _check_unicode("sort", sort)
    table, _, key = column.partition(".")
    if table == "metrics" and key:
        value, bound = metric_of(lab, key)
        return [Key(f"nullif({value}, 'NaN'::DOUBLE)", "DOUBLE", falling=falling, bound=bound), *_NEWEST]
    if table == "params" and key:
        text, bound = _param(lab, key)
        number = Key(f"nullif(TRY_CAST({text} AS DOUBLE), 'NaN'::DOUBLE)", "DOUBLE", falling=falling, bound=bound)
        return [number, Key(text, "VARCHAR", falling=falling, bound=bound), *_NEWEST]
    if column not in _SORTABLE:
        raise FilterError(
            f"sort: no column {column[:60]!r}",
            where="sort",
            hint=f"allowed: {', '.join(_SORTABLE)}, metrics.NAME, params.NAME; - in front for falling",
        )
    term, kind = _SORTABLE[column]
    return [Key(term, kind, falling=falling), Key("run_id", "VARCHAR", falling=falling)]


def cursor_of(sort: str, values: list[Any]) -> str:
    """A cursor behind a run whose keys have these values: opaque to clients, and good as long as the order is the same."""
    plain = [_plain(value) for value in values]
    return base64.urlsafe_b64encode(msgspec.json.encode([sort, plain])).decode().rstrip("=")


def _opened(cursor: str, shape: type[T]) -> T | None:
    """What `cursor_of` wrote, in this shape; None where it is something else."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(text, type=shape)
    except (ValueError, msgspec.DecodeError):
        return None


def _plain(value: Any) -> Any:
    """A key's value as JSON has it; infinities as DuckDB reads them, since JSON has none."""
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _fits(key: Key, value: Any) -> bool:
    """Whether a value of a cursor may be one of a key; run and start are there for every run."""
    if value is None:
        return key.term not in {"run_id", "started_at"}
    if key.kind == "DOUBLE":
        return (isinstance(value, int | float) and not isinstance(value, bool)) or value in {"inf", "-inf"}
    if key.kind == "HUGEINT":
        return isinstance(value, int) and abs(value) < 1 << 127
    if key.kind == "TIMESTAMP":
        return isinstance(value, str) and _is_time(value)
    return isinstance(value, str) and half_character(value) is None


def _check_unicode(name: str, *texts: str) -> None:
    if any(half_character(text) is not None for text in texts):
        raise FilterError(f"{name}: half a character of Unicode", where=name, hint="text that UTF-8 can write")


def _is_time(text: str) -> bool:
    """Whether a text is a time as `_plain` writes it; Python reads other forms too, such as weeks, that the engine does not."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return False
    return moment.tzinfo is None and moment.isoformat() == text


def seen_of(cursor: str, what: str = "points") -> dict[str, int]:
    """What is known of each segment, such as its last line, by a cursor of an answer with points or something else.

    Raises:
        FilterError: it is none.
    """
    of, values = _opened(cursor, tuple[str, tuple[dict[str, int]]]) or ("", ({},))
    if of != what or any(not segment or half_character(segment) is not None for segment in values[0]):
        raise FilterError(f"since: it is no cursor of {what}", where="since", hint="take it from X-Cursor of the answer before")
    return values[0]


def behind(keys: list[Key], sort: str, cursor: str) -> tuple[str, list[Any]]:
    """(SQL, bound values) of the runs behind a cursor.

    Raises:
        FilterError: it is no cursor of this order.
    """
    foreign = FilterError("cursor: it is none of ours", where="cursor", hint="take it from the Link header of the page before")
    opened = _opened(cursor, tuple[str, list[str | int | float | None]])
    if opened is None:
        raise foreign
    of, values = opened
    if of != sort or len(values) != len(keys):
        raise FilterError("cursor: it belongs to another sort", where="cursor", hint=f"it was made with sort={of[:60]}")
    if not all(map(_fits, keys, values)):
        raise foreign
    found, bound = "false", list[Any]()
    for key, value in reversed(list(zip(keys, values, strict=True))):
        given = f"CAST(? AS {key.kind})"
        if value is None:
            found, bound = f"({key.term} IS NULL AND {found})", [*key.bound, *bound]
            continue
        sign = "<" if key.falling else ">"
        found = f"({key.term} {sign} {given} OR {key.term} IS NULL OR ({key.term} = {given} AND {found}))"
        text_of = value if isinstance(value, str) else repr(value)
        bound = [*key.bound, text_of, *key.bound, *key.bound, text_of, *bound]
    return found, bound


_ALL_TEXT = "concat_ws(' ', run_id, name, project, command, dataset_id, note, detail::JSON -> '$.params', tags)"
_CONDITIONS = {
    "status": "status = ?",
    "command_substring": "contains(lower(command), lower(?))",
    "note_substring": "contains(lower(note), lower(?))",
    "from_timestamp": "started_at >= ?",
    "to_timestamp": "started_at <= ?",
    "has_artifacts": "has_artifacts = ?",
    "q": f"contains(lower({_ALL_TEXT}), lower(?))",
}
"""SQL of the filters that compare one thing with one value."""


def conditions(lab: Lab, f: RunFilter) -> tuple[str, list[Any]]:
    """(WHERE text, bound values) of a filter."""
    if f.status is not None and f.status not in STATUSES:
        raise FilterError(f"status: no status {f.status[:40]!r}", where="status", hint=f"allowed: {', '.join(STATUSES)}")
    _check_unicode("params", *itertools.chain(*f.params.items()))
    for name, value in msgspec.structs.asdict(f).items():
        _check_unicode(name, *([value] if isinstance(value, str) else []))
    parts: list[tuple[str, list[Any]]] = [("trashed" if f.trashed else "NOT trashed", [])]
    for name, condition in _CONDITIONS.items():
        value = getattr(f, name)
        if value is not None and name.endswith("_timestamp"):
            value = _moment(name, value, whole_day=name.startswith("to_"))
        if value is not None:
            parts.append((condition, [value]))
    if f.project_id is not None:
        parts.append(("project_id = ?", [project_called(lab, f.project_id)]))
    if f.dataset_id is not None:
        parts.append(_dataset_condition(lab, f.dataset_id))
    if f.where is not None and f.where.strip():
        parts.append(compile_where(f.where, lambda table, key: _operand(lab, table, key), lab.is_pattern))
    parts += _metric_conditions(lab, f) + _tag_conditions(f) + _param_conditions(lab, f)
    return " AND ".join(f"({part})" for part, _ in parts), [value for _, values in parts for value in values]


def _tag_conditions(f: RunFilter) -> list[tuple[str, list[Any]]]:
    if f.tag is None:
        return []
    key, equals, value = f.tag.partition("=")
    at = pointer(key)
    if equals:
        return [("tags IS NOT NULL AND detail::JSON -> '$.tags' ->> ? = ?", [at, value])]
    return [("tags IS NOT NULL AND json_exists(detail::JSON -> '$.tags', ?)", [at])]


def _param_conditions(lab: Lab, f: RunFilter) -> list[tuple[str, list[Any]]]:
    parts: list[tuple[str, list[Any]]] = []
    for key, value in f.params.items():
        text, bound = _param(lab, key)
        if value == "null":  # a parameter that is null has no text, but it is there
            there = "json_exists(detail::JSON -> '$.params', ?)"
            parts.append((f"{there} AND coalesce({text}, 'null') = ?", [pointer(key), *bound, value]))
        else:
            parts.append((f"{text} = ?", [*bound, value]))
    return parts


def project_called(lab: Lab, text: str) -> str:
    """The id of the project that a text means: an id, or a name as it reads now; the text where there is none."""
    rows = lab.rows(
        "SELECT project_id FROM base.project_table WHERE project_id IN ($1, $2) OR name = $1 "
        "ORDER BY project_id = $1 DESC, project_id = $2 DESC, project_id LIMIT 1",
        [text, project_of(text)],
    )
    return str(rows[0][0]) if rows else text


def datasets_called(lab: Lab, name: str, *, only: str | None = None) -> list[str]:
    """The datasets that a name means: the one with this id, whatever else is labelled so, or those that have it as their label.

    Versions in the trash count: as long as a dataset is there, its id leads to no other one. `only` those of a project.
    """
    rows = lab.rows(
        "SELECT DISTINCT dataset FROM base.dataset_table WHERE (dataset = $1 OR name = $2) AND ($3 IS NULL OR project_id = $3)",
        [project_of(name), name, only],
    )
    found = sorted(row[0] for row in rows)
    return [project_of(name)] if project_of(name) in found else found


def _dataset_condition(lab: Lab, text: str) -> tuple[str, list[Any]]:
    """Runs that were given this text, or that read what it names now: a content, or any version of a dataset."""
    name, at, rest = text.rpartition("@")
    digest = rest.removeprefix("sha256:") if rest.startswith("sha256:") or is_digest(rest) else None
    version = int(rest[1:]) if at and rest[:1] == "v" and rest[1:].isdigit() and len(rest) < 10 else None  # noqa: PLR2004
    read: list[str] = []
    if digest is not None:
        read += [f'"sha256":"{digest}'] if len(digest) >= 8 else []  # noqa: PLR2004  (fewer digits name nothing)
    elif version is not None or (at and rest == "latest"):
        rows = lab.rows(
            "SELECT dataset, arg_max(sha256, version) FROM base.dataset_table WHERE dataset IN (SELECT unnest($1::VARCHAR[])) "
            "AND CASE WHEN $2 IS NULL THEN NOT own_trashed ELSE version = $2 END GROUP BY dataset",
            [datasets_called(lab, name), version],
        )
        read += [f'"sha256":"{rows[0][1]}'] if len(rows) == 1 else []
    else:
        read += [f'"dataset":{msgspec.json.encode(dataset).decode()}' for dataset in datasets_called(lab, text)]
    among = " OR ".join(["contains(datasets, ?)"] * len(read))
    return f"dataset_id = ? OR (datasets IS NOT NULL AND ({among}))" if read else "dataset_id = ?", [text, *read]


_COLUMNS = {
    "run_id": "run_id", "name": "name", "run_name": "name", "run name": "name", "Run name": "name", "Run Name": "name",
    "status": "status", "project": "project", "project_id": "project_id",
    "user": '"user"', "user_id": '"user"', "host": "host", "group": '"group"', "parent_run_id": "parent_run_id",
    "dataset_id": "dataset_id", "git_hash": "git_hash", "note": "note", "description": "description", "command": "command",
    "error": "error",
}  # fmt: skip
_NUMBERS = {"seed": "seed", "duration_s": _DURATION, "points_dropped": "dropped"}
_TIMES = {"started_at": "started_at", "start_time": "started_at", "created": "started_at", "timestamp": "started_at",
          "ended_at": "ended_at", "end_time": "ended_at"}  # fmt: skip
_SWITCHES = {"protected": "protected", "has_artifacts": "has_artifacts"}
_READ = "coalesce(json_extract_string(datasets, '$[*].{}'), [])"
_OF_DATASETS = {
    "name": f"list_filter(list_append({_READ.format('name')}, dataset_id), lambda name: name IS NOT NULL)",
    "digest": _READ.format("sha256"), "context": _READ.format("role"),
}  # fmt: skip
"""SQL of a list of what is told of the datasets that a run read; MLflow's context of a dataset is our role."""
_TABLES = {"metric": "metrics", "metrics": "metrics", "param": "params", "params": "params", "parameter": "params",
           "parameters": "params"}  # fmt: skip
_STATUS_OF_OTHERS = {"finished": "completed", "scheduled": "pending"}
_STATUS_FOR_OTHERS = "CASE status WHEN 'completed' THEN 'FINISHED' WHEN 'pending' THEN 'SCHEDULED' ELSE upper(status) END"


def _operand(lab: Lab, table: str, key: str | None) -> Operand | None:
    """What a name in a condition means."""
    table = _TABLES.get(table.lower(), table.lower())
    if table == "metrics" and key is not None:
        value, bound = metric_of(lab, key)
        number = f"nullif({value}, 'NaN'::DOUBLE)", bound
        return Operand(text=number, number=number, there=(f"{value} IS NOT NULL", bound))
    if table == "params" and key is not None:
        text, bound = _param(lab, key)
        return Operand((text, bound), (f"nullif(TRY_CAST({text} AS DOUBLE), 'NaN'::DOUBLE)", bound), _there("$.params", key))
    if table in {"tags", "tag"} and key is not None:
        return Operand(("(detail::JSON -> '$.tags' ->> ?)", [pointer(key)]), None, _there("$.tags", key))
    if table in {"attributes", "attribute", "attr", "run"} and key is not None:
        table, key = key.lower(), None
    if table in {"dataset", "datasets"} and key is not None:
        among = _OF_DATASETS.get(key.lower())
        return None if among is None else Operand(("one", []), None, (f"len({among}) > 0", []), among=among)
    return None if key is not None else _column_operand(table)


def names_in(lab: Lab, f: RunFilter) -> list[tuple[str, str, str]]:
    """Every metric and parameter that a filter names: (`metrics` or `params`, its name, the part of the filter)."""
    found = [("metrics", f.metric_name, "metric_name")] if f.metric_name is not None else []
    found += [("params", key, f"params.{key}") for key in f.params]

    def resolve(table: str, key: str | None) -> Operand | None:
        if key is not None and (kind := _TABLES.get(table.lower())):
            found.append((kind, key, "where"))
        return _operand(lab, table, key)

    if f.where is not None and f.where.strip():
        compile_where(f.where, resolve, lab.is_pattern)
    return found


def _there(part: str, key: str) -> tuple[str, list[Any]]:
    return f"json_exists(detail::JSON -> '{part}', ?)", [pointer(key)]


def _column(term: str, convert: Any = None) -> Operand:
    return Operand((term, []), None, (f"{term} IS NOT NULL", []), convert)


def _column_operand(name: str) -> Operand | None:
    if name == "status":
        plain = _column("status", lambda value: _STATUS_OF_OTHERS.get(value.text.lower(), value.text.lower()))
        return plain._replace(alias=_STATUS_FOR_OTHERS)
    if name in _COLUMNS:
        return _column(_COLUMNS[name])
    if name in _NUMBERS:
        number = (_NUMBERS[name], list[Any]())
        return Operand(number, number, (f"{_NUMBERS[name]} IS NOT NULL", []))
    if name in _TIMES:
        return _column(_TIMES[name], lambda value: _time(name, value))
    if name in _SWITCHES:
        return _column(_SWITCHES[name], lambda value: parse_switch(name, value.text))
    return None


def _time(name: str, value: Value) -> datetime:
    """A time as written: RFC 3339, a date, or milliseconds since 1970, as MLflow has them."""
    if value.number is not None:
        try:
            return datetime(1970, 1, 1) + timedelta(milliseconds=value.number)  # noqa: DTZ001  (UTC, as the columns are)
        except OverflowError:
            raise FilterError(f"{name}: {value.text} is no time", where="where", hint="milliseconds since 1970") from None
    return _moment("where", value.text, whole_day=False)


def _metric_conditions(lab: Lab, f: RunFilter) -> list[tuple[str, list[Any]]]:
    if f.metric_name is None:
        if f.metric_min is not None or f.metric_max is not None:
            where = "metric_min" if f.metric_min is not None else "metric_max"
            raise FilterError(f"{where} needs metric_name", where=where, hint="metric_name=accuracy&metric_min=0.9")
        return []
    value, bound = metric_of(lab, f.metric_name)
    if f.metric_min is None and f.metric_max is None:
        return [(f"{value} IS NOT NULL", bound)]
    parts: list[tuple[str, list[Any]]] = []
    if f.metric_min is not None:
        parts.append((f"{value} >= ?", [*bound, f.metric_min]))
    highest = math.inf if f.metric_max is None else f.metric_max  # NaN is greater than all to the engine, and in no range
    parts.append((f"{value} <= ?", [*bound, highest]))
    return parts
