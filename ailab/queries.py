"""All one may ask: a function per question, its SQL beside it, a Struct as its answer.

One Struct serves four readers: the API's JSON, the CLI's `--json`, the assistant's tool result and the web pages. Every
function takes the catalogue first and sees it as it stands; whoever holds it refreshes it. Values from outside only ever
reach SQL as bound parameters. Nothing here writes.
"""

from __future__ import annotations

import difflib
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from . import blobs
from .errors import FilterError, NotFoundError
from .filters import (
    LIMIT_DEFAULT,
    LIMIT_MAX,
    STATUSES,
    Key,
    RunFilter,
    behind,
    conditions,
    cursor_of,
    metric_of,
    names_in,
    order_of,
    parse_count,
    pointer,
    project_called,
    seen_of,
)
from .naming import check_known, check_project, nearest_runs, unknown
from .values import as_json
from .views import asof
from .views.points import Points
from .views.questions import plain_value, select
from .views.rows import uid_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from typing import IO

    from .views import Lab

_SMALLER_IS_BETTER = frozenset({
    "loss", "losses", "error", "errors", "err", "mse", "rmse", "mae", "mape", "time", "seconds", "latency", "duration",
    "perplexity", "ppl", "nll", "logloss", "brier", "ece", "cost", "regret", "wer", "cer", "fid",
})  # fmt: skip

COUNTS_MAX = 1000
"""Numbers of runs that are remembered for one catalogue."""
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
    """A file of a run, newest version first; `url` is where the server gives the bytes of this version.

    Of a `reference` no bytes were kept; `location` is where they lay when it was logged, such as file://HOST/PATH.
    """

    path: str
    name: str
    kind: str
    size: int
    sha256: str
    version: int
    at: str
    trashed: bool
    reference: bool
    location: str | None
    url: str


class DatasetUse(msgspec.Struct, kw_only=True):
    """A content that a run read: `name` is the text given, `version` that of the registered dataset that it was then."""

    dataset_id: str
    name: str
    version: int | None
    sha256: str
    role: str


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
    datasets: list[DatasetUse]


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
    """A field of a run, project or dataset that was changed after it was first set, with the value before."""

    event: str
    at: str
    by: str | None
    via: str | None
    run_id: str | None
    kind: str
    field: str
    old: str | None
    new: str | None
    project_id: str | None = None
    dataset_id: str | None = None


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
    """Rows and how many there are in all; in JSON a page is its rows alone, the total stands in a header.

    `position`, where an answer carries it, asks for the same again; `settled` says whether later arrivals leave it as it is.
    `next` is the cursor of the page behind it, where there is one.
    """

    rows: list[Any]
    total: int
    position: str | None = None
    settled: bool = False
    next: str | None = None


# -- questions ---------------------------------------------------------------------------------------------------------

_SUMMARY = "detail, git_hash, status, project"


def list_runs(lab: Lab, f: RunFilter | None = None, *, counted: bool = True, strict: bool = False) -> Page:
    """Runs that a filter keeps, newest first unless it says otherwise, without those in the trash.

    Args:
        lab: the catalogue.
        f: the filter.
        counted: count all that it keeps; without it `total` is the number of rows.
        strict: refuse a metric or parameter that no run has, and a project that is not there.

    Returns:
        A page of RunSummaryView.

    Raises:
        FilterError: a part of the filter does not parse; or, `strict`, no run has what is asked for, or sorted by.
    """
    f = f or RunFilter()
    parse_count("limit", str(f.limit), LIMIT_MAX)
    where, values = conditions(lab, f)
    keys, here, beyond = order_of(lab, f.sort), where, list(values)
    if f.cursor is not None:
        after, bound = behind(keys, f.sort, f.cursor)
        here, beyond = f"{where} AND {after}", [*values, *bound]
    rows = _first_rows(lab, f"FROM base.run_table WHERE {here}", beyond, keys, f.limit + 1)
    if strict and not f.trashed:
        _check_names(lab, f, rows[0][-len(keys)] if rows else None, found=bool(rows))
    total = len(rows)
    if counted and (total > f.limit or f.cursor is not None):
        total = _count(lab, where, values)
    found = [_listed(row) for row in rows[: f.limit]]
    following = cursor_of(f.sort, list(rows[f.limit - 1][-len(keys) :])) if len(rows) > f.limit else None
    return Page(rows=found, total=total, next=following)


