"""The guard: stands in front of every route, known or not, and decides from the request line and headers alone.

A request passes only if its path is plain, its Host is one that we answer to (loopback, the address that it came to, or
AILAB_ALLOWED_HOSTS), and, where it may change something or carries a body, it cannot have been sent by a foreign web page: Origin
is ours or allowed by AILAB_CORS_ORIGINS, Sec-Fetch-Site is not foreign, and a body is application/json, which no page may send
across origins without asking first; files alone, at the paths of `UPLOADS`, come as what they are. Then it is known who asks
(`access`), or it is refused; what they may do is decided at the route. A request may last: who reads a long body, or answers for
long, asks again whether that still holds (`catalogue.check_still`). Safe methods are listed and all others guarded, so a new
method is guarded from its first day. Every answer, also a refusal or a 404, leaves with the security headers. Where there are
forwarding headers (X-Forwarded-…), the request counts as one from elsewhere; what they say is believed of the proxies in
AILAB_TRUSTED_PROXIES alone, and what comes from one of those is never local.
"""

from __future__ import annotations

import ipaddress
import math
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from ailab.errors import SettingError

from . import errors
from .access import Actor, Limits, Tokens, address_of, is_local, parse_address, token_in
from .meters import seen_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from litestar.types import ASGIApp, Message, Receive, Send

    from ailab.problems import Problem
    from ailab.settings import Settings

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LOCAL_NAMES = frozenset({"localhost"})
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9](?:[a-z0-9._-]{0,252}))(?::([0-9]{1,5}))?")
_ORIGIN = re.compile(r"(https?)://([^/?#@\s]+)")
_JSON_TYPE = re.compile(r'application/json\s*(?:;\s*charset\s*=\s*"?utf-?8"?\s*)?', re.IGNORECASE)
_UPLOAD_TYPE = re.compile(
    r"(multipart/form-data\s*;.*boundary=.+|application/(octet-stream|x-ndjson|ndjson|jsonl|json|vnd\.apache\.parquet|x-parquet|zip"
    r"|gzip|pdf)|text/(csv|tab-separated-values)|image/[\w.+-]+)\s*(;.*)?",
    re.IGNORECASE,
)
UPLOADS = re.compile(
    r"POST /datasets|POST /artifacts/[^/]+|PUT /(journal|blobs)/[^/]+|POST /api/modellab/(datasets(/upload)?|artifacts/[^/]+)"
)
"""Where a body may be a file: no plain text, which any page may send."""
BODY_MOST = 65 << 30
"""Bytes of a body, wherever it goes; less at most routes."""
OPEN_PATHS = frozenset({"/health"})
"""What answers whoever asks: whether the server is there."""
_REASONS = {
    "path": "path", "Host": "host", "Origin": "origin", "Sec-Fetch-Site": "origin", "Content-Type": "body",
    "Content-Encoding": "body", "Content-Length": "body",
}  # fmt: skip
"""What `meters` call a refusal, by the part of the request that it is about."""
_DEFAULT_PORTS = {"http": 80, "https": 443}

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'{styles}; img-src 'self' data:; form-action 'none'; frame-ancestors 'none'; "
    "base-uri 'none'"
)
SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
CACHE_CONTROL = (b"cache-control", b"no-store")
_ALLOW_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE"


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Authority(msgspec.Struct, frozen=True):
    """A host and a port, in lower case; port None where none was written."""

    host: str
    port: int | None

    @property
    def is_local(self) -> bool:
        """Whether the host is a name or address of this machine's loopback."""
        if self.host in LOCAL_NAMES:
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False


def parse_authority(text: str) -> Authority | None:
    """Read `host[:port]` or `[ipv6][:port]`, any case; None where it is neither."""
    found = _AUTHORITY.fullmatch(text.lower())
    if found is None:
        return None
    port = None if found[2] is None else int(found[2])
    if port is not None and not 0 < port < 1 << 16:
        return None
    return Authority(found[1].removesuffix("."), port)


def parse_origin(text: str) -> tuple[str, Authority] | None:
    """Read `scheme://host[:port]` into scheme and authority with its port filled in; None for `null` and anything else."""
    found = _ORIGIN.fullmatch(text.lower())
    authority = found and parse_authority(found[2])
    if not found or not authority:
        return None
    return found[1], Authority(authority.host, authority.port or _DEFAULT_PORTS[found[1]])


