"""/changes: what was changed after it was first set, by whom, and what it was before."""

from typing import Any

from litestar import Request, Response, get

from ailab import queries
from ailab.filters import LIMIT_DEFAULT
from ailab.queries import Change

from .. import examples
from ..catalogue import lab_of
from ..contract import LIMIT, asked, named, route


def _changes(request: Request[Any, Any, Any], run_id: str | None) -> Response[list[Change]]:
    page = queries.list_changes(lab_of(request), run_id=run_id, limit=asked(request).count("limit", default=LIMIT_DEFAULT))
    return Response(page.rows, headers={"X-Total-Count": str(page.total)})


@get(
    "/changes",
    **route("list_changes", "All changes, newest first.", tag="changes", asks=(LIMIT,), example=[examples.CHANGE], total=True),
)
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
    ),
)
def list_run_changes(request: Request[Any, Any, Any]) -> Response[list[Change]]:
    """Answer with a page of changes."""
    return _changes(request, named(request, "run_id"))


HANDLERS = [list_changes, list_run_changes]
