"""/api/modellab: the paths, bodies and envelopes of ModelLab, so that its clients work against this server as they are.

Every handler calls the query or action that ours calls, and says the answer in ModelLab's words (`ailab_api.modellab`). PATCH is
the same as PUT; what is left out stays. Lists are whole up to a thousand, with their full count in X-Total-Count.
"""

import time
from datetime import datetime, timezone
from typing import Any

from litestar import Request, Response, delete, get, patch, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream

import ailab
from ailab import inventory, queries
from ailab.bodies import NewProject, ProjectChange, as_tags
from ailab.filters import LIMIT_MAX, RunFilter
from ailab.inventory import DatasetDetail, DatasetFilter, DatasetPreview, ProjectView
from ailab.queries import ArtifactFile, Page, RunDetail
from ailab.views import Lab

from .. import examples
from ..catalogue import acting, catalogue_of, dataset_of, lab_of, project_of, run_of
from ..contract import LOCATED, PAGED, Ask, Asked, actor, asked, named, read_body
from ..downloads import download
from ..modellab import (
    PREFIX,
    STATUS_WORDS,
    ArtifactRecord,
    DatasetUpdate,
    RunBegin,
    RunUpdate,
    artifact_answer,
    begin,
    dataset_answer,
    modellab_route,
    project_answer,
    read_either,
    respelt,
    run_answer,
    status_of,
    there,
    update,
)
from ..uploads import received
from . import artifacts, datasets
from .runs import CURSOR, paged

Answer = dict[str, Any]

_STARTED = time.monotonic()
_LIMIT = Ask("limit", "How many at most, 1 to 1,000; by default as many.", "10", type="integer", default=LIMIT_MAX)
_OF_PROJECT = (Ask("project_id", "Those of this project.", "iris"), Ask("projectId", "The same as project_id.", "iris"))
_CURSOR = Ask("cursor", "Go on behind a page: the cursor of its Link header.", CURSOR)
_OF_RUNS = (
    *_OF_PROJECT,
    Ask("dataset_id", "Runs on this dataset.", "iris@v1"),
    Ask("datasetId", "The same as dataset_id.", "iris@v1"),
    Ask("status", "Runs in this state; created means pending.", "completed", choices=STATUS_WORDS),
    Ask("model_type", "Runs whose parameter model_type has this value.", "svm"),
    _CURSOR, _LIMIT,
)  # fmt: skip


def _either(question: Asked, name: str, twin: str) -> str | None:
    """A query parameter in either spelling."""
    return question.one(name) or question.one(twin)


def _enveloped(request: Request[Any, Any, Any], name: str, rows: list[Answer], page: Page) -> Response[Answer]:
    return Response({name: rows}, headers=paged(request, page))


def _both(path: str, change: Any, name: str, summary: str, **more: Any) -> list[HTTPRouteHandler]:
    """The handlers of PUT and PATCH, which do the same."""
    return [
        put(path, **modellab_route(name, summary, needs="writer", **more))(change),
        patch(path, **modellab_route(f"{name}_by_patch", "The same as PUT.", needs="writer", **more))(change),
    ]


# -- health ------------------------------------------------------------------------------------------------------------


@get(
    "/api/health",
    **modellab_route(
        "health", "Whether the server answers, and how many runs there are.",
        example={
            "status": "healthy", "timestamp": examples.LATER, "environment": "ailab", "version": ailab.__version__,
            "uptime": 12.5, "database": {"status": "connected", "runs": 2},
        },
    ),
)  # fmt: skip
def get_health(request: Request[Any, Any, Any]) -> Answer:
    """Answer."""
    page = queries.list_runs(lab_of(request), RunFilter(project_id=actor(request).project, limit=1))
    return {
        "status": "healthy", "timestamp": queries.stamp(datetime.now(timezone.utc).replace(tzinfo=None)),
        "environment": catalogue_of(request).project, "version": ailab.__version__, "uptime": time.monotonic() - _STARTED,
        "database": {"status": "connected", "runs": page.total},
    }  # fmt: skip


# -- projects ----------------------------------------------------------------------------------------------------------

_PROJECT = {"project": project_answer(examples.PROJECT)}


def _project(request: Request[Any, Any, Any]) -> ProjectView:
    """The project that a path names, which is not in the trash."""
    found = inventory.get_project(lab_of(request), project_of(request))
    there("project", found.project_id, trashed=found.trashed)
    return found


