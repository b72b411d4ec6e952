"""Every route gives the answer of its query: the same Struct, whole, as a program gets it in Python."""

from __future__ import annotations

import base64
import datetime
import hashlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import parse_qsl, quote, urlencode

import msgspec
import pytest
from live import BIG, NASTY, environment, read_answer

from ailab import queries
from ailab.errors import RefusedError, SettingError
from ailab.filters import cursor_of
from ailab.queries import RunFilter

ALL_RUNS = ["run-w", "run-big", "run-x", "run-c", "run-b", "run-a"]


def plain(found):
    """A Struct as its JSON is."""
    return msgspec.json.decode(msgspec.json.encode(found))


def ids(answer):
    return [row["run_id"] for row in answer.json()]


# -- questions ---------------------------------------------------------------------------------------------------------


def test_health_tells_the_installation(server, start):
    """/health answers ok with the project's name: PROJECT_NAME where that is set."""
    assert server.get("/health").json() == {"status": "ok", "project": "ailab"}
    assert start(PROJECT_NAME="vision lab").get("/health").json() == {"status": "ok", "project": "vision lab"}


def test_runs_is_a_bare_array_with_its_count(server, lab):
    """GET /runs gives summaries newest first; X-Total-Count counts what the limit cut off."""
    everything = queries.list_runs(lab)
    answer = server.get("/runs")
    assert (answer.status, answer.json(), answer.header("x-total-count")) == (200, plain(everything.rows), "6")
    assert ids(answer) == ALL_RUNS
    first = server.get("/runs?limit=1")
    assert (first.json(), first.header("x-total-count")) == (plain(everything.rows[:1]), "6")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("dataset_id=iris%40v1", ["run-a"]),
        ("project_id=iris", ["run-b", "run-a"]),
        ("status=failed", ["run-c"]),
        ("command_substring=train.py", []),
        ("command_substring=MAKE_store.py%20", ALL_RUNS),
        ("note_substring=publish", ["run-a"]),
        ("from_timestamp=2020-01-01", ALL_RUNS),
        ("from_timestamp=2120-01-01T00:00:00Z", []),
        ("to_timestamp=2020-01-01", []),
        ("has_artifacts=true", ["run-big", "run-x", "run-a"]),
        ("has_artifacts=false", ["run-w", "run-c", "run-b"]),
        ("metric_name=accuracy", ["run-c", "run-b", "run-a"]),
        ("metric_name=accuracy&metric_min=0.8", ["run-b", "run-a"]),
        ("metric_name=accuracy&metric_max=0.8", ["run-c", "run-b"]),
        ("tag=baseline", ["run-a"]),
        ("tag=phase=late", ["run-c"]),
        ("tag=phase=early", []),
        ("params.model_name=svm", ["run-a"]),
        ("params.optimizer/name=sgd", ["run-a"]),
        ("params.model_name=svm&params.lr=0.5", []),
        ("q=TREE", ["run-b"]),
        ("sort=metrics.accuracy&metric_name=accuracy", ["run-c", "run-b", "run-a"]),
        ("sort=-metrics.accuracy&limit=2", ["run-a", "run-b"]),
        ("sort=name&limit=2", None),
        ("q=", ALL_RUNS),
        ("", ALL_RUNS),
    ],
)
def test_filters_of_runs(server, lab, query, expected):
    """Each filter keeps the runs that it says, the same over HTTP as in Python."""
    answer = server.get(f"/runs?{query}")
    assert answer.status == 200, answer
    if expected is not None:
        assert ids(answer) == expected
    pairs = parse_qsl(query, keep_blank_values=True)
    assert answer.json() == plain(queries.list_runs(lab, RunFilter.parse(pairs)).rows)


def test_today_is_a_whole_day(server):
    """A bare date in to_timestamp includes its whole day."""
    today = datetime.datetime.now(datetime.timezone.utc).date()
    yesterday = today - datetime.timedelta(days=1)
    assert ids(server.get(f"/runs?from_timestamp={yesterday}&to_timestamp={today}")) == ALL_RUNS


def test_every_filter_of_the_query_is_a_parameter_of_the_route(routes):
    """What RunFilter knows and what the OpenAPI document of GET /runs lists is the same."""
    (operation,) = [operation for verb, _, template, operation in routes if (verb, template) == ("GET", "/runs")]
    documented = [parameter["name"] for parameter in operation["parameters"]]
    assert sorted(documented) == sorted(
        ["as_of", *["params.KEY" if name == "params" else name for name in RunFilter.__struct_fields__]]
    )


