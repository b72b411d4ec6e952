"""What is told: rows of a table, numbers as people read them, the machine, and RESULTS.md. Nothing in there is typed by hand."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rooms import HERE

WORDS = {True: "yes", False: "**missed**", None: "–"}
PACKAGES = ("ailab", "msgspec", "duckdb", "pyarrow", "litestar", "uvicorn", "GitPython")
ROOT = HERE.parents[1]
HEAD = """\
# What it costs

Written by `make bench`; nothing in here is typed by hand. How each figure comes about: [README.md](README.md). Medians with the
quartiles in brackets. A ratio compares the two sides block by block within one sitting; its median counts.
"""


@dataclass
class Row:
    """One line of the table: what was done, the limit's figure, ours, their ratio, what is to be reached, and whether it is."""

    work: str
    limit: str = "–"
    measured: str = "–"
    ratio: str = "–"
    target: str = "–"
    reached: bool | None = None

    def cells(self) -> list[str]:
        """The cells of a table's row."""
        return [self.work, self.limit, self.measured, self.ratio, self.target, WORDS[self.reached]]


@dataclass
class Table:
    """A table beside the first: the other systems."""

    title: str
    head: list[str]
    rows: list[list[str]] = field(default_factory=list)


def failed(work: str, problem: object, target: str = "–") -> Row:
    """A row for what was not measured: it says why, and does not reach its target."""
    return Row(work, measured=f"not measured: {problem}", target=target, reached=False if target != "–" else None)


# -- numbers -----------------------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Three digits or so, with separators."""
    if value is None:
        return "–"
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.3g}"


def spread(values: list[float]) -> str:
    """Median with the quarter below and above it."""
    if len(values) < 3:
        return number(statistics.median(values))
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{number(middle)} ({number(low)}-{number(high)})"


def ratios(ours: list[float], limit: list[float]) -> list[float]:
    """Block by block."""
    return [a / b for a, b in zip(ours, limit, strict=True)]


def compared(work: str, unit: str, limit: tuple[str, list[float]], ours: list[float], most: float) -> Row:
    """A row of two sides that took turns; reached where the median of their ratios is at most `most`."""
    name, base = limit
    found = ratios(ours, base)
    return Row(
        work,
        f"{name} {number(statistics.median(base))} {unit}",
        f"{spread(ours)} {unit}",
        f"{spread(found)} × {name}",
        f"≤ {most:g} × {name}",
        statistics.median(found) <= most,
    )


def absolute(work: str, unit: str, ours: list[float], most: float, *, limit: str = "–", more: str = "") -> Row:
    """A row whose target is a figure of its own; reached where the median is at most `most`."""
    target = f"≤ {most:g} {unit}"
    return Row(work, limit, f"{spread(ours)} {unit}{more}", "–", target, statistics.median(ours) <= most)


# -- where it was measured ---------------------------------------------------------------------------------------------


def machine() -> str:
    """Processor, memory, system."""
    model = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), None)
    size = f", {int(memory) / 2**20:.0f} GiB" if memory else ""
    return f"{os.cpu_count()} × {model or platform.processor()}{size}, {platform.system()} {platform.release()}"


def versions() -> str:
    """Python and the packages that ailab needs."""
    found = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    return f"Python {platform.python_version()}, {', '.join(found)}"


def commit() -> str:
    """The commit that was measured, and whether anything differs from it."""
    asked = ["git", "-C", str(ROOT)]
    head = subprocess.run([*asked, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        return "no commit"
    changed = subprocess.run([*asked, "status", "--porcelain", "--", "ailab", "api"], capture_output=True, text=True, check=False)
    return head.stdout.strip() + (" with changes in the packages" if changed.stdout.strip() else "")


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


# -- pages -------------------------------------------------------------------------------------------------------------


def markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    """A table of a page."""
    safe = [[cell.replace("|", "/").replace("\n", " ") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in [head]] + ["|" + "---|" * len(head)] + [f"| {' | '.join(row)} |" for row in safe]


def report(rows: list[Row], tables: list[Table], *, minutes: float, notes: list[str]) -> str:
    """RESULTS.md."""
    reached = sum(row.reached is True for row in rows)
    asked = sum(row.reached is not None for row in rows)
    lines = [
        HEAD,
        f"- measured: {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, in {minutes:.0f} minutes",
        f"- commit: {commit()}",
        f"- machine: {machine()}",
        f"- versions: {versions()}",
        *(f"- {note}" for note in notes),
        "",
        f"## ailab beside its limits: {reached} of {asked} reached",
        "",
        *markdown(["work", "limit", "measured", "ratio", "to reach", "reached"], [row.cells() for row in rows]),
    ]
    for table in tables:
        lines += ["", f"## {table.title}", "", *markdown(table.head, table.rows)]
    return "\n".join(lines) + "\n"


def told(row: Row) -> str:
    """A row on a terminal."""
    limit = "" if row.limit == "–" else f"; limit {row.limit}"
    target = "" if row.target == "–" else f"; to reach {row.target}: {'reached' if row.reached else 'MISSED'}"
    ratio = "" if row.ratio == "–" else f", {row.ratio}"
    return f"  {row.work}: {row.measured}{ratio}{limit}{target}"


def value_of(found: dict[str, Any] | None, *keys: str) -> Any:
    """What lies at a path of a nested answer, or None."""
    here: Any = found
    for key in keys:
        here = here.get(key) if isinstance(here, dict) else None
    return here
