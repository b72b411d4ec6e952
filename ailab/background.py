"""Processes beside a training: a compaction, and the shipping to a server.

A run that ends starts a compaction when enough segments came together; one that begins starts the shipping, where there is a
server.

Who writes: each run that ends adds one byte to `cache/finished`, whose size so tells how many ended since the last
compaction, which removes the file; no folder is listed for it. What holds: nothing here waits, and no error gets into the
training; the process has the lowest priority, no terminal and no open file of ours. How a shipping goes is read from the
outbox, never waited for. What is not promised: that it starts; whoever wants to be sure calls `ailab compact`.
AILAB_AUTO_COMPACT=0 turns it off.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .store import Store

CLAIM = "compaction"
"""The claim that whoever compacts holds."""
SEGMENTS = 64
"""So many segments that ended since the last compaction are worth one."""
PAUSE_SECONDS = 60.0
"""Time between two starts in one process, at least."""
TALLY = "finished"
"""The file in the cache whose size is the number of runs that ended."""

_children: set[int] = set()
"""Processes that this one has started and not waited for; they may have ended."""
_started_at = -PAUSE_SECONDS
_shipped_at: dict[tuple[str, str | None], float] = {}
"""When a shipping was started last, by address and token, in seconds since 1970."""


def after_run(store: Store) -> bool:
    """Count a run that has ended; start a compaction where that is due. Return whether one was started.

    Raises:
        OSError: it cannot be counted or started.
    """
    return _count(store) > SEGMENTS and start(store)


def forget(store: Store) -> None:
    """Count anew: a compaction has begun, and will find what has ended so far."""
    path = _tally(store)
    if os.path.exists(path):
        os.unlink(path)


def start(store: Store) -> bool:
    """Start a compaction, unless this process did so within `PAUSE_SECONDS` or somebody is at it; return whether it did.

    Raises:
        OSError: it cannot be started.
    """
    global _started_at  # noqa: PLW0603  (a process starts one at a time)
    from . import claims

    if time.monotonic() - _started_at < PAUSE_SECONDS or not _is_python() or claims.holder(store, CLAIM) is not None:
        return False
    _started_at = time.monotonic()
    _spawn(["ailab", "compact", "--background", "--dir", store.path], dict(os.environ))
    return True


def ship(store: Store, url: str, token: str | None) -> bool:
    """Start a process that sends a server what is written here, unless one does; return whether it did.

    A server that has refused this token a moment ago is not asked again by this process: a thousand short runs would start a
    thousand processes.

    Raises:
        SettingError: the URL is none.
        OSError: it cannot be started.
    """
    from . import claims, outbox

    address, now = outbox.plain_url(url), time.time()
    if not _is_python() or claims.holder(store, shipping_claim(address)) is not None:
        return False
    before = _shipped_at.get((address, token), 0.0)
    outcome = outbox.Outbox(store, address).outcome() if now - before < PAUSE_SECONDS else None
    if outcome is not None and outcome.state == "refused" and outcome.at >= before:
        return False
    _shipped_at[address, token] = now
    more = {"AILAB_TOKEN": token} if token else {}
    _spawn(["ailab.remote", store.path, address], {**os.environ, **more})
    return True


def shipping_claim(address: str) -> str:
    """The claim of whoever ships a store to a server."""
    from zlib import crc32

    return f"shipping-{crc32(address.encode('utf-8', 'backslashreplace')):08x}"


def _spawn(command: list[str], environment: dict[str, str]) -> None:
    """Start a module with its arguments, without a terminal; those that have ended since do not stay as zombies."""
    for child in list(_children):
        try:
            ended = os.waitpid(child, os.WNOHANG)[0] == child
        except ChildProcessError:  # somebody has waited for it, or it was started before a fork
            ended = True
        if ended:
            _children.discard(child)
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    paths = [path for path in (os.environ.get("PYTHONPATH", ""), folder) if path]
    child = os.posix_spawn(
        sys.executable,
        [sys.executable, "-P", "-m", *command],
        {**environment, "PYTHONPATH": os.pathsep.join(paths)},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ],
    )
    _children.add(child)


def step_back() -> None:
    """In the process that was started: leave the session and the files of whoever started it, and work when nobody else does."""
    with suppress(PermissionError):  # it leads its own group already
        os.setsid()
    os.closerange(3, 1 << 16)
    os.nice(19)


def _count(store: Store) -> int:
    """Add one to the tally; return what it is now."""
    flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
    try:
        fd = os.open(_tally(store), flags, 0o666)
    except FileNotFoundError:
        os.makedirs(store.cache, exist_ok=True)
        fd = os.open(_tally(store), flags, 0o666)
    try:
        os.write(fd, b".")
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def _tally(store: Store) -> str:
    return os.path.join(store.cache, TALLY)


def _is_python() -> bool:
    """Whether a new interpreter can be started here: not from within a program that embeds one, nor where nothing is spawned."""
    return hasattr(os, "posix_spawn") and os.path.basename(sys.executable or "").startswith("python")
