"""All that can happen: one frozen Struct per kind of event, in the past tense.

Who writes: the recorder, the actions and the journal itself (its header, footer and counts of lost writes). Who reads:
the views. An event's payload is the `data` member of a line (`Line`); its kind is the line's `kind`, a stable string
that is never reused. A payload grows only by new fields with defaults, is never retyped, and is upgraded when it is
read, never on disk. Fields and kinds that this version does not know are kept as they are: the line's bytes stay.

Values. A metric is a JSON number; NaN and the infinities are the strings "NaN", "Infinity" and "-Infinity"; a number
that a double cannot hold exactly is written with all its digits. `time` is the caller's own time, seconds since 1970.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar

import msgspec

FORMAT = 1

Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
"""A number of bytes, lines or rows: what a table can hold."""
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
SEED_BITS = 128
"""Bits of a seed with its sign; what is larger is a parameter and no seed."""


class Line(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One line of a segment: the envelope around one event.

    `crc` comes last. It is the CRC-32 of the line's bytes with the digits of `crc` replaced by `0`, without the newline.
    `prev` is the `crc` of the last complete line before this one in the same file (0 in the first).
    """

    seq: int
    at: datetime
    clock: int
    kind: str
    run: str | None = None
    by: str | None = None
    via: str | None = None
    data: Any = None
    prev: int = -1
    crc: int = -1


