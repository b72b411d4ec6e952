"""Clocks and hosts that are wrong, for processes that are started by tests: `set_clock(function)` and `be_host(name)`.

The clock of the system stays as it is; what the package asks for the time gets the function's answer. Do it before a run is
started, since the fast path of `log` keeps the function that it finds then.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

real_time = time.time


def set_clock(clock: Callable[[], float]) -> None:
    """Let every question for the time be answered by `clock`, in seconds since 1970."""
    from ailab import journal

    class Clock:
        fromisoformat = datetime.fromisoformat

        @staticmethod
        def now(_: object = None) -> datetime:
            return datetime.fromtimestamp(clock(), timezone.utc)

    time.time = clock
    journal.datetime = Clock


def be_host(name: str) -> None:
    """Let this process be on a machine called `name`, which no other one was started with."""
    from ailab import capture

    capture.host_name = lambda: name
    capture.boot_id = lambda: f"boot-of-{name}"