@get(
    f"{PREFIX}/projects",
    **modellab_route("list_projects", "Projects with what is in them, the most active first.", asks=(_LIMIT,),
                     example={"projects": [_PROJECT["project"]]}, total=True),
)  # fmt: skip
def list_projects(request: Request[Any, Any, Any]) -> Response[Answer]:
    """Answer with the projects."""
    limit = asked(request).count("limit", default=LIMIT_MAX)
    page = inventory.list_projects(lab_of(request), limit=limit, only=actor(request).project)
    return _enveloped(request, "projects", [project_answer(row) for row in page.rows], page)


@post(
    f"{PREFIX}/projects",
    **modellab_route(
        "create_project", "Make a project; its id comes from its name.", body=NewProject(name="Iris", description="flowers"),
        example=_PROJECT, needs="writer", confined=False, headers=LOCATED, fails=(400, 409, 415),
    ),
)  # fmt: skip
async def create_project(request: Request[Any, Any, Any]) -> Response[Answer]:
    """Make it, and answer with the project."""
    new = await read_body(request, NewProject)
    with acting(request) as actions:
        found = actions.create_project(new)
    headers = {"Location": f"{PREFIX}/projects/{found.project_id}"}
    return Response({"project": project_answer(found)}, status_code=201, headers=headers)


@get(f"{PREFIX}/projects/{{project_id:str}}", **modellab_route("get_project", "One project.", example=_PROJECT, fails=(400, 404)))
def get_project(request: Request[Any, Any, Any]) -> Answer:
    """Answer with the project."""
    return {"project": project_answer(_project(request))}


async def _change_project(request: Request[Any, Any, Any]) -> Answer:
    """Change it, and answer with the project."""
    change = await read_body(request, ProjectChange)
    with acting(request) as actions:
        return {"project": project_answer(actions.change_project(_project(request).project_id, change))}


@delete(
    f"{PREFIX}/projects/{{project_id:str}}", status_code=204,
    **modellab_route("delete_project", "Put a project in the trash, with its runs and datasets.", example=None, needs="writer",
                     fails=(400, 404, 409)),
)  # fmt: skip
def delete_project(request: Request[Any, Any, Any]) -> None:
    """Put it there."""
    with acting(request) as actions:
        actions.trash_project(_project(request).project_id)


# -- datasets ----------------------------------------------------------------------------------------------------------


def _described(found: DatasetDetail) -> Answer:
    return {"dataset": dataset_answer(found, found.metadata, found.columns_detail)}


_DATASET = _described(examples.DATASET_DETAIL)


def _dataset(request: Request[Any, Any, Any]) -> DatasetDetail:
    """The version of a dataset that a path means, which is not in the trash."""
    found = inventory.get_dataset(lab_of(request), dataset_of(request), only=actor(request).project)
    there("dataset", found.dataset_id, trashed=found.trashed)
    return found


def _datasets(request: Request[Any, Any, Any], project: str | None) -> Response[Answer]:
    lab, limit = lab_of(request), asked(request).count("limit", default=LIMIT_MAX)
    page = inventory.list_datasets(lab, DatasetFilter(project_id=project, limit=limit))
    found = inventory.dataset_contents(lab, [row.dataset_id for row in page.rows])
    rows = [dataset_answer(row, *found[row.dataset_id]) for row in page.rows]
    return _enveloped(request, "datasets", rows, page)


@get(
    f"{PREFIX}/datasets",
    **modellab_route("list_datasets", "The newest version of every dataset, newest first.", asks=(*_OF_PROJECT, _LIMIT),
                     example={"datasets": [_DATASET["dataset"]]}, total=True, fails=(400, 404)),
)  # fmt: skip
def list_datasets(request: Request[Any, Any, Any]) -> Response[Answer]:
    """Answer with the datasets."""
    return _datasets(request, actor(request).project_for(_either(asked(request), "project_id", "projectId")))


@get(
    f"{PREFIX}/projects/{{project_id:str}}/datasets",
    **modellab_route("list_project_datasets", "The datasets of a project.", asks=(_LIMIT,), total=True, fails=(400, 404),
                     example={"datasets": [_DATASET["dataset"]]}),
)  # fmt: skip
def list_project_datasets(request: Request[Any, Any, Any]) -> Response[Answer]:
    """Answer with the datasets."""
    return _datasets(request, _project(request).project_id)


