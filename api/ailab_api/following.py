"""What changes, told to those who follow: which runs changed, in which order, since the server began.

Every run that changed has the number of its last change; who comes back with the number that they saw last is told of each run
that changed after it, once, as it is now, however often it changed. So a slow reader costs nothing and misses nothing, and what
is kept grows with the number of runs that changed, never with time. Numbers count in an epoch, which ends where any run may have
changed without our seeing which (the catalogue was opened anew, a project got another name): then a cursor says nothing any more,
and whoever has one is told to read the lists again. Only the event loop's thread comes here.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from ailab import queries
from ailab.errors import StoreError
from ailab.queries import RunSummaryView  # noqa: TC001  (a field's type)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from ailab.views import Lab

POLL_S = 0.5
QUIET_S = 15.0
"""After this long without a change a comment is sent, so that a dead connection is noticed."""
LONGEST_S = 3600.0
"""Then a stream ends; who comes back with the cursor goes on, and shows their token again."""
FOLLOWERS_MAX = 200
BATCH = 100
_log = logging.getLogger("ailab_api")


class Place(msgspec.Struct):
    """Where a stream begins, or begins anew."""

    cursor: str


class RunsChanged(msgspec.Struct):
    """Runs as they stand in a list now, and ids of those that left it: into the trash, or for good."""

    runs: list[RunSummaryView]
    gone: list[str]


class News:
    """Numbers the changes of a store's runs.

    Args:
        lab: gives the catalogue, up to date.
    """

    def __init__(self, lab: Callable[[], Lab]) -> None:
        self._lab = lab
        self._numbers: dict[str, tuple[int, str | None]] = {}  # run: number of its last change, project; lowest number first
        self._begin()
        self.ended = asyncio.Event()
        self.followers = 0

    def _begin(self) -> None:
        self._epoch = secrets.token_hex(4)
        self._numbers.clear()
        self._count = 0

    def look(self) -> Lab:
        """Take in what changed since the last look; return the catalogue."""
        lab = self._lab()
        changed = lab.take_changed()
        if changed is None:
            self._begin()
        elif changed:
            projects = queries.projects_of(lab, list(changed))
            for run_id in sorted(changed):
                _, known = self._numbers.pop(run_id, (0, None))
                self._count += 1
                self._numbers[run_id] = (self._count, projects.get(run_id, known))
        return lab

    @property
    def cursor(self) -> str:
        """Where we are."""
        return self._at(self._count)

    def _at(self, number: int) -> str:
        return f"{self._epoch}:{number}"

    def place(self, cursor: str) -> int | None:
        """The number that a cursor means; None where it is of another epoch, or none."""
        epoch, _, text = cursor.partition(":")
        if epoch != self._epoch or not (text.isascii() and text.isdigit() and len(text) < 20):  # noqa: PLR2004  (64 bits)
            return None
        return int(text) if int(text) <= self._count else None

    def after(self, number: int, project: str | None) -> tuple[list[str], str]:
        """The runs that changed after a number, at most `BATCH`; and the cursor up to which that is all.

        Args:
            number: the last one that is known.
            project: only runs of this project; None for all.
        """
        newer = list(self._newer(number, project))[::-1]
        reached = self._count if len(newer) <= BATCH else newer[BATCH - 1][0]
        return [run_id for _, run_id in newer[:BATCH]], self._at(reached)

    def _newer(self, number: int, project: str | None) -> Iterator[tuple[int, str]]:
        for run_id, (count, of) in reversed(self._numbers.items()):
            if count <= number:
                return
            if project is None or of == project:
                yield count, run_id

    def end(self) -> None:
        """Let all streams end."""
        self.ended.set()


class Event(msgspec.Struct, frozen=True):
    """One event of a stream; without data it is a comment."""

    kind: str
    cursor: str
    data: Place | RunsChanged | None


async def follow(
    news: News, cursor: str | None, *, project: str | None, seconds: float, may_hear: Callable[[], bool]
) -> AsyncIterator[Event]:
    """What changes, until the server ends, the time is over, or whoever listens may not any more.

    Without a cursor the first event is `start`. Where a cursor says nothing any more, then or later, it is `reset`. All others
    are `runs`. A comment comes when nothing else did for `QUIET_S`.

    Args:
        news: tells what changed.
        cursor: what was seen last.
        project: the only project that is told of.
        seconds: how long, `LONGEST_S` at most.
        may_hear: asked before anything is told, every `POLL_S`; it may raise StoreError.
    """
    now = asyncio.get_running_loop().time
    until, spoken, seen = now() + min(seconds, LONGEST_S), now(), cursor
    news.followers += 1
    try:
        while not news.ended.is_set():
            event = None
            try:
                if not may_hear():
                    return
                event = _next(news, seen, project)
            except StoreError:
                _log.warning("a stream waits: the store cannot be read now")
            if event is None and now() >= until:
                return
            if event is None and now() - spoken > QUIET_S:
                event = Event("quiet", seen or "", None)
            if event is not None:
                seen, spoken = event.cursor, now()
                yield event
                continue
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(news.ended.wait(), max(0.0, min(POLL_S, until - now())))
    finally:
        news.followers -= 1


def _next(news: News, seen: str | None, project: str | None) -> Event | None:
    """What is to be told to somebody who saw so much; None for nothing.

    Raises:
        StoreError: the store cannot be read now.
    """
    lab = news.look()
    number = None if seen is None else news.place(seen)
    if number is None:
        return Event("start" if seen is None else "reset", news.cursor, Place(news.cursor))
    run_ids, reached = news.after(number, project)
    if not run_ids:
        return None
    runs = queries.summaries(lab, run_ids)
    there = {run.run_id for run in runs}
    return Event("runs", reached, RunsChanged(runs=runs, gone=[run_id for run_id in run_ids if run_id not in there]))
