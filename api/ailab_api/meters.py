"""What the server counts of itself.

Only the event loop's thread counts, so nothing is locked. Every series is named by words of ours: a request's route is the
template that it met, never its path, so whoever asks for 10,000 paths makes no new series. Counts begin at 0 with the process,
live in its memory alone, and hold nothing of what the store holds.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from ailab.store import size_of

from .exposition import Family, Histogram, counter, counters, gauge, gauges, histograms

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Message, Receive, Scope, Send

    from ailab.store import Store

_log = logging.getLogger("ailab_api")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
REFUSALS = (
    "path", "host", "origin", "body", "token", "guesses", "role", "project", "writes", "uploads", "journal", "streams",
)  # fmt: skip
"""Why a request is refused: by what it is; by who sent it; by a limit."""
NO_ROUTE = "none"
"""The route of requests that met none: refused before, or there is no such path."""
STREAM = "/stream"
MEASURE_S = 60.0
MEASURE_SHARE = 20
"""The store's files are measured anew after a minute, or after so many times as long as that took."""
WAIT_S = 5.0
"""A scrape waits so long for the first measure; later ones take the last."""


class Seen(msgspec.Struct):
    """What is found out about a request on its way: the route that it met, and why it was refused, if it was."""

    route: str = NO_ROUTE
    refused: str | None = None


def seen_of(scope: Any) -> Seen:
    """What is known of a request so far."""
    found: Seen | None = scope.get("ailab_seen")
    return Seen() if found is None else found


class Meters:
    """Counts requests as they pass; every count is by (method, route, class of status)."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self.seconds: dict[tuple[str, str, str], Histogram] = {}
        self.received: Counter[str] = Counter()
        self.refused: Counter[str] = Counter(dict.fromkeys(REFUSALS, 0))

    async def pass_on(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, and count it when it has ended, in whichever way."""
        found = Seen()
        scope["ailab_seen"] = found  # type: ignore[typeddict-unknown-key]  # ours
        began, status, size = time.perf_counter(), 0, 0

        async def receive_counted() -> Any:
            nonlocal size
            message: Any = await receive()
            size += len(message.get("body", b""))
            return message

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.in_flight += 1
        try:
            await app(scope, receive_counted, send_counted)
        except BaseException:
            status = status or 500
            raise
        finally:
            self.in_flight -= 1
            self._count(str(scope.get("method")), found, status, size, time.perf_counter() - began)

    def _count(self, method: str, found: Seen, status: int, size: int, seconds: float) -> None:
        key = (method if method in METHODS else "other", found.route, f"{status // 100}xx" if status else "none")
        self.requests[key] += 1
        if found.route != STREAM:  # it lasts as long as its reader likes
            histogram = self.seconds.get(key)
            if histogram is None:
                histogram = self.seconds[key] = Histogram()
            histogram.observe(seconds)
        if size:
            self.received[found.route] += size
        if found.refused is not None:
            self.refused[found.refused] += 1

    def families(self) -> list[Family]:
        """What was counted."""
        labels = ("method", "route", "status")
        return [
            counters("ailab_http_requests_total", "Requests that ended.", labels, self.requests),
            histograms("ailab_http_request_seconds", "Time to the last byte of the answer, streams apart.", labels, self.seconds),
            gauge("ailab_http_requests_in_flight", "Requests under way, this one among them.", self.in_flight),
            counters("ailab_http_received_bytes_total", "Bytes of bodies that were read.", ("route",), self.received),
            counters("ailab_http_refused_total", "Requests that were refused, by reason.", ("reason",), self.refused),
        ]


class Holdings:
    """How many bytes the parts of a store have, and how many are free; measured in a thread, since it looks at every file.

    Args:
        store: the store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sizes: dict[str, int] = {}
        self._free = 0
        self._due = 0.0
        self._task: asyncio.Task[None] | None = None

    async def families(self) -> list[Family]:
        """The last measure, from a minute ago or so; nothing before there is one."""
        if self._task is None or (self._task.done() and time.monotonic() > self._due):
            self._task = asyncio.create_task(asyncio.to_thread(self._measure))
        if not self._sizes:
            await asyncio.wait([self._task], timeout=WAIT_S)
        if not self._sizes:
            return []
        return [
            gauges("ailab_store_bytes", "Bytes of the store's files, measured once a minute.", ("part",), self._sizes),
            gauge("ailab_store_free_bytes", "Bytes that its disk has left for us.", self._free),
        ]

    def _measure(self) -> None:
        began, store, sizes = time.monotonic(), self._store, {}
        parts = {"events": store.segments, "tables": store.compacted, "blobs": store.blobs, "cache": store.cache}
        try:
            self._free = shutil.disk_usage(store.path).free
            sizes = {part: size_of(path) for part, path in parts.items()}
        except OSError as problem:
            _log.warning("the store's size cannot be measured: %s", problem.strerror)
        self._sizes = sizes
        now = time.monotonic()
        self._due = now + max(MEASURE_S, MEASURE_SHARE * (now - began))


def process_families(version: str) -> list[Family]:
    """This process, by the names that all exporters have for it."""
    import psutil

    me = psutil.Process()
    with me.oneshot():
        times, memory, started = me.cpu_times(), me.memory_info(), me.create_time()
        files = me.num_fds() if os.name == "posix" else 0
    build = (version, ".".join(map(str, sys.version_info[:3])))
    return [
        gauges("ailab_build_info", "Always 1; its labels say what runs.", ("version", "python"), {build: 1}),
        counter("process_cpu_seconds_total", "CPU time, user and system.", times.user + times.system),
        gauge("process_resident_memory_bytes", "Memory that it holds.", memory.rss),
        gauge("process_virtual_memory_bytes", "Addresses that it has.", memory.vms),
        gauge("process_open_fds", "Files and sockets that it has open.", files),
        gauge("process_max_fds", "Files and sockets that it may have open.", _files_max()),
        gauge("process_start_time_seconds", "When it started, since the epoch.", started),
    ]


def _files_max() -> int:
    if os.name != "posix":
        return 0
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
