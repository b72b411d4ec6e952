"""The fold: what a run is, computed from its events, in whatever order they arrive.

A pure function of the set of events. A run keeps its own events but for the points, and of each metric a summary; the state is
had by replaying the events in the order of their places, where an event's place is (clock, segment, seq). So late, repeated or
merged segments lead to the same state as a replay from nothing, adding a point costs the same whether the run has ten or a
million, and what a run keeps can be written down (`dump`) and taken up again (`load`) by another process. Nothing here knows
DuckDB or files. Status `crashed` is not folded: it depends on whether a process lives, and is added by the catalogue.
"""

from __future__ import annotations

import sys
from datetime import datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec

from .. import events

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..journal import Envelope, Segment

VERSION = 1
"""Raised when `dump` or what it means changes: what another version wrote is then not read, but computed anew."""
ENDED = frozenset({"completed", "failed", "killed"})
INT64_MAX = 2**63
_FIELDS = ("name", "project", "group", "parent", "dataset", "wandb_url", "description", "seed", "environment", "code")
_decoders = {kind: msgspec.json.Decoder(event) for kind, event in events.KINDS.items()}
_NOT_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_pack, _unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode


class Told(msgspec.Struct, frozen=True, gc=False):
    """What an event's line and its segment's header tell besides the payload; `writer` is the run that wrote the segment."""

    clock: int
    segment: str
    seq: int
    at: datetime
    kind: str
    by: str | None
    via: str | None
    writer: str | None

    @property
    def place(self) -> tuple[int, str, int]:
        """Where the event stands in the order of all."""
        return self.clock, self.segment, self.seq

    @property
    def event(self) -> str:
        """The event's id."""
        return f"{self.segment}:{self.seq}"


def tell(segment: Segment, line: Envelope) -> Told:
    """Join a line with its segment's header: `by` and `via` stand in the line only where they differ."""
    header = segment.header
    by = line.by if line.by is not None or header is None else header.by
    via = line.via if line.via is not None or header is None else header.via
    return Told(line.clock, segment.birth, line.seq, line.at, line.kind, by, via, segment.run)


class Word(msgspec.Struct, gc=False):
    """An event that a run keeps: who told it, and its payload as bytes and, once it was looked at, as a Struct."""

    told: Told
    data: bytes
    _event: Any = None

    @property
    def event(self) -> Any:
        """The payload."""
        if self._event is None:
            self._event = _decoders[self.told.kind].decode(self.data)
        return self._event


class Series:
    """What a run keeps of a metric: the first and the last point by place, extremes and sums without NaN, counts."""

    __slots__ = ("count", "first", "first_place", "last", "last_place", "last_step", "max", "min", "n", "sum")

    def __init__(self) -> None:
        self.first_place: tuple[int, str, int] | None = None
        self.last_place: tuple[int, str, int] | None = None
        self.first: Any = None
        self.last: Any = None
        self.min: float | None = None
        self.max: float | None = None
        self.sum = 0.0
        self.n = 0
        self.count = 0
        self.last_step: int | None = None

    def take(self, place: tuple[int, str, int], value: Any, step: int | None) -> None:
        """Add a point, `value` as JSON has it."""
        if self.last_place is None or place >= self.last_place:
            self.last_place, self.last = place, value
        if self.first_place is None or place < self.first_place:
            self.first_place, self.first = place, value
        self.count += 1
        if step is not None and (self.last_step is None or step > self.last_step):
            self.last_step = step
        number = value if value.__class__ is float else as_double(value)
        if number is not None and number == number:  # noqa: PLR0124  (not NaN)
            self.n += 1
            self.sum += number
            if self.min is None or number < self.min:
                self.min = number
            if self.max is None or number > self.max:
                self.max = number

    def join(self, other: Series) -> None:
        """Add all the points of another one."""
        if other.last_place is not None and (self.last_place is None or other.last_place >= self.last_place):
            self.last_place, self.last = other.last_place, other.last
        if other.first_place is not None and (self.first_place is None or other.first_place < self.first_place):
            self.first_place, self.first = other.first_place, other.first
        self.count, self.n, self.sum = self.count + other.count, self.n + other.n, self.sum + other.sum
        steps = [step for step in (self.last_step, other.last_step) if step is not None]
        self.last_step = max(steps, default=None)
        self.min = min((v for v in (self.min, other.min) if v is not None), default=None)
        self.max = max((v for v in (self.max, other.max) if v is not None), default=None)

    def row(self, key: str) -> dict[str, Any]:
        """The metric's row in `metric_summary`."""
        return {
            "key": key, "first": as_double(self.first), "last": as_double(self.last), "min": self.min, "max": self.max,
            "mean": self.sum / self.n if self.n else None, "count": self.count, "last_step": self.last_step,
        }  # fmt: skip


