"""/datasets: files of data by name and version. What is sent is read in a process of its own, and kept only if it can be."""

import asyncio
from functools import partial
from typing import Any

import msgspec
from litestar import Request, Response, delete, get, patch, post, put
from litestar.response import Stream

from ailab import confined, inventory
from ailab.bodies import FULL, NAME_MAX, DatasetFields
from ailab.datasets import FORMATS, Contents
from ailab.errors import FilterError
from ailab.filters import LIMIT_DEFAULT
from ailab.inventory import DatasetDetail, DatasetFilter, DatasetPreview, DatasetView

from .. import examples
from ..catalogue import acting, catalogue_of, dataset_of, lab_of
from ..contract import LIMIT, LOCATED, Ask, actor, asked, read_body, route
from ..downloads import download
from ..uploads import Upload, check_fields, json_field, received
from .runs import paged

_FILTERS = (
    Ask("project_id", "Datasets of this project.", "iris"),
    Ask("name", "Versions of the dataset of this name.", "iris"),
    Ask("q", "Datasets that have this text in name, description, file, tags or metadata.", "flowers"),
    Ask("tag", "Datasets with this tag: KEY, or KEY=VALUE.", "gold"),
    Ask("all_versions", "Older versions too.", "false", type="boolean"),
    Ask("trashed", "What is in the trash instead.", "false", type="boolean"),
    LIMIT,
)
_NAME = rf"^$|{FULL.replace('u0000', 'u0000@')}"
_FIELDS = (
    Ask("name", "The dataset's name; by default the file's name without its ending.", "iris", pattern=_NAME, longest=NAME_MAX),
    Ask("description", "What it is.", "Fisher's flowers"),
    Ask("tags", "Words with commas between them, or a JSON object or list.", "gold,small"),
    Ask("metadata", "A JSON object.", '{"source":"UCI"}'),
    Ask("project_id", "The project that it belongs to.", "iris"),
    Ask("format", "Where the file's name does not tell.", "csv", choices=FORMATS),
    Ask("encoding", "Of text that is neither UTF-8 nor marked by its first bytes.", "latin-1"),
    Ask("validate_against", "A version whose columns the new one must have, of the same types and no more nulls.", "iris@v1"),
    Ask("file", "The file's name, where the body is the file itself.", "iris.csv"),
)


@get(
    "/datasets",
    **route("list_datasets", "The newest version of every dataset, newest first.", tag="datasets", asks=_FILTERS,
            example=[examples.DATASET], total=True, confined=True, fails=(400, 404)),
)  # fmt: skip
def list_datasets(request: Request[Any, Any, Any]) -> Response[list[DatasetView]]:
    """Answer with a page of datasets."""
    question = asked(request)
    f = DatasetFilter(
        project_id=actor(request).project_for(question.one("project_id")), name=question.one("name"), q=question.one("q"),
        tag=question.one("tag"), all_versions=bool(question.switch("all_versions")), trashed=bool(question.switch("trashed")),
        limit=question.count("limit", default=LIMIT_DEFAULT),
    )  # fmt: skip
    page = inventory.list_datasets(lab_of(request), f)
    return Response(page.rows, headers=paged(request, page))


@post(
    "/datasets",
    **route(
        "add_dataset", "Add a file: the next version of its dataset, 201; 200 where the dataset has that content already.",
        tag="datasets", asks=_FIELDS, example=examples.DATASET_DETAIL, needs="writer", confined=True, counts="uploads",
        upload=_FIELDS[:-1], again=True, headers=LOCATED, fails=(400, 404, 409, 413, 415),
    ),
)  # fmt: skip
async def post_dataset(request: Request[Any, Any, Any]) -> Response[DatasetDetail]:
    """Receive it, read it, keep it, and answer with the version."""
    question = asked(request)
    async with received(request, catalogue_of(request).store) as upload:
        return await add(request, upload, dict(question.pairs) | upload.fields)


async def add(request: Request[Any, Any, Any], upload: Upload, said: dict[str, str]) -> Response[DatasetDetail]:
    """Keep what came as a version, if it can be read and is what it is to be."""
    check_fields(said, _FIELDS)
    name = said.get("file") or upload.name or said.get("name", "")
    if not name:
        raise FilterError("the file has no name", where="file", hint="send it in a form, or say file=iris.csv")
    forms: dict[str, Any] = {"name": str, "description": str, "tags": _tags, "metadata": _metadata}
    fields = DatasetFields(**{key: form(said[key]) for key, form in forms.items() if said.get(key)})
    project = actor(request).project_for(said.get("project_id") or None)
    if project is not None:
        fields.project_id = project
    contents = await _examined(request, upload, name, said)
    if said.get("validate_against"):
        _validate(request, contents, said["validate_against"])
    with acting(request) as actions:
        found, is_new = actions.add_dataset(upload.incoming, contents, file=name, fields=fields)
    return Response(found, status_code=201 if is_new else 200, headers={"Location": f"/datasets/{found.dataset_id}"})


async def _examined(request: Request[Any, Any, Any], upload: Upload, name: str, said: dict[str, str]) -> Contents:
    await asyncio.to_thread(upload.incoming.settle)
    given = {"path": upload.incoming.path, "name": name, "format": said.get("format"), "encoding": said.get("encoding")}
    return msgspec.json.decode(await _read(request, "examine", given), type=Contents)