def _check_names(lab: Lab, f: RunFilter, best: Any, *, found: bool) -> None:
    """Raise FilterError where a name finds nothing because no run has it; `best` is what the first run is sorted by."""
    if f.cursor is not None:
        return
    table, _, name = f.sort.removeprefix("-").partition(".")
    is_unsorted = table in {"metrics", "params"} and best is None
    if found and not is_unsorted:
        return
    project = None if f.project_id is None else project_called(lab, f.project_id)
    if not found and project is not None:
        check_project(lab, project)
    for kind, key, where in [] if found else names_in(lab, f):
        check_known(lab, kind, key, where=where, project_id=project)
    if is_unsorted:
        check_known(lab, table, name, where="sort", project_id=project)


def _count(lab: Lab, where: str, values: list[Any]) -> int:
    """How many runs a condition keeps; asked once until a run changes."""
    key = (where, *map(repr, values))
    found = lab.counts.get(key)
    if found is None:
        if len(lab.counts) >= COUNTS_MAX:
            lab.counts.clear()
        text = f"SELECT count(*) FROM base.run_table WHERE {where}"  # noqa: S608  (fixed fragments)
        ((found,),) = lab.rows(text, values)
        lab.counts[key] = found
    return found


def runs_by_status(lab: Lab) -> dict[str, int]:
    """How many runs that are not in the trash have which status; each is there."""
    found = dict(lab.rows("SELECT status, count(*) FROM base.run_table WHERE NOT trashed GROUP BY status"))
    return {status: found.get(status, 0) for status in STATUSES}


def runs_as_of(lab: Lab, moment: str | datetime, f: RunFilter | None = None) -> Page:
    """Runs that a filter keeps, as they were at a moment, or at a position that an earlier answer carried.

    Args:
        lab: the catalogue, up to date.
        moment: RFC 3339, a bare date (midnight UTC), a datetime, or a position.
        f: the filter; it asks for the runs as they were.

    Returns:
        A page of RunSummaryView. The answer of a moment is not `settled`: events that arrive later may be older than it. Its
        `position` is that of the catalogue, as it is now; that of a position's answer is the position.

    Raises:
        FilterError: a part of the filter or the moment does not parse.
        NotFoundError: the position is not kept any more.
    """
    past = asof.open_past(lab, moment)
    try:
        page = list_runs(past, f)
    finally:
        past.close()
    settled = asof.is_settled(moment)
    page.settled = settled
    with suppress(OSError):  # a store that cannot be written to answers without
        page.position = str(moment) if settled else position(lab)
    return page


def position(lab: Lab) -> str:
    """A token for what the catalogue shows now, to ask for it again with `runs_as_of`; see `views.asof`."""
    return asof.position(lab)


def _first_rows(lab: Lab, source: str, values: list[Any], keys: list[Key], limit: int) -> list[Any]:
    """The first rows in an order, each with the terms of the order behind it.

    By the first term alone, which a catalogue finds fast, unless that leaves a tie open: one row more than wanted tells whether
    all are different.
    """
    terms = ", ".join(f"{key.term} AS k{i}" for i, key in enumerate(keys))
    bound = [*(value for key in keys for value in key.bound), *values]
    first, *ties = (f"k{i} {key.way}" for i, key in enumerate(keys))
    text = f"SELECT {_SUMMARY}, {terms} {source} ORDER BY {first}"
    rows: list[Any] = lab.rows(f"{text} LIMIT ?", [*bound, limit + 1])
    if len({row[-len(keys)] for row in rows}) == len(rows):
        return rows[:limit]
    return lab.rows(f"{text}, {', '.join(ties)} LIMIT ?", [*bound, limit])


_summary = msgspec.json.Decoder(RunSummaryView).decode
_decode = msgspec.json.Decoder().decode


