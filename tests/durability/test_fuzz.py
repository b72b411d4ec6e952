"""Any bytes for the reader of segments: no crash, no hang, no more memory, and no event that is not in them."""

from __future__ import annotations

import random
import re
import resource
import signal
import time
import zlib
from datetime import datetime, timezone
from pathlib import Path

import pytest
import unprotected

from ailab import checkup, events, journal, store, verification
from ailab.errors import DamageError
from ailab.views import open_lab

HANG_SECONDS = 1.0
MEMORY_MIB = 256


def line_of(body):
    """A line with the checksum that is right for these bytes, which end with `"crc":0}`."""
    assert body.endswith(b'"crc":0}')
    return body[:-2] + b"%d}\n" % zlib.crc32(body)


def seed_segment(folder):
    """The bytes of a segment with events of many kinds."""
    writer = journal.Writer(store.open_store(str(folder), create=True), run="r1")
    writer.append(events.RunStarted(name="x", params={"lr": 0.1, "deep": {"a": [1, None, "✓"]}}))
    for i in range(12):
        writer.append(events.MetricsLogged({"loss": 1 / (i + 1), "n": i}, i))
    writer.append(events.NoteChanged(note="a\nnote"))
    writer.append(events.WritesDropped(count=3, error="x", first=DATE, last=DATE))
    writer.append(events.RunFinished(status="completed"))
    writer.seal()
    path = Path(writer.store.segment_path(writer.name))
    raw = path.read_bytes()
    path.unlink()
    return raw


DATE = datetime(2026, 1, 1, tzinfo=timezone.utc)
SCALARS = (
    b"0", b"-1", b"1", b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809", b"1" + b"0" * 400, b"1e400",
    b"-0.0",
    b"1.5", b"null", b"true", b'""', b'"x"', b'"2026-01-01T00:00:00Z"', b'"9999-12-31T23:59:60Z"', b'"0000-00-00"', b"[]", b"{}",
    b'"\\ud800"', b'"\\u0000"', b"[[[[[[]]]]]]", b'{"a":{"a":{"a":1}}}', b'"' + b"y" * 3000 + b'"', b"NaN",
    b"01", b"1.", b'"\\x"',
)  # fmt: skip
KINDS = (b'"segment.opened"', b'"segment.sealed"', b'"metrics.logged"', b'"run.started"', b'"thing.new"', b'""', b"7", b"null")
HEADERS = (
    b'{"format":1,"segment":"x","ailab":"0","host":"h","pid":1}',
    b'{"format":9,"segment":"x","ailab":"0","host":"h","pid":1}',
)
FOOTERS = (b'{"lines":1,"bytes":5,"sha256":"x"}', b'{"lines":-1,"bytes":1e3,"sha256":7}', b'{"bytes":999999999999999999999}')
MEMBERS = (b"seq", b"at", b"clock", b"kind", b"run", b"by", b"via", b"data", b"prev", b"more")


class Inputs:
    """Bytes by chance: noise, a segment with changes, and lines that prove themselves but say what no writer says."""

    def __init__(self, seed, raw):
        self.chance, self.raw, self.lines = random.Random(seed), raw, raw.splitlines(keepends=True)

    def next(self):
        make = self.chance.choice((self.noise, self.changed, self.changed, self.shuffled, self.forged, self.forged, self.forged))
        return make()

    def noise(self):
        alphabet = self.chance.choice((bytes(range(256)), b'{}[]",:0123456789\n\r eE.-"crc"', b"\n\0{}", b'\r\n"crc":1}'))
        return bytes(self.chance.choices(alphabet, k=self.chance.randrange(600)))

    def changed(self):
        content = bytearray(self.raw)
        for _ in range(self.chance.randint(1, 6)):
            i = self.chance.randrange(len(content))
            j = i + self.chance.choice((0, 1, 2, 8, 200))
            piece = (
                self.chance.randbytes(self.chance.choice((0, 1, 2, 30)))
                if self.chance.random() < 0.7
                else bytes(content[i:j]) * 2
            )
            content[i:j] = piece
        return bytes(content)

    def shuffled(self):
        count = self.chance.randrange(1, len(self.lines) + 4)
        return b"".join(self.chance.choice(self.lines) for _ in range(count))

    def forged(self):
        return b"".join(self.forged_line(n) for n in range(self.chance.randint(1, 6)))

    def forged_line(self, n):
        pick, parts = self.chance.choice, []
        plain = {b"seq": b"%d" % n, b"at": b'"2026-01-01T00:00:00Z"', b"clock": b"%d" % n, b"kind": pick(KINDS), b"prev": b"0"}
        plain[b"data"] = pick((*HEADERS, *FOOTERS, *SCALARS))
        for name in MEMBERS:
            if self.chance.random() < 0.85:
                value = plain.get(name, b'"x"') if self.chance.random() < 0.8 else pick(SCALARS)
                parts.append(b'"' + name + b'":' + value)
        if self.chance.random() < 0.2:
            self.chance.shuffle(parts)
        if self.chance.random() < 0.02:
            depth = self.chance.choice((500, 2000, 100_000))
            parts.append(b'"deep":' + b"[" * depth + b"]" * depth)
        return line_of(b"{" + b",".join([*parts, b'"crc":0}']))


