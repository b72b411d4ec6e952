"""Segments and files of other machines: they come byte for byte, whatever becomes of either side, and give nobody a right."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import zlib

import pytest
from live import environment

import ailab
from ailab import blobs, journal, queries, remote, store, views
from ailab import events as kinds
from ailab.errors import RefusedError, SettingError, StoreError

BINARY = {"Content-Type": "application/octet-stream"}


@pytest.fixture
def far(tmp_path):
    """The store of another machine: a run with a file, and a note."""
    path = tmp_path / "far"
    (tmp_path / "m.bin").write_bytes(b"weights" * 100)
    with ailab.start_run("far", id="far-1", project="iris", dir=path) as run:
        for step in range(50):
            run.log({"loss": 1 / (step + 1)}, step=step)
        run.log_artifact("m.bin")
    ailab.note("good", "far-1", dir=path)
    return store.open_store(str(path), create=False)


@pytest.fixture
def lab(start, tmp_path):
    """A server on an empty store, and that store."""
    return start(dir=tmp_path / "lab"), store.open_store(str(tmp_path / "lab"), create=False)


def lines_of(place, name):
    with open(place.segment_path(name), "rb") as file:
        return file.read()


def put(live, name, offset, body, **headers):
    return live.ask("PUT", f"/journal/{name}?offset={offset}", {**BINARY, **headers}, body)


def line(seq, kind, data, prev, **more):
    """A line that proves itself."""
    body = {
        "seq": seq,
        "at": "2026-11-21T10:00:00.000000Z",
        "clock": seq,
        "kind": kind,
        **more,
        "data": data,
        "prev": prev,
        "crc": 0,
    }
    text = json.dumps(body, separators=(",", ":"))
    return with_crc(text.encode())


def with_crc(text):
    """A line whose `crc` of 0 is put right."""
    crc = zlib.crc32(text)
    return text[:-2] + b"%d}" % crc + b"\n", crc


def forged(run="evil", **header):
    """(name, header line, its checksum) of a segment by hand."""
    name = f"20261121T100000000000Z_evil_1_{os.urandom(4).hex()}_{run}"
    data = {"format": 1, "segment": name, "ailab": "0.1.0", "host": "evil", "pid": 1, **header}
    return (name, *line(0, "segment.opened", data, 0, run=run))


# -- what comes is what was written ------------------------------------------------------------------------------------


def test_a_store_comes_byte_for_byte(far, lab):
    """`sync` sends segments and files; the server shows the run, its points and its file; sending again sends nothing."""
    live, place = lab
    done = remote.sync(far, live.url, None)
    assert (done.segments, done.files >= 2, done.waiting, done.refused) == (2, True, 0, [])
    for name in far.segment_names():
        assert lines_of(place, name) == lines_of(far, name)
    assert live.get("/runs/far-1").json()["note"] == "good"
    assert live.get("/runs/far-1/metrics").header("x-total-count") == "50"
    assert live.get("/artifacts/far-1/download/m.bin").body == b"weights" * 100
    again = remote.sync(far, f"{live.url}/api/modellab", None)
    assert (again.segments, again.files, again.bytes) == (0, 0, 0)
    state = live.get(f"/journal/{far.segment_names()[0]}").json()
    whole = lines_of(far, far.segment_names()[0])
    assert (state["bytes"], state["sha256"]) == (len(whole), hashlib.sha256(whole).hexdigest())


def test_what_is_in_tables_alone_comes_too(far, lab, tmp_path):
    """Segments that were compacted and removed are written anew from their tables."""
    from ailab.views import compact, restore

    before = {name: lines_of(far, name) for name in far.segment_names()}
    compact.compact(far, grace_s=0.0, orphan_s=0.0)
    assert far.segment_names() == []
    live, place = lab
    (tmp_path / "others").mkdir()
    done = remote.sync(far, live.url, None, others=restore.write_segments(far, str(tmp_path / "others")))
    assert done.segments == len(before)
    assert {name: lines_of(place, name) for name in before} == before


@pytest.mark.parametrize("trusting", [False, True])
def test_a_server_that_lost_its_store_is_sent_it_again(far, start, tmp_path, monkeypatch, trusting):
    """What was noted as there is asked for before it is believed. Control: who trusts the note sends nothing."""
    live = start(dir=tmp_path / "lab")
    assert remote.sync(far, live.url, None).segments == 2
    live.end()
    live = start(dir=tmp_path / "another", port=live.url.rpartition(":")[2])
    if trusting:
        monkeypatch.setattr(remote, "lacking", lambda _client, _known: {})
    done = remote.sync(far, live.url, None)
    place = store.open_store(str(tmp_path / "another"), create=False)
    if trusting:
        assert (done.segments, done.bytes) == (0, 0)
        return
    assert (done.segments, done.files >= 2) == (2, True)
    assert all(lines_of(place, name) == lines_of(far, name) for name in far.segment_names())


def test_what_a_server_has_compacted_is_not_sent_again(far, lab, start):
    """In its tables is as good as in a file; and what it has less of than its client is told."""
    from ailab.views import compact

    live, place = lab
    remote.sync(far, live.url, None)
    sizes = {name: len(lines_of(far, name)) for name in far.segment_names()}
    live.end()  # it has their files open, as their writer would
    compact.compact(place, grace_s=0.0, orphan_s=0.0)
    live = start(dir=place.path, port=live.url.rpartition(":")[2])
    assert [name for name in place.segment_names() if name in sizes] == []
    done = remote.sync(far, live.url, None)
    assert (done.segments, done.bytes) == (0, 0)
    more = {name: size + 1 for name, size in sizes.items()}
    asked = live.send("POST", "/journal/missing", {"segments": {**more, "../x": 5, forged()[0]: 7, "empty": 0}}).json()
    name = next(name for name in asked["missing"] if name.endswith("_evil"))
    assert asked["missing"] == {**sizes, "../x": 0, name: 0}


def test_a_server_that_loses_its_store_meanwhile_is_sent_it_from_the_start(start, tmp_path):
    """The run is still being written: what went before goes again."""
    live = start(dir=tmp_path / "lab")
    with ailab.start_run("far", id="far-3", dir=tmp_path / "far", capture="run") as run:
        near = store.open_store(str(tmp_path / "far"), create=False)
        client = remote.Client(live.url, None)
        shipper = remote.Shipper(near, client)
        run.log({"loss": 1.0}, step=1)
        assert shipper.ship()
        live.end()
        live = start(dir=tmp_path / "another", port=live.url.rpartition(":")[2])
        run.log({"loss": 0.5}, step=2)
        for _ in range(2):  # the connection that broke, and the gap that the server finds
            with pytest.raises(remote.Away):
                shipper.ship()
        assert shipper.ship()
        client.close()
        assert live.get("/runs/far-3/metrics").header("x-total-count") == "2"


def test_files_are_sent_that_an_interrupted_shipping_left(far, lab):
    """The segment was there and the file was not when the connection broke: the next shipping sends it."""
    live, place = lab
    digest = hashlib.sha256(b"weights" * 100).hexdigest()

    class Breaks(remote.Client):
        def ask(self, method, path, body=None, headers=None):
            if (method, path.split("/")[1]) == ("PUT", "blobs"):
                raise remote.Away("the connection broke")
            return super().ask(method, path, body, headers)

    client = Breaks(live.url, None)
    with pytest.raises(remote.Away):
        remote.Shipper(far, client).ship()
    client.close()
    assert {name for name in far.segment_names() if lines_of(place, name) == lines_of(far, name)} == set(far.segment_names())
    assert not blobs.is_kept(place, digest)
    assert remote.sync(far, live.url, None).bytes > 0
    assert blobs.read_blob(place, digest) == b"weights" * 100


def test_the_verb_says_in_words_what_was_sent(far, lab):
    """And that nothing was, because everything is there."""
    live, _ = lab
    command = [sys.executable, "-m", "ailab", "sync", live.url, "--dir", far.path]
    said = [
        subprocess.run(command, env=environment(), capture_output=True, text=True, check=True, timeout=60).stdout for _ in "12"
    ]
    assert re.search(r"sent +[\d.]+ kB in [\d.]+ s\nsegments +2 to the end\nfiles +\d+\n", said[0]), said[0]
    assert re.search(r"sent +nothing: everything is there already\n$", said[1]), said[1]


def test_training_ships_while_it_runs_and_the_server_is_killed(start, tmp_path):
    """The server is killed twice and comes back; training does not wait, and every byte is there in the end."""
    live = start(dir=tmp_path / "lab")
    port = int(live.url.rpartition(":")[2])
    script = """
