"""A reader of a store by full replay, written from events/README.md alone: what the catalogue is compared with.

It imports nothing of the package and keeps nothing between two calls. `state` reads every line that counts, from segments and
from tables, and folds the events in the order of their places; `restore` gives the bytes of every line back; `tables` puts the
state into the columns of the views. Nothing here is fast, and nothing asks which processes live: no run is ever crashed.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
import zlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

FORMAT = 1
MARKER = b'{"format":1}\n'
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 all times are UTC, without saying so
SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
AT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{6})?Z", re.ASCII)
DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
FIELDS = ("name", "project", "group", "parent", "dataset", "wandb_url", "description")
SPAN = {"segment", "start", "end", "sha256", "line", "lines", "seq", "crc", "sealed"}
RUN_COLUMNS = ("name", "project_id", "project_label", "status", "started_at", "ended_at", "user", "host", "seed", "group")
RUN_COLUMNS += ("parent", "dataset", "git_hash", "note", "params", "metrics", "trashed")
PAGE = Path(__file__).resolve().parents[1] / "events" / "README.md"
FIELD = re.compile(r"`(\w+)(\??)` (integer|text|number|boolean|object|list of text|time)")
VERSION_COLUMNS = ("dataset", "name", "version", "sha256", "size", "format", "rows", "schema", "description", "tags", "metadata")
VERSION_COLUMNS += ("project_id", "project_label", "parent_id", "file", "created_at", "trashed")
VIEWS = ("runs", "params", "metrics", "metric_summary", "metric_means", "tags", "notes", "artifacts", "projects", "events")
VIEWS += ("datasets", "dataset_uses", "system_metrics", "console")
EVENT_COLUMNS = ("segment", "seq", "at", "clock", "kind", "run")
ENDS = ("completed", "failed", "killed")
UNDOABLE = {"run.changed", "parameters.added", "note.changed", "tags.changed", "run.flagged", "run.renamed", "run.trashed"}
UNDOABLE |= {"dataset.used"}
UNDOABLE |= {"run.restored", "run.protected", "run.unprotected", "artifact.trashed", "artifact.restored", "change.undone"}
UNDOABLE |= {f"{what}.{how}" for what in ("project", "dataset_version") for how in ("changed", "trashed", "restored")}


# ---------------------------------------------------------------------------------------------------------------- lines


@dataclass
class Event:
    """A line that counts. `gone` says that its data were redacted, so that it changes nothing."""

    segment: str
    seq: int
    at: datetime
    clock: int
    kind: str
    run: str | None
    by: str | None
    via: str | None
    data: dict
    gone: bool = False
    said: tuple = (None, None)  # `by` and `via` as the line has them, whatever the header says

    @property
    def id(self):
        """SEGMENT:SEQ."""
        return f"{self.segment}:{self.seq}"

    @property
    def place(self):
        """What edits are ordered by."""
        return self.clock, self.segment, self.seq

    def text(self, name):
        """The field `name` of the data where it is a text, else None."""
        value = self.data.get(name)
        return value if isinstance(value, str) else None

    def whole(self, name):
        """The field `name` of the data where it is an integer, else None."""
        value = self.data.get(name)
        return value if type(value) is int else None

    def object(self, name):
        """The field `name` of the data where it is an object, else an empty one."""
        value = self.data.get(name)
        return value if isinstance(value, dict) else {}


def checked(line):
    """The checksum that `line` states, without its newline; ValueError where it is not the line's."""
    head, found, tail = line.rpartition(b'"crc":')
    if not found or not re.fullmatch(rb"[0-9]+}", tail):
        raise ValueError("it does not end with a checksum")
    if zlib.crc32(head + b'"crc":0}') != int(tail[:-1]):
        raise ValueError("its checksum is another")
    return int(tail[:-1])


def parsed(text):
    """The JSON object that the bytes `text` are; integers of any length, no NaN without quotes."""

    def refuse(name):
        raise ValueError(f"{name} is no JSON")

    def integer(digits):
        return int(digits) if len(digits) < 4000 else Decimal(digits)

    value = json.loads(text.decode(), parse_constant=refuse, parse_int=integer)
    if not isinstance(value, dict):
        raise ValueError("it is no object")  # noqa: TRY004 one error for all that is wrong with a line
    return value


def decoded(line, segment, redacted_crc=None):
    """(event, prev, crc) of a line with its newline; ValueError says why it does not count."""
    crc = checked(line[:-1]) if redacted_crc is None else redacted_crc
    body = parsed(line[:-1])
    seq, at, kind = body.get("seq"), body.get("at"), body.get("kind")
    if type(seq) is not int or seq < 0 or not isinstance(kind, str) or not isinstance(at, str) or not AT.fullmatch(at):
        raise ValueError("seq, at or kind is missing or not as it should be")
    run, by, via = (body[name] if isinstance(body.get(name), str) else None for name in ("run", "by", "via"))
    clock = body["clock"] if type(body.get("clock")) is int else 0
    data = body.get("data", {})
    gone = redacted_crc is not None
    event = Event(segment, seq, datetime.fromisoformat(at[:-1]), clock, kind, run, by, via, data, gone, (by, via))
    return event, body.get("prev"), crc


