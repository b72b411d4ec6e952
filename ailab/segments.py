"""How a segment reads: the form of a line, its checksum, and what a reader finds, however damaged the file.

Who reads: the views through `Tail`, which takes only bytes that are new; doctor and tests through `scan`. Readers take no
lock that a writer waits for longer than microseconds, and never write. Every line proves itself by its own checksum, so a
line that is not whole or not right is named by file, line and byte offset, and costs no other line. A torn last line of a
live segment is normal and is not read before its newline is there.
"""

from __future__ import annotations

import os
import time
from datetime import datetime  # noqa: TC003  (msgspec reads the annotations of Structs at run time)
from typing import IO, TYPE_CHECKING, Annotated, Any
from zlib import crc32

import msgspec

from . import events
from .errors import DamageError
from .store import open_plain, reason_of, run_of_segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .store import Store

try:
    import fcntl
except ImportError:  # Windows: nothing here depends on flock, it only answers sooner
    fcntl = None  # type: ignore[assignment]

SILENCE_SECONDS = 60.0
"""A writer on another host that added nothing for so long is taken as gone."""

LISTING_SECONDS = 2.0
"""A folder that was changed so recently is listed again: its time is coarser than two changes may be apart."""

INT_MAX = (1 << 63) - 1
"""The greatest number of a line or a clock that counts."""

_YEARS = range(2, 9999)
"""Years of a line's time: any zone's time in them is one in UTC, too."""

_MARK = b'"crc":'
_encoder = msgspec.json.Encoder()


def encode_line(line: events.Line) -> tuple[bytes, int]:
    """Encode a line with its checksum; return (bytes with the newline, crc). `line.crc` must be 0."""
    body = _encoder.encode(line)
    crc = crc32(body)
    return body[:-2] + b"%d}\n" % crc, crc


def stated_crc(line: bytes) -> int | None:
    """The checksum that a line (without newline) states, or None unless its bytes have that checksum."""
    at = line.rfind(_MARK)
    if at < 0:
        return None
    crc = crc32(b"0}", crc32(line[: at + 6]))
    return crc if line[at + 6 :] == b"%d}" % crc else None


_Signed = Annotated[int, msgspec.Meta(ge=-INT_MAX, le=INT_MAX)]


class Envelope(msgspec.Struct, gc=False):
    """A line as a reader first sees it: the payload still as bytes. `seq`, `clock` and `at` are such as tables can hold."""

    seq: Annotated[int, msgspec.Meta(ge=0, le=INT_MAX)]
    at: Annotated[datetime, msgspec.Meta(tz=True)]
    kind: str
    clock: _Signed = 0
    run: str | None = None
    by: str | None = None
    via: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"{}")
    prev: int = 0
    crc: int = 0