class Event(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Base of all payloads; `kind` is the tag that stands in the envelope."""

    kind: ClassVar[str] = ""


# -- the segment itself ------------------------------------------------------------------------------------------------


class SegmentOpened(Event, frozen=True, omit_defaults=True, kw_only=True):
    """First line of a segment: who writes here. `segment` is the file's name at birth, so that a copy is known as one."""

    kind: ClassVar[str] = "segment.opened"
    format: int
    segment: str
    ailab: str
    host: str
    pid: int
    user: str = ""
    boot: str = ""
    started: float | None = None
    via: str = "sdk"
    by: str | None = None
    previous: str | None = None
    forked_from: str | None = None


class SegmentSealed(Event, frozen=True, omit_defaults=True, kw_only=True):
    """Last line of a finished segment: what stands before it. `lines` and `bytes` count what is before this line."""

    kind: ClassVar[str] = "segment.sealed"
    lines: Count
    bytes: Count
    sha256: str
    next: str | None = None


class SegmentClosed(Event, frozen=True, omit_defaults=True, kw_only=True):
    """A reader found the writer gone and says how far its file goes."""

    kind: ClassVar[str] = "segment.closed"
    segment: str
    bytes: Count
    sha256: str
    torn_bytes: Count = 0
    reason: str = ""


class WritesDropped(Event, frozen=True, omit_defaults=True, kw_only=True):
    """Events that could not be written, counted; `first` and `last` are the times of the first and the last of them."""

    kind: ClassVar[str] = "writes.dropped"
    count: Count
    error: str
    first: Moment
    last: Moment


class HeartbeatSent(Event, frozen=True, omit_defaults=True, kw_only=True):
    """A writer that had nothing to say is still there."""

    kind: ClassVar[str] = "heartbeat.sent"


class EventRedacted(Event, frozen=True, omit_defaults=True, kw_only=True):
    """The data of the event `segment`:`seq`, or the bytes of the blob `sha256`, are to be removed wherever a copy is."""

    kind: ClassVar[str] = "event.redacted"
    segment: str | None = None
    seq: Count | None = None
    sha256: str | None = None
    reason: str = ""


class RunPurged(Event, frozen=True, omit_defaults=True, kw_only=True):
    """The data of every event of the line's run are to be removed."""

    kind: ClassVar[str] = "run.purged"
    reason: str = ""


class SegmentAccepted(Event, frozen=True, omit_defaults=True, kw_only=True):
    """A server took bytes of another writer's segment, from `offset` on: who sent them, by which token, from which address.

    `by` is who told every event of that segment, whatever its own lines say.
    """

    kind: ClassVar[str] = "segment.accepted"
    segment: str
    offset: Count = 0
    token: str | None = None
    by: str | None = None
    address: str = ""


class TokenCreated(Event, frozen=True, omit_defaults=True, kw_only=True):
    """An access token came to be: `sha256` is that of its text, which is kept nowhere; `role` is reader, writer or admin.

    `project` is the id of the only project that it may touch.
    """

    kind: ClassVar[str] = "token.created"
    token: str
    sha256: str
    role: str
    name: str = ""
    project: str | None = None


class TokenRevoked(Event, frozen=True, omit_defaults=True, kw_only=True):
    """An access token counts no more, for good."""

    kind: ClassVar[str] = "token.revoked"
    token: str


# -- runs --------------------------------------------------------------------------------------------------------------


class RunStarted(Event, frozen=True, omit_defaults=True, kw_only=True):
    """A run began. `dataset` is the text given; `environment` and `code` are known for later runs of a process."""

    kind: ClassVar[str] = "run.started"
    name: str = ""
    project: str | None = None
    params: dict[str, Any] = {}
    command: str = ""
    seed: int | None = None
    group: str | None = None
    parent: str | None = None
    dataset: str | None = None
    environment: str | None = None
    code: str | None = None
    wandb_url: str | None = None
    tags: dict[str, Any] = {}
    description: str | None = None
    status: str = "running"

    def __post_init__(self) -> None:
        if self.seed is not None and self.seed.bit_length() >= SEED_BITS:
            raise ValueError(f"a seed of more than {SEED_BITS} bits")


class RunResumed(Event, frozen=True, omit_defaults=True, kw_only=True):
    """A run went on in another process, or after its end."""

    kind: ClassVar[str] = "run.resumed"
    command: str = ""
    params: dict[str, Any] = {}
    environment: str | None = None
    code: str | None = None


class RunChanged(Event, frozen=True, omit_defaults=True, kw_only=True):
    """Fields of a run got new values; a field that is not there was not touched."""

    kind: ClassVar[str] = "run.changed"
    name: str | None = None
    description: str | None = None
    status: str | None = None
    group: str | None = None
    project: str | None = None
    dataset: str | None = None
    wandb_url: str | None = None


class ParametersAdded(Event, frozen=True, omit_defaults=True, kw_only=True):
    """Parameters were added or got new values; none is ever removed."""

    kind: ClassVar[str] = "parameters.added"
    params: dict[str, Any]


class MetricsLogged(Event, frozen=True, omit_defaults=True, gc=False):
    """Points of one or more metrics. Without `step` the views count the points of each metric."""

    kind: ClassVar[str] = "metrics.logged"
    values: dict[str, Any]
    step: int | None = None
    time: float | None = None


GOALS = ("max", "min")
SUMMARIES = ("last", "min", "max", "mean")


class MetricDescribed(Event, frozen=True, omit_defaults=True, kw_only=True):
    """What a metric means: `goal` is max or min, `summary` one of last, min, max, mean."""

    kind: ClassVar[str] = "metric.described"
    key: str
    unit: str | None = None
    goal: str | None = None
    summary: str | None = None
    step_metric: str | None = None


class SummarySet(Event, frozen=True, omit_defaults=True, kw_only=True):
    """Values set by hand on `run.summary`; numbers among them are final metrics."""

    kind: ClassVar[str] = "summary.set"
    values: dict[str, Any]


class ArtifactAdded(Event, frozen=True, omit_defaults=True, kw_only=True):
    """A file was kept by its hash. `path` is its place in the run, `logged` the path as the caller wrote it.

    Of a `reference` no bytes were kept; `location` in its metadata says where they were.
    """

    kind: ClassVar[str] = "artifact.added"
    path: str
    logged: str
    type: str = "other"
    size: Count
    sha256: str
    reference: bool = False
    metadata: dict[str, Any] = {}


class ArtifactTrashed(Event, frozen=True, omit_defaults=True, kw_only=True):
    """An artifact was put in the trash; its bytes stay until they are collected."""

    kind: ClassVar[str] = "artifact.trashed"
    path: str


class ArtifactRestored(Event, frozen=True, omit_defaults=True, kw_only=True):
    """An artifact was taken out of the trash."""

    kind: ClassVar[str] = "artifact.restored"
    path: str


class MediaLogged(Event, frozen=True, omit_defaults=True, kw_only=True):
    """A figure, image, table, text or histogram at a step; its bytes are the artifact `path`."""

    kind: ClassVar[str] = "media.logged"
    key: str
    type: str
    path: str
    sha256: str
    step: int | None = None


class RunFinished(Event, frozen=True, omit_defaults=True, kw_only=True):
    """A run ended: `status` is completed, failed or killed; `error` is the exception's text."""

    kind: ClassVar[str] = "run.finished"
    status: str
    final_metrics: dict[str, Any] = {}
    error: str | None = None


# -- what a run ran on -------------------------------------------------------------------------------------------------


class EnvironmentCaptured(Event, frozen=True, omit_defaults=True, kw_only=True):
    """The environment of the line's run: a blob with this SHA-256 holds it as JSON."""

    kind: ClassVar[str] = "environment.captured"
    environment: str


class CodeCaptured(Event, frozen=True, omit_defaults=True, kw_only=True):
    """The code of the line's run: a blob with this SHA-256 holds commit, diff and untracked files as JSON."""

    kind: ClassVar[str] = "code.captured"
    code: str
    git_hash: str | None = None
    branch: str | None = None
    remote: str | None = None
    dirty: bool = False


class DatasetUsed(Event, frozen=True, omit_defaults=True, kw_only=True):
    """The line's run read a dataset's content. `name` is the text given, `dataset` the id of the dataset where one was found."""

    kind: ClassVar[str] = "dataset.used"
    sha256: str
    dataset: str | None = None
    name: str = ""
    role: str = "training"


class SystemMetricsLogged(Event, frozen=True, omit_defaults=True, kw_only=True):
    """Use of the machine by the line's run: numbers by name, such as `process/memory_bytes`; the name says the unit."""

    kind: ClassVar[str] = "system_metrics.logged"
    values: dict[str, Any]


class ConsoleLinesLogged(Event, frozen=True, omit_defaults=True, kw_only=True):
    """Lines that the line's run printed: `stream` is stdout or stderr, `dropped` counts lines before them that were not kept."""

    kind: ClassVar[str] = "console_lines.logged"
    stream: str
    lines: list[str]
    dropped: Count = 0


# -- what people do afterwards -----------------------------------------------------------------------------------------


class NoteChanged(Event, frozen=True, omit_defaults=True, kw_only=True):
    """The note of a run got a new text; every version stays."""

    kind: ClassVar[str] = "note.changed"
    note: str


class TagsChanged(Event, frozen=True, omit_defaults=True, kw_only=True):
    """Tags were set (a bare tag has the value null) or removed."""

    kind: ClassVar[str] = "tags.changed"
    set: dict[str, Any] = {}
    removed: list[str] = []


class RunFlagged(Event, frozen=True, omit_defaults=True, kw_only=True):
    """A run was flagged PUBLISH, BEST or BAD RUN: the tag is set and the note begins with the word.

    `note` is the whole note as it reads afterwards, so that the event means the same wherever it is read.
    """

    kind: ClassVar[str] = "run.flagged"
    flag: str
    note: str


class RunRenamed(Event, frozen=True, omit_defaults=True, kw_only=True):
    """A run got another name."""

    kind: ClassVar[str] = "run.renamed"
    name: str


class RunTrashed(Event, frozen=True, omit_defaults=True, kw_only=True):
    """A run was put in the trash."""

    kind: ClassVar[str] = "run.trashed"


class RunRestored(Event, frozen=True, omit_defaults=True, kw_only=True):
    """A run was taken out of the trash."""

    kind: ClassVar[str] = "run.restored"


class RunProtected(Event, frozen=True, omit_defaults=True, kw_only=True):
    """A run was protected: it cannot be trashed until that is taken back."""

    kind: ClassVar[str] = "run.protected"


class RunUnprotected(Event, frozen=True, omit_defaults=True, kw_only=True):
    """A run's protection was taken back."""

    kind: ClassVar[str] = "run.unprotected"


class ProjectCreated(Event, frozen=True, omit_defaults=True, kw_only=True):
    """A project was named. Its id comes from the normalised name, so that two writers mean the same one."""

    kind: ClassVar[str] = "project.created"
    project: str
    name: str
    description: str | None = None


class ProjectChanged(Event, frozen=True, omit_defaults=True, kw_only=True):
    """A project's label or description got a new text; its id stays."""

    kind: ClassVar[str] = "project.changed"
    project: str
    name: str | None = None
    description: str | None = None


class ProjectTrashed(Event, frozen=True, omit_defaults=True, kw_only=True):
    """A project was put in the trash, and with it its runs and datasets."""

    kind: ClassVar[str] = "project.trashed"
    project: str


class ProjectRestored(Event, frozen=True, omit_defaults=True, kw_only=True):
    """A project was taken out of the trash."""

    kind: ClassVar[str] = "project.restored"
    project: str


class DatasetVersionRegistered(Event, frozen=True, omit_defaults=True, kw_only=True):
    """Content got a name: it is a version of the dataset whose id `dataset` comes from that name, as a project's does.

    `schema` has `columns`, a list of objects; `file` is the name of the file as it came; `parent` is the SHA-256 of the version
    that was the newest before.
    """

    kind: ClassVar[str] = "dataset_version.registered"
    dataset: str
    name: str
    sha256: str
    size: Count
    format: str
    rows: Count
    schema: dict[str, Any] = {}
    file: str = ""
    description: str | None = None
    tags: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    project: str | None = None
    parent: str | None = None


class DatasetVersionChanged(Event, frozen=True, omit_defaults=True, kw_only=True):
    """Fields of a dataset version got new values; one that is absent was not touched. `name` is the label of all its versions."""

    kind: ClassVar[str] = "dataset_version.changed"
    dataset: str
    sha256: str
    name: str | None = None
    description: str | None = None
    tags: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    project: str | None = None


class DatasetVersionTrashed(Event, frozen=True, omit_defaults=True, kw_only=True):
    """A dataset version was put in the trash; its bytes stay until they are collected."""

    kind: ClassVar[str] = "dataset_version.trashed"
    dataset: str
    sha256: str


class DatasetVersionRestored(Event, frozen=True, omit_defaults=True, kw_only=True):
    """A dataset version was taken out of the trash."""

    kind: ClassVar[str] = "dataset_version.restored"
    dataset: str
    sha256: str


class ChangeUndone(Event, frozen=True, omit_defaults=True, kw_only=True):
    """A change was taken back: the event `event` (SEGMENT:SEQ), which is about the same run, project or dataset, counts no more.

    `project` or `dataset` says which, where it is no run. An undoing is itself such a change.
    """

    kind: ClassVar[str] = "change.undone"
    event: str
    project: str | None = None
    dataset: str | None = None


KINDS: dict[str, type[Event]] = {
    event.kind: event
    for event in (
        SegmentOpened, SegmentSealed, SegmentClosed, WritesDropped, HeartbeatSent, EventRedacted, RunPurged,
        RunStarted, RunResumed, RunChanged, ParametersAdded, MetricsLogged, MetricDescribed, SummarySet,
        ArtifactAdded, ArtifactTrashed, ArtifactRestored, MediaLogged, RunFinished,
        EnvironmentCaptured, CodeCaptured,
        NoteChanged, TagsChanged, RunFlagged, RunRenamed, RunTrashed, RunRestored, RunProtected, RunUnprotected,
        ProjectCreated, ProjectChanged, ProjectTrashed, ProjectRestored,
        DatasetVersionRegistered, DatasetVersionChanged, DatasetVersionTrashed, DatasetVersionRestored, DatasetUsed,
        SystemMetricsLogged, ConsoleLinesLogged, ChangeUndone, TokenCreated, TokenRevoked, SegmentAccepted,
    )
}  # fmt: skip
"""Every kind that has a payload of its own, by its tag."""

UNDOABLE = frozenset({
    "run.changed", "parameters.added", "note.changed", "tags.changed", "run.flagged", "run.renamed", "run.trashed",
    "run.protected", "run.unprotected", "artifact.trashed", "artifact.restored", "project.changed", "project.trashed",
    "project.restored", "dataset_version.changed", "dataset_version.trashed", "dataset_version.restored", "change.undone",
    "run.restored", "dataset.used",
})  # fmt: skip
"""Kinds that `change.undone` takes back; named by it, an event of any other kind counts as before."""

RESERVED: dict[str, str] = {
    "evaluation.recorded": "predictions of a run were evaluated",
    "latency.profiled": "the latency of a model was measured",
    "model_version.registered": "an artifact became a version of a named model",
    "model_stage.changed": "a model version moved to another stage",
    "outcome.recorded": "what became of a decision",
    "sweep.created": "a search over parameters was set up",
    "trial.added": "a sweep got a point to try",
    "trial.claimed": "a worker took a trial",
    "trial.finished": "a trial ended",
    "alert_rule.stored": "a condition to watch was set",
    "alert.raised": "a watched condition came true",
    "view.stored": "a saved view of the web pages",
    "question.answered": "the assistant answered, with what it read",
}
"""Kinds whose payload comes with a later version; the tags are taken."""


def project_id(name: str) -> str:
    """A project's id, made from its first name, so that two writers who name the same project mean the same one.

    Case, accents' composition and white space do not count; a name with characters other than letters, digits, `.`, `_`
    and `-` gets a few digits of its SHA-256 behind it. An id given as a name is its own id.
    """
    import unicodedata  # not needed by the first log()

    plain = "-".join(unicodedata.normalize("NFKC", name).casefold().split())
    slug = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in plain).strip("-")
    if slug == plain:
        return slug
    import hashlib

    return f"{slug or 'project'}-{hashlib.sha256(plain.encode('utf-8', 'backslashreplace')).hexdigest()[:8]}"
