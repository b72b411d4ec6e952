"""Files that come in a request's body, straight into the store: hashed and written as they come, in constant memory.

A body is the file itself, or a form (multipart/form-data) with one file and small fields around it. Hashing and writing is done
in a thread, a megabyte at a time, so that other requests are answered meanwhile. What was not kept when the request ends, in
whichever way, is gone; an upload is in the store as a whole or not at all.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec
from multipart import MultipartError, MultipartSegment, PushMultipartParser  # type: ignore[import-untyped]

from ailab.blobs import Incoming
from ailab.errors import AilabError, FilterError, StoreError
from ailab.store import reason_of

from .catalogue import check_still

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from litestar import Request

    from ailab.store import Store

    from .contract import Ask

PIECE = 1 << 20
FIELD_MAX = 1 << 20
"""Bytes of all fields of a form together."""
PARTS_MAX = 32
FILE_MAX = 64 << 30
_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;]{1,70}))', re.IGNORECASE)
_NAME = re.compile(r"filename\*=(?:UTF-8|utf-8)''([^;\s]+)|filename=\"([^\"]*)\"|filename=([^;\s]+)")


class Upload(msgspec.Struct):
    """A file that came whole: its bytes, its name as it was sent, and the fields around it."""

    incoming: Incoming
    name: str
    fields: dict[str, str]


@asynccontextmanager
async def received(request: Request[Any, Any, Any], store: Store) -> AsyncIterator[Upload]:
    """Receive a file; whoever wants it calls `incoming.keep`.

    Raises:
        RevokedError: the token was revoked meanwhile.
        NotFoundError: the run that it is for left the token's project meanwhile.
        FilterError: the form does not parse, has no file or several, or the file is too large.
        StoreError: the disk does not take it; nothing of it is kept.
    """
    try:
        sink = _Sink(store)
    except OSError as problem:
        raise _unkept(problem, store) from problem
    try:
        kind = request.headers.get("content-type", "")
        if kind.lower().startswith("multipart/form-data"):
            await _form(request, kind, sink)
        else:
            async for chunk in request.stream():
                await sink.write(chunk)
            disposition = _NAME.search(request.headers.get("content-disposition", ""))
            if disposition is not None:
                sink.name = unquote(disposition[1]) if disposition[1] else disposition[2] or disposition[3] or ""
        await sink.flush()
        check_still(request)
        yield Upload(sink.incoming, sink.name, sink.fields)
    except AilabError:
        raise  # some are errors of the system as well, and say more than that
    except OSError as problem:
        raise _unkept(problem, store) from problem
    finally:
        sink.incoming.discard()


def _unkept(problem: OSError, store: Store) -> StoreError:
    return StoreError(f"the file cannot be kept: {reason_of(problem)}", path=store.path)


def check_fields(said: dict[str, str], known: tuple[Ask, ...]) -> None:
    """Refuse what was said beside a file by a name that nobody asks for.

    Raises:
        FilterError: there is such a name; says which are allowed.
    """
    names = [ask.name for ask in known]
    unknown = sorted(said.keys() - set(names))
    if unknown:
        said_name = unknown[0][:60]
        raise FilterError(f"no field {said_name!r}", where=f"body.{said_name}", hint=f"allowed: {', '.join(names) or 'none'}")


def json_field(name: str, text: str, shape: Any) -> Any:
    """A field of a form that holds JSON.

    Raises:
        FilterError: it is none, or has another shape.
    """
    try:
        return msgspec.json.decode(text, type=shape)
    except (msgspec.DecodeError, RecursionError) as problem:
        raise FilterError(f"{name} is no such JSON: {str(problem)[:100]}", where=f"body.{name}") from None


class _Sink:
    """Collects pieces until they are worth a turn of a thread."""

    def __init__(self, store: Store) -> None:
        self.incoming = Incoming(store)
        self.name = ""
        self.fields: dict[str, str] = {}
        self._waiting: list[bytes] = []
        self._size = 0

    async def write(self, chunk: bytes | bytearray) -> None:
        self._waiting.append(bytes(chunk))
        self._size += len(chunk)
        if self.incoming.size + self._size > FILE_MAX:
            raise FilterError(f"a file of more than {FILE_MAX >> 30} GB", where="body", hint="log it as a reference instead")
        if self._size >= PIECE:
            await self.flush()

    async def flush(self) -> None:
        whole, self._waiting, self._size = b"".join(self._waiting), [], 0
        if whole:
            await asyncio.to_thread(self.incoming.write, whole)


async def _form(request: Request[Any, Any, Any], kind: str, sink: _Sink) -> None:
    boundary = _BOUNDARY.search(kind)
    if boundary is None:
        raise FilterError("the form has no boundary", where="Content-Type", hint="multipart/form-data; boundary=…")
    parser = PushMultipartParser(boundary[1] or boundary[2], max_segment_count=PARTS_MAX, max_header_size=8192)
    form = _Form(sink)
    try:
        with parser:
            async for chunk in request.stream():
                for part in parser.parse(chunk):
                    await form.take(part)
    except (MultipartError, UnicodeError) as problem:
        raise FilterError(f"the form does not parse: {str(problem)[:200]}", where="body") from None
    if not form.files:
        raise FilterError("the form has no file", where="body.file", hint='curl -F "file=@iris.csv"')


class _Form:
    """What a form's parts say, one after the other."""

    def __init__(self, sink: _Sink) -> None:
        self.files = 0
        self._sink = sink
        self._field: str | None = None
        self._text = bytearray()
        self._seen = 0

    async def take(self, part: MultipartSegment | bytearray | None) -> None:
        """A part's head, a piece of it, or its end."""
        if isinstance(part, MultipartSegment):
            self._begin(part)
        elif part is None:
            self._end()
        elif self._field is None:
            await self._sink.write(part)
        else:
            self._seen += len(part)
            if self._seen > FIELD_MAX:
                raise FilterError(f"fields of more than {FIELD_MAX} bytes", where=f"body.{self._field[:60]}")
            self._text += part

    def _begin(self, part: MultipartSegment) -> None:
        name = str(part.name or "")
        if part.filename is None and name != "file":
            if name in self._sink.fields:
                raise FilterError(f"{name[:60]} is given twice", where=f"body.{name[:60]}")
            self._field, self._text = name, bytearray()
            return
        self.files += 1
        if self.files > 1:
            raise FilterError("the form has several files", where="body.file", hint="one file in one request")
        self._field, self._sink.name = None, part.filename or ""

    def _end(self) -> None:
        if self._field is not None:
            try:
                self._sink.fields[self._field] = self._text.decode()
            except UnicodeDecodeError:
                raise FilterError("a field is no UTF-8", where=f"body.{self._field[:60]}") from None
            self._field = None