def fields_by_kind():
    """The fields of every kind by the page's table: {kind: {field: (type, whether it may be absent)}}."""
    rows = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| (.*?) \| .*? \|$", PAGE.read_text(), re.MULTILINE)
    return {kind: {name: (type_, bool(mark)) for name, mark, type_ in FIELD.findall(cell)} for kind, cell in rows}


KINDS = fields_by_kind()


def is_of_type(value, name):
    """Whether a JSON value is of one of the types that the page's table names."""
    if name == "list of text":
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    if name == "time":
        return isinstance(value, str) and AT.fullmatch(value) is not None
    kinds = {"integer": (int, Decimal), "number": (int, float, Decimal), "text": str, "boolean": bool, "object": dict}[name]
    return isinstance(value, kinds) and (name == "boolean" or not isinstance(value, bool))


def misfit(event):
    """What of an event's data does not fit its kind; None where all does, or where the kind is not known."""
    if not isinstance(event.data, dict):
        return "data"
    for name, (type_, optional) in KINDS.get(event.kind, {}).items():
        value = event.data.get(name)
        if value is None and optional:
            continue
        if not is_of_type(value, type_) or (name == "step" and not -(2**63) <= value < 2**63):
            return name
    return None


@dataclass
class Reader:
    """Where the reading of one segment stands, and what it found."""

    segment: str
    problems: list
    file: str = ""
    offset: int = 0  # of the next line
    n: int = 0  # its number in the file
    seq: int = 0  # that it should have
    crc: int = 0  # of the last line that counts
    redacted: bool = False
    sealed: bool = False
    ended: bool = False
    lines: list = field(default_factory=list)
    events: dict = field(default_factory=dict)  # by seq, in the order of the file
    sha256: object = field(default_factory=hashlib.sha256)

    def say(self, what):
        """Name something wrong with the next line, or with the place where it should be."""
        self.problems.append({"file": self.file, "line": self.n, "offset": self.offset, "what": what})

    def take(self, line, redacted_crc=None):
        """Judge one line with its newline, count it if it counts, and step behind it."""
        try:
            if self.ended:
                raise ValueError("it stands behind the footer")
            event, prev, crc = decoded(line, self.segment, redacted_crc)
            if event.seq in self.events:
                raise ValueError(f"seq {event.seq} counted before")
        except (ValueError, RecursionError) as error:
            self.say(f"line does not count: {error}")
        else:
            if event.seq != self.seq or prev != self.crc:
                self.say(f"gap: seq {event.seq} and prev {prev}, not {self.seq} and {self.crc}")
            if not event.gone and (field := misfit(event)) is not None:
                self.say(f"data does not fit {event.kind}: {field}")
            self.redacted |= event.gone
            if event.kind == "segment.sealed" and misfit(event) is None:
                self.footer(event)
            self.events[event.seq] = event
            self.seq, self.crc = event.seq + 1, crc
        self.n += 1
        self.offset += len(line)
        self.lines.append(line)
        self.sha256.update(line)

    def footer(self, event):
        """Hold a footer to what stands before it; nothing can be said where that was redacted."""
        self.sealed = True
        self.ended = not self.redacted and event.data.get("bytes") == self.offset
        stated = tuple(event.data.get(name) for name in ("lines", "bytes", "sha256"))
        if not self.redacted and stated != (len(self.events), self.offset, self.sha256.hexdigest()):
            self.say("footer does not fit what stands before it")

    def take_file(self, path):
        """Read on in the segment's file from where the reading stands."""
        self.file = f"segments/{path.name}"
        rest = path.read_bytes()[self.offset :]
        for line in re.findall(rb"[^\n]*\n", rest):
            self.take(line)
        torn = len(rest) - (rest.rfind(b"\n") + 1)
        if torn:
            self.say(f"{torn} torn bytes behind the last newline")

    def take_span(self, record, span):
        """Read a span's rows from where the reading stands, then stand where the span says that it ends."""
        self.file = f"compacted/{record['name']}.json"
        for n in range(self.n, span["lines"]):
            row = record["rows"].get((self.segment, n))
            if row is None or (row["raw"] is None and row.get("kind", "") is None):
                self.say(f"the tables lack line {n}")
            else:
                self.take(restored(row, record, self.crc), None if row["raw"] else row.get("crc"))
        end = tuple(span[name] for name in ("end", "lines", "seq", "crc"))
        stands = (end[0] if self.redacted else self.offset, self.n, self.seq, self.crc)
        if end != stands or not (self.redacted or self.sha256.hexdigest() == span["sha256"]):
            self.say("the rows of a span do not give back its bytes")
        self.offset, self.n, self.seq, self.crc = end


