"""W&B offline.

Its Python package ships no reader of its own files, so the `.wandb` file (records of LevelDB's log, protobuf in them) is read
here with its own protobuf classes; checksums are not checked, and a torn tail ends the reading. The speed of reading is therefore
ours, not W&B's.
"""

# ruff: noqa: RUF012  (signatures and class attributes are those of kit.Adapter)

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

from kit import Adapter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK, HEADER = 32768, 7


def records(path: Path) -> Iterator[bytes]:
    """The records of a log, put together from their fragments."""
    data = path.read_bytes()
    place, part = HEADER, b""
    while place + HEADER <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        if kind == 0 or place + HEADER + length > len(data):
            return
        piece, place = data[place + HEADER : place + HEADER + length], place + HEADER + length
        part = piece if kind in (1, 2) else part + piece
        if kind in (1, 4):
            yield part


class A(Adapter):
    """A folder of offline runs; a helper process writes them."""

    ENV, PACKAGE, IMPORT, REQUIREMENTS = "wandb", "wandb", "import wandb", ["wandb"]
    VARIABLES = {
        "WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": "{root}/store", "WANDB_ERROR_REPORTING": "false",
        "WANDB_DISABLE_GIT": "true", "WANDB_DISABLE_CODE": "true",
    }  # fmt: skip
    SKIP = {"questions": "offline runs cannot be asked about without its server"}

    def __init__(self, root):
        super().__init__(root)
        import wandb

        self.wandb = wandb

    def open_run(self, name, params):
        run = self.wandb.init(project="bench", name=name, config=params)
        self.remember(name, run.id)
        return run

    def logger(self, run):
        call = run.log
        return lambda values, step: call(values, step=step)

    def close_run(self, run, summary=None):
        if summary:
            run.summary.update(summary)
        run.finish()

    def history(self, name, metric):
        from wandb.proto import wandb_internal_pb2

        steps, values = [], []
        for path in (self.store / "wandb").glob(f"*{self.recall(name)}/*.wandb"):
            for raw in records(path):
                record = wandb_internal_pb2.Record.FromString(raw)
                if record.WhichOneof("record_type") != "history":
                    continue
                for item in record.history.item:
                    if (item.key or next(iter(item.nested_key), "")) == metric:
                        values.append(self._value(item))
                        steps.append(record.history.step.num)
        return steps, values

    @staticmethod
    def _value(item):
        if item.value_json:
            return json.loads(item.value_json)
        kind = item.WhichOneof("value") if "value" in item.DESCRIPTOR.oneofs_by_name else None
        return getattr(item, kind) if kind else None

    def recovered(self, name):
        return len(self.history(name, "loss")[1])
