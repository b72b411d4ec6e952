"""Requests that last longer than the right to send them: what comes in, or would be told, after that is refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time

import pytest
from live import read_answer, wait_for
from test_stream import Reader

import ailab
from ailab import views
from ailab.actions import Actions
from ailab.bodies import NewToken
from ailab.store import open_store

BLOB, CSV, PLAIN = b"weights" * 100, b"a,b\n1,2\n3,4\n", "application/octet-stream"
FORM = (
    b'--xx\r\nContent-Disposition: form-data; name="file"; filename="form.bin"\r\n\r\nfrom a form\r\n'
    b'--xx\r\nContent-Disposition: form-data; name="kind"\r\n\r\nmodel\r\n--xx--\r\n'
)
REFERENCE = {"path": "far.bin", "size": 3, "sha256": "0" * 64, "reference": True}


@pytest.fixture
def lab(start, tmp_path):
    """(server on a store with the run r0 of project iris, headers that show a token of each kind, a way to revoke them all)."""
    place = tmp_path / "lab"
    ailab.start_run(id="r0", project="iris", dir=place).finish()

    @contextlib.contextmanager
    def acting():
        opened = views.open_lab(open_store(str(place), create=False).path)
        with Actions(opened, via="cli") as actions:
            yield actions
        opened.close()

    with acting() as actions:
        asked = {
            "writer": NewToken(role="writer", name="writer"),
            "iris": NewToken(role="writer", name="iris", project_id="iris"),
        }
        made = {name: actions.create_token(new).text for name, new in asked.items()}
    shown = {name: {"Authorization": f"Bearer {text}", "X-Forwarded-For": "10.0.0.7"} for name, text in made.items()}

    def revoke():
        with acting() as actions:
            for name in made:
                actions.revoke_token(name)

    return start(dir=place), shown, revoke


def segment_of_another(tmp_path):
    """(name, bytes) of a segment that some other machine wrote."""
    ailab.start_run(id="elsewhere", dir=tmp_path / "other").finish()
    path = min((tmp_path / "other" / "segments").iterdir())
    return path.stem, path.read_bytes()


class Slow:
    """A request all but the last byte of whose body was sent."""

    def __init__(self, live, headers, request):
        method, path, body, kind = (*request, "application/json")[:4]
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {live.host}", "Connection: close", f"Content-Type: {kind}"]
        lines += [f"Content-Length: {len(body)}", *(f"{name}: {value}" for name, value in headers.items())]
        self.what, self._last = f"{method} {path} as {kind}", body[-1:]
        self.connection = live.connect()
        self.connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body[:-1])

    def end(self):
        """The answer, once the rest was sent."""
        with self.connection:
            self.connection.sendall(self._last)
            return read_answer(self.connection)


def under_way(live, many):
    """Until so many requests are, this one that asks aside."""
    wait_for(lambda: f"ailab_http_requests_in_flight {many + 1}\n" in live.get("/metrics").text)


def kept(place):
    """(files, segments of another machine) that a store has."""
    blobs = sorted(path.name for path in (place / "blobs").rglob("*") if path.is_file())
    return blobs, sorted(path.name for path in (place / "segments").iterdir() if "elsewhere" in path.name)


def slow_requests(live, shown, tmp_path):
    """One for every way in which a body comes in."""
    name, segment = segment_of_another(tmp_path)
    form, text = "multipart/form-data; boundary=xx", "text/csv"
    return [Slow(live, shown, request) for request in (
        ("POST", "/artifacts/r0?path=a.bin", b"as it is", PLAIN),
        ("POST", "/artifacts/r0", FORM, form),
        ("POST", "/artifacts/r0", REFERENCE),
        ("POST", "/api/modellab/artifacts/r0?path=b.bin", b"as ModelLab does", PLAIN),
        ("POST", "/datasets?file=one.csv", CSV, text),
        ("POST", "/api/modellab/datasets?file=two.csv", CSV + b"5,6\n", text),
        ("POST", "/api/modellab/datasets/upload?file=three.csv", CSV + b"7,8\n", text),
        ("PUT", f"/blobs/{hashlib.sha256(BLOB).hexdigest()}", BLOB, PLAIN),
        ("PUT", f"/journal/{name}?offset=0", segment, PLAIN),
        ("POST", "/journal/missing", {"segments": {}}),
        ("POST", "/blobs/missing", {"sha256": []}),
        ("PATCH", "/runs/r0/note", {"note": "late"}),
        ("POST", "/runs", {"run_id": "late"}),
        ("POST", "/sql", {"sql": "select 1"}),
        ("POST", "/compare", {"run_ids": ["r0"]}),
    )]  # fmt: skip


@pytest.mark.parametrize("revoked", [True, False])
def test_a_body_that_ends_after_its_token_counts_for_nothing(lab, tmp_path, revoked):
    """401 on every way in, and nothing is kept. Control: with a token that counts all of it is."""
    live, shown, revoke = lab
    before = kept(tmp_path / "lab")
    slow = slow_requests(live, shown["writer"], tmp_path)
    under_way(live, len(slow))
    if revoked:
        revoke()
        time.sleep(0.8)  # so long a token that counted counts unasked
    found = {one.what: one.end() for one in slow}
    if not revoked:
        assert {what for what, one in found.items() if one.status not in {200, 201}} == set()
        assert kept(tmp_path / "lab") != before
        return
    assert {what: one.status for what, one in found.items()} == dict.fromkeys(found, 401)
    assert {one.header("www-authenticate").split()[0] for one in found.values()} == {"Bearer,"}
    assert kept(tmp_path / "lab") == before
    assert live.get("/artifacts/r0").json() == live.get("/datasets").json() == []


def test_a_run_that_left_its_project_takes_no_file_of_a_token_that_reached_it(lab, tmp_path):
    """Moved while the body is under way: 404 as for a new request, and no byte is kept."""
    live, shown, _ = lab
    before = kept(tmp_path / "lab")
    requests = (
        ("POST", "/artifacts/r0?path=a.bin", b"as it is", PLAIN),
        ("POST", "/artifacts/r0", FORM, "multipart/form-data; boundary=xx"),
        ("POST", "/artifacts/r0", REFERENCE),
        ("POST", "/api/modellab/artifacts/r0?path=b.bin", b"as ModelLab does", PLAIN),
    )
    slow = [Slow(live, shown["iris"], request) for request in requests]
    under_way(live, len(slow))
    assert live.send("PATCH", "/runs/r0", {"project_id": "wine"}).status == 200
    assert [one.end().status for one in slow] == [404] * len(slow)
    assert kept(tmp_path / "lab") == before
    assert live.get("/artifacts/r0").json() == []


def test_a_stream_ends_with_its_token(lab):
    """Within two seconds, and what changes after that is told to those alone who may still hear it."""
    live, shown, revoke = lab
    readers = [Reader(live, "/stream?seconds=30", **headers) for headers in (*shown.values(), {})]
    assert [reader.next()[1] for reader in readers] == ["start"] * 3
    revoke()
    began = time.monotonic()
    *revoked, other = readers
    assert [reader.next() for reader in revoked] == [None, None]
    assert time.monotonic() - began < 3
    assert live.send("PATCH", "/runs/r0/note", {"note": "told to those who may hear it"}).status == 200
    assert [run["run_id"] for run in other.next()[2]["runs"]] == ["r0"]
    for reader in readers:
        reader.close()
