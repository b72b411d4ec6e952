"""Segments of other machines as a server takes them in: ranges of whole lines, appended to files that only this server writes.

What holds. A received file is a prefix of its writer's, byte for byte: a range that overlaps what is there must have the same
bytes, one that begins behind its end is refused, and what could not be written whole is cut off again. A range was flushed to
the disk when it is acknowledged. Only files that this store accepted from somebody grow, never those that processes of this
machine have written; while ranges come, the file's lock is held, so that readers here take its writer as living. Lines that
would give rights or take data away (tokens, acceptances, redactions) are let in for admins alone, whatever way they are
written.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from . import commits, events
from .errors import ConflictError, NotFoundError, RejectedError, StoreError
from .segments import SILENCE_SECONDS, Envelope, stated_crc
from .store import open_plain, reason_of, sync_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .store import Store

RANGE_MAX = 8 << 20
"""Bytes of one range."""
OPEN_MAX = 512
"""Files that are kept open, with their SHA-256 so far."""
RESERVED = (
    events.TokenCreated.kind, events.TokenRevoked.kind, events.SegmentAccepted.kind, events.EventRedacted.kind,
    events.RunPurged.kind,
)  # fmt: skip
"""Kinds that only an admin may ship."""
SEGMENT_NAME = r"[0-9]{8}T[0-9]{12}Z_[A-Za-z0-9.-]{1,32}_[0-9]{1,10}_[0-9a-f]{8}(?:_[A-Za-z0-9][A-Za-z0-9._-]{0,127})?"
_NAME = re.compile(SEGMENT_NAME)
_decode = msgspec.json.Decoder(Envelope).decode


class Received(msgspec.Struct, kw_only=True):
    """How far a segment has come: its first `bytes` bytes, and their SHA-256."""

    segment: str
    bytes: int
    sha256: str


class Lacking(msgspec.Struct):
    """Segments of which fewer bytes are here than somebody else has, and how many are."""

    missing: dict[str, int]


class GapError(ConflictError):
    """A range that does not begin where the file ends: `bytes` says where that is."""

    def __init__(self, message: str, *, bytes: int, hint: str = "") -> None:  # noqa: A002
        super().__init__(message, where="offset", hint=hint)
        self.bytes = bytes


class _File:
    """A received file that is open: its size, the SHA-256 of it, and when something came last."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size = os.fstat(fd).st_size
        self.sha = hashlib.sha256()
        self.came = time.monotonic()
        at = 0
        while at < self.size and (piece := os.pread(fd, min(1 << 20, self.size - at), at)):
            self.sha.update(piece)
            at += len(piece)

    def received(self, name: str) -> Received:
        return Received(segment=name, bytes=self.size, sha256=self.sha.hexdigest())