def _upload_route(name: str, summary: str) -> dict[str, Any]:
    return modellab_route(
        name, summary, asks=datasets._FIELDS, example=_DATASET, needs="writer", counts="uploads", upload=datasets._FIELDS[:-1],
        again=True, headers=LOCATED,
        fails=(400, 404, 409, 413, 415),
    )  # fmt: skip


async def _upload_dataset(request: Request[Any, Any, Any]) -> Response[Answer]:
    """Receive it, read it, keep it, and answer with the version."""
    question = asked(request)
    async with received(request, catalogue_of(request).store) as upload:
        added = await datasets.add(request, upload, dict(question.pairs) | respelt(upload.fields))
    headers = {"Location": f"{PREFIX}/datasets/{added.content.dataset_id}"}
    return Response(_described(added.content), status_code=added.status_code, headers=headers)


@get(
    f"{PREFIX}/datasets/{{dataset_id:str}}",
    **modellab_route("get_dataset", "One version of a dataset.", example=_DATASET, fails=(400, 404)),
)
def get_dataset(request: Request[Any, Any, Any]) -> Answer:
    """Answer with the version."""
    return _described(_dataset(request))


async def _change_dataset(request: Request[Any, Any, Any]) -> Answer:
    """Change it, and answer with the version."""
    said = await read_either(request, DatasetUpdate)
    if said.project_id is not None:
        actor(request).project_for(said.project_id)
    with acting(request) as actions:
        return _described(actions.change_dataset(_dataset(request).dataset_id, said.fields()))


@delete(
    f"{PREFIX}/datasets/{{dataset_id:str}}", status_code=204,
    **modellab_route("delete_dataset", "Put a version of a dataset in the trash.", example=None, needs="writer",
                     fails=(400, 404)),
)  # fmt: skip
def delete_dataset(request: Request[Any, Any, Any]) -> None:
    """Put it there."""
    with acting(request) as actions:
        actions.trash_dataset(_dataset(request).dataset_id)


@get(
    f"{PREFIX}/datasets/{{dataset_id:str}}/preview",
    **modellab_route(
        "preview_dataset", "The first rows.", example=examples.PREVIEW, waits=True, fails=(400, 404),
        asks=(Ask("limit", "How many at most, 1 to 100.", "5", type="integer", default=inventory.PREVIEW_MAX,
                  most=inventory.PREVIEW_MAX),),
    ),
)  # fmt: skip
async def preview_dataset(request: Request[Any, Any, Any]) -> DatasetPreview:
    """Answer with the rows, read in a process of its own; the envelope is ours as well."""
    limit = asked(request).count("limit", default=inventory.PREVIEW_MAX)
    found, given = inventory.preview_job(lab_of(request), _dataset(request).dataset_id, limit)
    return await datasets.previewed(request, found, given)


# -- runs --------------------------------------------------------------------------------------------------------------

_RUN = {"run": run_answer(examples.DETAIL)}
_BEGIN = RunBegin(name="svm", project_id="iris", seed=42, config={"learning_rate": 0.1}, tags=["baseline"], status="running")
_UPDATE = RunUpdate(status="completed", config={"kernel": "rbf"}, metrics={"accuracy": 0.97})


def _run(request: Request[Any, Any, Any], run_id: str) -> RunDetail:
    """A run that is not in the trash."""
    found = queries.get_run(lab_of(request), run_id)
    actor(request).check_project("run", run_id, found.project_id)
    there("run", run_id, trashed=found.trashed)
    return found


async def _runs(request: Request[Any, Any, Any], project: str | None) -> Response[Answer]:
    question = asked(request)
    status, kind = question.one("status"), question.one("model_type")
    f = RunFilter(
        project_id=project, dataset_id=_either(question, "dataset_id", "datasetId"),
        status=status if status in {None, "crashed"} else status_of(status or ""),
        params={} if kind is None else {"model_type": kind},
        cursor=question.one("cursor"), limit=question.count("limit", default=LIMIT_MAX),
    )  # fmt: skip

    def find(lab: Lab) -> tuple[Page, list[RunDetail]]:
        page = queries.list_runs(lab, f)
        return page, queries.get_runs_by_ids(lab, [row.run_id for row in page.rows])

    page, found = await catalogue_of(request).ask(find)
    return _enveloped(request, "runs", [run_answer(run) for run in found], page)


