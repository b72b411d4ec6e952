"""ModelLab's words for what ailab keeps: the bodies that its clients send, the shapes that they read, and its form of an error.

Nothing is kept twice, and nothing is kept for ModelLab alone: a run's `config` and `hyperparameters` are its parameters, its
`metrics` the final metrics, `metadata` the parameters below `metadata/`. Every name of several words is answered in both
spellings, `project_id` and `projectId`, and read in either. What lies in the trash is not there for these clients, which know no
trash. Times that they send are not kept: an event has that of its writing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from litestar import Response
from litestar.openapi.datastructures import ResponseSpec
from msgspec import UNSET

from ailab.bodies import (
    BEGINNINGS,
    NAME_MAX,
    SET_STATUSES,
    Commit,
    DatasetFields,
    Digest,
    FullName,
    Name,
    NewRun,
    Place,
    RunChange,
    Seed,
    Size,
    Tags,
    Text,
    as_metrics,
    as_name,
    as_params,
    as_tags,
    documented,
)
from ailab.errors import FilterError, NotFoundError, RejectedError
from ailab.filters import STATUSES
from ailab.values import as_json

from . import errors
from .contract import decode_body, route

if TYPE_CHECKING:
    from litestar import Request

    from ailab.columns import Column
    from ailab.inventory import DatasetView, ProjectView
    from ailab.queries import ArtifactFile, Number, RunDetail

T = TypeVar("T")
PREFIX = "/api/modellab"
_METADATA = "metadata/"
_WORDS = {"created": "pending", "cancelled": "killed", "canceled": "killed"}
"""Words of ModelLab for states that ailab calls otherwise."""
STATUS_WORDS = (*STATUSES, *_WORDS)


# -- spelling ----------------------------------------------------------------------------------------------------------


def camel(name: str) -> str:
    """A name in ModelLab's other spelling: project_id is projectId."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def snake(name: str) -> str:
    """A name in ours, whichever it is spelt in."""
    return re.sub(r"(?<=[a-z0-9])[A-Z]", lambda letter: "_" + letter[0].lower(), name)


def twinned(found: msgspec.Struct) -> dict[str, Any]:
    """The fields of an answer, those of several words in both spellings."""
    plain = msgspec.structs.asdict(found)
    return plain | {camel(name): value for name, value in plain.items() if "_" in name}


def respelt(said: dict[str, T]) -> dict[str, T]:
    """What was said, by names in our spelling.

    Raises:
        FilterError: something is said in both spellings, and differently.
    """
    found: dict[str, T] = {}
    for name, value in said.items():
        if found.setdefault(snake(name), value) != value:
            raise FilterError(f"{name[:60]} is given twice", where=f"body.{snake(name)[:60]}", hint="once, in either spelling")
    return found


