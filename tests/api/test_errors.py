"""Every error has one shape, wherever it comes from: application/problem+json with eight fields, and nothing of the inside.

{"type": "urn:ailab:problem:…", "title": …, "status": …, "detail": …, "instance": the path that was asked for,
"where": the part of the request that is meant or null, "hint": what to do next or null, "nearest": […]}
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time

import pytest
from live import environment, read_answer

FIELDS = ["type", "title", "status", "detail", "instance", "where", "hint", "nearest"]


def problem(answer, status, kind, **expected):
    """Check the shape, and the fields that a test cares about; give the problem."""
    found = json.loads(answer.body)
    assert answer.header("content-type") == "application/problem+json"
    assert list(found) == FIELDS
    assert (answer.status, found["status"], found["type"]) == (status, status, f"urn:ailab:problem:{kind}"), found
    assert {name: found[name] for name in expected} == expected
    assert found["detail"]
    assert found["title"]
    for word in ("Traceback", 'File "', ".py", "site-packages"):
        assert word not in answer.text
    return found


# -- what is not there -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/runs/run-q"),
        ("GET", "/runs/run-q/metrics"),
        ("GET", "/runs/run-q/history"),
        ("GET", "/runs/run-q/console"),
        ("GET", "/runs/run-q/system-metrics"),
        ("GET", "/runs/run-q/changes"),
        ("GET", "/artifacts/run-q"),
        ("GET", "/artifacts/run-q/download/metrics.csv"),
        ("GET", "/runs/compare?ids=run-a&ids=run-q"),
        ("POST", "/compare"),
        ("PATCH", "/runs/run-q/note"),
    ],
)
def test_an_unknown_run_is_404_with_the_nearest(server, method, path):
    """Every route that names a run says which ids are near."""
    content = {"POST": {"run_ids": ["run-a", "run-q"]}, "PATCH": {"note": "x"}}.get(method)
    answer = server.send(method, path, content) if content else server.get(path)
    found = problem(answer, 404, "not-found", detail="no run 'run-q'", instance=path.partition("?")[0])
    assert len(found["nearest"]) == 3
    assert set(found["nearest"]) <= {"run-a", "run-b", "run-c", "run-x", "run-w", "run-big"}
    assert found["hint"] == "nearest: " + ", ".join(found["nearest"])


def test_an_unknown_file_is_404_with_the_nearest(server):
    """A file that the run does not have names those that look like it."""
    answer = server.get("/artifacts/run-a/download/metric.csv")
    problem(answer, 404, "not-found", detail="no artifact 'metric.csv'", nearest=["metrics.csv"])


def test_an_unknown_route_is_404(server):
    """A path without a route names routes that look like it."""
    problem(server.get("/run"), 404, "no-route", detail="no route /run", hint="/schema lists all routes", nearest=["/runs"])
    problem(server.get("/docs"), 404, "no-route", instance="/docs")
    for path in ("/schema/swagger", "/schema/redoc", "/schema/openapi.yaml", "/favicon.ico", "/runs/run-a/nothing"):
        problem(server.get(path), 404, "no-route")


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/runs"), ("PUT", "/runs"), ("POST", "/health"), ("BREW", "/health")])
def test_a_method_that_is_not_there_is_405(server, method, path):
    """A known path with another method says so, and lists the methods."""
    answer = server.ask(method, path)
    problem(answer, 405, "method-not-allowed", detail=f"{method} is not allowed here")
    assert answer.header("allow")


# -- questions that do not parse ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "where"),
    [
        ("colour=red", "colour"),
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=1001", "limit"),
        ("limit=1e2", "limit"),
        ("limit=%D9%A1", "limit"),
        ("limit=" + "9" * 30, "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=2", "limit"),
        ("params.lr=1&params.lr=2", "params.lr"),
        ("params.=1", "params."),
        ("status=done", "status"),
        ("from_timestamp=yesterday", "from_timestamp"),
        ("to_timestamp=2026-13-01", "to_timestamp"),
        ("has_artifacts=maybe", "has_artifacts"),
        ("metric_min=0.5", "metric_min"),
        ("metric_name=loss&metric_min=much", "metric_min"),
        ("metric_name=loss&metric_max=nan", "metric_max"),
        ("sort=colour", "sort"),
        ("sort=", "sort"),
        ("sort=metrics.", "sort"),
        ("sort=name;DROP TABLE runs".replace(" ", "%20"), "sort"),
        ("q=%FF", "query"),
        ("&".join(f"params.k{i}=1" for i in range(400)), "query"),
    ],
)
def test_a_filter_that_does_not_parse_says_where(server, query, where):
    """400 names the parameter, and what is allowed."""
    found = problem(server.get(f"/runs?{query}"), 400, "invalid", where=where, instance="/runs")
    assert found["hint"] or "twice" in found["detail"]


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("/runs/leaderboard", "metric_name"),
        ("/runs/leaderboard?metric_name=", "metric_name"),
        ("/runs/leaderboard?metric_name=loss&top_k=0", "top_k"),
        ("/runs/leaderboard?metric_name=loss&order=up", "order"),
        ("/runs/leaderboard?metric_name=loss&of=median", "of"),
        ("/runs/leaderboard?metric_name=loss&has_artifacts=x", "has_artifacts"),
        ("/runs/compare", "ids"),
        ("/runs/compare?" + "&".join(f"ids=r{i}" for i in range(101)), "ids"),
        ("/runs/run-a/metrics?max_points=0", "max_points"),
        ("/runs/run-a/metrics?max_points=x", "max_points"),
        ("/runs/run-a/metrics?since=x", "since"),
        ("/runs/run-a?format=yaml", "format"),
        ("/changes?limit=0", "limit"),
        ("/runs/run-a/changes?limit=x", "limit"),
        ("/artifacts/run-a?limit=0", "limit"),
    ],
)
def test_other_parameters_that_do_not_parse(server, path, where):
    """The parameters of all routes say where they do not parse."""
    problem(server.get(path), 400, "invalid", where=where)


def test_an_unknown_parameter_is_refused_on_every_route(server, routes):
    """A misspelt parameter is never ignored: 400 names it and those that are allowed."""
    for verb, path, template, operation in routes:
        answer = server.ask(verb, path + "?limitt=1", body=b"{}" if verb != "GET" else b"")
        if "modellab" in operation["tags"]:
            about = json.loads(answer.body)["details"][0]
            found = {"hint": about["hint"]}
            assert (answer.status, about["path"]) == (400, ["limitt"]), template
        else:
            found = problem(answer, 400, "invalid", where="limitt")
        allowed = [p["name"] for p in operation.get("parameters", []) if p["in"] == "query"]
        assert found["hint"] == "allowed: " + (", ".join(allowed) or "none"), template


@pytest.mark.parametrize(
    "text", ["%00", "a%00b", "'; DROP TABLE runs; --", '"', "%F0%9F%A7%AA", "%ED%9F%BF", "\\", "%", "_%25", "x" * 20_000]
)
@pytest.mark.parametrize(
    "name",
    ["q", "dataset_id", "tag", "params.a", "note_substring", "metric_name", "sort", "from_timestamp", "status", "project_id"],
)
def test_strange_texts_never_break_a_filter(server, name, text):
    """Any text is a value, or a 400; never a 5xx."""
    assert server.get(f"/runs?{name}={text.replace(' ', '%20')}").status in {200, 400}


# -- bodies ------------------------------------------------------------------------------------------------------------

BODIES = [
    ("PATCH", "/runs/run-w/note"),
    ("POST", "/compare"),
]


@pytest.mark.parametrize(("method", "path"), BODIES)
@pytest.mark.parametrize(
    "body",
    [
        b"{", b"", b"null", b"[]", b'"note"', b"{}", b'{"note": 1}', b'{"note": null}', b'{"run_ids": "run-a"}',
        b'{"run_ids": [1]}',
        b'{"note": "\xff"}', b'{"note": "\\ud800"}', b'{"note": NaN}', b"[" * 100_000, b'{"note":' + b"[" * 100_000,
        b'{"a":' * 100_000, b'{"note": "x"} trailing', b"\xef\xbb\xbf{}", b'{"note": "a", "run_ids": ["a"]}', b"\x00",
    ],
    ids=lambda body: body[:24].decode("latin-1"),
)  # fmt: skip
def test_a_body_that_does_not_fit_is_400(server, method, path, body):
    """Broken JSON, broken UTF-8, 100,000 levels, a wrong type, a missing or unknown field: always 400 that says where."""
    answer = server.ask(method, path, {"Content-Length": "0"} if not body else {}, body)
    found = problem(answer, 400, "invalid", instance=path)
    assert found["where"].startswith("body")


def test_a_body_says_where_it_does_not_fit(server):
    """The place in the body is named as JSON path, and the fields that there are as hint."""
    found = problem(server.send("PATCH", "/runs/run-w/note", {"note": 1}), 400, "invalid", where="body.note", hint="fields: note")
    assert found["detail"] == "the body does not fit: expected string, got integer"
    found = problem(server.send("POST", "/compare", {"run_ids": ["a", 2]}), 400, "invalid", where="body.run_ids[1]")
    found = problem(server.send("PATCH", "/runs/run-w/note", {"note": "x", "id": 1}), 400, "invalid", where="body")
    assert "unknown field `id`" in found["detail"]
    found = problem(
        server.send("POST", "/runs/run-w/events", {"events": [{"kindd": "x"}]}), 400, "invalid", where="body.events[0]"
    )
    assert found["hint"] == "fields: kind, data"
    found = problem(server.send("PATCH", "/runs/run-w", {"step": 1.5}), 400, "invalid", where="body.step")
    assert found["detail"] == "the body does not fit: expected integer or null, got number"


@pytest.mark.parametrize(
    ("data", "where", "detail", "hint"),
    [
        ({"valuess": {}}, "events[0].data.values", "object missing required field `values`", "fields: values, step, time"),
        ({"values": {}, "stp": 1}, "events[0].data", "no field 'stp'", "fields: values, step, time"),
        (
            {"values": {}, "step": "1"},
            "events[0].data.step",
            "expected integer or null, got string",
            "fields: values, step, time",
        ),
    ],
)
def test_data_of_an_event_that_do_not_fit(server, data, where, detail, hint):
    """A field that its kind does not have would be lost in silence; all that it has are named."""
    answer = server.send("POST", "/runs/run-w/events", {"events": [{"kind": "metrics.logged", "data": data}]})
    problem(answer, 400, "rejected", where=where, detail=f"the data do not fit metrics.logged: {detail}", hint=hint)


@pytest.mark.parametrize(
    ("kind", "data", "field", "hint"),
    [
        ("metric.described", {"key": "loss", "goal": "minimize"}, "goal", "allowed: max, min"),
        ("metric.described", {"key": "loss", "summary": "median"}, "summary", "allowed: last, min, max, mean"),
        ("console_lines.logged", {"stream": "out", "lines": ["x"]}, "stream", "allowed: stdout, stderr"),
        ("run.finished", {"status": "done"}, "status", "allowed: completed, failed, killed"),
    ],
)
def test_a_word_that_means_nothing_is_refused(server, kind, data, field, hint):
    """An event would be kept for good, and read as if the field had not been said."""
    answer = server.send("POST", "/runs/run-w/events", {"events": [{"kind": kind, "data": data}]})
    problem(answer, 400, "rejected", where=f"events[0].{field}", hint=hint, detail=f"{field} {data[field]!r} is not allowed")


@pytest.mark.parametrize(
    ("value", "said"), [("nan", '"nan"'), (None, "null"), ([1], "[1]"), ({"deep": None}, "null"), ("x" * 99, '"' + "x" * 59)]
)
def test_a_metric_that_is_no_number_is_told_in_json(server, value, said):
    """As it was sent, and what may be sent."""
    name = "loss/deep" if isinstance(value, dict) else "loss"
    hint = 'allowed: a number, or one of the texts "NaN", "Infinity", "-Infinity"'
    sent = {"metrics": {"loss": value}}
    problem(server.send("PATCH", "/runs/run-w", sent), 400, "rejected", where=name, hint=hint,
            detail=f"metric {name!r}: {said} is no number")  # fmt: skip
    assert server.send("PATCH", "/runs/run-w", {"metrics": {"loss": "nan"}, "status": "done"}).status == 400


def test_a_hint_suits_its_reader(server):
    """Who asks over HTTP is told nothing that is to be typed at a terminal; two statements are told as two."""
    found = problem(server.send("POST", "/sql", {"sql": "select 1; select 2"}), 400, "invalid", where="sql")
    assert (found["detail"], found["hint"]) == (
        "one SELECT is allowed, not 2 statements", "ask them one by one, or join them with UNION ALL",
    )  # fmt: skip
    for sql in ("select * from nothing", "selec 1", "select nothing from runs"):
        found = problem(server.send("POST", "/sql", {"sql": sql}), 400, "invalid", where="sql")
        assert found["hint"] == "SHOW TABLES names the views, DESCRIBE wide the columns of one"
    assert "ailab" not in problem(server.send("POST", "/changes/nothing:1/undo", {}), 404, "not-found")["hint"]


def test_a_deep_body_is_refused_whatever_its_shape():
    """A Struct that takes any value is no way to the recursion limit."""
    import msgspec

    from ailab.errors import FilterError
    from ailab_api.contract import decode_body

    shape = msgspec.defstruct("Anything", [("a", object)])
    for body in (b'{"a":' + b"[" * 100_000, b'{"a":' * 100_000, b'{"b":' + b'{"c":' * 100_000):
        with pytest.raises(FilterError) as caught:
            decode_body(body, shape)
        assert caught.value.where == "body"


@pytest.mark.parametrize(("method", "path"), BODIES)
def test_a_body_that_is_too_large_is_413(server, method, path):
    """More than 8 MiB is refused, told by its length or not."""
    limit = 8 * 1024 * 1024
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()
    told = server.raw(head + f"Content-Length: {limit + 1}\r\n\r\n".encode())
    problem(told, 413, "request-entity-too-large", detail="the body is too large")
    piece = b"%x\r\n" % (1 << 20) + b" " * (1 << 20) + b"\r\n"
    with server.connect() as connection:
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n" + piece * 8)
        connection.sendall(piece)
        problem(read_answer(connection), 413, "request-entity-too-large")


@pytest.mark.parametrize(("method", "path"), BODIES)
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
             "application/json; charset=latin-1", "application/jsonp", "application/json, text/plain", "text/json", "",
             None, "application/json;"],
)  # fmt: skip
def test_another_content_type_is_415(server, method, path, kind):
    """Only application/json is read; a page cannot send that across origins without asking first."""
    answer = server.ask(method, path, {"Content-Type": kind}, b'{"note": "x"}')
    problem(answer, 415, "unsupported-media-type", where="Content-Type", hint="send Content-Type: application/json")


@pytest.mark.parametrize(
    "kind", ["application/json", "APPLICATION/JSON", "application/json; charset=utf-8", 'application/json;charset="UTF-8"']
)
def test_json_is_json_in_any_case(server, kind):
    """The type in any case, with or without its charset."""
    assert server.ask("POST", "/compare", {"Content-Type": kind}, b'{"run_ids": ["run-a"]}').status == 200


@pytest.mark.parametrize(
    ("body", "detail", "hint"),
    [
        (b"", "the body is empty", "fields: events"),
        (b' {"events": [{"kind": "metrics.logged", "data": {"values": {"loss": NaN}}}]}', "the body is no JSON", '"NaN"'),
        (
            b'{"events": [{"kind": "metrics.logged", "data": {"values": {"loss": -Infinity}}}]}',
            "the body is no JSON",
            '"-Infinity"',
        ),
        (b'{"events": [{"kind": "metrics.logged", "data": {"values": {"loss": 1e400}}}]}', "number out of range", '"Infinity"'),
        (b'{"events": [}', "the body is no JSON", None),
    ],
)
def test_a_body_that_is_no_json_is_told_what_helps(server, body, detail, hint):
    """Python's own encoder writes numbers that JSON does not have."""
    found = problem(server.ask("POST", "/runs/run-w/events", {"Content-Type": "application/json"}, body), 400, "invalid")
    assert detail in found["detail"]
    assert found["hint"] is None if hint is None else hint in found["hint"]


