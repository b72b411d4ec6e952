"""Many finished runs in a store, written round the recorder: sealed segments of about 16 MiB, each with thousands of runs.

The lines are the format's own, byte for byte what an importer would write: header, then for each run its start with parameters,
one line of points, its end with final metrics, then a footer. Ids and times rise with the number of the run; the last one
ended just now.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from kit import run_record

if TYPE_CHECKING:
    from pathlib import Path

    from ailab.events import Event
    from ailab.store import Store

SEGMENT_BYTES = 16 << 20
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
PROGRESS_EVERY = 20_000


class SealedSegment:
    """One segment being written whole: lines go into memory, `seal` puts the file there."""

    def __init__(self, store: Store, name: str, previous: str | None, clock: int, at: datetime) -> None:
        from ailab import __version__, capture, events

        self.store, self.name, self.clock = store, name, clock
        self.seq = self.prev = self.size = 0
        self._parts: list[bytes] = []
        pid = os.getpid()
        header = events.SegmentOpened(
            format=events.FORMAT, segment=name, ailab=__version__, host=capture.host_name(), pid=pid, user="bench",
            boot=capture.boot_id(), started=capture.process_start(pid), via="import", previous=previous,
        )  # fmt: skip
        self.add(header, None, at)

    def add(self, event: Event, run: str | None, at: datetime) -> None:
        """Put one line behind the others."""
        from ailab.events import Line
        from ailab.segments import encode_line

        line = Line(self.seq, at, self.clock, event.kind, run, None, None, event, self.prev, 0)
        data, self.prev = encode_line(line)
        self._parts.append(data)
        self.seq += 1
        self.clock += 1
        self.size += len(data)

    def seal(self, following: str | None, at: datetime) -> None:
        """Write the footer and the file."""
        from ailab.events import SegmentSealed

        body = b"".join(self._parts)
        digest = hashlib.sha256(body).hexdigest()
        self.add(SegmentSealed(lines=self.seq, bytes=len(body), sha256=digest, next=following), None, at)
        with open(self.store.segment_path(self.name), "xb") as file:
            file.write(body)
            file.write(self._parts[-1])


def populate(folder: Path | str, n: int, *, project: str = "bench") -> list[str]:
    """Write `n` finished runs into the store `folder`; return their ids, oldest first."""
    from ailab import capture
    from ailab.events import MetricsLogged, RunFinished, RunStarted
    from ailab.runs import new_run_id
    from ailab.store import open_store, segment_name

    store = open_store(str(folder), create=True)
    begin = time.time() - n
    ids: list[str] = []

    def fresh_name(moment: float) -> str:
        return segment_name(host=capture.host_name(), pid=os.getpid(), run=None, now=moment)

    started = _moment(begin)
    segment = SealedSegment(store, fresh_name(begin), None, 0, started)
    for i in range(n):
        name, params, metrics = run_record(i)
        moment = begin + i
        run, started = new_run_id(now=moment), _moment(moment)
        ended = started + timedelta(milliseconds=500)
        ids.append(run)
        segment.add(RunStarted(name=name, project=project, params=params, command="python train.py", seed=i), run, started)
        segment.add(MetricsLogged(metrics, 0), run, ended)
        segment.add(RunFinished(status="completed", final_metrics=metrics), run, ended)
        if segment.size >= SEGMENT_BYTES and i + 1 < n:
            following = fresh_name(moment + 0.5)
            segment.seal(following, ended)
            segment = SealedSegment(store, following, segment.name, segment.clock, ended)
        if not (i + 1) % PROGRESS_EVERY:
            print(f"progress: {i + 1:,} of {n:,} runs written", file=sys.stderr, flush=True)
    segment.seal(None, started)
    return ids


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def number_of(run_id: str) -> int:
    """The 128 bits behind an id of 26 characters, so that a limit's UUID can be the same and rise with time as well."""
    number = 0
    for character in run_id:
        number = number << 5 | ALPHABET.index(character)
    return number
