"""The server's hold on a store: one catalogue for all questions, one writer for all actions, from startup to shutdown.

Only the event loop's thread uses them, but for lists of runs: `Catalogue.ask` finds those in a few threads, so that two take no
longer than one where there are two cores. What changes the catalogue waits until they are found. A question sees every event that
was written more than `MAX_AGE_S` and a request before; an action brings the catalogue up to date before and after, so what was
written through this server is seen at once.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from ailab import events, inventory, queries
from ailab.actions import Actions
from ailab.errors import AilabError, StoreError
from ailab.receiving import Receiver, check_name
from ailab.sandbox import Sandbox
from ailab.store import find_store, open_store, run_of_segment
from ailab.views import Lab

from .contract import actor, named
from .crews import Crew
from .errors import RevokedError
from .exposition import Family, Histogram, counter, counters, gauge, gauges, histograms
from .following import News
from .meters import Holdings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from litestar import Request

    from ailab.settings import Settings
    from ailab.store import Store

    from .access import Actor

_T = TypeVar("_T")
MAX_AGE_S = 0.2
TAKE_S = 0.3
"""How long a question may take in new events: a million that were shipped at once are not waited for by everybody."""
ASKERS = max(2, min(4, os.cpu_count() or 1))
"""Questions that are asked at once in threads."""
QUERIES_MAX = 8
"""Queries that may be asked at once; one is answered, the others wait for it."""
READERS = 2
"""Files that are examined or read at once; each may take much memory (`confined.MEMORY`)."""
ACCEPTED_MAX = 100_000
"""Segments that are known to be accepted; more are read from the store again."""
FILES_MAX = 32
"""Files that are being read or wait for it."""
_log = logging.getLogger("ailab_api")


class Catalogue:
    """A store, opened for a server; made where there is none, so that a page is there before the first run.

    Args:
        setting: names the store and the installation.

    Attributes:
        news: tells those who follow what changes.
        holdings: how many bytes the store has.
        sandbox: answers SQL, one query at a time.
        queries: those who wait for it.
        readers: those who wait for a file that is examined, or read for a preview.

    Raises:
        StoreError: the store cannot be opened or made.
    """

    def __init__(self, setting: Settings) -> None:
        self.project = setting.installation
        self._lab = Lab(open_store(setting.dir or find_store(), create=True))
        self._actions = Actions(self._lab, via="http")
        self.sandbox = Sandbox(self._lab.store.path)
        self.receiver = Receiver(self._lab.store)
        self.queries = Crew("queries", threads=QUERIES_MAX, most=QUERIES_MAX)
        self.readers = Crew("files", threads=READERS, most=FILES_MAX)
        self._askers = ThreadPoolExecutor(ASKERS, thread_name_prefix="ailab-asker")
        self._accepted: set[tuple[str, str | None]] = set()
        self._rebuilt_s = 0.0
        self._refreshed_at = 0.0
        self._refreshes = Histogram()
        self._known: list[Family] = []
        self.holdings = Holdings(self._lab.store)
        self.news = News(self.lab)
        self.news.look()

    def lab(self) -> Lab:
        """The catalogue, at most `MAX_AGE_S` old; while a flood of events comes in, with what there was time for.

        Raises:
            StoreError: the store's files cannot be read now.
        """
        began, before = time.monotonic(), self._lab.refreshed_at
        with self._naming_the_store():
            self._lab.refresh(MAX_AGE_S, within_s=TAKE_S)
        self._refreshed_at = self._lab.refreshed_at
        if self._refreshed_at != before:
            self._refreshes.observe(time.monotonic() - began)
        if self._lab.rebuilt_s != self._rebuilt_s:
            self._rebuilt_s = self._lab.rebuilt_s
            _log.warning("the snapshot of what is compacted was computed anew in %.1f s", self._rebuilt_s)
        return self._lab

    async def ask(self, question: Callable[[Lab], _T], *, views: bool = False) -> _T:
        """What a question finds in the catalogue as `lab` gives it, asked in a thread while other requests are answered.

        Args:
            question: what only reads; it may raise.
            views: whether it reads views, which are made first.

        Raises:
            StoreError: the store's files cannot be read now.
        """
        lab = self.lab()
        if views:
            lab.make_views()

        def asked() -> _T:
            with self._naming_the_store(), lab.reading():
                return question(lab)

        return await asyncio.get_running_loop().run_in_executor(self._askers, asked)

    def touch(self) -> None:
        """Let the next question see what was written a moment ago by another door than the actions."""
        self._lab.refreshed_at = 0.0

    def marks_of_tokens(self) -> tuple[object, ...]:
        """What is another thing as soon as a token was made or revoked, without reading an event.

        Both are written to segments without a run: names and sizes of those that others write, and how many of these events this
        server wrote itself, whose own segment grows with every segment that is shipped to it.

        Raises:
            StoreError: the store's files cannot be read now.
        """
        found = [self._actions.appended[kind] for kind in (events.TokenCreated.kind, events.TokenRevoked.kind)]
        sizes = set()
        with self._naming_the_store():
            for name in self.store.segment_names():
                if run_of_segment(name) is None and name != self._actions.segment:
                    with suppress(FileNotFoundError):  # in tables since it was listed
                        sizes.add((name, os.stat(self.store.segment_path(name)).st_size))
        return (*found, frozenset(sizes))

    @contextmanager
    def acting(self, actor: Actor) -> Iterator[Actions]:
        """The actions of the store, in somebody's name.

        Raises:
            StoreError: the store's files cannot be read or written now.
        """
        with self._naming_the_store():
            yield self._actions.acting(actor.by, only=actor.project)

    def has_accepted(self, segment: str, by: str | None) -> bool:
        """Whether the store has noted that it takes a segment in from this person or token.

        What this server noted itself it knows; what another one did matters only of a segment that is here, and only then is the
        store read for it: whoever ships a million events would otherwise wait until they are taken into the views.

        Raises:
            RejectedError: it is no name of a segment.
        """
        check_name(segment)
        if (segment, by) not in self._accepted and os.path.exists(self.store.segment_path(segment)):
            asked = 'SELECT 1 FROM base.accepted_table WHERE segment = ? AND "by" IS NOT DISTINCT FROM ?'
            if not self.lab().rows(asked, [segment, by]):
                return False
            self._accepted.add((segment, by))
        return (segment, by) in self._accepted

    def accept(self, segment: str, offset: int, who: Actor) -> None:
        """Note that bytes of a segment come from somebody.

        Raises:
            StoreError: the store's files cannot be written now.
        """
        with self.acting(who) as actions:
            actions.accept_segment(segment, offset=offset, token=who.token, address=who.address)
        if len(self._accepted) >= ACCEPTED_MAX:
            self._accepted.clear()
        self._accepted.add((segment, who.by))

    @property
    def store(self) -> Store:
        """The store."""
        return self._lab.store

    def families(self) -> list[Family]:
        """What is known of the store now; where it cannot be read, as it was when it could, and the view's age grows."""
        with suppress(StoreError):  # whoever asks for more than figures is told
            lab = self.lab()
            open_segments, segments = lab.segments
            self._known = [
                gauges("ailab_runs", "Runs that are not in the trash.", ("status",), queries.runs_by_status(lab)),
                gauge("ailab_segments", "Segments that are not wholly in tables.", segments),
                gauge("ailab_segments_open", "Those of them that have not ended.", open_segments),
                gauge("ailab_store_problems", "Places of the store that cannot be used; see ailab doctor.", len(lab.problems)),
            ]
        return [
            *self._known,
            gauge("ailab_view_age_seconds", "Time since the store was last read.", time.monotonic() - self._refreshed_at),
            histograms("ailab_view_refresh_seconds", "Time that reading what is new took.", (), {(): self._refreshes}),
            counters("ailab_events_appended_total", "Events that this server wrote.", ("kind",), self._actions.appended),
            gauge("ailab_streams_open", "Readers of /stream.", self.news.followers),
            gauge("ailab_sql_queries", "SQL queries that are answered or wait.", self.queries.under_way),
            gauge("ailab_files_examined", "Files that are examined or wait.", self.readers.under_way),
            gauge("ailab_sql_processes", "Processes that answer SQL.", int(self.sandbox.is_running)),
            counter("ailab_sql_kills_total", "Queries that ended their process: a limit, or given up.", self.sandbox.killed),
        ]

    @contextmanager
    def _naming_the_store(self) -> Iterator[None]:
        """Turn an error of the operating system into one that says what it means: the store cannot be read now."""
        try:
            yield
        except AilabError:
            raise
        except OSError as problem:
            code = errno.errorcode.get(problem.errno or 0, "OSError")
            raise StoreError(f"the store cannot be read ({code})", path=self._lab.store.path) from problem

    def close(self) -> None:
        """Seal the writer's segment and let go of the catalogue."""
        self._askers.shutdown()
        self.queries.close()
        self.readers.close()
        self.sandbox.close()
        self.receiver.close()
        self._actions.close()
        self._lab.close()


