"""The fold: what a run is, computed from its events, in whatever order they arrive.

A pure function of the set of events. A run keeps its own events but for the points, and of each metric a summary; the state is
had by replaying the events in the order of their places, where an event's place is (clock, segment, seq). So late, repeated or
merged segments lead to the same state as a replay from nothing, adding a point costs the same whether the run has ten or a
million, and what a run keeps can be written down (`dump`) and taken up again (`load`) by another process. Nothing here knows
DuckDB or files. Status `crashed` is not folded: it depends on whether a process lives, and is added by the catalogue.
"""

from __future__ import annotations

import operator
import re
from datetime import datetime  # noqa: TC003  (msgspec reads the annotations of Structs at run time)
from typing import TYPE_CHECKING, Any

import msgspec

from .. import events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..journal import Envelope, Segment

VERSION = 5
"""Raised when `dump` or what it means changes: what another version wrote is then not read, but computed anew."""
ENDED = frozenset({"completed", "failed", "killed"})
INT64_MAX = 2**63
_FIELDS = ("name", "project", "group", "parent", "dataset", "wandb_url", "description", "seed", "environment", "code")
_fields_of = operator.attrgetter(*_FIELDS)
_decoders = {kind: msgspec.json.Decoder(event) for kind, event in events.KINDS.items()}
_NOT_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
DECIMAL = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
"""A text that is a number."""
_is_decimal = re.compile(DECIMAL).fullmatch
_pack = msgspec.msgpack.Encoder().encode
UNDONE = events.ChangeUndone.kind


def undone(said: Sequence[tuple[str, str, str | None]]) -> set[int]:
    """Which events do not count, because a later undoing that counts itself names them.

    Args:
        said: (id, kind, id of the event that an undoing names) of each event of one subject, in the order of their places.

    Returns:
        Their positions in `said`; undoings themselves are among them where they were taken back.
    """
    at = {event: i for i, (event, _, _) in enumerate(said)}
    gone: set[int] = set()
    for i in range(len(said) - 1, -1, -1):
        _, kind, target = said[i]
        if kind == UNDONE and i not in gone and target is not None:
            found = at.get(target, i)
            if found < i and said[found][1] in events.UNDOABLE:
                gone.add(found)
    return gone


def undoing_of(event: str, said: Sequence[tuple[str, str, str | None]]) -> str | None:
    """The undoing that takes an event out of the count, the latest of them; None where it counts. `said` is as in `undone`."""
    gone = undone(said)
    if all(said[i][0] != event for i in gone):
        return None
    counting = (one for i, one in enumerate(said) if i not in gone and one[1] == UNDONE and one[2] == event)
    return max(counting, key=said.index)[0]


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


class Word(msgspec.Struct, array_like=True, gc=False):
    """An event that a run keeps: its place, who told it, and its payload. `segment` is a number in the run's `names`."""

    clock: int
    segment: int
    seq: int
    at: datetime
    kind: str
    by: str | None
    via: str | None
    own: bool
    data: bytes

    @property
    def event(self) -> Any:
        """The payload."""
        return _decoders[self.kind].decode(self.data)


class Series(msgspec.Struct, array_like=True, gc=False):
    """What a run keeps of a metric: the first and the last point by place, extremes and sums without NaN, counts.

    A place is (clock, number of the segment in the run's `names`, seq); values are as JSON has them.
    """

    first_place: tuple[int, int, int]
    first: Any
    last_place: tuple[int, int, int]
    last: Any
    min: float | None = None
    max: float | None = None
    sum: float = 0.0
    n: int = 0
    count: int = 0
    last_step: int | None = None

    def row(self, key: str) -> dict[str, Any]:
        """The metric's row in `metric_summary`."""
        return {
            "key": key, "first": _in_json(as_double(self.first)), "last": _in_json(as_double(self.last)),
            "min": _in_json(self.min), "max": _in_json(self.max), "mean": _in_json(self.sum / self.n) if self.n else None,
            "count": self.count, "last_step": self.last_step,
        }  # fmt: skip


