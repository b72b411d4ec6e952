"""Attacks in raw bytes, every class of them on every route that the application registers (G24).

What holds after each class: no answer was a 5xx, every refusal of the application was a problem+json with title and detail, the
server answers /health within a second, its memory has grown by no more than 128 MB (where a test does not say otherwise), no
temporary file of an upload is left, and not one request hung. Where the bytes are no HTTP at all, the HTTP parser refuses them
before the application is reached; such an answer is a 400. A server without any of this is found by the same checks.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
import zipfile

import psutil
import pytest
from conftest import REAL
from live import Answer, launch

GROWTH = 128 << 20
"""Bytes by which one class of attacks may let the server's memory grow."""
PROMPT_S = 1.0
HANG_S = 5.0
DEEP = 100_000
GONE = "client disconnected prematurely"
"""What the log says of a client that left, which is held against the server in a test of its own."""
CLOSED = Answer(0, [], b"")
"""The server closed the connection without an answer."""
NAMES = ("run_id", "path", "project_id", "dataset_id", "event", "segment", "sha256")


# -- the client, and what must hold --------------------------------------------------------------------------------------


def exchange(live, data, *, half=False):
    """Send bytes, and the end of them if `half`; the answer, or `CLOSED`. A server that does neither in 20 s hangs."""
    found = b""
    with contextlib.closing(socket.create_connection(live.address, timeout=HANG_S)) as connection:
        with contextlib.suppress(ConnectionError):  # it may refuse before it has read everything
            connection.sendall(data)
            if half:
                connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(1 << 20):
                found += piece
                if is_whole(found):
                    break
    return read(found)


def is_whole(data):
    """Whether an answer says that it has come to its end."""
    head, end, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: *(\d+)", head.lower())
    return bool(end) and length is not None and len(body) >= int(length[1]) > 0


def read(data):
    """An answer from the bytes of a connection."""
    if not data:
        return CLOSED
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return Answer(int(first.split()[1]), headers, body)


def faults_of(answer, *, path=""):
    """What is wrong with an answer.

    Below /api errors have the form of ModelLab: `error` and `message` in application/json.
    """
    if answer is CLOSED:
        return []
    if answer.status >= 500:
        return [f"status {answer.status}"]
    if answer.status < 400:
        return []
    fields = ("title", "detail")
    if path.startswith("/api/") and dict(answer.headers).get("content-type") == "application/json":
        fields = ("error", "message")
    elif dict(answer.headers).get("content-type") != "application/problem+json":
        return [f"{answer.status} is no problem: {dict(answer.headers).get('content-type')}"]
    if "content-length" not in dict(answer.headers) or not answer.body:
        return []  # HEAD
    found = json.loads(answer.body)
    return [f"no {field}" for field in fields if not isinstance(found.get(field), str) or not found[field]]


def path_of(data):
    """The path that a request names."""
    words = data[:200].split()
    return words[1].decode("latin-1") if len(words) > 1 else ""


def temporary(store):
    """Names of uploads that are neither kept nor gone."""
    return [name for folder, _, names in os.walk(store) for name in names if name.startswith(".tmp-")]


class Victim:
    """A server under attack: what came of each attack, and what it costs."""

    def __init__(self, live, store) -> None:
        self.live, self.store = live, store
        self.process = psutil.Process(live.process.pid)
        self.faults: list[str] = []
        self.counts: dict[int, int] = {}
        self.registered: set[tuple[str, str]] = set()

    def attack(self, name, data, *, half=False):
        """Send one, and note what is wrong with the answer."""
        try:
            answer = exchange(self.live, data, half=half)
        except TimeoutError:
            self.faults.append(f"{name}: hung")
            return CLOSED
        self.counts[answer.status] = self.counts.get(answer.status, 0) + 1
        self.faults += [f"{name}: {fault}" for fault in faults_of(answer, path=path_of(data))]
        return answer

    def health(self):
        """Seconds until /health has answered."""
        began = time.monotonic()
        answer = exchange(self.live, f"GET /health HTTP/1.1\r\nHost: {self.live.host}\r\nConnection: close\r\n\r\n".encode())
        if answer.status != 200:
            self.faults.append(f"/health: {answer.status}")
        return time.monotonic() - began

    @contextlib.contextmanager
    def attacked(self, *, growth=GROWTH):
        """A class of attacks; behind it all that is promised must hold."""
        self.faults, self.counts = [], {}
        before = self.process.memory_info().rss
        yield self
        self.faults += self.aftermath(before, growth)
        assert not self.faults, (len(self.faults), self.faults[:20])

    def aftermath(self, before, growth):
        """What is wrong with the server now."""
        found = []
        try:
            if (took := self.health()) > PROMPT_S:
                found.append(f"/health took {took:.1f} s")
        except TimeoutError:
            found.append("/health hung")
        except ConnectionError:
            found.append("/health refused")
        if self.faults or found:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.live.process.wait(timeout=1)
                return ["the server ended"]
        until = time.monotonic() + 3
        while (left := temporary(self.store)) and time.monotonic() < until:
            time.sleep(0.05)
        found += [f"left {name}" for name in left]
        self.grown = self.process.memory_info().rss - before
        if self.grown > growth:
            found.append(f"memory grew by {self.grown >> 20} MB")
        return found

    def said(self):
        """A figure: how many of which status, and the memory."""
        counts = ", ".join(f"{n} × {status or 'closed'}" for status, n in sorted(self.counts.items()))
        return f"{sum(self.counts.values())} requests: {counts}; memory +{self.grown / 2**20:.1f} MB"


