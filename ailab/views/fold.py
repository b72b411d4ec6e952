"""The fold: what a run is, computed from its events, in whatever order they arrive.

A pure function of the set of events: every field is a register that keeps the value with the greatest place, where an
event's place is (clock, segment, seq); so late, repeated or merged segments lead to the same state as a replay from
nothing, and adding an event costs the same whether the run has ten or a million. Nothing here knows DuckDB or files.
Status `crashed` is not folded: it depends on whether a process lives, and is added by the query.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003
from typing import TYPE_CHECKING, Any

import msgspec

from .. import events

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..journal import Envelope, Segment

Place = tuple[int, str, int]
ENDED = frozenset({"completed", "failed", "killed"})
_decoders = {kind: msgspec.json.Decoder(event) for kind, event in events.KINDS.items()}
_NOT_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


class Register:
    """The value with the greatest place; or with the smallest, where the first one counts."""

    __slots__ = ("place", "value")

    def __init__(self) -> None:
        self.place: Place | None = None
        self.value: Any = None

    def last(self, place: Place, value: Any) -> None:
        """Take `value` if it comes after what is there."""
        if self.place is None or place >= self.place:
            self.place, self.value = place, value

    def first(self, place: Place, value: Any) -> None:
        """Take `value` if it comes before what is there."""
        if self.place is None or place < self.place:
            self.place, self.value = place, value


class Edit(msgspec.Struct, frozen=True):
    """One field that an event set; those that a person or program changed afterwards are shown as changes."""

    place: Place
    at: datetime
    by: str | None
    via: str | None
    kind: str
    field: str
    value: Any
    shown: bool

    @property
    def event(self) -> str:
        """The event's id."""
        return f"{self.place[1]}:{self.place[2]}"


class Standing(msgspec.Struct, frozen=True):
    """A status that an event gave to the run."""

    place: Place
    at: datetime
    status: str
    error: str | None


class Artifact(msgspec.Struct, frozen=True):
    """One version of a file of a run."""

    place: Place
    at: datetime
    path: str
    logged: str
    type: str
    size: int
    sha256: str
    reference: bool


class Told(msgspec.Struct, frozen=True):
    """What an event's line and its segment's header tell besides the payload."""

    place: Place
    at: datetime
    kind: str
    by: str | None
    via: str | None
    segment: Segment


def tell(segment: Segment, line: Envelope) -> Told:
    """Join a line with its segment's header: `by` and `via` stand in the line only where they differ."""
    header = segment.header
    by = line.by if line.by is not None or header is None else header.by
    via = line.via if line.via is not None or header is None else header.via
    return Told((line.clock, segment.birth, line.seq), line.at, line.kind, by, via, segment)


