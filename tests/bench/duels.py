"""Jobs in which ailab and its limit take turns within one process, block by block, so that both meet the same machine.

Nothing is imported at the top that a fresh process would not have: what is measured is imported by the job itself.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

now = time.perf_counter_ns
LIVE_EVENTS = 1000
TOUCHED, NEW = 770, 100
"""Runs that the thousand run events of a refresh touch, and how many of them are new."""


def log(root: str, *, blocks: int, calls: int) -> dict[str, list[list[float]]]:
    """`log()` of three values and a step: per block its median and 99th percentile, in microseconds, for each side."""
    import random

    from adapters.limit_event import A as Event
    from adapters.limit_raw import A as Raw

    import ailab

    os.environ["AILAB_DIR"] = f"{root}/store"
    sides: dict[str, Callable[..., Any]] = {}
    for name, limit in (("raw", Raw), ("event", Event)):
        system = limit(f"{root}/{name}")
        sides[name] = system.logger(system.open_run("log", {}))
    ailab.start_run("first", project="bench").finish()  # whose capture of packages and code is not what is measured here
    run = ailab.start_run("log", project="bench")
    sides["ailab"] = run.log
    dice = random.Random(1)
    points = [{"loss": dice.random(), "acc": dice.random(), "lr": dice.random()} for _ in range(calls)]
    found: dict[str, list[list[float]]] = {name: [] for name in sides}
    for turn in range(blocks + 2):
        for name in dice.sample(list(sides), len(sides)):
            call, times = sides[name], []
            for step, values in enumerate(points):
                start = now()
                call(values, step)
                times.append(now() - start)
            if turn > 1:
                times.sort()
                found[name].append([times[calls // 2] / 1e3, times[calls * 99 // 100] / 1e3])
    run.finish()
    return found


def runs(root: str, *, n: int) -> dict[str, list[float]]:
    """Runs after a process's first: start, 10 parameters, 5 metrics, finish (on the disk), in milliseconds for each side."""
    import kit
    from adapters.ailab_local import A as Ours
    from adapters.limit_raw import A as Raw

    os.environ["AILAB_DIR"] = f"{root}/store"
    sides = {"raw": Raw(f"{root}/raw"), "ailab": Ours(root)}
    found: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(n + 2):
        name, params, metrics = kit.run_record(i)
        for side, system in sides.items():
            start = now()
            system.close_run(system.open_run(name, params), metrics)
            if i > 1:
                found[side].append((now() - start) / 1e6)
    return found


def prints(root: str, *, blocks: int, calls: int) -> dict[str, list[float]]:
    """`print` of four values to nowhere: per block its mean in microseconds, with no run open and with one that keeps lines."""
    import sys

    import ailab

    os.environ["AILAB_DIR"] = f"{root}/store"
    ailab.start_run("first", project="bench").finish()
    found: dict[str, list[float]] = {"plain": [], "kept": []}
    usual = sys.stdout
    with open(os.devnull, "w") as sys.stdout:
        for turn in range(blocks + 2):
            for side, means in found.items():
                run = ailab.start_run("prints", project="bench") if side == "kept" else None
                start = now()
                for step in range(calls):
                    print("step", step, "loss", 0.25)
                spent = now() - start
                if run is not None:
                    run.finish()
                if turn > 1:
                    means.append(spent / calls / 1e3)
    sys.stdout = usual
    return found


def beside(root: str, *, seconds: float) -> dict[str, float]:
    """What the thread beside a training costs, in percent of one core: silent with readings, and at 100 lines a second."""
    import sys

    import ailab
    from ailab import pulse

    os.environ["AILAB_DIR"] = f"{root}/store"
    spent = [0.0]
    turn = pulse.Pulse._take_turn

    def timed(self: Any, runs: Any) -> None:
        start = time.thread_time()
        turn(self, runs)
        spent[0] += time.thread_time() - start

    pulse.Pulse._take_turn = timed
    found = {}
    usual = sys.stdout
    with open(os.devnull, "w") as sys.stdout, ailab.start_run("watched", project="bench"):
        for name, lines in (("silent", 0), ("100 lines/s", 100)):
            spent[0], start = 0.0, time.monotonic()
            while (passed := time.monotonic() - start) < seconds:
                time.sleep(0.01)
                if lines:
                    print("step", int(passed * 100), "loss", 0.25)
            found[name] = 100 * spent[0] / passed
    sys.stdout = usual
    return found