def test_one_run(server, lab):
    """GET /runs/{id} gives everything about a run, with the fourteen fields of its manifest first."""
    answer = server.get("/runs/run-a").json()
    assert answer == plain(queries.get_run(lab, "run-a"))
    assert list(answer)[:14] == [
        "run_id", "timestamp", "git_hash", "git_diff", "command", "python_version", "pip_freeze", "device_info", "dataset_id",
        "params", "final_metrics", "artifacts", "wandb_url", "note",
    ]  # fmt: skip
    assert answer["params"] == {"lr": 0.1, "model_name": "svm", "optimizer/name": "sgd"}


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("metric_name=accuracy", {}),
        ("metric_name=loss", {}),
        ("metric_name=loss&order=desc", {"order": "desc"}),
        ("metric_name=accuracy&top_k=1", {"top_k": 1}),
        ("metric_name=accuracy&dataset_id=wine%40v1", {"dataset_id": "wine@v1"}),
        ("metric_name=accuracy&project_id=iris", {"project_id": "iris"}),
        ("metric_name=accuracy&has_artifacts=true", {"has_artifacts": True}),
        ("metric_name=accuracy&of=min", {"of": "min"}),
    ],
)
def test_leaderboard(server, lab, query, options):
    """GET /runs/leaderboard ranks by a metric, the best first whichever way its goal lies."""
    metric = query.split("&")[0].removeprefix("metric_name=")
    assert server.get(f"/runs/leaderboard?{query}").json() == plain(queries.leaderboard(lab, metric, **options))


def test_leaderboard_order(server):
    """Accuracy is best when high, loss when low."""
    assert ids(server.get("/runs/leaderboard?metric_name=accuracy")) == ["run-a", "run-b", "run-c"]
    assert ids(server.get("/runs/leaderboard?metric_name=loss")) == ["run-a", "run-b", "run-x"]


def test_compare(server, lab):
    """GET /runs/compare and POST /compare give the same comparison, in the order asked; the POST creates nothing: 200."""
    expected = plain(queries.compare_runs(lab, ["run-b", "run-a"]))
    assert server.get("/runs/compare?ids=run-b&ids=run-a").json() == expected
    assert server.get("/runs/compare?ids=run-b,run-a").json() == server.get("/runs/compare?ids=run-b%2Crun-a").json() == expected
    posted = server.send("POST", "/compare", {"run_ids": ["run-b", "run-a"]})
    assert (posted.status, posted.json()) == (200, expected)
    assert [run["run_id"] for run in expected["runs"]] == ["run-b", "run-a"]
    assert expected["metric_keys"] == ["accuracy", "loss"]


@pytest.mark.parametrize("route", ["metrics", "history"])
def test_points(server, lab, route):
    """Both routes give logged points by metric and step; NaN and infinities are strings; the count is before thinning."""
    everything = server.get(f"/runs/run-a/{route}")
    assert everything.json() == plain(queries.metric_points(lab, "run-a").rows)
    assert everything.header("x-total-count") == "40"
    loss = server.get(f"/runs/run-b/{route}?key=loss").json()
    assert [(p["key"], p["step"], p["value"]) for p in loss] == [("loss", 0, "NaN"), ("loss", 1, "Infinity"), ("loss", 2, 0.25)]
    both = server.get(f"/runs/run-b/{route}?key=loss&key=accuracy").json()
    assert [p["key"] for p in both] == ["accuracy", "accuracy", "loss", "loss", "loss"]
    thin = server.get(f"/runs/run-a/{route}?key=loss&max_points=4")
    assert thin.header("x-total-count") == "20"
    assert {1.0, 1 / 20} <= {p["value"] for p in thin.json()}
    assert len(thin.json()) <= 4
    after = server.get(f"/runs/run-a/{route}?key=loss&since={thin.header('x-cursor')}")
    assert (after.json(), after.header("x-total-count"), after.header("x-cursor")) == ([], "0", thin.header("x-cursor"))


def test_changes(server, lab):
    """Both versions of a note that was changed are there, newest first, of one run and of all."""
    mine = server.get("/runs/run-a/changes")
    assert mine.json() == plain(queries.list_changes(lab, run_id="run-a").rows)
    assert [(c["field"], c["old"], c["new"]) for c in mine.json()] == [
        ("note", "first try", "PUBLISH: good"), ("note", None, "first try"),
    ]  # fmt: skip
    assert mine.header("x-total-count") == "2"
    everything = server.get("/changes?limit=1000")
    assert everything.json() == plain(queries.list_changes(lab, limit=1000).rows)
    one = server.get("/changes?limit=1")
    assert (one.json(), one.header("x-total-count")) == (everything.json()[:1], everything.header("x-total-count"))


def test_head_is_get_without_a_body(server, routes):
    """HEAD answers every GET route with the same status and headers, and no body."""
    for verb, path, _, operation in routes:
        if verb == "GET":
            asked = "?metric_name=loss" if "leaderboard" in path else "?ids=run-a" if path.endswith("compare") else ""
            got, head = server.get(path + asked), server.ask("HEAD", path + asked)
            kept = [[h for h in answer.headers if h[0] not in {"date", "content-length"}] for answer in (got, head)]
            assert (head.status, head.body, kept[1]) == (got.status, b"", kept[0]), operation["operationId"]
    assert server.ask("HEAD", "/nothing").status == 404
    assert server.ask("HEAD", "/compare").status == 405


