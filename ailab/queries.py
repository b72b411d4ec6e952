"""All one may ask: a function per question, its SQL beside it, a Struct as its answer.

One Struct serves four readers: the API's JSON, the CLI's `--json`, the assistant's tool result and the web pages. Every
function takes the catalogue first and sees it as it stands; whoever holds it refreshes it. Values from outside only ever
reach SQL as bound parameters. Nothing here writes.
"""

from __future__ import annotations

import difflib
from datetime import datetime, time, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from . import blobs
from .errors import FilterError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import IO

    from .views import Lab

LIMIT_DEFAULT = 100
LIMIT_MAX = 1000
STATUSES = ("pending", "running", "completed", "failed", "killed", "crashed")
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_SMALLER_IS_BETTER = frozenset({
    "loss", "losses", "error", "errors", "err", "mse", "rmse", "mae", "mape", "time", "seconds", "latency", "duration",
    "perplexity", "ppl", "nll", "logloss", "brier", "ece", "cost", "regret", "wer", "cer", "fid",
})  # fmt: skip

Number = int | float | str
"""A metric in JSON: a number, or "NaN", "Infinity", "-Infinity"."""


# -- answers -----------------------------------------------------------------------------------------------------------


class RunSummaryView(msgspec.Struct, kw_only=True):
    """A run in a list: times are RFC 3339 in UTC, final metrics by name."""

    run_id: str
    timestamp: str
    git_hash: str | None
    command: str
    dataset_id: str | None
    wandb_url: str | None
    final_metrics: dict[str, Number]
    name: str
    status: str
    project: str | None
    tags: dict[str, str | None]
    note: str | None


class LeaderboardRow(RunSummaryView, kw_only=True):
    """A run in a leaderboard: its place from 1, and the value that it is ranked by."""

    rank: int
    metric_name: str
    value: Number


class ArtifactFile(msgspec.Struct, kw_only=True):
    """A file of a run, newest version first; `url` is where the server gives its bytes."""

    path: str
    name: str
    kind: str
    size: int
    sha256: str
    version: int
    at: str
    trashed: bool
    url: str


class RunDetail(msgspec.Struct, kw_only=True):
    """Everything about one run: the fourteen fields of its manifest, then ours."""

    run_id: str
    timestamp: str
    git_hash: str | None
    git_diff: str | None
    command: str
    python_version: str | None
    pip_freeze: str | None
    device_info: str | None
    dataset_id: str | None
    params: dict[str, Any]
    final_metrics: dict[str, Number]
    artifacts: list[str]
    wandb_url: str | None
    note: str | None
    name: str
    status: str
    project: str | None
    project_id: str | None
    description: str | None
    tags: dict[str, str | None]
    group: str | None
    parent_run_id: str | None
    seed: int | None
    started_at: str
    ended_at: str | None
    duration_s: float
    user: str | None
    host: str | None
    error: str | None
    environment_id: str | None
    git_branch: str | None
    git_remote: str | None
    points_dropped: int
    trashed: bool
    protected: bool
    artifact_files: list[ArtifactFile]


class RunComparison(msgspec.Struct, kw_only=True):
    """Several runs side by side: all their metrics and parameters by name, and each run whole, in the order asked."""

    metric_keys: list[str]
    param_keys: list[str]
    runs: list[RunDetail]


class MetricPoint(msgspec.Struct, kw_only=True):
    """One logged point; `exact` has all digits where a double does not."""

    key: str
    step: int
    time: str
    value: Number
    exact: str | None = None


class Change(msgspec.Struct, kw_only=True):
    """A field that was changed after it was first set, with the value before."""

    event: str
    at: str
    by: str | None
    via: str | None
    run_id: str | None
    kind: str
    field: str
    old: str | None
    new: str | None


class SqlAnswer(msgspec.Struct, kw_only=True):
    """Rows of a SELECT; `truncated` says that there are more than were asked for."""

    columns: list[str]
    types: list[str]
    rows: list[list[Any]]
    truncated: bool


class Health(msgspec.Struct, kw_only=True):
    """A server that answers."""

    status: str
    project: str


class Page(msgspec.Struct, kw_only=True):
    """Rows and how many there are in all; in JSON a page is its rows alone, the total stands in a header."""

    rows: list[Any]
    total: int


# -- filters -----------------------------------------------------------------------------------------------------------


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