# -- points ------------------------------------------------------------------------------------------------------------


def fill(root: str, *, n: int, metrics: int) -> dict[str, Any]:
    """One run of `n` steps of `metrics` metrics in the store, and the same points in the limit's table."""
    import kit
    from adapters.ailab_local import A as Ours
    from adapters.limit_duckdb import A as Table

    os.environ["AILAB_DIR"] = f"{root}/store"
    curves = {name: kit.curve(j) for j, name in enumerate(kit.TEN[:metrics])}
    for system in (Ours(root), Table(f"{root}/limit")):
        run = system.open_run("fill", kit.run_record(1)[1])
        system.fill(run, curves, n, float("inf"))
        system.close_run(run, None)
    return {"limit_bytes": kit.tree_bytes(f"{root}/limit/store")}


def limit_layouts(root: str, *, n: int) -> dict[str, float]:
    """Bytes per point of the same points as JSON lines and, from these, as one wide Parquet table (zstd)."""
    import duckdb
    import kit
    from adapters.limit_raw import A as Raw

    system = Raw(f"{root}/raw")
    curves = {name: kit.curve(j) for j, name in enumerate(kit.TEN)}
    run = system.open_run("fill", {})
    system.fill(run, curves, n, float("inf"))
    os.close(run)
    source, target = Path(root) / "raw" / "store" / "fill.jsonl", Path(root) / "raw" / "fill.parquet"
    fields = ", ".join(f"{name} DOUBLE" for name in kit.TEN)
    columns = f"{{t: 'DOUBLE', step: 'BIGINT', m: 'STRUCT({fields})'}}"
    lines = f"read_json('{source}', format='newline_delimited', columns={columns})"
    duckdb.execute(
        f"COPY (SELECT t, step, m.* FROM {lines} WHERE step IS NOT NULL ORDER BY step) TO '{target}' "
        "(FORMAT parquet, COMPRESSION zstd, PARQUET_VERSION v2)"
    )
    points = n * len(kit.TEN)
    return {"lines": source.stat().st_size / points, "parquet": target.stat().st_size / points}


def history(root: str, *, reads: int) -> dict[str, Any]:
    """One metric of ten, the whole of it, in a fresh process: import, open, then reads that alternate with the limit's."""
    start = now()
    import ailab

    imported = now()
    import duckdb  # noqa: F401  (told apart)

    engine = now()
    with ailab.connect(f"{root}/store") as lab:
        opened = now()
        from adapters.limit_duckdb import A as Table

        from ailab import views

        run, table = Path(root, "aux", "fill").read_text(), Table(f"{root}/limit")
        points = 0

        def ours() -> None:
            nonlocal points
            points = len(views.points_table(lab.lab, run, ["m0"], ("step", "value")))

        times = _take_turns({"limit": lambda: table.history("fill", "m0"), "ailab": ours}, reads)
    whole = []
    for _ in range(3):
        before = now()
        read = len(ailab.history(run, ["m0"], dir=f"{root}/store"))
        whole.append((now() - before) / 1e6)
    assert read == points
    spent = {"import_ms": imported - start, "duckdb_ms": engine - imported, "open_ms": opened - engine}
    return {**{k: v / 1e6 for k, v in spent.items()}, "points": points, "reads": times, "history_ms": whole}


def buckets(root: str, *, n: int, reads: int) -> dict[str, Any]:
    """One metric of one run, thinned to `n` buckets with smallest and greatest value kept."""
    from adapters.limit_duckdb import A as Table

    from ailab import queries, views

    lab, table = views.open_lab(f"{root}/store"), Table(f"{root}/limit")
    run = Path(root, "aux", "fill").read_text()
    counted: dict[str, int] = {}

    def ours() -> None:
        page = queries.metric_points(lab, run, keys=["m0"], max_points=2 * n)
        counted.update(rows=len(page.rows), total=page.total)

    times = _take_turns({"limit": lambda: table.buckets("fill", "m0", n), "ailab": ours}, reads)
    return {"reads": times, **counted}


