"""What may be asked of the actions: a Struct for each, the same for HTTP bodies and the command line, and what is checked of it.

Nothing that these checks let through is refused later for its form. A field that is absent is UNSET and stays as it is. Texts
become valid UTF-8 here, numbers and parameters get the form that the recorder gives them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import msgspec
from msgspec import UNSET, UnsetType

from . import events, values
from .blobs import DIGEST
from .errors import RejectedError
from .filters import STATUSES
from .inventory import TokenView  # noqa: TC001  (msgspec reads the annotations of Structs at run time)
from .runs import ROUTE_WORDS, RUN_ID_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

ROLES = ("reader", "writer", "admin")
NOTE_MAX = 1_000_000
"""Characters of a note or description."""
PATH_MAX = 1_000
"""Characters of a file's place in its run."""
SIZE_MAX = (1 << 63) - 1
"""Bytes of a file: what a column of the views holds."""
NAME_MAX = 250
"""Characters of a name, a tag's name and value."""
KEYS_MAX = 1_000
"""Parameters, metrics or tags in one call."""
BATCH_MAX = 10_000
"""Events in one call."""
LOGGED = (
    "metrics.logged", "parameters.added", "summary.set", "metric.described", "tags.changed", "note.changed",
    "system_metrics.logged", "console_lines.logged", "run.finished",
)  # fmt: skip
"""Kinds of events that a client without the library may send."""


BEGINNINGS = ("pending", "running")
ENDS = ("completed", "failed", "killed")
"""How a run may have ended, in the words of a client without the library."""
SET_STATUSES = tuple(status for status in STATUSES if status != "crashed")
"""What a run may be set to: that it crashed is found out, and never said."""


def documented(**schema: Any) -> msgspec.Meta:
    """What the JSON schema of a field says beyond its type; the actions check it, in words of their own."""
    return msgspec.Meta(extra_json_schema=schema)


FULL = r"^[^\u0000]*[^\u0000\s][^\u0000]*$"
"""Something to read, without a NUL."""
_FULL = {"maxLength": NAME_MAX, "pattern": FULL}
RunId = Annotated[
    str, documented(pattern=f"^[A-Za-z0-9][A-Za-z0-9._-]{{0,{RUN_ID_MAX - 1}}}$", **{"not": {"enum": sorted(ROUTE_WORDS)}})
]
Name = Annotated[str, documented(maxLength=NAME_MAX, pattern=r"^[^\u0000]*$")]
FullName = Annotated[str, documented(**_FULL)]
Text = Annotated[str, documented(maxLength=NOTE_MAX)]
Tags = (
    Annotated[dict[str, Any], documented(propertyNames=_FULL, maxProperties=KEYS_MAX)]
    | Annotated[list[FullName], documented(maxItems=KEYS_MAX)]
)
Digest = Annotated[str, documented(pattern=f"^{DIGEST}$")]
Place = Annotated[str, documented(maxLength=PATH_MAX, pattern=FULL)]
Size = Annotated[int, documented(minimum=0, maximum=SIZE_MAX)]
Commit = Annotated[str, documented(pattern=r"^\s*[0-9A-Fa-f]{4,64}\s*$")]
Seed = Annotated[int, documented(minimum=0, maximum=(1 << 64) - 1)]