def _order(sort: str) -> tuple[str, list[Any]]:
    """(ORDER BY text, bound values); NaN and absent values come last whichever way it goes."""
    column = sort.removeprefix("-")
    way = "DESC" if sort.startswith("-") else "ASC"
    table, _, key = column.partition(".")
    if table == "metrics" and key:
        return f"nullif(metrics[?], 'NaN'::DOUBLE) {way} NULLS LAST, started_at DESC, run_id DESC", [key]
    if table == "params" and key:
        number, text = "TRY_CAST(params[?] ->> '$' AS DOUBLE)", "params[?] ->> '$'"
        return f"{number} {way} NULLS LAST, {text} {way} NULLS LAST, started_at DESC, run_id DESC", [key, key]
    if column not in _SORTABLE:
        raise FilterError(
            f"sort: no column {column[:60]!r}",
            where="sort",
            hint=f"allowed: {', '.join(_SORTABLE)}, metrics.NAME, params.NAME; - in front for falling",
        )
    return f"{_SORTABLE[column]} {way} NULLS LAST, run_id {way}", []


_THERE = "len([a FOR a IN artifacts IF NOT a.trashed]) > 0"
_ALL_TEXT = "concat_ws(' ', run_id, name, project, command, dataset_id, note, CAST(params AS VARCHAR), CAST(tags AS VARCHAR))"
_CONDITIONS = {
    "dataset_id": "dataset_id = ?",
    "project_id": "project_id = ?",
    "status": "status = ?",
    "command_substring": "contains(lower(command), lower(?))",
    "note_substring": "contains(lower(note), lower(?))",
    "from_timestamp": "started_at >= ?",
    "to_timestamp": "started_at <= ?",
    "has_artifacts": f"coalesce({_THERE}, false) = ?",
    "q": f"contains(lower({_ALL_TEXT}), lower(?))",
}
"""SQL of the filters that compare one thing with one value."""


def _conditions(f: RunFilter) -> tuple[str, list[Any]]:
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
    parts += _metric_conditions(f)
    if f.tag is not None:
        key, equals, value = f.tag.partition("=")
        more = " AND t.value = ?" if equals else ""
        parts.append((f"len([t FOR t IN tags IF t.key = ?{more}]) > 0", [key, value] if equals else [key]))
    for key, value in f.params.items():
        text = "coalesce(params[?] ->> '$', CAST(params[?] AS VARCHAR), 'null')"
        parts.append((f"map_contains(params, ?) AND {text} = ?", [key, key, key, value]))
    return " AND ".join(part for part, _ in parts), [value for _, values in parts for value in values]


def _metric_conditions(f: RunFilter) -> list[tuple[str, list[Any]]]:
    if f.metric_name is None:
        if f.metric_min is not None or f.metric_max is not None:
            where = "metric_min" if f.metric_min is not None else "metric_max"
            raise FilterError(f"{where} needs metric_name", where=where, hint="metric_name=accuracy&metric_min=0.9")
        return []
    parts: list[tuple[str, list[Any]]] = [("metrics[?] IS NOT NULL", [f.metric_name])]
    if f.metric_min is not None:
        parts.append(("metrics[?] >= ? AND NOT isnan(metrics[?])", [f.metric_name, f.metric_min, f.metric_name]))
    if f.metric_max is not None:
        parts.append(("metrics[?] <= ?", [f.metric_name, f.metric_max]))
    return parts


# -- questions ---------------------------------------------------------------------------------------------------------

_SUMMARY = "run_id, started_at, git_hash, command, dataset_id, wandb_url, final_metrics, name, status, project, tags, note"


def list_runs(lab: Lab, f: RunFilter | None = None) -> Page:
    """Runs that a filter keeps, newest first unless it says otherwise, without those in the trash.

    Returns:
        A page of RunSummaryView.

    Raises:
        FilterError: a part of the filter does not parse.
    """
    f = f or RunFilter()
    parse_count("limit", str(f.limit), LIMIT_MAX)
    where, values = _conditions(f)
    order, order_values = _order(f.sort)
    rows = lab.con.execute(
        f"SELECT {_SUMMARY}, count(*) OVER () FROM run_now WHERE {where} ORDER BY {order} LIMIT ?",  # noqa: S608
        [*values, *order_values, f.limit],
    ).fetchall()
    return Page(rows=[_summary(row) for row in rows], total=rows[0][-1] if rows else 0)