def _listed(row: Sequence[Any]) -> RunSummaryView:
    """A run in a list: its answer as it is kept, with what depends on more than the run."""
    found = _summary(row[0])
    found.git_hash, found.status, found.project = row[1:4]
    return found


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
    if not lab.con.execute(
        "SELECT 1 FROM base.run_table WHERE uid = ?::UUID AND run_id = ?", [uid_of(run_id), run_id]
    ).fetchall():
        raise NotFoundError("run", run_id, nearest=nearest_runs(lab, run_id))


def get_runs_by_ids(lab: Lab, run_ids: Sequence[str]) -> list[RunDetail]:
    """Everything about several runs, in the order asked, each once; ids that are not there are left out."""
    return _details(lab, list(dict.fromkeys(run_ids)))


def summaries(lab: Lab, run_ids: Sequence[str]) -> list[RunSummaryView]:
    """Several runs as they stand in a list, by their ids; those that are not there, or in the trash, are left out."""
    text = f"SELECT {_SUMMARY} FROM base.run_table WHERE NOT trashed AND run_id IN (SELECT unnest(?::VARCHAR[])) ORDER BY run_id"  # noqa: S608
    return [_listed(row) for row in lab.rows(text, [list(run_ids)])]


def projects_of(lab: Lab, run_ids: Sequence[str]) -> dict[str, str | None]:
    """The id of the project of each run that is there."""
    text = "SELECT run_id, project_id FROM base.run_table WHERE run_id IN (SELECT unnest(?::VARCHAR[]))"
    return dict(lab.rows(text, [list(run_ids)]))


_DETAIL = "run_id, detail, git_hash, status, project, trashed, started_at, ended_at, last_at, code_id"
_CODE = "git_diff, branch, remote"
_ENVIRONMENT = "python_version, CAST(device AS VARCHAR), array_to_string(CAST(packages AS VARCHAR[]), chr(10))"


def _details(lab: Lab, run_ids: list[str]) -> list[RunDetail]:
    if len(run_ids) == 1:
        text = f"SELECT {_DETAIL} FROM base.run_table WHERE uid = ?::UUID"  # noqa: S608  (fixed columns)
        rows = lab.rows(text, [uid_of(run_ids[0])])
    else:
        text = f"SELECT {_DETAIL} FROM base.run_table WHERE run_id IN (SELECT unnest(?::VARCHAR[]))"  # noqa: S608
        rows = lab.rows(text, [run_ids])
    found = {row[0]: row for row in rows}
    return [_detail(lab, found[run_id]) for run_id in run_ids if run_id in found]


def _detail(lab: Lab, row: Sequence[Any]) -> RunDetail:
    run_id, detail, git_hash, status, project, trashed, started_at, ended_at, last_at, code = row
    found = _decode(detail)
    files, used = found.pop("artifact_files"), found.pop("datasets")
    found.update(git_hash=git_hash, status=status, project=project)
    git_diff, branch, remote = lab.document("code_table", _CODE, "code_id", code) or (None,) * 3
    python_version, device, packages = (
        lab.document("environment_table", _ENVIRONMENT, "environment_id", found["environment_id"]) or (None,) * 3
    )
    return RunDetail(
        **found, datasets=[_use(lab, **one) for one in used],
        artifact_files=_with_urls(run_id, files),
        git_diff=git_diff, git_branch=branch, git_remote=remote, python_version=python_version,
        pip_freeze=packages, device_info=device, trashed=trashed,
        ended_at=stamp(ended_at) if ended_at else None,
        duration_s=max(0.0, ((ended_at or last_at or started_at) - started_at).total_seconds()),
    )  # fmt: skip


def _use(lab: Lab, dataset: str | None, sha256: str, role: str, name: str) -> DatasetUse:
    rows = lab.rows("SELECT version FROM base.dataset_table WHERE dataset = ? AND sha256 = ?", [dataset, sha256])
    return DatasetUse(
        dataset_id=f"{dataset}@sha256:{sha256}" if dataset else f"sha256:{sha256}", name=name, role=role, sha256=sha256,
        version=rows[0][0] if rows else None,
    )  # fmt: skip