@get(
    f"{PREFIX}/runs",
    **modellab_route("list_runs", "Runs, newest first.", asks=_OF_RUNS, example={"runs": [_RUN["run"]]}, total=True,
                     headers=PAGED, fails=(400, 404), waits=True),
)  # fmt: skip
async def list_runs(request: Request[Any, Any, Any]) -> Response[Answer]:
    """Answer with the runs."""
    return await _runs(request, actor(request).project_for(_either(asked(request), "project_id", "projectId")))


@get(
    f"{PREFIX}/projects/{{project_id:str}}/runs",
    **modellab_route("list_project_runs", "The runs of a project, newest first.", asks=(_CURSOR, _LIMIT), total=True,
                     headers=PAGED, example={"runs": [_RUN["run"]]}, fails=(400, 404), waits=True),
)  # fmt: skip
async def list_project_runs(request: Request[Any, Any, Any]) -> Response[Answer]:
    """Answer with the runs."""
    return await _runs(request, _project(request).project_id)


@post(
    f"{PREFIX}/runs",
    **modellab_route("create_run", "Begin a run; without a status it is pending.", body=_BEGIN, example=_RUN, needs="writer",
                     headers=LOCATED, fails=(400, 404, 409, 415)),
)  # fmt: skip
async def create_run(request: Request[Any, Any, Any]) -> Response[Answer]:
    """Begin it, say what is known of it already, and answer with the run."""
    said = await read_either(request, RunBegin)
    new, rest = begin(said, actor(request).project_for(said.project_id))
    with acting(request) as actions:
        run = actions.create_run(new)
        run = actions.change_run(run.run_id, rest)
    return Response({"run": run_answer(run)}, status_code=201, headers={"Location": f"{PREFIX}/runs/{run.run_id}"})


@get(
    f"{PREFIX}/runs/{{run_id:str}}",
    **modellab_route("get_run", "One run, and the evaluations of it, of which there are none yet.",
                     example={**_RUN, "evaluations": []}, fails=(400, 404)),
)  # fmt: skip
def get_run(request: Request[Any, Any, Any]) -> Answer:
    """Answer with the run."""
    return {"run": run_answer(_run(request, run_of(request))), "evaluations": []}


async def _change_run(request: Request[Any, Any, Any]) -> Answer:
    """Change it, and answer with the run as it is then."""
    said = await read_either(request, RunUpdate)
    if said.project_id is not None:
        actor(request).project_for(said.project_id)
    with acting(request) as actions:
        run = _run(request, run_of(request))
        tags = None if said.tags is None else as_tags(said.tags)
        run = actions.change_run(run.run_id, update(run, said))
        if tags is not None and tags != run.tags:
            run = actions.tag(run.run_id, tags, remove=run.tags.keys() - tags.keys())
    return {"run": run_answer(run)}


@delete(
    f"{PREFIX}/runs/{{run_id:str}}", status_code=204,
    **modellab_route("delete_run", "Put a run in the trash.", example=None, needs="writer", fails=(400, 404, 409)),
)  # fmt: skip
def delete_run(request: Request[Any, Any, Any]) -> None:
    """Put it there."""
    with acting(request) as actions:
        actions.trash_run(_run(request, run_of(request)).run_id)


# -- artifacts ---------------------------------------------------------------------------------------------------------

_ARTIFACT = {"artifact": artifact_answer(examples.RUN_ID, examples.FILE)}


@get(
    f"{PREFIX}/artifacts/{{run_id:str}}",
    **modellab_route("list_artifacts", "The files of a run, newest first, each in its newest version.", fails=(400, 404),
                     example={"artifacts": [_ARTIFACT["artifact"]]}),
)  # fmt: skip
def list_artifacts(request: Request[Any, Any, Any]) -> Answer:
    """Answer with the files."""
    run = _run(request, run_of(request))
    newest: dict[str, ArtifactFile] = {}
    for file in run.artifact_files:
        if not file.trashed:
            newest.setdefault(file.path, file)
    return {"artifacts": [artifact_answer(run.run_id, file) for file in newest.values()]}


