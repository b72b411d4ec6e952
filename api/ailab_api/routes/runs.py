"""/runs: the list with its filters, one run, and everything that is changed of it."""

from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
from litestar import MediaType, Request, Response, delete, get, patch, post, put

from ailab import events, queries, telemetry
from ailab.actions import FLAGS
from ailab.bodies import BATCH_MAX, ENDS, LOGGED, FullName, LoggedEvent, NewRun, RunChange, Tags, Text, documented
from ailab.errors import FilterError
from ailab.filters import STATUSES, RunFilter, cursor_of
from ailab.queries import Page, RunDetail, RunSummaryView

from .. import examples
from ..catalogue import acting, catalogue_of, lab_of, run_of
from ..contract import LIMIT, LOCATED, PAGED, POSITIONED, Ask, actor, asked, read_body, route
from ..pages.run import run_page

AS_OF = Ask("as_of", "The runs as they were: RFC 3339, a date (midnight UTC), or a position of an earlier answer.", "2026-11-20")
CURSOR = cursor_of("-started_at", [datetime.fromisoformat(examples.AT).replace(tzinfo=None), examples.RUN_ID])
FILTERS = (
    Ask("dataset_id", "Runs on this dataset: the text given, or any name of a version that they read.", "iris@v1"),
    Ask("project_id", "Runs of this project.", "iris"),
    Ask("status", "Runs in this state.", "completed", choices=STATUSES),
    Ask("command_substring", "Runs whose command has this in it, whatever the case.", "train.py"),
    Ask("note_substring", "Runs whose note has this in it, whatever the case.", "PUBLISH"),
    Ask("from_timestamp", "Runs started at or after this: RFC 3339, or a date, which is midnight UTC.", "2026-11-01"),
    Ask("to_timestamp", "Runs started until this: RFC 3339, or a date, whose whole day counts.", "2026-11-30"),
    Ask("has_artifacts", "Runs with files, or without.", "true", type="boolean"),
    Ask("metric_name", "Runs with this final metric; metric_min and metric_max need it.", "accuracy"),
    Ask("metric_min", "Runs whose metric is at least this.", "0.9", type="number"),
    Ask("metric_max", "Runs whose metric is at most this.", "1", type="number"),
    Ask("tag", "Runs with this tag: KEY, or KEY=VALUE.", "baseline"),
    Ask("params.KEY", "Runs whose parameter KEY has this value, as in params.model_name=svm.", "svm"),
    Ask("q", "Runs that have this text in id, name, project, command, dataset, note, parameters or tags.", "svm"),
    Ask("where", "A condition: AND, OR, NOT, IN, LIKE, IS NULL, ~ over columns, metrics.x, params.x and tags.x.",
        "metrics.accuracy > 0.9 and params.model_name = 'svm'"),
    Ask("trashed", "What is in the trash instead.", "false", type="boolean"),
    Ask("sort", "A column, metrics.NAME or params.NAME; - in front for falling.", "-started_at", default="-started_at"),
    Ask("cursor", "Go on behind a page: the cursor of its Link header.", CURSOR),
    LIMIT,
)  # fmt: skip


LAST_LINES = 30
"""Printed lines on the page of a run."""
FORMAT = Ask(
    "format",
    "By default what Accept prefers: a browser gets a page, all others JSON.",
    "json",
    choices=("json", "html"),
)


class NoteBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a change of a note; no other field of a run can be changed here."""

    note: Text


class FlagBody(msgspec.Struct, forbid_unknown_fields=True):
    """A flag: PUBLISH, BEST or BAD RUN."""

    flag: Annotated[str, documented(enum=list(FLAGS))]


class TagsBody(msgspec.Struct, forbid_unknown_fields=True):
    """Tags to be set, by name or as words, and names of those to be taken away."""

    set: Tags = {}
    remove: list[FullName] = []


def _of_kind(kind: str) -> dict[str, Any]:
    """What the JSON schema of an event of this kind says of its data."""
    _, parts = msgspec.json.schema_components([shape := events.KINDS[kind]])
    data = parts[shape.__name__] | {"additionalProperties": False}
    if shape is events.RunFinished:
        data["properties"]["status"]["enum"] = list(ENDS)
    return {"properties": {"kind": {"const": kind}, "data": data}, "required": ["kind", *(["data"] if data["required"] else [])]}


class EventsBody(msgspec.Struct, forbid_unknown_fields=True):
    """Events of one run, in the order that they count."""

    events: Annotated[
        list[Annotated[LoggedEvent, documented(anyOf=[_of_kind(kind) for kind in LOGGED])]],
        documented(minItems=1, maxItems=BATCH_MAX),
    ]


class Added(msgspec.Struct):
    """How many events were added."""

    added: int


def paged(request: Request[Any, Any, Any], page: Page) -> dict[str, str]:
    """The headers of a page: how many there are, and where the next one is."""
    headers = {"X-Total-Count": str(page.total)}
    if page.next is not None:
        pairs = [pair for pair in asked(request).pairs if pair[0] != "cursor"]
        headers["Link"] = f'<{request.scope["path"]}?{urlencode([*pairs, ("cursor", page.next)])}>; rel="next"'
    if page.position is not None:
        headers["X-Position"] = page.position
    return headers


def limited(request: Request[Any, Any, Any], f: RunFilter) -> RunFilter:
    """A filter that keeps to the project of whoever sent the request."""
    return msgspec.structs.replace(f, project_id=actor(request).project_for(f.project_id))


@get(
    "/runs",
    **route(
        "list_runs", "Runs that all filters keep, newest first; the Link header has the next page.", tag="runs",
        asks=(*FILTERS, AS_OF), example=[examples.SUMMARY], total=True, headers=PAGED | POSITIONED,
        confined=True, fails=(400, 404), waits=True,
    ),
)  # fmt: skip
async def list_runs(request: Request[Any, Any, Any]) -> Response[list[RunSummaryView]]:
    """Answer with a page of runs."""
    question = asked(request)
    f = limited(request, RunFilter.parse(pair for pair in question.pairs if pair[0] != "as_of"))
    moment = question.one("as_of")
    if moment is None:
        page = await catalogue_of(request).ask(lambda lab: queries.list_runs(lab, f, strict=True))
    else:
        page = queries.runs_as_of(lab_of(request), moment, f)
    return Response(page.rows, headers=paged(request, page))


@post(
    "/runs",
    **route(
        "create_run", "Begin a run that a client without the library logs.", tag="runs", example=examples.DETAIL, needs="writer",
        confined=True, headers=LOCATED, fails=(400, 404, 409, 415),
        body=NewRun(
            name="svm", project="iris", dataset_id="iris@v1", seed=42, commit="4b825dc642cb6eb9a060e54bf8d69288fbee4904",
            params={"model_name": "svm", "learning_rate": 0.1}, tags=["baseline"],
        ),
    ),
)  # fmt: skip
async def create_run(request: Request[Any, Any, Any]) -> Response[RunDetail]:
    """Begin it, and answer with the run."""
    new = await read_body(request, NewRun)
    if new.project is None:
        new.project_id = actor(request).project_for(new.project_id)
    else:
        new.project = actor(request).project_for(new.project)
    with acting(request) as actions:
        run = actions.create_run(new)
    return Response(run, status_code=201, headers={"Location": f"/runs/{run.run_id}"})


@get(
    "/runs/{run_id:str}",
    **route(
        "get_run",
        "Everything about one run; a browser, which prefers text/html, gets a page.",
        tag="runs",
        asks=(FORMAT,),
        example=examples.DETAIL,
        page=True,
        fails=(400, 404),
        confined=True,
    ),
)
def get_run(request: Request[Any, Any, Any]) -> Response[RunDetail]:
    """Answer with the run, or its page."""
    headers = {"Vary": "Accept"}
    run_id = run_of(request)
    chosen = asked(request).choice(FORMAT)
    if chosen == "html" or (chosen is None and prefers_html(request.headers.get("accept", ""))):
        return Response(_page(request, run_id), media_type=MediaType.HTML, headers=headers)  # type: ignore[arg-type]  # the page of the run
    return Response(queries.get_run(lab_of(request), run_id), headers=headers)


def _page(request: Request[Any, Any, Any], run_id: str) -> str:
    lab = lab_of(request)
    run = queries.get_run(lab, run_id)
    curves: dict[str, list[queries.MetricPoint]] = {}
    for point in queries.metric_points(lab, run_id, max_points=200).rows:
        curves.setdefault(point.key, []).append(point)
    changes = queries.list_changes(lab, run_id=run_id).rows
    return run_page(
        run,
        curves=curves,
        system=telemetry.system_metrics(lab, run_id, max_points=200).rows,
        lines=telemetry.console(lab, run_id, last=LAST_LINES),
        changes=changes,
        project=catalogue_of(request).project,
    )


def _change(name: str, summary: str, body: msgspec.Struct | None = None, **more: Any) -> dict[str, Any]:
    """The table of a route that changes one run, and answers with it as it is then."""
    fails = more.pop("fails", (400, 404, 415))
    return route(
        name, summary, tag="runs", body=body, fails=fails, needs="writer", confined=True,
        **{"example": examples.DETAIL, **more},
    )  # fmt: skip


_CHANGE = RunChange(description="with scaled features", status="completed", params={"kernel": "rbf"}, metrics={"accuracy": 0.97})


async def _changed(request: Request[Any, Any, Any]) -> RunDetail:
    change = await read_body(request, RunChange)
    if change.project_id is not msgspec.UNSET:
        actor(request).project_for(change.project_id)
    with acting(request) as actions:
        return actions.change_run(run_of(request), change)


@patch(
    "/runs/{run_id:str}",
    **_change(
        "change_run", "Change fields of a run; params are added or changed, metrics are added as points.", _CHANGE,
        fails=(400, 404, 409, 415),
    ),
)  # fmt: skip
async def patch_run(request: Request[Any, Any, Any]) -> RunDetail:
    """Change it, and answer with the run as it is then."""
    return await _changed(request)


@put(
    "/runs/{run_id:str}",
    **_change("change_run_by_put", "The same as PATCH: what is left out stays.", _CHANGE, fails=(400, 404, 409, 415)),
)
async def put_run(request: Request[Any, Any, Any]) -> RunDetail:
    """Change it, and answer with the run as it is then."""
    return await _changed(request)


@delete(
    "/runs/{run_id:str}", status_code=204,
    **_change("trash_run", "Put a run in the trash; nothing of it is lost.", fails=(400, 404, 409), example=None),
)  # fmt: skip
def delete_run(request: Request[Any, Any, Any]) -> None:
    """Put it there."""
    with acting(request) as actions:
        actions.trash_run(run_of(request))


@post(
    "/runs/{run_id:str}/restore", status_code=200,
    **_change("restore_run", "Take a run out of the trash.", fails=(400, 404, 409)),
)  # fmt: skip
def restore_run(request: Request[Any, Any, Any]) -> RunDetail:
    """Take it out, and answer with the run as it is then."""
    with acting(request) as actions:
        return actions.restore_run(run_of(request))


@patch(
    "/runs/{run_id:str}/note",
    **_change("note", "Set the note of a run; the one before stays among its changes.", NoteBody(note="PUBLISH: best model")),
)
async def patch_note(request: Request[Any, Any, Any]) -> RunDetail:
    """Change the note, and answer with the run as it is then."""
    wanted = await read_body(request, NoteBody)
    with acting(request) as actions:
        return actions.note(run_of(request), wanted.note)


@post(
    "/runs/{run_id:str}/flag", status_code=200,
    **_change("flag", f"Flag a run {', '.join(FLAGS)}: the tag, and the word in front of the note.", FlagBody(flag="BEST")),
)  # fmt: skip
async def post_flag(request: Request[Any, Any, Any]) -> RunDetail:
    """Flag it, and answer with the run as it is then."""
    wanted = await read_body(request, FlagBody)
    with acting(request) as actions:
        return actions.flag(run_of(request), wanted.flag)


@post(
    "/runs/{run_id:str}/tags", status_code=200,
    **_change("tag", "Set tags of a run, and take others away.", TagsBody(set={"baseline": None, "team": "cv"}, remove=["old"])),
)  # fmt: skip
async def post_tags(request: Request[Any, Any, Any]) -> RunDetail:
    """Set and remove them, and answer with the run as it is then."""
    wanted = await read_body(request, TagsBody)
    with acting(request) as actions:
        return actions.tag(run_of(request), wanted.set, remove=wanted.remove)


@post(
    "/runs/{run_id:str}/events",
    **_change(
        "log_events", "Add events of a run: points, parameters, tags, its end; all of them or none.",
        EventsBody(events=[
            LoggedEvent(kind="metrics.logged", data={"values": {"loss": 0.3}, "step": 1}),
            LoggedEvent(kind="run.finished", data={"status": "completed"}),
        ]),
        example=Added(added=2),
    ),
)  # fmt: skip
async def post_events(request: Request[Any, Any, Any]) -> Response[Added]:
    """Add them, and answer with their number."""
    wanted = await read_body(request, EventsBody)
    if not wanted.events:
        raise FilterError("no events", where="body.events", hint='{"events": [{"kind": "metrics.logged", "data": {…}}]}')
    with acting(request) as actions:
        return Response(Added(actions.log_events(run_of(request), wanted.events)), status_code=201)


def prefers_html(accept: str) -> bool:
    """Whether an Accept header puts text/html strictly before application/json; what does not parse counts as absent."""
    weights = {"text/html": (-1, 0.0), "application/json": (-1, 0.0)}
    for part in accept.lower().split(","):
        kind, *parameters = (word.strip() for word in part.split(";"))
        weight = next((_weight(p.partition("=")[2]) for p in parameters if p.startswith("q=")), 1.0)
        for wanted, (exactness, _) in weights.items():
            fit = (kind == "*/*", kind == wanted.partition("/")[0] + "/*", kind == wanted)
            if True in fit and fit.index(True) > exactness:
                weights[wanted] = (fit.index(True), weight)
    return weights["text/html"][1] > weights["application/json"][1]


def _weight(text: str) -> float:
    try:
        return min(1.0, max(0.0, float(text)))
    except ValueError:
        return 0.0


HANDLERS = [
    list_runs, create_run, get_run, patch_run, put_run, delete_run, restore_run, patch_note, post_flag, post_tags, post_events,
]  # fmt: skip
