"""What a route takes and gives: one table per route that both checks requests and makes the OpenAPI document.

A query parameter that no table names, or one given twice that may stand once, is refused before the handler runs; so a
misspelt filter never answers with all runs. Bodies are decoded into Structs that forbid unknown fields. Whatever a client
sends ends in a value or in a FilterError that says where.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIResponse, Operation, Parameter, Schema
from litestar.openapi.spec.enums import OpenAPIType

from ailab.blobs import DIGEST
from ailab.bodies import fields_of, misfit
from ailab.errors import FilterError, RefusedError
from ailab.filters import LIMIT_MAX, parse_count, parse_switch
from ailab.problems import Problem
from ailab.receiving import SEGMENT_NAME

from . import errors, examples
from .access import Actor, is_loopback
from .meters import seen_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from litestar import Litestar, Request
    from litestar.connection import ASGIConnection
    from litestar.handlers.base import BaseRouteHandler

BODY_MAX = 8 * 1024 * 1024
"""Bytes of a request's body: a note of a million characters fits, unless a client escapes those that need no escape."""
PARAMETERS_MAX = 300
"""Parameters of one request: a comparison of 100 runs fits."""

T = TypeVar("T")


class Ask(msgspec.Struct, frozen=True):
    """One query parameter of a route."""

    name: str
    description: str
    example: str
    type: str = "string"
    required: bool = False
    many: bool = False
    """Whether it may be given more than once."""
    choices: tuple[str, ...] = ()
    default: Any = None
    least: int = 1
    most: int | None = LIMIT_MAX
    """Of a whole number: the smallest and the largest that are allowed."""
    pattern: str | None = None
    longest: int | None = None
    """Of a text: what it must match, and how many characters it has at most."""

    def fits(self, name: str) -> bool:
        """Whether `name` is this parameter; a name that ends with `.KEY` stands for every name with that beginning."""
        start = self.name.removesuffix("KEY")
        return name == self.name if start == self.name else name.startswith(start) and name != start

    def document(self) -> Parameter:
        """The parameter as OpenAPI has it."""
        one = Schema(
            type=OpenAPIType(self.type), enum=list(self.choices) or None, default=self.default, pattern=self.pattern,
            max_length=self.longest,
        )  # fmt: skip
        if self.type == "integer":
            one.minimum, one.maximum = self.least, self.most
        schema = Schema(type=OpenAPIType.ARRAY, items=one, min_items=1 if self.required else None) if self.many else one
        example = self.example if self.type == "string" else msgspec.json.decode(self.example)
        return Parameter(
            name=self.name,
            param_in="query",
            required=self.required,
            description=self.description,
            schema=schema,
            example=[example] if self.many else example,
        )


LIMIT = Ask(
    "limit",
    "How many at most, 1 to 1,000; X-Total-Count says how many there are.",
    "10",
    type="integer",
    default=100,
)


# -- checking ----------------------------------------------------------------------------------------------------------


class Asked:
    """The query parameters of one request, checked against its route."""

    def __init__(self, pairs: list[tuple[str, str]], known: tuple[Ask, ...]) -> None:
        self.pairs = pairs
        self._known = known

    def one(self, name: str) -> str | None:
        """The text of a parameter, or None."""
        return next((text for key, text in self.pairs if key == name), None)

    def every(self, name: str) -> list[str]:
        """All texts of a parameter that may be given more than once."""
        return [text for key, text in self.pairs if key == name]

    def need(self, name: str, hint: str) -> str:
        """The text of a parameter that must be there.

        Raises:
            FilterError: it is absent or empty.
        """
        text = self.one(name)
        if not text:
            raise FilterError(f"{name} is missing", where=name, hint=hint)
        return text

    def choice(self, ask: Ask) -> str | None:
        """The text of a parameter that has a list of allowed ones, or None.

        Raises:
            FilterError: it is none of them.
        """
        text = self.one(ask.name)
        if text is not None and text not in ask.choices:
            raise FilterError(
                f"{ask.name}: {text[:40]!r} is not allowed", where=ask.name, hint=f"allowed: {', '.join(ask.choices)}"
            )
        return text

    def count(self, name: str, *, default: int) -> int:
        """A whole number from 1 to what the table says.

        Raises:
            FilterError: it is none.
        """
        text = self.one(name)
        most = next(ask.most for ask in self._known if ask.name == name)
        return default if text is None else parse_count(name, text, most or LIMIT_MAX)

    def switch(self, name: str) -> bool | None:
        """True, false, or None where it is not given.

        Raises:
            FilterError: it is neither.
        """
        text = self.one(name)
        return None if text is None else parse_switch(name, text)


