"""The other systems on the same work, with ailab and the limits measured by the same jobs beside them.

Each runs in its own environment, as it is installed by default apart from what keeps it off the network. A tool that is slow
stops at the budget, and its cell says how far it came; one that fails or does not answer says that.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from figures import Table, number, value_of
from kit import QUESTION_WORDS, QUESTIONS, tree_bytes
from rooms import FailedError, Room, adapter, free_port, install, say, version_of
from training import lost_points, together

if TYPE_CHECKING:
    from collections.abc import Callable

    from sitting import Sizes

NAMES = {
    "limit_raw": "limit",
    "limit_duckdb": "limit",
    "ailab_local": "ailab",
    "mlflow_sqlite": "MLflow, SQLite",
    "wandb_offline": "W&B, offline",
    "trackio_local": "Trackio",
    "tensorboardx": "tensorboardX",
}
OTHERS = ("mlflow_sqlite", "wandb_offline", "trackio_local", "tensorboardx")
COLUMNS = ("limit", "ailab", *(NAMES[name] for name in OTHERS))
IMPORTS = 7
KILLS = 3


@dataclass
class Cell:
    """A figure with the words around it; `value` is what a ratio is taken of, where it may be."""

    text: str
    value: float | None = None


Found = dict[str, Cell]
"""Row to cell, of one system."""


# -- one system, one kind of work ----------------------------------------------------------------------------------------


def _import(name: str, sizes: Sizes) -> Found:
    statement = adapter(name).IMPORT
    times: dict[str, list[float]] = {"pass": [], statement: []}
    with Room(name) as room:
        for turn in range(IMPORTS + 1):
            for code, kept in times.items():
                start = time.perf_counter()
                room.python(code)
                if turn:
                    kept.append((time.perf_counter() - start) * 1e3)
    value = statistics.median(times[statement]) - statistics.median(times["pass"])
    return {"import, less bare Python, ms": Cell(number(value), value)}


def _runs(name: str, sizes: Sizes) -> Found:
    with Room(name) as room:
        found = room.run("runs", n=sizes.later_runs, budget_s=2 * sizes.budget_s)
    value = found["ms"]["p50"]
    row = "start + 10 params + 5 metrics + finish, ms"
    return {row: Cell(number(value), value), "the same, the first of a process, ms": Cell(number(found["first"]), found["first"])}


def _log(name: str, sizes: Sizes, calls: int = 50_000) -> Found:
    with Room(name) as room:
        found = room.run("log", n=calls, budget_s=sizes.budget_s)
    short = "" if found["calls"] == calls else f" ({found['calls']:,} calls)"
    p50, p99, kept = found["us"]["p50"], found["us"]["p99"], found["kept_us"]
    return {
        "log() of 3 values, p50, µs": Cell(number(p50) + short, p50),
        "log() of 3 values, p99, µs": Cell(number(p99) + short, p99),
        "log() of 3 values, until finish returned, µs a call": Cell(number(kept) + short, kept),
    }


def _kill(name: str, sizes: Sizes) -> Found:
    row = "acknowledged points lost under kill -9 at 1 point/ms"
    found = {row: _lost(lost_points(name, KILLS))}
    if name == "wandb_offline":
        found[f"{row}, helpers killed too"] = _lost(lost_points(name, KILLS, helpers_too=True))
    return found


def _lost(found: dict[str, Any]) -> Cell:
    each = ", ".join(f"{lost:,}" for lost in found["each"])
    return Cell(f"{each} (of {found['acknowledged']:,})")


def _points(name: str, sizes: Sizes) -> Found:
    with Room(name) as room:
        made = room.run("fill", n=sizes.steps, budget_s=2 * sizes.budget_s, timeout_s=240)
        points = made["points"]
        size = tree_bytes(room.store) / points
        full = points == sizes.steps * 10
        short = "" if full else f" ({points:,.0f} points)"
        written = made["bytes_written"] / points
        before = f", as written {number(written)}" if name == "ailab_local" else ""
        found = {
            "bytes per point, 10 metrics × 100,000 steps of float32 noise": Cell(number(size) + before + short, size),
            "writing them, µs a point": Cell(number(made["write_s"] / points * 1e6) + short, made["write_s"] / points * 1e6),
        }
        row = "history of one metric of them, ms"
        try:
            read = room.run("history", reads=7, budget_s=sizes.budget_s, timeout_s=120)
        except FailedError as problem:
            return found | {row: Cell(str(problem))}
    short = "" if read["points"] == sizes.steps else f" ({read['points']:,} points)"
    return found | {row: Cell(number(read["ms"]["p50"]) + short, None if short else read["ms"]["p50"])}


def _parallel(name: str, sizes: Sizes) -> Found:
    row = f"{sizes.processes} processes × {sizes.parallel_calls:,} calls, one store, µs a call"
    return {
        row: _together(name, sizes, first=False),
        f"{row}, after each process's first run": _together(name, sizes, first=True),
    }


def _together(name: str, sizes: Sizes, *, first: bool) -> Cell:
    found = together(name, sizes.processes, sizes.parallel_calls, first=first, budget_s=1.5 * sizes.budget_s)
    if not found["acknowledged"]:
        return Cell(f"failed: {next(iter(found['first_errors']), 'no call returned')}")
    value = found["s"] / found["acknowledged"] * 1e6
    wanted = sizes.processes * sizes.parallel_calls
    notes = [f"{found['acknowledged']:,} of {wanted:,} calls"] if found["acknowledged"] != wanted else []
    notes += [f"{found['lost']:,} lost"] if found["lost"] else []
    notes += [f"{found['errors']:,} errors"] if found["errors"] else []
    return Cell(number(value) + (f" ({', '.join(notes)})" if notes else ""), value)


def _questions(name: str, sizes: Sizes, n: int) -> Found:
    """In process and over HTTP; the store is made once for both."""
    rows: Found = {}
    with Room(name) as room:
        made = room.run("populate", n=n, budget_s=2.5 * sizes.budget_s, timeout_s=300)
        there = made["runs"]
        short = "" if there == n else f" ({there:,} runs)"
        budget, given = 2 * sizes.budget_s, {"n": there}
        found = room.run("questions", repeats=40, budget_s=sizes.budget_s, timeout_s=120 + budget, **given)
        for question in QUESTIONS:
            rows[_question_row(n, question, "in process")] = _answer(found.get(question), short)
        port = free_port()
        asked = room.run("address", port=port, **given)
        if asked:
            with room.server(asked["command"], port, asked["ready"]):
                found = room.run(
                    "requests", port=port, asked=asked["requests"], repeats=40, budget_s=sizes.budget_s, timeout_s=120 + budget
                )
            for question in QUESTIONS:
                rows[_question_row(n, question, "over HTTP")] = _answer(found.get(question), short)
    return rows


def _question_row(n: int, question: str, way: str) -> str:
    return f"{n:,} runs, {QUESTION_WORDS[question]}, {way}, ms"


def _answer(found: dict[str, Any] | None, short: str) -> Cell:
    value = value_of(found, "p50")
    if value is None:
        return Cell(str(value_of(found, "error") or "no answer in time"))
    return Cell(number(value) + short, None if short else value)


# -- the table -----------------------------------------------------------------------------------------------------------


def _work(sizes: Sizes) -> list[tuple[str, str, Callable[[str, Sizes], Found]]]:
    """(job as SKIP calls it, system that is the limit, what measures it)."""
    work: list[tuple[str, str, Callable[[str, Sizes], Found]]] = [
        ("import", "limit_raw", _import),
        ("runs", "limit_raw", _runs),
        ("log", "limit_raw", _log),
        ("kill", "limit_raw", _kill),
        ("points", "limit_duckdb", _points),
        ("parallel", "limit_raw", _parallel),
    ]
    work += [("questions", "limit_duckdb", _asking(n)) for n in (min(2_000, sizes.runs), sizes.runs)]
    return work


def _asking(n: int) -> Callable[[str, Sizes], Found]:
    return lambda name, sizes: _questions(name, sizes, n)


def rivals(sizes: Sizes, *, only: list[str] | None = None) -> tuple[list[Table], list[str]]:
    """Measure all systems; return the table and notes about their versions.

    Args:
        sizes: how much of everything.
        only: jobs; by default all.
    """
    refused: dict[str, str] = {}
    for name in OTHERS:
        try:
            install(name)
        except FailedError as problem:
            refused[name] = str(problem)
    rows: dict[str, dict[str, Cell]] = {}
    for job, limit, measure in _work(sizes):
        if only and job not in only:
            continue
        known: list[str] = []
        for name in (limit, "ailab_local", *OTHERS):
            cells = _measured(name, job, measure, sizes, refused)
            known = known or list(cells)
            for row, cell in cells.items():
                for each in [row] if row else known:
                    rows.setdefault(each, {})[NAMES[name]] = cell
    told = ", ".join(f"{adapter(name).PACKAGE} {version_of(name)}" for name in OTHERS)
    return [Table("The same jobs in other systems", ["work", *COLUMNS], [_cells(*item) for item in rows.items()])], [
        f"others: {told}"
    ]


def _measured(name: str, job: str, measure: Callable[[str, Sizes], Found], sizes: Sizes, refused: dict[str, str]) -> Found:
    """The cells of one system; under "" what stands in all of its cells where there is nothing to tell."""
    if name in refused:
        return {"": Cell(refused[name])}
    if job in adapter(name).SKIP:
        return {"": Cell(f"– ({adapter(name).SKIP[job]})")}
    say(f"{NAMES[name]}: {job}")
    try:
        return measure(name, sizes)
    except FailedError as problem:
        return {"": Cell(f"failed: {problem}")}


def _cells(row: str, found: dict[str, Cell]) -> list[str]:
    """A row of the table; the others' figures with their ratio to ailab's."""
    ours = found["ailab"].value if "ailab" in found else None
    cells = [row]
    for column in COLUMNS:
        cell = found.get(column)
        if cell is None:
            cells.append("–")
        elif cell.value and ours and column != "ailab":
            cells.append(f"{cell.text} (× {number(cell.value / ours)})")
        else:
            cells.append(cell.text)
    return cells