# --------------------------------------------------------------------------------------------------------------- tables


def commit_records(folder, problems):
    """(records that count, with their rows, sorted by name; [name, span] of all that say what was replaced)."""
    records, spans = [], []
    for path in sorted((folder / "compacted").glob("*.json"), key=lambda path: path.name[:-5]):
        try:
            record = record_of(path)
            spans += [(path.name, span) for span in record["spans"]]
            record["rows"] = rows_of(folder, record)
        except (ValueError, KeyError, TypeError, OSError) as error:
            problems.append({"file": f"compacted/{path.name}", "line": 0, "offset": 0, "what": f"passed over: {error!r}"})
        else:
            records.append(record)
    return records, spans


def record_of(path):
    """The commit record in a file, with its name; ValueError where its checksum or format is not as it should be."""
    text = path.read_bytes()
    if text.find(b"\n") != len(text) - 1:
        raise ValueError("it is not one line")
    checked(text[:-1])
    record = parsed(text[:-1])
    if record["format"] > FORMAT:
        raise ValueError(f"format {record['format']} is not known")
    if not all(span.keys() >= SPAN for span in record["spans"]):
        raise ValueError("a span lacks a member")
    return {**record, "name": path.name[:-5]}


def rows_of(folder, record):
    """The rows of a record's tables by (segment, n); ValueError where a table is not the one that the record names."""
    import pyarrow
    import pyarrow.parquet

    rows = {}
    for file in record["files"]:
        path = folder / "compacted" / file["name"]
        content = path.read_bytes()
        if len(content) != file["bytes"] or hashlib.sha256(content).hexdigest() != file["sha256"]:
            raise ValueError(f"{file['name']} has another size or SHA-256")
        try:
            table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content)).read().to_pylist()
        except pyarrow.ArrowException as error:
            raise ValueError(f"{file['name']} cannot be read: {error}") from error
        for row in table:
            if rows.setdefault((row["segment"], row["n"]), row) is not row:
                raise ValueError(f"line {row['n']} of {row['segment']} is there twice")
    return rows


def quoted(value):
    """A text as JSON, as short as can be."""
    return json.dumps(value, ensure_ascii=False)


def double(value):
    """A double as a line has it: the fewest digits, plain from 1e-5 up to below 1e16, else with an exponent."""
    if not math.isfinite(value):
        return next(f'"{text}"' for text, special in SPECIAL.items() if repr(special) == repr(value))
    if value == 0 or 1e-5 <= abs(value) < 1e16:
        plain = format(Decimal(repr(value)), "f")
        return plain if "." in plain else plain + ".0"
    mantissa, exponent = repr(value).split("e")
    return f"{mantissa}e{int(exponent)}"


def restored(row, record, prev):
    """The bytes of a row's line with its newline; `prev` is the checksum of the last line before it that counts."""
    if row["raw"] is not None:
        return row["raw"]
    at = row["at"].replace(tzinfo=None).isoformat()
    members = [f'"seq":{row["seq"]}', f'"at":"{at}Z"', f'"clock":{row["clock"]}']
    members.append(f'"kind":{quoted(row.get("kind", "metrics.logged"))}')
    members += [f'"{name}":{quoted(row[name])}' for name in ("run", "by", "via") if row.get(name) is not None]
    data = row["data"] if "data" in row else point_data(row, record)
    if data is not None:
        members.append(f'"data":{data}')
    head = "{" + ",".join([*members, f'"prev":{prev}', '"crc":'])
    crc = row.get("crc")
    if crc is None:
        crc = zlib.crc32(f"{head}0}}".encode())
    return f"{head}{crc}}}\n".encode()


def point_data(row, record):
    """The JSON text of `data` of a row of the points table."""
    write = {"float": double, "int": str, "json": str}
    shape = record["shapes"][row["shape"]]
    columns = [(record["columns"][number], row[f"v{number}"]) for number in shape["columns"]]
    values = [f"{quoted(column['key'])}:{write[column['type']](value)}" for column, value in columns]
    data = ['"values":{' + ",".join(values) + "}"]
    data += [f'"step":{row["step"]}'] if shape["step"] else []
    data += [f'"time":{double(row["time"])}'] if shape["time"] else []
    data += [row["extra"]] if row["extra"] is not None else []
    return "{" + ",".join(data) + "}"


# -------------------------------------------------------------------------------------------------------------- segments


