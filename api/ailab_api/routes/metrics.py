"""/metrics: what Prometheus scrapes. A scrape is a question like any other: it reads what is new, and counts what is known."""

from typing import Any

from litestar import Request, Response, get

import ailab

from .. import examples
from ..catalogue import catalogue_of
from ..contract import route
from ..exposition import MEDIA_TYPE, exposition
from ..meters import process_families


@get(
    "/metrics",
    **route(
        "prometheus", "How the server is, for Prometheus: requests, refusals, the store's size and age, the process.",
        tag="health", example=examples.METRICS, media=MEDIA_TYPE, fails=(400,), waits=True,
    ),
)  # fmt: skip
async def get_metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Answer with every figure; what is said of the store is of the last moment at which it could be read."""
    catalogue = catalogue_of(request)
    families = [
        *process_families(ailab.__version__),
        *request.app.meters.families(),  # type: ignore[attr-defined]  # ours
        *catalogue.families(),
        *await catalogue.holdings.families(),
    ]
    return Response(exposition(families), media_type=MEDIA_TYPE)


HANDLERS = [get_metrics]