_decoder = msgspec.json.Decoder(Envelope)


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes `start` to `end` of a segment, and what a reader of it knows at `end`.

    `sha256` is that of the segment from its first byte up to `end`; `line` and `lines` count all lines before `start` and
    before `end`, valid or not: its rows are those with `line <= n < lines`. `clock` is the greatest of the lines before `end`.
    """

    segment: str
    start: int
    end: int
    sha256: str
    line: int
    lines: int
    seq: int
    crc: int
    sealed: bool = False
    clock: int = -1


class Segment:
    """What a reader knows of one segment: how far it has read, and what it found. Feed it the file's bytes in order."""

    __slots__ = (
        "_doubtful",
        "_is_overrun",
        "_missing",
        "clock",
        "crc",
        "ended",
        "footer",
        "header",
        "last_at",
        "line",
        "name",
        "offset",
        "path",
        "problems",
        "refused",
        "seq",
        "sha",
    )

    def __init__(self, name: str, path: str, *, hashed: bool = False) -> None:
        self.name = name
        self.path = path
        self.offset = 0
        self.line = 0
        self.seq = 0
        self.crc = 0
        self.clock = -1
        self.header: events.SegmentOpened | None = None
        self.footer: events.SegmentSealed | None = None
        self.ended = False
        self.last_at: datetime | None = None
        self.problems: list[DamageError] = []
        self.refused = False
        self._missing: set[int] = set()
        self._doubtful = 0
        self._is_overrun = False
        self.sha: Any = None
        if hashed:
            import hashlib

            self.sha = hashlib.sha256()

    @property
    def birth(self) -> str:
        """The name at birth, which events are known by, whatever the file is called now."""
        return self.header.segment if self.header is not None else self.name

    @property
    def run(self) -> str | None:
        """The run that the name at birth tells."""
        return run_of_segment(self.birth)

    def feed(self, data: bytes) -> list[Envelope]:
        """Take the next bytes of the file up to their last newline; return the events that are whole and right.

        A line that is not whole or not right is added to `problems` and left out; the others are not touched by it. What
        stands behind the footer is no part of the segment. Of a segment in a newer format nothing is returned.
        """
        return [envelope for _, envelope in self.feed_lines(data) if envelope is not None and not self.refused]

    def feed_lines(self, data: bytes) -> list[tuple[bytes, Envelope | None]]:
        """Take the next bytes as `feed` does; return every line with its newline, and its event where it is whole and right."""
        found: list[tuple[bytes, Envelope | None]] = []
        for raw in data[: data.rfind(b"\n") + 1].splitlines(keepends=True) if b"\r" not in data else _lines(data):
            self.line += 1
            envelope = None if self.ended else self._check(raw[:-1])
            found.append((raw, envelope))
            if envelope is not None:
                self.last_at = envelope.at
                self._note(envelope)
            elif self.ended and not self._is_overrun:
                self._is_overrun = True
                self._report("gap", raw, "it stands behind the footer; neither it nor what follows counts")
            if self.sha is not None:
                self.sha.update(raw)
            self.offset += len(raw)
        return found

    def _check(self, line: bytes) -> Envelope | None:
        crc = stated_crc(line)
        if crc is None:
            self._report("bad-checksum", line)
            self._doubtful += 1
            return None
        try:
            if not line.isascii():
                line.decode()  # the payload stays as bytes, and whoever reads it expects a text
            envelope = _decoder.decode(line)
            if envelope.at.year not in _YEARS:
                raise msgspec.ValidationError(f"a time in the year {envelope.at.year}")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            self._report("bad-json", line, str(problem))
            self._doubtful = 0
            return None
        if envelope.seq != self.seq and not self._out_of_order(envelope, line):
            return None
        if envelope.seq >= self.seq:
            if envelope.seq == self.seq and envelope.prev != self.crc:
                self._report("gap", line, "the line does not follow the one before it")
            elif self._doubtful and envelope.seq == self.seq:
                self._clear_doubtful()
            self.seq, self.crc = envelope.seq + 1, crc
        self.clock = max(self.clock, envelope.clock)
        self._doubtful = 0
        return envelope

    def _clear_doubtful(self) -> None:
        """The line after the bad ones follows the last good one: its writer tore them off itself, and nothing is lost."""
        start = len(self.problems) - self._doubtful
        self.problems[start:] = [
            DamageError("torn-write", path=p.path, line=p.line, offset=p.offset, detail=p.detail) for p in self.problems[start:]
        ]

    def _out_of_order(self, envelope: Envelope, line: bytes) -> bool:
        """Judge a line whose seq is not the next one; say whether it is to be kept."""
        if envelope.seq > self.seq:
            self._missing.update(range(self.seq, min(envelope.seq, self.seq + 100_000)))
            self._report("gap", line, f"{envelope.seq - self.seq} lines are missing before it")
            return True
        if envelope.seq in self._missing:
            self._missing.discard(envelope.seq)
            self._report("gap", line, "the line stands out of its order")
            return True
        self._report("duplicate", line, f"seq {envelope.seq} was there before")
        return False

    def _note(self, envelope: Envelope) -> None:
        if envelope.kind == events.SegmentOpened.kind and self.header is None:
            self._take_header(envelope)
        elif envelope.kind == events.SegmentSealed.kind:
            try:
                self.footer = msgspec.json.decode(envelope.data, type=events.SegmentSealed)
            except msgspec.ValidationError as problem:
                self._report("unknown-version", b"", f"a footer that this version cannot read: {problem}")
            else:
                self._check_footer(self.footer)

    def _take_header(self, envelope: Envelope) -> None:
        try:
            self.header = msgspec.json.decode(envelope.data, type=events.SegmentOpened)
        except msgspec.ValidationError as problem:
            self._report("unknown-version", b"", f"a header that this version cannot read: {problem}")
            self.refused = True
            return
        if self.header.format > events.FORMAT:
            self._report("unknown-version", b"", f"format {self.header.format}, this version reads up to {events.FORMAT}")
            self.refused = True

    def _check_footer(self, footer: events.SegmentSealed) -> None:
        self.ended = footer.bytes == self.offset
        if not self.ended:
            self._report("gap", b"", f"the footer states {footer.bytes} bytes before it, {self.offset} are there")
        elif self.sha is not None and self.sha.hexdigest() != footer.sha256:
            self._report("bad-checksum", b"", "the bytes before the footer do not have the SHA-256 that it states")

    def problem_of_rest(self, rest: int) -> DamageError:
        """What it means that `rest` bytes stand behind the last newline while nobody writes."""
        kind, what = ("gap", "stand behind the footer") if self.footer is not None else ("torn-tail", "without an end")
        detail = f"{rest:,} {'byte' if rest == 1 else 'bytes'} {what}"
        return DamageError(kind, path=self.path, line=self.line + 1, offset=self.offset, detail=detail)

    def _report(self, kind: str, line: bytes, detail: str = "") -> None:
        text = detail or line[:80].decode("utf-8", "replace")
        self.problems.append(DamageError(kind, path=self.path, line=self.line, offset=self.offset, detail=text))


