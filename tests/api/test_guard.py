"""The guard: every rule, on every route, in raw bytes over a socket; and what the same server answers without it."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from live import SECURITY, read_answer

HEADERS = {**SECURITY, "cache-control": "no-store"}
NOTE = b'{"note": "changed by a page"}'

UNGUARDED = """
import os, signal, socket, sys, threading, uvicorn
from litestar import Litestar
from ailab_api.access import Actor
from ailab_api.app import create_app
threading.Thread(target=lambda: (os.read(0, 1), os.kill(os.getpid(), signal.SIGTERM)), daemon=True).start()
server = create_app(sys.argv[1])
async def app(scope, receive, send):
    scope["ailab_actor"] = Actor(role="admin")
    await Litestar.__call__(server, scope, receive, send)
listener = socket.create_server(("127.0.0.1", 0))
print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on")).run(sockets=[listener])
"""


@pytest.fixture
def sends(routes):
    """Every route as (method, path, headers, body), with a body that would be accepted."""
    return [(verb, path, *body_of(operation)) for verb, path, _, operation in routes]


def body_of(operation):
    """(headers, body) of an operation: the document's own example, or a file."""
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" in content:
        return {"Content-Type": "application/json"}, json.dumps(content["application/json"]["example"]).encode()
    return ({"Content-Type": "application/octet-stream"}, b"a,b\n1,2\n") if content else ({}, b"")


def note_of(server, run="run-w"):
    return server.get(f"/runs/{run}").json()["note"]


# -- Host --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost",
        "localhost:1",
        "127.0.0.1",
        "127.0.0.1:65535",
        "[::1]",
        "[::1]:8000",
        "[0:0:0:0:0:0:0:1]",
        "localhost.",
        "127.9.9.9",
    ],
)
def test_loopback_hosts_are_ours(server, host):
    """The names of loopback, with or without any port, in any case."""
    assert server.ask("GET", "/health", host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8000", "localhost.evil.example", "evil-localhost", "127.0.0.1.evil.example", "192.168.0.1",
        "0.0.0.0", "[::]", "[::ffff:127.0.0.1]", "169.254.169.254", "2130706433", "0x7f.1", "localhost%00.evil.example",
        "localhost@evil.example", "evil.example#localhost", "localhost:8000@evil.example", "localhost:99999", "localhost:",
        "localhost:80:80",
        "[::1", "::1", "localhost,evil.example", "", "xn--lcalhost-", "*", "localhost evil.example", "localhost/evil",
    ],
)  # fmt: skip
def test_foreign_hosts_are_refused(server, host):
    """Any other host, however it dresses up (DNS rebinding), gets 400 or 421 and no data."""
    answer = server.ask("GET", "/runs", host=host)
    assert answer.status in {400, 421}
    assert b"run-a" not in answer.body


def test_every_route_refuses_a_foreign_host(server, sends):
    """Route enumeration: no route of the document, and no unknown one, is outside the guard."""
    assert len(sends) > 40
    for verb, path, headers, body in [
        *sends,
        ("GET", "/nothing", {}, b""),
        ("DELETE", "/runs", {}, b""),
        ("OPTIONS", "/", {}, b""),
    ]:
        assert server.ask(verb, path, headers, body, host="evil.example").status == 421, (verb, path)


def test_every_route_answers_its_own_host(playground, sends):
    """The same requests with the right Host come to their routes."""
    for verb, path, headers, body in sends:
        assert playground.ask(verb, path, headers, body).status not in {403, 405, 415, 421, 500}, (verb, path)


def test_one_host_exactly(server):
    """No Host, or two of them, is a 400."""
    assert server.raw(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n").status == 400
    assert server.raw(b"GET /health HTTP/1.0\r\n\r\n").status == 400
    assert server.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n").status == 400
    assert server.raw(b"GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").status == 400


@pytest.mark.parametrize(
    ("hosts", "status"), [([], 400), ([b"localhost"], 200), ([b"localhost", b"localhost"], 400), ([b"evil"], 421)]
)
def test_the_guard_counts_hosts_itself(hosts, status):
    """Whatever server stands before it: exactly one Host."""
    assert asyncio.run(through_the_guard([(b"host", host) for host in hosts])) == status


async def through_the_guard(headers):
    """The status that the guard gives a plain GET, or 200 where it lets it pass."""
    from ailab_api.guard import Guard, Rules

    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": "GET", "path": "/", "raw_path": b"/", "headers": headers, "query_string": b"",
        "client": ("127.0.0.1", 1),
    }  # fmt: skip
    await Guard(app, Rules())(scope, None, send)
    return sent[0]["status"]


