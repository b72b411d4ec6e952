"""How events lie on disk: append, sync, seal, scan. Bytes and lines; it knows nothing of machine learning.

A segment is one file of lines with one writer for its whole life: one process and one run, or one process and no run.
It is created exclusively, appended with one `write(2)` a line (or for all lines of one action), never opened for writing again
after its writer is gone, and rotates at 16 MiB or one hour. Its first line is `segment.opened`, its last, when it ended in order,
`segment.sealed`.

What holds. When `append` (or the function from `metrics_logger`) has returned, the line is in the kernel: kill -9 does not
lose it; with `durable=True` it is on the disk. `seq` has no gaps and is used up only by a line that was written whole.
What a write left in part is cut off; a torn line that stays is ended by a blank and a newline before anything else is written, so
it never takes a neighbour with it. A write that fails does not raise (unless `strict`): it is counted and said in a
`writes.dropped` line as soon as one can be written;
events other than points are kept in memory meanwhile and written first. After an interrupt at any instruction, the file
is the truth: the next call reads the last line back and goes on from there. After a fork the child closes the inherited
file (never unlocks it) and writes a segment of its own.

Who writes: `Writer`, one per segment. Who reads: `segments.py`, whose names are reached from here too. What is not promised:
power loss between two syncs may cost the end of a segment; and a line's checksum is a CRC, so it tells damage, not intent.
"""

from __future__ import annotations

import os
import time
from _thread import RLock
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from weakref import WeakSet
from zlib import crc32

import msgspec

from . import __version__, events
from .errors import StoreError, is_from_signal_handler
from .segments import SILENCE_SECONDS, Envelope, Segment, Tail, encode_line, scan, stated_crc, writer_alive
from .store import MARKER, reason_of, segment_name, sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .store import Store

try:
    import fcntl
except ImportError:  # Windows: nothing here depends on flock, it only answers sooner
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "SILENCE_SECONDS",
    "Envelope",
    "Segment",
    "Tail",
    "Writer",
    "encode_line",
    "scan",
    "stated_crc",
    "writer_alive",
]

SEGMENT_BYTES = 16 << 20
SEGMENT_SECONDS = 3600.0
LOOK_EVERY = 4096
"""Lines between two looks at the size and age of a segment."""
RETRY_SECONDS = 1.0
"""Pause after a segment could not be created, before the next try."""
NAMES_MAX = 3
"""How many more names are tried where a segment's name is taken."""
WARN_SECONDS = 60.0
CLOCK_TRUSTED = 1 << 62
"""Clocks above it are somebody's mistake or malice: a writer that followed one could run out of numbers."""
KEPT_MAX = 10_000
"""Events other than points that are kept in memory while nothing can be written."""

_UTC = timezone.utc
_encoder = msgspec.json.Encoder()
_flush: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)
_TAIL = b"}\n"
_TORN_END = b" \n"
"""What ends a torn line: with the blank even one that lacks nothing but its newline fails its check, as its count says."""

