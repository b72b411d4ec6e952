"""Segments written by hand: any text as a line, with the checksum that it should have, as another language's writer might.

    pen = Pen(folder, "r1")            # a header with this process's name in it
    pen.line('"kind":"note.changed","run":"r1","data":{"note":"x"}')
    pen.torn(b'{"seq":2,"at"')         # a write that came back short, as its writer marks it
    pen.seal()

It shares no code with the package, so that what the package reads and rewrites was not made by the package.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path

BIRTHDAY = "20261124T090000000000Z"


class Pen:
    """Write one segment, line by line, straight into its file.

    Attributes:
        name: the segment's name at birth.
        path: its file.
        seq: of the next line.
        prev: checksum of the last line that counts.
    """

    def __init__(self, store, run=None, *, number=1, host="elsewhere", header=True):
        self.run = run
        self.name = f"{BIRTHDAY[:-7]}{number:06d}Z_{host}_77_{number:08x}" + (f"_{run}" if run else "")
        self.path = Path(store) / "segments" / f"{self.name}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.pieces = []
        self.seq = self.prev = 0
        if header:
            fields = {
                "format": 1,
                "segment": self.name,
                "ailab": "0.0.1",
                "host": host,
                "pid": 77,
                "boot": "none",
                "started": 1.0,
            }
            self.line(f'"kind":"segment.opened"{self.of_run()},"data":{json.dumps(fields, separators=(",", ":"))}')

    def of_run(self):
        """The member `run` as text, or nothing."""
        return f',"run":{json.dumps(self.run)}' if self.run else ""

    def line(self, members, *, at="2026-11-24T09:00:00.000001Z", clock=None, prev=None):
        """Append a line with these members between `clock` and `prev`."""
        clock = self.seq if clock is None else clock
        prev = self.prev if prev is None else prev
        return self.text(f'{{"seq":{self.seq},"at":"{at}","clock":{clock},{members},"prev":{prev},"crc":0}}')

    def text(self, text):
        """Append a whole line that ends with `"crc":0}`, with its checksum in the place of the 0; it must count."""
        body = text.encode("utf-8", "surrogatepass")
        assert body.endswith(b'"crc":0}')
        crc = zlib.crc32(body)
        self.raw(b"%b%d}\n" % (body[:-2], crc))
        self.seq, self.prev = self.seq + 1, crc
        return self

    def point(self, values, step=None, **kwargs):
        """Append a `metrics.logged` line; `values` is JSON text."""
        end = "" if step is None else f',"step":{step}'
        return self.line(f'"kind":"metrics.logged"{self.of_run()},"data":{{"values":{values}{end}}}', **kwargs)

    def torn(self, piece):
        """Append what a short write leaves, ended by a blank and a newline before the next line."""
        return self.raw(piece + b" \n")

    def raw(self, piece):
        """Append bytes."""
        self.pieces.append(piece)
        with self.path.open("ab") as file:
            file.write(piece)
        return self

    @property
    def content(self):
        """What was written so far."""
        return b"".join(self.pieces)

    def seal(self):
        """Append the footer."""
        stated = {"lines": self.seq, "bytes": len(self.content), "sha256": hashlib.sha256(self.content).hexdigest()}
        return self.line(f'"kind":"segment.sealed"{self.of_run()},"data":{json.dumps(stated, separators=(",", ":"))}')