@pytest.fixture(scope="module")
def victim(store, tmp_path_factory):
    """A server on a copy of the store of six runs, that serves every attack of this file and then ends as told."""
    folder = tmp_path_factory.mktemp("attacked")
    copy = shutil.copytree(store, folder / "store", copy_function=os.link)
    live = launch(folder, dir=copy)
    log: list[bytes] = []
    reader = threading.Thread(target=lambda: log.extend(iter(lambda: live.process.stderr.read1(1 << 16), b"")))
    reader.start()  # a log that nobody reads would hold the server up
    yield Victim(live, copy)
    live.process.terminate()
    assert live.process.wait(timeout=20) == -signal.SIGTERM
    reader.join()
    live.process.stdin.close()
    live.process.stdout.close()
    live.process.stderr.close()
    text = b"".join(log).decode()
    faults = [line for line in text.splitlines() if re.match(r"[\w.]*(Error|Exception)\b", line) and GONE not in line]
    assert faults == [], text[-3000:]


class Route:
    """A route as it is registered: method, template, path with real parts, and a body that it takes."""

    def __init__(self, method, template, real, document) -> None:
        self.method = method
        self.template = re.sub(r":\w+}", "}", template)
        self.real = real
        self.path = self.with_part(None, "")
        operation = document["paths"].get(self.template, {}).get(method.lower(), {})
        content = operation.get("requestBody", {}).get("content", {})
        self.is_upload = "multipart/form-data" in content
        self.example = content.get("application/json", {}).get("example")
        self.body = b"a,b\n1,2\n" if self.is_upload else b"" if self.example is None else json.dumps(self.example).encode()
        self.type = "text/csv" if self.is_upload else "application/json"

    def __repr__(self) -> str:
        return f"{self.method} {self.template}"

    def with_part(self, name, text):
        """The path, one of its parts replaced."""
        return re.sub(r"{(\w+)}", lambda part: text if part[1] == name else self.real[part[1]], self.template)

    @property
    def parts(self):
        """The names of what stands in braces."""
        return re.findall(r"{(\w+)}", self.template)

    def request(self, host, *, path=None, method=None, headers=(), body=None, length=True, type=...):  # noqa: A002
        """The bytes of a request."""
        body = self.body if body is None else body
        lines = [f"{method or self.method} {path or self.path} HTTP/1.1", f"Host: {host}", "Connection: close"]
        kind = self.type if type is ... else type
        lines += [f"Content-Type: {kind}"] * (bool(body) and kind is not None)
        lines += [f"Content-Length: {len(body)}"] * (bool(body) and length)
        return "\r\n".join([*lines, *headers]).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


@pytest.fixture(scope="module")
def ways(victim, request):
    """Every route that is registered, those that put into the trash late and those that take out of it last.

    Without the long tests, of the three names of one upload, whose every body is read by a process of its own, one is left.
    """
    from ailab_api.app import create_app

    document = victim.live.get("/schema/openapi.json").json()
    real = {**REAL, "segment": min((victim.store / "segments").iterdir()).stem}
    found = [
        Route(method, route.path, real, document)
        for route in create_app(victim.store).routes
        for method in sorted(route.methods)
        if method != "OPTIONS"
    ]
    documented = {f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item}
    assert documented == {repr(route) for route in found}
    assert len(found) > 50
    assert {part for route in found for part in route.parts} <= set(NAMES)
    victim.registered = {(route.method, route.path) for route in found}
    if "not long" in request.config.option.markexpr:
        found = [route for route in found if not (route.is_upload and route.template.startswith("/api/modellab/datasets"))]
    return sorted(
        found, key=lambda route: (route.template.endswith("restore"), "restore" in route.template, route.method == "DELETE")
    )


# -- what is no HTTP -----------------------------------------------------------------------------------------------------


def test_bad_request_lines(victim, ways, figure):
    """G24: lines without a version, of other protocols, with blanks, NUL and bytes where none may be."""
    host = victim.live.host.encode()
    tail = b"\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n"
    with victim.attacked():
        for route in ways:
            method, path = route.method.encode(), route.path.encode()
            for line in (
                method,
                method + b" " + path,
                method + b"  " + path + b" HTTP/1.1",
                b" " + method + b" " + path + b" HTTP/1.1",
                method + b"\t" + path + b"\tHTTP/1.1",
                method + b" " + path + b" HTTP/9.9",
                method + b" " + path + b" HTTP/1",
                method + b" " + path + b" HTTP/1.1 x",
                method + b" " + path + b"\x00 HTTP/1.1",
                method + b" " + path + b"\xff HTTP/1.1",
                method + b" " + path + b" http/1.1",
                method + b" " + path[1:] + b" HTTP/1.1",
                method + b" " + path + b" FTP/1.1",
                method + b" http://evil.example" + path + b" HTTP/1.1",
                method + b" \\" + path + b" HTTP/1.1",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                b"PRI * HTTP/2.0",
                b"\x00" * 100,
                method + b" " + path + b"\rX HTTP/1.1",
            ):
                victim.attack(f"{route}: {line[:60]!r}", line + tail)
    figure(victim.said())