def files_that_count(folder, problems):
    """The files of the segments by the name at birth; a copy only where no file has that name."""
    found = {path.name[:-6]: path for path in (folder / "segments").glob("*.jsonl") if path.is_file()}
    counting = {}
    for name, path in sorted(found.items()):
        birth, version = header_of(path, name)
        if version > FORMAT:
            problems.append({"file": f"segments/{path.name}", "line": 0, "offset": 0, "what": f"format {version} is not known"})
        elif birth == name or birth not in found:
            counting.setdefault(birth, path)
    return counting


def header_of(path, name):
    """(name at birth, format) that a segment's header states; the file's own name where there is no header."""
    for line in re.findall(rb"[^\n]*\n", path.read_bytes()):
        try:
            event = decoded(line, name)[0]
        except (ValueError, RecursionError):
            continue
        if event.kind == "segment.opened":
            return event.text("segment") or name, event.whole("format") or 0
        break
    return name, 0


def read(folder, problems):
    """Readers by segment that have read to the end: spans while one reaches beyond where they stand, then the file."""
    folder = Path(folder)
    names = {path.name for path in folder.iterdir()}
    marker = (folder / "ailab-store.json").read_bytes() if "ailab-store.json" in names else None
    if (marker is None and names) or (marker is not None and not MARKER.startswith(marker)):
        raise ValueError(f"{folder} is no store of a format that is known")
    files = files_that_count(folder, problems)
    records, promised = commit_records(folder, problems)
    readers = {}
    for name in sorted({*files, *(span["segment"] for _, span in promised)}):
        reader = readers[name] = Reader(name, problems)
        while best := best_span(records, name, reader.offset):
            reader.take_span(*best)
        if name in files:
            reader.take_file(files[name])
    for file, span in promised:
        reader = readers[span["segment"]]
        if reader.offset < span["end"]:
            what = f"bytes {reader.offset} to {span['end']} of {span['segment']} are missing"
            problems.append({"file": f"compacted/{file}", "line": reader.n, "offset": reader.offset, "what": what})
    return readers


def best_span(records, segment, position):
    """(record, span) that counts at a position, or None; of equals the record whose name sorts first."""
    spans = [(record, span) for record in records for span in record["spans"]]
    here = [(r, s) for r, s in spans if s["segment"] == segment and s["start"] <= position < s["end"]]
    return max(here, key=lambda both: (both[1]["end"], both[0]["level"]), default=None)


def restore(folder):
    """The bytes of all lines by segment; a redacted line is without its data, torn bytes behind the last line are left out."""
    return {name: b"".join(reader.lines) for name, reader in read(folder, []).items()}


# ------------------------------------------------------------------------------------------------------------------ fold


def redact(events):
    """Take the data of redacted and purged events away; the SHA-256 of the redacted blobs."""
    redactions = [event for event in events if event.kind == "event.redacted" and misfit(event) is None]
    ids = {(event.text("segment"), event.whole("seq")) for event in redactions}
    purged = {event.run for event in events if event.kind == "run.purged" and event.run is not None and misfit(event) is None}
    blobs = {event.text("sha256") for event in redactions}
    for event in events:
        asked = event.run in purged or (event.segment, event.seq) in ids
        if event.gone or (asked and event.kind not in ("event.redacted", "run.purged")):
            event.data, event.gone = {}, True
    return blobs, purged


def subjects(event):
    """What a change or an undoing is about: a run, or else a project or a dataset, where it names one."""
    group = event.kind.split(".")[0]
    names = {"project": ["project"], "dataset_version": ["dataset"], "change": ["project", "dataset"]}.get(group, [])
    if not names or (group == "change" and event.run is not None):
        return {("run", event.run)} if event.run is not None else set()
    return {(name, event.text(name)) for name in names if event.text(name) is not None}


def undone(events):
    """The ids of the events that do not count because an undoing that counts, with a later place, took them back."""
    by_id, taken = {event.id: event for event in events}, set()
    for undoing in reversed(events):  # whether an undoing counts, only later ones say
        event = by_id.get(undoing.text("event")) if undoing.kind == "change.undone" and undoing.id not in taken else None
        if event is None or event.kind not in UNDOABLE or event.place >= undoing.place:
            continue
        if subjects(event) & subjects(undoing):
            taken.add(event.id)
    return taken


def check_closings(events, readers, problems):
    """Name the segments that are shorter than their closing says, or have other bytes."""
    for event in events:
        name, size = event.text("segment"), event.whole("bytes")
        if event.kind != "segment.closed" or name is None or size is None:
            continue
        reader = readers.get(name) or Reader(name, [])
        whole = reader.offset >= size
        if whole and not reader.redacted:
            whole = hashlib.sha256(b"".join(reader.lines)[:size]).hexdigest() == event.text("sha256")
        if not whole:
            what = "the segment has fewer or other bytes than its closing says"
            problems.append({"file": f"segments/{name}.jsonl", "line": reader.n, "offset": reader.offset, "what": what})


