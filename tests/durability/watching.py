"""A reader that polls a store while others write it, and says what it met: errors, half events, holes, counts that went down.

Run as a process of its own by tests of kills and of concurrent writers: `watch(folder, stop, how)` polls every 10 ms until the
file `stop` is there, then once more. It expects of every metric `…/0` or `w…` that its steps are 0, 1, 2 … without holes, from
each writer in order, as the writers of these tests log them.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from typing import Any

POLL_SECONDS = 0.01

Counts = dict[Any, tuple[int, int]]
"""{(run, metric): (points, greatest step)}."""


class Sql:
    """Counts as a catalogue answers them, brought up to date before each question."""

    def __init__(self, folder: str) -> None:
        import ailab

        self.lab = ailab.connect(folder)

    def counts(self) -> Counts:
        """Points by run and metric."""
        rows = self.lab.execute(
            "SELECT run_id, key, count(*), max(step) FROM metrics WHERE key LIKE '%/0' OR key LIKE 'w%' GROUP BY 1, 2"
        ).fetchall()
        return {(run, key): (points, greatest) for run, key, points, greatest in rows}


class Scan:
    """Counts by reading every segment anew, each up to its last whole line; anything but a torn end raises."""

    def __init__(self, folder: str) -> None:
        from ailab import store

        self.store = store.Store(folder)

    def counts(self) -> Counts:
        """Points by run and metric; a step that is not the next one of its writer in its file raises."""
        import msgspec

        from ailab import journal

        found: dict[Any, tuple[int, int]] = {}
        for name in self.store.segment_names():
            before: dict[str, int] = {}
            for line in journal.scan(self.store.segment_path(name), mode="tail-tolerant"):
                if line.kind != "metrics.logged":
                    continue
                data = msgspec.json.decode(line.data)
                key = next(iter(data["values"]))
                assert data["step"] == before.get(key, data["step"] - 1) + 1, (name, key, before, data["step"])
                before[key] = data["step"]
                points, greatest = found.get((line.run, key), (0, -1))
                found[line.run, key] = points + 1, max(greatest, data["step"])
        return found


def watch(folder: str, stop: str, how: str) -> None:
    """Poll until `stop` is there; print one JSON object of what was seen."""
    import unprotected

    unprotected.apply()
    reader, said = (
        (Sql if how == "sql" else Scan)(folder),
        {"polls": 0, "errors": 0, "down": 0, "holes": 0, "points": 0, "first": ""},
    )
    before: Counts = {}
    print("reading", flush=True)
    last = False
    while not last:
        last = os.path.exists(stop)
        try:
            now = reader.counts()
        except Exception:  # noqa: BLE001  (whatever it is, it is counted, and the first one is shown)
            said["errors"] += 1
            said["first"] = said["first"] or traceback.format_exc()[-2000:]
            continue
        said["polls"] += 1
        said["down"] += sum(now.get(key, (0, 0))[0] < points for key, (points, _) in before.items())
        said["holes"] += sum(points != greatest + 1 for points, greatest in now.values())
        before = now
        time.sleep(POLL_SECONDS)
    said["points"] = sum(points for points, _ in before.values())
    print(json.dumps(said))


WATCH = "import sys, watching\nwatching.watch(*sys.argv[1:])"


class Watchers:
    """Readers of a store in processes of their own, from `with` to its end; then `said` has what each of them met."""

    def __init__(self, scripts, folder, hows, **env) -> None:
        self.stop = os.path.join(os.path.dirname(str(folder)), f"stop-{time.monotonic_ns()}")
        self.processes = [scripts.start(WATCH, folder, self.stop, how, **env) for how in hows]
        self.said: list[dict[str, Any]] = []

    def __enter__(self) -> Watchers:  # noqa: PYI034
        for process in self.processes:
            if process.stdout.readline() != "reading\n":
                process.kill()
                raise AssertionError(process.communicate()[1])
        return self

    def __exit__(self, *problem: object) -> None:
        with open(self.stop, "w"):
            pass
        for process in self.processes:
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            self.said.append(json.loads(out))
        print("readers:", [{name: value for name, value in each.items() if name != "first"} for each in self.said])

    def check(self) -> None:
        """No reader met an error, a half event, a hole, or a count that went down."""
        assert [(each["errors"], each["down"], each["holes"], each["first"]) for each in self.said] == [(0, 0, 0, "")] * len(
            self.said
        )
        assert all(each["polls"] > 3 for each in self.said)