def test_words_are_counted_as_they_are_sent(server):
    """A list of tags may be so long, also where all of them are one."""
    found = problem(server.send("POST", "/runs/run-w/tags", {"set": ["same"] * 1001}), 400, "rejected", where="tags")
    assert found["detail"] == "1001 tags in one call"


def test_a_run_in_other_letters_is_the_nearest(server):
    """Upper and lower case do not count for what is near."""
    assert problem(server.get("/runs/RUN-BIG"), 404, "not-found")["nearest"][0] == "run-big"


def test_rejected_values_say_which(server):
    """A value that cannot be kept is 400 with its key."""
    found = problem(server.send("PATCH", "/runs/run-w/note", {"note": "x" * 1_000_001}), 400, "rejected", where="note")
    assert found["detail"] == "a note of 1000001 characters is too long"
    for key in ("project", "project_id"):
        problem(server.send("POST", "/runs", {key: " "}), 400, "rejected", where=key, detail=f"{key} ' ' is not allowed")


# -- the store ---------------------------------------------------------------------------------------------------------


def store_of_one_run(path):
    source = "import sys, ailab\nwith ailab.start_run(id='run-1', dir=sys.argv[1]) as run: run.log_text('x', 'x.txt')"
    subprocess.run([sys.executable, "-c", source, str(path)], env=environment(), check=True, timeout=60)