def _take_turns(sides: dict[str, Callable[[], Any]], turns: int) -> dict[str, list[float]]:
    """Milliseconds of each side, call by call; the first turn counts, as a fresh process has it."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, call in sides.items():
            start = now()
            call()
            found[name].append((now() - start) / 1e6)
    return found


# -- runs --------------------------------------------------------------------------------------------------------------


def populate(root: str, *, n: int) -> dict[str, Any]:
    """`n` finished runs in bulk, and the same rows with the same ids in the limit's table."""
    import kit
    import population
    from adapters.limit_duckdb import A as Table

    ids = population.populate(f"{root}/store", n)
    Path(root, "ids").write_text("\n".join(ids))
    Table(f"{root}/limit").populate(n, float("inf"), [population.number_of(run) for run in ids])
    return {"bytes": kit.tree_bytes(f"{root}/store")}


def populate_by_api(root: str, *, n: int) -> dict[str, Any]:
    """`n` runs as people make them, each with a segment of its own, and the same rows in the limit's table."""
    import kit
    import population
    from adapters.ailab_local import A as Ours
    from adapters.limit_duckdb import A as Table

    os.environ["AILAB_DIR"] = f"{root}/store"
    system, start = Ours(root), now()
    for i in range(n):
        name, params, metrics = kit.run_record(i)
        system.close_run(system.open_run(name, params), metrics)
    spent = (now() - start) / 1e9
    ids = [system.recall(kit.run_record(i)[0]) for i in range(n)]
    Path(root, "ids").write_text("\n".join(ids))
    numbers = sorted(population.number_of(run) for run in ids)
    Table(f"{root}/limit").populate(n, float("inf"), numbers)
    return {"bytes": kit.tree_bytes(f"{root}/store"), "s": spent}


def questions(root: str, *, rounds: int, calls: int, port: int | None, budget_s: float) -> dict[str, Any]:
    """The four questions, block by block: the limit in process, ailab in process, ailab over HTTP. Milliseconds by block.

    The question for one run asks for another run each time, the same one on all sides of a block.
    """
    import random

    import kit
    import population
    import worker
    from adapters import ailab_local
    from adapters.limit_duckdb import A as Table

    from ailab import views

    start = now()
    lab = views.open_lab(f"{root}/store")
    found: dict[str, Any] = {"open_s": (now() - start) / 1e9, "ms": {}}
    ids = Path(root, "ids").read_text().splitlines()
    table, dice = Table(f"{root}/limit"), random.Random(1)
    table.prepare()
    web = None if port is None else _Browser(port)
    for question in kit.QUESTIONS:
        sides: dict[str, Callable[[str], int]] = {
            "limit": lambda run, q=question: table.ask(q, _uuid(population.number_of(run)) if q == "detail" else ""),
            "ailab": lambda run, q=question: ailab_local.ask(lab, q, run),
        }
        if web is not None:
            sides["http"] = lambda run, q=question: web.rows(ailab_local.paths(run)[q])
        times: dict[str, list[list[float]]] = {name: [] for name in sides}
        until = time.monotonic() + budget_s / len(kit.QUESTIONS)
        for turn in range(rounds + 1):
            asked = [dice.choice(ids) for _ in range(calls)]
            rows = set()
            for name in dice.sample(list(sides), len(sides)):
                block = []
                for run in asked:
                    before = now()
                    rows.add(sides[name](run))
                    block.append((now() - before) / 1e6)
                if turn:
                    times[name].append(block)
            assert len(rows) == 1, f"{question}: the sides do not answer the same number of rows: {rows}"
            if turn > 2 and time.monotonic() > until:
                break
        found["ms"][question] = times
        worker.tell(found)
    return found


class _Browser:
    """One connection kept alive."""

    def __init__(self, port: int) -> None:
        import http.client

        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def rows(self, path: str) -> int:
        """Ask, read the answer whole; return how many rows it has, without decoding it."""
        self.connection.request("GET", path, headers={"Accept": "application/json"})
        answer = self.connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content[:200]
        return content.count(b'"run_id":')


def _uuid(number: int) -> str:
    import uuid

    return str(uuid.UUID(int=number))


