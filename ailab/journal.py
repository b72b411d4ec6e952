"""How events lie on disk: append, sync, seal, scan. Bytes and lines; it knows nothing of machine learning.

A segment is one file of lines with one writer for its whole life: one process and one run, or one process and no run.
It is created exclusively, appended with one `write(2)` a line, never opened for writing again after its writer is gone,
and rotates at 16 MiB or one hour. Its first line is `segment.opened`, its last, when it ended in order, `segment.sealed`.

What holds. When `append` (or the function from `metrics_logger`) has returned, the line is in the kernel: kill -9 does not
lose it; with `durable=True` it is on the disk. `seq` has no gaps and is used up only by a line that was written whole.
A torn line is followed by a newline before anything else is written, so it never takes a neighbour with it. A write that
fails does not raise (unless `strict`): it is counted and said in a `writes.dropped` line as soon as one can be written;
events other than points are kept in memory meanwhile and written first. After an interrupt at any instruction, the file
is the truth: the next call reads the last line back and goes on from there. After a fork the child closes the inherited
file (never unlocks it) and writes a segment of its own.

Who writes: `Writer`, one per segment. Who reads: `Tail` (views, by offset), `scan` (doctor, tests). Readers take no lock
that a writer waits for longer than microseconds, and never write. What is not promised: power loss between two syncs may
cost the end of a segment; and a line's checksum is a CRC, so it tells damage, not intent.
"""

from __future__ import annotations

import os
import time
from _thread import RLock
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from zlib import crc32

import msgspec

from . import __version__, events
from .errors import DamageError, StoreError, is_from_signal_handler
from .store import run_of_segment, segment_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .store import Store

try:
    import fcntl
except ImportError:  # Windows: nothing here depends on flock, it only answers sooner
    fcntl = None  # type: ignore[assignment]

SEGMENT_BYTES = 16 << 20
SEGMENT_SECONDS = 3600.0
LOOK_EVERY = 4096
"""Lines between two looks at the size and age of a segment."""
RETRY_SECONDS = 1.0
"""Pause after a segment could not be created, before the next try."""
WARN_SECONDS = 60.0
KEPT_MAX = 10_000
"""Events other than points that are kept in memory while nothing can be written."""
SILENCE_SECONDS = 60.0
"""A writer on another host that added nothing for so long is taken as gone."""

_UTC = timezone.utc
_encoder = msgspec.json.Encoder()
_flush: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)
_TAIL = b"}\n"
_MARK = b'"crc":'

_open_writers: set[Writer] = set()


def encode_line(line: events.Line) -> tuple[bytes, int]:
    """Encode a line with its checksum; return (bytes with the newline, crc). `line.crc` must be 0."""
    body = _encoder.encode(line)
    crc = crc32(body)
    return body[:-2] + b"%d}\n" % crc, crc


def stated_crc(line: bytes) -> int | None:
    """The checksum that a line (without newline) states, or None unless its bytes have that checksum."""
    at = line.rfind(_MARK)
    if at < 0:
        return None
    crc = crc32(b"0}", crc32(line[: at + 6]))
    return crc if line[at + 6 :] == b"%d}" % crc else None


class _Late(msgspec.Struct, frozen=True):
    """An event that waits until something can be written."""

    event: events.Event
    run: str | None
    by: str | None
    via: str | None


