"""What a server gives whoever shares it: answers while others log, a large file taken in, a journal shipped to it."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.ailab_local import command, paths, serve_command
from figures import Row, failed, number, ratios, spread
from kit import QUESTION_WORDS
from rooms import FailedError, Room, free_port, say

if TYPE_CHECKING:
    from sitting import Sitting, StoreOfRuns

CONNECTIONS = 2
LOGGERS = 8
IDLE_PER_S, BUSY_PER_S, P95_MS = 250, 150, 30
UPLOAD_MAX, UPLOAD_GROWTH_MB = 2.0, 100
SHIP_MB_PER_S = 50
SLOW_S = 600


def busy(sitting: Sitting) -> list[Row]:
    """The four questions over HTTP, two connections that ask without pause: nobody logs, then eight processes do."""
    store = sitting.runs(sitting.sizes.runs)
    store.compact(sitting)
    room, port, rows = store.room, free_port(), []
    try:
        with room.server(serve_command(room.store, port), port, "/health", timeout_s=SLOW_S):
            rows += _asked(sitting, store, port, words="nobody logs", least=IDLE_PER_S)
            stop = room.root / "stop"
            loggers = [room.spawn("clients:log_each_ms", root=str(room.root), stop=str(stop)) for _ in range(LOGGERS)]
            time.sleep(3)
            words = f"{LOGGERS} processes log an event per ms"
            rows += _asked(sitting, store, port, words=words, least=BUSY_PER_S)
            stop.touch()
            done = [one.answer(60) for one in loggers]
            rate = [one["events"] / one["s"] for one in done]
            rows.append(Row(f"events each of these {LOGGERS} logged meanwhile", "–", f"{spread(rate)} per s"))
    finally:
        sitting.forget(store)
    return rows


def _asked(sitting: Sitting, store: StoreOfRuns, port: int, *, words: str, least: float) -> list[Row]:
    ids, rows = (store.room.root / "ids").read_text().split()[:: max(1, store.n // 500)], []
    for question in QUESTION_WORDS:
        asked = list(dict.fromkeys(paths(run_id)[question] for run_id in ids))
        say(f"{QUESTION_WORDS[question]}, {words}")
        work = f"{store.n:,} runs over HTTP, {CONNECTIONS} connections, {words}: {QUESTION_WORDS[question]}"
        target = f"≥ {least} per s, p95 ≤ {P95_MS} ms"
        try:
            found = store.room.spawn(
                "clients:ask_without_pause", port=port, paths=asked, connections=CONNECTIONS, seconds=sitting.sizes.serve_s
            ).answer(60)
        except FailedError as problem:
            rows.append(failed(work, problem, target))
            continue
        times = sorted(found["ms"])
        if not times:
            rows.append(failed(work, "no answer in time", target))
            continue
        p95 = times[len(times) * 95 // 100]
        measured = f"{number(found['per_s'])} per s, {number(statistics.median(times))} ms, p95 {number(p95)} ms"
        rows.append(Row(work, "–", measured, "–", target, found["per_s"] >= least and p95 <= P95_MS))
    return rows


def upload(sitting: Sitting) -> list[Row]:
    """A large file as a raw body, in turn with `cp` and `sha256sum` of the same; what the server's memory grows by meanwhile."""
    size = sitting.sizes.upload_mb
    with Room("ailab_local") as room:
        file, port = room.root / "big.bin", free_port()
        with file.open("wb") as out:
            for _ in range(size):
                out.write(os.urandom(1 << 20))
        run_id = room.python("import ailab; run = ailab.start_run('files'); run.finish(); print(run.id)").strip()
        limit, ours, grown = [], [], 0
        with room.server(serve_command(room.store, port), port, "/health") as server:
            for turn in range(sitting.sizes.uploads):
                say(f"upload {turn + 1} of {sitting.sizes.uploads}")
                limit.append(_copied(file, room.root / "copy.bin"))
                before = _resident(server.pid)
                job = room.spawn("clients:send_file", port=port, path=f"/artifacts/{run_id}?path=big.bin", file=str(file))
                while job.process.poll() is None:
                    grown = max(grown, _resident(server.pid) - before)
                    time.sleep(0.01)
                ours.append(job.answer(SLOW_S)["s"])
                with file.open("r+b") as out:  # another content, or the next one is there already
                    out.write(os.urandom(64))
    found = ratios(ours, limit)
    work = f"{size} MB as a raw body over loopback, kept by its SHA-256 and flushed"
    base = "cp + sha256sum"
    return [
        Row(work, f"{base} {number(statistics.median(limit))} s", f"{spread(ours)} s", f"{spread(found)} × {base}",
            f"≤ {UPLOAD_MAX:g} × {base}", statistics.median(found) <= UPLOAD_MAX),
        Row("what the server's memory grows by meanwhile", "–", f"{number(grown / 2**20)} MB", "–", f"≤ {UPLOAD_GROWTH_MB} MB",
            grown <= UPLOAD_GROWTH_MB << 20),
    ]  # fmt: skip