def test_wrong_hosts(victim, ways, figure):
    """No Host, two, an empty one, somebody else's, and what is none: never an answer, and never to be taken for ours."""
    with victim.attacked():
        for route in ways:
            for hosts in (
                [],
                [""],
                ["evil.example"],
                [victim.live.host, "evil.example"],
                ["localhost@evil.example"],
                ["a" * 5000],
                ["localhost:99999999999"],
                ["[::1"],
                ["127.0.0.1%00.evil.example"],
                ["\xe4.example"],
                ["localhost\x01"],
            ):
                lines = [f"{route.method} {route.path} HTTP/1.1", *(f"Host: {host}" for host in hosts), "Connection: close"]
                answer = victim.attack(f"{route}: {hosts!r:.60}", ("\r\n".join(lines) + "\r\n\r\n").encode())
                assert answer.status in {400, 421}, (route, hosts)
    figure(victim.said())


def test_oversized_and_broken_headers(victim, ways, figure):
    """Headers without an end, without a name, folded, with NUL, and thousands of them."""
    with victim.attacked():
        for n, route in enumerate(ways):
            for header in (
                "X: " + "a" * 100_000,
                "X" * 70_000 + ": a",
                "\r\n".join(f"X-{i}: a" for i in range(10_000 if n % 12 == 0 else 100)),
                "no colon",
                "X : a",
                ": a",
                "X: a\r\n b",
                "X: \x00",
                "X: \udcff",
                "X: a\nY: b",
                "X: a\rY: b",
                "Cookie: " + "a=b; " * 5_000,
                "Authorization: Basic !!!",
                "Authorization: " + "Bearer " * 1_000,
                "Last-Event-ID: \udcff:1",
                "If-None-Match: " + '",' * 9_000,
                "Accept: " + "*/*;q=" * 5_000,
                "Expect: 100-continue, x",
                "Upgrade: websocket\r\nConnection: upgrade",
                "Connection: " + "close, " * 3_000,
                "Content-Digest: sha-256=:x:",
                "Origin: \x7f",
            ):
                victim.attack(f"{route}: {header[:40]!r}", route.request(victim.live.host, headers=[header]))
    figure(victim.said())


LENGTHS = (
    "-1",
    "+8",
    "0x8",
    "8e0",
    "8 8",
    "8, 9",
    "8\r\nContent-Length: 9",
    "",
    "x",
    "\u0661",
    "9" * 30,
    "9" * 5_000,
    "18446744073709551617",
    "8\r\nTransfer-Encoding: chunked",
)


def test_lengths_that_lie(victim, ways, figure):
    """Content-Length that is none, twice different, negative, too small (the rest is no request), and too great."""
    with victim.attacked():
        for route in ways:
            body = b'{"a": 1}'
            for length in LENGTHS:
                data = route.request(victim.live.host, body=body, length=False, headers=[f"Content-Length: {length}"])
                victim.attack(f"{route}: length {length[:20]!r}", data, half=True)
            for length in (0, 1, 7):
                data = route.request(victim.live.host, body=body, length=False, headers=[f"Content-Length: {length}"])
                victim.attack(f"{route}: length {length}", data, half=True)
            for length in (9, 1000, 10**12):
                data = route.request(victim.live.host, body=body, length=False, headers=[f"Content-Length: {length}"])
                victim.attack(f"{route}: length {length}", data, half=True)
    figure(victim.said())


CHUNKS = (
    b"zz\r\n{}",
    b"-2\r\n{}\r\n0\r\n\r\n",
    b"0x2\r\n{}\r\n0\r\n\r\n",
    b"F" * 40 + b"\r\n{}",
    b"FFFFFFFF\r\n{}",
    b"2\r\n{}XX0\r\n\r\n",
    b"2\r\n{",
    b"2\r\n{}\r\n",
    b"2;" + b"x" * 100_000 + b"\r\n{}\r\n0\r\n\r\n",
    b"2\r\n{}\r\n0\r\nno trailer\r\n\r\n",
    b"\x00\r\n\r\n",
    b"2\n{}\n0\n\n",
    b"1\r\n{\r\n" * 3 + b"zz",
    b"0\r\n" + b"X: y\r\n" * 20_000,
    b"\r\n" * 100,
    b"1\r\n[\r\n" * 20_000 + b"0\r\n\r\n",
)


def test_chunks_of_garbage(victim, ways, figure):
    """Chunks without a size, with one that lies, without an end, and of a byte each; and encodings that nobody knows."""
    with victim.attacked():
        for n, route in enumerate(ways):
            for chunks in CHUNKS if n % 12 == 0 else [chunks for chunks in CHUNKS if len(chunks) < 1_000]:
                data = route.request(victim.live.host, body=chunks, length=False, headers=["Transfer-Encoding: chunked"])
                victim.attack(f"{route}: chunks {chunks[:20]!r}", data, half=True)
            for encoding in ("gzip", "gzip, chunked", "chunked, chunked", "identity", "xchunked", "\x0bchunked", ""):
                data = route.request(
                    victim.live.host, body=b"2\r\n{}\r\n0\r\n\r\n", length=False, headers=[f"Transfer-Encoding: {encoding}"]
                )
                victim.attack(f"{route}: {encoding!r}", data, half=True)
    figure(victim.said())


