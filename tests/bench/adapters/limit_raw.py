"""The limit of logging: encode a small dictionary, write it as a line with one `write(2)`; one fsync at the end.

Survives kill -9, as the page cache does; does not survive a power cut. No checksum, no lock, no look at what was written.
"""

# ruff: noqa: RUF012  (signatures and class attributes are those of kit.Adapter)

from __future__ import annotations

import os
import time
from typing import Any

from kit import Adapter


class A(Adapter):
    """JSON lines, one file a run."""

    PACKAGE, IMPORT = "msgspec", "import msgspec"
    SKIP = {"questions": "its questions are limit_duckdb's"}

    def __init__(self, root):
        super().__init__(root)
        import msgspec

        self.encode = msgspec.json.Encoder().encode
        self.decode = msgspec.json.Decoder().decode

    def open_run(self, name, params):
        fd = os.open(self.store / f"{name}.jsonl", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.write(fd, self.encode({"t": time.time(), "run": name, "params": params}) + b"\n")
        return fd

    def logger(self, run):
        write, encode, clock = os.write, self.encode, time.time

        def log(values: dict[str, float], step: int) -> None:
            write(run, encode({"t": clock(), "step": step, "m": values}) + b"\n")

        return log

    def close_run(self, run, summary=None):
        os.write(run, self.encode({"t": time.time(), "end": summary}) + b"\n")
        os.fsync(run)
        os.close(run)

    def points(self, name: str) -> list[dict[str, Any]]:
        """Every logged line of a run that has its newline."""
        with open(self.store / f"{name}.jsonl", "rb") as file:
            lines = [self.decode(line) for line in file if line.endswith(b"\n")]
        return [line for line in lines if "step" in line]

    def recovered(self, name):
        return len(self.points(name))

    def history(self, name, metric):
        points = self.points(name)
        return [p["step"] for p in points], [p["m"][metric] for p in points]
