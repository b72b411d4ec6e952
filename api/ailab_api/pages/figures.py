"""Numbers, times and curves as a person reads them."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from ..markup import Html, join, tag, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ailab.queries import MetricPoint, Number

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 300, 90, 4, 4, 6, 6
"""Units of a chart's drawing, and the margins around its curve."""
_AGES = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_UNITS = ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h"), (86400 * 60, 86400, "d"))


def number(value: Number) -> str:
    """A metric's value in at most about six digits."""
    if isinstance(value, str):
        return {"Infinity": "∞", "-Infinity": "-∞"}.get(value, value)
    if isinstance(value, int):
        return str(value) if abs(value) < 10**12 else f"{float(value):.5g}" if abs(value) < 10**300 else str(value)
    return f"{value:.5g}"


def as_float(value: Number) -> float:
    """A metric's value as a double; what is no number is NaN."""
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def plain(value: object) -> str:
    """A parameter's value on one line."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return number(value) if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """A stretch of time in one unit."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for below, unit, name in _UNITS:
        if seconds < below:
            shown = seconds / unit
            return f"{shown:.2g} {name}" if shown < 10 else f"{shown:.0f} {name}"  # noqa: PLR2004  (two digits are enough)
    return f"{seconds / 86400:.0f} d"


def age(at: str, now: datetime) -> Html:
    """How long ago an RFC 3339 time was; the time itself on hovering."""
    seconds = max(0.0, (now - datetime.fromisoformat(at)).total_seconds())
    count, unit = next(((seconds // size, name) for size, name in _AGES if seconds >= size), (0, ""))
    return tag("time", f"{count:.0f} {unit} ago" if unit else "just now", datetime=at, title=moment(at))


def moment(at: str) -> str:
    """An RFC 3339 time to the second, UTC."""
    return at[:19].replace("T", " ") + " UTC"


def utc_now() -> datetime:
    """Now, with its zone."""
    return datetime.now(timezone.utc)


def size(count: int) -> str:
    """Bytes in a fitting unit."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:  # noqa: PLR2004  (decimal units)
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"


def chart(key: str, points: Sequence[MetricPoint], *, across: str = "step") -> Html:
    """One metric's curve with its smallest, greatest and last value; NaN and infinities leave a gap.

    Args:
        key: the metric.
        points: its points.
        across: what their steps are.
    """
    values = [(float(p.step), as_float(p.value)) for p in points]
    finite = [(x, y) for x, y in values if math.isfinite(y)]
    last = number(points[-1].value) if points else "none"
    top = tag("p", tag("span", f"last {last}"), tag("span", f"max {number(max(y for _, y in finite))}") if finite else None)
    drawn = _drawing(key, values, finite, across=across) if finite else tag("p", "no finite value")
    return tag("div", tag("h3", key), top, drawn, class_="chart")


def _drawing(key: str, values: list[tuple[float, float]], finite: list[tuple[float, float]], *, across: str) -> Html:
    x0, x1 = min(x for x, _ in finite), max(x for x, _ in finite)
    y0, y1 = min(y for _, y in finite), max(y for _, y in finite)

    def place(x: float, y: float) -> tuple[float, float]:
        right = (x - x0) / (x1 - x0) if x1 > x0 else 0.5
        up = (y / 2 - y0 / 2) / (y1 / 2 - y0 / 2) if y1 / 2 > y0 / 2 else 0.5  # halves: the difference may be beyond a double
        return LEFT + right * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    strokes: list[Html] = []
    for stretch in _stretches(values):
        placed = [place(x, y) for x, y in stretch]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        strokes.append(tag("polyline", points=drawn, class_="curve"))
        if len(placed) == 1:
            strokes.append(_dot(*placed[0]))
    strokes.append(_dot(*place(*finite[-1])))
    floor = HEIGHT - BOTTOM
    label = f"{key}: min {number(y0)}, max {number(y1)}, last {number(finite[-1][1])}"
    drawing = tag(
        "svg", tag("title", label), tag("line", x1=LEFT, y1=floor + 1, x2=WIDTH - RIGHT, y2=floor + 1, class_="grid"), *strokes,
        viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img",
    )  # fmt: skip
    return join(drawing, tag("p", tag("span", f"{across} {number(x0)} to {number(x1)}"), tag("span", f"min {number(y0)}")))


def _dot(x: float, y: float) -> Html:
    return tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="2.6", class_="dot")


def _stretches(values: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Runs of finite points between gaps."""
    found: list[list[tuple[float, float]]] = [[]]
    for x, y in values:
        if math.isfinite(y):
            found[-1].append((x, y))
        elif found[-1]:
            found.append([])
    return [stretch for stretch in found if stretch]


def note_line(note: str | None, *, most: int = 160) -> Html:
    """The beginning of a note on one line."""
    shown = " ".join((note or "").split())
    return text(shown if len(shown) <= most else shown[: most - 1] + "…")


def status(word: str) -> Html:
    """A status with its colour; the word carries the meaning."""
    return tag("span", word, class_=join("status ", word if word.isalpha() else ""))