def test_what_is_no_http_is_refused_with_a_problem_too(victim):
    """Every error is application/problem+json, as the API's README says, also where no request could be read."""
    for data in (b"GET\r\n\r\n", f"POST /runs HTTP/1.1\r\nHost: {victim.live.host}\r\nContent-Length: -1\r\n\r\n".encode()):
        answer = exchange(victim.live, data, half=True)
        assert answer.status == 400
        assert answer.header("content-type") == "application/problem+json"
        assert answer.header("x-content-type-options") == "nosniff"


@pytest.mark.parametrize("body", [b"{", b"zz"], ids=["truncated", "garbage"])
def test_a_client_that_leaves_is_no_fault_of_the_server(start, tmp_path, body):
    """A truncated body or a broken chunk leaves nothing in the log: 30 lines for each would fill a disk."""
    live = start(dir=tmp_path / "lab")
    how = "Content-Length: 100" if body == b"{" else "Transfer-Encoding: chunked"
    head = f"POST /runs HTTP/1.1\r\nHost: {live.host}\r\nContent-Type: application/json\r\n{how}\r\n\r\n"
    exchange(live, head.encode() + body, half=True)
    assert live.ask("GET", "/health").status == 200
    assert live.end() == (-signal.SIGTERM, "")


# -- bodies --------------------------------------------------------------------------------------------------------------


def bodies_for(route):
    """(name, body) of what is no body that this route takes, or is none that anybody should take."""
    yield "deep list", b"[" * DEEP
    if not route.body:
        return
    yield "deep list, closed", b"[" * DEEP + b"]" * DEEP
    yield "deep object", b'{"a":' * DEEP + b"1" + b"}" * DEEP
    yield "not UTF-8", b'{"a": "\xff\xfe"}'
    yield "not UTF-8 at all", bytes(range(256))
    yield "NUL", b"\x00" * 100
    yield "BOM", b"\xef\xbb\xbf{}"
    yield "UTF-16", '{"a": 1}'.encode("utf-16")
    yield "truncated", (route.body or b'{"a": "b"}')[:-2]
    yield "two", b"{}{}"
    for text in (
        "null",
        "[]",
        '"x"',
        "1",
        "true",
        "NaN",
        "-",
        "1e999999",
        "9" * 10_000,
        '{"a":1,"a":2}',
        '{"__proto__":{}}',
        '{"":""}',
        "{}",
    ):
        yield text[:20], text.encode()
    yield "many keys", json.dumps({f"k{i}": i for i in range(20_000)}).encode()
    if isinstance(route.example, dict):
        nested = [
            json.loads("[" * 900 + "]" * 900),
            "\ud800",
            "x" * 100_000,
            "\x00",
            -1,
            1e308,
            10**400,
            None,
            [],
            {},
            [None],
            {"": {}},
        ]
        for key in route.example:
            for value in nested:
                yield f"{key} = {str(value)[:20]}", json.dumps({**route.example, key: value}).encode()
            deep = b"[" * DEEP + b"]" * DEEP
            yield f"{key} = deep", json.dumps({**route.example, key: "@@"}).encode().replace(b'"@@"', deep)


def test_bodies_of_every_bad_kind(victim, ways, figure):
    """JSON 100,000 deep, truncated, not UTF-8, of other shapes, each field of each route's example of each wrong type."""
    with victim.attacked(growth=320 << 20):  # much of this is taken, and kept in the catalogue
        for route in ways:
            for name, body in bodies_for(route):
                if b"protected" in body and route.example:
                    continue
                for kind in ("application/json", "application/octet-stream") if route.is_upload else ("application/json",):
                    path = (
                        f"{route.path}?path=x.json"
                        if route.template == "/artifacts/{run_id}" and kind.endswith("stream")
                        else None
                    )
                    victim.attack(f"{route}: {name}", route.request(victim.live.host, body=body, type=kind, path=path))
    figure(victim.said())


def test_bodies_that_are_too_large(victim, ways, figure):
    """More than 8 MiB of JSON is refused, said in Content-Length or come in chunks."""
    big = b'{"note": "' + b"a" * (9 << 20) + b'"}'
    chunks = b"".join(
        b"%X\r\n%s\r\n" % (len(part), part) for part in (big[i : i + (1 << 20)] for i in range(0, len(big), 1 << 20))
    )
    with victim.attacked():
        for route in ways:
            if route.example is not None:
                answer = victim.attack(f"{route}: large", route.request(victim.live.host, body=big, type="application/json"))
                assert answer.status in {413, 0}, route  # closed: it refused before all had come
                data = route.request(
                    victim.live.host, body=chunks + b"0\r\n\r\n", length=False, headers=["Transfer-Encoding: chunked"],
                    type="application/json",
                )  # fmt: skip
                assert victim.attack(f"{route}: large chunks", data).status in {413, 0}, route
    figure(victim.said())


TYPES = (
    None,
    "text/plain",
    "application/x-www-form-urlencoded",
    "application/xml",
    "application/json; charset=utf-16",
    "application/json;x=y",
    "application/jsonp",
    "text/json",
    "*/*",
    "a" * 10_000,
    "application/json\r\nContent-Type: text/plain",
    "multipart/form-data",
    "multipart/form-data; boundary=" + "b" * 5_000,
    "multipart/mixed; boundary=b",
    "application/x-python-pickle",
    "message/http",
)


def test_wrong_content_types(victim, ways, figure):
    """A body of a type that a route does not take is refused, whatever the method."""
    with victim.attacked():
        for route in ways:
            for kind in TYPES:
                answer = victim.attack(
                    f"{route}: {kind!r:.40}", route.request(victim.live.host, body=route.body or b"{}", type=kind)
                )
                assert answer.status in ({0, 200, 201, 400, 409, 415} if route.is_upload else {415}), (route, kind)
    figure(victim.said())


