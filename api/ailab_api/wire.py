"""HTTP's parser, whose refusals have the form of all others: what is no HTTP never reaches the application.

A connection costs a descriptor, and a request may take another one for its file, so there are never more connections than half of
what the process may open: past that, those that wait longest for a request are closed, and a new one where none waits. A request
under way is never ended for another one. Who does not send the head of a request within `HEAD_S` is closed in any case; between
two requests uvicorn waits 5 s for the next one to begin.
"""

from __future__ import annotations

import contextlib
import heapq
import os
from typing import TYPE_CHECKING

import h11  # comes with uvicorn, whose parser it is
from uvicorn.protocols.http.h11_impl import H11Protocol

from . import errors
from .guard import CACHE_CONTROL, SECURITY

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

HEAD_S = 20.0
"""Seconds from the first byte of a request, or from the beginning of a connection, until its head is whole."""
CONNECTIONS_MAX = 10_000
ACCEPTED_MAX = 64
"""Connections that are accepted in one turn of the loop; they are counted a turn or two later."""
RESERVE = 256 + ACCEPTED_MAX
"""Descriptors for the store, for processes and for what is accepted and not counted yet."""
SHARE = 32
"""Where one has to go, so does this part of those that wait: then not every new one looks at all."""
_HEADERS = [(b"content-type", errors.MEDIA_TYPE.encode()), CACHE_CONTROL, (b"connection", b"close"), *SECURITY]


def raise_limit() -> None:
    """Let this process open as many files as it may allow itself and `CONNECTIONS_MAX` need; otherwise there are fewer."""
    if os.name == "posix":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 2 * CONNECTIONS_MAX + RESERVE
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if resource.RLIM_INFINITY != soft < allowed:
            with contextlib.suppress(OSError, ValueError):  # a system may allow less than it says
                resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def connections_max() -> int:
    """How many connections there may be at once, by what the process may open now."""
    if os.name != "posix":
        return CONNECTIONS_MAX
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return CONNECTIONS_MAX if soft == resource.RLIM_INFINITY else max(1, min(CONNECTIONS_MAX, (soft - RESERVE) // 2))


class Protocol(H11Protocol):
    """Answers bytes that are no request with a problem, and closes the connection; and closes those that send none."""

    _head_timer: asyncio.TimerHandle | None = None
    _waits_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Count it, and wait for its first request."""
        super().connection_made(transport)
        self._waits_since = self.loop.time()
        self._wait_for_head()
        if len(self.connections) > connections_max():
            _make_room(one for one in self.connections if isinstance(one, Protocol))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; the time for a head runs from its first byte, however many come later."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._head_timer is None and self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self._wait_for_head()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._waits_since = self.loop.time()
        super().on_response_complete()

    @property
    def waits_since(self) -> float | None:
        """Since when it waits for a request, by the loop's clock; None while one is under way."""
        return self._waits_since if self.cycle is None or self.cycle.response_complete else None

    def drop(self) -> None:
        """End it now; what it was still to be sent is lost."""
        self.connections.discard(self)  # before the loop says so, since others are counted meanwhile
        self.transport.abort()

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_S, self.timeout_keep_alive_handler)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def send_400_response(self, msg: str) -> None:
        """Refuse what came; where an answer is under way already, it breaks off."""
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            content = errors.encode(errors.problem(400, "the request is no HTTP/1.1", instance="", hint=msg))
            headers = [*_HEADERS, (b"content-length", str(len(content)).encode())]
            for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=content), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None:  # a request whose body broke off here; its handler learns that nobody waits
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()


def _make_room(connections: Iterable[Protocol]) -> None:
    """End those that wait longest for a request; the newest, for whom there is no room, is one that waits."""
    waiting = [(since, id(one), one) for one in connections if (since := one.waits_since) is not None]
    for _, _, one in heapq.nsmallest(1 + len(waiting) // SHARE, waiting):
        one.drop()