class NewRun(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A run as a client begins it; everything may be left out. `commit` is the client's; without `seed` one is drawn."""

    name: Name = ""
    run_id: RunId | None = None
    project: FullName | None = None
    project_id: FullName | None = None
    dataset_id: Name | None = None
    description: Text | None = None
    seed: Seed | None = None
    commit: Commit | None = None
    group: Name | None = None
    parent_run_id: str | None = None
    params: dict[str, Any] = {}
    tags: Tags = {}
    status: Annotated[str, documented(enum=list(BEGINNINGS))] = "running"
    command: Text = ""


class RunChange(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is to change of a run: `params` are added or changed, `metrics` are points at `step`, and nothing else can be."""

    name: Name | UnsetType = UNSET
    description: Text | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    group: Name | UnsetType = UNSET
    project_id: FullName | UnsetType = UNSET
    dataset_id: Name | UnsetType = UNSET
    status: Annotated[str, documented(enum=list(SET_STATUSES))] | UnsetType = UNSET
    protected: bool | UnsetType = UNSET
    params: dict[str, Any] | UnsetType = UNSET
    metrics: dict[str, Any] | UnsetType = UNSET
    step: int | None = None


class LoggedEvent(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One event of a run, as it would stand in its journal: a kind, and the kind's own fields."""

    kind: Annotated[str, documented(enum=list(LOGGED))]
    data: dict[str, Any] = {}


class NewProject(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A project to be made."""

    name: FullName
    description: Text | None = None


class ProjectChange(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is to change of a project; its id stays."""

    name: FullName | UnsetType = UNSET
    description: Text | UnsetType = UNSET


class DatasetFields(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is said of a dataset beside its content; `tags` and `metadata` count as a whole, `name` is that of all versions."""

    name: FullName | UnsetType = UNSET
    description: Text | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    project_id: FullName | UnsetType = UNSET


class NewToken(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A token to be made: `role` is reader, writer or admin; `project_id` limits it to one project."""

    role: str
    name: str = ""
    project_id: str | None = None


class CreatedToken(msgspec.Struct, kw_only=True):
    """A token that was made: `text` is shown this once, and kept nowhere."""

    text: str
    token: TokenView


# -- checking ----------------------------------------------------------------------------------------------------------


def given(value: Any, form: Callable[[Any], Any]) -> Any:
    """A field in its form; None where it was left out."""
    return None if value is UNSET else form(value)


_JSON_WORDS = {"int": "integer", "float": "number", "str": "string", "bool": "boolean"}
_MISSING = re.compile("Object missing required field `(.+)`")
_STEP = re.compile(r"\[(?:\.\.\.|[0-9]+)\]|\.[^.\[]+")


def misfit(problem: msgspec.ValidationError, shape: Any) -> tuple[str, str, str]:
    """What is said of JSON that does not fit a shape: (what is wrong, in JSON's words, at which path, the fields there).

    Args:
        problem: what msgspec says of it.
        shape: the Struct that was wanted.
    """
    said, _, place = str(problem).partition(" - at `$")
    path = place.rstrip("`")
    words = said
    if said.startswith("Expected"):
        words = re.sub(r"`([a-z |]+)`", lambda found: " or ".join(_JSON_WORDS.get(w, w) for w in found[1].split(" | ")), said)
    inner, here = shape, shape
    for step in _STEP.findall(path):
        here = _within(here, step)
        inner = here if isinstance(here, type) and issubclass(here, msgspec.Struct) else inner
    missing = _MISSING.fullmatch(said)
    path += f".{missing[1]}" if missing else ""
    return words[:1].lower() + words[1:200], path, f"fields: {fields_of(inner)}"


def _within(shape: Any, step: str) -> Any:
    """The type behind one step of a path: a field of a Struct, or what is in a list or dictionary; None where it is not known."""
    if isinstance(shape, type) and issubclass(shape, msgspec.Struct):
        return next((_bare(field.type) for field in msgspec.structs.fields(shape) if f".{field.encode_name}" == step), None)
    parts = get_args(shape)
    return _bare(parts[-1]) if parts and get_origin(shape) in {list, dict} else None


def _bare(shape: Any) -> Any:
    """A type without what is documented of it."""
    return get_args(shape)[0] if get_origin(shape) is Annotated else shape


def fields_of(shape: Any) -> str:
    """The names that a Struct has in JSON."""
    return ", ".join(field.encode_name for field in msgspec.structs.fields(shape))


def _plain(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def as_text(text: str, key: str) -> str:
    """A note or description.

    Raises:
        RejectedError: it is too long.
    """
    if len(text) > NOTE_MAX:
        raise RejectedError(f"a {key} of {len(text)} characters is too long", key=key, hint=f"at most {NOTE_MAX}")
    return _plain(text)


def as_name(text: str, key: str, *, least: int = 0, most: int = NAME_MAX) -> str:
    """A name of `least` to `most` characters.

    Raises:
        RejectedError: it is shorter or longer, or has a NUL in it.
    """
    if len(text) > most or len(text.strip()) < least or "\x00" in text:
        hint = f"allowed: {least} to {most} characters, none of them NUL"
        raise RejectedError(f"{key} {text[:60]!r} is not allowed", key=key, hint=hint)
    return _plain(text)


def _few(values_given: Any, key: str) -> None:
    if len(values_given) > KEYS_MAX:
        raise RejectedError(f"{len(values_given)} {key} in one call", key=key, hint=f"at most {KEYS_MAX}")


def as_tags(tags: Any) -> dict[str, Any]:
    """Tags by name, None for a bare one; from a dictionary or words.

    Raises:
        RejectedError: one has no name, or too long a one, or there are too many.
    """
    if isinstance(tags, list):
        _few(tags, "tags")
    chosen = values.tags(tags)
    _few(chosen, "tags")
    for name, value in chosen.items():
        as_name(name, "tag", least=1)
        if value is not None:
            as_name(value, "tag")
    return chosen


def as_params(params: Any) -> dict[str, Any]:
    """Parameters by name, nested ones joined with /.

    Raises:
        RejectedError: one cannot be kept whole, or there are too many.
    """
    kept, refused = values.parameters(params)
    if refused:
        raise refused[0]
    _few(kept, "params")
    for name in kept:
        as_name(name, "params", least=1)
    return kept


def as_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """A JSON object of at most a million bytes.

    Raises:
        RejectedError: it is larger.
    """
    if len(msgspec.json.encode(metadata)) > NOTE_MAX:
        raise RejectedError("metadata of more than a million bytes", key="metadata", hint=f"at most {NOTE_MAX}")
    return metadata


def as_metrics(metrics: Any) -> dict[str, Any]:
    """Values of metrics by name; NaN and the infinities may be texts.

    Raises:
        RejectedError: one is no number, or there are too many.
    """
    numbers = {
        key: float(value) if isinstance(value, str) and value in {"NaN", "Infinity", "-Infinity"} else value
        for key, value in metrics.items()
    }  # fmt: skip
    kept, refused = values.metrics(numbers)
    if refused:
        raise RejectedError(_no_number(metrics, refused[0]), key=refused[0].key, hint=_NUMBERS)
    _few(kept, "metrics")
    for name in kept:
        as_name(name, "metrics", least=1)
    return kept


_NUMBERS = 'allowed: a number, or one of the texts "NaN", "Infinity", "-Infinity"'


def _no_number(metrics: Any, refused: RejectedError) -> str:
    """The sentence about a metric that is no number, with the value as JSON has it."""
    value = metrics
    for part in [refused.key] if refused.key in metrics else refused.key.split("/"):
        if not isinstance(value, dict) or part not in value:
            return refused.message
        value = value[part]
    return f"metric {refused.key!r}: {msgspec.json.encode(value).decode()[:60]} is no number"


_ONE_OF: dict[str, dict[str, tuple[str, ...]]] = {
    "run.finished": {"status": ENDS},
    "metric.described": {"goal": events.GOALS, "summary": events.SUMMARIES},
    "console_lines.logged": {"stream": ("stdout", "stderr")},
}
"""Fields of logged events in which only a few words mean anything."""


def as_event(i: int, one: LoggedEvent) -> events.Event:
    """One event of a batch, in the form that the recorder would have written."""
    if one.kind not in LOGGED:
        raise RejectedError(
            f"kind {one.kind[:60]!r} is not allowed", key=f"events[{i}].kind", hint=f"allowed: {', '.join(LOGGED)}"
        )
    shape: Any = events.KINDS[one.kind]
    try:
        event: Any = msgspec.convert(one.data, type=shape)
    except msgspec.ValidationError as problem:
        words, path, fields = misfit(problem, shape)
        raise RejectedError(f"the data do not fit {one.kind}: {words}", key=f"events[{i}].data{path}", hint=fields) from None
    if absent := [name for name in one.data if name not in {field.encode_name for field in msgspec.structs.fields(shape)}]:
        said = f"the data do not fit {one.kind}: no field {absent[0][:60]!r}"
        raise RejectedError(said, key=f"events[{i}].data", hint=f"fields: {fields_of(shape)}")
    form = {
        "metrics.logged": ("values", as_metrics), "parameters.added": ("params", as_params), "tags.changed": ("set", as_tags),
        "note.changed": ("note", lambda text: as_text(text, "note")), "system_metrics.logged": ("values", as_metrics),
        "run.finished": ("final_metrics", as_metrics), "summary.set": ("values", as_params),
    }.get(one.kind)  # fmt: skip
    try:
        if isinstance(event, events.MetricsLogged):
            event = msgspec.structs.replace(event, step=values.step(event.step), time=values.moment(event.time))
        for field, allowed in _ONE_OF.get(one.kind, {}).items():
            said = getattr(event, field)
            if said is not None and said not in allowed:
                raise RejectedError(f"{field} {said[:40]!r} is not allowed", key=field, hint=f"allowed: {', '.join(allowed)}")
        if form is not None:
            event = msgspec.structs.replace(event, **{form[0]: form[1](getattr(event, form[0]))})
    except RejectedError as problem:
        raise RejectedError(problem.message, key=f"events[{i}].{problem.key}", hint=problem.hint) from None
    found: events.Event = event
    return found