def test_options_and_405_list_the_methods(server):
    """OPTIONS and a method that is not there name those that are, HEAD among them."""
    assert server.ask("OPTIONS", "/runs/run-a/note").header("allow") == "OPTIONS, PATCH"
    assert server.ask("OPTIONS", "/changes").header("allow") == "GET, HEAD, OPTIONS"
    assert server.ask("OPTIONS", "/runs/run-a").header("allow") == "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"
    refused = server.ask("DELETE", "/changes")
    assert (refused.status, refused.header("allow")) == (405, "GET, HEAD, OPTIONS")


# -- files -------------------------------------------------------------------------------------------------------------


def test_files_of_a_run(server, lab):
    """GET /artifacts/{id} lists the files, each with the address of its bytes."""
    answer = server.get("/artifacts/run-a")
    assert answer.json() == plain(queries.list_artifacts(lab, "run-a"))
    assert answer.header("x-total-count") == "6"
    assert len(server.get("/artifacts/run-a?limit=2").json()) == 2


def test_every_file_downloads_from_its_address(server):
    """The bytes behind each `url` have the size and SHA-256 that the list says, whatever characters the name has."""
    files = server.get("/artifacts/run-a").json() + server.get("/artifacts/run-x").json()
    assert len(files) == 7
    for file in files:
        answer = server.get(file["url"])
        assert answer.status == 200, file
        assert (len(answer.body), hashlib.sha256(answer.body).hexdigest()) == (file["size"], file["sha256"])
        assert answer.header("content-length") == str(file["size"])
        assert answer.header("etag") == f'"{file["sha256"]}"'
        assert answer.header("content-disposition").startswith("attachment; filename=")
        assert answer.header("content-disposition").endswith(f"filename*=UTF-8''{quote(file['name'], safe='')}")
        assert answer.header("x-content-type-options") == "nosniff"
        assert answer.header("content-security-policy") == "default-src 'none'; sandbox"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("metrics.csv", "text/csv; charset=utf-8"),
        ("checkpoints/model.joblib", "application/octet-stream"),
        ("page.html", "application/octet-stream"),
        ("plots/plot.png", "image/png"),
    ],
)
def test_no_file_is_rendered_as_a_page(server, path, kind):
    """Only types without script are named; HTML leaves as plain bytes."""
    assert server.get(f"/artifacts/run-a/download/{path}").header("content-type") == kind


def test_a_field_that_no_form_has_is_refused_with_a_blob_too(playground):
    """A form around a file that only its digest names has no other field."""
    parts = b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\ntest\r\n'
    body = parts % (b"kind", b"") + parts % (b"file", b'; filename="f"') + b"--x--\r\n"
    digest = hashlib.sha256(b"test").hexdigest()
    found = playground.ask("PUT", f"/blobs/{digest}", {"Content-Type": "multipart/form-data; boundary=x"}, body)
    assert (found.status, found.json()["where"]) == (400, "body.kind")


