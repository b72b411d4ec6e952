"""What points cost afterwards: bytes on disk, reading a history, thinning one for a picture."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from figures import Row, absolute, compared, number, ratios, spread
from kit import TEN, tree_bytes
from rooms import Room, say

if TYPE_CHECKING:
    from sitting import Sitting

BYTES_MAX, READ_MAX, BUCKETS_MAX_MS = 3.0, 1.3, 50
BUCKETS = 2000


def points(sitting: Sitting) -> list[Row]:
    """Ten metrics of 100,000 steps: the size of the whole store as it lies after compaction, then reads of one metric."""
    steps = sitting.sizes.steps
    with Room("ailab_local") as room, Room("limit_raw") as other:
        made = room.run("duels:fill", root=str(room.root), n=steps, metrics=len(TEN))
        count = steps * len(TEN)
        written = tree_bytes(room.store) / count
        lies = sitting.compact(room)
        reads = [room.run("duels:history", root=str(room.root), reads=7) for _ in range(sitting.sizes.readers)]
        whole, bare = tree_bytes(room.store) / count, tree_bytes(room.store, without=("cache",)) / count
        layouts = other.run("duels:limit_layouts", root=str(other.root), n=steps)
    limit = (
        f"JSON lines {number(layouts['lines'])}, one wide Parquet table {number(layouts['parquet'])}, "
        f"DuckDB table {number(made['limit_bytes'] / count)}"
    )
    told = f"{number(whole)} ({number(bare)} without cache/; as written {number(written)}; {lies})"
    work = f"bytes per point, the whole store, 10 metrics × {steps:,} steps"
    first = Row(work, limit, told, "–", f"≤ {BYTES_MAX:g}", whole <= BYTES_MAX)
    return [first, *_reads(reads, lies)]


def _reads(found: list[dict], lies: str) -> list[Row]:
    """Rows about reading: each process gives the median of its seven reads on either side."""
    limit, ours = ([statistics.median(one["reads"][side]) for one in found] for side in ("limit", "ailab"))
    work = f"history of {found[0]['points']:,} points, one metric of ten, a read in a fresh process"
    row = compared(work, "ms", ("DuckDB table", limit), ours, READ_MAX)
    row.measured += f" (first read {number(statistics.median(one['reads']['ailab'][0] for one in found))} ms; {lies})"
    spent = ((name, [one[f"{key}_ms"] for one in found]) for name, key in _SPENT)
    before = Row("before that read", "–", ", ".join(f"{name} {spread(times)} ms" for name, times in spent))
    whole = [time for one in found for time in one["history_ms"]]
    return [row, before, Row("ailab.history() of the same, which opens the store each time", "–", f"{spread(whole)} ms")]


_SPENT = (("import ailab", "import"), ("import duckdb", "duckdb"), ("connect()", "open"))


def buckets(sitting: Sitting) -> list[Row]:
    """A million points of one metric thinned to 2,000 buckets, smallest and greatest value of each kept."""
    n = sitting.sizes.many_points
    with Room("ailab_local") as room:
        say(f"logging {n:,} points")
        room.run("duels:fill", root=str(room.root), n=n, metrics=1, timeout_s=300)
        lies = sitting.compact(room)
        found = room.run("duels:buckets", root=str(room.root), n=BUCKETS, reads=9, timeout_s=300)
    limit, ours = found["reads"]["limit"], found["reads"]["ailab"]
    told = f" ({found['rows']:,} points of {found['total']:,}; {lies})"
    base = f"DuckDB table {number(statistics.median(limit))} ms"
    row = absolute(f"{n:,} points to {BUCKETS:,} buckets", "ms", ours, BUCKETS_MAX_MS, limit=base, more=told)
    row.ratio = f"{spread(ratios(ours, limit))} × DuckDB table"
    return [row]


PARTS = {"points": points, "buckets": buckets}