@post(
    f"{PREFIX}/artifacts",
    **modellab_route(
        "log_artifact", "Note a file that stays where it is: only name, size and SHA-256 are kept.", example=_ARTIFACT,
        body=ArtifactRecord(run_id=examples.RUN_ID, name="model.pkl", type="model", size=812, checksum=examples.SHA256),
        needs="writer", headers=LOCATED, fails=(400, 404, 415),
    ),
)  # fmt: skip
async def log_artifact(request: Request[Any, Any, Any]) -> Response[Answer]:
    """Note it, and answer with the file."""
    said = await read_either(request, ArtifactRecord)
    artifacts.check_place(said.name)
    metadata = (said.metadata or {}) | ({} if said.path is None else {"path": said.path})
    with acting(request) as actions:
        run = _run(request, said.run_id)
        found = actions.add_artifact(
            run.run_id, said.name, sha256=said.checksum, size=said.size, kind=said.type, metadata=metadata, reference=True
        )
    return _added(run.run_id, found)


@post(
    f"{PREFIX}/artifacts/{{run_id:str}}",
    **modellab_route(
        "upload_artifact", "Add a file to a run, the next version of its path.", asks=artifacts._FIELDS, example=_ARTIFACT,
        needs="writer", counts="uploads", upload=artifacts._FIELDS,
        body=artifacts.REFERENCE, headers=LOCATED, fails=(400, 404, 413, 415),
    ),
)  # fmt: skip
async def upload_artifact(request: Request[Any, Any, Any]) -> Response[Answer]:
    """Receive it, keep it, and answer with the file."""
    run = _run(request, run_of(request))
    return _added(run.run_id, (await artifacts.post_artifact.fn(request)).content)


def _added(run_id: str, found: ArtifactFile) -> Response[Answer]:
    answered = artifact_answer(run_id, found)
    return Response({"artifact": answered}, status_code=201, headers={"Location": answered["url"]})


@get(
    f"{PREFIX}/artifacts/{{run_id:str}}/download/{{path:path}}",
    **modellab_route("download_artifact", "The bytes of a file; takes Range, ETag is its SHA-256.", fails=(400, 404),
                     example="epoch,train_loss,val_loss\n0,0.91,0.95\n", file=True),
)  # fmt: skip
def download_artifact(request: Request[Any, Any, Any]) -> Stream | Response[Any]:
    """Answer with the bytes."""
    run, path = _run(request, run_of(request)), named(request, "path").removeprefix("/")
    found, file = queries.open_artifact(lab_of(request), run.run_id, path)
    return download(request, file, size=found.size, sha256=found.sha256, name=found.name)


@delete(
    f"{PREFIX}/artifacts/{{run_id:str}}/download/{{path:path}}", status_code=204,
    **modellab_route("delete_artifact", "Put all versions of a file in the trash.", example=None, needs="writer",
                     fails=(400, 404, 409)),
)  # fmt: skip
def delete_artifact(request: Request[Any, Any, Any]) -> None:
    """Put it there."""
    run = _run(request, run_of(request))
    with acting(request) as actions:
        actions.trash_artifact(run.run_id, named(request, "path").removeprefix("/"))


_CHANGED = (400, 404, 409, 415)
HANDLERS: list[HTTPRouteHandler] = [
    get_health,
    list_projects, create_project, get_project,
    *_both(f"{PREFIX}/projects/{{project_id:str}}", _change_project, "change_project", "Change its label or description.",
           body=ProjectChange(name="Iris flowers"), example=_PROJECT, fails=(400, 404, 409, 415)),
    delete_project, list_project_datasets, list_project_runs,
    list_datasets,
    post(f"{PREFIX}/datasets", **_upload_route("add_dataset", "Add a file: the next version of its dataset."))(_upload_dataset),
    post(f"{PREFIX}/datasets/upload", **_upload_route("upload_dataset", "The same by another path."))(_upload_dataset),
    get_dataset,
    *_both(f"{PREFIX}/datasets/{{dataset_id:str}}", _change_dataset, "change_dataset", "Change what is said of a version.",
           body=DatasetUpdate(description="Fisher's flowers", tags=["gold"]), example=_DATASET, fails=_CHANGED),
    delete_dataset, preview_dataset,
    list_runs, create_run, get_run,
    *_both(f"{PREFIX}/runs/{{run_id:str}}", _change_run, "change_run", "Change a run; config and metrics are added or changed.",
           body=_UPDATE, example=_RUN, fails=_CHANGED),
    delete_run,
    list_artifacts, log_artifact, upload_artifact, download_artifact, delete_artifact,
]  # fmt: skip
