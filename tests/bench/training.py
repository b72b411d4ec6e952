"""What a training script feels: import, log, start and finish, the first run of a process, kill -9, many processes."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import random
import statistics
import struct
import subprocess
import time
from typing import TYPE_CHECKING, Any

from figures import Row, absolute, compared, number, spread
from rooms import FailedError, Room, clear_up, descendants, end

if TYPE_CHECKING:
    from pathlib import Path

    from sitting import Sitting

_FIRST_RUN = """
import json, time, ailab
start = time.perf_counter_ns()
run = ailab.start_run("first", project="bench", config={f"p{j}": j / 7 for j in range(10)})
started = time.perf_counter_ns()
run.finish(final_metrics={"accuracy": 0.9})
ended = time.perf_counter_ns()
import importlib.metadata
print(json.dumps([(started - start) / 1e6, (ended - start) / 1e6, len(list(importlib.metadata.distributions()))]))
"""


def imports(sitting: Sitting) -> list[Row]:
    """Whole processes in turn: bare Python, `import msgspec`, `import ailab`; the first turn, which warms, does not count."""
    codes = ("pass", "import msgspec", "import ailab")
    times: dict[str, list[float]] = {code: [] for code in codes}
    with Room("ailab_local") as room:
        for turn in range(sitting.sizes.imports + 1):
            for code in codes:
                start = time.perf_counter_ns()
                room.python(code)
                if turn:
                    times[code].append((time.perf_counter_ns() - start) / 1e6)
    bare, limit, ours = (times[code] for code in codes)
    less = [[b - a for a, b in zip(bare, side, strict=True)] for side in (limit, ours)]
    return [compared("import ailab, less bare Python", "ms", ("import msgspec", less[0]), less[1], 1.3)]


def log(sitting: Sitting) -> list[Row]:
    """`run.log` of three values and a step, in blocks of 500 calls that alternate with the limits in random order."""
    with Room("ailab_local") as room:
        blocks = room.run("duels:log", root=str(room.root), blocks=sitting.sizes.blocks, calls=500)
    p50, p99 = ({side: [block[part] for block in found] for side, found in blocks.items()} for part in (0, 1))
    work = "log() of 3 values"
    return [
        compared(f"{work}, p50", "µs", ("limit_event", p50["event"]), p50["ailab"], 1.6),
        compared(f"{work}, p50", "µs", ("limit_raw", p50["raw"]), p50["ailab"], 2.2),
        compared(f"{work}, p99", "µs", ("limit_event", p99["event"]), p99["ailab"], 2),
    ]


def runs(sitting: Sitting) -> list[Row]:
    """Runs after a process's first; the limit writes the same in two lines and flushes the file once."""
    with Room("ailab_local") as room:
        found = room.run("duels:runs", root=str(room.root), n=sitting.sizes.later_runs)
    limit = f"limit_raw {number(statistics.median(found['raw']))} ms"
    work = "start + 10 params + 5 metrics + finish, after the process's first"
    return [absolute(work, "ms", found["ailab"], 3, limit=limit)]


def watched(sitting: Sitting) -> list[Row]:
    """What keeping lines and measuring the machine cost: `print` beside itself, and the thread's share of a core."""
    with Room("ailab_local") as room:
        lines = room.run("duels:prints", root=str(room.root), blocks=sitting.sizes.blocks, calls=500)
        shares = room.run("duels:beside", root=str(room.root), seconds=30 if sitting.sizes.many_runs else 16, timeout_s=120)
    return [
        compared("print() of 4 values with a run open", "µs", ("without one", lines["plain"]), lines["kept"], 4),
        *(absolute(f"the thread beside a training, {name}", "% of a core", [share], 1) for name, share in shares.items()),
    ]


# -- the first run of a process ----------------------------------------------------------------------------------------


def first_run(sitting: Sitting) -> list[Row]:
    """A process's first run, in a repository of 1,000 files with 200 distributions installed, page cache warm."""
    with Room("ailab_local") as room:
        place, path = _repository(room.root), _distributions(room.root)
        turns = range(sitting.sizes.first_runs + 1)
        found = [json.loads(room.python(_FIRST_RUN, cwd=place, path=path)) for _ in turns][1:]
    starts, ends = [row[0] for row in found], [row[1] for row in found]
    about = f" ({found[0][2]} distributions, 1,000 files)"
    return [
        absolute("first run of a process: start_run() returns", "ms", starts, 50, more=about),
        absolute("first run of a process: start to the end of finish()", "ms", ends, 500, more=about),
    ]


def _repository(folder: Path, files: int = 1000) -> Path:
    """A git repository with a thousand files, one of them changed."""
    place = folder / "repository"
    for i in range(files):
        path = place / f"package_{i % 20}" / f"module_{i}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"VALUE = {i}\n" * 40)
    git = ["git", "-C", str(place), "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "a thousand files"]):
        subprocess.run([*git, *command], check=True)
    path.write_text("VALUE = 'changed'\n")
    return place


def _distributions(folder: Path, count: int = 200) -> Path:
    """A folder whose metadata makes `count` installed distributions together with those that are there."""
    place = folder / "distributions"
    text = "".join(f"Requires-Dist: other-{i}>=1.0; extra == 'x'\n" for i in range(30)) + "\n" + "words about it\n" * 200
    for i in range(max(0, count - len(list(importlib.metadata.distributions())))):
        info = place / f"made_up_{i}-1.{i}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: made-up-{i}\nVersion: 1.{i}\n{text}")
        (info / "RECORD").write_text("")
    return place


# -- kill -9 -----------------------------------------------------------------------------------------------------------