def metric(value):
    """(double, exact digits or None) of a metric's value: those of a text, or of an integer that is not the double."""
    if isinstance(value, bool | float):
        return float(value), None
    text = str(value)
    if isinstance(value, str) and text in SPECIAL:
        return SPECIAL[text], None
    if not isinstance(value, int | Decimal | str) or not DECIMAL.fullmatch(text):
        return None
    near = float(text)
    return near, (None if not isinstance(value, str) and Decimal(text) == Decimal(near) else text)


def moment(seconds, at):
    """The caller's own time of a point to the microsecond, else `at`."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return at
    try:
        return EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return at


def points_of(events):
    """(the points by metric, in the order of logging; the greatest step that was given, by metric)."""
    found, greatest = {}, {}
    for event in events:
        for key, raw in event.object("values").items() if event.kind == "metrics.logged" else ():
            number = metric(raw)
            if number is None:
                continue
            series = found.setdefault(key, [])
            if event.whole("step") is not None:
                greatest[key] = max(greatest.get(key, event.whole("step")), event.whole("step"))
            step = len(series) if event.whole("step") is None else event.whole("step")
            time = moment(event.data.get("time"), event.at)
            series.append({"step": step, "time": time, "value": number[0], "exact": number[1], "seq": event.seq})
    return found, greatest


def mean_of(numbers):
    """The mean as near as a double gets; None of nothing."""
    infinities = {value for value in numbers if math.isinf(value)}
    if infinities:
        return math.nan if len(infinities) == 2 else infinities.pop()
    try:
        return math.fsum(numbers) / len(numbers) if numbers else None
    except OverflowError:
        return math.fsum(value / len(numbers) for value in numbers)


def summary_of(series, greatest):
    """First, last, extremes, mean and number of the points of one metric; NaN has no part in extremes and mean."""
    values = [point["value"] for point in series]
    numbers = [value for value in values if not math.isnan(value)]
    return {
        "first": values[0],
        "last": values[-1],
        "min": min(numbers, default=None),
        "max": max(numbers, default=None),
        "mean": mean_of(numbers),
        "count": len(values),
        "last_step": greatest,
    }


def final_metrics(events, points):
    """By name what a run's end said, else what was set by hand, else the last point."""
    final = {key: series[-1]["value"] for key, series in points.items()}
    by_hand = {}
    for event in events:
        by_hand |= event.object("values") if event.kind == "summary.set" else {}
    for key, value in by_hand.items():
        if isinstance(value, int | float | Decimal) or (isinstance(value, str) and value in SPECIAL):
            final[key] = metric(value)[0]
    for event in events:
        said = event.object("final_metrics") if event.kind == "run.finished" else {}
        final |= {key: metric(value)[0] for key, value in said.items() if metric(value) is not None}
    return final


def tags_of(events):
    """The tags that are set, with who set them when."""
    tags = {}
    for event in events:
        words = {"run.started": event.object("tags"), "tags.changed": event.object("set")}.get(event.kind, {})
        if event.kind == "run.flagged" and event.text("flag") is not None:
            words = {event.text("flag"): None}
        tags |= {key: {"value": value, "at": event.at, "by": event.by} for key, value in words.items()}
        removed = event.data.get("removed") if event.kind == "tags.changed" else None
        for key in removed if isinstance(removed, list) else ():
            tags.pop(key if isinstance(key, str) else None, None)
    return tags


def artifacts_of(events):
    """Every version of every artifact, in order; whether a path is in the trash says its last event."""
    found, trashed, versions = [], {}, {}
    for event in events:
        path = event.text("path")
        if path is None or event.kind not in ("artifact.added", "artifact.restored", "artifact.trashed"):
            continue
        trashed[path] = event.kind == "artifact.trashed"
        if event.kind == "artifact.added":
            versions[path] = versions.get(path, 0) + 1
            entry = {name: event.data.get(name) for name in ("path", "logged", "size", "sha256")}
            entry |= {
                "name": path.rsplit("/", 1)[-1],
                "type": "other" if event.text("type") is None else event.text("type"),
                "version": versions[path],
                "at": event.at,
            }
            entry |= {"reference": event.data.get("reference") is True, "metadata": event.object("metadata")}
            found.append(entry)
    return [{**entry, "trashed": trashed[entry["path"]]} for entry in found]


def uses_of(events):
    """The contents that a run read: each digest and role once, with what the first event said of it."""
    uses = {}
    for event in events:
        if event.kind == "dataset.used":
            role = "training" if event.text("role") is None else event.text("role")
            use = {"sha256": event.text("sha256"), "role": role, "dataset": event.text("dataset")}
            uses.setdefault((use["sha256"], role), use | {"name": event.text("name") or "", "at": event.at})
    return list(uses.values())