def _with_urls(run_id: str, files: list[dict[str, Any]]) -> list[ArtifactFile]:
    """Files with where the server gives their bytes; in the address of an older version is its number."""
    from urllib.parse import quote

    newest: dict[str, int] = {}
    for file in files:
        newest[file["path"]] = max(file["version"], newest.get(file["path"], 0))

    def url_of(file: dict[str, Any]) -> str:
        version = f"?version={file['version']}" if file["version"] < newest[file["path"]] else ""
        return f"/artifacts/{quote(run_id, safe='')}/download/{quote(file['path'], safe='/')}{version}"

    return [ArtifactFile(**file, url=url_of(file)) for file in files]


def list_artifacts(lab: Lab, run_id: str) -> list[ArtifactFile]:
    """The files of a run, newest first, every version.

    Raises:
        NotFoundError: there is no such run.
    """
    return get_run(lab, run_id).artifact_files


def bytes_of(files: Iterable[ArtifactFile]) -> tuple[int, int]:
    """(bytes logged, bytes kept for them) of versions of files; references count in neither, equal contents are kept once."""
    own = [file for file in files if not file.reference]
    return sum(file.size for file in own), sum({file.sha256: file.size for file in own}.values())


def open_artifact(lab: Lab, run_id: str, path: str, *, version: int | None = None) -> tuple[ArtifactFile, IO[bytes]]:
    """The newest, or a given, version of a file of a run that is not in the trash, opened for reading.

    The path is only ever compared with those the run has; what is opened is the blob of that file's digest.

    Raises:
        NotFoundError: there is no such run, file, or its bytes are not in this store; says where those of a reference lie.
    """
    every = list_artifacts(lab, run_id)
    found = next((a for a in every if a.path == path and version in {None, a.version} and not a.trashed), None)
    if found is None:
        raise _no_artifact(path, version, every)
    if found.reference:  # also where a blob has its digest: who only names a digest is not given what is behind it
        where = f"lay at {found.location} when it was logged" if found.location else "were never here"
        raise NotFoundError("copy of artifact", path, hint=f"it is a reference: its bytes {where}")
    return found, blobs.open_blob(lab.store, found.sha256)


def _no_artifact(path: str, version: int | None, files: Sequence[ArtifactFile]) -> NotFoundError:
    """What is said of a file that is not there: that its path is in the trash, its newest version, or what looks like it."""
    newest = next((a for a in files if a.path == path), None)
    if newest is not None:
        what = "artifact" if version is None else f"version {version} of"
        return NotFoundError(what, path, nearest=[path], hint=newest_of(path, newest.version, trashed=newest.trashed))
    paths = list(dict.fromkeys(a.path for a in files if not a.trashed))
    return NotFoundError("artifact", path, nearest=difflib.get_close_matches(path, paths, n=3, cutoff=0.3))