def test_a_store_that_cannot_be_written_is_503(start, tmp_path):
    """A note that cannot be kept is refused with the reason and without the store's place; reading goes on."""
    path = tmp_path / "lab"
    store_of_one_run(path)
    source = """
import os, resource, signal, sys, threading
from ailab_api.app import serve
threading.Thread(target=lambda: (os.read(0, 1), os.kill(os.getpid(), signal.SIGTERM)), daemon=True).start()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
serve(port=0, dir=sys.argv[1], announce=lambda url: os.write(1, url.encode() + b"\\n"))
"""
    live = start(dir=path, source=source)
    answer = live.send("PATCH", "/runs/run-1/note", {"note": "x"})
    found = problem(answer, 503, "store", title="the store cannot be used now")
    assert str(tmp_path) not in answer.text
    assert "File too large" in found["detail"] or "EFBIG" in found["detail"], found
    assert live.get("/runs/run-1").json()["note"] is None


def test_what_a_full_disk_refuses_leaves_nothing(start, tmp_path):
    """Of a batch no event stays, whatever was written of it, and it counts once when it is sent again; no file stays either."""
    path = tmp_path / "lab"
    store_of_one_run(path)
    live = start(dir=path)
    points = [{"kind": "metrics.logged", "data": {"values": {"full": i}, "step": i}} for i in range(3000)]
    files = sorted(file.name for file in (path / "blobs").rglob("*"))
    resource.prlimit(live.process.pid, resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
    found = problem(live.send("POST", "/runs/run-1/events", {"events": points}), 503, "store")
    assert "EFBIG" in found["detail"]
    octets = {"Content-Type": "application/octet-stream"}
    for answer in (
        live.ask("POST", "/artifacts/run-1?path=big", octets, b"x" * 100_000),
        live.ask("PUT", f"/blobs/{'a' * 64}", octets, b"x" * 100_000),
        live.ask("POST", "/datasets?file=big.csv", {"Content-Type": "text/csv"}, b"a\n" * 100_000),
    ):
        assert "EFBIG" in problem(answer, 503, "store")["detail"]
    assert sorted(file.name for file in (path / "blobs").rglob("*")) == files
    resource.prlimit(live.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert live.get("/runs/run-1").json()["final_metrics"] == {}
    assert live.send("POST", "/runs/run-1/events", {"events": points}).json()["added"] == 3000
    assert live.get("/runs/run-1/metrics?key=full&max_points=3").header("x-total-count") == "3000"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_in_place_of_a_file_holds_nobody_up(start, tmp_path):
    """A blob or segment that is none is a 503 that says so."""
    path = tmp_path / "lab"
    store_of_one_run(path)
    live = start(dir=path)
    (file,) = live.get("/artifacts/run-1").json()
    blob = path / "blobs" / file["sha256"][:2] / file["sha256"]
    blob.unlink()
    os.mkfifo(blob)
    found = problem(live.get("/artifacts/run-1/download/x.txt"), 503, "store")
    assert "not a plain file" in found["detail"]
    name = "20261124T090000000001Z_elsewhere_77_00000001"
    os.mkfifo(path / "segments" / f"{name}.jsonl")
    problem(live.get(f"/journal/{name}"), 503, "store")
    assert live.get("/health").status == 200


def test_a_store_that_cannot_be_read_is_503(start, tmp_path):
    """A folder of segments that is none any more is no 500, and the server is well again with it."""
    path = tmp_path / "lab"
    store_of_one_run(path)
    live = start(dir=path)
    (path / "segments").rename(path / "elsewhere")
    (path / "segments").touch()
    time.sleep(0.25)  # longer than an answer may be old
    answer = live.get("/runs")
    problem(answer, 503, "store", detail="the store cannot be read (ENOTDIR): lab")
    problem(live.send("PATCH", "/runs/run-1/note", {"note": "x"}), 503, "store")
    (path / "segments").unlink()
    (path / "elsewhere").rename(path / "segments")
    assert [run["run_id"] for run in live.get("/runs").json()] == ["run-1"]


def test_bytes_that_are_gone_are_404(start, tmp_path):
    """A file whose bytes are not in this store, as after a partial copy, is not there; its name still is."""
    path = tmp_path / "lab"
    store_of_one_run(path)
    live = start(dir=path)
    (file,) = live.get("/artifacts/run-1").json()
    (path / "blobs" / file["sha256"][:2] / file["sha256"]).unlink()
    answer = live.get(file["url"])
    problem(answer, 404, "not-found", hint="its bytes are not in this store (a copy may have left them out)")
    assert str(tmp_path) not in answer.text


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("/runs/leaderboard?metric_name=acuracy", "metric_name"), ("/runs?metric_name=acuracy", "metric_name"),
        ("/runs?sort=-metrics.acuracy", "sort"), ("/runs/run-a/metrics?key=acuracy", "key"),
        ("/runs?where=metrics.acuracy%20%3E%200", "where"),
    ],
)  # fmt: skip
def test_a_misspelt_metric_is_400_with_the_nearest(server, path, where):
    """It is told from a metric that nothing was found of."""
    found = problem(server.get(path), 400, "invalid", detail="no metric 'acuracy'", where=where)
    assert found["nearest"][0] == "accuracy"
    assert server.get(path.replace("acuracy", "accuracy")).status == 200
    assert server.get("/runs?metric_name=accuracy&dataset_id=nothing").json() == []