def _summary(row: Sequence[Any]) -> RunSummaryView:
    return RunSummaryView(**_summary_fields(row))


def _summary_fields(row: Sequence[Any]) -> dict[str, Any]:
    run_id, started_at, git_hash, command, dataset_id, wandb_url, final, name, status, project, tags, note = row[:12]
    return {
        "run_id": run_id, "timestamp": _text(started_at), "git_hash": git_hash, "command": command or "",
        "dataset_id": dataset_id, "wandb_url": wandb_url,
        "final_metrics": _final(final), "name": name or "", "status": status, "project": project,
        "tags": {t["key"]: t["value"] for t in tags or ()}, "note": note,
    }  # fmt: skip


def get_run(lab: Lab, run_id: str) -> RunDetail:
    """Everything about one run, in the trash or not.

    Raises:
        NotFoundError: there is no run with exactly this id; names the nearest ids.
    """
    found = _details(lab, [run_id])
    if not found:
        raise NotFoundError("run", run_id, nearest=nearest_runs(lab, run_id))
    return found[0]


def _check_there(lab: Lab, run_id: str) -> None:
    """Raise NotFoundError unless there is a run with exactly this id."""
    if not lab.con.execute("SELECT 1 FROM run_table WHERE run_id = ?", [run_id]).fetchone():
        raise NotFoundError("run", run_id, nearest=nearest_runs(lab, run_id))


def get_runs_by_ids(lab: Lab, run_ids: Sequence[str]) -> list[RunDetail]:
    """Everything about several runs, in the order asked, each once; ids that are not there are left out."""
    return _details(lab, list(dict.fromkeys(run_ids)))


def _details(lab: Lab, run_ids: list[str]) -> list[RunDetail]:
    cursor = lab.con.execute(
        """
        SELECT r.* EXCLUDE (metrics, changes, notes, goals), c.git_diff, c.branch, c.remote, e.python_version,
               CAST(e.device AS VARCHAR) AS device_info, array_to_string(CAST(e.packages AS VARCHAR[]), chr(10)) AS pip_freeze
        FROM run_now r
        LEFT JOIN code_table c ON c.code_id = r.code_id
        LEFT JOIN environment_table e ON e.environment_id = r.environment_id
        WHERE r.run_id IN (SELECT unnest(?::VARCHAR[]))
        """,
        [run_ids],
    )
    names = [d[0] for d in cursor.description or ()]
    rows = {row["run_id"]: row for row in (dict(zip(names, values, strict=True)) for values in cursor.fetchall())}
    return [_detail(rows[run_id]) for run_id in run_ids if run_id in rows]


def _detail(row: dict[str, Any]) -> RunDetail:
    files = [_file(row["run_id"], a) for a in reversed(row["artifacts"] or [])]
    there = [a["logged"] for a in row["artifacts"] or () if not a["trashed"]]
    same = ("git_hash", "git_diff", "python_version", "pip_freeze", "device_info", "dataset_id", "wandb_url", "note", "status",
            "project", "project_id", "description", "group", "parent_run_id", "seed", "user", "host", "error", "environment_id",
            "run_id")  # fmt: skip
    return RunDetail(
        **{name: row[name] for name in same},
        timestamp=_text(row["started_at"]), command=row["command"] or "", name=row["name"] or "",
        params={key: _json(value) for key, value in (row["params"] or {}).items()}, final_metrics=_final(row["final_metrics"]),
        artifacts=list(dict.fromkeys(there)), tags={t["key"]: t["value"] for t in row["tags"] or ()},
        started_at=_text(row["started_at"]), ended_at=_text(row["ended_at"]) if row["ended_at"] else None,
        duration_s=max(0.0, ((row["ended_at"] or row["last_at"] or row["started_at"]) - row["started_at"]).total_seconds()),
        git_branch=row["branch"], git_remote=row["remote"], points_dropped=row["dropped"] or 0, trashed=row["trashed"],
        protected=row["protected"], artifact_files=files,
    )  # fmt: skip


def _file(run_id: str, a: dict[str, Any]) -> ArtifactFile:
    from urllib.parse import quote

    return ArtifactFile(
        path=a["path"], name=a["name"], kind=a["kind"], size=a["size"], sha256=a["sha256"], version=a["version"],
        at=_text(a["at"]), trashed=a["trashed"], url=f"/artifacts/{quote(run_id, safe='')}/download/{quote(a['path'], safe='/')}",
    )  # fmt: skip