class Rules(msgspec.Struct, frozen=True):
    """Whom the server answers: hosts besides loopback (port None means any port), origins of other web pages, and proxies."""

    hosts: tuple[Authority, ...] = ()
    origins: tuple[tuple[str, Authority], ...] = ()
    proxies: tuple[Network, ...] = ()

    @classmethod
    def load(cls, setting: Settings) -> Rules:
        """Read AILAB_ALLOWED_HOSTS, AILAB_CORS_ORIGINS and AILAB_TRUSTED_PROXIES.

        Raises:
            SettingError: an entry is no host, origin or network; wildcards are none.
        """
        return cls(
            hosts=tuple(
                _entry("AILAB_ALLOWED_HOSTS", text, parse_authority(text), "lab.example or lab.example:8443")
                for text in setting.allowed_hosts
            ),
            origins=tuple(
                _entry("AILAB_CORS_ORIGINS", text, parse_origin(text), "https://lab.example") for text in setting.cors_origins
            ),
            proxies=tuple(
                _entry("AILAB_TRUSTED_PROXIES", text, _network(text), "127.0.0.1 or 10.0.0.0/8")
                for text in setting.trusted_proxies
            ),
        )

    def is_proxy(self, address: str) -> bool:
        """Whether an address is a proxy's that we trust."""
        found = parse_address(address)
        return found is not None and any(found in network for network in self.proxies)

    @property
    def forwarders(self) -> list[str]:
        """The proxies as uvicorn takes them: IPv4 also as a socket for IPv6 writes it."""
        mapped = [f"::ffff:{n.network_address}/{96 + n.prefixlen}" for n in self.proxies if n.version == 4]  # noqa: PLR2004
        return [*map(str, self.proxies), *mapped]

    def allows_host(self, host: Authority) -> bool:
        """Whether the server goes by this name."""
        return host.is_local or any(host.host == h.host and h.port in {None, host.port} for h in self.hosts)


def is_address(host: Authority, address: str) -> bool:
    """Whether a host is written as this address: no name, so none that somebody else may point to us."""
    try:
        return ipaddress.ip_address(host.host.strip("[]")) == ipaddress.ip_address(address)
    except ValueError:
        return False


def _network(text: str) -> Network | None:
    try:
        found = ipaddress.ip_network(text)
    except ValueError:
        return None
    return found if found.prefixlen else None  # all addresses are a wildcard


def _entry(name: str, text: str, found: Any, example: str) -> Any:
    if found is None:
        raise SettingError(
            f"{name}: {text[:100]!r} is not allowed", hint=f"allowed: entries such as {example}, separated by commas"
        )
    return found