import ailab, sys, time
slowest = 0.0
with ailab.start_run("far", id="far-2", dir=sys.argv[1], capture="run") as run:
    for step in range(500):
        began = time.perf_counter()
        run.log({"loss": step}, step=step)
        slowest = max(slowest, time.perf_counter() - began)
        time.sleep(0.01)
print(slowest)
"""
    env = environment(AILAB_API_URL=live.url)
    training = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "far")], env=env, cwd=tmp_path, stdout=subprocess.PIPE
    )
    for _ in range(2):
        wait_for(lambda now=live: now.get("/runs").json() != [], 20)
        live.end(signal.SIGKILL)
        time.sleep(0.5)
        live = start(dir=tmp_path / "lab", port=str(port))
    slowest = float(training.communicate(timeout=60)[0])
    assert slowest < 0.5, "the network is no business of log()"
    far, place = (store.open_store(str(tmp_path / name), create=False) for name in ("far", "lab"))
    (name,) = far.segment_names()
    wait_for(lambda: os.path.exists(place.segment_path(name)) and lines_of(place, name) == lines_of(far, name), 40)
    assert live.get("/runs/far-2").json()["status"] == "completed"
    assert live.get("/runs/far-2/metrics").header("x-total-count") == "500"


def wait_for(what, seconds):
    """Look until it is so."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come to be"
        time.sleep(0.1)