# -- paths, queries, methods, ranges -------------------------------------------------------------------------------------

EVIL = (
    "..",
    "../..",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e%2f%2e%2e",
    "%252e%252e%252f",
    "%2fetc%2fpasswd",
    "/etc/passwd",
    "..%5c..%5c",
    "%00",
    "run-a%00.csv",
    "%ff%fe",
    "%c0%ae%c0%ae%2f",
    "%ed%a0%80",
    "%0d%0aX:%20y",
    "%",
    "%zz",
    "%u0041",
    "a" * 3_000,
    "%F0%9F%A7%AA" * 300,
    "~",
    ".",
    "%20",
    "CON",
    "con.txt",
    "C:%5cx",
    "file:%2f%2f%2fetc",
    "*",
    "@",
    "x@v999999999999999999999",
    "x@sha256:",
    "'%20or%201=1--",
    "%7f",
    "%e2%80%ae",
    "nan",
    "-1",
    "9" * 400,
    "%22%3e%3cscript%3e",
    "$(id)",
    "{x}",
    ":1",
    "a:b:c",
    "a:" + "9" * 50,
    "%0a",
    "a%2fb",
    "..;",
    ";x=y",
)


def test_paths_that_lead_out_or_are_no_text(victim, ways, figure):
    """In the place of every part of every path: `..`, absolute, encoded once and twice, NUL, no UTF-8, endless; no file comes."""
    with victim.attacked():
        for route in ways:
            for evil in EVIL:
                for path in [route.with_part(name, evil) for name in route.parts] or [f"{route.path}/{evil}"]:
                    answer = victim.attack(f"{route}: {path[:60]}", route.request(victim.live.host, path=path))
                    assert b"root:" not in answer.body
                    assert dict(answer.headers).get("x") is None
    figure(victim.said())


def test_queries_of_every_bad_kind(victim, ways, figure):
    """No UTF-8, NUL, pairs without an end, numbers without an end; every parameter that a route has, of every wrong value."""
    document = victim.live.get("/schema/openapi.json").json()
    long = ("q=" + "a" * 40_000, "&".join(f"k{i}=v" for i in range(4_000)), "&" * 30_000, "=" * 30_000, "q=" + "%61" * 15_000)
    plain = (
        "%ff=%ff",
        "q=%00",
        "q=%ed%a0%80",
        "%",
        "&&&",
        "=",
        "q",
        "?",
        "q=a;b=c",
        "limit[]=1",
        "__proto__=1",
        "limit=1&limit=2",
        "#",
    )
    values = (
        "",
        "-1",
        "0",
        "1e9",
        "9" * 300,
        "nan",
        "%00",
        "%ff",
        "%F0%9F%A7%AA",
        "a" * 9_000,
        "(" * 3_000,
        "not%20" * 2_000,
        "%27",
        "*",
        "../..",
    )
    with victim.attacked():
        for route in ways:
            operation = document["paths"][route.template][route.method.lower()]
            names = [one["name"].replace("KEY", "x") for one in operation.get("parameters", []) if one["in"] == "query"]
            for query in [
                *plain,
                *long,
                *(f"{name}={value}" for name in names for value in values if (name, value) != ("seconds", "1e9")),
            ]:
                data = route.request(victim.live.host, path=f"{route.path}?{query}", method=route.method)
                victim.attack(f"{route}: ?{query[:60]}", data)
    figure(victim.said())


def test_methods_that_nobody_knows(victim, ways, figure):
    """405 with Allow, on every path, for every method that is not registered there."""
    with victim.attacked():
        for path in sorted({route.path for route in ways}):
            for method in (
                "TRACE",
                "CONNECT",
                "BREW",
                "PROPFIND",
                "get",
                "X" * 10_000,
                "PRI",
                "POST",
                "PUT",
                "PATCH",
                "DELETE",
                "GET",
            ):
                if (method, path) not in victim.registered:
                    lines = f"{method} {path} HTTP/1.1\r\nHost: {victim.live.host}\r\nConnection: close\r\n\r\n"
                    answer = victim.attack(f"{method[:9]} {path}", lines.encode())
                    assert answer.status in {404, 405}, (method, path)
            for lie in ("X-HTTP-Method-Override: DELETE", "X-Original-URL: /projects", "X-Forwarded-Host: evil.example"):
                victim.attack(
                    path, f"GET {path} HTTP/1.1\r\nHost: {victim.live.host}\r\nConnection: close\r\n{lie}\r\n\r\n".encode()
                )
    figure(victim.said())


def test_ranges_that_are_absurd(victim, ways, figure):
    """Ranges without an end, backwards, by the thousand: a part, the whole, or 416; never more bytes than the file has."""
    ranges = (
        "bytes=0-,0-",
        "bytes=" + ",".join(["0-"] * 5_000),
        "bytes=5-1",
        "bytes=-",
        "bytes=--1",
        "bytes=" + "9" * 18 + "-",
        "bytes=-0",
        "bytes=0-" + "9" * 18,
        "bytes=" + "9" * 5_000 + "-",
        "bytes=-" + "9" * 18,
        "lines=1-2",
        "bytes=a-b",
        "bytes=0-0,-1",
        "bytes 0-1",
        "",
        "bytes=\u0661-",
        "bytes=0x0-1",
        "bytes=1e3-",
        "bytes=0-0\r\nRange: bytes=1-1",
    )
    with victim.attacked():
        for route in (route for route in ways if route.method == "GET" and not route.template.endswith("preview")):
            for text in ranges:
                answer = victim.attack(f"{route}: {text[:30]}", route.request(victim.live.host, headers=[f"Range: {text}"]))
                assert answer.status in {200, 206, 400, 404, 416}, (route, text)
                if "download" in route.template:
                    assert len(answer.body) <= 1000
    figure(victim.said())


