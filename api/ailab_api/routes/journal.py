"""/journal and /blobs: segments and files of other machines, byte for byte; what came is never asked for again."""

import asyncio
import base64
import hashlib
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, post, put

from ailab import blobs
from ailab.bodies import documented
from ailab.errors import ConflictError, RejectedError
from ailab.receiving import RANGE_MAX, SEGMENT_NAME, Lacking, Received

from .. import examples
from ..catalogue import catalogue_of, check_still
from ..contract import Ask, actor, asked, charge, named, read_body, route
from ..uploads import check_fields, received

OFFSET_MAX = 10**18 - 1
_OFFSET = Ask("offset", "Where in the segment the body begins.", "0", type="integer", default=0, least=0, most=OFFSET_MAX)
SHOWN_MAX = BLOBS_MAX = 10_000


class Wanted(msgspec.Struct, forbid_unknown_fields=True):
    """Digests of files that a client has."""

    sha256: Annotated[list[Annotated[str, documented(pattern=f"^{blobs.DIGEST}$")]], documented(maxItems=BLOBS_MAX)]


class Shown(msgspec.Struct, forbid_unknown_fields=True):
    """Bytes that a client has, by segment."""

    segments: Annotated[dict[Annotated[str, documented(pattern=f"^{SEGMENT_NAME}$")], int], documented(maxProperties=SHOWN_MAX)]


class Missing(msgspec.Struct):
    """Those of them that the server lacks."""

    missing: list[str]


class Kept(msgspec.Struct):
    """A file that is kept."""

    sha256: str
    size: int


@get(
    "/journal/{segment:str}",
    **route("segment_state", "How far a segment has come: its bytes, and their SHA-256.", tag="journal",
            example=examples.RECEIVED, fails=(400, 404), waits=True),
)  # fmt: skip
async def get_segment(request: Request[Any, Any, Any]) -> Received:
    """Answer with how far it has come."""
    return await asyncio.to_thread(catalogue_of(request).receiver.state, named(request, "segment"))


@put(
    "/journal/{segment:str}",
    **route(
        "put_segment", "Add a range of whole lines to a segment; what is there already must be the same.",
        tag="journal", asks=(_OFFSET,), example=examples.RECEIVED, needs="writer", counts="none", upload=(),
        fails=(400, 409, 413, 415, 429),
    ),
)  # fmt: skip
async def put_segment(request: Request[Any, Any, Any]) -> Response[Received]:
    """Take the range in, and answer with how far the segment has come."""
    name, who, catalogue = named(request, "segment"), actor(request), catalogue_of(request)
    text = asked(request).one("offset") or "0"
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(OFFSET_MAX))):
        raise RejectedError(f"offset {text[:40]!r} is not allowed", key="offset", hint="a number of bytes")
    body = await _body(request)
    check_still(request)
    charge(request, "journal", len(body))
    loop = asyncio.get_running_loop()

    async def note() -> None:
        catalogue.accept(name, int(text), who)

    found = await asyncio.to_thread(
        catalogue.receiver.take, name, int(text), body, admin=who.may("admin"), accepted=catalogue.has_accepted(name, who.by),
        accept=lambda: asyncio.run_coroutine_threadsafe(note(), loop).result(),
    )  # fmt: skip
    catalogue.touch()
    return Response(found)


async def _body(request: Request[Any, Any, Any]) -> bytes:
    """The range, checked against the digest that came with it."""
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > RANGE_MAX:
            raise RejectedError(f"a range of more than {RANGE_MAX} bytes", key="body", hint="send it in parts")
        pieces.append(piece)
    body = b"".join(pieces)
    told = request.headers.get("content-digest")
    if told is not None:
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        if f"sha-256=:{digest}:" not in told:
            raise RejectedError("the body does not have the digest that came with it", key="Content-Digest", hint="send it again")
    return body


@post(
    "/journal/missing", status_code=200,
    **route("missing_segments", "Which of these segments have fewer bytes here than a client has, and how many they have.",
            tag="journal", body=Shown(segments={examples.RECEIVED.segment: examples.RECEIVED.bytes}),
            example=Lacking(missing={}), needs="writer", counts="none", fails=(400, 415)),
)  # fmt: skip
async def post_missing_segments(request: Request[Any, Any, Any]) -> Lacking:
    """Answer with those; in tables is as good as in a file."""
    shown = await read_body(request, Shown)
    check_still(request)
    if len(shown.segments) > SHOWN_MAX:
        raise RejectedError(f"{len(shown.segments)} segments", key="segments", hint=f"at most {SHOWN_MAX}")
    return Lacking(await asyncio.to_thread(catalogue_of(request).receiver.lacking, shown.segments))


@post(
    "/blobs/missing", status_code=200,
    **route("missing_blobs", "Which of these files the server lacks.", tag="journal", body=Wanted(sha256=[examples.SHA256]),
            example=Missing(missing=[examples.SHA256]), needs="writer", counts="none", fails=(400, 415)),
)  # fmt: skip
async def post_missing(request: Request[Any, Any, Any]) -> Missing:
    """Answer with those."""
    wanted, store = await read_body(request, Wanted), catalogue_of(request).store
    check_still(request)
    if len(wanted.sha256) > BLOBS_MAX:
        raise RejectedError(f"{len(wanted.sha256)} digests", key="sha256", hint=f"at most {BLOBS_MAX}")
    bad = next((one for one in wanted.sha256 if not blobs.is_digest(one)), None)
    if bad is not None:
        raise RejectedError(f"sha256 {bad[:80]!r} is none", key="sha256", hint="64 hexadecimal digits in lower case")
    return Missing([one for one in wanted.sha256 if not blobs.is_kept(store, one)])


@put(
    "/blobs/{sha256:str}",
    **route("put_blob", "Keep a file that has this SHA-256.", tag="journal", example=Kept(sha256=examples.SHA256, size=812),
            needs="writer", counts="none", upload=(), fails=(400, 409, 413, 415, 429)),
)  # fmt: skip
async def put_blob(request: Request[Any, Any, Any]) -> Kept:
    """Receive it, and keep it if it is what it is said to be."""
    sha256 = named(request, "sha256")
    if not blobs.is_digest(sha256):
        raise RejectedError(f"sha256 {sha256[:80]!r} is none", key="sha256", hint="64 hexadecimal digits in lower case")
    async with received(request, catalogue_of(request).store) as upload:
        check_fields(upload.fields, ())
        charge(request, "journal", upload.incoming.size)
        if upload.incoming.sha256 != sha256:
            raise ConflictError(f"the body has the SHA-256 {upload.incoming.sha256}", where="sha256", hint="send it again")
        digest, size = await asyncio.to_thread(upload.incoming.keep)
    return Kept(sha256=digest, size=size)


HANDLERS = [get_segment, put_segment, post_missing_segments, post_missing, put_blob]