def test_a_run_that_is_shipped_lives_while_lines_come(far, lab):
    """Also on one machine, whose processes the server could see: the writer is taken as living while ranges come."""
    live, _ = lab
    name = next(n for n in far.segment_names() if n.endswith("far-1"))
    whole = lines_of(far, name)
    cut = whole.index(b"\n", len(whole) // 2) + 1
    assert put(live, name, 0, whole[:cut]).status == 200
    assert live.get("/runs/far-1").json()["status"] == "running"
    assert put(live, name, cut, whole[cut:]).status == 200
    assert live.get("/runs/far-1").json()["status"] == "completed"


def test_ranges_may_overlap_and_never_leave_a_gap(far, lab):
    """The same bytes again are nothing new; others, or a gap, are refused, and nothing is written."""
    live, place = lab
    name = far.segment_names()[0]
    whole = lines_of(far, name)
    first, second = whole.index(b"\n") + 1, whole.index(b"\n", whole.index(b"\n") + 1) + 1
    answer = put(live, name, first, whole[first:])
    assert (answer.status, answer.header("x-bytes")) == (409, "0")
    assert put(live, name, 0, whole[:second]).json()["bytes"] == second
    assert put(live, name, 0, whole[:first]).json()["bytes"] == second
    answer = put(live, name, second + 5, whole[second + 5 :])
    assert (answer.status, answer.header("x-bytes")) == (409, str(second))
    other = whole[first:second].replace(b"far", b"FAR")
    assert put(live, name, first, other).status == 409
    assert lines_of(place, name) == whole[:second]
    assert put(live, name, first, whole[first:]).json() == {
        "segment": name, "bytes": len(whole), "sha256": hashlib.sha256(whole).hexdigest(),
    }  # fmt: skip


def test_a_range_with_a_wrong_digest_is_refused(far, lab):
    """What changed on the way is not kept."""
    live, _ = lab
    name = far.segment_names()[0]
    whole = lines_of(far, name)
    right = base64.b64encode(hashlib.sha256(whole).digest()).decode()
    wrong = base64.b64encode(hashlib.sha256(b"x").digest()).decode()
    assert put(live, name, 0, whole, **{"Content-Digest": f"sha-256=:{wrong}:"}).status == 400
    assert live.get(f"/journal/{name}").status == 404
    assert put(live, name, 0, whole, **{"Content-Digest": f"sha-256=:{right}:"}).status == 200


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["x", "..", "20261121T100000000000Z_h_1_0badcafe.jsonl", "20261121T100000000000Z_h_1_0badcafe_a%2fb", "%2e%2e%2fevil",
     "20261121T100000000000Z_h_1_0badcafe_" + "x" * 200, "20261121T100000000000Z_h_1_0BADCAFE", "ailab-store.json"],
)  # fmt: skip
def test_no_path_comes_from_outside(lab, name):
    """Only the name of a segment names one."""
    live, place = lab
    before = sorted(os.listdir(place.path))
    assert put(live, name, 0, b"{}\n").status in {400, 404, 415}
    assert sorted(os.listdir(place.path)) == before