# -- uploads -------------------------------------------------------------------------------------------------------------


def uploads_of(ways):
    return [route for route in ways if route.is_upload]


def upload(victim, route, body, query="", **given):
    """Send a file to a route that takes one."""
    given.setdefault("type", "application/octet-stream")
    return victim.attack(f"{route} {query}", route.request(victim.live.host, path=route.path + query, body=body, **given))


def test_bombs_of_text(victim, ways, figure):
    """A line of 12 MB, a quote without an end, 100,000 columns, rows of other lengths, JSON 100,000 deep: read or refused."""
    wide = b",".join(b"c%d" % i for i in range(100_000))
    with victim.attacked():
        (datasets,) = (route for route in ways if repr(route) == "POST /datasets")
        for name, body, statuses in (
            ("line.csv", b"a" * 12_000_000, {201, 400}),
            ("quote.csv", b'a,b\n"' + b"a" * 12_000_000, {400}),
            ("wide.csv", wide, {400}),
            ("rows.csv", b"a,b\n" + wide, {400}),
            ("delimiters.csv", b"," * 2_000_000, {400}),
            ("nul.csv", b"a,b\n\x00,1\n", {400}),
            ("quotes.csv", b'"' * 999_999, {201, 400}),
            ("blank.csv", b"\n" * 2_000_000, {400}),
            ("deep.json", b"[" * DEEP, {400}),
            ("deep.ndjson", b'{"a":' * DEEP + b"1" + b"}" * DEEP, {400}),
            ("keys.ndjson", b"".join(b'{"k%d":1}\n' % i for i in range(20_000)), {400}),
            ("bytes.csv", os.urandom(100_000), {400}),
            ("empty.csv", b" ", {400}),
            ("../../x.csv", b"a\n1\n", {201}),
        ):
            answer = upload(victim, datasets, body, f"?file={name}", type="text/csv")
            assert answer.status in statuses, (name, answer.status, answer.body[:200])
    figure(victim.said())


def parquet(rows=1000):
    """A Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table({"a": list(range(rows)), "b": ["x" * 20] * rows}), sink, compression="zstd")
    return sink.getvalue()


def parquet_lies():
    """(name, bytes) of Parquet files that are damaged, or say what is not so."""
    whole = parquet()
    yield "cut", whole[: len(whole) // 2]
    yield "magic alone", b"PAR1PAR1"
    for size in (0, 1, 2**31 - 1, 2**31, 2**32 - 1, len(whole), len(whole) * 2):
        yield f"footer of {size}", whole[:-8] + struct.pack("<I", size) + b"PAR1"
    yield "zeros", b"PAR1" + bytes(len(whole) - 8) + b"PAR1"
    for place in range(4, len(whole) - 8, len(whole) // 6):
        yield f"damaged at {place}", whole[:place] + bytes(b ^ 0xFF for b in whole[place : place + 16]) + whole[place + 16 :]
    yield "thrift that is deep", whole[:4] + b"\x1c" * 100_000 + struct.pack("<I", 100_000) + b"PAR1"


def test_parquet_that_is_damaged_or_lies(victim, ways, figure):
    """Cut, overwritten, with footers that say 4 GB or none: refused or read, in a process of its own."""
    (datasets,) = (route for route in ways if repr(route) == "POST /datasets")
    with victim.attacked():
        for name, body in parquet_lies():
            answer = upload(victim, datasets, body, "?file=x.parquet")
            assert answer.status in {200, 201, 400}, (name, answer.status)
            assert answer.status == 400 or "damaged" in name, name
    figure(victim.said())


def zip_bomb():
    """A ZIP file of 30 KB that holds 30 MB."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.csv", b"a,b\n" + b"1" * 30_000_000)
    return sink.getvalue()


def test_bombs_that_are_packed_are_not_unpacked(victim, ways, figure):
    """A ZIP or gzip file is no dataset, and as an artifact it stays as it is; nothing is unpacked by the server."""
    packed = {"x.zip": (zip_bomb(), "application/zip"), "x.csv.gz": (gzip.compress(b"1" * 30_000_000), "application/gzip")}
    with victim.attacked(growth=24 << 20):
        for route in uploads_of(ways):
            for name, (body, kind) in packed.items():
                query = {"/datasets": f"?file={name}", "/artifacts/{run_id}": f"?path={name}"}.get(route.template, "")
                answer = upload(victim, route, body, query, type=kind)
                assert answer.status in ({201} if "path=" in query else {400, 409}), (route, name)
                if answer.status == 201:
                    assert json.loads(answer.body)["size"] == len(body)
        for route in ways:
            if route.example is not None:
                body = gzip.compress(route.body)
                answer = victim.attack(
                    f"{route}: gzip", route.request(victim.live.host, body=body, headers=["Content-Encoding: gzip"])
                )
                assert answer.status in {400, 415}, route
    figure(victim.said())


