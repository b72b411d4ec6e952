"""What was recorded beside a run's points: the lines that it printed, and figures of the machine.

Who reads: the routes, the command line and the run's page. An answer has a cursor, which tells of each segment how much of it
is known; what comes later, from whatever process and however late it arrives, is behind it. Nothing here writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from .errors import FilterError
from .filters import LIMIT_DEFAULT, LIMIT_MAX, cursor_of, parse_count, seen_of
from .queries import Number, Page, _check_there
from .values import as_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .views import Lab

EVENT_LINES = 1 << 24
"""Lines of one event are fewer; a cursor counts by it."""
_STAMP = "strftime(\"time\", '%Y-%m-%dT%H:%M:%S.%fZ')"


class ConsoleLine(msgspec.Struct, kw_only=True):
    """A line that a run printed on `stream`, stdout or stderr; `time` is when it was kept.

    `dropped` counts lines before it that were not kept. Where none followed, `line` is None.
    """

    time: str
    stream: str
    line: str | None
    dropped: int = 0


class SystemFigure(msgspec.Struct, kw_only=True):
    """A figure of the machine during a run, in the unit that `key` says, such as process/memory_bytes."""

    key: str
    time: str
    value: Number


# -- printed lines -----------------------------------------------------------------------------------------------------


def console(
    lab: Lab,
    run_id: str,
    *,
    since: str | None = None,
    limit: int = LIMIT_DEFAULT,
    last: int | None = None,
    stream: str | None = None,
) -> Page:
    """Lines that a run printed, in their order.

    Args:
        lab: the catalogue.
        run_id: the run.
        since: only what is behind the answer that had this cursor; it holds for the stream that was asked for then.
        limit: lines at most, from the first one on.
        last: as many of the last lines instead.
        stream: stdout or stderr; by default both.

    Returns:
        A page of ConsoleLine; `total` counts what there is from `since` on, and `next` is the cursor behind the page, also where
        nothing is there yet.

    Raises:
        NotFoundError: there is no such run.
        FilterError: the cursor is none, or `limit` or `last` is out of range, or `last` stands with `since`.
    """
    parse_count("limit", str(limit), LIMIT_MAX)
    if last is not None:
        parse_count("last", str(last), LIMIT_MAX)
        if since is not None:
            raise FilterError("last stands with no since", where="last", hint="ask for the last lines once, then for what is new")
    _check_there(lab, run_id)
    lab.prepare("console_now")
    seen = _seen(since, "console")
    source = "FROM console_now WHERE run_id = ? AND (len(lines) > 0 OR dropped > 0) AND coalesce(stream = ?, true)"
    known = "AND seq >= coalesce(map_extract_value(?::MAP(VARCHAR, BIGINT), segment), 0)"
    bound: list[Any] = [run_id, stream, {segment: place // EVENT_LINES for segment, place in seen.items()}]
    ends = f"SELECT segment, seq, greatest(len(lines), 1) {source} {known}"
    sizes = {(segment, seq): size for segment, seq, size in lab.con.execute(ends, bound).fetchall()}
    # a cursor may stand in the midst of an event
    skipped = {(segment, place // EVENT_LINES): place % EVENT_LINES for segment, place in seen.items()}
    total = sum(max(0, size - skipped.get(place, 0)) for place, size in sizes.items())
    way = "" if last is None else " DESC"
    order = f"ORDER BY clock{way}, segment{way}, seq{way}"
    columns = f"segment, seq, {_STAMP}, stream, lines, dropped"
    answer = lab.con.execute(f"SELECT {columns} {source} {known} {order}", bound)
    if last is None:
        found, following = _first(answer, limit, skipped)
    else:
        found, following = (
            _last(answer, last),
            {segment: seq * EVENT_LINES + size for (segment, seq), size in sorted(sizes.items())},
        )
    return Page(rows=found, total=total, next=cursor_of("console", [seen | following]))


def _first(answer: Any, limit: int, skipped: Mapping[tuple[str, int], int]) -> tuple[list[ConsoleLine], dict[str, int]]:
    """The first lines of events, without those `skipped`; and the place in each segment behind them."""
    found: list[ConsoleLine] = []
    following: dict[str, int] = {}
    while len(found) < limit and (row := answer.fetchone()) is not None:
        segment, seq, *rest = row
        lines = _lines(*rest)
        start = skipped.get((segment, seq), 0)
        end = min(len(lines), start + limit - len(found))
        found += lines[start:end]
        following[segment] = seq * EVENT_LINES + end
    return found, following


def _last(answer: Any, limit: int) -> list[ConsoleLine]:
    """The last lines of events that come newest first."""
    found: list[ConsoleLine] = []
    while len(found) < limit and (row := answer.fetchone()) is not None:
        found[:0] = _lines(*row[2:])[-(limit - len(found)) :]
    return found


def _lines(time: str, stream: str, texts: list[str], dropped: int) -> list[ConsoleLine]:
    """The rows of one event."""
    if not texts:
        return [ConsoleLine(time=time, stream=stream, line=None, dropped=dropped)]
    found = [ConsoleLine(time=time, stream=stream, line=text) for text in texts]
    found[0].dropped = dropped
    return found


def _seen(since: str | None, what: str) -> dict[str, int]:
    """What a cursor knows of each segment, as numbers that SQL can take."""
    known = {} if since is None else seen_of(since, what)
    return {segment: min(max(0, place), 1 << 62) for segment, place in known.items()}


# -- figures of the machine --------------------------------------------------------------------------------------------


def system_metrics(
    lab: Lab, run_id: str, *, keys: Sequence[str] | None = None, max_points: int | None = None, since: str | None = None
) -> Page:
    """Figures of the machine during a run, by name and time; raw, or the smallest and greatest of equal stretches.

    Args:
        lab: the catalogue.
        run_id: the run.
        keys: names; by default all.
        max_points: figures per name at most.
        since: only figures that came after the answer which had this cursor.

    Returns:
        A page of SystemFigure; `total` counts them before thinning, `next` is the cursor behind it.

    Raises:
        NotFoundError: there is no such run.
        FilterError: the cursor is none, or stands with `max_points`.
    """
    if since is not None and max_points is not None:
        raise FilterError("since stands with no max_points", where="since", hint="thin out once, then ask for what is new")
    seen = _seen(since, "system-metrics")
    _check_there(lab, run_id)
    lab.prepare("system_now")
    source = """
        FROM system_now WHERE run_id = ? AND (? IS NULL OR list_contains(?::VARCHAR[], key))
        AND seq > coalesce(map_extract_value(?::MAP(VARCHAR, BIGINT), segment), -1)
    """
    names = None if keys is None else list(keys)
    bound: list[Any] = [run_id, names, names, seen]
    ends = f"SELECT segment, max(seq), count(*) {source} GROUP BY segment"
    counts = lab.con.execute(ends, bound).fetchall()
    text = f"SELECT key, {_STAMP}, value {source} ORDER BY key, clock, segment, seq"
    if max_points is not None:
        text = f"""
            WITH placed AS (
                SELECT *, (row_number() OVER w - 1) * {max(1, max_points // 2)} // count(*) OVER (PARTITION BY key) AS stretch,
                       count(*) OVER (PARTITION BY key) AS count, (clock, segment, seq) AS place
                {source} WINDOW w AS (PARTITION BY key ORDER BY clock, segment, seq)
            ), ranked AS (
                SELECT *, row_number() OVER (PARTITION BY key, stretch ORDER BY value, place) AS low,
                       row_number() OVER (PARTITION BY key, stretch ORDER BY value DESC, place DESC) AS high FROM placed
            )
            SELECT key, {_STAMP}, value FROM ranked WHERE count <= {int(max_points)} OR low = 1 OR high = 1 ORDER BY key, place
        """  # noqa: S608  (numbers and fixed fragments)
    rows = lab.con.execute(text, bound).fetchall()
    found = [SystemFigure(key=key, time=time, value=as_json(value)) for key, time, value in rows]
    following = {**seen, **{segment: seq for segment, seq, _ in counts}}
    return Page(rows=found, total=sum(count for *_, count in counts), next=cursor_of("system-metrics", [following]))
