"""Measure what a training script feels, as ratios against the physical limit in the same run; write RESULTS.md.

    python tests/bench/bench.py             # about a minute
    python tests/bench/bench.py log import  # some of it, printed only

The limits: `raw` encodes a small dictionary and writes it as a line with one `write(2)`; `event` does the same with the whole
event Struct, made anew for each call from the clock and the values, as any writer of it must. Each comparison interleaves its
sides in blocks in one process, or process by process, and quotes the median of the blocks' ratios. Nothing in RESULTS.md is
typed by hand: a target that is missed says so there.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve().parent
Row = tuple[str, str, str, str, bool | None]
"""(what, limit, measured, to reach, reached)"""


def environment(folder: Path) -> dict[str, str]:
    """The environment of a measured process: ours without anything that would change what is measured."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AILAB_", "PYTHON"))}
    return {**kept, "HOME": str(folder), "AILAB_DIR": str(folder / "store"), "PYTHONPYCACHEPREFIX": str(folder / "pyc")}


def python(code: str, folder: Path, *, cwd: Path | None = None, path: Path | None = None) -> str:
    """Run code in a fresh process; return what it printed."""
    env = environment(folder)
    if path is not None:
        env["PYTHONPATH"] = str(path)
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=cwd or folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"a measured process failed:\n{done.stderr}")
    return done.stdout


def median_of(values: list[float], digits: int = 2) -> str:
    """Median with the quarter below and above it."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


# -- import ------------------------------------------------------------------------------------------------------------


def bench_import(folder: Path, rounds: int = 15) -> list[Row]:
    """Whole processes, interleaved: bare Python, `import msgspec`, `import ailab`; byte code and page cache warm."""
    codes = ("pass", "import msgspec", "import ailab")
    times: dict[str, list[float]] = {code: [] for code in codes}
    for turn in range(rounds + 1):
        for code in codes:
            start = perf_counter_ns()
            python(code, folder)
            if turn:
                times[code].append((perf_counter_ns() - start) / 1e6)
    bare, limit, ours = (times[code] for code in codes)
    ratios = [(c - a) / (b - a) for a, b, c in zip(bare, limit, ours, strict=True)]
    ratio = statistics.median(ratios)
    shown = f"import msgspec {statistics.median(b - a for a, b in zip(bare, limit, strict=True)):.0f} ms"
    return [("import ailab, less bare Python", shown, f"{median_of(ratios)} × msgspec", "≤ 1.3 ×", ratio <= 1.3)]


# -- log ---------------------------------------------------------------------------------------------------------------


def raw_limit(folder: Path) -> Callable[[dict[str, float], int], None]:
    """Encode a dictionary of clock, step and values; one write."""
    import msgspec

    fd = os.open(folder / "raw.jsonl", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    write, encode, clock = os.write, msgspec.json.Encoder().encode, time.time

    def log(values: dict[str, float], step: int) -> None:
        write(fd, encode({"t": clock(), "step": step, "m": values}) + b"\n")

    return log


def event_limit(folder: Path) -> Callable[[dict[str, float], int], None]:
    """Encode the whole event Struct, made anew for each call; one write."""
    import msgspec

    from ailab.events import Line, MetricsLogged

    fd = os.open(folder / "event.jsonl", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    write, encode, now, utc = os.write, msgspec.json.Encoder().encode, datetime.now, timezone.utc
    run, seq = "01m7xye33728pmv0zzfh52h5yn", 0

    def log(values: dict[str, float], step: int) -> None:
        nonlocal seq
        seq += 1
        data = MetricsLogged(values, step)
        write(fd, encode(Line(seq, now(utc), seq, "metrics.logged", run, None, None, data, 3735928559, 3735928559)) + b"\n")

    return log


def bench_log(folder: Path, blocks: int = 80, calls: int = 500) -> list[Row]:
    """`run.log` of three values and a step, in blocks of calls that alternate with the limits in random order."""
    os.environ.update(environment(folder))
    import ailab

    run = ailab.start_run("bench", project="bench")
    sides: dict[str, Callable[..., None]] = {"raw": raw_limit(folder), "event": event_limit(folder), "ailab": run.log}
    dice = random.Random(1)
    points = [{"loss": dice.random(), "acc": dice.random(), "lr": dice.random()} for _ in range(calls)]
    blocks_of: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for turn in range(blocks + 2):
        for side in dice.sample(list(sides), len(sides)):
            log, times = sides[side], []
            for step, values in enumerate(points):
                start = perf_counter_ns()
                log(values, step)
                times.append(perf_counter_ns() - start)
            if turn > 1:
                times.sort()
                blocks_of[side].append((times[calls // 2] / 1e3, times[calls * 99 // 100] / 1e3))
    run.finish()
    p50 = {side: statistics.median(b[0] for b in blocks_of[side]) for side in sides}

    def ratios(side: str, part: int) -> list[float]:
        return [a[part] / b[part] for a, b in zip(blocks_of["ailab"], blocks_of[side], strict=True)]

    event, tail, raw = (statistics.median(ratios(*what)) for what in (("event", 0), ("event", 1), ("raw", 0)))
    limit = f"raw {p50['raw']:.2f} µs, event {p50['event']:.2f} µs"
    return [
        (
            "log() of 3 values, p50",
            limit,
            f"{p50['ailab']:.2f} µs, {median_of(ratios('event', 0))} × event",
            "≤ 1.6 ×",
            event <= 1.6,
        ),
        ("log() of 3 values, p50", "raw", f"{median_of(ratios('raw', 0))} × raw", "≤ 2.2 ×", raw <= 2.2),
        ("log() of 3 values, p99", "event's p99", f"{median_of(ratios('event', 1))} × event", "≤ 2 ×", tail <= 2),
    ]


# -- start and finish --------------------------------------------------------------------------------------------------

_LATER_RUNS = """
import json, time, ailab
ailab.start_run("first").finish()
times = []
for i in range(60):
    start = time.perf_counter_ns()
    run = ailab.start_run(f"run-{i}", project="bench", config={f"p{j}": j / 7 for j in range(10)})
    run.finish(final_metrics={f"m{j}": i / (j + 1) for j in range(5)})
    times.append((time.perf_counter_ns() - start) / 1e6)