def test_a_file_of_a_protected_run_is_409_on_both_paths(start, store, tmp_path):
    """And the document says so of both."""
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    live = start(dir=copy)
    file = live.get("/artifacts/run-a").json()[0]["path"]
    assert live.send("PATCH", "/runs/run-a", {"protected": True}).status == 200
    paths = live.get("/schema/openapi.json").json()["paths"]
    for prefix in ("", "/api/modellab"):
        assert live.ask("DELETE", f"{prefix}/artifacts/run-a/download/{file}").status == 409
        assert "409" in paths[f"{prefix}/artifacts/{{run_id}}/download/{{path}}"]["delete"]["responses"]
    assert live.send("PATCH", "/runs/run-a", {"protected": False}).status == 200
    assert live.ask("DELETE", f"/artifacts/run-a/download/{file}").status == 204


@pytest.mark.parametrize("prefix", ["", "/api/modellab"])
def test_a_range_behind_the_end_is_refused_in_the_form_of_the_path(server, prefix):
    """With the size of the file; our problem, or the client's three fields."""
    file = next(file for file in server.get("/artifacts/run-a").json() if not file["reference"] and file["size"])
    path = f"{prefix}/artifacts/run-a/download/{file['path']}"
    answer = server.ask("GET", path, {"Range": f"bytes={file['size']}-"})
    detail = f"the file has {file['size']} bytes"
    assert (answer.status, answer.header("content-range")) == (416, f"bytes */{file['size']}")
    if prefix:
        assert (answer.header("content-type"), answer.json()["message"]) == ("application/json", detail)
        assert answer.json()["details"][0]["path"] == ["Range"]
    else:
        problem(answer, 416, "requested-range-not-satisfiable", detail=detail, where="Range", hint="bytes=0-")
    assert server.ask("GET", path, {"Range": f"bytes={file['size'] - 1}-"}).status == 206