def _lines(data: bytes) -> list[bytes]:
    """Split at newlines only; a carriage return is damage to be found in its line, not a line's end."""
    return [line + b"\n" for line in data.split(b"\n")[:-1]]


def room(file: IO[bytes], read: int, most: int) -> int:
    """How many bytes to ask for, behind the first `read`: a buffer that is larger than what comes tears holes into the heap."""
    return max(1, min(most, os.fstat(file.fileno()).st_size - read))


class Blocks:
    """Whole lines of a file, many at a time; iterate again for what was added since. Linear also for a line of a gigabyte.

    Attributes:
        read: bytes that were read.
        rest: bytes of them behind the last newline.
    """

    def __init__(self, file: IO[bytes], size: int = 4 << 20) -> None:
        self.read = 0
        self.rest = 0
        self._file = file
        self._size = size
        self._parts: list[bytes] = []

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self._file.read(room(self._file, self.read, self._size)):
            self.read += len(chunk)
            cut = chunk.rfind(b"\n") + 1
            if not cut:
                self.rest += len(chunk)
                self._parts.append(chunk)  # joined once, however long the line is
                continue
            block = b"".join([*self._parts, chunk[:cut]])
            self._parts, self.rest = [chunk[cut:]], len(chunk) - cut
            yield block


def scan(path: str, *, mode: str = "tail-tolerant") -> Iterator[Envelope]:
    """Read one segment from its first line.

    Args:
        path: the file.
        mode: `strict` raises at the first thing that is wrong, a torn tail too; `tail-tolerant` lets a torn last line be,
            as a live segment has it, and raises at anything else; `salvage` gives all that is right and raises nothing.

    Raises:
        DamageError: as the mode says.
    """
    name = os.path.basename(path).removesuffix(".jsonl")
    segment = Segment(name, path, hashed=True)
    with open_plain(path) as file:
        blocks = Blocks(file, 1 << 20)
        for block in blocks:
            found = segment.feed(block)
            damage = [p for p in segment.problems if p.kind != "torn-write" or mode == "strict"]
            if damage and mode != "salvage":
                raise damage[0]
            yield from found
    if blocks.rest and mode == "strict":
        raise segment.problem_of_rest(blocks.rest)