_writers: WeakSet[Writer] = WeakSet()
"""Every writer there is, with a file or between two: a fork finds a lock held at any moment of its work."""


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
        _writers.add(self)

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

        def renew() -> None:
            """In a forked child: another thread's write may have held on to both."""
            nonlocal lock, buffer
            lock, buffer = RLock(), bytearray(4096)

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
        self._lock, self._renew = get_lock, renew
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
            written = self._append([late])
            return written[0] if written else None

    def append_all(self, said: Sequence[events.Event], *, run: str | None = None, by: str | None = None) -> list[str]:
        """Append the events of one action with one write, so that no kill comes between them; return their ids.

        Only where the system wrote a part of what it was given and then no more was done (a kill within a write of several pages,
        a disk that fails altogether) the first of them stay, as whole lines; what a full disk refuses leaves none.

        Raises:
            StoreError: they cannot be written. The writer has to be `strict`.
        """
        assert self.strict  # noqa: S101  (what failed is the caller's to repeat, so nothing is kept for later)
        with self._lock():
            return self._append([_Late(event, run if run is not None else self.run, by, None) for event in said])

    def observe(self, clock: int) -> None:
        """Make the next event later than one with this Lamport clock; one that no count of events explains is not followed."""
        if clock > CLOCK_TRUSTED:
            return
        with self._lock():
            _, seq, _, lead, _ = self._get()
            self._set_lead(max(lead, clock + 1 - seq))

    def _append(self, lates: list[_Late]) -> list[str]:
        try:
            if self._sealed:
                raise OSError(0, "the segment is sealed")
            self._ready()
            self._settle_debts()
            written = self._write(*lates)
        except OSError as problem:
            if is_from_signal_handler(problem):
                raise
            for late in lates:
                self._drop(late, problem)
            return []
        if self._deferred:  # a signal handler has logged while this was written
            self._append([self._deferred.pop()])
        return written

    def _ready(self) -> None:
        """Open, take up again after a fork or an interrupt, or rotate, as needed."""
        fd, _, _, _, dirty = self._get()
        if _is_unlinked(fd):
            self._put_back(fd)
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

    def _write(self, *lates: _Late, last: bool = False) -> list[str]:
        self._soil()  # first: a signal handler that logs from here on must not take the seqs that these lines get
        fd, first, crc, lead, _ = self._get()
        seq, lines = first, [_TORN_END] if self._torn else []
        for late in lates:
            data, crc = _encode(late, seq, lead, crc)
            lines.append(data)
            seq += 1
        self._put_bytes(fd, b"".join(lines))
        self._torn = False
        # with `durable` the fast path is never taken: its call would return before the flush; and none is taken after a footer
        self._put(fd, seq, crc, 0 if self.durable else self._next_look(fd, seq - 1), self.durable or last)
        if self.durable:
            self._make_durable(fd)
        return [f"{self.name}:{n}" for n in range(first, seq)]

    def _make_durable(self, fd: int) -> None:
        """Flush; a flush that failed is never tried again as if it could succeed: the next line goes to a new segment."""
        try:
            _flush(fd)
        except OSError as problem:
            self._opened_at = -SEGMENT_SECONDS
            message = f"{self.name} could not be flushed to the disk: {reason_of(problem)}"
            if self.strict:
                raise StoreError(message, path=self.store.segment_path(self.name)) from problem
            self._say_seldom(f"{message}; a new segment is begun")

    def _next_look(self, fd: int, seq: int) -> int:
        """The seq at which size and age are looked at again: soon enough not to pass the size by much."""
        mean = max(64, os.fstat(fd).st_size // (seq + 1))
        return seq + 1 + min(LOOK_EVERY, 1 + max(0, SEGMENT_BYTES - os.fstat(fd).st_size) // mean)

    def _put_bytes(self, fd: int, data: bytes) -> None:
        """Write all of `data`, going on after a short write.

        Before an error goes up, what was written of it is cut off again, so that of several lines none stays where the caller
        is told that none was written. What cannot be cut off is marked as torn.
        """
        view = memoryview(data)
        while view:
            try:
                done = os.write(fd, view)
            except OSError:
                if written := len(data) - len(view):
                    self._cut_off(fd, written)
                raise
            view = view[done:]

    def _cut_off(self, fd: int, size: int) -> None:
        try:
            os.ftruncate(fd, os.fstat(fd).st_size - size)
        except OSError:
            self._torn = True

    def _drop(self, late: _Late, problem: OSError) -> None:
        """Count an event that could not be written; keep it in memory unless it is a point."""
        if isinstance(late.event, events.MetricsLogged) or len(self._late) >= KEPT_MAX:
            self.dropped += 1
            now = datetime.now(_UTC)
            self._lost = [self._lost[0] + 1, str(problem)[:500], self._lost[2] or now, now]
        elif not self.strict:  # with it the caller knows, and must not find later what he was told had failed
            self._late.append(late)
        self._soil()
        message = f"events cannot be written to {self.name or self.store.segments}: {reason_of(problem)}"
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
        header = events.SegmentOpened(
            format=events.FORMAT, segment=name, ailab=__version__, host=capture.host_name(), pid=pid, user=capture.user_name(),
            boot=capture.boot_id(), started=capture.process_start(pid), via=self.via, by=self.by, previous=previous,
            forked_from=self._forked_from,
        )  # fmt: skip
        try:
            fd, name = self._create(name)
        except OSError as problem:
            if not is_from_signal_handler(problem):
                self._retry = (time.monotonic() + RETRY_SECONDS, (problem.errno, problem.strerror, problem.filename))
            raise
        header = msgspec.structs.replace(header, segment=name)
        self.name, self._pid, self._opened_at, self._torn = name, pid, time.monotonic(), False
        self._header, self._forked_from, self._retry = header, None, None
        self._put(fd, 0, 0, 0, True)
        self._write(_Late(header, self.run, None, None))
        if self.durable:
            _flush_names(self.store)

    def _create(self, name: str) -> tuple[int, str]:
        """Make the file; return (descriptor, name), which is another one where a file has the name.

        On a network that file may be our own, made by a request whose answer was lost and that was sent again.
        """
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        for more in range(NAMES_MAX, -1, -1):
            try:
                fd = os.open(self.store.segment_path(name), flags, 0o666)
                break
            except FileNotFoundError:
                if not more:
                    raise
                os.makedirs(self.store.segments, exist_ok=True)
            except FileExistsError as problem:
                if not more or is_from_signal_handler(problem):
                    raise
                from . import capture

                name = segment_name(host=capture.host_name(), pid=os.getpid(), run=self.run)
        _take_lock(fd)
        return fd, name

    def _put_back(self, fd: int) -> None:
        """Give an unlinked segment its name again, with all its bytes; where that is taken, begin another segment.

        Compaction on another machine may take a silent writer as gone, and remove the file once its bytes are in tables. What was
        written since has no other place.
        """
        path = self.store.segment_path(self.name)
        try:
            new = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o666)
        except FileExistsError:
            self._close()
            self._open(previous=self.name)
            return
        try:
            offset = 0
            while chunk := os.pread(fd, 1 << 20, offset):
                self._put_bytes(new, chunk)
                offset += len(chunk)
            _take_lock(new)
        except BaseException:
            os.unlink(path)
            os.close(new)
            raise
        _, seq, prev, *_ = self._get()
        self._put(new, seq, prev, 0, True)
        os.close(fd)

    def _recover(self) -> None:
        """Read back the last whole line: after an interrupt or a failed write the file is the truth.

        A line that lacks its newline came from a write that was cut short, so its event was counted as lost, or is written
        again by the call that is under way; it is ended in such a way that no reader takes it for whole.
        """
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
        """Take up the file after its last whole line; after a footer (an interrupt came too early), in a new segment."""
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

        self._soil()
        fd, seq, *_ = self._get()
        digest, offset = hashlib.sha256(), 0
        if self._torn:
            self._put_bytes(fd, _TORN_END)
            self._torn = False
        while chunk := os.pread(fd, 1 << 20, offset):
            digest.update(chunk)
            offset += len(chunk)
        footer = events.SegmentSealed(lines=seq, bytes=offset, sha256=digest.hexdigest(), next=following)
        self._write(_Late(footer, self.run, None, None), last=True)
        _flush(fd)
        self._close()
        _flush_names(self.store)

    def _close(self) -> None:
        """Let the file go: out of the state first, so that no interrupt leaves a number there that may mean another file."""
        fd, *_ = self._get()
        self._leave()
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
                _flush_names(self.store)

    def seal(self, *, final: bool = False) -> None:
        """End the segment with its footer; nothing can be appended afterwards. Does not raise unless `strict`."""
        lock = self._lock()
        if lock._is_owned() and not final:
            return
        with lock:
            fd, *_ = self._get()
            if self._sealed or (fd < 0 and not self._late and not self._lost[0]):
                self._sealed = True
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
        """Send the next call past the size and age check, also when few lines come, or when the file lost its name."""
        if time.monotonic() - self._opened_at >= SEGMENT_SECONDS or _is_unlinked(self._get()[0]):
            self._soil()

    def forked(self) -> None:
        """In a forked child: let go of the parent's file and its lock; the next event opens a segment of its own."""
        fd, *_ = self._get()
        self._renew()
        self._forked_from = self.name or None
        self._late, self._deferred, self._lost = [], [], [0, "", None, None]
        self._leave()
        if fd >= 0:
            os.close(fd)  # closing keeps the parent's flock; unlocking would take it away


def _encode(late: _Late, seq: int, lead: int, prev: int) -> tuple[bytes, int]:
    """(line, its checksum), chained to the line before it."""
    line = events.Line(seq, datetime.now(_UTC), seq + lead, late.event.kind, late.run, late.by, late.via, late.event, prev, 0)
    try:
        return encode_line(line)
    except UnicodeEncodeError:  # a name or text with lone surrogates, as the file system hands out
        return encode_line(msgspec.structs.replace(line, data=_without_surrogates(msgspec.to_builtins(late.event))))


def _without_surrogates(value: Any) -> Any:
    """`value` with lone surrogates escaped, so that it can be written, and read by every JSON library."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_surrogates(inner) for inner in value]
    return value


_flushed_names: set[tuple[str, int]] = set()
"""Stores, by path and inode, whose own names this process has flushed."""


def _flush_names(store: Store) -> None:
    """Flush the names that lead to a segment: its own, and once a process those of its folder, the marker and the store.

    A store that is a minute old may otherwise be gone after a power loss with all that was flushed in it.
    """
    sync_folder(store.segments)
    place = store.path, os.stat(store.path).st_ino
    if place not in _flushed_names:
        for path in (os.path.join(store.path, MARKER), store.path, os.path.dirname(store.path)):
            if os.path.exists(path):  # whoever removes the marker of a store in use is not told here
                sync_folder(path)
        _flushed_names.add(place)


def _is_unlinked(fd: int) -> bool:
    """Whether an open file has lost its name; of one that cannot be asked, the write will tell what is wrong."""
    try:
        return fd >= 0 and os.fstat(fd).st_nlink == 0
    except OSError as problem:
        if is_from_signal_handler(problem):
            raise
        return False


def _take_lock(fd: int) -> None:
    """Hold an exclusive flock while the writer lives; a file system without flock is fine, readers then ask otherwise."""
    if fcntl is None:
        return
    for _ in range(100):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # a reader's probe, which lasts microseconds
            time.sleep(0.001)
        except OSError as problem:  # ENOLCK, EOPNOTSUPP: no flock here
            if is_from_signal_handler(problem):
                raise
            return
        else:
            return


def _after_fork() -> None:
    for writer in list(_writers):
        writer.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