def list_artifacts(lab: Lab, run_id: str) -> list[ArtifactFile]:
    """The files of a run, newest first, every version.

    Raises:
        NotFoundError: there is no such run.
    """
    return get_run(lab, run_id).artifact_files


def open_artifact(lab: Lab, run_id: str, path: str) -> tuple[ArtifactFile, IO[bytes]]:
    """The newest version of a file of a run that is not in the trash, opened for reading.

    The path is only ever compared with those the run has; what is opened is the blob of that file's digest.

    Raises:
        NotFoundError: there is no such run, file, or its bytes are not in this store.
    """
    files = [a for a in list_artifacts(lab, run_id) if not a.trashed]
    found = next((a for a in files if a.path == path), None)
    if found is None:
        near = difflib.get_close_matches(path, [a.path for a in files], n=3, cutoff=0.3)
        raise NotFoundError("artifact", path, nearest=near)
    return found, blobs.open_blob(lab.store, found.sha256)


def nearest_runs(lab: Lab, text: str, *, limit: int = 3) -> list[str]:
    """Ids of runs whose id or name looks like `text`, best first."""
    rows = lab.con.execute(
        """
        SELECT run_id FROM run_now WHERE NOT trashed
        ORDER BY greatest(jaro_winkler_similarity(run_id, $1), jaro_winkler_similarity(reverse(run_id), reverse($1)),
                          jaro_winkler_similarity(lower(name), lower($1))) DESC, started_at DESC LIMIT $2
        """,
        [text[:200], limit],
    ).fetchall()
    return [row[0] for row in rows]


def resolve_run(lab: Lab, text: str) -> str:
    """The id of the run that a person means: its id, `latest`, or a start or end of one id that no other shares.

    Raises:
        NotFoundError: no run fits, or several do; names them.
    """
    if text == "latest":
        rows = lab.con.execute(
            "SELECT run_id FROM run_now WHERE NOT trashed ORDER BY started_at DESC, run_id DESC LIMIT 1"
        ).fetchall()
    else:
        rows = lab.con.execute("SELECT run_id FROM run_now WHERE run_id = ?", [text]).fetchall()
    if not rows and len(text) >= 4:  # noqa: PLR2004  (fewer characters name nobody on purpose)
        rows = lab.con.execute(
            "SELECT run_id FROM run_now WHERE starts_with(lower(run_id), $1) OR ends_with(lower(run_id), $1) "
            "ORDER BY run_id LIMIT 4",
            [text.lower()],
        ).fetchall()
    if len(rows) == 1:
        return str(rows[0][0])
    if rows:
        raise NotFoundError(
            "run", text, nearest=[row[0] for row in rows], hint=f"several runs fit: {', '.join(row[0] for row in rows)}"
        )
    raise NotFoundError("run", text, nearest=nearest_runs(lab, text))


def leaderboard(  # the filters of its route
    lab: Lab,
    metric_name: str,
    *,
    top_k: int = 10,
    dataset_id: str | None = None,
    has_artifacts: bool | None = None,
    order: str | None = None,
    of: str | None = None,
    project_id: str | None = None,
) -> list[LeaderboardRow]:
    """The best runs by a metric; runs without it are left out, NaN comes last.

    Args:
        lab: the catalogue.
        metric_name: the metric.
        top_k: how many at most.
        dataset_id: only runs on this dataset.
        has_artifacts: only runs with, or without, artifacts.
        order: desc or asc; by default what the metric's goal says: min as described with `define_metric`, or by a name that
            speaks of loss, error or time, else max.
        of: last, min, max or mean of the logged points; by default the final value.
        project_id: only runs of this project.

    Raises:
        FilterError: order or of is none of these.
    """
    parse_count("top_k", str(top_k), LIMIT_MAX)
    way = _choose("order", order, ("desc", "asc")) or _best_first(lab, metric_name)
    source = _choose("of", of, ("last", "min", "max", "mean"))
    f = RunFilter(dataset_id=dataset_id, has_artifacts=has_artifacts, project_id=project_id)
    where, values = _conditions(f)
    table, before = "run_now", []
    value = "metrics[?]"
    if source is not None:
        join = "JOIN metric_summary s ON s.run_id = run_now.run_id AND s.key = ?"
        table = f'(SELECT run_now.*, s."{source}" AS ranked FROM run_now {join})'  # noqa: S608  (one of four words)
        value, before = "ranked", [metric_name]
    named = [metric_name] if source is None else []
    rows = lab.con.execute(
        f"SELECT {_SUMMARY}, {value} AS v FROM {table} WHERE {where} AND v IS NOT NULL "  # noqa: S608  (fixed fragments)
        f"ORDER BY isnan(v), v {way}, started_at, run_id LIMIT ?",
        [*named, *before, *values, top_k],
    ).fetchall()
    return [
        LeaderboardRow(**_summary_fields(row), rank=i, metric_name=metric_name, value=_number(row[-1]))
        for i, row in enumerate(rows, 1)
    ]


