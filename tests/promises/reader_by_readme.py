"""A reader of stores written from `events/README.md` alone: standard library only, nothing of ailab.

    python tests/promises/reader_by_readme.py STORE      # runs as JSON

`test_format_readme.py` compares what it reads with what ailab shows; so the page is enough to write a reader.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import sys
import zlib
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

MARKER = b'{"format":1}\n'
ENDS = {"completed", "failed", "killed"}
SPECIAL = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
FIELDS = ("name", "project", "group", "parent", "dataset", "seed", "environment", "code")
SETTING_FIELDS = {"run.started", "run.resumed", "run.changed", "run.renamed", "environment.captured", "code.captured"}


@dataclass
class Segment:
    """One file: its lines that count, what was found wrong, and whether it ended in order."""

    name: str
    lines: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    torn_bytes: int = 0
    header: dict[str, Any] = field(default_factory=dict)
    sealed: bool = False
    ended: bool = False

    @property
    def birth(self) -> str:
        """The name at birth, which order, ids and run go by."""
        return str(self.header.get("segment", self.name))


@dataclass
class Event:
    """A line and the segment that it stands in."""

    line: dict[str, Any]
    segment: Segment

    @property
    def place(self) -> tuple[int, str, int]:
        """Edits are ordered by this."""
        return self.line["clock"], self.segment.birth, self.line["seq"]

    def told(self, name: str, default: str | None = None) -> str | None:
        """`by` or `via`: the line's, else the header's."""
        return self.line.get(name, self.segment.header.get(name, default))


# -- one segment -------------------------------------------------------------------------------------------------------


def stated_checksum(line: bytes) -> int | None:
    """The checksum that a line without its newline states, if it has it."""
    at = line.rfind(b'"crc":')
    digits = re.fullmatch(rb"(0|[1-9][0-9]*)\}", line[at + 6 :]) if at >= 0 else None
    if digits is None or zlib.crc32(line[: at + 6] + b"0}") != int(digits[1]):
        return None
    return int(digits[1])


def read_segment(name: str, content: bytes) -> Segment:
    """Take the lines of a file that count, name the rest."""
    found = Segment(name)
    *whole, tail = content.split(b"\n")
    found.torn_bytes = len(tail)
    offset, follows, seen = 0, (0, 0), set()
    for raw in whole:
        checksum = stated_checksum(raw)
        line = {} if checksum is None else json.loads(raw)
        where = f"byte {offset}"
        if found.ended:
            found.problems.append(f"{where}: behind the footer")
        elif checksum is None:
            found.problems.append(f"{where}: invalid")
        elif line["seq"] in seen:
            found.problems.append(f"{where}: seq {line['seq']} again")
        else:
            if (line["seq"], line["prev"]) != follows:
                found.problems.append(f"{where}: does not follow")
            seen.add(line["seq"])
            follows = (line["seq"] + 1, checksum)
            found.lines.append(line)
            _note(found, line, content[:offset])
        offset += len(raw) + 1
    if found.header.get("format", 1) > 1:
        return Segment(name, problems=[f"format {found.header['format']}"])
    return found


def _note(segment: Segment, line: dict[str, Any], before: bytes) -> None:
    """Remember a header; compare a footer with what stands before it."""
    if line["kind"] == "segment.opened":
        segment.header = line["data"]
    elif line["kind"] == "segment.sealed":
        segment.sealed = True
        stated = {name: line["data"][name] for name in ("lines", "bytes", "sha256")}
        there = {"lines": len(segment.lines) - 1, "bytes": len(before), "sha256": hashlib.sha256(before).hexdigest()}
        segment.ended = stated["bytes"] == there["bytes"]
        if stated != there:
            segment.problems.append(f"the footer states {stated}, there is {there}")


# -- a store -----------------------------------------------------------------------------------------------------------


def read_segments(store: Path) -> list[Segment]:
    """Every segment of a store that counts: a copy only while nothing has the name that it had at birth."""
    if (store / "ailab-store.json").read_bytes() != MARKER:
        raise ValueError(f"{store} is no store that this reader knows")
    names = sorted(path.name.removesuffix(".jsonl") for path in (store / "segments").glob("*.jsonl"))
    found: dict[str, Segment] = {}
    for name in names:
        segment = read_segment(name, (store / "segments" / f"{name}.jsonl").read_bytes())
        birth = segment.header.get("segment", name)
        if name == birth or birth not in names:
            found.setdefault(birth, segment)
    return list(found.values())


def writer_is_gone(store: Path, segment: Segment) -> bool:
    """Whether an unsealed segment has no writer any more (for segments of this machine)."""
    if segment.sealed:
        return True
    fd = os.open(store / "segments" / f"{segment.name}.jsonl", os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(fd)


def read_runs(store: Path) -> dict[str, dict[str, Any]]:
    """Every run of a store by its id."""
    segments = read_segments(store)
    events: dict[str, list[Event]] = {}
    for segment in segments:
        for line in segment.lines:
            if "run" in line:
                events.setdefault(line["run"], []).append(Event(line, segment))
    runs = {}
    for run_id, its in events.items():
        if any(event.line["kind"] == "run.started" for event in its):
            own = [segment for segment in segments if segment.birth.split("_", 4)[4:] == [run_id]]
            runs[run_id] = fold(sorted(its, key=lambda event: event.place))
            if runs[run_id]["status"] not in ENDS and all(writer_is_gone(store, segment) for segment in own):
                runs[run_id]["status"] = "crashed"
    return runs


# -- a run -------------------------------------------------------------------------------------------------------------


def number(value: Any) -> float | None:
    """The double nearest to a metric's value; None where it is no number."""
    if isinstance(value, str):
        try:
            return SPECIAL[value] if value in SPECIAL else float(Decimal(value))
        except ArithmeticError:
            return None
    return float(value) if isinstance(value, int | float) else None


