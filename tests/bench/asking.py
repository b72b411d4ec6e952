"""What whoever asks feels: opening a store of many runs, four questions, and taking in what is new."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from adapters.ailab_local import serve_command
from figures import Row, absolute, failed, number, ratios, spread
from kit import QUESTION_WORDS, QUESTIONS
from rooms import FailedError, free_port, say

if TYPE_CHECKING:
    from sitting import Sitting, StoreOfRuns

OPEN_MAX_S, OPEN_MANY_MAX_S, PEAK_MAX_MB = 1.0, 2.0, 250
ASK_MAX, HTTP_MAX, ASK_MANY_MAX_MS = 1.0, 1.5, 20
POINTS_MAX_MS, RUNS_MAX_MS = 25, 50
SLOW_S = 600
"""A store as it was written may take minutes to open."""


def _cold(store: StoreOfRuns, opens: int) -> tuple[dict[str, list[float]], float]:
    """(figures of fresh processes, seconds of the very first one, which warms the page cache and does not count)."""
    first = store.job("cold", timeout_s=SLOW_S)
    found = [store.job("cold", timeout_s=SLOW_S) for _ in range(opens)]
    return {key: [one[key] for one in found] for key in first}, first["s"]


def _cold_rows(store: StoreOfRuns, opens: int, most_s: float | None) -> list[Row]:
    found, first = _cold(store, opens)
    parts = ", ".join(
        f"{word} {number(statistics.median(found[key]))}"
        for word, key in (("import duckdb", "duckdb_s"), ("connect()", "connect_s"), ("first answer", "answer_s"))
    )
    work = f"{store.n:,} runs: a fresh process from connect() to its first answer"
    more = f" ({parts}; the very first time {number(first)}; {store.lies})"
    if most_s is None:
        return [Row(work, "–", f"{spread(found['s'])} s{more}, peak {spread(found['peak_mb'])} MB")]
    return [
        absolute(work, "s", found["s"], most_s, more=more),
        absolute(f"{store.n:,} runs: peak memory of that process", "MB", found["peak_mb"], PEAK_MAX_MB, more=f" ({store.lies})"),
    ]


def cold(sitting: Sitting) -> list[Row]:
    """The store as it was written, then as it lies after compaction; fresh processes, page cache warm."""
    store, rows = sitting.runs(sitting.sizes.runs), []
    if sitting.compacts and not store.is_compacted:
        say(f"opening {store.n:,} runs as they were written")
        try:
            rows += _cold_rows(store, 1 if store.n > 20_000 else 2, None)
        except FailedError as problem:
            rows.append(failed(f"{store.n:,} runs as written: from connect() to the first answer", problem))
        store.compact(sitting)
    size = f", {store.made['bytes'] / store.n:,.0f} bytes a run as written"
    found = _cold_rows(store, sitting.sizes.cold_opens if store.is_compacted else 2, OPEN_MAX_S)
    found[0].measured += size
    return rows + found


def questions(sitting: Sitting) -> list[Row]:
    """Four questions in process and over HTTP, block by block with the limit's table in process."""
    store = sitting.runs(sitting.sizes.runs)
    store.compact(sitting)
    return _ask(sitting, store, over_http=True, judge="ratio")


def _ask(sitting: Sitting, store: StoreOfRuns, *, over_http: bool, judge: str = "") -> list[Row]:
    """Ask a store; the server runs beside, with every guard on, as `ailab serve` starts it.

    Args:
        sitting: how often.
        store: what is asked.
        over_http: whether a server is asked as well.
        judge: `ratio` to hold the answers against the limit's table, `ms` against a figure of their own, "" not at all.
    """
    sizes = sitting.sizes
    say(f"asking {store.n:,} runs")
    given = {"rounds": sizes.rounds, "calls": sizes.calls, "budget_s": 4 * sizes.budget_s}
    if over_http:
        port = free_port()
        with store.room.server(serve_command(store.room.store, port), port, "/health", timeout_s=SLOW_S):
            found = store.job("questions", timeout_s=SLOW_S, port=port, **given)
    else:
        found = store.job("questions", timeout_s=SLOW_S, port=None, **given)
    sides = (("ailab", "in process"), ("http", "over HTTP")) if over_http else (("ailab", "in process"),)
    rows = []
    for side, way in sides:
        for question in QUESTIONS:
            work = f"{store.n:,} runs, {QUESTION_WORDS[question]}, {way}"
            most = {"ratio": HTTP_MAX if side == "http" else ASK_MAX, "ms": ASK_MANY_MAX_MS}.get(judge)
            times = found["ms"].get(question, {})
            rows.append(_answer(work, times, side, most, judge=judge, lies=store.lies))
    return rows


