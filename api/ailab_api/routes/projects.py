"""/projects: what runs and datasets belong to, with what is in it."""

from typing import Any

from litestar import Request, Response, delete, get, patch, post, put

from ailab import inventory, queries
from ailab.bodies import NewProject, ProjectChange
from ailab.filters import LIMIT_DEFAULT, RunFilter
from ailab.inventory import DatasetFilter, DatasetView, ProjectView
from ailab.queries import RunSummaryView

from .. import examples
from ..catalogue import acting, catalogue_of, lab_of, project_of
from ..contract import LIMIT, LOCATED, PAGED, Ask, actor, asked, read_body, route
from .runs import CURSOR, paged

_ASKS = (
    Ask("q", "Projects with this text in id, name or description.", "iris"),
    Ask("trashed", "Those in the trash instead.", "false", type="boolean"),
    LIMIT,
)


@get(
    "/projects",
    **route("list_projects", "Projects with what is in them, the most active first.", tag="projects", asks=_ASKS,
            example=[examples.PROJECT], total=True, confined=True),
)  # fmt: skip
def list_projects(request: Request[Any, Any, Any]) -> Response[list[ProjectView]]:
    """Answer with a page of projects."""
    question, only = asked(request), actor(request).project
    page = inventory.list_projects(
        lab_of(request), q=question.one("q"), trashed=bool(question.switch("trashed")),
        limit=question.count("limit", default=LIMIT_DEFAULT), only=only,
    )  # fmt: skip
    return Response(page.rows, headers=paged(request, page))


@post(
    "/projects",
    **route("create_project", "Make a project; its id comes from its name.", tag="projects", example=examples.PROJECT,
            body=NewProject(name="Iris", description="flowers"), needs="writer", headers=LOCATED, fails=(400, 409, 415)),
)  # fmt: skip
async def create_project(request: Request[Any, Any, Any]) -> Response[ProjectView]:
    """Make it, and answer with the project."""
    new = await read_body(request, NewProject)
    with acting(request) as actions:
        found = actions.create_project(new)
    return Response(found, status_code=201, headers={"Location": f"/projects/{found.project_id}"})


@get(
    "/projects/{project_id:str}",
    **route("get_project", "One project, in the trash or not.", tag="projects", example=examples.PROJECT, confined=True,
            fails=(400, 404)),
)  # fmt: skip
def get_project(request: Request[Any, Any, Any]) -> ProjectView:
    """Answer with the project."""
    return inventory.get_project(lab_of(request), project_of(request))


async def _changed(request: Request[Any, Any, Any]) -> ProjectView:
    change = await read_body(request, ProjectChange)
    with acting(request) as actions:
        return actions.change_project(project_of(request), change)


def _route(name: str, summary: str, *, changes: bool = False) -> dict[str, Any]:
    body = ProjectChange(name="Iris flowers", description="Fisher's measurements") if changes else None
    return route(
        name, summary, tag="projects", example=examples.PROJECT, body=body, needs="writer", confined=True,
        fails=(400, 404, 409, 415) if changes else (400, 404, 409),
    )  # fmt: skip


@put("/projects/{project_id:str}", **_route("change_project", "Change its label or description; its id stays.", changes=True))
async def put_project(request: Request[Any, Any, Any]) -> ProjectView:
    """Change it, and answer with the project."""
    return await _changed(request)


@patch("/projects/{project_id:str}", **_route("change_project_by_patch", "The same as PUT.", changes=True))
async def patch_project(request: Request[Any, Any, Any]) -> ProjectView:
    """Change it, and answer with the project."""
    return await _changed(request)


@delete(
    "/projects/{project_id:str}", status_code=204,
    **_route("trash_project", "Put a project in the trash, with its runs and datasets; refused while a run of it is protected."),
)  # fmt: skip
def delete_project(request: Request[Any, Any, Any]) -> None:
    """Put it there."""
    with acting(request) as actions:
        actions.trash_project(project_of(request))


@post(
    "/projects/{project_id:str}/restore", status_code=200,
    **_route("restore_project", "Take a project out of the trash: exactly what went there with it is there again."),
)  # fmt: skip
def restore_project(request: Request[Any, Any, Any]) -> ProjectView:
    """Take it out, and answer with the project."""
    with acting(request) as actions:
        return actions.restore_project(project_of(request))


@get(
    "/projects/{project_id:str}/datasets",
    **route("list_project_datasets", "Newest versions of the datasets of a project.", tag="projects", asks=(LIMIT,),
            example=[examples.DATASET], total=True, confined=True, fails=(400, 404)),
)  # fmt: skip
def list_project_datasets(request: Request[Any, Any, Any]) -> Response[list[DatasetView]]:
    """Answer with a page of datasets."""
    lab, project = lab_of(request), project_of(request)
    inventory.get_project(lab, project)
    limit = asked(request).count("limit", default=LIMIT_DEFAULT)
    page = inventory.list_datasets(lab, DatasetFilter(project_id=project, limit=limit))
    return Response(page.rows, headers=paged(request, page))


@get(
    "/projects/{project_id:str}/runs",
    **route("list_project_runs", "Runs of a project, newest first.", tag="projects",
            asks=(Ask("cursor", "Go on behind a page: the cursor of its Link header.", CURSOR), LIMIT),
            example=[examples.SUMMARY], total=True, headers=PAGED, confined=True, fails=(400, 404), waits=True),
)  # fmt: skip
async def list_project_runs(request: Request[Any, Any, Any]) -> Response[list[RunSummaryView]]:
    """Answer with a page of runs."""
    project, question = project_of(request), asked(request)
    inventory.get_project(lab_of(request), project)
    f = RunFilter(project_id=project, limit=question.count("limit", default=LIMIT_DEFAULT), cursor=question.one("cursor"))
    page = await catalogue_of(request).ask(lambda lab: queries.list_runs(lab, f))
    return Response(page.rows, headers=paged(request, page))


HANDLERS = [
    list_projects, create_project, get_project, put_project, patch_project, delete_project, restore_project,
    list_project_datasets, list_project_runs,
]  # fmt: skip