def test_a_body_that_is_no_segment_is_refused(lab):
    """No header, another one's header, half a line, nothing: the file is not made."""
    live, _ = lab
    name, head, _ = forged()
    other = forged()[1]
    for body in (b"{}\n", other, head[:-1], head.replace(b"evil", b"live"), b"\xff\n", b"[" * 100_000 + b"\n"):
        assert put(live, name, 0, body).status == 400, body[:50]
    assert put(live, name, "x", head).status == 400
    assert put(live, name, -1, head).status == 400
    assert put(live, name, 0, forged(format=9)[1]).status == 400
    assert live.get(f"/journal/{name}").status == 404


def test_segments_of_this_machine_are_not_added_to(lab):
    """Neither one that is being written, nor one whose writer was killed: their bytes are their writers'."""
    live, place = lab
    live.send("POST", "/projects", {"name": "iris"})
    (own,) = place.segment_names()
    writer = journal.Writer(place, run="mine", via="sdk")
    writer.append(kinds.RunStarted(name="mine"))
    for name in (own, writer.name):
        whole = lines_of(place, name)
        crc = json.loads(whole.splitlines()[-1])["crc"]
        seq = len(whole.splitlines())
        more = line(seq, "run.trashed", {}, crc, run="mine")[0]
        assert put(live, name, len(whole), more).status == 409, name
        assert lines_of(place, name) == whole
    writer.seal()


RIGHTS = [
    ("token.created", {"token": "t", "sha256": "0" * 64, "role": "admin"}), ("token.revoked", {"token": "t"}),
    ("segment.accepted", {"segment": "s", "by": "ada"}), ("event.redacted", {"segment": "s", "seq": 1}), ("run.purged", {}),
]  # fmt: skip


def spellings(kind, data, prev):
    """Lines that readers take for the same event, written in many ways."""
    plain = {"seq": 1, "at": "2026-11-21T10:00:00.000000Z", "clock": 1, "kind": kind, "data": data, "prev": prev, "crc": 0}
    compact = json.dumps(plain, separators=(",", ":"))
    escaped = "".join(f"\\u{ord(c):04x}" for c in kind)
    yield compact
    yield compact.replace(f'"kind":"{kind}"', f'"kind":"{escaped}"')
    yield compact.replace('"kind"', '"\\u006bind"')
    yield compact.replace('"kind":', '"kind" : ')
    yield compact.replace(f'"kind":"{kind}"', f'"kind":"metrics.logged","kind":"{kind}"')
    yield compact.replace(f'"kind":"{kind}"', '"kind":"metrics.logged"').replace(',"prev"', f',"kind":"{kind}","prev"')
    yield compact.replace(f'"kind":"{kind}"', '"kind":"metrics.logged"').replace(',"prev"', f',"\\u006bind":"{kind}","prev"')


@pytest.mark.parametrize(("kind", "data"), RIGHTS)
def test_a_writer_ships_no_rights(tokens_afar, kind, data):
    """Events that give rights or take data away come from admins alone, however their kind is spelt."""
    ask, place = tokens_afar
    for text in spellings(kind, data, 0):
        name, head, _ = forged()
        body = head + with_crc(text.encode())[0]
        answer = ask("writer", "PUT", f"/journal/{name}?offset=0", BINARY, body)
        assert answer.status == 400, text
        assert name not in place.segment_names()
        assert ask("writer", "PUT", f"/journal/{name}?offset=0", BINARY, head).status == 200
        assert ask("writer", "PUT", f"/journal/{name}?offset={len(head)}", BINARY, with_crc(text.encode())[0]).status == 400, text
    name, head, crc = forged()
    body = head + line(1, kind, data, crc)[0]
    assert ask("admin", "PUT", f"/journal/{name}?offset=0", BINARY, body).status == 200


@pytest.fixture
def tokens_afar(tmp_path):
    """`ask(role, …)` from another machine on a store with tokens, and that store."""
    from live import launch
    from test_access import PATIENT, SOURCE

    from ailab.actions import Actions
    from ailab.bodies import NewProject, NewToken

    place = store.open_store(str(tmp_path / "lab"), create=True)
    opened = views.open_lab(place.path)
    with Actions(opened, via="cli") as actions:
        texts = {role: actions.create_token(NewToken(role=role, name=role)).text for role in ("writer", "admin", "reader")}
        actions.create_project(NewProject(name="iris"))
        texts["iris"] = actions.create_token(NewToken(role="writer", name="iris", project_id="iris")).text
    opened.close()
    live = launch(tmp_path, dir=place.path, source=SOURCE.replace("# patient", PATIENT))

    def ask(role, method, path, headers=None, body=b""):
        return live.ask(method, path, {**(headers or {}), "Authorization": f"Bearer {texts[role]}"}, body)

    ask.url, ask.texts = live.url, texts
    yield ask, place
    live.end()


