"""The limit of logging with our envelope: make the whole event's Struct from the clock and the values, encode it, one `write(2)`.

What any writer of such lines must do; no checksum is computed, no lock taken, nothing kept to go on after an interrupt.
"""

# ruff: noqa: RUF012  (signatures and class attributes are those of kit.Adapter)

from __future__ import annotations

import os
from datetime import datetime, timezone

from adapters.limit_raw import A as Raw


class A(Raw):
    """Lines of the store's form, with digits in the place of checksums."""

    SKIP = {**Raw.SKIP, **dict.fromkeys(("recovered", "history"), "written only")}

    def logger(self, run):
        from ailab.events import Line, MetricsLogged

        write, encode, now, utc = os.write, self.encode, datetime.now, timezone.utc
        name, seq = "01m7xye33728pmv0zzfh52h5yn", 0

        def log(values: dict[str, float], step: int) -> None:
            nonlocal seq
            seq += 1
            data = MetricsLogged(values, step)
            write(run, encode(Line(seq, now(utc), seq, "metrics.logged", name, None, None, data, 3735928559, 3735928559)) + b"\n")

        return log
