"""/sql: one SELECT over the views, answered by a process of its own; rows leave as they are found."""

import asyncio
from collections.abc import AsyncIterator, Generator
from typing import Annotated, Any

import msgspec
from litestar import Request, get, post
from litestar.response import Stream

from ailab import queries
from ailab.bodies import documented
from ailab.errors import AilabError, FilterError
from ailab.queries import SqlAnswer, ViewInfo
from ailab.sandbox import SECONDS, Head, Part, Tail

from .. import errors, examples
from ..catalogue import catalogue_of, check_still, lab_of
from ..contract import at_end, read_body, route

ROWS_MAX = 100_000
SECONDS_MAX = 120.0
SIZE = 64 << 20
"""Bytes of an answer."""
PIECE = 64 << 10


class SqlBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A query; `limit` rows at most, within `seconds`."""

    sql: str
    limit: Annotated[int, documented(minimum=1, maximum=ROWS_MAX)] = 1000
    seconds: Annotated[float, documented(exclusiveMinimum=0, maximum=SECONDS_MAX)] = SECONDS


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
    check_still(request)
    for name, value, most, fits in (
        ("limit", asked.limit, ROWS_MAX, 1 <= asked.limit <= ROWS_MAX),
        ("seconds", asked.seconds, SECONDS_MAX, 0 < asked.seconds <= SECONDS_MAX),
    ):
        if not fits:
            hint = f"allowed: more than 0, at most {most:,g}"
            raise FilterError(f"{name}: {str(value)[:40]} is not allowed", where=f"body.{name}", hint=hint)
    answer = _Answer(request, asked.sql, limit=asked.limit, seconds=asked.seconds)
    return Stream(await answer.begun(), media_type="application/json")


class _Piece(msgspec.Struct):
    """Bytes of an answer, and whether they are the last."""

    content: bytes
    is_last: bool = False


class _Answer:
    """What a query finds, for one request: found while it is sent, but never for longer than the query may take.

    With its last piece, or at one of its limits, the query lets go of its process and its place among the queries; a client that
    does not read holds up nobody after that. Who reads on after a limit finds it said behind the rows that were sent.
    """

    def __init__(self, request: Request[Any, Any, Any], sql: str, *, limit: int, seconds: float) -> None:
        catalogue = catalogue_of(request)
        self._request, self._instance = request, errors.instance_of(request.scope)
        self._loop = asyncio.get_running_loop()
        self._late = _Piece(b"", is_last=True)
        self._work = catalogue.queries.begin()
        self._pieces = self._found(catalogue.sandbox.ask(
            sql, limit=limit, seconds=seconds, size=SIZE, given_up=self._work.given_up, killed=self._killed,
        ))  # fmt: skip
        at_end(request, self._end)

    async def begun(self) -> AsyncIterator[bytes]:
        """The pieces, once there is a first one.

        Raises:
            FilterError: the query came to nothing.
        """
        return self._sent(await self._work.step_unless_left(self._request, next, self._pieces, self._late))

    async def _sent(self, piece: _Piece) -> AsyncIterator[bytes]:
        while not piece.is_last:
            yield piece.content
            given_up = self._work.given_up.is_set()
            piece = self._late if given_up else await self._work.step(next, self._pieces, self._late)
        await self._end()
        yield piece.content

    async def _end(self) -> None:
        await self._work.end(self._pieces.close)

    def _killed(self, problem: AilabError) -> None:
        """End it whatever the client does; called in a thread."""

        def end() -> None:
            self._late = self._broken(problem)
            self._ending = asyncio.create_task(self._end())

        self._loop.call_soon_threadsafe(end)

    def _broken(self, problem: AilabError) -> _Piece:
        """How an answer ends some rows of which were sent already."""
        said = msgspec.json.encode(errors.problem_of(problem, instance=self._instance))
        return _Piece(b'],"truncated":true,"error":' + said + b"}", is_last=True)

    def _found(self, parts: Generator[Part, None, None]) -> Generator[_Piece, None, None]:
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
                    tail = b'],"truncated":' + (b"true}" if part.truncated else b"false}")
                    yield _Piece(b"".join([*waiting, tail]), is_last=True)
                    return
                waiting += [mark, part] if isinstance(part, bytes) else []
                mark, size = b",", size + len(waiting[-1])
                if size >= PIECE:
                    yield _Piece(b"".join(waiting))
                    waiting, size, sent = [], 0, True
        except AilabError as problem:
            if not sent:
                raise
            yield self._broken(problem)
        finally:
            parts.close()


HANDLERS = [get_views, post_sql]