def catalogue_of(request: Request[Any, Any, Any]) -> Catalogue:
    """The catalogue of the server that a request came to."""
    found: Catalogue = request.app.state.catalogue
    return found


@contextmanager
def acting(request: Request[Any, Any, Any]) -> Iterator[Actions]:
    """The actions of the store, in the name of whoever sent a request, where they may still send it; see `check_still`."""
    check_still(request)
    with catalogue_of(request).acting(actor(request)) as actions:
        yield actions


def check_still(request: Request[Any, Any, Any]) -> None:
    """Refuse what came slowly, if it would be refused now: tokens are revoked, and runs are moved, while a body is under way.

    Called behind every body, and again before anything is written.

    Raises:
        RevokedError: the token counts no more.
        NotFoundError: the token does not reach the run that the path names.
    """
    app: Any = request.app
    if not app.guard.still_knows(request.scope):
        raise RevokedError
    if "run_id" in request.path_params:
        run_of(request)


def lab_of(request: Request[Any, Any, Any]) -> Lab:
    """The catalogue's tables, fresh enough to answer a request."""
    return catalogue_of(request).lab()


def run_of(request: Request[Any, Any, Any]) -> str:
    """The run that a path names, if it is there for whoever sent the request.

    Raises:
        NotFoundError: it is of a project that the token does not reach.
    """
    run_id, who = named(request, "run_id"), actor(request)
    if who.project is not None:
        who.check_project("run", run_id, queries.get_run(lab_of(request), run_id).project_id)
    return run_id


def runs_of(request: Request[Any, Any, Any], run_ids: list[str]) -> list[str]:
    """The same of several runs; those that are not there are left to whoever asks for them."""
    who = actor(request)
    if who.project is not None:
        for run in queries.get_runs_by_ids(lab_of(request), run_ids):
            who.check_project("run", run.run_id, run.project_id)
    return run_ids


def project_of(request: Request[Any, Any, Any]) -> str:
    """The project that a path names, if it is there for whoever sent the request.

    Raises:
        NotFoundError: the token does not reach it.
    """
    project_id = named(request, "project_id")
    actor(request).check_project("project", project_id, project_id)
    return project_id


def dataset_of(request: Request[Any, Any, Any], *, trashed: bool = False) -> str:
    """The id of the dataset version that a path means, if it is there for whoever sent the request; see `find_dataset`.

    Raises:
        NotFoundError: there is none, or the token does not reach it.
    """
    text, who = named(request, "dataset_id"), actor(request)
    return inventory.find_dataset(lab_of(request), text, only=who.project, trashed=trashed)
