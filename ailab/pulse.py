"""The one thread of a process beside its training: signs of life, use of the machine, printed lines, word of what is not shipped.

It works for all open runs of the process, from the first one on; without an open run, or a reason to, it sleeps. Who calls: the
recorder, when a run begins (`join`) and when the process ends (`stop`); the run, when it ends (`leave`).

What holds. Nothing here is imported by `import ailab`, waited for by `log`, or raised into the training, with `strict` neither:
what goes wrong is said once. A fork waits for its imports and nothing else (`forks`); the child has no thread of this kind, and
nothing of what this one was at, until it begins a run of its own. The end of the process is not delayed by more than
`STOP_SECONDS`. What is not promised: that a figure is there for a run of less than `FIRST_SECONDS`; and a driver that never
answers stops this thread, not the training.
"""

from __future__ import annotations

import os
import threading
import time
from _thread import allocate_lock
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING

from . import console, forks
from .events import SystemMetricsLogged
from .runs import Edge, current, say

if TYPE_CHECKING:
    from .events import ConsoleLinesLogged
    from .gauges import Gauges
    from .runs import Run

BEAT_SECONDS = 15.0
"""A writer that said nothing for so long says that it is there."""
TICK_SECONDS = 1.0
"""How often printed lines are written."""
SAMPLE_SECONDS = 15.0
FIRST_SECONDS = 3.0
"""When a run that begins is measured for the first time; it has begun to use the machine by then."""
LAST_SECONDS = 2.0
"""A run that ends is measured once more, if the last time was so long ago."""
STOP_SECONDS = 0.5


class Pulse:
    """One for a process and the children that it forks; `start` makes the thread.

    Attributes:
        pid: the process that the thread is in.
    """

    def __init__(self) -> None:
        self.pid = 0
        self._tee = console.Tee(current.get, self._keep, self._call, self._warn)
        self.forked()

    def forked(self) -> None:
        """Begin anew, in a forked child too: its parent's runs are not its own, and neither is the thread."""
        self._work = allocate_lock()  # held while something is done
        self._wake = allocate_lock()  # whoever calls lets it go; unlike an Event it may be called from a signal handler
        self._wake.acquire()
        self._idle = self._stopped = False
        self._thread: threading.Thread | None = None
        self._runs: dict[str, Run] = {}
        self._joined: dict[str, float] = {}
        self._said: dict[str, tuple[str, int]] = {}
        self._beat_at = 0.0
        self._gauges: Gauges | None = None
        self._sample_at = inf
        self._sampled_at = 0.0
        self._tee.forked()

    def start(self) -> None:
        """Make the thread, in the process that calls.

        Raises:
            RuntimeError: there can be no more threads.
        """
        self.pid = os.getpid()
        self._beat_at = time.monotonic() + BEAT_SECONDS
        self._thread = threading.Thread(target=self._go_on, name="ailab-pulse", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, because the process ends; wait for a piece of work, but not for long."""
        self._stopped = True
        self._call()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    # -- runs --------------------------------------------------------------------------------------------------------

    def join(self, run: Run) -> None:
        """Work for a run that has begun."""
        with _quietly(run):
            self._runs[run.id], self._joined[run.id] = run, time.monotonic()
            if run._setting.console:
                self._tee.open(run)
            if run._setting.system_metrics:
                self._sample_at = min(self._sample_at, self._joined[run.id] + FIRST_SECONDS)
            run._pulse = self
            if self._idle:
                self._idle = False
                self._call()

    def leave(self, run: Run, *, final: bool = False) -> None:
        """Write what is left of a run that ends; `final` is for a signal handler that ends the process."""
        if self._runs.get(run.id) is not run or run._pid != os.getpid():
            return
        with _quietly(run):
            self._tee.close(run, final=final)
            joined = self._joined.pop(run.id, inf)
            if not final and run._setting.system_metrics and time.monotonic() - joined >= FIRST_SECONDS:
                self._measure_last()
            self._runs.pop(run.id, None)
            self._said.pop(run.id, None)
            if not any(other._setting.system_metrics for other in list(self._runs.values())):
                self._sample_at = inf

    def _call(self) -> None:
        """Wake the thread."""
        with suppress(RuntimeError):  # it was called, and has not come yet
            self._wake.release()

    def _keep(self, run: Run, event: ConsoleLinesLogged, final: bool) -> None:  # noqa: FBT001  (a callback)
        with _quietly(run):
            if run._writer is not None:
                run._writer.append(event, final=final)

    def _warn(self, message: str) -> None:
        silent = all(run._setting.silent for run in list(self._runs.values()))
        say(message, once=message, silent=silent)

    # -- the thread --------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        while not self._stopped:
            self._idle = not self._runs  # first the word, then the look: `join` does it the other way round
            self._wake.acquire(timeout=-1 if self._idle and not self._runs else TICK_SECONDS)
            with self._work:
                if self._runs and not self._stopped:
                    self._take_turn(list(self._runs.values()))

    def _take_turn(self, runs: list[Run]) -> None:
        """Do what is due now."""
        with _quietly(runs[-1]):
            if self._tee.live:
                self._tee.install(follow=True)
                self._tee.drain()
        with _quietly(runs[-1]):
            now = time.monotonic()
            if self._gauges is None and now >= self._sample_at - TICK_SECONDS:
                self._begin_to_measure(now)
            elif now >= self._sample_at:
                self._measure(runs)
        if time.monotonic() >= self._beat_at:
            self._beat_at = time.monotonic() + BEAT_SECONDS
            for run in runs:
                with _quietly(run):
                    self._beat(run)
                with _quietly(run):
                    run._tell_of_shipping(early=True)

    def _beat(self, run: Run) -> None:
        """Let a writer that said nothing since the last time say that it is there."""
        writer = run._writer
        if writer is None or run._pid != os.getpid():
            return
        said = (writer.name, writer.lines())
        if self._said.get(run.id) == said:
            writer.beat()
            said = (writer.name, writer.lines())
        self._said[run.id] = said
        writer.look()

    # -- the use of the machine --------------------------------------------------------------------------------------

    def _begin_to_measure(self, now: float) -> None:
        """Read the counters that rates are told from; a tick later they have grown."""
        with forks.undivided():
            from .gauges import Gauges

        try:
            self._gauges = Gauges(self._warn)
            self._sample_at = max(self._sample_at, now + TICK_SECONDS)
        except ImportError as problem:
            self._sample_at = inf
            self._warn(f"the use of the machine is not recorded: {problem}; training goes on")

    def _measure(self, runs: list[Run]) -> None:
        """Write one reading to each of the runs that want one."""
        self._sampled_at = time.monotonic()
        self._sample_at = self._sampled_at + SAMPLE_SECONDS
        wanted = [(run, run._writer) for run in runs if run._setting.system_metrics and run._pid == self.pid]
        stores = {writer.store.path for _, writer in wanted if writer is not None}
        found = self._gauges.read(stores) if self._gauges is not None and stores else {}
        for run, writer in wanted:
            with _quietly(run):
                if writer is not None and run.status == "running":
                    writer.append(SystemMetricsLogged(values=found[writer.store.path]))

    def _measure_last(self) -> None:
        """Write one more reading to a run that ends, where the gauges are at hand and nobody is reading them now."""
        if self._gauges is None or time.monotonic() - self._sampled_at < LAST_SECONDS or not self._work.acquire(blocking=False):
            return
        try:
            self._measure(list(self._runs.values()))
        finally:
            self._work.release()


def _quietly(run: Run) -> Edge:
    """The edge of this thread: with `strict` too an error ends here, since nobody could catch it."""
    return Edge(run, strict=False)