class RunFold:
    """The state of one run."""

    __slots__ = (
        "artifacts", "clock", "descriptions", "dropped", "edits", "fields", "final", "first_at", "last_at",
        "metrics", "openings", "origin", "params", "run_id", "segments", "standings", "started", "summary", "tags",
        "trashed_files",
    )  # fmt: skip

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.fields: dict[str, Register] = {}
        self.params: dict[str, Register] = {}
        self.tags: dict[str, Register] = {}
        self.metrics: dict[str, Register] = {}
        self.summary: dict[str, Register] = {}
        self.final: dict[str, Register] = {}
        self.descriptions: dict[str, Register] = {}
        self.trashed_files: dict[str, Register] = {}
        self.artifacts: list[Artifact] = []
        self.edits: list[Edit] = []
        self.segments: dict[str, Segment] = {}
        self.origin = Register()
        self.started = Register()
        self.openings: list[Standing] = []
        self.standings: list[Standing] = []
        self.dropped = 0
        self.clock = -1
        self.first_at: datetime | None = None
        self.last_at: datetime | None = None

    # -- taking events -----------------------------------------------------------------------------------------------

    def take(self, told: Told, data: msgspec.Raw) -> None:
        """Add one event. A kind without a handler changes nothing but the run's last sign of life."""
        self.clock = max(self.clock, told.place[0])
        writer_is_run = told.segment.run == self.run_id
        if writer_is_run:
            self.segments[told.segment.birth] = told.segment
            self.first_at = told.at if self.first_at is None else min(self.first_at, told.at)
            self.last_at = told.at if self.last_at is None else max(self.last_at, told.at)
        handler = _HANDLERS.get(told.kind)
        if handler is not None:
            handler(self, told, _decoders[told.kind].decode(data))

    def _set(self, told: Told, field: str, value: Any, *, shown: bool = True) -> None:
        """Set a field of the run, and remember the edit."""
        self.fields.setdefault(field, Register()).last(told.place, value)
        self._edit(told, field, value, shown=shown)

    def _edit(self, told: Told, field: str, value: Any, *, shown: bool) -> None:
        self.edits.append(Edit(told.place, told.at, told.by, told.via, told.kind, field, value, shown))

    def _take_params(self, told: Told, params: dict[str, Any]) -> None:
        for key, value in params.items():
            self.params.setdefault(key, Register()).last(told.place, value)
            self._edit(told, f"params.{key}", value, shown=told.segment.run != self.run_id)

    def _take_tags(self, told: Told, tags: dict[str, Any], *, shown: bool = True) -> None:
        for key, value in tags.items():
            self.tags.setdefault(key, Register()).last(told.place, (True, value, told.at, told.by))
            self._edit(told, f"tags.{key}", value if value is not None else True, shown=shown)

    def _on_opened(self, told: Told, event: events.SegmentOpened) -> None:
        self.origin.first(told.place, event)

    def _on_started(self, told: Told, event: events.RunStarted) -> None:
        self.started.first(told.place, (told.at, event.command))
        self.openings.append(Standing(told.place, told.at, event.status, None))
        for field in ("name", "project", "group", "parent", "dataset", "wandb_url", "description", "seed", "environment", "code"):
            value = getattr(event, field)
            if value not in {None, ""}:
                self._set(told, field, value, shown=False)
        self._take_params(told, event.params)
        self._take_tags(told, event.tags, shown=False)

    def _on_resumed(self, told: Told, event: events.RunResumed) -> None:
        self.openings.append(Standing(told.place, told.at, "running", None))
        for field in ("environment", "code"):
            if getattr(event, field) is not None:
                self._set(told, field, getattr(event, field), shown=False)
        self._take_params(told, event.params)

    def _on_changed(self, told: Told, event: events.RunChanged) -> None:
        for field in ("name", "description", "group", "project", "dataset", "wandb_url"):
            value = getattr(event, field)
            if value is not None:
                self._set(told, field, value, shown=told.segment.run != self.run_id)
        if event.status is not None:
            self.standings.append(Standing(told.place, told.at, event.status, None))
            self._edit(told, "status", event.status, shown=True)

    def _on_params(self, told: Told, event: events.ParametersAdded) -> None:
        self._take_params(told, event.params)

    def _on_metrics(self, told: Told, event: events.MetricsLogged) -> None:
        for key, value in event.values.items():
            self.metrics.setdefault(key, Register()).last(told.place, value)

    def _on_described(self, told: Told, event: events.MetricDescribed) -> None:
        self.descriptions.setdefault(event.key, Register()).last(told.place, event)

    def _on_summary(self, told: Told, event: events.SummarySet) -> None:
        for key, value in event.values.items():
            self.summary.setdefault(key, Register()).last(told.place, value)

    def _on_artifact(self, told: Told, event: events.ArtifactAdded) -> None:
        self.artifacts.append(
            Artifact(told.place, told.at, event.path, event.logged, event.type, event.size, event.sha256, event.reference)
        )
        self.trashed_files.setdefault(event.path, Register()).last(told.place, False)

    def _on_artifact_trashed(self, told: Told, event: events.ArtifactTrashed) -> None:
        self.trashed_files.setdefault(event.path, Register()).last(told.place, True)
        self._edit(told, f"artifacts.{event.path}", "trashed", shown=True)

    def _on_artifact_restored(self, told: Told, event: events.ArtifactRestored) -> None:
        self.trashed_files.setdefault(event.path, Register()).last(told.place, False)
        self._edit(told, f"artifacts.{event.path}", "there", shown=True)

    def _on_finished(self, told: Told, event: events.RunFinished) -> None:
        self.standings.append(Standing(told.place, told.at, event.status, event.error))
        for key, value in event.final_metrics.items():
            self.final.setdefault(key, Register()).last(told.place, value)

    def _on_environment(self, told: Told, event: events.EnvironmentCaptured) -> None:
        self._set(told, "environment", event.environment, shown=False)

    def _on_code(self, told: Told, event: events.CodeCaptured) -> None:
        self._set(told, "code", event.code, shown=False)

    def _on_note(self, told: Told, event: events.NoteChanged) -> None:
        self._set(told, "note", event.note)

    def _on_tags(self, told: Told, event: events.TagsChanged) -> None:
        self._take_tags(told, event.set)
        for key in event.removed:
            self.tags.setdefault(key, Register()).last(told.place, (False, None, told.at, told.by))
            self._edit(told, f"tags.{key}", None, shown=True)

    def _on_flagged(self, told: Told, event: events.RunFlagged) -> None:
        self._take_tags(told, {event.flag: None})
        self._set(told, "note", event.note)

    def _on_renamed(self, told: Told, event: events.RunRenamed) -> None:
        self._set(told, "name", event.name)

    def _on_trashed(self, told: Told, _event: events.RunTrashed) -> None:
        self._set(told, "trashed", True)

    def _on_restored(self, told: Told, _event: events.RunRestored) -> None:
        self._set(told, "trashed", False)

    def _on_protected(self, told: Told, _event: events.RunProtected) -> None:
        self._set(told, "protected", True)

    def _on_unprotected(self, told: Told, _event: events.RunUnprotected) -> None:
        self._set(told, "protected", False)

    def _on_dropped(self, _told: Told, event: events.WritesDropped) -> None:
        self.dropped += event.count

    # -- giving the state --------------------------------------------------------------------------------------------

    def get(self, field: str, default: Any = None) -> Any:
        """The value of a field, or `default`."""
        register = self.fields.get(field)
        return default if register is None else register.value

    @property
    def exists(self) -> bool:
        """Whether the run's start was seen; a note on a run that is not here makes no run."""
        return self.started.place is not None

    @property
    def open(self) -> bool:
        """Whether the run has not ended by its events, so that its writer's life decides."""
        return self.exists and self.standing().status not in ENDED

    def standing(self) -> Standing:
        """The status that holds: the last one set, where a start or resumption counts only if no end came after it by time.

        Several processes may write one run at once. None sees the clocks of the others, so one that joined early may have a
        later place than the end that the run's own process wrote.
        """
        ends = [s.at for s in self.standings if s.status in ENDED]
        opened = [s for s in self.openings if not ends or s.at > max(ends)]
        return max([*opened, *self.standings], key=lambda s: s.place)

    def final_metrics(self) -> dict[str, Any]:
        """The value given at the end, over `run.summary`, over the last logged value, by metric."""
        found = {key: register.value for key, register in self.metrics.items()}
        found.update({k: r.value for k, r in self.summary.items() if _is_number(r.value)})
        found.update({k: r.value for k, r in self.final.items()})
        return dict(sorted(found.items()))

    def live_tags(self) -> dict[str, tuple[Any, datetime, str | None]]:
        """(value, at, by) of every tag that is set."""
        return {k: r.value[1:] for k, r in sorted(self.tags.items()) if r.value[0]}

    def files(self) -> list[dict[str, Any]]:
        """Every version of every artifact, oldest first, with its number."""
        counts: dict[str, int] = {}
        found = []
        for a in sorted(self.artifacts, key=lambda artifact: artifact.place):
            counts[a.path] = counts.get(a.path, 0) + 1
            found.append({
                "path": a.path, "logged": a.logged, "kind": a.type, "name": a.path.rpartition("/")[2], "size": a.size,
                "sha256": a.sha256, "version": counts[a.path], "at": a.at, "trashed": bool(self.trashed_files[a.path].value),
                "reference": a.reference,
            })  # fmt: skip
        return found

    def changes(self) -> list[dict[str, Any]]:
        """What was changed after it was first set, oldest first, with the value before."""
        before: dict[str, Any] = {}
        found = []
        for e in sorted(self.edits, key=lambda edit: edit.place):
            overridden = e.field.startswith("params.") and e.field in before  # by the run itself, which sets them first
            if (e.shown or overridden) and before.get(e.field) != e.value:
                found.append({
                    "event": e.event, "at": e.at, "by": e.by, "via": e.via, "kind": e.kind, "field": e.field,
                    "old": before.get(e.field), "new": e.value,
                })  # fmt: skip
            before[e.field] = e.value
        return found

    def notes(self) -> list[dict[str, Any]]:
        """Every version of the note, oldest first."""
        notes = sorted((e for e in self.edits if e.field == "note"), key=lambda edit: edit.place)
        return [{"event": e.event, "at": e.at, "by": e.by, "via": e.via, "note": e.value} for e in notes]

    def row(self) -> dict[str, Any]:
        """The run as one row of `run_table`."""
        standing = self.standing()
        started_at, command = self.started.value
        origin = self.origin.value
        project = self.get("project")
        return {
            "run_id": self.run_id, "name": self.get("name", ""), "project_id": project and events.project_id(project),
            "status": standing.status, "started_at": started_at,
            "ended_at": standing.at if standing.status in ENDED else None,
            "last_at": self.last_at, "user": origin and origin.user, "host": origin and origin.host, "seed": self.get("seed"),
            "group": self.get("group"), "parent_run_id": self.get("parent"), "dataset_id": self.get("dataset"),
            "environment_id": self.get("environment"), "code_id": self.get("code"), "command": command,
            "wandb_url": self.get("wandb_url"), "note": self.get("note"), "description": self.get("description"),
            "error": standing.error,
            "trashed": bool(self.get("trashed", False)), "protected": bool(self.get("protected", False)), "dropped": self.dropped,
            "params": {k: r.value for k, r in sorted(self.params.items())}, "metrics": self.final_metrics(),
            "goals": {k: r.value.goal for k, r in self.descriptions.items() if r.value.goal},
            "tags": [{"key": k, "value": v, "at": at, "by": by} for k, (v, at, by) in self.live_tags().items()],
            "notes": self.notes(), "artifacts": self.files(), "changes": self.changes(),
        }  # fmt: skip


