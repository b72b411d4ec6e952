"""/metrics is what Prometheus reads: the real parser takes it, its figures are right, and nobody can make it grow."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live import launch, read_answer
from prometheus_client.parser import text_string_to_metric_families
from test_access import SOURCE
from test_stream import LIVE

import ailab
from ailab import store as stores
from ailab import views
from ailab.actions import Actions
from ailab.bodies import NewToken
from ailab_api.access import LIMITS
from ailab_api.exposition import BOUNDS_S, Family, Histogram, counters, exposition, gauge, histograms
from ailab_api.meters import REFUSALS, Meters, seen_of


def parse(text):
    """Every series of an exposition with its value, as the real parser reads it; each family is there once, with its help."""
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    assert all(family.documentation and family.type in {"counter", "gauge", "histogram"} for family in families)
    found = {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}
    assert len(found) == sum(len(family.samples) for family in families)
    return found


def figures(live, **headers):
    """What a server says of itself; (name, labels) with the value."""
    answer = live.get("/metrics", **headers)
    assert (answer.status, answer.header("content-type")) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return parse(answer.text)


def value(found, name, **labels):
    """The value of one series."""
    return found[name, frozenset(labels.items())]


def by(found, name, label):
    """The values of a family that has one label."""
    return {dict(labels)[label]: value for (family, labels), value in found.items() if family == name}


@pytest.fixture
def live(start, store):
    """A server of its own on the store of six runs, so that all requests are this test's."""
    return start(dir=store)


# -- what is said ------------------------------------------------------------------------------------------------------


def test_requests_are_counted_by_their_template(live):
    """Each request by method, template and class of its status; HEAD is HEAD; what met no route has none."""
    asked = [
        ("GET", "/runs/run-a", "/runs/{run_id}", "2xx"), ("GET", "/runs/run-b", "/runs/{run_id}", "2xx"),
        ("GET", "/runs/none", "/runs/{run_id}", "4xx"), ("HEAD", "/runs/run-a", "/runs/{run_id}", "2xx"),
        ("GET", "/runs?x=1", "/runs", "4xx"), ("OPTIONS", "/changes", "/changes", "2xx"), ("DELETE", "/changes", "none", "4xx"),
        ("GET", "/nothing", "none", "4xx"), ("BREW", "/health", "none", "4xx"),
        ("GET", "/artifacts/run-a/download/checkpoints/model.joblib", "/artifacts/{run_id}/download/{path}", "2xx"),
    ]  # fmt: skip
    for method, path, _, status in asked:
        assert f"{live.ask(method, path).status // 100}xx" == status, path
    expected = {}
    for method, _, route, status in asked:
        key = frozenset({"method": "other" if method == "BREW" else method, "route": route, "status": status}.items())
        expected[key] = expected.get(key, 0) + 1
    found = figures(live)
    assert {labels: value for (name, labels), value in found.items() if name == "ailab_http_requests_total"} == expected
    assert {labels: value for (name, labels), value in found.items() if name == "ailab_http_request_seconds_count"} == expected
    assert value(found, "ailab_http_requests_in_flight") == 1


