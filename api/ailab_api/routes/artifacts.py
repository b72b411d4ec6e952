"""/artifacts: the files of a run, and their bytes.

A download is always an attachment, of a type that no browser renders as a page, and is read in pieces: its size does not
matter to the server's memory, and while the disk is slow other requests are answered.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import IO, Any
from urllib.parse import quote

from litestar import Request, Response, get
from litestar.response import Stream

from ailab import queries
from ailab.filters import LIMIT_DEFAULT
from ailab.queries import ArtifactFile

from .. import examples
from ..catalogue import lab_of
from ..contract import LIMIT, asked, named, route

PIECE = 256 * 1024
_TYPES = {
    "csv": "text/csv", "gif": "image/gif", "jpeg": "image/jpeg", "jpg": "image/jpeg", "json": "application/json",
    "log": "text/plain", "png": "image/png", "txt": "text/plain", "webp": "image/webp",
}  # fmt: skip
"""Types that hold no script; everything else is application/octet-stream. Litestar says that text is UTF-8."""


@get(
    "/artifacts/{run_id:str}",
    **route("list_artifacts", "The files of a run, newest first, every version.", tag="artifacts", asks=(LIMIT,),
            example=[examples.FILE], total=True, fails=(400, 404)),
)  # fmt: skip
def list_artifacts(request: Request[Any, Any, Any]) -> Response[list[ArtifactFile]]:
    """Answer with the files."""
    limit = asked(request).count("limit", default=LIMIT_DEFAULT)
    files = queries.list_artifacts(lab_of(request), named(request, "run_id"))
    return Response(files[:limit], headers={"X-Total-Count": str(len(files))})


@get(
    "/artifacts/{run_id:str}/download/{path:path}",
    **route("download_artifact", "The bytes of a file, in its newest version; ETag is its SHA-256.", tag="artifacts",
            example="epoch,train_loss,val_loss\n0,0.91,0.95\n", fails=(400, 404), media="application/octet-stream"),
)  # fmt: skip
def download_artifact(request: Request[Any, Any, Any]) -> Stream:
    """Answer with the bytes; the path is compared with those of the run, and never opened."""
    found, file = queries.open_artifact(lab_of(request), named(request, "run_id"), named(request, "path").removeprefix("/"))
    headers = {
        "Content-Length": str(found.size), "Content-Disposition": disposition(found.name), "ETag": f'"{found.sha256}"',
        "Content-Security-Policy": "default-src 'none'; sandbox", "Cache-Control": "no-cache",
    }  # fmt: skip
    kind = _TYPES.get(found.name.rpartition(".")[2].lower(), "application/octet-stream")
    if request.scope.get("ailab_head"):
        file.close()
        return Stream(_nothing(), headers=headers, media_type=kind)
    return Stream(_pieces(file), headers=headers, media_type=kind)


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    with file:
        while piece := await asyncio.to_thread(file.read, PIECE):
            yield piece


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""  # makes this a generator


def disposition(name: str) -> str:
    """`attachment` under a name: plain ASCII for old clients, the real one by RFC 6266 for all others."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in " ._-+()") else "_" for c in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


HANDLERS = [list_artifacts, download_artifact]
