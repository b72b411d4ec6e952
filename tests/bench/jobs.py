"""Jobs of one system, the same for all: what `worker.py` runs in the system's own environment."""

from __future__ import annotations

import array
import http.client
import importlib
import os
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kit

if TYPE_CHECKING:
    from collections.abc import Callable

now, seconds = time.perf_counter_ns, time.monotonic


def load(system: str, root: str) -> kit.Adapter:
    """The system, ready to write or to read below `root`."""
    found: kit.Adapter = importlib.import_module(f"adapters.{system}").A(root)
    return found


def runs(system: str, root: str, *, n: int, budget_s: float) -> dict[str, Any]:
    """Start with 10 parameters, 5 final metrics, finish, again and again in one process: milliseconds each."""
    a, times, until = load(system, root), [], seconds() + budget_s
    for i in range(n):
        name, params, metrics = kit.run_record(i)
        start = now()
        a.close_run(a.open_run(name, params), metrics)
        times.append((now() - start) / 1e6)
        if seconds() > until:
            break
    return {"first": times[0], "ms": kit.quantiles(times[1:] or times)}


def log(system: str, root: str, *, n: int, budget_s: float) -> dict[str, Any]:
    """`log({loss, acc, lr}, step)`: microseconds each, and per call until finish has returned."""
    a = load(system, root)
    loss, acc, rate = (kit.curve(j) for j in range(3))
    times = array.array("q", bytes(8 * n))
    run = a.open_run("log", kit.run_record(0)[1])
    call = a.logger(run)
    start, done = now(), n
    until = seconds() + budget_s
    for i in range(n):
        values = {"loss": loss[i], "acc": acc[i], "lr": rate[i]}
        before = now()
        call(values, i)
        times[i] = now() - before
        if not i & 63 and seconds() > until:
            done = i + 1
            break
    looped = now()
    a.close_run(run, None)
    ended = now()
    return {
        "calls": done, "us": kit.quantiles([t / 1e3 for t in times[:done]]),
        "finish_s": (ended - looped) / 1e9, "kept_us": (ended - start) / 1e3 / done,
    }  # fmt: skip


def log_until_killed(system: str, root: str, *, acknowledged: str, at_most_s: float = 30) -> dict[str, Any]:
    """Log a point per millisecond and acknowledge each in a small file, until this process is killed."""
    a = load(system, root)
    fd = os.open(acknowledged, os.O_CREAT | os.O_WRONLY)
    run = a.open_run("kill", kit.run_record(0)[1])
    call = a.logger(run)
    start, i = seconds(), 0
    while seconds() - start < at_most_s:
        call({"loss": 1.0 / (i + 1)}, i)
        i += 1
        os.pwrite(fd, struct.pack("<q", i), 0)
        ahead = start + i * 0.001 - seconds()
        if ahead > 0:
            time.sleep(ahead)
    return {}


def recovered(system: str, root: str, *, names: list[str]) -> dict[str, Any]:
    """How many steps the system's own reader finds for each run."""
    a = load(system, root)
    found, errors = [], []
    for name in names:
        try:
            found.append(a.recovered(name))
        except Exception as problem:  # noqa: BLE001  (whatever it is, the run cannot be read)
            found.append(0)
            errors.append(f"{type(problem).__name__}: {problem}"[:200])
    return {"recovered": found, "errors": errors}


def fill(system: str, root: str, *, n: int, budget_s: float) -> dict[str, Any]:
    """10 metrics × `n` steps into one run."""
    a = load(system, root)
    curves = {name: kit.curve(j) for j, name in enumerate(kit.TEN)}
    start = now()
    run = a.open_run("fill", kit.run_record(1)[1])
    steps = a.fill(run, curves, n, seconds() + budget_s)
    a.close_run(run, None)
    wrote = (now() - start) / 1e9
    before = kit.tree_bytes(a.store)
    a.settle()
    return {"points": steps * len(curves), "write_s": wrote, "bytes_written": before}