def test_times_are_histograms(live):
    """Buckets grow up to all of them, and their sum is what the client may have waited."""
    began = time.monotonic()
    for _ in range(20):
        live.get("/runs")
    waited = time.monotonic() - began
    found, labels = figures(live), {"method": "GET", "route": "/runs", "status": "2xx"}
    buckets = [value(found, "ailab_http_request_seconds_bucket", **labels, le=le) for le in (*map(repr, BOUNDS_S), "+Inf")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == value(found, "ailab_http_request_seconds_count", **labels) == 20
    assert 0 < value(found, "ailab_http_request_seconds_sum", **labels) < waited


def test_the_store_and_the_process(live, store):
    """Runs by status, bytes as they lie on the disk, what this process is."""
    found, process = figures(live), psutil.Process(live.process.pid)
    assert by(found, "ailab_runs", "status") == {
        "pending": 0, "running": 0, "completed": 5, "failed": 1, "killed": 0, "crashed": 0,
    }  # fmt: skip
    place = stores.open_store(str(store), create=False)
    parts = {"events": place.segments, "tables": place.compacted, "blobs": place.blobs}
    assert by(found, "ailab_store_bytes", "part").items() >= {part: stores.size_of(path) for part, path in parts.items()}.items()
    ends = [path.read_bytes().splitlines()[-1] for path in sorted((store / "segments").glob("*.jsonl"))]
    open_ones = sum(b'"segment.sealed"' not in line for line in ends)  # a server of another test may be writing
    assert (value(found, "ailab_segments"), value(found, "ailab_segments_open")) == (len(ends), open_ones)
    assert value(found, "ailab_store_problems") == 0
    assert 0 <= value(found, "ailab_view_age_seconds") < 5
    assert (
        value(found, "ailab_build_info", version=ailab.__version__, python="{}.{}.{}".format(*__import__("sys").version_info))
        == 1
    )
    assert abs(value(found, "process_start_time_seconds") - process.create_time()) < 1
    assert value(found, "process_cpu_seconds_total") > 0
    assert 20e6 < value(found, "process_resident_memory_bytes") < 2e9
    assert 3 < value(found, "process_open_fds") <= value(found, "process_max_fds")


def test_what_is_written_and_received(start, tmp_path):
    """Events by kind, bytes by route; a run that begins elsewhere is running at the next scrape."""
    live = start(dir=tmp_path / "lab")
    assert by(figures(live), "ailab_events_appended_total", "kind") == {}
    assert live.send("POST", "/projects", {"name": "Iris"}).status == 201
    rows = b"a,b\n" + b"1,2\n" * 1000
    assert live.ask("POST", "/datasets?file=a.csv", {"Content-Type": "text/csv"}, rows).status == 201
    run = ailab.start_run(dir=tmp_path / "lab")
    time.sleep(0.3)  # a view may be 0.2 s old
    found = figures(live)
    assert by(found, "ailab_events_appended_total", "kind") == {"project.created": 1, "dataset_version.registered": 1}
    assert by(found, "ailab_http_received_bytes_total", "route") == {
        "/projects": len(b'{"name": "Iris"}'),
        "/datasets": len(rows),
    }
    assert by(found, "ailab_runs", "status")["running"] == 1
    assert value(found, "ailab_segments_open") == 2
    run.finish()


def test_streams_and_sql(live):
    """Readers of the stream while they read, without a time; the process that answers SQL, and those that were killed."""
    with live.connect() as reader:
        reader.sendall(f"GET /stream HTTP/1.1\r\nHost: {live.host}\r\nAccept: {LIVE['Accept']}\r\n\r\n".encode())
        head = reader.recv(4096)
        assert b"x-accel-buffering: no" in head.lower()
        found = figures(live)
        assert (value(found, "ailab_streams_open"), value(found, "ailab_http_requests_in_flight")) == (1, 2)
    assert live.send("POST", "/sql", {"sql": "select 1"}).status == 200
    found = figures(live)
    assert (value(found, "ailab_sql_processes"), value(found, "ailab_sql_kills_total")) == (1, 0)
    endless = "select count(*) from range(1000000000) a, range(1000) b where a.range * b.range % 7 = 3"
    assert live.send("POST", "/sql", {"sql": endless, "seconds": 0.2}).status == 400
    until = time.monotonic() + 10
    while value(found := figures(live), "ailab_sql_queries"):  # it is over a moment behind its answer
        assert time.monotonic() < until
    assert [value(found, f"ailab_sql_{what}") for what in ("processes", "kills_total")] == [0, 1]
    while value(found := figures(live), "ailab_streams_open"):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert ("ailab_http_request_seconds_count", "/stream") not in {(name, dict(labels).get("route")) for name, labels in found}
    assert value(found, "ailab_http_requests_total", method="GET", route="/stream", status="2xx") == 1


def test_a_store_that_cannot_be_read_shows_in_the_age(start, tmp_path):
    """Figures are there all the same, the view grows old; and is young again when the store is back."""
    place = tmp_path / "lab"
    ailab.start_run(id="one", dir=place).finish()
    live = start(dir=place)
    assert by(figures(live), "ailab_runs", "status")["completed"] == 1
    (place / "segments").rename(place / "away")
    (place / "segments").touch()
    time.sleep(1.2)
    assert live.get("/runs").status == 503
    found = figures(live)
    assert value(found, "ailab_view_age_seconds") > 1
    assert by(found, "ailab_runs", "status")["completed"] == 1
    (place / "segments").unlink()
    (place / "away").rename(place / "segments")
    assert live.get("/runs").status == 200
    assert value(figures(live), "ailab_view_age_seconds") < 1
    live.end()


# -- who may ask, and who was refused ----------------------------------------------------------------------------------


def test_who_may_scrape_and_why_others_were_refused(store, tmp_path):
    """A reader may; a token of one project, which would learn of others, may not; every refusal is counted by its reason."""
    shutil.copytree(store, tmp_path / "store", copy_function=os.link)
    lab = views.open_lab(tmp_path / "store")
    with Actions(lab, via="cli") as actions:
        reader = actions.create_token(NewToken(role="reader", name="scraper")).text
        writer = actions.create_token(NewToken(role="writer", name="writer")).text
        confined = actions.create_token(NewToken(role="reader", name="iris", project_id="iris")).text
    lab.close()
    live = launch(tmp_path, dir=tmp_path / "store", source=SOURCE)
    shown = {
        who: {"Authorization": f"Bearer {text}"} for who, text in (("reader", reader), ("writer", writer), ("iris", confined))
    }
    json = {"Content-Type": "application/json"}
    try:
        assert live.ask("GET", "/metrics", shown["iris"]).status == 403
        assert live.ask("GET", "/metrics").status == 401
        assert live.ask("GET", "/metrics", {"Authorization": "Bearer none"}).status == 401
        assert live.ask("PATCH", "/runs/run-a/note", {**shown["reader"], **json}, b'{"note": "x"}').status == 403
        for _ in range(LIMITS["writes"] + 1):
            last = live.ask("PATCH", "/runs/run-b/note", {**shown["writer"], **json}, b'{"note": "x"}')
        assert last.status == 429
        assert live.ask("GET", "/runs", host="evil.example").status == 421
        assert live.ask("GET", "/runs/%2e%2e/x").status == 400
        assert live.ask("POST", "/compare", {"Origin": "https://evil.example"}, b"{}").status == 403
        assert live.ask("POST", "/compare", {"Content-Type": "text/plain"}, b"{}").status == 415
        found = parse(live.ask("GET", "/metrics", shown["reader"]).text)
        expected = {"project": 1, "token": 2, "role": 1, "writes": 1, "host": 1, "path": 1, "origin": 1, "body": 1}
        assert by(found, "ailab_http_refused_total", "reason") == {reason: expected.get(reason, 0) for reason in REFUSALS}
        for number in range(LIMITS["failures"]):
            last = live.ask("GET", "/runs", {"Authorization": f"Bearer guess-{number}"})
        assert last.status == 429
    finally:
        live.end()


# -- what nobody can do ------------------------------------------------------------------------------------------------


def names(found):
    """The series that requests make."""
    return {key for key in found if key[0].startswith("ailab_http_")}


def test_ten_thousand_paths_make_no_new_series(live):
    """Neither paths, ids, methods, hosts nor query strings of an attacker become a label."""
    for method, path in (("GET", "/x"), ("BREW", "/x"), ("GET", "/runs/x"), ("GET", "/runs?x=1"), ("GET", "/runs/x/y/z")):
        live.ask(method, path)
    live.ask("GET", "/runs", host="evil.example")
    figures(live)
    before = figures(live)
    dice = random.Random(7)
    with live.connect() as connection:
        for number in range(10_000):
            word = f"{dice.randrange(1 << 60):x}"
            path = (f"/{word}", f"/runs/{word}", f"/runs?{word}=1", f"/runs/x/{word}", f"/{word}/{word}")[number % 5]
            method, host = ("GET", word.upper()[:8])[number % 97 == 0], ("localhost", f"{word}.example")[number % 89 == 0]
            connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            answer = read_answer(connection)
            assert 400 <= answer.status < 500, path
    after = figures(live)
    assert names(after) == names(before)
    total = sum(value for (name, _), value in after.items() if name == "ailab_http_requests_total")
    assert total == sum(value for (name, _), value in before.items() if name == "ailab_http_requests_total") + 10_001


def test_paths_as_labels_would_be_seen():
    """Control: the comparison above tells a server that counts by path."""
    meters = Meters()

    async def app(scope, receive, send):
        seen_of(scope).route = scope["path"]
        await send({"type": "http.response.start", "status": 404, "headers": []})

    async def nothing(*message):
        return {"type": "http.request"}

    def series():
        return names(parse(exposition(meters.families()).decode()))

    def ask(path):
        asyncio.run(meters.pass_on(app, {"type": "http", "method": "GET", "path": path}, nothing, nothing))

    ask("/a")
    before = series()
    ask("/a")
    assert series() == before
    ask("/b")
    assert series() != before


def test_a_handler_that_fails_is_counted():
    """An exception on its way out is a 5xx, and nothing stays under way."""
    meters = Meters()

    async def fails(scope, receive, send):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        asyncio.run(meters.pass_on(fails, {"type": "http", "method": "GET"}, None, None))
    assert (dict(meters.requests), meters.in_flight) == ({("GET", "none", "5xx"): 1}, 0)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), st.floats(allow_nan=False) | st.integers(0, 1 << 62), max_size=5
    )
)
def test_any_text_and_number_come_back(values):
    """Quotes, backslashes, line feeds and all else in a label's value; infinities and large numbers."""
    found = parse(exposition([counters("ailab_x_total", "All \\ of\nit.", ("label",), values)]).decode())
    assert by(found, "ailab_x_total", "label") == values


def test_a_text_that_is_not_escaped_would_be_seen():
    """Control: the parser refuses or misreads what is put into a line as it is."""
    bad = 'x"} 1\nailab_y{label="'
    whole = exposition([Family("ailab_x", "gauge", "x", [("", {"label": bad}, 1)])]).decode()
    assert by(parse(whole), "ailab_x", "label") == {bad: 1}
    raw = whole.replace('\\"', '"').replace("\\n", "\n")
    assert ("ailab_y", frozenset({("label", "")})) in {
        (one.name, frozenset(one.labels.items())) for family in text_string_to_metric_families(raw) for one in family.samples
    }


def test_bounds_belong_to_their_bucket():
    """A time that is exactly a bound is in its bucket, and one beyond all is in the last."""
    one = Histogram()
    for seconds in (BOUNDS_S[0], BOUNDS_S[-1], 1000.0):
        one.observe(seconds)
    found = by(parse(exposition([histograms("x", "x.", (), {(): one}), gauge("y", "y.", 1)]).decode()), "x_bucket", "le")
    assert (found[repr(BOUNDS_S[0])], found[repr(BOUNDS_S[-2])], found[repr(BOUNDS_S[-1])], found["+Inf"]) == (1, 1, 2, 3)