class Guard:
    """ASGI middleware; `rules` may be replaced while it runs.

    Args:
        app: what is guarded.
        rules: whom to answer.
        styles: hashes of the pages' style sheets, as a Content-Security-Policy has them.
    """

    def __init__(self, app: ASGIApp, rules: Rules, *, styles: tuple[str, ...] = ()) -> None:
        self.app = app
        self.rules = rules
        self.tokens: Tokens | None = None
        self.limits = Limits()
        policy = CONTENT_SECURITY_POLICY.format(styles="".join(f" '{style}'" for style in styles))
        self._headers = [(b"content-security-policy", policy.encode()), *SECURITY]

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Refuse the request, answer it where it is a preflight, or let it through."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "no web sockets here"})
            return
        request = _Request(scope)
        allowed_origin = request.origin if self._is_allowed_origin(request) else None

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*self._complete(list(message["headers"]), allowed_origin)]
            await send(message)

        refusal = self._refusal(request)
        if refusal is not None:
            seen_of(scope).refused = _REASONS[str(refusal.where)]
            await refuse(send_guarded, refusal)
            return
        if request.is_preflight:
            await send_guarded({"type": "http.response.start", "status": 204, "headers": _preflight_headers()})
            await send_guarded({"type": "http.response.body", "body": b"", "more_body": False})
            return
        actor = self._identify(request)
        if isinstance(actor, Actor):
            scope["ailab_actor"] = actor
            await self.app(scope, receive, send_guarded)
        else:
            seen_of(scope).refused = "token" if actor[0].status == HTTPStatus.UNAUTHORIZED else "guesses"
            await refuse(send_guarded, *actor)

    def _identify(self, request: _Request) -> Actor | tuple[Problem, list[tuple[bytes, bytes]]]:
        """Who asks, or why nobody is known and what headers tell them."""
        host = parse_authority(request.all("host")[0])
        address = address_of(request.scope)
        nobody = Actor(role="none", address=address)
        text = token_in(request.all("authorization"))
        if text is None:
            is_here = is_local(request.scope, request.headers, host_is_local=host is not None and host.is_local)
            if is_here and not self.rules.is_proxy(address):
                return Actor(role="admin", address=address)
            if request.path in OPEN_PATHS:
                return nobody
            hint = "send Authorization: Bearer TOKEN; `ailab token create` makes one"
            return request.problem(401, "a token is needed", where="Authorization", hint=hint), _CHALLENGE
        guess = self.tokens is None or not text or self.tokens.is_guess(text, address)
        wait = self.limits.is_spent(nobody, "failures") if guess else None
        if wait is not None:
            refusal = request.problem(429, "too many tokens that are none", where="Authorization", hint=f"wait {wait:.0f} s")
            return refusal, retry_after(wait)
        found = self.tokens.find(text, address) if self.tokens is not None and text else None
        if found is None:
            if guess:
                self.limits.take(nobody, "failures")
            return request.problem(401, "the token does not count", where="Authorization", hint=_REVOKED), _CHALLENGE
        return found

    def still_knows(self, scope: Any) -> bool:
        """Whether whoever sent a request that was let in would be the same if it came now; so is who showed no token.

        Raises:
            StoreError: that cannot be looked up now.
        """
        who: Actor = scope["ailab_actor"]
        return who.anonymous or self._identify(_Request(scope)) == who

    def _complete(self, headers: list[tuple[bytes, bytes]], origin: str | None) -> list[tuple[bytes, bytes]]:
        there = {name.lower() for name, _ in headers}
        headers += [(name, value) for name, value in (*self._headers, CACHE_CONTROL) if name not in there]
        if self.rules.origins:
            headers.append((b"vary", b"Origin"))
        if origin is not None:
            headers += [
                (b"access-control-allow-origin", origin.encode()),
                (
                    b"access-control-expose-headers",
                    b"X-Total-Count, ETag, Link, Location, Retry-After, Content-Range, X-Position, X-Cursor",
                ),
            ]
        return headers

    def _is_allowed_origin(self, request: _Request) -> bool:
        parsed = parse_origin(request.origin) if request.origin is not None else None
        return parsed is not None and parsed in self.rules.origins

    def _refusal(self, request: _Request) -> Problem | None:
        """The first rule that the request breaks."""
        return (
            request.path_problem() or self._host_problem(request) or self._page_problem(request)
            or request.length_problem() or request.body_problem()
        )  # fmt: skip

    def _host_problem(self, request: _Request) -> Problem | None:
        hosts = request.all("host")
        if len(hosts) != 1:
            return request.problem(400, f"{len(hosts)} Host headers", where="Host", hint="exactly one is needed")
        host = parse_authority(hosts[0])
        if host is None:
            return request.problem(400, f"Host {hosts[0][:100]!r} does not parse", where="Host")
        server = request.scope.get("server")
        if not self.rules.allows_host(host) and not (server and is_address(host, str(server[0]))):
            hint = "allowed: localhost, 127.0.0.1, [::1], the address it is reached at, and names in AILAB_ALLOWED_HOSTS"
            return request.problem(421, f"this server does not go by {hosts[0][:100]!r}", where="Host", hint=hint)
        return None

    def _page_problem(self, request: _Request) -> Problem | None:
        """Why a request that may change something could come from a foreign page."""
        origins, sites = request.all("origin"), request.all("sec-fetch-site")
        if request.method in SAFE_METHODS and not request.is_preflight:
            return None
        if self._is_allowed_origin(request) and len(origins) == 1:
            return None
        if origins and not (len(origins) == 1 and self._is_same_origin(request, origins[0])):
            hint = "pages of other origins are listed in AILAB_CORS_ORIGINS"
            return request.problem(403, f"Origin {origins[0][:100]!r} is not this server", where="Origin", hint=hint)
        if any(site.lower() not in {"same-origin", "none"} for site in sites):
            return request.problem(403, "a page of another site sent this", where="Sec-Fetch-Site")
        return None

    @staticmethod
    def _is_same_origin(request: _Request, text: str) -> bool:
        origin, host = parse_origin(text), parse_authority(request.all("host")[0])
        if origin is None or host is None:
            return False
        scheme, authority = origin
        return authority == Authority(host.host, host.port or _DEFAULT_PORTS[scheme])


