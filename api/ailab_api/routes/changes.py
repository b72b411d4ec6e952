"""/changes: what was changed after it was first set, by whom, and what it was before."""

from typing import Any

from litestar import Request, Response, get, post

from ailab import queries
from ailab.errors import NotFoundError
from ailab.filters import LIMIT_DEFAULT, LIMIT_MAX
from ailab.queries import Change

from .. import examples
from ..catalogue import acting, lab_of, run_of
from ..contract import LIMIT, actor, asked, named, route


def _changes(request: Request[Any, Any, Any], run_id: str | None) -> Response[list[Change]]:
    limit = asked(request).count("limit", default=LIMIT_DEFAULT)
    page = queries.list_changes(lab_of(request), run_id=run_id, project_id=actor(request).project, limit=limit)
    return Response(page.rows, headers={"X-Total-Count": str(page.total)})


@get(
    "/changes",
    **route("list_changes", "All changes, newest first.", tag="changes", asks=(LIMIT,), example=[examples.CHANGE], total=True,
            confined=True),
)  # fmt: skip
def list_changes(request: Request[Any, Any, Any]) -> Response[list[Change]]:
    """Answer with a page of changes."""
    return _changes(request, None)


@get(
    "/runs/{run_id:str}/changes",
    **route(
        "list_run_changes",
        "Changes of one run, newest first.",
        tag="changes",
        asks=(LIMIT,),
        example=[examples.CHANGE],
        total=True,
        fails=(400, 404),
        confined=True,
    ),
)
def list_run_changes(request: Request[Any, Any, Any]) -> Response[list[Change]]:
    """Answer with a page of changes."""
    return _changes(request, run_of(request))


@post(
    "/changes/{event:str}/undo", status_code=200,
    **route("undo", "Take a change of a run, project or dataset back; answers with what that changed.", tag="changes",
            example=[examples.CHANGE], needs="writer", confined=True, fails=(400, 404, 409)),
)  # fmt: skip
def undo(request: Request[Any, Any, Any]) -> list[Change]:
    """Undo it, and answer with the changes that this made."""
    event, who = named(request, "event"), actor(request)
    if who.project is not None:
        page = queries.list_changes(lab_of(request), project_id=who.project, limit=LIMIT_MAX, event=event)
        if not page.rows:
            raise NotFoundError("change", event)
    with acting(request) as actions:
        return actions.undo(event)


HANDLERS = [list_changes, list_run_changes, undo]
