"""What `ailab doctor` asks: is this store whole, what is damaged, what did it cost, and does the machine do its part.

Reads every segment once from its first byte and trusts nothing that another reader has computed: it needs neither DuckDB nor
a catalogue, so it still answers where those do not. It writes nothing, not even a marker that was cut short, and takes no
lock longer than it takes to see whether locks work. One bad file costs its own finding and nothing else. The store may be
written to meanwhile: a torn last line of a living writer is normal and is no finding. Not asked here: whether every blob has
the bytes of its name; only whether those that runs refer to are there in their right size.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from datetime import timedelta
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from . import __version__, blobs, events, settings
from .errors import DamageError, ForeignFolderError, SettingError, StoreError
from .journal import Segment, writer_alive
from .store import MARKER, MARKER_BYTES, SEGMENT_SUFFIX, Store, find_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from .journal import Envelope

try:
    import fcntl
except ImportError:  # Windows has no flock
    fcntl = None  # type: ignore[assignment]

CHUNK = 4 << 20
NEWLINE = b"\n"
PER_FILE = 10
"""Findings of one kind that are listed singly; the others are counted."""
LEFTOVER_SECONDS = 3600.0
"""A temporary file that is older was left by a writer that is gone."""
FREE_LOW = 1 << 30
FREE_NONE = 50 << 20
ENDED = frozenset({"completed", "failed", "killed"})
_BELONGS = frozenset({MARKER, "README.md", ".gitignore", "segments", "blobs", "compacted", "claims", "cache", "schema"})
_FOLDER_NAME = 2

Level = Literal["ok", "note", "warning", "error"]


class Finding(msgspec.Struct, kw_only=True, omit_defaults=False):
    """One thing that was looked at: `where` is path:line:byte as far as it is known, `cost` what is lost by it."""

    level: Level
    what: str
    where: str = ""
    cost: str = ""
    hint: str = ""


class Checkup(msgspec.Struct, kw_only=True):
    """How a store is. `unsealed` segments have no footer and no living writer; `runs` counts them by status, trashed ones too."""

    store: str
    marker_ok: bool
    segments: int
    sealed: int
    live: int
    unsealed: int
    events: int
    runs: dict[str, int]
    points_dropped: int
    segment_bytes: int
    blobs: int
    blob_bytes: int
    free_bytes: int
    flock: bool
    git: str | None
    versions: dict[str, str | None]
    findings: list[Finding]

    @property
    def healthy(self) -> bool:
        """Whether nothing found is an error."""
        return all(finding.level != "error" for finding in self.findings)


_DAMAGE: dict[str, tuple[Level, str, str]] = {
    "torn-write": (
        "warning",
        "the event of this line, unless the writer wrote it again behind it",
        "the disk was full, or a limit was met",
    ),
    "bad-checksum": (
        "error",
        "the event of this line",
        "its bytes changed after they were written: take the file from a copy of the store",
    ),
    "bad-json": ("error", "the event of this line", "take the file from a copy of the store"),
    "gap": ("error", "the events that are missing, unless another file has them", "take the file from a copy of the store"),
    "duplicate": ("warning", "nothing: the event counts once", "the file was edited or joined; take it from a copy of the store"),
    "unknown-version": ("error", "all of this file", "it needs a newer version of ailab"),
    "unreadable": ("error", "all of this file", "check who may read it"),
    "torn-tail": (
        "note",
        "the last event, of which only a part was written",
        "its writer was killed while it wrote; nothing is to be done",
    ),
}


def store_path(given: str | None) -> str:
    """The store that is meant, found as `start_run` finds it, also where the settings do not parse."""
    named = settings.load(dir=given, problems=[]).dir
    return os.path.abspath(os.path.expanduser(named or find_store()))


def examine(path: str) -> Checkup:
    """Look at the store in the folder `path`, and at what it stands on.

    Raises:
        StoreError: there is no folder, or it is no store.
    """
    look = _Look(Store(path))
    look.marker()
    look.all_segments()
    look.all_blobs()
    look.strangers()
    look.machine()
    look.settings()
    return look.checkup()


class _Lines:
    """Whole lines of a file in blocks; iterate again for what was added since. Linear also for a line of a gigabyte."""

    def __init__(self, file: IO[bytes]) -> None:
        self.read = 0
        self._file = file
        self._parts: list[bytes] = []

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self._file.read(CHUNK):
            self.read += len(chunk)
            cut = chunk.rfind(NEWLINE) + 1
            if cut:
                block = b"".join([*self._parts, chunk[:cut]])
                self._parts = [chunk[cut:]]
                yield block
            else:
                self._parts.append(chunk)

    @property
    def rest(self) -> int:
        """Bytes behind the last newline."""
        return sum(map(len, self._parts))


class _Block(NamedTuple):
    """Bytes of a segment that begin behind its first `line` lines and `offset` bytes."""

    path: str
    data: bytes
    line: int
    offset: int

    def place(self, envelope: Envelope) -> str:
        """path:line:byte of an event in it."""
        at = self.data.rfind(b'\n{"seq":%d,' % envelope.seq) + 1  # the last: before it may stand what a torn write left of it
        return f"{self.path}:{self.line + self.data.count(NEWLINE, 0, at) + 1}:{self.offset + at}"


class _Look:
    """One look at a store: what was counted and found so far."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.findings: list[Finding] = []
        self.names: list[str] = []
        self.segments: dict[str, Segment] = {}
        self.alive: dict[str, bool] = {}
        self.events = 0
        self.segment_bytes = 0
        self.blobs: dict[str, int] = {}
        self.dropped = 0
        self.marker_ok = False
        self.flock = False
        self._births: dict[str, str] = {}
        self._last_at: dict[str, datetime] = {}
        self._decoders: dict[str, Any] = {kind: msgspec.json.Decoder(event) for kind, event in events.KINDS.items()}
        self._started: set[str] = set()
        self._status: dict[str, tuple[tuple[int, str, int], str]] = {}
        self._wanted: dict[str, tuple[int | None, str]] = {}
        self._newer: Counter[str] = Counter()
        self._listed: Counter[tuple[str, str]] = Counter()

    def say(self, level: Level, what: str, *, where: str = "", cost: str = "", hint: str = "") -> None:
        """Add a finding."""
        self.findings.append(Finding(level=level, what=what, where=where, cost=cost, hint=hint))

    # -- the folder --------------------------------------------------------------------------------------------------

    def marker(self) -> None:
        """Whether this is a store at all, and of a format that we know."""
        path = os.path.join(self.store.path, MARKER)
        if not os.path.lexists(path):
            self._no_store()
        try:
            with open(path, "rb") as file:
                content = file.read(4096)
        except OSError as problem:
            self.say("error", f"the marker cannot be read ({problem.strerror})", where=path, hint="check who may read it")
            return
        self.marker_ok = content == MARKER_BYTES
        if self.marker_ok:
            self.say("ok", "the marker is there, format 1", where=path)
        elif MARKER_BYTES.startswith(content):
            self.say(
                "warning",
                "the marker was cut short",
                where=path,
                cost="nothing",
                hint="the next command that opens the store writes it again",
            )
        else:
            self.say(
                "error",
                f"the marker is of another format: {content[:60]!r}",
                where=path,
                hint="this store needs a newer version of ailab",
            )

    def _no_store(self) -> None:
        path = self.store.path
        if not os.path.lexists(path):
            raise StoreError("no store here", path=path, hint="log a run first, or name the store with AILAB_DIR or --dir")
        if not os.path.isdir(path):
            raise ForeignFolderError(
                "a file stands where the store should be", path=path, hint="name a folder with AILAB_DIR or --dir"
            )
        raise ForeignFolderError(
            "this folder is no ailab store", path=path, hint=f"a store has a file {MARKER}; name another with --dir"
        )

    def strangers(self) -> None:
        """Files that are not ours, and what killed writers left."""
        for entry in _entries(self.store.path):
            if entry.name not in _BELONGS:
                self._stranger(entry.path)
        for entry in _entries(self.store.segments):
            if not entry.name.endswith(SEGMENT_SUFFIX):
                self._stranger(entry.path)

    def _stranger(self, path: str) -> None:
        if self._listing("stranger", ""):
            self.say(
                "note",
                "a file that does not belong to the store",
                where=path,
                cost="nothing: it is not read",
                hint="move it elsewhere",
            )

    def _listing(self, kind: str, path: str) -> bool:
        """Whether one more finding of this kind and file is to be listed singly."""
        self._listed[kind, path] += 1
        return self._listed[kind, path] <= PER_FILE

    # -- segments ----------------------------------------------------------------------------------------------------

    def all_segments(self) -> None:
        """Read every segment; then judge what only all of them together tell."""
        try:
            self.names = self.store.segment_names()
        except OSError as problem:
            self.say("error", f"the segments cannot be listed ({problem.strerror})", where=self.store.segments, cost="every run")
        before = len(self.findings)
        for name in self.names:
            self._segment(name)
        self._missing_segments()
        if not any(finding.level in {"warning", "error"} for finding in self.findings[before:]):
            self.say(
                "ok", f"every line of {_count(len(self.segments), 'segment')} is as it was written", where=self.store.segments
            )
        self._more()
        self._runs()
        if self._newer:
            kinds = ", ".join(sorted(self._newer))
            self.say(
                "note", f"{_count(sum(self._newer.values()), 'event')} of kinds that this version does not know: {kinds}",
                cost="nothing: they are kept", hint="a newer version of ailab shows them",
            )  # fmt: skip

    def _segment(self, name: str) -> None:
        path = self.store.segment_path(name)
        segment = Segment(name, path, hashed=True)
        try:
            with open(path, "rb") as file:
                lines = _Lines(file)
                if not self._read(segment, lines):
                    return
                alive = segment.footer is None and writer_alive(segment)
                if not alive:
                    self._read(segment, lines)  # what its writer wrote between our last look and its end
        except OSError as problem:
            self._damage(segment, DamageError("unreadable", path=path, detail=problem.strerror or str(problem)))
            return
        except msgspec.DecodeError as problem:
            place = DamageError("bad-json", path=path, line=segment.line, offset=segment.offset, detail=str(problem))
            self._damage(segment, place)
            alive = False
        self.segments[name] = segment
        self.segment_bytes += lines.read
        self.alive[name] = alive
        self._judge(segment, lines.rest)

    def _read(self, segment: Segment, lines: _Lines) -> bool:
        """Take all that is there now; return whether the segment counts, which a copy of another one does not."""
        for data in lines:
            fresh = segment.header is None
            block = _Block(segment.path, data, segment.line, segment.offset)
            found = segment.feed(data)
            if fresh and self._is_copy(segment):
                return False
            for envelope in found:
                self._clock_step(block, envelope)
                self._take(segment, envelope, block)
        return True

    def _judge(self, segment: Segment, rest: int) -> None:
        """Findings about a segment that was read to its end; `rest` bytes stand behind its last newline."""
        for problem in segment.problems:
            self._damage(segment, problem)
        if rest and (segment.footer is not None or not self.alive[segment.name]):
            kind, what = ("gap", "stand behind the footer") if segment.footer is not None else ("torn-tail", "without an end")
            said = f"{_count(rest, 'byte')} {what}"
            self._damage(segment, DamageError(kind, path=segment.path, line=segment.line + 1, offset=segment.offset, detail=said))
        if segment.line == 0 and not rest and not self.alive[segment.name]:
            self.say(
                "note", "an empty segment", where=segment.path, cost="nothing", hint="its writer was killed before its first line"
            )

    def _damage(self, segment: Segment, problem: DamageError) -> None:
        level, cost, hint = _DAMAGE[problem.kind]
        if segment.footer is not None and problem.line == segment.line and problem.kind in {"gap", "bad-checksum"}:
            cost = "what is named above, or lines that are gone without a trace"  # the footer speaks of the whole file
        if self._listing(problem.kind, problem.path):
            where = f"{problem.path}:{problem.line}:{problem.offset}" if problem.line else problem.path
            self.say(
                level, f"{problem.kind}: {problem.detail}" if problem.detail else problem.kind, where=where, cost=cost, hint=hint
            )

    def _is_copy(self, segment: Segment) -> bool:
        """Whether another file holds the segment of this birth; the one that kept its name counts, else the first."""
        if segment.header is None:
            return False
        birth = segment.header.segment
        if segment.name != birth and (birth in self.names or birth in self._births):
            other = self.store.segment_path(self._births.get(birth, birth))
            self.say(
                "note",
                "a copy of another segment",
                where=segment.path,
                cost="nothing: events count once",
                hint=f"the other is {other}",
            )
            return True
        self._births[birth] = segment.name
        if segment.name != birth:
            self.say(
                "note", "a segment under another name", where=segment.path, cost="nothing", hint=f"its writer called it {birth}"
            )
        return False

    def _clock_step(self, block: _Block, envelope: Envelope) -> None:
        """Say where the writer's clock went backwards."""
        before = self._last_at.get(block.path)
        self._last_at[block.path] = envelope.at
        if before is None or envelope.at >= before or not self._listing("clock", block.path):
            return
        back = before - envelope.at
        self.say(
            "note" if back < timedelta(seconds=1) else "warning",
            f"the clock went back by {back.total_seconds():.3f} s at {envelope.at.isoformat()}",
            where=block.place(envelope),
            cost="times and durations around it are not exact; the order of events is",
            hint="see whether this machine's clock is synchronised",
        )

    def _take(self, segment: Segment, envelope: Envelope, block: _Block) -> None:
        """Count one event, and keep what later findings need."""
        self.events += 1
        decoder = self._decoders.get(envelope.kind)
        if decoder is None:
            if envelope.kind not in events.RESERVED:
                self._newer[envelope.kind] += 1
            return
        try:
            event = decoder.decode(envelope.data)
        except (msgspec.DecodeError, RecursionError) as problem:
            if self._listing("payload", segment.path):
                self.say(
                    "error",
                    f"{envelope.kind} does not fit its kind: {problem}",
                    where=block.place(envelope),
                    cost="this event",
                    hint="a newer version may have written it",
                )
            return
        if isinstance(event, events.WritesDropped):
            self._lost(event, block.place(envelope))
        self._blobs_of(event, envelope)
        self._status_of(segment, event, envelope)

    def _lost(self, event: events.WritesDropped, where: str) -> None:
        self.dropped += event.count
        if self._listing("dropped", ""):
            self.say(
                "warning", f"{_count(event.count, 'point')} could not be written: {event.error}", where=where,
                cost=f"the points logged from {event.first:%Y-%m-%d %H:%M:%S} to {event.last:%H:%M:%S} UTC",
                hint="see that the disk has room and that the store can be written",
            )  # fmt: skip

    def _blobs_of(self, event: events.Event, envelope: Envelope) -> None:
        if isinstance(event, events.ArtifactAdded):
            if not event.reference:
                self._wanted[event.sha256] = (event.size, f"artifact {event.path} of run {envelope.run}")
        elif isinstance(event, events.RunStarted | events.RunResumed | events.EnvironmentCaptured | events.CodeCaptured):
            for field in ("environment", "code"):
                digest = getattr(event, field, None)
                if digest:
                    self._wanted.setdefault(digest, (None, f"{field} of run {envelope.run}"))

    def _status_of(self, segment: Segment, event: events.Event, envelope: Envelope) -> None:
        """The status with the greatest place counts, as in the views."""
        if envelope.run is None:
            return
        if isinstance(event, events.RunStarted):
            self._started.add(envelope.run)
        status = "running" if isinstance(event, events.RunResumed) else None
        if isinstance(event, events.RunStarted | events.RunChanged | events.RunFinished):
            status = event.status
        place = (envelope.clock, segment.birth, envelope.seq)
        if status is not None and (envelope.run not in self._status or place >= self._status[envelope.run][0]):
            self._status[envelope.run] = (place, status)

    def _missing_segments(self) -> None:
        """Segments that another one names and that are not here."""
        there = {*self.names, *self._births}
        for segment in self.segments.values():
            before = segment.header.previous if segment.header else None
            after = segment.footer.next if segment.footer else None
            if before and before not in there:
                self.say(
                    "error",
                    f"segment {before} is missing",
                    where=segment.path,
                    cost="its events",
                    hint="this one follows it; take it from a copy of the store",
                )
            if after and after not in there:
                self.say(
                    "note",
                    f"segment {after} is not here",
                    where=segment.path,
                    cost="nothing, if its writer was killed just then",
                    hint="it was to follow this one",
                )

    def _more(self) -> None:
        """Say how many findings were not listed singly."""
        for (kind, path), count in self._listed.items():
            if count > PER_FILE and kind != "stranger":
                level: Level = _DAMAGE[kind][0] if kind in _DAMAGE else "note"
                self.say(level, f"{kind}: {count - PER_FILE} more", where=path)

    def _runs(self) -> None:
        crashed = [run for run, status in self._run_states() if status == "crashed"]
        if crashed:
            some = ", ".join(crashed[:5]) + (f" and {len(crashed) - 5} more" if len(crashed) > 5 else "")  # noqa: PLR2004
            self.say(
                "note",
                f"{_count(len(crashed), 'run')} without an end, the writer gone: {some}",
                cost="nothing that was logged",
                hint="shown as crashed",
            )

    def _run_states(self) -> Iterator[tuple[str, str]]:
        living = {segment.run for name, segment in self.segments.items() if self.alive[name]}
        for run in sorted(self._started):
            status = self._status[run][1]
            yield run, status if status in ENDED or run in living else "crashed"

    # -- blobs -------------------------------------------------------------------------------------------------------

    def all_blobs(self) -> None:
        """Whether the files that runs refer to are there, and nothing else is."""
        for folder in _entries(self.store.blobs):
            if len(folder.name) == _FOLDER_NAME and folder.is_dir():
                for entry in _entries(folder.path):
                    self._blob(entry, folder.name)
            else:
                self._no_blob(folder)
        missing = [(digest, owner) for digest, (_, owner) in self._wanted.items() if digest not in self.blobs]
        for digest, owner in missing[:PER_FILE]:
            self.say(
                "warning",
                f"the bytes of {owner} are not here",
                where=self.store.blob_path(digest),
                cost="this file; the run is shown",
                hint="copy blobs/ too",
            )
        if len(missing) > PER_FILE:
            self.say("warning", f"the bytes of {len(missing) - PER_FILE} more files are not here", where=self.store.blobs)
        wrong = [
            (d, size, owner) for d, (size, owner) in self._wanted.items() if size is not None and self.blobs.get(d, size) != size
        ]
        for digest, size, owner in wrong[:PER_FILE]:
            what = f"{owner} has {self.blobs[digest]} bytes, {size} were kept"
            self.say("error", what, where=self.store.blob_path(digest), cost="this file", hint="take it from a copy of the store")
        if self._wanted and not missing and not wrong:
            self.say(
                "ok", f"{_count(len(self._wanted), 'file')} that runs refer to are there, in their size", where=self.store.blobs
            )

    def _blob(self, entry: os.DirEntry[str], folder: str) -> None:
        if blobs.is_digest(entry.name) and entry.name.startswith(folder) and entry.is_file():
            self.blobs[entry.name] = entry.stat().st_size
        else:
            self._no_blob(entry)

    def _no_blob(self, entry: os.DirEntry[str]) -> None:
        if not entry.name.startswith(".tmp-"):
            self._stranger(entry.path)
        elif time.time() - entry.stat().st_mtime > LEFTOVER_SECONDS and self._listing("leftover", ""):
            self.say(
                "note",
                "a temporary file that a killed writer left",
                where=entry.path,
                cost="its bytes on the disk",
                hint="it can be removed",
            )

    # -- what the store stands on ------------------------------------------------------------------------------------

    def machine(self) -> None:
        """Room, rights, locks, git, packages."""
        self.free_bytes = shutil.disk_usage(self.store.path).free
        if self.free_bytes < FREE_LOW:
            level: Level = "error" if self.free_bytes < FREE_NONE else "warning"
            self.say(
                level,
                f"{self.free_bytes >> 20} MiB are free on this disk",
                where=self.store.path,
                hint="points are dropped when it is full",
            )
        if not os.access(self.store.segments if os.path.isdir(self.store.segments) else self.store.path, os.W_OK):
            self.say(
                "warning",
                "the store cannot be written by this user",
                where=self.store.path,
                cost="nothing new can be logged",
                hint="reading works",
            )
        self.flock = _flock_works(os.path.join(self.store.path, MARKER))
        if self.flock:
            self.say("ok", "flock works on this file system", where=self.store.path)
        else:
            self.say(
                "note",
                "flock does not work on this file system",
                where=self.store.path,
                cost="nothing",
                hint="whether a writer lives is told by its process, on another host by silence",
            )
        self.git = shutil.which("git")
        if self.git:
            self.say("ok", "git is found", where=self.git)
        else:
            self.say("note", "git is not found", cost="runs keep their script instead of commit and diff", hint="install git")
        self.versions = _versions()
        for name in [name for name, version in self.versions.items() if version is None]:
            self.say("error", f"{name} is not installed", cost="nothing can be read", hint="pip install ailab")

    def settings(self) -> None:
        """Whether everything that sets something parses."""
        before = len(self.findings)
        dotenv = _nearest(".env")
        lines = self._dotenv(dotenv) if dotenv else {}
        problems: list[Exception] = []
        settings.load(problems=problems)
        for problem in problems:
            if isinstance(problem, SettingError):
                name = problem.message.split(" ", 1)[0].rstrip(":")
                where = f"{dotenv}:{lines[name]}" if name in lines and " in .env" in problem.message else ""
                self.say("error", problem.message, where=where, cost="the default holds instead", hint=problem.hint)
            else:
                path = getattr(problem, "filename", None) or ""
                self.say("error", f"settings cannot be read: {problem}", where=path, hint="check who may read it")
        known = {variable for field in settings.Settings.__struct_fields__ for variable in settings.variables(field)}
        for name in sorted({*os.environ, *lines}):
            if name.startswith("AILAB_") and name not in known:
                where = f"{dotenv}:{lines[name]}" if name in lines else "environment"
                self.say(
                    "note", f"no setting {name}", where=where, cost="it sets nothing", hint=f"allowed: {', '.join(sorted(known))}"
                )
        if len(self.findings) == before:
            self.say("ok", "the settings parse", where=dotenv or "")

    def _dotenv(self, path: str) -> dict[str, int]:
        """Line number by name; lines that are no `NAME=value` are said."""
        found: dict[str, int] = {}
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                lines = file.read().splitlines()
        except OSError as problem:
            self.say(
                "warning",
                f".env cannot be read ({problem.strerror})",
                where=path,
                cost="it sets nothing",
                hint="check who may read it",
            )
            return found
        for number, line in enumerate(lines, 1):
            name, equals, _ = line.strip().removeprefix("export ").partition("=")
            if equals:
                found[name.strip()] = number
            elif line.strip() and not line.lstrip().startswith("#"):
                self.say("note", "a line that is no NAME=value", where=f"{path}:{number}", cost="it sets nothing")
        return found

    # -- the answer --------------------------------------------------------------------------------------------------

    def checkup(self) -> Checkup:
        """All of it."""
        sealed = sum(segment.footer is not None for segment in self.segments.values())
        live = sum(self.alive.values())
        return Checkup(
            store=self.store.path, marker_ok=self.marker_ok, segments=len(self.segments), sealed=sealed, live=live,
            unsealed=len(self.segments) - sealed - live, events=self.events,
            runs=dict(sorted(Counter(status for _, status in self._run_states()).items())), points_dropped=self.dropped,
            segment_bytes=self.segment_bytes, blobs=len(self.blobs), blob_bytes=sum(self.blobs.values()),
            free_bytes=self.free_bytes, flock=self.flock, git=self.git, versions=self.versions, findings=self.findings,
        )  # fmt: skip


def _entries(path: str) -> list[os.DirEntry[str]]:
    """What is in a folder, by name; [] where there is none or it cannot be read."""
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def _flock_works(path: str) -> bool:
    """Whether the file system of `path` has locks; a shared one is taken and let go at once."""
    if fcntl is None:
        return False
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def _nearest(name: str) -> str | None:
    """The file `name` in the working folder, or in the nearest folder above it that has one."""
    folder = os.getcwd()
    while not os.path.isfile(os.path.join(folder, name)):
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent
    return os.path.join(folder, name)


def _versions() -> dict[str, str | None]:
    """Versions of what answers are made with; None where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {"ailab": __version__, "python": sys.version.split()[0]}
    for name in ("duckdb", "pyarrow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