def _choose(where: str, value: str | None, allowed: tuple[str, ...]) -> str | None:
    if value is not None and value.lower() not in allowed:
        raise FilterError(f"{where}: {value[:40]!r} is not allowed", where=where, hint=f"allowed: {', '.join(allowed)}")
    return value and value.lower()


def _best_first(lab: Lab, metric_name: str) -> Literal["asc", "desc"]:
    """Which way a metric's best values lie."""
    described = lab.con.execute(
        "SELECT goals[$1] FROM run_now WHERE goals[$1] IS NOT NULL ORDER BY started_at DESC LIMIT 1", [metric_name]
    ).fetchone()
    if described:
        return "asc" if described[0] == "min" else "desc"
    words = "".join(c if c.isalnum() else " " for c in metric_name.lower()).split()
    return "asc" if _SMALLER_IS_BETTER.intersection(words) else "desc"


def known_metrics(lab: Lab) -> list[str]:
    """Names of all final metrics of runs that are not in the trash, the most used first."""
    rows = lab.con.execute(
        "SELECT k FROM (SELECT unnest(map_keys(metrics)) AS k FROM run_now WHERE NOT trashed) "
        "GROUP BY k ORDER BY count(*) DESC, k"
    ).fetchall()
    return [row[0] for row in rows]


def compare_runs(lab: Lab, run_ids: Sequence[str]) -> RunComparison:
    """Runs side by side.

    Raises:
        FilterError: no run is named, or more than 100.
        NotFoundError: one of them is not there.
    """
    wanted = list(dict.fromkeys(run_ids))
    if not 1 <= len(wanted) <= LIMIT_DEFAULT:
        raise FilterError(f"compare takes 1 to {LIMIT_DEFAULT} runs, not {len(wanted)}", where="ids", hint="ids=A&ids=B")
    runs = get_runs_by_ids(lab, wanted)
    there = {run.run_id for run in runs}
    missing = next((run_id for run_id in wanted if run_id not in there), None)
    if missing is not None:
        raise NotFoundError("run", missing, nearest=nearest_runs(lab, missing))
    return RunComparison(
        metric_keys=sorted({key for run in runs for key in run.final_metrics}),
        param_keys=sorted({key for run in runs for key in run.params}),
        runs=runs,
    )


def list_changes(lab: Lab, *, run_id: str | None = None, limit: int = LIMIT_DEFAULT) -> Page:
    """What was changed, newest first, of one run or of everything.

    Returns:
        A page of Change.

    Raises:
        NotFoundError: there is no such run.
    """
    if run_id is not None:
        _check_there(lab, run_id)
    rows = lab.con.execute(
        'SELECT event, "at", "by", via, run_id, kind, field, old, "new", count(*) OVER () FROM changes '
        'WHERE $1 IS NULL OR run_id = $1 ORDER BY "at" DESC, event DESC LIMIT $2',
        [run_id, limit],
    ).fetchall()
    found = [
        Change(event=r[0], at=_text(r[1]), by=r[2], via=r[3], run_id=r[4], kind=r[5], field=r[6], old=r[7], new=r[8])
        for r in rows
    ]
    return Page(rows=found, total=rows[0][-1] if rows else 0)