def test_allowed_hosts(start, tmp_path):
    """AILAB_ALLOWED_HOSTS adds names: without a port for any port, with one for that port alone."""
    live = start(dir=tmp_path / "lab", AILAB_ALLOWED_HOSTS="lab.example, other.example:8443")
    for host, status in {
        "lab.example": 200, "LAB.example:1": 200, "other.example:8443": 200, "other.example": 421, "other.example:1": 421,
        "sub.lab.example": 421, "localhost:5": 200,
    }.items():  # fmt: skip
        assert live.ask("GET", "/health", host=host).status == status, host


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AILAB_TRUSTED_PROXIES", "*"), ("AILAB_TRUSTED_PROXIES", "0.0.0.0/0"), ("AILAB_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("AILAB_ALLOWED_HOSTS", "*"), ("AILAB_ALLOWED_HOSTS", "http://a"), ("AILAB_CORS_ORIGINS", "*"),
        ("AILAB_CORS_ORIGINS", "null"), ("AILAB_CORS_ORIGINS", "lab.example"),
    ],
)  # fmt: skip
def test_wildcards_are_no_entries(monkeypatch, tmp_path, name, value):
    """A server whose allow-lists would let everybody in, or nobody, does not start, and makes no store."""
    from ailab.errors import SettingError
    from ailab_api.app import serve

    monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match=f"{name}: .* is not allowed"):
        serve(port=0, dir=tmp_path / "lab")
    assert not (tmp_path / "lab").exists()


# -- Origin and Sec-Fetch-Site -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example", "null", "http://localhost", "http://127.0.0.1", "http://localhost:1", "https://evil.example:443", "file://",
        "http://localhost.evil.example", "", "http://", "chrome-extension://abc",
    ],
)  # fmt: skip
def test_a_foreign_origin_changes_nothing(server, origin):
    """A page of another host or port, of a file or a sandbox, cannot write; `null` is foreign."""
    answer = server.ask("PATCH", "/runs/run-w/note", {"Origin": origin}, NOTE)
    assert answer.status == 403
    assert answer.json()["where"] == "Origin"
    assert note_of(server) != "changed by a page"


def test_every_changing_route_refuses_foreign_pages(server, sends):
    """Route enumeration: every method but GET, HEAD and OPTIONS needs our origin or none, and JSON."""
    changing = [given for given in sends if given[0] not in {"GET", "HEAD", "OPTIONS"}]
    assert len(changing) > 20
    for verb, path, headers, body in [*changing, ("PUT", "/nothing", {}, b"{}"), ("BREW", "/", {}, b"")]:
        assert server.ask(verb, path, {**headers, "Origin": "http://evil.example"}, body).status == 403, path
        assert server.ask(verb, path, {**headers, "Sec-Fetch-Site": "cross-site"}, body).status == 403, path
        assert server.ask(verb, path, {**headers, "Sec-Fetch-Site": "same-site"}, body).status == 403, path
        if body:
            assert server.ask(verb, path, {"Content-Type": "text/plain"}, body).status == 415, path
            assert server.ask(verb, path, {"Content-Type": "application/x-www-form-urlencoded"}, body).status == 415, path


def test_our_own_origin_passes(server):
    """Programs send no Origin; our own pages send our host and port, by whatever name they called us."""
    host, port = server.address
    for name, origin in (
        (None, None),
        (None, f"http://{host}:{port}"),
        (f"localhost:{port}", f"HTTP://LOCALHOST:{port}"),
        ("localhost", "http://localhost:80"),
    ):
        headers = {} if origin is None else {"Origin": origin, "Sec-Fetch-Site": "same-origin"}
        assert server.ask("PATCH", "/runs/run-w/note", headers, b'{"note": "ours"}', host=name).status == 200, origin
    assert server.ask("POST", "/compare", {"Sec-Fetch-Site": "none"}, b'{"run_ids": ["run-a"]}').status == 200


def test_two_origins_are_foreign(server):
    """A second Origin header does not hide the first."""
    head = f"PATCH /runs/run-w/note HTTP/1.1\r\nHost: {server.host}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    for first, second in (("http://evil.example", f"http://{server.host}"), (f"http://{server.host}", "http://evil.example")):
        answer = server.raw(f"{head}Origin: {first}\r\nOrigin: {second}\r\nContent-Length: {len(NOTE)}\r\n\r\n".encode() + NOTE)
        assert answer.status == 403