class _Packed(msgspec.Struct, array_like=True, gc=False):
    """A fold as it is kept."""

    run_id: str
    names: list[str]
    clock: int
    last_at: datetime | None
    words: list[Word]
    series: dict[str, Series]


_packed = msgspec.msgpack.Decoder(_Packed)


class RunFold:
    """What is known of one run.

    Attributes:
        run_id: the run.
        names: segments that its events stand in.
        words: its events other than points and signs of life, in any order.
        series: by metric.
        clock: the greatest Lamport clock among its events.
        last_at: the latest time among the lines of its own segments.
    """

    __slots__ = ("_numbers", "_sorted", "clock", "last_at", "names", "run_id", "series", "words")

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.names: list[str] = []
        self.words: list[Word] = []
        self.series: dict[str, Series] = {}
        self.clock = -1
        self.last_at: datetime | None = None
        self._numbers: dict[str, int] = {}
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
            if points.step is not None and not -INT64_MAX <= points.step < INT64_MAX:
                raise msgspec.ValidationError("a step of more than 64 bits")
            self.points(told, points.values, points.step)
            return points
        if told.kind not in HANDLERS:
            return None
        event = _decoders[told.kind].decode(data)  # now, so that one that does not fit is found where it is read
        own = told.writer == self.run_id
        self.words.append(
            Word(told.clock, self._number(told.segment), told.seq, told.at, told.kind, told.by, told.via, own, bytes(data))
        )
        self._sorted = False
        return event

    def _number(self, segment: str) -> int:
        number = self._numbers.get(segment)
        if number is None:
            number = self._numbers[segment] = len(self.names)
            self.names.append(segment)
        return number

    def seen(self, clock: int, at: datetime, writer: str | None) -> None:
        """Note a sign of life: a line of one of the run's own segments, whatever it says."""
        self.clock = max(self.clock, clock)
        if writer == self.run_id and (self.last_at is None or at > self.last_at):
            self.last_at = at

    def points(self, told: Told, values: dict[str, Any], step: int | None) -> None:
        """Add the points of one line."""
        place = (told.clock, self._number(told.segment), told.seq)
        series = self.series
        for key, value in values.items():
            number = value if value.__class__ is float else as_double(value)
            if number is None:
                continue
            finite = number == number  # noqa: PLR0124  (not NaN)
            one = series.get(key)
            if one is None:
                low, total, n = (number, number, 1) if finite else (None, 0.0, 0)
                series[key] = Series(place, value, place, value, low, low, total, n, 1, step)
                continue
            one.count += 1
            if self._after(place, one.last_place):
                one.last_place, one.last = place, value
            elif self._after(one.first_place, place):
                one.first_place, one.first = place, value
            if step is not None and (one.last_step is None or step > one.last_step):
                one.last_step = step
            if finite:
                one.n += 1
                one.sum += number
                if one.min is None or number < one.min:
                    one.min = number
                if one.max is None or number > one.max:
                    one.max = number

    def _after(self, place: tuple[int, int, int], other: tuple[int, int, int]) -> bool:
        """Whether the first place comes after the second."""
        if place[0] != other[0]:
            return place[0] > other[0]
        return (self.names[place[1]], place[2]) > (self.names[other[1]], other[2])

    def join(self, key: str, segment: str, more: Series) -> None:
        """Add points that were summed up elsewhere, all of one segment: numbers of segments in `more` mean nothing."""
        number = self._number(segment)
        more.first_place = (more.first_place[0], number, more.first_place[2])
        more.last_place = (more.last_place[0], number, more.last_place[2])
        one = self.series.get(key)
        if one is None:
            self.series[key] = more
            return
        if self._after(more.last_place, one.last_place):
            one.last_place, one.last = more.last_place, more.last
        if self._after(one.first_place, more.first_place):
            one.first_place, one.first = more.first_place, more.first
        one.count, one.n, one.sum = one.count + more.count, one.n + more.n, one.sum + more.sum
        one.last_step = max((step for step in (one.last_step, more.last_step) if step is not None), default=None)
        one.min = min((v for v in (one.min, more.min) if v is not None), default=None)
        one.max = max((v for v in (one.max, more.max) if v is not None), default=None)

    # -- being kept --------------------------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """What is known of the run, for `load`."""
        series = self.series
        if any(_is_long(one.first) or _is_long(one.last) for one in series.values()):
            series = {
                key: msgspec.structs.replace(one, first=_short(one.first), last=_short(one.last)) for key, one in series.items()
            }
        return _pack(_Packed(self.run_id, self.names, self.clock, self.last_at, self.words, series))

    @classmethod
    def load(cls, content: bytes) -> RunFold:
        """Take up what `dump` wrote."""
        packed = _packed.decode(content)
        fold = cls(packed.run_id)
        fold.names, fold.clock, fold.last_at = packed.names, packed.clock, packed.last_at
        fold.words, fold.series, fold._sorted = packed.words, packed.series, False
        fold._numbers = {name: number for number, name in enumerate(packed.names)}
        for one in packed.series.values():
            if one.first.__class__ is list:
                one.first = int(one.first[0])
            if one.last.__class__ is list:
                one.last = int(one.last[0])
        return fold

    # -- giving the state --------------------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether the run's start was seen; a note on a run that is not here makes no run."""
        return any(word.kind == events.RunStarted.kind for word in self.words)

    def place_of(self, word: Word) -> tuple[int, str, int]:
        """Where an event stands in the order of all."""
        return word.clock, self.names[word.segment], word.seq

    def _sort(self) -> None:
        if not self._sorted:
            self.words.sort(key=self.place_of)
            self._sorted = True

    def _said(self) -> list[tuple[str, str, str | None]]:
        """Its events as `undone` takes them."""
        return [
            (f"{self.names[word.segment]}:{word.seq}", word.kind, word.event.event if word.kind == UNDONE else None)
            for word in self.words
        ]

    def words_by_event(self) -> dict[str, Word]:
        """Its events by their ids."""
        return {f"{self.names[word.segment]}:{word.seq}": word for word in self.words}

    def undoing_of(self, event: str) -> str | None:
        """The undoing that takes an event out of the count; None where it counts."""
        self._sort()
        return undoing_of(event, self._said())

    def state(self) -> RunState:
        """Replay its events."""
        self._sort()
        if any(word.kind == UNDONE for word in self.words):
            return self._with_undoings()
        return self._replay(self.words)

    def _replay(self, words: Iterable[Word]) -> RunState:
        state = RunState(self)
        for word in words:
            HANDLERS[word.kind](state, word, word.event)
        return state

    def _with_undoings(self) -> RunState:
        """The same where something was taken back: from each undoing on, as if what it names had never been said."""
        state = RunState(self)
        said = self._said()
        for i, word in enumerate(self.words):
            if word.kind != UNDONE:
                HANDLERS[word.kind](state, word, word.event)
                continue
            gone = undone(said[: i + 1])
            then = self._replay(other for j, other in enumerate(self.words[:i]) if j not in gone and other.kind != UNDONE)
            then.follow(state, word)
            state = then
        return state