class RunFold:
    """What is known of one run.

    Attributes:
        run_id: the run.
        words: its events other than points and signs of life, in any order.
        series: by metric.
        clock: the greatest Lamport clock among its events.
        last_at: the latest time among the lines of its own segments.
    """

    __slots__ = ("_sorted", "clock", "last_at", "run_id", "series", "words")

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.words: list[Word] = []
        self.series: dict[str, Series] = {}
        self.clock = -1
        self.last_at: datetime | None = None
        self._sorted = True

    # -- taking events -----------------------------------------------------------------------------------------------

    def take(self, told: Told, data: msgspec.Raw) -> Any:
        """Add one event; return its payload. A kind that says nothing of a run changes only its last sign of life.

        Raises:
            msgspec.ValidationError: the payload does not fit its kind; nothing but the sign of life is kept.
        """
        self.seen(told.clock, told.at, told.writer)
        if told.kind == events.MetricsLogged.kind:
            points: Any = _decoders[told.kind].decode(data)
            self.points(told.place, points.values, points.step)
            return points
        if told.kind not in HANDLERS:
            return None
        word = Word(told, bytes(data))
        event = word.event  # now, so that one that does not fit is found where it is read
        self.words.append(word)
        self._sorted = False
        return event

    def seen(self, clock: int, at: datetime, writer: str | None) -> None:
        """Note a sign of life: a line of one of the run's own segments, whatever it says."""
        self.clock = max(self.clock, clock)
        if writer == self.run_id and (self.last_at is None or at > self.last_at):
            self.last_at = at

    def points(self, place: tuple[int, str, int], values: dict[str, Any], step: int | None) -> None:
        """Add the points of one line."""
        series = self.series
        for key, value in values.items():
            one = series.get(key)
            if one is None:
                one = series[key] = Series()
            one.take(place, value, step)

    # -- being kept --------------------------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """What is known of the run, for `load`."""
        names: dict[str, int] = {}

        def at(place: tuple[int, str, int] | None) -> Any:
            return place and (place[0], names.setdefault(place[1], len(names)), place[2])

        words = [
            (*at(w.told.place), w.told.at, w.told.kind, w.told.by, w.told.via, w.told.writer == self.run_id, w.data)
            for w in self.words
        ]
        series = [
            (
                key,
                at(s.first_place),
                _small(s.first),
                at(s.last_place),
                _small(s.last),
                s.min,
                s.max,
                s.sum,
                s.n,
                s.count,
                s.last_step,
            )
            for key, s in self.series.items()
        ]
        return _pack((self.run_id, list(names), self.clock, self.last_at, words, series))

    @classmethod
    def load(cls, content: bytes) -> RunFold:
        """Take up what `dump` wrote."""
        run_id, names, clock, last_at, words, series = _unpack(content)
        names = [sys.intern(name) for name in names]
        fold = cls(run_id)
        fold.clock, fold.last_at = clock, last_at
        for word_clock, segment, seq, moment, kind, by, via, own, data in words:
            told = Told(word_clock, names[segment], seq, moment, kind, by, via, run_id if own else None)
            fold.words.append(Word(told, data))
        fold._sorted = False
        for key, first_place, first, last_place, last, low, high, total, n, count, last_step in series:
            one = fold.series[key] = Series()
            one.first_place, one.first = first_place and (first_place[0], names[first_place[1]], first_place[2]), _large(first)
            one.last_place, one.last = last_place and (last_place[0], names[last_place[1]], last_place[2]), _large(last)
            one.min, one.max, one.sum, one.n, one.count, one.last_step = low, high, total, n, count, last_step
        return fold

    # -- giving the state --------------------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether the run's start was seen; a note on a run that is not here makes no run."""
        return any(word.told.kind == events.RunStarted.kind for word in self.words)

    def state(self) -> RunState:
        """Replay its events."""
        if not self._sorted:
            self.words.sort(key=_place_of)
            self._sorted = True
        state = RunState(self)
        for word in self.words:
            HANDLERS[word.told.kind](state, word.told, word.event)
        return state


