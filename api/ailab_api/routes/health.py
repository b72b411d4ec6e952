"""/health: whether the server answers."""

from typing import Any

from litestar import Request, get

from ailab.queries import Health

from .. import examples
from ..catalogue import catalogue_of
from ..contract import route


@get(
    "/health",
    **route(
        "health",
        "Whether the server answers, and the installation's name.",
        tag="health",
        example=examples.HEALTH,
        needs="none",
        confined=True,
    ),
)
def get_health(request: Request[Any, Any, Any]) -> Health:
    """Answer."""
    return Health(status="ok", project=catalogue_of(request).project)


HANDLERS = [get_health]