def test_a_writer_spoils_nobody_elses_segment(tokens_afar):
    """What it says of the end of a segment that the server or somebody else wrote is kept, and counts for nothing."""
    from ailab import verification
    from ailab.views.compact import compact

    ask, place = tokens_afar
    assert ask("admin", "POST", "/runs", {"Content-Type": "application/json"}, b'{"run_id": "good"}').status == 201
    theirs, head, crc = forged("theirs")
    body = head + line(1, "run.started", {"name": "x"}, crc, run="theirs")[0]
    assert ask("admin", "PUT", f"/journal/{theirs}?offset=0", BINARY, body).status == 200
    told = place.segment_names()
    name = f"20261121T100000000001Z_evil_1_{os.urandom(4).hex()}"
    data = {"format": 1, "segment": name, "ailab": "0.1.0", "host": "evil", "pid": 1}
    body, crc = line(0, "segment.opened", data, 0)
    for i, segment in enumerate(told, 1):
        more, crc = line(i, "segment.closed", {"segment": segment, "bytes": 10**8, "sha256": "0" * 64}, crc)
        body += more
    assert ask("writer", "PUT", f"/journal/{name}?offset=0", BINARY, body).status == 200
    assert [one.what for one in verification.verify(place).findings if one.level != "note"] == []
    assert compact(place).left == []
    assert ask("admin", "GET", "/runs/good").json()["run_id"] == "good"


def test_who_shipped_is_who_did_it(far, tokens_afar):
    """Changes in a shipped segment carry the name of the token, whatever the segment says."""
    ask, _ = tokens_afar
    done = remote.sync(far, ask.url, ask.texts["writer"])
    assert done.refused == []
    assert {change["by"] for change in ask("reader", "GET", "/changes").json()} == {"writer"}


REFUSALS = {
    None: ("a token is needed", "`ailab token create --role writer` at the server makes a token"),
    "guess": (
        "the token does not count",
        "AILAB_TOKEN has a token that was revoked, or is of another server; `ailab token create",
    ),
    "reader": ("the role reader may not do this", "it needs the role writer; `ailab token create --role writer` at"),
    "iris": (
        "a token of one project may not do this",
        "it needs a token without a project; `ailab token create --role writer` at",
    ),
}


def test_a_refusal_is_said_and_nothing_is_lost(far, tokens_afar):
    """Without a token, with a wrong one, a reader's, one of a project: what is wrong and what helps; the store is as it was."""
    ask, _ = tokens_afar
    before = {name: lines_of(far, name) for name in far.segment_names()}
    for token, (said, hint) in REFUSALS.items():
        with pytest.raises(RefusedError) as found:
            remote.sync(far, ask.url, ask.texts.get(token, token))
        assert found.value.message == f"{ask.url} refuses: {said}"
        assert found.value.hint.startswith(hint), found.value.hint
    for url in ("ftp://x", "lab:8000", "http://a:b@c", "http://", "http://x?y"):
        with pytest.raises(SettingError):
            remote.plain_url(url)
    assert {name: lines_of(far, name) for name in far.segment_names()} == before


def test_a_server_that_is_away_is_an_error_of_sync(far, monkeypatch):
    """`sync` says so after a few tries; the process beside a training would go on trying."""
    monkeypatch.setattr(remote, "WAITS_S", (0.01,) * 6)
    with pytest.raises(StoreError, match=r"does not answer.*\nhint: is `ailab serve` running there"):
        remote.sync(far, "http://127.0.0.1:9", None)


def test_https_where_no_tls_is_spoken_is_told(far, lab, monkeypatch):
    """A frequent slip, which sounds like a server that is away."""
    monkeypatch.setattr(remote, "WAITS_S", (0.01,) * 6)
    with pytest.raises(StoreError, match=r"SSL.*\nhint: what answers there speaks no TLS"):
        remote.sync(far, lab[0].url.replace("http:", "https:"), None)