def _is_long(value: Any) -> bool:
    """Whether a metric's value is an integer beyond the 64 bits that the packed form has."""
    return value.__class__ is int and not -INT64_MAX <= value < INT64_MAX


def _short(value: Any) -> Any:
    return [str(value)] if _is_long(value) else value


class Standing(msgspec.Struct, frozen=True):
    """A status that an event gave to the run."""

    place: tuple[int, str, int]
    at: datetime
    status: str
    error: str | None = None


class RunState:
    """The run as it reads after its events were replayed in the order of their places."""

    __slots__ = (
        "_before", "_final_metrics", "_openings", "_standings", "artifacts", "changes", "codes", "datasets", "dropped", "fields",
        "final", "fold", "goals", "notes", "origin", "params", "started", "summary", "tags", "trashed_files", "versions",
    )  # fmt: skip

    def __init__(self, fold: RunFold) -> None:
        self.fold = fold
        self.fields: dict[str, Any] = {}
        self.params: dict[str, Any] = {}
        self.tags: dict[str, tuple[Any, datetime, str | None, str]] = {}
        self.summary: dict[str, Any] = {}
        self.final: dict[str, Any] = {}
        self.goals: dict[str, Any] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.changes: list[dict[str, Any]] = []
        self.notes: list[dict[str, Any]] = []
        self.codes: dict[str, events.CodeCaptured] = {}
        self.trashed_files: dict[str, bool] = {}
        self.versions: dict[str, int] = {}
        self.datasets: dict[tuple[str, str], dict[str, Any]] = {}
        self.started: tuple[datetime, str] | None = None
        self.origin: events.SegmentOpened | None = None
        self.dropped = 0
        self._openings: list[Standing] = []
        self._standings: list[Standing] = []
        self._before: dict[str, Any] = {}
        self._final_metrics: dict[str, Any] | None = None

    def _id(self, word: Word) -> str:
        return f"{self.fold.names[word.segment]}:{word.seq}"

    def _say(self, word: Word, field: str, value: Any, *, shown: bool) -> None:
        """Remember what a field reads now, and that it was changed, where somebody did so after it was first set."""
        old = self._before.get(field)
        if shown and old != value:
            self._change(word, field, old, value)
        self._before[field] = value

    def _change(self, word: Word, field: str, old: Any, new: Any) -> None:
        self.changes.append({
            "event": self._id(word), "at": word.at, "by": word.by, "via": word.via, "kind": word.kind, "field": field,
            "old": old, "new": new,
        })  # fmt: skip

    def _set(self, word: Word, field: str, value: Any, *, shown: bool = True) -> None:
        self.fields[field] = value
        self._say(word, field, value, shown=shown)
        if field == "note":
            self.notes.append({"event": self._id(word), "at": word.at, "by": word.by, "via": word.via, "note": value})

    def _take_params(self, word: Word, params: dict[str, Any], *, shown: bool) -> None:
        known = self.params
        if known or shown:  # else they are the first, and nearly always all
            for key, value in params.items():
                if (shown or key in known) and known.get(key) != value:  # the run itself changes only what it had set before
                    self._change(word, f"params.{key}", known.get(key), value)
        known.update(params)

    def _take_tags(self, word: Word, tags: dict[str, Any], *, shown: bool = True) -> None:
        for key, value in tags.items():
            self.tags[key] = (value, word.at, word.by, self.fold.names[word.segment])
            self._say(word, f"tags.{key}", value if value is not None else True, shown=shown)

    # -- one handler per kind ----------------------------------------------------------------------------------------

    def on_opened(self, _word: Word, event: events.SegmentOpened) -> None:
        """The first header of the run tells who and where."""
        if self.origin is None:
            self.origin = event

    def on_started(self, word: Word, event: events.RunStarted) -> None:
        """Fields that are there count, as if each had been set."""
        if self.started is None:
            self.started = (word.at, event.command)
        self._openings.append(Standing(self.fold.place_of(word), word.at, event.status))
        for field, value in zip(_FIELDS, _fields_of(event), strict=True):
            if value is not None and value != "":
                self.fields[field] = self._before[field] = value
        self._take_params(word, event.params, shown=False)
        self._take_tags(word, event.tags, shown=False)

    def on_resumed(self, word: Word, event: events.RunResumed) -> None:
        """It goes on, perhaps elsewhere."""
        self._openings.append(Standing(self.fold.place_of(word), word.at, "running"))
        for field in ("environment", "code"):
            if getattr(event, field) is not None:
                self._set(word, field, getattr(event, field), shown=False)
        self._take_params(word, event.params, shown=False)

    def on_changed(self, word: Word, event: events.RunChanged) -> None:
        """Fields that are there count."""
        for field in ("name", "description", "group", "project", "dataset", "wandb_url"):
            value = getattr(event, field)
            if value is not None:
                self._set(word, field, value, shown=not word.own)
        if event.status is not None:
            self._standings.append(Standing(self.fold.place_of(word), word.at, event.status))
            self._say(word, "status", event.status, shown=True)

    def on_params(self, word: Word, event: events.ParametersAdded) -> None:
        """The last value counts."""
        self._take_params(word, event.params, shown=not word.own)

    def on_described(self, _word: Word, event: events.MetricDescribed) -> None:
        """The last description counts, and takes an earlier goal away."""
        self.goals[event.key] = event.goal

    def on_summary(self, _word: Word, event: events.SummarySet) -> None:
        """Numbers among them are final metrics."""
        self.summary.update(event.values)

    def on_artifact(self, word: Word, event: events.ArtifactAdded) -> None:
        """One more version of a file."""
        version = self.versions[event.path] = self.versions.get(event.path, 0) + 1
        location = event.metadata.get("location", event.metadata.get("path")) if event.reference else None
        self.artifacts.append({
            "path": event.path, "logged": event.logged, "kind": event.type, "name": event.path.rpartition("/")[2],
            "size": event.size, "sha256": event.sha256, "version": version, "at": word.at, "trashed": False,
            "reference": event.reference, "location": location if isinstance(location, str) else None,
        })  # fmt: skip
        self.trashed_files[event.path] = False

    def on_artifact_trashed(self, word: Word, event: events.ArtifactTrashed) -> None:
        """Every version of the path is in the trash."""
        self.trashed_files[event.path] = True
        self._say(word, f"artifacts.{event.path}", "trashed", shown=True)

    def on_artifact_restored(self, word: Word, event: events.ArtifactRestored) -> None:
        """Every version is there again."""
        self.trashed_files[event.path] = False
        self._say(word, f"artifacts.{event.path}", "there", shown=True)

    def on_finished(self, word: Word, event: events.RunFinished) -> None:
        """The end, with metrics that count above all others."""
        self._standings.append(Standing(self.fold.place_of(word), word.at, event.status, event.error))
        self.final.update({key: value for key, value in event.final_metrics.items() if as_double(value) is not None})

    def on_environment(self, word: Word, event: events.EnvironmentCaptured) -> None:
        """A digest."""
        self._set(word, "environment", event.environment, shown=False)

    def on_code(self, word: Word, event: events.CodeCaptured) -> None:
        """A digest, and what its blob says, for those who have not got it."""
        self.codes[event.code] = event
        self._set(word, "code", event.code, shown=False)

    def on_note(self, word: Word, event: events.NoteChanged) -> None:
        """One more version of the note."""
        self._set(word, "note", event.note)

    def on_tags(self, word: Word, event: events.TagsChanged) -> None:
        """Set, then removed."""
        self._take_tags(word, event.set)
        for key in event.removed:
            self.tags.pop(key, None)
            self._say(word, f"tags.{key}", None, shown=True)

    def on_flagged(self, word: Word, event: events.RunFlagged) -> None:
        """A bare tag, and the note that begins with it."""
        self._take_tags(word, {event.flag: None})
        self._set(word, "note", event.note)

    def on_renamed(self, word: Word, event: events.RunRenamed) -> None:
        """Another name."""
        self._set(word, "name", event.name)

    def on_trashed(self, word: Word, _event: events.RunTrashed) -> None:
        """In the trash."""
        self._set(word, "trashed", True)

    def on_restored(self, word: Word, _event: events.RunRestored) -> None:
        """Out of it."""
        self._set(word, "trashed", False)

    def on_protected(self, word: Word, _event: events.RunProtected) -> None:
        """Cannot be trashed."""
        self._set(word, "protected", True)

    def on_unprotected(self, word: Word, _event: events.RunUnprotected) -> None:
        """Can."""
        self._set(word, "protected", False)

    def on_used(self, word: Word, event: events.DatasetUsed) -> None:
        """A content and a role, once."""
        self.datasets.setdefault((event.sha256, event.role), {
            "dataset": event.dataset, "sha256": event.sha256, "role": event.role, "name": event.name, "at": word.at,
        })  # fmt: skip

    def on_undone(self, _word: Word, _event: events.ChangeUndone) -> None:
        """Seen where a run with undoings is replayed."""

    def follow(self, before: RunState, word: Word) -> None:
        """Take the place of another state at an undoing: its changes stay, and what reads differently now is one more."""
        self.changes = before.changes
        now, then = self._visible(), before._visible()
        for field in sorted(now.keys() | then.keys()):
            if now.get(field) != then.get(field):
                self._change(word, field, then.get(field), now.get(field))

    def _visible(self) -> dict[str, Any]:
        """Every field that changes speak of, as it reads."""
        return {**self._before, **{f"params.{key}": value for key, value in self.params.items()}}

    def on_dropped(self, _word: Word, event: events.WritesDropped) -> None:
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
        if self._final_metrics is not None:
            return self._final_metrics
        found = {key: series.last for key, series in self.fold.series.items()}
        found.update({key: value for key, value in self.summary.items() if _is_number(value)})
        found.update(self.final)
        self._final_metrics = {key: int(value) if value.__class__ is bool else value for key, value in sorted(found.items())}
        return self._final_metrics

    def files(self) -> list[dict[str, Any]]:
        """Every version of every artifact, oldest first."""
        return [{**one, "trashed": self.trashed_files[one["path"]]} for one in self.artifacts]