def fold(events: list[Event]) -> dict[str, Any]:
    """What a run is by its events, the smallest place first: so the last one to set something has it."""
    run: dict[str, Any] = {"params": {}, "tags": {}, "note": None, "notes": [], "points": [], "artifacts": [], "dropped": 0}
    last: dict[str, dict[str, Any]] = {"metrics.logged": {}, "summary.set": {}, "run.finished": {}}
    for event in events:
        kind, data = event.line["kind"], event.line["data"]
        if kind == "segment.opened":
            run.setdefault("host", data["host"])
            run.setdefault("user", data.get("user", ""))
        if kind in SETTING_FIELDS:
            run.update({name: data[name] for name in FIELDS if data.get(name) not in (None, "")})
        _take_status(run, kind, event.line)
        run["params"].update(data.get("params", {}))
        if kind in last:
            last[kind].update(data.get("final_metrics" if kind == "run.finished" else "values", {}))
        if kind == "metrics.logged":
            for key, value in data["values"].items():
                before = sum(point[0] == key for point in run["points"])
                run["points"].append((key, data.get("step", before), number(value)))
        _take_edit(run, kind, event)
    summary = {
        key: value
        for key, value in last["summary.set"].items()
        if isinstance(value, int | float) or (isinstance(value, str) and value in SPECIAL)
    }
    given = {**last["metrics.logged"], **summary, **last["run.finished"]}
    run["final_metrics"] = {key: number(value) for key, value in given.items()}
    return run


def _take_status(run: dict[str, Any], kind: str, line: dict[str, Any]) -> None:
    if kind == "run.started":
        run.setdefault("started_at", line["at"])
    known = {"run.started": "running", "run.resumed": "running", "run.changed": None, "run.finished": None}
    status = line["data"].get("status", known[kind]) if kind in known else None
    if status is not None:
        run["status"], run["error"] = status, line["data"].get("error")


def _take_edit(run: dict[str, Any], kind: str, event: Event) -> None:
    data = event.line["data"]
    if kind == "run.started":
        run["tags"].update(data.get("tags", {}))
    elif kind == "tags.changed":
        run["tags"].update(data.get("set", {}))
        for tag in data.get("removed", []):
            run["tags"].pop(tag, None)
    elif kind == "artifact.added":
        version = 1 + sum(path == data["path"] for path, *_ in run["artifacts"])
        run["artifacts"].append((data["path"], version, data["size"], data["sha256"]))
    elif kind == "writes.dropped":
        run["dropped"] += data["count"]
    elif kind in {"note.changed", "run.flagged"}:
        run["note"] = data["note"]
        run["notes"].append((data["note"], event.told("by"), event.told("via", "sdk")))
        if kind == "run.flagged":
            run["tags"][data["flag"]] = None


if __name__ == "__main__":
    json.dump(read_runs(Path(sys.argv[1])), sys.stdout, indent=2)