_place_of = attrgetter("told.clock", "told.segment", "told.seq")


def _small(value: Any) -> Any:
    """A metric's JSON value as the packed form takes it: it has integers of 64 bits only."""
    return [str(value)] if isinstance(value, int) and not -INT64_MAX <= value < INT64_MAX else value


def _large(value: Any) -> Any:
    return int(value[0]) if isinstance(value, list) else value


class Standing(msgspec.Struct, frozen=True):
    """A status that an event gave to the run."""

    place: tuple[int, str, int]
    at: datetime
    status: str
    error: str | None = None


class RunState:
    """The run as it reads after its events were replayed in the order of their places."""

    def __init__(self, fold: RunFold) -> None:
        self.fold = fold
        self.fields: dict[str, Any] = {}
        self.params: dict[str, Any] = {}
        self.tags: dict[str, tuple[Any, datetime, str | None]] = {}
        self.summary: dict[str, Any] = {}
        self.final: dict[str, Any] = {}
        self.goals: dict[str, Any] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.changes: list[dict[str, Any]] = []
        self.notes: list[dict[str, Any]] = []
        self.codes: dict[str, events.CodeCaptured] = {}
        self.trashed_files: dict[str, bool] = {}
        self.started: tuple[datetime, str] | None = None
        self.origin: events.SegmentOpened | None = None
        self.dropped = 0
        self._openings: list[Standing] = []
        self._standings: list[Standing] = []
        self._before: dict[str, Any] = {}

    def _own(self, told: Told) -> bool:
        """Whether the run itself said it."""
        return told.writer == self.fold.run_id

    def _say(self, told: Told, field: str, value: Any, *, shown: bool) -> None:
        """Remember what a field reads now, and that it was changed, where somebody did so after it was first set."""
        before = self._before
        overridden = field.startswith("params.") and field in before  # by the run itself, which sets them first
        if (shown or overridden) and before.get(field) != value:
            self.changes.append({
                "event": told.event, "at": told.at, "by": told.by, "via": told.via, "kind": told.kind, "field": field,
                "old": before.get(field), "new": value,
            })  # fmt: skip
        before[field] = value

    def _set(self, told: Told, field: str, value: Any, *, shown: bool = True) -> None:
        self.fields[field] = value
        self._say(told, field, value, shown=shown)
        if field == "note":
            self.notes.append({"event": told.event, "at": told.at, "by": told.by, "via": told.via, "note": value})

    def _take_params(self, told: Told, params: dict[str, Any], *, shown: bool) -> None:
        if not shown and not self.params:  # the first, and nearly always all
            self.params.update(params)
            self._before.update([("params." + key, value) for key, value in params.items()])
            return
        for key, value in params.items():
            self.params[key] = value
            self._say(told, f"params.{key}", value, shown=shown)

    def _take_tags(self, told: Told, tags: dict[str, Any], *, shown: bool = True) -> None:
        for key, value in tags.items():
            self.tags[key] = (value, told.at, told.by)
            self._say(told, f"tags.{key}", value if value is not None else True, shown=shown)

    # -- one handler per kind ----------------------------------------------------------------------------------------

    def on_opened(self, _told: Told, event: events.SegmentOpened) -> None:
        """The first header of the run tells who and where."""
        if self.origin is None:
            self.origin = event

    def on_started(self, told: Told, event: events.RunStarted) -> None:
        """Fields that are there count, as if each had been set."""
        if self.started is None:
            self.started = (told.at, event.command)
        self._openings.append(Standing(told.place, told.at, event.status))
        for field in _FIELDS:
            value = getattr(event, field)
            if value is not None and value != "":
                self._set(told, field, value, shown=False)
        self._take_params(told, event.params, shown=False)
        self._take_tags(told, event.tags, shown=False)

    def on_resumed(self, told: Told, event: events.RunResumed) -> None:
        """It goes on, perhaps elsewhere."""
        self._openings.append(Standing(told.place, told.at, "running"))
        for field in ("environment", "code"):
            if getattr(event, field) is not None:
                self._set(told, field, getattr(event, field), shown=False)
        self._take_params(told, event.params, shown=False)

    def on_changed(self, told: Told, event: events.RunChanged) -> None:
        """Fields that are there count."""
        for field in ("name", "description", "group", "project", "dataset", "wandb_url"):
            value = getattr(event, field)
            if value is not None:
                self._set(told, field, value, shown=not self._own(told))
        if event.status is not None:
            self._standings.append(Standing(told.place, told.at, event.status))
            self._say(told, "status", event.status, shown=True)

    def on_params(self, told: Told, event: events.ParametersAdded) -> None:
        """The last value counts."""
        self._take_params(told, event.params, shown=not self._own(told))

    def on_described(self, _told: Told, event: events.MetricDescribed) -> None:
        """The last description counts, and takes an earlier goal away."""
        self.goals[event.key] = event.goal

    def on_summary(self, _told: Told, event: events.SummarySet) -> None:
        """Numbers among them are final metrics."""
        self.summary.update(event.values)

    def on_artifact(self, told: Told, event: events.ArtifactAdded) -> None:
        """One more version of a file."""
        version = 1 + sum(1 for one in self.artifacts if one["path"] == event.path) if event.path in self.trashed_files else 1
        self.artifacts.append({
            "path": event.path, "logged": event.logged, "kind": event.type, "name": event.path.rpartition("/")[2],
            "size": event.size, "sha256": event.sha256, "version": version, "at": told.at, "trashed": False,
            "reference": event.reference,
        })  # fmt: skip
        self.trashed_files[event.path] = False

    def on_artifact_trashed(self, told: Told, event: events.ArtifactTrashed) -> None:
        """Every version of the path is in the trash."""
        self.trashed_files[event.path] = True
        self._say(told, f"artifacts.{event.path}", "trashed", shown=True)

    def on_artifact_restored(self, told: Told, event: events.ArtifactRestored) -> None:
        """Every version is there again."""
        self.trashed_files[event.path] = False
        self._say(told, f"artifacts.{event.path}", "there", shown=True)

    def on_finished(self, told: Told, event: events.RunFinished) -> None:
        """The end, with metrics that count above all others."""
        self._standings.append(Standing(told.place, told.at, event.status, event.error))
        self.final.update(event.final_metrics)

    def on_environment(self, told: Told, event: events.EnvironmentCaptured) -> None:
        """A digest."""
        self._set(told, "environment", event.environment, shown=False)

    def on_code(self, told: Told, event: events.CodeCaptured) -> None:
        """A digest, and what its blob says, for those who have not got it."""
        self.codes[event.code] = event
        self._set(told, "code", event.code, shown=False)

    def on_note(self, told: Told, event: events.NoteChanged) -> None:
        """One more version of the note."""
        self._set(told, "note", event.note)

    def on_tags(self, told: Told, event: events.TagsChanged) -> None:
        """Set, then removed."""
        self._take_tags(told, event.set)
        for key in event.removed:
            self.tags.pop(key, None)
            self._say(told, f"tags.{key}", None, shown=True)

    def on_flagged(self, told: Told, event: events.RunFlagged) -> None:
        """A bare tag, and the note that begins with it."""
        self._take_tags(told, {event.flag: None})
        self._set(told, "note", event.note)

    def on_renamed(self, told: Told, event: events.RunRenamed) -> None:
        """Another name."""
        self._set(told, "name", event.name)

    def on_trashed(self, told: Told, _event: events.RunTrashed) -> None:
        """In the trash."""
        self._set(told, "trashed", True)

    def on_restored(self, told: Told, _event: events.RunRestored) -> None:
        """Out of it."""
        self._set(told, "trashed", False)

    def on_protected(self, told: Told, _event: events.RunProtected) -> None:
        """Cannot be trashed."""
        self._set(told, "protected", True)

    def on_unprotected(self, told: Told, _event: events.RunUnprotected) -> None:
        """Can."""
        self._set(told, "protected", False)

    def on_dropped(self, _told: Told, event: events.WritesDropped) -> None:
        """Counted."""
        self.dropped += event.count

    # -- what it comes to --------------------------------------------------------------------------------------------

    def standing(self) -> Standing:
        """The status that holds: the last one set, where a start or resumption counts only if no end came after it by time.

        Several processes may write one run at once. None sees the clocks of the others, so one that joined early may have a
        later place than the end that the run's own process wrote.
        """
        ends = [s.at for s in self._standings if s.status in ENDED]
        opened = [s for s in self._openings if not ends or s.at > max(ends)]
        return max([*opened, *self._standings], key=lambda s: s.place)

    def final_metrics(self) -> dict[str, Any]:
        """The value given at the end, over `run.summary`, over the last logged value, by metric."""
        found = {key: series.last for key, series in self.fold.series.items()}
        found.update({key: value for key, value in self.summary.items() if _is_number(value)})
        found.update(self.final)
        return dict(sorted(found.items()))

    def files(self) -> list[dict[str, Any]]:
        """Every version of every artifact, oldest first."""
        return [{**one, "trashed": self.trashed_files[one["path"]]} for one in self.artifacts]