async def _read(request: Request[Any, Any, Any], job: str, given: dict[str, Any], seconds: float = confined.SECONDS) -> bytes:
    """What a process of its own finds in a file, while somebody waits for it."""
    async with catalogue_of(request).readers.work() as work:
        call = partial(confined.call, job, given, seconds=seconds, given_up=work.given_up)
        return await work.step_unless_left(request, call)


def _validate(request: Request[Any, Any, Any], contents: Contents, text: str) -> None:
    inventory.check_fits(inventory.get_dataset(lab_of(request), text, only=actor(request).project), contents)


def _tags(text: str) -> Any:
    if text.lstrip()[:1] in {"{", "["}:
        return json_field("tags", text, dict[str, Any] | list[str])
    return [word.strip() for word in text.split(",") if word.strip()]


def _metadata(text: str) -> Any:
    return json_field("metadata", text, dict[str, Any])


def _one(name: str, summary: str, **more: Any) -> dict[str, Any]:
    return route(
        name, summary, tag="datasets", confined=True, **{"example": examples.DATASET_DETAIL, "fails": (400, 404), **more}
    )


@get(
    "/datasets/{dataset_id:str}",
    **_one("get_dataset", "One version: its columns, their differences from its parent's, its uses."),
)
def get_dataset(request: Request[Any, Any, Any]) -> DatasetDetail:
    """Answer with the version."""
    return inventory.get_dataset(lab_of(request), dataset_of(request), only=actor(request).project)


_CHANGE = DatasetFields(description="Fisher's flowers", tags=["gold"])


async def _changed(request: Request[Any, Any, Any]) -> DatasetDetail:
    fields = await read_body(request, DatasetFields)
    if fields.project_id is not msgspec.UNSET:
        actor(request).project_for(fields.project_id)
    with acting(request) as actions:
        return actions.change_dataset(dataset_of(request), fields)


@put(
    "/datasets/{dataset_id:str}",
    **_one("change_dataset", "Change what is said of a version; what is left out stays.", body=_CHANGE, needs="writer",
           fails=(400, 404, 409, 415)),
)  # fmt: skip
async def put_dataset(request: Request[Any, Any, Any]) -> DatasetDetail:
    """Change it, and answer with the version."""
    return await _changed(request)


@patch(
    "/datasets/{dataset_id:str}",
    **_one("change_dataset_by_patch", "The same as PUT.", body=_CHANGE, needs="writer", fails=(400, 404, 409, 415)),
)
async def patch_dataset(request: Request[Any, Any, Any]) -> DatasetDetail:
    """Change it, and answer with the version."""
    return await _changed(request)


@delete(
    "/datasets/{dataset_id:str}", status_code=204,
    **_one("trash_dataset", "Put a version in the trash; nothing is lost.", needs="writer", fails=(400, 404), example=None),
)  # fmt: skip
def delete_dataset(request: Request[Any, Any, Any]) -> None:
    """Put it there."""
    with acting(request) as actions:
        actions.trash_dataset(dataset_of(request))


@post(
    "/datasets/{dataset_id:str}/restore", status_code=200,
    **_one("restore_dataset", "Take a version out of the trash.", needs="writer", fails=(400, 404, 409)),
)  # fmt: skip
def restore_dataset(request: Request[Any, Any, Any]) -> DatasetDetail:
    """Take it out, and answer with the version."""
    with acting(request) as actions:
        return actions.trash_dataset(dataset_of(request, trashed=True), on=False)


@get(
    "/datasets/{dataset_id:str}/preview",
    **_one(
        "preview_dataset", "The first rows.", example=examples.PREVIEW, waits=True,
        asks=(Ask("limit", "How many at most, 1 to 100.", "5", type="integer", default=inventory.PREVIEW_MAX,
                  most=inventory.PREVIEW_MAX),),
    ),
)  # fmt: skip
async def get_preview(request: Request[Any, Any, Any]) -> DatasetPreview:
    """Answer with the rows, read in a process of its own."""
    limit = asked(request).count("limit", default=inventory.PREVIEW_MAX)
    return await previewed(request, *inventory.preview_job(lab_of(request), dataset_of(request), limit))


async def previewed(request: Request[Any, Any, Any], found: DatasetDetail, given: dict[str, Any]) -> DatasetPreview:
    """The first rows of a version, as `preview_job` says where they are."""
    rows = msgspec.json.decode(await _read(request, "preview", given, seconds=60), type=list[dict[str, Any]])
    return DatasetPreview(rows=rows, total=found.rows, showing=len(rows))


@get(
    "/datasets/{dataset_id:str}/versions",
    **_one(
        "list_dataset_versions", "All versions of the dataset, newest first, those in the trash too.", example=[examples.DATASET]
    ),
)
def get_versions(request: Request[Any, Any, Any]) -> list[DatasetView]:
    """Answer with the versions."""
    return inventory.list_versions(lab_of(request), dataset_of(request), only=actor(request).project)


@get(
    "/datasets/{dataset_id:str}/download",
    **_one("download_dataset", "The bytes of a version; takes Range, ETag is its SHA-256.", example="a,b\n1,2\n",
           file=True, fails=(400, 404)),
)  # fmt: skip
def get_file(request: Request[Any, Any, Any]) -> Stream | Response[Any]:
    """Answer with the bytes."""
    found, file = inventory.open_dataset(lab_of(request), dataset_of(request))
    return download(request, file, size=found.size, sha256=found.sha256, name=found.file or f"{found.name}.{found.format}")


HANDLERS = [
    list_datasets, post_dataset, get_dataset, put_dataset, patch_dataset, delete_dataset, restore_dataset, get_preview,
    get_versions, get_file,
]  # fmt: skip