print(json.dumps(times))
"""

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


def bench_runs(folder: Path) -> list[Row]:
    """Runs after a process's first: start, 10 parameters, 5 metrics, finish (sealed and on the disk)."""
    times = json.loads(python(_LATER_RUNS, folder))
    return [("start + 10 params + 5 metrics + finish", "–", f"{median_of(times)} ms", "< 3 ms", statistics.median(times) < 3)]


def repository(folder: Path, files: int = 1000) -> Path:
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


def distributions(folder: Path, count: int = 200) -> Path:
    """A folder whose metadata makes `count` installed distributions together with those that are there."""
    place = folder / "distributions"
    text = "".join(f"Requires-Dist: other-{i}>=1.0; extra == 'x'\n" for i in range(30)) + "\n" + "words about it\n" * 200
    for i in range(max(0, count - len(list(importlib.metadata.distributions())))):
        info = place / f"made_up_{i}-1.{i}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: made-up-{i}\nVersion: 1.{i}\n{text}")
        (info / "RECORD").write_text("")
    return place


def bench_first_run(folder: Path, rounds: int = 9) -> list[Row]:
    """A process's first run, in a repository of 1,000 files with 200 distributions installed, page cache warm."""
    place, path = repository(folder), distributions(folder)
    found = [json.loads(python(_FIRST_RUN, folder, cwd=place, path=path)) for _ in range(rounds + 1)][1:]
    starts, ends = [row[0] for row in found], [row[1] for row in found]
    about = f"{found[0][2]} distributions, 1,000 files"
    return [
        ("first run: start_run() returns", about, f"{median_of(starts, 1)} ms", "≤ 50 ms", statistics.median(starts) <= 50),
        ("first run: start to the end of finish()", about, f"{median_of(ends, 0)} ms", "< 500 ms", statistics.median(ends) < 500),
    ]


# -- the table ---------------------------------------------------------------------------------------------------------

BENCHES: dict[str, Callable[[Path], list[Row]]] = {
    "import": bench_import,
    "log": bench_log,
    "runs": bench_runs,
    "first": bench_first_run,
}


def machine() -> str:
    """What was measured on."""
    names = ("ailab", "msgspec", "duckdb", "GitPython")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    model = next((line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor())
    return f"{platform.system()} {platform.release()}, {os.cpu_count()} × {model}, Python {platform.python_version()}, {versions}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def report(rows: list[Row]) -> str:
    """RESULTS.md."""
    lines = [
        "# What a training script feels",
        "",
        "Written by `make bench`; nothing in here is typed by hand. Medians with the quartiles in brackets; ratios are taken",
        "within one run, side by side. What is a limit and what is measured: `tests/bench/bench.py`.",
        "",
        f"{datetime.now(timezone.utc):%Y-%m-%d}: {machine()}",
        "",
        "| work | limit | measured | to reach | reached |",
        "|---|---|---|---|---|",
    ]
    words = {True: "yes", False: "**missed**", None: "–"}
    lines += [f"| {what} | {limit} | {measured} | {target} | {words[ok]} |" for what, limit, measured, target, ok in rows]
    return "\n".join(lines) + "\n"


def main(wanted: list[str]) -> None:
    """Run the benchmarks named, or all and write RESULTS.md."""
    unknown = [name for name in wanted if name not in BENCHES]
    if unknown:
        raise SystemExit(f"no benchmark {unknown[0]!r}\nhint: allowed: {', '.join(BENCHES)}")
    rows: list[Row] = []
    for name in wanted or BENCHES:
        folder = Path(tempfile.mkdtemp(prefix="ailab-bench-"))
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            found: list[Any] = BENCHES[name](folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        rows += found
        for what, limit, measured, target, ok in found:
            print(f"  {what}: {measured} (limit {limit}; to reach {target}) {'reached' if ok else 'MISSED'}", flush=True)
    if not wanted:
        (HERE / "RESULTS.md").write_text(report(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
