"""Leases: at most one process at a time does a piece of work that two could do, but should not.

A claim is the file `STORE/claims/NAME`, made whole and exclusively; in it stands who holds it, and its mtime is the holder's
last sign of life. Who writes: the holder alone; whoever finds a claim stale renames it away, and makes his own. One process at a
time judges and renames, under a lock of the folder where the file system has locks: else somebody might rename what another made
meanwhile. Stale is one whose holder ran on this machine since it started and is gone, or, of any other, one that was not touched
for `STALE_SECONDS` by the clock of the folder's file system, so clocks of machines need not agree.

What is not promised: that a holder who slept through his lease knows it at once. So a claim spares work and nothing else; what
must not happen twice is made by exclusive creation itself, and a holder asks `held` before he does it.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from . import capture

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from .store import Store

RETURN_LOOKS, RETURN_SECONDS = 5, 0.02
"""How often, and how far apart, a holder looks for a claim that is not in its place."""
STALE_SECONDS = 300.0
"""A claim of another machine that was not touched for so long is stale."""
BEAT_SECONDS = 15.0
"""Time between two touches, at least."""

_CREATE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_CLOEXEC", 0)


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds a claim. `started` tells, with `pid` and `boot`, one process from any other; see `capture.process_start`."""

    host: str
    pid: int
    boot: str = ""
    started: float | None = None
    at: float = 0.0


class Claim:
    """A claim that this process holds, as a context that lets it go at its end.

    Attributes:
        name: what is claimed.
        path: its file.
    """

    def __init__(self, name: str, path: str, fd: int) -> None:
        self.name = name
        self.path = path
        self._fd = fd
        self._beaten_at = time.monotonic()

    def held(self) -> bool:
        """Whether it is still ours: the file that we made is still the one with its name.

        Somebody who had judged our predecessor's file stale may take ours away by mistake, and puts it back at once: that is
        waited for.
        """
        for _ in range(RETURN_LOOKS):
            if self._fd < 0:
                return False
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(self.path), os.fstat(self._fd)):
                    return True
            time.sleep(RETURN_SECONDS)
        return False

    def beat(self) -> bool:
        """Give a sign of life, if the last one is `BEAT_SECONDS` ago; return whether the claim is still ours as far as known.

        Call it between pieces of work that last less than `STALE_SECONDS`.
        """
        now = time.monotonic()
        if now - self._beaten_at < BEAT_SECONDS:
            return self._fd >= 0
        self._beaten_at = now
        if self._fd >= 0:
            os.utime(self._fd if os.utime in os.supports_fd else self.path)
        return self.held()

    def release(self) -> None:
        """Let it go; one that was taken over stays with whoever has it now."""
        if self.held():
            os.unlink(self.path)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Claim:  # noqa: PYI034  (nobody makes a kind of claim of it)
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def take(store: Store, name: str) -> Claim | None:
    """Claim `name`; None where somebody holds it (`holder` says who)."""
    os.makedirs(store.claims, exist_ok=True)
    path = os.path.join(store.claims, name)
    while True:
        fd = _create(path)
        if fd is not None:
            return Claim(name, path, fd)
        with _alone(store.claims):
            if not _take_away(path):
                return None


def holder(store: Store, name: str) -> Holder | None:
    """Who holds the claim `name`; None where nobody does, or it is stale."""
    path = os.path.join(store.claims, name)
    try:
        with open(path, "rb") as file:
            status, content = os.fstat(file.fileno()), file.read()
    except OSError:  # nobody has it, or it cannot be asked, and then it will be asked again by whoever takes it
        return None
    found = _decode(content)
    return None if _is_stale(path, status, found) else found or Holder(host="unknown", pid=0)


def _create(path: str) -> int | None:
    """Make the file with our name in it, whole or not at all; None where it is there already."""
    pid = os.getpid()
    mine = Holder(
        host=capture.host_name(), pid=pid, boot=capture.boot_id(), started=capture.process_start(pid), at=round(time.time(), 3)
    )
    aside = _beside(path, "new")
    fd = os.open(aside, _CREATE, 0o666)
    try:
        os.write(fd, msgspec.json.encode(mine) + b"\n")
        _link(aside, path)
    except FileExistsError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    finally:
        os.unlink(aside)
    return fd


def _link(source: str, target: str) -> None:
    """Give a file a second name, unless that is taken.

    Raises:
        FileExistsError: it is.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: exclusive creation reserves the name, renaming fills it
        os.close(os.open(target, _CREATE, 0o666))
        os.rename(source, target)
        os.close(os.open(source, _CREATE, 0o666))  # for whoever removes the first name


@contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Keep others from taking claims away meanwhile, where that can be done; the lock goes with its holder, however he ends."""
    fd = -1
    try:
        if fcntl is not None:
            with suppress(OSError):  # no folders as files, or no locks: what is renamed by mistake is put back
                fd = os.open(folder, os.O_RDONLY)
                fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        if fd >= 0:
            os.close(fd)


def _take_away(path: str) -> bool:
    """Take a stale claim out of the way; return False where it is not stale, True where it is worth trying to create again."""
    try:
        with open(path, "rb") as file:
            status, content = os.fstat(file.fileno()), file.read()
            if not _is_stale(path, status, _decode(content)):
                return False
            aside = _beside(path, "stale")
            os.rename(path, aside)
            mistaken = not os.path.samestat(os.stat(aside), status)
    except FileNotFoundError:  # let go, or taken away by somebody else
        return True
    if mistaken:  # without locks, somebody took it over between our judging and renaming: put it back, unless a third was faster
        try:
            _link(aside, path)
        except FileExistsError:
            mistaken = False
    os.unlink(aside)
    return not mistaken


def _is_stale(path: str, status: os.stat_result, found: Holder | None) -> bool:
    here = (capture.host_name(), capture.boot_id())
    if found is not None and (found.host, found.boot) == here and found.boot and found.started is not None:
        return capture.process_start(found.pid) != found.started
    return _folder_time(path) - status.st_mtime >= STALE_SECONDS


def sweep(store: Store, older_than_s: float) -> int:
    """Remove what killed processes left beside the claims; return how many files. A claim itself is never removed here."""
    removed = 0
    try:
        with os.scandir(store.claims) as entries:
            left = [entry for entry in entries if entry.name.startswith((".new-", ".now-", ".stale-"))]
    except FileNotFoundError:
        return 0
    now = file_time(store)
    for entry in left:
        try:
            if now - entry.stat().st_mtime >= older_than_s:
                os.unlink(entry.path)
                removed += 1
        except FileNotFoundError:  # its maker lives and has removed it
            continue
    return removed


def file_time(store: Store) -> float:
    """Seconds since 1970 by the clock that stamps the store's files, which on a network is not this machine's."""
    os.makedirs(store.claims, exist_ok=True)
    return _folder_time(os.path.join(store.claims, "time"))


def _folder_time(path: str) -> float:
    probe = _beside(path, "now")
    os.close(os.open(probe, _CREATE, 0o666))
    try:
        return os.stat(probe).st_mtime
    finally:
        os.unlink(probe)


def _beside(path: str, what: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{what}-{name}-{os.getpid()}-{os.urandom(6).hex()}")


def _decode(content: bytes) -> Holder | None:
    """Who a claim says its holder is; None of one whose maker was killed before he had said so."""
    try:
        return msgspec.json.decode(content, type=Holder)
    except msgspec.DecodeError:
        return None