def test_an_encoding_that_is_not_taken_is_refused(victim, ways):
    """A body with Content-Encoding is refused (415) where encodings are not undone: else a file is kept that nobody sent."""
    (artifacts,) = (route for route in ways if repr(route) == "POST /artifacts/{run_id}")
    body = gzip.compress(b"a,b\n1,2\n")
    answer = upload(victim, artifacts, body, "?path=encoded.csv", type="text/csv", headers=["Content-Encoding: gzip"])
    assert answer.status == 415


FORMS = (
    b"",
    b"--b",
    b"--b\r\n",
    b"--b--\r\n",
    b"garbage",
    b"--b\r\n\r\n\r\n--b--\r\n",
    b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx',
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.csv"\r\n\r\na,b\n1,2\n',
    b'--b\r\nContent-Disposition: form-data; name="' + b"x" * 100_000 + b'"\r\n\r\nx\r\n--b--\r\n',
    b'--b\r\nContent-Disposition: form-data; name="\xff\xfe"; filename="\xff"\r\n\r\nx\r\n--b--\r\n',
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="../../../etc/x\x00.csv"\r\n\r\na\n1\n\r\n--b--\r\n',
    b"".join(b'--b\r\nContent-Disposition: form-data; name="k%d"\r\n\r\nx\r\n' % i for i in range(1_000)) + b"--b--\r\n",
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n' * 2 + b"--b--\r\n",
    b'--b\r\nContent-Disposition: form-data; name="tags"\r\n\r\n' + b"[" * DEEP + b"\r\n"
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\na\n1\n\r\n--b--\r\n',
    b'--b\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n' + b'{"a":' * DEEP + b"\r\n"
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\na\n1\n\r\n--b--\r\n',
    b"\r\n--" * 20_000,
    b"--b\r\n" + b"X: y\r\n" * 20_000 + b"\r\nx\r\n--b--\r\n",
    b'--b\r\nContent-Disposition: form-data; name="description"\r\n\r\n' + b"x" * (2 << 20) + b"\r\n--b--\r\n",
)


def test_forms_of_every_bad_kind(victim, ways, figure):
    """Forms without an end, without a file, with two, with a thousand fields, names that lead out: nothing of them stays."""
    with victim.attacked():
        for route in uploads_of(ways):
            for form in FORMS:
                if form:
                    upload(victim, route, form, type="multipart/form-data; boundary=b")
    figure(victim.said())


def test_uploads_that_break_off_leave_nothing(victim, ways, figure):
    """A client that leaves in the middle of 5 MB, politely or by a reset."""
    with victim.attacked():
        for route in uploads_of(ways):
            query = {"/datasets": "?file=x.csv", "/artifacts/{run_id}": "?path=x.csv"}.get(route.template, "")
            data = route.request(
                victim.live.host,
                path=route.path + query,
                body=b"a,b\n" * 500_000,
                length=False,
                type="text/csv",
                headers=["Content-Length: 5000000"],
            )
            assert victim.attack(repr(route), data, half=True) is CLOSED
            with victim.live.connect() as connection:
                connection.sendall(data)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    figure(victim.said())


# -- slow and idle clients -----------------------------------------------------------------------------------------------


def drip(connection, data, stop):
    with contextlib.suppress(OSError):
        for i in range(len(data)):
            if stop.wait(0.2):
                return
            connection.sendall(data[i : i + 1])


def test_slow_clients_hold_nobody_up(victim, ways, figure):
    """On every route at once a body drips, a byte at a time; others are answered meanwhile, and what dripped is gone with it."""
    stop, slowest = threading.Event(), 0.0
    with victim.attacked(), contextlib.ExitStack() as stack:
        threads = []
        for route in ways:
            connection = stack.enter_context(victim.live.connect())
            connection.sendall(
                route.request(victim.live.host, body=b"{", length=False, headers=["Content-Length: 100000"], type=route.type)
            )
            threads.append(threading.Thread(target=drip, args=(connection, b" " * 10_000, stop)))
            threads[-1].start()
        time.sleep(1.5)  # what needs no body was answered at once, all of it together
        until = time.monotonic() + 2
        while time.monotonic() < until:
            slowest = max(slowest, victim.health())
            assert victim.live.get("/artifacts/run-a/download/metrics.csv").status == 200
        stop.set()
        for thread in threads:
            thread.join()
        assert slowest < PROMPT_S
    figure(f"{len(threads)} bodies that dripped; the slowest answer meanwhile in {slowest * 1000:.0f} ms")


def idle(victim, count):
    """So many connections that say nothing, half a request, or half a body: (slowest answer, bytes of memory for each)."""
    before = victim.process.memory_info().rss
    starts = (
        b"",
        b"GET /runs HTTP/1.1\r\nHost: ",
        b"POST /datasets?file=x.csv HTTP/1.1\r\nHost: %s\r\nContent-Type: text/csv\r\n"
        b"Content-Length: 100\r\n\r\na,b" % victim.live.host.encode(),
    )
    slowest = 0.0
    with contextlib.ExitStack() as stack:
        for i in range(count):
            connection = stack.enter_context(victim.live.connect())
            connection.sendall(starts[i % 3])
        until = time.monotonic() + 1
        while time.monotonic() < until:
            slowest = max(slowest, victim.health())
        assert victim.live.get("/runs").status == 200
        grown = victim.process.memory_info().rss - before
    return slowest, grown / count