def test_what_is_no_ailab_server_is_called_so(far):
    """A page where an answer should be, such as a proxy's or another program's: the address is wrong, not the store."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"hi")

        def log_message(self, *_words):
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as page:
        threading.Thread(target=page.serve_forever, daemon=True).start()
        with pytest.raises(RefusedError, match="does not answer as an ailab server does: 200 OK to GET /journal/"):
            remote.sync(far, f"http://127.0.0.1:{page.server_port}", None)
        page.shutdown()


def test_files_are_what_they_are_said_to_be(lab):
    """A blob is kept under its own digest or not at all."""
    live, place = lab
    digest = hashlib.sha256(b"weights").hexdigest()
    ask = {"sha256": [digest, "0" * 64]}
    assert live.send("POST", "/blobs/missing", ask).json() == {"missing": [digest, "0" * 64]}
    assert live.ask("PUT", f"/blobs/{'0' * 64}", BINARY, b"weights").status == 409
    assert live.ask("PUT", f"/blobs/{digest}", BINARY, b"weights").json() == {"sha256": digest, "size": 7}
    assert live.send("POST", "/blobs/missing", ask).json() == {"missing": ["0" * 64]}
    for bad in ("x", "..%2fx", digest.upper(), digest + "0"):
        assert live.ask("PUT", f"/blobs/{bad}", BINARY, b"weights").status in {400, 404}, bad
    assert live.send("POST", "/blobs/missing", {"sha256": ["x"]}).status == 400
    assert blobs.read_blob(place, digest) == b"weights"
    left = [name for _, _, names in os.walk(place.blobs) for name in names if name.startswith(".")]
    assert left == []


def test_what_came_is_whole_to_verify(far, lab):
    """The received store is sound, byte for byte."""
    from ailab import verification

    live, place = lab
    remote.sync(far, live.url, None)
    live.end()
    found = verification.verify(place)
    assert [finding for finding in found.findings if finding.level != "note"] == []
    opened = views.open_lab(place.path)
    assert queries.get_run(opened, "far-1").status == "completed"
    opened.close()


def test_a_segment_that_fell_silent_is_let_go(start, tmp_path):
    """While bytes come its run is running; then it is crashed, its file free for whoever closes it; then running again."""
    source = """
import os, signal, sys, threading
from ailab import receiving, segments
import ailab_api.app
threading.Thread(target=lambda: (os.read(0, 1), os.kill(os.getpid(), signal.SIGTERM)), daemon=True).start()
receiving.SILENCE_SECONDS = segments.SILENCE_SECONDS = 1.0
ailab_api.app.REST_S = 0.1
ailab_api.app.serve(port=0, dir=sys.argv[1], announce=lambda url: print(url, flush=True))
"""
    live = start(dir=tmp_path / "lab", source=source)
    name, header, crc = forged("quiet")
    first, crc = line(1, "run.started", {"name": "quiet"}, crc, run="quiet")

    began = time.monotonic()

    def holds():
        """Whether the server has the segment open, which keeps others from closing it."""
        folder = f"/proc/{live.process.pid}/fd"
        return any(name in os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder) if os.path.lexists(f"{folder}/{fd}"))

    def becomes(status):
        until = time.monotonic() + 10
        while (found := live.get("/runs/quiet").json()["status"]) != status:
            assert time.monotonic() < until, f"{found}, not {status}"
            time.sleep(0.05)

    assert put(live, name, 0, header + first).status == 200
    becomes("running")
    assert holds()
    becomes("crashed")
    while holds():
        assert time.monotonic() < began + 15
        time.sleep(0.05)
    assert (
        put(live, name, len(header + first), line(2, "metrics.logged", {"values": {"x": 1}}, crc, run="quiet")[0]).status == 200
    )
    becomes("running")


def test_digests_are_found_as_a_regular_expression_finds_them():
    """Runs of exactly 64 hexadecimal digits among bytes of all kinds, at the edges too."""
    dice = random.Random(7)
    for _ in range(300):
        runs = [dice.choice(b"0123456789abcdef".decode()) * dice.choice((1, 63, 64, 65, 128, 129)) for _ in range(6)]
        data = dice.choice(("", '"', "g", "\n")).join(runs).encode() + bytes(dice.choices(range(256), k=dice.choice((0, 5))))
        assert list(remote._digests_in(data)) == re.findall(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", data.decode("latin-1"))