class Tail:
    """Read what is new in a store, again and again: only new bytes, every event once, bad places named and passed over.

    Holds one `Segment` per file that is not wholly in tables. A file that cannot be read, a folder named like a segment, or a
    copy of a segment under another name is named in `problems` and costs nothing else.

    Args:
        store: the store.
        covered: tells of segments, by name, the last `Span` that counts; reading goes on at its `end`.
    """

    CHUNK = 8 << 20

    def __init__(self, store: Store, covered: Callable[[Sequence[str]], Mapping[str, Span]] | None = None) -> None:
        self.store = store
        self.segments: dict[str, Segment] = {}
        self._covered = covered
        self._settled: dict[str, int] = {}
        self._births: dict[str, str] = {}
        self._refused: dict[str, DamageError] = {}
        self._names: list[str] = []
        self._listed = (0, 0.0, 0.0)
        self._unended: dict[str, int] = {}

    @property
    def problems(self) -> list[DamageError]:
        """All that was found wrong so far."""
        return [*self._refused.values(), *(p for s in self.segments.values() for p in s.problems)]

    def read_to(self, birth: str) -> int | None:
        """How many bytes of a segment were read or are known to be in tables; None where it was not seen."""
        segment = self.segments.get(self._births.get(birth, birth))
        return segment.offset if segment is not None else self._settled.get(birth)

    def poll(self) -> Iterator[tuple[Segment, list[Envelope]]]:
        """Yield (segment, new events) for every segment that has grown."""
        for name in self._unsettled():
            if name in self._refused and self._refused[name].kind == "duplicate":
                continue
            segment = self.segments.get(name)
            if segment is None:
                segment = self.segments[name] = Segment(name, self.store.segment_path(name))
            try:
                yield from self._read(segment)
                if name in self.segments:  # it was not found to be a copy
                    self._refused.pop(name, None)
            except FileNotFoundError:
                if os.path.lexists(segment.path):  # a link to nowhere
                    self._refused[name] = DamageError("unreadable", path=segment.path, detail="a link to nowhere")
            except OSError as problem:
                self._refused[name] = DamageError("unreadable", path=segment.path, detail=reason_of(problem))

    def _unsettled(self) -> list[str]:
        """Names of the files that may have something new; what is wholly in tables and sealed is not looked at again."""
        names = self._list()
        strange = [name for name in names if name not in self.segments and name not in self._settled]
        if strange and self._covered is not None:
            spans = self._covered(strange)
            for name in strange:
                if name in spans:
                    self._resume(name, spans[name])
        return [name for name in names if name not in self._settled]

    def _list(self) -> list[str]:
        """The folder's names; read again only when it has changed."""
        try:
            changed = os.stat(self.store.segments).st_mtime_ns
        except FileNotFoundError:
            return []
        seen, since, listed = self._listed
        now = time.monotonic()  # the folder's time may come from another host's clock: what counts is since when it is known
        if seen != changed or listed - since < LISTING_SECONDS:
            self._names = self.store.segment_names()
            self._listed = (changed, now if seen != changed else since, now)
        return self._names

    def _resume(self, name: str, span: Span) -> None:
        """Know a segment of which a first part is in tables; a sealed one has no more."""
        self._births[span.segment] = name
        if span.sealed:
            self._settled[name] = span.end
            return
        segment = Segment(name, self.store.segment_path(name))
        try:
            with open(segment.path, "rb") as file:
                segment.feed(file.readline(self.CHUNK))  # its header tells who writes
        except OSError:  # it is gone, and so all that it had is in tables
            self._settled[name] = span.end
            return
        segment.problems.clear()
        segment.offset, segment.line, segment.seq, segment.crc = span.end, span.lines, span.seq, span.crc
        segment.clock = span.clock
        self.segments[name] = segment

    def _read(self, segment: Segment) -> Iterator[tuple[Segment, list[Envelope]]]:
        """Feed what is new up to the last newline; bytes behind it are looked at once, and read when their newline is there."""
        seen = max(segment.offset, self._unended.get(segment.name, 0))
        if segment.ended or os.stat(segment.path).st_size <= seen:
            return
        with open_plain(segment.path) as file:
            file.seek(seen)
            while chunk := file.read(room(file, seen, self.CHUNK)):
                cut = chunk.rfind(b"\n") + 1
                if not cut:
                    seen += len(chunk)
                    continue
                file.seek(segment.offset)
                data = file.read(seen - segment.offset) + chunk[:cut]
                seen += len(chunk)
                file.seek(seen)
                fresh = segment.header is None
                found = segment.feed(data)
                if fresh and segment.header is not None and self._is_copy(segment):
                    del self.segments[segment.name]
                    return
                if found:
                    yield segment, found
        self._unended[segment.name] = seen

    def _is_copy(self, segment: Segment) -> bool:
        """Whether another file of the same name at birth is being read, or tables have it; the one that kept its name counts."""
        birth = segment.birth
        spans = self._covered([birth]) if self._covered is not None and segment.name != birth else {}
        free = birth not in self._births and birth not in spans and not os.path.exists(self.store.segment_path(birth))
        if segment.name == birth or free:
            self._births.setdefault(birth, segment.name)
        if self._births.get(birth, birth) == segment.name:
            return False
        self._refused[segment.name] = DamageError("duplicate", path=segment.path, detail=f"a copy of segment {birth}")
        return True


def writer_alive(segment: Segment, *, now: float | None = None) -> bool:  # noqa: PLR0911  (one line per way to know)
    """Whether the writer of an unsealed segment is still there.

    On the same host the writer's flock answers at once; where there is no flock, or a silent file is held by somebody
    else's inherited descriptor, its pid and start time do. On another host the file's last change within
    `SILENCE_SECONDS` does.
    """
    if segment.footer is not None:
        return False
    from . import capture

    moment = time.time() if now is None else now
    try:
        quiet_s = moment - os.stat(segment.path).st_mtime
    except OSError:
        return False
    header = segment.header
    if header is None:
        return quiet_s < SILENCE_SECONDS
    if (header.boot, header.host) != (capture.boot_id(), capture.host_name()):
        return quiet_s < SILENCE_SECONDS
    held = _lock_is_held(segment.path)
    if held is False:
        return False
    if held and quiet_s < SILENCE_SECONDS:
        return True
    return header.started is not None and capture.process_start(header.pid) == header.started


def _lock_is_held(path: str) -> bool | None:
    """Whether somebody holds the file's flock; None where flock does not tell."""
    if fcntl is None:
        return None
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    else:
        return False
    finally:
        os.close(fd)
