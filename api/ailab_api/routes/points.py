"""/runs/{run_id}/metrics and /runs/{run_id}/history: the points of a run, as they were logged or thinned out."""

from typing import Any

from litestar import Request, Response, get

from ailab import queries
from ailab.queries import MetricPoint

from .. import examples
from ..catalogue import lab_of, run_of
from ..contract import FOLLOWED, Ask, asked, route

POINTS_MAX = 1_000_000
_ASKS = (
    Ask("key", "Only this metric; may be repeated.", "val_loss", many=True),
    Ask(
        "max_points",
        "About how many points per metric at most; smallest and greatest values of each stretch stay.",
        "200",
        type="integer",
        most=POINTS_MAX,
    ),
    Ask("since", "Only points that came after the answer to the same question whose X-Cursor this was.", "WyJwb2ludHMiLFt7fV1d"),
)


def _points(request: Request[Any, Any, Any]) -> Response[list[MetricPoint]]:
    question = asked(request)
    most = question.count("max_points", default=0) or None
    page = queries.metric_points(
        lab_of(request),
        run_of(request),
        keys=question.every("key") or None,
        max_points=most,
        since=question.one("since"),
        cursor=True,
        strict=True,
    )
    return Response(page.rows, headers={"X-Total-Count": str(page.total), "X-Cursor": page.next or ""})


def _route(name: str, summary: str) -> dict[str, Any]:
    return route(
        name,
        summary,
        tag="points",
        asks=_ASKS,
        example=[examples.POINT],
        total=True,
        headers=FOLLOWED,
        fails=(400, 404),
        confined=True,
    )


@get(
    "/runs/{run_id:str}/metrics",
    **_route("metric_points", "Logged points of a run by metric and step; X-Total-Count counts them before thinning."),
)
def get_metrics(request: Request[Any, Any, Any]) -> Response[list[MetricPoint]]:
    """Answer with the points."""
    return _points(request)


@get("/runs/{run_id:str}/history", **_route("history", "The same as /runs/{run_id}/metrics."))
def get_history(request: Request[Any, Any, Any]) -> Response[list[MetricPoint]]:
    """Answer with the points."""
    return _points(request)


HANDLERS = [get_metrics, get_history]