class Receiver:
    """Takes ranges in, each segment's one after the other; may be called from several threads.

    Args:
        store: the server's store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._files: dict[str, _File] = {}
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}

    def close(self) -> None:
        """Let go of all files but those that a thread writes to just now: they go with the process."""
        for name in list(self._files):
            lock = self._one(name)
            if lock.acquire(blocking=False):
                self._forget(name)
                lock.release()

    def state(self, name: str) -> Received:
        """How far a segment has come.

        Raises:
            NotFoundError: nothing of it is here as a file.
            RejectedError: it is no name of a segment.
            StoreError: what is here is no plain file, or cannot be read.
        """
        check_name(name)
        with self._one(name):
            file = self._files.get(name)
            if file is not None:
                return file.received(name)
            path = self._store.segment_path(name)
            try:
                with open_plain(path) as source:
                    return _File(source.fileno()).received(name)
            except FileNotFoundError:
                raise NotFoundError("segment", name) from None
            except OSError as problem:
                raise StoreError(f"a segment cannot be read ({reason_of(problem)})", path=path) from problem

    def lacking(self, known: Mapping[str, int]) -> dict[str, int]:
        """Which of these segments have fewer bytes here, as files or in tables, and how many they have.

        Args:
            known: bytes that somebody else has, by segment.
        """
        found: dict[str, int] = {}
        for name, size in known.items():
            there = 0
            if _NAME.fullmatch(name):
                with suppress(OSError):
                    there = os.stat(self._store.segment_path(name)).st_size
            if there < size:
                found[name] = there
        if found:
            spans = commits.choose(commits.load(self._store)[0])
            for name in found.keys() & spans.keys():
                found[name] = max(found[name], spans[name][-1][1].end)
        return {name: there for name, there in found.items() if there < known[name]}

    def take(self, name: str, offset: int, body: bytes, *, admin: bool, accepted: bool, accept: Callable[[], None]) -> Received:
        """Add a range of whole lines.

        Args:
            name: the segment.
            offset: where in it the range begins.
            body: the range.
            admin: whether lines that give rights or take data away may be in it.
            accepted: whether the store has noted before that it takes this segment in from this sender.
            accept: note it; called before a byte is written, unless it was noted.

        Raises:
            RejectedError: the name, or something in the range, is not allowed.
            GapError: the range begins behind the end of what is here.
            ConflictError: other bytes are here, or the segment is one of this machine.
            StoreError: it cannot be written now; nothing of the range is kept.
        """
        check_name(name)
        _check_lines(body, admin=admin)
        with self._one(name):
            file = self._files.get(name)
            if file is None:
                file = self._open(name, offset, body, accepted=accepted, accept=accept)
                accepted = True
            if offset > file.size:
                raise GapError(f"{file.size} bytes are here", bytes=file.size, hint=f"send from offset={file.size} on")
            known = min(len(body), file.size - offset)
            if known and os.pread(file.fd, known, offset) != body[:known]:
                raise ConflictError(
                    f"other bytes are here from {offset} on", where="offset", hint="it is another segment of this name"
                )
            if known < len(body):
                if not accepted:
                    accept()
                self._append(name, file, body[known:])
            file.came = time.monotonic()
            return file.received(name)

    def rest(self) -> None:
        """Let go of files to which nothing has come for so long that their writers are taken as gone."""
        now = time.monotonic()
        held = list(self._files.items())  # a copy made at once: others come and go meanwhile
        for name, file in sorted(held, key=lambda item: item[1].came):
            if now - file.came > SILENCE_SECONDS or len(self._files) > OPEN_MAX:
                with self._one(name):
                    self._forget(name)

    # -- files -------------------------------------------------------------------------------------------------------

    def _one(self, name: str) -> threading.Lock:
        with self._lock:
            if len(self._locks) > 2 * OPEN_MAX:
                self._locks = {n: lock for n, lock in self._locks.items() if n in self._files or lock.locked()}
            return self._locks.setdefault(name, threading.Lock())

    def _open(self, name: str, offset: int, body: bytes, *, accepted: bool, accept: Callable[[], None]) -> _File:
        """Open a segment, or make it: only once it is noted, since a file that was not would be taken for one of our own."""
        path = self._store.segment_path(name)
        is_new = not os.path.lexists(path)
        if is_new:
            if offset:
                raise GapError("nothing of it is here", bytes=0, hint="send from offset=0 on")
            _check_header(name, body)
            if not accepted:
                accept()
        elif not accepted:
            raise ConflictError(f"segment {name} was written here", where="segment", hint="its bytes are in this store already")
        flags = os.O_RDWR | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        try:
            os.makedirs(self._store.segments, exist_ok=True)
            fd = os.open(path, flags | (os.O_CREAT | os.O_EXCL if is_new else 0), 0o666)
        except OSError as problem:
            raise StoreError(f"a segment cannot be written ({problem.strerror})", path=path) from problem
        if fcntl is not None:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                raise ConflictError(f"segment {name} is being written by somebody else", where="segment") from None
            except OSError:  # no locks on this file system: then its time tells who lives
                pass
        if is_new:
            sync_folder(self._store.segments)
        file = self._files[name] = _File(fd)
        return file

    def _append(self, name: str, file: _File, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(file.fd, view) :]
            getattr(os, "fdatasync", os.fsync)(file.fd)
        except OSError as problem:
            with suppress(OSError):
                os.ftruncate(file.fd, file.size)
            self._forget(name)
            raise StoreError(
                f"a segment cannot be written ({problem.strerror})", path=self._store.segment_path(name)
            ) from problem
        file.sha.update(data)
        file.size += len(data)

    def _forget(self, name: str) -> None:
        file = self._files.pop(name, None)
        if file is not None:
            os.close(file.fd)


def check_name(name: str) -> None:
    """Refuse what is no name of a segment, so that no path ever comes from outside.

    Raises:
        RejectedError: it is none.
    """
    if _NAME.fullmatch(name) is None:
        raise RejectedError(f"{name[:100]!r} is no name of a segment", key="segment", hint="TIME_HOST_PID_RANDOM[_RUN]")


def _check_header(name: str, body: bytes) -> None:
    line = body.partition(b"\n")[0]
    header: Any = None
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        envelope = _decode(line)
        if envelope.kind == events.SegmentOpened.kind and stated_crc(line) is not None:
            header = msgspec.json.decode(envelope.data, type=events.SegmentOpened)
    if header is None or header.segment != name:
        raise RejectedError(
            "the first line is not the header of this segment", key="body", hint="send from offset=0, whole lines"
        )
    if header.format > events.FORMAT:
        raise RejectedError(
            f"format {header.format}, this server reads up to {events.FORMAT}", key="body", hint="update the server"
        )


_WORDS = tuple(kind.encode() for kind in RESERVED)


def _is_plain(text: bytes, lines: int) -> bool:
    """Whether so many lines say one kind each, in plain letters, and none of a reserved one."""
    return b"\\" not in text and text.count(b'"kind"') == lines and not any(word in text for word in _WORDS)


def _check_lines(body: bytes, *, admin: bool) -> None:
    """Make sure that a range is whole lines, and that none is of a reserved kind.

    A line can write a kind in many ways, so what is plainly none of those kinds passes by a look, and all else is decoded as
    readers decode it.
    """
    if len(body) > RANGE_MAX:
        raise RejectedError(f"a range of {len(body)} bytes", key="body", hint=f"at most {RANGE_MAX}")
    if not body.endswith(b"\n"):
        raise RejectedError("the range does not end with a line", key="body", hint="send whole lines; the rest comes later")
    if admin:
        return
    for line in () if _is_plain(body, body.count(b"\n")) else body.split(b"\n")[:-1]:
        if _is_plain(line, 1):
            continue
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # no reader takes it for an event either
            kind = _decode(line).kind
            if kind in RESERVED:
                raise RejectedError(f"kind {kind} is not allowed", key="body", hint="only an admin may ship it")
