"""Asks SQL in a process of its own, killed at its deadline or when it takes too much memory; rows come as they are found.

The process opens the store's catalogue once and answers one query after the other; after a kill the next query starts another
one. An answer is lines: a head with columns and types, an array for each row, and a tail, which begins with a blank.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

import msgspec

from . import confined
from .errors import AilabError, FilterError, NotFoundError, RefusedError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

SECONDS = 30.0
MEMORY = 2 << 30
"""Bytes that the process may have in memory, its catalogue among them."""
SIZE = 256 << 20
"""Bytes of an answer."""


class Question(msgspec.Struct):
    """One query: at most `limit` rows, and at most `size` bytes of them."""

    sql: str
    limit: int
    size: int


class Head(msgspec.Struct):
    """What the columns of an answer are, and how many places of the store could not be read."""

    columns: list[str]
    types: list[str]
    problems: int = 0


class Tail(msgspec.Struct):
    """How an answer ends: `truncated` says that there are more rows; a `message` says why there is none."""

    truncated: bool = False
    message: str | None = None
    hint: str = ""
    where: str = ""
    kind: str = ""


Part = Head | bytes | Tail


class Sandbox:
    """A process that answers SQL over a store, started when it is first asked. One query at a time.

    Args:
        store: path of the store.
        memory: at how many bytes it is killed.

    Attributes:
        killed: how many queries took their process with them: at a limit, in a crash, or because nobody waited any more.
    """

    def __init__(self, store: str, *, memory: int = MEMORY) -> None:
        self._store = store
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = ""
        self._busy = threading.Lock()
        self.killed = 0

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        process = self._process
        return process is not None and process.poll() is None

    def ask(
        self, sql: str, *, limit: int, seconds: float = SECONDS, size: int = SIZE, given_up: threading.Event | None = None,
        killed: Callable[[AilabError], object] | None = None,
    ) -> Generator[Part, None, None]:  # fmt: skip
        """The parts of an answer: its head, then rows as lines of JSON, then its tail. Whoever stops early ends the process.

        Nobody else is answered until whoever asked has the tail or closes the generator, also after the process was killed; who
        may be slow to take parts is told by `killed`, and closes it then.

        Args:
            sql: the query.
            limit: how many rows at most.
            seconds: when the process is killed, from when it begins with this query.
            size: how many bytes of rows at most.
            given_up: set by another thread once nobody waits for it any more: it ends at once, or does not begin.
            killed: called by another thread once a limit ended the process, with the error that says which.

        Raises:
            FilterError: the query is not one that may be asked, or took too long or too much memory; also between rows.
            StoreError: the store cannot be read.
        """
        while not self._busy.acquire(timeout=0.1):
            if given_up is not None and given_up.is_set():
                return
        try:
            process = self._started()
            assert process.stdin is not None  # noqa: S101  (pipes)
            assert process.stdout is not None  # noqa: S101
            ended = False

            def kill() -> None:
                process.kill()
                if killed is not None and not (given_up is not None and given_up.is_set()):
                    killed(_limit(watch))

            watch = confined.Watch(process.pid, seconds=seconds, memory=self._memory, kill=kill, given_up=given_up)
            try:
                with watch:
                    with suppress(BrokenPipeError):
                        process.stdin.write(msgspec.json.encode(Question(sql, limit, size)) + b"\n")
                        process.stdin.flush()
                    for part in _parts(process.stdout):
                        ended = isinstance(part, Tail)
                        if isinstance(part, Tail) and part.message is not None:
                            raise _error(part)
                        yield part  # who has the tail may leave, and the process stays for the next query
                        if ended:
                            return
                self.killed += 1
                raise _death(watch, process)
            except GeneratorExit:
                self.killed += not ended
                raise
            finally:
                if not ended:
                    self.close()
        finally:
            self._busy.release()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._let_go()
            self._folder = tempfile.mkdtemp(
                prefix=f"ailab-view-{os.getpid()}-"
            )  # as `views.scratch` names what is this process's
            environment = confined.environment() | {"TMPDIR": self._folder}
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ailab.views.sandbox", self._store], **confined.APART, env=environment
            )
        return self._process

    def close(self) -> None:
        """End the process, and remove what it kept beside itself."""
        self._let_go()

    def _let_go(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
            shutil.rmtree(self._folder, ignore_errors=True)


def _parts(lines: IO[bytes]) -> Iterator[Part]:
    head: Head | None = None
    for line in lines:
        if line.startswith(b" "):
            yield msgspec.json.decode(line, type=Tail)
            return
        if head is None:
            head = msgspec.json.decode(line, type=Head)
            yield head
        else:
            yield line[:-1]


def _error(tail: Tail) -> AilabError:
    """What the process says went wrong, as its own class."""
    message = tail.message or ""
    if tail.kind == "StoreError":
        return StoreError(message.rpartition(": ")[0], path=message.rpartition(": ")[2], hint=tail.hint)
    if tail.kind == "NotFoundError":
        return NotFoundError("position", message.partition(" ")[2], hint=tail.hint)
    if tail.kind in {"DamageError", "RefusedError"}:
        return RefusedError(message, hint=tail.hint)
    return FilterError(message, where=tail.where, hint=tail.hint)


def _limit(watch: confined.Watch) -> AilabError:
    return FilterError(f"the query {watch.verdict}", where="sql", hint="ask for less: fewer rows, a narrower condition")


def _death(watch: confined.Watch, process: subprocess.Popen[bytes]) -> AilabError:
    if watch.verdict:
        return _limit(watch)
    words = b"" if process.stderr is None else process.stderr.read()
    said = words.decode("utf-8", "replace").strip().splitlines()
    return FilterError(f"the query ended its process: {said[-1][:200] if said else 'without a word'}", where="sql")


def collect(parts: Iterator[Part]) -> tuple[Head, list[Any], bool]:
    """(head, rows, whether there are more) of an answer that fits into memory."""
    head, rows, truncated = Head([], []), [], False
    for part in parts:
        if isinstance(part, Head):
            head = part
        elif isinstance(part, Tail):
            truncated = part.truncated
        else:
            rows.append(msgspec.json.decode(part))
    return head, rows, truncated