async def read_either(request: Request[Any, Any, Any], shape: type[T]) -> T:
    """Read a request's body, its names in either spelling; see `decode_body`."""
    body = await request.body()
    try:
        said = {name: bytes(value) for name, value in msgspec.json.decode(body, type=dict[str, msgspec.Raw]).items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return decode_body(body, shape)  # which says what is wrong with it
    return decode_body(msgspec.json.encode({name: msgspec.Raw(value) for name, value in respelt(said).items()}), shape)


# -- bodies ------------------------------------------------------------------------------------------------------------


class _RunFields(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is said of a run; null is as good as absent."""

    name: Name | None = None
    description: Text | None = None
    status: Annotated[str, documented(enum=[*SET_STATUSES, *_WORDS])] | None = None
    project_id: FullName | None = None
    dataset_id: Name | None = None
    dataset_version: Name | int | None = None
    model_type: str | None = None
    config: dict[str, Any] | None = None
    hyperparameters: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    tags: Tags | None = None
    created_at: str | None = None
    completed_at: str | None = None

    def params(self) -> dict[str, Any]:
        """All that are parameters, checked."""
        said = {**(self.hyperparameters or {}), **(self.config or {})}
        if self.model_type is not None:
            said["model_type"] = self.model_type
        if self.metadata:
            said["metadata"] = self.metadata
        return as_params(said)

    def dataset(self) -> str | None:
        """The text that names a dataset: a version that is said beside its name is the one that is meant.

        Raises:
            RejectedError: one has a NUL in it, or they are too long together.
        """
        name = as_name(self.dataset_id or "", "dataset_id") or None
        version = None if self.dataset_version is None else as_name(str(self.dataset_version), "dataset_version")
        if name is None or version is None or "@" in name:
            return name
        exact = f"{name}@v{version.removeprefix('v')}"
        if len(exact) > NAME_MAX:
            said = f"dataset_id and dataset_version have {len(exact)} characters together"
            raise RejectedError(said, key="dataset_version", hint=f"at most {NAME_MAX}, with @v between them")
        return exact


class RunBegin(_RunFields, kw_only=True, forbid_unknown_fields=True):
    """A run as a client begins it; without `status` it is pending."""

    name: FullName
    seed: Seed | None = None
    commit_hash: Commit | None = None


class RunUpdate(_RunFields, kw_only=True, forbid_unknown_fields=True):
    """What is to change of a run: a client sends all its parameters and metrics each time, of which those that differ are new."""


class DatasetUpdate(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is to change of a dataset; null is as good as absent."""

    name: FullName | None = None
    description: Text | None = None
    tags: Tags | None = None
    metadata: dict[str, Any] | None = None
    project_id: FullName | None = None

    def fields(self) -> DatasetFields:
        """The same, as an action takes it."""
        said = msgspec.structs.asdict(self) | {"tags": None if self.tags is None else as_tags(self.tags)}
        return DatasetFields(**{name: value for name, value in said.items() if value is not None})


class ArtifactRecord(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A file that a client has beside it: its name, size and SHA-256 are told, the bytes stay where they are."""

    run_id: str
    name: Place
    size: Size
    checksum: Digest
    type: FullName | None = None
    path: str | None = None
    created_at: str | None = None
    metadata: dict[str, Any] | None = None


def begin(said: RunBegin, project: str | None) -> tuple[NewRun, RunChange]:
    """A run to be made, and what is to be said of it once it is there; all of it is checked before the first is written.

    Raises:
        FilterError: it has no name.
        RejectedError: a field cannot be kept as it is.
    """
    if not said.name.strip():
        raise FilterError("name is missing", where="body.name", hint='{"name": "my-experiment"}')
    status, metrics = status_of(said.status or "pending"), as_metrics(said.metrics or {})
    new = NewRun(
        name=said.name, project=project, dataset_id=said.dataset(), description=said.description or None, seed=said.seed,
        commit=said.commit_hash, params=said.params(), tags=as_tags(said.tags),
        status=status if status in BEGINNINGS else "running",
    )  # fmt: skip
    return new, RunChange(status=UNSET if status in BEGINNINGS else status, metrics=metrics or UNSET)


def update(run: RunDetail, said: RunUpdate) -> RunChange:
    """What an update adds to a run as it is; tags are whole in it, and are set apart.

    Raises:
        RejectedError: a field cannot be kept as it is.
    """
    metrics = _new(as_metrics(said.metrics or {}), run.final_metrics)
    dataset, params = said.dataset(), _new(said.params(), run.params)
    return RunChange(
        name=UNSET if said.name is None else said.name, description=UNSET if said.description is None else said.description,
        status=UNSET if said.status is None else status_of(said.status),
        project_id=UNSET if said.project_id is None else said.project_id, dataset_id=UNSET if dataset is None else dataset,
        params=params or UNSET, metrics=metrics or UNSET,
    )  # fmt: skip


def _new(said: dict[str, Any], there: dict[str, Any]) -> dict[str, Any]:
    """What is said that is not there already; 1 and true are two values."""
    return {key: value for key, value in said.items() if key not in there or _text(there[key]) != _text(value)}


def _text(value: Any) -> bytes:
    return msgspec.json.encode(as_json(value) if isinstance(value, float) else value)


def status_of(word: str) -> str:
    """The state that a client means.

    Raises:
        RejectedError: it is none that can be set.
    """
    found = _WORDS.get(word, word)
    if found not in SET_STATUSES:
        raise RejectedError(f"status {word[:40]!r} is not allowed", key="status", hint=f"allowed: {', '.join(SET_STATUSES)}")
    return found


# -- answers -----------------------------------------------------------------------------------------------------------


class Project(msgspec.Struct, kw_only=True):
    """A project with what is in it."""

    id: str
    name: str
    description: str | None
    created_at: str
    updated_at: str
    dataset_count: int
    run_count: int
    runs_by_status: dict[str, int]
    total_dataset_bytes: int


class Dataset(msgspec.Struct, kw_only=True):
    """A version of a dataset: `checksum` is its SHA-256, `columns` their names, `schema` what is known of them."""

    id: str
    name: str
    description: str | None
    version: int
    checksum: str
    size: int
    format: str
    row_count: int
    columns: list[str]
    schema: list[Column]
    tags: list[str]
    metadata: dict[str, Any]
    project_id: str | None
    file_name: str
    created_at: str


class Run(msgspec.Struct, kw_only=True):
    """A run; `config` and `hyperparameters` are the same."""

    id: str
    name: str
    description: str | None
    status: str
    seed: int | None
    commit_hash: str | None
    project_id: str | None
    dataset_id: str | None
    dataset_version: int | None
    model_type: Any
    config: dict[str, Any]
    hyperparameters: dict[str, Any]
    metrics: dict[str, Number]
    metadata: dict[str, Any]
    tags: list[str]
    created_at: str
    completed_at: str | None


class Artifact(msgspec.Struct, kw_only=True):
    """A file of a run, in its newest version; `url` is where its bytes are."""

    id: str
    run_id: str
    name: str
    type: str
    path: str
    size: int
    checksum: str
    version: int
    created_at: str
    url: str


class Trouble(msgspec.Struct, kw_only=True):
    """What is wrong with one part of a request; `path` says which part."""

    message: str
    path: list[str]
    hint: str | None
    nearest: list[str]


class Refusal(msgspec.Struct, kw_only=True):
    """An error as ModelLab has it: its kind, what happened in a sentence, and the part of the request that is meant."""

    error: str
    message: str
    details: list[Trouble]


def project_answer(found: ProjectView) -> dict[str, Any]:
    """A project as ModelLab has it."""
    return twinned(Project(
        id=found.project_id, name=found.name, description=found.description, created_at=found.created_at,
        updated_at=found.last_activity, dataset_count=found.dataset_count, run_count=found.run_count,
        runs_by_status=found.runs_by_status, total_dataset_bytes=found.total_dataset_bytes,
    ))  # fmt: skip


def dataset_answer(found: DatasetView, metadata: dict[str, Any], columns: list[Column]) -> dict[str, Any]:
    """A version of a dataset as ModelLab has it."""
    return twinned(Dataset(
        id=found.dataset_id, name=found.name, description=found.description, version=found.version, checksum=found.sha256,
        size=found.size, format=found.format, row_count=found.rows, columns=[column.name for column in columns],
        schema=columns, tags=_words(found.tags), metadata=metadata, project_id=found.project_id, file_name=found.file,
        created_at=found.created_at,
    ))  # fmt: skip


def run_answer(found: RunDetail) -> dict[str, Any]:
    """A run as ModelLab has it."""
    config = {key: value for key, value in found.params.items() if not key.startswith(_METADATA)}
    return twinned(Run(
        id=found.run_id, name=found.name, description=found.description, status=found.status, seed=found.seed,
        commit_hash=found.git_hash, project_id=found.project_id, dataset_id=found.dataset_id,
        dataset_version=next((use.version for use in found.datasets if use.name == found.dataset_id), None),
        model_type=found.params.get("model_type"), config=config, hyperparameters=config, metrics=found.final_metrics,
        metadata={key.removeprefix(_METADATA): value for key, value in found.params.items() if key.startswith(_METADATA)},
        tags=_words(found.tags), created_at=found.started_at, completed_at=found.ended_at,
    ))  # fmt: skip


def artifact_answer(run_id: str, found: ArtifactFile) -> dict[str, Any]:
    """A file as ModelLab has it."""
    return twinned(Artifact(
        id=f"{run_id}/{found.path}", run_id=run_id, name=found.name, type=found.kind, path=found.path, size=found.size,
        checksum=found.sha256, version=found.version, created_at=found.at, url=PREFIX + found.url,
    ))  # fmt: skip


def _words(tags: dict[str, str | None]) -> list[str]:
    return [name if value is None else f"{name}={value}" for name, value in tags.items()]


def there(what: str, name: str, *, trashed: bool) -> None:
    """Make sure that something is not in the trash.

    Raises:
        NotFoundError: it is.
    """
    if trashed:
        raise NotFoundError(what, name, hint=f"it is in the trash; POST /{what}s/{{id}}/restore takes it out")


# -- routes ------------------------------------------------------------------------------------------------------------


def refuse(request: Request[Any, Any, Any], error: Exception) -> Response[Refusal]:
    """Answer a request with an exception in ModelLab's form; what is said, and the log, are the same as everywhere."""
    answered = errors.answer(request, error)
    found = answered.content
    about = Trouble(
        message=found.detail, path=[] if found.where is None else [found.where], hint=found.hint, nearest=found.nearest
    )
    details = [about] if found.where or found.hint or found.nearest else []
    return Response(
        Refusal(error=found.title, message=found.detail, details=details),
        status_code=found.status, media_type="application/json", headers=dict(answered.headers),
    )  # fmt: skip


def modellab_route(name: str, summary: str, *, confined: bool = True, **more: Any) -> dict[str, Any]:
    """The keyword arguments of a handler, as `route` has them, with ModelLab's form of errors."""
    found = route(f"modellab_{name}", summary, tag="modellab", confined=confined, **more)
    found["exception_handlers"] = {Exception: refuse}
    found["responses"] = {
        status: ResponseSpec(Refusal, description=spec.description, media_type="application/json", generate_examples=False)
        for status, spec in found["responses"].items()
    }
    return found
