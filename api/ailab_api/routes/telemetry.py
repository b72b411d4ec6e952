"""/runs/{run_id}/console and /runs/{run_id}/system-metrics: what a run printed, and what it used of the machine."""

from typing import Any

from litestar import Request, Response, get

from ailab import telemetry
from ailab.filters import cursor_of
from ailab.telemetry import ConsoleLine, SystemFigure

from .. import examples
from ..catalogue import lab_of, run_of
from ..contract import FOLLOWED, LIMIT, Ask, asked, route

FIGURES_MAX = 1_000_000


def _since(kind: str) -> Ask:
    return Ask("since", "Only what came after the answer to the same question whose X-Cursor this was.", cursor_of(kind, [{}]))


_STREAM = Ask("stream", "Only this stream.", "stderr", choices=("stdout", "stderr"))
_LAST = Ask("last", "The last lines, as many as this, in place of the first.", "20", type="integer")
_KEY = Ask("key", "Only this figure; may be repeated.", "process/memory_bytes", many=True)
_MOST = Ask(
    "max_points",
    "About how many figures per name at most; smallest and greatest of each stretch stay.",
    "200",
    type="integer",
    most=FIGURES_MAX,
)


@get(
    "/runs/{run_id:str}/console",
    **route(
        "console",
        "Lines that a run printed, in their order; X-Cursor, given back as since, is the way to the next ones.",
        tag="points",
        asks=(LIMIT, _LAST, _STREAM, _since("console")),
        example=[examples.LINE],
        total=True,
        headers=FOLLOWED,
        fails=(400, 404),
        confined=True,
    ),
)
def get_console(request: Request[Any, Any, Any]) -> Response[list[ConsoleLine]]:
    """Answer with the lines."""
    question = asked(request)
    page = telemetry.console(
        lab_of(request),
        run_of(request),
        since=question.one("since"),
        limit=question.count("limit", default=100),
        last=question.count("last", default=0) or None,
        stream=question.choice(_STREAM),
    )
    return Response(page.rows, headers={"X-Total-Count": str(page.total), "X-Cursor": page.next or ""})


@get(
    "/runs/{run_id:str}/system-metrics",
    **route(
        "system_metrics",
        "Figures of the machine during a run, by name and time; X-Total-Count counts them before thinning.",
        tag="points",
        asks=(_KEY, _MOST, _since("system-metrics")),
        example=[examples.FIGURE],
        total=True,
        headers=FOLLOWED,
        fails=(400, 404),
        confined=True,
    ),
)
def get_system_metrics(request: Request[Any, Any, Any]) -> Response[list[SystemFigure]]:
    """Answer with the figures."""
    question = asked(request)
    page = telemetry.system_metrics(
        lab_of(request),
        run_of(request),
        keys=question.every("key") or None,
        max_points=question.count("max_points", default=0) or None,
        since=question.one("since"),
    )
    return Response(page.rows, headers={"X-Total-Count": str(page.total), "X-Cursor": page.next or ""})


HANDLERS = [get_console, get_system_metrics]