def test_forwarding_headers_count_for_nothing(server):
    """X-Forwarded-Host and its kin neither open nor close a door."""
    forged = {
        "X-Forwarded-Host": "localhost",
        "X-Forwarded-For": "127.0.0.1",
        "Forwarded": "host=localhost",
        "X-Original-URL": "/runs",
    }
    assert server.ask("GET", "/health", forged, host="evil.example").status == 421
    assert server.ask("GET", "/health", {"X-Forwarded-Host": "evil.example"}).status == 200
    assert server.ask("POST", "/runs/run-w", {"X-HTTP-Method-Override": "PATCH"}, NOTE).status == 405


# -- CORS --------------------------------------------------------------------------------------------------------------


def test_no_page_may_read_by_default(server):
    """Without an allow-list no answer carries a CORS header, and a preflight is refused."""
    answer = server.ask("GET", "/runs", {"Origin": "http://evil.example"})
    assert answer.status == 200
    assert [name for name, _ in answer.headers if name.startswith("access-control")] == []
    asked = {
        "Origin": "http://evil.example",
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "content-type",
    }
    refused = server.ask("OPTIONS", "/runs/run-w/note", asked)
    assert refused.status == 403
    assert [name for name, _ in refused.headers if name.startswith("access-control")] == []


def test_listed_origins_may_read_and_write(start, tmp_path):
    """An origin of AILAB_CORS_ORIGINS is answered by name, also in a preflight; others are not."""
    live = start(dir=tmp_path / "lab", AILAB_CORS_ORIGINS="https://ui.example, http://localhost:5173")
    good, bad = {"Origin": "https://ui.example", "Sec-Fetch-Site": "cross-site"}, {"Origin": "https://ui.example.evil.example"}
    answer = live.ask("GET", "/runs", good)
    assert answer.header("access-control-allow-origin") == "https://ui.example"
    assert answer.header("access-control-expose-headers").startswith("X-Total-Count, ETag, Link")
    assert "Origin" in answer.all("vary")
    assert answer.all("access-control-allow-credentials") == []
    assert live.ask("GET", "/runs", bad).all("access-control-allow-origin") == []
    assert "Origin" in live.ask("GET", "/runs", bad).all("vary")
    preflight = live.ask("OPTIONS", "/runs/x/note", {**good, "Access-Control-Request-Method": "PATCH"})
    assert (preflight.status, preflight.body) == (204, b"")
    assert preflight.header("access-control-allow-methods") == "GET, HEAD, POST, PUT, PATCH, DELETE"
    assert preflight.header("access-control-allow-headers").startswith("Content-Type, Authorization")
    assert live.ask("OPTIONS", "/runs/x/note", {**bad, "Access-Control-Request-Method": "PATCH"}).status == 403
    assert live.ask("POST", "/compare", good, b'{"run_ids": ["x"]}').status == 404
    assert live.ask("POST", "/compare", bad, b'{"run_ids": ["x"]}').status == 403
    assert live.ask("POST", "/compare", {**good, "Content-Type": "text/plain"}, b'{"run_ids": ["x"]}').status == 415


# -- headers and paths -------------------------------------------------------------------------------------------------


def test_every_answer_carries_the_security_headers(server, playground, sends):
    """Pages, JSON, refusals, 404s, 405s and preflights: each header once, and a policy that allows no script."""
    asked = [playground.ask(*given) for given in sends]
    asked += [
        server.get("/nothing"), server.ask("DELETE", "/runs"), server.ask("GET", "/runs", host="evil.example"),
        server.get("/runs?x=1"), server.ask("PATCH", "/runs/run-w/note", {"Origin": "null"}, NOTE),
        server.ask("OPTIONS", "/runs"), server.get("/a/%2e%2e/b"),
        server.ask("POST", "/compare", {"Content-Type": "text/plain"}, b"{}"), server.ask("HEAD", "/"),
    ]  # fmt: skip
    for answer in asked:
        download = bool(answer.all("content-disposition"))
        expected = {**SECURITY, "cache-control": "no-cache"} if download else HEADERS
        assert {name: answer.header(name) for name in expected} == expected, answer
        policy = answer.header("content-security-policy")
        assert policy.startswith("default-src 'none'; ")
        assert "script-src" not in policy
        assert "unsafe" not in policy
        if not download:
            assert policy.endswith("img-src 'self' data:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'")
        assert answer.all("server") == []


