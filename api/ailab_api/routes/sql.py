"""/sql: one SELECT over the views, answered by a process of its own; rows leave as they are found."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Generator
from typing import Any

import msgspec
from litestar import Request, get, post
from litestar.response import Stream

from ailab import queries
from ailab.errors import AilabError, ConflictError
from ailab.queries import SqlAnswer, ViewInfo
from ailab.sandbox import SECONDS, Head, Part, Tail

from .. import errors, examples
from ..catalogue import Catalogue, catalogue_of, lab_of
from ..contract import read_body, route

ROWS_MAX = 100_000
SECONDS_MAX = 120.0
SIZE = 64 << 20
"""Bytes of an answer."""
WAITING_MAX = 8
"""Queries that may wait for the one process that answers them."""
PIECE = 64 << 10
LOOK_S = 0.02


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
        body=SqlBody(sql="select name, max(accuracy) from wide group by 1", limit=100), fails=(400, 409, 415, 503),
        example=SqlAnswer(columns=["name", "max(accuracy)"], types=["VARCHAR", "DOUBLE"], rows=[["svm", 0.97]], truncated=False),
    ),
)  # fmt: skip
async def post_sql(request: Request[Any, Any, Any]) -> Stream:
    """Answer with the rows; what goes wrong before the first of them is a problem, afterwards the member `error` behind them."""
    asked = await read_body(request, SqlBody)
    limit = min(max(1, asked.limit), ROWS_MAX)
    seconds = min(max(0.01, asked.seconds), SECONDS_MAX) if asked.seconds == asked.seconds else SECONDS
    catalogue = catalogue_of(request)
    if catalogue.waiting >= WAITING_MAX:
        raise ConflictError(f"{WAITING_MAX} queries wait already", hint="ask again in a moment")
    given_up = threading.Event()
    parts = catalogue.sandbox.ask(asked.sql, limit=limit, seconds=seconds, size=SIZE, given_up=given_up)
    catalogue.waiting += 1
    pieces = _pieces(parts, errors.instance_of(request.scope))
    try:
        first = await asyncio.to_thread(next, pieces)
    except BaseException:
        await _end(catalogue, pieces, given_up)
        raise
    return Stream(_sent(catalogue, first, pieces, given_up), media_type="application/json")


def _pieces(parts: Generator[Part, None, None], instance: str) -> Generator[bytes, None, None]:
    """The answer as JSON, some rows at a time; the first piece is there only if the query has begun to answer."""
    encode = msgspec.json.encode
    head = next(parts)
    assert isinstance(head, Head)  # noqa: S101  (the first part of every answer)
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


async def _sent(
    catalogue: Catalogue, first: bytes, pieces: Generator[bytes, None, None], given_up: threading.Event
) -> AsyncIterator[bytes]:
    try:
        yield first
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece
    finally:
        await _end(catalogue, pieces, given_up)


async def _end(catalogue: Catalogue, pieces: Generator[bytes, None, None], given_up: threading.Event) -> None:
    """Let go of an answer, also of one that a thread still waits for while its client is gone."""

    def close() -> None:
        while True:
            try:
                pieces.close()
            except ValueError:  # another thread is inside
                catalogue.sandbox.give_up(given_up)
                time.sleep(LOOK_S)
            else:
                return

    catalogue.waiting -= 1
    await asyncio.shield(asyncio.to_thread(close))


HANDLERS = [get_views, post_sql]
