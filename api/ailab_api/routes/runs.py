"""/runs: the list with its filters, one run, its note."""

from typing import Any

import msgspec
from litestar import MediaType, Request, Response, get, patch

from ailab import queries
from ailab.filters import STATUSES, RunFilter
from ailab.queries import RunDetail, RunSummaryView

from .. import examples
from ..catalogue import catalogue_of, lab_of
from ..contract import LIMIT, Ask, asked, named, read_body, route
from ..pages.run import run_page

FILTERS = (
    Ask("dataset_id", "Runs on this dataset, as it was given.", "iris@v1"),
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
    Ask("sort", "A column, metrics.NAME or params.NAME; - in front for falling.", "-metrics.accuracy", default="-started_at"),
    LIMIT,
)  # fmt: skip


FORMAT = Ask(
    "format",
    "By default what Accept prefers: a browser gets a page, all others JSON.",
    "json",
    choices=("json", "html"),
)


class NoteBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a change of a note; no other field of a run can be changed here."""

    note: str


@get(
    "/runs",
    **route(
        "list_runs", "Runs that all filters keep, newest first.", tag="runs", asks=FILTERS, example=[examples.SUMMARY], total=True
    ),
)
def list_runs(request: Request[Any, Any, Any]) -> Response[list[RunSummaryView]]:
    """Answer with a page of runs."""
    page = queries.list_runs(lab_of(request), RunFilter.parse(asked(request).pairs))
    return Response(page.rows, headers={"X-Total-Count": str(page.total)})


@get(
    "/runs/{run_id:str}",
    **route(
        "get_run",
        "Everything about one run; a browser, which prefers text/html, gets a page.",
        tag="runs",
        asks=(FORMAT,),
        example=examples.DETAIL,
        fails=(400, 404),
    ),
)
def get_run(request: Request[Any, Any, Any]) -> Response[RunDetail]:
    """Answer with the run, or its page."""
    headers = {"Vary": "Accept"}
    run_id = named(request, "run_id")
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
    return run_page(run, curves=curves, changes=changes, project=catalogue_of(request).project)


@patch(
    "/runs/{run_id:str}/note",
    **route(
        "note", "Set the note of a run; the one before stays among its changes.", tag="runs", example=examples.DETAIL,
        body=NoteBody(note="PUBLISH: best model"), fails=(400, 404, 415, 503),
    ),
)  # fmt: skip
async def patch_note(request: Request[Any, Any, Any]) -> RunDetail:
    """Change the note, and answer with the run as it is then."""
    wanted = await read_body(request, NoteBody)
    return catalogue_of(request).note(named(request, "run_id"), wanted.note)


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


HANDLERS = [list_runs, get_run, patch_note]