def check_access(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Refuse who may not do what the route does; a route that does not say who may is closed to all but admins.

    Raises:
        RefusedError: the role does not suffice, or the token is of one project and the route is not.
        TooManyError: the limit of a window is reached.
    """
    found, needs = actor(connection), handler.opt.get("needs", "admin")
    if not found.may(needs):
        seen_of(connection.scope).refused = "role"
        raise RefusedError(f"the role {found.role} may not do this", hint=f"it needs the role {needs}")
    if found.project is not None and not handler.opt.get("confined", False):
        seen_of(connection.scope).refused = "project"
        raise RefusedError("a token of one project may not do this", hint="it needs a token without a project")
    if handler.opt.get("counts") is not None:
        charge(connection, handler.opt["counts"], 1)


def charge(connection: ASGIConnection[Any, Any, Any, Any], what: str, amount: int) -> None:
    """Count what a peer off loopback does.

    Raises:
        TooManyError: the limit of a window is reached.
    """
    found = actor(connection)
    if not (found.anonymous and is_loopback(found.address)):
        wait = connection.app.guard.limits.take(found, what, amount)  # type: ignore[attr-defined]  # ours
        if wait is not None:
            seen_of(connection.scope).refused = what
            most = connection.app.guard.limits.most(found, what)  # type: ignore[attr-defined]  # ours
            said, advice = _LIMITED[what]
            raise errors.TooManyError(f"{said.format(most=most)} in a quarter of an hour", wait, advice=advice)


_LIMITED = {
    "writes": (
        "changes: {most:,} are allowed",
        "a request is one change however many events are in it: send more of them at once to POST /runs/{run_id}/events",
    ),
    "uploads": ("uploads: {most:,} are allowed", "`ailab sync` sends files with the journal, where bytes are counted"),
    "journal": ("bytes of journals and their files: {most:,} are allowed", "`ailab sync` goes on where it was"),
}
"""By what is counted: what is too much of it, with the limit, and how to need less."""


def actor(connection: ASGIConnection[Any, Any, Any, Any]) -> Actor:
    """Who sent a request; nobody who may anything, where no guard has said so."""
    found: Actor = connection.scope.get("ailab_actor", _NOBODY)  # type: ignore[assignment]  # put there by the guard
    return found


_NOBODY = Actor(role="none")


async def check_query(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Refuse what the route's table does not name; keep the rest for `asked`. Stands before every handler.

    Raises:
        RefusedError: it is not theirs to ask; see `check_access`.
        FilterError: the query string does not parse, or a name is unknown or given twice.
    """
    seen_of(connection.scope).route = connection.scope["path_template"]
    check_access(connection, handler)
    known: tuple[Ask, ...] = handler.opt.get("asks", ())
    pairs = _parse(connection.scope["query_string"])
    seen: set[str] = set()
    for name, _ in pairs:
        ask = next((a for a in known if a.fits(name)), None)
        if ask is None:
            allowed = ", ".join(a.name for a in known) or "none"
            raise FilterError(f"no parameter {name[:100]!r} here", where=name[:100], hint=f"allowed: {allowed}")
        if name in seen and not ask.many:
            raise FilterError(f"{name[:100]} is given twice", where=name[:100])
        seen.add(name)
    connection.state["asked"] = Asked(pairs, known)


def _parse(query: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=PARAMETERS_MAX)
    except ValueError:
        hint = f"at most {PARAMETERS_MAX} pairs NAME=VALUE, percent-encoded UTF-8"
        raise FilterError("the query string does not parse", where="query", hint=hint) from None


def asked(request: Request[Any, Any, Any]) -> Asked:
    """The query parameters of a request."""
    found: Asked = request.state["asked"]
    return found


def named(request: Request[Any, Any, Any], name: str) -> str:
    """A part of the path, percent-decoded once by the server."""
    return str(request.path_params[name])


def at_end(request: Request[Any, Any, Any], end: Callable[[], Awaitable[object]]) -> None:
    """Have something done when a request is over, in whichever way; an answer that was never begun ends too."""
    request.scope["ailab_ends"].append(end)  # type: ignore[typeddict-item]


async def read_body(request: Request[Any, Any, Any], shape: type[T]) -> T:
    """Read a request's body into a Struct; see `decode_body`."""
    return decode_body(await request.body(), shape)


def decode_body(body: bytes, shape: type[T]) -> T:
    """Decode a body into a Struct.

    Raises:
        FilterError: it is no JSON, or has another shape; says where.
    """
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as problem:
        words, path, fields = misfit(problem, shape)
        said = _NO_NUMBERS if "out of range" in words else fields
        raise FilterError(f"the body does not fit: {words}", where=f"body{path}", hint=said) from None
    except RecursionError:
        raise FilterError("the body is nested too deeply", where="body") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        if not body.strip():
            raise FilterError("the body is empty", where="body", hint=f"fields: {fields_of(shape)}") from None
        hint = _NO_NUMBERS if _BARE.search(body) else ""
        raise FilterError(f"the body is no JSON: {str(problem)[:200]}", where="body", hint=hint) from None


_BARE = re.compile(rb"[\[:,]\s*-?(NaN|Infinity)\b")
"""What Python's `json` writes for numbers that JSON does not have."""
_NO_NUMBERS = 'of numbers that JSON does not have, write the texts "NaN", "Infinity" and "-Infinity"'


# -- documenting -------------------------------------------------------------------------------------------------------


def _header(description: str, type: str = "string", *, always: bool = True) -> dict[str, Any]:  # noqa: A002  (OpenAPI's word)
    return {"description": description, "required": always, "schema": {"type": type}}


_TOTAL = {"X-Total-Count": _header("How many there are, whatever the limit.", "integer")}
BYTES = {
    "X-Bytes-Logged": _header("Bytes of all its versions; references do not count.", "integer"),
    "X-Bytes-Kept": _header("Bytes of those that are different, which are kept.", "integer"),
}
"""What a list of files says of all of them, whatever the limit."""
PAGED = {"Link": _header('The next page, as <URL>; rel="next"; absent on the last one.', always=False)}
POSITIONED = {"X-Position": _header("How far the answer reaches; as as_of it gives the same answer again.", always=False)}
FOLLOWED = {"X-Cursor": _header("What to send as since for what comes later; empty where points were thinned.")}
LOCATED = {"Location": _header("The path of what was made.")}
_TAGGED = {"ETag": _header("The SHA-256 of the whole file, in quotes."), "Accept-Ranges": _header("bytes")}
_PART = {"Content-Range": _header("Which bytes of how many these are, as bytes FIRST-LAST/SIZE.")}
_PLAIN = r"^[^\u0000-\u001f\u007f\\]+$"
"""What the guard lets through of a path: neither control characters nor backslashes."""
_PATHS = {
    "run_id": ("The run's id.", examples.RUN_ID, _PLAIN),
    "path": ("The file's place in the run; slashes stand as they are.", examples.PATH, _PLAIN),
    "project_id": ("The project's id.", "iris", _PLAIN),
    "dataset_id": ("The version's id; NAME@vN, NAME (for the newest) and a SHA-256 mean one too.", examples.DATASET_ID, _PLAIN),
    "event": ("The event's id, SEGMENT:SEQ.", examples.EVENT, _PLAIN),
    "segment": ("The segment's name.", examples.SEGMENT, f"^{SEGMENT_NAME}$"),
    "sha256": ("SHA-256 of the file's bytes.", examples.SHA256, f"^{DIGEST}$"),
}
_ERRORS = {
    400: "A part of the request is not allowed; `where` says which.",
    401: "A token is needed, or the one that was sent does not count.",
    403: "The role of the token does not suffice.",
    404: "What was asked for is not there; `nearest` says what is.",
    409: "It does not fit what is there now; `nearest` says what is in its way.",
    412: "It was changed since.",
    413: "The body is too large.",
    415: "The body is of a type that is not allowed.",
    416: "There are no such bytes.",
    429: "Too many of them; Retry-After says when to come again.",
    503: "The store cannot be used now, or the server stops.",
}
_ALWAYS = (401, 403, 503)
"""What any route may answer."""
_PARTLY = (
    ("Range", "Only these bytes; one range is answered, several are not.", "bytes=0-1"),
    ("If-Range", "The ETag of what is there already: of another file the whole comes.", f'"{examples.SHA256}"'),
    ("If-None-Match", "The ETag of what is there already: the same is not sent again.", f'"{"0" * 64}"'),
)
"""What a download may be asked with beside its query, as (header, meaning, example)."""
_PAGE = {"text/html": {"schema": {"type": "string"}, "example": "<!doctype html>"}}
_GUARDED = {"400", "401", "403", "413", "415", "429", "503"}
"""What is answered before it is known which route is meant, or at the server's end: in one form, whatever that of the route."""


def route(
    name: str,
    summary: str,
    *,
    tag: str,
    asks: tuple[Ask, ...] = (),
    example: Any = None,
    body: msgspec.Struct | None = None,
    total: bool = False,
    headers: dict[str, Any] | None = None,
    fails: tuple[int, ...] = (400,),
    media: str = "application/json",
    page: bool = False,
    file: bool = False,
    sends: tuple[tuple[str, str, str], ...] = (),
    needs: str = "reader",
    confined: bool = False,
    counts: str | None = None,
    upload: tuple[Ask, ...] | None = None,
    again: bool = False,
    waits: bool = False,
) -> dict[str, Any]:
    """The keyword arguments of a Litestar handler: what is checked, and what the OpenAPI document says of it.

    Args:
        name: the operation's id; the name of the query or action behind it.
        summary: what it answers, in one line.
        tag: the resource.
        asks: the query parameters.
        example: an answer, as the handler gives it.
        body: a request's body.
        total: whether the answer has X-Total-Count.
        headers: what else its answer has, as OpenAPI describes it.
        fails: the statuses of its errors.
        media: the media type of its answer.
        page: whether a browser gets a page in its place.
        file: that its answer is a file, of whichever type that has: whole, in part, or not again.
        sends: the headers that it takes, as (name, meaning, example).
        needs: the role that it takes.
        confined: whether it shows a token of one project nothing but that project.
        counts: what a peer off loopback may do less often for it in a window: writes or uploads; "none" where the handler counts.
        waits: whether the handler waits for something besides a body, and so is no plain function.
        upload: that its body is a file, and which query parameters may be fields of its form as well.
        again: whether it answers with 200 where what it would make is there already.
    """
    if needs == "writer" and counts is None:
        counts = "writes"
    sometimes = {416: file, 429: counts is not None, 413: body is not None}
    fails = tuple(sorted({*fails, *_ALWAYS, *(status for status, so in sometimes.items() if so)}))
    counts = None if counts == "none" else counts
    return {
        "operation_id": name,
        "summary": summary,
        "tags": [tag],
        "opt": {"asks": asks, "needs": needs, "confined": confined, "counts": counts},
        "operation_class": _operation(
            asks,
            example,
            body,
            "*/*" if file else media,
            headers=(_TOTAL if total else {}) | (headers or {}),
            page=page,
            file=file,
            sends=(*sends, *(_PARTLY if file else ())),
            upload=upload,
            again=again,
        ),
        **({"request_max_body_size": None} if upload is not None else {}),
        "responses": {
            status: ResponseSpec(Problem, description=_ERRORS[status], media_type=errors.MEDIA_TYPE, generate_examples=False)
            for status in fails
        },
        **({"sync_to_thread": False} if body is None and upload is None and not waits else {}),
    }


def _operation(
    asks: tuple[Ask, ...],
    example: Any,
    body: msgspec.Struct | None,
    media: str,
    *,
    headers: dict[str, Any],
    page: bool,
    file: bool,
    sends: tuple[tuple[str, str, str], ...],
    upload: tuple[Ask, ...] | None,
    again: bool,
) -> type[Operation]:
    """Litestar fills an Operation from a handler's signature; this one adds what our tables say."""

    @dataclass
    class Documented(Operation):
        def __post_init__(self) -> None:
            sent = [_header_parameter(*one) for one in sends]
            self.parameters = [*map(_path_parameter, self.parameters or []), *(ask.document() for ask in asks), *sent] or None
            responses = self.responses or {}
            for status, found in responses.items():
                if status.startswith("2") and isinstance(found, OpenAPIResponse) and found.content:
                    (content,) = found.content.values()
                    found.content = {media: content}

        def to_schema(self) -> dict[str, Any]:
            """The operation as it stands in the document; examples go in last, since Litestar takes what is null out of them."""
            found = super().to_schema()
            for status, answer in found["responses"].items():
                _complete(status, answer.get("content", {}), media, example, page=page)
                if status.startswith("2"):
                    answer["headers"] = headers
            if again:
                found["responses"]["200"] = {**found["responses"]["201"], "description": "It is there already."}
            if file:
                found["responses"] |= _file_answers(found["responses"]["200"])
            if body is not None or upload is not None:
                found["requestBody"] = _request_body(body, upload)
            return found

    return Documented


def _complete(status: str, content: dict[str, Any], media: str, example: Any, *, page: bool) -> None:
    """Put into an answer's content what Litestar cannot know of it."""
    if status in _GUARDED:
        content.setdefault(errors.MEDIA_TYPE, {"schema": {"$ref": "#/components/schemas/Problem"}})
    elif status.startswith("2") and content:
        content[media]["example"] = msgspec.to_builtins(example)
        content.update(_PAGE if page else {})


def _file_answers(whole: dict[str, Any]) -> dict[str, Any]:
    """How a file is answered, by status, where the answer of 200 is this."""
    return {
        "200": {**whole, "headers": _TAGGED},
        "206": {**whole, "headers": _TAGGED | _PART, "description": "The part that was asked for."},
        "304": {"headers": _TAGGED, "description": "It is the one that is there already."},
    }


def _request_body(body: msgspec.Struct | None, upload: tuple[Ask, ...] | None) -> dict[str, Any]:
    """A body of JSON, a file, or either; without any, a file is empty."""
    content = {} if upload is None else _file_content(upload)
    if body is not None:
        content["application/json"] = {"schema": _schema_of(type(body)), "example": msgspec.to_builtins(body)}
    return {"content": content, "required": upload is None}


def document_of(app: Litestar) -> dict[str, Any]:
    """The OpenAPI document of the server.

    Litestar says oneOf where a value is of one of several types; but 1.0 is both an integer and a number, so anyOf is meant.
    """

    def meant(part: Any) -> Any:
        if isinstance(part, dict):
            return {"anyOf" if key == "oneOf" else key: meant(value) for key, value in part.items()}
        return [meant(one) for one in part] if isinstance(part, list) else part

    document: dict[str, Any] = meant(app.openapi_schema.to_schema())
    return document


def _path_parameter(found: Any) -> Any:
    if found.name in _PATHS:
        found.description, found.example, pattern = _PATHS[found.name]
        found.schema = Schema(type=OpenAPIType.STRING, pattern=pattern)
    return found


def _header_parameter(name: str, description: str, example: str) -> Parameter:
    schema = Schema(type=OpenAPIType.STRING)
    return Parameter(name=name, param_in="header", description=description, schema=schema, example=example)


def _schema_of(shape: type[Any]) -> dict[str, Any]:
    """The JSON schema of a body, with everything that it refers to in its place."""
    whole = msgspec.json.schema(shape)

    def inlined(part: Any) -> Any:
        if isinstance(part, list):
            return [inlined(one) for one in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            meant = whole["$defs"][part["$ref"].rpartition("/")[2]]
            return inlined(meant | {key: value for key, value in part.items() if key != "$ref"})
        return {key: inlined(value) for key, value in part.items() if key != "$defs"}

    found: dict[str, Any] = inlined(whole)
    return found


def _file_content(fields: tuple[Ask, ...]) -> dict[str, Any]:
    """A file as a body: in a form, beside the query parameters that may be its fields as well, or by itself."""
    parts: dict[str, Any] = {}
    for ask in fields:
        limits = {"enum": list(ask.choices), "pattern": ask.pattern, "maxLength": ask.longest}
        said = {"type": "string", "description": ask.description}
        parts[ask.name] = said | {key: limit for key, limit in limits.items() if limit}
    form = {
        "type": "object", "properties": {"file": {"type": "string", "format": "binary"}, **parts}, "required": ["file"],
        "additionalProperties": False,
    }  # fmt: skip
    return {
        "multipart/form-data": {"schema": form, "example": {"file": examples.FILE_TEXT}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}, "example": examples.FILE_TEXT},
    }
