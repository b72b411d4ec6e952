"""Who asks one catalogue at the same time: a connection for each, and turns between those who read and who changes it.

One thread owns the catalogue: it refreshes it, makes its views, and asks with the first connection. Other threads ask within
`Askers.reading`, each with a connection of its own; until they are done nothing is changed. Who changes it waits for them, and
those who come later wait for that, so nobody who asks sees half of a refresh, and no refresh waits for more than one round.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import duckdb

PARSED_MAX = 256
"""Questions that are kept parsed, by each connection."""


class Asker:
    """A connection, with the questions that were asked over it before."""

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self.con = con
        self._parsed: dict[str, duckdb.Statement] = {}

    def rows(self, text: str, values: Sequence[Any]) -> list[Any]:
        """All rows of a question; a text that was asked before is not parsed again, which is a fifth of a short one."""
        parsed = self._parsed.get(text)
        if parsed is None:
            if len(self._parsed) >= PARSED_MAX:
                self._parsed.clear()
            (parsed,) = self.con.extract_statements(text)
            self._parsed[text] = parsed
        return self.con.execute(parsed, list(values)).fetchall()


class Askers:
    """The connections of one catalogue.

    Args:
        con: the owner's; what is set on it for all is so on the others.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self._owner = Asker(con)
        self._spare: list[Asker] = []
        self._mine = threading.local()
        self._turn = threading.Condition()
        self._reading = 0
        self._waiting = 0
        self._changes: int | None = None

    @property
    def mine(self) -> Asker:
        """That of the thread that asks for it."""
        found: Asker = getattr(self._mine, "asker", self._owner)
        return found

    @property
    def is_reading(self) -> bool:
        """Whether the thread that asks for it is within `reading`."""
        return self.mine is not self._owner

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let a thread that does not own the catalogue read it, while others do; until the end nothing is changed."""
        with self._turn:
            self._turn.wait_for(lambda: not self._waiting)
            asker = self._spare.pop() if self._spare else Asker(self._owner.con.cursor())
            self._reading += 1
        self._mine.asker = asker
        try:
            yield
        finally:
            del self._mine.asker
            with self._turn:
                self._spare.append(asker)
                self._reading -= 1
                self._turn.notify_all()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Let a thread change the catalogue once nobody reads; within, the same thread may say so again."""
        assert not self.is_reading, "a question changes nothing: it would wait for itself"  # noqa: S101
        me = threading.get_ident()
        if self._changes == me:
            yield
            return
        with self._turn:
            self._waiting += 1
        try:
            with self._turn:
                self._turn.wait_for(lambda: not self._reading and self._changes is None)
                self._changes = me
            yield
        finally:
            with self._turn:
                self._changes = None if self._changes == me else self._changes
                self._waiting -= 1
                self._turn.notify_all()

    def close(self) -> None:
        """Let go of the connections that are not the owner's; nobody reads any more."""
        for asker in self._spare:
            asker.con.close()
        self._spare.clear()
