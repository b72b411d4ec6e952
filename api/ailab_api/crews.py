"""Work that takes longer than an answer should, done in threads of its own: it holds up nothing else, and nobody works in vain.

Uploads, downloads and the journal share the event loop's threads, where every piece of work is short. What may take minutes (a
file that is examined, a query) is done by a crew: so many threads, so much work that waits for them, and more is refused. A
piece of work is told when its client is gone, and when the server stops; it has to end soon then.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import LeftError, TooManyError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from litestar import Request

_T = TypeVar("_T")
AGAIN_S = 2.0
"""When those come again for whom there is no place."""


class Crew:
    """Threads for one kind of work.

    Args:
        what: what the work is, in the plural, for whoever is refused.
        threads: how many there are.
        most: how much work is under way or waits at most.
    """

    def __init__(self, what: str, *, threads: int, most: int) -> None:
        self._what, self._most = what, most
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"ailab-{what}")
        self._work: set[Work] = set()

    @asynccontextmanager
    async def work(self) -> AsyncIterator[Work]:
        """Work for one request, which is given up at the end of the block.

        Raises:
            TooManyError: too much is under way.
        """
        work = self.begin()
        try:
            yield work
        finally:
            await work.end()

    def begin(self) -> Work:
        """Work for one request; whoever begins it ends it.

        Raises:
            TooManyError: too much is under way.
        """
        if len(self._work) >= self._most:
            raise TooManyError(f"{self._what} at once", AGAIN_S)
        work = Work(self._pool, self._work)
        self._work.add(work)
        return work

    @property
    def under_way(self) -> int:
        """How much work there is, what waits among it."""
        return len(self._work)

    def close(self) -> None:
        """Give everything up, and wait for the threads."""
        for work in self._work:
            work.given_up.set()
        self._pool.shutdown(cancel_futures=True)


class Work:
    """What is done for one request, one step after the other.

    Attributes:
        given_up: set once nobody waits for it any more; the steps look at it.
    """

    def __init__(self, pool: ThreadPoolExecutor, among: set[Work]) -> None:
        self.given_up = threading.Event()
        self._pool, self._among = pool, among
        self._step: asyncio.Future[Any] | None = None
        self._ending: asyncio.Task[None] | None = None

    async def step(self, do: Callable[..., _T], *given: Any) -> _T:
        """Do something in a thread; it goes on there when whoever waits is cancelled."""
        step = asyncio.get_running_loop().run_in_executor(self._pool, do, *given)
        self._step = step
        return await asyncio.shield(step)

    async def step_unless_left(self, request: Request[Any, Any, Any], do: Callable[..., _T], *given: Any) -> _T:
        """The same for a request whose body has been read and whose answer has not begun.

        Raises:
            LeftError: the client left before it was done.
        """
        step, left = asyncio.ensure_future(self.step(do, *given)), asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait({step, left}, return_when=asyncio.FIRST_COMPLETED)
            if not step.done():
                raise LeftError
            return step.result()
        finally:
            step.cancel()
            left.cancel()

    async def end(self, do: Callable[[], object] | None = None) -> None:
        """Give it up, and, once the step under way has ended, do what is left to do; the first who ends it says what that is.

        No step may begin after this: what is left to do may not meet one.
        """
        self.given_up.set()
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(do))
        try:
            await asyncio.shield(self._ending)
        finally:
            self._among.discard(self)

    async def _end(self, do: Callable[[], object] | None) -> None:
        if self._step is not None:
            await asyncio.gather(self._step, return_exceptions=True)  # whoever waited for it has seen what it raised
        if do is not None:
            await asyncio.get_running_loop().run_in_executor(self._pool, do)


async def _left(request: Request[Any, Any, Any]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
