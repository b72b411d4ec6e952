"""/artifacts: the files of a run, and their bytes."""

import asyncio
from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.exceptions import ClientException
from litestar.response import Stream

from ailab import queries
from ailab.bodies import FULL, Digest, FullName, Place, Size, as_name, documented
from ailab.errors import FilterError, RejectedError
from ailab.filters import LIMIT_DEFAULT
from ailab.queries import ArtifactFile

from .. import examples
from ..catalogue import acting, catalogue_of, lab_of, run_of
from ..contract import BYTES, LIMIT, LOCATED, PAGED, Ask, asked, decode_body, named, route
from ..downloads import download
from ..uploads import check_fields, json_field, received

VERSIONS_MAX = 999_999_999
REFERENCE_MAX = 1 << 20
"""Bytes of a body that names a file, and does not hold one."""
LOCATION_MAX = 4096
"""Characters of a reference's location."""
_KIND = Ask("kind", "model, checkpoint, plot, evaluation, metrics, predictions, data, log, or any other word.", "model")
_FIELDS = (
    Ask("path", "The file's place in the run; by default its name.", "models/svm.joblib"),
    _KIND,
    Ask("type", "The same as kind.", "model"),
    Ask("metadata", "A JSON object.", '{"epoch":3}'),
)


class Reference(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A file that is kept elsewhere: only its place in the run, size and SHA-256 are, and `location`, which is never opened."""

    path: Place
    size: Size
    sha256: Digest
    reference: Annotated[bool, documented(enum=[True])] = True
    location: Annotated[str, documented(maxLength=LOCATION_MAX, pattern=FULL)] | None = None
    kind: FullName | None = None
    type: FullName | None = None
    metadata: dict[str, Any] = {}


REFERENCE = Reference(
    path="raw/iris.parquet", size=812, sha256=examples.SHA256, kind="data", location="s3://bucket/iris.parquet"
)  # fmt: skip


@get(
    "/artifacts/{run_id:str}",
    **route("list_artifacts", "The files of a run, newest first, every version.", tag="artifacts",
            asks=(
                Ask("kind", "Only files of this kind.", "model"), Ask("below", "Only what is below this folder.", "a"),
                Ask("cursor", "Go on behind a page: the cursor of its Link header.", "100", type="integer", most=VERSIONS_MAX),
                LIMIT,
            ),
            example=[examples.FILE], total=True, headers=BYTES | PAGED, fails=(400, 404), confined=True),
)  # fmt: skip
def list_artifacts(request: Request[Any, Any, Any]) -> Response[list[ArtifactFile]]:
    """Answer with the files; the cursor is how many of the run's versions are older, which new ones do not change."""
    question = asked(request)
    limit, kind, below = question.count("limit", default=LIMIT_DEFAULT), question.one("kind"), question.one("below")
    every = queries.list_artifacts(lab_of(request), run_of(request))
    chosen = [
        (older, file)
        for older, file in zip(range(len(every) - 1, -1, -1), every, strict=True)
        if kind in {None, file.kind} and (below is None or file.path.startswith(below.strip("/") + "/"))
    ]
    files = [file for _, file in chosen]
    before = question.count("cursor", default=len(every))
    page = [(older, file) for older, file in chosen if older < before]
    logged, kept = queries.bytes_of(files)
    headers = {"X-Total-Count": str(len(files)), "X-Bytes-Logged": str(logged), "X-Bytes-Kept": str(kept)}
    if len(page) > limit:
        pairs = [pair for pair in question.pairs if pair[0] != "cursor"] + [("cursor", str(page[limit - 1][0]))]
        headers["Link"] = f'<{request.scope["path"]}?{urlencode(pairs)}>; rel="next"'
    return Response([file for _, file in page[:limit]], headers=headers)


@post(
    "/artifacts/{run_id:str}",
    **route(
        "add_artifact", "Add a file to a run, the next version of its path; a JSON body names one that is kept elsewhere.",
        tag="artifacts", asks=_FIELDS, example=examples.FILE, needs="writer", confined=True, counts="uploads", upload=_FIELDS,
        body=REFERENCE, headers=LOCATED, fails=(400, 404, 413, 415),
    ),
)  # fmt: skip
async def post_artifact(request: Request[Any, Any, Any]) -> Response[ArtifactFile]:
    """Receive it, keep it, and answer with the file."""
    run_id, question = run_of(request), asked(request)
    queries.get_run(lab_of(request), run_id)
    if request.headers.get("content-type", "").lower().startswith("application/json") and question.one("path") is None:
        return _created(request, run_id, await _reference(request))
    async with received(request, catalogue_of(request).store) as upload:
        said = dict(question.pairs) | upload.fields
        check_fields(said, _FIELDS)
        path = said.get("path") or upload.name
        if not path:
            raise FilterError("the file has no name", where="path", hint="send it in a form, or say path=model.joblib")
        metadata = json_field("metadata", said.get("metadata") or "{}", dict[str, Any])
        check_place(path)
        sha256, size = await asyncio.to_thread(upload.incoming.keep)
        kind = said.get("kind") or said.get("type")
        return _created(request, run_id, Reference(
            path=path, size=size, sha256=sha256, kind=kind, metadata=metadata, reference=False,
        ))  # fmt: skip


async def _reference(request: Request[Any, Any, Any]) -> Reference:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > REFERENCE_MAX:
            raise ClientException(status_code=413)
    found = decode_body(bytes(body), Reference)
    if not found.reference:
        raise RejectedError("reference is false, and there are no bytes", key="reference", hint="send the file as the body")
    check_place(found.path)
    return found if found.location is None else msgspec.structs.replace(
        found, metadata={**found.metadata, "location": as_name(found.location, "location", least=1, most=LOCATION_MAX)}
    )  # fmt: skip


def check_place(path: str) -> None:
    """Refuse a place that leads out of the run, rather than bending it into one.

    Raises:
        RejectedError: it is absolute, goes up, or has something else in it that no path needs.
    """
    parts = path.split("/")
    if {"", ".", ".."} & set(parts) or "\\" in path or any(c < " " or c == "\x7f" for c in path) or ":" in parts[0][:2]:
        hint = "allowed: a relative path with /, to the file's name, and no part that is empty or goes up"
        raise RejectedError(f"path {path[:100]!r} is not allowed", key="path", hint=hint)


def _created(request: Request[Any, Any, Any], run_id: str, new: Reference) -> Response[ArtifactFile]:
    with acting(request) as actions:
        found = actions.add_artifact(
            run_id, new.path, sha256=new.sha256, size=new.size, kind=new.type if new.kind is None else new.kind,
            metadata=new.metadata, reference=new.reference,
        )  # fmt: skip
    return Response(found, status_code=201, headers={"Location": found.url})


def _path(request: Request[Any, Any, Any]) -> str:
    return named(request, "path").removeprefix("/")


@get(
    "/artifacts/{run_id:str}/download/{path:path}",
    **route("download_artifact", "The bytes of a file, in its newest version; takes Range, ETag is its SHA-256.", tag="artifacts",
            asks=(Ask("version", "An older version, counted from 1.", "1", type="integer", most=VERSIONS_MAX),),
            example="epoch,train_loss,val_loss\n0,0.91,0.95\n", fails=(400, 404), file=True, confined=True),
)  # fmt: skip
def download_artifact(request: Request[Any, Any, Any]) -> Stream | Response[Any]:
    """Answer with the bytes; the path is compared with those of the run, and never opened."""
    version = asked(request).count("version", default=0) or None
    found, file = queries.open_artifact(lab_of(request), run_of(request), _path(request), version=version)
    return download(request, file, size=found.size, sha256=found.sha256, name=found.name)


@delete(
    "/artifacts/{run_id:str}/download/{path:path}", status_code=204,
    **route("trash_artifact", "Put all versions of a file in the trash; nothing of it is lost.", tag="artifacts", example=None,
            needs="writer", fails=(400, 404, 409), confined=True),
)  # fmt: skip
def delete_artifact(request: Request[Any, Any, Any]) -> None:
    """Put it there."""
    with acting(request) as actions:
        actions.trash_artifact(run_of(request), _path(request))


@post(
    "/artifacts/{run_id:str}/restore/{path:path}", status_code=200,
    **route("restore_artifact", "Take a file out of the trash.", tag="artifacts", example=examples.FILE, needs="writer",
            fails=(400, 404), confined=True),
)  # fmt: skip
def restore_artifact(request: Request[Any, Any, Any]) -> ArtifactFile:
    """Take it out, and answer with the file."""
    with acting(request) as actions:
        return actions.trash_artifact(run_of(request), _path(request), on=False)


HANDLERS = [list_artifacts, post_artifact, download_artifact, delete_artifact, restore_artifact]
