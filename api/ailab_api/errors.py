"""One translator: every error that leaves the server has one shape, `application/problem+json` (RFC 9457) with our fields.

An ailab error keeps its sentence, its hint, the part of the question that it means, and what is near. What nobody foresaw
becomes a 500 that says nothing about the inside; the log has the rest. No answer holds a stack trace or a path of the
machine that the server runs on: where an error's sentence names a file, only the last part of its path is told.
"""

from __future__ import annotations

import difflib
import logging
import math
import os
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from litestar import Response
from litestar.exceptions import HTTPException, InternalServerException

from ailab import problems
from ailab.errors import AilabError, ConflictError, DamageError, StoreError
from ailab.problems import Problem
from ailab.receiving import GapError

if TYPE_CHECKING:
    from litestar import Request
    from litestar.types import Scope

MEDIA_TYPE = "application/problem+json"
CHALLENGES = ("Bearer", 'Basic realm="ailab", charset="UTF-8"')
"""How a token may be shown."""


class TooManyError(AilabError):
    """A limit is reached; `wait` is in how many seconds to come again, `advice` how to need less of it."""

    def __init__(self, what: str, wait: float, *, advice: str = "") -> None:
        super().__init__(f"too many {what}", hint=f"wait {max(1, round(wait))} s" + (f"; {advice}" if advice else ""))
        self.wait = wait


class RevokedError(AilabError):
    """The token that a request came with counts no more, though it did when the request began."""

    def __init__(self) -> None:
        super().__init__("the token does not count any more", hint="it may have been revoked since the request began")


class LeftError(Exception):
    """The client is gone; nobody reads what is answered."""


DETAIL_MAX = 600
"""Characters of `detail`: what was sent is quoted in it, and may be long."""

_LEFT = "client disconnected prematurely"
_log = logging.getLogger("ailab_api")


def problem(status: int, detail: str, *, instance: str, where: str | None = None, hint: str | None = None) -> Problem:
    """Make a problem of a status that HTTP itself has a name for."""
    phrase = HTTPStatus(status).phrase
    slug = phrase.lower().replace(" ", "-")
    return Problem(
        type=problems.type_of(slug),
        title=phrase.lower(),
        status=status,
        detail=_cut(detail),
        instance=instance,
        where=where,
        hint=hint,
    )


def problem_of(error: Exception, *, instance: str) -> Problem:
    """Translate any exception: ailab's by class, HTTP's by status, all others as a 500 without their words."""
    found = problems.problem_of(error, _cut(_sentence(error)), instance=instance) if isinstance(error, AilabError) else None
    if found is not None:
        return found
    if isinstance(error, TooManyError):
        return problem(429, error.message, instance=instance, hint=error.hint)
    if isinstance(error, RevokedError):
        return problem(401, error.message, instance=instance, where="Authorization", hint=error.hint)
    if _has_left(error):
        return problem(400, "the client left", instance=instance)
    if isinstance(error, HTTPException) and 400 <= error.status_code < 500:  # noqa: PLR2004  (the client's errors)
        return problem(error.status_code, str(error.detail), instance=instance)
    return problem(500, "the server failed at this request", instance=instance, hint="its log says why")


def _has_left(error: Exception) -> bool:
    """Whether nobody waits for the answer; Litestar says so of a body that breaks off, as of a fault of the server."""
    return isinstance(error, LeftError) or (isinstance(error, InternalServerException) and error.detail == _LEFT)


def encode(found: Problem) -> bytes:
    """A problem as the bytes of its answer."""
    return msgspec.json.encode(found)


def instance_of(scope: Scope | dict[str, Any]) -> str:
    """The path that was asked for, as it was sent."""
    raw = scope.get("raw_path") or str(scope["path"]).encode("utf-8", "replace")
    return _cut(bytes(raw).decode("ascii", "replace"))


def answer(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    """Answer a request with the problem that an exception is; what nobody foresaw goes to the log."""
    found = problem_of(error, instance=instance_of(request.scope))
    who: Any = request.scope.get("ailab_actor")
    if who is not None and who.project is not None and found.nearest and not isinstance(error, ConflictError):
        found.nearest, found.hint = [], None  # what is near may be another project's
    if found.status >= 500:  # noqa: PLR2004  (the server's errors)
        _log.error("%s %s: %s", request.method, found.instance, type(error).__name__, exc_info=error)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if isinstance(error, HTTPException):
        _say_more(request, found)
    if isinstance(error, RevokedError):
        headers["WWW-Authenticate"] = ", ".join(CHALLENGES)
    if isinstance(error, GapError):
        headers["X-Bytes"] = str(error.bytes)
    if isinstance(error, TooManyError):
        headers["Retry-After"] = str(max(1, math.ceil(error.wait)))
    return Response(found, status_code=found.status, media_type=MEDIA_TYPE, headers=headers)


def _say_more(request: Request[Any, Any, Any], found: Problem) -> None:
    """Put our words where Litestar's tell nobody what to do."""
    if found.status == HTTPStatus.NOT_FOUND:
        routes = sorted({route.path_format or "/" for route in request.app.routes if route.path_format != "/*"})
        found.type, found.title = problems.type_of("no-route"), "no such route"
        found.detail = _cut(f"no route {found.instance}")
        found.hint = "/schema lists all routes"
        found.nearest = difflib.get_close_matches(found.instance, routes, n=3, cutoff=0.6)
    elif found.status == HTTPStatus.METHOD_NOT_ALLOWED:
        found.detail = f"{request.method[:20]} is not allowed here"
        found.hint = "/schema lists all routes"
    elif found.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        found.detail = "the body is too large"
    elif found.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        found.where, found.hint = "Range", "bytes=0-"


def _sentence(error: AilabError) -> str:
    """An error's own words, with nothing of where the store lies but the last part of a path."""
    if isinstance(error, DamageError):
        place = f"{error.kind} in {os.path.basename(error.path)}"
        place += f", line {error.line}, byte {error.offset}" if error.line else ""
        return place + (f": {_without_folders(error.detail)}" if error.detail else "")
    if isinstance(error, StoreError):
        return _without_folders(error.message.replace(error.path, os.path.basename(error.path)))
    return error.message


def _without_folders(text: str) -> str:
    return re.sub(r"/[^\s:,'\"]*/", "", text)


def _cut(text: str) -> str:
    return text if len(text) <= DETAIL_MAX else text[: DETAIL_MAX - 1] + "…"