def _copied(source: Path, target: Path) -> float:
    target.unlink(missing_ok=True)
    began = time.perf_counter()
    subprocess.run(["cp", str(source), str(target)], check=True)
    subprocess.run(["sha256sum", str(target)], check=True, capture_output=True)
    return time.perf_counter() - began


def _resident(pid: int) -> int:
    """Bytes that a process has in memory; 0 where /proc does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def shipping(sitting: Sitting) -> list[Row]:
    """`ailab sync URL` of a store with many events to a server on this machine, as a whole process; also with a token."""
    n = sitting.sizes.shipped
    with Room("ailab_local") as near, Room("ailab_local") as far:
        say(f"writing {n:,} events")
        size = near.run("clients:write_events", root=str(near.root), n=n, runs=8, timeout_s=SLOW_S)["bytes"]
        times: dict[str, list[float]] = {"": [], ", with a token": []}
        for turn in range(sitting.sizes.ships):
            for words, took in times.items():
                say(f"shipping {turn + 1} of {sitting.sizes.ships}{words}")
                far.empty()
                token = _token(far) if words else ""
                took.append(_shipped(near, far, size, token))
    rows = []
    for words, took in times.items():
        rates = [size / one / 1e6 for one in took]
        work = f"{n:,} events in 8 runs ({number(size / 1e6)} MB of segments): `ailab sync URL`{words}, the process as a whole"
        rows.append(Row(work, "–", f"{spread(took)} s", f"{spread(rates)} MB/s", f"≥ {SHIP_MB_PER_S} MB/s",
                        statistics.median(rates) >= SHIP_MB_PER_S))  # fmt: skip
    return rows


def _token(room: Room) -> str:
    """The text of a new writer's token of a room's store."""
    made = subprocess.run(
        command("--dir", str(room.store), "token", "create", "--role", "writer", "--name", "far", "--json"),
        env=room.variables(), cwd=room.root, capture_output=True, text=True, check=True, timeout=SLOW_S,
    )  # fmt: skip
    return str(json.loads(made.stdout)["text"])


def _shipped(near: Room, far: Room, size: int, token: str) -> float:
    """Seconds that shipping one room's store to a server on the other's takes."""
    port = free_port()
    with far.server(serve_command(far.store, port), port, "/health"):
        began = time.perf_counter()
        done = subprocess.run(
            command("--dir", str(near.store), "sync", f"http://127.0.0.1:{port}"),
            env={**near.variables(), **({"AILAB_TOKEN": token} if token else {})},
            cwd=near.root, capture_output=True, text=True, check=False, timeout=SLOW_S,
        )  # fmt: skip
        took = time.perf_counter() - began
        if done.returncode:
            raise FailedError(f"ailab sync: {done.stderr.strip()[-200:]}")
    there = sum(path.stat().st_size for path in (far.store / "segments").iterdir())
    if there < size:
        raise FailedError(f"{there:,} of {size:,} bytes arrived")
    return took


PARTS: dict[str, Any] = {"busy": busy, "upload": upload, "shipping": shipping}