_HANDLERS: dict[str, Callable[[RunFold, Told, Any], None]] = {
    "segment.opened": RunFold._on_opened, "run.started": RunFold._on_started, "run.resumed": RunFold._on_resumed,
    "run.changed": RunFold._on_changed, "parameters.added": RunFold._on_params, "metrics.logged": RunFold._on_metrics,
    "metric.described": RunFold._on_described, "summary.set": RunFold._on_summary, "artifact.added": RunFold._on_artifact,
    "artifact.trashed": RunFold._on_artifact_trashed, "artifact.restored": RunFold._on_artifact_restored,
    "run.finished": RunFold._on_finished, "environment.captured": RunFold._on_environment,
    "code.captured": RunFold._on_code, "note.changed": RunFold._on_note, "tags.changed": RunFold._on_tags,
    "run.flagged": RunFold._on_flagged, "run.renamed": RunFold._on_renamed, "run.trashed": RunFold._on_trashed,
    "run.restored": RunFold._on_restored, "run.protected": RunFold._on_protected, "run.unprotected": RunFold._on_unprotected,
    "writes.dropped": RunFold._on_dropped,
}  # fmt: skip


class ProjectFold:
    """The state of one project: named by its first run or by `project.created`."""

    __slots__ = ("created_at", "description", "edits", "first_name", "label", "project_id", "trashed")

    def __init__(self, project_id: str) -> None:
        self.project_id = project_id
        self.first_name = Register()
        self.label = Register()
        self.description = Register()
        self.trashed = Register()
        self.created_at: datetime | None = None
        self.edits: list[Edit] = []

    def name(self, told: Told, name: str) -> None:
        """A run or a person named the project."""
        self.first_name.first(told.place, name)
        self.created_at = told.at if self.created_at is None else min(self.created_at, told.at)

    def take(self, told: Told, event: Any) -> None:
        """Add one event about the project."""
        if isinstance(event, events.ProjectCreated):
            self.name(told, event.name)
            if event.description is not None:
                self._set(told, self.description, "description", event.description)
        elif isinstance(event, events.ProjectChanged):
            if event.name is not None:
                self._set(told, self.label, "name", event.name)
            if event.description is not None:
                self._set(told, self.description, "description", event.description)
        else:
            self._set(told, self.trashed, "trashed", isinstance(event, events.ProjectTrashed))

    def _set(self, told: Told, register: Register, field: str, value: Any) -> None:
        register.last(told.place, value)
        self.edits.append(Edit(told.place, told.at, told.by, told.via, told.kind, field, value, shown=True))

    def row(self) -> dict[str, Any]:
        """The project as one row."""
        return {
            "project_id": self.project_id, "name": self.label.value or self.first_name.value or self.project_id,
            "description": self.description.value, "created_at": self.created_at, "trashed": bool(self.trashed.value),
        }  # fmt: skip


def _is_number(value: Any) -> bool:
    """Whether a value set by hand is a number; a text of digits is a text."""
    return value in _NOT_FINITE if isinstance(value, str) else isinstance(value, bool | int | float)


def as_double(value: Any) -> float | None:
    """The nearest double of a metric's JSON value; None where it is none."""
    if isinstance(value, str):
        special = _NOT_FINITE.get(value)
        if special is not None:
            return special
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
    except (TypeError, ValueError):
        return None