HANDLERS: dict[str, Callable[[RunState, Told, Any], None]] = {
    "segment.opened": RunState.on_opened, "run.started": RunState.on_started, "run.resumed": RunState.on_resumed,
    "run.changed": RunState.on_changed, "parameters.added": RunState.on_params, "metric.described": RunState.on_described,
    "summary.set": RunState.on_summary, "artifact.added": RunState.on_artifact,
    "artifact.trashed": RunState.on_artifact_trashed, "artifact.restored": RunState.on_artifact_restored,
    "run.finished": RunState.on_finished, "environment.captured": RunState.on_environment,
    "code.captured": RunState.on_code, "note.changed": RunState.on_note, "tags.changed": RunState.on_tags,
    "run.flagged": RunState.on_flagged, "run.renamed": RunState.on_renamed, "run.trashed": RunState.on_trashed,
    "run.restored": RunState.on_restored, "run.protected": RunState.on_protected, "run.unprotected": RunState.on_unprotected,
    "writes.dropped": RunState.on_dropped,
}  # fmt: skip
"""The kinds whose events a run keeps, and what each does to it."""


class ProjectFold:
    """The state of one project: named by its first run or by `project.created`."""

    __slots__ = ("created_at", "first_name", "project_id", "words")

    def __init__(self, project_id: str) -> None:
        self.project_id = project_id
        self.first_name: tuple[tuple[int, str, int], str] | None = None
        self.created_at: datetime | None = None
        self.words: list[Word] = []

    def name(self, told: Told, name: str) -> None:
        """A run or a person named the project."""
        if self.first_name is None or told.place < self.first_name[0]:
            self.first_name = (told.place, name)
        self.created_at = told.at if self.created_at is None else min(self.created_at, told.at)

    def take(self, told: Told, data: msgspec.Raw) -> None:
        """Add one event about the project."""
        word = Word(told, bytes(data))
        if isinstance(word.event, events.ProjectCreated):
            self.name(told, word.event.name)
        self.words.append(word)

    def dump(self) -> Any:
        """What is known of the project, for `load`."""
        return self.project_id, self.first_name, self.created_at, [(word.told, word.data) for word in self.words]

    @classmethod
    def load(cls, content: Any) -> ProjectFold:
        """Take up what `dump` gave, as JSON gives it back."""
        project_id, first_name, created_at, words = content
        fold = cls(project_id)
        if first_name is not None:
            fold.first_name = (tuple(first_name[0]), first_name[1])
        fold.created_at = msgspec.convert(created_at, datetime | None)
        fold.words = [Word(*msgspec.convert(word, tuple[Told, bytes])) for word in words]
        return fold

    def replay(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """(the project as one row, what was changed of it, oldest first)."""
        first = self.first_name and self.first_name[1]
        now: dict[str, Any] = {}
        before: dict[str, Any] = {"name": first}
        changes: list[dict[str, Any]] = []
        for word in sorted(self.words, key=_place_of):
            told, event = word.told, word.event
            if isinstance(event, events.ProjectTrashed | events.ProjectRestored):
                said: dict[str, Any] = {"trashed": isinstance(event, events.ProjectTrashed)}
            else:
                label = event.name if isinstance(event, events.ProjectChanged) else None
                said = {k: v for k, v in (("name", label), ("description", event.description)) if v is not None}
            for field, value in said.items():
                changes.append({
                    "event": told.event, "at": told.at, "by": told.by, "via": told.via, "kind": told.kind, "field": field,
                    "old": before.get(field), "new": value,
                })  # fmt: skip
                before[field] = now[field] = value
        row = {
            "project_id": self.project_id, "name": now.get("name") or first or self.project_id,
            "description": now.get("description"), "created_at": self.created_at, "trashed": bool(now.get("trashed")),
        }  # fmt: skip
        return row, changes


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