@pytest.mark.parametrize("path", ["models/deep/", "models//deep", "./deep", "deep/.", "/deep", "a/../deep", "c:deep", "%0Adeep"])
def test_a_place_that_is_another_name_of_one_is_refused(server, path):
    """A file has one place in its run; a folder's name is none."""
    octets = {"Content-Type": "application/octet-stream"}
    problem(server.ask("POST", f"/artifacts/run-a?path={path}", octets, b"x"), 400, "rejected", where="path")


@pytest.mark.parametrize(
    ("query", "where", "hint"),
    [
        ("file=a%00b.csv", "file", "allowed: 1 to 250 characters, none of them NUL"),
        ("file=%20.csv", "file", "allowed: 1 to 250 characters, none of them NUL"),
        ("file=a@v2.csv", "file", "@ separates a name from its version"),
        ("file=a.csv&name=b%00", "name", "allowed: 1 to 250 characters, none of them NUL"),
        ("file=a.csv&name=b@v2", "name", "@ separates a name from its version"),
    ],
)
def test_a_name_that_no_dataset_can_have_is_told_where_it_stands(server, query, where, hint):
    """A name of the file's is the file's fault; nobody who gave no name is told of one."""
    answer = server.ask("POST", f"/datasets?{query}", {"Content-Type": "text/csv"}, b"a\n1\n")
    problem(answer, 400, "rejected", where=where, hint=hint)