def metric_points(lab: Lab, run_id: str, *, keys: Sequence[str] | None = None, max_points: int | None = None) -> Page:
    """Logged points of a run by metric and step; raw, or the points with the smallest and greatest value of equal stretches.

    Args:
        lab: the catalogue.
        run_id: the run.
        keys: metrics; by default all.
        max_points: points per metric at most; every bucket keeps its minimum and its maximum.

    Returns:
        A page of MetricPoint; `total` counts the points before downsampling.

    Raises:
        NotFoundError: there is no such run.
    """
    _check_there(lab, run_id)
    chosen = (
        'SELECT key, step, "time", value, exact, (clock, segment, seq) AS place FROM point_now '
        "WHERE run_id = $run AND ($keys IS NULL OR list_contains($keys, key))"
    )
    values: dict[str, Any] = {"run": run_id, "keys": None if keys is None else list(keys)}
    (total,) = lab.con.execute(f"SELECT count(*) FROM ({chosen})", values).fetchone() or (0,)  # noqa: S608
    if max_points is not None:
        values["buckets"] = max(1, max_points // 2)
        chosen = f"""
            WITH numbered AS (
                SELECT *, (row_number() OVER w - 1) * $buckets // count(*) OVER (PARTITION BY key) AS bucket
                FROM ({chosen}) WINDOW w AS (PARTITION BY key ORDER BY step, place)
            ), placed AS (
                SELECT *, row_number() OVER (PARTITION BY key, bucket ORDER BY value, place) AS low,
                       row_number() OVER (PARTITION BY key, bucket ORDER BY value DESC, place DESC) AS high FROM numbered
            )
            SELECT key, step, "time", value, exact, place FROM placed WHERE low = 1 OR high = 1
        """  # noqa: S608  (fixed fragments)
    rows = lab.con.execute(f"SELECT * FROM ({chosen}) ORDER BY key, step, place", values).fetchall()  # noqa: S608
    points = [MetricPoint(key=k, step=s, time=_text(t), value=_number(v), exact=e) for k, s, t, v, e, _ in rows]
    return Page(rows=points, total=total)


def run_sql(lab: Lab, query: str, *, limit: int = LIMIT_MAX) -> SqlAnswer:
    """Answer one SELECT over the views.

    Raises:
        FilterError: it does not parse or is not one SELECT.
    """
    columns, types, rows = lab.select(query, limit=limit + 1)
    return SqlAnswer(
        columns=columns, types=types, rows=[[_plain(v) for v in row] for row in rows[:limit]], truncated=len(rows) > limit
    )


# -- values ------------------------------------------------------------------------------------------------------------


def _text(moment: datetime) -> str:
    """RFC 3339 with microseconds, UTC."""
    return moment.isoformat(timespec="microseconds") + "Z"


def _number(value: float) -> Number:
    return value if value - value == 0 else _NOT_FINITE[str(value)]


def _final(text: str | None) -> dict[str, Number]:
    return msgspec.json.decode(text) if text else {}


def _json(text: str | None) -> Any:
    return None if text is None else msgspec.json.decode(text)


def _plain(value: Any) -> Any:
    """A value of SQL as JSON has it."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, datetime):
        return _text(value.replace(tzinfo=None))
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value)


# -- about the views and metrics themselves ----------------------------------------------------------------------------


class ColumnInfo(msgspec.Struct, kw_only=True):
    """A column that SQL may name."""

    name: str
    type: str
    comment: str | None


class ViewInfo(msgspec.Struct, kw_only=True):
    """A view that SQL may ask, with its columns in order."""

    name: str
    comment: str
    columns: list[ColumnInfo]


def describe_views(lab: Lab) -> list[ViewInfo]:
    """The views that people may rely on, by name, with a comment for each and its columns.

    A column of `wide` has the comment of the same column of `runs`; a parameter or metric has none.
    """
    lab.comment()
    rows = lab.con.execute(
        """
        SELECT v.view_name, v.comment, c.column_name, c.data_type, coalesce(c.comment, r.comment)
        FROM duckdb_views() v
        JOIN duckdb_columns() c ON c.table_oid = v.view_oid
        LEFT JOIN duckdb_columns() r ON v.view_name = 'wide' AND r.table_name = 'runs' AND r.column_name = c.column_name
        WHERE NOT v.internal AND v.comment IS NOT NULL
        ORDER BY v.view_name, c.column_index
        """
    ).fetchall()
    found: dict[str, ViewInfo] = {}
    for view, about, name, kind, comment in rows:
        info = found.setdefault(view, ViewInfo(name=view, comment=about, columns=[]))
        info.columns.append(ColumnInfo(name=name, type=kind, comment=comment))
    return list(found.values())


def metric_goals(lab: Lab, metric_names: Sequence[str]) -> dict[str, Literal["max", "min"]]:
    """Which way the best values of metrics lie, as the leaderboard orders them by default."""
    return {name: "min" if _best_first(lab, name) == "asc" else "max" for name in metric_names}
