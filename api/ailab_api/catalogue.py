"""The server's hold on a store: one catalogue for all questions, one writer for all actions, from startup to shutdown.

Only the event loop's thread uses them. A question sees every event that was written more than `MAX_AGE_S` and a request
before; an action brings the catalogue up to date before and after, so what was written through this server is seen at once.
"""

from __future__ import annotations

import errno
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ailab.actions import Actions
from ailab.errors import AilabError, StoreError
from ailab.store import find_store, open_store
from ailab.views import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from litestar import Request

    from ailab.queries import RunDetail
    from ailab.settings import Settings

MAX_AGE_S = 0.2
_log = logging.getLogger("ailab_api")


class Catalogue:
    """A store, opened for a server; made where there is none, so that a page is there before the first run.

    Args:
        setting: names the store and the installation.

    Raises:
        StoreError: the store cannot be opened or made.
    """

    def __init__(self, setting: Settings) -> None:
        self.project = setting.installation
        self._lab = Lab(open_store(setting.dir or find_store(), create=True))
        self._actions = Actions(self._lab, via="http")
        self._rebuilt_s = 0.0
        self.lab()

    def lab(self) -> Lab:
        """The catalogue, at most `MAX_AGE_S` old.

        Raises:
            StoreError: the store's files cannot be read now.
        """
        with self._naming_the_store():
            self._lab.refresh(MAX_AGE_S)
        if self._lab.rebuilt_s != self._rebuilt_s:
            self._rebuilt_s = self._lab.rebuilt_s
            _log.warning("the snapshot of what is compacted was computed anew in %.1f s", self._rebuilt_s)
        return self._lab

    def note(self, run_id: str, text: str) -> RunDetail:
        """Set the note of a run; see `Actions.note`."""
        with self._naming_the_store():
            return self._actions.note(run_id, text)

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
        self._actions.close()
        self._lab.close()


def catalogue_of(request: Request[Any, Any, Any]) -> Catalogue:
    """The catalogue of the server that a request came to."""
    found: Catalogue = request.app.state.catalogue
    return found


def lab_of(request: Request[Any, Any, Any]) -> Lab:
    """The catalogue's tables, fresh enough to answer a request."""
    return catalogue_of(request).lab()