def newest_of(name: str, version: int, *, trashed: bool = False) -> str:
    """The hint where another version of something is meant than there is."""
    return f"the newest version of {name!r} is v{version}" + (", in the trash" if trashed else "")


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
    strict: bool = False,
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
        project_id: only runs of this project, by its id or name.
        strict: refuse a metric that no run has, and a project that is not there.

    Raises:
        FilterError: order or of is none of these; or, `strict`, no run has the metric, but others, or there is no such project.
    """
    parse_count("top_k", str(top_k), LIMIT_MAX)
    project = None if project_id is None else project_called(lab, project_id)
    way = _choose("order", order, ("desc", "asc")) or _best_first(lab, metric_name, project)
    source = _choose("of", of, ("last", "min", "max", "mean"))
    f = RunFilter(dataset_id=dataset_id, has_artifacts=has_artifacts, project_id=project)
    where, values = conditions(lab, f)
    if source is None:
        value, bound = metric_of(lab, metric_name)
        table = "base.run_table"
    else:
        lab.make_views()
        table = (
            f'(SELECT r.*, s."{source}" AS ranked FROM base.run_table r JOIN summary_now s ON s.run_id = r.run_id AND s.key = ?)'  # noqa: S608
        )
        value, values = "ranked", [metric_name, *values]
        bound = []
    rows: list[Any] = []
    ties = [Key("started_at", "TIMESTAMP", falling=False), Key("run_id", "VARCHAR", falling=False)]
    keys = [Key(value, "DOUBLE", falling=way == "desc", bound=bound), *ties]
    for kind in ("{} <= 'infinity'::DOUBLE", "isnan({})"):  # numbers first, whichever way is best; NaN is greater than all
        if len(rows) < top_k:
            text = f"FROM {table} WHERE {where} AND {kind.format(value)}"
            rows += _first_rows(lab, text, [*values, *bound], keys, top_k - len(rows))
    if strict and not rows:
        if project is not None:
            check_project(lab, project)
        check_known(lab, "metrics", metric_name, where="metric_name", project_id=project)
    return [
        LeaderboardRow(**msgspec.structs.asdict(_listed(row)), rank=i, metric_name=metric_name, value=as_json(row[4]))
        for i, row in enumerate(rows, 1)
    ]


def _choose(where: str, value: str | None, allowed: tuple[str, ...]) -> str | None:
    if value is not None and value.lower() not in allowed:
        raise FilterError(f"{where}: {value[:40]!r} is not allowed", where=where, hint=f"allowed: {', '.join(allowed)}")
    return value and value.lower()


def _best_first(lab: Lab, metric_name: str, project_id: str | None = None) -> Literal["asc", "desc"]:
    """Which way a metric's best values lie: as the newest run says that describes it, of one project if one is asked about."""
    if any(lab.keys[kind, metric_name, way] > 0 for kind, way in (("goals", "min"), ("goals", "max"))):
        text = (
            "SELECT goals::JSON ->> $1 AS goal FROM base.run_table WHERE goals IS NOT NULL AND goal IS NOT NULL "
            "AND ($2 IS NULL OR project_id = $2) ORDER BY started_at DESC LIMIT 1"
        )
        described = lab.con.execute(text, [pointer(metric_name), project_id]).fetchall()
        if described:
            return "asc" if described[0][0] == "min" else "desc"
    words = "".join(c if c.isalnum() else " " for c in metric_name.lower()).split()
    return "asc" if _SMALLER_IS_BETTER.intersection(words) else "desc"


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


def trashed_runs(lab: Lab, *, days: float) -> list[str]:
    """Ids of runs that have been in the trash for so many days; not of protected ones, nor of those that are being written."""
    lab.prepare("SELECT * FROM events")
    rows = lab.con.execute(
        """
        WITH own AS (SELECT run_id, max("at") AS "at" FROM events WHERE kind = 'run.trashed' GROUP BY run_id),
             project AS (SELECT data ->> 'project' AS project_id, max("at") AS "at" FROM events
                         WHERE kind = 'project.trashed' GROUP BY 1)
        SELECT r.run_id FROM run_now r LEFT JOIN own USING (run_id) LEFT JOIN project USING (project_id)
        WHERE r.trashed AND NOT r.protected AND r.status NOT IN ('running', 'pending')
          AND CASE WHEN r.own_trashed THEN own."at" ELSE project."at" END < now()::TIMESTAMP - $1 * INTERVAL 1 DAY
        ORDER BY r.run_id
        """,
        [days],
    ).fetchall()
    return [row[0] for row in rows]


def list_changes(
    lab: Lab, *, run_id: str | None = None, project_id: str | None = None, event: str | None = None, limit: int = LIMIT_DEFAULT
) -> Page:
    """What was changed, newest first, of one run, of a project with its runs and datasets, by one event, or of everything.

    Returns:
        A page of Change.

    Raises:
        NotFoundError: there is no such run.
    """
    if run_id is not None:
        _check_there(lab, run_id)
    where = f"($1 IS NULL OR run_id = $1) AND ($2 IS NULL OR {_OF_PROJECT}) AND ($4 IS NULL OR event = $4)"
    order = '"at" DESC, length(event) DESC, event DESC, field'  # of one moment the greatest number first
    rows = _changes(lab, f"WHERE {where} ORDER BY {order} LIMIT $3", [run_id, project_id, limit, event])
    return Page(rows=[row for row, _ in rows], total=rows[0][1] if rows else 0)