@pytest.mark.parametrize(
    ("path", "statuses"),
    [
        ("/artifacts/run-a/download/../../../../etc/passwd", {400}),
        ("/artifacts/run-a/download/..%2f..%2f..%2fetc%2fpasswd", {400}),
        ("/artifacts/run-a/download/%2e%2e/%2e%2e/etc/passwd", {400}),
        ("/artifacts/run-a/download/%252e%252e%252f%252e%252e%252fetc%252fpasswd", {404}),
        ("/artifacts/run-a/download/..%5c..%5cetc", {400}),
        ("/artifacts/run-a/download/..\\..\\etc", {400}),
        ("/artifacts/run-a/download//etc/passwd", {404}),
        ("/artifacts/run-a/download/%2fetc%2fpasswd", {404}),
        ("/artifacts/run-a/download/metrics.csv%00.png", {400}),
        ("/artifacts/run-a/download/%0d%0aSet-Cookie:%20a=b", {400}),
        ("/artifacts/run-a/download/metrics.csv%23", {404}),
        ("/artifacts/run-a/download/%ff%fe", {404}),
        ("/artifacts/run-a/download/", {404}),
        ("/artifacts/run-a/download/.", {404}),
        ("/artifacts/../runs", {400}),
        ("/runs/%2e%2e", {400}),
        ("/runs/..%2frun-a", {400}),
        ("/runs/run-a%00", {400}),
        ("/runs/run-a%0a", {400}),
        ("/runs/%7f", {400}),
        ("/runs/%C2%85", {404}),
        ("/runs/%", {404}),
        ("/runs/%zz", {404}),
        ("/runs/" + "x" * 5000, {404}),
        ("/runs/" + "%F0%9F%A7%AA" * 300, {404}),
        ("//evil.example/runs", {404}),
        ("*", {400}),
        ("runs", {400}),
    ],
)  # fmt: skip
def test_paths_are_decoded_once_and_never_leave(server, path, statuses):
    """Dots, NUL, line breaks and backslashes in a path are refused; nothing is decoded twice; never a 5xx, never a new header."""
    answer = server.get(path)
    assert answer.status in statuses
    assert b"root:" not in answer.body
    assert answer.all("set-cookie") == []


def test_an_endless_header_is_refused(server):
    """The size of request line and headers is bounded by the server."""
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 70_000)
        assert read_answer(connection).status in {400, 431}


def test_a_get_with_a_body_must_be_json_too(server):
    """The Content-Type rule is about bodies, not methods."""
    assert server.ask("GET", "/runs", {"Content-Type": "text/plain"}, b"x").status == 415
    assert server.ask("GET", "/runs", {"Content-Type": "text/plain"}).status == 200


def test_two_content_types_are_none(server):
    """A second Content-Type does not hide the first."""
    head = f"POST /compare HTTP/1.1\r\nHost: {server.host}\r\nConnection: close\r\nContent-Length: 2\r\n"
    assert server.raw(f"{head}Content-Type: application/json\r\nContent-Type: text/plain\r\n\r\n{{}}".encode()).status == 415


def test_a_web_socket_is_refused():
    """There are none: the handshake is closed before it is accepted."""
    from ailab_api.guard import Guard, Rules

    sent = []

    async def send(message):
        sent.append(message["type"])

    asyncio.run(Guard(None, Rules())({"type": "websocket"}, None, send))
    assert sent == ["websocket.close"]


# -- the negative control ----------------------------------------------------------------------------------------------


def test_without_the_guard_all_this_is_answered(start, tmp_path):
    """The same server without its guard answers foreign hosts, pages and types, and sends no policy: the tests above can fail."""
    live = start(dir=tmp_path / "lab", source=UNGUARDED)
    assert live.ask("GET", "/runs", host="evil.example").status == 200
    assert live.get("/runs").all("content-security-policy") == []
    foreign = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site", "Content-Type": "text/plain"}
    answer = live.ask("POST", "/compare", foreign, b'{"run_ids": ["x"]}', host="evil.example")
    assert (answer.status, re.search("no run 'x'", answer.text) is not None) == (404, True)
    assert live.get("/artifacts/x/download/..%2f..%2fetc").status == 404
