"""Which runs, and in which order: what a person or program asks for, and the SQL of it over `base.run_table`.

Values from outside only ever reach SQL as bound parameters. A parameter or metric that has a column of its own in the
catalogue is compared there; any other one is looked up in the run's row, slower and with the same answer.
"""

from __future__ import annotations

import math
from datetime import datetime, time, timedelta, timezone
from typing import TYPE_CHECKING, Any

import msgspec

from .errors import FilterError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .views import Lab

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
    sort: str = "-started_at"
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
    if name == "has_artifacts":
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


_SORTABLE = {
    "started_at": "started_at", "timestamp": "started_at", "ended_at": "ended_at", "name": "name", "status": "status",
    "project": "project", "run_id": "run_id", "dataset_id": "dataset_id", "user": '"user"', "host": "host", "seed": "seed",
    "duration_s": "coalesce(ended_at, last_at) - started_at", "note": "note", "git_hash": "git_hash",
}  # fmt: skip


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


class Order(msgspec.Struct, frozen=True):
    """An order of runs: the term that decides, and what decides between equal ones, each with its bound values."""

    term: str
    way: str
    ties: str
    bound: list[Any] = []
    ties_bound: list[Any] = []


def order_of(lab: Lab, sort: str) -> Order:
    """What `sort` says; NaN and absent values come last whichever way it goes."""
    column = sort.removeprefix("-")
    way = "DESC NULLS LAST" if sort.startswith("-") else "ASC NULLS LAST"
    table, _, key = column.partition(".")
    if table == "metrics" and key:
        value, bound = metric_of(lab, key)
        return Order(f"nullif({value}, 'NaN'::DOUBLE)", way, "started_at DESC, run_id DESC", bound)
    if table == "params" and key:
        text, bound = _param(lab, key)
        return Order(f"TRY_CAST({text} AS DOUBLE)", way, f"{text} {way}, started_at DESC, run_id DESC", bound, bound)
    if column not in _SORTABLE:
        raise FilterError(
            f"sort: no column {column[:60]!r}",
            where="sort",
            hint=f"allowed: {', '.join(_SORTABLE)}, metrics.NAME, params.NAME; - in front for falling",
        )
    return Order(_SORTABLE[column], way, f"run_id {way}")


_ALL_TEXT = "concat_ws(' ', run_id, name, project, command, dataset_id, note, detail::JSON -> '$.params', tags)"
_CONDITIONS = {
    "dataset_id": "dataset_id = ?",
    "project_id": "project_id = ?",
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
    parts: list[tuple[str, list[Any]]] = [("NOT trashed", [])]
    for name, condition in _CONDITIONS.items():
        value = getattr(f, name)
        if value is not None and name.endswith("_timestamp"):
            value = _moment(name, value, whole_day=name.startswith("to_"))
        if value is not None:
            parts.append((condition, [value]))
    parts += _metric_conditions(lab, f)
    if f.tag is not None:
        key, equals, value = f.tag.partition("=")
        at = pointer(key)
        if equals:
            parts.append(("tags IS NOT NULL AND detail::JSON -> '$.tags' ->> ? = ?", [at, value]))
        else:
            parts.append(("tags IS NOT NULL AND json_exists(detail::JSON -> '$.tags', ?)", [at]))
    for key, value in f.params.items():
        text, bound = _param(lab, key)
        if value == "null":  # a parameter that is null has no text, but it is there
            there = "json_exists(detail::JSON -> '$.params', ?)"
            parts.append((f"{there} AND coalesce({text}, 'null') = ?", [pointer(key), *bound, value]))
        else:
            parts.append((f"{text} = ?", [*bound, value]))
    return " AND ".join(part for part, _ in parts), [value for _, values in parts for value in values]


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