def test_a_hundred_idle_connections(victim, figure):
    """Others are answered within a second, and each costs less than half a megabyte."""
    with victim.attacked():
        slowest, each = idle(victim, 100)
        assert slowest < PROMPT_S
        assert each < 512 * 1024
    figure(f"100 idle connections: slowest answer {slowest * 1000:.0f} ms, {each / 1024:.0f} KB each")


@pytest.mark.long
def test_a_thousand_idle_connections(victim, figure):
    """The same with ten times as many."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    with victim.attacked(growth=512 << 20):
        slowest, each = idle(victim, 1000)
        assert slowest < PROMPT_S
        assert each < 512 * 1024
    figure(f"1,000 idle connections: slowest answer {slowest * 1000:.0f} ms, {each / 1024:.0f} KB each")


def test_wide_files_hold_no_download_up(start, store, tmp_path):
    """Eight files of 9,000 columns and 70 KB are read at once; a download is answered within three seconds meanwhile."""
    live = start(dir=shutil.copytree(store, tmp_path / "lab", copy_function=os.link))
    header = b",".join(b"c%d" % i for i in range(9_000)) + b"\n"
    with contextlib.ExitStack() as stack:
        for i in range(8):
            body = header + b",".join([b"%d" % i] * 9_000) + b"\n"
            connection = stack.enter_context(live.connect())
            head = f"POST /datasets?file=w{i}.csv HTTP/1.1\r\nHost: {live.host}\r\nContent-Type: text/csv\r\n"
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        time.sleep(0.7)
        with live.connect() as connection:
            connection.settimeout(3)
            connection.sendall(
                f"GET /artifacts/run-a/download/metrics.csv HTTP/1.1\r\nHost: {live.host}\r\nConnection: close\r\n\r\n".encode()
            )
            found = b""
            try:
                while piece := connection.recv(65536):
                    found += piece
            finally:
                for child in psutil.Process(live.process.pid).children(recursive=True):
                    child.kill()
                live.process.kill()
        assert found.endswith(b"1,0.5\n")


def test_sql_that_nobody_waits_for_holds_nobody_up(start, store, tmp_path):
    """Clients that leave right behind their question, twelve and more: whoever comes then is answered."""
    live = start(dir=shutil.copytree(store, tmp_path / "lab", copy_function=os.link))
    body = b'{"sql": "select name, status, metrics from runs", "limit": 10}'
    head = f"POST /sql HTTP/1.1\r\nHost: {live.host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    try:
        for _ in range(24):
            exchange(live, head.encode() + body, half=True)
        time.sleep(1)
        answer = exchange(live, f"GET /journal/x{'0' * 20} HTTP/1.1\r\nHost: {live.host}\r\nConnection: close\r\n\r\n".encode())
        assert answer.status in {400, 404}
    finally:
        live.process.kill()


# -- the negative control ------------------------------------------------------------------------------------------------

DEFENCELESS = """
import json, os, signal, socket, sys, threading, time, uvicorn
threading.Thread(target=lambda: (os.read(0, 1), os.kill(os.getpid(), signal.SIGTERM)), daemon=True).start()
kept = []

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    status, kind, path = 200, b"application/json", scope["path"]
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    if path == "/leave":
        open(os.path.join(sys.argv[1], ".tmp-1-2"), "wb").write(body)
    elif path == "/hoard":
        kept.append(body * 20)
    elif path == "/block":
        time.sleep(1.5)
    elif path == "/plain":
        status, kind = 400, b"text/plain"
    elif path == "/exit":
        os._exit(3)
    elif body:
        json.loads(body)
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": b"{}"})

listener = socket.create_server(("127.0.0.1", 0))
print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off")).run(sockets=[listener])
"""


@pytest.mark.parametrize(
    ("path", "body", "fault"),
    [
        ("/any", b"[" * DEEP, "status 500"),
        ("/any", b"\xff", "status 500"),
        ("/plain", b"{}", "400 is no problem"),
        ("/leave", b"{}", "left .tmp-1-2"),
        ("/hoard", b" " * (9 << 20), "memory grew"),
        ("/exit", b"{}", "the server ended"),
    ],
    ids=["deep", "not UTF-8", "plain", "leave", "hoard", "exit"],
)
def test_control_a_server_without_defence_is_found(start, tmp_path, path, body, fault):
    """G24, negative control: a server that decodes what comes, keeps it, leaves files or ends is found by the same checks."""
    lab = tmp_path / "lab"
    lab.mkdir()
    found = Victim(start(dir=lab, source=DEFENCELESS), lab)
    head = f"POST {path} HTTP/1.1\r\nHost: {found.live.host}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    with pytest.raises(AssertionError, match=re.escape(fault)), found.attacked():
        found.attack(path, head.encode() + body)


def test_control_a_server_that_stands_still_is_found(start, tmp_path):
    """G24, negative control: a handler that blocks shows in the time of /health."""
    found = Victim(start(dir=tmp_path, source=DEFENCELESS), tmp_path)
    with pytest.raises(AssertionError, match="/health took"), found.attacked(), found.live.connect() as connection:  # noqa: PT012
        connection.sendall(f"GET /block HTTP/1.1\r\nHost: {found.live.host}\r\n\r\n".encode())
        time.sleep(0.1)
