"""One sitting: how large the work is, and the stores that several parts ask, each made once.

`QUICK` keeps the whole below about five minutes: a tenth of the runs, fewer rounds, no other systems.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from typing import Any

from adapters.ailab_local import can_compact, compact_command
from rooms import FailedError, Room, clear_up, say


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    runs: int = 100_000
    many_runs: int = 1_000_000
    own_segments: int = 2_000
    steps: int = 100_000
    many_points: int = 1_000_000
    blocks: int = 80
    rounds: int = 12
    calls: int = 5
    refreshes: int = 25
    processes: int = 8
    parallel_calls: int = 2_000
    parallel_rounds: int = 5
    kills: int = 20
    imports: int = 15
    first_runs: int = 9
    later_runs: int = 60
    cold_opens: int = 5
    readers: int = 5
    serve_s: float = 8.0
    upload_mb: int = 500
    uploads: int = 5
    shipped: int = 1_000_000
    ships: int = 3
    budget_s: float = 30.0


FULL = Sizes()
QUICK = Sizes(
    runs=10_000, many_runs=0, own_segments=300, blocks=40, rounds=8, refreshes=20, parallel_rounds=3, kills=5, imports=9,
    first_runs=5, cold_opens=3, readers=3, serve_s=3.0, upload_mb=100, uploads=3, shipped=100_000, ships=2, budget_s=10.0,
)  # fmt: skip


class Sitting:
    """The sizes, and the stores made so far.

    Args:
        sizes: how much of everything.
    """

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self._stores: dict[str, StoreOfRuns] = {}
        self._compacts: bool | None = None

    def runs(self, n: int, *, how: str = "populate") -> StoreOfRuns:
        """A store of `n` finished runs: in segments of 16 MiB, or with `populate_by_api` in one each."""
        key = f"{how} {n}"
        if key not in self._stores:
            self._stores[key] = StoreOfRuns(n, how)
        return self._stores[key]

    def forget(self, store: StoreOfRuns) -> None:
        """Remove a store that no later part asks."""
        self._stores = {key: kept for key, kept in self._stores.items() if kept is not store}
        store.close()

    def close(self) -> None:
        """Remove everything."""
        for store in self._stores.values():
            store.close()
        self._stores = {}

    @property
    def compacts(self) -> bool:
        """Whether this version has `ailab compact`."""
        if self._compacts is None:
            self._compacts = can_compact()
            if not self._compacts:
                say("this version has no `ailab compact`: stores are measured as they were written")
        return self._compacts

    def compact(self, room: Room) -> str:
        """Compact the store of a room; return words for the table: how it lies now."""
        if not self.compacts:
            return "not compacted: there is no `ailab compact`"
        start = time.monotonic()
        try:
            done = subprocess.run(
                compact_command(room.store),
                env=room.variables(),
                cwd=room.root,
                capture_output=True,
                text=True,
                check=False,
                timeout=1800,
            )
        except subprocess.TimeoutExpired:
            raise FailedError("ailab compact: not done within 1800 s") from None
        finally:
            clear_up(5)
        if done.returncode:
            raise FailedError(f"ailab compact: {done.stderr.strip()[-200:]}")
        return f"compacted in {time.monotonic() - start:.1f} s"


class StoreOfRuns:
    """A store of finished runs with the limit's table of the same runs; `room` is where it lies."""

    def __init__(self, n: int, how: str) -> None:
        self.n = n
        self.room = Room("ailab_local")
        say(f"writing {n:,} runs, {'one segment each' if how == 'populate_by_api' else 'in segments of 16 MiB'}")
        self.made: dict[str, Any] = self.room.run(f"duels:{how}", root=str(self.room.root), n=n, timeout_s=900)
        self.lies = "as written"
        self.is_compacted = False

    def job(self, name: str, *, timeout_s: float = 180, **given: Any) -> dict[str, Any]:
        """Run a job of `duels` over the store."""
        return self.room.run(f"duels:{name}", timeout_s=timeout_s, root=str(self.room.root), **given)

    def compact(self, sitting: Sitting) -> None:
        """Compact it, once, if that can be done."""
        if self.is_compacted:
            return
        say(f"compacting {self.n:,} runs")
        self.lies = sitting.compact(self.room)
        self.is_compacted = sitting.compacts

    def close(self) -> None:
        """Remove it."""
        with self.room:
            pass