def cold(root: str) -> dict[str, float]:
    """A fresh process from `connect()` to its first answer, `import duckdb` told apart; and its peak of memory."""
    import ailab

    start = now()
    import duckdb  # noqa: F401  (what `connect` would load first)

    engine = now()
    lab = ailab.connect(f"{root}/store")
    opened = now()
    from ailab import queries

    rows = queries.list_runs(lab.lab, queries.RunFilter(limit=50)).rows
    answered = now()
    import resource

    assert len(rows) == 50
    spent = {"duckdb_s": engine - start, "connect_s": opened - engine, "answer_s": answered - opened, "s": answered - start}
    return {**{k: v / 1e9 for k, v in spent.items()}, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


# -- refresh -----------------------------------------------------------------------------------------------------------


def refresh(root: str, *, rounds: int, kind: str) -> dict[str, Any]:
    """`refresh()` after a thousand new events, again and again in one process that holds the store open: milliseconds.

    Args:
        root: where the store is.
        rounds: how often.
        kind: `points` of one live run; `runs` for run events that touch 770 runs, 100 of them new, by one writer; `segments`
            for the same with each new run in a segment of its own, as `start_run` makes them; `nothing`.
    """
    from ailab import views

    lab = views.open_lab(f"{root}/store")
    write = {"points": _live_run, "runs": _run_events, "segments": _run_events, "nothing": _nothing}[kind]
    add, check = write(root, lab, own=kind == "segments")
    lab.refresh()
    times, answers = [], []
    for turn in range(rounds + 1):
        add(turn)
        start = now()
        lab.refresh()
        fresh = now()
        check(turn)
        answered = now()
        if turn:
            times.append((fresh - start) / 1e6)
            answers.append((answered - fresh) / 1e6)
    lab.close()
    return {"ms": times, "answer_ms": answers}


Writing = tuple["Callable[[int], None]", "Callable[[int], None]"]
"""What adds a round's events, and the question that sees them, by which the catalogue is held to have them."""


def _nothing(root: str, lab: Any, *, own: bool) -> Writing:
    return (lambda _: None), (lambda _: None)


def _live_run(root: str, lab: Any, *, own: bool) -> Writing:
    import ailab
    from ailab import queries

    ailab.start_run("first", dir=f"{root}/store").finish()
    run = ailab.start_run("live", dir=f"{root}/store")

    def add(turn: int) -> None:
        for i in range(LIVE_EVENTS):
            run.log({"loss": 1 / (i + 1)}, turn * LIVE_EVENTS + i)

    def check(turn: int) -> None:
        there = queries.metric_points(lab, run.id, keys=["loss"], max_points=200).total
        assert there == (turn + 1) * LIVE_EVENTS, f"the catalogue has {there} points"

    return add, check


def _run_events(root: str, lab: Any, *, own: bool) -> Writing:
    import random

    import kit

    import ailab
    from ailab import events, queries
    from ailab.journal import Writer
    from ailab.runs import new_run_id
    from ailab.store import open_store

    dice, ids = random.Random(2), Path(root, "ids").read_text().splitlines()
    writer = Writer(open_store(f"{root}/store", create=False), via="import")
    writer.observe(time.time_ns() // 1000)  # later than every event of an earlier job on the same store
    last: list[str] = ["", ""]
    if own:
        ailab.start_run("first", dir=f"{root}/store").finish()

    def new_run(number: int) -> str:
        name, params, metrics = kit.run_record(number)
        if own:
            run = ailab.start_run(name, dir=f"{root}/store", config=params)
            run.log_params({"late": number})
            run.finish(final_metrics=metrics)
            return run.id
        ident = new_run_id()
        writer.append(events.RunStarted(name=name, project="bench", params=params, command="python train.py"), run=ident)
        writer.append(events.ParametersAdded(params={"late": number}), run=ident)
        writer.append(events.RunFinished(status="completed", final_metrics=metrics), run=ident)
        return ident

    def add(turn: int) -> None:
        touched = dice.sample(ids, min(TOUCHED - NEW, len(ids)))
        again = LIVE_EVENTS - 3 * NEW - len(touched)
        for i, run in enumerate(touched + touched[:again]):
            event = (
                events.NoteChanged(note=f"note {turn}"),
                events.TagsChanged(set={"round": str(turn)}),
                events.ParametersAdded(params={"late": turn}),
            )[i % 3]
            writer.append(event, run=run)
        last[:] = [touched[0], [new_run(turn * NEW + i) for i in range(NEW)][-1]]

    def check(turn: int) -> None:
        assert queries.get_run(lab, last[0]).note == f"note {turn}"
        assert queries.get_run(lab, last[1]).params["late"] == turn * NEW + NEW - 1

    return add, check
