"""Lines that prove themselves and say what no writer of ours would: named at most, they cost nobody else a word.

Anyone who may ship a segment can write any line with the right checksum, and other programs write segments too. So every field
of every kind gets every strange value, one line each, and so do the members of the line itself; then all pages, lists and
changes are asked for, before and after a compaction, and a server starts on the store again.
"""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import pytest
from handmade import Pen
from live import environment

from ailab import events

BIG = "1" + "0" * 400
STRANGE = (
    "null", "true", "-1", "0.5", "1e308", "9223372036854775808", "-9223372036854775809", "1" + "0" * 30, "-1" + "0" * 50, BIG,
    '""', '" "', '"NaN"', '"a\\u0000b"', '"\\ud800"', '"../x"', '"<b>&\\""', json.dumps("é" * 5_000), "[]", "[[]]", "{}",
    '{"":{"":1}}', '{"a":' + BIG + "}", '{"a":{"b":[null,{"c":"\\ud800"}]}}', '[{"name":5}]', "[" * 200 + "]" * 200,
    '"2026-01-01T00:00:00"', '"0001-01-01T00:00:00+12:00"', '"9999-12-31T23:59:59-12:00"', '"0000-00-00"',
)  # fmt: skip
TIMES = ("2026-01-01T00:00:00", "0001-01-01T00:00:00+12:00", "9999-12-31T23:59:59-12:00", "2016-12-31T23:59:60Z", "x")
NUMBERS = ("-1", str(1 << 62), str((1 << 63) - 1), str(1 << 63), "1" + "0" * 40, "0.5", '"1"', "null")
FACES = (
    "", "?format=html", "/metrics?key=a", "/history?key=a", "/changes", "/console", "/system-metrics", "/system-metrics?key=a",
)  # fmt: skip
LISTS = (
    "/runs", "/runs?sort=-started_at", "/runs?as_of=2027-01-01", "/runs?where=metrics.a%20%3E%200", "/projects", "/datasets",
    "/changes", "/", "/runs/leaderboard?metric_name=a", "/metrics", "/health",
    "/api/modellab/runs", "/api/modellab/projects", "/api/modellab/datasets",
)  # fmt: skip
SAMPLES = {"StrType": '"x"', "IntType": "1", "FloatType": "0.5", "BoolType": "false", "DateTimeType": '"2026-01-01T00:00:00Z"',
           "ListType": "[]"}  # fmt: skip


def sample(kind):
    """A value that fits a type, as JSON."""
    if isinstance(kind, msgspec.inspect.UnionType):
        kind = next(one for one in kind.types if not isinstance(one, msgspec.inspect.NoneType))
    return SAMPLES.get(type(kind).__name__, '{"a":1}')


def lines_of(kind):
    """The data of one line that fits, and of one for every field and strange value."""
    fields = msgspec.inspect.type_info(events.KINDS[kind]).fields
    usual = {field.encode_name: sample(field.type) for field in fields}
    yield usual
    for name in usual:
        for value in STRANGE:
            yield {**usual, name: value}


def write(store):
    """A segment for every kind with a run of that name, one without a run, and one for the members of a line; return the runs."""
    runs, number = [], 0
    for kind in events.KINDS:
        if kind in {"segment.opened", "segment.sealed"}:
            continue  # of these a segment has one, and `Segment` reads it
        for run in (kind.replace(".", "-"), None):
            number += 1
            pen = Pen(store, run, number=number)
            if run:
                runs.append(run)
                pen.line(f'"kind":"run.started"{pen.of_run()},"data":{{}}')
            for data in lines_of(kind):
                text = ",".join(f"{json.dumps(name)}:{value}" for name, value in data.items())
                pen.line(f'"kind":"{kind}"{pen.of_run()},"data":{{{text}}}')
    for member, values in (("at", TIMES), ("clock", NUMBERS), ("seq", NUMBERS)):
        for i, value in enumerate(values):
            runs.append(f"{member}-{i}")
            pen = Pen(store, runs[-1], number=number + len(runs))
            pen.line(f'"kind":"run.started"{pen.of_run()},"data":{{}}')
            said = {"at": '"2026-11-24T09:00:00Z"', "clock": "1", "seq": str(pen.seq)}
            said[member] = json.dumps(value) if member == "at" else value
            pen.text('{%s,"kind":"note.changed"%s,"data":{"note":"x"},"prev":%d,"crc":0}' % (  # noqa: UP031
                ",".join(f'"{name}":{text}' for name, text in said.items()), pen.of_run(), pen.prev))  # fmt: skip
    return runs


def ask_everything(live, runs):
    """Lists are there, and every answer about one run is one; the run that says nothing strange is whole, and can be changed."""
    for path in LISTS:
        answer = live.get(path)
        assert answer.status == 200, (path, answer.text[:300])
    for path in [f"/runs/{run}{face}" for run in runs for face in FACES] + [f"/artifacts/{run}" for run in runs]:
        answer = live.get(path)
        assert answer.status in {200, 400} or (answer.status == 404 and "run-purged" in path), (path, answer.text[:300])
    answer = live.send("POST", "/sql", {"sql": "SELECT count(*) FROM events"})
    assert answer.status == 200, answer.text
    for run in ("clock-1", "clock-2"):  # a writer goes by the clocks that it has seen
        said = f"changed {len(live.get(f'/runs/{run}/changes').json())} times"
        assert live.send("PATCH", f"/runs/{run}", {"description": said}).status == 200
    for text in ("a", "b"):  # what one answer wrote, the next one reads
        assert live.send("PATCH", "/runs/plain", {"description": text}).status == 200
        assert live.send("POST", "/projects", {"name": f"{text} {len(live.get('/projects').json())}"}).status == 201
    assert live.get("/runs/plain").json()["final_metrics"] == {"a": 1.0}


@pytest.fixture
def strange(tmp_path):
    """Path of a store with a plain run and every strange line, and the runs that have them."""
    store = tmp_path / "store"
    source = "import sys, ailab\nwith ailab.start_run(id='plain', dir=sys.argv[1]) as run: run.log({'a': 1.0})"
    subprocess.run([sys.executable, "-c", source, str(store)], env=environment(), check=True, timeout=60)
    return store, write(store)


def command(store, *words):
    """What `ailab` says on this store; it may find faults, and must not have one."""
    words = [sys.executable, "-m", "ailab", "--dir", str(store), *words]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=240, check=False)
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    assert done.returncode in {0, 1}, (words, done.stderr[-500:])
    return done.stdout


def test_strange_lines_cost_nobody_else_a_word(start, strange):
    """Before and after a compaction, and where a server starts on them."""
    store, runs = strange
    live = start(dir=store)
    ask_everything(live, runs)
    live.end()
    found = command(store, "doctor") + command(store, "verify")
    for run in ("at-0", "clock-3", "seq-4", "run-started"):
        assert run in found, run
    command(store, "compact")
    command(store, "runs")
    live = start(dir=store)
    ask_everything(live, runs)