def system_metrics_of(events):
    """The use of the machine, one entry per number."""
    logged = [event for event in events if event.kind == "system_metrics.logged"]
    found = [(key, event.at, metric(value)) for event in logged for key, value in event.object("values").items()]
    return [{"key": key, "time": at, "value": number[0]} for key, at, number in found if number is not None]


def console_of(events):
    """The lines that a run printed, one entry each."""
    logged = [event for event in events if event.kind == "console_lines.logged"]
    return [{"time": event.at, "stream": event.text("stream"), "line": line} for event in logged for line in event.data["lines"]]


def fields_of(events):
    """The fields of a run: the last value given by its starts, changes and renamings."""
    values = dict.fromkeys((*FIELDS, "seed")) | {"name": ""}
    for event in events:
        for name in FIELDS:
            given = event.text(name)
            changed = event.kind == "run.changed" and name != "parent" and given is not None
            renamed = event.kind == "run.renamed" and name == "name" and given is not None
            if (event.kind == "run.started" and given) or changed or renamed:
                values[name] = given
        if event.kind == "run.started" and event.whole("seed") is not None:
            values["seed"] = event.whole("seed")
    return values


def status_of(events):
    """Status, the time of the end if it is one, and the error if a `run.finished` said the status."""
    said = []
    for event in events:
        status = event.text("status")
        if event.kind == "run.started":
            status = status or "running"
        elif event.kind == "run.resumed":
            status = "running"
        if status is not None and event.kind in ("run.started", "run.resumed", "run.changed", "run.finished"):
            said.append((event, status))
    began = ("run.started", "run.resumed")
    ends = [event.at for event, status in said if event.kind not in began and status in ENDS]
    event, status = [both for both in said if both[0].kind not in began or not ends or both[0].at > max(ends)][-1]
    error = event.text("error") if event.kind == "run.finished" else None
    return {"status": status, "ended_at": event.at if status in ENDS else None, "error": error}


def is_last(events, one, other):
    """Whether the last event of the two kinds is of the first one."""
    return [event.kind for event in events if event.kind in (one, other)][-1:] == [one]


def run_of(events):
    """The state of one run, from all events with its id in the order of their places; None before its first start."""
    starts = [event for event in events if event.kind == "run.started"]
    if not starts:
        return None
    opened = [event for event in events if event.kind == "segment.opened"][:1]
    params, digests = {}, {"environment": None, "code": None}
    for event in events:
        if event.kind in ("run.started", "run.resumed", "parameters.added"):
            params |= event.object("params")
        for name in digests:
            if event.kind in ("run.started", "run.resumed", f"{name}.captured") and event.text(name):
                digests[name] = event.text(name)
    notes = [
        {"event": event.id, "at": event.at, "by": event.by, "via": event.via, "note": event.text("note")}
        for event in events
        if event.kind in ("note.changed", "run.flagged") and event.text("note") is not None
    ]
    points, greatest = points_of(events)
    return {
        **fields_of(events),
        **status_of(events),
        **digests,
        "started_at": starts[0].at,
        "command": starts[0].text("command") or "",
        "user": (opened[0].text("user") or "") if opened else None,
        "host": opened[0].text("host") if opened else None,
        "params": params,
        "points": points,
        "summary": {key: summary_of(series, greatest.get(key)) for key, series in points.items()},
        "metrics": final_metrics(events, points),
        "note": notes[-1]["note"] if notes else None,
        "notes": notes,
        "tags": tags_of(events),
        "artifacts": artifacts_of(events),
        "datasets": uses_of(events),
        "system_metrics": system_metrics_of(events),
        "console": console_of(events),
        "trashed": is_last(events, "run.trashed", "run.restored"),
        "protected": is_last(events, "run.protected", "run.unprotected"),
        "points_lost": sum(event.whole("count") or 0 for event in events if event.kind == "writes.dropped"),
    }


def project_id(name):
    """The id of the project that a run calls `name`, and of the dataset that is registered as `name`."""
    before = re.sub(r"\s+", "-", unicodedata.normalize("NFKC", name).casefold().strip())
    after = re.sub(r"[^A-Za-z0-9._-]", "-", before).strip("-")
    if after == before:
        return after
    return f"{after or 'project'}-{hashlib.sha256(before.encode(errors='surrogatepass')).hexdigest()[:8]}"