def kill(sitting: Sitting) -> list[Row]:
    """Points that `log()` had returned for and no reader finds, after kill -9 at a random moment."""
    trials = sitting.sizes.kills
    found = {name: lost_points(name, trials if name == "ailab_local" else 3) for name in ("limit_raw", "ailab_local")}
    ours, limit = found["ailab_local"], found["limit_raw"]
    told = f"{ours['lost']:,} of {ours['acknowledged']:,} in {ours['trials']} kills"
    limit_told = f"limit_raw {limit['lost']:,} of {limit['acknowledged']:,}"
    work = "acknowledged points lost under kill -9 at 1 point/ms"
    return [Row(work, limit_told, told, "–", "0", ours["lost"] == 0 and ours["trials"] == trials)]


def lost_points(name: str, trials: int, *, helpers_too: bool = False) -> dict[str, Any]:
    """Kill a process that logs a point per millisecond, again and again; say what was acknowledged and not found again.

    Args:
        name: the system.
        trials: how often.
        helpers_too: whether the helpers that it started are killed as well; otherwise they have 8 s to end by themselves.

    Raises:
        FailedError: no point was acknowledged, or the store cannot be read.
    """
    dice = random.Random(trials)
    lost: list[int] = []
    acknowledged = 0
    with Room(name) as room:
        for turn in range(trials):
            room.empty()
            file = room.root / f"acknowledged-{turn}"
            job = room.spawn("log_until_killed", acknowledged=str(file))
            until = time.monotonic() + 60
            while time.monotonic() < until and job.process.poll() is None and not _number_in(file):
                time.sleep(0.002)
            time.sleep(dice.uniform(0.5, 3.0))
            helpers = [process for process in descendants() if process != job.process.pid]
            end([job.process.pid, *(helpers if helpers_too else [])])
            job.process.wait()
            clear_up(8)
            count = _number_in(file)
            if not count:
                raise FailedError(f"{name}: nothing was acknowledged: {job.log.read_text(errors='replace').strip()[-200:]}")
            found = room.run("recovered", names=["kill"], timeout_s=120)
            if found["errors"]:
                raise FailedError(f"{name}: the run cannot be read after a kill: {found['errors'][0]}")
            acknowledged += count
            lost.append(max(0, count - found["recovered"][0]))  # one more than acknowledged: killed between write and word
    return {"lost": sum(lost), "each": lost, "acknowledged": acknowledged, "trials": len(lost)}


def _number_in(file: Path) -> int:
    """What a process acknowledged last; 0 as long as it has not."""
    with contextlib.suppress(FileNotFoundError):
        content = file.read_bytes()
        if len(content) == 8:
            return int(struct.unpack("<q", content)[0])
    return 0


# -- many processes ----------------------------------------------------------------------------------------------------


def parallel(sitting: Sitting) -> list[Row]:
    """Processes that log into one store at once, from a common start to the last finish; sides in turn."""
    sizes = sitting.sizes
    sides = ("limit_raw", "ailab_local")
    walls: dict[str, list[float]] = {side: [] for side in sides}
    lost, errors, whole = 0, 0, []
    for turn in range(sizes.parallel_rounds):
        for side in sides:
            found = together(side, sizes.processes, sizes.parallel_calls, first=True)
            walls[side].append(found["s"] * 1e3)
            if side == "ailab_local":
                lost, errors = lost + found["lost"], errors + found["errors"]
        if turn < 3:
            found = together("ailab_local", sizes.processes, sizes.parallel_calls, first=False)
            whole.append(found["s"] * 1e3)
            lost, errors = lost + found["lost"], errors + found["errors"]
    work = f"{sizes.processes} processes × {sizes.parallel_calls:,} calls, one store"
    calls = sizes.processes * sizes.parallel_calls * (sizes.parallel_rounds + len(whole))
    return [
        compared(f"{work}, after each process's first run", "ms", ("limit_raw", walls["limit_raw"]), walls["ailab_local"], 2.2),
        Row(f"{work}: calls lost or failed", "–", f"{lost} lost, {errors} failed of {calls:,}", "–", "0", lost + errors == 0),
        Row(f"{work}, with each process's first run", "–", f"{spread(whole)} ms"),
    ]


def together(name: str, processes: int, calls: int, *, first: bool, budget_s: float = 60) -> dict[str, Any]:
    """Let processes log into one store at once, and count what its reader finds.

    Raises:
        FailedError: no process came to its end.
    """
    with Room(name) as room:
        go = room.root / "go"
        room.run("runs", n=1, budget_s=60)  # makes the store: some lose all processes that race to create it
        jobs = [room.spawn("parallel", who=k, n=calls, go=str(go), budget_s=budget_s, first=first) for k in range(processes)]
        until = time.monotonic() + 90
        while time.monotonic() < until and len(list(room.root.glob("go.ready*"))) < processes:
            time.sleep(0.05)
        go.touch()
        found, died = [], []
        for job in jobs:
            try:
                found.append(job.answer(max(1.0, until + 2 * budget_s - time.monotonic())))
            except FailedError as problem:
                died.append(str(problem))
        clear_up(8)
        if not found:
            raise FailedError(died[0])
        names = [f"parallel-{k}" for k in range(processes)]
        read = room.run("recovered", names=names, timeout_s=150)
    acknowledged = sum(one["acknowledged"] for one in found)
    return {
        "s": max(one["end"] for one in found) - min(one["start"] for one in found), "acknowledged": acknowledged,
        "lost": acknowledged - sum(read["recovered"]), "errors": sum(one["errors"] for one in found) + len(died),
        "first_errors": [word for one in found for word in one["first_errors"]] + died + read["errors"],
    }  # fmt: skip


PARTS = {"import": imports, "log": log, "runs": runs, "watched": watched, "first": first_run, "kill": kill, "parallel": parallel}
