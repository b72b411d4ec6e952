"""/ and /schema: pages for people, made here without script; /schema/openapi.json: the same document for programs."""

from typing import Any

from litestar import MediaType, Request, Response, get

from ailab import naming, queries
from ailab.filters import STATUSES, RunFilter

from ..catalogue import catalogue_of, lab_of
from ..contract import Ask, asked, document_of, route
from ..pages.home import best_guess, home
from ..pages.manual import manual

BEST, NEWEST = 10, 50
_ASKS = (Ask("metric_name", "The metric of the leaderboard.", "accuracy"),)


@get(
    "/",
    media_type=MediaType.HTML,
    **route(
        "home", "A page: totals, leaderboard, newest runs.", tag="pages", asks=_ASKS, example="<!doctype html>", media="text/html"
    ),
)
def get_home(request: Request[Any, Any, Any]) -> str:
    """Answer with the page."""
    lab = lab_of(request)
    metrics = naming.known_metrics(lab)
    metric = asked(request).one("metric_name") or best_guess(metrics)
    best = queries.leaderboard(lab, metric, top_k=BEST) if metric else []
    newest = queries.list_runs(lab, RunFilter(limit=NEWEST))
    counts = {"runs": newest.total}
    counts |= {status: queries.list_runs(lab, RunFilter(status=status, limit=1)).total for status in STATUSES}
    shown = queries.get_runs_by_ids(lab, [row.run_id for row in (*best, *newest.rows)])
    return home(
        project=catalogue_of(request).project, counts=counts, metrics=metrics, metric=metric, best=best, newest=newest.rows,
        details={run.run_id: run for run in shown},
    )  # fmt: skip


@get(
    "/schema",
    media_type=MediaType.HTML,
    **route(
        "manual",
        "A page: every route with its parameters, an example and a curl line.",
        tag="pages",
        example="<!doctype html>",
        media="text/html",
        confined=True,
    ),
)
def get_manual(request: Request[Any, Any, Any]) -> str:
    """Answer with the page."""
    base = f"{request.scope['scheme']}://{request.headers['host']}"
    return manual(document_of(request.app), base=base, project=catalogue_of(request).project)


@get(
    "/schema/openapi.json",
    **route(
        "openapi", "The OpenAPI document of this server.", tag="pages", confined=True, example={"openapi": "3.1.0", "paths": {}}
    ),
)
def get_openapi(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
    """Answer with the document."""
    return Response(document_of(request.app))


HANDLERS = [get_home, get_manual, get_openapi]