class Writer:
    """Append events to segments of `store`, one segment at a time.

    Args:
        store: the store; nothing is touched before the first event.
        run: the run that this writer belongs to, or None (server, command line, assistant).
        via: sdk, cli, http, agent, import or server.
        by: the person or token, where there is one.
        durable: flush every line to the disk before returning.
        strict: raise StoreError where an event cannot be written.
        warn: called with a sentence when events cannot be written, at most once a minute.
    """

    def __init__(  # each is a property of the writer that cannot be derived
        self,
        store: Store,
        *,
        run: str | None = None,
        via: str = "sdk",
        by: str | None = None,
        durable: bool = False,
        strict: bool = False,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.store = store
        self.run = run
        self.via = via
        self.by = by
        self.durable = durable
        self.strict = strict
        self.name = ""
        self.dropped = 0
        self._warn = warn
        self._pid = 0
        self._opened_at = 0.0
        self._torn = False
        self._forked_from: str | None = None
        self._header: events.SegmentOpened | None = None
        self._retry: tuple[float, tuple[Any, ...]] | None = None
        self._warned_at = -WARN_SECONDS
        self._late: list[_Late] = []
        self._deferred: list[_Late] = []
        self._lost: list[Any] = [0, "", None, None]
        self._sealed = False
        self._build()

    def _build(self) -> None:  # noqa: C901, PLR0915  (one scope, because the closures share its cells)
        """Make the state and the fast path that shares it: closure cells are the cheapest place Python has."""
        fd, seq, prev, lead, look_at, dirty, lock = -1, 0, 0, 0, 0, True, RLock()
        buffer = bytearray(4096)
        write, into, now, utc, tail, length, crc_of = os.write, _encoder.encode_into, datetime.now, _UTC, _TAIL, len, crc32
        line, payload, kind = events.Line, events.MetricsLogged, events.MetricsLogged.kind

        def get() -> tuple[int, int, int, int, bool]:
            return fd, seq, prev, lead, dirty

        def put(new_fd: int, new_seq: int, new_prev: int, new_look_at: int, new_dirty: bool) -> None:  # noqa: FBT001
            nonlocal fd, seq, prev, look_at, dirty
            fd, seq, prev, look_at, dirty = new_fd, new_seq, new_prev, new_look_at, new_dirty

        def set_lead(new_lead: int) -> None:
            nonlocal lead
            lead = new_lead

        def get_lock() -> Any:
            return lock

        def renew_lock() -> None:
            nonlocal lock
            lock = RLock()

        def soil() -> None:
            """Send the next call, and one that is under way, to the slow path."""
            nonlocal look_at, dirty
            look_at, dirty = 0, True

        def metrics_logger(run: str, slow: Callable[[Any, Any, Any], None]) -> Callable[..., None]:
            def log(values: Any, step: Any = None, time: Any = None, commit: Any = None) -> None:  # noqa: ARG001
                """Append one `metrics.logged` line: 1.5 times the cost of encoding it and one write (tests/bench)."""
                nonlocal seq, prev, dirty
                data = None
                try:
                    total = sum(values.values())
                    if not total - total and (step.__class__ is int or step is None) and time is None:  # no NaN, no infinity
                        with lock:
                            if not dirty:
                                dirty = True
                                data = buffer
                                try:
                                    into(
                                        line(seq, now(utc), seq + lead, kind, run, None, None, payload(values, step), prev, 0),
                                        data,
                                    )
                                except BaseException:
                                    dirty = False  # nothing was written
                                    raise
                                crc = crc_of(data)
                                into(crc, data, length(data) - 2)
                                data += tail
                                if write(fd, data) == length(data):
                                    prev = crc
                                    seq += 1
                                    dirty = seq >= look_at
                                    return
                except Exception as problem:
                    if is_from_signal_handler(problem):
                        raise  # not ours: a signal handler of the caller's raised it in here
                slow(values, step, time)

            return log

        self._get, self._put, self._set_lead, self._soil = get, put, set_lead, soil
        self._lock, self._renew_lock = get_lock, renew_lock
        self.metrics_logger = metrics_logger
        """`metrics_logger(run, slow)` makes the function behind `run.log`; `slow` gets what the fast path cannot write."""

    # -- appending ---------------------------------------------------------------------------------------------------

    def append(
        self, event: events.Event, *, run: str | None = None, by: str | None = None, via: str | None = None, final: bool = False
    ) -> str | None:
        """Append one event; return its id `SEGMENT:SEQ`, or None when it could not be written now.

        `final` is for a signal handler that ends the process: it writes even where the handler has interrupted a write.

        Raises:
            StoreError: only with `strict`.
        """
        lock = self._lock()
        nested = lock._is_owned()  # the only way to know that a signal handler interrupted our own write
        late = _Late(event, run if run is not None else self.run, by, via)
        with lock:
            if nested and not final:
                self._deferred.append(late)
                self._soil()
                return None
            return self._append(late)

    def observe(self, clock: int) -> None:
        """Make the next event later than one with this Lamport clock."""
        with self._lock():
            _, seq, _, lead, _ = self._get()
            self._set_lead(max(lead, clock + 1 - seq))

    def _append(self, late: _Late) -> str | None:
        try:
            if self._sealed:
                raise OSError(0, "the segment is sealed")
            self._ready()
            self._settle_debts()
            written = self._write(late)
        except OSError as problem:
            if is_from_signal_handler(problem):
                raise
            self._drop(late, problem)
            return None
        if self._deferred:  # a signal handler has logged while this was written
            self._append(self._deferred.pop())
        return written

    def _ready(self) -> None:
        """Open, take up again after a fork or an interrupt, or rotate, as needed."""
        fd, _, _, _, dirty = self._get()
        if fd < 0:
            self._open()
        elif dirty:
            self._recover()
            if self._header is not None and self._get()[1] == 0:  # it could not be written when the segment was opened
                self._write(_Late(self._header, self.run, None, None))
            size = os.fstat(fd).st_size
            if size >= SEGMENT_BYTES or time.monotonic() - self._opened_at >= SEGMENT_SECONDS:
                self._rotate()

    def _settle_debts(self) -> None:
        while self._deferred or self._late:
            queue = self._late or self._deferred
            self._write(queue[0])
            del queue[0]
        count, error, first, last = self._lost
        if count:
            self._write(_Late(events.WritesDropped(count=count, error=error, first=first, last=last), self.run, None, None))
            self._lost = [0, "", None, None]

    def _write(self, late: _Late, *, last: bool = False) -> str:
        fd, seq, prev, lead, _ = self._get()
        line = events.Line(seq, datetime.now(_UTC), seq + lead, late.event.kind, late.run, late.by, late.via, late.event, prev, 0)
        try:
            data, crc = encode_line(line)
        except UnicodeEncodeError:  # a name or text with lone surrogates, as the file system hands out
            data, crc = encode_line(msgspec.structs.replace(line, data=_without_surrogates(msgspec.to_builtins(late.event))))
        self._soil()
        self._put_bytes(fd, b"\n" + data if self._torn else data)
        self._torn = False
        # with `durable` the fast path is never taken: its call would return before the flush; and none is taken after a footer
        self._put(fd, seq + 1, crc, 0 if self.durable else self._next_look(fd, seq), self.durable or last)
        if self.durable:
            self._make_durable(fd)
        return f"{self.name}:{seq}"

    def _make_durable(self, fd: int) -> None:
        """Flush; a flush that failed is never tried again as if it could succeed: the next line goes to a new segment."""
        try:
            _flush(fd)
        except OSError as problem:
            self._opened_at = -SEGMENT_SECONDS
            message = f"{self.name} could not be flushed to the disk: {_reason(problem)}"
            if self.strict:
                raise StoreError(message, path=self.store.segment_path(self.name)) from problem
            self._say_seldom(f"{message}; a new segment is begun")

    def _next_look(self, fd: int, seq: int) -> int:
        """The seq at which size and age are looked at again: soon enough not to pass the size by much."""
        mean = max(64, os.fstat(fd).st_size // (seq + 1))
        return seq + 1 + min(LOOK_EVERY, 1 + max(0, SEGMENT_BYTES - os.fstat(fd).st_size) // mean)

    def _put_bytes(self, fd: int, data: bytes) -> None:
        """Write all of `data`, going on after a short write; what stays torn is marked before the error goes up."""
        view = memoryview(data)
        while view:
            try:
                done = os.write(fd, view)
            except OSError:
                self._torn = self._torn or len(view) < len(data)
                raise
            view = view[done:]

    def _drop(self, late: _Late, problem: OSError) -> None:
        """Count an event that could not be written; keep it in memory unless it is a point."""
        if isinstance(late.event, events.MetricsLogged) or len(self._late) >= KEPT_MAX:
            self.dropped += 1
            now = datetime.now(_UTC)
            self._lost = [self._lost[0] + 1, str(problem)[:500], self._lost[2] or now, now]
        elif not self.strict:  # with it the caller knows, and must not find later what he was told had failed
            self._late.append(late)
        self._soil()
        message = f"events cannot be written to {self.name or self.store.segments}: {_reason(problem)}"
        if self.strict:
            raise StoreError(message, path=self.store.path) from problem
        self._say_seldom(f"{message}; training goes on, {self.dropped} points dropped so far")

    def _say_seldom(self, message: str) -> None:
        if self._warn is not None and time.monotonic() - self._warned_at >= WARN_SECONDS:
            self._warned_at = time.monotonic()
            self._warn(message)

    # -- a segment's life --------------------------------------------------------------------------------------------

    def _open(self, *, previous: str | None = None, name: str = "") -> None:
        if self._retry is not None and time.monotonic() < self._retry[0]:
            raise OSError(*self._retry[1])
        from . import capture  # what a segment's header says of its process

        pid = os.getpid()
        name = name or segment_name(host=capture.host_name(), pid=pid, run=self.run)
        _open_writers.add(self)  # before the file is there: a fork in between must not leave the child a lock that is held
        header = events.SegmentOpened(
            format=events.FORMAT, segment=name, ailab=__version__, host=capture.host_name(), pid=pid, user=capture.user_name(),
            boot=capture.boot_id(), started=capture.process_start(pid), via=self.via, by=self.by, previous=previous,
            forked_from=self._forked_from,
        )  # fmt: skip
        try:
            fd = self._create(name)
        except OSError as problem:
            self._retry = (time.monotonic() + RETRY_SECONDS, (problem.errno, problem.strerror, problem.filename))
            raise
        self.name, self._pid, self._opened_at, self._torn = name, pid, time.monotonic(), False
        self._header, self._forked_from, self._retry = header, None, None
        self._put(fd, 0, 0, 0, True)
        self._write(_Late(header, self.run, None, None))
        if self.durable:
            sync_folder(self.store.segments)

    def _create(self, name: str) -> int:
        path = self.store.segment_path(name)
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        try:
            fd = os.open(path, flags, 0o666)
        except FileNotFoundError:
            os.makedirs(self.store.segments, exist_ok=True)
            fd = os.open(path, flags, 0o666)
        _take_lock(fd)
        return fd

    def _recover(self) -> None:
        """Read back the last whole line: after an interrupt or a failed write the file is the truth."""
        fd, *_ = self._get()
        size = os.fstat(fd).st_size
        start, tail = size, b""
        while start > 0:
            step = min(start, max(1 << 16, len(tail)))
            start -= step
            tail = os.pread(fd, step, start) + tail
            for line in reversed(tail.split(b"\n")[1 if start else 0 : -1]):
                crc = stated_crc(line)
                if crc is not None:
                    self._torn = not tail.endswith(b"\n")
                    self._go_on_after(fd, line, crc)
                    return
        self._torn = size > 0 and not tail.endswith(b"\n")
        self._put(fd, 0, 0, 0, True)  # not even the header is whole

    def _go_on_after(self, fd: int, line: bytes, crc: int) -> None:
        """Take up the file after its last whole line; after a footer (an interrupt came before the next segment), in a new one."""
        last = msgspec.json.decode(line)
        self._put(fd, last["seq"] + 1, crc, 0, True)
        if last["kind"] == events.SegmentSealed.kind:
            following = last["data"].get("next", "")
            self._close()
            self._open(previous=self.name, name="" if os.path.exists(self.store.segment_path(following)) else following)

    def _rotate(self) -> None:
        from . import capture

        following = segment_name(host=capture.host_name(), pid=os.getpid(), run=self.run)
        old = self.name
        self._seal(following)
        self._open(previous=old, name=following)

    def _seal(self, following: str | None) -> None:
        """Write the footer and flush; the segment never changes again."""
        import hashlib

        fd, seq, *_ = self._get()
        digest, offset = hashlib.sha256(), 0
        if self._torn:
            self._put_bytes(fd, b"\n")
            self._torn = False
        while chunk := os.pread(fd, 1 << 20, offset):
            digest.update(chunk)
            offset += len(chunk)
        footer = events.SegmentSealed(lines=seq, bytes=offset, sha256=digest.hexdigest(), next=following)
        self._write(_Late(footer, self.run, None, None), last=True)
        _flush(fd)
        self._close()
        sync_folder(self.store.segments)

    def _close(self) -> None:
        """Let the file go: out of the state first, so that no interrupt leaves a number there that may mean another file."""
        fd, *_ = self._get()
        self._leave()
        _open_writers.discard(self)
        if fd >= 0:
            os.close(fd)

    def _leave(self) -> None:
        """Have no segment; the next one's clock goes on where this one's ended, though its seq begins at 0."""
        _, seq, _, lead, _ = self._get()
        self._set_lead(lead + seq)
        self._put(-1, 0, 0, 0, True)

    def sync(self) -> None:
        """Return when all that was appended is on the disk, as far as the disk tells the truth."""
        with self._lock():
            fd, *_ = self._get()
            if fd >= 0:
                _flush(fd)
                sync_folder(self.store.segments)

    def seal(self, *, final: bool = False) -> None:
        """End the segment with its footer; nothing can be appended afterwards. Does not raise unless `strict`."""
        lock = self._lock()
        if lock._is_owned() and not final:
            return
        with lock:
            fd, *_ = self._get()
            if self._sealed or (fd < 0 and not self._late and not self._lost[0]):
                self._sealed = True
                _open_writers.discard(self)
                return
            try:
                self._ready()
                self._settle_debts()
                self._seal(None)
            except OSError as problem:
                if is_from_signal_handler(problem):
                    raise
                self.abandon()
                self._sealed = True
                self._drop(_Late(events.HeartbeatSent(), self.run, None, None), problem)
            self._sealed = True

    def abandon(self) -> None:
        """Close the file as it is, without a footer, as a killed process would leave it."""
        self._close()

    def lines(self) -> int:
        """How many lines the current segment has; tells the heartbeat whether anything was said."""
        return self._get()[1]

    def beat(self) -> None:
        """Say that the writer is still there."""
        self.append(events.HeartbeatSent())

    def look(self) -> None:
        """Send the next call past the size and age check, also when few lines come."""
        if time.monotonic() - self._opened_at >= SEGMENT_SECONDS:
            self._soil()

    def forked(self) -> None:
        """In a forked child: let go of the parent's file and its lock; the next event opens a segment of its own."""
        fd, *_ = self._get()
        self._renew_lock()
        self._forked_from = self.name or None
        self._late, self._deferred, self._lost = [], [], [0, "", None, None]
        self._leave()
        if fd >= 0:
            os.close(fd)  # closing keeps the parent's flock; unlocking would take it away


def _without_surrogates(value: Any) -> Any:
    """`value` with lone surrogates escaped, so that it can be written, and read by every JSON library."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_surrogates(inner) for inner in value]
    return value


def _reason(problem: OSError) -> str:
    import errno

    return f"{errno.errorcode.get(problem.errno or 0, 'error')}, {problem.strerror or problem}"


def _take_lock(fd: int) -> None:
    """Hold an exclusive flock while the writer lives; a file system without flock is fine, readers then ask otherwise."""
    if fcntl is None:
        return
    for _ in range(100):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # a reader's probe, which lasts microseconds
            time.sleep(0.001)
        except OSError:  # ENOLCK, EOPNOTSUPP: no flock here
            return
        else:
            return


def sync_folder(path: str) -> None:
    """Flush a folder's names to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _after_fork() -> None:
    for writer in list(_open_writers):
        writer.forked()
    _open_writers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# -- reading -----------------------------------------------------------------------------------------------------------


class Envelope(msgspec.Struct):
    """A line as a reader first sees it: the payload still as bytes."""

    seq: int
    at: datetime
    kind: str
    clock: int = 0
    run: str | None = None
    by: str | None = None
    via: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"{}")
    prev: int = 0
    crc: int = 0


_decoder = msgspec.json.Decoder(Envelope)
_header_decoder = msgspec.json.Decoder(events.SegmentOpened)
_footer_decoder = msgspec.json.Decoder(events.SegmentSealed)


class Segment:
    """What a reader knows of one segment: how far it has read, and what it found. Feed it the file's bytes in order."""

    __slots__ = (
        "_missing",
        "crc",
        "footer",
        "header",
        "last_at",
        "line",
        "name",
        "offset",
        "path",
        "problems",
        "refused",
        "seq",
        "sha",
    )

    def __init__(self, name: str, path: str, *, hashed: bool = False) -> None:
        self.name = name
        self.path = path
        self.offset = 0
        self.line = 0
        self.seq = 0
        self.crc = 0
        self.header: events.SegmentOpened | None = None
        self.footer: events.SegmentSealed | None = None
        self.last_at: datetime | None = None
        self.problems: list[DamageError] = []
        self.refused = False
        self._missing: set[int] = set()
        self.sha: Any = None
        if hashed:
            import hashlib

            self.sha = hashlib.sha256()

    @property
    def run(self) -> str | None:
        """The run that the name tells."""
        return run_of_segment(self.name)

    def feed(self, data: bytes) -> list[Envelope]:
        """Take the next bytes of the file up to their last newline; return the events that are whole and right.

        A line that is not whole or not right is added to `problems` and left out; the others are not touched by it. Of a
        segment in a newer format nothing is returned.
        """
        found: list[Envelope] = []
        for raw in data[: data.rfind(b"\n") + 1].splitlines(keepends=True) if b"\r" not in data else _lines(data):
            self.line += 1
            envelope = self._check(raw[:-1])
            if envelope is not None:
                found.append(envelope)
                self.last_at = envelope.at
                self._note(envelope)
            if self.sha is not None:
                self.sha.update(raw)
            self.offset += len(raw)
        return [] if self.refused else found

    def _check(self, line: bytes) -> Envelope | None:
        crc = stated_crc(line)
        if crc is None:
            self._report(self._kind_of_bad(line), line)
            return None
        try:
            envelope = _decoder.decode(line)
        except (msgspec.DecodeError, RecursionError) as problem:
            self._report("bad-json", line, str(problem))
            return None
        if envelope.seq != self.seq and not self._out_of_order(envelope, line):
            return None
        if envelope.seq >= self.seq:
            if envelope.prev != self.crc and envelope.seq == self.seq:
                self._report("gap", line, "the line does not follow the one before it")
            self.seq, self.crc = envelope.seq + 1, crc
        return envelope

    def _kind_of_bad(self, line: bytes) -> str:
        return "torn-write" if _MARK not in line or not line.endswith(b"}") else "bad-checksum"

    def _out_of_order(self, envelope: Envelope, line: bytes) -> bool:
        """Judge a line whose seq is not the next one; say whether it is to be kept."""
        if envelope.seq > self.seq:
            self._missing.update(range(self.seq, min(envelope.seq, self.seq + 100_000)))
            self._report("gap", line, f"{envelope.seq - self.seq} lines are missing before it")
            return True
        if envelope.seq in self._missing:
            self._missing.discard(envelope.seq)
            self._report("gap", line, "the line stands out of its order")
            return True
        self._report("duplicate", line, f"seq {envelope.seq} was there before")
        return False

    def _note(self, envelope: Envelope) -> None:
        if envelope.kind == events.SegmentOpened.kind and self.header is None:
            self.header = _header_decoder.decode(envelope.data)
            if self.header.format > events.FORMAT:
                self._report("unknown-version", b"", f"format {self.header.format}, this version reads up to {events.FORMAT}")
                self.refused = True
        elif envelope.kind == events.SegmentSealed.kind:
            self.footer = _footer_decoder.decode(envelope.data)
            self._check_footer(self.footer)

    def _check_footer(self, footer: events.SegmentSealed) -> None:
        if footer.bytes != self.offset:
            self._report("gap", b"", f"the footer states {footer.bytes} bytes before it, {self.offset} are there")
        elif self.sha is not None and self.sha.hexdigest() != footer.sha256:
            self._report("bad-checksum", b"", "the bytes before the footer do not have the SHA-256 that it states")

    def _report(self, kind: str, line: bytes, detail: str = "") -> None:
        text = detail or line[:80].decode("utf-8", "replace")
        self.problems.append(DamageError(kind, path=self.path, line=self.line, offset=self.offset, detail=text))


def _lines(data: bytes) -> list[bytes]:
    """Split at newlines only; a carriage return is damage to be found in its line, not a line's end."""
    return [line + b"\n" for line in data.split(b"\n")[:-1]]


def scan(path: str, *, mode: str = "tail-tolerant") -> Iterator[Envelope]:
    """Read one segment from its first line.

    Args:
        path: the file.
        mode: `strict` raises at the first thing that is wrong, a torn tail too; `tail-tolerant` lets a torn last line be,
            as a live segment has it, and raises at anything else; `salvage` gives all that is right and raises nothing.

    Raises:
        DamageError: as the mode says.
    """
    name = os.path.basename(path).removesuffix(".jsonl")
    segment, rest = Segment(name, path, hashed=True), b""
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            data = rest + chunk
            cut = data.rfind(b"\n") + 1
            found = segment.feed(data[:cut])
            rest = data[cut:]
            damage = [p for p in segment.problems if p.kind != "torn-write" or segment.footer or mode == "strict"]
            if damage and mode != "salvage":
                raise damage[0]
            yield from found
    if rest and mode == "strict":
        raise DamageError("torn-tail", path=path, line=segment.line + 1, offset=segment.offset, detail=f"{len(rest)} bytes")


class Tail:
    """Read what is new in a store, again and again: only new bytes, every event once, bad places named and passed over.

    Holds one `Segment` per file. A file that cannot be read, a folder named like a segment, or a copy of a segment under
    another name is named in `problems` and costs nothing else.
    """

    CHUNK = 8 << 20

    def __init__(self, store: Store) -> None:
        self.store = store
        self.segments: dict[str, Segment] = {}
        self._births: dict[str, str] = {}
        self._refused: dict[str, DamageError] = {}

    @property
    def problems(self) -> list[DamageError]:
        """All that was found wrong so far."""
        return [*self._refused.values(), *(p for s in self.segments.values() for p in s.problems)]

    def poll(self) -> Iterator[tuple[Segment, list[Envelope]]]:
        """Yield (segment, new events) for every segment that has grown."""
        for name in self.store.segment_names():
            if name in self._refused and self._refused[name].kind == "duplicate":
                continue
            segment = self.segments.get(name)
            if segment is None:
                segment = self.segments[name] = Segment(name, self.store.segment_path(name))
            try:
                yield from self._read(segment)
                if name in self.segments:  # it was not found to be a copy
                    self._refused.pop(name, None)
            except OSError as problem:
                self._refused[name] = DamageError("unreadable", path=segment.path, detail=_reason(problem))

    def _read(self, segment: Segment) -> Iterator[tuple[Segment, list[Envelope]]]:
        if os.stat(segment.path).st_size <= segment.offset:
            return
        with open(segment.path, "rb") as file:
            file.seek(segment.offset)
            rest = b""
            while chunk := file.read(self.CHUNK):
                data = rest + chunk
                cut = data.rfind(b"\n") + 1
                fresh = segment.header is None
                found = segment.feed(data[:cut])
                rest = data[cut:]
                if fresh and segment.header is not None and self._is_copy(segment):
                    del self.segments[segment.name]
                    return
                if found:
                    yield segment, found

    def _is_copy(self, segment: Segment) -> bool:
        """Whether another file with the same name at birth is being read; the one that kept its name counts."""
        birth = segment.header.segment if segment.header else segment.name
        if segment.name == birth or (birth not in self._births and not os.path.exists(self.store.segment_path(birth))):
            self._births.setdefault(birth, segment.name)
        if self._births.get(birth, birth) == segment.name:
            return False
        self._refused[segment.name] = DamageError("duplicate", path=segment.path, detail=f"a copy of segment {birth}")
        return True


def writer_alive(segment: Segment, *, now: float | None = None) -> bool:  # noqa: PLR0911  (one line per way to know)
    """Whether the writer of an unsealed segment is still there.

    On the same host the writer's flock answers at once; where there is no flock, or a silent file is held by somebody
    else's inherited descriptor, its pid and start time do. On another host the file's last change within
    `SILENCE_SECONDS` does.
    """
    if segment.footer is not None:
        return False
    from . import capture

    moment = time.time() if now is None else now
    try:
        quiet_s = moment - os.stat(segment.path).st_mtime
    except OSError:
        return False
    header = segment.header
    if header is None:
        return quiet_s < SILENCE_SECONDS
    if (header.boot, header.host) != (capture.boot_id(), capture.host_name()):
        return quiet_s < SILENCE_SECONDS
    held = _lock_is_held(segment.path)
    if held is False:
        return False
    if held and quiet_s < SILENCE_SECONDS:
        return True
    return header.started is not None and capture.process_start(header.pid) == header.started


def _lock_is_held(path: str) -> bool | None:
    """Whether somebody holds the file's flock; None where flock does not tell."""
    if fcntl is None:
        return None
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    else:
        return False
    finally:
        os.close(fd)