def test_a_bare_name_in_a_condition_is_told_what_it_may_be(server):
    """A metric, parameter or tag has its table in front."""
    hint = "metrics.accuracy, params.accuracy or tags.accuracy, or a column such as status"
    problem(server.get("/runs?where=accuracy%20%3E%200.9"), 400, "invalid", where="where", hint=hint)
    hint = "metrics.`a b`, params.`a b` or tags.`a b`, or a column such as status"
    problem(server.get("/runs?where=%22a%20b%22%20%3E%200.9"), 400, "invalid", where="where", hint=hint)


# -- what nobody foresaw -----------------------------------------------------------------------------------------------


def test_a_bug_is_500_that_says_nothing(start, tmp_path):
    """An exception that no class of ours names: one sentence for the client, the trace for the log alone."""
    source = """
import os, signal, sys, threading
from ailab import naming
from ailab_api.app import serve
def broken(*given):
    raise ZeroDivisionError(f"secret of {__file__ if '__file__' in globals() else '/etc/passwd'}")
naming.known_metrics = broken
threading.Thread(target=lambda: (os.read(0, 1), os.kill(os.getpid(), signal.SIGTERM)), daemon=True).start()
serve(port=0, dir=sys.argv[1], announce=lambda url: print(url, flush=True))
"""
    live = start(dir=tmp_path / "lab", source=source)
    answer = live.get("/")
    problem(
        answer, 500, "internal-server-error", detail="the server failed at this request", hint="its log says why", instance="/"
    )
    assert not re.search(r"secret|passwd|ZeroDivision", answer.text)
    assert live.get("/health").status == 200
    _, err = live.end()
    assert "ZeroDivisionError: secret of /etc/passwd" in err