def test_a_big_download_leaves_no_trace_in_memory(server):
    """A file is streamed: the server's memory grows by far less than the file, and other requests are answered meanwhile."""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    server.get("/runs")
    before = resident(server.process.pid)
    with server.connect() as slow:
        slow.sendall(b"GET /artifacts/run-big/download/big.bin HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert slow.recv(64)
        assert server.get("/health").status == 200
        assert resident(server.process.pid) - before < BIG // 4
    answer = server.get("/artifacts/run-big/download/big.bin")
    expected = hashlib.sha256()
    for piece in range(BIG // 1_000_000):
        expected.update(bytes([piece]) * 1_000_000)
    assert (len(answer.body), hashlib.sha256(answer.body).digest()) == (BIG, expected.digest())
    assert resident(server.process.pid) - before < BIG // 4


def resident(pid):
    """Bytes of memory that a process holds."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


# -- files that are added, listed page by page, and referred to --------------------------------------------------------


@pytest.fixture
def fresh(playground):
    """The id of a new run of the playground."""
    answer = playground.send("POST", "/runs", {"name": "files", "project": "files"})
    assert answer.status == 201
    return answer.json()["run_id"]


def put_file(live, run_id, path, content, **fields):
    """Add a file as the body of a request; the answer."""
    query = urlencode({"path": path, **fields})
    return live.ask("POST", f"/artifacts/{run_id}?{query}", {"Content-Type": "application/octet-stream"}, content)


def test_the_same_path_again_is_the_next_version(playground, fresh):
    """Each version keeps its bytes, the newest is given; `type` is another word for kind; equal bytes are kept once."""
    for number, content in enumerate([b"one", b"two", b"one"], start=1):
        answer = put_file(playground, fresh, "models/m.bin", content, type="model")
        found = answer.json()
        assert (answer.status, found["version"], found["kind"], found["reference"], found["location"]) == (
            201, number, "model", False, None,
        )  # fmt: skip
    url = f"/artifacts/{fresh}/download/models/m.bin"
    assert playground.get(url).body == b"one"
    assert [playground.get(f"{url}?version={number}").body for number in (1, 2, 3)] == [b"one", b"two", b"one"]
    absent = playground.get(f"{url}?version=7")
    assert (absent.status, absent.json()["detail"]) == (404, "no version 7 of 'models/m.bin'")
    assert (absent.json()["hint"], absent.json()["nearest"]) == ("the newest version of 'models/m.bin' is v3", ["models/m.bin"])
    answer = playground.get(f"/artifacts/{fresh}")
    assert [file["version"] for file in answer.json()] == [3, 2, 1]
    assert [playground.get(file["url"]).body for file in answer.json()] == [b"one", b"two", b"one"]
    assert playground.ask("DELETE", url).status == 204
    assert playground.get(url).json()["hint"] == "the newest version of 'models/m.bin' is v3, in the trash"
    assert (answer.header("x-bytes-logged"), answer.header("x-bytes-kept")) == ("9", "6")


def test_a_list_of_files_goes_on_page_by_page(playground, fresh):
    """All versions, each once, also while new ones come; what is counted does not depend on the page."""
    for number in range(7):
        put_file(playground, fresh, f"a/{number}.txt", b"x" * (number % 2 + 1))
    put_file(playground, fresh, "b.txt", b"x")
    whole = [file["path"] for file in playground.get(f"/artifacts/{fresh}").json()]
    assert whole == ["b.txt", *(f"a/{number}.txt" for number in range(6, -1, -1))]
    seen, url = [], f"/artifacts/{fresh}?below=a&limit=3"
    while url:
        answer = playground.get(url)
        seen += [file["path"] for file in answer.json()]
        assert (answer.header("x-total-count"), answer.header("x-bytes-kept")) >= ("7", "3")
        link = answer.all("link")
        assert all(one.endswith('; rel="next"') for one in link)
        url = link[0][1 : link[0].index(">")] if link else None
        if len(seen) == 3:
            put_file(playground, fresh, "a/new.txt", b"x")  # newer than what was seen
    assert seen == whole[1:]
    for cursor in ("0", "x", "-1"):
        assert playground.get(f"/artifacts/{fresh}?cursor={cursor}").status == 400


def test_a_reference_is_listed_and_never_opened(playground, fresh, tmp_path):
    """A client may say where a file lies; the server says so too, gives no byte of it, nor of a blob with that hash."""
    secret = tmp_path / "secret.txt"
    secret.write_bytes(b"secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    put_file(playground, fresh, "kept.txt", b"secret")
    said = {"path": "raw/secret.txt", "size": 6, "sha256": digest, "location": f"file://{os.uname().nodename}{secret}"}
    answer = playground.send("POST", f"/artifacts/{fresh}", said)
    assert (answer.status, answer.json()["reference"], answer.json()["location"]) == (201, True, said["location"])
    listed = {file["path"]: file for file in playground.get(f"/artifacts/{fresh}").json()}
    assert (listed["raw/secret.txt"]["reference"], listed["kept.txt"]["reference"]) == (True, False)
    for method, headers in (("GET", {}), ("GET", {"Range": "bytes=0-2"}), ("GET", {"If-None-Match": f'"{digest}"'})):
        refused = playground.ask(method, listed["raw/secret.txt"]["url"], headers)
        assert refused.status == 404
        assert refused.json()["detail"] == "no copy of artifact 'raw/secret.txt'"
        assert refused.json()["hint"] == f"it is a reference: its bytes lay at {said['location']} when it was logged"
        assert b"secret\n" not in refused.body
    assert playground.ask("HEAD", listed["raw/secret.txt"]["url"]).status == 404
    assert playground.get(listed["kept.txt"]["url"]).body == b"secret"
    answer = playground.get(f"/artifacts/{fresh}")
    assert (answer.header("x-bytes-logged"), answer.header("x-bytes-kept")) == ("6", "6")


@pytest.mark.parametrize("location", ["", " ", "x" * 5000, 7, "a\x00b"])
def test_a_location_that_is_none_is_refused(playground, fresh, location):
    said = {"path": "far.bin", "size": 1, "sha256": "0" * 64, "location": location}
    assert playground.send("POST", f"/artifacts/{fresh}", said).status == 400
    assert playground.get(f"/artifacts/{fresh}").json() == []


@pytest.mark.parametrize(
    "said", [{"size": -1}, {"size": 1 << 63}, {"size": 10**30}, {"kind": ""}, {"sha256": "F" * 64}, {"path": "x" * 1001}]
)
def test_a_reference_that_no_view_could_hold_is_refused(playground, fresh, said):
    """In either spelling of the routes; the largest size is kept."""
    whole = {"path": "far.bin", "size": (1 << 63) - 1, "sha256": "0" * 64}
    assert playground.send("POST", f"/artifacts/{fresh}", whole | said).status == 400
    theirs = {"run_id": fresh, "name": "far.bin", "size": (1 << 63) - 1, "checksum": "0" * 64}
    changed = {{"sha256": "checksum", "path": "name", "kind": "type"}.get(name, name): value for name, value in said.items()}
    assert playground.send("POST", "/api/modellab/artifacts", theirs | changed).status == 400
    assert playground.get(f"/artifacts/{fresh}").json() == []
    assert playground.send("POST", f"/artifacts/{fresh}", whole).json()["size"] == (1 << 63) - 1
    assert playground.send("POST", "/api/modellab/artifacts", theirs).status == 201


def test_the_page_of_a_run_tells_references(playground, fresh):
    """No link and no picture of what is not there; what was saved by keeping equal bytes once."""
    put_file(playground, fresh, "a.png", b"picture")
    put_file(playground, fresh, "b.png", b"picture")
    said = {"path": "far.png", "size": 7, "sha256": "0" * 64, "location": "s3://bucket/<far>.png"}
    assert playground.send("POST", f"/artifacts/{fresh}", said).status == 201
    page = playground.get(f"/runs/{fresh}?format=html").text
    assert f"/artifacts/{fresh}/download/a.png" in page
    assert f"/artifacts/{fresh}/download/far.png" not in page
    assert "s3://bucket/&lt;far&gt;.png" in page
    assert "14 B in 3 versions, 7 B kept: 2.0 × deduplicated" in page


# -- writing -----------------------------------------------------------------------------------------------------------


def test_a_note_is_there_at_once_and_the_one_before_stays(server):
    """PATCH …/note answers with the run as it is then; the next question sees it, and both versions are among the changes."""
    before = len(server.get("/runs/run-w/changes").json())
    for text in ("\x00 \x1b \uffff", "one", "two", "ünïcode ☃ \U0001f9ea\nsecond line"):
        answer = server.send("PATCH", "/runs/run-w/note", {"note": text})
        assert (answer.status, answer.json()["note"]) == (200, text)
        assert server.get("/runs/run-w").json() == answer.json()
        assert server.get("/runs?q=run-w").json()[0]["note"] == text
    changes = server.get("/runs/run-w/changes").json()
    assert [(c["old"], c["new"], c["via"]) for c in changes[:2]] == [("two", text, "http"), ("one", "two", "http")]
    assert len(changes) == before + 4


def test_a_note_of_a_million_characters_fits(server):
    """The body limit leaves room for the longest note there may be; one character more is refused with its reason."""
    assert server.send("PATCH", "/runs/run-w/note", {"note": "é" * 1_000_000}).status == 200
    refused = server.send("PATCH", "/runs/run-w/note", {"note": "x" * 1_000_001})
    assert (refused.status, refused.json()["where"]) == (400, "note")
    assert server.send("PATCH", "/runs/run-w/note", {"note": ""}).status == 200


@pytest.mark.parametrize("extra", ["status", "final_metrics", "run_id", "trashed", "Note"])
def test_no_other_field_can_be_set(server, extra):
    """A body with any field besides `note` changes nothing: 400 names the field."""
    before = server.get("/runs/run-a").json()
    answer = server.send("PATCH", "/runs/run-a/note", {"note": "hijacked", extra: "completed"})
    assert (answer.status, extra in answer.json()["detail"]) == (400, True)
    assert server.get("/runs/run-a").json() == before


# -- freshness, start and end ------------------------------------------------------------------------------------------


def test_a_missing_store_is_made(start, tmp_path):
    """A server that finds no store makes the default one, and has a page before the first run."""
    live = start()
    assert live.get("/runs").json() == []
    assert "No run yet" in live.get("/").text
    assert (tmp_path / "events" / "ailab-store.json").exists()


def test_an_event_is_seen_within_a_second(start, tmp_path):
    """What another process logs while the server runs is in its answers at most 1 s later."""
    live = start(dir=tmp_path / "lab")
    assert live.get("/runs").json() == []
    source = """
import sys, time, ailab
with ailab.start_run(id="run-live", dir=sys.argv[1]) as run:
    run.log({"loss": 1.0})
    print("logged", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", source, str(tmp_path / "lab")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), cwd=tmp_path) as trainer:
        assert trainer.stdout.readline() == b"logged\n"
        deadline = time.monotonic() + 1
        while live.get("/runs/run-live").status != 200 and time.monotonic() < deadline:
            time.sleep(0.02)
        run = live.get("/runs/run-live").json()
        assert (run["status"], run["final_metrics"]) == ("running", {"loss": 1.0})
        trainer.kill()
    deadline = time.monotonic() + 3
    while live.get("/runs/run-live").json()["status"] == "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert live.get("/runs/run-live").json()["status"] == "crashed"


def test_the_segment_is_sealed_at_the_end(start, tmp_path, store):
    """A terminated server answers what is under way, seals its segment, and says nothing on standard error."""
    with environment_of_one_run(tmp_path / "lab"):
        live = start(dir=tmp_path / "lab")
    assert live.send("PATCH", "/runs/run-1/note", {"note": "x"}).status == 200
    assert live.end() == (-signal.SIGTERM, "")
    (segment,) = [p for p in (tmp_path / "lab" / "segments").iterdir() if not p.stem.endswith("run-1")]
    last = msgspec.json.decode(segment.read_bytes().splitlines()[-1])
    assert last["kind"] == "segment.sealed"


def test_a_download_under_way_is_finished_before_the_end(start, store):
    """SIGTERM waits for answers under way: the rest of a file arrives after it."""
    live = start(dir=store)
    with live.connect() as slow:
        slow.sendall(b"GET /artifacts/run-big/download/big.bin HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        first = slow.recv(64, socket.MSG_PEEK)
        live.process.send_signal(signal.SIGTERM)
        assert first
        assert len(read_answer(slow).body) == BIG
    assert live.end() == (-signal.SIGTERM, "")


class environment_of_one_run:  # noqa: N801  (reads as a sentence)
    """A store with one run, run-1."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        source = "import sys, ailab\nwith ailab.start_run(id='run-1', dir=sys.argv[1]): pass"
        subprocess.run([sys.executable, "-c", source, str(self.path)], env=environment(), check=True, timeout=60)

    def __exit__(self, *problem):
        pass


# -- serve -------------------------------------------------------------------------------------------------------------


def test_a_taken_default_port_gives_the_next_free_one(start, tmp_path):
    """Without a port, serve takes 8000 or the first free one after it, and prints that URL."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(("127.0.0.1", 8000))
            holder.listen()
        except OSError:  # somebody else holds it: as good
            pass
        live = start(dir=tmp_path / "lab", port="")
        assert 8000 < live.address[1] < 8100
        assert live.get("/health").status == 200


def test_a_taken_explicit_port_is_an_error(tmp_path):
    """A port that was asked for is not replaced by another."""
    from ailab_api.app import serve

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(SettingError, match=f"port {port} is taken on 127.0.0.1"):
            serve(port=port, dir=tmp_path / "lab")


def test_answers_do_not_wait_for_the_network(server):
    """Headers and body leave without waiting for the client's ACK, which costs 40 ms on a connection that is kept open."""
    spent = []
    with server.connect() as connection:
        for _ in range(12):
            began = time.perf_counter()
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert read_answer(connection).status == 200
            spent.append(time.perf_counter() - began)
    assert min(spent[2:]) < 0.03, spent


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", "", "localhost.evil.example"])
def test_only_loopback_is_served_without_a_token(tmp_path, host):
    """Another address needs a token, and what is no address is none; both are said before anything is made."""
    from ailab_api.app import serve

    with pytest.raises((RefusedError, SettingError), match=r"everybody needs a token|is no address"):
        serve(host=host, dir=tmp_path / "lab")
    assert not (tmp_path / "lab").exists()


def test_an_interrupt_is_the_usual_end(start, tmp_path):
    """Ctrl-C ends the server in order: serve returns, exit code 0, no traceback."""
    source = """
import sys
from ailab_api.app import serve
serve(port=0, dir=sys.argv[1], announce=lambda url: print(url, flush=True))
"""
    live = start(dir=tmp_path / "lab", source=source)
    assert live.get("/health").status == 200
    assert live.end(by=signal.SIGINT) == (0, "")


def test_reloading_serves_and_ends(start, tmp_path):
    """With reload=True a watching process and a serving one answer at the same URL, on the same store, and end together."""
    source = """
import os, signal, sys, threading
from ailab_api.app import serve
threading.Thread(target=lambda: (os.read(0, 1), os.kill(os.getpid(), signal.SIGTERM)), daemon=True).start()
serve(port=0, dir=sys.argv[1], reload=True, announce=lambda url: print(url, flush=True))
"""
    live = start(dir=tmp_path / "lab", source=source)
    assert live.get("/health").status == 200
    assert (tmp_path / "lab" / "ailab-store.json").exists()
    assert live.end() == (0, "")
    with pytest.raises(ConnectionRefusedError):
        live.connect()


def test_importing_the_app_opens_nothing(tmp_path):
    """The ASGI path `ailab_api.app:app` can be imported anywhere: no store is made or opened before the server starts."""
    source = "import os, ailab_api.app; assert callable(ailab_api.app.app); print(os.listdir('.'))"
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=tmp_path, env=environment(), check=True, capture_output=True, timeout=60
    )
    assert done.stdout == b"[]\n"


def test_any_asgi_server_can_run_it(start, store):
    """The module's `app` is complete: guard, routes, store from AILAB_DIR."""
    source = """
import os, signal, socket, sys, threading, uvicorn
threading.Thread(target=lambda: (os.read(0, 1), os.kill(os.getpid(), signal.SIGTERM)), daemon=True).start()
listener = socket.create_server(("127.0.0.1", 0))
print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
uvicorn.Server(uvicorn.Config("ailab_api.app:app", log_level="warning")).run(sockets=[listener])
"""
    live = start(source=source, AILAB_DIR=str(store))
    assert ids(live.get("/runs?project_id=iris")) == ["run-b", "run-a"]
    assert live.ask("GET", "/runs", host="evil.example").status == 421


# -- what a run printed and used ---------------------------------------------------------------------------------------


def test_printed_lines_page_by_page(server):
    """In their order; each answer's cursor is the way to the next one, and stays good when there is nothing behind it."""
    first = server.get("/runs/run-a/console?limit=2")
    assert [(line["stream"], line["line"], line["dropped"]) for line in first.json()] == [
        ("stdout", "epoch 1", 0), ("stdout", "epoch 2", 0),
    ]  # fmt: skip
    assert first.header("x-total-count") == "3"
    second = server.get(f"/runs/run-a/console?limit=2&since={first.header('x-cursor')}")
    assert [(line["stream"], line["line"]) for line in second.json()] == [("stderr", "careful")]
    third = server.get(f"/runs/run-a/console?since={second.header('x-cursor')}")
    assert (third.json(), third.header("x-total-count"), third.header("x-cursor")) == ([], "0", second.header("x-cursor"))
    assert server.get("/runs/run-b/console").json() == []


def test_the_last_lines_and_those_of_one_stream(server):
    assert [line["line"] for line in server.get("/runs/run-a/console?last=2").json()] == ["epoch 2", "careful"]
    assert [line["line"] for line in server.get("/runs/run-a/console?stream=stderr").json()] == ["careful"]
    behind = server.get("/runs/run-a/console?last=1").header("x-cursor")
    assert server.get(f"/runs/run-a/console?since={behind}").json() == []


def test_lines_that_were_left_out_are_told_where_they_were(server):
    """Before a line, or without one where none followed."""
    lines = server.get("/runs/run-x/console").json()
    assert [(line["line"], line["dropped"]) for line in lines] == [
        (f"</pre>{NASTY}", 1204), ("\x1b[2J\x1b]0;owned\x07\u202e", 0), (None, 2),
    ]  # fmt: skip


def test_figures_of_the_machine(server):
    """By name and time; thinned, those that came later, or of some names."""
    answer = server.get("/runs/run-a/system-metrics?key=process/memory_bytes")
    assert [(row["key"], row["value"]) for row in answer.json()] == [("process/memory_bytes", n * 1e8) for n in (5, 7, 6)]
    everything = server.get("/runs/run-a/system-metrics")
    assert everything.header("x-total-count") == "6"
    assert len({row["key"] for row in everything.json()}) == 2
    thinned = server.get("/runs/run-a/system-metrics?key=process/memory_bytes&max_points=2")
    assert ([row["value"] for row in thinned.json()], thinned.header("x-total-count")) == ([5e8, 7e8], "3")
    behind = server.get(f"/runs/run-a/system-metrics?since={everything.header('x-cursor')}")
    assert (behind.json(), behind.header("x-total-count")) == ([], "0")


@pytest.mark.parametrize(
    ("query", "where"),
    [
        ("console?limit=0", "limit"), ("console?limit=1001", "limit"), ("console?last=1001", "last"),
        ("console?stream=x", "stream"), ("console?since=x", "since"), ("console?key=x", "key"),
        (f"console?since={cursor_of('points', [{}])}", "since"), (f"console?last=1&since={cursor_of('console', [{}])}", "last"),
        (f"system-metrics?since={cursor_of('console', [{}])}", "since"), ("system-metrics?max_points=0", "max_points"),
        (f"system-metrics?max_points=2&since={cursor_of('system-metrics', [{}])}", "since"),
    ],
)  # fmt: skip
def test_what_is_asked_wrongly_of_them_is_said(server, query, where):
    answer = server.get(f"/runs/run-a/{query}")
    assert (answer.status, answer.json()["where"]) == (400, where)


@pytest.mark.parametrize("place", [-1, 2**63, 2**200])
def test_a_forged_cursor_is_no_accident(server, place):
    """Whatever place it names, the answer is one."""
    segment = server.get("/changes?limit=1").json()[0]["event"].partition(":")[0]
    for what in ("console", "system-metrics"):
        forged = cursor_of(what, [{segment: place, "'; DROP": 1}])
        assert server.get(f"/runs/run-a/{what}?since={forged}").status in {200, 400}


@pytest.mark.parametrize("what", ["points", "console", "system-metrics"])
@pytest.mark.parametrize("seen", ['{"":0}', '{"":0,"a":1}', '{"\\udc00":0}', '{"a":1.5}', '{"a":null}', "[]", "null"])
def test_a_cursor_that_names_no_segment_is_refused(server, what, seen):
    """As everything else that no answer gave."""
    forged = base64.urlsafe_b64encode(f'["{what}", [{seen}]]'.encode()).decode().rstrip("=")
    answer = server.get(f"/runs/run-a/{'metrics' if what == 'points' else what}?since={forged}")
    assert (answer.status, answer.json()["where"]) == (400, "since")


@pytest.mark.parametrize(
    "time", ["20260101", "2026-W01-1", "2026-01-01", "2026-01-01 00:00:00", "2026-01-01T00", "2026-01-01T00:00:00Z",
             "2026-01-01T00:00:00,5", "2026-01-01T00:00:00.5", "infinity", "epoch", ""],
)  # fmt: skip
def test_a_time_in_a_cursor_is_written_as_we_do(server, time):
    """What Python reads as a time, and the engine does not, or otherwise, is no accident of the server."""
    answer = server.get(f"/runs?sort=-started_at&cursor={cursor_of('-started_at', [time, 'x'])}")
    assert (answer.status, answer.json()["where"]) == (400, "cursor")
    for good in ("2026-01-01T00:00:00", "2026-01-01T00:00:00.000005", "0001-01-01T00:00:00", "9999-12-31T23:59:59.999999"):
        assert server.get(f"/runs?sort=-started_at&cursor={cursor_of('-started_at', [good, 'x'])}").status == 200
    for sort, value in (
        ("seed", 2**126),
        ("duration_s", 10**400),
        ("duration_s", -(10**400)),
        ("name", "a\0b"),
        ("metrics.loss", 1),
    ):
        more = [value, "2026-01-01T00:00:00", "x"] if sort.startswith("metrics") else [value, "x"]
        assert server.get(f"/runs?sort={sort}&cursor={cursor_of(sort, more)}").status == 200, sort


def test_the_document_describes_every_route(routes):
    """Every operation has an id of its own, a summary, described parameters and an example answer; none is undocumented."""
    names = [operation["operationId"] for *_, operation in routes]
    assert len(names) == len(set(names))
    assert sorted({template for *_, template, _ in routes}) == [
        "/", "/api/health", "/api/modellab/artifacts", "/api/modellab/artifacts/{run_id}",
        "/api/modellab/artifacts/{run_id}/download/{path}", "/api/modellab/datasets", "/api/modellab/datasets/upload",
        "/api/modellab/datasets/{dataset_id}", "/api/modellab/datasets/{dataset_id}/preview", "/api/modellab/projects",
        "/api/modellab/projects/{project_id}", "/api/modellab/projects/{project_id}/datasets",
        "/api/modellab/projects/{project_id}/runs", "/api/modellab/runs", "/api/modellab/runs/{run_id}",
        "/artifacts/{run_id}", "/artifacts/{run_id}/download/{path}", "/artifacts/{run_id}/restore/{path}",
        "/blobs/missing", "/blobs/{sha256}", "/changes", "/changes/{event}/undo", "/compare", "/datasets",
        "/datasets/{dataset_id}", "/datasets/{dataset_id}/download", "/datasets/{dataset_id}/preview",
        "/datasets/{dataset_id}/restore", "/datasets/{dataset_id}/versions", "/health", "/journal/missing",
        "/journal/{segment}",
        "/metrics", "/projects", "/projects/{project_id}", "/projects/{project_id}/datasets", "/projects/{project_id}/restore",
        "/projects/{project_id}/runs", "/runs", "/runs/compare", "/runs/leaderboard", "/runs/{run_id}",
        "/runs/{run_id}/changes", "/runs/{run_id}/console", "/runs/{run_id}/events", "/runs/{run_id}/flag",
        "/runs/{run_id}/history",
        "/runs/{run_id}/metrics", "/runs/{run_id}/note", "/runs/{run_id}/restore", "/runs/{run_id}/system-metrics",
        "/runs/{run_id}/tags", "/schema",
        "/schema/openapi.json", "/sql", "/stream", "/whoami",
    ]  # fmt: skip
    for verb, _, template, operation in routes:
        assert operation["summary"], template
        assert all(p.get("description") and p.get("example") is not None for p in operation.get("parameters", [])), template
        good = [answer for status, answer in operation["responses"].items() if status.startswith("2")]
        assert good, template
        assert all(content.get("example") for answer in good for content in answer.get("content", {}).values()), template
        assert all("schema" in header for answer in good for header in answer.get("headers", {}).values()), template
        bare = template.endswith(("/restore", "/undo", "/restore/{path}"))
        assert ("requestBody" in operation) == (verb in {"POST", "PATCH", "PUT"} and not bare), template


def test_examples_of_the_document_have_the_real_shape(server, routes):
    """An example answer has exactly the fields of a real answer."""
    for verb, path, template, operation in routes:
        content = operation["responses"].get("200", {}).get("content", {}).get("application/json")
        if verb != "GET" or content is None or template == "/schema/openapi.json":
            continue
        query = {"/runs/leaderboard": "?metric_name=loss", "/runs/compare": "?ids=run-a"}.get(template, "")
        example, real = content["example"], server.get(path + query).json()
        while isinstance(example, list):
            example, real = example[0], real[0]
        assert list(example) == list(real), template


def test_documented_references_exist(server):
    """Every $ref of the document points to a component that is there."""
    document = server.get("/schema/openapi.json").json()

    def references(node):
        if isinstance(node, dict):
            yield from ([node["$ref"]] if isinstance(node.get("$ref"), str) else [])
            node = list(node.values())
        if isinstance(node, list):
            yield from itertools.chain.from_iterable(map(references, node))

    found = set(references(document))
    assert found
    assert {name.removeprefix("#/components/schemas/") for name in found} <= set(document["components"]["schemas"])
