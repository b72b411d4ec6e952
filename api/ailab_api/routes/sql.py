"""/sql: one SELECT over the views, answered by a process of its own; rows leave as they are found."""

from collections.abc import AsyncIterator, Generator
from functools import partial
from typing import Any

import msgspec
from litestar import Request, get, post
from litestar.response import Stream

from ailab import queries
from ailab.errors import AilabError
from ailab.queries import SqlAnswer, ViewInfo
from ailab.sandbox import SECONDS, Head, Part, Tail

from .. import errors, examples
from ..catalogue import catalogue_of, lab_of
from ..contract import at_end, read_body, route
from ..crews import Work

ROWS_MAX = 100_000
SECONDS_MAX = 120.0
SIZE = 64 << 20
"""Bytes of an answer."""
PIECE = 64 << 10


class SqlBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A query; `limit` rows at most, within `seconds`."""

    sql: str
    limit: int = 1000
    seconds: float = SECONDS


@get(
    "/sql",
    **route(
        "describe_views", "The views that a query may read, with the meaning of every column.", tag="ask", example=[examples.VIEW]
    ),
)
def get_views(request: Request[Any, Any, Any]) -> list[ViewInfo]:
    """Answer with the views."""
    return queries.describe_views(lab_of(request))


@post(
    "/sql", status_code=200,
    **route(
        "run_sql", "Answer one SELECT over the views: no files, no settings, killed at its deadline or memory limit.", tag="ask",
        body=SqlBody(sql="select name, max(accuracy) from wide group by 1", limit=100), fails=(400, 415, 429),
        example=SqlAnswer(columns=["name", "max(accuracy)"], types=["VARCHAR", "DOUBLE"], rows=[["svm", 0.97]], truncated=False),
    ),
)  # fmt: skip
async def post_sql(request: Request[Any, Any, Any]) -> Stream:
    """Answer with the rows; what goes wrong before the first of them is a problem, afterwards the member `error` behind them."""
    asked = await read_body(request, SqlBody)
    limit = min(max(1, asked.limit), ROWS_MAX)
    seconds = min(max(0.01, asked.seconds), SECONDS_MAX) if asked.seconds == asked.seconds else SECONDS
    catalogue = catalogue_of(request)
    work = catalogue.queries.begin()
    parts = catalogue.sandbox.ask(asked.sql, limit=limit, seconds=seconds, size=SIZE, given_up=work.given_up)
    pieces = _pieces(parts, errors.instance_of(request.scope))
    at_end(request, partial(work.end, pieces.close))
    first = await work.step_unless_left(request, next, pieces, b"")
    return Stream(_sent(work, first, pieces), media_type="application/json")


def _pieces(parts: Generator[Part, None, None], instance: str) -> Generator[bytes, None, None]:
    """The answer as JSON, some rows at a time; the first piece is there only if the query has begun to answer."""
    encode = msgspec.json.encode
    head = next(parts, None)
    if not isinstance(head, Head):  # it was given up before it began
        return
    waiting = [b'{"columns":' + encode(head.columns) + b',"types":' + encode(head.types) + b',"rows":[']
    size, mark, sent = 0, b"", False
    try:
        for part in parts:
            if isinstance(part, Tail):
                yield b"".join([*waiting, b'],"truncated":' + (b"true}" if part.truncated else b"false}")])
                return
            waiting += [mark, part] if isinstance(part, bytes) else []
            mark, size = b",", size + len(waiting[-1])
            if size >= PIECE:
                yield b"".join(waiting)
                waiting, size, sent = [], 0, True
    except AilabError as problem:
        if not sent:
            raise
        yield b'],"truncated":true,"error":' + encode(errors.problem_of(problem, instance=instance)) + b"}"
    finally:
        parts.close()


async def _sent(work: Work, first: bytes, pieces: Generator[bytes, None, None]) -> AsyncIterator[bytes]:
    yield first
    while (piece := await work.step(next, pieces, None)) is not None:
        yield piece


HANDLERS = [get_views, post_sql]