def test_every_class_of_error_has_one_answer():
    """Each class of ailab's tree maps to one status and type; paths of the machine stay inside."""
    from ailab import errors as ours
    from ailab_api.errors import problem_of

    raised = {
        ours.NotFoundError("run", "a", nearest=["b"]): (404, "not-found", "no run 'a'"),
        ours.FilterError("no filter 'a'", where="a"): (400, "invalid", "no filter 'a'"),
        ours.RejectedError("a note is too long", key="note"): (400, "rejected", "a note is too long"),
        ours.SettingError("no setting 'a'"): (400, "setting", "no setting 'a'"),
        ours.RefusedError("not here"): (403, "refused", "not here"),
        ours.ConflictError("run 'a' is there", nearest=["a"]): (409, "conflict", "run 'a' is there"),
        ours.StoreError("no store here", path="/home/ada/lab/events"): (503, "store", "no store here: events"),
        ours.StoreError("events cannot be written to /home/ada/lab/events/segments", path="/home/ada/lab/events"): (
            503, "store", "events cannot be written to events/segments: events",
        ),
        ours.ForeignFolderError("a file stands where the store should be", path="/home/ada/x"): (
            503, "store", "a file stands where the store should be: x",
        ),
        ours.DamageError("gap", path="/home/ada/s.jsonl", line=3, offset=9, detail="see /home/ada/t.jsonl"): (
            500, "damage", "gap in s.jsonl, line 3, byte 9: see t.jsonl",
        ),
        ours.MissingExtraError("plots", extra="eval"): (501, "missing-extra", "plots needs an optional dependency"),
        ours.AilabError("/home/ada is odd"): (500, "internal-server-error", "the server failed at this request"),
        OSError(13, "denied", "/home/ada"): (500, "internal-server-error", "the server failed at this request"),
    }  # fmt: skip
    for error, expected in raised.items():
        found = problem_of(error, instance="/x")
        assert (found.status, found.type.removeprefix("urn:ailab:problem:"), found.detail) == expected
        assert "/home" not in found.detail
    classes = {found for found in vars(ours).values() if isinstance(found, type) and issubclass(found, ours.AilabError)}
    assert classes == {type(error) for error in raised if isinstance(error, ours.AilabError)}