def namings(events, runs, versions):
    """(event, id, name) of whatever names a project: a run or a dataset version that is there, or `project.created`."""
    for event in events:
        key, name = None, event.text("project")
        of_run = event.kind in ("run.started", "run.changed") and event.run in runs
        of_version = event.kind in ("dataset_version.registered", "dataset_version.changed") and version_of(event) in versions
        if (of_run or of_version) and name:
            key = project_id(name)
        elif event.kind == "project.created":
            key, name = event.text("project"), event.text("name")
        if key is not None and name:
            yield event, key, name


def projects_of(events, taken, runs, versions):
    """The projects by id, each from the first event that names it, were it taken back or not."""
    projects = {}
    for event, key, name in namings(events, runs, versions):
        projects.setdefault(key, {"name": name, "description": None, "created_at": event.at, "trashed": False})
    for event in (event for event in events if event.id not in taken):
        project = projects.get(event.text("project")) if event.kind.startswith("project.") else None
        if project is not None and event.kind in ("project.created", "project.changed"):
            given = {name: event.text(name) for name in ("name", "description") if event.text(name) is not None}
            if event.kind == "project.created" or not given.get("name"):
                given.pop("name", None)
            project |= given
        elif project is not None and event.kind in ("project.trashed", "project.restored"):
            project["trashed"] = event.kind == "project.trashed"
    return projects


def version_of(event):
    """The dataset version that an event is about, as one text."""
    return f"{event.text('dataset')}@sha256:{event.text('sha256')}"


def versions_of(events):
    """The dataset versions by their text, from the first registration of each; a dataset's name is that of all of them."""
    versions, numbers, names = {}, {}, {}
    for event in events:
        key, dataset = version_of(event), event.text("dataset")
        if event.kind == "dataset_version.registered" and key not in versions:
            numbers[dataset] = numbers.get(dataset, 0) + 1
            version = {name: event.data.get(name) for name in ("dataset", "sha256", "size", "format", "rows")}
            parent = event.text("parent")
            version |= {"version": numbers[dataset], "schema": event.object("schema"), "created_at": event.at}
            version |= {"file": event.text("file") or ""}
            version |= {"parent_id": f"{dataset}@sha256:{parent}" if parent else None, "trashed": False}
            versions[key] = version | {"description": None, "tags": {}, "metadata": {}, "project": None}
        if event.kind == "dataset_version.registered" and event.text("name"):
            names.setdefault(dataset, event.text("name"))
    for event in events:
        version = versions.get(version_of(event)) if event.kind.startswith("dataset_version.") else None
        if version is not None and event.kind in ("dataset_version.registered", "dataset_version.changed"):
            changed = event.kind == "dataset_version.changed"
            given = {name: event.data.get(name) for name in ("description", "tags", "metadata", "project")}
            version |= {name: value for name, value in given.items() if value or (changed and value is not None)}
            if changed and event.text("name"):
                names[version["dataset"]] = event.text("name")
        elif version is not None and event.kind in ("dataset_version.trashed", "dataset_version.restored"):
            version["trashed"] = event.kind == "dataset_version.trashed"
    return {key: version | {"name": names.get(version["dataset"])} for key, version in versions.items()}


def tokens_of(events):
    """The access tokens by id, as the first event about each says; whether they were revoked, wherever that stands."""
    revoked = {event.text("token") for event in events if event.kind == "token.revoked"}
    tokens = {}
    for event in events:
        if event.kind == "token.created":
            token = {name: event.text(name) for name in ("sha256", "role", "name", "project")}
            tokens.setdefault(event.text("token"), token | {"revoked": event.text("token") in revoked})
    return tokens


def commits_of(events, folder, redacted_blobs):
    """A function from the digest of some code to its commit: what an event says, else what the blob says."""
    captured = [event for event in events if event.kind == "code.captured"]
    said = {event.text("code"): event.text("git_hash") for event in captured if event.text("git_hash")}

    def git_hash(digest):
        if digest is None or digest in said:
            return said[digest] if digest else None
        path = Path(folder) / "blobs" / digest[:2] / digest
        if digest in redacted_blobs or not re.fullmatch("[0-9a-f]{64}", digest) or not path.is_file():
            return None
        content = path.read_bytes()
        try:
            found = parsed(content).get("git_hash") if hashlib.sha256(content).hexdigest() == digest else None
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, str) else None

    return git_hash


def sign(readers, live):
    """Let events without `by` and `via` have those of the header, and all of an accepted segment the server's `by`."""
    accepted = [event for event in live if event.kind == "segment.accepted" and event.text("by") is not None]
    known = {event.text("segment"): event.text("by") for event in accepted}
    for reader in readers.values():
        header = next(iter(reader.events.values()), None)
        if header is not None and header.kind == "segment.opened":
            for event in reader.events.values():
                event.by = header.text("by") if event.by is None else event.by
                event.via = header.data.get("via", "sdk") if event.via is None else event.via
        for event in reader.events.values():
            event.by = known.get(reader.segment, event.by)


