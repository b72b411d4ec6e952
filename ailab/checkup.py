"""What `ailab doctor` asks: is this store whole, what is damaged, what did it cost, and does the machine do its part.

Reads every segment once from its first byte and trusts nothing that another reader has computed: it needs neither DuckDB nor
a catalogue, so it still answers where those do not. It writes nothing, not even a marker that was cut short, and takes no
lock longer than it takes to see whether locks work. Of tables it hashes the bytes and believes what commit records say of
them; `ailab verify` reads the tables themselves. Where a server is set that runs are shipped to, it is asked what it lacks.
One bad file costs its own finding and nothing else. The store may be written to meanwhile: a torn last line of a living
writer is normal and is no finding. Not asked here: whether every blob has the bytes of its name; only whether those that runs
refer to are there, artifacts in their right size.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from . import blobs, commits, events, settings, surroundings
from .damage import EFFECTS, FROM_COPY, effect_of
from .errors import DamageError, ForeignFolderError, StoreError
from .journal import Segment, writer_alive
from .segments import Blocks, stated_crc
from .store import MARKER, MARKER_BYTES, SEGMENT_SUFFIX, Store, find_store, open_plain, run_of_segment, size_of
from .surroundings import Level  # noqa: TC001  (msgspec reads the annotations of Structs at run time)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .commits import Chosen
    from .journal import Envelope

NEWLINE = b"\n"
PER_FILE = 10
"""Findings of one kind that are listed singly; the others are counted."""
LEFTOVER_SECONDS = 3600.0
"""A temporary file that is older was left by a writer that is gone."""
WAITING_MANY = 100
"""So many segments that could lie in tables make reading slower than it need be."""
WAITING_BYTES = 64 << 20
ENDED = frozenset({"completed", "failed", "killed"})
_BELONGS = frozenset({MARKER, "README.md", ".gitignore", "segments", "blobs", "compacted", "claims", "cache", "schema"})
_FOLDER_NAME = 2
_LEVELS: Mapping[str, Level] = {kind: effect.level for kind, effect in EFFECTS.items()} | {"duplicate": "warning"}
"""By the kind of damage; a line that is there twice costs nothing, and so leaves a store as good as it was."""


class Finding(msgspec.Struct, kw_only=True, omit_defaults=False):
    """One thing that was looked at: `where` is path:line:byte as far as it is known, `cost` what is lost by it."""

    level: Level
    what: str
    where: str = ""
    cost: str = ""
    hint: str = ""


class _Snapshot(msgspec.Struct):
    """What is told of the record of a snapshot."""

    at: float
    runs: int
    seconds: float


class Checkup(msgspec.Struct, kw_only=True):
    """How a store is. `unsealed` segments have no footer and no living writer; `runs` counts them by status, trashed ones too.

    What lies in tables alone is counted by what commit records say: lines are among `events`, `runs_in_tables` are those whose
    segments are gone and that `runs` does not count. `waiting` segments could be compacted.
    """

    store: str
    marker_ok: bool
    segments: int
    sealed: int
    live: int
    unsealed: int
    events: int
    runs: dict[str, int]
    runs_in_tables: int
    points_dropped: int
    segment_bytes: int
    commits: int
    compacted_lines: int
    compacted_bytes: int
    cache_bytes: int
    waiting: int
    waiting_bytes: int
    last_compaction: datetime | None
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


class _Left(msgspec.Struct, frozen=True):
    name: str
    why: str


class _Done(msgspec.Struct, frozen=True):
    left: list[_Left] = []


class _LastCompaction(msgspec.Struct, frozen=True):
    """What the last compaction keeps of itself in the cache, as far as it is asked here."""

    at: datetime
    done: _Done


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
    look.tables()
    look.all_segments()
    look.compaction()
    look.all_blobs()
    look.strangers()
    look.snapshots()
    look.machine = surroundings.machine(look.store, look.say)
    surroundings.settings_that_hold(look.say)
    surroundings.servers(look.store, look.chosen, look.say)
    return look.checkup()


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
        self.machine = surroundings.Machine(0, False, None, {})
        self.chosen: Chosen = {}
        self.commits = 0
        self.compacted_lines = 0
        self.runs_in_tables: set[str] = set()
        self.waiting: list[int] = []
        self.last_compaction: datetime | None = None
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
                self._no_blob(entry)

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

    # -- tables ------------------------------------------------------------------------------------------------------

    def tables(self) -> None:
        """What commit records say: which segments lie in tables, and how much that is."""
        records, problems = commits.load(self.store)
        for name, record in list(records.items()):
            try:
                commits.check_tables(self.store, record)
            except DamageError as ruined:
                problems.append(ruined)
                del records[name]
        self.commits = len(records)
        self.chosen = commits.choose(records)
        if records:
            self.say(
                "ok",
                f"the tables of {_count(len(records), 'commit record')} are as they were written",
                where=self.store.compacted,
            )
        for problem in problems:
            self._damage(Segment("", problem.path), problem)
        there = set(self.store.segment_names())
        for name, spans in self.chosen.items():
            if name not in there:
                self.compacted_lines += spans[-1][1].lines
                run = run_of_segment(name)
                if run is not None:
                    self.runs_in_tables.add(run)

    def compaction(self) -> None:
        """What the last compaction left, and what waits for the next one."""
        for name, segment in self.segments.items():
            covered = self.chosen[segment.birth][-1][1].end if segment.birth in self.chosen else 0
            if not self.alive[name] and segment.offset > covered:
                self.waiting.append(segment.offset - covered)
        if len(self.waiting) >= WAITING_MANY or sum(self.waiting) >= WAITING_BYTES:
            self.say(
                "note", f"{_count(len(self.waiting), 'segment')} wait for compaction, {sum(self.waiting) >> 10} KiB",
                where=self.store.segments, cost="a reader opens them one by one", hint="`ailab compact` makes reading faster",
            )  # fmt: skip
        path = os.path.join(self.store.cache, "compaction.json")
        try:
            with open(path, "rb") as file:
                last = msgspec.json.decode(file.read(), type=_LastCompaction)
        except (OSError, msgspec.DecodeError):  # never compacted, or the cache was deleted, or another version wrote it
            return
        self.last_compaction = last.at
        for left in last.done.left[:PER_FILE]:
            self.say("note", f"the last compaction left {left.name} as it is: {left.why}", cost="nothing: it is read as before")
        if len(last.done.left) > PER_FILE:
            self.say("note", f"the last compaction left {len(last.done.left) - PER_FILE} more", where=path)

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
                "ok",
                f"every whole line of {_count(len(self.segments), 'segment')} is as it was written",
                where=self.store.segments,
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
            with open_plain(path) as file:
                blocks = Blocks(file)
                if not self._read(segment, blocks):
                    return
                alive = segment.footer is None and writer_alive(segment)
                if not alive:
                    self._read(segment, blocks)  # what its writer wrote between our last look and its end
        except OSError as problem:
            self._damage(segment, DamageError("unreadable", path=path, detail=problem.strerror or str(problem)))
            return
        except msgspec.DecodeError as problem:
            place = DamageError("bad-json", path=path, line=segment.line, offset=segment.offset, detail=str(problem))
            self._damage(segment, place)
            alive = False
        self.segments[name] = segment
        self.segment_bytes += blocks.read
        self.alive[name] = alive
        self._judge(segment, blocks.rest)

    def _read(self, segment: Segment, blocks: Blocks) -> bool:
        """Take all that is there now; return whether the segment counts, which a copy of another one does not."""
        for data in blocks:
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
            self._damage(segment, segment.problem_of_rest(rest))
        if segment.line == 0 and not rest and not self.alive[segment.name]:
            self.say(
                "note", "an empty segment", where=segment.path, cost="nothing", hint="its writer was killed before its first line"
            )

    def _damage(self, segment: Segment, problem: DamageError) -> None:
        _, cost, hint = effect_of(problem, segment)
        if problem.path.endswith(".parquet"):
            cost = "what is in it, unless segments still have it"
        if self._listing(problem.kind, problem.path):
            where = f"{problem.path}:{problem.line}:{problem.offset}" if problem.line else problem.path
            self.say(
                _LEVELS[problem.kind],
                f"{problem.kind}: {problem.detail}" if problem.detail else problem.kind,
                where=where,
                cost=cost,
                hint=hint,
            )

    def _is_copy(self, segment: Segment) -> bool:
        """Whether another file holds the segment of this birth; the one that kept its name counts, else the first."""
        if segment.header is None:
            return False
        birth = segment.header.segment
        if segment.name != birth and (birth in self.names or birth in self._births or birth in self.chosen):
            in_files = birth in self.names or birth in self._births
            other = self.store.segment_path(self._births.get(birth, birth)) if in_files else "in tables"
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
        there = {*self.names, *self._births, *self.chosen}
        for segment in self.segments.values():
            before = segment.header.previous if segment.header else None
            after = segment.footer.next if segment.footer else None
            if before and before not in there:
                self.say(
                    "error",
                    f"segment {before} is missing",
                    where=segment.path,
                    cost="its events",
                    hint=f"this one follows it; {FROM_COPY}",
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
                self.say(_LEVELS.get(kind, "note"), f"{kind}: {count - PER_FILE} more", where=path)

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
        own = {segment.run for segment in self.segments.values()}
        living = {segment.run for name, segment in self.segments.items() if self.alive[name]}
        for run in sorted(self._started):
            status = self._status[run][1]
            yield run, "crashed" if status not in ENDED and run in own and run not in living else status

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
                hint="copy blobs/ too, or `ailab merge` from a store that has them",
            )
        if len(missing) > PER_FILE:
            self.say("warning", f"the bytes of {len(missing) - PER_FILE} more files are not here", where=self.store.blobs)
        wrong = [
            (d, size, owner) for d, (size, owner) in self._wanted.items() if size is not None and self.blobs.get(d, size) != size
        ]
        for digest, size, owner in wrong[:PER_FILE]:
            what = f"{owner} has {self.blobs[digest]} bytes, {size} were kept"
            self.say("error", what, where=self.store.blob_path(digest), cost="this file", hint=FROM_COPY)
        if self._wanted and not missing and not wrong:
            self.say(
                "ok",
                f"{_count(len(self._wanted), 'file')} that runs refer to are there, artifacts in their size",
                where=self.store.blobs,
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

    def snapshots(self) -> None:
        """What the newest snapshot in the cache was computed from, and how long that took."""
        found = []
        for entry in _entries(self.store.cache):
            if not entry.name.endswith(".json"):
                continue
            with suppress(OSError, msgspec.DecodeError):
                with open(entry.path, "rb") as file:
                    content = file.read()
                if stated_crc(content[:-1]) is not None:
                    found.append((msgspec.json.decode(content, type=_Snapshot), entry.path))
        if found:
            newest, path = max(found, key=lambda one: one[0].at)
            what = f"snapshot of {_count(newest.runs, 'run')}, computed in {newest.seconds:.1f} s"
            self.say("ok", what, where=path)

    # -- the answer --------------------------------------------------------------------------------------------------

    def checkup(self) -> Checkup:
        """All of it."""
        sealed = sum(segment.footer is not None for segment in self.segments.values())
        live = sum(self.alive.values())
        return Checkup(
            store=self.store.path, marker_ok=self.marker_ok, segments=len(self.segments), sealed=sealed, live=live,
            unsealed=len(self.segments) - sealed - live, events=self.events + self.compacted_lines,
            runs=dict(sorted(Counter(status for _, status in self._run_states()).items())), points_dropped=self.dropped,
            runs_in_tables=len(self.runs_in_tables - self._started), commits=self.commits,
            compacted_lines=self.compacted_lines, compacted_bytes=size_of(self.store.compacted),
            cache_bytes=size_of(self.store.cache), waiting=len(self.waiting), waiting_bytes=sum(self.waiting),
            last_compaction=self.last_compaction,
            segment_bytes=self.segment_bytes, blobs=len(self.blobs), blob_bytes=sum(self.blobs.values()),
            **self.machine._asdict(), findings=self.findings,
        )  # fmt: skip


def _entries(path: str) -> list[os.DirEntry[str]]:
    """What is in a folder, by name; [] where there is none or it cannot be read."""
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