HANDLERS: dict[str, Callable[[RunState, Word, Any], None]] = {
    "segment.opened": RunState.on_opened, "run.started": RunState.on_started, "run.resumed": RunState.on_resumed,
    "run.changed": RunState.on_changed, "parameters.added": RunState.on_params, "metric.described": RunState.on_described,
    "summary.set": RunState.on_summary, "artifact.added": RunState.on_artifact,
    "artifact.trashed": RunState.on_artifact_trashed, "artifact.restored": RunState.on_artifact_restored,
    "run.finished": RunState.on_finished, "environment.captured": RunState.on_environment,
    "code.captured": RunState.on_code, "note.changed": RunState.on_note, "tags.changed": RunState.on_tags,
    "run.flagged": RunState.on_flagged, "run.renamed": RunState.on_renamed, "run.trashed": RunState.on_trashed,
    "run.restored": RunState.on_restored, "run.protected": RunState.on_protected, "run.unprotected": RunState.on_unprotected,
    "writes.dropped": RunState.on_dropped, "dataset.used": RunState.on_used, UNDONE: RunState.on_undone,
}  # fmt: skip
"""The kinds whose events a run keeps, and what each does to it."""


def removed_by(kind: str, run: str | None, data: bytes | str) -> tuple[str | None, tuple[str, int] | None]:
    """What an event of a kind that removes takes away: (a run, an event as (segment, seq)).

    Raises:
        msgspec.ValidationError: the payload does not fit its kind; it takes nothing away.
    """
    event: Any = _decoders[kind].decode(data)
    if isinstance(event, events.RunPurged):
        return run, None
    return None, None if event.segment is None or event.seq is None else (event.segment, event.seq)


def _is_number(value: Any) -> bool:
    """Whether a value set by hand is a number; a text of digits is a text."""
    return value in _NOT_FINITE if isinstance(value, str) else isinstance(value, bool | int | float)


def _in_json(number: float | None) -> float | str | None:
    """A double as JSON has it: rows are inserted as JSON, where NaN and the infinities are texts."""
    if number is None or number - number == 0:
        return number
    return "NaN" if number != number else "Infinity" if number > 0 else "-Infinity"  # noqa: PLR0124


def as_double(value: Any) -> float | None:
    """The nearest double of a metric's JSON value; None where it is none."""
    if isinstance(value, str):
        special = _NOT_FINITE.get(value)
        if special is not None or not _is_decimal(value):
            return special
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
    except (TypeError, ValueError):
        return None