def history(system: str, root: str, *, reads: int, budget_s: float) -> dict[str, Any]:
    """One metric of ten, the whole of it, read again and again in a fresh process: milliseconds."""
    a = load(system, root)
    times, until, n = [], seconds() + budget_s, 0
    for _ in range(reads):
        start = now()
        found = a.history("fill", "m0")
        times.append((now() - start) / 1e6)
        n = len(found[1]) if isinstance(found, tuple) else len(found)
        if seconds() > until:
            break
    return {"points": n, "ms": kit.quantiles(times)}


def populate(system: str, root: str, *, n: int, budget_s: float) -> dict[str, Any]:
    """Runs to ask about."""
    a = load(system, root)
    start = now()
    done = a.populate(n, seconds() + budget_s)
    return {"runs": done, "populate_s": (now() - start) / 1e9, "bytes": kit.tree_bytes(a.store)}


def questions(system: str, root: str, *, n: int, repeats: int, budget_s: float) -> dict[str, Any]:
    """Each question in process, with its answer made whole: milliseconds."""
    asked = load(system, root).questions(n)
    return _each({name: asked[name] for name in ("detail", "newest50", "filter50", "top10")}, repeats, budget_s)


def address(system: str, root: str, *, port: int, n: int) -> dict[str, Any]:
    """What serves the store, and the questions as requests."""
    found = load(system, root).serve(port, n)
    if found is None:
        return {}
    command, ready, requests = found
    return {"command": command, "ready": ready, "requests": requests}


def requests(system: str, root: str, *, port: int, asked: dict[str, Any], repeats: int, budget_s: float) -> dict[str, Any]:
    """Each question over HTTP on one connection kept alive: milliseconds."""

    def asker(method: str, path: str, headers: dict[str, str], body: str | None) -> Callable[[], int]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

        def ask() -> int:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status >= 300:
                raise RuntimeError(f"HTTP {answer.status} {content[:200]!r}")
            return len(content)

        return ask

    order = ("detail", "newest50", "filter50", "top10")
    return _each({name: asker(*asked[name]) for name in order}, repeats, budget_s)


def _each(asked: dict[str, Callable[[], int]], repeats: int, budget_s: float) -> dict[str, Any]:
    """Time each question; what was answered before one that never returns is told all the same."""
    import worker

    found: dict[str, Any] = {}
    for name, ask in asked.items():
        found[name] = {"error": "no answer in time"}
        worker.tell(found)
        try:
            rows, times, until = ask(), [], seconds() + budget_s / len(asked)
            for _ in range(repeats):
                start = now()
                ask()
                times.append((now() - start) / 1e6)
                if seconds() > until:
                    break
            found[name] = {**kit.quantiles(times), "rows": rows}
        except Exception as problem:  # noqa: BLE001  (whatever it is, the question has no answer)
            found[name] = {"error": f"{type(problem).__name__}: {problem}"[:200]}
    return found


def parallel(system: str, root: str, *, who: int, n: int, go: str, budget_s: float, first: bool) -> dict[str, Any]:
    """One of several processes that log into one store: from a common start to the end of finish.

    `first` has a first run in this process before the start, so that what only a process's first run costs is not counted.
    """
    a = load(system, root)
    if first:
        a.close_run(a.open_run(f"before-{who}", {}), None)
    Path(f"{go}.ready{who}").touch()
    while not Path(go).exists():
        time.sleep(0.002)
    start, done, errors = seconds(), 0, []
    until = start + budget_s
    try:
        run = a.open_run(f"parallel-{who}", kit.run_record(who)[1])
        call = a.logger(run)
        for i in range(n):
            try:
                call({"loss": 1.0 / (i + 1), "acc": i / n, "lr": 0.1}, i)
                done += 1
            except Exception as problem:  # noqa: BLE001  (a call that fails is counted; the training goes on)
                errors.append(f"{type(problem).__name__}: {problem}"[:200])
            if not i & 15 and seconds() > until:
                break
        a.close_run(run, None)
    except Exception as problem:  # noqa: BLE001  (whatever it is, it is told)
        errors.append(f"{type(problem).__name__}: {problem}"[:200])
    return {"start": start, "end": seconds(), "acknowledged": done, "errors": len(errors), "first_errors": errors[:1]}