def state(folder):
    """The whole state of a store: runs, projects, datasets and tokens by id, events in order, what is wrong with the files."""
    problems = []
    readers = read(folder, problems)
    events = sorted((e for reader in readers.values() for e in reader.events.values()), key=lambda event: event.place)
    redacted_blobs, purged = redact(events)
    live = [event for event in events if not event.gone and misfit(event) is None]
    sign(readers, live)
    check_closings(live, readers, problems)
    taken = undone(live)
    counting = [event for event in live if event.id not in taken]
    by_run = {}
    for event in counting:
        if event.run is not None and event.run not in purged:
            by_run.setdefault(event.run, []).append(event)
    runs = {name: run for name, theirs in sorted(by_run.items()) if (run := run_of(theirs)) is not None}
    versions = versions_of(counting)
    projects = projects_of(live, taken, runs, versions)
    git_hash = commits_of(live, folder, redacted_blobs)
    for named in (*runs.values(), *versions.values()):
        named["project_id"] = project_id(named["project"]) if named["project"] else None
        named["project_label"] = projects[named["project_id"]]["name"] if named["project"] else None
        named["trashed"] |= bool(named["project"]) and projects[named["project_id"]]["trashed"]
    for run in runs.values():
        run["git_hash"] = git_hash(run["code"])
    names = ("segment", "seq", "at", "clock", "kind", "run", "by", "via", "data")
    listed = [{"event": event.id} | {name: getattr(event, name) for name in names} | {"said": event.said} for event in events]
    found = {"runs": runs, "projects": projects, "datasets": versions, "tokens": tokens_of(live)}
    return found | {"events": listed, "problems": problems}


# --------------------------------------------------------------------------------------------------------------- compare


def plain(value):
    """`value` with only what JSON has: times as texts, NaN and the infinities as their texts, tuples as lists."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return json.loads(double(value))
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds")
    return str(value) if isinstance(value, Decimal) else value


def sort_key(row):
    """What rows are sorted by: their text, so that no two values fail to compare."""
    return json.dumps(plain(row), sort_keys=True)


def canonical(state):
    """The state as JSON text, the same for the same state; without means, which are only near, and without problems."""
    runs = {}
    for name, run in state["runs"].items():
        summary = {key: {k: v for k, v in numbers.items() if k != "mean"} for key, numbers in run["summary"].items()}
        runs[name] = {**run, "summary": summary}
    return sort_key({"runs": runs} | {name: state[name] for name in ("projects", "datasets", "tokens", "events")})


def digest(state):
    """The SHA-256 of `canonical(state)`."""
    return hashlib.sha256(canonical(state).encode()).hexdigest()


def tables(state):
    """The rows of the views by name, each list sorted by `sort_key`; every NaN is the object `math.nan`."""
    rows = {name: [] for name in VIEWS}
    for run_id, run in state["runs"].items():
        rows["runs"].append((run_id, *(run[name] for name in RUN_COLUMNS)))
        rows["params"] += [(run_id, key, value) for key, value in run["params"].items()]
        for key, series in run["points"].items():
            rows["metrics"] += [(run_id, key, *point.values()) for point in series]
        for key, numbers in run["summary"].items():
            kept = (value for name, value in numbers.items() if name != "mean")
            rows["metric_summary"].append((run_id, key, *kept))
            rows["metric_means"].append((run_id, key, numbers["mean"]))
        rows["tags"] += [(run_id, key, tag["value"], tag["at"], tag["by"]) for key, tag in run["tags"].items()]
        rows["notes"] += [(run_id, *note.values()) for note in run["notes"]]
        for entry in run["artifacts"]:
            rest = (entry[name] for name in ("path", "type", "name", "size", "sha256", "version", "at", "trashed"))
            rows["artifacts"].append((run_id, *rest))
        for use in run["datasets"]:
            version = f"{use['dataset']}@sha256:{use['sha256']}" if use["dataset"] else f"sha256:{use['sha256']}"
            rows["dataset_uses"].append((run_id, version, *(use[name] for name in ("sha256", "role", "name", "at"))))
        rows["system_metrics"] += [(run_id, *entry.values()) for entry in run["system_metrics"]]
        rows["console"] += [(run_id, *entry.values()) for entry in run["console"]]
    for key, project in state["projects"].items():
        rows["projects"].append((key, *(project[name] for name in ("name", "description", "created_at", "trashed"))))
    rows["datasets"] = [(key, *(version[name] for name in VERSION_COLUMNS)) for key, version in state["datasets"].items()]
    for event in state["events"]:
        rows["events"].append((*(event[name] for name in ("event", *EVENT_COLUMNS)), *event["said"], event["data"]))
    return {name: sorted(listed, key=sort_key) for name, listed in rows.items()}
