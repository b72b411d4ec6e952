"""/runs/compare and /compare: runs side by side."""

from typing import Annotated, Any

import msgspec
from litestar import Request, get, post

from ailab import queries
from ailab.bodies import documented
from ailab.filters import LIMIT_DEFAULT
from ailab.queries import RunComparison

from .. import examples
from ..catalogue import check_still, lab_of, runs_of
from ..contract import Ask, asked, read_body, route

_IDS = Ask("ids", "A run; repeated, or with commas between, for 1 to 100 runs.", examples.RUN_ID, many=True, required=True)


class CompareBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a comparison."""

    run_ids: Annotated[list[str], documented(minItems=1, maxItems=LIMIT_DEFAULT)]


@get(
    "/runs/compare",
    **route("compare_runs", "Runs side by side: all metric and parameter names, and each run whole.", tag="compare", asks=(_IDS,),
            example=examples.COMPARISON, fails=(400, 404), confined=True),
)  # fmt: skip
def get_comparison(request: Request[Any, Any, Any]) -> RunComparison:
    """Answer with the comparison."""
    ids = [run_id for text in asked(request).every("ids") for run_id in text.split(",") if run_id]  # no id has a comma
    return queries.compare_runs(lab_of(request), runs_of(request, ids))


@post(
    "/compare", status_code=200,
    **route("compare", "The same as GET /runs/compare, with the ids in a body.", tag="compare", example=examples.COMPARISON,
            body=CompareBody(run_ids=[examples.RUN_ID, examples.OTHER_ID]), fails=(400, 404, 415), confined=True),
)  # fmt: skip
async def post_comparison(request: Request[Any, Any, Any]) -> RunComparison:
    """Answer with the comparison; nothing is created."""
    wanted = await read_body(request, CompareBody)
    check_still(request)
    return queries.compare_runs(lab_of(request), runs_of(request, wanted.run_ids))


HANDLERS = [get_comparison, post_comparison]
