"""/stream: the runs that change, as server-sent events; a reader who was away goes on where they were.

It stays open for who accepts text/event-stream, as browsers say it; all others get what there is, and the end. A token that is
revoked hears nothing more within two seconds, and the stream ends.
"""

from collections.abc import AsyncIterator
from functools import partial
from typing import Any, cast

import msgspec
from litestar import Request, get
from litestar.response import ServerSentEvent, ServerSentEventMessage

from .. import examples
from ..catalogue import catalogue_of
from ..contract import Ask, actor, asked, route
from ..errors import TooManyError
from ..following import FOLLOWERS_MAX, LONGEST_S, POLL_S, Event, follow
from ..meters import seen_of

_EVENT = "5f1c0a9e:42"
_ASKS = (
    Ask("cursor", "Go on behind the event with this id; the header Last-Event-ID says the same, and counts first.", _EVENT),
    Ask("seconds", f"End after so long, at the latest {LONGEST_S:.0f}.", "1", type="integer", most=int(LONGEST_S)),
)


def _message(event: Event) -> ServerSentEventMessage:
    if event.data is None:
        return ServerSentEventMessage(data=None, comment="nothing new")
    return ServerSentEventMessage(data=msgspec.json.encode(event.data), event=event.kind, id=event.cursor)


@get(
    "/stream",
    **route(
        "stream", "What changes, from now on or behind a cursor: events `start`, `runs` and `reset`.", tag="stream", asks=_ASKS,
        example=examples.STREAM, media="text/event-stream", confined=True, fails=(400, 429), waits=True,
        sends=(("Last-Event-ID", "Go on behind the event with this id; browsers send it by themselves.", _EVENT),),
    ),
)  # fmt: skip
async def get_stream(request: Request[Any, Any, Any]) -> ServerSentEvent:
    """Answer with the stream."""
    question, news = asked(request), catalogue_of(request).news
    stays = "text/event-stream" in request.headers.get("accept", "")
    seconds = question.count("seconds", default=int(LONGEST_S) if stays else 0)
    if news.followers >= FOLLOWERS_MAX:
        seen_of(request.scope).refused = "streams"
        raise TooManyError("streams at once", POLL_S)
    cursor, app = request.headers.get("last-event-id") or question.one("cursor"), cast("Any", request.app)
    may_hear = partial(app.guard.still_knows, request.scope)

    async def messages() -> AsyncIterator[ServerSentEventMessage]:
        async for event in follow(news, cursor, project=actor(request).project, seconds=seconds, may_hear=may_hear):
            yield _message(event)

    return ServerSentEvent(messages(), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


HANDLERS = [get_stream]