def changes_of_event(lab: Lab, event: str) -> list[Change]:
    """What one event changed."""
    return [row for row, _ in _changes(lab, "WHERE event = $1 ORDER BY field", [event])]


_OF_PROJECT = """(
    project_id = $2 OR run_id IN (SELECT run_id FROM base.run_table WHERE project_id = $2)
    OR dataset_id IN (SELECT dataset_id FROM base.dataset_table WHERE project_id = $2)
)"""


def _changes(lab: Lab, rest: str, values: list[Any]) -> list[tuple[Change, int]]:
    lab.make_views()
    columns = 'event, "at", "by", via, run_id, kind, field, old, "new", project_id, dataset_id, count(*) OVER ()'
    text = f"SELECT {columns} FROM changes {rest}"  # noqa: S608  (our own text)
    return [
        (
            Change(
                event=r[0], at=stamp(r[1]), by=r[2], via=r[3], run_id=r[4], kind=r[5], field=r[6], old=r[7], new=r[8],
                project_id=r[9], dataset_id=r[10],
            ),
            r[11],
        )
        for r in lab.con.execute(text, values).fetchall()
    ]  # fmt: skip


def metric_points(
    lab: Lab,
    run_id: str,
    *,
    keys: Sequence[str] | None = None,
    max_points: int | None = None,
    since: str | None = None,
    cursor: bool = False,
    strict: bool = False,
) -> Page:
    """Logged points of a run by metric and step; raw, or the points with the smallest and greatest value of equal stretches.

    Args:
        lab: the catalogue.
        run_id: the run.
        keys: metrics; by default all.
        max_points: points per metric at most; every bucket keeps its minimum and its maximum.
        since: only points that came after the answer which had this cursor; it holds for the metrics that were asked for then.
        cursor: give the answer a cursor, in `next`; one that was asked with `since` has one anyway.
        strict: refuse metrics that a run will not have any more.

    Returns:
        A page of MetricPoint; `total` counts the points before downsampling.

    Raises:
        NotFoundError: there is no such run.
        FilterError: the cursor is none, or stands with `max_points`; or, `strict`, the run has ended without these metrics.
    """
    _check_there(lab, run_id)
    if since is not None and max_points is not None:
        raise FilterError("since stands with no max_points", where="since", hint="thin out once, then ask for what is new")
    points = Points(lab, run_id, keys)
    following = cursor_of("points", [points.ends()]) if cursor or since is not None else None
    if since is not None:
        rows = points.after(seen_of(since))
        total = len(rows)
    elif max_points is None:
        rows = points.raw()
        total = len(rows)
    else:
        rows, total = points.thinned(max_points)
    if strict and keys and not total and since is None:
        _check_keys(lab, run_id, keys)
    found = [MetricPoint(key=k, step=s, time=t, value=as_json(v), exact=e) for k, s, t, v, e in rows]
    return Page(rows=found, total=total, next=following)


def _check_keys(lab: Lab, run_id: str, keys: Sequence[str]) -> None:
    """Raise FilterError for a metric that a run will not have any more, unless it has none."""
    run = get_run(lab, run_id)
    known = list(run.final_metrics)
    if run.status not in {"pending", "running"} and known and not any(key in known for key in keys):
        raise unknown("metric", keys[0], known, where="key")


def run_sql(lab: Lab, query: str, *, limit: int = LIMIT_MAX) -> SqlAnswer:
    """Answer one SELECT over the views.

    Raises:
        FilterError: it does not parse or is not one SELECT.
    """
    asof.make_relations(lab, query)
    columns, types, rows = select(lab, query, limit=limit + 1)
    return SqlAnswer(
        columns=columns, types=types, rows=[[plain_value(v) for v in row] for row in rows[:limit]], truncated=len(rows) > limit
    )


# -- values ------------------------------------------------------------------------------------------------------------


def stamp(moment: datetime) -> str:
    """RFC 3339 with microseconds, UTC."""
    return moment.isoformat(timespec="microseconds") + "Z"


def _final(text: str | None) -> dict[str, Number]:
    return msgspec.json.decode(text) if text else {}


def _json(text: str | None) -> Any:
    return None if text is None else msgspec.json.decode(text)


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
