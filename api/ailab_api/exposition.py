"""Figures as text that Prometheus reads: exposition format 0.0.4, `# HELP` and `# TYPE` once a family, a line for each value."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MEDIA_TYPE = "text/plain; version=0.0.4"
"""Litestar adds the charset to texts."""
BOUNDS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class Family(msgspec.Struct, frozen=True):
    """A name and its lines: (what is appended to the name, labels, value) of each."""

    name: str
    kind: str
    help: str
    lines: list[tuple[str, dict[str, str], float]]


class Histogram:
    """Seconds, counted by the first bound that they do not exceed."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.total += seconds


def gauge(name: str, help: str, value: float) -> Family:  # noqa: A002  (the format's word)
    """One value that goes up and down."""
    return Family(name, "gauge", help, [("", {}, value)])


def gauges(name: str, help: str, labels: Iterable[str], values: Mapping[Any, float]) -> Family:  # noqa: A002
    """Such values, by the texts of their labels; one text may stand by itself."""
    return Family(name, "gauge", help, [("", _labels(labels, key), value) for key, value in values.items()])


def counter(name: str, help: str, value: float) -> Family:  # noqa: A002
    """One value that only grows."""
    return Family(name, "counter", help, [("", {}, value)])


def counters(name: str, help: str, labels: Iterable[str], values: Mapping[Any, float]) -> Family:  # noqa: A002
    """Such values, by the texts of their labels."""
    return Family(name, "counter", help, [("", _labels(labels, key), value) for key, value in values.items()])


def histograms(name: str, help: str, labels: Iterable[str], values: Mapping[Any, Histogram]) -> Family:  # noqa: A002
    """Histograms by labels; a bucket counts everything up to its bound."""
    lines: list[tuple[str, dict[str, str], float]] = []
    for key, one in values.items():
        given, reached = _labels(labels, key), 0
        for bound, count in zip((*map(repr, BOUNDS_S), "+Inf"), one.counts, strict=True):
            reached += count
            lines.append(("_bucket", {**given, "le": bound}, reached))
        lines += [("_sum", given, one.total), ("_count", given, reached)]
    return Family(name, "histogram", help, lines)


def _labels(names: Iterable[str], key: Any) -> dict[str, str]:
    return dict(zip(names, (key,) if isinstance(key, str) else key, strict=True))


def exposition(families: Iterable[Family]) -> bytes:
    """Families as text."""
    text: list[str] = []
    for one in families:
        text += [f"# HELP {one.name} {_escape(one.help)}", f"# TYPE {one.name} {one.kind}"]
        for suffix, labels, value in one.lines:
            inside = ",".join(f'{label}="{_quoted(words)}"' for label, words in labels.items())
            text.append(f"{one.name}{suffix}{{{inside}}} {value!r}" if inside else f"{one.name}{suffix} {value!r}")
    return ("\n".join(text) + "\n").encode("utf-8", "backslashreplace")


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    return _escape(text).replace('"', '\\"')
