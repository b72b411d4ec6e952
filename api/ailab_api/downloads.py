"""Bytes of the store as an answer: whole or in part, always as an attachment of a type that no browser renders as a page.

They are read in pieces, in a thread: their size does not matter to the server's memory, and while the disk is slow other requests
are answered. A download that broke off goes on with `Range`; `If-Range` and the ETag, which is the SHA-256, see to it that it is
the same.
"""

from __future__ import annotations

import asyncio
import os
import re
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote

from litestar import Response
from litestar.exceptions import HTTPException
from litestar.response import Stream

from ailab.errors import DamageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from litestar import Request

PIECE = 256 * 1024
_TYPES = {
    "csv": "text/csv", "gif": "image/gif", "jpeg": "image/jpeg", "jpg": "image/jpeg", "json": "application/json",
    "log": "text/plain", "png": "image/png", "txt": "text/plain", "webp": "image/webp",
}  # fmt: skip
"""Types that hold no script; everything else is application/octet-stream. Litestar says that text is UTF-8."""
_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))")


def download(request: Request[Any, Any, Any], file: IO[bytes], *, size: int, sha256: str, name: str) -> Stream | Response[Any]:
    """Answer with the bytes of an open file, or the part of it that was asked for.

    One range is answered with 206, one that begins behind the end with 416; several ranges, and what is no range, with the whole.

    Raises:
        DamageError: the file has another size than it was kept with.
        HTTPException: 416.
    """
    found = os.fstat(file.fileno()).st_size
    if found != size:
        file.close()
        raise DamageError("bad-checksum", path=file.name, detail=f"{found} bytes, not {size}")
    tag = f'"{sha256}"'
    headers = {
        "ETag": tag, "Accept-Ranges": "bytes", "Content-Disposition": disposition(name),
        "Content-Security-Policy": "default-src 'none'; sandbox", "Cache-Control": "no-cache",
    }  # fmt: skip
    if _has(request.headers.get("if-none-match", ""), tag):
        file.close()
        return Response(None, status_code=304, headers=headers)
    start, end, status = 0, size, 200
    asked = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if asked is not None and request.headers.get("if-range", tag).strip() == tag:
        start, end = _part(asked, size)
        status = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        if start >= end:
            file.close()
            unit = {"Content-Range": f"bytes */{size}"}
            raise HTTPException(f"the file has {size} bytes", status_code=416, headers=unit)
    headers["Content-Length"] = str(end - start)
    kind = _TYPES.get(name.rpartition(".")[2].lower(), "application/octet-stream")
    if request.scope.get("ailab_head"):
        file.close()
        return Stream(_nothing(), headers=headers, media_type=kind, status_code=status)
    return Stream(_pieces(file, start, end), headers=headers, media_type=kind, status_code=status)


def _has(header: str, tag: str) -> bool:
    return header.strip() == "*" or any(part.strip().removeprefix("W/") == tag for part in header.split(","))


def _part(asked: re.Match[str], size: int) -> tuple[int, int]:
    """(first byte, byte behind the last) of a range."""
    if asked[3] is not None:
        return max(0, size - int(asked[3])), size if int(asked[3]) else 0
    return int(asked[1]), min(size, int(asked[2]) + 1) if asked[2] is not None else size


async def _pieces(file: IO[bytes], start: int, end: int) -> AsyncIterator[bytes]:
    with file:
        await asyncio.to_thread(file.seek, start)
        while start < end:
            piece = await asyncio.to_thread(file.read, min(PIECE, end - start))
            if not piece:
                raise DamageError("bad-checksum", path=file.name, detail=f"it ended at byte {start} while it was read")
            start += len(piece)
            yield piece


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""  # makes this a generator


def disposition(name: str) -> str:
    """`attachment` under a name: plain ASCII for old clients, the real one by RFC 6266 for all others."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in " ._-+()") else "_" for c in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