class _Request:
    """What the guard looks at: method, path and headers of one request."""

    def __init__(self, scope: Any) -> None:
        self.scope = scope
        self.method = str(scope["method"]).upper()
        self.path = str(scope["path"])
        self.headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            self.headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1").strip())

    def all(self, name: str) -> list[str]:
        """Every value of a header, name in lower case."""
        return self.headers.get(name, [])

    @property
    def origin(self) -> str | None:
        """The Origin header, if there is exactly one."""
        found = self.all("origin")
        return found[0] if len(found) == 1 else None

    @property
    def is_preflight(self) -> bool:
        """Whether a browser asks on behalf of a page of another origin."""
        return self.method == "OPTIONS" and "origin" in self.headers and "access-control-request-method" in self.headers

    def problem(self, status: int, detail: str, *, where: str | None = None, hint: str | None = None) -> Problem:
        """A refusal of this request."""
        return errors.problem(status, detail, instance=errors.instance_of(self.scope), where=where, hint=hint)

    def path_problem(self) -> Problem | None:
        """Why the path is not plain; it was percent-decoded once, by the server, and is not decoded again."""
        if not self.path.startswith("/"):
            return self.problem(400, "the path does not begin with /", where="path")
        if any(c < " " or c in "\x7f\\" for c in self.path):
            return self.problem(400, "a control character or backslash in the path", where="path")
        if ".." in self.path.split("/"):
            return self.problem(400, "'..' in the path", where="path")
        return None

    def length_problem(self) -> Problem | None:
        """Why the body is larger than any may be."""
        lengths = [length for length in self.all("content-length") if length.isdecimal() and int(length) > BODY_MOST]
        return self.problem(413, f"a body of {lengths[0][:40]} bytes", where="Content-Length") if lengths else None

    def body_problem(self) -> Problem | None:
        """Why the body's type is not allowed, or its encoding, which nobody would undo; a request without a body needs none."""
        lengths = self.all("content-length")
        if "transfer-encoding" not in self.headers and all(length == "0" for length in lengths):
            return None
        encodings = [encoding for encoding in self.all("content-encoding") if encoding.lower() != "identity"]
        if encodings:
            said = ", ".join(encodings)[:100]
            return self.problem(415, f"Content-Encoding: {said}", where="Content-Encoding", hint="send the body as it is")
        types = self.all("content-type")
        if len(types) == 1 and _JSON_TYPE.fullmatch(types[0]):
            return None
        is_upload = UPLOADS.fullmatch(f"{self.method} {self.path}") is not None
        if is_upload and len(types) == 1 and _UPLOAD_TYPE.fullmatch(types[0]):
            return None
        if is_upload:
            hint = "send multipart/form-data, or the file as application/octet-stream or what it is"
            return self.problem(415, f"Content-Type: {', '.join(types)[:100] or 'none'}", where="Content-Type", hint=hint)
        said = ", ".join(types)[:100] or "none"
        return self.problem(415, f"Content-Type: {said}", where="Content-Type", hint="send Content-Type: application/json")


def _preflight_headers() -> list[tuple[bytes, bytes]]:
    return [
        (b"access-control-allow-methods", _ALLOW_METHODS),
        (b"access-control-allow-headers", b"Content-Type, Authorization, Last-Event-ID, If-None-Match, Range"),
        (b"access-control-max-age", b"600"),
    ]


def retry_after(seconds: float) -> list[tuple[bytes, bytes]]:
    """The header that says when to come again."""
    return [(b"retry-after", str(max(1, math.ceil(seconds))).encode())]


_REVOKED = "it may be revoked, or is not sent as Authorization: Bearer TOKEN"
_CHALLENGE = [(b"www-authenticate", one.encode()) for one in errors.CHALLENGES]


async def refuse(send: Send, refusal: Problem, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """Answer with a problem, and more headers than every answer has."""
    content = errors.encode(refusal)
    headers = [(b"content-type", errors.MEDIA_TYPE.encode()), (b"content-length", str(len(content)).encode()), *more]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": False})
