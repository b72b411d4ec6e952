"""The routes, a module per resource. A handler reads what was asked, calls one query or action, and gives back its Struct."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import (
    artifacts,
    changes,
    compare,
    datasets,
    health,
    journal,
    leaderboard,
    metrics,
    modellab,
    pages,
    points,
    projects,
    runs,
    sql,
    stream,
    telemetry,
)

if TYPE_CHECKING:
    from litestar.handlers import HTTPRouteHandler

HANDLERS: list[HTTPRouteHandler] = [
    *health.HANDLERS, *metrics.HANDLERS, *projects.HANDLERS, *datasets.HANDLERS, *runs.HANDLERS, *points.HANDLERS,
    *telemetry.HANDLERS, *leaderboard.HANDLERS, *compare.HANDLERS, *changes.HANDLERS, *artifacts.HANDLERS, *sql.HANDLERS,
    *stream.HANDLERS, *journal.HANDLERS, *pages.HANDLERS, *modellab.HANDLERS,
]  # fmt: skip
"""In the order of the OpenAPI document."""