def scanned(path, mode):
    """(events, what ended the reading)."""
    try:
        return list(journal.scan(path, mode=mode)), None
    except DamageError as problem:
        return [], problem


def read_in_every_way(path, content):
    """Read `content` as every reader does; how many events, each of which must be in it, with a checksum that is right."""
    path.write_bytes(content)
    given = 0
    for mode in ("salvage", "tail-tolerant", "strict"):
        lines, problem = scanned(str(path), mode)
        assert problem is None or (problem.path, problem.offset <= len(content)) == (str(path), True)
        given += len(lines)
        assert len({line.seq for line in lines}) == len(lines)
        assert all(bytes(line.data) in content or bytes(line.data) == b"{}" for line in lines)
    for segment, lines in journal.Tail(store.Store(str(path.parents[1]))).poll():
        given += len(lines)
        assert segment.path == str(path)
    right = sum(re.search(rb'"crc":(\d+)\}$', line) is not None for line in content.split(b"\n"))
    assert given <= 4 * right
    return given


def fuzz(folder, seed, *, seconds, inputs=10**9, doctor_every=50):
    """Read input after input; how many there were, the slowest, and how much memory grew."""
    source = Inputs(seed, seed_segment(folder))
    path = folder / "segments" / "20260101T000000000000Z_h_1_00000000_x.jsonl"
    stop, count, given, slowest = time.monotonic() + seconds, 0, 0, 0.0
    for _ in range(200):
        read_in_every_way(path, source.next())
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while count < inputs and time.monotonic() < stop:
        content, start = source.next(), time.perf_counter()
        signal.alarm(10)
        try:
            given += read_in_every_way(path, content)
            if count % doctor_every == 0:
                checkup.examine(str(folder))
                verification.verify(store.Store(str(folder)))
        except BaseException:
            print("input", count, content[:5000])
            raise
        signal.alarm(0)
        slowest = max(slowest, time.perf_counter() - start)
        count += 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) >> 10
    print(f"{count} inputs, {given} events read, the slowest in {slowest:.3f} s, {grown} MiB more")
    assert slowest < HANG_SECONDS
    assert grown < MEMORY_MIB
    return count


def test_twenty_seconds_of_any_bytes(tmp_path, seed):
    """G21, short: noise, changed segments and forged lines for 20 s: 0 crashes, none slower than 1 s, less than 256 MiB more."""
    assert fuzz(tmp_path / "store", seed, seconds=20) > 1000


@pytest.mark.long
def test_a_million_inputs_of_any_bytes(tmp_path, seed):
    """G21: a million inputs, or an hour."""
    fuzz(tmp_path / "store", seed, seconds=3600, inputs=10**6)


def test_control_a_reader_that_expects_no_bad_json_is_found_to_crash(tmp_path, seed, monkeypatch):
    """G21, negative control: where a line that is no JSON of ours is not expected, the same inputs end the reading."""
    unprotected.apply("bad_json", monkeypatch.setattr)
    with pytest.raises(ArithmeticError):
        fuzz(tmp_path / "store", seed, seconds=20)
    signal.alarm(0)


NO_TEXT = {
    "kind": (b'"\xff"', b"{}"),
    "header": (b'"segment.opened"', HEADERS[0].replace(b'"h"', b'"\xff"')),
    "footer": (b'"segment.sealed"', FOOTERS[0].replace(b'"x"', b'"\xff"')),
    "payload": (b'"run.started"', b'{"name":"\xff"}'),
    "payload's name": (b'"metrics.logged"', b'{"values":{"\xff":1}}'),
}


@pytest.mark.parametrize("where", NO_TEXT)
def test_a_line_that_proves_itself_and_is_no_text_is_no_crash(tmp_path, where):
    """G21: a right checksum over bytes that are no UTF-8, as another program may write it: the lines around it are read."""
    raw, (kind, data) = seed_segment(tmp_path / "store"), NO_TEXT[where]
    lines = raw.splitlines(keepends=True)
    seq = b"%d" % len(lines)
    bad = b'{"seq":' + seq + b',"at":"2026-01-01T00:00:00Z","kind":' + kind + b',"data":' + data + b',"crc":0}'
    path = tmp_path / "store" / "segments" / "20260101T000000000000Z_h_1_00000000_x.jsonl"
    assert read_in_every_way(path, raw + line_of(bad)) >= 2 * len(lines)
    checkup.examine(str(tmp_path / "store"))
    lab = open_lab(tmp_path / "store")
    lab.prepare()
    assert lab.con.execute("SELECT count(*) FROM metrics WHERE key = 'loss'").fetchone() == (12,)
    lab.close()
