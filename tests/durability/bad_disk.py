"""A disk that does what it is told, for processes that are started by tests: errors, short writes and stalls of segments.

`Disk()` replaces `os.open`, `os.write` and the flushes of its own process; do it before a run is started, since the fast path of
`log` keeps the function that it finds then. Everything but segments goes through untouched, and so does everything while no fault
is set.
"""

from __future__ import annotations

import errno
import os
import time
from typing import Any

from unprotected import is_segment


class Disk:
    """The faults of segments in this process.

    Attributes:
        write_error: number of the error that `write` raises, or None.
        open_error: the same for `open` of a segment that is to be made.
        flush_error: the same for flushes, once; then they succeed, as the kernel's do, over what was lost.
        short: how many bytes a write takes at most, or None.
        seconds: how long every write waits.
        only: a text that is in the names of the segments that wait; by default all do.
    """

    def __init__(self) -> None:
        self.write_error: int | None = None
        self.open_error: int | None = None
        self.flush_error: int | None = None
        self.short: int | None = None
        self.seconds = 0.0
        self.only = ""
        self._writes: list[str] = []
        self._write, self._open, self._fsync, self._fdatasync = os.write, os.open, os.fsync, os.fdatasync
        os.write, os.open = self.write, self.open
        os.fsync = lambda fd: self.flush(fd, self._fsync)
        os.fdatasync = lambda fd: self.flush(fd, self._fdatasync)
        import sys

        if "ailab.journal" in sys.modules:
            sys.modules["ailab.journal"]._flush = os.fdatasync

    def write(self, fd: int, data: Any) -> int:
        """`os.write` with the faults."""
        if not is_segment(fd):
            return self._write(fd, data)
        path = os.readlink(f"/proc/self/fd/{fd}")
        self._writes.append(path)
        if self.seconds and self.only in path:
            time.sleep(self.seconds)
        if self.write_error is not None:
            raise OSError(self.write_error, os.strerror(self.write_error))
        return self._write(fd, data if self.short is None else bytes(data[: self.short]))

    def writes_of(self, text: str) -> int:
        """How many writes were asked for of segments with `text` in their names."""
        return sum(text in path for path in self._writes)

    def open(self, path: Any, flags: int, *rest: Any, **named: Any) -> int:
        """`os.open` with the faults."""
        if self.open_error is not None and flags & os.O_CREAT and str(path).endswith(".jsonl"):
            raise OSError(self.open_error, os.strerror(self.open_error), path)
        return self._open(path, flags, *rest, **named)

    def flush(self, fd: int, real: Any) -> None:
        """`os.fsync` and `os.fdatasync` with the faults."""
        if self.flush_error is not None and is_segment(fd):
            error, self.flush_error = self.flush_error, None
            raise OSError(error, os.strerror(error))
        real(fd)


def number(name: str) -> int:
    """The number of an error."""
    return int(getattr(errno, name))
