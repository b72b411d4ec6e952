"""/runs/leaderboard: the best runs by a metric."""

from typing import Any

from litestar import Request, get

from ailab import naming, queries
from ailab.queries import LeaderboardRow

from .. import examples
from ..catalogue import catalogue_of, lab_of
from ..contract import Ask, actor, asked, route

_ASKS = (
    Ask("metric_name", "The metric to rank by.", "accuracy", required=True),
    Ask("top_k", "How many at most, 1 to 1,000.", "10", type="integer", default=10),
    Ask("dataset_id", "Only runs on this dataset.", "iris@v1"),
    Ask("project_id", "Only runs of this project.", "iris"),
    Ask("has_artifacts", "Only runs with files, or without.", "true", type="boolean"),
    Ask(
        "order",
        "By default as the metric's goal says: asc for losses, errors and times.",
        "desc",
        choices=("desc", "asc"),
    ),
    Ask(
        "of",
        "Rank by this of the logged points; by default by the final value.",
        "max",
        choices=("last", "min", "max", "mean"),
    ),
)


@get(
    "/runs/leaderboard",
    **route(
        "leaderboard",
        "The best runs by a metric; NaN comes last.",
        tag="leaderboard",
        asks=_ASKS,
        example=[examples.ROW],
        confined=True,
        fails=(400, 404),
        waits=True,
    ),
)
async def get_leaderboard(request: Request[Any, Any, Any]) -> list[LeaderboardRow]:
    """Answer with the rows, best first."""
    question = asked(request)
    project = actor(request).project_for(question.one("project_id"))
    known = ", ".join(naming.known_metrics(lab_of(request), project)[:10]) if not question.one("metric_name") else ""
    given: dict[str, Any] = {
        "metric_name": question.need("metric_name", f"known metrics: {known or 'none yet'}"),
        "top_k": question.count("top_k", default=10), "dataset_id": question.one("dataset_id"),
        "has_artifacts": question.switch("has_artifacts"), "order": question.one("order"), "of": question.one("of"),
        "project_id": project,
    }  # fmt: skip
    views = given["of"] is not None
    return await catalogue_of(request).ask(lambda lab: queries.leaderboard(lab, **given, strict=True), views=views)


HANDLERS = [get_leaderboard]
