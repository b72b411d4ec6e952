"""/health: whether the server answers; /whoami: who it takes a client for."""

from typing import Any

import msgspec
from litestar import Request, get

from ailab.queries import Health

from .. import examples
from ..catalogue import catalogue_of
from ..contract import actor, route


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


class WhoAmI(msgspec.Struct, kw_only=True):
    """Who a client is to the server: the token's name and id, or null; its role, the only project it reaches, its address."""

    by: str | None
    token: str | None
    role: str
    project_id: str | None
    address: str
    anonymous: bool


@get(
    "/whoami",
    **route(
        "whoami", "Who the server takes a client for, and what it may.", tag="health", confined=True,
        example=WhoAmI(
            by="ci", token=examples.TOKEN, role="writer", project_id=None, address="10.0.0.7", anonymous=False,
        ),
    ),
)  # fmt: skip
def get_whoami(request: Request[Any, Any, Any]) -> WhoAmI:
    """Answer."""
    who = actor(request)
    return WhoAmI(
        by=who.by, token=who.token, role=who.role, project_id=who.project, address=who.address, anonymous=who.anonymous,
    )  # fmt: skip


HANDLERS = [get_health, get_whoami]