def _answer(work: str, times: dict[str, list[list[float]]], side: str, most: float | None, *, judge: str, lies: str) -> Row:
    """A row about one question on one side; blocks are compared by their medians."""
    target = "–" if most is None else {"ratio": f"≤ {most:g} × table", "ms": f"≤ {most:g} ms"}[judge]
    if not times.get(side):
        return failed(work, "no answer in time", target)
    limit, ours = ([statistics.median(block) for block in times[name]] for name in ("limit", side))
    every = sorted(time for block in times[side] for time in block)
    found = ratios(ours, limit)
    judged = {"ratio": statistics.median(found), "ms": statistics.median(every)}.get(judge)
    return Row(
        work, f"table {number(statistics.median(limit))} ms",
        f"{number(statistics.median(every))} ms, p95 {number(every[len(every) * 95 // 100])} ({lies})",
        f"{spread(found)} × table", target, None if judged is None or most is None else judged <= most,
    )  # fmt: skip


def refresh(sitting: Sitting) -> list[Row]:
    """What a reader that holds the store open spends on a thousand new events; the store is changed by it."""
    store = sitting.runs(sitting.sizes.runs)
    store.compact(sitting)
    work = f"refresh of {store.n:,} runs after"
    wanted = (
        ("nothing", "nothing new", None),
        ("points", "1,000 points of one live run", POINTS_MAX_MS),
        ("runs", "1,000 run events, 770 runs touched, 100 of them new", RUNS_MAX_MS),
        ("segments", "the same, each new run in a segment of its own", None),
    )
    rows = []
    for kind, words, most in wanted:
        say(f"refreshing {store.n:,} runs: {words}")
        target = "–" if most is None else f"≤ {most} ms"
        try:
            found = store.job("refresh", timeout_s=SLOW_S, rounds=sitting.sizes.refreshes, kind=kind)
        except FailedError as problem:
            rows.append(failed(f"{work} {words}", problem, target))
            continue
        times = found["ms"]
        more = f", slowest of {len(times)} {number(max(times))}"
        if kind != "nothing":
            more += f"; then {spread(found['answer_ms'])} ms to answer with them"
        more += f" ({store.lies})"
        row = Row(f"{work} {words}", "–", f"{spread(times)} ms{more}", "–", target)
        row.reached = None if most is None else statistics.median(times) <= most
        rows.append(row)
    sitting.forget(store)
    return rows


def million(sitting: Sitting) -> list[Row]:
    """Ten times as many runs, compacted: cold open and the four questions, warm and in process."""
    n = sitting.sizes.many_runs
    target = f"{n:,} runs"
    if not sitting.compacts:
        return [failed(f"{target}: cold open and questions", "there is no `ailab compact`", "≤ 2 s, ≤ 20 ms")]
    store = sitting.runs(n)
    try:
        store.compact(sitting)
        rows = _cold_rows(store, sitting.sizes.cold_opens, OPEN_MANY_MAX_S)
        rows += _ask(sitting, store, over_http=False, judge="ms")
    finally:
        sitting.forget(store)
    return rows


def own_segments(sitting: Sitting) -> list[Row]:
    """Fewer runs, made as people make them, each with a segment of its own: as written, then compacted."""
    store = sitting.runs(sitting.sizes.own_segments, how="populate_by_api")
    made = store.made
    about = f"{made['bytes'] / store.n:,.0f} bytes and {made['s'] / store.n * 1e3:.2f} ms a run"
    rows = [Row(f"{store.n:,} runs through start_run() and finish(), a segment each", "–", about)]
    try:
        for _ in range(2 if sitting.compacts else 1):
            rows += _cold_rows(store, 3, None)
            rows += _ask(sitting, store, over_http=False)
            if not store.is_compacted:
                store.compact(sitting)
    finally:
        sitting.forget(store)
    return rows


PARTS = {"cold": cold, "questions": questions, "refresh": refresh, "segments": own_segments, "million": million}
